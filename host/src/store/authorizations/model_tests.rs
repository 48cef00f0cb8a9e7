//! Codes and refresh tokens in random sequences, against a model in plain memory.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::grants::{self, Refresh, Revocation, refresh};
use super::super::oauth_testing::*;
use super::super::revocations::{Whose, revoke_all};
use super::Approval;
use super::tests::{right, tried};
use super::{Redemption, redeem_code};
use crate::audit::RevocationReason;
use crate::oauth::grant::{Gone, Grace, OnReuse, Presented, Successor};
use crate::secret::Sealed;

/// How far ahead a clock may have been ([`crate::oauth::grant::MAX_AHEAD`]).
const AHEAD_MS: u64 = 3_600_000;
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
    /// When something was granted last, whatever the clock has shown since.
    latest: u64,
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
        } else if now >= of.idle || now >= of.until || now + AHEAD_MS < of.created {
            Some("Expired")
        } else {
            None
        }
    }

    /// What was granted last is remembered, as far as a clock that was wrong by less could have had it.
    fn granted(&mut self, now: u64) {
        self.latest = self.latest.min(now + AHEAD_MS).max(now);
    }

    fn issue(&mut self, now: u64) -> usize {
        self.granted(now);
        let idle = now + IDLE;
        self.grants.push(ModelGrant { created: now, idle, until: now + LIFE, revoked: None, forgotten: false });
        self.tokens.push(ModelToken { grant: self.grants.len() - 1, used: None, forgotten: false });
        self.grants.len() - 1
    }

    /// Whether there is a code then. What is revoked up to now, or to when the clock showed more, is revoked for whoever
    /// begins now.
    fn approve(&mut self, now: u64) -> bool {
        if self.watermark.is_some_and(|mark| now <= mark) {
            return false;
        }
        self.granted(now);
        self.codes.push(ModelCode { at: now, burned: false, grant: None, forgotten: false });
        true
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
            self.granted(now);
            return "rotated".to_owned();
        }
        let used = self.tokens[token].used.as_mut().unwrap();
        if used.replays == REPLAYS {
            return "too often".to_owned();
        }
        used.replays += 1;
        self.granted(now);
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

fn told_approval(answer: &Approval) -> String {
    match answer {
        Approval::Approved(_) => "approved".to_owned(),
        Approval::NotActive => "refused".to_owned(),
        other => format!("{other:?}"),
    }
}

fn told_redemption(answer: &Redemption) -> String {
    match answer {
        Redemption::Granted(_) => "granted".to_owned(),
        Redemption::Replayed { revoked, .. } => format!("replayed {}", *revoked == Revocation::Revoked),
        Redemption::Mismatch(mismatch) => format!("mismatch {mismatch:?}"),
        Redemption::Gone(gone) => format!("gone {gone:?}"),
        Redemption::Unprepared => unreachable!("a grant is brought each time"),
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
    let mut requests = 0;
    let last = |of: usize, pick: usize| of.checked_sub(1 + pick % of.max(1));
    for step in steps {
        let now = place.now().as_millis();
        let store = &place.store;
        let (verb, answer, expected) = match *step {
            Step::Approve => {
                let number = model.codes.len();
                requests += 1;
                let answer = tried(store, requests, &format!("code{number}")).await;
                ("approve", told_approval(&answer), if model.approve(now) { "approved" } else { "refused" }.to_owned())
            }
            Step::SignIn => {
                let number = model.codes.len();
                let code = format!("code{number}");
                requests += 1;
                let answer = tried(store, requests, &code).await;
                assert_eq!(matches!(answer, Approval::Approved(_)), model.approve(now), "{answer:?}");
                if !matches!(answer, Approval::Approved(_)) {
                    continue;
                }
                let new = new_grant(model.grants.len() as u64, &format!("token{}", model.tokens.len()));
                let answer = redeem_code(store, digest(&code), right(), Some(new)).await.unwrap();
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
                    Who::WrongVerifier => with.verifier = Some(digest("wrong")),
                    Who::WrongResource => with.resources = resources(&["https://elsewhere.example"]),
                }
                let answer = redeem_code(store, digest(&format!("code{code}")), with, Some(new)).await.unwrap();
                ("redeem", told_redemption(&answer), model.redeem(code, who, now))
            }
            Step::Refresh { token, who } => {
                let Some(token) = last(model.tokens.len(), token) else { continue };
                let next = model.tokens.len().to_string();
                let of = if matches!(who, Who::WrongClient) { "other" } else { "app" };
                let foreign: &[&str] =
                    if matches!(who, Who::WrongResource) { &["https://elsewhere.example"] } else { &[] };
                let token_digest = digest(&format!("token{token}"));
                let resources = resources(foreign);
                let with = Presented {
                    token: token_digest,
                    client: client(of),
                    proof: None,
                    scopes: None,
                    resources,
                    is_stored: true,
                };
                let successor = Successor {
                    digest: digest(&format!("token{next}")),
                    sealed: Sealed::from_bytes(next.as_bytes()),
                    signed: crate::env::Timestamp::default(),
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
                model.watermark = Some(model.watermark.unwrap_or(0).max(model.latest).min(now + AHEAD_MS).max(now));
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
