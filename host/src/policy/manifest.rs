//! What a module says of itself, checked. Pure.
//!
//! The manifest decides what a policy is sent and what it may change, so that a wrong one is a load error.

use serde_json::value::RawValue;

use super::contract::hook::Hook;
use super::contract::manifest;
use super::text::{Breaks, without_controls};
use crate::config::Grant;
use crate::mcp::json;

const MAX_NAME_BYTES: usize = 64;
const MAX_VERSION_BYTES: usize = 64;
const MAX_TITLE_BYTES: usize = 256;
const MAX_LICENSE_BYTES: usize = 128;
const MAX_NEEDED_NAMES: usize = 64;
const MAX_NEEDED_NAME_BYTES: usize = 128;
const HOST_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a module is and needs.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    pub title: String,
    pub license: Option<String>,
    /// The hooks that it is called for.
    pub hooks: Vec<Hook>,
    /// The hooks in which it may change what passes.
    pub mutates: Vec<Hook>,
    pub needs: Vec<Need>,
    /// The host interfaces that it wants besides `log`.
    pub capabilities: Vec<Grant>,
    pub determinism: Determinism,
    /// JSON Schema of the configuration.
    pub config_schema: Box<RawValue>,
    /// A configuration to start from.
    pub sample_config: Box<RawValue>,
    /// The oldest version of the gateway that it works with.
    pub min_host: Option<String>,
}

/// What one hook wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub hook: Hook,
    pub arguments: Payload,
    pub output: Payload,
    /// Title, description and input schema of tools.
    pub texts: bool,
    pub claims: Vec<String>,
    pub ext: Vec<String>,
}

/// What a hook is sent, without the names of claims and facts, of which there are none in 0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disclosure {
    pub(super) arguments: Payload,
    pub(super) output: Payload,
    pub(super) texts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Payload {
    None,
    SizeOnly,
    Full,
}

/// Each is less than the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Determinism {
    Pure,
    TimeDependent,
    Stateful,
}

impl Determinism {
    /// The contract's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::TimeDependent => "time-dependent",
            Self::Stateful => "stateful",
        }
    }
}

impl Manifest {
    /// What `hook` is sent; nothing, where the manifest does not say.
    pub(super) fn disclosure(&self, hook: Hook) -> Disclosure {
        match self.needs.iter().find(|need| need.hook == hook) {
            Some(Need { arguments, output, texts, .. }) => {
                Disclosure { arguments: *arguments, output: *output, texts: *texts }
            }
            None => Disclosure { arguments: Payload::None, output: Payload::None, texts: false },
        }
    }

    /// The names of the caller's claims that `hook` is sent; `*` stands for all.
    pub(super) fn claims(&self, hook: Hook) -> &[String] {
        let need = self.needs.iter().find(|need| need.hook == hook);
        need.map_or(&[], |need| &need.claims)
    }

    pub(super) fn mutates(&self, hook: Hook) -> bool {
        self.mutates.contains(&hook)
    }

    /// Whether the same question always gets the same answer, as long as the operator's sets stay the same.
    pub fn is_pure(&self) -> bool {
        self.determinism == Determinism::Pure
    }

    /// What it wants of the host and is not among `grants`: what an operator would have to grant.
    pub fn missing_grants(&self, grants: &[Grant]) -> Vec<Grant> {
        self.capabilities.iter().copied().filter(|wanted| !grants.contains(wanted)).collect()
    }

