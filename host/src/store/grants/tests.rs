//! The state machine of refresh tokens row by row, races, and what ends a grant.

use tokio::task::JoinSet;

use super::super::changes::Change;
use super::super::oauth_testing::*;
use super::super::revocations::{Whose, denied, denied_of, revoke_all, watermarks};
use super::super::{authorizations, devices};
use super::*;
use crate::identity::user::Role;
use crate::ids::UserId;
use crate::oauth::ResourceList;
use crate::oauth::grant::{Grace, MAX_GENERATIONS, Presented, Successor};
use crate::oauth::request::{AuthorizationRequest, Chosen};
use crate::secret::Sealed;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const IDLE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

fn presented(token: &str) -> Presented {
    Presented {
        token: digest(token),
        client: client("app"),
        proof: None,
        scopes: None,
        resources: ResourceList::default(),
        is_stored: true,
    }
}

fn successor(name: &str) -> Successor {
    Successor { digest: digest(name), sealed: Sealed::from_bytes(name.as_bytes()), signed: Timestamp::default() }
}

async fn present(store: &Store, with: Presented, next: &str, grace: Grace) -> String {
    told(&refresh(store, with, successor(next), grace, IDLE).await.unwrap())
}

async fn rotate(store: &Store, token: &str, next: &str) -> String {
    present(store, presented(token), next, Grace::default()).await
}

fn told(answer: &Refresh) -> String {
    match answer {
        Refresh::Rotated(_) => "rotated".to_owned(),
        Refresh::Replayed { successors, .. } => {
            let names = successors.iter().map(|sealed| std::str::from_utf8(sealed.as_bytes()).unwrap());
            format!("replayed {}", names.collect::<Vec<_>>().join(" "))
        }
        Refresh::TooOften => "too often".to_owned(),
        Refresh::Reused(OnReuse::RevokeFamily) => "revoked".to_owned(),
        Refresh::Reused(OnReuse::Reject) => "rejected".to_owned(),
        Refresh::Mismatch(mismatch) => format!("mismatch {mismatch:?}"),
        Refresh::Gone(gone) => format!("gone {gone:?}"),
    }
}

/// Runs lines of `SECONDS TOKEN SUCCESSOR: ANSWER`, the seconds counted from the grant on.
async fn run(grace: Grace, lines: &[&str]) {
    for mut place in engines().await {
        issue(&place.store, 1, "a", party("ci", "app")).await;
        let start = place.now();
        for line in lines {
            let (step, expected) = line.split_once(": ").unwrap();
            let [seconds, token, next] = step.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let at = start.after(Duration::from_millis((seconds.parse::<f64>().unwrap() * 1000.0) as u64));
            place.forward(Duration::from_millis(at.as_millis() - place.now().as_millis()));
            assert_eq!(present(&place.store, presented(token), next, grace).await, expected, "{line}");
            place.restart().await;
        }
        verify(&place.store).await;
    }
}

#[tokio::test]
async fn the_head_is_used_and_its_successor_is_the_head() {
    run(Grace::default(), &["0 a b: rotated", "1 b c: rotated", "2000 c d: rotated"]).await;
}

#[tokio::test]
async fn within_its_grace_a_used_token_gets_the_same_successor() {
    run(
        Grace::default(),
        &["0 a b: rotated", "10 a x: replayed b", "29.999 a y: replayed b", "29.999 b c: rotated", "50 c d: rotated"],
    )
    .await;
}

#[tokio::test]
async fn a_token_that_comes_back_has_one_line_in_the_trail() {
    let place = Place::memory().await;
    issue(&place.store, 1, "a", party("ci", "app")).await;
    assert_eq!(rotate(&place.store, "a", "b").await, "rotated");
    for _ in 0..3 {
        assert_eq!(rotate(&place.store, "a", "x").await, "replayed b");
    }
    assert_eq!(trail(&place.store).await, ["grant.issued", "refresh.replayed"]);
}

