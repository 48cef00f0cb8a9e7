//! Upstreams of the store as they were read last, and what their definitions come to.
//!
//! A definition that comes to nothing, since what it refers to is gone, say, costs nobody else anything: it is told, tried
//! again now and then, and what it came to before stays in use meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::definition::{self, Misfit, Sources};
use crate::config::{self, Config};
use crate::ids::UpstreamName;
use crate::secret::Plaintext;
use crate::store::changes::Revision;
use crate::store::upstreams::{self as stored, Declaration};
use crate::store::{Store, StoreError};
use crate::vault::{Opening, Vault, VaultError};

/// Longest wait for what definitions refer to, keys of the vault and files, for all of them together.
pub(super) const OPENING: Duration = Duration::from_secs(5);
/// The same while somebody waits who follows many changes, and gives up himself after some seconds.
const OPENING_OF_NEW: Duration = Duration::from_secs(1);
/// What is said of one for which that was not enough.
pub(super) const LATE: &str = "what it refers to does not answer: a key of the vault, or a file";
/// Definitions that are resolved at once, so that one whose file does not answer does not hold up all others.
const AT_ONCE: usize = 16;

/// An upstream of the store.
#[derive(Clone, Debug)]
pub(in crate::admin) struct Declared {
    pub(super) declaration: Arc<Declaration>,
    /// What it comes to, or came to last. `None` where it never did.
    pub(super) settings: Option<Arc<config::Upstream>>,
    /// Why it does not come to anything now.
    pub(super) trouble: Option<String>,
    /// Held while it is resolved: a file that does not answer holds one thread, and no other one for each new try.
    pub(super) turn: Arc<Mutex<()>>,
}

/// All of them, by name.
pub(in crate::admin) type AllDeclared = BTreeMap<UpstreamName, Declared>;

/// Where what definitions refer to is found.
#[derive(Clone, Debug)]
pub(in crate::admin) struct Surroundings {
    base_dir: PathBuf,
}

impl Surroundings {
    /// What paths of the file are relative to, paths of the store are relative to.
    pub(in crate::admin) fn of(config: &Config) -> Self {
        let beside = config.file.as_deref().and_then(Path::parent);
        Self { base_dir: beside.unwrap_or(&config.data_dir).to_owned() }
    }

    /// The settings that a definition comes to. `held` is let go of when nothing is read any more, though nobody waits for it.
    pub(super) async fn resolve(
        &self,
        name: &UpstreamName,
        definition: &Map<String, Value>,
        sealed: BTreeMap<String, Plaintext>,
        held: impl Send + 'static,
    ) -> Result<config::Upstream, Vec<Misfit>> {
        let (base_dir, name, definition) = (self.base_dir.clone(), name.clone(), definition.clone());
        let resolve = move || {
            let _held = held;
            let environment = &config::process_environment;
            definition::upstream(&name, &definition, &Sources { base_dir: &base_dir, environment, sealed: &sealed })
        };
        // It may read files.
        let interrupted = |_| vec![Misfit { field: None, message: "was not read to its end".to_owned(), hint: None }];
        tokio::task::spawn_blocking(resolve).await.unwrap_or_else(|error| Err(interrupted(error)))
    }
}

/// What a stored definition says; nothing where it is no object, which none is.
pub(super) fn members(declaration: &Declaration) -> Map<String, Value> {
    declaration.definition.as_object().cloned().unwrap_or_default()
}

/// Opens the secrets of a declaration. One that does not open is left out, and is missed by whatever refers to it.
pub(super) async fn open(vault: &Vault, declaration: &Declaration) -> Result<BTreeMap<String, Plaintext>, VaultError> {
    let mut secrets = BTreeMap::new();
    for (id, sealed) in &declaration.secrets {
        if let Opening::Opened(secret) = vault.open(&stored::place(&declaration.name, id), sealed).await?
            && let Some(secret) = Plaintext::from_bytes(&secret)
        {
            secrets.insert(id.clone(), secret);
        }
    }
    Ok(secrets)
}

/// Which of them are resolved anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Which {
    /// Those that have changed, which is quick: what takes longer comes to nothing for now.
    Changed,
    /// Those that have changed, and those that came to nothing.
    Troubled,
    /// All of them: what they refer to may have changed as well.
    All,
}

/// Reads all declarations, and resolves what has to be.
pub(in crate::admin) async fn read(
    (store, vault): (&Store, &Vault),
    surroundings: &Surroundings,
    known: &AllDeclared,
    which: Which,
) -> Result<(AllDeclared, Revision), StoreError> {
    let (declarations, at) = stored::all(store).await?;
    let patience = match which {
        Which::Changed => OPENING_OF_NEW,
        Which::Troubled | Which::All => OPENING,
    };
    let until = Instant::now() + patience;
    let resolve = move |declaration: Declaration| resolved((vault, surroundings), known, (which, until), declaration);
    Ok((stream::iter(declarations).map(resolve).buffer_unordered(AT_ONCE).collect().await, at))
}

