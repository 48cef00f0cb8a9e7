//! How often somebody may try to sign in: for each login and for each address (`docs/threat-model.md` row T20).
//!
//! A login has a few tries from each network; after those each try that fails doubles the wait, up to a bound, so that
//! guessing is hopeless and whoever is really meant gets in a minute later. The tries of all networks together are counted
//! the same way, with more that are free; this does not hold up networks from which the login has succeeded before, so
//! that nobody is kept out by strangers who guess without end. An address has a bucket of tries, which fills up again at a steady
//! rate, so that one that many people share (a proxy) is slowed and not shut. Every try is charged before the password
//! is looked at, so that many at once gain nothing; one that succeeds is not charged after all. Logins that nobody
//! has are treated alike. What is counted is in memory, bounded, and each replica's own.

use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::rates::Network;
use crate::env::Timestamp;
use crate::secret::Digest;

/// Failed tries of a login from one network before it has to wait.
const FREE_TRIES: u32 = 5;
/// The same from all networks.
const FREE_OF_ALL: u32 = 100;
/// How long it is remembered from where a login has succeeded.
const KNOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Longest wait of a login.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// When failures are forgotten, if none follows.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Tries of an address at once.
const BURST: u64 = 30;
/// After which an address has one more.
const REFILL: Duration = Duration::from_secs(1);
/// Logins and addresses that are remembered.
const REMEMBERED: u64 = 20_000;

/// Counts tries. Clones share it.
#[derive(Clone)]
pub struct Backoff {
    /// By login, and by login and network.
    logins: Cache<Digest32, Failures>,
    /// Logins and networks that have succeeded.
    known: Cache<Digest32, ()>,
    networks: Cache<Network, Bucket>,
}

type Digest32 = [u8; 32];

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
    /// No try counts before this.
    until: Timestamp,
}

/// A bucket of tries as the time at which it is full again (generic cell rate algorithm).
#[derive(Clone, Copy)]
struct Bucket {
    full: Timestamp,
}

/// A try that was let through.
#[derive(Debug)]
pub struct Try {
    /// The login from this network.
    own: Digest32,
    /// The login from all networks, if they were looked at.
    whole: Option<Digest32>,
    address: Option<IpAddr>,
}

