//! Connection flows: a person's way to an authorization server and back, with what has to be the same at both ends.
//!
//! Pure. A flow is found by the digest of its `state` (RFC 6749 §10.12) and claimed at most once: by the browser and the
//! person that began it, for the issuer that it was begun for (RFC 9207 §2.4), at the address of its own context.

use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ConnectionId, FlowId, UserId};
use crate::secret::{Digest, Sealed};

use super::{Origin, Place};

/// An attempt to make a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub id: FlowId,
    /// Of the `state` that comes back.
    pub state: Digest,
    pub place: Place,
    /// The connection that it makes. That of one that is there, if it is to be renewed.
    pub connection: ConnectionId,
    /// The revision of the connection that is to be renewed.
    pub renews: Option<u64>,
    /// Where the upstream was when it was begun: what the person agrees to is meant for there.
    pub origin: Option<Origin>,
    /// The authorization server that the person is sent to.
    pub issuer: String,
    /// Our client id there.
    pub client: String,
    /// The address that the answer has to come to, which names the context.
    pub redirect: String,
    /// The PKCE verifier (RFC 7636 §4.1), sealed for the flow's id. Gone once the flow is over.
    pub verifier: Option<Sealed>,
    pub scopes: TokenList,
    /// Of the cookie of the browser that began it.
    pub browser: Digest,
    /// Who was signed in there, if it is bound to a person.
    pub user: Option<UserId>,
    pub begun: Timestamp,
    pub expires: Timestamp,
    pub stage: Stage,
}

words! {
    /// How far it has come.
    Stage {
        /// The person is on their way.
        Pending = "pending",
        /// They came back, and the code is being exchanged.
        Claimed = "claimed",
        /// There is nothing more to come.
        Over = "over",
    }

    /// A check that an answer did not pass.
    Check {
        Browser = "browser",
        User = "user",
        Issuer = "issuer",
        Redirect = "redirect",
        /// It was claimed before.
        Replay = "replay",
        /// The holder may not use the upstream, or it is another upstream now.
        Access = "access",
        /// The connection that was to be made or renewed has changed meanwhile.
        Connection = "connection",
    }
}

/// What comes with the answer of an authorization server.
#[derive(Clone, Debug)]
pub struct Callback {
    pub state: Digest,
    /// Of the cookie of the browser that it came from.
    pub browser: Digest,
    /// Who is signed in there.
    pub user: Option<UserId>,
    /// The parameter `iss`; `None` where the server is known not to send one.
    pub issuer: Option<String>,
    /// The address that it came to.
    pub redirect: String,
}

impl Flow {
    /// The first check that an answer does not pass. Those of the person come first: a stranger learns nothing else.
    pub fn check(&self, callback: &Callback) -> Option<Check> {
        let is_browser = self.browser == callback.browser;
        let is_user = self.user.is_none() || self.user == callback.user;
        let is_issuer = callback.issuer.as_ref().is_none_or(|issuer| *issuer == self.issuer);
        let checks = [
            (is_browser, Check::Browser),
            (is_user, Check::User),
            (self.stage == Stage::Pending, Check::Replay),
            (self.redirect == callback.redirect, Check::Redirect),
            (is_issuer, Check::Issuer),
        ];
        checks.into_iter().find(|(passed, _)| !passed).map(|(_, check)| check)
    }
}
