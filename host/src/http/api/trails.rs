//! The two trails: what was decided about calls, and what operators and the gateway did.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::{ModeWord, OutcomeWord, VerdictWord};
use super::openapi::{Described, get};
use super::{Answer, Api, Paging, Path, Problem, Query, next_cursor, ok};
use crate::audit::{
    AuditEntry, AuditEvent, DecisionRecord, DecisionStep, FieldChange, Party, RecordedVerdict, Registered, Ruling,
};
use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, Principal, UpstreamName};
use crate::store::audit::{Found, Recorded};
use crate::store::decisions::Filter;
use crate::store::{audit, audit_feed, decisions};

const DECISIONS: &str = "decisions";
const AUDIT: &str = "audit";
/// What a row of the audit trail is called that cannot be read, and who did what it tells of.
const UNREADABLE: &str = "unreadable";
const UNKNOWN: &str = "unknown";

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
    #[param(inline, value_type = Option<VerdictWord>)]
    pub(in crate::http) verdict: Option<String>,
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
pub(super) struct AuditFilter {
    pub(super) event: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) subject: Option<String>,
}

impl AuditFilter {
    /// Whether a row is one of these.
    pub(super) fn takes(&self, view: &AuditView) -> bool {
        let begins = |text: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| text.starts_with(wanted.as_str()))
        };
        begins(view.event, &self.event)
            && begins(&view.actor, &self.actor)
            && self.subject.as_ref().is_none_or(|subject| names(&view.detail, subject))
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

/// What was decided about one request.
#[derive(Serialize, ToSchema)]
#[schema(as = Decision)]
pub(in crate::http) struct DecisionView {
    pub(in crate::http) id: String,
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    pub(in crate::http) principal: String,
    /// Such as `tools/call`.
    pub(in crate::http) operation: String,
    #[schema(value_type = Option<String>)]
    pub(in crate::http) upstream: Option<UpstreamName>,
    pub(in crate::http) tool: Option<String>,
    /// Of MCP, as the caller spoke it.
    pub(in crate::http) revision: String,
    #[schema(value_type = VerdictWord)]
    pub(in crate::http) verdict: &'static str,
    pub(in crate::http) reason_code: Option<String>,
    pub(in crate::http) policy_generation: u64,
    pub(in crate::http) steps: Vec<StepView>,
    /// Approvals that it counted on.
    #[schema(value_type = Vec<String>)]
    pub(in crate::http) approvals: Vec<ApprovalId>,
    #[schema(value_type = OutcomeWord)]
    pub(in crate::http) outcome: &'static str,
    pub(in crate::http) elapsed_ms: u64,
}

/// What one policy said.
#[derive(Serialize, ToSchema)]
#[schema(as = DecisionStep)]
pub(in crate::http) struct StepView {
    #[schema(value_type = String)]
    pub(in crate::http) policy: BindingName,
    pub(in crate::http) module_name: String,
    pub(in crate::http) version: String,
    pub(in crate::http) module_digest: String,
    #[schema(value_type = ModeWord)]
    pub(in crate::http) mode: &'static str,
    pub(in crate::http) hook: String,
    #[schema(value_type = VerdictWord)]
    pub(in crate::http) verdict: &'static str,
    pub(in crate::http) reason_code: Option<String>,
    pub(in crate::http) rule: Option<String>,
    pub(in crate::http) micros: u64,
    pub(in crate::http) notes: Vec<NoteView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DecisionNote)]
pub(in crate::http) struct NoteView {
    pub(in crate::http) key: String,
    pub(in crate::http) value: String,
}

/// What somebody did, or the gateway.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(in crate::http) struct AuditView {
    pub(in crate::http) sequence: u64,
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    pub(in crate::http) actor: String,
    /// Such as `key.created`.
    pub(in crate::http) event: &'static str,
    /// What belongs to the event.
    #[schema(value_type = Object)]
    pub(in crate::http) detail: Value,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/decisions", "listDecisions", "What was decided about calls, newest first")
            .filters::<DecisionQuery>()
            .pages::<DecisionView>(DECISIONS),
        get("/api/v1/decisions/{id}", "showDecision", "One decision, step by step").shows::<DecisionView>(),
        get("/api/v1/audit", "listAudit", "What operators, people and the gateway did, newest first")
            .asks::<AuditQuery>()
            .pages::<AuditView>("entries"),
        get("/api/v1/audit/{id}", "showAuditEntry", "One entry of the audit trail, by its sequence")
            .shows::<AuditView>(),
    ]
}

