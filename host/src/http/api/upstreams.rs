//! Upstreams: their health, and those that operators declare. No answer has a secret.
//!
//! A definition is what `[upstreams.NAME]` of the configuration file says, as JSON. It may name a program to start, which
//! is why all of this is for operators alone.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{ETAG, HeaderValue, IF_MATCH, LOCATION};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Api, Json, Operator, Path, Problem, Query, ok, respond};
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
    definition: Option<Map<String, Value>>,
    enabled: Option<bool>,
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
    let UpstreamChange { definition, enabled } = change;
    // Whoever may not change it at all is told so before anything else.
    let there = api.control.upstream_view(&name).ok_or_else(|| Problem::not_found("upstream"))?;
    if there.declared.is_none() {
        return Err(UpstreamError::ManagedByFile.into());
    }
    let expected = condition.needed()?;
    let change = Change { definition, enabled };
    let upstream = api.control.change_upstream(&name, expected, change, query.care(), operator.0).await?;
    Ok(shown(&api, StatusCode::OK, &upstream))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
) -> Answer {
    api.control.remove_upstream(&read_name(&name)?, condition.if_any(), operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn try_definition(State(api): State<Arc<Api>>, Json(new): Json<UpstreamRequest>) -> Answer {
    let name = UpstreamName::parse(&new.name).map_err(|error| Problem::invalid(error.to_string()))?;
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

fn read_name(name: &str) -> Result<UpstreamName, Problem> {
    UpstreamName::parse(name).map_err(|_| Problem::not_found("upstream"))
}

/// Which revision a change is meant for (RFC 9110 §13.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfMatch {
    Missing,
    Any,
    Revision(u64),
}

impl IfMatch {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(IF_MATCH).iter();
        let Some(value) = values.next() else { return Ok(Self::Missing) };
        let text = value.to_str().ok().filter(|_| values.next().is_none()).map(str::trim);
        let digits = |text: &str| text.trim_start_matches('"').trim_end_matches('"').parse().ok();
        let read = match text {
            Some("*") => Some(Self::Any),
            Some(text) => digits(text).map(Self::Revision),
            None => None,
        };
        let wrong = || Problem::new(StatusCode::BAD_REQUEST, "invalid_if_match", "If-Match must be one revision, or *");
        read.ok_or_else(wrong)
    }

    /// The revision, where one has to be said.
    fn needed(self) -> Result<Option<u64>, Problem> {
        match self {
            Self::Missing => {
                let detail = "say in If-Match which revision is to be changed, as ETag told it";
                Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail))
            }
            Self::Any => Ok(None),
            Self::Revision(revision) => Ok(Some(revision)),
        }
    }

    fn if_any(self) -> Option<u64> {
        match self {
            Self::Missing | Self::Any => None,
            Self::Revision(revision) => Some(revision),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(&parts.headers)
    }
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
    let mut response = respond(status, &body);
    let revision = upstream.declared.as_ref().map(|declared| format!("\"{}\"", declared.revision));
    response.headers_mut().extend(revision.and_then(|tag| HeaderValue::try_from(tag).ok()).map(|tag| (ETAG, tag)));
    response
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
            UpstreamError::Conflict { revision } => {
                Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail).with("revision", revision)
            }
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
    fn a_change_says_which_revision_it_is_meant_for() {
        let read = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|value| (IF_MATCH, HeaderValue::from_str(value).unwrap())));
            IfMatch::read(&headers).map_err(|problem| problem.code)
        };
        assert_eq!(read(None), Ok(IfMatch::Missing));
        assert_eq!(read(Some("*")), Ok(IfMatch::Any));
        assert_eq!(read(Some("\"7\"")), Ok(IfMatch::Revision(7)));
        assert_eq!(read(Some("7")), Ok(IfMatch::Revision(7)));
        for wrong in ["", "W/\"7\"", "\"7\", \"8\"", "seven", "-1"] {
            assert_eq!(read(Some(wrong)), Err("invalid_if_match"), "{wrong}");
        }
        assert_eq!(IfMatch::Missing.needed().map_err(|problem| problem.status), Err(StatusCode::PRECONDITION_REQUIRED));
        assert_eq!(IfMatch::Any.needed().ok(), Some(None));
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
}
