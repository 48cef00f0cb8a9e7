//! What the texts of the configuration mean: durations, sizes, URLs, hosts, moments, digests. Pure.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use toml::value::{Datetime, Offset};

use super::PublicUrl;
use super::mistake::{Checked, Fault};
use super::raw::Size;
use crate::env::Timestamp;

/// Longest duration; beyond it, adding to a clock could overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Longest time that anything is kept.
const LONGEST_KEPT: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// Shortest time that anything is kept: less is a typing mistake.
const SHORTEST_KEPT: Duration = Duration::from_secs(60);

/// An issuer identifier (RFC 8414 §2), or http for one on a private network that `outbound.allow` or the origin itself makes
/// trusted.
pub(super) fn issuer(text: &str) -> Checked<String> {
    let hint = "write it as the provider does, such as \"https://id.example.com\"";
    let uri: Uri = text.parse().map_err(|_| Fault::new("is not a URL").hint(hint))?;
    let is_web = matches!(uri.scheme_str(), Some("https" | "http"));
    let is_plain = !text.contains(['?', '#', '@']) && uri.host().is_some_and(|host| !host.is_empty());
    if is_web && is_plain { Ok(text.to_owned()) } else { Err(Fault::new("is not an issuer").hint(hint)) }
}

/// A name or a label.
pub(super) fn word(text: &str) -> Checked<String> {
    let text = text.trim();
    let fits = (1..=256).contains(&text.len()) && !text.contains(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err(Fault::new("must be one line of 1 to 256 bytes")) }
}

/// A length of time, zero included.
pub(super) fn duration(text: &str) -> Checked<Duration> {
    let hint = "write a number and a unit, such as \"500ms\", \"30s\" or \"5m\"";
    let duration = humantime::parse_duration(text)
        .map_err(|error| Fault::new(format!("is not a duration: {error}")).hint(hint))?;
    if duration > LONGEST {
        return Err(Fault::new("must not be longer than a year"));
    }
    Ok(duration)
}

/// How long something is kept: never for no time.
pub(super) fn retention(text: &str) -> Checked<Duration> {
    let hint = "write how long to keep it, such as \"24h\", \"7d\" or \"400d\"";
    if text.trim_start().starts_with('-') {
        return Err(Fault::new("must not be negative").hint(hint));
    }
    let kept = humantime::parse_duration(text)
        .map_err(|error| Fault::new(format!("is not a duration: {error}")).hint(hint))?;
    if kept.is_zero() {
        return Err(Fault::new("must not be zero").hint(hint));
    }
    if kept < SHORTEST_KEPT {
        return Err(Fault::new("must not be shorter than a minute").hint(hint));
    }
    if kept > LONGEST_KEPT {
        return Err(Fault::new("must not be longer than ten years"));
    }
    Ok(kept)
}

/// A number of bytes, at least one.
pub(super) fn size(size: &Size) -> Checked<usize> {
    let bytes = match size {
        Size::Bytes(bytes) => u64::try_from(*bytes).ok(),
        Size::Text(text) => bytes_of(text),
    };
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| {
        let hint = "write a number of bytes, or a number and a unit, such as \"64KiB\", \"4MiB\" or \"1GiB\"";
        Fault::new("is not a size").hint(hint)
    })?;
    if bytes == 0 { Err(Fault::new("must not be zero")) } else { Ok(bytes) }
}

/// A number of bytes, as text.
pub(super) fn size_of(text: &str) -> Checked<usize> {
    size(&Size::Text(text.to_owned()))
}

fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start_matches(' ') {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// An IP address and a port.
pub(super) fn socket_address(text: &str) -> Checked<SocketAddr> {
    text.parse().map_err(|_| {
        Fault::new("is not an IP address and a port").hint("write it like \"127.0.0.1:7400\" or \"[::1]:7400\"")
    })
}

/// A moment with its offset from UTC.
pub(super) fn moment(text: &str) -> Checked<Timestamp> {
    millis_since_epoch(text).map(Timestamp::from_millis).ok_or_else(|| {
        Fault::new("is not a date and time with an offset from UTC").hint("write it like \"2027-01-01T00:00:00Z\"")
    })
}

fn millis_since_epoch(text: &str) -> Option<u64> {
    let mut moment: Datetime = text.parse().ok()?;
    let offset_minutes = match moment.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    moment.date?;
    moment.time.as_mut()?.second.get_or_insert(0);
    moment.offset = Some(Offset::Z);
    let as_if_utc = humantime::parse_rfc3339(&moment.to_string()).ok()?;
    let since_epoch = as_if_utc.duration_since(std::time::UNIX_EPOCH).ok()?;
    let millis = i64::try_from(since_epoch.as_millis()).ok()?;
    u64::try_from(millis - offset_minutes * 60_000).ok()
}

/// 32 bytes in hex, lower case or upper case.
pub(super) fn sha256(hex: &str) -> Checked<[u8; 32]> {
    let wrong = || Fault::new("must be 64 hexadecimal digits");
    let digits = hex.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

impl PublicUrl {
    /// Normalised: lower-case scheme and host, no default port, no trailing slash.
    pub(in crate::config) fn parse(text: &str) -> Checked<Self> {
        let uri = web_url(text)?;
        if uri.query().is_some() {
            return Err(Fault::new("must not have a query"));
        }
        let path = uri.path().trim_end_matches('/');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment =
            |segment: &str| !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain);
        if !path.is_empty() && !path[1..].split('/').all(is_segment) {
            return Err(Fault::new("has a path of other than plain segments"));
        }
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().ok_or_else(not_absolute)?;
        let authority = normal_authority(authority, default_port(scheme))?;
        Ok(Self(format!("{scheme}://{authority}{path}")))
    }
}

/// An upstream's endpoint.
pub(super) fn upstream_url(text: &str) -> Checked<Uri> {
    web_url(text)
}

/// What browsers send as `Origin`: scheme, host and, unless it is the scheme's own, port.
pub(super) fn origin(text: &str) -> Checked<String> {
    let wrong = || {
        let hint = "write scheme, host and, if need be, port, such as \"https://app.example.com\"";
        Fault::new("is not an origin").hint(hint)
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(wrong()) };
    // A trailing slash counts too: browsers send none, and whoever wrote one may have meant a path.
    if text.len() != scheme.len() + "://".len() + authority.as_str().len() {
        return Err(wrong());
    }
    let scheme = scheme.to_ascii_lowercase();
    let authority = normal_authority(authority, default_port(&scheme)).map_err(|_| wrong())?;
    Ok(format!("{scheme}://{authority}"))
}

/// What clients send as `Host`: a host and perhaps a port.
pub(super) fn host(text: &str) -> Checked<String> {
    let wrong =
        || Fault::new("is not a host").hint("write a host and, if need be, a port, such as \"mcp.internal:7400\"");
    let authority: Authority = text.parse().map_err(|_| wrong())?;
    normal_authority(&authority, None).map_err(|_| wrong())
}

/// Where to connect to: a host and its port.
pub(super) fn host_and_port(text: &str) -> Checked<String> {
    let hint = "write a host and a port, such as \"10.0.0.7:7402\" or \"gateway-1.internal:7402\"";
    let wrong = || Fault::new("is not a host and a port").hint(hint);
    let authority: Authority = text.parse().map_err(|_| wrong())?;
    let normal = normal_authority(&authority, None).map_err(|_| wrong())?;
    if authority.port().is_some() { Ok(normal) } else { Err(wrong()) }
}

fn not_absolute() -> Fault {
    Fault::new("is not an absolute URL").hint("write it like \"https://mcp.example.com\"")
}

/// An absolute `http` or `https` URL without user information and fragment.
fn web_url(text: &str) -> Checked<Uri> {
    // `Uri` drops a fragment without a word.
    if text.contains('#') {
        return Err(Fault::new("must not have a fragment"));
    }
    let uri: Uri = text.parse().map_err(|_| not_absolute())?;
    let authority = uri.authority().ok_or_else(not_absolute)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(Fault::new("must begin with http:// or https://"));
    }
    if authority.as_str().contains('@') {
        return Err(Fault::new("must not have a user name or password"));
    }
    normal_authority(authority, None)?;
    Ok(uri)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host in lower case, and the port unless it is `implied`.
fn normal_authority(authority: &Authority, implied: Option<u16>) -> Checked<String> {
    let host = authority.host();
    if !is_host(host) {
        return Err(Fault::new("has no valid host"));
    }
    let host = host.to_ascii_lowercase();
    // Not `Authority::port`, which takes a bad port for none. What is left may also be user information.
    let Some(after_host) = authority.as_str().get(host.len()..).filter(|rest| !rest.is_empty()) else {
        return Ok(host);
    };
    let port = after_host.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0);
    match port {
        None => Err(Fault::new("has no valid port")),
        Some(port) if Some(port) == implied => Ok(host),
        Some(port) => Ok(format!("{host}:{port}")),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [
            ("1", Some(1)),
            ("512B", Some(512)),
            ("64KiB", Some(64 << 10)),
            ("4 MiB", Some(4 << 20)),
            ("1GiB", Some(1 << 30)),
            ("0", None),
            ("0MiB", None),
            ("", None),
            ("MiB", None),
            ("4MB", None),
            ("4mib", None),
            ("-1", None),
            ("1.5MiB", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(size(&Size::Text(text.to_owned())).ok(), bytes, "{text}");
        }
        assert_eq!(size(&Size::Bytes(7)).ok(), Some(7));
        assert!(size(&Size::Bytes(0)).is_err() && size(&Size::Bytes(-1)).is_err());
    }

    #[test]
    fn durations_need_a_unit_and_an_end() {
        assert_eq!(duration("1m 30s").ok(), Some(Duration::from_secs(90)));
        assert_eq!(duration("0s").ok(), Some(Duration::ZERO));
        for bad in ["", "5", "s", "-1s", "fast", "2years", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn public_urls_are_normalised() {
        for (text, normal) in [
            ("http://127.0.0.1:7400", "http://127.0.0.1:7400"),
            ("HTTPS://MCP.Example.com:443/", "https://mcp.example.com"),
            ("http://example.com:80", "http://example.com"),
            ("https://example.com:80", "https://example.com:80"),
            ("https://example.com/base/mcp//", "https://example.com/base/mcp"),
            ("http://[::1]:7400/", "http://[::1]:7400"),
        ] {
            assert_eq!(PublicUrl::parse(text).map(|url| url.as_str().to_owned()), Ok(normal.to_owned()), "{text}");
        }
        for bad in [
            "",
            "/base",
            "example.com",
            "ftp://example.com",
            "http://",
            "http://user@example.com",
            "http://user:secret@example.com",
            "http://example.com?x=1",
            "http://example.com#x",
            "http://example.com:0",
            "http://example.com:99999",
            "http://example.com:",
            "http://exa*mple.com",
            "http://example..com",
            "http://[::1",
            "http://[x]",
            "http://example.com/a//b",
            "http://example.com/../b",
            "http://example.com/a%2Fb",
            "http://bücher.example",
        ] {
            assert!(PublicUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn upstream_urls_may_have_a_query() {
        assert!(upstream_url("https://example.com/mcp?team=a").is_ok());
        for bad in ["https://example.com/mcp#a", "https://me@example.com/", "unix:/run/x", "mcp.example.com"] {
            assert!(upstream_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_origins_are_what_is_sent() {
        for (text, normal) in [
            ("Mcp.Internal", Some("mcp.internal")),
            ("mcp.internal:7400", Some("mcp.internal:7400")),
            ("[::1]:7400", Some("[::1]:7400")),
            ("http://mcp.internal", None),
            ("mcp.internal/x", None),
            ("me@mcp.internal", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(host(text).ok().as_deref(), normal, "{text}");
        }
        for (text, normal) in [
            ("https://App.Example.com:443", Some("https://app.example.com")),
            ("http://localhost:5173", Some("http://localhost:5173")),
            ("vscode-webview://abc", Some("vscode-webview://abc")),
            ("https://app.example.com/", None),
            ("https://app.example.com/x", None),
            ("https://app.example.com#x", None),
            ("https://me@app.example.com", None),
            ("app.example.com", None),
            ("null", None),
            ("*", None),
        ] {
            assert_eq!(origin(text).ok().as_deref(), normal, "{text}");
        }
    }

    #[test]
    fn moments_have_an_offset() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T01:00:00.250+01:00", Some(250)),
            ("1969-12-31T23:00:00-01:00", None),
            ("1970-01-01 00:01Z", Some(60_000)),
            ("2027-01-01T00:00:00Z", Some(1_798_761_600_000)),
            ("2027-01-01T00:00:00", None),
            ("2027-01-01", None),
            ("2027-02-30T00:00:00Z", None),
            ("soon", None),
        ] {
            assert_eq!(moment(text).ok(), millis.map(Timestamp::from_millis), "{text}");
        }
    }

    #[test]
    fn digests_are_hex() {
        assert_eq!(sha256(&"0f".repeat(32)).ok(), Some([15; 32]));
        assert_eq!(sha256(&"0F".repeat(32)).ok(), Some([15; 32]));
        for bad in ["", &"0".repeat(63), &"0".repeat(65), &"+f".repeat(32), &"ä".repeat(32)] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
