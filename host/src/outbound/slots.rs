//! How many fetches run and wait at once: in all, and for each host.
//!
//! Targets that an operator vouches for have their own slots, so that strangers' slow hosts cannot keep an identity
//! provider waiting. Who finds no place to wait is refused at once; how long one waits is the fetch's own time limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::Host;

/// Fetches that run at once in one lane, and those that run or wait.
const IN_ALL: (usize, usize) = (64, 512);
/// The same for one host. A flood of fetches of one slow host leaves most slots to others.
pub(super) const PER_HOST: (usize, usize) = (8, 64);

/// Whose URL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Operator,
    Stranger,
}

/// All slots of a fetcher.
#[derive(Debug)]
pub(super) struct Slots {
    operator: Gate,
    stranger: Gate,
    hosts: Mutex<HashMap<Host, Weak<Gate>>>,
}

/// A fetch's right to run, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _permits: [OwnedSemaphorePermit; 4],
    /// Keeps the host's gate in the map.
    _host: Arc<Gate>,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { operator: Gate::new(IN_ALL), stranger: Gate::new(IN_ALL), hosts: Mutex::default() }
    }

    /// Waits for a slot; `None` if too many wait already.
    pub(super) async fn enter(&self, lane: Lane, host: &Host) -> Option<Slot> {
        let lane = match lane {
            Lane::Operator => &self.operator,
            Lane::Stranger => &self.stranger,
        };
        let lane_place = lane.place()?;
        let host = self.host(host);
        let host_place = host.place()?;
        // The host first: who waits for a busy host takes no slot from others.
        let host_slot = host.slot().await?;
        let lane_slot = lane.slot().await?;
        Some(Slot { _permits: [lane_place, host_place, host_slot, lane_slot], _host: host })
    }

    fn host(&self, host: &Host) -> Arc<Gate> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = hosts.get(host).and_then(Weak::upgrade) {
            return gate;
        }
        // Places bound the live hosts of both lanes, so that this frees at least half.
        if hosts.len() >= 4 * IN_ALL.1 {
            hosts.retain(|_, gate| gate.strong_count() > 0);
        }
        let gate = Arc::new(Gate::new(PER_HOST));
        hosts.insert(host.clone(), Arc::downgrade(&gate));
        gate
    }
}

/// Slots to run in, and places for those who run or wait.
#[derive(Debug)]
struct Gate {
    slots: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Gate {
    fn new((slots, places): (usize, usize)) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots)), places: Arc::new(Semaphore::new(places)) }
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn host(number: usize) -> Host {
        Host::parse(&format!("h{number}.example")).unwrap()
    }

    fn enter_now(slots: &Slots, lane: Lane, host: &Host) -> Option<Slot> {
        slots.enter(lane, host).now_or_never().flatten()
    }

    #[test]
    fn a_busy_host_keeps_its_own_callers_waiting_and_nobody_else() {
        let slots = Slots::new();
        let (busy, other) = (host(0), host(1));
        let held: Vec<Slot> =
            (0..PER_HOST.0).map(|_| enter_now(&slots, Lane::Stranger, &busy).expect("a free slot")).collect();
        assert!(slots.enter(Lane::Stranger, &busy).now_or_never().is_none(), "one more waits");
        assert!(enter_now(&slots, Lane::Stranger, &other).is_some());
        drop(held);
        assert!(enter_now(&slots, Lane::Stranger, &busy).is_some());
    }

    #[test]
    fn beyond_the_places_of_a_host_callers_are_refused() {
        let slots = Slots::new();
        let busy = host(0);
        let mut waiting: Vec<_> = (0..PER_HOST.1).map(|_| Box::pin(slots.enter(Lane::Stranger, &busy))).collect();
        let held: Vec<Slot> = waiting.iter_mut().filter_map(|enter| enter.now_or_never().flatten()).collect();
        assert_eq!(held.len(), PER_HOST.0);
        let refused = slots.enter(Lane::Stranger, &busy).now_or_never();
        assert!(refused.expect("an answer at once").is_none());
    }

    #[test]
    fn strangers_take_no_slot_of_the_operator() {
        let slots = Slots::new();
        let held: Vec<Slot> =
            (0..IN_ALL.0).map(|at| enter_now(&slots, Lane::Stranger, &host(at)).expect("a free slot")).collect();
        assert!(slots.enter(Lane::Stranger, &host(IN_ALL.0)).now_or_never().is_none(), "one more waits");
        assert!(enter_now(&slots, Lane::Operator, &host(IN_ALL.0)).is_some());
        drop(held);
    }

    #[test]
    fn hosts_are_forgotten() {
        let slots = Slots::new();
        for at in 0..10 * IN_ALL.1 {
            assert!(enter_now(&slots, Lane::Stranger, &host(at)).is_some());
        }
        assert!(slots.hosts.lock().unwrap().len() <= 4 * IN_ALL.1);
    }
}
