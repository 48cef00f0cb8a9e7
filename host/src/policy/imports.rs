//! What the host does for guests: interfaces `log`, `clock`, `random`, `counters` and `sets`, linked by one linker.
//!
//! A module that may import them was checked for that when it was loaded and bound ([`super::manifest`]). Here counts when
//! they are asked: `log` always; the others only within a decision, so that nothing they answer gets into what a
//! module keeps of its configuration.
//!
//! Answers can be written down in a [`Transcript`], and a run can be given the answers of an earlier one: then the same
//! question gets the same answer, and another question ends the run.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmStr};

use super::contract;
use super::contract::imports::{Level, Usage};
use super::counters::{Ask, BindingCounters, Charged};
use super::instance::{HostState, Run};
use super::text::one_line;
use crate::config::{Grant, Sets};
use crate::env::{Env, Timestamp};
use crate::secret::hex;

/// Longest log line of a guest.
const LOG_LINE_BYTES: usize = 2 << 10;
/// Most log lines of a guest in one call.
pub(super) const LOG_LINES: u32 = 32;
/// Most random bytes at once.
const MAX_RANDOM_BYTES: u32 = 4096;
/// Most answers of one run that are written down, and the most bytes of what was asked.
const MAX_CALLS: usize = 1024;
const MAX_CALL_BYTES: usize = 64 << 10;
/// The member of a recorded answer that says why there was none.
const REFUSED: &str = "refused";

/// The grant that a module needs to import the interface of this plain name; `None` for those that need none.
pub(super) fn grant_for(plain: &str) -> Option<Grant> {
    Grant::ALL.iter().copied().find(|grant| grant.as_str() == plain)
}

/// Everything that a policy can import.
pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    linker.instance(&contract::interface("log"))?.func_wrap("write", write_log)?;
    linker.instance(&contract::interface("clock"))?.func_wrap("now-ms", now_ms)?;
    linker.instance(&contract::interface("random"))?.func_wrap("bytes", random_bytes)?;
    linker.instance(&contract::interface("counters"))?.func_wrap("take", take)?;
    linker.instance(&contract::interface("sets"))?.func_wrap("contains", contains)?;
    Ok(linker)
}

/// What an import answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportCall {
    /// Interface and function, such as `counters.take`.
    pub import: String,
    /// The parameters by name.
    pub asked: Value,
    pub answer: Value,
}

/// Where the answers of imports come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Imports<'a> {
    Live,
    /// From life, and written down.
    Recorded(&'a Transcript),
    /// From what was written down.
    Replayed(&'a Transcript),
}

/// What the imports of a run answered. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Transcript(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    calls: VecDeque<ImportCall>,
    bytes: usize,
    cut: bool,
    /// What the guest said for the log.
    said: Vec<String>,
}

impl Transcript {
    /// To be replayed.
    pub(super) fn of(calls: Vec<ImportCall>) -> Self {
        Self(Arc::new(Mutex::new(Lines { calls: calls.into(), ..Lines::default() })))
    }

    /// What was written down, or is still to be replayed.
    pub(super) fn calls(&self) -> Vec<ImportCall> {
        self.lines().calls.iter().cloned().collect()
    }

    /// Whether there was more than is written down.
    pub(super) fn is_cut(&self) -> bool {
        self.lines().cut
    }

    /// What the guest said for the log, each line after its level.
    pub(super) fn said(&self) -> Vec<String> {
        self.lines().said.clone()
    }

    fn hear(&self, level: Level, line: &str) {
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        self.lines().said.push(format!("{level}: {line}"));
    }

    fn add(&self, call: ImportCall, bytes: usize) {
        let mut lines = self.lines();
        if lines.cut || lines.calls.len() >= MAX_CALLS || lines.bytes + bytes > MAX_CALL_BYTES {
            lines.cut = true;
            return;
        }
        lines.bytes += bytes;
        lines.calls.push_back(call);
    }

