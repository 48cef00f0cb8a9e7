//! A connection that stays open from one request to the next, as clients keep theirs.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a harness fails loudly, and its tasks end with the test"
)]

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::header::{HOST, HeaderName};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::caller::Reply;

/// One connection to the public listener.
pub struct Connection {
    address: SocketAddr,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::try_open(address).await.expect("the gateway accepts connections")
    }

    /// # Errors
    /// If nobody accepts it.
    pub async fn try_open(address: SocketAddr) -> anyhow::Result<Self> {
        Self::try_open_from(Ipv4Addr::LOCALHOST, address).await
    }

    /// The same from another address of this machine: to the gateway, somebody else's.
    ///
    /// # Errors
    /// If nobody accepts it.
    pub async fn try_open_from(own: Ipv4Addr, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((own, 0).into())?;
        let stream = socket.connect(address).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    /// Sends a request and reads the whole answer. `Host` is the address unless the headers say another.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.try_send(method, path, headers, body).await.expect("the gateway answers")
    }

    /// # Errors
    /// If the connection ends before the answer has.
    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Reply> {
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        *request.uri_mut() = path.parse()?;
        let own = request.headers_mut();
        own.insert(HOST, HeaderValue::try_from(self.address.to_string()).unwrap());
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            let value = HeaderValue::try_from(*value)?;
            if name == HOST {
                own.insert(name, value);
            } else {
                own.append(name, value);
            }
        }
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }
}

/// Sends one request on a connection of its own.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    Connection::open(address).await.send(method, path, headers, body).await
}
