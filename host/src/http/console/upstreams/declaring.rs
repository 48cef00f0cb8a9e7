//! Declaring an upstream and changing one, by fields or as JSON. Both come to the definition that the API takes, and go the
//! same way. What was typed is shown again where something is wrong with it, without the secrets,
//! which are kept meanwhile for the browser that sent them.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value};

use super::fields::{
    Before, KINDS, Secrets, UpstreamFields, fill, hide, patch, place_of, secrets_of, to_be_given_again,
};
use super::kept::new_id;
use super::{PART, Trial, care, of_file, page_of, seen, text};
use crate::admin::upstreams::{Care, Change, UpstreamError, UpstreamView};
use crate::config::definition::Misfit;
use crate::http::api::Problem;
use crate::http::api::upstreams::{self as api, TrialView};
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Asked, Desk, Done, Head, Sent};
use crate::http::console::fields::can_be_mended;
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::{Site, page_of_console};
use crate::ids::UpstreamName;

/// What somebody has typed.
enum Typed {
    Fields(Box<UpstreamFields>),
    /// A definition, or a text that is none.
    Json(Result<Map<String, Value>, Misfit>),
}

impl Typed {
    fn read(fields: &mut Fields) -> Self {
        if fields.take("as") == "json" {
            return Self::Json(read_json(&fields.take("definition")));
        }
        Self::Fields(Box::new(UpstreamFields {
            url: fields.take("url"),
            headers: fields.take("headers"),
            command: fields.take("command"),
            environment: fields.take("environment"),
            working_dir: fields.take("working_dir"),
            kind: fields.take("kind"),
            issuer: fields.take("issuer"),
            client_id: fields.take("client_id"),
            client_secret: fields.take("client_secret"),
            scopes: fields.take("scopes"),
            names: fields.take("names"),
            trust: fields.take("trust"),
            labels: fields.take("labels"),
            call_timeout: fields.take("call_timeout"),
            sync_interval: fields.take("sync_interval"),
            bare: !fields.take("bare").is_empty(),
            on_all_keys: !fields.take("on_all_keys").is_empty(),
        }))
    }

    /// The secrets in it.
    fn secrets(&self) -> Secrets {
        match self {
            Self::Fields(fields) => fields.secrets(),
            Self::Json(Ok(definition)) => secrets_of(definition),
            Self::Json(Err(_)) => Secrets::new(),
        }
    }

    /// Where it leads.
    fn place(&self) -> String {
        match self {
            Self::Fields(fields) => fields.place(),
            Self::Json(Ok(definition)) => place_of(definition),
            Self::Json(Err(_)) => String::new(),
        }
    }

    /// The same with the secrets that were typed before, if it still leads where they were to be shown.
    fn with_secrets(self, before: Option<Before>) -> Self {
        let Some(Before { secrets, .. }) = before.filter(|before| before.place == self.place()) else { return self };
        match self {
            Self::Fields(fields) => Self::Fields(Box::new(fields.with_secrets(&secrets))),
            Self::Json(read) => Self::Json(read.map(|mut definition| {
                fill(&mut definition, &secrets);
                definition
            })),
        }
    }

    /// The definition that it comes to, or what is wrong with how it is written.
    fn definition(&self) -> Result<Map<String, Value>, Vec<Misfit>> {
        let definition = match self {
            Self::Fields(fields) => fields.definition()?,
            Self::Json(read) => read.clone().map_err(|misfit| vec![misfit])?,
        };
        let missing = to_be_given_again(&definition);
        if missing.is_empty() { Ok(definition) } else { Err(missing) }
    }
}

/// A definition as JSON. What is told of a mistake repeats nothing of it.
fn read_json(text: &str) -> Result<Map<String, Value>, Misfit> {
    let wrong = |message: String| Misfit { field: None, message, hint: None };
    match serde_json::from_str(text) {
        Ok(Value::Object(definition)) => Ok(definition),
        Ok(_) => Err(wrong("The definition has to be a JSON object.".to_owned())),
        Err(error) => {
            let place = format!("line {}, column {}", error.line(), error.column());
            Err(wrong(format!("This is not JSON: see {place}. It is not repeated, since it may have secrets in it.")))
        }
    }
}

