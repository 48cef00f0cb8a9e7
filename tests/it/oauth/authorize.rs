//! The authorization request: A1, A2, A4 to A8, A18 to A20.

use portcullis_tests::Gateway;
use portcullis_tests::oauth::client::{Begun, CALLBACK, claims, random};
use portcullis_tests::oauth::{Browser, Client, Page, Tokens, encoded, query};
use serde_json::json;

use super::{PASSWORD, Who, arrive, choose, client_of, consent, scene, scene_with, sign_in, told_error};

async fn client_with(gateway: &Gateway, redirects: &[&str]) -> Client {
    let metadata = json!({ "client_name": "Tests", "redirect_uris": redirects });
    Client::register_as(gateway.public, "/mcp", metadata).await
}

/// The answer to a request that must not lead anywhere: a page, and no `Location`.
fn refused(what: &str, browser: &Browser, page: &Page) {
    let first = browser.seen.last().unwrap();
    assert_eq!(page.status(), 400, "{what}: {page}");
    assert!(first.headers.get("location").is_none(), "{what}: {:?}", first.headers);
    assert!(page.reply.header("cache-control").contains("no-store"), "{what}");
    assert!(page.reply.header("content-type").starts_with("text/html"), "{what}");
}

#[tokio::test]
async fn a1_an_address_that_is_not_registered_gets_a_page_and_no_redirect() {
    let (_up, gateway) = scene().await;
    let registered = "https://client.example/callback?x=1";
    let client = client_with(&gateway, &[registered]).await;
    let mut browser = Browser::new(gateway.public);
    arrive(&mut browser, &client.begin()).await;
    let mut browsers = 0;
    let unicode = "https://clıent.example/callback?x=1";
    for presented in [
        "https://client.example/callback",
        "https://client.example/callback?x=1&y=2",
        "https://client.example/callback?x=2",
        "https://client.example/callback?X=1",
        "https://client.example/callback?x=1#",
        "https://client.example/callback?x=1#f",
        "https://client.example/callback/?x=1",
        "https://client.example//callback?x=1",
        "https://client.example/Callback?x=1",
        "https://client.example/callback%2f?x=1",
        "https://client.example/callback%2F..%2fx?x=1",
        "https://client.example/../callback?x=1",
        "https://client.example/a/../callback?x=1",
        "https://client.example/%2e%2e/callback?x=1",
        "https://client.example/callback;a?x=1",
        "https://client.example:443/callback?x=1",
        "https://client.example:8443/callback?x=1",
        "https://client.example./callback?x=1",
        "https://CLIENT.example/callback?x=1",
        "HTTPS://client.example/callback?x=1",
        "http://client.example/callback?x=1",
        "https://user@client.example/callback?x=1",
        "https://client.example@evil.example/callback?x=1",
        "https://client.example:x@evil.example/callback?x=1",
        "https://client.example.evil.example/callback?x=1",
        "https://evilclient.example/callback?x=1",
        "https://sub.client.example/callback?x=1",
        "https://client.example\\.evil.example/callback?x=1",
        "https://client.example%00.evil.example/callback?x=1",
        "https://client.example%2eevil.example/callback?x=1",
        "https:/client.example/callback?x=1",
        "https:client.example/callback?x=1",
        "//client.example/callback?x=1",
        "//evil.example/callback?x=1",
        "/callback?x=1",
        "callback",
        "",
        " https://client.example/callback?x=1",
        "https://client.example/callback?x=1 ",
        "https://client.example/callback?x=1%0d%0aX:y",
        "https://client.example/call\u{202e}back?x=1",
        unicode,
        "javascript:alert(1)",
        "data:text/html,x",
        "https://evil.example/",
    ] {
        browsers += 1;
        if browsers % 20 == 0 {
            browser = Browser::new(gateway.public);
        }
        let mut begun = client.begin();
        // An empty value is sent as one.
        let mut fields = query(&begun.url);
        fields.iter_mut().filter(|(name, _)| name == "redirect_uri").for_each(|(_, value)| presented.clone_into(value));
        begun.url = format!("{}?{}", begun.url.split('?').next().unwrap(), encoded(&fields));
        let page = browser.get(&begun.url).await;
        refused(presented, &browser, &page);
        assert!(page.find("/identity").is_none(), "{presented}: {page}");
    }
    let value = random();
    let page = browser.get(&client.begin_with(&[("client_id", value.as_str())]).url).await;
    refused(&value, &browser, &page);
    // A document that nobody answers for may be there later.
    let page = browser.get(&client.begin_with(&[("client_id", "https://client.invalid/none")]).url).await;
    assert_eq!((page.status(), page.reply.headers.get("location")), (503, None), "{page}");
    assert!(!page.reply.header("retry-after").is_empty(), "{:?}", page.reply.headers);
    let page = browser.get(&client.begin_with(&[("client_id", "")]).url).await;
    refused("no client", &browser, &page);
}

