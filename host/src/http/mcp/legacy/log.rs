//! What is said on one stream of a session, kept for a while: a connection that breaks loses nothing, and whoever names
//! the last event that it got is told the rest (2025-11-25, transports § resumability).
//!
//! A log is written by one task and read by one connection at a time; a new reader takes the old one's place. Its tail
//! is bounded. A reader that is there holds the writer back; where there is none, or one that takes nothing for too
//! long, the oldest events are lost. When all logs together hold too much, only what a present reader has not been
//! given yet is kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::http::mcp::places::StreamPlace;
use crate::mcp::sse;

/// Events that one log keeps.
const MAX_EVENTS: usize = 256;
/// Bytes that one log keeps; a single event may be larger.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that all logs may keep for readers that are not there.
pub(super) const ALL_LOGS_BYTES: usize = 256 * 1024 * 1024;
/// How long a log is kept after its end.
const KEPT: Duration = Duration::from_secs(60);

/// Bytes in all logs.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    fn is_exceeded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }
}

/// Whether events have ids, by which the stream is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// They have.
    Numbered,
    /// HTTP with server-sent events (2024-11-05) has none.
    Plain,
}

/// The events of one stream.
#[derive(Debug)]
pub(in crate::http::mcp) struct EventLog {
    /// Of the stream within its session.
    stream: u64,
    ids: Ids,
    log: Mutex<Log>,
    /// Wakes readers: there is something new, or they are to leave.
    news: Notify,
    /// Wakes the writer: there is room.
    room: Notify,
    budget: Arc<Budget>,
}

#[derive(Debug)]
struct Log {
    /// By number, in order. Numbers begin with 1; 0 is the event that primes a stream.
    tail: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Number of the next event.
    next: u64,
    /// Number of the first event that no reader was given.
    unread: u64,
    reader: Option<Attached>,
    readers: u64,
    /// Asks the reader that is there to leave and come back after this long.
    pause: Option<Duration>,
    ended: Option<Instant>,
}

#[derive(Debug)]
struct Attached {
    number: u64,
    /// When it last asked for something.
    seen: Instant,
    _place: Option<StreamPlace>,
}

/// What there is for a reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Event(Bytes),
    /// Not yet. Wait for [`EventLog::news`].
    Nothing,
    /// The reader is to come back after this long.
    Pause(Duration),
    /// The stream has ended, or another reader has taken its place.
    End,
}

/// A reader's place in a log.
#[derive(Debug)]
pub(super) struct Cursor {
    reader: u64,
    next: u64,
}

impl Cursor {
    /// Number of the event before the next one.
    pub(super) fn last(&self) -> u64 {
        self.next.saturating_sub(1)
    }
}

