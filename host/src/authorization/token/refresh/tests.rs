//! The use of refresh tokens, from the client's side, as `docs/authorization.md` tells it.

use serde_json::json;
use tokio::task::JoinSet;

use super::super::super::testing::*;
use super::*;
use crate::audit::{AuditEvent, RecordedVerdict};
use crate::oauth::request::Mismatch;
use crate::oauth::token::AccessToken;
use crate::store::clients::{self, Authority};
use crate::store::grants::Of;

const SECOND: Duration = Duration::from_secs(1);

fn renewal(token: &Plaintext) -> Renewal {
    Renewal { token: token.clone(), scope: None, resources: Vec::new(), proof: None, from: From::default() }
}

async fn present(scene: &Scene, client: &str, request: Renewal) -> Result<Issued, Refused> {
    let client = scene.client(client).await;
    refresh(&scene.server, &client, request).await.unwrap()
}

/// The token that comes of one, for the client `public`.
async fn next(scene: &Scene, token: &Plaintext) -> Result<Plaintext, Refused> {
    present(scene, "public", renewal(token)).await.map(|issued| issued.refresh_token.unwrap())
}

async fn first(scene: &Scene) -> Plaintext {
    scene.signed_in("public").await.refresh_token.unwrap()
}

async fn grant(scene: &Scene) -> grants::Listed {
    grants::list(&scene.server.store, Of::All, None, 1).await.unwrap().items.remove(0)
}

fn verified(scene: &Scene, issued: &Issued) -> AccessToken {
    let signing = &scene.server.signing;
    signing.verifier().verify(issued.access_token.expose(), scene.now(), signing.epoch()).unwrap()
}

#[tokio::test]
async fn a_refresh_token_gives_the_next_one_and_a_fresh_access_token() {
    let scene = Scene::new().await;
    let issued = scene.signed_in("public").await;
    let one = issued.refresh_token.clone().unwrap();
    scene.forward(5 * SECOND);
    let again = present(&scene, "public", renewal(&one)).await.unwrap();
    assert!(again.refresh_token.as_ref().unwrap() != &one);
    let (before, after) = (verified(&scene, &issued), verified(&scene, &again));
    assert_eq!((&after.grant, &after.scopes, &after.resources), (&before.grant, &before.scopes, &before.resources));
    assert!(after.id != before.id && after.expires == scene.now().after(again.life));
    // The access tokens before it count on.
    assert_eq!(grant(&scene).await.end, None);
}

#[tokio::test]
async fn a_token_that_comes_back_in_its_grace_gets_the_head_however_far_it_is() {
    let scene = Scene::new().await;
    let one = first(&scene).await;
    let two = next(&scene, &one).await.unwrap();
    assert!(next(&scene, &one).await.unwrap() == two, "the head was never used");
    let three = next(&scene, &two).await.unwrap();
    let four = next(&scene, &three).await.unwrap();
    for token in [&one, &two, &three] {
        assert!(next(&scene, token).await.unwrap() == four, "an ancestor whose grace runs");
    }
    assert!(matches!(scene.last_event().await, AuditEvent::RefreshReplayed { .. }));
    let five = next(&scene, &four).await.unwrap();
    scene.forward(29 * SECOND);
    assert!(next(&scene, &four).await.unwrap() == five);
    assert_eq!(grant(&scene).await.end, None);
}

#[tokio::test]
async fn a_token_that_comes_back_after_its_grace_ends_the_family() {
    let scene = Scene::new().await;
    let one = first(&scene).await;
    let two = next(&scene, &one).await.unwrap();
    scene.forward(30 * SECOND);
    assert_eq!(next(&scene, &one).await.unwrap_err(), Refused::Grant(NoGrant::Replayed));
    assert_eq!(grant(&scene).await.end, Some(Gone::Revoked));
    assert_eq!(next(&scene, &two).await.unwrap_err(), Gone::Revoked.into());
    assert_eq!(scene.trail().await.last(), Some(&"grant.revoked"));
}

#[tokio::test]
async fn without_a_grace_a_token_is_good_once() {
    let scene = Scene::with(|auth| auth.tokens.grace = no_grace()).await;
    let one = first(&scene).await;
    let two = next(&scene, &one).await.unwrap();
    assert_eq!(next(&scene, &one).await.unwrap_err(), Refused::Grant(NoGrant::Replayed));
    assert_eq!(next(&scene, &two).await.unwrap_err(), Gone::Revoked.into());
}

