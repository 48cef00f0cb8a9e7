//! Client ID Metadata Documents: a client whose id is the https address of what it says of itself
//! (draft-ietf-oauth-client-id-metadata-document; `docs/threat-model.md` row T15).
//!
//! Pure: what an address may look like, what a document has to say, and how long it counts. It is fetched elsewhere.

use std::time::Duration;

use http::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, DATE, EXPIRES, HeaderMap};
use serde_json::Value;

use super::redirect::RedirectUri;
use super::registration::{Described, Rules, Secrets, Unacceptable};
use crate::ids::ClientId;

/// Largest document, in bytes.
pub const MAX_BYTES: usize = 5 * 1024;
/// How long a document counts that says nothing of it.
const USUAL_LIFE: Duration = Duration::from_secs(60 * 60);
/// A document counts at least so long, so that one authorization is about one version of it, and at most so long, whatever
/// it says of itself.
const LIVES: (Duration, Duration) = (Duration::from_secs(5 * 60), Duration::from_secs(24 * 60 * 60));

/// Why an address names no client, or a document does not describe the one that it was found at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "a client's address is https with a path of its own, without user, fragment, escaped slashes and dot segments"
    )]
    Address,
    #[error("the document is application/json, or application/<something>+json")]
    MediaType,
    #[error("the document is one JSON object")]
    Json,
    #[error("client_id in the document is not the address that the document was found at")]
    OtherClient,
    #[error("a document that everybody can read holds no {0}")]
    Secret(&'static str),
    #[error(transparent)]
    Metadata(#[from] Unacceptable),
}

/// Whether a client may be described at this address.
///
/// The draft asks for https and a path, and forbids user, fragment and dot segments. A query is tolerated, as there. What
/// browsers and libraries read in different ways is refused as in redirect URIs, and so is the root of a host: it says who
/// runs the host, and no client has it (MCP asks for a path; its SDKs do not take the root for one).
///
/// # Errors
/// [`Unfit::Address`].
pub fn check_address(id: &ClientId) -> Result<(), Unfit> {
    RedirectUri::parse(id.as_str(), &[]).map_err(|_| Unfit::Address)?;
    let after = id.as_str().strip_prefix("https://").ok_or(Unfit::Address)?;
    let path = after.find(['/', '?']).map_or("", |at| &after[at..]);
    let path = path.split('?').next().unwrap_or_default();
    if path.len() < 2 { Err(Unfit::Address) } else { Ok(()) }
}

/// The host of a client's address, in lower case and without a port: what people are shown, and what an operator's patterns
/// are held against. The empty string for other ids.
pub fn host(id: &ClientId) -> String {
    RedirectUri::parse(id.as_str(), &[]).map(|address| address.destination()).unwrap_or_default()
}

/// What a document says, if it describes the client with this id. `rules` say what the operator allows; a secret that we
/// would know as well is never among it.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(id: &ClientId, headers: &HeaderMap, body: &[u8], rules: &Rules) -> Result<Described, Unfit> {
    if !is_json(headers) {
        return Err(Unfit::MediaType);
    }
    describe(id, body, rules)
}

/// The same of a document's text alone.
///
/// # Errors
/// The first thing that is wrong.
pub fn describe(id: &ClientId, body: &[u8], rules: &Rules) -> Result<Described, Unfit> {
    let rules = Rules { secrets: Secrets::Never, ..rules.clone() };
    // Refuses what has a known member twice, before anything of it is believed.
    let described = Described::parse(body, &rules);
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else { return Err(Unfit::Json) };
    if members.get("client_id").and_then(Value::as_str) != Some(id.as_str()) {
        return Err(Unfit::OtherClient);
    }
    if is_twice(body) {
        return Err(Unfit::Json);
    }
    for secret in ["client_secret", "client_secret_expires_at"] {
        if members.contains_key(secret) {
            return Err(Unfit::Secret(secret));
        }
    }
    let described = described?;
    if described.metadata.redirect_uris.is_empty() {
        return Err(Unacceptable::Redirects("a client that describes itself names at least one").into());
    }
    Ok(described)
}

