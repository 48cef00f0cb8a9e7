//! Refresh tokens: the state machine that `docs/authorization.md` tells, from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis_tests::oauth::{Client, Connection, Tokens};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    AFTER_GRACE, Who, audited, client_of, invalid_grant, is_let_in, refusal, scene, scene_with, sign_in_as, signed_in,
};

const RACERS: usize = 64;

/// All of them at once, each on a connection that has been used before.
async fn race(client: &Client, refresh: &str) -> Vec<portcullis_tests::Reply> {
    let mut connections = Vec::new();
    for _ in 0..RACERS {
        let mut connection = Connection::open(client.address).await;
        assert_eq!(connection.send("GET", "/readyz", &[], "").await.status, 200);
        connections.push(connection);
    }
    let mut racers = JoinSet::new();
    for mut connection in connections {
        let (client, fields) = (client.clone(), client.refreshing(refresh));
        racers.spawn(async move { client.token_on(&mut connection, &fields).await });
    }
    racers.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_refreshes_at_once_all_get_the_same_successor() {
    let (_up, gateway) = scene_with("[auth.tokens]\nrefresh_replays = 200").await;
    let (client, tokens) = signed_in(&gateway).await;
    let replies = race(&client, &tokens.refresh).await;
    let given: Vec<Tokens> = replies.iter().map(Tokens::of).collect();
    let successors: BTreeSet<&str> = given.iter().map(|tokens| tokens.refresh.as_str()).collect();
    assert_eq!(successors.len(), 1, "one chain");
    for tokens in &given {
        assert!(is_let_in(&client, &tokens.access).await);
    }
    // The chain goes on from there.
    let next = Tokens::of(&client.refresh(&given[0].refresh).await);
    assert!(is_let_in(&client, &next.access).await && is_let_in(&client, &tokens.access).await);
    // One line for the token, however often it came back.
    assert_eq!(audited(&gateway, "refresh.replayed").await.len(), 1);

    // After the grace the first token is a stolen one, and everything ends at once.
    gateway.clock.advance(AFTER_GRACE);
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant());
    for token in [&given[0].access, &next.access] {
        assert!(!is_let_in(&client, token).await);
    }
    assert_eq!(refusal(&client.refresh(&next.refresh).await), invalid_grant());
}

#[tokio::test]
async fn a_token_whose_answer_was_lost_is_given_again_within_the_grace() {
    let (_up, gateway) = scene().await;
    let (client, first) = signed_in(&gateway).await;
    let second = Tokens::of(&client.refresh(&first.refresh).await);
    gateway.clock.advance(Duration::from_secs(29));
    assert_eq!(Tokens::of(&client.refresh(&first.refresh).await).refresh, second.refresh);
    // Any ancestor whose own grace runs leads to the head.
    let third = Tokens::of(&client.refresh(&second.refresh).await);
    assert_eq!(Tokens::of(&client.refresh(&first.refresh).await).refresh, third.refresh);
    assert_eq!(Tokens::of(&client.refresh(&second.refresh).await).refresh, third.refresh);
    gateway.clock.advance(Duration::from_secs(2));
    // The first one's grace is over, the second one's is not.
    assert_eq!(Tokens::of(&client.refresh(&second.refresh).await).refresh, third.refresh);
    assert_eq!(refusal(&client.refresh(&first.refresh).await), invalid_grant());
    assert_eq!(refusal(&client.refresh(&third.refresh).await), invalid_grant());
    assert!(!is_let_in(&client, &third.access).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_grace_a_token_counts_once() {
    let (_up, gateway) = scene_with("[auth.tokens]\nrefresh_grace = \"0s\"").await;
    let (client, first) = signed_in(&gateway).await;
    let second = Tokens::of(&client.refresh(&first.refresh).await);
    assert!(is_let_in(&client, &second.access).await);
    assert_eq!(refusal(&client.refresh(&first.refresh).await), invalid_grant());
    assert_eq!(refusal(&client.refresh(&second.refresh).await), invalid_grant());
    assert!(!is_let_in(&client, &second.access).await);

    // And of many at once, one.
    let (client, tokens) = signed_in(&gateway).await;
    let replies = race(&client, &tokens.refresh).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1);
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!(refusal(reply), invalid_grant());
    }
}

#[tokio::test]
async fn a_grace_has_a_number_of_replays() {
    let (_up, gateway) = scene_with("[auth.tokens]\nrefresh_replays = 3").await;
    let (client, first) = signed_in(&gateway).await;
    let second = Tokens::of(&client.refresh(&first.refresh).await);
    for _ in 0..3 {
        assert_eq!(Tokens::of(&client.refresh(&first.refresh).await).refresh, second.refresh);
    }
    assert_eq!(refusal(&client.refresh(&first.refresh).await), invalid_grant());
}

