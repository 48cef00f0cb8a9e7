//! The running gateway at a glance.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use super::WithConfig;
use super::admin::{ask, every_page, table, text};
use super::output::{rows, tell};
use crate::env::{Env, Timestamp};

/// How long before its end a key is told of.
const SOON: u64 = 14 * 24 * 60 * 60 * 1_000;
/// Keys that are named; of more there is the number.
const MAX_NAMED: usize = 5;

/// Why a restart is awaited.
pub(super) const AWAITED: &str = "awaited: the file has other settings that count from the next start";

pub(super) fn run(with: &WithConfig) -> anyhow::Result<()> {
    let get = |path: &str| ask(with, Method::GET, path, None);
    let answer = json!({
        "status": get("/api/v1/status")?,
        "upstreams": every_page(with, "/api/v1/upstreams", "upstreams")?,
        "policies": get("/api/v1/policies")?,
        "signing_keys": get("/api/v1/signing-keys")?["signing_keys"].take(),
        "keys": every_page(with, "/api/v1/keys", "keys")?,
    });
    tell(with, &answer, |answer| screen(answer, Env::system().now()))
}

/// One screen.
fn screen(answer: &Value, now: Timestamp) -> String {
    let status = &answer["status"];
    let mut lines: Vec<(&str, String)> = vec![
        ("version", text(&status["version"]).to_owned()),
        ("up", up(text(&status["started"]), now)),
        ("ready", ready(status)),
        ("public URL", text(&status["public_url"]).to_owned()),
    ];
    if status["awaits_restart"] == true {
        lines.push(("restart", AWAITED.to_owned()));
    }
    for listener in rows(status, "listeners") {
        lines.push(("listens at", format!("{} ({})", text(&listener["address"]), text(&listener["for"]))));
    }
    for (listener, certificate) in status["tls"].as_object().into_iter().flatten() {
        if let Some(until) = certificate["not_after"].as_str() {
            lines.push(("certificate", format!("of the {listener} listener, until {until}")));
        }
    }
    lines.push(("upstreams", upstreams(rows(answer, "upstreams"), &status["tools"])));
    lines.push(("policies", policies(&answer["policies"])));
    lines.push(("store", store(&status["store"])));
    lines.push(("replicas", replicas(&status["replica"])));
    lines.push(("signing keys", by_state(rows(answer, "signing_keys"))));
    lines.push(("keys", keys(rows(answer, "keys"), now)));
    for (member, told) in [("decisions_dropped", "decisions lost"), ("recordings_dropped", "recordings lost")] {
        if status[member].as_u64().is_some_and(|lost| lost > 0) {
            lines.push((told, status[member].to_string()));
        }
    }
    table(&[], lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]))
}

/// Since when, and for how long.
fn up(started: &str, now: Timestamp) -> String {
    let Ok(since) = humantime::parse_rfc3339(started) else { return started.to_owned() };
    let up = now.to_system_time().duration_since(since).unwrap_or_default();
    format!("{} (since {started})", humantime::format_duration(std::time::Duration::from_secs(up.as_secs())))
}

fn ready(status: &Value) -> String {
    match (status["ready"] == true, text(&status["not_ready"])) {
        (true, _) => "yes".to_owned(),
        (false, "") => "no".to_owned(),
        (false, why) => format!("no: {why}"),
    }
}

