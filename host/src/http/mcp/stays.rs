//! Connections that stay open after their caller was authenticated, to hear of changes or of what another replica holds:
//! each is over once what let it in opens nothing any more, and one that has no end of its own also while nobody
//! can know whether it does. Calls that run here go on to their answers.
//!
//! What lets in is a key, or the grant behind a token with the key, user or guest that it acts for. A token's own end cuts
//! nothing at once: clients fetch a new one every few minutes and keep the streams that they have, so that a stream that
//! began in a token's life goes on, for an hour after it at most.
//!
//! One task looks after all of them, at once when something was published and otherwise every second, since keys expire by
//! themselves. Legacy sessions that hear of anything outside of requests end with their keys too, whether anybody reads or
//! not; others rest, and go on if the key opens something again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Mcp, legacy};
use crate::authorization::resource::Witness;
use crate::identity::Pass;
use crate::ids::Principal;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Connections that stay open. There are no more of them than streams and calls.
#[derive(Default)]
pub(super) struct Stays(Mutex<Numbered>);

#[derive(Default)]
struct Numbered {
    next: u64,
    stays: HashMap<u64, Staying>,
}

struct Staying {
    principal: Principal,
    pass: Option<Arc<Pass>>,
    /// Of what let it in. A new key of the same name is not that one.
    witness: Option<Witness>,
    until: Until,
    over: CancellationToken,
}

/// When a connection ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// With the answer of a call that was let in.
    Answered,
    /// Never.
    Left,
}

/// A connection that stays open, until this is dropped.
pub(super) struct Stay {
    stays: Arc<Stays>,
    number: u64,
    over: CancellationToken,
}

impl Stays {
    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stay {
    pub(super) fn begin(mcp: &Mcp, principal: &Principal, pass: Option<&Arc<Pass>>, until: Until) -> Self {
        let over = CancellationToken::new();
        let now = || mcp.gate.witness(principal, pass.map(|pass| &**pass));
        let witness = now();
        let staying = Staying { principal: principal.clone(), pass: pass.cloned(), witness, until, over: over.clone() };
        let mut numbered = mcp.stays.lock();
        numbered.next += 1;
        let number = numbered.next;
        numbered.stays.insert(number, staying);
        drop(numbered);
        // What changed since the caller was authenticated, nobody may have been told who was not here yet.
        let is_stale = mcp.freshness.is_stale() || (pass.is_some() && mcp.gate.is_behind());
        if is_over(until, is_stale, witness, now()) {
            over.cancel();
        }
        Self { stays: mcp.stays.clone(), number, over }
    }

    /// Waits until the principal may not be here any more.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.stays.lock().stays.remove(&self.number);
    }
}

impl Mcp {
    /// Whether what let this principal in opens something now.
    pub(super) fn is_welcome(&self, principal: &Principal, pass: Option<&Pass>) -> bool {
        self.gate.witness(principal, pass).is_some()
    }
}

/// Whether a connection is over, by what let it in and what there is of that now.
fn is_over(until: Until, is_stale: bool, then: Option<Witness>, now: Option<Witness>) -> bool {
    (is_stale && until == Until::Left) || now.is_none() || now != then
}

