//! Upstreams that operators declare in the store. Those of the configuration file are not here.
//!
//! A declaration is JSON that whoever starts upstreams understands; here it has a name, a revision and an author. Secrets
//! that it refers to rest sealed beside it, and are gone with it. Each verb is one transaction, with its audit row inside.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit::{self, ActorRecord};
use super::changes::{self, Change};
use super::connections::{self, Whose};
use super::engine::Table;
use super::sealed::{Place, SealedField, SealedIn};
use super::table::{Cursor, Older, Page, Single, Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx, data_keys};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::{Owner, UpstreamName};
use crate::secret::Sealed;

#[cfg(test)]
pub(super) mod tests;
mod told;

/// Most upstreams in the store.
pub const MAX_UPSTREAMS: usize = 1_000;
/// Largest declaration, in bytes of JSON.
pub const MAX_DEFINITION_BYTES: usize = 64 * 1024;
/// Most secrets of one declaration, and the most bytes of them as they are sealed.
pub const MAX_SECRETS: usize = 64;
const MAX_SEALED_BYTES: usize = 96 * 1024;

pub(super) const UPSTREAMS: Typed<Record> = Typed {
    table: Table::Upstreams,
    version: 2,
    older: &[Older { version: 1, read: |body| serde_json::from_slice::<Record1>(body).map(Record::from) }],
    key: |record| record.name.as_bytes().to_vec(),
    indexes: &[],
    expires: None,
};

pub(super) const SEALED: SealedIn<Record> = SealedIn { table: &UPSTREAMS, fields };

const STORED: Single<u64> = Single::new("upstreams");
/// The highest revision that a withdrawn declaration was at. Those of the next one of its name are higher, so that nothing
/// that was said of the one is taken for the other.
const WITHDRAWN: Single<u64> = Single::new("withdrawn_upstreams_revision");

/// An upstream as an operator declared it.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    pub name: UpstreamName,
    pub definition: Value,
    /// By the ids that the definition has, each sealed for its [`place`].
    pub secrets: BTreeMap<String, Sealed>,
    pub enabled: bool,
    /// Counts the changes, on from those of any that was withdrawn before.
    pub revision: u64,
    pub created: Timestamp,
    pub created_by: Actor,
    pub changed: Timestamp,
    pub changed_by: Actor,
}

/// What an operator declares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    pub definition: Value,
    pub secrets: BTreeMap<String, Sealed>,
}

/// What came of [`declare`].
#[derive(Clone, Debug, PartialEq)]
pub enum Declaring {
    Declared(Box<Declaration>),
    NameTaken,
    /// Connections are left that were made for another upstream of this name: `connections::end_all_of` ends them.
    StillEnding,
    TooLarge,
    /// There are [`MAX_UPSTREAMS`] already.
    TooMany,
    /// What sealed a secret is not its owner's data key any more. It has to be sealed again.
    Stale,
}

/// What is to be different about a declaration.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    pub content: Option<Content>,
    pub enabled: Option<bool>,
    /// Whether nobody has tried if what it comes to works.
    pub unchecked: bool,
    /// When the one that is meant was declared: an earlier one of its name may have had the same revision.
    pub created: Option<Timestamp>,
}

/// What came of [`change`].
#[derive(Clone, Debug, PartialEq)]
pub enum Changing {
    Changed(Box<Declaration>),
    Unchanged(Box<Declaration>),
    NotFound,
    /// Somebody else was faster: the declaration has this revision.
    Conflict(u64),
    TooLarge,
    /// As [`Declaring::Stale`].
    Stale,
}

/// What came of [`withdraw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Connections to it are out of use at once, and ended by `connections::end_all_of`; until then the name is not free.
    Withdrawn,
    NotFound,
    Conflict(u64),
}

/// Where the secret with this id is. None is ever replaced: another value has another id.
pub fn place(upstream: &UpstreamName, id: &str) -> Place {
    place_of(upstream.as_str(), id)
}

fn place_of(upstream: &str, id: &str) -> Place {
    let key = [upstream.as_bytes(), &[0], id.as_bytes()].concat();
    Place { owner: Owner::Deployment, table: Table::Upstreams.name(), key, field: "secret", revision: 1 }
}

/// Declares an upstream. `unchecked` says that nobody has tried if it works.
pub async fn declare(
    store: &Store,
    name: UpstreamName,
    content: Content,
    unchecked: bool,
    actor: Actor,
) -> Result<Declaring, StoreError> {
    let content = Written::from(content);
    store.write(move |tx| declare_in(tx, &name, &content, unchecked, actor)).await
}

