//! Authorization requests that a client pushes beforehand (RFC 9126), for one use of a reference to them.
//!
//! What is kept is text: it is checked now, so that the client is told what is wrong, and again when it is taken.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::authorize::parameters::MAX_BYTES;
use super::super::authorize::{Check, check_pushed};
use super::super::{AuthorizationServer, Fault};
use crate::oauth::client::KnownClient;
use crate::secret::Plaintext;
use crate::store::authorizations::{Push, push};

/// What every reference begins with (RFC 9126 §2.2). Behind it are 256 random bits.
pub const PREFIX: &str = "urn:ietf:params:oauth:request_uri:";
/// How long a reference can be used (`docs/threat-model.md` row A20).
pub const LIFE: Duration = Duration::from_secs(60);
/// Most requests that wait.
const MAX_WAITING: u64 = 10_000;

/// What came of it.
#[derive(Debug)]
pub enum Pushing {
    /// The reference, by whose digest [`crate::store::authorizations::take_pushed`] finds the request.
    Kept(Plaintext),
    TooLarge,
    /// It could not be answered as it stands (RFC 9126 §2.1).
    Refused(Check),
    /// As many wait as may.
    TooMany,
}

/// Keeps the parameters of a request, form-encoded, for this client, which has shown who it is.
///
/// # Errors
/// Nothing is known to be kept.
pub async fn keep(server: &AuthorizationServer, client: &KnownClient, parameters: String) -> Result<Pushing, Fault> {
    if parameters.len() > MAX_BYTES {
        return Ok(Pushing::TooLarge);
    }
    if let Err(check) = check_pushed(server, client, &parameters) {
        return Ok(Pushing::Refused(check));
    }
    let reference = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(server.env.random::<32>()));
    let reference = Plaintext::new(reference);
    let kept = push(&server.store, reference.digest(), client.id.clone(), parameters, LIFE, MAX_WAITING).await?;
    Ok(match kept {
        Push::Kept => Pushing::Kept(reference),
        Push::TooLarge => Pushing::TooLarge,
        Push::TooMany => Pushing::TooMany,
    })
}

#[cfg(test)]
mod tests;
