//! Lending: how whoever sends a request to an upstream comes by the credential that goes with it.
//!
//! Pure but for the trait, which `connections` implements: the keeper of credentials lends one for one request, and is told
//! when the upstream would not have it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use futures_util::future::BoxFuture;

use super::{Place, Reason};
use crate::ids::ConnectionId;

/// A credential that somebody needs for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub place: Place,
    pub kind: Kind,
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
}

/// A credential for one request, or for some that follow each other closely. Nothing of it is for a log: header values
/// are marked sensitive.
#[derive(Clone, Debug)]
pub struct Lent {
    pub place: Place,
    pub connection: ConnectionId,
    /// Of the connection: what is said of this credential is said of no later one.
    pub revision: u64,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why there is no credential for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Its person has something to do first.
    Missing(Lack),
    /// It carries more than the policies let go out.
    TooWide,
    /// Whoever renews it cannot be reached, or asks for patience: later, perhaps.
    Unavailable { retry_after: Option<Duration> },
    /// The store or the vault failed; the log has more.
    Fault,
}

/// What a person has to do something about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// There is no connection, or none that its holder may use.
    NotConnected,
    /// The one that is there does not work any more.
    NeedsReauth(Reason),
    /// Values for these headers were never given.
    NeedsUpdate(Vec<String>),
    /// It is older than a policy accepts, and cannot be renewed without its person.
    TooOld,
    /// The upstream wants these scopes besides.
    NeedsScopes(Vec<String>),
}

/// What an upstream said of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// 401 (RFC 6750 §3.1 `invalid_token`).
    Unauthorized,
    /// 403 `insufficient_scope`, with the scopes that it asks for.
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
