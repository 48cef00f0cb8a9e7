//! A policy as the running gateway has it in force, whether the file or the store binds it, and whatever either says by now.

use anyhow::bail;
use http::Method;
use serde_json::Value;

use super::super::AdminSocket;
use super::super::admin::{ask, segment, text};
use super::super::output::{is_not_found, rows};

pub(super) struct InForce {
    /// What the module is configured with.
    pub(super) config: Value,
    generation: u64,
    managed_by: String,
}

impl InForce {
    /// The one of this name.
    ///
    /// # Errors
    /// There is none, or the gateway does not answer.
    pub(super) fn of(with: &AdminSocket, name: &str) -> anyhow::Result<Self> {
        match ask(with, Method::GET, &format!("/api/v1/policies/in-force/{}", segment(name)?), None) {
            Ok(mut view) => Ok(Self {
                config: view["config"].take(),
                generation: view["generation"].as_u64().unwrap_or_default(),
                managed_by: text(&view["managed_by"]).to_owned(),
            }),
            Err(error) if is_not_found(&error) => {
                let policies = ask(with, Method::GET, "/api/v1/policies", None)?;
                let names: Vec<&str> = rows(&policies, "bindings").iter().map(|bound| text(&bound["name"])).collect();
                match names.is_empty() {
                    true => bail!("the running gateway has no policy {name:?}, and no other"),
                    false => bail!("the running gateway has no policy {name:?}; it has {}", names.join(", ")),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Where it comes from, in words.
    pub(super) fn origin(&self) -> String {
        let place = if self.managed_by == "store" { "the store" } else { "the configuration file" };
        format!("generation {}, of {place}", self.generation)
    }
}
