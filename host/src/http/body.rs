//! Reading request bodies: bounded in size and time, never compressed.
//!
//! Memory grows with what has arrived, not with what was announced. Knows nothing of JSON beyond its media type, and
//! no status codes: whoever calls maps [`BodyError`] (413, 408, 400) and [`UnsupportedEncoding`] (415).
//!
//! After an error the rest of the body stays unread; the connection is then closed by `http::serve`, over HTTP/1,
//! once the reply was sent.

use std::time::Duration;

use axum::BoxError;
use axum::body::HttpBody;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body did not arrive in time")]
    TimedOut,
    /// The peer left, or its framing is wrong.
    #[error("the body broke off")]
    Broken(#[source] BoxError),
}

impl BodyError {
    /// The status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The request's body is compressed, which could unfold to any size (threat H5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("only bodies without content encoding are read")]
pub struct UnsupportedEncoding;

/// Reads a whole body of at most `limit` bytes, which must be complete within `deadline`.
///
/// One that is announced to be larger, by `content_length` or by its framing, is refused before anything is read.
pub async fn read_limited<B>(
    body: B,
    limit: usize,
    deadline: Duration,
    content_length: Option<u64>,
) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let announced = content_length.unwrap_or(0).max(body.size_hint().lower());
    if usize::try_from(announced).map_or(true, |announced| announced > limit) {
        return Err(BodyError::TooLarge { limit });
    }
    timeout(deadline, read(body, limit)).await.unwrap_or(Err(BodyError::TimedOut))
}

async fn read<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    // Most bodies are one frame, which needs no copy.
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - first.len() - joined.len() {
            return Err(BodyError::TooLarge { limit });
        }
        if joined.is_empty() && first.is_empty() {
            first = data;
            continue;
        }
        if !first.is_empty() {
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&data);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// Accepts bodies without content encoding only.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), UnsupportedEncoding> {
    let is_identity = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) { Ok(()) } else { Err(UnsupportedEncoding) }
}

/// Whether the body is declared as JSON: one `Content-Type` of `application/json`, with any parameters, of which a
/// `charset` must be UTF-8 (RFC 8259 §8.1).
pub fn is_json(headers: &HeaderMap) -> bool {
    is_of_type(headers, "application/json")
}

/// The same for another type that is JSON.
pub fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(media_type) && parts.all(is_harmless_parameter)
}

fn is_harmless_parameter(parameter: &str) -> bool {
    let parameter = parameter.trim();
    if parameter.is_empty() {
        // RFC 9110 §5.6.6 allows a lone semicolon.
        return true;
    }
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let value = value.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap_or(value);
    !name.eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;
    use std::io;

    use axum::body::Body;
    use futures_util::stream::{self, StreamExt as _};
    use http::HeaderValue;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(30);

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes()))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        type Row = (&'static str, Body, usize, Option<u64>, Option<&'static str>);
        let rows: Vec<Row> = vec![
            ("empty", Body::empty(), 0, None, Some("")),
            ("one frame", Body::from("abc"), 3, None, Some("abc")),
            ("several frames", pieces(&["a", "", "bc", "d"]), 4, None, Some("abcd")),
            ("empty frames first", pieces(&["", "", "abc"]), 3, None, Some("abc")),
            ("announced and kept", Body::from("abc"), 3, Some(3), Some("abc")),
            ("announced more than sent", pieces(&["abc"]), 10, Some(9), Some("abc")),
            ("one byte too many in one frame", Body::from("abcd"), 3, None, None),
            ("one byte too many in the last frame", pieces(&["a", "bc", "d"]), 3, None, None),
            ("announced too large, sent small", pieces(&["a"]), 3, Some(4), None),
            ("announced beyond any memory", pieces(&["a"]), usize::MAX, Some(u64::MAX), Some("a")),
            ("announced small, sent too large", pieces(&["abcd"]), 3, Some(1), None),
        ];
        for (name, body, limit, content_length, expected) in rows {
            let read = read_limited(body, limit, LATE, content_length).await;
            match (read, expected) {
                (Ok(bytes), Some(expected)) => assert_eq!(bytes, expected, "{name}"),
                (Err(BodyError::TooLarge { limit: told }), None) => assert_eq!(told, limit, "{name}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_body_announced_too_large_is_not_read() {
        let never = stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> {
            panic!("the body was read");
        });
        let read = read_limited(Body::from_stream(never), 3, LATE, Some(4)).await;
        assert!(matches!(read, Err(BodyError::TooLarge { limit: 3 })), "{read:?}");
    }

    #[tokio::test]
    async fn a_body_that_stays_away_or_breaks_is_told_apart() {
        let first = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"a"))]);
        let stalls = Body::from_stream(first.chain(stream::once(pending())));
        let read = read_limited(stalls, 3, SOON, None).await;
        assert!(matches!(read, Err(BodyError::TimedOut)), "{read:?}");

        let breaks = Body::from_stream(stream::iter([Ok(Bytes::from_static(b"a")), Err(io::Error::other("gone"))]));
        let read = read_limited(breaks, 3, LATE, None).await;
        assert!(matches!(read, Err(BodyError::Broken(_))), "{read:?}");
    }

    fn headers(name: &header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn json_is_declared_once_and_in_utf_8() {
        let rows: &[(&[&str], bool)] = &[
            (&["application/json"], true),
            (&["Application/JSON"], true),
            (&["application/json; charset=utf-8"], true),
            (&["application/json;charset=\"UTF-8\""], true),
            (&["application/json ; profile=x; charset=utf-8;"], true),
            (&["application/json; charset=latin1"], false),
            (&["application/json; charset=utf-8; charset=utf-16"], false),
            (&["application/json; charset"], false),
            (&["application/json; charset=utf8"], false),
            (&["application/jsonp"], false),
            (&["application/vnd.api+json"], false),
            (&["text/plain"], false),
            (&["text/plain; application/json"], false),
            (&["application/json, text/plain"], false),
            (&["application/json", "application/json"], false),
            (&["application/json\u{e9}"], false),
            (&[""], false),
            (&[], false),
        ];
        for (values, expected) in rows {
            assert_eq!(is_json(&headers(&header::CONTENT_TYPE, values)), *expected, "{values:?}");
        }
    }

    #[test]
    fn only_bodies_without_encoding_are_read() {
        let rows: &[(&[&str], bool)] = &[
            (&[], true),
            (&["identity"], true),
            (&["Identity"], true),
            (&["gzip"], false),
            (&["identity", "gzip"], false),
            (&["identity, gzip"], false),
            (&["br"], false),
            (&["zstd"], false),
            (&[""], false),
        ];
        for (values, expected) in rows {
            let checked = check_encoding(&headers(&header::CONTENT_ENCODING, values));
            assert_eq!(checked.is_ok(), *expected, "{values:?}");
        }
    }
}
