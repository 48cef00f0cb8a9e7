//! What an upstream asks of its client: passed to the caller's own client where that declared that it answers such
//! questions, and answered by the gateway itself where not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::desk::{Audience, OpenQuestion};
use super::session::Session;
use crate::mcp::call::Outcome;
use crate::mcp::error::{METHOD_NOT_FOUND, RpcError, THROTTLED, UNANSWERED};
use crate::mcp::json::Members;
use crate::mcp::message::{self, RequestId};
use crate::mcp::talk::{Ask, Event, Question};

/// Questions that wait at once, for each request and outside of all of them.
const MAX_QUESTIONS: usize = 8;
/// How long a question waits that belongs to no request. One that does waits as long as its request.
const STANDING_TIMEOUT: Duration = Duration::from_secs(10 * 60);

impl Session {
    /// Takes a request of the upstream, which belongs to our request `of` if it came on that one's own stream. The reply
    /// is posted when it is there; while it is waited for, the time of our request stands still.
    pub(super) fn be_asked(
        self: &Arc<Self>,
        id: RequestId,
        method: &str,
        params: Option<&RawValue>,
        of: Option<&RequestId>,
    ) {
        let question = Question::of(method, params).filter(|question| self.party.client.answers(*question));
        let Some(question) = question else {
            self.say(answer_to_upstream(&id, method));
            return;
        };
        let (audience, withdrawn) = match self.admit(&id, of) {
            Ok(admitted) => admitted,
            Err(error) => {
                self.say(message::error(Some(&id), &error.to_raw()));
                return;
            }
        };
        let (reply, replied) = oneshot::channel();
        let ask = Ask {
            upstream: self.peer.name.clone(),
            question,
            params: params.map(ToOwned::to_owned),
            is_admitted: false,
            reply,
        };
        let session = self.clone();
        self.peer.tasks.spawn(async move {
            let over = audience.over.clone();
            let reply = tokio::select! {
                reply = wait_for_reply(audience, ask, replied) => reply,
                // The upstream no longer wants to know.
                () = withdrawn.cancelled() => None,
                () = over.cancelled() => None,
                () = session.over.cancelled() => None,
            };
            session.desk().questions.remove(&id);
            if let Some(reply) = reply {
                let body = match reply {
                    Outcome::Result(result) => message::result(&id, &result),
                    Outcome::Error(error) => message::error(Some(&id), &error),
                    Outcome::NeedsInput(_) => message::error(Some(&id), &unanswered().to_raw()),
                };
                session.peer.send_aside(session.post(body)).await;
            }
        });
    }

    /// Finds whom to ask, within bounds.
    fn admit(&self, id: &RequestId, of: Option<&RequestId>) -> Result<(Audience, CancellationToken), RpcError> {
        let mut desk = self.desk();
        let audience = desk.audience(of).ok_or_else(unanswered)?;
        let waiting = desk.questions.values().filter(|question| question.of == audience.of).count();
        if waiting >= MAX_QUESTIONS || desk.questions.contains_key(id) {
            return Err(RpcError::new(THROTTLED, "too many questions at once"));
        }
        let withdrawn = CancellationToken::new();
        let question = OpenQuestion { of: audience.of.clone(), withdrawn: withdrawn.clone() };
        desk.questions.insert(id.clone(), question);
        Ok((audience, withdrawn))
    }
}

/// `None`: the request that it belongs to is taken back, of which the upstream is told instead.
async fn wait_for_reply(audience: Audience, ask: Ask, replied: oneshot::Receiver<Outcome>) -> Option<Outcome> {
    let asking = async {
        let _standstill = audience.deadline.as_ref().map(super::Deadline::pause);
        audience.events.send(Event::Ask(ask)).await.ok()?;
        replied.await.ok()
    };
    let reply = match audience.deadline {
        Some(_) => asking.await,
        None => tokio::time::timeout(STANDING_TIMEOUT, asking).await.ok().flatten(),
    };
    match reply {
        None if audience.cancelled.is_cancelled() => None,
        reply => Some(reply.unwrap_or_else(|| Outcome::Error(unanswered().to_raw()))),
    }
}

fn unanswered() -> RpcError {
    RpcError::new(UNANSWERED, "nobody answers this at the moment")
}

/// What the gateway itself answers when an upstream asks something of it as its client.
pub(super) fn answer_to_upstream(id: &RequestId, method: &str) -> String {
    if method == "ping" {
        return message::result(id, &Members::default().to_raw());
    }
    message::error(Some(id), &RpcError::new(METHOD_NOT_FOUND, "the client declared no such capability").to_raw())
}
