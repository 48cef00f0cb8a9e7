//! Consent: whose browser it is, who may say yes and as whom. A9, A10, A13 to A15, A17.

use std::time::Duration;

use portcullis_tests::oauth::client::CALLBACK;
use portcullis_tests::oauth::{Browser, Client, Tokens, encoded};
use serde_json::json;

use super::{
    EVERYBODY, PASSWORD, Who, add_person, arrive, choose, client_of, consent, identity, offers, scene, scene_with,
    sign_in, told_error,
};

/// A9: the address of a consent page is worth nothing in another browser (CVE-2026-27124).
#[tokio::test]
async fn a9_a_consent_belongs_to_the_browser_that_began_it() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    // Somebody begins, and gives the address to another who is signed in.
    let (mut attacker, mut victim) = (Browser::new(gateway.public), Browser::new(gateway.public));
    let begun = client.begin();
    let page = arrive(&mut attacker, &begun).await;
    let signed_in = victim.get("/sign-in").await;
    sign_in(&mut victim, &signed_in, "ann", PASSWORD).await;
    let seen = victim.get(&page.url).await;
    assert_eq!(seen.status(), 400, "{seen}");
    assert!(seen.find("/identity").is_none() && seen.find("/finish").is_none(), "{seen}");
    for step in ["identity", "finish", "back", "cancel"] {
        let path = format!("{}/{step}", page.url.trim_start_matches(&victim.origin));
        let origin = victim.origin.clone();
        let reply =
            victim.post(&path, "identity=user", &[("origin", &origin), ("sec-fetch-site", "same-origin")]).await;
        assert_eq!(reply.status, 400, "{step}: {}", reply.text());
        assert!(reply.headers.get("location").is_none(), "{step}");
    }
    // The transaction is still there for who began it.
    let page = choose(&mut attacker, page, Who::Guest).await;
    let page = attacker.submit(&page.form("/finish")).await;
    client.code(&begun, &page.url);
}

/// A9, the other way: without the cookie, or with the one from before the approval, there is no code.
#[tokio::test]
async fn a9_without_its_cookie_no_browser_gets_a_code() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let begun = client.begin();
    let page = arrive(&mut browser, &begun).await;
    let before = browser.jar.clone();
    let page = choose(&mut browser, page, Who::Guest).await;
    let (form, page_url) = (page.form("/finish"), page.url.clone());
    let mut bare = browser.copy();
    bare.jar.clear();
    let (_, refused) = bare.submit_once(&form).await;
    assert_eq!((refused.status.as_u16(), refused.headers.get("location")), (400, None), "{}", refused.text());
    let page = browser.submit(&form).await;
    client.code(&begun, &page.url);
    // The cookie is taken away with the code, and the one that it was leads to nothing any more.
    assert_ne!(before.header(), browser.jar.header());
    let mut old = browser.copy();
    old.jar = before;
    let seen = old.get(&page_url).await;
    assert!(seen.status() == 404 && seen.find("/finish").is_none(), "{seen}");
    let (_, refused) = old.submit_once(&form).await;
    assert_eq!((refused.status.as_u16(), refused.headers.get("location")), (403, None), "{}", refused.text());
}

/// A9: who has chosen to be a person loses the choice with the person: a session that ended since gets no code.
#[tokio::test]
async fn a9_who_signed_out_since_gets_no_code() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let begun = client.begin();
    let page = arrive(&mut browser, &begun).await;
    let page = choose(&mut browser, page, Who::Person("ann")).await;
    let form = page.form("/finish");
    let mut copy = browser.copy();
    let account = browser.get("/account").await;
    browser.submit(&account.form("/sign-out")).await;
    let (_, refused) = copy.submit_once(&form).await;
    assert_eq!((refused.status.as_u16(), refused.headers.get("location")), (409, None), "{}", refused.text());
    let page = copy.get(&page.url).await;
    assert!(page.status() == 200 && page.find("/finish").is_none() && !offers(&page, "person"), "{page}");
}

