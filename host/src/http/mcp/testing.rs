//! What the tests of this edge stand on: a gateway's edge without upstreams, and requests that are under way as a test
//! says.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use http::{HeaderMap, Request};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::work::{EVENT_QUEUE, Leaving, Work};
use super::{From, Mcp, Settings};
use crate::authorization::resource::{Browsers, Knock, Parts, ProtectedResource, Trusted};
use crate::authorization::standing;
use crate::authorization::tokens;
use crate::config::{Auth, Limits, PolicySettings, WhenAllAbstain};
use crate::connection::extra::Extra;
use crate::connection::lending::Later;
use crate::env::{Env, Timestamp};
use crate::glob::Glob;
use crate::http::replica::{Directory, Replicas};
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, ManagedBy, Standing, VirtualKey};
use crate::identity::{Caller, Keyring};
use crate::ids::{KeyName, Principal, UpstreamName};
use crate::mcp::client::Client;
use crate::mcp::json::raw;
use crate::mcp::revision::{Answer, Revision};
use crate::mcp::talk::{Ask, Event, Party, Question};
use crate::pipeline::{Mark, Origin, Refusal, Scope, Services, Snapshot};
use crate::policy::{Engine, PolicySet, Transport};
use crate::secret::{DeploymentSecret, Plaintext};
use crate::store::Store;
use crate::store::follower::{Follower, Freshness};
use crate::tasks::Tasks;
use crate::upstream::catalog::{Catalog, Definition, Offer, PinStanding, Shelf, ToolDefinition};

pub(super) fn key(name: &str) -> Principal {
    Principal::Key(KeyName::parse(name).unwrap())
}

/// The holder of such a key.
pub(super) fn caller(name: &str) -> Caller {
    Caller::new(key(name), Arc::default())
}

pub(super) fn limits() -> Limits {
    Limits {
        request_bytes: 1 << 20,
        upstream_message_bytes: 1 << 20,
        list_page: 100,
        sessions: 100,
        session_idle: Duration::from_secs(600),
        calls_per_principal: 32,
        streams: 100,
        streams_per_principal: 10,
        stall_timeout: Duration::from_secs(30),
        ask_timeout: Duration::from_secs(600),
        parked_calls: 100,
        upstream_sessions: 100,
        upstream_session_idle: Duration::from_secs(300),
    }
}

/// An edge with the keys `ann` and `bob`, and no upstream.
pub(super) struct Edge {
    pub(super) mcp: Arc<Mcp>,
    pub(super) published: watch::Sender<u64>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) closing: CancellationToken,
    pub(super) standing: Arc<standing::Standing>,
    pub(super) store: Store,
    /// Nobody lends anything until a test says who does.
    pub(super) lender: Arc<Later>,
}

impl Edge {
    pub(super) async fn new(limits: Limits) -> Self {
        Self::among(limits, Directory::Alone, None).await
    }

    /// One that may have others beside it. They have the same deployment secret.
    pub(super) async fn among(limits: Limits, directory: Directory, address: Option<String>) -> Self {
        let freshness = Freshness::new(None, Env::system().adjustable().1);
        Self::with(limits, directory, address, Env::system(), freshness).await
    }

