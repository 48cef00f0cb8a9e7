//! Operator verbs on people's accounts. Passwords come hashed: that is `authorization::passwords`.

use std::collections::{BTreeSet, HashMap};

use super::Control;
use crate::audit::Actor;
use crate::connection::{End, Holder};
use crate::identity::browser::BrowserSession;
use crate::identity::user::{ExternalIdentity, Login, User};
use crate::ids::{Principal, UserId};
use crate::store::browser_sessions::{self, MAX_PER_USER};
use crate::store::connections::{self, Whose};
use crate::store::users::{self as stored, Change, Creation, Deletion, Edit, Filter, NewUser};
use crate::store::{Cursor, Page, StoreError};

/// Why a verb did not happen.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("there is no such user")]
    NotFound,
    #[error("somebody has this login already")]
    LoginTaken,
    #[error("there are as many users as there may be")]
    TooMany,
    #[error("this is the last owner: make somebody else one first")]
    LastOwner,
    #[error("the account was changed meanwhile: its revision is {0}")]
    Conflict(u64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Control {
    /// Makes an account.
    pub async fn create_user(&self, new: NewUser, actor: Actor) -> Result<User, UserError> {
        match stored::create(&self.store, new, actor).await? {
            Creation::Created(user) => Ok(*user),
            Creation::LoginTaken => Err(UserError::LoginTaken),
            Creation::TooMany => Err(UserError::TooMany),
        }
    }

    /// Changes an account. One that opens less than before loses its browsers in the same transaction.
    pub async fn change_user(
        &self,
        id: &UserId,
        expected: Option<u64>,
        edits: Vec<Edit>,
        actor: Actor,
    ) -> Result<User, UserError> {
        match stored::change(&self.store, id, expected, edits, actor).await? {
            Change::Changed(user) | Change::Unchanged(user) => Ok(*user),
            Change::NotFound => Err(UserError::NotFound),
            Change::Conflict(revision) => Err(UserError::Conflict(revision)),
            Change::LoginTaken => Err(UserError::LoginTaken),
            Change::LastOwner => Err(UserError::LastOwner),
        }
    }

    /// Deletes an account, of the `expected` revision if there is one, with its browsers, identities, grants, data key and
    /// connections.
    pub async fn delete_user(&self, id: &UserId, expected: Option<u64>, actor: Actor) -> Result<(), UserError> {
        match stored::delete_at(&self.store, id, expected, actor).await? {
            Deletion::Deleted(leavings) => {
                if !leavings.connections.is_empty() {
                    self.end_connections(leavings.principal, actor).await;
                }
                Ok(())
            }
            Deletion::NotFound => Err(UserError::NotFound),
            Deletion::LastOwner => Err(UserError::LastOwner),
            Deletion::Conflict(revision) => Err(UserError::Conflict(revision)),
        }
    }

    /// Ends what somebody had connected who is gone. Nobody uses it any more, whatever comes of this: what is left is ended by
    /// the next sweep.
    async fn end_connections(&self, gone: Principal, actor: Actor) {
        let whose = Whose::Holder(Holder::Of(gone));
        loop {
            match connections::end_all_of(&self.store, whose.clone(), End::HolderGone, actor).await {
                Ok(ended) if ended.has_more => {}
                Ok(_) => return,
                Err(error) => {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::warn!(error, "connections of a deleted account are left to the next sweep");
                    return;
                }
            }
        }
    }

    /// The user with this id.
    pub async fn user(&self, id: &UserId) -> Result<User, UserError> {
        stored::get(&self.store, id).await?.ok_or(UserError::NotFound)
    }

    /// What these people are called, deleted ones included as long as they are remembered.
    pub async fn users_called(&self, ids: BTreeSet<UserId>) -> Result<HashMap<UserId, String>, StoreError> {
        stored::called(&self.store, ids).await
    }

    /// The user with this login, if there is one.
    pub async fn user_with_login(&self, login: &Login) -> Result<Option<User>, StoreError> {
        stored::by_login(&self.store, login).await
    }

    /// How identity providers know a user.
    pub async fn user_identities(&self, id: &UserId) -> Result<Vec<ExternalIdentity>, StoreError> {
        stored::identities(&self.store, id).await
    }

    /// A page of users, newest first.
    pub async fn list_users(
        &self,
        filter: Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<User>, StoreError> {
        stored::list(&self.store, filter, after, limit).await
    }

    /// The browsers where a user is signed in, newest first.
    pub async fn user_sessions(&self, id: &UserId) -> Result<Vec<BrowserSession>, UserError> {
        self.user(id).await?;
        Ok(browser_sessions::list(&self.store, id, None, MAX_PER_USER).await?.items)
    }

    /// Signs a user out everywhere, and tells in how many browsers that was.
    pub async fn end_user_sessions(&self, id: &UserId, actor: Actor) -> Result<usize, UserError> {
        self.user(id).await?;
        Ok(browser_sessions::end_all_of(&self.store, id, None, actor).await?)
    }
}
