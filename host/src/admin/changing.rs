//! One change at a time, each to its end.
//!
//! Whoever wants one waits for a turn, and may give up until then. A change that has begun goes on though nobody waits for it
//! any more: what is loaded on a thread is loaded to its end anyway, and what was written has to be published and told.

use std::future::Future;

use tokio::sync::OwnedMutexGuard;

use super::{Applied, BuildError, Control};

/// Nobody else changes anything while it is held.
pub(super) type Turn = OwnedMutexGuard<Applied>;

impl Control {
    /// Makes a change that takes its time, in its turn.
    ///
    /// # Errors
    /// [`BuildError::Interrupted`] where the gateway stops meanwhile.
    pub(super) async fn to_its_end<F>(&self, change: impl FnOnce(Turn) -> F) -> Result<F::Output, BuildError>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let change = change(self.changing.clone().lock_owned().await);
        let stopping = self.tasks.stopping().clone();
        let changing = self.tasks.spawn(async move { stopping.run_until_cancelled(change).await });
        changing.await.ok().flatten().ok_or(BuildError::Interrupted)
    }
}
