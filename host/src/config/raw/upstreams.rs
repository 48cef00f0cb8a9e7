//! `[upstreams.NAME]`: what the file says of MCP servers behind the gateway.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, Setting, Size, Time, defaults};

/// An MCP server behind the gateway.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Upstream {
    /// How the server is reached. Without it, `streamable-http` where there is a `url` and `stdio` where there is
    /// a `command`.
    pub transport: Setting<Transport>,
    /// The server's MCP endpoint. For `streamable-http` only.
    #[schemars(extend("pattern" = "^https?://[^#]+$"))]
    pub url: Setting<String>,
    /// Which revisions of MCP the server speaks. For `streamable-http` only.
    #[schemars(extend("default" = "auto"))]
    pub protocol: Setting<Protocol>,
    /// Headers sent with each request. For `streamable-http` only. A value is a text, or a reference to a secret:
    /// `env:NAME` or `file:PATH`, where wanted after a scheme, as in `Bearer env:NAME`. Credentials must be
    /// references.
    pub headers: BTreeMap<At<String>, At<String>>,
    /// Program and arguments, started without a shell. For `stdio` only.
    #[schemars(length(min = 1))]
    pub command: Setting<Vec<At<String>>>,
    /// Environment variables of the program, added to a small fixed set. For `stdio` only. A value is a text, or a
    /// reference to a secret: `env:NAME` or `file:PATH`. Credentials must be references.
    pub environment: BTreeMap<At<String>, At<String>>,
    /// Directory that the program starts in. For `stdio` only.
    pub working_dir: Setting<String>,
    /// Longest time until the program answers its first request. For `stdio` only.
    #[schemars(extend("default" = defaults::START_TIMEOUT))]
    pub start_timeout: Setting<Time>,
    /// Address space of each process of the program. Some runtimes reserve far more than they use. For `stdio` only;
    /// without it, as much as the gateway itself may have.
    pub memory_limit: Setting<Size>,
    /// Processes and threads of the user that the program runs as, all of them counted. For `stdio` only; without it, as many
    /// as the gateway itself may have.
    #[schemars(range(min = 1))]
    pub process_limit: Setting<i64>,
    /// Whether callers see the server's tools as `<upstream>__<tool>` or under their own names. One upstream at
    /// most may go without.
    #[schemars(extend("default" = true))]
    pub prefix: Setting<bool>,
    /// Longest call.
    #[schemars(extend("default" = defaults::CALL_TIMEOUT))]
    pub call_timeout: Setting<Time>,
    /// How often the server's tools are read again.
    #[schemars(extend("default" = defaults::SYNC_INTERVAL))]
    pub sync_interval: Setting<Time>,
    /// Your own trust label, for policies to read.
    #[schemars(extend("default" = ""))]
    pub trust: Setting<String>,
    /// Your own labels, for policies to read.
    pub labels: Vec<At<String>>,
}

/// Which revisions of MCP an upstream speaks over HTTP.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// What it turns out to speak.
    Auto,
    /// Those since 2026-07-28, which have no sessions.
    Modern,
    /// Those from 2025-03-26 to 2025-11-25, which begin with `initialize`.
    Legacy,
    /// 2024-11-05 over HTTP with server-sent events; `url` is that of the event stream.
    Sse,
}

/// How an upstream is reached.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// An HTTP endpoint.
    StreamableHttp,
    /// A child process of the gateway.
    Stdio,
}
