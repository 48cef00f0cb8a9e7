//! Leases: who does what only one of the gateways that share a store may do.
//!
//! A lease is taken for a while, by the store's clock, and renewed inside the transactions that it is for. Each taking
//! has a higher number than all before it: whoever still believes to hold a lease that somebody else has taken since
//! finds another number there, and what it was about to do does not happen. Records are kept for good, so that numbers
//! never go back; there are as many as there are names in this program.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{Table, WriteTx};
use super::table::{Typed, unreadable};
use super::{Store, StoreError};
use crate::env::Timestamp;
use crate::ids::ReplicaId;

pub(super) const LEASES: Typed<Record> = Typed {
    table: Table::Leases,
    version: 1,
    older: &[],
    key: |record| record.name.as_bytes().to_vec(),
    indexes: &[],
    expires: None,
};

/// A lease that was taken. Whether it still holds is for [`renew`] to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    name: String,
    holder: ReplicaId,
    fence: u64,
}

impl Lease {
    /// Higher than that of every lease of this name before.
    pub const fn fence(&self) -> u64 {
        self.fence
    }
}

/// What came of [`take`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taking {
    Taken(Lease),
    /// Somebody else has it, until then if it is not renewed.
    Held {
        left: Duration,
    },
}

/// Whether a lease still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Standing {
    Held,
    /// Somebody has taken it since.
    Lost,
}

/// Takes a lease for so long, unless another gateway has it. A store that is not shared has no other gateway: whoever had
/// the lease is gone.
pub async fn take(store: &Store, name: &str, time: Duration) -> Result<Taking, StoreError> {
    let (name, holder, is_shared) = (name.to_owned(), store.replica().clone(), store.is_shared());
    store
        .write(move |tx| {
            let now = tx.now();
            let known = LEASES.get(tx, name.as_bytes())?;
            if let Some(known) = &known
                && is_shared
                && known.holder != holder.as_str()
                && known.until_ms > now.as_millis()
            {
                return Ok(Taking::Held { left: Duration::from_millis(known.until_ms - now.as_millis()) });
            }
            let fence = known.map_or(0, |known| known.fence) + 1;
            let lease = Lease { name: name.clone(), holder: holder.clone(), fence };
            LEASES.put(tx, &Record::of(&lease, now.after(time)))?;
            Ok(Taking::Taken(lease))
        })
        .await
}

/// Whether a lease still holds; if so, for so long from now. In the transaction of what it is for.
pub fn renew(tx: &mut WriteTx<'_>, lease: &Lease, time: Duration) -> Result<Standing, StoreError> {
    let until = tx.now().after(time);
    end(tx, lease, until)
}

/// Gives a lease back, so that nobody has to wait for its end.
pub async fn release(store: &Store, lease: Lease) -> Result<Standing, StoreError> {
    store
        .write(move |tx| {
            let now = tx.now();
            end(tx, &lease, now)
        })
        .await
}

fn end(tx: &mut WriteTx<'_>, lease: &Lease, until: Timestamp) -> Result<Standing, StoreError> {
    match LEASES.get(tx, lease.name.as_bytes())? {
        Some(known) if known.fence == lease.fence && known.holder == lease.holder.as_str() => {
            LEASES.put(tx, &Record::of(lease, until))?;
            Ok(Standing::Held)
        }
        Some(_) => Ok(Standing::Lost),
        None => Err(unreadable(Table::Leases, "a lease that was taken is not there")),
    }
}

/// A lease as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    name: String,
    holder: String,
    fence: u64,
    until_ms: u64,
}

impl Record {
    fn of(lease: &Lease, until: Timestamp) -> Self {
        let Lease { name, holder, fence } = lease;
        Self { name: name.clone(), holder: holder.to_string(), fence: *fence, until_ms: until.as_millis() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::super::Location;
    use super::super::tests::StandingClock;
    use super::*;

    const TIME: Duration = Duration::from_secs(30);

    async fn three() -> (StandingClock, [Store; 3]) {
        let clock = StandingClock::at(1_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        (clock, [1, 2, 3].map(|number| store.as_replica(number)))
    }

    async fn taken(store: &Store) -> Lease {
        match take(store, "sweep", TIME).await.unwrap() {
            Taking::Taken(lease) => lease,
            held => panic!("{held:?}"),
        }
    }

    async fn renewed(store: &Store, lease: &Lease) -> Standing {
        let lease = lease.clone();
        store.write(move |tx| renew(tx, &lease, TIME)).await.unwrap()
    }

    #[tokio::test]
    async fn a_lease_is_one_gateways_until_it_lapses() {
        let (clock, [a, b, _]) = three().await;
        let first = taken(&a).await;
        assert_eq!(first.fence(), 1);
        assert_eq!(take(&b, "sweep", TIME).await.unwrap(), Taking::Held { left: TIME });
        assert!(matches!(take(&b, "other", TIME).await.unwrap(), Taking::Taken(_)));
        clock.advance(TIME - Duration::from_millis(1));
        assert_eq!(renewed(&a, &first).await, Standing::Held);
        clock.advance(TIME - Duration::from_millis(1));
        let left = Duration::from_millis(1);
        assert_eq!(take(&b, "sweep", TIME).await.unwrap(), Taking::Held { left });
        clock.advance(left);
        let second = taken(&b).await;
        assert_eq!(second.fence(), 2);
        assert_eq!(renewed(&a, &first).await, Standing::Lost, "it was late");
        assert_eq!(release(&a, first).await.unwrap(), Standing::Lost, "and takes nothing away");
        assert_eq!(renewed(&b, &second).await, Standing::Held);
        assert_eq!(release(&b, second.clone()).await.unwrap(), Standing::Held);
        assert_eq!(taken(&a).await.fence(), 3);
        assert_eq!(renewed(&b, &second).await, Standing::Lost);
    }

    #[tokio::test]
    async fn a_lease_that_lapsed_and_that_nobody_took_still_holds() {
        let (clock, [a, _, _]) = three().await;
        let lease = taken(&a).await;
        clock.advance(10 * TIME);
        assert_eq!(renewed(&a, &lease).await, Standing::Held);
    }

    #[tokio::test]
    async fn of_many_that_take_at_once_one_has_it() {
        let (clock, stores) = three().await;
        for round in 0..5 {
            let mut taking = JoinSet::new();
            for store in stores.clone() {
                taking.spawn(async move { take(&store, "sweep", TIME).await.unwrap() });
            }
            let outcomes = taking.join_all().await;
            let taken = outcomes.iter().filter(|outcome| matches!(outcome, Taking::Taken(_))).count();
            assert_eq!(taken, 1, "round {round}: {outcomes:?}");
            clock.advance(TIME);
        }
    }

    #[tokio::test]
    async fn where_nobody_else_can_be_the_holder_is_gone() {
        let clock = StandingClock::at(1_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        let before = taken(&store.as_replica(1)).await;
        assert_eq!(taken(&store).await.fence(), 2);
        assert_eq!(renewed(&store, &before).await, Standing::Lost);
    }
}