fn declare_in(
    tx: &mut WriteTx<'_>,
    name: &UpstreamName,
    content: &Written,
    unchecked: bool,
    actor: Actor,
) -> Result<Declaring, StoreError> {
    if content.is_too_large() {
        return Ok(Declaring::TooLarge);
    }
    let stored = STORED.get(tx)?.unwrap_or(0);
    if UPSTREAMS.get(tx, name.as_str().as_bytes())?.is_some() {
        return Ok(Declaring::NameTaken);
    }
    if stored >= MAX_UPSTREAMS as u64 {
        return Ok(Declaring::TooMany);
    }
    // What was given to another server is not shown to this one.
    if connections::are_left(tx, &Whose::Upstream(name.clone()))? {
        return Ok(Declaring::StillEnding);
    }
    if content.is_stale(tx)? {
        return Ok(Declaring::Stale);
    }
    let (now_ms, by) = (tx.now().as_millis(), ActorRecord::from(actor));
    let revision = WITHDRAWN.get(tx)?.unwrap_or(0) + 1;
    let record = Record {
        name: name.as_str().to_owned(),
        definition: content.definition.clone(),
        secrets: content.secrets.clone(),
        enabled: true,
        revision,
        created_ms: now_ms,
        created_by: by,
        changed_ms: now_ms,
        changed_by: by,
    };
    STORED.put(tx, &(stored + 1))?;
    UPSTREAMS.put(tx, &record)?;
    let changes = told::changes(None, Some(&record.definition));
    audit::append(tx, actor, &AuditEvent::UpstreamDeclared { upstream: name.clone(), revision, unchecked, changes })?;
    changes::announce(tx, Change::Upstreams)?;
    Ok(Declaring::Declared(Box::new(record.try_into()?)))
}

/// Changes a declaration. With `expected`, only that of this revision.
pub async fn change(
    store: &Store,
    name: &UpstreamName,
    expected: Option<u64>,
    edit: Edit,
    actor: Actor,
) -> Result<Changing, StoreError> {
    let name = name.clone();
    let Edit { content, enabled, unchecked, created } = edit;
    let content = content.map(Written::from);
    let edit = move |tx: &mut WriteTx<'_>| {
        let edit = WrittenEdit { content: content.as_ref(), enabled, unchecked };
        change_in(tx, &name, (expected, created), &edit, actor)
    };
    store.write(edit).await
}

/// An [`Edit`] as it is written down.
struct WrittenEdit<'a> {
    content: Option<&'a Written>,
    enabled: Option<bool>,
    unchecked: bool,
}

fn change_in(
    tx: &mut WriteTx<'_>,
    name: &UpstreamName,
    (expected, created): (Option<u64>, Option<Timestamp>),
    edit: &WrittenEdit<'_>,
    actor: Actor,
) -> Result<Changing, StoreError> {
    let Some(before) = UPSTREAMS.get(tx, name.as_str().as_bytes())? else { return Ok(Changing::NotFound) };
    let is_other = created.is_some_and(|created| created.as_millis() != before.created_ms);
    if is_other || expected.is_some_and(|expected| expected != before.revision) {
        return Ok(Changing::Conflict(before.revision));
    }
    let enabled = edit.enabled.unwrap_or(before.enabled);
    let content = edit.content.filter(|content| content.definition != before.definition);
    if content.is_none() && enabled == before.enabled {
        return Ok(Changing::Unchanged(Box::new(before.try_into()?)));
    }
    if content.is_some_and(Written::is_too_large) {
        return Ok(Changing::TooLarge);
    }
    if content.map_or(Ok(false), |content| content.is_stale(tx))? {
        return Ok(Changing::Stale);
    }
    let unchecked = edit.unchecked;
    let (definition, secrets) = match content {
        Some(content) => (content.definition.clone(), content.secrets.clone()),
        None => (before.definition.clone(), before.secrets.clone()),
    };
    let revision = before.revision + 1;
    let (changed_ms, changed_by) = (tx.now().as_millis(), ActorRecord::from(actor));
    let mut changes = told::changes(Some(&before.definition), Some(&definition));
    changes.extend(told::switched(before.enabled, enabled));
    let after = Record { definition, secrets, enabled, revision, changed_ms, changed_by, ..before };
    UPSTREAMS.put(tx, &after)?;
    let upstream = name.clone();
    audit::append(tx, actor, &AuditEvent::UpstreamChanged { upstream, revision, enabled, unchecked, changes })?;
    changes::announce(tx, Change::Upstreams)?;
    Ok(Changing::Changed(Box::new(after.try_into()?)))
}

/// A [`Content`] as it is written down.
struct Written {
    definition: String,
    secrets: BTreeMap<String, Sealed>,
}

impl From<Content> for Written {
    fn from(content: Content) -> Self {
        let Content { definition, secrets } = content;
        Self { definition: definition.to_string(), secrets }
    }
}

impl Written {
    fn is_too_large(&self) -> bool {
        let sealed: usize = self.secrets.iter().map(|(id, sealed)| id.len() + sealed.as_bytes().len()).sum();
        self.definition.len() > MAX_DEFINITION_BYTES || self.secrets.len() > MAX_SECRETS || sealed > MAX_SEALED_BYTES
    }

