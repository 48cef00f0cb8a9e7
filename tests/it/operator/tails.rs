//! The two trails as streams: what is told, to whom, and when a stream ends.

use http::StatusCode;
use portcullis_tests::caller::{Event, Stream};
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::{at, with_token};

const DECISIONS: &str = "/api/v1/decisions/tail";
const AUDIT: &str = "/api/v1/audit/tail";

/// A stream that has begun, and the place where it begins.
async fn tail(caller: &Caller, path: &str, last: Option<&str>) -> (Stream, u64) {
    let mut stream = caller.copy().at(path).listen(last).await;
    assert_eq!(stream.status, StatusCode::OK);
    assert!(stream.is_events());
    assert_eq!(stream.headers["cache-control"], "no-store");
    let begin = stream.event().await.unwrap();
    assert_eq!(begin.kind.as_deref(), Some("begin"));
    let after = serde_json::from_str::<Value>(&begin.data).unwrap()["after"].as_u64().unwrap();
    (stream, after)
}

/// The next event of this kind, and its data.
async fn next(stream: &mut Stream, kind: &str) -> (Event, Value) {
    // Heartbeats go on for ever.
    let coming = async {
        loop {
            let event = stream.event().await.unwrap_or_else(|| panic!("the stream ended before {kind}"));
            if event.kind.as_deref() == Some(kind) {
                let data = serde_json::from_str(&event.data).unwrap();
                return (event, data);
            }
        }
    };
    tokio::time::timeout(2 * SOON, coming).await.unwrap_or_else(|_| panic!("{kind} does not come"))
}

async fn make_key(gateway: &Gateway, name: &str) {
    let made = gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": name }))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
}

#[tokio::test]
async fn the_audit_trail_is_told_as_it_grows_and_goes_on_where_it_ended() {
    let gateway = Gateway::builder().start().await;
    let operator = with_token(&gateway);
    let of_keys = format!("{AUDIT}?event=key");
    let (mut all, _) = tail(&operator, &of_keys, None).await;
    let (mut filtered, _) = tail(&operator, &format!("{of_keys}&subject=second"), None).await;
    for name in ["first", "second", "third"] {
        make_key(&gateway, name).await;
    }
    let mut numbers = Vec::new();
    for name in ["first", "second", "third"] {
        let (event, entry) = next(&mut all, "entry").await;
        assert_eq!(entry["detail"]["key"], name);
        let number = entry["sequence"].as_u64().unwrap();
        assert_eq!(event.id, Some(number.to_string()));
        numbers.push(number);
    }
    assert!(numbers.is_sorted_by(|one, other| one < other), "{numbers:?}");
    assert_eq!(next(&mut filtered, "entry").await.1["detail"]["key"], "second");

    drop(all);
    make_key(&gateway, "fourth").await;
    let (mut again, begun) = tail(&operator, &of_keys, Some(&numbers[1].to_string())).await;
    assert_eq!(begun, numbers[1]);
    for name in ["third", "fourth"] {
        assert_eq!(next(&mut again, "entry").await.1["detail"]["key"], name, "each once");
    }
    let listed = gateway.operator("GET", &format!("/api/v1/audit/{}", numbers[0]), None).await.json();
    assert_eq!(listed["detail"]["key"], "first");
    let wrong = operator.copy().at(AUDIT).listen(Some("x")).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn decisions_are_told_once_they_are_recorded() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").key("bob").start().await;
    let operator = with_token(&gateway);
    let (mut all, _) = tail(&operator, DECISIONS, None).await;
    let (mut of_bob, _) = tail(&operator, &format!("{DECISIONS}?principal=key%3Abob&upstream=up"), None).await;
    for caller in ["alice", "bob"] {
        gateway.caller(caller).call("up__echo", json!({ "text": "hello" })).await;
    }
    let mut told = [next(&mut all, "decision").await.1, next(&mut all, "decision").await.1];
    told.sort_by_key(|decision| decision["principal"].to_string());
    assert_eq!((&told[0]["principal"], &told[1]["principal"]), (&json!("key:alice"), &json!("key:bob")));
    let (_, bobs) = next(&mut of_bob, "decision").await;
    assert_eq!(bobs, told[1]);
    let shown = gateway.operator("GET", &format!("/api/v1/decisions/{}", bobs["id"].as_str().unwrap()), None).await;
    assert_eq!(shown.json(), bobs);
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_gateway() {
    let gateway = Gateway::builder().start().await;
    let operator = with_token(&gateway);
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(tail(&operator, AUDIT, None).await.0);
    }
    let full = operator.send("GET", DECISIONS, "").await;
    assert_eq!((full.status, &full.json()["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("too_many_tails")));
    // One that its reader leaves has its place taken again.
    streams.pop();
    let patience = tokio::time::Instant::now() + SOON;
    while operator.copy().at(DECISIONS).listen(None).await.status != StatusCode::OK {
        assert!(tokio::time::Instant::now() < patience, "no place is given back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(at(gateway.admin, None).at(AUDIT).listen(None).await.status, StatusCode::UNAUTHORIZED);
    let mut last = streams.pop().unwrap();
    let (stopped, end) = tokio::join!(gateway.stop(), next(&mut last, "end"));
    assert_eq!(end.1["reason"], "leaving");
    drop(stopped);
}

#[tokio::test]
async fn a_token_that_is_revoked_hears_no_more() {
    let gateway = Gateway::builder().start().await;
    let viewer = super::roles::person(&gateway, "viewer", "viewer").await;
    let wanted = json!({ "name": "tail", "user": viewer, "role": "viewer" });
    let made = gateway.operator("POST", "/api/v1/api-tokens", Some(wanted)).await.json();
    let holder = at(gateway.admin, made["secret"].as_str());
    let (mut stream, _) = tail(&holder, AUDIT, None).await;
    let path = format!("/api/v1/api-tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(next(&mut stream, "end").await.1["reason"], "access");
}
