//! What the child tells without being asked each time: that a resource was updated, that a list changed.
//!
//! Watchers of one URI share one subscription, whatever the era: `resources/subscribe` with sessions,
//! `subscriptions/listen` without (2026-07-28, patterns § subscriptions), where changed lists have to be subscribed to as
//! well. Subscriptions outlive the child: the next one is asked for them again, as is one that ended them on its own. Who
//! may have missed an update meanwhile is told that there was one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Ids;
use super::lines::Input;
use super::pending::pass;
use super::wire::{Acknowledged, Updated, cancelled, subscribe, unsubscribe};
use crate::mcp::json::{Members, to_raw};
use crate::mcp::message::RequestId;
use crate::mcp::revision::{About, Era, legacy};
use crate::mcp::talk::{Event, Notice};
use crate::upstream::{Signals, UpstreamError};

/// Resources that may be watched at once, of one child.
const MAX_TOPICS: usize = 1_000;
/// Watchers at once, of one child.
const MAX_WATCHERS: usize = 10_000;
/// Pauses before a subscription that the child ended is asked for again: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Pause while the child does not read.
const WRITE_PAUSE: Duration = Duration::from_millis(100);

/// Who wants to hear of a resource.
pub(super) struct Watcher {
    /// The URI under which it knows the resource.
    exposed: String,
    events: mpsc::Sender<Event>,
    /// Fires when it no longer wants to.
    ended: CancellationToken,
    /// Told once, when the child has agreed or not.
    confirmed: Option<oneshot::Sender<Result<(), UpstreamError>>>,
}

impl Watcher {
    pub(super) fn new(
        exposed: String,
        events: mpsc::Sender<Event>,
        ended: CancellationToken,
        confirmed: oneshot::Sender<Result<(), UpstreamError>>,
    ) -> Self {
        Self { exposed, events, ended, confirmed: Some(confirmed) }
    }

    /// Says what came of its wish, if it does not know yet.
    pub(super) fn confirm(&mut self, answer: Result<(), UpstreamError>) {
        if let Some(confirmed) = self.confirmed.take() {
            _ = confirmed.send(answer);
        }
    }
}

/// What is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    /// All lists that the child announces changes of.
    Lists,
    Resource(Arc<str>),
}

struct Subscription {
    state: State,
    watchers: Vec<Watcher>,
    /// Before it is asked for again, should the child end it.
    pause: Duration,
    /// Updates may have been missed since the watchers last heard.
    missed: bool,
}

enum State {
    /// To be asked for at this time.
    Due(Instant),
    Asked(RequestId),
    Running(RequestId),
}

/// All subscriptions of one link, over the lives of its child.
pub(super) struct Subscriptions {
    ids: Ids,
    signals: Signals,
    /// What the child is, while it lives.
    about: Option<Arc<About>>,
    topics: HashMap<Topic, Subscription>,
    /// Those that this child was asked for.
    asked: HashMap<RequestId, Topic>,
    wake: Option<Instant>,
}

impl Subscriptions {
    pub(super) fn new(ids: Ids, signals: Signals) -> Self {
        Self { ids, signals, about: None, topics: HashMap::new(), asked: HashMap::new(), wake: None }
    }

    /// When [`Self::keep_up`] has something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// A child lives that says this of itself: it is to be asked for everything.
    pub(super) fn life_began(&mut self, about: Arc<About>, now: Instant) {
        if about.era == Era::Modern && about.capabilities.any_list_changed() {
            let state = State::Due(now);
            let lists = Subscription { state, watchers: Vec::new(), pause: FIRST_PAUSE, missed: false };
            self.topics.insert(Topic::Lists, lists);
        }
        for subscription in self.topics.values_mut() {
            subscription.state = State::Due(now);
            subscription.pause = FIRST_PAUSE;
        }
        self.about = Some(about);
        self.wake = Some(now);
    }

    /// It ended. Who waits for its consent is told; who had it keeps the subscription.
    pub(super) fn life_ended(&mut self) {
        (self.about, self.wake) = (None, None);
        self.asked.clear();
        self.topics.remove(&Topic::Lists);
        self.topics.retain(|_, subscription| {
            subscription.missed = true;
            subscription.watchers.retain_mut(|watcher| {
                let keeps = watcher.confirmed.is_none();
                watcher.confirm(Err(UpstreamError::Died));
                keeps
            });
            !subscription.watchers.is_empty()
        });
    }

    /// Somebody wants to hear of a resource.
    pub(super) fn watch(&mut self, uri: Arc<str>, mut watcher: Watcher, now: Instant) {
        let topic = Topic::Resource(uri);
        let watchers: usize = self.topics.values().map(|subscription| subscription.watchers.len()).sum();
        if watchers >= MAX_WATCHERS || (self.topics.len() >= MAX_TOPICS && !self.topics.contains_key(&topic)) {
            watcher.confirm(Err(UpstreamError::Busy));
            return;
        }
        let subscription = self.topics.entry(topic).or_insert_with(|| {
            self.wake = Some(self.wake.map_or(now, |wake| wake.min(now)));
            Subscription { state: State::Due(now), watchers: Vec::new(), pause: FIRST_PAUSE, missed: false }
        });
        if matches!(subscription.state, State::Running(_)) {
            watcher.confirm(Ok(()));
        }
        subscription.watchers.push(watcher);
    }

