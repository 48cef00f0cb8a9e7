//! Signatures of modules: make a key, sign with it, check what is signed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::super::print;
use crate::config::{Signatures, TrustedKey};
use crate::env::Env;
use crate::policy::module_digest;
use crate::policy::signature::{MAX_SIGNATURES_BYTES, PublicKey, SignatureFile, SigningKey, file_beside};
use crate::secret::Plaintext;

/// Make a key pair for signing modules.
///
/// The private key goes to FILE, which only you can read; the public key is printed, for `trusted_keys` in `[policy]`.
#[derive(clap::Args)]
pub(in crate::cli) struct Keygen {
    /// Where the private key goes (PEM, PKCS #8). An existing file is not touched.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Keygen {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let key = SigningKey::of_seed(&Env::system().random::<32>());
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.file)
            .with_context(|| format!("cannot make {}", self.file.display()))?;
        file.write_all(key.to_pem().expose().as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        print(&format!("{}\nkey id {}", key.public(), key.public().id()))
    }
}

/// Sign a module: writes or adds to MODULE.sig beside it.
#[derive(clap::Args)]
pub(in crate::cli) struct Sign {
    /// The module's file.
    module: PathBuf,
    /// The private key, as `keygen` made it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Sign {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let pem = fs::read_to_string(&self.key).with_context(|| format!("cannot read {}", self.key.display()))?;
        let key = SigningKey::parse(&Plaintext::new(pem)).with_context(|| self.key.display().to_string())?;
        let digest = digest_of(&self.module)?;
        let path = file_beside(&self.module);
        let mut signatures = match fs::read(&path) {
            Ok(text) => {
                let present = SignatureFile::parse(&text).with_context(|| path.display().to_string())?;
                // Signatures of what the module was before are worth nothing now.
                if present.are_of(&digest) { present } else { SignatureFile::of(&digest) }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => SignatureFile::of(&digest),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        signatures.add(&key);
        fs::write(&path, signatures.to_json()).with_context(|| format!("cannot write {}", path.display()))?;
        print(&format!("{}: sha256:{digest} signed by {}", path.display(), key.public().id()))
    }
}

/// Check the signatures of a module, as the gateway would.
#[derive(clap::Args)]
pub(in crate::cli) struct Verify {
    /// The module's file; the signatures are read from MODULE.sig.
    module: PathBuf,
    /// A public key that counts, such as ed25519:…; may be given several times.
    #[arg(long, value_name = "KEY", required = true)]
    trusted: Vec<String>,
    /// All of the keys must have signed, not only one.
    #[arg(long)]
    all: bool,
}

impl Verify {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let key = |text: &String| -> anyhow::Result<TrustedKey> {
            let key = PublicKey::parse(text).with_context(|| format!("--trusted {text}"))?;
            Ok(TrustedKey { name: key.to_string(), key: key.to_bytes() })
        };
        let keys = self.trusted.iter().map(key).collect::<anyhow::Result<Vec<_>>>()?;
        let digest = digest_of(&self.module)?;
        let path = file_beside(&self.module);
        let text = read_at_most(&path, MAX_SIGNATURES_BYTES)?;
        let required = if self.all { Signatures::All } else { Signatures::Any };
        let signed = SignatureFile::parse(&text)
            .and_then(|signatures| signatures.check(&digest, required, &keys))
            .with_context(|| self.module.display().to_string())?;
        print(&format!("{}: sha256:{digest} is signed by {}", self.module.display(), signed.join(", ")))
    }
}

fn digest_of(module: &Path) -> anyhow::Result<String> {
    let bytes = super::read_module(module)?;
    Ok(module_digest(&bytes).to_string())
}

fn read_at_most(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if text.len() > limit {
        bail!("{} has more than {limit} bytes", path.display());
    }
    Ok(text)
}
