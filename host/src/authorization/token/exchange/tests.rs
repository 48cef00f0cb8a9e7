//! What comes of a code: rows T1, T2 and A4 of the threat checklist.

use std::time::Duration;

use tokio::task::JoinSet;

use super::super::super::testing::*;
use super::*;
use crate::ids::{GuestId, Principal};
use crate::oauth::access::AccessLimits;
use crate::oauth::client::ClientOrigin;
use crate::oauth::grant::Gone;
use crate::oauth::request::Mismatch;
use crate::oauth::token::AccessToken;
use crate::store::clients::{self, Authority};
use crate::store::grants::{self, Of};

fn verified(scene: &Scene, issued: &Issued) -> AccessToken {
    let signing = &scene.server.signing;
    signing.verifier().verify(issued.access_token.expose(), scene.now(), signing.epoch()).unwrap()
}

async fn present(scene: &Scene, client: &str, request: Exchange) -> Result<Issued, Refused> {
    let client = scene.client(client).await;
    exchange(&scene.server, &client, request).await.unwrap()
}

async fn grants_of(scene: &Scene) -> Vec<grants::Listed> {
    grants::list(&scene.server.store, Of::All, None, 100).await.unwrap().items
}

#[tokio::test]
async fn a_code_gives_an_access_token_and_a_refresh_token() {
    let scene = Scene::new().await;
    let issued = scene.signed_in("public").await;
    assert_eq!((issued.is_bound, issued.life, issued.scopes.len()), (false, Duration::from_secs(600), 2));
    assert!(issued.refresh_token.as_ref().unwrap().expose().starts_with("pcr_"));
    let token = verified(&scene, &issued);
    assert_eq!((token.principal, token.client), (key("ci"), client_id("public")));
    assert_eq!((token.resources, token.scopes), (access().resources, access().scopes));
    let [grant] = &grants_of(&scene).await[..] else { panic!("one grant") };
    assert_eq!((&grant.grant.id, grant.end), (&token.grant, None));
    assert_eq!(scene.trail().await.last(), Some(&"grant.issued"));
}

#[tokio::test]
async fn t1_of_64_who_redeem_a_code_one_gets_tokens_and_they_are_revoked() {
    let scene = std::sync::Arc::new(Scene::new().await);
    let code = scene.code("public").await;
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        let (scene, code) = (scene.clone(), code.clone());
        clients.spawn(async move { scene.redeem("public", &code).await.map_err(|refused| format!("{refused:?}")) });
    }
    let answers = clients.join_all().await;
    let winners: Vec<&Issued> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(winners.len(), 1);
    let losers = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(losers.clone().all(|refused| refused.starts_with("Grant(")), "{:?}", losers.collect::<Vec<_>>());
    let [grant] = &grants_of(&scene).await[..] else { panic!("one grant") };
    assert_eq!(grant.end, Some(Gone::Revoked));
}

#[tokio::test]
async fn t1_another_client_burns_nothing_and_revokes_nothing() {
    let scene = Scene::new().await;
    let code = scene.code("public").await;
    let other = present(&scene, "other", with_code(&code)).await.unwrap_err();
    assert_eq!(other, Mismatch::Client.into());
    assert!(scene.redeem("public", &code).await.is_ok());
    assert_eq!(present(&scene, "other", with_code(&code)).await.unwrap_err(), Mismatch::Client.into());
    assert_eq!(grants_of(&scene).await[0].end, None);
    assert_eq!(scene.redeem("public", &code).await.unwrap_err(), Refused::Grant(NoGrant::Replayed));
    assert_eq!(grants_of(&scene).await[0].end, Some(Gone::Revoked));
}

#[tokio::test]
async fn t2_a_code_belongs_to_its_redirect_uri_and_resource_and_lives_a_minute() {
    let scene = Scene::new().await;
    let code = scene.code("public").await;
    let to = |redirect_uri: &str| Exchange { redirect_uri: redirect_uri.to_owned(), ..with_code(&code) };
    for redirect_uri in ["https://app.example/callback/", "https://app.example/callback?x", "https://evil.example/"] {
        assert_eq!(present(&scene, "public", to(redirect_uri)).await.unwrap_err(), Mismatch::RedirectUri.into());
    }
    let of = |resources: &[&str]| Exchange {
        resources: resources.iter().map(|resource| (*resource).to_owned()).collect(),
        ..with_code(&code)
    };
    for wanted in [&["https://gateway.example/mcp/files"][..], &["https://gateway.example/mcp", "https://evil.example"]]
    {
        assert_eq!(present(&scene, "public", of(wanted)).await.unwrap_err(), Refused::Resources);
    }
    let issued = present(&scene, "public", of(&["https://gateway.example/mcp/notes"])).await.unwrap();
    assert_eq!(verified(&scene, &issued).resources, resources(&["https://gateway.example/mcp/notes"]));

    let late = scene.code("public").await;
    scene.forward(Duration::from_secs(60));
    assert_eq!(scene.redeem("public", &late).await.unwrap_err(), Gone::Expired.into());
    let unknown = Plaintext::new("pcc_nobodys");
    assert_eq!(scene.redeem("public", &unknown).await.unwrap_err(), Gone::Unknown.into());
}

