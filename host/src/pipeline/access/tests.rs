//! What may be used by a principal who is not here is what the caller reaches that they are when they come.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use arc_swap::ArcSwap;
use proptest::prelude::*;

use super::*;
use crate::audit::{Actor, OperatorProof};
use crate::authorization::resource::{Parts, ProtectedResource};
use crate::authorization::standing::Standing;
use crate::config::{self, Config, PolicySettings, WhenAllAbstain};
use crate::connection::lending::Later;
use crate::env::Env;
use crate::identity::user::{DisplayName, Login, Role};
use crate::identity::{Keyring, Pass, TokenList, ToolScope};
use crate::ids::{ClientId, GrantId, GuestId, TokenId};
use crate::outbound::Outbound;
use crate::policy::{Engine, PolicySet};
use crate::secret::DeploymentSecret;
use crate::store::users::{self, Change, Creation, Edit, NewUser};
use crate::store::{Location, Store};
use crate::tasks::Tasks;
use crate::upstream::Upstream;

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
const UPSTREAMS: [&str; 3] = ["notes", "tracker", "files"];
const GROUPS: [&str; 2] = ["ops", "lab"];
const LOGINS: [&str; 2] = ["ada", "bob"];

/// A key of the file.
#[derive(Clone, Debug)]
struct Key {
    allow: Option<usize>,
    owner: Option<usize>,
    is_disabled: bool,
    has_expired: bool,
}

#[derive(Clone, Debug)]
struct Person {
    groups: BTreeSet<usize>,
    is_suspended: bool,
}

#[derive(Clone, Debug)]
struct Scene {
    mode: &'static str,
    required: bool,
    guests: bool,
    for_all: Option<usize>,
    users: Option<Option<usize>>,
    guests_allow: Option<usize>,
    groups: [Option<usize>; 2],
    keys: Vec<Key>,
    people: Vec<Option<Person>>,
}

fn upstream() -> impl Strategy<Value = Option<usize>> {
    proptest::option::of(0..UPSTREAMS.len())
}

fn scene() -> impl Strategy<Value = Scene> {
    let key = (upstream(), proptest::option::of(0..2_usize), any::<bool>(), any::<bool>()).prop_map(
        |(allow, owner, is_disabled, has_expired)| Key {
            allow,
            owner,
            is_disabled: is_disabled && has_expired,
            has_expired: has_expired && !is_disabled,
        },
    );
    let person = (proptest::collection::btree_set(0..GROUPS.len(), 0..3), proptest::bool::weighted(0.2))
        .prop_map(|(groups, is_suspended)| Person { groups, is_suspended });
    let settings = (prop_oneof![Just("keys"), Just("both"), Just("oauth")], any::<bool>(), any::<bool>(), upstream());
    let lists = (proptest::option::weighted(0.8, upstream()), upstream(), [upstream(), upstream()]);
    let who =
        (proptest::collection::vec(key, 0..4), proptest::collection::vec(proptest::option::weighted(0.8, person), 2));
    (settings, lists, who).prop_map(
        |((mode, required, guests, for_all), (users, guests_allow, groups), (keys, people))| Scene {
            mode,
            required: required || mode == "oauth",
            guests,
            for_all,
            users,
            guests_allow,
            groups,
            keys,
            people,
        },
    )
}

fn entries(upstream: Option<usize>) -> String {
    let entry = upstream.map(|at| format!("{{ upstream = '{}', tools = ['*'] }}", UPSTREAMS[at]));
    format!("[{}]", entry.unwrap_or_default())
}

fn key_name(at: usize) -> KeyName {
    KeyName::parse(&format!("key-{at}")).unwrap()
}

