//! The keeper: opens, renews, lends and ends connections.
//!
//! [`Keeper`] is the [`Lender`] of the gateway. Whether a holder may use an upstream is asked each time, of the snapshot as it
//! is then, and once more after whatever was waited for. What was opened is [`kept`] in memory for a while; what it is worth
//! for a wish is [`judging`]. [`renewing`] asks the authorization server, [`refused`] hears that an upstream would not have
//! what was lent, [`ahead`] renews what will end soon, [`ending`] disconnects. [`exchanging`] has tokens that nobody connects.
//!
//! Invariants: a credential goes out for its own place only; what is renewed is in the store before it is used; a fault of the
//! store, the vault or an authorization server is never a loss: what is stored stays.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use moka::sync::Cache;
use tokio::sync::{Notify, watch};

use crate::audit::Actor;
use crate::connection::lending::{Kind, Lack, Lender, Lent, Rejected, Wanted, Withheld};
use crate::connection::{Access, Origin, Place};
use crate::connections::issuer::Issuer;
use crate::env::Env;
use crate::ids::{ConnectionId, ReplicaId, UpstreamName};
use crate::pipeline::Snapshot;
use crate::store::connections::{self, Mark, Trouble};
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::telemetry::Grid;
use crate::vault::{Vault, VaultError};

mod ahead;
mod breaker;
mod ending;
mod exchanging;
mod flights;
mod following;
mod judging;
mod kept;
mod opening;
mod refused;
mod renewing;
#[cfg(test)]
mod tests;

use breaker::Breaker;
use exchanging::Exchanging;
use flights::Flights;
use judging::{Verdict, judge};
use kept::{Generation, Kept, Opened};
use opening::Found;
use renewing::Renewal;

/// How long a request waits until what changed here is taken in.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often one wish looks at a connection that changes all the while.
const LOOKS: usize = 8;
/// Header credentials that are remembered to have been refused.
const MAX_REFUSALS: u64 = 4_096;

/// Whether a holder may use an upstream, by what is in force.
pub type MayUse = Arc<dyn Fn(&Snapshot, &Place) -> Access + Send + Sync>;

/// What a keeper is made of.
pub struct Parts {
    pub env: Env,
    pub store: Store,
    pub vault: Vault,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub may_use: MayUse,
    pub issuer: Arc<dyn Issuer>,
    /// Who asks for leases of refreshes, for people to read.
    pub replica: ReplicaId,
    /// Whoever stops them waits for refreshes that are under way.
    pub tasks: Tasks,
}

/// Keeps credentials and lends them. Clones are the same.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

struct Inner {
    env: Env,
    store: Store,
    vault: Vault,
    snapshot: Arc<ArcSwap<Snapshot>>,
    may_use: MayUse,
    issuer: Arc<dyn Issuer>,
    replica: ReplicaId,
    tasks: Tasks,
    kept: Kept,
    /// Reads of the store, each as of what was known when it began.
    reads: Flights<(Place, Generation), Found>,
    /// Renewals, each of the secrets of one revision.
    renewals: Flights<(Place, u64), Renewal>,
    breaker: Breaker,
    /// Tokens that are exchanged, and never stored.
    exchanging: Exchanging,
    /// Header credentials that an upstream refused within the last minute, by the revision.
    refusals: Cache<Place, (ConnectionId, u64)>,
    /// Counts what was told of connections.
    told: watch::Sender<u64>,
    /// Something was left to be revoked.
    left: Notify,
    counts: Counts,
}

/// What a keeper has done, for operators.
#[derive(Debug)]
pub struct Counts {
    lookups: Grid<1>,
    renewals: Grid<1>,
}

impl Counts {
    fn new() -> Self {
        let renewals = Grid::new([&["done", "later", "lost", "fault"]]);
        Self { lookups: Grid::new([&["hit", "miss"]]), renewals }
    }

