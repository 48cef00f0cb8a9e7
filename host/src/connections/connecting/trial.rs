//! Values for headers tried at their upstream: as if it had them, it is asked what it offers.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::future::BoxFuture;

use super::{Failed, Trial};
use crate::config::{self, UpstreamAuth, UpstreamTransport};
use crate::outbound::Outbound;
use crate::secret::Plaintext;
use crate::tasks::Tasks;
use crate::upstream::{Upstream, UpstreamError};

/// Tries values where they are meant for.
pub struct AtUpstream {
    pub outbound: Outbound,
    pub limits: config::Limits,
    pub tasks: Tasks,
}

impl fmt::Debug for AtUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtUpstream").finish_non_exhaustive()
    }
}

impl Trial for AtUpstream {
    fn try_headers<'a>(
        &'a self,
        upstream: &'a config::Upstream,
        headers: &'a BTreeMap<String, Plaintext>,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let UpstreamTransport::StreamableHttp { headers: fixed, .. } = &upstream.transport else {
                return Err(Failed { status: None });
            };
            let mut all = fixed.clone();
            all.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
            let mut settings = config::Upstream { auth: UpstreamAuth::None, ..upstream.clone() };
            if let UpstreamTransport::StreamableHttp { headers, .. } = &mut settings.transport {
                *headers = all;
            }
            let secured = settings.tls.as_ref().map(|tls| self.outbound.secured(tls));
            let outbound = secured.as_ref().unwrap_or(&self.outbound);
            let tried = Upstream::try_once(settings, outbound, &self.limits, &self.tasks).await;
            tried.map_err(|error| match error {
                UpstreamError::Status { status } => Failed { status: Some(status) },
                _ => Failed { status: None },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::env::Env;

    /// Answers one request of MCP if the key is right.
    async fn answer(mut socket: TcpStream) {
        let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
        let body = loop {
            let read = socket.read(&mut piece).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            seen.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&seen).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                break body.to_owned();
            }
        };
        let is_right = String::from_utf8_lossy(&seen).contains("x-api-key: k\r\n");
        let id = serde_json::from_str::<Value>(&body).map(|body| body["id"].clone()).unwrap_or_default();
        let server = json!({ "name": "keyed", "version": "1" });
        let result = json!({ "supportedVersions": ["2026-07-28"], "capabilities": {}, "serverInfo": server });
        let (status, text) = match is_right {
            true => ("200 OK", json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()),
            false => ("401 Unauthorized", String::new()),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", text.len());
        socket.write_all(format!("{head}connection: close\r\n\r\n{text}").as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn values_are_tried_as_the_upstream_would_get_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let tasks = Tasks::new();
        let serving = tasks.clone();
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                serving.spawn(answer(socket));
            }
        });
        let text = format!("[upstreams.keyed]\nurl = '{url}'\n");
        let config = config::parse(&text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
        let trial = AtUpstream { outbound: Outbound::new(), limits: config.limits.clone(), tasks: Tasks::new() };
        let tried = async |upstream: &config::Upstream, key: &str| {
            let values = [("x-api-key".to_owned(), Plaintext::new(key))].into();
            trial.try_headers(upstream, &values).await
        };
        let keyed = &config.upstreams[0];
        assert_eq!(tried(keyed, "k").await, Ok(()));
        assert_eq!(tried(keyed, "wrong").await, Err(Failed { status: Some(401) }));
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let text = format!("[upstreams.keyed]\nurl = 'http://{nobody}/mcp'\n");
        let config = config::parse(&text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
        assert_eq!(tried(&config.upstreams[0], "k").await, Err(Failed { status: None }));
    }
}
