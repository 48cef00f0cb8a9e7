//! A request under way: what the pipeline does with it, and what upstreams say meanwhile.
//!
//! It is driven by whoever holds it, without a task of its own: most requests are answered by the connection's own
//! task. It can be handed on (to a stream's task, to the car park of [`super::parked`]), and dropping it lets it end in
//! a task of its own: taken back where leaving means that (2026-07-28), or as if nobody had left (earlier revisions).
//! Either way it comes to its end, and with it the record of what was done.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::Mcp;
use crate::mcp::revision::{Answer, Request};
use crate::mcp::talk::{Ask, Event};
use crate::pipeline::{self, Origin, Refusal, Services, Snapshot};
use crate::tasks::Tasks;

/// What upstreams may say before whoever drives the work has taken it. They wait then.
pub(super) const EVENT_QUEUE: usize = 16;

/// How a request ended.
#[derive(Debug)]
pub(super) enum Ended {
    Answered(Result<Answer, Refusal>),
    /// A defect of ours: what drove it panicked.
    Died,
}

/// The next thing that happens to a request.
#[derive(Debug)]
pub(super) enum Step {
    Said(Event),
    /// Nothing comes after this.
    Ended(Ended),
}

/// What it means that nobody waits for an answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    TakesBack,
    GoesOn,
}

/// A request under way.
pub(super) struct Work {
    /// `None` once it has ended.
    life: Option<BoxFuture<'static, Ended>>,
    /// How it ended, until that is told.
    ended: Option<Ended>,
    events: mpsc::Receiver<Event>,
    /// A question that policies are being asked about.
    admission: Option<BoxFuture<'static, Option<Ask>>>,
    services: Arc<Services>,
    pub(super) origin: Arc<Origin>,
    pub(super) snapshot: Arc<Snapshot>,
    leaving: Leaving,
    tasks: Tasks,
}

impl Work {
    /// Lets the pipeline handle a request. `until_end` is dropped when it has ended.
    pub(super) fn start(
        mcp: &Mcp,
        (origin, events): (Origin, mpsc::Receiver<Event>),
        leaving: Leaving,
        request: Request,
        until_end: impl Send + 'static,
    ) -> Self {
        let (snapshot, services, origin) = (mcp.snapshot.load_full(), mcp.services.clone(), Arc::new(origin));
        let life = {
            let (snapshot, origin) = (snapshot.clone(), origin.clone());
            async move { pipeline::handle(&snapshot, &services, &origin, request).await }
        };
        Self::of(mcp, (origin, events), snapshot, leaving, life, until_end)
    }

    /// The same for something that is not the pipeline's.
    pub(super) fn of(
        mcp: &Mcp,
        (origin, events): (Arc<Origin>, mpsc::Receiver<Event>),
        snapshot: Arc<Snapshot>,
        leaving: Leaving,
        life: impl Future<Output = Result<Answer, Refusal>> + Send + 'static,
        until_end: impl Send + 'static,
    ) -> Self {
        // Boxed before anything is put around it: it is large, and each wrapper would move it.
        let life = AssertUnwindSafe(Box::pin(life)).catch_unwind();
        let life = Box::pin(async move {
            let outcome = life.await;
            drop(until_end);
            outcome.map_or_else(
                |_| {
                    tracing::error!("a request died");
                    Ended::Died
                },
                Ended::Answered,
            )
        });
        Self {
            life: Some(life),
            ended: None,
            events,
            admission: None,
            services: mcp.services.clone(),
            origin,
            snapshot,
            leaving,
            tasks: mcp.tasks.clone(),
        }
    }

    /// What happens next: everything that was said, then the end. Questions are those that may reach the caller; others
    /// are answered for it. Safe to be dropped and called again.
    pub(super) async fn next(&mut self) -> Step {
        poll_fn(|ctx| self.poll_next(ctx)).await
    }

    /// Waits for something else while the work goes on, so that its own time limits hold. What is said meanwhile waits
    /// in its queue.
    pub(super) async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        poll_fn(|ctx| {
            self.poll_life(ctx);
            other.as_mut().poll(ctx)
        })
        .await
    }

    /// Goes on with the work, if it has not ended.
    fn poll_life(&mut self, ctx: &mut Context<'_>) {
        let Some(life) = &mut self.life else { return };
        if let Poll::Ready(ended) = life.as_mut().poll(ctx) {
            self.life = None;
            self.ended = Some(ended);
            self.events.close();
        }
    }

    fn poll_next(&mut self, ctx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if let Some(admission) = &mut self.admission {
                let Poll::Ready(admitted) = admission.as_mut().poll(ctx) else {
                    self.poll_life(ctx);
                    return Poll::Pending;
                };
                self.admission = None;
                if let Some(ask) = admitted {
                    return Poll::Ready(Step::Said(Event::Ask(ask)));
                }
            }
            let event = match self.poll_said(ctx) {
                Poll::Ready(Step::Said(event)) => event,
                step => return step,
            };
            match event {
                Event::Ask(ask) => self.admission = Some(self.admit(ask)),
                event => return Poll::Ready(Step::Said(event)),
            }
        }
    }

    fn poll_said(&mut self, ctx: &mut Context<'_>) -> Poll<Step> {
        if self.ended.is_none() {
            if let Poll::Ready(Some(event)) = self.events.poll_recv(ctx) {
                return Poll::Ready(Step::Said(event));
            }
            self.poll_life(ctx);
            if self.ended.is_none() {
                return Poll::Pending;
            }
        }
        // What was said in the same breath as the answer comes before it.
        match (self.events.try_recv(), self.ended.take()) {
            (Ok(event), ended) => {
                self.ended = ended;
                Poll::Ready(Step::Said(event))
            }
            (Err(_), Some(ended)) => Poll::Ready(Step::Ended(ended)),
            (Err(_), None) => Poll::Pending,
        }
    }

    /// The ask, if it may reach the caller.
    fn admit(&self, ask: Ask) -> BoxFuture<'static, Option<Ask>> {
        let (snapshot, services, origin) = (self.snapshot.clone(), self.services.clone(), self.origin.clone());
        Box::pin(async move {
            pipeline::admit(&snapshot, &services, &origin, ask).await.map(crate::policy::Permit::into_inner)
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let Some(life) = self.life.take() else { return };
        if self.leaving == Leaving::TakesBack {
            self.origin.cancelled.cancel();
        }
        self.events.close();
        self.admission = None;
        while self.events.try_recv().is_ok() {}
        // Without a runtime the process is ending, and everything with it.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.tasks.spawn(life);
        }
    }
}
