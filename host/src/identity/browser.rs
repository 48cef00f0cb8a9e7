//! Browsers in which a person is signed in. Pure; where they are kept is `store::browser_sessions`.
//!
//! The cookie is 256 random bits of which we keep the digest. It is a new one after each sign-in and each change of what
//! it opens, and the old one is dead from then on, so that nobody can plant one (session fixation).

use std::time::Duration;

use crate::env::Timestamp;
use crate::ids::{BrowserSessionId, UserId};
use crate::secret::Digest;

words! {
    /// Which pages a cookie opens. One of the public listener opens nothing of the operators', and the other way round.
    Surface {
        Public = "public",
        Admin = "admin",
    }
}

/// How a person showed who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    Password,
    /// An identity provider said so.
    Provider {
        issuer: String,
    },
    /// The link that the first start printed.
    SetUpLink,
}

impl Method {
    /// For logs and the audit trail.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Provider { .. } => "provider",
            Self::SetUpLink => "set_up_link",
        }
    }
}

/// A browser in which a person is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserSession {
    pub id: BrowserSessionId,
    pub user: UserId,
    /// Of the cookie.
    pub digest: Digest,
    pub surface: Surface,
    pub created: Timestamp,
    /// When the person showed last who they are (`auth_time` of OpenID Connect Core §2).
    pub authenticated: Timestamp,
    pub method: Method,
    pub last_seen: Timestamp,
    /// How long it lives without being seen.
    pub idle: Duration,
    /// When it ends, however often it is seen.
    pub ends: Timestamp,
    /// What the browser says it is, for its person to tell it from others.
    pub agent: String,
}

impl BrowserSession {
    /// When it ends if it is not seen again.
    pub fn expires(&self) -> Timestamp {
        self.ends.min(self.last_seen.after(self.idle))
    }

    pub fn is_alive(&self, now: Timestamp) -> bool {
        now < self.expires()
    }
}
