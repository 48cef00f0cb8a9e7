//! `portcullis key`: virtual keys of the running gateway, through the admin socket.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::WithConfig;
use super::admin::{Paged, ask, segment, table, text, words};
use super::output::tell;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key. Its secret is shown once.
    Create {
        /// Lower-case letters, digits and '-'.
        name: String,
        /// What the key may use: UPSTREAM/TOOL, both may have '*'. May be given several times; without it, nothing.
        #[arg(long, value_name = "UPSTREAM/TOOL")]
        allow: Vec<String>,
        /// A scope of its caller, for policies to read. May be given several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// A group of its caller, for policies to read and to be bound by. May be given several times.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// The login of a person, who may use what the key may, as themselves.
        #[arg(long, value_name = "LOGIN")]
        owner: Option<String>,
        /// When it ends, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        with: WithConfig,
    },
    /// List all keys.
    List(Paged),
    /// Show one key.
    Show(OneKey),
    /// Change what a key may and whose it is. What is not given stays; what is given takes the place of what was.
    Set(Box<SetKey>),
    /// Give a key another secret, which is shown once. The one before stays good for a while.
    Rotate {
        /// How long the secret before stays good, such as 12h or 7d; at most 30d, and 0s ends it at once.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = read_overlap)]
        overlap: Duration,
        /// Give no other secret: end the one before the present one now.
        #[arg(long, conflicts_with = "overlap")]
        end_earlier: bool,
        #[command(flatten)]
        key: OneKey,
    },
    /// Refuse a key from now on.
    Disable(OneKey),
    /// Accept a disabled key again.
    Enable(OneKey),
    /// Delete a key.
    Delete(OneKey),
}

#[derive(clap::Args)]
pub(super) struct OneKey {
    /// The name of the key.
    name: String,
    #[command(flatten)]
    with: WithConfig,
}

#[derive(clap::Args)]
pub(super) struct SetKey {
    /// What the key may use, in the place of what it may now: UPSTREAM/TOOL. May be given several times.
    #[arg(long, value_name = "UPSTREAM/TOOL", conflicts_with = "no_allow")]
    allow: Vec<String>,
    /// It may use nothing.
    #[arg(long)]
    no_allow: bool,
    /// A scope of its caller. May be given several times.
    #[arg(long = "scope", value_name = "SCOPE", conflicts_with = "no_scopes")]
    scopes: Vec<String>,
    /// Its caller has no scopes.
    #[arg(long)]
    no_scopes: bool,
    /// A group of its caller. May be given several times.
    #[arg(long = "group", value_name = "GROUP", conflicts_with = "no_groups")]
    groups: Vec<String>,
    /// Its caller is in no groups.
    #[arg(long)]
    no_groups: bool,
    /// The login of a person, who may use what the key may, as themselves.
    #[arg(long, value_name = "LOGIN", conflicts_with = "no_owner")]
    owner: Option<String>,
    /// It is nobody's.
    #[arg(long)]
    no_owner: bool,
    /// When it ends, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "no_expiry")]
    expires: Option<String>,
    /// It does not end by itself.
    #[arg(long)]
    no_expiry: bool,
    #[command(flatten)]
    key: OneKey,
}

impl KeyCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { name, allow, scopes, groups, owner, expires, with } => {
                let key = json!({
                    "name": name, "allow": allow_list(&allow)?, "scopes": scopes, "groups": groups, "owner": owner,
                    "expires": expires,
                });
                let key = ask(&with, Method::POST, "/api/v1/keys", Some(key))?;
                tell(&with, &key, |key| format!("{}\n{SHOWN_ONCE}", text(&key["secret"])))
            }
            Self::List(page) => page.tell("/api/v1/keys", "keys", listed),
            Self::Show(key) => tell(&key.with, &ask(&key.with, Method::GET, &key.path()?, None)?, shown),
            Self::Set(set) => {
                let patch = set.patch()?;
                let answer = ask(&set.key.with, Method::PATCH, &set.key.path()?, Some(patch))?;
                tell(&set.key.with, &answer, |_| format!("{} is changed", set.key.name))
            }
            Self::Rotate { end_earlier: true, key, .. } => {
                let answer = ask(&key.with, Method::DELETE, &format!("{}/earlier", key.path()?), None)?;
                tell(&key.with, &answer, |_| format!("the earlier secret of {} is ended", key.name))
            }
            Self::Rotate { overlap, key, end_earlier: false } => {
                let body = json!({ "overlap": overlap.as_secs() });
                let rotated = ask(&key.with, Method::POST, &format!("{}/rotate", key.path()?), Some(body))?;
                tell(&key.with, &rotated, told)
            }
            Self::Disable(key) => set_disabled(&key, true),
            Self::Enable(key) => set_disabled(&key, false),
            Self::Delete(key) => {
                let answer = ask(&key.with, Method::DELETE, &key.path()?, None)?;
                tell(&key.with, &answer, |_| format!("{} is deleted", key.name))
            }
        }
    }
}