    /// The same with another clock, and with copies of the store that are as fresh as that.
    pub(super) async fn with(
        limits: Limits,
        directory: Directory,
        address: Option<String>,
        env: Env,
        freshness: Freshness,
    ) -> Self {
        let mut services = Services::for_tests().await;
        services.env = env;
        services.ask_timeout = limits.ask_timeout;
        let lender = Arc::new(Later::default());
        services.lender = lender.clone();
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(&["ann", "bob"])));
        let (published, seen) = watch::channel(0);
        let closing = CancellationToken::new();
        let settings = Settings { limits, legacy_sse: true, body_timeout: Duration::from_secs(5) };
        let secret = DeploymentSecret::new(&[7; 32]);
        let id = services.replica.clone();
        let replicas = Replicas::new(services.env.clone(), secret, id, directory, address, "00".repeat(32));
        let standing = standing::Standing::load(services.store.clone(), services.env.clone()).await.unwrap();
        let gate = resource_of(&services, &snapshot, standing.clone(), None, true);
        let store = services.store.clone();
        let services = Arc::new(services);
        let mcp = Mcp::new(gate, services, (seen, freshness), settings, replicas, closing.clone(), Tasks::new());
        Self { mcp, published, snapshot, closing, standing, store, lender }
    }

    /// What is revoked in the store is felt from now on.
    pub(super) async fn follow(&self) {
        let clock = Env::system().adjustable().1;
        let follower = Follower::begin(self.store.clone(), clock, Duration::from_secs(10)).await.unwrap();
        self.mcp.tasks.spawn(follower.run(vec![self.standing.clone()], self.mcp.tasks.stopping().clone()));
    }

    /// Who may come in from now on, and what they go by.
    pub(super) fn admit(&self, auth: Auth) {
        let old = self.snapshot.load_full();
        self.snapshot.store(Arc::new(Snapshot { auth: Arc::new(auth), ..old.as_ref().clone() }));
    }

    /// A request with these headers and no others, through the routes.
    pub(super) async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
        use tower::ServiceExt as _;
        let request = Request::builder().method(method).uri(target).header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Body::from(body.to_owned())).unwrap();
        self.mcp.clone().router().oneshot(request).await.into_response()
    }

    /// A request as `name`'s, through the routes.
    pub(super) async fn send(
        &self,
        name: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        self.send_slowly(name, method, path, headers, Body::from(body.to_owned())).await
    }

    /// The same with a body that comes when it comes.
    pub(super) async fn send_slowly(
        &self,
        name: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Response {
        use tower::ServiceExt as _;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer pk_{name}"))
            .header("content-type", "application/json");
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let request = request.body(body).unwrap();
        self.mcp.clone().router().oneshot(request).await.into_response()
    }

    /// A POST of a message within a session.
    pub(super) async fn post(&self, session: &str, body: &str) -> Response {
        self.send("ann", "POST", "/mcp", &[("mcp-session-id", session)], body).await
    }

    /// The id of a new session of `ann`'s.
    pub(super) async fn session(&self, version: &str, capabilities: &str) -> String {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{{"name":"t","version":"1"}}}}}}"#
        );
        let response = self.send("ann", "POST", "/mcp", &[], &body).await;
        response.headers()["mcp-session-id"].to_str().unwrap().to_owned()
    }
}

/// Who comes in, by these keys and by tokens that [`tokens`] signs.
pub(super) fn resource_of(
    services: &Services,
    snapshot: &Arc<ArcSwap<Snapshot>>,
    standing: Arc<standing::Standing>,
    browsers: Option<Browsers>,
    is_local: bool,
) -> Arc<ProtectedResource> {
    let epoch = services.store.epoch();
    let trust = Box::new(move || Trusted { verifier: tokens::VERIFIER.clone(), epoch });
    ProtectedResource::new(Parts {
        env: services.env.clone(),
        issuer: tokens::ISSUER.to_owned(),
        store: services.store.clone(),
        secret: DeploymentSecret::new(&[7; 32]),
        snapshot: snapshot.clone(),
        standing,
        trust,
        browsers,
        is_local,
    })
}

/// A call with these headers.
pub(super) fn knock(headers: &HeaderMap) -> Knock<'_> {
    Knock { method: "POST", path: "/mcp", query: None, headers, upstream: None, is_again: false }
}

/// What there is without upstreams, for the holders of these keys.
pub(super) fn snapshot(keys: &[&str]) -> Snapshot {
    snapshot_until(keys, None)
}

/// The same; the keys expire then.
pub(super) fn snapshot_until(keys: &[&str], expires: Option<Timestamp>) -> Snapshot {
    snapshot_of(keys.iter().map(|name| VirtualKey { expires, ..virtual_key(name, &format!("pk_{name}")) }))
}

/// A key for everything that has this secret.
pub(super) fn virtual_key(name: &str, secret: &str) -> VirtualKey {
    VirtualKey {
        name: KeyName::parse(name).unwrap(),
        digest: Plaintext::new(secret).digest(),
        earlier: None,
        allow: AllowList(vec![AllowEntry { upstream: Glob::any(), tools: vec![Glob::any()] }]),
        scopes: TokenList::default(),
        groups: TokenList::default(),
        owner: None,
        created: Timestamp::default(),
        expires: None,
        standing: Standing::Enabled,
        managed_by: ManagedBy::Store,
        revision: 1,
    }
}

