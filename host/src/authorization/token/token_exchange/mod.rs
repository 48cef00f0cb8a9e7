//! An access token for a narrower one, `urn:ietf:params:oauth:grant-type:token-exchange` (RFC 8693): for fewer scopes or
//! resources, never for more, and never for longer.
//!
//! What is exchanged is a token of ours that counts, by the client that has it or that it is addressed to, which has shown who
//! it is. The new one follows from the same grant and is that grant's client's, so that it ends with it; who has exchanged it
//! besides stands in `act`, with whoever did so before (RFC 8693 §4.1). Off unless an operator turns it on
//! (`docs/threat-model.md` row T17).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::super::{AuthorizationServer, Fault};
use super::access::{Saying, Signed, signed};
use super::id_jag::covers;
use super::introspect::counting;
use super::refresh::read_scopes;
use super::unattended::{Question, ours, terms};
use super::{From, Issued, NoGrant, Refused};
use crate::identity::{TokenList, ToolScope};
use crate::ids::ClientId;
use crate::oauth::ResourceList;
use crate::oauth::client::{GrantType, KnownClient};
use crate::oauth::request::Mismatch;
use crate::oauth::token::{AccessToken, MAX_ACTORS};
use crate::pipeline::Snapshot;
use crate::policy::authority::{GrantKind, GrantTerms};
use crate::secret::{Digest, Plaintext};

/// What a client presents.
#[derive(Debug)]
pub struct Wanted {
    /// `subject_token`
    pub subject: Plaintext,
    /// None: all that the token has and the client may have.
    pub scope: Option<String>,
    /// None: those of the token.
    pub resources: Vec<String>,
    /// Thumbprint of the key that was proven (DPoP).
    pub proof: Option<Digest>,
    pub from: From,
}

/// Exchanges a token for a client that has shown who it is.
///
/// # Errors
/// Nothing was decided.
pub async fn grant(
    server: &AuthorizationServer,
    client: &KnownClient,
    wanted: Wanted,
) -> Result<Result<Issued, Refused>, Fault> {
    let snapshot = server.snapshot.load_full();
    let is_on = snapshot.auth.grants.token_exchange;
    if !is_on || !client.allows(GrantType::TokenExchange) || !client.is_confidential() {
        return Ok(Err(Refused::GrantType));
    }
    let Wanted { subject, scope, resources, proof, from } = wanted;
    let now = server.env.now();
    let Ok(subject) = server.signing.verifier().verify(subject.expose(), now, server.signing.epoch()) else {
        return Ok(Err(Refused::SubjectToken));
    };
    let Some(subject) = counting(server, client, subject).await? else { return Ok(Err(Refused::SubjectToken)) };
    if let Err(refused) = check_proof(client, &subject, proof) {
        return Ok(Err(refused));
    }
    let Some(actors) = actors(client, &subject) else { return Ok(Err(Refused::SubjectToken)) };
    let scopes = match scopes_of(client, scope.as_deref(), &subject) {
        Ok(scopes) => scopes,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(resources) = resources_of(server, &snapshot, resources, &subject) else {
        return Ok(Err(Refused::Resources));
    };
    let left = Duration::from_millis(subject.expires.as_millis().saturating_sub(now.as_millis()));
    let life = snapshot.auth.tokens.access_life.min(left);
    let Some(caller) = server.acting(&snapshot, &subject.principal, &client.id, &scopes).await? else {
        return Ok(Err(Refused::SubjectToken));
    };
    let question = Question {
        kind: GrantKind::TokenExchange,
        scopes: &scopes,
        already_granted: &subject.scopes,
        resources: &resources,
        caller: &caller,
        life,
        proof,
        from: &from,
    };
    let terms = match terms(server, &snapshot, client, question).await {
        Ok(terms) => terms,
        Err(refused) => return Ok(Err(refused)),
    };
    let left = TokenList::parse(terms.scopes.clone()).ok().filter(|left| !left.is_empty() || scopes.is_empty());
    let Some(scopes) = left else { return Ok(Err(Refused::Scopes)) };
    // More lists of tools than a token may have cannot be told, and must not be left out.
    let Some(tools) = tools(&subject, &terms) else { return Ok(Err(Refused::Grant(NoGrant::Policy))) };
    let saying = Saying {
        grant: &subject.grant,
        principal: &subject.principal,
        client: &subject.client,
        resources,
        scopes: scopes.clone(),
        tools,
        proof,
        actors,
        claims: claims(&subject, &terms)?,
        life: terms.access_ttl.min(life),
    };
    let Signed { token: access_token, life, at: _ } = match signed(server, saying)? {
        Ok(signed) => signed,
        Err(refused) => return Ok(Err(refused)),
    };
    Ok(Ok(Issued { access_token, is_bound: proof.is_some(), life, refresh_token: None, scopes }))
}

/// What is bound to a key is not exchanged for what is not, and by its own client only with that key.
fn check_proof(client: &KnownClient, subject: &AccessToken, proof: Option<Digest>) -> Result<(), Refused> {
    let Some(key) = subject.proof else { return Ok(()) };
    match proof {
        None => Err(Refused::ProofNeeded),
        Some(proven) if client.id == subject.client && proven != key => Err(Mismatch::Proof.into()),
        Some(_) => Ok(()),
    }
}

/// Who acts from now on, newest first, if there are not too many.
fn actors(client: &KnownClient, subject: &AccessToken) -> Option<Vec<ClientId>> {
    let mut actors = subject.actors.clone();
    if *actors.first().unwrap_or(&subject.client) != client.id {
        actors.insert(0, client.id.clone());
    }
    (actors.len() <= MAX_ACTORS).then_some(actors)
}

/// The scopes that are asked for, all of which the token has and the client may have; or all of those.
fn scopes_of(client: &KnownClient, asked: Option<&str>, subject: &AccessToken) -> Result<TokenList, Refused> {
    let own = &client.metadata.scopes;
    let may = if own.is_empty() { subject.scopes.clone() } else { subject.scopes.in_common_with(own) };
    let Some(asked) = asked else { return Ok(may) };
    let asked = read_scopes(asked)?;
    if asked.iter().all(|scope| may.contains(scope)) { Ok(asked) } else { Err(Refused::Scopes) }
}

/// The resources that are asked for, all of which are ours and in what the token is for; or those of the token.
fn resources_of(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    asked: Vec<String>,
    subject: &AccessToken,
) -> Option<ResourceList> {
    if asked.is_empty() {
        return Some(subject.resources.clone());
    }
    ours(server, snapshot, asked).filter(|asked| covers(server, &subject.resources, asked))
}

/// The tools that are left of what the token reaches.
fn tools(subject: &AccessToken, terms: &GrantTerms) -> Option<ToolScope> {
    let mut tools = subject.tools.clone();
    for patterns in &terms.tools.0 {
        tools.narrow(patterns.clone());
    }
    ToolScope::parse(&tools.to_texts())
}

/// What policies have had the token say, and what they say besides now. What was said stays as it was.
fn claims(subject: &AccessToken, terms: &GrantTerms) -> Result<Option<Arc<str>>, Fault> {
    let mut claims = terms.claims.clone();
    if let Some(said) = subject.claims.as_deref() {
        // It was read from a token of ours a moment ago.
        let said: BTreeMap<String, Box<RawValue>> = serde_json::from_str(said).map_err(|_| Fault::Key)?;
        claims.extend(said);
    }
    let text = serde_json::to_string(&claims).map_err(|_| Fault::Key)?;
    Ok((!claims.is_empty()).then(|| text.into()))
}

#[cfg(test)]
mod tests;