const SHOWN_ONCE: &str = "This is shown once. Send it as `Authorization: Bearer …`.";

/// An overlap is said in seconds: less than one would end the secret at once, which is not what was asked for.
fn read_overlap(text: &str) -> Result<Duration, String> {
    let overlap = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if overlap.subsec_nanos() != 0 {
        return Err("an overlap is whole seconds".to_owned());
    }
    Ok(overlap)
}

impl OneKey {
    fn path(&self) -> anyhow::Result<String> {
        Ok(format!("/api/v1/keys/{}", segment(&self.name)?))
    }
}

impl SetKey {
    /// What is to be otherwise, as a merge patch.
    fn patch(&self) -> anyhow::Result<Value> {
        let Self { allow, no_allow, scopes, no_scopes, groups, no_groups, owner, no_owner, expires, no_expiry, key: _ } =
            self;
        let mut patch = Map::new();
        if *no_allow || !allow.is_empty() {
            patch.insert("allow".to_owned(), allow_list(allow)?);
        }
        for (name, list, is_none) in [("scopes", scopes, no_scopes), ("groups", groups, no_groups)] {
            if *is_none || !list.is_empty() {
                patch.insert(name.to_owned(), json!(list));
            }
        }
        for (name, value, is_none) in [("owner", owner, no_owner), ("expires", expires, no_expiry)] {
            if *is_none || value.is_some() {
                patch.insert(name.to_owned(), json!(value));
            }
        }
        if patch.is_empty() {
            bail!("nothing to change: say what, such as --allow, --owner or --expires");
        }
        Ok(Value::Object(patch))
    }
}

fn allow_list(lines: &[String]) -> anyhow::Result<Value> {
    let line = |line: &String| {
        let (upstream, tool) =
            line.split_once('/').with_context(|| format!("--allow {line:?} is not UPSTREAM/TOOL"))?;
        Ok(json!({ "upstream": upstream, "tools": [tool] }))
    };
    lines.iter().map(line).collect()
}

fn set_disabled(key: &OneKey, disabled: bool) -> anyhow::Result<()> {
    let answer = ask(&key.with, Method::PATCH, &key.path()?, Some(json!({ "disabled": disabled })))?;
    tell(&key.with, &answer, |_| format!("{} is {}", key.name, if disabled { "disabled" } else { "enabled" }))
}

/// What came of a rotation.
fn told(rotated: &Value) -> String {
    let earlier = match rotated["earlier_until"].as_str() {
        Some(until) => format!("The secret before it is good until {until}."),
        None => "The secret before it is good no more.".to_owned(),
    };
    let ended =
        if rotated["ended_earlier"] == true { " The one before that was good still, and has ended." } else { "" };
    format!("{}\n{SHOWN_ONCE} {earlier}{ended}", text(&rotated["secret"]))
}

fn state(key: &Value) -> String {
    if key["disabled"] == true { "disabled" } else { "enabled" }.to_owned()
}

fn allowed(key: &Value) -> String {
    let lines = key["allow"].as_array().into_iter().flatten().flat_map(|line| {
        let upstream = text(&line["upstream"]).to_owned();
        line["tools"].as_array().into_iter().flatten().map(move |tool| format!("{upstream}/{}", text(tool)))
    });
    lines.collect::<Vec<_>>().join(" ")
}

