//! Uploaded modules: taken once they are known to be policies, told of, and removed when nothing uses them.

use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;

use super::PolicyError;
use crate::admin::Control;
use crate::audit::Actor;
use crate::policy::{self, BoundPolicy, Manifest, ModuleInfo, UploadedModule as Upload};
use crate::store::policy_modules::{self as stored, Keeping, NewModule, Removal, UploadedModule};
use crate::store::{Cursor, Page};

/// What came of an upload.
#[derive(Clone, Debug)]
pub struct ModuleUpload {
    pub module: UploadedModule,
    /// Whether it was not there before.
    pub is_new: bool,
}

impl Control {
    /// Leave to read a module that is being sent, for as long as it is held.
    ///
    /// # Errors
    /// [`PolicyError::Busy`].
    pub fn upload_turn(&self) -> Result<SemaphorePermit<'_>, PolicyError> {
        self.uploads.try_acquire().map_err(|_| PolicyError::Busy)
    }

    /// Keeps a module, once it was checked, compiled and described. One that is there already stays as it is.
    ///
    /// # Errors
    /// [`PolicyError`]; nothing is kept then.
    pub async fn upload_module(&self, bytes: Vec<u8>, actor: Actor) -> Result<ModuleUpload, PolicyError> {
        self.upload_signed_module(bytes, None, actor).await
    }

    /// The same with what would stand in the file of signatures beside it. A module that is there already has these
    /// signatures from now on.
    ///
    /// # Errors
    /// [`PolicyError`]; nothing is kept then.
    pub async fn upload_signed_module(
        &self,
        bytes: Vec<u8>,
        signatures: Option<String>,
        actor: Actor,
    ) -> Result<ModuleUpload, PolicyError> {
        let turn = self.rehearsals.clone().try_acquire_owned().map_err(|_| PolicyError::Busy)?;
        let (engine, settings) = (self.engine.clone(), self.config.load().policy.clone());
        let examine = move || {
            // It is not over before this, though nobody waits for it any more.
            let _turn = turn;
            let upload = Upload { module: bytes, signatures };
            policy::examine(&engine, &settings, &upload).map(|info| (info, upload))
        };
        // It compiles, and runs code of the module.
        let examined = tokio::task::spawn_blocking(examine).await.map_err(|_| PolicyError::Interrupted)?;
        let (info, upload) = examined.map_err(|error| PolicyError::Module(told(&error)))?;
        let new = NewModule {
            digest: info.digest.to_string(),
            name: info.manifest.name.clone(),
            version: info.manifest.version.clone(),
            manifest: said(&info),
            signatures: upload.signatures,
            content: upload.module,
        };
        match stored::keep(&self.store, new, actor).await? {
            Keeping::Kept(module) => Ok(ModuleUpload { module: *module, is_new: true }),
            Keeping::Known(module) => Ok(ModuleUpload { module: *module, is_new: false }),
            Keeping::TooMany | Keeping::Full => Err(PolicyError::NoRoom),
            Keeping::TooLarge => Err(PolicyError::ModuleTooLarge),
        }
    }

    /// A page of the uploaded modules, from the last digest to the first.
    ///
    /// # Errors
    /// [`PolicyError::Store`].
    pub async fn modules(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page<UploadedModule>, PolicyError> {
        Ok(stored::list(&self.store, cursor, limit).await?)
    }

    /// An uploaded module, by its lower-case hex SHA-256.
    ///
    /// # Errors
    /// [`PolicyError::NoSuchModule`] and [`PolicyError::Store`].
    pub async fn module(&self, digest: &str) -> Result<UploadedModule, PolicyError> {
        stored::get(&self.store, digest).await?.ok_or(PolicyError::NoSuchModule)
    }

    /// Removes a module that no binding of the store uses, and no set of policies that one can go back to.
    ///
    /// # Errors
    /// [`PolicyError`]; nothing is removed then.
    pub async fn remove_module(&self, digest: &str, actor: Actor) -> Result<(), PolicyError> {
        // Nobody brings it into force meanwhile.
        let _changing = self.changing.lock().await;
        let uses_it = |bound: &BoundPolicy| bound.binding().module.uploaded() == Some(digest);
        let kept = self.generations();
        // What is in force is told by the names of its policies: they are what there is to change.
        let running: Vec<&str> = kept
            .last()
            .into_iter()
            .flat_map(|running| running.policies.bindings().iter().filter(|bound| uses_it(bound)))
            .map(|bound| bound.binding().name.as_str())
            .collect();
        if !running.is_empty() {
            return Err(PolicyError::ModuleInUse { by: running.join(", ") });
        }
        if let Some(generation) = kept.iter().find(|kept| kept.policies.bindings().iter().any(uses_it)) {
            let by = format!("generation {}, to which one can still go back", generation.number);
            return Err(PolicyError::ModuleInUse { by });
        }
        match stored::remove(&self.store, digest, actor).await? {
            Removal::Removed => Ok(()),
            Removal::NotFound => Err(PolicyError::NoSuchModule),
            Removal::Bound(names) => {
                let names: Vec<&str> = names.iter().map(crate::ids::BindingName::as_str).collect();
                Err(PolicyError::ModuleInUse { by: names.join(", ") })
            }
        }
    }
}

/// The error and its causes, on one line.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What a module says of itself, for operators.
pub(super) fn said(info: &ModuleInfo) -> Value {
    let Manifest { title, license, hooks, mutates, capabilities, config_schema, sample_config, .. } = &info.manifest;
    // Both were checked to be JSON when the module was described.
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    json!({
        "title": title,
        "license": license,
        "hooks": hooks.iter().map(|hook| hook.as_str()).collect::<Vec<_>>(),
        "mutates": mutates.iter().map(|hook| hook.as_str()).collect::<Vec<_>>(),
        "capabilities": capabilities.iter().map(|grant| grant.as_str()).collect::<Vec<_>>(),
        "config_schema": json(config_schema.get()),
        "sample_config": json(sample_config.get()),
    })
}
