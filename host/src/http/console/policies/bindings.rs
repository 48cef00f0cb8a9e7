//! `/policies/bindings/{name}`: everything about one binding.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use serde_json::Value;

use super::form::{Form, Piece};
use super::{HERE, meaning, narrowing};
use crate::http::api::Problem;
use crate::http::api::policies::{BindingView, binding_view};
use crate::http::console::desk::{Answer, Desk, Head};
use crate::http::console::{Person, text};
use crate::http::oauth::pages::Site;

#[derive(Template)]
#[template(path = "console/policies/binding.html")]
struct BindingPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    binding: BindingView,
    title: String,
    license: Option<String>,
    size_bytes: usize,
    narrowing: String,
    meaning: &'static str,
    /// For those who may read it.
    configuration: Option<Vec<Piece>>,
}

pub(super) async fn show(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let snapshot = desk.api.control.snapshot.load();
    let bound = snapshot.policies.bindings().iter().find(|bound| bound.name().as_str() == name);
    let bound = bound.ok_or_else(|| Problem::not_found("policy"))?;
    let module = bound.module();
    let head = desk.head(&person, HERE);
    let binding = binding_view(bound);
    // What stands in the file may be for those only who see the file; what is in the store the API shows to everybody.
    let may_read = head.is_operator() || binding.managed_by == "store";
    let configuration = may_read.then(|| {
        let schema = serde_json::from_str::<Value>(module.manifest.config_schema.get()).unwrap_or_default();
        Form::of(&schema).show(&bound.binding().config)
    });
    Ok(desk.page(BindingPage {
        site: desk.site(),
        head,
        title: text::line(&module.manifest.title),
        license: module.manifest.license.as_deref().map(text::line),
        size_bytes: module.size_bytes,
        narrowing: narrowing(&binding.matches),
        meaning: meaning(binding.mode),
        configuration,
        binding,
    }))
}
