//! Links by which connections are made: for the gateway itself, and anew for whoever has one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::super::{Answer, Api, Operator, Path, Problem, Query, ok};
use super::view::LinkView;
use super::{find, stands};
use crate::audit::Actor;
use crate::config::UpstreamAuth;
use crate::connection::link::Link;
use crate::connection::{Connection, Holder, Place, Standing};
use crate::identity::TokenList;
use crate::ids::{Principal, UpstreamName};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ConnectQuery {
    /// With spaces between them (RFC 6749 §3.3).
    scope: Option<String>,
}

pub(in super::super) async fn connect(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    Query(ConnectQuery { scope }): Query<ConnectQuery>,
) -> Answer {
    Ok(ok(&json!(link_for_gateway(&api, &name, scope, operator.0).await?)))
}

/// A link by which an operator connects an upstream for the gateway itself, with scopes besides those that are asked for
/// anyway.
pub(in crate::http) async fn link_for_gateway(
    api: &Api,
    name: &str,
    scope: Option<String>,
    by: Actor,
) -> Result<LinkView, Problem> {
    let snapshot = api.control.snapshot.load_full();
    let upstream = UpstreamName::parse(name).ok().and_then(|name| snapshot.upstreams.get(&name));
    let upstream = upstream.ok_or_else(|| Problem::not_found("upstream"))?;
    let wanted = upstream.wanted(&Principal::Gateway).ok_or_else(|| {
        let detail = "this upstream is not used with anybody's account: it has no `auth` to connect";
        Problem::new(StatusCode::CONFLICT, "nothing_to_connect", detail)
    })?;
    let scopes = scope.map(|scope| read_scopes(&scope, &upstream.settings().auth)).transpose()?;
    link(api, Principal::Gateway, wanted.place, scopes.unwrap_or_default(), by).await
}

/// Scopes that an operator wants asked for.
fn read_scopes(text: &str, auth: &UpstreamAuth) -> Result<TokenList, Problem> {
    if !matches!(auth, UpstreamAuth::SharedOAuth(_) | UpstreamAuth::PerUserOAuth(_)) {
        return Err(Problem::invalid("`scope` is for upstreams that take tokens"));
    }
    let scopes = text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    TokenList::parse(scopes).map_err(|_| Problem::invalid("`scope` has scopes with spaces between them"))
}

/// A fresh link by which whoever has it makes a connection anew, for the holder that it has.
pub(in super::super) async fn reauthorise(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    Ok(ok(&json!(link_to_reauthorise(&api, &id, operator.0).await?)))
}

/// The same link, and when it ends.
pub(in crate::http) async fn link_to_reauthorise(api: &Api, id: &str, by: Actor) -> Result<LinkView, Problem> {
    let connection = find(api, id).await?;
    let standing = stands(api)(&connection).standing;
    let principal = reauthorises(&connection, standing).map_err(|unable| match unable {
        Unable::Orphaned => {
            let detail = "its holder may not use the upstream: give access back first";
            Problem::new(StatusCode::FORBIDDEN, "connection_orphaned", detail)
        }
        Unable::NotForOperators => {
            let detail = "it is a person's or a guest's own: they connect again at the next call, or at /account";
            Problem::new(StatusCode::FORBIDDEN, "not_for_operators", detail)
        }
        Unable::Unused => {
            let detail = "the upstream takes nothing of this kind any more";
            Problem::new(StatusCode::CONFLICT, "nothing_to_connect", detail)
        }
    })?;
    link(api, principal, connection.place, TokenList::default(), by).await
}

/// Why an operator cannot have a connection made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unable {
    /// Its holder may not use the upstream.
    Orphaned,
    /// It is a person's or a guest's: they do that themselves.
    NotForOperators,
    /// The upstream takes something else now, or nothing.
    Unused,
}

impl Unable {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Orphaned => "orphaned",
            Self::NotForOperators => "not_for_operators",
            Self::Unused => "unused",
        }
    }
}

/// As whom a link connects that makes a connection anew, if an operator may have one.
pub(super) fn reauthorises(connection: &Connection, standing: Standing) -> Result<Principal, Unable> {
    let principal = match &connection.place.holder {
        Holder::Shared | Holder::Of(Principal::Gateway) => Principal::Gateway,
        Holder::Of(key @ Principal::Key(_)) => key.clone(),
        Holder::Of(Principal::User(_) | Principal::Guest(_) | Principal::Anonymous) => {
            return Err(Unable::NotForOperators);
        }
    };
    match standing {
        Standing::Active | Standing::NeedsReauth | Standing::NeedsUpdate => Ok(principal),
        Standing::Orphaned => Err(Unable::Orphaned),
        Standing::Unused => Err(Unable::Unused),
    }
}

/// A link by which somebody connects as a principal what is kept in a place. Nobody is handed one that is not in the audit
/// trail.
async fn link(
    api: &Api,
    principal: Principal,
    place: Place,
    scopes: TokenList,
    by: Actor,
) -> Result<LinkView, Problem> {
    let link = Link::new(&api.control.env, principal, place.upstream.clone());
    let link = link.asking_for(scopes).on_behalf_of(by.to_string());
    api.control.made_connection_link(place, link.expires, by).await?;
    let url = link.url(&api.services.public_url, &api.services.secret);
    Ok(LinkView { url, expires: link.expires.to_string() })
}
