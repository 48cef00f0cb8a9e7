//! A dump becomes the store of a gateway that does not run, in the place of what was there.
//!
//! A file is made beside the present one and takes its place only when it is complete, read back and on the disk, so
//! that whatever goes wrong leaves things as they were. The new file is held open until it is in its place, and so is the
//! present one: a gateway that has it open keeps the restore from beginning, none can open it before the restore has ended,
//! and of two restores into one place the second is refused. In a database, what a restore has put in is taken out again
//! if it fails.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::io::AsyncRead;

use super::import::{abandon, copy, go_on, is_empty, load};
use super::{DumpError, Header, Summary};
use crate::env::{Env, Timestamp};
use crate::store::redb::sync_parent;
use crate::store::{Location, Store, StoreError};

/// What becomes of a store that is there already and not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// It stays, and nothing is restored.
    Keep,
    /// It is moved aside. Only files can be.
    MoveAside,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub header: Header,
    pub summary: Summary,
    /// The store's epoch from now on.
    pub epoch: u64,
    /// Where the store is that was there before.
    pub aside: Option<PathBuf>,
}

/// Why nothing was restored or moved. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Dump(#[from] DumpError),
    #[error("the store {} holds something: restore into another one, or have this one moved aside", path.display())]
    NotEmpty { path: PathBuf },
    #[error("the store {} cannot be opened: have it moved aside", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: StoreError,
    },
    #[error("only a file can be moved aside: empty the database instead")]
    NotAFile,
    #[error("another restore into {} goes on", path.display())]
    Restoring { path: PathBuf },
    #[error("a store has appeared at {} meanwhile, or another one than was there: stop what works with it", path.display())]
    Appeared { path: PathBuf },
    #[error("{} cannot be put in its place", path.display())]
    Move {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Dump(error.into())
    }
}

/// Reads a dump into the store at `into`.
pub async fn restore(
    from: impl AsyncRead + Unpin,
    into: &Location,
    present: Present,
    env: &Env,
) -> Result<Restored, RestoreError> {
    match into {
        Location::File(path) => restore_file(from, path, present, env).await,
        _ if present == Present::MoveAside => Err(RestoreError::NotAFile),
        place => {
            let store = Store::open_to_fill(place.clone(), env.clone()).await?;
            let filled = fill(from, &store, None, env).await;
            if filled.is_err() {
                undo(&store).await;
            }
            store.close().await;
            Ok(filled?)
        }
    }
}

/// Copies the store at `from` into the empty store at `to`, and compares what both hold then. Nothing else is changed.
/// `told` hears how many rows have been copied.
pub async fn migrate(from: &Location, to: &Location, env: &Env, told: &dyn Fn(u64)) -> Result<Summary, DumpError> {
    let source = Store::open_existing(from.clone(), env.clone()).await?;
    let copied = async {
        let target = Store::open_to_fill(to.clone(), env.clone()).await?;
        let copied = copy(&source, &target, told).await;
        if copied.is_err() {
            undo(&target).await;
        }
        target.close().await;
        copied
    };
    let copied = copied.await;
    source.close().await;
    copied
}

/// Takes out what a failed import has put in. If that fails too, the store cannot be used, and the next import does it.
async fn undo(store: &Store) {
    match abandon(store).await {
        // There was nothing to take out.
        Ok(()) | Err(DumpError::TakenOver) => {}
        Err(error) => tracing::warn!(%error, "what was put into the store is still there: import into it anew"),
    }
}

/// Loads a dump into an empty store and makes it one that goes on.
async fn fill(
    from: impl AsyncRead + Unpin,
    store: &Store,
    replaced: Option<u64>,
    env: &Env,
) -> Result<Restored, DumpError> {
    let (header, import, summary) = load(from, store).await?;
    let epoch = go_on(import, &header, summary, replaced, env).await?;
    Ok(Restored { header, summary, epoch, aside: None })
}

async fn restore_file(
    from: impl AsyncRead + Unpin,
    path: &Path,
    present: Present,
    env: &Env,
) -> Result<Restored, RestoreError> {
    let before = Before::find(path, present, env).await?;
    let restored = replace(from, path, before.as_ref(), env).await;
    if let Some(Before { state: State::Open { store, .. }, .. }) = before {
        store.close().await;
    }
    restored
}

async fn replace(
    from: impl AsyncRead + Unpin,
    path: &Path,
    before: Option<&Before>,
    env: &Env,
) -> Result<Restored, RestoreError> {
    let new = NewFile::create(path)?;
    let store = match new.file.try_clone() {
        Ok(file) => Store::fill_file(file, env.clone()).await,
        Err(source) => Err(StoreError::Open { path: path.to_owned(), source: Arc::new(source) }),
    };
    let restored = async {
        let store = store.as_ref().map_err(Clone::clone)?;
        let replaced = match before {
            Some(Before { state: State::Open { epoch, .. }, .. }) => Some(*epoch),
            Some(Before { state: State::Unusable, .. }) | None => None,
        };
        let restored = fill(from, store, replaced, env).await?;
        let aside = new.put_in_place(path, before, env.now())?;
        Ok(Restored { aside, ..restored })
    };
    let restored = restored.await;
    if restored.is_err() {
        new.remove();
    }
    // Not before it has its name or is gone: until then it is nobody else's.
    if let Ok(store) = store {
        store.close().await;
    }
    restored
}

