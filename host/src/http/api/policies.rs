//! Policies: what is bound, what runs, how the last reload went, and the way back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Json, Operator, Problem, ok};
use crate::admin::reload::ReloadError;
use crate::admin::rollback::{Cause, Generation, RollbackError};
use crate::config::{Binding, Grant, Hint, Match, Mode};
use crate::glob::Glob;
use crate::policy::replay::{Change, Changes};
use crate::policy::{BoundPolicy, ShadowTally};

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&view(&api)))
}

/// Reads the configuration and all modules again. 422 with every reason if they cannot be used; the running ones stay.
pub(super) async fn reload(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    match api.control.reload(operator.0).await {
        Ok(_) => Ok(ok(&view(&api))),
        Err(error @ ReloadError::NoFile) => Err(Problem::new(StatusCode::CONFLICT, "no_file", error.to_string())),
        Err(error) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "reload_refused", error.explain())),
    }
}

/// The sets that were in force last and that one can go back to, newest first.
pub(super) async fn generations(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&generations_view(&api)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WayBack {
    /// Which generation; without it, the one before the running one.
    #[serde(default)]
    to: Option<u64>,
}

/// Puts the policies of an earlier generation into force again. 409 where there is none.
pub(super) async fn roll_back(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(WayBack { to }): Json<WayBack>,
) -> Answer {
    match api.control.roll_back(to, operator.0).await {
        Ok(_) => Ok(ok(&generations_view(&api))),
        Err(error) => {
            let code = match error {
                RollbackError::NothingBefore => "nothing_before",
                RollbackError::NotKept { .. } => "not_kept",
                RollbackError::Running { .. } => "running",
            };
            Err(Problem::new(StatusCode::CONFLICT, code, error.to_string()))
        }
    }
}

fn view(api: &Api) -> Value {
    let snapshot = api.control.snapshot.load();
    let last = api.control.last_reload();
    let bindings: Vec<Value> = snapshot.policies.bindings().iter().map(binding_view).collect();
    json!({
        "generation": snapshot.policies.generation(),
        "when_all_abstain": snapshot.policies.when_all_abstain().as_str(),
        "bindings": bindings,
        // Questions to policies in shadow that found no room in the queue.
        "shadow_questions_dropped": api.services.shadows.dropped(),
        "last_reload": {
            "at": last.at.to_string(),
            "ok": last.error.is_none(),
            "error": last.error,
            "changes": last.changes.as_deref().map(changes_view),
        },
    })
}

fn generations_view(api: &Api) -> Value {
    let kept = api.control.generations();
    let running = api.control.snapshot.load().policies.generation();
    let generations: Vec<Value> = kept.iter().rev().map(|generation| generation_view(generation, running)).collect();
    json!({ "generations": generations })
}

fn generation_view(generation: &Generation, running: u64) -> Value {
    let Generation { number, at, actor, cause, policies } = generation;
    let policy = |bound: &BoundPolicy| {
        let module = bound.module();
        json!({
            "name": bound.name(),
            "module_name": module.manifest.name,
            "version": module.manifest.version,
            "digest": &*module.digest,
            "mode": bound.binding().mode.as_str(),
        })
    };
    json!({
        "generation": number,
        "at": at.to_string(),
        "actor": actor.to_string(),
        "cause": cause.as_str(),
        "of": match cause {
            Cause::Rollback { to } => Some(to),
            Cause::Start | Cause::Reload => None,
        },
        "running": *number == running,
        "policies": policies.bindings().iter().map(policy).collect::<Vec<_>>(),
    })
}

fn binding_view(bound: &BoundPolicy) -> Value {
    let module = bound.module();
    let Binding { name, module: source, priority, mode, advisory, allow_rewrite, grants, .. } = bound.binding();
    let words = |grants: &[Grant]| grants.iter().map(|grant| grant.as_str()).collect::<Vec<_>>();
    json!({
        "name": name,
        "module": source.to_string(),
        "module_name": module.manifest.name,
        "version": module.manifest.version,
        "digest": &*module.digest,
        "signed_by": bound.signed_by(),
        "hooks": module.manifest.hooks.iter().map(|hook| hook.as_str()).collect::<Vec<_>>(),
        "priority": priority,
        "match": match_view(&bound.binding().matches),
        "mode": mode.as_str(),
        "advisory": advisory,
        "allow_rewrite": allow_rewrite,
        "capabilities": words(&module.manifest.capabilities),
        "grants": words(grants),
        "instances": { "mode": bound.instances().as_str(), "remarks": bound.remarks() },
        "limits": {
            "time_ms": bound.binding().time.as_millis(),
            "memory_bytes": bound.binding().memory_bytes,
            "reuse": bound.binding().reuse.as_str(),
        },
        "warnings": bound.warnings(),
        "failures": bound.health().failures(),
        "degraded": bound.health().is_degraded(),
        "shadow": (*mode == Mode::Shadow).then(|| shadow_view(bound.shadow_tally())),
        "managed_by": "file",
    })
}

/// What a policy in shadow would have done.
fn shadow_view(tally: &ShadowTally) -> Value {
    json!({ "asked": tally.asked(), "stricter": tally.stricter(), "milder": tally.milder() })
}

/// What narrows a binding; what matches everything is left out.
fn match_view(matches: &Match) -> Value {
    let Match { hooks, upstreams, tools, items, hints, principals, groups, clients } = matches;
    let globs = |globs: &[Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect::<Vec<_>>();
    let mut view = json!({ "upstreams": globs(upstreams), "tools": globs(tools) });
    for (name, patterns) in [("items", items), ("principals", principals), ("clients", clients)] {
        if !patterns.iter().any(Glob::is_any) {
            view[name] = globs(patterns).into();
        }
    }
    if let Some(hooks) = hooks {
        view["hooks"] = hooks.clone().into();
    }
    if let Some(groups) = groups {
        view["groups"] = globs(groups).into();
    }
    if !hints.is_empty() {
        view["hints"] = hints.iter().map(|hint: &Hint| hint.as_str()).collect::<Vec<_>>().into();
    }
    view
}

fn changes_view(changes: &Changes) -> Value {
    let Changes { questions, unanswered, different, more, dropped, is_cut } = changes;
    let change = |Change { decision, binding, hook, before, after }: &Change| json!({ "decision": decision, "policy": binding, "hook": hook.as_str(), "before": before, "after": after });
    let dropped: Vec<Value> =
        dropped.iter().map(|(binding, count)| json!({ "policy": binding, "questions": count })).collect();
    json!({
        "summary": changes.to_string(),
        "questions": questions,
        "unanswered": unanswered,
        "different": different.iter().map(change).collect::<Vec<_>>(),
        "more": more,
        "dropped": dropped,
        "complete": !is_cut,
    })
}
