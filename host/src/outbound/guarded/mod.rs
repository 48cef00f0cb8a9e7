//! The guarded fetcher: small exchanges with URLs that were discovered, or that a client or a user sent.
//!
//! Its rules keep strangers from using the gateway as their way into networks around it:
//!
//! - https only, on port 443 or 8443, without credentials in the URL.
//! - A name is resolved once. Every answer is judged ([`super::special`]), one bad answer refuses all, and the connection
//!   goes to a judged address: nothing is resolved again, so that a second answer cannot differ (DNS rebinding). The
//!   certificate is checked against the name.
//! - No redirect is followed: who wants to goes through [`Fetcher::fetch`] again. No proxy, no cookies, and no
//!   header but the caller's, `Host` and what HTTP needs.
//! - Time, the size of headers and body, and fetches at once are bounded. Encoded bodies are refused: they could grow.
//! - No error text holds anything that the other side sent, certificates included.
//!
//! Certificates are checked as the operating system does, unless whoever fetches says how an operator wants it for this
//! target ([`Fetch::secured`]).
//!
//! Targets in [`Trusted`] are exempt from the first rule (but for the credentials) and from the judgement of addresses.
//! One connection serves one exchange. This is not for the data path, whose client pools its connections.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_rustls::{ConfigBuilderExt as _, FixedServerNameResolver, HttpsConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tower::Service as _;

use super::address::{Host, Special, special};
use super::pool::{OutboundError, read_all, without_roots};
use super::slots::{Lane, Slots};
use super::tls::Tls;
use super::trust::{Trusted, TrustedEntry};

/// Ports of targets that nobody vouches for.
const OPEN_PORTS: [u16; 2] = [443, 8443];
/// No fetch takes longer, whatever its limits say.
const LONGEST: Duration = Duration::from_secs(120);
/// Largest body that is sent, in bytes.
const MAX_REQUEST: usize = 64 << 10;
/// Most of an answer's headers, in bytes (what one more read brings may come on top) and in number.
const MAX_HEADERS: (usize, usize) = (32 << 10, 100);
/// Addresses of one host that are tried, each with its share of the time to connect.
const MAX_TRIED: usize = 4;
/// Names that the system resolves at once. It blocks a thread for each, beyond the end of a fetch that waited for it.
const MAX_LOOKUPS: usize = 128;

/// What is asked, of whom, and how much of an answer is taken.
#[derive(Clone)]
pub struct Fetch {
    method: Method,
    url: Uri,
    headers: HeaderMap,
    body: Bytes,
    limits: Limits,
    trusted: Trusted,
    tls: Option<Tls>,
}

impl Fetch {
    pub fn get(url: Uri) -> Self {
        let (headers, body, limits) = (HeaderMap::new(), Bytes::new(), Limits::default());
        Self { method: Method::GET, url, headers, body, limits, trusted: Trusted::none(), tls: None }
    }

    pub fn delete(url: Uri) -> Self {
        Self { method: Method::DELETE, ..Self::get(url) }
    }

    /// A POST of a form, already encoded.
    pub fn form(url: Uri, body: impl Into<Bytes>) -> Self {
        Self::post(url, "application/x-www-form-urlencoded", body.into())
    }

    /// A POST of a JSON text.
    pub fn json(url: Uri, body: impl Into<Bytes>) -> Self {
        Self::post(url, "application/json", body.into())
    }

