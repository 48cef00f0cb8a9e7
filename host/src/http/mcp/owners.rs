//! Requests about what another replica holds: handed on to it, and taken from it.
//!
//! A caller's whole request is handed on after it was authenticated, so that the owner answers as if it had been asked
//! itself. What came from another replica has no [`Passing`] and goes no further. Where nobody knows whether the owner
//! has got a request, the caller is told that it may have happened, and nobody sends it again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures_util::{StreamExt as _, stream};
use http::{Method, StatusCode, Uri};
use serde_json::json;

use super::entrance::{self, StepsUp};
use super::legacy::{self, sse_transport};
use super::stays::{Stay, Until};
use super::{ENDPOINT, From, Mcp, accepts_events, attend, check_headers};
use crate::http::body::{BodyError, read_limited};
use crate::http::error::{Refused, out_of_date};
use crate::http::replica::{self, Forwarded, Forwarding, OVERHEAD, Received, Undelivered};
use crate::http::serve::Peer;
use crate::ids::ReplicaId;
use crate::mcp::error::{INTERNAL_ERROR, RpcError, THROTTLED, UPSTREAM_FAILED};
use crate::mcp::json::to_raw;
use crate::mcp::message::RequestId;
use crate::mcp::revision;
use crate::pipeline;
use crate::pipeline::Mark;

/// How long an answer may take to begin that becomes a stream before that, or is none.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for one that comes whole, whenever the upstream has it. A machine that vanishes is noticed sooner.
const LONG_PATIENCE: Duration = Duration::from_secs(60 * 60);
/// When a caller may come again that was not served for now.
const RETRY: Duration = Duration::from_secs(1);

/// What the owner of something has to be told of a request, besides what it says itself.
#[derive(Clone, Copy)]
pub(super) struct Passing<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
}