/// No try now: come again after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    pub fn new() -> Self {
        let known = Cache::builder().max_capacity(REMEMBERED).time_to_live(KNOWN).build();
        Self { logins: remembered(), known, networks: remembered() }
    }

    /// Charges a try to open `login` from `address`, whether or not anybody has that login.
    ///
    /// # Errors
    /// When to come again.
    pub fn begin(&self, login: &str, address: Option<IpAddr>, now: Timestamp) -> Result<Try, Wait> {
        let login = login.trim().to_ascii_lowercase();
        let own = digest(&format!("{login}\0{:?}", Network::of(address)));
        if let Some(address) = address {
            self.charge_address(address, now)?;
        }
        // What is refused was not a try, so it costs the address none.
        self.charge_login(own, FREE_TRIES, now).inspect_err(|_| self.refund(address))?;
        if self.known.contains_key(&own) {
            return Ok(Try { own, whole: None, address });
        }
        let whole = digest(&login);
        self.charge_login(whole, FREE_OF_ALL, now).inspect_err(|_| {
            self.uncount(own);
            self.refund(address);
        })?;
        Ok(Try { own, whole: Some(whole), address })
    }

    /// The person is who they say: what failed before is forgotten.
    #[expect(clippy::needless_pass_by_value, reason = "a try is over with it")]
    pub fn succeeded(&self, done: Try) {
        self.known.insert(done.own, ());
        self.logins.invalidate(&done.own);
        if let Some(whole) = done.whole {
            self.uncount(whole);
        }
        self.refund(done.address);
    }

    /// The password was not looked at after all.
    #[expect(clippy::needless_pass_by_value, reason = "a try is over with it")]
    pub fn take_back(&self, undone: Try) {
        self.uncount(undone.own);
        if let Some(whole) = undone.whole {
            self.uncount(whole);
        }
        self.refund(undone.address);
    }

    fn uncount(&self, login: Digest32) {
        self.logins.entry(login).and_compute_with(|entry| match entry.map(moka::Entry::into_value) {
            Some(known) if known.count > 1 => {
                Op::Put(Failures { count: known.count - 1, until: Timestamp::default(), ..known })
            }
            Some(_) => Op::Remove,
            None => Op::Nop,
        });
    }

    fn charge_login(&self, login: Digest32, free: u32, now: Timestamp) -> Result<(), Wait> {
        let mut refused = None;
        self.logins.entry(login).and_compute_with(|entry| {
            let known = entry.map(moka::Entry::into_value).filter(|known| now < known.last.after(FORGOTTEN));
            if let Some(known) = known.filter(|known| now < known.until) {
                refused = Some(Wait(Duration::from_millis(known.until.as_millis() - now.as_millis())));
                return Op::Nop;
            }
            let count = known.map_or(0, |known| known.count).saturating_add(1);
            let over = count.checked_sub(free);
            let wait = over.map_or(Duration::ZERO, |over| Duration::from_secs(1 << over.min(16)).min(MAX_WAIT));
            Op::Put(Failures { count, last: now, until: now.after(wait) })
        });
        refused.map_or(Ok(()), Err)
    }

    fn charge_address(&self, address: IpAddr, now: Timestamp) -> Result<(), Wait> {
        let depth = REFILL * u32::try_from(BURST).expect("a small number");
        let mut refused = None;
        self.networks.entry(Network::of(Some(address))).and_compute_with(|entry| {
            let full = entry.map_or(now, |entry| entry.into_value().full).max(now).after(REFILL);
            if full > now.after(depth) {
                refused = Some(Wait(Duration::from_millis(full.as_millis() - now.after(depth).as_millis())));
                return Op::Nop;
            }
            Op::Put(Bucket { full })
        });
        refused.map_or(Ok(()), Err)
    }

    fn refund(&self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        self.networks.entry(Network::of(Some(address))).and_compute_with(|entry| match entry {
            Some(entry) => Op::Put(Bucket { full: entry.into_value().full.before(REFILL) }),
            None => Op::Nop,
        });
    }
}

/// The newest is kept always: what is not could be tried for as long as there are others.
fn remembered<K: Eq + Hash + Send + Sync + 'static, V: Clone + Send + Sync + 'static>() -> Cache<K, V> {
    let kept = Cache::builder().max_capacity(REMEMBERED).time_to_idle(FORGOTTEN);
    kept.eviction_policy(EvictionPolicy::lru()).build()
}