    /// Checks what `describe` answered. The error says what is wrong with it.
    pub(super) fn check(info: manifest::Info) -> Result<Self, String> {
        let manifest::Info {
            name,
            version,
            title,
            license,
            hooks,
            mutates,
            needs,
            capabilities,
            determinism,
            config_schema,
            sample_config,
            min_host,
        } = info;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_name_byte) {
            return Err("its name is not 1 to 64 characters of a-z, 0-9 and '-'".to_owned());
        }
        for (what, version) in [("version", Some(&version)), ("min-host", min_host.as_ref())] {
            if version.is_some_and(|version| version.len() > MAX_VERSION_BYTES || !is_semantic(version)) {
                return Err(format!("its {what} is not a semantic version such as 1.2.3"));
            }
        }
        let hooks = distinct("hooks", hooks)?;
        let mutates = distinct("mutates", mutates)?;
        if let Some(hook) = mutates.iter().find(|hook| !hooks.contains(hook)) {
            return Err(format!("it mutates {hook}, which is not among its hooks"));
        }
        let needs = needs.into_iter().map(need).collect::<Result<Vec<_>, _>>()?;
        for (position, need) in needs.iter().enumerate() {
            if needs[..position].iter().any(|other| other.hook == need.hook) {
                return Err(format!("it states the needs of {} twice", need.hook));
            }
        }
        let capabilities: Vec<Grant> = capabilities.names().filter_map(grant).collect();
        let determinism = match determinism {
            manifest::Determinism::Pure => Determinism::Pure,
            manifest::Determinism::TimeDependent => Determinism::TimeDependent,
            manifest::Determinism::Stateful => Determinism::Stateful,
        };
        for capability in &capabilities {
            let least = least_determinism(*capability);
            if determinism < least {
                let (capability, least) = (capability.as_str(), least.as_str());
                return Err(format!("it wants {capability}, so that its determinism is {least:?} at least"));
            }
        }
        if let Some(oldest) = min_host.as_deref().filter(|oldest| is_newer(oldest, HOST_VERSION)) {
            return Err(format!("it needs Portcullis {oldest} or later, and this is {HOST_VERSION}"));
        }
        Ok(Self {
            name,
            version,
            title: line("title", title, MAX_TITLE_BYTES)?,
            license: license.map(|license| line("license", license, MAX_LICENSE_BYTES)).transpose()?,
            hooks,
            mutates,
            needs,
            capabilities,
            determinism,
            config_schema: object("config-schema", config_schema)?,
            sample_config: object("sample-config", sample_config)?,
            min_host,
        })
    }
}

/// The capability of that name in the words of the configuration.
fn grant(name: &str) -> Option<Grant> {
    Grant::ALL.iter().copied().find(|grant| grant.as_str() == name)
}

/// What a policy that is given this cannot be below.
const fn least_determinism(capability: Grant) -> Determinism {
    match capability {
        Grant::Sets => Determinism::Pure,
        Grant::Clock => Determinism::TimeDependent,
        Grant::Random | Grant::Counters => Determinism::Stateful,
    }
}

fn payload(payload: manifest::Payload) -> Payload {
    match payload {
        manifest::Payload::None => Payload::None,
        manifest::Payload::SizeOnly => Payload::SizeOnly,
        manifest::Payload::Full => Payload::Full,
    }
}

fn need(need: manifest::Need) -> Result<Need, String> {
    let manifest::Need { hook, arguments, output, texts, claims, ext } = need;
    for names in [&claims, &ext] {
        if names.len() > MAX_NEEDED_NAMES || names.iter().any(|name| name.len() > MAX_NEEDED_NAME_BYTES) {
            return Err("it needs too many claims or further facts".to_owned());
        }
    }
    Ok(Need { hook, arguments: payload(arguments), output: payload(output), texts, claims, ext })
}

fn distinct(what: &str, hooks: Vec<Hook>) -> Result<Vec<Hook>, String> {
    let mut seen = Vec::new();
    for hook in hooks {
        if seen.contains(&hook) {
            return Err(format!("{hook} is twice among its {what}"));
        }
        seen.push(hook);
    }
    Ok(seen)
}

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

/// Whether one semantic version is newer than another. Suffixes do not count.
fn is_newer(version: &str, other: &str) -> bool {
    let numbers = |version: &str| {
        let core = version.split(['-', '+']).next().unwrap_or_default();
        core.split('.').map(|number| number.parse::<u64>().unwrap_or(u64::MAX)).collect::<Vec<_>>()
    };
    numbers(version) > numbers(other)
}

/// Whether this is `major.minor.patch`, with or without a suffix.
fn is_semantic(version: &str) -> bool {
    let (core, suffix) = version.split_at(version.find(['-', '+']).unwrap_or(version.len()));
    let numbers: Vec<&str> = core.split('.').collect();
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
    numbers.len() == 3 && numbers.iter().all(is_number) && suffix.len() != 1 && suffix.bytes().all(allowed)
}

fn line(what: &str, text: String, max_bytes: usize) -> Result<String, String> {
    if text.len() > max_bytes {
        return Err(format!("its {what} is longer than {max_bytes} bytes"));
    }
    Ok(without_controls(text, Breaks::Dropped))
}