#[tokio::test]
async fn a2_only_the_port_of_loopback_may_differ() {
    let (_up, gateway) = scene().await;
    let mut browser = Browser::new(gateway.public);
    let hosts = ["127.0.0.1", "[::1]", "localhost"];
    for host in hosts {
        let client = client_with(&gateway, &[&format!("http://{host}:33418/callback?a=b")]).await;
        for (presented, fits) in hosts
            .iter()
            .flat_map(|other| {
                [
                    (format!("http://{other}:33418/callback?a=b"), *other == host),
                    (format!("http://{other}:50001/callback?a=b"), *other == host),
                    (format!("http://{other}/callback?a=b"), *other == host),
                    (format!("http://{other}:50001/callback"), false),
                    (format!("http://{other}:50001/other?a=b"), false),
                    (format!("https://{other}:33418/callback?a=b"), false),
                ]
            })
            .chain([("http://localhost.evil.example:33418/callback?a=b".to_owned(), false)])
        {
            let mut browser = Browser::new(gateway.public);
            let page = browser.get(&client.begin_with(&[("redirect_uri", &presented)]).url).await;
            assert_eq!(page.status() == 200, fits, "{host} registered, {presented} presented: {page}");
            if !fits {
                refused(&presented, &browser, &page);
            }
        }
    }
    // What Claude Code lists: no port at all. And never for what is not loopback.
    let client = client_with(&gateway, &["http://localhost/callback", "https://client.example/callback"]).await;
    for (presented, fits) in [
        ("http://localhost:41234/callback", true),
        ("http://localhost/callback", true),
        ("http://127.0.0.1:41234/callback", false),
        ("https://client.example:8443/callback", false),
        ("https://client.example/callback", true),
    ] {
        let page = browser.get(&client.begin_with(&[("redirect_uri", presented)]).url).await;
        assert_eq!(page.status() == 200, fits, "{presented}: {page}");
    }
}

/// The code goes to the port that was presented, not to the one that was registered.
#[tokio::test]
async fn a2_the_presented_port_gets_the_code() {
    let (_up, gateway) = scene().await;
    let mut client = client_with(&gateway, &["http://localhost/callback"]).await;
    client.redirect = "http://localhost:50123/callback".to_owned();
    let begun = client.begin();
    let url = consent(&mut Browser::new(gateway.public), &begun, Who::Guest).await;
    let code = client.code(&begun, &url);
    assert_eq!(client.redeem(&begun, &code).await.status, 200);
}

