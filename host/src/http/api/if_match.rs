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

/// The revisions that a change is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// It is not said.
    Missing,
    /// Whatever there is.
    Any,
    Revisions(Vec<u64>),
}

impl IfMatch {
    /// The revisions, `None` for whatever there is, where that has to be said (RFC 6585 §3).
    pub(super) fn needed(self) -> Result<Option<Vec<u64>>, Problem> {
        match self {
            Self::Missing => {
                let detail = "say in If-Match which revision is to be changed, as ETag told it";
                Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail))
            }
            Self::Any | Self::Revisions(_) => Ok(self.said()),
        }
    }

    /// The same where it may be left out.
    pub(super) fn said(self) -> Option<Vec<u64>> {
        match self {
            Self::Missing | Self::Any => None,
            Self::Revisions(revisions) => Some(revisions),
        }
    }
}

/// What is said to whoever wanted to change something else than there is, which is at this revision.
pub(super) fn is_other(detail: String, revision: u64) -> Problem {
    Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail).with("revision", revision)
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(&parts.headers).ok_or_else(|| {
            let detail = r#"If-Match has to be `*` or revisions in quotes, such as "7""#;
            Problem::new(StatusCode::BAD_REQUEST, "invalid_if_match", detail)
        })
    }
}

/// `None` if it cannot be read.
fn read(headers: &HeaderMap) -> Option<IfMatch> {
    let (mut revisions, mut tags) = (Vec::new(), 0);
    for value in headers.get_all(IF_MATCH) {
        for tag in value.to_str().ok()?.split(',').map(str::trim) {
            tags += 1;
            if tag == "*" {
                return Some(IfMatch::Any);
            }
            // A weak one is none that is compared here, and what is no number is no revision of ours.
            let tag = tag.strip_prefix("W/").map_or((tag, true), |weak| (weak, false));
            let inside = tag.0.strip_prefix('"')?.strip_suffix('"')?;
            revisions.extend(inside.parse::<u64>().ok().filter(|_| tag.1));
        }
    }
    match tags {
        0 => Some(IfMatch::Missing),
        1..=MAX_TAGS => Some(IfMatch::Revisions(revisions)),
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
            (&[][..], Some(IfMatch::Missing)),
            (&["*"], Some(IfMatch::Any)),
            (&["\"7\""], Some(IfMatch::Revisions(vec![7]))),
            (&["\"7\", \"8\"", "\"9\""], Some(IfMatch::Revisions(vec![7, 8, 9]))),
            // Of something else: it matches nothing.
            (&["\"abc\""], Some(IfMatch::Revisions(vec![]))),
            (&["W/\"7\""], Some(IfMatch::Revisions(vec![]))),
            (&["\"7\", *"], Some(IfMatch::Any)),
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
    #[test]
    fn some_changes_need_one() {
        let missing = IfMatch::Missing.needed().map_err(|problem| (problem.status, problem.code));
        assert_eq!(missing, Err((StatusCode::PRECONDITION_REQUIRED, "precondition_required")));
        assert_eq!((IfMatch::Any.needed().ok(), IfMatch::Missing.said()), (Some(None), None));
        assert_eq!(IfMatch::Revisions(vec![7]).needed().ok(), Some(Some(vec![7])));
        assert_eq!(IfMatch::Revisions(vec![7]).said(), Some(vec![7]));
    }
}
