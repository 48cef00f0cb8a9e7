//! Several gateways on one store, and what has to hold between them. Each story takes how the gateways are configured, the
//! store that they share above all, and how many there are.

#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::time::Duration;

use http::StatusCode;
use portcullis::Env;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::gateway::{Builder, SOON};
use crate::{Caller, Gateway, TestClock};

/// In which every gateway has to know what one of them changed.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// Gateways on one store, each with its own directory, ports and clock, all of them ready.
pub async fn start(configure: impl Fn(Builder) -> Builder, clocks: Vec<TestClock>) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for clock in clocks {
        let gateway =
            configure(Gateway::builder()).try_start(TempDir::new().unwrap(), clock).await.expect("the gateway starts");
        gateway.wait_until_ready().await;
        gateways.push(gateway);
    }
    gateways
}

async fn create_key(gateway: &Gateway, key: Value) -> String {
    let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()["secret"].as_str().unwrap().to_owned()
}

async fn knock(gateway: &Gateway, secret: &str) -> StatusCode {
    Caller::new(gateway.public, Some(secret.to_owned())).modern("tools/list", json!({})).await.status
}

/// How long it takes until every gateway answers like this. Each that has once is expected to stay with it.
async fn until_all_answer(gateways: &[Gateway], secret: &str, status: StatusCode) -> Duration {
    let began = Instant::now();
    for gateway in gateways {
        while knock(gateway, secret).await != status {
            assert!(began.elapsed() < SOON, "{} does not come to answer {status}", gateway.public);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let took = began.elapsed();
    for gateway in gateways {
        assert_eq!(knock(gateway, secret).await, status, "{}", gateway.public);
    }
    took
}

/// A key that is made, disabled and deleted on any of them works and is refused on all of them soon, and at once on the one
/// where that was done.
///
/// # Panics
/// If that does not hold.
pub async fn a_revocation_on_one_refuses_on_the_others(configure: impl Fn(Builder) -> Builder, replicas: usize) {
    let gateways = start(configure, vec![TestClock::default(); replicas]).await;
    for (at, gateway) in gateways.iter().enumerate() {
        let name = format!("revoked-{at}");
        let secret = create_key(gateway, json!({ "name": name })).await;
        assert_eq!(knock(gateway, &secret).await, StatusCode::OK);
        let took = until_all_answer(&gateways, &secret, StatusCode::OK).await;
        assert!(took < KNOWN_WITHIN, "{took:?}");

        let other = &gateways[(at + 1) % replicas];
        let path = format!("/api/v1/keys/{name}");
        let disabled = other.operator("PATCH", &path, Some(json!({ "disabled": true }))).await;
        assert_eq!(disabled.status, StatusCode::OK, "{}", disabled.text());
        assert_eq!(knock(other, &secret).await, StatusCode::UNAUTHORIZED, "at once where it was done");
        let took = until_all_answer(&gateways, &secret, StatusCode::UNAUTHORIZED).await;
        assert!(took < KNOWN_WITHIN, "{took:?}");

        other.operator("PATCH", &path, Some(json!({ "disabled": false }))).await;
        until_all_answer(&gateways, &secret, StatusCode::OK).await;
        assert_eq!(gateway.operator("DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
        let took = until_all_answer(&gateways, &secret, StatusCode::UNAUTHORIZED).await;
        assert!(took < KNOWN_WITHIN, "{took:?}");
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

/// The number of the sweeper's lease on each gateway, where it is held.
async fn sweeping(gateways: &[Gateway]) -> Vec<Option<u64>> {
    let mut fences = Vec::new();
    for gateway in gateways {
        let status = gateway.operator("GET", "/api/v1/status", None).await.json();
        fences.push(status["store"]["sweeping"].as_u64());
    }
    fences
}

/// Until exactly one sweeps: which, and the number of its lease. Never more than one does.
async fn until_one_sweeps(gateways: &[Gateway]) -> (usize, u64) {
    let began = Instant::now();
    loop {
        let fences = sweeping(gateways).await;
        assert!(fences.iter().flatten().count() <= 1, "{fences:?}");
        let found = fences.iter().enumerate().find_map(|(at, fence)| Some((at, (*fence)?)));
        if let Some(found) = found {
            return found;
        }
        assert!(began.elapsed() < SOON, "nobody sweeps");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One of them sweeps; when it stops, another does, under a higher number.
///
/// # Panics
/// If that does not hold.
pub async fn one_gateway_sweeps_at_a_time(configure: impl Fn(Builder) -> Builder, replicas: usize) {
    let mut gateways = start(configure, vec![TestClock::default(); replicas]).await;
    let mut last = 0;
    while !gateways.is_empty() {
        let (at, fence) = until_one_sweeps(&gateways).await;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        for _ in 0..10 {
            let fences = sweeping(&gateways).await;
            assert_eq!(fences.iter().flatten().collect::<Vec<_>>(), [&fence], "{fences:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateways.remove(at).stop().await;
    }
}

/// Clocks that are five minutes ahead and behind, and stand still, change nothing: a key ends on all gateways when it ends
/// by the store's clock. Only for a store that has a clock of its own, which is this machine's.
///
/// # Panics
/// If that does not hold.
pub async fn clocks_may_be_wrong(configure: impl Fn(Builder) -> Builder) {
    let minutes = Duration::from_secs(5 * 60);
    let (right, ahead, behind) = (TestClock::default(), TestClock::default(), TestClock::default());
    right.advance(minutes);
    ahead.advance(2 * minutes);
    let gateways = start(configure, vec![right, ahead, behind]).await;
    for (at, gateway) in gateways.iter().enumerate() {
        let expires = Env::system().now().after(Duration::from_secs(8)).to_string();
        let secret = create_key(gateway, json!({ "name": format!("short-{at}"), "expires": expires })).await;
        until_all_answer(&gateways, &secret, StatusCode::OK).await;
        until_all_answer(&gateways, &secret, StatusCode::UNAUTHORIZED).await;
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}
