//! The policy contract as Rust types: one definition for both lanes.
//!
//! The types here are the records of `guest-sdk/wit/policy.wit`. What goes to a guest is generic over its strings, so that a
//! question borrows from the request and a test case or recording owns what it read; what comes back is owned. Each type
//! passes as component values (the typed lane) and as JSON (the dynamic lane, cases, recordings), whose form the contract
//! lays down. Nothing outside `policy` sees these types, and nothing here is trusted: [`super::answer`] turns what a guest
//! answered into the types of [`super::decision`], or refuses it.
//!
//! A test loads a module that exports everything and compares each function with the contract's text.

pub(super) mod authority;
pub(super) mod hook;
pub(super) mod imports;
pub(super) mod items;
pub(super) mod json;
pub(super) mod manifest;
pub(super) mod tools;
pub(super) mod types;

/// The contract's text, for making components of core modules.
pub(super) const WIT: &str = include_str!("../../../../guest-sdk/wit/policy.wit");

/// What every name of the contract begins with.
pub(super) const NAMESPACE: &str = "portcullis:policy/";

/// The version of the contract that this gateway implements.
pub(super) const VERSION: &str = "0.1.0";

/// An interface's full name, such as `portcullis:policy/tool-call@0.1.0`.
pub(super) fn interface(name: &str) -> String {
    format!("{NAMESPACE}{name}@{VERSION}")
}

/// The plain name of an interface of the contract, if `full` names one in a version that this gateway serves.
///
/// Within 0.1 the package only grows, so every patch version is served.
pub(super) fn plain_name(full: &str) -> Option<&str> {
    let (name, version) = full.strip_prefix(NAMESPACE)?.split_once('@')?;
    let patch = version.strip_prefix("0.1.")?;
    (!patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

pub use hook::Hook;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_contract_is_known_in_every_patch_version() {
        for (full, plain) in [
            ("portcullis:policy/log@0.1.0", Some("log")),
            ("portcullis:policy/tool-call@0.1.17", Some("tool-call")),
            ("portcullis:policy/log", None),
            ("portcullis:policy/log@0.2.0", None),
            ("portcullis:policy/log@0.1.", None),
            ("portcullis:policy/log@0.1.0-rc.1", None),
            ("wasi:cli/environment@0.2.6", None),
        ] {
            assert_eq!(plain_name(full), plain, "{full}");
        }
        assert_eq!(plain_name(&interface("types")), Some("types"));
    }
}
