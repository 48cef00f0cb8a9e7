//! Virtual keys that were created through the API or the command line. Those of the configuration file are not here.
//!
//! Each verb is one transaction, with its audit row inside. A key that is disabled or deleted loses what it had granted to
//! clients, and one that is deleted its data key: who has its name later has nothing of it. What a key is and permits is
//! `identity::key`.

use serde::{Deserialize, Serialize};

use super::changes::{Change, Revision, announce, revision};
use super::connections::{self, Whose};
use super::table::{Cursor, Index, Older, Page, Typed, unreadable};
use super::{Store, StoreError, WriteTx, audit, data_keys, engine::Table, revocations};
use crate::audit::{Actor, AuditEvent, RevocationReason};
use crate::connection::{End, Holder};
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, ManagedBy, Standing, VirtualKey};
use crate::ids::{KeyName, Owner, Principal};
use crate::secret::Digest;

/// Most keys in the store.
pub const MAX_KEYS: usize = 10_000;

pub(super) const KEYS: Typed<KeyRecord> = Typed {
    table: Table::Keys,
    version: 2,
    older: &[Older { version: 1, read: |body| serde_json::from_slice::<KeyRecord1>(body).map(KeyRecord::from) }],
    key: |record| record.name.as_bytes().to_vec(),
    indexes: &[
        Index { table: Table::KeysByDigest, key: |record| record.digest.to_vec() },
        Index { table: Table::KeysByCreation, key: |record| by_creation(record.created_ms, &record.name) },
    ],
    expires: None,
};

/// What came of [`create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    Created,
    NameTaken,
    /// Another key has the same secret, so that a caller with it would be two principals.
    SecretTaken,
    /// Connections are left that another key of this name had made: `connections::end_all_of` ends them.
    StillEnding,
    /// There are [`MAX_KEYS`] already.
    TooMany,
}

/// What came of [`set_standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandingChange {
    Changed,
    Unchanged,
    NotFound,
}

/// What came of [`delete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    NotFound,
}

/// Keeps a new key. The store takes it over: its `managed_by` becomes [`ManagedBy::Store`].
pub async fn create(store: &Store, key: VirtualKey, actor: Actor) -> Result<Creation, StoreError> {
    let record = KeyRecord::from(&key);
    store.write(move |tx| create_in(tx, &key.name, &record, actor)).await
}

fn create_in(tx: &mut WriteTx<'_>, name: &KeyName, record: &KeyRecord, actor: Actor) -> Result<Creation, StoreError> {
    if KEYS.get(tx, record.name.as_bytes())?.is_some() {
        return Ok(Creation::NameTaken);
    }
    if KEYS.find(tx, Table::KeysByDigest, &record.digest)?.is_some() {
        return Ok(Creation::SecretTaken);
    }
    if KEYS.count(tx, MAX_KEYS)? >= MAX_KEYS {
        return Ok(Creation::TooMany);
    }
    if connections::are_left(tx, &connections_of(name))? {
        return Ok(Creation::StillEnding);
    }
    KEYS.put(tx, record)?;
    audit::append(tx, actor, &AuditEvent::KeyCreated { name: name.clone() })?;
    announce(tx, Change::Keys)?;
    Ok(Creation::Created)
}

/// Enables or disables a key.
pub async fn set_standing(
    store: &Store,
    name: &KeyName,
    standing: Standing,
    actor: Actor,
) -> Result<StandingChange, StoreError> {
    let name = name.clone();
    store.write(move |tx| set_standing_in(tx, &name, standing, actor)).await
}

fn set_standing_in(
    tx: &mut WriteTx<'_>,
    name: &KeyName,
    standing: Standing,
    actor: Actor,
) -> Result<StandingChange, StoreError> {
    let Some(record) = KEYS.get(tx, name.as_str().as_bytes())? else { return Ok(StandingChange::NotFound) };
    let (standing, event) = match standing {
        Standing::Enabled => (StandingRecord::Enabled, AuditEvent::KeyEnabled { name: name.clone() }),
        Standing::Disabled => (StandingRecord::Disabled, AuditEvent::KeyDisabled { name: name.clone() }),
    };
    if record.standing == standing {
        return Ok(StandingChange::Unchanged);
    }
    KEYS.put(tx, &KeyRecord { standing, ..record })?;
    audit::append(tx, actor, &event)?;
    if standing == StandingRecord::Disabled {
        revoke_granted(tx, name, actor)?;
    }
    announce(tx, Change::Keys)?;
    Ok(StandingChange::Changed)
}

