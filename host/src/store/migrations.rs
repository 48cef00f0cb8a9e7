//! From one schema to the next: forward only, in order, each in bounded transactions, before anything else opens.
//!
//! A migration may be interrupted anywhere and begins anew then, so that each of its steps does no harm when it is
//! made again. Several gateways that start at once on a shared store make the same steps, one after the other, and
//! whoever comes later finds the schema raised. `meta` says which schema is stored and which is the least that a
//! program has to know to open it; a program that knows less refuses to start.

use super::engine::{Bounds, Direction, ReadTx, Table, WriteTx};
use super::table::Single;
use super::{Identity, Store, StoreError, approvals};
use crate::env::Env;
use crate::ids::DeploymentId;

/// The schema that this version writes, and the newest that it opens unless that says otherwise.
///
/// 1. Keys, trails, approvals, pins, recordings.
/// 2. What expires is in one index for all tables; changes that others follow; leases; whose store it is.
pub const SCHEMA: u32 = 2;
/// The least that a program has to know to open what this version writes. A version before 2 would forget nothing.
const MIN_READER: u32 = 2;

/// Rows that one step of a migration moves.
const STEP: usize = 200;

pub(super) const STORED_SCHEMA: Single<u32> = Single::new("schema");
pub(super) const STORED_MIN_READER: Single<u32> = Single::new("min_reader");
pub(super) const DEPLOYMENT: Single<DeploymentId> = Single::new("deployment");
const EPOCH: Single<u64> = Single::new("epoch");

