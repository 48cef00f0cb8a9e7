//! Servers that lie, fail, move or forget.

use super::*;
use crate::store::upstream_clients::of_redirect;

fn unfit(error: &DiscoverError) -> Unfit {
    let DiscoverError::Unfit(unfit) = error else { panic!("{error:?}") };
    *unfit
}

#[tokio::test]
async fn u2_what_a_server_says_of_itself_has_to_fit() {
    type Lie = fn(&Scene);
    let lies: [(Lie, Unfit); 9] = [
        (|scene| scene.server.with(|state| state.server["issuer"] = json!("https://as.example")), Unfit::OtherIssuer),
        (
            |scene| {
                scene.server.with(|state| {
                    state.server["issuer"] = json!(format!("{}/", state.server["issuer"].as_str().unwrap()));
                });
            },
            Unfit::OtherIssuer,
        ),
        (
            |scene| scene.mcp.with(|state| state.resource["resource"] = json!("https://mcp.example/mcp")),
            Unfit::OtherResource,
        ),
        (
            |scene| {
                scene.mcp.with(|state| {
                    state.resource["resource"] = json!(format!("{}x", state.resource["resource"].as_str().unwrap()));
                });
            },
            Unfit::OtherResource,
        ),
        (|scene| scene.mcp.with(|state| state.resource["authorization_servers"] = json!([])), Unfit::NoServers),
        (
            |scene| scene.server.with(|state| state.server["code_challenge_methods_supported"] = json!(["plain"])),
            Unfit::NoPkce,
        ),
        (
            |scene| {
                drop(
                    scene
                        .server
                        .with(|state| state.server.as_object_mut().unwrap().remove("code_challenge_methods_supported")),
                );
            },
            Unfit::NoPkce,
        ),
        (
            |scene| scene.server.with(|state| state.server["token_endpoint"] = json!("http://as.example/token")),
            Unfit::Insecure,
        ),
        (|scene| scene.mcp.say(RESOURCE, 200, "{\"resource\":"), Unfit::ResourceMissing),
    ];
    for (number, (lie, expected)) in lies.into_iter().enumerate() {
        let scene = Scene::new().await;
        lie(&scene);
        assert_eq!(unfit(&scene.discover().await.unwrap_err()), expected, "lie {number}");
        let Err(NoWay::Unfit { what }) = scene.way(&[]).await else { panic!("lie {number}") };
        assert_eq!(what, expected.as_str());
        assert_eq!(scene.server.asked("/register").len() + scene.server.asked("/token").len(), 0);
    }
}

#[tokio::test]
async fn u1_an_address_that_was_discovered_is_not_trusted_for_having_been_named() {
    let scene = Scene::new().await;
    let stranger = Mock::start();
    // As the server, as the place of the document, and as an endpoint of an honest server.
    scene.mcp.with(|state| state.resource["authorization_servers"] = json!([stranger.at("")]));
    assert_eq!(unfit(&scene.discover().await.unwrap_err()), Unfit::Guarded);
    scene.later();
    let line = format!("www-authenticate: Bearer resource_metadata=\"{}\"\r\n", stranger.at(RESOURCE));
    scene.mcp.say_with("/mcp", 401, &line, "");
    assert_eq!(unfit(&scene.discover().await.unwrap_err()), Unfit::Guarded);
    scene.later();
    scene.mcp.reset();
    scene.mcp.with(|state| state.resource["authorization_servers"] = json!([scene.server.at("")]));
    scene.server.with(|state| {
        state.server["registration_endpoint"] = json!(stranger.at("/register"));
        state.server["token_endpoint"] = json!(stranger.at("/token"));
    });
    let Err(NoWay::Unfit { what }) = scene.way(&[]).await else { panic!("registered at a stranger") };
    assert_eq!(what, Unfit::Guarded.as_str());
    scene.configure(|client| client.client = Some(ClientCredentials { id: "ours".to_owned(), secret: None }));
    let away = scene.way(&[]).await.unwrap();
    assert!(matches!(scene.exchange(&away).await, Err(NotIssued::Later { .. })));
    assert!(stranger.with(|state| state.requests.is_empty()));
}

