//! Clients that register themselves (RFC 7591), and what they may do with their registration (RFC 7592).
//!
//! Anybody may come, so everything is bounded: the size of what is said, how often one address comes, how many there are.
//! A registration opens nothing by itself. Secrets and registration tokens are told once and kept as digests.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Author, authentication, rules, secret_of};
use crate::audit::Actor;
use crate::authorization::mint::{self, mint};
use crate::authorization::rates::{Limit, Network};
use crate::authorization::{AuthorizationServer, Fault};
use crate::identity::Caller;
use crate::ids::{ClientId, Principal};
use crate::oauth::client::{Client, Source};
use crate::oauth::grant::OnReuse;
use crate::oauth::registration::{Described, Rules, Unacceptable};
use crate::pipeline::renewal::Presenter;
use crate::pipeline::{Snapshot, registration};
use crate::policy;
use crate::policy::authority::{ClientRequest, ClientSource};
use crate::secret::{Digest, Plaintext};
use crate::store::clients::{self as stored, Authority, Changed, Deletion, Registration, Update};

/// Members that only we say (RFC 7592 §2.2): who sends them back has misread what a registration is.
const OURS: [&str; 4] =
    ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"];
/// What a policy never sees of what a client sends.
const SECRETS: [&str; 2] = ["client_secret", "registration_access_token"];
/// Ids that are drawn before it is somebody else's turn. None has ever been there twice.
const DRAWS: usize = 3;

/// Who asks, for policies and for the count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requester<'a> {
    pub address: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// A client with what it is told once.
#[derive(Debug)]
pub struct Told {
    pub client: Client,
    /// A secret that is new.
    pub secret: Option<Plaintext>,
    /// The registration token that counts from now on.
    pub token: Plaintext,
}

/// Why nothing is registered or changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("clients do not register themselves here")]
    Closed,
    #[error("too many registrations come from there")]
    TooOften { wait: Duration },
    #[error("there are as many clients as there may be, and all of them are used")]
    Full,
    /// There is no such client, or another token is the right one.
    #[error("the registration token is not the one of this client")]
    Unauthorized,
    #[error(transparent)]
    Unacceptable(#[from] Unacceptable),
    #[error(transparent)]
    Policy(policy::Refusal),
}

type Outcome<T> = Result<Result<T, Refused>, Fault>;

/// Registers a client.
///
/// # Errors
/// The store does not answer.
pub async fn register(server: &AuthorizationServer, body: &[u8], from: Requester<'_>) -> Outcome<Told> {
    let snapshot = server.snapshot.load_full();
    let settings = &snapshot.auth.clients;
    if !settings.registration {
        return Ok(Err(Refused::Closed));
    }
    if let Err(refused) = count(server, &snapshot, from) {
        return Ok(Err(refused));
    }
    let rules = rules(&snapshot.auth, Author::Itself);
    let described = match described(server, &snapshot, (body, &rules), from).await {
        Ok(described) => described,
        Err(refused) => return Ok(Err(refused)),
    };
    let token = mint(&server.env, mint::REGISTRATION);
    let (authentication, secret) = authentication(&server.env, described.method, None);
    for _ in 0..DRAWS {
        let client = Client {
            id: ClientId::generate(&server.env),
            source: Source::Registered { token: token.digest(), lives: settings.lives },
            metadata: described.metadata.clone(),
            authentication: authentication.clone(),
            on_reuse: OnReuse::default(),
            created: server.env.now(),
            last_used: None,
        };
        return match stored::register(&server.store, client, settings.max_registered, Actor::System).await? {
            Registration::Registered(client) => Ok(Ok(Told { client: *client, secret, token })),
            Registration::QuotaExceeded => Ok(Err(Refused::Full)),
            Registration::TooLarge(failure) => Ok(Err(too_large(&failure))),
            Registration::Taken => continue,
        };
    }
    Err(Fault::Busy)
}

/// What is registered of a client that shows its registration token.
///
/// # Errors
/// The store does not answer.
pub async fn read(server: &AuthorizationServer, id: &str, token: &Plaintext, from: Requester<'_>) -> Outcome<Client> {
    if let Err(refused) = count(server, &server.snapshot.load_full(), from) {
        return Ok(Err(refused));
    }
    Ok(owned(server, id, token).await?.ok_or(Refused::Unauthorized))
}

/// Replaces all that a client says of itself, and its registration token. A secret stays as long as the client is to have
/// one.
///
/// # Errors
/// The store does not answer.
pub async fn update(
    server: &AuthorizationServer,
    id: &str,
    token: &Plaintext,
    body: &[u8],
    from: Requester<'_>,
) -> Outcome<Told> {
    let snapshot = server.snapshot.load_full();
    if let Err(refused) = count(server, &snapshot, from) {
        return Ok(Err(refused));
    }
    let Some(client) = owned(server, id, token).await? else { return Ok(Err(Refused::Unauthorized)) };
    if let Err(unacceptable) = check_update(&client, body) {
        return Ok(Err(unacceptable.into()));
    }
    let rules = rules(&snapshot.auth, Author::Itself);
    let described = match described(server, &snapshot, (body, &rules), from).await {
        Ok(described) => described,
        Err(refused) => return Ok(Err(refused)),
    };
    let next = mint(&server.env, mint::REGISTRATION);
    let (authentication, secret) = authentication(&server.env, described.method, secret_of(&client));
    let changed = Changed { metadata: described.metadata, authentication, on_reuse: None, token: next.digest() };
    let authority = Authority::Client(token.digest());
    let updated = stored::update(&server.store, &client.id, authority, changed, Actor::System).await?;
    server.clients.forget(&client.id);
    Ok(match updated {
        Update::Updated(client) => Ok(Told { client: *client, secret, token: next }),
        // Only operators say which one they mean.
        Update::NotFound | Update::Other(_) => Err(Refused::Unauthorized),
        Update::TooLarge(failure) => Err(too_large(&failure)),
    })
}

