//! What has changed that someone keeps a copy of: for the caches of this process and of others on the same store.
//!
//! A change is announced inside the transaction that makes it, so that revisions have no gaps and stand in the order of
//! commits. Whoever follows reads on from the revision it has seen last ([`since`]); one that is further behind than
//! [`KEPT`] begins anew. Nothing is correct only because a change was noticed soon.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::engine::{Bounds, Direction, ReadTx, Table, WriteTx};
use super::table::{Single, Typed};
use crate::env::Timestamp;

/// How long a change can be read.
pub const KEPT: Duration = Duration::from_secs(60 * 60);
/// Changes that [`since`] reads at once.
const STEP: usize = 500;

/// Counts the changes, over all of the store's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(u64);

impl Revision {
    /// How many changes there were.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Some virtual key.
    Keys,
    /// Policies were loaded anew or rolled back by an operator.
    Policies,
    /// A pin of this upstream's tools.
    Pins { upstream: String },
    /// A grant was revoked or narrowed, by its id.
    Grant { id: String },
    /// An OAuth client, by its id.
    Client { id: String },
    /// A user: role, groups, or whether they may sign in.
    User { id: String },
    /// An operator's API token.
    ApiTokens,
    /// The keys that sign tokens.
    SigningKeys,
    /// A connection of a principal to an upstream.
    Connection { principal: String, upstream: String },
    /// Upstreams that operators declare in the store.
    Upstreams,
    /// The keys of the vault.
    Vault,
}

/// What a follower learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// What has changed since, in order, and the revision to go on from. There may be more if it is full.
    Changes { changes: Vec<Change>, revision: Revision },
    /// Too much was missed: everything may have changed. Go on from this revision.
    Everything { revision: Revision },
}

pub(super) const LAST: Single<Revision> = Single::new("revision");

pub(super) const CHANGES: Typed<ChangeRecord> = Typed {
    table: Table::Changes,
    version: 1,
    older: &[],
    key: |record| record.revision.0.to_be_bytes().to_vec(),
    indexes: &[],
    expires: Some(|record| Some(Timestamp::from_millis(record.at_ms).after(KEPT))),
};

/// Tells of a change in the transaction that makes it.
pub(super) fn announce(tx: &mut WriteTx<'_>, change: Change) -> Result<(), StoreError> {
    let revision = Revision(LAST.get(tx)?.unwrap_or_default().0 + 1);
    LAST.put(tx, &revision)?;
    CHANGES.put(tx, &ChangeRecord { revision, at_ms: tx.now().as_millis(), change })
}

/// The revision of the state that this transaction reads.
pub fn revision(tx: &mut ReadTx<'_>) -> Result<Revision, StoreError> {
    Ok(LAST.get(tx)?.unwrap_or_default())
}

/// What has changed since `seen`.
pub fn since(tx: &mut ReadTx<'_>, seen: Revision) -> Result<News, StoreError> {
    let last = revision(tx)?;
    let rows = tx.range(Table::Changes, &Bounds::after(seen.0.to_be_bytes()), Direction::Forward, STEP)?;
    let records = rows.iter().map(|(_, row)| CHANGES.decode(row)).collect::<Result<Vec<_>, _>>()?;
    let is_next = records.first().map_or(last == seen, |first| first.revision.0 == seen.0 + 1);
    if !is_next {
        return Ok(News::Everything { revision: last });
    }
    let revision = records.last().map_or(seen, |record| record.revision);
    Ok(News::Changes { changes: records.into_iter().map(|record| record.change).collect(), revision })
}

/// A change as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeRecord {
    revision: Revision,
    at_ms: u64,
    change: Change,
}
