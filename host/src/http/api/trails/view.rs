//! What the API says of a decision and of an entry of the audit trail.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::audit::{AuditEntry, AuditEvent, DecisionRecord, DecisionStep, FieldChange, Party, Registered, Ruling};
use crate::http::api::openapi::words::{ModeWord, OutcomeWord, VerdictWord};
use crate::ids::{ApprovalId, BindingName, UpstreamName};
use crate::store::audit::{Found, Recorded};

/// What a row of the audit trail is called that cannot be read, and who did what it tells of.
pub(super) const UNREADABLE: &str = "unreadable";
const UNKNOWN: &str = "unknown";

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

/// A row as it is found. Of one that cannot be read, its number and its time are told.
pub(in crate::http::api) fn view_of_found(found: &Found) -> AuditView {
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

pub(in crate::http::api) fn decision_view(record: &DecisionRecord) -> DecisionView {
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

pub(in crate::http::api) fn audit_view(recorded: &Recorded) -> AuditView {
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
