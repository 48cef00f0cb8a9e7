//! Freezing: a module is configured once, and the state that it is in then becomes the state that it begins with.
//!
//! The component is instrumented so that its memories and globals can be read, compiled, instantiated and configured;
//! what they hold then is written into the component in place of what they held at first. An instance of the outcome
//! is a copy-on-write image of a configured policy: fresh for each decision, at no cost of configuring it.
//!
//! Not every module can be frozen: one that changes its tables cannot, nor one whose state is not all in memories and
//! numbers. Such a module runs as it is, and is configured in each new instance. Whatever goes wrong while freezing is
//! therefore a reason and never an error. Whether the frozen module answers as the other does is tried ([`agree`])
//! before it is used.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::Value;
use wasmtime::component::{Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::contract::manifest::{Case, Problem};
use super::counters::Charges;
use super::decision::{Failure, Hook};
use super::functions::Callable;
use super::imports::{Imports, Transcript};
use super::instance::{Live, Run, Spent};
use super::prepared::Prepared;
use super::rehearsal::Rehearsal;
use super::text::one_line;

/// Memory for reading out the state, over what the policy may have itself: a page for each memory.
const SPARE_BYTES: usize = 256 << 10;
/// Most of a module's own cases that are tried on both forms of it, and how long one and all of them may take.
const MAX_TRIED: usize = 16;
const TRIAL_LIMIT: Duration = Duration::from_millis(500);
const TRIALS_LIMIT: Duration = Duration::from_secs(1);
/// Longest reason.
const MAX_REASON_BYTES: usize = 256;

/// Why a module was not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason(pub(super) String);

/// What came of configuring a module in order to freeze it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The frozen component, and what it had to say about its configuration.
    Frozen { component: Vec<u8>, warnings: Vec<String>, configured_in: Duration },
    /// It refuses the configuration.
    Refused(Vec<Problem>),
    /// It fails on the configuration, as it would do unfrozen.
    Failed(Failure),
}

/// Freezes `component` with this configuration. `compile` makes what is instrumented callable.
pub(super) fn freeze(
    component: &[u8],
    config: &str,
    run: &Run<'_>,
    compile: impl FnOnce(&[u8], &Run<'_>) -> Result<Callable, String>,
) -> Result<Outcome, Reason> {
    // The rewriting reads bytes of strangers, and says by a panic what it did not expect.
    let freezing = || try_freeze(component, config, run, compile);
    let frozen = catch_unwind(AssertUnwindSafe(freezing)).unwrap_or_else(|_| Err("it cannot be rewritten".to_owned()));
    frozen.map_err(|reason| Reason(one_line(&reason, MAX_REASON_BYTES)))
}

fn try_freeze(
    component: &[u8],
    config: &str,
    run: &Run<'_>,
    compile: impl FnOnce(&[u8], &Run<'_>) -> Result<Callable, String>,
) -> Result<Outcome, String> {
    let wizer = Wizer::new();
    let told = |error: wasmtime::Error| error.root_cause().to_string();
    let (context, instrumented) = wizer.instrument_component(component).map_err(told)?;
    let callable = compile(&instrumented, run)?;
    let _running = callable.clock.begin();
    let mut live = callable.start(run).map_err(|failure| failure.to_string())?;
    let begun = Instant::now();
    let warnings = match callable.configure(&mut live, config, run) {
        Ok(Ok(warnings)) => warnings,
        Ok(Err(problems)) => return Ok(Outcome::Refused(problems)),
        Err(failure) => return Ok(Outcome::Failed(failure)),
    };
    let configured_in = begun.elapsed();
    let memory_bytes = run.memory_bytes.saturating_add(SPARE_BYTES);
    live.rewind(&Run { memory_bytes, spent: Spent::default(), ..*run });
    live.take_up_to(memory_bytes);
    let mut state = State { live: &mut live, memories: HashMap::new(), problem: None };
    let frozen = wizer.snapshot_component(&context, &mut state).now_or_never();
    let frozen = frozen.ok_or("reading it out did not end")?.map_err(told)?;
    match state.problem {
        None => Ok(Outcome::Frozen { component: frozen, warnings, configured_in }),
        Some(problem) => Err(problem),
    }
}

/// Reads out the state of an instrumented instance. The first problem is kept; what is answered after it is of no use
/// and not used.
struct State<'a> {
    live: &'a mut Live,
    /// What was read of memories, which are asked for twice and grow by being read.
    memories: HashMap<String, Vec<u8>>,
    problem: Option<String>,
}

impl State<'_> {
    fn read<Answer: Lift + Send + Sync + 'static, R: Default>(
        &mut self,
        interface: &str,
        function: &str,
        take: impl FnOnce(&Live, Answer) -> R,
    ) -> R {
        let Live { store, instance, .. } = &mut *self.live;
        let mut call = || -> wasmtime::Result<Answer> {
            let found = instance.get_export_index(&mut *store, None, interface);
            let found = found.and_then(|found| instance.get_export_index(&mut *store, Some(&found), function));
            let found = found.ok_or_else(|| wasmtime::format_err!("{interface} has no {function}"))?;
            let typed = instance.get_typed_func::<(), (Answer,)>(&mut *store, found)?;
            Ok(typed.call(&mut *store, ())?.0)
        };
        match call() {
            Ok(answer) => take(self.live, answer),
            Err(error) => {
                self.problem.get_or_insert_with(|| error.root_cause().to_string());
                R::default()
            }
        }
    }
}

