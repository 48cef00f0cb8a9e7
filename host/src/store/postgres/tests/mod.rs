//! What only this engine has to withstand: a server that is killed, connections that are cut, and others on the same
//! database. What every engine has to do is in the tests of the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::engine::{Bounds, Direction, MAX_RANGE, Table};
use super::super::tests::StandingClock;
use super::super::{Location, ReadTx, Store, StoreError, WriteTx};
use super::{Authorities, Database, Host, Tls};
use crate::secret::Plaintext;

mod faults;
mod proxy;
mod replicas;
mod sessions;
mod walk;

#[path = "../../../../../tests/src/postgres.rs"]
#[expect(unreachable_pub, reason = "the file is a public module of the black-box tests, too")]
#[expect(dead_code, reason = "not everything in it is needed here")]
pub(in crate::store) mod server;

use server::Server;

const TABLE: Table = Table::Decisions;

/// A deployment in a schema of a server.
pub(in crate::store) fn database(server: &Server, schema: &str) -> Database {
    Database {
        hosts: vec![Host::Tcp { name: "127.0.0.1".to_owned(), port: server.port() }],
        user: server::USER.to_owned(),
        password: Some(Plaintext::new(server::PASSWORD)),
        name: server::DATABASE.to_owned(),
        schema: schema.to_owned(),
        tls: Tls::Disable,
    }
}

/// The same deployment at another port, behind which there is a proxy.
fn through(port: u16, database: &Database) -> Database {
    Database { hosts: vec![Host::Tcp { name: "127.0.0.1".to_owned(), port }], ..database.clone() }
}

async fn try_open(database: &Database) -> Result<Store, StoreError> {
    Store::open(Location::Postgres(database.clone()), StandingClock::at(1_000).env()).await
}

async fn open(database: &Database) -> Store {
    try_open(database).await.unwrap()
}

/// One transition that shows whether it was lost or doubled: it counts, and leaves a row of its own with the count.
fn step(id: u64) -> impl Fn(&mut WriteTx<'_>) -> Result<u64, StoreError> + Send + 'static {
    move |tx| {
        let next = count(tx)? + 1;
        tx.put(TABLE, b"count", &next.to_be_bytes())?;
        let before = tx.get(TABLE, &row(id))?.unwrap_or_default();
        tx.put(TABLE, &row(id), &[before, next.to_be_bytes().to_vec()].concat())?;
        Ok(next)
    }
}

fn row(id: u64) -> Vec<u8> {
    [b"step ".as_slice(), &id.to_be_bytes()].concat()
}

fn count(tx: &mut ReadTx<'_>) -> Result<u64, StoreError> {
    let bytes = tx.get(TABLE, b"count")?;
    Ok(bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap())))
}

/// What the steps of a test came to.
#[derive(Default)]
struct Ledger {
    /// Steps that were told to be done, with what they answered.
    done: Vec<(u64, u64)>,
    /// Steps of which nobody knows, or that were not done.
    failed: Vec<u64>,
}

impl Ledger {
    /// Adds what a step came to.
    fn note(&mut self, id: u64, answer: Result<u64, StoreError>) {
        match answer {
            Ok(count) => self.done.push((id, count)),
            Err(StoreError::Unavailable { .. } | StoreError::Busy) => self.failed.push(id),
            Err(error) => panic!("step {id}: {error:?}"),
        }
    }

    /// Compares with what is stored: each step that was told to be done is there with its answer, no step is there
    /// twice, and the count is that of the steps that are there.
    async fn check(&self, store: &Store) {
        let (total, rows) = store
            .read(|tx| -> Result<_, StoreError> {
                let mut rows = Vec::new();
                loop {
                    let last = rows.last().map(|(key, _): &(Vec<u8>, Vec<u8>)| key.clone());
                    let mut bounds = Bounds::within(b"step ");
                    if let Some(last) = last {
                        bounds.lower = std::ops::Bound::Excluded(last);
                    }
                    let some = tx.range(TABLE, &bounds, Direction::Forward, MAX_RANGE)?;
                    let is_last = some.len() < MAX_RANGE;
                    rows.extend(some);
                    if is_last {
                        break Ok((count(tx)?, rows));
                    }
                }
            })
            .await
            .unwrap();
        assert_eq!(total, rows.len() as u64, "the count and the steps");
        let mut counts: Vec<u64> = Vec::new();
        for (key, value) in &rows {
            assert_eq!(value.len(), 8, "a step was done twice: {key:?} {value:?}");
            counts.push(u64::from_be_bytes(value.as_slice().try_into().unwrap()));
        }
        counts.sort_unstable();
        assert_eq!(counts, (1..=total).collect::<Vec<_>>(), "no count is missing or double");
        for (id, answer) in &self.done {
            let stored = rows.iter().find(|(key, _)| *key == row(*id));
            assert_eq!(stored.map(|(_, value)| value.as_slice()), Some(answer.to_be_bytes().as_slice()), "step {id}");
        }
        for (key, _) in &rows {
            let id = u64::from_be_bytes(key[5..].try_into().unwrap());
            let is_known = self.done.iter().any(|(done, _)| *done == id) || self.failed.contains(&id);
            assert!(is_known, "a step that nobody took: {id}");
        }
    }
}

/// Asks again until there is an answer.
async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap_or_else(|_| panic!("it never came to: {what}"))
}

/// An error with everything behind it, as a log would have it.
fn whole(error: &StoreError) -> String {
    format!("{error}: {}: {error:?}", super::source(error))
}
