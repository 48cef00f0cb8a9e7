//! Authorization servers on loopback: what is asked of them, and what of their answers is believed.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::admin::testing::{Skewed, shared};
use crate::config::{
    ClientCredentials, OAuthClient, Protocol, Upstream, UpstreamAuth, UpstreamTransport, VaultKey, VaultKeySource,
    VaultKeyState,
};
use crate::identity::TokenList;
use crate::ids::KekId;
use crate::outbound::{Outbound, Trusted};
use crate::secret::hex;

mod exchanging;
mod mock;
mod refusals;

use mock::Mock;

const HOME: &str = "https://gateway.example";
const RESOURCE: &str = "/.well-known/oauth-protected-resource/mcp";
const SERVER: &str = "/.well-known/oauth-authorization-server";

/// An upstream, its authorization server, and us.
struct Scene {
    /// The MCP server. Nothing but its configuration makes it trusted.
    mcp: Mock,
    /// Its authorization server, which `outbound.allow` has.
    server: Mock,
    clock: Skewed,
    settings: Arc<Mutex<Option<Upstream>>>,
    provider: Arc<Provider>,
}

/// A person on their way.
struct Away {
    way: Way,
    asked: BTreeMap<String, String>,
}

fn upstream(mcp: &Mock, client: OAuthClient) -> Upstream {
    Upstream {
        name: UpstreamName::parse("notes").unwrap(),
        transport: UpstreamTransport::StreamableHttp {
            url: mcp.at("/mcp").parse().unwrap(),
            protocol: Protocol::Auto,
            headers: BTreeMap::new(),
        },
        prefix: true,
        call_timeout: Duration::from_secs(60),
        sync_interval: Duration::from_secs(60),
        trust: String::new(),
        labels: Vec::new(),
        auth: UpstreamAuth::PerUserOAuth(Box::new(client)),
        extra_headers: Vec::new(),
        allow_on_all_keys: false,
        tls: None,
    }
}

async fn vault(store: &Store, env: &Env) -> Vault {
    let source = VaultKeySource::Environment { variable: "K1".to_owned(), key: Plaintext::new(hex(&[1; 32])) };
    let key = VaultKey { kid: KekId::parse("k1").unwrap(), state: VaultKeyState::Active, source };
    let cache_ttl = Duration::from_secs(300);
    let settings = config::Vault { keys: vec![key], is_default: false, cache_ttl, allow_core_dumps: false };
    Vault::start(&settings, store.clone(), env.clone(), Outbound::new()).await.unwrap()
}

fn trusting(mocks: &[&Mock]) -> Fetcher {
    let entry = |mock: &&Mock| Trusted::parse(&format!("127.0.0.1:{}", mock.port)).unwrap();
    Fetcher::new(mocks.iter().map(entry).collect())
}

impl Scene {
    async fn new() -> Self {
        Self::with(OAuthClient::default()).await
    }

    async fn with(client: OAuthClient) -> Self {
        let (store, clock) = shared().await;
        let (mcp, server) = (Mock::start(), Mock::start());
        mcp.with(|state| state.resource["authorization_servers"] = json!([server.at("")]));
        let settings = Arc::new(Mutex::new(Some(upstream(&mcp, client))));
        let configured = Arc::clone(&settings);
        let parts = Parts {
            env: clock.env(),
            vault: vault(&store, &clock.env()).await,
            store,
            fetcher: trusting(&[&server]),
            public_url: HOME.to_owned(),
            upstreams: Arc::new(move |name| configured.lock().unwrap().clone().filter(|it| it.name == *name)),
            voucher: Arc::new(|_| Ok(Plaintext::new("said.and.signed"))),
        };
        Self { mcp, server, clock, settings, provider: Arc::new(Provider::new(parts)) }
    }

    /// What was found is looked at again.
    fn later(&self) {
        self.clock.advance(Duration::from_secs(16 * 60));
    }

    /// Another gateway on the same store.
    fn replica(&self) -> Provider {
        Provider::new(self.provider.parts.clone())
    }

    fn settings(&self) -> Upstream {
        self.settings.lock().unwrap().clone().unwrap()
    }

    fn configure(&self, change: impl FnOnce(&mut OAuthClient)) {
        let mut settings = self.settings.lock().unwrap();
        let UpstreamAuth::PerUserOAuth(client) = &mut settings.as_mut().unwrap().auth else { panic!() };
        change(client);
    }

    async fn discover(&self) -> Result<Found, DiscoverError> {
        self.provider.discover(&self.settings()).await
    }

