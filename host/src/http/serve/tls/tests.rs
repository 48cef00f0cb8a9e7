//! Real handshakes with a listener on loopback. Deadlines are short, bounds generous.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::routing::get;
use bytes::Bytes;
use http::{StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::certificate::Certificate;
use crate::certificate::testing::{AUTHORITY, CHAIN, KEY, OTHER_CHAIN, OTHER_KEY};
use crate::http::serve::{Limits, Listener, Peer, Proxies, Socket, serve};
use crate::outbound::Network;
use crate::secret::Plaintext;

const BOUND: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);

const PATIENT: Limits = Limits {
    first_byte: BOUND,
    header: BOUND,
    idle: BOUND,
    write: BOUND,
    linger: SHORT,
    drain: BOUND,
    max_connections: 100,
    max_http2_streams: 100,
};

struct Gateway {
    address: SocketAddr,
    shown: Arc<Shown>,
    leaving: CancellationToken,
    shutdown: CancellationToken,
    served: JoinSet<()>,
}

impl Gateway {
    async fn start(limits: Limits) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let shown = Arc::new(Shown::new(pair(CHAIN, KEY)));
        let (leaving, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let listener = Listener {
            socket: Socket::Tcp(socket),
            tls: Some(Tls::new(shown.clone()).unwrap()),
            proxies: Proxies::new(vec![Network::of("127.0.0.1".parse().unwrap())]),
            leaving: leaving.clone(),
            meter: Arc::default(),
        };
        let router = Router::new()
            .route("/", get(async |request: Request| format!("{:?}", request.version())))
            .route("/large", get(async || Bytes::from(vec![7; 32 << 20])))
            .route("/peer", get(async |Extension(peer): Extension<Peer>| format!("{peer:?} {:?}", peer.ip())));
        let mut served = JoinSet::new();
        served.spawn(serve(listener, router, limits, shutdown.clone()));
        Self { address, shown, leaving, shutdown, served }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection of a client that offers these versions and protocols.
    async fn connect(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, self.tcp().await)).await
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        soon(self.served.join_next()).await.unwrap().unwrap();
    }
}

fn pair(chain: &str, key: &str) -> Certificate {
    Certificate::read(chain, &Plaintext::new(key)).unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("it happens within the bound")
}

