//! The keys that sign access tokens: listed, rotated, and taken out.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::WithConfig;
use super::admin::{Whole, ask, segment, table, text};
use super::output::tell;

#[derive(Subcommand)]
pub(super) enum SigningKeyCommand {
    /// List the published keys, and which of them signs.
    List(Whole),
    /// Publish another key, which signs once it was published for as long as the configuration says.
    Rotate {
        /// Have it sign at once. Who verifies tokens by a copy of the published keys may not know it yet.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Take out a key that somebody else may have: nothing that it has signed counts any more.
    Revoke {
        /// The id of the key (`kid`), as the list shows it.
        #[arg(allow_hyphen_values = true)]
        kid: String,
        #[command(flatten)]
        with: WithConfig,
    },
}

impl SigningKeyCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(whole) => {
                let head = ["KEY", "ALGORITHM", "STATE", "SIGNS", "CREATED", "NEXT"];
                whole.tell("/api/v1/signing-keys", "signing_keys", |keys| table(&head, keys.iter().map(row)))
            }
            Self::Rotate { now, with } => {
                let answer = ask(&with, Method::POST, "/api/v1/signing-keys/rotate", Some(json!({ "now": now })))?;
                tell(&with, &answer, rotated)
            }
            Self::Revoke { kid, with } => {
                let path = format!("/api/v1/signing-keys/{}/revoke", segment(&kid)?);
                let answer = ask(&with, Method::POST, &path, Some(json!({})))?;
                tell(&with, &answer, |answer| match answer["signs"].as_str() {
                    Some(signs) => format!("{kid} is taken out; {signs} signs"),
                    None => format!("{kid} is taken out; no key signs: the gateway's log says why"),
                })
            }
        }
    }
}

fn row(key: &Value) -> Vec<String> {
    let cell = |name: &str| text(&key[name]).to_owned();
    let next = match text(&key["state"]) {
        "announced" => format!("signs from {}", cell("usable_from")),
        "active" => format!("signs since {}", cell("since")),
        _ => format!("goes at {}", cell("until")),
    };
    let signs = if key["signs"] == true { "yes" } else { "no" };
    vec![cell("kid"), cell("algorithm"), cell("state"), signs.to_owned(), cell("created"), next]
}

fn rotated(answer: &Value) -> String {
    let kid = text(&answer["kid"]);
    if answer["signs"] == true {
        format!("{kid} signs")
    } else if answer["new"] == true {
        format!("{kid} is published, and signs from {}", text(&answer["usable_from"]))
    } else {
        format!("{kid} was published already, and signs from {}", text(&answer["usable_from"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_does_and_will_do_is_told() {
        let key = |state: &str| {
            json!({ "kid": "k", "algorithm": "RS256", "state": state, "signs": state == "active",
            "created": "T0", "usable_from": "T1", "since": "T2", "until": "T3" })
        };
        assert_eq!(row(&key("announced")), ["k", "RS256", "announced", "no", "T0", "signs from T1"]);
        assert_eq!(row(&key("active")), ["k", "RS256", "active", "yes", "T0", "signs since T2"]);
        assert_eq!(row(&key("retired")), ["k", "RS256", "retired", "no", "T0", "goes at T3"]);
        let answer = |signs: bool, new: bool| json!({ "kid": "k", "signs": signs, "new": new, "usable_from": "T1" });
        assert_eq!(rotated(&answer(true, true)), "k signs");
        assert_eq!(rotated(&answer(false, true)), "k is published, and signs from T1");
        assert_eq!(rotated(&answer(false, false)), "k was published already, and signs from T1");
    }
}
