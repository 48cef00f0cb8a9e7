//! `[auth]`: what the file says of who may call, and of the authorization server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Allow, At, NameOfKey, Setting, Time, defaults};

/// Who may call, and how they show who they are.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Auth {
    /// How callers of `/mcp` authenticate: with virtual keys, with access tokens of this gateway's authorization server, or
    /// with either.
    #[schemars(extend("default" = "both"))]
    pub mcp: Setting<AuthMode>,
    /// Whether callers of `/mcp` have to authenticate at all. Without, who presents nothing is served as the anonymous
    /// principal.
    #[schemars(extend("default" = true))]
    pub required: Setting<bool>,
    /// Confirms `required = false` for a listener that others than this machine can reach.
    #[schemars(extend("default" = false))]
    pub anonymous_on_network: Setting<bool>,
    /// Whether somebody may consent without naming themselves, as a guest.
    #[schemars(extend("default" = false))]
    pub guests: Setting<bool>,
    /// The scopes that there are, each with what it lets a client do, in words for the consent page. Without any, `mcp`.
    pub scopes: BTreeMap<String, At<String>>,
    /// What principals without an allow-list of their own may use, before policies are asked.
    pub allow: AuthAllow,
    /// Lives of what the authorization server hands out.
    pub tokens: Tokens,
    /// OAuth clients.
    pub clients: Clients,
    /// How people sign in.
    pub sign_in: SignIn,
    /// What is asked of operators in a browser besides.
    pub operators: Operators,
    /// OpenID providers that people sign in with, by name.
    pub providers: BTreeMap<NameOfKey, Provider>,
    /// Grant types besides `authorization_code` and `refresh_token`.
    pub grants: Grants,
}

/// How callers of `/mcp` authenticate.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    /// With virtual keys. There is no authorization server then.
    Keys,
    /// With virtual keys or access tokens.
    Both,
    /// With access tokens.
    Oauth,
}

/// What principals without an allow-list of their own may use, before policies are asked.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct AuthAllow {
    /// What people with an account may use. Without it, everything.
    pub users: Setting<Vec<At<Allow>>>,
    /// What the members of groups may use besides, by group: upstreams, where `*` stands for any run of characters.
    /// Needs `users`.
    pub groups: BTreeMap<At<String>, Vec<At<String>>>,
    /// What guests and the anonymous principal may use. Without it, everything.
    pub guests: Setting<Vec<At<Allow>>>,
}

/// Lives of what the authorization server hands out.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Tokens {
    /// What access tokens are signed with.
    #[schemars(extend("default" = "RS256"))]
    pub algorithm: Setting<SigningAlgorithm>,
    /// How long an access token counts; at most an hour.
    #[schemars(extend("default" = defaults::ACCESS_LIFE))]
    pub access_life: Setting<Time>,
    /// How long an authorization code can be redeemed; at most ten minutes.
    #[schemars(extend("default" = defaults::CODE_LIFE))]
    pub code_life: Setting<Time>,
    /// How long somebody may take to consent; at most an hour.
    #[schemars(extend("default" = defaults::CONSENT_LIFE))]
    pub consent_life: Setting<Time>,
    /// How long a grant lives without being refreshed.
    #[schemars(extend("default" = defaults::REFRESH_IDLE))]
    pub refresh_idle: Setting<Time>,
    /// How long a grant lives at all.
    #[schemars(extend("default" = defaults::REFRESH_LIFE))]
    pub refresh_life: Setting<Time>,
    /// How long a used refresh token may come back and gets the same successor, at most a minute; `0s` for strict single use.
    #[schemars(extend("default" = defaults::REFRESH_GRACE))]
    pub refresh_grace: Setting<Time>,
    /// How often a used refresh token may come back in that time.
    #[schemars(range(min = 1), extend("default" = defaults::REFRESH_REPLAYS))]
    pub refresh_replays: Setting<i64>,
    /// How long a grant and its refresh tokens are remembered after their end, from a minute to `366d`. Holds for what is
    /// granted from then on.
    #[schemars(extend("default" = defaults::KEEP_ENDED))]
    pub keep_ended: Setting<Time>,
    /// How long a key signs before the next one does.
    #[schemars(extend("default" = defaults::KEY_ROTATION))]
    pub key_rotation: Setting<Time>,
    /// How long a key is published before it signs.
    #[schemars(extend("default" = defaults::KEY_ANNOUNCE))]
    pub key_announce: Setting<Time>,
}

/// What access tokens are signed with.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// RSA, which everybody verifies.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256: short and quick.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519: short and quick.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// OAuth clients.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Clients {
    /// Whether clients may register themselves.
    #[schemars(extend("default" = true))]
    pub registration: Setting<bool>,
    /// Whether clients may be known by the https address of a document that describes them.
    #[schemars(extend("default" = true))]
    pub metadata_documents: Setting<bool>,
    /// Hosts that such documents may come from, as patterns. Without any, all.
    pub document_hosts: Vec<At<String>>,
    /// Most clients that are registered at once.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_CLIENTS))]
    pub max_registered: Setting<i64>,
    /// How long a client that registered itself is kept while nobody uses it.
    #[schemars(extend("default" = defaults::CLIENT_UNUSED))]
    pub unused: Setting<Time>,
    /// How long a client that registered itself is kept after its last use.
    #[schemars(extend("default" = defaults::CLIENT_INACTIVE))]
    pub inactive: Setting<Time>,
    /// Registrations from one address in a minute.
    #[schemars(range(min = 1), extend("default" = defaults::REGISTRATIONS))]
    pub registrations_per_minute: Setting<i64>,
    /// Schemes of applications that may be redirected to besides those of a domain such as `com.example.app`.
    #[schemars(extend("default" = defaults::REDIRECT_SCHEMES))]
    pub redirect_schemes: Setting<Vec<At<String>>>,
    /// Clients that need not register, by their `client_id`.
    pub known: BTreeMap<NameOfKey, KnownClient>,
}

