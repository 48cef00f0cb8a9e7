//! Signed-in browsers in a real store: one cookie at a time, and none that outlives what it stands for.

use std::time::Duration;

use super::super::Location;
use super::super::tests::StandingClock;
use super::super::users::tests::{created, id, new, on_memory};
use super::super::users::{self, Edit};
use super::*;
use crate::audit::OperatorProof;
use crate::identity::user::Role;

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);
const HOUR: Duration = Duration::from_secs(3_600);

pub(in crate::store) fn digest(number: usize) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn session_id(number: usize) -> BrowserSessionId {
    BrowserSessionId::parse(&format!("{number:024x}")).unwrap()
}

fn new_session(user: &User, number: usize) -> NewSession {
    NewSession {
        id: session_id(number),
        user: user.id.clone(),
        seen: user.revision,
        digest: digest(number),
        replaces: None,
        surface: Surface::Public,
        method: Method::Password,
        shown: None,
        idle: HOUR,
        life: 8 * HOUR,
        agent: "Mozilla/5.0".to_owned(),
    }
}

pub(in crate::store) async fn begun(store: &Store, user: &User, number: usize) -> BrowserSession {
    match begin(store, new_session(user, number)).await.unwrap() {
        Beginning::Begun(session) => *session,
        other => panic!("{other:?}"),
    }
}

/// The last lines of the audit trail, oldest first.
async fn trail(store: &Store, lines: usize) -> Vec<&'static str> {
    let page = audit::list(store, None, lines).await.unwrap();
    page.items.iter().rev().map(|row| row.entry.event.name()).collect()
}

async fn is_alive(store: &Store, number: usize) -> bool {
    find(store, digest(number), Surface::Public).await.unwrap().is_some()
}

