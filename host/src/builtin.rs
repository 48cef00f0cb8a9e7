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

macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        /// Names and modules of the default policies.
        pub const MODULES: &[(&str, &[u8])] =
            &[$(($name, include_bytes!(concat!("../../policies/prebuilt/", $name, ".wasm")))),*];
    };
}

modules! {
    "allow-tools",
    "cel",
    "confirm-destructive",
    "consent-rules",
    "guard-arguments",
    "pin-tools",
    "rate-limit",
    "read-only",
    "redact",
    "rego",
    "template",
}
