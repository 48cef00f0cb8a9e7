//! An MCP server that is used with somebody's own credential: a [`Fixture`] behind a gate that looks at one header, and, for
//! tokens, the authorization server that gives them, to people or for what the gateway vouches for. It is written from RFC 6749,
//! 7009, 7515, 7517, 7591, 7636, 8414, 8693 and 9728 and shares no code with the gateway.

#![expect(clippy::disallowed_methods, reason = "it opens connections outward by itself")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::fixture::{Fixture, default_tools, tool};
use super::serve::{Serving, listen};
use super::whims::Whims;

pub use super::whims::Whim;

/// Where it describes itself as a resource, and as an authorization server.
pub const RESOURCE: &str = "/.well-known/oauth-protected-resource/mcp";
pub const SERVER: &str = "/.well-known/oauth-authorization-server";

/// What it says of errors, which nobody should read but the gateway.
pub const WORDS: &str = "LEAK of the provider's words";

/// The client that may exchange tokens, and its secret.
pub const CLIENT: &str = "gateway";
pub const SECRET: &str = "what-the-gateway-shows";

/// What is behind the gate, and the gate.
#[derive(Debug)]
pub struct Gated {
    pub url: String,
    state: Arc<State>,
    _serving: Serving,
    fixture: Fixture,
}

#[derive(Debug)]
struct State {
    wants: Wants,
    origin: String,
    behind: String,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Lists and discovery are for everybody.
    lists_are_open: AtomicBool,
    /// The authorization server fails for a while.
    is_down: AtomicBool,
    /// Whoever registers gets a secret.
    gives_secrets: AtomicBool,
    whims: Whims,
    /// It gives tokens for what the gateway vouches for, to a client with a secret, and in no other way.
    takes_word: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
enum Wants {
    Header(&'static str),
    Token,
}

#[derive(Debug, Default)]
struct Inner {
    /// Values of the header, or access tokens, that are good.
    good: BTreeSet<String>,
    /// Scopes of each access token.
    scopes: BTreeMap<String, String>,
    refresh_tokens: BTreeMap<String, String>,
    codes: BTreeMap<String, BTreeMap<String, String>>,
    /// Clients with their redirect addresses: none stands for any.
    clients: BTreeMap<String, Vec<String>>,
    /// Of those that have one.
    secrets: BTreeMap<String, String>,
    /// Life of access tokens in seconds, if it is not an hour.
    life: Option<u64>,
    /// Secrets that were given out, and those that were shown for them, with what they are.
    given: Vec<(&'static str, String)>,
    /// What a call needs besides any scope.
    needed: Option<String>,
    /// Whose word is taken: the gateway at this address.
    trusted: Option<SocketAddr>,
    /// The error that every exchange is answered with.
    denied: Option<&'static str>,
    /// What was said of people, as it came.
    assertions: Vec<String>,
    refreshes: usize,
    revoked: Vec<String>,
    seen: Vec<String>,
    /// Tools that stand in the lists of whoever shows this value or token, and in no others.
    own_tools: BTreeMap<&'static str, String>,
    /// How often tools were listed for whoever showed something good.
    own_lists: usize,
    made: usize,
}

impl Gated {
    /// One that wants a header with one of these values.
    pub async fn by_header(name: &'static str, values: &[&str]) -> Self {
        let gated = Self::start(Wants::Header(name), false).await;
        gated.state.lock().good.extend(values.iter().map(|value| (*value).to_owned()));
        gated
    }

    /// One that wants a token of its authorization server, at which everybody agrees at once.
    pub async fn by_token() -> Self {
        Self::start(Wants::Token, false).await
    }

    /// One that wants a token of its authorization server, which gives them to [`CLIENT`] with [`SECRET`] for what a gateway
    /// says of people (see [`Self::trust`]).
    pub async fn by_exchange() -> Self {
        Self::start(Wants::Token, true).await
    }

    async fn start(wants: Wants, takes_word: bool) -> Self {
        let fixture = Fixture::start().await;
        let listener = listen(0).await.expect("loopback has free ports");
        let origin = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let behind = fixture.url.clone();
        let state = Arc::new(State {
            wants,
            origin: origin.clone(),
            behind,
            client: Client::builder(TokioExecutor::new()).build_http(),
            lists_are_open: AtomicBool::new(true),
            is_down: AtomicBool::new(false),
            gives_secrets: AtomicBool::new(false),
            whims: Whims::default(),
            takes_word,
            inner: Mutex::default(),
        });
        let serving = state.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let state = serving.clone();
            async move { Ok::<_, Infallible>(state.answer(request).await) }
        });
        Self { url: format!("{origin}/mcp"), state, _serving: Serving::start(listener, service), fixture }
    }

