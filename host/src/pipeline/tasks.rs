//! Tasks: work that an upstream goes on with after it has answered. Callers know a task by a signed id that names the
//! upstream and the replica where it began, and that is good for them alone.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::credentials::Loan;
use super::recording::Recording;
use super::state::{Carried, Purpose, held_by};
use super::{Origin, Refusal, Services, Snapshot, approvals, done, end, ending, questions, settled, upstream, view};
use crate::identity::Caller;
use crate::ids::{ReplicaId, UpstreamName};
use crate::mcp::call::{Access, Item, NeedsInput, Outcome, Params, Verb};
use crate::mcp::json::{Members, to_raw};
use crate::mcp::revision::{Answer, TASKS_EXTENSION, v2026_07_28};
use crate::mcp::talk::{Ask, Event, Notice};
use crate::policy::{Hook, ItemFacts, Used};
use crate::upstream::UpstreamError;
use crate::upstream::catalog::Tool;

/// Key in `_meta` under which 2025-11-25 names the task that a message belongs to.
const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";

/// `tasks/…`: by the id that the caller has.
pub(super) async fn access(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    verb: Verb,
    id: &str,
    params: Params,
) -> Result<Answer, Refusal> {
    let method = verb.method();
    let mut recording = Recording::start(services, method);
    recording.about(None, id);
    let ended = life(snapshot, services, origin, &mut recording, verb, id, params).await;
    let unknown = || Refusal::UnknownTask;
    end(snapshot, services, origin, recording, ended, ending, unknown).map(|outcome| done(method, outcome))
}

async fn life(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    verb: Verb,
    id: &str,
    mut params: Params,
) -> Result<Outcome, Refusal> {
    let found = open(services, &origin.caller, id).filter(|task| origin.scope.has(&task.upstream));
    let Known { owner, upstream: name, own } = found.ok_or(Refusal::UnknownTask)?;
    recording.about(Some(&name), &own);
    let tool = services.task_tools.get(&(name.clone(), own.clone()));
    let may_know = match &tool {
        Some(tool) => origin.caller.may_use(&tool.upstream, &tool.name),
        // Nobody can tell any more which tool it is of: policies about results could not be asked.
        None => {
            let reaches = origin.caller.allow.reaches(&name) && origin.caller.has_every_tool(&name);
            reaches && !snapshot.policies.has(Hook::ToolResult)
        }
    };
    if !may_know {
        return Err(Refusal::UnknownTask);
    }
    params.members.set("taskId", to_raw(&own));
    let access = Access { upstream: name.clone(), verb, item: Item::Task { id: own }, params };
    let used = Used::of(&access);
    let (facts, carried) = (ItemFacts::default(), Carried::default());
    let permit = approvals::permit_access(snapshot, services, origin, recording, access, facts, carried).await?;

    let upstream = upstream(snapshot, &name)?;
    let purpose = Purpose::of(origin, recording.operation(), id);
    let of_tool = tool.as_ref().map(|tool| tool.name.as_str());
    let mut loan = Loan::obtain(snapshot, services, origin, upstream, &purpose, recording, of_tool).await?;
    let begun = Instant::now();
    let sent = loan.send(services, origin, &purpose, recording, permit).await;
    recording.sent(begun.elapsed(), sent.as_ref().ok());
    let outcome = sent?;
    check_questions(snapshot, services, origin, recording, &name, &outcome).await?;

    let outcome = inspect(snapshot, services, origin, recording, &used, tool.as_ref(), outcome).await?;
    Ok(rename(services, origin, (&name, &owner), outcome))
}

/// The replica that knows more of a task than this one does: which tool it is of.
pub fn task_owner(services: &Services, caller: &Caller, id: &str) -> Option<ReplicaId> {
    let Known { owner, upstream, own } = open(services, caller, id)?;
    (owner != services.replica && !services.task_tools.contains_key(&(upstream, own))).then_some(owner)
}

