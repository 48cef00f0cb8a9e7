//! What somebody has sent and works on further, secrets among it: no page repeats it, so that it stays here, in memory, for
//! the browser that sent it, and for a while. It is not what is declared, and is lost when the gateway stops.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::{Env, Timestamp};
use crate::secret::{Digest, hex};

/// How long somebody may look at what they have sent.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// Most browsers for which something is kept at once: the one that came first makes room.
const MOST: usize = 16;

/// One thing for each browser.
pub(super) struct Shelf<T>(Mutex<VecDeque<Kept<T>>>);

struct Kept<T> {
    /// Whose browser sent it.
    cookie: Digest,
    id: String,
    until: Timestamp,
    what: T,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Shelf<T> {
    /// Keeps it in the place of what the same browser sent before.
    pub(super) fn keep(&self, (cookie, id): (Digest, String), what: T, now: Timestamp) {
        let mut all = self.lock();
        all.retain(|other| other.cookie != cookie && now < other.until);
        while all.len() >= MOST {
            all.pop_front();
        }
        all.push_back(Kept { cookie, id, until: now.after(LIFE), what });
    }

    /// Hands out what this browser has sent under this id.
    pub(super) fn take(&self, cookie: Digest, id: &str, now: Timestamp) -> Option<T> {
        let mut all = self.lock();
        let at = all.iter().position(|kept| kept.cookie == cookie && kept.id == id)?;
        all.remove(at).filter(|kept| now < kept.until).map(|kept| kept.what)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn new_id(env: &Env) -> String {
    hex(&env.random::<16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_for_one_browser_once_and_for_a_while() {
        let (shelf, now) = (Shelf::default(), Timestamp::from_millis(10));
        let end = now.after(LIFE);
        let keep = |cookie: &[u8], id: &str| shelf.keep((Digest::of(cookie), id.to_owned()), (), now);
        let take = |cookie: &[u8], id: &str, at: Timestamp| shelf.take(Digest::of(cookie), id, at);
        keep(b"a", "1");
        assert!(take(b"b", "1", now).is_none() && take(b"a", "2", now).is_none());
        assert!(take(b"a", "1", now).is_some() && take(b"a", "1", now).is_none());
        keep(b"a", "1");
        assert!(take(b"a", "1", end).is_none(), "too late");
        for number in 0..=MOST {
            keep(&[u8::try_from(number).unwrap()], "1");
        }
        assert!(take(&[0], "1", now).is_none(), "the first made room");
        assert!(take(&[1], "1", now).is_some());
        keep(&[2], "2");
        assert!(take(&[2], "1", now).is_none(), "what the same browser sends next takes its place");
    }
}
