//! Users in a real store: never without an owner, and nobody is taken for somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::super::tests::{StandingClock, memory};
use super::super::{Location, connections, flows};
use super::*;
use crate::audit::OperatorProof;
use crate::connection::{Access, Holder};
use crate::env::Timestamp;
use crate::ids::{KekId, Owner, Principal, UserTag};
use crate::secret::{Digest, Sealed};
use crate::store::data_keys::{self, DataKey, DataKeyId};
use crate::store::{api_tokens as tokens, browser_sessions as sessions};

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);

pub(in crate::store) fn id(number: usize) -> UserId {
    UserId::parse(&format!("{number:024x}")).unwrap()
}

fn login(text: &str) -> Option<Login> {
    Some(Login::parse(text).unwrap())
}

pub(in crate::store) fn new(number: usize, role: Role) -> NewUser {
    NewUser {
        id: id(number),
        login: login(&format!("user{number}")),
        name: DisplayName::of(&format!("User {number}")),
        email: None,
        role,
        groups: TokenList::default(),
        invited: false,
        password: None,
    }
}

pub(in crate::store) async fn created(store: &Store, new: NewUser) -> User {
    match create(store, new, ACTOR).await.unwrap() {
        Creation::Created(user) => *user,
        other => panic!("{other:?}"),
    }
}

/// Something in place of a data key.
pub(in crate::store) fn data_key(owner: &Owner) -> DataKey {
    DataKey {
        owner: owner.clone(),
        id: DataKeyId([2; 16]),
        kid: KekId::parse("k1").unwrap(),
        wrapped: Sealed::from_bytes(*b"wrapped"),
        root: 0,
        tag: Digest::of(b"tag"),
        created: Timestamp::from_millis(1),
    }
}

#[tokio::test]
async fn a_deleted_user_leaves_no_data_key() {
    let store = memory().await;
    created(&store, new(1, Role::Owner)).await;
    let user = created(&store, new(2, Role::Viewer)).await;
    let owner = Owner::Principal(Principal::User(user.id.clone()));
    data_keys::create(&store, &data_key(&owner)).await.unwrap();
    assert!(matches!(delete(&store, &user.id, ACTOR).await.unwrap(), Deletion::Deleted(_)));
    assert_eq!(data_keys::find(&store, &owner).await.unwrap().key, None);
    assert!(events(&store).await.contains(&AuditEvent::VaultShredded { owner }));
}

#[tokio::test]
async fn people_are_called_by_name_or_login_and_known_when_they_are_gone() {
    let store = memory().await;
    created(&store, new(1, Role::Owner)).await;
    created(&store, NewUser { name: DisplayName::of(""), ..new(2, Role::User) }).await;
    created(&store, new(3, Role::User)).await;
    assert!(matches!(delete(&store, &id(3), ACTOR).await.unwrap(), Deletion::Deleted(_)));
    let found = called(&store, (1..=4).map(id).collect()).await.unwrap();
    let names = (1..=4).map(|number| found.get(&id(number)).map(String::as_str)).collect::<Vec<_>>();
    assert_eq!(names, [Some("User 1"), Some("user2"), Some("User 3"), None]);
}

async fn edit(store: &Store, number: usize, edit: Edit) -> Change {
    change(store, &id(number), None, vec![edit], ACTOR).await.unwrap()
}

async fn events(store: &Store) -> Vec<AuditEvent> {
    let page = audit::list(store, None, 200).await.unwrap();
    page.items.into_iter().rev().map(|row| row.entry.event).collect()
}

fn identity(subject: &str) -> ExternalIdentity {
    ExternalIdentity::parse("https://id.example", subject).unwrap()
}

fn arrival(subject: &str) -> Arrival {
    Arrival { identity: identity(subject), name: None, email: None, groups: None, admission: None }
}

fn groups(groups: &[&str]) -> TokenList {
    TokenList::parse(groups.iter().map(|group| (*group).to_owned()).collect()).unwrap()
}