fn listed(keys: &[Value]) -> String {
    let row = |key: &Value| {
        let cell = |name: &str| text(&key[name]).to_owned();
        vec![
            cell("name"),
            state(key),
            key["expires"].as_str().unwrap_or("never").to_owned(),
            cell("earlier_until"),
            cell("managed_by"),
            cell("owner"),
            allowed(key),
            words(&key["scopes"]),
            words(&key["groups"]),
        ]
    };
    let head = ["NAME", "STATE", "EXPIRES", "EARLIER UNTIL", "MANAGED BY", "OWNER", "ALLOW", "SCOPES", "GROUPS"];
    table(&head, keys.iter().map(row))
}

fn shown(key: &Value) -> String {
    let cell = |name: &str| text(&key[name]).to_owned();
    let revision = key["revision"].as_u64().map(|revision| revision.to_string()).unwrap_or_default();
    let rows = [
        ("name", cell("name")),
        ("state", state(key)),
        ("expires", key["expires"].as_str().unwrap_or("never").to_owned()),
        ("earlier secret until", cell("earlier_until")),
        ("managed by", cell("managed_by")),
        ("owner", cell("owner")),
        ("allow", allowed(key)),
        ("scopes", words(&key["scopes"])),
        ("groups", words(&key["groups"])),
        ("created", cell("created")),
        ("revision", revision),
    ];
    table(&[], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: KeyCommand,
    }

    fn patch(arguments: &[&str]) -> anyhow::Result<Value> {
        let line = Line::try_parse_from(["key", "set", "ci"].iter().chain(arguments))?;
        let KeyCommand::Set(set) = line.command else { panic!("another command") };
        set.patch()
    }

    #[test]
    fn what_is_given_changes_and_nothing_else() {
        let lines = json!([{ "upstream": "notes", "tools": ["add"] }, { "upstream": "wiki", "tools": ["*"] }]);
        for (arguments, expected) in [
            (&["--allow", "notes/add", "--allow", "wiki/*"][..], json!({ "allow": lines })),
            (&["--no-allow", "--scope", "read"], json!({ "allow": [], "scopes": ["read"] })),
            (&["--no-groups", "--no-scopes"], json!({ "groups": [], "scopes": [] })),
            (&["--owner", "ada", "--no-expiry"], json!({ "owner": "ada", "expires": null })),
            (
                &["--no-owner", "--expires", "2027-01-31T00:00:00Z"],
                json!({ "owner": null, "expires": "2027-01-31T00:00:00Z" }),
            ),
        ] {
            assert_eq!(patch(arguments).unwrap(), expected, "{arguments:?}");
        }
        for wrong in
            [&[][..], &["--allow", "notes"], &["--owner", "ada", "--no-owner"], &["--allow", "a/b", "--no-allow"]]
        {
            assert!(patch(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_overlap_is_whole_seconds() {
        for (text, seconds) in
            [("0s", Some(0)), ("1s", Some(1)), ("7d", Some(604_800)), ("500ms", None), ("1s 1ns", None)]
        {
            assert_eq!(read_overlap(text).ok().map(|overlap| overlap.as_secs()), seconds, "{text}");
        }
        assert!(read_overlap("soon").is_err());
    }

    #[test]
    fn a_rotation_says_what_has_become_of_the_secrets_before() {
        let of = |until: Option<&str>, ended: bool| {
            told(&json!({ "secret": "pk_new", "earlier_until": until, "ended_earlier": ended }))
        };
        assert!(of(Some("T1"), false).ends_with("The secret before it is good until T1."));
        let twice = of(None, true);
        assert!(twice.starts_with("pk_new\n") && twice.contains("good no more. The one before that"), "{twice}");
    }

    #[test]
    fn a_key_is_one_line_with_all_that_it_may() {
        let key = json!({
            "name": "ci", "disabled": false, "expires": null, "earlier_until": "T1", "managed_by": "store",
            "owner": "ada", "allow": [{ "upstream": "notes", "tools": ["add", "read_*"] }], "scopes": ["read"],
            "groups": ["ops"],
        });
        let lines = listed(&[key]);
        let cells: Vec<&str> =
            lines.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["ci", "enabled", "never", "T1", "store", "ada", "notes/add notes/read_*", "read", "ops"]);
    }
}
