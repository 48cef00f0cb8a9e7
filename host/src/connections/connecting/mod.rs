//! A person's way to a connection: begun, answered, completed.
//!
//! [`Connecting::begin`] writes down where a browser is sent and for whom, [`Connecting::answer`] takes what comes back,
//! [`Connecting::submit`] takes values for headers instead. Who may use what is asked of the snapshot when a way begins and,
//! inside the transaction, when it ends; nothing is decided on a copy that is older than the store. Refusals are values
//! in words of ours: what an authorization server or an upstream says about one goes nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use super::issuer::Issuer;
use crate::audit::Actor;
use crate::config::{self, UpstreamAuth};
use crate::connection::lending::Kind;
use crate::connection::{Access, Connection, Credential, End, Holder, Origin, Place, Standing, Stands, Takes};
use crate::env::{Env, Timestamp};
use crate::ids::{Principal, UpstreamName, UserTag};
use crate::pipeline::Snapshot;
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::changes::Revision;
use crate::store::connections::{self, Disconnection, Filter, Listed};
use crate::store::{Store, StoreError, links};
use crate::tasks::Tasks;
use crate::vault::{Vault, VaultError};

mod answering;
mod beginning;
mod headers;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trial;

pub use answering::{Answer, Connected, NotConnected, Why};
pub use beginning::{Ahead, Beginner, Begun, NotBegun};
pub use headers::{NotStored, Stored};
pub use trial::AtUpstream;

/// Whether a holder may use an upstream, by a snapshot.
pub type MayUse = Arc<dyn Fn(&Snapshot, &Place) -> Access + Send + Sync>;
/// The revision of the store that the snapshot is of, or an earlier one.
pub type RevisionOf = Arc<dyn Fn() -> Revision + Send + Sync>;

/// How often something is tried again that was decided on a snapshot older than the store.
const TRIES: u32 = 8;
/// First pause before it is, doubled with each, for the snapshot to catch up.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LAST_PAUSE: Duration = Duration::from_millis(800);
/// Connections of one holder that are read at a time, and how often.
const PAGE: usize = 200;
const PAGES: usize = 5;

/// Tries values for headers at their upstream.
pub trait Trial: fmt::Debug + Send + Sync {
    /// Whether the upstream takes these headers, in lower case, from somebody who begins to speak MCP with it.
    ///
    /// # Errors
    /// [`Failed`].
    fn try_headers<'a>(
        &'a self,
        upstream: &'a config::Upstream,
        headers: &'a BTreeMap<String, Plaintext>,
    ) -> BoxFuture<'a, Result<(), Failed>>;
}

/// An upstream did not take what was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// With which status. `None` if it could not be asked, or did not answer as MCP servers do.
    pub status: Option<u16>,
}

/// What [`Connecting`] is made of.
pub struct Parts {
    pub env: Env,
    pub store: Store,
    pub vault: Vault,
    /// For what comes back with the parameter `state`.
    pub secret: DeploymentSecret,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub may_use: MayUse,
    pub revision: RevisionOf,
    pub issuer: Arc<dyn Issuer>,
    pub trial: Arc<dyn Trial>,
    pub public_url: String,
    /// For what has to come to its end though the browser is gone.
    pub tasks: Tasks,
}

/// The ways to connections.
pub struct Connecting(Parts);

/// What kept something from being decided.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the store does not answer")]
    Store(#[from] StoreError),
    #[error("the vault does not answer")]
    Vault(#[from] VaultError),
    /// It is not known who may use what: others change it faster than it is read.
    #[error("the snapshot is older than the store")]
    Outdated,
    /// The gateway stops.
    #[error("the work was cut short")]
    Cut,
}

/// How things stand at a place whose upstream asks something of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    pub place: Place,
    /// What the upstream takes now; `None` where it takes nothing of a holder's own any more, or is gone.
    pub kind: Option<Kind>,
    pub access: Access,
    /// `None` where there is no connection, or one of another kind.
    pub standing: Option<Standing>,
    /// Names of headers that are stored.
    pub stored: Vec<String>,
    /// When the secrets were stored.
    pub since: Option<Timestamp>,
}

/// A snapshot with a revision that it is no older than.
struct Pinned {
    of: Revision,
    snapshot: Arc<Snapshot>,
    may_use: MayUse,
}

impl Pinned {
    fn access(&self, place: &Place) -> Access {
        (self.may_use)(&self.snapshot, place)
    }

    /// The same for a transaction.
    fn may_use(&self) -> impl Fn(&Place) -> Access + Send + Sync + 'static {
        let (snapshot, may_use) = (self.snapshot.clone(), self.may_use.clone());
        move |place| may_use(&snapshot, place)
    }

    fn upstream(&self, name: &UpstreamName) -> Option<&config::Upstream> {
        self.snapshot.upstreams.get(name).map(|upstream| upstream.settings())
    }

    /// What an upstream takes of this holder's own, and where.
    fn takes(&self, place: &Place) -> Option<Takes> {
        takes(self.upstream(&place.upstream)?, &place.holder)
    }

    /// What an upstream takes of this holder's own.
    fn kind(&self, place: &Place) -> Option<Kind> {
        self.takes(place).map(|takes| takes.kind)
    }

    fn origin(&self, place: &Place) -> Option<Origin> {
        self.upstream(&place.upstream).map(config::Upstream::origin)
    }

    fn stand(&self, place: Place, connection: Option<&Connection>) -> Stand {
        let (takes, access) = (self.takes(&place), self.access(&place));
        let standing = connection.and_then(|connection| {
            let Stands { standing, .. } = connection.stands(access, takes.as_ref());
            // Where the upstream takes another kind, there is no connection as far as anybody is concerned.
            (standing != Standing::Unused || takes.is_none()).then_some(standing)
        });
        // What was given for where the upstream was is to be given anew.
        let is_here = |connection: &&Connection| takes.as_ref().is_none_or(|takes| !connection.is_moved(&takes.origin));
        let stored = match connection.filter(is_here).map(|connection| &connection.credential) {
            Some(Credential::Headers { names, .. }) => names.clone(),
            Some(Credential::OAuth(_)) | None => Vec::new(),
        };
        let kind = takes.map(|takes| takes.kind);
        Stand { place, kind, access, standing, stored, since: connection.map(|connection| connection.stored) }
    }
}