#[tokio::test]
async fn a4_a_challenge_is_s256_and_nothing_else() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let verifier = random();
    let long = "a".repeat(44);
    for others in [
        vec![("code_challenge", ""), ("code_challenge_method", "")],
        vec![("code_challenge", "")],
        vec![("code_challenge_method", "")],
        vec![("code_challenge_method", "plain"), ("code_challenge", verifier.as_str())],
        vec![("code_challenge_method", "s256")],
        vec![("code_challenge_method", "S512")],
        vec![("code_challenge", "short")],
        vec![("code_challenge", long.as_str())],
        vec![("code_challenge", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA+A")],
        vec![("code_challenge", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")],
    ] {
        let begun = client.begin_with(&others);
        let page = browser.get(&begun.url).await;
        assert_eq!(told_error(&gateway, &begun, &page), "invalid_request", "{others:?}");
    }
}

#[tokio::test]
async fn a5_each_parameter_comes_once_and_odd_ones_are_named() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    // Of resources there may be several (RFC 8707 § 2).
    for (name, value) in query(&client.begin().url).into_iter().filter(|(name, _)| name != "resource") {
        for posted in [false, true] {
            let begun = client.begin();
            let mut fields = query(&begun.url);
            fields.push((name.clone(), value.clone()));
            let path = begun.url.split('?').next().unwrap();
            let page = if posted {
                let reply = browser.post(path, &encoded(&fields), &[]).await;
                browser.follow(path.to_owned(), reply).await
            } else {
                browser.get(&format!("{path}?{}", encoded(&fields))).await
            };
            // Where one cannot say who asks, or where to, nobody is told but the person.
            if ["client_id", "redirect_uri"].contains(&name.as_str()) {
                assert_eq!(page.status(), 400, "{name}: {page}");
                assert!(page.url.starts_with(path), "{name}: {page}");
            } else {
                assert!(page.url.starts_with(CALLBACK), "{name}, posted {posted}: {page}");
                let error = page.told("error").unwrap_or_default();
                assert_eq!(error, "invalid_request", "{page}");
                assert!(name == "state" || page.told("state") == Some(begun.state.clone()), "{page}");
            }
        }
    }
    for (others, error) in [
        (vec![("request", "eyJhbGciOiJub25lIn0.e30.")], "request_not_supported"),
        (vec![("request_uri", "https://evil.example/request")], "request_uri_not_supported"),
        (vec![("response_type", "token")], "unsupported_response_type"),
        (vec![("response_type", "code id_token")], "unsupported_response_type"),
        (vec![("response_type", "")], "invalid_request"),
        (vec![("response_mode", "fragment")], "invalid_request"),
        (vec![("response_mode", "form_post")], "invalid_request"),
        (vec![("scope", "mcp everything")], "invalid_scope"),
        (vec![("scope", "\"quoted\"")], "invalid_scope"),
        (vec![("resource", "https://elsewhere.example/mcp")], "invalid_target"),
    ] {
        let begun = client.begin_with(&others);
        let page = browser.get(&begun.url).await;
        assert_eq!(told_error(&gateway, &begun, &page), error, "{others:?}");
    }
    // The same words in a POST body are as good as in a query (RFC 6749 § 3.1).
    let begun = client.begin();
    let (path, body) = begun.url.split_once('?').unwrap();
    let reply = browser.post(path, body, &[]).await;
    let page = browser.follow(path.to_owned(), reply).await;
    assert_eq!(page.status(), 200, "{page}");
}

#[tokio::test]
async fn a6_a_resource_is_ours_or_the_request_fails() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let ours = client.resource();
    for (resource, error) in [
        (format!("{ours}/up"), None),
        (format!("{ours}/none"), Some("invalid_target")),
        (format!("{ours}/"), Some("invalid_target")),
        (format!("{ours}#f"), Some("invalid_target")),
        (format!("{ours}?q"), Some("invalid_target")),
        (ours.replace("/mcp", ""), Some("invalid_target")),
        (ours.replace("http:", "https:"), Some("invalid_target")),
        (ours.replace("127.0.0.1", "localhost"), Some("invalid_target")),
        ("https://elsewhere.example/mcp".to_owned(), Some("invalid_target")),
        ("mcp".to_owned(), Some("invalid_target")),
    ] {
        let begun = client.begin_with(&[("resource", &resource)]);
        let page = browser.get(&begun.url).await;
        match error {
            None => assert_eq!(page.status(), 200, "{resource}: {page}"),
            Some(error) => assert_eq!(told_error(&gateway, &begun, &page), error, "{resource}"),
        }
    }
    // Without one, the default is what there is only one of: the endpoint for everything.
    let begun = client.begin_with(&[("resource", "")]);
    let url = consent(&mut browser, &begun, Who::Guest).await;
    let code = client.code(&begun, &url);
    let reply = client.redeem(&Begun { resource: ours.clone(), ..begun }, &code).await;
    let audience = claims(&Tokens::of(&reply).access)["aud"].clone();
    assert!(audience == ours || audience == json!([ours]), "{audience}");
}

/// Consents as a person who does not want to be asked again, and comes back with the code.
async fn consent_for_good(browser: &mut Browser, client: &Client, who: Who) -> String {
    let begun = client.begin_with(&[("scope", "mcp")]);
    let page = arrive(browser, &begun).await;
    assert!(page.find("/identity").is_some(), "a person is asked: {page}");
    let page = choose(browser, page, who).await;
    let form = page.form("/finish");
    assert!(form.choices.iter().any(|(name, _)| name == "remember"), "it can be remembered: {page}");
    let page = browser.submit(&form.with("remember", "yes")).await;
    client.code(&begun, &page.url)
}

/// A8: what one client was given for good, another with the same address and name is not given unasked, nor the same client
/// for more or another person; and a client on the person's own machine cannot be given anything for good.
#[tokio::test]
async fn a8_every_client_is_asked_about() {
    let (_up, gateway) = scene_with("[auth.scopes]\nmcp = \"Use the tools\"\nextra = \"Do more\"").await;
    let mut browser = Browser::new(gateway.public);
    let web = "https://client.example/callback";
    let (first, second) = (client_with(&gateway, &[web]).await, client_with(&gateway, &[web]).await);
    consent_for_good(&mut browser, &first, Who::Person("ann")).await;
    // Nobody is asked: the browser comes straight back.
    let begun = first.begin_with(&[("scope", "mcp")]);
    let page = browser.get(&begun.url).await;
    let code = first.code(&begun, &page.url);
    Tokens::of(&first.redeem(&begun, &code).await);

    let elsewhere = format!("{}/up", first.resource());
    for (what, begun) in [
        ("another client", second.begin_with(&[("scope", "mcp")])),
        ("more scopes", first.begin_with(&[("scope", "mcp extra")])),
        ("another resource", first.begin_with(&[("scope", "mcp"), ("resource", &elsewhere)])),
        ("who wants it", first.begin_with(&[("scope", "mcp"), ("prompt", "consent")])),
    ] {
        let page = arrive(&mut browser, &begun).await;
        assert!(page.find("/identity").is_some(), "{what}: {page}");
    }
    super::add_person(&gateway, "ben").await;
    let mut bens = Browser::new(gateway.public);
    let page = bens.get("/sign-in").await;
    sign_in(&mut bens, &page, "ben", PASSWORD).await;
    let page = arrive(&mut bens, &first.begin_with(&[("scope", "mcp")])).await;
    assert!(page.find("/identity").is_some(), "{page}");

    let local = client_of(&gateway).await;
    for _ in 0..2 {
        let begun = local.begin();
        let page = arrive(&mut browser, &begun).await;
        let page = choose(&mut browser, page, Who::Person("ann")).await;
        let form = page.form("/finish");
        assert!(!form.choices.iter().any(|(name, _)| name == "remember"), "{page}");
        // Not even who says so by hand is believed.
        let page = browser.submit(&form.with("remember", "yes")).await;
        local.code(&begun, &page.url);
    }
}

#[tokio::test]
async fn a18_without_a_person_nothing_is_asked_of_one() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let silent = async |browser: &mut Browser| {
        let begun = client.begin_with(&[("prompt", "none")]);
        let page = browser.get(&begun.url).await;
        told_error(&gateway, &begun, &page)
    };
    assert_eq!(silent(&mut browser).await, "login_required");
    let page = browser.get("/sign-in").await;
    sign_in(&mut browser, &page, "ann", PASSWORD).await;
    assert_eq!(silent(&mut browser).await, "consent_required");
    // Not even after consent: this client is on the person's own machine (A8).
    consent(&mut browser, &client.begin(), Who::Person("ann")).await;
    assert_eq!(silent(&mut browser).await, "consent_required");
    for prompt in ["none login", "none consent"] {
        let begun = client.begin_with(&[("prompt", prompt)]);
        let page = browser.get(&begun.url).await;
        assert_eq!(told_error(&gateway, &begun, &page), "invalid_request", "{prompt}");
    }
}

