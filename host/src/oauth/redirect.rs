//! Redirect URIs: which ones a client may register, and which ones count as registered (RFC 9700 §2.1, RFC 8252 §7 and §8).
//!
//! They are compared as they were written, byte for byte; only the port of an address on the client's own machine may
//! differ, since that is chosen when the client runs. What browsers and libraries read in different ways is refused on
//! registration, so that a text that was registered means the same to everybody.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::client::Metadata;

/// Schemes that run or read something in the browser itself.
const DANGEROUS: [&str; 12] = [
    "javascript",
    "data",
    "file",
    "blob",
    "vbscript",
    "about",
    "filesystem",
    "view-source",
    "chrome",
    "ftp",
    "ws",
    "wss",
];

/// A redirect URI that may be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri<'a> {
    text: &'a str,
    kind: Kind<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind<'a> {
    Https {
        host: &'a str,
    },
    /// On the machine of the person (RFC 8252 §7.3). `rest` is path and query.
    Loopback {
        host: &'a str,
        rest: &'a str,
    },
    /// Of an application (RFC 8252 §7.1).
    Private {
        scheme: &'a str,
    },
}

/// Why a redirect URI may not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedirect {
    #[error("a redirect URI has 1 to {} bytes", Metadata::MAX_URI)]
    Length,
    #[error("a redirect URI has printable ASCII characters only, and no backslash, quotation mark, '<' or '>'")]
    Character,
    #[error("a redirect URI has no fragment")]
    Fragment,
    #[error("a redirect URI begins with a scheme in lower case, and https and http are followed by '//'")]
    Scheme,
    #[error(
        "this scheme is not for redirect URIs: use https, http on the loopback interface, or a scheme of the application's own domain such as com.example.app"
    )]
    SchemeRefused,
    #[error("http is for 127.0.0.1, [::1] and localhost only: use https")]
    NotLoopback,
    #[error(
        "the host of a redirect URI is a plain name or address, without user and escapes, and its port a number up to 65535"
    )]
    Authority,
    #[error("the path of a redirect URI has no '.' or '..' and no escaped '/' or '.'")]
    Path,
}

