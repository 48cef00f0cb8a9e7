//! Where callers reach the gateway: does the address lead here, is it encrypted, and is the clock behind it right?

use std::time::Duration;

use bytes::Bytes;
use http::header::{DATE, HOST};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use super::check::Check;
use super::{LIMIT, Subject};
use crate::outbound::{OutboundError, read_all};

const AREA: &str = "public URL";
/// A little less than all of the time, so that what is wrong is told and not only that it takes long.
const PATIENCE: Duration = LIMIT.saturating_sub(Duration::from_secs(1));
/// What the gateway says of its health.
const HEALTHY: &[u8] = b"ok\n";
const MAX_ANSWER: usize = 4 << 10;
/// Differences of clocks, in seconds, that are told of, and that keep people from signing in.
const ODD: u64 = 5;
const WRONG: u64 = 60;

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    let url = subject.config.public_url.as_str();
    let mut checks = vec![scheme(url)];
    let Ok(uri) = format!("{url}/healthz").parse::<Uri>() else {
        checks.push(Check::problem(AREA, format!("{url} is no address"), "mend `public_url`"));
        return checks;
    };
    if let Err(check) = resolve(&uri).await {
        checks.push(check);
        return checks;
    }
    let asked = ask(subject, &uri).await;
    let now = subject.env.now().as_millis() / 1_000;
    match asked {
        Ok(Answer { status: StatusCode::OK, headers, body }) if body == HEALTHY => {
            checks.push(Check::ok(AREA, format!("{uri} answers")));
            checks.push(clock(&headers, now));
        }
        Ok(answer) => checks.push(Check::problem(
            AREA,
            format!("{uri} answers with status {}, and not what a gateway says", answer.status),
            "something else answers there: let the proxy pass all paths below `public_url` on to `listen.public`",
        )),
        // Without a gateway nothing answers, and that is told already.
        Err(_) if subject.living.is_none() => {
            checks.push(Check::warning(AREA, format!("nobody answers at {url}"), "start the gateway"));
        }
        Err(error) => checks.push(Check::problem(
            AREA,
            format!("{uri} cannot be reached from here: {}", in_words(&error)),
            "mend `public_url`, DNS, the proxy or its certificate; where this machine alone cannot reach it, ask from another one",
        )),
    }
    checks
}

/// Tokens and cookies travel there.
fn scheme(url: &str) -> Check {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let is_loopback = name == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback());
    if url.starts_with("https://") {
        Check::ok(AREA, format!("{url} is encrypted"))
    } else if is_loopback {
        Check::ok(AREA, format!("{url} is for this machine alone"))
    } else {
        Check::problem(
            AREA,
            format!("{url} is plain http: passwords, keys and tokens can be read on their way"),
            "put TLS in front and write https in `public_url`",
        )
    }
}

async fn resolve(uri: &Uri) -> Result<(), Check> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let mend = "mend `public_url` or the name's DNS entry";
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(mut addresses)) => match addresses.next() {
            Some(_) => Ok(()),
            None => Err(Check::problem(AREA, format!("{host} has no address"), mend)),
        },
        Ok(Err(error)) => Err(Check::problem(AREA, format!("{host} cannot be resolved: {error}"), mend)),
        Err(_) => Err(Check::problem(AREA, format!("{host} is not resolved in time"), mend)),
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

async fn ask(subject: &Subject, uri: &Uri) -> Result<Answer, OutboundError> {
    let deadline = Instant::now() + PATIENCE;
    let request = Request::builder().method(Method::GET).uri(uri);
    let request = match uri.authority() {
        Some(authority) => request.header(HOST, authority.as_str()),
        None => request,
    };
    let request = request.body(Bytes::new()).map_err(|error| OutboundError::Broken(error.into()))?;
    let response = subject.outbound.send(request, deadline).await?;
    let (parts, body) = response.into_parts();
    let body = read_all(body, MAX_ANSWER, deadline).await?;
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// An error and what it comes of.
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.ends_with(&told) {
            text.push_str(&format!(": {told}"));
        }
        cause = error.source();
    }
    text
}

/// The clock of whoever answers there, against this machine's: seconds since the epoch.
fn clock(headers: &HeaderMap, now: u64) -> Check {
    const CLOCK: &str = "clock";
    let date = headers.get(DATE).and_then(|date| date.to_str().ok()).and_then(read_date);
    let Some(date) = date else {
        return Check::warning(
            CLOCK,
            "the answer has no date, so that clocks cannot be compared",
            "have the proxy pass it on",
        );
    };
    let difference = now.abs_diff(date);
    let finding = format!("{difference} s between this machine and what answers at the public URL");
    let mend = "have both set their clocks by the network (chrony, systemd-timesyncd)";
    match difference {
        0..ODD => Check::ok(CLOCK, finding),
        ODD..WRONG => Check::warning(CLOCK, finding, mend),
        WRONG.. => Check::problem(CLOCK, finding, mend),
    }
}

/// An HTTP date in its one present form (RFC 9110 §5.6.7): seconds since the epoch.
fn read_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: u8 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let year: u16 = parts.next()?.parse().ok()?;
    let time = parts.next()?;
    if parts.next() != Some("GMT") {
        return None;
    }
    let moment = humantime::parse_rfc3339(&format!("{year:04}-{month:02}-{day:02}T{time}Z")).ok()?;
    moment.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn what_others_can_read_is_a_problem() {
        for (url, grade) in [
            ("https://mcp.example.com", Grade::Ok),
            ("http://127.0.0.1:7400", Grade::Ok),
            ("http://[::1]:7400/base", Grade::Ok),
            ("http://[::1]", Grade::Ok),
            ("http://localhost", Grade::Ok),
            ("http://mcp.example.com", Grade::Problem),
            ("http://localhost.example.com:80", Grade::Problem),
            ("http://10.0.0.1:7400", Grade::Problem),
        ] {
            assert_eq!(scheme(url).grade, grade, "{url}");
        }
    }

    #[test]
    fn clocks_are_compared() {
        let mut headers = HeaderMap::new();
        assert_eq!(clock(&headers, 0).grade, Grade::Warning);
        headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        for (now, grade) in [
            (784_111_777, Grade::Ok),
            (784_111_773, Grade::Ok),
            (784_111_783, Grade::Warning),
            (784_111_700, Grade::Problem),
        ] {
            assert_eq!(clock(&headers, now).grade, grade, "{now}");
        }
        for text in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Now 1994 08:49:37 GMT", "", "Sun, 06 Nov 1994 08:49:37"]
        {
            assert_eq!(read_date(text), None, "{text}");
        }
    }
}
