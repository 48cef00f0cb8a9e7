//! Two edges that find each other in one store, as replicas on one database do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::testing::{Edge, key, limits, piece, snapshot, text};
use crate::admin::testing::Skewed;
use crate::connection::extra::Extra;
use crate::env::{Env, Timestamp};
use crate::http::replica::{Directory, Forwarding, OVERHEAD, Undelivered};
use crate::http::replica_router;
use crate::http::serve::{self, Socket};
use crate::ids::ReplicaId;
use crate::store::follower::Freshness;
use crate::store::replicas::{self, LIFE, Replica};
use crate::store::{Location, Store};

const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;

async fn store() -> Store {
    Store::open(Location::Memory, Env::system()).await.unwrap()
}

/// An edge that others reach, until the token is cancelled.
async fn listening(store: &Store) -> (Edge, CancellationToken) {
    listening_at(store, Env::system(), Freshness::new(None, Env::system().adjustable().1)).await
}

/// The same with a clock, and copies of the store that are as fresh as that.
async fn listening_at(store: &Store, env: Env, freshness: Freshness) -> (Edge, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let edge = Edge::with(limits(), Directory::Store(store.clone()), Some(address), env, freshness).await;
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
    let router = replica_router(edge.mcp.clone());
    edge.mcp.tasks.spawn(serve::serve(Socket::Tcp(listener), router, limits, Arc::default(), stop.clone()));
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
        extra: &Extra::default(),
        principal: &key(principal),
        pass: None,
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
    let clock = Skewed::right();
    let freshness = Freshness::new(Some(Duration::from_secs(3_600)), clock.env().adjustable().1);
    let (there, stop) = listening_at(&store, Env::system(), freshness).await;
    here.mcp.replicas.renew().await.unwrap();
    let session = there.session("2025-11-25", "{}").await;
    clock.advance(Duration::from_secs(3_601));
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
    there.snapshot.store(Arc::new(snapshot(&["bob"])));
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
        let forwarding = Forwarding {
            method,
            uri: &uri,
            headers: &headers,
            extra: &Extra::default(),
            principal,
            pass: None,
            peer: None,
            body: &body,
        };
        here.mcp.replicas.forward(there.mcp.replicas.id(), forwarding, Duration::from_secs(10), ()).await
    };
    let limit = limits().request_bytes;
    assert_eq!(forward(limit).await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "it is read");
    assert_eq!(forward(limit + 1).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(matches!(forward(limit + 2 * OVERHEAD).await, Err(Undelivered::Unknown)), "it is not even read");
}

#[tokio::test]
async fn after_an_outage_of_the_store_replicas_are_found_where_they_were() {
    let clock = Skewed::right();
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let fresh = || Freshness::new(None, clock.env().adjustable().1);
    let (there, stop) = listening_at(&store, clock.env(), fresh()).await;
    let (here, stop_here) = listening_at(&store, clock.env(), fresh()).await;
    let session = there.session("2025-11-25", "{}").await;
    clock.advance(LIFE);
    here.mcp.replicas.renew().await.unwrap();
    assert_eq!(here.mcp.replicas.view()["others"], serde_json::json!([]), "nobody else has said that it is there");
    for _ in 0..2 {
        assert_eq!(told(here.post(&session, PING).await).await, (StatusCode::OK, PONG.to_owned()));
        assert!(here.mcp.sessions.named(&session).is_none(), "it is where it was");
    }
    end(&there, &stop).await;
    assert_eq!(told(here.post(&session, PING).await).await, (StatusCode::OK, PONG.to_owned()));
    assert!(here.mcp.sessions.named(&session).is_some(), "it goes on here");
    end(&here, &stop_here).await;
}

/// Writes down that a replica is at this address, since then. Its id.
async fn claim(store: &Store, address: &str, started: Timestamp) -> ReplicaId {
    let id = ReplicaId::generate(&Env::system());
    let (version, configuration) = ("0.1.0".to_owned(), "00".repeat(32));
    let (address, seen) = (Some(address.to_owned()), started);
    replicas::renew(store, Replica { id: id.clone(), address, started, seen, version, configuration }).await.unwrap();
    id
}

