//! The door of the API: every row of the table, for everybody who may knock.

use axum::body::{Body, Bytes, to_bytes};
use axum::routing::{MethodFilter, on};
use http::header::{AUTHORIZATION, ORIGIN, RETRY_AFTER};
use http::{HeaderValue, Method, Request};
use tower::ServiceExt as _;

use super::*;
use crate::authorization::people::Browser;
use crate::authorization::people::testing::{House, OPERATOR};
use crate::http::oauth::cookies::{Cookies, Kind};
use crate::http::serve::Peer;
use crate::identity::TokenList;
use crate::identity::api_token::ApiToken;
use crate::identity::browser::{Method as Proof, Surface};
use crate::identity::user::{DisplayName, Role, User};
use crate::ids::ApiTokenId;
use crate::secret::Plaintext;
use crate::store::api_tokens::{self, Creation, NewToken};
use crate::store::users::Edit;

/// The status that somebody is to get at a row.
type Row<'a> = &'a dyn Fn(&Route) -> u16;

const URL: &str = "http://127.0.0.1:7401";
const PASSWORD: &str = "correct horse battery";
const TOKEN: &str = "the operator token";

/// The rows with their doors, and nothing behind them.
struct Gate {
    house: House,
    console: Arc<Console>,
    router: Router,
}

/// What somebody shows.
#[derive(Clone, Default)]
struct Knock {
    headers: Vec<(&'static str, String)>,
    /// Of a session: the token of our pages, which is sent with changes and with our origin.
    page: Option<String>,
    uid: Option<u32>,
}

impl Gate {
    async fn new() -> Self {
        let house = House::new("https://mcp.example.com", |_| {}).await;
        let console = Arc::new(Console::new(house.server.clone(), URL.to_owned()));
        let token = Plaintext::new(TOKEN).digest();
        let operators = Arc::new(Operators::new(token, house.server.clone(), Some(console.clone())));
        let router = ROUTES.iter().fold(Router::new(), |router, route| {
            let method = Method::from_bytes(route.method.as_bytes()).unwrap();
            let handler = on(MethodFilter::try_from(method).unwrap(), |_: Bytes| async { StatusCode::NO_CONTENT });
            router.route(route.path, behind_its_door(route, &operators, handler))
        });
        Self { house, console, router }
    }

    async fn person(&self, login: &str, role: Role) -> User {
        let user = self.house.person(login, PASSWORD).await;
        if role == Role::User { user } else { self.house.edit(&user, Edit::Role(role)).await }
    }

    async fn token(&self, user: &User, ceiling: Role, scopes: &[&str]) -> Knock {
        let (server, secret) = (&self.house.server, ApiToken::new_secret(&self.house.server.env));
        let new = NewToken {
            id: ApiTokenId::generate(&server.env),
            name: DisplayName::of("test"),
            user: user.id.clone(),
            digest: secret.digest(),
            ceiling,
            scopes: TokenList::parse(scopes.iter().map(|scope| (*scope).to_owned()).collect()).unwrap(),
            expires: None,
        };
        let created = api_tokens::create(&server.store, new, OPERATOR).await.unwrap();
        assert!(matches!(created, Creation::Created(_)), "{created:?}");
        bearer(secret.expose())
    }

    async fn session(&self, user: &User, surface: Surface) -> Knock {
        let browser = Browser { replaces: None, agent: String::new(), surface };
        let begun = self.house.server.begin_session(user, Proof::Password, browser).await.unwrap().unwrap();
        let cookies = Cookies::for_operators(URL, self.house.server.store.deployment());
        let cookie = format!("{}={}", cookies.name(Kind::Session), begun.cookie.expose());
        let page = Some(self.console.page_token(begun.cookie.digest()));
        Knock { headers: vec![("cookie", cookie)], page, uid: None }
    }

    async fn knock(&self, method: &str, path: &str, knock: &Knock) -> Response {
        self.send(method, path, knock, Body::empty()).await
    }

    async fn send(&self, method: &str, path: &str, knock: &Knock, body: Body) -> Response {
        let mut request = Request::builder().method(method).uri(path.replace("{id}", "x").replace("{name}", "x"));
        for (name, value) in &knock.headers {
            request = request.header(*name, value);
        }
        if let Some(page) = knock.page.as_ref().filter(|_| method != "GET") {
            request = request.header(ORIGIN, URL).header(door::CSRF_HEADER, page);
        }
        let peer = match knock.uid {
            Some(uid) => Peer::Unix { uid, pid: None },
            None => Peer::Tcp("192.0.2.1:50000".parse().unwrap()),
        };
        self.router.clone().oneshot(request.extension(peer).body(body).unwrap()).await.unwrap()
    }

