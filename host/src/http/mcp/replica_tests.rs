//! Two edges that find each other in one store, as replicas on one database do.

use std::net::SocketAddr;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::testing::{Edge, key, limits, snapshot, text};
use crate::env::Env;
use crate::http::replica::{Directory, Forwarding, OVERHEAD, Undelivered};
use crate::http::replica_router;
use crate::http::serve::{self, Socket};
use crate::store::follower::Freshness;
use crate::store::{Location, Store};

const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;

async fn store() -> Store {
    Store::open(Location::Memory, Env::system()).await.unwrap()
}

/// An edge that others reach, until the token is cancelled.
async fn listening(store: &Store) -> (Edge, CancellationToken) {
    listening_with(store, None).await
}

/// The same, whose copies of the store may not be older than that.
async fn listening_with(store: &Store, max_staleness: Option<Duration>) -> (Edge, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let edge = Edge::among(limits(), Directory::Store(store.clone()), Some(address)).await;
    edge.mcp.replicas.renew().await.unwrap();
    let second = Duration::from_secs(1);
    let (stop, limits) = (
        CancellationToken::new(),
        serve::Limits {
            first_byte: 10 * second,
            header: 10 * second,
            idle: 10 * second,
            write: 10 * second,
            linger: second,
            drain: Duration::ZERO,
            max_connections: 100,
            max_http2_streams: 100,
        },
    );
    let router = replica_router(edge.mcp.clone(), Freshness::new(max_staleness));
    edge.mcp.tasks.spawn(serve::serve(Socket::Tcp(listener), router, limits, stop.clone()));
    (edge, stop)
}

/// It ends, and its listener with it.
async fn end(edge: &Edge, stop: &CancellationToken) {
    stop.cancel();
    edge.closing.cancel();
    assert!(edge.mcp.tasks.stop(Duration::from_secs(10)).await);
}

/// One that nobody reaches.
async fn silent(store: &Store) -> Edge {
    let edge = Edge::among(limits(), Directory::Store(store.clone()), None).await;
    edge.mcp.replicas.renew().await.unwrap();
    edge
}

async fn told(response: Response) -> (StatusCode, String) {
    (response.status(), text(response).await)
}

/// What the other edge answers to a request of this principal's that `edge` hands on to it.
async fn handed_on(edge: &Edge, to: &Edge, principal: &str, session: &str, path: &'static str) -> StatusCode {
    let mut headers = HeaderMap::new();
    headers.insert("mcp-session-id", HeaderValue::from_str(session).unwrap());
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("authorization", HeaderValue::from_static("Bearer pk_ann"));
    let forwarding = Forwarding {
        method: &Method::POST,
        uri: &path.parse().unwrap(),
        headers: &headers,
        principal: &key(principal),
        peer: SocketAddr::from(([127, 0, 0, 1], 1)).ip().into(),
        body: PING.as_bytes(),
    };
    let owner = to.mcp.replicas.id();
    edge.mcp.replicas.forward(owner, forwarding, Duration::from_secs(10), ()).await.unwrap().status()
}

#[tokio::test]
async fn replicas_find_each_other_in_the_store() {
    let store = store().await;
    let here = silent(&store).await;
    let (there, stop) = listening(&store).await;
    let session = there.session("2025-11-25", "{}").await;
    assert_eq!(told(here.post(&session, PING).await).await, (StatusCode::OK, PONG.to_owned()));
    assert!(here.mcp.sessions.named(&session).is_none(), "it is where it was");

    let others = here.mcp.replicas.view()["others"].clone();
    assert_eq!(others[0]["id"], there.mcp.replicas.id().as_str());
    assert_eq!(others[0]["same_configuration"], true);

    end(&there, &stop).await;
    assert_eq!(told(here.post(&session, PING).await).await, (StatusCode::OK, PONG.to_owned()));
    assert!(here.mcp.sessions.named(&session).is_some(), "it goes on here");
}

