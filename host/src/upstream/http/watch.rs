//! Updates of single resources: `resources/subscribe` in sessions of the legacy era, `subscriptions/listen` in the modern
//! one.
//!
//! A watch is kept by a task of its own, which subscribes again when a session or a stream was lost, and then tells its
//! listener that the resource may have changed meanwhile. In a session several watches of one URI are one subscription.
//!
//! What it was opened with may be renewed, given anew or taken away in the meantime. A session shows what is newest from then
//! on, a stream is opened again; and where nothing is lent any more, or the upstream will not have the next one either, the
//! watch is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::detect::{Dialect, Found};
use super::session::{Hold, Session};
use super::subscription::{Heard, Listening};
use super::{Inner, within};
use crate::connection::lending::Lent;
use crate::mcp::call::Outcome;
use crate::mcp::json::{Members, to_raw};
use crate::mcp::revision::Filter;
use crate::mcp::talk::{Event, Notice, Via};
use crate::upstream::credential::{Borrower, is_for_good};
use crate::upstream::deadline::Deadline;
use crate::upstream::{Subscription, UpstreamError, Watch};

/// Waits before a lost subscription is made again double from the first to the last.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A subscription that stood this long has shown that what was lent for it is good.
const HEALTHY_LIFE: Duration = Duration::from_secs(60);
/// Longest wait for the answer to a subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Subscriptions that wait to be made or unmade in one session.
const MAX_ORDERS: usize = 64;

const UNSUPPORTED: UpstreamError = UpstreamError::Unsupported { what: "subscriptions to resources" };
const REFUSED: UpstreamError = UpstreamError::Unsupported { what: "a subscription to this resource" };

/// Who hears of one resource in a session.
pub(super) struct Listener {
    number: u64,
    subscription: Subscription,
    events: mpsc::Sender<Event>,
}

impl Listener {
    /// Tells of an update if it is of this resource, or of a part of it (2025-11-25, resources § subscriptions).
    pub(super) fn tell(&self, params: &Members) {
        if let Some(params) = updated(&self.subscription, params)
            && self.events.try_send(params).is_err()
        {
            tracing::debug!("an update of a resource was dropped: its listener is gone or too slow");
        }
    }
}

/// The notice of an update, under the URI by which its listener knows the resource. `None`: it is of another resource.
fn updated(subscription: &Subscription, params: &Members) -> Option<Event> {
    let uri: String = serde_json::from_str(params.get("uri")?.get()).ok()?;
    let part = uri.strip_prefix(&subscription.uri)?;
    if !(part.is_empty() || part.starts_with(['/', '?', '#']) || subscription.uri.ends_with('/')) {
        return None;
    }
    let mut params = params.clone();
    params.set("uri", to_raw(&format!("{}{part}", subscription.exposed)));
    Some(Event::Notice(Notice::ResourceUpdated(params)))
}

/// The notice that a resource may have changed while nobody listened.
fn perhaps_updated(subscription: &Subscription) -> Event {
    let mut params = Members::default();
    params.set("uri", to_raw(&subscription.exposed));
    Event::Notice(Notice::ResourceUpdated(params))
}

impl Inner {
    /// Watches a resource until what is returned is dropped.
    pub(super) async fn watch(
        self: &Arc<Self>,
        subscription: Subscription,
        via: Via,
        borrower: Option<Borrower>,
        deadline: &Deadline,
    ) -> Result<Watch, UpstreamError> {
        let place = self.watches.clone().try_acquire_owned().map_err(|_| UpstreamError::Busy)?;
        let ended = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let cancelled = via.cancelled.clone();
        let watch = Watch::until_dropped(ended.clone());
        let inner = self.clone();
        self.peer.tasks.spawn(async move {
            let cancelled = via.cancelled.clone();
            tokio::select! {
                () = inner.keep_watch(&subscription, via, borrower, ready) => {}
                () = ended.cancelled() => {}
                () = cancelled.cancelled() => {}
                () = inner.peer.tasks.stopping().cancelled() => {}
            }
            // Whoever has the watch sees that it is over.
            ended.cancel();
            drop(place);
        });
        let begun = async { is_ready.await.unwrap_or(Err(UpstreamError::Died)) };
        tokio::select! {
            begun = within(deadline, begun) => begun.map(|()| watch),
            () = cancelled.cancelled() => Err(UpstreamError::Cancelled),
        }
    }

