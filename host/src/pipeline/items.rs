//! The life of a request for something else than a tool: prompts, resources, completions, subscriptions. Resolve, permit,
//! send, inspect; and a record of it, however it ends.

use super::calls::{ending, ending_of};
use super::recording::Recording;
use super::state::{self, Purpose};
use super::{Origin, Refusal, Services, Snapshot, done, hide, rounds, upstream, view};
use crate::ids::UpstreamName;
use crate::mcp::call::{Access, Item, Params, Verb};
use crate::mcp::json::{Members, to_raw};
use crate::mcp::revision::{Answer, Reference, Request};
use crate::upstream::{UpstreamError, Watch};

pub(super) async fn access(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    method: &'static str,
    request: Request,
) -> Result<Answer, Refusal> {
    let name = request.name().unwrap_or_default().to_owned();
    let mut recording = Recording::start(services, method);
    recording.about(None, &name);
    let purpose = Purpose::of(origin, method, &name);
    let resolved = resolve(snapshot, origin, request).and_then(|mut access| {
        state::take_up(services, &purpose, &access.upstream, &mut access.params).map(|()| access)
    });
    let access = match resolved {
        Ok(access) => access,
        Err(refusal) => {
            recording.unknown(snapshot, services, origin, "unknown-item");
            return Err(refusal);
        }
    };
    let upstream_name = access.upstream.clone();
    recording.about(Some(&upstream_name), access.item.name());
    let unknown = unknown(&access.item, &name);
    let (permit, trail) = snapshot.policies.check_access(&recording.context(services, origin), access);
    recording.heard(trail);
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => {
            recording.refuse(snapshot, services, origin, &refusal);
            return Err(hide(refusal, || unknown));
        }
    };
    let upstream = upstream(snapshot, &upstream_name)?;
    let outcome = match rounds::until_done(snapshot, services, origin, upstream, &purpose, permit).await {
        Ok(outcome) => outcome,
        Err(refusal) => {
            recording.allow(snapshot, services, origin, ending_of(&refusal));
            return Err(refusal);
        }
    };
    let (outcome, trail) =
        snapshot.policies.inspect_access(&recording.context(services, origin), &upstream_name, outcome);
    recording.heard(trail);
    match outcome {
        Ok(outcome) => {
            recording.allow(snapshot, services, origin, ending(&outcome));
            Ok(done(method, outcome))
        }
        Err(refusal) => {
            recording.refuse(snapshot, services, origin, &refusal);
            Err(Refusal::Policy(refusal))
        }
    }
}

/// Subscribes a caller to a resource: its updates go to `origin.events` until the [`Watch`] is dropped.
pub async fn watch(snapshot: &Snapshot, services: &Services, origin: &Origin, uri: &str) -> Result<Watch, Refusal> {
    let mut recording = Recording::start(services, Verb::SubscribeResource.method());
    let (upstream_name, own) = locate(snapshot, origin, uri)?;
    recording.about(Some(&upstream_name), &own);
    let item = Item::Resource { uri: own };
    let access =
        Access { upstream: upstream_name.clone(), verb: Verb::SubscribeResource, item, params: Params::default() };
    let (permit, trail) = snapshot.policies.check_access(&recording.context(services, origin), access);
    recording.heard(trail);
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => {
            recording.refuse(snapshot, services, origin, &refusal);
            return Err(hide(refusal, || Refusal::UnknownResource { uri: uri.to_owned() }));
        }
    };
    let watched = upstream(snapshot, &upstream_name)?.watch(permit, uri, origin.via()).await;
    let watched = watched.map_err(|error| match error {
        UpstreamError::NoResource => Refusal::UnknownResource { uri: uri.to_owned() },
        error => Refusal::Upstream { name: upstream_name, error },
    });
    let ending = match &watched {
        Ok(_) => crate::audit::RecordedOutcome::Result,
        Err(refusal) => ending_of(refusal),
    };
    recording.allow(snapshot, services, origin, ending);
    watched
}

