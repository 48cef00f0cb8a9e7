//! A policy with its configuration: what hooks are called on, and how its instances come to be.
//!
//! | Mode | Each decision runs in |
//! |---|---|
//! | frozen | a new instance that is configured from its first moment on ([`super::freeze`]) |
//! | fresh | a new instance, which is configured first |
//! | warm | an instance that earlier decisions ran in, for large modules whose operator wants that |
//!
//! What one decision leaves behind in memory is gone at the next, but for warm instances, of which each ends after a
//! number of uses and at its first failure.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::contract::hook::{HookType, Text};
use super::contract::manifest::Problem;
use super::contract::types::Context;
use super::decision::{Failure, Hook};
use super::dynamic;
use super::functions::{Callable, Lane};
use super::instance::{Live, Run};
use super::text::one_line;
use crate::config::{Reuse, Sets};

/// Decisions after which a warm instance ends.
const MAX_USES: u32 = 1000;
/// Warm instances of one policy that wait for their next use.
const MAX_IDLE: usize = 4;

/// How the instances of a policy come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceMode {
    Frozen,
    Fresh,
    Warm,
}

impl InstanceMode {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Fresh => "fresh",
            Self::Warm => "warm",
        }
    }
}

impl fmt::Display for InstanceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a policy is to be prepared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preparation<'a> {
    /// The binding's name, for the log.
    pub(super) policy: &'a str,
    /// A JSON object.
    pub(super) config: &'a Arc<str>,
    pub(super) memory_bytes: usize,
    pub(super) reuse: Reuse,
    /// For the trial whether a frozen module answers as the other does.
    pub(super) sets: &'a Arc<Sets>,
}

/// A policy that accepted its configuration.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) prepared: Prepared,
    /// What `configure` had to say.
    pub(super) warnings: Vec<String>,
    /// What the host has to say, such as why the policy is not frozen.
    pub(super) remarks: Vec<String>,
    /// How long `configure` took.
    pub(super) configured_in: Duration,
}

impl Ready {
    pub(super) fn warm(self) -> Self {
        Self { prepared: self.prepared.warm(), ..self }
    }
}

/// Why a policy cannot be prepared.
#[derive(Debug)]
pub(super) enum PrepareError {
    /// It refuses its configuration.
    Refused(Vec<Problem>),
    /// It fails on its configuration.
    Failed(Failure),
    /// It cannot be frozen, as the operator wants it to be.
    CannotFreeze { reason: String },
    /// The operator wants warm instances of a module that is not large.
    WarmIsForLargeModules,
}

/// A policy with its configuration. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    inner: Arc<Inner>,
    /// It took too long once since it was published.
    timed_out: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Inner {
    callable: Arc<Callable>,
    state: State,
    slow: bool,
}

#[derive(Debug)]
enum State {
    /// Instances begin configured.
    Frozen,
    /// Handed to `configure` before the hook, in the same instance and within the same time.
    Fresh { config: Arc<str> },
    /// Without a configuration where instances begin configured.
    Warm { config: Option<Arc<str>>, idle: Idle },
}

impl Prepared {
    pub(super) fn frozen(callable: Arc<Callable>, is_large: bool) -> Self {
        Self::of(callable, State::Frozen, is_large)
    }

    pub(super) fn fresh(callable: Arc<Callable>, config: Arc<str>, is_large: bool) -> Self {
        Self::of(callable, State::Fresh { config }, is_large)
    }

    /// The same, with instances that are used again.
    fn warm(&self) -> Self {
        let config = match &self.inner.state {
            State::Frozen => None,
            State::Fresh { config } => Some(config.clone()),
            State::Warm { config, .. } => config.clone(),
        };
        Self::of(self.inner.callable.clone(), State::Warm { config, idle: Idle::default() }, self.inner.slow)
    }

    fn of(callable: Arc<Callable>, state: State, is_large: bool) -> Self {
        let slow = is_large || callable.lane() == Lane::Dynamic;
        Self { inner: Arc::new(Inner { callable, state, slow }), timed_out: Arc::default() }
    }

    /// The same for another generation of policies, in which it was never slow.
    pub(super) fn anew(&self) -> Self {
        Self { inner: self.inner.clone(), timed_out: Arc::default() }
    }

