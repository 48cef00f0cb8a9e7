//! Lines of bounded length, in both directions: what a child writes, and what waits until it reads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

/// Messages that may wait to be written.
pub(super) const MAX_UNWRITTEN: usize = 256;
/// Bytes that may wait to be written; one message may be longer than that.
const MAX_UNWRITTEN_BYTES: usize = 64 * 1024 * 1024;

/// Reads lines of bounded length. `next` may be dropped and called again without losing a byte.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    too_long: bool,
    limit: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(Vec<u8>),
    TooLong,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// `limit` is the length of the longest line, in bytes.
    pub(super) fn new(reader: R, limit: usize) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, reader), line: Vec::new(), too_long: false, limit }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The next line that is not blank; `None` at the end. What stands there without a line end is no line.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(None);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            if self.line.len() + piece.len() > self.limit {
                self.too_long = true;
                self.line.clear();
            } else if !self.too_long {
                self.line.extend_from_slice(piece);
            }
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_none() {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if std::mem::take(&mut self.too_long) {
                return Ok(Some(Line::TooLong));
            }
            if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(Some(Line::Text(line)));
            }
        }
    }
}

/// Where messages for a child wait until it reads them.
pub(super) struct Input {
    lines: mpsc::Sender<String>,
    unwritten: Arc<AtomicUsize>,
}

/// The other end of an [`Input`].
pub(super) struct Unwritten {
    lines: mpsc::Receiver<String>,
    bytes: Arc<AtomicUsize>,
}

/// The child does not read what was written before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Input {
    pub(super) fn new() -> (Self, Unwritten) {
        let (sender, lines) = mpsc::channel(MAX_UNWRITTEN);
        let bytes = Arc::new(AtomicUsize::new(0));
        (Self { lines: sender, unwritten: bytes.clone() }, Unwritten { lines, bytes })
    }

    /// Queues one message.
    pub(super) fn write(&self, line: String) -> Result<(), Full> {
        let length = line.len();
        let before = self.unwritten.fetch_add(length, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(length) <= MAX_UNWRITTEN_BYTES;
        if fits && self.lines.try_send(line).is_ok() {
            return Ok(());
        }
        self.unwritten.fetch_sub(length, Ordering::Relaxed);
        Err(Full)
    }

    /// Queues a message that nobody waits for.
    pub(super) fn write_aside(&self, line: String) {
        if self.write(line).is_err() {
            tracing::debug!("a message to a child process was dropped: it does not read");
        }
    }
}

impl Unwritten {
    /// The next message, as it was given.
    async fn next(&mut self) -> Option<String> {
        let line = self.lines.recv().await?;
        self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
        Some(line)
    }

    /// Writes message by message, each on a line of its own, until the [`Input`] is gone or nobody reads.
    pub(super) async fn write_to(mut self, mut pipe: impl AsyncWrite + Unpin) {
        while let Some(mut line) = self.next().await {
            // JSON text may hold line ends as white space; on this transport they would end the message.
            if line.contains(['\n', '\r']) {
                line = line.replace(['\n', '\r'], " ");
            }
            line.push('\n');
            if pipe.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// What waits at this moment, for tests.
    #[cfg(test)]
    pub(super) fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_blank_ones_skipped() {
        let text = b"one\n\n  \r\ntwo\r\n0123456789\nlast\ncut";
        let mut lines = Lines::new(&text[..], 8);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        let text = |text: &str| Line::Text(text.as_bytes().to_vec());
        assert_eq!(read, [text("one"), text("two\r"), Line::TooLong, text("last")]);
    }

    #[tokio::test]
    async fn a_message_is_one_line_whatever_white_space_it_has() {
        let (input, unwritten) = Input::new();
        input.write("{\"a\":\r\n[1,\n2]}".into()).unwrap();
        input.write("{}".into()).unwrap();
        drop(input);
        let mut pipe = Vec::new();
        unwritten.write_to(&mut pipe).await;
        assert_eq!(String::from_utf8(pipe).unwrap(), "{\"a\":  [1, 2]}\n{}\n");
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_number_and_by_size() {
        let (input, mut unwritten) = Input::new();
        for _ in 0..MAX_UNWRITTEN {
            input.write("x".into()).unwrap();
        }
        assert_eq!(input.write("x".into()), Err(Full));
        assert!(unwritten.next().await.is_some());
        assert_eq!(input.write("x".into()), Ok(()));

        let (input, mut unwritten) = Input::new();
        let huge = "x".repeat(MAX_UNWRITTEN_BYTES + 1);
        assert_eq!(input.write(huge), Ok(()), "alone it may be as long as it is");
        assert_eq!(input.write("x".into()), Err(Full));
        assert!(unwritten.next().await.is_some());
        assert_eq!(input.write("x".into()), Ok(()));
    }
}
