//! One call of one policy: a fresh store, a fresh instance, its configuration, the hook, and nothing left behind.
//!
//! Every call has limits of its own: processor time, looked at when the engine's epoch says so, memory and tables by a limiter, what the guest
//! may hand to the host by hostcall fuel, its log lines by number and length. How a run went wrong is told by
//! wasmtime's typed errors and never by their texts. A store that has trapped is dropped, never used again.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Linker, Lower, WasmStr,
};
use wasmtime::{
    PoolConcurrencyLimitError, ResourceLimiter, Store, StoreContextMut, Trap, UpdateDeadline, WasmBacktrace,
};

use super::contract::{self, configuration, log, tool_call, tool_result, types};
use super::cpu::Moment;
use super::decision::Failure;
use super::engine::{self, MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use super::text::one_line;

/// Most bytes that a guest may hand to the host in one answer or log line.
const ANSWER_BYTES: usize = 1 << 20;
/// The contract has no resources, so that a guest needs no handles at all.
const MAX_HANDLES: usize = 64;
/// Longest log line of a guest.
const LOG_LINE_BYTES: usize = 2 << 10;
/// Most log lines of a guest in one call.
const LOG_LINES: u32 = 32;

/// For whom and how long a policy runs.
#[derive(Debug)]
pub(super) struct Run {
    /// The binding's name, for the log.
    pub(super) policy: Arc<str>,
    /// What the log calls this decision.
    pub(super) decision: Arc<str>,
    pub(super) limit: Duration,
    pub(super) memory_bytes: usize,
}

/// A component that is ready to be instantiated, and where its functions are.
pub(super) struct Callable {
    pub(super) pre: InstancePre<HostState>,
    pub(super) functions: Functions,
    pub(super) clock: engine::Clock,
}

/// The exports that the host calls. A hook that is `None` is not exported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Functions {
    pub(super) describe: ComponentExportIndex,
    pub(super) configure: ComponentExportIndex,
    pub(super) filter: Option<ComponentExportIndex>,
    pub(super) before: Option<ComponentExportIndex>,
    pub(super) after: Option<ComponentExportIndex>,
}

/// What `configure` answers: warnings, or why the configuration cannot be used.
pub(super) type Configured = Result<Vec<String>, Vec<configuration::Problem>>;

pub(super) type FilterParams<'a> = (&'a types::Context<'a>, &'a [types::Tool<'a>]);
pub(super) type BeforeParams<'a> = (&'a types::Context<'a>, &'a tool_call::Request<'a>);
pub(super) type AfterParams<'a> = (&'a types::Context<'a>, &'a tool_result::Response<'a>);

impl Callable {
    /// A new instance in a store of its own.
    pub(super) fn instantiate(&self, run: &Run) -> Result<(Store<HostState>, Instance), Failure> {
        let log = GuestLog { policy: run.policy.clone(), decision: run.decision.clone(), lines: LOG_LINES };
        let limits = Limits { memory_bytes: run.memory_bytes };
        let mut store = Store::new(self.pre.engine(), HostState { limits, log, _running: self.clock.begin() });
        store.limiter(|state| &mut state.limits);
        store.set_epoch_deadline(engine::ticks(run.limit));
        let (begun, limit) = (Moment::now(), run.limit);
        store.epoch_deadline_callback(move |_| match begun.left_of(limit) {
            Some(left) => Ok(UpdateDeadline::Continue(engine::ticks(left))),
            None => Err(Trap::Interrupt.into()),
        });
        store.set_hostcall_fuel(ANSWER_BYTES);
        store.set_max_component_handles(MAX_HANDLES);
        let instance = self.pre.instantiate(&mut store).map_err(|error| match failure(&error, run) {
            Failure::InvalidAnswer { what: message } => Failure::NotStarted { message },
            failure => failure,
        })?;
        Ok((store, instance))
    }
}

impl std::fmt::Debug for Callable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callable").field("functions", &self.functions).finish_non_exhaustive()
    }
}

