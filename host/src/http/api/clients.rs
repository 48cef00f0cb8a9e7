//! OAuth clients.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::if_match::{IfMatch, is_other, tagged};
use super::openapi::words::{ClientOriginWord, ManagedByWord};
use super::openapi::{Described, delete, get, patch, post};
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, given, next_cursor, ok, respond};
use crate::authorization::clients::operators::{self, Change, Listed, Origin, Refused};
use crate::oauth::client::Client;
use crate::oauth::grant::OnReuse;
use crate::oauth::registration::describe;
use crate::policy;
use crate::secret::Plaintext;

const LIST: &str = "clients";

/// Paging and filter in one, since a query string is flat.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ClientQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    #[param(inline, value_type = Option<ClientOriginWord>)]
    pub(in crate::http) origin: Option<String>,
}

/// What a refresh token that comes back after its grace does, as in the configuration file.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = OnReuse)]
enum OnReuseWord {
    RevokeFamily,
    Reject,
}

impl From<OnReuseWord> for OnReuse {
    fn from(word: OnReuseWord) -> Self {
        match word {
            OnReuseWord::RevokeFamily => Self::RevokeFamily,
            OnReuseWord::Reject => Self::Reject,
        }
    }
}

/// A client: the words of RFC 7591 §2, and our own. The verb refuses members that it does not know.
#[derive(Deserialize, ToSchema)]
pub(super) struct ClientRequest {
    #[serde(default)]
    on_reuse: Option<OnReuseWord>,
    #[serde(flatten)]
    #[schema(ignore)]
    members: Map<String, Value>,
}

/// A merge patch (RFC 7396) of a client, and its next secret.
#[derive(Deserialize, ToSchema)]
pub(super) struct ClientChange {
    /// Whether the client gets another secret.
    #[serde(default)]
    new_secret: bool,
    /// What is granted from then on goes by it; grants that there are keep what they were made with.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<OnReuseWord>)]
    on_reuse: Option<Option<OnReuseWord>>,
    #[serde(flatten)]
    #[schema(ignore)]
    members: Map<String, Value>,
}

/// What a client is described by (RFC 7591 §2). Nothing else is known here.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its shape is told here; `oauth::registration` reads and writes it")]
struct ClientMetadata {
    client_name: Option<String>,
    client_uri: Option<String>,
    contacts: Option<Vec<String>>,
    /// Whether tokens are bound to a key (RFC 9449).
    dpop_bound_access_tokens: Option<bool>,
    grant_types: Option<Vec<String>>,
    jwks: Option<Map<String, Value>>,
    jwks_uri: Option<String>,
    logo_uri: Option<String>,
    policy_uri: Option<String>,
    redirect_uris: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    /// With spaces between them.
    scope: Option<String>,
    software_id: Option<String>,
    software_version: Option<String>,
    token_endpoint_auth_method: Option<String>,
    tos_uri: Option<String>,
}

