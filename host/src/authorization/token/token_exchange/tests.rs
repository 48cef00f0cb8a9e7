//! Row T17 of the threat checklist, where exchanged tokens are concerned.

use serde_json::json;

use super::super::super::testing::*;
use super::super::introspect::{Introspection, introspect};
use super::*;
use crate::audit::RevocationReason;
use crate::config::Auth;
use crate::glob::Glob;
use crate::ids::{GrantId, TokenId};
use crate::oauth::client::Authentication;
use crate::store::grants;

/// A server that exchanges tokens, with the confidential clients `app` and `downstream`.
async fn scene() -> (Scene, KnownClient, KnownClient) {
    let scene = Scene::with(|auth| auth.grants.token_exchange = true).await;
    let secret = Authentication::SecretBasic(Plaintext::new("pcs_other").digest());
    scene.register("downstream", secret).await;
    let client = async |id: &str| {
        let mut client = scene.client(id).await;
        client.metadata.grant_types.push(GrantType::TokenExchange);
        client
    };
    let (app, downstream) = (client("app").await, client("downstream").await);
    (scene, app, downstream)
}

fn read(scene: &Scene, token: &Plaintext) -> AccessToken {
    let signing = &scene.server.signing;
    signing.verifier().verify(token.expose(), scene.now(), signing.epoch()).unwrap()
}

/// The same token with something else in it, as we would have signed it.
fn signed_as(scene: &Scene, token: &AccessToken) -> Plaintext {
    Plaintext::new(scene.server.signing.sign(token).unwrap())
}

fn wanted(subject: &Plaintext) -> Wanted {
    Wanted { subject: subject.clone(), scope: None, resources: Vec::new(), proof: None, from: From::default() }
}

async fn ask(scene: &Scene, client: &KnownClient, wanted: Wanted) -> Result<Issued, Refused> {
    grant(&scene.server, client, wanted).await.unwrap()
}

#[tokio::test]
async fn t17_a_token_is_exchanged_for_a_narrower_one_of_the_same_grant() {
    let (scene, app, _) = scene().await;
    let issued = scene.signed_in("app").await;
    let subject = read(&scene, &issued.access_token);
    scene.forward(Duration::from_secs(60));
    let whole = ask(&scene, &app, wanted(&issued.access_token)).await.unwrap();
    assert!(whole.refresh_token.is_none());
    let token = read(&scene, &whole.access_token);
    assert_ne!(token.id, subject.id);
    assert_eq!((whole.life, token.expires), (Duration::from_secs(540), subject.expires), "never for longer");
    assert_eq!((&token.grant, &token.principal, &token.client), (&subject.grant, &subject.principal, &app.id));
    assert!(token.scopes == subject.scopes && token.resources == subject.resources && token.actors.is_empty());

    let narrow = Wanted {
        scope: Some("mcp".to_owned()),
        resources: vec![format!("{ISSUER}/mcp")],
        ..wanted(&issued.access_token)
    };
    let narrow = ask(&scene, &app, narrow).await.unwrap();
    let token = read(&scene, &narrow.access_token);
    assert_eq!((token.scopes, token.resources.to_vec()), (tokens(&["mcp"]), vec![format!("{ISSUER}/mcp")]));
    // What was left out does not come back.
    let back = Wanted { scope: Some("notes:write".to_owned()), ..wanted(&narrow.access_token) };
    assert_eq!(ask(&scene, &app, back).await.unwrap_err(), Refused::Scopes);

    grants::revoke(&scene.server.store, &subject.grant, RevocationReason::Operator, operator()).await.unwrap();
    assert_eq!(introspect(&scene.server, &app, &narrow.access_token).await.unwrap(), Introspection::Inactive);
    assert_eq!(ask(&scene, &app, wanted(&narrow.access_token)).await.unwrap_err(), Refused::SubjectToken);
}

