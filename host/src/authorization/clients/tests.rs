//! Clients as the authorization server finds, registers, bounds and forgets them.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::operators::{self, Change, Listed};
use super::register::{Refused, Requester, delete, read, update};
use super::testing::Scene;
use super::*;
use crate::audit::{Actor, AuditEvent, OperatorProof};
use crate::authorization::Fault;
use crate::config::auth::ConfiguredClient;
use crate::glob::Glob;
use crate::oauth::client::{ClientOrigin, GrantType, Metadata, Source};
use crate::oauth::grant::OnReuse;
use crate::outbound::DocumentHost;
use crate::policy::tests::{about_clients, denial};
use crate::store::sweeper::Sweeper;
use crate::store::{audit, changes};

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
const HTTPS: &str = "https://client.example/cb";
const HOUR: Duration = Duration::from_secs(60 * 60);

fn id(text: &str) -> ClientId {
    ClientId::parse(text).unwrap()
}

fn members(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

async fn find(scene: &Scene, id: &ClientId) -> Option<Arc<KnownClient>> {
    scene.server.clients.find(&scene.server, id).await.unwrap()
}

async fn events(scene: &Scene) -> Vec<AuditEvent> {
    let page = audit::list(&scene.server.store, None, 100).await.unwrap();
    page.items.into_iter().map(|recorded| recorded.entry.event).collect()
}

// ---- registration

#[tokio::test]
async fn t13_a_client_that_registers_is_found_and_owns_its_registration() {
    let scene = Scene::new().await;
    let told = scene.register("http://localhost:3334/oauth/callback").await;
    assert!(told.secret.is_none() && told.token.expose().starts_with("pct_"));
    let found = find(&scene, &told.client.id).await.unwrap();
    assert_eq!((found.origin, found.authentication.clone()), (ClientOrigin::Registered, Authentication::Public));
    assert!(!found.is_verified() && !found.id.is_address());
    let read = read(&scene.server, told.client.id.as_str(), &told.token, Requester::default()).await.unwrap();
    assert_eq!(read.unwrap(), told.client);
    let body = json!({ "redirect_uris": [HTTPS], "token_endpoint_auth_method": "client_secret_basic" });
    let confidential = scene.try_register(&body).await.unwrap();
    let secret = confidential.secret.unwrap();
    assert!(secret.expose().starts_with("pcs_"));
    assert_eq!(confidential.client.authentication, Authentication::SecretBasic(secret.digest()));
    assert!(matches!(events(&scene).await[0], AuditEvent::ClientRegistered { .. }));
}

#[tokio::test]
async fn t13_a_secret_is_for_those_who_can_keep_it() {
    let scene = Scene::new().await;
    for redirects in
        [json!(["http://127.0.0.1/cb"]), json!([HTTPS, "http://localhost/cb"]), json!(["com.example.app:/cb"])]
    {
        for method in ["client_secret_basic", "client_secret_post"] {
            let body = json!({ "redirect_uris": redirects, "token_endpoint_auth_method": method });
            let told = scene.try_register(&body).await.unwrap();
            assert_eq!((told.secret.is_none(), told.client.authentication), (true, Authentication::Public), "{body}");
        }
    }
}

#[tokio::test]
async fn t13_registrations_from_one_address_come_in_their_time() {
    let scene = Scene::new().await;
    scene.set(|auth| auth.clients.registrations_per_minute = 5);
    let from = |text: &str| Requester { address: Some(text.parse().unwrap()), user_agent: None };
    let body = json!({ "redirect_uris": [HTTPS] }).to_string();
    let register = async |text: &str| register::register(&scene.server, body.as_bytes(), from(text)).await.unwrap();
    for _ in 0..5 {
        register("192.0.2.1").await.unwrap();
    }
    let Err(Refused::TooOften { wait }) = register("192.0.2.1").await else { panic!("it is too often") };
    assert!(wait > Duration::from_secs(10) && wait <= Duration::from_secs(12), "{wait:?}");
    register("192.0.2.2").await.unwrap();
    // What cannot be registered counts as well, and so does looking after a registration.
    for _ in 0..5 {
        assert!(register::register(&scene.server, b"{}", from("192.0.2.3")).await.unwrap().is_err());
    }
    let told = scene.register(HTTPS).await;
    let looked = read(&scene.server, told.client.id.as_str(), &told.token, from("192.0.2.3")).await.unwrap();
    assert!(matches!(looked, Err(Refused::TooOften { .. })));
}

#[tokio::test]
async fn t13_a_closed_gateway_registers_nobody() {
    let scene = Scene::new().await;
    assert!(scene.server.metadata().is_open);
    scene.set(|auth| auth.clients.registration = false);
    let refused = scene.try_register(&json!({ "redirect_uris": [HTTPS] })).await;
    assert!(matches!(refused, Err(Refused::Closed)) && !scene.server.metadata().is_open);
    assert_eq!(stored::count(&scene.server.store).await.unwrap(), 0);
}

#[tokio::test]
async fn t13_the_store_stays_bounded_and_what_is_used_stays() {
    let scene = Scene::new().await;
    scene.set(|auth| (auth.clients.max_registered, auth.clients.registrations_per_minute) = (20, 100_000));
    let first = scene.register(HTTPS).await.client;
    // The clock stands still, and of those of one moment any may go first.
    scene.clock.advance(Duration::from_millis(1));
    let operated =
        operators::add(&scene.server, members(&json!({ "redirect_uris": [HTTPS] })), OnReuse::default(), OPERATOR);
    let (operated, _) = operated.await.unwrap().unwrap();
    for _ in 0..200 {
        scene.register(HTTPS).await;
    }
    assert_eq!(stored::count(&scene.server.store).await.unwrap(), 20);
    // The oldest unused one made room; what an operator added did not.
    assert!(stored::get(&scene.server.store, &first.id).await.unwrap().is_none());
    assert!(find(&scene, &operated.id).await.is_some());
    let last = scene.register(HTTPS).await.client;
    assert!(find(&scene, &last.id).await.is_some());
}

/// The real bound, and healthy afterwards.
#[tokio::test]
async fn t13_ten_thousand_registrations_leave_a_healthy_gateway() {
    const MANY: u64 = 10_000;
    let scene = Arc::new(Scene::new().await);
    scene.set(|auth| auth.clients.registrations_per_minute = 1_000_000);
    assert_eq!(scene.server.settings().clients.max_registered, MANY);
    let mut registering = JoinSet::new();
    for _ in 0..64 {
        let scene = scene.clone();
        registering.spawn(async move {
            for _ in 0..160 {
                scene.register(HTTPS).await;
            }
        });
    }
    registering.join_all().await;
    assert_eq!(stored::count(&scene.server.store).await.unwrap(), MANY);
    let told = scene.register(HTTPS).await;
    assert!(find(&scene, &told.client.id).await.is_some());
    assert_eq!(stored::count(&scene.server.store).await.unwrap(), MANY);
    let page = operators::list(&scene.server, None, None, 200).await.unwrap();
    assert_eq!(page.items.len(), 200);
    // Nobody used any: in an hour all are gone.
    scene.clock.advance(HOUR);
    assert!(find(&scene, &told.client.id).await.is_none());
}

#[tokio::test]
async fn t13_what_nobody_uses_goes_after_an_hour_and_the_sweeper_takes_it_out() {
    let scene = Scene::new().await;
    let told = scene.register(HTTPS).await;
    let found = async || find(&scene, &told.client.id).await.is_some();
    assert!(found().await);
    scene.clock.advance(HOUR - Duration::from_millis(1));
    assert!(found().await);
    scene.clock.advance(Duration::from_millis(1));
    assert!(!found().await, "a kept copy ends with what it is a copy of");
    let managed = read(&scene.server, told.client.id.as_str(), &told.token, Requester::default()).await.unwrap();
    assert!(matches!(managed, Err(Refused::Unauthorized)));
    assert_eq!(stored::count(&scene.server.store).await.unwrap(), 1, "nobody has taken it out");
    let sweeper = Sweeper::new(scene.server.store.clone(), Duration::from_secs(400 * 24 * 3600));
    let tasks = crate::tasks::Tasks::new();
    tasks.spawn(sweeper.run(tasks.stopping().clone()));
    crate::admin::testing::until("it is taken out", async || stored::count(&scene.server.store).await.unwrap() == 0)
        .await;
    assert!(tasks.stop(Duration::from_secs(10)).await);
}

// ---- policies

#[tokio::test]
async fn policies_decide_who_registers_and_as_what() {
    let scene = Scene::new().await;
    let body =
        json!({ "redirect_uris": [HTTPS, "https://client.example/other"], "client_name": "Client", "scope": "mcp" });
    scene.decide(about_clients(denial("no")));
    let Err(Refused::Policy(refusal)) = scene.try_register(&body).await else { panic!("it is denied") };
    assert!(refusal.to_string().contains("No."), "{refusal}");
    assert_eq!(stored::count(&scene.server.store).await.unwrap(), 0);

    let edit = |pointer: &str, op: Value| json!({ "allow": [{ "pointer": pointer, "op": op }] });
    scene.decide(about_clients(edit("/redirect_uris/1", json!("remove"))));
    let narrowed = scene.try_register(&body).await.unwrap().client;
    assert_eq!(narrowed.metadata.redirect_uris, [HTTPS]);
    for (pointer, op) in [
        ("/redirect_uris/1", json!({ "set": "\"javascript:alert(1)\"" })),
        ("/scope", json!({ "set": "\"\"" })),
        ("/redirect_uris", json!({ "set": "[]" })),
    ] {
        scene.decide(about_clients(edit(pointer, op)));
        let Err(Refused::Policy(refusal)) = scene.try_register(&body).await else { panic!("{pointer}") };
        assert!(matches!(refusal, crate::policy::Refusal::PolicyFailed { .. }), "{pointer}: {refusal}");
    }
    scene.decide(about_clients(json!("abstain")));
    assert!(matches!(scene.try_register(&body).await, Err(Refused::Policy(_))), "nobody allowed it");
}

// ---- management

#[tokio::test]
async fn t14_an_update_replaces_all_and_the_token_as_well() {
    let scene = Scene::new().await;
    let body = json!({ "redirect_uris": [HTTPS], "client_name": "One", "contacts": ["a@client.example"], "token_endpoint_auth_method": "client_secret_basic" });
    let told = scene.try_register(&body).await.unwrap();
    let (id, secret) = (told.client.id.clone(), told.secret.unwrap());
    assert!(find(&scene, &id).await.is_some());
    let put = async |token: &Plaintext, body: Value| {
        update(&scene.server, id.as_str(), token, body.to_string().as_bytes(), Requester::default()).await.unwrap()
    };
    let next = json!({ "client_id": id.as_str(), "redirect_uris": ["https://client.example/next"], "token_endpoint_auth_method": "client_secret_post", "client_secret": secret.expose() });
    let updated = put(&told.token, next.clone()).await.unwrap();
    assert_ne!(updated.token.digest(), told.token.digest());
    assert!(updated.secret.is_none(), "the secret stays");
    assert_eq!(updated.client.authentication, Authentication::SecretPost(secret.digest()));
    let expected = Metadata {
        redirect_uris: vec!["https://client.example/next".to_owned()],
        grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        ..Metadata::default()
    };
    assert_eq!(updated.client.metadata, expected, "what is not said is gone");
    assert_eq!(find(&scene, &id).await.unwrap().metadata, expected, "and nobody sees the old one");
    assert!(matches!(put(&told.token, next.clone()).await, Err(Refused::Unauthorized)), "the old token is dead");

    let token = updated.token;
    for (member, value) in [
        ("client_id", json!("other")),
        ("client_id", Value::Null),
        ("registration_access_token", json!("x")),
        ("registration_client_uri", json!("x")),
        ("client_secret_expires_at", json!(0)),
        ("client_id_issued_at", json!(0)),
        ("client_secret", json!("mine")),
        ("client_secret", json!(7)),
        ("redirect_uris", json!([])),
        ("redirect_uris", json!(["http://client.example/"])),
        ("grant_types", json!(["password"])),
    ] {
        let mut wrong = next.clone();
        wrong[member] = value;
        assert!(matches!(put(&token, wrong.clone()).await, Err(Refused::Unacceptable(_))), "{wrong}");
    }
    let public =
        put(&token, json!({ "client_id": id.as_str(), "redirect_uris": ["http://localhost/cb"] })).await.unwrap();
    assert_eq!(public.client.authentication, Authentication::Public);
    let again = json!({ "client_id": id.as_str(), "redirect_uris": [HTTPS], "token_endpoint_auth_method": "client_secret_basic" });
    let again = put(&public.token, again).await.unwrap();
    assert!(again.secret.is_some_and(|new| new.digest() != secret.digest()), "a secret that was given up is dead");
}

#[tokio::test]
async fn t14_whoever_has_not_the_token_has_no_say() {
    let scene = Scene::new().await;
    let (one, other) = (scene.register(HTTPS).await, scene.register(HTTPS).await);
    let (operated, _) =
        operators::add(&scene.server, members(&json!({ "redirect_uris": [HTTPS] })), OnReuse::default(), OPERATOR)
            .await
            .unwrap()
            .unwrap();
    let from = Requester::default();
    let body = json!({ "client_id": one.client.id.as_str(), "redirect_uris": [HTTPS] }).to_string();
    for (id, token) in [
        (one.client.id.as_str(), &other.token),
        (one.client.id.as_str(), &Plaintext::new("")),
        ("0123", &one.token),
        ("", &one.token),
        ("a b", &one.token),
        (operated.id.as_str(), &one.token),
        (operated.id.as_str(), &Plaintext::new("")),
    ] {
        assert!(matches!(read(&scene.server, id, token, from).await.unwrap(), Err(Refused::Unauthorized)), "{id}");
        let put = update(&scene.server, id, token, body.as_bytes(), from).await.unwrap();
        assert!(matches!(put, Err(Refused::Unauthorized)), "{id}");
        assert!(matches!(delete(&scene.server, id, token, from).await.unwrap(), Err(Refused::Unauthorized)), "{id}");
    }
    delete(&scene.server, one.client.id.as_str(), &one.token, from).await.unwrap().unwrap();
    assert!(find(&scene, &one.client.id).await.is_none());
    assert!(matches!(
        read(&scene.server, one.client.id.as_str(), &one.token, from).await.unwrap(),
        Err(Refused::Unauthorized)
    ));
    assert!(matches!(
        delete(&scene.server, one.client.id.as_str(), &one.token, from).await.unwrap(),
        Err(Refused::Unauthorized)
    ));
}

// ---- finding

#[tokio::test]
async fn a_client_of_the_file_comes_first() {
    let scene = Scene::new().await;
    let told = scene.register(HTTPS).await;
    assert_eq!(find(&scene, &told.client.id).await.unwrap().origin, ClientOrigin::Registered);
    let of_file = |id: ClientId| KnownClient {
        id,
        origin: ClientOrigin::Configured,
        metadata: Metadata {
            name: Some("File".to_owned()),
            redirect_uris: vec![HTTPS.to_owned()],
            ..Metadata::default()
        },
        authentication: Authentication::Public,
        on_reuse: OnReuse::Reject,
        requires_pushed: true,
        requires_proof: false,
    };
    scene
        .set(|auth| auth.clients.known = vec![ConfiguredClient { client: of_file(told.client.id.clone()), key: None }]);
    let found = find(&scene, &told.client.id).await.unwrap();
    assert!(found.is_verified() && found.requires_pushed);
    let refused = operators::delete(&scene.server, told.client.id.as_str(), None, OPERATOR).await.unwrap();
    assert!(matches!(refused, Err(operators::Refused::ManagedByFile)));
    assert!(find(&scene, &id("0123")).await.is_none());
}

#[tokio::test]
async fn what_is_kept_of_a_client_is_void_once_somebody_else_changed_it() {
    let scene = Scene::new().await;
    let told = scene.register(HTTPS).await;
    let seen = scene.server.store.read(changes::revision).await.unwrap();
    assert!(find(&scene, &told.client.id).await.is_some());
    stored::delete(&scene.server.store, &told.client.id, stored::Authority::Operator, OPERATOR).await.unwrap();
    assert!(find(&scene, &told.client.id).await.is_some(), "nobody has told yet");
    let news = scene.server.store.read(move |tx| changes::since(tx, seen)).await.unwrap();
    scene.server.clients.take(&news).await.unwrap();
    assert!(find(&scene, &told.client.id).await.is_none());

    let other = scene.register(HTTPS).await;
    assert!(find(&scene, &other.client.id).await.is_some());
    stored::delete(&scene.server.store, &other.client.id, stored::Authority::Operator, OPERATOR).await.unwrap();
    let revision = scene.server.store.read(changes::revision).await.unwrap();
    scene.server.clients.take(&News::Everything { revision }).await.unwrap();
    assert!(find(&scene, &other.client.id).await.is_none());
}

// ---- operators

#[tokio::test]
async fn operators_add_change_list_and_delete_clients() {
    let scene = Scene::new().await;
    let body = json!({ "redirect_uris": ["http://localhost/cb"], "client_name": "Desk", "token_endpoint_auth_method": "client_secret_post" });
    let added = operators::add(&scene.server, members(&body), OnReuse::Reject, OPERATOR).await.unwrap().unwrap();
    let (client, Some(secret)) = added else { panic!("it has a secret, wherever it runs: an operator says so") };
    assert_eq!((client.on_reuse, client.source.clone()), (OnReuse::Reject, Source::Operator));
    let found = find(&scene, &client.id).await.unwrap();
    assert!(found.is_verified());
    let change = async |members: Value, new_secret| {
        let change = Change { members: self::members(&members), new_secret, ..Change::default() };
        operators::change(&scene.server, client.id.as_str(), change, OPERATOR).await.unwrap()
    };
    let (changed, new) =
        change(json!({ "client_name": "Other", "contacts": ["ops@client.example"] }), false).await.unwrap();
    assert!(new.is_none());
    let of_earlier = || Some(vec![client.revision()]);
    let late = self::members(&json!({ "client_name": "Late" }));
    let late = Change { members: late, seen: of_earlier(), ..Change::default() };
    let refused = operators::change(&scene.server, client.id.as_str(), late, OPERATOR).await.unwrap();
    assert!(matches!(refused, Err(operators::Refused::Conflict(revision)) if revision == changed.revision()));
    let seen = of_earlier();
    let refused = operators::delete(&scene.server, client.id.as_str(), seen.as_deref(), OPERATOR).await.unwrap();
    assert!(matches!(refused, Err(operators::Refused::Conflict(_))));
    assert_eq!(changed.metadata.name.as_deref(), Some("Other"));
    assert_eq!(changed.metadata.redirect_uris, ["http://localhost/cb"], "what is not said stays");
    assert_eq!(changed.authentication, Authentication::SecretPost(secret.digest()));
    assert_eq!(find(&scene, &client.id).await.unwrap().metadata.name.as_deref(), Some("Other"));
    let (changed, new) = change(json!({ "contacts": null }), true).await.unwrap();
    assert!(changed.metadata.contacts.is_empty() && new.is_some_and(|new| new.digest() != secret.digest()));
    assert!(matches!(change(json!({ "client_id": "x" }), false).await, Err(operators::Refused::UnknownMember(_))));
    assert!(matches!(change(json!({ "redirect_uris": null }), false).await, Err(operators::Refused::Unacceptable(_))));
    let public = change(json!({ "token_endpoint_auth_method": "none" }), false).await.unwrap().0;
    assert_eq!(public.authentication, Authentication::Public);
    assert!(matches!(change(json!({}), true).await, Err(operators::Refused::NoSecret)));

    let told = scene.register(HTTPS).await;
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let page = operators::list(&scene.server, None, after, 1).await.unwrap();
        ids.extend(page.items.iter().map(|listed| listed.id().clone()));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    ids.sort();
    let mut expected = vec![client.id.clone(), told.client.id.clone()];
    expected.sort();
    assert_eq!(ids, expected);
    assert!(matches!(operators::show(&scene.server, client.id.as_str()).await.unwrap(), Some(Listed::Stored(_))));
    operators::delete(&scene.server, client.id.as_str(), None, OPERATOR).await.unwrap().unwrap();
    assert!(find(&scene, &client.id).await.is_none());
    let again = operators::delete(&scene.server, client.id.as_str(), None, OPERATOR).await.unwrap();
    assert!(matches!(again, Err(operators::Refused::NotFound)));
}

// ---- documents

async fn documented() -> (Scene, DocumentHost, ClientId) {
    let host = DocumentHost::start();
    let scene = Scene::with(host.fetcher()).await;
    let client = id(&host.url("/client.json"));
    (scene, host, client)
}

fn document(client: &ClientId) -> Value {
    json!({
        "client_id": client.as_str(), "client_name": "Document", "token_endpoint_auth_method": "none",
        "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
    })
}

const JSON: &str = "content-type: application/json";

#[tokio::test]
async fn t15_a_document_makes_a_client_and_is_fetched_once_in_its_time() {
    let (scene, host, client) = documented().await;
    host.answers("200 OK", &[JSON, "cache-control: max-age=600"], &document(&client).to_string());
    let found = find(&scene, &client).await.unwrap();
    assert_eq!(
        (found.origin, found.is_verified(), found.metadata.name.as_deref()),
        (ClientOrigin::Document, false, Some("Document"))
    );
    // Loopback without a port, as Claude Code's document has it.
    assert!(found.redirect("http://localhost:49152/callback", &[]).is_some());
    assert!(found.redirect("http://localhost:49152/other", &[]).is_none());
    for _ in 0..10 {
        find(&scene, &client).await.unwrap();
    }
    assert_eq!(host.requests(), 1);
    let mut changed = document(&client);
    changed["client_name"] = json!("Changed");
    changed["dpop_bound_access_tokens"] = json!(true);
    host.answers("200 OK", &[JSON], &changed.to_string());
    scene.clock.advance(Duration::from_secs(599));
    let found = find(&scene, &client).await.unwrap();
    assert_eq!((found.metadata.name.as_deref(), found.requires_proof), (Some("Document"), false));
    scene.clock.advance(Duration::from_secs(1));
    let found = find(&scene, &client).await.unwrap();
    assert_eq!((found.metadata.name.as_deref(), found.requires_proof), (Some("Changed"), true), "RFC 9449 §5.2");
    assert_eq!(host.requests(), 2);
    // After its time there is none, whatever the host does.
    host.answers("404 Not Found", &[], "");
    scene.clock.advance(HOUR);
    assert!(find(&scene, &client).await.is_none());
    host.answers("503 Service Unavailable", &[], "");
    let fault = scene.server.clients.find(&scene.server, &client).await;
    assert!(matches!(fault, Err(Fault::Busy)), "nobody knows: {fault:?}");
    // Errors are not remembered.
    host.answers("200 OK", &[JSON], &document(&client).to_string());
    assert!(find(&scene, &client).await.is_some());
}

#[tokio::test]
async fn t15_whoever_asks_at_once_waits_for_one_fetch() {
    let (scene, host, client) = documented().await;
    host.answers("200 OK", &[JSON], &document(&client).to_string());
    let scene = Arc::new(scene);
    let mut asking = JoinSet::new();
    for _ in 0..64 {
        let (scene, client) = (scene.clone(), client.clone());
        asking.spawn(async move { find(&scene, &client).await.is_some() });
    }
    assert!(asking.join_all().await.into_iter().all(|is_found| is_found));
    assert_eq!(host.requests(), 1);
}

/// A hostile host: whatever it answers, there is no client.
#[tokio::test]
async fn t15_hostile_documents_make_no_client() {
    let (scene, host, client) = documented().await;
    let good = document(&client);
    let with = |member: &str, value: Value| {
        let mut document = good.clone();
        document[member] = value;
        document.to_string()
    };
    let good_text = good.to_string();
    let large = with("x", json!("x".repeat(5_100)));
    let location = format!("location: {}", host.url("/other.json"));
    let twice = format!(r#"{{"client_id":"{client}","client_id":"https://evil.example/c",{}"#, &good_text[1..]);
    let cases: Vec<(&str, &str, Vec<&str>, String)> = vec![
        ("a redirect", "302 Found", vec![&location], String::new()),
        ("a redirect for good", "308 Permanent Redirect", vec![&location, JSON], good_text.clone()),
        ("created", "201 Created", vec![JSON], good_text.clone()),
        ("nothing", "204 No Content", vec![], String::new()),
        ("forbidden", "403 Forbidden", vec![JSON], good_text.clone()),
        ("not found", "404 Not Found", vec![JSON], good_text.clone()),
        ("gone", "410 Gone", vec![JSON], good_text.clone()),
        ("a page", "200 OK", vec!["content-type: text/html"], good_text.clone()),
        ("plain text", "200 OK", vec!["content-type: text/plain"], good_text.clone()),
        ("nothing declared", "200 OK", vec![], good_text.clone()),
        ("declared twice", "200 OK", vec![JSON, "content-type: text/html"], good_text.clone()),
        ("compressed", "200 OK", vec![JSON, "content-encoding: gzip"], good_text.clone()),
        ("too large", "200 OK", vec![JSON], large),
        ("no JSON", "200 OK", vec![JSON], "client_id".to_owned()),
        ("half of it", "200 OK", vec![JSON], good_text[..good_text.len() - 1].to_owned()),
        ("a list", "200 OK", vec![JSON], format!("[{good_text}]")),
        ("another client", "200 OK", vec![JSON], with("client_id", json!("https://as.example/client.json"))),
        (
            "another spelling",
            "200 OK",
            vec![JSON],
            with("client_id", json!(client.as_str().replace("as.example", "AS.example"))),
        ),
        ("a slash more", "200 OK", vec![JSON], with("client_id", json!(format!("{client}/")))),
        ("no client", "200 OK", vec![JSON], with("client_id", Value::Null)),
        ("two clients", "200 OK", vec![JSON], twice),
        ("a secret", "200 OK", vec![JSON], with("client_secret", json!("s"))),
        ("a secret's end", "200 OK", vec![JSON], with("client_secret_expires_at", json!(0))),
        ("a shared secret", "200 OK", vec![JSON], with("token_endpoint_auth_method", json!("client_secret_basic"))),
        ("a shared key", "200 OK", vec![JSON], with("token_endpoint_auth_method", json!("client_secret_jwt"))),
        ("a private key", "200 OK", vec![JSON], {
            let mut document = good.clone();
            document["token_endpoint_auth_method"] = json!("private_key_jwt");
            document["jwks"] = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "x", "y": "y", "d": "d" }] });
            document.to_string()
        }),
        ("keys on the machine", "200 OK", vec![JSON], {
            let mut document = good.clone();
            document["token_endpoint_auth_method"] = json!("private_key_jwt");
            document["jwks_uri"] = json!("http://127.0.0.1/jwks");
            document.to_string()
        }),
        ("nowhere to", "200 OK", vec![JSON], with("redirect_uris", json!([]))),
        ("no redirects", "200 OK", vec![JSON], with("redirect_uris", Value::Null)),
        ("a script", "200 OK", vec![JSON], with("redirect_uris", json!(["javascript:alert(1)"]))),
        ("plain http", "200 OK", vec![JSON], with("redirect_uris", json!(["http://as.example/cb"]))),
        ("too many", "200 OK", vec![JSON], with("redirect_uris", json!(vec![HTTPS; 11]))),
        ("for itself", "200 OK", vec![JSON], with("grant_types", json!(["client_credentials"]))),
    ];
    assert!(cases.len() >= 25);
    for (name, status, headers, body) in cases {
        host.answers(status, &headers, &body);
        let found = scene.server.clients.find(&scene.server, &client).await;
        assert!(matches!(found, Ok(None)), "{name}: {found:?}");
        assert_eq!(stored::count(&scene.server.store).await.unwrap(), 0);
    }
    host.answers("200 OK", &[JSON], &good_text);
    assert!(find(&scene, &client).await.is_some(), "none of it is remembered");
}

