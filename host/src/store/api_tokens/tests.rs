//! API tokens in a real store.

use super::super::Location;
use super::super::tests::StandingClock;
use super::super::users::tests::{created, id, new, on_memory};
use super::super::users::{self, Edit};
use super::*;
use crate::audit::OperatorProof;

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);

fn digest(number: usize) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn token_id(number: usize) -> ApiTokenId {
    ApiTokenId::parse(&format!("{number:024x}")).unwrap()
}

fn new_token(user: &UserId, number: usize, ceiling: Role) -> NewToken {
    NewToken {
        id: token_id(number),
        name: DisplayName::of("ci"),
        user: user.clone(),
        digest: digest(number),
        ceiling,
        scopes: TokenList::default(),
        expires: None,
    }
}

pub(in crate::store) async fn made(store: &Store, user: &User, number: usize) -> ApiToken {
    match create(store, new_token(&user.id, number, Role::User), ACTOR).await.unwrap() {
        Creation::Created(token) => *token,
        other => panic!("{other:?}"),
    }
}

async fn a_token_may_do_what_it_and_its_person_may(store: Store) {
    let owner = created(&store, new(1, Role::Owner)).await;
    created(&store, new(2, Role::Owner)).await;
    let try_create = |new| create(&store, new, ACTOR);
    assert!(matches!(try_create(new_token(&owner.id, 1, Role::Operator)).await.unwrap(), Creation::Created(_)));
    assert_eq!(try_create(new_token(&id(9), 2, Role::User)).await.unwrap(), Creation::NotActive);
    let same_secret = NewToken { digest: digest(1), ..new_token(&owner.id, 2, Role::User) };
    assert_eq!(try_create(same_secret).await.unwrap(), Creation::Taken);
    let same_id = NewToken { digest: digest(2), ..new_token(&owner.id, 1, Role::User) };
    assert_eq!(try_create(same_id).await.unwrap(), Creation::Taken);

    let role = || async {
        let found = find(&store, digest(1)).await.unwrap();
        found.map(|(token, user)| token.role(&user))
    };
    assert_eq!(role().await, Some(Role::Operator), "no more than its ceiling");
    users::change(&store, &owner.id, None, vec![Edit::Role(Role::Viewer)], ACTOR).await.unwrap();
    assert_eq!(role().await, Some(Role::Viewer), "no more than its person");
    assert_eq!(try_create(new_token(&owner.id, 3, Role::Owner)).await.unwrap(), Creation::AboveRole(Role::Viewer));
    users::change(&store, &owner.id, None, vec![Edit::Suspend], ACTOR).await.unwrap();
    assert_eq!(role().await, None);
    users::change(&store, &owner.id, None, vec![Edit::Activate], ACTOR).await.unwrap();
    assert_eq!(revoke(&store, &token_id(1), Some(id(2)), ACTOR).await.unwrap(), Revocation::NotFound);
    assert_eq!(revoke(&store, &token_id(1), Some(id(1)), ACTOR).await.unwrap(), Revocation::Revoked);
    assert_eq!(revoke(&store, &token_id(1), None, ACTOR).await.unwrap(), Revocation::NotFound);
    assert_eq!(role().await, None);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn a_person_has_a_bounded_number_of_tokens(store: Store) {
    let (one, other) = (created(&store, new(1, Role::User)).await, created(&store, new(2, Role::User)).await);
    for number in 0..MAX_PER_USER {
        made(&store, &one, number).await;
    }
    let more = create(&store, new_token(&one.id, 60, Role::User), ACTOR).await.unwrap();
    assert_eq!(more, Creation::TooMany);
    made(&store, &other, 61).await;
    let all = list(&store, None, None, 200).await.unwrap().items;
    assert_eq!((all.len(), &all[0].id), (MAX_PER_USER + 1, &token_id(61)));
    let page = list(&store, Some(one.id.clone()), None, 3).await.unwrap();
    let ids: Vec<_> = page.items.into_iter().map(|token| token.id).collect();
    assert_eq!(ids, [token_id(49), token_id(48), token_id(47)]);
    users::delete(&store, &one.id, ACTOR).await.unwrap();
    assert_eq!(list(&store, None, None, 200).await.unwrap().items.len(), 1);
    assert_eq!(store.verify().await.unwrap(), []);
}

on_memory!(a_token_may_do_what_it_and_its_person_may, a_person_has_a_bounded_number_of_tokens);

#[tokio::test]
async fn a_token_ends_in_time_and_is_noted_once_a_minute() {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let user = created(&store, new(1, Role::User)).await;
    let expires = Some(clock.env().now().after(2 * USED_STEP));
    create(&store, NewToken { expires, ..new_token(&user.id, 1, Role::User) }, ACTOR).await.unwrap();
    assert!(used(&store, &token_id(1)).await.unwrap());
    clock.advance(USED_STEP - Duration::from_millis(1));
    assert!(!used(&store, &token_id(1)).await.unwrap());
    clock.advance(Duration::from_millis(1));
    assert!(used(&store, &token_id(1)).await.unwrap());
    assert!(find(&store, digest(1)).await.unwrap().is_some());
    clock.advance(USED_STEP);
    assert_eq!(find(&store, digest(1)).await.unwrap(), None);
    assert_eq!(list(&store, None, None, 9).await.unwrap().items.len(), 1, "it is still shown");
    assert_eq!(store.verify().await.unwrap(), []);
}
