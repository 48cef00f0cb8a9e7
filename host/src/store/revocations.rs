//! What was revoked while access tokens for it may still live.
//!
//! A grant or a single access token that is revoked is an entry here, for as long as an access token can live. All that was
//! granted to a client, a principal, a kind of principal or anybody is revoked by one *watermark*: what was granted up to
//! then counts no more, however much that was. Gateways keep a copy of both, follow the changes, and ask no store for a
//! request; the verbs of the authorization server ask here.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::changes::{Change, announce};
use super::engine::{Bounds, Direction, Table};
use super::grants::Revocation;
use super::record::{grant, none};
use super::table::{Cursor, MAX_PAGE, Page, Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, grants};
use crate::audit::{Actor, AuditEvent, RevocationReason};
use crate::env::Timestamp;
use crate::ids::{ClientId, GrantId, Principal};
use crate::oauth::MAX_ACCESS_TOKEN_LIFE;
use crate::oauth::grant::{KEPT_AFTER_END, MAX_LIFE};
use crate::secret::Digest;

/// For how long access tokens are refused that belong to what was revoked: their longest life, and some for clocks.
const DENIED_FOR: Duration = MAX_ACCESS_TOKEN_LIFE.saturating_add(Duration::from_secs(10 * 60));
/// For how long a watermark is kept: until nothing from before it can count.
pub const WATERMARK_FOR: Duration = MAX_LIFE.saturating_add(KEPT_AFTER_END);
/// Watermarks that one transaction sets, well below what it may write.
const REVOKED_AT_ONCE: usize = 100;
/// Entries of one grant: the last of them refuses all of it.
const MAX_OF_GRANT: usize = MAX_PAGE;
/// How far the clock may have been ahead of itself. A grant that is from further ahead counts no more
/// ([`crate::oauth::grant::MAX_AHEAD`]), so that a watermark covers no more of the future than this.
const MAX_AHEAD: Duration = crate::oauth::grant::MAX_AHEAD;
/// The latest time at which something was consented to, granted, refreshed or signed with that, in milliseconds. After the
/// clock was set back it is ahead of that, and so is what has to be revoked; never further than [`MAX_AHEAD`], once anything is granted
/// or revoked by the right clock.
const LATEST: Single<u64> = Single::new("latest_granted");

pub(super) const DENIED: Typed<DeniedRecord> = Typed {
    table: Table::Denied,
    version: 1,
    older: &[],
    key: |record| denied_key(&record.grant, record.token.as_deref()),
    indexes: &[],
    expires: Some(|record| Some(Timestamp::from_millis(record.until_ms))),
};

pub(super) const WATERMARKS: Typed<WatermarkRecord> = Typed {
    table: Table::Watermarks,
    version: 1,
    older: &[],
    key: |record| record.of.as_bytes().to_vec(),
    indexes: &[],
    expires: Some(|record| Some(Timestamp::from_millis(record.not_before_ms).after(WATERMARK_FOR))),
};

/// Access tokens that are refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denied {
    pub grant: GrantId,
    /// Digest of the `jti` of the only token that is meant; `None`: all of the grant's.
    pub token: Option<String>,
    /// When they are refused for their age anyway.
    pub until: Timestamp,
}

/// Whose everything was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    Everybody,
    Kind(PrincipalKind),
    Principal(Principal),
    Client(ClientId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    Key,
    User,
    Guest,
}

/// What was granted up to then counts no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    pub whose: Whose,
    /// The last moment that does not count.
    pub not_before: Timestamp,
    pub reason: RevocationReason,
}

impl PrincipalKind {
    /// The kind of a principal, if consents can be given by such.
    pub const fn of(principal: &Principal) -> Option<Self> {
        match principal {
            Principal::Key(_) => Some(Self::Key),
            Principal::User(_) => Some(Self::User),
            Principal::Guest(_) => Some(Self::Guest),
            Principal::Anonymous | Principal::Gateway => None,
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Key, Self::User, Self::Guest].into_iter().find(|kind| kind.as_str() == name)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::User => "user",
            Self::Guest => "guest",
        }
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everybody => f.write_str("everybody"),
            Self::Kind(kind) => write!(f, "kind:{}", kind.as_str()),
            Self::Principal(principal) => write!(f, "principal:{principal}"),
            Self::Client(client) => write!(f, "client:{client}"),
        }
    }
}

