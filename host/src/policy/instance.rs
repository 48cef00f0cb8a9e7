//! One instance of a policy: a store of its own, with limits, and what is known of why a run in it failed.
//!
//! Every run has limits of its own: processor time, looked at when the engine's epoch says so; memory and tables by a
//! limiter; what the guest may hand to the host by hostcall fuel; its log lines by number and length. How a run went
//! wrong is told by wasmtime's typed errors and never by their texts. A store that has trapped is dropped, never used
//! again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{
    PoolConcurrencyLimitError, ResourceLimiter, Store, StoreContextMut, Trap, UpdateDeadline, WasmBacktrace,
};

use super::counters::{BindingCounters, Charges};
use super::cpu::Budget;
use super::decision::Failure;
use super::engine::Capacity;
use super::imports::{Facilities, GuestLog, Imports, LOG_LINES, Refused};
use super::text::one_line;
use super::ticker;
use crate::config::Sets;
use crate::env::{Env, Timestamp};

/// Most bytes that a guest may hand to the host in one answer or log line.
const ANSWER_BYTES: usize = 1 << 20;
/// The contract has no resources, so that a guest needs no handles at all.
const MAX_HANDLES: usize = 64;
/// More than can be used up: where instructions are counted, they are not limited.
const FUEL: u64 = u64::MAX;

/// For whom and how long a policy runs, and what its imports answer from.
#[derive(Debug)]
pub(super) struct Run<'a> {
    /// The binding's name, for the log.
    pub(super) policy: &'a Arc<str>,
    /// What the log calls this decision.
    pub(super) decision: &'a Arc<str>,
    pub(super) limit: Duration,
    pub(super) memory_bytes: usize,
    /// When the decision is made.
    pub(super) now: Timestamp,
    pub(super) sets: &'a Arc<Sets>,
    pub(super) counters: Option<&'a BindingCounters>,
    pub(super) charges: &'a Charges,
    /// The policy's answer will not count; nor do what it takes from counters.
    pub(super) shadow: bool,
    pub(super) imports: Imports<'a>,
    /// Filled in when the run is over.
    pub(super) spent: Spent,
}

/// The processor time that a run took, to within a millisecond.
#[derive(Debug, Default)]
pub(super) struct Spent {
    nanos: AtomicU64,
    instructions: AtomicU64,
}

impl Spent {
    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// Instructions of the guest, where its engine counts them.
    pub(super) fn instructions(&self) -> u64 {
        self.instructions.load(Ordering::Relaxed)
    }

