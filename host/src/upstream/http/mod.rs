//! Upstreams that speak MCP over HTTP, whatever the revision.
//!
//! [`HttpLink`] finds out what an upstream speaks ([`detect`]) and keeps that in mind until it proves wrong. Requests of
//! the modern era ([`modern`]) stand alone; those of the legacy era ([`legacy`]) go through one session for each party
//! ([`sessions`], [`session`]). What an upstream sees of a caller is its request, what its client declares, and
//! headers that the operator lets through; of its credentials nothing.
//!
//! A request is sent again only if the answer says that it did not happen: the session was not known, or the revision
//! was not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::credential::{Borrower, Own};
use super::deadline::Deadline;
use super::{Exchange, LinkLimits, PartyKey, Signals, Subscription, UpstreamError, Watch};
use crate::config::Protocol;
use crate::connection::lending::Lent;
use crate::ids::UpstreamName;
use crate::mcp::call::Outcome;
use crate::mcp::message;
use crate::mcp::revision::About;
use crate::mcp::talk::{LogLevel, Party, Via};
use crate::outbound::Outbound;
use crate::secret::Plaintext;
use crate::tasks::Tasks;

mod desk;
mod detect;
mod legacy;
mod listen;
mod modern;
mod once;
mod opening;
mod peer;
mod questions;
mod session;
mod sessions;
mod sse_transport;
mod standing;
mod stream;
mod subscription;
mod watch;

#[cfg(test)]
mod tests;

use detect::{Dialect, Found};
use once::Once;
use opening::NotOpened;
use peer::Peer;
use session::Session;
use sessions::Sessions;

/// Requests under way at once.
const MAX_REQUESTS: usize = 4_096;
/// Watched resources at once.
const MAX_WATCHES: usize = 1_000;
/// How often a session of another account's is given up for a new one: others of the same caller may open the next.
const REOPENINGS: usize = 4;
/// What a modern upstream says of itself is asked for again after this long.
const ABOUT_LIFETIME: Duration = Duration::from_secs(60);

/// Where an upstream is and how it is spoken to.
pub(super) struct Endpoint {
    pub(super) name: UpstreamName,
    pub(super) url: Uri,
    pub(super) protocol: Protocol,
    /// Sent with each request.
    pub(super) headers: BTreeMap<String, Plaintext>,
    /// Headers of a caller's own request that are passed on with it.
    pub(super) extra: Vec<HeaderName>,
}

/// What a link shares with the rest of its upstream.
pub(super) struct Shared {
    pub(super) outbound: Outbound,
    pub(super) signals: Signals,
    /// The credential for what the gateway itself asks.
    pub(super) own: Arc<Own>,
}

pub(super) struct HttpLink(Arc<Inner>);

struct Inner {
    peer: Arc<Peer>,
    protocol: Protocol,
    found: Once<Arc<Found>, UpstreamError>,
    sessions: Sessions,
    requests: Semaphore,
    watches: Arc<Semaphore>,
}

/// Why a request has no outcome, as far as another attempt may have one.
enum Failure {
    /// The upstream does not know the session, so that nothing happened.
    SessionGone(UpstreamError),
    /// The upstream does not speak as we thought it did, so that nothing happened. What is to be told if it turns out
    /// that it does after all.
    Misspoken(Result<Outcome, UpstreamError>),
    Final(UpstreamError),
}

impl Failure {
    fn into_error(self) -> UpstreamError {
        match self {
            Self::SessionGone(error) | Self::Final(error) | Self::Misspoken(Err(error)) => error,
            Self::Misspoken(Ok(_)) => UpstreamError::Protocol { what: "it refuses the revision that it chose" },
        }
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self::Final(error)
    }
}

impl From<NotOpened> for Failure {
    fn from(failed: NotOpened) -> Self {
        if failed.is_refused { Self::Misspoken(Err(failed.error)) } else { Self::Final(failed.error) }
    }
}

impl HttpLink {
    pub(super) fn new(endpoint: Endpoint, shared: Shared, limits: LinkLimits, tasks: Tasks) -> Self {
        let protocol = endpoint.protocol;
        let inner = Arc::new(Inner {
            peer: Arc::new(Peer::new(endpoint, shared, limits, tasks)),
            protocol,
            found: Once::default(),
            sessions: Sessions::new(limits.sessions, limits.session_idle),
            requests: Semaphore::new(MAX_REQUESTS),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
        });
        let sweeping = inner.clone();
        inner.peer.tasks.spawn(async move {
            tokio::select! {
                () = sweeping.sweep() => {}
                () = sweeping.peer.tasks.stopping().cancelled() => {}
            }
        });
        Self(inner)
    }

    /// What the upstream says of itself, to the gateway.
    pub(super) async fn about(&self, deadline: &Deadline) -> Result<Arc<About>, UpstreamError> {
        within(deadline, self.0.about_with_own()).await
    }

