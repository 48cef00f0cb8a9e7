//! A browser at the pages of the admin listener: sign-in, the set-up link, and what others try meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, to_bytes};
use axum::response::IntoResponse as _;
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use tower::ServiceExt as _;

use super::desk::{Sent, Stop};
use super::*;
use crate::authorization::people::testing::{House, OPERATOR};
use crate::authorization::providers::tests::mock::{Mock, RSA, Said};
use crate::config::auth::Provider;
use crate::http::api::Problem as ApiProblem;
use crate::http::oauth::pages::testing::assert_protected;
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Email};
use crate::ids::{KeyName, UserId};
use crate::outbound::{Fetcher, Trusted};
use crate::store::users::{self, Creation, Edit, NewUser};

const PASSWORD: &str = "correct horse battery";
const URL: &str = "http://127.0.0.1:7401";

/// What stands behind the doors. A secret is for those who have shown lately who they are.
const HOME: &[Route<Arc<Console>>] = &[
    shows("/", || get(home)),
    shows("/secret", || get(home)).fresh(),
    does("/secret", || post(home)).fresh(),
    does("/plain", || post(takes)),
    shows("/typed", || get(token_to_type)),
    does("/typed", || post(typed)).fresh(),
];

async fn home(State(console): State<Arc<Console>>, Extension(person): Extension<Person>) -> Response {
    let (parts, ()) = http::Request::new(()).into_parts();
    let way = Way::of(&console, &parts);
    let problem = ApiProblem::new(StatusCode::IM_A_TEAPOT, "home", "at home");
    let mut response = Stop::from(problem).into_response();
    response.extensions_mut().remove::<Told>().map_or(response, |told| told.page(&console, &person, &way))
}

async fn takes(State(console): State<Arc<Console>>, person: Extension<Person>, _: Bytes) -> Response {
    home(State(console), person).await
}

/// Tells a token for the form that [`typed`] reads.
async fn token_to_type(State(console): State<Arc<Console>>, Extension(person): Extension<Person>) -> Stop {
    let token = desk::Head::new(&console, &person, "").token("/typed");
    ApiProblem::new(StatusCode::IM_A_TEAPOT, "home", token).into()
}

async fn typed(Sent(mut fields): Sent) -> Stop {
    ApiProblem::new(StatusCode::IM_A_TEAPOT, "home", fields.take("words")).into()
}

struct Browser {
    router: Router,
    cookies: BTreeMap<String, String>,
}

/// What it got.
struct Got {
    status: u16,
    to: String,
    html: String,
}

impl Browser {
    fn new(console: &Arc<Console>) -> Self {
        let home = mounted(HOME.iter(), console, console.clone());
        Self { router: doors(console).merge(home), cookies: BTreeMap::new() }
    }

    async fn send(&mut self, request: http::request::Builder, body: impl Into<Body>) -> Got {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.header(COOKIE, cookies.join("; ")).body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_protected(&response);
        for line in response.headers().get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            assert!(line.contains("; Path=/; HttpOnly; SameSite=Lax"), "{line}");
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            assert!(name.starts_with("portcullis-admin-"), "{name}");
            if line.contains("Max-Age=0;") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let to = response.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
        let status = response.status().as_u16();
        let html = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
        Got { status, to, html }
    }

    async fn get(&mut self, path: &str) -> Got {
        self.send(Request::builder().uri(path), String::new()).await
    }

