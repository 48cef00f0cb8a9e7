//! Whose word about where a request came from counts (threat H1).
//!
//! A pure walk: from the peer of the socket leftward through what it says, hop by hop, as long as the hop that speaks is a
//! trusted proxy. Who sends such a header without being one is not asked. What the result is for: limits for each address,
//! and what trails say. It is deliberately nobody's identity, and no rule about loopback listeners, `Host` or `Origin`
//! reads it; scheme and host that a proxy tells are never read at all. A name in `Connection` neither hides nor adds a
//! header here. `X-Forwarded-For`, and RFC 7239 where that is absent.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::outbound::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Hops that are looked at, from the nearest one.
const MOST_HOPS: usize = 32;

/// Peers that may say for whom they speak.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    pub fn new(trusted: Vec<Network>) -> Self {
        Self(trusted)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Where a request of this peer came from, if the peer is trusted and says so: the nearest hop that is not itself
    /// trusted. A hop that cannot be read ends the walk at the one before it.
    pub(super) fn client_of(&self, peer: SocketAddr, headers: &HeaderMap) -> Option<IpAddr> {
        if !self.trusts(peer.ip().to_canonical()) {
            return None;
        }
        let mut client = None;
        for hop in hops(headers).into_iter().rev().take(MOST_HOPS) {
            let Some(hop) = hop else { break };
            client = Some(hop);
            if !self.trusts(hop) {
                break;
            }
        }
        client
    }
}

/// What the headers say, the farthest hop first. `None` stands for one that cannot be read.
fn hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    // Bytes that are no text make a hop that cannot be read, and leave those beside it alone.
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    if headers.contains_key(X_FORWARDED_FOR) {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().map(text);
        return lines.flat_map(|line| line.split(',').map(|hop| node(hop.trim())).collect::<Vec<_>>()).collect();
    }
    headers.get_all(header::FORWARDED).iter().flat_map(|value| forwarded(&text(value))).collect()
}

/// A line of `Forwarded`: for each element, who is after `for=`. A line whose quotes do not close is one hop that cannot be
/// read, since nobody knows where its elements end.
fn forwarded(line: &str) -> Vec<Option<IpAddr>> {
    let Some(elements) = split(line, ',') else { return vec![None] };
    let of_element = |element: &str| {
        let pairs = split(element, ';')?;
        let mut named = pairs.into_iter().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
        });
        match (named.next(), named.next()) {
            // A token cannot have a colon or a bracket, so that an IPv6 address or a port comes in quotes.
            (Some(value), None) => match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                Some(quoted) => node(quoted),
                None => value.parse().ok().filter(IpAddr::is_ipv4),
            },
            _ => None,
        }
    };
    elements.into_iter().map(of_element).collect()
}

/// The parts between separators that are not in quotes. `None` if a quote is not closed.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if quoted && character == '\\' {
            escaped = true;
        } else if character == '"' {
            quoted = !quoted;
        } else if character == separator && !quoted {
            parts.push(text[start..at].trim());
            start = at + separator.len_utf8();
        }
    }
    parts.push(text[start..].trim());
    (!quoted).then_some(parts)
}

