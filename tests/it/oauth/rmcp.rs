//! The official Rust SDK as a client that signs in: it discovers, registers, checks what it is told, and refreshes.

use std::sync::Arc;

use ::rmcp::model::CallToolRequestParams;
use ::rmcp::transport::StreamableHttpClientTransport;
use ::rmcp::transport::auth::{AuthClient, AuthorizationRequest, OAuthState};
use ::rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use ::rmcp::{ClientHandler, ServiceExt as _};
use portcullis_tests::oauth::Browser;
use portcullis_tests::oauth::client::CALLBACK;
use serde_json::json;

use super::{AFTER_ACCESS, EVERYBODY, choose, scene};

#[derive(Clone)]
struct Client;

impl ClientHandler for Client {}

#[tokio::test]
async fn it_signs_in_as_everybody_calls_and_refreshes() {
    let (_up, gateway) = scene().await;
    for who in EVERYBODY {
        for endpoint in ["/mcp", "/mcp/up"] {
            let url = format!("http://{}{endpoint}", gateway.public);
            let mut state = OAuthState::new(url.as_str(), None).await.unwrap();
            state.start_authorization(AuthorizationRequest::new(CALLBACK).with_client_name("rmcp")).await.unwrap();
            let begun = state.get_authorization_url().await.unwrap();
            let mut browser = Browser::new(gateway.public);
            let page = browser.get(&begun).await;
            let page = choose(&mut browser, page, who).await;
            let page = browser.submit(&page.form("/finish")).await;
            // It compares state and issuer itself.
            state.handle_callback_url(&page.url).await.unwrap_or_else(|error| panic!("{who:?} {endpoint}: {error}"));
            let manager = state.into_authorization_manager().expect("it is authorized");
            let first = manager.get_access_token().await.unwrap();
            let client = AuthClient::new(reqwest::Client::default(), manager);
            let manager = Arc::clone(&client.auth_manager);
            let config = StreamableHttpClientTransportConfig::with_uri(url);
            let service = Client.serve(StreamableHttpClientTransport::with_client(client, config)).await.unwrap();
            let echo = if endpoint == "/mcp" { "up__echo" } else { "echo" };
            let call = async || {
                let arguments = json!({ "text": "hello" }).as_object().unwrap().clone();
                service.call_tool(CallToolRequestParams::new(echo).with_arguments(arguments)).await
            };
            assert_eq!(
                call().await.unwrap().structured_content,
                Some(json!({ "text": "hello" })),
                "{who:?} {endpoint}"
            );
            // The gateway's clock goes on, the client's does not: it hears of it by a 401, or is told to refresh.
            gateway.clock.advance(AFTER_ACCESS);
            manager.lock().await.refresh_token().await.unwrap();
            assert_eq!(
                call().await.unwrap().structured_content,
                Some(json!({ "text": "hello" })),
                "{who:?} {endpoint}"
            );
            assert_ne!(manager.lock().await.get_access_token().await.unwrap(), first);
            service.cancel().await.unwrap();
        }
    }
}

/// It refuses what a mixed-up answer would be, and the gateway gives it no cause.
#[tokio::test]
async fn it_is_told_when_a_person_says_no() {
    let (_up, gateway) = scene().await;
    let mut state = OAuthState::new(gateway.url().as_str(), None).await.unwrap();
    state.start_authorization(AuthorizationRequest::new(CALLBACK)).await.unwrap();
    let url = state.get_authorization_url().await.unwrap();
    let mut browser = Browser::new(gateway.public);
    let page = browser.get(&url).await;
    let page = browser.submit(&page.form("/cancel")).await;
    assert_eq!(page.told("error").as_deref(), Some("access_denied"), "{page}");
    assert!(state.handle_callback_url(&page.url).await.is_err());
}