/// A policy with its configuration: what a hook is called on.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) callable: Arc<Callable>,
    /// Handed to `configure` before the hook, in the same instance and within the same time.
    pub(super) config: Arc<str>,
}

impl Prepared {
    /// Calls one hook in an instance of its own.
    pub(super) fn call<Params, Answer>(
        &self,
        function: &ComponentExportIndex,
        params: Params,
        run: &Run,
    ) -> Result<Answer, Failure>
    where
        Params: ComponentNamedList + Lower,
        Answer: Lift + 'static,
    {
        let (mut store, instance) = self.callable.instantiate(run)?;
        // What it has to say about its configuration was heard when it was loaded.
        let lines = mem::replace(&mut store.data_mut().log.lines, 0);
        let configure = &self.callable.functions.configure;
        let configured: Configured = call(&mut store, &instance, configure, (&*self.config,), run)?;
        if let Err(problems) = configured {
            let message = problems.first().map_or("no reason given", |problem| problem.message.as_str());
            return Err(Failure::ConfigureRefused { message: one_line(message, 256) });
        }
        store.data_mut().log.lines = lines;
        call(&mut store, &instance, function, params, run)
    }
}

/// Calls one function.
pub(super) fn call<Params, Answer>(
    store: &mut Store<HostState>,
    instance: &Instance,
    function: &ComponentExportIndex,
    params: Params,
    run: &Run,
) -> Result<Answer, Failure>
where
    Params: ComponentNamedList + Lower,
    Answer: Lift + 'static,
{
    let call = || -> wasmtime::Result<(Answer,)> {
        instance.get_typed_func::<Params, (Answer,)>(&mut *store, function)?.call(&mut *store, params)
    };
    call().map(|(answer,)| answer).map_err(|error| failure(&error, run))
}

/// What the host keeps for one instance.
pub(super) struct HostState {
    limits: Limits,
    log: GuestLog,
    _running: engine::Running,
}

/// The imports that a policy may have: `log`, and nothing else.
pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    linker.instance(&contract::interface("log"))?.func_wrap("write", write_log)?;
    Ok(linker)
}

/// A guest's log, for one call.
struct GuestLog {
    policy: Arc<str>,
    decision: Arc<str>,
    /// Lines that it may still write.
    lines: u32,
}

fn write_log(
    mut store: StoreContextMut<'_, HostState>,
    (level, message): (log::Level, WasmStr),
) -> wasmtime::Result<()> {
    if store.data().log.lines == 0 {
        return Ok(());
    }
    let line = one_line(&message.to_str(&store)?, LOG_LINE_BYTES);
    let log = &mut store.data_mut().log;
    log.lines -= 1;
    let (policy, decision) = (&*log.policy, &*log.decision);
    match level {
        log::Level::Debug => tracing::debug!(policy, decision, "{line}"),
        log::Level::Info => tracing::info!(policy, decision, "{line}"),
        log::Level::Warn => tracing::warn!(policy, decision, "{line}"),
        log::Level::Error => tracing::error!(policy, decision, "{line}"),
    }
    Ok(())
}

/// Memory and tables of one store.
struct Limits {
    memory_bytes: usize,
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
        if desired > MAX_TABLE_ELEMENTS {
            return Err(Overrun::Table(MAX_TABLE_ELEMENTS).into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

/// What went wrong, by the type of the error. What is no trap, no limit and no lack of slots is an answer, or a
/// use of the canonical ABI, that the host could not accept.
fn failure(error: &wasmtime::Error, run: &Run) -> Failure {
    if let Some(overrun) = error.downcast_ref::<Overrun>() {
        return match overrun {
            Overrun::Memory(limit) => Failure::MemoryLimit { limit_bytes: *limit },
            Overrun::Table(limit) => Failure::TableLimit { limit: *limit },
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
