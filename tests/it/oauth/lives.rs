//! Taking back: revocation by clients (T9), people and operators, felt by the next request; guests who are turned off; a store
//! that is restored (H14).

use std::time::Duration;

use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, Tokens};
use serde_json::{Value, json};

use super::{
    EVERYBODY, Who, client_of, invalid_grant, is_let_in, refusal, scene, scene_with, sign_in, sign_in_as, signed_in,
};

#[tokio::test]
async fn t9_a_client_takes_back_its_own_tokens_and_no_others() {
    let (_up, gateway) = scene().await;
    let (client, tokens) = signed_in(&gateway).await;
    let other = client_of(&gateway).await;

    // Another client's, unknown and malformed tokens: 200, and nothing happens.
    for token in [tokens.refresh.as_str(), tokens.access.as_str(), "pcr_nothing", "no token", "a.b.c"] {
        assert_eq!(other.revoke(token).await.status, 200, "{token}");
    }
    assert!(is_let_in(&client, &tokens.access).await);
    let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);

    // An access token alone: the grant goes on.
    assert_eq!(client.revoke(&renewed.access).await.status, 200);
    assert!(!is_let_in(&client, &renewed.access).await);
    assert!(is_let_in(&client, &tokens.access).await);
    let renewed = Tokens::of(&client.refresh(&renewed.refresh).await);
    assert!(is_let_in(&client, &renewed.access).await);

    // A refresh token: everything that came of the grant. The same once more is no mistake.
    for _ in 0..2 {
        assert_eq!(client.revoke(&renewed.refresh).await.status, 200);
    }
    assert!(!is_let_in(&client, &renewed.access).await && !is_let_in(&client, &tokens.access).await);
    assert_eq!(refusal(&client.refresh(&renewed.refresh).await), invalid_grant());

    let unknown = client.post("revocation_endpoint", &[]).await;
    assert_eq!(refusal(&unknown), (400, "invalid_request".to_owned()));
}

/// The hint may be wrong (RFC 7009 § 2.1).
#[tokio::test]
async fn t9_a_wrong_hint_is_no_obstacle() {
    let (_up, gateway) = scene().await;
    let (client, tokens) = signed_in(&gateway).await;
    let fields = [("token", tokens.refresh.clone()), ("token_type_hint", "access_token".to_owned())];
    assert_eq!(client.post("revocation_endpoint", &fields).await.status, 200);
    assert!(!is_let_in(&client, &tokens.access).await);
}

/// The id of the newest grant.
async fn grant(gateway: &portcullis_tests::Gateway) -> String {
    let grants = gateway.operator("GET", "/api/v1/grants?state=active", None).await.json();
    grants["grants"][0]["id"].as_str().unwrap_or_else(|| panic!("{grants}")).to_owned()
}

#[tokio::test]
async fn an_operator_ends_grants() {
    let (_up, gateway) = scene().await;
    for who in EVERYBODY {
        let client = client_of(&gateway).await;
        let tokens = sign_in_as(&gateway, &client, who).await;
        assert!(is_let_in(&client, &tokens.access).await);
        let path = format!("/api/v1/grants/{}", grant(&gateway).await);
        assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204, "{who:?}");
        assert!(!is_let_in(&client, &tokens.access).await, "{who:?}");
        assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant(), "{who:?}");
        // Gone is gone, and what never was is not there either.
        assert_eq!(gateway.operator("DELETE", &path, None).await.status, 404, "{who:?}");
    }
    let never = "/api/v1/grants/00000000000000000000000000000000";
    assert_eq!(gateway.operator("DELETE", never, None).await.status, 404);
}

#[tokio::test]
async fn a_running_session_ends_with_its_grant() {
    let (_up, gateway) = scene().await;
    let (client, tokens) = signed_in(&gateway).await;
    let session = client.caller(&tokens.access).initialize("2025-11-25").await;
    assert_eq!(session.request("tools/list", json!({})).await.status, 200);
    client.revoke(&tokens.refresh).await;
    assert_eq!(session.request("tools/list", json!({})).await.status, 401);
}

#[tokio::test]
async fn guests_who_are_turned_off_are_refused_and_restored() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let guest = sign_in_as(&gateway, &client, Who::Guest).await;
    let ann = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    let reload = async |text: &str| {
        gateway.replace("portcullis.toml", text.as_bytes());
        let reloaded = gateway.operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
        assert!(reloaded.status.is_success(), "{}", reloaded.text());
    };
    reload(&text.replace("guests = true", "guests = false")).await;
    assert!(!is_let_in(&client, &guest.access).await);
    assert!(is_let_in(&client, &ann.access).await);
    reload(&text).await;
    assert!(is_let_in(&client, &guest.access).await);
}

