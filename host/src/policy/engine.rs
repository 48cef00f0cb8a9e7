//! The wasmtime engines: their settings and their pools of instance slots.
//!
//! One [`Engine`] serves all policies for the life of the process. Inside it are several of wasmtime's: a small one for
//! nearly all policies, a large one for what interpreted languages come as, and one beside each of them for drafts: code
//! that runs a few times while a policy is loaded, and is compiled in a hurry. All but the first are set up when they
//! are first needed. Everything that guest code may do is bounded here or by the store that a call runs in
//! ([`super::instance`]): no WASI, no threads, no SIMD, no more than so much memory. There is no WebAssembly feature
//! whose compiler support we do not need.
//!
//! Invariant: while anything runs guest code, its engine's ticker ticks ([`super::ticker`]). Modules hold their
//! [`Engine`], and the tickers end with the last of them.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Inlining, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy};

use super::cache::CodeCache;
use super::imports;
use super::instance::HostState;
use super::ticker::{Clock, Ticker};
use super::workers::Workers;
use crate::env::Env;

/// Most memory that a binding may give to a policy of ordinary size.
pub const MAX_MEMORY_BYTES: usize = SMALL.memory_bytes;
/// Most memory that a binding may give to a large policy.
pub const MAX_LARGE_MEMORY_BYTES: usize = LARGE.memory_bytes;

/// What one policy may have in an engine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) memory_bytes: usize,
    pub(super) core_instances: u32,
    pub(super) memories: u32,
    pub(super) tables: u32,
    /// Elements of one table.
    pub(super) table_elements: usize,
    /// Bytes of the bookkeeping of all its core instances together.
    instance_bytes: usize,
    /// Depth of the guest's call stack, in bytes.
    stack_bytes: usize,
    /// Memory of a slot that is restored in place instead of being given back to the operating system. What a policy
    /// changes beyond that costs page faults at its next call.
    memory_kept_bytes: usize,
    table_kept_bytes: usize,
    /// Whether instructions are counted, which makes everything slower.
    pub(super) counts: bool,
}

/// For nearly all policies.
pub(super) const SMALL: Capacity = Capacity {
    memory_bytes: 64 << 20,
    core_instances: 16,
    memories: 1,
    tables: 8,
    table_elements: 20_000,
    instance_bytes: 1 << 20,
    stack_bytes: 256 << 10,
    memory_kept_bytes: 1 << 20,
    table_kept_bytes: 16 << 10,
    counts: false,
};

/// For interpreters of JavaScript and Python, and for the run-time system of Go.
pub(super) const LARGE: Capacity = Capacity {
    memory_bytes: 256 << 20,
    core_instances: 128,
    memories: 4,
    tables: 64,
    table_elements: 100_000,
    instance_bytes: 8 << 20,
    stack_bytes: 512 << 10,
    memory_kept_bytes: 16 << 20,
    table_kept_bytes: 1 << 20,
    counts: false,
};

/// The same for measuring.
const COUNTING_SMALL: Capacity = Capacity { counts: true, ..SMALL };
const COUNTING_LARGE: Capacity = Capacity { counts: true, ..LARGE };

/// Which of the two engines a module runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

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
    kind: Kind,
    env: Env,
    small: Runtime,
    large: OnceLock<Runtime>,
    /// By size.
    drafts: [OnceLock<Runtime>; 2],
    /// Held while one of them is set up.
    setting_up: Mutex<()>,
    workers: Workers,
    cache: Option<CodeCache>,
}

/// What an engine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Deciding, with slots for so many instances of small policies.
    Pooled(u32),
    /// Deciding, where there is no address space for a pool.
    Unpooled,
    /// Measuring.
    Counting,
}

/// One of wasmtime's engines and what goes with it.
pub(super) struct Runtime {
    pub(super) wasm: wasmtime::Engine,
    pub(super) linker: Linker<HostState>,
    pub(super) capacity: &'static Capacity,
    pub(super) env: Env,
    slots: Option<u32>,
    ticker: Ticker,
}

impl Engine {
    /// An engine with room for calls of `max_components` policies at once.
    ///
    /// Where the address space for the pool is refused, as in containers with strict overcommit, instances are
    /// allocated one by one, which is slower and equally safe.
    pub fn start(max_components: usize) -> Result<Self, EngineError> {
        Self::start_with(max_components, Env::system(), None)
    }

    /// The same with a clock and a random source of the caller's for policies that are granted them, and with a place
    /// for compiled code.
    pub fn start_with(max_components: usize, env: Env, cache: Option<CodeCache>) -> Result<Self, EngineError> {
        Self::of(Kind::Pooled(small_slots(max_components, cores())), env, cache)
    }

