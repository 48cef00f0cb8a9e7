//! The two trails as they grow, as streams of server-sent events (WHATWG HTML §9.2) for browsers and scripts.
//!
//! Each event has the number of its row as its id, so that `Last-Event-ID`, or `after` in the query string, goes on where a
//! stream ended. A stream ends when the gateway leaves, when whoever asked would not be let in any more, and after an hour.
//! What a reader is too slow for is told by its number in an event `missed`, and holds up nobody.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, body::Body};
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::door::Admission;
use super::openapi::words::{OutcomeWord, VerdictWord};
use super::openapi::{Described, get};
use super::trails::{AuditFilter, DecisionQuery, check_event, decision_view, view_of_found};
use super::{Answer, Api, Operator, Problem, Query, Who};
use crate::admin::tails::{Followed, Full, News, Place, Tail};
use crate::audit::DecisionRecord;
use crate::http::mcp::{Gone, Pieces, event_stream};
use crate::http::serve::Peer;
use crate::store::audit::Found;

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two looks whether whoever follows would still be let in.
const LOOK: Duration = Duration::from_secs(20);
/// How long a reader may take nothing.
const STALL: Duration = Duration::from_secs(20);
/// Longest life of a stream.
const MAX_LIFE: Duration = Duration::from_secs(60 * 60);
/// When a reader comes back whose stream has ended, in milliseconds.
const RETRY_MS: u64 = 2_000;
/// Header with the id of the event that a reader had last.
const LAST_EVENT_ID: &str = "last-event-id";

/// What of the decisions, and from where on.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionTailQuery {
    /// The id of the event after which to go on. `Last-Event-ID` goes before it.
    #[param(value_type = Option<usize>)]
    after: Option<u64>,
    /// Such as `key:ci`.
    principal: Option<String>,
    upstream: Option<String>,
    /// The upstream's own name for the tool.
    tool: Option<String>,
    #[param(inline, value_type = Option<VerdictWord>)]
    verdict: Option<String>,
    #[param(inline, value_type = Option<OutcomeWord>)]
    outcome: Option<String>,
}

/// What of the audit trail, and from where on.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditTailQuery {
    /// The id of the event after which to go on, which is a sequence. `Last-Event-ID` goes before it.
    #[param(value_type = Option<usize>)]
    after: Option<u64>,
    /// What the name of the event begins with, such as `key` or `grant.revoked`.
    event: Option<String>,
    /// What the actor begins with, such as `operator` or `user:ID`.
    actor: Option<String>,
    /// What it is about, by its name or id as the detail has it.
    subject: Option<String>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    let full = |described: Described, row: &str| {
        described
            .tells(&["begin", row, "missed", "end"])
            .refuses(StatusCode::TOO_MANY_REQUESTS, &["too_many_tails"])
            .refuses(StatusCode::SERVICE_UNAVAILABLE, &["too_many_tails"])
    };
    vec![
        full(
            get("/api/v1/decisions/tail", "tailDecisions", "Decisions as they are recorded, as server-sent events")
                .filters::<DecisionTailQuery>(),
            "decision",
        ),
        full(
            get("/api/v1/audit/tail", "tailAudit", "The audit trail as it grows, as server-sent events")
                .filters::<AuditTailQuery>(),
            "entry",
        ),
    ]
}

/// Who asks, and what with.
pub(super) type Asker = (Extension<Operator>, Option<Extension<Peer>>, HeaderMap);

pub(super) async fn decisions(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Query(query): Query<DecisionTailQuery>,
) -> Answer {
    let DecisionTailQuery { after, principal, upstream, tool, verdict, outcome } = query;
    let filter = DecisionQuery { principal, upstream, tool, verdict, outcome, ..DecisionQuery::default() }.filter()?;
    let opened = Opened::by(&api, asker, "decisions", after)?;
    let tail = api.tails.decisions.follow(opened.after).await?;
    let tell = move |decision: &DecisionRecord| filter.takes(decision).then(|| text(&decision_view(decision)));
    Ok(opened.answer(&api, "decision", tail, tell))
}

pub(super) async fn audit(State(api): State<Arc<Api>>, asker: Asker, Query(query): Query<AuditTailQuery>) -> Answer {
    let AuditTailQuery { after, event, actor, subject } = query;
    check_event(event.as_deref())?;
    let filter = AuditFilter { event, actor, subject };
    let opened = Opened::by(&api, asker, "audit", after)?;
    let tail = api.tails.audit.follow(opened.after).await?;
    let tell = move |found: &Found| {
        let view = view_of_found(found);
        (filter.takes(&view) || matches!(found, Found::Unreadable { .. })).then(|| text(&view))
    };
    Ok(opened.answer(&api, "entry", tail, tell))
}

fn text(view: &impl Serialize) -> String {
    json!(view).to_string()
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        match full {
            Full::OfOne => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_tails", full.to_string()),
            Full::Here => Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_tails", full.to_string()),
        }
    }
}

