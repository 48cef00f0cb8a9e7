//! The token endpoint and its siblings: who a client is ([`authenticate`]), a code for tokens ([`exchange`]), a refresh token
//! for the next one ([`refresh`]), the end of a token ([`revoke`]), what is known of one ([`introspect`]), and requests that are
//! pushed beforehand ([`pushed`]). Who has neither may have a token in their own name ([`client_credentials`]), for a device
//! ([`device`]), for a person whom another issuer vouches for ([`id_jag`]), or for
//! another token ([`token_exchange`]).
//!
//! Refusals are [`Refused`], which names the check that failed. What goes wrong on our side is a fault, and nobody's denial:
//! whatever can fail without the store is done before anything is written, so that no code is lost and no token is used up.

use std::net::IpAddr;
use std::time::Duration;

use crate::identity::TokenList;
use crate::oauth::grant::Gone;
use crate::oauth::request::Mismatch;
use crate::secret::Plaintext;

mod access;
pub mod authenticate;
pub mod client_credentials;
pub mod device;
pub mod exchange;
mod first;
pub mod id_jag;
pub mod introspect;
pub mod pushed;
pub mod refresh;
pub mod revoke;
pub mod token_exchange;
mod unattended;

/// From where a client asks, for policies to read.
#[derive(Clone, Debug, Default)]
pub struct From {
    pub address: Option<IpAddr>,
    pub user_agent: Option<String>,
}

/// What a client gets (RFC 6749 §5.1).
#[derive(Debug)]
pub struct Issued {
    pub access_token: Plaintext,
    /// Whether the token is bound to a key that the client has proven to have (RFC 9449 §5).
    pub is_bound: bool,
    pub life: Duration,
    pub refresh_token: Option<Plaintext>,
    pub scopes: TokenList,
}

/// Why a client gets nothing. None of these has changed anything but what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Whoever asks is not known, or has not shown to be who they say.
    Client(Unproven),
    /// The client is not registered for this.
    GrantType,
    /// Why what was presented counts no more, or for nothing.
    Grant(NoGrant),
    /// Scopes that were not granted, or that are none.
    Scopes,
    /// Resources that were not granted, or that are none.
    Resources,
    /// A token to be exchanged that counts for nothing, or is none of this client's.
    SubjectToken,
    /// The token has to be bound to a key, and none was proven.
    ProofNeeded,
    /// What policies have the token say is more than fits into one.
    TooLarge,
    /// The client asks too often.
    Throttled { wait: Duration },
    /// A policy did not answer. Nothing is refused for good.
    Undecided,
}

/// Why a client is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// It tried with `Authorization`, which is answered alike (RFC 6749 §5.2).
    ByHeader,
    /// It tried in the request, or not at all.
    InRequest,
}

/// Why a code or a refresh token gives nothing. For the log: clients are told that it is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoGrant {
    Gone(Gone),
    /// What was presented with it does not belong to it.
    Mismatch(Mismatch),
    /// It was presented before.
    Replayed,
    /// It came back more often than it may in its grace.
    TooOften,
    /// Whoever consented opens nothing any more.
    Principal,
    /// A policy refuses.
    Policy,
    /// An identity assertion that is none, or of an issuer that is not trusted.
    Assertion,
}

impl NoGrant {
    /// The word for the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone(Gone::Unknown) => "unknown",
            Self::Gone(Gone::Expired) => "expired",
            Self::Gone(Gone::Revoked) => "revoked",
            Self::Gone(Gone::Restored) => "restored",
            Self::Gone(Gone::Client) => "client-gone",
            Self::Mismatch(Mismatch::Client) => "other-client",
            Self::Mismatch(Mismatch::RedirectUri) => "other-redirect-uri",
            Self::Mismatch(Mismatch::Resource) => "other-resource",
            Self::Mismatch(Mismatch::Scope) => "other-scope",
            Self::Mismatch(Mismatch::Proof) => "other-key",
            Self::Mismatch(Mismatch::Verifier) => "verifier",
            Self::Replayed => "replayed",
            Self::TooOften => "too-often",
            Self::Principal => "principal-gone",
            Self::Policy => "policy",
            Self::Assertion => "assertion",
        }
    }
}

impl std::convert::From<Gone> for Refused {
    fn from(gone: Gone) -> Self {
        Self::Grant(NoGrant::Gone(gone))
    }
}

impl std::convert::From<Mismatch> for Refused {
    fn from(mismatch: Mismatch) -> Self {
        match mismatch {
            Mismatch::Scope => Self::Scopes,
            Mismatch::Resource => Self::Resources,
            _ => Self::Grant(NoGrant::Mismatch(mismatch)),
        }
    }
}
