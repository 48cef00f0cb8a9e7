//! `/upstreams`: how upstreams fare, one of them with its definition, and what can be done with it as it is.
//!
//! Declaring and changing are in [`declaring`], the tools and what was agreed to of them in [`tools`], and what other clients
//! have in [`importing`].

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde_json::Value;

use super::desk::{Answer, Confirm, Desk, Done, Head, Sent};
use super::{Person, Route, asks, does, shows, text};
use crate::admin::upstreams::{Care, Change, UpstreamView};
use crate::http::api::connections::{LinkView, link_for_gateway};
use crate::http::api::upstreams::{self as api, TransportView, TrialView, UpstreamRow};
use crate::http::api::{Access, Problem};
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::{Site, moment, page_of_console};
use crate::ids::{Principal, UpstreamName};

mod declaring;
mod diff;
mod fields;
pub(super) mod importing;
mod kept;
mod tools;

/// The part of the console that these pages belong to.
const PART: &str = "/upstreams";

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(PART, || get(list)),
    asks("/upstreams/new", || get(declaring::ask)).fresh(),
    does("/upstreams/new", || post(declaring::declare)).fresh(),
    asks("/upstreams/import", || get(importing::ask)).fresh(),
    does("/upstreams/import", || post(importing::look)).fresh(),
    does("/upstreams/import/add", || post(importing::add)).fresh(),
    asks("/upstreams/forget", || get(tools::ask_to_forget)),
    does("/upstreams/forget", || post(tools::forget)),
    shows("/upstreams/{name}", || get(show)),
    asks("/upstreams/{name}/edit", || get(declaring::ask_to_change)).fresh(),
    does("/upstreams/{name}/edit", || post(declaring::change)).fresh(),
    does("/upstreams/{name}/enable", || post(enable)).fresh(),
    asks("/upstreams/{name}/disable", || get(ask_to_disable)).fresh(),
    does("/upstreams/{name}/disable", || post(disable)).fresh(),
    does("/upstreams/{name}/try", || post(try_it)),
    does("/upstreams/{name}/refresh", || post(refresh)),
    does("/upstreams/{name}/connect", || post(connect)).fresh(),
    asks("/upstreams/{name}/remove", || get(ask_to_remove)).fresh(),
    does("/upstreams/{name}/remove", || post(remove)).fresh(),
    shows("/upstreams/{name}/tools", || get(tools::show)),
    asks("/upstreams/{name}/tools/accept", || get(tools::ask_to_accept)),
    does("/upstreams/{name}/tools/accept", || post(tools::accept_all)),
    does("/upstreams/{name}/tools/{id}/accept", || post(tools::accept)),
];

/// The page of an upstream.
fn page_of(name: &UpstreamName) -> String {
    super::fields::page(PART, name.as_str())
}

/// An upstream on a page.
struct Row {
    view: UpstreamRow,
    /// The path of its page.
    page: String,
}

impl Row {
    fn new(view: UpstreamRow) -> Self {
        Self { page: page_of(&view.name), view }
    }

    /// The path of something that is done to it.
    fn to(&self, verb: &str) -> String {
        format!("{}/{verb}", self.page)
    }

    fn transport(&self) -> &'static str {
        match &self.view.running.transport {
            Some(TransportView::Http { .. }) => "HTTP",
            Some(TransportView::Stdio { .. }) => "program",
            None => "",
        }
    }

    /// Where it is, or what is started.
    fn place(&self) -> Option<&str> {
        match self.view.running.transport.as_ref()? {
            TransportView::Http { origin } => Some(origin),
            TransportView::Stdio { program } => program.as_deref(),
        }
    }

    /// What its state looks like.
    fn look(&self) -> &'static str {
        match self.view.running.state {
            "up" => "good",
            "down" | "broken" => "error",
            "starting" => "warning",
            _ => "",
        }
    }

    /// What is wrong with it now, as far as it can be shown.
    fn trouble(&self) -> Option<String> {
        self.view.running.reason.as_deref().or(self.view.mistake.as_deref()).map(text::lines)
    }

    /// What keeps its definition from coming into force, where that is not why it does not run.
    fn mistake(&self) -> Option<String> {
        let mistake =
            self.view.mistake.as_deref().filter(|mistake| self.view.running.reason.as_deref() != Some(*mistake));
        mistake.filter(|_| self.view.running.reason.is_some()).map(text::lines)
    }

    fn revision(&self) -> u64 {
        self.view.definition_revision.unwrap_or_default()
    }
}

