//! Policy modules that operators upload: what is kept, what a module says of itself, and the way in and out.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::openapi::{Described, delete, get, post};
use super::upstreams::{mistakes, summary};
use super::{Answer, Api, Operator, Paging, Path, Problem, Query, body, if_match, next_cursor, ok, respond};
use crate::admin::policies::{ModuleUpload, PolicyError};
use crate::policy::MAX_MODULE_BYTES;
use crate::store::policy_modules::UploadedModule;

/// What cursors of the list are signed for.
const LIST: &str = "policy-modules";
/// Megabytes take longer than other bodies.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// The signatures that would stand in the file beside the module, in base64.
pub(in crate::http) const SIGNATURES: &str = "portcullis-signatures";
const WASM: &str = "application/wasm";

/// An uploaded module.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyModule)]
pub(in crate::http) struct ModuleView {
    /// Lower-case hex SHA-256. A binding names it after `sha256:`.
    pub(in crate::http) digest: String,
    pub(in crate::http) name: String,
    pub(in crate::http) version: String,
    pub(in crate::http) bytes: u64,
    /// Whether signatures came with it. Whose they are is told where it is bound.
    pub(in crate::http) signed: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) uploaded: String,
    pub(in crate::http) uploaded_by: String,
}

/// An uploaded module, and what it says of itself.
#[derive(Serialize, ToSchema)]
struct ShownPolicyModule {
    #[serde(flatten)]
    module: ModuleView,
    #[schema(value_type = PolicyManifest)]
    manifest: Value,
}

