//! What a server does in place of what it should, by path.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// What becomes of requests to a path.
#[derive(Clone, Debug)]
pub enum Whim {
    /// They are answered, after this.
    Late(Duration),
    /// They are answered with this status and body, and nothing is done.
    Says(u16, String),
    /// They are sent to another address, and nothing is done.
    SendsTo(String),
    /// All is done, and the answer is lost: 503 comes in its place.
    Loses,
}

/// The whims of a server, and what it was asked.
#[derive(Debug, Default)]
pub(super) struct Whims(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    whims: BTreeMap<String, Whim>,
    asked: BTreeMap<String, usize>,
}

impl Whims {
    pub(super) fn set(&self, path: &str, whim: Whim) {
        self.lock().whims.insert(path.to_owned(), whim);
    }

    pub(super) fn clear(&self) {
        self.lock().whims.clear();
    }

    /// Counts a request to this path. What becomes of it, if it is not what should.
    pub(super) fn at(&self, path: &str) -> Option<Whim> {
        let mut inner = self.lock();
        *inner.asked.entry(path.to_owned()).or_default() += 1;
        inner.whims.get(path).cloned()
    }

    pub(super) fn asked(&self, path: &str) -> usize {
        self.lock().asked.get(path).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}
