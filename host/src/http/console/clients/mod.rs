//! `/clients`: OAuth clients, of the configuration file, of operators, and those that registered themselves.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::Value;

use super::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent};
use super::fields::{Choice, Paths, choices, seen, segment};
use super::{Person, Route, asks, does, shows};
use crate::authorization::clients::operators::{Change, Listed};
use crate::http::api::clients::{self, ClientQuery};
use crate::http::oauth::pages::Site;
use crate::secret::Plaintext;

mod forms;

const HERE: &str = "/clients";

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(list)),
    asks("/clients/new", || get(forms::ask_new)).fresh(),
    does("/clients/new", || post(forms::create)).fresh(),
    shows("/clients/{id}", || get(show)),
    asks("/clients/{id}/change", || get(forms::ask_change)).fresh(),
    does("/clients/{id}/change", || post(forms::change)).fresh(),
    asks("/clients/{id}/secret", || get(ask_secret)).fresh(),
    does("/clients/{id}/secret", || post(new_secret)).fresh(),
    asks("/clients/{id}/remove", || get(ask_remove)).fresh(),
    does("/clients/{id}/remove", || post(remove)).fresh(),
];

const ORIGINS: [(&str, &str); 4] = [
    ("", "Anywhere"),
    ("file", "The configuration file"),
    ("operator", "Operators, who added them"),
    ("registered", "Themselves: they registered"),
];

/// A client as the API tells of it.
struct ClientView {
    told: Value,
    paths: Paths,
    /// Of one of the file, none is told.
    revision: Option<u64>,
}

impl ClientView {
    fn of(listed: &Listed) -> Self {
        let revision = match listed {
            Listed::Configured(_) => None,
            Listed::Stored(client) => Some(client.revision()),
        };
        Self { revision, ..Self::told(clients::view(listed)) }
    }

    fn told(told: Value) -> Self {
        let paths = Paths::of(HERE, told["client_id"].as_str().unwrap_or_default());
        Self { told, paths, revision: None }
    }

    /// A member that is a text; empty where there is none.
    fn text(&self, member: &str) -> &str {
        self.told[member].as_str().unwrap_or_default()
    }

    /// A member that is a list of texts.
    fn texts(&self, member: &str) -> Vec<&str> {
        self.told[member].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn is(&self, member: &str) -> bool {
        self.told[member].as_bool().unwrap_or_default()
    }

    fn id(&self) -> &str {
        self.text("client_id")
    }

    fn name(&self) -> &str {
        match self.text("client_name") {
            "" => self.id(),
            name => name,
        }
    }

    /// Where it comes from, in words.
    fn origin(&self) -> &'static str {
        match self.text("origin") {
            "file" => "configuration file",
            "operator" => "added by an operator",
            _ => "registered itself",
        }
    }

    /// Whether it proves who it is with a secret.
    fn has_secret(&self) -> bool {
        self.text("token_endpoint_auth_method").starts_with("client_secret_")
    }

    /// The public keys that it sent, as text.
    fn keys(&self) -> Option<String> {
        self.told.get("jwks").map(|keys| format!("{keys:#}"))
    }

    fn grants(&self) -> String {
        format!("/grants?client={}", segment(self.id()))
    }
}

#[derive(Template)]
#[template(path = "console/clients.html")]
struct ClientsPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    origins: Vec<Choice>,
    clients: Vec<ClientView>,
    older: Option<String>,
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let query = ClientQuery { cursor: asked.take("cursor"), origin: asked.take("origin"), limit: None };
    let (clients, next) = clients::page(&desk.api, query).await?;
    Ok(desk.page(ClientsPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        origins: choices(&ORIGINS, asked.get("origin")),
        clients: clients.into_iter().map(ClientView::told).collect(),
        older: next.map(|next| asked.with(HERE, "cursor", &next)),
    }))
}

#[derive(Template)]
#[template(path = "console/client.html")]
struct ClientPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    client: ClientView,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let client = ClientView::of(&clients::one(&desk.api, &id).await?);
    Ok(desk.page(ClientPage { site: desk.site(), head: desk.head(&person, HERE), client }))
}

#[derive(Template)]
#[template(path = "console/client_secret.html")]
struct SecretPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    client: ClientView,
    secret: &'a str,
}

/// What stands after a client was made or changed: its secret, where it has a new one, or the client itself.
fn after((desk, person): (&Desk, &Person), client: &Listed, secret: Option<&Plaintext>, done: Done) -> Response {
    let client = ClientView::of(client);
    match secret {
        None => desk.done(person, client.paths.own(), done),
        Some(secret) => {
            let (site, head) = (desk.site(), desk.head(person, HERE));
            desk.page(SecretPage { site, head, client, secret: secret.expose() })
        }
    }
}

async fn ask_secret(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let client = ClientView::of(&clients::one(&desk.api, &id).await?);
    let confirm = Confirm {
        title: "Give the client another secret",
        what: &format!(
            "The secret that {} has opens nothing from then on. The new one is shown this once, on the page that follows.",
            client.name()
        ),
        button: "Make another secret",
        path: &client.paths.to("secret"),
        back: client.paths.own(),
        hidden: &[("revision", &client.revision.unwrap_or_default().to_string())],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

async fn new_secret(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let change = Change { new_secret: true, seen: Some(vec![seen(&mut fields)?]), ..Change::default() };
    let (client, secret) = clients::edit(&desk.api, &person.operator(), &id, change).await?;
    Ok(after((&desk, &person), &client, secret.as_ref(), Done::Changed))
}

async fn ask_remove(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let client = ClientView::of(&clients::one(&desk.api, &id).await?);
    let confirm = Confirm {
        title: "Delete the client",
        what: &format!(
            "{} is deleted, and what was granted to it counts no more. This cannot be taken back.",
            client.name()
        ),
        button: "Delete it",
        path: &client.paths.to("remove"),
        back: client.paths.own(),
        hidden: &[("revision", &client.revision.unwrap_or_default().to_string())],
    };
    Ok(desk.confirm(&person, HERE, confirm))
}

async fn remove(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let seen = seen(&mut fields)?;
    clients::delete_client(&desk.api, &person.operator(), &id, Some(vec![seen])).await?;
    Ok(desk.done(&person, HERE, Done::Removed))
}
