//! Row T10 of the threat checklist.

use std::time::Duration;

use super::super::super::testing::*;
use super::super::revoke::revoke;
use super::*;
use crate::oauth::client::Authentication;

async fn ask(scene: &Scene, client: &str, token: &Plaintext) -> Introspection {
    introspect(&scene.server, &scene.client(client).await, token).await.unwrap()
}

fn active(introspection: Introspection) -> Active {
    match introspection {
        Introspection::Active(active) => *active,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn t10_a_client_knows_its_own_tokens_and_no_others() {
    let scene = Scene::new().await;
    let secret = Authentication::SecretBasic(Plaintext::new(SECRET).digest());
    scene.register("stranger", secret).await;
    let issued = scene.signed_in("app").await;
    let refresh = issued.refresh_token.unwrap();
    let access_token = active(ask(&scene, "app", &issued.access_token).await);
    assert_eq!((access_token.client, access_token.principal), (client_id("app"), key("ci")));
    assert_eq!(access_token.expires, scene.now().after(Duration::from_secs(600)));
    assert!(matches!(access_token.kind, Kind::Access(_)));
    assert_eq!(active(ask(&scene, "app", &refresh).await).kind, Kind::Refresh);
    for token in [&issued.access_token, &refresh] {
        assert_eq!(ask(&scene, "stranger", token).await, Introspection::Inactive);
        assert_eq!(ask(&scene, "public", token).await, Introspection::Public);
    }
    assert_eq!(ask(&scene, "app", &Plaintext::new("x")).await, Introspection::Inactive);
}

#[tokio::test]
async fn t10_what_counts_no_more_is_not_active() {
    let scene = Scene::new().await;
    let app = scene.client("app").await;
    let issued = scene.signed_in("app").await;
    revoke(&scene.server, &app, &issued.access_token).await.unwrap();
    assert_eq!(ask(&scene, "app", &issued.access_token).await, Introspection::Inactive);
    let refresh = issued.refresh_token.unwrap();
    assert!(matches!(ask(&scene, "app", &refresh).await, Introspection::Active(_)));
    revoke(&scene.server, &app, &refresh).await.unwrap();
    assert_eq!(ask(&scene, "app", &refresh).await, Introspection::Inactive);

    let issued = scene.signed_in("app").await;
    scene.publish(|snapshot| snapshot.keys = Default::default());
    assert_eq!(ask(&scene, "app", &issued.access_token).await, Introspection::Inactive, "its key is gone");
    let person = Principal::User(scene.person("ada@example.com").await);
    let code = scene.code_of("app", person, access()).await;
    let issued = scene.redeem("app", &code).await.unwrap();
    assert!(matches!(ask(&scene, "app", &issued.access_token).await, Introspection::Active(_)));
    scene.forward(Duration::from_secs(600));
    assert_eq!(ask(&scene, "app", &issued.access_token).await, Introspection::Inactive, "it has expired");
}
