//! Where key-encryption keys are, behind one trait.
//!
//! A source wraps and unwraps data keys and has a *root*: a secret that only whoever holds its key can derive, for the tags
//! of wrapped data keys. Sources whose key can be replaced in place (transit) have a root for each version of it.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::secret::{Digest, Sealed, SecretBytes};

mod age;
mod local;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod transit;

pub(super) use age::Age;
pub(super) use local::Local;
pub use local::{KeyFileError, make_key_file};
#[cfg(feature = "pkcs11")]
pub(super) use pkcs11::Pkcs11;
pub(super) use transit::Transit;

/// Longest time that a source gets for one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Why a key-encryption key did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It may do it later: it is not reachable, overloaded, or does not let us in at the moment.
    #[error("it cannot be reached: {0}")]
    Unavailable(String),
    /// It answers and does not do this. Whose fault that is it does not tell.
    #[error("it refuses: {0}")]
    Refused(String),
    /// It does not do it however often it is asked: the wrapped key is not one of its.
    #[error("it did not wrap this: {0}")]
    NotOurs(String),
}

/// A root and the version of the key that it is of.
#[derive(Clone)]
pub(in crate::vault) struct Root {
    pub(in crate::vault) version: u32,
    pub(in crate::vault) secret: SecretBytes,
}

/// A key-encryption key, wherever it is.
pub(in crate::vault) trait KeySource: Send + Sync {
    /// What kind of source it is, for people.
    fn kind(&self) -> &'static str;

    /// Which key it is, if that can be told without asking anyone.
    fn fingerprint(&self) -> Option<Digest> {
        None
    }

    /// Wraps a data key.
    fn wrap<'a>(&'a self, key: &'a SecretBytes) -> BoxFuture<'a, Result<Sealed, SourceError>>;

    /// Unwraps what [`Self::wrap`] made.
    fn unwrap<'a>(&'a self, wrapped: &'a Sealed) -> BoxFuture<'a, Result<SecretBytes, SourceError>>;

    /// The root of this version of the key, or of the newest.
    fn root(&self, version: Option<u32>) -> BoxFuture<'_, Result<Root, SourceError>>;

    /// Whether it does its work now: something is wrapped and unwrapped.
    fn health(&self) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            let probe = SecretBytes::new(vec![0; super::format::KEY_BYTES]);
            let back = self.unwrap(&self.wrap(&probe).await?).await?;
            if back == probe { Ok(()) } else { Err(SourceError::NotOurs("a probe came back changed".to_owned())) }
        })
    }
}
