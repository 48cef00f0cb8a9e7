//! Guests: those who consented without naming themselves. How many there are is bounded, and none is kept for longer than
//! something rests on them.
//!
//! A guest is made for one authorization request and lives with it, then with the code and the grant that come of it. The
//! sweeper looks whether anything counts still; a guest on whom nothing rests is forgotten with everything that is sealed
//! for them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counted::Counted;
use super::engine::{Row, Table};
use super::table::{Single, Typed};
use super::verify::Found;
use super::{ReadTx, StoreError, WriteTx, connections, data_keys, grants};
use crate::audit::Actor;
use crate::connection::{End, Holder};
use crate::env::Timestamp;
use crate::ids::{GuestId, Owner, Principal};

/// Most guests at once.
pub const MAX_GUESTS: u64 = 10_000;
/// How long after a guest's grant may have ended it is looked at again, at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Grants of one guest that are looked at. A guest is made for one request, and has one.
const MAX_GRANTS: usize = 4;
/// Most reads of looking at a guest: the guest, so many grants, the watermarks over them, and what is destroyed.
const LOOKING: usize = 30;
/// Most effects of destroying a data key: the key and its index, a mark with its expiry, what is announced with its expiry,
/// and rows of the audit trail.
const SHREDDING: usize = 10;

pub(super) const GUESTS: Counted<GuestRecord> = Counted {
    records: Typed {
        table: Table::Guests,
        version: 1,
        older: &[],
        key: |record| record.id.as_bytes().to_vec(),
        indexes: &[],
        expires: Some(|record| Some(Timestamp::from_millis(record.until_ms))),
    },
    count: Single::new("guests"),
};

/// Codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestRecord {
    id: String,
    /// When it is looked at whether anything rests on the guest still.
    until_ms: u64,
}

impl GuestRecord {
    fn new(guest: &GuestId, until: Timestamp) -> Self {
        Self { id: guest.to_string(), until_ms: until.as_millis() }
    }
}

/// Makes a guest, as one of at most `most`. Whether there was room.
pub(super) fn admit_in(tx: &mut WriteTx<'_>, guest: &GuestId, until: Timestamp, most: u64) -> Result<bool, StoreError> {
    // An id that is taken, by a chance of one in 2^48 within a millisecond, is no room either.
    if GUESTS.len(tx)? >= most || GUESTS.get(tx, guest.as_str().as_bytes())?.is_some() {
        return Ok(false);
    }
    GUESTS.add(tx, &GuestRecord::new(guest, until))?;
    Ok(true)
}

/// Something rests on a guest until then.
pub(super) fn keep_in(tx: &mut WriteTx<'_>, guest: &GuestId, until: Timestamp) -> Result<(), StoreError> {
    if GUESTS.get(tx, guest.as_str().as_bytes())?.is_some() {
        GUESTS.replace(tx, &GuestRecord::new(guest, until))?;
    }
    Ok(())
}

/// Forgets a guest on whom nothing rests, with what is sealed for them and what they connected. Of very many connections
/// the reconciling sweep ends the rest, which nobody can open or use any more.
pub(super) fn forget_in(tx: &mut WriteTx<'_>, guest: &GuestId) -> Result<(), StoreError> {
    if GUESTS.remove(tx, guest.as_str().as_bytes())?.is_some() {
        let holder = Holder::Of(Principal::Guest(guest.clone()));
        connections::end_some(tx, &connections::Whose::Holder(holder), End::HolderGone, Actor::System)?;
        shred_in(tx, guest)?;
    }
    Ok(())
}

/// Whether there is such a guest.
pub(super) fn is_there_in(tx: &mut ReadTx<'_>, guest: &GuestId) -> Result<bool, StoreError> {
    Ok(GUESTS.get(tx, guest.as_str().as_bytes())?.is_some())
}

fn shred_in(tx: &mut WriteTx<'_>, guest: &GuestId) -> Result<(), StoreError> {
    let owner = Owner::Principal(Principal::Guest(guest.clone()));
    data_keys::shred_in(tx, &owner, Actor::System).map(drop)
}

