//! The resources that one listener watches: a session, or a stream of its own. They are bounded, and what its caller may
//! not see any more is let go of ([`super::fanout`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mcp::revision::MAX_WATCHED;
use crate::upstream::Watch;

/// By URI; without a watch while it is being made.
type ByUri = BTreeMap<String, Option<Watch>>;

/// What is watched.
#[derive(Default)]
pub(super) struct Watches(Mutex<ByUri>);

/// As many resources are watched as may be.
#[derive(Debug)]
pub(super) struct TooManyWatches;

impl Watches {
    /// Makes a place for a watch; `Ok(None)` if this resource is watched already, by a watch that is not over. Whether it may be is decided after
    /// that, on a snapshot that is loaded after that: then no change of what the caller sees is missed.
    pub(super) fn reserve(self: &Arc<Self>, uri: &str) -> Result<Option<Reserved>, TooManyWatches> {
        let mut watches = self.lock();
        match watches.get(uri) {
            Some(Some(watch)) if watch.is_over() => _ = watches.remove(uri),
            Some(_) => return Ok(None),
            None => {}
        }
        if watches.len() >= MAX_WATCHED {
            return Err(TooManyWatches);
        }
        watches.insert(uri.to_owned(), None);
        Ok(Some(Reserved { watches: self.clone(), uri: uri.to_owned(), is_kept: false }))
    }

    /// Ends a watch, also one that is being made.
    pub(super) fn end(&self, uri: &str) {
        let watch = self.lock().remove(uri);
        drop(watch);
    }

    pub(super) fn end_all(&self) {
        let watches = std::mem::take(&mut *self.lock());
        drop(watches);
    }

    pub(super) fn uris(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, ByUri> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for a watch that is being made.
pub(super) struct Reserved {
    watches: Arc<Watches>,
    uri: String,
    is_kept: bool,
}

impl Reserved {
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// Keeps the watch, unless the caller does not want it any more, or may not have it. Whether it is kept.
    pub(super) fn keep(mut self, watch: Watch) -> bool {
        let mut watches = self.watches.lock();
        let unused = match watches.get_mut(&self.uri) {
            Some(place @ None) => place.replace(watch),
            _ => Some(watch),
        };
        drop(watches);
        self.is_kept = true;
        unused.is_none()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_kept {
            let mut watches = self.watches.lock();
            if watches.get(&self.uri).is_some_and(Option::is_none) {
                watches.remove(&self.uri);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_bounded() {
        let watches = Arc::new(Watches::default());
        let places: Vec<Reserved> =
            (0..MAX_WATCHED).map(|number| watches.reserve(&number.to_string()).unwrap().unwrap()).collect();
        assert!(watches.reserve("0").unwrap().is_none(), "it is watched already");
        assert!(watches.reserve("one more").is_err());
        drop(places);
        assert!(watches.reserve("one more").unwrap().is_some(), "what failed makes room");
        assert_eq!(watches.uris(), [""; 0]);
    }
}
