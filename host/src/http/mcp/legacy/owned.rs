//! Which replica a session belongs to, and what becomes of it without that replica.
//!
//! A session's id is sealed for its principal and client at its endpoint, and says which replica opened it, when, and in which
//! revision. Whatever belongs to it goes there: its requests, answers, streams and end. When that replica is gone, the
//! session goes on at whichever replica is asked, which knows no more of it than the id says: it has no streams there,
//! and its client is asked nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;

use super::session::{Opening, Session};
use super::sweep;
use crate::env::Timestamp;
use crate::http::error::Refused;
use crate::http::mcp::{From, Mcp, owners};
use crate::identity::Caller;
use crate::ids::{ReplicaId, UpstreamName};
use crate::mcp::client::Client;
use crate::mcp::message::RequestId;
use crate::mcp::revision::{Revision, SESSION_HEADER};

const PURPOSE: &str = "session";
const PURPOSE_OF_DOORS: &str = "sse endpoint";
/// How long after it was opened a session may go on without its replica.
const ADOPTABLE: Duration = Duration::from_secs(24 * 60 * 60);

/// What the id of a session says.
pub(super) struct Name {
    text: Arc<str>,
    owner: ReplicaId,
    opened: Timestamp,
    revision: Revision,
}

/// Where the session of a request is.
pub(super) enum Reached {
    Here(Arc<Session>),
    /// Its replica has answered.
    Elsewhere(Response),
    /// Its replica is gone, and has not got the request.
    Orphaned(Name),
}

/// Whom something belongs to: a principal, and the client that acts if one does. Neither has a line break.
fn holder(caller: &Caller) -> String {
    match &caller.client {
        Some(client) => format!("{}\n{client}", caller.principal),
        None => caller.principal.to_string(),
    }
}

fn binding(caller: &Caller, endpoint: Option<&UpstreamName>) -> Vec<u8> {
    format!("{}\n{}", holder(caller), endpoint.map_or("", UpstreamName::as_str)).into_bytes()
}

/// The id of a session that this replica opens. No two are the same, since no two texts are sealed the same.
pub(super) fn new_id(mcp: &Mcp, from: &From<'_>, revision: Revision) -> Arc<str> {
    let opened = mcp.services.env.now().as_millis();
    let payload = format!("{}\n{opened}\n{revision}", mcp.replicas.id());
    let binding = binding(&from.caller, from.scope.endpoint());
    mcp.services.secret.seal(PURPOSE, &binding, payload.as_bytes()).into()
}

fn read(mcp: &Mcp, from: &From<'_>, text: &str) -> Option<Name> {
    let binding = binding(&from.caller, from.scope.endpoint());
    let payload = String::from_utf8(mcp.services.secret.unseal(PURPOSE, &binding, text)?).ok()?;
    let mut lines = payload.split('\n');
    let (owner, opened, revision) = (lines.next()?, lines.next()?, lines.next()?);
    let revision = Revision::parse(revision).filter(|revision| revision.is_legacy())?;
    let opened = Timestamp::from_millis(opened.parse().ok()?);
    Some(Name { text: text.into(), owner: ReplicaId::parse(owner)?, opened, revision })
}

/// The name of a stream of HTTP with server-sent events that this replica opens.
pub(super) fn new_door_id(mcp: &Mcp, caller: &Caller) -> Arc<str> {
    let owner = mcp.replicas.id().as_str().as_bytes();
    mcp.services.secret.seal(PURPOSE_OF_DOORS, holder(caller).as_bytes(), owner).into()
}

/// The replica that opened such a stream for this caller.
pub(super) fn owner_of_door(mcp: &Mcp, caller: &Caller, text: &str) -> Option<ReplicaId> {
    let owner = mcp.services.secret.unseal(PURPOSE_OF_DOORS, holder(caller).as_bytes(), text)?;
    ReplicaId::parse(std::str::from_utf8(&owner).ok()?)
}

fn unknown() -> Refused {
    Refused::plain(StatusCode::NOT_FOUND, "there is no such session")
}

/// Finds the session that a request on streamable HTTP belongs to, and has the request answered where it is. `place` is
/// what it costs to hand it on.
pub(super) async fn reach<P: Send + 'static>(
    mcp: &Mcp,
    from: &From<'_>,
    id: Option<&RequestId>,
    body: &[u8],
    place: impl FnOnce() -> Result<P, Refused>,
) -> Result<Reached, Refused> {
    let text = from
        .headers
        .get(SESSION_HEADER)
        .ok_or_else(|| Refused::plain(StatusCode::BAD_REQUEST, "Mcp-Session-Id is missing: begin with `initialize`"))?;
    let text = text.to_str().map_err(|_| unknown())?;
    if let Some(session) = find(mcp, from, text).filter(|session| !session.is_adopted) {
        return Ok(Reached::Here(session));
    }
    // What this replica opened and does not have any more has ended.
    let is_foreign = |name: &Name| name.owner != *mcp.replicas.id() && !mcp.replicas.is_alone();
    let name = read(mcp, from, text).filter(is_foreign).ok_or_else(unknown)?;
    let passed = owners::pass_on(mcp, from, &name.owner, id, body, place()?).await?;
    Ok(passed.map_or(Reached::Orphaned(name), Reached::Elsewhere))
}

fn find(mcp: &Mcp, from: &From<'_>, id: &str) -> Option<Arc<Session>> {
    mcp.sessions.find(&from.caller, from.scope.endpoint(), id, mcp.services.env.now())
}

/// The session that goes on here without its replica, if it does already.
pub(super) fn adopted(mcp: &Mcp, from: &From<'_>, name: &Name) -> Option<Arc<Session>> {
    find(mcp, from, &name.text).filter(|session| session.is_adopted)
}

/// The session, going on here without its replica.
pub(super) fn adopt(mcp: &Mcp, from: &From<'_>, name: Name) -> Result<Arc<Session>, Refused> {
    if let Some(session) = adopted(mcp, from, &name) {
        return Ok(session);
    }
    let now = mcp.services.env.now();
    if now >= name.opened.after(ADOPTABLE) {
        return Err(unknown());
    }
    let principal = &from.caller.principal;
    if mcp.sessions.are_full(principal) {
        sweep(mcp);
    }
    tracing::info!(replica = %name.owner, %principal, "a session goes on without its replica");
    let opening = Opening {
        id: name.text,
        principal: principal.clone(),
        acting: from.caller.client.clone(),
        pass: from.caller.pass.clone(),
        endpoint: from.scope.endpoint().cloned(),
        revision: name.revision,
        client: Arc::new(Client::gateway()),
        ended: mcp.tasks.stopping().child_token(),
        only_stream: None,
        is_adopted: true,
    };
    mcp.sessions.open(opening, now)
}
