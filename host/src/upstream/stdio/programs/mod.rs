//! Children of principals' own: where each gives values for the environment of the program, one child for each of them.
//!
//! A child begins with the first request for its principal and ends when nobody has used it for a while, when its values are
//! other ones by now or may not be used any more, or when its place is needed. It has its place until its process is gone, and
//! who comes after it waits so long. What ends or fails is one principal's alone. The gateway has a child like any principal,
//! for lists, with its own values or without; that one is not counted, and stays.
//!
//! Each child has a home of its own, which goes with it: what a program keeps there is of its principal too.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{Program, StdioLink, homes};
use crate::connection::lending::{Lack, Lent, Withheld};
use crate::ids::{ConnectionId, Principal};
use crate::mcp::call::Outcome;
use crate::mcp::revision::{About, Era};
use crate::mcp::talk::{LogLevel, Party, Via};
use crate::tasks::Tasks;
use crate::upstream::credential::Own;
use crate::upstream::deadline::Deadline;
use crate::upstream::{Exchange, PartyKey, Signals, Subscription, UpstreamError, Watch};

/// How long a child is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// Between two looks at whose values are good still, and who is idle.
const LOOK: Duration = Duration::from_secs(5);
/// How long the end of a child is waited for: longer than it is given.
const GOODBYE: Duration = Duration::from_secs(10);
/// How long a request waits for the place of a child that ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the children of an upstream have in common.
pub(in crate::upstream) struct Shared {
    /// Without anybody's values.
    pub(in crate::upstream) program: Program,
    /// Children at once besides the gateway's.
    pub(in crate::upstream) most: usize,
    /// The gateway's own values, and whoever lends those of others.
    pub(in crate::upstream) own: Arc<Own>,
    pub(in crate::upstream) signals: Signals,
}

/// The children of an upstream, by principal.
pub(in crate::upstream) struct Programs(Arc<Inner>);

struct Inner {
    shared: Shared,
    tasks: Tasks,
    /// Those that are to be used, and no more of them than there are places, the gateway's aside.
    children: Mutex<HashMap<Principal, Arc<Child>>>,
    /// For each process but the gateway's, those that are ending among them.
    places: Arc<Semaphore>,
}

/// What a child was started with: a connection at a revision, or nothing.
type Values = Option<(ConnectionId, u64)>;

struct Child {
    values: Values,
    /// With its values, and a home of its own.
    program: Program,
    signals: Signals,
    /// Where it gets its place; the gateway's has none.
    places: Option<Arc<Semaphore>>,
    /// Once it has one.
    link: OnceCell<StdioLink>,
    /// Until its process is gone, whoever still holds on to this.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    /// Its own, so that it ends alone.
    tasks: Tasks,
    using: Mutex<Using>,
}

struct Using {
    count: usize,
    last: Instant,
}

/// A child is in use while this lives.
struct Use(Arc<Child>);

impl Programs {
    pub(in crate::upstream) fn new(shared: Shared, tasks: &Tasks) -> Self {
        let places = Arc::new(Semaphore::new(shared.most));
        let inner = Arc::new(Inner { shared, tasks: tasks.clone(), children: Mutex::default(), places });
        let looking = inner.clone();
        tasks.spawn(async move { looking.tasks.stopping().run_until_cancelled(looking.keep_looking()).await });
        Self(inner)
    }

    /// What the gateway's child says of itself.
    pub(in crate::upstream) async fn about(&self, deadline: &Deadline) -> Result<Arc<About>, UpstreamError> {
        let child = self.0.child_of(&self.0.shared.own.party().await?)?;
        child.link(deadline).await?.about(deadline).await
    }

    /// Makes a request of the child of whoever asks.
    pub(in crate::upstream) async fn exchange(&self, exchange: Exchange) -> Result<Outcome, UpstreamError> {
        let child = self.0.child_of(&exchange.via.party)?;
        let link = tokio::select! {
            link = child.link(&exchange.deadline) => link?,
            () = exchange.via.cancelled.cancelled() => return Err(UpstreamError::Cancelled),
        };
        link.exchange(exchange).await
    }