    async fn status(&self, method: &str, path: &str, knock: &Knock) -> u16 {
        self.knock(method, path, knock).await.status().as_u16()
    }
}

fn bearer(token: &str) -> Knock {
    Knock { headers: vec![(AUTHORIZATION.as_str(), format!("Bearer {token}"))], ..Knock::default() }
}

impl Knock {
    /// The same with another header.
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

#[tokio::test]
async fn h11_every_row_lets_those_pass_whom_it_names() {
    let gate = Gate::new().await;
    let viewer = gate.person("viewer", Role::Viewer).await;
    let operator = gate.person("operator", Role::Operator).await;
    let owner = gate.person("owner", Role::Owner).await;
    let suspended = gate.person("suspended", Role::Operator).await;
    let of_suspended = gate.token(&suspended, Role::Operator, &[]).await;
    let session_of_suspended = gate.session(&suspended, Surface::Admin).await;
    gate.house.edit(&suspended, Edit::Suspend).await;
    let revoked = bearer(ApiToken::new_secret(&gate.house.server.env).expose());
    let here = Knock { uid: Some(rustix::process::geteuid().as_raw()), ..Knock::default() };
    let somebody = Knock { uid: Some(rustix::process::geteuid().as_raw() + 1), ..Knock::default() };
    type Expected = fn(&Route) -> u16;
    let pass = |is_in: bool| if is_in { 204 } else { 403 };
    let nobody: Expected = |_| 401;
    let as_viewer = |route: &Route| pass(route.access == Access::Viewer);
    let as_operator = |route: &Route| pass(route.access <= Access::Operator);
    let reads = |route: &Route| pass(route.method == "GET");
    let keys = |route: &Route| pass(["keys", "me", "openapi"].contains(&route.area()));
    let reads_keys = |route: &Route| pass(["keys", "me", "openapi"].contains(&route.area()) && route.method == "GET");
    let everything: Expected = |_| 204;
    let nothing: Expected = |_| 403;
    let who: Vec<(&str, Knock, Row<'_>)> = vec![
        ("nobody", Knock::default(), &nobody),
        ("another user at the socket", somebody, &nobody),
        ("the gateway's user at the socket", here, &everything),
        ("the operator token", bearer(TOKEN), &everything),
        ("a token that nobody made", revoked, &nobody),
        ("a suspended person's token", of_suspended, &nobody),
        ("a suspended person's browser", session_of_suspended, &nobody),
        ("a viewer", gate.session(&viewer, Surface::Admin).await, &as_viewer),
        ("an operator", gate.session(&operator, Surface::Admin).await, &as_operator),
        ("an owner", gate.session(&owner, Surface::Admin).await, &everything),
        ("an owner of the public listener", gate.session(&owner, Surface::Public).await, &nobody),
        ("a viewer's token", gate.token(&viewer, Role::Viewer, &[]).await, &as_viewer),
        ("an operator's token", gate.token(&operator, Role::Operator, &[]).await, &as_operator),
        ("an owner's token for a viewer", gate.token(&owner, Role::Viewer, &[]).await, &as_viewer),
        ("an owner's token", gate.token(&owner, Role::Owner, &[]).await, &everything),
        ("a token that reads", gate.token(&owner, Role::Owner, &["read"]).await, &reads),
        ("a token for keys", gate.token(&owner, Role::Owner, &["keys"]).await, &keys),
        ("a token that reads keys", gate.token(&owner, Role::Owner, &["keys", "read"]).await, &reads_keys),
        ("a token that opens nothing here", gate.token(&owner, Role::User, &[]).await, &nothing),
    ];
    for route in ROUTES {
        for (name, knock, expected) in &who {
            let status = gate.status(route.method, route.path, knock).await;
            assert_eq!(status, expected(route), "{} {} by {name}", route.method, route.path);
        }
    }
}

#[tokio::test]
async fn h10_a_browser_changes_something_from_our_own_page_only() {
    let gate = Gate::new().await;
    let operator = gate.person("operator", Role::Operator).await;
    let session = gate.session(&operator, Surface::Admin).await;
    let other = gate.session(&operator, Surface::Admin).await;
    let page = session.page.clone().unwrap();
    let bare = Knock { page: None, ..session.clone() };
    let csrf = |knock: &Knock, page: &str| knock.clone().with(door::CSRF_HEADER, page);
    let ours = csrf(&bare, &page).with("origin", URL);
    for (what, knock) in [
        ("neither origin nor token", bare.clone()),
        ("no origin", csrf(&bare, &page)),
        ("no token", bare.clone().with("origin", URL)),
        ("another browser's token", csrf(&bare, other.page.as_deref().unwrap()).with("origin", URL)),
        (
            "the cookie itself for a token",
            csrf(&bare, bare.headers[0].1.split_once('=').unwrap().1).with("origin", URL),
        ),
        ("another port", csrf(&bare, &page).with("origin", "http://127.0.0.1:7400")),
        ("another name of this machine", csrf(&bare, &page).with("origin", "http://localhost:7401")),
        ("the public listener", csrf(&bare, &page).with("origin", "https://mcp.example.com")),
        ("no origin that can be named", csrf(&bare, &page).with("origin", "null")),
        ("two origins", ours.clone().with("origin", URL)),
        ("another site", ours.clone().with("sec-fetch-site", "cross-site")),
        ("another port of this site", ours.clone().with("sec-fetch-site", "same-site")),
        ("an address that was typed", ours.clone().with("sec-fetch-site", "none")),
    ] {
        for (method, path) in [("POST", "/api/v1/keys"), ("DELETE", "/api/v1/keys/x"), ("PATCH", "/api/v1/keys/x")] {
            let refused = gate.knock(method, path, &knock).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{what}");
            let body = to_bytes(refused.into_body(), 1 << 12).await.unwrap();
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["code"], "not_our_page", "{what}");
        }
    }
    let same_origin = ours.clone().with("sec-fetch-site", "same-origin");
    for knock in [&ours, &same_origin, &ours] {
        assert_eq!(gate.status("POST", "/api/v1/keys", knock).await, 204, "as often as the page likes");
    }
    for (what, knock, status) in [
        ("a typed address", bare.clone().with("sec-fetch-site", "none"), 204),
        ("an older browser", bare.clone(), 204),
        ("a link elsewhere", bare.clone().with("sec-fetch-site", "cross-site"), 403),
        ("a page at another port", bare.clone().with("sec-fetch-site", "same-site"), 403),
        ("a page elsewhere", bare.with("origin", "http://127.0.0.1:3000"), 403),
    ] {
        assert_eq!(gate.status("GET", "/api/v1/keys", &knock).await, status, "{what}");
    }
    // A credential that is wrong is not made up for by another one.
    assert_eq!(gate.status("GET", "/api/v1/keys", &session.with("authorization", "Bearer pat_x")).await, 401);
}

#[tokio::test]
async fn a_refusal_names_what_is_needed() {
    let gate = Gate::new().await;
    let owner = gate.person("owner", Role::Owner).await;
    let refused = async |knock: &Knock, method: &str, path: &str| {
        let body = to_bytes(gate.knock(method, path, knock).await.into_body(), 1 << 12).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()
    };
    let viewer = gate.token(&owner, Role::Viewer, &[]).await;
    let lacks = refused(&viewer, "POST", "/api/v1/keys").await;
    assert_eq!((&lacks["code"], &lacks["role"]), (&json!("forbidden"), &json!("operator")));
    assert_eq!(refused(&viewer, "POST", "/api/v1/vault/shred").await["role"], "owner");
    let keys = gate.token(&owner, Role::Owner, &["keys"]).await;
    let lacks = refused(&keys, "GET", "/api/v1/signing-keys").await;
    assert_eq!((&lacks["code"], &lacks["scope"]), (&json!("forbidden"), &json!("signing-keys")));
    assert_eq!(refused(&Knock::default(), "GET", "/api/v1/keys").await["code"], "unauthenticated");
}

#[tokio::test]
async fn t20_many_wrong_tokens_of_one_address_have_to_wait_and_the_right_one_never() {
    let gate = Gate::new().await;
    let path = "/api/v1/status";
    let with = |shown: &str| Knock::default().with("authorization", shown);
    let unknown = format!("Bearer {}", ApiToken::new_secret(&gate.house.server.env).expose());
    for wrong in ["Bearer wrong", "Basic the operator token", &unknown] {
        for _ in 0..200 {
            assert_eq!(gate.status("GET", path, &with(wrong)).await, 401, "{wrong}");
        }
    }
    // What the time of these tries has given back is used up soon.
    let mut waits = gate.knock("GET", path, &with("Bearer wrong")).await;
    for _ in 0..10_000 {
        if waits.status() == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        waits = gate.knock("GET", path, &with("Bearer wrong")).await;
    }
    assert_eq!(waits.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(waits.headers().get(RETRY_AFTER).is_some_and(|seconds| seconds != HeaderValue::from_static("0")));
    assert_eq!(gate.status("GET", path, &bearer(TOKEN)).await, 204);
    assert_eq!(gate.status("GET", path, &Knock::default()).await, 401, "who shows nothing tries nothing");
}

#[tokio::test]
async fn h10_a_sign_in_that_is_old_makes_no_secret_and_undoes_nothing() {
    let gate = Gate::new().await;
    let owner = gate.person("owner", Role::Owner).await;
    let (session, token) = (gate.session(&owner, Surface::Admin).await, gate.token(&owner, Role::Owner, &[]).await);
    let here = Knock { uid: Some(rustix::process::geteuid().as_raw()), ..Knock::default() };
    let after = gate.house.server.settings().operators.step_up_after;
    gate.house.clock.advance(after - Duration::from_secs(1));
    for route in ROUTES {
        assert_eq!(gate.status(route.method, route.path, &session).await, 204, "{} {}", route.method, route.path);
    }
    gate.house.clock.advance(Duration::from_secs(1));
    for route in ROUTES {
        let what = format!("{} {}", route.method, route.path);
        let answer = gate.knock(route.method, route.path, &session).await;
        let status = if route.wants_fresh() { 403 } else { 204 };
        assert_eq!(answer.status().as_u16(), status, "{what}");
        if route.wants_fresh() {
            let body = to_bytes(answer.into_body(), 1 << 12).await.unwrap();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&problem["code"], &problem["sign_in"]), (&json!("step_up_required"), &json!("/sign-in/again")));
        }
        for other in [&token, &here, &bearer(TOKEN)] {
            assert_eq!(gate.status(route.method, route.path, other).await, 204, "{what}: nobody to be asked");
        }
    }
}

