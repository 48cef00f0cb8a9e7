//! What was revoked and who people are now, in memory, so that a request asks nothing of the store.
//!
//! Deny entries and watermarks are all here: loaded before anything is answered, and followed from then on. What was revoked
//! through this gateway is felt by the next request, since [`Standing::is_current`] waits until that was taken in; what was
//! revoked through another one, as soon as the changes are followed, and nobody is let in while they cannot be
//! ([`crate::store::follower`]). Facts about people are read once and forgotten when somebody changes them.
//!
//! A watermark is a time to the millisecond, and so is the time at which a token was issued: of two tokens of the same
//! second, the one from before the watermark is refused, and the one from after it is not. Both are times of the store,
//! if whoever signs takes the time of the transaction that grants.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use moka::sync::Cache;

use super::Fault;
use crate::env::{Env, Timestamp};
use crate::identity::user::Role;
use crate::identity::{Pass, TokenList};
use crate::ids::{ClientId, GrantId, Principal, TokenId, UserId};
use crate::oauth::grant::MAX_AHEAD;
use crate::oauth::token::AccessToken;
use crate::secret::Digest;
use crate::store::changes::{Change, News};
use crate::store::follower::Subscriber;
use crate::store::revocations::{self, Denied, Of, PrincipalKind, WATERMARK_FOR, Whose};
use crate::store::{Store, StoreError, users};

/// How long a request waits until what was revoked here is taken in.
const PATIENCE: Duration = Duration::from_secs(2);
/// People whose facts are kept.
const MAX_PEOPLE: u64 = 20_000;
/// How long facts are kept that nobody changes.
const FACTS_LIFE: Duration = Duration::from_secs(10 * 60);
/// Grants of which something is refused, and watermarks, before those are looked for that can be forgotten.
const FIRST_TIDYING: usize = 1_024;

/// What is revoked, and who people are.
pub struct Standing {
    store: Store,
    env: Env,
    revoked: RwLock<Revoked>,
    people: Cache<UserId, Option<Arc<Facts>>>,
    /// Whether something was revoked, by a later version, of which nobody here knows whose it is.
    is_unclear: AtomicBool,
    /// Counts the changes of people: what was read before one is not kept after it.
    changed: Mutex<u64>,
}

/// Facts about a person that a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether anything is opened by the account.
    pub is_active: bool,
    pub role: Role,
    pub groups: TokenList,
}

/// Why a token counts no more. For the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("its grant was revoked")]
    Grant,
    #[error("it was revoked")]
    Token,
    #[error("everything of {0} from before was revoked")]
    Watermark(Whose),
    #[error("it is from before the store was restored")]
    Restored,
    #[error("it is from a time that has not come")]
    Ahead,
}

/// A token, as far as it can be revoked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub principal: &'a Principal,
    pub client: &'a ClientId,
    pub grant: &'a GrantId,
    pub token: &'a TokenId,
    pub issued: Timestamp,
    pub epoch: u64,
}

impl<'a> From<&'a AccessToken> for Subject<'a> {
    fn from(token: &'a AccessToken) -> Self {
        let AccessToken { principal, client, grant, id, issued, epoch, .. } = token;
        Self { principal, client, grant, token: id, issued: *issued, epoch: *epoch }
    }
}

impl<'a> Subject<'a> {
    /// What a pass of this principal's says.
    pub fn of(principal: &'a Principal, pass: &'a Pass) -> Self {
        let Pass { client, grant, token, issued, epoch, .. } = pass;
        Self { principal, client, grant, token, issued: *issued, epoch: *epoch }
    }
}

/// Deny entries and watermarks.
#[derive(Default)]
struct Revoked {
    grants: HashMap<GrantId, OfGrant>,
    watermarks: Watermarks,
    /// How many of both there may be before they are tidied.
    tidying: usize,
}

/// The last moment that does not count, for each of whom everything was revoked. By what a token has, so that nothing is
/// cloned to ask.
#[derive(Default)]
struct Watermarks {
    everybody: Option<Timestamp>,
    kinds: HashMap<PrincipalKind, Timestamp>,
    principals: HashMap<Principal, Timestamp>,
    clients: HashMap<ClientId, Timestamp>,
}

impl Watermarks {
    /// Of whom everything was revoked, of those that a token is of.
    fn covering(&self, subject: &Subject<'_>) -> Option<Whose> {
        let covers =
            |not_before: Option<&Timestamp>| not_before.is_some_and(|not_before| subject.issued <= *not_before);
        if covers(self.everybody.as_ref()) {
            return Some(Whose::Everybody);
        }
        if covers(self.principals.get(subject.principal)) {
            return Some(Whose::Principal(subject.principal.clone()));
        }
        if covers(self.clients.get(subject.client)) {
            return Some(Whose::Client(subject.client.clone()));
        }
        let kind = PrincipalKind::of(subject.principal);
        kind.filter(|kind| covers(self.kinds.get(kind))).map(Whose::Kind)
    }

