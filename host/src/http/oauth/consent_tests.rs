//! The whole walk through the pages, and what does not get through them (`docs/threat-model.md` rows A1 to A20).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::OAuth;
use super::pages::testing::assert_protected;
use crate::authorization::consent::testing::{ISSUER, Scene, client, parameter, query};
use crate::oauth::client::{GrantType, Metadata};
use crate::policy::tests::about_grants;
use crate::secret::Plaintext;

pub(super) struct Gate {
    pub(super) scene: Scene,
    pub(super) router: Router,
}

impl Gate {
    async fn new(more: &str) -> Self {
        let scene = Scene::with(more).await;
        let router = super::router(Arc::new(OAuth::new(scene.server.clone())));
        Self { scene, router }
    }
}

/// What the cookies of requests begin with.
const REQUEST: &str = "__Host-portcullis-request-";

/// A browser: it keeps cookies and follows nothing by itself.
#[derive(Clone, Default)]
pub(super) struct Browser(pub(super) std::collections::BTreeMap<String, String>);

impl Browser {
    pub(super) fn signed_in(cookie: &Plaintext) -> Self {
        Self([("__Host-portcullis-session".to_owned(), cookie.expose().to_owned())].into())
    }

    pub(super) async fn send(&mut self, gate: &Gate, request: Request<Body>) -> Response {
        let (mut parts, body) = request.into_parts();
        let line: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !line.is_empty() {
            parts.headers.insert("cookie", line.join("; ").parse().unwrap());
        }
        let response = gate.router.clone().oneshot(Request::from_parts(parts, body)).await.unwrap();
        for cookie in response.headers().get_all("set-cookie") {
            let (pair, attributes) = cookie.to_str().unwrap().split_once("; ").unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            assert!(attributes.contains("HttpOnly") && attributes.contains("Secure"), "{attributes}");
            if attributes.contains("Max-Age=0;") {
                self.0.remove(name);
            } else {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
        response
    }

    pub(super) async fn get(&mut self, gate: &Gate, path: &str) -> Response {
        self.send(gate, Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&mut self, gate: &Gate, path: &str, fields: &[(&str, &str)]) -> Response {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = Request::post(path)
            .header("origin", ISSUER)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded");
        self.send(gate, request.body(Body::from(body)).unwrap()).await
    }

    /// Comes from a client: the path of the consent page.
    pub(super) async fn arrive(&mut self, gate: &Gate, changed: &[(&str, &str)]) -> String {
        let response = self.get(gate, &format!("/oauth2/authorize?{}", query(changed))).await;
        assert_eq!(response.status(), 303);
        let address = location(&response);
        address.strip_prefix(ISSUER).unwrap_or_else(|| panic!("{address}")).to_owned()
    }

    /// A page that is fine.
    pub(super) async fn page(&mut self, gate: &Gate, path: &str) -> String {
        let response = self.get(gate, path).await;
        assert_eq!(response.status(), 200);
        assert_protected(&response);
        text(response).await
    }
}

/// The whole body.
pub(super) async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

pub(super) fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

/// The value of a hidden field.
pub(super) fn field(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("{name}: {page}"));
    rest.split('"').next().unwrap().to_owned()
}

pub(super) fn token(page: &str) -> String {
    field(page, "form_token")
}

#[tokio::test]
async fn a_browser_walks_from_the_client_through_the_pages_and_back_with_a_code() {
    let gate = Gate::new("").await;
    let ada = gate.scene.person("ada").await;
    let mut browser = Browser::signed_in(&gate.scene.sign_in(&ada).await);
    let path = browser.arrive(&gate, &[]).await;
    let page = browser.page(&gate, &path).await;
    for told in
        ["An app", "Unverified", "app.example", "Continue as ada", "See and use the tools", "https://gate.example/mcp"]
    {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(!page.contains("Continue as a guest"));
    let fields = [("form_token", &*token(&page)), ("identity", "person")];
    let chosen = browser.post(&gate, &format!("{path}/identity"), &fields).await;
    assert_eq!((chosen.status().as_u16(), location(&chosen)), (303, format!("{ISSUER}{path}")), "row A17");
    let page = browser.page(&gate, &path).await;
    for told in
        ["act as <strong>ada</strong>", "notes", "tracker", "Ready", "Finish and let it in", "name=\"remember\""]
    {
        assert!(page.contains(told), "{told}: {page}");
    }
    let before = browser.clone();
    let fields = [("form_token", &*token(&page)), ("shown", &*field(&page, "shown"))];
    let done = browser.post(&gate, &format!("{path}/finish"), &fields).await;
    assert_eq!(done.status(), 303, "row A17");
    let address = location(&done);
    assert!(address.starts_with("https://app.example/cb?code=pcc_"), "{address}");
    assert_eq!(parameter(&address, "state").as_deref(), Some("s1"));
    assert_eq!(parameter(&address, "iss").as_deref(), Some(ISSUER));
    assert!(before.0.keys().any(|name| name.starts_with(REQUEST)));
    assert!(!browser.0.keys().any(|name| name.starts_with(REQUEST)), "row A9: it is taken away");
    // Neither the old cookie nor the old form is good for anything.
    let mut old = before;
    assert_eq!(old.post(&gate, &format!("{path}/finish"), &fields).await.status(), 403);
    assert_eq!(old.get(&gate, &path).await.status(), 404);
    let back = browser.get(&gate, &path).await;
    assert_eq!(back.status(), 400);
    assert!(text(back).await.contains("answered already"));
}

#[tokio::test]
async fn people_are_told_whether_later_services_are_reached_as_well() {
    let gate = Gate::new("").await;
    let ada = gate.scene.person("ada").await;
    let cookie = gate.scene.sign_in(&ada).await;
    for (resource, later) in
        [(None, true), (Some("https://gate.example/mcp"), true), (Some("https://gate.example/mcp/notes"), false)]
    {
        let mut browser = Browser::signed_in(&cookie);
        let asked: Vec<(&str, &str)> = resource.iter().map(|resource| ("resource", *resource)).collect();
        let path = browser.arrive(&gate, &asked).await;
        let page = browser.page(&gate, &path).await;
        let fields = [("form_token", &*token(&page)), ("identity", "person")];
        assert_eq!(browser.post(&gate, &format!("{path}/identity"), &fields).await.status(), 303);
        let page = browser.page(&gate, &path).await;
        assert!(page.contains("Services that it will reach"), "{page}");
        assert_eq!(
            page.contains("added here for this identity later are reached as well"),
            later,
            "{resource:?}: {page}"
        );
    }
}

#[tokio::test]
async fn whoever_authorizes_clients_and_devices_stays_signed_in() {
    const THREE_QUARTERS: Duration = Duration::from_secs(9 * 60 * 60);
    let gate = Gate::new("[auth.grants]\ndevice = true\n").await;
    let ada = gate.scene.person("ada").await;
    let mut browser = Browser::signed_in(&gate.scene.sign_in(&ada).await);
    for id in ["one", "two", "three"] {
        gate.scene.clock.advance(THREE_QUARTERS);
        // A client that nobody uses is forgotten within the hour.
        gate.scene.register(id, client(id).metadata).await;
        let path = browser.arrive(&gate, &[("client_id", id)]).await;
        assert!(browser.page(&gate, &path).await.contains("Continue as ada"));
    }
    for _ in 0..3 {
        gate.scene.clock.advance(THREE_QUARTERS);
        browser.page(&gate, "/device").await;
    }
}

#[tokio::test]
async fn a15_tabs_that_are_opened_at_once_take_nothing_from_each_other() {
    let gate = Gate::new("").await;
    let mut browser = Browser::default();
    let earlier = browser.arrive(&gate, &[]).await;
    // Three requests are sent with the same cookies, and their answers come one after another.
    let mut tabs = [browser.clone(), browser.clone(), browser.clone()];
    let mut paths = Vec::new();
    for tab in &mut tabs[..2] {
        paths.push(tab.arrive(&gate, &[]).await);
    }
    let page = tabs[2].page(&gate, &earlier).await;
    let cancelled = tabs[2].post(&gate, &format!("{earlier}/cancel"), &[("form_token", &token(&page))]).await;
    assert_eq!(cancelled.status(), 303);
    for tab in &tabs {
        for (name, value) in &tab.0 {
            browser.0.insert(name.clone(), value.clone());
        }
    }
    for path in paths {
        assert!(browser.page(&gate, &path).await.contains("Step 1 of 2"), "{path}");
    }
}

#[tokio::test]
async fn a9_two_jars_are_two_browsers() {
    let gate = Gate::new("").await;
    let mut victim = Browser::default();
    let path = victim.arrive(&gate, &[]).await;
    let page = victim.page(&gate, &path).await;
    let mut thief = Browser::default();
    thief.arrive(&gate, &[("state", "thief")]).await;
    let seen = thief.get(&gate, &path).await;
    assert_eq!(seen.status(), 400);
    assert_protected(&seen);
    assert!(!seen.headers().contains_key("location"));
    for verb in ["identity", "back", "cancel", "finish"] {
        let fields = [
            ("form_token", &*token(&page)),
            ("identity", "key"),
            ("key", "pk_ci_0123456789abcdef0123456789abcdef"),
            ("shown", ""),
        ];
        let refused = thief.post(&gate, &format!("{path}/{verb}"), &fields).await;
        assert_eq!(refused.status(), 400, "{verb}");
        assert!(!refused.headers().contains_key("location"), "{verb}");
    }
    // The request and even the form are still good in their own browser.
    let fields =
        [("form_token", &*token(&page)), ("identity", "key"), ("key", " pk_ci_0123456789abcdef0123456789abcdef ")];
    assert_eq!(victim.post(&gate, &format!("{path}/identity"), &fields).await.status(), 303);
    assert!(victim.page(&gate, &path).await.contains("the virtual key ci"));
}

#[tokio::test]
async fn a10_a_form_that_is_not_ours_changes_nothing() {
    let gate = Gate::new("").await;
    let mut browser = Browser::default();
    let path = browser.arrive(&gate, &[]).await;
    let page = browser.page(&gate, &path).await;
    let identity = format!("{path}/identity");
    let fields = |token: &str| format!("form_token={token}&identity=key&key=pk_ci_0123456789abcdef0123456789abcdef");
    let with = |headers: &[(&str, &str)], body: String| {
        let request =
            headers.iter().fold(Request::post(&identity), |request, (name, value)| request.header(*name, *value));
        request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(body)).unwrap()
    };
    let good = token(&page);
    for headers in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "https://gate.example:8443")],
        &[("origin", "null")],
        &[("origin", ISSUER), ("sec-fetch-site", "cross-site")],
        &[("origin", ISSUER), ("sec-fetch-site", "same-site")],
    ] {
        assert_eq!(browser.send(&gate, with(headers, fields(&good))).await.status(), 403, "{headers:?}");
    }
    let ours = [("origin", ISSUER), ("sec-fetch-site", "same-origin")];
    for forged in ["", "x", &good[1..]] {
        assert_eq!(browser.send(&gate, with(&ours, fields(forged))).await.status(), 403, "{forged}");
    }
    // Of another request in the same browser.
    let other = browser.arrive(&gate, &[("state", "other")]).await;
    let foreign = token(&browser.page(&gate, &other).await);
    assert_eq!(browser.send(&gate, with(&ours, fields(&foreign))).await.status(), 403);
    assert!(browser.page(&gate, &path).await.contains("Step 1 of 2"), "nothing was chosen, and a GET approves nothing");
    assert_eq!(browser.send(&gate, with(&ours, fields(&good))).await.status(), 303);
    assert_eq!(browser.send(&gate, with(&ours, fields(&good))).await.status(), 403, "a form is sent once");
    for verb in ["identity", "back", "cancel", "finish"] {
        assert_eq!(browser.get(&gate, &format!("{path}/{verb}")).await.status(), 405, "{verb}");
    }
}

