//! Targets that an operator vouches for, so that the rules for strangers' URLs do not hold for them.
//!
//! A trusted target may speak plain http, on any port, at a private address. Entries come from `outbound.allow` or from
//! the origin of something configured ([`TrustedEntry::origin`]); nothing that was discovered or sent by a client is
//! ever added.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

use super::address::{Host, Network};

/// Why an entry of `outbound.allow` cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrustError {
    #[error("neither a network (10.0.0.0/8), an address, a host name nor host:port")]
    Unreadable,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("the prefix length does not fit, or the address has bits beyond it")]
    Network,
}

/// One target, or all of a network; on one port or on any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedEntry {
    place: Place,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Every name that leads to these addresses is trusted with them.
    Network(Network),
    /// Trusted wherever it leads. In lower case, matched whole.
    Name(Box<str>),
}

impl TrustedEntry {
    /// Scheme, host and port of a configured URL; `None` if it has no host or one that is never spoken to.
    pub fn origin(url: &Uri) -> Option<Self> {
        let default = match url.scheme_str()? {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        Some(Self { place: Place::from(Host::parse(url.host()?)?), port: Some(url.port_u16().unwrap_or(default)) })
    }

    fn covers_name(&self, name: &str, port: u16) -> bool {
        matches!(&self.place, Place::Name(own) if **own == *name) && self.covers_port(port)
    }

    fn covers_address(&self, address: IpAddr, port: u16) -> bool {
        matches!(&self.place, Place::Network(network) if network.contains(address)) && self.covers_port(port)
    }

    fn covers_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

impl From<Host> for Place {
    fn from(host: Host) -> Self {
        match host {
            Host::Address(address) => Self::Network(Network::of(address)),
            Host::Name(name) => Self::Name(name),
        }
    }
}

/// As [`Trusted::parse`] reads it.
impl fmt::Display for TrustedEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.port) {
            (Place::Name(name), None) => formatter.write_str(name),
            (Place::Network(network), None) => network.fmt(formatter),
            (Place::Name(name), Some(port)) => write!(formatter, "{name}:{port}"),
            (Place::Network(network), Some(port)) => write!(formatter, "{}:{port}", Bracketed(*network)),
        }
    }
}

/// A network before a port: only single addresses get one.
struct Bracketed(Network);

impl fmt::Display for Bracketed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        if text.contains(':') { write!(formatter, "[{text}]") } else { formatter.write_str(&text) }
    }
}

/// All targets that are vouched for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    entries: Vec<TrustedEntry>,
}

impl Trusted {
    /// Nothing at all.
    pub const fn none() -> Self {
        Self { entries: Vec::new() }
    }

    /// What is trusted, entry by entry.
    pub fn entries(&self) -> &[TrustedEntry] {
        &self.entries
    }

    /// Reads one entry: a network (`10.0.0.0/8`, `fd00::/8`), an address, a host name, or one of the last two with a
    /// port (`idp.internal:8080`, `127.0.0.1:9000`, `[::1]:9000`). Names are compared whole and without regard to case.
    pub fn parse(text: &str) -> Result<TrustedEntry, TrustError> {
        let network = |network| TrustedEntry { place: Place::Network(network), port: None };
        if let Some((base, prefix)) = text.split_once('/') {
            let base: IpAddr = base.parse().map_err(|_| TrustError::Unreadable)?;
            let prefix = number(prefix).ok_or(TrustError::Network)?;
            return Network::new(base, prefix).map(network).ok_or(TrustError::Network);
        }
        if let Ok(address) = text.parse() {
            return Ok(network(Network::of(address)));
        }
        // What follows the last colon is a port, unless the colon belongs to an address in brackets.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, Some(number(port).filter(|port| *port != 0).ok_or(TrustError::Port)?))
            }
            _ => (text, None),
        };
        let host = Host::parse(host).ok_or(TrustError::Unreadable)?;
        Ok(TrustedEntry { place: host.into(), port })
    }

    /// The same with one entry more.
    #[must_use]
    pub fn with(mut self, entry: TrustedEntry) -> Self {
        self.entries.push(entry);
        self
    }

    /// Whether a name is trusted wherever it leads.
    pub(super) fn covers_name(&self, name: &str, port: u16) -> bool {
        self.entries.iter().any(|entry| entry.covers_name(name, port))
    }

    /// Whether an address is trusted, whatever name led to it.
    pub(super) fn covers_address(&self, address: IpAddr, port: u16) -> bool {
        self.entries.iter().any(|entry| entry.covers_address(address, port))
    }

    /// Whether any address at all is trusted on this port.
    pub(super) fn covers_addresses(&self, port: u16) -> bool {
        self.entries.iter().any(|entry| matches!(entry.place, Place::Network(_)) && entry.covers_port(port))
    }
}

