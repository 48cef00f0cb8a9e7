//! Tokens for which nobody is asked in a browser: for a client in its own name, for a person whom an issuer vouches for, and for
//! another token. Policies are asked, and whatever they want a consent for has it: the operator, the issuer or the first
//! token's person gave it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::consent::services_of;
use super::super::consent::terms::facts;
use super::super::{AuthorizationServer, Fault};
use super::access::{Saying, Signed, signed};
use super::refresh::{read_scopes, refused_by_policy};
use super::{From, Issued, NoGrant, Refused};
use crate::audit::Party;
use crate::config::Auth;
use crate::identity::{Caller, TokenList};
use crate::ids::{GrantId, Principal};
use crate::oauth::access::{Access, AccessLimits, IdentitySet, ResourceList};
use crate::oauth::client::KnownClient;
use crate::oauth::grant::Grant;
use crate::pipeline::renewal::Presenter;
use crate::pipeline::{Snapshot, unattended};
use crate::policy::authority::{GrantDecision, GrantKind, GrantRequest, GrantTerms, LifetimeCaps};
use crate::secret::Digest;
use crate::store::grants::{self, NewGrant, Of};

/// How long one grant lasts from which tokens follow.
pub(super) const GRANT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Of a client's or a person's grants, as many of the newest are looked at for one that still fits.
const RECENT_GRANTS: usize = 50;

/// What policies are asked.
pub(super) struct Question<'a> {
    pub(super) kind: GrantKind,
    pub(super) scopes: &'a TokenList,
    pub(super) already_granted: &'a [String],
    pub(super) resources: &'a ResourceList,
    /// As whom the client acts.
    pub(super) caller: &'a Caller,
    /// The longest that the token counts.
    pub(super) life: Duration,
    pub(super) proof: Option<Digest>,
    pub(super) from: &'a From,
}

/// What policies leave of it.
pub(super) async fn terms(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    client: &KnownClient,
    question: Question<'_>,
) -> Result<GrantTerms, Refused> {
    let Question { kind, scopes, already_granted, resources, caller, life, proof, from } = question;
    let request = GrantRequest {
        kind,
        client: facts(client, None),
        scopes: scopes.to_vec(),
        already_granted: already_granted.to_vec(),
        resources: resources.to_vec(),
        upstreams: services_of(snapshot, &server.issuer, resources, caller),
        consent_on_file: true,
        access_ttl: life,
        refresh_ttl: None,
        sender_constrained: proof.is_some(),
    };
    let caps = LifetimeCaps { access: life, refresh: snapshot.auth.tokens.refresh_idle };
    let presenter = Presenter { caller, remote_ip: from.address, user_agent: from.user_agent.as_deref() };
    let terms = match unattended::grant(snapshot, &server.services, &presenter, &request, caps).await {
        Ok(GrantDecision::Granted(terms)) => terms,
        // There is nobody who could.
        Ok(GrantDecision::Consent(_)) => return Err(Refused::Grant(NoGrant::Policy)),
        Err(refusal) => return Err(refused_by_policy(&refusal)),
    };
    let is_lacking = (terms.require_sender_constraint || client.requires_proof) && proof.is_none();
    if is_lacking { Err(Refused::ProofNeeded) } else { Ok(terms) }
}