async fn resolved(
    (vault, surroundings): (&Vault, &Surroundings),
    known: &AllDeclared,
    (which, until): (Which, Instant),
    declaration: Declaration,
) -> (UpstreamName, Declared) {
    let name = declaration.name.clone();
    let same = known.get(&name).filter(|known| is_same(&known.declaration, &declaration));
    let stays = |same: &&Declared| match which {
        Which::Changed => true,
        Which::Troubled => same.trouble.is_none(),
        Which::All => false,
    };
    if let Some(same) = same.filter(stays) {
        return (name, same.clone());
    }
    // Another definition may refer to something else, which is not to be waited for where this one hangs.
    let turn = same.map(|same| same.turn.clone()).unwrap_or_default();
    if !declaration.enabled {
        return (name, Declared { declaration: Arc::new(declaration), settings: None, trouble: None, turn });
    }
    let before = same.and_then(|same| same.settings.clone());
    let told = same.and_then(|same| same.trouble.as_ref());
    let settings = tokio::time::timeout_at(until, settings(vault, surroundings, &declaration, turn.clone())).await;
    let settings = settings.unwrap_or_else(|_| Err(LATE.to_owned()));
    (name, resolved_to(declaration, settings, (before, told), turn))
}

/// Whether both are one, in the same revision.
pub(super) fn is_same(one: &Declaration, other: &Declaration) -> bool {
    (one.revision, one.created) == (other.revision, other.created)
}

fn resolved_to(
    declaration: Declaration,
    resolved: Result<config::Upstream, String>,
    (before, told): (Option<Arc<config::Upstream>>, Option<&String>),
    turn: Arc<Mutex<()>>,
) -> Declared {
    let declaration = Arc::new(declaration);
    match resolved {
        Ok(settings) => Declared { declaration, settings: Some(Arc::new(settings)), trouble: None, turn },
        Err(reason) => {
            if told != Some(&reason) {
                let upstream = &declaration.name;
                tracing::error!(%upstream, reason, "an upstream of the store comes to nothing");
            }
            Declared { declaration, settings: before, trouble: Some(reason), turn }
        }
    }
}

async fn settings(
    vault: &Vault,
    surroundings: &Surroundings,
    declaration: &Declaration,
    turn: Arc<Mutex<()>>,
) -> Result<config::Upstream, String> {
    let turn = turn.lock_owned().await;
    let secrets = open(vault, declaration).await.map_err(|error| error.to_string())?;
    let resolved = surroundings.resolve(&declaration.name, &members(declaration), secrets, turn).await;
    resolved.map_err(|misfits| {
        let messages: Vec<String> = misfits.into_iter().map(|misfit| misfit.message).collect();
        messages.join("; ")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::testing::{Replica, shared};
    use crate::admin::upstreams::Care;
    use crate::audit::Actor;

    #[tokio::test]
    async fn what_does_not_answer_costs_a_moment_and_stays_as_it_was() {
        let (store, clock) = shared().await;
        let replica = Replica::new(store, &clock, Duration::from_secs(10), &[]).await;
        let (control, name) = (&replica.control, UpstreamName::parse("notes").unwrap());
        let definition = Map::from_iter([("command".to_owned(), json!(["true"]))]);
        control.create_upstream(name.clone(), definition, Care::Unchecked, Actor::System).await.unwrap();
        let known = control.running().stored.clone();
        let around = Surroundings::of(&control.config.load());
        let again = async |which: Which, patience: Duration| {
            let until = Instant::now() + patience;
            let declaration = known[&name].declaration.as_ref().clone();
            resolved((&control.vault, &around), &known, (which, until), declaration).await.1
        };
        // As while it reads a file that does not answer.
        let reading = known[&name].turn.clone().lock_owned().await;
        assert_eq!(again(Which::Changed, Duration::ZERO).await.trouble, None, "it is not even tried");
        let late = again(Which::All, Duration::from_millis(50)).await;
        assert_eq!(late.trouble.as_deref(), Some(LATE));
        assert!(late.settings.is_some(), "what it came to stays in use");
        let troubled = AllDeclared::from([(name.clone(), late)]);
        let declaration = known[&name].declaration.as_ref().clone();
        let changed = (Which::Changed, Instant::now());
        let (_, followed) = resolved((&control.vault, &around), &troubled, changed, declaration).await;
        assert_eq!(followed.trouble.as_deref(), Some(LATE), "whoever follows leaves it to whoever mends");
        drop(reading);
        assert_eq!(again(Which::All, OPENING).await.trouble, None);
        replica.stop().await;
    }
}
