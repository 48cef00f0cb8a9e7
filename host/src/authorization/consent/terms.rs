//! What policies are asked about a request in somebody's name, and what access comes of their answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Person;
use crate::audit::Party;
use crate::authorization::authorize::asked::upstreams_of;
use crate::authorization::authorize::destination::Destination;
use crate::authorization::{AuthorizationServer, Fault};
use crate::config::Auth;
use crate::env::Timestamp;
use crate::identity::{Caller, TokenList};
use crate::ids::{ClientId, Principal, UpstreamName};
use crate::oauth::access::Terms;
use crate::oauth::client::{ClientOrigin, GrantType, KnownClient};
use crate::oauth::{Access, AccessLimits, IdentitySet, ResourceList};
use crate::pipeline::authority::{Asker, Granting, grant};
use crate::pipeline::{Snapshot, access};
use crate::policy::authority::{ClientFacts, GrantKind, GrantRequest, GrantTerms, LifetimeCaps};
use crate::secret::Digest;
use crate::store::consents;
use crate::store::grants::{self, Of};

/// Grants of a principal that are looked at for what a client has already.
const RECENT_GRANTS: usize = 50;
/// Upstreams that an access names one by one. More are named by their digest.
const MAX_NAMED: usize = TokenList::MAX_COUNT - 1;

/// Whoever is chosen, as callers are, if the identity opens anything now.
pub(in crate::authorization) fn caller_of(
    snapshot: &Snapshot,
    principal: &Principal,
    person: Option<&Person>,
    client: &ClientId,
    now: Timestamp,
) -> Option<Caller> {
    let settings = &snapshot.auth;
    let caller = match principal {
        Principal::User(id) => {
            let (_, user) = person.filter(|(_, user)| user.id == *id && user.is_active())?;
            let allow = access::of_user(snapshot, id, now);
            Caller { groups: user.groups.clone(), ..Caller::new(principal.clone(), allow) }
        }
        Principal::Key(_) => snapshot.keys.holder(principal, now)?,
        Principal::Guest(_) if settings.guests => Caller::new(principal.clone(), settings.allow.guests.clone()),
        Principal::Guest(_) | Principal::Anonymous | Principal::Gateway => return None,
    };
    Some(Caller { client: Some(client.as_str().into()), ..caller })
}

/// The upstreams that these resources are about and that the caller may use, in name order.
pub(in crate::authorization) fn services_of(
    snapshot: &Snapshot,
    issuer: &str,
    resources: &ResourceList,
    caller: &Caller,
) -> Vec<UpstreamName> {
    let all: BTreeSet<UpstreamName> = snapshot.upstreams.keys().cloned().collect();
    let meant = upstreams_of(issuer, resources, &all);
    meant.into_iter().filter(|upstream| caller.allow.reaches(upstream)).collect()
}

/// What a client asks in somebody's name.
pub(in crate::authorization) struct Question<'a> {
    pub client: &'a KnownClient,
    pub destination: &'a Destination,
    pub resources: &'a ResourceList,
    pub scopes: &'a TokenList,
    /// The upstreams that the caller may use.
    pub services: &'a [UpstreamName],
    pub is_sender_constrained: bool,
    pub caller: &'a Caller,
    /// When the person showed last who they are.
    pub authenticated: Option<Timestamp>,
    pub began: Timestamp,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// What policies say, and whether the principal has consented before to exactly what they leave.