    /// Ends what nobody wants any more; `input` is the child's, if there is one.
    pub(super) fn sweep(&mut self, input: Option<&Input>) {
        for subscription in self.topics.values_mut() {
            subscription.watchers.retain(|watcher| !watcher.ended.is_cancelled());
        }
        let unwanted = self.topics.extract_if(|topic, sub| *topic != Topic::Lists && sub.watchers.is_empty());
        for (topic, subscription) in unwanted {
            let (State::Asked(id) | State::Running(id)) = subscription.state else { continue };
            self.asked.remove(&id);
            if let (Some(about), Some(input)) = (&self.about, input) {
                input.write_aside(unsubscribe(about.era, &topic, &id, &self.ids));
            }
        }
    }

    /// Asks the child for what is due.
    pub(super) fn keep_up(&mut self, now: Instant, input: &Input) {
        self.wake = None;
        let Some(about) = &self.about else { return };
        for (topic, subscription) in &mut self.topics {
            let State::Due(at) = subscription.state else { continue };
            if at <= now {
                let id = self.ids.next();
                if input.write(subscribe(about, topic, &id)).is_ok() {
                    self.asked.insert(id.clone(), topic.clone());
                    subscription.state = State::Asked(id);
                    continue;
                }
                subscription.state = State::Due(now + WRITE_PAUSE);
            }
            if let State::Due(at) = subscription.state {
                self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
            }
        }
    }

    /// The child answered a request of ours with a result: with sessions that is its consent, without the graceful end.
    pub(super) fn take_result(&mut self, id: &RequestId, now: Instant) {
        match self.about.as_ref().map(|about| about.era) {
            Some(Era::Legacy) => self.began(id),
            Some(Era::Modern) => self.ended(id, now),
            None => {}
        }
    }

    /// The child answered a request of ours with an error, or with garbage.
    pub(super) fn take_refusal(&mut self, id: &RequestId, why: &UpstreamError) {
        let Some(topic) = self.asked.remove(id) else { return };
        tracing::debug!(?topic, %why, "an upstream process refused a subscription");
        for mut watcher in self.topics.remove(&topic).into_iter().flat_map(|subscription| subscription.watchers) {
            watcher.confirm(Err(why.clone()));
        }
    }

    /// `notifications/subscriptions/acknowledged`: what it agreed to.
    pub(super) fn acknowledged(&mut self, params: Option<&RawValue>, input: &Input) {
        let Some(Acknowledged { id, uris }) = Acknowledged::read(params) else { return };
        let Some(topic) = self.asked.get(&id) else { return };
        let is_granted = match topic {
            // Lists that it does not announce are read on a schedule, as all are.
            Topic::Lists => true,
            Topic::Resource(uri) => uris.iter().any(|granted| **granted == **uri),
        };
        if is_granted {
            self.began(&id);
        } else {
            input.write_aside(cancelled(&id));
            self.take_refusal(&id, &UpstreamError::Unsupported { what: "subscriptions to this resource" });
        }
    }

    /// `notifications/cancelled` from the child: it ends a subscription.
    pub(super) fn cancelled(&mut self, params: Option<&RawValue>, now: Instant) {
        if let Some(id) = legacy::cancelled_request(params) {
            self.ended(&id, now);
        }
    }

    /// `notifications/resources/updated`, to those who watch it.
    pub(super) fn updated(&self, params: Option<&RawValue>) {
        let (Some(Updated { id, uri: updated, params }), Some(about)) = (Updated::read(params), &self.about) else {
            return;
        };
        match about.era {
            Era::Modern => {
                if let Some(Topic::Resource(uri)) = id.and_then(|id| self.asked.get(&id)) {
                    self.pass_on(uri, &updated, &params);
                }
            }
            Era::Legacy => {
                for topic in self.topics.keys() {
                    if let Topic::Resource(uri) = topic
                        && is_part(&updated, uri)
                    {
                        self.pass_on(uri, &updated, &params);
                    }
                }
            }
        }
    }

    fn pass_on(&self, uri: &Arc<str>, updated: &str, params: &Members) {
        let Some(subscription) = self.topics.get(&Topic::Resource(uri.clone())) else { return };
        for watcher in &subscription.watchers {
            let mut params = params.clone();
            let part = updated.strip_prefix(&**uri).unwrap_or_default();
            params.set("uri", to_raw(&format!("{}{part}", watcher.exposed)));
            pass(&watcher.events, Notice::ResourceUpdated(params));
        }
    }

    /// The child agreed.
    fn began(&mut self, id: &RequestId) {
        let Some(topic) = self.asked.get(id) else { return };
        let Some(subscription) = self.topics.get_mut(topic) else { return };
        subscription.state = State::Running(id.clone());
        let missed = std::mem::take(&mut subscription.missed);
        if missed && *topic == Topic::Lists {
            self.signals.stale.notify_one();
        }
        for watcher in &mut subscription.watchers {
            if missed && watcher.confirmed.is_none() {
                let mut params = Members::default();
                params.set("uri", to_raw(&watcher.exposed));
                pass(&watcher.events, Notice::ResourceUpdated(params));
            }
            watcher.confirm(Ok(()));
        }
    }

    /// The child ended a subscription on its own: it is asked for again, less and less often.
    fn ended(&mut self, id: &RequestId, now: Instant) {
        let Some(topic) = self.asked.remove(id) else { return };
        let Some(subscription) = self.topics.get_mut(&topic) else { return };
        let at = now + subscription.pause;
        subscription.pause = (subscription.pause * 2).min(LAST_PAUSE);
        subscription.state = State::Due(at);
        subscription.missed = true;
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Whether an update of `updated` is one of `watched` or of a part of it (2025-11-25, schema,
/// `ResourceUpdatedNotificationParams`).
fn is_part(updated: &str, watched: &str) -> bool {
    updated
        .strip_prefix(watched)
        .is_some_and(|part| part.is_empty() || watched.ends_with('/') || part.starts_with(['/', '?', '#']))
}

#[cfg(test)]
mod tests;
