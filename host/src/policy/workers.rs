//! Where policies run that may take long: the dynamic lane, large modules, and those that took too long before.
//!
//! No more of them run at once than there are cores, so that they never keep the gateway's threads from everything else;
//! a bounded number wait for their turn, for a bounded time. Who finds no room is told so at once.
//!
//! A run itself does not move: it runs on the caller's own thread, whose other work the runtime hands to another thread
//! meanwhile, so that what a run borrows stays borrowed.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task;

use super::decision::Failure;

/// Runs that may wait, for each core.
const WAITING_PER_CORE: usize = 32;
/// Longest wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Turns for policies that may take long.
#[derive(Debug)]
pub(super) struct Workers {
    turns: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
}

impl Workers {
    pub(super) fn for_this_machine() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new(cores, cores * WAITING_PER_CORE)
    }

    fn new(turns: usize, max_waiting: usize) -> Self {
        Self { turns: Semaphore::new(turns), waiting: AtomicUsize::new(0), max_waiting }
    }

    /// Runs `work` when it is its turn.
    pub(super) async fn run<R>(&self, work: impl FnOnce() -> R) -> Result<R, Failure> {
        let _turn = match self.turns.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                let _waiting = self.wait()?;
                let turn = tokio::time::timeout(PATIENCE, self.turns.acquire()).await;
                turn.map_err(|_| Failure::Busy)?.expect("nobody closes the semaphore")
            }
        };
        Ok(match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => work(),
            _ => task::block_in_place(work),
        })
    }

    /// Takes all turns, until what is returned is dropped.
    #[cfg(test)]
    pub(super) async fn hold_all(&self) -> tokio::sync::SemaphorePermit<'_> {
        let all = u32::try_from(self.turns.available_permits()).expect("few cores");
        self.turns.acquire_many(all).await.expect("nobody closes the semaphore")
    }

    /// Takes a place in the queue, until it is dropped.
    fn wait(&self) -> Result<Waiting<'_>, Failure> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.max_waiting {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::Busy);
        }
        Ok(Waiting(&self.waiting))
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the test waits for them")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_more_run_at_once_than_there_are_turns() {
        let workers = Arc::new(Workers::new(2, 100));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let runs = (0..20).map(|_| {
            let (workers, now, most) = (workers.clone(), now.clone(), most.clone());
            tokio::spawn(async move {
                let work = || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                };
                workers.run(work).await
            })
        });
        for run in runs.collect::<Vec<_>>() {
            assert_eq!(run.await.unwrap(), Ok(()));
        }
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_in_the_queue_or_waits_too_long_is_told_so() {
        let workers = Workers::new(1, 1);
        let held = workers.turns.acquire().await.unwrap();
        let ran = AtomicBool::new(false);
        let waits = workers.run(|| ran.store(true, Ordering::SeqCst));
        let refused = async {
            task::yield_now().await;
            workers.run(|| ()).await
        };
        let (waited, refused) = tokio::join!(waits, refused);
        assert_eq!((waited, refused), (Err(Failure::Busy), Err(Failure::Busy)));
        assert!(!ran.load(Ordering::SeqCst));
        assert_eq!(workers.waiting.load(Ordering::SeqCst), 0, "whoever left gave its place back");
        drop(held);
        assert_eq!(workers.run(|| 5).await, Ok(5));
    }
}
