//! HTTP with server-sent events, the transport of 2024-11-05, where it is switched on: `GET /sse` opens a stream that
//! names the path for messages, and everything that is said to the caller is said on that stream. When it closes, the
//! session ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, request};

use super::log::{EventLog, Ids};
use super::session::{STANDING, Session};
use super::stream::{Reader, standing};
use super::{Call, end_session, hear, open, owned, take_answer};
use crate::http::error::Refused;
use crate::http::mcp::owners::{self, Passing};
use crate::http::mcp::{From, Mcp, accepts_events, attend, check_body_headers, refuse_malformed};
use crate::http::serve::Peer;
use crate::identity::Caller;
use crate::ids::ReplicaId;
use crate::mcp::error::{INVALID_REQUEST, RpcError};
use crate::mcp::message::{self, Message};
use crate::mcp::revision::Head;
use crate::pipeline::{Mark, Scope};
use crate::policy::Transport;

/// Path for messages.
pub(in crate::http::mcp) const MESSAGES: &str = "/messages";
/// Names the stream in the query of [`MESSAGES`].
const SESSION: &str = "session=";

/// Streams that are open, by the session that they name. There are no more of them than places for streams.
#[derive(Default)]
pub(in crate::http::mcp) struct Doors(Mutex<HashMap<Arc<str>, Arc<Door>>>);

/// A stream, and the session once it was initialized.
struct Door {
    id: Arc<str>,
    /// Who opened it.
    caller: Caller,
    scope: Scope,
    log: Arc<EventLog>,
    session: OnceLock<Arc<Session>>,
}

/// An open stream. Dropping it closes the door and ends the session.
pub(super) struct Open {
    mcp: Arc<Mcp>,
    door: Arc<Door>,
}

impl Open {
    pub(super) fn caller(&self) -> &Caller {
        &self.door.caller
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.mcp.doors.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.door.id);
        self.door.log.end();
        if let Some(session) = self.door.session.get() {
            end_session(&self.mcp, session);
        }
    }
}

/// `GET /sse`.
pub(in crate::http::mcp) async fn take_get(State(mcp): State<Arc<Mcp>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    open_door(&mcp, &parts).await.unwrap_or_else(IntoResponse::into_response)
}

async fn open_door(mcp: &Arc<Mcp>, parts: &request::Parts) -> Result<Response, Refused> {
    let from = mcp.admit(parts).await?;
    if parts.method == Method::HEAD || !accepts_events(&parts.headers) {
        return Err(Refused::plain(StatusCode::NOT_ACCEPTABLE, "Accept must have text/event-stream"));
    }
    let place = mcp.places.stream(from.payer(), None)?;
    let id = owned::new_door_id(mcp, &from.caller);
    let log = EventLog::new(STANDING, Ids::Plain, mcp.sessions.budget.clone());
    let door =
        Door { id: id.clone(), caller: from.caller, scope: from.scope, log: log.clone(), session: OnceLock::new() };
    let door = Arc::new(door);
    mcp.doors.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), door.clone());
    let open = Open { mcp: mcp.clone(), door };
    let greeting = format!("event: endpoint\ndata: {MESSAGES}?{SESSION}{id}\n\n");
    Ok(Reader::of_door(mcp, log, greeting, open, place).into_response())
}

