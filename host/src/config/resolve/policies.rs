//! `[policy]` and `[[policies]]`: which policies apply, to what, and with which limits.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::{Checks, Declared, is_path, not_a_path, pattern};
use crate::builtin;
use crate::config::mistake::{Checked, Fault, did_you_mean};
use crate::config::raw::{self, At, Setting, defaults};
use crate::config::{Binding, ModuleSource, PolicySettings, WhenAllAbstain, reference, value};
use crate::glob::Glob;
use crate::ids::BindingName;
use crate::secret::hex;

/// Most modules kept ready; each takes room in the instance pool.
const MOST_COMPONENTS: i64 = 1_024;

/// Longest run of one hook. A call waits for it.
const LONGEST_TIME: Duration = Duration::from_secs(1);

/// Least memory of an instance, a single page of WebAssembly, and most, in bytes.
const MEMORY: std::ops::RangeInclusive<usize> = 64 * 1024..=256 * 1024 * 1024;

pub(super) fn resolve(
    checks: &mut Checks<'_>,
    raw: &raw::Policy,
    bindings: &[At<raw::Binding>],
    declared: &Declared<'_>,
) -> PolicySettings {
    let when_all_abstain = match raw.when_all_abstain.value() {
        None | Some(raw::WhenAllAbstain::Deny) => WhenAllAbstain::Deny,
        Some(raw::WhenAllAbstain::Allow) => WhenAllAbstain::Allow,
    };
    let max_components = &raw.max_components;
    let components = 1..=MOST_COMPONENTS;
    PolicySettings {
        when_all_abstain,
        max_components: checks.count("max_components", max_components, defaults::MAX_COMPONENTS, components),
        bindings: in_order(checks, bindings, declared),
    }
}

/// The bindings in the order in which they are asked.
fn in_order(checks: &mut Checks<'_>, raw: &[At<raw::Binding>], declared: &Declared<'_>) -> Vec<Binding> {
    let mut names = BTreeSet::new();
    for name in raw.iter().filter_map(|at| at.value().name.get()) {
        if !names.insert(name.value().as_str()) {
            checks.mistake(name.place(), Fault::new(format!("there is another policy named {:?}", name.value())));
        }
    }
    let numbered = raw.iter().enumerate();
    let mut bindings: Vec<Binding> = numbered.filter_map(|(index, at)| one(checks, index, at, declared)).collect();
    // Stable: those of one priority stay as the file has them.
    bindings.sort_by_key(|binding| binding.priority);
    bindings
}

fn one(checks: &mut Checks<'_>, index: usize, at: &At<raw::Binding>, declared: &Declared<'_>) -> Option<Binding> {
    let raw = at.value();
    let path = format!("policies.{index}");
    let name = required(checks, &path, at.place(), "name", &raw.name);
    let name = name.and_then(|name| {
        let checked = BindingName::parse(name.value()).map_err(|error| Fault::new(error.to_string()));
        checked.map_err(|fault| checks.mistake(name.place(), fault)).ok()
    });
    let module = required(checks, &path, at.place(), "module", &raw.module);
    let module = module.and_then(|module| {
        let checked = module_source(checks, module.value());
        checks.accept("module", module.place(), checked)
    });
    let digest = checks.setting("digest", &raw.digest, |text| sha256_digest(text));
    let config = checks.setting("config", &raw.config, json_object);
    let (upstreams, tools) = matches(checks, &raw.matches, declared);
    let bounds = i64::from(i32::MIN)..=i64::from(i32::MAX);
    let priority = checks.count("priority", &raw.priority, defaults::PRIORITY, bounds);
    let (time, memory_bytes) = limits(checks, &raw.limits);
    Some(Binding {
        name: name?,
        module: module?,
        digest,
        config: config.unwrap_or_else(|| serde_json::Value::Object(serde_json::Map::new())),
        upstreams,
        tools,
        priority,
        allow_rewrite: raw.allow_rewrite.value().copied().unwrap_or(false),
        time,
        memory_bytes,
    })
}

fn required<'a, T>(
    checks: &mut Checks<'_>,
    path: &str,
    place: Range<usize>,
    name: &str,
    setting: &'a Setting<T>,
) -> Option<&'a At<T>> {
    if setting.get().is_none() {
        checks.missing(path, place, Fault::new(format!("a policy needs a {name}")));
    }
    setting.get()
}

fn module_source(checks: &Checks<'_>, text: &str) -> Checked<ModuleSource> {
    if let Some(name) = text.strip_prefix("builtin:") {
        if builtin::module(name).is_some() {
            return Ok(ModuleSource::Builtin(name.to_owned()));
        }
        let fault = Fault::new(format!("names the built-in policy {name:?}, which there is not"));
        return Err(Fault { hint: did_you_mean(name, builtin::names()), ..fault });
    }
    if !is_path(text) {
        return Err(not_a_path());
    }
    let path = checks.in_base_dir(text);
    reference::open(&path).map_err(|fault| fault.of(path.display()))?;
    Ok(ModuleSource::File(path))
}

/// The digest in lower-case hex.
fn sha256_digest(text: &str) -> Checked<String> {
    let wrong = || Fault::new("is not a digest").hint("write \"sha256:\" and 64 hexadecimal digits");
    let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?;
    value::sha256(digits).map(|bytes| hex(&bytes)).map_err(|_| wrong())
}

fn matches(checks: &mut Checks<'_>, raw: &raw::Match, declared: &Declared<'_>) -> (Vec<Glob>, Vec<Glob>) {
    for (name, list) in [("match.upstreams", &raw.upstreams), ("match.tools", &raw.tools)] {
        if let Some(at) = list.get().filter(|at| at.value().is_empty()) {
            let fault = Fault::new(format!("{name} is empty, so that the policy would never be asked"));
            checks.mistake(at.place(), fault.hint("leave it out to match everything"));
        }
    }
    let upstreams = raw
        .upstreams
        .value()
        .map(|list| list.iter().filter_map(|at| checks.upstream_pattern("match.upstreams", at, declared)).collect());
    let tools = raw.tools.value().map(|list| checks.each("an entry of match.tools", list, |tool| pattern(tool)));
    (upstreams.unwrap_or_else(|| vec![Glob::any()]), tools.unwrap_or_else(|| vec![Glob::any()]))
}

fn limits(checks: &mut Checks<'_>, raw: &raw::PolicyLimits) -> (Duration, usize) {
    let time = checks.duration("limits.time", &raw.time, defaults::POLICY_TIME);
    if let Some(at) = raw.time.get().filter(|_| time > LONGEST_TIME) {
        checks.mistake(at.place(), Fault::new("limits.time must be at most 1s"));
    }
    let memory = checks.size("limits.memory", &raw.memory, defaults::POLICY_MEMORY);
    if let Some(at) = raw.memory.get().filter(|_| !MEMORY.contains(&memory)) {
        checks.mistake(at.place(), Fault::new("limits.memory must be from 64KiB to 256MiB"));
    }
    (time, memory)
}

fn json_object(table: &toml::Table) -> Checked<serde_json::Value> {
    table_to_json(table).ok_or_else(|| Fault::new("must not have numbers that are infinite or none"))
}

fn table_to_json(table: &toml::Table) -> Option<serde_json::Value> {
    let members = table.iter().map(|(name, value)| Some((name.clone(), to_json(value)?)));
    members.collect::<Option<_>>().map(serde_json::Value::Object)
}

fn to_json(value: &toml::Value) -> Option<serde_json::Value> {
    Some(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)?.into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Array(items) => serde_json::Value::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        toml::Value::Table(table) => table_to_json(table)?,
    })
}
