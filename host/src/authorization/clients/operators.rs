//! What operators do about clients: list, add, change, delete. Those of the configuration file are shown and left alone.

use serde_json::{Map, Value};

use super::register::{Refused as Registering, judged, too_large};
use super::{Author, authentication, rules, secret_of};
use crate::audit::{Actor, RegisteredBy};
use crate::authorization::{AuthorizationServer, Fault};
use crate::identity::Caller;
use crate::identity::key::AllowList;
use crate::ids::{ClientId, Principal};
use crate::oauth::client::{Client, KnownClient, Source};
use crate::oauth::grant::OnReuse;
use crate::oauth::registration::{Unacceptable, describe};
use crate::patch::{self, Names, Unknown};
use crate::pipeline::renewal::Presenter;
use crate::policy;
use crate::policy::authority::ClientSource;
use crate::secret::{Digest, Plaintext};
use crate::store::clients::{self as stored, Authority, Changed, Deletion, Registration, Update};
use crate::store::table::MAX_PAGE;
use crate::store::{Cursor, Page};

/// First byte of a cursor: whether the list goes on after a client of the file or of the store.
const OF_FILE: u8 = 0;
const OF_STORE: u8 = 1;
/// What a client is described by (RFC 7591 §2). Nothing else is taken from an operator, who would not see that it is lost.
const MEMBERS: [&str; 16] = [
    "client_name",
    "client_uri",
    "contacts",
    "dpop_bound_access_tokens",
    "grant_types",
    "jwks",
    "jwks_uri",
    "logo_uri",
    "policy_uri",
    "redirect_uris",
    "response_types",
    "scope",
    "software_id",
    "software_version",
    "token_endpoint_auth_method",
    "tos_uri",
];

words! {
    /// Where a client that is listed comes from.
    Origin {
        /// The configuration.
        File = "file",
        Operator = "operator",
        /// It registered itself.
        Registered = "registered",
    }
}

/// A client as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Of the file.
    Configured(Box<KnownClient>),
    /// Of the store: it registered itself, or an operator added it.
    Stored(Box<Client>),
}

/// What an operator changes of a client.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Members of its metadata; null takes one away.
    pub members: Map<String, Value>,
    /// `None` where it stays.
    pub on_reuse: Option<OnReuse>,
    /// Whether it gets another secret.
    pub new_secret: bool,
    /// Only a client of one of these revisions.
    pub seen: Option<Vec<u64>>,
}

/// Why nothing changes.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("there is no client of this id")]
    NotFound,
    #[error("the client was changed meanwhile: its revision is {0}")]
    Conflict(u64),
    #[error("the client is declared in the configuration file and changed there")]
    ManagedByFile,
    #[error("there are {} clients of operators already", stored::MAX_OF_OPERATORS)]
    TooMany,
    #[error("{0:?} is nothing that a client is described by")]
    UnknownMember(String),
    #[error("the client has no secret: its token_endpoint_auth_method is another")]
    NoSecret,
    #[error(transparent)]
    Unacceptable(#[from] Unacceptable),
    #[error(transparent)]
    Policy(policy::Refusal),
}

type Outcome<T> = Result<Result<T, Refused>, Fault>;

