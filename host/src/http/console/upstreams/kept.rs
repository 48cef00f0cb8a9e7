//! What somebody has sent and works on further, secrets among it: no page repeats it, so that it stays here, in memory, for
//! the session that it came in, and for a while. It is not what is declared, and is lost when the gateway stops.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::{Env, Timestamp};
use crate::ids::BrowserSessionId;
use crate::secret::hex;

/// How long somebody may look at what they have sent.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// Most sessions for which something is kept at once: the one that came first makes room.
const MOST: usize = 16;

/// One thing for each session of a browser: it outlives a sign-in that has to be shown again.
pub(super) struct Shelf<T>(Mutex<VecDeque<Kept<T>>>);

struct Kept<T> {
    session: BrowserSessionId,
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
    /// Keeps it in the place of what came in the same session before.
    pub(super) fn keep(&self, (session, id): (BrowserSessionId, String), what: T, now: Timestamp) {
        let mut all = self.lock();
        all.retain(|other| other.session != session && now < other.until);
        while all.len() >= MOST {
            all.pop_front();
        }
        all.push_back(Kept { session, id, until: now.after(LIFE), what });
    }

    /// Hands out what has come in this session under this id.
    pub(super) fn take(&self, session: &BrowserSessionId, id: &str, now: Timestamp) -> Option<T> {
        let mut all = self.lock();
        all.retain(|kept| now < kept.until);
        let at = all.iter().position(|kept| kept.session == *session && kept.id == id)?;
        all.remove(at).map(|kept| kept.what)
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
    fn what_is_kept_is_for_one_session_once_and_for_a_while() {
        let (shelf, now) = (Shelf::default(), Timestamp::from_millis(10));
        let end = now.after(LIFE);
        let sessions: Vec<_> = (0..=MOST).map(|_| BrowserSessionId::generate(&Env::system())).collect();
        let keep = |of: usize, id: &str| shelf.keep((sessions[of].clone(), id.to_owned()), (), now);
        let take = |of: usize, id: &str, at: Timestamp| shelf.take(&sessions[of], id, at);
        keep(0, "1");
        assert!(take(1, "1", now).is_none() && take(0, "2", now).is_none());
        assert!(take(0, "1", now).is_some() && take(0, "1", now).is_none());
        keep(0, "1");
        assert!(take(0, "1", end).is_none(), "too late");
        assert!(shelf.lock().is_empty(), "what is over is not kept for others either");
        for of in 0..=MOST {
            keep(of, "1");
        }
        assert!(take(0, "1", now).is_none(), "the first made room");
        assert!(take(1, "1", now).is_some());
        keep(2, "2");
        assert!(take(2, "1", now).is_none(), "what comes in the same session next takes its place");
    }
}
