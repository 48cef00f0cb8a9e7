//! Secrets of the deployment and of other owners that are part of no other record, each sealed under a name.
//!
//! They are sealed by `vault`; here they only rest.

use serde::{Deserialize, Serialize};

use super::engine::Table;
use super::sealed::{Place, SealedField, SealedIn};
use super::table::{Typed, unreadable};
use super::{Store, StoreError, data_keys};
use crate::ids::Owner;
use crate::secret::Sealed;

/// Name of the table in a [`Place`].
const TABLE: &str = Table::VaultSecrets.name();

pub(super) const SECRETS: Typed<SecretRecord> = Typed {
    table: Table::VaultSecrets,
    version: 1,
    older: &[],
    key: |record| key_of(&record.owner, &record.name),
    indexes: &[],
    expires: None,
};

pub(super) const SEALED: SealedIn<SecretRecord> = SealedIn { table: &SECRETS, fields };

/// What came of [`put_if_absent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeping {
    Kept,
    /// There is one already, which stays.
    Existing(Sealed),
    /// What sealed it is not its owner's data key any more. It has to be sealed again.
    Stale,
}

/// What came of [`replace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    Replaced,
    /// Another revision is kept, or none.
    Changed,
    /// As [`Keeping::Stale`].
    Stale,
}

/// Where the secret of this name is, at this revision. The first one is 1.
pub fn place(owner: &Owner, name: &str, revision: u64) -> Place {
    Place { owner: owner.clone(), table: TABLE, key: key_of(&owner.to_string(), name), field: "value", revision }
}

/// Keeps a secret that was sealed for revision 1 of its place, unless there is one.
pub async fn put_if_absent(store: &Store, owner: &Owner, name: &str, sealed: Sealed) -> Result<Keeping, StoreError> {
    let record = SecretRecord { owner: owner.to_string(), name: name.to_owned(), revision: 1, sealed };
    let owner = owner.clone();
    store
        .write(move |tx| {
            if let Some(existing) = SECRETS.get(tx, &key_of(&record.owner, &record.name))? {
                return Ok(Keeping::Existing(existing.sealed));
            }
            if !data_keys::seals(tx, &owner, &record.sealed)? {
                return Ok(Keeping::Stale);
            }
            SECRETS.put(tx, &record)?;
            Ok(Keeping::Kept)
        })
        .await
}

/// Keeps a secret that was sealed for `revision` in place of the one before that.
pub async fn replace(
    store: &Store,
    owner: &Owner,
    name: &str,
    revision: u64,
    sealed: Sealed,
) -> Result<Replacement, StoreError> {
    let record = SecretRecord { owner: owner.to_string(), name: name.to_owned(), revision, sealed };
    let owner = owner.clone();
    store
        .write(move |tx| {
            let existing = SECRETS.get(tx, &key_of(&record.owner, &record.name))?;
            if existing.is_none_or(|existing| existing.revision.checked_add(1) != Some(record.revision)) {
                return Ok(Replacement::Changed);
            }
            if !data_keys::seals(tx, &owner, &record.sealed)? {
                return Ok(Replacement::Stale);
            }
            SECRETS.put(tx, &record)?;
            Ok(Replacement::Replaced)
        })
        .await
}

/// Puts a sealed value where it is told to, as whoever can write to the database does. For tests.
#[cfg(test)]
pub async fn put_anyway(
    store: &Store,
    owner: &Owner,
    name: &str,
    revision: u64,
    sealed: Sealed,
) -> Result<(), StoreError> {
    let record = SecretRecord { owner: owner.to_string(), name: name.to_owned(), revision, sealed };
    store.write(move |tx| SECRETS.put(tx, &record)).await
}

/// The secret of this name with its revision.
pub async fn get(store: &Store, owner: &Owner, name: &str) -> Result<Option<(u64, Sealed)>, StoreError> {
    let key = key_of(&owner.to_string(), name);
    store.read(move |tx| Ok(SECRETS.get(tx, &key)?.map(|record| (record.revision, record.sealed)))).await
}

/// No owner has a zero byte in it.
fn key_of(owner: &str, name: &str) -> Vec<u8> {
    [owner.as_bytes(), &[0], name.as_bytes()].concat()
}

fn fields(record: &SecretRecord) -> Result<Vec<SealedField>, StoreError> {
    let SecretRecord { owner, name, revision, sealed } = record;
    let owner = Owner::parse(owner).ok_or_else(|| unreadable(Table::VaultSecrets, "an owner is none"))?;
    Ok(vec![(place(&owner, name, *revision), sealed.clone())])
}

/// A secret as it is stored, codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretRecord {
    owner: String,
    name: String,
    revision: u64,
    sealed: Sealed,
}
