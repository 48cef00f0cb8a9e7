//! The sessions with an upstream, one for each party: opened by the first who needs one while others wait, ended when
//! they are no longer used, bounded in number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::once::Once;
use super::opening::NotOpened;
use super::session::Session;
use crate::tasks::Tasks;
use crate::upstream::{PartyKey, UpstreamError};

/// How long requests under way may still take once their session is to end.
const ENDING_PATIENCE: Duration = Duration::from_secs(10 * 60);

type Slot = Arc<Once<Arc<Session>, NotOpened>>;

pub(super) struct Sessions {
    slots: Mutex<HashMap<PartyKey, Slot>>,
    limit: usize,
    idle: Duration,
}

impl Sessions {
    /// At most `limit` sessions, each ended after `idle` without use.
    pub(super) fn new(limit: u64, idle: Duration) -> Self {
        Self { slots: Mutex::default(), limit: usize::try_from(limit).unwrap_or(usize::MAX), idle }
    }

    /// The party's session, opened by `open` if it has none.
    pub(super) async fn get<F>(
        &self,
        key: &PartyKey,
        tasks: &Tasks,
        open: impl FnOnce() -> F,
    ) -> Result<Arc<Session>, NotOpened>
    where
        F: Future<Output = Result<Arc<Session>, NotOpened>> + Send + 'static,
    {
        let (slot, evicted) = self.slot(key)?;
        if let Some(evicted) = evicted {
            close(evicted);
        }
        let is_open = |session: &Arc<Session>| {
            session.touch();
            !session.over.is_cancelled()
        };
        slot.get(tasks, is_open, open).await.unwrap_or(Err(UpstreamError::Cancelled.into()))
    }

    /// The party's session, if it is open.
    pub(super) fn known(&self, key: &PartyKey) -> Option<Arc<Session>> {
        let session = self.slots().get(key)?.known()?;
        (!session.over.is_cancelled()).then_some(session)
    }

    /// Forgets a session that the upstream forgot. Those that use it finish what they can.
    pub(super) fn forget(&self, gone: &Arc<Session>) {
        if let Some(slot) = self.slots().get(&gone.key) {
            slot.forget(|session| Arc::ptr_eq(session, gone));
        }
    }

    /// Takes a session out, which then is to be closed.
    pub(super) fn take(&self, key: &PartyKey) -> Option<Arc<Session>> {
        self.slots().remove(key)?.known()
    }

    /// Takes all out.
    pub(super) fn take_all(&self) -> Vec<Arc<Session>> {
        self.slots().drain().filter_map(|(_, slot)| slot.known()).collect()
    }

    /// Takes out what was not used for a while, and forgets what never came to be.
    pub(super) fn sweep(&self) -> Vec<Arc<Session>> {
        let Some(then) = Instant::now().checked_sub(self.idle) else { return Vec::new() };
        let mut idle = Vec::new();
        self.slots().retain(|_, slot| match slot.known() {
            Some(session) if session.over.is_cancelled() => false,
            Some(session) if session.is_idle_since(then) => {
                idle.push(session);
                false
            }
            Some(_) => true,
            None => !slot.is_idle(),
        });
        idle
    }

    /// How often to sweep.
    pub(super) fn sweep_interval(&self) -> Duration {
        (self.idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(30))
    }

    /// The party's place, and the session that had to make room for it.
    fn slot(&self, key: &PartyKey) -> Result<(Slot, Option<Arc<Session>>), UpstreamError> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(key) {
            return Ok((slot.clone(), None));
        }
        let mut evicted = None;
        if slots.len() >= self.limit {
            let now = Instant::now();
            let oldest = slots
                .iter()
                .filter_map(|(key, slot)| match slot.known() {
                    Some(session) => session.is_idle_since(now).then(|| (session.last_used(), key.clone())),
                    None => slot.is_idle().then(|| (now, key.clone())),
                })
                .min_by_key(|(last_used, _)| *last_used);
            let (_, oldest) = oldest.ok_or(UpstreamError::Busy)?;
            evicted = slots.remove(&oldest).and_then(|slot| slot.known());
        }
        Ok((slots.entry(key.clone()).or_default().clone(), evicted))
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<PartyKey, Slot>> {
        // Nothing panics while holding it, and entries come and go whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a session as soon as what is under way in it has finished, or has had its time to.
pub(super) fn close(session: Arc<Session>) {
    let tasks = session.peer.tasks.clone();
    tasks.clone().spawn(async move {
        tokio::select! {
            _ = tokio::time::timeout(ENDING_PATIENCE, session.unused()) => {}
            () = tasks.stopping().cancelled() => {}
        }
        session.end().await;
    });
}
