//! `[vault]` and `[[vault.keys]]`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Checks, Fault, is_path, not_a_path};
use crate::config::mistake::Checked;
use crate::config::raw::{self, At, Setting, VaultKeySource as Kind, defaults};
use crate::config::reference::Reference;
use crate::config::vault::{Vault, VaultKey, VaultKeySource, VaultKeyState};
use crate::ids::KekId;
use crate::secret::Plaintext;

/// Name of the default key's file in `data_dir`.
const KEY_FILE: &str = "vault.key";
/// Name of the default key.
const DEFAULT_KID: &str = "file";
/// Most keys in the ring.
const MOST_KEYS: usize = 32;
/// Where systemd tells a service in which directory its credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The settings of a key beside `kid`, `source` and `state`.
const SETTINGS: [&str; 10] =
    ["path", "credential", "variable", "url", "mount", "key", "token", "namespace", "module", "pin"];

pub(super) fn resolve(checks: &mut Checks<'_>, raw: &raw::Vault, data_dir: &Path) -> Vault {
    let cache_ttl = checks.duration_or_zero("vault.cache_ttl", &raw.cache_ttl, defaults::VAULT_CACHE_TTL);
    if let Some(over) = raw.keys.get(MOST_KEYS) {
        checks.mistake(over.place(), Fault::new(format!("there are more than {MOST_KEYS} keys")));
    }
    let mut keys: Vec<VaultKey> = Vec::new();
    let mut kids = BTreeSet::new();
    for (index, at) in raw.keys.iter().enumerate() {
        let Some(key) = one(checks, index, at) else { continue };
        if !kids.insert(key.kid.clone()) {
            checks.mistake(at.place(), Fault::new(format!("another key of the vault is called {}", key.kid)));
        }
        keys.push(key);
    }
    let is_complete = keys.len() == raw.keys.len();
    if let Some(last) = raw.keys.last()
        && is_complete
        && keys.iter().all(|key| key.state != VaultKeyState::Active)
    {
        let fault = Fault::new("no key of the vault is active, so that nothing could be encrypted");
        checks.mistake(last.place(), fault.hint("write state = \"active\" for one of them"));
    }
    let is_default = raw.keys.is_empty();
    if is_default {
        let kid = KekId::parse(DEFAULT_KID).expect("the default key id is one");
        let source = VaultKeySource::File(data_dir.join(KEY_FILE));
        keys.push(VaultKey { kid, state: VaultKeyState::Active, source });
    }
    let allow_core_dumps = raw.allow_core_dumps.value().copied().unwrap_or(false);
    Vault { keys, is_default, cache_ttl, allow_core_dumps }
}

fn one(checks: &mut Checks<'_>, index: usize, at: &At<raw::VaultKey>) -> Option<VaultKey> {
    let raw = at.value();
    let path = format!("vault.keys.{index}");
    if raw.kid.get().is_none() || raw.source.get().is_none() {
        checks.missing(&path, at.place(), Fault::new("a key of the vault needs kid and source"));
    }
    let kid = checks.setting("kid", &raw.kid, |kid| KekId::parse(kid).map_err(|error| Fault::new(error.to_string())));
    let state = match raw.state.value() {
        None | Some(raw::VaultKeyState::Active) => VaultKeyState::Active,
        Some(raw::VaultKeyState::DecryptOnly) => VaultKeyState::DecryptOnly,
        Some(raw::VaultKeyState::Retired) => VaultKeyState::Retired,
    };
    let kind = *raw.source.value()?;
    let mut one = One { checks, raw, path, place: at.place() };
    one.refuse_strangers(kind);
    // Nothing is asked of a retired key, and its secret may be gone.
    let source = if state == VaultKeyState::Retired { Some(VaultKeySource::None) } else { one.source(kind) };
    Some(VaultKey { kid: kid?, state, source: source? })
}

/// A key while it is read.
struct One<'a, 'c> {
    checks: &'a mut Checks<'c>,
    raw: &'a raw::VaultKey,
    /// Where it is in the file, in words and in bytes.
    path: String,
    place: Range<usize>,
}

impl One<'_, '_> {
    fn source(&mut self, kind: Kind) -> Option<VaultKeySource> {
        let raw = self.raw;
        match kind {
            Kind::File => Some(VaultKeySource::File(self.file("path", &raw.path)?)),
            Kind::Age => Some(VaultKeySource::Age(self.file("path", &raw.path)?)),
            Kind::Credential => self.credential(),
            Kind::Env => {
                let at = self.wanted("variable", &raw.variable)?;
                let key = self.fetched("variable", at.place(), &format!("env:{}", at.value()))?;
                Some(VaultKeySource::Environment { variable: at.value().clone(), key })
            }
            Kind::Transit => self.transit(),
            Kind::Pkcs11 => {
                let module = self.file("module", &raw.module);
                let token = self.wanted("token", &raw.token).map(At::value).cloned();
                let key = self.wanted("key", &raw.key).map(At::value).cloned();
                let pin = self.wanted("pin", &raw.pin);
                let pin = pin.and_then(|pin| self.fetched("pin", pin.place(), pin.value()));
                Some(VaultKeySource::Pkcs11 { module: module?, token: token?, key: key?, pin: pin? })
            }
        }
    }

