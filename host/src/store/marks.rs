//! Marks: what was presented once and may not be presented again, such as the `jti` of a proof.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::Table;
use super::record::DigestRecord;
use super::table::Typed;
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::env::Timestamp;
use crate::secret::Digest;

/// How long a mark is kept at least, so that what is at its very end cannot be presented twice.
const KEPT_AT_LEAST: Duration = Duration::from_secs(60);

pub(super) const MARKS: Typed<MarkRecord> = Typed {
    table: Table::Marks,
    version: 1,
    older: &[],
    key: |record| mark_key(record.kind, &record.digest.0),
    indexes: &[],
    expires: Some(|record| Some(Timestamp::from_millis(record.until_ms))),
};

/// What is marked. The numbers are part of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The `jti` of a client's assertion or of an identity assertion, with its issuer (RFC 7523 §3).
    Jti = 1,
    /// The `jti` of a DPoP proof, with the thumbprint of its key (RFC 9449 §11.1).
    Dpop = 2,
    /// The reference of a pushed authorization request (RFC 9126 §4).
    Par = 3,
    /// The `state` of a sign-in.
    State = 4,
    /// The token of a form.
    Csrf = 5,
    /// A data key of the vault that was destroyed, with its owner.
    ShreddedDataKey = 6,
}

/// What came of [`consume_once`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was not presented before.
    First,
    Seen,
}

/// Marks something as presented, until it is refused for its age anyway.
pub async fn consume_once(store: &Store, kind: Kind, digest: Digest, until: Timestamp) -> Result<Mark, StoreError> {
    store.write(move |tx| consume_once_in(tx, kind, digest, until)).await
}

/// The same inside the transaction of what it is presented for.
pub(super) fn consume_once_in(
    tx: &mut WriteTx<'_>,
    kind: Kind,
    digest: Digest,
    until: Timestamp,
) -> Result<Mark, StoreError> {
    let key = mark_key(kind as u8, &digest);
    let now = tx.now();
    if MARKS.get(tx, &key)?.is_some_and(|mark| now < Timestamp::from_millis(mark.until_ms)) {
        return Ok(Mark::Seen);
    }
    let until = until.max(now.after(KEPT_AT_LEAST));
    MARKS.put(tx, &MarkRecord { kind: kind as u8, digest: digest.into(), until_ms: until.as_millis() })?;
    Ok(Mark::First)
}

/// Whether this is marked still.
pub(super) fn is_kept(tx: &mut ReadTx<'_>, kind: Kind, digest: Digest) -> Result<bool, StoreError> {
    let now = tx.now();
    let mark = MARKS.get(tx, &mark_key(kind as u8, &digest))?;
    Ok(mark.is_some_and(|mark| now < Timestamp::from_millis(mark.until_ms)))
}

fn mark_key(kind: u8, digest: &Digest) -> Vec<u8> {
    [&[kind], digest.as_bytes().as_slice()].concat()
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkRecord {
    kind: u8,
    digest: DigestRecord,
    until_ms: u64,
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::super::oauth_testing::*;
    use super::*;

    #[tokio::test]
    async fn what_was_presented_is_seen_until_it_is_too_old() {
        for mut place in engines().await {
            let until = place.now().after(KEPT_AT_LEAST * 2);
            let mark =
                async |place: &Place, kind, name| consume_once(&place.store, kind, digest(name), until).await.unwrap();
            assert_eq!(mark(&place, Kind::Jti, "a").await, Mark::First);
            place.restart().await;
            assert_eq!(mark(&place, Kind::Jti, "a").await, Mark::Seen);
            assert_eq!(mark(&place, Kind::Jti, "b").await, Mark::First);
            for kind in [Kind::Dpop, Kind::Par, Kind::State, Kind::Csrf] {
                assert_eq!(mark(&place, kind, "a").await, Mark::First, "{kind:?} is another thing");
            }
            place.back(KEPT_AT_LEAST * 60);
            assert_eq!(mark(&place, Kind::Jti, "a").await, Mark::Seen);
            place.forward(KEPT_AT_LEAST * 62);
            verify(&place.store).await;
            // Its owner refuses it for its age now; even so it is not good twice.
            assert_eq!(mark(&place, Kind::Jti, "a").await, Mark::First);
            assert_eq!(mark(&place, Kind::Jti, "a").await, Mark::Seen);
            place.forward(KEPT_AT_LEAST);
            while place.sweep().await > 0 {}
            assert_eq!(place.store.read(|tx| rows(tx, Table::Marks)).await.unwrap(), []);
            verify(&place.store).await;
        }
    }

    #[tokio::test]
    async fn of_64_who_present_one_thing_one_is_the_first() {
        for place in engines().await {
            let until = place.now().after(KEPT_AT_LEAST);
            let mut clients = JoinSet::new();
            for _ in 0..64 {
                let store = place.store.clone();
                clients.spawn(async move { consume_once(&store, Kind::Dpop, digest("a"), until).await.unwrap() });
            }
            let answers = clients.join_all().await;
            assert_eq!(answers.iter().filter(|answer| **answer == Mark::First).count(), 1);
            assert_eq!(answers.len(), 64);
        }
    }
}
