//! HTTP with server-sent events, the transport of 2024-11-05: one stream per session on which everything comes, and an
//! endpoint named on it to which everything is posted.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::{Parts, PathAndQuery};

use super::opening::NotOpened;
use super::peer::{self, Peer, drain};
use super::session::Session;
use super::stream::{self, Messages};
use crate::connection::lending::Lent;
use crate::upstream::UpstreamError;

/// Longest wait for the event that names the endpoint.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest reference to an endpoint, in bytes.
const MAX_ENDPOINT: usize = 8 * 1024;

/// A stream that has named its endpoint.
pub(super) struct SseStream {
    pub(super) endpoint: Uri,
    pub(super) messages: Messages,
}

/// Opens the stream and waits for the endpoint, which the upstream has to name first. One at another origin is refused: our
/// credential would go there.
pub(super) async fn open(peer: &Peer, lent: Option<&Lent>) -> Result<SseStream, NotOpened> {
    let opening = async {
        let mut request = peer.get();
        peer::show(&mut request, lent);
        let response = peer.send(request).await?;
        let is_success = response.status().is_success();
        if !is_success || !stream::is_event_stream(&response) {
            let refused = match is_success {
                true => {
                    let error = UpstreamError::Protocol { what: "it has no stream of events" };
                    NotOpened { error, is_refused: true }
                }
                false => NotOpened::refused_as(&response, lent),
            };
            _ = drain(response).await;
            return Err(refused);
        }
        let mut messages = Messages::of(response, peer.limits.message_bytes)?;
        let first = messages.next_event().await?.ok_or(UpstreamError::Died)?;
        let wrong = |what| NotOpened { error: UpstreamError::Protocol { what }, is_refused: true };
        if first.name.as_deref() != Some("endpoint") {
            return Err(wrong("its stream does not begin by naming an endpoint"));
        }
        let endpoint = std::str::from_utf8(&first.data).ok().and_then(|endpoint| resolve(&peer.endpoint, endpoint));
        let endpoint = endpoint.ok_or_else(|| wrong("the endpoint that it names is no URI"))?;
        if !is_same_origin(&peer.endpoint, &endpoint) {
            return Err(wrong("the endpoint that it names is at another origin"));
        }
        Ok(SseStream { endpoint, messages })
    };
    let opened = tokio::time::timeout(ENDPOINT_TIMEOUT, opening).await;
    opened.unwrap_or_else(|_| Err(UpstreamError::TimedOut { after: ENDPOINT_TIMEOUT }.into()))
}

/// Reads the stream until it ends, and the session with it.
pub(super) fn keep(session: Arc<Session>, mut messages: Messages) {
    let tasks = session.peer.tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            heard = session.hear_all(&mut messages) => {
                if let Err(error) = heard {
                    tracing::debug!(%error, "an upstream's stream broke");
                }
            }
            () = session.over.cancelled() => {}
        }
        session.over.cancel();
        session.fail_all(&UpstreamError::Died);
    });
}

/// Resolves a reference against a URI (RFC 3986 §5.2), without its fragment.
fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.trim().split('#').next().unwrap_or_default();
    if reference.is_empty() || reference.len() > MAX_ENDPOINT {
        return None;
    }
    let scheme = base.scheme_str()?;
    let has_scheme = reference.find([':', '/', '?']).is_some_and(|at| reference[at..].starts_with(':'));
    if has_scheme {
        return with_path(&reference.parse().ok()?);
    }
    if reference.starts_with("//") {
        return with_path(&format!("{scheme}:{reference}").parse().ok()?);
    }
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let path = match path {
        "" => base.path().to_owned(),
        path if path.starts_with('/') => without_dots(path),
        path => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            without_dots(&format!("{folder}/{path}"))
        }
    };
    let path = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

/// A URI with an authority, and with a path if it had none.
fn with_path(uri: &Uri) -> Option<Uri> {
    uri.authority()?;
    let mut parts: Parts = uri.clone().into_parts();
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).ok()
}

/// Removes the segments `.` and `..` (RFC 3986 §5.2.4) from a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments = path.split('/').skip(1);
    for segment in segments.clone() {
        match segment {
            "." => {}
            ".." => _ = kept.pop(),
            segment => kept.push(segment),
        }
    }
    if matches!(segments.last(), Some("." | "..")) {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

/// Scheme, host and port are the same; a user in the authority is neither's.
fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default_port = match &*scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some((uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default_port), scheme))
    };
    let has_user = other.authority().is_none_or(|authority| authority.as_str().contains('@'));
    !has_user && origin(one).is_some() && origin(one) == origin(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_resolved_against_the_streams_address() {
        let base: Uri = "http://host:8080/a/sse?x=1".parse().unwrap();
        let resolved = |reference: &str| resolve(&base, reference).map(|uri| uri.to_string());
        for (reference, expected) in [
            ("/messages?session=1", "http://host:8080/messages?session=1"),
            ("messages?session=1", "http://host:8080/a/messages?session=1"),
            ("?session=1", "http://host:8080/a/sse?session=1"),
            ("../m/./n", "http://host:8080/m/n"),
            ("../../../m/..", "http://host:8080/"),
            ("//other/m", "http://other/m"),
            ("https://other:1/m?q#f", "https://other:1/m?q"),
            ("http://host:8080", "http://host:8080/"),
            ("  /m \n", "http://host:8080/m"),
            ("/m?u=http://x", "http://host:8080/m?u=http://x"),
        ] {
            assert_eq!(resolved(reference).as_deref(), Some(expected), "{reference}");
        }
        for bad in ["", "#f", "/a b", "mailto:a@b", "http://", "/\u{e4} \u{0}"] {
            assert_eq!(resolved(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn another_origin_is_told() {
        let same = |one: &str, other: &str| is_same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("http://Host/sse", "http://host:80/m"));
        assert!(same("https://host:443/sse", "https://host/m"));
        assert!(!same("http://host/sse", "https://host/m"));
        assert!(!same("http://host/sse", "http://host:81/m"));
        assert!(!same("http://host/sse", "http://host.evil/m"));
        assert!(!same("http://host/sse", "http://user@host/m"));
        assert!(!same("http://host/sse", "/m"));
    }
}
