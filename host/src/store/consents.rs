//! Remembered consents: who need not be asked again for exactly the same (`docs/threat-model.md` row A8).
//!
//! A consent is found by the digest of everything that it was given for; anything else is another consent. What was given
//! before a watermark of its principal or client does not count ([`super::revocations`]). Whether a consent may be
//! remembered at all is decided before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{Bounds, Direction, Table};
use super::record::{AccessRecord, DigestRecord, client, principal};
use super::revocations::Coverage;
use super::table::{Cursor, Index, Page, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit};
use crate::audit::{Actor, AuditEvent, Party};
use crate::env::Timestamp;
use crate::ids::Principal;
use crate::oauth::access::{Access, Terms};
use crate::secret::Digest;

/// Longest that a consent is remembered.
pub const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Most remembered consents of one principal; the oldest makes room.
pub const MAX_OF_ONE: usize = 200;

pub(super) const CONSENTS: Typed<ConsentRecord> = Typed {
    table: Table::Consents,
    version: 1,
    older: &[],
    key: |record| row_key(&record.principal, &record.terms.0),
    indexes: &[Index { table: Table::ConsentsByPrincipal, key: ConsentRecord::by_principal }],
    expires: Some(|record| Some(Timestamp::from_millis(record.until_ms))),
};

/// That a consent is to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The host that the person saw the answer go to.
    pub redirect_host: String,
    /// At most [`MAX_LIFE`].
    pub life: Duration,
}

/// A consent that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConsent {
    pub party: Party,
    pub terms: Terms,
    pub given: Timestamp,
    pub until: Timestamp,
}

/// What came of [`forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgetting {
    Forgotten,
    NotFound,
}

/// Remembers a consent in the transaction in which it is given.
pub(super) fn remember_in(
    tx: &mut WriteTx<'_>,
    party: &Party,
    access: &Access,
    remembered: &Remembered,
) -> Result<(), StoreError> {
    let terms = Terms { redirect_host: remembered.redirect_host.clone(), access: access.clone() };
    let now = tx.now();
    let principal = party.principal.to_string();
    let record = ConsentRecord {
        principal: principal.clone(),
        client: party.client.to_string(),
        redirect_host: terms.redirect_host.clone(),
        access: access.into(),
        terms: terms_of(party, &terms).into(),
        given_ms: now.as_millis(),
        until_ms: now.after(remembered.life.min(MAX_LIFE)).as_millis(),
    };
    if CONSENTS.get(tx, &row_key(&principal, &record.terms.0))?.is_none() {
        let theirs =
            tx.range(Table::ConsentsByPrincipal, &Bounds::within(&of(&principal)), Direction::Forward, MAX_OF_ONE)?;
        if let Some((_, oldest)) = theirs.first().filter(|_| theirs.len() == MAX_OF_ONE) {
            CONSENTS.remove(tx, oldest)?;
        }
    }
    CONSENTS.put(tx, &record)
}

/// The remembered consent of these parties to these terms, if it counts.
pub async fn find(store: &Store, party: Party, terms: Terms) -> Result<Option<StoredConsent>, StoreError> {
    store
        .read(move |tx| {
            let key = row_key(&party.principal.to_string(), &terms_of(&party, &terms));
            let found = CONSENTS.get(tx, &key)?.map(StoredConsent::try_from).transpose()?;
            match found {
                Some(consent) if counts(tx, &consent, &mut Coverage::default())? => Ok(Some(consent)),
                Some(_) | None => Ok(None),
            }
        })
        .await
}

fn counts(tx: &mut ReadTx<'_>, consent: &StoredConsent, coverage: &mut Coverage) -> Result<bool, StoreError> {
    let Party { principal, client } = &consent.party;
    let is_current = tx.now() < consent.until;
    Ok(is_current && coverage.of(tx, principal, client, consent.given)?.is_none())
}

