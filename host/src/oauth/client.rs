//! OAuth clients that are registered: by themselves (RFC 7591) or by an operator.
//!
//! A client whose id is the address of its metadata is not registered and not here. What a redirect address may look like
//! is decided before; here are only bounds.

use std::time::Duration;

use super::grant::OnReuse;
use super::redirect::RedirectUri;
use super::registration::describe;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::ClientId;
use crate::secret::Digest;

/// Bits of 64 that a JSON number has no room for.
const EXACT_BITS: u32 = 11;

/// A registered client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: ClientId,
    pub source: Source,
    pub metadata: Metadata,
    pub authentication: Authentication,
    /// What a refresh token that comes back after its grace does.
    pub on_reuse: OnReuse,
    pub created: Timestamp,
    /// When something was last granted to it or refreshed by it, give or take an hour. `None`: it is unused.
    pub last_used: Option<Timestamp>,
}

/// How a client came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It registered itself, and may change and delete its registration with a token of which this is the digest
    /// (RFC 7592).
    Registered { token: Digest, lives: Lives },
    /// An operator added it. It stays until an operator deletes it.
    Operator,
}

/// How long a client that registered itself is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// From its registration, while nobody uses it.
    pub unused: Duration,
    /// From its last use.
    pub inactive: Duration,
}

impl Default for Lives {
    /// 60 minutes, and 90 days.
    fn default() -> Self {
        Self { unused: Duration::from_secs(60 * 60), inactive: Duration::from_secs(90 * 24 * 60 * 60) }
    }
}

/// How a client proves who it is at the token endpoint (RFC 7591 §2, `token_endpoint_auth_method`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// `none`: a public client.
    Public,
    /// `client_secret_basic`
    SecretBasic(Digest),
    /// `client_secret_post`
    SecretPost(Digest),
    /// `private_key_jwt`
    PrivateKey(KeySource),
}

/// Where a client's own public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `jwks_uri`
    Address(String),
    /// `jwks`, as JSON text.
    Inline(String),
}

/// What a client says of itself (RFC 7591 §2). All of it is a stranger's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub name: Option<String>,
    pub redirect_uris: Vec<String>,
    pub grant_types: Vec<GrantType>,
    pub scopes: TokenList,
    pub contacts: Vec<String>,
    pub client_uri: Option<String>,
    pub logo_uri: Option<String>,
    pub tos_uri: Option<String>,
    pub policy_uri: Option<String>,
    pub software_id: Option<String>,
    pub software_version: Option<String>,
    /// `dpop_bound_access_tokens`: it wants no token that is not bound to a key of its own (RFC 9449 §5.2).
    pub requires_proof: bool,
}

/// What a client may present at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    AuthorizationCode,
    RefreshToken,
    ClientCredentials,
    DeviceCode,
    TokenExchange,
    JwtBearer,
}

/// The first bound that a client's description exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    #[error(
        "a client has at most {} redirect URIs of at most {} bytes each",
        Metadata::MAX_REDIRECTS,
        Metadata::MAX_URI
    )]
    RedirectUris,
    #[error("a client's name has at most {} bytes", Metadata::MAX_NAME)]
    Name,
    #[error("a URI of a client has at most {} bytes", Metadata::MAX_URI)]
    Uri,
    #[error(
        "a client has at most {} contacts, and no text of more than {} bytes",
        Metadata::MAX_CONTACTS,
        Metadata::MAX_TEXT
    )]
    Text,
    #[error("a client's keys have at most {} bytes", Metadata::MAX_KEYS)]
    Keys,
}

/// A client that may come to the authorization server, however it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownClient {
    pub id: ClientId,
    pub origin: ClientOrigin,
    pub metadata: Metadata,
    pub authentication: Authentication,
    pub on_reuse: OnReuse,
    /// Whether it has to push its authorization requests (RFC 9126 §6).
    pub requires_pushed: bool,
    /// Whether its tokens are bound to a key that it proves to have (RFC 9449 §5.2).
    pub requires_proof: bool,
}

/// Where what is known of a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOrigin {
    /// It registered itself (RFC 7591).
    Registered,
    /// An operator added it.
    Operator,
    /// The configuration has it.
    Configured,
    /// From the document that its id is the address of.
    Document,
}

impl KnownClient {
    /// Whether an operator of this gateway vouches for it.
    pub fn is_verified(&self) -> bool {
        matches!(self.origin, ClientOrigin::Operator | ClientOrigin::Configured)
    }

    /// Whether it is there only as long as the store has it.
    pub fn is_stored(&self) -> bool {
        matches!(self.origin, ClientOrigin::Registered | ClientOrigin::Operator)
    }

    /// Whether it may present this at the token endpoint.
    pub fn allows(&self, grant_type: GrantType) -> bool {
        self.metadata.grant_types.contains(&grant_type)
    }

    /// Whether it proves who it is.
    pub fn is_confidential(&self) -> bool {
        self.authentication != Authentication::Public
    }

    /// The registered redirect URI that `presented` counts as, if any does. `schemes` are those of applications that the
    /// operator trusts: what was registered under another rule does not count any more.
    pub fn redirect<'a>(&'a self, presented: &str, schemes: &[String]) -> Option<RedirectUri<'a>> {
        let registered = self.metadata.redirect_uris.iter();
        let parsed = registered.filter_map(|uri| RedirectUri::parse(uri, schemes).ok());
        parsed.into_iter().find(|uri| uri.matches(presented))
    }
}

impl From<Client> for KnownClient {
    fn from(client: Client) -> Self {
        let Client { id, source, metadata, authentication, on_reuse, created: _, last_used: _ } = client;
        let origin = match source {
            Source::Registered { .. } => ClientOrigin::Registered,
            Source::Operator => ClientOrigin::Operator,
        };
        let requires_proof = metadata.requires_proof;
        Self { id, origin, metadata, authentication, on_reuse, requires_pushed: false, requires_proof }
    }
}