    fn set(&self, spent: Duration) {
        self.nanos.store(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What the host keeps for one instance.
pub(super) struct HostState {
    limits: Limits,
    budget: Budget,
    /// `None` where the module does not import it.
    pub(super) log: Option<GuestLog>,
    /// What the other imports answer from; `None` outside of a decision, and where the module imports none of them.
    pub(super) facilities: Option<Box<Facilities>>,
}

/// What of the host a module imports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    pub(super) log: bool,
    /// Any of `clock`, `random`, `counters` and `sets`.
    pub(super) facilities: bool,
}

/// An instance in a store of its own.
pub(super) struct Live {
    pub(super) store: Store<HostState>,
    pub(super) instance: Instance,
    wants: Wants,
}

impl Live {
    /// A new instance, in which everything but a hook may run.
    pub(super) fn start(
        pre: &InstancePre<HostState>,
        wants: Wants,
        capacity: &'static Capacity,
        run: &Run<'_>,
    ) -> Result<Self, Failure> {
        let limits = Limits { memory_bytes: run.memory_bytes, capacity };
        let log = wants.log.then(|| GuestLog::of(run));
        let state = HostState { limits, budget: Budget::of(run.limit), log, facilities: None };
        let mut store = Store::new(pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store: StoreContextMut<'_, HostState>| {
            match store.data_mut().budget.left() {
                Some(left) => Ok(UpdateDeadline::Continue(ticker::ticks(left))),
                None => Err(Trap::Interrupt.into()),
            }
        });
        store.set_hostcall_fuel(ANSWER_BYTES);
        store.set_max_component_handles(MAX_HANDLES);
        if capacity.counts {
            store.set_fuel(FUEL).expect("an engine that counts takes fuel");
        }
        match pre.instantiate(&mut store) {
            Ok(instance) => Ok(Self { store, instance, wants }),
            Err(error) => {
                run.spent.set(store.data().budget.spent());
                Err(match failure(&error, run) {
                    Failure::InvalidAnswer { what: message } => Failure::NotStarted { message },
                    failure => failure,
                })
            }
        }
    }

    /// Lets the instance be used once more, for another run.
    pub(super) fn rewind(&mut self, run: &Run<'_>) {
        let state = self.store.data_mut();
        state.limits.memory_bytes = run.memory_bytes;
        state.budget = Budget::of(run.limit);
        state.log = self.wants.log.then(|| GuestLog::of(run));
        self.store.set_epoch_deadline(1);
    }

    /// Makes available what only a decision has.
    pub(super) fn open(&mut self, run: &Run<'_>, env: &Env) {
        if self.wants.facilities {
            self.store.data_mut().facilities = Some(Box::new(Facilities::of(run, env)));
        }
    }

    /// Ends what [`Self::open`] began.
    pub(super) fn close(&mut self) {
        self.store.data_mut().facilities = None;
    }

    /// Lets the guest write as many log lines as it may in one call, or none.
    pub(super) fn hear(&mut self, heard: bool) {
        if let Some(log) = &mut self.store.data_mut().log {
            log.lines = if heard { LOG_LINES } else { 0 };
        }
    }

    /// Lets the guest hand this many bytes to the host at once.
    pub(super) fn take_up_to(&mut self, bytes: usize) {
        self.store.set_hostcall_fuel(bytes);
    }

    /// Says in `run` how long it took so far.
    pub(super) fn tell_time(&self, run: &Run<'_>) {
        run.spent.set(self.store.data().budget.spent());
        if self.store.data().limits.capacity.counts {
            let left = self.store.get_fuel().expect("an engine that counts takes fuel");
            run.spent.instructions.store(FUEL - left, Ordering::Relaxed);
        }
    }
}

/// Memory and tables of one store.
struct Limits {
    memory_bytes: usize,
    capacity: &'static Capacity,
}

/// What a guest wanted too much of. Growth beyond a limit ends the call instead of failing in the guest's hands,
/// so that the reason is known.
#[derive(Debug, thiserror::Error)]
enum Overrun {
    #[error("memory limit of {0} bytes")]
    Memory(usize),
    #[error("table limit of {0} elements")]
    Table(usize),
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.memory_bytes {
            return Err(Overrun::Memory(self.memory_bytes).into());
        }
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let most = self.capacity.table_elements;
        if desired > most {
            return Err(Overrun::Table(most).into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.capacity.core_instances as usize
    }

    fn tables(&self) -> usize {
        self.capacity.tables as usize
    }

    fn memories(&self) -> usize {
        self.capacity.memories as usize
    }
}

/// What went wrong, by the type of the error. What is no trap, no limit and no lack of slots is an answer, or a
/// use of the canonical ABI, that the host could not accept.
pub(super) fn failure(error: &wasmtime::Error, run: &Run<'_>) -> Failure {
    if let Some(overrun) = error.downcast_ref::<Overrun>() {
        return match overrun {
            Overrun::Memory(limit) => Failure::MemoryLimit { limit_bytes: *limit },
            Overrun::Table(limit) => Failure::TableLimit { limit: *limit },
        };
    }
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return match refused {
            Refused::Unavailable(import) => Failure::Unavailable { import },
            Refused::Misused { .. } => Failure::Trap { message: one_line(&refused.to_string(), 256) },
            Refused::Diverged(what) => Failure::Diverged { what: what.clone() },
        };
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Failure::Busy;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Failure::Timeout { limit: run.limit },
        Some(Trap::StackOverflow) => Failure::StackOverflow,
        Some(trap @ (Trap::InvalidChar | Trap::StringOutOfBounds | Trap::ListOutOfBounds)) => {
            Failure::invalid(trap.to_string())
        }
        Some(trap) => Failure::Trap { message: told(*trap, error.downcast_ref()) },
        None => Failure::invalid(one_line(&error.root_cause().to_string(), 256)),
    }
}

/// A trap and, if it has a name, the function that trapped.
fn told(trap: Trap, backtrace: Option<&WasmBacktrace>) -> String {
    let trap = trap.to_string();
    let trap = trap.strip_prefix("wasm trap: ").unwrap_or(&trap);
    let function = backtrace.and_then(|backtrace| backtrace.frames().first()?.func_name());
    match function {
        Some(function) => format!("{trap} in {}", one_line(function, 128)),
        None => trap.to_owned(),
    }
}
