//! Upstreams that operators declare in the store. Those of the configuration file are not here.
//!
//! A declaration is JSON that whoever starts upstreams understands; here it has a name, a revision and an author. Each
//! verb is one transaction, with its audit row inside.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit::{self, ActorRecord};
use super::changes::{self, Change};
use super::connections::{self, Whose};
use super::engine::Table;
use super::table::{Cursor, Page, Single, Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::UpstreamName;

#[cfg(test)]
pub(super) mod tests;

/// Most upstreams in the store.
pub const MAX_UPSTREAMS: usize = 1_000;
/// Largest declaration, in bytes of JSON.
pub const MAX_DEFINITION_BYTES: usize = 64 * 1024;

pub(super) const UPSTREAMS: Typed<Record> = Typed {
    table: Table::Upstreams,
    version: 1,
    older: &[],
    key: |record| record.name.as_bytes().to_vec(),
    indexes: &[],
    expires: None,
};

const STORED: Single<u64> = Single::new("upstreams");

/// An upstream as an operator declared it.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    pub name: UpstreamName,
    pub definition: Value,
    pub enabled: bool,
    /// Counts the changes.
    pub revision: u64,
    pub created: Timestamp,
    pub created_by: Actor,
    pub changed: Timestamp,
    pub changed_by: Actor,
}

/// What came of [`declare`].
#[derive(Clone, Debug, PartialEq)]
pub enum Declaring {
    Declared(Box<Declaration>),
    /// In the store, or in the file.
    NameTaken,
    /// Connections are left that were made for another upstream of this name: `connections::end_all_of` ends them.
    StillEnding,
    TooLarge,
    /// There are [`MAX_UPSTREAMS`] already.
    TooMany,
}

/// What is to be different about a declaration.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    pub definition: Option<Value>,
    pub enabled: Option<bool>,
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
}

/// What came of [`withdraw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Connections to it are out of use at once, and ended by `connections::end_all_of`; until then the name is not free.
    Withdrawn,
    NotFound,
    Conflict(u64),
}

/// Declares an upstream. `in_file` are the names that the configuration file has.
pub async fn declare(
    store: &Store,
    name: UpstreamName,
    definition: Value,
    in_file: BTreeSet<UpstreamName>,
    actor: Actor,
) -> Result<Declaring, StoreError> {
    if in_file.contains(&name) {
        return Ok(Declaring::NameTaken);
    }
    let definition = definition.to_string();
    store.write(move |tx| declare_in(tx, &name, &definition, actor)).await
}

fn declare_in(
    tx: &mut WriteTx<'_>,
    name: &UpstreamName,
    definition: &str,
    actor: Actor,
) -> Result<Declaring, StoreError> {
    if definition.len() > MAX_DEFINITION_BYTES {
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
    let (now_ms, by) = (tx.now().as_millis(), ActorRecord::from(actor));
    let record = Record {
        name: name.as_str().to_owned(),
        definition: definition.to_owned(),
        enabled: true,
        revision: 1,
        created_ms: now_ms,
        created_by: by,
        changed_ms: now_ms,
        changed_by: by,
    };
    STORED.put(tx, &(stored + 1))?;
    UPSTREAMS.put(tx, &record)?;
    audit::append(tx, actor, &AuditEvent::UpstreamDeclared { upstream: name.clone(), revision: 1 })?;
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
    let (definition, enabled) = (edit.definition.map(|definition| definition.to_string()), edit.enabled);
    store.write(move |tx| change_in(tx, &name, expected, (definition.as_deref(), enabled), actor)).await
}

fn change_in(
    tx: &mut WriteTx<'_>,
    name: &UpstreamName,
    expected: Option<u64>,
    (definition, enabled): (Option<&str>, Option<bool>),
    actor: Actor,
) -> Result<Changing, StoreError> {
    let Some(before) = UPSTREAMS.get(tx, name.as_str().as_bytes())? else { return Ok(Changing::NotFound) };
    if expected.is_some_and(|expected| expected != before.revision) {
        return Ok(Changing::Conflict(before.revision));
    }
    let definition = definition.unwrap_or(&before.definition).to_owned();
    if definition.len() > MAX_DEFINITION_BYTES {
        return Ok(Changing::TooLarge);
    }
    let enabled = enabled.unwrap_or(before.enabled);
    if definition == before.definition && enabled == before.enabled {
        return Ok(Changing::Unchanged(Box::new(before.try_into()?)));
    }
    let revision = before.revision + 1;
    let (changed_ms, changed_by) = (tx.now().as_millis(), ActorRecord::from(actor));
    let after = Record { definition, enabled, revision, changed_ms, changed_by, ..before };
    UPSTREAMS.put(tx, &after)?;
    audit::append(tx, actor, &AuditEvent::UpstreamChanged { upstream: name.clone(), revision, enabled })?;
    changes::announce(tx, Change::Upstreams)?;
    Ok(Changing::Changed(Box::new(after.try_into()?)))
}

/// Takes a declaration back. With `expected`, only that of this revision.
pub async fn withdraw(
    store: &Store,
    name: &UpstreamName,
    expected: Option<u64>,
    actor: Actor,
) -> Result<Withdrawal, StoreError> {
    let name = name.clone();
    store
        .write(move |tx| {
            let key = name.as_str().as_bytes();
            let Some(record) = UPSTREAMS.get(tx, key)? else { return Ok(Withdrawal::NotFound) };
            if expected.is_some_and(|expected| expected != record.revision) {
                return Ok(Withdrawal::Conflict(record.revision));
            }
            UPSTREAMS.remove(tx, key)?;
            let stored = STORED.get(tx)?.unwrap_or(0);
            STORED.put(tx, &stored.saturating_sub(1))?;
            audit::append(tx, actor, &AuditEvent::UpstreamWithdrawn { upstream: name.clone() })?;
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

/// A declaration as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    name: String,
    /// JSON as text, so that its numbers stay as they were written.
    definition: String,
    enabled: bool,
    revision: u64,
    created_ms: u64,
    created_by: ActorRecord,
    changed_ms: u64,
    changed_by: ActorRecord,
}

impl TryFrom<Record> for Declaration {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record { name, definition, enabled, revision, created_ms, created_by, changed_ms, changed_by } = record;
        Ok(Self {
            name: UpstreamName::parse(&name).map_err(|error| unreadable(Table::Upstreams, error))?,
            definition: serde_json::from_str(&definition).map_err(|error| unreadable(Table::Upstreams, error))?,
            enabled,
            revision,
            created: Timestamp::from_millis(created_ms),
            created_by: created_by.into(),
            changed: Timestamp::from_millis(changed_ms),
            changed_by: changed_by.into(),
        })
    }
}
