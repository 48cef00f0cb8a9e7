//! What an upstream is shown as a credential, and where that comes from.

use crate::identity::TokenList;
use crate::ids::{DeploymentId, UpstreamName};
use crate::secret::{Digest, Plaintext, hex};

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
    /// Tokens that an authorization server gives for each person whom the gateway vouches for.
    TokenExchange(Box<TokenExchange>),
    /// Values that each principal gives for these headers, in lower case, in the order that the form asks for them.
    PerUserHeaders(Vec<String>),
    /// Values that each principal gives for these environment variables of the program, in the order that the form asks for
    /// them.
    PerUserEnvironment {
        names: Vec<String>,
        /// Processes at once, one for each principal.
        max_programs: usize,
    },
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

/// How the gateway vouches for people at an authorization server (RFC 8693).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenExchange {
    /// Always with a client, which has a secret.
    pub client: OAuthClient,
    /// `audience`
    pub audience: Option<String>,
    /// `resource`; without it, what the upstream says of itself.
    pub resource: Option<String>,
    pub subject: SubjectOf,
    /// What is said of a person besides.
    pub claims: Vec<VouchedClaim>,
}

words! {
    /// What a person is called there.
    SubjectOf {
        /// Their id here.
        Id = "id",
        Login = "login",
        Email = "email",
        /// As an OpenID provider knows them.
        Provider = "provider",
    }

    /// What is said of a person.
    VouchedClaim {
        Login = "login",
        Name = "name",
        Email = "email",
        Groups = "groups",
    }
}

/// How a client that was registered by hand authenticates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCredentials {
    pub id: String,
    /// None for a public client.
    pub secret: Option<Plaintext>,
}

/// What tells the addresses of an upstream's connection contexts apart, `<public URL>/connect/callback/CONTEXT`: of this
/// deployment, this upstream and this issuer, in hex. It says nothing to others, and is the same on every replica.
pub fn connection_context(deployment: &DeploymentId, upstream: &UpstreamName, issuer: &str) -> String {
    let of = [&b"portcullis connection context 1\0"[..], deployment.as_bytes(), upstream.as_str().as_bytes(), &[0]];
    let digest = Digest::of(&[&of.concat(), issuer.as_bytes()].concat());
    hex(&digest.as_bytes()[..16])
}
