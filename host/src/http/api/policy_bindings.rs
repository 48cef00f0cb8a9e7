//! Policy bindings that operators declare in the store: what they are, what a change would come to, and the change.
//!
//! A definition is what an entry of `[[policies]]` of the configuration file says, as JSON, without its name. It names no
//! files: modules are uploaded, or come with the gateway.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{HeaderValue, LOCATION};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::if_match::{IfMatch, is_other, tagged};
use super::openapi::words::ManagedByWord;
use super::openapi::{Described, delete, get, patch, post};
use super::policies::{ChangesView, changes_view};
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, next_cursor, ok, respond};
use crate::admin::policies::{Altered, merged};
use crate::ids::BindingName;
use crate::store::policy_bindings::StoredBinding;

/// What cursors of the list are signed for.
const LIST: &str = "policy-bindings";

/// A binding to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyBindingRequest)]
pub(super) struct BindingRequest {
    name: String,
    /// What an entry of `[[policies]]` of the configuration file says, as JSON, without its name.
    definition: Map<String, Value>,
}

/// A merge patch of what is shown.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyBindingChange)]
pub(super) struct BindingChange {
    /// What it does not mention stays.
    definition: Map<String, Value>,
}

/// What a binding might be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyRehearsal)]
pub(super) struct Rehearsal {
    /// All of it; null if the binding were gone.
    definition: Option<Map<String, Value>>,
}

/// A binding of the store.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredPolicyBinding)]
pub(in crate::http) struct StoredView {
    #[schema(value_type = String)]
    pub(in crate::http) name: BindingName,
    #[schema(value_type = Object)]
    pub(in crate::http) definition: Value,
    /// To change it by.
    pub(in crate::http) revision: u64,
    #[schema(value_type = ManagedByWord)]
    pub(in crate::http) managed_by: &'static str,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    pub(in crate::http) created_by: String,
    #[schema(format = DateTime)]
    pub(in crate::http) changed: String,
    pub(in crate::http) changed_by: String,
}

