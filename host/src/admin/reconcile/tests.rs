//! What lists show of connections is what is computed from scratch, whatever has changed in whatever order, and a sweep leaves
//! the rows that a model has.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::testing::{Replica, Skewed, until};
use super::*;
use crate::admin::keys::NewKey;
use crate::audit::{Actor, OperatorProof};
use crate::connection::{Credential, Holder, Standing};
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, Standing as KeyStanding};
use crate::identity::user::{DisplayName, Login, Role};
use crate::ids::{ConnectionId, FlowId, KekId, KeyName, Owner, Principal, UpstreamName, UserId};
use crate::secret::{Digest, Sealed};
use crate::store::connections::{Filter, NewCredential, Put};
use crate::store::data_keys::{self, DataKey, DataKeyId};
use crate::store::flows::{Beginning, NewFlow};
use crate::store::keys::Edit as KeyEdit;
use crate::store::users::{self, Edit, NewUser};
use crate::store::{Location, Store, changes};

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
const UPSTREAMS: [&str; 2] = ["notes", "tracker"];
const LOGINS: [&str; 2] = ["ada", "bob"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Of the file, and of the store.
const KEYS: [&str; 2] = ["filed", "made"];

/// What the file says.
#[derive(Clone, Debug)]
struct File {
    is_there: [bool; 2],
    for_all: [bool; 2],
    users: [bool; 2],
    ops: [bool; 2],
    key: Option<FileKey>,
}

#[derive(Clone, Debug)]
struct FileKey {
    allow: [bool; 2],
    owner: Option<usize>,
    is_disabled: bool,
}

#[derive(Clone, Debug)]
enum Act {
    Reload(File),
    MakeKey,
    EnableKey(bool),
    DeleteKey,
    Join(usize),
    /// In the group `ops`, or in none.
    Move(usize, bool),
    Suspend(usize, bool),
    Leave(usize),
    Connect(usize, usize),
    Begin(usize, usize),
    Pass(u32),
    Sweep,
}

fn file() -> impl Strategy<Value = File> {
    let key = (any::<[bool; 2]>(), proptest::option::of(0..2_usize), proptest::bool::weighted(0.2))
        .prop_map(|(allow, owner, is_disabled)| FileKey { allow, owner, is_disabled });
    let there = [proptest::bool::weighted(0.85), proptest::bool::weighted(0.85)];
    let key = proptest::option::weighted(0.8, key);
    (there, any::<[bool; 2]>(), any::<[bool; 2]>(), any::<[bool; 2]>(), key)
        .prop_map(|(is_there, for_all, users, ops, key)| File { is_there, for_all, users, ops, key })
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..2_usize;
    prop_oneof![
        4 => file().prop_map(Act::Reload),
        2 => Just(Act::MakeKey),
        1 => any::<bool>().prop_map(Act::EnableKey),
        1 => Just(Act::DeleteKey),
        3 => who.clone().prop_map(Act::Join),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, is_in)| Act::Move(who, is_in)),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, is_out)| Act::Suspend(who, is_out)),
        1 => who.prop_map(Act::Leave),
        12 => (0..5_usize, 0..2_usize).prop_map(|(holder, upstream)| Act::Connect(holder, upstream)),
        4 => (0..5_usize, 0..2_usize).prop_map(|(holder, upstream)| Act::Begin(holder, upstream)),
        2 => (1..40_u32).prop_map(Act::Pass),
        3 => Just(Act::Sweep),
    ]
}

#[derive(Clone, Debug)]
struct Account {
    id: UserId,
    in_ops: bool,
    is_active: bool,
}

/// What there is, as the acts have it.
struct World {
    file: File,
    /// Whether it is enabled, if it was made.
    made: Option<bool>,
    people: [Option<Account>; 2],
    /// Since when each row is noted as an orphan.
    rows: BTreeMap<Place, Option<u64>>,
    flows: BTreeSet<Place>,
    next: usize,
}