    fn put(&mut self, whose: Whose, not_before: Option<Timestamp>) {
        fn put<K: Eq + std::hash::Hash>(of: &mut HashMap<K, Timestamp>, whose: K, not_before: Option<Timestamp>) {
            match not_before {
                Some(not_before) => of.insert(whose, not_before),
                None => of.remove(&whose),
            };
        }
        match whose {
            Whose::Everybody => self.everybody = not_before,
            Whose::Kind(kind) => put(&mut self.kinds, kind, not_before),
            Whose::Principal(principal) => put(&mut self.principals, principal, not_before),
            Whose::Client(client) => put(&mut self.clients, client, not_before),
        }
    }

    /// Forgets those that are so old that nothing from before them is left.
    fn forget(&mut self, now: Timestamp) {
        let counts = |not_before: &Timestamp| now < not_before.after(WATERMARK_FOR);
        self.everybody = self.everybody.filter(counts);
        self.kinds.retain(|_, not_before| counts(not_before));
        self.principals.retain(|_, not_before| counts(not_before));
        self.clients.retain(|_, not_before| counts(not_before));
    }

    fn len(&self) -> usize {
        self.kinds.len() + self.principals.len() + self.clients.len() + usize::from(self.everybody.is_some())
    }
}

/// What is refused of a grant.
#[derive(Default)]
struct OfGrant {
    is_whole: bool,
    /// Digests of the `jti`s.
    tokens: HashSet<String>,
    /// When all of it is refused for its age anyway.
    until: Timestamp,
}

impl OfGrant {
    fn of(denied: impl IntoIterator<Item = Denied>) -> Option<Self> {
        let mut of: Option<Self> = None;
        for Denied { grant: _, token, until } in denied {
            of.get_or_insert_default().add(token, until);
        }
        of
    }

    fn add(&mut self, token: Option<String>, until: Timestamp) {
        self.until = self.until.max(until);
        match token {
            Some(token) => {
                self.tokens.insert(token);
            }
            None => self.is_whole = true,
        }
    }
}

impl Revoked {
    fn check(&self, subject: &Subject<'_>) -> Result<(), Refused> {
        if let Some(of) = self.grants.get(subject.grant) {
            if of.is_whole {
                return Err(Refused::Grant);
            }
            let is_refused = || of.tokens.contains(&Digest::of(subject.token.as_str().as_bytes()).to_hex());
            if !of.tokens.is_empty() && is_refused() {
                return Err(Refused::Token);
            }
        }
        self.watermarks.covering(subject).map_or(Ok(()), |whose| Err(Refused::Watermark(whose)))
    }

    fn put(&mut self, grant: GrantId, of: Option<OfGrant>) {
        match of {
            Some(of) => self.grants.insert(grant, of),
            None => self.grants.remove(&grant),
        };
    }

    /// Forgets grants whose tokens are refused for their age, and watermarks that nothing is from before of, once there may be
    /// many.
    fn tidy(&mut self, now: Timestamp) {
        if self.grants.len() + self.watermarks.len() >= self.tidying.max(FIRST_TIDYING) {
            self.grants.retain(|_, of| now < of.until);
            self.watermarks.forget(now);
            self.tidying = (self.grants.len() + self.watermarks.len()) * 2;
        }
    }
}

impl Standing {
    /// Everything that is revoked now. Somebody has to follow the changes from before this on.
    pub async fn load(store: Store, env: Env) -> Result<Arc<Self>, Fault> {
        let people = Cache::builder().max_capacity(MAX_PEOPLE).time_to_live(FACTS_LIFE).build();
        let revoked = RwLock::new(read_all(&store).await?);
        Ok(Arc::new(Self {
            store,
            env,
            revoked,
            people,
            is_unclear: AtomicBool::new(false),
            changed: Mutex::default(),
        }))
    }

