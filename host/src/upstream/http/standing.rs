//! The GET stream of a session: what an upstream says outside of requests (2025-11-25, transports § listening).
//!
//! It is kept open while somebody listens: a caller, a subscription, or the gateway itself; and around requests of callers
//! whose clients can be asked something, since many servers ask here. An upstream that has no such stream says so once
//! (405) and is not asked again.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderValue;
use tokio::time::Instant;

use super::desk::{Stream, Until};
use super::detect::decides_nothing;
use super::legacy::{LAST_EVENT_ID, RETRY};
use super::peer::drain;
use super::session::{Carrier, Session};
use super::stream::{self, Messages};
use crate::connection::lending::Rejected;
use crate::upstream::UpstreamError;

/// Longest wait before the stream is opened again.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Longest wait of a request for the first stream.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// A stream that lived this long is opened again without a pause of note.
const HEALTHY_LIFE: Duration = Duration::from_secs(10);

/// Why a stream is not to be opened again in this session.
enum End {
    /// The upstream has none.
    NoStream,
    /// This session has none, for whatever reason.
    Refused,
    /// The upstream does not know the session any more.
    SessionGone,
}

/// Where in the stream we are.
#[derive(Default)]
struct Place {
    /// Whether there ever was a stream.
    was_open: bool,
    last: Option<String>,
    retry: Option<Duration>,
}

impl Session {
    /// Sees to it that the stream is kept if it is of use.
    pub(super) fn keep_stream(self: &Arc<Self>) {
        if !matches!(self.carrier, Carrier::Streamable { .. }) || self.peer.is_streamless() {
            return;
        }
        {
            let mut desk = self.desk();
            if desk.stream != Stream::None || desk.wants_stream().is_none() {
                return;
            }
            desk.stream = Stream::Opening;
        }
        let session = self.clone();
        self.peer.tasks.spawn(async move {
            tokio::select! {
                () = session.listen() => {}
                () = session.over.cancelled() => {}
            }
            session.changed.notify_waiters();
        });
    }

    /// Sees to it that the stream is there before a request during which the caller may be asked something on it.
    pub(super) async fn have_stream(self: &Arc<Self>) {
        self.keep_stream();
        if self.party.client.answers_anything() {
            self.stream_opened().await;
        }
    }

