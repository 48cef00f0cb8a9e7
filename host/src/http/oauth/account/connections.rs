//! Connections on the account page: what is connected, what could be, and how somebody ends one of their own.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;

use super::{done, sent};
use crate::audit::Actor;
use crate::connection::{Holder, Place, Standing};
use crate::connections::connecting::Stand;
use crate::http::oauth::OAuth;
use crate::http::oauth::connect::{Back, path_of};
use crate::http::oauth::pages::{self, moment};
use crate::identity::user::User;
use crate::ids::{Principal, UpstreamName, UserTag};
use crate::store::connections::Disconnection;

/// Purpose of the form that ends a connection.
const DISCONNECT: &str = "disconnect";

pub(super) struct ConnectionRow {
    pub(super) upstream: String,
    pub(super) is_good: bool,
    pub(super) state: &'static str,
    pub(super) since: Option<String>,
    /// Of the form that ends it, if there is one.
    pub(super) token: Option<String>,
    /// Where it is made, or made anew, unless it is out of reach.
    pub(super) connect: Option<String>,
}

impl ConnectionRow {
    pub(super) fn of(stand: &Stand, token: &impl Fn(&'static str, &str) -> String) -> Self {
        let upstream = &stand.place.upstream;
        let (is_good, state) = match stand.standing {
            None => (false, "Not connected"),
            Some(Standing::Active) => (true, "Connected"),
            Some(Standing::NeedsReauth) => (false, "Needs to be connected again"),
            Some(Standing::NeedsUpdate) => (false, "Needs more values"),
            Some(Standing::Orphaned) => (false, "Out of reach"),
            Some(Standing::Unused) => (false, "Not in use"),
        };
        let is_open = stand.kind.is_some() && stand.access.is_granted();
        Self {
            is_good,
            state,
            since: stand.since.map(moment),
            token: stand.since.map(|_| token(DISCONNECT, upstream.as_str())),
            connect: is_open.then(|| path_of(upstream, Some(&Back::Account))),
            upstream: upstream.to_string(),
        }
    }
}

fn holder(user: &User) -> Holder {
    Holder::Of(Principal::User(user.id.clone()))
}

/// What somebody has and could have.
pub(super) async fn stands(oauth: &OAuth, user: &User) -> Result<Vec<Stand>, Response> {
    let Some(connections) = &oauth.connections else { return Ok(Vec::new()) };
    let stands = connections.connecting.look_at_all(&holder(user)).await;
    stands.map_err(|fault| oauth.connections_fault(&fault))
}

/// Ends one of somebody's own. What is somebody else's has another place, and is not there.
pub(super) async fn disconnect(
    State(oauth): State<Arc<OAuth>>,
    Path(upstream): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    let sent = sent(&oauth, request).await?;
    let not_found = || pages::not_found(&oauth.site);
    let upstream = UpstreamName::parse(&upstream).map_err(|_| not_found())?;
    let connections = oauth.connections.as_ref().ok_or_else(not_found)?;
    let (person, _) = sent.taken(&oauth, DISCONNECT, upstream.as_str()).await?;
    let place = Place { holder: holder(&person.user), upstream };
    let actor = Actor::User(UserTag::from(&person.user.id));
    match (connections.disconnect)(place, actor).await.map_err(|error| oauth.unavailable(&error))? {
        Disconnection::Ended { .. } => Ok(done(&oauth, &person, "disconnected")),
        Disconnection::NotFound => Err(not_found()),
    }
}
