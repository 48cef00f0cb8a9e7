//! OAuth clients of the running gateway: added, listed, shown, changed, removed.

use anyhow::bail;
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::WithConfig;
use super::admin::{Paged, ask, filtered, segment, table, text};
use super::output::tell;

#[derive(Subcommand)]
pub(super) enum ClientCommand {
    /// Add a client. It stays until it is removed; its secret, if it has one, is shown once.
    Add(Add),
    /// List clients: those of the configuration file, those that were added, and those that registered themselves.
    List {
        /// Only those of the configuration (file), those that were added (operator), or those that registered themselves
        /// (registered).
        #[arg(long)]
        origin: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    /// Show what is known of a client.
    Show(OneClient),
    /// Change what a client is described by, or give it another secret. What is not given stays; what is given takes the place of what was.
    Set(Box<SetClient>),
    /// Remove a client, and revoke all that was granted to it.
    Remove(OneClient),
}

#[derive(clap::Args)]
pub(super) struct Add {
    /// What people are told that it is called.
    name: String,
    /// Where the browser may be sent back to. May be given several times.
    #[arg(long = "redirect-uri", value_name = "URI")]
    redirect_uris: Vec<String>,
    /// How it proves who it is: `none`, `client_secret_basic` or `client_secret_post`.
    #[arg(long, value_name = "METHOD", default_value = "none")]
    auth_method: String,
    /// What it may present at the token endpoint, such as `client_credentials`. May be given several times; without it,
    /// `authorization_code` and `refresh_token`.
    #[arg(long = "grant-type", value_name = "TYPE")]
    grant_types: Vec<String>,
    /// A scope that it may ask for. May be given several times; without it, all.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    #[command(flatten)]
    with: WithConfig,
}

#[derive(clap::Args)]
pub(super) struct SetClient {
    /// What people are told that it is called.
    #[arg(long)]
    name: Option<String>,
    /// Where the browser may be sent back to, in the place of where it may now. May be given several times.
    #[arg(long = "redirect-uri", value_name = "URI")]
    redirect_uris: Vec<String>,
    /// How it proves who it is: `none`, `client_secret_basic` or `client_secret_post`.
    #[arg(long, value_name = "METHOD")]
    auth_method: Option<String>,
    /// What it may present at the token endpoint, in the place of what it may now. May be given several times.
    #[arg(long = "grant-type", value_name = "TYPE")]
    grant_types: Vec<String>,
    /// A scope that it may ask for, in the place of those that it may now. May be given several times.
    #[arg(long = "scope", value_name = "SCOPE", conflicts_with = "all_scopes")]
    scopes: Vec<String>,
    /// It may ask for all scopes.
    #[arg(long)]
    all_scopes: bool,
    /// Give it another secret, which is shown once. The one before is good no more.
    #[arg(long)]
    new_secret: bool,
    #[command(flatten)]
    client: OneClient,
}

#[derive(clap::Args)]
pub(super) struct OneClient {
    /// The id of the client, as the list shows it.
    id: String,
    #[command(flatten)]
    with: WithConfig,
}

impl ClientCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add(new) => add(&new),
            Self::List { origin, page } => list(&page, &filtered("/api/v1/clients", &[("origin", origin)])?),
            Self::Show(one) => {
                let client = ask(&one.with, Method::GET, &path(&one)?, None)?;
                tell(&one.with, &client, in_full)
            }
            Self::Set(set) => {
                let (patch, one) = (set.patch()?, &set.client);
                let client = ask(&one.with, Method::PATCH, &path(one)?, Some(patch))?;
                tell(&one.with, &client, |client| match client["client_secret"].as_str() {
                    Some(secret) => format!("client_secret  {secret}\nThe secret is shown once."),
                    None => format!("{} is changed", one.id),
                })
            }
            Self::Remove(one) => {
                let answer = ask(&one.with, Method::DELETE, &path(&one)?, None)?;
                tell(&one.with, &answer, |_| format!("{} is removed, and what was granted to it is revoked", one.id))
            }
        }
    }
}

fn path(one: &OneClient) -> anyhow::Result<String> {
    Ok(format!("/api/v1/clients/{}", segment(&one.id)?))
}

