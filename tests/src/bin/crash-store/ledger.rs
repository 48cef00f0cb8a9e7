//! What was acknowledged, and whether the store has it.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use portcullis::audit::AuditEvent;
use portcullis::identity::key::Standing;
use portcullis::store::engine::Table;
use portcullis::store::{Store, StoreError, audit, keys};

use super::work::{ACCOUNTS, KEYS_KEPT, PARTS, START, WRITERS, get, key_name, large, row};

/// Rows of the audit trail that are looked at.
const AUDIT_ROWS: usize = 200;

/// For each kind of fact and each writer, the last number that was acknowledged.
#[derive(Default)]
pub(crate) struct Ledger {
    last: BTreeMap<(String, u64), u64>,
    acknowledged: u64,
}

impl Ledger {
    /// How many facts there were.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Notes a line of the writers.
    pub(crate) fn note(&mut self, fact: &str) -> anyhow::Result<()> {
        let mut words = fact.split(' ');
        let mut word = || words.next().with_context(|| format!("{fact:?} is no fact"));
        let (kind, writer, number) = (word()?.to_owned(), word()?.parse()?, word()?.parse()?);
        self.last.insert((kind, writer), number);
        self.acknowledged += 1;
        Ok(())
    }

    fn last(&self, kind: &str, writer: u64) -> Option<u64> {
        self.last.get(&(kind.to_owned(), writer)).copied()
    }

    /// Compares with the store. Each writer waits for its answer before it goes on: what it had not yet been told may be
    /// there, but only that one thing.
    pub(crate) async fn check(&mut self, store: &Store) -> anyhow::Result<()> {
        for writer in 0..WRITERS {
            for kind in ["single", "several", "transfer"] {
                let of = if kind == "several" { writer * PARTS } else { writer };
                let there = store.read(move |tx| get(tx, kind, of)).await?;
                let last = self.last(kind, writer).unwrap_or(0);
                ensure!(there >= last, "{kind} {writer} was {last} and is {there}: an acknowledged fact is lost");
                ensure!(there <= last + 1, "{kind} {writer} was {last} and is {there}: nobody wrote that");
                // What was seen stays.
                self.last.insert((kind.to_owned(), writer), there);
            }
            self.check_rows(store, writer).await?;
            self.check_keys(store, writer).await?;
        }
        check_accounts(store).await?;
        check_trail(store).await?;
        let found = store.verify().await?;
        ensure!(found.is_empty(), "indexes and tables disagree: {found:?}");
        Ok(())
    }

    async fn check_rows(&self, store: &Store, writer: u64) -> anyhow::Result<()> {
        let (parts, whole) = store
            .read(move |tx| {
                let parts = (0..PARTS).map(|part| get(tx, "several", writer * PARTS + part));
                let parts = parts.collect::<Result<Vec<u64>, StoreError>>()?;
                Ok::<_, StoreError>((parts, tx.get(Table::Meta, &row("large", writer))?))
            })
            .await?;
        let first = parts[0];
        ensure!(
            parts.iter().all(|part| *part == first),
            "a transaction of writer {writer} is there in part: {parts:?}"
        );
        let expected = (first > 0).then(|| large(first));
        ensure!(whole == expected, "the large row of writer {writer} is not what was written with {first}");
        Ok(())
    }

    async fn check_keys(&self, store: &Store, writer: u64) -> anyhow::Result<()> {
        let Some(created) = self.last("created", writer) else { return Ok(()) };
        let disabled = self.last("disabled", writer);
        let deleted = self.last("deleted", writer);
        // The one that may be being deleted is neither sure to be there nor to be gone.
        let oldest = deleted.map_or(0, |deleted| deleted + 2);
        for number in oldest.max(created.saturating_sub(KEYS_KEPT - 1))..=created {
            let name = key_name(writer, number)?;
            let key = keys::by_name(store, &name).await?.with_context(|| format!("{name} was made and is lost"))?;
            let by_secret = keys::by_digest(store, key.digest).await?;
            ensure!(by_secret.is_some_and(|found| found.name == name), "{name} is not found by its secret");
            if disabled.is_some_and(|disabled| disabled >= number) {
                ensure!(key.standing == Standing::Disabled, "{name} was disabled and is enabled");
            }
        }
        for number in deleted.into_iter().flat_map(|deleted| deleted.saturating_sub(5)..=deleted) {
            let name = key_name(writer, number)?;
            ensure!(keys::by_name(store, &name).await?.is_none(), "{name} was deleted and is there");
        }
        Ok(())
    }
}

async fn check_accounts(store: &Store) -> anyhow::Result<()> {
    let sum = store
        .read(|tx| (0..ACCOUNTS).try_fold(0, |sum, account| Ok::<_, StoreError>(sum + get(tx, "account", account)?)))
        .await?;
    // Before the first start of the writers there are none.
    ensure!(sum == ACCOUNTS * START || sum == 0, "the accounts hold {sum}: a transfer is there in part");
    Ok(())
}

/// The audit trail has no gap, and with a key that goes stands what was revoked with it: each row went in with its change.
async fn check_trail(store: &Store) -> anyhow::Result<()> {
    let newest = audit::list(store, None, AUDIT_ROWS).await?.items;
    let is_gapless = newest.windows(2).all(|pair| pair[0].sequence == pair[1].sequence + 1);
    ensure!(is_gapless, "the audit trail has a gap");
    let mut later: Option<&AuditEvent> = None;
    for event in newest.iter().map(|recorded| &recorded.entry.event) {
        match event {
            AuditEvent::KeyCreated { .. } | AuditEvent::GrantsRevoked { .. } => {}
            AuditEvent::KeyDisabled { name } | AuditEvent::KeyDeleted { name, .. } => {
                let of_key = format!("principal:key:{name}");
                let is_whole = matches!(later, Some(AuditEvent::GrantsRevoked { of, .. }) if *of == of_key);
                ensure!(is_whole, "{event:?} is in the audit trail without what was revoked with it");
            }
            _ => bail!("the audit trail tells what nobody did: {event:?}"),
        }
        later = Some(event);
    }
    Ok(())
}
