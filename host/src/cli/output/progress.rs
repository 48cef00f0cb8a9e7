//! How far something long has come, on one line of a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks at the line.
const PACE: Duration = Duration::from_millis(200);

/// A line on standard error that is written over and over. Where that is no terminal there is none.
pub(in crate::cli) struct Progress {
    is_shown: bool,
    began: Instant,
    told: Option<Instant>,
    bytes: u64,
}

impl Progress {
    pub(in crate::cli) fn begin() -> Self {
        Self { is_shown: io::stderr().is_terminal(), began: Instant::now(), told: None, bytes: 0 }
    }

    /// So many bytes more, and what there is of `rows` so far.
    pub(in crate::cli) fn add(&mut self, bytes: usize, rows: u64) {
        self.bytes += bytes as u64;
        let now = Instant::now();
        if !self.is_shown || self.told.is_some_and(|told| now < told + PACE) {
            return;
        }
        self.told = Some(now);
        // If standard error is gone there is nobody to tell.
        _ = write!(io::stderr(), "\r\u{1b}[K{}", line(self.bytes, rows, now - self.began));
    }
}

impl Drop for Progress {
    /// Takes the line away again.
    fn drop(&mut self) {
        if self.told.is_some() {
            _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

fn line(bytes: u64, rows: u64, elapsed: Duration) -> String {
    let mebibytes = bytes as f64 / (1 << 20) as f64;
    let pace = mebibytes / elapsed.as_secs_f64().max(0.001);
    format!("{rows} rows, {mebibytes:.1} MiB, {pace:.1} MiB/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_and_how_fast() {
        assert_eq!(line(3 << 20, 12, Duration::from_secs(2)), "12 rows, 3.0 MiB, 1.5 MiB/s");
        assert_eq!(line(0, 0, Duration::ZERO), "0 rows, 0.0 MiB, 0.0 MiB/s");
    }
}
