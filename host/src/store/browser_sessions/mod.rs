//! Browsers in which people are signed in, found by the digest of their cookie.
//!
//! Each verb is one transaction, with its audit row inside. A session counts only as long as it lives and its user is
//! active; whoever finds one is told both. What a session is is `identity::browser`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::Table;
use super::table::{Cursor, Index, Page, Single, Typed, shorten, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx, audit, users};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::identity::browser::{BrowserSession, Method, Surface};
use crate::identity::user::User;
use crate::ids::{BrowserSessionId, UserId, UserTag};
use crate::secret::Digest;

#[cfg(test)]
pub(super) mod tests;

/// Most browsers of one person. One more ends the oldest.
pub const MAX_PER_USER: usize = 32;
/// How far what is known of a session's last use may be behind.
pub const SEEN_STEP: Duration = Duration::from_secs(60);
/// Shortest idle life: several times [`SEEN_STEP`], so that use keeps a session alive.
pub const MIN_IDLE: Duration = Duration::from_secs(5 * 60);
const MAX_AGENT_BYTES: usize = 200;

pub(super) const SESSIONS: Typed<Record> = Typed {
    table: Table::BrowserSessions,
    version: 1,
    older: &[],
    key: |record| record.id.as_bytes().to_vec(),
    indexes: &[
        Index { table: Table::BrowserSessionsByDigest, key: |record| record.digest.to_vec() },
        Index { table: Table::BrowserSessionsByUser, key: |record| by_user(&record.user, &record.id) },
    ],
    expires: Some(|record| Some(record.expires())),
};

/// Sessions that were begun before this do not count, or rather: of a lower number.
const EPOCH: Single<u64> = Single::new(EPOCH_NAME);
const EPOCH_NAME: &str = "browser_epoch";

/// Makes everything about sessions unreadable, or readable again: for tests of whoever signs people in.
#[cfg(test)]
pub(crate) async fn damage(store: &Store, is_damaged: bool) {
    let written = store.write(move |tx| match is_damaged {
        true => Single::<String>::new(EPOCH_NAME).put(tx, &"no number".to_owned()),
        false => EPOCH.put(tx, &0),
    });
    written.await.unwrap();
}

/// A session to be begun.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub id: BrowserSessionId,
    pub user: UserId,
    /// [`User::revision`] that the person's proof was checked against.
    pub seen: u64,
    /// Of the new cookie.
    pub digest: Digest,
    /// Of the cookie that the browser had before: dead from now on.
    pub replaces: Option<Digest>,
    pub surface: Surface,
    pub method: Method,
    /// When the person showed who they are, if that was not just now.
    pub shown: Option<Timestamp>,
    pub idle: Duration,
    pub life: Duration,
    pub agent: String,
}

/// What came of [`begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    Begun(Box<BrowserSession>),
    /// There is no such user, or the account opens nothing.
    NotActive,
    /// The account has changed since the proof was checked: check it again.
    Changed,
}

/// What came of [`rotate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    Rotated(Box<BrowserSession>),
    /// The old cookie opens nothing.
    Gone,
}

/// What came of [`touch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Noted,
    /// It was noted less than [`SEEN_STEP`] ago.
    Recent,
    Gone,
}

/// What came of [`end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Ended,
    NotFound,
}

/// Signs a person in.
pub async fn begin(store: &Store, new: NewSession) -> Result<Beginning, StoreError> {
    store.write(move |tx| begin_in(tx, &new)).await
}

fn begin_in(tx: &mut WriteTx<'_>, new: &NewSession) -> Result<Beginning, StoreError> {
    let now = tx.now();
    let epoch = EPOCH.get(tx)?.unwrap_or(0);
    let Some(user) = users::get_in(tx, &new.user)?.filter(User::is_active) else { return Ok(Beginning::NotActive) };
    if user.revision != new.seen {
        return Ok(Beginning::Changed);
    }
    if let Some(replaced) = &new.replaces
        && let Some(old) = SESSIONS.find(tx, Table::BrowserSessionsByDigest, replaced.as_bytes())?
    {
        end_one(tx, &old, epoch)?;
    }
    let others =
        SESSIONS.newest_within(tx, (Table::BrowserSessionsByUser, new.user.as_str().as_bytes()), MAX_PER_USER)?;
    for oldest in others.iter().skip(MAX_PER_USER - 1) {
        end_one(tx, oldest, epoch)?;
    }
    let session = BrowserSession {
        id: new.id.clone(),
        user: new.user.clone(),
        digest: new.digest,
        surface: new.surface,
        created: now,
        authenticated: new.shown.map_or(now, |shown| shown.min(now)),
        method: new.method.clone(),
        last_seen: now,
        idle: new.idle.max(MIN_IDLE),
        ends: now.after(new.life),
        agent: shorten(&new.agent, MAX_AGENT_BYTES),
    };
    SESSIONS.put(tx, &Record::new(&session, epoch))?;
    let oneself = Actor::User(UserTag::from(&user.id));
    let method = session.method.as_str().to_owned();
    let event = AuditEvent::SignedIn { user: user.id.clone(), session: session.id.clone(), method };
    users::signed_in_now(tx, user)?;
    audit::append(tx, oneself, &event)?;
    Ok(Beginning::Begun(Box::new(session)))
}