/// What a form says and does besides its fields.
struct Sheet {
    title: String,
    path: String,
    /// Where to go instead.
    back: String,
    /// What is to be changed has its name and a revision already.
    name: String,
    revision: Option<u64>,
    /// Whether secrets are sealed in it.
    has_sealed: bool,
    unchecked: bool,
}

impl Sheet {
    fn of_new(name: &str) -> Self {
        Self {
            title: "Add an upstream".to_owned(),
            path: "/upstreams/new".to_owned(),
            back: PART.to_owned(),
            name: name.to_owned(),
            revision: None,
            has_sealed: false,
            unchecked: false,
        }
    }

    fn of(upstream: &UpstreamView, revision: u64) -> Self {
        let back = page_of(&upstream.name);
        Self {
            title: format!("Change {}", upstream.name),
            path: format!("{back}/edit"),
            back,
            name: upstream.name.to_string(),
            revision: Some(revision),
            has_sealed: upstream.declared.as_ref().is_some_and(|declared| !declared.secrets.is_empty()),
            unchecked: false,
        }
    }
}

#[derive(Template)]
#[template(path = "console/upstreams/form.html")]
struct FormPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    sheet: Sheet,
    fields: UpstreamFields,
    /// In place of the fields.
    json: Option<String>,
    /// Whether the definition can be said in fields.
    has_fields: bool,
    kinds: [(&'static str, &'static str); KINDS.len()],
    /// Under which name secrets are kept that were typed.
    kept: Option<String>,
    trial: Option<Trial>,
    problem: Option<String>,
}

/// What there is to tell about what was typed.
enum Told {
    Nothing,
    Trial(TrialView),
    Problem(Problem),
}

impl From<UpstreamError> for Told {
    fn from(error: UpstreamError) -> Self {
        api::not_saved(error).map_or_else(Self::Problem, Self::Trial)
    }
}

impl Desk {
    /// The form with what stands in it, which has no secrets any more.
    fn sheet(&self, person: &Person, sheet: Sheet, typed: &Typed, (status, told): (StatusCode, Told)) -> Response {
        let secrets = typed.secrets();
        let (fields, json) = match typed {
            Typed::Fields(fields) => (Some(fields.clone().without_secrets(&secrets)), None),
            Typed::Json(read) => {
                let mut definition = read.clone().unwrap_or_default();
                hide(&mut definition, &secrets);
                let fields = UpstreamFields::of(&definition);
                let json = if read.is_ok() { text::whole(&Value::Object(definition)) } else { String::new() };
                (fields, Some(json))
            }
        };
        let (trial, problem) = match told {
            Told::Nothing => (None, None),
            Told::Trial(trial) => (Some(Trial(trial)), None),
            Told::Problem(problem) => (None, Some(problem.detail)),
        };
        let page = FormPage {
            site: self.site(),
            head: self.head(person, PART),
            sheet,
            has_fields: fields.is_some(),
            fields: fields.unwrap_or_default(),
            json,
            kinds: KINDS,
            kept: self.keep(person, typed.place(), secrets),
            trial,
            problem,
        };
        page_of_console(status, page)
    }
}

impl Desk {
    /// Keeps secrets for what this browser sends next, and says under which name.
    fn keep(&self, person: &Person, place: String, secrets: Secrets) -> Option<String> {
        let (env, now) = (&self.api.control.env, self.api.control.env.now());
        let id = (!secrets.is_empty()).then(|| new_id(env))?;
        self.console.pasted.typed.keep((person.session.id.clone(), id.clone()), Before { place, secrets }, now);
        Some(id)
    }

    /// What was typed, with the secrets that are kept.
    fn typed(&self, person: &Person, fields: &mut Fields) -> Typed {
        let (id, now) = (fields.take("kept"), self.api.control.env.now());
        Typed::read(fields).with_secrets(self.console.pasted.typed.take(&person.session.id, &id, now))
    }
}

/// The form for a new one.
pub(super) async fn ask(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Response {
    let typed = if asked.get("as") == Some("json") {
        Typed::Json(Ok(Map::from_iter([("url".to_owned(), Value::from("https://"))])))
    } else {
        Typed::Fields(Box::default())
    };
    desk.sheet(&person, Sheet::of_new(""), &typed, (StatusCode::OK, Told::Nothing))
}

/// What the button of a form does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Try,
    Save,
}

impl Wanted {
    /// Who says nothing saves nothing.
    fn read(fields: &mut Fields) -> Self {
        if fields.take("do") == "save" { Self::Save } else { Self::Try }
    }
}

