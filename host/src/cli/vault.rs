//! The vault of the running gateway: looked at, its keys rotated, checked, and data keys destroyed.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::admin::{ask, table, text};
use super::output::{Format, Progress, Reached, plain, tell};
use super::{WithConfig, print};
use crate::env::Env;
use crate::vault::make_key_file;

#[derive(Subcommand)]
pub(super) enum VaultCommand {
    /// Show the keys of the vault, whether they work, and how many data keys each of them wraps.
    Status(WithConfig),
    /// Make a file with a new key, for [[vault.keys]] of the configuration. Asks no gateway.
    Keygen {
        /// The file, which must not be there yet. Only its owner will be able to read it.
        file: PathBuf,
    },
    /// Use another key of the configuration from now on, and wrap every data key by it.
    RotateKek {
        /// The key to use. Without it, the next active one of the configuration.
        #[arg(long, value_name = "KID")]
        to: Option<String>,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Wrap every data key by the key that is in use, or go on with that.
    Rewrap(WithConfig),
    /// Open everything that is sealed, and list what cannot be opened.
    Verify(WithConfig),
    /// Destroy all secrets that are kept for a principal, for good.
    Shred {
        /// Such as key:ci or user:ID.
        principal: String,
        #[command(flatten)]
        with: WithConfig,
    },
}

impl VaultCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Status(with) => status(&with),
            Self::Keygen { file } => keygen(&file),
            Self::RotateKek { to, with } => {
                let answer = ask(&with, Method::POST, "/api/v1/vault/rotate", Some(json!({ "to": to })))?;
                if with.output == Format::Table {
                    print(&format!("{} wraps data keys from now on", text(&answer["current"])))?;
                }
                rewrap(&with)
            }
            Self::Rewrap(with) => rewrap(&with),
            Self::Verify(with) => verify(&with),
            Self::Shred { principal, with } => {
                let answer = ask(&with, Method::POST, "/api/v1/vault/shred", Some(json!({ "principal": principal })))?;
                tell(&with, &answer, |_| format!("all secrets of {principal} are destroyed"))
            }
        }
    }
}

fn keygen(file: &Path) -> anyhow::Result<()> {
    make_key_file(file, &Env::system())?;
    print(&format!("{} holds a new key. Back it up, apart from the store.", file.display()))
}

fn status(with: &WithConfig) -> anyhow::Result<()> {
    tell(with, &ask(with, Method::GET, "/api/v1/vault", None)?, standing)
}

fn standing(answer: &Value) -> String {
    let row = |key: &Value| {
        let more = if key["more_data_keys"] == true { "+" } else { "" };
        vec![
            text(&key["kid"]).to_owned(),
            key["source"].as_str().unwrap_or("-").to_owned(),
            key["state"].as_str().unwrap_or("not configured").to_owned(),
            if key["current"] == true { "yes" } else { "no" }.to_owned(),
            format!("{}{more}", key["data_keys"]),
            key["fault"].as_str().unwrap_or("ok").to_owned(),
        ]
    };
    let keys = answer["keys"].as_array().into_iter().flatten().map(row);
    let mut lines = vec![format!("deployment {}", text(&answer["deployment"]))];
    lines.push(table(&["KEY", "SOURCE", "STATE", "IN USE", "DATA KEYS", "HEALTH"], keys));
    if answer["rewrapping"].is_object() {
        lines.push(progress(&answer["rewrapping"]));
    }
    let is_closed = answer["process"]["dumpable"] == false && answer["process"]["core_limit"] == 0;
    let exposure =
        if is_closed { "core dumps are refused" } else { "core dumps are possible: see vault.allow_core_dumps" };
    lines.push(exposure.to_owned());
    lines.join("\n")
}

/// Asks for step after step until all is done.
fn rewrap(with: &WithConfig) -> anyhow::Result<()> {
    let mut line = Progress::begin(with.output);
    // Nobody needs to know where nobody sees it.
    let of = if line.is_shown() { to_be_wrapped(&ask(with, Method::GET, "/api/v1/vault", None)?) } else { None };
    loop {
        let step = ask(with, Method::POST, "/api/v1/vault/rewrap", Some(json!({})))?;
        let done = ["rewrapped", "unreadable", "unreachable"].iter().filter_map(|name| step[name].as_u64()).sum();
        line.show("wrapping", Reached::Things { done, of, name: "data keys" });
        if step["done"] == true {
            drop(line);
            tell(with, &step, progress)?;
            if step["unreadable"] != 0 {
                bail!("{} data keys cannot be unwrapped: see `portcullis vault verify`", step["unreadable"]);
            }
            if step["unreachable"] != 0 {
                bail!(
                    "the keys of {} data keys cannot be reached: see `portcullis vault status`, and go on with `portcullis vault rewrap` when they are back",
                    step["unreachable"]
                );
            }
            return Ok(());
        }
    }
}