/// A page of the consents of a principal that count, newest first. It is shorter where some do not.
pub async fn list(
    store: &Store,
    principal: &Principal,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<StoredConsent>, StoreError> {
    let theirs = of(&principal.to_string());
    store
        .read(move |tx| {
            let theirs = (Table::ConsentsByPrincipal, &theirs[..]);
            let Page { items, next } = CONSENTS.newest_first_within(tx, theirs, after.as_ref(), limit, |_| true)?;
            let mut coverage = Coverage::default();
            let mut counting = Vec::with_capacity(items.len());
            for record in items {
                let consent = StoredConsent::try_from(record)?;
                if counts(tx, &consent, &mut coverage)? {
                    counting.push(consent);
                }
            }
            Ok(Page { items: counting, next })
        })
        .await
}

/// Forgets a consent, so that its principal is asked again.
pub async fn forget(store: &Store, party: Party, terms: Terms, actor: Actor) -> Result<Forgetting, StoreError> {
    store
        .write(move |tx| {
            let key = row_key(&party.principal.to_string(), &terms_of(&party, &terms));
            if CONSENTS.remove(tx, &key)?.is_none() {
                return Ok(Forgetting::NotFound);
            }
            audit::append(tx, actor, &AuditEvent::ConsentForgotten(party.clone()))?;
            Ok(Forgetting::Forgotten)
        })
        .await
}

/// What a consent of these parties is found by: it tells those of one principal apart.
pub fn terms_of(party: &Party, terms: &Terms) -> Digest {
    Digest::of(&[&terms.digest().as_bytes()[..], party.client.as_str().as_bytes()].concat())
}

fn of(principal: &str) -> Vec<u8> {
    [principal.as_bytes(), &[0]].concat()
}

fn row_key(principal: &str, terms: &Digest) -> Vec<u8> {
    [&of(principal)[..], terms.as_bytes()].concat()
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsentRecord {
    principal: String,
    client: String,
    redirect_host: String,
    access: AccessRecord,
    terms: DigestRecord,
    given_ms: u64,
    until_ms: u64,
}

impl ConsentRecord {
    fn by_principal(&self) -> Vec<u8> {
        [&of(&self.principal)[..], &self.given_ms.to_be_bytes(), self.terms.0.as_bytes()].concat()
    }
}

impl TryFrom<ConsentRecord> for StoredConsent {
    type Error = StoreError;

    fn try_from(record: ConsentRecord) -> Result<Self, StoreError> {
        let ConsentRecord { principal: by, client: to, redirect_host, access, terms: _, given_ms, until_ms } = record;
        Ok(Self {
            party: Party { principal: principal(Table::Consents, &by)?, client: client(Table::Consents, &to)? },
            terms: Terms { redirect_host, access: access.read(Table::Consents)? },
            given: Timestamp::from_millis(given_ms),
            until: Timestamp::from_millis(until_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::oauth_testing::*;
    use super::super::revocations::{Whose, revoke_all};
    use super::*;
    use crate::audit::RevocationReason;
    use crate::oauth::IdentitySet;

    fn terms() -> Terms {
        Terms { redirect_host: "127.0.0.1".to_owned(), access: access() }
    }

    fn remembered(host: &str) -> Remembered {
        Remembered { redirect_host: host.to_owned(), life: 90 * DAY }
    }

    async fn give(store: &Store, party: Party, host: &str) {
        let remembered = remembered(host);
        store.write(move |tx| remember_in(tx, &party, &access(), &remembered)).await.unwrap();
    }

    #[tokio::test]
    async fn a_consent_counts_for_exactly_what_it_was_given_for() {
        for mut place in engines().await {
            give(&place.store, party("ci", "app"), "127.0.0.1").await;
            place.restart().await;
            let store = &place.store;
            let found = find(store, party("ci", "app"), terms()).await.unwrap().unwrap();
            let until = place.now().after(90 * DAY);
            assert_eq!(found, StoredConsent { party: party("ci", "app"), terms: terms(), given: place.now(), until });
            let with = |access| Terms { access, ..terms() };
            for (party, terms) in [
                (party("cd", "app"), terms()),
                // The same person, and another client that registered itself.
                (party("ci", "other"), terms()),
                (party("ci", "app"), Terms { redirect_host: "localhost".to_owned(), ..terms() }),
                (party("ci", "app"), with(Access { scopes: tokens(&["read"]), ..access() })),
                (
                    party("ci", "app"),
                    with(Access { resources: resources(&["https://gateway.example/mcp"]), ..access() }),
                ),
                (party("ci", "app"), with(Access { identities: IdentitySet::default(), ..access() })),
            ] {
                assert_eq!(find(store, party, terms).await.unwrap(), None);
            }
            place.forward(90 * DAY);
            assert_eq!(find(store, party("ci", "app"), terms()).await.unwrap(), None);
            verify(store).await;
            while place.sweep().await > 0 {}
            assert_eq!(store.read(|tx| rows(tx, Table::Consents)).await.unwrap(), []);
            verify(store).await;
        }
    }

    #[tokio::test]
    async fn a_consent_that_is_forgotten_or_revoked_counts_no_more() {
        let place = Place::memory().await;
        let store = &place.store;
        for of in ["app", "web"] {
            give(store, party("ci", of), "127.0.0.1").await;
        }
        let listed = async || list(store, &key("ci"), None, 10).await.unwrap().items.len();
        assert_eq!(listed().await, 2);
        let forget = async || forget(store, party("ci", "app"), terms(), OPERATOR).await.unwrap();
        assert_eq!((forget().await, forget().await), (Forgetting::Forgotten, Forgetting::NotFound));
        assert_eq!(trail(store).await, ["consent.forgotten"]);
        assert_eq!((find(store, party("ci", "app"), terms()).await.unwrap(), listed().await), (None, 1));
        // A key of the same name later on is another principal.
        let gone = RevocationReason::PrincipalGone;
        revoke_all(store, Whose::Principal(key("ci")), gone, OPERATOR).await.unwrap();
        assert_eq!((find(store, party("ci", "web"), terms()).await.unwrap(), listed().await), (None, 0));
        place.forward(Duration::from_millis(1));
        give(store, party("ci", "web"), "127.0.0.1").await;
        assert!(find(store, party("ci", "web"), terms()).await.unwrap().is_some());
        verify(store).await;
    }

    #[tokio::test]
    async fn each_principal_has_so_many_and_the_oldest_goes() {
        let place = Place::memory().await;
        let store = &place.store;
        for number in 0..MAX_OF_ONE + 5 {
            place.forward(Duration::from_millis(1));
            give(store, party("ci", "app"), &format!("host{number}")).await;
            give(store, party("ci2", "app"), "host").await;
        }
        let (mut hosts, mut after) = (Vec::new(), None);
        loop {
            let page = list(store, &key("ci"), after, 150).await.unwrap();
            hosts.extend(page.items.into_iter().map(|consent| consent.terms.redirect_host));
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        let expected = (5..MAX_OF_ONE + 5).rev().map(|number| format!("host{number}"));
        assert_eq!(hosts, expected.collect::<Vec<_>>());
        assert_eq!(list(store, &key("ci2"), None, 10).await.unwrap().items.len(), 1);
        verify(store).await;
    }
}
