//! That what is in memory is what the store says.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::audit::{Actor, Party, RevocationReason};
use crate::authorization::tokens::{VERIFIER, signed, token};
use crate::env::Clock;
use crate::identity::user::{DisplayName, Status};
use crate::store::changes::{self, Revision};
use crate::store::follower::Follower;
use crate::store::oauth_testing::{client, grant_id, issue};
use crate::store::{Location, grants};
use crate::tasks::Tasks;

/// Half a second into a second.
const START: u64 = 1_790_000_000_500;

#[derive(Clone)]
struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

struct Scene {
    clock: TestClock,
    env: Env,
    store: Store,
    standing: Arc<Standing>,
    seen: Revision,
}

impl Scene {
    async fn new() -> Self {
        let clock = TestClock(Arc::new(AtomicU64::new(START)));
        let env = Env { clock: Arc::new(clock.clone()), entropy: Env::system().entropy };
        let store = Store::open(Location::Memory, env.clone()).await.unwrap();
        let standing = Standing::load(store.clone(), env.clone()).await.unwrap();
        let mut scene = Self { clock, env, store, standing, seen: Revision::default() };
        scene.follow().await;
        scene
    }

    /// Has the changes taken in, as the follower does.
    async fn follow(&mut self) {
        let seen = self.seen;
        let news = self.store.read(move |tx| changes::since(tx, seen)).await.unwrap();
        self.standing.take(&news).await.unwrap();
        let (News::Changes { revision, .. } | News::Everything { revision }) = news;
        self.seen = revision;
    }

    fn forward(&self, millis: u64) {
        self.clock.0.fetch_add(millis, Ordering::Relaxed);
    }

    /// A token of a grant that was made before.
    fn token_of(&self, grant: u64) -> AccessToken {
        let Party { principal, client } = party(grant);
        let token = token(&principal.to_string(), self.clock.now());
        AccessToken { grant: grant_id(grant), client, epoch: self.store.epoch(), ..token }
    }

    fn check(&self, token: &AccessToken) -> Result<(), Refused> {
        self.standing.check(token, self.clock.now())
    }

    /// Whether the store says that it counts no more.
    async fn is_revoked(&self, token: &AccessToken) -> bool {
        let jti = Digest::of(token.id.as_str().as_bytes()).to_hex();
        let denied = revocations::denied_of(&self.store, &token.grant).await.unwrap();
        if denied.iter().any(|denied| denied.token.as_ref().is_none_or(|token| *token == jti)) {
            return true;
        }
        let kind = PrincipalKind::of(&token.principal).map(Whose::Kind);
        let own = [Whose::Principal(token.principal.clone()), Whose::Client(token.client.clone()), Whose::Everybody];
        for whose in own.into_iter().chain(kind) {
            let watermark = revocations::watermark(&self.store, whose).await.unwrap();
            if watermark.is_some_and(|watermark| token.issued <= watermark.not_before) {
                return true;
            }
        }
        false
    }
}

const PRINCIPALS: [&str; 3] = ["key:ci", "key:other", "guest:0a0a0a0a0a0a0a0a0a0a0a0a"];
const GRANTS: u64 = 4;

fn party(grant: u64) -> Party {
    let principal = PRINCIPALS[usize::try_from(grant).unwrap() % PRINCIPALS.len()];
    let client = client(["app", "tool"][usize::try_from(grant).unwrap() % 2]);
    Party { principal: Principal::parse(principal).unwrap(), client }
}

fn whose(number: usize) -> Whose {
    let all = [
        Whose::Everybody,
        Whose::Kind(PrincipalKind::Guest),
        Whose::Kind(PrincipalKind::Key),
        Whose::Principal(Principal::parse(PRINCIPALS[0]).unwrap()),
        Whose::Client(client("app")),
    ];
    all[number % all.len()].clone()
}

#[derive(Clone, Debug)]
enum Step {
    Issue { grant: u64 },
    RevokeToken { number: usize },
    RevokeGrant { grant: u64 },
    RevokeAll { whose: usize },
    Wait { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..GRANTS).prop_map(|grant| Step::Issue { grant }),
        2 => (0..8_usize).prop_map(|number| Step::RevokeToken { number }),
        1 => (0..GRANTS).prop_map(|grant| Step::RevokeGrant { grant }),
        1 => (0..5_usize).prop_map(|whose| Step::RevokeAll { whose }),
        2 => prop_oneof![0..3_u64, Just(700)].prop_map(|millis| Step::Wait { millis }),
    ]
}

