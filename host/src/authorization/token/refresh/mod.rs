//! A refresh token for the next one, `refresh_token` (RFC 6749 §6): the state machine that `docs/authorization.md` tells.
//!
//! The successor is made first and sealed under the token that is presented, and the access token is signed; then one
//! transaction of the store says whether they are handed out. A token that comes back in its grace gets the head of its
//! family, which only it and its successors lead to, and a fresh access token.
//!
//! Before that: whoever consented still opens something, and the policies of `refresh.renew` agree. What they narrow holds
//! for this access token, and for how long the grant may rest; the next refresh begins with what was granted and asks them
//! again. No refusal of theirs and no fault ends a grant. A token that is past its grace is told to the store before anybody is
//! asked: a copy ends its family, whatever policies think of whoever holds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::super::consent::services_of;
use super::super::mint::{self, mint};
use super::super::{AuthorizationServer, Fault};
use super::access::{Saying, Signed, audience, signed};
use super::{From, Issued, NoGrant, Refused};
use crate::config::auth::TokenSettings;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::oauth::Window;
use crate::oauth::access::ResourceList;
use crate::oauth::client::{GrantType, KnownClient};
use crate::oauth::grant::{Gone, Grant, Presented, RefreshToken, Successor};
use crate::oauth::succession;
use crate::pipeline::Snapshot;
use crate::pipeline::renewal::{Presenter, renew};
use crate::policy::Refusal;
use crate::policy::authority::{GrantTerms, LifetimeCaps, RefreshRequest};
use crate::secret::{Digest, Plaintext};
use crate::store::grants::{self, Refresh};

/// How far the store's clock may be behind ours.
const CLOCKS: Duration = Duration::from_secs(1);

/// What a client presents.
#[derive(Debug)]
pub struct Renewal {
    pub token: Plaintext,
    /// The scopes that the access token is to have; none: all that were granted.
    pub scope: Option<String>,
    /// The resources that the access token is to be for; none: all that were granted (RFC 8707 §2.2).
    pub resources: Vec<String>,
    /// Thumbprint of the key that was proven (DPoP).
    pub proof: Option<Digest>,
    pub from: From,
}

/// What is to be handed out if the store agrees.
struct Prepared {
    access_token: Plaintext,
    life: Duration,
    scopes: TokenList,
    /// When the access token says that it was issued.
    at: Timestamp,
    /// How long the grant may rest from now on.
    idle: Duration,
    /// Whether it may be refreshed again.
    is_renewable: bool,
}

/// Uses a refresh token of this client, which has shown who it is.
///
/// # Errors
/// Nothing was decided, and the token is as good as it was.
pub async fn refresh(
    server: &AuthorizationServer,
    client: &KnownClient,
    request: Renewal,
) -> Result<Result<Issued, Refused>, Fault> {
    if !client.allows(GrantType::RefreshToken) {
        return Ok(Err(Refused::GrantType));
    }
    let Renewal { token, scope, resources, proof, from } = request;
    let Ok(scopes) = scope.as_deref().map(read_scopes).transpose() else { return Ok(Err(Refused::Scopes)) };
    let Some(resources) = ResourceList::parse(resources) else { return Ok(Err(Refused::Resources)) };
    let is_stored = client.is_stored();
    let presented = Presented { token: token.digest(), client: client.id.clone(), proof, scopes, resources, is_stored };
    let snapshot = server.snapshot.load_full();
    let settings = &snapshot.auth.tokens;

    let Some((listed, kept)) = grants::by_token(&server.store, presented.token).await? else {
        return Ok(Err(Gone::Unknown.into()));
    };
    if let Some(gone) = listed.end {
        return Ok(Err(gone.into()));
    }
    if let Err(mismatch) = listed.grant.check(&presented) {
        return Ok(Err(mismatch.into()));
    }
    let prepared = if is_past_its_grace(server, settings, &kept) {
        None
    } else {
        match prepare(server, &snapshot, client, &presented, (&listed.grant, &kept), from).await? {
            Ok(prepared) => Some(prepared),
            Err(refused) => return Ok(Err(refused)),
        }
    };

    let next = mint(&server.env, mint::REFRESH);
    let signed = prepared.as_ref().map_or_else(|| server.env.now(), |prepared| prepared.at);
    let successor = Successor { digest: next.digest(), sealed: succession::seal(&server.env, &token, &next), signed };
    let idle = prepared.as_ref().map_or(settings.refresh_idle, |prepared| prepared.idle);
    let is_bound = presented.proof.is_some();
    let refreshed = grants::refresh(&server.store, presented, successor, settings.grace, idle).await?;
    let head = match refreshed {
        Refresh::Rotated(_) => Some(next),
        Refresh::Replayed { successors, .. } => succession::head(&token, &successors),
        Refresh::TooOften => return Ok(Err(Refused::Grant(NoGrant::TooOften))),
        Refresh::Reused(_) => return Ok(Err(Refused::Grant(NoGrant::Replayed))),
        Refresh::Mismatch(mismatch) => return Ok(Err(mismatch.into())),
        Refresh::Gone(gone) => return Ok(Err(gone.into())),
    };
    // Without the one, a clock was set back in between, and policies were not asked; without the other, the store has lost
    // something. Whoever asks again is answered.
    let (Some(prepared), Some(head)) = (prepared, head) else { return Err(Fault::Busy) };
    let Prepared { access_token, life, at: _, scopes, idle: _, is_renewable } = prepared;
    Ok(Ok(Issued { access_token, is_bound, life, refresh_token: is_renewable.then_some(head), scopes }))
}

