//! Policy modules from OCI registries, kept on disk once they were pulled, so that neither a reload nor a start depends
//! on a registry that has delivered already.
//!
//! What is kept is trusted no more than a registry: a folder has the manifest with the layers that it names, and each is
//! checked against its digest whenever it is read. What does not fit is pulled again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::pool::Outbound;
use super::registry::{self, Delivery, MAX_MANIFEST, MaxSizes, Plan, PullError};
use crate::oci::{Artifact, Pulled, Reference};

/// Directory in `data_dir` of what was pulled.
const DIRECTORY: &str = "policy-modules";
/// Artifacts that are pulled at once.
const CONCURRENT_PULLS: usize = 4;

const MANIFEST: &str = "manifest.json";
const MODULE: &str = "module.wasm";
const SIGNATURES: &str = "signatures.json";

/// Where modules from registries come from.
#[derive(Clone, Debug)]
pub struct Depot {
    outbound: Outbound,
    directory: PathBuf,
    keeps: bool,
}

impl Depot {
    /// Keeps what it pulls in `data_dir`.
    pub fn new(outbound: Outbound, data_dir: &Path) -> Self {
        Self { outbound, directory: data_dir.join(DIRECTORY), keeps: true }
    }

    /// Uses what another keeps in `data_dir`, and changes nothing there.
    pub fn read_only(outbound: Outbound, data_dir: &Path) -> Self {
        Self { keeps: false, ..Self::new(outbound, data_dir) }
    }

    /// All that these references mean, each pulled unless it is here already.
    pub async fn fetch(&self, references: impl IntoIterator<Item = Reference>, max: MaxSizes) -> Pulled {
        let references: BTreeSet<Reference> = references.into_iter().collect();
        let one = |reference: Reference| async move {
            let fetched = self.one(&reference, max).await;
            (reference, fetched.map_err(|error| explain(&error)))
        };
        stream::iter(references.into_iter().map(one)).buffer_unordered(CONCURRENT_PULLS).collect().await
    }

    async fn one(&self, reference: &Reference, max: MaxSizes) -> Result<Artifact, PullError> {
        let folder = self.directory.join(reference.digest());
        let (known, at) = (reference.clone(), folder.clone());
        let kept = tokio::task::spawn_blocking(move || read(&at, &known, max)).await;
        if let Ok(Some(kept)) = kept {
            return Ok(kept);
        }
        let delivery = registry::pull(&self.outbound, reference, max).await?;
        tracing::info!(module = %reference, bytes = delivery.artifact.module.len(), "policy module pulled");
        let artifact = delivery.artifact.clone();
        if self.keeps {
            let written = tokio::task::spawn_blocking(move || write(&folder, &delivery)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(module = %reference, %error, "the module is not kept: it is pulled again the next time");
            }
        }
        Ok(artifact)
    }

    /// Forgets everything but these.
    pub async fn keep_only(&self, references: impl IntoIterator<Item = Reference>) {
        let kept: BTreeSet<String> = references.into_iter().map(|reference| reference.digest().to_owned()).collect();
        let directory = self.directory.clone();
        let swept = tokio::task::spawn_blocking(move || sweep(&directory, &kept)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "policy modules that are not in use stay on disk");
        }
    }
}

/// What is kept of an artifact, if all of it is what it should be.
fn read(folder: &Path, reference: &Reference, max: MaxSizes) -> Option<Artifact> {
    let manifest = read_at_most(&folder.join(MANIFEST), MAX_MANIFEST).ok()?;
    let plan = Plan::read(reference, &manifest, max).ok()?;
    let part = |name: &str, part: &registry::Part| {
        let bytes = read_at_most(&folder.join(name), part.max).ok()?;
        part.check(&bytes).ok().map(|()| Bytes::from(bytes))
    };
    let module = part(MODULE, &plan.module)?;
    let signatures = match &plan.signatures {
        Some(signatures) => Some(part(SIGNATURES, signatures)?),
        None => None,
    };
    Some(Artifact { module, signatures })
}

fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Written beside and moved into place: half of it would only be pulled again, but need not be there.
fn write(folder: &Path, delivery: &Delivery) -> io::Result<()> {
    let beside = folder.with_extension("new");
    remove(&beside)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&beside)?;
    fs::write(beside.join(MODULE), &delivery.artifact.module)?;
    if let Some(signatures) = &delivery.artifact.signatures {
        fs::write(beside.join(SIGNATURES), signatures)?;
    }
    fs::write(beside.join(MANIFEST), &delivery.manifest)?;
    remove(folder)?;
    fs::rename(&beside, folder)
}

fn sweep(directory: &Path, kept: &BTreeSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_none_or(|name| !kept.contains(name)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The error with its causes.
fn explain(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
