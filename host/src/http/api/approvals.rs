//! Approvals that policies want.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::admin::approvals::ApprovalError;
use crate::env::Timestamp;
use crate::ids::ApprovalId;
use crate::store::approvals::{Approval, Approver, Memory, Said, Standing, Subject, Verdict, Wish};

const LIST: &str = "approvals";
/// Longest note of a decision, in bytes.
const MAX_NOTE_BYTES: usize = 1024;

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApprovalQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// `pending`, `approved`, `used`, `denied` or `lapsed`.
    state: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDecision {
    decision: Word,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Approve,
    Deny,
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ApprovalQuery>) -> Answer {
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
    let page = api.control.approvals(state, paging.cursor(&api, &list)?, paging.limit()).await?;
    let now = api.control.env.now();
    let rows: Vec<Value> = page.items.iter().map(|approval| view(approval, now)).collect();
    Ok(ok(&json!({ "approvals": rows, "next_cursor": next_cursor(&api, &list, page.next.as_ref()) })))
}

/// With the arguments as they would be sent.
pub(super) async fn show(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    let approval = api.control.approval(&read_id(&id)?).await?.ok_or_else(|| Problem::not_found("approval"))?;
    let mut shown = view(&approval, api.control.env.now());
    let arguments = api.control.arguments_of(&approval);
    shown["arguments"] = arguments.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::Null));
    Ok(ok(&shown))
}

pub(super) async fn decide(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
    Json(new): Json<NewDecision>,
) -> Answer {
    let id = read_id(&id)?;
    let NewDecision { decision, note } = new;
    if note.as_ref().is_some_and(|note| note.len() > MAX_NOTE_BYTES) {
        return Err(Problem::invalid(format!("`note` has at most {MAX_NOTE_BYTES} bytes")));
    }
    let verdict = match decision {
        Word::Approve => Verdict::Approve,
        Word::Deny => Verdict::Deny,
    };
    let approval = api.control.decide_approval(&id, verdict, note, operator.0).await?;
    Ok(ok(&view(&approval, api.control.env.now())))
}

fn read_id(id: &str) -> Result<ApprovalId, Problem> {
    ApprovalId::parse(id).ok_or_else(|| Problem::not_found("approval"))
}

fn view(approval: &Approval, now: Timestamp) -> Value {
    let Approval { id, requested, bound_to: _, subject, wish, sealed_arguments: _, state: _ } = approval;
    let Subject { principal, client, operation, upstream, item, definition, arguments, policy, code } = subject;
    let Wish { title, summary, by, ttl: _, memory } = wish;
    json!({
        "id": id,
        "state": approval.standing(now).as_str(),
        "requested": requested.to_string(),
        "until": approval.ends().to_string(),
        "principal": principal.to_string(),
        "client": client,
        "operation": operation,
        "upstream": upstream,
        "item": item,
        "definition_digest": definition,
        "arguments_digest": arguments.to_hex(),
        "policy": policy,
        "reason_code": code,
        "title": title,
        "summary": summary,
        "by": match by {
            Approver::Caller => json!("caller"),
            Approver::Operator => json!("operator"),
            Approver::Listed(names) => json!(names),
        },
        "remember": match memory {
            Memory::Once => json!("once"),
            Memory::For(time) => json!({ "seconds": time.as_secs() }),
        },
        "decided": approval.said().map(|Said { by, at, note }| {
            json!({ "by": by.to_string(), "at": at.to_string(), "note": note })
        }),
    })
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
