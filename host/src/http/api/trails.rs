//! The two trails: what was decided about calls, and what operators and the gateway did.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Paging, Path, Problem, Query, next_cursor, ok};
use crate::audit::{AuditEntry, AuditEvent, DecisionRecord, DecisionStep, Party, RecordedVerdict, Ruling};
use crate::ids::Principal;
use crate::store::audit::Recorded;
use crate::store::decisions::Filter;
use crate::store::{audit, decisions};

const DECISIONS: &str = "decisions";
const AUDIT: &str = "audit";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Such as `key:ci`.
    principal: Option<String>,
    /// The upstream's own name for the tool.
    tool: Option<String>,
    verdict: Option<String>,
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
    let rows: Vec<Value> = page.items.iter().map(decision_view).collect();
    Ok(ok(&json!({ "decisions": rows, "next_cursor": next_cursor(&api, DECISIONS, page.next.as_ref()) })))
}

pub(super) async fn show_decision(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    let decision = decisions::get(&api.control.store, &id).await?.ok_or_else(|| Problem::not_found("decision"))?;
    Ok(ok(&decision_view(&decision)))
}

pub(super) async fn list_audit(State(api): State<Arc<Api>>, Query(paging): Query<Paging>) -> Answer {
    let page = audit::list(&api.control.store, paging.cursor(&api, AUDIT)?, paging.limit()).await?;
    let rows: Vec<Value> = page.items.iter().map(audit_view).collect();
    Ok(ok(&json!({ "entries": rows, "next_cursor": next_cursor(&api, AUDIT, page.next.as_ref()) })))
}

fn decision_view(record: &DecisionRecord) -> Value {
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
    json!({
        "id": id,
        "at": at.to_string(),
        "principal": principal.to_string(),
        "operation": operation,
        "upstream": upstream,
        "tool": tool,
        "revision": revision,
        "verdict": verdict.as_str(),
        "reason_code": reason_code,
        "policy_generation": generation,
        "steps": steps.iter().map(step_view).collect::<Vec<_>>(),
        "approvals": approvals,
        "outcome": outcome.as_str(),
        "elapsed_ms": elapsed_ms,
    })
}

fn step_view(step: &DecisionStep) -> Value {
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
    json!({
        "policy": binding,
        "module_name": module_name,
        "version": module_version,
        "module_digest": module_digest,
        "mode": mode.as_str(),
        "hook": hook,
        "verdict": verdict.as_str(),
        "reason_code": reason_code,
        "rule": rule,
        "micros": micros,
        "notes": notes.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect::<Vec<_>>(),
    })
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

pub(super) fn audit_view(recorded: &Recorded) -> Value {
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
        AuditEvent::EverybodySignedOut => json!({}),
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
    json!({ "sequence": recorded.sequence, "at": at.to_string(), "actor": actor.to_string(), "event": event.name(), "detail": detail })
}
