//! What is told of a connection and of a way to one: nothing secret, names of headers aside.

use serde::Serialize;
use utoipa::ToSchema;

use super::super::openapi::words::{ConnectionStateWord, FlowStageWord};
use super::links::{Unable, reauthorises};
use crate::connection::flow::Flow;
use crate::connection::{Connection, Credential, Standing, Stands, State as Condition};
use crate::ids::{ConnectionId, FlowId, UpstreamName};

/// A connection, without its credential.
#[derive(Serialize, ToSchema)]
#[schema(as = Connection)]
pub(in crate::http) struct ConnectionView {
    #[schema(value_type = String)]
    pub(in crate::http) id: ConnectionId,
    /// `key:NAME`, `user:ID`, `guest:ID`, `gateway` or `shared`.
    pub(in crate::http) holder: String,
    #[schema(value_type = String)]
    pub(in crate::http) upstream: UpstreamName,
    /// `oauth`, `headers` or `environment`.
    pub(in crate::http) kind: &'static str,
    #[schema(value_type = ConnectionStateWord)]
    pub(in crate::http) state: &'static str,
    /// Why it has to be made anew.
    pub(in crate::http) reason: Option<&'static str>,
    /// Names of headers or variables that are asked for and were not given.
    pub(in crate::http) missing: Option<Vec<String>>,
    #[schema(format = DateTime)]
    pub(in crate::http) failed_since: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) orphaned_since: Option<String>,
    /// The consent that it was made for, if it was made at one.
    pub(in crate::http) made_for: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) stored: String,
    pub(in crate::http) can_reauthorise: bool,
    /// Why not: `orphaned`, `not_for_operators` or `unused`.
    pub(in crate::http) cannot_reauthorise: Option<&'static str>,
    #[serde(flatten)]
    pub(in crate::http) credential: CredentialView,
}

/// What is told of a credential, by its kind.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Credential)]
pub(in crate::http) enum CredentialView {
    OAuth {
        issuer: String,
        scopes: Vec<String>,
        #[schema(format = DateTime)]
        expires: Option<String>,
        renewable: bool,
    },
    /// Names of headers.
    Headers { headers: Vec<String> },
    /// Names of variables.
    Environment { environment: Vec<String> },
}

/// A way to an authorization server that somebody is on.
#[derive(Serialize, ToSchema)]
#[schema(as = Flow)]
pub(in crate::http) struct FlowView {
    #[schema(value_type = String)]
    pub(in crate::http) id: FlowId,
    pub(in crate::http) holder: String,
    #[schema(value_type = String)]
    pub(in crate::http) upstream: UpstreamName,
    pub(in crate::http) issuer: String,
    #[schema(value_type = FlowStageWord)]
    pub(in crate::http) stage: &'static str,
    /// Whether it is for a connection that is there.
    pub(in crate::http) renews: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) begun: String,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: String,
}

/// A link that opens once.
#[derive(Serialize, ToSchema)]
#[schema(as = Link)]
pub(in crate::http) struct LinkView {
    pub(in crate::http) url: String,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: String,
}

pub(super) fn view(connection: &Connection, stands: &Stands) -> ConnectionView {
    let Connection { id, place, revision: _, given: _, origin, credential, state, orphaned_since, created, stored } =
        connection;
    let Stands { standing, reason, missing } = stands;
    // What does not work does not while it is out of reach either.
    let (marked, since) = match state {
        Condition::Connected => (None, None),
        Condition::NeedsReauth { reason, since } => (Some(reason), Some(since)),
        Condition::NeedsUpdate { missing: _, since } => (None, Some(since)),
    };
    let since = since.filter(|_| *standing != Standing::Active);
    let reauthorises = reauthorises(connection, *standing);
    ConnectionView {
        id: id.clone(),
        holder: place.holder.to_string(),
        upstream: place.upstream.clone(),
        kind: credential.kind(),
        state: standing.as_str(),
        reason: reason.as_ref().or(marked).map(|reason| reason.as_str()),
        missing: (!missing.is_empty()).then(|| missing.clone()),
        failed_since: since.map(ToString::to_string),
        orphaned_since: orphaned_since.map(|since| since.to_string()),
        made_for: origin.as_ref().map(ToString::to_string),
        created: created.to_string(),
        stored: stored.to_string(),
        can_reauthorise: reauthorises.is_ok(),
        cannot_reauthorise: reauthorises.err().map(Unable::as_str),
        credential: view_of_credential(credential),
    }
}

fn view_of_credential(credential: &Credential) -> CredentialView {
    match credential {
        Credential::OAuth(tokens) => CredentialView::OAuth {
            issuer: tokens.issuer.clone(),
            scopes: tokens.scopes.to_vec(),
            expires: tokens.expires.map(|expires| expires.to_string()),
            renewable: tokens.refresh.is_some(),
        },
        Credential::Headers { names, values: _ } if credential.kind() == "environment" => {
            CredentialView::Environment { environment: names.clone() }
        }
        Credential::Headers { names, values: _ } => CredentialView::Headers { headers: names.clone() },
    }
}

pub(super) fn view_of_flow(flow: &Flow) -> FlowView {
    FlowView {
        id: flow.id.clone(),
        holder: flow.place.holder.to_string(),
        upstream: flow.place.upstream.clone(),
        issuer: flow.issuer.clone(),
        stage: flow.stage.as_str(),
        renews: flow.renews.is_some(),
        begun: flow.begun.to_string(),
        expires: flow.expires.to_string(),
    }
}