/// How many guests there are.
#[cfg(test)]
pub(super) fn count_in(tx: &mut ReadTx<'_>) -> Result<u64, StoreError> {
    GUESTS.len(tx)
}

/// The table for what is done to all alike: a guest is forgotten only if nothing rests on them.
pub(super) struct Kept;

impl super::kept::Kept for Kept {
    fn table(&self) -> Table {
        GUESTS.table()
    }

    fn indexes(&self) -> Vec<Table> {
        GUESTS.indexes()
    }

    fn forget(&self, tx: &mut WriteTx<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
        let Some(record) = GUESTS.get(tx, key)? else { return Ok(false) };
        if Timestamp::from_millis(record.until_ms) > now {
            return Ok(false);
        }
        let Some(guest) = GuestId::parse(&record.id) else { return GUESTS.forget(tx, key, now) };
        let counts = grants::counts_until_in(tx, &Principal::Guest(guest.clone()), MAX_GRANTS)?;
        if let Some(until) = counts {
            keep_in(tx, &guest, until.min(now.after(LOOK_AGAIN)))?;
            return Ok(false);
        }
        shred_in(tx, &guest)?;
        GUESTS.forget(tx, key, now)
    }

    fn effects(&self) -> usize {
        GUESTS.effects() + SHREDDING
    }

    fn reads(&self) -> usize {
        LOOKING
    }

    fn check(&self, tx: &mut ReadTx<'_>, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        GUESTS.check(tx, row, found)
    }

    fn check_index(&self, tx: &mut ReadTx<'_>, index: Table, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        GUESTS.check_index(tx, index, row, found)
    }

