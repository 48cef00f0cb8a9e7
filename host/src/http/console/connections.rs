//! `/connections`: whose credentials are kept for which upstreams, how they stand, and the ways that people are on. A link
//! with which one is made anew is on the page that answers the form, and nowhere else.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::routing::{get, post};

use super::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent};
use super::fields::Listed;
use super::known::{Known, Named};
use super::words::{self, Badge};
use super::{Person, Route, asks, does, shows};
use crate::http::api::connections::{
    self as api, ConnectionQuery, ConnectionView, CredentialView, FlowQuery, FlowView, LinkView,
};
use crate::http::oauth::pages::{Site, page_of_console};

const HERE: &str = "/connections";
const FLOWS: &str = "/connections/flows";

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(list)),
    shows(FLOWS, || get(flows)),
    shows("/connections/{id}", || get(show)),
    does("/connections/{id}/reauthorise", || post(reauthorise)).fresh(),
    asks("/connections/{id}/end", || get(ask_end)).fresh(),
    does("/connections/{id}/end", || post(end)).fresh(),
];

/// How one can stand, as the API says it.
const STATES: [(&str, Badge); 5] = [
    ("active", Badge::good("Works")),
    ("needs_reauth", Badge::error("Has to be made anew")),
    ("needs_update", Badge::warning("Lacks a value")),
    ("orphaned", Badge::warning("Without access")),
    ("unused", Badge::plain("Not used")),
];

fn badge(state: &str) -> Badge {
    STATES.iter().find(|(word, _)| *word == state).map_or(Badge::plain("Unknown"), |(_, badge)| *badge)
}

/// What a state means.
const fn meaning(state: &str) -> &'static str {
    match state.as_bytes() {
        b"active" => "The upstream is shown this credential.",
        b"needs_reauth" => "The credential is not accepted any more: its holder connects again.",
        b"needs_update" => "The upstream asks for more than was given: its holder gives the rest.",
        b"orphaned" => "Its holder may not use the upstream. It comes back with access, and is erased after a while.",
        _ => "The upstream takes something else now, or nothing.",
    }
}

const fn kind(kind: &str) -> &'static str {
    match kind.as_bytes() {
        b"oauth" => "Tokens",
        b"headers" => "Headers",
        _ => "Environment",
    }
}

const fn stage(stage: &str) -> &'static str {
    match stage.as_bytes() {
        b"pending" => "On the way",
        b"claimed" => "Coming back",
        _ => "Over",
    }
}

/// What to do where no link can be made.
const fn instead(unable: &str) -> &'static str {
    match unable.as_bytes() {
        b"orphaned" => "Its holder may not use the upstream: give access back first.",
        b"not_for_operators" => {
            "It is a person's or a guest's own: they connect again at the next call, or at /account of the public address."
        }
        _ => "The upstream takes nothing of this kind any more.",
    }
}

/// What is told of a credential, none of it secret.
fn facts(credential: &CredentialView) -> Vec<(&'static str, String)> {
    match credential {
        CredentialView::OAuth { issuer, scopes, expires, renewable } => {
            let expires = expires.as_deref().map_or_else(|| "not told".to_owned(), words::moment);
            let renewable = if *renewable { "yes, ahead of time" } else { "no" };
            vec![
                ("Issuer", issuer.clone()),
                ("Scopes", words::listed(scopes)),
                ("Token expires", expires),
                ("Renewed", renewable.to_owned()),
            ]
        }
        CredentialView::Headers { headers } => vec![("Names of headers", words::listed(headers))],
        CredentialView::Environment { environment } => vec![("Names of variables", words::listed(environment))],
    }
}

fn address_of(connection: &ConnectionView, verb: &str) -> String {
    format!("{HERE}/{}/{verb}", connection.id)
}