    async fn post_from(&mut self, origin: &str, path: &str, fields: &[(&str, &str)]) -> Got {
        let request = Request::builder().method("POST").uri(path).header(ORIGIN, origin);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(request.header("sec-fetch-site", "same-origin"), body).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Got {
        self.post_from(URL, path, fields).await
    }

    async fn sign_in(&mut self, login: &str, password: &str) -> Got {
        let token = self.get("/sign-in?next=%2Fkeys").await.token("/sign-in");
        let fields = [("form_token", &token[..]), ("next", "/keys"), ("login", login), ("password", password)];
        self.post("/sign-in", &fields).await
    }

    async fn show_again(&mut self, next: &str, password: &str) -> Got {
        let token = self.get("/sign-in/again").await.token("/sign-in/again");
        self.post("/sign-in/again", &[("form_token", &token), ("next", next), ("password", password)]).await
    }

    fn session(&self) -> Option<(&String, &String)> {
        self.cookies.iter().find(|(name, _)| name.contains("-session-"))
    }
}

impl Got {
    /// The token of the form that is sent to this path.
    fn token(&self, path: &str) -> String {
        let form = self.html.find(&format!("action=\"{path}\"")).unwrap_or_else(|| panic!("{path}: {}", self.html));
        let start = "name=\"form_token\" value=\"";
        let at = self.html[form..].find(start).unwrap() + form + start.len();
        self.html[at..].split('"').next().unwrap().to_owned()
    }
}

async fn house() -> (House, Arc<Console>) {
    let house = House::new("https://mcp.example.com", |_| {}).await;
    let console = Arc::new(Console::new(house.server.clone(), URL.to_owned()));
    (house, console)
}

#[tokio::test]
async fn somebody_with_a_role_signs_in_and_out() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Viewer)).await;
    let mut browser = Browser::new(&console);
    let first = browser.get("/").await;
    assert_eq!((first.status, &first.to[..]), (303, "http://127.0.0.1:7401/sign-in"));
    let wrong = browser.sign_in("ada", "another password").await;
    assert!(wrong.status == 403 && wrong.html.contains("not right"), "{}", wrong.html);
    let got = browser.sign_in("Ada", PASSWORD).await;
    assert_eq!((got.status, &got.to[..]), (303, "http://127.0.0.1:7401/keys"));
    assert_eq!(browser.cookies.len(), 1, "what was for signing in is gone: {:?}", browser.cookies);
    let home = browser.get("/").await;
    assert_eq!(home.status, 418);
    assert!(home.html.contains("ada &#60;b&#62;") && home.html.contains("viewer"), "{}", home.html);
    assert!(home.html.contains("at home"), "{}", home.html);
    assert_eq!(browser.get("/sign-in").await.to, "http://127.0.0.1:7401/", "who is signed in goes on at once");

    let before = browser.session().unwrap().1.clone();
    let out = browser.post("/sign-out", &[("form_token", &home.token("/sign-out"))]).await;
    assert_eq!((out.status, &out.to[..]), (303, "http://127.0.0.1:7401/sign-in"));
    assert_eq!(browser.session(), None);
    let digest = Plaintext::new(before);
    assert!(house.server.signed_in_at(Surface::Admin, Some(&digest)).await.unwrap().is_none(), "it is dead as well");
}

#[tokio::test]
async fn h10_an_account_without_a_role_is_told_so_and_has_no_session() {
    let (house, console) = house().await;
    let bob = house.person("bob", PASSWORD).await;
    let mut browser = Browser::new(&console);
    let got = browser.sign_in("bob", PASSWORD).await;
    assert_eq!(got.status, 403);
    assert!(got.html.contains("does not look after this gateway"), "{}", got.html);
    assert_eq!(browser.session(), None);
    assert!(house.server.holdings(&bob, None).await.unwrap().sessions.is_empty());
    // One whose role is taken away is out as well.
    let eve = house.person("eve", PASSWORD).await;
    house.edit(&eve, Edit::Role(Role::Operator)).await;
    browser.sign_in("eve", PASSWORD).await;
    assert_eq!(browser.get("/").await.status, 418);
    house.edit(&eve, Edit::Role(Role::User)).await;
    assert_eq!(browser.get("/").await.status, 303);
}

#[tokio::test]
async fn h10_a_session_of_one_listener_opens_nothing_at_the_other() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Owner)).await;
    let mut browser = Browser::new(&console);
    browser.sign_in("ada", PASSWORD).await;
    let (name, cookie) = browser.session().map(|(name, cookie)| (name.clone(), cookie.clone())).unwrap();
    assert!(house.server.signed_in(Some(&Plaintext::new(cookie))).await.unwrap().is_none());
    let public =
        crate::authorization::people::Browser { replaces: None, agent: String::new(), surface: Surface::Public };
    let ada = crate::store::users::get(&house.server.store, &ada.id).await.unwrap().unwrap();
    let method = crate::identity::browser::Method::Password;
    let begun = house.server.begin_session(&ada, method, public).await.unwrap().unwrap();
    browser.cookies.insert(name, begun.cookie.expose().to_owned());
    assert_eq!(browser.get("/").await.status, 303, "under the right name it opens nothing here");
}

