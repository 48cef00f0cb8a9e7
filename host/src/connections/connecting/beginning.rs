//! How a way begins: a flow in the store, and the address that the browser is sent to.

use std::fmt;

use super::state::{self, MAX_NEXT};
use super::{Connecting, Fault, Pinned};
use crate::connection::lending::Kind;
use crate::connection::{Origin, Place};
use crate::connections::issuer::{Asked, NoWay, Way};
use crate::identity::TokenList;
use crate::ids::{ConnectionId, FlowId, UserId};
use crate::secret::{Digest, Plaintext};
use crate::store::connections;
use crate::store::flows::{self, Beginning, MAX_LIFE, NewFlow, verifier_at};

/// Where answers come to, without what tells contexts apart.
const CALLBACK: &str = "/connect/callback";
/// How often another state is drawn where one is taken, by a chance of one in 2^256.
const DRAWS: usize = 2;

/// Who begins a way, where.
#[derive(Clone, Debug)]
pub struct Beginner {
    pub place: Place,
    /// Of the cookie of their browser.
    pub browser: Digest,
    /// Who is signed in there, if the connection is a person's.
    pub user: Option<UserId>,
}

/// A way that is begun.
#[derive(Clone)]
pub struct Begun {
    /// Where the browser is sent. It has secrets in it.
    pub url: String,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What is known of a way before it is begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The authorization server.
    pub issuer: String,
    /// The origin of the address that the browser would be sent to.
    pub origin: String,
}

/// Why no way was begun.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    /// There is no such upstream, or it takes no tokens of the holder's own.
    #[error("there is nothing to connect")]
    Nothing,
    #[error("the upstream may not be used")]
    NoAccess,
    /// The holder has [`flows::MAX_OPEN`] under way.
    #[error("too many connections are being made")]
    TooMany,
    #[error(transparent)]
    NoWay(#[from] NoWay),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Connecting {
    /// Begins a way to a connection, with these scopes besides those that it has. The browser goes on to the path `next`
    /// when it is back.
    ///
    /// # Errors
    /// [`NotBegun`].
    pub async fn begin(&self, beginner: Beginner, scopes: &[String], next: Option<&str>) -> Result<Begun, NotBegun> {
        debug_assert!(next.is_none_or(|next| next.len() <= MAX_NEXT), "paths to go on to are our own");
        for _ in 0..DRAWS {
            let state = state::new(&self.0.env, &self.0.secret, next);
            if let Some(begun) = self.begin_as(&beginner, scopes, &state).await? {
                return Ok(begun);
            }
        }
        Err(NotBegun::TooMany)
    }

    /// `None` if there is another flow with the same state.
    async fn begin_as(
        &self,
        beginner: &Beginner,
        scopes: &[String],
        state: &Plaintext,
    ) -> Result<Option<Begun>, NotBegun> {
        let Beginner { place, browser, user } = beginner;
        let pinned = self.pinned();
        let origin = pinned.origin(place);
        let scopes = self.with_those_it_has(place, origin.as_ref(), scopes).await?;
        let verifier = state::random(&self.0.env);
        let way = self.way(&pinned, place, (state, &verifier), &scopes).await?;
        let Way { url, source, redirect, scopes } = way;
        let id = FlowId::generate(&self.0.env);
        let sealed = self.0.vault.seal(&verifier_at(place, &id), verifier.expose().as_bytes()).await;
        let flow = NewFlow {
            id,
            state: state.digest(),
            place: place.clone(),
            connection: ConnectionId::generate(&self.0.env),
            origin,
            issuer: source.issuer,
            client: source.client,
            redirect,
            verifier: sealed.map_err(Fault::from)?,
            scopes,
            browser: *browser,
            user: user.clone(),
            life: MAX_LIFE,
        };
        // Access may have gone while the authorization server was asked.
        match flows::begin(&self.0.store, flow, self.pinned().may_use()).await.map_err(Fault::from)? {
            Beginning::Begun(_) => Ok(Some(Begun { url })),
            Beginning::NoAccess => Err(NotBegun::NoAccess),
            Beginning::TooMany => Err(NotBegun::TooMany),
            Beginning::Taken => Ok(None),
            Beginning::TooLarge => {
                Err(NoWay::Unfit { what: "the authorization server's addresses are too long" }.into())
            }
        }
    }

    /// Where a way would lead. Nothing is begun.
    ///
    /// # Errors
    /// [`NotBegun`].
    pub async fn ahead(&self, place: &Place) -> Result<Ahead, NotBegun> {
        let (state, verifier) = (state::random(&self.0.env), state::random(&self.0.env));
        let way = self.way(&self.pinned(), place, (&state, &verifier), &[]).await?;
        let origin = origin(&way.url).ok_or(NoWay::Unfit { what: "the authorization server has no usable address" })?;
        Ok(Ahead { issuer: way.source.issuer, origin })
    }

    async fn way(
        &self,
        pinned: &Pinned,
        place: &Place,
        (state, verifier): (&Plaintext, &Plaintext),
        scopes: &[String],
    ) -> Result<Way, NotBegun> {
        let Some(upstream) = pinned.upstream(&place.upstream) else { return Err(NotBegun::Nothing) };
        if pinned.kind(place) != Some(Kind::OAuth) {
            return Err(NotBegun::Nothing);
        }
        if !pinned.access(place).is_granted() {
            return Err(NotBegun::NoAccess);
        }
        let callback = format!("{}{CALLBACK}", self.0.public_url.trim_end_matches('/'));
        let way = self.0.issuer.way(Asked { upstream, callback: &callback, state, verifier, scopes }).await?;
        if origin(&way.url).is_none() {
            return Err(NoWay::Unfit { what: "the authorization server has no usable address" }.into());
        }
        Ok(way)
    }

    /// Scopes to ask for besides what the upstream is asked for anyway: those that are there do not get lost.
    async fn with_those_it_has(
        &self,
        place: &Place,
        origin: Option<&Origin>,
        scopes: &[String],
    ) -> Result<Vec<String>, Fault> {
        let there = connections::get(&self.0.store, place).await?;
        // Those of where the upstream was mean nothing where it is.
        let there = there.filter(|there| origin.is_none_or(|origin| !there.is_moved(origin)));
        let has =
            there.as_ref().and_then(|there| there.tokens()).map(|tokens| tokens.scopes.clone()).unwrap_or_default();
        let mut all = has.to_vec();
        all.extend(scopes.iter().filter(|scope| !has.contains(scope)).cloned());
        all.truncate(TokenList::MAX_COUNT);
        Ok(all)
    }
}

/// The origin of an address, if a browser may be sent there: HTTPS, or HTTP as operators have it for tests on their own
/// machine (row U6).
fn origin(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let is_plain = !authority.as_str().contains('@');
    (matches!(scheme, "https" | "http") && is_plain).then(|| format!("{scheme}://{authority}"))
}
