//! Tokens that an authorization server gives for what the gateway vouches for: nobody connects anything.

use futures_util::future::join_all;
use portcullis_tests::oauth::client::{claims, header};
use portcullis_tests::oauth::{Client, Tokens};
use portcullis_tests::upstreams::gated::{CLIENT, SECRET};

use super::*;
use crate::oauth::{Who, add_person, client_of, sign_in_as};

/// `mail` takes the gateway's word for people, by their logins.
async fn scene() -> (Gated, Gateway) {
    let mail = Gated::by_exchange().await;
    let section = format!(
        "[auth]\nguests = true\n[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"token-exchange\"\n\
         issuer = \"{}\"\nclient_id = \"{CLIENT}\"\nclient_secret = \"file:mail.secret\"\nsubject = \"login\"\nclaims = [\"name\"]\n",
        mail.url,
        mail.origin()
    );
    let builder = Gateway::builder().section(&section).file("mail.secret", SECRET.as_bytes());
    let gateway = builder.key("alice").start().await;
    mail.trust(gateway.public);
    gateway.until_upstreams_are_up().await;
    for login in ["ann", "ben"] {
        add_person(&gateway, login).await;
    }
    (mail, gateway)
}

async fn signed_in(gateway: &Gateway, who: Who) -> (Client, Tokens) {
    let client = client_of(gateway).await;
    let tokens = sign_in_as(gateway, &client, who).await;
    (client, tokens)
}

#[tokio::test]
async fn a_person_who_has_signed_in_is_known_upstream_and_asked_for_nothing() {
    let (mail, gateway) = scene().await;
    let (client, tokens) = signed_in(&gateway, Who::Person("ann")).await;
    let ann = client.caller(&tokens.access);
    let replies = join_all((0..16).map(|_| ann.call("mail__whoami", json!({})))).await;
    for reply in replies {
        let seen = whoami(&reply);
        assert!(seen.contains("Bearer access-of-ann-"), "{seen}");
    }
    assert_eq!(mail.assertions().len(), 1, "one exchange for all");
    let (ben_client, ben) = signed_in(&gateway, Who::Person("ben")).await;
    let seen = whoami(&ben_client.caller(&ben.access).call("mail__whoami", json!({})).await);
    assert!(seen.contains("Bearer access-of-ben-") && !seen.contains("access-of-ann"), "{seen}");
    assert!(!mail.seen().join("\n").contains(&tokens.access), "the caller's own token went along");
    assert_eq!(connections(&gateway, "upstream=mail").await, Vec::<Value>::new(), "nothing is stored");

    let said = claims(&mail.assertions()[0]);
    assert_eq!((&said["sub"], &said["name"], &said["groups"]), (&json!("ann"), &json!("ann"), &Value::Null), "{said}");
    assert_eq!(said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(), 60);
}

#[tokio::test]
async fn t5_what_the_gateway_says_of_somebody_opens_nothing_at_the_gateway() {
    let (mail, gateway) = scene().await;
    let (client, tokens) = signed_in(&gateway, Who::Person("ann")).await;
    whoami(&client.caller(&tokens.access).call("mail__whoami", json!({})).await);
    let assertion = mail.assertions().pop().unwrap();
    assert_eq!(header(&assertion)["typ"], "JWT");
    assert_eq!(header(&assertion)["kid"], header(&tokens.access)["kid"], "the same key has signed both");
    let reply = client.caller(&assertion).modern("tools/list", json!({})).await;
    assert_eq!(reply.status, 401, "{}", reply.text());
}

#[tokio::test]
async fn keys_and_guests_are_nobody_that_could_be_vouched_for() {
    let (mail, gateway) = scene().await;
    let (client, guest) = signed_in(&gateway, Who::Guest).await;
    for caller in [gateway.caller("alice"), client.caller(&guest.access)] {
        let lacking = missing(&caller.call("mail__whoami", json!({})).await);
        assert_eq!(
            (&lacking["kind"], &lacking["state"]),
            (&json!("token-exchange"), &json!("no_identity")),
            "{lacking}"
        );
        assert_eq!(lacking["url"], Value::Null, "there is nothing to connect");
    }
    assert_eq!(mail.assertions(), Vec::<String>::new());
}

#[tokio::test]
async fn u8_a_refusal_is_clear_and_not_asked_for_again_at_once_and_a_fault_is_not_one() {
    let (mail, gateway) = scene().await;
    let (client, tokens) = signed_in(&gateway, Who::Person("ann")).await;
    let ann = client.caller(&tokens.access);
    mail.deny(Some("access_denied"));
    for _ in 0..3 {
        let reply = ann.call("mail__whoami", json!({})).await;
        let lacking = missing(&reply);
        assert_eq!(
            (&lacking["state"], &lacking["reason"], &lacking["url"]),
            (&json!("exchange_refused"), &json!("access_denied"), &Value::Null),
            "{lacking}"
        );
        assert!(!reply.text().contains("LEAK"), "{}", reply.text());
    }
    assert_eq!(mail.assertions().len(), 1);

    mail.deny(None);
    mail.set_down(true);
    let (client, tokens) = signed_in(&gateway, Who::Person("ben")).await;
    let ben = client.caller(&tokens.access);
    let reply = ben.call("mail__whoami", json!({})).await;
    assert_eq!(reply.json()["error"]["data"]["reason"], "credential_unavailable", "{}", reply.text());
    mail.set_down(false);
    gateway.clock.advance(std::time::Duration::from_secs(20));
    assert!(whoami(&ben.call("mail__whoami", json!({})).await).contains("access-of-ben-"));
}
