//! Requests, codes and pushed requests: every outcome, races, clocks.

use tokio::task::JoinSet;

use super::super::clients::{self, Authority};
use super::super::grants::{self, Revocation};
use super::super::oauth_testing::*;
use super::super::revocations::{Whose, revoke_all};
use super::*;
use crate::audit::RevocationReason;
use crate::ids::ClientId;
use crate::oauth::grant::Gone;
use crate::oauth::request::{CODE_LIFE, CONSENT_LIFE, CodeProof, MAX_CONSENT_LIFE, Mismatch};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const MANY: u64 = 1_000;

fn consent(code: &str) -> Consent {
    Consent { principal: key("ci"), access: access(), code: digest(code), code_life: CODE_LIFE, remember: None }
}

fn right() -> CodeProof {
    CodeProof {
        client: client("app"),
        redirect_uri: request(1).redirect_uri,
        verifier: digest("verifier"),
        resource: None,
        proof: None,
    }
}

async fn begun(store: &Store, number: u64) {
    assert_eq!(begin(store, request(number), CONSENT_LIFE, MANY).await.unwrap(), Begin::Begun);
}

async fn approved(store: &Store, number: u64, code: &str) {
    begun(store, number).await;
    let answer = approve(store, &request_id(number), digest("browser"), consent(code), OPERATOR).await.unwrap();
    assert!(matches!(answer, Approval::Approved(_)), "{answer:?}");
}

async fn redeem(store: &Store, code: &str, with: CodeProof, grant: u64) -> Redemption {
    redeem_code(store, digest(code), with, new_grant(grant, &format!("refresh{grant}"))).await.unwrap()
}

