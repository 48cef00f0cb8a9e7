//! An HTTP server that ends, connections and all, when it is dropped.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server on a loopback port, as long as this lives.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) address: SocketAddr,
    _accepting: JoinSet<()>,
}

/// A listener on loopback; port 0 takes a free one.
pub(super) async fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

impl Serving {
    /// Serves HTTP/1.1 and 2 with `service`. Where it fails, the connection is closed without a word.
    pub(super) fn start<S>(listener: TcpListener, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<Body>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, service));
        Self { address, _accepting: accepting }
    }
}

async fn accept<S>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of sockets; one may be free in a moment.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let service = service.clone();
        connections.spawn(async move {
            // Without it, what follows the head of a stream waits for the other side's acknowledgement.
            _ = stream.set_nodelay(true);
            let builder = auto::Builder::new(TokioExecutor::new());
            // What goes wrong on a connection is the other side's to notice.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
