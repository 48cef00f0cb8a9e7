//! `[policy]` and `[[policies]]`: which policies apply, to what, and with which limits.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;

use super::matching::{self, word};
use super::{Checks, Declared, is_path, not_a_path, sets, trust};
use crate::builtin;
use crate::config::mistake::{Checked, Fault, did_you_mean};
use crate::config::raw::{self, At, Setting, defaults};
use crate::config::{
    Binding, Grant, Lines, Mode, ModuleSource, PolicySettings, Reuse, WhenAllAbstain, reference, value,
};
use crate::identity::key::ManagedBy;
use crate::ids::BindingName;
use crate::oci::Reference;
use crate::secret::hex;

/// What the name of a policy that comes with the gateway begins with.
const BUILTIN: &str = "builtin:";

/// Most modules kept ready; each takes room in the instance pool.
const MOST_COMPONENTS: i64 = 1_024;

/// Longest run of one hook. A call waits for it.
const LONGEST_TIME: Duration = Duration::from_secs(1);

/// Least memory of an instance, a single page of WebAssembly, and most, in bytes.
const MEMORY: std::ops::RangeInclusive<usize> = 64 * 1024..=256 * 1024 * 1024;

/// Most recorded decisions that are decided again.
const MOST_REPLAYED: i64 = 10_000;

/// Largest file of cases, in bytes.
const LARGEST_CASES: u64 = 4 * 1024 * 1024;

pub(super) fn resolve(
    checks: &mut Checks<'_>,
    file: &raw::File,
    lines: &[Lines],
    declared: &Declared<'_>,
) -> PolicySettings {
    let raw = &file.policy;
    let when_all_abstain = match raw.when_all_abstain.value() {
        None | Some(raw::WhenAllAbstain::Deny) => WhenAllAbstain::Deny,
        Some(raw::WhenAllAbstain::Allow) => WhenAllAbstain::Allow,
    };
    let components = 1..=MOST_COMPONENTS;
    let (signatures, trusted_keys) = trust::resolve(checks, raw);
    PolicySettings {
        when_all_abstain,
        max_components: checks.count("max_components", &raw.max_components, defaults::MAX_COMPONENTS, components),
        record: raw.record.value().copied().unwrap_or(false),
        replay: checks.count("replay", &raw.replay, defaults::REPLAY, 0..=MOST_REPLAYED),
        signatures,
        trusted_keys,
        sets: Arc::new(sets::resolve(checks, &file.sets)),
        bindings: in_order(checks, &file.policies, lines, declared),
    }
}

/// The bindings in the order in which they are asked.
fn in_order(
    checks: &mut Checks<'_>,
    raw: &[At<raw::Binding>],
    lines: &[Lines],
    declared: &Declared<'_>,
) -> Vec<Binding> {
    let mut names = BTreeSet::new();
    for name in raw.iter().filter_map(|at| at.value().name.get()) {
        if !names.insert(name.value().as_str()) {
            checks.mistake(name.place(), Fault::new(format!("there is another policy named {:?}", name.value())));
        }
    }
    let mut bindings = Vec::new();
    for (index, at) in raw.iter().enumerate() {
        let config_lines = lines.get(index).cloned().unwrap_or_default();
        let of_file = one(checks, (index, at), declared, ManagedBy::File);
        bindings.extend(of_file.map(|binding| Binding { config_lines, ..binding }));
    }
    // Stable: those of one priority stay as the file has them.
    bindings.sort_by_key(|binding| binding.priority);
    bindings
}

/// The binding that these have, as one of the store: upstreams come and go without it, and it names no file.
pub(super) fn stored(checks: &mut Checks<'_>, raw: &[At<raw::Binding>]) -> Option<Binding> {
    one(checks, (0, raw.first()?), &Declared::unknown(), ManagedBy::Store)
}

fn one(
    checks: &mut Checks<'_>,
    (index, at): (usize, &At<raw::Binding>),
    declared: &Declared<'_>,
    managed_by: ManagedBy,
) -> Option<Binding> {
    let raw = at.value();
    let path = format!("policies.{index}");
    let name = required(checks, &path, at.place(), "name", &raw.name);
    let name = name.and_then(|name| {
        let checked = BindingName::parse(name.value()).map_err(|error| Fault::new(error.to_string()));
        checked.map_err(|fault| checks.mistake(name.place(), fault)).ok()
    });
    let module = required(checks, &path, at.place(), "module", &raw.module);
    let module = module.and_then(|module| {
        let checked = match managed_by {
            ManagedBy::File => module_source(checks, module.value()),
            ManagedBy::Store => stored_module(module.value()),
        };
        checks.accept("module", module.place(), checked)
    });
    let digest = checks.setting("digest", &raw.digest, |text| sha256_digest(text));
    let config = checks.setting("config", &raw.config, json_object);
    let matches = matching::resolve(checks, &raw.matches, declared);
    let bounds = i64::from(i32::MIN)..=i64::from(i32::MAX);
    let priority = checks.count("priority", &raw.priority, defaults::PRIORITY, bounds);
    let mode = mode(checks, raw);
    let known = Grant::ALL.iter().map(|grant| (grant.as_str(), *grant));
    let grants = checks.each("grants", &raw.grants, |text| word("host interface", text, known.clone()));
    let (time, memory_bytes) = limits(checks, &raw.limits);
    let reuse = reuse(checks, raw);
    let tests = match managed_by {
        ManagedBy::File => cases(checks, &raw.tests),
        ManagedBy::Store => no_cases(checks, &raw.tests),
    };
    Some(Binding {
        digest,
        config: config.unwrap_or_else(|| serde_json::Value::Object(serde_json::Map::new())),
        matches,
        priority,
        mode,
        advisory: raw.advisory.value().copied().unwrap_or(false),
        allow_rewrite: raw.allow_rewrite.value().copied().unwrap_or(false),
        grants,
        time,
        memory_bytes,
        reuse,
        tests,
        managed_by,
        ..Binding::new(name?, module?)
    })
}

