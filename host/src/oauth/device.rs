//! Device authorization (RFC 8628): a device waits with one code while a person enters another one elsewhere.

use std::net::IpAddr;
use std::time::Duration;

use super::Window;
use super::access::{Access, ResourceList};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ClientId, GrantId, Principal};
use crate::secret::Digest;

/// By how much a device that polls too soon has to slow down (RFC 8628 §3.5).
pub const SLOW_DOWN: Duration = Duration::from_secs(5);
/// The slowest that a device is made.
pub const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// One device that waits, or does no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// Digest of the code that the device polls with.
    pub device_code: Digest,
    /// Digest of the code that a person types, in its normal form.
    pub user_code: Digest,
    pub client: ClientId,
    pub resources: ResourceList,
    pub scopes: TokenList,
    /// Thumbprint of the key that the device proved to have (DPoP).
    pub proof: Option<Digest>,
    /// From where it asked, for the person who decides.
    pub from: Option<IpAddr>,
    pub life: Window,
    /// How long the device has to wait between two polls.
    pub interval: Duration,
    pub last_poll: Option<Timestamp>,
    pub state: DeviceState,
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    Pending,
    Approved {
        principal: Principal,
        access: Access,
        at: Timestamp,
    },
    Refused,
    /// The device has this grant.
    Redeemed {
        grant: GrantId,
    },
}

impl DeviceRequest {
    /// Whether a poll at `now` comes before the device has waited long enough. A clock that was set back does not count
    /// against the device.
    pub fn is_hasty(&self, now: Timestamp) -> bool {
        self.last_poll.is_some_and(|last| Window::starting(last, self.interval).is_open(now) && now >= last)
    }

    /// The same after a poll.
    pub fn polled(self, now: Timestamp) -> Self {
        let interval = if self.is_hasty(now) { (self.interval + SLOW_DOWN).min(MAX_INTERVAL) } else { self.interval };
        Self { last_poll: Some(now), interval, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_polls_too_soon_is_slowed_down_to_a_bound() {
        let at = Timestamp::from_millis;
        let mut request = DeviceRequest {
            device_code: Digest::of(b"d"),
            user_code: Digest::of(b"u"),
            client: ClientId::parse("c").unwrap(),
            resources: ResourceList::default(),
            scopes: TokenList::default(),
            proof: None,
            from: None,
            life: Window::starting(at(0), Duration::from_secs(600)),
            interval: Duration::from_secs(5),
            last_poll: None,
            state: DeviceState::Pending,
        };
        for (now, hasty, seconds) in
            [(1_000, false, 5), (5_999, true, 10), (16_000, false, 10), (16_001, true, 15), (3_000, false, 15)]
        {
            assert_eq!(request.is_hasty(at(now)), hasty, "{now}");
            request = request.polled(at(now));
            assert_eq!(request.interval, Duration::from_secs(seconds), "{now}");
        }
        for now in 3_001..3_100 {
            request = request.polled(at(now));
        }
        assert_eq!(request.interval, MAX_INTERVAL);
    }
}