impl Scene {
    fn config(&self, now: Timestamp) -> Config {
        let mut text =
            format!("[auth]\nmcp = '{}'\nrequired = {}\nguests = {}\n", self.mode, self.required, self.guests);
        text += &format!("[auth.allow]\nguests = {}\n", entries(self.guests_allow));
        if let Some(users) = self.users {
            text += &format!("users = {}\n[auth.allow.groups]\n", entries(users));
            for (group, upstream) in GROUPS.iter().zip(self.groups) {
                text +=
                    &format!("{group} = [{}]\n", upstream.map(|at| format!("'{}'", UPSTREAMS[at])).unwrap_or_default());
            }
        }
        for (at, name) in UPSTREAMS.iter().enumerate() {
            let for_all = self.for_all == Some(at);
            text += &format!("[upstreams.{name}]\nurl = 'http://127.0.0.1:9/'\nallow_on_all_keys = {for_all}\n");
        }
        for (at, key) in self.keys.iter().enumerate() {
            let Key { allow, owner, is_disabled, has_expired } = key;
            text += &format!(
                "[keys.{}]\nsha256 = '{at:064x}'\nallow = {}\ndisabled = {is_disabled}\n",
                key_name(at),
                entries(*allow)
            );
            if let Some(owner) = owner {
                text += &format!("owner = '{}'\n", LOGINS[*owner]);
            }
            if *has_expired {
                text += "expires = 2001-01-01T00:00:00Z\n";
            }
        }
        config::parse(&text, Path::new("/"), &|_| None, now).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
    }

    /// The ids of those who have an account.
    async fn people(&self, store: &Store, env: &Env) -> Vec<UserId> {
        let mut ids = Vec::new();
        for (person, login) in self.people.iter().zip(LOGINS) {
            let Some(person) = person else { continue };
            let groups = person.groups.iter().map(|at| GROUPS[*at].to_owned()).collect();
            let new = NewUser {
                id: UserId::generate(env),
                login: Login::parse(login),
                name: DisplayName::of(login),
                email: None,
                role: Role::User,
                groups: TokenList::parse(groups).unwrap(),
                invited: false,
                password: None,
            };
            let id = new.id.clone();
            assert!(matches!(users::create(store, new, OPERATOR).await.unwrap(), Creation::Created(_)));
            if person.is_suspended {
                let changed = users::change(store, &id, None, vec![Edit::Suspend], OPERATOR).await.unwrap();
                assert!(matches!(changed, Change::Changed(_)));
            }
            ids.push(id);
        }
        ids
    }
}

async fn snapshot(config: &Config, store: &Store) -> Snapshot {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(1).unwrap());
    let settings =
        PolicySettings { when_all_abstain: WhenAllAbstain::Allow, max_components: 1, ..PolicySettings::default() };
    let policies = PolicySet::load(&settings, &[], &ENGINE, &|_| None, None, 1).unwrap();
    let start = |settings: &config::Upstream| {
        let (outbound, lender) = (Outbound::new(), Arc::new(Later::default()));
        let upstream =
            Upstream::start(settings.clone(), (&outbound, lender), &config.limits, Path::new("/"), &Tasks::new());
        (settings.name.clone(), upstream)
    };
    let open = config.upstreams.iter().filter(|upstream| upstream.allow_on_all_keys);
    let for_all: Vec<UpstreamName> = open.map(|upstream| upstream.name.clone()).collect();
    let keys = Keyring::with(config.keys.clone(), &for_all);
    Snapshot {
        upstreams: Arc::new(config.upstreams.iter().map(start).collect()),
        people: users::people(store).await.unwrap(),
        ..Snapshot::for_tests(config.auth.as_ref().clone(), keys, policies)
    }
}

