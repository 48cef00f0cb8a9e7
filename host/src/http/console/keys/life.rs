//! What becomes of a key once it is there: disabled and enabled, given another secret, deleted. Each is done to the key as it was
//! seen, and what cannot be taken back is asked about first.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;

use super::super::Person;
use super::super::desk::{Answer, Confirm, Desk, Done, Head, Sent};
use super::super::fields::can_be_mended;
use super::super::words;
use super::{HERE, address, address_of, of_store, revision, told};
use crate::http::api::Problem;
use crate::http::api::keys::{self, KeyChange, KeyView, KeyWithSecret};
use crate::http::oauth::pages::{Site, page_of_console};

/// How long the secret before stays good, unless something else is typed.
const OVERLAP_HOURS: &str = "24";

/// What is asked before something is done to a key that is seen at its present revision.
async fn ask(
    desk: &Desk,
    person: &Person,
    name: &str,
    verb: &str,
    (title, what, button): (&str, &str, &str),
) -> Answer {
    let key = of_store(desk, name).await?;
    let revision = key.revision.unwrap_or_default().to_string();
    Ok(desk.confirm(
        person,
        HERE,
        Confirm {
            title: &format!("{title} {name}?"),
            what,
            button,
            path: &address_of(name, verb),
            back: &address(name),
            hidden: &[("revision", &revision)],
        },
    ))
}

pub(super) async fn enable(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let change = KeyChange { disabled: Some(Some(false)), ..KeyChange::default() };
    keys::alter(&desk.api, &name, Some(vec![revision(&mut fields)?]), change, person.actor()).await?;
    Ok(desk.done(&person, &address(&name), Done::Changed))
}

pub(super) async fn ask_disable(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let what = "From the next request on the key opens nothing, and what clients were granted in its name is revoked, which \
                does not come back. The key itself can be enabled again, with the same secret.";
    ask(&desk, &person, &name, "disable", ("Disable", what, "Disable it")).await
}

pub(super) async fn disable(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let change = KeyChange { disabled: Some(Some(true)), ..KeyChange::default() };
    keys::alter(&desk.api, &name, Some(vec![revision(&mut fields)?]), change, person.actor()).await?;
    Ok(desk.done(&person, &address(&name), Done::Changed))
}

#[derive(Template)]
#[template(path = "console/keys/rotate.html")]
struct RotatePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    name: &'a str,
    path: &'a str,
    back: &'a str,
    revision: u64,
    /// What is typed.
    hours: &'a str,
    /// Until when a secret before is good, which ends with this.
    earlier_until: Option<String>,
    problem: Option<&'a str>,
}

fn rotate_page(
    (desk, person): (&Desk, &Person),
    key: KeyView,
    (revision, hours): (u64, &str),
    refused: Option<&Problem>,
) -> Response {
    let page = RotatePage {
        site: desk.site(),
        head: desk.head(person, HERE),
        name: key.name.as_str(),
        path: &address_of(key.name.as_str(), "rotate"),
        back: &address(key.name.as_str()),
        revision,
        hours,
        earlier_until: key.earlier_until,
        problem: refused.map(|problem| problem.detail.as_str()),
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), page)
}

pub(super) async fn ask_rotate(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let key = of_store(&desk, &name).await?;
    let revision = key.revision.unwrap_or_default();
    Ok(rotate_page((&desk, &person), key, (revision, OVERLAP_HOURS), None))
}

pub(super) async fn rotate(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let key = of_store(&desk, &name).await?;
    let (revision, hours) = (revision(&mut fields)?, fields.take("overlap_hours"));
    let rotated = match read_hours(&hours) {
        Ok(overlap) => keys::turn(&desk.api, &name, Some(vec![revision]), Some(overlap), person.actor()).await,
        Err(problem) => Err(problem),
    };
    let rotated = match rotated {
        Ok(rotated) => rotated,
        Err(problem) if can_be_mended(&problem) => {
            return Ok(rotate_page((&desk, &person), key, (revision, &hours), Some(&problem)));
        }
        Err(problem) => return Err(problem.into()),
    };
    let KeyWithSecret { key, secret } = rotated.key;
    let mut earlier = match &key.earlier_until {
        Some(until) => format!("The secret before is good until {}.", words::moment(until)),
        None => "The secret before opens nothing any more.".to_owned(),
    };
    if rotated.ended_earlier {
        earlier.push_str(" The one before that has ended now.");
    }
    Ok(told(&desk, &person, ("The key has another secret", &key, &secret), Some(earlier)).await)
}

/// Hours that somebody types, in seconds.
fn read_hours(text: &str) -> Result<u64, Problem> {
    let hours: u64 = text.trim().parse().map_err(|_| Problem::invalid("the overlap is a number of whole hours"))?;
    Ok(hours.saturating_mul(60 * 60))
}

pub(super) async fn ask_end_earlier(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let what = "The secret before the present one opens nothing from the next request on. Open streams of the key end with it, \
                whichever secret they began with: clients connect again.";
    ask(&desk, &person, &name, "end-earlier", ("End the earlier secret of", what, "End it")).await
}

pub(super) async fn end_earlier(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let (seen, known) = (revision(&mut fields)?, keys::read_name(&name)?);
    desk.api.control.end_earlier_secret(&known, Some(vec![seen]), person.actor()).await?;
    Ok(desk.done(&person, &address(&name), Done::SecretEnded))
}

pub(super) async fn ask_remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let what = "The key opens nothing from the next request on. What it connected is erased, and what clients were granted in \
                its name is revoked. None of that comes back with another key of this name.";
    ask(&desk, &person, &name, "remove", ("Delete", what, "Delete the key")).await
}

pub(super) async fn remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let (seen, known) = (revision(&mut fields)?, keys::read_name(&name)?);
    desk.api.control.delete_key(&known, Some(vec![seen]), person.actor()).await?;
    Ok(desk.done(&person, HERE, Done::Removed))
}
