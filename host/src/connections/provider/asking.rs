//! How authorization servers are reached: through the guarded fetcher, and no other way.
//!
//! What an operator wrote for an upstream is trusted for this upstream alone: its origin, and that of its issuer. Every other
//! address was discovered, and is judged like any that a stranger names unless `outbound.allow` has it. What they wrote of TLS
//! is for the upstream's own origin and nobody else. No redirect is followed, so that nothing is carried elsewhere.

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use serde_json::{Value, json};

use super::DiscoverError;
use crate::config::{self, OAuthClient, Protocol, UpstreamAuth, UpstreamTransport};
use crate::connection::Origin;
use crate::ids::UpstreamName;
use crate::oauth::upstream::challenge::Challenge;
use crate::oauth::upstream::client::Form;
use crate::oauth::upstream::discovery::is_document;
use crate::oauth::upstream::token::retry_after;
use crate::oauth::upstream::{Address, Unfit, Vouched};
use crate::outbound::{Fetch, FetchError, Fetched, Fetcher, Limits, Tls, TrustedEntry, is_passing};
use crate::secret::Plaintext;

/// Most of what is answered, in bytes. Documents of servers with many scopes are the largest.
const MAX_ANSWER: usize = 256 * 1024;
/// How long a token endpoint may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an upstream may take to hear that a session has ended that was begun to hear its challenge.
const GOODBYE: Duration = Duration::from_secs(2);
/// Where a server that lets us begin says in which session (2025-11-25, transports § session management).
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
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

/// What an operator says of an upstream that goes for it alone: the addresses that they vouch for, and how the upstream's own
/// origin proves who it is, and we to it. An authorization server at another origin has nothing of the latter: it proves
/// itself as everybody does, and is shown no certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct Ground {
    pub(super) vouched: Vouched,
    own: Option<(Origin, Tls)>,
}

impl Ground {
    fn tls_towards(&self, url: &Uri) -> Option<&Tls> {
        self.own.as_ref().filter(|(own, _)| *own == Origin::of_url(url)).map(|(_, tls)| tls)
    }

    /// What tells what was found on this ground from what was found on another.
    pub(super) fn marks(&self) -> impl Iterator<Item = String> {
        let vouched = self.vouched.addresses().iter().map(|own| own.as_str().to_owned());
        vouched.chain(self.own.iter().map(|(_, tls)| tls.fingerprint()))
    }
}

