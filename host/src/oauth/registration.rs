//! What a client says of itself when it registers (RFC 7591 §2), and what we answer (§3.2.1).
//!
//! All of it is a stranger's word: it is checked, bounded, and never believed. Members that we do not know are ignored, as
//! §2 asks; of those that we know and cannot give, §3.2.1 lets us register something else, and the answer says what. That is
//! what clients are built for, and most of them ask for more than they need: grant types that another server has, a secret
//! that they could not keep. Refused is what would leave a client that cannot work, and what could be read in two ways.
//!
//! `application_type` (MCP asks clients to send it) has a meaning for OpenID providers, which take a client for a website
//! unless it says otherwise. Here the redirect URIs say which it is, so it is one of the members that are ignored.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::assertion::ClientKeys;
use super::client::{Authentication, Client, GrantType, KeySource, Metadata, Source};
use super::redirect::{InvalidRedirect, RedirectUri};
use crate::identity::TokenList;

/// Largest registration, in bytes (`docs/threat-model.md` row T13).
pub const MAX_BYTES: usize = 16 * 1024;
/// Longest name of a client, in characters (row A12).
pub const MAX_NAME_CHARS: usize = 100;

/// How a client wants to prove who it is. What it proves that with is made, or read, elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    None,
    SecretBasic,
    SecretPost,
    PrivateKey(KeySource),
}

/// A registration that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub metadata: Metadata,
    pub method: Method,
}

/// What the operator allows.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Schemes of applications that may be redirected to, besides those of a domain.
    pub schemes: Vec<String>,
    /// Grant types besides `authorization_code` and `refresh_token`.
    pub grant_types: Vec<GrantType>,
    /// Scopes that exist.
    pub scopes: Vec<String>,
    /// Whether others may not be asked for, or are left out, as §2 allows: strangers name what they know from elsewhere.
    pub is_strict: bool,
    pub secrets: Secrets,
}

/// Who may have a secret that we know as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// Clients all of whose redirect URIs are https and lead to another machine than the person's (`docs/threat-model.md` row
    /// T13). Whoever runs on a person's machine hands its secret to everybody there (RFC 8252 §8.5), and is a public client
    /// here whatever it asks for.
    #[default]
    OverHttps,
    /// Whoever the operator says.
    Anywhere,
    /// Nobody: what describes the client can be read by everybody.
    Never,
}

/// Why a registration is refused (RFC 7591 §3.2.2).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// `invalid_redirect_uri`
    #[error("redirect_uris[{position}]: {reason}")]
    Redirect { position: usize, reason: InvalidRedirect },
    /// `invalid_redirect_uri`
    #[error("redirect_uris: {0}")]
    Redirects(&'static str),
    /// `invalid_client_metadata`
    #[error("{member}: {reason}")]
    Metadata { member: &'static str, reason: String },
}

impl Unacceptable {
    /// The error code of RFC 7591 §3.2.2.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Redirect { .. } | Self::Redirects(_) => "invalid_redirect_uri",
            Self::Metadata { .. } => "invalid_client_metadata",
        }
    }
}

/// As it comes. Each member is of its type, or null, or the whole is refused.
#[derive(Deserialize)]
struct Raw {
    redirect_uris: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    client_name: Option<String>,
    client_uri: Option<String>,
    logo_uri: Option<String>,
    tos_uri: Option<String>,
    policy_uri: Option<String>,
    scope: Option<String>,
    contacts: Option<Vec<String>>,
    jwks_uri: Option<String>,
    jwks: Option<Value>,
    software_id: Option<String>,
    software_version: Option<String>,
    dpop_bound_access_tokens: Option<bool>,
}

fn metadata(member: &'static str, reason: impl Into<String>) -> Unacceptable {
    Unacceptable::Metadata { member, reason: reason.into() }
}

impl GrantType {
    /// Every one that there is.
    pub const ALL: [Self; 6] = [
        Self::AuthorizationCode,
        Self::RefreshToken,
        Self::ClientCredentials,
        Self::DeviceCode,
        Self::TokenExchange,
        Self::JwtBearer,
    ];

