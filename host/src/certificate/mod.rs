//! What a listener shows to prove who it is: a chain of certificates and its private key, out of PEM.
//!
//! [`Certificate`] is such a pair, checked: both can be read, and the key is that of the certificate. [`Shown`] is the one
//! that a listener shows at the moment; the next handshake after a change sees the new one. Deliberately not here: files
//! (`config`) and handshakes (`http::serve`). RFC 7468, RFC 5280 §4.1.2.5.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_cert::der::Decode as _;

use crate::env::Timestamp;
use crate::secret::Plaintext;

/// Most certificates of one chain. More is the file of an authority and not that of a listener.
const LONGEST_CHAIN: usize = 16;

/// A certificate that expires sooner than this is told of, since whoever renews it should have by then.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A chain of certificates with the private key of its first one.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    not_after: Option<Timestamp>,
}

/// Why two texts are no such pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("there is no certificate in PEM in the file")]
    Certificate,
    #[error("there are more than {LONGEST_CHAIN} certificates in the file")]
    Chain,
    #[error("there is no private key in PEM in the file, or one that is encrypted")]
    Key,
    #[error("the private key is not that of the first certificate")]
    Pair,
}

impl Certificate {
    /// The pair of a chain, the listener's own certificate first, and a private key, both in PEM.
    ///
    /// # Errors
    /// [`Unusable`], which repeats nothing of either text.
    pub fn read(chain: &str, key: &Plaintext) -> Result<Self, Unusable> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| Unusable::Certificate)?;
        let first = chain.first().ok_or(Unusable::Certificate)?;
        if chain.len() > LONGEST_CHAIN {
            return Err(Unusable::Chain);
        }
        let not_after = not_after(first);
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| Unusable::Key)?;
        let provider = default_provider();
        let key = provider.key_provider.load_private_key(key).map_err(|_| Unusable::Key)?;
        let key = CertifiedKey::new(chain, key);
        // A certificate that cannot be read and one of another key come to the same.
        key.keys_match().map_err(|_| Unusable::Pair)?;
        Ok(Self { key: Arc::new(key), not_after })
    }

    /// The last moment at which it counts, if it says one that can be told.
    pub const fn not_after(&self) -> Option<Timestamp> {
        self.not_after
    }

    /// Whether it is for this host, a name or an address, as whoever connects compares them (RFC 9525).
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let first = self.key.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
        first.is_some_and(|first| verify_server_name(&first, &name).is_ok())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let since_epoch = parsed.tbs_certificate.validity.not_after.to_unix_duration();
    u64::try_from(since_epoch.as_millis()).ok().map(Timestamp::from_millis)
}

/// What a listener shows now.
#[derive(Debug)]
pub struct Shown(ArcSwap<Certificate>);

impl Shown {
    pub fn new(certificate: Certificate) -> Self {
        Self(ArcSwap::from_pointee(certificate))
    }

    /// Shows another one from the next handshake on.
    pub fn replace(&self, certificate: Certificate) {
        self.0.store(Arc::new(certificate));
    }

    /// See [`Certificate::not_after`].
    pub fn not_after(&self) -> Option<Timestamp> {
        self.0.load().not_after()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests {
    use super::testing::{CHAIN, KEY, OTHER_CHAIN, OTHER_KEY};
    use super::*;

    fn read(chain: &str, key: &str) -> Result<Certificate, Unusable> {
        Certificate::read(chain, &Plaintext::new(key))
    }

    #[test]
    fn a_pair_is_taken_and_tells_when_it_expires() {
        for (chain, key) in
            [(CHAIN.to_owned(), KEY), (OTHER_CHAIN.to_owned(), OTHER_KEY), (format!("{CHAIN}{OTHER_CHAIN}"), KEY)]
        {
            let pair = read(&chain, key).unwrap();
            assert_eq!(pair.not_after().unwrap().to_string(), "2126-10-29T06:23:22.000Z");
        }
    }

    #[test]
    fn a_pair_is_for_the_hosts_that_it_names() {
        let pair = read(CHAIN, KEY).unwrap();
        for (host, expected) in
            [("127.0.0.1", true), ("127.0.0.2", false), ("::1", false), ("server", false), ("", false), ("a b", false)]
        {
            assert_eq!(pair.is_for(host), expected, "{host}");
        }
    }

    #[test]
    fn what_is_no_pair_is_told_apart_and_never_repeated() {
        let cut = &CHAIN[..CHAIN.len() / 2];
        let garbled = CHAIN.replacen("MII", "MIJ", 1);
        let long = CHAIN.repeat(LONGEST_CHAIN + 1);
        for (what, chain, key, expected) in [
            ("nothing", "", KEY, Unusable::Certificate),
            ("a key in place of the chain", KEY, KEY, Unusable::Certificate),
            ("half a certificate", cut, KEY, Unusable::Certificate),
            ("a certificate that is none", &garbled, KEY, Unusable::Pair),
            ("a long chain", &long, KEY, Unusable::Chain),
            ("no key", CHAIN, "", Unusable::Key),
            ("a chain in place of the key", CHAIN, CHAIN, Unusable::Key),
            ("half a key", CHAIN, &KEY[..KEY.len() / 2], Unusable::Key),
            ("another one's key", CHAIN, OTHER_KEY, Unusable::Pair),
            ("a chain in the wrong order", &format!("{OTHER_CHAIN}{CHAIN}"), KEY, Unusable::Pair),
        ] {
            assert_eq!(read(chain, key).err(), Some(expected), "{what}");
        }
        assert!(!format!("{:?}", read(CHAIN, KEY).unwrap()).contains("MI"));
    }
}
