//! Addresses that others name, and which of them may be plain http.

use std::fmt;

use http::Uri;

use super::super::redirect;

/// Longest address, in bytes.
const MAX_LEN: usize = 2048;

/// An absolute http or https URL without credentials and fragment, which every program reads in the same way.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    /// Scheme, host in lower case, and port unless it is the scheme's own.
    origin: String,
    /// Where the path begins.
    path_at: usize,
    is_https: bool,
    is_loopback: bool,
    uri: Uri,
}

impl Address {
    /// The address that is written like this.
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !br##""#<>\^`{|}"##.contains(&byte);
        if text.len() > MAX_LEN || !text.bytes().all(is_plain) {
            return None;
        }
        let (scheme, rest) = text.split_once(':')?;
        let (is_https, own_port) = match scheme {
            "https" => (true, ":443"),
            "http" => (false, ":80"),
            _ => return None,
        };
        let (host, path) = redirect::authority(rest).ok()?;
        redirect::check_path(path).ok()?;
        let path_at = text.len() - path.len();
        let authority = &text[scheme.len() + "://".len()..path_at];
        let port = authority.strip_prefix(host).filter(|port| *port != own_port).unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let origin = format!("{scheme}://{host}{port}");
        let is_loopback = redirect::is_loopback(&host);
        Some(Self { origin, path_at, is_https, is_loopback, uri: text.parse().ok()?, text: text.to_owned() })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Scheme, host and port, without a slash at its end.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Empty, or from its first slash on.
    pub fn path(&self) -> &str {
        self.rest().split('?').next().unwrap_or_default()
    }

    /// What follows the first question mark.
    pub fn query(&self) -> Option<&str> {
        self.rest().split_once('?').map(|(_, query)| query)
    }

    fn rest(&self) -> &str {
        &self.text[self.path_at..]
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The addresses that an operator wrote for an upstream: its own, and its issuer's. They may be plain http, and so may what
/// is at the same origin; where they are on this machine, so may everything that is (`docs/threat-model.md` row U2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouched(Vec<Address>);

impl Vouched {
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Self {
        Self(addresses.into_iter().collect())
    }

    /// Whether tokens and people may be sent there.
    pub fn accepts(&self, address: &Address) -> bool {
        let is_local = |own: &Address| own.is_loopback && !own.is_https;
        let is_like = |own: &Address| own.origin == address.origin || (address.is_loopback && is_local(own));
        address.is_https || self.0.iter().any(is_like)
    }

    /// An address that somebody named, if it may be used.
    pub fn read(&self, text: &str) -> Option<Address> {
        Address::parse(text).filter(|address| self.accepts(address))
    }

    /// The same for an issuer, which has neither query nor fragment (RFC 8414 §2).
    pub fn read_issuer(&self, text: &str) -> Option<Address> {
        self.read(text).filter(|address| address.query().is_none())
    }

    /// What the operator wrote.
    pub fn addresses(&self) -> &[Address] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn an_address_is_taken_apart_as_it_is_written() {
        for (text, origin, path, query) in [
            ("https://as.example", "https://as.example", "", None),
            ("https://AS.example:443/", "https://as.example", "/", None),
            ("https://as.example:8443/a/b?x=1?y", "https://as.example:8443", "/a/b", Some("x=1?y")),
            ("http://[::1]:80?x", "http://[::1]", "", Some("x")),
            ("http://localhost:3000/mcp", "http://localhost:3000", "/mcp", None),
        ] {
            let address = address(text);
            assert_eq!(
                (address.as_str(), address.origin(), address.path(), address.query()),
                (text, origin, path, query)
            );
        }
    }

    #[test]
    fn u6_what_could_be_read_in_two_ways_is_no_address() {
        for text in [
            "",
            "as.example",
            "//as.example",
            "HTTPS://as.example",
            "ftp://as.example",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "https:as.example",
            "https://",
            "https:///x",
            "https://user@as.example",
            "https://as.example#x",
            "https://as.example/a b",
            "https://as.example/\"",
            "https://as.example/$(reboot)`x`",
            "https://as.example\\@evil.example",
            "https://as.example/a/../b",
            "https://as.example/a/%2e%2e/b",
            "https://as.example:0/",
            "https://as.example:65536/",
            "https://1.2.3/",
            "https://ä.example",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
        assert_eq!(Address::parse(&format!("https://as.example/{}", "x".repeat(MAX_LEN))), None);
    }

    #[test]
    fn u2_plain_http_is_for_what_the_operator_wrote() {
        let remote = Vouched::new([address("https://mcp.example/mcp")]);
        let internal = Vouched::new([address("http://mcp.internal:8080/mcp")]);
        let local = Vouched::new([address("http://localhost:9000/mcp")]);
        for (text, by_remote, by_internal, by_local) in [
            ("https://as.example/token", true, true, true),
            ("http://as.example/token", false, false, false),
            ("http://mcp.example/token", false, false, false),
            ("http://mcp.internal:8080/token", false, true, false),
            ("http://mcp.internal:8081/token", false, false, false),
            ("http://127.0.0.1:7000/token", false, false, true),
            ("http://localhost/token", false, false, true),
            ("http://localhost.evil.example/token", false, false, false),
        ] {
            let address = address(text);
            let accepted = (remote.accepts(&address), internal.accepts(&address), local.accepts(&address));
            assert_eq!(accepted, (by_remote, by_internal, by_local), "{text}");
        }
        assert!(remote.read_issuer("https://as.example/tenant").is_some());
        assert!(remote.read_issuer("https://as.example/?tenant=1").is_none());
    }
}
