//! Server-sent events (WHATWG HTML §9.2), as MCP uses them: one JSON message in an event's data.

use bytes::{Buf, BytesMut};

/// Reads events from the pieces in which a body arrives. Bounded: an event larger than the limit is an error.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    scanned: usize,
    data: Vec<u8>,
    has_data: bool,
    limit: usize,
}

/// An event is larger than the limit.
#[derive(Debug, thiserror::Error)]
#[error("a server-sent event is larger than {limit} bytes")]
pub struct EventTooLarge {
    pub limit: usize,
}

impl Reader {
    /// `limit`: largest event, in bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, data: Vec::new(), has_data: false, limit }
    }

    /// Takes the next piece of the body.
    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The data of the next complete event, if there is one. Events without data are skipped, and so are
    /// comments, ids and event names.
    pub fn next_event(&mut self) -> Result<Option<Vec<u8>>, EventTooLarge> {
        while let Some(line_end) = self.find_line_end() {
            let line = self.buffer.split_to(line_end);
            let after_cr = self.buffer[0] == b'\r' && self.buffer.get(1) == Some(&b'\n');
            self.buffer.advance(if after_cr { 2 } else { 1 });
            if line.is_empty() {
                self.has_data = false;
                if !self.data.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.data)));
                }
                continue;
            }
            self.take_line(&line)?;
        }
        if self.buffer.len() + self.data.len() > self.limit {
            return Err(EventTooLarge { limit: self.limit });
        }
        Ok(None)
    }

    /// Where the next line ends. A carriage return at the very end waits for what follows it.
    fn find_line_end(&mut self) -> Option<usize> {
        let found = self.buffer[self.scanned..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(at) = found.map(|at| at + self.scanned) else {
            self.scanned = self.buffer.len();
            return None;
        };
        if self.buffer[at] == b'\r' && at + 1 == self.buffer.len() {
            self.scanned = at;
            return None;
        }
        self.scanned = 0;
        Some(at)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), EventTooLarge> {
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &[][..]),
        };
        if field != b"data" {
            return Ok(());
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        if self.data.len() > self.limit {
            return Err(EventTooLarge { limit: self.limit });
        }
        Ok(())
    }
}

/// The text of one event that carries a JSON message. Line ends inside JSON text are white space, so that each
/// line of it is a data line of its own.
pub fn event(message: &str) -> String {
    let mut text = String::with_capacity(message.len() + 24);
    text.push_str("event: message\n");
    for line in message.split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}

/// A comment that keeps an idle stream open.
pub const KEEP_ALIVE: &str = ": keep-alive\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_pieces(body: &[u8], piece: usize) -> Vec<String> {
        let mut reader = Reader::new(1024);
        let mut events = Vec::new();
        for piece in body.chunks(piece) {
            reader.feed(piece);
            while let Some(event) = reader.next_event().unwrap() {
                events.push(String::from_utf8(event).unwrap());
            }
        }
        events
    }

    #[test]
    fn events_are_read_whatever_the_pieces() {
        let body = b"\n: hello\r\nid: 1\r\nevent: message\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nretry: 5\n\ndata\n\ndata: x\rdata:  y\r\rdata: cut";
        for piece in 1..body.len() {
            assert_eq!(read_in_pieces(body, piece), ["{\"a\":\n1}", "x\n y"], "pieces of {piece}");
        }
    }

    #[test]
    fn an_event_beyond_the_limit_is_refused() {
        let mut reader = Reader::new(16);
        reader.feed(b"data: 0123456789abcdef0");
        assert!(reader.next_event().is_err());
        let mut reader = Reader::new(16);
        for _ in 0..4 {
            reader.feed(b"data: 01234567\n");
        }
        assert!(reader.next_event().is_err());
    }

    #[test]
    fn a_written_event_reads_back() {
        for message in ["{}", "{\n\"a\": 1\n}", "{\"a\":\"\\n\"}"] {
            assert_eq!(read_in_pieces(event(message).as_bytes(), 7), [message]);
        }
    }
}
