//! Requests, codes and pushed requests: every outcome, races, clocks.

use tokio::task::JoinSet;

use super::super::clients::{self, Authority};
use super::super::grants::{self, Revocation};
use super::super::oauth_testing::*;
use super::super::revocations::{Whose, revoke_all};
use super::*;
use crate::audit::RevocationReason;
use crate::ids::ClientId;
use crate::oauth::access::{ResourceList, Terms};
use crate::oauth::grant::Gone;
use crate::oauth::request::{CODE_LIFE, CONSENT_LIFE, CodeProof, MAX_CONSENT_LIFE, Mismatch};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const MANY: u64 = 1_000;

fn consent(code: &str) -> Consent {
    Consent { principal: key("ci"), access: access(), code: digest(code), code_life: CODE_LIFE, remember: None }
}

pub(in crate::store) fn right() -> CodeProof {
    CodeProof {
        client: client("app"),
        redirect_uri: request(1).redirect_uri,
        verifier: Some(digest("verifier")),
        resources: ResourceList::default(),
        proof: None,
    }
}

async fn begun(store: &Store, number: u64) {
    assert_eq!(begin(store, request(number), CONSENT_LIFE, MANY).await.unwrap(), Begin::Begun);
}

pub(super) async fn approved(store: &Store, number: u64, code: &str) {
    let answer = tried(store, number, code).await;
    assert!(matches!(answer, Approval::Approved(_)), "{answer:?}");
}

/// Begins a request and tries to approve it.
pub(super) async fn tried(store: &Store, number: u64, code: &str) -> Approval {
    begun(store, number).await;
    approve(store, &request_id(number), digest("browser"), consent(code), OPERATOR).await.unwrap()
}

async fn redeem(store: &Store, code: &str, with: CodeProof, grant: u64) -> Redemption {
    let new = new_grant(grant, &format!("refresh{grant}"));
    redeem_code(store, digest(code), with, Some(new)).await.unwrap()
}

#[tokio::test]
async fn a_consent_becomes_a_code_and_a_code_a_grant() {
    for mut place in engines().await {
        begun(&place.store, 1).await;
        place.restart().await;
        let waiting = get(&place.store, &request_id(1), digest("browser")).await.unwrap().unwrap();
        let chosen = request(1).chosen.map(|chosen| Chosen { at: place.now(), ..chosen });
        let until = place.now().after(CONSENT_LIFE);
        assert_eq!(waiting, AuthorizationRequest { created: place.now(), until, chosen, ..request(1) });
        let answer = approve(&place.store, &request_id(1), digest("browser"), consent("code"), OPERATOR).await.unwrap();
        assert_eq!(answer, Approval::Approved(Box::new(waiting)));
        place.restart().await;
        let Redemption::Granted(grant) = redeem(&place.store, "code", right(), 7).await else { panic!("no grant") };
        assert_eq!(
            (grant.principal.clone(), grant.client.clone(), grant.access.clone()),
            (key("ci"), client("app"), access())
        );
        place.restart().await;
        assert_eq!(grants::get(&place.store, &grant_id(7)).await.unwrap().unwrap().grant, *grant);
        assert_eq!(trail(&place.store).await, ["consent.given", "grant.issued"]);
        verify(&place.store).await;
    }
}

#[tokio::test]
async fn a_request_is_approved_once_in_time_and_by_its_own_browser() {
    for place in engines().await {
        let store = &place.store;
        begun(store, 1).await;
        let approve = async |number, browser| {
            approve(store, &request_id(number), digest(browser), consent("code"), OPERATOR).await.unwrap()
        };
        assert_eq!(approve(1, "another").await, Approval::Refused(Refused::WrongBrowser));
        assert_eq!(approve(2, "browser").await, Approval::Refused(Refused::NotFound));
        assert_eq!(trail(store).await, [""; 0]);
        assert!(matches!(approve(1, "browser").await, Approval::Approved(_)));
        assert_eq!(approve(1, "browser").await, Approval::Refused(Refused::NotFound));
        begun(store, 3).await;
        place.forward(CONSENT_LIFE);
        assert_eq!(approve(3, "another").await, Approval::Refused(Refused::WrongBrowser));
        assert_eq!(approve(3, "browser").await, Approval::Refused(Refused::Expired));
        begun(store, 4).await;
        place.back(HOUR);
        assert_eq!(approve(4, "browser").await, Approval::Refused(Refused::Expired), "a clock makes no long life");
    }
}

