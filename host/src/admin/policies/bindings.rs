//! Bindings of the store: rehearsed, declared, changed and removed. Each change is tried out with all other policies, then
//! written, then published, in a turn of its own among reloads and other changes.
//!
//! What the file binds stays what it is in force meanwhile, be it that of an earlier generation: its files are read by
//! reloads and starts alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use super::{PolicyError, TRIES, members, settings_with};
use crate::admin::changing::Turn;
use crate::admin::rollback::{Cause, Generation};
use crate::admin::{BuildError, Control};
use crate::audit::{Actor, AuditEvent};
use crate::config::{PolicySettings, definition};
use crate::ids::BindingName;
use crate::policy::replay::{self, Changes};
use crate::policy::{LoadErrors, OfFile, Published};
use crate::store::changes::Revision;
use crate::store::policy_bindings::{self as stored, Committing, Edit, StoredBinding, StoredBindings};
use crate::store::{Cursor, Page, StoreError, audit as trail};

/// Until bindings are read again that could not be read.
const AGAIN: Duration = Duration::from_secs(1);

/// What a change of a binding came to.
#[derive(Clone, Debug)]
pub struct Altered {
    /// As it is now; `None` once it is removed.
    pub binding: Option<StoredBinding>,
    /// The generation that it is in force with, or is gone with.
    pub generation: u64,
    /// What the policies say of earlier decisions now. `None` where none were recorded, or nothing was different.
    pub changes: Option<Arc<Changes>>,
}

/// What is to be different about the bindings of the store.
#[derive(Clone, Debug)]
enum Wish {
    Create { name: BindingName, definition: Map<String, Value> },
    Change { name: BindingName, seen: Option<Vec<u64>>, definition: Map<String, Value> },
    Remove { name: BindingName, seen: Option<Vec<u64>> },
}

impl Wish {
    fn name(&self) -> &BindingName {
        match self {
            Self::Create { name, .. } | Self::Change { name, .. } | Self::Remove { name, .. } => name,
        }
    }

