//! A server that is killed and comes back, and connections that are cut: no transition is lost, none is doubled.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::proxy::{Cut, Proxy};
use super::*;

/// What those who write know of the test, and the other way round.
#[derive(Default)]
struct Watch {
    is_over: AtomicBool,
    /// Times that the server began to be killed, and that it was dead.
    begun: AtomicU64,
    dead: AtomicU64,
    /// Those of these times that met a write: it began before the server was dead, and was answered after that, or failed.
    met: Mutex<BTreeSet<u64>>,
}

/// Takes steps from many tasks until told to stop, and some more.
async fn traffic(store: &Store, tasks: u64, watch: &Arc<Watch>) -> Ledger {
    let ids = Arc::new(AtomicU64::new(0));
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        let (store, ids, watch) = (store.clone(), Arc::clone(&ids), Arc::clone(watch));
        set.spawn(async move {
            let mut ledger = Ledger::default();
            while !watch.is_over.load(Ordering::SeqCst) {
                let id = ids.fetch_add(1, Ordering::SeqCst);
                let before = watch.dead.load(Ordering::SeqCst);
                let answer = store.write(step(id)).await;
                let after = if answer.is_ok() { &watch.dead } else { &watch.begun };
                watch.met.lock().unwrap().extend(before + 1..=after.load(Ordering::SeqCst));
                if answer.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                ledger.note(id, answer);
            }
            ledger
        });
    }
    let mut all = Ledger::default();
    while let Some(ledger) = set.join_next().await {
        let Ledger { done, failed } = ledger.unwrap();
        all.done.extend(done);
        all.failed.extend(failed);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_in_the_middle_loses_and_doubles_nothing() {
    let server = Arc::new(Server::start(server::Sync::On));
    let store = open(&database(&server, "killed")).await;
    let watch = Arc::new(Watch::default());
    let mut working = JoinSet::new();
    {
        let (store, watch) = (store.clone(), Arc::clone(&watch));
        working.spawn(async move { traffic(&store, 16, &watch).await });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let killed = Arc::clone(&server);
        watch.begun.fetch_add(1, Ordering::SeqCst);
        tokio::task::spawn_blocking(move || killed.kill()).await.unwrap();
        watch.dead.fetch_add(1, Ordering::SeqCst);
        eventually("the store is out of reach", async || (!store.is_reachable()).then_some(())).await;
        let read = store.read(count).await;
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
        let started = Arc::clone(&server);
        tokio::task::spawn_blocking(move || started.start_again()).await.unwrap();
        eventually("the store is back", async || store.is_reachable().then_some(())).await;
        eventually("it can be read", async || store.read(count).await.ok()).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    watch.is_over.store(true, Ordering::SeqCst);
    let ledger = working.join_next().await.unwrap().unwrap();
    assert!(!ledger.done.is_empty());
    assert_eq!(
        *watch.met.lock().unwrap(),
        BTreeSet::from([1, 2, 3]),
        "each time it was killed in the middle of a write"
    );
    ledger.check(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_answered_all_the_same() {
    let database = database(Server::shared(), &Server::shared().new_schema());
    let proxy = Proxy::before(Server::shared().port()).await;
    let store = open(&through(proxy.port(), &database)).await;
    let mut ledger = Ledger::default();
    for id in 0..5 {
        proxy.cut(Cut::AfterCommit, 1).await;
        ledger.note(id, store.write(step(id)).await);
    }
    assert_eq!(proxy.cuts(), 5);
    assert_eq!(ledger.done, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)], "all have happened, and each is told so");
    ledger.check(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrives_is_made_again() {
    for cut in [Cut::BeforeCommit, Cut::BeforeLock] {
        let database = database(Server::shared(), &Server::shared().new_schema());
        let proxy = Proxy::before(Server::shared().port()).await;
        let store = open(&through(proxy.port(), &database)).await;
        let mut ledger = Ledger::default();
        for id in 0..5 {
            proxy.cut(cut, 1).await;
            ledger.note(id, store.write(step(id)).await);
        }
        assert_eq!(proxy.cuts(), 5, "{cut:?}");
        assert_eq!(ledger.done, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)], "{cut:?}: each has happened once");
        ledger.check(&store).await;
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_anywhere_lose_and_double_nothing() {
    let database = database(Server::shared(), &Server::shared().new_schema());
    let proxy = Proxy::before(Server::shared().port()).await;
    let store = open(&through(proxy.port(), &database)).await;
    let watch = Arc::new(Watch::default());
    let mut working = JoinSet::new();
    {
        let (store, watch) = (store.clone(), Arc::clone(&watch));
        working.spawn(async move { traffic(&store, 8, &watch).await });
    }
    // A new connection says some twenty packets before the first transaction; the rest are anywhere in one.
    for packets in 25..55 {
        let before = proxy.cuts();
        proxy.cut(Cut::AfterPackets(packets), 1).await;
        eventually("a connection was cut", async || (proxy.cuts() > before).then_some(())).await;
    }
    proxy.cut(Cut::Never, 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    watch.is_over.store(true, Ordering::SeqCst);
    let ledger = working.join_next().await.unwrap().unwrap();
    assert_eq!(proxy.cuts(), 30);
    assert!(!ledger.done.is_empty());
    eventually("the store is back", async || store.read(count).await.ok()).await;
    ledger.check(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_connection_was_cut_is_read_again() {
    let database = database(Server::shared(), &Server::shared().new_schema());
    let proxy = Proxy::before(Server::shared().port()).await;
    let store = open(&through(proxy.port(), &database)).await;
    store.write(step(1)).await.unwrap();
    assert_eq!(store.read(count).await.unwrap(), 1);
    for packets in 0..12 {
        // The connection of the pool has passed more than that already.
        proxy.cut(Cut::AfterPackets(packets), 1).await;
        assert_eq!(eventually("it is read", async || store.read(count).await.ok()).await, 1);
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_every_call_is_answered_soon() {
    let server = Server::start(server::Sync::Off);
    let store = open(&database(&server, "gone")).await;
    store.write(step(1)).await.unwrap();
    drop(server);
    eventually("the store is out of reach", async || (!store.is_reachable()).then_some(())).await;
    let calls = async {
        for id in 2..100 {
            let write = store.write(step(id)).await;
            assert!(matches!(write, Err(StoreError::Unavailable { .. })), "{write:?}");
        }
        let read = store.read(count).await;
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    };
    tokio::time::timeout(Duration::from_secs(10), calls).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), store.close()).await.unwrap();
}
