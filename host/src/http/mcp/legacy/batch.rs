//! Several messages in one POST, which revision 2025-03-26 alone has (transports § sending messages).
//!
//! Each message is what it would be alone. The answers come together: as one JSON array, or each on one stream, if
//! there is anything to say before them.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::owned::{self, Reached};
use super::session::Session;
use super::stream::Reader;
use super::{Call, Said, hear, take_answer};
use crate::http::error::{Refused, json_response};
use crate::http::mcp::reply::PATIENCE;
use crate::http::mcp::{From, Mcp, accepts_events, refuse_malformed};
use crate::mcp::message::{self, Malformed, Message};
use crate::mcp::revision::Head;

/// What the calls of a batch have to say, before whoever puts it together has taken it.
const PARTS: usize = 16;

/// What one call of a batch has to say.
enum Part {
    Message(String),
    /// It has ended, with this answer if anybody expects one.
    Last(Option<String>),
}

/// Takes a body that is a JSON array.
pub(in crate::http::mcp) async fn take(mcp: &Arc<Mcp>, from: From<'_>, body: &[u8]) -> Result<Response, Refused> {
    let place = || mcp.places.call(from.payer(), None);
    let session = match owned::reach(mcp, &from, None, body, place).await {
        Ok(Reached::Here(session)) => Some(session),
        Ok(Reached::Elsewhere(response)) => return Ok(response),
        Ok(Reached::Orphaned(name)) => owned::adopt(mcp, &from, name).ok(),
        Err(refused) if refused.is_fault() => return Err(refused),
        Err(_) => None,
    };
    let session = session.filter(|session| session.revision.traits().batches);
    let Some(session) = session else { return Err(refuse_malformed(&Malformed::Batch)) };
    let accepts_events = accepts_events(from.headers) && !session.is_adopted;
    let messages = message::batch(body).map_err(|malformed| refuse_malformed(&malformed))?;
    let (mut calls, mut answers) = (Vec::new(), Vec::new());
    for message in messages {
        match begin(mcp, &from, &session, message) {
            Ok(Some(call)) => calls.push(call),
            Ok(None) => {}
            Err(refused) => answers.push(refused.message().to_owned()),
        }
    }
    if calls.is_empty() && answers.is_empty() {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    Ok(respond(mcp, session, calls, answers, accepts_events).await)
}

/// Does what one message asks for; a request is begun.
fn begin(mcp: &Arc<Mcp>, from: &From<'_>, session: &Arc<Session>, message: &RawValue) -> Result<Option<Call>, Refused> {
    let message = Message::from_batch(message).map_err(|malformed| refuse_malformed(&malformed))?;
    match message {
        Message::Request { id, method, params } => {
            Call::begin(mcp, from, session, id, &method, Head::read(params)).map(Some)
        }
        Message::Notification { method, params } => {
            hear(mcp, from, session, &method, params);
            Ok(None)
        }
        answer @ (Message::Result { .. } | Message::Error { .. }) => {
            take_answer(session, answer);
            Ok(None)
        }
    }
}

/// Runs the calls side by side and puts together what they say. They go on whether anybody hears of it or not.
async fn respond(
    mcp: &Arc<Mcp>,
    session: Arc<Session>,
    calls: Vec<Call>,
    mut answers: Vec<String>,
    accepts_events: bool,
) -> Response {
    let (sender, mut parts) = mpsc::channel(PARTS);
    for call in calls {
        mcp.tasks.spawn(tell(call, sender.clone()));
    }
    drop(sender);
    let patience = tokio::time::sleep(PATIENCE);
    tokio::pin!(patience);
    let first = loop {
        tokio::select! {
            biased;
            part = parts.recv() => match part {
                Some(Part::Last(answer)) => answers.extend(answer),
                Some(Part::Message(message)) if accepts_events => break Some(message),
                Some(Part::Message(_)) => {}
                None if answers.is_empty() => return StatusCode::ACCEPTED.into_response(),
                None => return json_response(StatusCode::OK, format!("[{}]", answers.join(","))),
            },
            () = &mut patience, if accepts_events => break None,
        }
    };
    let log = session.open_stream();
    let reader = Reader::new(mcp, &session, log.clone(), None, None);
    let stall = mcp.settings.limits.stall_timeout;
    mcp.tasks.spawn(async move {
        for message in answers.iter().chain(&first) {
            log.push(message);
        }
        while let Some(part) = parts.recv().await {
            if let Part::Message(message) | Part::Last(Some(message)) = part {
                log.wait_for_room(stall).await;
                log.push(&message);
            }
        }
        log.end();
    });
    reader.into_response()
}

/// Passes on what a call has to say.
async fn tell(mut call: Call, parts: mpsc::Sender<Part>) {
    loop {
        let part = match call.next().await {
            Said::Message(message) => Part::Message(message),
            // The stream is not this call's alone.
            Said::Pause(_) => continue,
            Said::Last(last) => {
                for message in call.session.withdraw(&call.asked) {
                    _ = parts.send(Part::Message(message)).await;
                }
                // Where nobody is there to hear of it, it has ended all the same.
                _ = parts.send(Part::Last(last.into_message())).await;
                return;
            }
        };
        _ = parts.send(part).await;
    }
}