    fn definition(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Create { definition, .. } | Self::Change { definition, .. } => Some(definition),
            Self::Remove { .. } => None,
        }
    }

    /// Whether it can be granted, by what is there under its name.
    fn check(&self, there: Option<&StoredBinding>) -> Result<(), PolicyError> {
        let seen = match (self, there) {
            (Self::Create { .. }, None) => return Ok(()),
            (Self::Create { .. }, Some(_)) => return Err(PolicyError::NameTaken),
            (Self::Change { .. } | Self::Remove { .. }, None) => return Err(PolicyError::NotFound),
            (Self::Change { seen, .. } | Self::Remove { seen, .. }, Some(there)) => (seen, there.revision),
        };
        match seen {
            (Some(seen), revision) if !seen.contains(&revision) => Err(PolicyError::Conflict { revision }),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// What is there when it is granted, for a trial. What is new has no author yet.
    fn granted(&self, before: &StoredBindings) -> StoredBindings {
        let mut all: Vec<StoredBinding> =
            before.all.iter().filter(|binding| binding.name != *self.name()).cloned().collect();
        if let Some(definition) = self.definition() {
            let (nobody, never) = (Actor::System, crate::env::Timestamp::from_millis(0));
            all.push(StoredBinding {
                name: self.name().clone(),
                definition: Value::Object(definition.clone()),
                revision: 0,
                created: never,
                created_by: nobody,
                changed: never,
                changed_by: nobody,
            });
            all.sort_by(|one, other| one.name.cmp(&other.name));
        }
        StoredBindings { all, at: before.at }
    }
}

/// A definition with a merge patch (RFC 7396) applied.
///
/// # Errors
/// [`PolicyError::Mistakes`] where it names what no policy has.
pub fn merged(binding: &StoredBinding, patch: Map<String, Value>) -> Result<Map<String, Value>, PolicyError> {
    definition::binding_with(&members(binding), patch).map_err(PolicyError::Mistakes)
}

impl Control {
    /// The binding of this name in the store.
    ///
    /// # Errors
    /// [`PolicyError::NotFound`], [`PolicyError::ManagedByFile`] for one of the file, and [`PolicyError::Store`].
    pub async fn binding(&self, name: &BindingName) -> Result<StoredBinding, PolicyError> {
        self.refuse_policy_of_file(name)?;
        stored::get(&self.store, name).await?.ok_or(PolicyError::NotFound)
    }

    /// A page of the bindings of the store, from the last name to the first.
    ///
    /// # Errors
    /// [`PolicyError::Store`].
    pub async fn bindings(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page<StoredBinding>, PolicyError> {
        Ok(stored::list(&self.store, cursor, limit).await?)
    }

    /// What would change in the recorded decisions if a binding were this, or without a definition were gone. Nothing is
    /// saved; that recordings were read is written down.
    ///
    /// # Errors
    /// [`PolicyError`], as the change itself would give.
    pub async fn rehearse_binding(
        &self,
        name: &BindingName,
        definition: Option<Map<String, Value>>,
        actor: Actor,
    ) -> Result<Changes, PolicyError> {
        let turn = self.rehearsals.clone().try_acquire_owned().map_err(|_| PolicyError::Busy)?;
        self.refuse_policy_of_file(name)?;
        let before = stored::all(&self.store).await?;
        let there = before.all.iter().find(|binding| binding.name == *name);
        let name = name.clone();
        let wish = match (definition, there) {
            (Some(definition), Some(_)) => Wish::Change { name, seen: None, definition },
            (Some(definition), None) => Wish::Create { name, definition },
            (None, _) => Wish::Remove { name, seen: None },
        };
        wish.check(there)?;
        let published = self.try_out(&wish, &before, Some(turn)).await?;
        let changes = published.changes.unwrap_or_default();
        if changes.questions > 0 {
            let questions = changes.questions as u64;
            let event = AuditEvent::RecordingsRead { policy: Some(wish.name().to_string()), hook: None, questions };
            trail::record(&self.store, actor, event).await?;
        }
        Ok(changes)
    }

    /// Declares a binding and brings it into force.
    ///
    /// # Errors
    /// [`PolicyError`]; what runs stays then, and nothing is saved.
    pub async fn create_binding(
        self: &Arc<Self>,
        name: BindingName,
        definition: Map<String, Value>,
        actor: Actor,
    ) -> Result<Altered, PolicyError> {
        if self.is_policy_of_file(&name) {
            return Err(PolicyError::NameTaken);
        }
        self.alter(Wish::Create { name, definition }, actor).await
    }

    /// Gives a binding that is at one of the revisions `seen`, or at any, another definition, and brings it into force.
    ///
    /// # Errors
    /// [`PolicyError`]; what runs stays then, and nothing is saved.
    pub async fn change_binding(
        self: &Arc<Self>,
        name: &BindingName,
        seen: Option<Vec<u64>>,
        definition: Map<String, Value>,
        actor: Actor,
    ) -> Result<Altered, PolicyError> {
        self.refuse_policy_of_file(name)?;
        self.alter(Wish::Change { name: name.clone(), seen, definition }, actor).await
    }

    /// Removes a binding that is at one of the revisions `seen`, or at any.
    ///
    /// # Errors
    /// [`PolicyError`]; what runs stays then, and nothing is saved.
    pub async fn remove_binding(
        self: &Arc<Self>,
        name: &BindingName,
        seen: Option<Vec<u64>>,
        actor: Actor,
    ) -> Result<Altered, PolicyError> {
        self.refuse_policy_of_file(name)?;
        self.alter(Wish::Remove { name: name.clone(), seen }, actor).await
    }

    fn is_policy_of_file(&self, name: &BindingName) -> bool {
        self.config.load().policy.binds(name)
    }

    fn refuse_policy_of_file(&self, name: &BindingName) -> Result<(), PolicyError> {
        if self.is_policy_of_file(name) { Err(PolicyError::ManagedByFile) } else { Ok(()) }
    }

    async fn alter(self: &Arc<Self>, wish: Wish, actor: Actor) -> Result<Altered, PolicyError> {
        let control = self.clone();
        self.to_its_end(async move |_turn: Turn| control.alter_now(&wish, actor).await).await?
    }

    /// One change at a time: whoever calls this has the turn.
    async fn alter_now(&self, wish: &Wish, actor: Actor) -> Result<Altered, PolicyError> {
        for _ in 0..TRIES {
            let before = stored::all(&self.store).await?;
            let there = before.all.iter().find(|binding| binding.name == *wish.name());
            wish.check(there)?;
            let same = there.filter(|there| wish.definition() == Some(&members(there)));
            if let Some(same) = same.filter(|_| self.is_in_force(before.at)) {
                let generation = self.generation.load(Ordering::Relaxed);
                return Ok(Altered { binding: Some(same.clone()), generation, changes: None });
            }
            let published = self.try_out(wish, &before, None).await?;
            match stored::commit(&self.store, &before, edit(wish)?, actor).await? {
                Committing::Done { binding, at } => {
                    let binding = binding.map(|binding| *binding);
                    let bound = after(wish, before, binding.clone(), at);
                    let changes = published.changes.clone().map(Arc::new);
                    let generation = self.bring_into_force(published, bound, actor);
                    return Ok(Altered { binding, generation, changes });
                }
                // What has changed is tried out as well, or told.
                Committing::Moved | Committing::NoModule => {}
                Committing::TooLarge => return Err(PolicyError::DefinitionTooLarge),
                Committing::TooMany => return Err(PolicyError::TooManyBindings),
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Whether the bindings as they are since this revision are what runs. Whoever calls this has the turn.
    fn is_in_force(&self, at: Revision) -> bool {
        let generations = self.generations();
        let is_rolled_back = |newest: &Arc<Generation>| matches!(newest.cause, Cause::Rollback { .. });
        self.bound.load().at == at && !generations.last().is_some_and(is_rolled_back)
    }

    /// What all policies are to be with these of the store: what the file binds is what it is in force.
    fn settings_beside(&self, stored: &StoredBindings) -> Result<(PolicySettings, OfFile), LoadErrors> {
        let of_file = OfFile::InForce(self.snapshot.load().policies.clone());
        let is_stored = |name: &BindingName| stored.all.iter().any(|binding| binding.name == *name);
        let settings = settings_with(&of_file.settings(&self.config.load().policy, is_stored), stored)?;
        Ok((settings, of_file))
    }

    /// Loads all policies as they would be.
    async fn try_out(
        &self,
        wish: &Wish,
        before: &StoredBindings,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Published, PolicyError> {
        if let Some(definition) = wish.definition() {
            // Told by their settings, while the mistakes of others are told by their names.
            definition::binding(wish.name(), definition).map_err(PolicyError::Mistakes)?;
        }
        let (settings, of_file) = self.settings_beside(&wish.granted(before)).map_err(PolicyError::Refused)?;
        let upstreams = self.running().settings();
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        let mut recorded = self.recorded(settings.replay).await;
        if let Wish::Create { name, .. } = wish
            && let Some(new) = settings.bindings.iter().find(|binding| binding.name == *name)
        {
            recorded.extend(replay::as_if_asked(new, &recorded));
        }
        let mut published = self.load_policies((settings, of_file), upstreams, recorded, (generation, turn)).await?;
        if let (Wish::Create { name, .. }, Some(changes)) = (wish, &mut published.changes) {
            // What is new and asked nothing had no say that it could lose.
            changes.dropped.remove(name);
        }
        Ok(published)
    }

    /// Publishes policies that were put together with these bindings. Whoever calls this has the turn.
    fn bring_into_force(&self, published: Published, bound: StoredBindings, actor: Actor) -> u64 {
        let generation = published.policies.generation();
        // Within the lock, so that no other upstreams come into force meanwhile.
        let mut running = self.running();
        let upstreams = running.settings();
        let is_beside_them = published.policies.knows(&upstreams);
        let policies =
            Arc::new(if is_beside_them { published.policies } else { published.policies.beside(&upstreams) });
        self.publish(|new| new.policies = policies.clone());
        drop(running);
        self.came_into_force(policies, actor, Cause::Binding);
        self.bound.store(Arc::new(bound));
        tracing::info!(generation, "policies of the store changed");
        if let Some(changes) = published.changes.filter(|changes| !changes.different.is_empty()) {
            tracing::warn!(generation, %changes, "the new policies decide differently");
        }
        generation
    }

    /// Brings the bindings into force that somebody has changed on another gateway. While the store does not answer, that is
    /// tried again; what else keeps them from being followed is noted.
    pub(in crate::admin) async fn follow_bindings(&self) {
        while let Err(error) = self.try_to_follow().await {
            let reason = match error {
                BuildError::Policies(errors) => errors.to_string(),
                BuildError::Store(StoreError::Unreadable { .. }) | BuildError::Vault(_) | BuildError::Interrupted => {
                    error.to_string()
                }
                BuildError::Store(error) => {
                    tracing::warn!(%error, "policies of the store have changed and cannot be read: they are tried again");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            return self.note_not_followed(reason).await;
        }
        self.bindings_not_followed.store(None);
    }

    /// Why the bindings of the store are not what runs, if they could not be followed.
    pub fn bindings_not_followed(&self) -> Option<String> {
        self.bindings_not_followed.load().as_deref().cloned()
    }

    /// They are tried again, and the same reason is told once.
    async fn note_not_followed(&self, reason: String) {
        let last = self.bindings_not_followed.swap(Some(Arc::new(reason.clone())));
        if last.as_deref() != Some(&reason) {
            self.tell_not_followed(reason).await;
        }
    }

    async fn try_to_follow(&self) -> Result<(), BuildError> {
        let _one_at_a_time = self.changing.lock().await;
        let bound = stored::all(&self.store).await?;
        if bound.at == self.bound.load().at {
            return Ok(());
        }
        let all = self.settings_beside(&bound)?;
        let upstreams = self.running().settings();
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        // Whoever changed it has seen what it changes: nothing recorded is asked again.
        let published = self.load_policies(all, upstreams, Vec::new(), (generation, None)).await?;
        self.bring_into_force(published, bound, Actor::System);
        Ok(())
    }
}

/// What is written for a wish.
fn edit(wish: &Wish) -> Result<Edit, PolicyError> {
    let name = wish.name().clone();
    let Some(definition) = wish.definition() else { return Ok(Edit::Remove { name }) };
    let binding = definition::binding(&name, definition).map_err(PolicyError::Mistakes)?;
    let module = binding.module.uploaded().map(ToOwned::to_owned);
    Ok(Edit::Put { name, definition: Value::Object(definition.clone()), module })
}

/// The bindings after a wish was written.
fn after(wish: &Wish, before: StoredBindings, now: Option<StoredBinding>, at: Revision) -> StoredBindings {
    let others = before.all.into_iter().filter(|binding| binding.name != *wish.name());
    let mut all: Vec<StoredBinding> = others.chain(now).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    StoredBindings { all, at }
}