/// Whether `client_id` is there more than once, so that two readers could see two clients.
fn is_twice(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(rename = "client_id")]
        _client_id: serde::de::IgnoredAny,
    }
    serde_json::from_slice::<Named>(body).is_err()
}

/// `application/json` or `application/…+json`, declared once.
fn is_json(headers: &HeaderMap) -> bool {
    let mut declared = headers.get_all(CONTENT_TYPE).iter();
    let (Some(declared), None) = (declared.next(), declared.next()) else { return false };
    let Ok(declared) = declared.to_str() else { return false };
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some(subtype) = essence.strip_prefix("application/") else { return false };
    subtype == "json" || subtype.strip_suffix("+json").is_some_and(|name| !name.is_empty() && !name.contains(' '))
}

/// How long a document counts that came with these headers (RFC 9111 §4.2), within our own bounds.
pub fn life(headers: &HeaderMap) -> Duration {
    let texts = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<String> = texts(CACHE_CONTROL)
        .flat_map(|line| line.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase())
        .collect();
    let (shortest, longest) = LIVES;
    if directives.iter().any(|directive| matches!(directive.as_str(), "no-store" | "no-cache")) {
        return shortest;
    }
    let seconds = |text: &str| text.trim_matches('"').parse().ok().map(Duration::from_secs);
    let said = directives.iter().find_map(|directive| directive.strip_prefix("max-age=")).map(|text| {
        // What cannot be read is over (RFC 9111 §4.2.1).
        seconds(text).unwrap_or_default()
    });
    let until = || {
        let expires = headers.get(EXPIRES)?.to_str().ok()?;
        let date = headers.get(DATE).and_then(|date| seconds_of_date(date.to_str().ok()?));
        let life = seconds_of_date(expires).zip(date).map(|(expires, date)| expires.saturating_sub(date));
        Some(Duration::from_secs(life.unwrap_or_default()))
    };
    let age = texts(AGE).next().and_then(seconds).unwrap_or_default();
    let life = said.or_else(until).unwrap_or(USUAL_LIFE + age);
    life.saturating_sub(age).clamp(shortest, longest)
}