impl World {
    fn new() -> Self {
        let file = File { is_there: [true; 2], for_all: [false; 2], users: [true; 2], ops: [true; 2], key: None };
        Self { file, made: None, people: [None, None], rows: BTreeMap::new(), flows: BTreeSet::new(), next: 0 }
    }

    fn holder(&self, at: usize) -> Option<Holder> {
        Some(match at {
            0 | 1 => Holder::Of(key_of(KEYS[at])),
            2 | 3 => Holder::Of(Principal::User(self.people[at - 2].as_ref()?.id.clone())),
            _ => Holder::Shared,
        })
    }

    /// What access is, from scratch and by other means than those that are tested.
    fn may_use(&self, place: &Place) -> bool {
        let Some(at) = UPSTREAMS.iter().position(|name| *name == place.upstream.as_str()) else { return false };
        let File { is_there, for_all, users, ops, key } = &self.file;
        if !is_there[at] {
            return false;
        }
        let of_filed = |key: &FileKey| !key.is_disabled && (key.allow[at] || for_all[at]);
        match &place.holder {
            Holder::Of(principal) if *principal == key_of(KEYS[0]) => key.as_ref().is_some_and(of_filed),
            // Its list has the first upstream.
            Holder::Of(principal) if *principal == key_of(KEYS[1]) => {
                self.made == Some(true) && (at == 0 || for_all[at])
            }
            Holder::Of(Principal::User(id)) => {
                let known = self.people.iter().position(|known| known.as_ref().is_some_and(|known| known.id == *id));
                let Some((who, known)) = known.and_then(|who| Some((who, self.people[who].as_ref()?))) else {
                    return false;
                };
                let owned = key.as_ref().filter(|key| key.owner == Some(who));
                known.is_active && (users[at] || known.in_ops && ops[at] || owned.is_some_and(of_filed))
            }
            Holder::Of(_) => false,
            Holder::Shared => true,
        }
    }

    fn forget(&mut self, holder: &Holder) {
        self.rows.retain(|place, _| place.holder != *holder);
        self.flows.retain(|place| place.holder != *holder);
    }

    fn sweep(&mut self, now_ms: u64) {
        let granted: BTreeSet<Place> = self.rows.keys().filter(|place| self.may_use(place)).cloned().collect();
        self.rows.retain(|place, since| {
            *since = match *since {
                _ if granted.contains(place) => None,
                None => Some(now_ms),
                since => since,
            };
            since.is_none_or(|since| since + u64::try_from(KEPT.as_millis()).unwrap() > now_ms)
        });
        self.flows = self.flows.iter().filter(|place| self.may_use(place)).cloned().collect();
    }
}

fn key_of(name: &str) -> Principal {
    Principal::Key(KeyName::parse(name).unwrap())
}

fn text_of(file: &File) -> String {
    let entries = |has: [bool; 2]| {
        let has = UPSTREAMS.iter().zip(has).zip(file.is_there).filter(|((_, has), is_there)| *has && *is_there);
        has.map(|((name, _), _)| format!("{{ upstream = '{name}', tools = ['*'] }}")).collect::<Vec<_>>().join(", ")
    };
    let ops = UPSTREAMS.iter().zip(file.ops).zip(file.is_there).filter(|((_, has), is_there)| *has && *is_there);
    let ops: Vec<String> = ops.map(|((name, _), _)| format!("'{name}'")).collect();
    let mut text =
        format!("[auth.allow]\nusers = [{}]\n[auth.allow.groups]\nops = [{}]\n", entries(file.users), ops.join(", "));
    for (at, name) in UPSTREAMS.iter().enumerate().filter(|(at, _)| file.is_there[*at]) {
        text += &format!("[upstreams.{name}]\nurl = 'http://127.0.0.1:9/'\nallow_on_all_keys = {}\n", file.for_all[at]);
    }
    if let Some(FileKey { allow, owner, is_disabled }) = &file.key {
        let secret = Digest::of(b"filed").to_hex();
        text += &format!(
            "[keys.{}]\nsha256 = '{secret}'\ndisabled = {is_disabled}\nallow = [{}]\n",
            KEYS[0],
            entries(*allow)
        );
        if let Some(owner) = owner {
            text += &format!("owner = '{}'\n", LOGINS[*owner]);
        }
    }
    text
}

