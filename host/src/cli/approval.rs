//! Approvals that policies of the running gateway want: listed, shown, decided.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::WithConfig;
use super::admin::{Paged, ask, segment, table, text};
use super::output::tell;

#[derive(Subcommand)]
pub(super) enum ApprovalCommand {
    /// List approvals, newest first.
    List {
        /// Only those that are pending, approved, used, denied or lapsed; `all` for all of them.
        #[arg(long, default_value = "pending")]
        state: String,
        #[command(flatten)]
        page: Paged,
    },
    /// Show what an approval is for, with the arguments as they would be sent.
    Show {
        /// The id of the approval, as the list shows it.
        id: String,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Approve or deny. An approval is good for this caller, this tool as it is defined now, and these arguments.
    Decide(Decide),
}

#[derive(clap::Args)]
#[group(id = "decision", required = true, multiple = false, args = ["approve", "deny"])]
pub(super) struct Decide {
    /// The id of the approval, as the list shows it.
    id: String,
    /// Let it happen.
    #[arg(long)]
    approve: bool,
    /// Refuse it, until the request for approval lapses.
    #[arg(long)]
    deny: bool,
    /// Why. Callers see it where it is denied.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    with: WithConfig,
}

impl ApprovalCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { state, page } => list(&page, &state),
            Self::Show { id, with } => {
                let approval = ask(&with, Method::GET, &format!("/api/v1/approvals/{}", segment(&id)?), None)?;
                tell(&with, &approval, in_full)
            }
            Self::Decide(Decide { id, approve, deny: _, note, with }) => {
                let path = format!("/api/v1/approvals/{}/decision", segment(&id)?);
                let body = json!({ "decision": if approve { "approve" } else { "deny" }, "note": note });
                let approval = ask(&with, Method::POST, &path, Some(body))?;
                let told = |approval: &Value| {
                    format!("{id} is {} until {}", text(&approval["state"]), text(&approval["until"]))
                };
                tell(&with, &approval, told)
            }
        }
    }
}

fn list(page: &Paged, state: &str) -> anyhow::Result<()> {
    let path = match state {
        "all" => "/api/v1/approvals".to_owned(),
        state => format!("/api/v1/approvals?state={}", segment(state)?),
    };
    let row = |approval: &Value| {
        let cell = |name: &str| text(&approval[name]).to_owned();
        vec![
            cell("id"),
            cell("state"),
            cell("until"),
            cell("principal"),
            format!("{}/{}", text(&approval["upstream"]), text(&approval["item"])),
            cell("policy"),
            cell("title"),
        ]
    };
    let head = ["ID", "STATE", "UNTIL", "PRINCIPAL", "TOOL", "POLICY", "TITLE"];
    page.tell(&path, "approvals", |approvals| table(&head, approvals.iter().map(row)))
}

/// All there is to know of an approval.
fn in_full(approval: &Value) -> String {
    let cell = |name: &str| text(&approval[name]).to_owned();
    let remembered = match approval["remember"]["seconds"].as_u64() {
        Some(seconds) => format!("for {seconds} s"),
        None => "for one request".to_owned(),
    };
    let by = match &approval["by"] {
        Value::Array(names) => names.iter().map(text).collect::<Vec<_>>().join(", "),
        by => text(by).to_owned(),
    };
    let mut rows = vec![
        ("state", format!("{} until {}", cell("state"), cell("until"))),
        ("title", cell("title")),
        ("principal", cell("principal")),
        ("client", cell("client")),
        ("operation", cell("operation")),
        ("tool", format!("{}/{}", cell("upstream"), cell("item"))),
        ("definition", cell("definition_digest")),
        ("policy", format!("{} ({})", cell("policy"), cell("reason_code"))),
        ("wants", format!("{by} to agree, {remembered}")),
        ("requested", cell("requested")),
    ];
    let decided = &approval["decided"];
    if decided.is_object() {
        let note = decided["note"].as_str().map(|note| format!(": {note}")).unwrap_or_default();
        rows.push(("decided", format!("{} by {}{note}", text(&decided["at"]), text(&decided["by"]))));
    }
    rows.retain(|(_, value)| !value.is_empty());
    let rows = table(&[], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]));
    let arguments = match &approval["arguments"] {
        Value::Null => format!("not kept; their digest is {}", cell("arguments_digest")),
        arguments => format!("{arguments:#}"),
    };
    format!("{rows}\n\n{}\n\nArguments: {arguments}", cell("summary"))
}
