//! Decisions of the running gateway: listed, shown, followed.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::WithConfig;
use super::admin::{ask, filtered, pages, segment, table, text};
use super::follow::Trail;
use super::output::{rows, tell};
use super::policy::explain;

const PATH: &str = "/api/v1/decisions";
/// The same as a stream.
const TAIL: &str = "/api/v1/decisions/tail";

#[derive(Subcommand)]
pub(super) enum DecisionCommand {
    /// List decisions, newest first.
    List(List),
    /// Show one decision, with each policy that was asked and what it said.
    Show {
        /// Its id, as the list, the log and the console show it.
        id: String,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Print decisions as they are made, until this is stopped.
    Follow {
        #[command(flatten)]
        which: Which,
        /// So many of those that were made before come first.
        #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=200))]
        last: u64,
        #[command(flatten)]
        with: WithConfig,
    },
}

#[derive(clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    which: Which,
    /// Only of requests that began then or later: a time such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only of requests that began before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    #[command(flatten)]
    with: WithConfig,
}

#[derive(clap::Args)]
pub(super) struct Which {
    /// Only of this principal, such as key:ci.
    #[arg(long)]
    principal: Option<String>,
    /// Only of this upstream.
    #[arg(long)]
    upstream: Option<String>,
    /// Only of this tool, by the upstream's own name for it.
    #[arg(long)]
    tool: Option<String>,
    /// Only with this verdict: allow, deny, hidden, step-up, approve, throttle, consent or error.
    #[arg(long)]
    verdict: Option<String>,
    /// Only those that ended so: result, tool_error, error, refused or cancelled.
    #[arg(long)]
    outcome: Option<String>,
}

impl Which {
    /// The address with these in its query.
    fn at(&self, path: &str) -> anyhow::Result<String> {
        let Self { principal, upstream, tool, verdict, outcome } = self;
        let filters = [
            ("principal", principal),
            ("upstream", upstream),
            ("tool", tool),
            ("verdict", verdict),
            ("outcome", outcome),
        ];
        filtered(path, &filters.map(|(name, value)| (name, value.clone())))
    }
}

impl DecisionCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(list) => list.run(),
            Self::Show { id, with } => {
                let decision = ask(&with, Method::GET, &format!("/api/v1/decisions/{}", segment(&id)?), None)?;
                tell(&with, &decision, explain::in_full)
            }
            Self::Follow { which, last, with } => {
                let (list, stream) = (which.at(PATH)?, which.at(TAIL)?);
                let (member, event) = ("decisions", "decision");
                let trail = Trail { with: &with, list: &list, member, stream: &stream, event, id: "id" };
                trail.follow(usize::try_from(last)?, |decision| Some(row(decision).join("  ")))
            }
        }
    }
}

impl List {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { which, since, until, limit, with } = self;
        let path = filtered(&which.at(PATH)?, &[("since", since), ("until", until)])?;
        let answer = pages(&with, &path, "decisions", Some(limit))?;
        let head = ["ID", "AT", "PRINCIPAL", "OPERATION", "TOOL", "VERDICT", "OUTCOME", "TOOK", "POLICIES"];
        tell(&with, &answer, |answer| table(&head, rows(answer, "decisions").iter().map(row)))
    }
}

fn row(decision: &Value) -> Vec<String> {
    let step = |step: &Value| {
        let code = step["reason_code"].as_str().map(|code| format!("({code})")).unwrap_or_default();
        format!("{} {}{code} {}µs", text(&step["policy"]), text(&step["verdict"]), step["micros"])
    };
    let steps: Vec<String> = decision["steps"].as_array().into_iter().flatten().map(step).collect();
    let cell = |name: &str| text(&decision[name]).to_owned();
    let tool = [cell("upstream"), cell("tool")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    vec![
        cell("id"),
        cell("at"),
        cell("principal"),
        cell("operation"),
        tool.join("/"),
        cell("verdict"),
        cell("outcome"),
        format!("{} ms", decision["elapsed_ms"]),
        steps.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_decision_is_one_line_with_what_each_policy_said() {
        let decision = json!({
            "id": "01", "at": "T1", "principal": "key:ci", "operation": "tools/call", "upstream": "notes", "tool": "add",
            "verdict": "deny", "outcome": "refused", "elapsed_ms": 3,
            "steps": [{ "policy": "guard", "verdict": "deny", "reason_code": "outside", "micros": 40 }],
        });
        let cells = row(&decision);
        assert_eq!(cells[4..], ["notes/add", "deny", "refused", "3 ms", "guard deny(outside) 40µs"]);
        let listing = json!({ "id": "02", "tool": null, "upstream": null, "elapsed_ms": 0, "steps": [] });
        assert_eq!(row(&listing)[4], "");
    }
}
