//! Whose signatures of modules count.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Checks;
use crate::config::mistake::{Checked, Fault};
use crate::config::policy::{Signatures, TrustedKey};
use crate::config::raw::{self, At};

/// Most trusted keys.
const MOST_KEYS: usize = 32;

/// Longest name of a key, in characters.
const LONGEST_NAME: usize = 64;

pub(super) fn resolve(checks: &mut Checks<'_>, raw: &raw::Policy) -> (Signatures, Vec<TrustedKey>) {
    let signatures = match raw.signatures.value() {
        None | Some(raw::Signatures::Off) => Signatures::Off,
        Some(raw::Signatures::Any) => Signatures::Any,
        Some(raw::Signatures::All) => Signatures::All,
    };
    if let Some(over) = raw.trusted_keys.get(MOST_KEYS) {
        checks.mistake(over.place(), Fault::new(format!("there are more than {MOST_KEYS} trusted keys")));
    }
    let mut keys: Vec<TrustedKey> = Vec::new();
    for (index, at) in raw.trusted_keys.iter().enumerate() {
        let Some(key) = one(checks, index, at) else { continue };
        if let Some(other) = keys.iter().find(|other| other.key == key.key || other.name == key.name) {
            let same = if other.key == key.key { "key" } else { "name" };
            checks.mistake(at.place(), Fault::new(format!("another trusted key has the same {same}")));
        }
        keys.push(key);
    }
    if let Some(at) = raw.signatures.get().filter(|_| signatures != Signatures::Off && raw.trusted_keys.is_empty()) {
        let message = format!("signatures is \"{}\", and no key is trusted", signatures.as_str());
        let hint = "write trusted_keys = [\"ed25519:…\"] with what `portcullis policy keygen` prints";
        checks.missing("policy", at.place(), Fault::new(message).hint(hint));
    }
    (signatures, keys)
}

fn one(checks: &mut Checks<'_>, index: usize, at: &At<raw::TrustedKey>) -> Option<TrustedKey> {
    match at.value() {
        raw::TrustedKey::Plain(text) => {
            let key = accept(checks, at.place(), text)?;
            Some(TrustedKey { name: text.clone(), key })
        }
        raw::TrustedKey::Named(named) => {
            if named.name.get().is_none() || named.key.get().is_none() {
                let fault = Fault::new("a trusted key needs name and key");
                checks.missing(&format!("policy.trusted_keys.{index}"), at.place(), fault);
            }
            let name = checks.setting("the name of a trusted key", &named.name, |name| key_name(name));
            let key = named.key.get().and_then(|key| accept(checks, key.place(), key.value()));
            Some(TrustedKey { name: name?, key: key? })
        }
    }
}

fn accept(checks: &mut Checks<'_>, place: Range<usize>, text: &str) -> Option<[u8; 32]> {
    checks.accept("a trusted key", place, public_key(text))
}

fn key_name(name: &str) -> Checked<String> {
    let is_good = (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.contains(char::is_control);
    if is_good { Ok(name.to_owned()) } else { Err(Fault::new(format!("must have 1 to {LONGEST_NAME} characters"))) }
}

fn public_key(text: &str) -> Checked<[u8; 32]> {
    let encoded = text.strip_prefix("ed25519:");
    let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        let hint = "write \"ed25519:\" and the base64 of its 32 bytes, as `portcullis policy keygen` prints it";
        Fault::new("is not an Ed25519 public key").hint(hint)
    })
}