async fn a_cookie_opens_its_own_surface_for_an_active_person(store: Store) {
    let user = created(&store, new(1, Role::User)).await;
    let session = begun(&store, &user, 1).await;
    let (found, of) = find(&store, digest(1), Surface::Public).await.unwrap().unwrap();
    assert_eq!((found, of.id), (session, user.id.clone()));
    assert!(of.last_sign_in.is_some());
    assert_eq!(find(&store, digest(1), Surface::Admin).await.unwrap(), None);
    assert_eq!(find(&store, digest(2), Surface::Public).await.unwrap(), None);

    let stranger = NewSession { user: id(9), ..new_session(&user, 2) };
    assert_eq!(begin(&store, stranger).await.unwrap(), Beginning::NotActive);
    users::change(&store, &user.id, None, vec![Edit::Name(crate::identity::user::DisplayName::of("A"))], ACTOR)
        .await
        .unwrap();
    assert_eq!(begin(&store, new_session(&user, 2)).await.unwrap(), Beginning::Changed, "what was proven is old");
    users::change(&store, &user.id, None, vec![Edit::Suspend], ACTOR).await.unwrap();
    let user = users::get(&store, &user.id).await.unwrap().unwrap();
    assert_eq!(begin(&store, new_session(&user, 2)).await.unwrap(), Beginning::NotActive);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn an_old_cookie_is_dead_at_once(store: Store) {
    let user = created(&store, new(1, Role::User)).await;
    let first = begun(&store, &user, 1).await;
    let replacing = NewSession { replaces: Some(digest(1)), ..new_session(&user, 2) };
    assert!(matches!(begin(&store, replacing).await.unwrap(), Beginning::Begun(_)));
    assert!(!is_alive(&store, 1).await && is_alive(&store, 2).await);
    assert_eq!(trail(&store, 2).await, ["browser.signed_out", "browser.signed_in"]);

    let Rotation::Rotated(rotated) = rotate(&store, digest(2), digest(3), None).await.unwrap() else { panic!() };
    assert_eq!((rotated.id.clone(), rotated.authenticated), (session_id(2), first.authenticated));
    assert!(!is_alive(&store, 2).await && is_alive(&store, 3).await);
    assert_eq!(rotate(&store, digest(2), digest(4), None).await.unwrap(), Rotation::Gone);
    let proof = Some(Method::Provider { issuer: "https://id.example".to_owned() });
    let Rotation::Rotated(proven) = rotate(&store, digest(3), digest(4), proof.clone()).await.unwrap() else {
        panic!()
    };
    assert_eq!(Some(proven.method), proof);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn a_person_sees_and_ends_their_own(store: Store) {
    let (ada, eve) = (created(&store, new(1, Role::User)).await, created(&store, new(2, Role::User)).await);
    for number in 1..=3 {
        begun(&store, &ada, number).await;
    }
    begun(&store, &eve, 4).await;
    let ids = |page: &Page<BrowserSession>| page.items.iter().map(|session| session.id.clone()).collect::<Vec<_>>();
    let page = list(&store, &ada.id, None, 2).await.unwrap();
    assert_eq!(ids(&page), [session_id(3), session_id(2)]);
    assert_eq!(ids(&list(&store, &ada.id, page.next, 2).await.unwrap()), [session_id(1)]);
    let of = |user: &User| Some(user.id.clone());
    assert_eq!(end(&store, &session_id(1), of(&eve), ACTOR).await.unwrap(), Ending::NotFound);
    assert!(is_alive(&store, 1).await);
    assert_eq!(end(&store, &session_id(1), of(&ada), ACTOR).await.unwrap(), Ending::Ended);
    assert_eq!(end(&store, &session_id(1), None, ACTOR).await.unwrap(), Ending::NotFound);
    assert_eq!(end_all_of(&store, &ada.id, Some(session_id(3)), ACTOR).await.unwrap(), 1);
    assert!(!is_alive(&store, 2).await && is_alive(&store, 3).await && is_alive(&store, 4).await);
    end_every(&store, ACTOR).await.unwrap();
    assert!(!is_alive(&store, 3).await && !is_alive(&store, 4).await);
    assert_eq!(list(&store, &eve.id, None, 9).await.unwrap().items, []);
    assert_eq!(touch(&store, digest(4)).await.unwrap(), Touch::Gone);
    let eve = users::get(&store, &eve.id).await.unwrap().unwrap();
    begun(&store, &eve, 5).await;
    assert!(is_alive(&store, 5).await, "those that begin afterwards count");
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn one_more_than_there_may_be_ends_the_oldest(store: Store) {
    let user = created(&store, new(1, Role::User)).await;
    for number in 1..=MAX_PER_USER + 2 {
        begun(&store, &user, number).await;
    }
    assert!(!is_alive(&store, 1).await && !is_alive(&store, 2).await && is_alive(&store, 3).await);
    assert_eq!(trail(&store, 3).await, ["browser.signed_in", "browser.signed_out", "browser.signed_in"]);
    assert_eq!(end_all_of(&store, &user.id, None, ACTOR).await.unwrap(), MAX_PER_USER);
    assert_eq!(store.verify().await.unwrap(), []);
}

on_memory!(
    a_cookie_opens_its_own_surface_for_an_active_person,
    an_old_cookie_is_dead_at_once,
    a_person_sees_and_ends_their_own,
    one_more_than_there_may_be_ends_the_oldest,
);

#[tokio::test]
async fn use_keeps_a_session_alive_to_its_end_and_not_longer() {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let user = created(&store, new(1, Role::User)).await;
    begun(&store, &user, 1).await;
    begun(&store, &user, 2).await;
    assert_eq!(touch(&store, digest(1)).await.unwrap(), Touch::Recent);
    clock.advance(HOUR - Duration::from_millis(1));
    assert_eq!(touch(&store, digest(1)).await.unwrap(), Touch::Noted);
    clock.advance(Duration::from_millis(1));
    assert!(is_alive(&store, 1).await && !is_alive(&store, 2).await);
    assert_eq!(rotate(&store, digest(2), digest(3), None).await.unwrap(), Rotation::Gone);
    for _ in 0..14 {
        clock.advance(HOUR / 2);
        touch(&store, digest(1)).await.unwrap();
    }
    assert!(!is_alive(&store, 1).await, "eight hours are over");
    assert_eq!(store.verify().await.unwrap(), []);
}