    /// Its name at the token endpoint.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

impl Described {
    /// What a registration request says, if it can be given.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(body: &[u8], rules: &Rules) -> Result<Self, Unacceptable> {
        let raw: Raw = serde_json::from_slice(body).map_err(|error| metadata("the request", error.to_string()))?;
        let grant_types = grant_types(raw.grant_types.as_deref(), rules)?;
        let has_code = grant_types.contains(&GrantType::AuthorizationCode);
        if has_code && raw.response_types.is_some_and(|types| !types.iter().any(|one| one == "code")) {
            return Err(metadata("response_types", "authorization_code needs \"code\", and nothing else is supported"));
        }
        let redirect_uris = raw.redirect_uris.unwrap_or_default();
        let is_on_own_machine = redirects(&redirect_uris, has_code, rules)?;
        let may_keep_secret = match rules.secrets {
            Secrets::Anywhere => true,
            Secrets::OverHttps => !is_on_own_machine,
            Secrets::Never => false,
        };
        if raw.jwks_uri.is_some() && raw.jwks.is_some() {
            return Err(metadata("jwks", "there is either jwks or jwks_uri"));
        }
        let method = match method(raw.token_endpoint_auth_method.as_deref(), raw.jwks_uri, raw.jwks)? {
            Method::SecretBasic | Method::SecretPost if !may_keep_secret => match rules.secrets {
                Secrets::Never => return Err(metadata("token_endpoint_auth_method", "there is no shared secret here")),
                Secrets::OverHttps | Secrets::Anywhere => Method::None,
            },
            method => method,
        };
        if grant_types.contains(&GrantType::ClientCredentials) && method == Method::None {
            return Err(metadata("grant_types", "client_credentials is for clients that prove who they are"));
        }
        let metadata = Metadata {
            name: raw.client_name.as_deref().and_then(readable),
            redirect_uris,
            grant_types,
            scopes: scopes(raw.scope.as_deref(), rules)?,
            contacts: raw.contacts.unwrap_or_default(),
            client_uri: page("client_uri", raw.client_uri)?,
            logo_uri: page("logo_uri", raw.logo_uri)?,
            tos_uri: page("tos_uri", raw.tos_uri)?,
            policy_uri: page("policy_uri", raw.policy_uri)?,
            software_id: raw.software_id,
            software_version: raw.software_version,
            requires_proof: raw.dpop_bound_access_tokens.unwrap_or_default(),
        };
        Ok(Self { metadata, method })
    }
}

/// What can be given of what was asked for; without a wish, what every MCP client needs.
fn grant_types(asked: Option<&[String]>, rules: &Rules) -> Result<Vec<GrantType>, Unacceptable> {
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return Ok(vec![GrantType::AuthorizationCode, GrantType::RefreshToken]);
    };
    let mut types = Vec::new();
    for known in asked.iter().filter_map(|name| GrantType::parse(name)) {
        let is_given = matches!(known, GrantType::AuthorizationCode | GrantType::RefreshToken)
            || rules.grant_types.contains(&known);
        if is_given && !types.contains(&known) {
            types.push(known);
        }
    }
    match types[..] {
        [] => {
            let name: String = asked.iter().flat_map(|name| name.chars()).take(80).collect();
            Err(metadata("grant_types", format!("{name:?} is not supported here")))
        }
        [GrantType::RefreshToken] => Err(metadata("grant_types", "refresh_token alone gives no first token")),
        _ => Ok(types),
    }
}

/// Checks them, and tells whether any leads to a person's own machine.
fn redirects(uris: &[String], is_needed: bool, rules: &Rules) -> Result<bool, Unacceptable> {
    if uris.is_empty() && is_needed {
        return Err(Unacceptable::Redirects("at least one is needed for authorization_code"));
    }
    if uris.len() > Metadata::MAX_REDIRECTS {
        return Err(Unacceptable::Redirects("there may be 10 of them"));
    }
    // A program that waits for a code from a device is on somebody's machine as well.
    let mut is_on_own_machine = uris.is_empty();
    for (position, uri) in uris.iter().enumerate() {
        let parsed = RedirectUri::parse(uri, &rules.schemes);
        let parsed = parsed.map_err(|reason| Unacceptable::Redirect { position, reason })?;
        is_on_own_machine |= parsed.is_on_own_machine();
    }
    Ok(is_on_own_machine)
}

/// Without a wish a client is public. RFC 7591 §2 would have it prove itself with a secret then; but those who do not say
/// are programs that cannot keep one, and would be refused at the token endpoint for not sending what they never asked for.
/// Codes are bound to a verifier (PKCE) for everybody. A client that wants a secret says so.
fn method(wish: Option<&str>, jwks_uri: Option<String>, jwks: Option<Value>) -> Result<Method, Unacceptable> {
    match wish {
        None | Some("" | "none") => Ok(Method::None),
        Some("client_secret_basic") => Ok(Method::SecretBasic),
        Some("client_secret_post") => Ok(Method::SecretPost),
        Some("private_key_jwt") => match (jwks_uri, jwks) {
            (Some(uri), _) => {
                let uri =
                    page("jwks_uri", Some(uri))?.ok_or_else(|| metadata("jwks_uri", "it must be an https address"))?;
                Ok(Method::PrivateKey(KeySource::Address(uri)))
            }
            (None, Some(keys)) => Ok(Method::PrivateKey(KeySource::Inline(public_keys(&keys)?))),
            (None, None) => Err(metadata("jwks", "private_key_jwt needs either jwks or jwks_uri")),
        },
        Some(other) => {
            let other: String = other.chars().take(80).collect();
            Err(metadata("token_endpoint_auth_method", format!("{other:?} is not supported")))
        }
    }
}