/// Ends a session to which a new one succeeds. One that was over anyway ends without a line in the audit trail.
fn end_one(tx: &mut WriteTx<'_>, record: &Record, epoch: u64) -> Result<(), StoreError> {
    SESSIONS.remove(tx, record.id.as_bytes())?;
    if record.epoch != epoch || record.expires() <= tx.now() {
        return Ok(());
    }
    let user = UserId::parse(&record.user).ok_or_else(|| unreadable(Table::BrowserSessions, "a user is none"))?;
    audit::append(tx, Actor::User(UserTag::from(&user)), &AuditEvent::SignedOut { user, sessions: 1 })
}

/// The living session of a cookie on one surface, and its active user.
pub async fn find(
    store: &Store,
    digest: Digest,
    surface: Surface,
) -> Result<Option<(BrowserSession, User)>, StoreError> {
    store
        .read(move |tx| {
            let found = alive(tx, &digest)?.filter(|session| session.surface == surface);
            let Some(session) = found else { return Ok(None) };
            let user = users::get_in(tx, &session.user)?.filter(User::is_active);
            Ok(user.map(|user| (session, user)))
        })
        .await
}

/// The session of a cookie, if it lives.
fn alive(tx: &mut ReadTx<'_>, digest: &Digest) -> Result<Option<BrowserSession>, StoreError> {
    let epoch = EPOCH.get(tx)?.unwrap_or(0);
    let Some(record) = SESSIONS.find(tx, Table::BrowserSessionsByDigest, digest.as_bytes())? else { return Ok(None) };
    let is_current = record.epoch == epoch;
    let session = BrowserSession::try_from(record)?;
    Ok(Some(session).filter(|session| is_current && session.is_alive(tx.now())))
}

/// Notes that a session was used, at most once a minute.
pub async fn touch(store: &Store, digest: Digest) -> Result<Touch, StoreError> {
    store
        .write(move |tx| {
            let Some(session) = alive(tx, &digest)? else { return Ok(Touch::Gone) };
            let now = tx.now();
            if now < session.last_seen.after(SEEN_STEP) {
                return Ok(Touch::Recent);
            }
            let epoch = EPOCH.get(tx)?.unwrap_or(0);
            SESSIONS.put(tx, &Record::new(&BrowserSession { last_seen: now, ..session }, epoch))?;
            Ok(Touch::Noted)
        })
        .await
}

/// Gives a session a new cookie; the old one is dead from then on. With `proof`, the person has just shown again who
/// they are.
pub async fn rotate(store: &Store, old: Digest, new: Digest, proof: Option<Method>) -> Result<Rotation, StoreError> {
    store
        .write(move |tx| {
            let Some(session) = alive(tx, &old)? else { return Ok(Rotation::Gone) };
            let now = tx.now();
            let (method, authenticated) = match &proof {
                Some(method) => (method.clone(), now),
                None => (session.method.clone(), session.authenticated),
            };
            let session = BrowserSession { digest: new, method, authenticated, last_seen: now, ..session };
            let epoch = EPOCH.get(tx)?.unwrap_or(0);
            SESSIONS.put(tx, &Record::new(&session, epoch))?;
            let oneself = Actor::User(UserTag::from(&session.user));
            let event = AuditEvent::SessionRenewed { user: session.user.clone(), session: session.id.clone() };
            audit::append(tx, oneself, &event)?;
            Ok(Rotation::Rotated(Box::new(session)))
        })
        .await
}

/// Ends one session. With `of`, only one of that user's: anybody else's is not found.
pub async fn end(store: &Store, id: &BrowserSessionId, of: Option<UserId>, actor: Actor) -> Result<Ending, StoreError> {
    let id = id.clone();
    store
        .write(move |tx| {
            let Some(record) = SESSIONS.get(tx, id.as_str().as_bytes())? else { return Ok(Ending::NotFound) };
            if of.as_ref().is_some_and(|of| of.as_str() != record.user) {
                return Ok(Ending::NotFound);
            }
            let session = BrowserSession::try_from(record)?;
            SESSIONS.remove(tx, id.as_str().as_bytes())?;
            audit::append(tx, actor, &AuditEvent::SignedOut { user: session.user, sessions: 1 })?;
            Ok(Ending::Ended)
        })
        .await
}

/// Ends all sessions of a user but the one that is `spared`, and tells how many.
pub async fn end_all_of(
    store: &Store,
    user: &UserId,
    spared: Option<BrowserSessionId>,
    actor: Actor,
) -> Result<usize, StoreError> {
    let user = user.clone();
    store.write(move |tx| end_all_in(tx, &user, spared.as_ref(), actor)).await
}