#[tokio::test]
async fn h10_forms_of_other_sites_and_sent_twice_do_nothing() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Owner)).await;
    let mut browser = Browser::new(&console);
    let token = browser.get("/sign-in").await.token("/sign-in");
    let fields = [("form_token", &token[..]), ("login", "ada"), ("password", PASSWORD)];
    for origin in ["http://127.0.0.1:7400", "http://localhost:7401", "https://mcp.example.com", "null"] {
        assert_eq!(browser.post_from(origin, "/sign-in", &fields).await.status, 403, "{origin}");
    }
    assert_eq!(Browser::new(&console).post("/sign-in", &fields).await.status, 403, "another browser");
    assert_eq!(browser.post("/sign-in", &fields[1..]).await.status, 403, "without its token");
    assert_eq!(browser.session(), None);
    assert_eq!(browser.post("/sign-in", &fields).await.status, 303);
    let out = browser.get("/").await.token("/sign-out");
    assert_eq!(browser.post_from("null", "/sign-out", &[("form_token", &out)]).await.status, 403);
    assert_eq!(browser.post("/sign-out", &[]).await.status, 403);
    assert!(browser.session().is_some());
    let page = console.page_token(Plaintext::new(browser.session().unwrap().1.clone()).digest());
    assert_eq!(browser.post("/sign-out", &[("form_token", &page)]).await.status, 403, "that is for the API");
}

#[tokio::test]
async fn a_set_up_link_makes_the_first_owner_once() {
    let (_house, console) = house().await;
    let mut browser = Browser::new(&console);
    assert_eq!(browser.get("/setup").await.status, 404, "no link was made");
    let link = console.set_up_link(Actor::System).await.unwrap().unwrap();
    let link = link.expose();
    let (address, token) = link.split_once('#').unwrap();
    assert!(address == "http://127.0.0.1:7401/setup" && token.starts_with("psu_"), "{address}");
    let page = browser.get("/setup").await;
    assert_eq!(page.status, 200);
    assert!(!page.html.contains(token) && page.html.contains("<noscript>"), "{}", page.html);
    let send = async |browser: &mut Browser, link: &str, login: &str, password: &str| {
        let token = browser.get("/setup").await.token("/setup");
        let fields =
            [("form_token", &token[..]), ("link", link), ("login", login), ("name", "Ada"), ("password", password)];
        browser.post("/setup", &fields).await
    };
    let wrong = send(&mut browser, "http://127.0.0.1:7401/setup#psu_x", "ada", PASSWORD).await;
    assert!(wrong.status == 403 && !wrong.html.contains("psu_x"), "{}", wrong.html);
    let weak = send(&mut browser, link, "ada", "short").await;
    assert!(weak.status == 422 && weak.html.contains("at least 12"), "{}", weak.html);
    let mut other = Browser::new(&console);
    let prepared = other.get("/setup").await.token("/setup");
    // The token alone is enough, as the script of the page sends it.
    let made = send(&mut browser, token, "Ada", PASSWORD).await;
    assert_eq!((made.status, &made.to[..]), (303, "http://127.0.0.1:7401/"));
    let home = browser.get("/").await;
    assert!(home.html.contains("owner"), "{}", home.html);
    let fields = [("form_token", &prepared[..]), ("link", link), ("login", "eve"), ("password", PASSWORD)];
    assert_eq!(other.post("/setup", &fields).await.status, 404);
    assert_eq!(other.get("/setup").await.status, 404);
    assert_eq!(console.set_up_link(Actor::System).await.unwrap().unwrap_err(), NoLink::HasOwner);
}

#[tokio::test]
async fn another_name_of_this_machine_leads_to_the_right_one() {
    let (_house, console) = house().await;
    let mut browser = Browser::new(&console);
    let asked = Request::builder().uri("/sign-in?next=%2Fkeys").header("host", "localhost:7401");
    let got = browser.send(asked, String::new()).await;
    assert_eq!((got.status, &got.to[..]), (303, "http://127.0.0.1:7401/sign-in?next=%2Fkeys"));
    let sent = Request::builder().method("POST").uri("/sign-out").header("host", "localhost:7401");
    assert_eq!(browser.send(sent, String::new()).await.status, 421);
}