impl<'a> RedirectUri<'a> {
    /// The redirect URI of this text, if a client may register it. `schemes` are those of applications that the operator
    /// trusts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &'a str, schemes: &[String]) -> Result<Self, InvalidRedirect> {
        if !(1..=Metadata::MAX_URI).contains(&text.len()) {
            return Err(InvalidRedirect::Length);
        }
        let is_fine = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>' | b'`');
        if !text.bytes().all(is_fine) {
            return Err(InvalidRedirect::Character);
        }
        if text.contains('#') {
            return Err(InvalidRedirect::Fragment);
        }
        let (scheme, after) = text.split_once(':').ok_or(InvalidRedirect::Scheme)?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
        if !is_scheme {
            // Told apart, so that nobody looks for a typing error in what is no oversight.
            let is_dangerous = DANGEROUS.contains(&scheme.to_ascii_lowercase().as_str());
            return Err(if is_dangerous { InvalidRedirect::SchemeRefused } else { InvalidRedirect::Scheme });
        }
        let kind = match scheme {
            "https" => {
                let (host, rest) = authority(after)?;
                check_path(rest)?;
                Kind::Https { host }
            }
            "http" => {
                let (host, rest) = authority(after)?;
                if !is_loopback(host) {
                    return Err(InvalidRedirect::NotLoopback);
                }
                check_path(rest)?;
                Kind::Loopback { host, rest }
            }
            _ => {
                let is_of_domain = scheme.contains('.') && scheme.split('.').all(|label| !label.is_empty());
                let is_trusted = is_of_domain || schemes.iter().any(|trusted| trusted == scheme);
                if DANGEROUS.contains(&scheme) || !is_trusted {
                    return Err(InvalidRedirect::SchemeRefused);
                }
                check_path(after)?;
                Kind::Private { scheme }
            }
        };
        Ok(Self { text, kind })
    }

    /// Whether `presented` counts as this one: the same text, or the same on another port of the client's own machine.
    pub fn matches(&self, presented: &str) -> bool {
        if presented == self.text {
            return true;
        }
        let Kind::Loopback { host, rest } = self.kind else { return false };
        let Some(after) = presented.strip_prefix("http:") else { return false };
        authority(after).is_ok_and(|(other, others_rest)| other == host && others_rest == rest)
    }

    /// Whom the browser is sent to, for people to read: a host, or the scheme of an application.
    pub fn destination(&self) -> String {
        match self.kind {
            Kind::Https { host } | Kind::Loopback { host, .. } => host.to_ascii_lowercase(),
            Kind::Private { scheme } => format!("{scheme}:"),
        }
    }

    /// Whether any program on the person's machine may be at the other end (RFC 8252 §8.6): what is asked for then is never
    /// given without a person. https does not change that where the host is the machine itself (`docs/threat-model.md` row
    /// T13).
    pub fn is_on_own_machine(&self) -> bool {
        match self.kind {
            Kind::Https { host } => leads_home(host),
            Kind::Loopback { .. } | Kind::Private { .. } => true,
        }
    }
}

/// Hosts for which http is taken, and whose port may differ.
pub(super) fn is_loopback(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "[::1]" | "localhost")
}

/// Whether a browser finds this host on the machine that it runs on, in whatever notation (RFC 6761 §6.3). The unspecified
/// address leads there as well.
fn leads_home(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| {
            let embedded = address.to_ipv4();
            address.is_loopback() || address.is_unspecified() || embedded.is_some_and(is_own)
        });
    }
    let host = host.to_ascii_lowercase();
    host.parse::<Ipv4Addr>().is_ok_and(is_own) || host == "localhost" || host.ends_with(".localhost")
}

const fn is_own(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Host, and what comes behind the port, of `//host:port/path?query`.
pub(super) fn authority(after_scheme: &str) -> Result<(&str, &str), InvalidRedirect> {
    let after = after_scheme.strip_prefix("//").ok_or(InvalidRedirect::Scheme)?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (authority, rest) = after.split_at(end);
    let port_at = match authority.strip_prefix('[') {
        // The colons inside are the address's.
        Some(address) => address.find(']').map(|at| at + 2).ok_or(InvalidRedirect::Authority)?,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(port_at).ok_or(InvalidRedirect::Authority)?;
    let is_port = |port: &str| {
        let digits = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let has_fine_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    if !has_fine_port || !is_host(host) {
        return Err(InvalidRedirect::Authority);
    }
    Ok((host, rest))
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last_is_number =
        host.rsplit('.').next().is_some_and(|last| last.starts_with(|first: char| first.is_ascii_digit()));
    // A host that ends in a number is an address to a browser, in whatever notation.
    let is_address = host.parse::<Ipv4Addr>().is_ok();
    host.len() <= 253 && host.split('.').all(is_label) && (is_address || !last_is_number)
}

/// What a browser would resolve or decode before it goes there.
pub(super) fn check_path(rest: &str) -> Result<(), InvalidRedirect> {
    let path = rest.split('?').next().unwrap_or_default();
    let escaped = path.to_ascii_lowercase();
    let has_escape = ["%2e", "%2f", "%5c"].iter().any(|escape| escaped.contains(escape));
    let has_dots = path.split('/').any(|segment| segment == "." || segment == "..");
    if has_escape || has_dots { Err(InvalidRedirect::Path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RedirectUri<'_>, InvalidRedirect> {
        RedirectUri::parse(text, &["cursor".to_owned()])
    }

    #[test]
    fn what_clients_register_is_taken() {
        for (text, destination, is_on_own_machine) in [
            ("https://client.example/callback", "client.example", false),
            ("https://Client.Example:8443/callback?a=b", "client.example", false),
            ("https://192.0.2.1/cb", "192.0.2.1", false),
            ("https://[2001:db8::1]/cb", "[2001:db8::1]", false),
            ("https://client.example", "client.example", false),
            ("https://client.example?x=1", "client.example", false),
            ("https://localhost.example/cb", "localhost.example", false),
            ("https://128.0.0.1/cb", "128.0.0.1", false),
            ("https://localhost/cb", "localhost", true),
            ("https://LocalHost:8443/cb", "localhost", true),
            ("https://app.localhost/cb", "app.localhost", true),
            ("https://127.0.0.1/cb", "127.0.0.1", true),
            ("https://127.1.2.3:8443/cb", "127.1.2.3", true),
            ("https://0.0.0.0/cb", "0.0.0.0", true),
            ("https://[::1]/cb", "[::1]", true),
            ("https://[0:0:0:0:0:0:0:1]/cb", "[0:0:0:0:0:0:0:1]", true),
            ("https://[::ffff:127.0.0.1]/cb", "[::ffff:127.0.0.1]", true),
            ("https://[::]/cb", "[::]", true),
            ("http://127.0.0.1:33418", "127.0.0.1", true),
            ("http://localhost/callback", "localhost", true),
            ("http://[::1]:3000/cb", "[::1]", true),
            ("cursor://anysphere.cursor-mcp/oauth/callback", "cursor:", true),
            ("com.example.app:/oauth", "com.example.app:", true),
        ] {
            let redirect = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (redirect.destination().as_str(), redirect.is_on_own_machine()),
                (destination, is_on_own_machine),
                "{text}"
            );
            assert!(redirect.matches(text));
        }
    }

    /// `docs/threat-model.md` rows A1 and A3.
    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        use InvalidRedirect::{Authority, Character, Fragment, Length, NotLoopback, Path, Scheme, SchemeRefused};
        let long = format!("https://client.example/{}", "x".repeat(Metadata::MAX_URI));
        for (text, expected) in [
            ("", Length),
            (&*long, Length),
            ("https://client.example/cb#", Fragment),
            ("https://client.example/cb#a", Fragment),
            ("https://client.example/cb ", Character),
            (" https://client.example/cb", Character),
            ("\u{1}javascript:alert(1)", Character),
            ("java\tscript:alert(1)", Character),
            ("https://client.example\\@evil.example/", Character),
            ("https://client.example/\n", Character),
            ("https://clïent.example/cb", Character),
            ("https://client.example/\"><script>", Character),
            ("https://user@client.example/cb", Authority),
            ("https://client.example@evil.example/cb", Authority),
            ("https://user:pass@client.example/cb", Authority),
            ("https://client%2eexample/cb", Authority),
            ("https://client..example/cb", Authority),
            ("https://client.example./cb", Authority),
            ("https:///cb", Authority),
            ("https://", Authority),
            ("https://client.example:0/cb", Authority),
            ("https://client.example:65536/cb", Authority),
            ("https://client.example:/cb", Authority),
            ("https://client.example:+80/cb", Authority),
            ("https://[::1/cb", Authority),
            ("https://[::1]x/cb", Authority),
            ("https://[fe80::1%25eth0]/cb", Authority),
            ("https://*.client.example/cb", Authority),
            ("https://0x7f.1/cb", Authority),
            ("https://2130706433/cb", Authority),
            ("https://127.1/cb", Authority),
            ("https:client.example/cb", Scheme),
            ("https:/client.example/cb", Scheme),
            ("//client.example/cb", Scheme),
            ("/cb", Scheme),
            ("HTTPS://client.example/cb", Scheme),
            ("https://client.example/a/../cb", Path),
            ("https://client.example/./cb", Path),
            ("https://client.example/..", Path),
            ("https://client.example/%2e%2e/cb", Path),
            ("https://client.example/a%2Fcb", Path),
            ("https://client.example/a%5ccb", Path),
            ("http://client.example/cb", NotLoopback),
            ("http://127.0.0.2/cb", NotLoopback),
            ("http://LOCALHOST/cb", NotLoopback),
            ("http://localhost.evil.example/cb", NotLoopback),
            ("http://127.0.0.1.evil.example/cb", NotLoopback),
            ("http://localhost@evil.example/cb", Authority),
            ("javascript:alert(1)", SchemeRefused),
            ("JavaScript:alert(1)", SchemeRefused),
            ("data:text/html,x", SchemeRefused),
            ("file:///etc/passwd", SchemeRefused),
            ("blob:https://client.example/x", SchemeRefused),
            ("vbscript:x", SchemeRefused),
            ("about:blank", SchemeRefused),
            ("myapp://callback", SchemeRefused),
            ("com.:/x", SchemeRefused),
        ] {
            assert_eq!(parse(text).err(), Some(expected), "{text}");
        }
        assert_eq!(RedirectUri::parse("javascript:x", &["javascript".to_owned()]).err(), Some(SchemeRefused));
    }

    /// `docs/threat-model.md` row A2.
    #[test]
    fn only_the_port_of_the_own_machine_may_differ() {
        let registered = "http://localhost:3000/callback?a=1";
        for (presented, expected) in [
            ("http://localhost:3000/callback?a=1", true),
            ("http://localhost:49152/callback?a=1", true),
            ("http://localhost/callback?a=1", true),
            ("http://127.0.0.1:3000/callback?a=1", false),
            ("http://[::1]:3000/callback?a=1", false),
            ("http://localhost:3000/callback", false),
            ("http://localhost:3000/callback?a=1&b=2", false),
            ("http://localhost:3000/callback/?a=1", false),
            ("http://localhost:3000/Callback?a=1", false),
            ("https://localhost:3000/callback?a=1", false),
            ("http://localhost:0/callback?a=1", false),
            ("http://localhost:99999/callback?a=1", false),
            ("http://localhost:3000@evil.example/callback?a=1", false),
            ("http://localhost:3000/callback?a=1#x", false),
            ("http://LOCALHOST:3000/callback?a=1", false),
        ] {
            assert_eq!(parse(registered).unwrap().matches(presented), expected, "{presented}");
        }
        for (registered, presented) in [
            ("https://client.example/cb", "https://client.example:443/cb"),
            ("https://client.example:8443/cb", "https://client.example:8444/cb"),
            ("https://client.example/cb", "https://client.example/cb/"),
            ("https://client.example/cb", "https://Client.example/cb"),
            ("https://client.example/cb", "https://client.example/cb?x=1"),
            ("https://client.example/cb", "https://client.example.evil.example/cb"),
            ("https://client.example", "https://client.example/"),
            ("cursor://a/cb", "cursor://b/cb"),
            ("cursor://a:1/cb", "cursor://a:2/cb"),
            ("com.example.app:/cb", "com.example.app:/cb2"),
        ] {
            assert!(!parse(registered).unwrap().matches(presented), "{registered} {presented}");
        }
    }
}