pub(super) fn end_all_in(
    tx: &mut WriteTx<'_>,
    user: &UserId,
    spared: Option<&BrowserSessionId>,
    actor: Actor,
) -> Result<usize, StoreError> {
    let all = SESSIONS.newest_within(tx, (Table::BrowserSessionsByUser, user.as_str().as_bytes()), MAX_PER_USER)?;
    let mut ended = 0;
    for record in all.iter().filter(|record| spared.is_none_or(|spared| spared.as_str() != record.id)) {
        SESSIONS.remove(tx, record.id.as_bytes())?;
        ended += 1;
    }
    if ended > 0 {
        audit::append(tx, actor, &AuditEvent::SignedOut { user: user.clone(), sessions: ended as u64 })?;
    }
    Ok(ended)
}

/// Ends every session there is, at once; the rows go when they would have expired.
pub async fn end_every(store: &Store, actor: Actor) -> Result<(), StoreError> {
    store.write(move |tx| end_every_in(tx, actor)).await
}

/// The same inside the transaction of what it follows from.
pub(super) fn end_every_in(tx: &mut WriteTx<'_>, actor: Actor) -> Result<(), StoreError> {
    let epoch = EPOCH.get(tx)?.unwrap_or(0) + 1;
    EPOCH.put(tx, &epoch)?;
    audit::append(tx, actor, &AuditEvent::EverybodySignedOut)
}

/// A page of a user's sessions that are alive, newest first.
pub async fn list(
    store: &Store,
    user: &UserId,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<BrowserSession>, StoreError> {
    let user = user.clone();
    store
        .read(move |tx| {
            let (now, epoch) = (tx.now(), EPOCH.get(tx)?.unwrap_or(0));
            let keep = |record: &Record| record.epoch == epoch && now < record.expires();
            let these = (Table::BrowserSessionsByUser, user.as_str().as_bytes());
            SESSIONS.newest_first_within(tx, these, after.as_ref(), limit, keep)?.try_map(TryFrom::try_from)
        })
        .await
}

fn by_user(user: &str, id: &str) -> Vec<u8> {
    [user.as_bytes(), id.as_bytes()].concat()
}

/// A session as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    id: String,
    user: String,
    digest: [u8; 32],
    surface: String,
    created_ms: u64,
    authenticated_ms: u64,
    method: MethodRecord,
    last_seen_ms: u64,
    idle_ms: u64,
    ends_ms: u64,
    agent: String,
    /// It counts as long as this is the present one.
    epoch: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum MethodRecord {
    Password {},
    Provider { issuer: String },
    SetUpLink {},
}

impl Record {
    fn new(session: &BrowserSession, epoch: u64) -> Self {
        let BrowserSession { id, user, digest, surface, created, authenticated, method, last_seen, idle, ends, agent } =
            session;
        Self {
            id: id.as_str().to_owned(),
            user: user.as_str().to_owned(),
            digest: *digest.as_bytes(),
            surface: surface.as_str().to_owned(),
            created_ms: created.as_millis(),
            authenticated_ms: authenticated.as_millis(),
            method: match method {
                Method::Password => MethodRecord::Password {},
                Method::Provider { issuer } => MethodRecord::Provider { issuer: issuer.clone() },
                Method::SetUpLink => MethodRecord::SetUpLink {},
            },
            last_seen_ms: last_seen.as_millis(),
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            ends_ms: ends.as_millis(),
            agent: agent.clone(),
            epoch,
        }
    }

    fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.ends_ms.min(self.last_seen_ms.saturating_add(self.idle_ms)))
    }
}

impl TryFrom<Record> for BrowserSession {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record {
            id,
            user,
            digest,
            surface,
            created_ms,
            authenticated_ms,
            method,
            last_seen_ms,
            idle_ms,
            ends_ms,
            agent,
            epoch: _,
        } = record;
        let bad = |what: &str| unreadable(Table::BrowserSessions, format_args!("{what} is none"));
        Ok(Self {
            id: BrowserSessionId::parse(&id).ok_or_else(|| bad("an id"))?,
            user: UserId::parse(&user).ok_or_else(|| bad("a user"))?,
            digest: Digest::from_bytes(digest),
            surface: Surface::parse(&surface).ok_or_else(|| bad("a surface"))?,
            created: Timestamp::from_millis(created_ms),
            authenticated: Timestamp::from_millis(authenticated_ms),
            method: match method {
                MethodRecord::Password {} => Method::Password,
                MethodRecord::Provider { issuer } => Method::Provider { issuer },
                MethodRecord::SetUpLink {} => Method::SetUpLink,
            },
            last_seen: Timestamp::from_millis(last_seen_ms),
            idle: Duration::from_millis(idle_ms),
            ends: Timestamp::from_millis(ends_ms),
            agent,
        })
    }
}