/// A moment of the API as people read it.
fn minute(at: &str) -> String {
    match (at.get(..10), at.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => at.to_owned(),
    }
}

#[derive(Template)]
#[template(path = "console/upstreams/list.html")]
struct ListPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    rows: Vec<Row>,
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    let rows = api::all(&desk.api).into_iter().map(Row::new).collect();
    desk.page(ListPage { site: desk.site(), head: desk.head(&person, PART), rows })
}

/// What came of a trial, for a page.
struct Trial(TrialView);

impl Trial {
    fn is_good(&self) -> bool {
        self.0.outcome != "failed"
    }

    fn title(&self) -> String {
        match (self.0.outcome, self.0.stage) {
            ("works", _) => {
                let (tools, revision) = (self.0.tools.unwrap_or_default(), self.0.revision.as_deref());
                let noun = if tools == 1 { "tool" } else { "tools" };
                format!("It works: it offers {tools} {noun} and speaks revision {} of MCP.", revision.unwrap_or("?"))
            }
            ("wants_credential", _) => {
                "It is there, and answers those alone who show a credential of their own.".to_owned()
            }
            (_, Some("settings")) => "The definition has mistakes.".to_owned(),
            (_, Some("reach")) => "It cannot be reached, or started.".to_owned(),
            (_, Some("speak")) => "It does not speak MCP.".to_owned(),
            (_, Some("list")) => "It does not list what it offers.".to_owned(),
            (_, _) => "It does not work.".to_owned(),
        }
    }

    /// Why, where no setting is to blame.
    fn reason(&self) -> Option<String> {
        let reason = self.0.reason.as_deref().filter(|_| self.0.mistakes.is_none());
        reason.map(text::lines)
    }

    /// Settings that are wrong: their names, what is wrong, and what to do.
    fn mistakes(&self) -> Vec<(&str, String, Option<String>)> {
        let mistakes = self.0.mistakes.iter().flatten();
        let told = |hint: &String| text::line(hint);
        mistakes
            .map(|mistake| {
                let field = mistake.field.as_deref().unwrap_or("all of it");
                (field, text::line(&mistake.message), mistake.hint.as_ref().map(told))
            })
            .collect()
    }
}

#[derive(Template)]
#[template(path = "console/upstreams/show.html")]
struct ShowPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    row: Row,
    /// As JSON; of one that the file has, there is none to be shown.
    definition: Option<String>,
    /// Whether this person may say what it says.
    may_change: bool,
    declared: Option<Declared>,
    failure: Option<(String, String, String)>,
    /// Whether the gateway itself can be connected to it.
    connects: bool,
    trial: Option<Trial>,
}

/// When an upstream of the store was declared, and by whom it was changed.
struct Declared {
    created: String,
    changed: String,
    changed_by: String,
}

impl Desk {
    /// The page of an upstream, with what came of a trial.
    fn upstream(
        &self,
        person: &Person,
        upstream: &UpstreamView,
        (status, trial): (StatusCode, Option<TrialView>),
    ) -> Response {
        let row = Row::new(api::view(upstream, self.api.control.env.now()));
        let declared = upstream.declared.as_ref().map(|declared| Declared {
            created: moment(declared.created),
            changed: moment(declared.changed),
            changed_by: declared.changed_by.to_string(),
        });
        let definition = upstream.definition();
        let needed = definition.as_ref().map_or(Access::Operator, api::to_say);
        let failure = row.view.running.last_failure.as_ref();
        let failure = failure.map(|last| (last.at.clone(), minute(&last.at), text::lines(&last.reason)));
        let snapshot = self.api.control.snapshot.load();
        let running = snapshot.upstreams.get(&upstream.name);
        let page = ShowPage {
            site: self.site(),
            head: self.head(person, PART),
            may_change: definition.is_some() && person.operator().needs(needed).is_ok(),
            definition: definition.map(|definition| text::pretty(&Value::Object(definition))),
            declared,
            failure,
            connects: running.is_some_and(|running| running.wanted(&Principal::Gateway).is_some()),
            trial: trial.map(Trial),
            row,
        };
        page_of_console(status, page)
    }
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(name): Path<String>) -> Answer {
    let upstream = api::find(&desk.api, &name)?;
    Ok(desk.upstream(&person, &upstream, (StatusCode::OK, None)))
}

/// The revision that somebody has seen.
fn seen(fields: &mut Fields) -> Result<u64, Problem> {
    fields.take("revision").parse().map_err(|_| Problem::invalid("the form does not say which revision it is about"))
}

