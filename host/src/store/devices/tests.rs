//! Devices that wait, people who guess, and the poll that gets the grant.

use tokio::task::JoinSet;

use super::super::oauth_testing::*;
use super::super::revocations::{Whose, revoke_all};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LIFE: Duration = Duration::from_secs(600);
const MANY: u64 = 1_000;

pub(in crate::store) fn device(name: &str) -> DeviceRequest {
    DeviceRequest {
        device_code: digest(&format!("device-{name}")),
        user_code: digest(&format!("user-{name}")),
        client: client("app"),
        resources: access().resources,
        scopes: access().scopes,
        proof: None,
        from: Some([192, 0, 2, 1].into()),
        life: Window { from: Timestamp::default(), until: Timestamp::default() },
        interval: 5 * SECOND,
        last_poll: None,
        state: DeviceState::Pending,
    }
}

async fn wait(store: &Store, name: &str) {
    assert_eq!(begin(store, device(name), LIFE, MANY).await.unwrap(), Begin::Begun);
}

async fn ask(store: &Store, name: &str, grant: u64) -> Poll {
    let new = new_grant(grant, &format!("refresh{grant}"));
    poll(store, digest(&format!("device-{name}")), client("app"), None, Some(new)).await.unwrap()
}

fn approve() -> Verdict {
    Verdict::Approve { principal: key("ci"), access: access() }
}

async fn say(store: &Store, name: &str, verdict: Verdict) -> Decision {
    decide(store, digest(&format!("device-{name}")), verdict, OPERATOR).await.unwrap()
}

#[tokio::test]
async fn a_device_gets_its_grant_once_it_is_approved() {
    for mut place in engines().await {
        wait(&place.store, "a").await;
        assert_eq!(ask(&place.store, "a", 1).await, Poll::Pending);
        place.restart().await;
        let found = look_up(&place.store, digest("user-a"), digest("me"), Guesses::default()).await.unwrap();
        assert!(matches!(found, LookUp::Found(found) if found.client == client("app")));
        assert_eq!(say(&place.store, "a", approve()).await, Decision::Decided);
        assert_eq!(say(&place.store, "a", Verdict::Refuse).await, Decision::Gone, "it was decided");
        place.forward(5 * SECOND);
        place.restart().await;
        let Poll::Granted(grant) = ask(&place.store, "a", 1).await else { panic!("no grant") };
        assert_eq!((grant.principal.clone(), grant.access.clone()), (key("ci"), access()));
        assert_eq!(trail(&place.store).await, ["consent.given", "grant.issued"]);
        // A device that has lost the answer asks again, and keeps what it has.
        assert_eq!(ask(&place.store, "a", 2).await, Poll::Gone(Gone::Expired));
        place.restart().await;
        assert_eq!(grants::get(&place.store, &grant_id(1)).await.unwrap().unwrap().end, None);
        // Whoever comes again with the same code when no device would has a copy of it.
        place.forward(LIFE);
        let expected = Poll::Replayed { grant: grant_id(1), revoked: Revocation::Revoked };
        assert_eq!(ask(&place.store, "a", 2).await, expected);
        assert_eq!(grants::get(&place.store, &grant_id(1)).await.unwrap().unwrap().end, Some(Gone::Revoked));
        verify(&place.store).await;
    }
}

#[tokio::test]
async fn an_approval_waits_for_whoever_has_something_to_grant() {
    for place in engines().await {
        let store = &place.store;
        wait(store, "a").await;
        assert_eq!(say(store, "a", approve()).await, Decision::Decided);
        let unprepared = poll(store, digest("device-a"), client("app"), None, None).await.unwrap();
        assert_eq!(unprepared, Poll::Pending);
        assert_eq!(trail(store).await, ["consent.given"]);
        place.forward(5 * SECOND);
        assert!(matches!(ask(store, "a", 1).await, Poll::Granted(_)));
        verify(store).await;
    }
}

#[tokio::test]
async fn a_user_code_decides_nothing() {
    let place = Place::memory().await;
    wait(&place.store, "a").await;
    for verdict in [approve(), Verdict::Refuse] {
        let answer = decide(&place.store, digest("user-a"), verdict, OPERATOR).await.unwrap();
        assert_eq!(answer, Decision::Gone, "guesses are for those who count them");
    }
    assert_eq!(ask(&place.store, "a", 1).await, Poll::Pending);
}

#[tokio::test]
async fn a_device_that_is_refused_or_late_gets_nothing() {
    for place in engines().await {
        let store = &place.store;
        for name in ["refused", "late", "back"] {
            wait(store, name).await;
        }
        assert_eq!(say(store, "refused", Verdict::Refuse).await, Decision::Decided);
        assert_eq!(ask(store, "refused", 1).await, Poll::Refused);
        assert_eq!(ask(store, "never", 1).await, Poll::Gone(Gone::Unknown));
        assert_eq!(say(store, "never", approve()).await, Decision::Gone);
        place.forward(LIFE);
        assert_eq!(ask(store, "late", 1).await, Poll::Gone(Gone::Expired));
        assert_eq!(say(store, "late", approve()).await, Decision::Gone);
        place.back(LIFE * 3);
        assert_eq!(ask(store, "back", 1).await, Poll::Gone(Gone::Expired), "a clock makes no long life");
        assert_eq!(trail(store).await, ["consent.refused"]);
        verify(store).await;
    }
}

