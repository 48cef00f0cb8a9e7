//! Connection flows in a real store: claimed once, by who began them, for whom they were begun.

use std::time::Duration;

use tokio::task::JoinSet;

use super::super::Location;
use super::super::changes;
use super::super::tests::StandingClock;
use super::super::users::tests::{anybody, id as user_id, on_memory};
use super::*;
use crate::audit::OperatorProof;
use crate::connection::{End, Tokens};
use crate::ids::{KeyName, Principal};

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);

fn holder(name: &str) -> Holder {
    Holder::Of(Principal::Key(KeyName::parse(name).unwrap()))
}

fn state(number: usize) -> Digest {
    Digest::of(format!("state {number}").as_bytes())
}

fn browser(number: usize) -> Digest {
    Digest::of(format!("browser {number}").as_bytes())
}

fn new(holder: &Holder, upstream: &str, number: usize) -> NewFlow {
    NewFlow {
        id: FlowId::parse(&format!("{number:024x}")).unwrap(),
        state: state(number),
        place: Place { holder: holder.clone(), upstream: UpstreamName::parse(upstream).unwrap() },
        connection: ConnectionId::parse(&format!("{number:024x}")).unwrap(),
        origin: None,
        issuer: "https://id.example".to_owned(),
        client: "c1".to_owned(),
        redirect: format!("https://gateway.example/connect/{upstream}/callback"),
        verifier: Sealed::from_bytes(*b"verifier"),
        scopes: TokenList::default(),
        browser: browser(number),
        user: Some(user_id(1)),
        life: Duration::from_secs(600),
    }
}

pub(in crate::store) async fn begun(store: &Store, holder: &Holder, upstream: &str, number: usize) -> Flow {
    match begin(store, new(holder, upstream, number), anybody).await.unwrap() {
        Beginning::Begun(flow) => *flow,
        other => panic!("{other:?}"),
    }
}

fn callback(flow: &Flow) -> Callback {
    Callback {
        state: flow.state,
        browser: flow.browser,
        user: flow.user.clone(),
        issuer: Some(flow.issuer.clone()),
        redirect: flow.redirect.clone(),
    }
}

fn tokens(access: &str) -> Credential {
    Credential::OAuth(Tokens {
        issuer: "https://id.example".to_owned(),
        client: "c1".to_owned(),
        access: Sealed::from_bytes(access.as_bytes()),
        refresh: None,
        scopes: TokenList::default(),
        expires: None,
    })
}

/// As [`super::claim`], with access as it is now.
async fn claim<F>(store: &Store, callback: Callback, may_use: F) -> Result<Claim, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    let of = store.read(changes::revision).await?;
    super::claim(store, callback, of, may_use).await
}

/// As [`super::complete`], with access as it is now.
async fn complete<F>(
    store: &Store,
    state: Digest,
    credential: Credential,
    may_use: F,
    actor: Actor,
) -> Result<Completion, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    let of = store.read(changes::revision).await?;
    super::complete(store, state, credential, of, may_use, actor).await
}

async fn checks_of_refusals(store: &Store) -> Vec<String> {
    let rows = audit::list(store, None, 200).await.unwrap().items;
    let checks = rows.into_iter().rev().filter_map(|row| match row.entry.event {
        AuditEvent::FlowRefused { check, .. } => Some(check),
        _ => None,
    });
    checks.collect()
}