/// Signs a token, and makes the grant that it follows from unless there is one among the newest of those.
pub(super) async fn issue(
    server: &AuthorizationServer,
    client: &KnownClient,
    (principal, of): (Principal, Of),
    resources: ResourceList,
    terms: &GrantTerms,
    proof: Option<Digest>,
) -> Result<Result<Issued, Refused>, Fault> {
    let mut scopes = terms.scopes.clone();
    scopes.sort_unstable();
    let Ok(scopes) = TokenList::parse(scopes) else { return Ok(Err(Refused::Scopes)) };
    let claims = (!terms.claims.is_empty()).then(|| Arc::from(terms.claims_object().get()));
    let life = terms.access_ttl;
    let access = Access {
        resources: resources.clone(),
        scopes: scopes.clone(),
        identities: IdentitySet::default(),
        limits: AccessLimits {
            tools: terms.tools.clone(),
            access_life: Some(life),
            // What policies say may be another thing each time. It is of one token.
            claims: None,
            refresh_life: None,
            sender_constrained: terms.require_sender_constraint,
        },
    };
    let party = Party { principal: principal.clone(), client: client.id.clone() };
    let known = standing(server, of, &party, (&access, proof), life).await?;
    let id = known.clone().unwrap_or_else(|| GrantId::generate(&server.env));
    let saying = Saying {
        grant: &id,
        principal: &principal,
        client: &client.id,
        resources,
        scopes: scopes.clone(),
        tools: terms.tools.clone(),
        proof,
        actors: Vec::new(),
        claims,
        life,
    };
    // A key that does not sign must leave nothing behind.
    let Signed { token: access_token, life, at } = match signed(server, saying)? {
        Ok(signed) => signed,
        Err(refused) => return Ok(Err(refused)),
    };
    if known.is_some() {
        // What was revoked since the grant was found covers no token that says to be from later.
        if grants::get(&server.store, &id).await?.is_none_or(|listed| listed.end.is_some()) {
            return Err(Fault::Busy);
        }
    } else {
        let new = NewGrant {
            id,
            refresh: None,
            life: GRANT_LIFE.max(life),
            idle: GRANT_LIFE.max(life),
            on_reuse: client.on_reuse,
            kept: server.settings().tokens.keep_ended,
            signed: at,
            is_stored: client.is_stored(),
        };
        if let Err(gone) = grants::issue_unasked(&server.store, new, party, access, proof).await? {
            return Ok(Err(gone.into()));
        }
    }
    Ok(Ok(Issued { access_token, is_bound: proof.is_some(), life, refresh_token: None, scopes }))
}

/// A grant of this client that gives the same in the same name, and outlives the token.
async fn standing(
    server: &AuthorizationServer,
    of: Of,
    party: &Party,
    (access, proof): (&Access, Option<Digest>),
    life: Duration,
) -> Result<Option<GrantId>, Fault> {
    let page = grants::list(&server.store, of, None, RECENT_GRANTS).await?;
    let expires = server.env.now().after(life);
    let fits = |grant: &Grant| {
        grant.principal == party.principal
            && grant.client == party.client
            && grant.access == *access
            && grant.proof == proof
            && expires <= grant.until.min(grant.idle_until)
    };
    let mut living = page.items.into_iter().filter(|listed| listed.end.is_none()).map(|listed| listed.grant);
    Ok(living.find(fits).map(|grant| grant.id))
}

/// The scopes that are asked for, all of which there are and the client may have; or all of those.
pub(super) fn scopes(settings: &Auth, client: &KnownClient, asked: Option<&str>) -> Result<TokenList, Refused> {
    let own = &client.metadata.scopes;
    let may: BTreeSet<String> =
        settings.scope_names().into_iter().filter(|scope| own.is_empty() || own.contains(scope)).collect();
    let Some(asked) = asked else {
        return TokenList::parse(may.into_iter().collect()).map_err(|_| Refused::Scopes);
    };
    let asked = read_scopes(asked)?;
    if asked.iter().all(|scope| may.contains(scope)) { Ok(asked) } else { Err(Refused::Scopes) }
}

/// The resources that are asked for, each of which is one of ours (RFC 8707 §2).
pub(super) fn ours(server: &AuthorizationServer, snapshot: &Snapshot, asked: Vec<String>) -> Option<ResourceList> {
    let metadata = server.metadata();
    let asked = if asked.is_empty() { vec![metadata.resource(None)] } else { asked };
    let is_ours = |resource: &String| {
        *resource == metadata.resource(None)
            || snapshot.upstreams.keys().any(|name| *resource == metadata.resource(Some(name.as_str())))
    };
    ResourceList::parse(asked).filter(|resources| resources.iter().all(is_ours))
}
