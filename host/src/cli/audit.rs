//! The audit trail of the running gateway: what operators and the gateway did.

use anyhow::bail;
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::WithConfig;
use super::admin::{PAGE, ask, filtered, page, table, text};
use super::follow::{MAX_PAGES, Trail};
use super::output::{rows, tell};

const PATH: &str = "/api/v1/audit";
/// The same as a stream.
const TAIL: &str = "/api/v1/audit/tail";

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// List what was done, newest first.
    List(List),
}

#[derive(clap::Args)]
pub(super) struct List {
    /// Only events whose name begins with this, such as key or grant.revoked.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Only what this actor did, such as operator or user:ID: what its name begins with.
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only what is about this, by its name or id, such as the name of a key.
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Only what was done since then: a time such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    since: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Go on with what is done from now on, until this is stopped.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    with: WithConfig,
}

/// A time as the trail tells times, so that the two compare as texts.
fn read_time(text: &str) -> Result<String, String> {
    let time = humantime::parse_rfc3339(text).map_err(|_| "this is no time such as 2027-01-31T00:00:00Z".to_owned())?;
    Ok(humantime::format_rfc3339_millis(time).to_string())
}

impl AuditCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self::List(list) = self;
        if list.follow {
            let (earlier, stream) = (list.at(PATH)?, list.at(TAIL)?);
            let (member, event) = ("entries", "entry");
            let trail = Trail { with: &list.with, list: &earlier, member, stream: &stream, event, id: "sequence" };
            // The gateway leaves out what else is not wanted, and tells of each row that it cannot read.
            let line = |entry: &Value| (!list.is_before(entry)).then(|| row(entry).join("  "));
            return trail.follow(usize::try_from(list.limit)?, line);
        }
        let head = ["SEQUENCE", "AT", "ACTOR", "EVENT", "DETAIL"];
        let found = list.find()?;
        tell(&list.with, &found, |found| table(&head, rows(found, "entries").iter().map(row)))
    }
}

impl List {
    fn wants(&self, entry: &Value) -> bool {
        let begins = |member: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| text(&entry[member]).starts_with(wanted.as_str()))
        };
        begins("event", &self.event) && begins("actor", &self.actor) && !self.is_before(entry)
    }

    fn is_before(&self, entry: &Value) -> bool {
        self.since.as_deref().is_some_and(|since| text(&entry["at"]) < since)
    }

    /// The address with what is wanted in its query.
    fn at(&self, path: &str) -> anyhow::Result<String> {
        let Self { event, actor, subject, .. } = self;
        filtered(path, &[("event", event.clone()), ("actor", actor.clone()), ("subject", subject.clone())])
    }

    /// As much of the trail as is wanted, and the cursor for what follows it, if something does. The gateway looks through a
    /// part of it at a time.
    fn find(&self) -> anyhow::Result<Value> {
        let mut found: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        let path = self.at(PATH)?;
        for _ in 0..MAX_PAGES {
            let rest = self.limit.saturating_sub(found.len() as u64).min(PAGE);
            let mut answer = ask(&self.with, Method::GET, &page(&path, rest, cursor.as_deref()), None)?;
            cursor = answer["next_cursor"].as_str().map(ToOwned::to_owned);
            let Value::Array(entries) = answer["entries"].take() else { bail!("the gateway's answer has no entries") };
            if entries.iter().any(|entry| self.is_before(entry)) {
                cursor = None;
            }
            found.extend(entries.into_iter().filter(|entry| self.wants(entry)));
            if found.len() as u64 >= self.limit || cursor.is_none() {
                return Ok(json!({ "entries": found, "next_cursor": cursor }));
            }
        }
        bail!("the trail is too long to look through: narrow it down with --since")
    }
}

fn row(entry: &Value) -> Vec<String> {
    let cell = |name: &str| text(&entry[name]).to_owned();
    let said = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let detail = entry["detail"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let detail = detail.map(|(name, value)| format!("{name}={}", said(value))).collect::<Vec<_>>();
    vec![entry["sequence"].to_string(), cell("at"), cell("actor"), cell("event"), detail.join(" ")]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: AuditCommand,
    }

    fn list(arguments: &[&str]) -> List {
        let line = Line::try_parse_from(["audit", "list"].iter().chain(arguments)).unwrap();
        let AuditCommand::List(list) = line.command;
        list
    }

    #[test]
    fn filters_leave_out_what_is_not_wanted() {
        let entry = json!({
            "sequence": 7, "at": "2027-01-31T00:00:00.000Z", "actor": "operator:socket", "event": "key.created",
            "detail": { "key": "ci", "from": null, "tools": 3 },
        });
        assert_eq!(row(&entry)[3..], ["key.created", "key=ci tools=3"]);
        for (arguments, wanted) in [
            (&[][..], true),
            (&["--event", "key", "--actor", "operator"], true),
            (&["--event", "grant"], false),
            (&["--actor", "system"], false),
            (&["--since", "2027-01-31T00:00:00Z"], true),
            (&["--since", "2027-01-31T00:00:01Z"], false),
        ] {
            assert_eq!(list(arguments).wants(&entry), wanted, "{arguments:?}");
        }
        assert!(Line::try_parse_from(["audit", "list", "--since", "yesterday"]).is_err());
    }
}
