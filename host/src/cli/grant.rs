//! Grants: what people have let clients do, listed and revoked.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::WithConfig;
use super::admin::{Paged, ask, filtered, pages, segment, table, text, words};
use super::output::{Format, plain, rows, tell};

#[derive(Subcommand)]
pub(super) enum GrantCommand {
    /// List grants, newest first.
    List {
        /// Only of this client, by its id.
        #[arg(long)]
        client: Option<String>,
        /// Only of this principal, such as user:ID or key:ci.
        #[arg(long)]
        principal: Option<String>,
        /// Only of this kind of principal: key, user or guest.
        #[arg(long)]
        kind: Option<String>,
        /// Only those that are active, revoked or expired.
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    /// Revoke one grant, or all of a client, of a principal, of a kind of principal, or of anybody.
    Revoke(Revoke),
}

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("whose").required(true)))]
pub(super) struct Revoke {
    /// The id of one grant.
    #[arg(group = "whose")]
    id: Option<String>,
    /// All of this client, by its id.
    #[arg(long, group = "whose")]
    client: Option<String>,
    /// All of this principal, such as user:ID or key:ci.
    #[arg(long, group = "whose")]
    principal: Option<String>,
    /// All of this kind of principal: key, user or guest.
    #[arg(long, group = "whose")]
    kind: Option<String>,
    /// All that there are.
    #[arg(long, group = "whose")]
    all: bool,
    #[command(flatten)]
    with: WithConfig,
}

impl GrantCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { client, principal, kind, state, page } => {
                let filters = [("client", client), ("principal", principal), ("kind", kind), ("state", state)];
                page.tell(&filtered("/api/v1/grants", &filters)?, "grants", listed)
            }
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Revoke {
    fn run(self) -> anyhow::Result<()> {
        let Self { id, client, principal, kind, all, with } = self;
        let (wanted, told) = match (id, client, principal, kind, all) {
            (Some(id), None, None, None, false) => {
                let answer = ask(&with, Method::DELETE, &format!("/api/v1/grants/{}", segment(&id)?), None)?;
                return tell(&with, &answer, |_| format!("{id} is revoked"));
            }
            (None, Some(client), None, None, false) => (json!({ "client": client }), format!("the client {client}")),
            (None, None, Some(principal), None, false) => (json!({ "principal": principal }), principal),
            (None, None, None, Some(kind), false) => (json!({ "kind": kind }), format!("the kind {kind}")),
            (None, None, None, None, true) => (json!({ "all": true }), "anybody".to_owned()),
            _ => bail!("name one grant, --client, --principal or --kind, or say --all"),
        };
        // A courtesy, which keeps no revocation back.
        let is_unknown = nothing_counted(&with, &wanted).unwrap_or(false);
        let answer = ask(&with, Method::POST, "/api/v1/grants/revoke", Some(wanted))?;
        tell(&with, &answer, |_| format!("all that was granted to {told} until now is revoked"))?;
        if is_unknown && with.output == Format::Table {
            let note = format!("note: there was no active grant of {told}: is that what was meant?");
            writeln!(io::stderr(), "{}", plain(&note)).context("cannot write to standard error")?;
        }
        Ok(())
    }
}

/// Whether a client or a principal that is named has no active grant, as one that is misspelt.
fn nothing_counted(with: &WithConfig, wanted: &Value) -> anyhow::Result<bool> {
    let named = |member: &str| wanted[member].as_str().map(ToOwned::to_owned);
    let (client, principal) = (named("client"), named("principal"));
    if client.is_none() && principal.is_none() {
        return Ok(false);
    }
    let filters = [("client", client), ("principal", principal), ("state", Some("active".to_owned()))];
    let active = pages(with, &filtered("/api/v1/grants", &filters)?, "grants", Some(1))?;
    Ok(rows(&active, "grants").is_empty())
}

fn listed(grants: &[Value]) -> String {
    let row = |grant: &Value| {
        let cell = |name: &str| text(&grant[name]).replace('\n', " ");
        let named = |id: &str, name: &str| match grant[name].as_str() {
            Some(name) if !cell(id).ends_with(&format!(":{name}")) => {
                format!("{} ({name})", cell(id)).replace('\n', " ")
            }
            _ => cell(id),
        };
        vec![
            cell("id"),
            cell("state"),
            named("principal", "principal_name"),
            named("client", "client_name"),
            words(&grant["scopes"]),
            cell("last_used"),
            cell("idle_until"),
        ]
    };
    table(&["GRANT", "STATE", "PRINCIPAL", "CLIENT", "SCOPES", "LAST USED", "ENDS"], grants.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_one_line_with_the_names_of_both() {
        let grant = json!({
            "id": "0001", "state": "active", "principal": "user:7", "principal_name": "Ann\nB", "client": "app",
            "client_name": "An app", "scopes": ["mcp", "notes"], "last_used": "T1", "idle_until": "T2",
        });
        let key = json!({
            "id": "0002", "state": "revoked", "principal": "key:ci", "principal_name": "ci", "client": "app",
            "client_name": null, "scopes": [], "last_used": "T1", "idle_until": "T2",
        });
        let lines = listed(&[grant, key]);
        let lines: Vec<Vec<&str>> = lines
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[1], ["0001", "active", "user:7 (Ann B)", "app (An app)", "mcp notes", "T1", "T2"]);
        assert_eq!(lines[2], ["0002", "revoked", "key:ci", "app", "T1", "T2"]);
    }
}
