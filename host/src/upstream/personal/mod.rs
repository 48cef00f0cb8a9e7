//! Lists of people's own: what an upstream offers to somebody, read with the credential that they connected.
//!
//! Where each person has an account of their own, each may see other tools. What is known of a person's list is an
//! [`entry`]; it is read by one task for all who wait, kept for as long as the common list is, and looked at anew when the
//! person's connection has changed. There are so many in memory and no more: whoever uses theirs least has to wait for it
//! next time. Nothing is read before whoever asks has the policies' word for it, which is why reading is begun from
//! outside, by a [`Beginning`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::catalog::{ConnectTool, Offer, ToolDefinition};
use super::sync::{PAGE_TIMEOUT, Room};
use super::{Upstream, UpstreamError, credential};
use crate::config;
use crate::connection::lending::{Lack, Wanted, Withheld};
use crate::ids::Principal;

mod entry;
mod told;

use entry::{Account, Entry, Gap, Read};
pub use entry::{OwnList, Shown};
pub use told::{Told, Whose};

/// Lists that one upstream has in memory.
const MAX_LISTS: usize = 1_000;
/// Memory for all of them, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// Largest list of one person, in bytes.
const MAX_LIST_BYTES: usize = 16 << 20;
/// What each thing in a list takes besides its text, in bytes.
const ITEM_BYTES: usize = 512;
/// How long a list is kept that nobody asks for.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// Lists that are read at once.
const MAX_READING: usize = 32;
/// Longest reading of one.
const READ_TIMEOUT: Duration = Duration::from_secs(180);
/// How long somebody waits for their list when it is read for the first time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The lists of one upstream.
#[derive(Debug)]
pub(super) struct Personal {
    entries: Cache<Principal, Arc<Entry>>,
    reading: Semaphore,
    told: Told,
    connect: Arc<ToolDefinition>,
}

impl Personal {
    /// Of an upstream to which people show their own credentials; none of another one.
    pub(super) fn of(settings: &config::Upstream) -> Option<Arc<Self>> {
        let weigh = |_: &Principal, entry: &Arc<Entry>| u32::try_from(entry.bytes()).unwrap_or(u32::MAX);
        let entries = Cache::builder()
            .max_capacity(MAX_BYTES as u64)
            .weigher(weigh)
            .time_to_idle(IDLE)
            // Whoever comes anew is let in: nobody reads their list for every request.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        credential::is_personal(&settings.auth).then(|| {
            let connect = Arc::new(ToolDefinition::connect(&settings.name));
            Arc::new(Self { entries, reading: Semaphore::new(MAX_READING), told: Told::default(), connect })
        })
    }

    /// The tool by which somebody connects the upstream.
    pub(super) fn connect(&self, is_listed: bool) -> ConnectTool {
        ConnectTool { definition: self.connect.clone(), is_listed }
    }

    /// Somebody's list may have changed.
    pub(super) fn outdated(&self, principal: &Principal) {
        if let Some(entry) = self.entries.get(principal) {
            entry.outdated();
            self.told.tell_of(principal);
        }
    }

    /// Something about somebody's connection has changed. Their list is nobody's until it is known that it is still theirs.
    fn forget(&self, principal: &Principal) {
        self.entries.entry_by_ref(principal).and_compute_with(|known| match known {
            Some(known) => Op::Put(Arc::new(Entry::after(known.value()))),
            None => Op::Nop,
        });
        self.told.tell_of(principal);
    }

    /// Counts what an entry weighs now that it was read. Where the connection has changed meanwhile, the list goes to the
    /// entry that counts now: it may have been no more than a renewal, by the reading itself.
    fn weigh_again(&self, principal: &Principal, read: &Arc<Entry>) {
        self.entries.entry_by_ref(principal).and_compute_with(|known| match known {
            Some(known) if Arc::ptr_eq(known.value(), read) || known.value().inherit(read.list()) => {
                Op::Put(known.into_value())
            }
            Some(_) | None => Op::Nop,
        });
    }
}

/// What a list weighs: at least so much that there are not too many.
fn weight(offer: &Offer) -> usize {
    (offer.bytes() + ITEM_BYTES * offer.count()).max(MAX_BYTES / MAX_LISTS)
}

/// What is known of somebody's list.
#[derive(Clone, Debug)]
pub struct Look {
    pub shown: Shown,
    /// Whether it was looked what there is to be seen.
    pub is_settled: bool,
    /// Whether somebody who needs it waits for that, which they do for so long and no longer.
    pub is_awaited: bool,
    /// Whether it is time to look.
    pub is_due: bool,
}