impl Whose {
    /// Whose it is that [`std::fmt::Display`] writes like this.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "everybody" {
            return Some(Self::Everybody);
        }
        match text.split_once(':')? {
            ("kind", kind) => PrincipalKind::parse(kind).map(Self::Kind),
            ("principal", principal) => Principal::parse(principal).map(Self::Principal),
            ("client", client) => ClientId::parse(client).map(Self::Client),
            _ => None,
        }
    }
}

/// Notes that something is consented to, granted or refreshed at this time.
pub(super) fn granted_in(tx: &mut WriteTx<'_>, at: Timestamp) -> Result<(), StoreError> {
    let latest = LATEST.get(tx)?;
    let wanted = bounded(tx, latest.unwrap_or(0)).max(at.as_millis());
    if latest != Some(wanted) {
        LATEST.put(tx, &wanted)?;
    }
    Ok(())
}

/// A time that some clock showed, as far as it can count.
fn bounded(tx: &ReadTx<'_>, millis: u64) -> u64 {
    millis.min(tx.now().after(MAX_AHEAD).as_millis())
}

/// Revokes all that was granted until now, by whatever the clock showed then.
pub async fn revoke_all(
    store: &Store,
    whose: Whose,
    reason: RevocationReason,
    actor: Actor,
) -> Result<Watermark, StoreError> {
    store.write(move |tx| revoke_all_in(tx, &whose, reason, actor)).await
}

/// The same for several at once.
pub async fn revoke_each(store: &Store, these: Vec<(Whose, RevocationReason)>, actor: Actor) -> Result<(), StoreError> {
    for some in these.chunks(REVOKED_AT_ONCE) {
        let some = some.to_vec();
        let revoke = move |tx: &mut WriteTx<'_>| {
            some.iter().try_for_each(|(whose, reason)| revoke_all_in(tx, whose, *reason, actor).map(drop))
        };
        store.write(revoke).await?;
    }
    Ok(())
}

/// The same inside the transaction of what it follows from, such as the deletion of a client.
pub(super) fn revoke_all_in(
    tx: &mut WriteTx<'_>,
    whose: &Whose,
    reason: RevocationReason,
    actor: Actor,
) -> Result<Watermark, StoreError> {
    let of = whose.to_string();
    let before_ms = WATERMARKS.get(tx, of.as_bytes())?.map_or(0, |record| record.not_before_ms);
    // A clock that was set back takes nothing back, and spares nothing that was granted before that.
    let latest = before_ms.max(LATEST.get(tx)?.unwrap_or(0));
    let not_before_ms = bounded(tx, latest).max(tx.now().as_millis());
    let not_before = Timestamp::from_millis(not_before_ms);
    let record = WatermarkRecord { of: of.clone(), not_before_ms, reason: reason.as_str().to_owned() };
    WATERMARKS.put(tx, &record)?;
    audit::append(tx, actor, &AuditEvent::GrantsRevoked { of: of.clone(), reason })?;
    announce(tx, Change::Watermark { of })?;
    Ok(Watermark { whose: whose.clone(), not_before, reason })
}

/// Refuses one access token, by the digest of its `jti`. A grant of which so many are refused that they fill a page ends: what
/// is refused as a whole must give nothing new, of which every token would be refused as well.
pub async fn revoke_token(store: &Store, grant: GrantId, jti: Digest, actor: Actor) -> Result<(), StoreError> {
    store
        .write(move |tx| {
            let issued = grants::last_used_in(tx, &grant)?.unwrap_or_default();
            let whole = denied_until(tx, &grant, None)?;
            // One that is refused as a whole may have been refreshed since: it is refused for longer then.
            let is_covered = whole.is_some_and(|until| issued.after(DENIED_FOR) <= until);
            if is_covered || denied_until(tx, &grant, Some(jti))?.is_some() {
                return Ok(());
            }
            let within = Bounds::within(grant.as_str().as_bytes());
            let others = tx.range(Table::Denied, &within, Direction::Forward, MAX_OF_GRANT)?.len();
            let is_whole = whole.is_some() || others + 1 >= MAX_OF_GRANT;
            if !is_whole {
                deny_in(tx, &grant, Some(jti), issued)?;
            } else if grants::revoke_in(tx, &grant, |_| true, RevocationReason::Client, actor)? == Revocation::NotFound
            {
                // It had ended otherwise, and tokens of it may live.
                deny_in(tx, &grant, None, issued)?;
            }
            audit::append(tx, actor, &AuditEvent::TokenRevoked { grant: grant.clone() })
        })
        .await
}

