//! Virtual keys. A secret is told when it is made, and never again.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::if_match::{IfMatch, is_other, tagged};
use super::openapi::words::ManagedByWord;
use super::openapi::{Described, delete, get, patch, post};
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, given, next_cursor, ok, respond};
use crate::admin::keys::{DEFAULT_OVERLAP, KeyError, NewKey, Rotated};
use crate::audit::Actor;
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, ManagedBy, Standing, VirtualKey};
use crate::identity::user::Login;
use crate::ids::KeyName;
use crate::secret::Plaintext;
use crate::store::keys::Edit;

const LIST: &str = "keys";
/// Lines of an allow-list, and patterns on a line.
const MAX_ENTRIES: usize = 256;
/// An allow-list as JSON, in bytes: a record of the store has room for that and all else of a key.
const MAX_ALLOW_BYTES: usize = 64 * 1024;

/// One line of an allow-list, as in the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AllowLine {
    pub(in crate::http) upstream: String,
    pub(in crate::http) tools: Vec<String>,
}

/// A key to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct KeyRequest {
    pub(in crate::http) name: String,
    #[serde(default)]
    pub(in crate::http) allow: Vec<AllowLine>,
    #[serde(default)]
    pub(in crate::http) scopes: Vec<String>,
    #[serde(default)]
    pub(in crate::http) groups: Vec<String>,
    /// The login of a person, who may use what the key may.
    #[serde(default)]
    pub(in crate::http) owner: Option<String>,
    /// RFC 3339.
    #[serde(default)]
    pub(in crate::http) expires: Option<String>,
}

/// A merge patch (RFC 7396): what is left out stays, `null` takes away, a list is another list.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct KeyChange {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) allow: Option<Option<Vec<AllowLine>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) scopes: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) groups: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) owner: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) expires: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = bool, required = false)]
    pub(in crate::http) disabled: Option<Option<bool>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyRotation)]
pub(in crate::http) struct RotationRequest {
    /// How long the secret before stays good, in seconds.
    overlap: Option<u64>,
}

/// A virtual key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(in crate::http) struct KeyView {
    #[schema(value_type = String)]
    pub(in crate::http) name: KeyName,
    pub(in crate::http) allow: Vec<AllowLine>,
    pub(in crate::http) scopes: Vec<String>,
    pub(in crate::http) groups: Vec<String>,
    pub(in crate::http) owner: Option<String>,
    /// Of a key of the store: a file does not say when it was written.
    #[schema(format = DateTime)]
    pub(in crate::http) created: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: Option<String>,
    pub(in crate::http) disabled: bool,
    /// Until when the secret before the present one is good, if it is.
    #[schema(format = DateTime)]
    pub(in crate::http) earlier_until: Option<String>,
    #[schema(value_type = ManagedByWord)]
    pub(in crate::http) managed_by: &'static str,
    /// Of a key of the store.
    pub(in crate::http) revision: Option<u64>,
}

impl KeyView {
    /// As it is at `now`.
    fn of(key: &VirtualKey, now: Timestamp) -> Self {
        let earlier_until = key.earlier_at(now).map(|earlier| earlier.until.to_string());
        let VirtualKey {
            name,
            digest: _,
            earlier: _,
            allow,
            scopes,
            groups,
            owner,
            created,
            expires,
            standing,
            managed_by,
            revision,
        } = key;
        let line = |entry: &AllowEntry| AllowLine {
            upstream: entry.upstream.as_str().to_owned(),
            tools: entry.tools.iter().map(|tool| tool.as_str().to_owned()).collect(),
        };
        Self {
            name: name.clone(),
            allow: allow.0.iter().map(line).collect(),
            scopes: scopes.to_vec(),
            groups: groups.to_vec(),
            owner: owner.as_ref().map(Login::to_string),
            created: (*managed_by == ManagedBy::Store).then(|| created.to_string()),
            expires: expires.map(|expires| expires.to_string()),
            disabled: *standing == Standing::Disabled,
            earlier_until,
            managed_by: match managed_by {
                ManagedBy::File => "file",
                ManagedBy::Store => "store",
            },
            revision: (*managed_by == ManagedBy::Store).then_some(*revision),
        }
    }

    /// With its secret, which is told this once.
    fn with(self, secret: &Plaintext) -> KeyWithSecret {
        KeyWithSecret { key: self, secret: secret.expose().to_owned() }
    }
}

