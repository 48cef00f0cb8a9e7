//! `If-Match` (RFC 9110 §13.1.1) over revisions, which are the entity tags here: `"7"`.
//!
//! Who sends one has a change refused that would be of something else than what they saw.

use axum::extract::FromRequestParts;
use axum::response::Response;
use http::header::{ETAG, HeaderValue, IF_MATCH};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::Problem;

/// Tags that are looked at.
const MAX_TAGS: usize = 16;

/// The revisions that a change is meant for; `None` for whatever there is.
pub(super) struct IfMatch(pub(super) Option<Vec<u64>>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(&parts.headers).map(Self).ok_or_else(|| {
            let detail = r#"If-Match has to be `*` or revisions in quotes, such as "7""#;
            Problem::new(StatusCode::BAD_REQUEST, "invalid_if_match", detail)
        })
    }
}

/// `None` if it cannot be read.
fn read(headers: &HeaderMap) -> Option<Option<Vec<u64>>> {
    let (mut revisions, mut tags) = (Vec::new(), 0);
    for value in headers.get_all(IF_MATCH) {
        for tag in value.to_str().ok()?.split(',').map(str::trim) {
            tags += 1;
            if tag == "*" {
                return Some(None);
            }
            // A weak one is none that is compared here, and what is no number is no revision of ours.
            let tag = tag.strip_prefix("W/").map_or((tag, true), |weak| (weak, false));
            let inside = tag.0.strip_prefix('"')?.strip_suffix('"')?;
            revisions.extend(inside.parse::<u64>().ok().filter(|_| tag.1));
        }
    }
    match tags {
        0 => Some(None),
        1..=MAX_TAGS => Some(Some(revisions)),
        _ => None,
    }
}

/// The answer with the revision that it shows.
pub(super) fn tagged(mut response: Response, revision: u64) -> Response {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{revision}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_revisions_in_quotes() {
        for (values, expected) in [
            (&[][..], Some(None)),
            (&["*"], Some(None)),
            (&["\"7\""], Some(Some(vec![7]))),
            (&["\"7\", \"8\"", "\"9\""], Some(Some(vec![7, 8, 9]))),
            // Of something else: it matches nothing.
            (&["\"abc\""], Some(Some(vec![]))),
            (&["W/\"7\""], Some(Some(vec![]))),
            (&["\"7\", *"], Some(None)),
            (&["7"], None),
            (&[""], None),
            (&["\"7"], None),
            (&["\"7\","], None),
        ] {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| _ = headers.append(IF_MATCH, HeaderValue::from_str(value).unwrap()));
            assert_eq!(read(&headers), expected, "{values:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, HeaderValue::from_str(&vec!["\"1\""; MAX_TAGS + 1].join(",")).unwrap());
        assert_eq!(read(&headers), None);
    }
}
