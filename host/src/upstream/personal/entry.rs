//! What is known of one person's list at one upstream, and when it is to be read. Pure but for the waiting: moments are
//! handed in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::lending::{Lack, Lent};
use crate::ids::ConnectionId;
use crate::mcp::revision::About;
use crate::secret::Digest;
use crate::upstream::catalog::Offer;
use crate::upstream::sync::{FIRST_RETRY, LAST_RETRY, next_retry};

/// What an entry without a list weighs, in bytes.
const BARE_BYTES: usize = 512;
/// Shortest time between two readings of a list that is known, however often the upstream says that it has changed.
const MIN_PAUSE: Duration = FIRST_RETRY;
/// How long a list is not looked at that the policies would not have read.
const DENIED_PAUSE: Duration = LAST_RETRY;

/// The account that a list was read with: a connection, as of when its person gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    connection: ConnectionId,
    given: u64,
}

impl Account {
    pub(super) fn of(lent: &Lent) -> Self {
        Self { connection: lent.connection.clone(), given: lent.given }
    }
}

/// What an upstream offers to somebody with an account there.
#[derive(Debug)]
pub struct OwnList {
    pub about: Arc<About>,
    pub offer: Arc<Offer>,
    /// Why some of it is what others were shown, or was read before: that could not be read.
    pub gap: Option<Gap>,
    /// The same for two lists only if they say the same.
    pub digest: Digest,
    /// What the upstream says of itself, in bytes.
    about_bytes: usize,
    account: Account,
    /// When it was read.
    read: Instant,
}

/// What is missing of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What its person has to do something about, if that is why.
    pub lack: Option<Lack>,
}

impl OwnList {
    pub(super) fn new(about: Arc<About>, offer: Arc<Offer>, gap: Option<Gap>, account: Account, read: Instant) -> Self {
        let said = format!("{about:?}");
        let is_whole = [u8::from(gap.is_none())];
        let digest = Digest::of(&[offer.digest().as_bytes().as_slice(), &is_whole, said.as_bytes()].concat());
        Self { about, offer, gap, digest, about_bytes: said.len(), account, read }
    }

    /// How much text it has, in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        self.offer.bytes() + self.about_bytes
    }

    pub(super) fn is_of(&self, account: &Account) -> bool {
        self.account == *account
    }
}

/// How it stands with a person's list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody has looked yet, or since something has changed.
    Unknown,
    /// There is a credential, and the list is being read.
    Connected,
    /// There is none.
    Absent(Lack),
    /// It was looked: there is a list, or there would be one if it could be read.
    Settled,
}

#[derive(Debug)]
struct State {
    standing: Standing,
    /// What was read last, if it was with the account that is there, as far as is known.
    list: Option<Arc<OwnList>>,
    /// Since when it is being read.
    reading: Option<Instant>,
    /// When the last reading began, and the one before it.
    began: [Option<Instant>; 2],
    /// Something has changed since it was read last.
    is_outdated: bool,
    /// Something has changed while it is being read.
    has_changed: bool,
    /// When it is to be read next.
    next: Option<Instant>,
    retry: Duration,
}

/// What a caller is to see of an upstream.
#[derive(Clone, Debug)]
pub enum Shown {
    /// What everybody sees.
    Common,
    /// What was read for them.
    Own(Arc<OwnList>),
    /// They have a connection, and what was read for others is the best that there is.
    Unread,
}

/// How a reading ended.
#[derive(Debug)]
pub(super) enum Read {
    /// The account is the one that the list was read with, which is young enough.
    Same,
    List(Arc<OwnList>),
    /// There is no credential to read it with.
    Absent(Lack),
    /// The policies would not have it read.
    Denied,
    /// It could not be read.
    Failed,
}

/// One person's list.
#[derive(Debug)]
pub(super) struct Entry(watch::Sender<State>);

impl Entry {
    /// Of which nothing is known.
    pub(super) fn unknown() -> Self {
        Self(watch::Sender::new(State {
            standing: Standing::Unknown,
            list: None,
            reading: None,
            began: [None; 2],
            is_outdated: false,
            has_changed: false,
            next: None,
            retry: FIRST_RETRY,
        }))
    }

    /// The same person's after something about their connection has changed: of what is known it has to be found out whether
    /// it is still theirs.
    pub(super) fn after(before: &Self) -> Self {
        let entry = Self::unknown();
        let before = before.0.borrow();
        entry.0.send_modify(|state| {
            state.list.clone_from(&before.list);
            state.is_outdated = before.is_outdated || before.has_changed;
            state.retry = before.retry;
        });
        drop(before);
        entry
    }

