//! How answers and other messages travel to a legacy caller: as JSON, on the stream of a POST, on the stream of the
//! session.
//!
//! An answer that comes first and soon is JSON, and then there is no stream and no log. Otherwise a task of its own
//! writes a log ([`super::log`]), and connections read it: the response of the POST, and GETs that resume it
//! (2025-11-25, transports).

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::ALLOW;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::log::{Cursor, EventLog, Read, read_id};
use super::owned::{self, Reached};
use super::session::{STANDING, Session, Standing};
use super::sse_transport::Open;
use super::{Call, Said};
use crate::http::error::Refused;
use crate::http::mcp::fanout::{Kinds, Listening};
use crate::http::mcp::places::StreamPlace;
use crate::http::mcp::reply::{Ear, KEEP_ALIVE, Logs, PATIENCE, event_stream};
use crate::http::mcp::stays::{Stay, Until};
use crate::http::mcp::work::EVENT_QUEUE;
use crate::http::mcp::{From, Mcp};
use crate::mcp::message;
use crate::mcp::revision::legacy;
use crate::mcp::sse;
use crate::mcp::talk::{Event, Notice, Party};
use crate::pipeline;

/// Names the last event that a caller got.
const LAST_EVENT_ID: &str = "last-event-id";

impl Call {
    /// Answers with JSON if the answer is the first thing there is to say, with a stream otherwise.
    pub(super) async fn respond(mut self, accepts_events: bool) -> Response {
        if !accepts_events {
            return self.last().await.into_response();
        }
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let first = tokio::select! {
            biased;
            said = self.next() => match said {
                Said::Last(last) => return last.into_response(),
                said => Some(said),
            },
            () = &mut patience => None,
        };
        let session = self.session.clone();
        let log = session.open_stream();
        let reader = Reader::new(&self.mcp, &session, log.clone(), None, None);
        self.mcp.tasks.clone().spawn(async move {
            self.write(&log, first).await;
            log.end();
        });
        reader.into_response()
    }

    /// Writes everything that is said, until the answer.
    pub(super) async fn write(mut self, log: &EventLog, first: Option<Said>) {
        let stall = self.mcp.settings.limits.stall_timeout;
        let mut first = first;
        loop {
            let said = match first.take() {
                Some(said) => said,
                None => self.next().await,
            };
            self.work.meanwhile(log.wait_for_room(stall)).await;
            match said {
                Said::Message(message) => log.push(&message),
                Said::Pause(wait) => {
                    if self.session.revision.traits().primed_streams {
                        log.pause(wait);
                    }
                }
                Said::Last(last) => {
                    self.session.withdraw(&self.asked).iter().for_each(|message| log.push(message));
                    if let Some(message) = last.into_message() {
                        log.push(&message);
                    }
                    return;
                }
            }
        }
    }
}

