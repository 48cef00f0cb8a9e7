//! What is known of a token (RFC 7662), for a client that has shown who it is and that the token is its own, or addressed to it.
//!
//! Everybody else gets the answer that there is for a token that counts no more: it is no oracle (`docs/threat-model.md` row
//! T10).

use super::super::{AuthorizationServer, Fault};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ClientId, GrantId, Principal};
use crate::oauth::ResourceList;
use crate::oauth::client::KnownClient;
use crate::oauth::token::AccessToken;
use crate::secret::{Digest, Plaintext};
use crate::store::{grants, revocations};

/// A token that counts.
#[derive(Debug, PartialEq, Eq)]
pub struct Active {
    pub kind: Kind,
    pub principal: Principal,
    pub client: ClientId,
    pub resources: ResourceList,
    pub scopes: TokenList,
    /// Thumbprint of the key that it is bound to.
    pub proof: Option<Digest>,
    /// Who acts in the client's place, and who did before, newest first.
    pub actors: Vec<ClientId>,
    pub issued: Timestamp,
    pub expires: Timestamp,
}

/// What kind of token it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// With its `jti`.
    Access(String),
    Refresh,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Introspection {
    Active(Box<Active>),
    /// It counts for nothing, or is none of this client's business.
    Inactive,
    /// The client has not shown who it is: it has nothing to show that with.
    Public,
}

/// What this client, which has shown who it is, may know of a token.
///
/// # Errors
/// It cannot be known.
pub async fn introspect(
    server: &AuthorizationServer,
    client: &KnownClient,
    token: &Plaintext,
) -> Result<Introspection, Fault> {
    if !client.is_confidential() {
        return Ok(Introspection::Public);
    }
    let now = server.env.now();
    let active = match server.signing.verifier().verify(token.expose(), now, server.signing.epoch()) {
        Ok(access) => of_access(server, client, access).await?,
        Err(_) => of_refresh(server, client, token.digest()).await?,
    };
    Ok(active.map_or(Introspection::Inactive, |active| Introspection::Active(Box::new(active))))
}

/// The token, if it counts and is this client's own or addressed to it.
pub(super) async fn counting(
    server: &AuthorizationServer,
    client: &KnownClient,
    token: AccessToken,
) -> Result<Option<AccessToken>, Fault> {
    let is_addressed = token.resources.iter().any(|resource| resource == client.id.as_str());
    if token.client != client.id && !is_addressed {
        return Ok(None);
    }
    let listed = grants::get(&server.store, &token.grant).await?;
    if listed.is_none_or(|listed| listed.end.is_some()) || is_denied(server, &token.grant, token.id.as_str()).await? {
        return Ok(None);
    }
    if !is_alive(server, &token.principal, &token.client, &token.scopes).await? {
        return Ok(None);
    }
    Ok(Some(token))
}

async fn of_access(
    server: &AuthorizationServer,
    client: &KnownClient,
    token: AccessToken,
) -> Result<Option<Active>, Fault> {
    let Some(token) = counting(server, client, token).await? else { return Ok(None) };
    let AccessToken { id, principal, client, resources, scopes, proof, actors, issued, expires, .. } = token;
    Ok(Some(Active {
        kind: Kind::Access(id.as_str().to_owned()),
        principal,
        client,
        resources,
        scopes,
        proof,
        actors,
        issued,
        expires,
    }))
}

async fn is_denied(server: &AuthorizationServer, grant: &GrantId, jti: &str) -> Result<bool, Fault> {
    let jti = Digest::of(jti.as_bytes()).to_hex();
    let denied = revocations::denied_of(&server.store, grant).await?;
    Ok(denied.iter().any(|denied| denied.token.as_ref().is_none_or(|token| *token == jti)))
}

async fn of_refresh(
    server: &AuthorizationServer,
    client: &KnownClient,
    token: Digest,
) -> Result<Option<Active>, Fault> {
    let Some((listed, token)) = grants::by_token(&server.store, token).await? else { return Ok(None) };
    let grant = listed.grant;
    if grant.client != client.id || listed.end.is_some() || token.used.is_some() {
        return Ok(None);
    }
    if !is_alive(server, &grant.principal, &grant.client, &grant.access.scopes).await? {
        return Ok(None);
    }
    Ok(Some(Active {
        kind: Kind::Refresh,
        principal: grant.principal,
        client: grant.client,
        resources: grant.access.resources,
        scopes: grant.access.scopes,
        proof: grant.proof,
        actors: Vec::new(),
        issued: token.issued,
        expires: grant.idle_until.min(grant.until),
    }))
}

async fn is_alive(
    server: &AuthorizationServer,
    principal: &Principal,
    client: &ClientId,
    scopes: &TokenList,
) -> Result<bool, Fault> {
    let snapshot = server.snapshot.load_full();
    Ok(server.acting(&snapshot, principal, client, scopes).await?.is_some())
}

#[cfg(test)]
mod tests;