    /// The same to be asked aside: with instances of its own, and where it may take its time.
    pub(super) fn aside(&self) -> Self {
        let own = match self.inner.state {
            State::Warm { .. } => self.warm(),
            State::Frozen | State::Fresh { .. } => self.anew(),
        };
        own.note_timeout();
        own
    }

    /// Whether both are one, apart from how slow they were.
    #[cfg(test)]
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether anybody else holds it.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    pub(super) fn mode(&self) -> InstanceMode {
        match self.inner.state {
            State::Frozen => InstanceMode::Frozen,
            State::Fresh { .. } => InstanceMode::Fresh,
            State::Warm { .. } => InstanceMode::Warm,
        }
    }

    /// Whether it is to be asked where runs may take long ([`super::workers`]).
    pub(super) fn is_slow(&self) -> bool {
        self.inner.slow || self.timed_out.load(Ordering::Relaxed)
    }

    /// It took too long, and from now on counts as slow.
    pub(super) fn note_timeout(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
    }

    /// Asks one hook.
    pub(super) fn ask<K: HookType>(
        &self,
        context: &Context<&str>,
        request: &K::Request<&str>,
        run: &Run<'_>,
    ) -> Result<K::Answer, Failure> {
        self.ask_with::<K, &str, &str>(context, request, run)
    }

    /// Asks one hook in the contract's JSON form: `input` is an object with the hook's parameters. What it leaves out
    /// has a harmless value.
    pub(super) fn ask_json(&self, hook: Hook, input: &str, run: &Run<'_>) -> Result<Value, Failure> {
        dynamic::ask(self, hook, input, run)
    }

    /// Asks one hook, whoever owns what it is asked.
    pub(super) fn ask_with<K: HookType, C: Text, S: Text>(
        &self,
        context: &Context<C>,
        request: &K::Request<S>,
        run: &Run<'_>,
    ) -> Result<K::Answer, Failure> {
        let Inner { callable, state, .. } = &*self.inner;
        let _running = callable.clock.begin();
        let answer = match state {
            State::Frozen => callable.start(run).and_then(|mut live| {
                let answer = callable.ask::<K, C, S>(&mut live, context, request, run);
                live.tell_time(run);
                answer
            }),
            State::Fresh { config } => self.started(Some(config), run).and_then(|mut live| {
                let answer = callable.ask::<K, C, S>(&mut live, context, request, run);
                live.tell_time(run);
                answer
            }),
            State::Warm { config, idle } => {
                let used = match idle.take() {
                    Some(mut used) => {
                        used.live.rewind(run);
                        Ok(used)
                    }
                    None => self.started(config.as_ref(), run).map(|live| Used { live, uses: 0 }),
                };
                used.and_then(|mut used| {
                    let answer = callable.ask::<K, C, S>(&mut used.live, context, request, run);
                    used.live.tell_time(run);
                    // An instance that failed is in a state that nobody meant it to be in.
                    if answer.is_ok() {
                        idle.give_back(used);
                    }
                    answer
                })
            }
        };
        if let Err(Failure::Timeout { .. }) = &answer {
            self.note_timeout();
        }
        answer
    }

    /// A new instance, configured.
    fn started(&self, config: Option<&Arc<str>>, run: &Run<'_>) -> Result<Live, Failure> {
        let callable = &self.inner.callable;
        let mut live = callable.start(run)?;
        let Some(config) = config else { return Ok(live) };
        // What it has to say about its configuration was heard when it was loaded.
        live.hear(false);
        match callable.configure(&mut live, config, run) {
            Ok(Ok(_)) => {
                live.hear(true);
                Ok(live)
            }
            Ok(Err(problems)) => {
                live.tell_time(run);
                let message = problems.first().map_or("no reason given", |problem| problem.message.as_str());
                Err(Failure::ConfigureRefused { message: one_line(message, 256) })
            }
            Err(failure) => {
                live.tell_time(run);
                Err(failure)
            }
        }
    }
}

/// Warm instances that wait for their next use.
#[derive(Default)]
struct Idle(Mutex<Vec<Used>>);

struct Used {
    live: Live,
    uses: u32,
}

impl Idle {
    fn take(&self) -> Option<Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, mut used: Used) {
        used.uses += 1;
        if used.uses >= MAX_USES {
            return;
        }
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(used);
        }
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Idle")
    }
}
