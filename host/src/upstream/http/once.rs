//! A value that is made when it is first wanted, by one task, while everybody who wants it waits.
//!
//! Whoever waits may give up without stopping the making. A failure is told to all who waited for it, and the next one
//! who comes tries anew.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::tasks::Tasks;

type Making<T, E> = watch::Receiver<Option<Result<T, E>>>;

pub(super) struct Once<T, E> {
    current: Mutex<Option<Making<T, E>>>,
}

impl<T, E> Default for Once<T, E> {
    fn default() -> Self {
        Self { current: Mutex::new(None) }
    }
}

impl<T: Clone + Send + Sync + 'static, E: Clone + Send + Sync + 'static> Once<T, E> {
    /// The value, made by `make` if there is none that is `usable`. `None` if the making was cut short.
    pub(super) async fn get<F>(
        &self,
        tasks: &Tasks,
        usable: impl Fn(&T) -> bool,
        make: impl FnOnce() -> F,
    ) -> Option<Result<T, E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let mut making = {
            let mut current = self.lock();
            match current.as_ref().filter(|making| is_worth_waiting(making, usable)) {
                Some(making) => making.clone(),
                None => {
                    let (made, making) = watch::channel(None);
                    let work = make();
                    tasks.spawn(async move { made.send_replace(Some(work.await)) });
                    current.insert(making).clone()
                }
            }
        };
        making.wait_for(Option::is_some).await.ok().and_then(|made| made.clone())
    }

    /// The value, if it is there.
    pub(super) fn known(&self) -> Option<T> {
        self.lock().as_ref()?.borrow().as_ref()?.as_ref().ok().cloned()
    }

    /// Whether there is neither a value nor one in the making.
    pub(super) fn is_idle(&self) -> bool {
        match &*self.lock() {
            None => true,
            Some(making) => match &*making.borrow() {
                None => making.has_changed().is_err(),
                Some(made) => made.is_err(),
            },
        }
    }

    pub(super) fn set(&self, value: T) {
        let (_, made) = watch::channel(Some(Ok(value)));
        *self.lock() = Some(made);
    }

    /// Drops the value if it `is` the one meant.
    pub(super) fn forget(&self, is: impl Fn(&T) -> bool) {
        let mut current = self.lock();
        let is_meant = current.as_ref().is_some_and(|making| matches!(&*making.borrow(), Some(Ok(value)) if is(value)));
        if is_meant {
            *current = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Making<T, E>>> {
        // Nothing that is left half done: the value is replaced whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_worth_waiting<T, E>(making: &Making<T, E>, usable: impl Fn(&T) -> bool) -> bool {
    match &*making.borrow() {
        Some(Ok(value)) => usable(value),
        Some(Err(_)) => false,
        // Whether the maker is still at it.
        None => making.has_changed().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_wait_for_one_and_a_failure_is_not_kept() {
        let tasks = Tasks::new();
        let once = Arc::new(Once::<u32, u32>::default());
        let count = Arc::new(AtomicU32::new(0));
        let make = |fails: bool| {
            let count = count.clone();
            move || async move {
                tokio::task::yield_now().await;
                let number = count.fetch_add(1, Ordering::Relaxed);
                if fails { Err(number) } else { Ok(number) }
            }
        };
        let both = tokio::join!(once.get(&tasks, |_| true, make(true)), once.get(&tasks, |_| true, make(true)));
        assert_eq!(both, (Some(Err(0)), Some(Err(0))));
        assert!(once.is_idle() && once.known().is_none());
        assert_eq!(once.get(&tasks, |_| true, make(false)).await, Some(Ok(1)));
        assert_eq!(once.get(&tasks, |_| true, make(false)).await, Some(Ok(1)));
        assert_eq!(once.get(&tasks, |value| *value > 1, make(false)).await, Some(Ok(2)));
        once.forget(|value| *value == 1);
        assert_eq!(once.known(), Some(2));
        once.forget(|value| *value == 2);
        assert!(once.is_idle());
        once.set(7);
        assert_eq!(once.known(), Some(7));
    }

    #[tokio::test]
    async fn one_who_gives_up_does_not_stop_the_making() {
        let tasks = Tasks::new();
        let once = Once::<u32, u32>::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let made = once.get(
            &tasks,
            |_| true,
            || async move {
                wait.await.unwrap();
                Ok(1)
            },
        );
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), made).await.is_err());
        assert!(!once.is_idle());
        go.send(()).unwrap();
        assert_eq!(once.get(&tasks, |_| true, || async { Ok(2) }).await, Some(Ok(1)));
    }
}
