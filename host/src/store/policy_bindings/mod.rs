//! Policy bindings that operators declare in the store. Those of the configuration file are not here.
//!
//! A binding is JSON that whoever loads policies understands; here it has a name, a revision and an author. Whoever
//! changes one says with which state of all of them that was tried out, so that no set is written that nobody has tried.
//! Each verb is one transaction, with its audit row inside.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit::{self, ActorRecord};
use super::changes::{self, Change, Revision};
use super::engine::Table;
use super::table::{Cursor, Page, Single, Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx, policy_modules};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::BindingName;

#[cfg(test)]
pub(super) mod tests;

/// Most bindings in the store.
pub const MAX_BINDINGS: usize = 200;
/// Largest definition, in bytes of JSON.
pub const MAX_DEFINITION_BYTES: usize = 64 * 1024;

pub(super) const BINDINGS: Typed<Record> = Typed {
    table: Table::PolicyBindings,
    version: 1,
    older: &[],
    key: |record| record.name.as_bytes().to_vec(),
    indexes: &[],
    expires: None,
};

/// In which revision of the store any of them changed last.
const LAST: Single<Revision> = Single::new("policy_bindings");
/// The highest revision that a removed binding was at. Those of the next one of its name are higher.
const REMOVED: Single<u64> = Single::new("removed_policy_bindings_revision");

/// A binding as an operator declared it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredBinding {
    pub name: BindingName,
    pub definition: Value,
    /// Counts the changes, on from those of any that was removed before.
    pub revision: u64,
    pub created: Timestamp,
    pub created_by: Actor,
    pub changed: Timestamp,
    pub changed_by: Actor,
}

/// All bindings, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredBindings {
    pub all: Vec<StoredBinding>,
    /// In which revision of the store any of them changed last.
    pub at: Revision,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub enum Edit {
    /// The binding of this name is this from now on.
    Put {
        name: BindingName,
        definition: Value,
        /// The digest of the uploaded module that it uses, if it does.
        module: Option<String>,
    },
    Remove {
        name: BindingName,
    },
}

/// What came of [`commit`].
#[derive(Clone, Debug, PartialEq)]
pub enum Committing {
    /// What is there now, and in which revision.
    Done {
        binding: Option<Box<StoredBinding>>,
        at: Revision,
    },
    /// Others have changed since.
    Moved,
    /// The module is gone.
    NoModule,
    TooLarge,
    /// There are [`MAX_BINDINGS`] already.
    TooMany,
}

/// Every binding.
pub async fn all(store: &Store) -> Result<StoredBindings, StoreError> {
    let read = |tx: &mut ReadTx<'_>| {
        let all = BINDINGS.all(tx, MAX_BINDINGS)?.into_iter().map(TryFrom::try_from).collect::<Result<_, _>>()?;
        Ok(StoredBindings { all, at: changed_at(tx)? })
    };
    store.read(read).await
}

/// In which revision any of them changed last.
pub fn changed_at(tx: &mut ReadTx<'_>) -> Result<Revision, StoreError> {
    Ok(LAST.get(tx)?.unwrap_or_default())
}

/// The binding of this name.
pub async fn get(store: &Store, name: &BindingName) -> Result<Option<StoredBinding>, StoreError> {
    let name = name.clone();
    store.read(move |tx| BINDINGS.get(tx, name.as_str().as_bytes())?.map(TryFrom::try_from).transpose()).await
}

/// A page of bindings, from the last name to the first.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<StoredBinding>, StoreError> {
    store.read(move |tx| BINDINGS.newest_first(tx, after.as_ref(), limit, |_| true)?.try_map(TryFrom::try_from)).await
}