#[tokio::test]
async fn nobody_approves_more_than_was_asked_for() {
    let place = Place::memory().await;
    begun(&place.store, 1).await;
    let with = |access| Consent { access, ..consent("code") };
    for wider in [
        Access { scopes: tokens(&["read", "admin"]), ..access() },
        Access { resources: resources(&["https://elsewhere.example/mcp"]), ..access() },
    ] {
        let answer = approve(&place.store, &request_id(1), digest("browser"), with(wider), OPERATOR).await.unwrap();
        assert_eq!(answer, Approval::Widened);
    }
    let narrower = Access { scopes: tokens(&["read"]), ..access() };
    let answer = approve(&place.store, &request_id(1), digest("browser"), with(narrower), OPERATOR).await.unwrap();
    assert!(matches!(answer, Approval::Approved(_)));
    let Redemption::Granted(grant) = redeem(&place.store, "code", right(), 1).await else { panic!("no grant") };
    assert_eq!(grant.access.scopes, tokens(&["read"]));
}

#[tokio::test]
async fn a_request_is_refused_once_by_its_own_browser() {
    let place = Place::memory().await;
    let store = &place.store;
    begun(store, 1).await;
    let deny =
        async |browser| deny(store, &request_id(1), digest(browser), OPERATOR).await.unwrap().map(|request| request.id);
    assert_eq!(deny("another").await, Err(Refused::WrongBrowser));
    assert_eq!(deny("browser").await, Ok(request_id(1)));
    assert_eq!(deny("browser").await, Err(Refused::NotFound));
    assert_eq!(trail(store).await, ["consent.refused"]);
    verify(store).await;
}

#[tokio::test]
async fn a_request_goes_to_another_cookie_and_lives_an_hour_at_most() {
    let place = Place::memory().await;
    let store = &place.store;
    begun(store, 1).await;
    let id = request_id(1);
    assert_eq!(rebind(store, &id, digest("another"), digest("x")).await.unwrap(), Err(Refused::WrongBrowser));
    assert_eq!(rebind(store, &id, digest("browser"), digest("next")).await.unwrap(), Ok(()));
    assert_eq!(get(store, &id, digest("browser")).await.unwrap(), Err(Refused::WrongBrowser));
    let created = place.now();
    for _ in 0..5 {
        place.forward(CONSENT_LIFE - SECOND);
        let extended = extend(store, &id, digest("next"), CONSENT_LIFE).await.unwrap();
        let expected = if place.now() < created.after(MAX_CONSENT_LIFE) { Ok(()) } else { Err(Refused::Expired) };
        assert_eq!(extended, expected);
    }
    begun(store, 2).await;
    let until = async || get(store, &request_id(2), digest("browser")).await.unwrap().unwrap().until;
    let before = until().await;
    extend(store, &request_id(2), digest("browser"), SECOND).await.unwrap().unwrap();
    assert_eq!(until().await, before, "nothing takes time away");
    verify(store).await;
}

#[tokio::test]
async fn there_are_as_many_open_requests_as_there_may_be() {
    let place = Place::memory().await;
    let store = &place.store;
    for number in 0..20 {
        let expected = if number < 10 { Begin::Begun } else { Begin::TooMany };
        assert_eq!(begin(store, request(number), CONSENT_LIFE, 10).await.unwrap(), expected);
    }
    place.forward(CONSENT_LIFE);
    assert_eq!(place.sweep().await, 10);
    assert_eq!(begin(store, request(1), CONSENT_LIFE, 10).await.unwrap(), Begin::Begun);
    assert_eq!(begin(store, request(1), CONSENT_LIFE, 10).await.unwrap(), Begin::TooMany, "its id is taken");
    let long = AuthorizationRequest { state: Some("x".repeat(2049)), ..request(2) };
    assert_eq!(begin(store, long, CONSENT_LIFE, 10).await.unwrap(), Begin::TooLarge);
    verify(store).await;
}

