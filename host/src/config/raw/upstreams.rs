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
    /// Names of headers of a caller's own request that are passed on with it. They are what the caller says, and proof of
    /// nothing. For `streamable-http` only.
    #[schemars(length(max = 16))]
    pub allowed_extra_headers: Setting<Vec<At<String>>>,
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
    /// Whether every virtual key may use the server, whatever its allow-list says. Policies are asked all the same.
    #[schemars(extend("default" = false))]
    pub allow_on_all_keys: Setting<bool>,
    /// What the server is shown as a credential besides `headers` and `environment`, and whose that is.
    pub auth: UpstreamAuth,
    /// How the server proves who it is, and the gateway to the server. For `https` addresses only.
    pub tls: Setting<UpstreamTls>,
}

/// What an upstream is shown as a credential, and whose that is.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct UpstreamAuth {
    /// Where the credential comes from.
    #[schemars(extend("default" = "none"))]
    pub kind: Setting<UpstreamAuthKind>,
    /// The issuer identifier of its authorization server. For `shared-oauth`, `per-user-oauth` and `token-exchange` only;
    /// without it, the one that the server names, but for `token-exchange`, which needs it.
    #[schemars(extend("pattern" = "^https?://[^?#@]+$"))]
    pub issuer: Setting<String>,
    /// What this gateway is called at the authorization server. For `shared-oauth`, `per-user-oauth` and `token-exchange`
    /// only; without it, the gateway registers itself, but for `token-exchange`, which needs it.
    pub client_id: Setting<String>,
    /// Reference to the gateway's secret at the authorization server, `env:NAME` or `file:PATH`. Without it, the gateway
    /// is a public client, but for `token-exchange`, which needs it.
    #[schemars(extend("pattern" = "^(env|file):.+$"))]
    pub client_secret: Setting<String>,
    /// Scopes to ask for. For `shared-oauth`, `per-user-oauth` and `token-exchange` only; without them, those that the
    /// server asks for, or with `token-exchange` none.
    pub scopes: Setting<Vec<At<String>>>,
    /// Names of the headers that each person gives values for. For `per-user-headers` only.
    #[schemars(length(min = 1))]
    pub headers: Setting<Vec<At<String>>>,
    /// Names of the environment variables that each person gives values for. For `per-user-environment` only.
    #[schemars(length(min = 1))]
    pub environment: Setting<Vec<At<String>>>,
    /// Processes of the program at once: there is one for each person. For `per-user-environment` only.
    #[schemars(range(min = 1, max = 1024), extend("default" = defaults::MAX_PROGRAMS))]
    pub max_programs: Setting<i64>,
    /// The parameter `audience` of an exchange. For `token-exchange` only; without it, there is none.
    pub audience: Setting<String>,
    /// The parameter `resource` of an exchange, a URL. For `token-exchange` only; without it, what the server says of itself.
    #[schemars(extend("pattern" = "^https?://[^#]+$"))]
    pub resource: Setting<String>,
    /// What the gateway calls a person there. For `token-exchange` only.
    #[schemars(extend("default" = "id"))]
    pub subject: Setting<SubjectOf>,
    /// What the gateway says of a person there besides. For `token-exchange` only.
    pub claims: Setting<Vec<At<VouchedClaim>>>,
}

/// What the gateway calls a person at the authorization server of an upstream.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SubjectOf {
    /// The id of their account here.
    Id,
    /// What they sign in with.
    Login,
    /// Their verified address.
    Email,
    /// As that server itself knows them, if they sign in here with it.
    Provider,
}

/// What the gateway says of a person at the authorization server of an upstream.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VouchedClaim {
    /// `preferred_username`
    Login,
    /// `name`
    Name,
    /// `email`, and `email_verified`
    Email,
    /// `groups`
    Groups,
}

/// Where the credential of an upstream comes from.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamAuthKind {
    /// There is none but what `headers` and `environment` have.
    None,
    /// The same, said by those who mean it: `headers` have it.
    StaticHeaders,
    /// One connection that an operator makes, for everybody.
    #[serde(rename = "shared-oauth")]
    SharedOAuth,
    /// Each principal's own connection to the authorization server.
    #[serde(rename = "per-user-oauth")]
    PerUserOAuth,
    /// Header values of each principal's own.
    PerUserHeaders,
    /// Values of each principal's own for the environment of a program.
    PerUserEnvironment,
    /// Tokens that an authorization server gives for people whom the gateway vouches for (RFC 8693).
    TokenExchange,
}

/// How an upstream proves who it is, and the gateway to the upstream.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct UpstreamTls {
    /// PEM file of the certificate authorities that the server's certificate may be of, in place of those that the
    /// operating system trusts.
    pub ca_file: Setting<String>,
    /// PEM file of the certificate that the gateway shows to the server, with those that lead to its authority.
    pub client_certificate: Setting<String>,
    /// Reference to the private key of `client_certificate` in PEM, `env:NAME` or `file:PATH`.
    #[schemars(extend("pattern" = "^(env|file):.+$"))]
    pub client_key: Setting<String>,
    /// Whether any certificate is taken, so that whoever stands in between reads and changes everything. Needs
    /// `insecure_confirmed`.
    #[schemars(extend("default" = false))]
    pub insecure: Setting<bool>,
    /// Confirms `insecure = true`.
    #[schemars(extend("default" = false))]
    pub insecure_confirmed: Setting<bool>,
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