#[tokio::test]
async fn h10_a_secret_takes_a_sign_in_that_is_not_old() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Operator)).await;
    let mut browser = Browser::new(&console);
    browser.sign_in("ada", PASSWORD).await;
    let after = house.server.settings().operators.step_up_after;
    house.clock.advance(after - Duration::from_secs(1));
    assert_eq!(browser.get("/secret").await.status, 418);
    house.clock.advance(Duration::from_secs(1));
    assert_eq!(browser.get("/").await.status, 418, "what is no secret is shown as before");
    let asked = browser.get("/secret?of=x").await;
    assert_eq!((asked.status, &asked.to[..]), (303, "http://127.0.0.1:7401/sign-in/again?next=%2Fsecret%3Fof%3Dx"));
    for (page, leads) in [
        ("http://127.0.0.1:7401/keys/x", "/sign-in/again?next=%2Fkeys%2Fx"),
        ("http://127.0.0.1:7401//evil.example", "/sign-in/again"),
        ("http://127.0.0.1:74010/keys", "/sign-in/again"),
        ("https://evil.example/keys", "/sign-in/again"),
    ] {
        let sent = Request::builder().method("POST").uri("/secret").header("referer", page).header(ORIGIN, URL);
        let got = browser.send(sent, "a=b").await;
        assert_eq!((got.status, got.to), (303, format!("{URL}{leads}")), "a form of {page} did nothing");
    }

    let before = browser.session().unwrap().1.clone();
    let wrong = browser.show_again("/secret", "another password").await;
    assert!(wrong.status == 403 && wrong.html.contains("not your password"), "{}", wrong.html);
    assert_eq!(browser.get("/secret").await.status, 303);
    let got = browser.show_again("/secret", PASSWORD).await;
    assert_eq!((got.status, &got.to[..]), (303, "http://127.0.0.1:7401/secret"));
    assert_eq!(browser.get("/secret").await.status, 418);
    assert_ne!(browser.session().unwrap().1, &before, "the cookie is a new one");
    let dead = Plaintext::new(before);
    assert!(house.server.signed_in_at(Surface::Admin, Some(&dead)).await.unwrap().is_none());
    assert_eq!(house.server.holdings(&ada, None).await.unwrap().sessions.len(), 1, "and the session the same");
    let at_once = browser.get("/sign-in/again?next=%2Fsecret").await;
    assert_eq!((at_once.status, &at_once.to[..]), (303, "http://127.0.0.1:7401/secret"));
    house.clock.advance(after);
    let elsewhere = browser.show_again("//evil.example", PASSWORD).await;
    assert_eq!(elsewhere.to, "http://127.0.0.1:7401/");
    // Nobody is asked again who is not in.
    let nobody = Browser::new(&console).get("/sign-in/again?next=%2Fsecret").await;
    assert!(nobody.status == 303 && nobody.to.starts_with("http://127.0.0.1:7401/sign-in?next="), "{}", nobody.to);
}

#[tokio::test]
async fn h10_what_was_filled_in_is_kept_until_its_person_has_shown_who_they_are() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Operator)).await;
    let mut browser = Browser::new(&console);
    browser.sign_in("ada", PASSWORD).await;
    let words = "words that nobody reads";
    let told = async |browser: &mut Browser| {
        let html = browser.get("/typed").await.html;
        html.split("Why:</strong> ").nth(1).unwrap().split('<').next().unwrap().to_owned()
    };
    let token = told(&mut browser).await;
    let stale = told(&mut browser).await;
    house.clock.advance(house.server.settings().operators.step_up_after);
    let fields = [("form_token", &token[..]), ("words", words)];
    let strange = browser.post_from("https://evil.example", "/typed", &fields).await;
    assert_eq!(strange.to, format!("{URL}/sign-in/again"), "a form of another site is not kept");
    assert_eq!(browser.post("/typed", &[("form_token", "none"), ("words", words)]).await.status, 403);
    assert_eq!(browser.get("/sign-in/again/form").await.status, 404);
    let old = browser.post("/typed", &fields).await;
    let again = "/sign-in/again?next=%2Fsign-in%2Fagain%2Fform";
    assert_eq!((old.status, old.to), (303, format!("{URL}{again}")));
    let page = browser.get(again).await.html;
    assert!(page.contains("It is kept as you filled it in") && !page.contains(words), "{page}");
    let got = browser.show_again("/sign-in/again/form", PASSWORD).await;
    assert_eq!(got.to, format!("{URL}/sign-in/again/form"));

    let asks = browser.get("/sign-in/again/form").await;
    assert!(asks.status == 200 && !asks.html.contains(words), "{}", asks.html);
    let mut thief = Browser::new(&console);
    let (name, cookie) = browser.session().map(|(name, cookie)| (name.clone(), cookie.clone())).unwrap();
    thief.cookies.insert(name, cookie);
    assert_eq!(thief.get("/sign-in/again/form").await.status, 404, "a session alone does not open it");
    let send = [("form_token", &asks.token("/typed")[..]), ("kept_form", "yes")];
    let sent = browser.post("/typed", &send).await;
    assert!(sent.status == 418 && sent.html.contains(words), "{}", sent.html);
    assert_eq!(browser.get("/sign-in/again/form").await.status, 404, "once");
    let other = browser.post("/typed", &[("form_token", &stale), ("kept_form", "yes")]).await;
    assert_eq!(other.status, 403, "a form of before is one of another cookie");
    let token = told(&mut browser).await;
    let nothing = browser.post("/typed", &[("form_token", &token), ("kept_form", "yes")]).await;
    assert!(nothing.status == 404 && nothing.html.contains("not kept any more"), "{}", nothing.html);
}

