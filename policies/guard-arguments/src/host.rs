//! Whether a URL leads to a host that is allowed, read so strictly that nobody reads it otherwise.
//!
//! Readers of URLs disagree about backslashes, about what stands before an `@`, about white space, missing slashes and
//! percent-encoded or non-ASCII hosts. A URL with any of these leads to no allowed host.

/// Hosts that URLs may lead to: `example.com` for itself, `*.example.com` for what is below it.
#[derive(Clone, Debug)]
pub(crate) struct HostPattern {
    host: String,
    with_subdomains: bool,
    text: String,
}

impl HostPattern {
    /// `None` if the text is no host.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (with_subdomains, host) = match text.strip_prefix("*.") {
            Some(parent) => (true, parent),
            None => (false, text),
        };
        let host = normal_host(host)?;
        // An address has nothing below it.
        let is_address = host.starts_with('[') || host.rsplit('.').next()?.bytes().all(|byte| byte.is_ascii_digit());
        (!with_subdomains || !is_address).then(|| Self { host, with_subdomains, text: text.to_owned() })
    }

    /// Whether the host, as [`host_of`] gives it, is one of these.
    pub(crate) fn fits(&self, host: &str) -> bool {
        if !self.with_subdomains {
            return host == self.host;
        }
        host.strip_suffix(&self.host).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Scheme and host of a URL in lower case, the host without port and without the dot at its end; `None` where there is the
/// least doubt.
pub(crate) fn host_of(url: &str) -> Option<(String, String)> {
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return None;
    }
    let (scheme, rest) = url.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.rfind(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.rfind(':').unwrap_or(authority.len())),
    };
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (is_scheme && has_port).then_some(())?;
    Some((scheme.to_ascii_lowercase(), normal_host(host)?))
}

/// A name of labels, or an IPv6 address in brackets.
fn normal_host(host: &str) -> Option<String> {
    let valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            };
            host.len() <= 254 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        }
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    valid.then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads_to(url: &str, pattern: &str) -> bool {
        let pattern = HostPattern::parse(pattern).unwrap();
        host_of(url).is_some_and(|(_, host)| pattern.fits(&host))
    }

    #[test]
    fn a_url_leads_to_the_host_that_everyone_reads_in_it() {
        for url in [
            "https://example.com",
            "https://example.com/",
            "https://EXAMPLE.com:8443/a?b=c#d",
            "https://example.com./a",
            "https://example.com?x=@evil.org",
            "https://example.com#@evil.org/",
        ] {
            assert!(leads_to(url, "example.com"), "{url}");
        }
        for url in [
            "https://example.com@evil.org",
            "https://example.com:443@evil.org/",
            "https://evil.org\\@example.com",
            "https://example.com\\.evil.org",
            "https://example.com%2eevil.org",
            "https://example.com%00.evil.org",
            "https://ex\tample.com",
            " https://example.com",
            "https://example.com .evil.org",
            "https:example.com",
            "https:/example.com",
            "https:///example.com",
            "//example.com/",
            "example.com",
            "https://example.com:port/",
            "https://example.com:123456/",
            "https://example.com.evil.org",
            "https://notexample.com",
            "https://www.example.com",
            "https://.example.com",
            "https://example..com",
            "https://ｅxample.com",
            "",
        ] {
            assert!(!leads_to(url, "example.com"), "{url:?}");
        }
    }

    #[test]
    fn a_star_stands_for_what_is_below() {
        for (host, fits) in [
            ("www.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            (".example.com", false),
            ("wwwexample.com", false),
        ] {
            assert_eq!(leads_to(&format!("https://{host}/"), "*.example.com"), fits, "{host}");
        }
    }

    #[test]
    fn addresses_are_hosts_too() {
        assert!(leads_to("http://[::1]:8080/", "[::1]"));
        assert!(leads_to("http://127.0.0.1/", "127.0.0.1"));
        assert!(!leads_to("http://2130706433/", "127.0.0.1"));
        assert!(host_of("http://[::1/").is_none());
        assert!(host_of("http://[::1]x/").is_none());
        assert_eq!(host_of("HTTP://a/").unwrap().0, "http");
        for wrong in ["", "*", "*.", "a b", "*.127.0.0.1", "*.[::1]", "https://a", "a/b", "[::g]"] {
            assert!(HostPattern::parse(wrong).is_none(), "{wrong}");
        }
    }
}
