//! How often something may happen for each of many: for each network that asks, or for whatever else is a key.
//!
//! The counts are this gateway's own and in memory: they slow down. What must not be exceeded is bounded where it is kept.
//! As many keys are remembered as may be; those that have not come for the longest time are forgotten first, and begin anew.
//! Time is the machine's own here, which nobody sets back.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// Most keys that are remembered.
const MAX_KEYS: u64 = 100_000;
/// A key that does not come for so long is forgotten. No limit is of a longer time, so that it has its whole budget again.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// So many at once, and so many again within this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    many: NonZeroU32,
    within: Duration,
}

impl Limit {
    pub fn per_minute(many: u32) -> Self {
        Self::within(many, Duration::from_secs(60))
    }

    pub fn per_hour(many: u32) -> Self {
        Self::within(many, FORGOTTEN)
    }

    /// One at least.
    fn within(many: u32, within: Duration) -> Self {
        Self { many: NonZeroU32::new(many).unwrap_or(NonZeroU32::MIN), within }
    }

    fn quota(self) -> Quota {
        let step = (self.within / self.many.get()).max(Duration::from_nanos(1));
        Quota::with_period(step).expect("a step takes a nanosecond at least").allow_burst(self.many)
    }
}

/// Counts one kind of thing for each key. Clones count together.
#[derive(Clone)]
pub struct Rate<K>(Cache<(K, Limit), Arc<DefaultDirectRateLimiter>>);

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Rate<K> {
    pub fn new() -> Self {
        Self::remembering(MAX_KEYS)
    }

    fn remembering(keys: u64) -> Self {
        // The newest is kept always: who is not remembered could come as often as they like.
        let kept = Cache::builder().max_capacity(keys).time_to_idle(FORGOTTEN).eviction_policy(EvictionPolicy::lru());
        Self(kept.build())
    }

    /// Counts one more.
    ///
    /// # Errors
    /// How long to wait. It is not counted.
    pub fn count(&self, key: K, limit: Limit) -> Result<(), Duration> {
        // After a change of the setting everybody begins anew.
        let limiter = self.0.get_with((key, limit), || Arc::new(DefaultDirectRateLimiter::direct(limit.quota())));
        limiter.check().map_err(|refused| refused.wait_time_from(DefaultClock::default().now()))
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Default for Rate<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> std::fmt::Debug for Rate<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rate({} keys)", self.0.entry_count())
    }
}

/// An address as its owner has it: one of IPv4, and of IPv6 the 64 bits that one subscriber gets at least (RFC 6177), so that
/// nobody has a fresh budget for each of their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    V4([u8; 4]),
    V6([u8; 8]),
    /// Of all whose address is not known.
    Nowhere,
}

impl Network {
    pub fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
            None => Self::Nowhere,
        }
    }

    /// What tells it from others.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(address) => address,
            Self::V6(network) => network,
            Self::Nowhere => b"nowhere",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_budget_and_is_told_when_there_is_more() {
        let rate = Rate::new();
        for _ in 0..6 {
            assert_eq!(rate.count("a", Limit::per_minute(6)), Ok(()));
        }
        let wait = rate.count("a", Limit::per_minute(6)).unwrap_err();
        assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(rate.count("b", Limit::per_minute(6)), Ok(()), "another key has its own");
        assert_eq!(rate.count("a", Limit::per_minute(7)), Ok(()), "another limit begins anew");
        assert_eq!(rate.count("c", Limit::per_hour(0)), Ok(()));
        let wait = rate.count("c", Limit::per_hour(0)).unwrap_err();
        assert!(wait > Duration::from_secs(3_590) && wait <= Duration::from_secs(3_600), "{wait:?}");
    }

    #[tokio::test]
    async fn who_has_waited_may_come_again() {
        let (rate, limit) = (Rate::new(), Limit::within(2, Duration::from_millis(200)));
        while rate.count("a", limit).is_ok() {}
        let wait = rate.count("a", limit).unwrap_err();
        tokio::time::sleep(wait + Duration::from_millis(1)).await;
        assert_eq!(rate.count("a", limit), Ok(()));
    }

    #[test]
    fn no_flood_of_keys_takes_more_than_its_room_or_lets_a_new_one_through_uncounted() {
        let rate = Rate::remembering(100);
        let once = Limit::per_minute(1);
        for number in 0..10_000_u32 {
            assert_eq!(rate.count(number, once), Ok(()));
        }
        rate.0.run_pending_tasks();
        assert!(rate.0.entry_count() <= 100);
        // However often the others have come.
        for _ in 0..100 {
            for number in 9_950..10_000 {
                assert!(rate.count(number, once).is_err());
            }
        }
        assert_eq!(rate.count(10_000, once), Ok(()));
        rate.0.run_pending_tasks();
        assert!(rate.count(10_000, once).is_err());
    }

    #[test]
    fn one_subscriber_is_one_network() {
        let of = |text: &str| Network::of(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_ne!(Network::of(None), of("0.0.0.0"));
        assert_eq!(of("192.0.2.1").as_bytes(), [192, 0, 2, 1]);
    }
}