async fn holds(steps: Vec<Step>) {
    let mut scene = Scene::new().await;
    for grant in 0..GRANTS {
        issue(&scene.store, grant, &format!("refresh-{grant}"), party(grant)).await;
    }
    let mut tokens: Vec<AccessToken> = Vec::new();
    for step in steps {
        match step.clone() {
            Step::Issue { grant } => tokens.push(scene.token_of(grant)),
            Step::RevokeToken { number } => {
                let Some(token) = tokens.get(number) else { continue };
                let jti = Digest::of(token.id.as_str().as_bytes());
                revocations::revoke_token(&scene.store, token.grant.clone(), jti, Actor::System).await.unwrap();
            }
            Step::RevokeGrant { grant } => {
                let reason = RevocationReason::Operator;
                grants::revoke(&scene.store, &grant_id(grant), reason, Actor::System).await.unwrap();
            }
            Step::RevokeAll { whose: number } => {
                let reason = RevocationReason::Operator;
                revocations::revoke_all(&scene.store, whose(number), reason, Actor::System).await.unwrap();
            }
            Step::Wait { millis } => scene.forward(millis),
        }
        scene.follow().await;
        let loaded = Standing::load(scene.store.clone(), scene.env.clone()).await.unwrap();
        for token in &tokens {
            let is_refused = scene.check(token).is_err();
            assert_eq!(is_refused, scene.is_revoked(token).await, "{step:?} {token:?}");
            assert_eq!(loaded.check(token, scene.clock.now()).is_err(), is_refused, "whoever starts now says the same");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_in_memory_is_what_the_store_says(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(holds(steps));
    }
}

#[tokio::test]
async fn of_two_tokens_of_one_second_the_one_from_before_the_revocation_is_refused() {
    let mut scene = Scene::new().await;
    let as_read = |token: &AccessToken| VERIFIER.verify(&signed(token), token.issued, token.epoch).unwrap();
    let before = as_read(&scene.token_of(0));
    scene.forward(10);
    let reason = RevocationReason::Operator;
    revocations::revoke_all(&scene.store, Whose::Everybody, reason, Actor::System).await.unwrap();
    scene.follow().await;
    let at_once = as_read(&scene.token_of(0));
    scene.forward(1);
    let after = as_read(&scene.token_of(0));
    assert_eq!(before.issued.as_millis() / 1_000, after.issued.as_millis() / 1_000, "all are of one second");
    let refused = Err(Refused::Watermark(Whose::Everybody));
    assert_eq!((scene.check(&before), scene.check(&at_once), scene.check(&after)), (refused.clone(), refused, Ok(())));
}

#[tokio::test]
async fn what_is_from_another_life_of_the_store_or_from_a_time_that_has_not_come_is_refused() {
    let scene = Scene::new().await;
    let token = scene.token_of(0);
    assert_eq!(scene.check(&token), Ok(()));
    assert_eq!(scene.check(&AccessToken { epoch: token.epoch + 1, ..token.clone() }), Err(Refused::Restored));
    let ahead = |by: Duration| AccessToken { issued: token.issued.after(by), ..token.clone() };
    assert_eq!(scene.check(&ahead(MAX_AHEAD)), Ok(()));
    assert_eq!(scene.check(&ahead(MAX_AHEAD + Duration::from_millis(1))), Err(Refused::Ahead));
}

#[tokio::test]
async fn what_was_missed_is_read_whole_again() {
    let scene = Scene::new().await;
    let token = scene.token_of(1);
    let reason = RevocationReason::Operator;
    revocations::revoke_all(&scene.store, Whose::Principal(token.principal.clone()), reason, Actor::System)
        .await
        .unwrap();
    assert_eq!(scene.check(&token), Ok(()), "nobody has told");
    scene.standing.take(&News::Everything { revision: Revision::default() }).await.unwrap();
    assert!(scene.check(&token).is_err());
}

#[tokio::test]
async fn a_watermark_that_nobody_here_understands_lets_nobody_in() {
    let scene = Scene::new().await;
    let changes = vec![Change::Watermark { of: "planet:mars".to_owned() }];
    let news = News::Changes { changes, revision: Revision::default() };
    scene.standing.is_current().await.unwrap();
    scene.standing.take(&news).await.expect("others are told of what they know");
    assert!(scene.standing.is_current().await.is_err() && scene.standing.is_behind());
    scene.standing.take(&News::Everything { revision: Revision::default() }).await.unwrap();
    scene.standing.is_current().await.expect("all that is there is understood");
}

#[tokio::test]
async fn what_can_be_forgotten_is() {
    let mut scene = Scene::new().await;
    for number in 0..FIRST_TIDYING as u64 {
        let jti = Digest::of(&number.to_be_bytes());
        revocations::revoke_token(&scene.store, grant_id(number), jti, Actor::System).await.unwrap();
        if number % 200 == 0 {
            scene.follow().await;
        }
    }
    let kept = || scene.standing.revoked.read().unwrap().grants.len();
    assert!(kept() > 800, "{}", kept());
    scene.forward(2 * 60 * 60 * 1_000);
    revocations::revoke_token(&scene.store, grant_id(9_999), Digest::of(b"jti"), Actor::System).await.unwrap();
    for _ in 0..5 {
        scene.follow().await;
    }
    assert_eq!(scene.standing.revoked.read().unwrap().grants.len(), 1);
}

#[tokio::test]
async fn watermarks_are_forgotten_when_nothing_is_left_from_before_them() {
    let mut scene = Scene::new().await;
    let reason = RevocationReason::Operator;
    let of = |number: usize| Whose::Client(client(&format!("client-{number}")));
    for some in (0..FIRST_TIDYING - 1).collect::<Vec<_>>().chunks(100) {
        let these = some.iter().map(|number| (of(*number), reason)).collect();
        revocations::revoke_each(&scene.store, these, Actor::System).await.unwrap();
        scene.follow().await;
    }
    let standing = scene.standing.clone();
    let kept = || standing.revoked.read().unwrap().watermarks.len();
    assert_eq!(kept(), FIRST_TIDYING - 1);
    scene.forward(u64::try_from(WATERMARK_FOR.as_millis()).unwrap() + 1);
    revocations::revoke_all(&scene.store, Whose::Everybody, reason, Actor::System).await.unwrap();
    scene.follow().await;
    assert_eq!(kept(), 1);
    let token = scene.token_of(0);
    assert_eq!(scene.check(&token), Err(Refused::Watermark(Whose::Everybody)));
}

#[tokio::test]
async fn hundreds_of_revocations_are_one_question() {
    let mut scene = Scene::new().await;
    for number in 0..200 {
        let jti = Digest::of(b"jti");
        revocations::revoke_token(&scene.store, grant_id(number), jti, Actor::System).await.unwrap();
    }
    let before = scene.store.reads();
    scene.follow().await;
    let questions = scene.store.reads() - before;
    assert!(questions <= 2, "{questions}");
    assert_eq!(scene.standing.revoked.read().unwrap().grants.len(), 200);
}

#[tokio::test]
async fn facts_about_people_are_read_once_and_again_after_a_change() {
    let mut scene = Scene::new().await;
    let id = UserId::generate(&scene.env);
    assert_eq!(scene.standing.user(&id).await.unwrap(), None);
    let new = users::NewUser {
        id: id.clone(),
        login: None,
        name: DisplayName::of("Ada"),
        email: None,
        role: Role::User,
        groups: TokenList::parse(vec!["lab".to_owned()]).unwrap(),
        invited: false,
        password: None,
    };
    let users::Creation::Created(user) = users::create(&scene.store, new, Actor::System).await.unwrap() else {
        panic!("it is made")
    };
    assert_eq!(user.status, Status::Active);
    assert_eq!(scene.standing.user(&id).await.unwrap(), None, "nobody has told");
    scene.follow().await;
    let facts = scene.standing.user(&id).await.unwrap().unwrap();
    assert!(facts.is_active && *facts.groups == ["lab".to_owned()]);
    scene.store.close().await;
    assert_eq!(scene.standing.user(&id).await.unwrap(), Some(facts), "the store is not asked");
    let stranger = UserId::generate(&scene.env);
    assert!(scene.standing.user(&stranger).await.is_err(), "a fault is no answer");
}

#[tokio::test]
async fn what_was_revoked_here_is_known_before_the_next_request_is_decided() {
    let scene = Scene::new().await;
    let tasks = Tasks::new();
    let (_, clock) = scene.env.adjustable();
    let follower = Follower::begin(scene.store.clone(), clock, Duration::from_secs(10)).await.unwrap();
    tasks.spawn(follower.run(vec![scene.standing.clone()], tasks.stopping().clone()));
    for number in 0..20 {
        let token = scene.token_of(number);
        let jti = Digest::of(token.id.as_str().as_bytes());
        scene.standing.is_current().await.unwrap();
        assert_eq!(scene.check(&token), Ok(()));
        revocations::revoke_token(&scene.store, token.grant.clone(), jti, Actor::System).await.unwrap();
        scene.standing.is_current().await.unwrap();
        assert_eq!(scene.check(&token), Err(Refused::Token));
    }
    assert!(tasks.stop(Duration::from_secs(10)).await);
}
