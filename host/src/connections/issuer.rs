//! What the keeper and the connect flows ask of authorization servers.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::config;
use crate::connection::Reason;
use crate::connection::lending::ExchangeRefusal;
use crate::identity::TokenList;
use crate::identity::user::{ExternalIdentity, User};
use crate::ids::UpstreamName;
use crate::secret::Plaintext;

/// Whose tokens they are: the server that gave them and our client there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub upstream: UpstreamName,
    pub issuer: String,
    pub client: String,
}

/// Tokens as a server gives them (RFC 6749 §5.1).
#[derive(Clone, Debug)]
pub struct Issued {
    pub access: Plaintext,
    /// A new refresh token; without it, the one that was used stays good.
    pub refresh: Option<Plaintext>,
    pub expires_in: Option<Duration>,
    /// What was granted, if that is not what was asked for.
    pub scopes: Option<TokenList>,
}

/// Why there are no new tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotIssued {
    /// For good: the person has to connect anew.
    Refused(Reason),
    /// The server could not be asked, or asks for patience. What is stored is as good as before.
    Later { retry_after: Option<Duration> },
}

/// Why tokens were not revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRevoked {
    /// Asking again is of no use: the server has no such endpoint, or will not.
    Never,
    Later {
        retry_after: Option<Duration>,
    },
}

/// What a person's way to an authorization server begins with.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// As the file or an operator has the upstream now.
    pub upstream: &'a config::Upstream,
    /// Where the answer has to come to, without what tells contexts apart: `<public URL>/connect/callback`.
    pub callback: &'a str,
    /// The parameter `state`.
    pub state: &'a Plaintext,
    /// The PKCE verifier (RFC 7636 §4.1), of which the server gets the digest.
    pub verifier: &'a Plaintext,
    /// Scopes that an upstream asked for besides, and those that the connection has.
    pub scopes: &'a [String],
}

/// A person's way to an authorization server.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where the browser is sent.
    pub url: String,
    pub source: Source,
    /// The address of this context: of this deployment, upstream and issuer and no other (mix-up, COAT).
    pub redirect: String,
    pub scopes: TokenList,
}

/// Why there is no way. The words are ours and fit for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// The server could not be reached, or failed.
    #[error("the authorization server cannot be reached")]
    Unreachable { retry_after: Option<Duration> },
    /// It is there, and cannot be used: what it says of itself does not fit.
    #[error("{what}")]
    Unfit { what: &'static str },
    /// The store or the vault failed; the log has more.
    #[error("the gateway cannot do this now")]
    Fault,
}

/// Somebody whom the gateway vouches for, as far as that is anybody's business: what goes out is for the upstream's settings
/// to say.
#[derive(Clone, Debug)]
pub struct Person {
    pub user: User,
    /// How identity providers know them.
    pub identities: Vec<ExternalIdentity>,
}

/// A token that a server gave for somebody whom the gateway vouches for (RFC 8693 §2.2.1).
#[derive(Clone, Debug)]
pub struct Exchanged {
    pub access: Plaintext,
    pub expires_in: Option<Duration>,
    /// What was granted, or else what was asked for.
    pub scopes: TokenList,
    pub issuer: String,
    /// What the person is called there.
    pub subject: String,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotExchanged {
    /// The server said no.
    Refused(ExchangeRefusal),
    /// The person has nothing by which the server is to know them.
    Nobody,
    /// The server could not be asked, or it says nothing that can be worked with.
    Later { retry_after: Option<Duration> },
    /// The gateway itself cannot vouch for anybody now; the log has more.
    Fault,
}

/// Authorization servers, for the keeper and for connect flows.
pub trait Issuer: fmt::Debug + Send + Sync {
    /// Finds the authorization server of an upstream, has a client there, and writes the address that a person is sent to.
    ///
    /// # Errors
    /// [`NoWay`].
    fn way<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Result<Way, NoWay>>;

    /// Whether the server says that its answers carry `iss` (RFC 9207 §3): one without is not its answer then.
    fn says_issuer<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<bool, NoWay>>;

    /// Exchanges a code (RFC 6749 §4.1.3, RFC 7636 §4.5).
    ///
    /// # Errors
    /// [`NotIssued`].
    fn exchange<'a>(
        &'a self,
        source: &'a Source,
        code: &'a Plaintext,
        verifier: &'a Plaintext,
        redirect: &'a str,
    ) -> BoxFuture<'a, Result<Issued, NotIssued>>;

    /// Uses a refresh token (RFC 6749 §6).
    ///
    /// # Errors
    /// [`NotIssued`].
    fn refresh<'a>(&'a self, source: &'a Source, refresh: &'a Plaintext) -> BoxFuture<'a, Result<Issued, NotIssued>>;

    /// Whether there is something by which the server is to know somebody. Nothing is asked of anybody.
    ///
    /// # Errors
    /// [`NotExchanged::Nobody`], and [`NotExchanged::Fault`] where the upstream takes no such tokens.
    fn can_vouch_for(&self, upstream: &UpstreamName, person: &Person) -> Result<(), NotExchanged>;

    /// Vouches for somebody, for a token of theirs (RFC 8693 §2.1).
    ///
    /// # Errors
    /// [`NotExchanged`].
    fn exchange_identity<'a>(
        &'a self,
        upstream: &'a UpstreamName,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<Exchanged, NotExchanged>>;

    /// Revokes the refresh token, then the access token (RFC 7009).
    ///
    /// # Errors
    /// [`NotRevoked`].
    fn revoke<'a>(
        &'a self,
        source: &'a Source,
        refresh: Option<&'a Plaintext>,
        access: &'a Plaintext,
    ) -> BoxFuture<'a, Result<(), NotRevoked>>;
}