    fn expires_at(&self, tx: &mut ReadTx<'_>, key: &[u8], at: Timestamp) -> Result<bool, StoreError> {
        GUESTS.expires_at(tx, key, at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::authorizations::{self, GuestChoice, Refused};
    use super::super::connections::tests::connected;
    use super::super::oauth_testing::*;
    use super::super::revocations::{Whose, revoke_all};
    use super::super::{Store, grants as granted};
    use super::*;
    use crate::audit::{Party, RevocationReason};
    use crate::oauth::request::{AuthorizationRequest, CODE_LIFE, CONSENT_LIFE};

    fn guest(number: u64) -> GuestId {
        GuestId::parse(&format!("{number:024x}")).unwrap()
    }

    async fn count(store: &Store) -> u64 {
        store.read(count_in).await.unwrap()
    }

    async fn begun(store: &Store, number: u64) {
        let request = AuthorizationRequest { chosen: None, ..request(number) };
        authorizations::begin(store, request, CONSENT_LIFE, 100).await.unwrap();
    }

    async fn chosen(store: &Store, number: u64, most: u64) -> GuestChoice {
        let id = request_id(number);
        authorizations::choose_guest(store, &id, digest("browser"), guest(number), None, most).await.unwrap()
    }

    async fn approved(store: &Store, number: u64) {
        let consent = authorizations::Consent {
            principal: Principal::Guest(guest(number)),
            access: access(),
            code: digest("code"),
            code_life: CODE_LIFE,
            remember: None,
        };
        let approval =
            authorizations::approve(store, &request_id(number), digest("browser"), consent, Actor::System).await;
        assert!(matches!(approval.unwrap(), authorizations::Approval::Approved(_)));
    }

    #[tokio::test]
    async fn there_are_as_many_guests_as_there_may_be_and_each_goes_with_its_request() {
        for mut place in engines().await {
            for number in 1..=5 {
                begun(&place.store, number).await;
            }
            for (number, expected) in [(1, GuestChoice::Chosen), (2, GuestChoice::Chosen), (3, GuestChoice::TooMany)] {
                assert_eq!(chosen(&place.store, number, 2).await, expected);
            }
            let third = authorizations::get(&place.store, &request_id(3), digest("browser")).await.unwrap().unwrap();
            assert_eq!(third.chosen, None, "who could not become a guest has not chosen");
            place.restart().await;
            let store = &place.store;
            // Back, cancel, another identity, and time.
            authorizations::unchoose(store, &request_id(1), digest("browser")).await.unwrap().unwrap();
            assert_eq!(count(store).await, 1);
            authorizations::deny(store, &request_id(2), digest("browser"), Actor::System).await.unwrap().unwrap();
            assert_eq!(count(store).await, 0);
            assert_eq!(chosen(store, 3, 2).await, GuestChoice::Chosen);
            authorizations::choose(store, &request_id(3), digest("browser"), key("ci"), None).await.unwrap().unwrap();
            assert_eq!(count(store).await, 0);
            assert_eq!(chosen(store, 4, 2).await, GuestChoice::Chosen);
            let stranger = authorizations::choose_guest(store, &request_id(5), digest("x"), guest(9), None, 9).await;
            assert_eq!(stranger.unwrap(), GuestChoice::Refused(Refused::WrongBrowser));
            verify(store).await;
            place.forward(CONSENT_LIFE);
            while place.sweep().await > 0 {}
            assert_eq!(count(store).await, 0);
            verify(store).await;
        }
    }

    #[tokio::test]
    async fn what_a_guest_connected_goes_with_the_consent_that_is_abandoned() {
        for place in engines().await {
            let store = &place.store;
            let holder = |number| Holder::Of(Principal::Guest(guest(number)));
            let at = |number| crate::connection::Place {
                holder: holder(number),
                upstream: crate::ids::UpstreamName::parse("notes").unwrap(),
            };
            for number in 1..=3 {
                begun(store, number).await;
                assert_eq!(chosen(store, number, 9).await, GuestChoice::Chosen);
                connected(store, &holder(number), "notes").await;
            }
            authorizations::unchoose(store, &request_id(1), digest("browser")).await.unwrap().unwrap();
            authorizations::deny(store, &request_id(2), digest("browser"), Actor::System).await.unwrap().unwrap();
            for number in 1..=2 {
                assert_eq!(connections::get(store, &at(number)).await.unwrap(), None);
            }
            assert!(connections::get(store, &at(3)).await.unwrap().is_some());
            // What time takes away, the reconciling sweep ends.
            place.forward(CONSENT_LIFE);
            while place.sweep().await > 0 {}
            assert_eq!(count(store).await, 0);
            let of = store.read(super::super::changes::revision).await.unwrap();
            let swept = connections::sweep(store, of, None, DAY, |_| crate::connection::Access::Granted).await.unwrap();
            assert!(matches!(swept, connections::Swept::Step { ended: 1, .. }), "{swept:?}");
            assert_eq!(connections::get(store, &at(3)).await.unwrap(), None);
            verify(store).await;
        }
    }

    #[tokio::test]
    async fn a_guest_lives_as_long_as_what_was_granted_to_them() {
        for mut place in engines().await {
            begun(&place.store, 1).await;
            assert_eq!(chosen(&place.store, 1, 2).await, GuestChoice::Chosen);
            approved(&place.store, 1).await;
            let party = Party { principal: Principal::Guest(guest(1)), client: client("app") };
            issue(&place.store, 7, "refresh", party).await;
            place.restart().await;
            let store = &place.store;
            for _ in 0..3 {
                place.forward(DAY);
                while place.sweep().await > 0 {}
                assert_eq!(count(store).await, 1);
                verify(store).await;
            }
            let whose = Whose::Principal(Principal::Guest(guest(1)));
            revoke_all(store, whose, RevocationReason::Operator, OPERATOR).await.unwrap();
            assert!(granted::get(store, &grant_id(7)).await.unwrap().unwrap().end.is_some());
            place.forward(DAY);
            while place.sweep().await > 0 {}
            assert_eq!(count(store).await, 0);
            verify(store).await;
        }
    }
}