/// Writes what was tried out with these bindings, if they are all that there are.
pub async fn commit(
    store: &Store,
    tried_with: &StoredBindings,
    edit: Edit,
    actor: Actor,
) -> Result<Committing, StoreError> {
    let (at, count) = (tried_with.at, tried_with.all.len());
    let commit = move |tx: &mut WriteTx<'_>| {
        if changed_at(tx)? != at {
            return Ok(Committing::Moved);
        }
        let binding = match &edit {
            Edit::Put { name, definition, module } => {
                match put(tx, (name, count), (&definition.to_string(), module.as_ref()), actor)? {
                    Ok(record) => Some(Box::new(record.try_into()?)),
                    Err(refused) => return Ok(refused),
                }
            }
            Edit::Remove { name } => {
                if !remove(tx, name, actor)? {
                    return Ok(Committing::Moved);
                }
                None
            }
        };
        changes::announce(tx, Change::PolicyBindings)?;
        let at = changes::revision(tx)?;
        LAST.put(tx, &at)?;
        Ok(Committing::Done { binding, at })
    };
    store.write(commit).await
}

/// The binding of this name, where there are so many now.
fn put(
    tx: &mut WriteTx<'_>,
    (name, count): (&BindingName, usize),
    (definition, module): (&str, Option<&String>),
    actor: Actor,
) -> Result<Result<Record, Committing>, StoreError> {
    if definition.len() > MAX_DEFINITION_BYTES {
        return Ok(Err(Committing::TooLarge));
    }
    if let Some(module) = module
        && !policy_modules::is_there(tx, module)?
    {
        return Ok(Err(Committing::NoModule));
    }
    let before = BINDINGS.get(tx, name.as_str().as_bytes())?;
    if before.is_none() && count >= MAX_BINDINGS {
        return Ok(Err(Committing::TooMany));
    }
    let (now_ms, by) = (tx.now().as_millis(), ActorRecord::from(actor));
    let revision = match &before {
        Some(before) => before.revision + 1,
        None => REMOVED.get(tx)?.unwrap_or(0) + 1,
    };
    let (created_ms, created_by) =
        before.as_ref().map_or((now_ms, by), |before| (before.created_ms, before.created_by));
    let after = Record {
        name: name.as_str().to_owned(),
        definition: definition.to_owned(),
        module: module.cloned(),
        revision,
        created_ms,
        created_by,
        changed_ms: now_ms,
        changed_by: by,
    };
    BINDINGS.put(tx, &after)?;
    let (binding, definition) = (name.clone(), definition.to_owned());
    let event = match before {
        Some(before) => {
            AuditEvent::PolicyBindingChanged { binding, revision, before: before.definition, after: definition }
        }
        None => AuditEvent::PolicyBound { binding, revision, definition },
    };
    audit::append(tx, actor, &event)?;
    Ok(Ok(after))
}

/// Whether there was one.
fn remove(tx: &mut WriteTx<'_>, name: &BindingName, actor: Actor) -> Result<bool, StoreError> {
    let Some(before) = BINDINGS.remove(tx, name.as_str().as_bytes())? else { return Ok(false) };
    let highest = REMOVED.get(tx)?.unwrap_or(0).max(before.revision);
    REMOVED.put(tx, &highest)?;
    audit::append(tx, actor, &AuditEvent::PolicyUnbound { binding: name.clone(), before: before.definition })?;
    Ok(true)
}

/// The bindings that use this module.
pub(super) fn using(tx: &mut ReadTx<'_>, module: &str) -> Result<Vec<BindingName>, StoreError> {
    let all = BINDINGS.all(tx, MAX_BINDINGS)?;
    let using = all.iter().filter(|record| record.module.as_deref() == Some(module));
    using.map(|record| name_of(&record.name)).collect()
}

fn name_of(name: &str) -> Result<BindingName, StoreError> {
    BindingName::parse(name).map_err(|error| unreadable(Table::PolicyBindings, error))
}

/// A binding as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    name: String,
    /// JSON as text, so that its numbers stay as they were written.
    definition: String,
    module: Option<String>,
    revision: u64,
    created_ms: u64,
    created_by: ActorRecord,
    changed_ms: u64,
    changed_by: ActorRecord,
}

impl TryFrom<Record> for StoredBinding {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record { name, definition, revision, created_ms, created_by, changed_ms, changed_by, .. } = record;
        Ok(Self {
            name: name_of(&name)?,
            definition: serde_json::from_str(&definition).map_err(|error| unreadable(Table::PolicyBindings, error))?,
            revision,
            created: Timestamp::from_millis(created_ms),
            created_by: created_by.into(),
            changed: Timestamp::from_millis(changed_ms),
            changed_by: changed_by.into(),
        })
    }
}