#[tokio::test]
async fn whoever_is_shut_out_while_a_body_arrives_is_not_heard() {
    let gate = Gate::new().await;
    for (login, becomes, status) in [("ada", Edit::Suspend, 401), ("eve", Edit::Role(Role::Viewer), 403)] {
        let person = gate.person(login, Role::Operator).await;
        let token = gate.token(&person, Role::Operator, &[]).await;
        let (store, id) = (gate.house.server.store.clone(), person.id.clone());
        // What is read changes who reads it.
        let arrives = async move {
            let changed = crate::store::users::change(&store, &id, None, vec![becomes], OPERATOR).await;
            changed.map(|_| "{}")
        };
        assert_eq!(gate.send("POST", "/api/v1/keys", &token, Body::from("{}")).await.status(), 204, "{login}");
        let slow = Body::from_stream(futures_util::stream::once(arrives));
        assert_eq!(gate.send("POST", "/api/v1/keys", &token, slow).await.status(), status, "{login}");
    }
}

#[test]
fn a_body_says_something_or_nothing() {
    for nothing in ["", " ", "null", "{}", " { \n} "] {
        assert!(says_nothing(nothing.as_bytes()), "{nothing:?}");
    }
    for something in ["x", "[]", "0", "{\"x\":null}", "{}{}", "{", "\"\""] {
        assert!(!says_nothing(something.as_bytes()), "{something:?}");
    }
}