impl ComponentInstanceState for State<'_> {
    async fn call_func_ret_list_u8(&mut self, interface: &str, function: &str, contents: impl FnOnce(&[u8]) + Send) {
        if !self.memories.contains_key(function) {
            let copy = |live: &Live, list: WasmList<u8>| list.as_le_slice(&live.store).to_vec();
            let bytes = self.read(interface, function, copy);
            self.memories.insert(function.to_owned(), bytes);
        }
        contents(&self.memories[function]);
    }

    async fn call_func_ret_s32(&mut self, interface: &str, function: &str) -> i32 {
        self.read(interface, function, |_, answer: i32| answer)
    }

    async fn call_func_ret_s64(&mut self, interface: &str, function: &str) -> i64 {
        self.read(interface, function, |_, answer: i64| answer)
    }

    async fn call_func_ret_f32(&mut self, interface: &str, function: &str) -> u32 {
        self.read(interface, function, |_, answer: f32| answer.to_bits())
    }

    async fn call_func_ret_f64(&mut self, interface: &str, function: &str) -> u64 {
        self.read(interface, function, |_, answer: f64| answer.to_bits())
    }
}

/// Asks both forms of a module the same and compares their answers: the least that each hook can be asked, and the
/// inputs of the module's own cases, with the configuration that counts. What imports answered the one, they answer
/// the other. Where an answer takes too long, what could be tried was tried.
pub(super) fn agree(
    hooks: &[Hook],
    cases: &[Case],
    fresh: &Prepared,
    frozen: &Prepared,
    rehearsal: &Rehearsal,
) -> Result<(), Reason> {
    let least = hooks.iter().map(|hook| (*hook, "{}"));
    let own = cases.iter().map(|case| (case.hook, &*case.input)).filter(|(hook, _)| hooks.contains(hook));
    let begun = Instant::now();
    for (hook, input) in least.chain(own.take(MAX_TRIED)) {
        let transcript = Transcript::default();
        // Each is a decision of its own.
        let ask = |prepared: &Prepared, imports| {
            let charges = Charges::default();
            prepared.ask_json(hook, input, &Run { imports, charges: &charges, limit: TRIAL_LIMIT, ..rehearsal.run() })
        };
        let of_fresh = ask(fresh, Imports::Recorded(&transcript));
        if begun.elapsed() > TRIALS_LIMIT || matches!(of_fresh, Err(Failure::Timeout { .. })) {
            break;
        }
        if transcript.is_cut() {
            continue;
        }
        let of_frozen = ask(frozen, Imports::Replayed(&transcript));
        if !same(&of_fresh, &of_frozen) {
            return Err(Reason(format!("frozen, it does not answer {hook} as it does otherwise")));
        }
    }
    Ok(())
}

/// Two failures are the same if they are of the same kind: where exactly it trapped may differ.
fn same(one: &Result<Value, Failure>, other: &Result<Value, Failure>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => one.code() == other.code(),
        _ => false,
    }
}
