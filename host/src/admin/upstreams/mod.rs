//! Upstreams: declared, changed, tried and removed by operators. Those of the configuration file are shown and left alone.
//!
//! A definition is read by the rules of the file ([`config::definition`]), its secrets are taken out ([`draft`]) and sealed,
//! and what it comes to is tried ([`trial`]) before it is saved. What is in force is the business of [`running`], and how
//! it is read from the store that of [`declared`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::MutexGuard;

use super::{Applied, Control};
use crate::audit::Actor;
use crate::config;
use crate::config::definition::Misfit;
use crate::connection::End;
use crate::identity::user::Role;
use crate::ids::{Owner, UpstreamName};
use crate::secret::{Plaintext, Sealed, hex};
use crate::store::connections::{self, Ended, Whose};
use crate::store::upstreams::{self as stored, Changing, Content, Declaration, Declaring, Edit, Withdrawal};
use crate::store::{Store, StoreError};
use crate::upstream::{Stage, Tried, Upstream};
use crate::vault::VaultError;

pub(super) mod declared;
mod draft;
pub(super) mod running;
#[cfg(test)]
mod tests;
pub(super) mod trial;

use declared::{LATE, OPENING, Surroundings, Which, is_same, members, open};
use draft::{Draft, draft};
use running::LeftOut;

pub use draft::{SEALED, is_for_owners};

/// `/api/v1/upstreams/try` is where definitions are tried, and no upstream's.
const RESERVED: &str = "try";
/// How often a secret is sealed anew whose data key was replaced meanwhile.
const TRIES: usize = 3;
/// Definitions of operators that are resolved at once.
pub(super) const MAX_READERS: usize = 16;
/// Connections of a removed upstream are ended while its operator waits, for so many steps.
const STEPS: usize = 20;

/// Whether an upstream is tried before it is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    Tried,
    Unchecked,
}

/// What is to be different about an upstream.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// A merge patch (RFC 7396).
    pub definition: Option<Map<String, Value>>,
    pub enabled: Option<bool>,
}

/// Why an upstream was not declared, changed or tried.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("there is an upstream of this name already")]
    NameTaken,
    #[error("an upstream cannot be called {RESERVED}")]
    Reserved,
    #[error(
        "connections are left that were made for another upstream of this name: take another name, or end them with \
         `portcullis upstream remove`"
    )]
    StillEnding,
    #[error("there is no upstream of this name")]
    NotFound,
    #[error("the upstream is declared in the configuration file and changed there")]
    ManagedByFile,
    #[error(
        "an owner has said something of it that is for owners alone, or it would be shown what was sealed for another server"
    )]
    ForOwners,
    #[error("there are {} upstreams already", stored::MAX_UPSTREAMS)]
    TooMany,
    #[error(
        "a definition has at most {} bytes, and {} secrets of a few KiB",
        stored::MAX_DEFINITION_BYTES,
        stored::MAX_SECRETS
    )]
    TooLarge,
    #[error("the upstream was changed meanwhile: it has revision {revision}")]
    Conflict { revision: u64 },
    #[error("the definition has mistakes")]
    Mistakes(Vec<Misfit>),
    #[error("{reason}")]
    Failed { stage: Stage, reason: String },
    #[error("too many upstreams are being tried")]
    Busy,
    #[error("the gateway is stopping")]
    Interrupted,
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the store did not take the change")]
    Store(#[from] StoreError),
}

/// What there is to say of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamView {
    pub name: UpstreamName,
    /// `None` for one of the file.
    pub declared: Option<Arc<Declaration>>,
    pub state: State,
}

/// How an upstream stands.
#[derive(Clone, Debug)]
pub enum State {
    Running {
        upstream: Arc<Upstream>,
        /// Why its definition would come to nothing now.
        trouble: Option<String>,
    },
    Disabled,
    Broken {
        reason: String,
    },
}

impl UpstreamView {
    /// Its definition with a word in place of each sealed secret. `None` for one of the file.
    pub fn definition(&self) -> Option<Map<String, Value>> {
        self.declared.as_ref().map(|declaration| draft::shown(&members(declaration)))
    }
}

