//! The wasmtime engine: its settings, the pool of instance slots, and the thread that makes time pass for guests.
//!
//! One engine serves all policies for the life of the process. Everything that guest code may do is bounded here
//! or by the store that a call runs in ([`super::instance`]): no WASI, no threads, no SIMD, no more than
//! [`MAX_MEMORY_BYTES`] of memory. There is no WebAssembly feature whose compiler support we do not need.
//!
//! Invariant: while anything runs guest code, the ticker ticks; it sleeps while nothing does. Modules hold their
//! [`Engine`], and the ticker ends with the last of them.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, EngineWeak, Inlining, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
};

use super::instance::{self, HostState};

/// Most memory that a binding may give to its policy.
pub const MAX_MEMORY_BYTES: usize = 64 << 20;

/// Core instances that one component may have.
pub(super) const MAX_CORE_INSTANCES: u32 = 16;
/// Memories that one component may have.
pub(super) const MAX_MEMORIES: u32 = 1;
/// Tables that one component may have.
pub(super) const MAX_TABLES: u32 = 8;
/// Elements that one table may have.
pub(super) const MAX_TABLE_ELEMENTS: usize = 20_000;

/// How often the epoch advances: the grain of every time limit.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without any run after which the thread sleeps until the next one.
const IDLE_TICKS: u32 = 50;

/// Memory of a slot that is restored in place instead of being given back to the operating system.
const MEMORY_KEPT_BYTES: usize = 1 << 20;
const TABLE_KEPT_BYTES: usize = 16 << 10;

/// Why no policy can run at all.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the policy engine cannot be set up")]
    Settings(#[source] wasmtime::Error),
    #[error("the policy engine's clock thread cannot be started")]
    Ticker(#[source] std::io::Error),
}

/// Compiles and runs policies. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    wasm: wasmtime::Engine,
    linker: Linker<HostState>,
    slots: Option<u32>,
    ticker: Ticker,
}

impl Engine {
    /// An engine with room for calls of `max_components` policies at once.
    ///
    /// Where the address space for the pool is refused, as in containers with strict overcommit, instances are
    /// allocated one by one, which is slower and equally safe.
    pub fn start(max_components: usize) -> Result<Self, EngineError> {
        let slots = slots(max_components, thread::available_parallelism().map_or(1, NonZeroUsize::get));
        match Self::with_slots(Some(slots)) {
            Err(EngineError::Settings(error)) => {
                let error = format!("{error:#}");
                tracing::warn!(slots, error, "no pool for policy instances; policies run without it, and slower");
                Self::with_slots(None)
            }
            started => started,
        }
    }

    pub(super) fn with_slots(slots: Option<u32>) -> Result<Self, EngineError> {
        let wasm = wasmtime::Engine::new(&settings(slots)).map_err(EngineError::Settings)?;
        let linker = instance::linker(&wasm).map_err(EngineError::Settings)?;
        let ticker = Ticker::start(wasm.weak()).map_err(EngineError::Ticker)?;
        Ok(Self(Arc::new(Shared { wasm, linker, slots, ticker })))
    }

    /// Slots for instances, or `None` where instances are allocated one by one.
    pub fn slots(&self) -> Option<u32> {
        self.0.slots
    }

    /// Slots that hold an instance right now, where there is a pool.
    pub fn slots_in_use(&self) -> Option<u64> {
        self.0.wasm.pooling_allocator_metrics().map(|metrics| metrics.component_instances())
    }

    pub(super) fn wasm(&self) -> &wasmtime::Engine {
        &self.0.wasm
    }

    /// What runs of policies need to be bounded in time.
    pub(super) fn clock(&self) -> Clock {
        self.0.ticker.clock.clone()
    }

    pub(super) fn linker(&self) -> &Linker<HostState> {
        &self.0.linker
    }

    /// Whether both are one engine: what one compiled, the other may run.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("slots", &self.0.slots).finish_non_exhaustive()
    }
}

/// Enough that each worker thread can run any policy in a slot that has held it before.
fn slots(max_components: usize, cores: usize) -> u32 {
    const LEAST: usize = 64;
    const MOST: usize = 4096;
    let wanted = max_components.saturating_mul(5).div_ceil(4).saturating_mul(cores.min(16));
    u32::try_from(wanted.clamp(LEAST, MOST)).expect("the number is at most 4096")
}

