//! `/keys`: virtual keys. They are made, changed, given another secret and deleted here ([`life`]); [`access`] shows
//! what they may use.
//!
//! A secret is on the page that answers the form with which it was made, and nowhere else.

use std::collections::BTreeSet;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;

use super::desk::{Answer, Asked, Desk, Done, Head, Sent};
use super::fields::can_be_mended;
use super::words::{self, Badge};
use super::{Person, Route, asks, does, fields, shows};
use crate::glob::Glob;
use crate::http::api::keys::{self, KeyView, KeyWithSecret};
use crate::http::api::{Paging, Problem};
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::{Site, page_of_console};
use crate::identity::user::Login;
use crate::ids::UpstreamName;
use crate::store::StoreError;

mod access;
mod form;
mod life;
mod lines;

use form::KeyForm;

const HERE: &str = "/keys";
const NEW: &str = "/keys/new";
/// Most lines of an allow-list of which it is told that they allow nothing.
const MOST_SLIPS: usize = 5;

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(list)),
    asks(NEW, || get(ask_new)).fresh(),
    does(NEW, || post(make)).fresh(),
    shows(access::PATH, || get(access::matrix)),
    shows("/keys/{name}", || get(show)),
    shows("/keys/{name}/access", || get(access::show)),
    asks("/keys/{name}/change", || get(ask_change)).fresh(),
    does("/keys/{name}/change", || post(change)).fresh(),
    does("/keys/{name}/enable", || post(life::enable)).fresh(),
    asks("/keys/{name}/disable", || get(life::ask_disable)).fresh(),
    does("/keys/{name}/disable", || post(life::disable)).fresh(),
    asks("/keys/{name}/rotate", || get(life::ask_rotate)).fresh(),
    does("/keys/{name}/rotate", || post(life::rotate)).fresh(),
    asks("/keys/{name}/end-earlier", || get(life::ask_end_earlier)).fresh(),
    does("/keys/{name}/end-earlier", || post(life::end_earlier)).fresh(),
    asks("/keys/{name}/remove", || get(life::ask_remove)).fresh(),
    does("/keys/{name}/remove", || post(life::remove)).fresh(),
];

/// The address of the page of a key.
fn address(name: &str) -> String {
    fields::page(HERE, name)
}

/// The address that does something to a key.
fn address_of(name: &str, verb: &str) -> String {
    format!("{HERE}/{name}/{verb}")
}

/// Whether a key opens anything at `now`, which is a moment of the API.
fn badge(key: &KeyView, now: &str) -> Badge {
    // Moments of the API are of one length, so that what is later is greater.
    match &key.expires {
        _ if key.disabled => Badge::error("Disabled"),
        Some(expires) if expires.as_str() <= now => Badge::error("Expired"),
        Some(_) | None => Badge::good("Good"),
    }
}

const fn managed(by: &str) -> &'static str {
    match by.as_bytes() {
        b"file" => "The configuration file",
        _ => "The store",
    }
}

#[derive(Template)]
#[template(path = "console/keys/list.html")]
struct ListPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    keys: Vec<KeyView>,
    now: String,
    older: Option<String>,
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let paging = Paging { limit: None, cursor: asked.take("cursor") };
    let (keys, next) = keys::page(&desk.api, &paging).await?;
    Ok(desk.page(ListPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        keys,
        now: desk.api.control.env.now().to_string(),
        older: next.map(|next| asked.with(HERE, "cursor", &next)),
    }))
}

#[derive(Template)]
#[template(path = "console/keys/show.html")]
struct ShowPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    badge: Badge,
    key: KeyView,
    allow: String,
    /// What of it does nothing as things are.
    slips: Vec<String>,
    /// Whoever sees it may change it, and it can be changed here.
    changes: bool,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(name): Path<String>) -> Answer {
    let key = keys::find(&desk.api, &name).await?;
    let slips = slips(&desk, &key).await?;
    let head = desk.head(&person, HERE);
    Ok(desk.page(ShowPage {
        site: desk.site(),
        badge: badge(&key, &desk.api.control.env.now().to_string()),
        allow: lines::write(&key.allow),
        slips,
        changes: head.is_operator() && key.revision.is_some(),
        head,
        key,
    }))
}

/// The form of a key, for one to be or for one that is there.
#[derive(Template)]
#[template(path = "console/keys/form.html")]
struct FormPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    title: &'a str,
    /// Where it is sent.
    path: &'a str,
    button: &'a str,
    back: &'a str,
    form: &'a KeyForm,
    /// Of a key that is there.
    revision: Option<u64>,
    problem: Option<&'a str>,
}

fn new_page(desk: &Desk, person: &Person, form: &KeyForm, refused: Option<&Problem>) -> Response {
    let page = FormPage {
        site: desk.site(),
        head: desk.head(person, HERE),
        title: "A new virtual key",
        path: NEW,
        button: "Make the key",
        back: HERE,
        form,
        revision: None,
        problem: refused.map(|problem| problem.detail.as_str()),
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), page)
}