/// Looks after all connections and sessions until the gateway ends.
pub(super) async fn run(mcp: Arc<Mcp>, mut published: watch::Receiver<u64>) {
    let looking = async {
        loop {
            tokio::select! {
                // Without anybody who publishes, keys expire all the same.
                Ok(()) = published.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            look(&mcp);
        }
    };
    mcp.tasks.stopping().run_until_cancelled(looking).await;
}

fn look(mcp: &Mcp) {
    let (is_stale, is_behind) = (mcp.freshness.is_stale(), mcp.gate.is_behind());
    for staying in mcp.stays.lock().stays.values() {
        let now = mcp.gate.witness(&staying.principal, staying.pass.as_deref());
        let is_stale = is_stale || (staying.pass.is_some() && is_behind);
        if is_over(staying.until, is_stale, staying.witness, now) {
            staying.over.cancel();
        }
    }
    legacy::end_unwelcome(mcp);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::{Body, BodyDataStream};
    use futures_util::stream;
    use http::StatusCode;
    use tokio::time::Instant;

    use super::*;
    use crate::admin::testing::Skewed;
    use crate::http::mcp::testing::{Edge, limits, piece, snapshot, snapshot_of, snapshot_until, virtual_key};
    use crate::http::replica::Directory;
    use crate::store::follower::Freshness;

    const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
    const EVENTS: (&str, &str) = ("accept", "text/event-stream");
    const LISTEN_HEADERS: &[(&str, &str)] =
        &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "subscriptions/listen")];
    const LISTEN: &str = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

    /// Streams that have begun: of changes, of a session, and of the old transport, with the path for its messages.
    async fn streams(edge: &Edge, session: &str) -> (Vec<BodyDataStream>, String) {
        let mut streams =
            vec![edge.send("ann", "POST", "/mcp", LISTEN_HEADERS, LISTEN).await.into_body().into_data_stream()];
        for (path, headers) in [("/mcp", &[("mcp-session-id", session), EVENTS][..]), ("/sse", &[EVENTS])] {
            streams.push(edge.send("ann", "GET", path, headers, "").await.into_body().into_data_stream());
        }
        let mut first = Vec::new();
        for stream in &mut streams {
            first.push(piece(stream).await.unwrap());
        }
        let door = first[2].strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
        (streams, door)
    }

    /// Until the end of a stream.
    async fn rest(stream: &mut BodyDataStream) {
        while piece(stream).await.is_some() {}
    }

    #[tokio::test(start_paused = true)]
    async fn streams_and_sessions_end_when_a_key_expires() {
        let clock = Skewed::right();
        let freshness = Freshness::new(None, clock.env().adjustable().1);
        let edge = Edge::with(limits(), Directory::Alone, None, clock.env(), freshness).await;
        let minutes = Duration::from_secs(5 * 60);
        edge.snapshot.store(Arc::new(snapshot_until(&["ann"], Some(clock.env().now().after(minutes)))));
        let (session, without_streams) =
            (edge.session("2025-11-25", "{}").await, edge.session("2025-11-25", "{}").await);
        let (mut streams, door) = streams(&edge, &session).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(edge.post(&session, PING).await.status(), 200, "it is valid");
        clock.advance(minutes);
        let expired = Instant::now();
        for stream in &mut streams {
            rest(stream).await;
        }
        assert!(expired.elapsed() <= Duration::from_secs(1), "{:?}", expired.elapsed());
        edge.snapshot.store(Arc::new(snapshot(&["ann"])));
        assert_eq!(edge.post(&session, PING).await.status(), 404, "it has ended");
        assert_eq!(edge.post(&without_streams, PING).await.status(), 200, "nothing went on there");
        assert_eq!(edge.send("ann", "POST", &door, &[], PING).await.status(), 404);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_of_a_key_end_when_another_one_takes_its_name() {
        let edge = Edge::new(limits()).await;
        let session = edge.session("2025-11-25", "{}").await;
        let (mut streams, _door) = streams(&edge, &session).await;
        edge.snapshot.store(Arc::new(snapshot_of([virtual_key("ann", "pk_another")])));
        let changed = Instant::now();
        for stream in &mut streams {
            rest(stream).await;
        }
        assert!(changed.elapsed() <= Duration::from_secs(1), "{:?}", changed.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_end_when_nobody_knows_whether_a_key_is_still_good() {
        let clock = Skewed::right();
        let freshness = Freshness::new(Some(Duration::from_secs(10)), clock.env().adjustable().1);
        let edge = Edge::with(limits(), Directory::Alone, None, clock.env(), freshness).await;
        let begun = Instant::now();
        let session = edge.session("2025-11-25", "{}").await;
        let (mut streams, _door) = streams(&edge, &session).await;
        for stream in &mut streams {
            rest(stream).await;
        }
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(10) && took <= Duration::from_secs(12), "{took:?}");
        assert_eq!(edge.post(&session, PING).await.status(), 503);
        assert!(edge.mcp.sessions.named(&session).is_some(), "it can go on with new streams later");
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_be_here_any_more_when_the_body_has_come_is_refused() {
        let edge = Edge::new(limits()).await;
        let session = edge.session("2025-11-25", "{}").await;
        let (_streams, door) = streams(&edge, &session).await;
        for path in ["/mcp", &*door] {
            edge.snapshot.store(Arc::new(snapshot(&["ann", "bob"])));
            let (revoked, is_revoked) = tokio::sync::oneshot::channel::<()>();
            let body = Body::from_stream(stream::once(async move {
                is_revoked.await.unwrap();
                Ok::<_, Infallible>(PING)
            }));
            let headers = [("mcp-session-id", &*session)];
            let (response, ()) = tokio::join!(edge.send_slowly("ann", "POST", path, &headers, body), async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                edge.snapshot.store(Arc::new(snapshot(&["bob"])));
                revoked.send(()).unwrap();
            });
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        }
    }
}
