//! What the gateway has in its data directory besides the store: secrets, each for its owner alone, and compiled policies.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::StartError;
use crate::env::Env;
use crate::policy;
use crate::secret::{DeploymentSecret, Plaintext, hex};
use crate::vault::Vault;

/// Directory in `data_dir` of compiled policies.
pub(super) const CODE_CACHE: &str = "policy-cache";
/// Name of the file in `data_dir` that held the deployment secret before there was a vault.
pub(super) const DEPLOYMENT_SECRET: &str = "deployment-secret";
/// Hex digits that a secret file must have.
const SECRET_LEN: usize = 64;

/// Makes a directory that only its owner can enter. One that is there already keeps its mode.
pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The secret in a file of mode 0600, made on first use. A file that others can read is refused.
pub(super) fn keep_secret(path: &Path, env: &Env) -> Result<Plaintext, StartError> {
    let failed = |source| StartError::SecretFile { path: path.to_owned(), source };
    let fresh = hex(&env.random::<32>());
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            io::Write::write_all(&mut file, format!("{fresh}\n").as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
            Ok(Plaintext::new(fresh))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_secret(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// The deployment secret, from the vault. One in a file of an earlier version is taken over, and the file is removed once the
/// vault has it for good.
pub(super) async fn deployment_secret(vault: &Vault, path: &Path) -> Result<Plaintext, StartError> {
    let failed = |source| StartError::SecretFile { path: path.to_owned(), source };
    let earlier = match read_secret(path) {
        Ok(secret) => Some(secret),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let secret = vault.deployment_secret(earlier.clone()).await?;
    if let Some(earlier) = earlier {
        if earlier == secret {
            tracing::info!(path = %path.display(), "the vault has taken over the deployment secret");
        } else {
            // Gateways that come to share a store have one secret from then on.
            tracing::warn!(path = %path.display(), "the deployment secret of the store is used, and not the one in this file");
        }
        fs::remove_file(path).map_err(failed)?;
    }
    Ok(secret)
}

fn read_secret(path: &Path) -> io::Result<Plaintext> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("mode {:o} lets others read it: chmod 600", mode & 0o777),
        ));
    }
    let text = fs::read_to_string(path)?;
    let secret = text.trim_end();
    if secret.len() < SECRET_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is cut short: remove it to have a new one made"));
    }
    Ok(Plaintext::new(secret))
}

/// Where compiled policies are kept. Without it they are compiled anew at each start.
pub(super) fn code_cache(directory: &Path, secret: DeploymentSecret) -> Option<policy::CodeCache> {
    match policy::CodeCache::open(directory, Arc::new(secret)) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!(%error, "compiled policies are not kept: each start compiles them again");
            None
        }
    }
}
