//! Renewing ahead of time, so that a call seldom waits for it.
//!
//! One gateway does this for all, as long as it holds the lease. What ends soonest comes first, each at a moment of its own within
//! a few minutes, so that what was issued together is not renewed together. Who may not use an upstream now has nothing
//! renewed there, and neither has who connected where the upstream is no more.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::Keeper;
use crate::connection::Connection;
use crate::env::Timestamp;
use crate::store::leases::{self, Lease, Taking};
use crate::store::{StoreError, connections};

/// Between two looks, and up to a quarter more.
const LOOK: Duration = Duration::from_secs(60);
/// How long before its end a token is renewed at the earliest.
const EARLIEST: Duration = Duration::from_secs(5 * 60);
/// And at the latest: more than the time to the next look.
const LATEST: Duration = Duration::from_secs(2 * 60);
/// Connections that are renewed in one look.
const BATCH: usize = 200;
/// Renewed at once.
const CONCURRENCY: usize = 8;

const LEASE: &str = "connections-ahead";
/// How long another gateway waits for one that says nothing any more.
const LEASE_TIME: Duration = Duration::from_secs(3 * 60);

impl Keeper {
    /// Renews ahead of time until its tasks are stopped.
    pub(super) async fn keep_ahead(self) {
        let stopping = self.0.tasks.stopping().clone();
        let mut lease = None;
        let mut has_failed = false;
        while !stopping.is_cancelled() {
            match stopping.run_until_cancelled(self.look_ahead(&mut lease)).await {
                Some(Err(error)) => {
                    if !has_failed {
                        let error: &(dyn std::error::Error + 'static) = &error;
                        tracing::warn!(error, "connections cannot be renewed ahead of time; trying on");
                    }
                    has_failed = true;
                }
                _ => has_failed = false,
            }
            stopping.run_until_cancelled(tokio::time::sleep(self.spread(LOOK, LOOK / 4))).await;
        }
        self.give_up(lease).await;
    }

    /// Renews what ends soon, if this gateway holds the lease. How many connections that were.
    pub(super) async fn look_ahead(&self, lease: &mut Option<Lease>) -> Result<usize, StoreError> {
        *lease = self.on_duty(LEASE, LEASE_TIME).await?;
        if lease.is_none() {
            return Ok(0);
        }
        let now = self.0.env.now();
        let due = connections::due_for_refresh(&self.0.store, now.after(EARLIEST), BATCH).await?;
        let due: Vec<Connection> = due.into_iter().filter(|connection| self.is_due(connection, now)).collect();
        let count = due.len();
        let renewing = stream::iter(due).for_each_concurrent(CONCURRENCY, |connection| async move {
            if let Some(tokens) = connection.tokens() {
                // What comes of it is written where it is known.
                _ = self.renewed_at(&connection.place, connection.revision, &tokens.issuer).await;
            }
        });
        renewing.await;
        Ok(count)
    }

    fn is_due(&self, connection: &Connection, now: Timestamp) -> bool {
        let ends = connection.tokens().and_then(|tokens| tokens.expires);
        let early = now.after(self.spread(LATEST, EARLIEST - LATEST));
        let is_moved = || self.origin_of(&connection.place.upstream).is_some_and(|now| connection.is_moved(&now));
        ends.is_some_and(|ends| ends <= early) && self.may_use(&connection.place).is_granted() && !is_moved()
    }

    /// The lease of this name, if it is to be had.
    pub(super) async fn on_duty(&self, name: &str, time: Duration) -> Result<Option<Lease>, StoreError> {
        match leases::take(&self.0.store, name, time).await? {
            Taking::Taken(lease) => Ok(Some(lease)),
            Taking::Held { .. } => Ok(None),
        }
    }

    /// Gives a lease back, so that another gateway need not wait for its end.
    pub(super) async fn give_up(&self, lease: Option<Lease>) {
        if let Some(lease) = lease
            && let Err(error) = leases::release(&self.0.store, lease).await
        {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::debug!(error, "a lease of connections was not given back, and will lapse");
        }
    }

    /// A time from `least` on, and up to `more` longer.
    pub(super) fn spread(&self, least: Duration, more: Duration) -> Duration {
        least + more * u32::from(self.jitter()) / u32::from(u8::MAX)
    }
}