    /// Takes over what was read for an entry that counts no more, as long as nothing is known here: it is found out whether
    /// it is still theirs. Whether it was taken.
    pub(super) fn inherit(&self, read: Option<Arc<OwnList>>) -> bool {
        let Some(read) = read else { return false };
        self.0.send_if_modified(|state| {
            let takes = state.standing == Standing::Unknown && state.list.is_none();
            if takes {
                state.list = Some(read);
            }
            takes
        })
    }

    pub(super) fn shown(&self) -> Shown {
        let state = self.0.borrow();
        match (&state.standing, &state.list) {
            (Standing::Unknown | Standing::Absent(_), _) => Shown::Common,
            (Standing::Connected | Standing::Settled, Some(list)) => Shown::Own(list.clone()),
            (Standing::Connected | Standing::Settled, None) => Shown::Unread,
        }
    }

    /// Whether it was looked what there is to be seen.
    pub(super) fn is_settled(&self) -> bool {
        self.0.borrow().is_settled()
    }

    /// Why there is no credential, or none for all of the list, if that is so.
    pub(super) fn lack(&self) -> Option<Lack> {
        let state = self.0.borrow();
        match &state.standing {
            Standing::Absent(lack) => Some(lack.clone()),
            Standing::Settled => state.list.as_ref()?.gap.as_ref()?.lack.clone(),
            Standing::Unknown | Standing::Connected => None,
        }
    }

    /// Since when it is being read.
    pub(super) fn reading(&self) -> Option<Instant> {
        self.0.borrow().reading
    }

    /// What was read last, whether or not it still counts.
    pub(super) fn list(&self) -> Option<Arc<OwnList>> {
        self.0.borrow().list.clone()
    }

    /// Whether there is reason to look whether the list was read with the account that is there, and none to read it anew.
    pub(super) fn is_young(&self, now: Instant, interval: Duration) -> bool {
        let state = self.0.borrow();
        let is_young = |list: &Arc<OwnList>| list.gap.is_none() && now < list.read + interval;
        !state.is_settled() && !state.is_outdated && state.list.as_ref().is_some_and(is_young)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.0.borrow().is_due(now)
    }

    /// Begins to read if it is time and nobody does. Whoever began has to [`Self::settle`].
    pub(super) fn begin(&self, now: Instant) -> bool {
        self.0.send_if_modified(|state| {
            let begins = state.is_due(now);
            if begins {
                state.reading = Some(now);
                state.began = [Some(now), state.began[0]];
            }
            begins
        })
    }

    /// When whoever has begun may ask the upstream, which is at once unless it has just been asked and something is known.
    pub(super) fn may_ask_at(&self) -> Option<Instant> {
        let state = self.0.borrow();
        state.began[1].filter(|_| state.is_settled()).map(|began| began + MIN_PAUSE)
    }

    /// There is a credential of this account. What was read with another one counts no more.
    pub(super) fn connected(&self, account: &Account) {
        self.0.send_modify(|state| {
            if !state.is_settled() {
                state.standing = Standing::Connected;
            }
            state.list = state.list.take().filter(|list| list.is_of(account));
        });
    }

    /// The list may be another one now. What is known stays until it was read again.
    pub(super) fn outdated(&self) {
        self.0.send_modify(|state| {
            (state.is_outdated, state.has_changed) = (true, state.reading.is_some());
            state.next = None;
        });
    }

    /// Takes over how the reading ended. Whether anybody sees something else from now on.
    pub(super) fn settle(&self, read: Read, now: Instant, interval: Duration) -> bool {
        let mut is_news = false;
        self.0.send_modify(|state| is_news = state.settle(read, now, interval));
        is_news
    }

    /// Waits until it was looked what there is to be seen.
    pub(super) async fn settled(&self) {
        // It is not closed while somebody has it.
        _ = self.0.subscribe().wait_for(State::is_settled).await;
    }

    /// What it takes in memory, roughly, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let of = |list: &Arc<OwnList>| super::weight(&list.offer) + list.about_bytes;
        BARE_BYTES + self.0.borrow().list.as_ref().map_or(0, of)
    }
}

