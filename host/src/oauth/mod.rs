//! What the authorization server speaks of: clients, requests, grants, refresh tokens, keys that sign (OAuth 2.1).
//!
//! Pure. Each state is an enum with the data of that state, and what happens to a thing is a function of the thing and the
//! time; what is written when is `store`. Nothing here knows a secret: codes, tokens and cookies are digests. [`upstream`] is
//! the other side, where we are the client, and writes the forms that secrets are shown in.

use std::time::Duration;

use crate::env::Timestamp;

pub mod access;
pub mod assertion;
pub mod client;
pub mod device;
pub mod document;
pub mod dpop;
pub mod grant;
pub mod id_jag;
pub mod metadata;
pub mod redirect;
pub mod registration;
pub mod request;
pub mod signing;
pub mod signing_key;
pub mod succession;
pub mod token;
pub mod upstream;
pub mod vouched;

pub use access::{Access, AccessLimits, IdentitySet, ResourceList};
pub use client::Client;
pub use grant::Grant;

/// Longest life of an access token that may be set. What refuses access tokens is kept a little longer.
pub const MAX_ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);

/// A short time in which something counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Window {
    /// From now on, for `length`.
    pub fn starting(from: Timestamp, length: Duration) -> Self {
        Self { from, until: from.after(length) }
    }

    /// Whether it is open. A clock that was set back by at least the window's own length closes it: nothing that should be
    /// short becomes long because of a clock.
    pub fn is_open(&self, now: Timestamp) -> bool {
        let length = Duration::from_millis(self.until.as_millis().saturating_sub(self.from.as_millis()));
        now < self.until && now.after(length) > self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_open_from_its_start_to_its_end_whatever_the_clock_does() {
        let at = Timestamp::from_millis;
        let window = Window::starting(at(100_000), Duration::from_millis(30));
        for (now, open) in [
            (0, false),
            (99_970, false),
            (99_971, true),
            (100_000, true),
            (100_029, true),
            (100_030, false),
            (u64::MAX, false),
        ] {
            assert_eq!(window.is_open(at(now)), open, "{now}");
        }
        assert!(!Window::starting(at(5), Duration::ZERO).is_open(at(5)));
    }
}