    fn credential(&mut self) -> Option<VaultKeySource> {
        let at = self.wanted("credential", &self.raw.credential)?;
        let name = at.value();
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            self.checks.mistake(at.place(), Fault::new("credential is not the name of a credential"));
            return None;
        }
        match (self.checks.secrets.environment)(CREDENTIALS) {
            Some(dir) if !dir.is_empty() => Some(VaultKeySource::Credential(Path::new(&dir).join(name))),
            _ => {
                let fault = Fault::new(format!("{CREDENTIALS} is not set, so that there are no credentials"));
                let hint = "start the gateway as a systemd service with LoadCredentialEncrypted= or LoadCredential=";
                self.checks.mistake(at.place(), fault.hint(hint));
                None
            }
        }
    }

    fn transit(&mut self) -> Option<VaultKeySource> {
        let raw = self.raw;
        let url = self.wanted("url", &raw.url);
        let url = url.and_then(|url| self.checks.accept("url", url.place(), server(url.value())));
        let key = self.wanted("key", &raw.key);
        let key = key.and_then(|key| self.checks.accept("key", key.place(), segments(key.value(), 1)));
        let mount = self.checks.setting("mount", &raw.mount, |mount| segments(mount, 8));
        let token = self.wanted("token", &raw.token);
        let token_file = token.and_then(|token| match Reference::parse(token.value())? {
            Reference::File(path) => Some(self.checks.in_base_dir(path)),
            Reference::Environment(_) | Reference::Sealed(_) => None,
        });
        let token = token.and_then(|token| self.fetched("token", token.place(), token.value()));
        let mount = match raw.mount.get() {
            None => defaults::VAULT_MOUNT.to_owned(),
            Some(_) => mount?,
        };
        let namespace = raw.namespace.value().cloned();
        Some(VaultKeySource::Transit { url: url?, mount, key: key?, token: token?, token_file, namespace })
    }

    /// A setting that this kind of source cannot do without.
    fn wanted<'s>(&mut self, name: &str, setting: &'s Setting<String>) -> Option<&'s At<String>> {
        if setting.get().is_none() {
            let fault = Fault::new(format!("this key of the vault needs {name}"));
            self.checks.missing(&self.path, self.place.clone(), fault);
        }
        setting.get()
    }

    fn file(&mut self, name: &str, setting: &Setting<String>) -> Option<PathBuf> {
        let at = self.wanted(name, setting)?;
        if !is_path(at.value()) {
            self.checks.mistake(at.place(), not_a_path().of(name));
            return None;
        }
        Some(self.checks.in_base_dir(at.value()))
    }

    /// The secret that a setting refers to.
    fn fetched(&mut self, name: &str, place: Range<usize>, text: &str) -> Option<Plaintext> {
        let fetched = match Reference::parse(text) {
            Some(reference) => self.checks.secrets.fetch(reference),
            None => Err(Fault::new("must be a reference").hint("write \"env:NAME\" or \"file:PATH\"")),
        };
        self.checks.accept(name, place, fetched)
    }

    /// Settings that belong to another kind of source.
    fn refuse_strangers(&mut self, kind: Kind) {
        let (word, own): (&str, &[&str]) = match kind {
            Kind::File => ("file", &["path"]),
            Kind::Age => ("age", &["path"]),
            Kind::Credential => ("credential", &["credential"]),
            Kind::Env => ("env", &["variable"]),
            Kind::Transit => ("transit", &["url", "mount", "key", "token", "namespace"]),
            Kind::Pkcs11 => ("pkcs11", &["module", "token", "key", "pin"]),
        };
        let raw::VaultKey { path, credential, variable, url, mount, key, token, namespace, module, pin, .. } = self.raw;
        let settings = [path, credential, variable, url, mount, key, token, namespace, module, pin];
        for (name, at) in SETTINGS.iter().zip(settings).filter_map(|(name, setting)| Some((name, setting.get()?))) {
            if !own.contains(name) {
                let fault = Fault::new(format!("{name} is not a setting of a key whose source is \"{word}\""));
                self.checks.mistake(at.place(), fault);
            }
        }
    }
}

/// The base URL of a server. Without TLS only where nothing leaves the machine: keys pass on it.
fn server(text: &str) -> Checked<http::Uri> {
    let fault = || Fault::new("is not an http or https URL");
    let url: http::Uri = text.parse().map_err(|_| fault())?;
    let host = url.host().ok_or_else(fault)?;
    let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    match url.scheme_str() {
        Some("https") => {}
        Some("http") if is_local => {}
        Some("http") => return Err(Fault::new("must be an https URL: data keys would pass in the clear")),
        _ => return Err(fault()),
    }
    let is_plain = url.query().is_none() && !url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if is_plain { Ok(url) } else { Err(Fault::new("must have neither a query nor user information")) }
}

/// At most `most` segments of a path that need no escaping.
fn segments(text: &str, most: usize) -> Checked<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_segment = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain);
    if text.split('/').count() <= most && text.split('/').all(is_segment) {
        return Ok(text.to_owned());
    }
    Err(Fault::new("must be letters, digits, '-', '_' and '.'"))
}