    /// From now on even lists want a credential.
    pub fn close_lists(&self) {
        self.state.lists_are_open.store(false, Ordering::Relaxed);
    }

    /// From now on there is this tool, in the lists of whoever shows this value or token alone.
    pub fn show_only(&self, name: &'static str, value: &str) {
        let mut inner = self.state.lock();
        inner.own_tools.insert(name, value.to_owned());
        let mut tools = default_tools();
        tools.extend(inner.own_tools.keys().map(|name| tool(name)));
        self.fixture.set_tools(tools);
    }

    /// How often tools were listed for whoever showed something good.
    pub fn own_lists(&self) -> usize {
        self.state.lock().own_lists
    }

    /// No access token that was given until now is good any more.
    pub fn end_access_tokens(&self) {
        self.state.lock().good.clear();
    }

    /// No refresh token either.
    pub fn end_refresh_tokens(&self) {
        self.state.lock().refresh_tokens.clear();
    }

    /// Calls need this scope from now on.
    pub fn need(&self, scope: &str) {
        self.state.lock().needed = Some(scope.to_owned());
    }

    /// The authorization server answers 503, or does not.
    pub fn set_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Has it do something else at this path.
    pub fn whim(&self, path: &str, whim: Whim) {
        self.state.whims.set(path, whim);
    }

    /// Has it do what it should.
    pub fn behave(&self) {
        self.state.whims.clear();
    }

    /// How often this path was asked.
    pub fn asked(&self, path: &str) -> usize {
        self.state.whims.asked(path)
    }

    /// What it says of itself as an authorization server.
    pub fn document(&self) -> Value {
        self.state.document()
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.state.origin
    }

    /// It does not know anybody any more who has registered.
    pub fn forget_clients(&self) {
        self.state.lock().clients.clear();
    }

    /// Knows a client with this secret, wherever it has people sent back to, and gives secrets to all others.
    pub fn know(&self, id: &str, secret: &str) {
        self.give_secrets();
        let mut inner = self.state.lock();
        inner.clients.insert(id.to_owned(), Vec::new());
        inner.secrets.insert(id.to_owned(), secret.to_owned());
    }

    /// Whoever registers from now on gets a secret.
    pub fn give_secrets(&self) {
        self.state.gives_secrets.store(true, Ordering::Relaxed);
    }

    /// Access tokens that are given from now on end after this many seconds.
    pub fn let_tokens_live(&self, seconds: u64) {
        self.state.lock().life = Some(seconds);
    }

    /// All secrets that it gave out or was shown in return for them, with what they are.
    pub fn given(&self) -> Vec<(&'static str, String)> {
        self.state.lock().given.clone()
    }

    /// From now on the word of this gateway is taken, by the keys that it publishes.
    pub fn trust(&self, gateway: SocketAddr) {
        self.state.lock().trusted = Some(gateway);
    }

    /// Every exchange is refused like this, or is not.
    pub fn deny(&self, error: Option<&'static str>) {
        self.state.lock().denied = error;
    }

    /// What was said of people until now.
    pub fn assertions(&self) -> Vec<String> {
        self.state.lock().assertions.clone()
    }

    /// How often tokens were refreshed.
    pub fn refreshes(&self) -> usize {
        self.state.lock().refreshes
    }

    /// Tokens that were revoked.
    pub fn revoked(&self) -> Vec<String> {
        self.state.lock().revoked.clone()
    }

