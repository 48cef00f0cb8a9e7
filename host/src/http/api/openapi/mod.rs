//! What the API says it is: an OpenAPI 3.1 document, made of what stands beside the handlers.
//!
//! Each file of handlers tells its operations ([`Described`]), whose bodies are the types that are read and written there.
//! [`document`] puts them together. `docs/openapi/admin.json` is the same, for those who have no gateway at hand:
//! `portcullis openapi` prints it. Tests hold table of routes, document and file together.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use axum::extract::State;
use http::StatusCode;
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, Paths};
use utoipa::openapi::schema::ComponentsBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, Server};

use super::{Answer, Api};

mod operation;
#[cfg(test)]
mod tests;
pub(super) mod words;

pub(super) use operation::{Described, delete, get, patch, post};

use operation::BEARER;

const ABOUT: &str = "What operators do, for programs and scripts. It is served where `listen.admin` says, with a bearer token, \
    and on the admin socket, which needs none: who may open the socket as the gateway's own user or root is an owner. \
    Each operation takes a role, viewer, operator or owner, and whoever has less is answered 403. \
    What shows or makes a secret, says what callers may or what programs run, or cannot be undone takes, of a person in a \
    browser, a sign-in that is not old. \
    Errors are problem documents (RFC 9457) with a stable `code`. Lists come in pages: `limit` is at most 200, \
    more is read as 200, and `cursor` is the `next_cursor` of the page before. Changes are merge patches (RFC 7396): what is \
    left out stays, `null` takes away, a list takes the place of the list. What is not known here is refused, in bodies and \
    in query strings; so is whatever is said in the body of a change that takes none. Beside what stands here, every path answers HEAD like GET without a body, another method with 405 and \
    `Allow`, and a request that is not HTTP as it should be with 400, 408, 413, 414 or 431 and no content.";

/// What areas are about, in the order of the document.
const AREAS: &[(&str, &str)] = &[
    ("status", "The gateway at a glance."),
    ("health", "What needs somebody."),
    ("traffic", "What came of requests lately."),
    ("settings", "What the gateway runs with."),
    ("openapi", "This document."),
    ("me", "Whoever asks."),
    ("upstreams", "MCP servers behind the gateway."),
    ("keys", "Virtual keys."),
    ("access", "What callers may use, before policies are asked."),
    ("users", "People's accounts."),
    ("api-tokens", "Tokens with which programs act for people."),
    ("set-up-link", "The way to the first owner's account."),
    ("clients", "OAuth clients."),
    ("grants", "What people have let clients do."),
    ("connections", "Credentials that are kept for upstreams."),
    ("policies", "What is bound, what runs, and the way back."),
    ("approvals", "What policies want somebody to agree to."),
    ("pins", "Definitions of tools that were agreed to."),
    ("decisions", "What was decided about calls."),
    ("recordings", "What policies were asked, word for word."),
    ("audit", "What operators, people and the gateway did."),
    ("signing-keys", "Keys that sign access tokens."),
    ("vault", "Keys that encrypt secrets."),
    ("store", "The store as a whole."),
];

/// An error (RFC 9457). Some have members of their own.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its shape is told here; `super::Problem` is what is written")]
struct Problem {
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What the status is called.
    title: String,
    /// What programs go by.
    code: String,
    /// What people read.
    detail: String,
}

/// The document as text, with a line break at its end.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let mut text = document().to_pretty_json().expect("strings are the names of all members");
        text.push('\n');
        text
    });
    &TEXT
}

/// All operations.
pub(super) fn operations() -> Vec<Described> {
    let this = get("/api/v1/openapi.json", "showDocument", "This document").shows::<Document>();
    [
        vec![this],
        super::me::operations(),
        super::status::operations(),
        super::health::operations(),
        super::traffic::operations(),
        super::settings::operations(),
        super::keys::operations(),
        super::key_access::operations(),
        super::clients::operations(),
        super::upstreams::operations(),
        super::tools::operations(),
        super::connections::operations(),
        super::policies::operations(),
        super::policy_modules::operations(),
        super::policy_bindings::operations(),
        super::policy_try::operations(),
        super::trails::operations(),
        super::tails::operations(),
        super::recordings::operations(),
        super::approvals::operations(),
        super::pins::operations(),
        super::grants::operations(),
        super::signing_keys::operations(),
        super::users::operations(),
        super::api_tokens::operations(),
        super::set_up_link::operations(),
        super::vault::operations(),
        super::store::operations(),
    ]
    .into_iter()
    .flatten()
    .map(Described::with_body_refused)
    .collect()
}

/// Methods and paths of what knows no name in a query string.
pub(super) fn without_query() -> BTreeSet<(&'static str, &'static str)> {
    let silent = operations().into_iter().filter(|operation| !operation.takes_query());
    silent.map(|operation| (word(&operation.method), operation.path)).collect()
}

/// Methods and paths of what changes something and takes no body. What is read has none that anybody would look at (RFC 9110
/// §9.3.1).
pub(super) fn without_body() -> BTreeSet<(&'static str, &'static str)> {
    let silent = operations().into_iter().filter(Described::refuses_body);
    silent.map(|operation| (word(&operation.method), operation.path)).collect()
}

const fn word(method: &HttpMethod) -> &'static str {
    match method {
        HttpMethod::Get => "GET",
        HttpMethod::Post => "POST",
        HttpMethod::Put => "PUT",
        HttpMethod::Delete => "DELETE",
        HttpMethod::Options => "OPTIONS",
        HttpMethod::Head => "HEAD",
        HttpMethod::Patch => "PATCH",
        HttpMethod::Trace => "TRACE",
    }
}

pub(super) async fn show(State(_): State<Arc<Api>>) -> Answer {
    Ok(super::super::error::json_response(StatusCode::OK, text().to_owned()))
}

/// An OpenAPI document.
#[derive(ToSchema)]
#[schema(as = OpenApi)]
#[expect(dead_code, reason = "its shape is told here; `utoipa` writes it")]
struct Document {
    /// The version of the specification.
    openapi: String,
    info: serde_json::Map<String, serde_json::Value>,
    paths: serde_json::Map<String, serde_json::Value>,
    components: serde_json::Map<String, serde_json::Value>,
}

fn document() -> OpenApi {
    let mut components = ComponentsBuilder::new().schema_from::<Problem>();
    let mut paths = Paths::new();
    for mut operation in operations() {
        components = components.schemas_from_iter(std::mem::take(&mut operation.schemas));
        components = components.responses_from_iter(operation.problems());
        let (path, method) = (operation.path, operation.method.clone());
        paths.add_path_operation(path, vec![method], operation.into_operation());
    }
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "The operator token, or an API token of a person (`pat_…`), which opens what its role and scopes do.",
        ))
        .build();
    let info = InfoBuilder::new()
        .title("Portcullis: the admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .build();
    let area = |(name, about): &(&str, &str)| TagBuilder::new().name(*name).description(Some(*about)).build();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .tags(Some(AREAS.iter().map(area)))
        .paths(paths)
        .components(Some(components.security_scheme(BEARER, SecurityScheme::Http(bearer)).build()))
        .build()
}
