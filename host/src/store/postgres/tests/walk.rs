//! Everything at once: a whole store on its way into a database and out again.

use super::super::super::dump::restore::migrate;
use super::super::super::dump::{DumpError, summary};
use super::super::super::engine::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use super::super::super::{Location, Store, StoreError, WriteTx};
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
    assert_eq!(migrate(&at("first"), &target, &env).await.unwrap(), expected);
    assert_eq!(migrate(&target, &at("second"), &env).await.unwrap(), expected);
    let refused = migrate(&at("first"), &target, &env).await;
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