/// Lets the policies see the tool's result that a task has come to: it is the whole answer in 2025-11-25, a member of the
/// task in 2026-07-28. It is a result of the tool, and an outcome of the task.
async fn inspect(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    used: &Used,
    tool: Option<&Arc<Tool>>,
    outcome: Outcome,
) -> Result<Outcome, Refusal> {
    let Outcome::Result(answer) = outcome else { return Ok(outcome) };
    let mut around = None;
    let result = if used.verb == Verb::TaskResult {
        answer
    } else {
        let task = Members::parse(answer.get()).unwrap_or_default();
        let Some(result) = task.get("result").map(ToOwned::to_owned) else { return Ok(Outcome::Result(answer)) };
        around = Some(task);
        result
    };
    let mut outcome = Outcome::Result(result);
    if let Some(tool) = tool {
        let ctx = recording.context(services, origin);
        let inspected = snapshot.policies.inspect(&ctx, tool, outcome, recording.elapsed()).await;
        outcome = settled(recording, inspected)?;
    }
    let inspected = snapshot.policies.inspect_access(&recording.context(services, origin), used, outcome).await;
    Ok(match (settled(recording, inspected)?, around) {
        (Outcome::Result(result), Some(mut task)) => {
            task.set("result", result);
            Outcome::Result(task.to_raw())
        }
        (outcome, _) => outcome,
    })
}

/// The outcome of a call with the id of the task in it, if there is one, as the caller may know it.
pub(super) async fn expose(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    tool: &Arc<Tool>,
    outcome: Outcome,
) -> Result<Outcome, Refusal> {
    let upstream = &tool.upstream;
    if let Outcome::Result(result) = &outcome
        && v2026_07_28::is_task(result)
    {
        if !origin.party.client.has_extension(TASKS_EXTENSION) {
            let error = UpstreamError::Protocol { what: "it began a task for a client that has none" };
            return Err(Refusal::Upstream { name: upstream.clone(), error });
        }
        check_questions(snapshot, services, origin, recording, upstream, &outcome).await?;
    }
    let about = view(snapshot, origin).and_then(|view| view.about(upstream));
    if !about.is_some_and(|about| about.capabilities.has_tasks()) {
        return Ok(outcome);
    }
    if let Outcome::Result(result) = &outcome
        && let Some(own) = begun(result)
    {
        services.task_tools.insert((upstream.clone(), own), tool.clone());
    }
    Ok(rename(services, origin, (upstream, &services.replica), outcome))
}

/// The id of the task that a call's result begins, as its upstream has it: a member of its own in 2026-07-28, of `task` in
/// 2025-11-25.
fn begun(result: &RawValue) -> Option<String> {
    memchr::memmem::find(result.get().as_bytes(), b"\"taskId\"")?;
    let members = Members::parse(result.get()).ok()?;
    let own = if v2026_07_28::is_task(result) {
        members.get("taskId").map(ToOwned::to_owned)
    } else {
        Members::parse(members.get("task")?.get()).ok()?.remove("taskId")
    };
    serde_json::from_str(own?.get()).ok()
}

/// A task of 2026-07-28 may say what it has to know before it goes on: nothing that the caller's client may not be asked.
async fn check_questions(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    upstream: &UpstreamName,
    outcome: &Outcome,
) -> Result<(), Refusal> {
    let result = match outcome {
        Outcome::Result(result) => result,
        Outcome::Error(error) => {
            let asked = questions::permitted_in_error(snapshot, services, origin, recording, upstream, error);
            return asked.await.map(drop);
        }
        Outcome::NeedsInput(_) => return Ok(()),
    };
    // A task of 2025-11-25 asks by requests of their own.
    if origin.revision.is_legacy() {
        return Ok(());
    }
    let task = Members::parse(result.get()).map_err(|_| {
        let error = UpstreamError::Protocol { what: "its task is no object, or has a member twice" };
        Refusal::Upstream { name: upstream.clone(), error }
    })?;
    if task.get("inputRequests").is_none() {
        return Ok(());
    }
    questions::permitted(snapshot, services, origin, recording, upstream, &NeedsInput(task)).await.map(drop)
}

