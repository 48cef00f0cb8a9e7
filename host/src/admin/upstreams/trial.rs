//! Trying an upstream before it is saved.

use std::path::{Path, PathBuf};

use super::UpstreamError;
use crate::admin::Control;
use crate::config;
use crate::secret::hex;
use crate::upstream::{Tried, Upstream};

/// Trials at once.
pub(in crate::admin) const MAX_TRIALS: usize = 4;
/// Directory in `data_dir` in which programs that are tried have their homes.
const TRIALS: &str = "trials";

/// Removes what trials have left behind that a gateway did not live to see the end of.
pub(in crate::admin) async fn tidy_up(data_dir: &Path) {
    remove(data_dir.join(TRIALS)).await;
}

async fn remove(dir: PathBuf) {
    // Where there is none, nothing is left.
    _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
}

impl Control {
    /// Tries what these settings lead to, as nobody in particular. It goes to its end though whoever asked is gone, so that
    /// nothing is left of it.
    ///
    /// # Errors
    /// [`UpstreamError::Busy`].
    pub(super) async fn try_settings(&self, settings: config::Upstream) -> Result<Tried, UpstreamError> {
        let permit = self.trials.clone().try_acquire_owned().map_err(|_| UpstreamError::Busy)?;
        let config = self.config.load_full();
        let dir = config.data_dir.join(TRIALS).join(hex(&self.env.random::<16>()));
        let outbound = match &settings.tls {
            Some(tls) => self.outbound.secured(tls),
            None => self.outbound.clone(),
        };
        let tasks = self.tasks.clone();
        let trial = self.tasks.spawn(async move {
            let tried = Upstream::try_out(settings, &outbound, &config.limits, &dir, &tasks).await;
            remove(dir).await;
            drop(permit);
            tried
        });
        trial.await.map_err(|_| UpstreamError::Interrupted)
    }
}