    /// What the upstream says of itself to somebody with a credential of their own.
    pub(super) async fn about_to(&self, own: &Own, deadline: &Deadline) -> Result<Arc<About>, UpstreamError> {
        within(deadline, self.0.about_to(own)).await
    }

    /// Makes a request. If it is taken back or runs out of time, the upstream is told so.
    pub(super) async fn exchange(&self, exchange: Exchange) -> Result<Outcome, UpstreamError> {
        let _place = self.0.requests.try_acquire().map_err(|_| UpstreamError::Busy)?;
        self.0.exchange(&exchange).await
    }

    /// Tells `via.events` of updates of a resource until the [`Watch`] is dropped, or what it is opened with is not lent any more.
    pub(super) async fn watch(
        &self,
        subscription: Subscription,
        via: Via,
        borrower: Option<Borrower>,
        deadline: Deadline,
    ) -> Result<Watch, UpstreamError> {
        self.0.watch(subscription, via, borrower, &deadline).await
    }

    /// Passes a notification of a caller's, if there is a session with it.
    pub(super) async fn tell(&self, party: &Party, method: &str, params: Option<&RawValue>) {
        if let Some(session) = self.0.sessions.known(&PartyKey::of(party)) {
            self.0.peer.send_aside(session.post(message::notification(method, params))).await;
        }
    }

    /// Sets the level of log messages, if there is a session to set it in. What opens later sets it by itself.
    pub(super) async fn set_level(&self, party: &Party, level: LogLevel) {
        if let Some(session) = self.0.sessions.known(&PartyKey::of(party)) {
            session.align_level(&Party { log_level: Some(level), ..party.clone() }).await;
        }
    }

    /// Ends a party's session, if there is one.
    pub(super) fn end_session(&self, key: &PartyKey) {
        if let Some(session) = self.0.sessions.take(key) {
            sessions::close(session);
        }
    }

    /// Hears of changes of the upstream's lists for as long as there is something to hear.
    pub(super) async fn listen(&self) {
        self.0.listen().await;
    }

    /// Tells the upstream that all sessions are over, in `patience` at most.
    pub(super) async fn end_all(&self, patience: Duration) {
        let sessions = self.0.sessions.take_all();
        let all = futures_util::future::join_all(sessions.iter().map(|session| session.end()));
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::debug!("some upstream sessions were not ended in time");
        }
    }
}

impl Inner {
    /// What the upstream speaks. `lent`: what it is shown if it has to be asked.
    async fn found(self: &Arc<Self>, lent: Option<&Arc<Lent>>) -> Result<Arc<Found>, UpstreamError> {
        let make = || {
            let (inner, lent) = (self.clone(), lent.cloned());
            async move {
                let found = match inner.protocol {
                    Protocol::Legacy => Found::now(Dialect::Legacy),
                    Protocol::Sse => Found::now(Dialect::Sse),
                    Protocol::Auto => detect::probe(&inner.peer, lent.as_deref()).await?,
                    Protocol::Modern => match detect::probe(&inner.peer, lent.as_deref()).await? {
                        found if found.dialect == Dialect::Modern => found,
                        _ => Found::now(Dialect::Modern),
                    },
                };
                inner.peer.set_streamless(false);
                // What it says of itself to somebody with an account is not for everybody.
                let is_own = lent.is_none_or(|lent| !lent.place.is_somebodys());
                Ok(Arc::new(if is_own { found } else { Found { about: None, ..found } }))
            }
        };
        let found = self.found.get(&self.peer.tasks, |_| true, make).await;
        found.unwrap_or(Err(UpstreamError::Cancelled))
    }

    /// What the upstream says of itself to the gateway, whose credential is renewed if need be.
    async fn about_with_own(self: &Arc<Self>) -> Result<Arc<About>, UpstreamError> {
        let party = self.peer.own.party().await?;
        match self.about(&party).await {
            Err(error @ UpstreamError::Rejected { .. }) => {
                self.about(&self.peer.own.party_after(&party, error).await?).await
            }
            other => other,
        }
    }

    /// What the upstream says of itself to `own`, whose credential is renewed if need be.
    async fn about_to(self: &Arc<Self>, own: &Own) -> Result<Arc<About>, UpstreamError> {
        let party = own.party().await?;
        match self.about_anew(&party).await {
            Err(error @ UpstreamError::Rejected { .. }) => {
                self.about_anew(&own.party_after(&party, error).await?).await
            }
            other => other,
        }
    }

    /// What is told to one party is nobody else's, and is asked for each time.
    async fn about_anew(self: &Arc<Self>, party: &Party) -> Result<Arc<About>, UpstreamError> {
        let lent = party.lent.as_ref();
        if self.found(lent).await?.dialect != Dialect::Modern {
            return self.about(party).await;
        }
        let silent = UpstreamError::Protocol { what: "it does not answer `server/discover`" };
        detect::probe(&self.peer, lent.map(|lent| &**lent)).await?.about.ok_or(silent)
    }

