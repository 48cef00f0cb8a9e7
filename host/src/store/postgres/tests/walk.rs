//! Everything at once: a whole store on its way into a database and out again.

use super::super::super::dump::import::{is_empty, load};
use super::super::super::dump::restore::{Present, RestoreError, migrate, restore};
use super::super::super::dump::{Dump, DumpError, summary};
use super::super::super::engine::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use super::super::super::{Location, Store, StoreError, WriteTx, replicas};
use crate::env::Timestamp;
use crate::ids::ReplicaId;

use super::{Server, StandingClock, TABLE, Table, database, open};

/// More rows than a page has, of all sizes, in several tables.
async fn fill(store: &Store) {
    let put = |tx: &mut WriteTx<'_>| -> Result<(), StoreError> {
        for row in 0..300_u32 {
            tx.put(TABLE, &row.to_be_bytes(), &row.to_be_bytes().repeat(row as usize % 50))?;
        }
        tx.put(Table::Expiry, b"", b"a key may be empty")?;
        tx.put(Table::Expiry, &[0], b"")?;
        tx.put(Table::RecordingPieces, &[0xff; MAX_KEY_BYTES], &[7; MAX_VALUE_BYTES])
    };
    store.write(put).await.unwrap();
}

#[tokio::test]
async fn a_store_moves_into_a_database_and_back_with_the_same_digest() {
    let server = Server::shared();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| Location::File(directory.path().join(name));
    let there = database(server, &server.new_schema());
    let env = StandingClock::at(1_000).env();
    let store = Store::open(at("first"), env.clone()).await.unwrap();
    fill(&store).await;
    let (expected, deployment) = (summary(&store).await.unwrap(), store.deployment());
    store.close().await;

    let target = Location::Postgres(there.clone());
    assert_eq!(migrate(&at("first"), &target, &env, &|_| {}).await.unwrap(), expected);
    assert_eq!(migrate(&target, &at("second"), &env, &|_| {}).await.unwrap(), expected);
    let refused = migrate(&at("first"), &target, &env, &|_| {}).await;
    assert!(matches!(refused, Err(DumpError::NotEmpty)), "{refused:?}");

    let moved = open(&there).await;
    assert_eq!((moved.deployment(), summary(&moved).await.unwrap()), (deployment, expected));
    let stats = moved.stats().await.unwrap();
    let of = |table: Table| stats.tables.iter().find(|row| row.table == table).unwrap();
    assert_eq!((of(TABLE).rows, of(Table::Expiry).rows, of(Table::Users).rows), (300, 2, 0));
    assert_eq!(of(Table::RecordingPieces).bytes as usize, MAX_KEY_BYTES + MAX_VALUE_BYTES);
    let file = stats.file.unwrap();
    assert!(file.bytes >= file.page_bytes && file.page_bytes >= 4_096, "{file:?}");
    moved.close().await;
}

#[tokio::test]
async fn an_export_is_of_one_state_whatever_is_written_meanwhile() {
    let server = Server::shared();
    let store = open(&database(server, &server.new_schema())).await;
    fill(&store).await;
    let mut export = store.export().await.unwrap();
    store.write(|tx| tx.put(TABLE, b"late", b"1")).await.unwrap();
    store.write(|tx| tx.remove(TABLE, &7_u32.to_be_bytes())).await.unwrap();
    let mut keys = Vec::new();
    while let Some(batch) = export.next().await.unwrap() {
        if batch.table == TABLE {
            keys.extend(batch.rows.into_iter().map(|(key, _)| key));
        }
    }
    let expected: Vec<_> = (0..300_u32).map(|row| row.to_be_bytes().to_vec()).collect();
    assert_eq!(keys, expected);
    // One that nobody reads keeps nobody from closing.
    let unread = store.export().await.unwrap();
    let closed = tokio::time::timeout(std::time::Duration::from_secs(4), store.close()).await;
    assert!(closed.is_ok(), "it ends with the store");
    drop(unread);
}