fn alpn(stream: &TlsStream<TcpStream>) -> Option<&str> {
    stream.get_ref().1.alpn_protocol().map(|name| std::str::from_utf8(name).unwrap())
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn get1(stream: &mut TlsStream<TcpStream>, path: &str, more: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    soon(stream.write_all(request.as_bytes())).await.unwrap();
    let mut reply = Vec::new();
    let ended = |reply: &[u8]| reply.windows(4).any(|end| end == b"\r\n\r\n") && !reply.ends_with(b"\r\n\r\n");
    while !ended(&reply) {
        let mut piece = [0; 1024];
        let len = soon(stream.read(&mut piece)).await.unwrap();
        assert!(len > 0, "{}", String::from_utf8_lossy(&reply));
        reply.extend(&piece[..len]);
    }
    String::from_utf8(reply).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn both_versions_of_tls_and_of_http_are_agreed_upon() {
    let gateway = Gateway::start(PATIENT).await;
    for (version, named) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let stream = gateway.connect(&[version], &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(named));
        assert_eq!(alpn(&stream), Some("h2"));
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(async { drop(connection.await) });
        let request = http::Request::get("https://localhost/").body(String::new()).unwrap();
        let response = soon(sender.send_request(request)).await.unwrap();
        assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));

        let mut stream = gateway.connect(&[version], &["http/1.1"]).await.unwrap();
        assert_eq!(alpn(&stream), Some("http/1.1"));
        assert!(get1(&mut stream, "/", "").await.ends_with("http/1.1"));
        assert!(get1(&mut stream, "/", "").await.ends_with("http/1.1"), "the connection is kept alive");
    }
    let mut stream = gateway.connect(&[&TLS13], &[]).await.unwrap();
    assert_eq!(alpn(&stream), None);
    assert!(get1(&mut stream, "/", "").await.ends_with("http/1.1"));
    assert!(gateway.connect(&[&TLS13], &["spdy/3"]).await.is_err(), "there is nothing to agree upon");
    gateway.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_from_the_next_handshake_on() {
    let gateway = Gateway::start(PATIENT).await;
    let mut before = gateway.connect(&[&TLS13], &[]).await.unwrap();
    gateway.shown.replace(pair(OTHER_CHAIN, OTHER_KEY));
    let after = gateway.connect(&[&TLS13], &[]).await.unwrap();
    assert_eq!(leaf(&before), CertificateDer::from_pem_slice(CHAIN.as_bytes()).unwrap());
    assert_eq!(leaf(&after), CertificateDer::from_pem_slice(OTHER_CHAIN.as_bytes()).unwrap());
    assert!(get1(&mut before, "/", "").await.ends_with("http/1.1"), "who is connected stays so");
    gateway.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut_and_leaves_others_alone() {
    let gateway = Gateway::start(Limits { header: SHORT * 4, ..PATIENT }).await;
    let mut silent = gateway.tcp().await;
    // The beginning of a record that says that 512 bytes follow.
    let mut dripping = gateway.tcp().await;
    dripping.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 252]).await.unwrap();
    let mut plain = gateway.tcp().await;
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    for stream in [&mut silent, &mut dripping, &mut plain] {
        let mut rest = Vec::new();
        // A close or a reset; whatever was said, it was no HTTP.
        let _ended = soon(stream.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    let mut stream = gateway.connect(&[&TLS13], &[]).await.unwrap();
    assert!(get1(&mut stream, "/", "").await.ends_with("http/1.1"));
    gateway.stop().await;
}

#[tokio::test]
async fn deadlines_hold_over_tls_too() {
    let gateway = Gateway::start(Limits { first_byte: SHORT, idle: SHORT, write: SHORT, ..PATIENT }).await;
    let mut silent = gateway.connect(&[&TLS13], &[]).await.unwrap();
    assert_eq!(soon(silent.read(&mut [0])).await.unwrap_or(0), 0, "nothing was asked");
    let mut rests = gateway.connect(&[&TLS13], &[]).await.unwrap();
    get1(&mut rests, "/", "").await;
    assert_eq!(soon(rests.read(&mut [0])).await.unwrap_or(0), 0, "nothing more was asked");

    let mut slow = gateway.connect(&[&TLS13], &[]).await.unwrap();
    slow.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT * 4).await;
    let mut rest = Vec::new();
    let _cut = soon(slow.read_to_end(&mut rest)).await;
    assert!(rest.len() < 32 << 20, "a reader that takes nothing is cut");
    gateway.stop().await;
}

#[tokio::test]
async fn a_stop_tells_over_tls_and_waits_for_what_has_begun() {
    let gateway = Gateway::start(PATIENT).await;
    let mut kept = gateway.connect(&[&TLS13], &["http/1.1"]).await.unwrap();
    assert!(!get1(&mut kept, "/", "").await.contains("connection: close"));
    gateway.leaving.cancel();
    assert!(get1(&mut kept, "/", "").await.contains("connection: close"), "who is answered comes back elsewhere");
    let stream = gateway.connect(&[&TLS12], &["h2"]).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(connection);
    let request = || http::Request::get("https://localhost/").body(String::new()).unwrap();
    let response = soon(sender.send_request(request())).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "HTTP/2.0");
    gateway.stop().await;
    soon(task.join_next()).await.unwrap().unwrap().expect("GOAWAY ends the connection in order");
}

#[tokio::test]
async fn h1_a_trusted_proxy_is_believed_over_tls_and_the_socket_is_kept() {
    let gateway = Gateway::start(PATIENT).await;
    let mut stream = gateway.connect(&[&TLS13], &[]).await.unwrap();
    let told = get1(&mut stream, "/peer", "X-Forwarded-For: 1.2.3.4, 192.0.2.7\r\nX_Forwarded_For: 5.6.7.8\r\n").await;
    assert!(told.contains("proxied { client: 192.0.2.7, proxy: 127.0.0.1:"), "{told}");
    assert!(told.ends_with("some(192.0.2.7)"), "{told}");
    let told = get1(&mut stream, "/peer", "").await;
    assert!(told.contains("tcp(127.0.0.1:"), "{told}");
    gateway.stop().await;
}
