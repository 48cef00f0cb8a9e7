//! What a listener's connections come to, for operators.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use crate::telemetry::Grid;

/// Classes of statuses.
const CLASSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx"];
/// What becomes of connections.
const CONNECTIONS: &[&str] = &["accepted", "refused", "cut"];

/// What came to a listener.
#[derive(Debug)]
pub struct Meter {
    open: AtomicU64,
    connections: Grid<1>,
    responses: Grid<1>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { open: AtomicU64::new(0), connections: Grid::new([CONNECTIONS]), responses: Grid::new([CLASSES]) }
    }
}

impl Meter {
    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections by what became of them: `accepted`, `refused` because all places were taken, `cut` for being slow.
    pub fn connections(&self) -> Vec<([&'static str; 1], u64)> {
        self.connections.read()
    }

    /// Responses by class of status.
    pub fn responses(&self) -> Vec<([&'static str; 1], u64)> {
        self.responses.read()
    }

    pub(super) fn refused(&self) {
        self.connections.count(["refused"]);
    }

    pub(super) fn cut(&self) {
        self.connections.count(["cut"]);
    }

    /// A connection that counts as open until what is returned is dropped.
    pub(super) fn begins(&self) -> OpenOne<'_> {
        self.connections.count(["accepted"]);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenOne(self)
    }

    pub(super) fn answered(&self, status: StatusCode) {
        let class = CLASSES.get(usize::from(status.as_u16() / 100).saturating_sub(1));
        self.responses.count([class.copied().unwrap_or("5xx")]);
    }
}

/// See [`Meter::begins`].
pub(super) struct OpenOne<'a>(&'a Meter);

impl Drop for OpenOne<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