fn settings(slots: Option<u32>) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .consume_fuel(false)
        .max_wasm_stack(256 << 10)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .compiler_inlining(Inlining::Yes)
        .generate_address_map(true)
        .native_unwind_info(true);
    config
        .wasm_simd(false)
        .wasm_relaxed_simd(false)
        .relaxed_simd_deterministic(true)
        .wasm_tail_call(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .wasm_extended_const(true);
    config
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .guard_before_linear_memory(true)
        .memory_may_move(false)
        .memory_init_cow(true)
        .force_memory_init_memfd(true)
        .memory_guaranteed_dense_image_size(MAX_MEMORY_BYTES as u64)
        .table_lazy_init(true);
    if let Some(slots) = slots {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)));
    }
    config
}

fn pool(slots: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(8 * slots)
        .total_memories(slots)
        .total_tables(4 * slots)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memories_per_module(1)
        .max_tables_per_module(2)
        .max_memory_size(MAX_MEMORY_BYTES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .linear_memory_keep_resident(MEMORY_KEPT_BYTES)
        .table_keep_resident(TABLE_KEPT_BYTES)
        .max_unused_warm_slots(slots)
        .decommit_batch_size(16)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The thread that advances the epoch while policies run. It ends, and is waited for, when this is dropped.
struct Ticker {
    clock: Clock,
    thread: Option<JoinHandle<()>>,
}

/// Keeps the epoch advancing as long as anything runs, and the thread asleep otherwise.
#[derive(Clone)]
pub(super) struct Clock(Arc<Activity>);

#[derive(Default)]
struct Activity {
    running: AtomicUsize,
    /// The thread waits to be woken.
    asleep: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<Thread>,
}

/// A run under way. Dropped when it is over.
pub(super) struct Running(Clock);

impl Clock {
    /// Says that a run begins.
    pub(super) fn begin(&self) -> Running {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        if self.0.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(self.clone())
    }

    fn wake(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let clock = Clock(Arc::default());
        let ticking = clock.clone();
        let thread = thread::Builder::new().name("policy-clock".to_owned()).spawn(move || tick(&engine, &ticking.0))?;
        Ok(Self { clock, thread: Some(thread) })
    }
}

/// Advances the epoch until it is stopped or the engine is gone.
fn tick(engine: &EngineWeak, activity: &Activity) {
    // Nobody else sets it.
    _ = activity.thread.set(thread::current());
    let mut idle_ticks = 0;
    while !activity.stopped.load(Ordering::SeqCst) {
        if activity.running.load(Ordering::SeqCst) > 0 {
            idle_ticks = 0;
        } else {
            idle_ticks += 1;
        }
        if idle_ticks > IDLE_TICKS {
            // Whoever begins after this looks at `asleep`; whoever began before it is seen here.
            activity.asleep.store(true, Ordering::SeqCst);
            if activity.running.load(Ordering::SeqCst) == 0 && !activity.stopped.load(Ordering::SeqCst) {
                thread::park();
            }
            activity.asleep.store(false, Ordering::SeqCst);
            idle_ticks = 0;
            continue;
        }
        thread::park_timeout(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.clock.0.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread does nothing that panics, and there is nobody to tell if it did.
            let _ = thread.join();
        }
    }
}

/// The number of ticks after which a run of `limit` is certainly over. The first tick may come at once, so one
/// more is given.
pub(super) fn ticks(limit: Duration) -> u64 {
    let ticks = limit.as_micros().div_ceil(TICK.as_micros());
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_grows_with_policies_and_cores_within_bounds() {
        for (components, cores, expected) in [(64, 2, 160), (1, 1, 64), (64, 64, 1280), (100_000, 64, 4096)] {
            assert_eq!(slots(components, cores), expected, "{components} components on {cores} cores");
        }
    }

    #[test]
    fn a_limit_is_never_cut_short_by_the_grain() {
        for (millis_tenths, expected) in [(0, 1), (1, 2), (10, 2), (11, 3), (50, 6)] {
            assert_eq!(ticks(Duration::from_micros(millis_tenths * 100)), expected, "{millis_tenths}");
        }
    }

    #[test]
    fn the_clock_wakes_for_a_run_however_long_it_slept() {
        let engine = Engine::start(1).unwrap();
        let clock = engine.clock();
        for _ in 0..3 {
            while !clock.0.asleep.load(Ordering::SeqCst) {
                thread::park_timeout(TICK);
            }
            let running = clock.begin();
            while clock.0.asleep.load(Ordering::SeqCst) {
                thread::park_timeout(TICK);
            }
            drop(running);
        }
    }

    #[test]
    fn the_ticker_ends_with_the_last_engine() {
        let engine = Engine::start(1).unwrap();
        let weak = engine.wasm().weak();
        let other = engine.clone();
        drop(engine);
        assert!(weak.upgrade().is_some());
        drop(other);
        // Dropping waits for the thread, so that nothing holds the engine any more.
        assert!(weak.upgrade().is_none());
    }
}