/// What the caller means, under the upstream's own names.
fn resolve(snapshot: &Snapshot, origin: &Origin, request: Request) -> Result<Access, Refusal> {
    match request {
        Request::GetPrompt { name, mut params } => {
            let (upstream, own) = prompt(snapshot, origin, &name)?;
            params.members.set("name", to_raw(&own));
            Ok(Access { upstream, verb: Verb::GetPrompt, item: Item::Prompt { name: own }, params })
        }
        Request::ReadResource { uri, params } => resource(snapshot, origin, Verb::ReadResource, &uri, params),
        Request::ReadDirectory { uri, params } => resource(snapshot, origin, Verb::ListDirectory, &uri, params),
        Request::GetSkill { uri, params } => {
            let upstream = skill(snapshot, origin, &uri)?;
            Ok(Access { upstream, verb: Verb::GetSkill, item: Item::Resource { uri }, params })
        }
        Request::Complete { reference: Reference::Prompt(name), mut params } => {
            let (upstream, own) = prompt(snapshot, origin, &name)?;
            refer(&mut params, "name", &own);
            Ok(Access { upstream, verb: Verb::Complete, item: Item::Prompt { name: own }, params })
        }
        Request::Complete { reference: Reference::Template(uri), mut params } => {
            let (upstream, own) = template(snapshot, origin, &uri)?;
            refer(&mut params, "uri", &own);
            Ok(Access { upstream, verb: Verb::Complete, item: Item::Resource { uri: own }, params })
        }
        _ => Err(Refusal::UnknownMethod),
    }
}

/// Is answered where the item is hidden.
fn unknown(item: &Item, name: &str) -> Refusal {
    match item {
        Item::Prompt { .. } => Refusal::UnknownPrompt { name: name.to_owned() },
        Item::Resource { .. } => Refusal::UnknownResource { uri: name.to_owned() },
        Item::Task { .. } => Refusal::UnknownTask,
    }
}

fn prompt(snapshot: &Snapshot, origin: &Origin, name: &str) -> Result<(UpstreamName, String), Refusal> {
    let prompt = view(snapshot, origin).and_then(|view| view.prompt(name));
    let prompt = prompt.filter(|prompt| origin.scope.has(&prompt.upstream));
    let prompt = prompt.ok_or_else(|| Refusal::UnknownPrompt { name: name.to_owned() })?;
    Ok((prompt.upstream.clone(), prompt.name.clone()))
}

fn resource(
    snapshot: &Snapshot,
    origin: &Origin,
    verb: Verb,
    uri: &str,
    mut params: Params,
) -> Result<Access, Refusal> {
    let (upstream, own) = locate(snapshot, origin, uri)?;
    if own != uri {
        params.members.set("uri", to_raw(&own));
    }
    Ok(Access { upstream, verb, item: Item::Resource { uri: own }, params })
}

/// Whether the caller may use an upstream's resources.
fn may(origin: &Origin, upstream: &UpstreamName) -> bool {
    origin.scope.has(upstream) && origin.caller.allow.permits_items(upstream)
}

/// The upstream whose skill it is, of those that the caller may use. Lists need not have all skills.
fn skill(snapshot: &Snapshot, origin: &Origin, uri: &str) -> Result<UpstreamName, Refusal> {
    let may = |upstream: &UpstreamName| may(origin, upstream);
    let found = view(snapshot, origin).and_then(|view| match view.skills_at(uri) {
        [] => view.locate_skill(uri).into_iter().map(|located| located.upstream).find(may),
        listed => listed.iter().find(|skill| skill.is_shown(may)).map(|skill| skill.upstream.clone()),
    });
    found.ok_or_else(|| Refusal::UnknownResource { uri: uri.to_owned() })
}

/// The upstream whose resource it is, of those that the caller may use, and its own URI for it.
fn locate(snapshot: &Snapshot, origin: &Origin, uri: &str) -> Result<(UpstreamName, String), Refusal> {
    let candidates = view(snapshot, origin).map(|view| view.locate(uri)).unwrap_or_default();
    let located = candidates.into_iter().find(|located| may(origin, &located.upstream));
    let located = located.ok_or_else(|| Refusal::UnknownResource { uri: uri.to_owned() })?;
    Ok((located.upstream, located.uri))
}

fn template(snapshot: &Snapshot, origin: &Origin, uri: &str) -> Result<(UpstreamName, String), Refusal> {
    let template = view(snapshot, origin).and_then(|view| view.template(uri));
    match template.filter(|template| origin.scope.has(&template.upstream)) {
        Some(template) => Ok((template.upstream.clone(), template.uri_template.clone())),
        None => locate(snapshot, origin, uri),
    }
}

/// Sets a member of the `ref` of a completion.
fn refer(params: &mut Params, member: &str, own: &str) {
    let reference = params.members.get("ref").and_then(|reference| Members::parse(reference.get()).ok());
    let mut reference = reference.unwrap_or_default();
    reference.set(member, to_raw(&own));
    params.members.set("ref", reference.to_raw());
}
