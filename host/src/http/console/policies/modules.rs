//! `/policies/modules`: modules that owners have uploaded, what they say of themselves, and the way in and out.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Request, State};
use serde_json::Value;

use super::HERE;
use crate::http::api::policy_modules::{ModuleView, page, view};
use crate::http::api::{Paging, Problem};
use crate::http::console::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent};
use crate::http::console::known::{Known, Named};
use crate::http::console::upload::SentFiles;
use crate::http::console::{Person, text};
use crate::http::oauth::pages::Site;
use crate::policy::MAX_MODULE_BYTES;

pub(super) const LIST: &str = "/policies/modules";
/// Largest upload: a module with its signatures, and what a form is around them.
pub(super) const MAX_UPLOAD: usize = MAX_MODULE_BYTES + (1 << 20);

#[derive(Template)]
#[template(path = "console/policies/modules.html")]
struct ModulesPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    modules: Vec<ModuleView>,
    known: Known,
    builtins: Vec<String>,
    older: Option<String>,
    max_mebibytes: usize,
}

#[derive(Template)]
#[template(path = "console/policies/module.html")]
struct ModulePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    module: ModuleView,
    /// Who has uploaded it.
    by: Named,
    title: String,
    license: String,
    hooks: String,
    mutates: String,
    capabilities: String,
    schema: String,
    sample: String,
    bound_by: Vec<String>,
}

pub(super) async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let paging = Paging { limit: None, cursor: asked.take("cursor") };
    let (modules, next) = page(&desk.api, &paging).await?;
    let uploaders: Vec<&str> = modules.iter().map(|module| module.uploaded_by.as_str()).collect();
    let known = desk.known(&uploaders).await?;
    Ok(desk.page(ModulesPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        modules,
        known,
        builtins: desk.api.control.builtin_modules(),
        older: next.map(|cursor| asked.with(LIST, "cursor", &cursor)),
        max_mebibytes: MAX_MODULE_BYTES >> 20,
    }))
}

pub(super) async fn show(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let module = desk.api.control.module(&id).await?;
    let by = module.uploaded_by.to_string();
    let by = desk.known(&[&by]).await?.who(&by);
    let line = |name: &str| text::line(module.manifest[name].as_str().unwrap_or_default());
    let words = |name: &str| {
        let words = module.manifest[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        text::line(&words.collect::<Vec<_>>().join(", "))
    };
    let json = |name: &str| text::pretty(&module.manifest[name]);
    let snapshot = desk.api.control.snapshot.load();
    let uses_it = |digest: Option<&str>| digest == Some(module.digest.as_str());
    let bound = snapshot.policies.bindings().iter().filter(|bound| uses_it(bound.binding().module.uploaded()));
    Ok(desk.page(ModulePage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        by,
        title: line("title"),
        license: line("license"),
        hooks: words("hooks"),
        mutates: words("mutates"),
        capabilities: words("capabilities"),
        schema: json("config_schema"),
        sample: json("sample_config"),
        bound_by: bound.map(|bound| bound.name().to_string()).collect(),
        module: view(&module),
    }))
}

/// Keeps a module, and its signatures if they come with it.
pub(super) async fn upload(State(desk): State<Desk>, Extension(person): Extension<Person>, request: Request) -> Answer {
    // Each may be large.
    let _turn = desk.api.control.upload_turn()?;
    let mut files = SentFiles::read(&desk, &person, request).await?;
    let module = files.take("module").ok_or_else(|| Problem::invalid("choose the file of a module"))?;
    let signatures = files.take("signatures").map(|text| String::from_utf8(text.into()));
    let signatures = signatures.transpose().map_err(|_| Problem::invalid("the file of signatures is not text"))?;
    let uploaded = desk.api.control.upload_signed_module(module.into(), signatures, person.actor()).await?;
    Ok(desk.done(&person, &format!("{LIST}/{}", uploaded.module.digest), Done::Added))
}

/// Asks before a module is removed.
pub(super) async fn ask(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let module = desk.api.control.module(&id).await?;
    let back = format!("{LIST}/{}", module.digest);
    Ok(desk.confirm(
        &person,
        HERE,
        Confirm {
            title: &format!("Remove {} {}?", text::line(&module.name), text::line(&module.version)),
            what: "Its bytes are erased from the store. A module that a binding uses, or a set of policies that one can go \
                   back to, stays.",
            button: "Remove it",
            path: &format!("{back}/remove"),
            back: &back,
            hidden: &[],
        },
    ))
}

pub(super) async fn remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    desk.api.control.remove_module(&id, person.actor()).await?;
    Ok(desk.done(&person, LIST, Done::Removed))
}
