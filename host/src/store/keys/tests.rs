//! Virtual keys in a real store: one name, one secret and one earlier one, and nothing of a key outlives it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::oauth_testing::{engines, grant_id, issue, party};
use super::super::tests::memory;
use super::super::users::tests::{anybody, data_key};
use super::super::verify::DiscrepancyKind;
use super::super::{flows, grants};
use super::*;
use crate::audit::{FieldChange, OperatorProof};
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, Earlier, ManagedBy};
use crate::identity::user::Login;
use crate::oauth::grant::Gone;

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);

fn name(name: &str) -> KeyName {
    KeyName::parse(name).unwrap()
}

fn key(key_name: &str, created_ms: u64) -> VirtualKey {
    let glob = |pattern| Glob::parse(pattern).unwrap();
    VirtualKey {
        name: name(key_name),
        digest: Digest::of(key_name.as_bytes()),
        earlier: None,
        allow: AllowList(vec![AllowEntry { upstream: glob("notes"), tools: vec![glob("read_*"), glob("add")] }]),
        scopes: TokenList::parse(vec!["read".to_owned(), "notes:write".to_owned()]).unwrap(),
        groups: TokenList::parse(vec!["ops".to_owned()]).unwrap(),
        owner: None,
        created: Timestamp::from_millis(created_ms),
        expires: Some(Timestamp::from_millis(9_000)),
        standing: Standing::Enabled,
        managed_by: ManagedBy::Store,
        revision: 1,
    }
}

async fn events(store: &Store) -> Vec<AuditEvent> {
    let page = audit::list(store, None, 200).await.unwrap();
    page.items.into_iter().rev().map(|row| row.entry.event).collect()
}

