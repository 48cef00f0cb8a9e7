//! What one caller sees of upstreams that may show each person something else: the common catalog with their own lists in
//! it, and a snapshot that has that one. Whatever looks something up for them looks there.
//!
//! A list is read when somebody needs it: their request waits for it the first time, for some seconds, and later ones see
//! what is known while it is read anew. Nobody's credential is shown for it without the policies of `credential.release`:
//! their answer goes for the person, whichever of their clients it was whose request had the list read.

use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::credentials;
use super::recording::Recording;
use super::{Origin, Refusal, Services, Snapshot, settled};
use crate::audit::RecordedOutcome;
use crate::connection::lending::{Lent, Wanted};
use crate::ids::{Principal, UpstreamName};
use crate::mcp::revision::Request;
use crate::policy::authority::{CredentialPurpose, CredentialRequest};
use crate::policy::{self, Hook};
use crate::secret::Digest;
use crate::upstream::catalog::{Catalog, ConnectTool, Shelf};
use crate::upstream::{Clearance, Shown, Told, Upstream, naming};

/// What the trail calls the question whether somebody's list may be read with their credential.
const OPERATION: &str = "credential.sync";
/// Memory for catalogs of people, in bytes.
const MAX_BYTES: u64 = 128 << 20;
/// How long one is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// What each thing in a catalog takes, its text aside, in bytes.
const ITEM_BYTES: usize = 512;
/// How often a request looks whether there is more to wait for: a connection may change while a list is read with it.
const LOOKS: usize = 3;

/// Catalogs with people's own lists in them. Who sees the same has the same.
#[derive(Debug)]
pub struct PersonalCatalogs {
    made: Cache<[u8; 32], Made>,
    /// Whose lists have changed, for whoever tells them.
    pub told: Arc<Told>,
}

#[derive(Clone, Debug)]
struct Made {
    /// Keeps the address of what it was made of from being another one's.
    _common: Weak<Catalog>,
    catalog: Arc<Catalog>,
    /// The text of the shelves that are not the common catalog's, in bytes.
    text_bytes: usize,
}

impl PersonalCatalogs {
    /// None yet.
    pub fn new(told: Arc<Told>) -> Self {
        let weigh = |_: &[u8; 32], made: &Made| {
            let items: usize = made.catalog.view(None).map_or(0, |view| view.count());
            // As the upstream sent it, and as callers see it.
            u32::try_from(ITEM_BYTES * (items + 1) + 2 * made.text_bytes).unwrap_or(u32::MAX)
        };
        let made = Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(weigh)
            .time_to_idle(IDLE)
            // Whoever comes anew is let in: nobody's catalog is made for every request.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { made, told }
    }

    /// The common catalog with other shelves in it, each of which says by a digest what is on it.
    fn with(&self, common: &Arc<Catalog>, shelves: Vec<(Shelf, Digest)>) -> Arc<Catalog> {
        let mut key = (Arc::as_ptr(common).addr() as u64).to_be_bytes().to_vec();
        for (shelf, digest) in &shelves {
            key.extend_from_slice(shelf.upstream.as_str().as_bytes());
            key.push(b'/');
            key.extend_from_slice(digest.as_bytes());
        }
        let make = || {
            let offers = shelves.iter().filter_map(|(shelf, _)| shelf.offer.as_ref());
            let text_bytes = offers.map(|offer| offer.bytes()).sum();
            let catalog = Arc::new(common.with(shelves.into_iter().map(|(shelf, _)| shelf).collect()));
            Made { _common: Arc::downgrade(common), catalog, text_bytes }
        };
        self.made.get_with(*Digest::of(&key).as_bytes(), make).catalog
    }
}

/// Which lists a request has to do with.
#[derive(Clone, Copy)]
pub(super) enum Need<'a> {
    Nothing,
    /// What this may be the name of.
    Named(&'a str),
    Everything,
}

