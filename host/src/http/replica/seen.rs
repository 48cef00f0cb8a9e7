//! Nonces of requests that were taken, for as long as one that repeats them could still be recent.
//!
//! Pure but for the time that it is told. When there are too many, new requests are refused rather than old nonces
//! forgotten.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::MAX_SKEW;
use super::wire::RequestNonce;

/// A request's time may be this far ahead and this far behind: for so long it could come again.
const REMEMBERED: Duration = MAX_SKEW.saturating_mul(2);
/// Nonces of one span of [`REMEMBERED`]: some 8 000 requests a second.
const MAX_NONCES: usize = 500_000;

/// Two spans of nonces: the present one and the one before.
pub(super) struct Seen {
    present: HashSet<RequestNonce>,
    past: HashSet<RequestNonce>,
    since: Instant,
}

impl Seen {
    pub(super) fn new(now: Instant) -> Self {
        Self { present: HashSet::new(), past: HashSet::new(), since: now }
    }

    /// Whether this nonce was not told before, and is remembered from now on.
    pub(super) fn is_new(&mut self, nonce: RequestNonce, now: Instant) -> bool {
        if now.duration_since(self.since) >= REMEMBERED {
            let is_long_ago = now.duration_since(self.since) >= 2 * REMEMBERED;
            self.past = std::mem::take(&mut self.present);
            if is_long_ago {
                self.past.clear();
            }
            self.since = now;
        }
        if self.present.len() >= MAX_NONCES || self.past.contains(&nonce) {
            return false;
        }
        self.present.insert(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: usize) -> RequestNonce {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        nonce
    }

    #[test]
    fn a_nonce_counts_once_for_as_long_as_its_request_could_be_recent() {
        let begin = Instant::now();
        let mut seen = Seen::new(begin);
        assert!(seen.is_new(nonce(1), begin) && !seen.is_new(nonce(1), begin));
        let last = begin + REMEMBERED - Duration::from_millis(1);
        assert!(seen.is_new(nonce(2), last));
        for at in [begin + REMEMBERED, last + REMEMBERED] {
            assert!(!seen.is_new(nonce(2), at), "{:?}", at - begin);
        }
        assert!(seen.is_new(nonce(2), begin + 10 * REMEMBERED));
        assert!(!seen.is_new(nonce(2), begin + 10 * REMEMBERED));
    }

    #[test]
    fn too_many_refuse_new_ones_and_forget_none() {
        let begin = Instant::now();
        let mut seen = Seen::new(begin);
        assert!((0..MAX_NONCES).all(|number| seen.is_new(nonce(number), begin)));
        assert!(!seen.is_new(nonce(MAX_NONCES), begin) && !seen.is_new(nonce(0), begin));
        assert!(seen.is_new(nonce(MAX_NONCES), begin + REMEMBERED));
        assert!(!seen.is_new(nonce(0), begin + REMEMBERED));
    }
}