/// Tries what was typed, or declares it.
pub(super) async fn declare(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let (wanted, care, name) = (Wanted::read(&mut fields), care(&mut fields), fields.take("name"));
    let typed = desk.typed(&person, &mut fields);
    let sheet = Sheet { unchecked: care == Care::Unchecked, ..Sheet::of_new(&name) };
    let told = match (wanted, read(&person, &name, &typed)) {
        (_, Err(told)) => told,
        (Wanted::Save, Ok((name, definition))) => {
            match desk.api.control.create_upstream(name, definition, care, person.actor()).await {
                Ok(made) => return Ok(desk.done(&person, &page_of(&made.name), Done::Added)),
                Err(error) => error.into(),
            }
        }
        (Wanted::Try, Ok((name, definition))) => {
            match api::tried(desk.api.control.try_definition(&name, definition).await) {
                Ok(trial) => return Ok(desk.sheet(&person, sheet, &typed, (StatusCode::OK, Told::Trial(trial)))),
                Err(problem) => Told::Problem(problem),
            }
        }
    };
    Ok(desk.sheet(&person, sheet, &typed, (status_of(&told), told)))
}

/// A name and a definition that this person may try and save.
fn read(person: &Person, name: &str, typed: &Typed) -> Result<(UpstreamName, Map<String, Value>), Told> {
    let name = UpstreamName::parse(name.trim()).map_err(|error| Told::Problem(Problem::invalid(error.to_string())))?;
    let definition = typed.definition().map_err(|misfits| Told::Trial(TrialView::mistaken(&misfits)))?;
    person.operator().needs(api::to_say(&definition)).map_err(Told::Problem)?;
    Ok((name, definition))
}

const fn status_of(told: &Told) -> StatusCode {
    match told {
        Told::Problem(problem) => problem.status,
        Told::Nothing | Told::Trial(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// The form with what an upstream of the store says.
pub(super) async fn ask_to_change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    asked: Asked,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?;
    let (Some(declared), Some(definition)) = (&upstream.declared, upstream.definition()) else {
        return Err(of_file().into());
    };
    person.operator().needs(api::to_say(&definition))?;
    let typed = match UpstreamFields::of(&definition) {
        Some(fields) if asked.get("as") != Some("json") => Typed::Fields(Box::new(fields)),
        _ => Typed::Json(Ok(definition)),
    };
    let sheet = Sheet::of(&upstream, declared.revision);
    Ok(desk.sheet(&person, sheet, &typed, (StatusCode::OK, Told::Nothing)))
}

/// Changes an upstream of the store to what was typed.
pub(super) async fn change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?;
    let shown = upstream.definition().ok_or_else(of_file)?;
    let (revision, care, carry) = (seen(&mut fields)?, care(&mut fields), !fields.take("carry").is_empty());
    let typed = desk.typed(&person, &mut fields);
    let sheet = Sheet { unchecked: care == Care::Unchecked, ..Sheet::of(&upstream, revision) };
    let told = match typed.definition() {
        Err(misfits) => Told::Trial(TrialView::mistaken(&misfits)),
        Ok(definition) => {
            let change = Change { definition: Some(patch(&shown, &definition, carry)), enabled: None };
            let who = (person.user.role, person.actor());
            match desk.api.control.change_upstream(&upstream.name, Some(vec![revision]), change, care, who).await {
                Ok(changed) => return Ok(desk.done(&person, &page_of(&changed.name), Done::Changed)),
                Err(error) => error.into(),
            }
        }
    };
    match told {
        // The form would come with the same revision again.
        Told::Problem(problem) if problem.status.is_client_error() && !can_be_mended(&problem) => Err(problem.into()),
        told => Ok(desk.sheet(&person, sheet, &typed, (status_of(&told), told))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_definition_is_not_repeated() {
        for (text, expected) in [
            ("{\"a\": hunter2}", "line 1"),
            ("\"hunter2\"", "object"),
            ("[{\"a\":\n\"hunter2\"}", "line 2"),
            ("", "not JSON"),
        ] {
            let message = read_json(text).unwrap_err().message;
            assert!(message.contains(expected) && !message.contains("hunter"), "{text}: {message}");
        }
        assert!(read_json("{\"url\": \"https://a\"}").is_ok());
    }
}