/// An upstream whose authorization is looked for.
pub(super) struct Site<'a> {
    pub(super) name: &'a UpstreamName,
    pub(super) address: Address,
    pub(super) client: &'a OAuthClient,
    pub(super) ground: Ground,
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
        let own = settings.tls.clone().map(|tls| (Origin::of_url(url), tls));
        let ground = Ground { vouched, own };
        Ok(Self { name: &settings.name, address, client, ground, protocol: *protocol, headers })
    }

    /// Requests that a server that wants tokens refuses, and that do nothing if it does not. Some let everybody begin, and
    /// refuse whoever lists.
    fn probes(&self) -> Vec<Fetch> {
        let uri = self.address.uri().clone();
        let version = if self.protocol == Protocol::Modern { MODERN } else { LEGACY };
        let info = json!({ "name": "portcullis", "version": env!("CARGO_PKG_VERSION") });
        let post = |method: &'static str, params: &Value| {
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            let fetch = Fetch::json(uri.clone(), message.to_string())
                .header(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"))
                .header(HeaderName::from_static("mcp-protocol-version"), HeaderValue::from_static(version));
            match self.protocol {
                Protocol::Modern => {
                    fetch.header(HeaderName::from_static("mcp-method"), HeaderValue::from_static(method))
                }
                Protocol::Auto | Protocol::Legacy | Protocol::Sse => fetch,
            }
        };
        let fetches = match self.protocol {
            Protocol::Sse => {
                vec![Fetch::get(uri.clone()).header(ACCEPT, HeaderValue::from_static("text/event-stream"))]
            }
            Protocol::Modern => {
                let meta = json!({
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientInfo": info,
                    "io.modelcontextprotocol/clientCapabilities": {},
                });
                let params = json!({ "_meta": meta });
                vec![post("server/discover", &params), post("tools/list", &params)]
            }
            Protocol::Auto | Protocol::Legacy => {
                let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info });
                vec![post("initialize", &params), post("tools/list", &json!({}))]
            }
        };
        fetches.into_iter().map(|fetch| self.with_headers(fetch)).collect()
    }

    /// With what the operator has it shown.
    fn with_headers(&self, fetch: Fetch) -> Fetch {
        self.headers.iter().fold(fetch, |fetch, (name, value)| fetch.header(name.clone(), value.clone()))
    }

    /// What ends a session.
    fn goodbye(&self, session: HeaderValue) -> Fetch {
        let version = HeaderValue::from_static(LEGACY);
        let fetch = Fetch::delete(self.address.uri().clone())
            .header(HeaderName::from_static("mcp-protocol-version"), version)
            .header(SESSION, session);
        self.with_headers(fetch)
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
    /// [`DiscoverError::Unreachable`], if it answers nothing that decides anything.
    pub(super) async fn challenge(&self, site: &Site<'_>) -> Result<Option<Challenge>, DiscoverError> {
        let mut session = None;
        let challenge = self.probe(site, &mut session).await;
        if let Some(session) = session {
            let limits = Limits { total: GOODBYE, ..Limits::default() };
            // Some keep no sessions that can be ended, and others end them when nobody uses them.
            if let Err(error) = self.fetch(site.goodbye(session), &site.ground, limits).await {
                tracing::debug!(upstream = %site.name, %error, "a session that was begun could not be ended");
            }
        }
        challenge
    }

    /// The same; `session` is the one that it has begun with us, if it has.
    async fn probe(
        &self,
        site: &Site<'_>,
        session: &mut Option<HeaderValue>,
    ) -> Result<Option<Challenge>, DiscoverError> {
        // What it says of one request is not undone by what it does not say of a later one.
        let mut has_answered = false;
        for probe in site.probes() {
            let probe = match &*session {
                Some(session) => probe.header(SESSION, session.clone()),
                None => probe,
            };
            match self.fetch(probe, &site.ground, Limits::default()).await {
                Ok(Fetched { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, headers, .. }) => {
                    return Ok(Challenge::of(&headers));
                }
                Ok(answer) if is_passing(answer.status) && !has_answered => {
                    return Err(unreachable(Stage::Upstream, &answer));
                }
                Ok(answer) if is_passing(answer.status) => {}
                Ok(answer) => {
                    has_answered = true;
                    if let (None, Some(begun)) = (&*session, answer.headers.get(SESSION)) {
                        let mut begun = begun.clone();
                        begun.set_sensitive(true);
                        *session = Some(begun);
                    }
                }
                Err(error) if error.is_passing() && !has_answered => return Err(failed(Stage::Upstream, &error)),
                // Passing, or it has more to say than anybody who refuses.
                Err(error) => has_answered |= !error.is_passing(),
            }
        }
        Ok(None)
    }

    /// The document at a place, if there is one.
    ///
    /// # Errors
    /// [`DiscoverError`], if that cannot be told.
    pub(super) async fn document(
        &self,
        place: &Address,
        ground: &Ground,
        stage: Stage,
    ) -> Result<Option<Fetched>, DiscoverError> {
        let fetch = Fetch::get(place.uri().clone()).header(ACCEPT, HeaderValue::from_static("application/json"));
        match self.fetch(fetch, ground, limits()).await {
            Ok(answer) if is_passing(answer.status) => Err(unreachable(stage, &answer)),
            Ok(answer) => Ok((answer.status == StatusCode::OK && is_document(&answer.body)).then_some(answer)),
            Err(error) => Err(failed(stage, &error)),
        }
    }

    /// The answer to a form.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(super) async fn form(&self, endpoint: &Address, form: &Form, ground: &Ground) -> Result<Fetched, FetchError> {
        let mut fetch = Fetch::form(endpoint.uri().clone(), form.body.expose().to_owned());
        if let Some(value) = form.authorization.as_ref().and_then(sensitive) {
            fetch = fetch.header(AUTHORIZATION, value);
        }
        let fetch = fetch.header(ACCEPT, HeaderValue::from_static("application/json"));
        self.fetch(fetch, ground, Limits { total: PATIENCE, ..limits() }).await
    }

    /// The answer to a registration.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub(super) async fn register(
        &self,
        endpoint: &Address,
        request: &Value,
        ground: &Ground,
    ) -> Result<Fetched, DiscoverError> {
        let fetch = Fetch::json(endpoint.uri().clone(), request.to_string());
        let fetch = fetch.header(ACCEPT, HeaderValue::from_static("application/json"));
        match self.fetch(fetch, ground, Limits { total: PATIENCE, ..limits() }).await {
            Ok(answer) if is_passing(answer.status) => Err(unreachable(Stage::Server, &answer)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(failed(Stage::Server, &error)),
        }
    }

    async fn fetch(&self, fetch: Fetch, ground: &Ground, limits: Limits) -> Result<Fetched, FetchError> {
        let origins = ground.vouched.addresses().iter().filter_map(|address| origin(address.uri()));
        let fetch = match ground.tls_towards(fetch.url()) {
            Some(tls) => fetch.secured(tls.clone()),
            None => fetch,
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::TlsSettings;

    #[test]
    fn what_an_operator_says_of_tls_is_for_the_upstreams_own_origin_alone() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let tls = Tls::new(TlsSettings { takes_any: true, ..TlsSettings::default() }).unwrap();
        let own = Some((Origin::of_url(&uri("https://mcp.example:8443/mcp")), tls.clone()));
        let ground = Ground { vouched: Vouched::default(), own };
        assert_eq!(ground.tls_towards(&uri("https://MCP.example:8443/.well-known/x")), Some(&tls));
        for elsewhere in [
            "https://mcp.example/.well-known/x",
            "https://id.example:8443/token",
            "http://mcp.example:8443/mcp",
            "https://mcp.example.evil:8443/mcp",
        ] {
            assert_eq!(ground.tls_towards(&uri(elsewhere)), None, "{elsewhere}");
        }
        assert_eq!(Ground::default().tls_towards(&uri("https://mcp.example:8443/mcp")), None);
        let marks = |ground: &Ground| ground.marks().collect::<Vec<_>>();
        assert_ne!(marks(&ground), marks(&Ground::default()), "what was found with one is not found with the other");
    }
}