#[derive(Template)]
#[template(path = "console/connections/list.html")]
struct ListPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    holder: &'a str,
    upstream: &'a str,
    state: &'a str,
    states: &'static [(&'static str, Badge)],
    connections: Vec<ConnectionView>,
    known: Known,
    older: Option<String>,
    /// Why the filter leaves nothing.
    problem: Option<String>,
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let query = ConnectionQuery {
        limit: None,
        cursor: asked.take("cursor"),
        holder: asked.take("holder"),
        upstream: asked.take("upstream"),
        state: asked.take("state"),
    };
    let listed = Listed::of(api::page(&desk.api, query).await)?;
    let holders: Vec<&str> = listed.rows.iter().map(|row| row.holder.as_str()).collect();
    let known = desk.known(&holders).await?;
    Ok(page_of_console(
        listed.status(),
        ListPage {
            site: desk.site(),
            head: desk.head(&person, HERE),
            holder: asked.get("holder").unwrap_or_default(),
            upstream: asked.get("upstream").unwrap_or_default(),
            state: asked.get("state").unwrap_or_default(),
            states: &STATES,
            connections: listed.rows,
            known,
            older: listed.next.map(|next| asked.with(HERE, "cursor", &next)),
            problem: listed.problem,
        },
    ))
}

#[derive(Template)]
#[template(path = "console/connections/flows.html")]
struct FlowsPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    holder: &'a str,
    flows: Vec<FlowView>,
    known: Known,
    older: Option<String>,
    /// Why the filter leaves nothing.
    problem: Option<String>,
}

async fn flows(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let query = FlowQuery { limit: None, cursor: asked.take("cursor"), holder: asked.take("holder") };
    let listed = Listed::of(api::page_of_flows(&desk.api, query).await)?;
    let holders: Vec<&str> = listed.rows.iter().map(|row| row.holder.as_str()).collect();
    let known = desk.known(&holders).await?;
    Ok(page_of_console(
        listed.status(),
        FlowsPage {
            site: desk.site(),
            head: desk.head(&person, HERE),
            holder: asked.get("holder").unwrap_or_default(),
            flows: listed.rows,
            known,
            older: listed.next.map(|next| asked.with(FLOWS, "cursor", &next)),
            problem: listed.problem,
        },
    ))
}

#[derive(Template)]
#[template(path = "console/connections/show.html")]
struct ShowPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    badge: Badge,
    holder: Named,
    /// Where the page of the upstream is, if it is still there.
    upstream_page: Option<String>,
    connection: ConnectionView,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let connection = api::one(&desk.api, &id).await?;
    let known = desk.known(&[&connection.holder]).await?;
    Ok(desk.page(ShowPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        badge: badge(connection.state),
        holder: known.who(&connection.holder),
        upstream_page: desk.page_of_upstream(connection.upstream.as_str()),
        connection,
    }))
}

#[derive(Template)]
#[template(path = "console/connections/link.html")]
struct LinkPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    url: &'a str,
    expires: &'a str,
    back: String,
}

async fn reauthorise(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    let LinkView { url, expires } = api::link_to_reauthorise(&desk.api, &id, person.actor()).await?;
    Ok(desk.page(LinkPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        url: &url,
        expires: &expires,
        back: format!("{HERE}/{id}"),
    }))
}

async fn ask_end(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let connection = api::one(&desk.api, &id).await?;
    let holder = desk.known(&[&connection.holder]).await?.who(&connection.holder);
    Ok(desk.confirm(&person, HERE, Confirm {
        title: &format!("End the connection of {} at {}?", holder.name, connection.upstream),
        what: "It is erased at once, and its tokens are revoked where they came from. Whoever needs it connects again.",
        button: "End it",
        path: &address_of(&connection, "end"),
        back: &format!("{HERE}/{}", connection.id),
        hidden: &[],
    }))
}

async fn end(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    api::end(&desk.api, &id, person.actor()).await?;
    Ok(desk.done(&person, HERE, Done::ConnectionEnded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Standing;

    #[test]
    fn every_state_has_its_words() {
        for (word, badge) in STATES {
            assert!(Standing::parse(word).is_some(), "{word}");
            assert!(!badge.text.is_empty() && !meaning(word).is_empty(), "{word}");
        }
    }
}