#[tokio::test]
async fn a_replica_that_cannot_follow_the_store_answers_nothing_that_is_handed_on() {
    let store = store().await;
    let (here, stop_here) = listening(&store).await;
    let (there, stop) = listening_with(&store, Some(Duration::ZERO)).await;
    here.mcp.replicas.renew().await.unwrap();
    let session = there.session("2025-11-25", "{}").await;
    let answer = here.post(&session, PING).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(handed_on(&here, &there, "ann", &session, "/mcp").await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(here.mcp.sessions.named(&session).is_none(), "it is where it was");
    end(&here, &stop_here).await;
    end(&there, &stop).await;
}

#[tokio::test]
async fn without_a_listener_sessions_go_on_where_they_arrive() {
    let store = store().await;
    let (here, there) = (silent(&store).await, silent(&store).await);
    let session = there.session("2025-11-25", r#"{"elicitation":{}}"#).await;
    assert_eq!(told(here.post(&session, PING).await).await, (StatusCode::OK, PONG.to_owned()));
    let standing = here.send("ann", "GET", "/mcp", &[("mcp-session-id", &session)], "").await;
    assert_eq!(standing.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(there.post(&session, PING).await.status(), StatusCode::OK, "and where it was");
}

#[tokio::test]
async fn one_gateway_alone_knows_its_own_sessions_only() {
    let (before, after) = (Edge::new(limits()).await, Edge::new(limits()).await);
    let session = before.session("2025-11-25", "{}").await;
    assert_eq!(before.post(&session, PING).await.status(), StatusCode::OK);
    assert_eq!(
        after.post(&session, PING).await.status(),
        StatusCode::NOT_FOUND,
        "its client begins anew, with streams"
    );
}

#[tokio::test]
async fn what_was_handed_on_goes_no_further() {
    let store = store().await;
    let (here, (there, _stop)) = (silent(&store).await, listening(&store).await);
    let (third, _stop_third) = listening(&store).await;
    let of_third = third.session("2025-11-25", "{}").await;
    assert_eq!(handed_on(&here, &there, "ann", &of_third, "/mcp").await, StatusCode::LOOP_DETECTED);
    assert_eq!(handed_on(&here, &third, "ann", &of_third, "/mcp").await, StatusCode::OK);
    assert_eq!(handed_on(&here, &there, "ann", "nothing", "/mcp").await, StatusCode::NOT_FOUND);
    for path in ["/", "/api/v1/status", "/mcp/a/b", "/replica", "/messages?session=x"] {
        assert_eq!(handed_on(&here, &there, "ann", &of_third, path).await, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn the_owner_asks_its_own_keys_who_may_still_call() {
    let store = store().await;
    let (here, (there, _stop)) = (silent(&store).await, listening(&store).await);
    let session = there.session("2025-11-25", "{}").await;
    assert_eq!(handed_on(&here, &there, "bob", &session, "/mcp").await, StatusCode::NOT_FOUND, "it is not his");
    there.snapshot.store(std::sync::Arc::new(snapshot(&["bob"])));
    assert_eq!(handed_on(&here, &there, "ann", &session, "/mcp").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn sizes_are_bounded_at_the_owner_too() {
    let store = store().await;
    let (here, (there, _stop)) = (silent(&store).await, listening(&store).await);
    let (headers, uri) = (HeaderMap::new(), "/mcp".parse().unwrap());
    let forward = async |bytes: usize| {
        let body = vec![b' '; bytes];
        let (method, principal) = (&Method::POST, &key("ann"));
        let forwarding = Forwarding { method, uri: &uri, headers: &headers, principal, peer: None, body: &body };
        here.mcp.replicas.forward(there.mcp.replicas.id(), forwarding, Duration::from_secs(10), ()).await
    };
    let limit = limits().request_bytes;
    assert_eq!(forward(limit).await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "it is read");
    assert_eq!(forward(limit + 1).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(matches!(forward(limit + 2 * OVERHEAD).await, Err(Undelivered::Unknown)), "it is not even read");
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_has_got_nothing() {
    let store = store().await;
    let (here, (there, stop)) = (silent(&store).await, listening(&store).await);
    end(&there, &stop).await;
    let (headers, uri) = (HeaderMap::new(), "/mcp".parse().unwrap());
    let forward = async || {
        let (method, principal) = (&Method::POST, &key("ann"));
        let forwarding = Forwarding { method, uri: &uri, headers: &headers, principal, peer: None, body: b"{}" };
        here.mcp.replicas.forward(there.mcp.replicas.id(), forwarding, Duration::from_secs(10), ()).await
    };
    for _ in 0..2 {
        assert!(matches!(forward().await, Err(Undelivered::Gone)));
    }
}
