//! What the tests of the authorization server's aggregates share: stores on each engine with a clock that goes both ways,
//! things to put into them, and the proof that indexes, expiries and counts are what the records say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::changes::{Change, News, Revision};
use super::counted::Counted;
use super::engine::{Bounds, Direction, MAX_RANGE, Row, Table};
use super::grants::NewGrant;
use super::table::{Typed, expiry_key};
use super::tests::SameBytes;
use super::{KEPT, Location, ReadTx, Store, StoreError, audit, changes};
use super::{authorizations, clients, connections, consents, devices, grants, guests, links, marks, revocations};
use crate::audit::{Actor, AuditEvent, OperatorProof, Party};
use crate::env::{Clock, Env, Timestamp};
use crate::identity::TokenList;
use crate::ids::{ClientId, GrantId, KeyName, Principal, RequestId};
use crate::oauth::client::{Authentication, GrantType, Lives, Metadata, Source};
use crate::oauth::grant::{KEPT_AFTER_END, OnReuse};
use crate::oauth::request::{AuthorizationRequest, Chosen};
use crate::oauth::{Access, AccessLimits, Client, Grant, IdentitySet, ResourceList};
use crate::secret::Digest;

pub(super) const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// When the tests begin: 2026, so that an hour back is a time as well.
const START: u64 = 1_790_000_000_000;

#[derive(Clone)]
pub(super) struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A store that can be closed and opened again.
pub(super) struct Place {
    pub(super) store: Store,
    clock: TestClock,
    file: Option<(PathBuf, tempfile::TempDir)>,
}

impl Place {
    pub(super) async fn memory() -> Self {
        let clock = TestClock(Arc::new(AtomicU64::new(START)));
        Self { store: open(Location::Memory, &clock).await, clock, file: None }
    }

