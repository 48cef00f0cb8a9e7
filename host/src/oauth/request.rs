//! Authorization requests while somebody is asked to consent, and the codes that come of them (RFC 6749 §4.1, RFC 7636).

use std::time::Duration;

use super::Window;
use super::access::{Access, ResourceList};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{BrowserSessionId, ClientId, Principal, RequestId};
use crate::secret::Digest;

/// How long somebody may take to consent.
pub const CONSENT_LIFE: Duration = Duration::from_secs(15 * 60);
/// The same with everything that extends it.
pub const MAX_CONSENT_LIFE: Duration = Duration::from_secs(60 * 60);
/// How long a code can be redeemed.
pub const CODE_LIFE: Duration = Duration::from_secs(60);
/// Longest redirect URI, and longest `state`, in bytes.
pub const MAX_TEXT_BYTES: usize = 2048;

/// A request that waits for a person. It belongs to the browser that brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationRequest {
    pub id: RequestId,
    pub client: ClientId,
    pub redirect_uri: String,
    pub state: Option<String>,
    /// The decoded `code_challenge`: the digest of a verifier (RFC 7636 §4.2, `S256`).
    pub challenge: Digest,
    /// Thumbprint of the key that the client will prove to have (`dpop_jkt`, RFC 9449 §10).
    pub proof: Option<Digest>,
    pub resources: ResourceList,
    pub scopes: TokenList,
    /// Digest of the cookie of the browser.
    pub browser: Digest,
    /// A person counts only if they have shown who they are since then (`prompt=login` and `max_age`, OpenID Connect Core
    /// §3.1.2.1).
    pub signed_in_since: Option<Timestamp>,
    /// As whom the person goes on. They may go back and choose again.
    pub chosen: Option<Chosen>,
    pub created: Timestamp,
    pub until: Timestamp,
}

/// The identity that was chosen for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub principal: Principal,
    /// Who was signed in when it was chosen: with somebody else, the choice is made again (`docs/threat-model.md` row A15).
    pub session: Option<BrowserSessionId>,
    /// What was revoked of the principal since then revokes the choice too.
    pub at: Timestamp,
}

impl AuthorizationRequest {
    /// Whether its texts are within their bounds.
    pub fn fits(&self) -> bool {
        self.redirect_uri.len() <= MAX_TEXT_BYTES && self.state.iter().all(|state| state.len() <= MAX_TEXT_BYTES)
    }

    /// Whether it still waits at `now`.
    pub fn is_open(&self, now: Timestamp) -> bool {
        Window { from: self.created, until: self.until }.is_open(now)
    }

    /// The same with `time` to go on from `now`, at most [`MAX_CONSENT_LIFE`] in all and never less than it had.
    pub fn extended(self, now: Timestamp, time: Duration) -> Self {
        let until = now.after(time).min(self.created.after(MAX_CONSENT_LIFE)).max(self.until);
        Self { until, ..self }
    }
}

/// A code that was sent to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    pub digest: Digest,
    pub client: ClientId,
    pub redirect_uri: String,
    pub challenge: Digest,
    pub proof: Option<Digest>,
    pub principal: Principal,
    pub access: Access,
    pub life: Window,
}

/// What a client presents together with a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeProof {
    pub client: ClientId,
    pub redirect_uri: String,
    /// Digest of the `code_verifier`. `None` if there was none, or none that RFC 7636 §4.1 allows: that fits no challenge.
    pub verifier: Option<Digest>,
    /// Those that were named have to be among those that were granted.
    pub resources: ResourceList,
    /// Thumbprint of the key that was proven (DPoP).
    pub proof: Option<Digest>,
}

/// What does not fit between what was presented and what it was presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    Client,
    RedirectUri,
    Resource,
    Scope,
    /// Of the key that the client proves to have (DPoP).
    Proof,
    /// PKCE.
    Verifier,
}

impl Code {
    /// Whether the code may be redeemed with this. The verifier comes last: only who knows all the rest can burn a code.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, presented: &CodeProof) -> Result<(), Mismatch> {
        let CodeProof { client, redirect_uri, verifier, resources, proof } = presented;
        let require = |fits: bool, failure| if fits { Ok(()) } else { Err(failure) };
        require(*client == self.client, Mismatch::Client)?;
        require(*redirect_uri == self.redirect_uri, Mismatch::RedirectUri)?;
        require(resources.iter().all(|resource| self.access.resources.contains(resource)), Mismatch::Resource)?;
        require(self.proof.is_none() || self.proof == *proof, Mismatch::Proof)?;
        require(*verifier == Some(self.challenge), Mismatch::Verifier)
    }
}
