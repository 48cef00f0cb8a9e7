//! API tokens: one's own, and for owners everybody's. A secret is told on the page that comes of making it, nowhere else.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;

use super::HERE;
use crate::http::api::Problem;
use crate::http::api::api_tokens::{self, TokenQuery, TokenRequest, TokenView};
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent, Stop};
use crate::http::console::fields::{Choice, Paths, can_be_mended, choices, given};
use crate::http::console::known::Known;
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::{Site, page_of_console};
use crate::identity::user::{DisplayName, Role};

/// The list of everybody's.
const TOKENS: &str = "/me/tokens";

const CEILINGS: [(&str, &str); 3] =
    [("viewer", "Viewer: sees everything"), ("operator", "Operator: changes things"), ("owner", "Owner: all there is")];

#[derive(Template)]
#[template(path = "console/tokens.html")]
struct TokensPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    /// Whose are shown, if only somebody's.
    user: &'a str,
    tokens: Vec<TokenView>,
    known: Known,
    older: Option<String>,
}

pub(super) async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let query = TokenQuery { cursor: asked.take("cursor"), user: asked.take("user"), ..TokenQuery::default() };
    let (tokens, next) = api_tokens::page(&desk.api, &person.operator(), query).await?;
    let user = asked.get("user").unwrap_or_default();
    let holders: Vec<&str> = tokens.iter().map(|token| token.user.as_str()).chain([user]).collect();
    let known = desk.known_accounts(&holders).await?;
    Ok(desk.page(TokensPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        user,
        tokens,
        known,
        older: next.map(|next| asked.with(TOKENS, "cursor", &next)),
    }))
}

/// A scope that can be chosen.
struct Scope {
    name: &'static str,
    is_chosen: bool,
}

/// What somebody has typed.
#[derive(Default)]
struct Typed {
    name: String,
    role: String,
    scopes: Vec<&'static str>,
    expires: String,
}

impl Typed {
    fn read(fields: &mut Fields) -> Self {
        let is_chosen = |scope: &&'static str| !fields.take(&format!("scope-{scope}")).is_empty();
        let scopes = api_tokens::scopes().filter(is_chosen).collect();
        Self { name: fields.take("name"), role: fields.take("role"), scopes, expires: fields.take("expires") }
    }

    /// Browsers send a moment to the minute or to the second, and without a zone: it is UTC, as the page says.
    fn expires(&self) -> Option<String> {
        let expires = given(&self.expires)?;
        Some(match expires.len() {
            16 => format!("{expires}:00Z"),
            19 => format!("{expires}Z"),
            _ => expires,
        })
    }
}

#[derive(Template)]
#[template(path = "console/token_form.html")]
struct TokenForm<'a> {
    site: &'a Site,
    head: Head<'a>,
    problem: Option<&'a str>,
    typed: &'a Typed,
    roles: Vec<Choice>,
    scopes: Vec<Scope>,
    max_name: usize,
}

fn form(desk: &Desk, person: &Person, typed: &Typed, refused: Option<&Problem>) -> Response {
    let may_give = |role: &str| Role::parse(role).is_some_and(|role| role <= person.user.role);
    let role = if typed.role.is_empty() { "viewer" } else { &typed.role };
    let template = TokenForm {
        site: desk.site(),
        head: desk.head(person, HERE),
        problem: refused.map(|problem| problem.detail.as_str()),
        typed,
        roles: choices(&CEILINGS, Some(role)).into_iter().filter(|choice| may_give(choice.value)).collect(),
        scopes: api_tokens::scopes().map(|name| Scope { name, is_chosen: typed.scopes.contains(&name) }).collect(),
        max_name: DisplayName::MAX_LEN,
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), template)
}

pub(super) async fn ask_new(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    form(&desk, &person, &Typed::default(), None)
}

#[derive(Template)]
#[template(path = "console/token_made.html")]
struct MadePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    token: TokenView,
    secret: &'a str,
}

pub(super) async fn create(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let typed = Typed::read(&mut fields);
    let new = TokenRequest {
        name: typed.name.clone(),
        role: given(&typed.role),
        scopes: typed.scopes.iter().map(ToString::to_string).collect(),
        expires: typed.expires(),
        user: None,
    };
    match api_tokens::make(&desk.api, &person.operator(), new).await {
        Ok((token, secret)) => {
            let (site, head) = (desk.site(), desk.head(&person, HERE));
            Ok(desk.page(MadePage { site, head, token, secret: secret.expose() }))
        }
        Err(problem) if can_be_mended(&problem) => Ok(form(&desk, &person, &typed, Some(&problem))),
        Err(problem) => Err(Stop::Problem(problem)),
    }
}

pub(super) async fn ask_revoke(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let token = api_tokens::one(&desk.api, &person.operator(), &id).await?;
    let confirm = Confirm {
        title: "Revoke an API token",
        what: &format!("The token {:?} opens nothing from then on. This cannot be taken back.", token.name),
        button: "Revoke it",
        path: &Paths::of(TOKENS, &token.id).to("revoke"),
        back: list_of(&person, &token),
        hidden: &[],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

pub(super) async fn revoke(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    let token = api_tokens::one(&desk.api, &person.operator(), &id).await?;
    api_tokens::revoke(&desk.api, &person.operator(), &id).await?;
    Ok(desk.done(&person, list_of(&person, &token), Done::Revoked))
}

/// The page that lists a token: one's own, or everybody's.
fn list_of(person: &Person, token: &TokenView) -> &'static str {
    if token.user == person.user.id.as_str() { HERE } else { TOKENS }
}
