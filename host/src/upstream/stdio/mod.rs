//! An upstream that is a child process speaking newline-delimited JSON-RPC on its standard streams, in either era.
//!
//! One task, the [`keeper`], owns the child and everything that belongs to it: it starts it and asks what it is
//! ([`handshake`]), matches answers to requests ([`pending`]), keeps [`subscriptions`] up, restarts it with growing pauses
//! when it ends, and kills its whole process group on stop. [`child`] says what the process sees and may use, [`lines`] how
//! messages are framed. The link is what callers' requests see of that task: the phase that the child is in, and a queue.
//!
//! All principals share the child, but where each gives values for its environment ([`programs`]). So all ids, progress tokens and subscriptions are the link's own; a child with sessions
//! is told of no client capability, and what it asks is answered here; and what it says to nobody in particular reaches
//! nobody. A child without sessions is told with each request who asks and what that client can, since nothing of it
//! outlives the request.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::deadline::Deadline;
use super::{Exchange, PartyKey, Signals, Subscription, UpstreamError, Watch};
use crate::mcp::call::Outcome;
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::{About, Era, legacy, v2026_07_28};
use crate::mcp::talk::{LogLevel, Party, Via};
use crate::tasks::Tasks;

mod keeper;

mod child;
mod handshake;
pub(super) mod homes;
mod lines;
mod pending;
mod programs;
mod subscriptions;
mod wire;

use keeper::Keeper;
use pending::Waiting;
use subscriptions::Watcher;

pub(super) use child::{Bounds, Program};
pub(super) use programs::{Programs, Shared};

/// How the reason begins where no process came to be.
pub(super) const NOT_STARTED: &str = "cannot start";
/// Requests and subscriptions that may wait for the keeper.
const MAX_ORDERS: usize = 256;

pub(super) struct StdioLink {
    orders: mpsc::Sender<Order>,
    phase: watch::Receiver<Phase>,
    ids: Ids,
    /// Somebody no longer waits for an answer or wants a subscription.
    given_up: Arc<Notify>,
    tasks: Tasks,
}

/// What the child is doing, as the keeper tells it.
#[derive(Clone)]
enum Phase {
    /// Nobody knows yet what it is.
    Starting,
    Serving(Arc<Life>),
    /// It ended, or never was: until it is started again.
    Down {
        reason: Arc<str>,
    },
}

/// One run of the program, from its handshake to its end.
struct Life {
    number: u64,
    about: Arc<About>,
}

/// What the keeper is asked to do.
enum Order {
    Ask { life: u64, id: RequestId, line: String, waiting: Waiting },
    Watch { life: u64, uri: Arc<str>, watcher: Watcher },
}

/// Gives ids that no two requests to the child share, whatever the life.
#[derive(Clone, Default)]
struct Ids(Arc<AtomicU64>);

