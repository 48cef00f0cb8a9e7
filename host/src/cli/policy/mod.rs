//! Commands about policies: those of the running gateway, modules in files, and what it takes to write one.
//!
//! What concerns a module alone needs no gateway: it is done here, on the same engine ([`crate::policy::workbench`]). What
//! concerns the running gateway goes through its admin API.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::Value;

use crate::builtin;
use crate::config::Reuse;
use crate::oci::Reference;
use crate::policy::workbench::{Configured, Workbench};
use crate::policy::{Engine, Hook, MAX_MODULE_BYTES};

mod bench;
mod build;
pub(super) mod explain;
mod in_force;
mod inspect;
mod lint;
mod new;
mod remote;
mod replay;
mod run;
mod sign;
pub(super) mod stored;
mod test;

use super::WithConfig;

/// Largest input or configuration that is read.
const MAX_JSON_BYTES: usize = 16 << 20;

#[derive(Subcommand)]
pub(super) enum PolicyCommand {
    /// Show the policies of the running gateway and how the last reload went.
    List(WithConfig),
    /// Have the running gateway read its configuration and policy modules again.
    Reload(WithConfig),
    /// Show which policies were in force last, as far as one can go back to them.
    Generations(WithConfig),
    Rollback(remote::Rollback),
    Upload(stored::Upload),
    Modules(stored::Modules),
    RemoveModule(stored::RemoveModule),
    Bind(stored::Bind),
    Unbind(stored::Unbind),
    Explain(explain::Explain),
    Replay(replay::Replay),
    Inspect(inspect::Inspect),
    Run(run::Run),
    Test(test::Test),
    Bench(bench::Bench),
    Lint(lint::Lint),
    New(new::New),
    Build(build::Build),
    Componentize(build::Componentize),
    Keygen(sign::Keygen),
    Sign(sign::Sign),
    Verify(sign::Verify),
}

impl PolicyCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(with) => remote::list(&with),
            Self::Reload(with) => remote::reload(&with),
            Self::Generations(with) => remote::generations(&with),
            Self::Rollback(rollback) => rollback.run(),
            Self::Upload(upload) => upload.run(),
            Self::Modules(modules) => modules.run(),
            Self::RemoveModule(remove) => remove.run(),
            Self::Bind(bind) => bind.run(),
            Self::Unbind(unbind) => unbind.run(),
            Self::Explain(explain) => explain.run(),
            Self::Replay(replay) => replay.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Run(run) => run.run(),
            Self::Test(test) => test.run(),
            Self::Bench(bench) => bench.run(),
            Self::Lint(lint) => lint.run(),
            Self::New(new) => new.run(),
            Self::Build(build) => build.run(),
            Self::Componentize(componentize) => componentize.run(),
            Self::Keygen(keygen) => keygen.run(),
            Self::Sign(sign) => sign.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

/// A module, and how it is to be looked at.
#[derive(clap::Args)]
struct OneModule {
    /// A component or a core module, or builtin:NAME for one that comes with the binary.
    module: PathBuf,
    /// Its configuration, a JSON object; without it, the sample that the module brings along.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl OneModule {
    fn load(&self, engine: &Engine) -> anyhow::Result<Workbench> {
        let bytes = read_module(&self.module)?;
        Workbench::load(engine, &bytes).with_context(|| format!("{} cannot be used", self.module.display()))
    }

    fn configure<'a>(&self, bench: &'a Workbench, reuse: Reuse) -> anyhow::Result<Configured<'a>> {
        let config = match &self.config {
            Some(file) => read_json(file)?,
            None => bench.sample_config(),
        };
        bench.configure(&config, reuse).with_context(|| match &self.config {
            Some(file) => format!("{} does not suit {}", file.display(), self.module.display()),
            None => format!("{} does not accept its own sample configuration", self.module.display()),
        })
    }
}

/// The bytes of a module in a file, or of one that comes with the binary.
pub(super) fn read_module(module: &Path) -> anyhow::Result<Vec<u8>> {
    if let Some(name) = module.to_str().and_then(|text| text.strip_prefix("builtin:")) {
        let Some(bytes) = builtin::module(name) else {
            bail!("there is no builtin policy {name:?}; there are {}", builtin::names().collect::<Vec<_>>().join(", "));
        };
        return Ok(bytes.to_vec());
    }
    if module.to_str().is_some_and(|text| text.starts_with(Reference::SCHEME)) {
        bail!("{} is in a registry: this command wants a file, such as `oras pull` leaves", module.display());
    }
    read_at_most(module, MAX_MODULE_BYTES)
}

/// A JSON file; `-` is standard input.
fn read_json(file: &Path) -> anyhow::Result<Value> {
    let text = match file.as_os_str().as_encoded_bytes() {
        b"-" => {
            let mut text = Vec::new();
            std::io::stdin()
                .take(MAX_JSON_BYTES as u64 + 1)
                .read_to_end(&mut text)
                .context("cannot read standard input")?;
            text
        }
        _ => read_at_most(file, MAX_JSON_BYTES)?,
    };
    if text.len() > MAX_JSON_BYTES {
        bail!("{} has more than {MAX_JSON_BYTES} bytes", file.display());
    }
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))
}

/// A file, read no further than to see that it is too large.
fn read_at_most(file: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(limit as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", file.display()))?;
    if bytes.len() > limit {
        bail!("{} has more than {limit} bytes", file.display());
    }
    Ok(bytes)
}

/// A hook by its name, for the command line.
fn hook(name: &str) -> Result<Hook, String> {
    Hook::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
        format!("there are {}", known.join(", "))
    })
}

/// The hook that is named, if the module has it.
fn hook_of(bench: &Workbench, hook: Hook) -> anyhow::Result<Hook> {
    let hooks = &bench.info().manifest.hooks;
    if !hooks.contains(&hook) {
        let own: Vec<&str> = hooks.iter().map(|hook| hook.as_str()).collect();
        bail!("the module does not have the hook {hook}; it has {}", own.join(", "));
    }
    Ok(hook)
}
