//! Operators' tokens for the API. Pure; where they are kept is `store::api_tokens`.

use super::tokens::TokenList;
use super::user::{DisplayName, Role, User};
use crate::env::{Env, Timestamp};
use crate::ids::{ApiTokenId, UserId};
use crate::secret::{Digest, Plaintext};

/// What every API token begins with, so that secret scanners and people recognise one.
pub const API_TOKEN_PREFIX: &str = "pat_";
/// The scope of tokens that change nothing. Every other scope is the name of an area.
pub const READ: &str = "read";

/// Characters of a secret besides its prefix: 256 bits in unpadded base64url.
const RANDOM_CHARS: usize = 43;

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
    /// Narrow it further, see [`covers`]; none means everything that the role may.
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

    /// Whether this may be the secret of one. What cannot is not worth a look into the store.
    pub fn looks_right(text: &str) -> bool {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let random = text.strip_prefix(API_TOKEN_PREFIX).unwrap_or_default();
        random.len() == RANDOM_CHARS && random.bytes().all(is_allowed)
    }

    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// What it may do for its person now.
    pub fn role(&self, user: &User) -> Role {
        self.ceiling.min(user.role)
    }
}

/// Whether scopes let something be done in an area: `read` leaves what changes nothing, names of areas leave these areas, and
/// both together leave what changes nothing there.
pub fn covers(scopes: &TokenList, is_read: bool, area: &str) -> bool {
    let may_do = is_read || !scopes.iter().any(|scope| scope == READ);
    may_do && (areas(scopes).next().is_none() || areas(scopes).any(|own| own == area))
}

fn areas(scopes: &TokenList) -> impl Iterator<Item = &str> {
    scopes.iter().map(String::as_str).filter(|scope| *scope != READ)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(words: &str) -> TokenList {
        TokenList::parse(words.split_whitespace().map(str::to_owned).collect()).unwrap()
    }

    #[test]
    fn a_secret_looks_like_one() {
        let secret = ApiToken::new_secret(&Env::system());
        assert!(ApiToken::looks_right(secret.expose()));
        for bad in ["", "pat_", &secret.expose()[4..], &secret.expose()[..46], &format!("{}0", secret.expose())] {
            assert!(!ApiToken::looks_right(bad), "{bad}");
        }
    }

    #[test]
    fn scopes_narrow_what_is_done_and_where() {
        for (words, read_keys, change_keys, read_users, change_users) in [
            ("", true, true, true, true),
            ("read", true, false, true, false),
            ("keys", true, true, false, false),
            ("read keys", true, false, false, false),
            ("keys users", true, true, true, true),
            ("none", false, false, false, false),
        ] {
            let scopes = scopes(words);
            let may = |is_read, area| covers(&scopes, is_read, area);
            let all = [may(true, "keys"), may(false, "keys"), may(true, "users"), may(false, "users")];
            assert_eq!(all, [read_keys, change_keys, read_users, change_users], "{words}");
        }
    }
}
