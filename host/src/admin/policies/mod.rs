//! Policies of the store: modules that operators upload ([`modules`]) and bindings that they declare ([`bindings`]). Those of
//! the configuration file are shown elsewhere and left alone.
//!
//! A binding of the store is what an entry of `[[policies]]` says, as JSON ([`crate::config::definition`]). It stands among
//! those of the file by its priority, as if it stood there too, and comes into force as they do: the whole is loaded and
//! tried out, and what runs stays where anything is wrong. That includes the start, which is refused rather than made
//! without a policy that somebody counts on.

use serde_json::{Map, Value};

use super::BuildError;
use crate::config::definition::{self, Misfit};
use crate::config::{Binding, PolicySettings};
use crate::policy::{BindingError, LoadError, LoadErrors, Uploaded, UploadedModule};
use crate::store::policy_bindings::{self as stored, StoredBinding, StoredBindings};
use crate::store::{Store, StoreError, policy_modules};

mod bindings;
mod described;
mod modules;
#[cfg(test)]
mod tests;

pub use bindings::{Altered, merged};
pub use described::Described;
pub use modules::ModuleUpload;

/// Policies that are tried out for operators at once, uploads among them.
pub(super) const MAX_REHEARSALS: usize = 2;
/// Modules that are sent at once: each may be large.
pub(super) const MAX_UPLOADS: usize = 2;
/// How often a set is tried out again that others have changed meanwhile.
const TRIES: usize = 4;

/// Why a module or a binding of the store was not taken, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("there is a policy of this name already")]
    NameTaken,
    #[error("the policy is declared in the configuration file and changed there")]
    ManagedByFile,
    #[error("there is no policy of this name in the store")]
    NotFound,
    #[error("the policy was changed meanwhile: it has revision {revision}")]
    Conflict { revision: u64 },
    #[error("there are {} policies in the store already", stored::MAX_BINDINGS)]
    TooManyBindings,
    #[error("a definition has at most {} bytes", stored::MAX_DEFINITION_BYTES)]
    DefinitionTooLarge,
    #[error("the definition has mistakes")]
    Mistakes(Vec<Misfit>),
    /// What runs stays.
    #[error(transparent)]
    Refused(LoadErrors),
    #[error("there is no uploaded module of this digest")]
    NoSuchModule,
    /// It cannot be used.
    #[error("{0}")]
    Module(String),
    #[error(
        "there is no room: the store has at most {} modules with {} bytes together",
        policy_modules::MAX_MODULES,
        policy_modules::MAX_BYTES
    )]
    NoRoom,
    #[error("the module's description or its signatures are too large to be kept")]
    ModuleTooLarge,
    #[error("the module is used by {by}")]
    ModuleInUse { by: String },
    #[error("too many policies are being tried out")]
    Busy,
    #[error("the gateway is stopping")]
    Interrupted,
    #[error("the store did not take the change")]
    Store(#[from] StoreError),
}

impl From<BuildError> for PolicyError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Policies(errors) => Self::Refused(errors),
            BuildError::Store(error) => Self::Store(error),
            // Loading policies opens no vault.
            BuildError::Vault(_) | BuildError::Interrupted => Self::Interrupted,
        }
    }
}

/// The policies of a file with those of the store, or what keeps them from being put together.
pub(super) fn settings_with(file: &PolicySettings, stored: &StoredBindings) -> Result<PolicySettings, LoadErrors> {
    let (mut bindings, mut errors) = (Vec::new(), Vec::new());
    for stored in &stored.all {
        match with_file(file, stored) {
            Ok(binding) => bindings.push(binding),
            Err(error) => errors.push(BindingError { binding: Some(stored.name.clone()), error }),
        }
    }
    if errors.is_empty() { Ok(file.clone().with(bindings)) } else { Err(LoadErrors(errors)) }
}

fn with_file(file: &PolicySettings, stored: &StoredBinding) -> Result<Binding, LoadError> {
    if file.binds(&stored.name) {
        return Err(LoadError::NameTaken);
    }
    definition::binding(&stored.name, &members(stored)).map_err(|misfits| {
        let messages: Vec<String> = misfits.into_iter().map(|misfit| misfit.message).collect();
        LoadError::Definition(messages.join("; "))
    })
}

/// What a stored definition says; nothing where it is no object, which none is.
fn members(binding: &StoredBinding) -> Map<String, Value> {
    binding.definition.as_object().cloned().unwrap_or_default()
}

/// The uploaded modules that these bindings name. One that is not there is left out, and missed by whoever loads it.
pub(super) async fn uploaded(store: &Store, settings: &PolicySettings) -> Result<Uploaded, StoreError> {
    let mut uploaded = Uploaded::new();
    for digest in settings.uploaded() {
        if uploaded.contains_key(digest) {
            continue;
        }
        if let Some((known, module)) = policy_modules::content(store, digest).await? {
            uploaded.insert(digest.to_owned(), UploadedModule { module, signatures: known.signatures });
        }
    }
    Ok(uploaded)
}