/// A dump of a store that holds something.
async fn dumped() -> Vec<u8> {
    let store = Store::open(Location::Memory, StandingClock::at(1_000).env()).await.unwrap();
    fill(&store).await;
    let mut dump = Dump::of(&store, Timestamp::from_millis(1_000)).await.unwrap();
    let mut whole = Vec::new();
    while let Some(piece) = dump.next().await.unwrap() {
        whole.extend_from_slice(&piece);
    }
    whole
}

#[tokio::test]
async fn a_restore_is_whole_in_a_later_epoch_or_no_store_at_all() {
    let server = Server::shared();
    let schema = server.new_schema();
    let database = database(server, &schema);
    let here = Location::Postgres(database.clone());
    let env = StandingClock::at(1_000).env();
    let bytes = dumped().await;
    let rows = || server.ask(&format!("SELECT count(*) FROM {schema}.kv"));

    // What is damaged is taken out again, wherever that shows.
    for cut in [100, bytes.len() / 2, bytes.len() - 1] {
        let refused = restore(&bytes[..cut], &here, Present::Keep, &env).await;
        assert!(matches!(refused, Err(RestoreError::Dump(DumpError::CutShort))), "{refused:?}");
        assert_eq!(rows(), "0", "cut at {cut}");
    }
    // One that is killed before its end leaves nothing that opens, however much of it is there…
    let killed = Store::open_to_fill(here.clone(), env.clone()).await.unwrap();
    drop(load(bytes.as_slice(), &killed).await.unwrap());
    killed.close().await;
    let opened = super::try_open(&database).await;
    assert!(matches!(opened, Err(StoreError::Incomplete)), "{opened:?}");
    // … and the next begins anew, with what it is given.
    let restored = restore(bytes.as_slice(), &here, Present::Keep, &env).await.unwrap();
    let store = open(&database).await;
    assert_eq!((store.epoch(), restored.epoch > 1), (restored.epoch, true));
    assert!(store.read(|tx| tx.get(TABLE, &7_u32.to_be_bytes())).await.unwrap().is_some());
    store.close().await;
    let there = rows();
    let refused = restore(bytes.as_slice(), &here, Present::Keep, &env).await;
    assert!(matches!(refused, Err(RestoreError::Dump(DumpError::NotEmpty))), "{refused:?}");
    assert_eq!(rows(), there);
}

#[tokio::test]
async fn a_store_that_gateways_work_with_is_not_copied() {
    let server = Server::shared();
    let database = database(server, &server.new_schema());
    let store = open(&database).await;
    let gateway = replicas::Replica {
        id: ReplicaId::parse(&"5".repeat(24)).unwrap(),
        address: Some("10.0.0.5:7402".to_owned()),
        started: Timestamp::default(),
        seen: Timestamp::default(),
        version: "0.1.0".to_owned(),
        configuration: String::new(),
    };
    replicas::renew(&store, gateway.clone()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (Location::Postgres(database), Location::File(directory.path().join("copy")));
    let env = StandingClock::at(1_000).env();
    match migrate(&from, &to, &env, &|_| {}).await {
        Err(DumpError::InUse { gateways }) => assert_eq!(gateways, [format!("{} at 10.0.0.5:7402", gateway.id)]),
        other => panic!("{other:?}"),
    }
    replicas::leave(&store, gateway.id).await.unwrap();
    assert_eq!(migrate(&from, &to, &env, &|_| {}).await.unwrap(), summary(&store).await.unwrap());
    store.close().await;
}

#[tokio::test]
async fn whoever_looks_makes_no_store_and_overlooks_no_table() {
    let server = Server::shared();
    let schema = server.new_schema();
    let look = async || {
        let here = Location::Postgres(database(server, &schema));
        Store::open_existing(here, StandingClock::at(1_000).env()).await
    };
    assert!(matches!(look().await, Err(StoreError::Absent)));
    assert_eq!(server.ask(&format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'")), "0");
    open(&database(server, &schema)).await.close().await;
    let store = look().await.unwrap();
    assert!(is_empty(&store).await.unwrap());
    server.ask(&format!("INSERT INTO {schema}.kv VALUES (999, 'k', 'v')"));
    assert!(!is_empty(&store).await.unwrap());
    let refused = summary(&store).await.unwrap_err();
    assert!(matches!(&refused, StoreError::UnknownTable { name } if name == "999"), "{refused:?}");
    store.close().await;
}
