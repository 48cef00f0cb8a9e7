//! Which `Host` and which `Origin` a listener answers to: the defence against DNS rebinding and against web pages
//! that talk to a gateway they should not know (threat M1; MCP 2025-11-25, "Security Warning" of the transports).
//!
//! A pure decision, [`HostGuard::check`], and the middleware around it, [`enforce`]. It applies to every listener.
//! It is no authentication, reads no `X-Forwarded-*`, and never derives a URL from what it reads.
//!
//! Why loopback names are safe on a loopback listener: a rebound page still sends its own name in `Host`, and an
//! address or `localhost` cannot be rebound. RFC 9112 §3.2, RFC 9113 §8.3.1, RFC 6454 §6 and §7.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Uri;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use serde_json::json;
use tracing::debug;

/// The listener that a guard stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// A TCP listener, with the address that it is bound to.
    Tcp(SocketAddr),
    /// A Unix socket, which no web page and no DNS answer can reach: any `Host` will do, but no `Origin`.
    Unix,
}

/// An entry of `allowed_hosts` or `allowed_origins`, or the public URL, that is no host or no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {value:?} is not {expected}")]
pub struct InvalidEntry {
    setting: &'static str,
    value: String,
    expected: &'static str,
}

/// Why a request is not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the request must name one host, in one well-formed Host or :authority")]
    BadHost,
    #[error("this gateway does not answer to that host; an operator can add it to `allowed_hosts`")]
    ForbiddenHost,
    #[error("this gateway does not answer pages of that origin; an operator can add it to `allowed_origins`")]
    ForbiddenOrigin,
}

impl Refused {
    fn status(self) -> StatusCode {
        match self {
            Self::BadHost => StatusCode::BAD_REQUEST,
            Self::ForbiddenHost | Self::ForbiddenOrigin => StatusCode::FORBIDDEN,
        }
    }

    /// What programs go by.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::ForbiddenHost => "forbidden_host",
            Self::ForbiddenOrigin => "forbidden_origin",
        }
    }
}

/// The response tells its reason to whoever writes it in other words, too.
impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.code(), "message": self.to_string() }));
        let mut response = (self.status(), body).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Middleware: answers what the guard refuses and passes on the rest. For `axum::middleware::from_fn_with_state`.
pub async fn enforce(State(guard): State<Arc<HostGuard>>, request: Request, next: Next) -> Response {
    match guard.check(request.version(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            debug!(check = refused.code(), "refused a request by its Host or Origin");
            refused.into_response()
        }
    }
}

/// What one listener answers to.
#[derive(Clone, Debug)]
pub struct HostGuard {
    front: Front,
    hosts: Vec<AllowedHost>,
    origins: Vec<Origin>,
    /// Paths of what pages of every origin may read.
    is_for_everybody: fn(&str) -> bool,
}

impl HostGuard {
    /// For the listener at `front`, with the origin of the public URL. An entry of `allowed_hosts` without port
    /// stands for every port.
    pub fn new(
        front: Front,
        public_origin: &str,
        allowed_hosts: &[String],
        allowed_origins: &[String],
    ) -> Result<Self, InvalidEntry> {
        let public = parse_origin("public_url", public_origin)?;
        let mut hosts = vec![AllowedHost {
            name: public.authority.name.clone(),
            ports: Ports::One { port: public.port(), is_default: public.port() == public.default_port() },
        }];
        if let Front::Tcp(address) = front
            && !address.ip().is_unspecified()
        {
            let port = address.port();
            hosts.push(AllowedHost {
                name: Name::Address(address.ip().to_canonical()),
                ports: Ports::One { port: Some(port), is_default: is_default_port(port) },
            });
        }
        for entry in allowed_hosts {
            hosts.push(AllowedHost::parse(entry)?);
        }
        let mut origins = vec![public];
        for entry in allowed_origins {
            origins.push(parse_origin("allowed_origins", entry)?);
        }
        Ok(Self { front, hosts, origins, is_for_everybody: |_| false })
    }

    /// The same, which answers to this origin as well: where operators reach a listener of their own.
    pub fn named(mut self, setting: &'static str, origin: &str) -> Result<Self, InvalidEntry> {
        let own = parse_origin(setting, origin)?;
        self.hosts.push(AllowedHost {
            name: own.authority.name.clone(),
            ports: Ports::One { port: own.port(), is_default: own.port() == own.default_port() },
        });
        self.origins.push(own);
        Ok(self)
    }

    /// The same, with paths at which every `Origin` will do: of documents that are the same for everybody and change
    /// nothing. Which `Host` was meant is still asked.
    #[must_use]
    pub fn open_at(self, is_for_everybody: fn(&str) -> bool) -> Self {
        Self { is_for_everybody, ..self }
    }

