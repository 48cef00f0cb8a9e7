//! Headers of a caller's own request that an operator lets through: to the upstream that names them, with the request that
//! said them, whichever replica holds its session.

use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::{Gateway, Reply};
use serde_json::{Value, json};

/// `one` lets `x-tenant` through, `two` nothing.
async fn scene(eras: Eras) -> (Fixture, Fixture, Gateway) {
    let settings = || Settings { eras, ..Settings::default() };
    let (one, two) = (Fixture::with(settings()).await.unwrap(), Fixture::with(settings()).await.unwrap());
    let section =
        format!("[upstreams.one]\nurl = \"{}\"\nallowed_extra_headers = [\"X-Tenant\", \"X-Trace\"]\n", one.url);
    let gateway = Gateway::builder().section(&section).http_upstream("two", &two.url).key("anna").start().await;
    gateway.until_upstreams_are_up().await;
    (one, two, gateway)
}

/// What an upstream got in this header.
fn got(reply: &Reply, name: &str) -> Option<String> {
    let reply = reply.json();
    let headers = reply["result"]["structuredContent"]["headers"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let header = headers.iter().find(|header| header[0] == name)?;
    Some(header[1].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_header_goes_to_the_upstream_that_lets_it_through_and_to_no_other() {
    for eras in [Eras::Modern, Eras::Legacy] {
        let (_one, _two, gateway) = scene(eras).await;
        let anna = gateway.caller("anna").with("x-tenant", "blue").with("x-else", "e");
        let seen = anna.call("one__whoami", json!({})).await;
        assert_eq!((got(&seen, "x-tenant").as_deref(), got(&seen, "x-else")), (Some("blue"), None), "{eras:?}");
        assert_eq!(got(&seen, "x-trace"), None);
        assert_eq!(got(&anna.call("two__whoami", json!({})).await, "x-tenant"), None);
        let other = gateway.caller("anna").with("x-tenant", "green");
        assert_eq!(got(&other.call("one__whoami", json!({})).await, "x-tenant").as_deref(), Some("green"));
        assert_eq!(got(&gateway.caller("anna").call("one__whoami", json!({})).await, "x-tenant"), None);
        assert!(!seen.text().contains(&Gateway::secret("anna")), "the caller's own key went along");
    }
}

#[tokio::test]
async fn within_a_session_each_request_says_its_own() {
    let (_one, _two, gateway) = scene(Eras::Legacy).await;
    let mut session = gateway.caller("anna").initialize("2025-11-25").await;
    let whoami = || json!({ "name": "one__whoami", "arguments": {} });
    for tenant in ["blue", "green"] {
        session = session.with("x-tenant", tenant);
        assert_eq!(got(&session.request("tools/call", whoami()).await, "x-tenant").as_deref(), Some(tenant));
    }
    let session = session.without("x-tenant");
    assert_eq!(got(&session.request("tools/call", whoami()).await, "x-tenant"), None);
}

#[tokio::test]
async fn what_cannot_be_passed_on_is_refused_and_named() {
    let (_one, _two, gateway) = scene(Eras::Modern).await;
    let long = "x".repeat(1_025);
    for value in [long.as_str(), "a\tb"] {
        let reply = gateway.caller("anna").with("x-tenant", value).call("one__whoami", json!({})).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(reply.text().contains("x-tenant"), "{}", reply.text());
    }
    // Where no upstream wants it, it is nobody's business.
    let reply = gateway.caller("anna").with("x-else", &long).call("one__whoami", json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(reply.json()["result"]["isError"], Value::Bool(true));
}