/// Whether it is to be saved without a trial.
fn care(fields: &mut Fields) -> Care {
    if fields.take("unchecked").is_empty() { Care::Tried } else { Care::Unchecked }
}

async fn enable(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(fields): Sent,
) -> Answer {
    switch(&desk, &person, &name, (true, fields)).await
}

async fn ask_to_disable(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?;
    let Some(declared) = &upstream.declared else { return Err(of_file().into()) };
    let (page, revision) = (page_of(&upstream.name), declared.revision.to_string());
    let confirm = Confirm {
        title: &format!("Take {} out of use?", upstream.name),
        what: "Its tools are gone at once for everybody. Its definition stays, and what people have connected for it is kept for \
               as long as the setting store.orphan_retention says.",
        button: "Take it out of use",
        path: &format!("{page}/disable"),
        back: &page,
        hidden: &[("revision", &revision)],
    };
    Ok(desk.confirm(&person, PART, confirm))
}

async fn disable(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(fields): Sent,
) -> Answer {
    switch(&desk, &person, &name, (false, fields)).await
}

async fn switch(desk: &Desk, person: &Person, name: &str, (enabled, mut fields): (bool, Fields)) -> Answer {
    let upstream = api::find(&desk.api, name)?;
    let (revision, care) = (seen(&mut fields)?, care(&mut fields));
    let change = Change { definition: None, enabled: Some(enabled) };
    let who = (person.user.role, person.actor());
    match desk.api.control.change_upstream(&upstream.name, Some(vec![revision]), change, care, who).await {
        Ok(upstream) => {
            let done = if enabled { Done::Enabled } else { Done::Disabled };
            Ok(desk.done(person, &page_of(&upstream.name), done))
        }
        Err(error) => {
            let told = (StatusCode::UNPROCESSABLE_ENTITY, Some(api::not_saved(error)?));
            Ok(desk.upstream(person, &upstream, told))
        }
    }
}

async fn try_it(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(_): Sent,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?;
    let trial = api::tried(desk.api.control.try_upstream(&upstream.name).await)?;
    Ok(desk.upstream(&person, &upstream, (StatusCode::OK, Some(trial))))
}

async fn refresh(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(_): Sent,
) -> Answer {
    api::read_again(&desk.api, &name)?;
    Ok(desk.done(&person, &page_of(&api::read_name(&name)?), Done::Refreshed))
}

#[derive(Template)]
#[template(path = "console/upstreams/link.html")]
struct LinkPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    name: UpstreamName,
    back: String,
    link: LinkView,
    until: String,
}

/// A link is told once, on the page that answers the form: whoever has it connects for the gateway.
async fn connect(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?.name;
    let scope = Some(fields.take("scope")).filter(|scope| !scope.trim().is_empty());
    let link = link_for_gateway(&desk.api, &name, scope, person.actor()).await?;
    let back = page_of(&upstream);
    let (head, until) = (desk.head(&person, PART), minute(&link.expires));
    Ok(desk.page(LinkPage { site: desk.site(), head, name: upstream, back, link, until }))
}

async fn ask_to_remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?;
    let Some(declared) = &upstream.declared else { return Err(of_file().into()) };
    let (page, revision) = (page_of(&upstream.name), declared.revision.to_string());
    Ok(desk.confirm(
        &person,
        PART,
        Confirm {
            title: &format!("Remove {}?", upstream.name),
            what: "Its tools are gone at once, and so is everything that people have connected for it: their tokens are \
                   revoked where they came from. What was agreed to of its tools stays, until you forget it.",
            button: "Remove it",
            path: &format!("{page}/remove"),
            back: &page,
            hidden: &[("revision", &revision)],
        },
    ))
}

async fn remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let name = api::read_name(&name)?;
    let revision = seen(&mut fields)?;
    desk.api.control.remove_upstream(&name, Some(vec![revision]), person.actor()).await?;
    Ok(desk.done(&person, PART, Done::Removed))
}

/// What is said of an upstream that only the file changes.
fn of_file() -> Problem {
    crate::admin::upstreams::UpstreamError::ManagedByFile.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_upstream_has_a_page() {
        let page = |name: &str| page_of(&UpstreamName::parse(name).unwrap());
        assert_eq!(page("notes"), "/upstreams/notes");
        assert_eq!(page("new"), "/upstreams/%6Eew");
    }
}