impl Ids {
    fn next(&self) -> RequestId {
        RequestId::number(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

impl StdioLink {
    /// Starts the child and keeps it running until `tasks` stop.
    pub(super) fn start(program: Program, signals: Signals, tasks: &Tasks) -> Self {
        let (orders, inbox) = mpsc::channel(MAX_ORDERS);
        let (phase, seen) = watch::channel(Phase::Starting);
        let (ids, given_up) = (Ids::default(), Arc::new(Notify::new()));
        let keeper = Keeper::new(program, inbox, phase, ids.clone(), given_up.clone(), signals, tasks.clone());
        tasks.spawn(keeper.run());
        Self { orders, phase: seen, ids, given_up, tasks: tasks.clone() }
    }

    /// What the child is known to speak, while it serves.
    fn era(&self) -> Option<Era> {
        match &*self.phase.borrow() {
            Phase::Serving(life) => Some(life.about.era),
            Phase::Starting | Phase::Down { .. } => None,
        }
    }

    /// What the child says of itself; it says it once in a life.
    pub(super) async fn about(&self, deadline: &Deadline) -> Result<Arc<About>, UpstreamError> {
        tokio::select! {
            life = self.life() => Ok(life?.about.clone()),
            () = deadline.passed() => Err(UpstreamError::TimedOut { after: deadline.timeout() }),
        }
    }

    /// Sends a request and waits for its answer. When it is taken back, or its time is up, or this is dropped, the child is
    /// told so (2026-07-28, stdio § cancellation).
    pub(super) async fn exchange(&self, exchange: Exchange) -> Result<Outcome, UpstreamError> {
        tokio::select! {
            answer = self.ask(&exchange) => answer,
            () = exchange.deadline.passed() => Err(UpstreamError::TimedOut { after: exchange.deadline.timeout() }),
            () = exchange.via.cancelled.cancelled() => Err(UpstreamError::Cancelled),
        }
    }

    async fn ask(&self, exchange: &Exchange) -> Result<Outcome, UpstreamError> {
        let life = self.life().await?;
        let id = self.ids.next();
        let progress = exchange.params.progress_token.is_some().then_some(&id);
        let params = match life.about.era {
            Era::Modern => v2026_07_28::request_params(&exchange.params, &exchange.via.party, progress),
            Era::Legacy => legacy::request_params(&exchange.params, progress),
        };
        let line = message::request(&id, exchange.method, &params);
        let (answer, awaited) = self.awaited();
        let waiting = Waiting { answer, events: exchange.via.events.clone() };
        self.order(Order::Ask { life: life.number, id, line, waiting })?;
        awaited.answer().await
    }

    /// Subscribes to a resource; all watchers of one URI share one subscription of the child's.
    pub(super) async fn watch(
        &self,
        subscription: Subscription,
        via: Via,
        deadline: Deadline,
    ) -> Result<Watch, UpstreamError> {
        tokio::select! {
            watch = self.subscribe(subscription, &via) => watch,
            () = deadline.passed() => Err(UpstreamError::TimedOut { after: deadline.timeout() }),
            () = via.cancelled.cancelled() => Err(UpstreamError::Cancelled),
        }
    }

    async fn subscribe(&self, subscription: Subscription, via: &Via) -> Result<Watch, UpstreamError> {
        let life = self.life().await?;
        if !life.about.capabilities.resources_subscribe {
            return Err(UpstreamError::Unsupported { what: "subscriptions to resources" });
        }
        let ended = CancellationToken::new();
        let watch = Watch::until_dropped(ended.clone());
        let (confirmed, awaited) = self.awaited();
        let Subscription { uri, exposed } = subscription;
        let watcher = Watcher::new(exposed, via.events.clone(), ended.clone(), confirmed);
        self.order(Order::Watch { life: life.number, uri: uri.into(), watcher })?;
        self.tasks.spawn({
            let (given_up, stopping) = (self.given_up.clone(), self.tasks.stopping().clone());
            async move {
                tokio::select! {
                    () = ended.cancelled() => given_up.notify_one(),
                    () = stopping.cancelled() => ended.cancel(),
                }
            }
        });
        awaited.answer().await?;
        Ok(watch)
    }

    /// Nothing: the child serves all callers, and was told that no client has roots of which it could hear.
    pub(super) fn tell(&self, _: &Party, _: &str, _: Option<&RawValue>) -> Ready<()> {
        ready(())
    }

    /// Nothing: a child with sessions has one level for all callers, and its log messages are filtered for each; one
    /// without is told the level with each request.
    pub(super) fn set_level(&self, _: &Party, _: LogLevel) -> Ready<()> {
        ready(())
    }

    /// Nothing: the keeper hears of changed lists on the channel that it reads anyway, and subscribes where that has to be
    /// asked for.
    pub(super) fn listen(&self) -> Ready<()> {
        ready(())
    }

    /// Nothing: no caller has a session of its own with the child.
    pub(super) fn end_session(&self, _: &PartyKey) {}

    /// Nothing: the child ends with the link's tasks.
    pub(super) fn end_all(&self, _: Duration) -> Ready<()> {
        ready(())
    }

    /// The life that the child is in, once it is known what it is.
    async fn life(&self) -> Result<Arc<Life>, UpstreamError> {
        let mut phase = self.phase.clone();
        let known = phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await;
        match known.as_deref() {
            Ok(Phase::Serving(life)) => Ok(life.clone()),
            Ok(Phase::Down { reason }) => Err(UpstreamError::Unreachable { reason: reason.to_string() }),
            Ok(Phase::Starting) | Err(_) => Err(UpstreamError::Unreachable { reason: "it was stopped".to_owned() }),
        }
    }

    fn order(&self, order: Order) -> Result<(), UpstreamError> {
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => UpstreamError::Busy,
            mpsc::error::TrySendError::Closed(_) => UpstreamError::Unreachable { reason: "it was stopped".to_owned() },
        })
    }

    fn awaited<T>(&self) -> (oneshot::Sender<Result<T, UpstreamError>>, Awaited<T>) {
        let (sender, receiver) = oneshot::channel();
        (sender, Awaited { receiver: Some(receiver), given_up: self.given_up.clone() })
    }
}

/// The keeper's answer to an order. Dropping it tells the keeper that nobody waits for it any more.
struct Awaited<T> {
    receiver: Option<oneshot::Receiver<Result<T, UpstreamError>>>,
    given_up: Arc<Notify>,
}

impl<T> Awaited<T> {
    /// The answer. One that was dropped is that of a child that ended.
    async fn answer(mut self) -> Result<T, UpstreamError> {
        let Some(receiver) = self.receiver.as_mut() else { return Err(UpstreamError::Died) };
        let answer = receiver.await;
        self.receiver = None;
        answer.unwrap_or(Err(UpstreamError::Died))
    }
}

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        // The sender must see that the receiver is gone when the keeper looks.
        if let Some(receiver) = self.receiver.take() {
            drop(receiver);
            self.given_up.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
