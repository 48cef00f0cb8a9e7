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
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::if_match::{IfMatch, is_other, tagged};
use super::openapi::words::{ManagedByWord, TrialOutcomeWord, TrialStageWord, UpstreamStateWord};
use super::openapi::{Described, delete, get, patch, post};
use super::{Access, Answer, Api, Json, Operator, Paging, Path, Problem, Query, given, next_cursor, ok, respond};
use crate::admin::upstreams::{Care, Change, State as Standing, UpstreamError, UpstreamView, is_for_owners};
use crate::config::definition::Misfit;
use crate::config::{self, UpstreamTransport};
use crate::env::Timestamp;
use crate::ids::UpstreamName;
use crate::store::Cursor;
use crate::upstream::{Failure, Health, Tried, Upstream};

const LIST: &str = "upstreams";

/// An upstream to be, or to be tried.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamRequest {
    name: String,
    /// What `[upstreams.NAME]` of the configuration file says, as JSON.
    definition: Map<String, Value>,
}

/// A merge patch of what [`show`] shows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamChange {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Map<String, Value>, required = false)]
    definition: Option<Option<Map<String, Value>>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = bool, required = false)]
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
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

/// An upstream, and how it fares.
#[derive(Serialize, ToSchema)]
#[schema(as = Upstream)]
pub(in crate::http) struct UpstreamRow {
    #[schema(value_type = String)]
    pub(in crate::http) name: UpstreamName,
    #[schema(value_type = ManagedByWord)]
    pub(in crate::http) managed_by: &'static str,
    pub(in crate::http) enabled: bool,
    /// Of one that operators have declared: the revision to change it by.
    pub(in crate::http) definition_revision: Option<u64>,
    /// What keeps its definition from coming into force.
    pub(in crate::http) mistake: Option<String>,
    #[serde(flatten)]
    pub(in crate::http) running: RunningView,
}

/// What is known of it while it runs.
#[derive(Serialize, ToSchema)]
#[schema(as = UpstreamHealth)]
pub(in crate::http) struct RunningView {
    pub(in crate::http) transport: Option<TransportView>,
    /// Of MCP.
    pub(in crate::http) revision: Option<String>,
    #[schema(value_type = UpstreamStateWord)]
    pub(in crate::http) state: &'static str,
    #[schema(format = DateTime)]
    pub(in crate::http) since: Option<String>,
    /// How many it offers.
    pub(in crate::http) tools: Option<usize>,
    pub(in crate::http) reason: Option<String>,
    pub(in crate::http) last_failure: Option<FailureView>,
    pub(in crate::http) trust: Option<String>,
    pub(in crate::http) labels: Option<Vec<String>>,
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "kind")]
#[schema(as = UpstreamTransport)]
pub(in crate::http) enum TransportView {
    #[serde(rename = "streamable-http")]
    Http { origin: String },
    #[serde(rename = "stdio")]
    Stdio { program: Option<String> },
}

#[derive(Serialize, ToSchema)]
#[schema(as = UpstreamFailure)]
pub(in crate::http) struct FailureView {
    pub(in crate::http) reason: String,
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
}

/// One upstream with its definition, which has no secrets.
#[derive(Serialize, ToSchema)]
struct ShownUpstream {
    #[serde(flatten)]
    upstream: UpstreamRow,
    /// Null where the configuration file has it.
    definition: Option<Map<String, Value>>,
    /// When it was declared; of one that the file has, neither this nor who changed it last is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    changed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_by: Option<String>,
}

/// What came of a trial.
#[derive(Serialize, ToSchema)]
#[schema(as = Trial)]
pub(in crate::http) struct TrialView {
    #[schema(value_type = TrialOutcomeWord)]
    pub(in crate::http) outcome: &'static str,
    /// How many it offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) tools: Option<usize>,
    /// Of MCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) revision: Option<String>,
    /// Where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TrialStageWord>)]
    pub(in crate::http) stage: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) mistakes: Option<Vec<MistakeView>>,
}

impl TrialView {
    const fn of(outcome: &'static str) -> Self {
        Self { outcome, tools: None, revision: None, stage: None, reason: None, mistakes: None }
    }

    fn failed(stage: &'static str, reason: String) -> Self {
        Self { stage: Some(stage), reason: Some(reason), ..Self::of("failed") }
    }

    pub(in crate::http) fn mistaken(misfits: &[Misfit]) -> Self {
        Self { mistakes: Some(mistakes(misfits)), ..Self::failed("settings", summary(misfits)) }
    }
}

