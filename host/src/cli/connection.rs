//! Connections: whose credentials are kept for which upstreams, listed, made anew and ended.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::WithConfig;
use super::admin::{Paged, ask, filtered, segment, table, text, words};
use super::output::tell;

#[derive(Subcommand)]
pub(super) enum ConnectionCommand {
    /// List connections, newest first.
    List {
        /// Only of this holder, such as user:ID, key:ci, gateway or shared.
        #[arg(long)]
        holder: Option<String>,
        /// Only at this upstream.
        #[arg(long)]
        upstream: Option<String>,
        /// Only those that are active, needs_reauth, needs_update, orphaned or unused.
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    /// Print a link that makes a connection anew: one of the gateway's own, of all, or of a key. It opens once, within 15
    /// minutes. People and guests connect by themselves.
    Reauthorise {
        /// Its id.
        id: String,
        #[command(flatten)]
        with: WithConfig,
    },
    /// End a connection: its credential is erased at once, and revoked where it came from.
    Revoke {
        /// Its id.
        id: String,
        #[command(flatten)]
        with: WithConfig,
    },
}

impl ConnectionCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { holder, upstream, state, page } => {
                let path =
                    filtered("/api/v1/connections", &[("holder", holder), ("upstream", upstream), ("state", state)])?;
                page.tell(&path, "connections", listed)
            }
            Self::Reauthorise { id, with } => {
                let path = format!("/api/v1/connections/{}/reauthorise", segment(&id)?);
                tell(&with, &ask(&with, Method::POST, &path, None)?, |link| text(&link["url"]).to_owned())
            }
            Self::Revoke { id, with } => {
                let answer = ask(&with, Method::DELETE, &format!("/api/v1/connections/{}", segment(&id)?), None)?;
                tell(&with, &answer, |_| format!("{id} is ended"))
            }
        }
    }
}

fn listed(connections: &[Value]) -> String {
    let row = |connection: &Value| {
        let cell = |name: &str| text(&connection[name]).replace('\n', " ");
        let carries =
            if cell("kind") == "headers" { words(&connection["headers"]) } else { words(&connection["scopes"]) };
        vec![
            cell("id"),
            cell("holder"),
            cell("upstream"),
            cell("kind"),
            cell("state"),
            cell("reason"),
            carries,
            cell("stored"),
        ]
    };
    let head = ["CONNECTION", "HOLDER", "UPSTREAM", "KIND", "STATE", "REASON", "CARRIES", "STORED"];
    table(&head, connections.iter().map(row))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_connection_is_one_line_with_what_it_carries() {
        let of_user = json!({
            "id": "0001", "holder": "user:7", "upstream": "mail", "kind": "oauth", "state": "needs_reauth",
            "reason": "refresh_refused", "scopes": ["read", "send"], "stored": "T1",
        });
        let of_key = json!({
            "id": "0002", "holder": "key:ci", "upstream": "notes", "kind": "headers", "state": "active",
            "reason": null, "headers": ["x-api-key"], "stored": "T2",
        });
        let lines = listed(&[of_user, of_key]);
        let lines: Vec<Vec<&str>> = lines
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[1], ["0001", "user:7", "mail", "oauth", "needs_reauth", "refresh_refused", "read send", "T1"]);
        assert_eq!(lines[2], ["0002", "key:ci", "notes", "headers", "active", "x-api-key", "T2"]);
    }
}