    async fn about(self: &Arc<Self>, party: &Party) -> Result<Arc<About>, UpstreamError> {
        let lent = party.lent.as_ref();
        let mut found = self.found(lent).await?;
        if found.dialect == Dialect::Modern && (found.about.is_none() || found.at.elapsed() >= ABOUT_LIFETIME) {
            self.found.forget(|known| Arc::ptr_eq(known, &found));
            found = self.found(lent).await?;
        }
        if found.dialect == Dialect::Modern {
            let silent = UpstreamError::Protocol { what: "it does not answer `server/discover`" };
            return found.about.clone().ok_or(silent);
        }
        let began = Instant::now();
        match self.session(party).await {
            Ok(session) => Ok(session.about.clone()),
            Err(failed) if failed.is_refused && self.is_mistaken(&found, began) => {
                let now = self.found(lent).await?;
                match &now.about {
                    Some(about) => Ok(about.clone()),
                    None => Err(failed.error),
                }
            }
            Err(failed) => Err(failed.error),
        }
    }

    /// Makes a request, once more if it turns out that the upstream speaks something else by now.
    async fn exchange(self: &Arc<Self>, exchange: &Exchange) -> Result<Outcome, UpstreamError> {
        let began = Instant::now();
        let lent = exchange.via.party.lent.as_ref();
        let found = self.patiently(exchange, self.found(lent)).await?;
        let told = match self.attempt(&found, exchange).await {
            Ok(outcome) => return Ok(outcome),
            Err(Failure::Misspoken(told)) => told,
            Err(failure) => return Err(failure.into_error()),
        };
        if !self.is_mistaken(&found, began) {
            return told;
        }
        let now = self.patiently(exchange, self.found(lent)).await?;
        // One that refused its own revision a moment ago may have been in the middle of an update.
        let is_worth_it = now.dialect != found.dialect || (told.is_ok() && now.dialect == Dialect::Modern);
        if !is_worth_it {
            return told;
        }
        match self.attempt(&now, exchange).await {
            Ok(outcome) => Ok(outcome),
            Err(Failure::Misspoken(told)) => told,
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// Forgets what the upstream speaks, unless that was found out just now or is set. Whether it is worth asking again.
    fn is_mistaken(&self, found: &Arc<Found>, began: Instant) -> bool {
        if self.protocol != Protocol::Auto || found.at >= began {
            return false;
        }
        self.found.forget(|known| Arc::ptr_eq(known, found));
        true
    }

    async fn attempt(self: &Arc<Self>, found: &Found, exchange: &Exchange) -> Result<Outcome, Failure> {
        if found.dialect == Dialect::Modern {
            return modern::exchange(&self.peer, exchange).await;
        }
        match self.attempt_in_session(exchange).await {
            Err(Failure::SessionGone(_)) => self.attempt_in_session(exchange).await,
            other => other,
        }
    }

    async fn attempt_in_session(self: &Arc<Self>, exchange: &Exchange) -> Result<Outcome, Failure> {
        let party = &exchange.via.party;
        let opening = async {
            let session = self.session(party).await?;
            session.stand(party.standing.as_ref());
            session.align_level(party).await;
            session.have_stream().await;
            Ok::<_, Failure>(session)
        };
        let session = self.patiently(exchange, opening).await?;
        let result = session.exchange(exchange).await;
        if matches!(result, Err(Failure::SessionGone(_))) {
            self.sessions.forget(&session);
            session.abandon();
        }
        result
    }

    /// The party's session, which shows from now on what the party was lent. What is spoken must be known to be of the
    /// legacy era.
    async fn session(self: &Arc<Self>, party: &Party) -> Result<Arc<Session>, NotOpened> {
        let dialect = self.found.known().map_or(Dialect::Legacy, |found| found.dialect);
        let open = || opening::open(self.clone(), dialect, party.clone());
        let key = PartyKey::of(party);
        for _ in 0..REOPENINGS {
            let session = self.sessions.get(&key, &self.peer.tasks, open).await?;
            if session.show(party.lent.as_ref()) {
                return Ok(session);
            }
            self.sessions.forget(&session);
            session.abandon();
        }
        Err(UpstreamError::Busy.into())
    }

    /// Works while the exchange has time and is wanted. Nothing is lost if it is given up.
    async fn patiently<T, E: From<UpstreamError>>(
        &self,
        exchange: &Exchange,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            done = within(&exchange.deadline, work) => done,
            () = exchange.via.cancelled.cancelled() => Err(UpstreamError::Cancelled.into()),
        }
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(self.sessions.sweep_interval()).await;
            self.sessions.sweep().into_iter().for_each(sessions::close);
        }
    }
}

/// Works until the time is up.
async fn within<T, E: From<UpstreamError>>(
    deadline: &Deadline,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        done = work => done,
        () = deadline.passed() => Err(UpstreamError::TimedOut { after: deadline.timeout() }.into()),
    }
}
