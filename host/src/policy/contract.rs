//! The policy contract as Rust types, generated from `guest-sdk/wit` when this crate is compiled.
//!
//! What goes to a guest borrows from the request, what comes back is owned. Nothing outside `policy` sees these
//! types, and nothing here is trusted: [`super::answer`] turns what a guest answered into the types of
//! [`super::decision`], or refuses it.

// `tool-guard` is the world with every hook. A module exports a subset of it, so the generated world struct,
// which insists on all of them, is not used; functions are looked up one by one in `super::callable`.
wasmtime::component::bindgen!({
    path: "../guest-sdk/wit",
    world: "portcullis:policy/tool-guard",
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub(super) use self::portcullis::policy::{log, types};
pub(super) use exports::portcullis::policy::{configuration, list_tools, manifest, tool_call, tool_result};

/// The contract's text, for making components of core modules.
pub(super) const WIT: &str = include_str!("../../../guest-sdk/wit/policy.wit");

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