/// What somebody's list may be read with.
#[derive(Debug)]
pub enum Clearance {
    /// This credential.
    Given(Wanted),
    /// None: the policies do not let it go out.
    Denied,
    /// None, or none that can be had now.
    Withheld(Withheld),
    /// That could not be found out.
    Failed,
}

/// Somebody's list that is to be read. Dropped before it is, it is as if it could not be read.
#[derive(Debug)]
#[must_use]
pub struct Beginning {
    upstream: Arc<Upstream>,
    personal: Arc<Personal>,
    principal: Principal,
    entry: Arc<Entry>,
    is_settled: bool,
}

impl Upstream {
    /// What this principal is to see of it. `None` where it is what everybody sees.
    pub fn look(&self, principal: &Principal) -> Option<Look> {
        let personal = self.personal.as_ref().filter(|_| has_lists(principal))?;
        let unknown = Look { shown: Shown::Common, is_settled: false, is_awaited: true, is_due: true };
        let now = Instant::now();
        Some(personal.entries.get(principal).map_or(unknown, |entry| {
            let is_settled = entry.is_settled();
            let is_in_time = entry.reading().is_none_or(|since| now < since + self.own_patience());
            Look { shown: entry.shown(), is_settled, is_awaited: !is_settled && is_in_time, is_due: entry.is_due(now) }
        }))
    }

    /// How long somebody waits for their list when it is read for the first time.
    fn own_patience(&self) -> Duration {
        PATIENCE.min(self.ask_timeout)
    }

    /// Claims the reading of somebody's list, if it is time and nobody else has.
    pub fn begin_own(self: &Arc<Self>, principal: &Principal) -> Option<Beginning> {
        let personal = self.personal.as_ref().filter(|_| has_lists(principal))?.clone();
        let entry = personal.entries.get_with_by_ref(principal, || Arc::new(Entry::unknown()));
        let begins = entry.begin(Instant::now());
        let principal = principal.clone();
        begins.then(|| Beginning { upstream: self.clone(), personal, principal, entry, is_settled: false })
    }

    /// Waits until it was looked what there is to be seen, for as long as somebody waits for a list that is read for the
    /// first time, and has waited since `began`.
    pub async fn own_settled(&self, principal: &Principal, began: Instant) {
        let Some(entry) = self.personal.as_ref().and_then(|personal| personal.entries.get(principal)) else { return };
        let Some(since) = entry.reading().filter(|_| !entry.is_settled()) else { return };
        _ = tokio::time::timeout_at(since.min(began) + self.own_patience(), entry.settled()).await;
    }

    /// What kept somebody's list, or some of it, from being read that they have to do something about.
    pub fn own_lack(&self, principal: &Principal) -> Option<Lack> {
        self.personal.as_ref()?.entries.get(principal)?.lack()
    }

    /// Something about the connection of somebody, or of all that `is_theirs` says, has changed.
    pub fn forget_own(&self, is_theirs: impl Fn(&Principal) -> bool) {
        let Some(personal) = &self.personal else { return };
        let theirs: Vec<Principal> =
            personal.entries.iter().map(|(principal, _)| principal.as_ref().clone()).filter(is_theirs).collect();
        theirs.iter().for_each(|principal| personal.forget(principal));
    }

    /// The same of one, who need not have a list yet.
    pub fn forget_own_of(&self, principal: &Principal) {
        if let Some(personal) = self.personal.as_ref().filter(|_| has_lists(principal)) {
            personal.forget(principal);
        }
    }

    /// Waits for people's lists to change; `None` where there are none, and once the upstream is stopped.
    pub async fn own_changed(&self) -> Option<Whose> {
        let personal = self.personal.as_ref()?;
        self.tasks.stopping().run_until_cancelled(personal.told.next()).await
    }

    /// Definitions of its tools that somebody sees, and that are not in the common list just so; in no order.
    pub fn own_tools(&self) -> Vec<Arc<ToolDefinition>> {
        let common = self.offer.load_full();
        let in_common = common.iter().flat_map(|common| &common.tools).map(|tool| tool.digest.clone());
        let mut known: HashSet<String> = in_common.collect();
        let lists = self.personal.iter().flat_map(|personal| personal.entries.iter());
        let mut tools: Vec<Arc<ToolDefinition>> = Vec::new();
        for list in lists.filter_map(|(_, entry)| entry.list()) {
            // Most see what everybody sees.
            if common.as_ref().is_some_and(|common| Arc::ptr_eq(common, &list.offer)) {
                continue;
            }
            for tool in &list.offer.tools {
                if !known.contains(&tool.digest) {
                    known.insert(tool.digest.clone());
                    tools.push(tool.clone());
                }
            }
        }
        tools
    }

