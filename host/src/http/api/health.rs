//! What needs somebody: why the gateway is not ready or not well, what ends soon, what waits.
//!
//! Whether it is ready is the same here as at `/readyz`, and the checks are those of `/readyz?verbose`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::metrics::{Check, checks, is_ready};
use super::openapi::{Described, get};
use super::{Answer, Api, Operator, Problem, ok};
use crate::admin::expiring::{Ending, Expiry};
use crate::connection::{Place, Standing};
use crate::env::Timestamp;
use crate::oauth::signing::Stage;
use crate::store::table::MAX_PAGE;
use crate::store::{approvals, connections};

/// What ends within this time is told.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Most of what ends soon that is told one by one.
const MAX_EXPIRING: usize = 100;

/// What needs somebody.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub(in crate::http) struct HealthView {
    pub(in crate::http) ready: bool,
    pub(in crate::http) checks: Vec<Check>,
    /// Why the last reload was refused, if it was: what ran before goes on.
    pub(in crate::http) reload_refused: Option<String>,
    /// Why the policies of the store as they are now are not what runs, if they could not be followed: it is tried again.
    pub(in crate::http) bindings_not_followed: Option<String>,
    /// Whether the file says something that takes effect at the next start.
    pub(in crate::http) awaits_restart: bool,
    pub(in crate::http) approvals_waiting: AmountView,
    /// Connections that have to be made anew before they are of use.
    pub(in crate::http) connections_to_renew: AmountView,
    /// What ends within 14 days, the soonest first: at most 100. Of API tokens one's own, for owners all.
    pub(in crate::http) expiring: Vec<ExpiringView>,
    /// Whether there may be more, since only so much is looked at and told.
    pub(in crate::http) expiring_more: bool,
}

/// How many there are, as far as a bounded number was looked at.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[schema(as = Amount)]
pub(in crate::http) struct AmountView {
    pub(in crate::http) count: usize,
    /// Whether there may be more.
    pub(in crate::http) more: bool,
}

/// Something that ends.
#[derive(Serialize, ToSchema)]
#[schema(as = Expiring)]
pub(in crate::http) struct ExpiringView {
    /// `key`, `api_token`, `certificate` or `signing_key`.
    pub(in crate::http) kind: &'static str,
    /// Of a certificate that of its listener.
    pub(in crate::http) name: String,
    /// What the API calls it, if not by its name.
    pub(in crate::http) id: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    /// Whether that is past.
    pub(in crate::http) ended: bool,
}

/// What the document of the API says of it.
pub(super) fn operations() -> Vec<Described> {
    let what = "Whether the gateway is ready and well, what ends soon, and what waits for somebody";
    vec![get("/api/v1/health", "showHealth", what).shows::<HealthView>()]
}

pub(super) async fn show(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    Ok(ok(&json!(view(&api, &operator).await?)))
}

/// All of it now, as far as it is this operator's business.
pub(in crate::http) async fn view(api: &Arc<Api>, operator: &Operator) -> Result<HealthView, Problem> {
    let (expiring, expiring_more) = expiring(api, operator).await?;
    Ok(HealthView {
        ready: is_ready(api),
        checks: checks(api).await,
        reload_refused: api.control.last_reload().error.clone(),
        bindings_not_followed: api.control.bindings_not_followed(),
        awaits_restart: api.control.awaits_restart(&api.control.config.load()),
        approvals_waiting: approvals_waiting(api).await?,
        connections_to_renew: connections_to_renew(api).await?,
        expiring,
        expiring_more,
    })
}

async fn approvals_waiting(api: &Api) -> Result<AmountView, Problem> {
    let page = api.control.approvals(Some(approvals::Standing::Pending), None, MAX_PAGE).await?;
    Ok(AmountView { count: page.items.len(), more: page.next.is_some() })
}

/// Among the newest connections: the store looks at a few hundred of them at once.
async fn connections_to_renew(api: &Api) -> Result<AmountView, Problem> {
    let (snapshot, may_use) = (api.control.snapshot.load_full(), api.connections.may_use.clone());
    let filter = connections::Filter { standing: Some(Standing::NeedsReauth), ..connections::Filter::default() };
    let may_use = move |place: &Place| may_use(&snapshot, place);
    let page = connections::list(&api.control.store, filter, may_use, None, MAX_PAGE).await?;
    Ok(AmountView { count: page.items.len(), more: page.next.is_some() })
}

/// What ends soon, and whether there may be more.
async fn expiring(api: &Api, operator: &Operator) -> Result<(Vec<ExpiringView>, bool), Problem> {
    let now = api.control.env.now();
    let found = api.control.expiring(SOON, operator.only_own()).await?;
    let mut rows: Vec<(Timestamp, ExpiringView)> =
        found.items.iter().map(|item| (item.at, item_view(item, now))).collect();
    rows.extend(rotating(api, now).await?);
    rows.sort_by_key(|(at, _)| *at);
    let more = !found.is_whole || rows.len() > MAX_EXPIRING;
    Ok((rows.into_iter().map(|(_, row)| row).take(MAX_EXPIRING).collect(), more))
}

fn item_view(item: &Expiry, now: Timestamp) -> ExpiringView {
    let (kind, name, id) = match &item.what {
        Ending::Key(name) => ("key", name.to_string(), None),
        Ending::ApiToken { id, name } => ("api_token", name.clone(), Some(id.to_string())),
        Ending::Certificate(listener) => ("certificate", (*listener).to_owned(), None),
    };
    ExpiringView { kind, name, id, at: item.at.to_string(), ended: item.at <= now }
}

/// The key that signs access tokens, where another one takes over soon.
async fn rotating(api: &Api, now: Timestamp) -> Result<Option<(Timestamp, ExpiringView)>, Problem> {
    let auth = api.control.snapshot.load().auth.clone();
    if !auth.has_server() {
        return Ok(None);
    }
    let (keys, _) = api.signing.list().await?;
    let ends = keys.iter().filter_map(|key| match &key.stage {
        Stage::Active { since, .. } => Some((since.after(auth.tokens.key_rotation), key.id.clone())),
        Stage::Announced { .. } | Stage::Retired { .. } => None,
    });
    let soon = ends.filter(|(at, _)| *at <= now.after(SOON)).min_by_key(|(at, _)| *at);
    Ok(soon.map(|(at, name)| {
        let row = ExpiringView { kind: "signing_key", name, id: None, at: at.to_string(), ended: at <= now };
        (at, row)
    }))
}