#[tokio::test]
async fn whoever_opens_many_requests_shuts_nobody_out() {
    for place in engines().await {
        let store = &place.store;
        let unchosen = |number| AuthorizationRequest { chosen: None, ..request(number) };
        // The first is being answered; strangers open more than there may be.
        assert_eq!(begin(store, request(1), CONSENT_LIFE, 10).await.unwrap(), Begin::Begun);
        for number in 2..=30 {
            assert_eq!(begin(store, unchosen(number), CONSENT_LIFE, 10).await.unwrap(), Begin::Begun, "{number}");
        }
        let is_open = async |number| get(store, &request_id(number), digest("browser")).await.unwrap().is_ok();
        assert!(is_open(1).await, "nobody is interrupted");
        assert!(!is_open(2).await && !is_open(21).await, "the oldest have made room");
        assert!(is_open(22).await && is_open(30).await);
        verify(store).await;
    }
}

#[tokio::test]
async fn a_code_is_for_its_client_redirect_resource_key_and_verifier() {
    for place in engines().await {
        let store = &place.store;
        begin(store, AuthorizationRequest { proof: Some(digest("jkt")), ..request(1) }, CONSENT_LIFE, MANY)
            .await
            .unwrap();
        approve(store, &request_id(1), digest("browser"), consent("code"), OPERATOR).await.unwrap();
        let right = || CodeProof { proof: Some(digest("jkt")), ..right() };
        let before = trail(store).await;
        for (wrong, mismatch) in [
            // Whatever else is wrong as well: the client comes first, the verifier last.
            (CodeProof { client: client("other"), verifier: Some(digest("wrong")), ..right() }, Mismatch::Client),
            (
                CodeProof { redirect_uri: "http://127.0.0.1/".to_owned(), verifier: Some(digest("wrong")), ..right() },
                Mismatch::RedirectUri,
            ),
            (CodeProof { resources: resources(&["https://elsewhere.example"]), ..right() }, Mismatch::Resource),
            (CodeProof { proof: None, ..right() }, Mismatch::Proof),
            (CodeProof { proof: Some(digest("other")), verifier: Some(digest("wrong")), ..right() }, Mismatch::Proof),
        ] {
            assert_eq!(redeem(store, "code", wrong, 1).await, Redemption::Mismatch(mismatch));
        }
        assert_eq!(trail(store).await, before, "nothing has changed");
        let resources = resources(&["https://gateway.example/mcp/notes"]);
        let Redemption::Granted(grant) = redeem(store, "code", CodeProof { resources, ..right() }, 1).await else {
            panic!("no grant")
        };
        assert_eq!(grant.proof, Some(digest("jkt")));
        verify(store).await;
    }
}

#[tokio::test]
async fn a_wrong_verifier_burns_the_code() {
    for mut place in engines().await {
        approved(&place.store, 1, "code").await;
        let wrong = CodeProof { verifier: Some(digest("wrong")), ..right() };
        assert_eq!(redeem(&place.store, "code", wrong, 1).await, Redemption::Mismatch(Mismatch::Verifier));
        place.restart().await;
        assert_eq!(redeem(&place.store, "code", right(), 1).await, Redemption::Gone(Gone::Revoked));
        assert_eq!(trail(&place.store).await, ["consent.given", "code.burned"]);
    }
}

#[tokio::test]
async fn no_verifier_is_a_wrong_one() {
    let place = Place::memory().await;
    approved(&place.store, 1, "code").await;
    let none = CodeProof { verifier: None, ..right() };
    assert_eq!(redeem(&place.store, "code", none, 1).await, Redemption::Mismatch(Mismatch::Verifier));
    assert_eq!(redeem(&place.store, "code", right(), 1).await, Redemption::Gone(Gone::Revoked));
}

#[tokio::test]
async fn a_code_is_fresh_until_it_is_redeemed_burned_or_old() {
    let place = Place::memory().await;
    let is_fresh = async |code| fresh_code(&place.store, digest(code)).await.unwrap().is_some();
    assert!(!is_fresh("one").await);
    for (number, code) in [(1, "one"), (2, "two"), (3, "three")] {
        approved(&place.store, number, code).await;
        assert!(is_fresh(code).await);
    }
    assert!(matches!(redeem(&place.store, "one", right(), 1).await, Redemption::Granted(_)));
    redeem(&place.store, "two", CodeProof { verifier: None, ..right() }, 2).await;
    assert!(!is_fresh("one").await && !is_fresh("two").await && is_fresh("three").await);
    place.forward(CODE_LIFE);
    assert!(!is_fresh("three").await);
}

