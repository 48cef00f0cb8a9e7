//! `/policies/bindings/new`, `…/edit` and `…/remove`: a binding of the store is filled in, shown with what it would change in
//! recorded decisions, and published from there.
//!
//! Both steps are sent to one address, with the button that was pressed. The second brings the definition back as the page
//! before has shown it; publishing tries it out once more, whole.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::HERE;
use super::form::{Control, Form, Mistakes, Piece};
use super::frame::{self, CONFIG, MODULE};
use crate::admin::policies::{Described, PolicyError};
use crate::config::Mode;
use crate::http::api::policies::{ChangesView, changes_view};
use crate::http::api::policy_modules::{ModuleView, page};
use crate::http::api::{Api, Paging, Problem};
use crate::http::console::desk::{Answer, Asked, Desk, Done, Head, Sent, Stop};
use crate::http::console::fields;
use crate::http::console::{Person, text};
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::Site;
use crate::ids::BindingName;
use crate::policy::BoundPolicy;

pub(super) const NEW: &str = "/policies/bindings/new";
/// What the pages of bindings stand below.
const BINDINGS: &str = "/policies/bindings";

#[derive(Template)]
#[template(path = "console/policies/choose.html")]
struct ChoosePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    modules: Vec<ModuleView>,
    more: bool,
    builtins: Vec<String>,
}

#[derive(Template)]
#[template(path = "console/policies/edit.html")]
struct EditPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    work: &'a Work,
    pieces: Vec<Piece>,
    mistakes: Vec<(String, String)>,
    /// Why nothing can be filled in field by field, if so.
    is_unknown: bool,
}

#[derive(Template)]
#[template(path = "console/policies/preview.html")]
struct PreviewPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    work: &'a Work,
    definition: String,
    changes: ChangesView,
    mode: Mode,
    /// Whether what it says counts now, and would no more.
    stops_counting: bool,
}

impl PreviewPage<'_> {
    fn is_in_shadow(&self) -> bool {
        self.mode == Mode::Shadow
    }

    fn is_off(&self) -> bool {
        self.mode == Mode::Off
    }
}

#[derive(Template)]
#[template(path = "console/policies/remove.html")]
struct RemovePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    name: BindingName,
    revision: u64,
    changes: ChangesView,
}

impl RemovePage<'_> {
    fn path(&self) -> String {
        format!("{}/remove", fields::page(BINDINGS, self.name.as_str()))
    }
}

/// A binding that somebody works on.
struct Work {
    /// Where its forms go.
    path: String,
    name: String,
    /// What was seen of one that is there; nothing of a new one.
    revision: Option<u64>,
    /// How a binding names its module.
    module: String,
    /// Whether it is filled in as one text.
    is_text: bool,
}

/// The form to begin with: first the module, since it says what there is to fill in.
pub(super) async fn new(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let Some(module) = asked.take("module") else { return choose(&desk, &person).await };
    let described = desk.api.control.describe_module(&module).await?;
    let sample = described.as_ref().map(|described| described.manifest["sample_config"].clone());
    let mut definition = Map::new();
    definition.insert("mode".to_owned(), json!("shadow"));
    definition.insert(CONFIG.to_owned(), sample.unwrap_or_else(|| json!({})));
    // What a stranger's module wants, an owner gives on purpose.
    let own = described.as_ref().filter(|_| module.starts_with("builtin:"));
    let wanted = own.map(|described| described.manifest["capabilities"].clone());
    let wanted = wanted.filter(|wanted| wanted.as_array().is_some_and(|wanted| !wanted.is_empty()));
    definition.extend(wanted.map(|wanted| ("grants".to_owned(), wanted)));
    let work = Work {
        path: NEW.to_owned(),
        name: asked.get("name").unwrap_or_default().to_owned(),
        revision: None,
        module,
        is_text: asked.get("as") == Some("json"),
    };
    Ok(work.form(&desk, &person, described.as_ref(), &definition, &Mistakes::default()))
}

async fn choose(desk: &Desk, person: &Person) -> Answer {
    let (modules, next) = page(&desk.api, &Paging::default()).await?;
    Ok(desk.page(ChoosePage {
        site: desk.site(),
        head: desk.head(person, HERE),
        modules,
        more: next.is_some(),
        builtins: desk.api.control.builtin_modules(),
    }))
}

