//! Virtual keys.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, next_cursor, ok, respond};
use crate::admin::keys::{KeyError, NewKey};
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, ManagedBy, Standing, VirtualKey};
use crate::ids::KeyName;

const LIST: &str = "keys";
/// Lines of an allow-list, and patterns on a line.
const MAX_ENTRIES: usize = 256;

/// One line of an allow-list, as in the configuration file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowLine {
    upstream: String,
    tools: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRequest {
    name: String,
    #[serde(default)]
    allow: Vec<AllowLine>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    /// RFC 3339.
    #[serde(default)]
    expires: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyChange {
    disabled: bool,
}

#[derive(Serialize)]
struct KeyView {
    name: KeyName,
    allow: Vec<AllowLine>,
    scopes: Vec<String>,
    groups: Vec<String>,
    created: String,
    expires: Option<String>,
    disabled: bool,
    managed_by: &'static str,
}

impl KeyView {
    fn of(key: &VirtualKey) -> Self {
        let VirtualKey { name, digest: _, allow, scopes, groups, owner: _, created, expires, standing, managed_by } =
            key;
        let line = |entry: &AllowEntry| AllowLine {
            upstream: entry.upstream.as_str().to_owned(),
            tools: entry.tools.iter().map(|tool| tool.as_str().to_owned()).collect(),
        };
        Self {
            name: name.clone(),
            allow: allow.0.iter().map(line).collect(),
            scopes: scopes.to_vec(),
            groups: groups.to_vec(),
            created: created.to_string(),
            expires: expires.map(|expires| expires.to_string()),
            disabled: *standing == Standing::Disabled,
            managed_by: match managed_by {
                ManagedBy::File => "file",
                ManagedBy::Store => "store",
            },
        }
    }
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(paging): Query<Paging>) -> Answer {
    let page = api.control.list_keys(paging.cursor(&api, LIST)?, paging.limit()).await?;
    let keys: Vec<KeyView> = page.items.iter().map(KeyView::of).collect();
    Ok(ok(&json!({ "keys": keys, "next_cursor": next_cursor(&api, LIST, page.next.as_ref()) })))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    let key = api.control.key(&read_name(&name)?).await?.ok_or_else(|| Problem::not_found("key"))?;
    Ok(ok(&KeyView::of(&key)))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(new): Json<KeyRequest>,
) -> Answer {
    let new = NewKey {
        name: KeyName::parse(&new.name).map_err(|error| Problem::invalid(error.to_string()))?,
        allow: read_allow_list(&new.allow)?,
        scopes: read_tokens("scopes", new.scopes)?,
        groups: read_tokens("groups", new.groups)?,
        expires: new.expires.as_deref().map(read_time).transpose()?,
    };
    let (key, secret) = api.control.create_key(new, operator.0).await?;
    let mut view = serde_json::to_value(KeyView::of(&key)).map_err(|error| Problem::invalid(error.to_string()))?;
    view["secret"] = secret.expose().into();
    Ok(respond(StatusCode::CREATED, &view))
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    Json(change): Json<KeyChange>,
) -> Answer {
    let name = read_name(&name)?;
    let standing = if change.disabled { Standing::Disabled } else { Standing::Enabled };
    api.control.set_key_standing(&name, standing, operator.0).await?;
    let key = api.control.key(&name).await?.ok_or_else(|| Problem::not_found("key"))?;
    Ok(ok(&KeyView::of(&key)))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
) -> Answer {
    api.control.delete_key(&read_name(&name)?, operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn read_name(name: &str) -> Result<KeyName, Problem> {
    KeyName::parse(name).map_err(|_| Problem::not_found("key"))
}

fn read_tokens(member: &str, tokens: Vec<String>) -> Result<TokenList, Problem> {
    TokenList::parse(tokens)
        .map_err(|(position, error)| Problem::invalid(format!("entry {position} of `{member}` {error}")))
}

fn read_time(text: &str) -> Result<Timestamp, Problem> {
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
            KeyError::AlreadyExpired => Self::invalid(error.to_string()),
            KeyError::Store(error) => error.into(),
        }
    }
}
