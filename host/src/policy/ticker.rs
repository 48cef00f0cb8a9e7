//! The thread that makes time pass for guests: it advances an engine's epoch while policies run.
//!
//! Invariant: while anything runs guest code, the ticker ticks; it sleeps while nothing does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::EngineWeak;

/// How often the epoch advances: the grain of every time limit.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Ticks without any run after which the thread sleeps until the next one.
const IDLE_TICKS: u32 = 50;
/// The most ticks that a run waits for at once, far beyond any limit and far from overflow.
const MOST_TICKS: u64 = 1 << 40;

/// The thread that advances the epoch. It ends, and is waited for, when this is dropped.
pub(super) struct Ticker {
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
pub(super) struct Running<'a>(&'a Activity);

impl Clock {
    /// Says that a run begins.
    pub(super) fn begin(&self) -> Running<'_> {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        if self.0.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
        Running(&self.0)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    pub(super) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let clock = Clock(Arc::default());
        let ticking = clock.clone();
        let thread = thread::Builder::new().name("policy-clock".to_owned()).spawn(move || tick(&engine, &ticking.0))?;
        Ok(Self { clock, thread: Some(thread) })
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock.clone()
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
    u64::try_from(ticks).unwrap_or(MOST_TICKS).min(MOST_TICKS).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> wasmtime::Engine {
        wasmtime::Engine::new(wasmtime::Config::new().epoch_interruption(true)).unwrap()
    }

    #[test]
    fn a_limit_is_never_cut_short_by_the_grain() {
        for (millis_tenths, expected) in [(0, 1), (1, 2), (10, 2), (11, 3), (50, 6)] {
            assert_eq!(ticks(Duration::from_micros(millis_tenths * 100)), expected, "{millis_tenths}");
        }
        assert_eq!(ticks(Duration::MAX), MOST_TICKS + 1);
    }

    #[test]
    fn the_clock_wakes_for_a_run_however_long_it_slept() {
        let engine = engine();
        let ticker = Ticker::start(engine.weak()).unwrap();
        let clock = ticker.clock();
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
}