/// Seconds from the beginning of the year 1 to a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7); the
/// obsolete forms are not read.
pub(super) fn seconds_of_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let (_, date) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let mut parts = date.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)?;
    let year: u64 = year.parse().ok().filter(|year| (1..=9999).contains(year))?;
    let day: u64 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let mut clock = time.splitn(3, ':').map(|part| part.parse::<u64>().ok().filter(|part| *part <= 60));
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    let leap_days = |years: u64| years / 4 - years / 100 + years / 400;
    let is_past_february = month > 1;
    let leap = leap_days(if is_past_february { year } else { year - 1 });
    let days = (year - 1) * 365 + leap + BEFORE[month] + day - 1;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::oauth::client::GrantType;
    use crate::oauth::registration::Method;

    fn id(text: &str) -> ClientId {
        ClientId::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn rules() -> Rules {
        Rules { scopes: vec!["mcp".to_owned()], ..Rules::default() }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    const URL: &str = "https://app.example/oauth/client.json";

    #[test]
    fn t15_a_clients_address_is_https_with_a_path_and_reads_one_way() {
        for good in [
            URL,
            "https://app.example/c",
            "https://app.example/c/",
            "https://app.example:8443/c",
            "https://app.example/c?version=2",
            "https://[2001:db8::1]/c",
            "https://claude.ai/oauth/claude-code-client-metadata",
            "https://vscode.dev/oauth/client-metadata.json",
        ] {
            assert_eq!(check_address(&id(good)), Ok(()), "{good}");
        }
        for bad in [
            "app.example/c",
            "http://app.example/c",
            "http://localhost/c",
            "HTTPS://app.example/c",
            "https://app.example",
            "https://app.example/",
            "https://app.example?c",
            "https://app.example/?c",
            "https://app.example/c#",
            "https://app.example/c#x",
            "https://user@app.example/c",
            "https://user:word@app.example/c",
            "https://app.example/../c",
            "https://app.example/a/./c",
            "https://app.example/a/%2e%2e/c",
            "https://app.example/a%2fc",
            "https://app.example/a%5Cc",
            "https://app.example./c",
            "https://app.example:0/c",
            "https://app.example:99999/c",
            "https://2130706433/c",
            "https://0x7f.1/c",
            "https://app%2eexample/c",
            "https://app.example<b>/c",
            "https:///c",
            "https:app.example/c",
            "ftp://app.example/c",
            "javascript:alert(1)",
        ] {
            assert_eq!(check_address(&id(bad)), Err(Unfit::Address), "{bad}");
        }
        assert_eq!(host(&id("https://App.Example:8443/c")), "app.example");
        assert_eq!(host(&id("0123")), "");
    }

    #[test]
    fn t15_a_document_describes_the_client_at_its_own_address() {
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        // As Claude Code has it: loopback without a port, public, and more members than anybody knows.
        let document = json!({
            "client_id": URL, "client_name": "Claude Code", "client_uri": "https://app.example",
            "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
            "token_endpoint_auth_method": "none", "application_type": "native", "x": { "y": [] },
        });
        let read = |document: &Value| read(&id(URL), &json, document.to_string().as_bytes(), &rules());
        let described = read(&document).unwrap();
        assert_eq!(described.method, Method::None);
        assert_eq!(described.metadata.name.as_deref(), Some("Claude Code"));
        let with = |member: &str, value: Value| {
            let mut document = document.clone();
            document[member] = value;
            document
        };
        let key = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ" }] });
        let mut keyed = with("token_endpoint_auth_method", json!("private_key_jwt"));
        keyed["jwks"] = key.clone();
        assert!(matches!(read(&keyed).unwrap().method, Method::PrivateKey(_)));
        for (document, expected) in [
            (with("client_id", json!("https://app.example/oauth/client.json/")), "not the address"),
            (with("client_id", json!("https://app.example:443/oauth/client.json")), "not the address"),
            (with("client_id", json!("https://APP.example/oauth/client.json")), "not the address"),
            (with("client_id", Value::Null), "not the address"),
            (with("client_id", json!([URL])), "not the address"),
            (with("client_secret", json!("x")), "holds no client_secret"),
            (with("client_secret_expires_at", json!(0)), "holds no client_secret_expires_at"),
            (with("token_endpoint_auth_method", json!("client_secret_basic")), "no shared secret"),
            (with("token_endpoint_auth_method", json!("client_secret_post")), "no shared secret"),
            (with("token_endpoint_auth_method", json!("client_secret_jwt")), "not supported"),
            (with("token_endpoint_auth_method", json!("private_key_jwt")), "either jwks or jwks_uri"),
            (with("redirect_uris", json!([])), "at least one"),
            (with("redirect_uris", Value::Null), "at least one"),
            (with("redirect_uris", json!(["javascript:alert(1)"])), "scheme"),
            (with("redirect_uris", json!(["http://app.example/cb"])), "http is for"),
            (with("redirect_uris", json!("https://app.example/cb")), "invalid type"),
            (with("grant_types", json!(["client_credentials"])), "not supported here"),
            (json!([document]), "one JSON object"),
            (json!("x"), "one JSON object"),
        ] {
            let unfit = read(&document).unwrap_err().to_string();
            assert!(unfit.contains(expected), "{document}: {unfit}");
        }
        let twice = format!(
            r#"{{"client_id":"{URL}","client_id":"https://evil.example/c","redirect_uris":["https://evil.example/"]}}"#
        );
        let last = format!(
            r#"{{"client_id":"https://evil.example/c","client_id":"{URL}","redirect_uris":["https://evil.example/"]}}"#
        );
        for body in [&*twice, &*last, "", "{", "<html>", "{}{}", "\u{feff}{}"] {
            assert!(describe(&id(URL), body.as_bytes(), &rules()).is_err(), "{body}");
        }
        let device = Rules { grant_types: vec![GrantType::DeviceCode], ..rules() };
        let body = with("grant_types", json!([GrantType::DeviceCode.as_str()])).to_string();
        assert!(describe(&id(URL), body.as_bytes(), &device).is_ok());
        let mut without = with("grant_types", json!([GrantType::DeviceCode.as_str()]));
        without.as_object_mut().unwrap().remove("redirect_uris");
        assert!(describe(&id(URL), without.to_string().as_bytes(), &device).is_err());
    }

    #[test]
    fn t15_a_document_is_declared_as_json_once() {
        for (lines, expected) in [
            (&[("content-type", "application/json")][..], true),
            (&[("content-type", "Application/JSON;charset=utf-8")], true),
            (&[("content-type", "application/client-metadata+json")], true),
            (&[("content-type", "application/+json")], false),
            (&[("content-type", "text/json")], false),
            (&[("content-type", "text/html")], false),
            (&[("content-type", "application/jsonp")], false),
            (&[("content-type", "application/json"), ("content-type", "text/html")], false),
            (&[], false),
        ] {
            assert_eq!(is_json(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn t15_a_document_counts_as_long_as_its_headers_say_within_bounds() {
        let (minutes, hours) = (|n: u64| Duration::from_secs(n * 60), |n: u64| Duration::from_secs(n * 3600));
        for (lines, expected) in [
            (&[][..], hours(1)),
            (&[("age", "3000")], hours(1)),
            (&[("cache-control", "max-age=7200")], hours(2)),
            (&[("cache-control", "public, max-age=7200")], hours(2)),
            (&[("cache-control", "public"), ("cache-control", "Max-Age=\"7200\"")], hours(2)),
            (&[("cache-control", "max-age=7200"), ("age", "3600")], hours(1)),
            (&[("cache-control", "max-age=7200"), ("age", "999999")], minutes(5)),
            (&[("cache-control", "max-age=0")], minutes(5)),
            (&[("cache-control", "max-age=-1")], minutes(5)),
            (&[("cache-control", "max-age=x")], minutes(5)),
            (&[("cache-control", "no-store, max-age=7200")], minutes(5)),
            (&[("cache-control", "no-cache")], minutes(5)),
            (&[("cache-control", "max-age=31536000, immutable")], hours(24)),
            (&[("cache-control", "max-age=99999999999999999999")], minutes(5)),
            (&[("date", "Sun, 06 Nov 1994 08:00:00 GMT"), ("expires", "Sun, 06 Nov 1994 10:00:00 GMT")], hours(2)),
            (&[("date", "Sun, 06 Nov 1994 08:00:00 GMT"), ("expires", "Sun, 06 Nov 1994 07:00:00 GMT")], minutes(5)),
            (&[("date", "Sun, 06 Nov 1994 08:00:00 GMT"), ("expires", "0")], minutes(5)),
            (&[("expires", "Sun, 06 Nov 1994 10:00:00 GMT")], minutes(5)),
            (&[("date", "Wed, 28 Feb 2024 23:30:00 GMT"), ("expires", "Thu, 29 Feb 2024 01:30:00 GMT")], hours(2)),
            (&[("date", "Thu, 29 Feb 2024 12:00:00 GMT"), ("expires", "Fri, 01 Mar 2024 11:00:00 GMT")], hours(23)),
            (&[("date", "Sun, 31 Dec 2023 23:30:00 GMT"), ("expires", "Mon, 01 Jan 2024 01:30:00 GMT")], hours(2)),
        ] {
            assert_eq!(life(&headers(lines)), expected, "{lines:?}");
        }
    }
}