/// Deletes a registration, and revokes what was granted to the client.
///
/// # Errors
/// The store does not answer.
pub async fn delete(server: &AuthorizationServer, id: &str, token: &Plaintext, from: Requester<'_>) -> Outcome<()> {
    if let Err(refused) = count(server, &server.snapshot.load_full(), from) {
        return Ok(Err(refused));
    }
    let Some(id) = ClientId::parse(id) else { return Ok(Err(Refused::Unauthorized)) };
    let deleted = stored::delete(&server.store, &id, Authority::Client(token.digest()), Actor::System).await?;
    server.clients.forget(&id);
    Ok(match deleted {
        Deletion::Deleted => Ok(()),
        Deletion::NotFound | Deletion::Other(_) => Err(Refused::Unauthorized),
    })
}

fn count(server: &AuthorizationServer, snapshot: &Snapshot, from: Requester<'_>) -> Result<(), Refused> {
    let limit = Limit::per_minute(snapshot.auth.clients.registrations_per_minute);
    let counted = server.clients.0.registrations.count(Network::of(from.address), limit);
    counted.map_err(|wait| Refused::TooOften { wait })
}

/// The client with this id, if this is its registration token.
async fn owned(server: &AuthorizationServer, id: &str, token: &Plaintext) -> Result<Option<Client>, Fault> {
    let Some(id) = ClientId::parse(id) else { return Ok(None) };
    let client = stored::get(&server.store, &id).await?;
    let is_its =
        |client: &Client| matches!(client.source, Source::Registered { token: ours, .. } if ours == token.digest());
    Ok(client.filter(is_its))
}

/// What an update has to say and may not say (RFC 7592 §2.2).
fn check_update(client: &Client, body: &[u8]) -> Result<(), Unacceptable> {
    let wrong = |member, reason: &str| Unacceptable::Metadata { member, reason: reason.to_owned() };
    let members: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| wrong("the request", &error.to_string()))?;
    if members.get("client_id").and_then(Value::as_str) != Some(client.id.as_str()) {
        return Err(wrong("client_id", "an update names the client whose registration it is"));
    }
    if let Some(ours) = OURS.into_iter().find(|member| members.contains_key(*member)) {
        return Err(wrong(ours, "an update does not say this"));
    }
    match members.get("client_secret") {
        None | Some(Value::Null) => Ok(()),
        Some(secret) => {
            let secret = secret.as_str().map(|secret| Digest::of(secret.as_bytes()));
            let is_right = secret.is_some() && secret == secret_of(client);
            if is_right { Ok(()) } else { Err(wrong("client_secret", "a client does not choose its secret")) }
        }
    }
}

/// What a client says of itself, as the policies leave it.
async fn described(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    (body, rules): (&[u8], &Rules),
    from: Requester<'_>,
) -> Result<Described, Refused> {
    let caller = Caller::new(Principal::Anonymous, snapshot.auth.allow.guests.clone());
    let presenter = Presenter { caller: &caller, remote_ip: from.address, user_agent: from.user_agent };
    judged(server, snapshot, &presenter, ClientSource::Dynamic, (body, rules)).await
}

/// The same for whoever says it.
pub(super) async fn judged(
    server: &AuthorizationServer,
    snapshot: &Snapshot,
    presenter: &Presenter<'_>,
    source: ClientSource,
    (body, rules): (&[u8], &Rules),
) -> Result<Described, Refused> {
    let asked = Described::parse(body, rules)?;
    let accept = |edited: &RawValue| {
        let edited = Described::parse(edited.get().as_bytes(), rules).map_err(|refused| refused.to_string())?;
        edited.check_narrows(&asked).map_err(ToOwned::to_owned)
    };
    let request = ClientRequest { source, metadata: shown(body)? };
    let about = asked.metadata.name.as_deref().unwrap_or_default();
    let left = registration::client(snapshot, &server.services, presenter, (&request, about), &accept).await;
    let left = left.map_err(Refused::Policy)?;
    Ok(Described::parse(left.get().as_bytes(), rules)?)
}

/// What policies see of a registration: all but secrets.
fn shown(body: &[u8]) -> Result<Box<RawValue>, Unacceptable> {
    let unreadable =
        |error: serde_json::Error| Unacceptable::Metadata { member: "the request", reason: error.to_string() };
    let mut members: Map<String, Value> = serde_json::from_slice(body).map_err(unreadable)?;
    members.retain(|name, _| !SECRETS.contains(&name.as_str()));
    serde_json::value::to_raw_value(&members).map_err(unreadable)
}

pub(super) fn too_large(failure: &crate::oauth::client::TooLarge) -> Refused {
    Unacceptable::Metadata { member: "the request", reason: failure.to_string() }.into()
}