impl DecisionQuery {
    /// What is wanted.
    pub(super) fn filter(&self) -> Result<Filter, Problem> {
        let Self { limit: _, cursor: _, principal, upstream, tool, verdict, since, until } = self;
        let read_principal = |text: &String| {
            Principal::parse(text).ok_or_else(|| {
                Problem::invalid("`principal` is `key:NAME`, `user:ID`, `guest:ID`, `anonymous` or `gateway`")
            })
        };
        let read_upstream =
            |name: &String| UpstreamName::parse(name).map_err(|_| Problem::invalid("`upstream` is no name"));
        let read_verdict =
            |word: &String| RecordedVerdict::parse(word).ok_or_else(|| Problem::invalid("there is no such verdict"));
        Ok(Filter {
            principal: principal.as_ref().map(read_principal).transpose()?,
            upstream: upstream.as_ref().map(read_upstream).transpose()?,
            tool: tool.clone(),
            verdict: verdict.as_ref().map(read_verdict).transpose()?,
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

pub(super) async fn list_decisions(State(api): State<Arc<Api>>, Query(query): Query<DecisionQuery>) -> Answer {
    let (rows, next) = decisions_page(&api, query).await?;
    Ok(ok(&json!({ "decisions": rows, "next_cursor": next })))
}

/// The decision with this id.
pub(in crate::http) async fn decision(api: &Api, id: &str) -> Result<DecisionView, Problem> {
    let decision = decisions::get(&api.control.store, id).await?.ok_or_else(|| Problem::not_found("decision"))?;
    Ok(decision_view(&decision))
}

pub(super) async fn show_decision(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
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

pub(super) async fn list_audit(State(api): State<Arc<Api>>, Query(query): Query<AuditQuery>) -> Answer {
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

pub(super) async fn show_audit(State(api): State<Arc<Api>>, Path(sequence): Path) -> Answer {
    Ok(ok(&json!(audit_entry(&api, &sequence).await?)))
}

/// A row as it is found. Of one that cannot be read, its number and its time are told.
pub(super) fn view_of_found(found: &Found) -> AuditView {
    match found {
        Found::Recorded(recorded) => audit_view(recorded),
        Found::Unreadable { at, sequence, problem } => AuditView {
            sequence: *sequence,
            at: at.to_string(),
            actor: UNKNOWN.to_owned(),
            event: UNREADABLE,
            detail: json!({ "problem": problem }),
        },
    }
}

pub(super) fn decision_view(record: &DecisionRecord) -> DecisionView {
    let DecisionRecord {
        id,
        at,
        principal,
        operation,
        upstream,
        tool,
        revision,
        verdict,
        reason_code,
        generation,
        steps,
        approvals,
        outcome,
        elapsed_ms,
    } = record;
    DecisionView {
        id: id.clone(),
        at: at.to_string(),
        principal: principal.to_string(),
        operation: operation.clone(),
        upstream: upstream.clone(),
        tool: tool.clone(),
        revision: revision.clone(),
        verdict: verdict.as_str(),
        reason_code: reason_code.clone(),
        policy_generation: *generation,
        steps: steps.iter().map(step_view).collect(),
        approvals: approvals.clone(),
        outcome: outcome.as_str(),
        elapsed_ms: *elapsed_ms,
    }
}

fn step_view(step: &DecisionStep) -> StepView {
    let DecisionStep {
        binding,
        module_name,
        module_version,
        module_digest,
        mode,
        hook,
        verdict,
        reason_code,
        rule,
        micros,
        notes,
    } = step;
    let note = |(key, value): &(String, String)| NoteView { key: key.clone(), value: value.clone() };
    StepView {
        policy: binding.clone(),
        module_name: module_name.clone(),
        version: module_version.clone(),
        module_digest: module_digest.clone(),
        mode: mode.as_str(),
        hook: hook.clone(),
        verdict: verdict.as_str(),
        reason_code: reason_code.clone(),
        rule: rule.clone(),
        micros: *micros,
        notes: notes.iter().map(note).collect(),
    }
}

fn ruling_view(ruling: &Ruling) -> Value {
    let Ruling { approval, principal, upstream, item, policy, code, note } = ruling;
    json!({
        "approval": approval,
        "principal": principal.to_string(),
        "upstream": upstream,
        "item": item,
        "policy": policy,
        "reason_code": code,
        "note": note,
    })
}

/// Fields before and after.
fn changes_view(changes: &[FieldChange]) -> Vec<Value> {
    let change = |FieldChange { field, from, to }: &FieldChange| json!({ "field": field, "from": from, "to": to });
    changes.iter().map(change).collect()
}

pub(super) fn audit_view(recorded: &Recorded) -> AuditView {
    let AuditEntry { at, actor, event } = &recorded.entry;
    let detail = match event {
        AuditEvent::GatewayStarted { version } => json!({ "version": version }),
        AuditEvent::GatewayStopped => json!({}),
        AuditEvent::KeyCreated { name, changes } | AuditEvent::KeyDeleted { name, changes } => {
            json!({ "key": name, "changes": changes_view(changes) })
        }
        AuditEvent::KeyEnabled { name } | AuditEvent::KeyDisabled { name } | AuditEvent::KeyEarlierEnded { name } => {
            json!({ "key": name })
        }
        AuditEvent::KeyChanged { name, change: FieldChange { field, from, to } } => {
            json!({ "key": name, "field": field, "from": from, "to": to })
        }
        AuditEvent::KeyRotated { name, earlier_until, ended_earlier } => json!({
            "key": name,
            "earlier_until": earlier_until.map(|until| until.to_string()),
            "ended_earlier": ended_earlier,
        }),
        AuditEvent::PoliciesReloaded { generation } => json!({ "policy_generation": generation }),
        AuditEvent::PolicyReloadRefused { reason } | AuditEvent::PoliciesNotFollowed { reason } => {
            json!({ "reason": reason })
        }
        AuditEvent::PoliciesRolledBack { generation, to } => {
            json!({ "policy_generation": generation, "of_generation": to })
        }
        AuditEvent::ApprovalGiven(ruling) | AuditEvent::ApprovalRefused(ruling) => ruling_view(ruling),
        AuditEvent::PinsAdopted { upstream, tools }
        | AuditEvent::PinsAccepted { upstream, tools }
        | AuditEvent::PinsForgotten { upstream, tools } => {
            json!({ "upstream": upstream, "tools": tools })
        }
        AuditEvent::PinAccepted { upstream, tool, digest } => {
            json!({ "upstream": upstream, "tool": tool, "digest": digest })
        }
        AuditEvent::RecordingRead { decision } => json!({ "decision": decision }),
        AuditEvent::RecordingsRead { policy, hook, questions } => {
            json!({ "policy": policy, "hook": hook, "questions": questions })
        }
        AuditEvent::ClientRegistered { client, by, evicted, as_what } => {
            let Registered { name, redirect_uris, grant_types, changes } = as_what;
            json!({
                "client": client.as_str(),
                "by": by.as_str(),
                "evicted": evicted,
                "name": name,
                "redirect_uris": redirect_uris,
                "grant_types": grant_types,
                "changes": changes_view(changes),
            })
        }
        AuditEvent::ClientUpdated { client, changes } | AuditEvent::ClientDeleted { client, changes } => {
            json!({ "client": client.as_str(), "changes": changes_view(changes) })
        }
        AuditEvent::ConsentRefused { client } => json!({ "client": client.as_str() }),
        AuditEvent::ConsentGiven(party) | AuditEvent::ConsentForgotten(party) | AuditEvent::CodeBurned(party) => {
            let Party { principal, client } = party;
            json!({ "principal": principal.to_string(), "client": client.as_str() })
        }
        AuditEvent::GrantIssued { grant, party: Party { principal, client } } => {
            json!({ "grant": grant, "principal": principal.to_string(), "client": client.as_str() })
        }
        AuditEvent::GrantRevoked { grant, party: Party { principal, client }, reason } => json!({
            "grant": grant,
            "principal": principal.to_string(),
            "client": client.as_str(),
            "reason": reason.as_str(),
        }),
        AuditEvent::GrantsRevoked { of, reason } => json!({ "of": of, "reason": reason.as_str() }),
        AuditEvent::TokenRevoked { grant }
        | AuditEvent::RefreshReplayed { grant }
        | AuditEvent::RefreshReuseRefused { grant } => json!({ "grant": grant }),
        AuditEvent::SigningKeyChanged { key, algorithm, state } => {
            json!({ "key": key, "algorithm": algorithm, "state": state.as_str() })
        }
        AuditEvent::UserCreated { user, role, status, changes } => {
            json!({ "user": user, "role": role, "status": status, "changes": changes_view(changes) })
        }
        AuditEvent::UserChanged { user, change: FieldChange { field, from, to } } => {
            json!({ "user": user, "field": field, "from": from, "to": to })
        }
        AuditEvent::UserDeleted { user, name } => json!({ "user": user, "name": name }),
        AuditEvent::IdentityLinked { user, issuer, subject }
        | AuditEvent::IdentityUnlinked { user, issuer, subject } => {
            json!({ "user": user, "issuer": issuer, "subject": subject })
        }
        AuditEvent::SignedIn { user, session, method } => {
            json!({ "user": user, "session": session, "method": method })
        }
        AuditEvent::SessionRenewed { user, session } => json!({ "user": user, "session": session }),
        AuditEvent::SignedOut { user, sessions } => json!({ "user": user, "sessions": sessions }),
        AuditEvent::EverybodySignedOut | AuditEvent::SetUpLinkMade => json!({}),
        AuditEvent::ApiTokenCreated { token, user, name, role, changes } => {
            json!({ "token": token, "user": user, "name": name, "role": role, "changes": changes_view(changes) })
        }
        AuditEvent::ConnectionLinkMade { holder, upstream, expires } => {
            json!({ "holder": holder, "upstream": upstream, "expires": expires.to_string() })
        }
        AuditEvent::ApiTokenRevoked { token, user } => json!({ "token": token, "user": user }),
        AuditEvent::ConnectionStored { holder, upstream, kind } => {
            json!({ "holder": holder, "upstream": upstream, "kind": kind })
        }
        AuditEvent::ConnectionFailed { holder, upstream, reason } => {
            json!({ "holder": holder, "upstream": upstream, "reason": reason })
        }
        AuditEvent::ConnectionOrphaned { holder, upstream }
        | AuditEvent::ConnectionReactivated { holder, upstream }
        | AuditEvent::TokensRevoked { holder, upstream } => json!({ "holder": holder, "upstream": upstream }),
        AuditEvent::ConnectionEnded { holder, upstream, why } => {
            json!({ "holder": holder, "upstream": upstream, "why": why })
        }
        AuditEvent::TokensNotRevoked { holder, upstream, attempts } => {
            json!({ "holder": holder, "upstream": upstream, "attempts": attempts })
        }
        AuditEvent::FlowRefused { holder, upstream, check } => {
            json!({ "holder": holder, "upstream": upstream, "check": check })
        }
        AuditEvent::UpstreamDeclared { upstream, revision, unchecked, changes } => json!({
            "upstream": upstream, "revision": revision, "unchecked": unchecked, "changes": changes_view(changes),
        }),
        AuditEvent::UpstreamChanged { upstream, revision, enabled, unchecked, changes } => json!({
            "upstream": upstream,
            "revision": revision,
            "enabled": enabled,
            "unchecked": unchecked,
            "changes": changes_view(changes),
        }),
        AuditEvent::UpstreamWithdrawn { upstream, changes } => {
            json!({ "upstream": upstream, "changes": changes_view(changes) })
        }
        AuditEvent::PolicyModuleUploaded { digest, name, version, bytes } => {
            json!({ "digest": digest, "name": name, "version": version, "bytes": bytes })
        }
        AuditEvent::PolicyModuleSigned { digest } => json!({ "digest": digest }),
        AuditEvent::PolicyModuleRemoved { digest, name, version } => {
            json!({ "digest": digest, "name": name, "version": version })
        }
        AuditEvent::PolicyBound { binding, revision, definition } => {
            json!({ "policy": binding, "revision": revision, "after": definition })
        }
        AuditEvent::PolicyBindingChanged { binding, revision, before, after } => {
            json!({ "policy": binding, "revision": revision, "before": before, "after": after })
        }
        AuditEvent::PolicyUnbound { binding, before } => json!({ "policy": binding, "before": before }),
        AuditEvent::VaultInitialized { deployment, kek } => json!({ "deployment": deployment, "kek": kek }),
        AuditEvent::VaultKekRotated { from, to } => json!({ "from": from, "to": to }),
        AuditEvent::VaultRewrapped { to, keys } => json!({ "to": to, "data_keys": keys }),
        AuditEvent::VaultShredded { owner } => json!({ "owner": owner.to_string() }),
        AuditEvent::VaultRecordRefused { owner, table, key, field, reason } => {
            json!({ "owner": owner.to_string(), "table": table, "key": key, "field": field, "reason": reason })
        }
        AuditEvent::BackupTaken => json!({}),
        AuditEvent::BackupRestored { taken, rows, digest, epoch } => {
            json!({ "taken": taken.to_string(), "rows": rows, "digest": digest, "epoch": epoch })
        }
    };
    AuditView { sequence: recorded.sequence, at: at.to_string(), actor: actor.to_string(), event: event.name(), detail }
}
