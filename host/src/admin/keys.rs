//! Virtual keys: made, listed, disabled and deleted. Keys of the configuration file are shown and left alone.

use std::sync::Arc;

use super::Control;
use crate::audit::Actor;
use crate::config;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::key::{AllowList, ManagedBy, Standing, VirtualKey};
use crate::ids::KeyName;
use crate::secret::Plaintext;
use crate::store::keys::{self as stored, Creation, Deletion, StandingChange};
use crate::store::{Cursor, Page, StoreError};

/// A key as an operator wants it.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: KeyName,
    pub allow: AllowList,
    pub scopes: TokenList,
    pub groups: TokenList,
    pub expires: Option<Timestamp>,
}

/// Why a key was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("there is a key of this name already")]
    NameTaken,
    #[error("there is no key of this name")]
    NotFound,
    #[error("the key is declared in the configuration file and changed there")]
    ManagedByFile,
    #[error("there are {} keys already", stored::MAX_KEYS)]
    TooMany,
    #[error("the expiry is in the past")]
    AlreadyExpired,
    #[error("the store did not take the change")]
    Store(#[from] StoreError),
}

impl Control {
    /// Makes a key. Its secret is returned this once.
    pub async fn create_key(self: &Arc<Self>, new: NewKey, actor: Actor) -> Result<(VirtualKey, Plaintext), KeyError> {
        let NewKey { name, allow, scopes, groups, expires } = new;
        let _one_at_a_time = self.changing.lock().await;
        if self.file_keys().any(|key| key.name == name) {
            return Err(KeyError::NameTaken);
        }
        let now = self.env.now();
        if expires.is_some_and(|expires| expires <= now) {
            return Err(KeyError::AlreadyExpired);
        }
        let secret = VirtualKey::new_secret(&self.env);
        let key = VirtualKey {
            name,
            digest: secret.digest(),
            allow,
            scopes,
            groups,
            created: now,
            expires,
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
        };
        match stored::create(&self.store, key.clone(), actor).await? {
            Creation::Created => {}
            Creation::NameTaken | Creation::SecretTaken => return Err(KeyError::NameTaken),
            Creation::TooMany => return Err(KeyError::TooMany),
        }
        self.publish_keys().await?;
        Ok((key, secret))
    }

    /// Disables a key, or enables it again. Takes effect with the next request.
    pub async fn set_key_standing(
        self: &Arc<Self>,
        name: &KeyName,
        standing: Standing,
        actor: Actor,
    ) -> Result<(), KeyError> {
        let _one_at_a_time = self.changing.lock().await;
        self.refuse_file_key(name)?;
        match stored::set_standing(&self.store, name, standing, actor).await? {
            StandingChange::Changed => Ok(self.publish_keys().await?),
            StandingChange::Unchanged => Ok(()),
            StandingChange::NotFound => Err(KeyError::NotFound),
        }
    }

    /// Deletes a key. Takes effect with the next request.
    pub async fn delete_key(self: &Arc<Self>, name: &KeyName, actor: Actor) -> Result<(), KeyError> {
        let _one_at_a_time = self.changing.lock().await;
        self.refuse_file_key(name)?;
        match stored::delete(&self.store, name, actor).await? {
            Deletion::Deleted => Ok(self.publish_keys().await?),
            Deletion::NotFound => Err(KeyError::NotFound),
        }
    }

    /// A page of the keys in the store, newest first; on the first page, those of the file stand before them.
    pub async fn list_keys(&self, after: Option<Cursor>, limit: usize) -> Result<Page<VirtualKey>, StoreError> {
        let is_first = after.is_none();
        let mut page = stored::list(&self.store, after, limit).await?;
        if is_first {
            let mut items: Vec<VirtualKey> = self.file_keys().collect();
            items.append(&mut page.items);
            page.items = items;
        }
        Ok(page)
    }

    /// The key of this name.
    pub async fn key(&self, name: &KeyName) -> Result<Option<VirtualKey>, StoreError> {
        match self.file_keys().find(|key| key.name == *name) {
            Some(key) => Ok(Some(key)),
            None => stored::by_name(&self.store, name).await,
        }
    }

    fn file_keys(&self) -> impl Iterator<Item = VirtualKey> + use<> {
        let config: Arc<config::Config> = self.config.load_full();
        (0..config.keys.len()).map(move |at| config.keys[at].clone())
    }

    fn refuse_file_key(&self, name: &KeyName) -> Result<(), KeyError> {
        if self.file_keys().any(|key| key.name == *name) { Err(KeyError::ManagedByFile) } else { Ok(()) }
    }

    async fn publish_keys(&self) -> Result<(), StoreError> {
        let keys = Arc::new(super::read_keys(&self.store, &self.config.load()).await?);
        self.publish(|new| new.keys = keys.clone());
        Ok(())
    }
}
