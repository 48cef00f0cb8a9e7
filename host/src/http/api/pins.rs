//! Pinned definitions of tools, accepting others, and forgetting those of upstreams that are gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Json, Operator, Paging, Problem, Query, ok};
use crate::admin::pins::{PinError, PinTexts, PinView};
use crate::ids::UpstreamName;
use crate::mcp::canonical::comparable;
use crate::mcp::json::Members;
use crate::store::pins::Pin;

const LIST: &str = "pins";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    upstream: Option<String>,
    /// Only what somebody has to agree to.
    #[serde(default)]
    changed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnePin {
    upstream: String,
    tool: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted {
    upstream: String,
    /// The upstream's own name for the one tool.
    #[serde(default)]
    tool: Option<String>,
    /// Only if this is the digest of its definition now.
    #[serde(default)]
    digest: Option<String>,
    /// All that the upstream offers.
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forgotten {
    /// One that is not configured any more.
    upstream: String,
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<PinQuery>) -> Answer {
    let PinQuery { limit, cursor, upstream, changed } = query;
    let limit = Paging { limit, cursor: None }.limit();
    let after = cursor.map(|cursor| open_cursor(&api, &cursor)).transpose()?;
    let upstream = upstream.map(|name| read_upstream(&name)).transpose()?;
    let keep = |view: &PinView| {
        upstream.as_ref().is_none_or(|upstream| view.upstream == *upstream) && (!changed || view.is_changed())
    };
    let mut pins = api.control.pins(after.as_ref(), limit + 1, keep);
    let has_more = pins.len() > limit;
    pins.truncate(limit);
    let next = pins.last().filter(|_| has_more).map(|last| seal_cursor(&api, last));
    let rows: Vec<Value> = pins.iter().map(view).collect();
    Ok(ok(&json!({ "pins": rows, "next_cursor": next })))
}

/// Both definitions, and which members differ.
pub(super) async fn show(State(api): State<Arc<Api>>, Query(query): Query<OnePin>) -> Answer {
    let upstream = read_upstream(&query.upstream)?;
    let found = api.control.pin(&upstream, &query.tool).await?.ok_or_else(|| Problem::not_found("tool"))?;
    let (pin, PinTexts { pinned, offered }) = found;
    let mut shown = view(&pin);
    shown["differs_in"] = match (&pinned, &offered) {
        (Some(pinned), Some(offered)) => json!(differences(pinned, offered)),
        _ => Value::Null,
    };
    let json =
        |text: Option<String>| text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::Null));
    shown["pinned_definition"] = json(pinned);
    shown["offered_definition"] = json(offered);
    Ok(ok(&shown))
}

pub(super) async fn accept(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(accepted): Json<Accepted>,
) -> Answer {
    let Accepted { upstream, tool, digest, all } = accepted;
    let upstream = read_upstream(&upstream)?;
    match (tool, all) {
        (Some(tool), false) => {
            let pin = api.control.accept_pin(&upstream, &tool, digest.as_deref(), operator.0).await?;
            Ok(ok(&json!({ "accepted": 1, "pin": view(&pin) })))
        }
        (None, true) if digest.is_none() => {
            Ok(ok(&json!({ "accepted": api.control.accept_pins(&upstream, operator.0).await? })))
        }
        _ => Err(Problem::invalid("name one `tool`, with or without its `digest`, or say `all`")),
    }
}

pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(Forgotten { upstream }): Json<Forgotten>,
) -> Answer {
    let forgotten = api.control.forget_pins(&read_upstream(&upstream)?, operator.0).await?;
    Ok(ok(&json!({ "forgotten": forgotten })))
}

fn read_upstream(name: &str) -> Result<UpstreamName, Problem> {
    UpstreamName::parse(name).map_err(|_| Problem::not_found("upstream"))
}

/// A list by names goes on after a name, which may be longer than a key of the store.
fn seal_cursor(api: &Api, last: &PinView) -> String {
    api.services.secret.sign(LIST, format!("{}\n{}", last.upstream, last.tool).as_bytes())
}

fn open_cursor(api: &Api, cursor: &str) -> Result<(UpstreamName, String), Problem> {
    let payload = api.services.secret.open(LIST, cursor).and_then(|payload| String::from_utf8(payload).ok());
    let parts = payload.as_deref().and_then(|payload| payload.split_once('\n'));
    let parts = parts.and_then(|(upstream, tool)| Some((UpstreamName::parse(upstream).ok()?, tool.to_owned())));
    parts.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "the cursor is not one of this list"))
}

fn view(view: &PinView) -> Value {
    let PinView { upstream, tool, pinned, offered } = view;
    json!({
        "upstream": upstream,
        "tool": tool,
        "state": view.standing(),
        "offered_digest": offered,
        "pinned": pinned.as_ref().map(|Pin { tool: _, digest, first_pinned, accepted, by }| json!({
            "digest": digest,
            "first_pinned": first_pinned.to_string(),
            "accepted": accepted.to_string(),
            "by": by.to_string(),
        })),
    })
}

/// Names of the members in which two objects differ.
fn differences(one: &str, other: &str) -> Vec<String> {
    let members = |text: &str| Members::parse(text).unwrap_or_default();
    let (one, other) = (members(one), members(other));
    let names: BTreeSet<&str> = one.iter().chain(other.iter()).map(|(name, _)| name).collect();
    let is_same = |name: &str| match (one.get(name), other.get(name)) {
        (Some(one), Some(other)) => comparable(one.get()) == comparable(other.get()),
        _ => false,
    };
    names.into_iter().filter(|name| !is_same(name)).map(ToOwned::to_owned).collect()
}

impl From<PinError> for Problem {
    fn from(error: PinError) -> Self {
        match error {
            PinError::NoUpstream => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            PinError::NotOffered => Self::new(StatusCode::NOT_FOUND, "not_offered", error.to_string()),
            PinError::NoDigest => Self::invalid(error.to_string()),
            PinError::OtherDigest { .. } => Self::new(StatusCode::CONFLICT, "other_digest", error.to_string()),
            PinError::NothingPinned => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            PinError::InUse => Self::new(StatusCode::CONFLICT, "in_use", error.to_string()),
            PinError::TooMany => Self::new(StatusCode::CONFLICT, "too_many_pins", error.to_string()),
            PinError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_differ_in_what_they_mean() {
        let one = r#"{"name":"a","description":"d","inputSchema":{"a":1,"b":2},"gone":1}"#;
        let other = r#"{"inputSchema":{"b":2,"a":1.0},"description":"e","name":"a","new":1}"#;
        assert_eq!(differences(one, other), ["description", "gone", "new"]);
        assert_eq!(differences(one, one), [""; 0]);
    }
}
