//! A proxy on loopback that cuts connections at chosen moments.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// When connections are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Never,
    /// A `COMMIT` of a transaction that writes passes, and its answer does not.
    AfterCommit,
    /// A `COMMIT` does not pass.
    BeforeCommit,
    /// A transaction that writes does not even begin.
    BeforeLock,
    /// After so many packets in either direction.
    AfterPackets(usize),
}

pub(super) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    upstream: u16,
    cut: Mutex<Cut>,
    /// Cuts that are still to be made; without any left, everything passes.
    left: AtomicUsize,
    cuts: AtomicUsize,
}

impl Proxy {
    pub(super) async fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream,
            cut: Mutex::new(Cut::Never),
            left: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        let shared_by_all = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(carry(stream, Arc::clone(&shared_by_all)));
            }
        });
        Self { port, shared, _tasks: tasks }
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the next connections that come to this point, `times` in all.
    pub(super) async fn cut(&self, cut: Cut, times: usize) {
        *self.shared.cut.lock().await = cut;
        self.shared.left.store(times, Ordering::SeqCst);
    }

    /// How many connections were cut.
    pub(super) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Whether this connection is the one to cut, now that it has come to the point.
    fn take(&self) -> bool {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if taken.is_ok() {
            self.cuts.fetch_add(1, Ordering::SeqCst);
        }
        taken.is_ok()
    }
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream)).await else { return };
    _ = client.set_nodelay(true);
    _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let packets = AtomicUsize::new(0);
    // Cancelled when nothing more is passed to the client.
    let is_cut = CancellationToken::new();
    tokio::select! {
        () = ask(from_client, to_server, &shared, &packets, &is_cut) => {}
        () = answer(from_server, to_client, &shared, &packets, &is_cut) => {}
    }
}

async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    packets: &AtomicUsize,
    is_cut: &CancellationToken,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut is_writer = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let sent = &buffer[..read];
        let cut = *shared.cut.lock().await;
        let is_lock = contains(sent, b"BEGIN ISOLATION LEVEL READ COMMITTED");
        is_writer |= is_lock;
        let is_commit = is_writer && contains(sent, b"COMMIT\0");
        let count = packets.fetch_add(1, Ordering::SeqCst) + 1;
        match cut {
            Cut::BeforeCommit if is_commit && shared.take() => return,
            Cut::AfterPackets(most) if count > most && shared.take() => return,
            Cut::AfterCommit if is_commit && shared.take() => is_cut.cancel(),
            Cut::BeforeLock if is_lock && shared.take() => return,
            _ => {}
        }
        if to.write_all(sent).await.is_err() {
            return;
        }
    }
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    packets: &AtomicUsize,
    is_cut: &CancellationToken,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if is_cut.is_cancelled() {
            // Once the server has no transaction any more, it has done what it was told, and nobody hears of it.
            if contains(&buffer[..read], b"Z\0\0\0\x05I") {
                return;
            }
            continue;
        }
        let count = packets.fetch_add(1, Ordering::SeqCst) + 1;
        if let Cut::AfterPackets(most) = *shared.cut.lock().await
            && count > most
            && shared.take()
        {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
