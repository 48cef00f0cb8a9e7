//! The two trails: what was decided about calls, and what operators and the gateway did.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::{ModeWord, OutcomeWord, VerdictWord};
use super::openapi::{Described, get};
use super::{Answer, Api, Paging, Path, Problem, Query, next_cursor, ok};
use crate::audit::{AuditEntry, AuditEvent, DecisionRecord, DecisionStep, Party, RecordedVerdict, Ruling};
use crate::ids::{ApprovalId, BindingName, Principal, UpstreamName};
use crate::store::audit::Recorded;
use crate::store::decisions::Filter;
use crate::store::{audit, decisions};

const DECISIONS: &str = "decisions";
const AUDIT: &str = "audit";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Such as `key:ci`.
    principal: Option<String>,
    /// The upstream's own name for the tool.
    tool: Option<String>,
    #[param(inline, value_type = Option<VerdictWord>)]
    verdict: Option<String>,
}

/// What was decided about one request.
#[derive(Serialize, ToSchema)]
#[schema(as = Decision)]
struct DecisionView {
    id: String,
    #[schema(format = DateTime)]
    at: String,
    principal: String,
    /// Such as `tools/call`.
    operation: String,
    #[schema(value_type = Option<String>)]
    upstream: Option<UpstreamName>,
    tool: Option<String>,
    /// Of MCP, as the caller spoke it.
    revision: String,
    #[schema(value_type = VerdictWord)]
    verdict: &'static str,
    reason_code: Option<String>,
    policy_generation: u64,
    steps: Vec<StepView>,
    /// Approvals that it counted on.
    #[schema(value_type = Vec<String>)]
    approvals: Vec<ApprovalId>,
    #[schema(value_type = OutcomeWord)]
    outcome: &'static str,
    elapsed_ms: u64,
}

/// What one policy said.
#[derive(Serialize, ToSchema)]
#[schema(as = DecisionStep)]
struct StepView {
    #[schema(value_type = String)]
    policy: BindingName,
    module_name: String,
    version: String,
    module_digest: String,
    #[schema(value_type = ModeWord)]
    mode: &'static str,
    hook: String,
    #[schema(value_type = VerdictWord)]
    verdict: &'static str,
    reason_code: Option<String>,
    rule: Option<String>,
    micros: u64,
    notes: Vec<NoteView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DecisionNote)]
struct NoteView {
    key: String,
    value: String,
}

/// What somebody did, or the gateway.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(super) struct AuditView {
    sequence: u64,
    #[schema(format = DateTime)]
    at: String,
    actor: String,
    /// Such as `key.created`.
    event: &'static str,
    /// What belongs to the event.
    #[schema(value_type = Object)]
    detail: Value,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/decisions", "listDecisions", "What was decided about calls, newest first")
            .filters::<DecisionQuery>()
            .pages::<DecisionView>(DECISIONS),
        get("/api/v1/decisions/{id}", "showDecision", "One decision, step by step").shows::<DecisionView>(),
        get("/api/v1/audit", "listAudit", "What operators, people and the gateway did, newest first")
            .asks::<Paging>()
            .pages::<AuditView>("entries"),
    ]
}

pub(super) async fn list_decisions(State(api): State<Arc<Api>>, Query(query): Query<DecisionQuery>) -> Answer {
    let DecisionQuery { limit, cursor, principal, tool, verdict } = query;
    let paging = Paging { limit, cursor };
    let principal = principal
        .map(|text| {
            Principal::parse(&text)
                .ok_or_else(|| Problem::invalid("`principal` is `key:NAME`, `user:ID`, `guest:ID` or `gateway`"))
        })
        .transpose()?;
    let verdict = verdict
        .map(|word| RecordedVerdict::parse(&word).ok_or_else(|| Problem::invalid("there is no such verdict")))
        .transpose()?;
    let filter = Filter { principal, tool, verdict };
    let page = decisions::list(&api.control.store, filter, paging.cursor(&api, DECISIONS)?, paging.limit()).await?;
    let rows: Vec<DecisionView> = page.items.iter().map(decision_view).collect();
    Ok(ok(&json!({ "decisions": rows, "next_cursor": next_cursor(&api, DECISIONS, page.next.as_ref()) })))
}

pub(super) async fn show_decision(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    let decision = decisions::get(&api.control.store, &id).await?.ok_or_else(|| Problem::not_found("decision"))?;
    Ok(ok(&json!(decision_view(&decision))))
}

pub(super) async fn list_audit(State(api): State<Arc<Api>>, Query(paging): Query<Paging>) -> Answer {
    let page = audit::list(&api.control.store, paging.cursor(&api, AUDIT)?, paging.limit()).await?;
    let rows: Vec<AuditView> = page.items.iter().map(audit_view).collect();
    Ok(ok(&json!({ "entries": rows, "next_cursor": next_cursor(&api, AUDIT, page.next.as_ref()) })))
}

fn decision_view(record: &DecisionRecord) -> DecisionView {
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

pub(super) fn audit_view(recorded: &Recorded) -> AuditView {
    let AuditEntry { at, actor, event } = &recorded.entry;
    let detail = match event {
        AuditEvent::GatewayStarted { version } => json!({ "version": version }),
        AuditEvent::GatewayStopped => json!({}),
        AuditEvent::KeyCreated { name }
        | AuditEvent::KeyEnabled { name }
        | AuditEvent::KeyDisabled { name }
        | AuditEvent::KeyDeleted { name }
        | AuditEvent::KeyEarlierEnded { name } => json!({ "key": name }),
        AuditEvent::KeyChanged { name, field, from, to } => {
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
        AuditEvent::ClientRegistered { client, by, evicted } => {
            json!({ "client": client.as_str(), "by": by.as_str(), "evicted": evicted })
        }
        AuditEvent::ClientUpdated { client }
        | AuditEvent::ClientDeleted { client }
        | AuditEvent::ConsentRefused { client } => json!({ "client": client.as_str() }),
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
        AuditEvent::UserCreated { user, role, status } => json!({ "user": user, "role": role, "status": status }),
        AuditEvent::UserChanged { user, field, from, to } => {
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
        AuditEvent::ApiTokenCreated { token, user, name, role } => {
            json!({ "token": token, "user": user, "name": name, "role": role })
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
        AuditEvent::UpstreamDeclared { upstream, revision, unchecked } => {
            json!({ "upstream": upstream, "revision": revision, "unchecked": unchecked })
        }
        AuditEvent::UpstreamChanged { upstream, revision, enabled, unchecked } => {
            json!({ "upstream": upstream, "revision": revision, "enabled": enabled, "unchecked": unchecked })
        }
        AuditEvent::UpstreamWithdrawn { upstream } => json!({ "upstream": upstream }),
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
