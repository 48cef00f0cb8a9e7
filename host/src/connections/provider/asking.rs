//! How authorization servers are reached: through the guarded fetcher, and no other way.
//!
//! What an operator wrote for an upstream is trusted for this upstream alone: its origin, and that of its issuer. Every other
//! address was discovered, and is judged like any that a stranger names unless `outbound.allow` has it. No redirect is
//! followed, so that nothing is carried elsewhere.

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use serde_json::{Value, json};

use super::DiscoverError;
use crate::config::{self, OAuthClient, Protocol, UpstreamAuth, UpstreamTransport};
use crate::ids::UpstreamName;
use crate::oauth::upstream::challenge::Challenge;
use crate::oauth::upstream::client::Form;
use crate::oauth::upstream::discovery::is_document;
use crate::oauth::upstream::token::retry_after;
use crate::oauth::upstream::{Address, Unfit, Vouched};
use crate::outbound::{Fetch, FetchError, Fetched, Fetcher, Limits, TrustedEntry, is_passing};
use crate::secret::Plaintext;

/// Most of what is answered, in bytes. Documents of servers with many scopes are the largest.
const MAX_ANSWER: usize = 256 * 1024;
/// How long a token endpoint may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What we say of ourselves to an upstream that is asked for its challenge only.
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

words! {
    /// Who was asked when something failed.
    Stage {
        Upstream = "the upstream",
        Resource = "the upstream's description of its authorization",
        Server = "the authorization server",
    }
}

/// An upstream whose authorization is looked for.
pub(super) struct Site<'a> {
    pub(super) name: &'a UpstreamName,
    pub(super) address: Address,
    pub(super) client: &'a OAuthClient,
    pub(super) vouched: Vouched,
    protocol: Protocol,
    headers: HeaderMap,
}

impl<'a> Site<'a> {
    /// As it is configured.
    ///
    /// # Errors
    /// [`Unfit`], if there is nothing to look for.
    pub(super) fn of(settings: &'a config::Upstream) -> Result<Self, Unfit> {
        let client = match &settings.auth {
            UpstreamAuth::SharedOAuth(client) | UpstreamAuth::PerUserOAuth(client) => &**client,
            UpstreamAuth::TokenExchange(terms) => &terms.client,
            UpstreamAuth::None | UpstreamAuth::PerUserHeaders(_) | UpstreamAuth::PerUserEnvironment { .. } => {
                return Err(Unfit::NoOAuth);
            }
        };
        let UpstreamTransport::StreamableHttp { url, protocol, headers } = &settings.transport else {
            return Err(Unfit::Transport);
        };
        let address = Address::parse(&url.to_string()).ok_or(Unfit::Transport)?;
        let issuer = client.issuer.as_deref().and_then(Address::parse);
        let vouched = Vouched::new([address.clone()].into_iter().chain(issuer));
        let header = |(name, value): (&String, &Plaintext)| Some((name.parse().ok()?, sensitive(value)?));
        let headers = headers.iter().filter_map(header).collect();
        Ok(Self { name: &settings.name, address, client, vouched, protocol: *protocol, headers })
    }

    /// A request that a server that wants tokens refuses, and that does nothing if it does not.
    fn probe(&self) -> Fetch {
        let uri = self.address.uri().clone();
        let version = if self.protocol == Protocol::Modern { MODERN } else { LEGACY };
        let info = json!({ "name": "portcullis", "version": env!("CARGO_PKG_VERSION") });
        let post = |message: Value| {
            Fetch::json(uri.clone(), message.to_string())
                .header(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"))
                .header(HeaderName::from_static("mcp-protocol-version"), HeaderValue::from_static(version))
        };
        let fetch = match self.protocol {
            Protocol::Sse => Fetch::get(uri).header(ACCEPT, HeaderValue::from_static("text/event-stream")),
            Protocol::Modern => {
                let meta = json!({
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientInfo": info,
                    "io.modelcontextprotocol/clientCapabilities": {},
                });
                let params = json!({ "_meta": meta });
                post(json!({ "jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": params }))
                    .header(HeaderName::from_static("mcp-method"), HeaderValue::from_static("server/discover"))
            }
            Protocol::Auto | Protocol::Legacy => {
                let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info });
                post(json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }))
            }
        };
        self.headers.iter().fold(fetch, |fetch, (name, value)| fetch.header(name.clone(), value.clone()))
    }
}

/// A value that is not shown in logs.
fn sensitive(secret: &Plaintext) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What asks.
#[derive(Clone, Debug)]
pub(super) struct Asking(pub(super) Fetcher);

