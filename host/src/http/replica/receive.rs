//! Taking what another replica hands on, and sealing the answer for it alone.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use tokio::time::Instant;

use super::forward::About;
use super::wire::{self, Envelope, Head, Opened, Sealer, What};
use super::{MAX_SKEW, PASS, PASS_PURPOSE, Replicas};
use crate::env::Timestamp;
use crate::identity::Pass;
use crate::ids::Principal;

/// Least time between two warnings about clocks.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// A caller's request that another replica authenticated and handed on.
#[derive(Debug)]
pub struct Forwarded {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Whom the other replica authenticated.
    pub principal: Principal,
    /// What a token gave to it, if one let it in there.
    pub pass: Option<Arc<Pass>>,
    /// Where the caller's connection to it comes from.
    pub peer: Option<IpAddr>,
    pub body: Bytes,
}

/// What a sealed request turns out to be.
pub enum Received {
    /// To be answered through the second.
    Request(Box<Forwarded>, AnswerTo),
    /// It is answered.
    Answered(Response),
}

/// Why a request between replicas is not taken. The other side is told nothing of it: it has proven nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("it was not sealed with the secret of this deployment")]
    Forged,
    #[error("its time is too far from ours")]
    Stale,
    #[error("it came before, or too many came")]
    Replayed,
}

impl IntoResponse for Rejected {
    fn into_response(self) -> Response {
        tracing::debug!(check = %self, "refused a request to the replica listener");
        StatusCode::UNAUTHORIZED.into_response()
    }
}

impl Replicas {
    /// How large the message is that may follow these headers, if a replica of this deployment made them lately: nothing is
    /// read of what comes without. Whoever has seen a pass may show it again for as long as it is recent, and has that much read,
    /// which opens nothing.
    pub fn let_in(&self, headers: &HeaderMap) -> Result<usize, Rejected> {
        let pass = headers.get(PASS).and_then(|pass| pass.to_str().ok()).ok_or(Rejected::Forged)?;
        let pass = self.secret.open(PASS_PURPOSE, pass).ok_or(Rejected::Forged)?;
        let (at, length) = pass.split_first_chunk::<8>().ok_or(Rejected::Forged)?;
        self.check_time(u64::from_be_bytes(*at))?;
        let length = <[u8; 8]>::try_from(length).map_err(|_| Rejected::Forged)?;
        usize::try_from(u64::from_be_bytes(length)).map_err(|_| Rejected::Forged)
    }

    fn check_time(&self, at_ms: u64) -> Result<(), Rejected> {
        let (at, now) = (Timestamp::from_millis(at_ms), self.now());
        if at <= now.after(MAX_SKEW) && now <= at.after(MAX_SKEW) {
            return Ok(());
        }
        // A replica has said so, just now or at some time: perhaps an operator should look at its clock.
        if self.may_warn(Instant::now()) {
            tracing::warn!("refused a request of another replica: it is old, or the clocks differ too much");
        }
        Err(Rejected::Stale)
    }

    /// Whether there was no warning about clocks for a while: whoever repeats old requests shall not fill the log.
    pub(super) fn may_warn(&self, now: Instant) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let may_warn = warned.is_none_or(|warned| now >= warned + BETWEEN_WARNINGS);
        if may_warn {
            *warned = Some(now);
        }
        may_warn
    }

    /// Opens a request from another replica, if it is for us, recent, and here for the first time.
    pub fn receive(&self, message: Bytes) -> Result<Received, Rejected> {
        let opened = wire::open(&self.secret, self.id(), message).map_err(|_| Rejected::Forged)?;
        let Opened { nonce, envelope: Envelope { from, to, at_ms, what }, body, mut sealer } = opened;
        self.check_time(at_ms)?;
        // One's own words come back only where an address leads to oneself.
        if (from == *self.id() && what != What::Who) || !self.is_new(nonce) {
            return Err(Rejected::Replayed);
        }
        let (method, target, headers, principal, pass, peer) = match (to, what) {
            (None, What::Who) => return Ok(Received::Answered(self.introduce(sealer))),
            (Some(to), What::Request { method, target, headers, principal, pass, peer }) if to == *self.id() => {
                (method, target, headers, principal, pass, peer)
            }
            (Some(_), What::Request { .. }) => {
                let body = [sealer.head(&Head::NotHere), sealer.end()].concat();
                return Ok(Received::Answered(sealed_response(Body::from(body))));
            }
            (None, What::Request { .. }) | (Some(_), What::Who) => return Err(Rejected::Forged),
        };
        let forwarded = Forwarded {
            method: Method::from_bytes(method.as_bytes()).map_err(|_| Rejected::Forged)?,
            uri: target.parse().map_err(|_| Rejected::Forged)?,
            headers: wire::read_headers(&headers).map_err(|_| Rejected::Forged)?,
            principal: Principal::parse(&principal).ok_or(Rejected::Forged)?,
            pass: pass.map(|given| Pass::try_from(*given).map(Arc::new)).transpose().map_err(|_| Rejected::Forged)?,
            peer,
            body,
        };
        Ok(Received::Request(Box::new(forwarded), AnswerTo(sealer)))
    }

    /// Says who this is.
    fn introduce(&self, mut sealer: Sealer) -> Response {
        let own = self.registry.own();
        let about = About {
            id: own.id,
            started_ms: own.started.as_millis(),
            version: own.version,
            configuration: own.configuration,
        };
        let about = serde_json::to_vec(&about).expect("our own types serialise");
        let head = Head::Answer { status: StatusCode::OK.as_u16(), headers: Vec::new() };
        sealed_response(Body::from([sealer.head(&head), sealer.data(&about), sealer.end()].concat()))
    }
}

/// The way back to the replica that asked.
pub struct AnswerTo(Sealer);

impl AnswerTo {
    /// Seals an answer as it comes. One that breaks off has no end.
    pub fn seal(self, response: Response) -> Response {
        let Self(mut sealer) = self;
        let (mut parts, body) = response.into_parts();
        for own in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, DATE] {
            parts.headers.remove(own);
        }
        let headers = wire::write_headers(parts.headers.iter());
        let head = sealer.head(&Head::Answer { status: parts.status.as_u16(), headers });
        let rest = stream::unfold(Some((sealer, body.into_data_stream())), |state| async move {
            let (mut sealer, mut body) = state?;
            match body.next().await {
                Some(Ok(data)) => Some((Ok(sealer.data(&data)), Some((sealer, body)))),
                Some(Err(broken)) => Some((Err(broken), None)),
                None => Some((Ok(sealer.end()), None)),
            }
        });
        sealed_response(Body::from_stream(stream::once(async move { Ok(head) }).chain(rest)))
    }
}

fn sealed_response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
