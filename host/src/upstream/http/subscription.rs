//! `subscriptions/listen`: one POST whose answer is a stream of the changes that were asked for (2026-07-28,
//! patterns/subscriptions). Dropping it ends it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::detect::decides_nothing;
use super::modern;
use super::peer::{self, Peer, drain};
use super::stream::{ANOTHER_REQUEST, Messages, NOT_A_MESSAGE};
use crate::mcp::json::Members;
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{Filter, v2026_07_28};
use crate::mcp::talk::Party;
use crate::upstream::{UpstreamError, credential};

/// Key in `_meta` that names the subscription that a message belongs to.
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

const UNSUPPORTED: UpstreamError = UpstreamError::Unsupported { what: "subscriptions" };

/// A stream of changes.
pub(super) struct Listening {
    id: RequestId,
    messages: Messages,
    /// What the upstream agreed to tell.
    pub(super) granted: Filter,
}

/// One thing that is told on it.
pub(super) enum Heard {
    ListChanged,
    /// Members of the notification, without the subscription's own mark.
    ResourceUpdated(Members),
}

impl Listening {
    /// Asks for a stream and waits until the upstream agrees.
    pub(super) async fn open(peer: &Peer, party: &Party, filter: &Filter) -> Result<Self, UpstreamError> {
        let id = peer.fresh_id();
        let body = message::request(&id, v2026_07_28::LISTEN, &v2026_07_28::listen_params(party, filter));
        let mut request = peer.post(&peer.endpoint, body);
        let lent = party.lent.as_deref();
        peer.pass_on(&mut request, party);
        peer::show(&mut request, lent);
        modern::set_headers(&mut request, v2026_07_28::LISTEN, None, &[]);
        let response = peer.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            let refused = credential::refused(status, response.headers(), lent);
            _ = drain(response).await;
            return Err(if decides_nothing(status) { refused } else { UNSUPPORTED });
        }
        let messages = Messages::of(response, peer.limits.message_bytes)?;
        let mut listening = Self { id, messages, granted: Filter::default() };
        let text = listening.messages.next().await?.ok_or(UpstreamError::Died)?;
        match Message::from_upstream(&text).map_err(|_| NOT_A_MESSAGE)? {
            Message::Notification { method, params } if method == "notifications/subscriptions/acknowledged" => {
                let (params, is_ours) = listening.read(params);
                if !is_ours {
                    return Err(UpstreamError::Protocol { what: "it acknowledged another subscription" });
                }
                listening.granted = read_filter(&params);
                Ok(listening)
            }
            Message::Error { .. } => Err(UNSUPPORTED),
            _ => Err(UpstreamError::Protocol { what: "its stream of changes does not begin with an acknowledgement" }),
        }
    }

    /// The next thing that is told; `None` when the upstream ended the stream in good order.
    pub(super) async fn next(&mut self) -> Result<Option<Heard>, UpstreamError> {
        loop {
            let text = self.messages.next().await?.ok_or(UpstreamError::Died)?;
            match Message::from_upstream(&text).map_err(|_| NOT_A_MESSAGE)? {
                Message::Notification { method, params } => {
                    // What is marked for another subscription is not for this one's listener.
                    let (params, is_ours) = self.read(params);
                    match &*method {
                        _ if !is_ours => {}
                        "notifications/resources/updated" => return Ok(Some(Heard::ResourceUpdated(params))),
                        "notifications/tools/list_changed"
                        | "notifications/prompts/list_changed"
                        | "notifications/resources/list_changed" => return Ok(Some(Heard::ListChanged)),
                        _ => {}
                    }
                }
                Message::Result { id, .. } if id == self.id => return Ok(None),
                Message::Error { id: Some(id), .. } if id == self.id => return Err(UpstreamError::Died),
                Message::Result { .. } | Message::Error { .. } => return Err(ANOTHER_REQUEST),
                // Not in this revision, and there is no way to answer.
                Message::Request { .. } => {}
            }
        }
    }

    /// Takes the subscription's mark out of a notification, and tells whether it is ours.
    fn read(&self, params: Option<&RawValue>) -> (Members, bool) {
        let mut params = params.and_then(|params| Members::parse(params.get()).ok()).unwrap_or_default();
        let meta = params.get("_meta").and_then(|meta| Members::parse(meta.get()).ok());
        let mut meta = meta.unwrap_or_default();
        let mark = meta.remove(SUBSCRIPTION_ID).and_then(|mark| RequestId::parse(&mark));
        if meta.is_empty() {
            params.remove("_meta");
        } else {
            params.set("_meta", meta.to_raw());
        }
        (params, mark.as_ref() == Some(&self.id))
    }
}

/// Reads what was granted; what is not understood was not.
fn read_filter(params: &Members) -> Filter {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Granted {
        tools_list_changed: bool,
        prompts_list_changed: bool,
        resources_list_changed: bool,
        resource_subscriptions: Vec<String>,
    }
    let granted = params.get("notifications").and_then(|granted| serde_json::from_str::<Granted>(granted.get()).ok());
    let granted = granted.unwrap_or_default();
    Filter {
        tools: granted.tools_list_changed,
        prompts: granted.prompts_list_changed,
        resources: granted.resources_list_changed,
        uris: granted.resource_subscriptions,
    }
}