#[tokio::test]
async fn who_brings_no_grant_uses_no_code_up() {
    for place in engines().await {
        approved(&place.store, 1, "code").await;
        let look = async |with| redeem_code(&place.store, digest("code"), with, None).await.unwrap();
        assert_eq!(look(right()).await, Redemption::Unprepared);
        assert_eq!(trail(&place.store).await, ["consent.given"]);
        assert!(matches!(redeem(&place.store, "code", right(), 1).await, Redemption::Granted(_)));
        let replayed = Redemption::Replayed { grant: grant_id(1), revoked: Revocation::Revoked };
        assert_eq!(look(right()).await, replayed, "what a copy leads to does not wait for a grant");
    }
}

#[tokio::test]
async fn a_code_that_comes_back_from_its_client_ends_what_came_of_it() {
    for mut place in engines().await {
        approved(&place.store, 1, "code").await;
        assert!(matches!(redeem(&place.store, "code", right(), 1).await, Redemption::Granted(_)));
        // Somebody else's try is no reason to revoke anything.
        let other = CodeProof { client: client("other"), ..right() };
        assert_eq!(redeem(&place.store, "code", other, 2).await, Redemption::Mismatch(Mismatch::Client));
        assert_eq!(grants::get(&place.store, &grant_id(1)).await.unwrap().unwrap().end, None);
        place.restart().await;
        // Long after its minute, too.
        place.forward(HOUR);
        let replayed = |revoked| Redemption::Replayed { grant: grant_id(1), revoked };
        assert_eq!(redeem(&place.store, "code", right(), 2).await, replayed(Revocation::Revoked));
        place.restart().await;
        assert_eq!(grants::get(&place.store, &grant_id(1)).await.unwrap().unwrap().end, Some(Gone::Revoked));
        assert_eq!(redeem(&place.store, "code", right(), 2).await, replayed(Revocation::NotFound));
        assert_eq!(grants::get(&place.store, &grant_id(2)).await.unwrap(), None);
        verify(&place.store).await;
    }
}

#[tokio::test]
async fn of_64_who_redeem_one_code_one_has_a_grant_and_not_for_long() {
    for place in engines().await {
        approved(&place.store, 1, "code").await;
        let mut clients = JoinSet::new();
        for number in 0..64 {
            let store = place.store.clone();
            clients.spawn(async move { redeem(&store, "code", right(), number).await });
        }
        let answers = clients.join_all().await;
        let count = |matches: fn(&Redemption) -> bool| answers.iter().filter(|answer| matches(answer)).count();
        assert_eq!(count(|answer| matches!(answer, Redemption::Granted(_))), 1);
        assert_eq!(count(|answer| matches!(answer, Redemption::Replayed { revoked: Revocation::Revoked, .. })), 1);
        assert_eq!(count(|answer| matches!(answer, Redemption::Replayed { revoked: Revocation::NotFound, .. })), 62);
        let all = grants::list(&place.store, grants::Of::All, None, 100).await.unwrap().items;
        assert_eq!(all.iter().map(|listed| listed.end).collect::<Vec<_>>(), [Some(Gone::Revoked)]);
        verify(&place.store).await;
    }
}

#[tokio::test]
async fn a_code_lives_for_a_minute_whatever_the_clock_does() {
    type Step = fn(&Place);
    let cases: [(Step, bool); 5] = [
        (|place| place.forward(CODE_LIFE - Duration::from_millis(1)), true),
        (|place| place.forward(CODE_LIFE), false),
        (|place| place.forward(HOUR), false),
        (|place| place.back(SECOND), true),
        (|place| place.back(HOUR), false),
    ];
    for (number, (step, is_granted)) in cases.into_iter().enumerate() {
        let place = Place::memory().await;
        approved(&place.store, 1, "code").await;
        step(&place);
        match redeem(&place.store, "code", right(), 1).await {
            Redemption::Granted(_) if is_granted => {}
            Redemption::Gone(Gone::Expired) if !is_granted => {}
            answer => panic!("case {number}: {answer:?}"),
        }
    }
    let place = Place::memory().await;
    assert_eq!(redeem(&place.store, "code", right(), 1).await, Redemption::Gone(Gone::Unknown));
}

