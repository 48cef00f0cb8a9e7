//! Row T17 of the threat checklist, where identity assertions are concerned.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::super::testing::*;
use super::*;
use crate::authorization::key_sets::{KEY_SET_LIFE, KEY_SET_REST};
use crate::config::Auth;
use crate::config::auth::{ScopeWords, TrustedIssuer};
use crate::identity::user::{Email, ExternalIdentity, Role};
use crate::identity::{TokenList, user};
use crate::ids::UserId;
use crate::oauth::client::Authentication;
use crate::oauth::id_jag::testing::Issuer;
use crate::outbound::DocumentHost;
use crate::store::users::{Creation, Linking, NewUser};

/// A server that trusts one issuer, with the confidential client `app` and Ada, who is known to the issuer as `u-1`.
struct Corp {
    scene: Scene,
    host: DocumentHost,
    issuer: Issuer,
    client: KnownClient,
    ada: UserId,
}

impl Corp {
    async fn new() -> Self {
        let host = DocumentHost::start();
        let (name, keys) = (host.url(""), host.url("/keys"));
        let mut scene = Scene::with(|auth| {
            let scope = |name: &str| ScopeWords { name: name.to_owned(), words: "Words".to_owned() };
            auth.scopes = vec![scope("mcp"), scope("notes:write")];
            auth.grants.identity_assertions = vec![TrustedIssuer { issuer: name.clone(), jwks_uri: Some(keys) }];
        })
        .await;
        Arc::get_mut(&mut scene.server).expect("nobody has it yet").fetcher = host.fetcher();
        let issuer = Issuer::new();
        host.answers("200 OK", &[], &issuer.keys().to_string());
        let mut client = scene.client("app").await;
        client.metadata.grant_types = vec![GrantType::JwtBearer];
        let ada = scene.person("ada@corp.example").await;
        let identity = ExternalIdentity::parse(&name, "u-1").unwrap();
        let linked = users::link(&scene.server.store, &ada, identity, operator()).await.unwrap();
        assert_eq!(linked, Linking::Linked);
        Self { scene, host, issuer, client, ada }
    }

