//! What a replica takes from another one, and what it refuses, message by message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::wire::{self, Envelope, Head, Opener, Part, RequestNonce, What};
use super::{Directory, MAX_SKEW, PASS, PASS_PURPOSE, Received, Rejected, Replicas};
use crate::env::{Clock, Env, Timestamp};
use crate::ids::{Principal, ReplicaId};
use crate::secret::DeploymentSecret;

struct Standing(AtomicU64);

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

const NOW: u64 = 1_000_000;

fn secret() -> DeploymentSecret {
    DeploymentSecret::new(&[7; 32])
}

fn replica() -> Arc<Replicas> {
    let env = Env { clock: Arc::new(Standing(AtomicU64::new(NOW))), ..Env::system() };
    let id = ReplicaId::generate(&env);
    Replicas::new(env, secret(), id, Directory::Alone, None, "00".repeat(32))
}

fn request() -> What {
    What::Request {
        method: "POST".to_owned(),
        target: "/mcp".to_owned(),
        headers: vec![("mcp-session-id".to_owned(), "s".to_owned())],
        principal: "key:ci".to_owned(),
        pass: None,
        peer: None,
    }
}

fn other() -> ReplicaId {
    ReplicaId::parse(&"b".repeat(24)).unwrap()
}

fn seal(nonce: u8, to: Option<ReplicaId>, at_ms: u64, what: What) -> (Bytes, Opener) {
    let nonce: RequestNonce = [nonce; 16];
    wire::seal(&secret(), &nonce, &Envelope { from: other(), to, at_ms, what }, b"body").unwrap()
}

fn rejected(replica: &Replicas, message: &Bytes) -> Option<Rejected> {
    replica.receive(message.clone()).err()
}

async fn head(response: Response, mut opener: Opener) -> Head {
    opener.feed(&response.into_body().collect().await.unwrap().to_bytes());
    match opener.part().unwrap() {
        Some(Part::Head(head)) => head,
        part => panic!("{part:?}"),
    }
}

#[tokio::test]
async fn a_request_is_taken_as_it_was_sent() {
    let replica = replica();
    let (message, _) = seal(1, Some(replica.id().clone()), NOW, request());
    let Ok(Received::Request(forwarded, _)) = replica.receive(message) else { panic!("it is refused") };
    assert_eq!((forwarded.method.as_str(), forwarded.uri.path(), &forwarded.body[..]), ("POST", "/mcp", &b"body"[..]));
    assert_eq!(Some(forwarded.principal), Principal::parse("key:ci"));
    assert_eq!(forwarded.headers["mcp-session-id"], "s");
}

