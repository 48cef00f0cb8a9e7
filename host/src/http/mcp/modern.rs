//! The modern era on the wire (2026-07-28): each request stands alone, and closing the connection takes it back.
//!
//! What an upstream of an earlier revision asks in the middle of a call ends the response with `input_required`; the
//! call itself is parked ([`super::parked`]), and the caller's retry goes on with it.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::parked::Dialog;
use super::reply::{Ear, KEEP_ALIVE, Last, Logs, PATIENCE, Pieces, event_stream};
use super::work::{EVENT_QUEUE, Leaving, Step, Work};
use super::{From, Mcp, accepts_events, listen, owners};
use crate::connection::extra::Extra;
use crate::http::error::Refused;
use crate::mcp::call::{Outcome, Retry};
use crate::mcp::client::Client;
use crate::mcp::message::RequestId;
use crate::mcp::revision::{Answer, Asked, Head, Request, Revision, v2026_07_28};
use crate::mcp::sse;
use crate::mcp::talk::{Event, LogLevel, Party};
use crate::pipeline::state::{self, Purpose, State};
use crate::pipeline::{Origin, Refusal};

/// What an upstream asks within this time is asked in one answer.
const GATHERING: Duration = Duration::from_millis(20);
/// See [`sse::KEEP_ALIVE`].
const KEEP_ALIVE_PIECE: Bytes = Bytes::from_static(sse::KEEP_ALIVE.as_bytes());
/// Beginning of the names of headers that repeat arguments.
const PARAM_HEADERS: &str = "mcp-param-";