    async fn way(&self, scopes: &[&str]) -> Result<Away, NoWay> {
        self.way_of(&self.provider, scopes).await
    }

    async fn way_of(&self, provider: &Provider, scopes: &[&str]) -> Result<Away, NoWay> {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let asked = Asked {
            upstream: &self.settings(),
            callback: &format!("{HOME}{CALLBACK}"),
            state: &Plaintext::new("state"),
            verifier: &Plaintext::new("verifier"),
            scopes: &scopes,
        };
        let way = provider.way(asked).await?;
        let (_, query) = way.url.split_once('?').unwrap();
        let asked: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        self.server.with(|state| state.challenge.clone_from(&asked["code_challenge"]));
        Ok(Away { way, asked })
    }

    async fn exchange(&self, away: &Away) -> Result<Issued, NotIssued> {
        let (code, verifier) = (Plaintext::new("code"), Plaintext::new("verifier"));
        self.provider.exchange(&away.way.source, &code, &verifier, &away.way.redirect).await
    }

    /// Somebody is connected.
    async fn connected(&self) -> (Away, Plaintext) {
        let away = self.way(&[]).await.unwrap();
        let issued = self.exchange(&away).await.unwrap();
        (away, issued.refresh.unwrap())
    }

    async fn refresh(&self, away: &Away, token: &Plaintext) -> Result<Issued, NotIssued> {
        self.provider.refresh(&away.way.source, token).await
    }
}

#[tokio::test]
async fn a_person_is_sent_to_an_honest_server_and_comes_back_with_tokens() {
    let scene = Scene::new().await;
    let away = scene.way(&[]).await.unwrap();
    let Way { url, source, redirect, scopes } = &away.way;
    assert!(url.starts_with(&scene.server.at("/authorize?tenant=1&response_type=code&")), "{url}");
    assert_eq!((&*source.upstream.to_string(), &source.issuer), ("notes", &scene.server.at("")));
    let context = redirect.strip_prefix("https://gateway.example/connect/callback/").unwrap();
    assert_eq!(context.len(), CONTEXT_LEN);
    let expected = [
        ("client_id", source.client.as_str()),
        ("redirect_uri", redirect),
        ("state", "state"),
        ("code_challenge_method", "S256"),
        ("resource", &scene.mcp.at("/mcp")),
        ("scope", "offline_access notes:write"),
    ];
    for (name, value) in expected {
        assert_eq!(away.asked[name], value, "{name}");
    }
    assert_eq!(scopes.join(" "), "offline_access notes:write");
    assert!(!url.contains("verifier") && !url.contains("hunter"));
    assert_eq!(scene.provider.says_issuer(source).await, Ok(true));

    let issued = scene.exchange(&away).await.unwrap();
    assert_eq!((issued.access.expose(), issued.refresh.as_ref().unwrap().expose()), ("at-1", "rt-1"));
    assert_eq!(issued.expires_in, Some(Duration::from_secs(3600)));
    assert_eq!(issued.scopes.unwrap().join(" "), "notes:write");
    let again = scene.refresh(&away, &Plaintext::new("rt-1")).await.unwrap();
    assert_eq!(again.access.expose(), "at-2");
    let asked = scene.server.asked("/token");
    assert_eq!((&*asked[0].form()["redirect_uri"], &asked[0].form()["resource"]), (&**redirect, &scene.mcp.at("/mcp")));
    assert_eq!(asked[1].form()["resource"], scene.mcp.at("/mcp"));
    assert!(asked.iter().all(|asked| asked.authorization.starts_with("Basic ") && !asked.body.contains("client_")));
}

#[tokio::test]
async fn what_was_found_and_registered_is_used_again_and_looked_at_again_in_time() {
    let scene = Scene::new().await;
    let mut people = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (provider, settings) = (Arc::clone(&scene.provider), scene.settings());
        people.spawn(async move { provider.discover(&settings).await.unwrap() });
    }
    people.join_all().await;
    let first = scene.way(&[]).await.unwrap();
    let second = scene.way(&[]).await.unwrap();
    assert_eq!(first.way.source, second.way.source);
    let counts = || (scene.mcp.asked("/mcp").len(), scene.mcp.asked(RESOURCE).len(), scene.server.asked(SERVER).len());
    assert_eq!((counts(), scene.server.asked("/register").len()), ((1, 1, 1), 1));
    scene.later();
    assert_eq!(scene.way(&[]).await.unwrap().way.source, first.way.source);
    assert_eq!((counts(), scene.server.asked("/register").len()), ((2, 2, 2), 1));
}

