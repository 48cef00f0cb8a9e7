//! Telling clients that the connection is made for which their person was sent to a URL (2025-11-25, client/elicitation
//! § completion).
//!
//! Each hears of each of its elicitations once, on the stream that belongs to no request. Whoever has no such stream yet
//! hears of it when they open one; a session that has ended hears nothing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc::error::TrySendError;

use super::Mcp;
use crate::connection::Place;
use crate::connection::lending::Withheld;
use crate::mcp::json::to_raw;
use crate::mcp::revision::v2025_11_25::ELICITATION_COMPLETE;
use crate::mcp::talk::{Event, Notice};

/// How often it is looked again at what could not be known.
const MAX_TRIES: usize = 5;
/// The pause before that.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells until the gateway closes.
pub(in crate::http::mcp) async fn run(mcp: Arc<Mcp>) {
    let telling = async {
        loop {
            let place = mcp.services.elicitations.next().await;
            for _ in 0..MAX_TRIES {
                if tell(&mcp, &place).await {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    mcp.closing.run_until_cancelled(telling).await;
}

/// Tells of what was connected at a place. False where that could not be found out.
async fn tell(mcp: &Mcp, place: &Place) -> bool {
    let elicitations = &mcp.services.elicitations;
    let mut is_known = true;
    for elicitation in elicitations.at(place, mcp.services.env.now()) {
        let session = mcp.sessions.named(&elicitation.session).filter(|session| !session.ended.is_cancelled());
        let Some(session) = session else {
            elicitations.forget(&elicitation);
            continue;
        };
        match mcp.services.lender.lend(&elicitation.wanted).await {
            Ok(lent) if elicitation.is_met_by(&lent) => {}
            Ok(_) | Err(Withheld::Missing(_) | Withheld::TooWide | Withheld::Unavailable { .. }) => continue,
            Err(Withheld::Fault) => {
                is_known = false;
                continue;
            }
        }
        let Some(standing) = session.party().standing else { continue };
        let notice = Notice::Other {
            upstream: place.upstream.clone(),
            method: ELICITATION_COMPLETE.to_owned(),
            params: Some(to_raw(&json!({ "elicitationId": elicitation.id }))),
        };
        if let Err(TrySendError::Full(_)) = standing.try_send(Event::Notice(notice)) {
            tracing::debug!(%place, "a client is not told that a connection is made: it reads too slowly");
        }
        elicitations.forget(&elicitation);
    }
    is_known
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::BodyDataStream;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::connection::lending::{Kind, Lack, Lender, Lent, Rejected, Wanted};
    use crate::connection::{Holder, Origin};
    use crate::http::mcp::testing::{Edge, key, limits, piece};
    use crate::ids::{ConnectionId, UpstreamName};
    use crate::pipeline::elicitations::Elicitation;
    use crate::store::changes::{Change, News, Revision};
    use crate::store::follower::Subscriber as _;

    /// More than it takes to tell, and not so long that a stream shows that it is alive.
    const SOON: Duration = Duration::from_secs(3);

    /// Lends what a test says.
    #[derive(Debug)]
    struct Purse(Mutex<Result<u64, Withheld>>);

    impl Purse {
        fn has(&self, given: Result<u64, Withheld>) {
            *self.0.lock().unwrap() = given;
        }
    }

    impl Lender for Purse {
        fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
            let given = self.0.lock().unwrap().clone();
            Box::pin(async move {
                let given = given?;
                let (place, connection) = (wanted.place.clone(), connection());
                let (scopes, headers, variables) = (Vec::new(), Vec::new(), Vec::new());
                Ok(Arc::new(Lent { place, connection, revision: given, given, scopes, headers, variables }))
            })
        }

        fn rejected<'a>(
            &'a self,
            _: &'a Wanted,
            _: &'a Lent,
            _: &'a Rejected,
        ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
            Box::pin(async { Err(Withheld::Fault) })
        }
    }

    fn connection() -> ConnectionId {
        ConnectionId::parse(&"0a".repeat(12)).unwrap()
    }

    fn not_connected() -> Withheld {
        Withheld::Missing(Lack::NotConnected)
    }

    async fn scene() -> (Edge, Arc<Purse>) {
        let edge = Edge::new(limits()).await;
        let purse = Arc::new(Purse(Mutex::new(Err(not_connected()))));
        edge.lender.is(purse.clone());
        (edge, purse)
    }

    fn place() -> Place {
        Place { holder: Holder::Of(key("ann")), upstream: UpstreamName::parse("mail").unwrap() }
    }

    /// As a call of that session was answered.
    fn sent(edge: &Edge, session: &str, id: &str, before: Option<u64>) {
        let origin = Origin::parse("https://up.example").unwrap();
        let wanted = Wanted { place: place(), kind: Kind::OAuth, origin, scopes: None, max_age: None };
        let now = edge.mcp.services.env.now();
        let before = before.map(|given| (connection(), given));
        let expires = now.after(Duration::from_secs(900));
        let elicitation = Elicitation { id: id.to_owned(), session: session.into(), wanted, before, expires };
        edge.mcp.services.elicitations.remember(elicitation, now);
    }

    /// Something about the connection has changed.
    async fn change(edge: &Edge) {
        let change = Change::Connection { principal: place().holder.to_string(), upstream: "mail".to_owned() };
        let news = News::Changes { changes: vec![change], revision: Revision::default() };
        edge.mcp.services.elicitations.take(&news).await.unwrap();
    }

    async fn listen(edge: &Edge, session: &str) -> BodyDataStream {
        let headers = [("mcp-session-id", session), ("accept", "text/event-stream")];
        let mut stream = edge.send("ann", "GET", "/mcp", &headers, "").await.into_body().into_data_stream();
        piece(&mut stream).await.unwrap();
        stream
    }

    /// What is heard next, if anything is heard soon.
    async fn heard(stream: &mut BodyDataStream) -> Option<String> {
        tokio::time::timeout(SOON, piece(stream)).await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_hears_once_that_its_connection_is_made() {
        let (edge, purse) = scene().await;
        let (one, two) = (edge.session("2025-11-25", "{}").await, edge.session("2025-11-25", "{}").await);
        let (mut first, mut second) = (listen(&edge, &one).await, listen(&edge, &two).await);
        sent(&edge, &one, "e-1", None);
        change(&edge).await;
        assert_eq!(heard(&mut first).await, None, "something has changed, and it is not connected");
        purse.has(Ok(7));
        change(&edge).await;
        let told = heard(&mut first).await.unwrap();
        let expected =
            r#"{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":"e-1"}}"#;
        assert!(told.contains(expected), "{told}");
        change(&edge).await;
        assert_eq!((heard(&mut first).await, heard(&mut second).await), (None, None), "once, and nobody else");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_there_before_completes_nothing() {
        let (edge, purse) = scene().await;
        let session = edge.session("2025-11-25", "{}").await;
        let mut stream = listen(&edge, &session).await;
        purse.has(Ok(7));
        // More rights are wanted than that one has, which is renewed meanwhile.
        sent(&edge, &session, "e-1", Some(7));
        change(&edge).await;
        assert_eq!(heard(&mut stream).await, None);
        purse.has(Ok(9));
        change(&edge).await;
        assert!(heard(&mut stream).await.unwrap().contains("e-1"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_listens_later_hears_of_it_then_and_a_session_that_has_ended_is_forgotten() {
        let (edge, purse) = scene().await;
        let (late, gone) = (edge.session("2025-11-25", "{}").await, edge.session("2025-11-25", "{}").await);
        sent(&edge, &late, "e-1", None);
        sent(&edge, &gone, "e-2", None);
        sent(&edge, "unknown", "e-3", None);
        edge.send("ann", "DELETE", "/mcp", &[("mcp-session-id", &*gone)], "").await;
        purse.has(Ok(7));
        change(&edge).await;
        let waiting = || {
            let those = edge.mcp.services.elicitations.at(&place(), edge.mcp.services.env.now());
            those.into_iter().map(|one| one.id).collect::<Vec<_>>()
        };
        while waiting().len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(waiting(), ["e-1"]);
        let mut stream = listen(&edge, &late).await;
        assert!(heard(&mut stream).await.unwrap().contains("e-1"));
        assert_eq!(waiting(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_is_looked_at_again() {
        let (edge, purse) = scene().await;
        let session = edge.session("2025-11-25", "{}").await;
        let mut stream = listen(&edge, &session).await;
        sent(&edge, &session, "e-1", None);
        purse.has(Err(Withheld::Fault));
        change(&edge).await;
        tokio::time::sleep(PAUSE).await;
        purse.has(Ok(7));
        assert!(heard(&mut stream).await.unwrap().contains("e-1"));
    }
}