#[tokio::test]
async fn of_64_who_refresh_one_token_all_get_one_successor() {
    let scene = Arc::new(Scene::new().await);
    let one = first(&scene).await;
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        let (scene, one) = (scene.clone(), one.clone());
        clients.spawn(async move { present(&scene, "public", renewal(&one)).await.unwrap() });
    }
    let answers = clients.join_all().await;
    let mut successors: Vec<String> =
        answers.iter().map(|issued| issued.refresh_token.as_ref().unwrap().expose().to_owned()).collect();
    successors.sort_unstable();
    successors.dedup();
    assert_eq!((answers.len(), successors.len()), (64, 1));
    let mut tokens: Vec<String> =
        answers.iter().map(|issued| verified(&scene, issued).id.as_str().to_owned()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 64, "each has an access token of its own");
    // One live chain.
    assert!(next(&scene, &Plaintext::new(successors.remove(0))).await.is_ok());
}

#[tokio::test]
async fn a_token_that_comes_back_too_often_is_refused_and_ends_nothing() {
    let scene = Scene::with(|auth| auth.tokens.grace = crate::oauth::grant::Grace::new(30 * SECOND, 2)).await;
    let one = first(&scene).await;
    let two = next(&scene, &one).await.unwrap();
    assert!(next(&scene, &one).await.is_ok() && next(&scene, &one).await.is_ok());
    assert_eq!(next(&scene, &one).await.unwrap_err(), Refused::Grant(NoGrant::TooOften));
    assert!(next(&scene, &two).await.is_ok());
}

#[tokio::test]
async fn what_does_not_belong_to_a_token_is_refused_and_ends_nothing() {
    let scene = Scene::new().await;
    let one = first(&scene).await;
    let two = next(&scene, &one).await.unwrap();
    scene.forward(60 * SECOND);
    let before = scene.trail().await;
    // The head, and a token whose reuse would end the family.
    for token in [&two, &one] {
        assert_eq!(present(&scene, "other", renewal(token)).await.unwrap_err(), Mismatch::Client.into());
        let wider = Renewal { scope: Some("mcp admin".to_owned()), ..renewal(token) };
        assert_eq!(present(&scene, "public", wider).await.unwrap_err(), Refused::Scopes);
        let none = Renewal { scope: Some("a\"b".to_owned()), ..renewal(token) };
        assert_eq!(present(&scene, "public", none).await.unwrap_err(), Refused::Scopes);
        let foreign = Renewal { resources: vec!["https://evil.example".to_owned()], ..renewal(token) };
        assert_eq!(present(&scene, "public", foreign).await.unwrap_err(), Refused::Resources);
    }
    let unknown = Plaintext::new("pcr_nobodys");
    assert_eq!(next(&scene, &unknown).await.unwrap_err(), Gone::Unknown.into());
    assert_eq!(scene.trail().await, before);
    assert!(next(&scene, &two).await.is_ok());
}

#[tokio::test]
async fn fewer_scopes_and_resources_are_for_one_access_token_alone() {
    let scene = Scene::new().await;
    let one = first(&scene).await;
    let narrow = Renewal {
        scope: Some("mcp".to_owned()),
        resources: vec!["https://gateway.example/mcp/notes".to_owned()],
        ..renewal(&one)
    };
    let issued = present(&scene, "public", narrow).await.unwrap();
    let token = verified(&scene, &issued);
    assert_eq!((&token.scopes, &issued.scopes), (&tokens(&["mcp"]), &tokens(&["mcp"])));
    assert_eq!(token.resources, resources(&["https://gateway.example/mcp/notes"]));
    let issued = present(&scene, "public", renewal(&issued.refresh_token.unwrap())).await.unwrap();
    assert_eq!(verified(&scene, &issued).scopes, access().scopes);
}

#[tokio::test]
async fn a_grant_ends_when_nobody_uses_it_and_once_and_for_all() {
    let scene = Scene::with(|auth| {
        auth.tokens.refresh_idle = 100 * SECOND;
        auth.tokens.refresh_life = 250 * SECOND;
    })
    .await;
    let mut token = first(&scene).await;
    for _ in 0..3 {
        scene.forward(80 * SECOND);
        token = next(&scene, &token).await.unwrap();
    }
    scene.forward(10 * SECOND);
    assert_eq!(next(&scene, &token).await.unwrap_err(), Gone::Expired.into());
    let token = first(&scene).await;
    scene.forward(100 * SECOND);
    assert_eq!(next(&scene, &token).await.unwrap_err(), Gone::Expired.into());
}

#[tokio::test]
async fn no_access_token_outlives_its_grant() {
    let scene = Scene::with(|auth| {
        auth.tokens.refresh_idle = 100 * SECOND;
        auth.tokens.refresh_life = 150 * SECOND;
    })
    .await;
    let outlives = async |issued: &Issued| {
        let Grant { until, idle_until, .. } = grant(&scene).await.grant;
        let expires = verified(&scene, issued).expires;
        assert_eq!(expires, scene.now().after(issued.life));
        until.min(idle_until) < expires
    };
    let issued = scene.signed_in("public").await;
    assert!(issued.life == 100 * SECOND && !outlives(&issued).await);
    scene.forward(80 * SECOND);
    let one = issued.refresh_token.unwrap();
    let again = present(&scene, "public", renewal(&one)).await.unwrap();
    assert!(again.life == 70 * SECOND && !outlives(&again).await, "what is left of the grant");

    // Nor where it comes back a little later.
    let one = first(&scene).await;
    present(&scene, "public", renewal(&one)).await.unwrap();
    scene.forward(20 * SECOND);
    let replayed = present(&scene, "public", renewal(&one)).await.unwrap();
    assert!(replayed.life == 80 * SECOND && !outlives(&replayed).await);
}

