//! TLS towards an upstream that is not as everybody's: authorities of its own, a certificate that we show, or none that counts.

use std::fmt;
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::secret::{Digest, Plaintext};

/// What an operator says of it.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Certificates in PEM. Without them, those that the operating system trusts.
    pub authorities: Option<String>,
    /// The certificate that we show, and those that lead to its authority, in PEM.
    pub certificate: Option<String>,
    /// Its private key, in PEM.
    pub key: Option<Plaintext>,
    /// Whether any certificate is taken.
    pub takes_any: bool,
}

/// Why it cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("there is no certificate authority in the file")]
    Authorities,
    #[error("there is no certificate in the file")]
    Certificate,
    #[error("a certificate needs its private key")]
    NoKey,
    #[error("a private key needs its certificate")]
    NoCertificate,
    #[error("this is no private key in PEM")]
    Key,
    #[error("the private key is not that of the certificate")]
    Pair,
}

/// How an upstream proves who it is, and we to it. Two of them are equal that were made of the same.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    takes_any: bool,
    /// Of what it was made of.
    digest: Digest,
}

impl Tls {
    /// # Errors
    /// [`TlsError`]
    pub fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        let digest = digest(&settings);
        let TlsSettings { authorities, certificate, key, takes_any } = settings;
        let builder = ClientConfig::builder();
        let builder = match authorities {
            _ if takes_any => {
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
            }
            Some(pem) => builder.with_root_certificates(roots(&pem)?),
            // Where there are none, nobody is trusted.
            None => builder.clone().with_native_roots().unwrap_or_else(|error| {
                tracing::warn!(%error, "no system certificate authorities: https upstreams cannot be reached");
                builder.with_root_certificates(RootCertStore::empty())
            }),
        };
        let config = match (certificate, key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(_), None) => return Err(TlsError::NoKey),
            (None, Some(_)) => return Err(TlsError::NoCertificate),
            (Some(pem), Some(key)) => {
                let chain = certificates(&pem).ok_or(TlsError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| TlsError::Key)?;
                builder.with_client_auth_cert(chain, key).map_err(|_| TlsError::Pair)?
            }
        };
        Ok(Self { config: Arc::new(config), takes_any, digest })
    }

    /// Whether any certificate is taken.
    pub const fn takes_any(&self) -> bool {
        self.takes_any
    }

    /// Tells it from others that were made of something else. Nothing of the private key can be read from it.
    pub fn fingerprint(&self) -> String {
        self.digest.to_hex()
    }

    pub(super) fn config(&self) -> ClientConfig {
        self.config.as_ref().clone()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("takes_any", &self.takes_any).finish_non_exhaustive()
    }
}

fn digest(settings: &TlsSettings) -> Digest {
    let TlsSettings { authorities, certificate, key, takes_any } = settings;
    let texts = [authorities.as_deref(), certificate.as_deref(), key.as_ref().map(Plaintext::expose)];
    let mut digests: Vec<u8> = vec![u8::from(*takes_any)];
    for text in texts {
        digests.push(u8::from(text.is_some()));
        digests.extend(Digest::of(text.unwrap_or_default().as_bytes()).as_bytes());
    }
    Digest::of(&digests)
}

fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).ok_or(TlsError::Authorities)? {
        roots.add(certificate).map_err(|_| TlsError::Authorities)?;
    }
    Ok(roots)
}

/// At least one, or `None`.
fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    Some(found).filter(|found| !found.is_empty())
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

#[cfg(test)]
mod tests;
