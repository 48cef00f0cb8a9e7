//! The endpoint's answers, check by check (`docs/threat-model.md` rows A1 to A20).

use super::*;
use crate::authorization::consent::testing::{ISSUER, Scene, client, parameter, query};
use crate::oauth::client::Metadata;
use crate::store::authorizations::push;

async fn ask(scene: &Scene, query: &str, session: Option<&Plaintext>) -> Answer {
    let arrival = Arrival { parameters: query, session, remote_ip: None, user_agent: None };
    authorize(&scene.server, arrival).await.unwrap()
}

/// The error that a client is told.
fn error(answer: &Answer) -> String {
    let Answer::Redirect(address) = answer else { panic!("nobody is told: {answer:?}") };
    assert_eq!(parameter(address, "iss").as_deref(), Some(ISSUER), "row A7");
    assert!(parameter(address, "error_description").is_some() && parameter(address, "code").is_none(), "{address}");
    parameter(address, "error").unwrap()
}

#[tokio::test]
async fn a1_an_answer_goes_to_nobody_who_is_not_registered() {
    let scene = Scene::new().await;
    for client_id in ["", "other", "APP", "app ", "http://app.example/client.json", "https://app.example/"] {
        let answer = ask(&scene, &query(&[("client_id", client_id)]), None).await;
        assert!(matches!(answer, Answer::Page(Check::Client)), "{client_id}: {answer:?}");
    }
    for redirect in [
        "",
        "https://app.example",
        "https://app.example/",
        "https://app.example/cb/",
        "https://app.example/cb?",
        "https://app.example/cb?x=1",
        "https://app.example/cb#x",
        "https://app.example/cb/../cb",
        "https://app.example/./cb",
        "https://app.example/%63b",
        "https://app.example//cb",
        "https://app.example/cb%2f",
        "https://app.example/cb%00",
        "https://app.example/CB",
        "https://APP.example/cb",
        "HTTPS://app.example/cb",
        "https://app.example:443/cb",
        "https://app.example:8443/cb",
        "https://app.example./cb",
        "https://app.example.evil.example/cb",
        "https://evil.example/cb",
        "https://evilapp.example/cb",
        "https://app.example@evil.example/cb",
        "https://user@app.example/cb",
        "https://app.example\\@evil.example/cb",
        "https://evil.example\\.app.example/cb",
        "https://app.example:@evil.example/cb",
        "https://app.example%2eevil.example/cb",
        "https://\u{430}pp.example/cb",
        "http://app.example/cb",
        "//app.example/cb",
        "//evil.example",
        "/cb",
        "app.example/cb",
        "javascript:alert(1)",
        "data:text/html,x",
        " https://app.example/cb",
        "https://app.example/cb ",
        "https://app.example/cb\n",
        "com.example.app:/cb2",
        "com.example.app://cb",
    ] {
        let answer = ask(&scene, &query(&[("redirect_uri", redirect)]), None).await;
        assert!(matches!(answer, Answer::Page(Check::RedirectUri)), "{redirect}: {answer:?}");
    }
}

#[tokio::test]
async fn a2_only_the_port_of_the_own_machine_may_differ() {
    let scene = Scene::new().await;
    let metadata = Metadata {
        redirect_uris: ["http://localhost/callback", "https://web.example/cb"].map(str::to_owned).to_vec(),
        ..client("cli").metadata
    };
    scene.register("cli", metadata).await;
    for (id, redirect, is_taken) in [
        ("app", "http://127.0.0.1:33418/cb", true),
        ("app", "http://127.0.0.1:50123/cb", true),
        ("app", "http://127.0.0.1/cb", true),
        ("app", "http://localhost:33418/cb", false),
        ("app", "http://[::1]:33418/cb", false),
        ("app", "http://127.0.0.1:33418/", false),
        ("app", "http://127.0.0.1:33418/cb?x", false),
        ("app", "http://127.0.0.1:0/cb", false),
        ("app", "http://127.0.0.2:33418/cb", false),
        ("app", "https://127.0.0.1:33418/cb", false),
        ("cli", "http://localhost:49152/callback", true),
        ("cli", "http://127.0.0.1:49152/callback", false),
        ("cli", "https://web.example:8443/cb", false),
        ("cli", "https://app.example/cb", false),
    ] {
        let answer = ask(&scene, &query(&[("client_id", id), ("redirect_uri", redirect)]), None).await;
        assert_eq!(matches!(answer, Answer::Ask { .. }), is_taken, "{id} {redirect}: {answer:?}");
        assert!(is_taken || matches!(answer, Answer::Page(Check::RedirectUri)), "{id} {redirect}");
    }
}

#[tokio::test]
async fn a5_what_comes_twice_is_told_to_whom_it_may_be_told() {
    let scene = Scene::new().await;
    let twice = |pair: &str| format!("{}&{pair}", query(&[]));
    for pair in ["client_id=app", "client_id=other"] {
        assert!(matches!(ask(&scene, &twice(pair), None).await, Answer::Page(Check::Client)), "{pair}");
    }
    for pair in ["redirect_uri=https%3A%2F%2Fapp.example%2Fcb", "redirect_uri=https%3A%2F%2Fevil.example"] {
        assert!(matches!(ask(&scene, &twice(pair), None).await, Answer::Page(Check::RedirectUri)), "{pair}");
    }
    for (pair, expected) in [
        ("state=s2", "invalid_request"),
        ("scope=mcp&scope=mcp", "invalid_request"),
        ("code_challenge=x", "invalid_request"),
        ("request=eyJ", "request_not_supported"),
        ("request_uri=https%3A%2F%2Fapp.example%2Fr", "request_uri_not_supported"),
    ] {
        assert_eq!(error(&ask(&scene, &twice(pair), None).await), expected, "{pair}");
    }
    assert!(matches!(ask(&scene, &"x=1&".repeat(100), None).await, Answer::Page(Check::Parameters)));
}