    /// Waits until the stream that was asked for is there, but only a moment: there are upstreams that say nothing before
    /// they have something to say.
    pub(super) async fn stream_opened(&self) {
        if self.peer.is_slow_to_stream() {
            return;
        }
        let opened = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.desk().stream != Stream::Opening || self.over.is_cancelled() {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(OPEN_PATIENCE, opened).await.is_err() {
            self.peer.set_slow_to_stream();
        }
    }

    /// The first attempt to open the stream has ended, in whatever way.
    fn stream_is_kept(&self) {
        {
            let mut desk = self.desk();
            if desk.stream != Stream::Opening {
                return;
            }
            desk.stream = Stream::Kept;
        }
        self.changed.notify_waiters();
    }

    async fn listen(self: &Arc<Self>) {
        let mut place = Place::default();
        let mut pause = RETRY / 2;
        loop {
            let opened = Instant::now();
            tokio::select! {
                ended = self.hear_stream(&mut place) => match ended {
                    Ok(()) => {}
                    Err(End::NoStream) => {
                        self.peer.set_streamless(true);
                        self.desk().stream = Stream::None;
                        return;
                    }
                    Err(End::Refused) => {
                        self.desk().stream = Stream::Refused;
                        return;
                    }
                    Err(End::SessionGone) => {
                        self.over.cancel();
                        return;
                    }
                },
                () = self.is_unwanted() => {}
            }
            self.stream_is_kept();
            pause = if opened.elapsed() >= HEALTHY_LIFE { RETRY } else { (pause * 2).min(LAST_PAUSE) };
            let wait = place.retry.map_or(pause, |retry| retry.max(SHORTEST_RETRY)).min(LAST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.renewed.notified() => {}
                () = self.is_unwanted() => {}
            }
            // Under the lock that whoever wants it takes too, so that one of the two sees the other.
            let mut desk = self.desk();
            if desk.wants_stream().is_none() {
                desk.stream = Stream::None;
                return;
            }
        }
    }

    /// Hears one stream to its end.
    async fn hear_stream(self: &Arc<Self>, place: &mut Place) -> Result<(), End> {
        let shown = self.shown();
        let mut request = self.within(self.peer.get());
        let last = place.last.as_deref().and_then(|last| HeaderValue::try_from(last).ok());
        let resumes = last.is_some();
        if let Some(last) = last {
            request.headers_mut().insert(LAST_EVENT_ID, last);
        }
        let response = match self.peer.send(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, "an upstream's stream was not opened");
                return Ok(());
            }
        };
        let status = response.status();
        if !status.is_success() || !stream::is_event_stream(&response) {
            _ = drain(response).await;
            place.last = None;
            if let (StatusCode::UNAUTHORIZED, true, Some(shown)) = (status, place.was_open, shown) {
                // It was good enough before. Who watches something here sees to it that there is something better.
                self.desk().refused = Some((shown.connection.clone(), shown.revision));
                self.changed.notify_waiters();
            }
            return match status {
                StatusCode::METHOD_NOT_ALLOWED => Err(End::NoStream),
                // It may only be that it cannot resume; the next attempt begins anew.
                _ if resumes || decides_nothing(status) => Ok(()),
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST if self.has_id() && place.was_open => {
                    Err(End::SessionGone)
                }
                // Many servers have nothing at all at this method and path. If it is the session that is not known, the
                // next request finds out.
                _ => Err(End::Refused),
            };
        }
        place.was_open = true;
        self.desk().refused = None;
        self.stream_is_kept();
        let heard = match Messages::of(response, self.peer.limits.message_bytes) {
            Ok(mut messages) => {
                let heard = self.hear_all(&mut messages).await;
                place.last = messages.last_event_id().map(str::to_owned);
                place.retry = messages.retry();
                heard
            }
            Err(error) => Err(error),
        };
        if let Err(error) = heard {
            tracing::debug!(%error, "an upstream's stream broke");
        }
        Ok(())
    }

    /// That the upstream refuses the stream to what the session shows, if it does.
    pub(super) fn stream_refusal(&self) -> Option<UpstreamError> {
        let shown = self.shown()?;
        let of = self.desk().refused.clone().filter(|of| *of == (shown.connection.clone(), shown.revision))?;
        Some(UpstreamError::Rejected { why: Rejected::Unauthorized, of })
    }

    /// Waits until it does.
    pub(super) async fn stream_refused(&self) -> UpstreamError {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(refusal) = self.stream_refusal() {
                return refusal;
            }
            changed.await;
        }
    }

    /// Takes all messages of a stream that belongs to the whole session.
    pub(super) async fn hear_all(self: &Arc<Self>, messages: &mut Messages) -> Result<(), UpstreamError> {
        while let Some(text) = messages.next().await? {
            for message in stream::parts(&text)? {
                self.hear(message);
            }
        }
        Ok(())
    }

    /// Waits until nobody wants the stream.
    async fn is_unwanted(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (until, standing) = {
                let desk = self.desk();
                let Some(until) = desk.wants_stream() else { return };
                (until, desk.standing().cloned())
            };
            tokio::select! {
                () = changed => {}
                () = async {
                    match standing {
                        Some(standing) => standing.closed().await,
                        None => std::future::pending().await,
                    }
                } => {}
                () = async {
                    match until {
                        Until::Then(then) => tokio::time::sleep_until(then).await,
                        Until::Changed => std::future::pending().await,
                    }
                } => {}
            }
        }
    }
}
