//! An HTTP client for testing the upstreams themselves: one request per connection, written and read as bytes.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Status line and headers, in lower case.
    pub(super) head: String,
    /// What came of the body, chunk sizes and all.
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a POST with these extra header lines and leaves the connection open.
pub(super) async fn open(port: u16, headers: &str, body: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Sends a POST and reads until the other side closes or `most` bytes have come.
pub(super) async fn post(port: u16, headers: &str, body: &str, most: u64) -> std::io::Result<Reply> {
    let exchange = async {
        let mut read = Vec::new();
        let stream = open(port, headers, body).await?;
        // A connection that breaks off has said what it had to say.
        let _ = stream.take(most).read_to_end(&mut read).await;
        Ok::<_, std::io::Error>(read)
    };
    let read = tokio::time::timeout(PATIENCE, exchange).await??;
    let end = read.windows(4).position(|window| window == b"\r\n\r\n").map_or(read.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Reply { status, head, body: read[end..].to_vec() })
}
