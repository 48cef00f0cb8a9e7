//! `/settings/signing-keys`: the keys that sign access tokens, rotated by operators and taken out by owners.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};

use super::super::Person;
use super::super::desk::{Answer, Confirm, Desk, Done, Head, Sent};
use super::super::overview::Moment;
use super::HERE;
use crate::http::api::Problem;
use crate::http::api::signing_keys::{self, KeyView};
use crate::http::oauth::pages::Site;

pub(super) const PATH: &str = "/settings/signing-keys";
pub(super) const ROTATE: &str = "/settings/signing-keys/rotate";

#[derive(Template)]
#[template(path = "console/signing_keys.html")]
struct SigningKeysPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    keys: Vec<KeyRow<'a>>,
    /// Whether anything is signed at all.
    has_server: bool,
    /// Whether a key signs now.
    signs: bool,
    rotate: &'static str,
}

struct KeyRow<'a> {
    view: &'a KeyView,
    created: Moment,
    /// What is next for it, and when.
    next: Option<(&'static str, Moment)>,
}

pub(super) async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    let keys = signing_keys::rows(&desk.api).await?;
    Ok(desk.page(SigningKeysPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        has_server: desk.api.control.snapshot.load().auth.has_server(),
        signs: keys.iter().any(|key| key.signs),
        keys: keys.iter().map(row).collect(),
        rotate: ROTATE,
    }))
}

fn row(view: &KeyView) -> KeyRow<'_> {
    let next = match (&view.usable_from, &view.since, &view.until) {
        (Some(at), _, _) => Some(("signs from", at)),
        (None, Some(at), _) => Some(("signs since", at)),
        (None, None, Some(at)) => Some(("published until", at)),
        (None, None, None) => None,
    };
    KeyRow { view, created: Moment::of(&view.created), next: next.map(|(what, at)| (what, Moment::of(at))) }
}

pub(super) async fn rotate(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let now = match fields.take("when").as_str() {
        "announced" => false,
        "now" => true,
        _ => return Err(Problem::invalid("choose whether the next key is published first, or signs at once").into()),
    };
    let rotated = signing_keys::rotated(&desk.api, now, person.actor()).await?;
    let done = if rotated.signs { Done::SigningKeySigns } else { Done::SigningKeyPublished };
    Ok(desk.done(&person, PATH, done))
}

pub(super) async fn confirm(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let keys = signing_keys::rows(&desk.api).await?;
    let key = keys.iter().find(|key| key.kid == id).ok_or_else(|| Problem::not_found("signing key"))?;
    let (title, path) = (format!("Take out the key {id}?"), format!("{PATH}/{id}/revoke"));
    let what = if key.signs {
        "Every access token that it has signed counts no more from now on: clients have to refresh. Another key signs at once."
    } else {
        "Every access token that it has signed counts no more from now on: clients that show one have to refresh."
    };
    let confirm = Confirm { title: &title, what, button: "Take it out", path: &path, back: PATH, hidden: &[] };
    Ok(desk.confirm(&person, HERE, confirm))
}

pub(super) async fn revoke(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    signing_keys::revoked(&desk.api, id, person.actor()).await?;
    Ok(desk.done(&person, PATH, Done::SigningKeyRevoked))
}
