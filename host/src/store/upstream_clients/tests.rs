//! Registrations at upstreams' authorization servers, in stores of each engine.

use std::time::Duration;

use tokio::task::JoinSet;

use super::super::oauth_testing::*;
use super::*;

fn upstream(name: &str) -> UpstreamName {
    UpstreamName::parse(name).unwrap()
}

fn registration(place: &Place, of: &str, issuer: &str, client: &str) -> Registration {
    Registration {
        upstream: upstream(of),
        issuer: issuer.to_owned(),
        redirect: format!("https://gateway.example/connect/callback/{of}"),
        client: client.to_owned(),
        method: Method::Basic,
        secret: Some(Sealed::from_bytes(*b"secret")),
        created: place.now(),
        expires: None,
    }
}

const A: &str = "https://a.example";
const B: &str = "https://b.example";

async fn client(place: &Place, of: &str, issuer: &str) -> Option<String> {
    let redirect = format!("https://gateway.example/connect/callback/{of}");
    of_redirect(&place.store, &upstream(of), issuer, &redirect).await.unwrap().map(|it| it.client)
}

#[tokio::test]
async fn u5_a_registration_is_found_for_its_issuer_and_its_context_alone() {
    for mut place in engines().await {
        let one = registration(&place, "notes", A, "c1");
        assert_eq!(put(&place.store, one.clone()).await.unwrap(), Putting::Kept);
        assert_eq!(put(&place.store, registration(&place, "notes", B, "c1")).await.unwrap(), Putting::Kept);
        assert_eq!(put(&place.store, registration(&place, "wiki", A, "c1")).await.unwrap(), Putting::Kept);
        place.restart().await;
        let store = &place.store;
        let name = upstream("notes");
        assert_eq!(of_redirect(store, &name, A, &one.redirect).await.unwrap(), Some(one.clone()));
        assert_eq!(of_client(store, &name, A, "c1").await.unwrap(), Some(one.clone()));
        assert_eq!(of_client(store, &name, A, "c2").await.unwrap(), None);
        assert_eq!(of_redirect(store, &name, A, "https://other.example/cb").await.unwrap(), None);
        assert_eq!(of_redirect(store, &name, "https://a.example/", &one.redirect).await.unwrap(), None);
        assert!(forget(store, &one).await.unwrap() && !forget(store, &one).await.unwrap());
        assert_eq!(client(&place, "notes", A).await, None);
        assert_eq!(client(&place, "notes", B).await.as_deref(), Some("c1"));
        assert_eq!(client(&place, "wiki", A).await.as_deref(), Some("c1"));
    }
}

#[tokio::test]
async fn what_was_registered_again_is_not_forgotten_for_what_was_there_before() {
    let place = Place::memory().await;
    let first = registration(&place, "notes", A, "c1");
    put(&place.store, first.clone()).await.unwrap();
    assert!(forget(&place.store, &first).await.unwrap());
    place.forward(Duration::from_secs(1));
    put(&place.store, registration(&place, "notes", A, "c1")).await.unwrap();
    assert!(!forget(&place.store, &first).await.unwrap());
    assert_eq!(client(&place, "notes", A).await.as_deref(), Some("c1"));
}

#[tokio::test]
async fn of_16_who_register_at_once_the_first_one_stays() {
    let place = Place::file().await;
    let mut replicas = JoinSet::new();
    for number in 0..16 {
        let (store, new) = (place.store.clone(), registration(&place, "notes", A, &format!("c{number}")));
        replicas.spawn(async move { put(&store, new).await.unwrap() });
    }
    let answers = replicas.join_all().await;
    let kept = client(&place, "notes", A).await.unwrap();
    assert_eq!(answers.iter().filter(|answer| **answer == Putting::Kept).count(), 1);
    let existing = |answer: &&Putting| matches!(answer, Putting::Existing(existing) if existing.client == kept);
    assert_eq!(answers.iter().filter(existing).count(), 15);
}

#[tokio::test]
async fn a_registration_whose_time_is_over_is_none_and_makes_room() {
    for place in engines().await {
        let expires = Some(place.now().after(DAY));
        put(&place.store, Registration { expires, ..registration(&place, "notes", A, "c1") }).await.unwrap();
        assert_eq!(client(&place, "notes", A).await.as_deref(), Some("c1"));
        place.forward(DAY);
        assert_eq!(client(&place, "notes", A).await, None);
        assert_eq!(of_client(&place.store, &upstream("notes"), A, "c1").await.unwrap(), None);
        let again = registration(&place, "notes", A, "c2");
        assert_eq!(put(&place.store, again).await.unwrap(), Putting::Kept);
        assert_eq!(place.store.read(|tx| CLIENTS.count(tx, 10)).await.unwrap(), 1);
        assert_eq!(place.sweep().await, 0, "its expiry is gone with it");
        let expires = Some(place.now().after(DAY));
        put(&place.store, Registration { expires, ..registration(&place, "notes", B, "c3") }).await.unwrap();
        place.forward(DAY);
        assert_eq!(place.sweep().await, 1);
        assert_eq!(place.store.read(|tx| CLIENTS.count(tx, 10)).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn an_upstream_that_names_ever_new_issuers_loses_its_own_oldest_registrations() {
    let place = Place::memory().await;
    put(&place.store, registration(&place, "wiki", A, "theirs")).await.unwrap();
    for number in 0..MAX_REGISTRATIONS + 4 {
        place.forward(Duration::from_millis(1));
        let issuer = format!("https://as{number}.example");
        let new = registration(&place, "notes", &issuer, "c1");
        assert_eq!(put(&place.store, new).await.unwrap(), Putting::Kept);
    }
    assert_eq!(place.store.read(|tx| CLIENTS.count(tx, 100)).await.unwrap(), MAX_REGISTRATIONS + 1);
    assert_eq!(client(&place, "notes", "https://as3.example").await, None);
    assert_eq!(client(&place, "notes", "https://as4.example").await.as_deref(), Some("c1"));
    assert_eq!(client(&place, "wiki", A).await.as_deref(), Some("theirs"));
}

#[tokio::test]
async fn what_is_too_large_is_not_kept() {
    let place = Place::memory().await;
    let large = "x".repeat(MAX_TEXT_BYTES + 1);
    let secret = Some(Sealed::from_bytes(vec![0; MAX_SEALED_BYTES + 1]));
    for new in [
        registration(&place, "notes", &large, "c1"),
        registration(&place, "notes", A, &large),
        Registration { redirect: large.clone(), ..registration(&place, "notes", A, "c1") },
        Registration { secret, ..registration(&place, "notes", A, "c1") },
    ] {
        assert_eq!(put(&place.store, new).await.unwrap(), Putting::TooLarge);
    }
    assert_eq!(place.store.read(|tx| CLIENTS.count(tx, 10)).await.unwrap(), 0);
}