/// What an upstream takes of a holder's own, as it is configured.
pub fn takes(upstream: &config::Upstream, holder: &Holder) -> Option<Takes> {
    Some(Takes { kind: kind_of(upstream, holder)?, origin: upstream.origin() })
}

fn kind_of(upstream: &config::Upstream, holder: &Holder) -> Option<Kind> {
    match (&upstream.auth, holder) {
        (UpstreamAuth::PerUserOAuth(_), Holder::Of(_)) | (UpstreamAuth::SharedOAuth(_), Holder::Shared) => {
            Some(Kind::OAuth)
        }
        (UpstreamAuth::TokenExchange(_), Holder::Of(Principal::Gateway)) => Some(Kind::OAuth),
        (UpstreamAuth::PerUserHeaders(names), Holder::Of(_)) => Some(Kind::Headers(names.clone())),
        (UpstreamAuth::PerUserEnvironment { names, .. }, Holder::Of(_)) => Some(Kind::Variables(names.clone())),
        _ => None,
    }
}

impl Connecting {
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self(parts))
    }

    /// What things are decided on now. The revision is read first, so that the snapshot is no older.
    fn pinned(&self) -> Pinned {
        let of = (self.0.revision)();
        Pinned { of, snapshot: self.0.snapshot.load_full(), may_use: self.0.may_use.clone() }
    }

    /// Waits for the snapshot to catch up. `tries` are those that were made.
    ///
    /// # Errors
    /// [`Fault::Outdated`] after the last.
    async fn catch_up(tries: u32) -> Result<(), Fault> {
        if tries >= TRIES {
            return Err(Fault::Outdated);
        }
        tokio::time::sleep(FIRST_PAUSE.saturating_mul(1 << tries).min(LAST_PAUSE)).await;
        Ok(())
    }

    /// Whose connection it is that `principal` makes: the gateway makes the one for all where there is one for all.
    pub fn holder(&self, principal: Principal, upstream: &UpstreamName) -> Holder {
        let snapshot = self.0.snapshot.load();
        let auth = snapshot.upstreams.get(upstream).map(|upstream| &upstream.settings().auth);
        match (&principal, auth) {
            (Principal::Gateway, Some(UpstreamAuth::SharedOAuth(_))) => Holder::Shared,
            _ => Holder::Of(principal),
        }
    }

    /// How things stand at a place. `None` where there is no such upstream, or none that asks something of the holder.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn look(&self, place: &Place) -> Result<Option<Stand>, Fault> {
        let pinned = self.pinned();
        if pinned.kind(place).is_none() {
            return Ok(None);
        }
        let connection = connections::get(&self.0.store, place).await?;
        Ok(Some(pinned.stand(place.clone(), connection.as_ref())))
    }

    /// How things stand at all upstreams that ask something of a holder who may use them, and wherever else there is a
    /// connection, by their names. Of very many connections, those are left out that come last.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn look_at_all(&self, holder: &Holder) -> Result<Vec<Stand>, Fault> {
        let pinned = self.pinned();
        let mut there: BTreeMap<UpstreamName, Connection> = BTreeMap::new();
        let mut after = None;
        for _ in 0..PAGES {
            let filter = Filter { holder: Some(holder.clone()), ..Filter::default() };
            let page = connections::list(&self.0.store, filter, pinned.may_use(), after, PAGE).await?;
            let connections = page.items.into_iter().map(|Listed { connection, .. }| connection);
            there.extend(connections.map(|connection| (connection.place.upstream.clone(), connection)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut names: Vec<UpstreamName> = pinned.snapshot.upstreams.keys().chain(there.keys()).cloned().collect();
        names.sort();
        names.dedup();
        let stands = names.into_iter().map(|upstream| {
            let connection = there.get(&upstream);
            pinned.stand(Place { holder: holder.clone(), upstream }, connection)
        });
        Ok(stands
            .filter(|stand| stand.since.is_some() || (stand.kind.is_some() && stand.access.is_granted()))
            .collect())
    }

    /// Whom the audit trail has for what is done at a place in this browser: the person themselves, or the operator who had
    /// the link made that the browser has opened.
    async fn actor_of(&self, place: &Place, browser: Digest) -> Result<Actor, StoreError> {
        let principal = principal_of(&place.holder);
        if let Principal::User(id) = principal {
            return Ok(Actor::User(UserTag::from(id)));
        }
        let link = links::of_browser(&self.0.store, browser, &place.upstream, None).await?;
        Ok(link.filter(|link| link.principal == *principal).and_then(|link| link.by).unwrap_or(Actor::System))
    }

    /// Ends a connection, for its holder.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn disconnect(&self, place: &Place, actor: Actor) -> Result<Disconnection, StoreError> {
        connections::disconnect(&self.0.store, place, End::Disconnected, actor).await
    }
}

/// As whom a holder connects: the gateway makes what all share.
fn principal_of(holder: &Holder) -> &Principal {
    match holder {
        Holder::Shared => &Principal::Gateway,
        Holder::Of(principal) => principal,
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").field("issuer", &self.0.issuer).finish_non_exhaustive()
    }
}