impl SetClient {
    /// What is to be otherwise, as a merge patch.
    fn patch(&self) -> anyhow::Result<Value> {
        let Self { name, redirect_uris, auth_method, grant_types, scopes, all_scopes, new_secret, client: _ } = self;
        let mut patch = Map::new();
        let mut say = |member: &str, value: Value| _ = patch.insert(member.to_owned(), value);
        if let Some(name) = name {
            say("client_name", json!(name));
        }
        if let Some(method) = auth_method {
            say("token_endpoint_auth_method", json!(method));
        }
        if !redirect_uris.is_empty() {
            say("redirect_uris", json!(redirect_uris));
        }
        if !grant_types.is_empty() {
            say("grant_types", json!(grant_types));
            // They follow from the grant types.
            say("response_types", Value::Null);
        }
        if *all_scopes || !scopes.is_empty() {
            say("scope", if *all_scopes { Value::Null } else { json!(scopes.join(" ")) });
        }
        if *new_secret {
            say("new_secret", json!(true));
        }
        if patch.is_empty() {
            bail!("nothing to change: say what, such as --name, --redirect-uri or --new-secret");
        }
        Ok(Value::Object(patch))
    }
}

fn add(Add { name, redirect_uris, auth_method, grant_types, scopes, with }: &Add) -> anyhow::Result<()> {
    let mut body = Map::new();
    let mut say = |member: &str, value: Value| _ = body.insert(member.to_owned(), value);
    say("client_name", json!(name));
    say("redirect_uris", json!(redirect_uris));
    say("token_endpoint_auth_method", json!(auth_method));
    if !grant_types.is_empty() {
        say("grant_types", json!(grant_types));
    }
    if !scopes.is_empty() {
        say("scope", json!(scopes.join(" ")));
    }
    let client = ask(with, Method::POST, "/api/v1/clients", Some(Value::Object(body)))?;
    tell(with, &client, |client| {
        let id = text(&client["client_id"]);
        match client["client_secret"].as_str() {
            Some(secret) => format!("client_id      {id}\nclient_secret  {secret}\nThe secret is shown once."),
            None => format!("client_id      {id}"),
        }
    })
}

fn list(page: &Paged, path: &str) -> anyhow::Result<()> {
    let row = |client: &Value| {
        let cell = |name: &str| text(&client[name]).to_owned();
        let or = |name: &str, other: &str| client[name].as_str().unwrap_or(other).to_owned();
        vec![
            cell("client_id"),
            cell("client_name"),
            cell("origin"),
            cell("token_endpoint_auth_method"),
            or("last_used", "never"),
            or("expires", "never"),
        ]
    };
    let head = ["ID", "NAME", "ORIGIN", "PROVES ITSELF BY", "LAST USED", "EXPIRES"];
    page.tell(path, "clients", |clients| table(&head, clients.iter().map(row)))
}

/// All there is to know of a client.
fn in_full(client: &Value) -> String {
    let members = client.as_object().into_iter().flatten();
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().map(text).collect::<Vec<_>>().join(" ")
        }
        value => value.to_string(),
    };
    let known = members.filter(|(_, value)| !value.is_null());
    table(&[], known.map(|(name, value)| vec![name.clone(), shown(value)]))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: ClientCommand,
    }

    fn patch(arguments: &[&str]) -> anyhow::Result<Value> {
        let line = Line::try_parse_from(["client", "set", "c1"].iter().chain(arguments))?;
        let ClientCommand::Set(set) = line.command else { panic!("another command") };
        set.patch()
    }

    #[test]
    fn what_is_given_changes_and_nothing_else() {
        for (arguments, expected) in [
            (&["--new-secret"][..], json!({ "new_secret": true })),
            (
                &["--name", "CI", "--auth-method", "none"],
                json!({ "client_name": "CI", "token_endpoint_auth_method": "none" }),
            ),
            (&["--redirect-uri", "https://a/b"], json!({ "redirect_uris": ["https://a/b"] })),
            (
                &["--grant-type", "client_credentials"],
                json!({ "grant_types": ["client_credentials"], "response_types": null }),
            ),
            (&["--scope", "a", "--scope", "b"], json!({ "scope": "a b" })),
            (&["--all-scopes"], json!({ "scope": null })),
        ] {
            assert_eq!(patch(arguments).unwrap(), expected, "{arguments:?}");
        }
        for wrong in [&[][..], &["--scope", "a", "--all-scopes"], &["--name"]] {
            assert!(patch(wrong).is_err(), "{wrong:?}");
        }
    }
}
