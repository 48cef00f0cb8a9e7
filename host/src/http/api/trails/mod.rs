//! The two trails: what was decided about calls, and what operators and the gateway did.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::openapi::words::{OutcomeWord, VerdictWord};
use super::openapi::{Described, get};
use super::{Answer, Api, Paging, Path, Problem, Query, next_cursor, ok};
use crate::audit::{AuditEvent, RecordedOutcome, RecordedVerdict};
use crate::env::Timestamp;
use crate::ids::{Principal, UpstreamName};
use crate::store::audit::Found;
use crate::store::decisions::Filter;
use crate::store::{audit, audit_feed, decisions};

mod view;

use view::UNREADABLE;

pub(in crate::http) use view::{AuditView, DecisionView, StepView};
pub(in crate::http::api) use view::{decision_view, view_of_found};

const DECISIONS: &str = "decisions";
const AUDIT: &str = "audit";

/// Paging and filter in one, since a query string is flat.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct DecisionQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// Such as `key:ci`.
    pub(in crate::http) principal: Option<String>,
    #[param(value_type = Option<String>)]
    pub(in crate::http) upstream: Option<String>,
    /// The upstream's own name for the tool.
    pub(in crate::http) tool: Option<String>,
    /// What the policies came to: `allow`, `deny`, `hidden`, `step-up`, `approve`, `throttle`, `consent` or `error`.
    #[param(inline, value_type = Option<VerdictWord>)]
    pub(in crate::http) verdict: Option<String>,
    /// How the request ended: `refused` is whatever was not let through, whoever refused it.
    #[param(inline, value_type = Option<OutcomeWord>)]
    pub(in crate::http) outcome: Option<String>,
    /// Of requests that began then or later, such as `2027-01-31T00:00:00Z`.
    #[param(format = DateTime)]
    pub(in crate::http) since: Option<String>,
    /// Of requests that began before.
    #[param(format = DateTime)]
    pub(in crate::http) until: Option<String>,
}

/// The same of the audit trail.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AuditQuery {
    /// At most 200; 50 if it is not said.
    pub(in crate::http) limit: Option<usize>,
    /// The `next_cursor` of the page before.
    pub(in crate::http) cursor: Option<String>,
    /// What the name of the event begins with, such as `key` or `grant.revoked`.
    pub(in crate::http) event: Option<String>,
    /// What the actor begins with, such as `operator` or `user:ID`.
    pub(in crate::http) actor: Option<String>,
    /// What it is about, by its name or id as the detail has it, such as the name of a key.
    pub(in crate::http) subject: Option<String>,
}

/// Which rows of the audit trail are wanted; what is `None` does not matter.
pub(in crate::http::api) struct AuditFilter {
    pub(in crate::http::api) event: Option<String>,
    pub(in crate::http::api) actor: Option<String>,
    pub(in crate::http::api) subject: Option<String>,
}

impl AuditFilter {
    /// Whether a row is one of these.
    pub(in crate::http::api) fn takes(&self, view: &AuditView) -> bool {
        let begins = |text: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| text.starts_with(wanted.as_str()))
        };
        begins(view.event, &self.event)
            && begins(&view.actor, &self.actor)
            && self.subject.as_ref().is_none_or(|subject| names(&view.detail, subject))
    }
}