/// What a module says of itself.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its shape is told here; the store has it written")]
struct PolicyManifest {
    title: String,
    license: Option<String>,
    hooks: Vec<String>,
    /// The hooks in which it may change what passes.
    mutates: Vec<String>,
    /// What it wants of the host.
    capabilities: Vec<String>,
    /// JSON Schema of the configuration.
    #[schema(value_type = Object)]
    config_schema: Value,
    /// A configuration to start from.
    #[schema(value_type = Object)]
    sample_config: Value,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    let upload = post(
        "/api/v1/policies/modules",
        "uploadPolicyModule",
        "Keeps a policy module, once it was checked, compiled and described; one that is there stays as it is",
    )
    .takes_module(WASM, "Portcullis-Signatures")
    .gives::<ShownPolicyModule>(StatusCode::CREATED)
    .shows::<ShownPolicyModule>()
    .located()
    .conflicts(&["no_room"])
    .refuses(StatusCode::UNPROCESSABLE_ENTITY, &["invalid", "invalid_module"])
    .refuses(StatusCode::TOO_MANY_REQUESTS, &["too_many_trials"])
    .refuses(StatusCode::SERVICE_UNAVAILABLE, &["stopping"]);
    vec![
        get("/api/v1/policies/modules", "listPolicyModules", "The uploaded modules, from the last digest to the first")
            .asks::<Paging>()
            .pages::<ModuleView>("modules"),
        upload,
        get("/api/v1/policies/modules/{id}", "showPolicyModule", "One uploaded module, and what it says of itself")
            .shows::<ShownPolicyModule>(),
        delete("/api/v1/policies/modules/{id}", "removePolicyModule", "Removes a module that nothing uses")
            .says(StatusCode::NO_CONTENT)
            .conflicts(&["module_in_use"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(paging): Query<Paging>) -> Answer {
    let (modules, next_cursor) = page(&api, &paging).await?;
    Ok(ok(&json!({ "modules": modules, "next_cursor": next_cursor })))
}

/// A page of the uploaded modules, and the cursor of the next one.
pub(in crate::http) async fn page(api: &Api, paging: &Paging) -> Result<(Vec<ModuleView>, Option<String>), Problem> {
    let page = api.control.modules(paging.cursor(api, LIST)?, paging.limit()).await?;
    let next_cursor = next_cursor(api, LIST, page.next.as_ref());
    Ok((page.items.iter().map(view).collect(), next_cursor))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(digest): Path) -> Answer {
    Ok(shown(StatusCode::OK, &api.control.module(plain(&digest)).await?))
}

/// Keeps the module that is the body of a request. 201 if it is new, 200 if it was there.
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    request: Request,
) -> Answer {
    let (parts, content) = request.into_parts();
    if !is_wasm(&parts.headers) || body::check_encoding(&parts.headers).is_err() {
        let detail = "Content-Type must be application/wasm, without Content-Encoding";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let signatures = signatures(&parts.headers)?;
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let _turn = api.control.upload_turn()?;
    let content = body::read_limited(content, MAX_MODULE_BYTES, UPLOAD_TIMEOUT, announced).await;
    let content = content.map_err(|error| Problem::new(error.status(), "bad_body", error.to_string()))?;
    let ModuleUpload { module, is_new } =
        api.control.upload_signed_module(content.into(), signatures, operator.0).await?;
    let mut response = shown(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &module);
    let location = format!("/api/v1/policies/modules/{}", module.digest);
    response.headers_mut().extend(HeaderValue::try_from(location).ok().map(|location| (LOCATION, location)));
    Ok(response)
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(digest): Path,
) -> Answer {
    api.control.remove_module(plain(&digest), operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A digest as bindings write it, or as it is.
fn plain(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

fn is_wasm(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    value.as_bytes().trim_ascii().eq_ignore_ascii_case(WASM.as_bytes())
}

fn signatures(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(SIGNATURES) else { return Ok(None) };
    let text = STANDARD.decode(value.as_bytes()).ok().and_then(|text| String::from_utf8(text).ok());
    let wrong = || Problem::invalid("Portcullis-Signatures has to be the base64 of a file of signatures");
    text.ok_or_else(wrong).map(Some)
}

/// A module without what it says of itself.
pub(in crate::http) fn view(module: &UploadedModule) -> ModuleView {
    let UploadedModule { digest, name, version, bytes, signatures, uploaded, uploaded_by, manifest: _ } = module;
    ModuleView {
        digest: digest.clone(),
        name: name.clone(),
        version: version.clone(),
        bytes: *bytes,
        signed: signatures.is_some(),
        uploaded: uploaded.to_string(),
        uploaded_by: uploaded_by.to_string(),
    }
}

fn shown(status: StatusCode, module: &UploadedModule) -> Response {
    respond(status, &json!(ShownPolicyModule { module: view(module), manifest: module.manifest.clone() }))
}

impl From<PolicyError> for Problem {
    fn from(error: PolicyError) -> Self {
        let detail = error.to_string();
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, detail.clone());
        let unusable = |code| Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail.clone());
        match error {
            PolicyError::NameTaken => conflict("name_taken"),
            PolicyError::ManagedByFile => conflict("managed_by_file"),
            PolicyError::TooManyBindings => conflict("too_many_policies"),
            PolicyError::NoRoom => conflict("no_room"),
            PolicyError::ModuleInUse { .. } => conflict("module_in_use"),
            PolicyError::NotFound => Self::not_found("policy in the store"),
            PolicyError::NoSuchModule => Self::not_found("module"),
            PolicyError::Conflict { revision } => if_match::is_other(detail, revision),
            PolicyError::DefinitionTooLarge => Self::invalid(detail),
            PolicyError::Mistakes(misfits) => {
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_definition", summary(&misfits));
                problem.with("mistakes", json!(mistakes(&misfits)))
            }
            PolicyError::Refused(_) => unusable("policies_refused"),
            PolicyError::Module(_) | PolicyError::ModuleTooLarge => unusable("invalid_module"),
            PolicyError::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_trials", detail),
            PolicyError::Interrupted => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail),
            PolicyError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::definition::Misfit;
    use crate::policy::LoadErrors;

    #[test]
    fn each_refusal_has_a_status_and_a_code() {
        for (error, status, code) in [
            (PolicyError::NameTaken, 409, "name_taken"),
            (PolicyError::ManagedByFile, 409, "managed_by_file"),
            (PolicyError::NotFound, 404, "not_found"),
            (PolicyError::Conflict { revision: 3 }, 412, "precondition_failed"),
            (PolicyError::TooManyBindings, 409, "too_many_policies"),
            (PolicyError::DefinitionTooLarge, 422, "invalid"),
            (PolicyError::Mistakes(vec![Misfit::of("mode", "must be a string")]), 422, "invalid_definition"),
            (PolicyError::Refused(LoadErrors(Vec::new())), 422, "policies_refused"),
            (PolicyError::NoSuchModule, 404, "not_found"),
            (PolicyError::Module("it exports no hook".to_owned()), 422, "invalid_module"),
            (PolicyError::NoRoom, 409, "no_room"),
            (PolicyError::ModuleTooLarge, 422, "invalid_module"),
            (PolicyError::ModuleInUse { by: "confirm".to_owned() }, 409, "module_in_use"),
            (PolicyError::Busy, 429, "too_many_trials"),
            (PolicyError::Interrupted, 503, "stopping"),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.status.as_u16(), problem.code), (status, code));
        }
    }

    #[test]
    fn a_module_is_sent_as_one() {
        let with = |types: &[&'static str]| {
            let values = types.iter().map(|value| (CONTENT_TYPE, HeaderValue::from_static(value)));
            is_wasm(&values.collect::<HeaderMap>())
        };
        assert!(with(&["application/wasm"]) && with(&["Application/WASM"]));
        assert!(!with(&[]) && !with(&["application/json"]) && !with(&["application/wasm", "application/wasm"]));
    }
}