/// Until when a token, or all of the grant's, are refused, if they are.
fn denied_until(tx: &mut ReadTx<'_>, grant: &GrantId, jti: Option<Digest>) -> Result<Option<Timestamp>, StoreError> {
    let record = DENIED.get(tx, &denied_key(grant.as_str(), jti.map(Digest::to_hex).as_deref()))?;
    let until = record.map(|record| Timestamp::from_millis(record.until_ms));
    Ok(until.filter(|until| tx.now() < *until))
}

/// Refuses the access tokens of a grant, or one of them. The last of them was issued at `issued`, or before now.
pub(super) fn deny_in(
    tx: &mut WriteTx<'_>,
    grant: &GrantId,
    jti: Option<Digest>,
    issued: Timestamp,
) -> Result<(), StoreError> {
    let until_ms = tx.now().max(issued).after(DENIED_FOR).as_millis();
    DENIED.put(tx, &DeniedRecord { grant: grant.to_string(), token: jti.map(Digest::to_hex), until_ms })?;
    announce(tx, Change::Grant { id: grant.to_string() })
}

/// A page of everything that is refused, for a gateway that starts. It comes in no particular order.
pub async fn denied(store: &Store, after: Option<Cursor>) -> Result<Page<Denied>, StoreError> {
    store
        .read(move |tx| {
            let now = tx.now().as_millis();
            DENIED
                .newest_first(tx, after.as_ref(), MAX_PAGE, |record| now < record.until_ms)?
                .try_map(TryFrom::try_from)
        })
        .await
}

/// What is refused of a grant. There are at most [`MAX_PAGE`] entries.
pub async fn denied_of(store: &Store, grant: &GrantId) -> Result<Vec<Denied>, StoreError> {
    let grant = grant.clone();
    store.read(move |tx| denied_in(tx, &grant)).await
}

fn denied_in(tx: &mut ReadTx<'_>, grant: &GrantId) -> Result<Vec<Denied>, StoreError> {
    let within = Bounds::within(grant.as_str().as_bytes());
    let rows = tx.range(Table::Denied, &within, Direction::Forward, MAX_PAGE)?;
    rows.iter().map(|(_, row)| DENIED.decode(row)?.try_into()).collect()
}

/// What was revoked of some grants and others, and is still.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Of {
    /// For each grant.
    pub denied: Vec<(GrantId, Vec<Denied>)>,
    /// For each of the others.
    pub watermarks: Vec<(Whose, Option<Watermark>)>,
}

/// What is revoked of these, for a gateway that was told of changes: asked in one question, however many they are. No more
/// than one step of what has changed together.
pub async fn of(store: &Store, grants: Vec<GrantId>, whose: Vec<Whose>) -> Result<Of, StoreError> {
    store
        .read(move |tx| {
            let mut of = Of::default();
            for grant in &grants {
                of.denied.push((grant.clone(), denied_in(tx, grant)?));
            }
            for whose in &whose {
                of.watermarks.push((whose.clone(), get(tx, whose)?));
            }
            Ok(of)
        })
        .await
}

/// A page of all watermarks, for a gateway that starts. They come in no particular order.
pub async fn watermarks(store: &Store, after: Option<Cursor>) -> Result<Page<Watermark>, StoreError> {
    store
        .read(move |tx| WATERMARKS.newest_first(tx, after.as_ref(), MAX_PAGE, |_| true)?.try_map(TryFrom::try_from))
        .await
}

/// The watermark of this.
pub async fn watermark(store: &Store, whose: Whose) -> Result<Option<Watermark>, StoreError> {
    store.read(move |tx| get(tx, &whose)).await
}

fn get(tx: &mut ReadTx<'_>, whose: &Whose) -> Result<Option<Watermark>, StoreError> {
    WATERMARKS.get(tx, whose.to_string().as_bytes())?.map(TryFrom::try_from).transpose()
}

/// The latest watermark that what was granted to these at this time is not above.
pub(super) fn covering(
    tx: &mut ReadTx<'_>,
    principal: &Principal,
    client: &ClientId,
    at: Timestamp,
) -> Result<Option<Watermark>, StoreError> {
    Coverage::default().of(tx, principal, client, at)
}

