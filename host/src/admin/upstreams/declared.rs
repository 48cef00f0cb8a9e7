//! Upstreams of the store as they were read last, and what their definitions come to.
//!
//! A definition that comes to nothing, since what it refers to is gone, say, costs nobody else anything: it is told, tried
//! again now and then, and what it came to before stays in use meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::definition::{self, Misfit, Sources};
use crate::config::{self, Config};
use crate::ids::UpstreamName;
use crate::secret::Plaintext;
use crate::store::changes::Revision;
use crate::store::upstreams::{self as stored, Declaration};
use crate::store::{Store, StoreError};
use crate::vault::{Opening, Vault, VaultError};

/// Longest wait for the keys that open the secrets of all of them.
const OPENING: Duration = Duration::from_secs(5);

/// An upstream of the store.
#[derive(Clone, Debug)]
pub(in crate::admin) struct Declared {
    pub(super) declaration: Arc<Declaration>,
    /// What it comes to, or came to last. `None` where it never did.
    pub(super) settings: Option<Arc<config::Upstream>>,
    /// Why it does not come to anything now.
    pub(super) trouble: Option<String>,
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

    /// The settings that a definition comes to.
    pub(super) async fn resolve(
        &self,
        name: &UpstreamName,
        definition: &Map<String, Value>,
        sealed: BTreeMap<String, Plaintext>,
    ) -> Result<config::Upstream, Vec<Misfit>> {
        let (base_dir, name, definition) = (self.base_dir.clone(), name.clone(), definition.clone());
        let resolve = move || {
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
    /// Those that have changed, and those that came to nothing.
    Changed,
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
    let until = tokio::time::Instant::now() + OPENING;
    let mut all = AllDeclared::new();
    for declaration in declarations {
        let name = declaration.name.clone();
        let same = known.get(&name).filter(|known| is_same(&known.declaration, &declaration));
        let declared = match same {
            Some(same) if which == Which::Changed && same.trouble.is_none() => same.clone(),
            _ if !declaration.enabled => Declared { declaration: Arc::new(declaration), settings: None, trouble: None },
            _ => {
                let before = same.and_then(|same| same.settings.clone());
                let resolved = tokio::time::timeout_at(until, settings(vault, surroundings, &declaration)).await;
                let resolved = resolved.unwrap_or_else(|_| Err("the keys of the vault do not answer".to_owned()));
                let told = same.and_then(|same| same.trouble.as_ref());
                resolved_to(declaration, resolved, before, told)
            }
        };
        all.insert(name, declared);
    }
    Ok((all, at))
}

/// Whether both are one, in the same revision.
pub(super) fn is_same(one: &Declaration, other: &Declaration) -> bool {
    (one.revision, one.created) == (other.revision, other.created)
}

fn resolved_to(
    declaration: Declaration,
    resolved: Result<config::Upstream, String>,
    before: Option<Arc<config::Upstream>>,
    told: Option<&String>,
) -> Declared {
    let declaration = Arc::new(declaration);
    match resolved {
        Ok(settings) => Declared { declaration, settings: Some(Arc::new(settings)), trouble: None },
        Err(reason) => {
            if told != Some(&reason) {
                let upstream = &declaration.name;
                tracing::error!(%upstream, reason, "an upstream of the store comes to nothing");
            }
            Declared { declaration, settings: before, trouble: Some(reason) }
        }
    }
}

async fn settings(
    vault: &Vault,
    surroundings: &Surroundings,
    declaration: &Declaration,
) -> Result<config::Upstream, String> {
    let secrets = open(vault, declaration).await.map_err(|error| error.to_string())?;
    let resolved = surroundings.resolve(&declaration.name, &members(declaration), secrets).await;
    resolved.map_err(|misfits| {
        let messages: Vec<String> = misfits.into_iter().map(|misfit| misfit.message).collect();
        messages.join("; ")
    })
}