    /// What the issuer says of Ada, with these claims besides or instead.
    fn claims(&self, more: &Value) -> Value {
        let now = self.scene.now().as_millis() / 1_000;
        let jti: [u8; 8] = self.scene.server.env.random();
        let mut claims = json!({
            "iss": self.host.url(""), "sub": "u-1", "aud": ISSUER, "client_id": "app", "iat": now, "exp": now + 300,
            "jti": crate::secret::hex(&jti), "resource": "https://gateway.example/mcp", "scope": "mcp",
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn presented(&self, more: &Value) -> Presented {
        let assertion = Plaintext::new(self.issuer.sign(&self.claims(more)));
        Presented { assertion, scope: None, resources: Vec::new(), proof: None, from: From::default() }
    }

    async fn ask(&self, presented: Presented) -> Result<Issued, Refused> {
        grant(&self.scene.server, &self.client, presented).await.unwrap()
    }

    fn read(&self, issued: &Issued) -> crate::oauth::token::AccessToken {
        let (signing, now) = (&self.scene.server.signing, self.scene.now());
        signing.verifier().verify(issued.access_token.expose(), now, signing.epoch()).unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut Auth)) {
        self.scene.publish(|snapshot| {
            let mut auth = Auth::clone(&snapshot.auth);
            change(&mut auth);
            snapshot.auth = Arc::new(auth);
        });
    }

    async fn invited(&self, email: &str) -> UserId {
        let new = NewUser {
            id: UserId::generate(&self.scene.server.env),
            login: None,
            name: user::DisplayName::of("Bob"),
            email: Email::parse(email),
            role: Role::User,
            groups: TokenList::default(),
            invited: true,
            password: None,
        };
        match users::create(&self.scene.server.store, new, operator()).await.unwrap() {
            Creation::Created(user) => user.id,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn t17_an_assertion_gives_what_it_names_to_the_client_that_it_names() {
    let corp = Corp::new().await;
    let issued = corp.ask(corp.presented(&json!({}))).await.unwrap();
    assert!(issued.refresh_token.is_none() && !issued.is_bound);
    let token = corp.read(&issued);
    assert_eq!((token.principal, token.client), (Principal::User(corp.ada.clone()), client_id("app")));
    assert_eq!((token.scopes, token.resources.to_vec()), (tokens(&["mcp"]), vec![format!("{ISSUER}/mcp")]));
    // The next one follows from the same grant, and asks nobody for keys.
    let again = corp.read(&corp.ask(corp.presented(&json!({}))).await.unwrap());
    assert_eq!((again.grant, corp.host.requests()), (token.grant, 1));
    // One that does not say what it is good for is good for what the client may have.
    let silent = corp.ask(corp.presented(&json!({ "scope": null, "resource": null }))).await.unwrap();
    assert_eq!(corp.read(&silent).scopes, tokens(&["mcp", "notes:write"]));
    let bound = Presented { proof: Some(Digest::of(b"key")), ..corp.presented(&json!({})) };
    let bound = corp.ask(bound).await.unwrap();
    assert!(bound.is_bound && corp.read(&bound).proof == Some(Digest::of(b"key")));
}

#[tokio::test]
async fn t17_an_assertion_counts_once_and_for_nobody_else() {
    let corp = Corp::new().await;
    let refused = Refused::Grant(NoGrant::Assertion);
    let presented = corp.presented(&json!({}));
    let copy = || Presented {
        assertion: presented.assertion.clone(),
        scope: None,
        resources: Vec::new(),
        proof: None,
        from: From::default(),
    };
    assert!(corp.ask(copy()).await.is_ok());
    assert_eq!(corp.ask(copy()).await.unwrap_err(), Refused::Grant(NoGrant::Replayed));
    let now = corp.scene.now().as_millis() / 1_000;
    for other in [
        json!({ "aud": "https://other.example" }),
        json!({ "aud": format!("{ISSUER}/oauth2/token") }),
        json!({ "client_id": "other" }),
        json!({ "iss": "https://evil.example" }),
        json!({ "iss": format!("{}/", corp.host.url("")) }),
        json!({ "exp": now - 61 }),
        json!({ "exp": now + 7_200 }),
        json!({ "iat": now + 120 }),
    ] {
        assert_eq!(corp.ask(corp.presented(&other)).await.unwrap_err(), refused, "{other}");
    }
    let claims = corp.claims(&json!({}));
    for header in [json!({ "alg": "ES256", "kid": "k1", "typ": "JWT" }), json!({ "alg": "ES256", "kid": "k1" })] {
        let assertion = Plaintext::new(corp.issuer.0.sign(&header, &claims));
        assert_eq!(corp.ask(Presented { assertion, ..corp.presented(&json!({})) }).await.unwrap_err(), refused);
    }
    let forged = Plaintext::new(Issuer::new().sign(&claims));
    assert_eq!(corp.ask(Presented { assertion: forged, ..corp.presented(&json!({})) }).await.unwrap_err(), refused);
    let nothing = Plaintext::new("x");
    assert_eq!(corp.ask(Presented { assertion: nothing, ..corp.presented(&json!({})) }).await.unwrap_err(), refused);
}

#[tokio::test]
async fn t17_nothing_is_widened() {
    let corp = Corp::new().await;
    let with_scope =
        |scope: &str| Presented { scope: Some(scope.to_owned()), ..corp.presented(&json!({ "scope": "mcp admin" })) };
    assert_eq!(corp.ask(with_scope("mcp")).await.unwrap().scopes, tokens(&["mcp"]));
    for wider in ["notes:write", "mcp notes:write", "admin"] {
        assert_eq!(corp.ask(with_scope(wider)).await.unwrap_err(), Refused::Scopes, "{wider}");
    }
    assert_eq!(corp.ask(corp.presented(&json!({ "scope": "admin" }))).await.unwrap_err(), Refused::Scopes);
    for foreign in [json!("https://other.example/mcp"), json!([format!("{ISSUER}/mcp"), "https://other.example"])] {
        let presented = corp.presented(&json!({ "resource": foreign }));
        assert_eq!(corp.ask(presented).await.unwrap_err(), Refused::Resources);
    }
    let elsewhere = Presented { resources: vec!["https://other.example/mcp".to_owned()], ..corp.presented(&json!({})) };
    assert_eq!(corp.ask(elsewhere).await.unwrap_err(), Refused::Resources);
}

#[tokio::test]
async fn t17_only_people_who_are_known_or_invited_are_spoken_for() {
    let corp = Corp::new().await;
    let gone = Refused::Grant(NoGrant::Principal);
    let bob = corp.invited("bob@corp.example").await;
    let of_bob = |is_verified| json!({ "sub": "u-2", "email": "bob@corp.example", "email_verified": is_verified });
    assert_eq!(corp.ask(corp.presented(&json!({ "sub": "u-9" }))).await.unwrap_err(), gone);
    assert_eq!(corp.ask(corp.presented(&of_bob(false))).await.unwrap_err(), gone, "an address that nobody verified");
    let issued = corp.ask(corp.presented(&of_bob(true))).await.unwrap();
    assert_eq!(corp.read(&issued).principal, Principal::User(bob));
    // Ada uses her account already: nobody becomes Ada by her address.
    let like_ada = json!({ "sub": "u-3", "email": "ada@corp.example", "email_verified": true });
    assert_eq!(corp.ask(corp.presented(&like_ada)).await.unwrap_err(), gone);
}

#[tokio::test]
async fn t17_only_clients_that_are_registered_for_it_and_show_who_they_are_may_bring_one() {
    let corp = Corp::new().await;
    let mut unregistered = corp.client.clone();
    unregistered.metadata.grant_types = vec![GrantType::AuthorizationCode];
    let public = KnownClient { authentication: Authentication::Public, ..corp.client.clone() };
    for client in [&unregistered, &public] {
        let answer = grant(&corp.scene.server, client, corp.presented(&json!({}))).await.unwrap();
        assert_eq!(answer.unwrap_err(), Refused::GrantType);
    }
    let proves = KnownClient { requires_proof: true, ..corp.client.clone() };
    let answer = grant(&corp.scene.server, &proves, corp.presented(&json!({}))).await.unwrap();
    assert_eq!(answer.unwrap_err(), Refused::ProofNeeded);
    // That the issuer vouches for the person is the consent: policies that want one have it.
    for otherwise in ["deny", "abstain"] {
        corp.scene.decide_by(json!({ "grants_otherwise": otherwise }));
        let refused = corp.ask(corp.presented(&json!({}))).await.unwrap_err();
        assert_eq!(refused, Refused::Grant(NoGrant::Policy), "{otherwise}");
    }
    for otherwise in ["allow", "consent"] {
        corp.scene.decide_by(json!({ "grants_otherwise": otherwise }));
        assert!(corp.ask(corp.presented(&json!({}))).await.is_ok(), "{otherwise}");
    }
    corp.set(|auth| auth.grants.identity_assertions.clear());
    assert_eq!(corp.ask(corp.presented(&json!({}))).await.unwrap_err(), Refused::Grant(NoGrant::Assertion));
}

#[tokio::test]
async fn an_issuers_keys_are_found_by_its_description_and_kept() {
    let corp = Corp::new().await;
    corp.set(|auth| auth.grants.identity_assertions[0].jwks_uri = None);
    let describe = |corp: &Corp, issuer: &str| {
        let mut document = corp.issuer.keys();
        document["issuer"] = json!(issuer);
        document["jwks_uri"] = json!(corp.host.url("/keys"));
        corp.host.answers("200 OK", &[], &document.to_string());
    };
    let ask = async |corp: &Corp| grant(&corp.scene.server, &corp.client, corp.presented(&json!({}))).await;
    describe(&corp, "https://other.example");
    assert!(matches!(ask(&corp).await, Err(Fault::Issuer)), "it cannot be known, and is no refusal");
    describe(&corp, &corp.host.url(""));
    assert!(matches!(ask(&corp).await, Err(Fault::Issuer)), "it is let alone for a while");
    corp.scene.forward(KEY_SET_REST);
    assert!(ask(&corp).await.unwrap().is_ok());
    // A new key is looked for, and what there was counts for its time while the issuer does not answer.
    corp.scene.forward(KEY_SET_REST);
    corp.host.answers("500 Oh", &[], "");
    let asked = corp.host.requests();
    let header = json!({ "typ": "oauth-id-jag+jwt", "alg": "ES256", "kid": "k2" });
    let assertion = Plaintext::new(corp.issuer.0.sign(&header, &corp.claims(&json!({}))));
    let of_new_key = Presented { assertion, ..corp.presented(&json!({})) };
    let unknown = grant(&corp.scene.server, &corp.client, of_new_key).await;
    assert!(matches!(unknown, Err(Fault::Busy)), "it cannot be known whether there is such a key");
    assert_eq!(corp.host.requests(), asked + 1);
    assert!(ask(&corp).await.unwrap().is_ok());
    corp.scene.forward(KEY_SET_LIFE);
    assert!(matches!(ask(&corp).await, Err(Fault::Busy)));
}
