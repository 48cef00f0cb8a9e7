//! Work that many wait for and that is done once.
//!
//! It runs in a task of its own: whoever began it may go away, and it goes on. Nothing is kept of it once it is done.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use tokio::sync::oneshot;

use crate::tasks::Tasks;

/// Work under way at once. Beyond that nothing is begun.
const MAX_FLIGHTS: usize = 10_000;

/// Work under way, by what it is about.
pub(super) struct Flights<K: Eq + Hash, T> {
    tasks: Tasks,
    under_way: Arc<UnderWay<K, T>>,
}

struct UnderWay<K: Eq + Hash, T>(Mutex<HashMap<K, Shared<oneshot::Receiver<T>>>>);

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { tasks, under_way: Arc::new(UnderWay(Mutex::default())) }
    }

    /// What comes of the work about `key`, which is begun if it is not under way. `None` if it broke off, or there is too
    /// much of it.
    pub(super) async fn join<W>(&self, key: K, work: impl FnOnce() -> W) -> Option<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let landed = self.begin(key, work)?;
        landed.await.ok()
    }

    fn begin<W>(&self, key: K, work: impl FnOnce() -> W) -> Option<Shared<oneshot::Receiver<T>>>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.under_way.lock();
        if let Some(flight) = under_way.get(&key) {
            return Some(flight.clone());
        }
        if under_way.len() >= MAX_FLIGHTS {
            tracing::error!(limit = MAX_FLIGHTS, "too many credentials are looked for at once");
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let flight = receiver.shared();
        under_way.insert(key.clone(), flight.clone());
        drop(under_way);
        let landing = Landing { under_way: self.under_way.clone(), key };
        let work = work();
        self.tasks.spawn(async move {
            let outcome = work.await;
            // Whoever comes from now on begins anew.
            drop(landing);
            _ = sender.send(outcome);
        });
        Some(flight)
    }
}

impl<K: Eq + Hash, T> UnderWay<K, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Shared<oneshot::Receiver<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the work out of the list, however it ended.
struct Landing<K: Eq + Hash, T> {
    under_way: Arc<UnderWay<K, T>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn many_wait_for_one_and_the_next_begins_anew() {
        let flights = Arc::new(Flights::<u8, usize>::new(Tasks::new()));
        let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let join = || {
            let (flights, begun, go) = (flights.clone(), begun.clone(), go.clone());
            async move {
                let work = || async move {
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    go.acquire().await.unwrap().forget();
                    number
                };
                flights.join(1, work).await
            }
        };
        let waiting = futures_util::future::join_all((0..64).map(|_| join()));
        let (came, ()) = tokio::join!(waiting, async { go.add_permits(1) });
        assert_eq!(came, vec![Some(0); 64]);
        go.add_permits(1);
        assert_eq!(join().await, Some(1));
    }

    #[tokio::test]
    async fn work_goes_on_without_whoever_began_it() {
        let tasks = Tasks::new();
        let flights = Flights::<u8, ()>::new(tasks.clone());
        let (sender, receiver) = oneshot::channel();
        let go = Arc::new(Semaphore::new(0));
        let asked = go.clone();
        let work = || async move {
            asked.acquire().await.unwrap().forget();
            sender.send(()).unwrap();
        };
        let gone = tokio::time::timeout(Duration::ZERO, flights.join(1, work)).await;
        assert!(gone.is_err());
        go.add_permits(1);
        receiver.await.unwrap();
        assert!(tasks.stop(Duration::from_secs(10)).await, "and whoever stops waits for it");
    }

    #[tokio::test]
    async fn work_that_breaks_off_is_nobodys_answer_and_may_be_begun_again() {
        let flights = Flights::<u8, u8>::new(Tasks::new());
        let broken = || async move { if true { panic!("it breaks off") } else { 1 } };
        assert_eq!(flights.join(1, broken).await, None);
        assert_eq!(flights.join(1, || async { 2 }).await, Some(2));
    }
}