    /// Whether what this token says still counts. That it is ours, is not too old and is for what is asked is for others to
    /// know.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, token: &AccessToken, now: Timestamp) -> Result<(), Refused> {
        self.check_subject(&token.into(), now)
    }

    /// The same of what is known of a token.
    pub fn check_subject(&self, subject: &Subject<'_>, now: Timestamp) -> Result<(), Refused> {
        if subject.epoch != self.store.epoch() {
            return Err(Refused::Restored);
        }
        // No watermark covers what is from further ahead.
        if now.after(MAX_AHEAD) < subject.issued {
            return Err(Refused::Ahead);
        }
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).check(subject)
    }

    /// Waits until everything is known here that was revoked through this gateway. Usually it is.
    ///
    /// # Errors
    /// [`Fault`] if that takes too long, or something was revoked that nobody here understands.
    pub async fn is_current(&self) -> Result<(), Fault> {
        self.store.caught_up(PATIENCE).await?;
        if self.is_unclear.load(Ordering::Relaxed) { Err(Fault::Busy) } else { Ok(()) }
    }

    /// Whether something was revoked of which it is not known here whose it is, and will not be soon.
    pub fn is_behind(&self) -> bool {
        self.is_unclear.load(Ordering::Relaxed) || self.store.is_behind()
    }

    /// What is known of a person; `None` if there is no such account. Read once, and again after a change.
    pub async fn user(&self, id: &UserId) -> Result<Option<Arc<Facts>>, Fault> {
        if let Some(known) = self.people.get(id) {
            return Ok(known);
        }
        let before = *self.lock_changed();
        let user = users::get(&self.store, id).await?;
        let facts = user.map(|user| {
            let is_active = user.is_active();
            Arc::new(Facts { is_active, role: user.role, groups: user.groups })
        });
        let changed = self.lock_changed();
        // What was read before a change may be what was there before it.
        if *changed == before {
            self.people.insert(id.clone(), facts.clone());
        }
        Ok(facts)
    }

    /// What is known of a person without asking; `None` if nothing is.
    pub fn known_user(&self, id: &UserId) -> Option<Option<Arc<Facts>>> {
        self.people.get(id)
    }

    fn lock_changed(&self) -> std::sync::MutexGuard<'_, u64> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_people(&self, forget: impl FnOnce(&Cache<UserId, Option<Arc<Facts>>>)) {
        let mut changed = self.lock_changed();
        *changed += 1;
        forget(&self.people);
    }

    async fn take_over(&self, news: &News) -> Result<(), StoreError> {
        let changes = match news {
            News::Changes { changes, .. } => changes,
            News::Everything { .. } => {
                let all = read_all(&self.store).await?;
                *self.revoked.write().unwrap_or_else(PoisonError::into_inner) = all;
                self.is_unclear.store(false, Ordering::Relaxed);
                self.forget_people(Cache::invalidate_all);
                return Ok(());
            }
        };
        let (mut grants, mut watermarks) = (BTreeSet::new(), Vec::new());
        for change in changes {
            match change {
                // Whatever has no id of a grant has no tokens either.
                Change::Grant { id } => grants.extend(GrantId::parse(id)),
                Change::Watermark { of } => {
                    // One that a later version understands may be about anybody: nobody is let in by a token on a guess. The
                    // holders of keys are, and whoever follows goes on.
                    match Whose::parse(of) {
                        None if !self.is_unclear.swap(true, Ordering::Relaxed) => {
                            tracing::error!(
                                of,
                                "a later version has revoked what this one does not know: tokens are not taken"
                            );
                        }
                        Some(whose) if !watermarks.contains(&whose) => watermarks.push(whose),
                        Some(_) | None => {}
                    }
                }
                Change::User { id } => self.forget_people(|people| {
                    if let Some(id) = UserId::parse(id) {
                        people.invalidate(&id);
                    }
                }),
                // The end of a client or a key is a watermark, and keys are part of what requests are decided on.
                _ => {}
            }
        }
        // One question for all: a poll has little time, and there may be hundreds of changes in it.
        let Of { denied, watermarks } = match (grants.is_empty(), watermarks.is_empty()) {
            (true, true) => Of::default(),
            _ => revocations::of(&self.store, grants.into_iter().collect(), watermarks).await?,
        };
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        for (grant, denied) in denied {
            revoked.put(grant, OfGrant::of(denied));
        }
        for (whose, watermark) in watermarks {
            revoked.watermarks.put(whose, watermark.map(|watermark| watermark.not_before));
        }
        revoked.tidy(self.env.now());
        Ok(())
    }
}

impl Subscriber for Standing {
    fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.take_over(news))
    }
}

async fn read_all(store: &Store) -> Result<Revoked, StoreError> {
    let mut revoked = Revoked::default();
    let mut after = None;
    loop {
        let page = revocations::denied(store, after).await?;
        for Denied { grant, token, until } in page.items {
            revoked.grants.entry(grant).or_default().add(token, until);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    loop {
        let page = revocations::watermarks(store, after).await?;
        for watermark in page.items {
            revoked.watermarks.put(watermark.whose, Some(watermark.not_before));
        }
        after = page.next;
        if after.is_none() {
            return Ok(revoked);
        }
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        let (grants, watermarks) = (revoked.grants.len(), revoked.watermarks.len());
        f.debug_struct("Standing").field("grants", &grants).field("watermarks", &watermarks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
