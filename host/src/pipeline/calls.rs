//! The life of a `tools/call`: resolve, permit, send, inspect; and a record of it, however it ends.

use super::lists::is_within_reach;
use super::recording::Recording;
use super::state::{self, Carried, Purpose};
use super::{
    Origin, Refusal, Services, Snapshot, approvals, credentials, done, end, ending, rounds, settled, tasks, upstream,
    view,
};
use crate::mcp::call::{Call, Outcome, Params};
use crate::mcp::param_headers;
use crate::mcp::revision::Answer;

pub(super) const METHOD: &str = "tools/call";

pub(super) async fn call_tool(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    name: String,
    params: Params,
) -> Result<Answer, Refusal> {
    let mut recording = Recording::start(services, METHOD);
    recording.about(None, &name);
    let ended = life(snapshot, services, origin, &mut recording, &name, params).await;
    let unknown = || Refusal::UnknownTool { name };
    end(snapshot, services, origin, recording, ended, ending, unknown).map(|outcome| done(METHOD, outcome))
}

async fn life(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    name: &str,
    params: Params,
) -> Result<Outcome, Refusal> {
    let (call, carried) = resolve(snapshot, services, origin, recording, name, params)?;
    let tool = call.tool.clone();
    recording.about(Some(&tool.upstream), &tool.name);

    let permit = approvals::permit_call(snapshot, services, origin, recording, call, carried).await?;

    let upstream = upstream(snapshot, &tool.upstream)?;
    let purpose = Purpose::of(origin, METHOD, name);
    let outcome = if tool.is_connect {
        // Nothing goes to the upstream.
        drop(permit);
        credentials::connect(snapshot, services, origin, upstream, &purpose, recording, &tool.name).await?
    } else {
        rounds::until_done(snapshot, services, origin, upstream, &purpose, recording, permit).await?
    };

    let ctx = recording.context(services, origin);
    let inspected = snapshot.policies.inspect(&ctx, &tool, outcome, recording.elapsed()).await;
    let outcome = settled(recording, inspected)?;
    tasks::expose(snapshot, services, origin, recording, &tool, outcome).await
}

/// The tool that the caller means, if the allow-list has it, and what the caller brings back to it. That there is one that the
/// caller may not use is told to operators alone.
fn resolve(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    name: &str,
    mut params: Params,
) -> Result<(Call, Carried), Refusal> {
    let unknown = || Refusal::UnknownTool { name: name.to_owned() };
    let tool = view(snapshot, origin).and_then(|view| view.tool(name)).cloned().ok_or_else(unknown)?;
    if !is_within_reach(origin, &tool) {
        recording.about(Some(&tool.upstream), &tool.name);
        recording.out_of_reach();
        return Err(unknown());
    }
    if !origin.revision.is_legacy() {
        let arguments = params.members.get("arguments");
        param_headers::check(&tool.param_headers, arguments, &origin.param_headers).map_err(Refusal::HeaderMismatch)?;
    }
    let purpose = Purpose::of(origin, METHOD, name);
    let carried = state::take_up(services, &purpose, &tool.upstream, &mut params)?;
    Ok((Call { tool, params }, carried))
}