pub(in crate::authorization) async fn ask(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    question: &Question<'_>,
) -> Result<(Granting, bool), Fault> {
    let settings = &snapshot.auth;
    let Question { client, destination, resources, scopes, services, caller, .. } = question;
    let caps = LifetimeCaps { access: settings.tokens.access_life, refresh: settings.tokens.refresh_life };
    let party = Party { principal: caller.principal.clone(), client: client.id.clone() };
    let is_on_file = is_remembered(server, question, scopes).await?;
    let request = GrantRequest {
        kind: GrantKind::AuthorizationCode,
        client: facts(client, Some(destination)),
        scopes: scopes.to_vec(),
        already_granted: already_granted(server, &party).await?,
        resources: resources.to_vec(),
        upstreams: services.to_vec(),
        consent_on_file: is_on_file,
        access_ttl: caps.access,
        refresh_ttl: client.allows(GrantType::RefreshToken).then_some(caps.refresh),
        sender_constrained: question.is_sender_constrained || client.requires_proof,
    };
    let asker = Asker {
        caller,
        remote_ip: question.remote_ip,
        user_agent: question.user_agent,
        authenticated: question.authenticated.filter(|_| matches!(caller.principal, Principal::User(_))),
        began: question.began,
    };
    let granting = grant(snapshot, &server.services, &asker, &request, caps).await?;
    let is_on_file = match &granting {
        Granting::Granted(terms) if terms.scopes[..] != scopes[..] => match TokenList::parse(terms.scopes.clone()) {
            Ok(narrowed) => is_remembered(server, question, &narrowed).await?,
            Err(_) => false,
        },
        _ => is_on_file,
    };
    Ok((granting, is_on_file))
}

/// Whether the principal has consented before to this or to less of it, so that policies may leave what is remembered.
pub(in crate::authorization) async fn has_some_on_file(
    server: &AuthorizationServer,
    question: &Question<'_>,
) -> Result<bool, Fault> {
    let Question { client, destination, scopes, caller, .. } = question;
    let theirs = consents::list(&server.store, &caller.principal, None, consents::MAX_OF_ONE).await?.items;
    Ok(theirs.iter().any(|consent| {
        let Terms { redirect_host, access } = &consent.terms;
        let is_within = access.scopes.iter().all(|scope| scopes.contains(scope));
        consent.party.client == client.id && *redirect_host == destination.shown && is_within
    }))
}

/// Whether the principal has consented to this before, so that it is remembered.
async fn is_remembered(
    server: &AuthorizationServer,
    question: &Question<'_>,
    scopes: &TokenList,
) -> Result<bool, Fault> {
    let Question { client, destination, resources, services, caller, .. } = question;
    let access = Access {
        resources: (*resources).clone(),
        scopes: scopes.clone(),
        identities: identities(&caller.principal, services),
        limits: AccessLimits::default(),
    };
    let terms = Terms { redirect_host: destination.shown.clone(), access };
    let party = Party { principal: caller.principal.clone(), client: client.id.clone() };
    Ok(consents::find(&server.store, party, terms).await?.is_some())
}

/// The scopes that a client has already in a principal's name.
async fn already_granted(server: &AuthorizationServer, party: &Party) -> Result<Vec<String>, Fault> {
    let of = Of::Principal(party.principal.clone());
    let page = grants::list(&server.store, of, None, RECENT_GRANTS).await?;
    let mut scopes: BTreeSet<String> = BTreeSet::new();
    for listed in page.items.into_iter().filter(|listed| listed.end.is_none() && listed.grant.client == party.client) {
        scopes.extend(listed.grant.access.scopes.iter().cloned());
    }
    Ok(scopes.into_iter().collect())
}

/// A client as policies see it. `destination` is where it is to be redirected to, if it is.
pub(in crate::authorization) fn facts(client: &KnownClient, destination: Option<&Destination>) -> ClientFacts {
    let host = destination.map_or("", |destination| destination.shown.trim_end_matches(':'));
    ClientFacts {
        id: client.id.to_string(),
        name: client.metadata.name.clone().unwrap_or_default(),
        verified: client.is_verified() || client.origin == ClientOrigin::Document,
        first_party: client.origin == ClientOrigin::Configured,
        redirect_host: host.to_owned(),
        metadata: metadata(client),
    }
}

