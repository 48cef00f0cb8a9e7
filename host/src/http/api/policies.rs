//! Policies: what is bound, what runs, how the last reload went, and the way back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::openapi::words::{BindingModeWord, ManagedByWord};
use super::openapi::{Described, get, post};
use super::{Answer, Api, Json, Operator, Path, Problem, ok};
use crate::admin::BuildError;
use crate::admin::reload::ReloadError;
use crate::admin::rollback::{Cause, Generation, RollbackError};
use crate::config::{Binding, Grant, Hint, Match, Mode};
use crate::glob::Glob;
use crate::identity::key::ManagedBy;
use crate::ids::BindingName;
use crate::policy::replay::{Change, Changes};
use crate::policy::{BoundPolicy, ShadowTally};
use crate::secret::Digest;
use crate::vault::{OpenError, RingError};

/// The policies in force.
#[derive(Serialize, ToSchema)]
#[schema(as = Policies)]
pub(in crate::http) struct PoliciesView {
    pub(in crate::http) generation: u64,
    /// What becomes of a call of which no policy says anything.
    pub(in crate::http) when_all_abstain: &'static str,
    pub(in crate::http) bindings: Vec<BindingView>,
    /// Questions to policies in shadow that found no room in the queue.
    pub(in crate::http) shadow_questions_dropped: u64,
    pub(in crate::http) last_reload: ReloadView,
    /// Whether the configuration file says something that takes effect at the next start.
    pub(in crate::http) awaits_restart: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Reload)]
pub(in crate::http) struct ReloadView {
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    pub(in crate::http) ok: bool,
    /// The set that was in force after it. Where another one is now, that came later.
    pub(in crate::http) generation: u64,
    /// Why what ran before stayed.
    pub(in crate::http) error: Option<String>,
    pub(in crate::http) changes: Option<ChangesView>,
}

/// What the policies that a reload brought say of earlier decisions.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyChanges)]
pub(in crate::http) struct ChangesView {
    pub(in crate::http) summary: String,
    pub(in crate::http) questions: usize,
    pub(in crate::http) unanswered: usize,
    pub(in crate::http) different: Vec<ChangeView>,
    /// How many more are different.
    pub(in crate::http) more: usize,
    pub(in crate::http) dropped: Vec<DroppedView>,
    /// Whether all recorded questions were asked.
    pub(in crate::http) complete: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PolicyChange)]
pub(in crate::http) struct ChangeView {
    pub(in crate::http) decision: Option<String>,
    #[schema(value_type = String)]
    pub(in crate::http) policy: BindingName,
    pub(in crate::http) hook: &'static str,
    /// Who called, where the recorded question says it.
    pub(in crate::http) principal: Option<String>,
    /// The tool that was called, as `UPSTREAM/TOOL`, where it was one.
    pub(in crate::http) tool: Option<String>,
    /// What the policy answered then; `not asked` of one that had no say.
    pub(in crate::http) before: String,
    pub(in crate::http) after: String,
}

/// Recorded questions to a policy that is bound no more.
#[derive(Serialize, ToSchema)]
#[schema(as = DroppedPolicy)]
pub(in crate::http) struct DroppedView {
    #[schema(value_type = String)]
    pub(in crate::http) policy: BindingName,
    pub(in crate::http) questions: usize,
}

/// One use of a policy module.
#[derive(Serialize, ToSchema)]
#[schema(as = Binding)]
pub(in crate::http) struct BindingView {
    #[schema(value_type = String)]
    pub(in crate::http) name: BindingName,
    /// Where it comes from.
    pub(in crate::http) module: String,
    pub(in crate::http) module_name: String,
    pub(in crate::http) version: String,
    pub(in crate::http) digest: String,
    pub(in crate::http) signed_by: Vec<String>,
    pub(in crate::http) hooks: Vec<&'static str>,
    pub(in crate::http) priority: i32,
    #[serde(rename = "match")]
    pub(in crate::http) matches: MatchView,
    #[schema(value_type = BindingModeWord)]
    pub(in crate::http) mode: &'static str,
    pub(in crate::http) advisory: bool,
    pub(in crate::http) allow_rewrite: bool,
    /// What the module wants.
    pub(in crate::http) capabilities: Vec<&'static str>,
    /// What the binding lets it have.
    pub(in crate::http) grants: Vec<&'static str>,
    pub(in crate::http) instances: InstancesView,
    pub(in crate::http) limits: LimitsView,
    pub(in crate::http) warnings: Vec<String>,
    pub(in crate::http) failures: u64,
    pub(in crate::http) degraded: bool,
    pub(in crate::http) shadow: Option<ShadowView>,
    #[schema(value_type = ManagedByWord)]
    pub(in crate::http) managed_by: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PolicyInstances)]