/// Deletes a key and ends its connections. Its name may be used again; the audit trail keeps both lives.
pub async fn delete(store: &Store, name: &KeyName, actor: Actor) -> Result<Deletion, StoreError> {
    let of = name.clone();
    let (deletion, mut has_more) = store.write(move |tx| delete_in(tx, &of, actor)).await?;
    while has_more {
        let of = name.clone();
        has_more = store.write(move |tx| end_more(tx, &of, actor)).await?;
    }
    Ok(deletion)
}

/// What came of it, and whether there may be more connections to end.
fn delete_in(tx: &mut WriteTx<'_>, name: &KeyName, actor: Actor) -> Result<(Deletion, bool), StoreError> {
    if KEYS.remove(tx, name.as_str().as_bytes())?.is_none() {
        // An earlier deletion may have been interrupted before its end.
        return Ok((Deletion::NotFound, connections::are_left(tx, &connections_of(name))?));
    }
    audit::append(tx, actor, &AuditEvent::KeyDeleted { name: name.clone() })?;
    revoke_granted(tx, name, actor)?;
    // Nobody can open what is sealed for the key from here on.
    data_keys::shred_in(tx, &Owner::Principal(Principal::Key(name.clone())), actor)?;
    announce(tx, Change::Keys)?;
    let ended = connections::end_some(tx, &connections_of(name), End::HolderGone, actor)?;
    Ok((Deletion::Deleted, ended.has_more))
}

/// Ends some more connections of a deleted key, unless there is a new one of this name by now.
fn end_more(tx: &mut WriteTx<'_>, name: &KeyName, actor: Actor) -> Result<bool, StoreError> {
    if KEYS.get(tx, name.as_str().as_bytes())?.is_some() {
        return Ok(false);
    }
    Ok(connections::end_some(tx, &connections_of(name), End::HolderGone, actor)?.has_more)
}

fn connections_of(name: &KeyName) -> Whose {
    Whose::Holder(Holder::Of(Principal::Key(name.clone())))
}

/// Revokes what clients were granted in the name of a key.
fn revoke_granted(tx: &mut WriteTx<'_>, name: &KeyName, actor: Actor) -> Result<(), StoreError> {
    let whose = revocations::Whose::Principal(Principal::Key(name.clone()));
    revocations::revoke_all_in(tx, &whose, RevocationReason::PrincipalGone, actor).map(drop)
}

/// Every key, by name. There are at most [`MAX_KEYS`].
pub async fn all(store: &Store) -> Result<Vec<VirtualKey>, StoreError> {
    store.read(|tx| KEYS.all(tx, MAX_KEYS)?.into_iter().map(VirtualKey::try_from).collect()).await
}

/// Every key, by name, and the revision that this is the state of.
pub async fn all_at(store: &Store) -> Result<(Vec<VirtualKey>, Revision), StoreError> {
    store
        .read(|tx| {
            let at = revision(tx)?;
            let keys = KEYS.all(tx, MAX_KEYS)?.into_iter().map(VirtualKey::try_from).collect::<Result<_, _>>()?;
            Ok((keys, at))
        })
        .await
}

/// A page of keys, newest first.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<VirtualKey>, StoreError> {
    store
        .read(move |tx| {
            KEYS.newest_first_by(tx, Table::KeysByCreation, after.as_ref(), limit)?.try_map(TryFrom::try_from)
        })
        .await
}

/// The key of this name.
pub async fn by_name(store: &Store, name: &KeyName) -> Result<Option<VirtualKey>, StoreError> {
    let name = name.clone();
    store.read(move |tx| KEYS.get(tx, name.as_str().as_bytes())?.map(TryFrom::try_from).transpose()).await
}

/// The key whose secret has this digest.
pub async fn by_digest(store: &Store, digest: Digest) -> Result<Option<VirtualKey>, StoreError> {
    store
        .read(move |tx| KEYS.find(tx, Table::KeysByDigest, digest.as_bytes())?.map(TryFrom::try_from).transpose())
        .await
}

