//! The official Rust SDK as the caller, in each of its lifecycles: an independent reader of what the gateway writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, ProgressNotificationParam, ProtocolVersion,
};
use ::rmcp::service::{ClientInitializeError, NotificationContext, PeerRequestOptions, RunningService, ServiceError};
use ::rmcp::transport::StreamableHttpClientTransport;
use ::rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use ::rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt as _, RoleClient};
use http::{HeaderName, HeaderValue};
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::upstreams::hostile::{Behaviour, Hostile};
use portcullis_tests::{Gateway, program};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::scene;

/// Remembers the progress that it was told of.
#[derive(Clone, Default)]
struct Client {
    progress: Arc<Mutex<Vec<ProgressNotificationParam>>>,
}

impl ClientHandler for Client {
    async fn on_progress(&self, params: ProgressNotificationParam, _context: NotificationContext<RoleClient>) {
        self.progress.lock().await.push(params);
    }
}

type Connected = RunningService<RoleClient, Client>;

fn lifecycles() -> [(&'static str, ClientLifecycleMode, &'static str); 3] {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    [
        ("initialize", ClientLifecycleMode::Initialize, "2025-11-25"),
        ("discover", ClientLifecycleMode::Discover { preferred_versions: preferred_versions.clone() }, "2026-07-28"),
        ("auto", ClientLifecycleMode::Auto { preferred_versions, legacy_version: None }, "2026-07-28"),
    ]
}

async fn try_connect(
    gateway: &Gateway,
    secret: Option<&str>,
    lifecycle: ClientLifecycleMode,
) -> Result<Connected, ClientInitializeError> {
    let header = |secret| (HeaderName::from_static("x-portcullis-key"), HeaderValue::try_from(secret).unwrap());
    let headers: HashMap<_, _> = secret.map(header).into_iter().collect();
    let config = StreamableHttpClientTransportConfig::with_uri(gateway.url()).custom_headers(headers);
    Client::default().serve_with_lifecycle(StreamableHttpClientTransport::from_config(config), lifecycle).await
}

async fn connect(gateway: &Gateway, lifecycle: ClientLifecycleMode) -> Connected {
    try_connect(gateway, Some(&Gateway::secret("alice")), lifecycle).await.expect("the client connects")
}

fn call(tool: &'static str, arguments: Value) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    CallToolRequestParams::new(tool).with_arguments(arguments)
}

/// A gateway with an upstream over HTTP, `web`, and one over stdio, `child`.
async fn both_transports() -> (Fixture, Gateway) {
    let web = Fixture::start().await;
    let child = program("fixture-upstream");
    let builder =
        Gateway::builder().http_upstream("web", &web.url).stdio_upstream("child", &[child.to_str().unwrap(), "stdio"]);
    let gateway = builder.key("alice").section("[limits]\nlist_page = 7").start().await;
    gateway.until_upstreams_are_up().await;
    (web, gateway)
}