#[tokio::test]
async fn a_grant_has_a_bounded_number_of_tokens() {
    let place = Place::memory().await;
    issue(&place.store, 1, "a", party("ci", "app")).await;
    let at = async |generation| {
        let moved = move |tx: &mut WriteTx<'_>| {
            let token = token_in(tx, digest("a"))?.expect("it was issued");
            TOKENS.put(tx, &TokenRecord::from(&RefreshToken { generation, ..token }))
        };
        place.store.write(moved).await.unwrap();
    };
    at(MAX_GENERATIONS).await;
    assert_eq!(rotate(&place.store, "a", "b").await, "gone Expired");
    at(MAX_GENERATIONS - 1).await;
    assert_eq!(rotate(&place.store, "a", "b").await, "rotated");
    assert_eq!(rotate(&place.store, "b", "c").await, "gone Expired");
}

#[tokio::test]
async fn after_its_grace_a_used_token_ends_the_family() {
    run(Grace::default(), &["0 a b: rotated", "30 a x: revoked", "31 b c: gone Revoked", "32 a y: gone Revoked"]).await;
}

#[tokio::test]
async fn an_ancestor_within_its_grace_is_led_to_the_head() {
    let lines =
        ["0 a b: rotated", "5 b c: rotated", "9 c d: rotated", "10 a x: replayed b c d", "20 b x: replayed c d"];
    run(Grace::default(), &lines).await;
}

#[tokio::test]
async fn an_older_generation_ends_the_family() {
    run(Grace::default(), &["0 a b: rotated", "20 b c: rotated", "31 a x: revoked", "32 c d: gone Revoked"]).await;
    run(Grace::default(), &["0 a b: rotated", "60 b c: rotated", "120 c d: rotated", "121 a x: revoked"]).await;
}

#[tokio::test]
async fn without_grace_a_token_is_used_once() {
    run(Grace::new(Duration::ZERO, 20), &["0 a b: rotated", "0 a x: revoked", "0 b c: gone Revoked"]).await;
}

#[tokio::test]
async fn a_grace_is_a_minute_at_most() {
    let grace = Grace::new(HOUR, 20);
    run(grace, &["0 a b: rotated", "59.999 a x: replayed b", "60 a x: revoked"]).await;
}

#[tokio::test]
async fn a_token_that_comes_back_too_often_changes_nothing() {
    let lines = ["0 a b: rotated", "1 a x: replayed b", "1 a x: replayed b", "1 a x: too often", "2 b c: rotated"];
    run(Grace::new(30 * SECOND, 2), &lines).await;
}

#[tokio::test]
async fn the_way_to_the_head_is_bounded() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    for (links, expected) in [(8, "replayed b c d e f g h i"), (9, "revoked")] {
        let place = Place::memory().await;
        issue(&place.store, 1, "a", party("ci", "app")).await;
        for pair in names[..=links].windows(2) {
            assert_eq!(rotate(&place.store, pair[0], pair[1]).await, "rotated");
        }
        assert_eq!(rotate(&place.store, "a", "x").await, expected);
    }
}

#[tokio::test]
async fn no_grace_from_now_on_is_none_for_what_was_used_before() {
    let place = Place::memory().await;
    issue(&place.store, 1, "a", party("ci", "app")).await;
    rotate(&place.store, "a", "b").await;
    let strict = Grace::new(Duration::ZERO, 20);
    assert_eq!(present(&place.store, presented("a"), "x", strict).await, "revoked");
}

#[tokio::test]
async fn what_does_not_belong_to_a_token_changes_nothing_whatever_the_token() {
    for place in engines().await {
        let store = &place.store;
        issue_as(store, new_grant(1, "a"), party("ci", "app"), Some(digest("jkt"))).await;
        let right = |token| Presented { proof: Some(digest("jkt")), ..presented(token) };
        assert_eq!(present(store, right("a"), "b", Grace::default()).await, "rotated");
        place.forward(60 * SECOND);
        // The head and a token whose reuse would end the family.
        for token in ["b", "a"] {
            let wrong = [
                (Presented { client: client("other"), ..right(token) }, "mismatch Client"),
                (Presented { proof: None, ..right(token) }, "mismatch Proof"),
                (Presented { proof: Some(digest("other")), ..right(token) }, "mismatch Proof"),
                (Presented { scopes: Some(tokens(&["read", "admin"])), ..right(token) }, "mismatch Scope"),
                (
                    Presented { resources: resources(&["https://gateway.example/mcp/x"]), ..right(token) },
                    "mismatch Resource",
                ),
            ];
            let before = trail(store).await;
            for (presented, expected) in wrong {
                assert_eq!(present(store, presented, "x", Grace::default()).await, expected);
            }
            assert_eq!(trail(store).await, before);
        }
        let narrower = Presented {
            scopes: Some(tokens(&["read"])),
            resources: resources(&["https://gateway.example/mcp/notes"]),
            ..right("b")
        };
        assert_eq!(present(store, narrower, "c", Grace::default()).await, "rotated");
        assert_eq!(present(store, right("a"), "x", Grace::default()).await, "revoked");
    }
}

