//! The requests that a child has not answered yet, and what it says while they are under way.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::mcp::call::Outcome;
use crate::mcp::json::Members;
use crate::mcp::message::RequestId;
use crate::mcp::talk::{Event, Notice};
use crate::upstream::UpstreamError;

/// Requests that may wait for the child at once.
const MAX_PENDING: usize = 1_024;
/// For so long after a request was taken back, the child may still write log messages for it.
const ECHO: Duration = Duration::from_secs(5);

/// Who waits for an answer.
pub(super) struct Waiting {
    pub(super) answer: oneshot::Sender<Result<Outcome, UpstreamError>>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Waiting {
    pub(super) fn tell(self, answer: Result<Outcome, UpstreamError>) {
        // A caller that gave up in this very moment does not mind.
        _ = self.answer.send(answer);
    }
}

/// Requests under way, by their id.
#[derive(Default)]
pub(super) struct Pending {
    waiting: HashMap<RequestId, Waiting>,
    last_taken_back: Option<Instant>,
}

impl Pending {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_PENDING
    }

    pub(super) fn add(&mut self, id: RequestId, waiting: Waiting) {
        self.waiting.insert(id, waiting);
    }

    /// Takes out who waits for this answer.
    pub(super) fn take(&mut self, id: &RequestId) -> Option<Waiting> {
        self.waiting.remove(id)
    }

    /// Takes out the requests for which nobody waits any more: the child has to hear of them.
    pub(super) fn take_given_up(&mut self, now: Instant) -> Vec<RequestId> {
        let given_up = self.waiting.extract_if(|_, waiting| waiting.answer.is_closed());
        let ids: Vec<RequestId> = given_up.map(|(id, _)| id).collect();
        if !ids.is_empty() {
            self.last_taken_back = Some(now);
        }
        ids
    }

    /// Gives `notifications/progress` to the request whose token it has.
    pub(super) fn progress(&self, params: Option<&RawValue>) {
        let Some(params) = params.and_then(|params| Members::parse(params.get()).ok()) else { return };
        let id = params.get("progressToken").and_then(RequestId::parse);
        if let Some(waiting) = id.and_then(|id| self.waiting.get(&id)) {
            pass(&waiting.events, Notice::Progress(params));
        }
    }

    /// Gives `notifications/message` to the request that it belongs to. It does not say to which: with several under way,
    /// it goes to nobody, since the child is shared and what it says to one caller is not for another.
    pub(super) fn log(&self, params: Option<&RawValue>, now: Instant) {
        let is_echo = self.last_taken_back.is_some_and(|then| now < then + ECHO);
        // The gateway's own requests, which nobody hears anything of, are in nobody's way.
        let mut waiting = self.waiting.values().filter(|waiting| !waiting.events.is_closed());
        let (Some(only), None, false) = (waiting.next(), waiting.next(), is_echo) else { return };
        if let Some(params) = params.and_then(|params| Members::parse(params.get()).ok()) {
            pass(&only.events, Notice::Log(params));
        }
    }

    /// Tells everyone that the child ended.
    pub(super) fn died(self) {
        for waiting in self.waiting.into_values() {
            waiting.tell(Err(UpstreamError::Died));
        }
    }
}

/// Hands a notice to a caller, if it has room for it: the keeper waits for nobody.
pub(super) fn pass(events: &mpsc::Sender<Event>, notice: Notice) {
    if events.try_send(Event::Notice(notice)).is_err() {
        tracing::debug!("a notification was dropped: its caller is gone or too slow");
    }
}

/// The request that a line answers, although the line is no message: it has an `id`, and a `result` or `error`, and no
/// `method`, before it goes wrong.
pub(super) fn answered_by_garbage(line: &[u8]) -> Option<RequestId> {
    let mut seen = Seen::default();
    // How it ends does not matter: what was seen until then does.
    _ = Envelope(&mut seen).deserialize(&mut serde_json::Deserializer::from_slice(line));
    seen.id.filter(|_| seen.answers && !seen.asks)
}