impl Metadata {
    pub const MAX_REDIRECTS: usize = 10;
    pub const MAX_URI: usize = 2048;
    pub const MAX_NAME: usize = 400;
    pub const MAX_CONTACTS: usize = 10;
    pub const MAX_TEXT: usize = 256;
    pub const MAX_KEYS: usize = 16 * 1024;
}

impl Client {
    /// Tells one description of the client from another, for who changes it. What a program reads as a number is one.
    pub fn revision(&self) -> u64 {
        let mut described = describe(&self.metadata, &self.authentication);
        described.insert("on_reuse".to_owned(), self.on_reuse.as_str().into());
        let digest = Digest::of(serde_json::Value::Object(described).to_string().as_bytes());
        let leading = digest.as_bytes()[..8].try_into().expect("a digest is longer");
        u64::from_be_bytes(leading) >> EXACT_BITS
    }

    /// Whether it is within all bounds.
    ///
    /// # Errors
    /// The bound that it exceeds.
    pub fn check(&self) -> Result<(), TooLarge> {
        let Metadata {
            name,
            redirect_uris,
            grant_types: _,
            scopes: _,
            contacts,
            client_uri,
            logo_uri,
            tos_uri,
            policy_uri,
            software_id,
            software_version,
            requires_proof: _,
        } = &self.metadata;
        let fits = |text: &String, most: usize| text.len() <= most;
        let require = |fits: bool, failure| if fits { Ok(()) } else { Err(failure) };
        let redirects = redirect_uris.len() <= Metadata::MAX_REDIRECTS
            && redirect_uris.iter().all(|uri| fits(uri, Metadata::MAX_URI));
        require(redirects, TooLarge::RedirectUris)?;
        require(name.iter().all(|name| fits(name, Metadata::MAX_NAME)), TooLarge::Name)?;
        let mut uris = [client_uri, logo_uri, tos_uri, policy_uri].into_iter().flatten();
        require(uris.all(|uri| fits(uri, Metadata::MAX_URI)), TooLarge::Uri)?;
        let mut texts = contacts.iter().chain(software_id).chain(software_version);
        let texts = contacts.len() <= Metadata::MAX_CONTACTS && texts.all(|text| fits(text, Metadata::MAX_TEXT));
        require(texts, TooLarge::Text)?;
        let keys = match &self.authentication {
            Authentication::PrivateKey(KeySource::Address(uri)) => fits(uri, Metadata::MAX_URI),
            Authentication::PrivateKey(KeySource::Inline(keys)) => fits(keys, Metadata::MAX_KEYS),
            Authentication::Public | Authentication::SecretBasic(_) | Authentication::SecretPost(_) => true,
        };
        require(keys, TooLarge::Keys)
    }

    /// When it ends by itself, if it does.
    pub fn expires(&self) -> Option<Timestamp> {
        match (&self.source, self.last_used) {
            (Source::Registered { lives, .. }, None) => Some(self.created.after(lives.unused)),
            (Source::Registered { lives, .. }, Some(used)) => Some(used.after(lives.inactive)),
            (Source::Operator, _) => None,
        }
    }

    /// Whether it is still there at `now`, whether or not anybody has taken it away.
    pub fn is_registered(&self, now: Timestamp) -> bool {
        self.expires().is_none_or(|expires| now < expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client {
            id: ClientId::parse("c").unwrap(),
            source: Source::Registered { token: Digest::of(b"t"), lives: Lives::default() },
            metadata: Metadata::default(),
            authentication: Authentication::Public,
            on_reuse: OnReuse::RevokeFamily,
            created: Timestamp::from_millis(0),
            last_used: None,
        }
    }

    #[test]
    fn a_client_that_is_too_large_is_told_where() {
        let with = |change: fn(&mut Client)| {
            let mut client = client();
            change(&mut client);
            client.check()
        };
        assert_eq!(client().check(), Ok(()));
        assert_eq!(with(|c| c.metadata.redirect_uris = vec!["x".to_owned(); 11]), Err(TooLarge::RedirectUris));
        assert_eq!(with(|c| c.metadata.redirect_uris = vec!["x".repeat(2049)]), Err(TooLarge::RedirectUris));
        assert_eq!(with(|c| c.metadata.name = Some("x".repeat(401))), Err(TooLarge::Name));
        assert_eq!(with(|c| c.metadata.logo_uri = Some("x".repeat(2049))), Err(TooLarge::Uri));
        assert_eq!(with(|c| c.metadata.contacts = vec![String::new(); 11]), Err(TooLarge::Text));
        assert_eq!(with(|c| c.metadata.software_version = Some("x".repeat(257))), Err(TooLarge::Text));
        let keys =
            |c: &mut Client| c.authentication = Authentication::PrivateKey(KeySource::Inline("x".repeat(16_385)));
        assert_eq!(with(keys), Err(TooLarge::Keys));
    }

    #[test]
    fn what_nobody_uses_ends_first_and_what_an_operator_added_never() {
        let hour = Timestamp::from_millis(60 * 60 * 1000);
        let unused = client();
        assert!(unused.is_registered(Timestamp::from_millis(hour.as_millis() - 1)) && !unused.is_registered(hour));
        assert!(Client { last_used: Some(hour), ..client() }.is_registered(hour));
        let inactive = hour.after(Lives::default().inactive);
        assert!(!Client { last_used: Some(hour), ..client() }.is_registered(inactive));
        assert!(Client { source: Source::Operator, ..client() }.is_registered(inactive));
    }
}