async fn a_flow_ends_in_a_connection(store: Store) {
    let flow = begun(&store, &holder("ci"), "notes", 1).await;
    assert_eq!(get(&store, state(1)).await.unwrap().as_ref(), Some(&flow));
    let early = complete(&store, state(1), tokens("t"), anybody, ACTOR).await.unwrap();
    assert_eq!(early, Completion::Gone, "nobody has come back yet");
    let Claim::Claimed(claimed) = claim(&store, callback(&flow), anybody).await.unwrap() else { panic!() };
    assert_eq!((claimed.stage, &claimed.verifier), (Stage::Claimed, &flow.verifier));
    assert_eq!(complete(&store, state(1), tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Connected(1));
    let there = connections::get(&store, &flow.place).await.unwrap().unwrap();
    assert_eq!((there.id, there.revision), (flow.connection.clone(), 1));
    assert_eq!(complete(&store, state(1), tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Gone);
    assert_eq!(claim(&store, callback(&flow), anybody).await.unwrap(), Claim::Refused(Check::Replay));
    assert_eq!(get(&store, state(1)).await.unwrap(), None);
    let left = store.read(|tx| FLOWS.get(tx, state(1).as_bytes())).await.unwrap().map(Flow::try_from).unwrap().unwrap();
    assert_eq!(left.verifier, None, "its secret went with it");

    let renewing = begun(&store, &holder("ci"), "notes", 2).await;
    assert_eq!((renewing.connection.clone(), renewing.renews), (flow.connection, Some(1)));
    claim(&store, callback(&renewing), anybody).await.unwrap();
    assert_eq!(complete(&store, state(2), tokens("u"), anybody, ACTOR).await.unwrap(), Completion::Connected(2));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn an_answer_has_to_come_from_where_it_was_asked_for(store: Store) {
    let flow = begun(&store, &holder("ci"), "notes", 1).await;
    let right = callback(&flow);
    let refused = |callback| async { claim(&store, callback, anybody).await.unwrap() };
    let stranger = Callback { browser: browser(9), ..right.clone() };
    assert_eq!(refused(stranger).await, Claim::Refused(Check::Browser));
    for user in [None, Some(user_id(2))] {
        assert_eq!(refused(Callback { user, ..right.clone() }).await, Claim::Refused(Check::User));
    }
    assert_eq!(refused(Callback { state: state(9), ..right.clone() }).await, Claim::Unknown);
    assert!(get(&store, state(1)).await.unwrap().is_some(), "a stranger ends nothing");
    let elsewhere = Callback { issuer: Some("https://evil.example".to_owned()), ..right.clone() };
    assert_eq!(refused(elsewhere).await, Claim::Refused(Check::Issuer));
    assert_eq!(refused(right).await, Claim::Refused(Check::Replay), "a mix-up ends it");

    let flow = begun(&store, &holder("ci"), "notes", 2).await;
    let other_context =
        Callback { redirect: "https://gateway.example/connect/files/callback".to_owned(), ..callback(&flow) };
    assert_eq!(refused(other_context).await, Claim::Refused(Check::Redirect));
    let flow = begun(&store, &holder("ci"), "notes", 3).await;
    let silent = Callback { issuer: None, ..callback(&flow) };
    assert!(matches!(refused(silent).await, Claim::Claimed(_)), "a server that sends none");
    let unbound = NewFlow { user: None, ..new(&holder("ci"), "notes", 4) };
    let Beginning::Begun(flow) = begin(&store, unbound, anybody).await.unwrap() else { panic!() };
    let anyone = Callback { user: Some(user_id(7)), ..callback(&flow) };
    assert!(matches!(refused(anyone).await, Claim::Claimed(_)), "it is the browser's");
    let checks = checks_of_refusals(&store).await;
    assert_eq!(checks, ["browser", "user", "user", "issuer", "replay", "redirect"]);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn access_is_asked_for_at_each_step(store: Store) {
    let nobody = |_: &Place| Access::Withdrawn;
    let begin_as = |number| begin(&store, new(&holder("ci"), "notes", number), nobody);
    assert_eq!(begin_as(1).await.unwrap(), Beginning::NoAccess);
    let flow = begun(&store, &holder("ci"), "notes", 1).await;
    assert_eq!(claim(&store, callback(&flow), nobody).await.unwrap(), Claim::Refused(Check::Access));
    let flow = begun(&store, &holder("ci"), "notes", 2).await;
    claim(&store, callback(&flow), anybody).await.unwrap();
    assert_eq!(complete(&store, state(2), tokens("t"), nobody, ACTOR).await.unwrap(), Completion::NoAccess);
    assert_eq!(connections::get(&store, &flow.place).await.unwrap(), None);
    let flow = begun(&store, &holder("ci"), "notes", 3).await;
    claim(&store, callback(&flow), anybody).await.unwrap();
    assert!(fail(&store, state(3)).await.unwrap() && !fail(&store, state(3)).await.unwrap());
    assert_eq!(checks_of_refusals(&store).await, ["access", "access"]);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn on_old_news_nothing_is_claimed_or_connected(store: Store) {
    let flow = begun(&store, &holder("ci"), "notes", 1).await;
    let of = store.read(changes::revision).await.unwrap();
    store.write(|tx| changes::announce(tx, changes::Change::Keys)).await.unwrap();
    assert_eq!(super::claim(&store, callback(&flow), of, anybody).await.unwrap(), Claim::Outdated);
    assert!(matches!(claim(&store, callback(&flow), anybody).await.unwrap(), Claim::Claimed(_)));
    let old = super::complete(&store, state(1), tokens("t"), of, anybody, ACTOR).await.unwrap();
    assert_eq!(old, Completion::Outdated);
    assert_eq!(complete(&store, state(1), tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Connected(1));
    assert_eq!(checks_of_refusals(&store).await, [""; 0]);
}

async fn of_64_claims_of_one_flow_one_has_it(store: Store) {
    let flow = begun(&store, &holder("ci"), "notes", 1).await;
    let mut claims = JoinSet::new();
    for _ in 0..64 {
        let (store, callback) = (store.clone(), callback(&flow));
        claims.spawn(async move { claim(&store, callback, anybody).await.unwrap() });
    }
    let outcomes = claims.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Claim::Claimed(_))).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Claim::Refused(Check::Replay)).count(), 63);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn of_two_flows_for_one_place_one_connects(store: Store) {
    let (one, other) = (begun(&store, &holder("ci"), "notes", 1).await, begun(&store, &holder("ci"), "notes", 2).await);
    for flow in [&one, &other] {
        assert!(matches!(claim(&store, callback(flow), anybody).await.unwrap(), Claim::Claimed(_)), "two browsers");
    }
    assert_eq!(complete(&store, other.state, tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Connected(1));
    assert_eq!(complete(&store, one.state, tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Conflict);
    assert_eq!(checks_of_refusals(&store).await, ["connection"]);
    let flow = begun(&store, &holder("ci"), "notes", 3).await;
    connections::disconnect(&store, &flow.place, End::Disconnected, ACTOR).await.unwrap();
    assert_eq!(claim(&store, callback(&flow), anybody).await.unwrap(), Claim::Unknown, "flows go first");
}

async fn a_holder_has_a_bounded_number_of_open_flows(store: Store) {
    for number in 0..MAX_OPEN {
        begun(&store, &holder("ci"), "notes", number).await;
    }
    let one_more = |number| begin(&store, new(&holder("ci"), "notes", number), anybody);
    assert_eq!(one_more(50).await.unwrap(), Beginning::TooMany);
    begun(&store, &holder("ci2"), "notes", 51).await;
    let same_browser = NewFlow { browser: browser(3), ..new(&holder("ci"), "notes", 52) };
    assert!(matches!(begin(&store, same_browser, anybody).await.unwrap(), Beginning::Begun(_)));
    assert_eq!(get(&store, state(3)).await.unwrap(), None, "it began anew");
    let taken = NewFlow { state: state(4), ..new(&holder("ci3"), "notes", 53) };
    assert_eq!(begin(&store, taken, anybody).await.unwrap(), Beginning::Taken);
    let large = NewFlow { redirect: "x".repeat(MAX_TEXT_BYTES + 1), ..new(&holder("ci3"), "notes", 54) };
    assert_eq!(begin(&store, large, anybody).await.unwrap(), Beginning::TooLarge);
    let listed = list(&store, Some(holder("ci")), None, 200).await.unwrap().items;
    assert_eq!(listed.len(), MAX_OPEN);
    assert_eq!(list(&store, None, None, 200).await.unwrap().items.len(), MAX_OPEN + 1);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn a_sweep_takes_those_without_access(store: Store) {
    for (number, upstream) in ["a", "b", "c"].into_iter().enumerate() {
        begun(&store, &holder("ci"), upstream, number).await;
    }
    let of = store.read(changes::revision).await.unwrap();
    let only_b = |place: &Place| if place.upstream.as_str() == "b" { Access::Granted } else { Access::HolderGone };
    assert_eq!(sweep(&store, of, None, only_b).await.unwrap(), Swept::Step { dropped: 2, unreadable: 0, next: None });
    assert_eq!(list(&store, None, None, 9).await.unwrap().items.len(), 1);
    store.write(|tx| changes::announce(tx, changes::Change::Keys)).await.unwrap();
    assert_eq!(sweep(&store, of, None, only_b).await.unwrap(), Swept::Outdated);
    assert_eq!(store.verify().await.unwrap(), []);
}

on_memory!(
    a_flow_ends_in_a_connection,
    an_answer_has_to_come_from_where_it_was_asked_for,
    access_is_asked_for_at_each_step,
    on_old_news_nothing_is_claimed_or_connected,
    of_64_claims_of_one_flow_one_has_it,
    of_two_flows_for_one_place_one_connects,
    a_holder_has_a_bounded_number_of_open_flows,
    a_sweep_takes_those_without_access,
);

#[tokio::test]
async fn a_flow_has_its_time_and_a_claim_a_little_more() {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let flow = begun(&store, &holder("ci"), "notes", 1).await;
    let late = begun(&store, &holder("ci"), "files", 2).await;
    clock.advance(Duration::from_millis(599_999));
    assert!(matches!(claim(&store, callback(&flow), anybody).await.unwrap(), Claim::Claimed(_)));
    clock.advance(Duration::from_millis(1));
    assert_eq!(claim(&store, callback(&late), anybody).await.unwrap(), Claim::Unknown);
    clock.advance(CLAIM - Duration::from_millis(2));
    assert!(get(&store, state(1)).await.unwrap().is_some());
    clock.advance(Duration::from_millis(1));
    assert_eq!(complete(&store, state(1), tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Gone);
    let for_ever = NewFlow { life: Duration::MAX, ..new(&holder("ci"), "notes", 3) };
    let Beginning::Begun(flow) = begin(&store, for_ever, anybody).await.unwrap() else { panic!() };
    assert_eq!(flow.expires, clock.env().now().after(MAX_LIFE));
}

#[tokio::test]
async fn what_one_upstream_was_asked_for_is_not_given_to_the_next_of_its_name() {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let (one, two) = (begun(&store, &holder("a"), "notes", 1).await, begun(&store, &holder("b"), "notes", 2).await);
    assert!(matches!(claim(&store, callback(&one), anybody).await.unwrap(), Claim::Claimed(_)));
    clock.advance(Duration::from_secs(1));
    upstreams::tests::declared(&store, "notes").await;
    assert_eq!(claim(&store, callback(&two), anybody).await.unwrap(), Claim::Refused(Check::Access));
    assert_eq!(complete(&store, state(1), tokens("t"), anybody, ACTOR).await.unwrap(), Completion::NoAccess);
    let flow = begun(&store, &holder("a"), "notes", 3).await;
    assert!(matches!(claim(&store, callback(&flow), anybody).await.unwrap(), Claim::Claimed(_)));
    assert_eq!(complete(&store, state(3), tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Connected(1));
}

#[tokio::test]
async fn a_flow_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let path = directory.path().join("portcullis.redb");
        async move { Store::open(Location::File(path), StandingClock::at(1_000).env()).await.unwrap() }
    };
    let store = open().await;
    let flow = begun(&store, &holder("ci"), "notes", 1).await;
    store.close().await;
    let store = open().await;
    assert!(matches!(claim(&store, callback(&flow), anybody).await.unwrap(), Claim::Claimed(_)));
    store.close().await;
    let store = open().await;
    assert_eq!(claim(&store, callback(&flow), anybody).await.unwrap(), Claim::Refused(Check::Replay));
    assert_eq!(complete(&store, state(1), tokens("t"), anybody, ACTOR).await.unwrap(), Completion::Connected(1));
    store.close().await;
}
