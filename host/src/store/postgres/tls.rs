//! TLS towards the server, as `sslmode` has it in PostgreSQL's own clients (libpq, "SSL Support").

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How far the server has to prove who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// No encryption.
    Disable,
    /// Encryption if the server offers it, whoever it is.
    Prefer,
    /// Encryption, whoever the server is.
    Require,
    /// A certificate of a trusted authority.
    VerifyCa(Authorities),
    /// A certificate of a trusted authority, for the name that was asked for.
    VerifyFull(Authorities),
}

/// Whose certificates count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those that the operating system trusts.
    System,
    /// Those in this PEM file.
    File(PathBuf),
}

/// Why no connection could be made ready for TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsFault {
    #[error("the file of authorities {} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the file of authorities {} has no certificate in it", path.display())]
    Empty { path: PathBuf },
    #[error("the operating system names no certificate authority: name a file in `sslrootcert`")]
    NoSystem,
    #[error("the certificate authorities cannot be used")]
    Unusable(#[source] rustls::client::VerifierBuilderError),
    #[error("the TLS library cannot be used")]
    Library(#[source] rustls::Error),
}

/// What makes TLS connections, or `None` where there are none.
pub(super) fn connector(tls: &Tls) -> Result<Option<MakeRustlsConnect>, TlsFault> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match tls {
        Tls::Disable => return Ok(None),
        Tls::Prefer | Tls::Require => Arc::new(Unverified(Arc::clone(&provider))),
        Tls::VerifyCa(authorities) => Arc::new(AnyName(verifier(authorities, &provider)?)),
        Tls::VerifyFull(authorities) => verifier(authorities, &provider)?,
    };
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(TlsFault::Library)?.dangerous().with_custom_certificate_verifier(verifier);
    Ok(Some(MakeRustlsConnect::new(config.with_no_client_auth())))
}

fn verifier(authorities: &Authorities, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, TlsFault> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsFault::NoSystem);
            }
        }
        Authorities::File(path) => {
            roots.add_parsable_certificates(certificates(path)?);
            if roots.is_empty() {
                return Err(TlsFault::Empty { path: path.clone() });
            }
        }
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    verifier.build().map_err(TlsFault::Unusable)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let unreadable = |source| TlsFault::File { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

/// Takes every certificate. The handshake still proves that the server has its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes a trusted authority's certificate for any name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last, when everything else was found in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