impl Control {
    /// All upstreams, by name.
    pub fn upstream_views(&self) -> Vec<UpstreamView> {
        let running = self.running();
        let snapshot = self.snapshot.load();
        let names: BTreeSet<&UpstreamName> = snapshot.upstreams.keys().chain(running.stored.keys()).collect();
        let view = |name: &UpstreamName| {
            let declared = running.stored.get(name).filter(|_| running.why_not(name) != Some(&LeftOut::InFile));
            let declaration = declared.map(|declared| declared.declaration.clone());
            let trouble = declared.and_then(|declared| declared.trouble.clone());
            let state = match (snapshot.upstreams.get(name), running.why_not(name)) {
                (_, Some(LeftOut::Disabled)) => State::Disabled,
                (_, Some(LeftOut::Broken(reason))) => State::Broken { reason: reason.clone() },
                (Some(upstream), None | Some(LeftOut::InFile)) => {
                    State::Running { upstream: upstream.clone(), trouble }
                }
                (None, None | Some(LeftOut::InFile)) => return None,
            };
            Some(UpstreamView { name: name.clone(), declared: declaration, state })
        };
        names.into_iter().filter_map(view).collect()
    }

    /// The upstream of this name.
    pub fn upstream_view(&self, name: &UpstreamName) -> Option<UpstreamView> {
        self.upstream_views().into_iter().find(|view| view.name == *name)
    }

