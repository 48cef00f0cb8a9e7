//! Marks: what was presented once and may not be presented again, such as the `jti` of a proof.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::Table;
use super::record::DigestRecord;
use super::table::Typed;
use super::{Store, StoreError, WriteTx};
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
