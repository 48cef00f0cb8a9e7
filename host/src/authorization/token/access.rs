//! Access tokens as they are made of what a grant gives.

use std::sync::Arc;
use std::time::Duration;

use super::super::{AuthorizationServer, Fault};
use super::Refused;
use crate::env::Timestamp;
use crate::identity::{TokenList, ToolScope};
use crate::ids::{ClientId, GrantId, Principal, TokenId};
use crate::oauth::ResourceList;
use crate::oauth::token::{AccessToken, Unsigned};
use crate::secret::{Digest, Plaintext};

/// What a token is to say.
pub(super) struct Saying<'a> {
    pub(super) grant: &'a GrantId,
    pub(super) principal: &'a Principal,
    pub(super) client: &'a ClientId,
    pub(super) resources: ResourceList,
    pub(super) scopes: TokenList,
    pub(super) tools: ToolScope,
    /// Thumbprint of the key that it is bound to.
    pub(super) proof: Option<Digest>,
    /// Who acts in the client's place, and who did before, newest first.
    pub(super) actors: Vec<ClientId>,
    /// A JSON object of further claims.
    pub(super) claims: Option<Arc<str>>,
    pub(super) life: Duration,
}

/// A token that is signed, how long it counts, and when it says that it was issued.
pub(super) struct Signed {
    pub(super) token: Plaintext,
    pub(super) life: Duration,
    pub(super) at: Timestamp,
}

/// A token. What policies have it say may be more than fits: that is no fault, which would be another time.
pub(super) fn signed(server: &AuthorizationServer, saying: Saying<'_>) -> Result<Result<Signed, Refused>, Fault> {
    let Saying { grant, principal, client, resources, scopes, tools, proof, actors, claims, life } = saying;
    let now = server.env.now();
    let token = AccessToken {
        id: TokenId::generate(&server.env),
        principal: principal.clone(),
        client: client.clone(),
        grant: grant.clone(),
        resources,
        scopes,
        tools,
        proof,
        actors,
        claims,
        issued: now,
        expires: now.after(life),
        epoch: server.signing.epoch(),
    };
    match server.signing.sign(&token) {
        Ok(signed) => Ok(Ok(Signed { token: Plaintext::new(signed), life, at: now })),
        Err(Unsigned::TooLarge) => {
            tracing::warn!(client = %token.client, grant = %token.grant, "the policies have an access token say too much");
            Ok(Err(Refused::TooLarge))
        }
        Err(unsigned) => Err(unsigned.into()),
    }
}

/// The resources that a token is for: those that are asked for, or all that were granted. They were compared before.
pub(super) fn audience(asked: &ResourceList, granted: &ResourceList) -> ResourceList {
    if asked.is_empty() { granted.clone() } else { asked.clone() }
}