/// The watermarks that were read in this transaction, for a page of things that share them.
#[derive(Default)]
pub(super) struct Coverage(HashMap<Whose, Option<Watermark>>);

impl Coverage {
    /// As [`covering`].
    pub(super) fn of(
        &mut self,
        tx: &mut ReadTx<'_>,
        principal: &Principal,
        client: &ClientId,
        at: Timestamp,
    ) -> Result<Option<Watermark>, StoreError> {
        let kind = PrincipalKind::of(principal).map(Whose::Kind);
        let others = [Whose::Everybody, Whose::Principal(principal.clone()), Whose::Client(client.clone())];
        let mut latest: Option<&Watermark> = None;
        for whose in others.iter().chain(&kind) {
            if !self.0.contains_key(whose) {
                self.0.insert(whose.clone(), get(tx, whose)?);
            }
        }
        for whose in others.iter().chain(&kind) {
            let found = self.0.get(whose).and_then(Option::as_ref).filter(|watermark| at <= watermark.not_before);
            latest = latest.into_iter().chain(found).max_by_key(|watermark| watermark.not_before);
        }
        Ok(latest.cloned())
    }
}

fn denied_key(grant: &str, token: Option<&str>) -> Vec<u8> {
    // All ids of grants have the same length.
    [grant.as_bytes(), token.unwrap_or_default().as_bytes()].concat()
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeniedRecord {
    grant: String,
    token: Option<String>,
    until_ms: u64,
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatermarkRecord {
    of: String,
    not_before_ms: u64,
    reason: String,
}

impl TryFrom<DeniedRecord> for Denied {
    type Error = StoreError;

    fn try_from(record: DeniedRecord) -> Result<Self, StoreError> {
        let DeniedRecord { grant: id, token, until_ms } = record;
        Ok(Self { grant: grant(Table::Denied, &id)?, token, until: Timestamp::from_millis(until_ms) })
    }
}

impl TryFrom<WatermarkRecord> for Watermark {
    type Error = StoreError;

    fn try_from(record: WatermarkRecord) -> Result<Self, StoreError> {
        let WatermarkRecord { of, not_before_ms, reason } = record;
        Ok(Self {
            whose: Whose::parse(&of).ok_or_else(|| none(Table::Watermarks, "an owner"))?,
            not_before: Timestamp::from_millis(not_before_ms),
            reason: RevocationReason::parse(&reason).ok_or_else(|| none(Table::Watermarks, "a reason"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::grants;
    use super::super::oauth_testing::*;
    use super::*;

    #[tokio::test]
    async fn one_access_token_is_refused_and_its_grant_is_not() {
        for mut place in engines().await {
            issue(&place.store, 1, "a", party("ci", "app")).await;
            for name in ["jti1", "jti2"] {
                revoke_token(&place.store, grant_id(1), digest(name), Actor::System).await.unwrap();
            }
            place.restart().await;
            let until = place.now().after(DENIED_FOR);
            let denied_token = |name| Denied { grant: grant_id(1), token: Some(digest(name).to_hex()), until };
            let mut of_grant = denied_of(&place.store, &grant_id(1)).await.unwrap();
            of_grant.sort_by_key(|denied| denied.token != denied_token("jti1").token);
            assert_eq!(of_grant, [denied_token("jti1"), denied_token("jti2")]);
            assert_eq!(trail(&place.store).await, ["grant.issued", "token.revoked", "token.revoked"]);
            assert_eq!(announced(&place.store).await, vec![Change::Grant { id: grant_id(1).to_string() }; 2]);
            assert_eq!(grants::get(&place.store, &grant_id(1)).await.unwrap().unwrap().end, None);
            place.forward(DENIED_FOR);
            while place.sweep().await > 0 {}
            assert_eq!(denied_of(&place.store, &grant_id(1)).await.unwrap(), []);
            verify(&place.store).await;
        }
    }

    #[tokio::test]
    async fn a_token_is_refused_once_and_a_page_of_them_is_the_whole_grant() {
        for place in engines().await {
            let store = &place.store;
            issue(store, 1, "a", party("ci", "app")).await;
            let revoke = async |number: usize| {
                revoke_token(store, grant_id(1), digest(&format!("jti{number}")), Actor::System).await.unwrap();
            };
            for number in [0, 0, 1, 0] {
                revoke(number).await;
            }
            assert_eq!(trail(store).await, ["grant.issued", "token.revoked", "token.revoked"]);
            assert_eq!(announced(store).await.len(), 2);
            for number in 2..MAX_OF_GRANT - 1 {
                revoke(number).await;
            }
            let whole = || async {
                let of_grant = denied_of(store, &grant_id(1)).await.unwrap();
                (of_grant.len(), of_grant.iter().filter(|denied| denied.token.is_none()).count())
            };
            assert_eq!(whole().await, (MAX_OF_GRANT - 1, 0));
            for number in MAX_OF_GRANT - 1..MAX_OF_GRANT + 9 {
                revoke(number).await;
                assert_eq!(whole().await, (MAX_OF_GRANT, 1), "what is refused is told of");
            }
            let end = grants::get(store, &grant_id(1)).await.unwrap().unwrap().end;
            assert_eq!(end, Some(crate::oauth::grant::Gone::Revoked), "nothing more comes of it");
            assert!(trail(store).await.ends_with(&["grant.revoked", "token.revoked"]));
            verify(store).await;
        }
    }

    #[tokio::test]
    async fn a_token_that_a_clock_ahead_of_the_stores_has_signed_is_covered() {
        const AHEAD: Duration = Duration::from_secs(3);
        for place in engines().await {
            let store = &place.store;
            let revoked_up_to = async || {
                let whose = Whose::Principal(key("ci"));
                revoke_all(store, whose, RevocationReason::Operator, OPERATOR).await.unwrap().not_before
            };
            let signed = place.now().after(AHEAD);
            issue_as(store, grants::NewGrant { signed, ..new_grant(1, "a") }, party("ci", "app"), None).await;
            assert!(revoked_up_to().await >= signed, "the first one");
            place.forward(Duration::from_secs(60));
            issue(store, 2, "b", party("ci", "app")).await;
            for next in ["c", "d"] {
                // The first use, and one more in its grace.
                let signed = place.now().after(AHEAD);
                let successor = crate::oauth::grant::Successor {
                    digest: digest(next),
                    sealed: crate::secret::Sealed::from_bytes(*b"sealed"),
                    signed,
                };
                let presented = crate::oauth::grant::Presented {
                    token: digest("b"),
                    client: client("app"),
                    proof: None,
                    scopes: None,
                    resources: crate::oauth::ResourceList::default(),
                    is_stored: true,
                };
                let grace = crate::oauth::grant::Grace::default();
                let idle = Duration::from_secs(3_600);
                grants::refresh(store, presented, successor, grace, idle).await.unwrap();
                assert_eq!(latest(store).await, signed.as_millis(), "{next}");
                place.forward(Duration::from_secs(1));
            }
        }
    }

    /// Up to where a revocation reaches.
    async fn latest(store: &Store) -> u64 {
        store.read(|tx| LATEST.get(tx)).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_was_granted_before_the_clock_was_set_back_is_revoked_as_well() {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        for place in engines().await {
            let store = &place.store;
            for number in 1..=3 {
                issue(store, number, &format!("t{number}"), party("ci", "app")).await;
            }
            let issued = place.now();
            place.back(HOUR);
            revoke_all(store, Whose::Principal(key("ci")), RevocationReason::Operator, OPERATOR).await.unwrap();
            let watermark = watermark(store, Whose::Principal(key("ci"))).await.unwrap().unwrap();
            assert_eq!(watermark.not_before, issued);
            let end = async |number| grants::get(store, &grant_id(number)).await.unwrap().unwrap().end;
            assert_eq!(end(1).await, Some(crate::oauth::grant::Gone::Revoked));

            // Its access token may live as long after the clock was set back as it would have before.
            issue(store, 4, "t4", party("other", "app")).await;
            place.forward(HOUR);
            place
                .store
                .write(|tx| grants::revoke_in(tx, &grant_id(4), |_| true, RevocationReason::Operator, OPERATOR))
                .await
                .unwrap();
            issue(store, 5, "t5", party("other", "app")).await;
            let late = place.now().after(DENIED_FOR);
            place.back(HOUR);
            grants::revoke(store, &grant_id(5), RevocationReason::Operator, OPERATOR).await.unwrap();
            issue(store, 6, "t6", party("other", "app")).await;
            place.forward(HOUR);
            assert_eq!(denied_of(store, &grant_id(5)).await.unwrap()[0].until, late);
            revoke_token(store, grant_id(6), digest("jti"), Actor::System).await.unwrap();
            assert_eq!(denied_of(store, &grant_id(6)).await.unwrap()[0].until, late);

            place.forward(HOUR);
            let again = issue(store, 7, "t7", party("ci", "app")).await;
            assert_eq!(end(7).await, None, "{again:?}");
            verify(store).await;
        }
    }

    #[tokio::test]
    async fn a_clock_that_once_was_far_ahead_leaves_no_watermark_in_the_future() {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        for place in engines().await {
            let store = &place.store;
            issue(store, 1, "t1", party("ci", "app")).await;
            place.forward(YEAR);
            issue(store, 2, "t2", party("ci", "app")).await;
            revoke_all(store, Whose::Client(client("app")), RevocationReason::Operator, OPERATOR).await.unwrap();
            place.back(YEAR);
            let end = async |number| grants::get(store, &grant_id(number)).await.unwrap().unwrap().end;
            assert!(end(2).await.is_some(), "it is from a time that has not come");

            // Of those that were granted by a clock that was wrong by less, all are covered.
            place.forward(MAX_AHEAD - Duration::from_secs(1));
            issue(store, 3, "t3", party("ci", "other")).await;
            place.back(MAX_AHEAD - Duration::from_secs(1));
            let whose = Whose::Principal(key("ci"));
            for which in [whose, Whose::Client(client("app"))] {
                let revoked = revoke_all(store, which.clone(), RevocationReason::Operator, OPERATOR).await.unwrap();
                assert_eq!(revoked.not_before, place.now().after(MAX_AHEAD), "{which}: and no more of the future");
            }
            assert_eq!(end(3).await, Some(crate::oauth::grant::Gone::Revoked));

            // That is over with the hour, and does not move on with the clock.
            place.forward(2 * MAX_AHEAD);
            let revoked = revoke_all(store, Whose::Everybody, RevocationReason::Operator, OPERATOR).await.unwrap();
            assert_eq!(revoked.not_before, place.now());
            place.forward(Duration::from_millis(1));
            issue(store, 4, "t4", party("ci", "app")).await;
            assert_eq!(end(4).await, None);
            verify(store).await;
        }
    }

    #[tokio::test]
    async fn everything_that_is_refused_comes_in_pages() {
        let place = Place::memory().await;
        for number in 0..450 {
            place.store.write(move |tx| deny_in(tx, &grant_id(number), None, tx.now())).await.unwrap();
        }
        let (mut seen, mut after) = (0, None);
        loop {
            let page = denied(&place.store, after).await.unwrap();
            seen += page.items.len();
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        assert_eq!(seen, 450);
    }

    #[tokio::test]
    async fn a_watermark_stays_as_long_as_anything_from_before_it() {
        let place = Place::memory().await;
        issue(&place.store, 1, "a", party("ci", "app")).await;
        revoke_all(&place.store, Whose::Everybody, RevocationReason::Operator, OPERATOR).await.unwrap();
        place.forward(MAX_LIFE);
        while place.sweep().await > 0 {}
        assert_eq!(watermarks(&place.store, None).await.unwrap().items.len(), 1);
        place.forward(KEPT_AFTER_END);
        while place.sweep().await > 0 {}
        assert_eq!(watermark(&place.store, Whose::Everybody).await.unwrap(), None);
        assert_eq!(grants::get(&place.store, &grant_id(1)).await.unwrap(), None);
        verify(&place.store).await;
    }

    #[test]
    fn whose_is_read_as_it_is_written() {
        for whose in [
            Whose::Everybody,
            Whose::Kind(PrincipalKind::Key),
            Whose::Kind(PrincipalKind::User),
            Whose::Kind(PrincipalKind::Guest),
            Whose::Principal(key("ci")),
            Whose::Client(client("app")),
        ] {
            assert_eq!(Whose::parse(&whose.to_string()), Some(whose));
        }
        for bad in ["", "all", "kind:gateway", "principal:", "client:", "principal:key:A"] {
            assert_eq!(Whose::parse(bad), None, "{bad}");
        }
    }
}