/// How many there are in each state, such as `2 up, 1 down`.
fn by_state(items: &[Value]) -> String {
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for item in items {
        *states.entry(text(&item["state"])).or_default() += 1;
    }
    let told: Vec<String> = states.iter().rev().map(|(state, count)| format!("{count} {state}")).collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

fn upstreams(upstreams: &[Value], tools: &Value) -> String {
    let wrong = |upstream: &&Value| matches!(text(&upstream["state"]), "down" | "broken");
    let names: Vec<&str> = upstreams.iter().filter(wrong).map(|upstream| text(&upstream["name"])).collect();
    let wrong = if names.is_empty() { String::new() } else { format!(": {}", named(&names)) };
    format!("{} ({tools} tools){wrong}", by_state(upstreams))
}

fn policies(policies: &Value) -> String {
    let bindings = rows(policies, "bindings");
    let degraded = |binding: &&Value| binding["degraded"] == true;
    let names: Vec<&str> = bindings.iter().filter(degraded).map(|binding| text(&binding["name"])).collect();
    let mut modes: BTreeMap<&str, usize> = BTreeMap::new();
    for binding in bindings {
        *modes.entry(text(&binding["mode"])).or_default() += 1;
    }
    let modes: Vec<String> = modes.iter().map(|(mode, count)| format!("{count} {mode}")).collect();
    let modes = if modes.is_empty() { "none".to_owned() } else { modes.join(", ") };
    let degraded = if names.is_empty() { String::new() } else { format!("; degraded: {}", named(&names)) };
    let refused = if policies["last_reload"]["error"].is_string() { "; the last reload was refused" } else { "" };
    format!("{modes} (generation {}){degraded}{refused}", policies["generation"])
}

fn store(store: &Value) -> String {
    let kind = if store["shared"] == true { "shared" } else { "of this gateway alone" };
    let stale = if store["stale"] == true { ", out of date" } else { "" };
    let sweeps = if store["sweeping"].is_null() { "" } else { ", swept from here" };
    format!("{kind}, deployment {}{stale}{sweeps}", text(&store["deployment"]))
}

fn replicas(replica: &Value) -> String {
    let others = rows(replica, "others");
    let differ = others.iter().filter(|other| other["same_configuration"] != true).count();
    match (others.len(), differ) {
        (0, _) => format!("{} alone", text(&replica["id"])),
        (others, 0) => format!("{} and {others} others", text(&replica["id"])),
        (others, differ) => {
            format!("{} and {others} others, {differ} with another configuration", text(&replica["id"]))
        }
    }
}

fn keys(keys: &[Value], now: Timestamp) -> String {
    let disabled = keys.iter().filter(|key| key["disabled"] == true).count();
    let until = Timestamp::from_millis(now.as_millis().saturating_add(SOON)).to_string();
    let now = now.to_string();
    let ended = keys.iter().filter(|key| end(key).is_some_and(|at| at <= now.as_str())).count();
    let is_ending = |key: &&Value| end(key).is_some_and(|at| at > now.as_str() && at <= until.as_str());
    let ending: Vec<&str> = keys.iter().filter(is_ending).map(|key| text(&key["name"])).collect();
    let mut told = keys.len().to_string();
    for (count, what) in [(disabled, "disabled"), (ended, "expired")] {
        if count > 0 {
            told.push_str(&format!(", {count} {what}"));
        }
    }
    if !ending.is_empty() {
        told.push_str(&format!("; within 14 days end {}", named(&ending)));
    }
    told
}

/// When a key ends that is in use.
fn end(key: &Value) -> Option<&str> {
    key["expires"].as_str().filter(|_| key["disabled"] != true)
}

/// The first few names, and how many there are besides.
fn named(names: &[&str]) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let first = names.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_looking_at_is_named() {
        let upstream = |name: &str, state: &str| json!({ "name": name, "state": state });
        let key = |name: &str, expires: Option<&str>| json!({ "name": name, "expires": expires, "disabled": false });
        let answer = json!({
            "status": {
                "version": "1", "started": "2027-01-01T00:00:00.000Z", "ready": false, "not_ready": "the store is away",
                "public_url": "https://mcp.example", "awaits_restart": true, "tools": 7, "decisions_dropped": 3, "recordings_dropped": 0,
                "listeners": [{ "for": "callers", "address": "127.0.0.1:7400" }],
                "tls": { "public": { "not_after": "2027-03-01T00:00:00.000Z" } },
                "store": { "shared": true, "stale": true, "sweeping": 4, "deployment": "d1" },
                "replica": { "id": "r1", "others": [{ "same_configuration": false }] },
            },
            "upstreams": [upstream("notes", "up"), upstream("wiki", "down"), upstream("mail", "up")],
            "policies": {
                "generation": 3, "last_reload": { "error": "x" },
                "bindings": [{ "name": "guard", "mode": "enforce", "degraded": true }],
            },
            "signing_keys": [{ "state": "active" }, { "state": "retired" }],
            "keys": [
                key("ci", Some("2027-01-03T00:00:00.000Z")), key("old", Some("2026-01-01T00:00:00.000Z")),
                key("far", Some("2028-01-01T00:00:00.000Z")), key("ever", None),
            ],
        });
        let now = Timestamp::from_millis(1_798_851_600_000);
        assert_eq!(now.to_string(), "2027-01-02T01:00:00.000Z");
        let screen = screen(&answer, now);
        for line in [
            "up              1day 1h (since 2027-01-01T00:00:00.000Z)",
            "ready           no: the store is away",
            "restart         awaited: the file has other settings that count from the next start",
            "listens at      127.0.0.1:7400 (callers)",
            "certificate     of the public listener, until 2027-03-01T00:00:00.000Z",
            "upstreams       2 up, 1 down (7 tools): wiki",
            "policies        1 enforce (generation 3); degraded: guard; the last reload was refused",
            "store           shared, deployment d1, out of date, swept from here",
            "replicas        r1 and 1 others, 1 with another configuration",
            "signing keys    1 retired, 1 active",
            "keys            4, 1 expired; within 14 days end ci",
            "decisions lost  3",
        ] {
            assert!(screen.lines().any(|told| told == line), "{line:?} is not in\n{screen}");
        }
        assert!(!screen.contains("recordings lost"));
    }

    #[test]
    fn many_names_are_cut_short() {
        assert_eq!(named(&["a", "b"]), "a, b");
        assert_eq!(named(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
