//! Where somebody is let in whose request may have a body: at the admin listener, by the API and by the pages.
//!
//! Who it is is looked at before anything of the body is read, and again once all of it is there, which takes as long as its
//! sender likes. Whoever is suspended meanwhile, or has another role, is not heard. A handler finds the whole body in memory.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::response::Response;
use http::request::Parts;

use super::body::{BodyError, read_limited};

/// Tells who a request comes from, and whether they may do what it asks.
pub(super) trait Doorkeeper: Sync {
    type Person: Send;

    /// The largest body that is let in, in bytes, and how long it may take.
    const BODY: (usize, Duration);

    /// Whom a request is let in as, or the answer to whoever is not.
    fn judge(&self, request: &Parts) -> impl Future<Output = Result<Self::Person, Response>> + Send;

    /// The answer to a body that did not arrive.
    fn without_body(&self, error: &BodyError) -> Response;
}

/// Lets a request in, with its whole body, as whoever it comes from now.
///
/// # Errors
/// The answer to whoever is not let in.
pub(super) async fn admit<D: Doorkeeper>(door: &D, request: Request) -> Result<(D::Person, Request), Response> {
    let (parts, body) = request.into_parts();
    let person = door.judge(&parts).await?;
    // No handler reads what comes with a GET.
    if parts.method.is_safe() || body.is_end_stream() {
        return Ok((person, Request::from_parts(parts, body)));
    }
    let (limit, deadline) = D::BODY;
    let whole = read_limited(body, limit, deadline, None).await.map_err(|error| door.without_body(&error))?;
    let person = door.judge(&parts).await?;
    Ok((person, Request::from_parts(parts, Body::from(whole))))
}
