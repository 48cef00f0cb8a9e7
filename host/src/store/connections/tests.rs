//! Connections in a real store: one for each place, refreshed by one at a time, seen as far as access goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::super::Location;
use super::super::tests::StandingClock;
use super::super::users::tests::{anybody, on_memory};
use super::ending::Trial;
use super::refresh::LAST_PAUSE;
use super::*;
use crate::audit::OperatorProof;
use crate::connection::End;
use crate::identity::TokenList;
use crate::ids::{KeyName, Principal};
use crate::secret::Sealed;

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);
const TTL: Duration = Duration::from_secs(30);
const KEPT: Duration = Duration::from_secs(3_600);

/// Numbers of connections of this test run.
static NEXT: AtomicU64 = AtomicU64::new(1);

fn key(name: &str) -> Holder {
    Holder::Of(Principal::Key(KeyName::parse(name).unwrap()))
}

fn place(holder: &Holder, upstream: &str) -> Place {
    Place { holder: holder.clone(), upstream: UpstreamName::parse(upstream).unwrap() }
}

fn fresh_id() -> ConnectionId {
    ConnectionId::parse(&format!("{:024x}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

/// Tokens that say what they are in place of being sealed.
fn tokens(access: &str, expires_ms: u64) -> Credential {
    Credential::OAuth(Tokens {
        issuer: "https://id.example".to_owned(),
        client: "c1".to_owned(),
        access: Sealed::from_bytes(access.as_bytes()),
        refresh: Some(Sealed::from_bytes(format!("refresh {access}").into_bytes())),
        scopes: TokenList::parse(vec!["notes:read".to_owned()]).unwrap(),
        expires: Some(Timestamp::from_millis(expires_ms)),
    })
}

fn access(connection: &Connection) -> String {
    String::from_utf8(connection.tokens().unwrap().access.as_bytes().to_vec()).unwrap()
}

async fn stored(store: &Store, place: &Place, expires_ms: u64) -> Connection {
    let there = get(store, place).await.unwrap();
    let new = NewCredential {
        place: place.clone(),
        id: there.as_ref().map_or_else(fresh_id, |there| there.id.clone()),
        replaces: there.map(|there| there.revision),
        origin: None,
        credential: tokens("first", expires_ms),
    };
    assert!(matches!(put(store, new, anybody, ACTOR).await.unwrap(), Put::Stored(_)));
    get(store, place).await.unwrap().unwrap()
}

pub(in crate::store) async fn connected(store: &Store, holder: &Holder, upstream: &str) -> Connection {
    stored(store, &place(holder, upstream), 60_000).await
}

async fn leased(store: &Store, place: &Place, seen: u64, by: &str) -> Lease {
    match lease_refresh(store, place, seen, by, TTL).await.unwrap() {
        Leasing::Leased(lease) => *lease,
        other => panic!("{other:?}"),
    }
}

async fn clocked() -> (StandingClock, Store) {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    (clock, store)
}

async fn revision(store: &Store) -> changes::Revision {
    store.read(changes::revision).await.unwrap()
}

/// As [`super::put`], with access as it is now.
async fn put<F>(store: &Store, new: NewCredential, may_use: F, actor: Actor) -> Result<Put, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    super::put(store, new, revision(store).await, may_use, actor).await
}

async fn there_is_one_connection_for_a_place(store: Store) {
    let notes = place(&key("ci"), "notes");
    let new = |id: ConnectionId, replaces, access: &str| NewCredential {
        place: place(&key("ci"), "notes"),
        id,
        replaces,
        origin: None,
        credential: tokens(access, 60_000),
    };
    let id = fresh_id();
    let nobody = |_: &Place| Access::Withdrawn;
    assert_eq!(put(&store, new(id.clone(), None, "a"), nobody, ACTOR).await.unwrap(), Put::NoAccess);
    assert_eq!(put(&store, new(id.clone(), Some(1), "a"), anybody, ACTOR).await.unwrap(), Put::Conflict(None));
    assert_eq!(put(&store, new(id.clone(), None, "a"), anybody, ACTOR).await.unwrap(), Put::Stored(1));
    let there = get(&store, &notes).await.unwrap().unwrap();
    assert_eq!(by_id(&store, &id).await.unwrap().as_ref(), Some(&there));
    let conflict = || Put::Conflict(Some(Box::new(there.clone())));
    assert_eq!(put(&store, new(fresh_id(), None, "b"), anybody, ACTOR).await.unwrap(), conflict());
    assert_eq!(put(&store, new(id.clone(), Some(2), "b"), anybody, ACTOR).await.unwrap(), conflict());
    assert_eq!(put(&store, new(fresh_id(), Some(1), "b"), anybody, ACTOR).await.unwrap(), conflict());
    assert_eq!(put(&store, new(id.clone(), Some(1), "b"), anybody, ACTOR).await.unwrap(), Put::Stored(2));
    let other_place = NewCredential { place: place(&key("ci"), "files"), ..new(id.clone(), None, "c") };
    assert_eq!(
        put(&store, other_place, anybody, ACTOR).await.unwrap(),
        Put::Conflict(None),
        "an id is one connection's"
    );
    let large = Credential::Headers { names: Vec::new(), values: Sealed::from_bytes(vec![0; MAX_SEALED_BYTES + 1]) };
    let large = NewCredential { credential: large, ..new(id, Some(2), "") };
    assert_eq!(put(&store, large, anybody, ACTOR).await.unwrap(), Put::TooLarge);
    assert_eq!(access(&get(&store, &notes).await.unwrap().unwrap()), "b");
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn the_largest_credential_fits_into_a_record(store: Store) {
    let half = Sealed::from_bytes(vec![7; MAX_SEALED_BYTES / 2]);
    let Credential::OAuth(some) = tokens("", 60_000) else { panic!() };
    let issuer = "i".repeat(MAX_TEXT_BYTES - some.client.len() - "notes:read".len());
    let credential = Credential::OAuth(Tokens { issuer, access: half.clone(), refresh: Some(half), ..some });
    let new =
        NewCredential { place: place(&key("ci"), "notes"), id: fresh_id(), replaces: None, origin: None, credential };
    assert_eq!(put(&store, new, anybody, ACTOR).await.unwrap(), Put::Stored(1));
    let ended = disconnect(&store, &place(&key("ci"), "notes"), End::Revoked, ACTOR).await.unwrap();
    assert_eq!(ended, Disconnection::Ended { is_to_revoke: true });
}

async fn what_does_not_work_is_marked_unless_it_was_replaced(store: Store) {
    let notes = place(&key("ci"), "notes");
    let reauth = || Trouble::Reauth(Reason::RefreshRefused);
    assert_eq!(mark(&store, &notes, 1, reauth(), ACTOR).await.unwrap(), Mark::NotFound);
    stored(&store, &notes, 60_000).await;
    let lease = leased(&store, &notes, 1, "a").await;
    assert_eq!(mark(&store, &notes, 2, reauth(), ACTOR).await.unwrap(), Mark::Outdated(1));
    assert_eq!(mark(&store, &notes, 1, reauth(), ACTOR).await.unwrap(), Mark::Marked);
    assert_eq!(mark(&store, &notes, 1, reauth(), ACTOR).await.unwrap(), Mark::Unchanged);
    assert_eq!(commit_refresh(&store, &lease, tokens("late", 1)).await.unwrap(), Commit::LostLease);
    let marked = get(&store, &notes).await.unwrap().unwrap();
    assert_eq!((marked.standing(Access::Granted), access(&marked)), (Standing::NeedsReauth, "first".to_owned()));
    let leasing = lease_refresh(&store, &notes, 1, "a", TTL).await.unwrap();
    assert_eq!(leasing, Leasing::Unable(Box::new(marked)));
    assert_eq!(due_for_refresh(&store, Timestamp::from_millis(u64::MAX), 9).await.unwrap(), []);
    let missing = Trouble::Update(vec!["x-api-key".to_owned()]);
    assert_eq!(mark(&store, &notes, 1, missing, ACTOR).await.unwrap(), Mark::Marked);
    let renewed = stored(&store, &notes, 60_000).await;
    assert_eq!((renewed.revision, renewed.standing(Access::Granted)), (2, Standing::Active));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn of_64_that_want_to_refresh_one_does(store: Store) {
    let notes = place(&key("ci"), "notes");
    stored(&store, &notes, 60_000).await;
    let mut replicas = JoinSet::new();
    for number in 0..64 {
        let (store, notes) = (store.clone(), notes.clone());
        replicas.spawn(async move {
            match lease_refresh(&store, &notes, 1, &format!("replica {number}"), TTL).await.unwrap() {
                Leasing::Leased(lease) => {
                    assert!(!lease.after_loss);
                    let commit = commit_refresh(&store, &lease, tokens("second", 90_000)).await.unwrap();
                    assert_eq!(commit, Commit::Stored(2));
                    true
                }
                Leasing::HeldBy { .. } => false,
                Leasing::Fresh(connection) => {
                    assert_eq!(access(&connection), "second");
                    false
                }
                other => panic!("{other:?}"),
            }
        });
    }
    let done = replicas.join_all().await;
    assert_eq!(done.iter().filter(|done| **done).count(), 1);
    assert_eq!(access(&get(&store, &notes).await.unwrap().unwrap()), "second");
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn what_is_ended_is_erased_and_its_tokens_wait_to_be_revoked(store: Store) {
    let (notes, headers) = (place(&key("ci"), "notes"), place(&key("ci"), "files"));
    let connection = stored(&store, &notes, 60_000).await;
    let values = Credential::Headers { names: vec!["x-api-key".to_owned()], values: Sealed::from_bytes(*b"v") };
    let new =
        NewCredential { place: headers.clone(), id: fresh_id(), replaces: None, origin: None, credential: values };
    put(&store, new, anybody, ACTOR).await.unwrap();
    let end = |place| disconnect(&store, place, End::Disconnected, ACTOR);
    assert_eq!(end(&notes).await.unwrap(), Disconnection::Ended { is_to_revoke: true });
    assert_eq!(end(&headers).await.unwrap(), Disconnection::Ended { is_to_revoke: false });
    assert_eq!(end(&headers).await.unwrap(), Disconnection::NotFound);
    assert_eq!((get(&store, &notes).await.unwrap(), by_id(&store, &connection.id).await.unwrap()), (None, None));
    stored(&store, &notes, 60_000).await;

    let due = due_revocations(&store, TTL, 9).await.unwrap();
    let [only] = &due[..] else { panic!("{due:?}") };
    assert_eq!((&only.connection, &only.place, only.revision, only.attempts), (&connection.id, &notes, 1, 1));
    assert_eq!(Some(&only.access), connection.tokens().map(|tokens| &tokens.access));
    assert_eq!(due_revocations(&store, TTL, 9).await.unwrap(), [], "somebody is at it");
    revoked(&store, &connection.id).await.unwrap();
    assert_eq!(not_revoked(&store, &connection.id, false).await.unwrap(), Trial::NotFound);
    let events = audit::list(&store, None, 1).await.unwrap().items;
    assert!(matches!(events[0].entry.event, AuditEvent::TokensRevoked { .. }));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn a_refresh_that_ends_after_its_connection_leaves_nothing_alive(store: Store) {
    let notes = place(&key("ci"), "notes");
    let connection = stored(&store, &notes, 60_000).await;
    let lease = leased(&store, &notes, 1, "a").await;
    disconnect(&store, &notes, End::Disconnected, ACTOR).await.unwrap();
    assert_eq!(due_revocations(&store, TTL, 9).await.unwrap().len(), 1, "somebody is at it already");
    assert_eq!(commit_refresh(&store, &lease, tokens("late", 1)).await.unwrap(), Commit::Ended);
    let due = due_revocations(&store, TTL, 9).await.unwrap();
    let [only] = &due[..] else { panic!("{due:?}") };
    assert_eq!((&only.connection, &only.place, only.revision, only.attempts), (&connection.id, &notes, 2, 1));
    assert_eq!(only.access.as_bytes(), b"late");
    assert_eq!(only.refresh.as_ref().map(Sealed::as_bytes), Some(&b"refresh late"[..]));
    // The old tokens are revoked before the new ones come.
    stored(&store, &notes, 60_000).await;
    let lease = leased(&store, &notes, 1, "a").await;
    disconnect(&store, &notes, End::Disconnected, ACTOR).await.unwrap();
    revoked(&store, &lease.id).await.unwrap();
    stored(&store, &notes, 60_000).await;
    assert_eq!(commit_refresh(&store, &lease, tokens("later", 1)).await.unwrap(), Commit::Ended, "of another life");
    let due = due_revocations(&store, TTL, 9).await.unwrap();
    assert_eq!(due.iter().map(|due| due.access.as_bytes()).collect::<Vec<_>>(), [b"later"]);
    assert_eq!(access(&get(&store, &notes).await.unwrap().unwrap()), "first");
    // What was renewed before it ended left other tokens, which are revoked.
    let lease = leased(&store, &notes, 1, "a").await;
    stored(&store, &notes, 60_000).await;
    assert_eq!(commit_refresh(&store, &lease, tokens("lost", 1)).await.unwrap(), Commit::LostLease);
    disconnect(&store, &notes, End::Disconnected, ACTOR).await.unwrap();
    assert_eq!(commit_refresh(&store, &lease, tokens("lost", 1)).await.unwrap(), Commit::LostLease);
    let due = due_revocations(&store, TTL, 9).await.unwrap();
    assert_eq!(due.iter().map(|due| due.revision).collect::<Vec<_>>(), [2]);
    assert_eq!(due[0].access.as_bytes(), b"first");
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn nothing_is_stored_for_a_user_who_is_gone(store: Store) {
    let user = super::super::users::tests::new(1, crate::identity::user::Role::User);
    let user = super::super::users::tests::created(&store, user).await.id;
    let notes = place(&Holder::Of(Principal::User(user.clone())), "notes");
    let there = stored(&store, &notes, 60_000).await;
    let lease = leased(&store, &notes, 1, "a").await;
    users::delete(&store, &user, ACTOR).await.unwrap();
    assert_eq!(commit_refresh(&store, &lease, tokens("late", 1)).await.unwrap(), Commit::Ended);
    let again = NewCredential {
        place: notes.clone(),
        id: there.id,
        replaces: Some(1),
        origin: None,
        credential: tokens("late", 60_000),
    };
    assert_eq!(put(&store, again, anybody, ACTOR).await.unwrap(), Put::NoAccess, "whatever may_use says");
    assert_eq!(access(&get(&store, &notes).await.unwrap().unwrap()), "first");
    // The store proves that nobody brings it back.
    let of = revision(&store).await;
    let swept = Swept::Step { orphaned: 0, reactivated: 0, ended: 1, unreadable: 0, next: None };
    assert_eq!(sweep(&store, of, None, KEPT, anybody).await.unwrap(), swept);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn on_old_news_nothing_is_stored(store: Store) {
    let (ci, of) = (place(&key("ci"), "notes"), revision(&store).await);
    let new = |place: &Place| NewCredential {
        place: place.clone(),
        id: fresh_id(),
        replaces: None,
        origin: None,
        credential: tokens("t", 60_000),
    };
    let user = |number| super::super::users::tests::new(number, crate::identity::user::Role::User);
    let ada = super::super::users::tests::created(&store, user(1)).await.id;
    let ada = place(&Holder::Of(Principal::User(ada)), "notes");
    let before_eve = revision(&store).await;
    super::super::users::tests::created(&store, user(2)).await;
    assert_eq!(super::put(&store, new(&ci), of, anybody, ACTOR).await.unwrap(), Put::Stored(1), "users are not keys");
    assert_eq!(super::put(&store, new(&ada), of, anybody, ACTOR).await.unwrap(), Put::Outdated);
    let stored = super::put(&store, new(&ada), before_eve, anybody, ACTOR).await.unwrap();
    assert_eq!(stored, Put::Stored(1), "what others do does not count");
    for (change, outdated) in [(Change::Keys, "key:ci2"), (Change::Upstreams, "shared")] {
        let of = revision(&store).await;
        store.write(move |tx| changes::announce(tx, change.clone())).await.unwrap();
        let of_key = place(&Holder::parse(outdated).unwrap(), "notes");
        assert_eq!(super::put(&store, new(&of_key), of, anybody, ACTOR).await.unwrap(), Put::Outdated);
    }
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn all_of_a_holder_or_an_upstream_end_in_steps(store: Store) {
    for number in 0..60 {
        stored(&store, &place(&key("ci"), &format!("u{number}")), 60_000).await;
        stored(&store, &place(&key(&format!("k{number}")), "notes"), 60_000).await;
    }
    stored(&store, &place(&key("ci2"), "u1"), 60_000).await;
    let end = |whose, why| end_all_of(&store, whose, why, ACTOR);
    let ci = || Whose::Holder(key("ci"));
    assert_eq!(end(ci(), End::HolderGone).await.unwrap(), Ended { connections: 50, flows: 0, has_more: true });
    assert_eq!(end(ci(), End::HolderGone).await.unwrap(), Ended { connections: 10, flows: 0, has_more: false });
    let notes = || Whose::Upstream(UpstreamName::parse("notes").unwrap());
    assert_eq!(end(notes(), End::UpstreamGone).await.unwrap().connections, 50);
    assert_eq!(end(notes(), End::UpstreamGone).await.unwrap().connections, 10);
    let left = list(&store, Filter::default(), anybody, None, 9).await.unwrap().items;
    assert_eq!(left.len(), 1);
    assert_eq!(due_revocations(&store, TTL, 200).await.unwrap().len(), 50);
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn lists_show_what_access_is_now(store: Store) {
    for upstream in ["a", "b", "c"] {
        for holder in ["k1", "k2"] {
            stored(&store, &place(&key(holder), upstream), 60_000).await;
        }
    }
    mark(&store, &place(&key("k1"), "b"), 1, Trouble::Reauth(Reason::Unauthorized), ACTOR).await.unwrap();
    let not_c = |place: &Place| if place.upstream.as_str() == "c" { Access::Withdrawn } else { Access::Granted };
    let shown = |filter: Filter, size| {
        let store = &store;
        async move {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = list(store, filter.clone(), not_c, after, size).await.unwrap();
                found.extend(page.items.iter().map(|listed| listed.connection.place.to_string()));
                let Some(next) = page.next else { return found };
                after = Some(next);
            }
        }
    };
    let of = |standing| Filter { standing: Some(standing), ..Filter::default() };
    assert_eq!(shown(of(Standing::Orphaned), 1).await, ["key:k2 at c", "key:k1 at c"]);
    assert_eq!(shown(of(Standing::NeedsReauth), 1).await, ["key:k1 at b"]);
    assert_eq!(shown(of(Standing::Active), 2).await, ["key:k2 at b", "key:k2 at a", "key:k1 at a"]);
    let k1 = Filter { holder: Some(key("k1")), ..Filter::default() };
    assert_eq!(shown(k1.clone(), 2).await, ["key:k1 at c", "key:k1 at b", "key:k1 at a"]);
    let at_b = Filter { upstream: UpstreamName::parse("b").ok(), ..Filter::default() };
    assert_eq!(shown(at_b.clone(), 1).await, ["key:k2 at b", "key:k1 at b"]);
    assert_eq!(shown(Filter { holder: k1.holder, ..at_b }, 1).await, ["key:k1 at b"]);
    let first = list(&store, Filter::default(), anybody, None, 2).await.unwrap();
    disconnect(&store, &place(&key("k2"), "b"), End::Revoked, ACTOR).await.unwrap();
    stored(&store, &place(&key("k1"), "d"), 60_000).await;
    let second = list(&store, Filter::default(), anybody, first.next, 2).await.unwrap();
    let places: Vec<_> = second.items.iter().map(|listed| listed.connection.place.to_string()).collect();
    assert_eq!(places, ["key:k1 at b", "key:k2 at a"], "neither twice nor left out");
}

async fn on_old_news_nothing_is_ended(store: Store) {
    let notes = place(&key("ci"), "notes");
    stored(&store, &notes, 60_000).await;
    let of = revision(&store).await;
    let gone = |_: &Place| Access::HolderGone;
    let user = super::super::users::tests::new(1, crate::identity::user::Role::User);
    super::super::users::tests::created(&store, user).await;
    assert_eq!(sweep(&store, of, None, KEPT, gone).await.unwrap(), Swept::Outdated);
    assert!(get(&store, &notes).await.unwrap().is_some());
    let of = revision(&store).await;
    stored(&store, &notes, 70_000).await;
    let swept = sweep(&store, of, None, KEPT, gone).await.unwrap();
    assert_eq!(
        swept,
        Swept::Step { orphaned: 1, reactivated: 0, ended: 0, unreadable: 0, next: None },
        "connections say nothing of access"
    );
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn a_sweep_goes_on_where_it_stopped(store: Store) {
    for number in 0..250 {
        stored(&store, &place(&key(&format!("k{number}")), "notes"), 60_000).await;
    }
    let of = revision(&store).await;
    let (mut after, mut orphaned, mut steps) = (None, 0, 0);
    loop {
        let withdrawn = |_: &Place| Access::Withdrawn;
        let Swept::Step { orphaned: some, next, .. } = sweep(&store, of, after, KEPT, withdrawn).await.unwrap() else {
            panic!()
        };
        orphaned += some;
        steps += 1;
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((orphaned, steps), (250, 3));
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn a_record_that_cannot_be_read_holds_nobody_else_up(store: Store) {
    for holder in ["a", "c"] {
        stored(&store, &place(&key(holder), "notes"), 60_000).await;
    }
    store.write(|tx| tx.put(Table::Connections, b"key:b\0notes", b"\x07{}")).await.unwrap();
    let of = revision(&store).await;
    let withdrawn = |_: &Place| Access::Withdrawn;
    let swept = Swept::Step { orphaned: 2, reactivated: 0, ended: 0, unreadable: 1, next: None };
    assert_eq!(sweep(&store, of, None, KEPT, withdrawn).await.unwrap(), swept);
}

async fn a_refresh_keeps_what_a_connection_was_made_for(store: Store) {
    let origin = |host: &str| Some(Origin::of_url(&format!("https://{host}/mcp").parse().unwrap()));
    let notes = place(&key("ci"), "notes");
    let there = stored(&store, &notes, 60_000).await;
    assert_eq!(there.origin, None, "as an earlier version stored it");
    for (seen, says, expected) in [(1, "a.example", "a.example"), (2, "b.example", "a.example")] {
        let mut lease = leased(&store, &notes, seen, "a").await;
        lease.connection.origin = origin(says);
        let commit = commit_refresh(&store, &lease, tokens("renewed", 60_000)).await.unwrap();
        assert_eq!(commit, Commit::Stored(seen + 1));
        assert_eq!(get(&store, &notes).await.unwrap().unwrap().origin, origin(expected));
    }
    let new = NewCredential {
        place: notes.clone(),
        id: there.id,
        replaces: Some(3),
        origin: origin("b.example"),
        credential: tokens("given", 60_000),
    };
    assert_eq!(put(&store, new, anybody, ACTOR).await.unwrap(), Put::Stored(4));
    assert_eq!(get(&store, &notes).await.unwrap().unwrap().origin, origin("b.example"), "somebody meant it for there");
}

on_memory!(
    there_is_one_connection_for_a_place,
    the_largest_credential_fits_into_a_record,
    what_does_not_work_is_marked_unless_it_was_replaced,
    of_64_that_want_to_refresh_one_does,
    what_is_ended_is_erased_and_its_tokens_wait_to_be_revoked,
    a_refresh_that_ends_after_its_connection_leaves_nothing_alive,
    nothing_is_stored_for_a_user_who_is_gone,
    on_old_news_nothing_is_stored,
    all_of_a_holder_or_an_upstream_end_in_steps,
    lists_show_what_access_is_now,
    on_old_news_nothing_is_ended,
    a_sweep_goes_on_where_it_stopped,
    a_record_that_cannot_be_read_holds_nobody_else_up,
    a_refresh_keeps_what_a_connection_was_made_for,
);

#[tokio::test]
async fn a_lost_lease_never_commits() {
    let (clock, store) = clocked().await;
    let notes = place(&key("ci"), "notes");
    stored(&store, &notes, 60_000).await;
    let first = leased(&store, &notes, 1, "a").await;
    let held = lease_refresh(&store, &notes, 1, "b", TTL).await.unwrap();
    assert_eq!(held, Leasing::HeldBy { by: "a".to_owned(), until: first.until });
    clock.advance(TTL);
    let second = leased(&store, &notes, 1, "b").await;
    assert!(second.after_loss && second.fence > first.fence);
    assert_eq!(commit_refresh(&store, &first, tokens("a", 1)).await.unwrap(), Commit::LostLease);
    assert_eq!(give_back(&store, &first, None, 0).await.unwrap(), None);
    clock.advance(TTL);
    let commit = commit_refresh(&store, &second, tokens("b", 1)).await.unwrap();
    assert_eq!(commit, Commit::Stored(2), "late, and nobody else has asked");
    assert_eq!(commit_refresh(&store, &second, tokens("b", 1)).await.unwrap(), Commit::LostLease, "once");
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn who_fails_to_refresh_pauses_longer_each_time() {
    let (clock, store) = clocked().await;
    let notes = place(&key("ci"), "notes");
    stored(&store, &notes, 60_000).await;
    let far = Timestamp::from_millis(100_000_000);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let lease = leased(&store, &notes, 1, "a").await;
        let until = give_back(&store, &lease, None, 0).await.unwrap().unwrap();
        assert_eq!(lease_refresh(&store, &notes, 1, "a", TTL).await.unwrap(), Leasing::Pausing { until });
        let pause = until.as_millis() - clock.env().now().as_millis();
        pauses.push(pause / 1_000);
        clock.advance(Duration::from_millis(pause));
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
    let lease = leased(&store, &notes, 1, "a").await;
    let asked = give_back(&store, &lease, Some(Duration::from_secs(9_000)), 0).await.unwrap().unwrap();
    assert_eq!(asked, clock.env().now().after(Duration::from_secs(900)), "a server cannot ask for ever");
    clock.advance(Duration::from_secs(900));
    let lease = leased(&store, &notes, 1, "a").await;
    let asked = give_back(&store, &lease, None, u8::MAX).await.unwrap().unwrap();
    assert_eq!(asked, clock.env().now().after(Duration::from_secs(1_125)), "and a quarter at most besides");
    assert_eq!(lease_refresh(&store, &notes, 1, "a", TTL).await.unwrap(), Leasing::Pausing { until: asked });
    assert_eq!(due_for_refresh(&store, asked, 9).await.unwrap(), [], "not before it may be tried");
    assert_eq!(due_for_refresh(&store, far, 9).await.unwrap().len(), 1);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn those_that_end_first_are_refreshed_first() {
    let (_, store) = clocked().await;
    for (holder, expires_ms) in [("a", 50_000), ("b", 20_000), ("c", 90_000), ("d", 30_000)] {
        stored(&store, &place(&key(holder), "notes"), expires_ms).await;
    }
    let due = due_for_refresh(&store, Timestamp::from_millis(50_001), 2).await.unwrap();
    let holders: Vec<_> = due.iter().map(|connection| connection.place.holder.to_string()).collect();
    assert_eq!(holders, ["key:b", "key:d"]);
    assert_eq!(due_for_refresh(&store, Timestamp::from_millis(50_000), 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_cannot_be_revoked_is_tried_for_days_and_then_told() {
    let (clock, store) = clocked().await;
    let notes = place(&key("ci"), "notes");
    let connection = stored(&store, &notes, 60_000).await;
    disconnect(&store, &notes, End::Disconnected, ACTOR).await.unwrap();
    let mut attempts = 0;
    loop {
        assert_eq!(due_revocations(&store, TTL, 9).await.unwrap().len(), 1);
        attempts += 1;
        match not_revoked(&store, &connection.id, false).await.unwrap() {
            Trial::Again { at } => clock.advance(Duration::from_millis(at.as_millis() - clock.env().now().as_millis())),
            Trial::GivenUp => break,
            Trial::NotFound => panic!("it is there"),
        }
    }
    let days = clock.env().now().as_millis() / (24 * 3_600_000);
    assert_eq!((attempts, days), (16, 3));
    let event = &audit::list(&store, None, 1).await.unwrap().items[0].entry.event;
    assert!(matches!(event, AuditEvent::TokensNotRevoked { attempts: 16, .. }), "{event:?}");
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn access_that_comes_back_finds_its_connection_and_what_stays_away_does_not() {
    let (clock, store) = clocked().await;
    let (back, away) = (place(&key("back"), "notes"), place(&key("away"), "notes"));
    stored(&store, &back, 60_000).await;
    stored(&store, &away, 60_000).await;
    let of = revision(&store).await;
    let swept = |orphaned, reactivated, ended| Swept::Step { orphaned, reactivated, ended, unreadable: 0, next: None };
    let nobody = |_: &Place| Access::Withdrawn;
    assert_eq!(sweep(&store, of, None, KEPT, nobody).await.unwrap(), swept(2, 0, 0));
    assert_eq!(sweep(&store, of, None, KEPT, nobody).await.unwrap(), swept(0, 0, 0));
    let orphan = get(&store, &away).await.unwrap().unwrap();
    assert_eq!(orphan.orphaned_since, Some(clock.env().now()));
    assert_eq!(due_for_refresh(&store, Timestamp::from_millis(u64::MAX), 9).await.unwrap(), []);
    clock.advance(KEPT);
    let one = |place: &Place| if place.holder == key("back") { Access::Granted } else { Access::Withdrawn };
    assert_eq!(sweep(&store, of, None, KEPT, one).await.unwrap(), swept(0, 1, 1));
    assert_eq!(get(&store, &away).await.unwrap(), None);
    let again = get(&store, &back).await.unwrap().unwrap();
    assert_eq!((again.orphaned_since, again.revision), (None, 1));
    let names: Vec<_> =
        audit::list(&store, None, 4).await.unwrap().items.iter().map(|row| row.entry.event.name()).collect();
    assert_eq!(names, ["connection.reactivated", "connection.ended", "connection.orphaned", "connection.orphaned"]);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn what_one_replica_does_not_know_of_is_kept_for_a_while() {
    let (clock, store) = clocked().await;
    let (of_key, of_upstream) = (place(&key("ci"), "notes"), place(&Holder::Shared, "files"));
    for place in [&of_key, &of_upstream] {
        stored(&store, place, 60_000).await;
    }
    let of = revision(&store).await;
    let swept = |orphaned, reactivated, ended| Swept::Step { orphaned, reactivated, ended, unreadable: 0, next: None };
    // Another replica's file has neither.
    let gone = |place: &Place| if place.holder == Holder::Shared { Access::UpstreamGone } else { Access::HolderGone };
    assert_eq!(sweep(&store, of, None, KEPT, gone).await.unwrap(), swept(2, 0, 0));
    assert_eq!(sweep(&store, of, None, KEPT, anybody).await.unwrap(), swept(0, 2, 0));
    assert_eq!(sweep(&store, of, None, KEPT, gone).await.unwrap(), swept(2, 0, 0));
    clock.advance(KEPT);
    // One that is made anew meanwhile is not ended for what its predecessor was.
    stored(&store, &of_upstream, 60_000).await;
    let names: Vec<_> =
        audit::list(&store, None, 2).await.unwrap().items.iter().map(|row| row.entry.event.name()).collect();
    assert_eq!(names, ["connection.stored", "connection.reactivated"]);
    assert_eq!(sweep(&store, of, None, KEPT, gone).await.unwrap(), swept(1, 0, 1));
    let event = &audit::list(&store, None, 9).await.unwrap().items;
    let ended = event.iter().find_map(|row| match &row.entry.event {
        AuditEvent::ConnectionEnded { why, .. } => Some(why.clone()),
        _ => None,
    });
    assert_eq!(ended.as_deref(), Some("holder_gone"));
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_no_refresh_up() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let (clock, store) = clocked().await;
    clock.advance(HOUR);
    let (held, pausing) = (place(&key("ci"), "held"), place(&key("ci"), "pausing"));
    for place in [&held, &pausing] {
        stored(&store, place, 60_000_000).await;
    }
    leased(&store, &held, 1, "a").await;
    let lease = leased(&store, &pausing, 1, "a").await;
    give_back(&store, &lease, Some(LAST_PAUSE), 0).await.unwrap();
    clock.set_back(Duration::from_secs(10));
    assert!(matches!(lease_refresh(&store, &held, 1, "b", TTL).await.unwrap(), Leasing::HeldBy { .. }));
    clock.advance(Duration::from_secs(10));
    assert!(matches!(lease_refresh(&store, &pausing, 1, "b", TTL).await.unwrap(), Leasing::Pausing { .. }));
    clock.set_back(HOUR);
    for place in [&held, &pausing] {
        leased(&store, place, 1, "b").await;
    }
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_lease_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let clock = StandingClock::at(1_000);
    let open = || {
        let (path, env) = (directory.path().join("portcullis.redb"), clock.env());
        async move { Store::open(Location::File(path), env).await.unwrap() }
    };
    let store = open().await;
    let notes = place(&key("restarted"), "notes");
    stored(&store, &notes, 60_000).await;
    let lease = leased(&store, &notes, 1, "a").await;
    store.close().await;
    let store = open().await;
    assert!(matches!(lease_refresh(&store, &notes, 1, "b", TTL).await.unwrap(), Leasing::HeldBy { .. }));
    assert_eq!(commit_refresh(&store, &lease, tokens("second", 1)).await.unwrap(), Commit::Stored(2));
    assert_eq!(store.verify().await.unwrap(), []);
    store.close().await;
}

// Leases against a model.

#[derive(Clone, Debug)]
enum Step {
    Put,
    Lease(usize),
    Commit(usize),
    GiveBack(usize),
    Mark,
    Disconnect,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Put),
        4 => (0_usize..3).prop_map(Step::Lease),
        4 => (0_usize..3).prop_map(Step::Commit),
        1 => (0_usize..3).prop_map(Step::GiveBack),
        1 => Just(Step::Mark),
        1 => Just(Step::Disconnect),
        3 => (0_u64..40_000).prop_map(Step::Wait),
    ]
}

/// What there should be.
struct There {
    revision: u64,
    access: String,
    works: bool,
    /// Who holds the newest lease, and until when others have to wait.
    lease: Option<(usize, u64)>,
    not_before: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Three replicas lease and commit, in any order and late. What is stored is what the last lease, and no other,
    /// has brought; of a lease that was taken over, given back or overtaken nothing ever is.
    #[test]
    fn only_the_newest_lease_stores(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (clock, store) = clocked().await;
            let notes = place(&key("ci"), "notes");
            let mut there: Option<There> = None;
            // What each replica believes to hold.
            let mut leases: [Option<Lease>; 3] = [None, None, None];
            for (number, step) in steps.iter().enumerate() {
                let now = clock.env().now().as_millis();
                match step {
                    Step::Put => {
                        let stored = stored(&store, &notes, 60_000).await;
                        let revision = there.as_ref().map_or(1, |there| there.revision + 1);
                        assert_eq!(stored.revision, revision);
                        there = Some(There { revision, access: "first".to_owned(), works: true, lease: None, not_before: 0 });
                    }
                    Step::Lease(by) => {
                        let seen = there.as_ref().map_or(1, |there| there.revision);
                        let leasing = lease_refresh(&store, &notes, seen, &by.to_string(), TTL).await.unwrap();
                        match (&mut there, leasing) {
                            (None, Leasing::NotFound) => {}
                            (Some(there), Leasing::Unable(_)) => assert!(!there.works),
                            (Some(there), Leasing::HeldBy { by: other, until }) => {
                                let (holder, ends) = there.lease.unwrap();
                                assert!(there.works && now < ends);
                                assert_eq!((other, until.as_millis()), (holder.to_string(), ends));
                            }
                            (Some(there), Leasing::Pausing { until }) => {
                                assert_eq!(until.as_millis(), there.not_before);
                                assert!(there.works && there.lease.is_none() && now < there.not_before);
                            }
                            (Some(there), Leasing::Leased(lease)) => {
                                assert!(there.works && there.lease.is_none_or(|(_, ends)| ends <= now));
                                assert_eq!((lease.after_loss, access(&lease.connection)), (there.lease.is_some(), there.access.clone()));
                                there.lease = Some((*by, lease.until.as_millis()));
                                leases[*by] = Some(*lease);
                            }
                            (_, other) => panic!("{other:?}"),
                        }
                    }
                    Step::Commit(by) => {
                        let Some(lease) = &leases[*by] else { continue };
                        let name = format!("of step {number}");
                        let commit = commit_refresh(&store, lease, tokens(&name, 60_000)).await.unwrap();
                        let is_newest = there.as_ref().is_some_and(|there| there.lease.is_some_and(|(holder, until)| holder == *by && until == lease.until.as_millis()) && there.revision == lease.connection.revision);
                        match commit {
                            Commit::Stored(revision) => {
                                assert!(is_newest, "a lost lease has stored");
                                let there = there.as_mut().unwrap();
                                assert_eq!(revision, there.revision + 1);
                                *there = There { revision, access: name, works: true, lease: None, not_before: 0 };
                            }
                            Commit::LostLease => assert!(!is_newest, "the newest lease was refused"),
                            Commit::Ended => assert_eq!(by_id(&store, &lease.id).await.unwrap(), None, "it lives"),
                            Commit::TooLarge => panic!("it is small"),
                        }
                    }
                    Step::GiveBack(by) => {
                        let Some(lease) = leases[*by].take() else { continue };
                        if let Some(until) = give_back(&store, &lease, None, 0).await.unwrap() {
                            let there = there.as_mut().unwrap();
                            assert_eq!(there.lease.take().map(|(holder, _)| holder), Some(*by));
                            there.not_before = until.as_millis();
                        }
                    }
                    Step::Mark => {
                        let seen = there.as_ref().map_or(1, |there| there.revision);
                        mark(&store, &notes, seen, Trouble::Reauth(Reason::RefreshRefused), ACTOR).await.unwrap();
                        if let Some(there) = &mut there {
                            (there.works, there.lease) = (false, None);
                        }
                    }
                    Step::Disconnect => {
                        let ended = disconnect(&store, &notes, End::Disconnected, ACTOR).await.unwrap();
                        assert_eq!(ended == Disconnection::NotFound, there.is_none());
                        there = None;
                    }
                    Step::Wait(millis) => clock.advance(Duration::from_millis(*millis)),
                }
                let stored = get(&store, &notes).await.unwrap();
                let expected = there.as_ref().map(|there| (there.revision, there.access.clone(), there.works));
                let found = stored.map(|stored| (stored.revision, access(&stored), stored.state == State::Connected));
                assert_eq!(found, expected, "after {step:?}");
            }
            assert_eq!(store.verify().await.unwrap(), []);
            store.close().await;
        });
    }

    /// After any sequence of changes of access, of connections and of time, lists show what access is, computed from
    /// scratch; and after a sweep what is written down says the same.
    #[test]
    fn lists_and_sweeps_equal_access_from_scratch(
        steps in prop::collection::vec((0_usize..5, 0_usize..4, 0_usize..3), 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (clock, store) = clocked().await;
            let holders = ["k0", "k1", "k2", "k3"].map(key);
            let upstreams = ["u0", "u1", "u2"];
            // Pairs that have access, and holders that exist.
            let mut allowed: BTreeSet<(Holder, String)> = BTreeSet::new();
            let mut living: BTreeSet<Holder> = holders.iter().cloned().collect();
            let mut model: BTreeMap<Place, bool> = BTreeMap::new();
            for (what, who, which) in steps {
                let (holder, upstream) = (holders[who].clone(), upstreams[which].to_owned());
                let at = place(&holder, &upstream);
                let pair = (holder.clone(), upstream);
                match what {
                    0 => {
                        // Access of one pair is turned round.
                        if !allowed.remove(&pair) {
                            allowed.insert(pair);
                        }
                    }
                    1 => {
                        // Somebody goes or comes back.
                        if !living.remove(&holder) {
                            living.insert(holder);
                        }
                    }
                    2 => clock.advance(KEPT / 3),
                    3 => {
                        let (of, seen) = (revision(&store).await, may_use(&allowed, &living));
                        let Swept::Step { next: None, .. } = sweep(&store, of, None, KEPT, seen).await.unwrap() else { panic!() };
                        let left = list(&store, Filter::default(), anybody, None, 200).await.unwrap().items;
                        let left: BTreeMap<_, _> = left.into_iter().map(|one| (one.connection.place.clone(), one.connection)).collect();
                        for (place, connection) in &left {
                            let is_granted = may_use(&allowed, &living)(place).is_granted();
                            assert_eq!(connection.orphaned_since.is_none(), is_granted, "{place}");
                        }
                        // What was ended had no access.
                        model.retain(|place, _| left.contains_key(place) || {
                            assert!(!may_use(&allowed, &living)(place).is_granted(), "{place}");
                            false
                        });
                    }
                    _ => {
                        let there = get(&store, &at).await.unwrap();
                        let new = NewCredential {
                            place: at.clone(),
                            id: there.as_ref().map_or_else(fresh_id, |there| there.id.clone()),
                            replaces: there.map(|there| there.revision),
                            origin: None,
                            credential: tokens("t", 60_000),
                        };
                        let put = put(&store, new, may_use(&allowed, &living), ACTOR).await.unwrap();
                        let is_granted = may_use(&allowed, &living)(&at).is_granted();
                        assert_eq!(matches!(put, Put::Stored(_)), is_granted, "{put:?}");
                        if is_granted {
                            model.insert(at, true);
                        }
                    }
                }
                let listed = list(&store, Filter::default(), may_use(&allowed, &living), None, 200).await.unwrap().items;
                let listed: BTreeMap<_, _> = listed.into_iter().map(|one| (one.connection.place.clone(), one.standing)).collect();
                let from_scratch: BTreeMap<_, _> = model
                    .keys()
                    .map(|place| {
                        let is_granted = may_use(&allowed, &living)(place).is_granted();
                        (place.clone(), if is_granted { Standing::Active } else { Standing::Orphaned })
                    })
                    .collect();
                assert_eq!(listed, from_scratch);
            }
            assert_eq!(store.verify().await.unwrap(), []);
            store.close().await;
        });
    }
}

/// Access as a function of plain values.
fn may_use(
    allowed: &BTreeSet<(Holder, String)>,
    living: &BTreeSet<Holder>,
) -> impl Fn(&Place) -> Access + Send + 'static {
    let (allowed, living) = (Arc::new(allowed.clone()), Arc::new(living.clone()));
    move |place| {
        if !living.contains(&place.holder) {
            Access::HolderGone
        } else if allowed.contains(&(place.holder.clone(), place.upstream.as_str().to_owned())) {
            Access::Granted
        } else {
            Access::Withdrawn
        }
    }
}
