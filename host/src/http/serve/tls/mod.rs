//! TLS 1.2 and 1.3 on a listener: what is offered, and nothing of files.
//!
//! HTTP/2 and HTTP/1.1 are agreed upon by ALPN (RFC 7301); a peer without ALPN is served as its first bytes tell. No
//! certificate of a peer is asked for, no early data is taken, and sessions are resumed from a bounded memory.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::Shown;

/// The library does not offer what is needed.
#[derive(Debug, thiserror::Error)]
#[error("the TLS library lacks a version")]
pub struct TlsError(#[from] rustls::Error);

/// How a listener speaks TLS.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// With whatever is shown at the moment of each handshake.
    ///
    /// # Errors
    /// If the library cannot offer these versions, which is a fault of the build.
    pub fn new(shown: Arc<Shown>) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13, &TLS12])?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(shown);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

#[cfg(test)]
mod tests;