/// A page of the clients, or of those of one origin: those of the file by id, then those of the store, newest first.
///
/// # Errors
/// The store does not answer.
pub async fn list(
    server: &AuthorizationServer,
    origin: Option<Origin>,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<Listed>, Fault> {
    let limit = limit.clamp(1, MAX_PAGE);
    let next = |of: u8, rest: &[u8]| Cursor::from_bytes([&[of], rest].concat());
    let after = after.as_ref().map(Cursor::as_bytes).and_then(<[u8]>::split_first);
    let (mut items, of_store) = match after {
        None if matches!(origin, Some(Origin::Operator | Origin::Registered)) => (Vec::new(), None),
        None => (of_file(server, None), None),
        Some((&OF_FILE, id)) => (of_file(server, Some(id)), None),
        Some((_, rest)) => (Vec::new(), Cursor::from_bytes(rest.to_vec())),
    };
    if items.len() >= limit {
        items.truncate(limit);
        let next = items.last().and_then(|last| next(OF_FILE, last.id().as_str().as_bytes()));
        return Ok(Page { items, next });
    }
    let by = match origin {
        None => None,
        Some(Origin::File) => return Ok(Page { items, next: None }),
        Some(Origin::Operator) => Some(RegisteredBy::Operator),
        Some(Origin::Registered) => Some(RegisteredBy::Client),
    };
    let stored = stored::list(&server.store, by, of_store, limit - items.len()).await?;
    items.extend(stored.items.into_iter().map(|client| Listed::Stored(Box::new(client))));
    Ok(Page { items, next: stored.next.and_then(|rest| next(OF_STORE, rest.as_bytes())) })
}

/// The clients of the file by id, from the one after this id on.
fn of_file(server: &AuthorizationServer, after: Option<&[u8]>) -> Vec<Listed> {
    let settings = server.settings();
    let clients = settings.clients.known.iter().map(|configured| &configured.client);
    let is_behind = |client: &&KnownClient| after.is_none_or(|id| client.id.as_str().as_bytes() > id);
    clients.filter(is_behind).map(|client| Listed::Configured(Box::new(client.clone()))).collect()
}

/// The client of this id, if it is of the file or registered.
///
/// # Errors
/// The store does not answer.
pub async fn show(server: &AuthorizationServer, id: &str) -> Result<Option<Listed>, Fault> {
    let Some(id) = ClientId::parse(id) else { return Ok(None) };
    if let Some(configured) = configured(server, &id) {
        return Ok(Some(Listed::Configured(Box::new(configured))));
    }
    Ok(stored::get(&server.store, &id).await?.map(|client| Listed::Stored(Box::new(client))))
}

/// Adds a client. It stays until an operator deletes it; its secret, if it has one, is told this once.
///
/// # Errors
/// The store does not answer.
pub async fn add(
    server: &AuthorizationServer,
    members: Map<String, Value>,
    on_reuse: OnReuse,
    actor: Actor,
) -> Outcome<(Client, Option<Plaintext>)> {
    let described = match described(server, &members).await {
        Ok(described) => described,
        Err(refused) => return Ok(Err(refused)),
    };
    let (authentication, secret) = authentication(&server.env, described.method, None);
    let client = Client {
        id: ClientId::generate(&server.env),
        source: Source::Operator,
        metadata: described.metadata,
        authentication,
        on_reuse,
        created: server.env.now(),
        last_used: None,
    };
    let most = server.settings().clients.max_registered;
    Ok(match stored::register(&server.store, client, most, actor).await? {
        Registration::Registered(client) => Ok((*client, secret)),
        Registration::QuotaExceeded => Err(Refused::TooMany),
        Registration::TooLarge(failure) => Err(too_large(&failure).into()),
        // None has ever been there twice.
        Registration::Taken => return Err(Fault::Busy),
    })
}

/// Changes what a client is described as, and gives it another secret where that is asked for.
///
/// # Errors
/// The store does not answer.
pub async fn change(
    server: &AuthorizationServer,
    id: &str,
    change: Change,
    actor: Actor,
) -> Outcome<(Client, Option<Plaintext>)> {
    let client = match stored_client(server, id).await? {
        Ok(client) => client,
        Err(refused) => return Ok(Err(refused)),
    };
    let revision = match seen_revision(&client, change.seen.as_deref()) {
        Ok(revision) => revision,
        Err(refused) => return Ok(Err(refused)),
    };
    let names = Names::of(MEMBERS);
    let told = describe(&client.metadata, &client.authentication);
    let mut members = match patch::merged(&told, change.members, &names) {
        Ok(members) => members,
        Err(unknown) => return Ok(Err(Refused::of(&unknown))),
    };
    // Follows from the grant types, unless somebody says otherwise.
    if members.get("response_types").is_some_and(|types| types.as_array().is_some_and(Vec::is_empty)) {
        members.remove("response_types");
    }
    let described = match described(server, &members).await {
        Ok(described) => described,
        Err(refused) => return Ok(Err(refused)),
    };
    let had = secret_of(&client).filter(|_| !change.new_secret);
    let (authentication, secret) = authentication(&server.env, described.method, had);
    if change.new_secret && secret.is_none() {
        return Ok(Err(Refused::NoSecret));
    }
    let token = match client.source {
        Source::Registered { token, .. } => token,
        // It has none, and none is kept.
        Source::Operator => Digest::of(b""),
    };
    let changed = Changed { metadata: described.metadata, authentication, on_reuse: change.on_reuse, token };
    let authority = Authority::OperatorWhoSaw(revision);
    let updated = stored::update(&server.store, &client.id, authority, changed, actor).await?;
    server.clients.forget(&client.id);
    Ok(match updated {
        Update::Updated(client) => Ok((*client, secret)),
        Update::NotFound => Err(Refused::NotFound),
        Update::Other(revision) => Err(Refused::Conflict(revision)),
        Update::TooLarge(failure) => Err(too_large(&failure).into()),
    })
}

/// Deletes a client, of one of the `seen` revisions if there are any, and revokes what was granted to it.
///
/// # Errors
/// The store does not answer.
pub async fn delete(server: &AuthorizationServer, id: &str, seen: Option<&[u64]>, actor: Actor) -> Outcome<()> {
    let client = match stored_client(server, id).await? {
        Ok(client) => client,
        Err(refused) => return Ok(Err(refused)),
    };
    let authority = match seen_revision(&client, seen) {
        Ok(_) if seen.is_none() => Authority::Operator,
        Ok(revision) => Authority::OperatorWhoSaw(revision),
        Err(refused) => return Ok(Err(refused)),
    };
    let id = client.id;
    let deleted = stored::delete(&server.store, &id, authority, actor).await?;
    server.clients.forget(&id);
    Ok(match deleted {
        Deletion::Deleted => Ok(()),
        Deletion::NotFound => Err(Refused::NotFound),
        Deletion::Other(revision) => Err(Refused::Conflict(revision)),
    })
}

/// The revision of a client, if it is one of those that are meant.
fn seen_revision(client: &Client, seen: Option<&[u64]>) -> Result<u64, Refused> {
    let revision = client.revision();
    if seen.is_none_or(|seen| seen.contains(&revision)) { Ok(revision) } else { Err(Refused::Conflict(revision)) }
}

fn configured(server: &AuthorizationServer, id: &ClientId) -> Option<KnownClient> {
    let settings = server.settings();
    let mut known = settings.clients.known.iter();
    known.find(|configured| configured.client.id == *id).map(|configured| configured.client.clone())
}

async fn stored_client(server: &AuthorizationServer, id: &str) -> Outcome<Client> {
    Ok(match show(server, id).await? {
        None => Err(Refused::NotFound),
        Some(Listed::Configured(_)) => Err(Refused::ManagedByFile),
        Some(Listed::Stored(client)) => Ok(*client),
    })
}

/// What an operator says of a client, as the policies leave it.
async fn described(
    server: &AuthorizationServer,
    members: &Map<String, Value>,
) -> Result<crate::oauth::registration::Described, Refused> {
    let names = Names::of(MEMBERS);
    let unknown = names.unknown_in(members);
    if !unknown.is_empty() {
        return Err(Refused::of(&unknown));
    }
    let snapshot = server.snapshot.load_full();
    let caller = Caller::new(Principal::Gateway, std::sync::Arc::new(AllowList::default()));
    let presenter = Presenter { caller: &caller, remote_ip: None, user_agent: None };
    let body = serde_json::to_vec(members)
        .map_err(|error| Unacceptable::Metadata { member: "the request", reason: error.to_string() })?;
    let rules = rules(&snapshot.auth, Author::Operator);
    Ok(judged(server, &snapshot, &presenter, ClientSource::Admin, (&body, &rules)).await?)
}

impl Refused {
    /// Who names something that no client has is told of the first.
    fn of(unknown: &[Unknown<'_>]) -> Self {
        Self::UnknownMember(unknown.first().map(|unknown| unknown.name.clone()).unwrap_or_default())
    }
}

impl Listed {
    pub fn origin(&self) -> Origin {
        match self {
            Self::Configured(_) => Origin::File,
            Self::Stored(client) => match client.source {
                Source::Operator => Origin::Operator,
                Source::Registered { .. } => Origin::Registered,
            },
        }
    }

    pub fn id(&self) -> &ClientId {
        match self {
            Self::Configured(client) => &client.id,
            Self::Stored(client) => &client.id,
        }
    }
}

/// Operators are asked for nothing that strangers are.
impl From<Registering> for Refused {
    fn from(refused: Registering) -> Self {
        match refused {
            Registering::Unacceptable(unacceptable) => Self::Unacceptable(unacceptable),
            Registering::Policy(refusal) => Self::Policy(refusal),
            Registering::Full | Registering::Closed | Registering::TooOften { .. } => Self::TooMany,
            Registering::Unauthorized => Self::NotFound,
        }
    }
}