#[tokio::test]
async fn what_is_forged_stale_or_replayed_is_refused() {
    let replica = replica();
    let own = || Some(replica.id().clone());
    let (message, _) = seal(1, own(), NOW, request());
    let id = ReplicaId::generate(&Env::system());
    let stranger =
        Replicas::new(Env::system(), DeploymentSecret::new(&[8; 32]), id, Directory::Alone, None, String::new());
    assert_eq!(rejected(&stranger, &message), Some(Rejected::Forged));
    let mut changed = message.to_vec();
    changed[40] ^= 1;
    assert_eq!(rejected(&replica, &changed.into()), Some(Rejected::Forged));
    assert_eq!(rejected(&replica, &Bytes::from_static(b"{}")), Some(Rejected::Forged));

    assert_eq!(rejected(&replica, &message), None, "what was refused in another's name takes nothing from this one");
    assert_eq!(rejected(&replica, &message), Some(Rejected::Replayed));

    let skew = u64::try_from(MAX_SKEW.as_millis()).unwrap();
    for (nonce, at, expected) in [
        (2, NOW + skew, None),
        (3, NOW - skew, None),
        (4, NOW + skew + 1, Some(Rejected::Stale)),
        (5, NOW - skew - 1, Some(Rejected::Stale)),
        (6, 0, Some(Rejected::Stale)),
        (7, u64::MAX, Some(Rejected::Stale)),
    ] {
        assert_eq!(rejected(&replica, &seal(nonce, own(), at, request()).0), expected, "{at}");
    }
    let mirrored = Envelope { from: replica.id().clone(), to: own(), at_ms: NOW, what: request() };
    let (mirrored, _) = wire::seal(&secret(), &[8; 16], &mirrored, b"").unwrap();
    assert_eq!(rejected(&replica, &mirrored), Some(Rejected::Replayed), "its own words come back");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_whoever_sealed_it() {
    let replica = replica();
    let own = || Some(replica.id().clone());
    let with = |change: &dyn Fn(&mut String, &mut String, &mut String)| {
        let What::Request { mut method, mut target, headers, mut principal, pass, peer } = request() else {
            unreachable!()
        };
        change(&mut method, &mut target, &mut principal);
        What::Request { method, target, headers, principal, pass, peer }
    };
    for (nonce, to, what) in [
        (1, None, request()),
        (2, own(), What::Who),
        (3, own(), with(&|method, _, _| *method = "P O".to_owned())),
        (4, own(), with(&|_, target, _| *target = "\u{7f} ".to_owned())),
        (5, own(), with(&|_, _, principal| *principal = "root".to_owned())),
    ] {
        assert_eq!(rejected(&replica, &seal(nonce, to, NOW, what).0), Some(Rejected::Forged), "{nonce}");
    }
}

#[tokio::test]
async fn nothing_is_read_of_whoever_has_no_pass() {
    let replica = replica();
    let pass = |secret: &DeploymentSecret, purpose: &str, at: u64, length: &[u8]| {
        let pass = secret.sign(purpose, &[&at.to_be_bytes()[..], length].concat());
        let headers = HeaderMap::from_iter([(HeaderName::from_static(PASS), HeaderValue::try_from(pass).unwrap())]);
        replica.let_in(&headers)
    };
    let length = 7_u64.to_be_bytes();
    assert_eq!(pass(&secret(), PASS_PURPOSE, NOW, &length), Ok(7));
    assert_eq!(pass(&secret(), PASS_PURPOSE, NOW - 31_000, &length), Err(Rejected::Stale));
    assert_eq!(pass(&secret(), "cursor", NOW, &length), Err(Rejected::Forged));
    assert_eq!(pass(&DeploymentSecret::new(&[8; 32]), PASS_PURPOSE, NOW, &length), Err(Rejected::Forged));
    assert_eq!(pass(&secret(), PASS_PURPOSE, NOW, &length[..7]), Err(Rejected::Forged));
    assert_eq!(replica.let_in(&HeaderMap::new()), Err(Rejected::Forged));
}

#[tokio::test]
async fn a_request_for_another_replica_is_told_so_and_not_done() {
    let replica = replica();
    let (message, opener) = seal(1, Some(ReplicaId::parse(&"c".repeat(24)).unwrap()), NOW, request());
    let Ok(Received::Answered(response)) = replica.receive(message) else { panic!("it is taken") };
    assert_eq!(head(response, opener).await, Head::NotHere);
}

#[tokio::test]
async fn a_message_that_two_replicas_get_is_done_by_one_and_answered_by_it_alone() {
    let (meant, another) = (replica(), replica());
    let (message, opener) = seal(1, Some(meant.id().clone()), NOW, request());
    let Ok(Received::Answered(refused)) = another.receive(message.clone()) else { panic!("it is taken") };
    assert_eq!(head(refused, opener).await, Head::NotHere);
    let Ok(Received::Request(_, answer_to)) = meant.receive(message.clone()) else { panic!("it is refused") };
    let (_, opener) = seal(1, Some(meant.id().clone()), NOW, request());
    let answer = answer_to.seal(Response::new(axum::body::Body::from("done")));
    assert!(matches!(head(answer, opener).await, Head::Answer { status: 200, .. }));
    for replica in [meant, another] {
        assert_eq!(rejected(&replica, &message), Some(Rejected::Replayed));
    }
}

#[tokio::test(start_paused = true)]
async fn old_passes_that_are_shown_again_do_not_fill_the_log() {
    let replica = replica();
    let warns = || replica.may_warn(Instant::now());
    assert!(warns() && !warns());
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(!warns());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(warns() && !warns());
}

#[tokio::test]
async fn whoever_has_the_secret_is_told_who_this_is() {
    let replica = replica();
    let (message, opener) = seal(1, None, NOW, What::Who);
    let Ok(Received::Answered(response)) = replica.receive(message) else { panic!("it is refused") };
    assert!(matches!(head(response, opener).await, Head::Answer { status: 200, .. }));
}

#[tokio::test(start_paused = true)]
async fn nonces_are_remembered_for_as_long_as_they_count() {
    let replica = replica();
    let (message, _) = seal(1, Some(replica.id().clone()), NOW, request());
    assert_eq!(rejected(&replica, &message), None);
    // The clock stands: only the nonce is left to refuse it.
    tokio::time::advance(2 * MAX_SKEW - Duration::from_millis(1)).await;
    assert_eq!(rejected(&replica, &message), Some(Rejected::Replayed));
}

#[test]
fn what_a_token_gave_arrives_as_it_was() {
    use crate::authorization::tokens::scopes;
    use crate::identity::{Pass, ToolScope};
    use crate::ids::{ClientId, GrantId, TokenId};
    let env = Env::system();
    let pass = Pass {
        token: TokenId::generate(&env),
        grant: GrantId::generate(&env),
        client: ClientId::parse("https://app.example/client.json").unwrap(),
        scopes: scopes("mcp notes:read"),
        tools: ToolScope::parse(&[vec!["notes/*".to_owned()], Vec::new()]).unwrap(),
        claims: Some(r#"{"a":1.0}"#.into()),
        issued: env.now(),
        expires: env.now().after(Duration::from_secs(600)),
        epoch: 3,
    };
    let given = serde_json::to_string(&wire::Given::from(&pass)).unwrap();
    let read: wire::Given = serde_json::from_str(&given).unwrap();
    assert_eq!(Pass::try_from(read).unwrap(), pass);
    for (from, to) in [("\"mcp\"", "\"a b\""), (pass.grant.as_str(), "x"), (pass.client.as_str(), "")] {
        let damaged = given.replace(from, to);
        assert_ne!(damaged, given);
        let read: wire::Given = serde_json::from_str(&damaged).unwrap();
        assert!(Pass::try_from(read).is_err(), "{damaged}");
    }
}
