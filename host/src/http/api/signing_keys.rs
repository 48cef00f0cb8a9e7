//! The keys that sign access tokens: looked at, rotated, and taken out.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::openapi::words::SigningKeyStateWord;
use super::openapi::{Described, get, post};
use super::{Answer, Api, Json, Operator, Path, Problem, ok};
use crate::audit::Actor;
use crate::authorization::signing::{Revocation, Rotation, When};
use crate::oauth::signing::{SigningKey, Stage};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SigningKeyRotation)]
pub(super) struct Rotate {
    /// Without waiting until whoever verifies can know it.
    #[serde(default)]
    now: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SigningKeyRevocation)]
pub(super) struct Revoke {}

/// A key that signs tokens, will or did.
#[derive(Serialize, ToSchema)]
#[schema(as = SigningKey)]
pub(in crate::http) struct KeyView {
    pub(in crate::http) kid: String,
    pub(in crate::http) algorithm: &'static str,
    #[schema(value_type = SigningKeyStateWord)]
    pub(in crate::http) state: &'static str,
    /// Whether it is the one that signs now.
    pub(in crate::http) signs: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) usable_from: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) since: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) until: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RotatedSigningKey)]
pub(in crate::http) struct RotatedView {
    pub(in crate::http) kid: String,
    /// Whether it signs already.
    pub(in crate::http) signs: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) usable_from: Option<String>,
    /// Whether it was made just now.
    pub(in crate::http) new: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RevokedSigningKey)]
pub(in crate::http) struct RevokedView {
    pub(in crate::http) revoked: String,
    /// The key that signs from now on.
    pub(in crate::http) signs: Option<String>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/signing-keys", "listSigningKeys", "The keys that sign access tokens")
            .lists::<KeyView>("signing_keys"),
        post("/api/v1/signing-keys/rotate", "rotateSigningKey", "Announces another key, or has it sign at once")
            .takes::<Rotate>()
            .shows::<RotatedView>()
            .conflicts(&["too_many_keys", "no_authorization_server"]),
        post("/api/v1/signing-keys/{id}/revoke", "revokeSigningKey", "Takes a key out: what it signed counts no more")
            .takes::<Revoke>()
            .shows::<RevokedView>(),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&json!({ "signing_keys": rows(&api).await? })))
}

/// All of them.
pub(in crate::http) async fn rows(api: &Api) -> Result<Vec<KeyView>, Problem> {
    let (keys, signs) = api.signing.list().await?;
    Ok(keys.iter().map(|key| view(key, signs.as_deref())).collect())
}

pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(Rotate { now }): Json<Rotate>,
) -> Answer {
    Ok(ok(&json!(rotated(&api, now, operator.0).await?)))
}

/// Announces another key, or has one sign now.
pub(in crate::http) async fn rotated(api: &Api, now: bool, actor: Actor) -> Result<RotatedView, Problem> {
    let when = if now { When::Now } else { When::Announced };
    let conflict = |code, detail: &str| Problem::new(StatusCode::CONFLICT, code, detail);
    match api.signing.rotate(when, actor).await? {
        Rotation::Announced { kid, usable_from, is_new } => {
            let usable_from = Some(usable_from.to_string());
            Ok(RotatedView { kid, signs: false, usable_from, new: is_new })
        }
        Rotation::Activated { kid } => Ok(RotatedView { kid, signs: true, usable_from: None, new: true }),
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
    Ok(ok(&json!(revoked(&api, kid, operator.0).await?)))
}

/// Takes a key out.
pub(in crate::http) async fn revoked(api: &Api, kid: String, actor: Actor) -> Result<RevokedView, Problem> {
    match api.signing.revoke(&kid, actor).await? {
        Revocation::Revoked { signs } => Ok(RevokedView { revoked: kid, signs }),
        Revocation::NotFound => Err(Problem::not_found("signing key")),
    }
}

fn view(key: &SigningKey, signs: Option<&str>) -> KeyView {
    let SigningKey { id, algorithm, public: _, created, stage } = key;
    let (usable_from, since, until) = match stage {
        Stage::Announced { private: _, usable_from } => (Some(usable_from), None, None),
        Stage::Active { private: _, since } => (None, Some(since), None),
        Stage::Retired { until } => (None, None, Some(until)),
    };
    KeyView {
        kid: id.to_string(),
        algorithm: algorithm.as_str(),
        state: key.state().as_str(),
        signs: signs == Some(id.as_str()),
        created: created.to_string(),
        usable_from: usable_from.map(ToString::to_string),
        since: since.map(ToString::to_string),
        until: until.map(ToString::to_string),
    }
}