impl FromIterator<TrustedEntry> for Trusted {
    fn from_iter<I: IntoIterator<Item = TrustedEntry>>(entries: I) -> Self {
        Self { entries: entries.into_iter().collect() }
    }
}

/// A number of digits only, without leading zeros.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let plain = text == "0" || !text.starts_with('0');
    (plain && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn entries_are_read_and_written_back() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("FD00:0::/16", "fd00::/16"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.1.2.3:8080", "10.1.2.3:8080"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::1]:8080", "[::1]:8080"),
            ("idp.internal", "idp.internal"),
            ("IdP.Internal:8443", "idp.internal:8443"),
            ("localhost:1", "localhost:1"),
            ("keycloak:65535", "keycloak:65535"),
        ] {
            let entry = Trusted::parse(text).unwrap();
            assert_eq!(entry.to_string(), shown, "{text}");
            assert_eq!(Trusted::parse(shown), Ok(entry), "{shown}");
        }
    }

    #[test]
    fn what_is_not_an_entry_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", TrustError::Unreadable),
            (" idp", TrustError::Unreadable),
            ("*", TrustError::Unreadable),
            ("*.internal", TrustError::Unreadable),
            (".internal", TrustError::Unreadable),
            ("https://idp.internal", TrustError::Unreadable),
            ("user@idp.internal", TrustError::Unreadable),
            ("idp.internal/8", TrustError::Unreadable),
            ("127.1", TrustError::Unreadable),
            ("0x7f000001", TrustError::Unreadable),
            ("2130706433:80", TrustError::Unreadable),
            ("010.0.0.1", TrustError::Unreadable),
            ("[10.0.0.1]", TrustError::Unreadable),
            ("[::1", TrustError::Unreadable),
            ("10.0.0.0/8:80", TrustError::Network),
            ("10.0.0.1/8", TrustError::Network),
            ("10.0.0.0/33", TrustError::Network),
            ("10.0.0.0/", TrustError::Network),
            ("10.0.0.0/+8", TrustError::Network),
            ("10.0.0.0/08", TrustError::Network),
            ("fd00::/129", TrustError::Network),
            ("idp:", TrustError::Port),
            ("idp:0", TrustError::Port),
            ("idp:+80", TrustError::Port),
            ("idp:080", TrustError::Port),
            ("idp:65536", TrustError::Port),
            ("idp:http", TrustError::Port),
            ("fd00::1:70000", TrustError::Port),
        ] {
            assert_eq!(Trusted::parse(text), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn names_match_whole_and_ports_when_given() {
        let trusted: Trusted =
            ["idp.internal", "as.internal:8080"].map(|text| Trusted::parse(text).unwrap()).into_iter().collect();
        assert!(trusted.covers_name("idp.internal", 1));
        assert!(!trusted.covers_name("x.idp.internal", 443));
        assert!(!trusted.covers_name("idp.internal.evil.example", 443));
        assert!(trusted.covers_name("as.internal", 8080));
        assert!(!trusted.covers_name("as.internal", 443));
        assert!(!trusted.covers_addresses(443));
        assert!(!trusted.covers_address(address("10.0.0.1"), 443));
        assert!(!Trusted::none().covers_name("idp.internal", 443));
    }

    #[test]
    fn networks_match_addresses_and_never_names() {
        let trusted: Trusted =
            ["10.0.0.0/8", "[::1]:9000"].map(|text| Trusted::parse(text).unwrap()).into_iter().collect();
        assert!(trusted.covers_address(address("10.255.0.1"), 1));
        assert!(!trusted.covers_address(address("11.0.0.1"), 1));
        assert!(!trusted.covers_address(address("::ffff:10.0.0.1"), 1), "what is inside does not count");
        assert!(trusted.covers_address(address("::1"), 9000));
        assert!(!trusted.covers_address(address("::1"), 9001));
        assert!(!trusted.covers_name("10.0.0.1", 1));
        assert!(trusted.covers_addresses(80));
    }

    #[test]
    fn an_origin_is_a_host_and_its_port() {
        for (url, shown) in [
            ("https://mcp.example/mcp?x=1", Some("mcp.example:443")),
            ("http://mcp.example/mcp", Some("mcp.example:80")),
            ("http://127.0.0.1:9000/", Some("127.0.0.1:9000")),
            ("http://[::1]:9000/", Some("[::1]:9000")),
            ("ftp://mcp.example/", None),
            ("/mcp", None),
            ("http://127.1/", None),
        ] {
            let entry = TrustedEntry::origin(&url.parse().unwrap());
            assert_eq!(entry.map(|entry| entry.to_string()).as_deref(), shown, "{url}");
        }
    }
}
