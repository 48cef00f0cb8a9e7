//! The legacy era on the wire (2024-11-05 to 2025-11-25): `initialize` opens a session, everything else happens within
//! one.
//!
//! A closed connection does not take a request back, a `notifications/cancelled` does. [`session`] is what a session
//! holds, [`sessions`] are all of them, [`log`] and [`stream`] are its streams and how they are resumed, [`batch`] is
//! what 2025-03-26 alone has, [`completed`] tells of connections that were made, [`sse_transport`] the transport before streamable HTTP. A session belongs to the replica that
//! opened it: [`owned`].

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::header::ALLOW;
use http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::modern::party;
use super::reply::{Ear, KEEP_ALIVE, Last, Logs};
use super::work::{EVENT_QUEUE, Leaving, Step, Work};
use super::{From, Mcp, accepts_events};
use crate::http::error::{Refused, json_response};
use crate::mcp::call::Outcome;
use crate::mcp::client::Client;
use crate::mcp::error::{INVALID_PARAMS, INVALID_REQUEST, RpcError};
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{
    Answer, Discovery, Head, Rejection, Request, Revision, SESSION_HEADER, capabilities, legacy,
};
use crate::mcp::talk::{Event, Notice};
use crate::pipeline::{self, Snapshot};

pub(super) mod batch;
pub(super) mod completed;
mod log;
mod owned;
mod session;
mod sessions;
pub(super) mod sse_transport;
pub(super) mod stream;

use log::EventLog;
use owned::Reached;
use session::{Opening, Session};
pub(super) use sessions::Sessions;
pub(super) use sse_transport::Doors;

/// A notification of the caller's that upstreams hear of.
const ROOTS_CHANGED: &str = "notifications/roots/list_changed";

