//! Row A20 of the threat checklist.

use super::super::super::testing::*;
use super::*;
use crate::store::authorizations::{Pushed, take_pushed};

/// A request that could be answered, with this.
fn request(more: &str) -> String {
    let redirect: String = form_urlencoded::byte_serialize(REDIRECT.as_bytes()).collect();
    format!(
        "response_type=code&redirect_uri={redirect}&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM\
         &code_challenge_method=S256&{more}"
    )
}

#[tokio::test]
async fn a20_a_reference_is_for_its_client_for_a_minute_and_once() {
    let scene = Scene::new().await;
    let client = scene.client("public").await;
    let kept = async |text: &str| match keep(&scene.server, &client, request(text)).await.unwrap() {
        Pushing::Kept(reference) => reference,
        other => panic!("{other:?}"),
    };
    let take = async |reference: &Plaintext, client: &str| {
        take_pushed(&scene.server.store, reference.digest(), &client_id(client)).await.unwrap()
    };
    let one = kept("state=x").await;
    assert!(one.expose().starts_with(PREFIX) && one.expose().len() == PREFIX.len() + 43);
    assert_eq!(take(&one, "other").await, Pushed::WrongClient);
    assert_eq!(take(&one, "public").await, Pushed::Taken(request("state=x")));
    assert_eq!(take(&one, "public").await, Pushed::Gone);
    let late = kept("state=y").await;
    scene.forward(LIFE);
    assert_eq!(take(&late, "public").await, Pushed::Gone);
    let large = keep(&scene.server, &client, "x".repeat(20_000)).await.unwrap();
    assert!(matches!(large, Pushing::TooLarge));
}

#[tokio::test]
async fn a20_what_could_not_be_answered_is_not_kept() {
    let scene = Scene::new().await;
    let client = scene.client("public").await;
    for (text, expected) in [
        (request("scope=nope"), Check::Scope),
        (request("resource=https%3A%2F%2Fevil.example"), Check::Resource),
        (request("state=x&state=y"), Check::Repeated("state".to_owned())),
        (request("").replace("callback", "other"), Check::RedirectUri),
        (request("").replace("S256", "plain"), Check::Challenge),
        ("state=x".to_owned(), Check::RedirectUri),
    ] {
        match keep(&scene.server, &client, text.clone()).await.unwrap() {
            Pushing::Refused(check) => assert_eq!(check, expected, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}
