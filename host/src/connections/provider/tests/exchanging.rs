//! People whom the gateway vouches for.

use super::*;
use crate::config::{SubjectOf, TokenExchange};
use crate::connection::lending::ExchangeRefusal;
use crate::identity::user::{DisplayName, Login, Role, Status, User};
use crate::ids::UserId;

/// The scene with an upstream at which the gateway vouches for people.
async fn vouching() -> (Scene, Person) {
    let scene = Scene::new().await;
    let secret = Some(Plaintext::new("hunter2"));
    let client = ClientCredentials { id: "gateway".to_owned(), secret };
    let issuer = Some(scene.server.at(""));
    let scopes = TokenList::parse(vec!["notes:read".to_owned()]).ok();
    let client = OAuthClient { issuer, client: Some(client), scopes };
    let terms = TokenExchange {
        client,
        audience: Some("notes".to_owned()),
        resource: None,
        subject: SubjectOf::Login,
        claims: Vec::new(),
    };
    scene.settings.lock().unwrap().as_mut().unwrap().auth = UpstreamAuth::TokenExchange(Box::new(terms));
    let user = User {
        id: UserId::generate(&scene.clock.env()),
        revision: 1,
        login: Login::parse("ada"),
        name: DisplayName::of("Ada"),
        email: None,
        role: Role::User,
        groups: TokenList::default(),
        status: Status::Active,
        password: None,
        created: scene.clock.env().now(),
        last_sign_in: None,
    };
    (scene, Person { user, identities: Vec::new() })
}

#[tokio::test]
async fn a_person_is_vouched_for_at_the_server_that_the_operator_names_for_what_is_configured() {
    let (scene, ada) = vouching().await;
    let notes = scene.settings().name;
    scene.server.say("/token", 200, r#"{"access_token":"at-x","token_type":"Bearer","expires_in":60}"#);
    let given = scene.provider.exchange_identity(&notes, &ada).await.unwrap();
    assert_eq!(
        (given.access.expose(), given.issuer, given.scopes.join(" ")),
        ("at-x", scene.server.at(""), "notes:read".to_owned())
    );
    let asked = scene.server.asked("/token").pop().unwrap();
    let form = asked.form();
    assert_eq!((&*form["subject_token"], &*form["audience"]), ("said.and.signed", "notes"));
    assert_eq!(
        (&form["resource"], &*form["scope"]),
        (&scene.mcp.at("/mcp"), "notes:read"),
        "no refresh token is asked for, nor what the upstream wants"
    );
    assert!(asked.authorization.starts_with("Basic ") && !asked.body.contains("ada"));
    for (status, body, expected) in [
        (400, r#"{"error":"invalid_target"}"#, NotExchanged::Refused(ExchangeRefusal::Target)),
        (403, r#"{"error":"access_denied"}"#, NotExchanged::Refused(ExchangeRefusal::Denied)),
        (401, r#"{"error":"invalid_client"}"#, NotExchanged::Later { retry_after: None }),
        (503, "", NotExchanged::Later { retry_after: None }),
    ] {
        scene.server.say("/token", status, body);
        assert_eq!(scene.provider.exchange_identity(&notes, &ada).await.map(|_| ()), Err(expected), "{status}");
    }
    let stranger = Person { user: User { login: None, ..ada.user.clone() }, ..ada };
    assert_eq!(scene.provider.exchange_identity(&notes, &stranger).await.map(|_| ()), Err(NotExchanged::Nobody));
    let before = scene.server.asked("/token").len();
    assert_eq!(scene.provider.can_vouch_for(&notes, &stranger), Err(NotExchanged::Nobody));
    let mute = Parts { voucher: Arc::new(|_| Err(Unsigned::NoKey)), ..scene.provider.parts.clone() };
    let person = Person { user: User { login: Login::parse("bob"), ..stranger.user }, identities: Vec::new() };
    assert_eq!(scene.provider.can_vouch_for(&notes, &person), Ok(()));
    assert_eq!(scene.server.asked("/token").len(), before, "that asks nobody");
    assert_eq!(Provider::new(mute).exchange_identity(&notes, &person).await.map(|_| ()), Err(NotExchanged::Fault));
}