struct Scene {
    replica: Replica,
    store: Store,
    clock: Skewed,
    world: World,
}

impl Scene {
    async fn new() -> Self {
        let (clock, world) = (Skewed::right(), World::new());
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        let text = text_of(&world.file);
        let mut replica = Replica::configured(store.clone(), &clock, Duration::from_secs(10), (&[], &text)).await;
        replica.follow();
        Self { replica, store, clock, world }
    }

    fn control(&self) -> &Arc<Control> {
        &self.replica.control
    }

    fn now_ms(&self) -> u64 {
        self.control().env.now().as_millis()
    }

    /// Waits until what is in the store is published.
    async fn caught_up(&self) {
        until("the snapshot is that of the store", async || {
            let revision = self.store.read(changes::revision).await.unwrap();
            self.control().snapshot.load().revision == revision
        })
        .await;
    }

    async fn has_data_key(&self, holder: &Holder) -> bool {
        let Holder::Of(principal) = holder else { return false };
        data_keys::find(&self.store, &Owner::Principal(principal.clone())).await.unwrap().key.is_some()
    }

    /// Something in place of the data key that the vault would make.
    async fn give_data_key(&self, holder: &Holder) {
        let Holder::Of(principal) = holder else { return };
        let key = DataKey {
            owner: Owner::Principal(principal.clone()),
            id: DataKeyId([2; 16]),
            kid: KekId::parse("k1").unwrap(),
            wrapped: Sealed::from_bytes(*b"wrapped"),
            root: 0,
            tag: Digest::of(b"tag"),
            created: self.control().env.now(),
        };
        data_keys::create(&self.store, &key).await.unwrap();
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Reload(file) => {
                self.replica.configure_with(&text_of(&file));
                self.control().reload(OPERATOR).await.unwrap_or_else(|error| panic!("{}", error.explain()));
                self.world.file = file;
            }
            Act::MakeKey => {
                let allow = AllowList(vec![AllowEntry {
                    upstream: Glob::parse(UPSTREAMS[0]).unwrap(),
                    tools: vec![Glob::any()],
                }]);
                let (scopes, groups) = (TokenList::default(), TokenList::default());
                let name = KeyName::parse(KEYS[1]).unwrap();
                let new = NewKey { name, allow, scopes, groups, owner: None, expires: None };
                let made = self.control().create_key(new, OPERATOR).await;
                assert_eq!(made.is_ok(), self.world.made.is_none());
                self.world.made.get_or_insert(true);
            }
            Act::EnableKey(is_on) => {
                let standing = if is_on { KeyStanding::Enabled } else { KeyStanding::Disabled };
                let name = KeyName::parse(KEYS[1]).unwrap();
                let edit = KeyEdit { standing: Some(standing), ..KeyEdit::default() };
                let set = self.control().change_key(&name, None, edit, OPERATOR).await;
                assert_eq!(set.is_ok(), self.world.made.is_some());
                self.world.made = self.world.made.map(|_| is_on);
            }
            Act::DeleteKey => {
                let name = KeyName::parse(KEYS[1]).unwrap();
                let holder = Holder::Of(key_of(KEYS[1]));
                let deleted = self.control().delete_key(&name, None, OPERATOR).await;
                assert_eq!(deleted.is_ok(), self.world.made.take().is_some());
                if deleted.is_ok() {
                    self.world.forget(&holder);
                    assert!(!self.has_data_key(&holder).await, "its data key is destroyed");
                }
            }
            Act::Join(who) if self.world.people[who].is_none() => {
                self.world.next += 1;
                let id = UserId::parse(&format!("{:024x}", self.world.next)).unwrap();
                let new = NewUser {
                    id: id.clone(),
                    login: Login::parse(LOGINS[who]),
                    name: DisplayName::of(LOGINS[who]),
                    email: None,
                    role: Role::User,
                    groups: TokenList::default(),
                    invited: false,
                    password: None,
                };
                assert!(matches!(
                    users::create(&self.store, new, OPERATOR).await.unwrap(),
                    users::Creation::Created(_)
                ));
                self.world.people[who] = Some(Account { id, in_ops: false, is_active: true });
            }
            Act::Move(who, is_in) => {
                let Some(account) = &mut self.world.people[who] else { return };
                let groups = if is_in { vec!["ops".to_owned()] } else { Vec::new() };
                let edits = vec![Edit::Groups(TokenList::parse(groups).unwrap())];
                users::change(&self.store, &account.id, None, edits, OPERATOR).await.unwrap();
                account.in_ops = is_in;
            }
            Act::Suspend(who, is_out) => {
                let Some(account) = &mut self.world.people[who] else { return };
                let edits = vec![if is_out { Edit::Suspend } else { Edit::Activate }];
                users::change(&self.store, &account.id, None, edits, OPERATOR).await.unwrap();
                account.is_active = !is_out;
            }
            Act::Leave(who) => {
                let Some(account) = self.world.people[who].take() else { return };
                let holder = Holder::Of(Principal::User(account.id.clone()));
                self.control().delete_user(&account.id, None, OPERATOR).await.unwrap();
                self.world.forget(&holder);
                assert!(!self.has_data_key(&holder).await, "their data key is destroyed");
            }
            Act::Connect(holder, upstream) => self.connect(holder, upstream).await,
            Act::Begin(holder, upstream) => self.begin(holder, upstream).await,
            Act::Pass(days) => {
                self.clock.advance(DAY * days);
                // They lived for a quarter of an hour.
                self.world.flows.clear();
            }
            Act::Sweep => {
                self.control().sweep_access().await;
                self.world.sweep(self.now_ms());
                self.rows_are_those_of_the_model().await;
            }
            Act::Join(_) => {}
        }
    }

    fn place(&self, holder: usize, upstream: usize) -> Option<Place> {
        Some(Place { holder: self.world.holder(holder)?, upstream: UpstreamName::parse(UPSTREAMS[upstream]).unwrap() })
    }

    async fn connect(&mut self, holder: usize, upstream: usize) {
        let Some(place) = self.place(holder, upstream) else { return };
        let there = connections::get(&self.store, &place).await.unwrap();
        self.world.next += 1;
        let fresh = ConnectionId::parse(&format!("{:024x}", self.world.next)).unwrap();
        let new = NewCredential {
            place: place.clone(),
            id: there.as_ref().map_or(fresh, |there| there.id.clone()),
            replaces: there.map(|there| there.revision),
            origin: None,
            credential: Credential::Headers { names: vec!["x".to_owned()], values: Sealed::from_bytes(*b"values") },
        };
        let snapshot = self.control().snapshot.load_full();
        let may_use = self.control().may_use(&snapshot);
        let put = connections::put(&self.store, new, snapshot.revision, may_use, OPERATOR).await.unwrap();
        match put {
            Put::Stored(_) => {
                assert!(self.world.may_use(&place), "{place}");
                self.give_data_key(&place.holder).await;
                self.world.rows.insert(place, None);
            }
            Put::NoAccess => assert!(!self.world.may_use(&place), "{place}"),
            other => panic!("{other:?}"),
        }
    }

    async fn begin(&mut self, holder: usize, upstream: usize) {
        let Some(place) = self.place(holder, upstream) else { return };
        self.world.next += 1;
        let id = format!("{:024x}", self.world.next);
        let new = NewFlow {
            id: FlowId::parse(&id).unwrap(),
            state: Digest::of(id.as_bytes()),
            place: place.clone(),
            connection: ConnectionId::parse(&id).unwrap(),
            origin: None,
            issuer: "https://id.example".to_owned(),
            client: "c".to_owned(),
            redirect: "https://gateway.example/connect/callback".to_owned(),
            verifier: Sealed::from_bytes(*b"verifier"),
            scopes: TokenList::default(),
            browser: Digest::of(b"browser"),
            user: None,
            life: Duration::from_secs(900),
        };
        let snapshot = self.control().snapshot.load_full();
        match flows::begin(&self.store, new, self.control().may_use(&snapshot)).await.unwrap() {
            Beginning::Begun(_) => {
                assert!(self.world.may_use(&place), "{place}");
                self.world.flows.insert(place);
            }
            Beginning::NoAccess => assert!(!self.world.may_use(&place), "{place}"),
            other => panic!("{other:?}"),
        }
    }

    /// What lists show is what is computed from scratch.
    async fn lists_are_right(&self) {
        let snapshot = self.control().snapshot.load_full();
        let may_use = self.control().may_use(&snapshot);
        let page = connections::list(&self.store, Filter::default(), may_use, None, 100).await.unwrap();
        let shown: BTreeMap<Place, Standing> =
            page.items.into_iter().map(|listed| (listed.connection.place, listed.standing)).collect();
        let standing = |place: &Place| if self.world.may_use(place) { Standing::Active } else { Standing::Orphaned };
        let expected: BTreeMap<Place, Standing> =
            self.world.rows.keys().map(|place| (place.clone(), standing(place))).collect();
        assert_eq!(shown, expected);
    }

    async fn rows_are_those_of_the_model(&self) {
        let page = connections::list(&self.store, Filter::default(), |_| Access::Granted, None, 100).await.unwrap();
        let of = |connection: crate::connection::Connection| {
            (connection.place, connection.orphaned_since.map(crate::env::Timestamp::as_millis))
        };
        let rows: BTreeMap<Place, Option<u64>> = page.items.into_iter().map(|listed| of(listed.connection)).collect();
        assert_eq!(rows, self.world.rows);
        let flows = flows::list(&self.store, None, None, 100).await.unwrap();
        let flows: BTreeSet<Place> = flows.items.into_iter().map(|flow| flow.place).collect();
        assert_eq!(flows, self.world.flows);
    }
}

