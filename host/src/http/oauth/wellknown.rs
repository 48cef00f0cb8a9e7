//! What is told to everybody: the documents about the resources (RFC 9728), about the authorization server (RFC 8414,
//! OpenID Connect Discovery), and the keys that verify its tokens (RFC 7517).
//!
//! Where `public_url` has a path, that path stands behind the well-known part (RFC 8414 §3.1, RFC 9728 §3.1); a proxy that
//! takes the path away leads here as well with the form that has the path first. Nothing is told of the request: every
//! document is the same for everyone, and may be read by pages of any origin.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use http::StatusCode;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, HeaderValue};
use serde_json::Value;

use super::{Access, OAuth, Route};
use crate::ids::UpstreamName;
use crate::oauth::metadata::{
    AUTHORIZATION_SERVER, ENDPOINT, KEYS, OPENID, PROTECTED_RESOURCE, REGISTER, REVOKE, TOKEN,
};

/// How long a document counts as fresh.
const MAX_AGE: Duration = Duration::from_secs(300);

pub(super) const ROUTES: &[Route] = &[
    row(PROTECTED_RESOURCE, || get(resource)),
    row("/.well-known/oauth-protected-resource/{*rest}", || get(resource)),
    row(AUTHORIZATION_SERVER, || get(server)),
    row("/.well-known/oauth-authorization-server/{*rest}", || get(server)),
    row(OPENID, || get(openid)),
    row("/.well-known/openid-configuration/{*rest}", || get(openid)),
    row(KEYS, || get(keys)),
];

const fn row(path: &'static str, handler: fn() -> MethodRouter<Arc<OAuth>>) -> Route {
    Route { methods: "GET", path, access: Access::Anyone, handler }
}

