//! The keys that sign access tokens: looked at, rotated, and taken out.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Json, Operator, Path, Problem, ok};
use crate::authorization::signing::{Revocation, Rotation, When};
use crate::oauth::signing::{SigningKey, Stage};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    /// Without waiting until whoever verifies can know it.
    #[serde(default)]
    now: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    let (keys, signs) = api.signing.list().await?;
    let rows: Vec<Value> = keys.iter().map(|key| view(key, signs.as_deref())).collect();
    Ok(ok(&json!({ "signing_keys": rows })))
}

pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(Rotate { now }): Json<Rotate>,
) -> Answer {
    let when = if now { When::Now } else { When::Announced };
    let conflict = |code, detail: &str| Problem::new(StatusCode::CONFLICT, code, detail);
    match api.signing.rotate(when, operator.0).await? {
        Rotation::Announced { kid, usable_from, is_new } => {
            Ok(ok(&json!({ "kid": kid, "signs": false, "usable_from": usable_from.to_string(), "new": is_new })))
        }
        Rotation::Activated { kid } => Ok(ok(&json!({ "kid": kid, "signs": true, "usable_from": null, "new": true }))),
        Rotation::Full => {
            let detail =
                "there are as many keys as there may be: retired ones go when their time is over, or are revoked";
            Err(conflict("too_many_keys", detail))
        }
        Rotation::Off => Err(conflict("no_authorization_server", "auth.mcp is keys: nothing is signed")),
    }
}

pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(kid): Path,
    Json(Revoke {}): Json<Revoke>,
) -> Answer {
    match api.signing.revoke(&kid, operator.0).await? {
        Revocation::Revoked { signs } => Ok(ok(&json!({ "revoked": kid, "signs": signs }))),
        Revocation::NotFound => Err(Problem::not_found("signing key")),
    }
}

fn view(key: &SigningKey, signs: Option<&str>) -> Value {
    let SigningKey { id, algorithm, public: _, created, stage } = key;
    let (usable_from, since, until) = match stage {
        Stage::Announced { private: _, usable_from } => (Some(usable_from), None, None),
        Stage::Active { private: _, since } => (None, Some(since), None),
        Stage::Retired { until } => (None, None, Some(until)),
    };
    json!({
        "kid": id,
        "algorithm": algorithm.as_str(),
        "state": key.state().as_str(),
        "signs": signs == Some(id.as_str()),
        "created": created.to_string(),
        "usable_from": usable_from.map(ToString::to_string),
        "since": since.map(ToString::to_string),
        "until": until.map(ToString::to_string),
    })
}
