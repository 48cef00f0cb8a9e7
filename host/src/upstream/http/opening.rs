//! How a session of the legacy era begins: `initialize`, `notifications/initialized`, and where the upstream speaks no
//! streamable HTTP, the stream of 2024-11-05 before both.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::{Request, Response, StatusCode, Uri};
use serde_json::value::RawValue;

use super::detect::{Dialect, Found, decides_nothing};
use super::peer::{self, Peer, drain};
use super::questions::answer_to_upstream;
use super::session::{Carrier, Session};
use super::sse_transport::{self, SseStream};
use super::stream::{self, ANOTHER_REQUEST, Messages};
use super::{Inner, watch};
use crate::config;
use crate::connection::lending::Lent;
use crate::mcp::error::METHOD_NOT_FOUND;
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{About, SESSION_HEADER, legacy, v2026_07_28};
use crate::mcp::talk::Party;
use crate::upstream::{UpstreamError, credential};

/// Longest opening of a session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest session id, in bytes.
const MAX_SESSION_ID: usize = 4 * 1024;

/// Why a session was not opened.
#[derive(Clone, Debug)]
pub(super) struct NotOpened {
    pub(super) error: UpstreamError,
    /// The upstream answered, and not as one that has such sessions: perhaps it speaks something else.
    pub(super) is_refused: bool,
}

impl NotOpened {
    fn refused(error: UpstreamError) -> Self {
        Self { error, is_refused: true }
    }

    /// By an error status, given what was shown.
    pub(super) fn refused_as<B>(response: &Response<B>, lent: Option<&Lent>) -> Self {
        let status = response.status();
        let error = credential::refused(status, response.headers(), lent);
        Self { error, is_refused: !decides_nothing(status) }
    }

    fn status(status: StatusCode) -> Self {
        Self { error: UpstreamError::Status { status: status.as_u16() }, is_refused: !decides_nothing(status) }
    }
}

impl From<UpstreamError> for NotOpened {
    fn from(error: UpstreamError) -> Self {
        Self { error, is_refused: false }
    }
}

/// Opens a session for a party.
pub(super) async fn open(inner: Arc<Inner>, dialect: Dialect, party: Party) -> Result<Arc<Session>, NotOpened> {
    let opening = async {
        match dialect {
            Dialect::Sse => open_sse(&inner.peer, &party).await,
            Dialect::Legacy | Dialect::Modern => open_streamable(&inner, &party).await,
        }
    };
    tokio::select! {
        opened = tokio::time::timeout(OPEN_TIMEOUT, opening) => {
            let session = opened.unwrap_or_else(|_| Err(UpstreamError::TimedOut { after: OPEN_TIMEOUT }.into()))?;
            session.align_level(&party).await;
            Ok(session)
        }
        () = inner.peer.tasks.stopping().cancelled() => Err(UpstreamError::Cancelled.into()),
    }
}

async fn open_streamable(inner: &Arc<Inner>, party: &Party) -> Result<Arc<Session>, NotOpened> {
    let peer = &inner.peer;
    let (id, body) = initialize(party);
    let lent = party.lent.as_deref();
    let mut request = peer.post(&peer.endpoint, body);
    peer::show(&mut request, lent);
    let response = peer.send(request).await?;
    let status = response.status();
    if matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        let refusal = stream::read_refusal(response).await;
        let is_modern = refusal.is_some_and(|refusal| {
            v2026_07_28::is_modern_error(refusal.code)
                || (status == StatusCode::NOT_FOUND && refusal.code == i64::from(METHOD_NOT_FOUND))
        });
        if is_modern || inner.protocol != config::Protocol::Auto {
            return Err(NotOpened::status(status));
        }
        // Where there is no such stream either, it is the first answer that tells more.
        let session = open_sse(peer, party).await.map_err(|_| NotOpened::status(status))?;
        inner.found.set(Arc::new(Found::now(Dialect::Sse)));
        return Ok(session);
    }
    if !status.is_success() {
        let refused = NotOpened::refused_as(&response, lent);
        _ = drain(response).await;
        return Err(refused);
    }
    let session_id = read_session_id(&response)?;
    let mut messages = Messages::of(response, peer.limits.message_bytes).map_err(NotOpened::refused)?;
    let result = read_initialized(&mut messages, &id, None).await?;
    let session = new_session(peer, party, Carrier::Streamable { id: session_id }, &result)?;
    let response = peer.send(session.post(message::notification("notifications/initialized", None))).await?;
    if !response.status().is_success() {
        return Err(NotOpened::refused_as(&response, lent));
    }
    drain(response).await?;
    Ok(session)
}

