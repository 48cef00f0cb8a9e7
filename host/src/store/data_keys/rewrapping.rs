//! Wrapping every data key by another key-encryption key, in batches.
//!
//! The cursor rests in the store with each batch, so that a rewrapping goes on after a restart, on any replica. It is done when
//! a pass from the beginning has found nothing more to wrap anew: what came behind the cursor meanwhile is not left behind.

use serde::{Deserialize, Serialize};

use super::{CURRENT, DATA_KEYS, DataKey, DataKeyRecord, follow, of_kek, past_kek};
use crate::audit::{Actor, AuditEvent};
use crate::ids::KekId;
use crate::secret::Sealed;
use crate::store::engine::{Bounds, Direction, Table};
use crate::store::table::{Single, unreadable};
use crate::store::{Store, StoreError, audit};

/// Data keys that one call of [`rewrap`] may put.
pub const MAX_REWRAPPED: usize = 64;

const REWRAPPING: Single<RewrappingRecord> = Single::new("vault_rewrapping");

/// How far a rewrapping has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapping {
    pub to: KekId,
    /// The row of the index that was looked at last. `None` before the first one, and at the end.
    after: Option<Vec<u8>>,
    /// Data keys that were wrapped anew so far.
    pub rewrapped: u64,
    /// How many of them before this pass.
    before: u64,
    /// Data keys that this pass could not unwrap, and that stay as they are.
    pub unreadable: u64,
    /// Data keys whose key-encryption key this pass could not reach.
    pub unreachable: u64,
    pub is_done: bool,
}

impl Rewrapping {
    const fn begin(to: KekId) -> Self {
        Self { to, after: None, rewrapped: 0, before: 0, unreadable: 0, unreachable: 0, is_done: false }
    }

    /// At the end of a pass: done, or once more from the beginning if it has wrapped any.
    fn end_of_pass(self) -> Self {
        if self.rewrapped == self.before {
            return Self { is_done: true, ..self };
        }
        Self { rewrapped: self.rewrapped, before: self.rewrapped, ..Self::begin(self.to) }
    }
}

/// Data keys to wrap anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub keys: Vec<DataKey>,
    /// How far the rewrapping is once these are through.
    pub then: Rewrapping,
}

/// Data keys of a batch that were wrapped anew, and those that could not be.
#[derive(Clone, Debug, Default)]
pub struct Wrapped {
    /// Each with how it was wrapped before.
    pub keys: Vec<(Sealed, DataKey)>,
    pub unreadable: u64,
    pub unreachable: u64,
}

/// The next data keys that are not wrapped by `to`, from where the rewrapping to it has come. An empty batch ends a pass.
pub async fn to_rewrap(store: &Store, to: &KekId) -> Result<Batch, StoreError> {
    let to = to.clone();
    store
        .read(move |tx| {
            let kept = REWRAPPING.get(tx)?.map(Rewrapping::try_from).transpose()?;
            let kept = kept.filter(|kept| kept.to == to && !kept.is_done);
            let mut then = kept.unwrap_or_else(|| Rewrapping::begin(to.clone()));
            let mut keys = Vec::new();
            while keys.len() < MAX_REWRAPPED {
                let bounds = then.after.clone().map_or_else(Bounds::all, Bounds::after);
                let rows = tx.range(Table::DataKeysByKek, &bounds, Direction::Forward, MAX_REWRAPPED - keys.len())?;
                let Some((last, _)) = rows.last() else { break };
                then.after = Some(last.clone());
                for (key, owner) in &rows {
                    if key.starts_with(&of_kek(&to)) {
                        // Those are done. On behind all of them.
                        then.after = Some(past_kek(&to));
                        break;
                    }
                    keys.push(follow(tx, owner)?);
                }
            }
            let then = if keys.is_empty() { then.end_of_pass() } else { then };
            Ok(Batch { keys, then })
        })
        .await
}

/// Keeps data keys that were wrapped anew; one that has changed since is left as it is. `then` is how far the rewrapping is
/// afterwards. Where another key-encryption key than `current` was chosen in the meantime, nothing is kept.
pub async fn rewrap(
    store: &Store,
    current: Option<&KekId>,
    wrapped: &Wrapped,
    then: &Rewrapping,
    actor: Actor,
) -> Result<Rewrapping, StoreError> {
    let Wrapped { keys, unreadable, unreachable } = wrapped;
    let keys: Vec<_> = keys.iter().map(|(before, key)| (before.clone(), DataKeyRecord::from(key))).collect();
    let (unreadable, unreachable) = (then.unreadable + unreadable, then.unreachable + unreachable);
    let (current, then) = (current.cloned(), then.clone());
    store
        .write(move |tx| {
            if CURRENT.get(tx)? != current {
                return Ok(Rewrapping { is_done: false, ..then.clone() });
            }
            let mut kept = 0;
            for (before, record) in &keys {
                let present = DATA_KEYS.get(tx, record.owner.as_bytes())?;
                let is_same = |present: DataKeyRecord| present.id == record.id && present.wrapped == *before;
                if present.is_some_and(is_same) {
                    DATA_KEYS.put(tx, record)?;
                    kept += 1;
                }
            }
            let rewrapped = then.rewrapped + kept;
            let then = Rewrapping { rewrapped, unreadable, unreachable, ..then.clone() };
            REWRAPPING.put(tx, &RewrappingRecord::from(&then))?;
            if kept > 0 {
                audit::append(tx, actor, &AuditEvent::VaultRewrapped { to: then.to.clone(), keys: kept })?;
            }
            Ok(then)
        })
        .await
}

/// How far the last rewrapping has come.
pub async fn rewrapping(store: &Store) -> Result<Option<Rewrapping>, StoreError> {
    store.read(|tx| REWRAPPING.get(tx)?.map(Rewrapping::try_from).transpose()).await
}

/// A rewrapping as it is stored, version 1. The fields with a default came later.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RewrappingRecord {
    to: String,
    after: Option<Vec<u8>>,
    rewrapped: u64,
    #[serde(default)]
    before: u64,
    unreadable: u64,
    #[serde(default)]
    unreachable: u64,
    is_done: bool,
}

impl From<&Rewrapping> for RewrappingRecord {
    fn from(rewrapping: &Rewrapping) -> Self {
        let Rewrapping { to, after, rewrapped, before, unreadable, unreachable, is_done } = rewrapping;
        Self {
            to: to.to_string(),
            after: after.clone(),
            rewrapped: *rewrapped,
            before: *before,
            unreadable: *unreadable,
            unreachable: *unreachable,
            is_done: *is_done,
        }
    }
}

impl TryFrom<RewrappingRecord> for Rewrapping {
    type Error = StoreError;

    fn try_from(record: RewrappingRecord) -> Result<Self, StoreError> {
        let RewrappingRecord { to, after, rewrapped, before, unreadable: unread, unreachable, is_done } = record;
        let to = KekId::parse(&to).map_err(|error| unreadable(Table::Meta, error))?;
        Ok(Self { to, after, rewrapped, before, unreadable: unread, unreachable, is_done })
    }
}
