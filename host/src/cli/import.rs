//! `portcullis upstream import`: from an MCP client's JSON to sections of a configuration file.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;

use super::print;
use crate::config::import::{Imported, from_mcp_servers};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

pub(super) fn run(file: &Path, into: Option<&Path>) -> anyhow::Result<()> {
    let size = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    anyhow::ensure!(size <= MAX_FILE, "{} is larger than {MAX_FILE} bytes", file.display());
    let json = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let Imported { toml, secrets, notes } =
        from_mcp_servers(&json).with_context(|| format!("cannot use {}", file.display()))?;
    match into {
        None => {
            print(&toml)?;
            for (path, _) in &secrets {
                print(&format!("# put the secret of the original into {path}, or use --into to have it done"))?;
            }
        }
        Some(config) => {
            let base = config.parent().unwrap_or_else(|| Path::new(""));
            for (path, secret) in &secrets {
                write_secret(&base.join(path), secret.expose())?;
            }
            append(config, &toml)?;
            print(&format!(
                "{} has the new sections; try `portcullis check --config {}`",
                config.display(),
                config.display()
            ))?;
        }
    }
    for note in notes {
        print(&format!("# note: {note}"))?;
    }
    Ok(())
}

/// Writes a secret for its owner's eyes. A file that is there already is left alone.
fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(secret.as_bytes()).with_context(|| format!("cannot write {}", path.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            print(&format!("# note: {} is there already and was left alone", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn append(config: &Path, toml: &str) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().append(true).create(true).open(config);
    let mut file = file.with_context(|| format!("cannot open {}", config.display()))?;
    write!(file, "\n{toml}").with_context(|| format!("cannot write {}", config.display()))
}