/// A client that need not register.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct KnownClient {
    /// What people are told that it is called.
    pub name: Setting<String>,
    /// Where the browser may be sent back to.
    pub redirect_uris: Vec<At<String>>,
    /// Reference to its secret, `env:NAME` or `file:PATH`. Without this and `jwks` it is a public client.
    pub secret: Setting<String>,
    /// File of the public keys that it signs assertions with, as a JSON Web Key Set.
    pub jwks: Setting<String>,
    /// What it may present at the token endpoint. Without it, `authorization_code` and `refresh_token`.
    pub grant_types: Vec<At<String>>,
    /// The scopes that it may ask for. Without any, all.
    pub scopes: Vec<At<String>>,
    /// The virtual key as which it acts by itself, with `client_credentials`.
    pub key: Setting<String>,
    /// Whether it has to push its authorization requests.
    #[schemars(extend("default" = false))]
    pub requires_pushed: Setting<bool>,
    /// Whether its tokens are bound to a key that it proves to have.
    #[schemars(extend("default" = false))]
    pub requires_proof: Setting<bool>,
    /// What a refresh token that comes back after its grace does.
    #[schemars(extend("default" = "revoke-family"))]
    pub on_reuse: Setting<OnReuse>,
}

/// What a refresh token that comes back after its grace does.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnReuse {
    /// It ends the grant.
    RevokeFamily,
    /// It is refused, and the grant lives on.
    Reject,
}

/// How people sign in.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct SignIn {
    /// Whether people may sign in with a password of this gateway.
    #[schemars(extend("default" = true))]
    pub passwords: Setting<bool>,
    /// How long a browser stays signed in without being used.
    #[schemars(extend("default" = defaults::BROWSER_IDLE))]
    pub session_idle: Setting<Time>,
    /// How long a browser stays signed in at all.
    #[schemars(extend("default" = defaults::BROWSER_LIFE))]
    pub session_life: Setting<Time>,
}

/// What is asked of operators in a browser besides.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Operators {
    /// How old a sign-in at the admin listener may be for what shows or makes a secret, or cannot be undone; at most twelve
    /// hours. Later, the person is asked once more who they are.
    #[schemars(extend("default" = defaults::STEP_UP_AFTER))]
    pub step_up_after: Setting<Time>,
}

/// An OpenID provider that people sign in with.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["issuer", "client_id"]))]
pub struct Provider {
    /// Its issuer identifier, as it is in its discovery document.
    pub issuer: Setting<String>,
    /// What this gateway is called there.
    pub client_id: Setting<String>,
    /// Reference to the gateway's secret there, `env:NAME` or `file:PATH`. Without it, the gateway is a public client.
    pub client_secret: Setting<String>,
    /// What people read on the button. Without it, the provider's name.
    pub label: Setting<String>,
    /// Scopes to ask for besides `openid`, `profile` and `email`.
    pub scopes: Vec<At<String>>,
    /// Who gets in: people who were invited by their verified e-mail address, or everyone whom the provider vouches for.
    #[schemars(extend("default" = "invited"))]
    pub admit: Setting<Admit>,
    /// The claim that lists a person's groups.
    pub groups_claim: Setting<String>,
}

/// Who gets in through a provider.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Admit {
    /// People who have an account or were invited.
    Invited,
    /// Everyone whom the provider vouches for.
    Everyone,
}

/// Grant types besides `authorization_code` and `refresh_token`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Grants {
    /// Whether clients may act for themselves.
    #[schemars(extend("default" = false))]
    pub client_credentials: Setting<bool>,
    /// Whether devices without a browser may be let in from another one.
    #[schemars(extend("default" = false))]
    pub device: Setting<bool>,
    /// Whether clients may exchange tokens of this gateway for narrower ones.
    #[schemars(extend("default" = false))]
    pub token_exchange: Setting<bool>,
    /// Issuers whose identity assertions (ID-JAG) stand for a sign-in and a consent here. Without any, none.
    pub identity_assertions: Vec<At<TrustedIssuer>>,
}

/// An issuer of identity assertions.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["issuer"]))]
pub struct TrustedIssuer {
    /// Its issuer identifier.
    pub issuer: Setting<String>,
    /// Address of its keys. Without it, what its discovery document says.
    pub jwks_uri: Setting<String>,
}

/// Requests of the gateway to addresses that others supplied.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Outbound {
    /// Networks, addresses and hosts, each with or without port, that may be private, on any port and without TLS, such as
    /// `10.0.0.0/8` or `idp.internal:8080`.
    pub allow: Vec<At<String>>,
}
