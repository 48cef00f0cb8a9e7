//! Handing a request on to the replica that owns what it is about, and its answer back as it comes.
//!
//! The request is whole, since it was read whole to be understood; the answer streams, held back by whoever reads it. If
//! the caller leaves, the connection to the owner ends with it, and the owner sees what it would have seen of the caller.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::registry::Whereabouts;
use super::wire::{self, Damaged, Envelope, Given, Head, Opener, Part, What};
use super::{PASS, PASS_PURPOSE, PATH, Replicas};
use crate::connection::extra::Extra;
use crate::identity::Pass;
use crate::ids::{Principal, ReplicaId};
use crate::outbound::{OutboundError, Pieces};
use crate::store::StoreError;
use crate::store::replicas::Replica;
use crate::telemetry::{TRACEPARENT, TRACESTATE};

/// Longest silence within an answer that has begun. Streams give a sign of life every 15 seconds.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// How long a peer may take to say who it is.
const WHO_PATIENCE: Duration = Duration::from_secs(3);
/// Beginnings of the names of headers that travel besides those of [`travels`]; never one that carries a credential.
const PREFIXES: [&str; 2] = ["mcp-", "x-portcullis-include-"];
const LAST_EVENT_ID: &str = "last-event-id";
/// What a request is known by, here and elsewhere.
const MARKS: [&str; 3] = ["x-request-id", TRACEPARENT, TRACESTATE];

/// A caller's request, after it was authenticated.
pub struct Forwarding<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// Those of them that upstreams let through, and that travel as well.
    pub extra: &'a Extra,
    pub principal: &'a Principal,
    /// What a token gave to it, if one let it in.
    pub pass: Option<&'a Pass>,
    /// Where the caller's connection comes from.
    pub peer: Option<IpAddr>,
    pub body: &'a [u8],
}

/// Why a request was not answered by its owner.
#[derive(Debug)]
pub enum Undelivered {
    /// There are no other replicas.
    Alone,
    /// The owner is not there any more. It has not got the request.
    Gone,
    /// The owner cannot be reached at the moment. It has not got the request.
    Unreachable,
    /// The owner may have got the request, or not.
    Unknown,
    /// Too much is handed on already.
    Busy,
    /// Its headers are larger than what travels.
    TooLarge,
    /// Nobody knows where the owner is.
    Store(StoreError),
}

/// Who is at an address, as it says itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    pub(super) id: ReplicaId,
    pub(super) started_ms: u64,
    pub(super) version: String,
    pub(super) configuration: String,
}