/// The client's metadata by their registered names (RFC 7591 §2).
fn metadata(client: &KnownClient) -> Box<RawValue> {
    let metadata = &client.metadata;
    let mut members = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            members.insert(name.to_owned(), value);
        }
    };
    let text = |text: &Option<String>| text.clone().map(Value::String);
    add("client_name", text(&metadata.name));
    add("redirect_uris", Some(metadata.redirect_uris.clone().into()));
    add("scope", (!metadata.scopes.is_empty()).then(|| metadata.scopes.join(" ").into()));
    add("contacts", (!metadata.contacts.is_empty()).then(|| metadata.contacts.clone().into()));
    add("client_uri", text(&metadata.client_uri));
    add("logo_uri", text(&metadata.logo_uri));
    add("tos_uri", text(&metadata.tos_uri));
    add("policy_uri", text(&metadata.policy_uri));
    add("software_id", text(&metadata.software_id));
    add("software_version", text(&metadata.software_version));
    add("dpop_bound_access_tokens", metadata.requires_proof.then_some(Value::Bool(true)));
    let text = Value::Object(members).to_string();
    RawValue::from_string(text).expect("what was written as JSON is JSON")
}

/// What the client gets.
pub(in crate::authorization) fn access_of(
    settings: &Auth,
    client: &KnownClient,
    resources: &ResourceList,
    terms: &GrantTerms,
    principal: &Principal,
    services: &[UpstreamName],
) -> Access {
    Access {
        resources: resources.clone(),
        // They are some of those that were asked for, which are a list.
        scopes: TokenList::parse(terms.scopes.clone()).unwrap_or_default(),
        identities: identities(principal, services),
        limits: limits(settings, client, terms),
    }
}

/// What policies have taken away.
pub(in crate::authorization) fn limits(settings: &Auth, client: &KnownClient, terms: &GrantTerms) -> AccessLimits {
    let tokens = &settings.tokens;
    let shorter = |life: Duration, than: Duration| (life < than).then_some(life);
    let refresh_life = match terms.refresh_ttl {
        Some(life) => shorter(life, tokens.refresh_life),
        // That a client cannot refresh is no limit of a policy's.
        None => client.allows(GrantType::RefreshToken).then_some(Duration::ZERO),
    };
    AccessLimits {
        tools: terms.tools.clone(),
        access_life: shorter(terms.access_ttl, tokens.access_life),
        claims: (!terms.claims.is_empty()).then(|| terms.claims_object().get().into()),
        refresh_life,
        sender_constrained: terms.require_sender_constraint,
    }
}

/// The identity that was chosen, and the upstreams that it was shown to open.
fn identities(principal: &Principal, services: &[UpstreamName]) -> IdentitySet {
    let mut members = vec![principal.to_string()];
    if services.len() <= MAX_NAMED {
        members.extend(services.iter().map(|upstream| format!("upstream:{upstream}")));
    } else {
        let all: Vec<&str> = services.iter().map(UpstreamName::as_str).collect();
        members.push(format!("upstreams:{}", Digest::of(all.join(" ").as_bytes()).to_hex()));
    }
    IdentitySet::parse(members).expect("names are tokens, and each is there once")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::consent::testing::client;

    #[test]
    fn policies_see_the_same_client_whatever_it_asks_for() {
        for (origin, verified, first_party) in [
            (ClientOrigin::Registered, false, false),
            (ClientOrigin::Operator, true, false),
            (ClientOrigin::Configured, true, true),
            (ClientOrigin::Document, true, false),
        ] {
            let client = KnownClient { origin, ..client("app") };
            let destination = Destination::found(&client, "https://app.example/cb", &[]).unwrap();
            let (sent, stays) = (facts(&client, Some(&destination)), facts(&client, None));
            assert_eq!((sent.verified, sent.first_party), (verified, first_party), "{origin:?}");
            assert_eq!((stays.verified, stays.first_party), (verified, first_party), "{origin:?}");
            assert_eq!((&*sent.redirect_host, &*stays.redirect_host), ("app.example", ""));
            assert_eq!(sent.metadata.get(), stays.metadata.get());
        }
    }
}