fn digest(text: &str) -> Digest32 {
    *Digest::of(text.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, number]))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    #[test]
    fn a_login_waits_twice_as_long_after_each_failure_up_to_a_minute() {
        let backoff = Backoff::new();
        let mut now = at(0);
        for _ in 0..FREE_TRIES {
            assert!(backoff.begin("ada", None, now).is_ok());
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = SECOND * seconds;
            // In whatever case.
            assert_eq!(backoff.begin(" ADA", None, now).unwrap_err(), Wait(wait));
            assert_eq!(backoff.begin("ada", None, now.after(wait - SECOND)).unwrap_err(), Wait(SECOND));
            assert!(backoff.begin("bob", None, now.after(wait - SECOND)).is_ok(), "others do not wait");
            backoff.logins.invalidate(&digest(&format!("bob\0{:?}", Network::of(None))));
            now = now.after(wait);
            assert!(backoff.begin("ada", None, now).is_ok());
        }
        let later = now.after(FORGOTTEN);
        for _ in 0..FREE_TRIES {
            assert!(backoff.begin("ada", None, later).is_ok(), "it is forgotten");
        }
        assert!(backoff.begin("ada", None, later).is_err());
    }

    #[test]
    fn nobody_is_kept_out_by_those_who_guess_elsewhere() {
        let backoff = Backoff::new();
        let done = backoff.begin("ada", address(1), at(0)).unwrap();
        backoff.succeeded(done);
        while backoff.begin("ada", address(2), at(0)).is_ok() {}
        assert!(backoff.begin("ada", address(3), at(0)).is_ok(), "one network that guesses holds up no other");
        // Many networks are held up together, and the one where she was before is not.
        let strangers = (0..200).map(|last| Some(IpAddr::from([198, 51, 100, last])));
        let through = strangers.filter(|from| backoff.begin("ada", *from, at(0)).is_ok()).count();
        assert_eq!(through, (FREE_OF_ALL - FREE_TRIES - 1) as usize);
        assert!(backoff.begin("ada", address(4), at(0)).is_err());
        assert!(backoff.begin("ada", address(1), at(0)).is_ok());
        // Nor does what she does let strangers try more often.
        backoff.succeeded(backoff.begin("ada", address(1), at(0)).unwrap());
        assert!(backoff.begin("ada", address(4), at(0)).is_err());
        assert!(backoff.begin("bob", address(4), at(0)).is_ok());
    }

    #[test]
    fn whoever_gets_in_has_all_tries_again() {
        let backoff = Backoff::new();
        for _ in 1..FREE_TRIES {
            backoff.begin("ada", address(1), at(0)).unwrap();
        }
        let done = backoff.begin("ada", address(1), at(0)).unwrap();
        assert!(backoff.begin("ada", address(1), at(0)).is_err());
        backoff.succeeded(done);
        for _ in 0..FREE_TRIES {
            assert!(backoff.begin("ada", address(1), at(0)).is_ok());
        }
    }

    #[test]
    fn an_address_has_so_many_tries_and_one_more_each_second() {
        let backoff = Backoff::new();
        for number in 0..BURST {
            assert!(backoff.begin(&number.to_string(), address(1), at(0)).is_ok(), "{number}");
        }
        assert_eq!(backoff.begin("x", address(1), at(0)).unwrap_err(), Wait(SECOND));
        assert!(backoff.begin("x", address(2), at(0)).is_ok());
        assert!(backoff.begin("y", address(1), at(1)).is_ok());
        assert!(backoff.begin("z", address(1), at(1)).is_err());
        assert!(backoff.begin("z", address(1), at(1000)).is_ok());
    }

    #[test]
    fn what_succeeds_or_was_no_try_costs_an_address_nothing() {
        let backoff = Backoff::new();
        for _ in 0..10 * BURST {
            let done = backoff.begin("ada", address(1), at(0)).unwrap();
            backoff.succeeded(done);
        }
        for _ in 0..FREE_TRIES {
            backoff.begin("bob", address(1), at(0)).unwrap();
        }
        for _ in 0..10 * BURST {
            assert!(backoff.begin("bob", address(1), at(0)).is_err());
        }
        assert!(backoff.begin("eve", address(1), at(0)).is_ok());
    }

    #[test]
    fn a_try_that_was_none_is_taken_back() {
        let backoff = Backoff::new();
        for _ in 0..10 * BURST {
            let undone = backoff.begin("ada", address(1), at(0)).unwrap();
            backoff.take_back(undone);
        }
        for _ in 0..FREE_TRIES {
            assert!(backoff.begin("ada", address(1), at(0)).is_ok());
        }
        assert!(backoff.begin("ada", address(1), at(0)).is_err());
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let backoff = Backoff::new();
        let of = |host: u64| Some(IpAddr::from([0x2001, 0xdb8, 1, 2, 3, 4, 5, u16::try_from(host).unwrap()]));
        for number in 0..BURST {
            assert!(backoff.begin(&number.to_string(), of(number), at(0)).is_ok(), "{number}");
        }
        assert!(backoff.begin("x", of(BURST), at(0)).is_err());
    }

    #[tokio::test]
    async fn of_many_tries_at_once_a_few_are_let_through() {
        let backoff = Backoff::new();
        let mut tries = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let backoff = backoff.clone();
            tries.spawn(async move { backoff.begin("ada", None, at(0)).is_ok() });
        }
        let through = tries.join_all().await.into_iter().filter(|through| *through).count();
        assert_eq!(through, FREE_TRIES as usize);
    }
}