pub(in crate::http) struct InstancesView {
    pub(in crate::http) mode: &'static str,
    pub(in crate::http) remarks: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PolicyLimits)]
pub(in crate::http) struct LimitsView {
    pub(in crate::http) time_ms: u64,
    pub(in crate::http) memory_bytes: usize,
    pub(in crate::http) reuse: &'static str,
}

/// A binding in force, with all that it works with.
#[derive(Serialize, ToSchema)]
#[schema(as = BindingInForce)]
struct InForceView {
    #[serde(flatten)]
    binding: BindingView,
    /// What the module was configured with.
    #[schema(value_type = Object)]
    config: Value,
    /// The set that it is part of.
    generation: u64,
}

/// What a policy in shadow would have done.
#[derive(Serialize, ToSchema)]
#[schema(as = ShadowTally)]
pub(in crate::http) struct ShadowView {
    pub(in crate::http) asked: u64,
    pub(in crate::http) stricter: u64,
    pub(in crate::http) milder: u64,
}

/// What narrows a binding; what matches everything is left out.
#[derive(Serialize, ToSchema)]
#[schema(as = Match)]
pub(in crate::http) struct MatchView {
    pub(in crate::http) upstreams: Vec<String>,
    pub(in crate::http) tools: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) items: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) principals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) clients: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) hooks: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) groups: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) hints: Option<Vec<&'static str>>,
}

/// A set of policies that is in force or was.
#[derive(Serialize, ToSchema)]
#[schema(as = Generation)]
pub(in crate::http) struct GenerationView {
    pub(in crate::http) generation: u64,
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    pub(in crate::http) actor: String,
    /// `start`, `reload`, `binding` or `rollback`.
    pub(in crate::http) cause: &'static str,
    /// The generation that one went back to.
    pub(in crate::http) of: Option<u64>,
    pub(in crate::http) running: bool,
    pub(in crate::http) policies: Vec<EarlierPolicy>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = GenerationPolicy)]
pub(in crate::http) struct EarlierPolicy {
    #[schema(value_type = String)]
    pub(in crate::http) name: BindingName,
    pub(in crate::http) module_name: String,
    pub(in crate::http) version: String,
    pub(in crate::http) digest: String,
    /// The beginning of a digest of its configuration: two that differ are configured differently.
    pub(in crate::http) config_digest: String,
    #[schema(value_type = BindingModeWord)]
    pub(in crate::http) mode: &'static str,
}

/// Hexadecimal digits that a configuration is known by.
const CONFIG_DIGITS: usize = 12;

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/policies", "listPolicies", "What is bound, and how the last reload went").shows::<PoliciesView>(),
        get(
            "/api/v1/policies/in-force/{name}",
            "showPolicyInForce",
            "One binding in force, of the file or of the store, with its configuration",
        )
        .shows::<InForceView>(),
        post(
            "/api/v1/policies/reload",
            "reloadPolicies",
            "Reads the configuration and all modules again; if they cannot be used, the running ones stay",
        )
        .shows::<PoliciesView>()
        .conflicts(&["no_file"])
        .refuses(StatusCode::UNPROCESSABLE_ENTITY, &["reload_refused"])
        .refuses(StatusCode::SERVICE_UNAVAILABLE, &["stopping", "vault_unavailable"]),
        get("/api/v1/policies/generations", "listGenerations", "The sets that were in force last, newest first")
            .lists::<GenerationView>("generations"),
        post(
            "/api/v1/policies/rollback",
            "rollBackPolicies",
            "Puts the policies of an earlier generation into force again, and changes nothing that is written: what the file and \
             the store say counts again from the next reload or start on, and what the store says from the next change of any \
             binding on",
        )
        .takes::<WayBack>()
        .lists::<GenerationView>("generations")
        .conflicts(&["nothing_before", "not_kept", "running", "still_running"])
        .refuses(StatusCode::SERVICE_UNAVAILABLE, &["stopping"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&json!(view(&api))))
}

