//! `/grants`: what people have let clients do, and how much of that is revoked at once.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::routing::{get, post};

use super::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent};
use super::fields::{self, Choice, Listed, Paths, segment};
use super::{Person, Route, asks, does, shows};
use crate::http::api::Problem;
use crate::http::api::grants::{self, GrantQuery, GrantView};
use crate::http::oauth::pages::{Site, page_of_console};
use crate::ids::ClientId;
use crate::store::revocations::Whose;
use crate::store::table::MAX_PAGE;

const HERE: &str = "/grants";
const ALL: &str = "/grants/revoke/all";

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(list)),
    asks("/grants/{id}/revoke", || get(ask_one)),
    does("/grants/{id}/revoke", || post(revoke_one)),
    asks(ALL, || get(ask_all)).fresh(),
    does(ALL, || post(revoke_all)).fresh(),
    asks("/grants/revoke/client/{id}", || get(ask_client)).fresh(),
    does("/grants/revoke/client/{id}", || post(revoke_client)).fresh(),
    asks("/grants/revoke/principal/{id}", || get(ask_principal)).fresh(),
    does("/grants/revoke/principal/{id}", || post(revoke_principal)).fresh(),
    asks("/grants/revoke/kind/{name}", || get(ask_kind)).fresh(),
    does("/grants/revoke/kind/{name}", || post(revoke_kind)).fresh(),
];

/// What is shown where nothing is said: those that count.
const ACTIVE: &str = "active";
const STATES: [(&str, &str); 4] =
    [(ACTIVE, "Those that count"), ("revoked", "Revoked"), ("expired", "Expired"), ("all", "All")];
const KINDS: [(&str, &str); 4] = [("", "Any"), ("user", "User"), ("key", "Virtual key"), ("guest", "Guest")];

/// A grant, and where the pages of who is in it are.
struct Row {
    grant: GrantView,
    /// None is there of a client whose id is the address of its description.
    client: Option<Paths>,
    principal: Option<String>,
}

impl Row {
    fn of(grant: GrantView) -> Self {
        let principal = match grant.principal.split_once(':') {
            Some(("user", id)) => Some(Paths::of("/people", id).0),
            Some(("key", name)) => Some(Paths::of("/keys", name).0),
            _ => None,
        };
        let client = ClientId::parse(&grant.client).filter(|id| !id.is_address());
        Self { client: client.map(|id| Paths::of("/clients", id.as_str())), principal, grant }
    }

    /// What the client is called, or its id.
    fn client_name(&self) -> &str {
        self.grant.client_name.as_deref().unwrap_or(&self.grant.client)
    }

    fn principal_name(&self) -> &str {
        let name = self.grant.principal_name.as_deref().filter(|name| !name.is_empty());
        name.unwrap_or(&self.grant.principal)
    }
}

/// What revokes all of what is shown, where the verb knows that.
struct AllOfThese {
    path: String,
    text: &'static str,
}

#[derive(Template)]
#[template(path = "console/grants.html")]
struct GrantsPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    client: &'a str,
    principal: &'a str,
    kinds: Vec<Choice>,
    states: Vec<Choice>,
    rows: Vec<Row>,
    older: Option<String>,
    all: Option<AllOfThese>,
    /// Why the filter leaves nothing.
    problem: Option<String>,
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let state = asked.get("state").unwrap_or(ACTIVE);
    let query = GrantQuery {
        cursor: asked.take("cursor"),
        client: asked.take("client"),
        principal: asked.take("principal"),
        kind: asked.take("kind"),
        state: Some(state.to_owned()).filter(|state| state != "all"),
        limit: None,
    };
    let listed = Listed::of(grants::page(&desk.api, query).await)?;
    Ok(page_of_console(
        listed.status(),
        GrantsPage {
            site: desk.site(),
            head: desk.head(&person, HERE),
            client: asked.get("client").unwrap_or_default(),
            principal: asked.get("principal").unwrap_or_default(),
            kinds: fields::choices(&KINDS, asked.get("kind")),
            states: fields::choices(&STATES, Some(state)),
            rows: listed.rows.into_iter().map(Row::of).collect(),
            older: listed.next.map(|next| asked.with(HERE, "cursor", &next)),
            all: if listed.problem.is_some() { None } else { all_of(&asked) },
            problem: listed.problem,
        },
    ))
}