#[tokio::test]
async fn a_key_comes_back_as_it_was_given() {
    let store = memory().await;
    assert_eq!(create(&store, key("ci", 5), ACTOR).await.unwrap(), Creation::Created { revision: 1 });
    let expected = Some(key("ci", 5));
    assert_eq!(by_name(&store, &name("ci")).await.unwrap(), expected);
    assert_eq!(by_digest(&store, Digest::of(b"ci")).await.unwrap(), expected);
    assert_eq!(all(&store).await.unwrap(), [key("ci", 5)]);
    assert_eq!(by_name(&store, &name("other")).await.unwrap(), None);
    assert_eq!(by_digest(&store, Digest::of(b"other")).await.unwrap(), None);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_name_and_a_secret_are_taken_once() {
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    let same_name = VirtualKey { digest: Digest::of(b"new"), ..key("ci", 6) };
    assert_eq!(create(&store, same_name, ACTOR).await.unwrap(), Creation::NameTaken);
    let same_secret = VirtualKey { name: name("other"), ..key("ci", 6) };
    assert_eq!(create(&store, same_secret, ACTOR).await.unwrap(), Creation::SecretTaken);
    assert_eq!(all(&store).await.unwrap(), [key("ci", 5)]);
    let changes = changing::created(&KeyRecord::from(&key("ci", 5)));
    assert_eq!(events(&store).await, [AuditEvent::KeyCreated { name: name("ci"), changes }]);
}

#[tokio::test]
async fn of_64_creators_of_one_name_exactly_one_succeeds() {
    let store = memory().await;
    let mut creators = JoinSet::new();
    for number in 0..64_u64 {
        let store = store.clone();
        let key = VirtualKey { digest: Digest::of(&number.to_be_bytes()), ..key("ci", number) };
        creators.spawn(async move { create(&store, key, ACTOR).await.unwrap() });
    }
    let outcomes = creators.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Creation::Created { revision: 1 }).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Creation::NameTaken).count(), 63);
    assert_eq!(events(&store).await.len(), 1);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn every_change_and_nothing_else_is_in_the_audit_trail() {
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    let ci = name("ci");
    for (standing, expected) in [
        (Standing::Enabled, StandingChange::Unchanged),
        (Standing::Disabled, StandingChange::Changed),
        (Standing::Disabled, StandingChange::Unchanged),
        (Standing::Enabled, StandingChange::Changed),
    ] {
        assert_eq!(set_standing(&store, &ci, standing, ACTOR).await.unwrap(), expected);
        assert_eq!(by_digest(&store, Digest::of(b"ci")).await.unwrap().unwrap().standing, standing);
    }
    assert_eq!(delete(&store, &ci, None, ACTOR).await.unwrap(), Deletion::Deleted);
    assert_eq!(delete(&store, &ci, None, ACTOR).await.unwrap(), Deletion::NotFound);
    assert_eq!(set_standing(&store, &ci, Standing::Enabled, ACTOR).await.unwrap(), StandingChange::NotFound);
    assert_eq!(by_digest(&store, Digest::of(b"ci")).await.unwrap(), None);
    let revoked =
        AuditEvent::GrantsRevoked { of: "principal:key:ci".to_owned(), reason: RevocationReason::PrincipalGone };
    let was = KeyRecord::from(&key("ci", 5));
    let (created, deleted) = (changing::created(&was), changing::deleted(&was));
    let allow = |from: Option<&str>, to: Option<&str>| FieldChange {
        field: "allow".to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    let words = Some("notes/read_* notes/add");
    assert_eq!((&created[0], &deleted[0]), (&allow(None, words), &allow(words, None)));
    assert_eq!(created.len(), 4, "it has no owner: {created:?}");
    assert_eq!(
        events(&store).await,
        [
            AuditEvent::KeyCreated { name: ci.clone(), changes: created },
            AuditEvent::KeyDisabled { name: ci.clone() },
            revoked.clone(),
            AuditEvent::KeyEnabled { name: ci.clone() },
            AuditEvent::KeyDeleted { name: ci.clone(), changes: deleted },
            revoked,
        ]
    );
    assert_eq!(store.verify().await.unwrap(), []);
    assert_eq!(create(&store, key("ci", 7), ACTOR).await.unwrap(), Creation::Created { revision: 4 });
}

#[tokio::test]
async fn who_has_the_name_of_a_deleted_key_has_nothing_else_of_it() {
    for place in engines().await {
        let store = &place.store;
        create(store, key("ci", 5), ACTOR).await.unwrap();
        let holder = Holder::Of(Principal::Key(name("ci")));
        let owner = Owner::Principal(Principal::Key(name("ci")));
        data_keys::create(store, &data_key(&owner)).await.unwrap();
        for number in 0..120 {
            connections::tests::connected(store, &holder, &format!("u{number}")).await;
        }
        let flow = flows::tests::begun(store, &holder, "tracker", 1).await;
        issue(store, 1, "a", party("ci", "app")).await;
        issue(store, 2, "b", party("other", "app")).await;

        assert_eq!(delete(store, &name("ci"), None, ACTOR).await.unwrap(), Deletion::Deleted);
        let left = connections::list(store, connections::Filter::default(), anybody, None, 9).await.unwrap();
        assert_eq!(left.items, []);
        assert_eq!(flows::get(store, flow.state).await.unwrap(), None);
        assert_eq!(data_keys::find(store, &owner).await.unwrap().key, None);
        let end = async |number| grants::get(store, &grant_id(number)).await.unwrap().unwrap().end;
        assert_eq!((end(1).await, end(2).await), (Some(Gone::Revoked), None));

        assert_eq!(create(store, key("ci", 7), ACTOR).await.unwrap(), Creation::Created { revision: 2 });
        assert_eq!(end(1).await, Some(Gone::Revoked));
        place.forward(Duration::from_secs(1));
        issue(store, 3, "c", party("ci", "app")).await;
        assert_eq!(end(3).await, None);
        assert_eq!(store.verify().await.unwrap(), []);
    }
}

#[tokio::test]
async fn what_was_said_of_a_deleted_key_is_not_said_of_the_next_one_of_its_name() {
    for place in engines().await {
        let store = &place.store;
        let (ci, disabled) = (name("ci"), Edit { standing: Some(Standing::Disabled), ..Edit::default() });
        create(store, key("ci", 5), ACTOR).await.unwrap();
        create(store, key("other", 6), ACTOR).await.unwrap();
        for standing in [Standing::Disabled, Standing::Enabled] {
            set_standing(store, &ci, standing, ACTOR).await.unwrap();
        }
        // One that is deleted later and has changed less brings nothing back.
        for gone in ["ci", "other"] {
            assert_eq!(delete(store, &name(gone), None, ACTOR).await.unwrap(), Deletion::Deleted);
        }
        let again = VirtualKey { digest: Digest::of(b"again"), ..key("ci", 5) };
        assert_eq!(create(store, again, ACTOR).await.unwrap(), Creation::Created { revision: 4 });
        for seen in 1..=3 {
            let changing = change(store, &ci, Some(vec![seen]), disabled.clone(), ACTOR).await.unwrap();
            assert_eq!(changing, Changing::Conflict(4));
            assert_eq!(delete(store, &ci, Some(vec![seen]), ACTOR).await.unwrap(), Deletion::Conflict(4));
        }
        assert!(matches!(change(store, &ci, Some(vec![4]), disabled, ACTOR).await.unwrap(), Changing::Done(_)));
        assert_eq!(store.verify().await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_name_is_not_free_while_connections_are_left_under_it() {
    // As of a key that a configuration file had.
    let store = memory().await;
    let holder = Holder::Of(Principal::Key(name("ci")));
    connections::tests::connected(&store, &holder, "notes").await;
    connections::tests::connected(&store, &Holder::Of(Principal::Key(name("ci2"))), "notes").await;
    assert_eq!(create(&store, key("ci", 5), ACTOR).await.unwrap(), Creation::StillEnding);
    // As after a deletion that was interrupted.
    assert_eq!(delete(&store, &name("ci"), None, ACTOR).await.unwrap(), Deletion::NotFound);
    assert_eq!(create(&store, key("ci", 5), ACTOR).await.unwrap(), Creation::Created { revision: 1 });
}

#[tokio::test]
async fn what_a_disabled_key_granted_does_not_come_back() {
    for place in engines().await {
        let store = &place.store;
        create(store, key("ci", 5), ACTOR).await.unwrap();
        issue(store, 1, "a", party("ci", "app")).await;
        for standing in [Standing::Disabled, Standing::Enabled] {
            set_standing(store, &name("ci"), standing, ACTOR).await.unwrap();
            let grant = grants::get(store, &grant_id(1)).await.unwrap().unwrap();
            assert_eq!(grant.end, Some(Gone::Revoked), "{standing:?}");
        }
    }
}

#[tokio::test]
async fn a_list_is_newest_first_and_stable_while_keys_come_and_go() {
    let store = memory().await;
    for (key_name, created_ms) in [("a", 10), ("b", 10), ("c", 30), ("d", 20), ("e", 5)] {
        create(&store, key(key_name, created_ms), ACTOR).await.unwrap();
    }
    let names = |page: &Page<VirtualKey>| page.items.iter().map(|key| key.name.to_string()).collect::<String>();
    let first = list(&store, None, 2).await.unwrap();
    assert_eq!(names(&first), "cd");
    create(&store, key("newer", 40), ACTOR).await.unwrap();
    delete(&store, &name("d"), None, ACTOR).await.unwrap();
    let second = list(&store, first.next, 2).await.unwrap();
    assert_eq!(names(&second), "ba");
    let third = list(&store, second.next, 2).await.unwrap();
    assert_eq!((names(&third).as_str(), third.next), ("e", None));
    assert_eq!(list(&store, None, 0).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn there_are_at_most_so_many_keys() {
    let store = memory().await;
    for chunk in (0..MAX_KEYS).collect::<Vec<_>>().chunks(500) {
        let records: Vec<_> = chunk.iter().map(|number| KeyRecord::from(&key(&format!("k{number}"), 1))).collect();
        store.write(move |tx| records.iter().try_for_each(|record| KEYS.put(tx, record))).await.unwrap();
    }
    assert_eq!(create(&store, key("one-more", 2), ACTOR).await.unwrap(), Creation::TooMany);
    delete(&store, &name("k17"), None, ACTOR).await.unwrap();
    assert_eq!(create(&store, key("one-more", 2), ACTOR).await.unwrap(), Creation::Created { revision: 2 });
    let all = all(&store).await.unwrap();
    assert_eq!(all.iter().map(|key| key.name.clone()).collect::<BTreeSet<_>>().len(), MAX_KEYS);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_broken_index_is_told_of() {
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    let digest = *Digest::of(b"ci").as_bytes();
    store
        .write(move |tx| -> Result<(), StoreError> {
            tx.remove(Table::KeysByDigest, &digest)?;
            tx.put(Table::KeysByCreation, b"nonsense", b"gone")
        })
        .await
        .unwrap();
    let found = store.verify().await.unwrap();
    let found: Vec<_> = found.iter().map(|discrepancy| (discrepancy.index, discrepancy.kind)).collect();
    assert_eq!(found, [("keys_by_digest", DiscrepancyKind::Missing), ("keys_by_creation", DiscrepancyKind::Stray)]);
    assert!(matches!(list(&store, None, 10).await, Err(StoreError::Unreadable { table: "keys_by_creation", .. })));
}

#[tokio::test]
async fn a_key_that_was_written_before_there_were_scopes_is_still_there() {
    // What the first version of this file wrote.
    const WRITTEN: &[u8] =
        b"\x01{\"name\":\"ci\",\"digest\":[27,21,136,57,248,170,51,158,137,187,80,177,96,62,144,236,\
        104,224,253,85,101,254,16,167,203,50,114,159,221,247,7,10],\"allow\":[{\"upstream\":\"notes\",\
        \"tools\":[\"read_*\",\"add\"]}],\"created_ms\":5,\"expires_ms\":9000,\"standing\":\"enabled\"}";
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    store.write(|tx| tx.put(Table::Keys, b"ci", WRITTEN)).await.unwrap();
    let without = VirtualKey { scopes: TokenList::default(), groups: TokenList::default(), ..key("ci", 5) };
    assert_eq!(by_name(&store, &name("ci")).await.unwrap(), Some(without.clone()));
    set_standing(&store, &name("ci"), Standing::Disabled, ACTOR).await.unwrap();
    let disabled = VirtualKey { standing: Standing::Disabled, revision: 2, ..without };
    assert_eq!(all(&store).await.unwrap(), [disabled]);
}

#[tokio::test]
async fn a_key_that_was_written_before_there_were_owners_is_still_there() {
    // What the second version wrote.
    const WRITTEN: &[u8] =
        b"\x02{\"name\":\"ci\",\"digest\":[27,21,136,57,248,170,51,158,137,187,80,177,96,62,144,236,\
        104,224,253,85,101,254,16,167,203,50,114,159,221,247,7,10],\"allow\":[{\"upstream\":\"notes\",\
        \"tools\":[\"read_*\",\"add\"]}],\"scopes\":[\"read\",\"notes:write\"],\"groups\":[\"ops\"],\
        \"created_ms\":5,\"expires_ms\":9000,\"standing\":\"enabled\"}";
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    store.write(|tx| tx.put(Table::Keys, b"ci", WRITTEN)).await.unwrap();
    assert_eq!(by_name(&store, &name("ci")).await.unwrap(), Some(key("ci", 5)));
    let rotation = Rotation { digest: Digest::of(b"new"), overlap: Duration::ZERO };
    rotate(&store, &name("ci"), Some(vec![1]), rotation, ACTOR).await.unwrap();
    let rotated = VirtualKey { digest: Digest::of(b"new"), revision: 2, ..key("ci", 5) };
    assert_eq!(all(&store).await.unwrap(), [rotated]);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn the_present_form_of_a_key_is_read_as_it_was_written() {
    const WRITTEN: &[u8] =
        b"\x03{\"name\":\"ci\",\"digest\":[27,21,136,57,248,170,51,158,137,187,80,177,96,62,144,236,\
        104,224,253,85,101,254,16,167,203,50,114,159,221,247,7,10],\"earlier\":{\"digest\":[7,7,7,7,7,7,7,7,\
        7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7],\"until_ms\":700},\"allow\":[{\"upstream\":\"notes\",\
        \"tools\":[\"read_*\",\"add\"]}],\"scopes\":[\"read\",\"notes:write\"],\"groups\":[\"ops\"],\
        \"owner\":\"ada\",\"created_ms\":5,\"expires_ms\":9000,\"standing\":\"enabled\",\"revision\":3}";
    let earlier = Earlier { digest: Digest::from_bytes([7; 32]), until: Timestamp::from_millis(700) };
    let owner = Login::parse("ada");
    let whole = VirtualKey { earlier: Some(earlier), owner, revision: 3, ..key("ci", 5) };
    let store = memory().await;
    create(&store, whole.clone(), ACTOR).await.unwrap();
    assert_eq!(store.read(|tx| tx.get(Table::Keys, b"ci")).await.unwrap().as_deref(), Some(WRITTEN));
    assert_eq!(by_name(&store, &name("ci")).await.unwrap(), Some(whole));
}

/// What the trail has of changes, oldest first.
async fn changes(store: &Store) -> Vec<(String, Option<String>, Option<String>)> {
    let of_change = |event| match event {
        AuditEvent::KeyChanged { change: FieldChange { field, from, to }, .. } => Some((field, from, to)),
        _ => None,
    };
    events(store).await.into_iter().filter_map(of_change).collect()
}

#[tokio::test]
async fn what_is_given_changes_and_is_told_and_the_rest_stays() {
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    let ci = name("ci");
    let done = async |seen, edit| change(&store, &ci, seen, edit, ACTOR).await.unwrap();
    let same = Changing::Done(Box::new(key("ci", 5)));
    assert_eq!(done(None, Edit::default()).await, same);
    let as_it_is = Edit { allow: Some(key("ci", 5).allow), standing: Some(Standing::Enabled), ..Edit::default() };
    assert_eq!(done(Some(vec![1]), as_it_is).await, same, "nothing is otherwise");
    assert_eq!(events(&store).await.len(), 1);

    let owner = Login::parse("ada");
    let edit =
        Edit { allow: Some(AllowList::default()), owner: Some(owner.clone()), expires: Some(None), ..Edit::default() };
    let second = VirtualKey { allow: AllowList::default(), owner, expires: None, revision: 2, ..key("ci", 5) };
    assert_eq!(done(Some(vec![9, 1]), edit).await, Changing::Done(Box::new(second.clone())));
    assert_eq!(done(Some(vec![1]), Edit::default()).await, Changing::Conflict(2));
    assert_eq!(done(Some(Vec::new()), Edit::default()).await, Changing::Conflict(2));
    let edit = Edit {
        groups: Some(TokenList::default()),
        owner: Some(None),
        standing: Some(Standing::Disabled),
        ..Edit::default()
    };
    let third =
        VirtualKey { groups: TokenList::default(), owner: None, standing: Standing::Disabled, revision: 3, ..second };
    assert_eq!(done(None, edit).await, Changing::Done(Box::new(third.clone())));
    assert_eq!(by_name(&store, &ci).await.unwrap(), Some(third));
    let other = change(&store, &name("other"), None, Edit::default(), ACTOR).await.unwrap();
    assert_eq!(other, Changing::NotFound);

    let some = |text: &str| Some(text.to_owned());
    let told = [
        ("allow", some("notes/read_* notes/add"), some("")),
        ("owner", None, some("ada")),
        ("expires", some("1970-01-01T00:00:09.000Z"), None),
        ("groups", some("ops"), some("")),
        ("owner", some("ada"), None),
    ];
    assert_eq!(changes(&store).await, told.map(|(field, from, to)| (field.to_owned(), from, to)));
    let events = events(&store).await;
    assert!(events.contains(&AuditEvent::KeyDisabled { name: ci }));
    assert!(matches!(events.last(), Some(AuditEvent::GrantsRevoked { .. })), "{events:?}");
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_long_list_can_be_narrowed_and_is_told_in_part() {
    let store = memory().await;
    let glob = |text: String| Glob::parse(&text).unwrap();
    let tools = (0..700).map(|number| glob(format!("{number:0>250}"))).collect();
    let allow = AllowList(vec![AllowEntry { upstream: glob("notes".to_owned()), tools }]);
    create(&store, VirtualKey { allow, ..key("ci", 5) }, ACTOR).await.unwrap();
    let narrow = Edit { allow: Some(AllowList::default()), ..Edit::default() };
    assert!(matches!(change(&store, &name("ci"), None, narrow, ACTOR).await.unwrap(), Changing::Done(_)));
    let told = changes(&store).await;
    let (from, to) = (told[0].1.as_deref().unwrap(), told[0].2.as_deref());
    assert!(from.starts_with("notes/000") && from.ends_with(" … and 689 more"), "{}", from.len());
    assert_eq!(to, Some(""));
}

#[tokio::test]
async fn of_many_changes_of_one_revision_one_counts() {
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    let mut changers = JoinSet::new();
    for number in 0..16 {
        let store = store.clone();
        let edit = Edit { owner: Some(Login::parse(&format!("user-{number}"))), ..Edit::default() };
        changers.spawn(async move { change(&store, &name("ci"), Some(vec![1]), edit, ACTOR).await.unwrap() });
    }
    let done = changers.join_all().await;
    assert_eq!(done.iter().filter(|done| **done == Changing::Conflict(2)).count(), 15);
    assert_eq!(changes(&store).await.len(), 1);
}

async fn earlier(store: &Store) -> Option<Digest> {
    by_name(store, &name("ci")).await.unwrap().unwrap().earlier.map(|earlier| earlier.digest)
}

#[tokio::test]
async fn a_key_has_one_earlier_secret_at_most_and_keeps_all_else() {
    const HOUR: Duration = Duration::from_secs(3_600);
    for place in engines().await {
        let store = &place.store;
        let ci = name("ci");
        create(store, VirtualKey { expires: None, ..key("ci", 5) }, ACTOR).await.unwrap();
        let holder = Holder::Of(Principal::Key(ci.clone()));
        let connection = connections::tests::connected(store, &holder, "notes").await;
        issue(store, 1, "a", party("ci", "app")).await;
        let turn = async |secret: &[u8], overlap| {
            let rotation = Rotation { digest: Digest::of(secret), overlap };
            match rotate(store, &ci, None, rotation, ACTOR).await.unwrap() {
                Rotating::Rotated { key, has_ended_one } => (key.digest, key.revision, has_ended_one),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(turn(b"two", HOUR).await, (Digest::of(b"two"), 2, false));
        assert_eq!(earlier(store).await, Some(Digest::of(b"ci")));
        assert_eq!(by_digest(store, Digest::of(b"ci")).await.unwrap(), None, "one secret is in the index");
        assert!(by_digest(store, Digest::of(b"two")).await.unwrap().is_some());
        assert_eq!(turn(b"three", HOUR).await, (Digest::of(b"three"), 3, true), "the first one ends");
        assert_eq!(earlier(store).await, Some(Digest::of(b"two")));
        let last = events(store).await.pop();
        assert!(matches!(last, Some(AuditEvent::KeyRotated { ended_earlier: true, earlier_until: Some(_), .. })));

        // Its time is over: it is none any more, whether or not somebody has forgotten it.
        assert_eq!(forget_earlier(store, vec![ci.clone(), name("other")]).await.unwrap(), 0, "it is good still");
        place.forward(HOUR);
        assert_eq!(end_earlier(store, &ci, None, ACTOR).await.unwrap(), Ending::None);
        assert_eq!(earlier(store).await, Some(Digest::of(b"two")));
        assert_eq!(forget_earlier(store, vec![ci.clone(), name("other")]).await.unwrap(), 1);
        assert_eq!(earlier(store).await, None);

        assert_eq!(turn(b"four", HOUR).await, (Digest::of(b"four"), 4, false), "to be forgotten is no change");
        assert_eq!(end_earlier(store, &ci, None, ACTOR).await.unwrap(), Ending::Ended);
        assert_eq!(end_earlier(store, &ci, None, ACTOR).await.unwrap(), Ending::None);
        assert_eq!(events(store).await.pop(), Some(AuditEvent::KeyEarlierEnded { name: ci.clone() }));
        assert_eq!(turn(b"five", Duration::ZERO).await, (Digest::of(b"five"), 6, false));
        assert_eq!(earlier(store).await, None);

        let there = connections::by_id(store, &connection.id).await.unwrap();
        assert_eq!(there, Some(connection), "what it connected is untouched");
        assert_eq!(grants::get(store, &grant_id(1)).await.unwrap().unwrap().end, None);
        let rotation = || Rotation { digest: Digest::of(b"x"), overlap: HOUR };
        let conflict = rotate(store, &ci, Some(vec![5]), rotation(), ACTOR).await.unwrap();
        assert_eq!(conflict, Rotating::Conflict(6));
        assert_eq!(end_earlier(store, &ci, Some(vec![5]), ACTOR).await.unwrap(), Ending::Conflict(6));
        assert_eq!(delete(store, &ci, Some(vec![5]), ACTOR).await.unwrap(), Deletion::Conflict(6));
        assert!(by_name(store, &ci).await.unwrap().is_some());
        assert_eq!(rotate(store, &name("none"), None, rotation(), ACTOR).await.unwrap(), Rotating::NotFound);
        assert_eq!(end_earlier(store, &name("none"), None, ACTOR).await.unwrap(), Ending::NotFound);
        assert_eq!(store.verify().await.unwrap(), []);
    }
}

#[tokio::test]
async fn an_unreadable_record_is_a_fault_and_not_a_miss() {
    let store = memory().await;
    create(&store, key("ci", 5), ACTOR).await.unwrap();
    store.write(|tx| tx.put(Table::Keys, b"ci", b"\x04{}")).await.unwrap();
    assert!(matches!(all(&store).await, Err(StoreError::Unreadable { table: "keys", .. })));
    let by_digest = by_digest(&store, Digest::of(b"ci")).await;
    assert!(matches!(by_digest, Err(StoreError::Unreadable { table: "keys", .. })));
}