/// What does not fit changes nothing: nobody ends a grant with a token that is not theirs.
#[tokio::test]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (_up, gateway) = scene().await;
    let (client, first) = signed_in(&gateway).await;
    let second = Tokens::of(&client.refresh(&first.refresh).await);
    gateway.clock.advance(AFTER_GRACE);
    let other = client_of(&gateway).await;
    // A stranger's replay of a used token, and of the one that counts.
    assert_eq!(refusal(&other.refresh(&first.refresh).await), invalid_grant());
    assert_eq!(refusal(&other.refresh(&second.refresh).await), invalid_grant());
    let with = |name: &'static str, value: &str| {
        let mut fields = client.refreshing(&second.refresh);
        fields.retain(|(known, _)| *known != name);
        fields.push((name, value.to_owned()));
        fields
    };
    let wider = format!("{} everything", second.scope);
    for (fields, error) in [
        (with("scope", &wider), "invalid_scope"),
        (with("scope", "everything"), "invalid_scope"),
        (with("resource", "https://elsewhere.example/mcp"), "invalid_target"),
        (with("resource", &format!("{}/none", client.resource())), "invalid_target"),
        (with("refresh_token", "pcr_nothing"), "invalid_grant"),
        (with("refresh_token", &second.access), "invalid_grant"),
    ] {
        assert_eq!(refusal(&client.token(&fields).await), (400, error.to_owned()), "{fields:?}");
    }
    let third = Tokens::of(&client.refresh(&second.refresh).await);
    assert!(is_let_in(&client, &third.access).await);
}

#[tokio::test]
async fn a_grant_ends_when_it_is_idle_and_when_it_is_old() {
    let settings = "[auth.tokens]\nrefresh_idle = \"2h\"\nrefresh_life = \"5h\"";
    let (_up, gateway) = scene_with(settings).await;
    let client = client_of(&gateway).await;
    let idle = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let mut kept = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    for _ in 0..4 {
        gateway.clock.advance(Duration::from_secs(3_600));
        kept = Tokens::of(&client.refresh(&kept.refresh).await);
    }
    assert_eq!(refusal(&client.refresh(&idle.refresh).await), invalid_grant());
    // Nothing slides past the end of its life.
    gateway.clock.advance(Duration::from_secs(3_500));
    let last = Tokens::of(&client.refresh(&kept.refresh).await);
    gateway.clock.advance(Duration::from_secs(101));
    assert_eq!(refusal(&client.refresh(&last.refresh).await), invalid_grant());
}

/// Who is gone refreshes nothing, and gets nothing with what was given before.
#[tokio::test]
async fn who_is_gone_is_refused_at_once_everywhere() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let ann = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let key = gateway
        .operator(
            "POST",
            "/api/v1/keys",
            Some(json!({ "name": "drawn", "allow": [{ "upstream": "*", "tools": ["*"] }] })),
        )
        .await
        .json();
    let begun = client.begin();
    let mut browser = portcullis_tests::oauth::Browser::new(gateway.public);
    let page = super::arrive(&mut browser, &begun).await;
    let form = super::identity(&page, Who::Key("alice")).with("key", key["secret"].as_str().unwrap());
    let page = browser.submit(&form).await;
    let page = browser.submit(&page.form("/finish")).await;
    let drawn = Tokens::of(&client.redeem(&begun, &client.code(&begun, &page.url)).await);
    assert!(is_let_in(&client, &ann.access).await && is_let_in(&client, &drawn.access).await);

    let gone = gateway.operator("DELETE", "/api/v1/keys/drawn", None).await;
    assert!(gone.status.is_success(), "{}", gone.text());
    assert!(!is_let_in(&client, &drawn.access).await);
    assert_eq!(refusal(&client.refresh(&drawn.refresh).await), invalid_grant());
    assert!(is_let_in(&client, &ann.access).await);

    let users = gateway.operator("GET", "/api/v1/users", None).await.json();
    let user = users["users"].as_array().unwrap().iter().find(|user| user["login"] == "ann").unwrap().clone();
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    let gone = gateway.operator("DELETE", &path, None).await;
    assert!(gone.status.is_success(), "{}", gone.text());
    assert!(!is_let_in(&client, &ann.access).await);
    assert_eq!(refusal(&client.refresh(&ann.refresh).await), invalid_grant());
}
