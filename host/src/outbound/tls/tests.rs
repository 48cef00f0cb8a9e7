//! What TLS towards upstreams takes and shows, in real handshakes with a server on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::time::Instant;

use super::super::{Fetch, FetchError, Fetcher, Outbound, OutboundError, Trusted, read_all};
use super::*;
use crate::certificate::testing::{
    AUTHORITY, CHAIN as SERVER, KEY as SERVER_KEY, OTHER_CHAIN as CLIENT, OTHER_KEY as CLIENT_KEY,
};

/// A server that answers `known` to whoever shows a certificate of the authority, and `unknown` to the others.
fn server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(AUTHORITY).unwrap())).allow_unauthenticated();
    let key = PrivateKeyDer::from_pem_slice(SERVER_KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder().with_client_cert_verifier(verifier.build().unwrap());
    let config = Arc::new(config.with_single_cert(certificates(SERVER).unwrap(), key).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            std::thread::spawn(move || serve(stream, config));
        }
    });
    address
}

/// One request, or none where the handshake fails.
fn serve(mut stream: std::net::TcpStream, config: Arc<ServerConfig>) {
    use std::io::{Read as _, Write as _};
    let mut connection = rustls::ServerConnection::new(config).unwrap();
    while connection.is_handshaking() {
        if connection.complete_io(&mut stream).is_err() {
            return;
        }
    }
    let word = if connection.peer_certificates().is_some() { "known" } else { "unknown" };
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => asked.push(byte[0]),
            _ => return,
        }
    }
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{word}", word.len());
    _ = stream.write_all(answer.as_bytes());
    stream.conn.send_close_notify();
    _ = stream.flush();
}

async fn ask(outbound: &Outbound, address: SocketAddr) -> Result<Bytes, OutboundError> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let request = Request::get(format!("https://{address}/")).body(Bytes::new()).unwrap();
    let answer = outbound.send(request, deadline).await?;
    read_all(answer.into_body(), 1024, deadline).await
}

fn trusting() -> TlsSettings {
    TlsSettings { authorities: Some(AUTHORITY.to_owned()), ..TlsSettings::default() }
}

fn showing() -> TlsSettings {
    TlsSettings { certificate: Some(CLIENT.to_owned()), key: Some(Plaintext::new(CLIENT_KEY)), ..trusting() }
}

#[tokio::test]
async fn an_upstream_proves_who_it_is_to_the_authority_it_is_configured_with_and_we_to_it() {
    let (address, outbound) = (server(), Outbound::new());
    let of = |settings| outbound.secured(&Tls::new(settings).unwrap());
    assert!(matches!(ask(&outbound, address).await, Err(OutboundError::Connect(_))), "nobody else knows the authority");
    assert_eq!(ask(&of(trusting()), address).await.unwrap(), "unknown");
    assert_eq!(ask(&of(showing()), address).await.unwrap(), "known");
    let other = TlsSettings { authorities: Some(CLIENT.to_owned()), ..TlsSettings::default() };
    assert!(matches!(ask(&of(other), address).await, Err(OutboundError::Connect(_))), "another authority is none");
    let any = TlsSettings { takes_any: true, ..TlsSettings::default() };
    assert_eq!(ask(&of(any), address).await.unwrap(), "unknown");
}

#[tokio::test]
async fn a_guarded_fetch_takes_and_shows_what_it_is_told_to_and_else_what_the_system_does() {
    let address = server();
    let fetcher = Fetcher::new([Trusted::parse(&address.to_string()).unwrap()].into_iter().collect());
    let fetch = || Fetch::get(format!("https://{address}/").parse().unwrap());
    let asked = async |fetch| fetcher.fetch(fetch).await.map(|answer| answer.body);
    assert!(matches!(asked(fetch()).await, Err(FetchError::Tls(_))), "nobody else knows the authority");
    for (settings, expected) in [(trusting(), "unknown"), (showing(), "known")] {
        let tls = Tls::new(settings).unwrap();
        assert_eq!(asked(fetch().secured(tls)).await.unwrap(), expected);
    }
    let other = TlsSettings { authorities: Some(CLIENT.to_owned()), ..TlsSettings::default() };
    assert!(matches!(asked(fetch().secured(Tls::new(other).unwrap())).await, Err(FetchError::Tls(_))));
}

#[test]
fn what_cannot_be_is_told() {
    let plain = TlsSettings::default;
    let empty = || Some("no certificate".to_owned());
    let key = |pem: &str| Some(Plaintext::new(pem));
    for (settings, expected) in [
        (TlsSettings { authorities: empty(), ..plain() }, TlsError::Authorities),
        (TlsSettings { key: None, ..showing() }, TlsError::NoKey),
        (TlsSettings { certificate: None, ..showing() }, TlsError::NoCertificate),
        (TlsSettings { certificate: empty(), ..showing() }, TlsError::Certificate),
        (TlsSettings { key: key("no key"), ..showing() }, TlsError::Key),
        (TlsSettings { key: key(SERVER_KEY), ..showing() }, TlsError::Pair),
    ] {
        assert_eq!(Tls::new(settings).unwrap_err(), expected);
    }
}

#[test]
fn two_are_equal_that_were_made_of_the_same_and_none_shows_its_key() {
    let made = |settings| Tls::new(settings).unwrap();
    assert_eq!(made(showing()), made(showing()));
    assert_ne!(made(showing()), made(trusting()));
    assert_ne!(made(trusting()), made(TlsSettings { takes_any: true, ..trusting() }));
    assert_eq!(format!("{:?}", made(showing())), "Tls { takes_any: false, .. }");
}
