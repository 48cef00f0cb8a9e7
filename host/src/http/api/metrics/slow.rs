//! Checks that ask others: their answers are shared and told from memory, so that whoever watches the gateway costs a store or a
//! key server a look each [`FRESH`] at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::ready::Check;
use crate::tasks::Tasks;

/// How long an answer is told.
const FRESH: Duration = Duration::from_secs(10);
/// How long a request waits for an answer. The look goes on.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest look.
const LOOK: Duration = Duration::from_secs(30);

/// What slow checks have found.
pub struct Slow {
    pub(super) vault: Answer,
    pub(super) signing: Answer,
}

impl Slow {
    /// Nothing is known. Looks are tasks of `tasks`.
    pub fn new(tasks: &Tasks) -> Self {
        Self { vault: Answer::new("vault", tasks.clone()), signing: Answer::new("signing-keys", tasks.clone()) }
    }
}

/// What one of them has found.
pub(super) struct Answer {
    name: &'static str,
    tasks: Tasks,
    last: watch::Sender<Option<(Instant, Check)>>,
    /// One look at a time.
    looking: Arc<Semaphore>,
}

impl Answer {
    fn new(name: &'static str, tasks: Tasks) -> Self {
        Self { name, tasks, last: watch::Sender::new(None), looking: Arc::new(Semaphore::new(1)) }
    }

    /// What was found not long ago, or is found soon. `look` is for where nobody looks already.
    pub(super) async fn tell(&self, look: impl Future<Output = Check> + Send + 'static) -> Check {
        // Taken before the last answer is read: whoever has it sees what the look before has found.
        let permit = self.looking.clone().try_acquire_owned();
        let mut last = self.last.subscribe();
        let known = last.borrow_and_update().clone();
        if let Some((_, check)) = known.filter(|(at, _)| at.elapsed() < FRESH) {
            return check;
        }
        if let Ok(permit) = permit {
            let (name, last, stopping) = (self.name, self.last.clone(), self.tasks.stopping().clone());
            self.tasks.spawn(async move {
                let Some(found) = stopping.run_until_cancelled(timeout(LOOK, look)).await else { return };
                let unanswered = |_| Check::remark(name, format!("no answer within {} s", LOOK.as_secs()));
                last.send_replace(Some((Instant::now(), found.unwrap_or_else(unanswered))));
                drop(permit);
            });
        }
        // An answer of long ago is none.
        let has_changed = matches!(timeout(PATIENCE, last.changed()).await, Ok(Ok(())));
        let told = last.borrow().clone().filter(|_| has_changed);
        told.map_or_else(|| Check::remark(self.name, "not known yet"), |(_, check)| check)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;

    use super::*;

    const NAME: &str = "vault";

    /// An answer, and looks at what takes this long. They are counted.
    fn scene(takes: Duration) -> (Answer, Arc<AtomicUsize>, impl Fn() -> BoxFuture<'static, Check>) {
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = looks.clone();
        let look = move || -> BoxFuture<'static, Check> {
            let counted = counted.clone();
            Box::pin(async move {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(takes).await;
                Check::ok(NAME)
            })
        };
        (Answer::new(NAME, Tasks::new()), looks, look)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_told_until_it_is_old() {
        let (answer, looks, look) = scene(Duration::from_millis(100));
        let both = tokio::join!(answer.tell(look()), answer.tell(look()));
        assert_eq!(both, (Check::ok(NAME), Check::ok(NAME)));
        assert_eq!(answer.tell(look()).await, Check::ok(NAME));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        tokio::time::sleep(FRESH).await;
        assert_eq!(answer.tell(look()).await, Check::ok(NAME));
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_takes_long_keeps_nobody_waiting_and_goes_on() {
        let (answer, looks, look) = scene(Duration::from_secs(5));
        for _ in 0..2 {
            let asked = Instant::now();
            assert_eq!(answer.tell(look()).await, Check::remark(NAME, "not known yet"));
            assert!(asked.elapsed() < PATIENCE * 2);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(answer.tell(look()).await, Check::ok(NAME));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_without_end_is_ended() {
        let (answer, looks, look) = scene(Duration::from_secs(3_600));
        answer.tell(look()).await;
        tokio::time::sleep(LOOK).await;
        assert_eq!(answer.tell(look()).await, Check::remark(NAME, "no answer within 30 s"));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
    }
}
