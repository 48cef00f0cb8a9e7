//! A sign-in that waits for its provider, sealed into the cookie of the browser that began it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Here, LIFE, Wanted};
use crate::config::auth::Provider;
use crate::env::{Env, Timestamp};
use crate::identity::browser::Surface;
use crate::secret::{Digest, Plaintext};

/// What a sign-in on a surface is sealed for: for that one alone.
const fn purpose(surface: Surface) -> &'static str {
    match surface {
        Surface::Public => "sign-in",
        Surface::Admin => "sign-in of an operator",
    }
}

/// It is never printed: what is in it proves whose the answer is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    /// Digest of the issuer, which is shorter than it.
    issuer: String,
    pub(super) state: String,
    pub(super) nonce: String,
    /// Of PKCE.
    pub(super) verifier: String,
    pub(super) next: String,
    pub(super) fresh: bool,
    /// Milliseconds since the epoch.
    pub(super) began: u64,
}

impl Pending {
    /// One that begins now.
    pub(super) fn new(env: &Env, issuer: &str, wanted: Wanted) -> Self {
        let drawn = || URL_SAFE_NO_PAD.encode(env.random::<32>());
        let Wanted { next, fresh } = wanted;
        let (state, nonce, verifier) = (drawn(), drawn(), drawn());
        Self {
            issuer: Digest::of(issuer.as_bytes()).to_hex(),
            state,
            nonce,
            verifier,
            next,
            fresh,
            began: env.now().as_millis(),
        }
    }

    /// Whether it was begun with this issuer.
    pub(super) fn is_with(&self, issuer: &str) -> bool {
        self.issuer == Digest::of(issuer.as_bytes()).to_hex()
    }

    pub(super) fn until(&self) -> Timestamp {
        Timestamp::from_millis(self.began).after(LIFE)
    }

    /// What the browser keeps, good for this provider and this surface alone.
    pub(super) fn seal(&self, here: Here<'_>, provider: &Provider) -> Plaintext {
        let bytes = serde_json::to_vec(self).expect("texts and numbers become JSON");
        Plaintext::new(here.secret.seal(purpose(here.surface), provider.name.as_str().as_bytes(), &bytes))
    }

    /// What this provider's cookie holds.
    pub(super) fn open(here: Here<'_>, provider: &Provider, cookie: &Plaintext) -> Option<Self> {
        let name = provider.name.as_str().as_bytes();
        let bytes = here.secret.unseal(purpose(here.surface), name, cookie.expose())?;
        serde_json::from_slice(&bytes).ok()
    }
}