#[tokio::test]
async fn a1_nobody_is_sent_to_who_is_not_registered() {
    let gate = Gate::new("").await;
    let mut browser = Browser::default();
    for changed in [("client_id", "<script>"), ("redirect_uri", "https://evil.example/\"><script>alert(1)</script>")] {
        for method in ["GET", "POST"] {
            let query = query(&[changed]);
            let request = match method {
                "GET" => Request::get(format!("/oauth2/authorize?{query}")).body(Body::empty()),
                _ => Request::post("/oauth2/authorize")
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(Body::from(query)),
            };
            let refused = browser.send(&gate, request.unwrap()).await;
            assert_eq!(refused.status(), 400, "{method} {changed:?}");
            assert_protected(&refused);
            assert!(!refused.headers().contains_key("location"));
            let page = text(refused).await;
            assert!(!page.contains("<script") && !page.contains("evil.example"), "{page}");
        }
    }
}

#[tokio::test]
async fn a19_a_huge_query_is_not_read() {
    let gate = Gate::new("").await;
    let mut browser = Browser::default();
    let long = browser.get(&gate, &format!("/oauth2/authorize?{}", "x".repeat(40 * 1024))).await;
    assert_eq!(long.status(), 414);
    let request = Request::post("/oauth2/authorize")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("x".repeat(64 * 1024)));
    assert_eq!(browser.send(&gate, request.unwrap()).await.status(), 413);
}

