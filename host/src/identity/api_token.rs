//! Operators' tokens for the API. Pure; where they are kept is `store::api_tokens`.

use super::tokens::TokenList;
use super::user::{DisplayName, Role, User};
use crate::env::{Env, Timestamp};
use crate::ids::{ApiTokenId, UserId};
use crate::secret::{Digest, Plaintext};

/// What every API token begins with, so that secret scanners and people recognise one.
pub const API_TOKEN_PREFIX: &str = "pat_";

/// A token that acts for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    pub id: ApiTokenId,
    /// For its person to tell it from others.
    pub name: DisplayName,
    pub user: UserId,
    pub digest: Digest,
    /// It may do what both its person and this role may.
    pub ceiling: Role,
    /// Narrows it further; none means everything that the role may.
    pub scopes: TokenList,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    /// To the minute.
    pub last_used: Option<Timestamp>,
}

impl ApiToken {
    /// A new secret: the prefix and 256 random bits in unpadded base64url.
    pub fn new_secret(env: &Env) -> Plaintext {
        use base64::Engine as _;
        let random = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(env.random::<32>());
        Plaintext::new(format!("{API_TOKEN_PREFIX}{random}"))
    }

    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// What it may do for its person now.
    pub fn role(&self, user: &User) -> Role {
        self.ceiling.min(user.role)
    }
}