impl<'a> Need<'a> {
    pub(super) fn of(request: &'a Request) -> Self {
        match request {
            Request::Ping
            | Request::SetLevel(_)
            | Request::Task { .. }
            | Request::Listen(_)
            | Request::Subscribe { .. }
            | Request::Unsubscribe { .. } => Self::Nothing,
            Request::CallTool { name, .. } | Request::GetPrompt { name, .. } => Self::Named(name),
            Request::Discover
            | Request::List { .. }
            | Request::ReadResource { .. }
            | Request::ReadDirectory { .. }
            | Request::GetSkill { .. }
            | Request::Complete { .. } => Self::Everything,
        }
    }

    /// Whether this upstream may be meant.
    fn has(self, origin: &Origin, shelf: &Shelf) -> bool {
        match self {
            Self::Nothing => false,
            Self::Named(name) => {
                let is_alone = origin.scope.endpoint().is_some();
                is_alone || !shelf.prefix || naming::is_of(&shelf.upstream, name)
            }
            Self::Everything => true,
        }
    }
}

/// The snapshot as this caller sees it, as far as that is known without asking anybody. `None` where it is what everybody
/// sees.
pub fn as_known(snapshot: &Snapshot, services: &Services, principal: &Principal) -> Option<Snapshot> {
    let common = &snapshot.catalog;
    let own = |name: &UpstreamName| {
        let shown = snapshot.upstreams.get(name)?.look(principal)?.shown;
        let shelf = common.shelf(name)?;
        let connect = shelf.connect.clone().map(|connect| ConnectTool { is_listed: false, ..connect });
        match shown {
            Shown::Common => None,
            Shown::Own(list) => {
                let (about, offer) = (Some(list.about.clone()), Some(list.offer.clone()));
                let stale = list.gap.is_some();
                Some((Shelf { about, offer, stale, connect, ..shelf.clone() }, list.digest))
            }
            Shown::Unread => Some((Shelf { stale: true, connect, ..shelf.clone() }, Digest::of(b"unread"))),
        }
    };
    let shelves: Vec<(Shelf, Digest)> = common.personal().iter().filter_map(own).collect();
    let catalog = (!shelves.is_empty()).then(|| services.personal.with(common, shelves))?;
    Some(Snapshot { catalog, ..snapshot.clone() })
}

/// The same for whoever begins to talk to the gateway, once what there is for them was read, for which they wait some
/// seconds.
pub async fn to_begin_with(snapshot: &Snapshot, services: &Arc<Services>, origin: &Origin) -> Option<Snapshot> {
    Box::pin(seen_by(snapshot, services, origin, Need::Everything)).await
}

/// The same once what the request needs was read for the first time, for which it waits some seconds.
pub(super) async fn seen_by(
    snapshot: &Snapshot,
    services: &Arc<Services>,
    origin: &Origin,
    need: Need<'_>,
) -> Option<Snapshot> {
    // Most gateways have nothing of the kind.
    if snapshot.catalog.personal().is_empty() {
        return None;
    }
    let principal = &origin.caller.principal;
    let began = Instant::now();
    for _ in 0..LOOKS {
        let awaited: Vec<&Arc<Upstream>> = begin_due(snapshot, services, origin, need);
        if awaited.is_empty() {
            break;
        }
        let waits = awaited.iter().map(|upstream| upstream.own_settled(principal, began));
        tokio::select! {
            _ = futures_util::future::join_all(waits) => {}
            () = origin.cancelled.cancelled() => break,
        }
    }
    as_known(snapshot, services, principal)
}

/// The snapshot as a caller sees it now, without waiting; what is to be read for them is begun. `None` while something is
/// read for the first time for which a request would wait: [`PersonalCatalogs::told`] says when that has ended.
pub fn as_of_now(snapshot: &Snapshot, services: &Arc<Services>, origin: &Origin) -> Option<Snapshot> {
    if snapshot.catalog.personal().is_empty() {
        return Some(snapshot.clone());
    }
    let is_awaited = !begin_due(snapshot, services, origin, Need::Everything).is_empty();
    if is_awaited {
        return None;
    }
    Some(as_known(snapshot, services, &origin.caller.principal).unwrap_or_else(|| snapshot.clone()))
}

