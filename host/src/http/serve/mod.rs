//! The accept loop of all listeners: HTTP/1.1 and HTTP/2, over TCP and Unix sockets, in the clear (HTTP/2 by prior
//! knowledge) or over TLS (by ALPN).
//!
//! It exists because a connection must not cost us anything for long. Reading order: this file accepts and drains;
//! [`connection`] drives one connection; [`life`] decides, without IO or clock, what a connection may still wait for;
//! [`wire`] watches its bytes, above and below [`tls`]; [`head`] checks the framing of an HTTP/1 request; [`proxies`]
//! tells where a proxied one came from; [`reply`] wraps what goes back.
//!
//! It is deliberately not a router, knows no `Host` (see `http::guard`), reads no bodies (see `http::body`) and
//! opens no spans.
//!
//! Invariants:
//! - Every task is tracked and ends before [`serve`] returns; dropping the future of [`serve`] cuts them all.
//! - A connection without a request in flight always has a deadline. One with a request in flight has none except
//!   that bytes we want to send must make progress, so a long event stream lives until the drain cuts it.
//! - HTTP/1 requests are served one at a time, each read from its first byte after the former one was answered and
//!   read to its end. Left-over bytes are never taken for a request (RFC 9112 §11.2, threats H3 and H4).
//! - A peer that leaves cancels its request: the handler's future is dropped. What must outlive its caller belongs
//!   into a task that someone else owns.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config;

mod connection;
mod head;
mod life;
mod meter;
mod proxies;
mod reply;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub use meter::Meter;
pub use proxies::Proxies;
pub use tls::{Tls, TlsError};

/// Where connections come from.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket, and how it is served.
#[derive(Debug)]
pub struct Listener {
    pub socket: Socket,
    /// Over TLS, with what this shows.
    pub tls: Option<Tls>,
    /// On a Unix socket nobody is asked for whom they speak.
    pub proxies: Proxies,
    /// Cancelled when the end is near, though connections are still accepted: who is answered is told to come back
    /// over another connection.
    pub leaving: CancellationToken,
    /// Counts meanwhile.
    pub meter: Arc<Meter>,
}

impl From<Socket> for Listener {
    /// In the clear, and nobody else's word counts.
    fn from(socket: Socket) -> Self {
        let (proxies, leaving, meter) = (Proxies::default(), CancellationToken::new(), Arc::default());
        Self { socket, tls: None, proxies, leaving, meter }
    }
}

/// Who is at the other end of the connection; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A trusted proxy, and for whom it says that it speaks ([`Proxies`], threat H1).
    Proxied {
        client: IpAddr,
        proxy: SocketAddr,
    },
    /// Told by the kernel when the peer connected.
    Unix {
        uid: u32,
        pid: Option<i32>,
    },
}

impl Peer {
    /// The address that a request came from, if it has one: for limits and trails. Nobody is trusted for it.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Proxied { client, .. } => Some(client),
            Self::Unix { .. } => None,
        }
    }
}

/// What a listener's connections may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Until the first byte of a new connection.
    pub first_byte: Duration,
    /// From a request's first byte until its headers are complete, and from the beginning of a connection over TLS until
    /// its handshake is.
    pub header: Duration,
    /// How long a connection may rest between requests.
    pub idle: Duration,
    /// How long bytes may wait to be sent without any of them being taken by the peer.
    pub write: Duration,
    /// How long a connection that we closed may take to notice.
    pub linger: Duration,
    /// How long requests in flight may go on after shutdown was requested.
    pub drain: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Streams at once on one HTTP/2 connection.
    pub max_http2_streams: u32,
}

/// See [`Limits::write`]; a peer this slow is gone or hostile, whatever the deployment.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// See [`Limits::linger`]; long enough to read what a caller had sent before it saw our refusal, so that the refusal
/// arrives and not a reset.
const LINGER: Duration = Duration::from_secs(2);

impl From<&config::Edge> for Limits {
    fn from(edge: &config::Edge) -> Self {
        Self {
            first_byte: edge.first_byte_timeout,
            header: edge.header_timeout,
            idle: edge.idle_timeout,
            write: WRITE_STALL,
            linger: LINGER,
            drain: edge.drain_timeout,
            max_connections: edge.max_connections,
            max_http2_streams: edge.max_http2_streams,
        }
    }
}

/// Serves `router` on a socket until `shutdown`.
///
/// Returns when every connection has ended: those that rest are closed at once, requests in flight may go on for
/// [`Limits::drain`] and are cut then.
pub async fn serve(listener: impl Into<Listener>, router: axum::Router, limits: Limits, shutdown: CancellationToken) {
    let Listener { socket, tls, proxies, leaving, meter } = listener.into();
    let floor = Arc::new(Floor::new((router, meter), limits, (tls, proxies), (leaving, shutdown)));
    let _cut_on_drop = floor.cut.clone().drop_guard();

    floor.accept_until_shutdown(&socket).await;
    floor.leaving.cancel();
    floor.accept_what_waits(&socket).await;
    drop(socket);

    floor.tasks.close();
    if timeout(floor.limits.drain, floor.tasks.wait()).await.is_err() {
        warn!(tasks = floor.tasks.len(), "cutting connections that did not end within the drain timeout");
        floor.cut.cancel();
        floor.tasks.wait().await;
    }
}

