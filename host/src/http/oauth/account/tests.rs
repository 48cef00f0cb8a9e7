//! A browser that goes through the pages: sign-in, account, sign-out, and what others try meanwhile.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, RETRY_AFTER, SET_COOKIE};
use tower::ServiceExt as _;

use super::*;
use crate::audit::Party;
use crate::authorization::people::testing::House;
use crate::http::oauth::pages::testing::assert_protected;
use crate::ids::{ClientId, Principal};
use crate::store::grants;
use crate::store::oauth_testing::{issue, remember};
use crate::store::users::Edit;

const PASSWORD: &str = "correct horse battery";
const URL: &str = "https://mcp.example.com/gate";

/// A browser, as far as it matters: it keeps cookies and says where a form comes from.
struct Browser {
    router: Router,
    cookies: BTreeMap<String, String>,
}

/// What it got: status, `Location` and text.
struct Got {
    status: StatusCode,
    to: String,
    retry_after: Option<String>,
    html: String,
}

impl Browser {
    fn new(house: &House) -> Self {
        let oauth = Arc::new(OAuth::new(house.server.clone()));
        Self { router: crate::http::oauth::router(oauth), cookies: BTreeMap::new() }
    }

    async fn send(&mut self, request: http::request::Builder, body: String) -> Got {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.header(COOKIE, cookies.join("; ")).body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_protected(&response);
        for line in response.headers().get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            assert!(line.contains("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{line}");
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            assert!(name.starts_with("__Host-"), "{name}");
            if line.contains("Max-Age=0;") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (status, to, retry_after) = (response.status(), header(LOCATION), header(RETRY_AFTER));
        let html = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
        Got { status, to: to.unwrap_or_default(), retry_after, html }
    }

    async fn get(&mut self, path: &str) -> Got {
        self.send(Request::builder().uri(path), String::new()).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Got {
        self.post_from("https://mcp.example.com", path, fields).await
    }

    async fn post_from(&mut self, origin: &str, path: &str, fields: &[(&str, &str)]) -> Got {
        let request = Request::builder().method("POST").uri(path).header(ORIGIN, origin);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(request.header("sec-fetch-site", "same-origin"), body).await
    }

    async fn sign_in(&mut self, path: &str, login: &str, password: &str) -> Got {
        let page = self.get(path).await;
        assert_eq!(page.status, StatusCode::OK);
        let (token, next) = (page.token("/sign-in"), page.hidden("next"));
        let fields = [("form_token", &token[..]), ("next", &next), ("login", login), ("password", password)];
        self.post("/sign-in", &fields).await
    }

    fn session(&self) -> Option<&String> {
        self.cookies.get("__Host-portcullis-session")
    }
}

impl Got {
    /// The token of the form that is sent to this path.
    fn token(&self, path: &str) -> String {
        let form =
            self.html.find(&format!("action=\"/gate{path}\"")).unwrap_or_else(|| panic!("{path}: {}", self.html));
        value_after(&self.html[form..], "name=\"form_token\" value=\"")
    }

    fn hidden(&self, name: &str) -> String {
        value_after(&self.html, &format!("name=\"{name}\" value=\""))
    }
}

fn value_after(html: &str, start: &str) -> String {
    let at = html.find(start).unwrap() + start.len();
    html[at..].split('"').next().unwrap().to_owned()
}

fn client(name: &str) -> ClientId {
    ClientId::parse(&format!("https://{name}.example/client.json")).unwrap()
}

#[tokio::test]
async fn somebody_signs_in_looks_at_their_account_and_signs_out() {
    let house = House::new(URL, |_| {}).await;
    let ada = house.person("ada", PASSWORD).await;
    let mut browser = Browser::new(&house);
    let first = browser.get("/account").await;
    assert_eq!((first.status, &first.to[..]), (StatusCode::SEE_OTHER, &*format!("{URL}/sign-in?next=%2Faccount")));
    let got = browser.sign_in("/sign-in?next=%2Foauth2%2Fconsent%2F1", "Ada", PASSWORD).await;
    assert_eq!((got.status, &got.to[..]), (StatusCode::SEE_OTHER, &*format!("{URL}/oauth2/consent/1")));
    assert_eq!(browser.cookies.len(), 1, "what was for signing in is gone: {:?}", browser.cookies);
    // Whoever is signed in goes on at once, unless they are to show it again.
    assert_eq!(browser.get("/sign-in?next=%2Fdevice").await.to, format!("{URL}/device"));
    let again = browser.get("/sign-in?next=%2Fdevice&again=1").await;
    assert!(again.html.contains("show once more") && again.html.contains("value=\"ada\""), "{}", again.html);

    let page = browser.get("/account").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.html.contains("ada &#60;b&#62;") && !page.html.contains("<b>"), "{}", page.html);
    assert!(page.html.contains("No client acts in your name") && page.html.contains("this browser"));
    let token = page.token("/sign-out");
    let got = browser.post("/sign-out", &[("form_token", &token)]).await;
    assert_eq!((got.status, &got.to[..]), (StatusCode::SEE_OTHER, &*format!("{URL}/sign-in")));
    assert_eq!(browser.session(), None);
    let sessions = house.server.holdings(&ada, None).await.unwrap().sessions;
    assert!(sessions.is_empty());
}

#[tokio::test]
async fn a14_showing_again_who_one_is_makes_another_session() {
    let house = House::new(URL, |_| {}).await;
    let ada = house.person("ada", PASSWORD).await;
    let mut browser = Browser::new(&house);
    browser.sign_in("/sign-in", "ada", PASSWORD).await;
    let old = browser.session().unwrap().clone();
    house.clock.advance(std::time::Duration::from_secs(600));
    browser.sign_in("/sign-in?again=1", "ada", PASSWORD).await;
    let new = browser.session().unwrap().clone();
    assert_ne!(old, new);
    let sessions = house.server.holdings(&ada, None).await.unwrap().sessions;
    assert_eq!(sessions.len(), 1, "the one before is dead");
    assert_eq!(sessions[0].authenticated, house.server.env.now());
    let mut thief = Browser::new(&house);
    thief.cookies.insert("__Host-portcullis-session".to_owned(), old);
    assert_eq!(thief.get("/account").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn t19_a_refusal_says_the_same_whatever_its_reason() {
    let house = House::new(URL, |_| {}).await;
    house.person("ada", PASSWORD).await;
    let suspended = house.person("eve", PASSWORD).await;
    house.edit(&suspended, Edit::Suspend).await;
    let mut told = Vec::new();
    for (login, password) in [("ada", "no password of hers"), ("nob", PASSWORD), ("eve", PASSWORD)] {
        let mut browser = Browser::new(&house);
        let got = browser.sign_in("/sign-in", login, password).await;
        assert_eq!((got.status, browser.session()), (StatusCode::FORBIDDEN, None), "{login}");
        let token = got.token("/sign-in");
        assert!(!got.html.contains(password), "a password is not repeated");
        told.push(got.html.replace(&token, "").replace(&format!("value=\"{login}\""), ""));
    }
    assert!(told[0].contains("role=\"alert\""));
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
}

#[tokio::test]
async fn t20_whoever_guesses_is_told_to_wait() {
    let house = House::new(URL, |_| {}).await;
    let mut browser = Browser::new(&house);
    for _ in 0..5 {
        assert_eq!(browser.sign_in("/sign-in", "ada", "a wrong password").await.status, StatusCode::FORBIDDEN);
    }
    let got = browser.sign_in("/sign-in", "ada", "a wrong password").await;
    assert_eq!((got.status, got.retry_after.as_deref()), (StatusCode::TOO_MANY_REQUESTS, Some("1")));
    assert!(got.html.contains("Wait 1 second and"), "{}", got.html);
}

#[tokio::test]
async fn t20_forms_that_come_too_often_leave_nothing_in_the_store() {
    let house = House::new(URL, |_| {}).await;
    let oauth = OAuth::new(house.server.clone());
    let form = Form { purpose: FORGET, subject: "", cookie: crate::secret::Digest::of(b"cookie") };
    let from = |last: u8| Some(std::net::IpAddr::from([192, 0, 2, last]));
    let mut taken = 0;
    let refused = loop {
        match oauth.take_form(&form, &oauth.form_token(&form), from(1)).await {
            Ok(()) => taken += 1,
            Err(page) => break page,
        }
        assert!(taken < 200, "nobody sends so many");
    };
    assert!(taken >= 120 && refused.headers().contains_key(RETRY_AFTER), "{taken}");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_protected(&refused);
    // What was counted was not looked at, and others are not held up.
    let token = oauth.form_token(&form);
    assert!(oauth.take_form(&form, &token, from(1)).await.is_err());
    assert!(oauth.take_form(&form, &token, from(2)).await.is_ok());
    // Nor is one that is none looked at.
    let status = async |address| oauth.take_form(&form, "x", from(address)).await.unwrap_err().status();
    assert_eq!((status(1).await.as_u16(), status(2).await.as_u16()), (429, 403));
}

#[tokio::test]
async fn a10_a_form_that_is_not_ours_does_nothing() {
    let house = House::new(URL, |_| {}).await;
    house.person("ada", PASSWORD).await;
    let mut browser = Browser::new(&house);
    let page = browser.get("/sign-in").await;
    let token = page.token("/sign-in");
    let with = |token: &str| [("form_token".to_owned(), token.to_owned())];
    let fields = |token: &str| {
        let more = [("login", "ada"), ("password", PASSWORD)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        with(token).into_iter().chain(more).collect::<Vec<_>>()
    };
    let refused = async |browser: &mut Browser, origin: &str, token: &str| {
        let fields = fields(token);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let got = browser.post_from(origin, "/sign-in", &fields).await;
        assert_eq!((got.status, browser.session()), (StatusCode::FORBIDDEN, None), "{origin} {token}");
        assert!(got.html.contains("does not count") && got.html.contains("What to do"), "{}", got.html);
    };
    for origin in ["https://evil.example", "null", "https://mcp.example.com:8443", "http://mcp.example.com"] {
        refused(&mut browser, origin, &token).await;
    }
    let ours = "https://mcp.example.com";
    refused(&mut browser, ours, "").await;
    // The form of another browser, as in a login that is forced on somebody.
    let mut victim = Browser::new(&house);
    refused(&mut victim, ours, &token).await;
    victim.get("/sign-in").await;
    refused(&mut victim, ours, &token).await;
    // Once is enough.
    assert_eq!(
        browser
            .post("/sign-in", &[("form_token", &token), ("login", "ada"), ("password", "a wrong password")],)
            .await
            .status,
        StatusCode::FORBIDDEN
    );
    refused(&mut browser, ours, &token).await;
    // A GET changes nothing.
    assert_eq!(
        browser
            .router
            .clone()
            .oneshot(Request::builder().uri("/sign-out").body(Body::empty()).unwrap())
            .await
            .unwrap()
            .status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn people_see_and_end_what_is_theirs_and_nothing_else() {
    let house = House::new(URL, |_| {}).await;
    let (ada, eve) = (house.person("ada", PASSWORD).await, house.person("eve", PASSWORD).await);
    let store = &house.server.store;
    let of = |user: &crate::identity::user::User, name| Party {
        principal: Principal::User(user.id.clone()),
        client: client(name),
    };
    let own = issue(store, 1, "refresh1", of(&ada, "notes")).await;
    let foreign = issue(store, 2, "refresh2", of(&eve, "mail")).await;
    remember(store, of(&ada, "notes"), "127.0.0.1").await;
    remember(store, of(&eve, "mail"), "mail.example").await;
    let (mut browser, mut other, mut stranger) = (Browser::new(&house), Browser::new(&house), Browser::new(&house));
    for (browser, login) in [(&mut browser, "ada"), (&mut other, "ada"), (&mut stranger, "eve")] {
        browser.sign_in("/sign-in", login, PASSWORD).await;
    }
    let page = browser.get("/account").await;
    assert!(page.html.contains("https://notes.example/client.json") && page.html.contains("127.0.0.1"));
    assert!(!page.html.contains("mail.example"), "what is somebody else's is not shown");
    let theirs = stranger.get("/account").await;
    let foreign_session = house.server.holdings(&eve, None).await.unwrap().sessions[0].id.clone();
    let foreign_consent = house.server.holdings(&eve, None).await.unwrap().consents[0].digest.to_hex();
    for path in [
        format!("/account/grants/{}/revoke", foreign.id),
        format!("/account/sessions/{foreign_session}/end"),
        format!("/account/consents/{foreign_consent}/forget"),
    ] {
        // Whatever token comes along, it is there no more than what nobody has.
        let token = theirs.token(&path);
        for token in [&*token, "", "x"] {
            assert_eq!(browser.post(&path, &[("form_token", token)]).await.status, StatusCode::NOT_FOUND, "{path}");
        }
    }
    for kind in ["grants/{}/revoke", "sessions/{}/end", "consents/{}/forget"] {
        let path = format!("/account/{}", kind.replace("{}", &"0".repeat(foreign.id.as_str().len())));
        assert_eq!(browser.post(&path, &[("form_token", "x")]).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    // What is one's own is not touched with a token that is for something else.
    let end_others = page.token("/account/sessions/end-others");
    let path = format!("/account/grants/{}/revoke", own.id);
    for token in [&*end_others, ""] {
        assert_eq!(browser.post(&path, &[("form_token", token)]).await.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(grants::get(store, &own.id).await.unwrap().unwrap().end, None);
    let oauth = OAuth::new(house.server.clone());
    let cookie = crate::secret::Plaintext::new(browser.session().unwrap().clone()).digest();
    for (path, purpose, subject) in [
        (format!("/account/grants/{}/revoke", foreign.id), REVOKE, foreign.id.to_string()),
        (format!("/account/sessions/{foreign_session}/end"), END, foreign_session.to_string()),
        (format!("/account/consents/{foreign_consent}/forget"), FORGET, foreign_consent.clone()),
        ("/account/grants/x/revoke".to_owned(), REVOKE, "x".to_owned()),
    ] {
        // Even with a token that fits, it is not there.
        let token = oauth.form_token(&Form { purpose, subject: &subject, cookie });
        let got = browser.post(&path, &[("form_token", &token)]).await;
        assert_eq!(got.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(grants::get(store, &foreign.id).await.unwrap().unwrap().end, None);

    let consent = house.server.holdings(&ada, None).await.unwrap().consents[0].digest.to_hex();
    let revoke = format!("/account/grants/{}/revoke", own.id);
    let forget = format!("/account/consents/{consent}/forget");
    for (path, word, done) in [
        (&revoke[..], "revoked", "The access is revoked"),
        (&forget, "forgotten", "You will be asked again"),
        ("/account/sessions/end-others", "ended-others", "All other browsers are signed out"),
    ] {
        let token = browser.get("/account").await.token(path);
        let got = browser.post(path, &[("form_token", &token)]).await;
        assert_eq!(got.status, StatusCode::SEE_OTHER, "{path}");
        let there = got.to.strip_prefix(URL).unwrap();
        assert!(browser.get(there).await.html.contains(done), "{path}");
        // Nobody else is told so, and nobody without a form of ours.
        for (browser, there) in [(&mut stranger, there), (&mut browser, &*format!("/account?done={word}"))] {
            assert!(!browser.get(there).await.html.contains("role=\"status\""), "{there}");
        }
    }
    assert!(grants::get(store, &own.id).await.unwrap().unwrap().end.is_some());
    assert_eq!(other.get("/account").await.status, StatusCode::SEE_OTHER, "it is signed out");
    assert_eq!(stranger.get("/account").await.status, StatusCode::OK);
    assert!(browser.get("/account").await.html.contains("No client acts in your name"));
    // A grant that is over is not there either.
    let token = oauth.form_token(&Form { purpose: REVOKE, subject: own.id.as_str(), cookie });
    assert_eq!(browser.post(&revoke, &[("form_token", &token)]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_long_list_of_grants_goes_on() {
    let house = House::new(URL, |_| {}).await;
    let ada = house.person("ada", PASSWORD).await;
    for number in 0..60 {
        house.clock.advance(std::time::Duration::from_millis(1));
        let principal = Principal::User(ada.id.clone());
        let party = Party { principal, client: client(&format!("c{number}")) };
        issue(&house.server.store, number, &format!("refresh{number}"), party).await;
    }
    let mut browser = Browser::new(&house);
    browser.sign_in("/sign-in", "ada", PASSWORD).await;
    let page = browser.get("/account").await;
    assert!(
        page.html.contains("c59.example") && page.html.contains("c10.example") && !page.html.contains("c9.example")
    );
    let older = value_after(&page.html, "/gate/account?older=");
    let page = browser.get(&format!("/account?older={older}")).await;
    assert!(page.html.contains("c9.example") && page.html.contains("c0.example") && !page.html.contains("c10.example"));
    // What was not made for this list begins it anew.
    assert!(browser.get("/account?older=AAAA").await.html.contains("c59.example"));
}

#[tokio::test]
async fn a_password_is_changed_at_the_account() {
    let house = House::new(URL, |_| {}).await;
    house.person("ada", PASSWORD).await;
    let (mut browser, mut other) = (Browser::new(&house), Browser::new(&house));
    for browser in [&mut browser, &mut other] {
        browser.sign_in("/sign-in", "ada", PASSWORD).await;
    }
    let old = browser.session().unwrap().clone();
    let new = "a new passphrase";
    let mut told = String::new();
    for (fields, status) in [
        ([PASSWORD, new, "something else"], StatusCode::UNPROCESSABLE_ENTITY),
        ([PASSWORD, "short", "short"], StatusCode::UNPROCESSABLE_ENTITY),
        (["a wrong password", new, new], StatusCode::FORBIDDEN),
        ([PASSWORD, new, new], StatusCode::SEE_OTHER),
    ] {
        let token = browser.get("/account").await.token("/account/password");
        let [old, new, repeated] = fields;
        let fields = [("form_token", &token[..]), ("old", old), ("new", new), ("repeated", repeated)];
        let got = browser.post("/account/password", &fields).await;
        assert_eq!(got.status, status, "{}", got.html);
        assert_eq!(got.html.contains("role=\"alert\""), status != StatusCode::SEE_OTHER);
        told = got.to.replace(URL, "");
    }
    assert_ne!(browser.session(), Some(&old));
    assert!(browser.get(&told).await.html.contains("all other browsers are signed out"));
    assert_eq!(other.get("/account").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn by_another_name_of_this_machine_one_is_sent_to_the_right_one() {
    let house = House::new("http://127.0.0.1:7400", |_| {}).await;
    let router = Browser::new(&house).router;
    let send = async |method: &str, host: &str| {
        let request = Request::builder().method(method).uri("/sign-in?next=%2Fdevice").header("host", host);
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    for alias in ["localhost:7400", "[::1]:7400", "127.0.0.2:7400"] {
        let sent_on = send("GET", alias).await;
        assert_eq!(sent_on.status(), StatusCode::SEE_OTHER, "{alias}");
        assert_eq!(sent_on.headers()[LOCATION], "http://127.0.0.1:7400/sign-in?next=%2Fdevice");
        assert!(!sent_on.headers().contains_key(SET_COOKIE));
        let form = send("POST", alias).await;
        assert_eq!(form.status(), StatusCode::MISDIRECTED_REQUEST, "{alias}");
        assert_protected(&form);
    }
    assert_eq!(send("GET", "127.0.0.1:7400").await.status(), StatusCode::OK);
    assert_eq!(send("POST", "127.0.0.1:7400").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_form_is_only_where_passwords_are() {
    let house = House::new(URL, |auth| auth.sign_in.passwords = false).await;
    let page = Browser::new(&house).get("/sign-in").await;
    assert!(!page.html.contains("<form") && page.html.contains("no identity provider"), "{}", page.html);
}

#[tokio::test]
async fn every_page_of_a_browser_is_protected_and_in_mode_keys_there_is_none() {
    let house = House::new(URL, |_| {}).await;
    let mut browser = Browser::new(&house);
    for route in [ROUTES, sign_in::ROUTES].into_iter().flatten() {
        assert_eq!(route.access, Access::Browser, "{}", route.path);
        let path = route.path.replace("{id}", "0");
        for method in route.methods.split('|') {
            // `send` looks at the headers.
            let got = browser.send(Request::builder().method(method).uri(&path), String::new()).await;
            assert!(!got.status.is_server_error(), "{method} {path}: {}", got.status);
            assert!(method == "GET" || got.status == StatusCode::FORBIDDEN, "{method} {path}: {}", got.status);
        }
    }
    let house = House::new(URL, |auth| auth.mcp = crate::config::AuthMode::Keys).await;
    let browser = Browser::new(&house);
    for path in ["/sign-in", "/account"] {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        assert_eq!(browser.router.clone().oneshot(request).await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
}
