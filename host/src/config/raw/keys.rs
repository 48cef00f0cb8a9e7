//! `[keys.NAME]`: what the file says of virtual keys.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, Moment, Setting};

/// A virtual key.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Key {
    /// Reference to the key itself, `env:NAME` or `file:PATH`: `pk_` and at least 32 characters. Either this or
    /// `sha256`.
    #[schemars(extend("pattern" = "^(env|file):.+$"))]
    pub secret: Setting<String>,
    /// SHA-256 of the whole key text, in hex. Either this or `secret`.
    #[schemars(extend("pattern" = "^[0-9a-fA-F]{64}$"))]
    pub sha256: Setting<String>,
    /// What the key may use. No entry means nothing.
    pub allow: Vec<At<Allow>>,
    /// Scopes of the key's caller, for policies to read.
    pub scopes: Vec<At<String>>,
    /// Groups of the key's caller, for policies to read and to be bound by.
    pub groups: Vec<At<String>>,
    /// Login of the person whose key it is. Whoever has that login may use what the key may use, as themselves.
    pub owner: Setting<String>,
    /// When the key ends (RFC 3339). Without it, never.
    pub expires: Setting<Moment>,
    /// Whether the key is refused for now.
    #[schemars(extend("default" = false))]
    pub disabled: Setting<bool>,
}

/// One line of a virtual key's allow-list.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["upstream", "tools"]))]
pub struct Allow {
    /// An upstream's name; `*` stands for any run of characters.
    pub upstream: Setting<String>,
    /// The upstream's own names of tools; `*` stands for any run of characters.
    pub tools: Setting<Vec<At<String>>>,
}
