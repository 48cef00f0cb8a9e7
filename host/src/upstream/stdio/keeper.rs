//! The task that owns the child.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::child::{Child, Program};
use super::handshake::meet;
use super::pending::{Pending, answered_by_garbage};
use super::subscriptions::Subscriptions;
use super::wire::cancelled;
use super::{Ids, Life, NOT_STARTED, Order, Phase};
use crate::mcp::call::Outcome;
use crate::mcp::error::{METHOD_NOT_FOUND, RpcError};
use crate::mcp::json::raw;
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{Era, v2026_07_28};
use crate::tasks::Tasks;
use crate::upstream::{Signals, UpstreamError};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A child that lived this long is restarted without a pause of note.
const HEALTHY_LIFE: Duration = Duration::from_secs(60);

pub(super) struct Keeper {
    program: Program,
    inbox: mpsc::Receiver<Order>,
    phase: watch::Sender<Phase>,
    ids: Ids,
    given_up: Arc<Notify>,
    subscriptions: Subscriptions,
    signals: Signals,
    tasks: Tasks,
    /// What the program was when it last ran.
    known: Option<Era>,
    lives: u64,
}

/// A child that serves.
struct Served {
    child: Child,
    life: Arc<Life>,
    pending: Pending,
}

/// Why a child is no more.
struct Ended {
    reason: String,
    /// It ended at the first question, as some servers with sessions do, and will be asked another.
    is_misunderstanding: bool,
}

impl Ended {
    fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_misunderstanding: false }
    }
}

impl Keeper {
    pub(super) fn new(
        program: Program,
        inbox: mpsc::Receiver<Order>,
        phase: watch::Sender<Phase>,
        ids: Ids,
        given_up: Arc<Notify>,
        signals: Signals,
        tasks: Tasks,
    ) -> Self {
        let subscriptions = Subscriptions::new(ids.clone(), signals.clone());
        let known = program.era;
        Self { program, inbox, phase, ids, given_up, subscriptions, signals, tasks, known, lives: 0 }
    }