#[tokio::test]
async fn a_client_may_keep_its_family_when_a_token_comes_back() {
    let place = Place::memory().await;
    let new = NewGrant { on_reuse: OnReuse::Reject, ..new_grant(1, "a") };
    issue_as(&place.store, new, party("ci", "app"), None).await;
    rotate(&place.store, "a", "b").await;
    place.forward(60 * SECOND);
    for _ in 0..100 {
        assert_eq!(rotate(&place.store, "a", "x").await, "rejected");
    }
    assert_eq!(rotate(&place.store, "b", "c").await, "rotated");
    let trail = trail(&place.store).await;
    assert_eq!(trail.iter().filter(|event| **event == "refresh.reuse_refused").count(), 64, "and no line more");
}

#[tokio::test]
async fn a_family_ends_when_it_is_idle_and_in_any_case() {
    let place = Place::memory().await;
    issue(&place.store, 1, "0", party("ci", "app")).await;
    issue(&place.store, 2, "idle", party("ci", "app")).await;
    // Used every 29 days, it lives for 90.
    for number in 0..3 {
        place.forward(29 * DAY);
        assert_eq!(rotate(&place.store, &number.to_string(), &(number + 1).to_string()).await, "rotated");
    }
    let Listed { grant, .. } = get(&place.store, &grant_id(1)).await.unwrap().unwrap();
    assert_eq!((grant.idle_until, grant.last_used), (grant.until, place.now()));
    place.forward(3 * DAY - Duration::from_millis(1));
    assert_eq!(rotate(&place.store, "3", "4").await, "rotated");
    place.forward(Duration::from_millis(1));
    assert_eq!(rotate(&place.store, "4", "5").await, "gone Expired");
    assert_eq!(rotate(&place.store, "idle", "x").await, "gone Expired");
    assert_eq!(rotate(&place.store, "never", "x").await, "gone Unknown");
}

#[tokio::test]
async fn a_clock_that_steps_does_not_open_what_is_over() {
    for (step, expected) in [(HOUR, "revoked"), (Duration::ZERO, "replayed b")] {
        for forward in [true, false] {
            let place = Place::memory().await;
            issue(&place.store, 1, "a", party("ci", "app")).await;
            rotate(&place.store, "a", "b").await;
            if forward {
                place.forward(step);
            } else {
                place.back(step);
            }
            assert_eq!(rotate(&place.store, "b", "c").await, "rotated", "the head is the head at any time");
            assert_eq!(rotate(&place.store, "a", "x").await, if step.is_zero() { "replayed b c" } else { expected });
        }
    }
}

#[tokio::test]
async fn a_restored_store_knows_no_grant_from_before() {
    let place = Place::memory().await;
    issue(&place.store, 1, "a", party("ci", "app")).await;
    place.store.write(|tx| super::super::begin_epoch(tx, 0)).await.unwrap();
    assert_eq!(rotate(&place.store, "a", "b").await, "gone Restored");
    let grant = issue(&place.store, 2, "c", party("ci", "app")).await;
    assert_eq!(grant.epoch, 2);
    assert_eq!(rotate(&place.store, "c", "d").await, "rotated");
}