    /// Declares an upstream.
    ///
    /// # Errors
    /// [`UpstreamError`]; nothing is changed then.
    pub async fn create_upstream(
        &self,
        name: UpstreamName,
        definition: Map<String, Value>,
        care: Care,
        actor: Actor,
    ) -> Result<UpstreamView, UpstreamError> {
        if name.as_str() == RESERVED {
            return Err(UpstreamError::Reserved);
        }
        if self.is_in_file(&name) || stored::get(&self.store, &name).await?.is_some() {
            return Err(UpstreamError::NameTaken);
        }
        let draft = self.draft(&Map::new(), definition)?;
        let settings = self.resolve(&name, &draft, BTreeMap::new()).await?;
        self.care_for(settings, care).await?;
        let one_at_a_time = self.changing.lock().await;
        if self.is_in_file(&name) {
            return Err(UpstreamError::NameTaken);
        }
        for _ in 0..TRIES {
            let content = self.content(&name, &draft, &BTreeMap::new()).await?;
            match stored::declare(&self.store, name.clone(), content, care == Care::Unchecked, actor).await? {
                Declaring::Declared(_) => return self.published(&name, one_at_a_time).await,
                Declaring::NameTaken => return Err(UpstreamError::NameTaken),
                Declaring::StillEnding => return Err(UpstreamError::StillEnding),
                Declaring::TooLarge => return Err(UpstreamError::TooLarge),
                Declaring::TooMany => return Err(UpstreamError::TooMany),
                Declaring::Stale => self.vault.forget_one(&Owner::Deployment),
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Changes an upstream that is at one of the revisions `seen`, or at any. What is for owners alone
    /// ([`is_for_owners`]), and where sealed secrets go, needs the `role` of one, whether it is said now or was before.
    ///
    /// # Errors
    /// [`UpstreamError`]; nothing is changed then.
    pub async fn change_upstream(
        &self,
        name: &UpstreamName,
        seen: Option<Vec<u64>>,
        change: Change,
        care: Care,
        (role, actor): (Role, Actor),
    ) -> Result<UpstreamView, UpstreamError> {
        let mut before = self.declaration(name).await?;
        if seen.is_some_and(|seen| !seen.contains(&before.revision)) {
            return Err(UpstreamError::Conflict { revision: before.revision });
        }
        let (Change { definition, enabled }, stored) = (change, members(&before));
        let is_on = enabled.unwrap_or(before.enabled);
        let draft = definition.map(|patch| self.draft(&stored, patch)).transpose()?;
        let draft = draft.filter(|draft| draft.definition != stored);
        if let Some(draft) = draft.as_ref().filter(|_| role < Role::Owner)
            && (is_for_owners(&stored) || is_for_owners(&draft.definition) || draft::sends_elsewhere(&stored, draft))
        {
            return Err(UpstreamError::ForOwners);
        }
        // One that is off is nobody's business until it is on.
        let care = if is_on { care } else { Care::Unchecked };
        let is_to_be_tried = draft.is_some() || (is_on && !before.enabled);
        if is_to_be_tried {
            let as_it_is = Draft { definition: stored, fresh: BTreeMap::new() };
            let secrets = open(&self.vault, &before).await?;
            let settings = self.resolve(name, draft.as_ref().unwrap_or(&as_it_is), secrets).await?;
            self.care_for(settings, care).await?;
        }
        let unchecked = is_to_be_tried && care == Care::Unchecked;
        let one_at_a_time = self.changing.lock().await;
        self.refuse_of_file(name)?;
        for _ in 0..TRIES {
            let content = match &draft {
                Some(draft) => Some(self.content(name, draft, &before.secrets).await?),
                None => None,
            };
            // What it was tried as is what it was read as.
            let edit = Edit { content, enabled, unchecked, created: Some(before.created) };
            match stored::change(&self.store, name, Some(before.revision), edit, actor).await? {
                Changing::Changed(_) | Changing::Unchanged(_) => return self.published(name, one_at_a_time).await,
                Changing::NotFound => return Err(UpstreamError::NotFound),
                Changing::Conflict(revision) => return Err(UpstreamError::Conflict { revision }),
                Changing::TooLarge => return Err(UpstreamError::TooLarge),
                Changing::Stale => {
                    self.vault.forget_one(&Owner::Deployment);
                    before = self.same_again(&before, draft.as_ref()).await?;
                }
            }
        }
        Err(StoreError::Busy.into())
    }

    /// The declaration that a draft was made of, with its secrets as they are sealed now.
    async fn same_again(&self, before: &Declaration, draft: Option<&Draft>) -> Result<Declaration, UpstreamError> {
        let again = self.declaration(&before.name).await?;
        if !is_same(&again, before) {
            return Err(UpstreamError::Conflict { revision: again.revision });
        }
        let lost = stored::lost(&self.store, again.secrets.clone()).await?;
        let misfits = draft.map(|draft| draft::lost(&draft.definition, &lost)).unwrap_or_default();
        if misfits.is_empty() { Ok(again) } else { Err(UpstreamError::Mistakes(misfits)) }
    }

    /// Removes an upstream that is at one of the revisions `seen`, or at any, and ends the connections that were made for it.
    /// One that is gone already and has left some is removed as well.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn remove_upstream(
        &self,
        name: &UpstreamName,
        seen: Option<Vec<u64>>,
        actor: Actor,
    ) -> Result<(), UpstreamError> {
        let one_at_a_time = self.changing.lock().await;
        self.refuse_of_file(name)?;
        let is_withdrawn = match stored::withdraw(&self.store, name, seen, actor).await? {
            Withdrawal::Withdrawn => true,
            Withdrawal::NotFound => false,
            Withdrawal::Conflict(revision) => return Err(UpstreamError::Conflict { revision }),
        };
        if is_withdrawn {
            self.publish_upstreams(Which::Changed).await?;
        }
        // Nobody waits for the rest: the name is not free before it is done.
        drop(one_at_a_time);
        let mut has_ended = false;
        for _ in 0..STEPS {
            if self.is_in_file(name) {
                return Ok(());
            }
            let ended = end_some(&self.store, name, actor).await?;
            has_ended |= ended.connections > 0;
            if !ended.has_more {
                return if is_withdrawn || has_ended { Ok(()) } else { Err(UpstreamError::NotFound) };
            }
        }
        self.tasks.spawn(end_the_rest(self.store.clone(), name.clone(), actor, self.tasks.stopping().clone()));
        Ok(())
    }

    /// Tries what a definition leads to.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn try_definition(
        &self,
        name: &UpstreamName,
        definition: Map<String, Value>,
    ) -> Result<Tried, UpstreamError> {
        let draft = self.draft(&Map::new(), definition)?;
        let settings = self.resolve(name, &draft, BTreeMap::new()).await?;
        self.try_settings(settings).await
    }

    /// Tries an upstream as it is declared, in the file or in the store.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn try_upstream(&self, name: &UpstreamName) -> Result<Tried, UpstreamError> {
        let in_force = self.snapshot.load().upstreams.get(name).map(|upstream| upstream.settings().clone());
        if let Some(settings) = in_force.filter(|_| self.is_in_file(name)) {
            return self.try_settings(settings).await;
        }
        let declaration = self.declaration(name).await?;
        let draft = Draft { definition: members(&declaration), fresh: BTreeMap::new() };
        let settings = self.resolve(name, &draft, open(&self.vault, &declaration).await?).await?;
        self.try_settings(settings).await
    }

