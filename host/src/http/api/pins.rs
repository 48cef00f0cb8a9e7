//! Pinned definitions of tools, accepting others, and forgetting those of upstreams that are gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::PinStateWord;
use super::openapi::{Described, get, post};
use super::{Answer, Api, Json, Operator, Paging, Problem, Query, ok};
use crate::admin::pins::{PinError, PinTexts, PinView};
use crate::ids::UpstreamName;
use crate::mcp::canonical::comparable;
use crate::mcp::json::Members;
use crate::store::pins::Pin;

const LIST: &str = "pins";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PinQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    upstream: Option<String>,
    /// Only what somebody has to agree to.
    #[serde(default)]
    changed: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OnePin {
    upstream: String,
    /// The upstream's own name for it.
    tool: String,
}

/// One tool, or all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PinsToAccept)]
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

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PinsToForget)]
pub(super) struct Forgotten {
    /// One that is not configured any more.
    upstream: String,
}

/// How a tool stands to its pin.
#[derive(Serialize, ToSchema)]
#[schema(as = Pin)]
struct PinRow {
    #[schema(value_type = String)]
    upstream: UpstreamName,
    /// The upstream's own name for it.
    tool: String,
    #[schema(value_type = PinStateWord)]
    state: &'static str,
    /// Of what is offered now.
    offered_digest: Option<String>,
    pinned: Option<PinnedView>,
}

/// What was agreed to.
#[derive(Serialize, ToSchema)]
#[schema(as = Pinned)]
pub(in crate::http) struct PinnedView {
    pub(in crate::http) digest: String,
    #[schema(format = DateTime)]
    pub(in crate::http) first_pinned: String,
    #[schema(format = DateTime)]
    pub(in crate::http) accepted: String,
    pub(in crate::http) by: String,
}

/// A pin with both definitions.
#[derive(Serialize, ToSchema)]
struct ComparedPin {
    #[serde(flatten)]
    pin: PinRow,
    #[serde(flatten)]
    definitions: Definitions,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PinDefinitions)]
struct Definitions {
    /// Names of the members that are not the same, where both are known.
    differs_in: Option<Vec<String>>,
    pinned_definition: Value,
    offered_definition: Value,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AcceptedPins)]
struct AcceptedView {
    /// How many.
    accepted: usize,
    /// The one, where it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<PinRow>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ForgottenPins)]
struct ForgottenView {
    /// How many.
    forgotten: u64,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    let absent = &["not_found", "not_offered"];
    vec![
        get("/api/v1/pins", "listPins", "Pins by upstream and tool")
            .asks::<PinQuery>()
            .pages::<PinRow>(LIST)
            .refuses(StatusCode::NOT_FOUND, &["not_found"]),
        get("/api/v1/pins/definition", "comparePin", "Both definitions of a tool, and which members differ")
            .asks::<OnePin>()
            .shows::<ComparedPin>()
            .refuses(StatusCode::NOT_FOUND, &["not_found"]),
        post("/api/v1/pins/accept", "acceptPins", "Agrees to what an upstream offers now")
            .takes::<Accepted>()
            .shows::<AcceptedView>()
            .refuses(StatusCode::NOT_FOUND, absent)
            .conflicts(&["other_digest", "too_many_pins"]),
        post("/api/v1/pins/forget", "forgetPins", "Forgets what was agreed to of an upstream that is gone")
            .takes::<Forgotten>()
            .shows::<ForgottenView>()
            .refuses(StatusCode::NOT_FOUND, absent)
            .conflicts(&["in_use"]),
    ]
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
    let rows: Vec<PinRow> = pins.iter().map(view).collect();
    Ok(ok(&json!({ "pins": rows, "next_cursor": next })))
}

/// Both definitions, and which members differ.
pub(super) async fn show(State(api): State<Arc<Api>>, Query(query): Query<OnePin>) -> Answer {
    let upstream = read_upstream(&query.upstream)?;
    let found = api.control.pin(&upstream, &query.tool).await?.ok_or_else(|| Problem::not_found("tool"))?;
    let (pin, PinTexts { pinned, offered }) = found;
    let differs_in = match (&pinned, &offered) {
        (Some(pinned), Some(offered)) => Some(differences(pinned, offered)),
        _ => None,
    };
    let json =
        |text: Option<String>| text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::Null));
    let definitions = Definitions { differs_in, pinned_definition: json(pinned), offered_definition: json(offered) };
    Ok(ok(&json!(ComparedPin { pin: view(&pin), definitions })))
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
            Ok(ok(&json!(AcceptedView { accepted: 1, pin: Some(view(&pin)) })))
        }
        (None, true) if digest.is_none() => {
            let accepted = api.control.accept_pins(&upstream, None, operator.0).await?;
            Ok(ok(&json!(AcceptedView { accepted, pin: None })))
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
    Ok(ok(&json!(ForgottenView { forgotten })))
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

fn view(view: &PinView) -> PinRow {
    let PinView { upstream, tool, pinned, offered } = view;
    PinRow {
        upstream: upstream.clone(),
        tool: tool.clone(),
        state: view.standing(),
        offered_digest: offered.clone(),
        pinned: pinned.as_ref().map(view_of_pinned),
    }
}

pub(super) fn view_of_pinned(pin: &Pin) -> PinnedView {
    let Pin { tool: _, digest, first_pinned, accepted, by } = pin;
    PinnedView {
        digest: digest.clone(),
        first_pinned: first_pinned.to_string(),
        accepted: accepted.to_string(),
        by: by.to_string(),
    }
}

/// Names of the members in which two objects differ.
pub(super) fn differences(one: &str, other: &str) -> Vec<String> {
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
            PinError::OtherOffer => Self::new(StatusCode::CONFLICT, "changed_meanwhile", error.to_string()),
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
