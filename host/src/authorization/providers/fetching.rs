//! How openidconnect reaches a provider: through the guarded fetcher, and no other way.
//!
//! Only the provider's own configuration document is fetched from an origin that is trusted because an operator wrote it.
//! Every other address comes from that document, so that it is judged like any that a stranger names, unless
//! `outbound.allow` has it.

use std::future::ready;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode, Uri};
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use super::Unavailable;
use crate::outbound::{Fetch, FetchError, Fetched, Fetcher, Limits, TrustedEntry, UrlFault};

/// Most of what a provider answers, in bytes. Sets of keys with certificates in them are the largest.
const MAX_ANSWER: usize = 256 * 1024;

/// A provider's endpoints.
pub(super) struct Endpoints<'a>(pub(super) &'a Fetcher);

/// Why there is no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A fault of the provider's own, or one of those between us.
    #[error("it answered with status {0}")]
    Status(StatusCode),
}

impl From<NoAnswer> for Unavailable {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Fetch(error) => Self::Unreachable(error),
            NoAnswer::Status(status) => Self::Status(status),
        }
    }
}

impl<'c> AsyncHttpClient<'c> for Endpoints<'_> {
    type Error = NoAnswer;
    type Future = BoxFuture<'c, Result<HttpResponse, NoAnswer>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        match fetch_of(request) {
            Ok(fetch) => self.ask(fetch).boxed(),
            Err(fault) => ready(Err(FetchError::from(fault).into())).boxed(),
        }
    }
}

impl Endpoints<'_> {
    async fn ask(&self, fetch: Fetch) -> Result<HttpResponse, NoAnswer> {
        let Fetched { status, headers, body } = self.0.fetch(fetch).await?;
        // What a client did wrong is told with a status of its own; all others say nothing about who signs in.
        if !status.is_success() && (!status.is_client_error() || status == StatusCode::TOO_MANY_REQUESTS) {
            return Err(NoAnswer::Status(status));
        }
        let mut response = HttpResponse::new(body.to_vec());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// The same request for the fetcher: a GET, or a form.
fn fetch_of(request: HttpRequest) -> Result<Fetch, UrlFault> {
    let (head, body) = request.into_parts();
    let fetch = match head.method {
        Method::GET => Fetch::get(head.uri),
        Method::POST => Fetch::form(head.uri, body),
        _ => return Err(UrlFault::Malformed),
    };
    let with_headers = |fetch: Fetch, (name, value): (_, &_)| fetch.header(Clone::clone(name), Clone::clone(value));
    Ok(head.headers.iter().fold(fetch, with_headers).limits(limits()))
}

/// The body of a provider's own configuration document.
pub(super) async fn own_document(fetcher: &Fetcher, url: Uri) -> Result<Vec<u8>, Unavailable> {
    let origin = TrustedEntry::origin(&url).ok_or(FetchError::Url(UrlFault::Host));
    let fetch = Fetch::get(url).trusting(origin.map_err(Unavailable::Unreachable)?).limits(limits());
    match fetcher.fetch(fetch).await {
        Ok(Fetched { status: StatusCode::OK, body, .. }) => Ok(body.to_vec()),
        Ok(Fetched { status, .. }) => Err(Unavailable::Status(status)),
        Err(error) => Err(Unavailable::Unreachable(error)),
    }
}

fn limits() -> Limits {
    Limits { body: MAX_ANSWER, ..Limits::default() }
}
