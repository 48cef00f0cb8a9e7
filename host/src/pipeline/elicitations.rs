//! Elicitations by URL that sessions were answered with, until what they lead to is connected: their clients hear of it then
//! (2025-11-25, client/elicitation § completion).
//!
//! They are in the memory of the gateway that has the session, for as long as the link opens, and no more of them than are
//! worth remembering: a client that hears nothing tries again when its person says so. Whoever waits for [`Elicitations::next`]
//! finds out whether the connection is made, and tells.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::connection::lending::{Lent, Wanted};
use crate::connection::{Holder, Place};
use crate::env::Timestamp;
use crate::ids::{ConnectionId, Principal, UpstreamName};
use crate::store::StoreError;
use crate::store::changes::{Change, News};
use crate::store::follower::Subscriber;

/// Elicitations that are remembered at once.
const MAX_REMEMBERED: usize = 10_000;
/// And for one holder and upstream. A client that asks again and again hears of the last ones.
const MAX_OF_ONE: usize = 16;

/// What a session was answered with.
#[derive(Clone, Debug)]
pub struct Elicitation {
    /// As its client knows it.
    pub id: String,
    pub session: Arc<str>,
    /// What was lacking.
    pub wanted: Wanted,
    /// The connection that there was then, and the revision at which it was given.
    pub before: Option<(ConnectionId, u64)>,
    pub expires: Timestamp,
}

impl Elicitation {
    /// Whether what is lent now was connected since.
    pub fn is_met_by(&self, lent: &Lent) -> bool {
        self.before.as_ref() != Some(&(lent.connection.clone(), lent.given))
    }
}

/// Elicitations that wait for their connection.
#[derive(Debug, Default)]
pub struct Elicitations {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    by_place: HashMap<Place, Vec<Elicitation>>,
    count: usize,
    /// Places where something may be otherwise.
    due: BTreeSet<Place>,
}

impl Elicitations {
    /// From now on it waits.
    pub fn remember(&self, elicitation: Elicitation, now: Timestamp) {
        let mut waiting = self.lock();
        if waiting.count >= MAX_REMEMBERED {
            waiting.forget_old(now);
        }
        if waiting.count >= MAX_REMEMBERED {
            return;
        }
        let those = waiting.by_place.entry(elicitation.wanted.place.clone()).or_default();
        those.push(elicitation);
        if those.len() > MAX_OF_ONE {
            those.remove(0);
        } else {
            waiting.count += 1;
        }
    }

    /// Waits for the next place where something has changed that somebody waits for.
    pub async fn next(&self) -> Place {
        loop {
            let due = self.lock().due.pop_first();
            if let Some(place) = due {
                return place;
            }
            self.news.notified().await;
        }
    }

    /// Those that wait at a place and whose time is not over.
    pub fn at(&self, place: &Place, now: Timestamp) -> Vec<Elicitation> {
        let mut waiting = self.lock();
        waiting.retain_at(place, |elicitation| now < elicitation.expires);
        waiting.by_place.get(place).cloned().unwrap_or_default()
    }

    /// It waits no more.
    pub fn forget(&self, elicitation: &Elicitation) {
        self.lock().retain_at(&elicitation.wanted.place, |other| other.id != elicitation.id);
    }

    /// A session of this principal has begun to hear what is told outside of requests.
    pub fn somebody_listens(&self, principal: &Principal) {
        self.look_at(|place| matches!(&place.holder, Holder::Of(holder) if holder == principal));
    }

    fn look_at(&self, is_meant: impl Fn(&Place) -> bool) {
        let mut waiting = self.lock();
        let due: Vec<Place> = waiting.by_place.keys().filter(|place| is_meant(place)).cloned().collect();
        if !due.is_empty() {
            waiting.due.extend(due);
            self.news.notify_one();
        }
    }