async fn a_user_comes_back_as_they_were_made(store: Store) {
    let user = created(&store, NewUser { groups: groups(&["ops"]), ..new(1, Role::Operator) }).await;
    assert_eq!((user.revision, user.status), (1, Status::Active));
    assert_eq!(get(&store, &id(1)).await.unwrap().as_ref(), Some(&user));
    assert_eq!(by_login(&store, &login("USER1").unwrap()).await.unwrap().as_ref(), Some(&user));
    assert_eq!(by_login(&store, &login("user2").unwrap()).await.unwrap(), None);
    let same_login = NewUser { login: login("User1"), ..new(2, Role::User) };
    assert_eq!(create(&store, same_login, ACTOR).await.unwrap(), Creation::LoginTaken);
    let same_id = NewUser { login: None, ..new(1, Role::User) };
    assert_eq!(create(&store, same_id, ACTOR).await.unwrap(), Creation::TooMany, "nobody takes another's place");
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn an_account_changes_as_a_whole_and_tells_of_each_field(store: Store) {
    let user = created(&store, new(1, Role::User)).await;
    created(&store, new(2, Role::User)).await;
    let taken = vec![Edit::Role(Role::Operator), Edit::Login(login("user2"))];
    assert_eq!(change(&store, &id(1), None, taken, ACTOR).await.unwrap(), Change::LoginTaken);
    assert_eq!(get(&store, &id(1)).await.unwrap().as_ref(), Some(&user), "all or nothing");
    assert_eq!(edit(&store, 1, Edit::Role(Role::User)).await, Change::Unchanged(Box::new(user.clone())));
    assert_eq!(edit(&store, 9, Edit::Suspend).await, Change::NotFound);

    let hash = PasswordHash::parse("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA").unwrap();
    let edits = vec![Edit::Role(Role::Viewer), Edit::Groups(groups(&["ops", "dev"])), Edit::Password(Some(hash))];
    let Change::Changed(after) = change(&store, &id(1), Some(1), edits, ACTOR).await.unwrap() else { panic!() };
    assert_eq!((after.revision, after.role), (2, Role::Viewer));
    assert_eq!(change(&store, &id(1), Some(1), vec![Edit::Suspend], ACTOR).await.unwrap(), Change::Conflict(2));
    let told: Vec<_> = events(&store)
        .await
        .into_iter()
        .filter_map(|event| match event {
            AuditEvent::UserChanged { change: FieldChange { field, from, to }, .. } => Some((field, from, to)),
            _ => None,
        })
        .collect();
    let words = |field: &str, from: Option<&str>, to: Option<&str>| {
        (field.to_owned(), from.map(str::to_owned), to.map(str::to_owned))
    };
    let expected = [
        words("role", Some("user"), Some("viewer")),
        words("groups", Some(""), Some("ops dev")),
        words("password", None, None),
    ];
    assert_eq!(told, expected);
    assert!(matches!(edit(&store, 1, Edit::Login(None)).await, Change::Changed(_)));
    assert_eq!(by_login(&store, &login("user1").unwrap()).await.unwrap(), None);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn the_last_owner_stays(store: Store) {
    created(&store, new(1, Role::Owner)).await;
    created(&store, NewUser { invited: true, ..new(2, Role::Owner) }).await;
    for refused in [Edit::Role(Role::Operator), Edit::Suspend] {
        assert_eq!(edit(&store, 1, refused).await, Change::LastOwner, "who is invited has not come yet");
    }
    assert_eq!(delete(&store, &id(1), ACTOR).await.unwrap(), Deletion::LastOwner);
    assert!(matches!(edit(&store, 1, Edit::Name(DisplayName::of("Ada"))).await, Change::Changed(_)));
    assert!(matches!(edit(&store, 2, Edit::Activate).await, Change::Changed(_)));
    assert!(matches!(edit(&store, 1, Edit::Suspend).await, Change::Changed(_)));
    assert_eq!(edit(&store, 2, Edit::Suspend).await, Change::LastOwner);
    assert!(matches!(delete(&store, &id(1), ACTOR).await.unwrap(), Deletion::Deleted(_)));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn one_first_owner_is_made_where_there_is_none(store: Store) {
    created(&store, new(1, Role::User)).await;
    assert!(!has_owner(&store).await.unwrap());
    let make = |number| create_first_owner(&store, new(number, Role::User), ACTOR);
    let (one, other) = tokio::join!(make(2), make(3));
    let made = |came: &FirstOwner| matches!(came, FirstOwner::Created(user) if user.role == Role::Owner);
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!([made(&one), made(&other)].into_iter().filter(|made| *made).count(), 1, "{one:?} {other:?}");
    assert!(one == FirstOwner::HasOne || other == FirstOwner::HasOne);
    assert!(has_owner(&store).await.unwrap());
    assert_eq!(make(4).await.unwrap(), FirstOwner::HasOne);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn an_account_that_has_changed_is_not_deleted(store: Store) {
    let seen = created(&store, new(1, Role::User)).await.revision;
    assert!(matches!(edit(&store, 1, Edit::Role(Role::Operator)).await, Change::Changed(_)));
    assert_eq!(delete_at(&store, &id(1), Some(seen), ACTOR).await.unwrap(), Deletion::Conflict(seen + 1));
    let deleted = delete_at(&store, &id(1), Some(seen + 1), ACTOR).await.unwrap();
    assert!(matches!(deleted, Deletion::Deleted(_)));
}

async fn people_are_their_subjects_and_not_their_addresses(store: Store) {
    let ada = Email::parse("ada@example.com").unwrap();
    assert_eq!(sign_in(&store, arrival("ada")).await.unwrap(), Arrived::Stranger);
    created(&store, NewUser { email: Some(ada.clone()), invited: true, ..new(1, Role::User) }).await;
    assert_eq!(sign_in(&store, arrival("ada")).await.unwrap(), Arrived::Stranger, "no address, no link");
    let with_address = Arrival { email: Some(ada.clone()), groups: Some(groups(&["dev"])), ..arrival("ada") };
    let Arrived::Linked(user) = sign_in(&store, with_address.clone()).await.unwrap() else { panic!() };
    assert_eq!((user.id.clone(), user.status, user.groups.clone()), (id(1), Status::Active, groups(&["dev"])));
    assert_eq!(sign_in(&store, with_address.clone()).await.unwrap(), Arrived::Known(user.clone()));
    let revision = get(&store, &id(1)).await.unwrap().unwrap().revision;
    assert_eq!(revision, user.revision, "who comes as they were changes nothing");

    let other_subject = Arrival { identity: identity("eve"), ..with_address.clone() };
    assert_eq!(sign_in(&store, other_subject).await.unwrap(), Arrived::Stranger, "an account in use is not taken over");
    for number in [2, 3] {
        let twin = NewUser { email: Email::parse("twin@example.com"), invited: true, ..new(number, Role::User) };
        created(&store, twin).await;
    }
    let twin = Arrival { email: Email::parse("twin@example.com"), ..arrival("twin") };
    assert_eq!(sign_in(&store, twin).await.unwrap(), Arrived::Stranger, "nobody knows which");

    let admission = Some(Admission { id: id(7), role: Role::User });
    let Arrived::Admitted(guest) = sign_in(&store, Arrival { admission, ..arrival("new") }).await.unwrap() else {
        panic!()
    };
    assert_eq!(by_identity(&store, &identity("new")).await.unwrap(), Some(*guest));
    edit(&store, 7, Edit::Suspend).await;
    assert_eq!(sign_in(&store, arrival("new")).await.unwrap(), Arrived::Suspended(id(7)));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn an_identity_belongs_to_one_person(store: Store) {
    created(&store, new(1, Role::User)).await;
    created(&store, new(2, Role::User)).await;
    let linked = |number, subject: &str| {
        let (store, id, identity) = (&store, id(number), identity(subject));
        async move { link(store, &id, identity, ACTOR).await }
    };
    assert_eq!(linked(9, "a").await.unwrap(), Linking::NotFound);
    assert_eq!(linked(1, "a").await.unwrap(), Linking::Linked);
    assert_eq!(linked(1, "a").await.unwrap(), Linking::AlreadyLinked);
    assert_eq!(linked(2, "a").await.unwrap(), Linking::Taken);
    for number in 1..MAX_IDENTITIES {
        assert_eq!(linked(1, &number.to_string()).await.unwrap(), Linking::Linked);
    }
    assert_eq!(linked(1, "more").await.unwrap(), Linking::TooMany);
    assert_eq!(identities(&store, &id(1)).await.unwrap().len(), MAX_IDENTITIES);
    assert_eq!(unlink(&store, &id(2), identity("a"), ACTOR).await.unwrap(), Unlinking::NotFound);
    assert_eq!(unlink(&store, &id(1), identity("a"), ACTOR).await.unwrap(), Unlinking::Unlinked);
    assert_eq!(linked(2, "a").await.unwrap(), Linking::Linked);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn who_goes_leaves_a_name_and_a_list_of_what_is_left(store: Store) {
    let user = created(&store, new(1, Role::Operator)).await;
    link(&store, &id(1), identity("a"), ACTOR).await.unwrap();
    sessions::tests::begun(&store, &user, 1).await;
    tokens::tests::made(&store, &user, 1).await;
    let holder = Holder::Of(Principal::User(id(1)));
    connections::tests::connected(&store, &holder, "notes").await;
    flows::tests::begun(&store, &holder, "tracker", 1).await;
    let Deletion::Deleted(left) = delete(&store, &id(1), ACTOR).await.unwrap() else { panic!() };
    let expected = Leavings {
        principal: Principal::User(id(1)),
        browser_sessions: 1,
        api_tokens: 1,
        identities: 1,
        flows: 1,
        connections: vec![crate::ids::UpstreamName::parse("notes").unwrap()],
    };
    assert_eq!(*left, expected);
    let grave = get(&store, &id(1)).await.unwrap().unwrap();
    assert_eq!((grave.status, grave.name, grave.login), (Status::Deleted, user.name, None));
    assert_eq!(delete(&store, &id(1), ACTOR).await.unwrap(), Deletion::NotFound);
    assert_eq!(edit(&store, 1, Edit::Activate).await, Change::NotFound);
    assert_eq!(by_identity(&store, &identity("a")).await.unwrap(), None);
    assert_eq!(sign_in(&store, arrival("a")).await.unwrap(), Arrived::Stranger);
    assert!(matches!(
        create(&store, NewUser { id: id(2), ..new(1, Role::User) }, ACTOR).await.unwrap(),
        Creation::Created(_)
    ));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn what_opens_less_signs_out(store: Store) {
    let user = created(&store, new(1, Role::Operator)).await;
    for (number, edit) in [(1, Edit::Role(Role::Viewer)), (2, Edit::Suspend), (3, Edit::Activate)] {
        let user = get(&store, &user.id).await.unwrap().unwrap();
        let digest = sessions::tests::digest(number);
        if user.is_active() {
            sessions::tests::begun(&store, &user, number).await;
        }
        change(&store, &user.id, None, vec![edit], ACTOR).await.unwrap();
        assert_eq!(sessions::find(&store, digest, crate::identity::browser::Surface::Public).await.unwrap(), None);
    }
    let user = get(&store, &user.id).await.unwrap().unwrap();
    sessions::tests::begun(&store, &user, 4).await;
    edit(&store, 1, Edit::Name(DisplayName::of("Ada"))).await;
    let still = sessions::find(&store, sessions::tests::digest(4), crate::identity::browser::Surface::Public).await;
    assert!(still.unwrap().is_some(), "a name opens nothing");
}

async fn a_list_is_filtered_and_stable_while_people_come_and_go(store: Store) {
    for number in 1..=9 {
        let role = if number % 3 == 0 { Role::Operator } else { Role::User };
        created(&store, new(number, role)).await;
    }
    edit(&store, 6, Edit::Suspend).await;
    let numbers = |page: &Page<User>| {
        page.items.iter().map(|user| usize::from_str_radix(user.id.as_str(), 16).unwrap()).collect::<Vec<_>>()
    };
    let all = |filter: Filter| {
        let store = &store;
        async move {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = list(store, filter.clone(), after, 2).await.unwrap();
                found.extend(numbers(&page));
                let Some(next) = page.next else { return found };
                after = Some(next);
            }
        }
    };
    assert_eq!(all(Filter::default()).await, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    let operators = Filter { role: Some(Role::Operator), ..Filter::default() };
    assert_eq!(all(operators.clone()).await, [9, 6, 3]);
    let suspended = Filter { status: Some(Status::Suspended), ..operators };
    assert_eq!(all(suspended).await, [6]);
    assert_eq!(all(Filter { text: Some("USER 7".to_owned()), ..Filter::default() }).await, [7]);
    let first = list(&store, Filter::default(), None, 3).await.unwrap();
    created(&store, new(20, Role::User)).await;
    delete(&store, &id(6), ACTOR).await.unwrap();
    let second = list(&store, Filter::default(), first.next, 3).await.unwrap();
    assert_eq!((numbers(&Page { items: first.items, next: None }), numbers(&second)), (vec![9, 8, 7], vec![5, 4, 3]));
    assert_eq!(all(Filter { status: Some(Status::Deleted), ..Filter::default() }).await, [6]);
}

macro_rules! on_memory {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(crate::store::tests::memory().await).await;
                }
            )*
        }
    };
}
pub(in crate::store) use on_memory;

on_memory!(
    a_user_comes_back_as_they_were_made,
    an_account_changes_as_a_whole_and_tells_of_each_field,
    the_last_owner_stays,
    one_first_owner_is_made_where_there_is_none,
    an_account_that_has_changed_is_not_deleted,
    people_are_their_subjects_and_not_their_addresses,
    an_identity_belongs_to_one_person,
    who_goes_leaves_a_name_and_a_list_of_what_is_left,
    what_opens_less_signs_out,
    a_list_is_filtered_and_stable_while_people_come_and_go,
);

#[tokio::test]
async fn users_are_there_after_the_store_was_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let path = directory.path().join("portcullis.redb");
        async move { Store::open(Location::File(path), StandingClock::at(1_000).env()).await.unwrap() }
    };
    let store = open().await;
    let user = created(&store, new(1, Role::Owner)).await;
    link(&store, &id(1), identity("a"), Actor::User(UserTag::from(&id(1)))).await.unwrap();
    store.close().await;
    let store = open().await;
    assert_eq!(by_identity(&store, &identity("a")).await.unwrap(), Some(user));
    assert_eq!(delete(&store, &id(1), ACTOR).await.unwrap(), Deletion::LastOwner);
    assert_eq!(store.verify().await.unwrap(), []);
    store.close().await;
}

#[tokio::test]
async fn a_name_is_forgotten_with_the_trail() {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    created(&store, new(1, Role::User)).await;
    delete(&store, &id(1), ACTOR).await.unwrap();
    let forget = || {
        let key = id(1).as_str().as_bytes().to_vec();
        store.write(move |tx| {
            use crate::store::table::Kept as _;
            USERS.forget(tx, &key, tx.now())
        })
    };
    assert!(!forget().await.unwrap());
    clock.advance(removal::GRAVE_TIME + Duration::from_millis(1));
    assert!(forget().await.unwrap());
    assert_eq!(get(&store, &id(1)).await.unwrap(), None);
    assert_eq!(store.verify().await.unwrap(), []);
}

// The sequential model.

#[derive(Clone, Debug)]
enum Step {
    Create(usize, Role, bool),
    Role(usize, Role),
    Suspend(usize),
    Activate(usize),
    Delete(usize),
    Link(usize, usize),
    Unlink(usize, usize),
    SignIn(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let role = prop_oneof![Just(Role::User), Just(Role::Operator), Just(Role::Owner), Just(Role::Owner)];
    let who = 0_usize..5;
    prop_oneof![
        (who.clone(), role.clone(), any::<bool>()).prop_map(|(who, role, invited)| Step::Create(who, role, invited)),
        (who.clone(), role).prop_map(|(who, role)| Step::Role(who, role)),
        who.clone().prop_map(Step::Suspend),
        who.clone().prop_map(Step::Activate),
        who.clone().prop_map(Step::Delete),
        (who.clone(), 0_usize..4).prop_map(|(who, subject)| Step::Link(who, subject)),
        (who, 0_usize..4).prop_map(|(who, subject)| Step::Unlink(who, subject)),
        (0_usize..4).prop_map(Step::SignIn),
    ]
}

/// What the store should hold, said as plainly as can be.
#[derive(Default)]
struct Model {
    users: BTreeMap<usize, (Role, Status)>,
    identities: BTreeMap<usize, usize>,
}

impl Model {
    fn owners(&self) -> usize {
        self.users.values().filter(|user| **user == (Role::Owner, Status::Active)).count()
    }

    /// Does it unless the last owner would go. Whether it was done.
    fn replace(&mut self, who: usize, with: (Role, Status)) -> bool {
        let before = self.users.insert(who, with);
        if before == Some((Role::Owner, Status::Active)) && self.owners() == 0 {
            self.users.insert(who, before.unwrap());
            return false;
        }
        true
    }

    fn known(&self, who: usize) -> Option<(Role, Status)> {
        self.users.get(&who).copied().filter(|(_, status)| *status != Status::Deleted)
    }
}

async fn run(store: &Store, model: &mut Model, step: &Step) {
    let expected_change = |done: bool, change: &Change| match change {
        Change::LastOwner => assert!(!done, "{step:?}"),
        Change::Changed(_) | Change::Unchanged(_) => assert!(done, "{step:?}"),
        other => panic!("{step:?}: {other:?}"),
    };
    match step {
        Step::Create(who, role, invited) => {
            let new = NewUser { invited: *invited, login: None, ..new(*who, *role) };
            let made = matches!(create(store, new, ACTOR).await.unwrap(), Creation::Created(_));
            assert_eq!(made, !model.users.contains_key(who), "{step:?}");
            let status = if *invited { Status::Invited } else { Status::Active };
            model.users.entry(*who).or_insert((*role, status));
        }
        Step::Role(who, _) | Step::Suspend(who) | Step::Activate(who) => {
            let Some((role, status)) = model.known(*who) else {
                assert_eq!(edit(store, *who, Edit::Activate).await, Change::NotFound);
                return;
            };
            let (edit_to, with) = match step {
                Step::Role(_, role) => (Edit::Role(*role), (*role, status)),
                Step::Suspend(_) => (Edit::Suspend, (role, Status::Suspended)),
                _ => (Edit::Activate, (role, Status::Active)),
            };
            let done = model.replace(*who, with);
            expected_change(done, &edit(store, *who, edit_to).await);
        }
        Step::Delete(who) => {
            let deletion = delete(store, &id(*who), ACTOR).await.unwrap();
            let Some((role, _)) = model.known(*who) else { return assert_eq!(deletion, Deletion::NotFound) };
            if model.replace(*who, (role, Status::Deleted)) {
                assert!(matches!(deletion, Deletion::Deleted(_)), "{step:?}");
                model.identities.retain(|_, owner| owner != who);
            } else {
                assert_eq!(deletion, Deletion::LastOwner);
            }
        }
        Step::Link(who, subject) => {
            let linked = link(store, &id(*who), identity(&subject.to_string()), ACTOR).await.unwrap();
            let expected = match (model.known(*who), model.identities.get(subject)) {
                (None, _) => Linking::NotFound,
                (_, Some(owner)) if owner == who => Linking::AlreadyLinked,
                (_, Some(_)) => Linking::Taken,
                (Some(_), None) => {
                    model.identities.insert(*subject, *who);
                    Linking::Linked
                }
            };
            assert_eq!(linked, expected, "{step:?}");
        }
        Step::Unlink(who, subject) => {
            let unlinked = unlink(store, &id(*who), identity(&subject.to_string()), ACTOR).await.unwrap();
            let was = model.identities.get(subject) == Some(who);
            assert_eq!(unlinked, if was { Unlinking::Unlinked } else { Unlinking::NotFound });
            if was {
                model.identities.remove(subject);
            }
        }
        Step::SignIn(subject) => {
            let arrived = sign_in(store, arrival(&subject.to_string())).await.unwrap();
            match model.identities.get(subject).map(|who| (*who, model.users[who])) {
                None => assert_eq!(arrived, Arrived::Stranger),
                Some((who, (_, Status::Suspended | Status::Deleted))) => {
                    assert_eq!(arrived, Arrived::Suspended(id(who)));
                }
                Some((who, (role, _))) => {
                    let Arrived::Known(user) = arrived else { panic!("{step:?}: {arrived:?}") };
                    assert_eq!(user.id, id(who));
                    model.users.insert(who, (role, Status::Active));
                }
            }
        }
    }
}

async fn check(store: &Store, model: &Model) {
    for (who, expected) in &model.users {
        let user = get(store, &id(*who)).await.unwrap().unwrap();
        assert_eq!((user.role, user.status), *expected);
        let subjects: BTreeSet<String> =
            identities(store, &id(*who)).await.unwrap().iter().map(|known| known.subject().to_owned()).collect();
        let expected =
            model.identities.iter().filter(|(_, owner)| *owner == who).map(|(subject, _)| subject.to_string());
        assert_eq!(subjects, expected.collect());
    }
    assert_eq!(store.verify().await.unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a map: each outcome and each state is the same, and once there was an owner there always is one.
    #[test]
    fn users_agree_with_a_map_and_keep_an_owner(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let store = memory().await;
            let mut model = Model::default();
            let mut had_owner = false;
            for step in &steps {
                run(&store, &mut model, step).await;
                had_owner |= model.owners() > 0;
                assert_eq!(model.owners() > 0, had_owner, "after {step:?}");
            }
            check(&store, &model).await;
            store.close().await;
        });
    }
}

/// What tests of others ask for access with.
pub(in crate::store) fn anybody(_: &crate::connection::Place) -> Access {
    Access::Granted
}
