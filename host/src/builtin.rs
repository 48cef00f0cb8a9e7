//! The default policies that come with the binary. They are ordinary modules, built from `policies/` with the public
//! SDK; `policies/prebuilt/digests.txt` says which bytes these are.

/// The module of a default policy.
pub fn module(name: &str) -> Option<&'static [u8]> {
    MODULES.iter().find(|(known, _)| *known == name).map(|(_, module)| *module)
}

/// Their names, written `builtin:NAME` in a configuration.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    MODULES.iter().map(|(name, _)| *name)
}

/// Names and modules of the default policies.
pub const MODULES: &[(&str, &[u8])] = &[
    ("allow-tools", include_bytes!("../../policies/prebuilt/allow-tools.wasm")),
    ("read-only", include_bytes!("../../policies/prebuilt/read-only.wasm")),
    ("redact", include_bytes!("../../policies/prebuilt/redact.wasm")),
    ("template", include_bytes!("../../policies/prebuilt/template.wasm")),
];
