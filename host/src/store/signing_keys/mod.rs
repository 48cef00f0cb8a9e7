//! The keys that sign tokens, as one set with a revision.
//!
//! There are few, and each change looks at all of them: who changes the set says which revision they have seen, and gets a
//! conflict if it has moved on. Of one algorithm at most one key is active, after every transaction.

use super::changes::{Change, announce};
use super::engine::Table;
use super::sealed::{self, SealedIn};
use super::table::{Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit};
use crate::audit::{Actor, AuditEvent, SigningKeyState};
use crate::env::Timestamp;
use crate::ids::Owner;
use crate::oauth::signing::{MAX_KEYS, Refused, SigningKey, Stage};

mod record;
#[cfg(test)]
mod tests;

use record::KeyRecord;

pub(super) const SIGNING_KEYS: Typed<KeyRecord> =
    Typed { table: Table::SigningKeys, version: 1, older: &[], key: KeyRecord::key, indexes: &[], expires: None };

pub(super) const SEALED: SealedIn<KeyRecord> = SealedIn { table: &SIGNING_KEYS, fields: record::sealed };

/// Where the private part of a key is sealed. It is never replaced.
pub fn private_at(id: &str) -> sealed::Place {
    let (table, key) = (Table::SigningKeys.name(), id.as_bytes().to_vec());
    sealed::Place { owner: Owner::Deployment, table, key, field: "private", revision: 1 }
}

const REVISION: Single<u64> = Single::new("signing_keys_revision");

/// All keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    /// Counts the changes of the set. The first is 1; an empty set that never had a key has 0.
    pub revision: u64,
    /// By id.
    pub keys: Vec<SigningKey>,
}

/// A step in the life of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Publishes a new key. It is announced, whatever its stage says.
    Announce(Box<SigningKey>),
    /// Lets an announced key sign, once it may. The one that did of the same algorithm is retired, and published until
    /// then.
    Activate { id: String, predecessor_until: Timestamp },
    /// Lets a key sign no more. It stays published until then.
    Retire { id: String, until: Timestamp },
    /// Takes out a retired key whose time is over.
    Remove { id: String },
    /// Takes out a key at once, whatever it has signed: nobody can verify that any more.
    Revoke { id: String },
}

/// What came of [`transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The set has this revision now.
    Applied(u64),
    /// The set has this revision, and not the expected one.
    Conflict(u64),
    Refused(Refused),
}

/// The set as it is.
pub async fn load(store: &Store) -> Result<KeySet, StoreError> {
    store.read(load_in).await
}

fn load_in(tx: &mut ReadTx<'_>) -> Result<KeySet, StoreError> {
    let keys = SIGNING_KEYS.all(tx, MAX_KEYS)?.into_iter().map(SigningKey::try_from).collect::<Result<_, _>>()?;
    Ok(KeySet { revision: REVISION.get(tx)?.unwrap_or(0), keys })
}

/// Changes the set if it still has this revision.
pub async fn transition(
    store: &Store,
    expected: u64,
    change: KeyChange,
    actor: Actor,
) -> Result<Transition, StoreError> {
    store.write(move |tx| transition_in(tx, expected, &change, actor)).await
}

fn transition_in(
    tx: &mut WriteTx<'_>,
    expected: u64,
    change: &KeyChange,
    actor: Actor,
) -> Result<Transition, StoreError> {
    let KeySet { revision, keys } = load_in(tx)?;
    if revision != expected {
        return Ok(Transition::Conflict(revision));
    }
    let steps = match steps(&keys, change, tx.now()) {
        Ok(steps) => steps,
        Err(refused) => return Ok(Transition::Refused(refused)),
    };
    for step in &steps {
        let (key, state) = match step {
            Step::Keep(key) => (key, key.state()),
            Step::TakeOut(key) => (key, SigningKeyState::Gone),
        };
        match step {
            Step::Keep(key) => SIGNING_KEYS.put(tx, &KeyRecord::from(key))?,
            Step::TakeOut(key) => drop(SIGNING_KEYS.remove(tx, key.id.as_bytes())?),
        }
        let algorithm = key.algorithm.as_str().to_owned();
        audit::append(tx, actor, &AuditEvent::SigningKeyChanged { key: key.id.clone(), algorithm, state })?;
    }
    REVISION.put(tx, &(revision + 1))?;
    announce(tx, Change::SigningKeys)?;
    Ok(Transition::Applied(revision + 1))
}

/// What becomes of one key.
enum Step {
    Keep(SigningKey),
    TakeOut(SigningKey),
}

/// What a change makes of the set, in the order in which it happens.
fn steps(keys: &[SigningKey], change: &KeyChange, now: Timestamp) -> Result<Vec<Step>, Refused> {
    let find = |id: &str| keys.iter().find(|key| key.id == id).cloned().ok_or(Refused::NotFound);
    match change {
        KeyChange::Announce(key) => {
            let is_new = keys.len() < MAX_KEYS && key.fits() && keys.iter().all(|known| known.id != key.id);
            match &key.stage {
                Stage::Announced { .. } if is_new => {
                    Ok(vec![Step::Keep(SigningKey { created: now, ..key.as_ref().clone() })])
                }
                Stage::Announced { .. } => Err(Refused::NoRoom),
                Stage::Active { .. } | Stage::Retired { .. } => Err(Refused::WrongState),
            }
        }
        KeyChange::Activate { id, predecessor_until } => {
            let key = find(id)?.activated(now)?;
            let predecessors = keys.iter().filter(|known| known.is_active() && known.algorithm == key.algorithm);
            let retired = predecessors.map(|known| Step::Keep(known.clone().retired(*predecessor_until)));
            Ok(retired.chain([Step::Keep(key.clone())]).collect())
        }
        KeyChange::Retire { id, until } => match find(id)? {
            key if matches!(key.stage, Stage::Retired { .. }) => Err(Refused::WrongState),
            key => Ok(vec![Step::Keep(key.retired(*until))]),
        },
        KeyChange::Remove { id } => {
            let key = find(id)?;
            match key.stage {
                Stage::Retired { until } if now < until => Err(Refused::TooSoon),
                Stage::Retired { .. } => Ok(vec![Step::TakeOut(key)]),
                Stage::Announced { .. } | Stage::Active { .. } => Err(Refused::WrongState),
            }
        }
        KeyChange::Revoke { id } => Ok(vec![Step::TakeOut(find(id)?)]),
    }
}
