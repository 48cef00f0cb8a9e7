//! A small MCP server of revision 2026-07-28, for tests beside the code that say themselves what it answers.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::tasks::Tasks;

/// What comes of a request.
pub(crate) enum Says {
    Result(Value),
    Unauthorized,
    /// The connection ends.
    Nothing,
    /// The connection stays, without an answer.
    Waits,
}

/// The URL of a server that runs until the tasks stop. Each connection has one request: its head and its message.
pub(crate) async fn serve(tasks: &Tasks, answer: impl Fn(&str, &Value) -> Says + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let (serving, answer) = (tasks.clone(), Arc::new(answer));
    tasks.spawn(tasks.stopping().clone().run_until_cancelled_owned(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let answer = answer.clone();
            let answering = async move { reply(socket, &*answer).await };
            serving.spawn(serving.stopping().clone().run_until_cancelled_owned(answering));
        }
    }));
    url
}

/// What a server says of itself.
pub(crate) fn about(name: &str, capabilities: &Value) -> Value {
    let server = json!({ "name": name, "version": "1" });
    json!({ "supportedVersions": ["2026-07-28"], "capabilities": capabilities, "serverInfo": server, "resultType": "complete" })
}

async fn reply(mut socket: TcpStream, answer: impl Fn(&str, &Value) -> Says) {
    let Some((head, message)) = read(&mut socket).await else { return };
    let (status, text) = match answer(&head, &message) {
        Says::Result(result) => {
            ("200 OK", json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string())
        }
        Says::Unauthorized => ("401 Unauthorized", String::new()),
        Says::Nothing => return,
        Says::Waits => {
            // Until the other end leaves.
            while socket.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            return;
        }
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", text.len());
    _ = socket.write_all(format!("{head}connection: close\r\n\r\n{text}").as_bytes()).await;
}

/// One request, if the other end stays for so long.
async fn read(socket: &mut TcpStream) -> Option<(String, Value)> {
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        seen.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&seen);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if body.len() >= length.parse().unwrap() {
            return Some((head.to_owned(), serde_json::from_str(body).unwrap_or_default()));
        }
    }
}
