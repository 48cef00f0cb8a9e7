//! Where an upstream is reached, as far as a credential for it goes (RFC 6454 §4).
//!
//! A connection is found by the *name* of its upstream, and an operator may have that name lead elsewhere. What somebody has
//! connected was meant for where it led then, so each connection keeps that with it, and is shown nowhere else.

use std::fmt;

use ::http::Uri;

/// Longest one, in bytes: a scheme, a name of a host and a port.
const MAX_BYTES: usize = 300;
/// What stands for all programs: whoever changes a command line starts the program.
const PROGRAM: &str = "program";

/// Scheme, host and port of an upstream; or that it is a program that the gateway starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Of an upstream that is reached over HTTP. The port is always there.
    pub fn of_url(url: &Uri) -> Self {
        let scheme = url.scheme_str().unwrap_or_default().to_ascii_lowercase();
        let host = url.host().unwrap_or_default().to_ascii_lowercase();
        let port = url.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Self(format!("{scheme}://{host}:{port}"))
    }

    /// Of an upstream that is a program.
    pub fn of_program() -> Self {
        Self(PROGRAM.to_owned())
    }

    /// One that [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let is_one = text == PROGRAM || text.contains("://");
        (is_one && text.len() <= MAX_BYTES).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of_url(&url.parse().unwrap())
    }

    #[test]
    fn scheme_host_and_port_make_an_origin_and_nothing_else() {
        for same in ["https://a.example", "https://A.Example:443/mcp?x=1", "https://a.example/other"] {
            assert_eq!(origin(same).to_string(), "https://a.example:443", "{same}");
        }
        for other in ["http://a.example", "https://b.example", "https://a.example:8443", "https://a.example.evil"] {
            assert_ne!(origin(other), origin("https://a.example/mcp"), "{other}");
        }
        assert_eq!(origin("http://[::1]/mcp").to_string(), "http://[::1]:80");
    }

    #[test]
    fn an_origin_is_read_as_it_is_written() {
        for origin in [origin("https://a.example/mcp"), Origin::of_program()] {
            assert_eq!(Origin::parse(&origin.to_string()), Some(origin));
        }
        assert_eq!(Origin::parse("elsewhere"), None);
        assert_eq!(Origin::parse(&format!("https://{}", "a".repeat(MAX_BYTES))), None);
    }
}
