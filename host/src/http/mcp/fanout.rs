//! Telling callers that their lists have changed, from our own catalog: whoever listens is told of a list once what
//! *it* sees of that list differs from what it saw before.
//!
//! The same look ends the watches of resources that a listener's caller does not see any more.
//!
//! One task compares for all. Changes of one kind that nobody has been told of yet are one change, so that nothing
//! queues. Where only some people's own lists have changed, it compares for those.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use super::Mcp;
use super::watches::Watches;
use crate::authorization::resource::Unadmitted;
use crate::mcp::revision::ListKind;
use crate::pipeline::{self, Origin, Services, Snapshot, personal};
use crate::secret::Digest;
use crate::upstream::Whose;

/// Changes that come together are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How often somebody is looked at again whose lists nobody had time to decide.
const MAX_TRIES: usize = 5;
/// The pause before that.
const PAUSE: Duration = Duration::from_secs(1);
/// How often lists of people's own that are due are read for those who listen.
const REVISIT: Duration = Duration::from_secs(30);

/// The lists that a listener wants to hear of. Resource templates change with the resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
}

impl Kinds {
    pub(super) const ALL: Self = Self { tools: true, prompts: true, resources: true };

    fn wanted(self) -> impl Iterator<Item = Told> {
        let wants = [(self.tools, Told::Tools), (self.prompts, Told::Prompts), (self.resources, Told::Resources)];
        wants.into_iter().filter_map(|(wanted, kind)| wanted.then_some(kind))
    }
}

/// What there is a notification for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Tools,
    Prompts,
    Resources,
}

impl Told {
    const ALL: [Self; 3] = [Self::Tools, Self::Prompts, Self::Resources];

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn lists(self) -> &'static [ListKind] {
        match self {
            Self::Tools => &[ListKind::Tools],
            Self::Prompts => &[ListKind::Prompts],
            Self::Resources => &[ListKind::Resources, ListKind::Templates],
        }
    }
}

/// Who listens.
#[derive(Default)]
pub(super) struct Listeners {
    by_number: Mutex<Numbered>,
}

#[derive(Default)]
struct Numbered {
    next: u64,
    listeners: HashMap<u64, Arc<Listener>>,
}

struct Listener {
    origin: Arc<Origin>,
    kinds: Kinds,
    watches: Arc<Watches>,
    /// What there was when it began to listen, until it is compared with what came after.
    begun_with: Mutex<Option<Arc<Snapshot>>>,
    /// What it saw last, by kind. `None` where that is not known.
    seen: Mutex<[Option<Vec<Digest>>; 3]>,
    /// Something has changed with which it was not compared: what was to be read for it first takes its time.
    is_behind: AtomicBool,
    /// Bits of kinds that it is to be told of.
    changed: AtomicU8,
    news: Notify,
}

/// Somebody who listens, until this is dropped.
pub(super) struct Listening {
    mcp: Arc<Mcp>,
    number: u64,
    listener: Arc<Listener>,
}

impl Listening {
    /// From now on: what `origin`'s caller sees at this moment is what it is taken to know, which is found out when
    /// something changes. There are no more of them than streams and sessions.
    pub(super) fn begin(mcp: &Arc<Mcp>, origin: Arc<Origin>, kinds: Kinds, watches: Arc<Watches>) -> Self {
        let snapshot = mcp.snapshot.load_full();
        let own = personal::as_known(&snapshot, &mcp.services, &origin.caller.principal);
        let begun_with = own.map_or(snapshot, Arc::new);
        let listener = Listener {
            kinds,
            watches,
            begun_with: Mutex::new(Some(begun_with)),
            seen: Mutex::default(),
            is_behind: AtomicBool::new(false),
            changed: AtomicU8::new(0),
            news: Notify::new(),
            origin,
        };
        let listener = Arc::new(listener);
        let mut numbered = mcp.listeners.by_number.lock().unwrap_or_else(PoisonError::into_inner);
        numbered.next += 1;
        let number = numbered.next;
        numbered.listeners.insert(number, listener.clone());
        drop(numbered);
        Self { mcp: mcp.clone(), number, listener }
    }

