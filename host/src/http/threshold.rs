//! Where somebody is let in whose request may have a body: at the admin listener, by the API and by the pages.
//!
//! Who it is is looked at before anything of the body is read, and again when its reader comes to its end, which takes as long
//! as its sender likes. For whoever is suspended meanwhile the body has no end, so that its reader does nothing with it,
//! and the answer is that of the door. How large a body may be, and how long it may take, is for its reader to say.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;

/// Tells who a request comes from, and whether they may do what it asks.
pub(super) trait Doorkeeper: Clone + Send + Sync + 'static {
    type Person: Clone + Send + Sync + 'static;

    /// Whom a request is let in as, or the answer to whoever is not. With `before`, who that was before its body came: whoever
    /// may do something else now has not been asked for the same.
    fn judge(
        &self,
        request: &Parts,
        before: Option<&Self::Person>,
    ) -> impl Future<Output = Result<Self::Person, Response>> + Send;
}

/// Lets a request in as whoever it comes from. Its handler finds them in an extension.
///
/// # Errors
/// The answer to whoever is not let in.
pub(super) async fn admit<D: Doorkeeper>(
    door: &D,
    request: Request,
    next: Next,
) -> Result<(D::Person, Response), Response> {
    let (parts, body) = request.into_parts();
    let person = door.judge(&parts, None).await?;
    let (tell, mut told) = oneshot::channel();
    let body = if body.is_end_stream() {
        body
    } else {
        let (door, before, shown) = (door.clone(), person.clone(), parts.clone());
        let look = async move {
            match door.judge(&shown, Some(&before)).await {
                Ok(_) => true,
                Err(refused) => {
                    // Nobody waits for it where the handler was given up.
                    _ = tell.send(refused);
                    false
                }
            }
        };
        Body::new(Watched { body, is_over: false, look: Some(Box::pin(look)) })
    };
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().insert(person.clone());
    let response = next.run(request).await;
    match told.try_recv() {
        Ok(refused) => Err(refused),
        Err(_) => Ok((person, response)),
    }
}

/// Whoever sent a body is not let in any more.
#[derive(Debug, thiserror::Error)]
#[error("whoever sent the body is not let in any more")]
struct NotHeard;

/// A body at whose end is looked again who sends it.
struct Watched {
    body: Body,
    /// Whether all of it has come.
    is_over: bool,
    /// Whether they are still let in. None once that is known.
    look: Option<BoxFuture<'static, bool>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.is_over {
            if let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) {
                return Poll::Ready(Some(frame.map_err(BoxError::from)));
            }
            self.is_over = true;
        }
        let Some(look) = &mut self.look else { return Poll::Ready(None) };
        let is_heard = ready!(look.as_mut().poll(context));
        self.look = None;
        Poll::Ready((!is_heard).then(|| Err(NotHeard.into())))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
