//! A whole store as a file: portable between engines, read and written as a stream, checked by digests.
//!
//! The format, version 1, all numbers big-endian:
//!
//! ```text
//! "portcullis dump\n"  u16 version
//! 'h'  u32 length, JSON: schema, revision, deployment, when it was taken and by which version     once, first
//! 't'  u16 number, u8 length, name                                       before the rows of each table that has any
//! 'r'  u16 length, key, u32 length, value                                each row, in ascending order of its key
//! 'e'  u64 rows, digest of the rows, digest of all bytes before this one                           once, last
//! ```
//!
//! Tables come in the order of their numbers. The *digest of the rows* is SHA-256 over a form of them that depends on
//! nothing else ([`Content`]), so that two stores hold the same if and only if it is the same, whatever their engines.
//! The *digest of all bytes* tells a file that was damaged or cut short. Neither keeps out who can write the file: it
//! has to be kept like the store itself. Secrets are in it as they are in the store, as digests or sealed.
//!
//! [`encode`] writes, [`decode`] reads without a store, [`import`] fills an empty store, and [`restore`] puts one in the
//! place of another.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::engine::Table;
use super::export::{self, Export};
use super::{Store, StoreError, replicas};
use crate::secret::{Digest, hex};

pub mod decode;
pub mod encode;
pub mod import;
#[cfg(test)]
mod place_tests;
pub mod restore;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Item};
pub use encode::Dump;
pub use import::Import;

const MAGIC: &[u8; 16] = b"portcullis dump\n";
/// The version of the format that is written, and the only one that is read.
const VERSION: u16 = 1;
/// Largest header, in bytes.
const MAX_HEADER: usize = 64 * 1024;
/// What every digest of rows begins with.
const DOMAIN: &[u8] = b"portcullis store content 1\n";

const HEADER: u8 = b'h';
const TABLE: u8 = b't';
const ROW: u8 = b'r';
const END: u8 = b'e';

/// What a dump says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The store's schema.
    pub schema: u32,
    /// The store's last change that others keep copies of.
    pub revision: u64,
    /// Which deployment the store belongs to, if it knows.
    pub deployment: Option<String>,
    /// When it was taken, in milliseconds since 1970.
    pub taken_ms: u64,
    /// The version of Portcullis that wrote it.
    pub version: String,
}

/// How much a store or a dump holds, and the digest of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub rows: u64,
    pub digest: Digest,
}

impl std::fmt::Debug for Summary {
    /// The digest of rows is no secret: operators compare it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows, {}", self.rows, hex(self.digest.as_bytes()))
    }
}

/// Why a dump cannot be read, or not into this store.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("this is not a dump of a Portcullis store")]
    NotADump,
    #[error("the dump has format {found}, this version reads {VERSION}: use the version that wrote it, or a newer one")]
    Format { found: u16 },
    #[error("the dump is damaged: {problem}")]
    Damaged { problem: &'static str },
    #[error("the dump is cut short: the copying broke off, or the disk was full")]
    CutShort,
    #[error("the dump has a table {name:?} that this version does not know: a newer one wrote it")]
    UnknownTable { name: String },
    #[error("the dump has schema {found}, this version knows up to {known}: a newer one wrote it")]
    NewerSchema { found: u32, known: u32 },
    #[error("the store is not empty")]
    NotEmpty,
    #[error(
        "gateways work with the store: {}; stop them (one that was killed counts as running for {} seconds)",
        .gateways.join(", "),
        replicas::LIFE.as_secs()
    )]
    InUse { gateways: Vec<String> },
    #[error("the store was written to while it was copied: stop what works with it")]
    Changed,
    #[error("another import into the store has begun meanwhile")]
    TakenOver,
    #[error("the store does not hold what was put in: it has {found:?} instead of {expected:?}")]
    Differs { expected: Summary, found: Summary },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the dump cannot be read")]
    Read(#[from] std::io::Error),
}

/// Counts rows and digests them, in their order: for each its table's number, the lengths of key and value, and both.
struct Content {
    rows: u64,
    digest: digest::Context,
}

impl Content {
    fn new() -> Self {
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(DOMAIN);
        Self { rows: 0, digest }
    }

    fn row(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.digest.update(&table.number().to_be_bytes());
        self.digest.update(&length(key).to_be_bytes());
        self.digest.update(&length(value).to_be_bytes());
        self.digest.update(key);
        self.digest.update(value);
    }

    fn summary(&self) -> Summary {
        Summary { rows: self.rows, digest: finished(self.digest.clone()) }
    }
}

/// Keys and values are bounded far below this (`engine::MAX_KEY_BYTES`, `engine::MAX_VALUE_BYTES`).
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn finished(digest: digest::Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    Digest::from_bytes(bytes)
}

/// The digest of all that a store holds. Nobody else works with it meanwhile.
pub async fn summary(store: &Store) -> Result<Summary, StoreError> {
    summary_of(store.export_within(None).await?).await
}

async fn summary_of(mut export: Export) -> Result<Summary, StoreError> {
    let mut content = Content::new();
    while let Some(export::Batch { table, rows }) = export.next().await? {
        for (key, value) in rows {
            if !import::is_mark(table, &key) {
                content.row(table, &key, &value);
            }
        }
    }
    Ok(content.summary())
}