/// Whether pages of any origin may read what is at this path: it is said to everybody, and is the same for everybody; or what
/// opens something there is in the request itself, and no cookie is read.
pub fn is_for_everybody(path: &str) -> bool {
    if [TOKEN, REVOKE].contains(&path) {
        return true;
    }
    let is_below = |of: &&str| path.strip_prefix(*of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    path == KEYS || [PROTECTED_RESOURCE, AUTHORIZATION_SERVER, OPENID, REGISTER].iter().any(is_below)
}

async fn resource(State(oauth): State<Arc<OAuth>>, rest: Option<Path<String>>) -> Response {
    let metadata = oauth.server.metadata();
    let rest = rest.map(|Path(rest)| rest).unwrap_or_default();
    let snapshot = oauth.server.snapshot.load();
    let is_there = |name: &UpstreamName| snapshot.upstreams.contains_key(name);
    match about(&rest, path_of(&metadata.issuer), is_there) {
        Some(about) => document(&metadata.protected_resource(about.as_ref().map(UpstreamName::as_str))),
        None => crate::http::nothing_here().await,
    }
}

async fn server(State(oauth): State<Arc<OAuth>>, rest: Option<Path<String>>) -> Response {
    let metadata = oauth.server.metadata();
    if is_of_issuer(rest.as_ref(), path_of(&metadata.issuer)) {
        document(&metadata.authorization_server())
    } else {
        crate::http::nothing_here().await
    }
}

async fn openid(State(oauth): State<Arc<OAuth>>, rest: Option<Path<String>>) -> Response {
    let metadata = oauth.server.metadata();
    if is_of_issuer(rest.as_ref(), path_of(&metadata.issuer)) {
        document(&metadata.openid_configuration())
    } else {
        crate::http::nothing_here().await
    }
}

async fn keys(State(oauth): State<Arc<OAuth>>) -> Response {
    // Who has a copy reads it again before a key signs that is announced after that.
    let fresh = oauth.server.settings().tokens.key_announce / 2;
    for_everybody(oauth.server.signing.jwks().as_ref().to_owned(), fresh.min(MAX_AGE))
}

/// What a document about a resource is about, by what stands behind the well-known part: `Some(None)` for the endpoint of
/// all upstreams. The form without any path is about that as well.
fn about(rest: &str, issuer: &str, is_there: impl Fn(&UpstreamName) -> bool) -> Option<Option<UpstreamName>> {
    let endpoint = |path: &str| {
        if path.is_empty() {
            return Some(None);
        }
        let below = path.strip_prefix(ENDPOINT)?;
        if below.is_empty() {
            return Some(None);
        }
        let name = below.strip_prefix('/').and_then(|name| UpstreamName::parse(name).ok())?;
        is_there(&name).then_some(Some(name))
    };
    let path = if rest.is_empty() { String::new() } else { format!("/{rest}") };
    path.strip_prefix(issuer).and_then(endpoint).or_else(|| endpoint(&path))
}

/// Whether what stands behind the well-known part is the issuer's path, or nothing.
fn is_of_issuer(rest: Option<&Path<String>>, issuer: &str) -> bool {
    rest.is_none_or(|Path(rest)| issuer.strip_prefix('/') == Some(rest.as_str()))
}

/// The path of an issuer, without a slash at its end.
fn path_of(issuer: &str) -> &str {
    let authority = issuer.find("://").map_or(0, |at| at + 3);
    issuer[authority..].find('/').map_or("", |at| &issuer[authority + at..])
}

fn document(document: &Value) -> Response {
    for_everybody(document.to_string(), MAX_AGE)
}

fn for_everybody(body: String, fresh: Duration) -> Response {
    let mut response = crate::http::error::json_response(StatusCode::OK, body);
    let cache = format!("public, max-age={}", fresh.as_secs());
    let cache = HeaderValue::try_from(cache).expect("words and digits are a header");
    response.headers_mut().insert(CACHE_CONTROL, cache);
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rest: &str, issuer: &str) -> Option<Option<String>> {
        let about = about(rest, path_of(issuer), |name| name.as_str() == "notes");
        about.map(|about| about.map(|name| name.to_string()))
    }

    #[test]
    fn there_is_a_document_for_each_resource_and_for_no_other() {
        let issuer = "https://gateway.example";
        let (all, notes) = (Some(None), Some(Some("notes".to_owned())));
        assert_eq!([of("", issuer), of("mcp", issuer)], [all.clone(), all.clone()]);
        assert_eq!(of("mcp/notes", issuer), notes);
        for other in [
            "mcp/",
            "mcp/other",
            "mcp/notes/",
            "mcp/notes/x",
            "mcpx",
            "notes",
            "mcp/NOTES",
            "mcp//notes",
            "/mcp",
            "sse",
        ] {
            assert_eq!(of(other, issuer), None, "{other}");
        }
        // Behind a path that a proxy takes away, and where it does not.
        let issuer = "https://gateway.example/a/b";
        for rest in ["", "mcp", "a/b", "a/b/mcp"] {
            assert_eq!(of(rest, issuer), all, "{rest}");
        }
        assert_eq!([of("mcp/notes", issuer), of("a/b/mcp/notes", issuer)], [notes.clone(), notes]);
        for other in ["a", "a/mcp", "a/b/mcp/other", "a/bmcp", "a/b/", "b/mcp"] {
            assert_eq!(of(other, issuer), None, "{other}");
        }
        assert_eq!(of("mcp/mcp/notes", "https://gateway.example/mcp"), Some(Some("notes".to_owned())));
    }

    #[test]
    fn the_server_is_described_below_its_own_path_only() {
        let of = |rest: Option<&str>, issuer: &str| {
            is_of_issuer(rest.map(|rest| Path(rest.to_owned())).as_ref(), path_of(issuer))
        };
        assert!(of(None, "https://gateway.example") && of(None, "https://gateway.example/a"));
        assert!(of(Some("a/b"), "https://gateway.example/a/b"));
        for (rest, issuer) in [("mcp", ""), ("a", ""), ("a/", "/a"), ("b", "/a"), ("a/b", "/a"), ("a/mcp", "/a")] {
            assert!(!of(Some(rest), &format!("https://gateway.example{issuer}")), "{rest} {issuer}");
        }
    }

    #[test]
    fn documents_are_for_everybody_and_nothing_else_is() {
        for path in [
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/mcp/notes",
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration/a",
            "/.well-known/jwks.json",
            "/oauth2/token",
            "/oauth2/revoke",
            "/oauth2/register",
        ] {
            assert!(is_for_everybody(path), "{path}");
        }
        for path in [
            "/",
            "/mcp",
            "/oauth2/tokens",
            "/oauth2/introspect",
            "/oauth2/authorize",
            "/account",
            "/.well-known/oauth-protected-resourceful",
            "/.well-known/jwks.json/x",
            "/x/.well-known/jwks.json",
        ] {
            assert!(!is_for_everybody(path), "{path}");
        }
    }

    #[test]
    fn a_document_may_be_kept_and_read_by_every_page() {
        let response = document(&serde_json::json!({}));
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("cache-control"), "public, max-age=300");
        assert_eq!(header("access-control-allow-origin"), "*");
        assert_eq!(header("content-type"), "application/json");
    }
}
