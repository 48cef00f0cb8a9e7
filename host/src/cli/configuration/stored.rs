//! What is stored, as the gateway shows it.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value};

use crate::cli::AdminSocket;
use crate::cli::admin::{ask, every_page, segment, text};
use crate::cli::output::rows;

/// Upstreams, virtual keys and policy bindings of the running gateway, and the policy modules that were uploaded to it.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) upstreams: BTreeMap<String, Thing>,
    pub(super) keys: BTreeMap<String, Thing>,
    pub(super) policies: BTreeMap<String, Thing>,
    /// What uploaded modules are called, by their digests.
    pub(super) modules: BTreeMap<String, String>,
}

/// One of them.
#[derive(Clone)]
pub(super) struct Thing {
    /// Whether the gateway's own file declares it, so that it is not to be changed here.
    pub(super) is_of_file: bool,
    /// Of what is stored.
    pub(super) revision: u64,
    /// An upstream that is out of use.
    pub(super) is_disabled: bool,
    /// What a file would say of it.
    pub(super) body: Map<String, Value>,
}

/// What the API shows of a key and a file says as well.
const OF_KEYS: [&str; 6] = ["allow", "disabled", "expires", "groups", "owner", "scopes"];

impl Stored {
    pub(super) fn of(with: &AdminSocket) -> anyhow::Result<Self> {
        let mut stored = Self::default();
        for upstream in every_page(with, "/api/v1/upstreams", "upstreams")? {
            let name = text(&upstream["name"]).to_owned();
            let upstream = match upstream["managed_by"] == "store" {
                true => ask(with, Method::GET, &format!("/api/v1/upstreams/{}", segment(&name)?), None)?,
                false => upstream,
            };
            stored.upstreams.insert(name, Thing::upstream(&upstream));
        }
        for key in every_page(with, "/api/v1/keys", "keys")? {
            stored.keys.insert(text(&key["name"]).to_owned(), Thing::key(&key));
        }
        let in_force = ask(with, Method::GET, "/api/v1/policies", None)?;
        for binding in rows(&in_force, "bindings").iter().filter(|binding| binding["managed_by"] == "file") {
            stored.policies.insert(text(&binding["name"]).to_owned(), Thing::policy(binding));
        }
        for binding in every_page(with, "/api/v1/policies/bindings", "bindings")? {
            stored.policies.insert(text(&binding["name"]).to_owned(), Thing::policy(&binding));
        }
        for module in every_page(with, "/api/v1/policies/modules", "modules")? {
            let called = format!("{} {}", text(&module["name"]), text(&module["version"]));
            stored.modules.insert(text(&module["digest"]).to_owned(), called);
        }
        Ok(stored)
    }
}

impl Thing {
    pub(super) fn upstream(view: &Value) -> Self {
        Self {
            is_of_file: view["managed_by"] == "file",
            revision: view["definition_revision"].as_u64().unwrap_or_default(),
            is_disabled: view["enabled"] == false,
            body: view["definition"].as_object().cloned().unwrap_or_default(),
        }
    }

    pub(super) fn policy(view: &Value) -> Self {
        Self {
            is_of_file: view["managed_by"] == "file",
            revision: view["revision"].as_u64().unwrap_or_default(),
            is_disabled: false,
            body: view["definition"].as_object().cloned().unwrap_or_default(),
        }
    }

    /// Without what is as it would be anyway.
    pub(super) fn key(view: &Value) -> Self {
        let member = |name: &&str| {
            let value = &view[*name];
            let is_usual =
                value.is_null() || *value == Value::Bool(false) || value.as_array().is_some_and(Vec::is_empty);
            (!is_usual).then(|| ((*name).to_owned(), value.clone()))
        };
        Self {
            is_of_file: view["managed_by"] == "file",
            revision: view["revision"].as_u64().unwrap_or_default(),
            is_disabled: false,
            body: OF_KEYS.iter().filter_map(member).collect(),
        }
    }
}