    fn post(url: Uri, content_type: &'static str, body: Bytes) -> Self {
        let fetch = Self { method: Method::POST, body, ..Self::get(url) };
        fetch.header(CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// Sets a header. `Host` and those that belong to the connection are the fetcher's own and replaced.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Has the other side prove who it is, and us to it, as an operator says for it, and not as the operating system does. No
    /// redirect is followed, so this goes to where the URL leads and nowhere else.
    #[must_use]
    pub fn secured(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// What is asked for.
    pub const fn url(&self) -> &Uri {
        &self.url
    }

    /// Trusts one more target for this fetch alone: the origin of what an operator configured, when its own metadata is
    /// fetched.
    #[must_use]
    pub fn trusting(mut self, entry: TrustedEntry) -> Self {
        self.trusted = self.trusted.with(entry);
        self
    }
}

/// Method and origin: headers, query and body may hold secrets.
impl fmt::Debug for Fetch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.host().unwrap_or_default();
        formatter.debug_struct("Fetch").field("method", &self.method).field("host", &host).finish_non_exhaustive()
    }
}

/// How long a fetch may take, and how much it may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the TCP connection and the TLS handshake, after the name is resolved.
    pub connect: Duration,
    /// For everything, the wait for a free slot included; two minutes at most.
    pub total: Duration,
    /// Of the answer's body, in bytes.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_secs(10), body: 64 << 10 }
    }
}

/// An answer with any status, redirects included.
#[derive(Clone)]
pub struct Fetched {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Status and size: a token endpoint's answer is all secrets.
impl fmt::Debug for Fetched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, bytes) = (&self.status, &self.body.len());
        formatter.debug_struct("Fetched").field("status", status).field("bytes", bytes).finish_non_exhaustive()
    }
}

/// What is wrong with a URL, before anybody is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    #[error("not a well-formed http or https URL")]
    Malformed,
    #[error("a URL with credentials in it")]
    Credentials,
    #[error("a host that is neither a plain name nor a plainly written address")]
    Host,
    #[error("plain http is for targets in `outbound.allow` only")]
    Scheme,
    #[error("ports other than 443 and 8443 are for targets in `outbound.allow` only")]
    Port,
}

/// Why there is no answer. No text repeats what the other side sent.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Url(#[from] UrlFault),
    /// The address is a field and not in the text, since the text may reach whoever sent the URL.
    #[error("{host} leads to {kind}, which is refused unless `outbound.allow` lists it")]
    Address { host: Host, address: IpAddr, kind: Special },
    #[error("the request is larger than {MAX_REQUEST} bytes")]
    RequestTooLarge,
    /// This host, or all together, keep as many waiting as may wait.
    #[error("too many fetches wait already")]
    Busy,
    #[error("no address of {host} was found")]
    Unresolved { host: Host, source: io::Error },
    #[error("could not connect")]
    Connect(#[source] io::Error),
    #[error("no TLS connection: {0}")]
    Tls(TlsFault),
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the answer is encoded, though no encoding was accepted")]
    Encoded,
}

impl FetchError {
    /// Whether it may be otherwise in a moment: then nobody knows what there is.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Busy
            | Self::Unresolved { .. }
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::Broken(_)
            | Self::TimedOut => true,
            Self::Url(_) | Self::Address { .. } | Self::RequestTooLarge | Self::TooLarge { .. } | Self::Encoded => {
                false
            }
        }
    }
}

/// Whether what answers with this status may answer otherwise in a moment.
pub fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// Why a TLS handshake failed, in our words: rustls' own repeat names from the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error("the certificate is for another name")]
    OtherName,
    #[error("the certificate has expired or is not valid yet")]
    OutOfTime,
    #[error("the certificate comes from an authority that is not trusted here")]
    UnknownAuthority,
    #[error("the certificate is not acceptable")]
    Certificate,
    #[error("the handshake failed")]
    Handshake,
}

