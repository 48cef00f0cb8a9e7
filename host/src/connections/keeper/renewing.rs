//! Renewing: one refresh at a time for each connection, here and across gateways (`docs/threat-model.md` rows U7 and U8).
//!
//! Here, whoever wants the secrets of one revision renewed waits for one flight. Across gateways the lease in
//! [`crate::store::connections`] decides who asks, and its fence whose answer counts. From the moment in which the refresh token
//! is shown to its server until the new one is stored nobody else's patience counts: the work goes on in a task that whoever
//! stops the gateway waits for.

use std::time::Duration;

use super::kept::{Of, Opened};
use super::{Keeper, tell_vault_fault};
use crate::connection::lending::{Lack, Withheld};
use crate::connection::{Connection, Credential, Place, Reason, Tokens};
use crate::connections::issuer::{Issued, NotIssued, Source};
use crate::env::Timestamp;
use crate::secret::Plaintext;
use crate::store::StoreError;
use crate::store::connections::{self, Commit, Lease, Leasing, Mark, Secret, Trouble, sealed_at};
use crate::vault::VaultError;

/// How long whoever wants a credential waits for a renewal.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long an authorization server has to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a gateway that says nothing any more keeps others from renewing.
const LEASE: Duration = Duration::from_secs(45);
/// How long it is waited for another gateway that renews.
const WAIT: Duration = Duration::from_secs(20);
/// Between two looks at what another gateway does, unless it is told of.
const LOOK: Duration = Duration::from_millis(500);
/// How long it is tried to store what an authorization server gave.
const STORING: Duration = Duration::from_secs(90);
/// Before that is tried again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Longest life of an access token that is believed.
const MAX_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What came of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Something else is stored, or nothing any more: look again.
    Done,
    Lacking(Lack),
    /// What is stored is as good as before.
    Later(Option<Duration>),
    Fault,
}

impl Renewal {
    /// What whoever wanted it renewed is told, should that be of no avail.
    ///
    /// # Errors
    /// The same, where it is certain that its person has something to do.
    pub(super) fn withheld(self) -> Result<Withheld, Withheld> {
        match self {
            Self::Lacking(lack) => Err(Withheld::Missing(lack)),
            Self::Later(retry_after) => Ok(Withheld::Unavailable { retry_after }),
            Self::Done => Ok(Withheld::Unavailable { retry_after: None }),
            Self::Fault => Ok(Withheld::Fault),
        }
    }
}

impl Renewal {
    /// The word for metrics.
    const fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Later(_) => "later",
            Self::Lacking(_) => "lost",
            Self::Fault => "fault",
        }
    }
}

impl From<StoreError> for Renewal {
    fn from(error: StoreError) -> Self {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn!(error, "a credential is not renewed while the store does not answer");
        Self::Fault
    }
}

/// Why what was issued is not stored yet.
enum NotStored {
    Vault(VaultError),
    Store(StoreError),
}

impl Keeper {
    /// Renews what was opened, once for all who want that. Whoever goes away meanwhile ends nothing.
    pub(super) async fn renewed(&self, opened: &Opened) -> Renewal {
        let Of::OAuth { issuer, .. } = &opened.of else { return Renewal::Fault };
        self.renewed_at(&opened.lent.place, opened.lent.revision, issuer).await
    }

    /// The same of a connection that was seen at this revision.
    pub(super) async fn renewed_at(&self, place: &Place, seen: u64, issuer: &str) -> Renewal {
        let (keeper, here, issuer) = (self.clone(), place.clone(), issuer.to_owned());
        let work = || async move {
            let renewal = keeper.renew(&here, seen, &issuer).await;
            keeper.0.counts.renewals.count([renewal.word()]);
            renewal
        };
        let flight = self.0.renewals.join((place.clone(), seen), work);
        match tokio::time::timeout(PATIENCE, flight).await {
            Ok(renewal) => renewal.unwrap_or(Renewal::Fault),
            Err(_) => Renewal::Later(None),
        }
    }

