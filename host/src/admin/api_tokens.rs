//! Operator verbs on API tokens. Nobody makes one that may more than they may themselves, and no token makes another: what one
//! made would outlive its revocation, and would do what its scopes do not.

use super::Control;
use crate::audit::Actor;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::api_token::ApiToken;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    pub role: Role,
    /// Whether they come with an API token themselves.
    pub is_token: bool,
}

/// Why a verb did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("a token may not do more than whoever makes it, who is {0}")]
    AboveMaker(Role),
    #[error("an API token makes no other: sign in, or use the admin socket or the operator token")]
    ByToken,
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
        maker: Maker,
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

    /// The token of this id. With `of`, only one of that user's: anybody else's is not found.
    pub async fn api_token(&self, id: &ApiTokenId, of: Option<UserId>) -> Result<ApiToken, TokenError> {
        let found = stored::get(&self.store, id).await?;
        found.filter(|token| of.is_none_or(|of| token.user == of)).ok_or(TokenError::NotFound)
    }

    /// Ends a token. With `of`, only one of that user's: anybody else's is not found.
    pub async fn revoke_api_token(&self, id: &ApiTokenId, of: Option<UserId>, actor: Actor) -> Result<(), TokenError> {
        match stored::revoke(&self.store, id, of, actor).await? {
            Revocation::Revoked => Ok(()),
            Revocation::NotFound => Err(TokenError::NotFound),
        }
    }
}

/// What is wanted, if its maker may have it.
fn bounded(wanted: Wanted, maker: Maker) -> Result<Wanted, TokenError> {
    if maker.is_token {
        return Err(TokenError::ByToken);
    }
    if wanted.role > maker.role {
        return Err(TokenError::AboveMaker(maker.role));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(role: Role) -> Wanted {
        Wanted {
            name: DisplayName::of("ci"),
            user: UserId::parse(&"0a".repeat(12)).unwrap(),
            role,
            scopes: TokenList::default(),
            expires: None,
        }
    }

    #[test]
    fn nobody_makes_a_token_above_themselves() {
        let make = |role, of| bounded(wanted(role), Maker { role: of, is_token: false });
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
    fn a_token_makes_no_token() {
        for of in [Role::Viewer, Role::Operator, Role::Owner] {
            let made = bounded(wanted(Role::Viewer), Maker { role: of, is_token: true });
            assert!(matches!(made, Err(TokenError::ByToken)), "{of}");
        }
    }
}
