//! The examples over real sockets, asked with requests written by hand, so that nothing of a client library hides
//! what is on the wire.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use portcullis_example_upstreams::{Example, serve_http};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const MODERN: &str = "MCP-Protocol-Version: 2026-07-28\r\n";

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinSet<std::io::Result<()>>,
}

impl Running {
    async fn start(example: Example) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut server = JoinSet::new();
        server.spawn(serve_http(listener, example, async {
            let _ = stopped.await;
        }));
        Self { address, stop, server }
    }

    /// Sends one request with these extra header lines; returns the status, the head and the body.
    async fn send(&self, method: &str, headers: &str, body: &str) -> (u16, String, Value) {
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let request = format!(
            "{method} /mcp HTTP/1.1\r\n{host}Content-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn open_session(&self) -> String {
        let hello = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "0" }
        });
        let (status, head, answer) = self.send("POST", "", &message(1, "initialize", hello)).await;
        assert_eq!((status, &answer["result"]["protocolVersion"]), (200, &json!("2025-11-25")));
        let id = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap().to_owned();
        format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
    }
}

#[expect(clippy::needless_pass_by_value, reason = "called with literals")]
fn message(id: u64, method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

fn stateless(id: u64, method: &str, mut params: Value) -> String {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}
    });
    message(id, method, params)
}

#[tokio::test]
async fn a_session_lives_from_initialize_to_delete() {
    let running = Running::start(Example::Notes).await;
    let session = running.open_session().await;

    let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(running.send("POST", &session, initialized).await.0, 202);
    let (status, _, answer) = running.send("POST", &session, &message(2, "tools/list", json!({}))).await;
    assert_eq!((status, answer["result"]["tools"].as_array().unwrap().len()), (200, 5));
    let read = message(3, "tools/call", json!({ "name": "read_note", "arguments": { "id": "note-2" } }));
    let (_, _, answer) = running.send("POST", &session, &read).await;
    assert_eq!(answer["id"], 3);
    assert!(answer["result"]["structuredContent"]["text"].as_str().unwrap().contains("sk-test-"));

    assert_eq!(running.send("GET", &session, "").await.0, 405);
    assert_eq!(running.send("DELETE", &session, "").await.0, 204);
    assert_eq!(running.send("POST", &session, &read).await.0, 404);
    assert_eq!(running.send("POST", "", &read).await.0, 400);
}

#[tokio::test]
async fn a_stateless_client_needs_no_session() {
    let running = Running::start(Example::Tracker).await;
    let (status, head, answer) = running
        .send("POST", &format!("{MODERN}Mcp-Method: server/discover\r\n"), &stateless(1, "server/discover", json!({})))
        .await;
    assert_eq!((status, &answer["result"]["supportedVersions"]), (200, &json!(["2026-07-28"])));
    assert!(!head.contains("mcp-session-id"));
    let call = stateless(0, "tools/call", json!({ "name": "get_issue", "arguments": { "number": 3 } }));
    let (status, _, answer) =
        running.send("POST", &format!("{MODERN}Mcp-Method: tools/call\r\nMcp-Name: get_issue\r\n"), &call).await;
    assert_eq!((status, &answer["id"], &answer["result"]["resultType"]), (200, &json!(0), &json!("complete")));
}

#[tokio::test]
async fn requests_that_break_a_rule_are_refused() {
    let running = Running::start(Example::Notes).await;
    let session = running.open_session().await;
    let ping = message(1, "ping", json!({}));
    let list = stateless(1, "tools/list", json!({}));
    let call = stateless(1, "tools/call", json!({ "name": "list_notes" }));
    let removed = stateless(1, "initialize", json!({}));
    let bare = message(1, "server/discover", json!({}));
    let future = list.replace("2026-07-28", "2031-01-01");
    let long = format!("{{\"padding\":\"{}\"}}", "x".repeat(300_000));
    let cases: &[(String, &str, u16, Option<i64>)] = &[
        (format!("{session}Host: evil.example\r\n"), &ping, 403, Some(-32000)),
        (format!("{session}Origin: https://evil.example\r\n"), &ping, 403, Some(-32000)),
        (format!("{session}Origin: http://localhost:3000\r\n"), &ping, 200, None),
        (session.replace("2025-11-25", "2023-01-01"), &ping, 400, Some(-32602)),
        (session.clone(), "{", 400, Some(-32700)),
        (session.clone(), "[]", 400, Some(-32600)),
        (session.clone(), &long, 413, None),
        (format!("{MODERN}Mcp-Method: tools/list\r\n"), &list, 200, None),
        (MODERN.into(), &list, 400, Some(-32020)),
        ("Mcp-Method: tools/list\r\n".into(), &list, 400, Some(-32020)),
        (format!("{MODERN}Mcp-Method: TOOLS/LIST\r\n"), &list, 400, Some(-32020)),
        (format!("{MODERN}Mcp-Method: tools/call\r\nMcp-Name: read_note\r\n"), &call, 400, Some(-32020)),
        (format!("{MODERN}Mcp-Method: tools/call\r\nMcp-Name:  list_notes  \r\n"), &call, 200, None),
        (format!("{MODERN}Mcp-Method: initialize\r\n"), &removed, 404, Some(-32601)),
        (format!("{MODERN}Mcp-Method: server/discover\r\n"), &bare, 400, Some(-32602)),
        ("MCP-Protocol-Version: 2031-01-01\r\nMcp-Method: tools/list\r\n".into(), &future, 400, Some(-32022)),
    ];
    for (headers, body, status, code) in cases {
        let (seen, _, answer) = running.send("POST", headers, body).await;
        let about = format!("{headers}{}", &body[..body.len().min(200)]);
        assert_eq!((seen, answer["error"]["code"].as_i64()), (*status, *code), "{about}");
    }
}

#[tokio::test]
async fn the_server_ends_when_it_is_told_to() {
    let Running { address, stop, mut server } = Running::start(Example::Notes).await;
    stop.send(()).unwrap();
    server.join_next().await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve_http(listener, Example::Notes, std::future::pending()).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
