//! Server-sent events (WHATWG HTML §9.2), as MCP uses them: one JSON message in an event's data, and ids by which a
//! broken stream is resumed.

use std::time::Duration;

use bytes::{Buf, BytesMut};

/// Longest event id that is kept, in bytes. A stream with a longer one cannot be resumed.
const MAX_ID_BYTES: usize = 1024;
/// Longest event name that is kept, in bytes. No protocol of ours has such a long one.
const MAX_NAME_BYTES: usize = 64;

/// Reads events from the pieces in which a body arrives. Bounded: an event larger than the limit is an error.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    scanned: usize,
    data: Vec<u8>,
    has_data: bool,
    name: Option<String>,
    /// The newest `id` line, which counts once its event is complete.
    id: Option<String>,
    last_event_id: Option<String>,
    retry: Option<Duration>,
    limit: usize,
}

/// An event that has data.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// `None` means `message`.
    pub name: Option<String>,
    pub data: Vec<u8>,
}

impl Event {
    /// Whether this is an ordinary event, as messages of the protocol are.
    pub fn is_message(&self) -> bool {
        self.name.as_deref().is_none_or(|name| name == "message")
    }
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
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            data: Vec::new(),
            has_data: false,
            name: None,
            id: None,
            last_event_id: None,
            retry: None,
            limit,
        }
    }

    /// Takes the next piece of the body.
    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The data of the next complete event, if there is one. Events without data are skipped, and so are comments.
    pub fn next_event(&mut self) -> Result<Option<Vec<u8>>, EventTooLarge> {
        Ok(self.next_named()?.map(|event| event.data))
    }

    /// The next complete event that has data, if there is one. Events without data count for [`Self::last_event_id`]
    /// and [`Self::retry`] only.
    pub fn next_named(&mut self) -> Result<Option<Event>, EventTooLarge> {
        while let Some(line_end) = self.find_line_end() {
            let line = self.buffer.split_to(line_end);
            let after_cr = self.buffer[0] == b'\r' && self.buffer.get(1) == Some(&b'\n');
            self.buffer.advance(if after_cr { 2 } else { 1 });
            if line.is_empty() {
                self.has_data = false;
                self.last_event_id.clone_from(&self.id);
                let name = self.name.take();
                if !self.data.is_empty() {
                    return Ok(Some(Event { name, data: std::mem::take(&mut self.data) }));
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

    /// The id of the newest complete event that came with one: where a broken stream is to be resumed.
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// How long the other side wants us to wait before we come back, if it said so.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
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
        match field {
            b"data" => {}
            b"id" => {
                self.take_id(value);
                return Ok(());
            }
            b"event" => {
                // A name that is too long or no text is not a message's: it is kept apart from those.
                let name = std::str::from_utf8(value).ok().filter(|name| name.len() <= MAX_NAME_BYTES);
                self.name = (!value.is_empty()).then(|| name.unwrap_or("?").to_owned());
                return Ok(());
            }
            b"retry" => {
                self.retry = read_retry(value).or(self.retry);
                return Ok(());
            }
            _ => return Ok(()),
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

    /// An id with a NUL is ignored, as HTML §9.2.6 has it; an empty one takes the last one back.
    fn take_id(&mut self, value: &[u8]) {
        if value.contains(&0) {
            return;
        }
        let id = std::str::from_utf8(value).ok().filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
        self.id = id.map(str::to_owned);
    }
}

/// Decimal digits, in milliseconds.
fn read_retry(value: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().map(Duration::from_millis)
}

/// The text of one event that carries a JSON message. Line ends inside JSON text are white space, so that each
/// line of it is a data line of its own.
pub fn event(message: &str) -> String {
    write_event(None, message)
}

/// Like [`event`], with the id under which the stream can be resumed after it. `id` must be one line.
pub fn event_with_id(id: &str, message: &str) -> String {
    write_event(Some(id), message)
}

fn write_event(id: Option<&str>, message: &str) -> String {
    let mut text = String::with_capacity(message.len() + id.map_or(0, str::len) + 32);
    text.push_str("event: message\n");
    if let Some(id) = id {
        text.push_str("id: ");
        text.push_str(id);
        text.push('\n');
    }
    for line in message.split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}

/// An event without data that makes a stream resumable before anything was said (2025-11-25, transports § sending
/// messages). `id` must be one line.
pub fn priming(id: &str) -> String {
    format!("id: {id}\ndata: \n\n")
}

/// Asks the reader to wait this long before it comes back, should the stream end.
pub fn retry(wait: Duration) -> String {
    format!("retry: {}\n\n", wait.as_millis())
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
            assert_eq!(read_in_pieces(event_with_id("1-2", message).as_bytes(), 7), [message]);
        }
    }

    #[test]
    fn ids_names_and_waits_are_told() {
        let mut reader = Reader::new(1024);
        let mut told = Vec::new();
        let mut feed = |text: &str| {
            reader.feed(text.as_bytes());
            let event = reader.next_named().unwrap();
            let data = event.as_ref().map(|event| String::from_utf8(event.data.clone()).unwrap());
            let name = event.and_then(|event| event.name);
            told.push((data, name, reader.last_event_id().map(str::to_owned), reader.retry().map(|it| it.as_millis())));
        };
        feed(&priming("a-1"));
        feed(&retry(Duration::from_millis(1500)));
        feed("id: a-2\ndata: x\n");
        feed("\n");
        feed("event: endpoint\ndata: /m\n\n");
        feed("retry: soon\nid: no\0\ndata: y\n\n");
        feed("id\ndata: z\n\n");
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            told,
            [
                (None, None, some("a-1"), None),
                (None, None, some("a-1"), Some(1500)),
                (None, None, some("a-1"), Some(1500)),
                (some("x"), None, some("a-2"), Some(1500)),
                (some("/m"), some("endpoint"), some("a-2"), Some(1500)),
                (some("y"), None, some("a-2"), Some(1500)),
                (some("z"), None, None, Some(1500)),
            ]
        );
    }
}