    /// An engine that counts instructions: for measuring, never for deciding.
    pub fn counting() -> Result<Self, EngineError> {
        Self::of(Kind::Counting, Env::system(), None)
    }

    #[cfg(test)]
    pub(super) fn without_pool() -> Result<Self, EngineError> {
        Self::of(Kind::Unpooled, Env::system(), None)
    }

    fn of(kind: Kind, env: Env, cache: Option<CodeCache>) -> Result<Self, EngineError> {
        let small = match kind {
            Kind::Pooled(slots) => Runtime::pooled(&SMALL, slots, env.clone())?,
            Kind::Unpooled => Runtime::start(&SMALL, None, OptLevel::Speed, env.clone())?,
            Kind::Counting => Runtime::start(&COUNTING_SMALL, None, OptLevel::Speed, env.clone())?,
        };
        // Where there was no address space for the small pool, there is none for the large one.
        let kind = if matches!(kind, Kind::Pooled(_)) && small.slots.is_none() { Kind::Unpooled } else { kind };
        let (large, drafts, setting_up) = (OnceLock::new(), Default::default(), Mutex::new(()));
        let workers = Workers::for_this_machine();
        Ok(Self(Arc::new(Shared { kind, env, small, large, drafts, setting_up, workers, cache })))
    }

    /// Slots for instances, or `None` where instances are allocated one by one.
    pub fn slots(&self) -> Option<u32> {
        let large = self.0.large.get().and_then(|large| large.slots).unwrap_or(0);
        self.0.small.slots.map(|slots| slots + large)
    }

    /// Slots that hold an instance right now, where there is a pool.
    pub fn slots_in_use(&self) -> Option<u64> {
        let in_use = |runtime: &Runtime| Some(runtime.wasm.pooling_allocator_metrics()?.component_instances());
        Some(in_use(&self.0.small)? + self.0.large.get().and_then(in_use).unwrap_or(0))
    }

    /// Where policies run that may take long.
    pub(super) fn workers(&self) -> &Workers {
        &self.0.workers
    }

    pub(super) fn cache(&self) -> Option<&CodeCache> {
        self.0.cache.as_ref()
    }

    /// Where modules of this size decide.
    pub(super) fn runtime(&self, size: Size) -> Result<&Runtime, EngineError> {
        let env = || self.0.env.clone();
        match (size, self.0.kind) {
            (Size::Small, _) => Ok(&self.0.small),
            (Size::Large, Kind::Pooled(_)) => {
                self.set_up(&self.0.large, || Runtime::pooled(&LARGE, large_slots(cores()), env()))
            }
            (Size::Large, Kind::Unpooled) => {
                self.set_up(&self.0.large, || Runtime::start(&LARGE, None, OptLevel::Speed, env()))
            }
            (Size::Large, Kind::Counting) => {
                self.set_up(&self.0.large, || Runtime::start(&COUNTING_LARGE, None, OptLevel::Speed, env()))
            }
        }
    }

    /// Where modules of this size are tried out while they are loaded. There is no pool here, and code is compiled fast
    /// rather than to be fast.
    pub(super) fn draft(&self, size: Size) -> Result<&Runtime, EngineError> {
        let capacity = match size {
            Size::Small => &SMALL,
            Size::Large => &LARGE,
        };
        let start = || Runtime::start(capacity, None, OptLevel::None, self.0.env.clone());
        self.set_up(&self.0.drafts[size as usize], start)
    }

    fn set_up<'a>(
        &self,
        place: &'a OnceLock<Runtime>,
        start: impl FnOnce() -> Result<Runtime, EngineError>,
    ) -> Result<&'a Runtime, EngineError> {
        if let Some(runtime) = place.get() {
            return Ok(runtime);
        }
        let _setting_up = self.0.setting_up.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = place.get() {
            return Ok(runtime);
        }
        let runtime = start()?;
        Ok(place.get_or_init(|| runtime))
    }

    /// Whether both are one engine: what one compiled, the other may run.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("slots", &self.slots()).finish_non_exhaustive()
    }
}

impl Runtime {
    fn pooled(capacity: &'static Capacity, slots: u32, env: Env) -> Result<Self, EngineError> {
        match Self::start(capacity, Some(slots), OptLevel::Speed, env.clone()) {
            Err(EngineError::Settings(error)) => {
                let error = format!("{error:#}");
                tracing::warn!(slots, error, "no pool for policy instances; policies run without it, and slower");
                Self::start(capacity, None, OptLevel::Speed, env)
            }
            started => started,
        }
    }