/// Resolves a name to all its addresses. Asked once for each fetch, for names only.
pub type Resolve = Arc<dyn Fn(&str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Fetches under the rules above. Cheap to clone; clones share their bounds.
#[derive(Clone)]
pub struct Fetcher {
    trusted: Arc<Trusted>,
    shared: Arc<Shared>,
}

struct Shared {
    resolve: Resolve,
    tls: Arc<ClientConfig>,
    slots: Slots,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fetcher").field("trusted", &self.trusted).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher that resolves names and trusts certificate authorities as the operating system does. Where its
    /// authorities cannot be read, https fails.
    pub fn new(trusted: Trusted) -> Self {
        Self::with_resolver(trusted, system_resolver())
    }

    /// The same with another way to resolve names.
    pub fn with_resolver(trusted: Trusted, resolve: Resolve) -> Self {
        Self::build(trusted, resolve, tls())
    }

    fn build(trusted: Trusted, resolve: Resolve, tls: ClientConfig) -> Self {
        let shared = Shared { resolve, tls: Arc::new(tls), slots: Slots::new() };
        Self { trusted: Arc::new(trusted), shared: Arc::new(shared) }
    }

    /// The same fetcher after a change of what is trusted.
    #[must_use]
    pub fn trusting(&self, trusted: Trusted) -> Self {
        Self { trusted: Arc::new(trusted), shared: Arc::clone(&self.shared) }
    }

    /// One exchange: an answer with any status, or the first rule that it broke.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Fetched, FetchError> {
        let deadline = Instant::now() + fetch.limits.total.min(LONGEST);
        timeout_at(deadline, self.exchange(fetch, deadline)).await.map_err(|_| FetchError::TimedOut)?
    }

    async fn exchange(&self, fetch: Fetch, deadline: Instant) -> Result<Fetched, FetchError> {
        let target = Target::of(&fetch.url)?;
        if fetch.body.len() > MAX_REQUEST {
            return Err(FetchError::RequestTooLarge);
        }
        let trust = Trust { lasting: &self.trusted, own: &fetch.trusted };
        let fault = target.fault_of_strangers();
        let known = trust.knows(&target);
        if let Some(fault) = fault.filter(|_| !known && !trust.covers_addresses(target.port)) {
            return Err(fault.into());
        }
        let lane = if known { Lane::Operator } else { Lane::Stranger };
        let _slot = self.shared.slots.enter(lane, &target.host).await.ok_or(FetchError::Busy)?;
        let addresses = self.resolve(&target.host).await?;
        let standing = trust.judge(&target, &addresses)?;
        if let (Standing::Stranger, Some(fault)) = (standing, fault) {
            return Err(fault.into());
        }
        let connecting = self.connect(&target, &fetch, addresses);
        let stream = timeout(fetch.limits.connect, connecting).await.map_err(|_| FetchError::TimedOut)??;
        converse(stream, &target, fetch, deadline).await
    }

    /// All addresses of a host: at least one, and the only time anybody is asked.
    async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, FetchError> {
        let answers = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => (self.shared.resolve)(name).await,
        };
        match answers {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(FetchError::Unresolved { host: host.clone(), source: io::ErrorKind::NotFound.into() }),
            Err(source) => Err(FetchError::Unresolved { host: host.clone(), source }),
        }
    }

    /// A connection to one of the addresses, with TLS if the URL says so.
    async fn connect(&self, target: &Target, fetch: &Fetch, addresses: Vec<IpAddr>) -> Result<Stream, FetchError> {
        let mut tcp = Some(TokioIo::new(connect_any(addresses, target.port, fetch.limits.connect).await?));
        let mut given = move || tcp.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        let connected = tower::service_fn(move |_: Uri| ready(given()));
        let name = FixedServerNameResolver::new(target.server_name()?);
        let tls = match &fetch.tls {
            Some(own) => Arc::new(one_exchange(own.config())),
            None => Arc::clone(&self.shared.tls),
        };
        let mut connector = HttpsConnector::new(connected, tls, false, Arc::new(name));
        connector.call(fetch.url.clone()).await.map_err(|error| FetchError::Tls(TlsFault::of(&*error)))
    }
}

type Stream = hyper_rustls::MaybeHttpsStream<TokioIo<TcpStream>>;

/// Where a URL leads.
#[derive(Debug)]
struct Target {
    is_https: bool,
    host: Host,
    port: u16,
}

