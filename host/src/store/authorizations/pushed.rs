//! Pushed authorization requests (RFC 9126): what a client says beforehand, for one use of a reference to it.

use std::time::Duration;

use super::super::counted::Counted;
use super::super::engine::Table;
use super::super::table::{Single, Typed};
use super::super::{Store, StoreError};
use super::record::PushedRecord;
use crate::ids::ClientId;
use crate::oauth::Window;
use crate::secret::Digest;

/// Longest parameters, in bytes.
pub const MAX_PUSHED_BYTES: usize = 16 * 1024;

pub(in super::super) const PUSHED: Counted<PushedRecord> = Counted {
    records: Typed {
        table: Table::PushedRequests,
        version: 1,
        older: &[],
        key: PushedRecord::key,
        indexes: &[],
        expires: Some(PushedRecord::expires),
    },
    count: Single::new("pushed_requests"),
};

/// What came of [`push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    Kept,
    /// As many wait as may.
    TooMany,
    TooLarge,
}

/// What came of [`take_pushed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The parameters, as they were pushed. They cannot be taken again.
    Taken(String),
    /// It is another client's, and stays.
    WrongClient,
    /// There is none, it was taken, or its time is over.
    Gone,
}

/// Keeps the parameters of a request under the digest of a reference, as one of at most `most`.
pub async fn push(
    store: &Store,
    reference: Digest,
    client: ClientId,
    parameters: String,
    life: Duration,
    most: u64,
) -> Result<Push, StoreError> {
    store
        .write(move |tx| {
            if parameters.len() > MAX_PUSHED_BYTES {
                return Ok(Push::TooLarge);
            }
            if PUSHED.len(tx)? >= most || PUSHED.get(tx, reference.as_bytes())?.is_some() {
                return Ok(Push::TooMany);
            }
            let life = Window::starting(tx.now(), life);
            PUSHED.add(tx, &PushedRecord::new(reference, &client, &parameters, life))?;
            Ok(Push::Kept)
        })
        .await
}

/// Takes what was pushed under a reference.
pub async fn take_pushed(store: &Store, reference: Digest, client: &ClientId) -> Result<Pushed, StoreError> {
    let client = client.clone();
    store
        .write(move |tx| {
            let Some(record) = PUSHED.get(tx, reference.as_bytes())? else { return Ok(Pushed::Gone) };
            let (of, parameters, life) = record.read()?;
            if of != client {
                return Ok(Pushed::WrongClient);
            }
            PUSHED.remove(tx, reference.as_bytes())?;
            Ok(if life.is_open(tx.now()) { Pushed::Taken(parameters) } else { Pushed::Gone })
        })
        .await
}