#[tokio::test]
async fn who_sent_a_form_and_is_signed_in_no_more_is_told_that_it_did_nothing() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Operator)).await;
    let mut browser = Browser::new(&console);
    for (page, next) in [
        ("http://127.0.0.1:7401/keys/new", "next=%2Fkeys%2Fnew&"),
        ("http://127.0.0.1:7401/upstreams/import/add", ""),
        ("https://evil.example/keys/new", ""),
    ] {
        let sent = Request::builder().method("POST").uri("/plain").header("referer", page).header(ORIGIN, URL);
        let got = browser.send(sent, "a=b").await;
        assert_eq!((got.status, got.to), (303, format!("{URL}/sign-in?{next}form=lost")), "{page}");
    }
    let page = browser.get("/sign-in?next=%2Fkeys%2Fnew&form=lost").await;
    assert!(page.html.contains("Your form did nothing") && page.html.contains("value=\"/keys/new\""), "{}", page.html);
    assert!(!browser.get("/sign-in?next=%2Fkeys%2Fnew").await.html.contains("Your form did nothing"));
}

#[tokio::test]
async fn where_there_is_nothing_browsers_see_a_page_and_programs_do_not() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Viewer)).await;
    let mut browser = Browser::new(&console);
    browser.router = browser.router.clone().merge(elsewhere(&console));
    let asked = |path: &str| Request::builder().uri(path).header("accept", "text/html,*/*;q=0.8");
    let stranger = browser.send(asked("/nope"), "").await;
    assert!(stranger.status == 404 && stranger.html.contains("There is nothing at this address."), "{}", stranger.html);
    assert!(!stranger.html.contains("/decisions"), "{}", stranger.html);
    browser.sign_in("ada", PASSWORD).await;
    let got = browser.send(asked("/keys/ci/nope"), "").await;
    assert!(got.status == 404 && got.html.contains("href=\"/decisions\""), "{}", got.html);
    let told = async |request: http::request::Builder| {
        let response = browser.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (response.status().as_u16(), response.headers()[CONTENT_TYPE].clone())
    };
    for request in [asked("/api/v1/nope"), Request::builder().uri("/nope")] {
        assert_eq!(told(request).await, (404, http::HeaderValue::from_static("application/json")));
    }
}

#[test]
fn pages_that_show_something_by_themselves_are_known() {
    for shown in ["/", "/keys", "/keys/ci?from=1", "/upstreams/%6Eew", "/policies/bindings/limit/edit"] {
        assert!(is_shown(shown), "{shown}");
    }
    for other in ["/upstreams/import/add", "/keys/", "/keys/ci/none", "/sign-in", "", "/api/v1/keys"] {
        assert!(!is_shown(other), "{other}");
    }
}

#[tokio::test]
async fn whoever_is_shut_out_while_a_form_arrives_is_not_heard() {
    let (house, console) = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.edit(&ada, Edit::Role(Role::Operator)).await;
    let mut browser = Browser::new(&console);
    browser.sign_in("ada", PASSWORD).await;
    let plain = || Request::builder().method("POST").uri("/plain").header(ORIGIN, URL);
    assert_eq!(browser.send(plain(), "a=b").await.status, 418);
    let store = house.server.store.clone();
    let arrives = async move {
        let changed = users::change(&store, &ada.id, None, vec![Edit::Suspend], OPERATOR).await;
        changed.map(|_| "a=b")
    };
    let slow = Body::from_stream(futures_util::stream::once(arrives));
    let got = browser.send(plain(), slow).await;
    assert_eq!((got.status, &got.to[..]), (303, "http://127.0.0.1:7401/sign-in?form=lost"));
}

