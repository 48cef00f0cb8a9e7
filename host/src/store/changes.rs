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
use crate::ids::ReplicaId;

/// How long a change can be read.
pub const KEPT: Duration = Duration::from_secs(60 * 60);
/// Changes that [`since`] reads at once.
pub(super) const STEP: usize = 500;

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
    /// An operator had policies loaded anew or rolled back. Who did it has done it already.
    Policies { by: ReplicaId, act: PolicyAct },
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
    /// Policy bindings that operators declare in the store.
    PolicyBindings,
    /// The keys of the vault.
    Vault,
    /// An owner's data key in the vault was destroyed.
    DataKey { owner: String },
    /// All that was granted to someone until now was revoked at once ([`super::revocations`]).
    Watermark { of: String },
}

/// What an operator did about policies, for those who are to do the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyAct {
    /// Everyone reads the files of their own again.
    Reload,
    /// The policies with this digest come into force again. Numbers of generations are everyone's own.
    RollBack { set: String },
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
/// What was announced last of policies, for those who have missed it.
const LAST_POLICIES: Single<(Revision, ReplicaId, PolicyAct)> = Single::new("policies");

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
    if let Change::Policies { by, act } = &change {
        LAST_POLICIES.put(tx, &(revision, by.clone(), act.clone()))?;
    }
    CHANGES.put(tx, &ChangeRecord { revision, at_ms: tx.now().as_millis(), change })
}

/// The revision of the state that this transaction reads.
pub fn revision(tx: &mut ReadTx<'_>) -> Result<Revision, StoreError> {
    Ok(LAST.get(tx)?.unwrap_or_default())
}

/// What an operator did last about policies, in which revision and through whom.
pub fn last_policies(tx: &mut ReadTx<'_>) -> Result<Option<(Revision, ReplicaId, PolicyAct)>, StoreError> {
    LAST_POLICIES.get(tx)
}