/// What an upstream says to a caller, with the ids of tasks in it as the caller may know them.
pub fn exposed(services: &Services, origin: &Origin, event: Event) -> Event {
    let rename = |upstream: &UpstreamName, params: Option<Box<RawValue>>| {
        params.map(|params| rename_in_text(services, origin, (upstream, &services.replica), params))
    };
    match event {
        Event::Ask(ask) => Event::Ask(Ask { params: rename(&ask.upstream, ask.params), ..ask }),
        Event::Notice(Notice::Other { upstream, method, params }) => {
            let params = rename(&upstream, params);
            Event::Notice(Notice::Other { upstream, method, params })
        }
        event @ Event::Notice(_) => event,
    }
}

/// Where a task is: at an upstream, and known to a replica.
type Where<'a> = (&'a UpstreamName, &'a ReplicaId);

fn rename(services: &Services, origin: &Origin, at: Where<'_>, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Result(result) => Outcome::Result(rename_in_text(services, origin, at, result)),
        outcome => outcome,
    }
}

/// The text of an object, with the id of the task that it is about.
fn rename_in_text(services: &Services, origin: &Origin, at: Where<'_>, text: Box<RawValue>) -> Box<RawValue> {
    if memchr::memmem::find(text.get().as_bytes(), b"\"taskId\"").is_none() {
        return text;
    }
    let Ok(mut members) = Members::parse(text.get()) else { return text };
    let seal = |own: &str| seal(services, &origin.caller, at, own);
    let mut changed = rename_in(&mut members, &seal);
    changed |= rename_within(&mut members, "task", &seal);
    if let Some(meta) = members.get("_meta")
        && let Ok(mut meta) = Members::parse(meta.get())
        && rename_within(&mut meta, RELATED_TASK, &seal)
    {
        members.set("_meta", meta.to_raw());
        changed = true;
    }
    if changed { members.to_raw() } else { text }
}

fn rename_within(members: &mut Members, name: &str, seal: &impl Fn(&str) -> String) -> bool {
    let Some(mut inner) = members.get(name).and_then(|inner| Members::parse(inner.get()).ok()) else { return false };
    let changed = rename_in(&mut inner, seal);
    if changed {
        members.set(name, inner.to_raw());
    }
    changed
}

fn rename_in(members: &mut Members, seal: &impl Fn(&str) -> String) -> bool {
    let own = members.get("taskId").and_then(|id| serde_json::from_str::<String>(id.get()).ok());
    let Some(own) = own else { return false };
    members.set("taskId", to_raw(&seal(&own)));
    true
}

/// The same for each mention of a task, so that callers can compare.
fn seal(services: &Services, caller: &Caller, (upstream, owner): Where<'_>, own: &str) -> String {
    services.secret.sign(&purpose(caller), format!("{owner}\n{upstream}\n{own}").as_bytes())
}

/// A task, as its id says.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// The replica where it began.
    owner: ReplicaId,
    upstream: UpstreamName,
    /// Its id at the upstream.
    own: String,
}

fn open(services: &Services, caller: &Caller, id: &str) -> Option<Known> {
    let payload = String::from_utf8(services.secret.open(&purpose(caller), id)?).ok()?;
    let (owner, rest) = payload.split_once('\n')?;
    let (upstream, own) = rest.split_once('\n')?;
    Some(Known { owner: ReplicaId::parse(owner)?, upstream: UpstreamName::parse(upstream).ok()?, own: own.to_owned() })
}