#[tokio::test]
async fn a9_every_cookie_is_for_the_gateway_alone() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let page = arrive(&mut browser, &client.begin()).await;
    choose(&mut browser, page, Who::Person("ann")).await;
    assert!(browser.jar.names().len() >= 2, "{:?}", browser.jar.names());
    let port = gateway.public.port().to_string();
    for (name, cookie) in browser.jar.cookies() {
        assert!(
            cookie.has("httponly") && cookie.attribute("path") == "/" && !cookie.has("domain"),
            "{name}: {cookie:?}"
        );
        assert!(cookie.attribute("samesite").eq_ignore_ascii_case("lax"), "{name}: {cookie:?}");
        // On loopback cookies are shared by all ports.
        assert!(name.contains(&port) && !name.starts_with("__Host-"), "{name}");
        assert!(cookie.value.len() >= 43, "{name} can be guessed: {cookie:?}");
    }
}

/// A10: nothing happens but by a form of the page that was shown last, from our own origin.
#[tokio::test]
async fn a10_forms_of_others_do_nothing() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let begun = client.begin();
    let page = arrive(&mut browser, &begun).await;
    let url = page.url.clone();
    let form = identity(&page, Who::Guest);
    let own = browser.origin.clone();
    let body = encoded(&form.fields);
    let token = form.fields.iter().find(|(name, value)| name.contains("token") && value.len() > 20);
    let (token, _) = token.unwrap_or_else(|| panic!("no token in {form:?}"));
    let bare = encoded(&form.clone().without(token).fields);
    let forged = encoded(&form.clone().with(token, &"A".repeat(43)).fields);
    for (what, headers, body) in [
        ("no origin", vec![], &body),
        ("null", vec![("origin", "null"), ("sec-fetch-site", "cross-site")], &body),
        ("another origin", vec![("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], &body),
        ("another scheme", vec![("origin", "https://127.0.0.1")], &body),
        ("another port", vec![("origin", "http://127.0.0.1:1")], &body),
        ("localhost", vec![("origin", "http://localhost")], &body),
        ("cross-site", vec![("origin", own.as_str()), ("sec-fetch-site", "cross-site")], &body),
        ("same-site", vec![("origin", own.as_str()), ("sec-fetch-site", "same-site")], &body),
        ("no token", vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")], &bare),
        ("a made-up token", vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")], &forged),
    ] {
        let reply = browser.post(&form.action, body, &headers).await;
        assert_eq!(reply.status, 403, "{what}: {}", reply.text());
    }
    // Nothing of it was done, and GET does nothing either.
    for step in ["identity", "finish", "back", "cancel"] {
        let reply = browser.step("GET", &format!("{url}/{step}?{body}"), "", &[]).await;
        assert!([404, 405].contains(&reply.status.as_u16()), "{step}: {}", reply.status);
    }
    let page = browser.get(&url).await;
    assert!(page.find("/finish").is_none(), "nobody was chosen: {page}");
    let form = identity(&page, Who::Guest);
    let next = browser.submit(&form).await;
    assert!(next.find("/finish").is_some(), "{next}");
    // A form counts once.
    let (_, again) = browser.submit_once(&form).await;
    assert_eq!(again.status, 403, "{}", again.text());
}

#[tokio::test]
async fn a13_a_page_says_who_asks_and_where_the_answer_goes() {
    let (_up, gateway) = scene().await;
    let metadata = json!({
        "client_name": "Claude", "redirect_uris": ["https://evil.example/callback"],
        "client_uri": "https://claude.example/", "logo_uri": "https://claude.example/logo.svg",
    });
    let client = Client::register_as(gateway.public, "/mcp", metadata).await;
    let page = arrive(&mut Browser::new(gateway.public), &client.begin()).await;
    let text = page.text();
    assert!(text.contains("Claude") && text.contains("evil.example"), "{text}");
    assert!(text.contains("Unverified") && text.contains("The application chose its name itself."), "{text}");
    assert!(!page.reply.text().contains("logo.svg"), "no picture of others");
    assert!(text.contains("mcp") || text.to_lowercase().contains("tools"), "the scope in words: {text}");
    // On the person's own machine any program may be at the other end.
    let local = client_of(&gateway).await;
    let page = arrive(&mut Browser::new(gateway.public), &local.begin()).await;
    let warning =
        "Warning: the answer goes to a program on the machine where this browser runs, and nobody can tell which one.";
    assert!(page.text().contains("127.0.0.1") && page.text().contains(warning), "{page}");
    assert!(!text.contains(warning), "{text}");
}

/// A14: who signs in has a new session, and the cookies from before are worth nothing.
#[tokio::test]
async fn a14_a_session_is_new_after_signing_in() {
    let (_up, gateway) = scene().await;
    let mut browser = Browser::new(gateway.public);
    browser.get("/sign-in").await;
    let planted = "A".repeat(64);
    let page = browser.get("/sign-in").await;
    let port = gateway.public.port();
    let names: Vec<String> = browser.jar.names().into_iter().map(ToOwned::to_owned).collect();
    sign_in(&mut browser, &page, "ann", PASSWORD).await;
    let session: Vec<(String, String)> = browser
        .jar
        .cookies()
        .filter(|(name, _)| !names.contains(&(*name).to_owned()) || name.contains("session"))
        .map(|(name, cookie)| (name.to_owned(), cookie.value.clone()))
        .collect();
    assert_eq!(session.len(), 1, "{session:?} on port {port}");
    let (name, value) = session[0].clone();
    // Fixed from outside: it does not become the session.
    let mut fixed = Browser::new(gateway.public);
    fixed.jar.plant(&name, &planted);
    let page = fixed.get("/sign-in").await;
    sign_in(&mut fixed, &page, "ann", PASSWORD).await;
    assert_ne!(fixed.jar.named(&name).map(|(_, cookie)| cookie.value.clone()), Some(planted));
    // Signing in again makes another one, and ends the first.
    let old = browser.copy();
    let page = browser.get("/sign-in?again=1").await;
    sign_in(&mut browser, &page, "ann", PASSWORD).await;
    assert_ne!(browser.jar.named(&name).map(|(_, cookie)| cookie.value.clone()), Some(value));
    let mut old = old;
    let page = old.get("/account").await;
    assert!(page.find("/sign-in").is_some() && page.find("/sign-out").is_none(), "{page}");
    // And signing out ends it on our side.
    let copy = browser.copy();
    let account = browser.get("/account").await;
    browser.submit(&account.form("/sign-out")).await;
    for mut browser in [browser, copy] {
        let page = browser.get("/account").await;
        assert!(page.find("/sign-in").is_some() && page.find("/sign-out").is_none(), "{page}");
    }
}

/// A15: who was chosen is who the tokens are of, until Finish it can be taken back, and another person starts anew.
#[tokio::test]
async fn a15_the_identity_that_was_chosen_last_is_the_one() {
    let (_up, gateway) = scene().await;
    add_person(&gateway, "ben").await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    for (first, second) in
        [(Who::Guest, Who::Key("alice")), (Who::Key("alice"), Who::Person("ann")), (Who::Person("ann"), Who::Guest)]
    {
        let begun = client.begin();
        let page = arrive(&mut browser, &begun).await;
        let services = choose(&mut browser, page, first).await;
        let stale = services.form("/finish");
        let page = browser.submit(&services.form("/back")).await;
        assert!(page.find("/identity").is_some(), "{page}");
        // The page from before does not finish any more: nobody is chosen.
        let (_, refused) = browser.submit_once(&stale).await;
        assert_eq!((refused.status.as_u16(), refused.headers.get("location")), (403, None), "{first:?}");
        let page = browser.get(&page.url).await;
        let page = choose(&mut browser, page, second).await;
        let page = browser.submit(&page.form("/finish")).await;
        let tokens = Tokens::of(&client.redeem(&begun, &client.code(&begun, &page.url)).await);
        let subject = portcullis_tests::oauth::client::claims(&tokens.access)["sub"].as_str().unwrap().to_owned();
        let kind = match second {
            Who::Person(_) => "user:",
            Who::Key(_) => "key:",
            Who::Guest => "guest:",
        };
        assert!(subject.starts_with(kind), "{first:?} then {second:?}: {subject}");
    }
}

#[tokio::test]
async fn a15_another_person_starts_anew() {
    let (_up, gateway) = scene().await;
    add_person(&gateway, "ben").await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let begun = client.begin();
    let page = arrive(&mut browser, &begun).await;
    let services = choose(&mut browser, page, Who::Person("ann")).await;
    let finish = services.form("/finish");
    // In another tab, ben signs in.
    let page = browser.get("/sign-in?again=1").await;
    sign_in(&mut browser, &page, "ben", PASSWORD).await;
    let (url, reply) = browser.submit_once(&finish).await;
    let to = reply.headers.get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
    assert!(!to.contains("code="), "{to}");
    let page = browser.follow(url, reply).await;
    assert!(page.find("/finish").is_none() || page.status() >= 400, "{page}");
    let page = browser.get(&services.url).await;
    assert!(page.find("/identity").is_some(), "{page}");
    assert!(page.text().contains("ben"), "{page}");
}

/// Who is not offered cannot be chosen by hand.
#[tokio::test]
async fn guests_are_for_operators_to_allow() {
    let (_up, gateway) = scene_with("").await;
    let text = std::fs::read_to_string(&gateway.file).unwrap().replace("guests = true", "guests = false");
    gateway.replace("portcullis.toml", text.as_bytes());
    let reloaded = gateway.operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
    assert!(reloaded.status.is_success(), "{}", reloaded.text());
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let page = arrive(&mut browser, &client.begin()).await;
    assert!(!offers(&page, "guest"), "{page}");
    let form = identity(&page, Who::Key("alice")).without("key").with("identity", "guest");
    let page = browser.submit(&form).await;
    assert!(page.find("/finish").is_none(), "{page}");
}

/// A wrong key is no key, whatever is wrong with it, and is not shown again.
#[tokio::test]
async fn a_wrong_key_is_refused_in_words() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let mut page = arrive(&mut browser, &client.begin()).await;
    let unknown = format!("pk_{}", "x".repeat(43));
    for wrong in [unknown.as_str(), "not-a-key-of-anybody", "", "<script>alert(1)</script>"] {
        let form = identity(&page, Who::Key("alice")).with("key", wrong);
        page = browser.submit(&form).await;
        assert!(page.find("/finish").is_none() && page.find("/identity").is_some(), "{wrong}: {page}");
        assert!(wrong.is_empty() || !page.reply.text().contains(wrong), "{wrong}");
    }
    let page = choose(&mut browser, page, Who::Key("alice")).await;
    assert!(page.find("/finish").is_some(), "{page}");
}

#[tokio::test]
async fn who_says_no_is_believed() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let begun = client.begin();
    let page = arrive(&mut browser, &begun).await;
    let (cancel, mut copy, url) = (page.form("/cancel"), browser.copy(), page.url.clone());
    let page = browser.submit(&cancel).await;
    assert_eq!(told_error(&gateway, &begun, &page), "access_denied");
    // It is over, also for whoever has the cookie still, and the form was sent.
    let (_, again) = copy.submit_once(&cancel).await;
    assert_eq!((again.status.as_u16(), again.headers.get("location")), (403, None), "{}", again.text());
    assert_eq!(copy.get(&url).await.status(), 404);
    for who in EVERYBODY {
        let begun = client.begin();
        let page = arrive(&mut browser, &begun).await;
        let page = choose(&mut browser, page, who).await;
        let page = browser.submit(&page.form("/cancel")).await;
        assert_eq!(told_error(&gateway, &begun, &page), "access_denied", "{who:?}");
    }
}

#[tokio::test]
async fn a_consent_takes_15_minutes_at_most() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let page = arrive(&mut browser, &client.begin()).await;
    let url = page.url.clone();
    let services = choose(&mut browser, page, Who::Guest).await;
    gateway.clock.advance(Duration::from_secs(15 * 60 + 1));
    let page = browser.get(&url).await;
    assert!(page.status() == 410 && page.text().contains("This request is too old"), "{page}");
    let page = browser.submit(&services.form("/finish")).await;
    assert!(!page.url.starts_with(CALLBACK), "{page}");
}

/// A17: whatever follows a POST is asked for with GET, so that no browser sends the body on.
#[tokio::test]
async fn a17_every_redirect_after_a_post_is_303() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    for who in EVERYBODY {
        let begun = client.begin();
        let url = consent(&mut browser, &begun, who).await;
        Tokens::of(&client.redeem(&begun, &client.code(&begun, &url)).await);
    }
    let begun = client.begin();
    let page = arrive(&mut browser, &begun).await;
    browser.submit(&page.form("/cancel")).await;
    let account = browser.get("/account").await;
    browser.submit(&account.form("/revoke")).await;
    let account = browser.get("/account").await;
    browser.submit(&account.form("/sign-out")).await;
    let posted: Vec<_> = browser.seen.iter().filter(|seen| seen.method == "POST").collect();
    assert!(posted.len() >= 8, "{}", posted.len());
    for seen in posted {
        assert_eq!(seen.status, 303, "{}", seen.path);
    }
    // Neither a secret nor a token is in any address that a browser was sent to.
    for seen in &browser.seen {
        assert!(!seen.path.contains("pk_") && !seen.path.contains("password"), "{}", seen.path);
    }
}