#[tokio::test]
async fn a12_what_clients_say_of_themselves_is_text() {
    let corpus = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "</title><svg/onload=alert(1)>",
        "javascript:alert(1)",
        "{{7*7}}${7*7}<%= 7*7 %>",
        "&lt;script&gt;",
        "Claude\u{202e}edualC\u{2066}\u{200b}\u{0}",
        "--><script>",
        "]]><script>",
        "<a href=//evil.example>Click</a>",
    ];
    for name in corpus {
        // So many keys are not tried from one address.
        let gate = Gate::new("").await;
        let metadata = Metadata { name: Some(name.to_owned()), ..client("xss").metadata };
        gate.scene.register("xss", metadata).await;
        let mut browser = Browser::default();
        let path = browser.arrive(&gate, &[("client_id", "xss"), ("state", name)]).await;
        let page = browser.page(&gate, &path).await;
        let fields =
            [("form_token", &*token(&page)), ("identity", "key"), ("key", "pk_ci_0123456789abcdef0123456789abcdef")];
        assert_eq!(browser.post(&gate, &format!("{path}/identity"), &fields).await.status(), 303);
        let services = browser.page(&gate, &path).await;
        for page in [page, services] {
            let lower = page.to_lowercase();
            for bad in ["<script", "<img", "<svg/", "onerror=alert(1)>", "<a href=//", "</title><", "' onmouseover"] {
                assert!(!lower.contains(bad), "{name}: {bad} in {page}");
            }
            assert!(!page.contains(['\u{202e}', '\u{2066}', '\u{200b}', '\u{0}']), "{name}");
            assert!(page.contains("Unverified"));
        }
    }
    let gate = Gate::new("").await;
    let long = Metadata { name: Some("W".repeat(400)), ..client("long").metadata };
    gate.scene.register("long", long).await;
    let mut browser = Browser::default();
    let path = browser.arrive(&gate, &[("client_id", "long")]).await;
    let page = browser.page(&gate, &path).await;
    assert!(page.contains(&format!("{}…", "W".repeat(99))) && !page.contains(&"W".repeat(100)));
}