    /// Subscribes at the child of whoever asks, which is in use until the [`Watch`] is dropped.
    pub(in crate::upstream) async fn watch(
        &self,
        subscription: Subscription,
        via: Via,
        deadline: Deadline,
    ) -> Result<Watch, UpstreamError> {
        let child = self.0.child_of(&via.party)?;
        let link = tokio::select! {
            link = child.link(&deadline) => link?,
            () = via.cancelled.cancelled() => return Err(UpstreamError::Cancelled),
        };
        let watch = link.watch(subscription, via, deadline).await?;
        Ok(watch.holding(child))
    }

    /// Nothing, as with a child that all share.
    pub(in crate::upstream) fn tell(&self, _: &Party, _: &str, _: Option<&RawValue>) -> Ready<()> {
        ready(())
    }

    /// Nothing, as with a child that all share.
    pub(in crate::upstream) fn set_level(&self, _: &Party, _: LogLevel) -> Ready<()> {
        ready(())
    }

    /// Nothing: the gateway's child tells of changed lists by itself.
    pub(in crate::upstream) fn listen(&self) -> Ready<()> {
        ready(())
    }

    /// Nothing: a child is its principal's, whatever sessions that has.
    pub(in crate::upstream) fn end_session(&self, _: &PartyKey) {}

    /// Ends all children.
    pub(in crate::upstream) async fn end_all(&self, patience: Duration) {
        let children: Vec<Arc<Child>> = self.0.lock().drain().map(|(_, child)| child).collect();
        futures_util::future::join_all(children.iter().map(|child| child.end(patience))).await;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Principal, Arc<Child>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The child of a party, a new one if there is none that has these values.
    fn child_of(&self, party: &Party) -> Result<Use, UpstreamError> {
        let (principal, lent) = (&party.principal, party.lent.as_deref());
        if lent.is_none() && *principal != Principal::Gateway {
            return Err(UpstreamError::Withheld(Withheld::Missing(Lack::NotConnected)));
        }
        let values = values_of(lent);
        let mut children = self.lock();
        if let Some(child) = children.get(principal).filter(|child| child.is_as_good_as(&values)) {
            return Ok(Use::of(child));
        }
        if let Some(outdated) = children.remove(principal) {
            self.end_aside(outdated);
        }
        if *principal != Principal::Gateway {
            self.make_room(&mut children)?;
        }
        let era = children.get(&Principal::Gateway).and_then(|child| child.link.get()?.era());
        let child = Arc::new(self.new_child(principal, lent, era));
        children.insert(principal.clone(), child.clone());
        Ok(Use::of(&child))
    }

    /// Ends the child that has not been used for longest, if there are too many.
    fn make_room(&self, children: &mut HashMap<Principal, Arc<Child>>) -> Result<(), UpstreamError> {
        let others = || children.iter().filter(|(principal, _)| **principal != Principal::Gateway);
        if others().count() < self.shared.most {
            return Ok(());
        }
        let idle = others().filter_map(|(principal, child)| Some((child.idle_since()?, principal)));
        let first = idle.min_by_key(|(since, _)| *since).map(|(_, principal)| principal.clone());
        let child = first.and_then(|first| children.remove(&first)).ok_or(UpstreamError::Busy)?;
        self.end_aside(child);
        Ok(())
    }

    /// A child with what was lent, which is not started yet. `era`: what the program is known to speak.
    fn new_child(&self, principal: &Principal, lent: Option<&Lent>, era: Option<Era>) -> Child {
        let template = &self.shared.program;
        let home = homes::fresh(&template.private_dir);
        let mut environment = template.environment.clone();
        environment.extend(lent.iter().flat_map(|lent| lent.variables.iter().cloned()));
        let program = Program { environment, private_dir: home, era, ..template.clone() };
        // What the gateway's child says of its lists counts. Others' lists are their own, and nobody reads them.
        let (signals, places) = match principal {
            Principal::Gateway => (self.shared.signals.clone(), None),
            _ => (Signals::default(), Some(self.places.clone())),
        };
        let using = Mutex::new(Using { count: 0, last: Instant::now() });
        let (values, tasks) = (values_of(lent), self.tasks.subgroup());
        Child { values, program, signals, places, link: OnceCell::new(), place: Mutex::default(), tasks, using }
    }

    /// Ends a child that is not among the others any more. What is under way there fails.
    fn end_aside(&self, child: Arc<Child>) {
        // It says at once that it ends, whoever waits.
        child.tasks.stopping().cancel();
        self.tasks.spawn(async move { child.end(GOODBYE).await });
    }

    async fn keep_looking(&self) {
        self.forget_homes().await;
        loop {
            tokio::time::sleep(LOOK).await;
            self.end_idle();
            self.end_outdated().await;
        }
    }

    /// Removes what children of earlier processes have left behind.
    async fn forget_homes(&self) {
        let Ok(mut entries) = tokio::fs::read_dir(&self.shared.program.private_dir).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            if !homes::is_of_this_run(&entry.file_name().to_string_lossy()) {
                remove(&entry.path()).await;
            }
        }
    }