#[tokio::test]
async fn u1_no_redirect_is_followed() {
    let scene = Scene::new().await;
    let elsewhere = Mock::start();
    let scene = Scene {
        provider: Arc::new(Provider::new(Parts {
            fetcher: trusting(&[&scene.server, &elsewhere]),
            ..scene.provider.parts.clone()
        })),
        ..scene
    };
    let to = |path: &str| format!("location: {}\r\n", elsewhere.at(path));
    scene.mcp.say_with(RESOURCE, 302, &to(RESOURCE), "");
    assert_eq!(unfit(&scene.discover().await.unwrap_err()), Unfit::ResourceMissing);
    scene.mcp.reset();
    scene.server.say_with(SERVER, 301, &to(SERVER), "{}");
    assert_eq!(unfit(&scene.discover().await.unwrap_err()), Unfit::Missing);
    scene.server.reset();
    scene.server.say_with("/register", 307, &to("/register"), "");
    assert!(matches!(scene.way(&[]).await, Err(NoWay::Unfit { .. })));
    scene.server.reset();
    let (away, refresh) = scene.connected().await;
    scene.server.say_with("/token", 307, &to("/token"), "");
    assert!(matches!(scene.refresh(&away, &refresh).await, Err(NotIssued::Later { .. })));
    assert!(elsewhere.with(|state| state.requests.is_empty()));
}

#[tokio::test]
async fn a_server_that_fails_is_asked_again_and_one_that_says_too_much_is_not_listened_to() {
    let scene = Scene::new().await;
    for (mock, path, stage) in [
        (&scene.mcp, "/mcp", Stage::Upstream),
        (&scene.mcp, RESOURCE, Stage::Resource),
        (&scene.server, SERVER, Stage::Server),
    ] {
        mock.say_with(path, 503, "retry-after: 7\r\n", "");
        let expected = DiscoverError::Unreachable { stage, retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(scene.discover().await.unwrap_err(), expected);
        mock.reset();
    }
    scene.later();
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(300 * 1024));
    scene.mcp.say(RESOURCE, 200, &large);
    assert_eq!(unfit(&scene.discover().await.unwrap_err()), Unfit::ResourceUnreadable);
    scene.mcp.reset();
    scene.server.say(SERVER, 200, &large);
    assert_eq!(unfit(&scene.discover().await.unwrap_err()), Unfit::Unreadable);
    scene.server.reset();
    // Nothing of that is remembered.
    scene.discover().await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let scene = Scene::new().await;
    tokio::time::pause();
    scene.mcp.with(|state| state.silent.push("/mcp".to_owned()));
    let expected = DiscoverError::Unreachable { stage: Stage::Upstream, retry_after: None };
    assert_eq!(scene.discover().await.unwrap_err(), expected);
}

#[tokio::test]
async fn a_server_that_registers_nobody_needs_a_configured_client() {
    let scene = Scene::new().await;
    for (status, head, expected) in [
        (403, "", NoWay::Unfit { what: Unfit::NotRegistered.as_str() }),
        (400, "", NoWay::Unfit { what: Unfit::NotRegistered.as_str() }),
        (200, "", NoWay::Unfit { what: Unfit::Registered.as_str() }),
        (429, "retry-after: 9\r\n", NoWay::Unreachable { retry_after: Some(Duration::from_secs(9)) }),
        (500, "", NoWay::Unreachable { retry_after: None }),
    ] {
        scene.server.say_with("/register", status, head, "{\"error\":\"<b>hunter2</b>\"}");
        assert_eq!(scene.way(&[]).await.err(), Some(expected), "{status}");
    }
    scene.server.reset();
    let away = scene.way(&[]).await.unwrap().way;
    assert_eq!(scene.server.with(|state| state.clients.len()), 1);
    let (store, name) = (&scene.provider.parts.store, &away.source.upstream);
    let kept = of_redirect(store, name, &away.source.issuer, &away.redirect).await.unwrap().unwrap();
    assert_eq!(kept.client, away.source.client);
    let other = Scene::new().await;
    other.server.with(|state| drop(state.server.as_object_mut().unwrap().remove("registration_endpoint")));
    let expected = NoWay::Unfit { what: Unfit::NoRegistration.as_str() };
    assert_eq!(other.way(&[]).await.err(), Some(expected));
}