/// One binding in force. What stands in the file may be for those only who see the file: not for viewers.
pub(super) async fn show(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    let snapshot = api.control.snapshot.load();
    let bound = snapshot.policies.bindings().iter().find(|bound| bound.name().as_str() == name);
    let bound = bound.ok_or_else(|| Problem::not_found("policy in force"))?;
    let (binding, config) = (binding_view(bound), bound.binding().config.clone());
    Ok(ok(&json!(InForceView { binding, config, generation: snapshot.policies.generation() })))
}

/// Reads the configuration and all modules again. 422 with every reason if they cannot be used, 503 where nobody can say
/// now; the running ones stay.
pub(super) async fn reload(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    api.control.reload(operator.0).await?;
    Ok(ok(&json!(view(&api))))
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        let (status, code) = match &error {
            ReloadError::NoFile => (StatusCode::CONFLICT, "no_file"),
            // Nothing is wrong with what was read.
            ReloadError::Build(BuildError::Store(_) | BuildError::Vault(OpenError::Store(_))) => {
                (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable")
            }
            ReloadError::Build(BuildError::Vault(OpenError::Ring(RingError::Unavailable { .. }))) => {
                (StatusCode::SERVICE_UNAVAILABLE, "vault_unavailable")
            }
            ReloadError::Build(BuildError::Interrupted) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            ReloadError::Configuration(_)
            | ReloadError::Build(BuildError::Policies(_) | BuildError::Vault(OpenError::Ring(_))) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "reload_refused")
            }
        };
        Self::new(status, code, error.explain())
    }
}

/// The sets that were in force last and that one can go back to, newest first.
pub(super) async fn generations(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&json!({ "generations": generations_view(&api) })))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WayBack {
    /// Which generation; without it, the one before the running one, unless a reload was refused since that came into force.
    #[serde(default)]
    to: Option<u64>,
}

/// Puts the policies of an earlier generation into force again. 409 where there is none.
pub(super) async fn roll_back(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(WayBack { to }): Json<WayBack>,
) -> Answer {
    api.control.roll_back(to, operator.0).await?;
    Ok(ok(&json!({ "generations": generations_view(&api) })))
}

impl From<RollbackError> for Problem {
    fn from(error: RollbackError) -> Self {
        let (status, code) = match error {
            RollbackError::NothingBefore => (StatusCode::CONFLICT, "nothing_before"),
            RollbackError::NotKept { .. } => (StatusCode::CONFLICT, "not_kept"),
            RollbackError::Running { .. } => (StatusCode::CONFLICT, "running"),
            RollbackError::StillRunning { .. } => (StatusCode::CONFLICT, "still_running"),
            RollbackError::Interrupted => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, code, error.to_string())
    }
}

pub(in crate::http) fn view(api: &Api) -> PoliciesView {
    let snapshot = api.control.snapshot.load();
    let last = api.control.last_reload();
    PoliciesView {
        generation: snapshot.policies.generation(),
        when_all_abstain: snapshot.policies.when_all_abstain().as_str(),
        bindings: snapshot.policies.bindings().iter().map(binding_view).collect(),
        shadow_questions_dropped: api.services.shadows.dropped(),
        last_reload: ReloadView {
            at: last.at.to_string(),
            ok: last.error.is_none(),
            generation: last.generation,
            error: last.error.clone(),
            changes: last.changes.as_deref().map(changes_view),
        },
        awaits_restart: api.control.awaits_restart(&api.control.config.load()),
    }
}

fn generations_view(api: &Api) -> Vec<GenerationView> {
    let kept = api.control.generations();
    let running = api.control.snapshot.load().policies.generation();
    kept.iter().rev().map(|generation| generation_view(generation, running)).collect()
}