impl EventLog {
    pub(super) fn new(stream: u64, ids: Ids, budget: Arc<Budget>) -> Arc<Self> {
        let log = Log {
            tail: VecDeque::new(),
            bytes: 0,
            next: 1,
            unread: 1,
            reader: None,
            readers: 0,
            pause: None,
            ended: None,
        };
        Arc::new(Self { stream, ids, log: Mutex::new(log), news: Notify::new(), room: Notify::new(), budget })
    }

    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    /// The id of an event.
    pub(super) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.stream)
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a message.
    pub(in crate::http::mcp) fn push(&self, message: &str) {
        let mut log = self.lock();
        if log.ended.is_some() {
            return;
        }
        let number = log.next;
        log.next += 1;
        let text = match self.ids {
            Ids::Numbered => sse::event_with_id(&self.id(number), message),
            Ids::Plain => sse::event(message),
        };
        let is_tight = self.budget.is_exceeded();
        // What there was room for takes nothing from a reader that is there, however large it is itself.
        let spared = if log.reader.is_some() { text.len() } else { 0 };
        if is_tight && log.reader.is_none() {
            self.drop_while(&mut log, |_| true);
            return;
        }
        log.bytes += text.len();
        self.budget.used.fetch_add(text.len(), Ordering::Relaxed);
        log.tail.push_back((number, text.into()));
        let unread = log.unread;
        self.drop_while(&mut log, |log| {
            log.tail.len() > 1
                && (log.tail.len() > MAX_EVENTS
                    || log.bytes - spared > MAX_BYTES
                    || (is_tight && log.tail.front().is_some_and(|(number, _)| *number < unread)))
        });
        drop(log);
        self.news.notify_waiters();
    }

    /// Drops the oldest events.
    fn drop_while(&self, log: &mut Log, mut is_too_much: impl FnMut(&Log) -> bool) {
        while is_too_much(log) {
            let Some((_, text)) = log.tail.pop_front() else { return };
            log.bytes -= text.len();
            self.budget.used.fetch_sub(text.len(), Ordering::Relaxed);
        }
    }

    /// Waits until an event can be written without losing one that the reader has not been given yet. A reader that
    /// makes no room for `stall` has to go.
    pub(super) async fn wait_for_room(&self, stall: Duration) {
        let waiting = async {
            loop {
                let room = self.room.notified();
                {
                    let log = self.lock();
                    let is_full = log.tail.len() >= MAX_EVENTS || log.bytes >= MAX_BYTES;
                    let would_lose = log.tail.front().is_some_and(|(number, _)| *number >= log.unread);
                    if log.reader.is_none() || !is_full || !would_lose {
                        return;
                    }
                }
                room.await;
            }
        };
        if tokio::time::timeout(stall, waiting).await.is_err() {
            self.lock().reader = None;
            self.news.notify_waiters();
        }
    }

    /// Asks the reader to leave for a while. What is said meanwhile is kept for it.
    pub(super) fn pause(&self, wait: Duration) {
        let mut log = self.lock();
        if log.reader.is_some() {
            log.pause = Some(wait);
            drop(log);
            self.news.notify_waiters();
        }
    }

    /// Nothing is written after this.
    pub(super) fn end(&self) {
        self.lock().ended.get_or_insert_with(Instant::now);
        self.news.notify_waiters();
        self.room.notify_one();
    }

    /// Lets a reader in: after the event of this number, or where the readers before it have come to. The reader that
    /// was there leaves.
    pub(super) fn attach(&self, after: Option<u64>, place: Option<StreamPlace>) -> Cursor {
        let mut log = self.lock();
        log.readers += 1;
        let reader = log.readers;
        log.reader = Some(Attached { number: reader, seen: Instant::now(), _place: place });
        log.pause = None;
        let next = after.map_or(log.unread, |after| after.saturating_add(1).min(log.next));
        drop(log);
        self.news.notify_waiters();
        self.room.notify_one();
        Cursor { reader, next }
    }

    /// The reader has left.
    pub(super) fn detach(&self, cursor: &Cursor) {
        let mut log = self.lock();
        if log.reader.as_ref().is_some_and(|reader| reader.number == cursor.reader) {
            log.reader = None;
            drop(log);
            self.room.notify_one();
        }
    }

    /// What there is next for a reader.
    pub(super) fn read(&self, cursor: &mut Cursor) -> Read {
        let mut log = self.lock();
        match &mut log.reader {
            Some(reader) if reader.number == cursor.reader => reader.seen = Instant::now(),
            _ => return Read::End,
        }
        let at = log.tail.partition_point(|(number, _)| *number < cursor.next);
        if let Some((number, text)) = log.tail.get(at) {
            let (number, text) = (*number, text.clone());
            cursor.next = number + 1;
            log.unread = log.unread.max(cursor.next);
            drop(log);
            self.room.notify_one();
            return Read::Event(text);
        }
        if log.ended.is_some() {
            return Read::End;
        }
        log.pause.take().map_or(Read::Nothing, Read::Pause)
    }

    /// Fires when there may be something new. To be made before [`Self::read`] is asked.
    pub(super) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    pub(super) fn has_reader(&self) -> bool {
        self.lock().reader.is_some()
    }

    /// Lets a reader go that has asked for nothing for `longest`. Whether nobody can want this log any more.
    pub(super) fn sweep(&self, longest: Duration) -> bool {
        let mut log = self.lock();
        if log.reader.as_ref().is_some_and(|reader| reader.seen.elapsed() > longest) {
            log.reader = None;
            self.news.notify_waiters();
            self.room.notify_one();
        }
        log.reader.is_none() && log.ended.is_some_and(|ended| ended.elapsed() >= KEPT)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The stream and the number of an event id.
pub(super) fn read_id(id: &str) -> Option<(u64, u64)> {
    let (stream, number) = id.split_once('-')?;
    let read = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
    Some((read(stream)?, read(number)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Arc<EventLog> {
        EventLog::new(3, Ids::Numbered, Budget::new(ALL_LOGS_BYTES))
    }

    /// Everything that a reader can have now, by the numbers of the events.
    fn numbers(log: &EventLog, cursor: &mut Cursor) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Read::Event(text) = log.read(cursor) {
            let text = String::from_utf8(text.to_vec()).unwrap();
            let id = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
            numbers.push(read_id(id).unwrap().1);
        }
        numbers
    }

    #[test]
    fn a_stream_is_resumed_after_the_event_that_is_named() {
        let log = log();
        let mut first = log.attach(None, None);
        for message in ["a", "b", "c"] {
            log.push(message);
        }
        assert_eq!(log.read(&mut first), Read::Event("event: message\nid: 3-1\ndata: a\n\n".into()));
        assert_eq!(numbers(&log, &mut first), [2, 3]);
        assert_eq!(log.read(&mut first), Read::Nothing);
        log.detach(&first);
        log.push("d");
        for (after, expected) in [
            (None, vec![4]),
            (Some(0), vec![1, 2, 3, 4]),
            (Some(2), vec![3, 4]),
            (Some(4), vec![]),
            (Some(u64::MAX), vec![]),
        ] {
            let mut reader = log.attach(after, None);
            assert_eq!(numbers(&log, &mut reader), expected, "after {after:?}");
            if after.is_none() {
                assert_eq!(
                    log.attach(None, None).last(),
                    4,
                    "what was given once is not given again unless it is named"
                );
            }
        }
        let mut ahead = log.attach(Some(99), None);
        log.push("e");
        assert_eq!(numbers(&log, &mut ahead), [5], "an event that is yet to come does not hide those before it");
    }

    #[test]
    fn the_oldest_events_are_lost_where_nobody_reads() {
        let log = log();
        for _ in 0..MAX_EVENTS + 10 {
            log.push("x");
        }
        let mut reader = log.attach(Some(0), None);
        let kept = numbers(&log, &mut reader);
        assert_eq!((kept.first(), kept.len()), (Some(&11), MAX_EVENTS));
        log.detach(&reader);
        let large = "x".repeat(MAX_BYTES / 2);
        for _ in 0..3 {
            log.push(&large);
        }
        let mut reader = log.attach(Some(0), None);
        assert_eq!(numbers(&log, &mut reader).len(), 1, "two do not fit with what is around them");
        log.push(&"x".repeat(MAX_BYTES * 2));
        assert_eq!(numbers(&log, &mut reader).len(), 1, "one is kept, whatever its size");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_there_loses_nothing_and_goes_when_it_takes_nothing() {
        let log = log();
        let mut reader = log.attach(None, None);
        // Of a size that does not go into the limit without a remainder.
        let event = "x".repeat(MAX_BYTES / 63);
        let began = Instant::now();
        let mut written = 0;
        while log.has_reader() && written < 1_000 {
            log.wait_for_room(Duration::from_secs(1)).await;
            if log.has_reader() {
                log.push(&event);
                written += 1;
            }
        }
        assert_eq!((written, began.elapsed()), (63, Duration::from_secs(1)), "there was no more room");
        assert_eq!(log.read(&mut reader), Read::End);
        let mut again = log.attach(Some(0), None);
        assert_eq!(numbers(&log, &mut again), (1..=written).collect::<Vec<u64>>());
    }

    #[test]
    fn a_new_reader_takes_the_old_ones_place() {
        let log = log();
        let mut old = log.attach(None, None);
        let mut new = log.attach(None, None);
        log.push("a");
        assert_eq!(log.read(&mut old), Read::End);
        log.detach(&old);
        assert_eq!(numbers(&log, &mut new), [1], "who has left already cannot throw others out");
    }

    #[test]
    fn a_pause_comes_after_what_was_said_and_is_over_when_the_reader_is_back() {
        let log = log();
        log.pause(Duration::from_secs(1));
        let mut reader = log.attach(None, None);
        assert_eq!(log.read(&mut reader), Read::Nothing, "nobody was there to be sent away");
        log.push("a");
        log.pause(Duration::from_secs(1));
        assert_eq!(numbers(&log, &mut reader), [1]);
        log.pause(Duration::from_secs(2));
        assert_eq!(log.read(&mut reader), Read::Pause(Duration::from_secs(2)));
        let mut again = log.attach(Some(1), None);
        log.push("b");
        log.end();
        log.push("after the end");
        assert_eq!(numbers(&log, &mut again), [2]);
        assert_eq!(log.read(&mut again), Read::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_holds_the_writer_back_but_not_for_ever() {
        let log = log();
        let stall = Duration::from_secs(30);
        let mut reader = log.attach(None, None);
        for _ in 0..MAX_EVENTS {
            log.wait_for_room(stall).await;
            log.push("x");
        }
        let begun = Instant::now();
        let (waited, ()) = tokio::join!(
            async {
                log.wait_for_room(stall).await;
                begun.elapsed()
            },
            async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert!(matches!(log.read(&mut reader), Read::Event(_)));
            }
        );
        assert_eq!(waited, Duration::from_secs(5));
        log.push("x");
        log.wait_for_room(stall).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(35), "it has to go");
        assert_eq!(log.read(&mut reader), Read::End);
        log.push("x");
        log.wait_for_room(stall).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(35), "nobody to wait for");
        assert_eq!(numbers(&log, &mut log.attach(Some(0), None)).len(), MAX_EVENTS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_kept_for_a_minute_after_its_end() {
        let log = log();
        let quiet = Duration::from_secs(45);
        let cursor = log.attach(None, None);
        assert!(!log.sweep(quiet));
        log.end();
        tokio::time::advance(KEPT).await;
        assert!(log.sweep(quiet), "a reader that asks for nothing is not there");
        let log = self::log();
        log.end();
        assert!(!log.sweep(quiet));
        let mut reader = log.attach(None, None);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(40)).await;
            assert_eq!(log.read(&mut reader), Read::End);
            assert!(!log.sweep(quiet), "somebody reads it");
        }
        log.detach(&cursor);
        log.detach(&reader);
        assert!(log.sweep(quiet));
    }

    #[test]
    fn memory_is_bounded_over_all_logs() {
        let budget = Budget::new(200);
        let message = "x".repeat(100);
        let (held, other) =
            (EventLog::new(1, Ids::Plain, budget.clone()), EventLog::new(2, Ids::Plain, budget.clone()));
        let mut reader = held.attach(None, None);
        held.push(&message);
        held.push(&message);
        assert!(budget.is_exceeded());
        other.push(&message);
        assert_eq!(other.read(&mut other.attach(Some(0), None)), Read::Nothing, "nobody was there to read it");
        assert!(matches!(held.read(&mut reader), Read::Event(_)));
        held.push(&message);
        let mut again = held.attach(Some(0), None);
        let mut left = 0;
        while let Read::Event(_) = held.read(&mut again) {
            left += 1;
        }
        assert_eq!(left, 2, "what was given already is forgotten first");
        drop(held);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn event_ids_are_read_strictly() {
        assert_eq!(read_id("3-17"), Some((3, 17)));
        for bad in ["", "-", "3", "3-", "-3", "+3-1", "3-+1", "3-1-2", "3 -1", "a-1", "99999999999999999999-1"] {
            assert_eq!(read_id(bad), None, "{bad:?}");
        }
    }
}
