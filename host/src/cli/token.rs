//! `portcullis token`: API tokens, with which programs act for people; and `portcullis setup-link`.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::admin::{Paged, ask, segment, table, text, words};
use super::output::tell;
use super::user::id_of;
use super::{WithConfig, print};
use crate::secret::Plaintext;

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token. Its secret is shown once.
    Create {
        /// What tells it from others of the same person, such as `ci`.
        name: String,
        /// The login of the person it acts for, or their id.
        #[arg(long, value_name = "LOGIN")]
        user: String,
        /// The most that it may do. It never does more than its person may.
        #[arg(long, value_enum, default_value_t = CeilingName::Viewer)]
        role: CeilingName,
        /// `read` for changing nothing, or the area that it is for, such as `keys`. May be given several times; without it,
        /// everything that the role may.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// When it ends, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        with: WithConfig,
    },
    /// List tokens, newest first.
    List {
        /// Only of whoever has this login, or this id.
        #[arg(long, value_name = "LOGIN")]
        user: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    /// End a token.
    Revoke {
        /// The id, as the list tells it.
        id: String,
        #[command(flatten)]
        with: WithConfig,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum CeilingName {
    Viewer,
    Operator,
    Owner,
}

impl CeilingName {
    const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }
}

impl TokenCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { name, user, role, scopes, expires, with } => {
                let user = id_of(&with, &user)?;
                let wanted =
                    json!({ "name": name, "user": user, "role": role.word(), "scopes": scopes, "expires": expires });
                let token = ask(&with, Method::POST, "/api/v1/api-tokens", Some(wanted))?;
                tell(&with, &token, |token| format!("{}\n{SHOWN_ONCE}", text(&token["secret"])))
            }
            Self::List { user, page } => {
                let path = match user {
                    Some(user) => format!("/api/v1/api-tokens?user={}", segment(&id_of(&page.with, &user)?)?),
                    None => "/api/v1/api-tokens".to_owned(),
                };
                page.tell(&path, "api_tokens", listed)
            }
            Self::Revoke { id, with } => {
                let answer = ask(&with, Method::DELETE, &format!("/api/v1/api-tokens/{}", segment(&id)?), None)?;
                tell(&with, &answer, |_| format!("{id} is revoked"))
            }
        }
    }
}

const SHOWN_ONCE: &str = "This is shown once. Send it as `Authorization: Bearer …` to the admin listener.";

fn listed(tokens: &[Value]) -> String {
    let row = |token: &Value| {
        let cell = |name: &str| text(&token[name]).to_owned();
        let or = |name: &str, other: &str| token[name].as_str().unwrap_or(other).to_owned();
        vec![
            cell("id"),
            cell("name"),
            cell("user"),
            cell("role"),
            words(&token["scopes"]),
            or("expires", "never"),
            or("last_used", "never"),
        ]
    };
    table(&["ID", "NAME", "USER", "ROLE", "SCOPES", "EXPIRES", "LAST USED"], tokens.iter().map(row))
}

/// Has the running gateway make another set-up link.
pub(super) fn set_up_link(with: &WithConfig) -> anyhow::Result<()> {
    let answer = ask(with, Method::POST, "/api/v1/set-up-link", None)?;
    tell(with, &answer, |answer| text(&answer["link"]).to_owned())
}

/// Shows the link of the start on standard output, and tells whether that was done. It is a secret: it is not printed where the
/// log goes as well, unless that is a terminal.
pub(super) fn print_set_up_link(link: &Plaintext) -> bool {
    let told = || format!("Nobody is an owner yet. Make the account of the first one here, once:\n{}", link.expose());
    (io::stdout().is_terminal() || !is_one(&io::stdout(), &io::stderr())) && print(&told()).is_ok()
}

/// Whether both lead to the same file, pipe or socket. What cannot be told counts as one.
fn is_one(one: &impl AsFd, other: &impl AsFd) -> bool {
    let place = |fd: &dyn AsFd| {
        let metadata = File::from(fd.as_fd().try_clone_to_owned()?).metadata()?;
        io::Result::Ok((metadata.dev(), metadata.ino()))
    };
    match (place(one), place(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_without_its_secret() {
        let token = json!({
            "id": "0a", "name": "ci", "user": "0b", "role": "operator", "scopes": ["read", "keys"], "expires": null,
            "last_used": "T1", "secret": "pat_x",
        });
        let lines = listed(&[token]);
        let cells: Vec<&str> =
            lines.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["0a", "ci", "0b", "operator", "read keys", "never", "T1"]);
    }
}
