//! What an upstream is shown as a credential, and where that comes from.

use crate::identity::TokenList;
use crate::secret::Plaintext;

/// `[upstreams.NAME.auth]`. The headers and variables of the transport are sent whatever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamAuth {
    /// Nothing besides what the transport has.
    #[default]
    None,
    /// Tokens of one connection that an operator made for all.
    SharedOAuth(Box<OAuthClient>),
    /// Tokens of each principal's own connection.
    PerUserOAuth(Box<OAuthClient>),
    /// Values that each principal gives for these headers, in lower case, in the order that the form asks for them.
    PerUserHeaders(Vec<String>),
}

/// What the operator knows of the authorization server of an upstream. Whatever is missing is discovered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OAuthClient {
    /// The issuer identifier; without it, the one that the upstream names (RFC 9728).
    pub issuer: Option<String>,
    /// A client that was registered there by hand; without it, one is registered.
    pub client: Option<ClientCredentials>,
    /// What is asked for; without it, what the upstream asks for.
    pub scopes: Option<TokenList>,
}

/// How a client that was registered by hand authenticates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCredentials {
    pub id: String,
    /// None for a public client.
    pub secret: Option<Plaintext>,
}