    /// Reads what the upstream offers to somebody.
    async fn read_own(&self, principal: &Principal, wanted: Wanted, entry: &Entry) -> Result<Read, UpstreamError> {
        let interval = self.settings.sync_interval;
        let own = self.own.of_another(principal.clone(), wanted);
        let party = own.party().await?;
        let Some(lent) = party.lent else { return Ok(Read::Absent(Lack::NotConnected)) };
        let account = Account::of(&lent);
        entry.connected(&account);
        if entry.is_young(Instant::now(), interval) {
            return Ok(Read::Same);
        }
        let about = self.about_to(&own, PAGE_TIMEOUT).await?;
        // What cannot be read is as it was, or as others see it.
        let known = entry.list().map(|list| list.offer.clone()).or_else(|| self.offer.load_full());
        let room = Room::of(MAX_LIST_BYTES);
        let (offer, unread) = self.read_lists(&own, &about, known.as_deref(), Some(&room)).await?;
        if let Some(reason) = unread.in_words() {
            tracing::debug!(upstream = %self.settings.name, %principal, reason, "some of somebody's list cannot be read");
        }
        let offer = match self.offer.load_full() {
            Some(common) if common.digest() == offer.digest() => common,
            Some(common) => Arc::new(offer.sharing(&common)),
            None => Arc::new(offer),
        };
        let gap = (!unread.is_nothing()).then(|| Gap { lack: unread.lack().cloned() });
        let list = OwnList::new(about, offer, gap, account, Instant::now());
        if unread.is_too_large() || list.text_bytes() > MAX_LIST_BYTES {
            return Err(UpstreamError::TooLarge { limit: MAX_LIST_BYTES });
        }
        Ok(Read::List(Arc::new(list)))
    }
}

impl Beginning {
    /// Reads it, in a task of its own, if `cleared` gives it a credential to do so with.
    pub fn read(self, cleared: impl Future<Output = Clearance> + Send + 'static) {
        let tasks = self.upstream.tasks.clone();
        tasks.clone().spawn(async move { tasks.stopping().run_until_cancelled(self.read_now(cleared)).await });
    }

    async fn read_now(mut self, cleared: impl Future<Output = Clearance>) {
        if let Some(at) = self.entry.may_ask_at() {
            tokio::time::sleep_until(at).await;
        }
        let reading = async {
            match cleared.await {
                Clearance::Given(wanted) => {
                    let _place = self.personal.reading.acquire().await;
                    self.upstream.read_own(&self.principal, wanted, &self.entry).await
                }
                Clearance::Denied => Ok(Read::Denied),
                Clearance::Withheld(withheld) => Err(UpstreamError::Withheld(withheld)),
                Clearance::Failed => Ok(Read::Failed),
            }
        };
        let read = tokio::time::timeout(READ_TIMEOUT, reading).await;
        let read = match read.unwrap_or(Err(UpstreamError::TimedOut { after: READ_TIMEOUT })) {
            Ok(read) => read,
            Err(UpstreamError::Withheld(Withheld::Missing(lack))) => Read::Absent(lack),
            // It carries more than the policies let go out.
            Err(UpstreamError::Withheld(Withheld::TooWide)) => Read::Denied,
            Err(error) => {
                let (upstream, principal) = (&self.upstream.settings.name, &self.principal);
                tracing::debug!(%upstream, %principal, %error, "somebody's list cannot be read");
                Read::Failed
            }
        };
        self.settle(read);
    }

    fn settle(&mut self, read: Read) {
        self.is_settled = true;
        let is_news = self.entry.settle(read, Instant::now(), self.upstream.settings.sync_interval);
        self.personal.weigh_again(&self.principal, &self.entry);
        if is_news {
            self.personal.told.tell_of(&self.principal);
        }
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle(Read::Failed);
        }
    }
}

/// Whether it is somebody who can connect accounts of their own.
fn has_lists(principal: &Principal) -> bool {
    match principal {
        Principal::Key(_) | Principal::User(_) | Principal::Guest(_) => true,
        Principal::Anonymous | Principal::Gateway => false,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