/// A name as people may be shown it: one line, without what cannot be seen or turns the direction of what follows
/// (`docs/threat-model.md` row A12), and not too long.
fn readable(name: &str) -> Option<String> {
    let is_invisible = |c: char| {
        matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    let visible = name.chars().filter(|c| !is_invisible(*c));
    let plain: String = visible.map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(MAX_NAME_CHARS).collect();
    Some(short.trim_end().to_owned()).filter(|name| !name.is_empty())
}

/// The public keys of a JSON Web Key Set, as JSON text (RFC 7517 §5). Who sends a private one has lost it.
///
/// # Errors
/// It has none that can be used, too many, or one that is not public.
pub fn public_keys(set: &Value) -> Result<String, Unacceptable> {
    let keys = set.get("keys").and_then(Value::as_array).filter(|keys| !keys.is_empty());
    let keys = keys.ok_or_else(|| metadata("jwks", "it has no keys"))?;
    let is_public = |key: &Value| {
        let is_asymmetric = matches!(key.get("kty").and_then(Value::as_str), Some("RSA" | "EC" | "OKP"));
        is_asymmetric && ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().all(|member| key.get(member).is_none())
    };
    if !keys.iter().all(is_public) {
        return Err(metadata("jwks", "it has a key that is not public, or not of RSA, EC or OKP"));
    }
    let text = json!({ "keys": keys }).to_string();
    // By the others nobody could ever prove who they are.
    let usable =
        ClientKeys::parse(text.as_bytes()).map_err(|_| metadata("jwks", "it has more keys than are looked at"))?;
    if usable.is_empty() {
        return Err(metadata("jwks", "it has no key of an algorithm that is accepted: ES256, EdDSA, RS256 or PS256"));
    }
    Ok(text)
}

fn scopes(asked: Option<&str>, rules: &Rules) -> Result<TokenList, Unacceptable> {
    let mut known: Vec<String> = Vec::new();
    for scope in asked.unwrap_or_default().split_ascii_whitespace() {
        let exists = rules.scopes.iter().any(|one| one == scope);
        // Without any scope a client may ask for all: whoever knows what there is does not mean that by one that there is not.
        if rules.is_strict && !exists {
            let shown: String = scope.chars().take(80).collect();
            return Err(metadata("scope", format!("{shown:?} does not exist")));
        }
        if exists && !known.iter().any(|one| one == scope) {
            known.push(scope.to_owned());
        }
    }
    TokenList::parse(known).map_err(|(_, error)| metadata("scope", error.to_string()))
}

/// An address that people are shown or that is fetched: https, and nothing that hides where it leads. One of the client's
/// own machine is left out, since it leads nobody else there: that is what pages under development say of themselves.
fn page(member: &'static str, uri: Option<String>) -> Result<Option<String>, Unacceptable> {
    let Some(uri) = uri.filter(|uri| !uri.is_empty()) else { return Ok(None) };
    match RedirectUri::parse(&uri, &[]) {
        Ok(_) if uri.starts_with("https://") => Ok(Some(uri)),
        Ok(_) if uri.starts_with("http://") => Ok(None),
        _ => Err(metadata(member, "it must be an https address without user, fragment and dot segments")),
    }
}

/// The answer to a registration (RFC 7591 §3.2.1) or to a question about it (RFC 7592 §3), without secrets.
pub fn answer(client: &Client) -> Map<String, Value> {
    let Client { id, source: _, metadata, authentication, on_reuse: _, created, last_used: _ } = client;
    let mut answer = describe(metadata, authentication);
    answer.insert("client_id".to_owned(), json!(id.as_str()));
    answer.insert("client_id_issued_at".to_owned(), json!(created.as_millis() / 1_000));
    answer
}

/// What a client is described as, in the words of RFC 7591 §2.
pub fn describe(metadata: &Metadata, authentication: &Authentication) -> Map<String, Value> {
    let Metadata {
        name,
        redirect_uris,
        grant_types,
        scopes,
        contacts,
        client_uri,
        logo_uri,
        tos_uri,
        policy_uri,
        software_id,
        software_version,
        requires_proof,
    } = metadata;
    let has_code = grant_types.contains(&GrantType::AuthorizationCode);
    let method = match authentication {
        Authentication::Public => "none",
        Authentication::SecretBasic(_) => "client_secret_basic",
        Authentication::SecretPost(_) => "client_secret_post",
        Authentication::PrivateKey(_) => "private_key_jwt",
    };
    let mut answer = Map::new();
    let mut say = |member: &str, value: Value| answer.insert(member.to_owned(), value);
    say("redirect_uris", json!(redirect_uris));
    say("grant_types", grant_types.iter().map(|known| known.as_str()).collect());
    say("response_types", if has_code { json!(["code"]) } else { json!([]) });
    say("token_endpoint_auth_method", json!(method));
    if !scopes.is_empty() {
        say("scope", json!(scopes.join(" ")));
    }
    if !contacts.is_empty() {
        say("contacts", json!(contacts));
    }
    if *requires_proof {
        say("dpop_bound_access_tokens", json!(true));
    }
    match authentication {
        Authentication::PrivateKey(KeySource::Address(uri)) => _ = say("jwks_uri", json!(uri)),
        Authentication::PrivateKey(KeySource::Inline(keys)) => {
            _ = say("jwks", serde_json::from_str(keys).unwrap_or(Value::Null));
        }
        Authentication::Public | Authentication::SecretBasic(_) | Authentication::SecretPost(_) => {}
    }
    for (member, value) in [
        ("client_name", name),
        ("client_uri", client_uri),
        ("logo_uri", logo_uri),
        ("tos_uri", tos_uri),
        ("policy_uri", policy_uri),
        ("software_id", software_id),
        ("software_version", software_version),
    ] {
        if let Some(value) = value {
            say(member, json!(value));
        }
    }
    answer
}

impl Source {
    /// Whether the client registered itself, so that what it says of itself is nobody else's word.
    pub const fn is_unverified(&self) -> bool {
        matches!(self, Self::Registered { .. })
    }
}

impl Described {
    /// Why this is more than `before`, if it is: whoever edits what a client asked for takes away from it only. Lists that
    /// become empty would mean something else (RFC 7591 §2).
    ///
    /// # Errors
    /// What is more.
    pub fn check_narrows(&self, before: &Self) -> Result<(), &'static str> {
        let (now, then) = (&self.metadata, &before.metadata);
        if !now.redirect_uris.iter().all(|uri| then.redirect_uris.contains(uri)) {
            return Err("redirect_uris that the client did not name");
        }
        if !now.grant_types.iter().all(|one| then.grant_types.contains(one)) {
            return Err("grant_types that the client did not ask for");
        }
        if !then.scopes.is_empty() && (now.scopes.is_empty() || !now.scopes.iter().all(|one| then.scopes.contains(one)))
        {
            return Err("a scope that the client did not ask for");
        }
        if before.method != Method::None && self.method == Method::None {
            return Err("a client that no longer proves who it is");
        }
        if then.requires_proof && !now.requires_proof {
            return Err("tokens that are bound to no key");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Timestamp;
    use crate::ids::ClientId;
    use crate::oauth::client::Lives;
    use crate::oauth::grant::OnReuse;
    use crate::secret::Digest;

    fn rules() -> Rules {
        Rules {
            schemes: vec!["cursor".to_owned()],
            grant_types: vec![GrantType::DeviceCode],
            scopes: vec!["mcp".to_owned()],
            is_strict: false,
            secrets: Secrets::OverHttps,
        }
    }

    fn parse(body: &Value) -> Result<Described, Unacceptable> {
        Described::parse(body.to_string().as_bytes(), &rules())
    }

    /// What the common MCP clients send, and what they get.
    #[test]
    fn t13_what_clients_send_is_registered() {
        let https = "https://client.example/cb";
        let (code, both) = ("authorization_code", json!(["authorization_code", "refresh_token"]));
        let device = GrantType::DeviceCode.as_str();
        let key = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "eA" }] });
        for (name, body, method, types) in [
            (
                "Claude Code",
                json!({
                    "client_name": "Claude Code (portcullis)", "redirect_uris": ["http://localhost:54321/callback"],
                    "grant_types": both, "response_types": ["code"], "token_endpoint_auth_method": "none",
                }),
                "none",
                "ar",
            ),
            (
                "Cursor",
                json!({
                    "client_name": "Cursor", "redirect_uris": ["cursor://anysphere.cursor-mcp/oauth/callback"],
                    "grant_types": both, "response_types": ["code"], "token_endpoint_auth_method": "none",
                    "application_type": "native",
                }),
                "none",
                "ar",
            ),
            (
                "Cursor's second callback",
                json!({ "redirect_uris": ["cursor://anysphere.cursor-retrieval/oauth/callback", "http://localhost:8787/callback"] }),
                "none",
                "ar",
            ),
            (
                "VS Code",
                json!({
                    "client_name": "Visual Studio Code", "client_uri": "https://code.visualstudio.com",
                    "grant_types": [code, "refresh_token", device], "response_types": ["code"],
                    "redirect_uris": [
                        "https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect", "http://127.0.0.1/",
                        "http://127.0.0.1:33418/",
                    ],
                    "scope": "mcp", "token_endpoint_auth_method": "none", "application_type": "native",
                }),
                "none",
                "ard",
            ),
            (
                "mcp-remote",
                json!({
                    "redirect_uris": ["http://localhost:3334/oauth/callback"], "token_endpoint_auth_method": "none",
                    "grant_types": both, "response_types": ["code"], "client_name": "MCP CLI Proxy",
                    "client_uri": "https://github.com/client/mcp-cli", "software_id": "2e6dc280-f3c3-4e01-99a7-8181dbd1d23d",
                    "software_version": "0.15.1", "scope": "openid email profile",
                }),
                "none",
                "ar",
            ),
            (
                "Inspector",
                json!({
                    "redirect_uris": ["http://localhost:6274/oauth/callback", "http://localhost:6274/oauth/callback/debug"],
                    "token_endpoint_auth_method": "none", "grant_types": both, "response_types": ["code"],
                    "client_name": "MCP Inspector", "client_uri": "https://github.com/modelcontextprotocol/inspector",
                    "scope": "", "application_type": "native",
                }),
                "none",
                "ar",
            ),
            (
                "claude.ai",
                json!({
                    "client_name": "Claude", "redirect_uris": ["https://claude.ai/api/mcp/auth_callback"],
                    "grant_types": both, "response_types": ["code"], "token_endpoint_auth_method": "none",
                }),
                "none",
                "ar",
            ),
            (
                "claude.ai with a secret",
                json!({
                    "client_name": "Claude", "redirect_uris": ["https://claude.ai/api/mcp/auth_callback"],
                    "token_endpoint_auth_method": "client_secret_post",
                }),
                "client_secret_post",
                "ar",
            ),
            (
                "ChatGPT",
                json!({
                    "client_name": "ChatGPT", "redirect_uris": ["https://chatgpt.com/connector_platform_oauth_redirect"],
                    "grant_types": both, "response_types": ["code"], "token_endpoint_auth_method": "none",
                }),
                "none",
                "ar",
            ),
            (
                "an SDK's example with a secret, on the person's machine",
                json!({
                    "client_name": "Simple OAuth MCP Client", "redirect_uris": ["http://localhost:8090/callback"],
                    "grant_types": both, "response_types": ["code"], "token_endpoint_auth_method": "client_secret_post",
                }),
                "none",
                "ar",
            ),
            (
                "a page under development",
                json!({ "redirect_uris": ["http://localhost:5173/oauth/callback"], "client_uri": "http://localhost:5173" }),
                "none",
                "ar",
            ),
            ("nothing but where to", json!({ "redirect_uris": [https] }), "none", "ar"),
            (
                "basic",
                json!({ "redirect_uris": [https], "token_endpoint_auth_method": "client_secret_basic" }),
                "client_secret_basic",
                "ar",
            ),
            ("no method", json!({ "redirect_uris": [https], "token_endpoint_auth_method": "" }), "none", "ar"),
            (
                "null",
                json!({ "redirect_uris": [https], "token_endpoint_auth_method": null, "contacts": null, "jwks": null, "scope": null }),
                "none",
                "ar",
            ),
            (
                "inline keys",
                json!({ "redirect_uris": [https], "token_endpoint_auth_method": "private_key_jwt", "jwks": key }),
                "private_key_jwt",
                "ar",
            ),
            (
                "keys elsewhere",
                json!({ "redirect_uris": [https], "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://client.example/jwks" }),
                "private_key_jwt",
                "ar",
            ),
            (
                "a native program with a key",
                json!({ "redirect_uris": ["http://127.0.0.1/cb"], "token_endpoint_auth_method": "private_key_jwt", "jwks": key }),
                "private_key_jwt",
                "ar",
            ),
            (
                "keys for nothing",
                json!({ "redirect_uris": [https], "jwks_uri": "https://client.example/jwks" }),
                "none",
                "ar",
            ),
            (
                "a secret and one loopback URI",
                json!({ "redirect_uris": [https, "http://127.0.0.1/cb"], "token_endpoint_auth_method": "client_secret_basic" }),
                "none",
                "ar",
            ),
            (
                "a secret and https on the person's machine",
                json!({ "redirect_uris": [https, "https://localhost/cb"], "token_endpoint_auth_method": "client_secret_basic" }),
                "none",
                "ar",
            ),
            (
                "a secret and https at an address of the person's machine",
                json!({ "redirect_uris": ["https://127.0.0.1:8443/cb"], "token_endpoint_auth_method": "client_secret_post" }),
                "none",
                "ar",
            ),
            (
                "a secret and an application's scheme",
                json!({ "redirect_uris": ["com.example.app:/cb"], "token_endpoint_auth_method": "client_secret_basic" }),
                "none",
                "ar",
            ),
            ("code alone", json!({ "redirect_uris": [https], "grant_types": [code] }), "none", "a"),
            ("nothing in particular", json!({ "redirect_uris": [https], "grant_types": [] }), "none", "ar"),
            ("twice", json!({ "redirect_uris": [https, https], "grant_types": [code, code] }), "none", "a"),
            (
                "implicit as well",
                json!({ "redirect_uris": [https], "grant_types": ["implicit", code], "response_types": ["token", "code"] }),
                "none",
                "a",
            ),
            (
                "for itself as well",
                json!({ "redirect_uris": [https], "grant_types": [code, "client_credentials"] }),
                "none",
                "a",
            ),
            ("a device", json!({ "grant_types": [device] }), "none", "d"),
            (
                "a device with a secret",
                json!({ "grant_types": [device, "refresh_token"], "token_endpoint_auth_method": "client_secret_post" }),
                "none",
                "dr",
            ),
            ("a website that says so", json!({ "redirect_uris": [https], "application_type": "web" }), "none", "ar"),
            (
                "a website on loopback",
                json!({ "redirect_uris": ["http://localhost/cb"], "application_type": "web" }),
                "none",
                "ar",
            ),
            ("an unknown kind", json!({ "redirect_uris": [https], "application_type": 7 }), "none", "ar"),
            (
                "unknown members",
                json!({ "redirect_uris": [https], "client_name#de": "y", "id_token_signed_response_alg": "RS256", "a": { "b": [] } }),
                "none",
                "ar",
            ),
            (
                "a statement of others",
                json!({ "redirect_uris": [https], "software_statement": "e30.e30." }),
                "none",
                "ar",
            ),
            (
                "what is ours",
                json!({ "redirect_uris": [https], "client_id": "mine", "client_secret": "mine", "registration_access_token": "x" }),
                "none",
                "ar",
            ),
            ("IPv6", json!({ "redirect_uris": ["http://[::1]:8080/cb"] }), "none", "ar"),
            ("ten addresses", json!({ "redirect_uris": vec![https; 10] }), "none", "ar"),
        ] {
            let described = parse(&body).unwrap_or_else(|refused| panic!("{name}: {refused}"));
            let got = match described.method {
                Method::None => "none",
                Method::SecretBasic => "client_secret_basic",
                Method::SecretPost => "client_secret_post",
                Method::PrivateKey(_) => "private_key_jwt",
            };
            let letters = described.metadata.grant_types.iter().map(|known| match known {
                GrantType::AuthorizationCode => 'a',
                GrantType::RefreshToken => 'r',
                GrantType::DeviceCode => 'd',
                other => panic!("{name}: {other:?}"),
            });
            assert_eq!((got, &*letters.collect::<String>()), (method, types), "{name}");
            let uris = body["redirect_uris"].as_array().cloned().unwrap_or_default();
            assert_eq!(json!(described.metadata.redirect_uris), json!(uris), "{name}");
        }
    }

    #[test]
    fn t13_what_cannot_be_given_is_refused_and_named() {
        let https = "https://client.example/cb";
        let key = json!({ "kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ" });
        let private = json!({ "kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ", "d": "d" });
        let symmetric = json!({ "kty": "oct", "k": "k" });
        let with = |member: &str, value: Value| json!({ "redirect_uris": [https], member: value });
        let keyed = |jwks: Value| json!({ "redirect_uris": [https], "token_endpoint_auth_method": "private_key_jwt", "jwks": jwks });
        let (metadata, redirect) = ("invalid_client_metadata", "invalid_redirect_uri");
        for (body, code, told) in [
            (json!([]), metadata, "the request"),
            (json!("x"), metadata, "the request"),
            (json!(null), metadata, "the request"),
            (json!({ "redirect_uris": "x" }), metadata, "the request"),
            (json!({ "redirect_uris": [7] }), metadata, "the request"),
            (json!({ "redirect_uris": [null] }), metadata, "the request"),
            (json!({}), redirect, "at least one"),
            (json!({ "redirect_uris": [] }), redirect, "at least one"),
            (json!({ "redirect_uris": null }), redirect, "at least one"),
            (json!({ "redirect_uris": vec![https; 11] }), redirect, "10 of them"),
            (json!({ "redirect_uris": [https, "javascript:alert(1)"] }), redirect, "redirect_uris[1]"),
            (json!({ "redirect_uris": ["http://client.example/cb"] }), redirect, "http is for"),
            (json!({ "redirect_uris": ["https://client.example/cb#x"] }), redirect, "no fragment"),
            (json!({ "redirect_uris": ["https://*.client.example/cb"] }), redirect, "plain name"),
            (json!({ "redirect_uris": ["https://client.example/../cb"] }), redirect, "path"),
            (json!({ "redirect_uris": ["myapp://cb"] }), redirect, "scheme"),
            (json!({ "redirect_uris": ["urn:ietf:wg:oauth:2.0:oob"] }), redirect, "scheme"),
            (json!({ "redirect_uris": [""] }), redirect, "bytes"),
            (with("grant_types", json!(["implicit"])), metadata, "\"implicit\""),
            (with("grant_types", json!(["password"])), metadata, "password"),
            (with("grant_types", json!("authorization_code")), metadata, "the request"),
            (json!({ "grant_types": ["refresh_token"] }), metadata, "no first token"),
            (with("grant_types", json!(["refresh_token", "password"])), metadata, "no first token"),
            (json!({ "grant_types": ["client_credentials"] }), metadata, "not supported here"),
            (with("grant_types", json!([GrantType::TokenExchange.as_str()])), metadata, "not supported here"),
            (with("response_types", json!(["token"])), metadata, "response_types"),
            (with("response_types", json!(["code id_token"])), metadata, "response_types"),
            (with("response_types", json!([])), metadata, "response_types"),
            (with("response_types", json!("code")), metadata, "the request"),
            (with("token_endpoint_auth_method", json!("tls_client_auth")), metadata, "tls_client_auth"),
            (with("token_endpoint_auth_method", json!("client_secret_jwt")), metadata, "client_secret_jwt"),
            (with("token_endpoint_auth_method", json!("NONE")), metadata, "NONE"),
            (with("token_endpoint_auth_method", json!("private_key_jwt")), metadata, "either jwks or jwks_uri"),
            (with("token_endpoint_auth_method", json!(["none"])), metadata, "the request"),
            (keyed(json!({ "keys": [key, private] })), metadata, "not public"),
            (keyed(json!({ "keys": [symmetric] })), metadata, "not public"),
            (keyed(json!({ "keys": [] })), metadata, "no keys"),
            (keyed(json!({ "keys": "x" })), metadata, "no keys"),
            (keyed(json!([key])), metadata, "no keys"),
            (keyed(json!("x")), metadata, "no keys"),
            (
                json!({ "redirect_uris": [https], "jwks": { "keys": [key] }, "jwks_uri": "https://client.example/jwks" }),
                metadata,
                "either jwks or jwks_uri",
            ),
            (
                json!({
                    "redirect_uris": [https], "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://localhost/jwks",
                }),
                metadata,
                "jwks_uri",
            ),
            (
                json!({
                    "redirect_uris": [https], "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "file:///etc/jwks",
                }),
                metadata,
                "jwks_uri",
            ),
            (with("logo_uri", json!("data:image/png,x")), metadata, "logo_uri"),
            (with("logo_uri", json!("javascript:alert(1)")), metadata, "logo_uri"),
            (with("client_uri", json!("http://client.example")), metadata, "client_uri"),
            (with("client_uri", json!("https://user@client.example")), metadata, "client_uri"),
            (with("tos_uri", json!("//client.example/tos")), metadata, "tos_uri"),
            (with("policy_uri", json!("https://client.example/<script>")), metadata, "policy_uri"),
            (with("client_name", json!({})), metadata, "the request"),
            (with("contacts", json!("me")), metadata, "the request"),
            (with("scope", json!(["mcp"])), metadata, "the request"),
            (with("software_id", json!(7)), metadata, "the request"),
        ] {
            let refused = parse(&body).unwrap_err();
            assert_eq!(refused.code(), code, "{body}: {refused}");
            assert!(refused.to_string().contains(told), "{body}: {refused}");
        }
        for text in [
            "",
            "{",
            "{}x",
            "\u{feff}{}",
            r#"{"redirect_uris":["https://a.example/"],"redirect_uris":["https://b.example/"]}"#,
            r#"{"redirect_uris":["https://a.example/"],"redirect_uris":["https://a.example/"]}"#,
        ] {
            let refused = Described::parse(text.as_bytes(), &rules()).unwrap_err();
            assert_eq!(refused.code(), metadata, "{text}");
        }
    }

    #[test]
    fn who_may_have_a_secret_is_the_operators_to_say() {
        let body =
            json!({ "redirect_uris": ["http://localhost/cb"], "token_endpoint_auth_method": "client_secret_basic" });
        let with = |secrets| Described::parse(body.to_string().as_bytes(), &Rules { secrets, ..rules() });
        assert_eq!(with(Secrets::OverHttps).unwrap().method, Method::None);
        assert_eq!(with(Secrets::Anywhere).unwrap().method, Method::SecretBasic);
        assert!(with(Secrets::Never).is_err());
        let itself =
            json!({ "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic" });
        let rules = Rules { grant_types: vec![GrantType::ClientCredentials], ..rules() };
        let of = |secrets| Described::parse(itself.to_string().as_bytes(), &Rules { secrets, ..rules.clone() });
        assert_eq!(of(Secrets::Anywhere).unwrap().metadata.grant_types, [GrantType::ClientCredentials]);
        assert!(of(Secrets::OverHttps).unwrap_err().to_string().contains("prove who they are"));
    }

    /// `docs/threat-model.md` row A12.
    #[test]
    fn a_name_is_one_line_that_shows_what_it_is() {
        for (name, expected) in [
            (" Claude Code ", Some("Claude Code")),
            ("a\r\nb\t c", Some("a b c")),
            ("\u{202e}edualC\u{202c}", Some("edualC")),
            ("C\u{200b}laude\u{feff}\u{ad}", Some("Claude")),
            ("\u{1b}[31mred", Some("[31mred")),
            ("<b>bold</b>", Some("<b>bold</b>")),
            ("Ünïcödé 漢字", Some("Ünïcödé 漢字")),
            ("", None),
            (" \n\u{200d} ", None),
        ] {
            let parsed = parse(&json!({ "redirect_uris": ["https://client.example/"], "client_name": name })).unwrap();
            assert_eq!(parsed.metadata.name.as_deref(), expected, "{name:?}");
        }
        let long =
            parse(&json!({ "redirect_uris": ["https://client.example/"], "client_name": "字".repeat(500) })).unwrap();
        let name = long.metadata.name.unwrap();
        assert_eq!(name.chars().count(), MAX_NAME_CHARS);
        assert!(name.len() <= Metadata::MAX_NAME);
    }

    #[test]
    fn scopes_that_there_are_not_are_left_out() {
        for (scope, expected) in [
            ("mcp", &["mcp"][..]),
            ("mcp  mcp", &["mcp"]),
            ("openid mcp offline_access", &["mcp"]),
            ("x", &[]),
            ("", &[]),
        ] {
            let described = parse(&json!({ "redirect_uris": ["https://client.example/"], "scope": scope })).unwrap();
            assert_eq!(described.metadata.scopes.to_vec(), expected, "{scope}");
        }
    }

    #[test]
    fn an_operator_names_scopes_that_there_are() {
        let strict = Rules { is_strict: true, ..rules() };
        let of = |scope: &str| {
            let body = json!({ "redirect_uris": ["https://client.example/"], "scope": scope });
            Described::parse(body.to_string().as_bytes(), &strict).map(|described| described.metadata.scopes.to_vec())
        };
        assert_eq!(of("mcp"), Ok(vec!["mcp".to_owned()]));
        assert_eq!(of(""), Ok(Vec::new()));
        for wrong in ["mpc", "mcp offline_access"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_by_which_nobody_can_sign_are_not_registered() {
        let key = json!({ "kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ" });
        let curve = json!({ "kty": "EC", "crv": "P-384", "x": "eA", "y": "eQ" });
        assert!(public_keys(&json!({ "keys": [key, curve] })).is_ok());
        assert!(public_keys(&json!({ "keys": [curve] })).is_err());
        assert!(public_keys(&json!({ "keys": vec![&key; ClientKeys::MAX_COUNT] })).is_ok());
        assert!(public_keys(&json!({ "keys": vec![&key; ClientKeys::MAX_COUNT + 1] })).is_err());
    }

    #[test]
    fn the_answer_says_what_is_registered() {
        let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ" }] });
        let body = json!({
            "redirect_uris": ["https://client.example/cb"], "client_name": "Notes", "scope": "mcp",
            "token_endpoint_auth_method": "private_key_jwt", "jwks": keys, "tos_uri": "https://client.example/tos",
            "dpop_bound_access_tokens": true,
        });
        let Described { metadata, method } = parse(&body).unwrap();
        let Method::PrivateKey(source) = method else { panic!("{method:?}") };
        let client = Client {
            id: ClientId::parse("c").unwrap(),
            source: Source::Registered { token: Digest::of(b"t"), lives: Lives::default() },
            metadata,
            authentication: Authentication::PrivateKey(source),
            on_reuse: OnReuse::RevokeFamily,
            created: Timestamp::from_millis(1_800_000_000_999),
            last_used: None,
        };
        let expected = json!({
            "client_id": "c", "client_id_issued_at": 1_800_000_000, "client_name": "Notes", "scope": "mcp",
            "redirect_uris": ["https://client.example/cb"], "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"], "token_endpoint_auth_method": "private_key_jwt", "jwks": keys,
            "tos_uri": "https://client.example/tos", "dpop_bound_access_tokens": true,
        });
        assert_eq!(Value::Object(answer(&client)), expected);
        assert!(crate::oauth::client::KnownClient::from(client.clone()).requires_proof, "RFC 9449 §5.2");
        // Without the member it is as before, and nothing is said of it.
        let metadata = Metadata { requires_proof: false, ..client.metadata.clone() };
        let free = Client { metadata, ..client };
        assert!(!answer(&free).contains_key("dpop_bound_access_tokens"));
        assert!(!crate::oauth::client::KnownClient::from(free).requires_proof);
    }

    #[test]
    fn what_is_edited_is_no_more_than_was_asked_for() {
        let https = "https://client.example/cb";
        let asked = json!({
            "redirect_uris": [https, "https://client.example/other"], "grant_types": ["authorization_code"], "scope": "mcp",
            "token_endpoint_auth_method": "client_secret_basic", "dpop_bound_access_tokens": true,
        });
        let before = parse(&asked).unwrap();
        for (member, value, narrows) in [
            ("redirect_uris", json!([https]), true),
            ("redirect_uris", json!([https, "https://evil.example/"]), false),
            ("grant_types", json!([]), false),
            ("grant_types", json!(["authorization_code", "refresh_token"]), false),
            ("scope", json!(""), false),
            ("scope", json!("x"), false),
            ("scope", json!("mcp"), true),
            ("token_endpoint_auth_method", json!("none"), false),
            ("token_endpoint_auth_method", json!("client_secret_post"), true),
            ("client_name", json!("Other"), true),
            ("dpop_bound_access_tokens", json!(false), false),
        ] {
            let mut edited = asked.clone();
            edited[member] = value;
            assert_eq!(parse(&edited).unwrap().check_narrows(&before).is_ok(), narrows, "{edited}");
        }
    }
}
