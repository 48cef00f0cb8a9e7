//! Upstreams: their health, and those that operators declare. No answer has a secret.
//!
//! A definition is what `[upstreams.NAME]` of the configuration file says, as JSON. It may name a program to start and files to
//! read, which is for owners alone: whoever says so can do what the gateway's own user can.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{HeaderValue, LOCATION};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::if_match::{IfMatch, is_other, tagged};
use super::{Access, Answer, Api, Json, Operator, Path, Problem, Query, given, ok, respond};
use crate::admin::upstreams::{Care, Change, State as Standing, UpstreamError, UpstreamView};
use crate::config::definition::Misfit;
use crate::config::{self, UpstreamTransport};
use crate::env::Timestamp;
use crate::ids::UpstreamName;
use crate::upstream::{Failure, Health, Tried, Upstream};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamRequest {
    name: String,
    definition: Map<String, Value>,
}

/// A merge patch of what [`show`] shows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamChange {
    #[serde(default, deserialize_with = "given")]
    definition: Option<Option<Map<String, Value>>>,
    #[serde(default, deserialize_with = "given")]
    enabled: Option<Option<bool>>,
}

impl UpstreamChange {
    /// An upstream has both: neither can be taken away.
    fn read(self) -> Result<Change, Problem> {
        let no_object = || Problem::invalid("`definition` is an object");
        let neither = || Problem::invalid("`enabled` is true or false");
        let definition = self.definition.map(|definition| definition.ok_or_else(no_object)).transpose()?;
        let enabled = self.enabled.map(|enabled| enabled.ok_or_else(neither)).transpose()?;
        Ok(Change { definition, enabled })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CareQuery {
    /// Saves it without a trial.
    #[serde(default)]
    unchecked: bool,
}

impl CareQuery {
    fn care(&self) -> Care {
        if self.unchecked { Care::Unchecked } else { Care::Tried }
    }
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    let now = api.control.env.now();
    let upstreams: Vec<Value> = api.control.upstream_views().iter().map(|upstream| view(upstream, now)).collect();
    Ok(ok(&json!({ "upstreams": upstreams })))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    let upstream = api.control.upstream_view(&read_name(&name)?).ok_or_else(|| Problem::not_found("upstream"))?;
    Ok(shown(&api, StatusCode::OK, &upstream))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Query(query): Query<CareQuery>,
    Json(new): Json<UpstreamRequest>,
) -> Answer {
    let UpstreamRequest { name, definition } = new;
    let name = UpstreamName::parse(&name).map_err(|error| Problem::invalid(error.to_string()))?;
    operator.needs(to_say(&definition))?;
    let upstream = api.control.create_upstream(name, definition, query.care(), operator.0).await?;
    let mut response = shown(&api, StatusCode::CREATED, &upstream);
    let location = format!("/api/v1/upstreams/{}", upstream.name);
    response.headers_mut().extend(HeaderValue::try_from(location).ok().map(|location| (LOCATION, location)));
    Ok(response)
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
    Query(query): Query<CareQuery>,
    Json(change): Json<UpstreamChange>,
) -> Answer {
    let name = read_name(&name)?;
    // Whoever may not change it at all is told so before anything else.
    let there = api.control.upstream_view(&name).ok_or_else(|| Problem::not_found("upstream"))?;
    if there.declared.is_none() {
        return Err(UpstreamError::ManagedByFile.into());
    }
    let (seen, change) = (condition.needed()?, change.read()?);
    operator.needs(change.definition.as_ref().map_or(Access::Operator, to_say))?;
    let upstream = api.control.change_upstream(&name, seen, change, query.care(), operator.0).await?;
    Ok(shown(&api, StatusCode::OK, &upstream))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
) -> Answer {
    api.control.remove_upstream(&read_name(&name)?, condition.said(), operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn try_definition(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(new): Json<UpstreamRequest>,
) -> Answer {
    let name = UpstreamName::parse(&new.name).map_err(|error| Problem::invalid(error.to_string()))?;
    operator.needs(to_say(&new.definition))?;
    Ok(ok(&tried(api.control.try_definition(&name, new.definition).await)?))
}

pub(super) async fn try_one(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    Ok(ok(&tried(api.control.try_upstream(&read_name(&name)?).await)?))
}

/// Has the upstream's tools read again soon.
pub(super) async fn refresh(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    let snapshot = api.control.snapshot.load();
    let upstream = UpstreamName::parse(&name).ok().and_then(|name| snapshot.upstreams.get(&name));
    upstream.ok_or_else(|| Problem::not_found("upstream"))?.refresh();
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Settings of a program.
const OF_PROGRAMS: [&str; 3] = ["command", "environment", "working_dir"];

/// Who may say this of an upstream: owners, where it has the gateway start a program, or read a file or a variable of its own.
fn to_say(definition: &Map<String, Value>) -> Access {
    let is_of_program = OF_PROGRAMS.iter().any(|setting| definition.contains_key(*setting));
    if is_of_program || definition.values().any(refers) { Access::Owner } else { Access::Operator }
}

/// Whether there is a reference in it: alone, or after a scheme as in `Bearer env:NAME`.
fn refers(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.split_whitespace().any(|word| word.starts_with("env:") || word.starts_with("file:"))
        }
        Value::Array(values) => values.iter().any(refers),
        Value::Object(members) => members.values().any(refers),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn read_name(name: &str) -> Result<UpstreamName, Problem> {
    UpstreamName::parse(name).map_err(|_| Problem::not_found("upstream"))
}

/// One upstream, with its definition and the revision to change it by.
fn shown(api: &Api, status: StatusCode, upstream: &UpstreamView) -> Response {
    let mut body = view(upstream, api.control.env.now());
    body["definition"] = upstream.definition().map_or(Value::Null, Value::Object);
    if let Some(declared) = &upstream.declared {
        body["created"] = declared.created.to_string().into();
        body["changed"] = declared.changed.to_string().into();
        body["changed_by"] = declared.changed_by.to_string().into();
    }
    let response = respond(status, &body);
    match &upstream.declared {
        Some(declared) => tagged(response, declared.revision),
        None => response,
    }
}

fn view(upstream: &UpstreamView, now: Timestamp) -> Value {
    let UpstreamView { name, declared, state } = upstream;
    let mut view = match state {
        Standing::Running { upstream, trouble } => {
            let mut view = running(upstream, now);
            view["mistake"] = json!(trouble);
            view
        }
        Standing::Disabled => idle("disabled", None),
        Standing::Broken { reason } => idle("broken", Some(reason)),
    };
    view["name"] = json!(name);
    view["managed_by"] = json!(if declared.is_some() { "store" } else { "file" });
    view["enabled"] = json!(declared.as_ref().is_none_or(|declared| declared.enabled));
    view["definition_revision"] = json!(declared.as_ref().map(|declared| declared.revision));
    view
}

/// An upstream that nothing is known of, since none runs.
fn idle(state: &str, reason: Option<&String>) -> Value {
    json!({
        "transport": null, "revision": null, "state": state, "since": null, "tools": null, "reason": reason,
        "last_failure": null, "trust": null, "labels": null, "mistake": reason,
    })
}

fn running(upstream: &Upstream, now: Timestamp) -> Value {
    let config::Upstream { transport, trust, labels, .. } = upstream.settings();
    let (state, tools, reason) = match &*upstream.health() {
        Health::Starting => ("starting", None, None),
        Health::Up { tools } => ("up", Some(*tools), None),
        Health::Down { reason } => ("down", None, Some(reason.clone())),
    };
    let transport = match transport {
        UpstreamTransport::StreamableHttp { url, .. } => {
            json!({ "kind": "streamable-http", "origin": crate::outbound::origin(url) })
        }
        UpstreamTransport::Stdio { command, .. } => json!({ "kind": "stdio", "program": command.first() }),
    };
    let at = |moment: tokio::time::Instant| now.before(moment.elapsed()).to_string();
    let failure = upstream.last_failure();
    let failure =
        failure.as_deref().map(|Failure { reason, at: moment }| json!({ "reason": reason, "at": at(*moment) }));
    let about = upstream.known_about();
    json!({
        "transport": transport,
        "revision": about.as_ref().map(|about| about.revision.as_str()),
        "state": state,
        "since": at(upstream.since()),
        "tools": tools,
        "reason": reason,
        "last_failure": failure,
        "trust": trust,
        "labels": labels,
    })
}

/// What came of a trial. One that fails is no problem of the request's.
fn tried(tried: Result<Tried, UpstreamError>) -> Result<Value, Problem> {
    Ok(match tried {
        Ok(Tried::Works { tools, about }) => {
            json!({ "outcome": "works", "tools": tools, "revision": about.revision.as_str() })
        }
        Ok(Tried::WantsCredential) => json!({ "outcome": "wants_credential" }),
        Ok(Tried::Failed { stage, reason }) => {
            json!({ "outcome": "failed", "stage": stage.as_str(), "reason": reason })
        }
        Err(UpstreamError::Mistakes(misfits)) => {
            json!({ "outcome": "failed", "stage": "settings", "reason": summary(&misfits), "mistakes": mistakes(&misfits) })
        }
        Err(error) => return Err(error.into()),
    })
}

fn mistakes(misfits: &[Misfit]) -> Value {
    let mistake = |misfit: &Misfit| {
        let Misfit { field, message, hint } = misfit;
        json!({ "field": field, "message": message, "hint": hint })
    };
    misfits.iter().map(mistake).collect()
}

fn summary(misfits: &[Misfit]) -> String {
    misfits.iter().map(|misfit| misfit.message.as_str()).collect::<Vec<_>>().join("; ")
}

impl From<UpstreamError> for Problem {
    fn from(error: UpstreamError) -> Self {
        let detail = error.to_string();
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, detail.clone());
        match error {
            UpstreamError::NameTaken => conflict("name_taken"),
            UpstreamError::StillEnding => conflict("name_still_ending"),
            UpstreamError::ManagedByFile => conflict("managed_by_file"),
            UpstreamError::TooMany => conflict("too_many_upstreams"),
            UpstreamError::NotFound => Self::not_found("upstream"),
            UpstreamError::Reserved | UpstreamError::TooLarge => Self::invalid(detail),
            UpstreamError::Conflict { revision } => is_other(detail, revision),
            UpstreamError::Mistakes(misfits) => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_definition", summary(&misfits));
                problem.with("stage", "settings").with("mistakes", mistakes(&misfits))
            }
            UpstreamError::Failed { stage, reason } => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "trial_failed", reason);
                problem.with("stage", stage.as_str())
            }
            UpstreamError::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_trials", detail),
            UpstreamError::Interrupted => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail),
            UpstreamError::Vault(error) => error.into(),
            UpstreamError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_no_definition_and_no_answer() {
        let read = |text: &str| {
            let change: UpstreamChange = serde_json::from_str(text).unwrap();
            change.read().map(|change| (change.definition.is_some(), change.enabled)).map_err(|problem| problem.code)
        };
        assert_eq!(read("{}"), Ok((false, None)));
        assert_eq!(read(r#"{"definition":{},"enabled":false}"#), Ok((true, Some(false))));
        assert_eq!(read(r#"{"definition":null}"#), Err("invalid"));
        assert_eq!(read(r#"{"enabled":null}"#), Err("invalid"));
    }

    #[test]
    fn each_refusal_has_a_status_and_a_code() {
        let misfit = Misfit::of("url", "must be a string");
        for (error, status, code) in [
            (UpstreamError::NameTaken, 409, "name_taken"),
            (UpstreamError::Reserved, 422, "invalid"),
            (UpstreamError::StillEnding, 409, "name_still_ending"),
            (UpstreamError::NotFound, 404, "not_found"),
            (UpstreamError::ManagedByFile, 409, "managed_by_file"),
            (UpstreamError::TooMany, 409, "too_many_upstreams"),
            (UpstreamError::TooLarge, 422, "invalid"),
            (UpstreamError::Conflict { revision: 3 }, 412, "precondition_failed"),
            (UpstreamError::Mistakes(vec![misfit]), 422, "invalid_definition"),
            (UpstreamError::Busy, 429, "too_many_trials"),
            (UpstreamError::Interrupted, 503, "stopping"),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.status.as_u16(), problem.code), (status, code));
        }
    }

    #[test]
    fn programs_files_and_variables_are_for_owners_to_name() {
        let access = |definition: Value| to_say(definition.as_object().unwrap());
        for definition in [
            json!({ "url": "https://crm.example.com/mcp", "headers": { "X-Team": "core", "authorization": "Bearer x" } }),
            json!({ "trust": "internal", "labels": ["profile:a"] }),
            json!({}),
        ] {
            assert_eq!(access(definition.clone()), Access::Operator, "{definition}");
        }
        for definition in [
            json!({ "command": ["sh"] }),
            json!({ "command": null }),
            json!({ "environment": { "LD_PRELOAD": "x" } }),
            json!({ "working_dir": "/" }),
            json!({ "headers": { "X-Key": "file:data/operator-token" } }),
            json!({ "headers": { "authorization": "Bearer env:TOKEN" } }),
            json!({ "auth": { "client_secret": " file:x" } }),
            json!({ "labels": ["file:x"] }),
        ] {
            assert_eq!(access(definition.clone()), Access::Owner, "{definition}");
        }
    }
}
