//! Registrations: who may change them, how many there may be, and when they go.

use tokio::task::JoinSet;

use super::super::grants::{self, Refresh, refresh};
use super::super::oauth_testing::*;
use super::super::revocations::watermarks;
use super::*;
use crate::audit::Party;
use crate::oauth::ResourceList;
use crate::oauth::client::{KeySource, Lives};
use crate::oauth::grant::{Gone, Grace, Presented, Successor};
use crate::secret::Sealed;

const MANY: u64 = 10_000;
const HOUR: Duration = Duration::from_secs(60 * 60);

fn id(name: &str) -> ClientId {
    ClientId::parse(name).unwrap()
}

fn by_client(token: &str) -> Authority {
    Authority::Client(digest(token))
}

fn changed(token: &str) -> Changed {
    Changed {
        metadata: Metadata { name: Some("Another name".to_owned()), ..Metadata::default() },
        authentication: Authentication::PrivateKey(KeySource::Address("https://app.example/jwks".to_owned())),
        on_reuse: None,
        token: digest(token),
    }
}

async fn add(store: &Store, client: Client, most: u64) -> Registration {
    register(store, client, most, Actor::System).await.unwrap()
}

/// Lets a client use something that was granted to it.
async fn make_use(store: &Store, name: &str, number: u64) {
    let of = Party { principal: key("ci"), client: id(name) };
    issue(store, number, &format!("refresh-{name}"), of).await;
}

async fn refresh_of(store: &Store, name: &str) -> Refresh {
    let token = digest(&format!("refresh-{name}"));
    let presented = Presented {
        token,
        client: id(name),
        proof: None,
        scopes: None,
        resources: ResourceList::default(),
        is_stored: true,
    };
    let (digest, sealed) = (digest(&format!("next-{name}")), Sealed::from_bytes(*b"sealed"));
    let successor = Successor { digest, sealed, signed: Timestamp::default() };
    refresh(store, presented, successor, Grace::default(), 30 * DAY).await.unwrap()
}

#[tokio::test]
async fn a_client_comes_back_as_it_was_registered() {
    for mut place in engines().await {
        let by_operator = Client {
            source: Source::Operator,
            authentication: Authentication::PrivateKey(KeySource::Inline("{\"keys\":[]}".to_owned())),
            ..registered("operated")
        };
        let clients = [
            registered("secret"),
            Client { authentication: Authentication::Public, ..registered("public") },
            Client { authentication: Authentication::SecretPost(digest("s")), ..registered("post") },
            by_operator,
        ];
        for given in clients {
            let expected = Client { created: place.now(), ..given.clone() };
            assert_eq!(
                add(&place.store, given.clone(), MANY).await,
                Registration::Registered(Box::new(expected.clone()))
            );
            assert_eq!(add(&place.store, given, MANY).await, Registration::Taken);
            place.restart().await;
            assert_eq!(get(&place.store, &expected.id).await.unwrap(), Some(expected));
            place.forward(Duration::from_millis(1));
        }
        assert_eq!(get(&place.store, &id("never")).await.unwrap(), None);
        let page = list(&place.store, None, None, 3).await.unwrap();
        let names = |page: Page<Client>| page.items.iter().map(|client| client.id.to_string()).collect::<Vec<_>>();
        let next = page.next.clone();
        assert_eq!(names(page), ["operated", "post", "public"]);
        assert_eq!(names(list(&place.store, None, next, 3).await.unwrap()), ["secret"]);
        assert_eq!(trail(&place.store).await, ["client.registered"; 4]);
        assert_eq!(announced(&place.store).await.len(), 4);
        verify(&place.store).await;
    }
}

#[tokio::test]
async fn a_client_that_is_too_large_is_not_kept() {
    let place = Place::memory().await;
    let long = Metadata { redirect_uris: vec!["x".to_owned(); 11], ..Metadata::default() };
    let large = Client { metadata: long.clone(), ..registered("a") };
    assert_eq!(add(&place.store, large, MANY).await, Registration::TooLarge(TooLarge::RedirectUris));
    add(&place.store, registered("a"), MANY).await;
    let changed = Changed { metadata: long, ..changed("next") };
    let answer = update(&place.store, &id("a"), by_client("registration"), changed, Actor::System).await.unwrap();
    assert_eq!(answer, Update::TooLarge(TooLarge::RedirectUris));
    assert_eq!(get(&place.store, &id("a")).await.unwrap().unwrap().metadata, registered("a").metadata);
}

