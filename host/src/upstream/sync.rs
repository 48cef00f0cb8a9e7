//! Keeps what is known of an upstream's tools fresh: on a schedule, when it says that they changed, and when asked.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::catalog::Definition;
use super::{Health, Upstream, UpstreamError};
use crate::ids::Principal;
use crate::mcp::call::Outcome;
use crate::mcp::json::{quote, raw};

/// Longest reading of one page, unless the upstream's calls have less time.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_PAGES: usize = 200;
const MAX_TOOLS: usize = 10_000;
/// Waits after failures double from the first to the second.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Several changes in a row are read once.
const DEBOUNCE: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
    #[serde(rename = "nextCursor", default)]
    next_cursor: Option<String>,
}

impl Upstream {
    /// Reads the tools again and again until the upstream is stopped; calls `changed` after each attempt.
    pub async fn keep_synced(self: Arc<Self>, changed: impl Fn() + Send) {
        let mut retry = FIRST_RETRY;
        loop {
            let attempt = tokio::select! {
                attempt = self.read_tools() => attempt,
                () = self.tasks.stopping().cancelled() => return,
            };
            let pause = match attempt {
                Ok(definitions) => {
                    retry = FIRST_RETRY;
                    self.health.store(Arc::new(Health::Up { tools: definitions.len() }));
                    self.definitions.store(Some(Arc::new(definitions)));
                    self.settings.sync_interval
                }
                Err(error) => {
                    let down = Health::Down { reason: error.to_string() };
                    if *self.health.load_full() != down {
                        tracing::warn!(upstream = %self.settings.name, reason = %error, "upstream is down");
                    }
                    self.health.store(Arc::new(down));
                    let pause = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    pause
                }
            };
            changed();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stale.notified() => tokio::time::sleep(DEBOUNCE).await,
                () = self.tasks.stopping().cancelled() => return,
            }
        }
    }

    /// Asks for a reading now.
    pub fn refresh(&self) {
        self.stale.notify_one();
    }

    async fn read_tools(&self) -> Result<Vec<Definition>, UpstreamError> {
        let mut definitions = Vec::new();
        let mut names = HashSet::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let result = self.read_page(cursor.as_deref()).await?;
            let page: Page<'_> = serde_json::from_str(result.get())
                .map_err(|_| UpstreamError::Protocol { what: "`tools/list` has no list of tools" })?;
            for tool in page.tools {
                match Definition::parse(tool) {
                    Ok(definition) if names.insert(definition.name.clone()) => definitions.push(definition),
                    _ => tracing::warn!(upstream = %self.settings.name, "left out a tool without a name of its own"),
                }
            }
            if definitions.len() > MAX_TOOLS {
                return Err(UpstreamError::Protocol { what: "more than 10 000 tools" });
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(definitions);
            }
        }
        Err(UpstreamError::Protocol { what: "its list of tools does not end" })
    }

    async fn read_page(&self, cursor: Option<&str>) -> Result<Box<RawValue>, UpstreamError> {
        let params = raw(cursor.map_or_else(|| "{}".to_owned(), |cursor| format!(r#"{{"cursor":{}}}"#, quote(cursor))));
        let (notices, _) = mpsc::channel(1);
        let never = CancellationToken::new();
        let id = self.new_id();
        let timeout = PAGE_TIMEOUT.min(self.settings.call_timeout);
        match self.exchange(&Principal::Gateway, id, "tools/list", params, notices, timeout, never).await? {
            Outcome::Result(result) => Ok(result),
            Outcome::Error(_) => Err(UpstreamError::Protocol { what: "`tools/list` was answered with an error" }),
        }
    }
}