    async fn renew(&self, place: &Place, seen: u64, issuer: &str) -> Renewal {
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            if self.0.tasks.stopping().is_cancelled() {
                return Renewal::Later(None);
            }
            if let Some(left) = self.0.breaker.left_alone(&asked_at(place, issuer), self.0.env.now()) {
                return Renewal::Later(Some(left));
            }
            let (mut told, generation) = (self.0.told.subscribe(), self.0.kept.generation(place));
            let leasing = connections::lease_refresh(&self.0.store, place, seen, self.0.replica.as_str(), LEASE).await;
            let until = match leasing {
                Ok(Leasing::Leased(mut lease)) => {
                    // An earlier version did not keep what it was made for: for where it is used.
                    let made_for = lease.connection.origin.take();
                    lease.connection.origin = made_for.or_else(|| self.origin_of(&place.upstream));
                    return self.renew_leased(&lease).await;
                }
                Ok(Leasing::HeldBy { until, .. }) => until,
                Ok(Leasing::Pausing { until }) => return Renewal::Later(Some(self.left_until(until))),
                Ok(Leasing::Fresh(_) | Leasing::Unable(_) | Leasing::NotFound) => {
                    // What is in memory is older than what is stored.
                    self.0.kept.forget(place);
                    return Renewal::Done;
                }
                Err(error) => return error.into(),
            };
            if tokio::time::Instant::now() >= deadline {
                return Renewal::Later(Some(self.left_until(until)));
            }
            let pause = LOOK.min(self.left_until(until).max(Duration::from_millis(10)));
            let changed =
                async { while told.changed().await.is_ok() && self.0.kept.generation(place) == generation {} };
            // Told or not, it is looked at again.
            _ = tokio::time::timeout(pause, changed).await;
        }
    }

    fn left_until(&self, until: Timestamp) -> Duration {
        Duration::from_millis(until.as_millis().saturating_sub(self.0.env.now().as_millis()))
    }

    /// Uses the lease: asks the server, and stores what comes.
    async fn renew_leased(&self, lease: &Lease) -> Renewal {
        let Some(tokens) = lease.connection.tokens() else { return Renewal::Done };
        let Some(refresh) = &tokens.refresh else { return Renewal::Done };
        let refresh = match self.open_token(&lease.connection, Secret::Refresh, refresh).await {
            Ok(Some(refresh)) => refresh,
            Ok(None) => return self.lost(lease, Reason::Unreadable).await,
            Err(error) => {
                tell_vault_fault(&error);
                self.give_back(lease, None).await;
                return Renewal::Fault;
            }
        };
        let server = asked_at(&lease.connection.place, &tokens.issuer);
        if let Err(left) = self.0.breaker.admit(&server, self.0.env.now()) {
            return Renewal::Later(Some(self.give_back(lease, Some(left)).await.unwrap_or(left)));
        }
        let source = source(&lease.connection.place, tokens);
        let asked = self.0.env.now();
        let answer = tokio::time::timeout(ANSWER, self.0.issuer.refresh(&source, &refresh)).await;
        match answer.unwrap_or(Err(NotIssued::Later { retry_after: None })) {
            Ok(issued) => {
                self.0.breaker.answered(&server);
                self.store_issued(lease, tokens, (issued, refresh), asked).await
            }
            Err(NotIssued::Refused(reason)) => {
                self.0.breaker.answered(&server);
                let was_lost = lease.after_loss && reason == Reason::RefreshRefused;
                self.lost(lease, if was_lost { Reason::RefreshLost } else { reason }).await
            }
            Err(NotIssued::Later { retry_after }) => {
                self.0.breaker.failed(&server, self.0.env.now(), self.jitter());
                Renewal::Later(self.give_back(lease, retry_after).await.or(retry_after))
            }
        }
    }

    /// Notes that its person has to connect anew. What is stored stays.
    async fn lost(&self, lease: &Lease, reason: Reason) -> Renewal {
        let Connection { place, revision, .. } = &lease.connection;
        match self.mark_at(place, *revision, Trouble::Reauth(reason)).await {
            Ok(Mark::Marked | Mark::Unchanged) => Renewal::Lacking(Lack::NeedsReauth(reason)),
            Ok(Mark::Outdated(_) | Mark::NotFound) => Renewal::Done,
            Err(error) => error.into(),
        }
    }

    /// Ends a lease that has brought nothing. How long nobody tries again, if it was ours still and the store answers; if not,
    /// the lease lapses.
    async fn give_back(&self, lease: &Lease, asked: Option<Duration>) -> Option<Duration> {
        match connections::give_back(&self.0.store, lease, asked, self.jitter()).await {
            Ok(until) => until.map(|until| self.left_until(until)),
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(error, "the lease of a refresh was not given back, and will lapse");
                None
            }
        }
    }

    /// Stores what a server gave before anybody uses it. The token that was used may be good for nothing any more, so that it
    /// is tried for a long while.
    async fn store_issued(
        &self,
        lease: &Lease,
        old: &Tokens,
        (issued, used): (Issued, Plaintext),
        asked: Timestamp,
    ) -> Renewal {
        let deadline = tokio::time::Instant::now() + STORING;
        let (mut retry, mut credential) = (FIRST_RETRY, None);
        loop {
            let failure = match self.try_to_store(lease, old, (&issued, &used), asked, &mut credential).await {
                Ok(renewal) => return renewal,
                Err(NotStored::Vault(error)) => error.to_string(),
                Err(NotStored::Store(error)) => error.to_string(),
            };
            let place = &lease.connection.place;
            if tokio::time::Instant::now() >= deadline {
                tracing::error!(%place, failure, "renewed tokens could not be stored and are lost");
                return Renewal::Fault;
            }
            tracing::warn!(%place, failure, "renewed tokens cannot be stored; trying on");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// `sealed` is what was tried to be stored before, which may have been: what is tried again is the same.
    async fn try_to_store(
        &self,
        lease: &Lease,
        old: &Tokens,
        (issued, used): (&Issued, &Plaintext),
        asked: Timestamp,
        sealed: &mut Option<Credential>,
    ) -> Result<Renewal, NotStored> {
        let is_again = sealed.is_some();
        let credential = match sealed {
            Some(credential) => credential.clone(),
            None => {
                let new = self.seal_issued(&lease.connection, old, (issued, used), asked).await;
                sealed.insert(new.map_err(NotStored::Vault)?).clone()
            }
        };
        let place = &lease.connection.place;
        let commit = connections::commit_refresh(&self.0.store, lease, credential.clone()).await;
        self.0.kept.forget(place);
        match commit.map_err(NotStored::Store)? {
            Commit::Stored(_) | Commit::Ended => Ok(Renewal::Done),
            Commit::LostLease => {
                let stored = connections::get(&self.0.store, place).await.map_err(NotStored::Store)?;
                let is_ours = is_again && stored.is_some_and(|stored| stored.credential == credential);
                if !is_ours {
                    // They are not revoked: that might end what took their place (RFC 7009 §2.1).
                    tracing::warn!(%place, "renewed tokens came too late: the connection has moved on");
                }
                Ok(Renewal::Done)
            }
            Commit::TooLarge => {
                tracing::error!(%place, "renewed tokens are too large to be stored");
                Ok(self.lost(lease, Reason::RefreshLost).await)
            }
        }
    }

    /// Seals what a server gave for the revision that it is about to have. Where it gave no new refresh token, the one that
    /// was used stays good (RFC 6749 §6).
    async fn seal_issued(
        &self,
        connection: &Connection,
        old: &Tokens,
        (issued, used): (&Issued, &Plaintext),
        asked: Timestamp,
    ) -> Result<Credential, VaultError> {
        let at = |secret| sealed_at(&connection.place, &connection.id, connection.revision + 1, secret);
        let refresh = issued.refresh.as_ref().unwrap_or(used);
        let access = self.0.vault.seal(&at(Secret::Access), issued.access.expose().as_bytes()).await?;
        let refresh = self.0.vault.seal(&at(Secret::Refresh), refresh.expose().as_bytes()).await?;
        // Nobody gives a token that has ended: a life of zero says nothing.
        let life = issued.expires_in.filter(|life| !life.is_zero());
        Ok(Credential::OAuth(Tokens {
            issuer: old.issuer.clone(),
            client: old.client.clone(),
            access,
            refresh: Some(refresh),
            scopes: issued.scopes.clone().unwrap_or_else(|| old.scopes.clone()),
            expires: life.map(|life| asked.after(life.min(MAX_LIFE))),
        }))
    }

    pub(super) fn jitter(&self) -> u8 {
        let [jitter] = self.0.env.random();
        jitter
    }
}

/// What the breaker counts failures of: a server as an upstream has it, so that none brings another's to a stop.
fn asked_at(place: &Place, issuer: &str) -> String {
    format!("{} {issuer}", place.upstream)
}

/// Whose tokens they are.
fn source(place: &Place, tokens: &Tokens) -> Source {
    let Tokens { issuer, client, .. } = tokens;
    Source { upstream: place.upstream.clone(), issuer: issuer.clone(), client: client.clone() }
}