    /// Waits for the next list that has changed.
    pub(super) async fn change(&self) -> ListKind {
        loop {
            let changed = self.listener.changed.load(Ordering::Acquire);
            if let Some(kind) = Told::ALL.into_iter().find(|kind| changed & kind.bit() != 0) {
                self.listener.changed.fetch_and(!kind.bit(), Ordering::AcqRel);
                return kind.lists()[0];
            }
            self.listener.news.notified().await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.mcp.listeners.by_number.lock().unwrap_or_else(PoisonError::into_inner).listeners.remove(&self.number);
    }
}

impl Listener {
    /// Compares what the caller sees with what it saw. False where there was no room to find out.
    async fn look(&self, snapshot: &Snapshot, services: &Arc<Services>, origin: &Origin) -> bool {
        let seen = personal::as_of_now(snapshot, services, origin);
        self.is_behind.store(seen.is_none(), Ordering::Release);
        // Once that is known there is another look, and one with what is known then if it takes too long.
        let Some(snapshot) = seen else { return true };
        let snapshot = &snapshot;
        let begun_with = self.begun_with.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(begun_with) = begun_with {
            for kind in self.kinds.wanted() {
                let saw = sees(&begun_with, services, &self.origin, kind).await;
                self.seen.lock().unwrap_or_else(PoisonError::into_inner)[kind as usize] = saw;
            }
        }
        let mut is_known = self.end_watches(snapshot, services, origin).await;
        for kind in self.kinds.wanted() {
            let Some(sees) = sees(snapshot, services, origin, kind).await else {
                is_known = false;
                continue;
            };
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen[kind as usize].as_ref() != Some(&sees) {
                seen[kind as usize] = Some(sees);
                drop(seen);
                self.changed.fetch_or(kind.bit(), Ordering::AcqRel);
                self.news.notify_one();
            }
        }
        is_known
    }

