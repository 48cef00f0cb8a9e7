//! Up to where the trail is copied, and the file that remembers it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::write::{private, write_durably};

/// Largest such file that is read, in bytes.
const MAX_PLACE: u64 = 64 * 1024;

/// Up to where the trail is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Where to. Somewhere else the copy begins anew.
    pub(super) target: String,
    /// Of a row that was copied lately: looking begins there, less the overlap.
    pub(super) at_ms: u64,
    /// All rows up to this number are copied.
    pub(super) sequence: u64,
}

/// The place of an earlier run. One that cannot be read is none: rows are rather written twice than not at all.
pub(super) fn remembered(path: &Path) -> Option<Place> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_PLACE).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Puts a text in place of what a file says, whole or not at all.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = private().truncate(true).open(&fresh)?;
    write_durably(&mut file, text)?;
    fs::rename(&fresh, path)
}
