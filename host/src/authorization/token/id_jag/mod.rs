//! A token for a person whom another issuer vouches for, `urn:ietf:params:oauth:grant-type:jwt-bearer` with an identity
//! assertion (RFC 7523 §2.1, Identity Assertion JWT Authorization Grant; MCP's enterprise-managed authorization).
//!
//! The operator trusts the issuer (`[[auth.grants.identity_assertions]]`): its assertion stands for a sign-in and for a consent,
//! to exactly what it names. The person is found as at a sign-in with that issuer, and nobody gets an account who has none and
//! was not invited. There is no refresh token: who may come again is for the issuer to say (`docs/threat-model.md` row T17).

use super::super::key_sets::issuer_keys;
use super::super::{AuthorizationServer, Fault};
use super::unattended::{Question, issue, ours, scopes, terms};
use super::{From, Issued, NoGrant, Refused};
use crate::identity::TokenList;
use crate::ids::Principal;
use crate::oauth::ResourceList;
use crate::oauth::client::{GrantType, KnownClient};
use crate::oauth::id_jag::{self, IdentityAssertion};
use crate::pipeline::Snapshot;
use crate::policy::authority::GrantKind;
use crate::secret::{Digest, Plaintext};
use crate::store::grants::Of;
use crate::store::marks::{self, Kind, Mark};
use crate::store::users::{self, Arrival, Arrived};

/// What a client presents.
#[derive(Debug)]
pub struct Presented {
    pub assertion: Plaintext,
    /// None: all that the assertion is good for and the client may have.
    pub scope: Option<String>,
    /// None: those that the assertion names.
    pub resources: Vec<String>,
    /// Thumbprint of the key that was proven (DPoP).
    pub proof: Option<Digest>,
    pub from: From,
}

/// Gives a token to a client that has shown who it is, for whoever the assertion is about.
///
/// # Errors
/// Nothing was decided.
pub async fn grant(
    server: &AuthorizationServer,
    client: &KnownClient,
    presented: Presented,
) -> Result<Result<Issued, Refused>, Fault> {
    let snapshot = server.snapshot.load_full();
    // A client that cannot show who it is could be anybody to whom the assertion was shown.
    if !client.allows(GrantType::JwtBearer) || !client.is_confidential() {
        return Ok(Err(Refused::GrantType));
    }
    let Presented { assertion, scope, resources, proof, from } = presented;
    let said = match verified(server, &snapshot, client, &assertion).await? {
        Ok(said) => said,
        Err(refused) => return Ok(Err(refused)),
    };
    let scopes = match scopes_of(&snapshot, client, scope.as_deref(), &said) {
        Ok(scopes) => scopes,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(resources) = resources_of(server, &snapshot, resources, &said) else {
        return Ok(Err(Refused::Resources));
    };
    let Some(principal) = person(server, &said).await? else {
        return Ok(Err(Refused::Grant(NoGrant::Principal)));
    };
    let Some(caller) = server.acting(&snapshot, &principal, &client.id, &scopes).await? else {
        return Ok(Err(Refused::Grant(NoGrant::Principal)));
    };
    let question = Question {
        kind: GrantKind::JwtBearer,
        scopes: &scopes,
        already_granted: &[],
        resources: &resources,
        caller: &caller,
        life: snapshot.auth.tokens.access_life,
        proof,
        from: &from,
    };
    let terms = match terms(server, &snapshot, client, question).await {
        Ok(terms) => terms,
        Err(refused) => return Ok(Err(refused)),
    };
    // Last of all, so that whoever has to come again for another reason may bring the same one.
    if marks::consume_once(&server.store, Kind::Jti, said.once, said.until).await? == Mark::Seen {
        return Ok(Err(Refused::Grant(NoGrant::Replayed)));
    }
    let of = Of::Principal(principal.clone());
    issue(server, client, (principal, of), resources, &terms, proof).await
}

/// What an assertion says, if its issuer is trusted and it is good.
async fn verified(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    client: &KnownClient,
    assertion: &Plaintext,
) -> Result<Result<IdentityAssertion, Refused>, Fault> {
    let refused = |reason: &dyn std::fmt::Display| {
        tracing::info!(client = %client.id, %reason, "refused an identity assertion");
        Ok(Err(Refused::Grant(NoGrant::Assertion)))
    };
    let issuers = &snapshot.auth.grants.identity_assertions;
    let claimed = id_jag::claimed(assertion.expose());
    // Byte for byte.
    let Some(trusted) = issuers.iter().find(|trusted| claimed.as_ref() == Some(&trusted.issuer)) else {
        return refused(&"its issuer is not trusted");
    };
    // Whoever writes another address for the same issuer means other keys.
    let place = format!("{} {}", trusted.issuer, trusted.jwks_uri.as_deref().unwrap_or_default());
    let fetch = async || issuer_keys(&server.fetcher, trusted).await;
    let keys = server.issuer_keys.find(&server.env, &place, assertion, fetch).await?.ok_or(Fault::Issuer)?;
    let expected = (&client.id, server.issuer.as_str());
    match id_jag::verify(assertion.expose(), &keys, &trusted.issuer, expected, server.env.now()) {
        Ok(said) => Ok(Ok(said)),
        Err(invalid) => refused(&invalid),
    }
}

/// The scopes that are asked for, all of which the assertion is good for and the client may have; or all of those.
fn scopes_of(
    snapshot: &Snapshot,
    client: &KnownClient,
    asked: Option<&str>,
    said: &IdentityAssertion,
) -> Result<TokenList, Refused> {
    let may = scopes(&snapshot.auth, client, asked)?;
    let Some(good_for) = &said.scopes else { return Ok(may) };
    let left = may.in_common_with(good_for);
    let is_whole = asked.is_none() || left.len() == may.len();
    if is_whole && !left.is_empty() { Ok(left) } else { Err(Refused::Scopes) }
}

/// The resources that are asked for, all of which are ours and the assertion is good for; or all that it names.
fn resources_of(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    asked: Vec<String>,
    said: &IdentityAssertion,
) -> Option<ResourceList> {
    if said.resources.is_empty() {
        return ours(server, snapshot, asked);
    }
    let named = ours(server, snapshot, said.resources.to_vec())?;
    if asked.is_empty() {
        return Some(named);
    }
    ours(server, snapshot, asked).filter(|asked| covers(server, &named, asked))
}

/// Whether all of these resources are among those, or part of one that is.
pub(super) fn covers(server: &AuthorizationServer, held: &ResourceList, wanted: &ResourceList) -> bool {
    held.contains(&server.metadata().resource(None)) || wanted.iter().all(|resource| held.contains(resource))
}

/// Whoever the assertion is about, if they have an account or were invited.
async fn person(server: &AuthorizationServer, said: &IdentityAssertion) -> Result<Option<Principal>, Fault> {
    let IdentityAssertion { identity, email, .. } = said.clone();
    let arrival = Arrival { identity, name: None, email, groups: None, admission: None };
    Ok(match users::sign_in(&server.store, arrival).await? {
        Arrived::Known(user) | Arrived::Linked(user) | Arrived::Admitted(user) => {
            Some(Principal::User(user.id.clone()))
        }
        Arrived::Suspended(_) | Arrived::Stranger | Arrived::TooMany => None,
    })
}

#[cfg(test)]
mod tests;