    fn look_at_one(&self, place: Place) {
        let mut waiting = self.lock();
        if waiting.by_place.contains_key(&place) {
            waiting.due.insert(place);
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn retain_at(&mut self, place: &Place, is_kept: impl Fn(&Elicitation) -> bool) {
        let Some(those) = self.by_place.get_mut(place) else { return };
        let before = those.len();
        those.retain(is_kept);
        self.count -= before - those.len();
        if those.is_empty() {
            self.by_place.remove(place);
        }
    }

    fn forget_old(&mut self, now: Timestamp) {
        for those in self.by_place.values_mut() {
            those.retain(|elicitation| now < elicitation.expires);
        }
        self.by_place.retain(|_, those| !those.is_empty());
        self.count = self.by_place.values().map(Vec::len).sum();
    }
}

impl Subscriber for Elicitations {
    fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async {
            match news {
                News::Changes { changes, .. } => {
                    for change in changes {
                        if let Change::Connection { principal, upstream } = change
                            && let (Some(holder), Ok(upstream)) =
                                (Holder::parse(principal), UpstreamName::parse(upstream))
                        {
                            self.look_at_one(Place { holder, upstream });
                        }
                    }
                }
                News::Everything { .. } => self.look_at(|_| true),
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::Origin;
    use crate::connection::lending::Kind;
    use crate::ids::KeyName;
    use crate::store::changes::Revision;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const LIFE: Duration = Duration::from_secs(60);

    fn place(key: &str, upstream: &str) -> Place {
        let holder = Holder::Of(Principal::Key(KeyName::parse(key).unwrap()));
        Place { holder, upstream: UpstreamName::parse(upstream).unwrap() }
    }

    fn elicitation(id: usize, key: &str, upstream: &str) -> Elicitation {
        let origin = Origin::parse("https://up.example").unwrap();
        let place = place(key, upstream);
        let wanted = Wanted { place, kind: Kind::OAuth, origin, scopes: None, max_age: None };
        Elicitation { id: id.to_string(), session: "s".into(), wanted, before: None, expires: NOW.after(LIFE) }
    }

    fn ids(elicitations: &Elicitations, key: &str, now: Timestamp) -> Vec<String> {
        elicitations.at(&place(key, "mail"), now).into_iter().map(|one| one.id).collect()
    }

    fn changed(place: &Place) -> News {
        let (principal, upstream) = (place.holder.to_string(), place.upstream.to_string());
        News::Changes { changes: vec![Change::Connection { principal, upstream }], revision: Revision::default() }
    }

    #[tokio::test]
    async fn a_change_is_looked_at_where_somebody_waits_and_nowhere_else() {
        let elicitations = Elicitations::default();
        elicitations.remember(elicitation(1, "ann", "mail"), NOW);
        elicitations.remember(elicitation(2, "bob", "mail"), NOW);
        for nobodys in [place("ann", "notes"), place("carl", "mail")] {
            elicitations.take(&changed(&nobodys)).await.unwrap();
        }
        assert!(elicitations.lock().due.is_empty());
        for _ in 0..2 {
            elicitations.take(&changed(&place("bob", "mail"))).await.unwrap();
        }
        assert_eq!(elicitations.next().await, place("bob", "mail"));
        assert!(elicitations.lock().due.is_empty(), "once");
        elicitations.take(&News::Everything { revision: Revision::default() }).await.unwrap();
        assert_eq!(
            [elicitations.next().await, elicitations.next().await],
            [place("ann", "mail"), place("bob", "mail")]
        );
        elicitations.somebody_listens(&Principal::Key(KeyName::parse("ann").unwrap()));
        assert_eq!(elicitations.next().await, place("ann", "mail"));
        assert!(elicitations.lock().due.is_empty());
    }

    #[test]
    fn what_is_told_or_too_old_waits_no_more() {
        let elicitations = Elicitations::default();
        for id in 1..=3 {
            elicitations.remember(elicitation(id, "ann", "mail"), NOW);
        }
        elicitations.forget(&elicitation(2, "ann", "mail"));
        assert_eq!(ids(&elicitations, "ann", NOW), ["1", "3"]);
        assert_eq!(ids(&elicitations, "ann", NOW.after(LIFE)), [""; 0]);
        let waiting = elicitations.lock();
        assert_eq!((waiting.count, waiting.by_place.len()), (0, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let elicitations = Elicitations::default();
        for id in 0..MAX_OF_ONE + 2 {
            elicitations.remember(elicitation(id, "ann", "mail"), NOW);
        }
        let of_ann = ids(&elicitations, "ann", NOW);
        assert_eq!((of_ann.len(), of_ann[0].as_str()), (MAX_OF_ONE, "2"), "the oldest are forgotten");
        for id in 0..MAX_REMEMBERED {
            elicitations.remember(elicitation(id, &format!("k{id}"), "mail"), NOW);
        }
        assert_eq!(elicitations.lock().count, MAX_REMEMBERED);
        elicitations.remember(elicitation(0, "bob", "mail"), NOW);
        assert_eq!(ids(&elicitations, "bob", NOW), [""; 0]);
        elicitations.remember(elicitation(0, "bob", "mail"), NOW.after(LIFE));
        assert_eq!(elicitations.lock().count, 1, "those whose time is over make room");
    }
}