    pub(super) async fn file() -> Self {
        let clock = TestClock(Arc::new(AtomicU64::new(START)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.redb");
        Self { store: open(Location::File(path.clone()), &clock).await, clock, file: Some((path, directory)) }
    }

    /// Closes the store and opens it again, if it is on a file.
    pub(super) async fn restart(&mut self) {
        if let Some((path, _)) = &self.file {
            self.store.close().await;
            self.store = open(Location::File(path.clone()), &self.clock).await;
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn forward(&self, by: Duration) {
        self.clock.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(super) fn back(&self, by: Duration) {
        self.clock.0.fetch_sub(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Takes out what has expired, as the sweeper does.
    pub(super) async fn sweep(&self) -> usize {
        self.store
            .write(|tx| -> Result<usize, StoreError> {
                let over = Bounds::before((tx.now().as_millis() + 1).to_be_bytes());
                let mut forgotten = 0;
                for (row, _) in tx.range(Table::Expiry, &over, Direction::Forward, 200)? {
                    let number = u16::from_be_bytes(row[8..10].try_into().unwrap());
                    let table = KEPT.iter().find(|kept| kept.table().number() == number).unwrap();
                    forgotten += usize::from(table.forget(tx, &row[10..], tx.now())?);
                }
                Ok(forgotten)
            })
            .await
            .unwrap()
    }
}

async fn open(location: Location, clock: &TestClock) -> Store {
    Store::open(location, Env { clock: Arc::new(clock.clone()), entropy: Arc::new(SameBytes) }).await.unwrap()
}

/// A new store on every engine.
pub(super) async fn engines() -> Vec<Place> {
    vec![Place::memory().await, Place::file().await]
}

pub(super) fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// A client that is not registered, and need not be.
pub(crate) fn client(name: &str) -> ClientId {
    ClientId::parse(&format!("https://{name}.example/client.json")).unwrap()
}

pub(super) fn key(name: &str) -> Principal {
    Principal::Key(KeyName::parse(name).unwrap())
}

pub(super) fn party(principal: &str, of: &str) -> Party {
    Party { principal: key(principal), client: client(of) }
}

pub(super) fn tokens(words: &[&str]) -> TokenList {
    TokenList::parse(words.iter().map(|word| (*word).to_owned()).collect()).unwrap()
}

pub(super) fn resources(of: &[&str]) -> ResourceList {
    ResourceList::parse(of.iter().map(|resource| (*resource).to_owned()).collect()).unwrap()
}

pub(super) fn access() -> Access {
    Access {
        resources: resources(&["https://gateway.example/mcp", "https://gateway.example/mcp/notes"]),
        scopes: tokens(&["read", "write"]),
        identities: IdentitySet::parse(vec!["key:ci".to_owned(), "upstream:notes".to_owned()]).unwrap(),
        limits: AccessLimits::default(),
    }
}

pub(crate) fn grant_id(number: u64) -> GrantId {
    GrantId::parse(&format!("{number:024x}")).unwrap()
}

pub(super) fn request_id(number: u64) -> RequestId {
    RequestId::parse(&format!("{number:024x}")).unwrap()
}

pub(crate) fn new_grant(number: u64, refresh: &str) -> NewGrant {
    NewGrant {
        id: grant_id(number),
        refresh: Some(digest(refresh)),
        life: 90 * DAY,
        idle: 30 * DAY,
        on_reuse: OnReuse::RevokeFamily,
        kept: KEPT_AFTER_END,
        signed: Timestamp::default(),
        is_stored: true,
    }
}

/// A grant of these, with this first refresh token.
pub(crate) async fn issue(store: &Store, number: u64, refresh: &str, of: Party) -> Grant {
    issue_as(store, new_grant(number, refresh), of, None).await
}

/// Has a consent remembered for a day, with answers to this host.
pub(crate) async fn remember(store: &Store, of: Party, host: &str) {
    let remembered = consents::Remembered { redirect_host: host.to_owned(), life: DAY };
    store.write(move |tx| consents::remember_in(tx, &of, &access(), &remembered)).await.unwrap();
}

pub(super) async fn issue_as(store: &Store, new: NewGrant, of: Party, proof: Option<Digest>) -> Grant {
    store
        .write(move |tx| {
            let now = tx.now();
            grants::issue_in(tx, &new, &of, (&access(), proof), now)
        })
        .await
        .unwrap()
        .unwrap()
}

pub(super) fn request(number: u64) -> AuthorizationRequest {
    AuthorizationRequest {
        id: request_id(number),
        client: client("app"),
        redirect_uri: "http://127.0.0.1:33418/callback".to_owned(),
        state: Some("xyz".to_owned()),
        challenge: digest("verifier"),
        proof: None,
        resources: access().resources,
        scopes: access().scopes,
        browser: digest("browser"),
        signed_in_since: None,
        chosen: Some(Chosen { principal: key("ci"), session: None, at: Timestamp::default() }),
        created: Timestamp::default(),
        until: Timestamp::default(),
    }
}

pub(super) fn registered(id: &str) -> Client {
    Client {
        id: ClientId::parse(id).unwrap(),
        source: Source::Registered { token: digest("registration"), lives: Lives::default() },
        metadata: Metadata {
            name: Some("An app".to_owned()),
            redirect_uris: vec!["https://app.example/callback".to_owned()],
            grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            scopes: tokens(&["read"]),
            contacts: vec!["ops@app.example".to_owned()],
            client_uri: Some("https://app.example/".to_owned()),
            software_version: Some("1.2".to_owned()),
            requires_proof: true,
            ..Metadata::default()
        },
        authentication: Authentication::SecretBasic(digest("secret")),
        on_reuse: OnReuse::RevokeFamily,
        created: Timestamp::default(),
        last_used: None,
    }
}

/// The names of the audit trail's lines, oldest first.
pub(super) async fn trail(store: &Store) -> Vec<&'static str> {
    let page = audit::list(store, None, 200).await.unwrap();
    page.items.iter().rev().map(|row| row.entry.event.name()).collect()
}

pub(super) async fn last_event(store: &Store) -> AuditEvent {
    audit::list(store, None, 1).await.unwrap().items.remove(0).entry.event
}

/// What was announced so far.
pub(super) async fn announced(store: &Store) -> Vec<Change> {
    match store.read(|tx| changes::since(tx, Revision::default())).await.unwrap() {
        News::Changes { changes, .. } => changes,
        News::Everything { .. } => panic!("changes are missing"),
    }
}

/// Shows that every index, expiry and count is what the records say, and nothing else is there.
pub(super) async fn verify(store: &Store) {
    assert_eq!(store.verify().await.unwrap(), []);
    store.read(verify_in).await.unwrap();
}

fn verify_in(tx: &mut ReadTx<'_>) -> Result<(), StoreError> {
    let mut expected = BTreeSet::new();
    for counted in [
        check_count(tx, &clients::CLIENTS, &mut expected)?,
        check_count(tx, &authorizations::REQUESTS, &mut expected)?,
        check_count(tx, &authorizations::PUSHED, &mut expected)?,
        check_count(tx, &devices::DEVICES, &mut expected)?,
        check_count(tx, &guests::GUESTS, &mut expected)?,
    ] {
        assert!(counted, "a count is wrong");
    }
    expiries(tx, &authorizations::CODES, &mut expected)?;
    expiries(tx, &grants::GRANTS, &mut expected)?;
    expiries(tx, &grants::TOKENS, &mut expected)?;
    expiries(tx, &grants::SEALED, &mut expected)?;
    expiries(tx, &devices::MISSES, &mut expected)?;
    expiries(tx, &consents::CONSENTS, &mut expected)?;
    expiries(tx, &marks::MARKS, &mut expected)?;
    expiries(tx, &revocations::DENIED, &mut expected)?;
    expiries(tx, &revocations::WATERMARKS, &mut expected)?;
    expiries(tx, &connections::REVOCATIONS, &mut expected)?;
    expiries(tx, &links::LINKS, &mut expected)?;
    let is_ours = |row: &Row| row.0[8..10] != Table::Changes.number().to_be_bytes();
    let there: BTreeSet<Vec<u8>> = rows(tx, Table::Expiry)?.into_iter().filter(is_ours).map(|(key, _)| key).collect();
    assert!(there == expected, "the table of expiries has other rows than the records say");
    Ok(())
}

fn check_count<R: Serialize + DeserializeOwned>(
    tx: &mut ReadTx<'_>,
    counted: &Counted<R>,
    expected: &mut BTreeSet<Vec<u8>>,
) -> Result<bool, StoreError> {
    let there = expiries(tx, &counted.records, expected)?;
    Ok(counted.len(tx)? == there as u64)
}

/// Adds the expiries that the records of a table should have, and tells how many records there are.
fn expiries<R: Serialize + DeserializeOwned>(
    tx: &mut ReadTx<'_>,
    typed: &Typed<R>,
    expected: &mut BTreeSet<Vec<u8>>,
) -> Result<usize, StoreError> {
    let rows = rows(tx, typed.table)?;
    for (key, row) in &rows {
        if let Some(at) = typed.expires.unwrap()(&typed.decode(row)?) {
            expected.insert(expiry_key(at, typed.table, key));
        }
    }
    Ok(rows.len())
}

pub(super) fn rows(tx: &mut ReadTx<'_>, table: Table) -> Result<Vec<Row>, StoreError> {
    let mut all: Vec<Row> = Vec::new();
    loop {
        let bounds = all.last().map_or_else(Bounds::all, |(key, _)| Bounds::after(key.clone()));
        let some = tx.range(table, &bounds, Direction::Forward, MAX_RANGE)?;
        let is_last = some.len() < MAX_RANGE;
        all.extend(some);
        if is_last {
            return Ok(all);
        }
    }
}