/// A client. Of one of the file, no times are told.
#[derive(ToSchema)]
#[schema(as = Client)]
#[expect(dead_code, reason = "its shape is told here; `view` writes it")]
struct ClientView {
    client_id: String,
    /// Told once: when it was made.
    #[schema(nullable = false)]
    client_secret: Option<String>,
    on_reuse: OnReuseWord,
    origin: ClientOriginWord,
    managed_by: ManagedByWord,
    /// Whether an operator vouches for it.
    verified: bool,
    requires_pushed: Option<bool>,
    requires_proof: Option<bool>,
    #[schema(format = DateTime)]
    created: Option<String>,
    #[schema(format = DateTime)]
    last_used: Option<String>,
    #[schema(format = DateTime)]
    expires: Option<String>,
    #[serde(flatten)]
    metadata: ClientMetadata,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    let judged = |operation: Described| {
        operation
            .refuses(StatusCode::UNPROCESSABLE_ENTITY, &["invalid_client_metadata", "invalid_redirect_uri"])
            .refuses(StatusCode::FORBIDDEN, &["policy_denied"])
            .refuses(StatusCode::SERVICE_UNAVAILABLE, &["policy_undecided"])
    };
    let add = post("/api/v1/clients", "addClient", "Adds a client. Its secret, if it has one, is told this once")
        .takes_both::<ClientRequest, ClientMetadata>()
        .gives::<ClientView>(StatusCode::CREATED)
        .tagged()
        .conflicts(&["too_many_clients"]);
    let change = patch("/api/v1/clients/{id}", "changeClient", "Changes a client")
        .if_match()
        .takes_both::<ClientChange, ClientMetadata>()
        .shows::<ClientView>()
        .tagged()
        .conflicts(&["managed_by_file", "no_secret", "changed_meanwhile"]);
    vec![
        get(
            "/api/v1/clients",
            "listClients",
            "Clients: those of the file by id, then those of the store, newest first",
        )
        .filters::<ClientQuery>()
        .pages::<ClientView>(LIST),
        judged(add),
        get("/api/v1/clients/{id}", "showClient", "One client").shows::<ClientView>().tagged(),
        judged(change),
        delete("/api/v1/clients/{id}", "deleteClient", "Deletes a client, and revokes what was granted to it")
            .if_match()
            .says(StatusCode::NO_CONTENT)
            .conflicts(&["managed_by_file"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ClientQuery>) -> Answer {
    let (clients, next) = page(&api, query).await?;
    Ok(ok(&json!({ "clients": clients, "next_cursor": next })))
}

/// A page of clients, and the cursor of the next one.
pub(in crate::http) async fn page(api: &Api, query: ClientQuery) -> Result<(Vec<Value>, Option<String>), Problem> {
    let ClientQuery { limit, cursor, origin } = query;
    let words = "`origin` is file, operator or registered";
    let origin = origin.map(|word| Origin::parse(&word).ok_or_else(|| Problem::invalid(words))).transpose()?;
    let paging = Paging { limit, cursor };
    // Each filter is a list of its own.
    let list = format!("{LIST} {}", origin.map_or("", Origin::as_str));
    let page = operators::list(&api.server, origin, paging.cursor(api, &list)?, paging.limit()).await?;
    Ok((page.items.iter().map(view).collect(), next_cursor(api, &list, page.next.as_ref())))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    Ok(shown(StatusCode::OK, &one(&api, &id).await?, None))
}

/// One client.
pub(in crate::http) async fn one(api: &Api, id: &str) -> Result<Listed, Problem> {
    operators::show(&api.server, id).await?.ok_or_else(|| Problem::not_found("client"))
}

pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(ClientRequest { on_reuse, members }): Json<ClientRequest>,
) -> Answer {
    let on_reuse = on_reuse.map(OnReuse::from).unwrap_or_default();
    let (client, secret) = make(&api, &operator, members, on_reuse).await?;
    Ok(shown(StatusCode::CREATED, &client, secret))
}

/// Adds a client, and tells its secret if it has one.
pub(in crate::http) async fn make(
    api: &Api,
    operator: &Operator,
    members: Map<String, Value>,
    on_reuse: OnReuse,
) -> Result<(Listed, Option<Plaintext>), Problem> {
    let (client, secret) = operators::add(&api.server, members, on_reuse, operator.0).await??;
    Ok((Listed::Stored(Box::new(client)), secret))
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
    condition: IfMatch,
    Json(ClientChange { new_secret, on_reuse, members }): Json<ClientChange>,
) -> Answer {
    // Whoever takes away what was said has what holds where nothing is said.
    let on_reuse = on_reuse.map(|word| word.map(OnReuse::from).unwrap_or_default());
    let change = Change { members, on_reuse, new_secret, seen: condition.said() };
    let (client, secret) = edit(&api, &operator, &id, change).await?;
    Ok(shown(StatusCode::OK, &client, secret))
}

/// Changes a client, and tells its secret if it has another.
pub(in crate::http) async fn edit(
    api: &Api,
    operator: &Operator,
    id: &str,
    change: Change,
) -> Result<(Listed, Option<Plaintext>), Problem> {
    let is_meant = change.seen.is_some();
    let changed = operators::change(&api.server, id, change, operator.0).await?;
    let (client, secret) = changed.map_err(|error| refused(error, is_meant))?;
    Ok((Listed::Stored(Box::new(client)), secret))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
    condition: IfMatch,
) -> Answer {
    delete_client(&api, &operator, &id, condition.said()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes a client, if it is of one of the revisions that were `seen`, where any is said.
pub(in crate::http) async fn delete_client(
    api: &Api,
    operator: &Operator,
    id: &str,
    seen: Option<Vec<u64>>,
) -> Result<(), Problem> {
    let deleted = operators::delete(&api.server, id, seen.as_deref(), operator.0).await?;
    deleted.map_err(|error| refused(error, seen.is_some()))
}

/// A client as it is now with its revision as the entity tag, and its secret where that is told this once.
fn shown(status: StatusCode, client: &Listed, secret: Option<Plaintext>) -> Response {
    let mut view = view(client);
    if let Some(secret) = secret {
        view["client_secret"] = secret.expose().into();
    }
    let response = respond(status, &view);
    match client {
        Listed::Configured(_) => response,
        Listed::Stored(client) => tagged(response, client.revision()),
    }
}

/// Why nothing changed, told to who said in If-Match which one is meant, or did not.
fn refused(error: Refused, is_meant: bool) -> Problem {
    match error {
        Refused::Conflict(revision) if is_meant => is_other(Refused::Conflict(revision).to_string(), revision),
        error => error.into(),
    }
}

/// A client as the API tells of it.
pub(in crate::http) fn view(client: &Listed) -> Value {
    let (metadata, authentication, on_reuse) = match client {
        Listed::Configured(client) => (&client.metadata, &client.authentication, client.on_reuse),
        Listed::Stored(client) => (&client.metadata, &client.authentication, client.on_reuse),
    };
    let mut view = describe(metadata, authentication);
    let mut say = |name: &str, value: Value| _ = view.insert(name.to_owned(), value);
    say("client_id", json!(client.id().as_str()));
    say("on_reuse", json!(on_reuse.as_str()));
    say("origin", json!(client.origin().as_str()));
    match client {
        Listed::Configured(client) => {
            say("managed_by", json!("file"));
            say("verified", json!(client.is_verified()));
            say("requires_pushed", json!(client.requires_pushed));
            say("requires_proof", json!(client.requires_proof));
        }
        Listed::Stored(client) => {
            let known = crate::oauth::client::KnownClient::from(Client::clone(client));
            say("managed_by", json!("store"));
            say("verified", json!(known.is_verified()));
            say("created", json!(client.created.to_string()));
            say("last_used", json!(client.last_used.map(|used| used.to_string())));
            say("expires", json!(client.expires().map(|expires| expires.to_string())));
        }
    }
    Value::Object(view)
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::NotFound => Self::not_found("client"),
            Refused::Conflict(_) => Self::new(StatusCode::CONFLICT, "changed_meanwhile", text),
            Refused::ManagedByFile => Self::new(StatusCode::CONFLICT, "managed_by_file", text),
            Refused::TooMany => Self::new(StatusCode::CONFLICT, "too_many_clients", text),
            Refused::NoSecret => Self::new(StatusCode::CONFLICT, "no_secret", text),
            Refused::UnknownMember(_) => Self::invalid(text),
            Refused::Unacceptable(unacceptable) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, unacceptable.code(), text)
            }
            Refused::Policy(policy::Refusal::Denied { reason, .. }) => {
                Self::new(StatusCode::FORBIDDEN, "policy_denied", reason.message)
            }
            Refused::Policy(refusal) if refusal.is_passing() => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "policy_undecided", text)
            }
            Refused::Policy(_) => Self::new(StatusCode::FORBIDDEN, "policy_denied", text),
        }
    }
}
