//! Portcullis as a client of the authorization servers of upstreams: what they say, and what is said to them.
//!
//! Pure. In the order in which a connection comes to be: the upstream's [`challenge`], where its documents are and what the
//! first of them says ([`discovery`]), what the authorization server says of itself ([`metadata`]), our [`registration`] and
//! what we are then ([`client`]), the address that a person is sent to ([`authorize`], [`scopes`]), tokens ([`token`]) and
//! their end ([`revoke`]). All that comes from there is a stranger's word: it is bounded, checked, and never repeated to
//! anybody. Asking is `connections::provider`'s.

pub mod address;
pub mod authorize;
pub mod challenge;
pub mod client;
pub mod discovery;
pub mod metadata;
pub mod registration;
pub mod revoke;
pub mod scopes;
pub mod token;

pub use address::{Address, Vouched};
pub use client::{Authentication, Client, Method};
pub use metadata::Metadata;

words! {
    /// Why an upstream's authorization cannot be worked with. The words are fit for people.
    Unfit {
        Transport = "the upstream is not reached over HTTP",
        NoOAuth = "the upstream is not configured to take tokens",
        ResourceMissing = "the upstream names a description of its authorization that is not there",
        ResourceUnreadable = "what the upstream says of its authorization cannot be read",
        OtherResource = "what the upstream says of its authorization is about another resource",
        NoServers = "the upstream names no authorization server that can be used",
        OtherServer = "the upstream has moved to another authorization server",
        Missing = "the authorization server does not describe itself",
        Unreadable = "what the authorization server says of itself cannot be read",
        OtherIssuer = "what the authorization server says of itself is about another one",
        Insecure = "an address of the authorization server is not an https address",
        NoEndpoint = "the authorization server lacks an endpoint",
        NoPkce = "the authorization server does not say that it supports PKCE with S256",
        NoMethod = "the authorization server wants to be shown what we do not have",
        NoRegistration = "the authorization server registers nobody: a client has to be configured",
        NotRegistered = "the authorization server refused to register a client: one has to be configured",
        Registered = "the authorization server registered a client that cannot be used",
        Guarded = "an address that is named there leads where the gateway does not go",
    }
}