#[tokio::test]
async fn t15_addresses_that_are_no_clients_are_not_even_asked() {
    let (scene, host, client) = documented().await;
    host.answers("200 OK", &[JSON], &document(&client).to_string());
    for address in [
        host.url(""),
        host.url("/"),
        host.url("/client.json#x"),
        host.url("/a/../client.json"),
        host.url("/%2e%2e/client.json"),
        host.url("/client.json").replace("as.example", "user@as.example"),
        "https://127.0.0.1/client.json".to_owned(),
        "https://private.example/client.json".to_owned(),
        "https://10.0.0.1/client.json".to_owned(),
        "https://[::1]/client.json".to_owned(),
        "https://169.254.169.254/latest".to_owned(),
        "https://as.example:22/client.json".to_owned(),
        // Our own.
        "https://gateway.example/client.json".to_owned(),
        "https://gateway.example:443/oauth2/authorize?client_id=x".to_owned(),
    ] {
        assert!(find(&scene, &id(&address)).await.is_none(), "{address}");
    }
    assert_eq!(host.requests(), 0);
    let unresolved = scene.server.clients.find(&scene.server, &id("https://nowhere.example/c")).await;
    assert!(matches!(unresolved, Err(Fault::Busy)));
    for (hosts, expected) in [(&["*.example.com"][..], false), (&["as.*"], true), (&["other", "as.example"], true)] {
        scene.set(|auth| auth.clients.document_hosts = hosts.iter().map(|text| Glob::parse(text).unwrap()).collect());
        assert_eq!(find(&scene, &client).await.is_some(), expected, "{hosts:?}");
    }
    scene.set(|auth| auth.clients.metadata_documents = false);
    assert!(find(&scene, &client).await.is_none());
    assert!(!scene.server.metadata().takes_documents);
}