async fn race(replays: u32) -> Vec<String> {
    let place = Place::file().await;
    issue(&place.store, 1, "a", party("ci", "app")).await;
    let mut clients = JoinSet::new();
    for number in 0..64 {
        let store = place.store.clone();
        let grace = Grace::new(30 * SECOND, replays);
        clients.spawn(async move { (number, present(&store, presented("a"), &format!("b{number}"), grace).await) });
    }
    let mut answers = clients.join_all().await;
    answers.sort();
    let winners: Vec<u32> = answers.iter().filter(|(_, told)| told == "rotated").map(|(number, _)| *number).collect();
    let [winner] = winners[..] else { panic!("{winners:?} won") };
    for (number, told) in &answers {
        assert!(*number == winner || *told == format!("replayed b{winner}") || *told == "too often", "{told}");
    }
    // One chain: the winner's successor is the head, and nobody else's is anything.
    for (number, _) in &answers {
        let expected = if *number == winner { "rotated" } else { "gone Unknown" };
        assert_eq!(rotate(&place.store, &format!("b{number}"), &format!("c{number}")).await, expected);
    }
    verify(&place.store).await;
    answers.into_iter().map(|(_, told)| told).collect()
}

#[tokio::test]
async fn of_64_who_refresh_one_token_all_get_the_same_successor_by_default() {
    let answers = race(Grace::default().replays()).await;
    assert_eq!(answers.iter().filter(|told| told.starts_with("replayed")).count(), 63);
}

#[tokio::test]
async fn of_64_who_refresh_one_token_as_many_come_back_as_may() {
    let answers = race(20).await;
    assert_eq!(answers.iter().filter(|told| told.starts_with("replayed")).count(), 20);
    assert_eq!(answers.iter().filter(|told| *told == "too often").count(), 43);
}

#[tokio::test]
async fn sealed_successors_go_with_the_grace_and_tombstones_a_month_after_the_family() {
    let place = Place::memory().await;
    issue(&place.store, 1, "a", party("ci", "app")).await;
    rotate(&place.store, "a", "b").await;
    let count = |table| place.store.read(move |tx| rows(tx, table).map(|rows| rows.len()));
    place.forward(29 * SECOND);
    assert_eq!((place.sweep().await, count(Table::SealedSuccessors).await.unwrap()), (0, 1));
    place.forward(SECOND);
    assert_eq!((place.sweep().await, count(Table::SealedSuccessors).await.unwrap()), (1, 0));
    assert_eq!(rotate(&place.store, "a", "x").await, "revoked");
    place.forward(30 * DAY);
    place.sweep().await;
    assert_eq!(get(&place.store, &grant_id(1)).await.unwrap(), None);
    assert_eq!(rotate(&place.store, "b", "x").await, "gone Unknown");
    place.forward(90 * DAY);
    place.sweep().await;
    assert_eq!(count(Table::RefreshTokens).await.unwrap(), 0);
    verify(&place.store).await;
}

#[tokio::test]
async fn a_grant_is_remembered_after_its_end_as_long_as_was_set_when_it_was_made() {
    for place in engines().await {
        let store = &place.store;
        for (number, days) in [(1, 2), (2, 60)] {
            let new = NewGrant { kept: days * DAY, ..new_grant(number, &format!("t{number}")) };
            issue_as(store, new, party("ci", "app"), None).await;
            revoke(store, &grant_id(number), RevocationReason::Operator, OPERATOR).await.unwrap();
        }
        let left = async || {
            while place.sweep().await > 0 {}
            let mut left = Vec::new();
            for number in 1..=2 {
                left.push(get(store, &grant_id(number)).await.unwrap().is_some());
            }
            left
        };
        assert_eq!(left().await, [true, true]);
        place.forward(2 * DAY);
        assert_eq!(left().await, [false, true]);
        place.forward(57 * DAY);
        assert_eq!(left().await, [false, true]);
        place.forward(DAY);
        assert_eq!(left().await, [false, false]);
        verify(store).await;
    }
}