/// GET: the stream of the session, or the rest of the stream that `Last-Event-ID` names.
pub(in crate::http::mcp) async fn get(mcp: &Arc<Mcp>, from: &From<'_>) -> Result<Response, Refused> {
    let place = || mcp.places.stream(from.payer(), None);
    let session = match owned::reach(mcp, from, None, &[], place).await? {
        Reached::Here(session) => session,
        Reached::Elsewhere(response) => return Ok(response),
        Reached::Orphaned(_) if from.headers.contains_key(LAST_EVENT_ID) => {
            let message =
                "the stream that Last-Event-ID names is gone with its replica: what it was about may have happened";
            return Err(Refused::plain(StatusCode::BAD_REQUEST, message));
        }
        Reached::Orphaned(_) => return Ok((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST, DELETE")]).into_response()),
    };
    if let Err(rejection) = legacy::check_version(from.headers, session.revision) {
        let status = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST);
        return Err(Refused::plain(status, &rejection.error.message));
    }
    let place = mcp.places.stream(from.payer(), None)?;
    let Some(last) = from.headers.get(LAST_EVENT_ID) else {
        let standing = standing(mcp, from, &session);
        return Ok(Reader::new(mcp, &session, standing.log, None, Some(place)).into_response());
    };
    // A stream that is gone cannot be resumed. Its caller is told so, rather than left waiting on another one.
    let resumed = last.to_str().ok().and_then(read_id).and_then(|(stream, event)| {
        let log = session.stream(stream).or_else(|| (stream == STANDING).then(|| standing(mcp, from, &session).log))?;
        Some((log, event))
    });
    let Some((log, event)) = resumed else {
        return Err(Refused::plain(StatusCode::BAD_REQUEST, "Last-Event-ID names no stream that can be resumed"));
    };
    Ok(Reader::new(mcp, &session, log, Some(event), Some(place)).into_response())
}

/// What is said to a session outside of any request: from the first GET or subscription to its end.
pub(super) fn standing(mcp: &Arc<Mcp>, from: &From<'_>, session: &Arc<Session>) -> Standing {
    let party = session.party();
    let make = |events: mpsc::Sender<Event>| {
        let party = Party { standing: Some(events.clone()), ..party };
        from.origin(session.revision, party, events, session.ended.clone())
    };
    let (standing, inbox) = session.standing(make, EVENT_QUEUE);
    if let Some(inbox) = inbox {
        let listening = Listening::begin(mcp, standing.origin.clone(), Kinds::ALL, session.watches.clone());
        mcp.tasks.spawn(write_standing(mcp.clone(), session.clone(), standing.clone(), inbox, listening));
        mcp.services.elicitations.somebody_listens(&session.principal);
    }
    standing
}

/// Writes what is said outside of any request.
async fn write_standing(
    mcp: Arc<Mcp>,
    session: Arc<Session>,
    Standing { log, origin }: Standing,
    mut inbox: mpsc::Receiver<Event>,
    listening: Listening,
) {
    let ear = Ear { revision: session.revision, progress_token: None };
    let stall = mcp.settings.limits.stall_timeout;
    loop {
        let message = tokio::select! {
            () = session.ended.cancelled() => return log.end(),
            kind = listening.change() => Some(message::notification(kind.changed(), None)),
            Some(event) = inbox.recv() => match pipeline::exposed(&mcp.services, &origin, event) {
                Event::Notice(Notice::Pause { .. }) => None,
                Event::Notice(notice) => ear.hear(&notice, Logs::of_session(session.log_level())),
                // Who is not there cannot be asked: dropping the question says so.
                Event::Ask(_) if !log.has_reader() => None,
                Event::Ask(ask) => {
                    let admitted = pipeline::admit(&mcp.snapshot.load_full(), &mcp.services, &origin, ask).await;
                    admitted.and_then(|permit| session.ask(permit.into_inner())).map(|(_, message)| message)
                }
            },
        };
        if let Some(message) = message {
            log.wait_for_room(stall).await;
            log.push(&message);
        }
    }
}

/// A connection that reads a log.
pub(super) struct Reader {
    mcp: Arc<Mcp>,
    whose: Whose,
    log: Arc<EventLog>,
    cursor: Cursor,
    /// What is written before anything else.
    greeting: Option<Bytes>,
    /// Cancelled when it must leave with the gateway, whatever there is still to read.
    until: CancellationToken,
    stay: Stay,
    is_leaving: bool,
}

/// What a reader's leaving matters to.
enum Whose {
    /// It rests from then on.
    Session(Arc<Session>),
    /// It ends with its stream, by being dropped.
    Door { _open: Open },
}

impl Reader {
    pub(super) fn new(
        mcp: &Arc<Mcp>,
        session: &Arc<Session>,
        log: Arc<EventLog>,
        after: Option<u64>,
        place: Option<StreamPlace>,
    ) -> Self {
        let cursor = log.attach(after, place);
        // A stream that begins is primed, so that it can be resumed from its beginning (2025-11-25, transports §
        // sending messages). Others begin with a sign of life, so that nothing in between holds the response back.
        let greeting = if session.revision.traits().primed_streams && after.is_none() {
            sse::priming(&log.id(cursor.last())).into()
        } else {
            Bytes::from_static(sse::KEEP_ALIVE.as_bytes())
        };
        let whose = Whose::Session(session.clone());
        // Requests may go on for a while when the gateway closes.
        let (until, ends) = if log.stream() == STANDING {
            (mcp.closing.clone(), Until::Left)
        } else {
            (mcp.tasks.stopping().clone(), Until::Answered)
        };
        let stay = Stay::begin(mcp, &session.principal, session.pass().as_ref(), ends);
        Self { mcp: mcp.clone(), whose, log, cursor, greeting: Some(greeting), until, stay, is_leaving: false }
    }

    /// One that ends what is open when it leaves.
    pub(super) fn of_door(
        mcp: &Arc<Mcp>,
        log: Arc<EventLog>,
        greeting: String,
        open: Open,
        place: StreamPlace,
    ) -> Self {
        let cursor = log.attach(None, Some(place));
        let stay = Stay::begin(mcp, &open.caller().principal, open.caller().pass.as_ref(), Until::Left);
        let (whose, until) = (Whose::Door { _open: open }, mcp.closing.clone());
        Self { mcp: mcp.clone(), whose, log, cursor, greeting: Some(greeting.into()), until, stay, is_leaving: false }
    }

    pub(super) fn into_response(self) -> Response {
        event_stream(Body::from_stream(stream::unfold(self, Self::next)))
    }

    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let piece = self.piece().await?;
        Some((Ok(piece), self))
    }

    async fn piece(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        if self.is_leaving {
            return None;
        }
        let (log, cursor) = (self.log.clone(), &mut self.cursor);
        loop {
            if self.stay.is_over() {
                return None;
            }
            let news = log.news();
            match log.read(cursor) {
                Read::Event(event) => return Some(event),
                Read::End => return None,
                Read::Pause(wait) => {
                    self.is_leaving = true;
                    return Some(sse::retry(wait).into());
                }
                Read::Nothing => {}
            }
            tokio::select! {
                () = news => {}
                () = self.until.cancelled() => return None,
                () = self.stay.over() => return None,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(Bytes::from_static(sse::KEEP_ALIVE.as_bytes())),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.detach(&self.cursor);
        if let Whose::Session(session) = &self.whose {
            session.touch(self.mcp.services.env.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::BodyDataStream;
    use tokio::time::Instant;

    use super::*;
    use crate::http::mcp::testing::{Edge, ask, limits, piece, text, work};
    use crate::http::mcp::work::Work;
    use crate::mcp::call::Outcome;
    use crate::mcp::json::{Members, raw};
    use crate::mcp::message::RequestId;
    use crate::mcp::revision::Answer;
    use crate::mcp::talk::Question;

    fn call(edge: &Edge, session: &str, work: Work) -> Call {
        let session = edge.mcp.sessions.named(session).unwrap();
        let ear = Ear { revision: session.revision, progress_token: Some(raw("5".to_owned())) };
        Call { mcp: edge.mcp.clone(), session, id: RequestId::number(9), ear, work, asked: Vec::new() }
    }

    fn progress(number: u64) -> Event {
        Event::Notice(Notice::Progress(Members::parse(&format!(r#"{{"progress":{number}}}"#)).unwrap()))
    }

    fn done(text: &str) -> Answer {
        Answer::Done { method: "tools/call", outcome: Outcome::Result(raw(format!(r#"{{"text":"{text}"}}"#))) }
    }

    async fn resume(edge: &Edge, session: &str, last: &str) -> BodyDataStream {
        let headers = [("mcp-session-id", session), ("accept", "text/event-stream"), ("last-event-id", last)];
        let response = edge.send("ann", "GET", "/mcp", &headers, "").await;
        assert_eq!(response.status(), StatusCode::OK, "{last}");
        response.into_body().into_data_stream()
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_travels_on_the_stream_of_its_request() {
        let edge = Edge::new(limits()).await;
        let session = edge.session("2025-06-18", r#"{"roots":{}}"#).await;
        let asking = work(
            &edge.mcp,
            edge.mcp.sessions.named(&session).unwrap().revision,
            r#"{"roots":{}}"#,
            |origin| async move {
                let ((one, replied), (two, unreplied)) = (ask(Question::Roots), ask(Question::Roots));
                origin.events.send(Event::Ask(one)).await.unwrap();
                origin.events.send(Event::Ask(two)).await.unwrap();
                let Ok(Outcome::Result(result)) = replied.await else { panic!("no reply") };
                drop(unreplied);
                Ok(done(&result.get().replace('"', "'")))
            },
        );
        let response = call(&edge, &session, asking).respond(true).await;
        let mut stream = response.into_body().into_data_stream();
        assert_eq!(piece(&mut stream).await.unwrap(), ": keep-alive\n\n", "this revision's streams are not primed");
        let asked = piece(&mut stream).await.unwrap();
        assert!(asked.starts_with("event: message\nid: 1-1\n") && asked.contains(r#""id":1,"method":"roots/list""#));
        assert!(piece(&mut stream).await.unwrap().contains(r#""id":2,"method":"roots/list""#));
        let reply = r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#;
        assert_eq!(edge.post(&session, reply).await.status(), StatusCode::ACCEPTED);
        let taken_back = piece(&mut stream).await.unwrap();
        assert!(taken_back.contains(r#""method":"notifications/cancelled","params":{"requestId":2}"#), "{taken_back}");
        assert!(piece(&mut stream).await.unwrap().contains(r#""id":9,"result":{"text":"{'roots':[]}"}"#));
        assert_eq!(piece(&mut stream).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_is_resumed_and_no_other() {
        let edge = Edge::new(limits()).await;
        let session = edge.session("2025-11-25", "{}").await;
        let revision = edge.mcp.sessions.named(&session).unwrap().revision;
        let slow = |name: &'static str| {
            work(&edge.mcp, revision, "{}", move |origin| async move {
                for number in 1..=3 {
                    origin.events.send(progress(number)).await.unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(done(name))
            })
        };
        let open = async |work| call(&edge, &session, work).respond(true).await.into_body().into_data_stream();
        let (mut one, mut two) = (open(slow("one")).await, open(slow("two")).await);
        assert_eq!(piece(&mut one).await.unwrap(), "id: 1-0\ndata: \n\n", "primed");
        assert_eq!(piece(&mut two).await.unwrap(), "id: 2-0\ndata: \n\n");
        assert!(piece(&mut one).await.unwrap().contains("id: 1-1\n"));
        drop(one);
        tokio::time::sleep(Duration::from_secs(30)).await;
        for (last, numbers) in [("1-1", vec![2, 3, 4]), ("1-3", vec![4]), ("1-0", vec![1, 2, 3, 4]), ("1-4", vec![])] {
            let mut resumed = resume(&edge, &session, last).await;
            assert_eq!(piece(&mut resumed).await.unwrap(), ": keep-alive\n\n");
            for number in numbers {
                let event = piece(&mut resumed).await.unwrap();
                assert!(event.contains(&format!("id: 1-{number}\n")), "after {last}: {event}");
                assert!(number != 4 || event.contains(r#""text":"one""#));
            }
            assert_eq!(piece(&mut resumed).await, None, "after {last}");
        }
        assert!(text_of(&mut two).await.contains(r#""text":"two""#), "the other went on");
        tokio::time::sleep(Duration::from_secs(90)).await;
        let headers = [("mcp-session-id", &*session), ("accept", "text/event-stream"), ("last-event-id", "1-1")];
        assert_eq!(edge.send("ann", "GET", "/mcp", &headers, "").await.status(), StatusCode::BAD_REQUEST, "it is gone");
    }

    async fn text_of(stream: &mut BodyDataStream) -> String {
        let mut all = String::new();
        while let Some(piece) = piece(stream).await {
            all.push_str(&piece);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_pauses_lets_the_caller_go_for_a_while() {
        let edge = Edge::new(limits()).await;
        for (version, pauses) in [("2025-11-25", true), ("2025-06-18", false)] {
            let session = edge.session(version, "{}").await;
            let revision = edge.mcp.sessions.named(&session).unwrap().revision;
            let pausing = work(&edge.mcp, revision, "{}", |origin| async move {
                let pause = Notice::Pause { retry: Duration::from_millis(500) };
                origin.events.send(Event::Notice(pause)).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(done("later"))
            });
            let begun = Instant::now();
            let mut stream = call(&edge, &session, pausing).respond(true).await.into_body().into_data_stream();
            let all = text_of(&mut stream).await;
            if pauses {
                assert_eq!(all, "id: 1-0\ndata: \n\nretry: 500\n\n");
                assert!(begun.elapsed() < Duration::from_millis(500));
                let all = text_of(&mut resume(&edge, &session, "1-0").await).await;
                assert!(all.contains(r#""text":"later""#) && begun.elapsed() >= Duration::from_secs(1));
            } else {
                assert!(all.contains(r#""text":"later""#), "this revision knows no pauses: {all}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_no_events_gets_the_answer_alone_and_is_not_asked() {
        let edge = Edge::new(limits()).await;
        let session = edge.session("2025-11-25", r#"{"roots":{}}"#).await;
        let revision = edge.mcp.sessions.named(&session).unwrap().revision;
        let asking = work(&edge.mcp, revision, r#"{"roots":{}}"#, |origin| async move {
            origin.events.send(progress(1)).await.unwrap();
            let (ask, replied) = ask(Question::Roots);
            origin.events.send(Event::Ask(ask)).await.unwrap();
            tokio::time::sleep(PATIENCE * 2).await;
            Ok(done(if replied.await.is_err() { "nobody answers" } else { "?" }))
        });
        let response = call(&edge, &session, asking).respond(false).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        assert!(text(response).await.contains("nobody answers"));
    }
}
