//! The life of a request for something else than a tool: prompts, resources, skills, completions, subscriptions. Resolve,
//! permit, send, inspect; and a record of it, however it ends.

use std::sync::Arc;

use super::credentials::Loan;
use super::recording::Recording;
use super::state::{self, Carried, Purpose};
use super::{
    Origin, Refusal, Services, Snapshot, approvals, done, end, ending, personal, rounds, settled, upstream, view,
};
use crate::audit::RecordedOutcome;
use crate::ids::UpstreamName;
use crate::mcp::call::{Access, Item, Outcome, Params, Verb};
use crate::mcp::json::{Members, to_raw};
use crate::mcp::revision::{Answer, Reference, Request};
use crate::policy::{self, ItemFacts, Permit, Used};
use crate::upstream::{UpstreamError, Watch};

/// What a caller means, under the upstream's own names, and what the catalog knows of it.
struct Target {
    access: Access,
    mime: Option<String>,
    /// URIs of the skills that it is a file of.
    skills: Vec<String>,
}

impl Target {
    fn of(access: Access) -> Self {
        Self { access, mime: None, skills: Vec::new() }
    }
}

pub(super) async fn access(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    method: &'static str,
    request: Request,
) -> Result<Answer, Refusal> {
    let name = request.name().unwrap_or_default().to_owned();
    let unknown = unknown(&request, &name);
    let mut recording = Recording::start(services, method);
    recording.about(None, &name);
    let ended = life(snapshot, services, origin, &mut recording, &Purpose::of(origin, method, &name), request).await;
    end(snapshot, services, origin, recording, ended, ending, || unknown).map(|outcome| done(method, outcome))
}

async fn life(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    purpose: &Purpose<'_>,
    request: Request,
) -> Result<Outcome, Refusal> {
    let mut target = resolve(snapshot, origin, request)?;
    let carried = state::take_up(services, purpose, &target.access.upstream, &mut target.access.params)?;
    let used = Used::of(&target.access);
    recording.about(Some(&used.upstream), used.item.name());

    let permit = permit(snapshot, services, origin, recording, target, carried).await?;

    let upstream = upstream(snapshot, &used.upstream)?;
    let outcome = rounds::until_done(snapshot, services, origin, upstream, purpose, recording, permit).await?;

    let ctx = recording.context(services, origin);
    let inspected = snapshot.policies.inspect_access(&ctx, &used, outcome).await;
    settled(recording, inspected)
}

async fn permit(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    target: Target,
    carried: Carried,
) -> Result<Permit<Access>, Refusal> {
    let Target { access, mime, skills } = target;
    let facts = ItemFacts { mime: mime.as_deref(), skills: &skills };
    approvals::permit_access(snapshot, services, origin, recording, access, facts, carried).await
}

/// Subscribes a caller to a resource: its updates go to `origin.events` until the [`Watch`] is dropped.
pub async fn watch(
    snapshot: &Snapshot,
    services: &Arc<Services>,
    origin: &Origin,
    uri: &str,
) -> Result<Watch, Refusal> {
    let own = personal::to_begin_with(snapshot, services, origin).await;
    let snapshot = own.as_ref().unwrap_or(snapshot);
    let mut recording = Recording::start(services, Verb::SubscribeResource.method());
    recording.about(None, uri);
    let ended = subscribe(snapshot, services, origin, &mut recording, uri).await;
    let unknown = || Refusal::UnknownResource { uri: uri.to_owned() };
    let ended = end(snapshot, services, origin, recording, ended, |_| RecordedOutcome::Result, unknown);
    ended.map_err(|refusal| match refusal {
        Refusal::Upstream { error: UpstreamError::NoResource, .. } => unknown(),
        refusal => refusal,
    })
}

/// Whether a caller still sees a resource that it watches, in a snapshot as they see it ([`super::personal`]): it is within its reach, and no `list-items` policy hides it, nor
/// a skill that it is a file of. `None` where there is no room to find out. The policies of `item-access` have decided when
/// the watch began.
pub async fn may_watch(snapshot: &Snapshot, services: &Services, origin: &Origin, uri: &str) -> Option<bool> {
    let verb = Verb::SubscribeResource;
    let Ok(Target { access, mime, skills }) = resource(snapshot, origin, verb, uri, Params::default()) else {
        return Some(false);
    };
    let facts = ItemFacts { mime: mime.as_deref(), skills: &skills };
    let recording = Recording::start(services, verb.method());
    match snapshot.policies.sees(&recording.context(services, origin), &access, facts).await {
        Ok(()) => Some(true),
        Err(policy::Refusal::Throttled { .. }) => None,
        Err(_) => Some(false),
    }
}

async fn subscribe(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: &mut Recording,
    uri: &str,
) -> Result<Watch, Refusal> {
    let target = resource(snapshot, origin, Verb::SubscribeResource, uri, Params::default())?;
    let name = target.access.upstream.clone();
    recording.about(Some(&name), target.access.item.name());
    let permit = permit(snapshot, services, origin, recording, target, Carried::default()).await?;
    let upstream = upstream(snapshot, &name)?;
    let purpose = Purpose::of(origin, recording.operation(), uri);
    let loan = Loan::obtain(snapshot, services, origin, upstream, &purpose, recording, None).await?;
    loan.watch(services, origin, &purpose, recording, permit, uri).await
}

