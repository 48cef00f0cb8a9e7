//! Sign-in against a provider on loopback: what is asked of it, and what of its answers is believed (`docs/threat-model.md`
//! row A16).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::*;
use crate::admin::testing::{Skewed, shared};
use crate::audit::{Actor, OperatorProof};
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Email, Status};
use crate::ids::KeyName;
use crate::outbound::{Fetcher, Trusted};
use crate::store::users::{Creation, NewUser};

pub(crate) mod mock;

use mock::{EC, ED, Key, Mock, OTHER_RSA, RSA, Said};

const ADDRESS: &str = "https://gateway.example";
const CLIENT: &str = "portcullis";
const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);

struct Scene {
    mock: Mock,
    provider: Provider,
    providers: Providers,
    env: Env,
    clock: Skewed,
    store: Store,
    fetcher: Fetcher,
    secret: DeploymentSecret,
}

/// A browser on its way to the provider, and what the provider sees of it.
struct Away {
    cookie: Plaintext,
    asked: BTreeMap<String, String>,
    location: String,
}

impl Away {
    fn state(&self) -> String {
        self.asked["state"].clone()
    }
}

impl Scene {
    async fn new() -> Self {
        let (store, clock) = shared().await;
        let mock = Mock::start();
        let provider = Provider {
            name: KeyName::parse("corp").unwrap(),
            issuer: mock.address(),
            client_id: CLIENT.to_owned(),
            client_secret: Some(Plaintext::new("s3cr&t")),
            label: "Corp".to_owned(),
            scopes: TokenList::default(),
            admits_everyone: true,
            groups_claim: None,
        };
        let trusted = Trusted::none().with(Trusted::parse(&format!("127.0.0.1:{}", mock.port)).unwrap());
        Self {
            mock,
            provider,
            providers: Providers::new(),
            env: clock.env(),
            clock,
            store,
            fetcher: Fetcher::new(trusted),
            secret: DeploymentSecret::new(&[7; 32]),
        }
    }

    fn here(&self) -> Here<'_> {
        let Self { env, store, fetcher, secret, .. } = self;
        Here { env, store, fetcher, secret, address: ADDRESS, surface: Surface::Public }
    }

    /// Begins a sign-in, and tells the provider what to expect.
    async fn begin(&self, fresh: bool) -> Away {
        let wanted = Wanted { next: "/account".to_owned(), fresh };
        let begun = self.providers.begin(self.here(), &self.provider, wanted).await.unwrap();
        let Begin::Begun(Begun { location, cookie }) = begun else { panic!("{begun:?}") };
        let (endpoint, query) = location.split_once('?').unwrap();
        assert_eq!(endpoint, format!("{}/authorize", self.mock.address()));
        let asked: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        self.mock.with(|state| state.challenge.clone_from(&asked["code_challenge"]));
        Away { cookie, asked, location }
    }

    /// What a good provider says of Ada.
    fn said(&self, away: &Away) -> Said {
        let now = self.env.now().as_millis() / 1_000;
        Said {
            header: json!({ "alg": "RS256", "kid": RSA.id(), "typ": "JWT" }),
            claims: json!({
                "iss": self.mock.address(), "aud": CLIENT, "sub": "ada-1", "nonce": away.asked["nonce"],
                "iat": now, "exp": now + 300, "name": "Ada Lovelace", "email": "Ada@corp.example", "email_verified": true,
            }),
            key: &RSA,
            algorithm: Algorithm::RS256,
        }
    }

    fn tells(&self, id_token: &str) {
        let tokens = json!({ "access_token": "at-1", "token_type": "Bearer", "id_token": id_token });
        self.mock.with(|state| state.tokens = tokens);
    }

    fn answer(&self, away: &Away, code: &str) -> Answer {
        Answer {
            state: Some(away.state()),
            code: Some(Plaintext::new(code)),
            issuer: Some(self.mock.address()),
            error: None,
        }
    }

    fn browser(&self, away: &Away) -> Browser {
        Browser {
            pending: Some(away.cookie.clone()),
            session: None,
            agent: "a browser".to_owned(),
            cookie: Digest::of(&self.env.random::<32>()),
            idle: Duration::from_secs(3_600),
            life: Duration::from_secs(86_400),
        }
    }

    async fn finish(&self, answer: Answer, browser: Browser) -> Result<Finish, Fault> {
        self.providers.finish(self.here(), &self.provider, answer, browser).await
    }

    /// A whole sign-in with what the provider says changed.
    async fn sign_in(&self, fresh: bool, change: impl FnOnce(&mut Said)) -> Finish {
        let away = self.begin(fresh).await;
        let mut said = self.said(&away);
        change(&mut said);
        self.tells(&said.token());
        let code = format!("code-{}", away.state());
        self.finish(self.answer(&away, &code), self.browser(&away)).await.unwrap()
    }

    async fn invite(&self, email: &str) -> UserId {
        let id = UserId::generate(&self.env);
        let new = NewUser {
            id: id.clone(),
            login: None,
            name: DisplayName::of("Invited"),
            email: Email::parse(email),
            role: Role::User,
            groups: TokenList::default(),
            invited: true,
            password: None,
        };
        assert!(matches!(users::create(&self.store, new, OPERATOR).await.unwrap(), Creation::Created(_)));
        id
    }
}