/// Looks at a new binding, or declares it.
pub(super) async fn create(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let work = Work {
        path: NEW.to_owned(),
        name: fields.take("name").trim().to_owned(),
        revision: None,
        module: fields.take(MODULE),
        is_text: !fields.take("as").is_empty(),
    };
    work.go_on(&desk, &person, fields).await
}

/// The form of a binding that is there.
pub(super) async fn edit(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    asked: Asked,
) -> Answer {
    let there = desk.api.control.binding(&read(&name)?).await?;
    let mut definition = there.definition.as_object().cloned().unwrap_or_default();
    let module = module_of(&mut definition);
    let work = Work {
        path: format!("{}/edit", fields::page(BINDINGS, &name.to_string())),
        name,
        revision: Some(there.revision),
        module,
        is_text: asked.get("as") == Some("json"),
    };
    let described = described(&desk.api, &work.module).await?;
    Ok(work.form(&desk, &person, described.as_ref(), &definition, &Mistakes::default()))
}

/// Looks at what a binding would become, or changes it.
pub(super) async fn change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let seen = fields.take("revision").parse::<u64>();
    let seen = seen.map_err(|_| Problem::invalid("the form does not say which revision it is of"))?;
    let work = Work {
        path: format!("{}/edit", fields::page(BINDINGS, &name.to_string())),
        name,
        revision: Some(seen),
        module: fields.take(MODULE),
        is_text: !fields.take("as").is_empty(),
    };
    work.go_on(&desk, &person, fields).await
}

/// Asks before a binding is removed, and shows what would be decided otherwise.
pub(super) async fn ask_to_remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let name = read(&name)?;
    let there = desk.api.control.binding(&name).await?;
    let changes = changes_view(&desk.api.control.rehearse_binding(&name, None, person.actor()).await?);
    let (site, head) = (desk.site(), desk.head(&person, HERE));
    Ok(desk.page(RemovePage { site, head, name, revision: there.revision, changes }))
}

pub(super) async fn remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let seen = fields.take("revision").parse::<u64>();
    let seen = seen.map_err(|_| Problem::invalid("the form does not say which revision it is of"))?;
    desk.api.control.remove_binding(&read(&name)?, Some(vec![seen]), person.actor()).await?;
    Ok(desk.done(&person, HERE, Done::Removed))
}

fn read(name: &str) -> Result<BindingName, Problem> {
    BindingName::parse(name).map_err(|_| Problem::not_found("policy in the store"))
}