pub(super) async fn request(
    mcp: &Arc<Mcp>,
    from: From<'_>,
    id: RequestId,
    (method, head): (&str, Head<'_>),
    body: &[u8],
) -> Result<Response, Refused> {
    let asked = v2026_07_28::decode(from.headers, method, head);
    let Asked { request, client, log_level } = asked.map_err(|rejection| Refused::from_rejection(&rejection, &id))?;
    let client = client.unwrap_or_else(|| Arc::new(Client::gateway()));
    if let Request::Listen(filter) = request {
        return listen::open(mcp, &from, id, client, filter);
    }
    if let Some(response) = owners::of_task(mcp, &from, &request, &id, body).await? {
        return Ok(response);
    }
    let ear = Ear { revision: Revision::V2026_07_28, progress_token: request.progress_token().map(ToOwned::to_owned) };
    let may_ask =
        matches!(request, Request::CallTool { .. } | Request::GetPrompt { .. } | Request::ReadResource { .. });
    let about = may_ask.then(|| About::of(&request)).flatten();
    let resumed = match &about {
        Some(about) => resume(mcp, &from, &id, about, &request, body).await?,
        None => Resumed::Nothing,
    };
    let (dialog, asks_again) = match resumed {
        Resumed::Elsewhere(response) => return Ok(response),
        Resumed::Here(dialog) => (*dialog, true),
        Resumed::Nothing => (Dialog::new(begin(mcp, &from, &id, &client, log_level, request)?), false),
    };
    let mut exchange = Exchange {
        mcp: mcp.clone(),
        id,
        ear,
        logs: Logs::of_request(log_level),
        client,
        about,
        dialog,
        asking_at: None,
    };
    if asks_again && exchange.dialog.has_questions() {
        exchange.asking_at = Some(Instant::now());
    }
    Ok(exchange.respond(accepts_events(from.headers)).await)
}

/// Starts a request that stands for itself.
fn begin(
    mcp: &Arc<Mcp>,
    from: &From<'_>,
    id: &RequestId,
    client: &Arc<Client>,
    log_level: Option<LogLevel>,
    request: Request,
) -> Result<Work, Refused> {
    let place = mcp.places.call(from.payer(), Some(id))?;
    let (events, inbox) = mpsc::channel(EVENT_QUEUE);
    let param_headers = if matches!(request, Request::CallTool { .. }) { param_headers(from) } else { Vec::new() };
    let cancelled = mcp.tasks.stopping().child_token();
    let origin = from.origin(Revision::V2026_07_28, party(from, client.clone(), log_level), events, cancelled);
    let origin = Origin { param_headers, ..origin };
    Ok(Work::start(mcp, (origin, inbox), Leaving::TakesBack, request, place))
}

/// On whose behalf a modern request goes upstream: it has no session, and nobody listens outside of it.
pub(super) fn party(from: &From<'_>, client: Arc<Client>, log_level: Option<LogLevel>) -> Party {
    let principal = from.caller.principal.clone();
    // Whoever makes an origin of it says what the request has.
    let extra = Extra::default();
    Party { principal, session: None, client, log_level, standing: None, lent: None, extra, trace: None }
}

fn param_headers(from: &From<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let params = from.headers.iter().filter(|(name, _)| name.as_str().starts_with(PARAM_HEADERS));
    params.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What a request is about, as a `requestState` is bound to it.
struct About {
    method: &'static str,
    name: String,
}

impl About {
    fn of(request: &Request) -> Option<Self> {
        request.name().map(|name| Self { method: request.method(), name: name.to_owned() })
    }
}

/// What a retry goes on with.
enum Resumed {
    /// A call that waits here, with what the retry brings.
    Here(Box<Dialog>),
    /// One that waits at another replica, which answers.
    Elsewhere(Response),
    /// It is no retry of a call that waits.
    Nothing,
}

/// The call that a retry goes on with, if it is one of those that wait.
async fn resume(
    mcp: &Mcp,
    from: &From<'_>,
    id: &RequestId,
    about: &About,
    request: &Request,
    body: &[u8],
) -> Result<Resumed, Refused> {
    let retry = request.params().and_then(|params| params.retry.as_ref());
    let Some(retry @ Retry { state: Some(sealed), .. }) = retry else { return Ok(Resumed::Nothing) };
    let principal = &from.caller.principal;
    let endpoint = from.scope.endpoint();
    let client = from.caller.client.as_deref();
    let purpose = Purpose { principal, client, endpoint, method: about.method, name: &about.name };
    let refuse = |refusal: &Refusal| {
        let refused = Refused::from_refusal(refusal, id, Revision::V2026_07_28);
        refused.unwrap_or_else(|| Refused::plain(http::StatusCode::BAD_REQUEST, "`requestState` is not valid"))
    };
    let State::Parked { id: spot, owner } =
        state::open(&mcp.services, &purpose, sealed).map_err(|refusal| refuse(&refusal))?
    else {
        return Ok(Resumed::Nothing);
    };
    if owner != *mcp.replicas.id() && !mcp.replicas.is_alone() {
        let place = mcp.places.call(from.payer(), Some(id))?;
        let passed = owners::pass_on(mcp, from, &owner, Some(id), body, place).await?;
        return passed.map(Resumed::Elsewhere).ok_or_else(|| owners::gone(Some(id)));
    }
    let dialog = mcp.parking.claim(&from.caller, spot).await;
    let mut dialog = dialog.ok_or_else(|| refuse(&Refusal::BadState))?;
    dialog.answer(v2026_07_28::input_responses(retry));
    Ok(Resumed::Here(Box::new(dialog)))
}

/// One request's way to its answer.
struct Exchange {
    mcp: Arc<Mcp>,
    id: RequestId,
    ear: Ear,
    logs: Logs,
    /// Of this request: a retry may come from another one than the call began with.
    client: Arc<Client>,
    /// `None` where the answer cannot ask for anything.
    about: Option<About>,
    dialog: Dialog,
    /// When the questions gathered so far are asked.
    asking_at: Option<Instant>,
}

/// The next thing to write.
enum Said {
    Message(String),
    /// There are questions to ask: see [`Exchange::ask`].
    Questions,
    Last(Last),
}

impl Exchange {
    /// Answers with JSON if the answer is the first thing there is to say, with a stream otherwise.
    async fn respond(mut self, accepts_events: bool) -> Response {
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            let said = tokio::select! {
                biased;
                said = self.next() => said,
                () = &mut patience, if accepts_events => return self.stream(KEEP_ALIVE_PIECE),
            };
            match said {
                Said::Last(last) => return last.into_response(),
                Said::Message(message) if accepts_events => return self.stream(sse::event(&message).into()),
                Said::Message(_) => {}
                Said::Questions => match self.ask() {
                    Ok(last) => return last.into_response(),
                    Err(exchange) => self = *exchange,
                },
            }
        }
    }

    /// Hands the exchange to a task of its own, which writes a stream and waits for slow readers.
    fn stream(self, first: Bytes) -> Response {
        let (pieces, body) = Pieces::new(self.mcp.settings.limits.stall_timeout);
        self.mcp.tasks.clone().spawn(self.write(first, pieces));
        event_stream(body)
    }

    async fn write(mut self, first: Bytes, pieces: Pieces) {
        // Whoever returns drops the work, which takes it back if it has not ended.
        if self.dialog.meanwhile(pieces.send(first)).await.is_err() {
            return;
        }
        loop {
            let said = tokio::select! {
                biased;
                () = pieces.closed() => return,
                said = self.next() => said,
                () = tokio::time::sleep(KEEP_ALIVE) => match self.dialog.meanwhile(pieces.send(sse::KEEP_ALIVE)).await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let last = match said {
                Said::Message(message) => match self.dialog.meanwhile(pieces.send(sse::event(&message))).await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                Said::Last(last) => last,
                Said::Questions => match self.ask() {
                    Ok(last) => last,
                    Err(exchange) => {
                        self = *exchange;
                        continue;
                    }
                },
            };
            if let Some(message) = last.into_message() {
                // It is the end, whether the reader takes it or not.
                _ = pieces.send(sse::event(&message)).await;
            }
            return;
        }
    }

    /// What happens next. Safe to be dropped and called again.
    async fn next(&mut self) -> Said {
        loop {
            let asking_at = self.asking_at.unwrap_or_else(Instant::now);
            let step = tokio::select! {
                biased;
                step = self.dialog.next() => step,
                () = tokio::time::sleep_until(asking_at), if self.asking_at.is_some() => {
                    self.asking_at = None;
                    return Said::Questions;
                }
            };
            match step {
                Step::Said(Event::Notice(notice)) => {
                    if let Some(message) = self.ear.hear(&notice, self.logs) {
                        return Said::Message(message);
                    }
                }
                // Where the answer cannot ask, nobody is asked: dropping the question says so.
                Step::Said(Event::Ask(_)) if self.about.is_none() => {}
                Step::Said(Event::Ask(ask)) => {
                    self.dialog.take(ask);
                    if self.dialog.has_questions() && self.asking_at.is_none() {
                        self.asking_at = Some(Instant::now() + GATHERING);
                    }
                }
                Step::Ended(ended) => return Said::Last(Last::of(ended, &self.id, self.ear.revision)),
            }
        }
    }

    /// Asks what the upstream wants to know, and parks the call. Where there is nothing to ask, or no place to park,
    /// the exchange goes on and the upstream learns that nobody will answer.
    fn ask(mut self) -> Result<Last, Box<Self>> {
        let requests = self.dialog.questions(&self.client);
        let Some(about) = self.about.as_ref().filter(|_| !requests.is_empty()) else { return Err(Box::new(self)) };
        let spot = u64::from_ne_bytes(self.mcp.services.env.random());
        let purpose = Purpose::of(self.dialog.origin(), about.method, &about.name);
        let state = state::seal(
            &self.mcp.services,
            &purpose,
            State::Parked { id: spot, owner: self.mcp.replicas.id().clone() },
        );
        let outcome = Outcome::NeedsInput(v2026_07_28::needs_input(&requests, &state));
        let answer = Answer::Done { method: about.method, outcome };
        match self.mcp.clone().parking.park(&self.mcp, spot, self.dialog) {
            Ok(()) => Ok(Last::answer(answer, &self.id, self.ear.revision)),
            Err(dialog) => {
                self.dialog = *dialog;
                self.dialog.drop_questions();
                Err(Box::new(self))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Limits;
    use crate::http::mcp::testing::{Edge, ask, limits, piece, text, work};
    use crate::mcp::json::{Members, raw};
    use crate::mcp::talk::{Notice, Question};

    const ABLE: &str = r#"{"elicitation":{},"sampling":{}}"#;

    fn exchange(edge: &Edge, about: bool, work: Work) -> Exchange {
        Exchange {
            mcp: edge.mcp.clone(),
            id: RequestId::number(1),
            ear: Ear { revision: Revision::V2026_07_28, progress_token: Some(raw("5".to_owned())) },
            logs: Logs::None,
            client: work.origin.party.client.clone(),
            about: about.then(|| About { method: "tools/call", name: "t".to_owned() }),
            dialog: Dialog::new(work),
            asking_at: None,
        }
    }

    /// A call that reports progress if it is to, asks two questions shortly after another, and says what was replied.
    fn asking(edge: &Edge, reports: bool) -> Work {
        work(&edge.mcp, Revision::V2026_07_28, ABLE, move |origin| async move {
            if reports {
                let progress = Notice::Progress(Members::parse(r#"{"progress":1}"#).unwrap());
                origin.events.send(Event::Notice(progress)).await.unwrap();
            }
            let (one, replied_one) = ask(Question::ElicitationForm);
            origin.events.send(Event::Ask(one)).await.unwrap();
            tokio::time::sleep(GATHERING / 2).await;
            let (two, replied_two) = ask(Question::Sampling);
            origin.events.send(Event::Ask(two)).await.unwrap();
            let mut said = Vec::new();
            for reply in [replied_one, replied_two] {
                said.push(match reply.await {
                    Ok(Outcome::Result(result)) => serde_json::from_str(result.get()).unwrap(),
                    _ => Value::Null,
                });
            }
            let outcome = Outcome::Result(crate::mcp::json::to_raw(&json!({ "content": [], "said": said })));
            Ok(Answer::Done { method: "tools/call", outcome })
        })
    }

    fn retry(id: u64, state: &Value, responses: &Value) -> String {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": { "elicitation": {}, "sampling": {} } });
        let params = json!({ "name": "t", "_meta": meta, "requestState": state, "inputResponses": responses });
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
    }

    const HEADERS: &[(&str, &str)] =
        &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "t")];

    #[tokio::test(start_paused = true)]
    async fn questions_end_the_answer_and_a_retry_goes_on_with_the_call() {
        let edge = Edge::new(limits()).await;
        let response = exchange(&edge, true, asking(&edge, false)).respond(true).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        let asked: Value = serde_json::from_str(&text(response).await).unwrap();
        let result = &asked["result"];
        assert_eq!(result["resultType"], "input_required");
        let methods = ["1", "2"].map(|key| result["inputRequests"][key]["method"].clone());
        assert_eq!(methods, ["elicitation/create", "sampling/createMessage"], "both at once: {asked}");

        let post = async |name: &str, id, state: &Value, responses: Value| {
            let body = retry(id, state, &responses);
            let response = edge.send(name, "POST", "/mcp", HEADERS, &body).await;
            assert_eq!(response.status(), StatusCode::OK);
            serde_json::from_str::<Value>(&text(response).await).unwrap()
        };
        let both = json!({ "1": { "action": "accept" }, "2": { "role": "assistant" }, "9": {} });
        let state = &result["requestState"];
        assert_eq!(post("bob", 2, state, both.clone()).await["error"]["code"], -32602, "it is not his");
        let again = post("ann", 3, state, json!({ "2": { "role": "assistant" }, "1": 7 })).await;
        assert_eq!(again["result"]["resultType"], "input_required");
        assert_eq!(again["result"]["inputRequests"].as_object().unwrap().keys().collect::<Vec<_>>(), ["1"]);
        assert_eq!(post("ann", 4, state, both).await["error"]["code"], -32602, "a state is good for one retry");
        let done = post("ann", 5, &again["result"]["requestState"], json!({ "1": { "action": "accept" } })).await;
        assert_eq!(done["id"], 5);
        assert_eq!(done["result"]["said"], json!([{ "action": "accept" }, { "role": "assistant" }]));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_end_a_stream_too() {
        let edge = Edge::new(limits()).await;
        let response = exchange(&edge, true, asking(&edge, true)).respond(true).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = response.into_body().into_data_stream();
        assert!(piece(&mut stream).await.unwrap().contains(r#""progressToken":5"#));
        assert!(piece(&mut stream).await.unwrap().contains("input_required"));
        assert_eq!(piece(&mut stream).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_can_be_asked_the_upstream_is_told() {
        let edge = Edge::new(Limits { parked_calls: 1, ..limits() }).await;
        let unanswered = |body: String| {
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["result"]["said"], json!([null, null]), "{body}");
        };
        unanswered(text(exchange(&edge, false, asking(&edge, false)).respond(true).await).await);
        let parked = text(exchange(&edge, true, asking(&edge, false)).respond(true).await).await;
        assert!(parked.contains("input_required"));
        unanswered(text(exchange(&edge, true, asking(&edge, false)).respond(true).await).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_begins_when_patience_ends_and_leaving_takes_the_call_back() {
        let edge = Edge::new(limits()).await;
        let (leaving, left) = tokio::sync::oneshot::channel();
        let slow = work(&edge.mcp, Revision::V2026_07_28, "{}", |origin| async move {
            origin.cancelled.cancelled().await;
            leaving.send(()).unwrap();
            Ok(Answer::Empty)
        });
        let begun = Instant::now();
        let mut stream = exchange(&edge, true, slow).respond(true).await.into_body().into_data_stream();
        assert_eq!(begun.elapsed(), PATIENCE);
        for _ in 0..3 {
            assert_eq!(piece(&mut stream).await.unwrap(), ": keep-alive\n\n");
        }
        drop(stream);
        left.await.unwrap();
    }
}