#[tokio::test]
async fn a_consent_becomes_a_code_and_a_code_a_grant() {
    for mut place in engines().await {
        begun(&place.store, 1).await;
        place.restart().await;
        let waiting = get(&place.store, &request_id(1), digest("browser")).await.unwrap().unwrap();
        assert_eq!(
            waiting,
            AuthorizationRequest { created: place.now(), until: place.now().after(CONSENT_LIFE), ..request(1) }
        );
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
            (CodeProof { client: client("other"), verifier: digest("wrong"), ..right() }, Mismatch::Client),
            (
                CodeProof { redirect_uri: "http://127.0.0.1/".to_owned(), verifier: digest("wrong"), ..right() },
                Mismatch::RedirectUri,
            ),
            (CodeProof { resource: Some("https://elsewhere.example".to_owned()), ..right() }, Mismatch::Resource),
            (CodeProof { proof: None, ..right() }, Mismatch::Proof),
            (CodeProof { proof: Some(digest("other")), verifier: digest("wrong"), ..right() }, Mismatch::Proof),
        ] {
            assert_eq!(redeem(store, "code", wrong, 1).await, Redemption::Mismatch(mismatch));
        }
        assert_eq!(trail(store).await, before, "nothing has changed");
        let resource = Some("https://gateway.example/mcp/notes".to_owned());
        let Redemption::Granted(grant) = redeem(store, "code", CodeProof { resource, ..right() }, 1).await else {
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
        let wrong = CodeProof { verifier: digest("wrong"), ..right() };
        assert_eq!(redeem(&place.store, "code", wrong, 1).await, Redemption::Mismatch(Mismatch::Verifier));
        place.restart().await;
        assert_eq!(redeem(&place.store, "code", right(), 1).await, Redemption::Gone(Gone::Revoked));
        assert_eq!(trail(&place.store).await, ["consent.given", "code.burned"]);
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

// Random sequences, against a model in plain memory.

mod model {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::super::grants::{Refresh, refresh};
    use super::*;
    use crate::oauth::grant::{Grace, OnReuse, Presented, Successor};
    use crate::secret::Sealed;

    const LIFE: u64 = 90 * 24 * 60 * 60 * 1000;
    const IDLE: u64 = LIFE / 3;
    const GRACE: u64 = 30_000;
    const REPLAYS: u32 = 1;
    const MONTH: u64 = 30 * 24 * 60 * 60 * 1000;
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    #[derive(Clone, Copy, Debug)]
    enum Who {
        Right,
        WrongClient,
        WrongVerifier,
        WrongResource,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Approve,
        /// Approves and redeems at once, as nearly everybody does.
        SignIn,
        Redeem {
            code: usize,
            who: Who,
        },
        Refresh {
            token: usize,
            who: Who,
        },
        Revoke {
            grant: usize,
        },
        RevokeAll,
        Forward(u64),
        Back(u64),
        Sweep,
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let who = prop_oneof![
            8 => Just(Who::Right),
            1 => Just(Who::WrongClient),
            1 => Just(Who::WrongVerifier),
            1 => Just(Who::WrongResource),
        ];
        // Mostly the latest ones: 0 is the last.
        let pick = || prop_oneof![4 => 0_usize..3, 1 => 0_usize..50];
        let time = prop_oneof![
            6 => Just(7_000), 3 => Just(25_000), 3 => Just(31_000), 2 => Just(61_000), 1 => Just(3_600_000),
            1 => Just(20 * DAY_MS), 1 => Just(31 * DAY_MS)
        ];
        let back = prop_oneof![Just(500_u64), Just(3_600_000)];
        let step = prop_oneof![
            2 => Just(Step::Approve),
            3 => Just(Step::SignIn),
            4 => (pick(), who.clone()).prop_map(|(code, who)| Step::Redeem { code, who }),
            24 => (pick(), who).prop_map(|(token, who)| Step::Refresh { token, who }),
            1 => pick().prop_map(|grant| Step::Revoke { grant }),
            1 => Just(Step::RevokeAll),
            8 => time.prop_map(Step::Forward),
            1 => back.prop_map(Step::Back),
            2 => Just(Step::Sweep),
            2 => Just(Step::Restart),
        ];
        proptest::collection::vec(step, 1..60)
    }

    struct ModelCode {
        at: u64,
        burned: bool,
        grant: Option<usize>,
        forgotten: bool,
    }

    struct ModelGrant {
        created: u64,
        idle: u64,
        until: u64,
        revoked: Option<u64>,
        forgotten: bool,
    }

    struct ModelToken {
        grant: usize,
        used: Option<ModelUse>,
        forgotten: bool,
    }

    struct ModelUse {
        at: u64,
        successor: usize,
        replays: u32,
        is_sealed: bool,
    }

    #[derive(Default)]
    struct Model {
        codes: Vec<ModelCode>,
        grants: Vec<ModelGrant>,
        tokens: Vec<ModelToken>,
        watermark: Option<u64>,
    }

    fn is_open(at: u64, length: u64, now: u64) -> bool {
        now < at + length && now + length > at
    }

    impl Model {
        fn end(&self, grant: usize, now: u64) -> Option<&'static str> {
            let of = &self.grants[grant];
            if of.forgotten {
                Some("Unknown")
            } else if of.revoked.is_some() || self.watermark.is_some_and(|mark| of.created <= mark) {
                Some("Revoked")
            } else if now >= of.idle || now >= of.until {
                Some("Expired")
            } else {
                None
            }
        }

        fn issue(&mut self, now: u64) -> usize {
            let idle = now + IDLE;
            self.grants.push(ModelGrant { created: now, idle, until: now + LIFE, revoked: None, forgotten: false });
            self.tokens.push(ModelToken { grant: self.grants.len() - 1, used: None, forgotten: false });
            self.grants.len() - 1
        }

        fn redeem(&mut self, code: usize, who: Who, now: u64) -> String {
            let of = &self.codes[code];
            if of.forgotten {
                return "gone Unknown".to_owned();
            }
            if matches!(who, Who::WrongClient) {
                return "mismatch Client".to_owned();
            }
            if let Some(grant) = of.grant {
                let is_alive = self.end(grant, now).is_none();
                if is_alive {
                    self.grants[grant].revoked = Some(now);
                }
                return format!("replayed {is_alive}");
            }
            if of.burned {
                return "gone Revoked".to_owned();
            }
            if !is_open(of.at, 60_000, now) {
                return "gone Expired".to_owned();
            }
            match who {
                Who::WrongResource => return "mismatch Resource".to_owned(),
                Who::WrongVerifier => {
                    self.codes[code].burned = true;
                    return "mismatch Verifier".to_owned();
                }
                Who::Right | Who::WrongClient => {}
            }
            if self.watermark.is_some_and(|mark| of.at <= mark) {
                return "gone Revoked".to_owned();
            }
            let grant = self.issue(now);
            self.codes[code].grant = Some(grant);
            "granted".to_owned()
        }

        fn refresh(&mut self, token: usize, who: Who, now: u64) -> String {
            let grant = self.tokens[token].grant;
            if self.tokens[token].forgotten {
                return "gone Unknown".to_owned();
            }
            if let Some(end) = self.end(grant, now) {
                return format!("gone {end}");
            }
            match who {
                Who::WrongClient => return "mismatch Client".to_owned(),
                Who::WrongResource => return "mismatch Resource".to_owned(),
                Who::Right | Who::WrongVerifier => {}
            }
            let (mut at, mut path) = (token, Vec::new());
            while let Some(used) = &self.tokens[at].used {
                if !is_open(used.at, GRACE, now) || path.len() == 8 || !used.is_sealed {
                    self.grants[grant].revoked = Some(now);
                    return "reused".to_owned();
                }
                path.push(used.successor.to_string());
                at = used.successor;
            }
            if path.is_empty() {
                let successor = self.tokens.len();
                self.tokens.push(ModelToken { grant, used: None, forgotten: false });
                self.tokens[token].used = Some(ModelUse { at: now, successor, replays: 0, is_sealed: true });
                self.grants[grant].idle = (now + IDLE).min(self.grants[grant].until);
                return "rotated".to_owned();
            }
            let used = self.tokens[token].used.as_mut().unwrap();
            if used.replays == REPLAYS {
                return "too often".to_owned();
            }
            used.replays += 1;
            format!("replayed {}", path.join(" "))
        }

        fn sweep(&mut self, now: u64) {
            for code in &mut self.codes {
                code.forgotten |= code.at + 60_000 + DAY_MS <= now;
            }
            for token in &mut self.tokens {
                token.forgotten |= self.grants[token.grant].until + MONTH <= now;
                if let Some(used) = &mut token.used {
                    used.is_sealed &= used.at + GRACE > now;
                }
            }
            for grant in &mut self.grants {
                let end = grant.idle.min(grant.until);
                grant.forgotten |= grant.revoked.map_or(end, |at| at.min(end)) + MONTH <= now;
            }
        }
    }

    fn told_redemption(answer: &Redemption) -> String {
        match answer {
            Redemption::Granted(_) => "granted".to_owned(),
            Redemption::Replayed { revoked, .. } => format!("replayed {}", *revoked == Revocation::Revoked),
            Redemption::Mismatch(mismatch) => format!("mismatch {mismatch:?}"),
            Redemption::Gone(gone) => format!("gone {gone:?}"),
        }
    }

    fn told_refresh(answer: &Refresh) -> String {
        match answer {
            Refresh::Rotated(_) => "rotated".to_owned(),
            Refresh::Replayed { successors, .. } => {
                let names = successors.iter().map(|sealed| std::str::from_utf8(sealed.as_bytes()).unwrap());
                format!("replayed {}", names.collect::<Vec<_>>().join(" "))
            }
            Refresh::TooOften => "too often".to_owned(),
            Refresh::Reused(OnReuse::RevokeFamily) => "reused".to_owned(),
            Refresh::Reused(OnReuse::Reject) => "rejected".to_owned(),
            Refresh::Mismatch(mismatch) => format!("mismatch {mismatch:?}"),
            Refresh::Gone(gone) => format!("gone {gone:?}"),
        }
    }

    /// Counts what was seen, so that a test that never gets anywhere fails.
    async fn follow(mut place: Place, steps: &[Step], seen: &mut BTreeMap<String, usize>) {
        let mut model = Model::default();
        let last = |of: usize, pick: usize| of.checked_sub(1 + pick % of.max(1));
        for step in steps {
            let now = place.now().as_millis();
            let store = &place.store;
            let (verb, answer, expected) = match *step {
                Step::Approve => {
                    let number = model.codes.len();
                    approved(store, number as u64, &format!("code{number}")).await;
                    model.codes.push(ModelCode { at: now, burned: false, grant: None, forgotten: false });
                    continue;
                }
                Step::SignIn => {
                    let number = model.codes.len();
                    let code = format!("code{number}");
                    approved(store, number as u64, &code).await;
                    model.codes.push(ModelCode { at: now, burned: false, grant: None, forgotten: false });
                    let new = new_grant(model.grants.len() as u64, &format!("token{}", model.tokens.len()));
                    let answer = redeem_code(store, digest(&code), right(), new).await.unwrap();
                    ("redeem", told_redemption(&answer), model.redeem(number, Who::Right, now))
                }
                Step::Redeem { code, who } => {
                    let Some(code) = last(model.codes.len(), code) else { continue };
                    // Each token is called by its number.
                    let new = new_grant(model.grants.len() as u64, &format!("token{}", model.tokens.len()));
                    let mut with = right();
                    match who {
                        Who::Right => {}
                        Who::WrongClient => with.client = client("other"),
                        Who::WrongVerifier => with.verifier = digest("wrong"),
                        Who::WrongResource => with.resource = Some("https://elsewhere.example".to_owned()),
                    }
                    let answer = redeem_code(store, digest(&format!("code{code}")), with, new).await.unwrap();
                    ("redeem", told_redemption(&answer), model.redeem(code, who, now))
                }
                Step::Refresh { token, who } => {
                    let Some(token) = last(model.tokens.len(), token) else { continue };
                    let next = model.tokens.len().to_string();
                    let of = if matches!(who, Who::WrongClient) { "other" } else { "app" };
                    let resource = matches!(who, Who::WrongResource).then(|| "https://elsewhere.example".to_owned());
                    let token_digest = digest(&format!("token{token}"));
                    let with =
                        Presented { token: token_digest, client: client(of), proof: None, scopes: None, resource };
                    let successor = Successor {
                        digest: digest(&format!("token{next}")),
                        sealed: Sealed::from_bytes(next.as_bytes()),
                    };
                    let grace = Grace::new(Duration::from_millis(GRACE), REPLAYS);
                    let answer = refresh(store, with, successor, grace, Duration::from_millis(IDLE)).await.unwrap();
                    ("refresh", told_refresh(&answer), model.refresh(token, who, now))
                }
                Step::Revoke { grant } => {
                    let Some(grant) = last(model.grants.len(), grant) else { continue };
                    let is_alive = model.end(grant, now).is_none();
                    if is_alive {
                        model.grants[grant].revoked = Some(now);
                    }
                    let id = grant_id(grant as u64);
                    let answer = grants::revoke(store, &id, RevocationReason::Operator, OPERATOR).await.unwrap();
                    ("revoke", format!("{}", answer == Revocation::Revoked), format!("{is_alive}"))
                }
                Step::RevokeAll => {
                    revoke_all(store, Whose::Everybody, RevocationReason::Operator, OPERATOR).await.unwrap();
                    model.watermark = model.watermark.max(Some(now));
                    continue;
                }
                Step::Forward(by) => {
                    place.forward(Duration::from_millis(by));
                    continue;
                }
                Step::Back(by) => {
                    place.back(Duration::from_millis(by));
                    continue;
                }
                Step::Sweep => {
                    while place.sweep().await > 0 {}
                    model.sweep(now);
                    continue;
                }
                Step::Restart => {
                    place.restart().await;
                    continue;
                }
            };
            assert_eq!(answer, expected, "{step:?} of {steps:?}");
            *seen.entry(format!("{verb} {}", answer.split(' ').next().unwrap())).or_default() += 1;
        }
        // In the end, each grant stands where the model has it.
        for number in 0..model.grants.len() {
            let listed = grants::get(&place.store, &grant_id(number as u64)).await.unwrap();
            let end = listed.map_or(Some(Gone::Unknown), |listed| listed.end);
            let expected = model.end(number, place.now().as_millis());
            assert_eq!(end.map(|gone| format!("{gone:?}")).as_deref(), expected);
        }
        verify(&place.store).await;
        place.store.close().await;
    }

    fn run(cases: u32, on_file: bool) -> BTreeMap<String, usize> {
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let seen = std::sync::Mutex::new(BTreeMap::new());
        let mut runner = proptest::test_runner::TestRunner::new(config);
        runner
            .run(&steps(), |steps| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let place = if on_file { Place::file().await } else { Place::memory().await };
                    let mut counted = BTreeMap::new();
                    follow(place, &steps, &mut counted).await;
                    for (answer, count) in counted {
                        *seen.lock().unwrap().entry(answer).or_insert(0) += count;
                    }
                });
                Ok(())
            })
            .unwrap();
        seen.into_inner().unwrap()
    }

    #[test]
    fn codes_and_refresh_tokens_do_what_the_model_does() {
        let seen = run(300, false);
        for answer in [
            "redeem granted",
            "redeem replayed",
            "redeem mismatch",
            "redeem gone",
            "refresh rotated",
            "refresh replayed",
            "refresh too",
            "refresh reused",
            "refresh mismatch",
            "refresh gone",
            "revoke true",
            "revoke false",
        ] {
            assert!(seen.contains_key(answer), "{answer} never happened: {seen:?}");
        }
    }

    #[test]
    fn codes_and_refresh_tokens_do_what_the_model_does_across_restarts() {
        run(12, true);
    }
}
