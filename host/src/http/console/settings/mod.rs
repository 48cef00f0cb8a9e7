//! `/settings`: what the gateway runs with, its signing keys, its vault and its store.
//!
//! What it shows is what `GET /api/v1/status` and `/api/v1/settings` tell as well. There are no secrets in either.

use std::net::SocketAddr;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::Value;

use super::desk::{Answer, Desk, Head};
use super::overview::Moment;
use super::{Person, Route, asks, does, shows};
use crate::http::api::settings::{self, SettingView, SettingsView};
use crate::http::api::status::{self, ListenerView, Status};
use crate::http::oauth::pages::Site;

mod signing_keys;
mod store;
mod vault;

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(show)),
    shows(signing_keys::PATH, || get(signing_keys::show)),
    does(signing_keys::ROTATE, || post(signing_keys::rotate)),
    asks("/settings/signing-keys/{id}/revoke", || get(signing_keys::confirm)).for_owners().fresh(),
    does("/settings/signing-keys/{id}/revoke", || post(signing_keys::revoke)).for_owners().fresh(),
    shows(vault::PATH, || get(vault::show)),
    does(vault::VERIFY, || post(vault::verify)),
    does(vault::ROTATE, || post(vault::rotate)).for_owners().fresh(),
    does(vault::REWRAP, || post(vault::rewrap)).for_owners().fresh(),
    shows(store::PATH, || get(store::show)),
    asks(store::VERIFY, || get(store::verify)),
    asks(store::BACKUP, || get(store::back_up)).for_owners().fresh(),
];

const HERE: &str = "/settings";

#[derive(Template)]
#[template(path = "console/settings.html")]
struct SettingsPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    status: &'a Status,
    settings: &'a SettingsView,
    started: Moment,
    read: Moment,
    /// Where this page is.
    admin_url: &'a str,
    listeners: Vec<ListenerRow<'a>>,
    replicas: Vec<ReplicaRow>,
    groups: Vec<Group>,
}

/// Where the gateway listens.
struct ListenerRow<'a> {
    whom: &'static str,
    address: &'a str,
    /// Whether over TLS.
    is_secure: bool,
    /// Until when its certificate counts.
    until: Option<Moment>,
}

/// Another gateway on the same store.
struct ReplicaRow {
    id: String,
    address: String,
    version: String,
    seen: Moment,
    /// Whether its file says the same.
    is_same: bool,
}

/// The settings of one section of the file.
struct Group {
    name: String,
    rows: Vec<SettingRow>,
}

struct SettingRow {
    key: String,
    values: Vec<String>,
    /// What holds from the next start on, where that is something else.
    next: Option<Vec<String>>,
    effect: &'static str,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    let (status, settings) = (status::view(&desk.api), settings::view(&desk.api));
    Ok(desk.page(SettingsPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        started: Moment::of(&status.started),
        read: Moment::of(&settings.read),
        admin_url: &desk.console.url,
        listeners: status.listeners.iter().map(|row| listener(&status, row)).collect(),
        replicas: replicas(&status.replica),
        groups: groups(&settings.settings),
        status: &status,
        settings: &settings,
    }))
}

fn listener<'a>(status: &'a Status, listener: &'a ListenerView) -> ListenerRow<'a> {
    let is_socket = listener.address.parse::<SocketAddr>().is_err();
    let certificate = match listener.whom {
        "callers" => status.tls.get("public"),
        "operators" if !is_socket => status.tls.get("admin"),
        _ => None,
    };
    ListenerRow {
        whom: listener.whom,
        address: &listener.address,
        is_secure: certificate.is_some(),
        until: certificate.and_then(|certificate| certificate.not_after.as_deref()).map(Moment::of),
    }
}

/// Out of what the registry of replicas tells the API.
fn replicas(own: &Value) -> Vec<ReplicaRow> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| ReplicaRow {
        id: text(row, "id"),
        address: text(row, "address"),
        version: text(row, "version"),
        seen: Moment::of(&text(row, "seen")),
        is_same: row["same_configuration"] == true,
    };
    own["others"].as_array().into_iter().flatten().map(row).collect()
}

/// By the first part of their keys, in the order in which they come.
fn groups(settings: &[SettingView]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for setting in settings {
        let name = match setting.key.split_once('.') {
            Some((section, _)) => format!("[{section}]"),
            None => "The file as a whole".to_owned(),
        };
        let row = SettingRow {
            key: setting.key.clone(),
            values: texts(&setting.value),
            next: setting.next.as_ref().map(texts),
            effect: if setting.effect == "start" { "at the next start" } else { "with a reload" },
        };
        match groups.last_mut().filter(|group| group.name == name) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { name, rows: vec![row] }),
        }
    }
    groups
}

/// A value as people read it; each item of a list on its own.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => vec![value.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_grouped_by_their_sections() {
        let setting = |key: &str, value| SettingView { key: key.to_owned(), value, effect: "start", next: None };
        let settings = [
            setting("public_url", json!("http://127.0.0.1:7400")),
            setting("listen.public", json!("127.0.0.1:7400")),
            setting("listen.admin_url", Value::Null),
            setting("edge.allowed_hosts", json!(["a", "b"])),
            setting("edge.max_connections", json!(10)),
        ];
        let groups = groups(&settings);
        let told: Vec<(&str, usize)> = groups.iter().map(|group| (group.name.as_str(), group.rows.len())).collect();
        assert_eq!(told, [("The file as a whole", 1), ("[listen]", 2), ("[edge]", 2)]);
        assert_eq!(groups[2].rows[0].values, ["a", "b"]);
        assert_eq!(groups[2].rows[1].values, ["10"]);
        assert!(groups[1].rows[1].values.is_empty());
    }

    #[test]
    fn replicas_are_read_from_what_their_registry_tells() {
        let others = json!([{ "id": "r2", "address": null, "version": "1", "seen": "2027-01-01T10:30:00.000Z", "same_configuration": false }]);
        let rows = replicas(&json!({ "id": "r1", "others": others }));
        assert_eq!((rows[0].id.as_str(), rows[0].is_same, rows.len()), ("r2", false, 1));
        assert_eq!(rows[0].seen.words, "2027-01-01 10:30 UTC");
    }
}