#[tokio::test]
async fn a_code_dies_with_what_it_rests_on() {
    for whose in [Whose::Everybody, Whose::Principal(key("ci")), Whose::Client(client("app"))] {
        let place = Place::memory().await;
        approved(&place.store, 1, "code").await;
        place.forward(SECOND);
        revoke_all(&place.store, whose, RevocationReason::PrincipalGone, OPERATOR).await.unwrap();
        place.forward(SECOND);
        assert_eq!(redeem(&place.store, "code", right(), 1).await, Redemption::Gone(Gone::Revoked));
    }
    // A client that has to be registered, and is so no longer.
    let place = Place::memory().await;
    let store = &place.store;
    let id = ClientId::parse("registered").unwrap();
    clients::register(store, registered("registered"), MANY, OPERATOR).await.unwrap();
    for number in [1, 2] {
        begin(store, AuthorizationRequest { client: id.clone(), ..request(number) }, CONSENT_LIFE, MANY).await.unwrap();
        let code = consent(&format!("code{number}"));
        approve(store, &request_id(number), digest("browser"), code, OPERATOR).await.unwrap();
    }
    let with = || CodeProof { client: id.clone(), ..right() };
    assert!(matches!(redeem(store, "code1", with(), 1).await, Redemption::Granted(_)));
    assert_eq!(clients::get(store, &id).await.unwrap().unwrap().last_used, Some(place.now()));
    place.forward(SECOND);
    clients::delete(store, &id, Authority::Operator, OPERATOR).await.unwrap();
    assert!(matches!(redeem(store, "code2", with(), 2).await, Redemption::Gone(Gone::Revoked | Gone::Client)));
    assert_eq!(grants::get(store, &grant_id(1)).await.unwrap().unwrap().end, Some(Gone::Revoked));
    verify(store).await;
}

async fn pushed(store: &Store, reference: &str, most: u64) -> Push {
    let parameters = "response_type=code&client_id=app".to_owned();
    push(store, digest(reference), client("app"), parameters, CODE_LIFE, most).await.unwrap()
}

#[tokio::test]
async fn what_is_pushed_is_taken_once_by_its_client_in_time() {
    for place in engines().await {
        let store = &place.store;
        let take = async |reference, of| take_pushed(store, digest(reference), &client(of)).await.unwrap();
        for reference in ["a", "late", "back"] {
            assert_eq!(pushed(store, reference, 3).await, Push::Kept);
        }
        assert_eq!(pushed(store, "more", 3).await, Push::TooMany);
        let long = "x".repeat(MAX_PUSHED_BYTES + 1);
        assert_eq!(push(store, digest("x"), client("app"), long, CODE_LIFE, 9).await.unwrap(), Push::TooLarge);
        assert_eq!(take("a", "other").await, Pushed::WrongClient);
        assert_eq!(take("a", "app").await, Pushed::Taken("response_type=code&client_id=app".to_owned()));
        assert_eq!(take("a", "app").await, Pushed::Gone);
        assert_eq!(take("never", "app").await, Pushed::Gone);
        place.forward(CODE_LIFE);
        assert_eq!(take("late", "app").await, Pushed::Gone);
        place.back(2 * HOUR);
        assert_eq!(take("back", "app").await, Pushed::Gone);
        verify(store).await;
    }
}

#[tokio::test]
async fn of_64_who_take_what_was_pushed_one_has_it() {
    let place = Place::memory().await;
    pushed(&place.store, "a", MANY).await;
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        let store = place.store.clone();
        clients.spawn(async move { take_pushed(&store, digest("a"), &client("app")).await.unwrap() });
    }
    let answers = clients.join_all().await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Pushed::Taken(_))).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Pushed::Gone).count(), 63);
}

#[tokio::test]
async fn a_consent_is_remembered_with_its_approval_and_not_before() {
    let place = Place::memory().await;
    let store = &place.store;
    let terms = || Terms { redirect_host: "127.0.0.1".to_owned(), access: access() };
    let remember = Some(Remembered { redirect_host: "127.0.0.1".to_owned(), life: DAY });
    let found = async || consents::find(store, party("ci", "app"), terms()).await.unwrap().is_some();
    begun(store, 1).await;
    let with = || Consent { remember: remember.clone(), ..consent("code") };
    for (browser, is_remembered) in [("another", false), ("browser", true)] {
        approve(store, &request_id(1), digest(browser), with(), OPERATOR).await.unwrap();
        assert_eq!(found().await, is_remembered);
    }
}