/// A request on streamable HTTP.
pub(super) async fn request(
    mcp: &Arc<Mcp>,
    from: From<'_>,
    id: RequestId,
    (method, params, head): (&str, Option<&RawValue>, Head<'_>),
    body: &[u8],
) -> Result<Response, Refused> {
    if method == "initialize" {
        let (session, result) = open(mcp, &from, &id, params, None).await?;
        let mut response = json_response(StatusCode::OK, message::result(&id, &result));
        let session_id = HeaderValue::try_from(&*session.id).expect("base64 is visible ASCII");
        response.headers_mut().insert(SESSION_HEADER, session_id);
        return Ok(response);
    }
    let place = || mcp.places.call(from.payer(), Some(&id));
    let session = match owned::reach(mcp, &from, Some(&id), body, place).await? {
        Reached::Here(session) => session,
        Reached::Elsewhere(response) => return Ok(response),
        Reached::Orphaned(name) => owned::adopt(mcp, &from, name)?,
    };
    legacy::check_version(from.headers, session.revision)
        .map_err(|rejection| Refused::from_rejection(&rejection, &id))?;
    let accepts_events = accepts_events(from.headers) && !session.is_adopted;
    let call = Call::begin(mcp, &from, &session, id, method, head)?;
    Ok(call.respond(accepts_events).await)
}

/// Answers `initialize` with a new session and the result.
async fn open(
    mcp: &Arc<Mcp>,
    from: &From<'_>,
    id: &RequestId,
    params: Option<&RawValue>,
    only_stream: Option<(Arc<str>, Arc<EventLog>)>,
) -> Result<(Arc<Session>, Box<RawValue>), Refused> {
    let snapshot = seen_by(mcp, from).await;
    let discover = |revision: Revision| {
        let (offered, instructions) = pipeline::offered(&snapshot, &from.caller, &from.scope);
        Discovery { capabilities: capabilities(revision, &offered), instructions }
    };
    let refuse = |rejection: Rejection| Refused::from_rejection(&rejection, id);
    let legacy::Opening { revision, client, result } = legacy::initialize(params, &discover).map_err(refuse)?;
    let principal = &from.caller.principal;
    if mcp.sessions.are_full(principal) {
        sweep(mcp);
    }
    let (session_id, only_stream) = only_stream.unzip();
    let opening = Opening {
        id: session_id.unwrap_or_else(|| owned::new_id(mcp, from, revision)),
        principal: principal.clone(),
        acting: from.caller.client.clone(),
        pass: from.caller.pass.clone(),
        endpoint: from.scope.endpoint().cloned(),
        revision,
        client: Arc::new(client),
        ended: mcp.tasks.stopping().child_token(),
        only_stream,
        is_adopted: false,
    };
    Ok((mcp.sessions.open(opening, mcp.services.env.now())?, result))
}

/// The snapshot as a caller sees it who has not said yet what it speaks.
async fn seen_by(mcp: &Mcp, from: &From<'_>) -> Arc<Snapshot> {
    let snapshot = mcp.snapshot.load_full();
    if snapshot.catalog.personal().is_empty() {
        return snapshot;
    }
    let (events, _) = mpsc::channel(1);
    let party = party(from, Arc::new(Client::gateway()), None);
    let origin = from.origin(Revision::V2025_11_25, party, events, mcp.closing.child_token());
    let own = pipeline::personal::to_begin_with(&snapshot, &mcp.services, &origin).await;
    own.map_or(snapshot, Arc::new)
}

/// DELETE: ends the session and what is in flight in it. Without one there is nothing to end.
pub(super) async fn end(mcp: &Mcp, from: &From<'_>) -> Result<Response, Refused> {
    if !from.headers.contains_key(SESSION_HEADER) {
        return Ok((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST")]).into_response());
    }
    match owned::reach(mcp, from, None, &[], || mcp.places.passage(from.payer())).await? {
        Reached::Here(session) => end_session(mcp, &session),
        Reached::Elsewhere(response) => return Ok(response),
        Reached::Orphaned(name) => {
            if let Some(session) = owned::adopted(mcp, from, &name) {
                end_session(mcp, &session);
            }
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Ends a session here and at the upstreams.
fn end_session(mcp: &Mcp, session: &Session) {
    if mcp.sessions.end(session) {
        let party = session.party();
        session.let_go();
        pipeline::session_ended(&mcp.snapshot.load(), &party);
    }
}

/// Ends sessions that rest for too long, and lets go of what nobody reads.
pub(super) fn sweep(mcp: &Mcp) {
    let quiet = KEEP_ALIVE + mcp.settings.limits.stall_timeout;
    for session in mcp.sessions.sweep(mcp.services.env.now(), quiet) {
        end_session(mcp, &session);
    }
}

/// Ends sessions of principals whose keys and grants open nothing any more and who hear of upstreams outside of requests. Others rest:
/// whoever asks there has to show a key.
pub(super) fn end_unwelcome(mcp: &Mcp) {
    let is_welcome = |session: &Session| mcp.is_welcome(&session.principal, session.pass().as_deref());
    for session in mcp.sessions.unwelcome(is_welcome) {
        tracing::debug!(principal = %session.principal, "a session ends with the key of its principal");
        end_session(mcp, &session);
    }
}

/// A notification within a session.
pub(super) async fn notification(
    mcp: &Arc<Mcp>,
    from: &From<'_>,
    method: &str,
    params: Option<&RawValue>,
    body: &[u8],
) -> Result<Response, Refused> {
    let session = match owned::reach(mcp, from, None, body, || mcp.places.passage(from.payer())).await? {
        Reached::Here(session) => session,
        Reached::Elsewhere(response) => return Ok(response),
        Reached::Orphaned(name) => owned::adopt(mcp, from, name)?,
    };
    hear(mcp, from, &session, method, params);
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Does what a notification asks for: most ask for nothing.
fn hear(mcp: &Arc<Mcp>, from: &From<'_>, session: &Arc<Session>, method: &str, params: Option<&RawValue>) {
    match method {
        "notifications/cancelled" => {
            if let Some(id) = legacy::cancelled_request(params) {
                session.cancel(&id);
            }
        }
        ROOTS_CHANGED => {
            // It costs a place, like a request. Without one it is lost, as a notification may be.
            let Ok(place) = mcp.places.call(from.payer(), None) else { return };
            let (events, _) = mpsc::channel(1);
            let origin = from.origin(session.revision, session.party(), events, session.ended.clone());
            let (mcp, params) = (mcp.clone(), params.map(ToOwned::to_owned));
            mcp.tasks.clone().spawn(async move {
                let snapshot = mcp.snapshot.load_full();
                pipeline::told(&snapshot, &origin, ROOTS_CHANGED, params.as_deref()).await;
                drop(place);
            });
        }
        _ => {}
    }
}

/// The client's answer to what it was asked.
pub(super) async fn answer(mcp: &Mcp, from: &From<'_>, answer: Message<'_>, body: &[u8]) -> Result<Response, Refused> {
    match owned::reach(mcp, from, None, body, || mcp.places.passage(from.payer())).await? {
        Reached::Here(session) => take_answer(&session, answer),
        Reached::Elsewhere(response) => return Ok(response),
        // Who asked is gone, and nobody waits for it.
        Reached::Orphaned(_) => {}
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

fn take_answer(session: &Session, answer: Message<'_>) {
    match answer {
        Message::Result { id, result } => session.answer(&id, Outcome::Result(result.to_owned())),
        Message::Error { id: Some(id), error } => session.answer(&id, Outcome::Error(error.to_owned())),
        _ => {}
    }
}

/// One request of a session on its way to its answer.
struct Call {
    mcp: Arc<Mcp>,
    session: Arc<Session>,
    id: RequestId,
    ear: Ear,
    work: Work,
    /// What the client was asked meanwhile.
    asked: Vec<u64>,
}

/// The next thing to write.
enum Said {
    Message(String),
    /// The upstream closed its stream for this long: so may we.
    Pause(Duration),
    Last(Last),
}

impl Call {
    fn begin(
        mcp: &Arc<Mcp>,
        from: &From<'_>,
        session: &Arc<Session>,
        id: RequestId,
        method: &str,
        head: Head<'_>,
    ) -> Result<Self, Refused> {
        let revision = session.revision;
        let request = legacy::decode(revision, method, head);
        let request = request.map_err(|rejection| Refused::from_rejection(&rejection, &id))?;
        if session.is_adopted && matches!(request, Request::Subscribe { .. }) {
            let message = "this session has lost its streams with its replica: begin another one with `initialize`";
            return Err(Refused::rpc(StatusCode::OK, Some(&id), &RpcError::new(INVALID_REQUEST, message)));
        }
        let cancelled = session.ended.child_token();
        let in_flight = session.begin(&id, &cancelled).ok_or_else(|| {
            let error = RpcError::new(INVALID_REQUEST, "a request with this id is still in flight");
            Refused::rpc(StatusCode::BAD_REQUEST, Some(&id), &error)
        })?;
        let place = mcp.places.call(from.payer(), Some(&id))?;
        let until_end = (in_flight, place);
        let progress_token = request.progress_token().map(ToOwned::to_owned);
        if let Request::SetLevel(level) = &request {
            session.set_log_level(*level);
        }
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        let origin = from.origin(revision, session.party(), events, cancelled);
        let work = match request {
            Request::Subscribe { uri, params: _ } => {
                let reserved = session.watches.reserve(&uri).map_err(|_| {
                    let error = RpcError::new(INVALID_PARAMS, "too many resources are subscribed to");
                    Refused::rpc(StatusCode::OK, Some(&id), &error)
                })?;
                // What is heard later is not this request's: it goes to the stream of the session.
                let heard_by = stream::standing(mcp, from, session).origin;
                let (snapshot, services) = (mcp.snapshot.load_full(), mcp.services.clone());
                let pinned = snapshot.clone();
                let life = async move {
                    if let Some(reserved) = reserved {
                        let watch = pipeline::watch(&snapshot, &services, &heard_by, reserved.uri()).await?;
                        // One that is not kept was taken back meanwhile, by the caller or by what became of policies.
                        _ = reserved.keep(watch);
                    }
                    Ok(Answer::Empty)
                };
                Work::of(mcp, (Arc::new(origin), inbox), pinned, Leaving::GoesOn, life, until_end)
            }
            Request::Unsubscribe { uri } => {
                session.watches.end(&uri);
                let done = std::future::ready(Ok(Answer::Empty));
                Work::of(mcp, (Arc::new(origin), inbox), mcp.snapshot.load_full(), Leaving::GoesOn, done, until_end)
            }
            request => Work::start(mcp, (origin, inbox), Leaving::GoesOn, request, until_end),
        };
        let ear = Ear { revision, progress_token };
        Ok(Self { mcp: mcp.clone(), session: session.clone(), id, ear, work, asked: Vec::new() })
    }

    /// What happens next. Safe to be dropped and called again.
    async fn next(&mut self) -> Said {
        loop {
            let step = match self.work.next().await {
                Step::Said(event) => Step::Said(pipeline::exposed(&self.mcp.services, &self.work.origin, event)),
                ended @ Step::Ended(_) => ended,
            };
            match step {
                Step::Said(Event::Notice(Notice::Pause { retry })) => return Said::Pause(retry),
                Step::Said(Event::Notice(notice)) => {
                    let logs = Logs::of_session(self.session.log_level());
                    if let Some(message) = self.ear.hear(&notice, logs) {
                        return Said::Message(message);
                    }
                }
                Step::Said(Event::Ask(ask)) => {
                    if let Some((number, message)) = self.session.ask(ask) {
                        self.asked.push(number);
                        return Said::Message(message);
                    }
                }
                Step::Ended(ended) => return Said::Last(Last::of(ended, &self.id, self.ear.revision)),
            }
        }
    }

    /// The answer alone. Nothing else can reach the caller: nobody is asked.
    async fn last(mut self) -> Last {
        loop {
            if let Step::Ended(ended) = self.work.next().await {
                return Last::of(ended, &self.id, self.ear.revision);
            }
        }
    }
}