    /// Whether a request with this head may pass.
    pub fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        if self.front != Front::Unix {
            let host = claimed_host(version, uri, headers)?;
            if !self.answers_to(&host) {
                return Err(Refused::ForbiddenHost);
            }
        }
        if (self.is_for_everybody)(uri.path()) {
            return Ok(());
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if self.welcomes(origin) => Ok(()),
            _ => Err(Refused::ForbiddenOrigin),
        }
    }

    fn answers_to(&self, host: &Authority) -> bool {
        (self.is_loopback() && host.name.is_loopback()) || self.hosts.iter().any(|allowed| allowed.covers(host))
    }

    fn welcomes(&self, origin: &HeaderValue) -> bool {
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else { return false };
        match self.front {
            Front::Unix => false,
            Front::Tcp(_) => {
                let is_local = origin.is_web() && origin.authority.name.is_loopback();
                (self.is_loopback() && is_local) || self.origins.iter().any(|allowed| allowed.equals(&origin))
            }
        }
    }

    fn is_loopback(&self) -> bool {
        match self.front {
            Front::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Front::Unix => false,
        }
    }
}

/// The one host that a request names: in the target's authority, in `Host`, or the same in both.
fn claimed_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Authority, Refused> {
    let mut values = headers.get_all(header::HOST).iter();
    let header = match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => Some(parse_claim(value.to_str().map_err(|_| Refused::BadHost)?)?),
        (Some(_), Some(_)) => return Err(Refused::BadHost),
    };
    let target = uri.authority().map(|authority| parse_claim(authority.as_str())).transpose()?;
    match (target, header) {
        (Some(target), Some(header)) if target == header => Ok(target),
        (Some(_), Some(_)) => Err(Refused::BadHost),
        // `Host` may be absent beside `:authority`, but not beside the absolute form of HTTP/1.
        (Some(target), None) if version >= Version::HTTP_2 => Ok(target),
        (None, Some(header)) => Ok(header),
        (_, None) => Err(Refused::BadHost),
    }
}

fn parse_claim(text: &str) -> Result<Authority, Refused> {
    Authority::parse(text).ok_or(Refused::BadHost)
}

/// `host` or `host:port`, in one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    name: Name,
    port: Option<u16>,
}

/// A host in one spelling: lower case, without the root's dot, addresses as addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Address(IpAddr),
    Dns(String),
}

/// Longest DNS name (RFC 1035 §2.3.4).
const NAME_MAX_LEN: usize = 253;

impl Authority {
    /// Strict on purpose: no user information, no percent-encoding, no zone, no empty port.
    fn parse(text: &str) -> Option<Self> {
        if let Some(bracketed) = text.strip_prefix('[') {
            let (address, rest) = bracketed.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if rest.is_empty() => None,
                None => return None,
            };
            return Some(Self { name: Name::Address(IpAddr::V6(address).to_canonical()), port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(parse_port(port)?)),
            None => (text, None),
        };
        Some(Self { name: Name::parse(name)?, port })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > NAME_MAX_LEN || !name.split('.').all(is_label) {
            return None;
        }
        if let Ok(address) = name.parse::<IpAddr>() {
            return Some(Self::Address(address));
        }
        Some(Self::Dns(name.to_ascii_lowercase()))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            Self::Dns(name) => name == "localhost",
        }
    }
}

fn is_label(label: &str) -> bool {
    // Underscores are not for host names, but private networks have them.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed)
}

/// A host that we answer to.
#[derive(Clone, Debug)]
struct AllowedHost {
    name: Name,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
enum Ports {
    Any,
    One {
        port: Option<u16>,
        /// Whether a claim without port means this one.
        is_default: bool,
    },
}

impl AllowedHost {
    fn parse(entry: &str) -> Result<Self, InvalidEntry> {
        let authority = Authority::parse(entry).ok_or_else(|| InvalidEntry {
            setting: "allowed_hosts",
            value: entry.to_owned(),
            expected: "a host, or a host and a port",
        })?;
        let ports = match authority.port {
            None => Ports::Any,
            // Behind a proxy either scheme's default may be meant.
            Some(port) => Ports::One { port: Some(port), is_default: is_default_port(port) },
        };
        Ok(Self { name: authority.name, ports })
    }

    fn covers(&self, host: &Authority) -> bool {
        self.name == host.name
            && match (self.ports, host.port) {
                (Ports::Any, _) => true,
                (Ports::One { port, .. }, Some(claimed)) => port == Some(claimed),
                (Ports::One { is_default, .. }, None) => is_default,
            }
    }
}

fn is_default_port(port: u16) -> bool {
    matches!(port, 80 | 443)
}

/// `scheme://authority`, as browsers serialise it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    authority: Authority,
}

fn parse_origin(setting: &'static str, text: &str) -> Result<Origin, InvalidEntry> {
    let expected = "an origin such as https://example.com";
    Origin::parse(text).ok_or_else(|| InvalidEntry { setting, value: text.to_owned(), expected })
}

impl Origin {
    /// `None` for `null` and for everything that is not one origin.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        // Desktop clients have schemes of their own, such as `vscode-webview`.
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase()) && scheme.bytes().all(allowed);
        let authority = Authority::parse(authority)?;
        is_scheme.then_some(Self { scheme, authority })
    }

    fn is_web(&self) -> bool {
        self.default_port().is_some()
    }

    fn default_port(&self) -> Option<u16> {
        match self.scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        }
    }

    fn port(&self) -> Option<u16> {
        self.authority.port.or(self.default_port())
    }

    fn equals(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.authority.name == other.authority.name && self.port() == other.port()
    }
}

#[cfg(test)]
mod tests;
