//! Which pages may read what the endpoints answer (Fetch, "CORS protocol").
//!
//! Documents for everybody are for pages of every origin, and so are the endpoints at which clients that run in a browser get
//! and give back tokens and register. The other endpoints for clients answer to pages of the origins that
//! [`crate::http::guard`] lets through, which are ours and those that the operator allows. No cookie counts at any of them, and
//! none is allowed along. What is for a person's browser is shared with nobody.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use http::{Method, StatusCode};

use super::wellknown::is_for_everybody;

/// What a client in a browser sends besides what every page may.
const SENT: HeaderValue = HeaderValue::from_static("authorization, content-type, dpop, mcp-protocol-version");
/// What it has to read besides what every page may.
const READ: HeaderValue = HeaderValue::from_static("www-authenticate, dpop-nonce, retry-after");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE");
/// How long a browser remembers that it may ask, in seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// Middleware of everything that is not for a person's browser: tells browsers which pages may read the answer.
pub(super) async fn share(request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let origin = if is_for_everybody(request.uri().path()) { Some(HeaderValue::from_static("*")) } else { origin };
    let asks_first =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks_first { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers: &mut HeaderMap = response.headers_mut();
    if asks_first {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, SENT);
        headers.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
    }
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, READ);
    }
    headers.append(VARY, HeaderValue::from_static("origin"));
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::{get, post};
    use tower::ServiceExt as _;

    use super::*;

    const PAGE: &str = "https://app.example";

    async fn ask(
        method: Method,
        path: &str,
        origin: Option<&str>,
        asks_first: bool,
    ) -> (u16, Option<String>, Option<String>) {
        let router = Router::new()
            .route("/oauth2/introspect", post(|| async { "known" }).layer(from_fn(share)))
            .route("/.well-known/jwks.json", get(|| async { "keys" }).layer(from_fn(share)));
        let mut request = Request::builder().method(method).uri(path);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        if asks_first {
            request = request.header("access-control-request-method", "POST");
        }
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["vary"], "origin");
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), header("access-control-allow-origin"), header("access-control-allow-methods"))
    }

    #[tokio::test]
    async fn pages_that_were_let_through_may_read_answers_and_documents_are_for_all() {
        let origin = || Some(PAGE.to_owned());
        let methods = || Some("GET, POST, PUT, DELETE".to_owned());
        assert_eq!(ask(Method::POST, "/oauth2/introspect", Some(PAGE), false).await, (200, origin(), None));
        assert_eq!(ask(Method::OPTIONS, "/oauth2/introspect", Some(PAGE), true).await, (204, origin(), methods()));
        assert_eq!(ask(Method::OPTIONS, "/oauth2/introspect", Some(PAGE), false).await, (405, origin(), None));
        assert_eq!(ask(Method::POST, "/oauth2/introspect", None, false).await, (200, None, None));
        let all = || Some("*".to_owned());
        for from in [None, Some(PAGE)] {
            assert_eq!(ask(Method::GET, "/.well-known/jwks.json", from, false).await, (200, all(), None));
        }
        assert_eq!(ask(Method::HEAD, "/.well-known/jwks.json", None, false).await, (200, all(), None));
        assert_eq!(ask(Method::POST, "/.well-known/jwks.json", None, false).await.0, 405);
        assert_eq!(ask(Method::OPTIONS, "/.well-known/jwks.json", Some(PAGE), true).await, (204, all(), methods()));
    }
}