#[tokio::test]
async fn a4_a_code_is_burned_by_a_verifier_that_is_wrong_missing_or_none() {
    let scene = Scene::new().await;
    for verifier in [
        None,
        Some("x".repeat(43)),
        Some(String::new()),
        Some(VERIFIER[..42].to_owned()),
        Some("x".repeat(129)),
        Some(format!("{}=", &VERIFIER[..42])),
        Some(format!("{}é", &VERIFIER[..41])),
    ] {
        let code = scene.code("public").await;
        let wrong = Exchange { verifier: verifier.clone().map(Plaintext::new), ..with_code(&code) };
        assert_eq!(present(&scene, "public", wrong).await.unwrap_err(), Mismatch::Verifier.into(), "{verifier:?}");
        assert_eq!(scene.redeem("public", &code).await.unwrap_err(), Gone::Revoked.into(), "{verifier:?}");
        assert_eq!(scene.trail().await.last(), Some(&"code.burned"));
    }
    assert_eq!(grants_of(&scene).await, []);
}

#[tokio::test]
async fn who_opens_nothing_any_more_gets_nothing() {
    let scene = Scene::new().await;
    let code = scene.code("public").await;
    scene.publish(|snapshot| snapshot.keys = Default::default());
    assert_eq!(scene.redeem("public", &code).await.unwrap_err(), Refused::Grant(NoGrant::Principal));
    let guest = Principal::Guest(GuestId::generate(&scene.server.env));
    let code = scene.code_of("public", guest.clone(), access()).await;
    assert_eq!(scene.redeem("public", &code).await.unwrap_err(), Refused::Grant(NoGrant::Principal));
    scene.publish(|snapshot| {
        let auth = crate::config::Auth { guests: true, ..crate::config::Auth::clone(&snapshot.auth) };
        snapshot.auth = std::sync::Arc::new(auth);
    });
    assert!(scene.redeem("public", &code).await.is_ok(), "the code was not used up");
    let person = Principal::User(scene.person("ada@example.com").await);
    let code = scene.code_of("public", person, access()).await;
    assert!(scene.redeem("public", &code).await.is_ok());
}

#[tokio::test]
async fn a_client_gets_what_it_is_registered_for() {
    let scene = Scene::new().await;
    let code = scene.code("public").await;
    let mut client = scene.client("public").await;
    client.metadata.grant_types = vec![GrantType::RefreshToken];
    let refused = exchange(&scene.server, &client, with_code(&code)).await.unwrap();
    assert_eq!(refused.unwrap_err(), Refused::GrantType);
    client.metadata.grant_types = vec![GrantType::AuthorizationCode];
    let issued = exchange(&scene.server, &client, with_code(&code)).await.unwrap().unwrap();
    assert!(issued.refresh_token.is_none());
    let grant = grants_of(&scene).await.remove(0).grant;
    assert_eq!(
        grant.until,
        scene.now().after(issued.life),
        "a grant that cannot be refreshed lives as long as its token"
    );
}

#[tokio::test]
async fn a_client_of_the_configuration_needs_no_registration() {
    let scene = Scene::new().await;
    let client = configured(scene.client("public").await);
    let code = scene.code("public").await;
    clients::delete(&scene.server.store, &client.id, Authority::Operator, operator()).await.unwrap();
    scene.forward(Duration::from_millis(1));
    let registered = KnownClient { origin: ClientOrigin::Registered, ..client.clone() };
    let gone = exchange(&scene.server, &registered, with_code(&code)).await.unwrap();
    assert_eq!(gone.unwrap_err(), Gone::Revoked.into(), "the deletion has revoked the consent");
    let code = scene.code("public").await;
    assert!(exchange(&scene.server, &client, with_code(&code)).await.unwrap().is_ok());
}

#[tokio::test]
async fn what_policies_took_away_is_not_in_the_token() {
    let scene = Scene::new().await;
    let limits = AccessLimits {
        tools: crate::identity::ToolScope::parse(&[vec!["notes/read_*".to_owned()]]).unwrap(),
        access_life: Some(Duration::from_secs(60)),
        claims: Some(r#"{"department":"lab"}"#.into()),
        refresh_life: Some(Duration::from_secs(3_600)),
        sender_constrained: false,
    };
    let narrow = |limits| Access { limits, ..access() };
    let code = scene.code_of("public", key("ci"), narrow(limits.clone())).await;
    let issued = scene.redeem("public", &code).await.unwrap();
    let token = verified(&scene, &issued);
    assert_eq!((issued.life, &token.tools), (Duration::from_secs(60), &limits.tools));
    assert_eq!(token.claims.as_deref(), Some(r#"{"department":"lab"}"#));
    assert_eq!(token.expires, scene.now().after(Duration::from_secs(60)));
    assert_eq!(grants_of(&scene).await[0].grant.until, scene.now().after(Duration::from_secs(3_600)));

    let none = AccessLimits { refresh_life: Some(Duration::ZERO), ..AccessLimits::default() };
    let code = scene.code_of("public", key("ci"), narrow(none)).await;
    assert!(scene.redeem("public", &code).await.unwrap().refresh_token.is_none());

    let bound = AccessLimits { sender_constrained: true, ..AccessLimits::default() };
    let code = scene.code_of("public", key("ci"), narrow(bound)).await;
    assert_eq!(scene.redeem("public", &code).await.unwrap_err(), Refused::ProofNeeded);
}

#[tokio::test]
async fn a_token_that_would_say_too_much_is_refused_and_costs_no_code() {
    let scene = Scene::new().await;
    let tools = (0..200).map(|number| format!("some-upstream/some_tool_with_a_long_name_{number:03}")).collect();
    let tools = crate::identity::ToolScope::parse(&[tools]).unwrap();
    let access = Access { limits: AccessLimits { tools, ..AccessLimits::default() }, ..access() };
    let code = scene.code_of("public", key("ci"), access).await;
    for _ in 0..2 {
        assert_eq!(scene.redeem("public", &code).await.unwrap_err(), Refused::TooLarge);
    }
    assert_eq!(grants_of(&scene).await, []);
}