/// What the button revokes that stands over the list: what one of the filters alone keeps, or all there is where none does.
fn all_of(asked: &Asked) -> Option<AllOfThese> {
    let (path, text) = match (asked.get("client"), asked.get("principal"), asked.get("kind")) {
        (Some(client), None, None) => {
            (format!("/grants/revoke/client/{}", segment(client)), "Revoke all of this client")
        }
        (None, Some(principal), None) => {
            (format!("/grants/revoke/principal/{}", segment(principal)), "Revoke all of this principal")
        }
        (None, None, Some(kind)) => (format!("/grants/revoke/kind/{}", segment(kind)), "Revoke all of this kind"),
        (None, None, None) => (ALL.to_owned(), "Revoke everything"),
        _ => return None,
    };
    Some(AllOfThese { path, text })
}

async fn ask_one(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let row = Row::of(grants::one(&desk.api, &id).await?);
    let confirm = Confirm {
        title: "Revoke a grant",
        what: &format!(
            "What {} let {} do counts no more: its refresh tokens, and its access tokens as soon as the gateways have heard of \
             it. The client has to ask again.",
            row.principal_name(),
            row.client_name()
        ),
        button: "Revoke it",
        path: &Paths::of(HERE, &id).to("revoke"),
        back: HERE,
        hidden: &[],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

async fn revoke_one(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    grants::revoke_one(&desk.api, &id, &person.operator()).await?;
    Ok(desk.done(&person, HERE, Done::Revoked))
}

/// How many of these count now, as far as one look tells.
async fn how_many(desk: &Desk, query: GrantQuery) -> Result<String, Problem> {
    let query = GrantQuery { limit: Some(MAX_PAGE), state: Some(ACTIVE.to_owned()), ..query };
    let (grants, next) = grants::page(&desk.api, query).await?;
    Ok(match (grants.len(), next) {
        (0, None) => "There is nothing of it now that counts.".to_owned(),
        (1, None) => "That is one grant now.".to_owned(),
        (count, None) => format!("That is {count} grants now."),
        (count, Some(_)) => format!("That is at least {count} grants now, and more were not counted."),
    })
}

/// Asks before much is revoked.
async fn ask_many((desk, person): (&Desk, &Person), path: &str, of_what: &str, query: GrantQuery) -> Answer {
    let many = how_many(desk, query).await?;
    let confirm = Confirm {
        title: "Revoke what was granted",
        what: &format!(
            "Everything that was granted until now {of_what} counts no more, whoever uses it. {many} What is granted afterwards \
             counts. This cannot be taken back."
        ),
        button: "Revoke it",
        path,
        back: HERE,
        hidden: &[],
    };
    Ok(desk.confirm(person, HERE, confirm))
}

async fn revoke_many((desk, person): (&Desk, &Person), whose: Whose) -> Answer {
    grants::revoke_all(&desk.api, &person.operator(), whose).await?;
    Ok(desk.done(person, HERE, Done::Revoked))
}

async fn ask_all(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    ask_many((&desk, &person), ALL, "to anybody", GrantQuery::default()).await
}

async fn revoke_all(State(desk): State<Desk>, Extension(person): Extension<Person>, Sent(_): Sent) -> Answer {
    revoke_many((&desk, &person), Whose::Everybody).await
}

async fn ask_client(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let query = GrantQuery { client: Some(id.clone()), ..GrantQuery::default() };
    let path = format!("/grants/revoke/client/{}", segment(&id));
    ask_many((&desk, &person), &path, &format!("to the client {id}"), query).await
}

async fn revoke_client(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    revoke_many((&desk, &person), Whose::Client(grants::read_client(&id)?)).await
}

async fn ask_principal(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    // What cannot be one is not there, at an address.
    grants::read_principal(&id).map_err(|_| Problem::not_found("principal"))?;
    let query = GrantQuery { principal: Some(id.clone()), ..GrantQuery::default() };
    let path = format!("/grants/revoke/principal/{}", segment(&id));
    ask_many((&desk, &person), &path, &format!("in the name of {id}"), query).await
}

async fn revoke_principal(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    revoke_many((&desk, &person), Whose::Principal(grants::read_principal(&id)?)).await
}

async fn ask_kind(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(name): Path<String>) -> Answer {
    let kind = grants::read_kind(&name).map_err(|_| Problem::not_found("kind of principal"))?;
    let query = GrantQuery { kind: Some(name.clone()), ..GrantQuery::default() };
    let path = format!("/grants/revoke/kind/{}", kind.as_str());
    ask_many((&desk, &person), &path, &format!("in the name of any {name}"), query).await
}

async fn revoke_kind(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(_): Sent,
) -> Answer {
    revoke_many((&desk, &person), Whose::Kind(grants::read_kind(&name)?)).await
}