#[tokio::test]
async fn a_code_is_for_its_own_client_key_and_access() {
    let place = Place::memory().await;
    let store = &place.store;
    begin(store, DeviceRequest { proof: Some(digest("jkt")), ..device("a") }, LIFE, MANY).await.unwrap();
    let wider = Access { scopes: tokens(&["admin"]), ..access() };
    let widened = Verdict::Approve { principal: key("ci"), access: wider };
    assert_eq!(say(store, "a", widened).await, Decision::Widened);
    assert_eq!(say(store, "a", approve()).await, Decision::Decided);
    let new = || Some(new_grant(1, "r"));
    let with = async |of, proof| poll(store, digest("device-a"), client(of), proof, new()).await.unwrap();
    assert_eq!(with("other", Some(digest("jkt"))).await, Poll::Mismatch(Mismatch::Client));
    assert_eq!(with("app", None).await, Poll::Mismatch(Mismatch::Proof));
    let Poll::Granted(grant) = with("app", Some(digest("jkt"))).await else { panic!("no grant") };
    assert_eq!(grant.proof, Some(digest("jkt")));
}

#[tokio::test]
async fn a_device_that_polls_too_soon_is_slowed_down() {
    let place = Place::memory().await;
    let store = &place.store;
    wait(store, "a").await;
    assert_eq!(ask(store, "a", 1).await, Poll::Pending);
    place.forward(4 * SECOND);
    assert_eq!(ask(store, "a", 1).await, Poll::SlowDown(10 * SECOND));
    say(store, "a", approve()).await;
    place.forward(9 * SECOND);
    assert_eq!(ask(store, "a", 1).await, Poll::SlowDown(15 * SECOND), "even now");
    place.forward(15 * SECOND);
    assert!(matches!(ask(store, "a", 1).await, Poll::Granted(_)));
}

#[tokio::test]
async fn of_64_polls_at_once_one_has_a_grant() {
    let place = Place::file().await;
    begin(&place.store, DeviceRequest { interval: Duration::ZERO, ..device("a") }, LIFE, MANY).await.unwrap();
    say(&place.store, "a", approve()).await;
    let mut devices = JoinSet::new();
    for number in 0..64 {
        let store = place.store.clone();
        devices.spawn(async move { ask(&store, "a", number).await });
    }
    let answers = devices.join_all().await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Poll::Granted(_))).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Poll::Gone(Gone::Expired)).count(), 63);
    let [Poll::Granted(grant)] =
        &answers.iter().filter(|answer| matches!(answer, Poll::Granted(_))).collect::<Vec<_>>()[..]
    else {
        panic!()
    };
    assert_eq!(grants::get(&place.store, &grant.id).await.unwrap().unwrap().end, None);
    verify(&place.store).await;
}

#[tokio::test]
async fn wrong_user_codes_are_counted_for_each_and_for_all() {
    let guesses = Guesses { of_one: 5, of_all: 12, within: LIFE };
    for place in engines().await {
        let store = &place.store;
        wait(store, "a").await;
        let guess = async |code, from: &str| look_up(store, digest(code), digest(from), guesses).await.unwrap();
        for _ in 0..5 {
            assert_eq!(guess("user-b", "mallory").await, LookUp::Unknown);
        }
        assert_eq!(guess("user-a", "mallory").await, LookUp::TooMany, "not even the right one");
        for _ in 0..10 {
            assert!(matches!(guess("user-a", "alice").await, LookUp::Found(_)), "right ones do not count");
        }
        for number in 0..7 {
            assert_eq!(guess("user-b", &format!("mallory{number}")).await, LookUp::Unknown);
        }
        assert_eq!(guess("user-a", "alice").await, LookUp::TooMany, "of all");
        place.forward(LIFE);
        wait(store, "c").await;
        assert!(matches!(guess("user-c", "mallory").await, LookUp::Found(_)));
        while place.sweep().await > 0 {}
        let left = store.read(|tx| rows(tx, Table::UserCodeMisses).map(|rows| rows.len())).await.unwrap();
        assert_eq!(left, 0);
        verify(store).await;
    }
}

#[tokio::test]
async fn codes_are_drawn_anew_where_they_are_taken_and_devices_are_bounded() {
    let place = Place::memory().await;
    let store = &place.store;
    wait(store, "a").await;
    let same_user = DeviceRequest { device_code: digest("other"), ..device("a") };
    assert_eq!(begin(store, same_user, LIFE, MANY).await.unwrap(), Begin::Taken);
    let same_device = DeviceRequest { user_code: digest("other"), ..device("a") };
    assert_eq!(begin(store, same_device, LIFE, MANY).await.unwrap(), Begin::Taken);
    assert_eq!(begin(store, device("b"), LIFE, 1).await.unwrap(), Begin::TooMany);
    // A place is free again soon after a device has given up, and later where it got what a copy could come for.
    place.forward(LIFE + 60 * SECOND);
    while place.sweep().await > 0 {}
    assert_eq!(begin(store, device("b"), LIFE, 1).await.unwrap(), Begin::Begun);
    assert_eq!(say(store, "b", approve()).await, Decision::Decided);
    assert!(matches!(ask(store, "b", 1).await, Poll::Granted(_)));
    place.forward(LIFE + 60 * SECOND);
    while place.sweep().await > 0 {}
    assert_eq!(begin(store, device("c"), LIFE, 1).await.unwrap(), Begin::TooMany);
    place.forward(DAY);
    while place.sweep().await > 0 {}
    assert_eq!(begin(store, device("c"), LIFE, 1).await.unwrap(), Begin::Begun);
    verify(store).await;
}

#[tokio::test]
async fn an_approval_dies_with_its_principal() {
    let place = Place::memory().await;
    wait(&place.store, "a").await;
    say(&place.store, "a", approve()).await;
    place.forward(SECOND);
    revoke_all(&place.store, Whose::Principal(key("ci")), RevocationReason::PrincipalGone, OPERATOR).await.unwrap();
    assert_eq!(ask(&place.store, "a", 1).await, Poll::Gone(Gone::Revoked));
}
