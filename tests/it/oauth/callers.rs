//! Every route with every kind of caller: M2, M3, T6, T8, and callers without credentials.

use std::collections::BTreeMap;

use portcullis_tests::clock::TestClock;
use portcullis_tests::oauth::client::{challenge, discover};
use portcullis_tests::oauth::{Browser, Client, Tokens};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway};
use serde_json::json;

use super::{
    AFTER_ACCESS, EVERYBODY, PASSWORD, Who, client_of, gateway_with, scene, scene_with, sign_in, sign_in_as, signed_in,
};

/// M2, with T6: each method at each endpoint, by callers who are right, wrong, late, early, gone and elsewhere.
#[tokio::test]
async fn m2_every_method_wants_a_token_for_this_endpoint() {
    let (_up, gateway) = scene().await;
    let (_other_up, elsewhere) = scene().await;
    let whole = client_of(&gateway).await;
    let up = Client::register(gateway.public, "/mcp/up").await;
    let late = sign_in_as(&gateway, &whole, Who::Person("ann")).await;
    gateway.clock.advance(AFTER_ACCESS);
    let good = sign_in_as(&gateway, &whole, Who::Person("ann")).await;
    let narrow = sign_in_as(&gateway, &up, Who::Person("ann")).await;
    let gone = sign_in_as(&gateway, &whole, Who::Guest).await;
    whole.revoke(&gone.refresh).await;
    let (_, foreign) = signed_in(&elsewhere).await;
    let mut parts: Vec<String> = good.access.split('.').map(ToOwned::to_owned).collect();
    parts[2] = narrow.access.rsplit('.').next().unwrap().to_owned();
    let mixed = parts.join(".");
    let stranger_token = "A".repeat(400);
    let credentials: Vec<(&str, Option<&str>, [bool; 2])> = vec![
        ("good", Some(&good.access), [true, true]),
        ("for one upstream", Some(&narrow.access), [false, true]),
        ("nobody", None, [false; 2]),
        ("expired", Some(&late.access), [false; 2]),
        ("revoked", Some(&gone.access), [false; 2]),
        ("of another gateway", Some(&foreign.access), [false; 2]),
        ("with another's signature", Some(&mixed), [false; 2]),
        ("a refresh token", Some(&good.refresh), [false; 2]),
        ("nonsense", Some(&stranger_token), [false; 2]),
        ("an unknown key", Some("pk_nobody-0123456789abcdef0123456789abcdef"), [false; 2]),
    ];
    let methods = [
        ("server/discover", json!({})),
        ("tools/list", json!({})),
        ("tools/call", json!({ "name": "up__echo", "arguments": { "text": "x" } })),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("subscriptions/none", json!({})),
    ];
    let mut bodies = BTreeMap::new();
    for (what, credential, allowed) in credentials {
        for (endpoint, is_allowed) in ["/mcp", "/mcp/up"].into_iter().zip(allowed) {
            let caller = Caller::new(gateway.public, credential.map(ToOwned::to_owned)).at(endpoint);
            for (method, params) in &methods {
                let reply = caller.modern(method, params.clone()).await;
                let is_let_in = reply.status != 401;
                assert_eq!(is_let_in, is_allowed, "{what} {endpoint} {method}: {}", reply.text());
                if !is_let_in {
                    let header = reply.header("www-authenticate").to_owned();
                    let path = if endpoint == "/mcp" { "/mcp" } else { "/mcp/up" };
                    let metadata = format!("http://{}/.well-known/oauth-protected-resource{path}", gateway.public);
                    assert_eq!(challenge(&header, "resource_metadata"), Some(metadata), "{what}: {header}");
                    assert!(challenge(&header, "scope").is_some(), "{what}: {header}");
                    let wants_error = credential.is_some_and(|text| !text.starts_with("pk_"));
                    if wants_error && challenge(&header, "error").is_some() {
                        assert_eq!(challenge(&header, "error").as_deref(), Some("invalid_token"), "{what}: {header}");
                    }
                    bodies.insert(reply.text().to_owned(), what);
                }
            }
            for (method, body) in [("GET", ""), ("DELETE", ""), ("POST", "{"), ("POST", "[]")] {
                let reply = caller.send(method, endpoint, body).await;
                assert!(is_allowed || reply.status == 401, "{what} {method} {endpoint}: {}", reply.status);
            }
            let legacy = caller.request("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } })).await;
            assert!(is_allowed || legacy.status == 401, "{what} initialize {endpoint}: {}", legacy.status);
        }
    }
    // Why somebody was not let in is nobody's business but the operator's.
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

/// A session and the id of a running call are of one principal, one client (M3).
#[tokio::test]
async fn m3_a_session_is_of_who_began_it() {
    let (_up, gateway) = scene().await;
    super::add_person(&gateway, "ben").await;
    let client = client_of(&gateway).await;
    let anns = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let session = client.caller(&anns.access).initialize("2025-11-25").await;
    let id = session.headers["mcp-session-id"].to_str().unwrap().to_owned();
    assert!(id.len() >= 22, "{id}");
    // The next token of the same grant goes on with it.
    let renewed = Tokens::of(&client.refresh(&anns.refresh).await);
    let onward = |token: &str| {
        let caller = client.caller(token).with("mcp-session-id", &id);
        caller.with("mcp-protocol-version", "2025-11-25")
    };
    assert_eq!(onward(&renewed.access).request("tools/list", json!({})).await.status, 200);
    for who in [Who::Person("ben"), Who::Key("alice"), Who::Guest] {
        let tokens = sign_in_as(&gateway, &client, who).await;
        for reply in [
            onward(&tokens.access).request("tools/list", json!({})).await,
            onward(&tokens.access).send("GET", "/mcp", "").await,
            onward(&tokens.access).send("DELETE", "/mcp", "").await,
        ] {
            assert_eq!(reply.status, 404, "{who:?}: {}", reply.text());
        }
    }
    // It never lets anybody in by itself.
    let bare = Caller::new(gateway.public, None).with("mcp-session-id", &id);
    assert_eq!(bare.request("tools/list", json!({})).await.status, 401);
    assert_eq!(onward(&renewed.access).request("tools/list", json!({})).await.status, 200, "it is still there");
}

/// A browser that is signed in as somebody else does not call with somebody's token.
#[tokio::test]
async fn a_browser_of_another_person_is_refused_on_mcp() {
    let (_up, gateway) = scene().await;
    super::add_person(&gateway, "ben").await;
    let (client, anns) = signed_in(&gateway).await;
    let cookies = async |login: &str| {
        let mut browser = Browser::new(gateway.public);
        let page = browser.get("/sign-in").await;
        sign_in(&mut browser, &page, login, PASSWORD).await;
        browser.jar.header().unwrap()
    };
    let with = |cookie: &str| client.caller(&anns.access).with("cookie", cookie);
    assert_eq!(with(&cookies("ann").await).modern("tools/list", json!({})).await.status, 200);
    assert_eq!(with(&cookies("ben").await).modern("tools/list", json!({})).await.status, 401);
    // And a cookie alone is no credential.
    let bare = Caller::new(gateway.public, None).with("cookie", &cookies("ann").await);
    assert_eq!(bare.modern("tools/list", json!({})).await.status, 401);
}

#[tokio::test]
async fn a_browser_without_credentials_gets_a_page_on_how_to_connect() {
    let (_up, gateway) = scene().await;
    for endpoint in ["/mcp", "/mcp/up"] {
        let page = Browser::new(gateway.public).get(endpoint).await;
        assert_eq!(page.status(), 401, "{page}");
        assert!(page.reply.header("content-type").starts_with("text/html"));
        assert!(page.text().contains(&format!("http://{}{endpoint}", gateway.public)), "{page}");
        assert!(page.reply.header("www-authenticate").contains("resource_metadata"), "{:?}", page.reply.headers);
    }
}

#[tokio::test]
async fn documents_are_where_clients_of_every_revision_look() {
    let (_up, gateway) = scene().await;
    let stranger = gateway.stranger();
    let origin = format!("http://{}", gateway.public);
    for (path, resource) in [
        ("/.well-known/oauth-protected-resource", "/mcp"),
        ("/.well-known/oauth-protected-resource/mcp", "/mcp"),
        ("/.well-known/oauth-protected-resource/mcp/up", "/mcp/up"),
    ] {
        let document = stranger.send("GET", path, "").await;
        assert_eq!(document.status, 200, "{path}");
        assert_eq!(document.json()["resource"], format!("{origin}{resource}"), "{path}");
        assert_eq!(document.json()["authorization_servers"], json!([origin]), "{path}");
    }
    let document = stranger.send("GET", "/.well-known/oauth-protected-resource/mcp/none", "").await;
    assert_eq!(document.status, 404);
    let mut documents = Vec::new();
    for path in [
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/mcp",
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/mcp",
        "/mcp/.well-known/openid-configuration",
    ] {
        let document = stranger.send("GET", path, "").await;
        if document.status == 200 {
            assert_eq!(document.json()["issuer"], origin, "{path}");
            assert_eq!(document.json()["code_challenge_methods_supported"], json!(["S256"]), "{path}");
            assert_eq!(document.json()["authorization_response_iss_parameter_supported"], true, "{path}");
            documents.push(path);
        }
    }
    assert!(documents.contains(&"/.well-known/oauth-authorization-server"), "{documents:?}");
    assert!(documents.contains(&"/.well-known/openid-configuration"), "{documents:?}");
    let found = discover(gateway.public, "/mcp/up").await;
    assert_eq!(found.resource["resource"], format!("{origin}/mcp/up"));
}

/// Without `auth.required`, who brings nothing is served, and who brings something wrong is not.
#[tokio::test]
async fn callers_without_credentials_are_served_where_that_is_allowed() {
    let (_up, gateway) = scene_with("required = false").await;
    let names = gateway.stranger().tool_names().await;
    assert!(names.contains(&"up__echo".to_owned()), "{names:?}");
    let answer = gateway.stranger().call("up__echo", json!({ "text": "x" })).await.json();
    assert_eq!(answer["result"]["structuredContent"], json!({ "text": "x" }), "{answer}");
    let wrong = Caller::new(gateway.public, Some("pk_nobody-0123456789abcdef0123456789abcdef".to_owned()));
    assert_eq!(wrong.modern("tools/list", json!({})).await.status, 401);
    assert_eq!(gateway.caller("alice").modern("tools/list", json!({})).await.status, 200);

    // Policies apply to them, and so does their allow-list.
    let allow = "required = false\nallow = { guests = [{ upstream = \"up\", tools = [\"echo\"] }] }";
    let (_up, gateway) = scene_with(allow).await;
    assert_eq!(gateway.stranger().tool_names().await, ["up__echo"]);
    let client = client_of(&gateway).await;
    for who in EVERYBODY {
        let tokens = sign_in_as(&gateway, &client, who).await;
        let names = client.caller(&tokens.access).tool_names().await;
        assert_eq!(names == ["up__echo"], who == Who::Guest, "{who:?}: {names:?}");
    }
}

/// T8: what a token lacks is named, all of it at once.
#[tokio::test]
async fn t8_missing_scopes_are_named() {
    let settings = "[auth.scopes]\nmcp = \"Use the tools\"\nextra = \"Do more\"";
    let (_up, gateway) = scene_with(settings).await;
    let client = client_of(&gateway).await;
    assert!(client.found.scope.split(' ').any(|scope| scope == "mcp"), "{}", client.found.scope);
    let begun = client.begin_with(&[("scope", "extra")]);
    let mut browser = Browser::new(gateway.public);
    let url = super::consent(&mut browser, &begun, Who::Person("ann")).await;
    let tokens = Tokens::of(&client.redeem(&begun, &client.code(&begun, &url)).await);
    assert_eq!(tokens.scope, "extra");
    let reply = client.caller(&tokens.access).call("up__echo", json!({ "text": "x" })).await;
    assert_eq!(reply.status, 403, "{}", reply.text());
    let header = reply.header("www-authenticate");
    assert_eq!(challenge(header, "error").as_deref(), Some("insufficient_scope"), "{header}");
    // What it has is asked for again, or it would be lost for what is new.
    assert_eq!(challenge(header, "scope").as_deref(), Some("extra mcp"), "{header}");
    let metadata = format!("http://{}/.well-known/oauth-protected-resource/mcp", gateway.public);
    assert_eq!(challenge(header, "resource_metadata"), Some(metadata), "{header}");
}

#[tokio::test]
async fn a_gateway_for_strangers_is_refused_on_a_network_unless_confirmed() {
    let up = Fixture::start().await;
    let dir = tempfile::TempDir::new().unwrap();
    let parse = |text: &str| {
        let now = portcullis::Env::system().now();
        portcullis::config::parse(text, dir.path(), &|_| None, now).map(|_| ()).map_err(|wrong| wrong.to_string())
    };
    let network = "public_url = \"https://mcp.example.com\"\n[listen]\npublic = \"0.0.0.0:7400\"\nadmin = \"off\"\n";
    let open = format!("{network}[auth]\nrequired = false\n");
    let confirmed = format!("{open}anonymous_on_network = true\n");
    assert!(parse(network).is_ok());
    assert!(parse(&confirmed).is_ok(), "{:?}", parse(&confirmed));
    let refused_by_file = parse(&open);
    assert!(refused_by_file.is_err(), "not confirmed");
    assert!(parse("[auth]\nmcp = \"oauth\"\nrequired = false\n").is_err());
    let gateway = gateway_with(&up, "required = false").try_start(dir, TestClock::default()).await;
    let gateway: Gateway = gateway.expect("on loopback it is allowed");
    drop(gateway);
}
