//! What a module says of itself, checked. Pure.
//!
//! The manifest decides what a policy is sent and what it may change, so that a wrong one is a load error.

use serde_json::value::RawValue;

use super::contract::manifest;
use super::decision::Hook;
use super::text::{Breaks, without_controls};
use crate::mcp::json;

const MAX_NAME_BYTES: usize = 64;
const MAX_VERSION_BYTES: usize = 64;
const MAX_TITLE_BYTES: usize = 256;
const MAX_LICENSE_BYTES: usize = 128;
const MAX_NEEDED_NAMES: usize = 64;
const MAX_NEEDED_NAME_BYTES: usize = 128;

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
    pub determinism: Determinism,
    /// JSON Schema of the configuration.
    pub config_schema: Box<RawValue>,
    /// A configuration to start from.
    pub sample_config: Box<RawValue>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Determinism {
    Pure,
    TimeDependent,
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

    pub(super) fn mutates(&self, hook: Hook) -> bool {
        self.mutates.contains(&hook)
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
            determinism,
            config_schema,
            sample_config,
        } = info;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_name_byte) {
            return Err("its name is not 1 to 64 characters of a-z, 0-9 and '-'".to_owned());
        }
        if version.len() > MAX_VERSION_BYTES || !is_semantic(&version) {
            return Err("its version is not a semantic version such as 1.2.3".to_owned());
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
        Ok(Self {
            name,
            version,
            title: line("title", title, MAX_TITLE_BYTES)?,
            license: license.map(|license| line("license", license, MAX_LICENSE_BYTES)).transpose()?,
            hooks,
            mutates,
            needs,
            determinism: match determinism {
                manifest::Determinism::Pure => Determinism::Pure,
                manifest::Determinism::TimeDependent => Determinism::TimeDependent,
            },
            config_schema: object("config-schema", config_schema)?,
            sample_config: object("sample-config", sample_config)?,
        })
    }
}

fn hook(hook: manifest::Hook) -> Hook {
    match hook {
        manifest::Hook::ListTools => Hook::ListTools,
        manifest::Hook::ToolCall => Hook::ToolCall,
        manifest::Hook::ToolResult => Hook::ToolResult,
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
    let hook = self::hook(hook);
    Ok(Need { hook, arguments: payload(arguments), output: payload(output), texts, claims, ext })
}

fn distinct(what: &str, hooks: Vec<manifest::Hook>) -> Result<Vec<Hook>, String> {
    let mut seen = Vec::new();
    for hook in hooks.into_iter().map(hook) {
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

/// Whether this is `major.minor.patch`, with or without a suffix. Versions are shown and never compared.
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
            hooks: vec![manifest::Hook::ListTools, manifest::Hook::ToolCall],
            mutates: vec![manifest::Hook::ToolCall],
            needs: vec![],
            determinism: manifest::Determinism::Pure,
            config_schema: "{}".into(),
            sample_config: r#" {"a":1} "#.into(),
        }
    }

    fn need_of(hook: manifest::Hook) -> manifest::Need {
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
        let cases: [(Spoil, &str); 13] = [
            (|info| info.name = String::new(), "its name"),
            (|info| info.name = "Allow".into(), "its name"),
            (|info| info.name = "a".repeat(65), "its name"),
            (|info| info.version = "1.2".into(), "its version"),
            (|info| info.version = "1.2.3-".into(), "its version"),
            (|info| info.version = "1.2.x".into(), "its version"),
            (|info| info.title = "t".repeat(257), "its title"),
            (|info| info.hooks.push(manifest::Hook::ToolCall), "tool-call is twice"),
            (|info| info.mutates.push(manifest::Hook::ToolResult), "it mutates tool-result"),
            (
                |info| info.needs = vec![need_of(manifest::Hook::ToolCall), need_of(manifest::Hook::ToolCall)],
                "it states",
            ),
            (
                |info| {
                    info.needs =
                        vec![manifest::Need { claims: vec!["c".into(); 65], ..need_of(manifest::Hook::ToolCall) }];
                },
                "it needs",
            ),
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
