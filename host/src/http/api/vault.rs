//! The vault: its keys and their health, rotation, verification, and shredding.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::openapi::{Described, get, post};
use super::{Answer, Api, Json, Operator, Problem, ok};
use crate::audit::Actor;
use crate::ids::{KekId, Owner};
use crate::store::data_keys::Rewrapping;
use crate::vault::rotation::{Bad, KekStatus, Rotation, Shred, Status};
use crate::vault::{VaultError, process};

const CURSOR: &str = "vault-verify";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VaultRotation)]
pub(super) struct Rotate {
    /// The key to rotate to; without it, the next active one of the configuration.
    #[serde(default)]
    to: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VaultStep)]
pub(super) struct Step {}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VaultWalk)]
pub(super) struct Verify {
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToShred {
    /// Such as `user:…`.
    principal: String,
}

/// The vault at a glance.
#[derive(Serialize, ToSchema)]
#[schema(as = Vault)]
pub(in crate::http) struct VaultView {
    pub(in crate::http) deployment: String,
    /// In the order of the configuration, then those that are in use and not configured.
    pub(in crate::http) keys: Vec<KekView>,
    pub(in crate::http) rewrapping: Option<RewrappingView>,
    pub(in crate::http) cached_data_keys: usize,
    pub(in crate::http) process: ProcessView,
}

/// A key-encryption key.
#[derive(Serialize, ToSchema)]
#[schema(as = VaultKey)]
pub(in crate::http) struct KekView {
    #[schema(value_type = String)]
    pub(in crate::http) kid: KekId,
    /// Null if it is not configured.
    pub(in crate::http) state: Option<&'static str>,
    pub(in crate::http) source: Option<&'static str>,
    /// Whether new data keys are wrapped by it.
    pub(in crate::http) current: bool,
    pub(in crate::http) data_keys: usize,
    /// Whether there are more than were counted.
    pub(in crate::http) more_data_keys: bool,
    /// Why it does not do its work now.
    pub(in crate::http) fault: Option<String>,
}

/// How far data keys are wrapped anew.
#[derive(Serialize, ToSchema)]
#[schema(as = Rewrapping)]
pub(in crate::http) struct RewrappingView {
    #[schema(value_type = String)]
    pub(in crate::http) to: KekId,
    pub(in crate::http) rewrapped: u64,
    pub(in crate::http) unreadable: u64,
    pub(in crate::http) unreachable: u64,
    pub(in crate::http) done: bool,
}

/// What of the process others could look into.
#[derive(Serialize, ToSchema)]
#[schema(as = ProcessExposure)]
pub(in crate::http) struct ProcessView {
    pub(in crate::http) dumpable: Option<bool>,
    /// In bytes; null without a limit.
    pub(in crate::http) core_limit: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RotatedVault)]
pub(in crate::http) struct RotatedView {
    /// The key by which new data keys are wrapped.
    #[schema(value_type = String)]
    pub(in crate::http) current: KekId,
    pub(in crate::http) changed: bool,
}

/// What one step of a walk through the vault has found.
#[derive(Serialize, ToSchema)]
#[schema(as = VaultVerification)]
pub(in crate::http) struct VerifiedView {
    pub(in crate::http) data_keys: usize,
    pub(in crate::http) sealed_fields: usize,
    /// Those whose owners' data keys were destroyed as somebody wished.
    pub(in crate::http) shredded_fields: usize,
    /// Records of which nothing can be told now.
    pub(in crate::http) unreachable: usize,
    pub(in crate::http) unreadable: Vec<BadView>,
    /// Where to go on; null at the end.
    pub(in crate::http) next_cursor: Option<String>,
}

/// A record that cannot be opened.
#[derive(Serialize, ToSchema)]
#[schema(as = UnreadableRecord)]
pub(in crate::http) struct BadView {
    pub(in crate::http) owner: String,
    pub(in crate::http) table: &'static str,
    pub(in crate::http) key: String,
    pub(in crate::http) field: &'static str,
    pub(in crate::http) reason: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Shredded)]
struct ShreddedView {
    /// Whose secrets nobody opens any more.
    shredded: String,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/vault", "showVault", "The keys that encrypt secrets, and their health").shows::<VaultView>(),
        post("/api/v1/vault/rotate", "rotateVaultKey", "Has another key wrap new data keys")
            .takes::<Rotate>()
            .shows::<RotatedView>()
            .conflicts(&["no_other_key", "not_configured", "not_active"]),
        post("/api/v1/vault/rewrap", "rewrapDataKeys", "Wraps some more data keys by the current key")
            .takes::<Step>()
            .shows::<RewrappingView>(),
        post(
            "/api/v1/vault/verify",
            "verifyVault",
            "Opens some more of what is sealed, and tells what cannot be opened",
        )
        .takes::<Verify>()
        .shows::<VerifiedView>()
        .refuses(StatusCode::BAD_REQUEST, &["invalid_cursor"]),
        post(
            "/api/v1/vault/shred",
            "shredSecrets",
            "Destroys the data key of a principal: what is sealed for them is gone",
        )
        .takes::<ToShred>()
        .shows::<ShreddedView>()
        .refuses(StatusCode::NOT_FOUND, &["not_found"]),
    ]
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Answer {
    Ok(ok(&json!(view(&api).await?)))
}