#[tokio::test]
async fn a_registration_token_is_good_for_its_client_until_it_is_replaced() {
    for mut place in engines().await {
        add(&place.store, registered("a"), MANY).await;
        add(&place.store, Client { source: Source::Operator, ..registered("operated") }, MANY).await;
        let store = &place.store;
        let put = async |name, token, next| {
            update(store, &id(name), by_client(token), changed(next), Actor::System).await.unwrap()
        };
        for (name, token) in [("a", "wrong"), ("never", "registration"), ("operated", "registration")] {
            assert_eq!(put(name, token, "x").await, Update::NotFound, "{name} {token}");
        }
        let Update::Updated(client) = put("a", "registration", "second").await else { panic!("not updated") };
        assert_eq!(client.metadata, changed("second").metadata);
        assert_eq!(client.authentication, changed("second").authentication);
        place.restart().await;
        let store = &place.store;
        assert_eq!(get(store, &id("a")).await.unwrap(), Some(*client));
        let delete_as = async |token| delete(store, &id("a"), by_client(token), Actor::System).await.unwrap();
        assert_eq!(delete_as("registration").await, Deletion::NotFound, "it was replaced");
        assert_eq!(delete_as("second").await, Deletion::Deleted);
        assert_eq!(delete_as("second").await, Deletion::NotFound);
        assert_eq!(get(store, &id("a")).await.unwrap(), None);
        let by_operator = delete(store, &id("operated"), Authority::Operator, OPERATOR).await.unwrap();
        assert_eq!(by_operator, Deletion::Deleted);
        verify(store).await;
    }
}

#[tokio::test]
async fn deleting_a_client_revokes_what_was_granted_to_it() {
    for place in engines().await {
        let store = &place.store;
        for (number, name) in [(1, "a"), (2, "b")] {
            add(store, registered(name), MANY).await;
            make_use(store, name, number).await;
        }
        delete(store, &id("a"), Authority::Operator, OPERATOR).await.unwrap();
        assert!(matches!(refresh_of(store, "a").await, Refresh::Gone(Gone::Revoked)));
        assert!(matches!(refresh_of(store, "b").await, Refresh::Rotated(_)));
        let [watermark] = &watermarks(store, None).await.unwrap().items[..] else { panic!("one watermark") };
        assert_eq!(watermark.reason, RevocationReason::ClientDeleted);
        assert_eq!(trail(store).await[4..], ["grants.revoked", "client.deleted"]);
        let listed = grants::list(store, grants::Of::Client(id("a")), None, 10).await.unwrap();
        assert_eq!(listed.items[0].end, Some(Gone::Revoked));
    }
}

#[tokio::test]
async fn a_client_goes_by_itself_when_nobody_uses_it() {
    let place = Place::memory().await;
    let store = &place.store;
    add(store, registered("unused"), MANY).await;
    add(store, registered("used"), MANY).await;
    add(store, Client { source: Source::Operator, ..registered("operated") }, MANY).await;
    make_use(store, "used", 1).await;
    let there = async || {
        let mut there = Vec::new();
        for name in ["unused", "used", "operated"] {
            there.extend(get(store, &id(name)).await.unwrap().map(|_| name));
        }
        assert_eq!(list(store, None, None, 10).await.unwrap().items.len(), there.len());
        there
    };
    place.forward(HOUR - Duration::from_millis(1));
    assert_eq!(there().await, ["unused", "used", "operated"]);
    place.forward(Duration::from_millis(1));
    assert_eq!(there().await, ["used", "operated"], "whether or not anybody has swept");
    while place.sweep().await > 0 {}
    assert_eq!(count(store).await.unwrap(), 2);
    // Each use counts from then on.
    place.forward(20 * DAY);
    assert!(matches!(refresh_of(store, "used").await, Refresh::Rotated(_)));
    place.forward(Lives::default().inactive - Duration::from_millis(1));
    assert_eq!(there().await, ["used", "operated"]);
    place.forward(Duration::from_millis(1));
    assert_eq!(there().await, ["operated"]);
    while place.sweep().await > 0 {}
    assert_eq!(count(store).await.unwrap(), 1);
    verify(store).await;
}

#[tokio::test]
async fn what_was_granted_to_a_client_that_is_gone_counts_no_more() {
    let place = Place::memory().await;
    let source = Source::Registered { token: digest("t"), lives: Lives { unused: HOUR, inactive: DAY } };
    add(&place.store, Client { source, ..registered("a") }, MANY).await;
    make_use(&place.store, "a", 1).await;
    place.forward(DAY);
    assert!(matches!(refresh_of(&place.store, "a").await, Refresh::Gone(Gone::Client)));
}

