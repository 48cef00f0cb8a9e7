//! Approvals that policies want.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::ApprovalStateWord;
use super::openapi::{Described, get, post};
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::admin::approvals::ApprovalError;
use crate::audit::Actor;
use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, UpstreamName};
use crate::store::approvals::{Approval, Approver, Memory, Said, Standing, Subject, Verdict, Wish};

const LIST: &str = "approvals";
/// Longest note of a decision, in bytes.
const MAX_NOTE_BYTES: usize = 1024;

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ApprovalQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    #[param(inline, value_type = Option<ApprovalStateWord>)]
    pub(in crate::http) state: Option<String>,
}

/// What an operator says.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApprovalDecision)]
pub(in crate::http) struct NewDecision {
    #[schema(inline)]
    pub(in crate::http) decision: Word,
    /// At most 1024 bytes.
    #[serde(default)]
    pub(in crate::http) note: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Word {
    Approve,
    Deny,
}

/// What a policy wants somebody to agree to.
#[derive(Serialize, ToSchema)]
#[schema(as = Approval)]
pub(in crate::http) struct ApprovalView {
    #[schema(value_type = String)]
    pub(in crate::http) id: ApprovalId,
    #[schema(value_type = ApprovalStateWord)]
    pub(in crate::http) state: &'static str,
    #[schema(format = DateTime)]
    pub(in crate::http) requested: String,
    #[schema(format = DateTime)]
    pub(in crate::http) until: String,
    /// Who wants to do it.
    pub(in crate::http) principal: String,
    pub(in crate::http) client: String,
    pub(in crate::http) operation: String,
    #[schema(value_type = String)]
    pub(in crate::http) upstream: UpstreamName,
    /// The upstream's own name for the tool or item.
    pub(in crate::http) item: String,
    pub(in crate::http) definition_digest: String,
    pub(in crate::http) arguments_digest: String,
    /// As they would be sent. Told of one approval only, and null where they are not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) arguments: Option<Value>,
    #[schema(value_type = String)]
    pub(in crate::http) policy: BindingName,
    pub(in crate::http) reason_code: String,
    pub(in crate::http) title: String,
    pub(in crate::http) summary: String,
    pub(in crate::http) by: ByView,
    pub(in crate::http) remember: MemoryView,
    pub(in crate::http) decided: Option<SaidView>,
}

/// Who may decide: the `caller`, an `operator`, or those who are named.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Approver)]
pub(in crate::http) enum ByView {
    Kind(&'static str),
    Listed(Vec<String>),
}

/// How long it counts: `once`, or for a time.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ApprovalMemory)]
pub(in crate::http) enum MemoryView {
    Once(&'static str),
    For { seconds: u64 },
}

#[derive(Serialize, ToSchema)]
#[schema(as = Ruling)]
pub(in crate::http) struct SaidView {
    pub(in crate::http) by: String,
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    pub(in crate::http) note: Option<String>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/approvals", "listApprovals", "Approvals that policies want, newest first")
            .filters::<ApprovalQuery>()
            .pages::<ApprovalView>(LIST),
        get("/api/v1/approvals/{id}", "showApproval", "One of them, with the arguments as they would be sent")
            .shows::<ApprovalView>(),
        post("/api/v1/approvals/{id}/decision", "decideApproval", "Gives or denies an approval")
            .takes::<NewDecision>()
            .shows::<ApprovalView>()
            .conflicts(&["already_decided", "lapsed"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ApprovalQuery>) -> Answer {
    let (approvals, next) = page(&api, query).await?;
    Ok(ok(&json!({ "approvals": approvals, "next_cursor": next })))
}

/// A page of the approvals, and the cursor of the next one.
pub(in crate::http) async fn page(
    api: &Api,
    query: ApprovalQuery,
) -> Result<(Vec<ApprovalView>, Option<String>), Problem> {
    let ApprovalQuery { limit, cursor, state } = query;
    let paging = Paging { limit, cursor };
    let state = state
        .map(|word| {
            let words = "`state` is pending, approved, used, denied or lapsed";
            Standing::parse(&word).ok_or_else(|| Problem::invalid(words))
        })
        .transpose()?;
    // Each filter is a list of its own.
    let list = format!("{LIST} {}", state.map_or("", Standing::as_str));
    let page = api.control.approvals(state, paging.cursor(api, &list)?, paging.limit()).await?;
    let now = api.control.env.now();
    let rows = page.items.iter().map(|approval| view(approval, now)).collect();
    Ok((rows, next_cursor(api, &list, page.next.as_ref())))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    Ok(ok(&json!(one(&api, &id).await?)))
}

/// One of them, with the arguments as they would be sent.
pub(in crate::http) async fn one(api: &Api, id: &str) -> Result<ApprovalView, Problem> {
    let approval = api.control.approval(&read_id(id)?).await?.ok_or_else(|| Problem::not_found("approval"))?;
    let mut shown = view(&approval, api.control.env.now());
    let arguments = api.control.arguments_of(&approval);
    shown.arguments = Some(arguments.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::Null)));
    Ok(shown)
}

pub(super) async fn decide(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
    Json(new): Json<NewDecision>,
) -> Answer {
    Ok(ok(&json!(rule(&api, &id, new, operator.0).await?)))
}

/// Gives or denies one of them.
pub(in crate::http) async fn rule(
    api: &Api,
    id: &str,
    new: NewDecision,
    actor: Actor,
) -> Result<ApprovalView, Problem> {
    let id = read_id(id)?;
    let NewDecision { decision, note } = new;
    if note.as_ref().is_some_and(|note| note.len() > MAX_NOTE_BYTES) {
        return Err(Problem::invalid(format!("`note` has at most {MAX_NOTE_BYTES} bytes")));
    }
    let verdict = match decision {
        Word::Approve => Verdict::Approve,
        Word::Deny => Verdict::Deny,
    };
    let approval = api.control.decide_approval(&id, verdict, note, actor).await?;
    Ok(view(&approval, api.control.env.now()))
}

fn read_id(id: &str) -> Result<ApprovalId, Problem> {
    ApprovalId::parse(id).ok_or_else(|| Problem::not_found("approval"))
}

fn view(approval: &Approval, now: Timestamp) -> ApprovalView {
    let Approval { id, requested, bound_to: _, subject, wish, sealed_arguments: _, state: _ } = approval;
    let Subject { principal, client, operation, upstream, item, definition, arguments, policy, code } = subject;
    let Wish { title, summary, by, ttl: _, memory } = wish;
    ApprovalView {
        id: id.clone(),
        state: approval.standing(now).as_str(),
        requested: requested.to_string(),
        until: approval.ends().to_string(),
        principal: principal.to_string(),
        client: client.clone(),
        operation: operation.clone(),
        upstream: upstream.clone(),
        item: item.clone(),
        definition_digest: definition.clone(),
        arguments_digest: arguments.to_hex(),
        arguments: None,
        policy: policy.clone(),
        reason_code: code.clone(),
        title: title.clone(),
        summary: summary.clone(),
        by: match by {
            Approver::Caller => ByView::Kind("caller"),
            Approver::Operator => ByView::Kind("operator"),
            Approver::Listed(names) => ByView::Listed(names.clone()),
        },
        remember: match memory {
            Memory::Once => MemoryView::Once("once"),
            Memory::For(time) => MemoryView::For { seconds: time.as_secs() },
        },
        decided: approval.said().map(|Said { by, at, note }| SaidView {
            by: by.to_string(),
            at: at.to_string(),
            note: note.clone(),
        }),
    }
}

impl From<ApprovalError> for Problem {
    fn from(error: ApprovalError) -> Self {
        match error {
            ApprovalError::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            ApprovalError::AlreadyDecided => Self::new(StatusCode::CONFLICT, "already_decided", error.to_string()),
            ApprovalError::Lapsed => Self::new(StatusCode::CONFLICT, "lapsed", error.to_string()),
            ApprovalError::Store(error) => error.into(),
        }
    }
}