/// All of it now.
pub(in crate::http) async fn view(api: &Api) -> Result<VaultView, Problem> {
    let Status { deployment, keys, rewrapping, cached } = api.control.vault_status().await?;
    let exposure = process::exposure().ok();
    Ok(VaultView {
        deployment,
        keys: keys.iter().map(key_view).collect(),
        rewrapping: rewrapping.as_ref().map(rewrapping_view),
        cached_data_keys: cached,
        process: ProcessView {
            dumpable: exposure.map(|exposure| exposure.dumpable),
            core_limit: exposure.and_then(|exposure| exposure.core_limit),
        },
    })
}

pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(Rotate { to }): Json<Rotate>,
) -> Answer {
    Ok(ok(&json!(rotated(&api, to, operator.0).await?)))
}

/// Has new data keys wrapped by this key, or by the next active one.
pub(in crate::http) async fn rotated(api: &Api, to: Option<String>, actor: Actor) -> Result<RotatedView, Problem> {
    let to = to.map(|kid| KekId::parse(&kid)).transpose().map_err(|error| Problem::invalid(error.to_string()))?;
    let conflict = |code, detail: String| Problem::new(StatusCode::CONFLICT, code, detail);
    match api.control.rotate_kek(to, actor).await? {
        Rotation::Rotated(kid) => Ok(RotatedView { current: kid, changed: true }),
        Rotation::Unchanged(kid) => Ok(RotatedView { current: kid, changed: false }),
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
    Ok(ok(&json!(rewrapped(&api, operator.0).await?)))
}

/// Wraps some more data keys anew.
pub(in crate::http) async fn rewrapped(api: &Api, actor: Actor) -> Result<RewrappingView, Problem> {
    Ok(rewrapping_view(&api.control.rewrap(actor).await?))
}

pub(super) async fn verify(State(api): State<Arc<Api>>, Json(Verify { cursor }): Json<Verify>) -> Answer {
    Ok(ok(&json!(verified(&api, cursor).await?)))
}

/// One step of the walk, from where the one before has ended.
pub(in crate::http) async fn verified(api: &Api, cursor: Option<String>) -> Result<VerifiedView, Problem> {
    let stranger = || Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "the cursor is not one of this list");
    let from = cursor.map(|cursor| api.services.secret.open(CURSOR, &cursor).ok_or_else(stranger)).transpose()?;
    let verified = api.control.verify_vault(from.as_deref()).await?.ok_or_else(stranger)?;
    Ok(VerifiedView {
        data_keys: verified.data_keys,
        sealed_fields: verified.fields,
        shredded_fields: verified.shredded,
        unreachable: verified.unreachable,
        unreadable: verified.bad.iter().map(bad_view).collect(),
        next_cursor: verified.next.map(|next| api.services.secret.sign(CURSOR, &next)),
    })
}

pub(super) async fn shred(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(ToShred { principal }): Json<ToShred>,
) -> Answer {
    let owner = Owner::parse(&principal).ok_or_else(|| {
        Problem::invalid(
            "`principal` is `key:NAME`, `user:ID` (the ID as `portcullis user list` shows it), `guest:ID`, or \
             `shared:NAME` for what several share",
        )
    })?;
    match api.control.shred(&owner, operator.0).await? {
        Shred::Shredded => Ok(ok(&json!(ShreddedView { shredded: owner.to_string() }))),
        Shred::NotFound => Err(Problem::not_found("data key: nothing is sealed for this principal")),
        Shred::Refused => Err(Problem::invalid("the deployment's own secrets are not shredded")),
    }
}

fn key_view(key: &KekStatus) -> KekView {
    let KekStatus { kid, state, source, is_current, data_keys, is_more, fault } = key;
    KekView {
        kid: kid.clone(),
        state: *state,
        source: *source,
        current: *is_current,
        data_keys: *data_keys,
        more_data_keys: *is_more,
        fault: fault.clone(),
    }
}

fn rewrapping_view(rewrapping: &Rewrapping) -> RewrappingView {
    RewrappingView {
        to: rewrapping.to.clone(),
        rewrapped: rewrapping.rewrapped,
        unreadable: rewrapping.unreadable,
        unreachable: rewrapping.unreachable,
        done: rewrapping.is_done,
    }
}

fn bad_view(bad: &Bad) -> BadView {
    let Bad { owner, table, key, field, reason } = bad;
    BadView { owner: owner.to_string(), table, key: key.clone(), field, reason: reason.clone() }
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