    fn end_idle(&self) {
        let mut children = self.lock();
        let is_idle = |child: &Child| child.idle_since().is_some_and(|since| since.elapsed() >= IDLE);
        let idle = children.extract_if(|principal, child| *principal != Principal::Gateway && is_idle(child));
        idle.for_each(|(_, child)| self.end_aside(child));
    }

    /// Ends children whose values are not those that their principal is lent now. Where that cannot be known, they stay: each
    /// request asks for itself.
    async fn end_outdated(&self) {
        let all: Vec<_> = self.lock().iter().map(|(principal, child)| (principal.clone(), child.clone())).collect();
        for (principal, child) in all {
            let values = match self.shared.own.lend_to(&principal).await {
                Ok(lent) => values_of(Some(&lent)),
                Err(Withheld::Missing(_)) => None,
                Err(Withheld::TooWide | Withheld::Unavailable { .. } | Withheld::Fault) => continue,
            };
            if child.values == values {
                continue;
            }
            let mut children = self.lock();
            if children.get(&principal).is_some_and(|known| Arc::ptr_eq(known, &child)) {
                children.remove(&principal);
                self.end_aside(child);
            }
        }
    }
}

fn values_of(lent: Option<&Lent>) -> Values {
    lent.map(|lent| (lent.connection.clone(), lent.revision))
}

impl Child {
    /// Whether it was started with these values, or with newer ones of the same connection.
    fn is_as_good_as(&self, values: &Values) -> bool {
        match (&self.values, values) {
            (None, None) => true,
            (Some((known, revision)), Some((connection, wanted))) => known == connection && revision >= wanted,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn using(&self) -> MutexGuard<'_, Using> {
        self.using.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when nobody uses it; `None` if somebody does.
    fn idle_since(&self) -> Option<Instant> {
        let using = self.using();
        (using.count == 0).then_some(using.last)
    }

    /// Starts it, once there is a place for its process.
    async fn start(&self) -> Result<StdioLink, UpstreamError> {
        if let Some(places) = &self.places {
            let place = tokio::select! {
                // Who has ended gets none, though there be one.
                biased;
                () = self.tasks.stopping().cancelled() => return Err(UpstreamError::Died),
                place = places.clone().acquire_owned() => place.map_err(|_| UpstreamError::Busy)?,
            };
            *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        }
        Ok(StdioLink::start(self.program.clone(), self.signals.clone(), &self.tasks))
    }

    /// Ends it, removes what it has kept, and gives its place to another.
    async fn end(&self, patience: Duration) {
        if !self.tasks.stop(patience).await {
            tracing::debug!("a child process was not ended in time");
        }
        remove(&self.program.private_dir).await;
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(place);
    }
}

async fn remove(home: &std::path::Path) {
    if let Err(error) = tokio::fs::remove_dir_all(home).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(home = %home.display(), %error, "what a child process has left behind cannot be removed");
    }
}

impl Use {
    fn of(child: &Arc<Child>) -> Self {
        child.using().count += 1;
        Self(child.clone())
    }

    /// The way to its process, which is started by whoever needs it first.
    async fn link(&self, deadline: &Deadline) -> Result<&StdioLink, UpstreamError> {
        let started = tokio::time::timeout(PATIENCE, self.0.link.get_or_try_init(|| self.0.start()));
        tokio::select! {
            started = started => started.unwrap_or(Err(UpstreamError::Busy)),
            () = deadline.passed() => Err(UpstreamError::TimedOut { after: deadline.timeout() }),
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut using = self.0.using();
        using.count -= 1;
        using.last = Instant::now();
    }
}

#[cfg(test)]
mod tests;
