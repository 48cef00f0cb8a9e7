//! What may be asked about tokens, and by whom: T10, and T7 beside it.

use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Client, encoded};
use serde_json::json;

use super::{AFTER_ACCESS, Who, client_of, refusal, scene, scene_with, sign_in_as, signed_in};

const WEB: &str = "https://client.example/callback";

async fn confidential(gateway: &portcullis_tests::Gateway) -> Client {
    let metadata = json!({ "redirect_uris": [WEB], "token_endpoint_auth_method": "client_secret_basic" });
    Client::register_as(gateway.public, "/mcp", metadata).await
}

#[tokio::test]
async fn t10_only_who_has_a_token_learns_of_it() {
    let (_up, gateway) = scene().await;
    let (client, other) = (confidential(&gateway).await, confidential(&gateway).await);
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    for token in [&tokens.access, &tokens.refresh] {
        let about = client.introspect(token).await;
        assert_eq!(about.status, 200, "{}", about.text());
        let about_it = about.json();
        assert_eq!(about_it["active"], true, "{about_it}");
        assert_eq!(about_it["client_id"], client.id, "{about_it}");
        assert!(about.header("cache-control").contains("no-store"));
        // Another client is told the same as of a token that never was.
        assert_eq!(other.introspect(token).await.json(), json!({ "active": false }));
    }
    let empty = client.introspect("").await;
    assert_eq!(refusal(&empty), (400, "invalid_request".to_owned()));
    for nothing in ["pcr_nothing", "a.b.c", "x"] {
        let about = client.introspect(nothing).await;
        assert_eq!((about.status.as_u16(), about.json()), (200, json!({ "active": false })), "{nothing}");
    }
    // Who does not say who they are is told nothing at all.
    let public = client_of(&gateway).await;
    assert_eq!(refusal(&public.introspect(&tokens.access).await), (401, "invalid_client".to_owned()));
    let body = encoded(&[("token", &tokens.access)]);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let nobody = send(gateway.public, "POST", "/oauth2/introspect", &form, body).await;
    assert_eq!(refusal(&nobody), (401, "invalid_client".to_owned()));

    client.revoke(&tokens.access).await;
    assert_eq!(client.introspect(&tokens.access).await.json(), json!({ "active": false }));
    assert_eq!(client.introspect(&tokens.refresh).await.json()["active"], true);
    client.revoke(&tokens.refresh).await;
    assert_eq!(client.introspect(&tokens.refresh).await.json(), json!({ "active": false }));
}

#[tokio::test]
async fn t10_an_expired_token_is_not_active() {
    let (_up, gateway) = scene().await;
    let client = confidential(&gateway).await;
    let tokens = sign_in_as(&gateway, &client, Who::Guest).await;
    gateway.clock.advance(AFTER_ACCESS);
    assert_eq!(client.introspect(&tokens.access).await.json(), json!({ "active": false }));
}

/// T7: a token stands in the header, once, and nowhere else.
#[tokio::test]
async fn t7_a_token_counts_in_the_header_alone() {
    let (_up, gateway) = scene_with("").await;
    let (client, tokens) = signed_in(&gateway).await;
    let caller = client.caller(&tokens.access);
    let (headers, body) = caller.modern_request("tools/list", json!({}));
    let names: Vec<(String, String)> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let bearer = format!("Bearer {}", tokens.access);
    let send_with = async |path: &str, authorization: &[&str], more: &[(&str, &str)]| {
        let mut all: Vec<(&str, &str)> = names
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| *name != "authorization")
            .collect();
        all.extend(authorization.iter().map(|value| ("authorization", *value)));
        all.extend_from_slice(more);
        send(gateway.public, "POST", path, &all, body.clone()).await.status.as_u16()
    };
    let query = format!("/mcp?access_token={}", tokens.access);
    assert_eq!(send_with("/mcp", &[&bearer], &[]).await, 200);
    assert_eq!(send_with("/mcp", &[&bearer.replace("Bearer", "bearer")], &[]).await, 200);
    let alone = send_with(&query, &[], &[]).await;
    assert_eq!(alone, 400);
    // Where it is also in the header, it is in the address none the less, and in somebody's log by now.
    assert_eq!(send_with(&query, &[&bearer], &[]).await, 400);
    for (path, authorization, more) in [
        ("/mcp", vec![bearer.as_str(), bearer.as_str()], vec![]),
        ("/mcp", vec![bearer.as_str(), "Bearer x"], vec![]),
        ("/mcp", vec!["Bearer x", bearer.as_str()], vec![]),
        ("/mcp", vec![], vec![("x-portcullis-key", tokens.access.as_str())]),
        ("/mcp", vec![], vec![("cookie", bearer.as_str())]),
        ("/mcp", vec!["Basic x"], vec![]),
    ] {
        assert_eq!(send_with(path, &authorization, &more).await, 401, "{authorization:?} {more:?}");
    }
    for broken in ["Bearer", "Bearer ", "Token x", "Bearer a b"] {
        assert_eq!(send_with("/mcp", &[broken], &[]).await, 401, "{broken}");
    }
    let dpop = bearer.replace("Bearer", "DPoP");
    assert_eq!(send_with("/mcp", &[&dpop], &[]).await, 401, "it is bound to no key");
}