/// A stream that somebody may have.
struct Opened {
    after: Option<u64>,
    place: Place,
    admission: Admission,
}

impl Opened {
    fn by(
        api: &Api,
        (Extension(operator), peer, headers): Asker,
        area: &'static str,
        after: Option<u64>,
    ) -> Result<Self, Problem> {
        let last = headers.get(LAST_EVENT_ID).map(|id| {
            let id = id.to_str().ok().and_then(|id| id.parse().ok());
            let detail = "`Last-Event-ID` is no id of an event of this stream";
            id.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail))
        });
        let after = last.transpose()?.or(after);
        let place = api.tails.place(whose(&operator.1))?;
        let peer = peer.map(|Extension(peer)| peer);
        Ok(Self { after, place, admission: Admission::to_read(api.operators.clone(), peer, &headers, area) })
    }

    /// Answers with the stream.
    fn answer<T: Followed>(
        self,
        api: &Api,
        event: &'static str,
        tail: Tail<T>,
        tell: impl Fn(&T) -> Option<String> + Send + Sync + 'static,
    ) -> Response {
        let (pieces, body): (Pieces, Body) = Pieces::new(STALL);
        let Self { after: _, place, admission } = self;
        let leaving = api.watched.draining.clone();
        let stream = Stream { pieces, admission, event, tail, tell };
        api.tails.tasks().spawn(async move {
            stream.run(leaving).await;
            drop(place);
        });
        let mut response = event_stream(body);
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// Of whom streams are counted together.
fn whose(who: &Who) -> String {
    match who {
        Who::Socket => "socket".to_owned(),
        Who::OperatorToken => "operator token".to_owned(),
        Who::Session { user, .. } | Who::ApiToken { user, .. } => format!("user {}", user.id),
    }
}

struct Stream<T: Followed, F> {
    pieces: Pieces,
    admission: Admission,
    /// What its events are called.
    event: &'static str,
    tail: Tail<T>,
    /// A row as it is told, if it is wanted.
    tell: F,
}

/// Why a stream ends that its reader has not left.
#[derive(Clone, Copy)]
enum End {
    /// The gateway serves nobody new any more.
    Leaving,
    /// Whoever reads would not be let in now.
    Access,
    /// It has lasted for as long as one may.
    Time,
    /// The trail cannot be read.
    Store,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::Access => "access",
            Self::Time => "time",
            Self::Store => "store",
        }
    }
}

impl<T: Followed, F: Fn(&T) -> Option<String> + Send + Sync> Stream<T, F> {
    async fn run(mut self, leaving: CancellationToken) {
        if let Ok(end) = self.flow(&leaving).await {
            // Whoever has left meanwhile does not mind.
            _ = self.pieces.send(format!("event: end\ndata: {{\"reason\":\"{}\"}}\n\n", end.as_str())).await;
        }
    }

    /// Tells what there is to tell until there is a reason to end.
    async fn flow(&mut self, leaving: &CancellationToken) -> Result<End, Gone> {
        let ends = Instant::now() + MAX_LIFE;
        let (mut heartbeat, mut look) = (every(HEARTBEAT), every(LOOK));
        let seen = self.tail.seen();
        let begin = format!("retry: {RETRY_MS}\nid: {seen}\nevent: begin\ndata: {{\"after\":{seen}}}\n\n");
        self.pieces.send(begin).await?;
        loop {
            tokio::select! {
                biased;
                () = leaving.cancelled() => return Ok(End::Leaving),
                () = self.pieces.closed() => return Err(Gone),
                () = tokio::time::sleep_until(ends) => return Ok(End::Time),
                _ = look.tick() => {
                    if !self.admission.holds().await {
                        return Ok(End::Access);
                    }
                }
                // With it goes how far the reader is, of which what it did not want tells nothing.
                _ = heartbeat.tick() => self.pieces.send(format!(": \nid: {}\n\n", self.tail.seen())).await?,
                news = self.tail.next() => match news {
                    Ok(news) => self.send(&news).await?,
                    Err(error) => {
                        tracing::warn!(%error, trail = T::NAME, "a tail ends: its trail cannot be read");
                        return Ok(End::Store);
                    }
                }
            }
        }
    }

    async fn send(&self, news: &News<T>) -> Result<(), Gone> {
        let mut text = String::new();
        if news.missed > 0 {
            // Writing to a text does not fail.
            _ = write!(text, "event: missed\ndata: {{\"count\":{}}}\n\n", news.missed);
        }
        for (number, row) in &news.rows {
            if let Some(told) = (self.tell)(row) {
                _ = write!(text, "id: {number}\nevent: {}\ndata: {told}\n\n", self.event);
            }
        }
        if text.is_empty() { Ok(()) } else { self.pieces.send(text).await }
    }
}

/// Ticks, the first after one period.
fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