/// The owner's answer; `None` if the owner is gone and has not got the request. `place` is held until the answer has ended.
pub(super) async fn pass_on(
    mcp: &Mcp,
    from: &From<'_>,
    owner: &ReplicaId,
    id: Option<&RequestId>,
    body: &[u8],
    place: impl Send + 'static,
) -> Result<Option<Response>, Refused> {
    let Some(Passing { method, uri }) = from.passing else {
        tracing::warn!(replica = %owner, "a request came from a replica that should have gone to another one");
        let error = RpcError::new(INTERNAL_ERROR, "replicas of this gateway disagree about who holds this");
        return Err(Refused::rpc(StatusCode::LOOP_DETECTED, id, &error));
    };
    let forwarding = Forwarding {
        method,
        uri,
        headers: from.headers,
        extra: &from.extra,
        principal: &from.caller.principal,
        pass: from.caller.pass.as_deref(),
        peer: from.peer.and_then(Peer::ip),
        body,
    };
    let becomes_stream = accepts_events(from.headers) || *method != Method::POST;
    // The owner may wait that long for whoever reads what the answer is said on.
    let patience = if becomes_stream { PATIENCE + mcp.settings.limits.stall_timeout } else { LONG_PATIENCE };
    match mcp.replicas.forward(owner, forwarding, patience, place).await {
        Ok(response) => {
            let until = if *method == Method::GET { Until::Left } else { Until::Answered };
            Ok(Some(staying(
                response,
                Stay::begin(mcp, &from.caller.principal, from.caller.pass.as_ref(), until),
                until,
            )))
        }
        Err(Undelivered::Alone | Undelivered::Gone) => Ok(None),
        Err(Undelivered::Unknown) => Err(unanswered(id)),
        Err(Undelivered::Busy) => {
            let error = RpcError::new(THROTTLED, "too many requests go to other replicas");
            Err(Refused::rpc(StatusCode::SERVICE_UNAVAILABLE, id, &error).retry_after(RETRY))
        }
        Err(Undelivered::Unreachable) => {
            tracing::warn!(replica = %owner, "another replica cannot be reached, and is not known to be gone");
            let error = RpcError::new(INTERNAL_ERROR, "the gateway cannot reach who holds this: try again");
            Err(Refused::rpc(StatusCode::SERVICE_UNAVAILABLE, id, &error).retry_after(RETRY))
        }
        Err(Undelivered::TooLarge) => {
            Err(Refused::plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large"))
        }
        Err(Undelivered::Store(error)) => {
            tracing::warn!(%error, "nobody knows where another replica is");
            let error = RpcError::new(INTERNAL_ERROR, "the gateway cannot find who holds this: try again");
            Err(Refused::rpc(StatusCode::SERVICE_UNAVAILABLE, id, &error).retry_after(RETRY))
        }
    }
}

/// Another replica's answer, for as long as this one knows its principal: the other may learn later of what has changed.
fn staying(response: Response, stay: Stay, until: Until) -> Response {
    let (parts, body) = response.into_parts();
    let pieces = stream::unfold(Some((body.into_data_stream(), stay)), move |state| async move {
        let (mut pieces, stay) = state?;
        tokio::select! {
            biased;
            // What would have an end of its own must look cut off.
            () = stay.over() => (until == Until::Answered).then(|| (Err(axum::Error::new(Over)), None)),
            piece = pieces.next() => Some((piece?, Some((pieces, stay)))),
        }
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
#[error("its caller may not be here any more")]
struct Over;

/// The answer of the replica that knows which tool a task is of, where that is another one and it is there. Policies about
/// the tool's results could not be asked without.
pub(super) async fn of_task(
    mcp: &Mcp,
    from: &From<'_>,
    request: &revision::Request,
    id: &RequestId,
    body: &[u8],
) -> Result<Option<Response>, Refused> {
    let revision::Request::Task { id: task, .. } = request else { return Ok(None) };
    let Some(owner) = pipeline::task_owner(&mcp.services, &from.caller, task).filter(|_| from.passing.is_some()) else {
        return Ok(None);
    };
    let place = mcp.places.call(from.payer(), Some(id))?;
    pass_on(mcp, from, &owner, Some(id), body, place).await
}

/// The replica that held a call is gone, and with it the call's way back.
pub(super) fn gone(id: Option<&RequestId>) -> Refused {
    let message =
        "the replica of this gateway that held this call is gone: the call may have happened, and is not sent again";
    let data = to_raw(&json!({ "reason": "replica_gone" }));
    Refused::rpc(StatusCode::OK, id, &RpcError::new(UPSTREAM_FAILED, message).with_data(data))
}

/// The replica has perhaps got a request.
fn unanswered(id: Option<&RequestId>) -> Refused {
    let message = "the replica of this gateway that holds this does not answer: what was asked may have happened, and is \
                   not sent again";
    let data = to_raw(&json!({ "reason": "replica_unanswered" }));
    Refused::rpc(StatusCode::BAD_GATEWAY, id, &RpcError::new(UPSTREAM_FAILED, message).with_data(data))
}

impl Mcp {
    /// What other replicas reach: one path, and nothing for anyone else.
    pub fn replica_router(self: Arc<Self>) -> Router {
        Router::new().route(replica::PATH, post(take)).with_state(self)
    }
}

async fn take(State(mcp): State<Arc<Mcp>>, request: Request) -> Response {
    let limit = match mcp.replicas.let_in(request.headers()) {
        Ok(announced) => announced.min(mcp.settings.limits.request_bytes.saturating_add(OVERHEAD)),
        Err(rejected) => return rejected.into_response(),
    };
    let message = match read_limited(request.into_body(), limit, mcp.settings.body_timeout, None).await {
        Ok(message) => message,
        Err(error) => return error.status().into_response(),
    };
    match mcp.replicas.receive(message) {
        // A key may have been revoked, whatever the other replica knew.
        Ok(Received::Request(_, answer_to)) if mcp.freshness.is_stale() => {
            answer_to.seal(out_of_date().into_response())
        }
        Ok(Received::Request(forwarded, answer_to)) => {
            let answer = serve(&mcp, *forwarded).await;
            answer_to.seal(answer.unwrap_or_else(Refused::into_response))
        }
        Ok(Received::Answered(response)) => response,
        Err(rejected) => rejected.into_response(),
    }
}

/// Answers a caller whom another replica authenticated, as far as the caller's key still opens anything here.
async fn serve(mcp: &Arc<Mcp>, forwarded: Forwarded) -> Result<Response, Refused> {
    let Forwarded { method, uri, headers, principal, pass, peer, body } = forwarded;
    let limit = mcp.settings.limits.request_bytes;
    if body.len() > limit {
        return Err(Refused::from_body(&BodyError::TooLarge { limit }));
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.uri, parts.headers) = (method, uri, headers);
    let caller = mcp.gate.again(&principal, pass.as_ref()).await;
    let caller = caller.map_err(|unadmitted| entrance::refuse(&mcp.gate, &parts, &unadmitted))?;
    let peer = peer.map(|ip| Peer::Tcp(SocketAddr::new(ip, 0)));

    let path = parts.uri.path();
    let nothing_here = || Refused::plain(StatusCode::NOT_FOUND, "there is nothing at this path");
    if path == sse_transport::MESSAGES && parts.method == Method::POST && mcp.settings.legacy_sse {
        return sse_transport::forwarded(mcp, caller, &parts, peer, &body).await;
    }
    if path != "/mcp" && path.strip_prefix(ENDPOINT).is_none_or(|upstream| upstream.contains('/')) {
        return Err(nothing_here());
    }
    let mark = Mark { bytes: body.len(), ..attend::read(&mcp.services.env, &parts.headers) };
    let from = From { peer, mark, ..mcp.admit_caller(caller, &parts)? };
    match parts.method {
        Method::POST => {
            check_headers(&parts.headers)?;
            let steps_up = StepsUp::of(&from);
            let answer = mcp.posted(from, &body).await.unwrap_or_else(Refused::into_response);
            Ok(steps_up.complete(&mcp.gate, answer))
        }
        Method::GET => mcp.get(from, &parts.method).await,
        Method::DELETE => legacy::end(mcp, &from).await,
        _ => Err(nothing_here()),
    }
}
