//! A trail as it grows: the rows before, and then the stream of server-sent events in which the gateway tells each new one.
//!
//! A stream that breaks or ends is gone on with behind the last event that came, so that no row is told twice and none is left
//! out. What the gateway itself leaves out, since it was too much, is told by its number.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::admin::{PAGE, ask, page};
use super::output::{Format, Refused, plain, print_on, problem_of, rows};
use super::{WithConfig, on_runtime};
use crate::mcp::sse::Reader;
use crate::outbound::{Listening, OutboundError, listen_to_socket};

/// Longest time without any sign of life: three of those that a stream gives.
const QUIET: Duration = Duration::from_secs(45);
/// Between two tries to go on, where the stream does not say.
const RETRY: Duration = Duration::from_secs(2);
/// Shortest and longest that a stream may have us wait.
const MIN_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// How long a gateway may be away.
const MAX_AWAY: Duration = Duration::from_secs(60);
/// Largest event, in bytes.
const MAX_EVENT: usize = 4 << 20;

/// A trail that is followed.
pub(super) struct Trail<'a> {
    pub(super) with: &'a WithConfig,
    /// The address of its list, perhaps with a query.
    pub(super) list: &'a str,
    /// The member of a list that has the rows.
    pub(super) member: &'a str,
    /// The address of its stream, with the same query.
    pub(super) stream: &'a str,
    /// What a row is called in the stream.
    pub(super) event: &'a str,
    /// The member of a row that no other row has alike.
    pub(super) id: &'a str,
}

/// Pages of a list that are read to find what is asked for.
pub(super) const MAX_PAGES: usize = 1_000;

/// How far a stream was read.
struct Place {
    socket: PathBuf,
    last: Option<String>,
    retry: Duration,
    /// When something came last.
    heard: Instant,
}

/// Why a stream is not read on.
#[derive(Debug)]
enum Over {
    /// Nobody wants more of it.
    Enough,
    /// It can be gone on with.
    Ended(anyhow::Error),
}

/// What stops reading: the way to the gateway, or what came.
enum Broken {
    Way(OutboundError),
    Else(anyhow::Error),
}

impl From<OutboundError> for Broken {
    fn from(error: OutboundError) -> Self {
        Self::Way(error)
    }
}

