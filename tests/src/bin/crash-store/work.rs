//! The program that is killed: writers of different kinds, each of which tells a fact only when the store has
//! acknowledged it.

use std::io::Write as _;
use std::path::Path;

use anyhow::ensure;
use portcullis::Env;
use portcullis::audit::{Actor, OperatorProof};
use portcullis::identity::TokenList;
use portcullis::identity::key::{AllowList, ManagedBy, Standing, VirtualKey};
use portcullis::ids::KeyName;
use portcullis::store::engine::Table;
use portcullis::store::keys::{self, Creation, Deletion, StandingChange};
use portcullis::store::{Location, ReadTx, Store, StoreError, WriteTx};
use portcullis_tests::proxies::dice::Dice;
use tokio::task::JoinSet;

/// Told once the store is open.
pub(crate) const READY: &str = "ready";

/// Writers of each kind.
pub(crate) const WRITERS: u64 = 6;
pub(crate) const ACCOUNTS: u64 = 8;
pub(crate) const START: u64 = 1_000;
/// Rows that a writer of several rows keeps equal.
pub(crate) const PARTS: u64 = 5;
/// Keys that a writer of keys leaves in place.
pub(crate) const KEYS_KEPT: u64 = 3;

/// A row of the ledger, in the table of single values, which nothing else reads by prefix.
pub(crate) fn row(kind: &str, of: u64) -> Vec<u8> {
    format!("crash-{kind}-{of:06}").into_bytes()
}

pub(crate) fn get(tx: &mut ReadTx<'_>, kind: &str, of: u64) -> Result<u64, StoreError> {
    let bytes = tx.get(Table::Meta, &row(kind, of))?;
    Ok(bytes.and_then(|bytes| bytes.get(..8)?.try_into().ok()).map_or(0, u64::from_be_bytes))
}

fn put(tx: &mut WriteTx<'_>, kind: &str, of: u64, number: u64) -> Result<(), StoreError> {
    tx.put(Table::Meta, &row(kind, of), &number.to_be_bytes())
}

/// A row of many pages, all of which say the same number.
pub(crate) fn large(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(8_000)
}

pub(crate) fn key_name(writer: u64, number: u64) -> anyhow::Result<KeyName> {
    Ok(KeyName::parse(&format!("crash-{writer}-{number}"))?)
}

/// Writes until it is killed.
pub(crate) async fn run(path: &Path, seed: u64) -> anyhow::Result<()> {
    let store = Store::open(Location::File(path.to_owned()), Env::system()).await?;
    store.write(open_accounts).await?;
    tell(READY)?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(single_rows(store.clone(), writer));
        writers.spawn(several_rows(store.clone(), writer));
        writers.spawn(transfers(store.clone(), writer, Dice::new(seed, writer)));
        writers.spawn(indexed_records(store.clone(), writer));
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

/// One line, written at once: a pipe takes so few bytes whole.
fn tell(fact: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{fact}\n").as_bytes())?;
    out.flush()
}

fn open_accounts(tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
    if tx.get(Table::Meta, &row("account", 0))?.is_some() {
        return Ok(());
    }
    (0..ACCOUNTS).try_for_each(|account| put(tx, "account", account, START))
}

async fn single_rows(store: Store, writer: u64) -> anyhow::Result<()> {
    loop {
        let count = store
            .write(move |tx| {
                let count = get(tx, "single", writer)? + 1;
                put(tx, "single", writer, count).map(|()| count)
            })
            .await?;
        tell(&format!("single {writer} {count}"))?;
    }
}

/// The same number in several rows, one of them large.
async fn several_rows(store: Store, writer: u64) -> anyhow::Result<()> {
    loop {
        let count = store
            .write(move |tx| {
                let count = get(tx, "several", writer * PARTS)? + 1;
                for part in 0..PARTS {
                    put(tx, "several", writer * PARTS + part, count)?;
                }
                tx.put(Table::Meta, &row("large", writer), &large(count))?;
                Ok::<_, StoreError>(count)
            })
            .await?;
        tell(&format!("several {writer} {count}"))?;
    }
}

/// Moves something between accounts that all share, and counts that.
async fn transfers(store: Store, writer: u64, mut dice: Dice) -> anyhow::Result<()> {
    loop {
        let (from, to, amount) = (dice.below(ACCOUNTS), dice.below(ACCOUNTS), dice.below(10));
        let count = store
            .write(move |tx| {
                let have = get(tx, "account", from)?;
                if have >= amount {
                    put(tx, "account", from, have - amount)?;
                    let has = get(tx, "account", to)?;
                    put(tx, "account", to, has + amount)?;
                }
                let count = get(tx, "transfer", writer)? + 1;
                put(tx, "transfer", writer, count).map(|()| count)
            })
            .await?;
        tell(&format!("transfer {writer} {count}"))?;
    }
}

/// Virtual keys through their own verbs: a record, two indexes and the audit trail in one transaction.
async fn indexed_records(store: Store, writer: u64) -> anyhow::Result<()> {
    let actor = Actor::Operator(OperatorProof::Socket);
    let env = Env::system();
    let mut number = store.read(move |tx| get(tx, "next-key", writer)).await?;
    loop {
        let name = key_name(writer, number)?;
        let key = VirtualKey {
            name: name.clone(),
            digest: VirtualKey::new_secret(&env).digest(),
            earlier: None,
            allow: AllowList(Vec::new()),
            scopes: TokenList::default(),
            groups: TokenList::default(),
            created: env.now(),
            expires: None,
            standing: Standing::Enabled,
            owner: None,
            managed_by: ManagedBy::Store,
            revision: 1,
        };
        // What an earlier life left half-told: made, but not counted.
        match keys::create(&store, key, actor).await? {
            Creation::Created { .. } | Creation::NameTaken => tell(&format!("created {writer} {number}"))?,
            other => anyhow::bail!("{name} was not made: {other:?}"),
        }
        let disabled = keys::set_standing(&store, &name, Standing::Disabled, actor).await?;
        ensure!(disabled != StandingChange::NotFound, "{name} is gone");
        tell(&format!("disabled {writer} {number}"))?;
        if let Some(old) = number.checked_sub(KEYS_KEPT) {
            // It may be gone: an earlier life deleted it and could not say so.
            let deletion = keys::delete(&store, &key_name(writer, old)?, None, actor).await?;
            ensure!(matches!(deletion, Deletion::Deleted | Deletion::NotFound), "{name} was not deleted: {deletion:?}");
            tell(&format!("deleted {writer} {old}"))?;
        }
        number += 1;
        store.write(move |tx| put(tx, "next-key", writer, number)).await?;
        tell(&format!("counted {writer} {number}"))?;
    }
}