fn purpose(caller: &Caller) -> String {
    format!("task of {}", held_by(&caller.principal, caller.client.as_deref()))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::config::{PolicySettings, WhenAllAbstain};
    use crate::identity::Keyring;
    use crate::ids::Principal;
    use crate::mcp::client::Client;
    use crate::mcp::json::raw;
    use crate::mcp::revision::Revision;
    use crate::mcp::talk::Party;
    use crate::pipeline::Mark;
    use crate::policy::{Engine, PolicySet, Transport};

    fn snapshot() -> Snapshot {
        static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(1).unwrap());
        let settings =
            PolicySettings { when_all_abstain: WhenAllAbstain::Allow, max_components: 1, ..PolicySettings::default() };
        let policies = PolicySet::load(&settings, &[], &ENGINE, &|_| None, None, 1).unwrap();
        Snapshot::for_tests(crate::config::Auth::keys_only(), Keyring::new([]), policies)
    }

    fn origin(revision: Revision, capabilities: &str) -> Origin {
        let principal = Principal::Key(crate::ids::KeyName::parse("ci").unwrap());
        let client = Arc::new(Client::new(None, raw(capabilities.to_owned())));
        Origin {
            caller: Caller::new(principal.clone(), Arc::default()),
            revision,
            scope: super::super::Scope::default(),
            party: Party { principal, client, ..Party::gateway() },
            transport: Transport::StreamableHttp,
            remote_ip: None,
            user_agent: None,
            param_headers: Vec::new(),
            mark: Mark::default(),
            events: tokio::sync::mpsc::channel(1).0,
            cancelled: tokio_util::sync::CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_task_asks_for_what_the_client_declared_and_nothing_else() {
        let snapshot = snapshot();
        let ask = |key: &str, method: &str| format!(r#""{key}":{{"method":"{method}","params":{{"message":"m"}}}}"#);
        let task =
            |requests: &str| format!(r#"{{"resultType":"complete","taskId":"1","inputRequests":{{{requests}}}}}"#);
        let (elicitation, sampling) = (ask("a", "elicitation/create"), ask("b", "sampling/createMessage"));
        let spelled = task(&sampling).replace("inputRequests", r"input\u0052equests");
        let twice = format!(r#"{{"inputRequests":{{}},"inputRequests":{{{sampling}}}}}"#);
        let (services, notes) = (Services::for_tests().await, UpstreamName::parse("notes").unwrap());
        let check = async |revision, outcome: &Outcome| {
            let (origin, mut recording) =
                (origin(revision, r#"{"elicitation":{}}"#), Recording::start(&services, "tasks/get"));
            check_questions(&snapshot, &services, &origin, &mut recording, &notes, outcome).await
        };
        for (result, passes) in [
            (r#"{"resultType":"complete","taskId":"1","status":"working"}"#.to_owned(), true),
            (task(""), true),
            (task(&elicitation), true),
            (task(&sampling), false),
            (task(&format!("{elicitation},{sampling}")), false),
            (spelled, false),
            (twice, false),
            (task(r#""a":{"method":"tools/call"}"#), false),
            (r#"{"inputRequests":7}"#.to_owned(), false),
        ] {
            let outcome = Outcome::Result(raw(result.clone()));
            assert_eq!(check(Revision::V2026_07_28, &outcome).await.is_ok(), passes, "{result}");
            // There, nobody reads the member.
            check(Revision::V2025_11_25, &outcome).await.unwrap();
        }
        let error = Outcome::Error(raw(r#"{"code":-32602,"message":"m"}"#.to_owned()));
        check(Revision::V2026_07_28, &error).await.unwrap();
    }

    #[tokio::test]
    async fn a_task_is_its_callers_alone() {
        let services = Services::for_tests().await;
        let caller =
            |name: &str| Caller::new(Principal::Key(crate::ids::KeyName::parse(name).unwrap()), Arc::default());
        let through = |client: &str| Caller { client: Some(client.into()), ..caller("ci") };
        let notes = UpstreamName::parse("notes").unwrap();
        let other = ReplicaId::generate(&services.env);
        let sealed = |owner: &ReplicaId| seal(&services, &caller("ci"), (&notes, owner), "a\nb");
        let id = sealed(&other);
        assert_eq!(id, sealed(&other));
        let known = Known { owner: other.clone(), upstream: notes.clone(), own: "a\nb".to_owned() };
        assert_eq!(open(&services, &caller("ci"), &id), Some(known));
        assert_eq!(open(&services, &caller("ic"), &id), None);
        assert_eq!(open(&services, &through("app"), &id), None, "it is the key's, and not its client's");
        let of_client = seal(&services, &through("app"), (&notes, &other), "a");
        assert!(open(&services, &through("app"), &of_client).is_some());
        assert_eq!(open(&services, &through("other"), &of_client), None);
        assert_eq!(open(&services, &caller("ci"), &of_client), None);
        assert_eq!(open(&services, &caller("ci"), "a"), None);

        let owner = |name: &str, id: &str| task_owner(&services, &caller(name), id);
        assert_eq!((owner("ci", &id), owner("ic", &id), owner("ci", "a")), (Some(other), None, None));
        assert_eq!(owner("ci", &sealed(&services.replica)), None, "whoever began it knows as much as anyone");
    }
}
