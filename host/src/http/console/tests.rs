//! A browser at the pages of the admin listener: sign-in, the set-up link, and what others try meanwhile.

use std::collections::BTreeMap;

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::response::IntoResponse as _;
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use tower::ServiceExt as _;

use super::desk::Stop;
use super::*;
use crate::authorization::people::testing::House;
use crate::http::api::Problem as ApiProblem;
use crate::http::oauth::pages::testing::assert_protected;
use crate::store::users::Edit;

const PASSWORD: &str = "correct horse battery";
const URL: &str = "http://127.0.0.1:7401";

/// What stands behind the doors.
const HOME: &[Route<Arc<Console>>] =
    &[Route { method: "GET", path: "/", role: Some(Role::Viewer), handler: || get(home) }];

async fn home(State(console): State<Arc<Console>>, Extension(person): Extension<Person>) -> Response {
    let problem = ApiProblem::new(StatusCode::IM_A_TEAPOT, "home", "at home");
    let mut response = Stop::from(problem).into_response();
    response.extensions_mut().remove::<Told>().map_or(response, |told| told.page(&console, &person))
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
        Self { router: doors(console.clone()).merge(home), cookies: BTreeMap::new() }
    }

    async fn send(&mut self, request: http::request::Builder, body: String) -> Got {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.header(COOKIE, cookies.join("; ")).body(Body::from(body)).unwrap();
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
