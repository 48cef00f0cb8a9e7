//! The vault: its keys and their health, rotation, verification, and shredding.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Json, Operator, Problem, ok};
use crate::ids::{KekId, Owner};
use crate::store::data_keys::Rewrapping;
use crate::vault::rotation::{Bad, KekStatus, Rotation, Shred, Status};
use crate::vault::{VaultError, process};

const CURSOR: &str = "vault-verify";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    /// The key to rotate to; without it, the next active one of the configuration.
    #[serde(default)]
    to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ToShred {
    /// Such as `user:…`.
    principal: String,
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Answer {
    let Status { deployment, keys, rewrapping, cached } = api.control.vault_status().await?;
    let exposure = process::exposure().ok();
    Ok(ok(&json!({
        "deployment": deployment,
        "keys": keys.iter().map(key_view).collect::<Vec<_>>(),
        "rewrapping": rewrapping.as_ref().map(rewrapping_view),
        "cached_data_keys": cached,
        "process": {
            "dumpable": exposure.map(|exposure| exposure.dumpable),
            "core_limit": exposure.and_then(|exposure| exposure.core_limit),
        },
    })))
}

pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(Rotate { to }): Json<Rotate>,
) -> Answer {
    let to = to.map(|kid| KekId::parse(&kid)).transpose().map_err(|error| Problem::invalid(error.to_string()))?;
    let conflict = |code, detail: String| Problem::new(StatusCode::CONFLICT, code, detail);
    match api.control.rotate_kek(to, operator.0).await? {
        Rotation::Rotated(kid) => Ok(ok(&json!({ "current": kid, "changed": true }))),
        Rotation::Unchanged(kid) => Ok(ok(&json!({ "current": kid, "changed": false }))),
        Rotation::NoOther => {
            let detail = "there is no other active key: add one to [[vault.keys]] and reload the configuration";
            Err(conflict("no_other_key", detail.to_owned()))
        }
        Rotation::NotConfigured(kid) => {
            let detail = format!("{kid} is not in [[vault.keys]]: add it and reload the configuration");
            Err(conflict("not_configured", detail))
        }
        Rotation::NotActive(kid) => {
            let detail = format!("{kid} is not active: write state = \"active\" and reload the configuration");
            Err(conflict("not_active", detail))
        }
    }
}

pub(super) async fn rewrap(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(Step {}): Json<Step>,
) -> Answer {
    Ok(ok(&rewrapping_view(&api.control.rewrap(operator.0).await?)))
}

pub(super) async fn verify(State(api): State<Arc<Api>>, Json(Verify { cursor }): Json<Verify>) -> Answer {
    let stranger = || Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "the cursor is not one of this list");
    let from = cursor.map(|cursor| api.services.secret.open(CURSOR, &cursor).ok_or_else(stranger)).transpose()?;
    let verified = api.control.verify_vault(from.as_deref()).await?.ok_or_else(stranger)?;
    Ok(ok(&json!({
        "data_keys": verified.data_keys,
        "sealed_fields": verified.fields,
        "shredded_fields": verified.shredded,
        "unreachable": verified.unreachable,
        "unreadable": verified.bad.iter().map(bad_view).collect::<Vec<_>>(),
        "next_cursor": verified.next.map(|next| api.services.secret.sign(CURSOR, &next)),
    })))
}

pub(super) async fn shred(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(ToShred { principal }): Json<ToShred>,
) -> Answer {
    let owner = Owner::parse(&principal).ok_or_else(|| {
        Problem::invalid("`principal` is `key:NAME`, `user:ID`, `guest:ID`, or `shared:NAME` for what several share")
    })?;
    match api.control.shred(&owner, operator.0).await? {
        Shred::Shredded => Ok(ok(&json!({ "shredded": owner.to_string() }))),
        Shred::NotFound => Err(Problem::not_found("data key: nothing is sealed for this principal")),
        Shred::Refused => Err(Problem::invalid("the deployment's own secrets are not shredded")),
    }
}

fn key_view(key: &KekStatus) -> Value {
    let KekStatus { kid, state, source, is_current, data_keys, is_more, fault } = key;
    json!({
        "kid": kid,
        "state": state,
        "source": source,
        "current": is_current,
        "data_keys": data_keys,
        "more_data_keys": is_more,
        "fault": fault,
    })
}

fn rewrapping_view(rewrapping: &Rewrapping) -> Value {
    json!({
        "to": rewrapping.to,
        "rewrapped": rewrapping.rewrapped,
        "unreadable": rewrapping.unreadable,
        "unreachable": rewrapping.unreachable,
        "done": rewrapping.is_done,
    })
}

fn bad_view(bad: &Bad) -> Value {
    let Bad { owner, table, key, field, reason } = bad;
    json!({ "owner": owner.to_string(), "table": table, "key": key, "field": field, "reason": reason })
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => error.into(),
            error => {
                tracing::error!(%error, "the vault failed an operator's request");
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                let detail = format!("{error}{cause}");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "vault_unavailable", detail)
            }
        }
    }
}