/// A provider, the console that people come to by way of it, and a browser.
struct Abroad {
    house: House,
    mock: Mock,
    browser: Browser,
    /// How long ago people have shown the provider who they are.
    shown_before: Duration,
}

impl Abroad {
    async fn new() -> Self {
        let mock = Mock::start();
        let provider = Provider {
            name: KeyName::parse("corp").unwrap(),
            issuer: mock.address(),
            client_id: "portcullis".to_owned(),
            client_secret: None,
            label: "<b>Corp</b>".to_owned(),
            scopes: TokenList::default(),
            admits_everyone: true,
            groups_claim: None,
        };
        let mut house = House::new("https://mcp.example.com", |auth| auth.providers = vec![provider]).await;
        let trusted = Trusted::none().with(Trusted::parse(&format!("127.0.0.1:{}", mock.port)).unwrap());
        Arc::get_mut(&mut house.server).unwrap().fetcher = Fetcher::new(trusted);
        let console = Arc::new(Console::new(house.server.clone(), URL.to_owned()));
        Self { browser: Browser::new(&console), house, mock, shown_before: Duration::ZERO }
    }

    /// Somebody who has an account, and has not come yet.
    async fn invite(&self, email: &str, role: Role) -> UserId {
        let id = UserId::generate(&self.house.server.env);
        let new = NewUser {
            id: id.clone(),
            login: None,
            name: DisplayName::of("invited"),
            email: Email::parse(email),
            role,
            groups: TokenList::default(),
            invited: true,
            password: None,
        };
        let created = users::create(&self.house.server.store, new, OPERATOR).await.unwrap();
        assert!(matches!(created, Creation::Created(_)));
        id
    }

    /// The way to the provider from this address, and back as whom it vouches for.
    async fn sign_in(&mut self, from: &str, subject: &str) -> Got {
        let away = self.browser.get(from).await;
        assert_eq!(away.status, 303, "{}", away.html);
        let (endpoint, query) = away.to.split_once('?').unwrap();
        assert_eq!(endpoint, format!("{}/authorize", self.mock.address()));
        let asked: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(asked["redirect_uri"], "http://127.0.0.1:7401/sign-in/corp/callback");
        assert_eq!(asked.get("max_age").map(String::as_str), from.contains("again=1").then_some("0"));
        let now = self.house.server.env.now().as_millis() / 1_000;
        let said = Said {
            header: serde_json::json!({ "alg": "RS256", "kid": RSA.id(), "typ": "JWT" }),
            claims: serde_json::json!({
                "iss": self.mock.address(), "aud": "portcullis", "sub": subject, "nonce": asked["nonce"], "iat": now,
                "exp": now + 300, "auth_time": now - self.shown_before.as_secs(), "name": subject,
                "email": format!("{subject}@corp.example"), "email_verified": true,
            }),
            key: &RSA,
            algorithm: jsonwebtoken::Algorithm::RS256,
        };
        let tokens = serde_json::json!({ "access_token": "at-1", "token_type": "Bearer", "id_token": said.token() });
        self.mock.with(|state| {
            state.challenge.clone_from(&asked["code_challenge"]);
            state.tokens = tokens;
        });
        let answer = [
            ("state", asked["state"].clone()),
            ("code", format!("code-{}", asked["state"])),
            ("iss", self.mock.address()),
        ];
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(answer).finish();
        self.browser.get(&format!("/sign-in/corp/callback?{query}")).await
    }
}

