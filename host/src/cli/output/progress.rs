//! How far something long has come, on one line of a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use super::Format;

/// Between two looks at the line.
const PACE: Duration = Duration::from_millis(200);
/// Characters of a bar.
const BAR: u64 = 24;

/// A line on standard error that is written over and over, for people who wait. There is none where standard error is no
/// terminal, or where JSON was asked for.
pub(in crate::cli) struct Progress {
    is_shown: bool,
    began: Instant,
    told: Option<Instant>,
}

/// How far it has come. Where the end is known there is a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Reached {
    /// Nobody can say.
    Unknown,
    Bytes {
        done: u64,
        of: Option<u64>,
    },
    Things {
        done: u64,
        of: Option<u64>,
        /// What they are called.
        name: &'static str,
    },
}

impl Progress {
    pub(in crate::cli) fn begin(format: Format) -> Self {
        let is_shown = format == Format::Table && io::stderr().is_terminal();
        Self { is_shown, began: Instant::now(), told: None }
    }

    /// Whether anybody sees the line.
    pub(in crate::cli) const fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// What is done, and how far it has come. Most calls are too early and write nothing.
    pub(in crate::cli) fn show(&mut self, what: &str, reached: Reached) {
        let now = Instant::now();
        if !self.is_shown || self.told.is_some_and(|told| now < told + PACE) {
            return;
        }
        self.told = Some(now);
        let line = cut(line(what, reached, now - self.began), width());
        // If standard error is gone there is nobody to tell.
        _ = write!(io::stderr(), "\r\u{1b}[K{line}");
    }

    /// Does the work, and shows what `look` sees of it meanwhile.
    pub(in crate::cli) async fn beside<T>(
        mut self,
        look: impl Fn() -> (&'static str, Reached),
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let mut pace = tokio::time::interval(PACE);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = pace.tick() => {
                    let (what, reached) = look();
                    self.show(what, reached);
                }
            }
        }
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

fn line(what: &str, reached: Reached, elapsed: Duration) -> String {
    let (mut line, seconds) = (what.to_owned(), elapsed.as_secs());
    let told = match reached {
        Reached::Unknown => write!(line, ", {seconds} s"),
        Reached::Bytes { done, of } => {
            line.push_str(&bar(done, of));
            let of = of.map(|of| format!(" of {:.1}", mebibytes(of))).unwrap_or_default();
            let pace = mebibytes(done) / elapsed.as_secs_f64().max(0.001);
            write!(line, ", {:.1}{of} MiB, {pace:.1} MiB/s", mebibytes(done))
        }
        Reached::Things { done, of, name } => {
            line.push_str(&bar(done, of));
            let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
            write!(line, ", {done}{of} {name}, {seconds} s")
        }
    };
    told.expect("writing to a String does not fail");
    line
}

/// Nothing where the end is not known.
fn bar(done: u64, of: Option<u64>) -> String {
    let Some(of) = of.filter(|of| *of > 0) else { return String::new() };
    // What was counted before may have grown meanwhile.
    let done = done.min(of);
    let full = u128::from(done) * u128::from(BAR) / u128::from(of);
    let cells: String = (0..u128::from(BAR)).map(|cell| if cell < full { '#' } else { '-' }).collect();
    format!(" [{cells}] {} %", u128::from(done) * 100 / u128::from(of))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// Columns of the terminal that standard error is. A line that is longer would leave a part of itself behind.
fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 1)
}

fn cut(line: String, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() >= width => line.chars().take(width - 1).collect(),
        Some(_) | None => line,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_line_says_how_much_and_how_fast() {
        let two_seconds = |what: &str, reached| line(what, reached, Duration::from_secs(2));
        let bytes = |done: u64, of: Option<u64>| Reached::Bytes { done: done << 20, of: of.map(|of| of << 20) };
        assert_eq!(two_seconds("backing up", bytes(3, None)), "backing up, 3.0 MiB, 1.5 MiB/s");
        assert_eq!(
            two_seconds("restoring", bytes(3, Some(12))),
            "restoring [######------------------] 25 %, 3.0 of 12.0 MiB, 1.5 MiB/s"
        );
        let things = |done, of| Reached::Things { done, of, name: "data keys" };
        assert_eq!(two_seconds("wrapping", things(7, None)), "wrapping, 7 data keys, 2 s");
        assert_eq!(
            two_seconds("wrapping", things(8, Some(8))),
            "wrapping [########################] 100 %, 8 of 8 data keys, 2 s"
        );
        assert_eq!(two_seconds("compacting", Reached::Unknown), "compacting, 2 s");
        assert_eq!(line("backing up", bytes(0, None), Duration::ZERO), "backing up, 0.0 MiB, 0.0 MiB/s");
    }

    #[test]
    fn a_bar_is_never_longer_than_whole() {
        assert_eq!(bar(9, Some(8)), bar(8, Some(8)));
        assert_eq!((bar(0, Some(0)), bar(1, None)), (String::new(), String::new()));
        assert_eq!(bar(u64::MAX, Some(u64::MAX)).matches('#').count() as u64, BAR);
        assert_eq!(
            (cut("abcd".to_owned(), Some(4)), cut("abc".to_owned(), Some(4))),
            ("abc".to_owned(), "abc".to_owned())
        );
        assert_eq!(cut("abcd".to_owned(), None), "abcd");
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_looked_at_until_it_is_done() {
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            ("waiting", Reached::Unknown)
        };
        let work = async {
            tokio::time::sleep(PACE * 3).await;
            7
        };
        let unseen = Progress { is_shown: false, began: Instant::now(), told: None };
        assert_eq!(unseen.beside(look, work).await, 7);
        assert!((3..=4).contains(&looks.get()), "{}", looks.get());
        assert!(!Progress::begin(Format::Json).is_shown());
    }
}