/// A snapshot of these keys and nothing else.
pub(super) fn snapshot_of(keys: impl IntoIterator<Item = VirtualKey>) -> Snapshot {
    Snapshot::for_tests(Auth::keys_only(), Keyring::new(keys), no_policies())
}

/// The same with an upstream that has these tools and prompts.
pub(super) fn snapshot_with(tools: &[&str], prompts: &[&str]) -> Snapshot {
    let upstream = UpstreamName::parse("up").unwrap();
    let tool = |name: &&str| {
        let definition = raw(format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#));
        Arc::new(ToolDefinition::parse(&upstream, &definition).ok().unwrap())
    };
    let prompt = |name: &&str| {
        let definition = raw(format!(r#"{{"name":"{name}"}}"#));
        Arc::new(Definition::prompt(&upstream, &definition).ok().unwrap())
    };
    let offer = Offer {
        tools: tools.iter().map(tool).collect(),
        prompts: prompts.iter().map(prompt).collect(),
        ..Offer::default()
    };
    let shelf = Shelf {
        upstream: upstream.clone(),
        prefix: true,
        about: None,
        offer: Some(Arc::new(offer)),
        stale: false,
        connect: None,
    };
    Snapshot { catalog: Arc::new(Catalog::build(&[shelf], |_| PinStanding::Pinned)), ..snapshot(&["ann", "bob"]) }
}

fn no_policies() -> PolicySet {
    static ENGINE: std::sync::LazyLock<Engine> = std::sync::LazyLock::new(|| Engine::start(1).unwrap());
    let settings =
        PolicySettings { when_all_abstain: WhenAllAbstain::Allow, max_components: 1, ..PolicySettings::default() };
    PolicySet::load(&settings, &[], &ENGINE, &|_| None, None, 1).unwrap()
}

/// A request of `ann`'s with these capabilities of its client.
pub(super) fn origin(mcp: &Mcp, revision: Revision, capabilities: &str) -> (Origin, mpsc::Receiver<Event>) {
    let headers = HeaderMap::new();
    let caller = Caller::new(key("ann"), Arc::default());
    let from = From {
        caller,
        scope: Scope::default(),
        headers: &headers,
        extra: Extra::default(),
        peer: None,
        passing: None,
        transport: Transport::StreamableHttp,
        mark: Mark::default(),
    };
    let client = Arc::new(Client::new(None, raw(capabilities.to_owned())));
    let party = Party { principal: key("ann"), client, ..Party::gateway() };
    let (events, inbox) = mpsc::channel(EVENT_QUEUE);
    (from.origin(revision, party, events, mcp.tasks.stopping().child_token()), inbox)
}

/// A request under way that does what `life` does, with the sending end of what is said meanwhile.
pub(super) fn work<F>(mcp: &Mcp, revision: Revision, capabilities: &str, life: impl FnOnce(Arc<Origin>) -> F) -> Work
where
    F: Future<Output = Result<Answer, Refusal>> + Send + 'static,
{
    let (origin, inbox) = origin(mcp, revision, capabilities);
    let origin = Arc::new(origin);
    let leaving = if revision.is_legacy() { Leaving::GoesOn } else { Leaving::TakesBack };
    Work::of(mcp, (origin.clone(), inbox), mcp.snapshot.load_full(), leaving, life(origin), ())
}

/// A question, and where the reply to it arrives.
pub(super) fn ask(question: Question) -> (Ask, tokio::sync::oneshot::Receiver<crate::mcp::call::Outcome>) {
    let (reply, replied) = tokio::sync::oneshot::channel();
    let upstream = UpstreamName::parse("up").unwrap();
    (Ask { upstream, question, params: Some(raw(r#"{"message":"?"}"#.to_owned())), is_admitted: false, reply }, replied)
}

/// The whole body as text.
pub(super) async fn text(response: Response) -> String {
    let mut pieces = response.into_body().into_data_stream();
    let mut text = String::new();
    while let Some(piece) = pieces.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    text
}

/// The next piece of a body as text; `None` at its end.
pub(super) async fn piece(body: &mut axum::body::BodyDataStream) -> Option<String> {
    Some(String::from_utf8(body.next().await?.unwrap().to_vec()).unwrap())
}
