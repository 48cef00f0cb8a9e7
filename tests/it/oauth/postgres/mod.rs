//! Two gateways on one database behind one address: whichever a connection reaches, it goes on where the other one was.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_tests::gateway::SOON;
use portcullis_tests::oauth::{Browser, Client, Connection, Tokens};
use portcullis_tests::postgres::Server;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, TestClock};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{EVERYBODY, Who, add_person, arrive, choose, invalid_grant, is_let_in, refusal};

/// In which a revocation has to be felt everywhere.
pub(crate) const FELT_WITHIN: Duration = Duration::from_secs(2);
const RACERS: usize = 64;

mod flows;

pub(crate) struct Pair {
    _up: Fixture,
    pub(crate) gateways: Vec<Gateway>,
    /// Takes each connection to the next gateway, or to the one that was [chosen](Self::go_to).
    pub(crate) front: SocketAddr,
    chosen: Arc<AtomicUsize>,
    _balancer: JoinSet<()>,
}

pub(crate) async fn pair(settings: &str) -> Pair {
    let up = Fixture::start().await;
    let server = Server::shared();
    let schema = server.new_schema();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let builder = super::gateway_with(&up, settings).in_database(server, &schema).behind(front);
        let builder = builder.file("data/deployment-secret", format!("{}\n", "5e".repeat(32)).as_bytes());
        let gateway =
            builder.try_start(TempDir::new().unwrap(), TestClock::default()).await.expect("the gateway starts");
        gateway.wait_until_ready().await;
        gateway.until_upstreams_are_up().await;
        gateways.push(gateway);
    }
    add_person(&gateways[0], "ann").await;
    let mut balancer = JoinSet::new();
    let behind: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.public).collect();
    let chosen = Arc::new(AtomicUsize::new(usize::MAX));
    let choice = chosen.clone();
    balancer.spawn(async move {
        let mut connections = JoinSet::new();
        for next in behind.iter().copied().cycle() {
            let Ok((mut from, _)) = listener.accept().await else { return };
            let next = behind.get(choice.load(Ordering::SeqCst)).copied().unwrap_or(next);
            connections.spawn(async move {
                if let Ok(mut to) = TcpStream::connect(next).await {
                    _ = copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    });
    Pair { _up: up, gateways, front, chosen, _balancer: balancer }
}

impl Pair {
    /// Has all connections from now on go to this gateway.
    pub(crate) fn go_to(&self, which: usize) {
        self.chosen.store(which, Ordering::SeqCst);
    }

    /// Has them take turns again.
    pub(crate) fn take_turns(&self) {
        self.go_to(usize::MAX);
    }

    async fn sign_in(&self, client: &Client, who: Who) -> Tokens {
        let (begun, mut browser) = (client.begin(), Browser::new(self.front));
        let page = arrive(&mut browser, &begun).await;
        let page = choose(&mut browser, page, who).await;
        let page = browser.submit(&page.form("/finish")).await;
        Tokens::of(&client.redeem(&begun, &client.code(&begun, &page.url)).await)
    }

    /// Waits until neither gateway lets this token in.
    async fn until_refused(&self, client: &Client, token: &str) -> Duration {
        let began = tokio::time::Instant::now();
        let mut refused = 0;
        // Connections take turns: two refusals in a row are one of each.
        while refused < 2 {
            assert!(began.elapsed() < SOON, "the token is still let in");
            refused = if is_let_in(client, token).await { 0 } else { refused + 1 };
        }
        began.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_signs_in_wherever_each_request_lands() {
    let pair = pair("").await;
    for who in EVERYBODY {
        let client = Client::register(pair.front, "/mcp").await;
        let tokens = pair.sign_in(&client, who).await;
        for _ in 0..2 {
            assert!(is_let_in(&client, &tokens.access).await, "{who:?}");
        }
        let mut renewed = tokens;
        for _ in 0..4 {
            renewed = Tokens::of(&client.refresh(&renewed.refresh).await);
            assert!(is_let_in(&client, &renewed.access).await, "{who:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_at_one_is_felt_at_the_other() {
    let pair = pair("").await;
    let client = Client::register(pair.front, "/mcp").await;
    let tokens = pair.sign_in(&client, Who::Person("ann")).await;
    assert_eq!(client.revoke(&tokens.access).await.status, 200);
    assert!(pair.until_refused(&client, &tokens.access).await < FELT_WITHIN);
    let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);
    assert_eq!(client.revoke(&renewed.refresh).await.status, 200);
    assert!(pair.until_refused(&client, &renewed.access).await < FELT_WITHIN);

    // Everything of one kind, by an operator at one of them.
    let tokens = pair.sign_in(&client, Who::Guest).await;
    let other = pair.sign_in(&client, Who::Key("alice")).await;
    let revoked = pair.gateways[1].operator("POST", "/api/v1/grants/revoke", Some(json!({ "kind": "guest" }))).await;
    assert!(revoked.status.is_success(), "{}", revoked.text());
    assert!(pair.until_refused(&client, &tokens.access).await < FELT_WITHIN);
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant());
    assert!(is_let_in(&client, &other.access).await && is_let_in(&client, &other.access).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_refreshes_at_both_all_get_the_same_successor() {
    let pair = pair("[auth.tokens]\nrefresh_grace = \"10s\"\nrefresh_replays = 1000").await;
    let client = Client::register(pair.front, "/mcp").await;
    let tokens = pair.sign_in(&client, Who::Person("ann")).await;
    let mut racers = JoinSet::new();
    for _ in 0..RACERS {
        let mut connection = Connection::open(pair.front).await;
        let (client, fields) = (client.clone(), client.refreshing(&tokens.refresh));
        racers.spawn(async move { client.token_on(&mut connection, &fields).await });
    }
    let given: Vec<Tokens> = racers.join_all().await.iter().map(Tokens::of).collect();
    let successors: BTreeSet<&str> = given.iter().map(|tokens| tokens.refresh.as_str()).collect();
    assert_eq!(successors.len(), 1, "one chain");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant());
    for tokens in [&given[0], &given[RACERS - 1]] {
        assert!(pair.until_refused(&client, &tokens.access).await < FELT_WITHIN);
    }
    assert_eq!(refusal(&client.refresh(&given[0].refresh).await), invalid_grant());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_redemptions_at_both_one_wins() {
    let pair = pair("").await;
    let client = Client::register(pair.front, "/mcp").await;
    let (begun, mut browser) = (client.begin(), Browser::new(pair.front));
    let page = arrive(&mut browser, &begun).await;
    let page = choose(&mut browser, page, Who::Guest).await;
    let page = browser.submit(&page.form("/finish")).await;
    let code = client.code(&begun, &page.url);
    let mut racers = JoinSet::new();
    for _ in 0..RACERS {
        let mut connection = Connection::open(pair.front).await;
        let (client, fields) = (client.clone(), client.redemption(&begun, &code));
        racers.spawn(async move { client.token_on(&mut connection, &fields).await });
    }
    let replies = racers.join_all().await;
    let won: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
    assert_eq!(won.len(), 1);
    assert!(pair.until_refused(&client, &Tokens::of(won[0]).access).await < FELT_WITHIN);
}

/// A signing key of one is the other's at once: no token is refused because it was signed next door.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_at_one_fails_no_verification_at_the_other() {
    let pair = pair("").await;
    let client = Client::register(pair.front, "/mcp").await;
    let mut tokens = pair.sign_in(&client, Who::Person("ann")).await;
    for round in 0..6 {
        let body = json!({ "now": round % 2 == 0 });
        let rotated = pair.gateways[round % 2].operator("POST", "/api/v1/signing-keys/rotate", Some(body)).await;
        assert!(rotated.status.is_success(), "{}", rotated.text());
        for _ in 0..8 {
            tokens = Tokens::of(&client.refresh(&tokens.refresh).await);
            assert!(is_let_in(&client, &tokens.access).await, "round {round}");
        }
    }
}