fn mode(checks: &mut Checks<'_>, raw: &raw::Binding) -> Mode {
    let mode = match raw.mode.value() {
        None | Some(raw::Mode::Enforce) => Mode::Enforce,
        Some(raw::Mode::Shadow) => Mode::Shadow,
        Some(raw::Mode::Off) => Mode::Off,
    };
    if let Some(at) = raw.advisory.get().filter(|at| *at.value() && mode != Mode::Enforce) {
        let fault = Fault::new(format!("advisory has no meaning with the mode {}", mode.as_str()));
        checks.mistake(at.place(), fault.hint("only the failures of a policy that is enforced refuse anything"));
    }
    mode
}

fn reuse(checks: &mut Checks<'_>, raw: &raw::Binding) -> Reuse {
    let Some(at) = raw.limits.reuse.get() else { return Reuse::Auto };
    match at.value() {
        raw::Reuse::Auto => Reuse::Auto,
        raw::Reuse::Frozen => Reuse::Frozen,
        raw::Reuse::Fresh => Reuse::Fresh,
        raw::Reuse::Warm => {
            if raw.module.value().is_some_and(|module| module.starts_with(BUILTIN)) {
                let fault = Fault::new("limits.reuse must not be \"warm\" for a policy that comes with the gateway");
                checks.mistake(at.place(), fault.hint("it is for large modules, which take long to start"));
            }
            Reuse::Warm
        }
    }
}

/// The path of a file of cases, once it is known to be a list. What the cases say is for the policy to pass.
fn cases(checks: &mut Checks<'_>, setting: &Setting<String>) -> Option<PathBuf> {
    let path = checks.path("tests", setting)?;
    let is_list = |text: &str| match serde_json::from_str::<Vec<IgnoredAny>>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::new(format!("is not a JSON list of cases: {error}"))),
    };
    let read = reference::read_text(&path, LARGEST_CASES).and_then(|text| is_list(&text));
    let read = read.map_err(|fault| fault.of(path.display()));
    let place = setting.get().map_or(0..0, At::place);
    checks.accept("tests:", place, read).map(|()| path)
}

/// Nobody who declares a binding shall have the gateway read its files.
fn no_cases(checks: &mut Checks<'_>, setting: &Setting<String>) -> Option<PathBuf> {
    if let Some(at) = setting.get() {
        checks.mistake(at.place(), Fault::new("tests is a path, which only the configuration file may say"));
    }
    None
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

fn built_in(name: &str) -> Checked<ModuleSource> {
    if builtin::module(name).is_some() {
        return Ok(ModuleSource::Builtin(name.to_owned()));
    }
    let fault = Fault::new(format!("names the built-in policy {name:?}, which there is not"));
    Err(Fault { hint: did_you_mean(name, builtin::names()), ..fault })
}

/// The module of a binding in the store.
fn stored_module(text: &str) -> Checked<ModuleSource> {
    if let Some(name) = text.strip_prefix(BUILTIN) {
        return built_in(name);
    }
    if text.starts_with("sha256:") {
        return sha256_digest(text).map(ModuleSource::Uploaded);
    }
    let fault = Fault::new("is neither a policy that comes with the gateway nor an uploaded one");
    let hint = "write builtin: and its name, or sha256: and the digest of an uploaded module; files and registries are \
                for the configuration file";
    Err(fault.hint(hint))
}

fn module_source(checks: &Checks<'_>, text: &str) -> Checked<ModuleSource> {
    if let Some(name) = text.strip_prefix(BUILTIN) {
        return built_in(name);
    }
    if text.starts_with(Reference::SCHEME) {
        return Reference::parse(text).map(ModuleSource::Oci).map_err(|error| {
            let example = "name the manifest: oci://HOST/REPOSITORY@sha256: and 64 lower-case hexadecimal digits";
            Fault::new(error.to_string()).hint(example)
        });
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