/// What was remembered is given without a person, as long as they have shown lately enough who they are.
#[tokio::test]
async fn a18_what_was_remembered_is_given_without_a_person() {
    let (_up, gateway) = scene().await;
    let client = client_with(&gateway, &["https://client.example/callback"]).await;
    let mut browser = Browser::new(gateway.public);
    consent_for_good(&mut browser, &client, Who::Person("ann")).await;
    gateway.clock.advance(std::time::Duration::from_secs(600));
    for (max_age, error) in [("", None), ("3600", None), ("60", Some("login_required")), ("0", Some("login_required"))]
    {
        let begun = client.begin_with(&[("prompt", "none"), ("max_age", max_age)]);
        let page = browser.get(&begun.url).await;
        match error {
            None => {
                let code = client.code(&begun, &page.url);
                assert_eq!(client.redeem(&begun, &code).await.status, 200, "{max_age:?}");
            }
            Some(error) => {
                assert_eq!(page.told("error").as_deref(), Some(error), "{max_age:?}: {page}");
                assert_eq!((page.told("code"), page.told("state")), (None, Some(begun.state)), "{max_age:?}");
            }
        }
    }
    // In a browser where nobody is signed in it is worth nothing.
    let begun = client.begin_with(&[("prompt", "none")]);
    let page = Browser::new(gateway.public).get(&begun.url).await;
    assert_eq!(page.told("error").as_deref(), Some("login_required"), "{page}");
}