/// `POST /messages`: accepted, and answered on the stream.
pub(in crate::http::mcp) async fn take_post(State(mcp): State<Arc<Mcp>>, request: Request) -> Response {
    post(&mcp, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn post(mcp: &Arc<Mcp>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    find(mcp, &mcp.enter(&parts).await?, parts.uri.query())?;
    check_body_headers(&parts.headers)?;
    let body = mcp.read(body).await?;
    let caller = mcp.enter_again(&parts).await?;
    let place = find(mcp, &caller, parts.uri.query())?;
    let passing = Some(Passing { method: &parts.method, uri: &parts.uri });
    let peer = parts.extensions.get().copied();
    let from = |scope| {
        let extra = mcp.extra(&caller, &scope, &parts.headers)?;
        Ok::<_, Refused>(From {
            caller,
            scope,
            headers: &parts.headers,
            extra,
            peer,
            passing,
            transport: Transport::Sse,
            mark: parts.extensions.get::<Mark>().cloned().unwrap_or_default(),
        })
    };
    match place {
        Place::Here(door) => posted(mcp, &from(door.scope.clone())?, &door, &body).await,
        Place::At(owner) => {
            let from = from(Scope::default())?;
            let passage = mcp.places.passage(from.payer())?;
            let passed = owners::pass_on(mcp, &from, &owner, None, &body, passage).await?;
            passed.ok_or_else(unknown)
        }
    }
}

/// The same when another replica has read it.
pub(in crate::http::mcp) async fn forwarded(
    mcp: &Arc<Mcp>,
    caller: Caller,
    parts: &request::Parts,
    peer: Option<Peer>,
    body: &[u8],
) -> Result<Response, Refused> {
    let Place::Here(door) = find(mcp, &caller, parts.uri.query())? else { return Err(unknown()) };
    let scope = door.scope.clone();
    let extra = mcp.extra(&caller, &scope, &parts.headers)?;
    let (transport, mark) = (Transport::Sse, attend::read(&mcp.services.env, &parts.headers));
    let from = From { caller, scope, headers: &parts.headers, extra, peer, passing: None, transport, mark };
    posted(mcp, &from, &door, body).await
}

async fn posted(mcp: &Arc<Mcp>, from: &From<'_>, door: &Arc<Door>, body: &[u8]) -> Result<Response, Refused> {
    let message = Message::from_caller(body).map_err(|malformed| refuse_malformed(&malformed))?;
    door.log.wait_for_room(mcp.settings.limits.stall_timeout).await;
    if let Err(refused) = take(mcp, from, door, message).await {
        door.log.push(refused.message());
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Where a stream is.
enum Place {
    Here(Arc<Door>),
    At(ReplicaId),
}

fn find(mcp: &Mcp, caller: &Caller, query: Option<&str>) -> Result<Place, Refused> {
    let id = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix(SESSION)).unwrap_or_default();
    let door = mcp.doors.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
    if let Some(door) =
        door.filter(|door| door.caller.principal == caller.principal && door.caller.client == caller.client)
    {
        return Ok(Place::Here(door));
    }
    let owner = owned::owner_of_door(mcp, caller, id).filter(|owner| owner != mcp.replicas.id());
    owner.map(Place::At).ok_or_else(unknown)
}

fn unknown() -> Refused {
    Refused::plain(StatusCode::NOT_FOUND, "there is no such session")
}

/// Does what a message asks for. Refusals are said on the stream, like answers.
async fn take(mcp: &Arc<Mcp>, from: &From<'_>, door: &Arc<Door>, message: Message<'_>) -> Result<(), Refused> {
    let invalid = |id, what| Refused::rpc(StatusCode::BAD_REQUEST, id, &RpcError::new(INVALID_REQUEST, what));
    match (message, door.session.get()) {
        (Message::Request { id, method, params }, None) if method == "initialize" => {
            let opened = open(mcp, from, &id, params, Some((door.id.clone(), door.log.clone()))).await;
            let (session, result) = opened?;
            if let Err(session) = door.session.set(session) {
                end_session(mcp, &session);
                return Err(invalid(Some(&id), "the session is initialized already"));
            }
            let session = door.session.get().expect("it was just set");
            standing(mcp, from, session);
            door.log.push(&message::result(&id, &result));
            if door.log.has_ended() {
                end_session(mcp, session);
            }
        }
        (Message::Request { id, .. }, None) => return Err(invalid(Some(&id), "begin with `initialize`")),
        (_, None) => {}
        (Message::Request { id, method, params }, Some(session)) => {
            let call = Call::begin(mcp, from, session, id, &method, Head::read(params))?;
            let log = door.log.clone();
            mcp.tasks.spawn(async move { call.write(&log, None).await });
        }
        (Message::Notification { method, params }, Some(session)) => hear(mcp, from, session, &method, params),
        (answer, Some(session)) => take_answer(session, answer),
    }
    Ok(())
}