    fn start(capacity: &'static Capacity, slots: Option<u32>, effort: OptLevel, env: Env) -> Result<Self, EngineError> {
        let wasm = wasmtime::Engine::new(&settings(capacity, slots, effort)).map_err(EngineError::Settings)?;
        let linker = imports::linker(&wasm).map_err(EngineError::Settings)?;
        let ticker = Ticker::start(wasm.weak()).map_err(EngineError::Ticker)?;
        Ok(Self { wasm, linker, capacity, env, slots, ticker })
    }

    /// What runs of policies need to be bounded in time.
    pub(super) fn clock(&self) -> Clock {
        self.ticker.clock()
    }
}

pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Enough that each worker thread can run any policy in a slot that has held it before.
fn small_slots(max_components: usize, cores: usize) -> u32 {
    const LEAST: usize = 64;
    const MOST: usize = 4096;
    let wanted = max_components.saturating_mul(5).div_ceil(4).saturating_mul(cores.min(16));
    u32::try_from(wanted.clamp(LEAST, MOST)).expect("the number is at most 4096")
}

/// Enough for as many runs as there are turns, for as many instances that are kept for reuse, and for loading.
fn large_slots(cores: usize) -> u32 {
    u32::try_from((4 * cores).clamp(8, 64)).expect("the number is at most 64")
}

fn settings(capacity: &Capacity, slots: Option<u32>, effort: OptLevel) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .consume_fuel(capacity.counts)
        .max_wasm_stack(capacity.stack_bytes)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(effort)
        .cranelift_nan_canonicalization(true)
        // There is nothing to gain, guests come optimised, and while it is on the compiler keeps some 300 KiB for each
        // function of the largest module for as long as the engine lives.
        .compiler_inlining(Inlining::No)
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
        .memory_guaranteed_dense_image_size(capacity.memory_bytes as u64)
        .table_lazy_init(true);
    if let Some(slots) = slots {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(capacity, slots)));
    }
    config
}

fn pool(capacity: &Capacity, slots: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // Of what a component may have several, most have few.
    pool.total_component_instances(slots)
        .total_core_instances(capacity.core_instances * slots / 2)
        .total_memories(slots)
        .total_tables(capacity.tables * slots / 2)
        .max_core_instances_per_component(capacity.core_instances)
        .max_memories_per_component(capacity.memories)
        .max_tables_per_component(capacity.tables)
        .max_memories_per_module(1)
        .max_tables_per_module(capacity.tables)
        .max_memory_size(capacity.memory_bytes)
        .table_elements(capacity.table_elements)
        .max_component_instance_size(capacity.instance_bytes)
        .max_core_instance_size(capacity.instance_bytes)
        .linear_memory_keep_resident(capacity.memory_kept_bytes)
        .table_keep_resident(capacity.table_kept_bytes)
        .max_unused_warm_slots(slots)
        .decommit_batch_size(1)
        .pagemap_scan(Enabled::Auto);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_grows_with_policies_and_cores_within_bounds() {
        for (components, cores, expected) in [(64, 2, 160), (1, 1, 64), (64, 64, 1280), (100_000, 64, 4096)] {
            assert_eq!(small_slots(components, cores), expected, "{components} components on {cores} cores");
        }
        assert_eq!([1, 2, 8, 100].map(large_slots), [8, 8, 32, 64]);
    }

    #[test]
    fn the_large_engine_is_set_up_once_and_when_it_is_needed() {
        let engine = Engine::start(1).unwrap();
        let slots = engine.slots().expect("tests run where there is address space for the pool");
        assert!(std::ptr::eq(engine.runtime(Size::Small).unwrap(), &raw const engine.0.small));
        let large = engine.runtime(Size::Large).unwrap();
        assert_eq!(large.capacity, &LARGE);
        assert!(std::ptr::eq(large, engine.runtime(Size::Large).unwrap()));
        assert_eq!(engine.slots(), Some(slots + large_slots(cores())));
        assert_eq!(engine.slots_in_use(), Some(0));
    }

    #[test]
    fn the_tickers_end_with_the_last_engine() {
        let engine = Engine::start(1).unwrap();
        let weak = [Size::Small, Size::Large].map(|size| {
            assert!(std::ptr::eq(engine.draft(size).unwrap(), engine.draft(size).unwrap()));
            [engine.runtime(size).unwrap().wasm.weak(), engine.draft(size).unwrap().wasm.weak()]
        });
        let weak = weak.as_flattened();
        let other = engine.clone();
        drop(engine);
        assert!(weak.iter().all(|weak| weak.upgrade().is_some()));
        drop(other);
        // Dropping waits for the threads, so that nothing holds the engines any more.
        assert!(weak.iter().all(|weak| weak.upgrade().is_none()));
    }
}