/// Whether the token was used so long ago that the store will not have it back, whatever its clock shows.
fn is_past_its_grace(server: &AuthorizationServer, settings: &TokenSettings, token: &RefreshToken) -> bool {
    let is_over = |grace: Window| {
        let grace = Window { until: grace.until.after(CLOCKS), ..grace };
        settings.grace.window().is_zero() || !grace.is_open(server.env.now())
    };
    token.used.as_ref().is_some_and(|used| is_over(used.grace))
}

/// Asks whoever has a say, and signs what they leave.
async fn prepare(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    client: &KnownClient,
    presented: &Presented,
    (grant, token): (&Grant, &RefreshToken),
    from: From,
) -> Result<Result<Prepared, Refused>, Fault> {
    let settings = &snapshot.auth.tokens;
    let wanted = presented.scopes.as_ref().unwrap_or(&grant.access.scopes);
    let Some(caller) = server.acting(snapshot, &grant.principal, &client.id, wanted).await? else {
        return Ok(Err(Refused::Grant(NoGrant::Principal)));
    };
    let resources = audience(&presented.resources, &grant.access.resources);
    let request = RefreshRequest {
        granted: granted(server, settings, grant)?,
        upstreams: services_of(snapshot, &server.issuer, &resources, &caller),
        issued_at: grant.created,
        last_used: grant.last_used,
        uses: token.generation,
        requested: presented.scopes.as_deref().map(<[String]>::to_vec).unwrap_or_default(),
        reuse_detected: false,
    };
    let caps = LifetimeCaps { access: settings.access_life, refresh: settings.refresh_idle };
    let presenter = Presenter { caller: &caller, remote_ip: from.address, user_agent: from.user_agent.as_deref() };
    let terms = match renew(snapshot, &server.services, &presenter, &request, caps).await {
        Ok(terms) => terms,
        Err(refusal) => return Ok(Err(refused_by_policy(&refusal))),
    };
    if (terms.require_sender_constraint || client.requires_proof) && presented.proof.is_none() {
        return Ok(Err(Refused::ProofNeeded));
    }
    let scopes = TokenList::parse(terms.scopes.clone());
    let Some(scopes) = scopes.ok().filter(|left| !left.is_empty() || wanted.is_empty()) else {
        return Ok(Err(Refused::Scopes));
    };
    let idle = terms.refresh_ttl.unwrap_or(terms.access_ttl).min(settings.refresh_idle);
    // A token that was used before prolongs nothing. The access token does not outlive the grant: nobody could revoke it then.
    let rest = if token.used.is_some() { left(server, grant.idle_until) } else { idle };
    let saying = Saying {
        grant: &grant.id,
        principal: &grant.principal,
        client: &client.id,
        resources,
        scopes: scopes.clone(),
        tools: terms.tools.clone(),
        proof: presented.proof,
        actors: Vec::new(),
        claims: (!terms.claims.is_empty()).then(|| Arc::from(terms.claims_object().get())),
        life: terms.access_ttl.min(left(server, grant.until)).min(rest),
    };
    let Signed { token: access_token, life, at } = match signed(server, saying)? {
        Ok(signed) => signed,
        Err(refused) => return Ok(Err(refused)),
    };
    let is_renewable = terms.refresh_ttl.is_some();
    Ok(Ok(Prepared { access_token, life, at, scopes, idle, is_renewable }))
}

/// A refusal of policies is one of this use. Where none was decided, nothing is.
pub(super) fn refused_by_policy(refusal: &Refusal) -> Refused {
    match refusal {
        Refusal::Throttled { retry_after_ms, .. } => {
            Refused::Throttled { wait: Duration::from_millis(*retry_after_ms) }
        }
        Refusal::PolicyFailed { .. } => Refused::Undecided,
        Refusal::Hidden
        | Refusal::Denied { .. }
        | Refusal::NoPolicyAllowed { .. }
        | Refusal::StepUp { .. }
        | Refusal::ApprovalNeeded { .. } => Refused::Grant(NoGrant::Policy),
    }
}

/// What was granted, in the words of policies.
fn granted(server: &AuthorizationServer, settings: &TokenSettings, grant: &Grant) -> Result<GrantTerms, Fault> {
    let limits = &grant.access.limits;
    let claims: BTreeMap<String, Box<RawValue>> = match limits.claims.as_deref() {
        None => BTreeMap::new(),
        // Policies read them, so that a token without them might be worth more.
        Some(claims) => serde_json::from_str(claims).map_err(|_| {
            tracing::error!(grant = %grant.id, "the claims of a grant are no JSON object");
            Fault::Key
        })?,
    };
    Ok(GrantTerms {
        scopes: grant.access.scopes.to_vec(),
        tools: limits.tools.clone(),
        access_ttl: limits.access_life.unwrap_or(settings.access_life),
        refresh_ttl: Some(left(server, grant.until)),
        require_sender_constraint: limits.sender_constrained,
        claims,
        notes: Vec::new(),
    })
}

/// How long it is until then.
fn left(server: &AuthorizationServer, until: Timestamp) -> Duration {
    Duration::from_millis(until.as_millis().saturating_sub(server.env.now().as_millis()))
}

pub(super) fn read_scopes(scope: &str) -> Result<TokenList, Refused> {
    let scopes = scope.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    TokenList::parse(scopes).ok().filter(|scopes| !scopes.is_empty()).ok_or(Refused::Scopes)
}

#[cfg(test)]
mod tests;