    /// Ends what it watches and may not see any more. False where there was no room to find out about all.
    async fn end_watches(&self, snapshot: &Snapshot, services: &Services, origin: &Origin) -> bool {
        let mut is_known = true;
        for uri in self.watches.uris() {
            match pipeline::may_watch(snapshot, services, origin, &uri).await {
                Some(true) => {}
                Some(false) => {
                    tracing::debug!(principal = %origin.caller.principal, "a watched resource is not seen any more");
                    self.watches.end(&uri);
                }
                None => is_known = false,
            }
        }
        is_known
    }
}

/// What a caller sees of the lists of a kind. `None` where there is no room to find out.
async fn sees(snapshot: &Snapshot, services: &Services, origin: &Origin, kind: Told) -> Option<Vec<Digest>> {
    let mut digests = Vec::new();
    for list in kind.lists() {
        digests.push(pipeline::listing_digest(snapshot, services, origin, *list).await?);
    }
    Some(digests)
}

/// Compares for all listeners whenever something was published, until the gateway closes.
pub(super) async fn run(mcp: Arc<Mcp>, mut published: watch::Receiver<u64>) {
    let watching = async {
        let mut revisiting = tokio::time::interval(REVISIT);
        revisiting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let whose = tokio::select! {
                changed = published.changed() => match changed {
                    Ok(()) => Whose::Everybodys,
                    Err(_) => return,
                },
                whose = mcp.services.personal.told.next() => whose,
                _ = revisiting.tick() => {
                    revisit(&mcp).await;
                    continue;
                }
            };
            tokio::time::sleep(DEBOUNCE).await;
            for _ in 0..MAX_TRIES {
                if whose == Whose::Everybodys {
                    published.mark_unchanged();
                }
                if look_around(&mcp, &whose).await {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    mcp.closing.run_until_cancelled(watching).await;
}

/// Those of these people who listen.
fn listeners(mcp: &Mcp, whose: &Whose) -> Vec<Arc<Listener>> {
    let numbered = mcp.listeners.by_number.lock().unwrap_or_else(PoisonError::into_inner);
    let is_theirs = |listener: &&Arc<Listener>| whose.has(&listener.origin.caller.principal);
    numbered.listeners.values().filter(is_theirs).cloned().collect()
}

/// Has lists of people's own read that are due. Where one turns out to be another, that is told.
async fn revisit(mcp: &Mcp) {
    let snapshot = mcp.snapshot.load_full();
    if snapshot.catalog.personal().is_empty() {
        return;
    }
    for listener in listeners(mcp, &Whose::Everybodys) {
        let then = &listener.origin.caller;
        if let Ok(caller) = mcp.gate.again(&then.principal, then.pass.as_ref()).await {
            let origin = Origin { caller, ..(*listener.origin).clone() };
            if listener.is_behind.load(Ordering::Acquire) {
                listener.look(&snapshot, &mcp.services, &origin).await;
            } else {
                personal::as_of_now(&snapshot, &mcp.services, &origin);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// False where there was no room to find out about everyone.
async fn look_around(mcp: &Mcp, whose: &Whose) -> bool {
    let snapshot = mcp.snapshot.load_full();
    let listeners = listeners(mcp, whose);
    let (mut is_known, mut is_followed) = (true, true);
    for listener in listeners {
        let then = &listener.origin.caller;
        // What cannot be known of one token cannot be known of any, and keys do not wait for them.
        if !is_followed && then.pass.is_some() {
            continue;
        }
        match mcp.gate.again(&then.principal, then.pass.as_ref()).await {
            Ok(caller) => {
                let origin = Origin { caller, ..(*listener.origin).clone() };
                is_known &= listener.look(&snapshot, &mcp.services, &origin).await;
            }
            // Whoever is not here any more hears nothing more, and is seen out elsewhere (`super::stays`).
            Err(Unadmitted::Refused(_)) => {}
            Err(Unadmitted::Fault(_)) => (is_known, is_followed) = (false, false),
        }
        // Policies are asked for each: others get their turn in between.
        tokio::task::yield_now().await;
    }
    is_known
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use tokio::time::Instant;

    use super::*;
    use crate::audit::{Actor, RevocationReason};
    use crate::authorization::tokens::{signed, token};
    use crate::config::{Auth, AuthMode};
    use crate::env::Env;
    use crate::http::mcp::testing::{Edge, knock, limits, origin, snapshot_with};
    use crate::ids::ClientId;
    use crate::mcp::revision::Revision;
    use crate::store::follower::Follower;
    use crate::store::revocations::{self, Whose};

    #[tokio::test(start_paused = true)]
    async fn who_listens_with_a_key_does_not_wait_for_what_was_revoked() {
        let edge = Edge::new(limits()).await;
        edge.admit(Auth { mcp: AuthMode::Both, guests: true, ..Auth::unset() });
        let (ann, _inbox) = origin(&edge.mcp, Revision::V2026_07_28, "{}");
        let guest = token("guest:0a0a0a0a0a0a0a0a0a0a0a0a", Env::system().now());
        let mut headers = HeaderMap::new();
        let credential = format!("Bearer {}", signed(&guest));
        headers.insert("authorization", HeaderValue::try_from(credential).unwrap());
        let guest = Origin { caller: edge.mcp.gate.admit(&knock(&headers)).await.unwrap(), ..ann.clone() };
        let listen = |origin: &Origin| {
            Listening::begin(&edge.mcp, Arc::new(origin.clone()), Kinds::ALL, Arc::new(Watches::default()))
        };
        let guests: Vec<Listening> = (0..20).map(|_| listen(&guest)).collect();
        let ann = listen(&ann);
        // Nobody takes it in.
        let clock = Env::system().adjustable().1;
        let _follower = Follower::begin(edge.store.clone(), clock, Duration::from_secs(10)).await.unwrap();
        let whose = Whose::Client(ClientId::parse("other").unwrap());
        revocations::revoke_all(&edge.store, whose, RevocationReason::Operator, Actor::System).await.unwrap();
        let auth = edge.snapshot.load().auth.clone();
        edge.snapshot.store(Arc::new(Snapshot { auth, ..snapshot_with(&["add"], &[]) }));
        let began = Instant::now();
        assert!(!look_around(&edge.mcp, &crate::upstream::Whose::Everybodys).await, "of the guests nothing is known");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(ann.change().await, ListKind::Tools);
        drop(guests);
    }
}