    /// Keeps a child running until the tasks stop.
    pub(super) async fn run(mut self) {
        let stopping = self.tasks.stopping().clone();
        let mut pause = FIRST_PAUSE;
        while !stopping.is_cancelled() {
            let started = Instant::now();
            self.phase.send_replace(Phase::Starting);
            let Ended { reason, is_misunderstanding } = match Child::start(&self.program, &self.tasks) {
                Ok(child) => self.keep(child).await,
                Err(error) => self.not_started(&error),
            };
            if stopping.is_cancelled() {
                return;
            }
            pause = if started.elapsed() >= HEALTHY_LIFE { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
            let name = &self.program.name;
            if is_misunderstanding && self.lives == 0 && pause == 2 * FIRST_PAUSE {
                // Callers are better served by a short wait than by an error that says nothing of the upstream.
                tracing::info!(upstream = %name, %reason, restart_in_ms = pause.as_millis(), "upstream process ended");
            } else {
                tracing::warn!(upstream = %name, %reason, restart_in_ms = pause.as_millis(), "upstream process ended");
                self.phase.send_replace(Phase::Down { reason: reason.as_str().into() });
                // Its health is to be seen.
                self.signals.stale.notify_one();
            }
            self.rest(pause, &reason).await;
        }
    }

    fn not_started(&self, error: &io::Error) -> Ended {
        let program = self.program.command.first().map_or("", String::as_str);
        Ended::because(format!("{NOT_STARTED} {program:?}: {error}"))
    }

    /// Asks a child what it is, and serves until it ends or we stop. Why it ended.
    async fn keep(&mut self, mut child: Child) -> Ended {
        let stopping = self.tasks.stopping().clone();
        let met = tokio::select! {
            met = meet(&mut child, &self.ids, self.known, self.program.start_timeout) => met,
            () = stopping.cancelled() => {
                child.end(&self.program.name).await;
                return Ended::because("stopping");
            }
        };
        let about = match met {
            Ok(about) => Arc::new(about),
            Err(not_met) => {
                let is_misunderstanding = not_met.assumed == Some(Era::Legacy) && self.known.is_none();
                self.known = not_met.assumed;
                child.end(&self.program.name).await;
                return Ended { reason: not_met.reason, is_misunderstanding };
            }
        };
        tracing::debug!(upstream = %self.program.name, revision = about.revision, "upstream process is ready");
        self.known = Some(about.era);
        self.lives += 1;
        let life = Arc::new(Life { number: self.lives, about });
        let mut served = Served { child, life, pending: Pending::default() };
        let reason = self.serve(&mut served).await;
        let Served { child, pending, .. } = served;
        self.phase.send_replace(Phase::Down { reason: reason.as_str().into() });
        pending.died();
        self.subscriptions.life_ended();
        child.end(&self.program.name).await;
        Ended::because(reason)
    }

    /// Serves until the child ends or we stop. Why it ended.
    async fn serve(&mut self, served: &mut Served) -> String {
        let stopping = self.tasks.stopping().clone();
        let given_up = self.given_up.clone();
        self.subscriptions.life_began(served.life.about.clone(), Instant::now());
        self.subscriptions.keep_up(Instant::now(), &served.child.input);
        self.phase.send_replace(Phase::Serving(served.life.clone()));
        self.signals.stale.notify_one();
        loop {
            let due = self.subscriptions.wake();
            tokio::select! {
                () = stopping.cancelled() => return "stopping".to_owned(),
                order = self.inbox.recv() => match order {
                    Some(order) => self.take_order(served, order),
                    None => return "stopping".to_owned(),
                },
                line = served.child.next_line() => match line {
                    Ok(line) => self.take_line(served, &line),
                    Err(reason) => return reason,
                },
                () = given_up.notified() => {
                    for id in served.pending.take_given_up(Instant::now()) {
                        served.child.input.write_aside(cancelled(&id));
                    }
                    self.subscriptions.sweep(Some(&served.child.input));
                }
                () = at(due) => self.subscriptions.keep_up(Instant::now(), &served.child.input),
            }
        }
    }

    fn take_order(&mut self, served: &mut Served, order: Order) {
        match order {
            Order::Ask { life, id, line, waiting } => {
                if waiting.answer.is_closed() {
                    return;
                }
                if life != served.life.number {
                    waiting.tell(Err(restarted()));
                } else if served.pending.is_full() || served.child.input.write(line).is_err() {
                    waiting.tell(Err(UpstreamError::Busy));
                } else {
                    served.pending.add(id, waiting);
                }
            }
            Order::Watch { life, uri, mut watcher } => {
                if life != served.life.number {
                    watcher.confirm(Err(restarted()));
                    return;
                }
                let now = Instant::now();
                self.subscriptions.watch(uri, watcher, now);
                self.subscriptions.keep_up(now, &served.child.input);
            }
        }
    }

    fn take_line(&mut self, served: &mut Served, line: &[u8]) {
        let now = Instant::now();
        match Message::from_upstream(line) {
            Ok(Message::Result { id, result }) => match (served.pending.take(&id), served.life.about.era) {
                (Some(waiting), Era::Modern) => waiting.tell(Ok(v2026_07_28::outcome(result))),
                (Some(waiting), Era::Legacy) => waiting.tell(Ok(Outcome::Result(result.to_owned()))),
                (None, _) => self.subscriptions.take_result(&id, now),
            },
            Ok(Message::Error { id: Some(id), error }) => match served.pending.take(&id) {
                Some(waiting) => waiting.tell(Ok(Outcome::Error(error.to_owned()))),
                None => {
                    let refused = UpstreamError::of_refused_subscription(error);
                    self.subscriptions.take_refusal(&id, &refused);
                }
            },
            Ok(Message::Notification { method, params }) => match &*method {
                "notifications/progress" => served.pending.progress(params),
                "notifications/message" => served.pending.log(params, now),
                "notifications/resources/updated" => self.subscriptions.updated(params),
                "notifications/subscriptions/acknowledged" => {
                    self.subscriptions.acknowledged(params, &served.child.input);
                }
                "notifications/cancelled" => self.subscriptions.cancelled(params, now),
                "notifications/tools/list_changed"
                | "notifications/prompts/list_changed"
                | "notifications/resources/list_changed" => self.signals.stale.notify_one(),
                // Whatever else it says does not say to whom.
                _ => {}
            },
            Ok(Message::Request { id, method, .. }) => match served.life.about.era {
                Era::Legacy => served.child.input.write_aside(answer_to_child(&id, &method)),
                // It must not ask, and we must not answer (2026-07-28, stdio § sending messages).
                Era::Modern => tracing::debug!(upstream = %self.program.name, "a request of a child was ignored"),
            },
            Ok(Message::Error { id: None, .. }) | Err(_) => self.take_garbage(served, line),
        }
    }

    /// A line that is no message, but may be an answer to somebody who should not wait any longer.
    fn take_garbage(&mut self, served: &mut Served, line: &[u8]) {
        tracing::debug!(upstream = %self.program.name, "a line on standard output is not a JSON-RPC message");
        let Some(id) = answered_by_garbage(line) else { return };
        let garbage = UpstreamError::Protocol { what: "its answer is not a JSON-RPC response" };
        match served.pending.take(&id) {
            Some(waiting) => waiting.tell(Err(garbage)),
            None => self.subscriptions.take_refusal(&id, &garbage),
        }
    }

    /// Turns requests away until the next start.
    async fn rest(&mut self, pause: Duration, reason: &str) {
        let until = Instant::now() + pause;
        let (stopping, given_up) = (self.tasks.stopping().clone(), self.given_up.clone());
        let down = || UpstreamError::Unreachable { reason: reason.to_owned() };
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = stopping.cancelled() => return,
                () = given_up.notified() => self.subscriptions.sweep(None),
                order = self.inbox.recv() => match order {
                    Some(Order::Ask { waiting, .. }) => waiting.tell(Err(down())),
                    Some(Order::Watch { mut watcher, .. }) => watcher.confirm(Err(down())),
                    None => return,
                },
            }
        }
    }
}

/// What we answer a child with sessions that asks something of us as its client: it was told of no capability, since it
/// serves all callers.
pub(super) fn answer_to_child(id: &RequestId, method: &str) -> String {
    if method == "ping" {
        return message::result(id, &raw("{}".to_owned()));
    }
    message::error(Some(id), &RpcError::new(METHOD_NOT_FOUND, "the gateway declared no such capability").to_raw())
}

fn restarted() -> UpstreamError {
    UpstreamError::Unreachable { reason: "it was started anew in this moment".to_owned() }
}

/// Waits until then, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
