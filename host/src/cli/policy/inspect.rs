//! What a module is, wants and offers.

use anyhow::Context as _;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::print;
use super::OneModule;
use crate::config::Reuse;
use crate::policy::manifest::{Determinism, Need, Payload};
use crate::policy::{Engine, ModuleInfo};

/// Show what a module is, wants and offers, and whether it can be frozen with its configuration.
#[derive(clap::Args)]
pub(in crate::cli) struct Inspect {
    #[command(flatten)]
    module: OneModule,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let engine = Engine::start(1)?;
        let bench = self.module.load(&engine)?;
        // One that does not accept its configuration can still be looked at.
        let instances = match self.module.configure(&bench, Reuse::Auto) {
            Ok(configured) => Ok((configured.mode(), configured.remarks().to_vec())),
            Err(error) => Err(super::super::explain(&error)),
        };
        let memory = bench.max_memory_bytes();
        let self_tests = bench.self_tests().map(|cases| cases.len()).unwrap_or_default();
        let ModuleInfo { manifest, digest, size_bytes, lane, is_large, exported: _, imports } = bench.info();
        let hooks: Vec<&str> = manifest.hooks.iter().map(|hook| hook.as_str()).collect();
        let mutates: Vec<&str> = manifest.mutates.iter().map(|hook| hook.as_str()).collect();
        let capabilities: Vec<&str> = manifest.capabilities.iter().map(|capability| capability.as_str()).collect();
        if self.json {
            let needs: Vec<Value> = manifest.needs.iter().map(need_view).collect();
            let instances = match &instances {
                Ok((mode, remarks)) => json!({ "mode": mode.as_str(), "remarks": remarks }),
                Err(error) => json!({ "error": error }),
            };
            return print(&format!(
                "{:#}",
                json!({
                    "name": manifest.name,
                    "version": manifest.version,
                    "title": manifest.title,
                    "license": manifest.license,
                    "digest": format!("sha256:{digest}"),
                    "size_bytes": size_bytes,
                    "lane": lane.as_str(),
                    "large": is_large,
                    "hooks": hooks,
                    "mutates": mutates,
                    "needs": needs,
                    "capabilities": capabilities,
                    "imports": imports,
                    "determinism": determinism(manifest.determinism),
                    "min_host": manifest.min_host,
                    "self_tests": self_tests,
                    "instances": instances,
                    "max_memory_bytes": memory,
                    "config_schema": manifest.config_schema,
                    "sample_config": manifest.sample_config,
                })
            ));
        }
        let needs: Vec<String> = manifest.needs.iter().map(need_text).filter(|need| !need.is_empty()).collect();
        let instances = match instances {
            Ok((mode, remarks)) if remarks.is_empty() => mode.to_string(),
            Ok((mode, remarks)) => format!("{mode}: {}", remarks.join("; ")),
            Err(error) => error,
        };
        let rows = [
            ("license", manifest.license.as_deref().unwrap_or("not said").to_owned()),
            ("digest", format!("sha256:{digest}")),
            ("size", format!("{size_bytes} bytes")),
            (
                "lane",
                if *is_large { format!("{}, in the large engine", lane.as_str()) } else { lane.as_str().to_owned() },
            ),
            ("hooks", hooks.join(", ")),
            ("may change", or_none(&mutates.join(", "))),
            ("is shown", or_none(&needs.join("; "))),
            ("wants", or_none(&capabilities.join(", "))),
            ("imports", or_none(&imports.join(", "))),
            ("determinism", determinism(manifest.determinism).to_owned()),
            ("instances", instances),
            ("memory", format!("at most {memory} bytes")),
            ("self-tests", self_tests.to_string()),
        ];
        let rows: Vec<String> = rows.iter().map(|(name, value)| format!("{name:11}  {value}")).collect();
        print(&format!(
            "{} {}: {}\n\n{}\n\nsample configuration\n{:#}\n\nconfiguration schema\n{:#}",
            manifest.name,
            manifest.version,
            manifest.title,
            rows.join("\n"),
            pretty(&manifest.sample_config)?,
            pretty(&manifest.config_schema)?,
        ))
    }
}

fn or_none(list: &str) -> String {
    if list.is_empty() { "none".to_owned() } else { list.to_owned() }
}

fn pretty(raw: &RawValue) -> anyhow::Result<Value> {
    serde_json::from_str(raw.get()).context("the manifest has JSON that cannot be read")
}

fn determinism(determinism: Determinism) -> &'static str {
    match determinism {
        Determinism::Pure => "pure",
        Determinism::TimeDependent => "time-dependent",
        Determinism::Stateful => "stateful",
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