    async fn declaration(&self, name: &UpstreamName) -> Result<Declaration, UpstreamError> {
        self.refuse_of_file(name)?;
        stored::get(&self.store, name).await?.ok_or(UpstreamError::NotFound)
    }

    fn refuse_of_file(&self, name: &UpstreamName) -> Result<(), UpstreamError> {
        if self.is_in_file(name) { Err(UpstreamError::ManagedByFile) } else { Ok(()) }
    }

    fn draft(&self, stored: &Map<String, Value>, patch: Map<String, Value>) -> Result<Draft, UpstreamError> {
        draft(stored, patch, || hex(&self.env.random::<16>())).map_err(UpstreamError::Mistakes)
    }

    /// The settings that a draft comes to, with secrets that are sealed already.
    async fn resolve(
        &self,
        name: &UpstreamName,
        draft: &Draft,
        mut secrets: BTreeMap<String, Plaintext>,
    ) -> Result<config::Upstream, UpstreamError> {
        secrets.extend(draft.fresh.clone());
        let surroundings = Surroundings::of(&self.config.load());
        let resolving = async {
            // Files that do not answer hold a few threads, and no more.
            let held = self.readers.clone().acquire_owned().await;
            surroundings.resolve(name, &draft.definition, secrets, held).await
        };
        let late = |_| Err(vec![Misfit { field: None, message: LATE.to_owned(), hint: None }]);
        let resolved = tokio::time::timeout(OPENING, resolving).await.unwrap_or_else(late);
        let settings = resolved.map_err(UpstreamError::Mistakes)?;
        match self.clash_of(&settings) {
            Some(message) => Err(UpstreamError::Mistakes(vec![Misfit::of("prefix", message)])),
            None => Ok(settings),
        }
    }

    async fn care_for(&self, settings: config::Upstream, care: Care) -> Result<(), UpstreamError> {
        match care {
            Care::Unchecked => Ok(()),
            Care::Tried => match self.try_settings(settings).await? {
                Tried::Works { .. } | Tried::WantsCredential => Ok(()),
                Tried::Failed { stage, reason } => Err(UpstreamError::Failed { stage, reason }),
            },
        }
    }

    /// A draft as it is stored: with what it refers to of the secrets that are sealed already, and the others sealed.
    async fn content(
        &self,
        name: &UpstreamName,
        draft: &Draft,
        kept: &BTreeMap<String, Sealed>,
    ) -> Result<Content, UpstreamError> {
        let ids = draft::sealed_ids(&draft.definition);
        if ids.len() > stored::MAX_SECRETS {
            return Err(UpstreamError::TooLarge);
        }
        let mut secrets = kept.clone();
        secrets.retain(|id, _| ids.contains(id));
        for (id, secret) in &draft.fresh {
            let sealed = self.vault.seal(&stored::place(name, id), secret.expose().as_bytes()).await?;
            secrets.insert(id.clone(), sealed);
        }
        Ok(Content { definition: Value::Object(draft.definition.clone()), secrets })
    }

    /// Publishes what was just stored, lets others change something, and waits a moment until it has been reached.
    async fn published(
        &self,
        name: &UpstreamName,
        one_at_a_time: MutexGuard<'_, Applied>,
    ) -> Result<UpstreamView, UpstreamError> {
        self.publish_upstreams(Which::Changed).await?;
        drop(one_at_a_time);
        self.until_settled(name).await;
        // Somebody elsewhere may have removed it already.
        self.upstream_view(name).ok_or(UpstreamError::NotFound)
    }
}

/// Ends some of the connections of a removed upstream, unless there is another one of its name by now.
async fn end_some(store: &Store, name: &UpstreamName, actor: Actor) -> Result<Ended, StoreError> {
    if stored::get(store, name).await?.is_some() {
        return Ok(Ended::default());
    }
    connections::end_all_of(store, Whose::Upstream(name.clone()), End::UpstreamGone, actor).await
}

/// Ends what is left of the connections of a removed upstream. What this does not come to, removing it again does.
async fn end_the_rest(store: Store, name: UpstreamName, actor: Actor, stopping: tokio_util::sync::CancellationToken) {
    while !stopping.is_cancelled() {
        match end_some(&store, &name, actor).await {
            Ok(ended) if ended.has_more => {}
            Ok(_) => return,
            Err(error) => {
                return tracing::error!(%error, "connections of a removed upstream are left: remove it again");
            }
        }
    }
}