#[tokio::test]
async fn t15_fetches_from_one_host_have_a_rate() {
    let (scene, host, _) = documented().await;
    host.answers("404 Not Found", &[], "");
    let mut fetched = 0;
    loop {
        let id = id(&host.url(&format!("/{fetched}x")));
        match scene.server.clients.find(&scene.server, &id).await {
            Ok(None) => fetched += 1,
            Err(Fault::Busy) => break,
            other => panic!("{other:?}"),
        }
    }
    // While that takes its time, there may be some more.
    assert!((120..240).contains(&fetched), "{fetched}");
    assert_eq!(host.requests(), fetched);
}

#[tokio::test]
async fn t15_a_host_that_says_nothing_is_not_waited_for() {
    let (scene, host, client) = documented().await;
    host.says_nothing();
    let began = tokio::time::Instant::now();
    let found = scene.server.clients.find(&scene.server, &client).await;
    assert!(matches!(found, Err(Fault::Busy)), "{found:?}");
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn policies_see_each_version_of_a_document() {
    let (scene, host, client) = documented().await;
    host.answers("200 OK", &[JSON, "cache-control: max-age=86400"], &document(&client).to_string());
    assert!(find(&scene, &client).await.is_some());
    // Other policies judge what was fetched before, and do not fetch it again.
    scene.decide(about_clients(json!({ "allow": [{ "pointer": "/redirect_uris/1", "op": "remove" }] })));
    scene.set(|_| {});
    assert_eq!(find(&scene, &client).await.unwrap().metadata.redirect_uris, ["http://localhost/callback"]);
    assert_eq!(host.requests(), 1);
    scene.decide(about_clients(denial("no")));
    scene.set(|_| {});
    assert!(find(&scene, &client).await.is_none());
}

#[tokio::test]
async fn a_policy_that_fails_leaves_it_open_whether_there_is_a_client() {
    let (scene, host, client) = documented().await;
    host.answers("200 OK", &[JSON, "cache-control: max-age=86400"], &document(&client).to_string());
    assert!(find(&scene, &client).await.is_some());
    let wrong = json!({ "allow": [{ "pointer": "/redirect_uris", "op": { "set": "[]" } }] });
    scene.decide(about_clients(wrong));
    scene.set(|_| {});
    let found = scene.server.clients.find(&scene.server, &client).await;
    assert!(matches!(found, Err(Fault::Busy)), "{found:?}");
}