fn resolve(snapshot: &Snapshot, origin: &Origin, request: Request) -> Result<Target, Refusal> {
    match request {
        Request::GetPrompt { name, mut params } => {
            let (upstream, own) = prompt(snapshot, origin, &name)?;
            params.members.set("name", to_raw(&own));
            let item = Item::Prompt { name: own };
            Ok(Target::of(Access { upstream, verb: Verb::GetPrompt, item, params }))
        }
        Request::ReadResource { uri, params } => resource(snapshot, origin, Verb::ReadResource, &uri, params),
        Request::ReadDirectory { uri, params } => resource(snapshot, origin, Verb::ListDirectory, &uri, params),
        Request::GetSkill { uri, params } => {
            let upstream = skill(snapshot, origin, &uri)?;
            Ok(Target::of(Access { upstream, verb: Verb::GetSkill, item: Item::Skill { uri }, params }))
        }
        Request::Complete { reference: Reference::Prompt(name), mut params } => {
            let (upstream, own) = prompt(snapshot, origin, &name)?;
            refer(&mut params, "name", &own);
            let item = Item::Prompt { name: own };
            Ok(Target::of(Access { upstream, verb: Verb::Complete, item, params }))
        }
        Request::Complete { reference: Reference::Template(uri), params } => template(snapshot, origin, &uri, params),
        _ => Err(Refusal::UnknownMethod),
    }
}

/// Is answered where the item is hidden.
fn unknown(request: &Request, name: &str) -> Refusal {
    match request {
        Request::GetPrompt { .. } | Request::Complete { reference: Reference::Prompt(_), .. } => {
            Refusal::UnknownPrompt { name: name.to_owned() }
        }
        _ => Refusal::UnknownResource { uri: name.to_owned() },
    }
}

/// Whether the endpoint, the narrowing headers and the allow-list have an upstream's prompts, resources and skills.
pub(super) fn reaches_items(origin: &Origin, upstream: &UpstreamName) -> bool {
    origin.scope.has(upstream) && origin.caller.may_use_items(upstream)
}

fn prompt(snapshot: &Snapshot, origin: &Origin, name: &str) -> Result<(UpstreamName, String), Refusal> {
    let prompt = view(snapshot, origin).and_then(|view| view.prompt(name));
    let prompt = prompt.filter(|prompt| reaches_items(origin, &prompt.upstream));
    let prompt = prompt.ok_or_else(|| Refusal::UnknownPrompt { name: name.to_owned() })?;
    Ok((prompt.upstream.clone(), prompt.name.clone()))
}

/// The resource, of those upstreams whose resources the caller may use.
fn resource(
    snapshot: &Snapshot,
    origin: &Origin,
    verb: Verb,
    uri: &str,
    mut params: Params,
) -> Result<Target, Refusal> {
    let unknown = || Refusal::UnknownResource { uri: uri.to_owned() };
    let view = view(snapshot, origin).ok_or_else(unknown)?;
    let located = view.locate(uri).into_iter().find(|located| reaches_items(origin, &located.upstream));
    let located = located.ok_or_else(unknown)?;
    if located.uri != uri && verb != Verb::Complete {
        params.members.set("uri", to_raw(&located.uri));
    }
    let listed = view.resource(uri).filter(|listed| listed.upstream == located.upstream);
    let mime = listed.and_then(|listed| listed.mime.clone());
    let skills = view.skills_around(&located.upstream, &located.uri).map(|skill| skill.uri.clone()).collect();
    let access = Access { upstream: located.upstream, verb, item: Item::Resource { uri: located.uri }, params };
    Ok(Target { access, mime, skills })
}

/// The upstream whose skill it is, of those that the caller may use. Lists need not have all skills.
fn skill(snapshot: &Snapshot, origin: &Origin, uri: &str) -> Result<UpstreamName, Refusal> {
    let may = |upstream: &UpstreamName| reaches_items(origin, upstream);
    let found = view(snapshot, origin).and_then(|view| match view.skills_at(uri) {
        [] => view.locate_skill(uri).into_iter().map(|located| located.upstream).find(may),
        listed => listed.iter().find(|skill| skill.is_shown(may)).map(|skill| skill.upstream.clone()),
    });
    found.ok_or_else(|| Refusal::UnknownResource { uri: uri.to_owned() })
}

/// The resource template that is completed, or the resource, where it is none.
fn template(snapshot: &Snapshot, origin: &Origin, uri: &str, params: Params) -> Result<Target, Refusal> {
    let template = view(snapshot, origin).and_then(|view| view.template(uri));
    let mut target = match template.filter(|template| reaches_items(origin, &template.upstream)) {
        Some(template) => Target {
            access: Access {
                upstream: template.upstream.clone(),
                verb: Verb::Complete,
                item: Item::Template { uri_template: template.uri_template.clone() },
                params,
            },
            mime: template.mime.clone(),
            skills: Vec::new(),
        },
        None => resource(snapshot, origin, Verb::Complete, uri, params)?,
    };
    let own = target.access.item.name().to_owned();
    refer(&mut target.access.params, "uri", &own);
    Ok(target)
}

/// Sets a member of the `ref` of a completion.
fn refer(params: &mut Params, member: &str, own: &str) {
    let reference = params.members.get("ref").and_then(|reference| Members::parse(reference.get()).ok());
    let mut reference = reference.unwrap_or_default();
    reference.set(member, to_raw(&own));
    params.members.set("ref", reference.to_raw());
}
