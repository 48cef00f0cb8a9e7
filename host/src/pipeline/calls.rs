//! The life of a `tools/call`: resolve, permit, send, inspect; and a record of it, however it ends.

use super::lists::is_within_reach;
use super::recording::Recording;
use super::state::{self, Purpose};
use super::{Origin, Refusal, Services, Snapshot, done, hide, rounds, tasks, upstream, view};
use crate::audit::RecordedOutcome;
use crate::mcp::call::{Call, Outcome, Params};
use crate::mcp::param_headers;
use crate::mcp::revision::Answer;
use crate::policy::Permit;
use crate::upstream::UpstreamError;

const METHOD: &str = "tools/call";

pub(super) async fn call_tool(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    name: String,
    params: Params,
) -> Result<Answer, Refusal> {
    let mut recording = Recording::start(services, METHOD);
    recording.about(None, &name);
    let call = match resolve(snapshot, services, origin, &name, params) {
        Ok(call) => call,
        Err(refusal) => {
            recording.unknown(snapshot, services, origin, reason(&refusal));
            return Err(refusal);
        }
    };
    let tool = call.tool.clone();
    recording.about(Some(&tool.upstream), &tool.name);

    let (permit, trail) = snapshot.policies.check(&recording.context(services, origin), call);
    recording.heard(trail);
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => {
            recording.refuse(snapshot, services, origin, &refusal);
            return Err(hide(refusal, || Refusal::UnknownTool { name }));
        }
    };

    let outcome = match send(snapshot, services, origin, &name, permit).await {
        Ok(outcome) => outcome,
        Err(refusal) => {
            recording.allow(snapshot, services, origin, ending_of(&refusal));
            return Err(refusal);
        }
    };

    let elapsed = recording.elapsed();
    let (outcome, trail) = snapshot.policies.inspect(&recording.context(services, origin), &tool, outcome, elapsed);
    recording.heard(trail);
    match outcome {
        Ok(outcome) => {
            recording.allow(snapshot, services, origin, ending(&outcome));
            Ok(done(METHOD, tasks::expose(snapshot, services, origin, &tool, outcome)?))
        }
        Err(refusal) => {
            recording.refuse(snapshot, services, origin, &refusal);
            Err(Refusal::Policy(refusal))
        }
    }
}

/// The tool that the caller means, if the allow-list has it, and what the caller brings back to it.
fn resolve(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    name: &str,
    mut params: Params,
) -> Result<Call, Refusal> {
    let tool = view(snapshot, origin).and_then(|view| view.tool(name)).filter(|tool| is_within_reach(origin, tool));
    let Some(tool) = tool.cloned() else { return Err(Refusal::UnknownTool { name: name.to_owned() }) };
    if !origin.revision.is_legacy() {
        let arguments = params.members.get("arguments");
        param_headers::check(&tool.param_headers, arguments, &origin.param_headers).map_err(Refusal::HeaderMismatch)?;
    }
    let purpose = Purpose::of(origin, METHOD, name);
    state::take_up(services, &purpose, &tool.upstream, &mut params)?;
    Ok(Call { tool, params })
}

/// Sends a call until there is an outcome for the caller: what the upstream wants to know in between is asked for.
async fn send(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    name: &str,
    permit: Permit<Call>,
) -> Result<Outcome, Refusal> {
    let upstream = upstream(snapshot, &permit.get().tool.upstream)?;
    let purpose = Purpose::of(origin, METHOD, name);
    rounds::until_done(snapshot, services, origin, upstream, &purpose, permit).await
}

fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::HeaderMismatch(_) => "header-mismatch",
        Refusal::BadState => "bad-state",
        _ => "unknown-tool",
    }
}

/// How a request ended that was let pass and has no answer.
pub(super) fn ending_of(refusal: &Refusal) -> RecordedOutcome {
    match refusal {
        Refusal::Upstream { error: UpstreamError::Cancelled, .. } => RecordedOutcome::Cancelled,
        _ => RecordedOutcome::Error,
    }
}

/// How a request ended that has an answer.
pub(super) fn ending(outcome: &Outcome) -> RecordedOutcome {
    #[derive(serde::Deserialize)]
    struct ToolResult {
        #[serde(rename = "isError", default)]
        is_error: bool,
    }
    match outcome {
        Outcome::Error(_) => RecordedOutcome::Error,
        Outcome::NeedsInput(_) => RecordedOutcome::Result,
        // Most results say nothing of it, and are not read.
        Outcome::Result(result) if memchr::memmem::find(result.get().as_bytes(), b"\"isError\"").is_none() => {
            RecordedOutcome::Result
        }
        Outcome::Result(result) => match serde_json::from_str::<ToolResult>(result.get()) {
            Ok(ToolResult { is_error: true }) => RecordedOutcome::ToolError,
            _ => RecordedOutcome::Result,
        },
    }
}