#[tokio::test]
async fn an_operator_signs_in_through_a_provider() {
    let mut abroad = Abroad::new().await;
    let ada = abroad.invite("ada@corp.example", Role::Operator).await;
    let page = abroad.browser.get("/sign-in?next=%2Fkeys").await;
    assert!(page.html.contains("href=\"/sign-in/corp?next=%2Fkeys\""), "{}", page.html);
    assert!(!page.html.contains("<b>Corp"), "{}", page.html);
    let got = abroad.sign_in("/sign-in/corp?next=%2Fkeys", "ada").await;
    assert_eq!((got.status, &got.to[..]), (303, "http://127.0.0.1:7401/keys"), "{}", got.html);
    let cookie = Plaintext::new(abroad.browser.session().unwrap().1.clone());
    let (server, clock) = (abroad.house.server.clone(), &abroad.house.clock);
    assert!(server.signed_in(Some(&cookie)).await.unwrap().is_none(), "the public listener knows it not");
    let (session, user) = server.signed_in_at(Surface::Admin, Some(&cookie)).await.unwrap().unwrap();
    assert_eq!((&user.id, session.surface), (&ada, Surface::Admin));
    let life = crate::authorization::people::ADMIN_LIFE;
    assert_eq!(session.ends, session.created.after(life), "it lives no longer than others of operators");
    assert_eq!(abroad.browser.get("/").await.status, 418);
    let stays = abroad.browser.get("/sign-in/corp").await;
    assert_eq!(stays.to, "http://127.0.0.1:7401/", "who is signed in goes on at once");

    // What takes a new proof leads there again, and the session stays.
    clock.advance(server.settings().operators.step_up_after);
    assert_eq!(abroad.browser.get("/secret").await.to, "http://127.0.0.1:7401/sign-in/again?next=%2Fsecret");
    let page = abroad.browser.get("/sign-in/again?next=%2Fsecret").await;
    let way = "/sign-in/corp?again=1&amp;next=%2Fsecret";
    assert!(page.html.contains(way) && !page.html.contains("type=\"password\""), "{}", page.html);
    let way = way.replace("&amp;", "&");
    abroad.invite("eve@corp.example", Role::Owner).await;
    let other = abroad.sign_in(&way, "eve").await;
    assert!(other.status == 403 && other.html.contains("somebody else"), "{}", other.html);
    assert_eq!(abroad.browser.get("/secret").await.status, 303);
    let got = abroad.sign_in(&way, "ada").await;
    assert_eq!((got.status, &got.to[..]), (303, "http://127.0.0.1:7401/secret"), "{}", got.html);
    assert_eq!(abroad.browser.get("/secret").await.status, 418);
    let renewed = Plaintext::new(abroad.browser.session().unwrap().1.clone());
    let (again, _) = server.signed_in_at(Surface::Admin, Some(&renewed)).await.unwrap().unwrap();
    assert_eq!(again.id, session.id);
    assert!(server.signed_in_at(Surface::Admin, Some(&cookie)).await.unwrap().is_none());
}

#[tokio::test]
async fn h10_a_sign_in_is_as_old_as_the_provider_says() {
    let mut abroad = Abroad::new().await;
    abroad.invite("ada@corp.example", Role::Operator).await;
    abroad.shown_before = abroad.house.server.settings().operators.step_up_after;
    let got = abroad.sign_in("/sign-in/corp", "ada").await;
    assert_eq!(got.status, 303, "{}", got.html);
    assert_eq!(abroad.browser.get("/").await.status, 418);
    assert_eq!(abroad.browser.get("/secret").await.to, "http://127.0.0.1:7401/sign-in/again?next=%2Fsecret");
    abroad.shown_before = Duration::ZERO;
    let got = abroad.sign_in("/sign-in/corp?again=1&next=%2Fsecret", "ada").await;
    assert_eq!(got.status, 303, "{}", got.html);
    assert_eq!(abroad.browser.get("/secret").await.status, 418);
}

#[tokio::test]
async fn h10_a_provider_makes_nobody_an_operator() {
    let mut abroad = Abroad::new().await;
    let bob = abroad.invite("bob@corp.example", Role::User).await;
    let got = abroad.sign_in("/sign-in/corp", "bob").await;
    assert!(got.status == 403 && got.html.contains("does not look after this gateway"), "{}", got.html);
    // Whom the public listener would admit has no account because of this.
    let got = abroad.sign_in("/sign-in/corp", "eve").await;
    assert!(got.status == 403 && got.html.contains("There is no account for you"), "{}", got.html);
    assert!(abroad.browser.cookies.is_empty(), "{:?}", abroad.browser.cookies);
    let server = &abroad.house.server;
    assert!(
        server
            .holdings(&users::get(&server.store, &bob).await.unwrap().unwrap(), None)
            .await
            .unwrap()
            .sessions
            .is_empty()
    );
    for path in ["/sign-in/other", "/sign-in/other/callback?state=x&code=y"] {
        assert_eq!(abroad.browser.get(path).await.status, 404, "{path}");
    }
    for path in ["/sign-in/corp/callback?state=x&code=y", "/sign-in/corp/callback", "/sign-in/corp?next=a&next=b"] {
        assert_eq!(abroad.browser.get(path).await.status, 400, "{path}");
    }
    assert_eq!(abroad.mock.asked("/token"), 2);
}
