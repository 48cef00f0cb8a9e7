//! Unwrapped data keys, for a while. What goes out of use is overwritten (its memory is zeroised when it is dropped).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::format::OpenKey;
use crate::ids::Owner;

/// Data keys that are kept at once. Beyond that the oldest go first.
pub(super) const MAX_CACHED: usize = 10_000;

/// All entries live equally long, so that they end in the order in which they came.
pub(super) struct Cache {
    ttl: Duration,
    capacity: usize,
    keys: HashMap<Owner, (u64, Arc<OpenKey>)>,
    /// When each entry ends, and the number it came under. An entry that was replaced has another number.
    ends: VecDeque<(Instant, u64, Owner)>,
    count: u64,
    /// Goes up whenever something is forgotten.
    generation: u64,
}

/// What was forgotten up to some moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl Cache {
    pub(super) fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, keys: HashMap::new(), ends: VecDeque::new(), count: 0, generation: 0 }
    }

    pub(super) fn get(&mut self, owner: &Owner) -> Option<Arc<OpenKey>> {
        self.tidy_up();
        self.keys.get(owner).map(|(_, key)| key.clone())
    }

    /// Where a data key is read from the store from now on.
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// Keeps a data key that was read from the store after `as_of`, unless something was forgotten since: it may be just that.
    pub(super) fn insert(&mut self, owner: Owner, key: Arc<OpenKey>, as_of: Generation) {
        self.tidy_up();
        if self.ttl.is_zero() || as_of != self.generation() {
            return;
        }
        while self.ends.len() >= self.capacity {
            self.end_first();
        }
        self.count += 1;
        self.ends.push_back((Instant::now() + self.ttl, self.count, owner.clone()));
        self.keys.insert(owner, (self.count, key));
    }

    pub(super) fn forget(&mut self, owner: &Owner) {
        self.generation += 1;
        self.keys.remove(owner);
    }

    pub(super) fn clear(&mut self) {
        self.generation += 1;
        self.keys.clear();
        self.ends.clear();
    }

    pub(super) fn set_ttl(&mut self, ttl: Duration) {
        if ttl != self.ttl {
            self.clear();
            self.ttl = ttl;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Lets go of what has ended.
    pub(super) fn tidy_up(&mut self) {
        let now = Instant::now();
        while self.ends.front().is_some_and(|(end, ..)| *end <= now) {
            self.end_first();
        }
    }

    fn end_first(&mut self) {
        let Some((_, number, owner)) = self.ends.pop_front() else { return };
        if self.keys.get(&owner).is_some_and(|(of_key, _)| *of_key == number) {
            self.keys.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{KekId, KeyName, Principal};
    use crate::secret::SecretBytes;
    use crate::store::data_keys::DataKeyId;

    fn owner(number: usize) -> Owner {
        Owner::Principal(Principal::Key(KeyName::parse(&number.to_string()).unwrap()))
    }

    fn key() -> Arc<OpenKey> {
        let key = SecretBytes::new(vec![7; 32]);
        Arc::new(OpenKey { id: DataKeyId([0; 16]), kid: KekId::parse("k1").unwrap(), key })
    }

    fn put(cache: &mut Cache, number: usize) {
        let as_of = cache.generation();
        cache.insert(owner(number), key(), as_of);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_there_until_its_time_is_over() {
        let mut cache = Cache::new(Duration::from_secs(60), 10);
        put(&mut cache, 1);
        tokio::time::advance(Duration::from_secs(40)).await;
        put(&mut cache, 1);
        put(&mut cache, 2);
        tokio::time::advance(Duration::from_secs(40)).await;
        assert!(cache.get(&owner(1)).is_some() && cache.get(&owner(2)).is_some());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(cache.get(&owner(1)).is_none() && cache.get(&owner(2)).is_none());
        assert_eq!((cache.len(), cache.ends.len()), (0, 0));
    }

    #[tokio::test]
    async fn the_oldest_go_first_and_nothing_grows_without_bound() {
        let mut cache = Cache::new(Duration::from_secs(60), 3);
        for round in 0..5 {
            (0..round).for_each(|number| put(&mut cache, number));
            cache.forget(&owner(0));
        }
        assert!(cache.len() <= 3 && cache.ends.len() <= 3);
        assert!(cache.get(&owner(3)).is_some() && cache.get(&owner(0)).is_none());
        cache.clear();
        assert_eq!(cache.len(), 0);
    }

    #[tokio::test]
    async fn what_was_read_before_something_was_forgotten_does_not_come_in_afterwards() {
        let mut cache = Cache::new(Duration::from_secs(60), 3);
        let as_of = cache.generation();
        cache.forget(&owner(1));
        cache.insert(owner(1), key(), as_of);
        let as_of = cache.generation();
        cache.clear();
        cache.insert(owner(2), key(), as_of);
        assert_eq!(cache.len(), 0);
        put(&mut cache, 1);
        assert_eq!(cache.len(), 1);
    }
}