/// Why a request to this replica is not answered.
async fn undelivered(edge: &Edge, owner: &ReplicaId, method: &Method) -> Undelivered {
    let (headers, uri, principal) = (HeaderMap::new(), "/mcp".parse().unwrap(), &key("ann"));
    let forwarding = Forwarding {
        method,
        uri: &uri,
        headers: &headers,
        extra: &Extra::default(),
        principal,
        pass: None,
        peer: None,
        body: b"{}",
    };
    edge.mcp.replicas.forward(owner, forwarding, Duration::from_secs(10), ()).await.unwrap_err()
}

#[tokio::test]
async fn what_another_replica_got_may_have_happened_at_the_one_it_was_for() {
    let store = store().await;
    let (here, (there, stop)) = (silent(&store).await, listening(&store).await);
    let address = there.mcp.replicas.view()["address"].as_str().unwrap().to_owned();
    let later = Env::system().now().after(Duration::from_secs(60));
    let owner = claim(&store, &address, later).await;
    assert!(matches!(undelivered(&here, &owner, &Method::POST).await, Undelivered::Unknown));
    assert!(matches!(undelivered(&here, &owner, &Method::POST).await, Undelivered::Gone), "it is not there");
    let owner = claim(&store, &address, later).await;
    assert!(matches!(undelivered(&here, &owner, &Method::GET).await, Undelivered::Gone), "a GET does nothing");
    let owner = claim(&store, &address, Timestamp::from_millis(1)).await;
    assert!(matches!(undelivered(&here, &owner, &Method::POST).await, Undelivered::Gone), "it was there before");
    end(&there, &stop).await;
}

#[tokio::test]
async fn one_answer_that_is_missing_does_not_make_a_replica_gone() {
    let store = store().await;
    let here = silent(&store).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let owner = claim(&store, &listener.local_addr().unwrap().to_string(), Timestamp::from_millis(1)).await;
    for _ in 0..2 {
        let (unanswered, ()) = tokio::join!(undelivered(&here, &owner, &Method::POST), async {
            drop(listener.accept().await.unwrap());
        });
        assert!(matches!(unanswered, Undelivered::Unknown), "{unanswered:?}");
    }
    drop(listener);
    assert!(matches!(undelivered(&here, &owner, &Method::POST).await, Undelivered::Gone));

    // Nobody can connect to that, which says nothing about who is there.
    let owner = claim(&store, "255.255.255.255:1", Timestamp::from_millis(1)).await;
    for _ in 0..2 {
        let unreached = undelivered(&here, &owner, &Method::POST).await;
        assert!(matches!(unreached, Undelivered::Unreachable), "{unreached:?}");
    }
    replicas::leave(&store, owner.clone()).await.unwrap();
    here.mcp.replicas.renew().await.unwrap();
    assert!(matches!(undelivered(&here, &owner, &Method::POST).await, Undelivered::Gone), "it is not listed either");
}

#[tokio::test]
async fn a_stream_of_another_replica_ends_when_this_one_knows_that_its_caller_may_not_be_here() {
    let store = store().await;
    let (here, (there, stop)) = (silent(&store).await, listening(&store).await);
    let session = there.session("2025-11-25", "{}").await;
    let headers = [("mcp-session-id", &*session), ("accept", "text/event-stream")];
    let mut standing = here.send("ann", "GET", "/mcp", &headers, "").await.into_body().into_data_stream();
    assert!(piece(&mut standing).await.is_some());
    here.snapshot.store(Arc::new(snapshot(&["bob"])));
    here.published.send_modify(|count| *count += 1);
    let ended = async { while piece(&mut standing).await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    assert_eq!(there.post(&session, PING).await.status(), StatusCode::OK, "she may still be there");
    end(&there, &stop).await;
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_has_got_nothing() {
    let store = store().await;
    let (here, (there, stop)) = (silent(&store).await, listening(&store).await);
    end(&there, &stop).await;
    let (headers, uri) = (HeaderMap::new(), "/mcp".parse().unwrap());
    let forward = async || {
        let (method, principal) = (&Method::POST, &key("ann"));
        let forwarding = Forwarding {
            method,
            uri: &uri,
            headers: &headers,
            extra: &Extra::default(),
            principal,
            pass: None,
            peer: None,
            body: b"{}",
        };
        here.mcp.replicas.forward(there.mcp.replicas.id(), forwarding, Duration::from_secs(10), ()).await
    };
    for _ in 0..2 {
        assert!(matches!(forward().await, Err(Undelivered::Gone)));
    }
}