#[test]
fn every_row_that_wants_a_fresh_sign_in_is_there() {
    for (method, path) in FRESH {
        assert!(ROUTES.iter().any(|route| (route.method, route.path) == (*method, *path)), "{method} {path}");
    }
    assert_eq!(ROUTES.iter().filter(|route| route.wants_fresh()).count(), FRESH.len(), "each once");
}

#[tokio::test]
async fn an_api_token_makes_no_other_whatever_it_may() {
    let gate = Gate::new().await;
    let owner = gate.person("owner", Role::Owner).await;
    let session =
        Who::Session { user: Box::new(owner.clone()), cookie: Plaintext::new("cookie").digest(), is_fresh: true };
    let token = ApiToken {
        id: ApiTokenId::generate(&gate.house.server.env),
        name: DisplayName::of("test"),
        user: owner.id.clone(),
        digest: Plaintext::new("token").digest(),
        ceiling: Role::Owner,
        scopes: TokenList::default(),
        created: gate.house.server.env.now(),
        expires: None,
        last_used: None,
    };
    let token = Who::ApiToken { token: Box::new(token), user: Box::new(owner) };
    for (who, is_token) in [(Who::Socket, false), (Who::OperatorToken, false), (session, false), (token, true)] {
        let maker = Operator(who.actor(), Arc::new(who)).maker();
        assert_eq!((maker.role, maker.is_token), (Role::Owner, is_token));
    }
    let refused = Problem::from(crate::admin::api_tokens::TokenError::ByToken);
    assert_eq!((refused.status, refused.code), (StatusCode::FORBIDDEN, "forbidden"));
}

#[test]
fn a_row_stands_once_and_belongs_to_an_area() {
    for (at, row) in ROUTES.iter().enumerate() {
        let is_there = |other: &Route| (other.method, other.path) == (row.method, row.path);
        assert!(!ROUTES[..at].iter().any(is_there), "{} {} occurs twice", row.method, row.path);
        assert!(row.area().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", row.path);
        assert!(row.method == "GET" || row.access > Access::Viewer || row.area() == "api-tokens", "{}", row.path);
    }
    assert!(areas().any(|area| area == "keys") && areas().filter(|area| *area == "keys").count() == 1);
}
