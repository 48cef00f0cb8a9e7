//! An upstream tried once, with settings that are not in force: whether it can be reached, speaks MCP and lists what it
//! offers with these headers. Nothing of it is kept.

use std::path::Path;
use std::sync::Arc;
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
const GOODBYE: Duration = Duration::from_secs(2);

impl Upstream {
    /// Reads all lists of the upstream that these settings lead to, over HTTP.
    ///
    /// # Errors
    /// An [`UpstreamError`]: what it said, or that it is none that can be tried.
    pub async fn try_once(
        settings: config::Upstream,
        outbound: &Outbound,
        limits: &config::Limits,
        tasks: &Tasks,
    ) -> Result<(), UpstreamError> {
        if !matches!(settings.transport, UpstreamTransport::StreamableHttp { .. }) {
            return Err(UpstreamError::Unsupported { what: "to be tried with other headers" });
        }
        // No process is started, which is what the directory would be for.
        let lender = Arc::new(Later::default());
        let upstream = Self::start(settings, (outbound, lender), limits, Path::new("."), tasks);
        // Whoever gives up waiting for this ends it, too.
        let _ends = upstream.tasks.stopping().clone().drop_guard();
        let seen = tokio::time::timeout(PATIENCE, upstream.see()).await;
        upstream.stop(GOODBYE).await;
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
