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

    fn code(self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::ForbiddenHost => "forbidden_host",
            Self::ForbiddenOrigin => "forbidden_origin",
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status(), Json(json!({ "error": self.code(), "message": self.to_string() }))).into_response()
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
        Ok(Self { front, hosts, origins })
    }

    /// Whether a request with this head may pass.
    pub fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        if self.front != Front::Unix {
            let host = claimed_host(version, uri, headers)?;
            if !self.answers_to(&host) {
                return Err(Refused::ForbiddenHost);
            }
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
mod tests {
    use super::*;
    use Refused::{BadHost, ForbiddenHost, ForbiddenOrigin};

    fn strings(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    fn guard(front: Front, public: &str) -> HostGuard {
        let hosts = strings(&["mcp.internal", "proxy.example.net:8443", "plain.example.net:80", "my_service"]);
        let origins = strings(&["https://app.example.org", "vscode-webview://1a2b3c"]);
        HostGuard::new(front, public, &hosts, &origins).unwrap()
    }

    fn tcp(address: &str) -> Front {
        Front::Tcp(address.parse().unwrap())
    }

    fn check(
        guard: &HostGuard,
        version: Version,
        target: &str,
        hosts: &[&[u8]],
        origins: &[&str],
    ) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_bytes(host).unwrap());
        }
        for origin in origins {
            headers.append(header::ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        }
        guard.check(version, &target.parse().unwrap(), &headers)
    }

    fn check_host(guard: &HostGuard, host: &str) -> Result<(), Refused> {
        check(guard, Version::HTTP_11, "/mcp", &[host.as_bytes()], &[])
    }

    #[test]
    fn a_loopback_listener_answers_to_loopback_names_and_to_allowed_hosts() {
        let guard = guard(tcp("127.0.0.1:7400"), "https://gw.example.com");
        let long = format!("{}.com", "a".repeat(64));
        let rows: &[(&str, Result<(), Refused>)] = &[
            ("localhost", Ok(())),
            ("localhost:7400", Ok(())),
            ("LocalHost:1", Ok(())),
            ("localhost.:7400", Ok(())),
            ("127.0.0.1:7400", Ok(())),
            ("127.0.0.1", Ok(())),
            ("127.8.9.1:7400", Ok(())),
            ("[::1]:7400", Ok(())),
            ("[::1]", Ok(())),
            ("[0:0:0:0:0:0:0:1]:7400", Ok(())),
            ("[::ffff:127.0.0.1]:7400", Ok(())),
            ("gw.example.com", Ok(())),
            ("GW.Example.COM", Ok(())),
            ("gw.example.com.", Ok(())),
            ("gw.example.com:443", Ok(())),
            ("gw.example.com.:443", Ok(())),
            ("gw.example.com:80", Err(ForbiddenHost)),
            ("gw.example.com:7400", Err(ForbiddenHost)),
            ("mcp.internal", Ok(())),
            ("mcp.internal:9000", Ok(())),
            ("proxy.example.net:8443", Ok(())),
            ("proxy.example.net", Err(ForbiddenHost)),
            ("proxy.example.net:443", Err(ForbiddenHost)),
            ("plain.example.net", Ok(())),
            ("plain.example.net:80", Ok(())),
            ("plain.example.net:81", Err(ForbiddenHost)),
            ("my_service:7400", Ok(())),
            ("my-service:7400", Err(ForbiddenHost)),
            ("gw_example.com", Err(ForbiddenHost)),
            ("evil.example", Err(ForbiddenHost)),
            ("evil.example:7400", Err(ForbiddenHost)),
            ("gw.example.com.evil.example", Err(ForbiddenHost)),
            ("evilgw.example.com", Err(ForbiddenHost)),
            ("sub.gw.example.com", Err(ForbiddenHost)),
            ("localhost.evil.example", Err(ForbiddenHost)),
            ("foo.localhost", Err(ForbiddenHost)),
            ("127.0.0.1.nip.io", Err(ForbiddenHost)),
            ("0.0.0.0:7400", Err(ForbiddenHost)),
            ("[::]:7400", Err(ForbiddenHost)),
            ("128.0.0.1:7400", Err(ForbiddenHost)),
            ("192.168.1.5:7400", Err(ForbiddenHost)),
            ("[2001:db8::1]:7400", Err(ForbiddenHost)),
            // Spellings that only some resolvers take for 127.0.0.1.
            ("127.1", Err(ForbiddenHost)),
            ("2130706433", Err(ForbiddenHost)),
            ("0x7f.0.0.1", Err(ForbiddenHost)),
            ("0177.0.0.1", Err(ForbiddenHost)),
            ("", Err(BadHost)),
            (".", Err(BadHost)),
            ("localhost..", Err(BadHost)),
            (".localhost", Err(BadHost)),
            ("gw..example.com", Err(BadHost)),
            (" localhost", Err(BadHost)),
            ("localhost 7400", Err(BadHost)),
            ("localhost:", Err(BadHost)),
            ("localhost:port", Err(BadHost)),
            ("localhost:+80", Err(BadHost)),
            ("localhost:65536", Err(BadHost)),
            ("localhost:007400", Err(BadHost)),
            ("localhost:7400:1", Err(BadHost)),
            (":7400", Err(BadHost)),
            ("user@localhost", Err(BadHost)),
            ("localhost@evil.example", Err(BadHost)),
            ("localhost:7400@evil.example", Err(BadHost)),
            ("localhost/evil", Err(BadHost)),
            ("localhost\\evil", Err(BadHost)),
            ("localhost#evil", Err(BadHost)),
            ("localhost?evil", Err(BadHost)),
            ("http://localhost", Err(BadHost)),
            ("localhost,evil.example", Err(BadHost)),
            ("local%68ost", Err(BadHost)),
            ("::1", Err(BadHost)),
            ("[::1", Err(BadHost)),
            ("[::1]x", Err(BadHost)),
            ("[::1%25lo]", Err(BadHost)),
            ("[::1%lo]", Err(BadHost)),
            ("[127.0.0.1]", Err(BadHost)),
            ("[localhost]", Err(BadHost)),
            ("[v1.x]", Err(BadHost)),
            (&long, Err(BadHost)),
        ];
        for (host, expected) in rows {
            assert_eq!(check_host(&guard, host), *expected, "{host:?}");
        }
        assert_eq!(check(&guard, Version::HTTP_11, "/", &["localhost\u{e9}".as_bytes()], &[]), Err(BadHost));
    }

    #[test]
    fn another_listener_answers_to_its_own_address_but_to_no_loopback_name() {
        let own = guard(tcp("192.168.1.5:7400"), "http://gw.example.com:8080");
        let any = guard(tcp("0.0.0.0:7400"), "http://gw.example.com:8080");
        let six = guard(tcp("[2001:db8::5]:80"), "http://gw.example.com");
        let mapped = guard(tcp("[::ffff:127.0.0.1]:7400"), "http://gw.example.com");
        let local = guard(tcp("0.0.0.0:7400"), "http://localhost:7400");
        let rows: &[(&HostGuard, &str, Result<(), Refused>)] = &[
            (&own, "192.168.1.5:7400", Ok(())),
            (&own, "192.168.1.5", Err(ForbiddenHost)),
            (&own, "192.168.1.5:7401", Err(ForbiddenHost)),
            (&own, "gw.example.com:8080", Ok(())),
            (&own, "gw.example.com", Err(ForbiddenHost)),
            (&own, "localhost:7400", Err(ForbiddenHost)),
            (&own, "127.0.0.1:7400", Err(ForbiddenHost)),
            (&any, "0.0.0.0:7400", Err(ForbiddenHost)),
            (&any, "192.168.1.5:7400", Err(ForbiddenHost)),
            (&any, "localhost:7400", Err(ForbiddenHost)),
            (&any, "gw.example.com:8080", Ok(())),
            (&six, "[2001:db8::5]", Ok(())),
            (&six, "[2001:DB8:0::5]:80", Ok(())),
            (&six, "[2001:db8::6]", Err(ForbiddenHost)),
            (&mapped, "localhost:7400", Ok(())),
            (&local, "localhost:7400", Ok(())),
            (&local, "127.0.0.1:7400", Err(ForbiddenHost)),
        ];
        for (guard, host, expected) in rows {
            assert_eq!(check_host(guard, host), *expected, "{host:?} at {:?}", guard.front);
        }
    }

    #[test]
    fn a_request_names_one_host_and_only_one() {
        let guard = guard(tcp("127.0.0.1:7400"), "https://gw.example.com");
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        let full = "http://localhost:7400/mcp";
        type Row<'a> = (Version, &'a str, &'a [&'a [u8]], Result<(), Refused>);
        let rows: &[Row<'_>] = &[
            (one, "/mcp", &[], Err(BadHost)),
            (Version::HTTP_10, "/mcp", &[], Err(BadHost)),
            (one, "/mcp", &[b"localhost", b"localhost"], Err(BadHost)),
            (one, "/mcp", &[b"localhost", b"evil.example"], Err(BadHost)),
            (one, full, &[b"localhost:7400"], Ok(())),
            (one, full, &[b"LOCALHOST:7400"], Ok(())),
            (one, full, &[b"evil.example"], Err(BadHost)),
            (one, full, &[b"127.0.0.1:7400"], Err(BadHost)),
            (one, full, &[], Err(BadHost)),
            (one, "http://evil.example/mcp", &[b"evil.example"], Err(ForbiddenHost)),
            (one, "http://evil.example/mcp", &[b"localhost"], Err(BadHost)),
            (one, "http://localhost@evil.example/", &[b"localhost"], Err(BadHost)),
            (two, full, &[], Ok(())),
            (two, full, &[b"localhost:7400"], Ok(())),
            (two, full, &[b"evil.example"], Err(BadHost)),
            (two, full, &[b"localhost:7400", b"localhost:7400"], Err(BadHost)),
            (two, "http://evil.example/mcp", &[], Err(ForbiddenHost)),
            (two, "http://user@localhost:7400/mcp", &[], Err(BadHost)),
            (two, "/mcp", &[b"localhost"], Ok(())),
            (two, "/mcp", &[], Err(BadHost)),
            (one, "*", &[b"localhost"], Ok(())),
        ];
        for (version, target, hosts, expected) in rows {
            let checked = check(&guard, *version, target, hosts, &[]);
            assert_eq!(checked, *expected, "{version:?} {target} {hosts:?}");
        }
    }

    #[test]
    fn only_known_origins_are_answered() {
        let loopback = guard(tcp("[::1]:7400"), "https://gw.example.com");
        let public = guard(tcp("0.0.0.0:7400"), "https://gw.example.com:8443");
        let unix = guard(Front::Unix, "https://gw.example.com");
        let rows: &[(&HostGuard, &[&str], Result<(), Refused>)] = &[
            (&loopback, &[], Ok(())),
            (&loopback, &["https://gw.example.com"], Ok(())),
            (&loopback, &["HTTPS://GW.example.com"], Ok(())),
            (&loopback, &["https://gw.example.com:443"], Ok(())),
            (&loopback, &["http://gw.example.com"], Err(ForbiddenOrigin)),
            (&loopback, &["https://gw.example.com:8443"], Err(ForbiddenOrigin)),
            (&loopback, &["https://app.example.org"], Ok(())),
            (&loopback, &["http://app.example.org"], Err(ForbiddenOrigin)),
            (&loopback, &["vscode-webview://1a2b3c"], Ok(())),
            (&loopback, &["vscode-webview://ffffff"], Err(ForbiddenOrigin)),
            (&loopback, &["http://localhost:6274"], Ok(())),
            (&loopback, &["http://127.0.0.1:6274"], Ok(())),
            (&loopback, &["https://[::1]:6274"], Ok(())),
            (&loopback, &["chrome-extension://localhost"], Err(ForbiddenOrigin)),
            (&loopback, &["http://localhost.evil.example"], Err(ForbiddenOrigin)),
            (&loopback, &["http://evil.example"], Err(ForbiddenOrigin)),
            (&loopback, &["http://localhost@evil.example"], Err(ForbiddenOrigin)),
            (&loopback, &["http://localhost/"], Err(ForbiddenOrigin)),
            (&loopback, &["http://localhost http://evil.example"], Err(ForbiddenOrigin)),
            (&loopback, &["null"], Err(ForbiddenOrigin)),
            (&loopback, &["file://"], Err(ForbiddenOrigin)),
            (&loopback, &[""], Err(ForbiddenOrigin)),
            (&loopback, &["localhost"], Err(ForbiddenOrigin)),
            (&loopback, &["http://localhost", "http://localhost"], Err(ForbiddenOrigin)),
            (&public, &["https://gw.example.com:8443"], Ok(())),
            (&public, &["https://gw.example.com"], Err(ForbiddenOrigin)),
            (&public, &["http://localhost:6274"], Err(ForbiddenOrigin)),
            (&public, &["https://app.example.org:443"], Ok(())),
            (&unix, &[], Ok(())),
            (&unix, &["https://gw.example.com"], Err(ForbiddenOrigin)),
            (&unix, &["http://localhost"], Err(ForbiddenOrigin)),
            (&unix, &["null"], Err(ForbiddenOrigin)),
        ];
        for (guard, origins, expected) in rows {
            let checked = check(guard, Version::HTTP_11, "/mcp", &[b"mcp.internal"], origins);
            assert_eq!(checked, *expected, "{origins:?} at {:?}", guard.front);
        }
    }

    #[test]
    fn a_unix_socket_answers_to_any_host() {
        let guard = guard(Front::Unix, "https://gw.example.com");
        for hosts in [&[][..], &[b"anything".as_slice()], &[b"a@b".as_slice()], &[b"a".as_slice(), b"b".as_slice()]] {
            assert_eq!(check(&guard, Version::HTTP_11, "/api/v1/keys", hosts, &[]), Ok(()), "{hosts:?}");
        }
    }

    #[test]
    fn a_wrong_entry_is_told_by_name() {
        let front = tcp("127.0.0.1:7400");
        for (hosts, origins, expected) in [
            (
                &["https://a.example"][..],
                &[][..],
                r#"allowed_hosts "https://a.example" is not a host, or a host and a port"#,
            ),
            (&["*.example.com"], &[], r#"allowed_hosts "*.example.com" is not a host, or a host and a port"#),
            (&[], &["a.example"], r#"allowed_origins "a.example" is not an origin such as https://example.com"#),
            (&[], &["null"], r#"allowed_origins "null" is not an origin such as https://example.com"#),
            (
                &[],
                &["https://a.example/"],
                r#"allowed_origins "https://a.example/" is not an origin such as https://example.com"#,
            ),
        ] {
            let error = HostGuard::new(front, "http://localhost:7400", &strings(hosts), &strings(origins)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn refusals_are_small_json() {
        for (refused, status, code) in [
            (BadHost, StatusCode::BAD_REQUEST, "bad_host"),
            (ForbiddenHost, StatusCode::FORBIDDEN, "forbidden_host"),
            (ForbiddenOrigin, StatusCode::FORBIDDEN, "forbidden_origin"),
        ] {
            let response = refused.into_response();
            assert_eq!(response.status(), status);
            let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body, json!({ "error": code, "message": refused.to_string() }));
        }
    }
}
