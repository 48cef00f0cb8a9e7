//! Commands about policies: those of the running gateway, and modules in files.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{WithConfig, admin, print};
use crate::policy::manifest::{Determinism, Need, Payload};
use crate::policy::{Engine, Module, ModuleInfo};

#[derive(Subcommand)]
pub(super) enum PolicyCommand {
    /// Show the policies of the running gateway and how the last reload went.
    List(WithConfig),
    /// Have the running gateway read its configuration and policy modules again.
    Reload(WithConfig),
    /// Show what a module is, wants and offers. Runs its `describe` and nothing else of it.
    Inspect {
        /// A component or a core module.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Turn a core module into a component, as the gateway would when it loads it.
    Componentize {
        /// The core module.
        file: PathBuf,
        /// Where to write the component.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

impl PolicyCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(with) => admin::policies(&with),
            Self::Reload(with) => admin::reload(&with),
            Self::Inspect { file, json } => inspect(&file, json),
            Self::Componentize { file, output } => {
                let core = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let component =
                    crate::policy::componentize(&core).with_context(|| format!("cannot use {}", file.display()))?;
                std::fs::write(&output, component).with_context(|| format!("cannot write {}", output.display()))
            }
        }
    }
}

fn inspect(file: &Path, as_json: bool) -> anyhow::Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let engine = Engine::start(1)?;
    let module = Module::load(&engine, &bytes).with_context(|| format!("{} cannot be used", file.display()))?;
    let ModuleInfo { manifest, digest, size_bytes, exported: _, imports } = module.info();
    let hooks: Vec<&str> = manifest.hooks.iter().map(|hook| hook.as_str()).collect();
    let mutates: Vec<&str> = manifest.mutates.iter().map(|hook| hook.as_str()).collect();
    if as_json {
        let needs: Vec<Value> = manifest.needs.iter().map(need_view).collect();
        return print(&format!(
            "{:#}",
            json!({
                "name": manifest.name,
                "version": manifest.version,
                "title": manifest.title,
                "license": manifest.license,
                "digest": format!("sha256:{digest}"),
                "size_bytes": size_bytes,
                "hooks": hooks,
                "mutates": mutates,
                "needs": needs,
                "imports": imports,
                "determinism": determinism(manifest.determinism),
                "config_schema": manifest.config_schema,
                "sample_config": manifest.sample_config,
            })
        ));
    }
    let or_none = |list: String| if list.is_empty() { "none".to_owned() } else { list };
    let needs: Vec<String> = manifest.needs.iter().map(need_text).filter(|need| !need.is_empty()).collect();
    print(&format!(
        "{} {}: {}\n\nlicense      {}\ndigest       sha256:{digest}\nsize         {size_bytes} bytes\nhooks        {}\nmay change   {}\nis shown     {}\nimports      {}\ndeterminism  {}\n\nsample configuration\n{:#}\n\nconfiguration schema\n{:#}",
        manifest.name,
        manifest.version,
        manifest.title,
        manifest.license.as_deref().unwrap_or("not said"),
        hooks.join(", "),
        or_none(mutates.join(", ")),
        or_none(needs.join("; ")),
        or_none(imports.join(", ")),
        determinism(manifest.determinism),
        pretty(&manifest.sample_config)?,
        pretty(&manifest.config_schema)?,
    ))
}

fn pretty(raw: &RawValue) -> anyhow::Result<Value> {
    serde_json::from_str(raw.get()).context("the manifest has JSON that cannot be read")
}

fn determinism(determinism: Determinism) -> &'static str {
    match determinism {
        Determinism::Pure => "pure",
        Determinism::TimeDependent => "time-dependent",
    }
}

fn payload(payload: Payload) -> &'static str {
    match payload {
        Payload::None => "none",
        Payload::SizeOnly => "size-only",
        Payload::Full => "full",
    }
}

fn need_view(need: &Need) -> Value {
    let Need { hook, arguments, output, texts, claims, ext } = need;
    json!({ "hook": hook.as_str(), "arguments": payload(*arguments), "output": payload(*output), "texts": texts, "claims": claims, "ext": ext })
}

/// What a hook is shown beyond names, in words.
fn need_text(need: &Need) -> String {
    let mut parts = Vec::new();
    for (what, of) in [("arguments", need.arguments), ("results", need.output)] {
        match of {
            Payload::None => {}
            Payload::SizeOnly => parts.push(format!("size of {what}")),
            Payload::Full => parts.push(what.to_owned()),
        }
    }
    if need.texts {
        parts.push("texts of tools".to_owned());
    }
    if parts.is_empty() { String::new() } else { format!("{}: {}", need.hook, parts.join(", ")) }
}