/// H14: what was given out after the backup was made, and what was taken back since, is not good again after a restore.
#[tokio::test]
async fn h14_tokens_from_before_a_restore_are_worth_nothing() {
    use portcullis_tests::clock::TestClock;
    use portcullis_tests::upstreams::fixture::Fixture;
    let up = Fixture::start().await;
    // The command that restores has the machine's clock.
    let clock = TestClock::default();
    let behind = portcullis::Env::system().now().as_millis() - clock.env().now().as_millis();
    clock.advance(Duration::from_millis(behind));
    let address = portcullis_tests::free_address().await.unwrap();
    let settings = || super::gateway_with(&up, "").on_disk().at(address);
    let gateway = settings().try_start(tempfile::TempDir::new().unwrap(), clock.clone()).await.unwrap();
    gateway.wait_until_ready().await;
    super::add_person(&gateway, "ann").await;
    let (client, before) = signed_in(&gateway).await;
    let (revoked_client, revoked) = signed_in(&gateway).await;
    let run = async |dir: &std::path::Path, arguments: &[&str]| {
        let done = crate::cli::run_in(dir, arguments).await;
        assert_eq!(done.code, Some(0), "{arguments:?}: {}", done.stderr);
    };
    run(gateway.dir.path(), &["backup", "store.dump"]).await;
    revoked_client.revoke(&revoked.refresh).await;
    let after = Tokens::of(&client.refresh(&before.refresh).await);
    let dir = gateway.stop().await;
    run(dir.path(), &["restore", "store.dump", "--into", "redb:data/portcullis.redb", "--replace"]).await;

    let gateway = settings().try_start(dir, clock).await.unwrap();
    gateway.wait_until_ready().await;
    gateway.clock.advance(portcullis_tests::gateway::SOON);
    for (what, client, tokens) in
        [("before", &client, &before), ("after", &client, &after), ("revoked", &revoked_client, &revoked)]
    {
        assert!(!is_let_in(client, &tokens.access).await, "{what}");
        assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant(), "{what}");
    }
    // The client and the account are still there.
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    assert!(is_let_in(&client, &tokens.access).await);
}

#[tokio::test]
async fn a_person_ends_their_own_grants_and_sees_nobody_elses() {
    let (_up, gateway) = scene_with("").await;
    super::add_person(&gateway, "ben").await;
    let (client, tokens) = signed_in(&gateway).await;
    let anns = grant(&gateway).await;
    let (mut ann, mut ben) = (Browser::new(gateway.public), Browser::new(gateway.public));
    for (browser, login) in [(&mut ann, "ann"), (&mut ben, "ben")] {
        let page = browser.get("/sign-in").await;
        sign_in(browser, &page, login, super::PASSWORD).await;
    }
    let (anns_page, bens_page) = (ann.get("/account").await, ben.get("/account").await);
    assert!(bens_page.find("/revoke").is_none(), "{bens_page}");
    let form = anns_page.form("/revoke");
    assert!(form.action.contains(&anns), "{anns_page}");
    // Ben with ann's form: there is no such thing of his.
    let (_, refused) = ben.submit_once(&form).await;
    assert_eq!(refused.status, 404);
    assert!(is_let_in(&client, &tokens.access).await);
    let page = ann.submit(&form).await;
    assert_eq!(page.status(), 200, "{page}");
    assert!(!is_let_in(&client, &tokens.access).await);
    assert!(page.find("/revoke").is_none(), "{page}");
}

/// What the admin API shows of grants, and to whom.
#[tokio::test]
async fn grants_are_listed_without_secrets() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut secrets = Vec::new();
    for who in EVERYBODY {
        let tokens = sign_in_as(&gateway, &client, who).await;
        secrets.extend([tokens.access, tokens.refresh]);
    }
    let answer = gateway.operator("GET", "/api/v1/grants?limit=2", None).await;
    let first: Value = answer.json();
    let cursor = first["next_cursor"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned();
    let rest = gateway.operator("GET", &format!("/api/v1/grants?limit=2&cursor={cursor}"), None).await;
    assert_eq!(first["grants"].as_array().unwrap().len() + rest.json()["grants"].as_array().unwrap().len(), 3);
    for secret in secrets {
        assert!(!answer.text().contains(&secret) && !rest.text().contains(&secret));
    }
    // A stranger at the admin listener, with a token of ours that is good at /mcp.
    let (client, tokens) = signed_in(&gateway).await;
    assert!(is_let_in(&client, &tokens.access).await);
    for credential in [None, Some(format!("Bearer {}", tokens.access))] {
        let mut headers = vec![("accept", "application/json")];
        headers.extend(credential.as_deref().map(|value| ("authorization", value)));
        assert_eq!(send(gateway.admin, "GET", "/api/v1/grants", &headers, "").await.status, 401);
    }
}