/// An address, perhaps with a port: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (address, rest) = bracketed.split_once(']')?;
            let is_port = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
            let address: Ipv6Addr = address.parse().ok().filter(|_| is_port)?;
            IpAddr::V6(address)
        }
        None => match text.parse() {
            Ok(address) => address,
            Err(_) => {
                let (address, port) = text.split_once(':')?;
                IpAddr::V4(address.parse().ok().filter(|_| is_port(port))?)
            }
        },
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies() -> Proxies {
        let network = |base: &str, prefix| Network::new(base.parse().unwrap(), prefix).unwrap();
        Proxies::new(vec![network("10.0.0.0", 8), network("::1", 128), network("fd00::", 8)])
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> Option<String> {
        let client = proxies().client_of(peer.parse().unwrap(), &headers(lines));
        client.map(|client| client.to_string())
    }

    #[test]
    fn h1_a_trusted_proxy_says_for_whom_it_speaks() {
        const XFF: &str = "x-forwarded-for";
        let proxy = "10.0.0.1:4000";
        for (what, value, expected) in [
            ("one hop", "192.0.2.7", Some("192.0.2.7")),
            ("what the caller made up stands to the left", "1.2.3.4, 192.0.2.7", Some("192.0.2.7")),
            ("a proxy before the proxy", "1.2.3.4, 192.0.2.7, 10.9.9.9", Some("192.0.2.7")),
            ("proxies all the way", "10.1.1.1, 10.2.2.2", Some("10.1.1.1")),
            ("with a port", "192.0.2.7:55123", Some("192.0.2.7")),
            ("IPv6", "2001:db8::7", Some("2001:db8::7")),
            ("IPv6 in brackets", "[2001:db8::7]", Some("2001:db8::7")),
            ("IPv6 with a port", "[2001:db8::7]:443", Some("2001:db8::7")),
            ("an IPv4 address within IPv6", "::ffff:192.0.2.7", Some("192.0.2.7")),
            ("a trusted IPv4 address within IPv6", "192.0.2.7, ::ffff:10.3.3.3", Some("192.0.2.7")),
            ("nothing", "", None),
            ("no address", "unknown", None),
            ("a name", "localhost", None),
            ("a port that is none", "192.0.2.7:", None),
            ("a port too large", "192.0.2.7:65536", None),
            ("a port with a sign", "192.0.2.7:+80", None),
            ("a zone", "fe80::1%eth0", None),
            ("leading zeros", "010.0.0.1", None),
            ("a hop that cannot be read ends the walk", "192.0.2.7, unknown, 10.1.1.1", Some("10.1.1.1")),
            ("an empty hop too", "192.0.2.7,,10.1.1.1", Some("10.1.1.1")),
            ("and one of other bytes", "192.0.2.7, \u{e9}, 10.1.1.1", Some("10.1.1.1")),
        ] {
            assert_eq!(client(proxy, &[(XFF, value)]).as_deref(), expected, "{what}: {value}");
        }
        let lines = [(XFF, "1.2.3.4"), (XFF, "192.0.2.7, 10.1.1.1"), (XFF, "10.2.2.2")];
        assert_eq!(client(proxy, &lines).as_deref(), Some("192.0.2.7"), "lines are one list");
        assert_eq!(client("[::ffff:10.0.0.1]:4000", &lines).as_deref(), Some("192.0.2.7"), "the peer within IPv6");
        assert_eq!(client("[::1]:4000", &lines).as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn h1_strangers_say_nothing() {
        for peer in ["192.0.2.1:4000", "127.0.0.1:4000", "[2001:db8::1]:4000", "[::ffff:192.0.2.1]:4000"] {
            assert_eq!(client(peer, &[("x-forwarded-for", "1.2.3.4")]), None, "{peer}");
            assert_eq!(client(peer, &[("forwarded", "for=1.2.3.4")]), None, "{peer}");
        }
        let nobody = Proxies::default();
        let headers = headers(&[("x-forwarded-for", "1.2.3.4")]);
        assert_eq!(nobody.client_of("127.0.0.1:1".parse().unwrap(), &headers), None);
    }

    #[test]
    fn h1_twins_and_hop_by_hop_names_change_nothing() {
        let proxy = "10.0.0.1:4000";
        assert_eq!(client(proxy, &[("x_forwarded_for", "1.2.3.4")]), None);
        let twins = [("x_forwarded_for", "1.2.3.4"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client(proxy, &twins).as_deref(), Some("192.0.2.7"));
        let hidden = [("connection", "x-forwarded-for, forwarded"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client(proxy, &hidden).as_deref(), Some("192.0.2.7"));
        for name in ["x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "client-ip", "x-forwarded"] {
            assert_eq!(client(proxy, &[(name, "1.2.3.4")]), None, "{name}");
        }
    }

    #[test]
    fn h1_forwarded_is_read_where_the_other_is_absent() {
        let proxy = "10.0.0.1:4000";
        for (value, expected) in [
            ("for=192.0.2.7", Some("192.0.2.7")),
            ("For=\"192.0.2.7:47011\"", Some("192.0.2.7")),
            ("for=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17")),
            ("for=1.2.3.4, for=192.0.2.7;proto=http;by=203.0.113.43", Some("192.0.2.7")),
            ("for=192.0.2.7, for=10.1.1.1", Some("192.0.2.7")),
            ("proto=https;host=\"a,for=1.2.3.4\";for=192.0.2.7", Some("192.0.2.7")),
            ("for=192.0.2.7;host=\"x\\\", for=1.2.3.4\"", Some("192.0.2.7")),
            ("for=unknown", None),
            ("for=_hidden", None),
            ("for=", None),
            ("for=192.0.2.7:80", None),
            ("for=2001:db8::7", None),
            ("by=192.0.2.7", None),
            ("for=192.0.2.7;for=1.2.3.4", None),
            ("for=\"192.0.2.7", None),
            ("for=192.0.2.7, for=\"", None),
            ("", None),
        ] {
            assert_eq!(client(proxy, &[("forwarded", value)]).as_deref(), expected, "{value}");
        }
        let lines = [("forwarded", "for=\"1.2.3.4"), ("forwarded", "for=192.0.2.7")];
        assert_eq!(
            client(proxy, &lines).as_deref(),
            Some("192.0.2.7"),
            "an open quote of another line swallows nothing"
        );
        let both = [("forwarded", "for=1.2.3.4"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client(proxy, &both).as_deref(), Some("192.0.2.7"));
        let both = [("forwarded", "for=1.2.3.4"), ("x-forwarded-for", "unknown")];
        assert_eq!(client(proxy, &both), None, "never the one where the other fails");
    }

    #[test]
    fn only_so_many_hops_are_looked_at() {
        let chain = |hops: usize| format!("192.0.2.7{}", ", 10.1.1.1".repeat(hops - 1));
        let proxy = "10.0.0.1:4000";
        let of = |hops| client(proxy, &[("x-forwarded-for", &chain(hops))]);
        assert_eq!(of(MOST_HOPS).as_deref(), Some("192.0.2.7"));
        assert_eq!(of(MOST_HOPS + 1).as_deref(), Some("10.1.1.1"));
    }

    proptest! {
        #[test]
        fn what_a_caller_puts_before_the_proxys_hop_never_counts(before in "[ -~]{0,80}") {
            let line = format!("{before}, 192.0.2.7");
            let told = client("10.0.0.1:1", &[("x-forwarded-for", &line)]);
            prop_assert_eq!(told.as_deref(), Some("192.0.2.7"));
            let lines = [("forwarded", before.as_str()), ("forwarded", "for=192.0.2.7")];
            let told = client("10.0.0.1:1", &lines);
            prop_assert_eq!(told.as_deref(), Some("192.0.2.7"));
        }
    }
}
