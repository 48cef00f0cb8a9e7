//! What goes back to the peer: the response body, counted while it lasts, and the HTTP/2 streams that carry bodies.
//!
//! A peer that stops reading is told apart by protocol. On HTTP/1 the socket fills up, which [`super::life`] sees.
//! On HTTP/2 the peer just grants a stream no more window while the socket stays open, so there the time is taken
//! that a piece of body stays unsent, and that one stream is reset: its neighbours, which behind a proxy belong to
//! other callers, go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use super::life::Flight;

/// A response body that keeps its request in flight until it has ended or was dropped.
pub(super) struct Reply {
    body: Body,
    /// Over HTTP/2: the stream, and what is left of the frame that is being sent in pieces.
    stream: Option<Arc<Unsent>>,
    rest: Bytes,
    is_broken: bool,
    _flight: Flight,
}

/// Pieces in which HTTP/2 is fed. h2 takes a frame of any size into its buffers as soon as the window is not empty;
/// with small pieces what waits for the window waits here, where it is counted.
const PIECE_BYTES: usize = 16 * 1024;

impl Reply {
    pub(super) fn new(body: Body, flight: Flight) -> Self {
        let stream = UNSENT.try_with(Arc::clone).ok();
        Self { body, stream, rest: Bytes::new(), is_broken: false, _flight: flight }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_broken {
            return Poll::Ready(None);
        }
        let body = Pin::new(&mut self.body);
        let Ok(polled) = catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) else {
            error!("a response body panicked; its stream was cut");
            self.is_broken = true;
            return Poll::Ready(Some(Err("the response body panicked".into())));
        };
        polled.map_err(Into::into)
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(unsent) = self.stream.clone() else { return self.poll_inner(cx) };
        unsent.set(None);
        if self.rest.is_empty() {
            match ready!(self.poll_inner(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        unsent.set(Some(Instant::now()));
        let piece = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.is_broken || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(inner.lower().saturating_add(rest));
        hint
    }
}

/// Since when a piece of the stream's body waits to be sent.
#[derive(Debug, Default)]
struct Unsent(Mutex<Option<Instant>>);

impl Unsent {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

tokio::task_local! {
    /// Set in the task of an HTTP/2 stream: the only way from there to the body that hyper polls.
    static UNSENT: Arc<Unsent>;
}

/// Runs the HTTP/2 streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: TaskTracker,
    /// The connection has ended.
    pub(super) cut: CancellationToken,
    /// See [`super::Limits::write`].
    pub(super) write: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let stream = unless_stalled(stream, self.write);
        self.tasks.spawn(self.cut.clone().run_until_cancelled_owned(stream));
    }
}

/// Runs a stream until it ends, or until a piece of its body has waited for `limit`. Dropping it resets the stream.
async fn unless_stalled<F: Future>(stream: F, limit: Duration) {
    let unsent = Arc::new(Unsent::default());
    let mut stream = pin!(UNSENT.scope(Arc::clone(&unsent), stream));
    let mut timer = pin!(sleep(limit));
    std::future::poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // The body changes `unsent` only while it is polled, just above.
        let Some(due) = unsent.since().and_then(|since| since.checked_add(limit)) else { return Poll::Pending };
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
        debug!("reset a stream whose peer takes no bytes");
        Poll::Ready(())
    })
    .await;
}