    async fn keep_watch(
        self: &Arc<Self>,
        subscription: &Subscription,
        mut via: Via,
        mut borrower: Option<Borrower>,
        ready: oneshot::Sender<Result<(), UpstreamError>>,
    ) {
        let mut ready = Some(ready);
        let mut pause = FIRST_PAUSE;
        // Another credential was borrowed in the place of one that was refused, and nothing has stood with it for long.
        let mut is_renewed = false;
        loop {
            let mut stood: Option<Instant> = None;
            // Called when the subscription stands.
            let mut begun = || {
                stood = Some(Instant::now());
                match ready.take() {
                    Some(ready) => _ = ready.send(Ok(())),
                    None => _ = via.events.try_send(perhaps_updated(subscription)),
                }
            };
            let ended = self.watch_once(subscription, &via, borrower.as_mut(), &mut begun).await;
            if let Some(since) = stood {
                pause = FIRST_PAUSE;
                is_renewed &= since.elapsed() < HEALTHY_LIFE;
            }
            let refused = match (&ended, &borrower) {
                (Err(UpstreamError::Rejected { why, of }), Some(_)) => Some((why.clone(), of.clone())),
                _ => None,
            };
            let is_at_once = refused.is_some() || matches!(ended, Ok(Ended::Outdated));
            if let Err(error) = ended {
                if let Some(ready) = ready.take() {
                    _ = ready.send(Err(error));
                    return;
                }
                tracing::debug!(%error, "a subscription was lost");
                if is_for_good(&error) {
                    return;
                }
            }
            if !is_at_once {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            let Some(borrower) = &borrower else { continue };
            let borrowed = match &refused {
                // Not even the one that was borrowed in its place.
                Some(_) if is_renewed => return,
                Some((why, of)) => borrower.in_place_of(of, why).await,
                None => borrower.lend().await,
            };
            match borrowed {
                Ok(lent) => {
                    is_renewed = refused.is_some();
                    via.party.lent = Some(lent);
                }
                Err(error) if is_for_good(&error) => return,
                Err(_) if is_at_once => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Err(_) => {}
            }
        }
    }

    async fn watch_once(
        self: &Arc<Self>,
        subscription: &Subscription,
        via: &Via,
        borrower: Option<&mut Borrower>,
        begun: &mut impl FnMut(),
    ) -> Result<Ended, UpstreamError> {
        let found = self.found(via.party.lent.as_ref()).await?;
        match found.dialect {
            Dialect::Modern => self.watch_modern(subscription, via, borrower, begun).await,
            Dialect::Legacy | Dialect::Sse => self.watch_legacy(&found, subscription, via, borrower, begun).await,
        }
    }

    /// `Ok` when a subscription that stood has ended.
    async fn watch_legacy(
        self: &Arc<Self>,
        found: &Arc<Found>,
        subscription: &Subscription,
        via: &Via,
        borrower: Option<&mut Borrower>,
        begun: &mut impl FnMut(),
    ) -> Result<Ended, UpstreamError> {
        let session = self.session(&via.party).await.map_err(|failed| {
            if failed.is_refused {
                self.is_mistaken(found, Instant::now());
            }
            failed.error
        })?;
        if !session.about.capabilities.resources_subscribe {
            return Err(UNSUPPORTED);
        }
        let _listening = session.subscribe(subscription, via).await?;
        if let Some(error) = session.stream_refusal() {
            return Err(error);
        }
        session.keep_stream();
        // An update that comes before there is a stream is lost.
        session.stream_opened().await;
        begun();
        tokio::select! {
            () = session.over.cancelled() => Ok(Ended::Lost),
            error = session.stream_refused() => Err(error),
            ended = outdated(borrower, via, |lent| session.show(Some(lent))) => ended,
        }
    }

    async fn watch_modern(
        self: &Arc<Self>,
        subscription: &Subscription,
        via: &Via,
        borrower: Option<&mut Borrower>,
        begun: &mut impl FnMut(),
    ) -> Result<Ended, UpstreamError> {
        let filter = Filter { uris: vec![subscription.uri.clone()], ..Filter::default() };
        let opening = Listening::open(&self.peer, &via.party, &filter);
        let opened = tokio::time::timeout(SUBSCRIBE_TIMEOUT, opening).await;
        let mut listening = opened.unwrap_or(Err(UpstreamError::TimedOut { after: SUBSCRIBE_TIMEOUT }))?;
        if !listening.granted.uris.contains(&subscription.uri) {
            return Err(REFUSED);
        }
        begun();
        let hearing = async {
            while let Some(heard) = listening.next().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "a stream of updates broke");
                None
            }) {
                if let Heard::ResourceUpdated(params) = heard
                    && let Some(event) = updated(subscription, &params)
                {
                    // A listener that is gone ends the watch before long.
                    _ = via.events.send(event).await;
                }
            }
        };
        tokio::select! {
            () = hearing => Ok(Ended::Lost),
            // The stream shows what it was opened with to its end.
            ended = outdated(borrower, via, |_| false) => ended,
        }
    }
}

/// How a subscription that stood has ended.
enum Ended {
    /// Its session or its stream is lost.
    Lost,
    /// Something else is lent than what it was opened with.
    Outdated,
}

