//! `subscriptions/listen` towards callers: what is written on its stream (2026-07-28, patterns/subscriptions).
//!
//! Every message names the request that opened the stream, by its id.

use serde_json::value::RawValue;

use super::{META_SERVER_INFO, META_SUBSCRIPTION};
use crate::mcp::json::{Members, ObjectWriter, quote, raw, to_raw};
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::{Filter, ListKind, SERVER_INFO};
use crate::mcp::talk::Notice;

/// The method.
pub const LISTEN: &str = "subscriptions/listen";

/// The first message of a stream: what of the filter is granted.
pub fn acknowledged(subscription: &RequestId, granted: &Filter) -> String {
    let mut params = tagged(subscription);
    params.set("notifications", write_filter(granted));
    message::notification("notifications/subscriptions/acknowledged", Some(&params.to_raw()))
}

/// Tells of a list that changed.
pub fn list_changed(subscription: &RequestId, kind: ListKind) -> String {
    message::notification(kind.changed(), Some(&tagged(subscription).to_raw()))
}

/// Writes a notice for a subscription; `None` for what a subscription does not carry.
pub fn listened(subscription: &RequestId, notice: &Notice) -> Option<String> {
    let Notice::ResourceUpdated(params) = notice else { return None };
    let mut params = params.clone();
    let meta = params.get("_meta").and_then(|meta| Members::parse(meta.get()).ok());
    let mut meta = meta.unwrap_or_default();
    meta.set(META_SUBSCRIPTION, raw(subscription.as_json().to_owned()));
    params.set("_meta", meta.to_raw());
    Some(message::notification("notifications/resources/updated", Some(&params.to_raw())))
}

/// The `result` that ends a subscription in good order (§ graceful closure).
pub fn end_of_listening(subscription: &RequestId) -> Box<RawValue> {
    let meta = format!(
        "{{{}:{},{}:{SERVER_INFO}}}",
        quote(META_SUBSCRIPTION),
        subscription.as_json(),
        quote(META_SERVER_INFO)
    );
    let mut result = ObjectWriter::default();
    result.member("resultType", r#""complete""#).member("_meta", &meta);
    result.finish()
}

fn tagged(subscription: &RequestId) -> Members {
    let mut params = Members::default();
    params.set("_meta", raw(format!("{{{}:{}}}", quote(META_SUBSCRIPTION), subscription.as_json())));
    params
}

/// What is not wanted is left out.
pub(super) fn write_filter(filter: &Filter) -> Box<RawValue> {
    let mut out = ObjectWriter::default();
    for (name, wanted) in [
        ("toolsListChanged", filter.tools),
        ("promptsListChanged", filter.prompts),
        ("resourcesListChanged", filter.resources),
    ] {
        if wanted {
            out.member(name, "true");
        }
    }
    if !filter.uris.is_empty() {
        out.member("resourceSubscriptions", to_raw(&filter.uris).get());
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_names_its_subscription() {
        let id = RequestId::parse(&raw(r#""l\"1""#.into())).unwrap();
        let filter = Filter { tools: true, resources: true, uris: vec!["a:b".into()], prompts: false };
        assert_eq!(
            acknowledged(&id, &filter),
            r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l\"1"},"notifications":{"toolsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["a:b"]}}}"#
        );
        let id = RequestId::number(1);
        assert_eq!(
            list_changed(&id, ListKind::Templates),
            r#"{"jsonrpc":"2.0","method":"notifications/resources/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1}}}"#
        );
        let updated = r#"{"uri":"a:b","_meta":{"x":1,"io.modelcontextprotocol/subscriptionId":"theirs"}}"#;
        let updated = Notice::ResourceUpdated(Members::parse(updated).unwrap());
        assert_eq!(
            listened(&id, &updated).unwrap(),
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b","_meta":{"x":1,"io.modelcontextprotocol/subscriptionId":1}}}"#
        );
        assert!(listened(&id, &Notice::Log(Members::default())).is_none(), "logs belong to a request");
        let end = end_of_listening(&id);
        let expected = r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":1,"io.modelcontextprotocol/serverInfo":"#;
        assert!(end.get().starts_with(expected), "{}", end.get());
    }
}