impl Target {
    fn of(url: &Uri) -> Result<Self, UrlFault> {
        let is_https = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlFault::Malformed),
        };
        let authority = url.authority().ok_or(UrlFault::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(UrlFault::Credentials);
        }
        let host = Host::parse(authority.host()).ok_or(UrlFault::Host)?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(if is_https { 443 } else { 80 }),
            // Digits only: the parser of numbers would take a sign.
            Some(rest) => rest
                .strip_prefix(':')
                .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|port| port.parse().ok()),
            None => None,
        };
        let port = port.filter(|port| *port != 0).ok_or(UrlFault::Malformed)?;
        Ok(Self { is_https, host, port })
    }

    /// What is wrong with it unless it is trusted.
    fn fault_of_strangers(&self) -> Option<UrlFault> {
        if !self.is_https {
            return Some(UrlFault::Scheme);
        }
        (!OPEN_PORTS.contains(&self.port)).then_some(UrlFault::Port)
    }

    fn server_name(&self) -> Result<ServerName<'static>, UrlFault> {
        match &self.host {
            Host::Address(address) => Ok(ServerName::from(*address)),
            Host::Name(name) => ServerName::try_from(String::from(&**name)).map_err(|_| UrlFault::Host),
        }
    }

    /// As the `Host` header has it: without the scheme's own port.
    fn authority(&self) -> String {
        let Self { is_https, host, port } = self;
        let is_default = *port == if *is_https { 443 } else { 80 };
        if is_default { host.to_string() } else { format!("{host}:{port}") }
    }
}

/// What is trusted for one fetch.
struct Trust<'a> {
    lasting: &'a Trusted,
    own: &'a Trusted,
}

/// Whether all that a target may lead to is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Trusted,
    Stranger,
}

impl Trust<'_> {
    fn any(&self, covers: impl Fn(&Trusted) -> bool) -> bool {
        covers(self.lasting) || covers(self.own)
    }

    fn covers_addresses(&self, port: u16) -> bool {
        self.any(|trusted| trusted.covers_addresses(port))
    }

    /// Whether a target is trusted as it is written, wherever it leads.
    fn knows(&self, target: &Target) -> bool {
        match &target.host {
            Host::Name(name) => self.any(|trusted| trusted.covers_name(name, target.port)),
            Host::Address(address) => self.any(|trusted| trusted.covers_address(*address, target.port)),
        }
    }

    /// The standing of a target at these addresses, unless one of them is neither trusted nor public.
    fn judge(&self, target: &Target, addresses: &[IpAddr]) -> Result<Standing, FetchError> {
        if self.knows(target) {
            return Ok(Standing::Trusted);
        }
        let mut standing = Standing::Trusted;
        for address in addresses {
            if self.any(|trusted| trusted.covers_address(*address, target.port)) {
                continue;
            }
            if let Some(kind) = special(*address) {
                return Err(FetchError::Address { host: target.host.clone(), address: *address, kind });
            }
            standing = Standing::Stranger;
        }
        Ok(standing)
    }
}

/// A TCP connection to the first address that answers, within `patience` for all.
async fn connect_any(addresses: Vec<IpAddr>, port: u16, patience: Duration) -> Result<TcpStream, FetchError> {
    let mut failure = FetchError::TimedOut;
    let tried = in_turns(addresses);
    let until = Instant::now() + patience.min(LONGEST);
    for (at, address) in tried.iter().enumerate() {
        let left = u32::try_from(tried.len() - at).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = FetchError::Connect(error),
            Err(_) => failure = FetchError::TimedOut,
        }
    }
    Err(failure)
}

/// The addresses to try: families alternate, beginning with the resolver's first choice, so that a network without one
/// of them still connects (RFC 8305 § 4).
fn in_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let longer = first.len().max(second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    (0..longer).flat_map(|_| [first.next(), second.next()]).flatten().take(MAX_TRIED).collect()
}

