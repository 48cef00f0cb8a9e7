//! Operator verbs on API tokens. Nobody makes one that may more than they may themselves.

use super::Control;
use crate::audit::Actor;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::api_token::{ApiToken, is_within};
use crate::identity::user::{DisplayName, Role};
use crate::ids::{ApiTokenId, UserId};
use crate::secret::Plaintext;
use crate::store::api_tokens::{self as stored, Creation, NewToken, Revocation};
use crate::store::{Cursor, Page, StoreError};

/// A token to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: DisplayName,
    /// Whose it is to be.
    pub user: UserId,
    pub role: Role,
    pub scopes: TokenList,
    pub expires: Option<Timestamp>,
}

/// What whoever makes a token may do.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    pub role: Role,
    /// The token that they make it with.
    pub token: Option<&'a ApiToken>,
}

/// Why a verb did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("a token may not do more than whoever makes it, who is {0}")]
    AboveMaker(Role),
    #[error("a token that is made with a token has no wider scopes and does not outlive it")]
    Wider,
    #[error("a token may not do more than its person, who is {0}")]
    AboveUser(Role),
    #[error("it has expired already")]
    AlreadyExpired,
    #[error("there is no such user, or the account opens nothing")]
    NotActive,
    #[error("the user has {} tokens already", stored::MAX_PER_USER)]
    TooMany,
    #[error("there is no such token")]
    NotFound,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Control {
    /// Makes a token. Its secret is returned this once.
    pub async fn create_api_token(
        &self,
        wanted: Wanted,
        maker: Maker<'_>,
        actor: Actor,
    ) -> Result<(ApiToken, Plaintext), TokenError> {
        let wanted = bounded(wanted, maker)?;
        if wanted.expires.is_some_and(|expires| expires <= self.env.now()) {
            return Err(TokenError::AlreadyExpired);
        }
        let secret = ApiToken::new_secret(&self.env);
        let Wanted { name, user, role, scopes, expires } = wanted;
        let id = ApiTokenId::generate(&self.env);
        let new = NewToken { id, name, user, digest: secret.digest(), ceiling: role, scopes, expires };
        match stored::create(&self.store, new, actor).await? {
            Creation::Created(token) => Ok((*token, secret)),
            Creation::NotActive => Err(TokenError::NotActive),
            Creation::AboveRole(role) => Err(TokenError::AboveUser(role)),
            // Ids are drawn, and this one was: whoever asks again gets another.
            Creation::Taken => Err(TokenError::Store(StoreError::Busy)),
            Creation::TooMany => Err(TokenError::TooMany),
        }
    }

    /// A page of tokens, of one user or of all, newest first.
    pub async fn list_api_tokens(
        &self,
        user: Option<UserId>,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<ApiToken>, StoreError> {
        stored::list(&self.store, user, after, limit).await
    }

    /// Ends a token. With `of`, only one of that user's: anybody else's is not found.
    pub async fn revoke_api_token(&self, id: &ApiTokenId, of: Option<UserId>, actor: Actor) -> Result<(), TokenError> {
        match stored::revoke(&self.store, id, of, actor).await? {
            Revocation::Revoked => Ok(()),
            Revocation::NotFound => Err(TokenError::NotFound),
        }
    }
}

/// What is wanted, if its maker may have it. One that is made with a token ends with it where nothing else is said.
fn bounded(wanted: Wanted, maker: Maker<'_>) -> Result<Wanted, TokenError> {
    if wanted.role > maker.role {
        return Err(TokenError::AboveMaker(maker.role));
    }
    let Some(own) = maker.token else { return Ok(wanted) };
    let expires = wanted.expires.or(own.expires);
    let outlives = own.expires.is_some_and(|ends| expires.is_none_or(|expires| expires > ends));
    if outlives || !is_within(&wanted.scopes, &own.scopes) {
        return Err(TokenError::Wider);
    }
    Ok(Wanted { expires, ..wanted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Digest;

    fn scopes(words: &[&str]) -> TokenList {
        TokenList::parse(words.iter().map(|word| (*word).to_owned()).collect()).unwrap()
    }

    fn wanted(role: Role, words: &[&str], expires: Option<u64>) -> Wanted {
        Wanted {
            name: DisplayName::of("ci"),
            user: UserId::parse(&"0a".repeat(12)).unwrap(),
            role,
            scopes: scopes(words),
            expires: expires.map(Timestamp::from_millis),
        }
    }

    #[test]
    fn nobody_makes_a_token_above_themselves() {
        let make = |role, of| bounded(wanted(role, &[], None), Maker { role: of, token: None });
        for (role, of, is_made) in [
            (Role::Viewer, Role::Viewer, true),
            (Role::Operator, Role::Viewer, false),
            (Role::Operator, Role::Operator, true),
            (Role::Owner, Role::Operator, false),
            (Role::Owner, Role::Owner, true),
        ] {
            assert_eq!(make(role, of).is_ok(), is_made, "{role} by {of}");
        }
    }

    #[test]
    fn a_token_makes_none_that_is_wider_or_outlives_it() {
        let token = |words: &[&str], expires: Option<u64>| ApiToken {
            id: ApiTokenId::parse(&"0b".repeat(12)).unwrap(),
            name: DisplayName::of("own"),
            user: UserId::parse(&"0a".repeat(12)).unwrap(),
            digest: Digest::of(b"x"),
            ceiling: Role::Operator,
            scopes: scopes(words),
            created: Timestamp::from_millis(1),
            expires: expires.map(Timestamp::from_millis),
            last_used: None,
        };
        let make = |own: &ApiToken, words: &[&str], expires| {
            let made = bounded(wanted(Role::Viewer, words, expires), Maker { role: Role::Operator, token: Some(own) });
            made.ok().map(|made| made.expires.map(Timestamp::as_millis))
        };
        let own = token(&["api-tokens", "keys"], Some(1_000));
        assert_eq!(make(&own, &["keys"], Some(999)), Some(Some(999)));
        assert_eq!(make(&own, &["keys", "read"], None), Some(Some(1_000)), "it ends with the other");
        assert_eq!(make(&own, &["keys"], Some(1_001)), None);
        assert_eq!(make(&own, &["users"], None), None);
        assert_eq!(make(&own, &[], None), None);
        let unbounded = token(&[], None);
        assert_eq!(make(&unbounded, &[], None), Some(None));
        assert_eq!(make(&unbounded, &["read"], Some(7)), Some(Some(7)));
    }
}
