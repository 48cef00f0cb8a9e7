//! The end of a token at the wish of the client that has it (RFC 7009).
//!
//! A refresh token takes its family with it, an access token itself alone. What is another client's, or nothing that we
//! know, is left as it is, and nobody is told (`docs/threat-model.md` row T9).

use super::super::{AuthorizationServer, Fault};
use crate::audit::Actor;
use crate::oauth::client::KnownClient;
use crate::secret::{Digest, Plaintext};
use crate::store::{grants, revocations};

/// Revokes a token of this client, which has shown who it is. What kind of token it is shows by itself.
///
/// # Errors
/// It may or may not have ended: whoever asks again ends it.
pub async fn revoke(server: &AuthorizationServer, client: &KnownClient, token: &Plaintext) -> Result<(), Fault> {
    let now = server.env.now();
    if let Ok(access) = server.signing.verifier().verify(token.expose(), now, server.signing.epoch()) {
        if access.client == client.id {
            let jti = Digest::of(access.id.as_str().as_bytes());
            revocations::revoke_token(&server.store, access.grant, jti, Actor::System).await?;
        }
        return Ok(());
    }
    grants::revoke_token(&server.store, token.digest(), &client.id).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
