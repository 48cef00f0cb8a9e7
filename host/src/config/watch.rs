//! What the gateway tells of itself, and to whom.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Uri};

/// Figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Whether they are told to whoever reaches the admin listener.
    pub open: bool,
    /// Whether calls are counted by tool.
    pub tools: bool,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    pub endpoint: Uri,
    /// Values are marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// From 0 to 1.
    pub sample: f64,
}

/// Where a copy of the audit trail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditExport {
    /// A file of JSON lines.
    File(PathBuf),
    /// The socket of a syslog daemon.
    Syslog(PathBuf),
}
