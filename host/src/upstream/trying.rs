//! An upstream tried once, with settings that are not in force: whether it can be reached, speaks MCP and lists what it
//! offers with these headers, or variables. Nothing of it is kept.

use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::sync::Seen;
use super::{Upstream, UpstreamError};
use crate::config::{self, UpstreamTransport};
use crate::connection::lending::Later;
use crate::outbound::Outbound;
use crate::tasks::Tasks;

/// Longest trial.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the end of its session is waited for.
const GOODBYE: Duration = Duration::from_secs(4);

/// Tells trials of this process apart.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Upstream {
    /// Reads all lists of the upstream that these settings lead to. A program is started for that, and ended.
    ///
    /// # Errors
    /// An [`UpstreamError`]: what it said, or that it is none that can be tried.
    pub async fn try_once(
        settings: config::Upstream,
        outbound: &Outbound,
        limits: &config::Limits,
        data_dir: &Path,
        tasks: &Tasks,
    ) -> Result<(), UpstreamError> {
        // A program has a home that goes with it.
        let home =
            data_dir.join("trials").join(format!("{}-{}", process::id(), NUMBERS.fetch_add(1, Ordering::Relaxed)));
        let is_program = matches!(settings.transport, UpstreamTransport::Stdio { .. });
        let lender = Arc::new(Later::default());
        let upstream = Self::start(settings, (outbound, lender), limits, &home, tasks);
        // Whoever gives up waiting for this ends it, too.
        let _ends = upstream.tasks.stopping().clone().drop_guard();
        let seen = tokio::time::timeout(PATIENCE, upstream.see()).await;
        upstream.stop(GOODBYE).await;
        if is_program && let Err(error) = tokio::fs::remove_dir_all(&home).await {
            tracing::debug!(%error, "the home of a program that was tried was not removed");
        }
        match seen {
            Ok(Ok(Seen { trouble: None, .. })) => Ok(()),
            Ok(Ok(Seen { trouble: Some(_), .. })) => {
                Err(UpstreamError::Protocol { what: "some of what it offers cannot be read" })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(UpstreamError::TimedOut { after: PATIENCE }),
        }
    }
}