/// What has changed since `seen`.
pub fn since(tx: &mut ReadTx<'_>, seen: Revision) -> Result<News, StoreError> {
    let last = revision(tx)?;
    let rows = tx.range(Table::Changes, &Bounds::after(seen.0.to_be_bytes()), Direction::Forward, STEP)?;
    let records = rows.iter().map(|(_, row)| CHANGES.decode(row)).collect::<Result<Vec<_>, _>>()?;
    // What is kept has no gaps: whether the first one is the next says whether any is missing.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sweeper::sweep;
    use super::super::tests::{StandingClock, memory};
    use super::super::{Location, Store};
    use super::*;

    fn grant(number: u64) -> Change {
        Change::Grant { id: number.to_string() }
    }

    async fn news(store: &Store, seen: u64) -> News {
        store.read(move |tx| since(tx, Revision(seen))).await.unwrap()
    }

    /// Reads on from `seen` as a follower does, to the end: what it learns, and whether it had to begin anew.
    async fn follow(store: &Store, mut seen: u64) -> (Vec<Change>, bool, u64) {
        let (mut all, mut anew) = (Vec::new(), false);
        loop {
            match news(store, seen).await {
                News::Changes { changes, revision } if changes.is_empty() => {
                    assert_eq!(revision, Revision(seen));
                    return (all, anew, seen);
                }
                News::Changes { changes, revision } => {
                    assert_eq!(revision.0, seen + changes.len() as u64, "there are no gaps");
                    all.extend(changes);
                    seen = revision.0;
                }
                News::Everything { revision } => (anew, seen) = (true, revision.0),
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Happening {
        /// One transaction announces so many changes, and is committed or not.
        Write { changes: usize, commits: bool },
        /// Time passes, and what is too old is forgotten.
        Pass { minutes: u64 },
        /// This follower reads on.
        Follow { who: usize },
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            4 => (1_usize..4, any::<bool>()).prop_map(|(changes, commits)| Happening::Write { changes, commits }),
            1 => (0_u64..50).prop_map(|minutes| Happening::Pass { minutes }),
            3 => (0_usize..3).prop_map(|who| Happening::Follow { who }),
        ]
    }

    async fn act(happenings: Vec<Happening>) {
        let clock = StandingClock::at(1_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        // Everything that was committed, with when; each follower's place in it.
        let (mut committed, mut places): (Vec<(u64, Timestamp)>, [usize; 3]) = (Vec::new(), [0; 3]);
        let mut next = 0;
        for happening in happenings {
            let now = clock.env().now();
            match happening {
                Happening::Write { changes, commits } => {
                    let numbers: Vec<u64> = (next..).take(changes).collect();
                    next += changes as u64;
                    let told = numbers.clone();
                    let write = store.write(move |tx| {
                        told.iter().try_for_each(|number| announce(tx, grant(*number)))?;
                        if commits { Ok(()) } else { Err(StoreError::Busy) }
                    });
                    assert_eq!(write.await.is_ok(), commits);
                    if commits {
                        committed.extend(numbers.into_iter().map(|number| (number, now)));
                    }
                }
                Happening::Pass { minutes } => {
                    clock.advance(Duration::from_secs(60 * minutes));
                    sweep(&store).await;
                }
                Happening::Follow { who } => {
                    let place = places[who];
                    let (learnt, anew, seen) = follow(&store, place as u64).await;
                    let missed: Vec<Change> = committed[place..].iter().map(|(number, _)| grant(*number)).collect();
                    let is_behind = committed[place..].first().is_some_and(|(_, at)| at.after(KEPT) <= now);
                    if anew {
                        assert!(is_behind, "nothing was forgotten that it missed");
                    } else {
                        assert_eq!(learnt, missed, "in the order of commits");
                    }
                    places[who] = committed.len();
                    assert_eq!(seen, committed.len() as u64);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whoever_follows_misses_nothing_without_being_told(happenings in proptest::collection::vec(happening(), 1..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(act(happenings));
        }
    }

    #[tokio::test]
    async fn concurrent_announcements_have_no_gaps_and_are_read_in_steps() {
        let store = memory().await;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..40_u64 {
            let store = store.clone();
            writers.spawn(async move {
                for step in 0..30 {
                    store.write(move |tx| announce(tx, grant(writer * 100 + step))).await.unwrap();
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        let News::Changes { changes, revision } = news(&store, 0).await else { panic!("all is kept") };
        assert_eq!((changes.len(), revision), (STEP, Revision(STEP as u64)));
        let (all, anew, seen) = follow(&store, 0).await;
        assert_eq!((all.len(), anew, seen), (1_200, false, 1_200));
        for writer in 0..40 {
            let own = (0..30).map(|step| grant(writer * 100 + step));
            let places: Vec<usize> = own.map(|own| all.iter().position(|change| *change == own).unwrap()).collect();
            assert!(places.is_sorted(), "each writer's changes stand in the order of its commits");
        }
    }

    #[tokio::test]
    async fn who_has_seen_more_than_there_is_begins_anew() {
        // As after a restored backup.
        let store = memory().await;
        store.write(|tx| announce(tx, grant(1))).await.unwrap();
        assert_eq!(news(&store, 1).await, News::Changes { changes: Vec::new(), revision: Revision(1) });
        assert_eq!(news(&store, 2).await, News::Everything { revision: Revision(1) });
        assert_eq!(news(&store, 0).await, News::Changes { changes: vec![grant(1)], revision: Revision(1) });
    }

    #[tokio::test]
    async fn what_was_done_last_about_policies_is_remembered() {
        let store = memory().await;
        let by = store.replica().clone();
        assert_eq!(store.read(last_policies).await.unwrap(), None);
        for act in [PolicyAct::Reload, PolicyAct::RollBack { set: "ab".to_owned() }] {
            let change = Change::Policies { by: by.clone(), act };
            store.write(move |tx| announce(tx, change.clone())).await.unwrap();
        }
        let expected = (Revision(2), by, PolicyAct::RollBack { set: "ab".to_owned() });
        assert_eq!(store.read(last_policies).await.unwrap(), Some(expected));
    }
}
