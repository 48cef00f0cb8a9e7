//! The owner of background tasks: whoever starts one can stop it and wait for its end.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks that stop together. Clones belong to the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops when this one does, and can stop alone.
    #[must_use]
    pub fn subgroup(&self) -> Self {
        Self { tracker: TaskTracker::new(), stopping: self.stopping.child_token() }
    }

    /// Starts a task. It is expected to end soon after [`Self::stopping`] is cancelled.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Cancelled when the group stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Asks all tasks to stop and waits until they have, at most `patience`. Whether they have.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }
}