    /// All that calls have shown: values of `Authorization` and of the header.
    pub fn seen(&self) -> Vec<String> {
        self.state.lock().seen.clone()
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds this")
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.whims.at(request.uri().path()) {
            None => self.answer_as_it_should(request).await,
            Some(Whim::Late(by)) => {
                tokio::time::sleep(by).await;
                self.answer_as_it_should(request).await
            }
            Some(Whim::Says(status, body)) => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
                response
            }
            Some(Whim::SendsTo(address)) => {
                let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
                response.headers_mut().insert(LOCATION, address.parse().expect("an address"));
                response
            }
            Some(Whim::Loses) => {
                self.answer_as_it_should(request).await;
                empty(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    async fn answer_as_it_should(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/mcp" {
            return self.mcp(request).await;
        }
        if matches!(self.wants, Wants::Header(_)) || self.is_down.load(Ordering::Relaxed) {
            let status = if matches!(self.wants, Wants::Token) {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::NOT_FOUND
            };
            return empty(status);
        }
        let query = pairs(request.uri().query().unwrap_or_default());
        let origin = &self.origin;
        match (request.method().clone(), path.as_str()) {
            (Method::GET, RESOURCE) => json_of(
                StatusCode::OK,
                &json!({ "resource": format!("{origin}/mcp"), "authorization_servers": [origin], "scopes_supported": ["use"] }),
            ),
            (Method::GET, SERVER) => json_of(StatusCode::OK, &self.document()),
            (Method::GET, "/authorize") => self.authorize(query),
            (Method::POST, "/register") => {
                let body: Value = serde_json::from_slice(&body_of(request).await).unwrap_or_default();
                self.register(&body)
            }
            (Method::POST, "/token") => {
                let authorization = request.headers().get(AUTHORIZATION).cloned();
                let shown = basic(&request);
                let fields = pairs(&String::from_utf8_lossy(&body_of(request).await));
                match self.takes_word {
                    true => self.exchange(authorization.as_ref(), &fields).await,
                    false => self.token(shown, &fields),
                }
            }
            (Method::POST, "/revoke") => {
                let fields = pairs(&String::from_utf8_lossy(&body_of(request).await));
                let token = fields.get("token").cloned().unwrap_or_default();
                let mut inner = self.lock();
                inner.good.remove(&token);
                inner.refresh_tokens.remove(&token);
                inner.revoked.push(token);
                empty(StatusCode::OK)
            }
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    fn document(&self) -> Value {
        let origin = &self.origin;
        let has_secrets = self.takes_word || self.gives_secrets.load(Ordering::Relaxed);
        let method = if has_secrets { "client_secret_basic" } else { "none" };
        json!({
            "issuer": origin,
            "authorization_endpoint": format!("{origin}/authorize"),
            "token_endpoint": format!("{origin}/token"),
            "registration_endpoint": format!("{origin}/register"),
            "revocation_endpoint": format!("{origin}/revoke"),
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": [method],
            "authorization_response_iss_parameter_supported": true,
        })
    }

    /// Looks at the credential, and passes the request on without it.
    async fn mcp(&self, request: Request<Incoming>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let method = serde_json::from_slice::<Value>(&body).ok().map(|message| message["method"].clone());
        let is_call = method.as_ref().is_some_and(|method| method == "tools/call");
        let is_list = method.is_some_and(|method| method == "tools/list");
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let shown = match self.wants {
            Wants::Header(name) => header(name),
            Wants::Token => {
                header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned))
            }
        };
        let is_open = !is_call && self.lists_are_open.load(Ordering::Relaxed);
        let refusal = {
            let mut inner = self.lock();
            if is_call {
                let all = [header(AUTHORIZATION.as_str()), shown.clone()];
                inner.seen.extend(all.into_iter().flatten());
            }
            let is_good = shown.as_ref().is_some_and(|shown| inner.good.contains(shown));
            inner.own_lists += usize::from(is_list && is_good);
            let held = shown.as_ref().and_then(|shown| inner.scopes.get(shown)).cloned().unwrap_or_default();
            match &inner.needed {
                _ if !is_good && !is_open => Some((StatusCode::UNAUTHORIZED, String::new())),
                Some(needed) if is_call && !held.split(' ').any(|scope| scope == needed) => {
                    Some((StatusCode::FORBIDDEN, format!(r#", error="insufficient_scope", scope="{needed}""#)))
                }
                _ => None,
            }
        };
        if let Some((status, more)) = refusal {
            let mut response = empty(status);
            if matches!(self.wants, Wants::Token) {
                let document = format!("{}{RESOURCE}", self.origin);
                let challenge = format!(r#"Bearer resource_metadata="{document}"{more}"#);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().expect("visible ASCII"));
            }
            return response;
        }
        parts.uri = self.behind.parse().expect("the fixture's address");
        parts.headers.remove(HOST);
        match self.client.request(Request::from_parts(parts, Full::new(body))).await {
            Ok(response) if is_list => self.without_others_tools(response, shown.as_deref()).await,
            Ok(response) => response.map(Body::new),
            Err(_) => empty(StatusCode::BAD_GATEWAY),
        }
    }

    /// A list of tools without those that are for others alone.
    async fn without_others_tools(&self, response: Response<Incoming>, shown: Option<&str>) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body = String::from_utf8_lossy(&body);
        // A document of its own, or one of a stream's events: either stands on one line.
        let lines: Vec<String> = body
            .split('\n')
            .map(|line| {
                let (field, text) = if line.starts_with("data:") { line.split_at("data:".len()) } else { ("", line) };
                self.without_others_tools_in(text, shown)
                    .map_or_else(|| line.to_owned(), |text| format!("{field}{text}"))
            })
            .collect();
        parts.headers.remove(http::header::CONTENT_LENGTH);
        Response::from_parts(parts, Body::from(lines.join("\n")))
    }

    /// `None` where this is no list of tools.
    fn without_others_tools_in(&self, text: &str, shown: Option<&str>) -> Option<String> {
        let mut message: Value = serde_json::from_str(text).ok()?;
        let inner = self.lock();
        let is_for_others = |tool: &Value| {
            let only = tool["name"].as_str().and_then(|name| inner.own_tools.get(name));
            only.is_some_and(|only| Some(only.as_str()) != shown)
        };
        message.pointer_mut("/result/tools")?.as_array_mut()?.retain(|tool| !is_for_others(tool));
        Some(message.to_string())
    }

    fn register(&self, metadata: &Value) -> Response<Body> {
        let redirects: Vec<String> = metadata["redirect_uris"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let mut inner = self.lock();
        let id = inner.make("client");
        inner.clients.insert(id.clone(), redirects.clone());
        let mut answer = json!({
            "client_id": id, "redirect_uris": redirects, "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        });
        if self.gives_secrets.load(Ordering::Relaxed) {
            let secret = inner.make_secret("client secret", "secret");
            inner.secrets.insert(id, secret.clone());
            answer["client_secret"] = json!(secret);
            answer["token_endpoint_auth_method"] = json!("client_secret_basic");
        }
        json_of(StatusCode::CREATED, &answer)
    }

    /// Whoever comes agrees.
    fn authorize(&self, query: BTreeMap<String, String>) -> Response<Body> {
        let of = |name: &str| query.get(name).cloned().unwrap_or_default();
        let mut inner = self.lock();
        let is_its_own = |known: &Vec<String>| known.is_empty() || known.contains(&of("redirect_uri"));
        let is_known = inner.clients.get(&of("client_id")).is_some_and(is_its_own);
        let is_sound = of("code_challenge_method") == "S256" && of("resource") == format!("{}/mcp", self.origin);
        if !is_known || !is_sound || of("response_type") != "code" {
            return empty(StatusCode::BAD_REQUEST);
        }
        let code = inner.make_secret("code", "code");
        inner.given.push(("state", of("state")));
        let answer = [("code", code.as_str()), ("state", &of("state")), ("iss", &self.origin)];
        let answer = form_urlencoded::Serializer::new(String::new()).extend_pairs(answer).finish();
        let back = format!("{}?{answer}", of("redirect_uri"));
        inner.codes.insert(code, query);
        let mut response = empty(StatusCode::FOUND);
        response.headers_mut().insert(LOCATION, back.parse().expect("an address"));
        response
    }

    /// RFC 8693 §2: one person's token for what a gateway says of them.
    async fn exchange(&self, shown: Option<&HeaderValue>, fields: &BTreeMap<String, String>) -> Response<Body> {
        let of = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{SECRET}")));
        if shown.is_none_or(|shown| *shown != basic) {
            return error(StatusCode::UNAUTHORIZED, "invalid_client");
        }
        let is_exchange = of("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange"
            && of("subject_token_type") == "urn:ietf:params:oauth:token-type:jwt"
            && of("resource") == format!("{}/mcp", self.origin);
        let assertion = of("subject_token");
        let (trusted, denied) = {
            let mut inner = self.lock();
            inner.assertions.push(assertion.clone());
            (inner.trusted, inner.denied)
        };
        if let Some(denied) = denied {
            return error(StatusCode::BAD_REQUEST, denied);
        }
        let Some(gateway) = trusted.filter(|_| is_exchange) else {
            return error(StatusCode::BAD_REQUEST, "invalid_request");
        };
        let Some(claims) = self.verified(gateway, &assertion).await else {
            return error(StatusCode::BAD_REQUEST, "invalid_request");
        };
        let person = claims["sub"].as_str().unwrap_or_default().to_owned();
        let mut inner = self.lock();
        let access = inner.make(&format!("access-of-{person}"));
        inner.good.insert(access.clone());
        inner.scopes.insert(access.clone(), of("scope"));
        let answer = json!({
            "access_token": access, "token_type": "Bearer", "expires_in": 3600, "scope": of("scope"),
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        });
        json_of(StatusCode::OK, &answer)
    }

    /// What is said, if this gateway has signed it for us and for a minute at most.
    async fn verified(&self, gateway: SocketAddr, token: &str) -> Option<Value> {
        let keys = self.client.get(format!("http://{gateway}/.well-known/jwks.json").parse().ok()?).await.ok()?;
        let keys: Value = serde_json::from_slice(&keys.into_body().collect().await.ok()?.to_bytes()).ok()?;
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decoded(header)?).ok()?;
        let key = keys["keys"].as_array()?.iter().find(|key| key["kid"] == header["kid"])?;
        let part = |name: &str| decoded(key[name].as_str()?);
        let public = RsaPublicKeyComponents { n: part("n")?, e: part("e")? };
        let verified = public.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &decoded(signature)?);
        verified.ok().filter(|()| header["alg"] == "RS256" && header["typ"] == "JWT")?;
        let claims: Value = serde_json::from_slice(&decoded(claims)?).ok()?;
        let life = claims["exp"].as_u64()?.checked_sub(claims["iat"].as_u64()?)?;
        let is_for_us = claims["iss"] == format!("http://{gateway}") && claims["aud"] == *self.origin;
        (is_for_us && life <= 60 && claims["client_id"] == CLIENT).then_some(claims)
    }

    /// `basic`: who somebody says to be in the header, with the secret.
    fn token(&self, basic: Option<(String, String)>, fields: &BTreeMap<String, String>) -> Response<Body> {
        let of = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let (client, secret) = match basic {
            Some((id, secret)) => (id, Some(secret)),
            None => (of("client_id"), None),
        };
        let mut inner = self.lock();
        if !inner.clients.contains_key(&client) || inner.secrets.get(&client) != secret.as_ref() {
            let answer = json!({ "error": "invalid_client", "error_description": WORDS });
            return json_of(StatusCode::UNAUTHORIZED, &answer);
        }
        let scopes = match of("grant_type").as_str() {
            "authorization_code" => {
                let Some(asked) = inner.codes.remove(&of("code")) else { return refused() };
                let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, of("code_verifier").as_bytes()));
                let is_its_own =
                    asked.get("client_id") == Some(&client) && asked.get("redirect_uri") == fields.get("redirect_uri");
                if asked.get("code_challenge") != Some(&challenge) || !is_its_own {
                    return refused();
                }
                inner.given.push(("verifier", of("code_verifier")));
                asked.get("scope").cloned().unwrap_or_default()
            }
            // Each is good for one use.
            "refresh_token" => match inner.refresh_tokens.remove(&of("refresh_token")) {
                Some(scopes) => {
                    inner.refreshes += 1;
                    scopes
                }
                None => return refused(),
            },
            _ => return json_of(StatusCode::BAD_REQUEST, &json!({ "error": "unsupported_grant_type" })),
        };
        let access = inner.make_secret("access token", "access");
        let refresh = inner.make_secret("refresh token", "refresh");
        let life = inner.life.unwrap_or(3600);
        inner.good.insert(access.clone());
        inner.scopes.insert(access.clone(), scopes.clone());
        inner.refresh_tokens.insert(refresh.clone(), scopes.clone());
        let answer = json!({
            "access_token": access, "token_type": "Bearer", "expires_in": life, "refresh_token": refresh, "scope": scopes,
        });
        json_of(StatusCode::OK, &answer)
    }
}

impl Inner {
    fn make(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}-{}", self.made, URL_SAFE_NO_PAD.encode(portcullis::Env::system().random::<16>()))
    }

    /// One that is remembered as what was given out.
    fn make_secret(&mut self, what: &'static str, prefix: &str) -> String {
        let secret = self.make(prefix);
        self.given.push((what, secret.clone()));
        secret
    }
}

fn error(status: StatusCode, error: &str) -> Response<Body> {
    json_of(status, &json!({ "error": error, "error_description": "LEAK of the provider's words" }))
}

fn refused() -> Response<Body> {
    json_of(StatusCode::BAD_REQUEST, &json!({ "error": "invalid_grant", "error_description": WORDS }))
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn json_of(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Name and secret of a client in `Authorization` (RFC 6749 §2.3.1).
fn basic(request: &Request<Incoming>) -> Option<(String, String)> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    let read =
        |part: &str| form_urlencoded::parse(format!("x={part}").as_bytes()).next().map(|(_, it)| it.into_owned());
    Some((read(id)?, read(secret)?))
}

fn pairs(text: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

async fn body_of(request: Request<Incoming>) -> Bytes {
    request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}