#[tokio::test]
async fn a_client_connects_in_each_lifecycle() {
    let (_up, gateway) = scene().await;
    for (name, lifecycle, version) in lifecycles() {
        let client = connect(&gateway, lifecycle).await;
        let info = client.peer().peer_info().expect("the server introduced itself");
        assert_eq!(info.protocol_version.as_str(), version, "{name}");
        assert_eq!(info.server_info.as_ref().unwrap().name, "portcullis", "{name}");
        assert!(info.capabilities.tools.is_some(), "{name}");
        let (resources, has_logging) = (info.capabilities.resources.as_ref(), info.capabilities.logging.is_some());
        assert!(
            info.capabilities.prompts.is_some() && resources.is_some_and(|resources| resources.subscribe == Some(true)),
            "{name}"
        );
        assert!(!has_logging, "{name}: what no upstream has is not offered");
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_lists_all_pages_and_calls() {
    let (_web, gateway) = both_transports().await;
    let expected = gateway.caller("alice").tool_names().await;
    assert!(expected.len() > 14, "more than two pages");
    for (name, lifecycle, _) in lifecycles() {
        let client = connect(&gateway, lifecycle).await;
        let tools = client.list_all_tools().await.unwrap();
        let names: Vec<&str> = tools.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, expected, "{name}");
        for (echo, image, failing) in [
            ("web__echo", "web__test_image_content", "web__test_error_handling"),
            ("child__echo", "child__test_image_content", "child__test_error_handling"),
        ] {
            let result = client.call_tool(call(echo, json!({ "text": "hello" }))).await.unwrap();
            assert_eq!(result.structured_content, Some(json!({ "text": "hello" })), "{name} {echo}");
            let result = client.call_tool(call(image, json!({}))).await.unwrap();
            assert_eq!(result.content[0].as_image().unwrap().mime_type, "image/png", "{name} {image}");
            let result = client.call_tool(call(failing, json!({}))).await.unwrap();
            assert_eq!(result.is_error, Some(true), "{name} {failing}");
        }
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_is_told_the_progress_of_its_call() {
    let (_web, gateway) = both_transports().await;
    for (name, lifecycle, _) in lifecycles() {
        let client = connect(&gateway, lifecycle).await;
        for tool in ["web__test_tool_with_progress", "child__test_tool_with_progress"] {
            let told = client.service().progress.clone();
            told.lock().await.clear();
            let request = ClientRequest::CallToolRequest(CallToolRequest::new(call(tool, json!({}))));
            let under_way =
                client.peer().send_request_with_option(request, PeerRequestOptions::no_options()).await.unwrap();
            let token = under_way.progress_token.clone();
            under_way.await_response().await.unwrap();
            // The answer may overtake what the client still hands to its handler.
            let handled = async {
                while told.lock().await.len() < 3 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), handled).await.expect("all progress is told");
            let told = told.lock().await;
            let progress: Vec<f64> = told.iter().map(|params| params.progress).collect();
            assert_eq!(progress, [0.0, 50.0, 100.0], "{name} {tool}");
            assert!(told.iter().all(|params| params.progress_token == token), "{name} {tool}: {told:?} for {token:?}");
        }
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_reads_refusals_as_errors_of_the_protocol() {
    let up = Hostile::start(Behaviour::ErrorWithExtras).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    for (name, lifecycle, version) in lifecycles() {
        let client = connect(&gateway, lifecycle).await;
        let code = async |tool: &'static str| match client.call_tool(call(tool, json!({}))).await {
            Err(ServiceError::McpError(error)) => (error.code.0, error.message.to_string()),
            other => panic!("{name} {tool}: {other:?}"),
        };
        assert_eq!(code("up__none").await, (-32602, "unknown tool: up__none".to_owned()), "{name}");
        // 2026-07-28 keeps that code for itself (basic § error codes).
        let expected = if version == "2026-07-28" { -32603 } else { -32050 };
        assert_eq!(code("up__error_with_extras").await, (expected, "No.".to_owned()), "{name}");
        // The client goes on after an error.
        assert_eq!(client.list_all_tools().await.unwrap().len(), 1, "{name}");
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_without_a_valid_key_learns_that_it_needs_one() {
    let (_up, gateway) = scene().await;
    for (name, lifecycle, _) in lifecycles() {
        for secret in [None, Some("pk_wrong-0123456789abcdef0123456789abcdef")] {
            let error = try_connect(&gateway, secret, lifecycle.clone()).await.map(|_| ()).unwrap_err();
            assert!(error.is_authorization_required(), "{name}: {error:?}");
        }
    }
}

#[tokio::test]
async fn dropping_a_call_cancels_it_at_the_upstream() {
    let (up, gateway) = scene().await;
    for (at, (_, lifecycle, _)) in lifecycles().into_iter().enumerate() {
        let client = connect(&gateway, lifecycle).await;
        tokio::select! {
            result = client.call_tool(call("up__slow", json!({ "ms": 60_000 }))) => panic!("{result:?}"),
            _ = up.until(|stats| stats.under_way == 1) => {}
        }
        up.until(|stats| stats.cancelled == at + 1 && stats.under_way == 0).await;
        // The connection is still good.
        client.call_tool(call("up__counter", json!({}))).await.unwrap();
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn calls_of_one_client_do_not_mix() {
    let (_web, gateway) = both_transports().await;
    for (name, lifecycle, _) in lifecycles() {
        let client = connect(&gateway, lifecycle).await;
        let mut calls = JoinSet::new();
        for number in 0..50 {
            let peer = client.peer().clone();
            let tool = if number % 2 == 0 { "web__echo" } else { "child__echo" };
            calls.spawn(async move { (number, peer.call_tool(call(tool, json!({ "number": number }))).await) });
        }
        while let Some(called) = calls.join_next().await {
            let (number, result) = called.unwrap();
            assert_eq!(result.unwrap().structured_content, Some(json!({ "number": number })), "{name}");
        }
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_whose_session_ended_opens_another() {
    let (_up, gateway) = scene().await;
    let client = connect(&gateway, ClientLifecycleMode::Initialize).await;
    assert_eq!(
        client.call_tool(call("up__echo", json!({ "n": 1 }))).await.unwrap().structured_content,
        Some(json!({ "n": 1 }))
    );
    gateway.clock.advance(Duration::from_secs(60 * 60));
    assert_eq!(
        client.call_tool(call("up__echo", json!({ "n": 2 }))).await.unwrap().structured_content,
        Some(json!({ "n": 2 }))
    );
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn a_modern_client_reaches_an_upstream_that_knows_only_sessions() {
    let up = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    for (name, lifecycle, _) in lifecycles() {
        let client = connect(&gateway, lifecycle).await;
        let result = client.call_tool(call("up__echo", json!({ "n": 1 }))).await.unwrap();
        assert_eq!(result.structured_content, Some(json!({ "n": 1 })), "{name}");
        client.cancel().await.unwrap();
    }
}
