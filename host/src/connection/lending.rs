//! Lending: how whoever sends a request to an upstream comes by the credential that goes with it.
//!
//! Pure but for the trait, which `connections` implements: the keeper of credentials lends one for one request, and is told
//! when the upstream would not have it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use futures_util::future::BoxFuture;
use tokio::sync::SetOnce;
use tokio::time::timeout;

use super::{Origin, Place, Reason};
use crate::ids::ConnectionId;
use crate::secret::Plaintext;

/// How long the keeper is waited for while the gateway starts.
const PATIENCE: Duration = Duration::from_secs(10);

/// A credential that somebody needs for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub place: Place,
    pub kind: Kind,
    /// Where it is about to be shown.
    pub origin: Origin,
    /// The scopes that policies let go out; a credential with others is not lent. `None` where none has a say.
    pub scopes: Option<Vec<String>>,
    /// Oldest acceptable credential.
    pub max_age: Option<Duration>,
}

/// What kind of credential the upstream takes, as it is configured now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    OAuth,
    /// Values for these headers, in lower case.
    Headers(Vec<String>),
    /// Values for these environment variables of a program, in upper case.
    Variables(Vec<String>),
    /// A token that its authorization server gives for what the gateway vouches for. Nobody connects it.
    Exchanged,
}

impl Kind {
    /// The word for it in what callers are told, and in the API.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OAuth => "oauth",
            Self::Headers(_) => "headers",
            Self::Variables(_) => "environment",
            Self::Exchanged => "token-exchange",
        }
    }
}

/// A credential for one request, or for some that follow each other closely. Nothing of it is for a log: header values
/// are marked sensitive.
#[derive(Clone, Debug)]
pub struct Lent {
    pub place: Place,
    pub connection: ConnectionId,
    /// Of the connection: what is said of this credential is said of no later one.
    pub revision: u64,
    /// The revision at which somebody gave it, or what it was renewed from.
    pub given: u64,
    /// Of a token; none where scopes are not known.
    pub scopes: Vec<String>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For the environment of a program. What has some has no headers.
    pub variables: Vec<(String, Plaintext)>,
}

/// Why there is no credential for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// Its person has something to do first.
    #[error("{0}")]
    Missing(Lack),
    #[error("the stored credential carries more than the policies let go out")]
    TooWide,
    /// Whoever renews it cannot be reached, or asks for patience: later, perhaps.
    #[error("the stored credential cannot be renewed at the moment")]
    Unavailable { retry_after: Option<Duration> },
    /// The store or the vault failed; the log has more.
    #[error("the stored credential cannot be had at the moment")]
    Fault,
}

/// What a person has to do something about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// There is no connection, or none that its holder may use.
    #[error("it is not connected")]
    NotConnected,
    /// The one that is there does not work any more.
    #[error("it has to be connected again")]
    NeedsReauth(Reason),
    /// Values for these headers were never given.
    #[error("it asks for more: {}", .0.join(", "))]
    NeedsUpdate(Vec<String>),
    /// It is older than a policy accepts, and cannot be renewed without its person.
    #[error("it was connected too long ago")]
    TooOld,
    /// The upstream wants these scopes, those that the connection has included.
    #[error("it asks for more rights: {}", .0.join(" "))]
    NeedsScopes(Vec<String>),
    /// It takes the person who calls, and whoever calls is nobody whom the gateway can vouch for.
    #[error("it is for people who have signed in: a key or a guest is nobody there")]
    NoIdentity,
    /// The authorization server gives nothing for what the gateway vouches for.
    #[error("{}", .0.told())]
    ExchangeRefused(ExchangeRefusal),
}

words! {
    /// Why there is no token for somebody whom the gateway vouches for.
    ExchangeRefusal {
        /// `invalid_grant`, `invalid_request` (RFC 8693 §2.2.2): it does not know this person, or does not take our word.
        Subject = "subject_refused",
        /// `invalid_target`: not for this upstream.
        Target = "target_refused",
        /// `access_denied`
        Denied = "access_denied",
        /// `invalid_scope`
        Scope = "scope_refused",
        /// The upstream refuses what was given.
        Unauthorized = "unauthorized",
    }
}

impl ExchangeRefusal {
    /// For the person. The words are ours.
    const fn told(self) -> &'static str {
        match self {
            Self::Subject => "its authorization server does not take the gateway's word for you",
            Self::Target => "its authorization server gives the gateway nothing for this service",
            Self::Denied => "its authorization server lets you not use it",
            Self::Scope => "its authorization server does not give you the rights that are asked for",
            Self::Unauthorized => "it does not take what its authorization server has given for you",
        }
    }
}

impl Lack {
    /// The word for machines.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::NeedsReauth(_) => "needs_reauth",
            Self::NeedsUpdate(_) => "needs_update",
            Self::TooOld => "too_old",
            Self::NeedsScopes(_) => "insufficient_scope",
            Self::NoIdentity => "no_identity",
            Self::ExchangeRefused(_) => "exchange_refused",
        }
    }
}

/// What an upstream said of a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// 401 (RFC 6750 §3.1 `invalid_token`).
    #[error("the credential is not accepted")]
    Unauthorized,
    /// 403 `insufficient_scope`, with the scopes that it asks for.
    #[error("the credential does not reach that far")]
    InsufficientScope(Vec<String>),
}

/// Keeps credentials and lends them.
pub trait Lender: fmt::Debug + Send + Sync {
    /// The credential of a place, fresh enough to be used now.
    ///
    /// # Errors
    /// [`Withheld`].
    fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>>;

    /// Hears that an upstream refused what was lent, and lends another one if there is one: renewed meanwhile, or by this.
    ///
    /// # Errors
    /// [`Withheld`], where nothing better can be had without the person.
    fn rejected<'a>(
        &'a self,
        wanted: &'a Wanted,
        lent: &'a Lent,
        why: &'a Rejected,
    ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>>;
}

/// A lender that is there later: upstreams are started before the keeper, which looks at what they are part of. Whoever
/// borrows meanwhile waits, but not for long.
#[derive(Debug, Default)]
pub struct Later(SetOnce<Arc<dyn Lender>>);

impl Later {
    /// From now on it is this one. A second one is not taken.
    pub fn is(&self, lender: Arc<dyn Lender>) {
        _ = self.0.set(lender);
    }

    async fn lender(&self) -> Result<&Arc<dyn Lender>, Withheld> {
        timeout(PATIENCE, self.0.wait()).await.map_err(|_| Withheld::Fault)
    }
}

impl Lender for Later {
    fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        match self.0.get() {
            Some(lender) => lender.lend(wanted),
            None => Box::pin(async move { self.lender().await?.lend(wanted).await }),
        }
    }

    fn rejected<'a>(
        &'a self,
        wanted: &'a Wanted,
        lent: &'a Lent,
        why: &'a Rejected,
    ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        match self.0.get() {
            Some(lender) => lender.rejected(wanted, lent, why),
            None => Box::pin(async move { self.lender().await?.rejected(wanted, lent, why).await }),
        }
    }
}