/// Whether a header means something to who answers. Whatever is not named here stays: credentials above all.
fn travels(name: &HeaderName) -> bool {
    let is_named = [ACCEPT, CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT].contains(name) || *name == LAST_EVENT_ID;
    let is_mark = MARKS.contains(&name.as_str());
    is_named || is_mark || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

impl Replicas {
    /// Hands a request on to its owner, and gives its answer as soon as it begins, within `patience`. `place` is held until
    /// the answer has ended.
    pub async fn forward(
        &self,
        owner: &ReplicaId,
        forwarding: Forwarding<'_>,
        patience: Duration,
        place: impl Send + 'static,
    ) -> Result<Response, Undelivered> {
        let (address, is_listed) = match self.whereabouts(owner).await.map_err(Undelivered::Store)? {
            Whereabouts::Alone => return Err(Undelivered::Alone),
            Whereabouts::Gone => return Err(Undelivered::Gone),
            Whereabouts::At(address) => (address, true),
            Whereabouts::LastAt(address) => (address, false),
        };
        let permit = self.forwards.clone().try_acquire_owned().map_err(|_| Undelivered::Busy)?;
        let Forwarding { method, uri, headers, extra, principal, pass, peer, body } = forwarding;
        let what = What::Request {
            method: method.as_str().to_owned(),
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            headers: wire::write_headers(headers.iter().filter(|(name, _)| travels(name) || extra.has(name))),
            principal: principal.to_string(),
            pass: pass.map(|pass| Box::new(Given::from(pass))),
            peer,
        };
        let asked = self.ask(&address, Some(owner.clone()), what, body, patience).await;
        let (status, headers, answer) = match asked {
            Ok((Head::Answer { status, headers }, answer)) => (status, headers, answer),
            // Another process has that address now, as it seems. It cannot know what became of the request elsewhere, so
            // that only what has no effects may be done again at once.
            Ok((Head::NotHere, _)) => {
                self.registry.is_gone(owner);
                return Err(if *method == Method::GET { Undelivered::Gone } else { Undelivered::Unknown });
            }
            Err(Unasked::NotSent { is_nobody_there }) if is_nobody_there || !is_listed => {
                self.registry.is_gone(owner);
                return Err(Undelivered::Gone);
            }
            Err(Unasked::NotSent { .. }) => return Err(Undelivered::Unreachable),
            Err(Unasked::TooLarge) => return Err(Undelivered::TooLarge),
            Err(Unasked::Unknown(problem)) => {
                tracing::warn!(replica = %owner, address, problem, "a request that was handed on has no answer");
                return Err(Undelivered::Unknown);
            }
        };
        let (Ok(status), Ok(headers)) = (StatusCode::from_u16(status), wire::read_headers(&headers)) else {
            return Err(Undelivered::Unknown);
        };
        let body = stream::unfold(Some((answer, permit, place)), |state| async move {
            let (mut answer, permit, place) = state?;
            match answer.part(MAX_SILENCE).await {
                Ok(Part::Data(data)) => Some((Ok(data), Some((answer, permit, place)))),
                Ok(Part::End) => None,
                Ok(Part::Head(_)) => Some((Err(BoxError::from(Damaged)), None)),
                // What is cut off must look cut off.
                Err(broken) => Some((Err(broken), None)),
            }
        });
        let mut response = Response::new(Body::from_stream(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Who is at an address; `None` if it is nobody of ours.
    pub(super) async fn who_is_at(&self, address: &str) -> Option<Replica> {
        let asked = async {
            let (_, mut answer) = self.ask(address, None, What::Who, &[], WHO_PATIENCE).await.ok()?;
            let Ok(Part::Data(about)) = answer.part(WHO_PATIENCE).await else { return None };
            serde_json::from_slice::<About>(&about).ok()
        };
        let About { id, started_ms, version, configuration } =
            tokio::time::timeout(WHO_PATIENCE, asked).await.ok()??;
        let started = crate::env::Timestamp::from_millis(started_ms);
        Some(Replica { id, address: Some(address.to_owned()), started, seen: self.now(), version, configuration })
    }

    async fn ask(
        &self,
        address: &str,
        to: Option<ReplicaId>,
        what: What,
        body: &[u8],
        patience: Duration,
    ) -> Result<(Head, Answer), Unasked> {
        let envelope = Envelope { from: self.id().clone(), to, at_ms: self.now().as_millis(), what };
        let nonce = self.env.random::<16>();
        let (message, opener) = wire::seal(&self.secret, &nonce, &envelope, body).ok_or(Unasked::TooLarge)?;
        let length = u64::try_from(message.len()).unwrap_or(u64::MAX);
        let pass = [envelope.at_ms.to_be_bytes(), length.to_be_bytes()].concat();
        let request = Request::post(format!("http://{address}{PATH}"))
            .header(PASS, self.secret.sign(PASS_PURPOSE, &pass))
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(message)
            .map_err(|_| Unasked::NotSent { is_nobody_there: true })?;
        let deadline = Instant::now() + patience;
        let response = self.outbound.send(request, deadline).await.map_err(|error| match error {
            OutboundError::Connect(_) | OutboundError::NoSocket(_) => {
                Unasked::NotSent { is_nobody_there: is_nobody_there(&error) }
            }
            _ => Unasked::Unknown("the connection broke or nothing came back in time"),
        })?;
        if response.status() != StatusCode::OK {
            // Who answers like this has not proven to be of this deployment.
            return Err(Unasked::Unknown("it was refused: the clocks or the deployment secrets may differ"));
        }
        let mut answer = Answer { pieces: Pieces::new(response.into_body(), deadline), opener };
        match answer.part(patience).await {
            Ok(Part::Head(head)) => Ok((head, answer)),
            Ok(_) | Err(_) => Err(Unasked::Unknown("the answer is not one of a replica of this deployment")),
        }
    }
}

/// Whether an attempt to connect shows that nobody listens there: it was refused, or nothing came back. Anything else may
/// be our own trouble, such as a name that is not found or too many open files.
fn is_nobody_there(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let kind = causes.find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut))
}

enum Unasked {
    /// Nobody got it.
    NotSent {
        is_nobody_there: bool,
    },
    TooLarge,
    /// Somebody may have got it.
    Unknown(&'static str),
}

/// An answer that arrives.
struct Answer {
    pieces: Pieces,
    opener: Opener,
}

impl Answer {
    /// The next part, which must arrive `within` this time.
    async fn part(&mut self, within: Duration) -> Result<Part, BoxError> {
        self.pieces.set_deadline(Instant::now() + within);
        loop {
            if let Some(part) = self.opener.part()? {
                return Ok(part);
            }
            let piece: Option<Bytes> = self.pieces.next().await?;
            self.opener.feed(&piece.ok_or(Damaged)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_travel() {
        for name in
            ["authorization", "x-portcullis-key", "cookie", "proxy-authorization", "host", "content-length", "x-y"]
        {
            assert!(!travels(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["accept", "mcp-session-id", "mcp-param-region", "last-event-id", "x-portcullis-include-tools"] {
            assert!(travels(&HeaderName::from_static(name)), "{name}");
        }
    }
}