#[tokio::test]
async fn t17_nothing_is_widened_by_an_exchange() {
    let (scene, mut app, _) = scene().await;
    let issued = scene.signed_in("app").await;
    for scope in ["admin", "mcp admin", " "] {
        let wanted = Wanted { scope: Some(scope.to_owned()), ..wanted(&issued.access_token) };
        assert_eq!(ask(&scene, &app, wanted).await.unwrap_err(), Refused::Scopes, "{scope}");
    }
    for resource in ["https://other.example/mcp", "https://gateway.example/mcp/nothing", "downstream"] {
        let wanted = Wanted { resources: vec![resource.to_owned()], ..wanted(&issued.access_token) };
        assert_eq!(ask(&scene, &app, wanted).await.unwrap_err(), Refused::Resources, "{resource}");
    }
    let of_one = AccessToken {
        resources: resources(&["https://gateway.example/mcp/notes"]),
        ..read(&scene, &issued.access_token)
    };
    let of_one = signed_as(&scene, &of_one);
    let of_all = Wanted { resources: vec![format!("{ISSUER}/mcp")], ..wanted(&of_one) };
    assert_eq!(ask(&scene, &app, of_all).await.unwrap_err(), Refused::Resources);
    app.metadata.scopes = tokens(&["mcp"]);
    assert_eq!(ask(&scene, &app, wanted(&issued.access_token)).await.unwrap().scopes, tokens(&["mcp"]));

    // Tools and claims of policies are kept.
    let narrowed = AccessToken {
        tools: ToolScope(vec![vec![Glob::parse("notes/*").unwrap()]]),
        claims: Some(r#"{"team":"lab"}"#.into()),
        ..read(&scene, &issued.access_token)
    };
    let exchanged = ask(&scene, &app, wanted(&signed_as(&scene, &narrowed))).await.unwrap();
    let exchanged = read(&scene, &exchanged.access_token);
    assert_eq!((exchanged.tools, exchanged.claims), (narrowed.tools, narrowed.claims));
}

#[tokio::test]
async fn t17_only_who_has_a_token_or_is_addressed_by_it_exchanges_it() {
    let (scene, app, downstream) = scene().await;
    let issued = scene.signed_in("app").await;
    let of_app = wanted(&issued.access_token);
    assert_eq!(ask(&scene, &downstream, of_app).await.unwrap_err(), Refused::SubjectToken);
    let refresh = issued.refresh_token.unwrap();
    for none in [&refresh, &Plaintext::new("x"), &Plaintext::new(format!("{}x", issued.access_token.expose()))] {
        assert_eq!(ask(&scene, &app, wanted(none)).await.unwrap_err(), Refused::SubjectToken);
    }

    // The chain of those who act is kept, and the grant's client stays whose it is.
    let subject = AccessToken {
        resources: resources(&["https://gateway.example/mcp", "downstream"]),
        ..read(&scene, &issued.access_token)
    };
    let addressed = signed_as(&scene, &subject);
    let first = ask(&scene, &downstream, wanted(&addressed)).await.unwrap();
    let token = read(&scene, &first.access_token);
    assert_eq!((&token.client, &token.actors), (&app.id, &vec![downstream.id.clone()]));
    let again = ask(&scene, &downstream, wanted(&first.access_token)).await.unwrap();
    assert_eq!(read(&scene, &again.access_token).actors, std::slice::from_ref(&downstream.id));
    let back = ask(&scene, &app, wanted(&first.access_token)).await.unwrap();
    assert_eq!(read(&scene, &back.access_token).actors, [app.id.clone(), downstream.id.clone()]);
    let long = AccessToken { actors: vec![client_id("x"); MAX_ACTORS], ..read(&scene, &addressed) };
    let long = signed_as(&scene, &long);
    assert_eq!(ask(&scene, &downstream, wanted(&long)).await.unwrap_err(), Refused::SubjectToken);
}

#[tokio::test]
async fn t17_exchanges_are_off_for_whoever_is_not_registered_for_them() {
    let (scene, app, _) = scene().await;
    let issued = scene.signed_in("app").await;
    let public = KnownClient { authentication: Authentication::Public, ..app.clone() };
    for client in [&scene.client("app").await, &public] {
        assert_eq!(ask(&scene, client, wanted(&issued.access_token)).await.unwrap_err(), Refused::GrantType);
    }
    // That the token was consented to is the consent: policies that want one have it.
    for otherwise in ["deny", "abstain"] {
        scene.decide_by(json!({ "grants_otherwise": otherwise }));
        let refused = ask(&scene, &app, wanted(&issued.access_token)).await.unwrap_err();
        assert_eq!(refused, Refused::Grant(NoGrant::Policy), "{otherwise}");
    }
    for otherwise in ["consent", "allow"] {
        scene.decide_by(json!({ "grants_otherwise": otherwise }));
        assert!(ask(&scene, &app, wanted(&issued.access_token)).await.is_ok(), "{otherwise}");
    }
    scene.publish(|snapshot| {
        let mut auth = Auth::clone(&snapshot.auth);
        auth.grants.token_exchange = false;
        snapshot.auth = Arc::new(auth);
    });
    assert_eq!(ask(&scene, &app, wanted(&issued.access_token)).await.unwrap_err(), Refused::GrantType);
}

#[tokio::test]
async fn t17_what_is_bound_or_over_is_not_exchanged_for_what_is_not() {
    let (scene, app, _) = scene().await;
    let issued = scene.signed_in("app").await;
    let (mine, others) = (Digest::of(b"mine"), Digest::of(b"others"));
    let bound = AccessToken { proof: Some(mine), ..read(&scene, &issued.access_token) };
    let bound = signed_as(&scene, &bound);
    let with = |proof| Wanted { proof, ..wanted(&bound) };
    assert_eq!(ask(&scene, &app, with(None)).await.unwrap_err(), Refused::ProofNeeded);
    let other = ask(&scene, &app, with(Some(others))).await.unwrap_err();
    assert_eq!(other, Refused::Grant(NoGrant::Mismatch(Mismatch::Proof)));
    let exchanged = ask(&scene, &app, with(Some(mine))).await.unwrap();
    assert!(exchanged.is_bound && read(&scene, &exchanged.access_token).proof == Some(mine));
    // An unbound one may be bound.
    let proven = Wanted { proof: Some(mine), ..wanted(&issued.access_token) };
    assert!(ask(&scene, &app, proven).await.unwrap().is_bound);

    let unknown = AccessToken { id: TokenId::generate(&scene.server.env), ..read(&scene, &issued.access_token) };
    assert!(ask(&scene, &app, wanted(&signed_as(&scene, &unknown))).await.is_ok(), "it is ours, and of a grant");
    let token = read(&scene, &issued.access_token);
    let nobodys = AccessToken { grant: GrantId::generate(&scene.server.env), ..token.clone() };
    assert_eq!(ask(&scene, &app, wanted(&signed_as(&scene, &nobodys))).await.unwrap_err(), Refused::SubjectToken);
    scene.forward(Duration::from_secs(600));
    assert_eq!(ask(&scene, &app, wanted(&issued.access_token)).await.unwrap_err(), Refused::SubjectToken);
    let fresh = AccessToken { issued: scene.now(), expires: scene.now().after(Duration::from_secs(60)), ..token };
    let fresh = signed_as(&scene, &fresh);
    assert!(ask(&scene, &app, wanted(&fresh)).await.is_ok());
    scene.publish(|snapshot| snapshot.keys = Default::default());
    assert_eq!(ask(&scene, &app, wanted(&fresh)).await.unwrap_err(), Refused::SubjectToken, "its key is gone");
}