#[tokio::test]
async fn a7_every_error_has_state_and_issuer() {
    let scene = Scene::new().await;
    for (changed, expected) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("code_challenge", "x"), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("resource", "https://evil.example/mcp"), "invalid_target"),
        (("scope", "admin"), "invalid_scope"),
        (("prompt", "none login"), "invalid_request"),
        (("prompt", "none"), "login_required"),
        (("max_age", "soon"), "invalid_request"),
        (("dpop_jkt", "x"), "invalid_request"),
    ] {
        let answer = ask(&scene, &query(&[changed]), None).await;
        assert_eq!(error(&answer), expected, "{changed:?}");
        let Answer::Redirect(address) = &answer else { panic!() };
        assert!(address.starts_with("https://app.example/cb?"), "{address}");
        assert_eq!(parameter(address, "state").as_deref(), Some("s1"));
    }
    let answer = ask(&scene, &query(&[("state", &"x".repeat(2049))]), None).await;
    assert_eq!(error(&answer), "invalid_request", "row A19");
    let Answer::Redirect(address) = answer else { panic!() };
    assert!(address.len() < 500, "what is too long is not sent back");
}

#[tokio::test]
async fn a18_whoever_may_not_be_asked_is_not_asked() {
    let scene = Scene::new().await;
    let ada = scene.person("ada").await;
    let session = scene.sign_in(&ada).await;
    let none = query(&[("prompt", "none")]);
    assert_eq!(error(&ask(&scene, &none, None).await), "login_required");
    let stranger = Plaintext::new("stranger");
    assert_eq!(error(&ask(&scene, &none, Some(&stranger)).await), "login_required");
    assert_eq!(error(&ask(&scene, &none, Some(&session)).await), "consent_required");
    scene.clock.advance(Duration::from_secs(61));
    let recent = query(&[("prompt", "none"), ("max_age", "60")]);
    assert_eq!(error(&ask(&scene, &recent, Some(&session)).await), "login_required");
    let recent = query(&[("prompt", "none"), ("max_age", "120")]);
    assert_eq!(error(&ask(&scene, &recent, Some(&session)).await), "consent_required");
    assert_eq!(scene.trail().await.iter().filter(|name| name.starts_with("consent")).count(), 0);
}

#[tokio::test]
async fn a20_what_was_pushed_is_taken_once_by_its_client() {
    let scene = Scene::new().await;
    scene.register("other", client("other").metadata).await;
    let push_as = async |reference: &str, parameters: &str| {
        let reference = Digest::of(reference.as_bytes());
        let id = ClientId::parse("app").unwrap();
        let life = Duration::from_secs(60);
        push(&scene.server.store, reference, id, parameters.to_owned(), life, 10).await.unwrap();
    };
    let reference = |end: &str| format!("{PUSHED_REFERENCE}{end}");
    for end in ["a", "late", "wrong"] {
        push_as(&reference(end), &query(&[])).await;
    }
    let by = |id: &str, reference: &str| query_of(&[("client_id", id), ("request_uri", reference)]);
    let is_gone = |answer: Answer| matches!(answer, Answer::Page(Check::PushedRequest));
    assert!(is_gone(ask(&scene, &by("other", &reference("a")), None).await), "another client's");
    assert!(is_gone(ask(&scene, &by("app", &reference("guessed")), None).await));
    assert!(matches!(ask(&scene, &by("app", &reference("a")), None).await, Answer::Ask { .. }));
    assert!(is_gone(ask(&scene, &by("app", &reference("a")), None).await), "used");
    scene.clock.advance(Duration::from_secs(60));
    assert!(is_gone(ask(&scene, &by("app", &reference("late")), None).await), "too old");
    assert_eq!(Check::PushedRequest.error(), "invalid_request_uri");
    // What stands beside the reference counts for nothing.
    push_as(&reference("b"), &query(&[("state", "pushed")])).await;
    let both = format!("{}&state=other&redirect_uri=https%3A%2F%2Fevil.example", by("app", &reference("b")));
    let Answer::Ask { request, secret } = ask(&scene, &both, None).await else { panic!() };
    let begun = authorizations::get(&scene.server.store, &request, secret.digest()).await.unwrap().unwrap();
    assert_eq!((begun.state.as_deref(), &*begun.redirect_uri), (Some("pushed"), "https://app.example/cb"));
}

fn query_of(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[tokio::test]
async fn a_store_that_fails_is_no_denial() {
    let scene =
        Scene::with("[auth.clients.known.fixed]\nredirect_uris = ['https://app.example/cb']\nname = 'Fixed'\n").await;
    scene.server.store.close().await;
    let arrival = |parameters| Arrival { parameters, session: None, remote_ip: None, user_agent: None };
    let asked = query(&[]);
    assert!(matches!(authorize(&scene.server, arrival(&asked)).await, Err(Fault::Store(_))), "nobody can be told");
    let answer = ask(&scene, &query(&[("client_id", "fixed")]), None).await;
    assert_eq!(error(&answer), "temporarily_unavailable");
}

#[tokio::test]
async fn an_address_that_comes_too_often_waits() {
    let scene = Scene::new().await;
    let (mut asked, mut waiting) = (0, 0);
    for _ in 0..70 {
        match ask(&scene, &query(&[]), None).await {
            Answer::Ask { .. } => asked += 1,
            Answer::TooOften(wait) => {
                assert!(wait > Duration::ZERO);
                waiting += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((60..=62).contains(&asked) && waiting >= 8, "{asked} {waiting}");
}
