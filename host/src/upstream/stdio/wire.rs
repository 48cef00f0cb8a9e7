//! What a subscription looks like in the two eras: the messages that ask for one and end it, and what comes of it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Ids;
use super::subscriptions::Topic;
use crate::mcp::json::{Members, quote, raw};
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::{About, Era, Filter, v2026_07_28};
use crate::mcp::talk::Party;

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// The request `id` for a subscription. It is the gateway's own: several callers may share it. Only servers without
/// sessions are asked for [`Topic::Lists`]; of them, those that they announce changes of.
pub(super) fn subscribe(about: &About, topic: &Topic, id: &RequestId) -> String {
    let filter = match topic {
        Topic::Resource(uri) if about.era == Era::Legacy => {
            return message::request(id, "resources/subscribe", &raw(format!(r#"{{"uri":{}}}"#, quote(uri))));
        }
        Topic::Resource(uri) => {
            Filter { tools: false, prompts: false, resources: false, uris: vec![(**uri).to_owned()] }
        }
        Topic::Lists => Filter {
            tools: about.capabilities.tools_list_changed,
            prompts: about.capabilities.prompts_list_changed,
            resources: about.capabilities.resources_list_changed,
            uris: Vec::new(),
        },
    };
    message::request(id, v2026_07_28::LISTEN, &v2026_07_28::listen_params(&Party::gateway(), &filter))
}

/// The message that ends the subscription `id`.
pub(super) fn unsubscribe(era: Era, topic: &Topic, id: &RequestId, ids: &Ids) -> String {
    match (era, topic) {
        (Era::Legacy, Topic::Resource(uri)) => {
            // Nobody waits for the answer.
            message::request(&ids.next(), "resources/unsubscribe", &raw(format!(r#"{{"uri":{}}}"#, quote(uri))))
        }
        _ => cancelled(id),
    }
}

/// `notifications/cancelled` for a request of ours.
pub(super) fn cancelled(id: &RequestId) -> String {
    let params = raw(format!(r#"{{"requestId":{}}}"#, id.as_json()));
    message::notification("notifications/cancelled", Some(&params))
}

/// `params` of `notifications/subscriptions/acknowledged`.
pub(super) struct Acknowledged {
    pub(super) id: RequestId,
    /// The resources that it agreed to.
    pub(super) uris: Vec<String>,
}

impl Acknowledged {
    pub(super) fn read(params: Option<&RawValue>) -> Option<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Granted {
            resource_subscriptions: Vec<String>,
        }
        let params = Members::parse(params?.get()).ok()?;
        let granted = params.get("notifications").and_then(|granted| serde_json::from_str(granted.get()).ok());
        let Granted { resource_subscriptions } = granted.unwrap_or_default();
        Some(Self { id: subscription_id(&params)?, uris: resource_subscriptions })
    }
}

/// `params` of `notifications/resources/updated`.
pub(super) struct Updated {
    /// The subscription that it belongs to, where servers say so.
    pub(super) id: Option<RequestId>,
    /// The resource, or a part of the one that is subscribed to.
    pub(super) uri: String,
    /// All of it, but for the id: that is between us and the child.
    pub(super) params: Members,
}

impl Updated {
    pub(super) fn read(params: Option<&RawValue>) -> Option<Self> {
        let mut params = Members::parse(params?.get()).ok()?;
        let uri = serde_json::from_str(params.get("uri")?.get()).ok()?;
        let id = subscription_id(&params);
        if let Some(mut meta) = params.get("_meta").and_then(|meta| Members::parse(meta.get()).ok())
            && meta.remove(SUBSCRIPTION_ID).is_some()
        {
            match meta.is_empty() {
                true => drop(params.remove("_meta")),
                false => params.set("_meta", meta.to_raw()),
            }
        }
        Some(Self { id, uri, params })
    }
}

fn subscription_id(params: &Members) -> Option<RequestId> {
    let meta = Members::parse(params.get("_meta")?.get()).ok()?;
    RequestId::parse(meta.get(SUBSCRIPTION_ID)?)
}
