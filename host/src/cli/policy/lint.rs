//! What a module says of itself and does not need, or does not say and should.

use anyhow::bail;

use super::super::print;
use super::OneModule;
use crate::config::{Grant, Reuse};
use crate::policy::manifest::{Determinism, Manifest, Payload};
use crate::policy::workbench::Workbench;
use crate::policy::{Engine, Hook, InstanceMode, ModuleInfo};

/// Look for what a module asks for and cannot use, and for what it lacks. Fails if there is any.
///
/// Only what can be told from outside is told: whether a policy reads the arguments that it asks to be shown is not.
#[derive(clap::Args)]
pub(in crate::cli) struct Lint {
    #[command(flatten)]
    module: OneModule,
}

impl Lint {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let engine = Engine::start(1)?;
        let bench = self.module.load(&engine)?;
        let mut findings = findings(bench.info());
        findings.extend(self.of_running(&bench));
        for finding in &findings {
            print(finding)?;
        }
        match findings.len() {
            0 => print("nothing to complain about"),
            1 => bail!("1 finding"),
            count => bail!("{count} findings"),
        }
    }

    /// What is seen when it is configured.
    fn of_running(&self, bench: &Workbench) -> Vec<String> {
        let mut findings = Vec::new();
        match bench.self_tests() {
            Ok(cases) if cases.is_empty() => findings.push(
                "self-tests: it brings no cases along, so that nothing is tried before it comes into force".to_owned(),
            ),
            Ok(_) => {}
            Err(error) => findings.push(format!("self-tests: {error}")),
        }
        match self.module.configure(bench, Reuse::Auto) {
            Ok(configured) => {
                findings.extend(configured.remarks().iter().map(|remark| format!("instances: {remark}")));
                if configured.mode() == InstanceMode::Fresh && configured.remarks().is_empty() {
                    findings.push("instances: it is configured anew for each call".to_owned());
                }
            }
            Err(error) => findings.push(format!("configuration: {}", super::super::explain(&error))),
        }
        findings
    }
}

/// What the manifest and the module itself give away.
fn findings(info: &ModuleInfo) -> Vec<String> {
    let manifest = &info.manifest;
    let mut findings = Vec::new();
    for hook in info.exported.iter().filter(|hook| !manifest.hooks.contains(hook)) {
        findings.push(format!("hooks: it exports {hook}, which its manifest does not name: it is never asked there"));
    }
    for hook in manifest.mutates.iter().filter(|hook| !can_mutate(**hook)) {
        findings.push(format!("mutates: nothing can be changed at {hook}"));
    }
    findings.extend(needs(manifest));
    for grant in &manifest.capabilities {
        let imported = info.imports.iter().any(|import| import.contains(&format!("/{}@", grant.as_str())));
        if !imported {
            findings.push(format!(
                "capabilities: it wants {}, which it does not import: operators grant it for nothing",
                grant.as_str()
            ));
        }
    }
    let counts = [Grant::Counters, Grant::Random].iter().any(|grant| manifest.capabilities.contains(grant));
    if manifest.determinism == Determinism::Stateful && !counts {
        findings.push(
            "determinism: it calls itself stateful and wants neither counters nor random: its answers about lists are \
             not remembered for nothing"
                .to_owned(),
        );
    }
    let schema = manifest.config_schema.get().trim();
    if matches!(schema, "{}" | "true") {
        findings
            .push("config-schema: it accepts everything, so that mistakes are found by configure at best".to_owned());
    }
    findings
}

fn needs(manifest: &Manifest) -> Vec<String> {
    let mut findings = Vec::new();
    for need in &manifest.needs {
        let hook = need.hook;
        if !manifest.hooks.contains(&hook) {
            findings.push(format!("needs: it states needs of {hook}, which is not among its hooks"));
            continue;
        }
        if need.arguments != Payload::None && !has_arguments(hook) {
            findings.push(format!("needs: {hook} has no arguments to be shown"));
        }
        if need.output != Payload::None && !matches!(hook, Hook::ToolResult | Hook::ItemResult) {
            findings.push(format!("needs: {hook} has no output to be shown"));
        }
        if need.texts && !has_tools(hook) {
            findings.push(format!("needs: {hook} has no tools whose texts could be shown"));
        }
        if !need.ext.is_empty() {
            findings.push(format!("needs: {hook} asks for {}; there are no such facts yet", need.ext.join(", ")));
        }
    }
    findings
}

fn has_arguments(hook: Hook) -> bool {
    matches!(hook, Hook::ToolCall | Hook::ItemAccess | Hook::ServerRequest)
}

fn has_tools(hook: Hook) -> bool {
    matches!(hook, Hook::ListTools | Hook::ToolCall | Hook::ToolResult)
}

fn can_mutate(hook: Hook) -> bool {
    matches!(hook, Hook::ToolCall | Hook::ListTools | Hook::ToolResult | Hook::ItemResult | Hook::Client)
}