impl State {
    fn is_settled(&self) -> bool {
        match self.standing {
            Standing::Absent(_) | Standing::Settled => true,
            Standing::Unknown | Standing::Connected => false,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.reading.is_none() && self.next.is_none_or(|next| next <= now)
    }

    fn settle(&mut self, read: Read, now: Instant, interval: Duration) -> bool {
        let was_settled = self.is_settled();
        let (mut pause, mut is_other) = (interval, false);
        match read {
            Read::Same => {
                self.standing = Standing::Settled;
                let read = self.list.as_ref().map_or(now, |list| list.read);
                pause = (read + interval).saturating_duration_since(now);
            }
            Read::List(list) => {
                let is_same = self.list.as_ref().is_some_and(|known| known.digest == list.digest);
                is_other = !is_same || self.standing != Standing::Settled;
                let has_gap = list.gap.is_some();
                (self.standing, self.list) = (Standing::Settled, Some(list));
                self.is_outdated = self.has_changed;
                if has_gap {
                    pause = next_retry(&mut self.retry, LAST_RETRY).min(interval);
                } else {
                    self.retry = FIRST_RETRY;
                }
            }
            Read::Absent(lack) => {
                is_other = !matches!(self.standing, Standing::Absent(_));
                (self.standing, self.list) = (Standing::Absent(lack), None);
                self.retry = FIRST_RETRY;
            }
            // Whether there is a connection need not be known: nobody's credential was to be shown.
            Read::Denied => {
                is_other = self.list.is_some();
                (self.standing, self.list) = (Standing::Settled, None);
                pause = interval.min(DENIED_PAUSE);
            }
            // What could not be looked at is not gone. What may be another account's is.
            Read::Failed => {
                if self.standing == Standing::Unknown {
                    self.list = None;
                }
                self.standing = Standing::Settled;
                pause = next_retry(&mut self.retry, LAST_RETRY);
            }
        }
        self.reading = None;
        let again = std::mem::take(&mut self.has_changed);
        self.next = (!again).then(|| now + pause);
        is_other || !was_settled || again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::revision::{Capabilities, Era};

    const INTERVAL: Duration = Duration::from_secs(300);

    fn account(given: u64) -> Account {
        Account { connection: ConnectionId::parse(&"0a".repeat(12)).unwrap(), given }
    }

    fn list(instructions: &str, read: Instant) -> Arc<OwnList> {
        let about = About {
            revision: "2026-07-28".to_owned(),
            era: Era::Modern,
            capabilities: Capabilities::read(None),
            server_info: None,
            instructions: Some(instructions.to_owned()),
        };
        Arc::new(OwnList::new(Arc::new(about), Arc::default(), None, account(1), read))
    }

    fn read(list: &Arc<OwnList>) -> Read {
        Read::List(list.clone())
    }

    #[test]
    fn it_is_read_at_once_and_then_when_its_time_is_over() {
        let (entry, now) = (Entry::unknown(), Instant::now());
        assert!(entry.begin(now) && !entry.begin(now), "one reads");
        entry.connected(&account(1));
        assert!(matches!(entry.shown(), Shown::Unread) && !entry.is_settled());
        assert!(entry.settle(read(&list("a", now)), now, INTERVAL));
        assert!(matches!(entry.shown(), Shown::Own(_)));
        assert!(!entry.begin(now + INTERVAL - Duration::from_secs(1)));
        assert!(entry.begin(now + INTERVAL));
        assert!(!entry.settle(read(&list("a", now)), now, INTERVAL), "the same is no news");
        assert!(entry.begin(now + INTERVAL));
        assert!(entry.settle(read(&list("b", now)), now, INTERVAL));
    }

    #[test]
    fn what_changes_while_it_is_read_has_it_read_once_more() {
        let (entry, now) = (Entry::unknown(), Instant::now());
        assert!(entry.begin(now));
        entry.settle(read(&list("a", now)), now, INTERVAL);
        entry.outdated();
        assert!(entry.begin(now));
        entry.outdated();
        assert!(!entry.begin(now));
        assert!(entry.settle(read(&list("a", now)), now, INTERVAL), "somebody has to look again");
        assert!(entry.begin(now));
        assert!(!entry.settle(read(&list("a", now)), now, INTERVAL));
        assert!(!entry.begin(now));
    }

    #[test]
    fn what_was_read_with_another_account_does_not_count() {
        let now = Instant::now();
        let before = list("a", now);
        let known = Entry::unknown();
        known.begin(now);
        known.settle(read(&before), now, INTERVAL);
        let entry = Entry::after(&known);
        assert!(matches!(entry.shown(), Shown::Common) && entry.is_young(now, INTERVAL));
        assert!(!entry.is_young(now + INTERVAL, INTERVAL));
        entry.begin(now);
        entry.connected(&account(1));
        assert!(entry.is_young(now, INTERVAL));
        assert!(entry.settle(Read::Same, now, INTERVAL));
        assert!(matches!(entry.shown(), Shown::Own(list) if Arc::ptr_eq(&list, &before)));

        let entry = Entry::after(&known);
        entry.begin(now);
        entry.connected(&account(2));
        assert!(!entry.is_young(now, INTERVAL));
        entry.settle(Read::Failed, now, INTERVAL);
        assert!(matches!(entry.shown(), Shown::Unread));
    }

    #[test]
    fn failures_are_tried_again_later_and_later() {
        let (entry, now) = (Entry::unknown(), Instant::now());
        let mut at = now;
        for pause in [500, 1_000, 2_000] {
            assert!(entry.begin(at));
            entry.settle(Read::Failed, at, INTERVAL);
            let next = at + Duration::from_millis(pause);
            assert!(!entry.is_due(next - Duration::from_millis(1)) && entry.is_due(next));
            at = next;
        }
        assert!(entry.is_settled() && entry.lack().is_none());
        assert!(entry.begin(at));
        assert!(entry.settle(Read::Absent(Lack::NotConnected), at, INTERVAL));
        assert!(matches!(entry.shown(), Shown::Common));
        assert_eq!(entry.lack(), Some(Lack::NotConnected));
    }
    #[test]
    fn that_it_has_changed_is_not_forgotten_with_the_connection() {
        let (entry, now) = (Entry::unknown(), Instant::now());
        entry.begin(now);
        entry.settle(read(&list("a", now)), now, INTERVAL);
        entry.outdated();
        assert!(!Entry::after(&entry).is_young(now, INTERVAL));
        entry.begin(now);
        entry.outdated();
        entry.settle(read(&list("b", now)), now, INTERVAL);
        let after = Entry::after(&Entry::after(&entry));
        assert!(!after.is_young(now, INTERVAL), "what was read then is older than the change");
        after.begin(now);
        after.settle(read(&list("c", now)), now, INTERVAL);
        assert!(Entry::after(&after).is_young(now, INTERVAL));
    }

    #[test]
    fn what_was_read_before_something_changed_is_only_looked_at_again() {
        let (before, now) = (Entry::unknown(), Instant::now());
        before.begin(now);
        before.connected(&account(1));
        let after = Entry::after(&before);
        before.settle(read(&list("a", now)), now, INTERVAL);
        assert!(after.inherit(before.list()) && matches!(after.shown(), Shown::Common));
        after.begin(now);
        after.connected(&account(1));
        assert!(after.is_young(now, INTERVAL));
        after.settle(Read::Same, now, INTERVAL);
        assert!(!after.inherit(before.list()), "it has its own");
        assert!(matches!(after.shown(), Shown::Own(_)));
    }

    #[test]
    fn nobody_is_shown_what_may_be_another_accounts_or_what_the_policies_deny() {
        let (entry, now) = (Entry::unknown(), Instant::now());
        entry.begin(now);
        entry.settle(read(&list("a", now)), now, INTERVAL);
        let after = Entry::after(&entry);
        after.begin(now);
        after.settle(Read::Failed, now, INTERVAL);
        assert!(matches!(after.shown(), Shown::Unread), "nobody has seen whose it is");

        entry.begin(now + INTERVAL);
        entry.settle(Read::Failed, now + INTERVAL, INTERVAL);
        assert!(matches!(entry.shown(), Shown::Own(_)), "a fault takes nothing away");
        let later = now + 2 * INTERVAL;
        entry.begin(later);
        assert!(entry.settle(Read::Denied, later, INTERVAL));
        assert!(matches!(entry.shown(), Shown::Unread) && entry.list().is_none());
        assert!(!entry.is_due(later) && entry.is_due(later + DENIED_PAUSE));
        entry.begin(later + DENIED_PAUSE);
        assert!(!entry.settle(Read::Denied, later + DENIED_PAUSE, INTERVAL), "they see what they saw");
    }

    #[test]
    fn what_is_missing_of_a_list_is_remembered_and_tried_again() {
        let (entry, now) = (Entry::unknown(), Instant::now());
        let whole = list("a", now);
        let lack = Lack::NeedsScopes(vec!["mail.read".to_owned()]);
        let gap = Some(Gap { lack: Some(lack.clone()) });
        let partial = OwnList::new(whole.about.clone(), whole.offer.clone(), gap, account(1), now);
        entry.begin(now);
        entry.settle(read(&Arc::new(partial)), now, INTERVAL);
        assert_eq!(entry.lack(), Some(lack));
        assert!(entry.is_due(now + FIRST_RETRY) && !Entry::after(&entry).is_young(now, INTERVAL));
        entry.begin(now + FIRST_RETRY);
        assert!(entry.settle(read(&whole), now + FIRST_RETRY, INTERVAL), "it is not stale any more");
        assert_eq!(entry.lack(), None);
    }

    #[test]
    fn an_upstream_is_not_asked_as_often_as_it_says_that_something_has_changed() {
        let (entry, now) = (Entry::unknown(), Instant::now());
        entry.begin(now);
        assert_eq!(entry.may_ask_at(), None);
        entry.settle(read(&list("a", now)), now, INTERVAL);
        entry.outdated();
        assert!(entry.begin(now));
        assert_eq!(entry.may_ask_at(), Some(now + MIN_PAUSE));
        let after = Entry::after(&entry);
        after.begin(now);
        assert_eq!(after.may_ask_at(), None, "somebody waits for it");
    }
}