fn refused(finish: Finish) -> Refused {
    match finish {
        Finish::Refused(refused) => refused,
        Finish::SignedIn(signed_in) => panic!("{signed_in:?}"),
    }
}

fn signed_in(finish: Finish) -> SignedIn {
    match finish {
        Finish::SignedIn(signed_in) => *signed_in,
        Finish::Refused(refused) => panic!("{refused:?}"),
    }
}

fn provider_fault(fault: Result<Finish, Fault>) -> String {
    match fault {
        Err(Fault::Provider(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_person_is_signed_in_with_each_algorithm_that_is_accepted() {
    let scene = Scene::new().await;
    let algorithms: [(&'static Key, Algorithm); 4] =
        [(&RSA, Algorithm::RS256), (&RSA, Algorithm::PS256), (&EC, Algorithm::ES256), (&ED, Algorithm::EdDSA)];
    for (key, algorithm) in algorithms {
        // Half of the hash that goes with the algorithm (§3.1.3.6): SHA-512 for Ed25519.
        let hash = match algorithm {
            Algorithm::EdDSA => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, b"at-1"),
            _ => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"at-1"),
        };
        let half = URL_SAFE_NO_PAD.encode(&hash.as_ref()[..hash.as_ref().len() / 2]);
        let finish = scene.sign_in(false, |said| {
            said.sign_with(key, algorithm);
            said.claim("at_hash", half);
        });
        let SignedIn { session, next } = signed_in(finish.await);
        assert_eq!(next, "/account", "{algorithm:?}");
        assert_eq!(session.method, Method::Provider { issuer: scene.mock.address() });
    }
    // Nobody became two people, and nothing was asked of the provider twice that could be remembered.
    assert_eq!(scene.mock.asked("/.well-known/openid-configuration"), 1);
    assert_eq!((scene.mock.asked("/keys"), scene.mock.asked("/token"), scene.mock.asked("/me")), (1, 4, 0));
    let again = signed_in(scene.sign_in(false, |_| {}).await);
    let found = browser_sessions::find(&scene.store, again.session.digest, Surface::Public).await.unwrap();
    let user = found.unwrap().1;
    assert_eq!((user.name.as_str(), user.role, user.status), ("Ada Lovelace", Role::User, Status::Active));
    assert_eq!(user.email.unwrap().as_str(), "ada@corp.example");
}

#[tokio::test]
async fn the_request_says_what_it_has_to_and_no_secret() {
    let mut scene = Scene::new().await;
    scene.provider.scopes = TokenList::parse(vec!["groups".to_owned(), "email".to_owned()]).unwrap();
    let (one, other) = (scene.begin(false).await, scene.begin(true).await);
    let asked = |name: &str| one.asked.get(name).map(String::as_str);
    assert_eq!(asked("response_type"), Some("code"));
    assert_eq!(asked("client_id"), Some(CLIENT));
    assert_eq!(asked("redirect_uri"), Some("https://gateway.example/sign-in/corp/callback"));
    assert_eq!(asked("scope"), Some("openid profile email groups"));
    assert_eq!(asked("code_challenge_method"), Some("S256"));
    assert_eq!((asked("prompt"), asked("max_age")), (None, None));
    assert_eq!((other.asked["prompt"].as_str(), other.asked["max_age"].as_str()), ("login", "0"));
    for name in ["state", "nonce", "code_challenge"] {
        assert_eq!(one.asked[name].len(), 43, "{name}");
        assert_ne!(one.asked[name], other.asked[name], "{name}");
    }
    assert!(!one.location.contains("s3cr") && !one.location.contains("account"));
    assert!(one.cookie.expose().len() <= 2_048);
    for next in ["//evil.example", "https://evil.example", "/\\evil.example", "account", "", "/a b", "/\u{e4}"] {
        let wanted = Wanted { next: next.to_owned(), fresh: false };
        let begun = scene.providers.begin(scene.here(), &scene.provider, wanted).await.unwrap();
        assert!(matches!(begun, Begin::NotOurs), "{next}");
    }
    let wanted = Wanted { next: format!("/{}", "a".repeat(MAX_NEXT)), fresh: false };
    assert!(matches!(scene.providers.begin(scene.here(), &scene.provider, wanted).await, Ok(Begin::NotOurs)));
}

#[tokio::test]
async fn a16_a_token_that_is_broken_anywhere_signs_nobody_in() {
    type Change = Box<dyn FnOnce(&mut Said)>;
    static SHARED: std::sync::LazyLock<Key> = std::sync::LazyLock::new(|| Key::shared(&[7; 64]));
    static PUBLIC: std::sync::LazyLock<Key> =
        std::sync::LazyLock::new(|| Key::shared(RSA.public.to_string().as_bytes()));
    let scene = Scene::new().await;
    scene.mock.with(|state| state.keys.push(SHARED.public.clone()));
    let now = scene.env.now().as_millis() / 1_000;
    let claim = |name: &'static str, value: Value| -> Change { Box::new(move |said| said.claim(name, value)) };
    let header = |name: &'static str, value: Value| -> Change { Box::new(move |said| said.header(name, value)) };
    let without = |name: &'static str| -> Change { Box::new(move |said| said.without(name)) };
    let signed = |key: &'static Key, algorithm| -> Change { Box::new(move |said| said.sign_with(key, algorithm)) };
    let cases: Vec<(&str, Change, Refused)> = vec![
        ("another issuer", claim("iss", json!("https://evil.example")), Refused::Token(TokenFault::Issuer)),
        ("almost the issuer", claim("iss", json!(scene.mock.address() + "/")), Refused::Token(TokenFault::Issuer)),
        ("no issuer", without("iss"), Refused::NoToken),
        ("another audience", claim("aud", json!("another")), Refused::Token(TokenFault::Audience)),
        ("no audience", without("aud"), Refused::Token(TokenFault::Audience)),
        ("an empty audience", claim("aud", json!([])), Refused::Token(TokenFault::Audience)),
        ("two audiences", claim("aud", json!([CLIENT, "another"])), Refused::Token(TokenFault::AuthorizedParty)),
        ("another's token", claim("azp", json!("another")), Refused::Token(TokenFault::AuthorizedParty)),
        ("an expired one", claim("exp", json!(now)), Refused::Token(TokenFault::Expired)),
        ("no expiry", without("exp"), Refused::NoToken),
        ("from the future", claim("iat", json!(now + 61)), Refused::Token(TokenFault::IssuedAt)),
        ("an old one", claim("iat", json!(now - 601)), Refused::Token(TokenFault::IssuedAt)),
        ("without age", without("iat"), Refused::NoToken),
        ("no nonce", without("nonce"), Refused::Token(TokenFault::Nonce)),
        ("another nonce", claim("nonce", json!("x".repeat(43))), Refused::Token(TokenFault::Nonce)),
        ("no subject", without("sub"), Refused::NoToken),
        ("an empty subject", claim("sub", json!("")), Refused::Token(TokenFault::Subject)),
        ("a subject too long", claim("sub", json!("x".repeat(256))), Refused::Token(TokenFault::Subject)),
        ("for another access token", claim("at_hash", json!("AAAA")), Refused::Token(TokenFault::AccessTokenHash)),
        ("no algorithm", header("alg", json!("none")), Refused::Token(TokenFault::Algorithm)),
        ("RS512", signed(&RSA, Algorithm::RS512), Refused::Token(TokenFault::Algorithm)),
        ("a MAC with the public key", signed(&PUBLIC, Algorithm::HS256), Refused::Token(TokenFault::Algorithm)),
        ("a MAC with a published key", signed(&SHARED, Algorithm::HS256), Refused::Token(TokenFault::Algorithm)),
        ("a key of nobody", header("kid", json!("nobody")), Refused::Token(TokenFault::Key)),
        ("a key of another type", header("kid", json!(EC.id())), Refused::Token(TokenFault::Key)),
        ("a key that is not published", signed(&OTHER_RSA, Algorithm::RS256), Refused::Token(TokenFault::Key)),
        (
            "another key under a known name",
            Box::new(|said| {
                said.sign_with(&OTHER_RSA, Algorithm::RS256);
                said.header("kid", RSA.id());
            }),
            Refused::Token(TokenFault::Signature),
        ),
        ("an access token", header("typ", json!("at+jwt")), Refused::Token(TokenFault::Header)),
        ("what must be understood", header("crit", json!(["exp"])), Refused::Token(TokenFault::Header)),
        ("a token in a token", header("cty", json!("JWT")), Refused::Token(TokenFault::Header)),
    ];
    for (what, change, expected) in cases {
        assert_eq!(refused(scene.sign_in(false, change).await), expected, "{what}");
    }

    let whole = |change: fn(&mut String)| {
        let scene = &scene;
        async move {
            let away = scene.begin(false).await;
            let mut token = scene.said(&away).token();
            change(&mut token);
            scene.tells(&token);
            let code = format!("code-{}", away.state());
            refused(scene.finish(scene.answer(&away, &code), scene.browser(&away)).await.unwrap())
        }
    };
    let tampered = whole(|token| {
        let at = token.rfind('.').unwrap() + 10;
        let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        token.replace_range(at..=at, other);
    });
    assert_eq!(tampered.await, Refused::Token(TokenFault::Signature));
    assert_eq!(
        whole(|token| token.truncate(token.rfind('.').unwrap() + 1)).await,
        Refused::Token(TokenFault::Signature)
    );
    assert_eq!(whole(String::clear).await, Refused::NoToken);
    let unsigned = whole(|token| {
        let claims = token.split('.').nth(1).unwrap().to_owned();
        *token = format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    });
    assert_eq!(unsigned.await, Refused::Token(TokenFault::Algorithm));

    // The same without any of it, and with what is allowed besides.
    signed_in(scene.sign_in(false, |_| {}).await);
    let finish = scene.sign_in(false, |said| {
        said.claim("aud", json!([CLIENT, "another"]));
        said.claim("azp", CLIENT);
    });
    signed_in(finish.await);
    signed_in(scene.sign_in(false, |said| said.claim("iat", now + 59)).await);
}

#[tokio::test]
async fn a16_an_answer_counts_once_in_the_browser_that_asked_for_it() {
    let scene = Scene::new().await;
    let (one, other) = (scene.begin(false).await, scene.begin(false).await);
    scene.mock.with(|state| state.challenge.clone_from(&one.asked["code_challenge"]));
    scene.tells(&scene.said(&one).token());
    let finish = async |answer, browser| scene.finish(answer, browser).await.unwrap();

    // Another browser, or one that began something else.
    let nobody = Browser { pending: None, ..scene.browser(&one) };
    assert_eq!(refused(finish(scene.answer(&one, "code-1"), nobody).await), Refused::NoSignIn);
    assert_eq!(refused(finish(scene.answer(&one, "code-1"), scene.browser(&other)).await), Refused::State);
    let forged = Browser { pending: Some(Plaintext::new("AAAA")), ..scene.browser(&one) };
    assert_eq!(refused(finish(scene.answer(&one, "code-1"), forged).await), Refused::NoSignIn);
    let stateless = Answer { state: None, ..scene.answer(&one, "code-1") };
    assert_eq!(refused(finish(stateless, scene.browser(&one)).await), Refused::State);
    // The cookie of one provider at another's callback.
    let elsewhere = Provider { name: KeyName::parse("other").unwrap(), ..scene.provider.clone() };
    let mixed = scene.providers.finish(scene.here(), &elsewhere, scene.answer(&one, "code-1"), scene.browser(&one));
    assert_eq!(refused(mixed.await.unwrap()), Refused::NoSignIn);
    // None of this used it up, and no code was sent anywhere.
    assert_eq!(scene.mock.asked("/token"), 0);
    signed_in(finish(scene.answer(&one, "code-1"), scene.browser(&one)).await);
    assert_eq!(refused(finish(scene.answer(&one, "code-2"), scene.browser(&one)).await), Refused::Replayed);
    assert_eq!(scene.mock.asked("/token"), 1);

    // A code that another sign-in has used.
    let third = scene.begin(false).await;
    assert_eq!(refused(finish(scene.answer(&third, "code-1"), scene.browser(&third)).await), Refused::Code);
    // Somebody else's code, which goes with another verifier.
    let (fourth, fifth) = (scene.begin(false).await, scene.begin(false).await);
    assert_eq!(refused(finish(scene.answer(&fourth, "code-4"), scene.browser(&fourth)).await), Refused::Code);
    // Too late.
    scene.clock.advance(LIFE);
    assert_eq!(refused(finish(scene.answer(&fifth, "code-5"), scene.browser(&fifth)).await), Refused::NoSignIn);
}

#[tokio::test]
async fn what_was_begun_at_one_listener_is_nothing_at_the_other() {
    let scene = Scene::new().await;
    let operators = Here { address: "https://ops.example", surface: Surface::Admin, ..scene.here() };
    let wanted = || Wanted { next: "/".to_owned(), fresh: false };
    let Begin::Begun(begun) = scene.providers.begin(operators, &scene.provider, wanted()).await.unwrap() else {
        panic!("it begins");
    };
    let query = begun.location.split_once('?').unwrap().1;
    let asked: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!(asked["redirect_uri"], "https://ops.example/sign-in/corp/callback");
    let public = scene.begin(false).await;
    for (here, cookie, state) in
        [(scene.here(), &begun.cookie, asked["state"].clone()), (operators, &public.cookie, public.state())]
    {
        let browser = Browser { pending: Some(cookie.clone()), ..scene.browser(&public) };
        let answer = Answer { state: Some(state), ..scene.answer(&public, "code-1") };
        let finish = scene.providers.finish(here, &scene.provider, answer, browser).await.unwrap();
        assert_eq!(refused(finish), Refused::NoSignIn, "{}", here.address);
        assert_eq!(waits_for(here, &scene.provider, cookie), None);
    }
    assert_eq!(scene.mock.asked("/token"), 0);
}

#[tokio::test]
async fn a16_another_issuers_answer_is_refused() {
    let scene = Scene::new().await;
    for issuer in [Some("https://evil.example".to_owned()), Some(scene.mock.address() + "/"), None] {
        let away = scene.begin(false).await;
        let answer = Answer { issuer, ..scene.answer(&away, "code-1") };
        assert_eq!(refused(scene.finish(answer, scene.browser(&away)).await.unwrap()), Refused::Issuer);
    }
    assert_eq!(scene.mock.asked("/token"), 0);

    // One that does not announce it need not say it; what it says has to be true.
    let scene = Scene::new().await;
    scene.mock.with(|state| state.description["authorization_response_iss_parameter_supported"] = json!(false));
    let away = scene.begin(false).await;
    let answer = Answer { issuer: Some("https://evil.example".to_owned()), ..scene.answer(&away, "code-1") };
    assert_eq!(refused(scene.finish(answer, scene.browser(&away)).await.unwrap()), Refused::Issuer);
    let away = scene.begin(false).await;
    scene.tells(&scene.said(&away).token());
    let answer = Answer { issuer: None, ..scene.answer(&away, "code-1") };
    signed_in(scene.finish(answer, scene.browser(&away)).await.unwrap());
}

#[tokio::test]
async fn a16_a_description_that_does_not_fit_is_not_used() {
    for (name, value, expected) in [
        ("issuer", json!("https://evil.example"), "another issuer"),
        ("issuer", json!(null), "description is none"),
        ("authorization_endpoint", json!("javascript:alert(1)"), "not an https address"),
        ("token_endpoint", json!(null), "no token endpoint"),
        ("jwks_uri", json!("http://10.0.0.1/keys"), "cannot be reached"),
        ("jwks_uri", json!("https://127.0.0.1/keys"), "outbound.allow"),
    ] {
        let scene = Scene::new().await;
        scene.mock.with(|state| state.description[name] = value.clone());
        let wanted = Wanted { next: "/".to_owned(), fresh: false };
        let fault = scene.providers.begin(scene.here(), &scene.provider, wanted).await.unwrap_err();
        assert!(fault.to_string().contains(expected), "{name} {value}: {fault}");
        assert!(!fault.to_string().contains("evil"), "{fault}");
    }
}

#[tokio::test]
async fn what_a_description_names_is_guarded_and_only_the_description_is_trusted() {
    let mut scene = Scene::new().await;
    scene.fetcher = Fetcher::new(Trusted::none());
    let wanted = Wanted { next: "/".to_owned(), fresh: false };
    let fault = scene.providers.begin(scene.here(), &scene.provider, wanted).await.unwrap_err();
    assert!(fault.to_string().contains("outbound.allow"), "{fault}");
    assert_eq!((scene.mock.asked("/.well-known/openid-configuration"), scene.mock.asked("/keys")), (1, 0));
}

#[tokio::test]
async fn new_keys_are_fetched_once_in_a_while() {
    let scene = Scene::new().await;
    signed_in(scene.sign_in(false, |_| {}).await);
    let with_new = |said: &mut Said| said.sign_with(&OTHER_RSA, Algorithm::RS256);
    for _ in 0..3 {
        assert_eq!(refused(scene.sign_in(false, with_new).await), Refused::Token(TokenFault::Key));
    }
    assert_eq!(scene.mock.asked("/keys"), 2);
    scene.mock.with(|state| state.keys = vec![OTHER_RSA.public.clone()]);
    scene.clock.advance(Duration::from_secs(60));
    for _ in 0..3 {
        signed_in(scene.sign_in(false, with_new).await);
    }
    assert_eq!(scene.mock.asked("/keys"), 3);
    // The old one is gone with the next description.
    signed_in(scene.sign_in(false, |_| {}).await);
    scene.clock.advance(Duration::from_secs(60 * 60));
    assert_eq!(refused(scene.sign_in(false, |_| {}).await), Refused::Token(TokenFault::Key));
}

#[tokio::test]
async fn a_person_is_known_by_the_subject_and_an_address_links_only_who_was_invited() {
    let mut scene = Scene::new().await;
    scene.provider.admits_everyone = false;
    let ada = scene.invite("ada@corp.example").await;
    let unverified = scene.sign_in(false, |said| said.claim("email_verified", false));
    assert_eq!(refused(unverified.await), Refused::Stranger);
    let silent = scene.sign_in(false, |said| said.without("email_verified"));
    assert_eq!(refused(silent.await), Refused::Stranger);
    assert_eq!(signed_in(scene.sign_in(false, |_| {}).await).session.user, ada);
    // Now that the account is somebody's, the address opens it no more, and the subject does without it.
    assert_eq!(refused(scene.sign_in(false, |said| said.claim("sub", "eve-1")).await), Refused::Stranger);
    let moved = scene.sign_in(false, |said| said.claim("email", "lovelace@corp.example"));
    assert_eq!(signed_in(moved.await).session.user, ada);
}

#[tokio::test]
async fn groups_are_read_where_an_operator_says_so() {
    let mut scene = Scene::new().await;
    scene.provider.groups_claim = Some("roles".to_owned());
    scene.mock.with(|state| state.about = json!({ "sub": "ada-1" }));
    let groups = async |finish: Finish| {
        let session = signed_in(finish).session;
        let found = browser_sessions::find(&scene.store, session.digest, Surface::Public).await.unwrap();
        found.unwrap().1.groups.to_vec()
    };
    let with = |roles: Value| scene.sign_in(false, move |said| said.claim("roles", roles));
    assert_eq!(groups(with(json!(["b", "a", "b"])).await).await, ["a", "b"]);
    assert_eq!(groups(with(json!("one")).await).await, ["one"]);
    for unreadable in [json!(["two words"]), json!([1]), json!({ "a": 1 }), json!(true)] {
        assert_eq!(refused(with(unreadable).await), Refused::Token(TokenFault::Groups));
    }
    // Whoever has left all groups is in none.
    assert_eq!(groups(scene.sign_in(false, |_| {}).await).await, Vec::<String>::new());
    scene.mock.with(|state| state.about = json!({ "sub": "ada-1", "roles": ["c"] }));
    assert_eq!(groups(scene.sign_in(false, |_| {}).await).await, ["c"]);
}

#[tokio::test]
async fn what_a_token_leaves_out_the_provider_is_asked() {
    let mut scene = Scene::new().await;
    scene.provider.admits_everyone = false;
    let ada = scene.invite("ada@corp.example").await;
    let bare = |said: &mut Said| ["name", "email", "email_verified"].into_iter().for_each(|name| said.without(name));
    scene
        .mock
        .with(|state| state.about = json!({ "sub": "eve-1", "email": "ada@corp.example", "email_verified": true }));
    assert_eq!(refused(scene.sign_in(false, bare).await), Refused::OtherSubject);
    scene
        .mock
        .with(|state| state.about = json!({ "sub": "ada-1", "email": "ada@corp.example", "email_verified": true }));
    assert_eq!(signed_in(scene.sign_in(false, bare).await).session.user, ada);
}

#[tokio::test]
async fn a_sign_in_gives_a_new_cookie_and_a_fresh_one_needs_a_fresh_proof() {
    let scene = Scene::new().await;
    let first = signed_in(scene.sign_in(false, |_| {}).await).session;
    let is_open = async |digest| browser_sessions::find(&scene.store, digest, Surface::Public).await.unwrap().is_some();

    let again = async |fresh: bool, change: &dyn Fn(&mut Said), old| {
        let away = scene.begin(fresh).await;
        let mut said = scene.said(&away);
        change(&mut said);
        scene.tells(&said.token());
        let browser = Browser { session: Some(old), ..scene.browser(&away) };
        scene.finish(scene.answer(&away, &format!("code-{}", away.state())), browser).await.unwrap()
    };
    // A session of its own each time, and the old cookie is dead (row A14).
    let second = signed_in(again(false, &|_| {}, first.digest).await).session;
    assert!(!is_open(first.digest).await && is_open(second.digest).await);
    assert_ne!(first.id, second.id);

    // Fresh: only with a proof that is.
    let now = scene.env.now().as_millis() / 1_000;
    let stale = again(true, &|said| said.claim("auth_time", now - 61), second.digest).await;
    assert_eq!(refused(stale), Refused::Token(TokenFault::AuthenticationTime));
    let silent = again(true, &|_| {}, second.digest).await;
    assert_eq!(refused(silent), Refused::Token(TokenFault::AuthenticationTime));
    assert!(is_open(second.digest).await);
    scene.clock.advance(Duration::from_secs(30));
    let proven = again(true, &|said| said.claim("auth_time", now + 30), second.digest).await;
    let third = signed_in(proven).session;
    assert!(!is_open(second.digest).await && is_open(third.digest).await);
    assert_eq!(third.id, second.id, "what waits for this session goes on");
    assert!(third.authenticated > second.authenticated);

    // Somebody else in the same browser begins a session of their own.
    let change = |said: &mut Said| {
        said.claim("auth_time", now + 30);
        said.claim("sub", "eve-1");
    };
    let eve = signed_in(again(true, &change, third.digest).await).session;
    assert!(eve.user != third.user && eve.id != third.id && !is_open(third.digest).await);
}

#[tokio::test]
async fn the_gateway_shows_its_secret_as_the_provider_wants_it() {
    let basic = format!("Basic {}", STANDARD.encode("portcullis:s3cr%26t"));
    for (methods, with_secret, header, in_body) in [
        (json!(null), true, basic.as_str(), false),
        (json!(["client_secret_basic", "client_secret_post"]), true, &basic, false),
        (json!(["client_secret_post"]), true, "", true),
        (json!(["none"]), false, "", false),
    ] {
        let mut scene = Scene::new().await;
        scene.provider.client_secret = scene.provider.client_secret.filter(|_| with_secret);
        if !methods.is_null() {
            scene.mock.with(|state| state.description["token_endpoint_auth_methods_supported"] = methods.clone());
        }
        signed_in(scene.sign_in(false, |_| {}).await);
        let sent = scene.mock.with(|state| state.requests.iter().find(|(line, ..)| line.contains("/token")).cloned());
        let (_, authorization, body) = sent.unwrap();
        assert_eq!(authorization, header, "{methods}");
        assert_eq!(body.contains("client_secret=s3cr%26t"), in_body, "{methods}");
        assert_eq!(body.contains("client_id=portcullis"), header.is_empty(), "{methods}");
    }
}

#[tokio::test]
async fn what_a_provider_says_of_faults_is_told_from_refusals_and_never_repeated() {
    let scene = Scene::new().await;
    let with_error = async |error: &str| {
        let away = scene.begin(false).await;
        let answer = Answer { code: None, error: Some(error.to_owned()), ..scene.answer(&away, "") };
        scene.finish(answer, scene.browser(&away)).await
    };
    for error in ["access_denied", "login_required", "interaction_required", "consent_required"] {
        assert_eq!(refused(with_error(error).await.unwrap()), Refused::Denied, "{error}");
    }
    assert_eq!(refused(with_error("<script>hunter2").await.unwrap()), Refused::Answer);
    let codeless = scene.begin(false).await;
    let answer = Answer { code: None, ..scene.answer(&codeless, "") };
    assert_eq!(refused(scene.finish(answer, scene.browser(&codeless)).await.unwrap()), Refused::Answer);
    for error in ["server_error", "temporarily_unavailable"] {
        assert_eq!(provider_fault(with_error(error).await), "the provider says that it cannot answer now");
    }
    assert!(provider_fault(with_error("invalid_scope").await).contains("does not accept requests"));

    let with_refusal = async |status: u16, body: &str| {
        scene.mock.with(|state| state.refusal = Some((status, body.to_owned())));
        let away = scene.begin(false).await;
        scene.finish(scene.answer(&away, "code-1"), scene.browser(&away)).await
    };
    for (status, body, expected) in [
        (500, "hunter2", "status 500"),
        (503, r#"{"error":"hunter2"}"#, "status 503"),
        (429, "{}", "status 429"),
        (302, "{}", "status 302"),
        (401, r#"{"error":"invalid_client","error_description":"hunter2"}"#, "client_secret"),
        (400, r#"{"error":"temporarily_unavailable"}"#, "cannot answer now"),
        (400, r#"{"error":"hunter2"}"#, "does not accept requests"),
    ] {
        let told = provider_fault(with_refusal(status, body).await);
        assert!(told.contains(expected) && !told.contains("hunter2"), "{status} {body}: {told}");
    }
    assert_eq!(refused(with_refusal(400, "<html>").await.unwrap()), Refused::NoToken);
    assert_eq!(
        refused(with_refusal(200, r#"{"access_token":"a","token_type":"Bearer"}"#).await.unwrap()),
        Refused::NoToken
    );

    // A provider that is not there.
    let mut gone = Scene::new().await;
    gone.provider.issuer = "http://127.0.0.1:1".to_owned();
    let wanted = Wanted { next: "/".to_owned(), fresh: false };
    let fault = gone.providers.begin(gone.here(), &gone.provider, wanted).await.unwrap_err();
    assert!(fault.to_string().contains("cannot be reached"), "{fault}");
}

#[tokio::test]
async fn an_account_that_opens_nothing_is_not_opened_by_a_provider() {
    let scene = Scene::new().await;
    let user = signed_in(scene.sign_in(false, |_| {}).await).session.user;
    let edits = vec![users::Edit::Suspend];
    users::change(&scene.store, &user, None, edits, OPERATOR).await.unwrap();
    assert_eq!(refused(scene.sign_in(false, |_| {}).await), Refused::Suspended);
}