/// A binding that was declared or changed, and what came of it.
#[derive(Serialize, ToSchema)]
#[schema(as = AlteredPolicyBinding)]
struct AlteredView {
    #[serde(flatten)]
    binding: StoredView,
    /// The generation of policies that it is in force with.
    generation: u64,
    /// What the policies say of earlier decisions now; null where none were recorded.
    changes: Option<ChangesView>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    let tried = |operation: Described| {
        operation
            .refuses(StatusCode::UNPROCESSABLE_ENTITY, &["invalid", "invalid_definition", "policies_refused"])
            .refuses(StatusCode::TOO_MANY_REQUESTS, &["too_many_trials"])
            .refuses(StatusCode::SERVICE_UNAVAILABLE, &["stopping"])
    };
    let create = post(
        "/api/v1/policies/bindings",
        "createPolicyBinding",
        "Declares a binding and brings it into force; if the policies cannot be used with it, nothing changes",
    )
    .takes::<BindingRequest>()
    .gives::<AlteredView>(StatusCode::CREATED)
    .tagged()
    .located()
    .conflicts(&["name_taken", "too_many_policies"]);
    let change = patch("/api/v1/policies/bindings/{name}", "changePolicyBinding", "Changes a binding of the store")
        .needs_if_match()
        .takes::<BindingChange>()
        .shows::<AlteredView>()
        .tagged()
        .conflicts(&["managed_by_file"]);
    let remove = delete("/api/v1/policies/bindings/{name}", "removePolicyBinding", "Removes a binding of the store")
        .if_match()
        .says(StatusCode::NO_CONTENT)
        .conflicts(&["managed_by_file"]);
    let rehearse = post(
        "/api/v1/policies/bindings/{name}/rehearse",
        "rehearsePolicyBinding",
        "Tells what would be decided otherwise if the binding were this, or gone, and saves nothing",
    )
    .takes::<Rehearsal>()
    .shows::<ChangesView>()
    .conflicts(&["managed_by_file"]);
    vec![
        get(
            "/api/v1/policies/bindings",
            "listPolicyBindings",
            "The bindings of the store, from the last name to the first",
        )
        .asks::<Paging>()
        .pages::<StoredView>("bindings"),
        tried(create),
        get("/api/v1/policies/bindings/{name}", "showPolicyBinding", "One binding of the store")
            .shows::<StoredView>()
            .tagged()
            .conflicts(&["managed_by_file"]),
        tried(change),
        tried(remove),
        tried(rehearse),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(paging): Query<Paging>) -> Answer {
    let (bindings, next_cursor) = page(&api, &paging).await?;
    Ok(ok(&json!({ "bindings": bindings, "next_cursor": next_cursor })))
}

/// A page of the bindings of the store, and the cursor of the next one.
pub(in crate::http) async fn page(api: &Api, paging: &Paging) -> Result<(Vec<StoredView>, Option<String>), Problem> {
    let page = api.control.bindings(paging.cursor(api, LIST)?, paging.limit()).await?;
    let next_cursor = next_cursor(api, LIST, page.next.as_ref());
    Ok((page.items.iter().map(view).collect(), next_cursor))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    let binding = api.control.binding(&read_name(&name)?).await?;
    Ok(tagged(ok(&json!(view(&binding))), binding.revision))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(BindingRequest { name, definition }): Json<BindingRequest>,
) -> Answer {
    let name = BindingName::parse(&name).map_err(|error| Problem::invalid(error.to_string()))?;
    let altered = api.control.create_binding(name.clone(), definition, operator.0).await?;
    let mut response = shown(StatusCode::CREATED, altered);
    let location = format!("/api/v1/policies/bindings/{name}");
    response.headers_mut().extend(HeaderValue::try_from(location).ok().map(|location| (LOCATION, location)));
    Ok(response)
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
    Json(BindingChange { definition: patch }): Json<BindingChange>,
) -> Answer {
    let name = read_name(&name)?;
    // Whoever may not change it at all is told so before anything else.
    let there = api.control.binding(&name).await?;
    if condition.needed()?.is_some_and(|seen| !seen.contains(&there.revision)) {
        return Err(is_other("the policy was changed meanwhile".to_owned(), there.revision));
    }
    // What the patch is of is what has to be there still.
    let seen = Some(vec![there.revision]);
    let altered = api.control.change_binding(&name, seen, merged(&there, patch)?, operator.0).await?;
    Ok(shown(StatusCode::OK, altered))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    condition: IfMatch,
) -> Answer {
    api.control.remove_binding(&read_name(&name)?, condition.said(), operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What would be decided otherwise.
pub(super) async fn rehearse(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    Json(Rehearsal { definition }): Json<Rehearsal>,
) -> Answer {
    let changes = api.control.rehearse_binding(&read_name(&name)?, definition, operator.0).await?;
    Ok(ok(&json!(changes_view(&changes))))
}

fn read_name(name: &str) -> Result<BindingName, Problem> {
    BindingName::parse(name).map_err(|_| Problem::not_found("policy in the store"))
}

/// A binding of the store, for operators.
pub(in crate::http) fn view(binding: &StoredBinding) -> StoredView {
    let StoredBinding { name, definition, revision, created, created_by, changed, changed_by } = binding;
    StoredView {
        name: name.clone(),
        definition: definition.clone(),
        revision: *revision,
        managed_by: "store",
        created: created.to_string(),
        created_by: created_by.to_string(),
        changed: changed.to_string(),
        changed_by: changed_by.to_string(),
    }
}

/// What came of a change; a binding that is gone is not shown.
fn shown(status: StatusCode, altered: Altered) -> Response {
    let Altered { binding, generation, changes } = altered;
    let Some(binding) = binding else { return StatusCode::NO_CONTENT.into_response() };
    let body = AlteredView { binding: view(&binding), generation, changes: changes.as_deref().map(changes_view) };
    tagged(respond(status, &json!(body)), binding.revision)
}
