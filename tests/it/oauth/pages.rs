//! What every page has and no page may have: A11, and A12 as far as it can be seen without a screen.

use portcullis_tests::oauth::{Browser, Client};
use serde_json::json;

use super::{Who, arrive, choose, client_of, scene, scene_with, sign_in};

/// Texts that have broken pages of others: markup, attributes, addresses, and characters that turn text around.
const HOSTILE: [&str; 16] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</title><script>alert(1)</script>",
    "</textarea><svg onload=alert(1)>",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#x3c;script&#x3e;",
    "\u{202e}gnp.exe",
    "Claude\u{200b}\u{200d}\u{2066}Code",
    "a\u{0}b\u{8}c\u{1b}[31m",
    "line\r\nSet-Cookie: a=b",
    "<a href=\"https://evil.example\">Click</a>",
    "<style>*{display:none}</style>",
    "<meta http-equiv=refresh content=0;url=https://evil.example>",
];

#[tokio::test]
async fn a11_every_page_has_the_headers_that_keep_it_to_itself() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    // Every page that there is, errors among them.
    let page = arrive(&mut browser, &client.begin()).await;
    let services = choose(&mut browser, page, Who::Person("ann")).await;
    browser.get(&services.url).await;
    browser.submit(&services.form("/finish")).await;
    browser.get("/account").await;
    browser.get("/sign-in?again=1").await;
    browser.get("/device").await;
    browser.get("/oauth2/authorize").await;
    browser.get("/oauth2/consent/none").await;
    browser.get(&client.begin_with(&[("redirect_uri", "https://evil.example/")]).url).await;
    let page = browser.get("/sign-in?again=1").await;
    sign_in(&mut browser, &page, "ann", "wrong").await;
    let (_, forbidden) = browser.submit_once(&page.form("/sign-in").with("login", "ann").without("form_token")).await;
    assert_eq!(forbidden.status, 403);
    browser.step("GET", "/mcp", "", &[]).await;
    let mut pages = 0;
    for seen in &browser.seen {
        let header = |name: &str| seen.headers.get(name).map_or("", |value| value.to_str().unwrap());
        if !header("content-type").starts_with("text/html") {
            continue;
        }
        pages += 1;
        let what = format!("{} {}: {:?}", seen.method, seen.path, seen.headers);
        let policy = header("content-security-policy");
        for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{what}");
        }
        // The page at the endpoint has no form at all.
        let forms = if seen.path.starts_with("/mcp") { "form-action 'none'" } else { "form-action 'self'" };
        assert!(policy.contains(forms), "{what}");
        assert!(!policy.contains("unsafe") && !policy.contains("script-src") && !policy.contains('*'), "{what}");
        assert_eq!(header("x-frame-options"), "DENY", "{what}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{what}");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{what}");
        assert!(header("cache-control").contains("no-store"), "{what}");
        assert!(header("content-type").to_ascii_lowercase().contains("charset=utf-8"), "{what}");
    }
    assert!(pages >= 9, "{pages} of {:?}", browser.seen.iter().map(|seen| &seen.path).collect::<Vec<_>>());
}