#[tokio::test]
async fn who_opens_nothing_any_more_refreshes_nothing() {
    let scene = Scene::new().await;
    let one = first(&scene).await;
    let keys = scene.server.snapshot.load().keys.clone();
    scene.publish(|snapshot| snapshot.keys = Arc::default());
    assert_eq!(next(&scene, &one).await.unwrap_err(), Refused::Grant(NoGrant::Principal));
    scene.publish(|snapshot| snapshot.keys = keys);
    let two = next(&scene, &one).await.expect("nothing has changed");

    let mut client = scene.client("public").await;
    client.metadata.grant_types = vec![GrantType::AuthorizationCode];
    let refused = refresh(&scene.server, &client, renewal(&two)).await.unwrap();
    assert_eq!(refused.unwrap_err(), Refused::GrantType);

    let client = scene.client("public").await;
    clients::delete(&scene.server.store, &client.id, Authority::Operator, operator()).await.unwrap();
    assert_eq!(refresh(&scene.server, &client, renewal(&two)).await.unwrap().unwrap_err(), Gone::Revoked.into());
}

#[tokio::test]
async fn a_client_that_has_to_prove_a_key_by_now_refreshes_nothing_without_one() {
    let scene = Scene::new().await;
    let one = first(&scene).await;
    let client = scene.client("public").await;
    let proving = KnownClient { requires_proof: true, ..client.clone() };
    let refused = refresh(&scene.server, &proving, renewal(&one)).await.unwrap().unwrap_err();
    assert_eq!(refused, Refused::ProofNeeded);
    assert!(refresh(&scene.server, &client, renewal(&one)).await.unwrap().is_ok(), "nothing was used up");
}

#[tokio::test]
async fn a_client_of_the_configuration_refreshes_without_a_registration() {
    let scene = Scene::new().await;
    let client = configured(scene.client("public").await);
    clients::delete(&scene.server.store, &client.id, Authority::Operator, operator()).await.unwrap();
    scene.forward(SECOND);
    let code = scene.code("public").await;
    let issued = super::super::exchange::exchange(&scene.server, &client, with_code(&code)).await.unwrap().unwrap();
    let one = issued.refresh_token.unwrap();
    assert!(refresh(&scene.server, &client, renewal(&one)).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_policy_that_refuses_ends_nothing_and_is_in_the_trail() {
    let scene = Scene::new().await;
    let one = first(&scene).await;
    scene.forward(SECOND);
    let two = next(&scene, &one).await.unwrap();
    scene.decide_by(json!({ "refreshes": { "max_uses": 1 } }));
    assert_eq!(next(&scene, &two).await.unwrap_err(), Refused::Grant(NoGrant::Policy));
    assert_eq!(next(&scene, &two).await.unwrap_err(), Refused::Grant(NoGrant::Policy));
    assert_eq!(grant(&scene).await.end, None);
    let told = decided(&scene, RecordedVerdict::Deny).await;
    assert_eq!(told, ("refresh.renew".to_owned(), key("ci"), Some("consent-rules.uses".to_owned())));
    scene.decide_by(json!({ "refreshes": { "max_uses": 10 } }));
    let issued = present(&scene, "public", renewal(&two)).await.expect("the token is as good as it was");
    assert_eq!(verified(&scene, &issued).scopes, access().scopes);
    // A copy ends the family, whatever the policy says.
    scene.forward(60 * SECOND);
    scene.decide_by(json!({ "refreshes": { "max_uses": 0 } }));
    assert_eq!(next(&scene, &two).await.unwrap_err(), Refused::Grant(NoGrant::Replayed));
    assert_eq!(grant(&scene).await.end, Some(Gone::Revoked));
}

#[test]
fn a_policy_that_fails_refuses_nothing_for_good() {
    use crate::ids::BindingName;
    use crate::policy::Failure;
    let binding = || BindingName::parse("rules").unwrap();
    let failure = Failure::InvalidAnswer { what: String::new() };
    assert_eq!(refused_by_policy(&Refusal::PolicyFailed { binding: binding(), failure }), Refused::Undecided);
    assert_eq!(refused_by_policy(&Refusal::Hidden), Refused::Grant(NoGrant::Policy));
}
