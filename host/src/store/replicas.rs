//! The gateways that share this store: who they are and where the others reach them.
//!
//! A replica renews its record every few seconds; one that does not is gone, and its record is forgotten. Nothing is
//! correct only because a record is right: whoever reaches another process at an address learns so from that process.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{ReadTx, Table};
use super::table::Typed;
use super::{Store, StoreError};
use crate::env::Timestamp;
use crate::ids::ReplicaId;

/// How often a replica says that it is there.
pub const RENEW: Duration = Duration::from_secs(4);
/// How long a replica counts as there after it said so last.
pub const LIFE: Duration = Duration::from_secs(15);
/// Replicas of one store. More is a mistake somewhere.
const MAX_REPLICAS: usize = 256;

/// A replica as the others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub id: ReplicaId,
    /// `HOST:PORT`, if others can forward to it.
    pub address: Option<String>,
    pub started: Timestamp,
    /// When it said last that it is there.
    pub seen: Timestamp,
    pub version: String,
    /// Digest of its file configuration in hex, apart from what each replica has for itself.
    pub configuration: String,
}

pub(super) const REPLICAS: Typed<ReplicaRecord> = Typed {
    table: Table::Replicas,
    version: 1,
    older: &[],
    key: |record| record.id.as_str().as_bytes().to_vec(),
    indexes: &[],
    expires: Some(|record| Some(Timestamp::from_millis(record.seen_ms).after(LIFE))),
};

/// Says that a replica is there, now, and tells who is, itself included. Records that have expired are taken out.
pub async fn renew(store: &Store, replica: Replica) -> Result<Vec<Replica>, StoreError> {
    store
        .write(move |tx| {
            let now = tx.now();
            let mut replicas = Vec::new();
            for record in REPLICAS.all(tx, MAX_REPLICAS)? {
                let known = Replica::from(record);
                if known.id == replica.id {
                    continue;
                }
                if known.is_there(now) {
                    replicas.push(known);
                } else {
                    REPLICAS.remove(tx, known.id.as_str().as_bytes())?;
                }
            }
            let own = Replica { seen: now, ..replica.clone() };
            REPLICAS.put(tx, &own.to_record())?;
            replicas.push(own);
            Ok(replicas)
        })
        .await
}

/// Every replica that is there.
pub async fn live(store: &Store) -> Result<Vec<Replica>, StoreError> {
    store.read(live_in).await
}

fn live_in(tx: &mut ReadTx<'_>) -> Result<Vec<Replica>, StoreError> {
    let now = tx.now();
    let records = REPLICAS.all(tx, MAX_REPLICAS)?;
    Ok(records.into_iter().map(Replica::from).filter(|replica| replica.is_there(now)).collect())
}

/// Takes a replica out that ends in an orderly way.
pub async fn leave(store: &Store, id: ReplicaId) -> Result<(), StoreError> {
    store.write(move |tx| REPLICAS.remove(tx, id.as_str().as_bytes()).map(drop)).await
}

impl Replica {
    fn is_there(&self, now: Timestamp) -> bool {
        now < self.seen.after(LIFE)
    }

    fn to_record(&self) -> ReplicaRecord {
        let Self { id, address, started, seen, version, configuration } = self;
        ReplicaRecord {
            id: id.clone(),
            address: address.clone(),
            started_ms: started.as_millis(),
            seen_ms: seen.as_millis(),
            version: version.clone(),
            configuration: configuration.clone(),
        }
    }
}

impl From<ReplicaRecord> for Replica {
    fn from(record: ReplicaRecord) -> Self {
        let ReplicaRecord { id, address, started_ms, seen_ms, version, configuration } = record;
        let (started, seen) = (Timestamp::from_millis(started_ms), Timestamp::from_millis(seen_ms));
        Self { id, address, started, seen, version, configuration }
    }
}

/// A replica as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicaRecord {
    id: ReplicaId,
    address: Option<String>,
    started_ms: u64,
    seen_ms: u64,
    version: String,
    configuration: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;
    use crate::store::tests::StandingClock;

    fn replica(digit: &str) -> Replica {
        Replica {
            id: ReplicaId::parse(&digit.repeat(24)).unwrap(),
            address: Some(format!("10.0.0.{digit}:7402")),
            started: Timestamp::from_millis(1),
            seen: Timestamp::default(),
            version: "0.1.0".to_owned(),
            configuration: "00".repeat(32),
        }
    }

    #[tokio::test]
    async fn a_replica_is_there_as_long_as_it_says_so() {
        let clock = StandingClock::at(1_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        let renewed = renew(&store, replica("1")).await.unwrap();
        let one = Replica { seen: Timestamp::from_millis(1_000_000), ..replica("1") };
        assert_eq!(renewed, std::slice::from_ref(&one));

        clock.advance(LIFE - Duration::from_millis(1));
        let both = renew(&store, replica("2")).await.unwrap();
        assert_eq!(both.iter().map(|replica| &replica.id).collect::<Vec<_>>(), [&one.id, &replica("2").id]);
        assert_eq!(live(&store).await.unwrap().len(), 2);

        clock.advance(Duration::from_millis(1));
        assert_eq!(live(&store).await.unwrap().len(), 1, "it has not said so again");
        assert_eq!(renew(&store, replica("2")).await.unwrap().len(), 1);
        let rows = store.read(|tx| REPLICAS.all(tx, MAX_REPLICAS)).await.unwrap().len();
        assert_eq!(rows, 1, "what has expired is forgotten");

        leave(&store, replica("2").id).await.unwrap();
        leave(&store, replica("3").id).await.unwrap();
        assert!(live(&store).await.unwrap().is_empty());
        let expiries = store
            .read(|tx| {
                tx.range(
                    Table::Expiry,
                    &crate::store::engine::Bounds::all(),
                    crate::store::engine::Direction::Forward,
                    10,
                )
            })
            .await;
        let expiries: Result<_, StoreError> = expiries;
        assert!(expiries.unwrap().is_empty(), "nothing is left behind");
    }
}