/// How many data keys there are to wrap anew, with those that a run that is under way has wrapped already. Nothing where
/// not all were counted.
fn to_be_wrapped(vault: &Value) -> Option<u64> {
    let keys = vault["keys"].as_array()?;
    let others = || keys.iter().filter(|key| key["current"] != true);
    if others().any(|key| key["more_data_keys"] == true) {
        return None;
    }
    let under_way = &vault["rewrapping"];
    let done = if under_way["done"] == false { under_way["rewrapped"].as_u64()? } else { 0 };
    Some(done + others().filter_map(|key| key["data_keys"].as_u64()).sum::<u64>())
}

fn progress(step: &Value) -> String {
    let state = if step["done"] == true { "done" } else { "under way: go on with `portcullis vault rewrap`" };
    format!("{} data keys were wrapped anew by {}, {state}", step["rewrapped"], text(&step["to"]))
}

fn verify(with: &WithConfig) -> anyhow::Result<()> {
    let (mut data_keys, mut fields, mut shredded, mut unreachable, mut bad) = (0, 0, 0, 0, Vec::new());
    let count = |step: &Value, name: &str| step[name].as_u64().unwrap_or_default();
    let mut cursor = Value::Null;
    let mut line = Progress::begin(with.output);
    loop {
        let mut step = ask(with, Method::POST, "/api/v1/vault/verify", Some(json!({ "cursor": cursor })))?;
        data_keys += count(&step, "data_keys");
        fields += count(&step, "sealed_fields");
        shredded += count(&step, "shredded_fields");
        unreachable += count(&step, "unreachable");
        if let Value::Array(mut unreadable) = step["unreadable"].take() {
            bad.append(&mut unreadable);
        }
        line.show("opening what is sealed", Reached::Things { done: data_keys + fields, of: None, name: "records" });
        cursor = step["next_cursor"].take();
        if cursor.is_null() {
            break;
        }
    }
    drop(line);
    // All steps in one.
    let whole = json!({
        "data_keys": data_keys, "sealed_fields": fields, "shredded_fields": shredded, "unreachable": unreachable,
        "unreadable": bad, "next_cursor": null,
    });
    let say = |line: String| if with.output == Format::Table { print(&line) } else { Ok(()) };
    if with.output == Format::Json {
        tell(with, &whole, |_| String::new())?;
    }
    let row = |bad: &Value| ["owner", "table", "key", "field", "reason"].map(|name| cell(text(&bad[name]))).to_vec();
    if !bad.is_empty() {
        say(table(&["OWNER", "TABLE", "KEY", "FIELD", "REASON"], bad.iter().map(row)))?;
    }
    if shredded > 0 {
        say(format!("{shredded} sealed fields are of data keys that were destroyed: nobody can open them"))?;
    }
    match (bad.len(), unreachable) {
        (0, 0) if shredded == 0 => say(format!("{data_keys} data keys and {fields} sealed fields: all can be opened")),
        (0, 0) => {
            say(format!("{data_keys} data keys and {} sealed fields: all others can be opened", fields - shredded))
        }
        (0, _) => bail!(
            "{unreachable} of {} records could not be looked at: their keys cannot be reached",
            data_keys + fields
        ),
        (bad, 0) => bail!("{bad} of {} records cannot be opened", data_keys + fields),
        (bad, _) => bail!(
            "{bad} of {} records cannot be opened, and {unreachable} could not be looked at: their keys cannot be reached",
            data_keys + fields
        ),
    }
}

/// Keys of records that others wrote, on one line and without what makes a terminal show something else.
fn cell(text: &str) -> String {
    plain(text).replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_wrapped_is_counted_where_it_can_be() {
        let vault = |more: bool, rewrapping: Value| {
            let key = |current: bool, data_keys: u64, more: bool| json!({ "current": current, "data_keys": data_keys, "more_data_keys": more });
            json!({ "keys": [key(true, 900, true), key(false, 40, more), key(false, 2, false)], "rewrapping": rewrapping })
        };
        let under_way = |done: bool| json!({ "rewrapped": 100, "done": done });
        for (more, rewrapping, expected) in [
            (false, Value::Null, Some(42)),
            (false, under_way(true), Some(42)),
            (false, under_way(false), Some(142)),
            (true, Value::Null, None),
        ] {
            assert_eq!(to_be_wrapped(&vault(more, rewrapping.clone())), expected, "{more} {rewrapping}");
        }
    }

    #[test]
    fn a_key_stays_in_its_cell() {
        assert_eq!(cell("key:ci/a\u{1b}[2J\nkey:cd"), "key:ci/a\\u001b[2J\\nkey:cd");
    }
}
