//! Who may call, and what the authorization server goes by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::AllowList;
use crate::ids::KeyName;
use crate::oauth::client::{GrantType, KnownClient, Lives};
use crate::oauth::grant::Grace;
use crate::oauth::signing::Algorithm;
use crate::secret::Plaintext;

/// Who may call, and how they show who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    pub mcp: AuthMode,
    /// Whether callers have to authenticate at all.
    pub required: bool,
    /// Whether `required = false` was confirmed for listeners that others than this machine can reach.
    pub anonymous_on_network: bool,
    /// Whether somebody may consent as a guest.
    pub guests: bool,
    /// In name order, at least one.
    pub scopes: Vec<ScopeWords>,
    pub allow: AuthAllow,
    pub tokens: TokenSettings,
    pub clients: ClientSettings,
    pub sign_in: SignIn,
    pub operators: Operators,
    /// In name order.
    pub providers: Vec<Provider>,
    pub grants: Grants,
}

/// How callers of `/mcp` authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// With virtual keys. There is no authorization server then.
    Keys,
    Both,
    Oauth,
}

/// A scope, and what it lets a client do in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeWords {
    pub name: String,
    pub words: String,
}

/// What principals without an allow-list of their own may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthAllow {
    /// For every person with an account.
    pub users: Arc<AllowList>,
    /// For the members of groups besides, by group.
    pub groups: BTreeMap<String, AllowList>,
    /// For the anonymous principal as well.
    pub guests: Arc<AllowList>,
}

/// Lives of what the authorization server hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    pub algorithm: Algorithm,
    pub access_life: Duration,
    pub code_life: Duration,
    pub consent_life: Duration,
    pub refresh_idle: Duration,
    pub refresh_life: Duration,
    /// Of no length: strict single use.
    pub grace: Grace,
    /// How long a grant is remembered after its end.
    pub keep_ended: Duration,
    pub key_rotation: Duration,
    /// How long a key is published before it signs.
    pub key_announce: Duration,
}

/// OAuth clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Whether clients may register themselves.
    pub registration: bool,
    /// Whether a document at an https address makes a client.
    pub metadata_documents: bool,
    /// Where such documents may come from. Empty: from anywhere.
    pub document_hosts: Vec<Glob>,
    pub max_registered: u64,
    pub lives: Lives,
    pub registrations_per_minute: u32,
    /// Of applications that may be redirected to.
    pub schemes: Vec<String>,
    /// Clients of the file, in id order.
    pub known: Vec<ConfiguredClient>,
}

/// A client of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredClient {
    pub client: KnownClient,
    /// As whom it acts by itself.
    pub key: Option<KeyName>,
}

/// How people sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    pub passwords: bool,
    pub session_idle: Duration,
    pub session_life: Duration,
}

/// What is asked of operators in a browser besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operators {
    /// How old a sign-in may be for what shows or makes a secret, or cannot be undone.
    pub step_up_after: Duration,
}

/// An OpenID provider that people sign in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Stands in paths.
    pub name: KeyName,
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<Plaintext>,
    pub label: String,
    /// Besides `openid`, `profile` and `email`.
    pub scopes: TokenList,
    /// Whether everyone whom it vouches for gets an account.
    pub admits_everyone: bool,
    pub groups_claim: Option<String>,
}

/// Grant types besides those that are always on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub client_credentials: bool,
    pub device: bool,
    pub token_exchange: bool,
    /// Whose identity assertions count.
    pub identity_assertions: Vec<TrustedIssuer>,
}

/// An issuer of identity assertions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    pub issuer: String,
    pub jwks_uri: Option<String>,
}

impl Auth {
    /// What holds where the file says nothing, but with virtual keys only.
    #[cfg(test)]
    pub(crate) fn keys_only() -> Self {
        Self { mcp: AuthMode::Keys, ..Self::unset() }
    }

    /// What holds where the file says nothing.
    #[cfg(test)]
    pub(crate) fn unset() -> Self {
        let config = super::parse("", std::path::Path::new("/"), &|_| None, crate::env::Timestamp::default());
        Self::clone(&config.expect("an empty file is a configuration").auth)
    }

    /// Whether there is an authorization server at all.
    pub fn has_server(&self) -> bool {
        self.mcp != AuthMode::Keys
    }

    /// Whether somebody who presents nothing comes in, where only those call who are meant.
    pub fn admits_anonymous(&self) -> bool {
        !self.required && self.mcp != AuthMode::Oauth
    }

    /// The scopes by name.
    pub fn scope_names(&self) -> Vec<String> {
        self.scopes.iter().map(|scope| scope.name.clone()).collect()
    }
}

impl Grants {
    /// The grant types that are on, besides those that always are.
    pub fn types(&self) -> Vec<GrantType> {
        let on = [
            (self.client_credentials, GrantType::ClientCredentials),
            (self.device, GrantType::DeviceCode),
            (self.token_exchange, GrantType::TokenExchange),
            (!self.identity_assertions.is_empty(), GrantType::JwtBearer),
        ];
        on.into_iter().filter(|(is_on, _)| *is_on).map(|(_, grant_type)| grant_type).collect()
    }
}