/// Begins to read what is to be read for a caller. Gives the upstreams of which nothing is known for them yet, as long as
/// anybody waits for that.
fn begin_due<'a>(
    snapshot: &'a Snapshot,
    services: &Arc<Services>,
    origin: &Origin,
    need: Need<'_>,
) -> Vec<&'a Arc<Upstream>> {
    let principal = &origin.caller.principal;
    let mut awaited = Vec::new();
    for name in snapshot.catalog.personal() {
        let is_reached = origin.scope.has(name) && origin.caller.reaches(name);
        let is_needed = |shelf: &Shelf| is_reached && need.has(origin, shelf);
        let Some(upstream) = snapshot.upstreams.get(name) else { continue };
        let Some(look) =
            snapshot.catalog.shelf(name).filter(|shelf| is_needed(shelf)).and_then(|_| upstream.look(principal))
        else {
            continue;
        };
        if look.is_due {
            begin(snapshot, services, origin, upstream);
        }
        if look.is_awaited {
            awaited.push(upstream);
        }
    }
    awaited
}

/// Begins to read somebody's list, if the policies let their credential be shown for it. Whoever lends it and the policies
/// take their time in the task that reads.
fn begin(snapshot: &Snapshot, services: &Arc<Services>, origin: &Origin, upstream: &Arc<Upstream>) {
    let principal = &origin.caller.principal;
    let Some(wanted) = upstream.wanted(principal) else { return };
    let Some(beginning) = upstream.begin_own(principal) else { return };
    if !snapshot.policies.concerns(Hook::Credential) {
        return beginning.read(std::future::ready(Clearance::Given(wanted)));
    }
    let (snapshot, services, upstream) = (snapshot.clone(), services.clone(), upstream.clone());
    // The request may be over by then.
    let (events, cancelled) = (mpsc::channel(1).0, CancellationToken::new());
    let origin = Origin { events, cancelled, ..origin.clone() };
    beginning.read(async move {
        match services.lender.lend(&wanted).await {
            Ok(lent) => released(&snapshot, &services, &origin, &upstream, (wanted, &lent)).await,
            // Nothing is shown, so that there is nothing to ask.
            Err(withheld) => Clearance::Withheld(withheld),
        }
    });
}

/// The credential as the policies release it, if they do.
async fn released(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    upstream: &Upstream,
    (wanted, lent): (Wanted, &Lent),
) -> Clearance {
    let mut recording = Recording::start(services, OPERATION);
    recording.about(Some(upstream.name()), OPERATION);
    let request = CredentialRequest {
        upstream: upstream.name().clone(),
        kind: credentials::kind(&upstream.settings().auth),
        account: None,
        purpose: CredentialPurpose::Sync,
        tool: None,
        scopes: lent.scopes.clone(),
    };
    let checked = snapshot.policies.check_credential(&recording.context(services, origin), &request).await;
    match settled(&mut recording, checked) {
        Ok(terms) => {
            if recording.asked_a_policy() {
                recording.allow(snapshot, services, origin, RecordedOutcome::Result);
            }
            Clearance::Given(Wanted { scopes: Some(terms.scopes), max_age: terms.max_age, ..wanted })
        }
        Err(Refusal::Policy(refusal)) => {
            recording.refuse(snapshot, services, origin, &refusal);
            match refusal {
                policy::Refusal::PolicyFailed { .. } => Clearance::Failed,
                policy::Refusal::Hidden
                | policy::Refusal::Denied { .. }
                | policy::Refusal::StepUp { .. }
                | policy::Refusal::Throttled { .. }
                | policy::Refusal::ApprovalNeeded { .. }
                | policy::Refusal::NoPolicyAllowed { .. } => Clearance::Denied,
            }
        }
        Err(_) => Clearance::Failed,
    }
}

#[cfg(test)]
mod tests;