#[tokio::test]
async fn a18_who_has_to_sign_in_again_does() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let page = browser.get("/sign-in").await;
    sign_in(&mut browser, &page, "ann", PASSWORD).await;
    gateway.clock.advance(std::time::Duration::from_secs(600));
    // Who may go on as they are is offered to.
    let asks = |page: &Page| {
        let is_offered = super::offers(page, "person");
        !is_offered && page.links().iter().any(|link| link.contains("/sign-in") && link.contains("again"))
    };
    for (others, wants) in [
        (vec![], false),
        (vec![("max_age", "3600")], false),
        (vec![("max_age", "60")], true),
        (vec![("max_age", "0")], true),
        (vec![("prompt", "login")], true),
    ] {
        let page = arrive(&mut browser, &client.begin_with(&others)).await;
        assert_eq!(asks(&page), wants, "{others:?}: {page} {:?}", page.links());
    }
}

#[tokio::test]
async fn a19_a_huge_request_is_refused_and_a_long_state_named() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let huge = client.begin_with(&[("state", &"x".repeat(62 * 1024))]);
    let reply = browser.step("GET", &huge.url, "", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.headers.get("location")), (414, None), "{}", reply.text());
    let posted = browser.post(huge.url.split('?').next().unwrap(), huge.url.split_once('?').unwrap().1, &[]).await;
    assert_eq!((posted.status.as_u16(), posted.headers.get("location")), (413, None), "{}", posted.text());
    let fits = "s".repeat(2048);
    let begun = client.begin_with(&[("state", &fits)]);
    assert_eq!(browser.get(&begun.url).await.status(), 200);
    let begun = client.begin_with(&[("state", &format!("{fits}s"))]);
    let page = browser.get(&begun.url).await;
    assert!(page.url.starts_with(CALLBACK), "{page}");
    assert_eq!(page.told("error").as_deref(), Some("invalid_request"), "{page}");
}

#[tokio::test]
async fn a20_a_pushed_request_is_used_once_by_its_client() {
    let (_up, gateway) = scene_with("").await;
    let (client, other) = (client_of(&gateway).await, client_of(&gateway).await);
    let push = async |client: &Client, begun: &Begun| {
        let fields: Vec<(&'static str, String)> = query(&begun.url)
            .into_iter()
            .filter(|(name, _)| name != "client_id")
            .map(|(name, value)| (&*name.leak(), value))
            .collect();
        client.post("pushed_authorization_request_endpoint", &fields).await
    };
    let at = |client: &Client, uri: &str| {
        let fields = [("client_id", client.id.as_str()), ("request_uri", uri)];
        format!("{}?{}", client.found.server["authorization_endpoint"].as_str().unwrap(), encoded(&fields))
    };
    let begun = client.begin();
    let pushed = push(&client, &begun).await;
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    let (uri, life) = (pushed.json()["request_uri"].as_str().unwrap().to_owned(), pushed.json()["expires_in"].clone());
    let random = uri.strip_prefix("urn:ietf:params:oauth:request_uri:").unwrap_or_else(|| panic!("{uri}"));
    assert!(random.len() >= 43 && life.as_u64().is_some_and(|life| life <= 60), "{uri} {life}");

    let over = |page: &Page| {
        let is_told = page.text().contains("invalid_request_uri") && page.text().contains("This request is over");
        assert!(page.status() == 400 && is_told, "{page}");
        assert!(page.reply.headers.get("location").is_none() && page.find("/identity").is_none(), "{page}");
    };
    let mut browser = Browser::new(gateway.public);
    for (client, uri) in [(&other, uri.clone()), (&client, format!("{uri}x")), (&client, uri.replace(random, "none"))] {
        over(&browser.get(&at(client, &uri)).await);
    }
    let page = browser.get(&at(&client, &uri)).await;
    assert_eq!(page.status(), 200, "{page}");
    let page = choose(&mut browser, page, Who::Guest).await;
    let page = browser.submit(&page.form("/finish")).await;
    let code = client.code(&begun, &page.url);
    assert_eq!(client.redeem(&begun, &code).await.status, 200);
    // It was used.
    over(&browser.get(&at(&client, &uri)).await);

    let late = push(&client, &client.begin()).await.json()["request_uri"].as_str().unwrap().to_owned();
    gateway.clock.advance(std::time::Duration::from_secs(61));
    over(&browser.get(&at(&client, &late)).await);
    // What is wrong with a request is told when it is pushed.
    for others in [[("code_challenge", "")], [("redirect_uri", "https://evil.example/")]] {
        let wrong = push(&client, &client.begin_with(&others)).await;
        assert_eq!(super::refusal(&wrong), (400, "invalid_request".to_owned()), "{others:?}");
    }
}