fn by_creation(created_ms: u64, name: &str) -> Vec<u8> {
    [&created_ms.to_be_bytes(), name.as_bytes()].concat()
}

/// A key as it is stored, codec version 2.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRecord {
    name: String,
    digest: [u8; 32],
    allow: Vec<AllowRecord>,
    scopes: Vec<String>,
    groups: Vec<String>,
    created_ms: u64,
    expires_ms: Option<u64>,
    standing: StandingRecord,
}

/// Codec version 1: keys had neither scopes nor groups.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRecord1 {
    name: String,
    digest: [u8; 32],
    allow: Vec<AllowRecord>,
    created_ms: u64,
    expires_ms: Option<u64>,
    standing: StandingRecord,
}

impl From<KeyRecord1> for KeyRecord {
    fn from(record: KeyRecord1) -> Self {
        let KeyRecord1 { name, digest, allow, created_ms, expires_ms, standing } = record;
        let (scopes, groups) = (Vec::new(), Vec::new());
        Self { name, digest, allow, scopes, groups, created_ms, expires_ms, standing }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowRecord {
    upstream: String,
    tools: Vec<String>,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum StandingRecord {
    Enabled,
    Disabled,
}

impl From<&VirtualKey> for KeyRecord {
    fn from(key: &VirtualKey) -> Self {
        // Whatever is in the store is managed by it. Only a file says who owns a key.
        let VirtualKey { name, digest, allow, scopes, groups, owner: _, created, expires, standing, managed_by: _ } =
            key;
        Self {
            name: name.as_str().to_owned(),
            digest: *digest.as_bytes(),
            allow: allow.0.iter().map(AllowRecord::from).collect(),
            scopes: scopes.to_vec(),
            groups: groups.to_vec(),
            created_ms: created.as_millis(),
            expires_ms: expires.map(Timestamp::as_millis),
            standing: match standing {
                Standing::Enabled => StandingRecord::Enabled,
                Standing::Disabled => StandingRecord::Disabled,
            },
        }
    }
}

impl From<&AllowEntry> for AllowRecord {
    fn from(entry: &AllowEntry) -> Self {
        let AllowEntry { upstream, tools } = entry;
        Self {
            upstream: upstream.as_str().to_owned(),
            tools: tools.iter().map(|tool| tool.as_str().to_owned()).collect(),
        }
    }
}

impl TryFrom<KeyRecord> for VirtualKey {
    type Error = StoreError;

    fn try_from(record: KeyRecord) -> Result<Self, StoreError> {
        let KeyRecord { name, digest, allow, scopes, groups, created_ms, expires_ms, standing } = record;
        let tokens = |list| TokenList::parse(list).map_err(|(_, error)| unreadable(Table::Keys, error));
        Ok(Self {
            name: KeyName::parse(&name).map_err(|error| unreadable(Table::Keys, error))?,
            digest: Digest::from_bytes(digest),
            allow: AllowList(allow.into_iter().map(AllowEntry::try_from).collect::<Result<_, _>>()?),
            scopes: tokens(scopes)?,
            groups: tokens(groups)?,
            owner: None,
            created: Timestamp::from_millis(created_ms),
            expires: expires_ms.map(Timestamp::from_millis),
            standing: match standing {
                StandingRecord::Enabled => Standing::Enabled,
                StandingRecord::Disabled => Standing::Disabled,
            },
            managed_by: ManagedBy::Store,
        })
    }
}

impl TryFrom<AllowRecord> for AllowEntry {
    type Error = StoreError;

    fn try_from(record: AllowRecord) -> Result<Self, StoreError> {
        let AllowRecord { upstream, tools } = record;
        let glob =
            |pattern: &String| Glob::parse(pattern).ok_or_else(|| unreadable(Table::Keys, "a pattern is invalid"));
        Ok(Self { upstream: glob(&upstream)?, tools: tools.iter().map(glob).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::task::JoinSet;

    use super::super::oauth_testing::{engines, grant_id, issue, party};
    use super::super::tests::memory;
    use super::super::users::tests::{anybody, data_key};
    use super::super::verify::DiscrepancyKind;
    use super::super::{flows, grants};
    use super::*;
    use crate::audit::OperatorProof;
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
            allow: AllowList(vec![AllowEntry { upstream: glob("notes"), tools: vec![glob("read_*"), glob("add")] }]),
            scopes: TokenList::parse(vec!["read".to_owned(), "notes:write".to_owned()]).unwrap(),
            groups: TokenList::parse(vec!["ops".to_owned()]).unwrap(),
            owner: None,
            created: Timestamp::from_millis(created_ms),
            expires: Some(Timestamp::from_millis(9_000)),
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
        }
    }

    async fn events(store: &Store) -> Vec<AuditEvent> {
        let page = audit::list(store, None, 200).await.unwrap();
        page.items.into_iter().rev().map(|row| row.entry.event).collect()
    }

    #[tokio::test]
    async fn a_key_comes_back_as_it_was_given() {
        let store = memory().await;
        assert_eq!(create(&store, key("ci", 5), ACTOR).await.unwrap(), Creation::Created);
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
        assert_eq!(events(&store).await, [AuditEvent::KeyCreated { name: name("ci") }]);
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
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Creation::Created).count(), 1);
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
        assert_eq!(delete(&store, &ci, ACTOR).await.unwrap(), Deletion::Deleted);
        assert_eq!(delete(&store, &ci, ACTOR).await.unwrap(), Deletion::NotFound);
        assert_eq!(set_standing(&store, &ci, Standing::Enabled, ACTOR).await.unwrap(), StandingChange::NotFound);
        assert_eq!(by_digest(&store, Digest::of(b"ci")).await.unwrap(), None);
        let revoked =
            AuditEvent::GrantsRevoked { of: "principal:key:ci".to_owned(), reason: RevocationReason::PrincipalGone };
        assert_eq!(
            events(&store).await,
            [
                AuditEvent::KeyCreated { name: ci.clone() },
                AuditEvent::KeyDisabled { name: ci.clone() },
                revoked.clone(),
                AuditEvent::KeyEnabled { name: ci.clone() },
                AuditEvent::KeyDeleted { name: ci.clone() },
                revoked,
            ]
        );
        assert_eq!(store.verify().await.unwrap(), []);
        assert_eq!(create(&store, key("ci", 7), ACTOR).await.unwrap(), Creation::Created);
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

            assert_eq!(delete(store, &name("ci"), ACTOR).await.unwrap(), Deletion::Deleted);
            let left = connections::list(store, connections::Filter::default(), anybody, None, 9).await.unwrap();
            assert_eq!(left.items, []);
            assert_eq!(flows::get(store, flow.state).await.unwrap(), None);
            assert_eq!(data_keys::find(store, &owner).await.unwrap().key, None);
            let end = async |number| grants::get(store, &grant_id(number)).await.unwrap().unwrap().end;
            assert_eq!((end(1).await, end(2).await), (Some(Gone::Revoked), None));

            assert_eq!(create(store, key("ci", 7), ACTOR).await.unwrap(), Creation::Created);
            assert_eq!(end(1).await, Some(Gone::Revoked));
            place.forward(std::time::Duration::from_secs(1));
            issue(store, 3, "c", party("ci", "app")).await;
            assert_eq!(end(3).await, None);
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
        assert_eq!(delete(&store, &name("ci"), ACTOR).await.unwrap(), Deletion::NotFound);
        assert_eq!(create(&store, key("ci", 5), ACTOR).await.unwrap(), Creation::Created);
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
        delete(&store, &name("d"), ACTOR).await.unwrap();
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
        delete(&store, &name("k17"), ACTOR).await.unwrap();
        assert_eq!(create(&store, key("one-more", 2), ACTOR).await.unwrap(), Creation::Created);
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
        let disabled = VirtualKey { standing: Standing::Disabled, ..without };
        assert_eq!(all(&store).await.unwrap(), [disabled]);
    }

    #[tokio::test]
    async fn an_unreadable_record_is_a_fault_and_not_a_miss() {
        let store = memory().await;
        create(&store, key("ci", 5), ACTOR).await.unwrap();
        store.write(|tx| tx.put(Table::Keys, b"ci", b"\x03{}")).await.unwrap();
        assert!(matches!(all(&store).await, Err(StoreError::Unreadable { table: "keys", .. })));
        let by_digest = by_digest(&store, Digest::of(b"ci")).await;
        assert!(matches!(by_digest, Err(StoreError::Unreadable { table: "keys", .. })));
    }
}