    /// Looks for an opened credential in memory: `hit` or `miss`.
    pub fn lookups(&self) -> Vec<([&'static str; 1], u64)> {
        self.lookups.read()
    }

    /// Renewals: `done`, put off until `later`, `lost` for good, or prevented by a `fault` of ours.
    pub fn renewals(&self) -> Vec<([&'static str; 1], u64)> {
        self.renewals.read()
    }
}

impl Keeper {
    /// Somebody has to have it follow the changes of the store, from before this on.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { env, store, vault, snapshot, may_use, issuer, replica, tasks } = parts;
        let refusals = Cache::builder().max_capacity(MAX_REFUSALS).time_to_live(refused::MINUTE).build();
        Arc::new(Self(Arc::new(Inner {
            env,
            store,
            vault,
            snapshot,
            may_use,
            issuer,
            replica,
            kept: Kept::new(),
            reads: Flights::new(tasks.clone()),
            renewals: Flights::new(tasks.clone()),
            exchanging: Exchanging::new(tasks.clone()),
            tasks,
            breaker: Breaker::default(),
            refusals,
            told: watch::Sender::new(0),
            left: Notify::new(),
            counts: Counts::new(),
        })))
    }

    /// What it has done so far.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Begins to renew ahead of time and to revoke what is left of ended connections, until its tasks are stopped.
    pub fn start(&self) {
        self.0.tasks.spawn(self.clone().keep_ahead());
        self.0.tasks.spawn(self.clone().keep_revoking());
    }

    /// The credential of a place, once it was waited for what is asked for it.
    async fn find(&self, wanted: &Wanted) -> Result<Arc<Lent>, Withheld> {
        // That it could not be renewed, or that it was and is to be renewed again: nobody asks in a circle.
        let mut tried = None;
        for _ in 0..LOOKS {
            let opened = self.look(&wanted.place).await?;
            match judge(&opened, wanted, self.0.env.now()) {
                Verdict::Lend(lent) => return Ok(lent),
                Verdict::Withhold(withheld) => return Err(withheld),
                Verdict::Mark(trouble, lack) => {
                    if self.mark(&opened.lent, trouble).await? {
                        return Err(Withheld::Missing(lack));
                    }
                }
                Verdict::Renew { otherwise } => match tried.take() {
                    Some(withheld) => return otherwise.ok_or(withheld),
                    // What works still is looked at once more: it took a while.
                    None => tried = Some(self.renewed(&opened).await.withheld()?),
                },
            }
        }
        tracing::warn!(place = %wanted.place, "a connection changes faster than it can be lent");
        Err(Withheld::Fault)
    }

    /// The credential of a place as it is stored now, opened.
    async fn look(&self, place: &Place) -> Result<Arc<Opened>, Withheld> {
        for _ in 0..LOOKS {
            self.0.store.caught_up(PATIENCE).await.map_err(|error| store_fault(&error))?;
            self.check_access(place)?;
            let generation = self.0.kept.generation(place);
            if let Some(opened) = self.0.kept.get(place) {
                self.0.counts.lookups.count(["hit"]);
                return Ok(opened);
            }
            self.0.counts.lookups.count(["miss"]);
            let found = self.read(place, generation).await;
            // It may have been taken away while it was read.
            self.check_access(place)?;
            match found {
                Found::Fault => return Err(Withheld::Fault),
                // What was read may not be there any more.
                _ if self.0.kept.generation(place) != generation => {}
                Found::Absent => return Err(Withheld::Missing(Lack::NotConnected)),
                Found::Lacking(lack) => return Err(Withheld::Missing(lack)),
                Found::Opened(opened) => return Ok(opened),
            }
        }
        tracing::warn!(%place, "a connection changes faster than it can be read");
        Err(Withheld::Fault)
    }

    fn check_access(&self, place: &Place) -> Result<(), Withheld> {
        let is_granted = self.may_use(place).is_granted();
        if is_granted { Ok(()) } else { Err(Withheld::Missing(Lack::NotConnected)) }
    }

    fn may_use(&self, place: &Place) -> Access {
        (self.0.may_use)(&self.0.snapshot.load(), place)
    }

    /// Where an upstream is reached now, if there is one of this name.
    fn origin_of(&self, upstream: &UpstreamName) -> Option<Origin> {
        self.0.snapshot.load().upstreams.get(upstream).map(|upstream| upstream.settings().origin())
    }

    /// Has lists show what is wrong with what was lent. Whether that is said of what is stored: if other secrets were stored
    /// meanwhile, nothing is said of them.
    async fn mark(&self, lent: &Lent, trouble: Trouble) -> Result<bool, Withheld> {
        let marked = self.mark_at(&lent.place, lent.revision, trouble).await.map_err(|error| store_fault(&error))?;
        Ok(matches!(marked, Mark::Marked | Mark::Unchanged))
    }

    async fn mark_at(&self, place: &Place, revision: u64, trouble: Trouble) -> Result<Mark, StoreError> {
        let marked = connections::mark(&self.0.store, place, revision, trouble.clone(), Actor::System).await;
        self.0.kept.forget(place);
        let marked = marked?;
        if marked == Mark::Marked {
            tracing::warn!(%place, ?trouble, "a connection does not work any more");
        }
        Ok(marked)
    }
}

impl Lender for Keeper {
    fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        match wanted.kind {
            Kind::Exchanged => Box::pin(self.find_exchanged(wanted)),
            Kind::OAuth | Kind::Headers(_) | Kind::Variables(_) => Box::pin(self.find(wanted)),
        }
    }

    fn rejected<'a>(
        &'a self,
        wanted: &'a Wanted,
        lent: &'a Lent,
        why: &'a Rejected,
    ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        match wanted.kind {
            Kind::Exchanged => Box::pin(self.hear_exchanged_refused(wanted, lent, why)),
            Kind::OAuth | Kind::Headers(_) | Kind::Variables(_) => Box::pin(self.hear_refused(wanted, lent, why)),
        }
    }
}

/// What whoever wanted something of a store that failed is told.
fn store_fault(error: &StoreError) -> Withheld {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(error, "a credential is not lent while the store does not answer");
    Withheld::Fault
}

fn tell_vault_fault(error: &VaultError) {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(error, "a credential is not lent while the vault does not answer");
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}
