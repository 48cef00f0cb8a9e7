//! What a module says of itself, wherever it comes from, for whoever is to configure it.

use serde_json::Value;

use super::PolicyError;
use super::modules::{said, told};
use crate::admin::Control;
use crate::builtin;
use crate::policy::Module;

/// A module as bindings name it, and what it says of itself.
#[derive(Clone, Debug)]
pub struct Described {
    /// Such as `builtin:redact` or `sha256:…`.
    pub source: String,
    pub name: String,
    pub version: String,
    /// As for an uploaded module.
    pub manifest: Value,
}

impl Control {
    /// The modules that come with the gateway, as bindings name them.
    pub fn builtin_modules(&self) -> Vec<String> {
        builtin::names().map(|name| format!("builtin:{name}")).collect()
    }

    /// What the module says of itself that a binding names like this. `None` of one that is nowhere yet, such as in a
    /// registry: it is told once it is bound.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub async fn describe_module(&self, source: &str) -> Result<Option<Described>, PolicyError> {
        let snapshot = self.snapshot.load_full();
        let bound = snapshot.policies.bindings().iter().find(|bound| bound.binding().module.to_string() == source);
        let described = |name: &str, version: &str, manifest: Value| {
            let (source, name, version) = (source.to_owned(), name.to_owned(), version.to_owned());
            Some(Described { source, name, version, manifest })
        };
        if let Some(bound) = bound {
            let info = bound.module();
            return Ok(described(&info.manifest.name, &info.manifest.version, said(info)));
        }
        if let Some(digest) = source.strip_prefix("sha256:") {
            let module = self.module(digest).await?;
            return Ok(described(&module.name, &module.version, module.manifest));
        }
        let Some(name) = source.strip_prefix("builtin:") else { return Ok(None) };
        let bytes = builtin::module(name).ok_or(PolicyError::NoSuchModule)?;
        let turn = self.rehearsals.clone().try_acquire_owned().map_err(|_| PolicyError::Busy)?;
        let engine = self.engine.clone();
        let load = move || {
            // It is not over before this, though nobody waits for it any more.
            let _turn = turn;
            Module::load(&engine, bytes)
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|_| PolicyError::Interrupted)?;
        let loaded = loaded.map_err(|error| PolicyError::Module(told(&error)))?;
        let info = loaded.info();
        Ok(described(&info.manifest.name, &info.manifest.version, said(info)))
    }
}
