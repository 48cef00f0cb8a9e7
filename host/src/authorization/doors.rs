//! How often strangers may knock, for each network: a door that is tried too often stays shut for a while
//! (`docs/threat-model.md` row T20).

use std::net::IpAddr;
use std::time::Duration;

use super::rates::{Limit, Network, Rate};

/// Requests for authorization, at once and a minute.
const AUTHORIZE: u32 = 60;
/// Forms that pages of ours send, at once and a minute: each leaves a mark in the store for as long as it could come again.
const FORMS: u32 = 120;
/// Ways to an identity provider and back, at once and a minute: each has this gateway ask the provider something.
const PROVIDERS: u32 = 60;
/// Pages on which connections are made, and links to them, at once and a minute: each may have this gateway ask an
/// authorization server or an upstream something.
const CONNECTIONS: u32 = 60;
/// Virtual keys that are presented on a page, at once and a minute.
const KEYS: u32 = 10;
/// Guests an hour.
const GUESTS: u32 = 10;
/// Devices that begin to wait, at once and a minute. There is a place for a bounded number of them.
const DEVICES: u32 = 30;
/// Requests that are pushed, at once and a minute; the same.
const PUSHED: u32 = 120;
/// Requests of clients at the token endpoint and its siblings, at once and a minute. Whoever guesses at 256 bits is not
/// stopped by that: it keeps the processor free.
const TOKENS: u32 = 60_000;
/// Credentials that are none: virtual keys at `/mcp`, tokens of operators at `/api`. At once and a minute. Those that are good
/// are not counted, so that nobody is kept out by whoever shares an address with them.
const WRONG: u32 = 600;

/// The doors that one comes to without being anybody, or as a client that anybody can be.
#[derive(Debug)]
pub struct Doors {
    pub authorize: Door,
    pub forms: Door,
    pub providers: Door,
    pub connections: Door,
    pub keys: Door,
    pub guests: Door,
    pub devices: Door,
    pub pushed: Door,
    pub tokens: Door,
}

impl Default for Doors {
    fn default() -> Self {
        let per_minute = |many| Door::of(Limit::per_minute(many));
        Self {
            authorize: per_minute(AUTHORIZE),
            forms: per_minute(FORMS),
            providers: per_minute(PROVIDERS),
            connections: per_minute(CONNECTIONS),
            keys: per_minute(KEYS),
            guests: Door::of(Limit::per_hour(GUESTS)),
            devices: per_minute(DEVICES),
            pushed: per_minute(PUSHED),
            tokens: per_minute(TOKENS),
        }
    }
}

/// One door, with the limit within which each network may knock.
#[derive(Debug)]
pub struct Door {
    rate: Rate<Network>,
    limit: Limit,
}

impl Door {
    fn of(limit: Limit) -> Self {
        Self { rate: Rate::new(), limit }
    }

    /// One for credentials that were looked at and are wrong.
    pub fn of_wrong_credentials() -> Self {
        Self::of(Limit::per_minute(WRONG))
    }

    /// Counts one more from this address. Without an address, all are counted as one.
    ///
    /// # Errors
    /// When it may come again.
    pub fn count(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        self.rate.count(Network::of(address), self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_own_count() {
        let door = Door::of(Limit::per_hour(2));
        let count = |address: &str| door.count(Some(address.parse().unwrap())).is_ok();
        assert_eq!([count("192.0.2.1"), count("192.0.2.1"), count("192.0.2.1")], [true, true, false]);
        assert_eq!([count("192.0.2.2"), count("::ffff:192.0.2.2"), count("192.0.2.2")], [true, true, false]);
        assert_eq!([count("2001:db8::1"), count("2001:db8::2"), count("2001:db8::3")], [true, true, false]);
        assert!(count("2001:db8:0:1::1"));
        let wait = door.count(Some("192.0.2.1".parse().unwrap())).unwrap_err();
        assert!(wait > Duration::from_secs(60) && wait <= Duration::from_secs(30 * 60), "{wait:?}");
        assert_eq!([door.count(None).is_ok(), door.count(None).is_ok(), door.count(None).is_ok()], [true, true, false]);
    }
}
