//! `/people`: accounts, of those who use the gateway and of those who look after it.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::routing::{get, post};

use super::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent};
use super::fields::{self, Choice, Paths};
use super::{Person, Route, asks, does, shows};
use crate::http::api::users::{self, SessionView, UserChange, UserQuery, UserView};
use crate::http::oauth::pages::Site;

mod forms;

const HERE: &str = "/people";

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(list)),
    asks("/people/new", || get(forms::ask_new)).fresh(),
    does("/people/new", || post(forms::create)).fresh(),
    shows("/people/{id}", || get(show)),
    asks("/people/{id}/change", || get(forms::ask_change)).fresh(),
    does("/people/{id}/change", || post(forms::change)).fresh(),
    asks("/people/{id}/password", || get(forms::ask_password)).fresh(),
    does("/people/{id}/password", || post(forms::set_password)).fresh(),
    asks("/people/{id}/password/remove", || get(ask_remove_password)).fresh(),
    does("/people/{id}/password/remove", || post(remove_password)).fresh(),
    asks("/people/{id}/suspend", || get(ask_suspend)).fresh(),
    does("/people/{id}/suspend", || post(suspend)).fresh(),
    does("/people/{id}/activate", || post(activate)).fresh(),
    asks("/people/{id}/sign-out", || get(ask_sign_out)),
    does("/people/{id}/sign-out", || post(sign_out)),
    asks("/people/{id}/remove", || get(ask_remove)).fresh(),
    does("/people/{id}/remove", || post(remove)).fresh(),
];

const ROLES: [(&str, &str); 5] =
    [("", "Any"), ("user", "User"), ("viewer", "Viewer"), ("operator", "Operator"), ("owner", "Owner")];
const STATUSES: [(&str, &str); 5] = [
    ("", "All but deleted"),
    ("invited", "Invited"),
    ("active", "Active"),
    ("suspended", "Suspended"),
    ("deleted", "Deleted"),
];

#[derive(Template)]
#[template(path = "console/people.html")]
struct PeoplePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    /// Part of a name that is looked for.
    wanted: &'a str,
    roles: Vec<Choice>,
    statuses: Vec<Choice>,
    users: Vec<UserView>,
    older: Option<String>,
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let query = UserQuery {
        cursor: asked.take("cursor"),
        role: asked.take("role"),
        status: asked.take("status"),
        q: asked.take("q"),
        ..UserQuery::default()
    };
    let (users, next) = users::page(&desk.api, query).await?;
    Ok(desk.page(PeoplePage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        wanted: asked.get("q").unwrap_or_default(),
        roles: fields::choices(&ROLES, asked.get("role")),
        statuses: fields::choices(&STATUSES, asked.get("status")),
        users,
        older: next.map(|next| asked.with(HERE, "cursor", &next)),
    }))
}

#[derive(Template)]
#[template(path = "console/person.html")]
struct PersonPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    user: UserView,
    sessions: Vec<SessionView>,
    /// Whether who looks may change the account as it is now.
    may_touch: bool,
    paths: Paths,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let user = users::account(&desk.api, &id).await?;
    let sessions = users::browsers(&desk.api, &id).await?;
    let operator = person.operator();
    let may_touch = |role| users::may_touch(&operator, role);
    let may_touch = user.status != "deleted" && users::read_role(user.role).is_ok_and(may_touch);
    let (head, paths) = (desk.head(&person, HERE), Paths::of(HERE, &user.id));
    Ok(desk.page(PersonPage { site: desk.site(), may_touch, head, user, sessions, paths }))
}

/// Changes an account that is as somebody saw it, and shows it.
async fn changed((desk, person): (&Desk, &Person), id: &str, seen: u64, change: UserChange, done: Done) -> Answer {
    let user = users::edit(&desk.api, &person.operator(), id, Some(vec![seen]), change).await?;
    Ok(desk.done(person, Paths::of(HERE, &user.id).own(), done))
}

async fn ask_suspend(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let user = users::account_to_touch(&desk.api, &person.operator(), &id).await?;
    let paths = Paths::of(HERE, &user.id);
    let confirm = Confirm {
        title: "Suspend the account",
        what: &format!(
            "{} is signed out everywhere at once, what was granted in their name is revoked, and nothing is used in it until the \
             account is active again. Clients have to ask again then.",
            user.called()
        ),
        button: "Suspend it",
        path: &paths.to("suspend"),
        back: paths.own(),
        hidden: &[("revision", &user.revision.to_string())],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

async fn suspend(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let change = UserChange { status: Some(Some("suspended".to_owned())), ..UserChange::default() };
    changed((&desk, &person), &id, fields::seen(&mut fields)?, change, Done::Suspended).await
}

async fn activate(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let change = UserChange { status: Some(Some("active".to_owned())), ..UserChange::default() };
    changed((&desk, &person), &id, fields::seen(&mut fields)?, change, Done::Activated).await
}

async fn ask_remove_password(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let user = users::account_to_touch(&desk.api, &person.operator(), &id).await?;
    let paths = Paths::of(HERE, &user.id);
    let confirm = Confirm {
        title: "Take the password away",
        what: &format!(
            "{} signs in with a password no more, and is signed out everywhere. An identity provider that knows them lets them \
             in still.",
            user.called()
        ),
        button: "Take it away",
        path: &paths.to("password/remove"),
        back: paths.own(),
        hidden: &[("revision", &user.revision.to_string())],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

async fn remove_password(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let change = UserChange { password: Some(None), ..UserChange::default() };
    changed((&desk, &person), &id, fields::seen(&mut fields)?, change, Done::Changed).await
}

async fn ask_sign_out(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let user = users::account_to_touch(&desk.api, &person.operator(), &id).await?;
    let sessions = users::browsers(&desk.api, &id).await?.len();
    let paths = Paths::of(HERE, &user.id);
    let confirm = Confirm {
        title: "Sign out everywhere",
        what: &format!(
            "{} is signed in now in this many browsers: {sessions}. All of them are signed out. What clients were granted goes \
             on.",
            user.called()
        ),
        button: "Sign out everywhere",
        path: &paths.to("sign-out"),
        back: paths.own(),
        hidden: &[],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

async fn sign_out(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    users::sign_out(&desk.api, &person.operator(), &id).await?;
    Ok(desk.done(&person, Paths::of(HERE, &id).own(), Done::SignedOut))
}

async fn ask_remove(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let user = users::account_to_touch(&desk.api, &person.operator(), &id).await?;
    let paths = Paths::of(HERE, &user.id);
    let confirm = Confirm {
        title: "Delete the account",
        what: &format!(
            "The account of {} is deleted, with what was granted and connected in its name, and its API tokens. This cannot be \
             taken back; the trails keep the name.",
            user.called()
        ),
        button: "Delete it",
        path: &paths.to("remove"),
        back: paths.own(),
        hidden: &[("revision", &user.revision.to_string())],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

async fn remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let seen = fields::seen(&mut fields)?;
    users::delete_account(&desk.api, &person.operator(), &id, Some(vec![seen])).await?;
    Ok(desk.done(&person, HERE, Done::Removed))
}