#[derive(Default)]
struct Seen {
    id: Option<RequestId>,
    answers: bool,
    asks: bool,
}

struct Envelope<'a>(&'a mut Seen);

impl<'de> DeserializeSeed<'de> for Envelope<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Envelope<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &*name {
                "id" => {
                    self.0.id = RequestId::parse(&map.next_value::<Box<RawValue>>()?);
                    continue;
                }
                "result" | "error" => self.0.answers = true,
                "method" => self.0.asks = true,
                _ => {}
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    #[test]
    fn garbage_that_answers_is_told_from_other_garbage() {
        for (line, answered) in [
            (&br#"{"jsonrpc":"2.0","id":5,"result":"text"}"#[..], Some(5)),
            (br#"{"jsonrpc":"2.0","id":5,"result":{"half":"#, Some(5)),
            (br#"{"id":5,"error":null}"#, Some(5)),
            (br#"{"jsonrpc":"2.0","result":{},"id":5,"error":{}}"#, Some(5)),
            (b"{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{\"text\":\"\xff\"}}", Some(5)),
            (br#"{"jsonrpc":"2.0","result":{"half":"#, None),
            (br#"{"jsonrpc":"2.0","id":5,"method":"ping","params":[1]}"#, None),
            (br#"{"jsonrpc":"2.0","id":5}"#, None),
            (br#"{"jsonrpc":"2.0","id":{},"result":1}"#, None),
            (br#"[{"jsonrpc":"2.0","id":5,"result":1}]"#, None),
            (b"not JSON", None),
            (b"", None),
        ] {
            let text = String::from_utf8_lossy(line);
            assert_eq!(answered_by_garbage(line), answered.map(RequestId::number), "{text}");
        }
    }

    fn caller() -> (Waiting, oneshot::Receiver<Result<Outcome, UpstreamError>>, mpsc::Receiver<Event>) {
        let ((answer, answered), (events, heard)) = (oneshot::channel(), mpsc::channel(8));
        (Waiting { answer, events }, answered, heard)
    }

    #[tokio::test]
    async fn progress_goes_where_its_token_says_and_logs_to_a_request_that_is_alone() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        let (first, first_answer, mut first_hears) = caller();
        let (second, second_answer, mut second_hears) = caller();
        let (one, two) = (RequestId::number(1), RequestId::number(2));
        let log = raw(r#"{"level":"info","data":1}"#.to_owned());
        pending.add(one.clone(), first);
        pending.log(Some(&log), now);
        assert!(matches!(first_hears.try_recv(), Ok(Event::Notice(Notice::Log(_)))));
        let (of_the_gateway, _answer, hears_nothing) = caller();
        drop(hears_nothing);
        pending.add(RequestId::number(3), of_the_gateway);
        pending.log(Some(&log), now);
        assert!(matches!(first_hears.try_recv(), Ok(Event::Notice(Notice::Log(_)))));

        pending.add(two.clone(), second);
        pending.log(Some(&log), now);
        pending.progress(Some(&raw(r#"{"progressToken":2,"progress":1}"#.to_owned())));
        pending.progress(Some(&raw(r#"{"progressToken":"2","progress":2}"#.to_owned())));
        pending.progress(Some(&raw(r#"{"progress":3}"#.to_owned())));
        assert!(first_hears.try_recv().is_err(), "one of two is not told what may be for the other");
        let Ok(Event::Notice(Notice::Progress(progress))) = second_hears.try_recv() else { panic!("no progress") };
        assert_eq!(progress.get("progress").unwrap().get(), "1");
        assert!(second_hears.try_recv().is_err());

        drop(second_answer);
        assert_eq!(pending.take_given_up(now), [two]);
        pending.log(Some(&log), now);
        assert!(first_hears.try_recv().is_err(), "it may be for the request that was just taken back");
        pending.log(Some(&log), now + ECHO);
        assert!(first_hears.try_recv().is_ok());

        pending.died();
        assert!(matches!(first_answer.await, Ok(Err(UpstreamError::Died))));
    }
}
