//! `[keys.NAME]`: virtual keys that the file declares.

use std::collections::{BTreeMap, HashMap};

use super::{Checks, Declared, pattern};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw::{self, At, NameOfKey};
use crate::config::reference::Reference;
use crate::config::value;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, KEY_PREFIX, ManagedBy, Standing, VirtualKey};
use crate::identity::user::Login;
use crate::ids::KeyName;
use crate::secret::{Digest, Plaintext};

/// Least characters of a key after its prefix: fewer could be guessed.
const LEAST_RANDOM: usize = 32;

pub(super) fn resolve(
    checks: &mut Checks<'_>,
    raw: &BTreeMap<NameOfKey, raw::Key>,
    declared: &Declared<'_>,
) -> Vec<VirtualKey> {
    let mut keys: Vec<VirtualKey> = Vec::new();
    let mut owners: HashMap<[u8; 32], &str> = HashMap::new();
    for (name, key) in raw {
        let Some(key) = one(checks, name, key, declared) else { continue };
        if let Some(other) = owners.insert(*key.digest.as_bytes(), name.as_str()) {
            let fault = Fault::new(format!("keys {other} and {} have the same secret", name.as_str()));
            checks.mistake(name.place(), fault);
        }
        keys.push(key);
    }
    keys
}

/// The first of these, as one beside the file: upstreams come and go without it.
pub(super) fn stored(checks: &mut Checks<'_>, raw: &BTreeMap<NameOfKey, raw::Key>) -> Option<VirtualKey> {
    let (name, key) = raw.first_key_value()?;
    one(checks, name, key, &Declared::unknown())
}

fn one(checks: &mut Checks<'_>, name: &NameOfKey, raw: &raw::Key, declared: &Declared<'_>) -> Option<VirtualKey> {
    let checked = KeyName::parse(name.as_str()).map_err(|error| Fault::new(error.to_string()));
    let checked = checked.map_err(|fault| checks.mistake(name.place(), fault)).ok();
    let digest = digest(checks, name, raw);
    let allow = allow_list(checks, &format!("keys.{}.allow", name.as_str()), &raw.allow, declared);
    let scopes = tokens(checks, "scopes", &raw.scopes);
    let groups = tokens(checks, "groups", &raw.groups);
    let owner = checks.setting("owner", &raw.owner, |login| {
        Login::parse(login).ok_or_else(|| Fault::new("is no login: those are printable ASCII without spaces"))
    });
    let expires = checks.setting("expires", &raw.expires, |moment| value::moment(&moment.0));
    let is_disabled = raw.disabled.value().copied().unwrap_or(false);
    Some(VirtualKey {
        name: checked?,
        digest: digest?,
        earlier: None,
        allow,
        scopes,
        groups,
        owner,
        created: checks.now,
        expires,
        standing: if is_disabled { Standing::Disabled } else { Standing::Enabled },
        managed_by: ManagedBy::File,
        revision: 0,
    })
}

/// The allow-list at `path`.
pub(super) fn allow_list(
    checks: &mut Checks<'_>,
    path: &str,
    raw: &[At<raw::Allow>],
    declared: &Declared<'_>,
) -> AllowList {
    let entries = raw.iter().enumerate();
    AllowList(entries.filter_map(|(index, at)| entry(checks, &format!("{path}.{index}"), at, declared)).collect())
}

pub(super) fn tokens(checks: &mut Checks<'_>, name: &str, raw: &[At<String>]) -> TokenList {
    let list = TokenList::parse(raw.iter().map(|token| token.value().clone()).collect());
    list.unwrap_or_else(|(position, error)| {
        let fault = Fault::new(error.to_string()).of(format_args!("an entry of {name}"));
        checks.mistake(raw[position].place(), fault);
        TokenList::default()
    })
}

fn digest(checks: &mut Checks<'_>, name: &NameOfKey, raw: &raw::Key) -> Option<Digest> {
    match (raw.secret.get(), raw.sha256.get()) {
        (Some(secret), None) => {
            let checked = secret_digest(checks, secret.value());
            checks.accept("secret", secret.place(), checked)
        }
        (None, Some(hex)) => checks.accept("sha256", hex.place(), value::sha256(hex.value())).map(Digest::from_bytes),
        (Some(_), Some(hex)) => {
            checks.mistake(hex.place(), Fault::new(format!("key {} has both secret and sha256", name.as_str())));
            None
        }
        (None, None) => {
            let fault = Fault::new(format!("key {} needs a secret", name.as_str()));
            let hint = "write secret = \"env:NAME\" or secret = \"file:PATH\", or sha256 with its digest";
            checks.missing(&format!("keys.{}", name.as_str()), name.place(), fault.hint(hint));
            None
        }
    }
}

fn secret_digest(checks: &Checks<'_>, text: &str) -> Checked<Digest> {
    let reference = Reference::parse(text).ok_or_else(|| {
        let hint = "keep the key out of this file and write \"env:NAME\" or \"file:PATH\", or sha256 with its digest";
        Fault::new("must be a reference").hint(hint)
    })?;
    let secret = checks.secrets.fetch(reference)?;
    if is_strong(&secret) {
        return Ok(secret.digest());
    }
    let message = format!("must lead to {KEY_PREFIX} and at least {LEAST_RANDOM} of A-Z a-z 0-9 - . _ ~ + / =");
    Err(Fault::new(message).hint("`portcullis key create` makes good ones"))
}

/// Whether the key has its prefix and could travel as a bearer token (RFC 6750 §2.1).
fn is_strong(secret: &Plaintext) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let random = secret.expose().strip_prefix(KEY_PREFIX);
    random.is_some_and(|random| random.len() >= LEAST_RANDOM && random.bytes().all(is_token))
}

fn entry(checks: &mut Checks<'_>, path: &str, at: &At<raw::Allow>, declared: &Declared<'_>) -> Option<AllowEntry> {
    let raw = at.value();
    if raw.upstream.get().is_none() || raw.tools.get().is_none() {
        let fault = Fault::new("an allow entry needs upstream and tools");
        checks.missing(path, at.place(), fault.hint("write it like { upstream = \"notes\", tools = [\"*\"] }"));
    }
    let upstream = raw.upstream.get().and_then(|upstream| checks.upstream_pattern("upstream", upstream, declared));
    let tools = raw.tools.value().map_or(Vec::new(), |tools| tool_patterns(checks, tools));
    Some(AllowEntry { upstream: upstream?, tools })
}

fn tool_patterns(checks: &mut Checks<'_>, tools: &[At<String>]) -> Vec<Glob> {
    checks.each("an entry of tools", tools, |tool| pattern(tool))
}
