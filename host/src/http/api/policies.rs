//! Policies: what is bound, what runs, and how the last reload went.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Api, Operator, Problem, ok};
use crate::admin::reload::ReloadError;
use crate::config::{ModuleSource, WhenAllAbstain};
use crate::glob::Glob;
use crate::policy::BoundPolicy;

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

fn view(api: &Api) -> Value {
    let snapshot = api.control.snapshot.load();
    let last = api.control.last_reload();
    let bindings: Vec<Value> = snapshot.policies.bindings().iter().map(binding_view).collect();
    json!({
        "generation": snapshot.policies.generation(),
        "when_all_abstain": match api.control.config.load().policy.when_all_abstain {
            WhenAllAbstain::Deny => "deny",
            WhenAllAbstain::Allow => "allow",
        },
        "bindings": bindings,
        "last_reload": { "at": last.at.to_string(), "ok": last.error.is_none(), "error": last.error },
    })
}

fn binding_view(bound: &BoundPolicy) -> Value {
    let (binding, module) = (bound.binding(), bound.module());
    let globs = |globs: &[Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect::<Vec<_>>();
    let source = match &binding.module {
        ModuleSource::File(path) => path.display().to_string(),
        ModuleSource::Builtin(name) => format!("builtin:{name}"),
    };
    json!({
        "name": binding.name,
        "module": source,
        "module_name": module.manifest.name,
        "version": module.manifest.version,
        "digest": &*module.digest,
        "hooks": module.manifest.hooks.iter().map(|hook| hook.as_str()).collect::<Vec<_>>(),
        "priority": binding.priority,
        "match": { "upstreams": globs(&binding.upstreams), "tools": globs(&binding.tools) },
        "allow_rewrite": binding.allow_rewrite,
        "limits": { "time_ms": binding.time.as_millis(), "memory_bytes": binding.memory_bytes },
        "warnings": bound.warnings(),
        "failures": bound.health().failures(),
        "degraded": bound.health().is_degraded(),
        "managed_by": "file",
    })
}
