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
    /// The same for two lists only if they say the same.
    pub digest: Digest,
    account: Account,
    /// When it was read.
    read: Instant,
}

impl OwnList {
    pub(super) fn new(about: Arc<About>, offer: Arc<Offer>, account: Account, read: Instant) -> Self {
        let said = format!("{about:?}");
        let digest = Digest::of(&[offer.digest().as_bytes().as_slice(), said.as_bytes()].concat());
        Self { about, offer, digest, account, read }
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
    List {
        list: Arc<OwnList>,
        /// Not all of it could be read.
        is_partial: bool,
    },
    /// There is no credential to read it with.
    Absent(Lack),
    /// It could not be read, or must not be.
    Failed,
}

/// One person's list.
#[derive(Debug)]
pub(super) struct Entry(watch::Sender<State>);

impl Entry {
    /// Of which nothing is known, but perhaps what it was `before` something changed.
    pub(super) fn unknown(before: Option<Arc<OwnList>>) -> Self {
        Self(watch::Sender::new(State {
            standing: Standing::Unknown,
            list: before,
            reading: None,
            is_outdated: false,
            has_changed: false,
            next: None,
            retry: FIRST_RETRY,
        }))
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

    /// Why there is no credential, if that is so.
    pub(super) fn lack(&self) -> Option<Lack> {
        match &self.0.borrow().standing {
            Standing::Absent(lack) => Some(lack.clone()),
            Standing::Unknown | Standing::Connected | Standing::Settled => None,
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
        let is_young = |list: &Arc<OwnList>| now < list.read + interval;
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
            }
            begins
        })
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
        BARE_BYTES + self.0.borrow().list.as_ref().map_or(0, |list| super::weight(&list.offer))
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
            Read::List { list, is_partial } => {
                let is_same = self.list.as_ref().is_some_and(|known| known.digest == list.digest);
                is_other = !is_same || self.standing != Standing::Settled;
                (self.standing, self.list) = (Standing::Settled, Some(list));
                self.is_outdated = false;
                if is_partial {
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
            // What could not be looked at is not gone.
            Read::Failed => {
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
        Arc::new(OwnList::new(Arc::new(about), Arc::default(), account(1), read))
    }

    fn read(list: &Arc<OwnList>) -> Read {
        Read::List { list: list.clone(), is_partial: false }
    }

    #[test]
    fn it_is_read_at_once_and_then_when_its_time_is_over() {
        let (entry, now) = (Entry::unknown(None), Instant::now());
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
        let (entry, now) = (Entry::unknown(None), Instant::now());
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
        let entry = Entry::unknown(Some(before.clone()));
        assert!(matches!(entry.shown(), Shown::Common) && entry.is_young(now, INTERVAL));
        assert!(!entry.is_young(now + INTERVAL, INTERVAL));
        entry.begin(now);
        entry.connected(&account(1));
        assert!(entry.is_young(now, INTERVAL));
        assert!(entry.settle(Read::Same, now, INTERVAL));
        assert!(matches!(entry.shown(), Shown::Own(list) if Arc::ptr_eq(&list, &before)));

        let entry = Entry::unknown(Some(before));
        entry.begin(now);
        entry.connected(&account(2));
        assert!(!entry.is_young(now, INTERVAL));
        entry.settle(Read::Failed, now, INTERVAL);
        assert!(matches!(entry.shown(), Shown::Unread));
    }

    #[test]
    fn failures_are_tried_again_later_and_later() {
        let (entry, now) = (Entry::unknown(None), Instant::now());
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
}