/// Waits until something else is lent than what a subscription was opened with, and it does not go on with that.
///
/// # Errors
/// [`UpstreamError::Withheld`]: nothing is lent any more.
async fn outdated(
    borrower: Option<&mut Borrower>,
    via: &Via,
    goes_on: impl Fn(&Arc<Lent>) -> bool,
) -> Result<Ended, UpstreamError> {
    let (Some(borrower), Some(lent)) = (borrower, &via.party.lent) else { return std::future::pending().await };
    let mut lent = lent.clone();
    loop {
        lent = borrower.other_than(&lent).await?;
        if !goes_on(&lent) {
            return Ok(Ended::Outdated);
        }
    }
}

/// What is to be done about the subscriptions of a session, in this order.
pub(super) enum Order {
    Add { uri: String, done: oneshot::Sender<Result<(), UpstreamError>> },
    Remove { uri: String },
}

/// Somebody hears of a resource in a session while this lives.
pub(super) struct Subscribed {
    hold: Hold,
    number: u64,
    uri: String,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let session = &self.hold.session;
        session.desk().listeners.retain(|listener| listener.number != self.number);
        session.changed.notify_waiters();
        if !session.over.is_cancelled() && tokio::runtime::Handle::try_current().is_ok() {
            let (orders, uri) = (session.subscriptions.clone(), self.uri.clone());
            // If nobody takes orders any more, the session is over.
            session.peer.tasks.spawn(async move { _ = orders.send(Order::Remove { uri }).await });
        }
    }
}

/// One URI's subscription in a session.
#[derive(Default)]
struct Kept {
    /// How many asked for it.
    count: usize,
    is_made: bool,
}

pub(super) fn orders() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(MAX_ORDERS)
}

impl Session {
    /// Subscribes to a resource, or joins those who did.
    async fn subscribe(self: &Arc<Self>, subscription: &Subscription, via: &Via) -> Result<Subscribed, UpstreamError> {
        // Listens before it is told to: an update may come with the answer.
        let number = {
            let mut desk = self.desk();
            let number = desk.number();
            let (subscription, events) = (subscription.clone(), via.events.clone());
            desk.listeners.push(Listener { number, subscription, events });
            number
        };
        let subscribed = Subscribed { hold: self.hold(), number, uri: subscription.uri.clone() };
        let (done, is_done) = oneshot::channel();
        let order = Order::Add { uri: subscription.uri.clone(), done };
        self.subscriptions.send(order).await.map_err(|_| UpstreamError::Died)?;
        is_done.await.unwrap_or(Err(UpstreamError::Died))?;
        Ok(subscribed)
    }

    /// Makes and unmakes subscriptions, one after the other, until the session is over.
    pub(super) async fn keep_subscriptions(self: Arc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut kept: HashMap<String, Kept> = HashMap::new();
        let work = async {
            while let Some(order) = orders.recv().await {
                match order {
                    Order::Add { uri, done } => {
                        let kept = kept.entry(uri.clone()).or_default();
                        kept.count += 1;
                        let made = match kept.is_made {
                            true => Ok(()),
                            false => self.tell_subscription("resources/subscribe", &uri).await,
                        };
                        kept.is_made = made.is_ok();
                        _ = done.send(made);
                    }
                    Order::Remove { uri } => {
                        let Some(left) = kept.get_mut(&uri) else { continue };
                        left.count -= 1;
                        if left.count > 0 {
                            continue;
                        }
                        let was_made = kept.remove(&uri).is_some_and(|kept| kept.is_made);
                        if was_made && let Err(error) = self.tell_subscription("resources/unsubscribe", &uri).await {
                            tracing::debug!(%error, "a subscription was not ended");
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = self.over.cancelled() => {}
        }
    }

    async fn tell_subscription(self: &Arc<Self>, method: &'static str, uri: &str) -> Result<(), UpstreamError> {
        let mut params = Members::default();
        params.set("uri", to_raw(&uri));
        match self.command(method, params, SUBSCRIBE_TIMEOUT).await? {
            Outcome::Result(_) => Ok(()),
            Outcome::Error(error) => Err(UpstreamError::of_refused_subscription(&error)),
            Outcome::NeedsInput(_) => Err(REFUSED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    #[test]
    fn updates_are_told_under_the_uri_that_the_listener_knows() {
        let told = |watched: &str, uri: &str| {
            let subscription = Subscription { uri: watched.into(), exposed: "exposed:it".into() };
            let mut params = Members::default();
            params.set("uri", to_raw(&uri));
            params.set("x", raw("1".into()));
            match updated(&subscription, &params) {
                Some(Event::Notice(Notice::ResourceUpdated(params))) => Some(params.to_raw().get().to_owned()),
                _ => None,
            }
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told("a:b", "a:b"), some(r#"{"uri":"exposed:it","x":1}"#));
        assert_eq!(told("a:b", "a:b/c"), some(r#"{"uri":"exposed:it/c","x":1}"#));
        assert_eq!(told("a:b", "a:bc"), None);
        assert_eq!(told("a:b", "a:c"), None);
        let subscription = Subscription { uri: "a:b".into(), exposed: "a:b".into() };
        assert!(updated(&subscription, &Members::default()).is_none());
    }
}
