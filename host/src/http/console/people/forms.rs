//! Forms about an account: a new one, what is told of it, and its password.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;

use super::HERE;
use crate::authorization::passwords::{MAX_BYTES, MIN_CHARS};
use crate::http::api::Problem;
use crate::http::api::users::{self, UserChange, UserRequest, UserView};
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Desk, Done, Head, Sent, Stop};
use crate::http::console::fields::{Choice, Paths, can_be_mended, choices, given, seen, words};
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::{Site, page_of_console};
use crate::identity::user::{DisplayName, Email, Login, Role};

const ROLES: [(&str, &str); 4] = [
    ("user", "User: uses upstreams"),
    ("viewer", "Viewer: sees everything here"),
    ("operator", "Operator: changes what is here"),
    ("owner", "Owner: makes and unmakes operators"),
];

/// What somebody has typed, but for a password.
#[derive(Default)]
struct Typed {
    login: String,
    name: String,
    email: String,
    role: String,
    groups: String,
}

impl Typed {
    fn read(fields: &mut Fields) -> Self {
        Self {
            login: fields.take("login"),
            name: fields.take("name"),
            email: fields.take("email"),
            role: fields.take("role"),
            groups: fields.take("groups"),
        }
    }

    fn of(user: &UserView) -> Self {
        Self {
            login: user.login.clone().unwrap_or_default(),
            name: user.name.clone(),
            email: user.email.clone().unwrap_or_default(),
            role: user.role.to_owned(),
            groups: user.groups.join(" "),
        }
    }
}

#[derive(Template)]
#[template(path = "console/person_form.html")]
struct PersonForm<'a> {
    site: &'a Site,
    head: Head<'a>,
    problem: Option<&'a str>,
    title: &'a str,
    path: &'a str,
    back: &'a str,
    typed: &'a Typed,
    roles: Vec<Choice>,
    /// Of the account that is changed; a new one has none.
    revision: Option<u64>,
    limits: Limits,
}

/// How long what is typed may be.
struct Limits {
    login: usize,
    name: usize,
    email: usize,
    min_password: usize,
    max_password: usize,
}

const LIMITS: Limits = Limits {
    login: Login::MAX_LEN,
    name: DisplayName::MAX_LEN,
    email: Email::MAX_LEN,
    min_password: MIN_CHARS,
    max_password: MAX_BYTES,
};

/// The roles that this person may give, besides the one that is there.
fn roles(person: &Person, chosen: &str) -> Vec<Choice> {
    let operator = person.operator();
    let may_give =
        |role: &str| role == chosen || Role::parse(role).is_some_and(|role| users::may_touch(&operator, role));
    choices(&ROLES, Some(chosen)).into_iter().filter(|choice| may_give(choice.value)).collect()
}

fn new_form(desk: &Desk, person: &Person, typed: &Typed, refused: Option<&Problem>) -> Response {
    let template = PersonForm {
        site: desk.site(),
        head: desk.head(person, HERE),
        problem: refused.map(|problem| problem.detail.as_str()),
        title: "Add somebody",
        path: "/people/new",
        back: HERE,
        typed,
        roles: roles(person, if typed.role.is_empty() { "user" } else { &typed.role }),
        revision: None,
        limits: LIMITS,
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), template)
}

pub(super) async fn ask_new(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    new_form(&desk, &person, &Typed::default(), None)
}

pub(super) async fn create(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let typed = Typed::read(&mut fields);
    let new = UserRequest {
        login: given(&typed.login),
        name: given(&typed.name),
        email: given(&typed.email),
        role: given(&typed.role),
        groups: words(&typed.groups),
        password: Some(fields.take("password")).filter(|password| !password.is_empty()),
        status: None,
    };
    match users::make(&desk.api, &person.operator(), new).await {
        Ok(user) => Ok(desk.done(&person, Paths::of(HERE, &user.id).own(), Done::Added)),
        Err(problem) if can_be_mended(&problem) => Ok(new_form(&desk, &person, &typed, Some(&problem))),
        Err(problem) => Err(Stop::Problem(problem)),
    }
}

fn change_form(
    (desk, person): (&Desk, &Person),
    paths: &Paths,
    revision: u64,
    typed: &Typed,
    refused: Option<&Problem>,
) -> Response {
    let template = PersonForm {
        site: desk.site(),
        head: desk.head(person, HERE),
        problem: refused.map(|problem| problem.detail.as_str()),
        title: "Change an account",
        path: &paths.to("change"),
        back: paths.own(),
        typed,
        roles: roles(person, &typed.role),
        revision: Some(revision),
        limits: LIMITS,
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), template)
}

pub(super) async fn ask_change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let user = users::account_to_touch(&desk.api, &person.operator(), &id).await?;
    let paths = Paths::of(HERE, &user.id);
    Ok(change_form((&desk, &person), &paths, user.revision, &Typed::of(&user), None))
}

pub(super) async fn change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let (seen, typed, paths) = (seen(&mut fields)?, Typed::read(&mut fields), Paths::of(HERE, &id));
    let change = UserChange {
        name: Some(given(&typed.name)),
        login: Some(given(&typed.login)),
        email: Some(given(&typed.email)),
        role: Some(given(&typed.role)),
        groups: Some(Some(words(&typed.groups))),
        ..UserChange::default()
    };
    match users::edit(&desk.api, &person.operator(), &id, Some(vec![seen]), change).await {
        Ok(_) => Ok(desk.done(&person, paths.own(), Done::Changed)),
        Err(problem) if can_be_mended(&problem) => {
            Ok(change_form((&desk, &person), &paths, seen, &typed, Some(&problem)))
        }
        Err(problem) => Err(Stop::Problem(problem)),
    }
}

#[derive(Template)]
#[template(path = "console/person_password.html")]
struct PasswordForm<'a> {
    site: &'a Site,
    head: Head<'a>,
    problem: Option<&'a str>,
    user: &'a UserView,
    paths: Paths,
    /// Of the account as it was seen.
    revision: u64,
    limits: Limits,
}

fn password_form(
    (desk, person): (&Desk, &Person),
    user: &UserView,
    revision: u64,
    refused: Option<&Problem>,
) -> Response {
    let template = PasswordForm {
        site: desk.site(),
        head: desk.head(person, HERE),
        problem: refused.map(|problem| problem.detail.as_str()),
        user,
        paths: Paths::of(HERE, &user.id),
        revision,
        limits: LIMITS,
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), template)
}

pub(super) async fn ask_password(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let user = users::account_to_touch(&desk.api, &person.operator(), &id).await?;
    Ok(password_form((&desk, &person), &user, user.revision, None))
}

pub(super) async fn set_password(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let seen = seen(&mut fields)?;
    let change = UserChange { password: Some(Some(fields.take("password"))), ..UserChange::default() };
    match users::edit(&desk.api, &person.operator(), &id, Some(vec![seen]), change).await {
        Ok(user) => Ok(desk.done(&person, Paths::of(HERE, &user.id).own(), Done::PasswordSet)),
        Err(problem) if can_be_mended(&problem) => {
            let user = users::account_to_touch(&desk.api, &person.operator(), &id).await?;
            Ok(password_form((&desk, &person), &user, seen, Some(&problem)))
        }
        Err(problem) => Err(Stop::Problem(problem)),
    }
}
