//! The door that all listeners have: whose host and whose pages are answered, how a request is framed, and which paths
//! and methods there are.

use std::net::SocketAddr;

use http::StatusCode;
use portcullis_tests::gateway::SOON;
use portcullis_tests::{Caller, Gateway};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::scene;

/// Sends bytes on a connection of their own and reads until the other side closes it: status line, headers and body.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let exchanging = async {
        // The other side may refuse and close before it has read everything.
        _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(SOON, exchanging).await.expect("the connection ends")
}

pub(super) async fn exchange_tcp(address: SocketAddr, text: &str) -> String {
    exchange(TcpStream::connect(address).await.unwrap(), text.as_bytes()).await
}

pub(super) fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no status in {answer:?}"))
}

/// A caller at either TCP listener that would be answered, were it not for what a test changes.
fn welcome_at(gateway: &Gateway, listener: &str) -> (Caller, &'static str, &'static str) {
    match listener {
        "public" => (Caller::new(gateway.public, None), "GET", "/healthz"),
        _ => {
            let token = std::fs::read_to_string(gateway.dir.path().join("data/operator-token")).unwrap();
            (Caller::new(gateway.admin, Some(token.trim().to_owned())), "GET", "/api/v1/status")
        }
    }
}

#[tokio::test]
async fn a_foreign_host_is_refused_on_every_listener() {
    let (_up, gateway) = scene().await;
    for listener in ["public", "admin"] {
        let (caller, method, path) = welcome_at(&gateway, listener);
        assert_eq!(caller.send(method, path, "").await.status, StatusCode::OK, "{listener}");
        for host in [
            "evil.example",
            "evil.example:7400",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
        ] {
            let (caller, ..) = welcome_at(&gateway, listener);
            let caller = caller.with("host", host);
            for path in [path, "/mcp", "/none"] {
                assert_eq!(
                    caller.send(method, path, "").await.status,
                    StatusCode::FORBIDDEN,
                    "{listener} {host} {path}"
                );
            }
        }
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80"] {
            let (caller, ..) = welcome_at(&gateway, listener);
            assert_eq!(
                caller.with("host", host).send(method, path, "").await.status,
                StatusCode::OK,
                "{listener} {host}"
            );
        }
    }
}

#[tokio::test]
async fn a_foreign_origin_is_refused_on_every_listener() {
    let (_up, gateway) = scene().await;
    let foreign = [
        "https://evil.example",
        "null",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "file://",
        "http://evil.example:7400",
        "",
    ];
    for listener in ["public", "admin"] {
        for origin in foreign {
            let (caller, method, path) = welcome_at(&gateway, listener);
            let caller = caller.with("origin", origin);
            assert_eq!(caller.send(method, path, "").await.status, StatusCode::FORBIDDEN, "{listener} {origin:?}");
        }
        for origin in ["http://localhost:6274", "http://127.0.0.1", &format!("http://{}", gateway.public)] {
            let (caller, method, path) = welcome_at(&gateway, listener);
            let reply = caller.with("origin", origin).send(method, path, "").await;
            assert_eq!(reply.status, StatusCode::OK, "{listener} {origin}");
            assert!(!reply.headers.contains_key("access-control-allow-origin"), "no page is let in by the gateway");
        }
    }
    // No web page can open the admin socket, so that whoever sends an `Origin` there is up to something.
    for origin in ["http://localhost", "null"] {
        let request =
            format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n");
        let answer = exchange(UnixStream::connect(&gateway.socket).await.unwrap(), request.as_bytes()).await;
        assert_eq!(status(&answer), 403, "{origin}");
    }
}

#[tokio::test]
async fn a_call_from_a_foreign_page_reaches_nobody() {
    let (up, gateway) = scene().await;
    for (name, value) in [("host", "evil.example"), ("origin", "https://evil.example")] {
        let reply = gateway.caller("alice").with(name, value).call("up__echo", json!({})).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{name}");
    }
    assert_eq!(up.stats().calls, 0);
}

#[tokio::test]
async fn hosts_and_origins_of_the_configuration_are_welcome() {
    let edge = "[edge]\nallowed_hosts = [\"mcp.internal\"]\nallowed_origins = [\"https://app.example.com\"]";
    let gateway = Gateway::builder().section(edge).start().await;
    let get = async |name: &'static str, value: &str| {
        gateway.stranger().with(name, value).send("GET", "/healthz", "").await.status
    };
    assert_eq!(get("host", "mcp.internal:8443").await, StatusCode::OK);
    assert_eq!(get("host", "app.example.com").await, StatusCode::FORBIDDEN);
    assert_eq!(get("origin", "https://app.example.com").await, StatusCode::OK);
    assert_eq!(get("origin", "http://app.example.com").await, StatusCode::FORBIDDEN);
    assert_eq!(get("origin", "https://mcp.internal").await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_request_that_names_no_host_or_two_is_refused() {
    let (_up, gateway) = scene().await;
    for address in [gateway.public, gateway.admin] {
        for hosts in [
            String::new(),
            format!("Host: {address}\r\nHost: {address}\r\n"),
            format!("Host: {address}\r\nHost: evil.example\r\n"),
            "Host: \r\n".to_owned(),
            "Host: a b\r\n".to_owned(),
        ] {
            let answer =
                exchange_tcp(address, &format!("GET /healthz HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
            assert_eq!(status(&answer), 400, "{hosts:?}");
        }
    }
}

#[tokio::test]
async fn a_body_with_two_lengths_is_refused() {
    let (_up, gateway) = scene().await;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
        gateway.public,
        Gateway::secret("alice")
    );
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
    ] {
        let answer = exchange_tcp(
            gateway.public,
            &format!("{head}{framing}\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.public),
        )
        .await;
        assert_eq!(status(&answer), 400, "{framing}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "what stands behind it is no request: {answer}");
    }
}

#[tokio::test]
async fn other_methods_and_paths_lead_nowhere() {
    let (_up, gateway) = scene().await;
    for method in ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE"] {
        assert_eq!(
            gateway.caller("alice").send(method, "/mcp", "").await.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method}"
        );
    }
    for path in ["/mcp/", "/", "/MCP", "//mcp", "/mcp/../mcp", "/%6dcp"] {
        assert_eq!(gateway.caller("alice").send("POST", path, "{}").await.status, StatusCode::NOT_FOUND, "{path}");
    }
}
