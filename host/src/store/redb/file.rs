//! The file of the embedded engine: opened for its owner alone, checked, measured, compacted.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redb::{Builder, Database, DatabaseError, ReadOnlyDatabase};

use super::{Fault, builder, fault, unavailable};
use crate::store::stats::{FileStats, TableStats};
use crate::store::{Purpose, StoreError};

/// redb's page. It is not told by the library; `redb::Builder::set_page_size` is for its tests only.
const PAGE_BYTES: u64 = 4096;

/// Opens or creates the file, readable for nobody else, and refuses one that was damaged. One that is only looked at has to
/// be there, and stays readable for whom it was.
pub(super) fn open(path: &Path, purpose: Purpose) -> Result<Database, StoreError> {
    let cannot = |source: Fault| StoreError::Open { path: path.to_owned(), source };
    let io = |error: io::Error| cannot(Arc::new(error));
    let is_new = !path.exists();
    let file = file_at(path, purpose).map_err(io)?;
    // An empty file is about to become a store.
    if purpose == Purpose::Look && file.metadata().map_err(io)?.len() == 0 {
        return Err(StoreError::Absent);
    }
    let same = file.try_clone().map_err(io)?;
    let opened = open_checked(builder(), |builder| builder.create_file(file));
    let database = opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        error => cannot(Arc::new(error)),
    })?;
    // Not before it is known to be a store: it might be somebody else's file.
    if purpose != Purpose::Look && same.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
        same.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
    }
    if is_new {
        // The file's name has to survive a power cut as well as its content.
        sync_parent(path).map_err(io)?;
    }
    Ok(database)
}

/// Opens the file for reading alone. One that was not closed in order would have to be repaired first, and is refused.
pub(super) fn open_to_read(path: &Path) -> Result<ReadOnlyDatabase, StoreError> {
    let cannot = |source: Fault| StoreError::Open { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(|error| cannot(Arc::new(error)))?.len();
    // An empty file is about to become a store.
    if length == 0 {
        return Err(StoreError::Absent);
    }
    builder().open_read_only(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        DatabaseError::RepairAborted => StoreError::NotClosed { path: path.to_owned() },
        error => cannot(Arc::new(error)),
    })
}

/// Makes a database in a file that is open and locked.
pub(super) fn fill(file: &File) -> Result<Database, StoreError> {
    let file = file.try_clone().map_err(unavailable)?;
    builder().create_file(file).map_err(fault)
}

/// Opens a database, and looks at every page of it once.
///
/// redb does that itself where it was not closed in order. Otherwise it trusts the pages, and would answer with whatever
/// a failing disk has made of them: then a page whose checksum is wrong stops the start.
pub(super) fn open_checked(
    mut builder: Builder,
    open: impl FnOnce(&Builder) -> Result<Database, DatabaseError>,
) -> Result<Database, DatabaseError> {
    let was_repaired = Arc::new(AtomicBool::new(false));
    let repairs = Arc::clone(&was_repaired);
    builder.set_repair_callback(move |_| repairs.store(true, Ordering::Relaxed));
    let mut database = open(&builder)?;
    if !was_repaired.load(Ordering::Relaxed) && !database.check_integrity()? {
        tracing::warn!("the store's own books were wrong and have been put right; no record was lost");
    }
    Ok(database)
}

pub(super) fn file_at(path: &Path, purpose: Purpose) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(purpose != Purpose::Look).truncate(false).mode(0o600).open(path)
}

pub(in crate::store) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.map_or(PathBuf::from("."), Path::to_owned))?.sync_all()
}

/// What the file takes, and how much of that no table uses.
pub(super) fn stats(path: &Path, tables: &[TableStats]) -> Result<FileStats, StoreError> {
    let bytes = std::fs::metadata(path).map_err(unavailable)?.len();
    let used: u64 = tables.iter().map(|table| table.allocated_bytes).sum();
    Ok(FileStats { bytes, page_bytes: PAGE_BYTES, free_pages: Some(bytes.saturating_sub(used) / PAGE_BYTES) })
}

/// Moves what is in the file together and cuts its free end off. Tells its length before and after.
pub(in crate::store) async fn compact(path: &Path) -> Result<(u64, u64), StoreError> {
    let path = path.to_owned();
    let compact = move || {
        let length = || Ok::<_, StoreError>(std::fs::metadata(&path).map_err(unavailable)?.len());
        let before = length()?;
        let mut database = open(&path, Purpose::Look)?;
        // Each round moves what it can; the last one finds nothing.
        while database.compact().map_err(unavailable)? {}
        drop(database);
        Ok((before, length()?))
    };
    tokio::task::spawn_blocking(compact).await.map_err(|_| StoreError::Closed)?
}