#[tokio::test]
async fn a_grant_is_revoked_once_and_everybody_learns_of_it() {
    for place in engines().await {
        let store = &place.store;
        let grant = issue(store, 1, "a", party("ci", "app")).await;
        issue(store, 2, "b", party("ci", "app")).await;
        let by_operator = || revoke(store, &grant.id, RevocationReason::Operator, OPERATOR);
        assert_eq!(by_operator().await.unwrap(), Revocation::Revoked);
        assert_eq!(by_operator().await.unwrap(), Revocation::NotFound);
        assert_eq!(
            revoke(store, &grant_id(9), RevocationReason::Operator, OPERATOR).await.unwrap(),
            Revocation::NotFound
        );
        assert_eq!(rotate(store, "a", "x").await, "gone Revoked");
        assert_eq!(rotate(store, "b", "x").await, "rotated");
        assert_eq!(trail(store).await, ["grant.issued", "grant.issued", "grant.revoked"]);
        let reason = RevocationReason::Operator;
        let event = AuditEvent::GrantRevoked { grant: grant.id.clone(), party: party("ci", "app"), reason };
        assert_eq!(last_event(store).await, event);
        assert_eq!(announced(store).await, [Change::Grant { id: grant.id.to_string() }]);
        let page = denied(store, None).await.unwrap();
        assert_eq!(
            page.items.iter().map(|denied| (&denied.grant, &denied.token)).collect::<Vec<_>>(),
            [(&grant.id, &None)]
        );
        assert_eq!(denied_of(store, &grant.id).await.unwrap(), page.items);
        assert_eq!(denied_of(store, &grant_id(2)).await.unwrap(), []);
        // As long as an access token of it may live, and not for ever.
        place.forward(HOUR);
        assert_eq!(denied(store, None).await.unwrap().items.len(), 1);
        place.forward(HOUR);
        assert_eq!(denied(store, None).await.unwrap().items.len(), 0);
        verify(store).await;
    }
}

#[tokio::test]
async fn a_client_and_a_principal_revoke_their_own_and_nobody_elses() {
    let place = Place::memory().await;
    let store = &place.store;
    for (number, token) in [(1, "a"), (2, "b"), (3, "c")] {
        issue(store, number, token, party("ci", "app")).await;
    }
    rotate(store, "a", "a2").await;
    assert_eq!(revoke_token(store, digest("a"), &client("other")).await.unwrap(), Revocation::NotFound);
    assert_eq!(revoke_token(store, digest("never"), &client("app")).await.unwrap(), Revocation::NotFound);
    assert_eq!(
        revoke_token(store, digest("a"), &client("app")).await.unwrap(),
        Revocation::Revoked,
        "a used one as well"
    );
    assert_eq!(rotate(store, "a2", "x").await, "gone Revoked");
    assert_eq!(revoke_own(store, &grant_id(2), &key("other"), OPERATOR).await.unwrap(), Revocation::NotFound);
    assert_eq!(revoke_own(store, &grant_id(2), &key("ci"), OPERATOR).await.unwrap(), Revocation::Revoked);
    assert_eq!(rotate(store, "c", "x").await, "rotated");
    let (listed, token) = by_token(store, digest("a2")).await.unwrap().unwrap();
    assert_eq!((listed.end, token.generation), (Some(Gone::Revoked), 1));
}

