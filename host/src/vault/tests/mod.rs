//! The vault over a real store.

mod records;
mod rotation;
mod sources;
mod transit;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::kek::Kek;
use super::ring::Ring;
use super::source::{KeySource, Local, Root, SourceError};
use super::{OpenError, Vault};
use crate::audit::{Actor, AuditEvent, OperatorProof};
use crate::config::{self, VaultKey, VaultKeySource, VaultKeyState};
use crate::env::Env;
use crate::ids::{KekId, Owner};
use crate::outbound::Outbound;
use crate::secret::{Plaintext, Sealed, SecretBytes, hex};
use crate::store::{Location, Store, audit};

const ACTOR: Actor = Actor::Operator(OperatorProof::Socket);

async fn memory() -> Store {
    Store::open(Location::Memory, Env::system()).await.unwrap()
}

fn owner(text: &str) -> Owner {
    Owner::parse(text).unwrap()
}

fn kid(text: &str) -> KekId {
    KekId::parse(text).unwrap()
}

/// A key of the ring that is in the environment: 32 times this byte.
fn key(id: &str, byte: u8, state: VaultKeyState) -> VaultKey {
    let key = Plaintext::new(hex(&[byte; 32]));
    VaultKey { kid: kid(id), state, source: VaultKeySource::Environment { variable: id.to_owned(), key } }
}

fn settings(keys: Vec<VaultKey>) -> config::Vault {
    config::Vault { keys, is_default: false, cache_ttl: Duration::from_secs(300), allow_core_dumps: false }
}

fn file(dir: &Path) -> (PathBuf, config::Vault) {
    let path = dir.join("vault.key");
    let key = VaultKey { kid: kid("file"), state: VaultKeyState::Active, source: VaultKeySource::File(path.clone()) };
    (path, config::Vault { is_default: true, ..settings(vec![key]) })
}

async fn start(store: &Store, settings: &config::Vault) -> Result<Vault, OpenError> {
    Vault::start(settings, store.clone(), Env::system(), Outbound::new()).await
}

/// A vault with one key.
async fn vault(store: &Store) -> Vault {
    start(store, &settings(vec![key("k1", 1, VaultKeyState::Active)])).await.unwrap()
}

async fn events(store: &Store) -> Vec<AuditEvent> {
    let page = audit::list(store, None, 200).await.unwrap();
    page.items.into_iter().rev().map(|row| row.entry.event).collect()
}

/// All there is to say of an error.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A key that can be out of reach or take its time, and that counts how often it was asked.
pub(crate) struct Remote {
    local: Local,
    is_down: AtomicBool,
    /// Whoever holds this has it not answer.
    answering: tokio::sync::Mutex<()>,
    asked: AtomicUsize,
}

impl Remote {
    fn new(byte: u8) -> Arc<Self> {
        let answering = tokio::sync::Mutex::default();
        Arc::new(Self { local: local(byte), is_down: AtomicBool::new(false), answering, asked: AtomicUsize::new(0) })
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    async fn ask<T>(&self, answer: T) -> Result<T, SourceError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _answering = self.answering.lock().await;
        let is_down = self.is_down.load(Ordering::SeqCst);
        if is_down { Err(SourceError::Unavailable("it is down".to_owned())) } else { Ok(answer) }
    }
}

fn local(byte: u8) -> Local {
    Local::environment(&Plaintext::new(hex(&[byte; 32])), Env::system()).unwrap()
}

impl KeySource for Remote {
    fn kind(&self) -> &'static str {
        "remote"
    }

    fn wrap<'a>(&'a self, key: &'a SecretBytes) -> BoxFuture<'a, Result<Sealed, SourceError>> {
        Box::pin(async move { self.ask(self.local.wrap(key)).await?.await })
    }

    fn unwrap<'a>(&'a self, wrapped: &'a Sealed) -> BoxFuture<'a, Result<SecretBytes, SourceError>> {
        Box::pin(async move { self.ask(self.local.unwrap(wrapped)).await?.await })
    }

    fn root(&self, version: Option<u32>) -> BoxFuture<'_, Result<Root, SourceError>> {
        self.local.root(version)
    }
}

/// A key is taken to be out of reach for a second.
async fn pass_the_pause() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

/// A vault whose only key is this one.
async fn vault_with(store: &Store, source: Arc<dyn KeySource>, ttl: Duration) -> Vault {
    vault_of(store, vec![Kek::of("k1", VaultKeyState::Active, source)], ttl).await
}

/// A vault that asks for each data key anew, and the key that it asks.
pub(crate) async fn asking_each_time(store: &Store) -> (Arc<Remote>, Vault) {
    let remote = Remote::new(1);
    let vault = vault_with(store, remote.clone(), Duration::ZERO).await;
    (remote, vault)
}

async fn vault_of(store: &Store, keys: Vec<Kek>, ttl: Duration) -> Vault {
    crate::store::data_keys::initialize(store, &keys[0].kid).await.unwrap();
    let ring = Ring::of(keys);
    let settings = config::Vault { cache_ttl: ttl, ..settings(Vec::new()) };
    Vault::with(ring, &settings, store.clone(), Env::system(), Outbound::new())
}