#[tokio::test]
async fn a_client_that_was_forgotten_is_registered_again_once() {
    let scene = Scene::new().await;
    let (away, refresh) = scene.connected().await;
    scene.server.with(|state| state.clients.clear());
    let forgotten = Some(NotIssued::Refused(Reason::ClientForgotten));
    assert_eq!(scene.refresh(&away, &refresh).await.err(), forgotten);
    let again = scene.way(&[]).await.unwrap();
    assert_ne!(again.way.source.client, away.way.source.client);
    // Whoever was connected with the old one hears the same, and nobody registers for it.
    assert_eq!(scene.refresh(&away, &refresh).await.err(), forgotten);
    assert_eq!(scene.way(&[]).await.unwrap().way.source, again.way.source);
    assert_eq!(scene.server.asked("/register").len(), 2);
    scene.exchange(&again).await.unwrap();
}

#[tokio::test]
async fn u8_a_refresh_is_refused_only_by_what_the_server_says_for_good() {
    let scene = Scene::new().await;
    let (away, refresh) = scene.connected().await;
    let later = |seconds: Option<u64>| NotIssued::Later { retry_after: seconds.map(Duration::from_secs) };
    for (status, head, body, expected) in [
        (400, "", r#"{"error":"invalid_grant"}"#, NotIssued::Refused(Reason::RefreshRefused)),
        (401, "", r#"{"error":"invalid_grant"}"#, NotIssued::Refused(Reason::RefreshRefused)),
        (400, "", r#"{"error":"temporarily_unavailable"}"#, later(None)),
        (429, "retry-after: 30\r\n", r#"{"error":"invalid_grant"}"#, later(Some(30))),
        (503, "retry-after: 999999\r\n", "", later(Some(3600))),
        (500, "", r#"{"error":"invalid_client"}"#, later(None)),
        (401, "", "<html>", later(None)),
        (200, "", "", later(None)),
        (200, "", r#"{"access_token":"x","token_type":"mac"}"#, later(None)),
        (404, "", "", later(None)),
    ] {
        scene.server.say_with("/token", status, head, body);
        assert_eq!(scene.refresh(&away, &refresh).await.err(), Some(expected), "{status} {body}");
    }
    let large = json!({ "access_token": "x".repeat(300 * 1024), "token_type": "Bearer" }).to_string();
    scene.server.say("/token", 200, &large);
    assert_eq!(scene.refresh(&away, &refresh).await.err(), Some(later(None)));
    // After all of that it is as good as before.
    scene.server.reset();
    assert_eq!(scene.refresh(&away, &refresh).await.unwrap().access.expose(), "at-2");
}

#[tokio::test]
async fn u5_an_upstream_that_moves_to_another_server_takes_nothing_along() {
    let scene = Scene::new().await;
    let (away, refresh) = scene.connected().await;
    let next = Mock::start();
    let parts = Parts { fetcher: trusting(&[&scene.server, &next]), ..scene.provider.parts.clone() };
    let scene = Scene { provider: Arc::new(Provider::new(parts)), ..scene };
    // What is only not to be reached has not moved.
    for (path, status) in [("/mcp", 503), (RESOURCE, 503), (RESOURCE, 404)] {
        scene.mcp.say(path, status, "");
        let issued = scene.refresh(&away, &refresh).await;
        assert!(matches!(issued, Err(NotIssued::Later { .. })), "{path} {status} {issued:?}");
        scene.mcp.reset();
        scene.later();
    }
    scene.mcp.say("/mcp", 401, "");
    scene.mcp.say(RESOURCE, 404, "");
    let issued = scene.refresh(&away, &refresh).await;
    assert!(matches!(issued, Err(NotIssued::Later { .. })), "a document that is gone says nothing: {issued:?}");
    scene.mcp.reset();
    scene.later();
    // One of several is one of them.
    scene.mcp.with(|state| state.resource["authorization_servers"] = json!([next.at(""), scene.server.at("")]));
    assert_eq!(scene.refresh(&away, &refresh).await.unwrap().access.expose(), "at-2");

    scene.mcp.with(|state| state.resource["authorization_servers"] = json!([next.at("")]));
    scene.later();
    let asked = scene.server.asked("/token").len();
    let refused = scene.refresh(&away, &Plaintext::new("rt-2")).await.err();
    assert_eq!(refused, Some(NotIssued::Refused(Reason::IssuerChanged)));
    let refused = scene.exchange(&away).await.err();
    assert_eq!(refused, Some(NotIssued::Refused(Reason::IssuerChanged)));
    assert_eq!((scene.server.asked("/token").len(), next.asked("/token").len()), (asked, 0));
    let moved = scene.way(&[]).await.unwrap().way;
    assert_eq!(moved.source.issuer, next.at(""));
    assert!(moved.redirect != away.way.redirect && next.asked("/register").len() == 1);
    // Whoever is sent there a minute later goes where the upstream is now.
    scene.mcp.with(|state| state.resource["authorization_servers"] = json!([scene.server.at("")]));
    scene.clock.advance(Duration::from_secs(61));
    assert_eq!(scene.way(&[]).await.unwrap().way.source.issuer, scene.server.at(""));
    scene.mcp.with(|state| state.resource["authorization_servers"] = json!([next.at("")]));
    scene.later();
    // The old tokens are ended where they are from.
    scene.provider.revoke(&away.way.source, None, &Plaintext::new("at-2")).await.unwrap();
    assert_eq!((scene.server.asked("/revoke").len(), next.asked("/revoke").len()), (1, 0));
}

#[tokio::test]
async fn u5_an_issuer_that_the_operator_changes_counts_at_once() {
    let scene = Scene::new().await;
    let (away, refresh) = scene.connected().await;
    scene.configure(|client| client.issuer = Some("https://as.example".to_owned()));
    let refused = scene.refresh(&away, &refresh).await.err();
    assert_eq!(refused, Some(NotIssued::Refused(Reason::IssuerChanged)));
    scene.configure(|client| client.issuer = Some(scene.server.at("")));
    scene.refresh(&away, &refresh).await.unwrap();
    // An upstream that is not there says nothing about its tokens.
    *scene.settings.lock().unwrap() = None;
    assert!(matches!(scene.refresh(&away, &refresh).await, Err(NotIssued::Later { .. })));
}

#[tokio::test]
async fn u10_both_tokens_are_revoked_where_that_can_be_done() {
    let scene = Scene::new().await;
    let (away, refresh) = scene.connected().await;
    let (source, access) = (&away.way.source, Plaintext::new("at-1"));
    scene.provider.revoke(source, Some(&refresh), &access).await.unwrap();
    let told = |asked: &mock::Asked| (asked.form()["token"].clone(), asked.form()["token_type_hint"].clone());
    let expected = [("rt-1", "refresh_token"), ("at-1", "access_token")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(scene.server.asked("/revoke").iter().map(told).collect::<Vec<_>>(), expected);
    for (status, head, body, expected) in [
        (503, "retry-after: 5\r\n", "", Err(NotRevoked::Later { retry_after: Some(Duration::from_secs(5)) })),
        (400, "", r#"{"error":"unsupported_token_type"}"#, Err(NotRevoked::Never)),
        (401, "", r#"{"error":"invalid_client"}"#, Err(NotRevoked::Never)),
        (200, "", "", Ok(())),
    ] {
        scene.server.say_with("/revoke", status, head, body);
        assert_eq!(scene.provider.revoke(source, Some(&refresh), &access).await, expected, "{status}");
    }
    scene.later();
    scene.server.say(SERVER, 503, "");
    let later = Err(NotRevoked::Later { retry_after: None });
    assert_eq!(scene.provider.revoke(source, Some(&refresh), &access).await, later);
    scene.server.reset();
    scene.server.with(|state| drop(state.server.as_object_mut().unwrap().remove("revocation_endpoint")));
    assert_eq!(scene.provider.revoke(source, Some(&refresh), &access).await, Err(NotRevoked::Never));
}