/// Sends the request and reads the whole answer.
async fn converse(stream: Stream, target: &Target, fetch: Fetch, deadline: Instant) -> Result<Fetched, FetchError> {
    let request = request(target, &fetch)?;
    let limit = fetch.limits.body;
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEADERS.0).max_headers(MAX_HEADERS.1);
    let (mut sender, connection) = client.handshake(stream).await.map_err(broken)?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        if is_encoded(&head.headers) {
            return Err(FetchError::Encoded);
        }
        let body = read_all(body, limit, deadline).await.map_err(|error| unread(error, limit))?;
        Ok(Fetched { status: head.status, headers: head.headers, body })
    };
    // The connection is polled for as long as the exchange lasts, and dropped with it, however slow its other side.
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection.fuse()));
    loop {
        tokio::select! {
            biased;
            fetched = &mut exchange => return fetched,
            _ = &mut connection => {}
        }
    }
}

fn request(target: &Target, fetch: &Fetch) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut headers = fetch.headers.clone();
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.insert(HOST, HeaderValue::try_from(target.authority()).map_err(|_| UrlFault::Host)?);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let path = fetch.url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::new(Full::new(fetch.body.clone()));
    *request.method_mut() = fetch.method.clone();
    *request.uri_mut() = path.parse().map_err(|_| UrlFault::Malformed)?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn broken(error: hyper::Error) -> FetchError {
    FetchError::Broken(error.into())
}

fn unread(error: OutboundError, limit: usize) -> FetchError {
    match error {
        OutboundError::TooLarge { .. } => FetchError::TooLarge { limit },
        OutboundError::TimedOut => FetchError::TimedOut,
        OutboundError::Broken(error) => FetchError::Broken(error),
        OutboundError::Connect(error) => FetchError::Broken(error.into()),
        OutboundError::NoSocket(error) => FetchError::Connect(error),
    }
}

/// Whether an answer's body is anything but its plain bytes, whole or in chunks.
fn is_encoded(headers: &HeaderMap) -> bool {
    let other_than = |name, plain: &str| {
        let mut values = headers.get_all(name).into_iter();
        values.any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(plain.as_bytes()))
    };
    other_than(CONTENT_ENCODING, "identity") || other_than(TRANSFER_ENCODING, "chunked")
}

impl TlsFault {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Self::of_rustls(error);
            }
            next = match error.downcast_ref::<io::Error>() {
                // Its source would be the source of what is inside.
                Some(error) => error.get_ref().map(|inside| inside as &(dyn std::error::Error + 'static)),
                None => error.source(),
            };
        }
        Self::Handshake
    }

    fn of_rustls(error: &rustls::Error) -> Self {
        use rustls::CertificateError::{
            Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
            UnknownIssuer,
        };
        let rustls::Error::InvalidCertificate(reason) = error else { return Self::Handshake };
        match reason {
            NotValidForName | NotValidForNameContext { .. } => Self::OtherName,
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => Self::OutOfTime,
            UnknownIssuer => Self::UnknownAuthority,
            _ => Self::Certificate,
        }
    }
}

/// TLS with the operating system's authorities, HTTP/1.1 only.
fn tls() -> ClientConfig {
    let config = match ClientConfig::builder().with_native_roots() {
        Ok(builder) => builder.with_no_client_auth(),
        Err(error) => {
            tracing::warn!(%error, "no system certificate authorities: https metadata cannot be fetched");
            without_roots()
        }
    };
    one_exchange(config)
}

/// The same for connections that serve one exchange over HTTP/1.1.
fn one_exchange(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The operating system's resolver, on threads for blocking work.
fn system_resolver() -> Resolve {
    let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
    Arc::new(move |name| {
        let (name, lookups) = (name.to_owned(), Arc::clone(&lookups));
        async move {
            let lookup = lookups.acquire_owned().await.map_err(io::Error::other)?;
            let answers = tokio::task::spawn_blocking(move || {
                // Given back when the thread is free, not when nobody waits any more.
                let _lookup = lookup;
                (name.as_str(), 0).to_socket_addrs().map(|answers| answers.map(|answer| answer.ip()).collect())
            });
            answers.await.map_err(io::Error::other)?
        }
        .boxed()
    })
}

#[cfg(test)]
pub(super) mod tests;