async fn open_sse(peer: &Arc<Peer>, party: &Party) -> Result<Arc<Session>, NotOpened> {
    let lent = party.lent.as_deref();
    let SseStream { endpoint, mut messages } = sse_transport::open(peer, lent).await?;
    let (id, body) = initialize(party);
    let mut request = peer.post(&endpoint, body);
    peer::show(&mut request, lent);
    let posting = post(peer, request, lent);
    let ((), result) = tokio::try_join!(posting, read_initialized(&mut messages, &id, Some((peer, &endpoint, lent))))?;
    let session = new_session(peer, party, Carrier::Sse { endpoint }, &result)?;
    post(peer, session.post(message::notification("notifications/initialized", None)), lent).await?;
    sse_transport::keep(session.clone(), messages);
    Ok(session)
}

async fn post(peer: &Peer, request: Request<bytes::Bytes>, lent: Option<&Lent>) -> Result<(), NotOpened> {
    let response = peer.send(request).await?;
    let posted = if response.status().is_success() { Ok(()) } else { Err(NotOpened::refused_as(&response, lent)) };
    _ = drain(response).await;
    posted
}

fn initialize(party: &Party) -> (RequestId, String) {
    let id = RequestId::number(0);
    let body = message::request(&id, "initialize", &legacy::initialize_params(party));
    (id, body)
}

fn read_session_id<B>(response: &Response<B>) -> Result<Option<HeaderValue>, NotOpened> {
    let Some(id) = response.headers().get(SESSION_HEADER) else { return Ok(None) };
    let is_visible = id.as_bytes().iter().all(|byte| matches!(byte, 0x21..=0x7e));
    if id.is_empty() || !is_visible || id.len() > MAX_SESSION_ID {
        return Err(UpstreamError::Protocol { what: "its session id is not visible ASCII of reasonable length" }.into());
    }
    let mut id = id.clone();
    id.set_sensitive(true);
    Ok(Some(id))
}

/// The result of `initialize`. `aside`: where what is asked meanwhile is answered.
async fn read_initialized(
    messages: &mut Messages,
    id: &RequestId,
    aside: Option<(&Arc<Peer>, &Uri, Option<&Lent>)>,
) -> Result<Box<RawValue>, NotOpened> {
    while let Some(text) = messages.next().await? {
        let mut initialized = None;
        for part in stream::parts(&text).map_err(NotOpened::refused)? {
            match part {
                Message::Result { id: of, result } if of == *id => initialized = Some(result.to_owned()),
                Message::Error { id: of, .. } if of.as_ref().is_none_or(|of| of == id) => {
                    let error = UpstreamError::Protocol { what: "`initialize` was answered with an error" };
                    return Err(NotOpened::refused(error));
                }
                Message::Result { .. } | Message::Error { .. } => return Err(ANOTHER_REQUEST.into()),
                Message::Request { id, method, .. } => {
                    if let Some((peer, endpoint, lent)) = aside {
                        let mut answer = peer.post(endpoint, answer_to_upstream(&id, &method));
                        peer::show(&mut answer, lent);
                        peer.send_aside(answer).await;
                    }
                }
                Message::Notification { .. } => {}
            }
        }
        if let Some(initialized) = initialized {
            return Ok(initialized);
        }
    }
    Err(UpstreamError::Died.into())
}

fn new_session(
    peer: &Arc<Peer>,
    party: &Party,
    carrier: Carrier,
    result: &RawValue,
) -> Result<Arc<Session>, NotOpened> {
    let unknown =
        || NotOpened::refused(UpstreamError::Protocol { what: "`initialize` chose no revision that we speak" });
    let about: About = legacy::read_about(result).ok_or_else(unknown)?;
    let version = HeaderValue::try_from(&about.revision).map_err(|_| unknown())?;
    let (orders, inbox) = watch::orders();
    let subscribes = about.capabilities.resources_subscribe;
    let session = Session::new(peer.clone(), party.clone(), carrier, version, Arc::new(about), orders);
    let session = Arc::new(session);
    if subscribes {
        peer.tasks.spawn(session.clone().keep_subscriptions(inbox));
    }
    Ok(session)
}
