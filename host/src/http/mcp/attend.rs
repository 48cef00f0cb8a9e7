//! The name that a request has in logs, and what it says of a trace: found or given before anything else, and told in the answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::Mcp;
use crate::env::Env;
use crate::pipeline::Mark;
use crate::secret::hex;
use crate::telemetry::{TRACEPARENT, TRACESTATE, TraceContext};

/// The header with the name of a request, as proxies make it and callers are told.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest name that is taken from somebody else, in bytes.
const MAX_NAME: usize = 64;

/// Gives the request a mark, and its answer the request's name.
pub(super) async fn attend(State(mcp): State<Arc<Mcp>>, mut request: Request, next: Next) -> Response {
    let mark = Mark { received: Some(Instant::now()), ..read(&mcp.services.env, request.headers()) };
    let name = mark.request.as_deref().and_then(|name| HeaderValue::try_from(name).ok());
    request.extensions_mut().insert(mark);
    if let Some(name) = &name {
        // Where another replica answers, it calls the request the same.
        request.headers_mut().insert(REQUEST_ID, name.clone());
    }
    let mut response = next.run(request).await;
    if let Some(name) = name {
        response.headers_mut().insert(REQUEST_ID, name);
    }
    response
}

/// What headers say. A name that nobody gave, or that is none, is made.
pub(super) fn read(env: &Env, headers: &HeaderMap) -> Mark {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let given = text(&REQUEST_ID).filter(|name| is_name(name)).map(Arc::from);
    let name = given.unwrap_or_else(|| hex(&env.random::<16>()).into());
    Mark { request: Some(name), trace: trace(headers), ..Mark::default() }
}

/// Where the request stands in a trace. Said twice it is said by nobody (W3C Trace Context §3.2); the parts of what vendors add
/// belong together (§3.3).
fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let parent = parents.next()?.to_str().ok()?;
    let states: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|state| state.to_str().ok()).collect();
    let state = states.map(|states| states.join(","));
    let context = TraceContext::parse(parent, state.as_deref());
    context.filter(|_| parents.next().is_none())
}

/// Fit for a log and for whoever searches it.
fn is_name(name: &str) -> bool {
    let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(is_of_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(said: &[(&'static str, &str)]) -> Mark {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        read(&Env::system(), &headers)
    }

    #[test]
    fn a_name_is_taken_if_it_is_fit_for_a_log() {
        let name = |said| of(&[("x-request-id", said)]).request.unwrap();
        for good in ["1", "3f2c9a0e-1d", "Root=1-67891233-abcdef/x:y.z"] {
            assert_eq!(*name(good), *good);
        }
        for wrong in ["", "a b", "a\"b", &"x".repeat(65), "a;b"] {
            let made = name(wrong);
            assert!(made.len() == 32 && *made != *wrong, "{made}");
        }
        assert_ne!(of(&[]).request, of(&[]).request);
    }

    #[test]
    fn a_trace_is_taken_if_it_is_said_once() {
        assert_eq!(of(&[("traceparent", PARENT)]).trace.unwrap().parent(), PARENT);
        assert_eq!(of(&[("traceparent", PARENT), ("traceparent", PARENT)]).trace, None);
        assert_eq!(of(&[("traceparent", "00")]).trace, None);
        let joined = of(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]).trace.unwrap();
        assert_eq!(joined.state(), Some("a=1,b=2"));
    }
}