#[tokio::test]
async fn a12_what_policies_say_about_a_device_is_text() {
    let gate = Gate::new("[auth.grants]\ndevice = true\n").await;
    let metadata = Metadata { grant_types: vec![GrantType::DeviceCode], ..client("tv").metadata };
    gate.scene.register("tv", metadata).await;
    gate.scene.decide(about_grants(serde_json::json!({ "consent": {
        "headline": "Let\u{200e} it\u{200b} in <b>",
        "warnings": ["Be\u{61c}ware   of it"],
        "terms": { "scopes": ["mcp"], "require-sender-constraint": false, "notes": [] },
    } })));
    let ada = gate.scene.person("ada").await;
    let mut browser = Browser::signed_in(&gate.scene.sign_in(&ada).await);
    let page = device_page(&gate, &mut browser, "tv").await;
    assert!(page.contains("Let it in &#60;b&#62;") && page.contains("Beware of it"), "{page}");
    assert!(!page.contains(['\u{200b}', '\u{200e}', '\u{61c}']));
}

/// Begins with a device, types its code and looks at what it wants.
async fn device_page(gate: &Gate, browser: &mut Browser, id: &str) -> String {
    let request = Request::post("/oauth2/device")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(format!("client_id={id}&scope=mcp")));
    let begun = browser.send(gate, request.unwrap()).await;
    let begun: serde_json::Value = serde_json::from_str(&text(begun).await).unwrap();
    let page = browser.page(gate, "/device").await;
    let fields = [("form_token", &*token(&page)), ("user_code", begun["user_code"].as_str().unwrap())];
    let found = browser.post(gate, "/device", &fields).await;
    assert_eq!(found.status(), 303);
    let path = location(&found).strip_prefix(ISSUER).unwrap().to_owned();
    browser.page(gate, &path).await
}