#[tokio::test]
async fn the_use_of_a_client_is_written_once_an_hour() {
    let place = Place::memory().await;
    add(&place.store, registered("a"), MANY).await;
    let used = async |number| {
        make_use(&place.store, "a", number).await;
        get(&place.store, &id("a")).await.unwrap().unwrap().last_used
    };
    let first = place.now();
    assert_eq!(used(1).await, Some(first));
    place.forward(HOUR - Duration::from_millis(1));
    assert_eq!(used(2).await, Some(first));
    place.forward(Duration::from_millis(1));
    assert_eq!(used(3).await, Some(place.now()));
    verify(&place.store).await;
}

#[tokio::test]
async fn ten_thousand_registrations_leave_as_many_clients_as_there_may_be() {
    const MOST: u64 = 300;
    let place = Place::memory().await;
    let store = &place.store;
    for number in 0..5 {
        let name = format!("used{number}");
        add(store, registered(&name), MOST).await;
        make_use(store, &name, number).await;
    }
    add(store, Client { source: Source::Operator, ..registered("operated") }, MOST).await;
    let mut strangers = JoinSet::new();
    for stranger in 0..20 {
        let store = store.clone();
        strangers.spawn(async move {
            for number in 0..500 {
                let client = registered(&format!("stranger-{stranger}-{number}"));
                assert!(matches!(add(&store, client, MOST).await, Registration::Registered(_)));
            }
        });
    }
    strangers.join_all().await;
    assert_eq!(count(store).await.unwrap(), MOST);
    let there = store.read(|tx| rows(tx, Table::Clients).map(|rows| rows.len())).await.unwrap();
    assert_eq!(there as u64, MOST);
    for name in ["used0", "used1", "used2", "used3", "used4", "operated"] {
        assert!(get(store, &id(name)).await.unwrap().is_some(), "{name} is still there");
    }
    // The next one still gets in, and tells whom it put out.
    place.forward(Duration::from_millis(1));
    add(store, registered("last"), MOST).await;
    let AuditEvent::ClientRegistered { client, by, evicted, as_what } = last_event(store).await else {
        panic!("another event")
    };
    assert_eq!((client, by, evicted), (id("last"), RegisteredBy::Client, 1));
    assert_eq!(as_what, told::registered(&registered("last")));
    verify(store).await;
}

#[tokio::test]
async fn a_client_that_is_used_makes_no_room() {
    let place = Place::memory().await;
    let store = &place.store;
    for number in 0..3 {
        add(store, registered(&format!("used{number}")), 3).await;
        make_use(store, &format!("used{number}"), number).await;
    }
    assert_eq!(add(store, registered("more"), 3).await, Registration::QuotaExceeded);
    // Operators are not held up by what strangers do.
    let operated = Client { source: Source::Operator, ..registered("operated") };
    assert!(matches!(add(store, operated, 3).await, Registration::Registered(_)));
    // A quota that was lowered is reached step by step.
    for number in 0..20 {
        add(store, registered(&format!("unused{number}")), MANY).await;
    }
    assert_eq!(count(store).await.unwrap(), 24);
    let mut tries = 0;
    while add(store, registered(&format!("again{tries}")), 10).await == Registration::QuotaExceeded {
        tries += 1;
        assert!(tries < 20, "it never gets in");
    }
    assert_eq!(count(store).await.unwrap(), 10);
    // Each one that is gone is in the trail: alone, or in the number that made room.
    let rows = audit::list(store, None, 200).await.unwrap().items;
    let gone = rows.iter().map(|row| match row.entry.event {
        AuditEvent::ClientDeleted { .. } => 1,
        AuditEvent::ClientRegistered { evicted, .. } => evicted,
        _ => 0,
    });
    let registered = rows.iter().filter(|row| row.entry.event.name() == "client.registered").count() as u64;
    assert_eq!(registered - gone.sum::<u64>(), 10);
    verify(store).await;
}

#[tokio::test]
async fn clients_are_listed_by_how_they_were_registered() {
    for place in engines().await {
        let store = &place.store;
        for number in 0..4 {
            let source = if number == 1 { Source::Operator } else { registered("x").source };
            add(store, Client { source, ..registered(&format!("client{number}")) }, MANY).await;
            place.forward(Duration::from_millis(1));
        }
        make_use(store, "client2", 1).await;
        let of = async |by| {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = list(store, by, after, 1).await.unwrap();
                found.extend(page.items.iter().map(|client| client.id.to_string()));
                let Some(next) = page.next else { return found };
                after = Some(next);
            }
        };
        assert_eq!(of(None).await, ["client3", "client2", "client1", "client0"]);
        assert_eq!(of(Some(RegisteredBy::Operator)).await, ["client1"]);
        assert_eq!(of(Some(RegisteredBy::Client)).await, ["client3", "client2", "client0"]);
    }
}
