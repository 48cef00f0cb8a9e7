//! Trying an upstream before it is saved.

use super::UpstreamError;
use crate::admin::Control;
use crate::config;
use crate::upstream::{Tried, Upstream};

/// Trials at once.
pub(in crate::admin) const MAX_TRIALS: usize = 4;

impl Control {
    /// Tries what these settings lead to, as nobody in particular. It goes to its end though whoever asked is gone, so that
    /// nothing is left of it.
    ///
    /// # Errors
    /// [`UpstreamError::Busy`].
    pub(super) async fn try_settings(&self, settings: config::Upstream) -> Result<Tried, UpstreamError> {
        let permit = self.trials.clone().try_acquire_owned().map_err(|_| UpstreamError::Busy)?;
        let config = self.config.load_full();
        let outbound = match &settings.tls {
            Some(tls) => self.outbound.secured(tls),
            None => self.outbound.clone(),
        };
        let tasks = self.tasks.clone();
        let trial = self.tasks.spawn(async move {
            let tried = Upstream::try_out(settings, &outbound, &config.limits, &config.data_dir, &tasks).await;
            drop(permit);
            tried
        });
        trial.await.map_err(|_| UpstreamError::Interrupted)
    }
}
