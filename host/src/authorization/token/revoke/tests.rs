//! Row T9 of the threat checklist.

use super::super::super::testing::*;
use super::*;
use crate::store::grants::{Listed, Of};
use crate::store::revocations::denied_of;

async fn grant(scene: &Scene) -> Listed {
    grants::list(&scene.server.store, Of::All, None, 1).await.unwrap().items.remove(0)
}

#[tokio::test]
async fn t9_a_refresh_token_takes_its_family_with_it() {
    let scene = Scene::new().await;
    let token = scene.signed_in("public").await.refresh_token.unwrap();
    revoke(&scene.server, &scene.client("other").await, &token).await.unwrap();
    assert_eq!(grant(&scene).await.end, None, "another client's wish has no effect");
    revoke(&scene.server, &scene.client("public").await, &token).await.unwrap();
    assert!(grant(&scene).await.end.is_some());
    revoke(&scene.server, &scene.client("public").await, &token).await.unwrap();
    revoke(&scene.server, &scene.client("public").await, &Plaintext::new("pcr_nobodys")).await.unwrap();
    assert_eq!(scene.trail().await.iter().filter(|name| **name == "grant.revoked").count(), 1);
}

#[tokio::test]
async fn t9_an_access_token_goes_alone() {
    let scene = Scene::new().await;
    let token = scene.signed_in("public").await.access_token;
    let id = grant(&scene).await.grant.id;
    revoke(&scene.server, &scene.client("other").await, &token).await.unwrap();
    assert_eq!(denied_of(&scene.server.store, &id).await.unwrap(), []);
    revoke(&scene.server, &scene.client("public").await, &token).await.unwrap();
    let signing = &scene.server.signing;
    let said = signing.verifier().verify(token.expose(), scene.now(), signing.epoch()).unwrap();
    let denied = denied_of(&scene.server.store, &id).await.unwrap();
    assert_eq!(denied.len(), 1);
    assert_eq!(denied[0].token, Some(Digest::of(said.id.as_str().as_bytes()).to_hex()));
    assert_eq!(grant(&scene).await.end, None);
}