/// A key with its secret, which is told this once.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct KeyWithSecret {
    #[serde(flatten)]
    pub(in crate::http) key: KeyView,
    pub(in crate::http) secret: String,
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct RotatedKey {
    #[serde(flatten)]
    pub(in crate::http) key: KeyWithSecret,
    /// Whether a secret before the one that was replaced was good until now, and is not any more.
    pub(in crate::http) ended_earlier: bool,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get(
            "/api/v1/keys",
            "listKeys",
            "Virtual keys: those of the file by name, then those of the store, newest first",
        )
        .asks::<Paging>()
        .pages::<KeyView>(LIST),
        post("/api/v1/keys", "createKey", "Makes a key. Its secret is told this once")
            .takes::<KeyRequest>()
            .gives::<KeyWithSecret>(StatusCode::CREATED)
            .tagged()
            .conflicts(&["name_taken", "name_still_ending", "too_many_keys"]),
        get("/api/v1/keys/{name}", "showKey", "One key").shows::<KeyView>().tagged(),
        patch("/api/v1/keys/{name}", "changeKey", "Changes a key")
            .if_match()
            .takes::<KeyChange>()
            .shows::<KeyView>()
            .tagged()
            .conflicts(&["managed_by_file"]),
        delete("/api/v1/keys/{name}", "deleteKey", "Deletes a key, and what it was granted and connected with")
            .if_match()
            .says(StatusCode::NO_CONTENT)
            .conflicts(&["managed_by_file"]),
        post(
            "/api/v1/keys/{name}/rotate",
            "rotateKey",
            "Gives a key another secret, beside which the one before is good for a while",
        )
        .if_match()
        .takes::<RotationRequest>()
        .shows::<RotatedKey>()
        .tagged()
        .conflicts(&["managed_by_file"]),
        delete("/api/v1/keys/{name}/earlier", "endEarlierSecret", "Ends the secret before the present one at once")
            .if_match()
            .says(StatusCode::NO_CONTENT)
            .conflicts(&["managed_by_file"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(paging): Query<Paging>) -> Answer {
    let (keys, next) = page(&api, &paging).await?;
    Ok(ok(&json!({ "keys": keys, "next_cursor": next })))
}

/// A page of the keys, and the cursor of the next one.
pub(in crate::http) async fn page(api: &Api, paging: &Paging) -> Result<(Vec<KeyView>, Option<String>), Problem> {
    let page = api.control.list_keys(paging.cursor(api, LIST)?, paging.limit()).await?;
    let now = api.control.env.now();
    let keys = page.items.iter().map(|key| KeyView::of(key, now)).collect();
    Ok((keys, next_cursor(api, LIST, page.next.as_ref())))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    Ok(shown(&find(&api, &name).await?))
}

/// One key as it is now.
pub(in crate::http) async fn find(api: &Api, name: &str) -> Result<KeyView, Problem> {
    let key = api.control.key(&read_name(name)?).await?.ok_or_else(|| Problem::not_found("key"))?;
    Ok(KeyView::of(&key, api.control.env.now()))
}

fn shown(key: &KeyView) -> Response {
    with_revision(ok(key), key)
}

/// An answer with the key's revision as the entity tag, if it is one of the store.
fn with_revision(response: Response, key: &KeyView) -> Response {
    match key.revision {
        None => response,
        Some(revision) => tagged(response, revision),
    }
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(new): Json<KeyRequest>,
) -> Answer {
    let made = make(&api, new, operator.0).await?;
    Ok(with_revision(respond(StatusCode::CREATED, &json!(made)), &made.key))
}

/// Makes a key, and tells its secret this once.
pub(in crate::http) async fn make(api: &Api, new: KeyRequest, actor: Actor) -> Result<KeyWithSecret, Problem> {
    let new = NewKey {
        name: KeyName::parse(&new.name).map_err(|error| Problem::invalid(error.to_string()))?,
        allow: read_allow_list(&new.allow)?,
        scopes: read_tokens("scopes", new.scopes)?,
        groups: read_tokens("groups", new.groups)?,
        owner: new.owner.as_deref().map(read_owner).transpose()?,
        expires: new.expires.as_deref().map(read_time).transpose()?,
    };
    let (key, secret) = api.control.create_key(new, actor).await?;
    Ok(KeyView::of(&key, api.control.env.now()).with(&secret))
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
    Json(change): Json<KeyChange>,
) -> Answer {
    Ok(shown(&alter(&api, &name, condition.said(), change, operator.0).await?))
}

/// Changes a key that is at one of the revisions `seen`, or at any.
pub(in crate::http) async fn alter(
    api: &Api,
    name: &str,
    seen: Option<Vec<u64>>,
    change: KeyChange,
    actor: Actor,
) -> Result<KeyView, Problem> {
    let name = read_name(name)?;
    let KeyChange { allow, scopes, groups, owner, expires, disabled } = change;
    let standing = |disabled: Option<bool>| match disabled {
        Some(true) => Ok(Standing::Disabled),
        Some(false) => Ok(Standing::Enabled),
        None => Err(Problem::invalid("`disabled` is true or false")),
    };
    let edit = Edit {
        allow: allow.map(|lines| read_allow_list(&lines.unwrap_or_default())).transpose()?,
        scopes: scopes.map(|scopes| read_tokens("scopes", scopes.unwrap_or_default())).transpose()?,
        groups: groups.map(|groups| read_tokens("groups", groups.unwrap_or_default())).transpose()?,
        owner: owner.map(|owner| owner.as_deref().map(read_owner).transpose()).transpose()?,
        expires: expires.map(|expires| expires.as_deref().map(read_time).transpose()).transpose()?,
        standing: disabled.map(standing).transpose()?,
    };
    let key = api.control.change_key(&name, seen, edit, actor).await?;
    Ok(KeyView::of(&key, api.control.env.now()))
}

/// Another secret, beside which the one before is good for a while.
pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
    Json(RotationRequest { overlap }): Json<RotationRequest>,
) -> Answer {
    let view = turn(&api, &name, condition.said(), overlap, operator.0).await?;
    Ok(with_revision(ok(&json!(view)), &view.key.key))
}

/// Gives a key another secret, which is told this once. The one before stays good for `overlap` seconds, or for as long as it does
/// where nothing is said.
pub(in crate::http) async fn turn(
    api: &Api,
    name: &str,
    seen: Option<Vec<u64>>,
    overlap: Option<u64>,
    actor: Actor,
) -> Result<RotatedKey, Problem> {
    let name = read_name(name)?;
    let overlap = overlap.map_or(DEFAULT_OVERLAP, Duration::from_secs);
    let Rotated { key, secret, has_ended_one } = api.control.rotate_key(&name, seen, overlap, actor).await?;
    Ok(RotatedKey { key: KeyView::of(&key, api.control.env.now()).with(&secret), ended_earlier: has_ended_one })
}

/// Ends the secret before the present one.
pub(super) async fn end_earlier(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
) -> Answer {
    api.control.end_earlier_secret(&read_name(&name)?, condition.said(), operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
) -> Answer {
    api.control.delete_key(&read_name(&name)?, condition.said(), operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(in crate::http) fn read_name(name: &str) -> Result<KeyName, Problem> {
    KeyName::parse(name).map_err(|_| Problem::not_found("key"))
}

fn read_tokens(member: &str, tokens: Vec<String>) -> Result<TokenList, Problem> {
    TokenList::parse(tokens)
        .map_err(|(position, error)| Problem::invalid(format!("entry {position} of `{member}` {error}")))
}

fn read_owner(login: &str) -> Result<Login, Problem> {
    Login::parse(login).ok_or_else(|| Problem::invalid("`owner` is no login: those are printable ASCII without spaces"))
}

pub(super) fn read_time(text: &str) -> Result<Timestamp, Problem> {
    let time = humantime::parse_rfc3339(text)
        .map_err(|_| Problem::invalid("`expires` must be a time such as 2027-01-31T00:00:00Z"))?;
    let since_epoch = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)))
}

fn read_allow_list(lines: &[AllowLine]) -> Result<AllowList, Problem> {
    let too_many = lines.len() > MAX_ENTRIES || lines.iter().any(|line| line.tools.len() > MAX_ENTRIES);
    if too_many {
        return Err(Problem::invalid(format!("an allow-list has at most {MAX_ENTRIES} lines of {MAX_ENTRIES} tools")));
    }
    let bytes = serde_json::to_vec(lines).map_err(|error| Problem::invalid(error.to_string()))?.len();
    if bytes > MAX_ALLOW_BYTES {
        return Err(Problem::invalid(format!("an allow-list has at most {} KiB", MAX_ALLOW_BYTES / 1024)));
    }
    let glob = |text: &String| {
        Glob::parse(text).ok_or_else(|| Problem::invalid(format!("patterns have 1 to {} bytes", Glob::MAX_LEN)))
    };
    let entry = |line: &AllowLine| {
        Ok(AllowEntry {
            upstream: glob(&line.upstream)?,
            tools: line.tools.iter().map(glob).collect::<Result<_, Problem>>()?,
        })
    };
    lines.iter().map(entry).collect::<Result<_, _>>().map(AllowList)
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::NameTaken => Self::new(StatusCode::CONFLICT, "name_taken", error.to_string()),
            KeyError::StillEnding => Self::new(StatusCode::CONFLICT, "name_still_ending", error.to_string()),
            KeyError::NotFound => Self::not_found("key"),
            KeyError::ManagedByFile => Self::new(StatusCode::CONFLICT, "managed_by_file", error.to_string()),
            KeyError::TooMany => Self::new(StatusCode::CONFLICT, "too_many_keys", error.to_string()),
            KeyError::AlreadyExpired | KeyError::TooLong => Self::invalid(error.to_string()),
            KeyError::NoEarlier => Self::not_found("earlier secret"),
            KeyError::Conflict(revision) => is_other(error.to_string(), revision),
            KeyError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allow_list_has_a_size() {
        let lines = |count: usize, length: usize| -> Vec<AllowLine> {
            let line = |_| AllowLine { upstream: "notes".to_owned(), tools: vec!["x".repeat(length)] };
            (0..count).map(line).collect()
        };
        assert!(read_allow_list(&lines(256, 200)).is_ok());
        assert!(read_allow_list(&lines(256, 256)).is_err(), "too many bytes");
        assert!(read_allow_list(&lines(257, 1)).is_err(), "too many lines");
        assert!(read_allow_list(&lines(1, 257)).is_err(), "a pattern is too long");
    }
}