async fn agree(scene: Scene) {
    let env = Env::system();
    let store = Store::open(Location::Memory, env.clone()).await.unwrap();
    let config = scene.config(env.now());
    let people = scene.people(&store, &env).await;
    let snapshot = snapshot(&config, &store).await;
    let gate = ProtectedResource::new(Parts {
        env: env.clone(),
        issuer: "https://gateway.example".to_owned(),
        store: store.clone(),
        secret: DeploymentSecret::new(&[7; 32]),
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot.clone())),
        standing: Standing::load(store.clone(), env.clone()).await.unwrap(),
        trust: Box::new(|| panic!("no token is verified")),
        browsers: None,
        is_local: true,
    });
    let pass = Arc::new(Pass {
        token: TokenId::generate(&env),
        grant: GrantId::generate(&env),
        client: ClientId::parse("app").unwrap(),
        scopes: TokenList::default(),
        tools: ToolScope::default(),
        claims: None,
        issued: env.now(),
        expires: env.now(),
        epoch: store.epoch(),
    });
    let keys = (0..4).map(|at| Principal::Key(key_name(at)));
    let strangers = [UserId::generate(&env)].into_iter().map(Principal::User);
    let guest = Principal::Guest(GuestId::generate(&env));
    let principals =
        keys.chain(people.into_iter().map(Principal::User)).chain(strangers).chain([guest, Principal::Anonymous]);
    for principal in principals {
        // By whichever way there is for them.
        let direct = gate.again(&principal, None).await.ok();
        let caller = match direct {
            Some(caller) => Some(caller),
            None => gate.again(&principal, Some(&pass)).await.ok(),
        };
        for name in UPSTREAMS.iter().chain(&["gone"]) {
            let upstream = UpstreamName::parse(name).unwrap();
            let is_there = snapshot.upstreams.contains_key(&upstream);
            let reaches = is_there && caller.as_ref().is_some_and(|caller| caller.allow.reaches(&upstream));
            let place = Place { holder: Holder::Of(principal.clone()), upstream };
            let access = may_use(&snapshot, &place, env.now());
            assert_eq!(access.is_granted(), reaches, "{place}: {access:?}");
            assert_eq!(access == Access::UpstreamGone, !is_there);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_caller_reaches_what_its_principal_may_use(scene in scene()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(agree(scene));
    }
}

#[tokio::test]
async fn who_is_gone_is_told_from_who_may_come_back() {
    let env = Env::system();
    let store = Store::open(Location::Memory, env.clone()).await.unwrap();
    let person = |is_suspended| Some(Person { groups: BTreeSet::new(), is_suspended });
    let key = |is_disabled| Key { allow: Some(0), owner: None, is_disabled, has_expired: !is_disabled };
    let scene = Scene {
        mode: "both",
        required: true,
        guests: false,
        for_all: None,
        users: Some(Some(0)),
        guests_allow: Some(0),
        groups: [None, None],
        keys: vec![key(true), key(false), Key { has_expired: false, ..key(false) }],
        people: vec![person(true), person(false)],
    };
    let config = scene.config(env.now());
    let ids = scene.people(&store, &env).await;
    let snapshot = snapshot(&config, &store).await;
    let of = |holder: Holder, upstream: &str| {
        let place = Place { holder, upstream: UpstreamName::parse(upstream).unwrap() };
        may_use(&snapshot, &place, env.now())
    };
    let key = |at| Holder::Of(Principal::Key(key_name(at)));
    assert_eq!(
        [0, 1, 2, 3].map(|at| of(key(at), "notes")),
        [Access::Withdrawn, Access::Withdrawn, Access::Granted, Access::HolderGone]
    );
    assert_eq!((of(key(2), "tracker"), of(key(2), "gone")), (Access::Withdrawn, Access::UpstreamGone));
    let user = |id: &UserId| Holder::Of(Principal::User(id.clone()));
    assert_eq!(of(user(&ids[0]), "notes"), Access::Withdrawn, "suspended");
    assert_eq!(of(user(&ids[1]), "notes"), Access::Granted);
    assert_eq!(of(user(&UserId::generate(&env)), "notes"), Access::HolderGone);
    assert_eq!(of(Holder::Of(Principal::Guest(GuestId::generate(&env))), "notes"), Access::Withdrawn);
    for holder in [Holder::Shared, Holder::Of(Principal::Gateway)] {
        assert_eq!((of(holder.clone(), "files"), of(holder, "gone")), (Access::Granted, Access::UpstreamGone));
    }
}