#[tokio::test]
async fn an_upstream_that_lets_everybody_begin_says_what_it_wants_to_whoever_lists() {
    let scene = Scene::new().await;
    scene.mcp.with(|state| state.lets_begin = true);
    for protocol in [Protocol::Auto, Protocol::Legacy, Protocol::Modern] {
        let mut settings = scene.settings();
        let UpstreamTransport::StreamableHttp { protocol: spoken, .. } = &mut settings.transport else { panic!() };
        *spoken = protocol;
        *scene.settings.lock().unwrap() = Some(settings);
        scene.later();
        assert_eq!(scene.way(&[]).await.unwrap().asked["scope"], "offline_access notes:write", "{protocol:?}");
    }
    let asked = scene.mcp.asked("/mcp");
    let method = |asked: &mock::Asked| match serde_json::from_str::<Value>(&asked.body) {
        Ok(message) => message["method"].as_str().unwrap().to_owned(),
        Err(_) => asked.line.split(' ').next().unwrap().to_owned(),
    };
    let methods: Vec<String> = asked.iter().map(method).collect();
    let expected = ["initialize", "tools/list", "DELETE", "initialize", "tools/list", "DELETE"];
    assert_eq!(methods[..6], expected);
    assert_eq!(methods[6..], ["server/discover", "tools/list", "DELETE"]);
    // In the session that it began, and which is ended.
    let sessions: Vec<&str> = asked.iter().map(|asked| asked.session.as_str()).collect();
    assert_eq!(sessions, ["", "s-1", "s-1"].repeat(3));
}

#[tokio::test]
async fn what_an_upstream_does_not_say_to_whoever_lists_undoes_nothing() {
    let scene = Scene::new().await;
    scene.mcp.with(|state| (state.lets_begin, state.stumbles) = (true, Some(503)));
    assert!(scene.provider.discover(&scene.settings()).await.is_ok(), "its metadata says where");
    scene.mcp.with(|state| state.lets_begin = false);
    scene.later();
    assert!(scene.provider.discover(&scene.settings()).await.is_err(), "nothing is known of it");
}

#[tokio::test]
async fn replicas_that_register_at_once_use_one_client() {
    let scene = Scene::new().await;
    let replicas = [scene.replica(), scene.replica(), scene.replica()];
    let ways = replicas.iter().map(|replica| scene.way_of(replica, &[]));
    let ways = futures_util::future::join_all(ways).await;
    let clients: Vec<String> = ways.into_iter().map(|away| away.unwrap().way.source.client).collect();
    assert!(clients.iter().all(|client| *client == clients[0]), "{clients:?}");
    // What one has registered another one uses, with the secret.
    assert_eq!(scene.way_of(&scene.replica(), &[]).await.unwrap().way.source.client, clients[0]);
    let away = scene.way(&[]).await.unwrap();
    scene.exchange(&away).await.unwrap();
}

#[tokio::test]
async fn u3_every_context_has_an_address_and_a_client_of_its_own() {
    let scene = Scene::new().await;
    let first = scene.way(&[]).await.unwrap().way;
    // Another upstream with the same server.
    scene.settings.lock().unwrap().as_mut().unwrap().name = UpstreamName::parse("wiki").unwrap();
    let second = scene.way(&[]).await.unwrap().way;
    assert_eq!(first.source.issuer, second.source.issuer);
    assert!(first.redirect != second.redirect && first.source.client != second.source.client);
    // Another deployment with the same upstream.
    let elsewhere = Scene::new().await.provider.parts.clone();
    let name = &first.source.upstream;
    let ids = [&scene.provider.parts, &elsewhere].map(|parts| clients::context_id(parts, name, &first.source.issuer));
    assert_ne!(ids[0], ids[1]);
    assert!(first.redirect.ends_with(&ids[0]));
    // A registration is of one redirect URI.
    let asked = scene.server.asked("/register");
    let uris = asked.iter().map(|asked| serde_json::from_str::<Value>(&asked.body).unwrap()["redirect_uris"].clone());
    assert_eq!(uris.collect::<Vec<_>>(), [json!([first.redirect]), json!([second.redirect])]);
}

#[tokio::test]
async fn u9_more_scopes_are_asked_for_besides_those_that_there_are() {
    let scene = Scene::new().await;
    let away = scene.way(&["notes:write", "notes:delete"]).await.unwrap();
    assert_eq!(away.asked["scope"], "offline_access notes:write notes:delete");
    scene.configure(|client| client.scopes = Some(TokenList::parse(vec!["x".to_owned()]).unwrap()));
    assert_eq!(scene.way(&[]).await.unwrap().asked["scope"], "x");
    assert_eq!(scene.way(&["y"]).await.unwrap().asked["scope"], "y x");
}