impl Trail<'_> {
    /// Prints the last `shown` rows and then each new one, the oldest first, until nobody reads any more. `line` is a row for
    /// people, or nothing where it is not wanted; JSON is a document on each line.
    ///
    /// # Errors
    /// When the gateway refuses, or does not answer for a minute.
    pub(super) fn follow(&self, shown: usize, line: impl Fn(&Value) -> Option<String>) -> anyhow::Result<()> {
        let socket = self.with.path()?;
        let mut place = Place { socket, last: None, retry: RETRY, heard: Instant::now() };
        // First where the stream is: what is appended while the rows before it are read comes after them.
        if let Over::Ended(error) = self.listen(&mut place, &mut |event, _| Ok(event != "begin"))? {
            return Err(error);
        }
        let Some(mut told) = self.print_earlier(shown, &line)? else { return Ok(()) };
        let mut take = |event: &str, data: &Value| match event {
            event if event == self.event && !told.remove(&data[self.id].to_string()) => self.print(data, &line),
            "missed" => self.remark(&format!("{} rows are left out: there were too many to tell", data["count"])),
            _ => Ok(true),
        };
        loop {
            let Over::Ended(error) = self.listen(&mut place, &mut take)? else { return Ok(()) };
            if place.heard.elapsed() > MAX_AWAY {
                return Err(error);
            }
            on_runtime(async {
                tokio::time::sleep(place.retry).await;
                Ok(())
            })?;
        }
    }

    /// The ids of the rows before that were printed, or nothing if nobody reads.
    fn print_earlier(
        &self,
        shown: usize,
        line: &impl Fn(&Value) -> Option<String>,
    ) -> anyhow::Result<Option<HashSet<String>>> {
        let mut told = HashSet::new();
        if shown == 0 {
            return Ok(Some(told));
        }
        for row in self.earlier(shown, line)?.iter().rev() {
            told.insert(row[self.id].to_string());
            if !self.print(row, line)? {
                return Ok(None);
            }
        }
        Ok(Some(told))
    }

    /// The last `shown` rows, the newest first, as far as they are wanted: where one is not, none before it is. A page may have
    /// fewer than were asked for, since the gateway looks through a part of the list at a time.
    fn earlier(&self, shown: usize, line: &impl Fn(&Value) -> Option<String>) -> anyhow::Result<Vec<Value>> {
        let (mut found, mut cursor): (Vec<Value>, Option<String>) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let rest = (shown.saturating_sub(found.len()) as u64).min(PAGE);
            let answer = ask(self.with, Method::GET, &page(self.list, rest, cursor.as_deref()), None)?;
            let of_page = rows(&answer, self.member);
            let wanted = of_page.iter().take_while(|row| line(row).is_some());
            let before = found.len();
            found.extend(wanted.cloned());
            cursor = answer["next_cursor"].as_str().map(ToOwned::to_owned);
            if found.len() - before < of_page.len() || found.len() >= shown || cursor.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Reads the stream on from its place, and gives each event to `take` until that says `false`.
    fn listen(
        &self,
        place: &mut Place,
        take: &mut impl FnMut(&str, &Value) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Over> {
        let (socket, from) = (place.socket.clone(), place.last.clone());
        let listening = Listening { path: self.stream, last_event_id: from.as_deref(), quiet: QUIET };
        let (mut reader, mut is_enough) = (Reader::new(MAX_EVENT), false);
        let each = async |piece: Bytes| {
            let goes_on = self.events(&mut reader, &piece, place, take).map_err(Broken::Else)?;
            is_enough = !goes_on;
            Ok(goes_on)
        };
        let heard = on_runtime(async { Ok(listen_to_socket(&socket, listening, each).await) })?;
        match heard {
            Err(Broken::Else(error)) => Err(error),
            Err(Broken::Way(error)) => {
                let asked = format!("cannot ask the gateway at {}: is it running?", socket.display());
                Ok(Over::Ended(anyhow::Error::new(error).context(asked)))
            }
            Ok((status, _)) if status.is_success() && is_enough => Ok(Over::Enough),
            Ok((status, _)) if status.is_success() => Ok(Over::Ended(anyhow!("the stream has ended"))),
            Ok((status, refusal)) => {
                let refused = Refused(serde_json::from_slice(&refusal).unwrap_or_default()).into();
                if may_pass(status) { Ok(Over::Ended(refused)) } else { Err(refused) }
            }
        }
    }

    /// The events that a piece completes. Whether more are wanted.
    fn events(
        &self,
        reader: &mut Reader,
        piece: &[u8],
        place: &mut Place,
        take: &mut impl FnMut(&str, &Value) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        place.heard = Instant::now();
        reader.feed(piece);
        while let Some(event) = reader.next_named()? {
            let data = serde_json::from_slice(&event.data).context("an event of the gateway is not JSON")?;
            let name = event.name.as_deref().unwrap_or_default();
            if name == "begin" {
                self.compare(place.last.as_deref(), &data)?;
            }
            let goes_on = take(name, &data)?;
            place.note(reader);
            if !goes_on {
                return Ok(false);
            }
        }
        place.note(reader);
        Ok(true)
    }

    /// Says so where a stream does not begin where the one before ended: the store is another one.
    fn compare(&self, last: Option<&str>, begin: &Value) -> anyhow::Result<()> {
        let begins_at = begin["after"].to_string();
        if last.is_some_and(|last| begins_at != last) {
            self.remark("this is another trail than before: rows may be left out")?;
        }
        Ok(())
    }

    fn print(&self, row: &Value, line: &impl Fn(&Value) -> Option<String>) -> anyhow::Result<bool> {
        let Some(told) = line(row) else { return Ok(true) };
        print_on(&match self.with.output {
            Format::Table => plain(&told.replace('\n', " ")),
            Format::Json => row.to_string(),
        })
    }

    /// Beside the rows, which scripts read.
    fn remark(&self, text: &str) -> anyhow::Result<bool> {
        let told = match self.with.output {
            Format::Table => format!("note: {text}"),
            Format::Json => problem_of("rows_left_out", text).to_string(),
        };
        writeln!(io::stderr(), "{told}").context("cannot write to standard error")?;
        Ok(true)
    }
}

impl Place {
    /// As far as events have come whole.
    fn note(&mut self, reader: &Reader) {
        if let Some(id) = reader.last_event_id() {
            self.last = Some(id.to_owned());
        }
        self.retry = reader.retry().map_or(self.retry, |retry| retry.clamp(MIN_RETRY, MAX_RETRY));
    }
}

/// Whether what was refused may be granted soon: there are too many streams, or the gateway is leaving.
fn may_pass(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}
