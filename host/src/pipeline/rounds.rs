//! What an upstream wants to know before it answers, across the eras.
//!
//! A modern upstream ends its answer with questions and is asked again with the replies. A modern caller does the same with
//! us, so that the questions pass on, with the state sealed; a legacy caller is asked on its stream while its request
//! stays open here.

use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::credentials::Loan;
use super::recording::Recording;
use super::state::{self, MAX_UPSTREAM_STATE, Purpose, State};
use super::{Origin, Refusal, Services, Snapshot, questions, view};
use crate::ids::UpstreamName;
use crate::mcp::call::{Access, Call, NeedsInput, Outcome, Retry, WithParams};
use crate::mcp::error::{INTERNAL_ERROR, RpcError};
use crate::mcp::json::{ObjectWriter, raw, to_raw};
use crate::mcp::revision::v2026_07_28::InputRequest;
use crate::mcp::revision::{Era, v2026_07_28};
use crate::mcp::talk::{Ask, Event, Question, Via};
use crate::policy::Permit;
use crate::upstream::{Upstream, UpstreamError};

/// How often an upstream may ask about one request.
const MAX_ROUNDS: usize = 10;

/// What goes to an upstream once it is permitted.
pub(super) trait Goes: WithParams + Clone + Send + Sized {
    /// The upstream's own name for the tool that is called.
    fn tool(&self) -> Option<&str>;

    fn go(
        upstream: &Upstream,
        permit: Permit<Self>,
        via: Via,
    ) -> impl Future<Output = Result<Outcome, UpstreamError>> + Send;
}

impl Goes for Call {
    fn tool(&self) -> Option<&str> {
        Some(&self.tool.name)
    }

    async fn go(upstream: &Upstream, permit: Permit<Self>, via: Via) -> Result<Outcome, UpstreamError> {
        upstream.call(permit, via).await
    }
}

impl Goes for Access {
    fn tool(&self) -> Option<&str> {
        None
    }

    async fn go(upstream: &Upstream, permit: Permit<Self>, via: Via) -> Result<Outcome, UpstreamError> {
        upstream.access(permit, via).await
    }
}

/// Sends what was permitted until there is an outcome for the caller.
pub(super) async fn until_done<T: Goes>(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    upstream: &Upstream,
    purpose: &Purpose<'_>,
    recording: &mut Recording,
    mut permit: Permit<T>,
) -> Result<Outcome, Refusal> {
    let failed = |error| Refusal::Upstream { name: upstream.name().clone(), error };
    let tool = permit.get().tool();
    let mut loan = Loan::obtain(snapshot, services, origin, upstream, purpose, recording, tool).await?;
    let is_legacy = origin.revision.is_legacy();
    let about = view(snapshot, origin).and_then(|view| view.about(upstream.name()));
    let may_be_asked = is_legacy && about.is_some_and(|about| about.era == Era::Modern);
    let spare = may_be_asked.then(|| permit.repeat(Retry::default()));
    for _ in 0..MAX_ROUNDS {
        let begun = Instant::now();
        let sent = loan.send(services, origin, purpose, recording, permit).await;
        recording.sent(begun.elapsed(), sent.as_ref().ok());
        match (sent?, &spare) {
            (Outcome::NeedsInput(needs), Some(spare)) => {
                let requests =
                    questions::permitted(snapshot, services, origin, recording, upstream.name(), &needs).await?;
                let responses = tokio::select! {
                    responses = ask_all(services, origin, upstream.name(), requests) => responses?,
                    () = origin.cancelled.cancelled() => return Err(failed(UpstreamError::Cancelled)),
                };
                permit = spare.repeat(Retry { responses: Some(responses), state: needs.state() });
            }
            (Outcome::NeedsInput(needs), None) if !is_legacy => {
                let requests =
                    questions::permitted(snapshot, services, origin, recording, upstream.name(), &needs).await?;
                return pass_on(services, upstream.name(), purpose, recording, &requests, &needs).map_err(failed);
            }
            (Outcome::NeedsInput(_), None) => {
                return Err(failed(UpstreamError::Protocol { what: "it asks for input in a revision without" }));
            }
            (Outcome::Error(error), _) => {
                let required =
                    questions::permitted_in_error(snapshot, services, origin, recording, upstream.name(), &error);
                return Ok(match required.await? {
                    Some(requests) => url_required(services, origin, purpose, recording, &requests, error),
                    None => Outcome::Error(error),
                });
            }
            (outcome, _) => return Ok(outcome),
        }
    }
    Err(failed(UpstreamError::Protocol { what: "it asks for more input without end" }))
}

