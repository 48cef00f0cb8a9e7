//! The floor: a reverse proxy that copies and does nothing else. HTTP/1.1 in, pooled HTTP/1.1 out, bodies streamed both
//! ways, headers as they are but for those that belong to one connection (RFC 9110 § 7.6.1).
//!
//! It has no limits, no timeouts and no opinions: whatever a gateway costs more is what its work costs.

#![expect(clippy::disallowed_methods, reason = "its tasks end with it, and it opens connections outward by itself")]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{
    CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Belong to one connection, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Before the next attempt to accept where one failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// A running floor proxy; it ends, connections and all, when it is dropped.
#[derive(Debug)]
pub struct FloorProxy {
    pub address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl FloorProxy {
    /// Starts one at `listen` (port 0 takes a free one) in front of the upstream at `upstream`.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub async fn start(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(serve(listener, upstream));
        Ok(Self { address, _accepting: accepting })
    }
}

/// Serves until it is dropped.
async fn serve(listener: TcpListener, upstream: SocketAddr) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    let authority = Authority::try_from(upstream.to_string()).expect("a socket address is an authority");
    let host = HeaderValue::try_from(authority.as_str()).expect("an authority is visible ASCII");
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            continue;
        };
        let (client, authority, host) = (client.clone(), authority.clone(), host.clone());
        connections.spawn(async move {
            _ = stream.set_nodelay(true);
            let service = service_fn(|request| forward(&client, &authority, &host, request));
            // What goes wrong on a connection is the other side's to notice.
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

type Reply = Response<Either<Incoming, Empty<Bytes>>>;

async fn forward(
    client: &Client<HttpConnector, Incoming>,
    upstream: &Authority,
    host: &HeaderValue,
    mut request: Request<Incoming>,
) -> Result<Reply, Infallible> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(upstream.clone());
    uri.path_and_query = Some(request.uri().path_and_query().map_or(PathAndQuery::from_static("/"), Clone::clone));
    *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are there");
    remove_hop_by_hop(request.headers_mut());
    request.headers_mut().insert(HOST, host.clone());
    Ok(match client.request(request).await {
        Ok(mut response) => {
            remove_hop_by_hop(response.headers_mut());
            response.map(Either::Left)
        }
        Err(_) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;
    use crate::caller::Caller;
    use crate::upstreams::fixture::Fixture;

    async fn start(upstream: SocketAddr) -> FloorProxy {
        FloorProxy::start((Ipv4Addr::LOCALHOST, 0).into(), upstream).await.unwrap()
    }

    fn address(fixture: &Fixture) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, fixture.port).into()
    }

    #[tokio::test]
    async fn answers_come_through_to_the_byte() {
        let fixture = Fixture::start().await;
        let floor = start(address(&fixture)).await;
        let (direct, through) = (Caller::new(address(&fixture), None), Caller::new(floor.address, None));
        for (tool, arguments) in
            [("echo", json!({ "a": [1, "é"] })), ("blob", json!({ "size": 3_000_000 })), ("no_such_tool", json!({}))]
        {
            let (expected, reply) =
                (direct.call(tool, arguments.clone()).await, through.call(tool, arguments.clone()).await);
            assert_eq!((reply.status, &reply.body), (expected.status, &expected.body), "{tool}");
            assert_eq!(reply.headers["content-type"], expected.headers["content-type"]);
        }
    }

    #[tokio::test]
    async fn a_session_of_the_older_era_goes_through_from_its_beginning_to_its_end() {
        let fixture = Fixture::start().await;
        let floor = start(address(&fixture)).await;
        let session = Caller::new(floor.address, None).initialize("2025-11-25").await;
        assert_eq!(fixture.sessions(), 1);
        let reply = session.request("tools/call", json!({ "name": "blob", "arguments": { "size": 3 } })).await;
        assert_eq!(reply.json()["result"]["content"][0]["text"], "000");
        assert_eq!(session.send("DELETE", "/mcp", "").await.status, StatusCode::NO_CONTENT);
        assert_eq!(fixture.sessions(), 0);
    }

    #[tokio::test]
    async fn an_event_arrives_while_the_call_goes_on() {
        let fixture = Fixture::start().await;
        let floor = start(address(&fixture)).await;
        let mut caller = Caller::new(floor.address, None);
        let params = json!({ "name": "test_tool_with_progress", "_meta": { "progressToken": 7 } });
        let (headers, body) = caller.modern_request("tools/call", params);
        caller.headers = headers;
        let (status, _, mut events) = caller.open("POST", "/mcp", body).await;
        assert_eq!(status, StatusCode::OK);
        let first = events.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(String::from_utf8_lossy(&first).contains("notifications/progress"));
        assert_eq!(fixture.stats().under_way, 1, "the call has not ended");
        let rest = events.collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&rest).contains("Came to the end"));
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_takes_its_call_back() {
        let fixture = Fixture::start().await;
        let floor = start(address(&fixture)).await;
        let mut caller = Caller::new(floor.address, None);
        let (headers, body) =
            caller.modern_request("tools/call", json!({ "name": "slow", "arguments": { "ms": 60_000 } }));
        caller.headers = headers;
        let (_, _, events) = caller.open("POST", "/mcp", body).await;
        fixture.until(|stats| stats.under_way == 1).await;
        drop(events);
        fixture.until(|stats| stats.cancelled == 1).await;
    }

    #[tokio::test]
    async fn headers_of_one_connection_stay_on_it() {
        let fixture = Fixture::start().await;
        let floor = start(address(&fixture)).await;
        let caller = Caller::new(floor.address, None)
            .with("connection", "x-mine, keep-alive")
            .with("x-mine", "1")
            .with("keep-alive", "timeout=5")
            .with("te", "trailers")
            .with("x-yours", "2");
        let seen = caller.call("whoami", json!({})).await.json()["result"]["structuredContent"]["headers"].clone();
        let names: Vec<&str> = seen.as_array().unwrap().iter().map(|header| header[0].as_str().unwrap()).collect();
        assert!(names.contains(&"x-yours"), "{names:?}");
        for gone in ["connection", "x-mine", "keep-alive", "te"] {
            assert!(!names.contains(&gone), "{names:?}");
        }
        assert!(seen.to_string().contains(&address(&fixture).to_string()), "the host is the upstream's: {seen}");
    }

    #[tokio::test]
    async fn an_upstream_that_is_not_there_is_a_bad_gateway() {
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let floor = start(nobody).await;
        assert_eq!(Caller::new(floor.address, None).call("echo", json!({})).await.status, StatusCode::BAD_GATEWAY);
    }
}
