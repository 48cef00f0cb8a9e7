//! What upstreams ask of callers' clients, in either form: as requests of their own, or as a part of an answer. A question
//! goes to nobody whose client did not declare that it answers such questions, and to nobody whom a policy keeps it from.

use serde_json::value::RawValue;

use super::recording::Recording;
use super::{Origin, Refusal, Services, Snapshot, settled};
use crate::audit::RecordedOutcome;
use crate::ids::UpstreamName;
use crate::mcp::call::{NeedsInput, Outcome};
use crate::mcp::error::{METHOD_NOT_FOUND, REFUSED_BY_POLICY, RpcError};
use crate::mcp::revision::v2025_11_25;
use crate::mcp::revision::v2026_07_28::{self, InputRequest};
use crate::mcp::talk::Ask;
use crate::policy::{AskedOf, Permit};
use crate::upstream::UpstreamError;

/// Whether an upstream's question may reach the caller's client. Where it may not it is answered here, so that the
/// upstream does not wait.
pub async fn admit(snapshot: &Snapshot, services: &Services, origin: &Origin, ask: Ask) -> Option<Permit<Ask>> {
    if !origin.party.client.answers(ask.question) {
        answer(ask, METHOD_NOT_FOUND, "the client did not declare that it answers this");
        return None;
    }
    let mut recording = Recording::start(services, ask.question.method());
    recording.about(Some(&ask.upstream), ask.question.method());
    let said = snapshot.policies.check_ask(&recording.context(services, origin), ask).await;
    let (checked, trail) = said;
    recording.heard(trail);
    match checked {
        Ok(permit) => {
            if recording.asked_a_policy() {
                recording.allow(snapshot, services, origin, RecordedOutcome::Result);
            }
            Some(permit)
        }
        Err((ask, refusal)) => {
            recording.refuse(snapshot, services, origin, &refusal);
            // Why is the operator's business, and the caller's.
            answer(ask, REFUSED_BY_POLICY, "a policy of the gateway does not let this reach the client");
            None
        }
    }
}

/// Tells an upstream that its question goes to nobody.
fn answer(ask: Ask, code: i32, why: &str) {
    // An upstream that no longer waits does not mind.
    _ = ask.reply.send(Outcome::Error(RpcError::new(code, why).to_raw()));
}

/// What an upstream asks in an answer, if all of it may reach the caller's client.
pub(super) async fn permitted(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    upstream: &UpstreamName,
    needs: &NeedsInput,
) -> Result<Vec<InputRequest>, Refusal> {
    let protocol = |what| Refusal::Upstream { name: upstream.clone(), error: UpstreamError::Protocol { what } };
    let requests = v2026_07_28::input_requests(needs);
    let requests = requests.map_err(|_| protocol("it asks for input in a form that is not known"))?;
    if !requests.iter().all(|request| origin.party.client.answers(request.question)) {
        return Err(protocol("it asks for what the client did not declare"));
    }
    check_all(snapshot, services, origin, recording, upstream, &requests).await?;
    Ok(requests)
}

/// What an upstream of 2025-11-25 wants the user to see first, in an error (elicitation § URL required error), if it may
/// reach the caller. Whether its client can show it is another question.
pub(super) async fn permitted_in_error(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    upstream: &UpstreamName,
    error: &RawValue,
) -> Result<Option<Vec<InputRequest>>, Refusal> {
    let Some(requests) = v2025_11_25::required_elicitations(error) else { return Ok(None) };
    check_all(snapshot, services, origin, recording, upstream, &requests).await?;
    Ok(Some(requests))
}

async fn check_all(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    upstream: &UpstreamName,
    requests: &[InputRequest],
) -> Result<(), Refusal> {
    for request in requests {
        let asked = AskedOf { upstream, method: request.question.method(), params: request.params.as_deref() };
        let said = snapshot.policies.check_question(&recording.context(services, origin), asked).await;
        settled(recording, said)?;
    }
    Ok(())
}