/// Refuses a beginning that no event has: one that is misspelt would find nothing, for ever.
pub(in crate::http::api) fn check_event(event: Option<&str>) -> Result<(), Problem> {
    match event {
        Some(event) if !AuditEvent::NAMES.iter().chain([&UNREADABLE]).any(|name| name.starts_with(event)) => {
            Err(Problem::invalid("there is no event whose name begins with this `event`"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether this text stands anywhere in a detail.
fn names(detail: &Value, subject: &str) -> bool {
    match detail {
        Value::String(text) => text == subject,
        Value::Array(values) => values.iter().any(|value| names(value, subject)),
        Value::Object(members) => members.values().any(|value| names(value, subject)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What the document of the API says of these.
pub(in crate::http::api) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/decisions", "listDecisions", "What was decided about calls, newest first")
            .filters::<DecisionQuery>()
            .pages::<DecisionView>(DECISIONS),
        get("/api/v1/decisions/{id}", "showDecision", "One decision, step by step").shows::<DecisionView>(),
        get("/api/v1/audit", "listAudit", "What operators, people and the gateway did, newest first")
            .filters::<AuditQuery>()
            .pages::<AuditView>("entries"),
        get("/api/v1/audit/{id}", "showAuditEntry", "One entry of the audit trail, by its sequence")
            .shows::<AuditView>(),
    ]
}

impl DecisionQuery {
    /// What is wanted.
    pub(in crate::http::api) fn filter(&self) -> Result<Filter, Problem> {
        let Self { limit: _, cursor: _, principal, upstream, tool, verdict, outcome, since, until } = self;
        let read_principal = |text: &String| {
            Principal::parse(text).ok_or_else(|| {
                Problem::invalid(
                    "`principal` is `key:NAME`, `user:ID` (the ID as `portcullis user list` shows it), `guest:ID`, \
                     `anonymous` or `gateway`",
                )
            })
        };
        let read_upstream =
            |name: &String| UpstreamName::parse(name).map_err(|_| Problem::invalid("`upstream` is no name"));
        let read_verdict = |word: &String| {
            RecordedVerdict::parse(word).ok_or_else(|| {
                Problem::invalid(
                    "`verdict` is `allow`, `deny`, `hidden`, `step-up`, `approve`, `throttle`, `consent` or `error`",
                )
            })
        };
        let read_outcome = |word: &String| {
            RecordedOutcome::parse(word).ok_or_else(|| {
                Problem::invalid("`outcome` is `result`, `tool_error`, `error`, `refused` or `cancelled`")
            })
        };
        Ok(Filter {
            principal: principal.as_ref().map(read_principal).transpose()?,
            upstream: upstream.as_ref().map(read_upstream).transpose()?,
            tool: tool.clone(),
            verdict: verdict.as_ref().map(read_verdict).transpose()?,
            outcome: outcome.as_ref().map(read_outcome).transpose()?,
            since: since.as_ref().map(|text| read_time("since", text)).transpose()?,
            until: until.as_ref().map(|text| read_time("until", text)).transpose()?,
        })
    }
}

fn read_time(name: &str, text: &str) -> Result<Timestamp, Problem> {
    let time = humantime::parse_rfc3339(text)
        .map_err(|_| Problem::invalid(format!("`{name}` must be a time such as 2027-01-31T00:00:00Z")))?;
    let since_epoch = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)))
}

/// A page of decisions, and the cursor of the next one.
pub(in crate::http) async fn decisions_page(
    api: &Api,
    query: DecisionQuery,
) -> Result<(Vec<DecisionView>, Option<String>), Problem> {
    let filter = query.filter()?;
    let paging = Paging { limit: query.limit, cursor: query.cursor };
    let page = decisions::list(&api.control.store, filter, paging.cursor(api, DECISIONS)?, paging.limit()).await?;
    let next = next_cursor(api, DECISIONS, page.next.as_ref());
    Ok((page.items.iter().map(decision_view).collect(), next))
}

pub(in crate::http::api) async fn list_decisions(
    State(api): State<Arc<Api>>,
    Query(query): Query<DecisionQuery>,
) -> Answer {
    let (rows, next) = decisions_page(&api, query).await?;
    Ok(ok(&json!({ "decisions": rows, "next_cursor": next })))
}

/// The decision with this id.
pub(in crate::http) async fn decision(api: &Api, id: &str) -> Result<DecisionView, Problem> {
    let decision = decisions::get(&api.control.store, id).await?.ok_or_else(|| Problem::not_found("decision"))?;
    Ok(decision_view(&decision))
}

pub(in crate::http::api) async fn show_decision(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    Ok(ok(&json!(decision(&api, &id).await?)))
}

/// A page of the audit trail, and the cursor of the next one.
pub(in crate::http) async fn audit_page(
    api: &Api,
    query: AuditQuery,
) -> Result<(Vec<AuditView>, Option<String>), Problem> {
    let AuditQuery { limit, cursor, event, actor, subject } = query;
    let (paging, filter) = (Paging { limit, cursor }, AuditFilter { event, actor, subject });
    let keep = move |row: &Found| filter.takes(&view_of_found(row));
    let page = audit::list_of(&api.control.store, paging.cursor(api, AUDIT)?, paging.limit(), keep).await?;
    let next = next_cursor(api, AUDIT, page.next.as_ref());
    Ok((page.items.iter().map(view_of_found).collect(), next))
}

pub(in crate::http::api) async fn list_audit(State(api): State<Arc<Api>>, Query(query): Query<AuditQuery>) -> Answer {
    check_event(query.event.as_deref())?;
    let (rows, next) = audit_page(&api, query).await?;
    Ok(ok(&json!({ "entries": rows, "next_cursor": next })))
}

/// The entry with this sequence.
pub(in crate::http) async fn audit_entry(api: &Api, sequence: &str) -> Result<AuditView, Problem> {
    let none = || Problem::not_found("entry");
    let sequence = sequence.parse().map_err(|_| none())?;
    let found = audit_feed::find(&api.control.store, sequence).await?.ok_or_else(none)?;
    Ok(view_of_found(&found))
}

pub(in crate::http::api) async fn show_audit(State(api): State<Arc<Api>>, Path(sequence): Path) -> Answer {
    Ok(ok(&json!(audit_entry(&api, &sequence).await?)))
}
