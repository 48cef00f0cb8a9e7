//! `portcullis config`: configuration files checked and described, and what is stored exported as one and applied from one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::admin::every_page;
use super::output::plain;
use super::{AdminSocket, ConfigFile, print};
use crate::config;

mod apply;
mod export;
mod patch;
mod plan;
mod policies;
mod reference;
mod stored;

/// Largest file that is applied, in bytes.
const MAX_FILE: u64 = 4 << 20;

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Validate a configuration file and everything it names, as `portcullis check` does.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Print every setting with its default and what it means.
    Reference,
    /// Print what is stored and a file may hold, as sections of a file: upstreams, virtual keys, policies and OAuth clients.
    ///
    /// No sealed secret is in it: those become references to environment variables, which comments name; url and command stand
    /// as they were declared. Secrets of virtual keys and of clients are known by their digests alone and cannot be exported.
    Export(AdminSocket),
    /// Make what is stored what the sections [upstreams], [keys] and [[policies]] of a file say.
    ///
    /// A section that the file does not have at all is left alone, and so is what it does not name, unless --prune is given.
    /// Policy modules that the file names by their paths are uploaded where they are not yet.
    /// With --dry-run the exit code is 0 if there is nothing to change and 2 if there is.
    Apply(apply::Apply),
}

impl ConfigCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check { config } => super::check(&ConfigFile { config })?,
            Self::Schema => print(&format!("{:#}", config::schema()))?,
            Self::Reference => print(reference::of(&config::schema()).trim_end())?,
            Self::Export(with) => {
                let clients = every_page(&with, "/api/v1/clients", "clients")?;
                print(&plain(export::text(&stored::Stored::of(&with)?, &clients).trim_end()))?;
            }
            Self::Apply(apply) => return apply.run(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The sections of a file.
fn read(file: &Path) -> anyhow::Result<config::portable::Sections> {
    let what = || format!("cannot use {}", file.display());
    let size = std::fs::metadata(file).with_context(what)?.len();
    anyhow::ensure!(size <= MAX_FILE, "{} is larger than {MAX_FILE} bytes", file.display());
    config::portable::read(&std::fs::read_to_string(file).with_context(what)?).with_context(what)
}