#[tokio::test]
async fn a_configured_client_is_used_as_the_server_wants_it_and_never_forgotten() {
    let credentials = ClientCredentials { id: "ours".to_owned(), secret: Some(Plaintext::new("hunter2")) };
    let scene = Scene::with(OAuthClient { client: Some(credentials), ..OAuthClient::default() }).await;
    scene.server.with(|state| {
        state.server["token_endpoint_auth_methods_supported"] = json!(["client_secret_post"]);
        state.server["client_id_metadata_document_supported"] = json!(true);
    });
    let away = scene.way(&[]).await.unwrap();
    assert_eq!((&*away.way.source.client, scene.server.asked("/register").len()), ("ours", 0));
    let issued = scene.exchange(&away).await;
    // For the operator to correct: what is stored stays good.
    assert!(matches!(issued, Err(NotIssued::Later { retry_after: None })), "{issued:?}");
    let form = scene.server.asked("/token")[0].form();
    assert_eq!((&*form["client_id"], &*form["client_secret"]), ("ours", "hunter2"));
    scene.configure(|client| client.client = Some(ClientCredentials { id: "another".to_owned(), secret: None }));
    let refused = scene.refresh(&away, &Plaintext::new("rt")).await;
    assert_eq!(refused.unwrap_err(), NotIssued::Refused(Reason::ClientForgotten));
}

#[tokio::test]
async fn a_server_that_reads_documents_finds_ours_at_its_address() {
    let scene = Scene::new().await;
    scene.server.with(|state| state.server["client_id_metadata_document_supported"] = json!(true));
    let away = scene.way(&[]).await.unwrap();
    let Way { source, redirect, .. } = &away.way;
    let context = source.client.strip_prefix("https://gateway.example/connect/client/").unwrap();
    let document = scene.provider.client_document(context).unwrap();
    assert_eq!((&document["client_id"], &document["redirect_uris"]), (&json!(source.client), &json!([redirect])));
    assert_eq!(scene.server.asked("/register").len(), 0);
    for bad in ["", "x", &context[1..], &context.to_uppercase(), &format!("{context}0"), &"../".repeat(16)[..32]] {
        assert_eq!(scene.provider.client_document(bad), None, "{bad}");
    }
    // It says nothing but its id, and being refused is nothing that connecting anew would change.
    let refused = scene.exchange(&away).await;
    assert!(matches!(refused, Err(NotIssued::Later { .. })), "{refused:?}");
    let asked = &scene.server.asked("/token")[0];
    assert_eq!((&*asked.authorization, &asked.form()["client_id"]), ("", &source.client));
    // Nobody reads documents of a gateway that has no https.
    let parts = Parts { public_url: "http://localhost:7400/".to_owned(), ..scene.provider.parts.clone() };
    let local = Provider::new(parts);
    assert_eq!(local.client_document(context), None);
    scene.way_of(&local, &[]).await.unwrap();
    assert_eq!(scene.server.asked("/register").len(), 1);
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_its_own_server() {
    let scene = Scene::new().await;
    scene.mcp.say("/mcp", 401, "");
    scene.mcp.say(RESOURCE, 404, "<html>not here</html>");
    // Its document may write the issuer with a slash.
    scene.mcp.with(|state| state.server["issuer"] = json!(format!("{}/", state.server["issuer"].as_str().unwrap())));
    let found = scene.discover().await.unwrap();
    assert_eq!((&found.metadata.issuer, &found.resource), (&scene.mcp.at("/"), &scene.mcp.at("/mcp")));
    // And one may do without (MCP 2025-03-26), behind a host that answers everything with a page.
    scene.later();
    for path in [SERVER, RESOURCE, "/.well-known/openid-configuration", "/.well-known/oauth-protected-resource"] {
        scene.mcp.say(path, 200, "<html>welcome</html>");
    }
    let found = scene.discover().await.unwrap();
    assert_eq!(found.metadata.issuer, scene.mcp.at(""));
    assert_eq!(found.metadata.authorization_endpoint.as_str(), scene.mcp.at("/authorize"));
    let away = scene.way(&[]).await.unwrap();
    assert!(!away.asked.contains_key("scope"), "{:?}", away.asked);
    scene.mcp.with(|state| state.challenge.clone_from(&away.asked["code_challenge"]));
    assert_eq!(scene.exchange(&away).await.unwrap().access.expose(), "at-1");
}
