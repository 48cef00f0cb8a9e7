//! The official Rust SDK as a program that signs in: it says which address a person has to visit, waits at a port of
//! loopback for the browser to come back, calls a tool, renews its token, and calls again.
//!
//! `rmcp-client URL TOOL` prints one line for each of these.

#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rmcp::model::CallToolRequestParams;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{AuthClient, AuthorizationRequest, OAuthState};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ServiceExt as _};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

#[derive(Clone)]
struct Client;

impl ClientHandler for Client {}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (url, tool) = arguments.next().zip(arguments.next()).context("rmcp-client URL TOOL")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let home = format!("http://{}", listener.local_addr()?);
    let mut state = OAuthState::new(url.as_str(), None).await?;
    let wanted = AuthorizationRequest::new(format!("{home}/callback")).with_client_name("rmcp");
    state.start_authorization(wanted).await?;
    println!("visit {}", state.get_authorization_url().await?);
    let target = returned(&listener).await?;
    state.handle_callback_url(&format!("{home}{target}")).await?;
    let manager = state.into_authorization_manager().context("it is not authorized")?;
    let first = manager.get_access_token().await?;
    let client = AuthClient::new(reqwest::Client::default(), manager);
    let manager = Arc::clone(&client.auth_manager);
    let transport =
        StreamableHttpClientTransport::with_client(client, StreamableHttpClientTransportConfig::with_uri(url));
    let service = Client.serve(transport).await?;
    let call = async |text: &str| {
        let arguments = json!({ "text": text }).as_object().cloned().unwrap_or_default();
        let result = service.call_tool(CallToolRequestParams::new(tool.clone()).with_arguments(arguments)).await?;
        println!("called {}", result.structured_content.unwrap_or_default());
        anyhow::Ok(())
    };
    call("hello").await?;
    manager.lock().await.refresh_token().await?;
    ensure!(manager.lock().await.get_access_token().await? != first, "the token is the same as before");
    println!("renewed");
    call("again").await?;
    service.cancel().await?;
    Ok(())
}

/// What a browser asks for that was sent back: the path with its query.
async fn returned(listener: &TcpListener) -> anyhow::Result<String> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 24\r\nConnection: close\r\n\r\nYou can close this page.";
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let target = line.split(' ').nth(1).unwrap_or_default();
        if target.starts_with("/callback") {
            return Ok(target.to_owned());
        }
    }
}