#[tokio::test]
async fn a_watermark_ends_what_was_granted_before_it_and_nothing_else() {
    let guest = |number: u64| Principal::Guest(crate::ids::GuestId::parse(&format!("{number:024x}")).unwrap());
    let cases = [
        (Whose::Everybody, [false, false, false]),
        (Whose::Kind(revocations::PrincipalKind::Guest), [true, true, false]),
        (Whose::Principal(key("ci")), [false, true, true]),
        (Whose::Client(client("app")), [false, true, false]),
    ];
    for (whose, survives) in cases {
        let place = Place::memory().await;
        let store = &place.store;
        issue(store, 1, "a", party("ci", "app")).await;
        issue(store, 2, "b", party("other", "web")).await;
        issue(store, 3, "c", Party { principal: guest(1), client: client("app") }).await;
        let told = revoke_all(store, whose.clone(), RevocationReason::Operator, OPERATOR).await.unwrap();
        assert_eq!(watermarks(store, None).await.unwrap().items, [told]);
        assert_eq!(announced(store).await, [Change::Watermark { of: whose.to_string() }]);
        assert_eq!(Whose::parse(&whose.to_string()), Some(whose.clone()));
        for (number, (token, survives)) in ["a", "b", "c"].into_iter().zip(survives).enumerate() {
            let of = ["app", "web", "app"][number];
            let with = Presented { client: client(of), ..presented(token) };
            let expected = if survives { "rotated" } else { "gone Revoked" };
            assert_eq!(present(store, with, &format!("{token}2"), Grace::default()).await, expected, "{whose} {token}");
            let listed = get(store, &grant_id(number as u64 + 1)).await.unwrap().unwrap();
            assert_eq!(listed.end.is_none(), survives);
        }
        // Whoever consents again has a grant again.
        place.forward(Duration::from_millis(1));
        issue(store, 4, "d", party("ci", "app")).await;
        assert_eq!(rotate(store, "d", "d2").await, "rotated");
        verify(store).await;
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_takes_no_revocation_back() {
    let place = Place::memory().await;
    issue(&place.store, 1, "a", party("ci", "app")).await;
    let all = || revoke_all(&place.store, Whose::Everybody, RevocationReason::Operator, OPERATOR);
    let first = all().await.unwrap();
    place.back(HOUR);
    assert_eq!(all().await.unwrap().not_before, first.not_before);
    assert_eq!(rotate(&place.store, "a", "b").await, "gone Revoked");
}

#[tokio::test]
async fn lists_are_pages_of_each_owners_grants_newest_first() {
    let place = Place::memory().await;
    let store = &place.store;
    for number in 0..250 {
        let of = if number % 2 == 0 { party("even", "app") } else { party("odd", "web") };
        issue(store, number, &format!("t{number}"), of).await;
    }
    let even: Vec<u64> = (0..250).rev().filter(|number| number % 2 == 0).collect();
    let all: Vec<u64> = (0..250).rev().collect();
    for (of, expected) in
        [(Of::All, all), (Of::Principal(key("even")), even.clone()), (Of::Client(client("app")), even)]
    {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = list(store, of.clone(), after, 200).await.unwrap();
            seen.extend(page.items.into_iter().map(|listed| listed.grant.id));
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        assert_eq!(seen, expected.into_iter().map(grant_id).collect::<Vec<_>>(), "{of:?}");
    }
    assert_eq!(list(store, Of::Principal(key("eve")), None, 10).await.unwrap().items, [], "no prefix of another");
}

/// Something that takes from a user what they had granted.
#[derive(Clone, Copy, Debug)]
enum Goes {
    Deleted,
    Suspended,
}

async fn goes(store: &Store, id: &UserId, how: Goes) {
    match how {
        Goes::Deleted => {
            let deletion = users::delete(store, id, OPERATOR).await.unwrap();
            assert!(matches!(deletion, users::Deletion::Deleted(_)));
        }
        Goes::Suspended => {
            let change = users::change(store, id, None, vec![users::Edit::Suspend], OPERATOR).await.unwrap();
            assert!(matches!(change, users::Change::Changed(_)));
        }
    }
}

#[tokio::test]
async fn nothing_is_left_of_what_a_user_granted_who_goes() {
    for how in [Goes::Deleted, Goes::Suspended] {
        for mut place in engines().await {
            let ada = users::tests::created(&place.store, users::tests::new(1, Role::User)).await.id;
            let of_ada = || Principal::User(ada.clone());
            let consent = |code: &str| authorizations::Consent {
                principal: of_ada(),
                access: access(),
                code: digest(code),
                code_life: HOUR,
                remember: None,
            };
            let verdict = || devices::Verdict::Approve { principal: of_ada(), access: access() };
            let approve = async |place: &Place, number: u64| {
                let most = 1_000;
                let chosen = Some(Chosen { principal: of_ada(), session: None, at: place.now() });
                let request = AuthorizationRequest { chosen, ..request(number) };
                authorizations::begin(&place.store, request, HOUR, most).await.unwrap();
                let code = format!("code{number}");
                let id = request_id(number);
                authorizations::approve(&place.store, &id, digest("browser"), consent(&code), OPERATOR).await.unwrap()
            };
            let decide = async |place: &Place, name: &str| {
                let device = devices::tests::device(name);
                devices::begin(&place.store, device.clone(), HOUR, 1_000).await.unwrap();
                devices::decide(&place.store, device.device_code, verdict(), OPERATOR).await.unwrap()
            };
            issue(&place.store, 1, "a", Party { principal: of_ada(), client: client("app") }).await;
            issue(&place.store, 2, "b", party("ci", "app")).await;
            assert!(matches!(approve(&place, 1).await, authorizations::Approval::Approved(_)));
            assert_eq!(decide(&place, "a").await, devices::Decision::Decided);

            goes(&place.store, &ada, how).await;
            place.restart().await;
            let store = &place.store;
            assert_eq!(get(store, &grant_id(1)).await.unwrap().unwrap().end, Some(Gone::Revoked), "{how:?}");
            assert_eq!(rotate(store, "a", "x").await, "gone Revoked");
            assert_eq!(rotate(store, "b", "c").await, "rotated", "nobody else's");
            let right = authorizations::tests::right();
            let redeemed =
                authorizations::redeem_code(store, digest("code1"), right, Some(new_grant(3, "d"))).await.unwrap();
            assert_eq!(redeemed, authorizations::Redemption::Gone(Gone::Revoked));
            let code = devices::tests::device("a").device_code;
            let polled = devices::poll(store, code, client("app"), None, Some(new_grant(4, "e"))).await.unwrap();
            assert_eq!(polled, devices::Poll::Gone(Gone::Revoked));
            let [watermark] = &watermarks(store, None).await.unwrap().items[..] else { panic!() };
            assert_eq!(watermark.whose, Whose::Principal(of_ada()), "gateways refuse the access tokens as well");
            assert_eq!(watermark.reason, RevocationReason::PrincipalGone);

            // Nor does whoever is gone grant anything.
            place.forward(SECOND);
            assert_eq!(approve(&place, 2).await, authorizations::Approval::NotActive);
            assert_eq!(decide(&place, "b").await, devices::Decision::NotActive);
            let late = Party { principal: of_ada(), client: client("app") };
            let issued =
                store.write(move |tx| issue_in(tx, &new_grant(5, "f"), &late, (&access(), None), tx.now())).await;
            assert_eq!(issued.unwrap(), Err(Gone::Revoked));

            if matches!(how, Goes::Suspended) {
                users::change(store, &ada, None, vec![users::Edit::Activate], OPERATOR).await.unwrap();
                assert_eq!(rotate(store, "a", "x").await, "gone Revoked", "it does not come back");
                assert_eq!(decide(&place, "c").await, devices::Decision::Decided);
                issue(store, 6, "g", Party { principal: of_ada(), client: client("app") }).await;
                assert_eq!(rotate(store, "g", "h").await, "rotated");
            }
            assert_eq!(place.store.verify().await.unwrap(), []);
        }
    }
}

#[tokio::test]
async fn a_grant_of_a_user_who_is_not_active_is_not_refreshed() {
    let place = Place::memory().await;
    let ada = users::tests::created(&place.store, users::tests::new(1, Role::User)).await.id;
    let of_ada = Principal::User(ada.clone());
    issue(&place.store, 1, "a", Party { principal: of_ada.clone(), client: client("app") }).await;
    goes(&place.store, &ada, Goes::Suspended).await;
    // As if the watermark said nothing of it.
    let key = Whose::Principal(of_ada).to_string().into_bytes();
    place.store.write(move |tx| super::super::revocations::WATERMARKS.remove(tx, &key)).await.unwrap();
    assert_eq!(rotate(&place.store, "a", "b").await, "gone Revoked");
}

#[tokio::test]
async fn a_grant_of_which_so_many_tokens_are_refused_is_over() {
    const MINUTE: Duration = Duration::from_secs(60);
    let place = Place::memory().await;
    let store = &place.store;
    issue(store, 1, "a", party("ci", "app")).await;
    for number in 0..250 {
        let jti = digest(&format!("jti{number}"));
        super::super::revocations::revoke_token(store, grant_id(1), jti, OPERATOR).await.unwrap();
    }
    place.forward(59 * MINUTE);
    assert_eq!(rotate(store, "a", "b").await, "gone Revoked");
    let denied = super::super::revocations::denied_of(store, &grant_id(1)).await.unwrap();
    assert!(denied.iter().any(|denied| denied.token.is_none() && place.now() < denied.until));
    assert!(denied.len() <= crate::store::table::MAX_PAGE);
    verify(store).await;
}
