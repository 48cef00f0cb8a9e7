//! Several engines on one deployment, and what one transaction may need.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storms_from_two_engines_on_one_row_are_counted_once_each() {
    let database = database(Server::shared(), &Server::shared().new_schema());
    // Both find no table, and one makes it.
    let (first, second) = tokio::join!(open(&database), open(&database));
    assert!(first.is_shared());
    let mut tasks = JoinSet::new();
    for task in 0..64 {
        let store = if task % 2 == 0 { first.clone() } else { second.clone() };
        tasks.spawn(async move {
            let mut done = Vec::new();
            for turn in 0..4 {
                let id = task * 4 + turn;
                done.push((id, store.write(step(id)).await));
            }
            done
        });
    }
    let mut ledger = Ledger::default();
    for (id, answer) in tasks.join_all().await.into_iter().flatten() {
        ledger.note(id, answer);
    }
    assert_eq!((ledger.done.len(), ledger.failed.len()), (256, 0));
    ledger.check(&first).await;
    ledger.check(&second).await;
    first.close().await;
    // One that ends takes nothing from the other.
    assert_eq!(second.write(step(256)).await.unwrap(), 257);
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_in_one_database_do_not_know_of_each_other() {
    let server = Server::shared();
    let first = open(&database(server, &server.new_schema())).await;
    let second = open(&database(server, &server.new_schema())).await;
    assert_eq!(first.write(step(1)).await.unwrap(), 1);
    assert_eq!(second.write(step(1)).await.unwrap(), 1);
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_is_the_databases() {
    let store = open(&database(Server::shared(), &Server::shared().new_schema())).await;
    let ask = || Server::shared().ask("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::int8");
    let before: u64 = ask().parse().unwrap();
    let written = store.write(|tx| Ok::<_, StoreError>(tx.now())).await.unwrap().as_millis();
    let read = store.read(|tx| Ok::<_, StoreError>(tx.now())).await.unwrap().as_millis();
    let after: u64 = ask().parse().unwrap();
    assert!(before <= written && written <= read && read <= after, "{before} {written} {read} {after}");
    store.close().await;
}

/// Follows a chain of `length` rows, each of which leads to the next.
fn follow(length: u8) -> impl Fn(&mut ReadTx<'_>) -> Result<u8, StoreError> + Send + 'static {
    move |tx| {
        let mut at = 0;
        for _ in 0..length {
            let next = tx.get(TABLE, &[at])?;
            at = next.map_or(at, |next| next[0]);
        }
        Ok(at)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_needs_too_many_round_trips_fails_alone() {
    let store = open(&database(Server::shared(), &Server::shared().new_schema())).await;
    store.write(|tx| (0_u8..100).try_for_each(|at| tx.put(TABLE, &[at], &[at + 1]))).await.unwrap();
    let mut others = JoinSet::new();
    for id in 0..32 {
        let store = store.clone();
        others.spawn(async move { (id, store.write(step(id)).await) });
    }
    let short = store.write(|tx| follow(12)(tx));
    let long = store.write(|tx| follow(50)(tx));
    let read = store.read(follow(50));
    let (short, long, read) = tokio::join!(short, long, read);
    assert_eq!(short.unwrap(), 12);
    assert!(matches!(long, Err(StoreError::OverLimit { limit: "dependent reads in one transaction" })), "{long:?}");
    assert_eq!(read.unwrap(), 50, "a read holds nobody up");
    let mut ledger = Ledger::default();
    for (id, answer) in others.join_all().await {
        ledger.note(id, answer);
    }
    assert_eq!(ledger.done.len(), 32);
    ledger.check(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_is_written_in_several_transactions() {
    let store = open(&database(Server::shared(), &Server::shared().new_schema())).await;
    let mut tasks = JoinSet::new();
    for id in 0_u8..60 {
        let store = store.clone();
        tasks.spawn(async move {
            store
                .write(move |tx| (0_u8..4).try_for_each(|part| tx.put(TABLE, &[id, part], &vec![id; 256 * 1024])))
                .await
        });
    }
    for written in tasks.join_all().await {
        written.unwrap();
    }
    let read = store.read(|tx| tx.range(TABLE, &Bounds::within(&[59]), Direction::Backward, 9)).await.unwrap();
    assert_eq!(read.len(), 4);
    assert!(read.iter().all(|(_, value)| value.len() == 256 * 1024 && value.iter().all(|byte| *byte == 59)));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_reads_the_whole_table() {
    let server = Server::shared();
    let schema = server.new_schema();
    let store = open(&database(server, &schema)).await;
    for batch in 0_u32..5 {
        let fill = move |tx: &mut WriteTx<'_>| {
            (0_u32..1_000).try_for_each(|row| tx.put(TABLE, &(batch * 1_000 + row).to_be_bytes(), b"x"))
        };
        store.write::<_, StoreError, _>(fill).await.unwrap();
    }
    for key in 0_u32..50 {
        let first = key.to_be_bytes();
        store.read(move |tx| tx.range(TABLE, &Bounds::after(first), Direction::Backward, 3)).await.unwrap();
        store.write(move |tx| tx.remove(TABLE, &first)).await.unwrap();
    }
    store.close().await;
    eventually("the server tells its counts", async || {
        let used = format!("SELECT idx_scan FROM pg_stat_user_tables WHERE schemaname = '{schema}'");
        server.ask(&used).parse::<u64>().ok().filter(|used| *used >= 50)
    })
    .await;
    let read = format!("SELECT seq_tup_read FROM pg_stat_user_tables WHERE schemaname = '{schema}'");
    assert_eq!(server.ask(&read), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_table_is_gone_does_not_begin_anew() {
    let server = Server::shared();
    let schema = server.new_schema();
    let store = open(&database(server, &schema)).await;
    store.write(step(1)).await.unwrap();
    server.ask(&format!("DROP SCHEMA {schema} CASCADE"));
    for _ in 0..3 {
        let write = store.write(step(2)).await;
        assert!(matches!(write, Err(StoreError::Unavailable { .. })), "{write:?}");
        let read = store.read(count).await;
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    }
    eventually("the store is out of reach", async || (!store.is_reachable()).then_some(())).await;
    store.close().await;
}