/// A12: what strangers call themselves is text, whatever it is made of.
#[tokio::test]
async fn a12_what_clients_call_themselves_is_text() {
    let (_up, gateway) = scene_with("[auth.clients]\nregistrations_per_minute = 10000").await;
    for hostile in HOSTILE {
        let metadata = json!({
            "client_name": hostile, "redirect_uris": ["https://client.example/callback"],
            "client_uri": "https://client.example/\"><script>alert(1)</script>",
            "software_id": hostile,
        });
        let endpoint = format!("http://{}/oauth2/register", gateway.public);
        let mut answer = portcullis_tests::oauth::client::post_json(gateway.public, &endpoint, &metadata).await;
        if answer.status != 201 {
            // An address like that one is refused; the name is what this is about.
            let metadata = json!({ "client_name": hostile, "redirect_uris": ["https://client.example/callback"] });
            answer = portcullis_tests::oauth::client::post_json(gateway.public, &endpoint, &metadata).await;
        }
        if answer.status == 400 {
            assert_eq!(answer.json()["error"], "invalid_client_metadata", "{hostile:?}");
            continue;
        }
        let id = answer.json()["client_id"].as_str().unwrap().to_owned();
        let client = Client::known(gateway.public, "/mcp", &id, None, "https://client.example/callback").await;
        let mut browser = Browser::new(gateway.public);
        let page = arrive(&mut browser, &client.begin()).await;
        let services = choose(&mut browser, page, Who::Person("ann")).await;
        let account = browser.get("/account").await;
        for page in [&services, &account] {
            let text = page.reply.text();
            assert!(!text.contains("<script") && !text.contains("<img") && !text.contains("<a href=\"https://evil"));
            let onward = |name: &str| name.starts_with("on");
            let inline = page.elements.iter().flat_map(|element| &element.attributes).find(|(name, _)| onward(name));
            assert!(inline.is_none(), "{hostile:?}: {inline:?}");
            let bad = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}' | '\u{0}' | '\u{1b}');
            assert!(!text.contains(bad), "{hostile:?}");
            for name in ["script", "iframe", "object", "embed", "base"] {
                assert!(page.elements.iter().all(|element| element.name != name), "{hostile:?}: {name}");
            }
        }
    }
    // The other places where strangers' words could come back.
    let client = client_of(&gateway).await;
    for hostile in HOSTILE {
        for name in ["scope", "state", "resource", "client_id", "redirect_uri", "login_hint", "ui_locales"] {
            let mut browser = Browser::new(gateway.public);
            let page = browser.get(&client.begin_with(&[(name, hostile)]).url).await;
            if page.status() < 300 || page.status() >= 400 {
                assert!(
                    !page.reply.text().contains("<script>alert") && !page.reply.text().contains("<img src=x"),
                    "{name}"
                );
            }
            assert!(page.reply.headers.get("set-cookie").is_none_or(|cookie| cookie != "a=b"), "{name}");
        }
    }
}

/// `next` leads nowhere but to a page of ours.
#[tokio::test]
async fn signing_in_leads_to_no_stranger() {
    let (_up, gateway) = scene().await;
    for next in [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/%2fevil.example",
        "/%5cevil.example",
        "javascript:alert(1)",
        "http://127.0.0.1:1/",
        "/sign-in/../../evil",
        "\t//evil.example",
        "/\t/evil.example",
        "account",
    ] {
        let mut browser = Browser::new(gateway.public);
        let encoded = portcullis_tests::oauth::encoded(&[("next", next)]);
        let page = browser.get(&format!("/sign-in?{encoded}")).await;
        if page.find("/sign-in").is_none() {
            assert_eq!(page.status(), 400, "{next}: {page}");
            continue;
        }
        let (_, reply) =
            browser.submit_once(&page.form("/sign-in").with("login", "ann").with("password", super::PASSWORD)).await;
        assert_eq!(reply.status, 303, "{next}: {}", reply.text());
        let to = reply.header("location");
        let path = to.strip_prefix(&browser.origin).unwrap_or(to);
        let is_ours =
            path.starts_with('/') && !path.starts_with("//") && !path.starts_with("/\\") && !path.contains("evil");
        assert!(is_ours, "{next} leads to {to}");
    }
}

/// Pages need neither scripts nor other servers.
#[tokio::test]
async fn pages_bring_everything_themselves() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let page = arrive(&mut browser, &client.begin()).await;
    for element in &page.elements {
        assert_ne!(element.name, "script");
        for name in ["src", "href"] {
            if element.name != "a"
                && let Some(address) = element.attribute(name)
            {
                assert!(address.starts_with('/') || address.starts_with("data:"), "{element:?}");
            }
        }
    }
    let sheet = page.elements.iter().find(|element| element.attribute("rel") == Some("stylesheet")).unwrap();
    let reply = browser.step("GET", sheet.attribute("href").unwrap(), "", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type").split(';').next()), (200, Some("text/css")));
    assert!(reply.header("cache-control").contains("immutable"), "{:?}", reply.headers);
}