async fn ask_new(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    new_page(&desk, &person, &KeyForm::new(&desk.api), None)
}

/// A secret, this once.
#[derive(Template)]
#[template(path = "console/keys/secret.html")]
struct SecretPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    title: &'a str,
    name: String,
    back: String,
    secret: &'a str,
    /// What of the key does nothing as things are.
    slips: Vec<String>,
    /// What became of the secret before, if there was one.
    earlier: Option<String>,
    /// Where clients connect to.
    url: String,
}

async fn make(State(desk): State<Desk>, Extension(person): Extension<Person>, Sent(mut fields): Sent) -> Answer {
    let form = KeyForm::read(&desk.api, &mut fields);
    let made = match form.request() {
        Ok(new) => keys::make(&desk.api, new, person.actor()).await,
        Err(problem) => Err(problem),
    };
    match made {
        Ok(KeyWithSecret { key, secret }) => Ok(told(&desk, &person, ("The key is made", &key, &secret), None).await),
        Err(problem) if problem.status.is_client_error() => Ok(new_page(&desk, &person, &form, Some(&problem))),
        Err(problem) => Err(problem.into()),
    }
}

/// What of a key does nothing as things are, which is often a slip of the pen.
async fn slips(desk: &Desk, key: &KeyView) -> Result<Vec<String>, StoreError> {
    let upstreams: Vec<UpstreamName> =
        desk.api.control.upstream_views().into_iter().map(|upstream| upstream.name).collect();
    let is_of_none = |pattern: &str| {
        Glob::parse(pattern).is_some_and(|glob| !upstreams.iter().any(|upstream| glob.matches(upstream.as_str())))
    };
    let patterns: BTreeSet<&str> = key.allow.iter().map(|line| line.upstream.as_str()).collect();
    let idle = patterns.into_iter().filter(|pattern| is_of_none(pattern)).take(MOST_SLIPS);
    let mut slips: Vec<String> = idle.map(|pattern| format!("There is no upstream {pattern:?} so far.")).collect();
    if let Some(owner) = &key.owner
        && let Some(login) = Login::parse(owner)
        && desk.api.control.user_with_login(&login).await?.is_none()
    {
        slips.push(format!("Nobody has the login of its owner so far: {owner:?}."));
    }
    Ok(slips)
}

/// The page with a secret.
async fn told(
    desk: &Desk,
    person: &Person,
    (title, key, secret): (&str, &KeyView, &str),
    earlier: Option<String>,
) -> Response {
    // The secret is told whatever else can be.
    let slips = slips(desk, key).await.unwrap_or_default();
    desk.page(SecretPage {
        site: desk.site(),
        head: desk.head(person, HERE),
        title,
        name: key.name.to_string(),
        back: address(key.name.as_str()),
        secret,
        slips,
        earlier,
        url: format!("{}/mcp", desk.api.services.public_url),
    })
}

fn change_page(
    desk: &Desk,
    person: &Person,
    form: &KeyForm,
    revision: Option<u64>,
    refused: Option<&Problem>,
) -> Response {
    let page = FormPage {
        site: desk.site(),
        head: desk.head(person, HERE),
        title: &format!("Change {}", form.name),
        path: &address_of(&form.name, "change"),
        button: "Save",
        back: &address(&form.name),
        form,
        revision,
        problem: refused.map(|problem| problem.detail.as_str()),
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), page)
}

async fn ask_change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let key = of_store(&desk, &name).await?;
    Ok(change_page(&desk, &person, &KeyForm::of(&desk.api, &key), key.revision, None))
}

async fn change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let key = of_store(&desk, &name).await?;
    let revision = revision(&mut fields)?;
    let form = KeyForm { name: key.name.to_string(), ..KeyForm::read(&desk.api, &mut fields) };
    let changed = match form.change(&key) {
        Ok(change) => keys::alter(&desk.api, &name, Some(vec![revision]), change, person.actor()).await,
        Err(problem) => Err(problem),
    };
    match changed {
        Ok(_) => Ok(desk.done(&person, &address(&name), Done::Changed)),
        Err(problem) if can_be_mended(&problem) => {
            Ok(change_page(&desk, &person, &form, Some(revision), Some(&problem)))
        }
        Err(problem) => Err(problem.into()),
    }
}

/// A key that is changed here.
async fn of_store(desk: &Desk, name: &str) -> Result<KeyView, Problem> {
    let key = keys::find(&desk.api, name).await?;
    match key.revision {
        Some(_) => Ok(key),
        None => Err(crate::admin::keys::KeyError::ManagedByFile.into()),
    }
}

/// The revision that somebody saw.
fn revision(fields: &mut Fields) -> Result<u64, Problem> {
    fields.take("revision").parse().map_err(|_| Problem::invalid("the form does not say which revision it is about"))
}