fn object(what: &str, text: String) -> Result<Box<RawValue>, String> {
    let wrong = || format!("its {what} is not a JSON object");
    json::check(text.as_bytes()).map_err(|_| wrong())?;
    let raw = RawValue::from_string(text).map_err(|_| wrong())?;
    if raw.get().starts_with('{') { Ok(raw) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> manifest::Info {
        manifest::Info {
            name: "allow-tools".into(),
            version: "1.2.3".into(),
            title: "Allow\u{7} tools".into(),
            license: None,
            hooks: vec![Hook::ListTools, Hook::ToolCall],
            mutates: vec![Hook::ToolCall],
            needs: vec![],
            capabilities: manifest::Capability::default(),
            determinism: manifest::Determinism::Pure,
            config_schema: "{}".into(),
            sample_config: r#" {"a":1} "#.into(),
            min_host: None,
        }
    }

    fn need_of(hook: Hook) -> manifest::Need {
        manifest::Need {
            hook,
            arguments: manifest::Payload::Full,
            output: manifest::Payload::None,
            texts: false,
            claims: vec![],
            ext: vec![],
        }
    }

    #[test]
    fn a_good_manifest_is_taken_over() {
        let manifest = Manifest::check(info()).unwrap();
        assert_eq!(manifest.title, "Allow tools");
        assert_eq!(manifest.hooks, [Hook::ListTools, Hook::ToolCall]);
        assert!(manifest.mutates(Hook::ToolCall) && !manifest.mutates(Hook::ListTools));
        assert_eq!(manifest.disclosure(Hook::ToolCall).arguments, Payload::None, "what is not stated is not sent");
        assert_eq!(manifest.sample_config.get(), r#"{"a":1}"#);
    }

    #[test]
    fn a_wrong_manifest_is_refused() {
        type Spoil = fn(&mut manifest::Info);
        let cases: [(Spoil, &str); 17] = [
            (|info| info.name = String::new(), "its name"),
            (|info| info.name = "Allow".into(), "its name"),
            (|info| info.name = "a".repeat(65), "its name"),
            (|info| info.version = "1.2".into(), "its version"),
            (|info| info.version = "1.2.3-".into(), "its version"),
            (|info| info.version = "1.2.x".into(), "its version"),
            (|info| info.title = "t".repeat(257), "its title"),
            (|info| info.hooks.push(Hook::ToolCall), "tool-call is twice"),
            (|info| info.mutates.push(Hook::ToolResult), "it mutates tool-result"),
            (|info| info.needs = vec![need_of(Hook::ToolCall), need_of(Hook::ToolCall)], "it states"),
            (
                |info| {
                    info.needs = vec![manifest::Need { claims: vec!["c".into(); 65], ..need_of(Hook::ToolCall) }];
                },
                "it needs",
            ),
            (|info| info.capabilities = manifest::Capability::COUNTERS, "it wants counters, so"),
            (|info| info.capabilities = manifest::Capability::CLOCK, "it wants clock, so"),
            (|info| info.min_host = Some("1".into()), "its min-host"),
            (|info| info.min_host = Some("999.0.0".into()), "it needs Portcullis 999.0.0"),
            (|info| info.config_schema = "true".into(), "its config-schema"),
            (|info| info.sample_config = r#"{"a":1,"a":2}"#.into(), "its sample-config"),
        ];
        for (spoil, expected) in cases {
            let mut info = info();
            spoil(&mut info);
            let error = Manifest::check(info).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_is_wanted_and_not_granted_is_missing() {
        let mut info = info();
        info.capabilities = manifest::Capability::COUNTERS | manifest::Capability::SETS;
        info.determinism = manifest::Determinism::Stateful;
        info.min_host = Some("0.0.1-rc.1".into());
        let manifest = Manifest::check(info).unwrap();
        assert_eq!(manifest.capabilities, [Grant::Counters, Grant::Sets]);
        assert_eq!(manifest.missing_grants(&[Grant::Clock, Grant::Sets]), [Grant::Counters]);
        assert!(manifest.missing_grants(Grant::ALL).is_empty());
        assert!(!manifest.is_pure());
        assert_eq!(manifest::Capability::all().names().filter_map(grant).collect::<Vec<_>>(), Grant::ALL);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, other, newer) in [
            ("0.2.0", "0.1.9", true),
            ("0.10.0", "0.9.0", true),
            ("1.0.0", "1.0.0-rc.1", false),
            ("0.1.0", "0.1.0", false),
            ("0.1.0", "0.1.1", false),
        ] {
            assert_eq!(is_newer(version, other), newer, "{version} and {other}");
        }
    }

    #[test]
    fn versions_have_three_numbers() {
        for (version, good) in [
            ("0.1.0", true),
            ("1.0.0-rc.1+5", true),
            ("10.20.30+a", true),
            ("v1.0.0", false),
            ("1.0.0 ", false),
            ("", false),
        ] {
            assert_eq!(is_semantic(version), good, "{version}");
        }
    }
}
