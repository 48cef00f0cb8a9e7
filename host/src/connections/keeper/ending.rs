//! Disconnecting: erased here at once, and revoked at the authorization server as soon as that can be told
//! (`docs/threat-model.md` row U10).
//!
//! What is to be revoked waits in the store, each with a pause of its own; one gateway tells the servers for all.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::{Keeper, tell_vault_fault};
use crate::audit::Actor;
use crate::connection::{End, Place};
use crate::connections::issuer::{NotRevoked, Source};
use crate::secret::Plaintext;
use crate::store::StoreError;
use crate::store::connections::{self, Disconnection, Revocation, Secret};
use crate::store::leases::Lease;
use crate::vault::VaultError;

/// Between two looks, unless something was ended here.
const LOOK: Duration = Duration::from_secs(15);
/// Revocations handed out at once.
const BATCH: usize = 16;
/// Told at once.
const CONCURRENCY: usize = 4;
/// How long an authorization server has to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long what was handed out is nobody else's: longer than a batch takes.
const HANDED_OUT: Duration = Duration::from_secs(150);

const LEASE: &str = "connections-revoking";
/// How long another gateway waits for one that says nothing any more.
const LEASE_TIME: Duration = Duration::from_secs(3 * 60);

/// Why a token is not shown to its server.
enum Closed {
    /// For good: it does not open.
    Unreadable,
    Vault(VaultError),
}

impl Keeper {
    /// Ends a connection, and the attempts to make or renew it. Nobody is lent it from then on, whether or not its
    /// authorization server can be told.
    ///
    /// # Errors
    /// [`StoreError`]: whether it has ended is not known then.
    pub async fn disconnect(&self, place: &Place, why: End, actor: Actor) -> Result<Disconnection, StoreError> {
        let ended = connections::disconnect(&self.0.store, place, why, actor).await;
        self.0.kept.forget(place);
        self.0.left.notify_one();
        ended
    }

    /// Tells authorization servers what is to be revoked until its tasks are stopped.
    pub(super) async fn keep_revoking(self) {
        let stopping = self.0.tasks.stopping().clone();
        let (mut lease, mut has_failed) = (None, false);
        while !stopping.is_cancelled() {
            let is_full = match stopping.run_until_cancelled(self.revoke_due(&mut lease)).await {
                Some(Ok(count)) => {
                    has_failed = false;
                    count == BATCH
                }
                Some(Err(error)) => {
                    if !has_failed {
                        let error: &(dyn std::error::Error + 'static) = &error;
                        tracing::warn!(error, "tokens cannot be revoked; trying on");
                    }
                    has_failed = true;
                    false
                }
                None => break,
            };
            if !is_full {
                let more = tokio::time::timeout(self.spread(LOOK, LOOK / 4), self.0.left.notified());
                _ = stopping.run_until_cancelled(more).await;
            }
        }
        self.give_up(lease).await;
    }

    /// Revokes what is due, if this gateway holds the lease. How many connections it was of.
    pub(super) async fn revoke_due(&self, lease: &mut Option<Lease>) -> Result<usize, StoreError> {
        *lease = self.on_duty(LEASE, LEASE_TIME).await?;
        if lease.is_none() {
            return Ok(0);
        }
        let due = connections::due_revocations(&self.0.store, HANDED_OUT, BATCH).await?;
        let count = due.len();
        let revoking = stream::iter(due).map(|left| async move { self.revoke(&left).await }).buffered(CONCURRENCY);
        let told: Vec<Result<(), StoreError>> = revoking.collect().await;
        told.into_iter().collect::<Result<(), _>>()?;
        Ok(count)
    }

    async fn revoke(&self, left: &Revocation) -> Result<(), StoreError> {
        let store = &self.0.store;
        let (access, refresh) = match self.open_left(left).await {
            Ok(tokens) => tokens,
            Err(Closed::Unreadable) => {
                connections::not_revoked(store, &left.connection, true).await?;
                return Ok(());
            }
            Err(Closed::Vault(error)) => {
                tell_vault_fault(&error);
                connections::not_revoked(store, &left.connection, false).await?;
                return Ok(());
            }
        };
        let Revocation { place, issuer, client, .. } = left;
        let source = Source { upstream: place.upstream.clone(), issuer: issuer.clone(), client: client.clone() };
        let asking = self.0.issuer.revoke(&source, refresh.as_ref(), &access);
        let answer = tokio::time::timeout(ANSWER, asking).await;
        match answer.unwrap_or(Err(NotRevoked::Later { retry_after: None })) {
            Ok(()) => connections::revoked(store, &left.connection).await?,
            Err(why) => {
                connections::not_revoked(store, &left.connection, why == NotRevoked::Never).await?;
            }
        }
        Ok(())
    }

    async fn open_left(&self, left: &Revocation) -> Result<(Plaintext, Option<Plaintext>), Closed> {
        let of = (&left.place, &left.connection, left.revision);
        let access = self.open(of, Secret::Access, &left.access).await.map_err(Closed::Vault)?;
        let access = access.as_ref().and_then(Plaintext::from_bytes).ok_or(Closed::Unreadable)?;
        let Some(refresh) = &left.refresh else { return Ok((access, None)) };
        let refresh = self.open(of, Secret::Refresh, refresh).await.map_err(Closed::Vault)?;
        let refresh = refresh.as_ref().and_then(Plaintext::from_bytes).ok_or(Closed::Unreadable)?;
        Ok((access, Some(refresh)))
    }
}