/// What is at the place before.
struct Before {
    /// The file itself, whatever its name leads to later.
    file: File,
    state: State,
}

enum State {
    /// Held open, so that nobody else opens it.
    Open { store: Store, is_empty: bool, epoch: u64 },
    /// It cannot be opened, but not because somebody has it open. It is locked, so that nobody else opens it who can.
    Unusable,
}

impl Before {
    async fn find(path: &Path, present: Present, env: &Env) -> Result<Option<Self>, RestoreError> {
        let unusable = |source| RestoreError::Unusable { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RestoreError::Move { path: path.to_owned(), source }),
        };
        let store = match Store::open_existing(Location::File(path.to_owned()), env.clone()).await {
            Ok(store) => store,
            Err(in_use @ StoreError::InUse { .. }) => return Err(in_use.into()),
            // Nobody has written to it, or a failed import has taken out what it had put in.
            Err(StoreError::Absent) => {
                let opened = Store::open_to_fill(Location::File(path.to_owned()), env.clone()).await;
                opened.map_err(unusable)?
            }
            Err(_) if present == Present::MoveAside => {
                return match file.try_lock() {
                    Ok(()) => Ok(Some(Self { file, state: State::Unusable })),
                    Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }.into()),
                    Err(TryLockError::Error(source)) => Err(RestoreError::Move { path: path.to_owned(), source }),
                };
            }
            Err(source) => return Err(unusable(source)),
        };
        let known = async { Ok::<_, StoreError>((is_empty(&store).await?, store.epoch())) };
        let refused = match known.await {
            Ok((is_empty, epoch)) if is_empty || present == Present::MoveAside => {
                return Ok(Some(Self { file, state: State::Open { store, is_empty, epoch } }));
            }
            Ok(_) => RestoreError::NotEmpty { path: path.to_owned() },
            Err(source) => unusable(source),
        };
        store.close().await;
        Err(refused)
    }
}

/// The file that is made. It is locked until it has its name, so that nobody else removes it.
struct NewFile {
    file: File,
    path: PathBuf,
}

impl NewFile {
    /// Makes it, in the place of what a restore has left that broke off.
    fn create(place: &Path) -> Result<Self, RestoreError> {
        let path = with_ending(place, "restoring");
        let failed = |source| RestoreError::Move { path: path.clone(), source };
        let restoring = || RestoreError::Restoring { path: place.to_owned() };
        // Whoever has the lock of the file that the name leads to may remove it.
        let lock = |file: &File| match file.try_lock() {
            Ok(()) if is_at(file, &path) => Ok(()),
            Ok(()) | Err(TryLockError::WouldBlock) => Err(restoring()),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        };
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(left) => {
                lock(&left)?;
                std::fs::remove_file(&path).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(source)),
        }
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                lock(&file)?;
                Ok(Self { file, path })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(restoring()),
            Err(source) => Err(failed(source)),
        }
    }

    /// Gives it its name, and another to what has that now. At no time is there nothing where something was: a gateway
    /// that is started then would begin with an empty store. Tells where the other is.
    fn put_in_place(
        &self,
        place: &Path,
        before: Option<&Before>,
        now: Timestamp,
    ) -> Result<Option<PathBuf>, RestoreError> {
        let failed = |source| RestoreError::Move { path: place.to_owned(), source };
        let appeared = || RestoreError::Appeared { path: place.to_owned() };
        self.file.sync_all().map_err(failed)?;
        let aside = match before {
            None => {
                renameat_with(CWD, &self.path, CWD, place, RenameFlags::NOREPLACE).map_err(|error| match error {
                    rustix::io::Errno::EXIST => appeared(),
                    error => failed(error.into()),
                })?;
                None
            }
            Some(Before { file, .. }) if !is_at(file, place) => return Err(appeared()),
            Some(Before { state, .. }) => {
                let aside = match state {
                    State::Open { is_empty: true, .. } => None,
                    State::Open { .. } | State::Unusable => Some(free_name(place, now)),
                };
                if let Some(aside) = &aside {
                    std::fs::hard_link(place, aside).map_err(failed)?;
                }
                std::fs::rename(&self.path, place).map_err(failed)?;
                aside
            }
        };
        sync_parent(place).map_err(failed)?;
        Ok(aside)
    }

    /// What was begun is of no use to anybody.
    fn remove(&self) {
        if is_at(&self.file, &self.path) {
            _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether the name leads to this file. As long as the file is open, no other can be taken for it.
fn is_at(file: &File, path: &Path) -> bool {
    let same = || {
        let (file, there) = (file.metadata()?, std::fs::metadata(path)?);
        Ok::<_, io::Error>((file.dev(), file.ino()) == (there.dev(), there.ino()))
    };
    same().unwrap_or(false)
}

/// A name beside `path` that is not taken.
fn free_name(path: &Path, now: Timestamp) -> PathBuf {
    let second = now.as_millis() / 1_000;
    let names = (second..).map(|second| with_ending(path, &format!("replaced-{second}")));
    let mut free = names.filter(|name| !name.exists());
    free.next().expect("there are more seconds than files")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}