/// What the connections of one listener share.
struct Floor {
    router: axum::Router,
    limits: Limits,
    tls: Option<Tls>,
    proxies: Proxies,
    /// Every connection and every HTTP/2 stream.
    tasks: TaskTracker,
    /// See [`Listener::leaving`].
    leaving: CancellationToken,
    /// End gracefully.
    shutdown: CancellationToken,
    /// End now.
    cut: CancellationToken,
    slots: Arc<Semaphore>,
    /// Told when slots or descriptors are short: who rests, leaves.
    pressure: Notify,
    meter: Arc<Meter>,
}

impl Floor {
    fn new(
        (router, meter): (axum::Router, Arc<Meter>),
        limits: Limits,
        (tls, proxies): (Option<Tls>, Proxies),
        (leaving, shutdown): (CancellationToken, CancellationToken),
    ) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS))),
            router,
            limits,
            tls,
            proxies,
            tasks: TaskTracker::new(),
            leaving,
            shutdown,
            cut: CancellationToken::new(),
            pressure: Notify::new(),
            meter,
        }
    }

    async fn accept_until_shutdown(self: &Arc<Self>, socket: &Socket) {
        let mut backoff = ACCEPT_BACKOFF_MIN;
        while let Some(accepted) = self.shutdown.run_until_cancelled(socket.accept()).await {
            match accepted {
                Ok(stream) => {
                    backoff = ACCEPT_BACKOFF_MIN;
                    self.admit(stream);
                }
                Err(error) if concerns_one_peer(&error) => debug!(%error, "a connection ended before it was accepted"),
                Err(error) => {
                    // Most likely out of descriptors. Trying again at once would spin: the connection stays in the
                    // kernel's queue and the listener stays readable.
                    warn!(%error, wait = ?backoff, "cannot accept connections");
                    self.pressure.notify_waiters();
                    if self.shutdown.run_until_cancelled(sleep(backoff)).await.is_none() {
                        return;
                    }
                    backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
                }
            }
        }
    }

    /// Takes what the kernel has accepted already: closing the socket would reset those callers' connections.
    async fn accept_what_waits(self: &Arc<Self>, socket: &Socket) {
        let end = Instant::now() + LAST_CALL;
        for _ in 0..self.limits.max_connections {
            match timeout_at(end, unconstrained(socket.accept())).await {
                Ok(Ok(stream)) => self.admit(stream),
                Ok(Err(error)) if concerns_one_peer(&error) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Starts the connection's task, or refuses the connection when all slots are taken.
    ///
    /// Refusing beats leaving it in the kernel's queue: a caller or load balancer learns at once that it should go
    /// elsewhere, where a queue would let it hang behind the very connections that fill the slots. And before it
    /// comes to that, connections that merely rest give up theirs: HTTP allows closing them at any time.
    fn admit(self: &Arc<Self>, stream: Stream) {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok();
        if self.slots.available_permits() == 0 {
            self.pressure.notify_waiters();
        }
        let Some(slot) = slot else {
            debug!("refused a connection: all are taken");
            self.meter.refused();
            // Over TLS nothing can be said before the handshake, which would cost what is short.
            if self.tls.is_none() {
                refuse(&stream);
            }
            return;
        };
        match prepare(&stream) {
            Ok(peer) => {
                let run = Arc::clone(self).run(stream, peer, slot);
                self.tasks.spawn(self.cut.clone().run_until_cancelled_owned(run));
            }
            Err(error) => debug!(%error, "cannot tell the peer of a connection"),
        }
    }

    async fn run(self: Arc<Self>, stream: Stream, peer: Peer, slot: OwnedSemaphorePermit) {
        let _open = self.meter.begins();
        connection::run(stream, peer, &self).await;
        drop(slot);
    }
}

/// How long connections are accepted after the stop was asked for: it takes a moment to learn of those that wait.
const LAST_CALL: Duration = Duration::from_millis(20);
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(20);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

type Stream = Either<TcpStream, UnixStream>;

impl Socket {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Either::Left(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Either::Right(stream)),
        }
    }
}

/// Sets the options of a new connection and tells who is there.
fn prepare(stream: &Stream) -> io::Result<Peer> {
    match stream {
        Either::Left(tcp) => {
            tcp.set_nodelay(true)?;
            // A silent stream over HTTP/1 would never learn that its peer has vanished.
            rustix::net::sockopt::set_socket_keepalive(tcp, true)?;
            rustix::net::sockopt::set_tcp_keepidle(tcp, Duration::from_secs(60))?;
            rustix::net::sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(15))?;
            rustix::net::sockopt::set_tcp_keepcnt(tcp, 4)?;
            let address = tcp.peer_addr()?;
            Ok(Peer::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port())))
        }
        Either::Right(unix) => {
            let credentials = unix.peer_cred()?;
            Ok(Peer::Unix { uid: credentials.uid(), pid: credentials.pid() })
        }
    }
}

/// Says why in HTTP/1.1, if the socket takes it at once, and closes.
fn refuse(stream: &Stream) {
    const REFUSAL: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let written = match stream {
        Either::Left(tcp) => tcp.try_write(REFUSAL),
        Either::Right(unix) => unix.try_write(REFUSAL),
    };
    if let Err(error) = written {
        debug!(%error, "a refused connection did not take the refusal");
    }
}

fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | PermissionDenied)
}