pub(in crate::http) fn generation_view(generation: &Generation, running: u64) -> GenerationView {
    let Generation { number, at, actor, cause, policies } = generation;
    let policy = |bound: &BoundPolicy| {
        let module = bound.module();
        EarlierPolicy {
            name: bound.name().clone(),
            module_name: module.manifest.name.clone(),
            version: module.manifest.version.clone(),
            digest: module.digest.to_string(),
            config_digest: config_digest(&bound.binding().config),
            mode: bound.binding().mode.as_str(),
        }
    };
    GenerationView {
        generation: *number,
        at: at.to_string(),
        actor: actor.to_string(),
        cause: cause.as_str(),
        of: match cause {
            Cause::Rollback { to } => Some(*to),
            Cause::Start | Cause::Reload | Cause::Binding => None,
        },
        running: *number == running,
        policies: policies.bindings().iter().map(policy).collect(),
    }
}

/// The same for configurations that say the same: an object is written in the order of its keys.
fn config_digest(config: &Value) -> String {
    Digest::of(config.to_string().as_bytes()).to_hex().chars().take(CONFIG_DIGITS).collect()
}

pub(in crate::http) fn binding_view(bound: &BoundPolicy) -> BindingView {
    let module = bound.module();
    let Binding { name, module: source, priority, mode, advisory, allow_rewrite, grants, managed_by, .. } =
        bound.binding();
    let words = |grants: &[Grant]| grants.iter().map(|grant| grant.as_str()).collect();
    BindingView {
        name: name.clone(),
        module: source.to_string(),
        module_name: module.manifest.name.clone(),
        version: module.manifest.version.clone(),
        digest: module.digest.to_string(),
        signed_by: bound.signed_by().to_vec(),
        hooks: module.manifest.hooks.iter().map(|hook| hook.as_str()).collect(),
        priority: *priority,
        matches: match_view(&bound.binding().matches),
        mode: mode.as_str(),
        advisory: *advisory,
        allow_rewrite: *allow_rewrite,
        capabilities: words(&module.manifest.capabilities),
        grants: words(grants),
        instances: InstancesView { mode: bound.instances().as_str(), remarks: bound.remarks().to_vec() },
        limits: LimitsView {
            time_ms: u64::try_from(bound.binding().time.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: bound.binding().memory_bytes,
            reuse: bound.binding().reuse.as_str(),
        },
        warnings: bound.warnings().to_vec(),
        failures: bound.health().failures(),
        degraded: bound.health().is_degraded(),
        shadow: (*mode == Mode::Shadow).then(|| shadow_view(bound.shadow_tally())),
        managed_by: match managed_by {
            ManagedBy::File => "file",
            ManagedBy::Store => "store",
        },
    }
}

/// What a policy in shadow would have done.
fn shadow_view(tally: &ShadowTally) -> ShadowView {
    ShadowView { asked: tally.asked(), stricter: tally.stricter(), milder: tally.milder() }
}

/// What narrows a binding; what matches everything is left out.
fn match_view(matches: &Match) -> MatchView {
    let Match { hooks, upstreams, tools, items, hints, principals, groups, clients } = matches;
    let globs = |globs: &[Glob]| -> Vec<String> { globs.iter().map(|glob| glob.as_str().to_owned()).collect() };
    let narrowing = |patterns: &[Glob]| (!patterns.iter().any(Glob::is_any)).then(|| globs(patterns));
    MatchView {
        upstreams: globs(upstreams),
        tools: globs(tools),
        items: narrowing(items),
        principals: narrowing(principals),
        clients: narrowing(clients),
        hooks: hooks.clone(),
        groups: groups.as_deref().map(globs),
        hints: (!hints.is_empty()).then(|| hints.iter().map(|hint: &Hint| hint.as_str()).collect()),
    }
}

pub(in crate::http) fn changes_view(changes: &Changes) -> ChangesView {
    let Changes { questions, unanswered, different, more, dropped, is_cut } = changes;
    let change = |Change { decision, binding, hook, principal, tool, before, after }: &Change| ChangeView {
        decision: decision.clone(),
        policy: binding.clone(),
        hook: hook.as_str(),
        principal: principal.clone(),
        tool: tool.clone(),
        before: before.clone(),
        after: after.clone(),
    };
    let dropped_view =
        |(binding, count): (&BindingName, &usize)| DroppedView { policy: binding.clone(), questions: *count };
    ChangesView {
        summary: changes.to_string(),
        questions: *questions,
        unanswered: *unanswered,
        different: different.iter().map(change).collect(),
        more: *more,
        dropped: dropped.iter().map(dropped_view).collect(),
        complete: !is_cut,
    }
}
