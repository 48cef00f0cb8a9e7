//! A code for tokens, `authorization_code` (RFC 6749 §4.1.3, RFC 7636 §4.5).
//!
//! A code is good once. Who brings it a second time is the client that had it stolen or the thief, and what the first one got
//! ends (`docs/threat-model.md` row T1); who is another client changes nothing. The access token is signed before the code is
//! redeemed: a key that does not sign must not cost the client its code.

use super::super::{AuthorizationServer, Fault};
use super::access::audience;
use super::first::first;
use super::{Issued, NoGrant, Refused};
use crate::oauth::access::{Access, ResourceList};
use crate::oauth::client::{GrantType, KnownClient};
use crate::oauth::request::{Code, CodeProof};
use crate::pipeline::Snapshot;
use crate::secret::{Digest, Plaintext};
use crate::store::authorizations::{Redemption, fresh_code, redeem_code};

/// Lengths of a `code_verifier` (RFC 7636 §4.1).
const VERIFIER_LENGTHS: std::ops::RangeInclusive<usize> = 43..=128;

/// What a client presents.
#[derive(Debug)]
pub struct Exchange {
    pub code: Plaintext,
    pub redirect_uri: String,
    pub verifier: Option<Plaintext>,
    /// The resources that the token is to be for; none: all that were granted (RFC 8707 §2.2).
    pub resources: Vec<String>,
    /// Thumbprint of the key that was proven (DPoP).
    pub proof: Option<Digest>,
}

/// Redeems a code of this client, which has shown who it is.
///
/// # Errors
/// Nothing was decided, and the code is as good as it was.
pub async fn exchange(
    server: &AuthorizationServer,
    client: &KnownClient,
    request: Exchange,
) -> Result<Result<Issued, Refused>, Fault> {
    if !client.allows(GrantType::AuthorizationCode) {
        return Ok(Err(Refused::GrantType));
    }
    let Exchange { code, redirect_uri, verifier, resources, proof } = request;
    let Some(resources) = ResourceList::parse(resources) else { return Ok(Err(Refused::Resources)) };
    let verifier = verifier.filter(is_verifier).map(|verifier| verifier.digest());
    let presented = CodeProof { client: client.id.clone(), redirect_uri, verifier, resources, proof };
    let snapshot = server.snapshot.load_full();
    let settings = &snapshot.auth.tokens;
    let fresh = fresh_code(&server.store, code.digest()).await?.filter(|fresh| fresh.check(&presented).is_ok());
    let Some(fresh) = fresh else {
        // Whatever is wrong with it, the store says what, and does what is to be done about it.
        return refusal(&redeem_code(&server.store, code.digest(), presented, None).await?).map(Err);
    };
    if let Err(refused) = may_be_granted(server, &snapshot, client, &fresh, proof).await? {
        return Ok(Err(refused));
    }
    let audience = audience(&presented.resources, &fresh.access.resources);
    let prepared = first(server, client, settings, (&fresh.principal, &fresh.access), (audience, proof))?;
    let (new, issued) = match prepared {
        Ok(prepared) => prepared,
        Err(refused) => return Ok(Err(refused)),
    };
    match redeem_code(&server.store, code.digest(), presented, Some(new)).await? {
        Redemption::Granted(_) => Ok(Ok(issued)),
        redemption => refusal(&redemption).map(Err),
    }
}

/// What does not depend on the store's transaction, and holds again with every request that the token is used for.
async fn may_be_granted(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    client: &KnownClient,
    code: &Code,
    proof: Option<Digest>,
) -> Result<Result<(), Refused>, Fault> {
    let Access { scopes, limits, .. } = &code.access;
    if server.acting(snapshot, &code.principal, &client.id, scopes).await?.is_none() {
        return Ok(Err(Refused::Grant(NoGrant::Principal)));
    }
    let has_to_prove = limits.sender_constrained || client.requires_proof;
    Ok(if has_to_prove && proof.is_none() { Err(Refused::ProofNeeded) } else { Ok(()) })
}

fn refusal(redemption: &Redemption) -> Result<Refused, Fault> {
    Ok(match redemption {
        // It was not there a moment ago: whoever asks again is answered.
        Redemption::Granted(_) | Redemption::Unprepared => return Err(Fault::Busy),
        Redemption::Replayed { .. } => Refused::Grant(NoGrant::Replayed),
        Redemption::Mismatch(mismatch) => (*mismatch).into(),
        Redemption::Gone(gone) => (*gone).into(),
    })
}

/// Whether it is one at all: unreserved characters of RFC 3986, as many as RFC 7636 §4.1 has them.
fn is_verifier(verifier: &Plaintext) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    VERIFIER_LENGTHS.contains(&verifier.expose().len()) && verifier.expose().bytes().all(is_allowed)
}

#[cfg(test)]
mod tests;