async fn run(acts: Vec<Act>) {
    let mut scene = Scene::new().await;
    for act in acts {
        scene.act(act).await;
        scene.caught_up().await;
        scene.lists_are_right().await;
    }
    scene.act(Act::Sweep).await;
    scene.caught_up().await;
    scene.lists_are_right().await;
    assert_eq!(scene.store.verify().await.unwrap(), []);
    scene.replica.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn after_any_changes_lists_are_what_is_computed_from_scratch_and_sweeps_leave_what_a_model_has(
        acts in proptest::collection::vec(act(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts));
    }
}

#[tokio::test]
async fn access_that_is_withdrawn_is_swept_by_itself_and_old_orphans_are_ended() {
    let mut scene = Scene::new().await;
    let sweeper = crate::store::sweeper::Sweeper::new(scene.store.clone(), DAY);
    let state = sweeper.state();
    let tasks = scene.replica.tasks.clone();
    tasks.spawn(sweeper.run(tasks.stopping().clone()));
    tasks.spawn(scene.control().clone().reconcile(state));
    scene.act(Act::MakeKey).await;
    scene.caught_up().await;
    scene.act(Act::Connect(1, 0)).await;
    scene.caught_up().await;
    let place = scene.place(1, 0).unwrap();
    let store = scene.store.clone();
    let orphaned = async || connections::get(&store, &place).await.unwrap().unwrap().orphaned_since;
    assert_eq!(orphaned().await, None);
    scene.act(Act::EnableKey(false)).await;
    until("it is noted as an orphan", async || orphaned().await.is_some()).await;
    scene.act(Act::EnableKey(true)).await;
    until("it is back", async || orphaned().await.is_none()).await;
    scene.act(Act::EnableKey(false)).await;
    until("it is noted again", async || orphaned().await.is_some()).await;
    scene.clock.advance(KEPT);
    // Whoever publishes anything about access has it swept.
    scene.act(Act::Reload(scene.world.file.clone())).await;
    until("it is ended", async || connections::get(&store, &place).await.unwrap().is_none()).await;
    scene.replica.stop().await;
}