    fn is_stale(&self, tx: &mut ReadTx<'_>) -> Result<bool, StoreError> {
        for sealed in self.secrets.values() {
            if !data_keys::seals(tx, &Owner::Deployment, sealed)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Takes a declaration back, if it is at one of the revisions `seen`, or at any.
pub async fn withdraw(
    store: &Store,
    name: &UpstreamName,
    seen: Option<Vec<u64>>,
    actor: Actor,
) -> Result<Withdrawal, StoreError> {
    let name = name.clone();
    store
        .write(move |tx| {
            let key = name.as_str().as_bytes();
            let Some(record) = UPSTREAMS.get(tx, key)? else { return Ok(Withdrawal::NotFound) };
            if seen.as_ref().is_some_and(|seen| !seen.contains(&record.revision)) {
                return Ok(Withdrawal::Conflict(record.revision));
            }
            UPSTREAMS.remove(tx, key)?;
            let highest = WITHDRAWN.get(tx)?.unwrap_or(0).max(record.revision);
            WITHDRAWN.put(tx, &highest)?;
            let stored = STORED.get(tx)?.unwrap_or(0);
            STORED.put(tx, &stored.saturating_sub(1))?;
            let changes = told::changes(Some(&record.definition), None);
            audit::append(tx, actor, &AuditEvent::UpstreamWithdrawn { upstream: name.clone(), changes })?;
            changes::announce(tx, Change::Upstreams)?;
            Ok(Withdrawal::Withdrawn)
        })
        .await
}

/// The declaration of this name.
pub async fn get(store: &Store, name: &UpstreamName) -> Result<Option<Declaration>, StoreError> {
    let name = name.clone();
    store.read(move |tx| UPSTREAMS.get(tx, name.as_str().as_bytes())?.map(TryFrom::try_from).transpose()).await
}

/// The ids of those among these secrets that were sealed by a data key which is not there any more.
pub async fn lost(store: &Store, secrets: BTreeMap<String, Sealed>) -> Result<BTreeSet<String>, StoreError> {
    store
        .read(move |tx| {
            let mut lost = BTreeSet::new();
            for (id, sealed) in &secrets {
                if !data_keys::seals(tx, &Owner::Deployment, sealed)? {
                    lost.insert(id.clone());
                }
            }
            Ok(lost)
        })
        .await
}

/// When an upstream was declared, if the store has it.
pub(super) fn declared_in(tx: &mut ReadTx<'_>, name: &UpstreamName) -> Result<Option<Timestamp>, StoreError> {
    let record = UPSTREAMS.get(tx, name.as_str().as_bytes())?;
    Ok(record.map(|record| Timestamp::from_millis(record.created_ms)))
}

/// Every declaration, by name, and the revision of the store that they are of. There are at most [`MAX_UPSTREAMS`].
pub async fn all(store: &Store) -> Result<(Vec<Declaration>, changes::Revision), StoreError> {
    store
        .read(|tx| {
            let all = UPSTREAMS.all(tx, MAX_UPSTREAMS)?.into_iter().map(TryFrom::try_from).collect::<Result<_, _>>()?;
            Ok((all, changes::revision(tx)?))
        })
        .await
}

/// A page of declarations, from the last name to the first.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<Declaration>, StoreError> {
    store.read(move |tx| UPSTREAMS.newest_first(tx, after.as_ref(), limit, |_| true)?.try_map(TryFrom::try_from)).await
}

#[expect(clippy::unnecessary_wraps, reason = "what other tables say of their records may fail")]
fn fields(record: &Record) -> Result<Vec<SealedField>, StoreError> {
    Ok(record.secrets.iter().map(|(id, sealed)| (place_of(&record.name, id), sealed.clone())).collect())
}

/// A declaration as it is stored, codec version 2.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    name: String,
    /// JSON as text, so that its numbers stay as they were written.
    definition: String,
    secrets: BTreeMap<String, Sealed>,
    enabled: bool,
    revision: u64,
    created_ms: u64,
    created_by: ActorRecord,
    changed_ms: u64,
    changed_by: ActorRecord,
}

/// Codec version 1, without secrets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record1 {
    name: String,
    definition: String,
    enabled: bool,
    revision: u64,
    created_ms: u64,
    created_by: ActorRecord,
    changed_ms: u64,
    changed_by: ActorRecord,
}

impl From<Record1> for Record {
    fn from(record: Record1) -> Self {
        let Record1 { name, definition, enabled, revision, created_ms, created_by, changed_ms, changed_by } = record;
        let secrets = BTreeMap::new();
        Self { name, definition, secrets, enabled, revision, created_ms, created_by, changed_ms, changed_by }
    }
}

impl TryFrom<Record> for Declaration {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record { name, definition, secrets, enabled, revision, created_ms, created_by, changed_ms, changed_by } =
            record;
        Ok(Self {
            name: UpstreamName::parse(&name).map_err(|error| unreadable(Table::Upstreams, error))?,
            definition: serde_json::from_str(&definition).map_err(|error| unreadable(Table::Upstreams, error))?,
            secrets,
            enabled,
            revision,
            created: Timestamp::from_millis(created_ms),
            created_by: created_by.into(),
            changed: Timestamp::from_millis(changed_ms),
            changed_by: changed_by.into(),
        })
    }
}