/// One step of a migration, from where the one before ended: where the next begins, or that there is none.
type Step = fn(&mut WriteTx<'_>, Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError>;

/// To which schema, and how.
const MIGRATIONS: &[(u32, &[Step])] = &[(2, &[approvals::expire_with_all_others, empty_approvals_by_expiry])];

/// Makes a new store or brings an earlier one to the present schema; tells whose it is.
pub(super) async fn prepare(store: &Store, env: &Env) -> Result<Identity, StoreError> {
    let new = DeploymentId::generate(env);
    let stored = store.write(move |tx| begin(tx, new)).await?;
    for (to, steps) in MIGRATIONS.iter().filter(|(to, _)| *to > stored) {
        tracing::info!(from = to - 1, to, "bringing the store to a newer schema");
        for step in *steps {
            let mut at: Option<Vec<u8>> = None;
            loop {
                at = store.write(move |tx| make(tx, *to, *step, at.as_deref())).await?;
                if at.is_none() {
                    break;
                }
            }
        }
        store.write(move |tx| raise(tx, *to)).await?;
    }
    store.read(identity).await
}

/// The schema that is stored; a new store has the present one.
fn begin(tx: &mut WriteTx<'_>, new: DeploymentId) -> Result<u32, StoreError> {
    let stored = readable(tx)?;
    if stored.is_none() {
        STORED_SCHEMA.put(tx, &SCHEMA)?;
        STORED_MIN_READER.put(tx, &MIN_READER)?;
    }
    if DEPLOYMENT.get(tx)?.is_none() {
        DEPLOYMENT.put(tx, &new)?;
    }
    if EPOCH.get(tx)?.is_none() {
        EPOCH.put(tx, &1)?;
    }
    Ok(stored.unwrap_or(SCHEMA))
}

/// The schema that is stored, if there is one, unless this version may not read it.
pub(super) fn readable(tx: &mut ReadTx<'_>) -> Result<Option<u32>, StoreError> {
    let (stored, min_reader) = (STORED_SCHEMA.get(tx)?, STORED_MIN_READER.get(tx)?);
    match stored {
        // A newer one that does not say who may read it may be read by nobody older.
        Some(found) if found > SCHEMA && min_reader.unwrap_or(found) > SCHEMA => {
            Err(StoreError::NewerSchema { found, known: SCHEMA })
        }
        stored => Ok(stored),
    }
}

/// Whose store it is, of one that stays as it is. `unsaid` is what one of an early schema does not say yet.
pub(super) fn look(tx: &mut ReadTx<'_>, unsaid: Identity) -> Result<Identity, StoreError> {
    let Some(_) = readable(tx)? else { return Err(StoreError::Absent) };
    let (deployment, epoch) = (DEPLOYMENT.get(tx)?, EPOCH.get(tx)?);
    Ok(Identity { deployment: deployment.unwrap_or(unsaid.deployment), epoch: epoch.unwrap_or(unsaid.epoch) })
}

/// Makes a step, unless somebody else has finished the migration meanwhile.
fn make(tx: &mut WriteTx<'_>, to: u32, step: Step, at: Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
    if STORED_SCHEMA.get(tx)?.is_some_and(|stored| stored >= to) {
        return Ok(None);
    }
    step(tx, at)
}

fn raise(tx: &mut WriteTx<'_>, to: u32) -> Result<(), StoreError> {
    if STORED_SCHEMA.get(tx)?.is_none_or(|stored| stored < to) {
        STORED_SCHEMA.put(tx, &to)?;
        STORED_MIN_READER.put(tx, &MIN_READER)?;
    }
    Ok(())
}

fn identity(tx: &mut ReadTx<'_>) -> Result<Identity, StoreError> {
    let missing = || super::table::unreadable(Table::Meta, "it does not say whose store it is");
    let (deployment, epoch) = (DEPLOYMENT.get(tx)?, EPOCH.get(tx)?);
    Ok(Identity { deployment: deployment.ok_or_else(missing)?, epoch: epoch.ok_or_else(missing)? })
}

/// See [`super::epoch`].
pub(super) fn epoch(tx: &mut ReadTx<'_>) -> Result<u64, StoreError> {
    identity(tx).map(|identity| identity.epoch)
}

/// See [`super::begin_epoch`].
pub(super) fn begin_epoch(tx: &mut WriteTx<'_>, least: u64) -> Result<u64, StoreError> {
    let epoch = EPOCH.get(tx)?.unwrap_or(0).saturating_add(1).max(least);
    EPOCH.put(tx, &epoch)?;
    Ok(epoch)
}

/// To 2: the approvals' own index goes.
fn empty_approvals_by_expiry(tx: &mut WriteTx<'_>, _: Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
    let rows = tx.range(Table::ApprovalsByExpiry, &Bounds::all(), Direction::Forward, STEP)?;
    rows.iter().try_for_each(|(key, _)| tx.remove(Table::ApprovalsByExpiry, key))?;
    Ok(rows.into_iter().nth(STEP - 1).map(|(last, _)| last))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::Duration;

    use super::super::dump::restore::{Present, RestoreError, restore};
    use super::super::engine::Row;
    use super::super::fixtures::{AT_MS, dump, filled, parse, rows};
    use super::super::sweeper::sweep;
    use super::super::tests::StandingClock;
    use super::super::{Location, Purpose, audit, decisions, keys, pins, recordings, redb};
    use super::*;
    use crate::identity::key::Standing;
    use crate::ids::{KeyName, UpstreamName};
    use crate::secret::DeploymentSecret;

    /// What earlier versions wrote, and last what this one writes.
    const FIXTURES: [(u32, &str); 7] = [
        (1, include_str!("../../../tests/fixtures/store/schema-1.txt")),
        (2, include_str!("../../../tests/fixtures/store/schema-2.txt")),
        (2, include_str!("../../../tests/fixtures/store/schema-2b.txt")),
        (2, include_str!("../../../tests/fixtures/store/schema-2c.txt")),
        (2, include_str!("../../../tests/fixtures/store/schema-2d.txt")),
        (2, include_str!("../../../tests/fixtures/store/schema-2e.txt")),
        (2, include_str!("../../../tests/fixtures/store/schema-2f.txt")),
    ];
    const PRESENT: &str = FIXTURES[FIXTURES.len() - 1].1;

    /// Puts rows into a file, past everything that would make sense of them.
    async fn write_file(path: &Path, tables: BTreeMap<Table, Vec<Row>>) {
        let env = StandingClock::at(AT_MS).env();
        let engine = redb::Engine::open(Some(path.to_owned()), env, redb::GROUP, Purpose::Use).await.unwrap();
        for (table, rows) in tables {
            let put = move |tx: &mut WriteTx<'_>| rows.iter().try_for_each(|(key, value)| tx.put(table, key, value));
            engine.write(put).await.unwrap();
        }
        engine.close().await;
    }

    /// A fixture, opened by this version.
    async fn opened(text: &str, clock: &StandingClock) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.redb");
        write_file(&path, parse(text)).await;
        let store = Store::open(Location::File(path), clock.env()).await.unwrap();
        (directory, store)
    }

    #[test]
    fn there_is_a_fixture_of_every_schema() {
        let mut schemas = FIXTURES.map(|(schema, _)| schema).to_vec();
        schemas.dedup();
        assert!(schemas.into_iter().eq(1..=SCHEMA));
        for (schema, text) in FIXTURES {
            let meta = &parse(text)[&Table::Meta];
            let stored = meta.iter().find(|(key, _)| key == b"schema").unwrap();
            assert_eq!(stored.1, format!("\u{1}{schema}").as_bytes());
        }
    }

    #[tokio::test]
    async fn every_record_of_every_schema_reads_back() {
        for (schema, text) in FIXTURES {
            let (_directory, store) = opened(text, &StandingClock::at(AT_MS)).await;
            let all = store.examine().await.unwrap();
            assert!(all.is_sound(), "schema {schema}: {all:?}");
            for (table, before) in parse(text) {
                if ![Table::Meta, Table::ApprovalsByExpiry, Table::Expiry].contains(&table) {
                    let now = rows(&store, table).await;
                    assert_eq!(now.len(), before.len(), "schema {schema}: {table:?}");
                }
            }
            assert_eq!(store.read(|tx| STORED_SCHEMA.get(tx)).await.unwrap(), Some(SCHEMA));
            assert_eq!(rows(&store, Table::ApprovalsByExpiry).await, []);
            read_back(&store).await;
        }
    }

    /// What `fixtures` fills in, as the verbs tell it.
    async fn read_back(store: &Store) {
        let key = |name: &str| KeyName::parse(name).unwrap();
        let all = keys::all(store).await.unwrap();
        let standing = all.iter().map(|key| (key.name.clone(), key.standing)).collect::<Vec<_>>();
        assert_eq!(standing, [(key("ci"), Standing::Enabled), (key("laptop"), Standing::Disabled)]);
        let now = crate::env::Timestamp::from_millis(AT_MS);
        let approvals = approvals::list(store, None, now, None, 10).await.unwrap().items;
        let states = approvals.iter().map(|approval| approval.standing(now).as_str()).collect::<Vec<_>>();
        assert_eq!(states, ["used", "denied", "approved", "pending"]);
        for approval in &approvals[1..] {
            assert_eq!(approvals::find(store, approval.bound_to).await.unwrap().as_ref(), Some(approval));
        }
        let trail = audit::list(store, None, 100).await.unwrap().items;
        assert_eq!(trail.iter().map(|row| row.sequence).max(), Some(trail.len() as u64));
        let decided = decisions::list(store, decisions::Filter::default(), None, 10).await.unwrap().items;
        assert_eq!(decided.len(), 3);
        let upstream = UpstreamName::parse("notes").unwrap();
        assert_eq!(pins::of(store, &upstream).await.unwrap().unwrap().0.len(), 3);
        let secret = DeploymentSecret::new(&[7; 32]);
        let recorded = recordings::get(store, &secret, &decided[1].id).await.unwrap().unwrap();
        assert!(matches!(recorded.questions[0].words, recordings::Words::Whole(_)), "also what is in pieces");
    }

    #[tokio::test]
    async fn what_expires_is_forgotten_after_the_migration_as_it_would_have_been() {
        let clock = StandingClock::at(AT_MS);
        let (_directory, store) = opened(FIXTURES[0].1, &clock).await;
        assert_eq!(rows(&store, Table::Expiry).await.len(), 4);
        clock.advance(Duration::from_secs(30 * 24 * 3_600));
        assert_eq!(sweep(&store).await, 4);
        assert_eq!(approvals::list(&store, None, clock.env().now(), None, 10).await.unwrap().items, []);
        assert!(store.examine().await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn a_migration_that_was_interrupted_is_made_anew() {
        // In the middle of moving the approvals: some stand in both indexes.
        let clock = StandingClock::at(AT_MS);
        let (_whole, expected) = opened(FIXTURES[0].1, &clock).await;
        let mut tables = parse(FIXTURES[0].1);
        let moved = rows(&expected, Table::Expiry).await;
        tables.insert(Table::Expiry, moved[..2].to_vec());
        tables.get_mut(&Table::ApprovalsByExpiry).unwrap().truncate(3);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.redb");
        write_file(&path, tables).await;
        let store = Store::open(Location::File(path), clock.env()).await.unwrap();
        assert_eq!(dump(&store).await, dump(&expected).await);
    }

    #[tokio::test]
    async fn a_fixture_of_the_present_schema_is_what_is_written() {
        // Recordings are sealed with new nonces each time.
        let comparable = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with("recording"));
            lines.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let written = dump(&filled().await).await;
        if comparable(&written) != comparable(PRESENT) {
            let new = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/store/schema-2.txt.new");
            std::fs::write(new, &written).unwrap();
            panic!("the form of records has changed: old forms have to stay readable. What is written now is in {new}");
        }
    }

    #[tokio::test]
    async fn whoever_only_looks_changes_nothing() {
        let clock = StandingClock::at(AT_MS);
        for (schema, text) in FIXTURES {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("portcullis.redb");
            write_file(&path, parse(text)).await;
            let here = Location::File(path.clone());

            let store = Store::open_existing(here.clone(), clock.env()).await.unwrap();
            store.stats().await.unwrap();
            match store.examine().await {
                Ok(verification) => assert!(schema == SCHEMA && verification.is_sound()),
                Err(StoreError::OlderSchema { found, .. }) => assert!(found == schema && schema < SCHEMA),
                Err(error) => panic!("{error}"),
            }
            assert_eq!(store.epoch(), 1);
            let rows = parse(text).values().map(Vec::len).sum::<usize>() as u64;
            assert_eq!(super::super::dump::summary(&store).await.unwrap().rows, rows);
            store.close().await;
            let copy = Location::File(directory.path().join("copy"));
            super::super::dump::restore::migrate(&here, &copy, &clock.env(), &|_| {}).await.unwrap();
            let env = clock.env();
            let refused = restore(b"".as_slice(), &here, Present::Keep, &env).await;
            assert!(matches!(refused, Err(RestoreError::NotEmpty { .. })), "{refused:?}");
            let store = Store::open_existing(here, clock.env()).await.unwrap();
            assert!(parse(&dump(&store).await) == parse(text), "every row is what it was, to the byte");
            store.close().await;

            // The copy is as good as what it is of.
            let store = Store::open(copy, clock.env()).await.unwrap();
            assert!(store.examine().await.unwrap().is_sound());
            read_back(&store).await;
        }
    }

    #[tokio::test]
    async fn whoever_only_looks_makes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.redb");
        let look = async || Store::open_existing(Location::File(path.clone()), Env::system()).await.map(drop);
        assert!(matches!(look().await, Err(StoreError::Open { .. })));
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        assert!(matches!(look().await, Err(StoreError::Absent)));
        assert_eq!(path.metadata().unwrap().len(), 0);
        // Nor is a file changed that is none.
        std::fs::write(&path, "something else").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(look().await.is_err());
        assert!(Store::open(Location::File(path.clone()), Env::system()).await.is_err());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read(&path).unwrap(), b"something else");
        // A file that is ours has nothing in it as long as nobody has worked with it.
        std::fs::remove_file(&path).unwrap();
        write_file(&path, BTreeMap::new()).await;
        assert!(matches!(look().await, Err(StoreError::Absent)));
    }

    #[tokio::test]
    async fn whoever_peeks_repairs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (path, copy) = (directory.path().join("portcullis.redb"), directory.path().join("copy.redb"));
        let peek = async |path: &Path| Store::peek(Location::File(path.to_owned()), Env::system()).await;
        let store = Store::open(Location::File(path.clone()), Env::system()).await.unwrap();
        let deployment = store.deployment();
        assert!(matches!(peek(&path).await, Err(StoreError::InUse { .. })));
        // What is left of a gateway that was killed.
        std::fs::copy(&path, &copy).unwrap();
        store.close().await;
        let before = [std::fs::read(&path).unwrap(), std::fs::read(&copy).unwrap()];
        assert!(peek(&path).await.unwrap().deployment == deployment);
        assert!(matches!(peek(&copy).await, Err(StoreError::NotClosed { .. })));
        assert!([std::fs::read(&path).unwrap(), std::fs::read(&copy).unwrap()] == before);
        std::fs::write(&copy, "").unwrap();
        assert!(matches!(peek(&copy).await, Err(StoreError::Absent)));
        std::fs::write(&copy, "something else").unwrap();
        assert!(matches!(peek(&copy).await, Err(StoreError::Open { .. })));
    }

    #[tokio::test]
    async fn a_store_knows_whose_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let location = || Location::File(directory.path().join("portcullis.redb"));
        let store = Store::open(location(), Env::system()).await.unwrap();
        let (deployment, epoch) = (store.deployment(), store.epoch());
        assert_eq!((epoch, store.read(super::epoch).await.unwrap()), (1, 1));
        assert_eq!(store.write(|tx| begin_epoch(tx, 0)).await.unwrap(), 2);
        let replica = store.replica().clone();
        store.close().await;
        let store = Store::open(location(), Env::system()).await.unwrap();
        assert_eq!((store.deployment(), store.epoch()), (deployment, 2));
        assert_ne!(store.replica(), &replica);
        store.close().await;
        let other = Store::open(Location::Memory, Env::system()).await.unwrap();
        assert_ne!(other.deployment(), deployment);
    }

    #[tokio::test]
    async fn a_newer_schema_opens_only_for_those_that_it_names() {
        for (schema, min_reader, opens) in [
            (SCHEMA + 1, None, false),
            (SCHEMA + 1, Some(SCHEMA + 1), false),
            (SCHEMA + 1, Some(SCHEMA), true),
            (SCHEMA + 7, Some(1), true),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("portcullis.redb");
            let mut meta = vec![(b"schema".to_vec(), format!("\u{1}{schema}").into_bytes())];
            meta.extend(min_reader.map(|least| (b"min_reader".to_vec(), format!("\u{1}{least}").into_bytes())));
            write_file(&path, BTreeMap::from([(Table::Meta, meta)])).await;
            let env = StandingClock::at(AT_MS).env();
            match Store::open(Location::File(path), env).await {
                Ok(store) => {
                    assert!(opens);
                    assert_eq!(store.read(|tx| STORED_SCHEMA.get(tx)).await.unwrap(), Some(schema), "it stays");
                }
                Err(StoreError::NewerSchema { found, known: SCHEMA }) => assert!(!opens && found == schema),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