/// The module of a definition, which is not filled in.
fn module_of(definition: &mut Map<String, Value>) -> String {
    let module = definition.remove(MODULE);
    module.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What becomes of its answers, as a definition that is tried out says it.
fn mode_of(definition: &Map<String, Value>) -> Mode {
    let word = definition.get("mode").and_then(Value::as_str).unwrap_or_default();
    Mode::ALL.iter().copied().find(|mode| mode.as_str() == word).unwrap_or_default()
}

/// What a module says of itself. One that is gone says nothing, and its binding can still be mended.
async fn described(api: &Api, module: &str) -> Result<Option<Described>, PolicyError> {
    match api.control.describe_module(module).await {
        Err(PolicyError::NoSuchModule) => Ok(None),
        described => described,
    }
}

impl Work {
    /// The module, for a query string.
    fn module_encoded(&self) -> String {
        form_urlencoded::byte_serialize(self.module.as_bytes()).collect()
    }

    fn is_new(&self) -> bool {
        self.revision.is_none()
    }

    /// Does what the button says that was pressed.
    async fn go_on(self, desk: &Desk, person: &Person, mut fields: Fields) -> Answer {
        let step = fields.take("step");
        let described = described(&desk.api, &self.module).await?;
        let brought = fields.take("definition");
        let (mut definition, mut mistakes) = if step == "look" {
            self.filled_in(described.as_ref(), &mut fields)
        } else {
            let brought = serde_json::from_str::<Map<String, Value>>(&brought);
            (brought.map_err(|_| Problem::invalid("the form brings no definition"))?, Mistakes::default())
        };
        if step == "edit" {
            definition.remove(MODULE);
            return Ok(self.form(desk, person, described.as_ref(), &definition, &mistakes));
        }
        let name = match BindingName::parse(&self.name) {
            Ok(name) => name,
            Err(error) => {
                mistakes.add("", &error.to_string());
                return Ok(self.refused(desk, person, described.as_ref(), definition, &mistakes));
            }
        };
        if !mistakes.is_empty() {
            return Ok(self.refused(desk, person, described.as_ref(), definition, &mistakes));
        }
        definition.insert(MODULE.to_owned(), Value::from(self.module.as_str()));
        let done = if step == "publish" {
            self.publish(desk, person, &name, definition.clone()).await
        } else {
            self.look(desk, person, &name, definition.clone()).await
        };
        match done {
            Ok(response) => Ok(response),
            Err(error) => match frame::place(&name, error) {
                Ok(mistakes) => Ok(self.refused(desk, person, described.as_ref(), definition, &mistakes)),
                // Whoever was faster has left nothing to send this to: what was written is shown, to be copied.
                Err(error) => Err(Stop::Unsaved(error.into(), format!("{:#}", Value::Object(definition)))),
            },
        }
    }

    /// Shows what would be decided otherwise.
    async fn look(
        &self,
        desk: &Desk,
        person: &Person,
        name: &BindingName,
        definition: Map<String, Value>,
    ) -> Result<Response, PolicyError> {
        if self.is_new() {
            // Otherwise it would be looked at as a change of the one that is there.
            match desk.api.control.binding(name).await {
                Ok(_) | Err(PolicyError::ManagedByFile) => return Err(PolicyError::NameTaken),
                Err(PolicyError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let text = format!("{:#}", Value::Object(definition.clone()));
        let mode = mode_of(&definition);
        let snapshot = desk.api.control.snapshot.load();
        let counts = |bound: &BoundPolicy| bound.name() == name && bound.binding().mode == Mode::Enforce;
        let stops_counting = mode != Mode::Enforce && snapshot.policies.bindings().iter().any(counts);
        let changes = changes_view(&desk.api.control.rehearse_binding(name, Some(definition), person.actor()).await?);
        let (site, head) = (desk.site(), desk.head(person, HERE));
        Ok(desk.page(PreviewPage { site, head, work: self, definition: text, changes, mode, stops_counting }))
    }

    async fn publish(
        &self,
        desk: &Desk,
        person: &Person,
        name: &BindingName,
        definition: Map<String, Value>,
    ) -> Result<Response, PolicyError> {
        let control = &desk.api.control;
        let done = match self.revision {
            None => {
                control.create_binding(name.clone(), definition, person.actor()).await?;
                Done::Added
            }
            Some(seen) => {
                control.change_binding(name, Some(vec![seen]), definition, person.actor()).await?;
                Done::Changed
            }
        };
        Ok(desk.done(person, &fields::page(BINDINGS, &name.to_string()), done))
    }

    /// What was filled in, without the module.
    fn filled_in(&self, described: Option<&Described>, fields: &mut Fields) -> (Map<String, Value>, Mistakes) {
        let (around, schema) = (frame::schema(), schema_of(described));
        let form = Form::around(&around, &frame::FIRST, (CONFIG, "Configuration"), &schema);
        let (read, mut mistakes) = form.read(&mut |name| fields.take(name));
        let Value::Object(mut definition) = read else {
            mistakes.add("", "a definition is a JSON object");
            return (Map::new(), mistakes);
        };
        definition.remove(MODULE);
        (definition, mistakes)
    }

    fn form(
        &self,
        desk: &Desk,
        person: &Person,
        described: Option<&Described>,
        definition: &Map<String, Value>,
        mistakes: &Mistakes,
    ) -> Response {
        let (around, schema) = (frame::schema(), schema_of(described));
        let value = Value::Object(definition.clone());
        let pieces = if self.is_text {
            Form::text(&value, mistakes)
        } else {
            Form::around(&around, &frame::FIRST, (CONFIG, "Configuration"), &schema).fill(&value, mistakes)
        };
        desk.page(EditPage {
            site: desk.site(),
            head: desk.head(person, HERE),
            work: self,
            pieces,
            mistakes: mistakes.all(),
            is_unknown: described.is_none(),
        })
    }

    /// The form once more, with what is wrong.
    fn refused(
        &self,
        desk: &Desk,
        person: &Person,
        described: Option<&Described>,
        mut definition: Map<String, Value>,
        mistakes: &Mistakes,
    ) -> Response {
        definition.remove(MODULE);
        let mut response = self.form(desk, person, described, &definition, mistakes);
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        response
    }
}

/// The schema of a module's configuration, as far as it is known.
fn schema_of(described: Option<&Described>) -> Value {
    described.map(|described| described.manifest["config_schema"].clone()).unwrap_or_default()
}
