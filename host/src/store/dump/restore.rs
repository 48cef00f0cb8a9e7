//! A dump becomes the store of a gateway that does not run, in the place of what was there.
//!
//! A file is made beside the present one and takes its place only when it is complete, read back and on the disk, so
//! that whatever goes wrong leaves things as they were. The present file is held open meanwhile: a gateway that has it
//! open keeps the restore from beginning, and none can open it before the restore has ended.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncRead;

use super::import::{copy, is_empty, load, raise_epoch};
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
        place => Ok(fill(from, place, None, env).await?),
    }
}

/// Copies the store at `from` into the empty store at `to`, and compares what both hold then. Nothing else is changed.
pub async fn migrate(from: &Location, to: &Location, env: &Env) -> Result<Summary, DumpError> {
    let source = Store::open(from.clone(), env.clone()).await?;
    let copied = async {
        let target = Store::open(to.clone(), env.clone()).await?;
        let copied = copy(source.export().await?, &target).await;
        target.close().await;
        copied
    };
    let copied = copied.await;
    source.close().await;
    copied
}

/// Loads a dump into the empty store at `place` and makes it one that goes on.
async fn fill(
    from: impl AsyncRead + Unpin,
    place: &Location,
    replaced: Option<u64>,
    env: &Env,
) -> Result<Restored, DumpError> {
    let store = Store::open(place.clone(), env.clone()).await?;
    let loaded = load(from, &store).await;
    store.close().await;
    let (header, summary) = loaded?;
    // Opened once more: what opening does to a store of an earlier schema has yet to be done.
    let store = Store::open(place.clone(), env.clone()).await?;
    let epoch = raise_epoch(&store, &header, summary, replaced).await;
    store.close().await;
    Ok(Restored { header, summary, epoch: epoch?, aside: None })
}

async fn restore_file(
    from: impl AsyncRead + Unpin,
    path: &Path,
    present: Present,
    env: &Env,
) -> Result<Restored, RestoreError> {
    let before = Before::find(path, present, env).await?;
    let new = with_ending(path, "restoring");
    let restored = replace(from, path, &new, &before, env).await;
    if restored.is_err() {
        // What was begun is of no use to anybody.
        _ = std::fs::remove_file(&new);
    }
    if let Before::Open { store, .. } = before {
        store.close().await;
    }
    restored
}

async fn replace(
    from: impl AsyncRead + Unpin,
    path: &Path,
    new: &Path,
    before: &Before,
    env: &Env,
) -> Result<Restored, RestoreError> {
    clear(new, env).await?;
    let replaced = match before {
        Before::Open { epoch, .. } => Some(*epoch),
        Before::Nothing | Before::Unusable => None,
    };
    let mut restored = fill(from, &Location::File(new.to_owned()), replaced, env).await?;
    let failed = |source| RestoreError::Move { path: path.to_owned(), source };
    std::fs::File::open(new).and_then(|file| file.sync_all()).map_err(failed)?;
    let aside = match before {
        Before::Nothing | Before::Open { is_empty: true, .. } => None,
        Before::Unusable | Before::Open { .. } => Some(free_name(path, env.now())),
    };
    put_in_place(new, path, aside.as_deref()).and_then(|()| sync_parent(path)).map_err(failed)?;
    restored.aside = aside;
    Ok(restored)
}

/// What is at the place before.
enum Before {
    Nothing,
    /// Held open, so that nobody else opens it.
    Open {
        store: Store,
        is_empty: bool,
        epoch: u64,
    },
    /// It cannot be opened, but not because somebody has it open.
    Unusable,
}

impl Before {
    async fn find(path: &Path, present: Present, env: &Env) -> Result<Self, RestoreError> {
        if !path.exists() {
            return Ok(Self::Nothing);
        }
        let store = match Store::open(Location::File(path.to_owned()), env.clone()).await {
            Ok(store) => store,
            Err(in_use @ StoreError::InUse { .. }) => return Err(in_use.into()),
            Err(_) if present == Present::MoveAside => return Ok(Self::Unusable),
            Err(source) => return Err(RestoreError::Unusable { path: path.to_owned(), source }),
        };
        let known = async { Ok::<_, StoreError>((is_empty(&store).await?, store.epoch())) };
        let refused = match known.await {
            Ok((is_empty, epoch)) if is_empty || present == Present::MoveAside => {
                return Ok(Self::Open { store, is_empty, epoch });
            }
            Ok(_) => RestoreError::NotEmpty { path: path.to_owned() },
            Err(source) => RestoreError::Unusable { path: path.to_owned(), source },
        };
        store.close().await;
        Err(refused)
    }
}

/// Removes what a restore that broke off has left, unless it goes on.
async fn clear(new: &Path, env: &Env) -> Result<(), RestoreError> {
    if !new.exists() {
        return Ok(());
    }
    match Store::open(Location::File(new.to_owned()), env.clone()).await {
        Err(in_use @ StoreError::InUse { .. }) => return Err(in_use.into()),
        Ok(store) => store.close().await,
        Err(_) => {}
    }
    std::fs::remove_file(new).map_err(|source| RestoreError::Move { path: new.to_owned(), source })
}

/// Moves `new` to `path`, and what is there to `aside`. At no time is there nothing at `path`: a gateway that is started
/// then would begin with an empty store.
fn put_in_place(new: &Path, path: &Path, aside: Option<&Path>) -> io::Result<()> {
    if let Some(aside) = aside {
        std::fs::hard_link(path, aside)?;
    }
    std::fs::rename(new, path)
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