/// A mistake in a definition.
#[derive(Serialize, ToSchema)]
#[schema(as = DefinitionMistake)]
pub(in crate::http) struct MistakeView {
    /// The setting; null where it is the definition as a whole.
    pub(in crate::http) field: Option<String>,
    pub(in crate::http) message: String,
    pub(in crate::http) hint: Option<String>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    let tried = |operation: Described| {
        operation
            .refuses(StatusCode::TOO_MANY_REQUESTS, &["too_many_trials"])
            .refuses(StatusCode::SERVICE_UNAVAILABLE, &["stopping"])
    };
    let saved = |operation: Described| {
        tried(operation).refuses(StatusCode::UNPROCESSABLE_ENTITY, &["invalid", "invalid_definition", "trial_failed"])
    };
    let create = post("/api/v1/upstreams", "createUpstream", "Declares an upstream, once it was tried")
        .asks::<CareQuery>()
        .takes::<UpstreamRequest>()
        .gives::<ShownUpstream>(StatusCode::CREATED)
        .tagged()
        .located()
        .conflicts(&["name_taken", "name_still_ending", "too_many_upstreams"]);
    let change =
        patch("/api/v1/upstreams/{name}", "changeUpstream", "Changes an upstream, once what it would be was tried")
            .needs_if_match()
            .asks::<CareQuery>()
            .takes::<UpstreamChange>()
            .shows::<ShownUpstream>()
            .tagged()
            .conflicts(&["managed_by_file", "name_still_ending"]);
    let remove = delete("/api/v1/upstreams/{name}", "removeUpstream", "Withdraws an upstream")
        .if_match()
        .says(StatusCode::NO_CONTENT)
        .conflicts(&["managed_by_file"]);
    vec![
        get("/api/v1/upstreams", "listUpstreams", "Upstreams by name, and how they fare")
            .asks::<Paging>()
            .pages::<UpstreamRow>(LIST),
        saved(create),
        tried(post("/api/v1/upstreams/try", "tryDefinition", "Tries a definition, and saves nothing"))
            .takes::<UpstreamRequest>()
            .shows::<TrialView>(),
        get("/api/v1/upstreams/{name}", "showUpstream", "One upstream with its definition")
            .shows::<ShownUpstream>()
            .tagged(),
        saved(change),
        remove,
        tried(post("/api/v1/upstreams/{name}/try", "tryUpstream", "Tries an upstream as it is declared"))
            .shows::<TrialView>(),
        post("/api/v1/upstreams/{name}/refresh", "refreshUpstream", "Has the upstream's tools read again soon")
            .says(StatusCode::ACCEPTED)
            .conflicts(&["not_running"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(paging): Query<Paging>) -> Answer {
    let (upstreams, next) = page(&api, &paging)?;
    Ok(ok(&json!({ "upstreams": upstreams, "next_cursor": next })))
}

/// A page of them by name, and the cursor of the next one.
fn page(api: &Api, paging: &Paging) -> Result<(Vec<UpstreamRow>, Option<String>), Problem> {
    let after = paging.cursor(api, LIST)?;
    let now = api.control.env.now();
    let all = api.control.upstream_views();
    let is_behind = |upstream: &&UpstreamView| {
        after.as_ref().is_none_or(|after| upstream.name.as_str().as_bytes() > after.as_bytes())
    };
    let mut behind = all.iter().filter(is_behind);
    let rows: Vec<UpstreamRow> = behind.by_ref().take(paging.limit()).map(|upstream| view(upstream, now)).collect();
    let last = rows.last().filter(|_| behind.next().is_some());
    let next = last.and_then(|last| Cursor::from_bytes(last.name.as_str().as_bytes().to_vec()));
    Ok((rows, next_cursor(api, LIST, next.as_ref())))
}

/// All of them, by name.
pub(in crate::http) fn all(api: &Api) -> Vec<UpstreamRow> {
    let now = api.control.env.now();
    api.control.upstream_views().iter().map(|upstream| view(upstream, now)).collect()
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    Ok(shown(&api, StatusCode::OK, &find(&api, &name)?))
}

/// The upstream of this name.
pub(in crate::http) fn find(api: &Api, name: &str) -> Result<UpstreamView, Problem> {
    api.control.upstream_view(&read_name(name)?).ok_or_else(|| Problem::not_found("upstream"))
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
    let who = (operator.1.role(), operator.0);
    let upstream = api.control.change_upstream(&name, seen, change, query.care(), who).await?;
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
    Ok(ok(&json!(tried(api.control.try_definition(&name, new.definition).await)?)))
}

pub(super) async fn try_one(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    Ok(ok(&json!(tried(api.control.try_upstream(&read_name(&name)?).await)?)))
}

pub(super) async fn refresh(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    read_again(&api, &name)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Has the upstream's tools read again soon.
pub(in crate::http) fn read_again(api: &Api, name: &str) -> Result<(), Problem> {
    match find(api, name)?.state {
        Standing::Running { upstream, trouble: _ } => {
            upstream.refresh();
            Ok(())
        }
        Standing::Disabled => Err(not_running("the upstream is disabled: enable it first")),
        Standing::Broken { reason } => Err(not_running(format!("the upstream cannot run as it is declared: {reason}"))),
    }
}

fn not_running(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::CONFLICT, "not_running", detail)
}

/// Who may say this of an upstream.
pub(in crate::http) fn to_say(definition: &Map<String, Value>) -> Access {
    if is_for_owners(definition) { Access::Owner } else { Access::Operator }
}

pub(in crate::http) fn read_name(name: &str) -> Result<UpstreamName, Problem> {
    UpstreamName::parse(name).map_err(|_| Problem::not_found("upstream"))
}

/// One upstream, with its definition and the revision to change it by.
fn shown(api: &Api, status: StatusCode, upstream: &UpstreamView) -> Response {
    let declared = upstream.declared.as_ref();
    let body = ShownUpstream {
        upstream: view(upstream, api.control.env.now()),
        definition: upstream.definition(),
        created: declared.map(|declared| declared.created.to_string()),
        changed: declared.map(|declared| declared.changed.to_string()),
        changed_by: declared.map(|declared| declared.changed_by.to_string()),
    };
    let body = json!(body);
    let response = respond(status, &body);
    match &upstream.declared {
        Some(declared) => tagged(response, declared.revision),
        None => response,
    }
}

pub(in crate::http) fn view(upstream: &UpstreamView, now: Timestamp) -> UpstreamRow {
    let UpstreamView { name, declared, state } = upstream;
    let (running, mistake) = match state {
        Standing::Running { upstream, trouble } => (running(upstream, now), trouble.clone()),
        Standing::Disabled => (idle("disabled", None), None),
        Standing::Broken { reason } => (idle("broken", Some(reason.clone())), Some(reason.clone())),
    };
    UpstreamRow {
        name: name.clone(),
        managed_by: if declared.is_some() { "store" } else { "file" },
        enabled: declared.as_ref().is_none_or(|declared| declared.enabled),
        definition_revision: declared.as_ref().map(|declared| declared.revision),
        mistake,
        running,
    }
}

/// An upstream that nothing is known of, since none runs.
fn idle(state: &'static str, reason: Option<String>) -> RunningView {
    RunningView {
        transport: None,
        revision: None,
        state,
        since: None,
        tools: None,
        reason,
        last_failure: None,
        trust: None,
        labels: None,
    }
}

fn running(upstream: &Upstream, now: Timestamp) -> RunningView {
    let config::Upstream { transport, trust, labels, .. } = upstream.settings();
    let (state, tools, reason) = match &*upstream.health() {
        Health::Starting => ("starting", None, None),
        Health::Up { tools } => ("up", Some(*tools), None),
        Health::Down { reason } => ("down", None, Some(reason.clone())),
    };
    let transport = match transport {
        UpstreamTransport::StreamableHttp { url, .. } => TransportView::Http { origin: crate::outbound::origin(url) },
        UpstreamTransport::Stdio { command, .. } => TransportView::Stdio { program: command.first().cloned() },
    };
    let at = |moment: tokio::time::Instant| now.before(moment.elapsed()).to_string();
    let failure = upstream.last_failure();
    let failure = failure
        .as_deref()
        .map(|Failure { reason, at: moment }| FailureView { reason: reason.clone(), at: at(*moment) });
    let about = upstream.known_about();
    RunningView {
        transport: Some(transport),
        revision: about.as_ref().map(|about| about.revision.as_str().to_owned()),
        state,
        since: Some(at(upstream.since())),
        tools,
        reason,
        last_failure: failure,
        trust: Some(trust.clone()),
        labels: Some(labels.clone()),
    }
}

/// What came of a trial. One that fails is no problem of the request's.
pub(in crate::http) fn tried(tried: Result<Tried, UpstreamError>) -> Result<TrialView, Problem> {
    Ok(match tried {
        Ok(Tried::Works { tools, about }) => TrialView {
            tools: Some(tools),
            revision: Some(about.revision.as_str().to_owned()),
            ..TrialView::of("works")
        },
        Ok(Tried::WantsCredential) => TrialView::of("wants_credential"),
        Ok(Tried::Failed { stage, reason }) => TrialView::failed(stage.as_str(), reason),
        Err(UpstreamError::Mistakes(misfits)) => TrialView::mistaken(&misfits),
        Err(error) => return Err(error.into()),
    })
}

/// What kept something from being saved, where that is a trial or what was given.
pub(in crate::http) fn not_saved(error: UpstreamError) -> Result<TrialView, Problem> {
    match error {
        UpstreamError::Failed { stage, reason } => Ok(TrialView::failed(stage.as_str(), reason)),
        UpstreamError::Mistakes(misfits) => Ok(TrialView::mistaken(&misfits)),
        error => Err(error.into()),
    }
}

pub(super) fn mistakes(misfits: &[Misfit]) -> Vec<MistakeView> {
    let mistake = |misfit: &Misfit| {
        let Misfit { field, message, hint } = misfit;
        MistakeView { field: field.clone(), message: message.clone(), hint: hint.clone() }
    };
    misfits.iter().map(mistake).collect()
}

pub(super) fn summary(misfits: &[Misfit]) -> String {
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
            UpstreamError::ForOwners => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", detail).with("role", Access::Owner.role().as_str())
            }
            UpstreamError::Reserved | UpstreamError::TooLarge => Self::invalid(detail),
            UpstreamError::Conflict { revision } => is_other(detail, revision),
            UpstreamError::Mistakes(misfits) => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_definition", summary(&misfits));
                problem.with("stage", "settings").with("mistakes", json!(mistakes(&misfits)))
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