impl Asking {
    /// What an upstream answers to somebody without a token, if it wants one.
    ///
    /// # Errors
    /// [`DiscoverError::Unreachable`].
    pub(super) async fn challenge(&self, site: &Site<'_>) -> Result<Option<Challenge>, DiscoverError> {
        let answer = self.fetch(site.probe(), &site.vouched, Limits::default()).await;
        match answer {
            Ok(answer) if is_passing(answer.status) => Err(unreachable(Stage::Upstream, &answer)),
            Ok(Fetched { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, headers, .. }) => {
                Ok(Challenge::of(&headers))
            }
            Ok(_) => Ok(None),
            Err(error) if error.is_passing() => Err(failed(Stage::Upstream, &error)),
            // It has more to say than anybody who refuses.
            Err(_) => Ok(None),
        }
    }

    /// The document at a place, if there is one.
    ///
    /// # Errors
    /// [`DiscoverError`], if that cannot be told.
    pub(super) async fn document(
        &self,
        place: &Address,
        vouched: &Vouched,
        stage: Stage,
    ) -> Result<Option<Fetched>, DiscoverError> {
        let fetch = Fetch::get(place.uri().clone()).header(ACCEPT, HeaderValue::from_static("application/json"));
        match self.fetch(fetch, vouched, limits()).await {
            Ok(answer) if is_passing(answer.status) => Err(unreachable(stage, &answer)),
            Ok(answer) => Ok((answer.status == StatusCode::OK && is_document(&answer.body)).then_some(answer)),
            Err(error) => Err(failed(stage, &error)),
        }
    }

    /// The answer to a form.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(super) async fn form(&self, endpoint: &Address, form: &Form, vouched: &Vouched) -> Result<Fetched, FetchError> {
        let mut fetch = Fetch::form(endpoint.uri().clone(), form.body.expose().to_owned());
        if let Some(value) = form.authorization.as_ref().and_then(sensitive) {
            fetch = fetch.header(AUTHORIZATION, value);
        }
        let fetch = fetch.header(ACCEPT, HeaderValue::from_static("application/json"));
        self.fetch(fetch, vouched, Limits { total: PATIENCE, ..limits() }).await
    }

    /// The answer to a registration.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub(super) async fn register(
        &self,
        endpoint: &Address,
        request: &Value,
        vouched: &Vouched,
    ) -> Result<Fetched, DiscoverError> {
        let fetch = Fetch::json(endpoint.uri().clone(), request.to_string());
        let fetch = fetch.header(ACCEPT, HeaderValue::from_static("application/json"));
        match self.fetch(fetch, vouched, Limits { total: PATIENCE, ..limits() }).await {
            Ok(answer) if is_passing(answer.status) => Err(unreachable(Stage::Server, &answer)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(failed(Stage::Server, &error)),
        }
    }

    async fn fetch(&self, fetch: Fetch, vouched: &Vouched, limits: Limits) -> Result<Fetched, FetchError> {
        let origins = vouched.addresses().iter().filter_map(|address| origin(address.uri()));
        self.0.fetch(origins.fold(fetch.limits(limits), Fetch::trusting)).await
    }
}

fn origin(uri: &Uri) -> Option<TrustedEntry> {
    TrustedEntry::origin(uri)
}

fn limits() -> Limits {
    Limits { body: MAX_ANSWER, ..Limits::default() }
}

fn unreachable(stage: Stage, answer: &Fetched) -> DiscoverError {
    tracing::info!(%stage, status = answer.status.as_u16(), "an answer that decides nothing");
    DiscoverError::Unreachable { stage, retry_after: retry_after(&answer.headers) }
}

/// What a failure means at this stage. Its text is ours.
fn failed(stage: Stage, error: &FetchError) -> DiscoverError {
    tracing::info!(%stage, %error, "no answer");
    match error {
        FetchError::Url(_) | FetchError::Address { .. } => Unfit::Guarded.into(),
        FetchError::TooLarge { .. } | FetchError::Encoded | FetchError::RequestTooLarge => match stage {
            Stage::Upstream | Stage::Resource => Unfit::ResourceUnreadable.into(),
            Stage::Server => Unfit::Unreadable.into(),
        },
        FetchError::Busy
        | FetchError::Unresolved { .. }
        | FetchError::Connect(_)
        | FetchError::Tls(_)
        | FetchError::Broken(_)
        | FetchError::TimedOut => DiscoverError::Unreachable { stage, retry_after: None },
    }
}