    fn next(&self) -> Option<ImportCall> {
        self.lines().calls.pop_front()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an import does not answer. It ends the run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0} is not available while it is configured")]
    Unavailable(&'static str),
    #[error("{import}: {problem}")]
    Misused { import: &'static str, problem: String },
    #[error("{0}")]
    Diverged(String),
}

/// What the imports of one decision answer from.
pub(super) struct Facilities {
    env: Env,
    now: Timestamp,
    sets: Arc<Sets>,
    counters: Option<BindingCounters>,
    charged: Arc<Charged>,
    shadow: bool,
    source: Source,
}

enum Source {
    Live,
    Recorded(Transcript),
    Replayed(Transcript),
}

impl Facilities {
    pub(super) fn of(run: &Run<'_>, env: &Env) -> Self {
        Self {
            env: env.clone(),
            now: run.now,
            sets: run.sets.clone(),
            counters: run.counters.cloned(),
            charged: run.charges.shared().clone(),
            shadow: run.shadow,
            source: match run.imports {
                Imports::Live => Source::Live,
                Imports::Recorded(transcript) => Source::Recorded(transcript.clone()),
                Imports::Replayed(transcript) => Source::Replayed(transcript.clone()),
            },
        }
    }

    /// Answers one question: as it is, or as it was. `asked` is its parameters and their size.
    fn answer<T: Serialize>(
        &self,
        import: &'static str,
        asked: impl FnOnce() -> (Value, usize),
        live: impl FnOnce(&Self) -> Result<T, Refused>,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<T, Refused> {
        match &self.source {
            Source::Live => live(self),
            Source::Recorded(transcript) => {
                let answer = live(self);
                let (asked, bytes) = asked();
                let told = match &answer {
                    Ok(answer) => serde_json::to_value(answer).expect("answers are plain values"),
                    Err(Refused::Misused { problem, .. }) => json!({ REFUSED: problem }),
                    Err(_) => return answer,
                };
                transcript.add(ImportCall { import: import.to_owned(), asked, answer: told }, bytes);
                answer
            }
            Source::Replayed(transcript) => {
                let diverged = |what: String| Refused::Diverged(what);
                let (asked, _) = asked();
                let Some(call) = transcript.next() else {
                    return Err(diverged(format!("it asks for {import} once more than it did")));
                };
                if call.import != import || call.asked != asked {
                    let asked = one_line(&format!("{import} {asked}"), 256);
                    return Err(diverged(format!("it asks for {asked} where it asked for {}", call.import)));
                }
                if let Some(problem) = call.answer.get(REFUSED) {
                    return Err(Refused::Misused { import, problem: problem.as_str().unwrap_or_default().to_owned() });
                }
                read(call.answer).ok_or_else(|| diverged(format!("the recorded answer of {import} cannot be read")))
            }
        }
    }
}

/// A guest's log, for one call.
pub(super) struct GuestLog {
    policy: Arc<str>,
    decision: Arc<str>,
    /// Lines that it may still write.
    pub(super) lines: u32,
    /// Who else listens.
    heard: Option<Transcript>,
}

impl GuestLog {
    pub(super) fn of(run: &Run<'_>) -> Self {
        let heard = match run.imports {
            Imports::Live => None,
            Imports::Recorded(transcript) | Imports::Replayed(transcript) => Some(transcript.clone()),
        };
        Self { policy: run.policy.clone(), decision: run.decision.clone(), lines: LOG_LINES, heard }
    }
}

fn write_log(mut store: StoreContextMut<'_, HostState>, (level, message): (Level, WasmStr)) -> wasmtime::Result<()> {
    if store.data().log.as_ref().is_none_or(|log| log.lines == 0) {
        return Ok(());
    }
    let line = one_line(&message.to_str(&store)?, LOG_LINE_BYTES);
    let Some(log) = &mut store.data_mut().log else { return Ok(()) };
    log.lines -= 1;
    if let Some(heard) = &log.heard {
        heard.hear(level, &line);
    }
    let (policy, decision) = (&*log.policy, &*log.decision);
    match level {
        Level::Debug => tracing::debug!(policy, decision, "{line}"),
        Level::Info => tracing::info!(policy, decision, "{line}"),
        Level::Warn => tracing::warn!(policy, decision, "{line}"),
        Level::Error => tracing::error!(policy, decision, "{line}"),
    }
    Ok(())
}

fn facilities<'a>(store: &'a StoreContextMut<'_, HostState>, import: &'static str) -> Result<&'a Facilities, Refused> {
    store.data().facilities.as_deref().ok_or(Refused::Unavailable(import))
}

#[expect(clippy::needless_pass_by_value, reason = "the linker passes it so")]
fn now_ms(store: StoreContextMut<'_, HostState>, (): ()) -> wasmtime::Result<(u64,)> {
    const IMPORT: &str = "clock.now-ms";
    let live = |facilities: &Facilities| Ok(facilities.env.now().as_millis());
    Ok((facilities(&store, IMPORT)?.answer(IMPORT, || (json!({}), 8), live, |answer| answer.as_u64())?,))
}

#[expect(clippy::needless_pass_by_value, reason = "the linker passes it so")]
fn random_bytes(store: StoreContextMut<'_, HostState>, (count,): (u32,)) -> wasmtime::Result<(Vec<u8>,)> {
    const IMPORT: &str = "random.bytes";
    if count > MAX_RANDOM_BYTES {
        let problem = format!("{count} bytes at once are more than {MAX_RANDOM_BYTES}");
        return Err(Refused::Misused { import: IMPORT, problem }.into());
    }
    // Passed about in hex, so that it can be written down.
    let live = |facilities: &Facilities| {
        let mut bytes = vec![0; count as usize];
        facilities.env.entropy.fill(&mut bytes);
        Ok(Hex(bytes))
    };
    let asked = || (json!({ "n": count }), count as usize);
    let read = |answer: Value| Hex::read(&answer).filter(|Hex(bytes)| bytes.len() == count as usize);
    let Hex(bytes) = facilities(&store, IMPORT)?.answer(IMPORT, asked, live, read)?;
    Ok((bytes,))
}

struct Hex(Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl Hex {
    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<Vec<u8>>>().map(Self)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the linker passes it so")]
fn take(
    store: StoreContextMut<'_, HostState>,
    (key, cost, limit, period_ms): (WasmStr, u32, u64, u64),
) -> wasmtime::Result<(Usage,)> {
    const IMPORT: &str = "counters.take";
    let key = key.to_str(&store)?;
    let live = |facilities: &Facilities| {
        let misused = |problem: String| Refused::Misused { import: IMPORT, problem };
        let counters = facilities.counters.as_ref().ok_or_else(|| misused("there are no counters here".to_owned()))?;
        let ask = Ask { key: &key, cost: cost.into(), limit, period_ms };
        let usage = counters.take(ask, facilities.now, facilities.shadow, &facilities.charged);
        usage.map_err(|misuse| misused(misuse.to_string()))
    };
    let asked = || (json!({ "key": key, "cost": cost, "limit": limit, "period_ms": period_ms }), key.len() + 64);
    let read = |answer| serde_json::from_value(answer).ok();
    Ok((facilities(&store, IMPORT)?.answer(IMPORT, asked, live, read)?,))
}

#[expect(clippy::needless_pass_by_value, reason = "the linker passes it so")]
fn contains(store: StoreContextMut<'_, HostState>, (set, item): (WasmStr, WasmStr)) -> wasmtime::Result<(bool,)> {
    const IMPORT: &str = "sets.contains";
    let (set, item) = (set.to_str(&store)?, item.to_str(&store)?);
    let live = |facilities: &Facilities| Ok(facilities.sets.contains(&set, &item));
    let asked = || (json!({ "set": set, "item": item }), set.len() + item.len() + 32);
    Ok((facilities(&store, IMPORT)?.answer(IMPORT, asked, live, |answer| answer.as_bool())?,))
}