#[tokio::test]
async fn a13_people_see_where_the_answer_goes_and_who_vouches_for_it() {
    let gate =
        Gate::new("[auth.clients.known.ours]\nname = 'Ours'\nredirect_uris = ['https://ours.example/cb', 'https://localhost:8443/cb']\n").await;
    for (changed, told, source) in [
        (&[][..], &["Unverified", "<strong>app.example</strong>"][..], "https://app.example"),
        (
            &[("redirect_uri", "http://127.0.0.1:5555/cb")],
            &["Warning:", "<strong>127.0.0.1</strong>", "a program on the machine"],
            "http://127.0.0.1:5555",
        ),
        (
            &[("redirect_uri", "com.example.app:/cb")],
            &["Warning:", "<strong>com.example.app:</strong>", "any application on this device"],
            "com.example.app:",
        ),
        (
            &[("client_id", "ours"), ("redirect_uri", "https://ours.example/cb")],
            &["Verified by your operator", "<strong>ours.example</strong>"],
            "https://ours.example",
        ),
        (
            &[("client_id", "ours"), ("redirect_uri", "https://localhost:8443/cb")],
            &["Warning:", "<strong>localhost</strong>", "a program on the machine"],
            "https://localhost:8443",
        ),
    ] {
        let mut browser = Browser::default();
        let path = browser.arrive(&gate, changed).await;
        let response = browser.get(&gate, &path).await;
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains(&format!("form-action 'self' {source};")), "row A11: {policy}");
        let page = text(response).await;
        for told in told {
            assert!(page.contains(told), "{told}: {page}");
        }
    }
}

#[tokio::test]
async fn what_somebody_has_to_approve_ends_with_a_denial_for_now() {
    let gate = Gate::new(
        "[[policies]]\nname = 'consent'\nmodule = 'builtin:consent-rules'\n[policies.config]\n\
         grants = [{ name = 'ask', action = 'approve', message = 'Ask first.' }]\n",
    )
    .await;
    let mut browser = Browser::default();
    let path = browser.arrive(&gate, &[]).await;
    let page = browser.page(&gate, &path).await;
    let fields =
        [("form_token", &*token(&page)), ("identity", "key"), ("key", "pk_ci_0123456789abcdef0123456789abcdef")];
    assert_eq!(browser.post(&gate, &format!("{path}/identity"), &fields).await.status(), 303);
    let wanted = browser.get(&gate, &path).await;
    assert_eq!(wanted.status(), 403);
    assert_protected(&wanted);
    let page = text(wanted).await;
    assert!(
        page.contains("Somebody has to approve this first")
            && page.contains("They were asked.")
            && page.contains("Ask first."),
        "{page}"
    );
    let told = browser.post(&gate, &format!("{path}/cancel"), &[("form_token", &token(&page))]).await;
    assert_eq!(parameter(&location(&told), "error").as_deref(), Some("access_denied"));
}

#[tokio::test]
async fn what_went_wrong_is_told_where_it_was_done() {
    let gate = Gate::new("[auth]\nguests = true\n").await;
    let mut browser = Browser::default();
    let path = browser.arrive(&gate, &[]).await;
    let page = browser.page(&gate, &path).await;
    assert!(page.contains("Continue as a guest") && page.contains("<legend>") && page.contains("<label for=\"key\">"));
    let fields = [("form_token", &*token(&page)), ("identity", "key"), ("key", "pk_wrong")];
    let wrong = browser.post(&gate, &format!("{path}/identity"), &fields).await;
    assert_eq!(wrong.status(), 400);
    assert_protected(&wrong);
    let page = text(wrong).await;
    assert!(page.contains("role=\"alert\"") && page.contains("This key opens nothing") && !page.contains("pk_wrong"));
    let fields = [("form_token", &*token(&page))];
    let cancelled = browser.post(&gate, &format!("{path}/cancel"), &fields).await;
    assert_eq!(cancelled.status(), 303);
    assert_eq!(parameter(&location(&cancelled), "error").as_deref(), Some("access_denied"));
    let path = browser.arrive(&gate, &[]).await;
    let page = browser.page(&gate, &path).await;
    gate.scene.server.store.close().await;
    let fields = [("form_token", &*token(&page)), ("identity", "guest")];
    let failed = browser.post(&gate, &format!("{path}/identity"), &fields).await;
    assert_eq!(failed.status(), 503);
    assert!(text(failed).await.contains("if you had sent a form, go back and load its page instead"));
    let mut known = Browser::default();
    let answer = known.get(&gate, &format!("/oauth2/authorize?{}", query(&[]))).await;
    assert_eq!(answer.status(), 303, "the client is known, and is told");
    assert_eq!(parameter(&location(&answer), "error").as_deref(), Some("temporarily_unavailable"));
}