/// Asks a legacy caller everything that a modern upstream wants to know, all of which was permitted: the object
/// `inputResponses`.
async fn ask_all(
    services: &Services,
    origin: &Origin,
    upstream: &UpstreamName,
    requests: Vec<InputRequest>,
) -> Result<Box<RawValue>, Refusal> {
    let asked = requests.into_iter().map(|InputRequest { key, question, params }| async move {
        let (reply, answered) = oneshot::channel();
        let ask = Ask { upstream: upstream.clone(), question, params, is_admitted: true, reply };
        Ok::<_, Refusal>((key, reply_to(services, origin, ask, answered).await?))
    });
    let mut responses = ObjectWriter::default();
    for (key, reply) in try_join_all(asked).await? {
        responses.member(&key, reply.get());
    }
    Ok(responses.finish())
}

/// What the caller's client replies.
async fn reply_to(
    services: &Services,
    origin: &Origin,
    ask: Ask,
    answered: oneshot::Receiver<Outcome>,
) -> Result<Box<RawValue>, Refusal> {
    let question = ask.question;
    let unanswered = || Refusal::Unanswered { question };
    origin.events.send(Event::Ask(ask)).await.map_err(|_| unanswered())?;
    match (tokio::time::timeout(services.ask_timeout, answered).await, question) {
        (Ok(Ok(Outcome::Result(result))), _) => Ok(result),
        // A person who does not answer has cancelled (elicitation § response actions).
        (_, Question::ElicitationForm | Question::ElicitationUrl) => Ok(raw(r#"{"action":"cancel"}"#.to_owned())),
        _ => Err(unanswered()),
    }
}

/// Passes a modern upstream's questions, all of which were permitted, on to a modern caller.
fn pass_on(
    services: &Services,
    upstream: &UpstreamName,
    purpose: &Purpose<'_>,
    recording: &Recording,
    requests: &[InputRequest],
    needs: &NeedsInput,
) -> Result<Outcome, UpstreamError> {
    let state = needs.state();
    if state.as_ref().is_some_and(|state| state.len() > MAX_UPSTREAM_STATE) {
        return Err(UpstreamError::TooLarge { limit: MAX_UPSTREAM_STATE });
    }
    let state = State::Upstream { upstream: upstream.clone(), state };
    let state = state::seal_round(services, purpose, state, recording.carried());
    Ok(Outcome::NeedsInput(v2026_07_28::needs_input(requests, &state)))
}

/// What an upstream's "send the user to a URL first" (2025-11-25, elicitation § URL required error) is for this caller: the
/// same, a question, or a text that a model can read.
fn url_required(
    services: &Services,
    origin: &Origin,
    purpose: &Purpose<'_>,
    recording: &Recording,
    requests: &[InputRequest],
    error: Box<RawValue>,
) -> Outcome {
    #[derive(Deserialize)]
    struct Elicitation {
        url: String,
        #[serde(default)]
        message: String,
    }
    let knows_urls = origin.party.client.answers(Question::ElicitationUrl);
    if knows_urls && origin.revision.is_legacy() && origin.revision.traits().elicitation_url {
        return Outcome::Error(error);
    }
    if knows_urls && !origin.revision.is_legacy() {
        let state = state::seal_round(services, purpose, State::Again, recording.carried());
        return Outcome::NeedsInput(v2026_07_28::needs_input(requests, &state));
    }
    let params = requests.iter().filter_map(|request| request.params.as_deref());
    let texts = params.filter_map(|params| serde_json::from_str::<Elicitation>(params.get()).ok());
    let texts: Vec<String> = texts.map(|Elicitation { url, message }| format!("{message}\n{url}")).collect();
    let text = format!("Open this in a browser first, then try again.\n{}", texts.join("\n"));
    if purpose.method == "tools/call" {
        let result = serde_json::json!({ "content": [{ "type": "text", "text": text }], "isError": true });
        Outcome::Result(to_raw(&result))
    } else {
        Outcome::Error(RpcError::new(INTERNAL_ERROR, text).to_raw())
    }
}
