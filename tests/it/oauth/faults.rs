//! A store that fails in the middle (H8), and what a gateway says of how it was set up (T12).

use std::error::Error;
use std::fs;

use portcullis::StartError;
use portcullis_tests::gateway::SOON;
use portcullis_tests::oauth::{Browser, Tokens};
use portcullis_tests::postgres::{Server, Sync};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, TestClock};
use tempfile::TempDir;

use super::{Who, add_person, client_of, consent, gateway_with, is_let_in, refusal, sign_in_as};
use crate::vault::{Process, free_port};

async fn until_ready(gateway: &Gateway, status: u16) {
    let until = tokio::time::Instant::now() + SOON;
    while gateway.stranger().send("GET", "/readyz", "").await.status != status {
        assert!(tokio::time::Instant::now() < until, "the gateway does not come to answer {status}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// While there is no store nothing is decided, and nobody loses what they have: a code, a refresh token and a sign-in that
/// were under way go on when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_costs_nobody_a_grant() {
    let up = Fixture::start().await;
    let server = Server::start(Sync::On);
    let gateway = gateway_with(&up, "").in_database(&server, "portcullis").start().await;
    add_person(&gateway, "ann").await;
    let client = client_of(&gateway).await;
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let (begun, mut browser) = (client.begin(), Browser::new(gateway.public));
    let url = consent(&mut browser, &begun, Who::Person("ann")).await;
    let code = client.code(&begun, &url);

    server.kill();
    until_ready(&gateway, 503).await;
    let unavailable = (503, "server_error".to_owned());
    for answer in [client.refresh(&tokens.refresh).await, client.redeem(&begun, &code).await] {
        assert_eq!(refusal(&answer), unavailable);
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(refusal(&client.revoke(&tokens.refresh).await), unavailable);
    let page = browser.get("/account").await;
    assert_eq!(page.status(), 503, "{page}");
    assert!(!page.reply.header("retry-after").is_empty(), "{:?}", page.reply.headers);

    server.start_again();
    until_ready(&gateway, 200).await;
    let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);
    assert!(is_let_in(&client, &renewed.access).await && is_let_in(&client, &tokens.access).await);
    let others = Tokens::of(&client.redeem(&begun, &code).await);
    assert!(is_let_in(&client, &others.access).await);
    assert_eq!(browser.get("/account").await.status(), 200);
}

fn told(error: &StartError) -> String {
    let (mut told, mut next) = (error.to_string(), error.source());
    while let Some(error) = next {
        told = format!("{told}: {error}");
        next = error.source();
    }
    told
}

/// T12: over a store with signing keys no gateway starts without the key that they were sealed with, and none is made anew;
/// with the right one everything is as it was.
#[tokio::test]
async fn t12_no_signing_key_is_made_over_keys_that_cannot_be_opened() {
    let up = Fixture::start().await;
    let address = portcullis_tests::free_address().await.unwrap();
    let settings = || gateway_with(&up, "").on_disk().at(address);
    let gateway = settings().try_start(TempDir::new().unwrap(), TestClock::default()).await.unwrap();
    gateway.wait_until_ready().await;
    add_person(&gateway, "ann").await;
    let client = client_of(&gateway).await;
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let mut dir = gateway.stop().await;
    let key = dir.path().join("data/vault.key");
    let right = fs::read(&key).unwrap();
    let store = || fs::read(dir.path().join("data/portcullis.redb")).unwrap();
    let before = store();

    fs::remove_file(&key).unwrap();
    let (error, back) = settings().try_start_in(dir, TestClock::default()).await.map(drop).unwrap_err();
    dir = back;
    let absent = told(&error);
    assert!(matches!(error, StartError::Vault(_)) && absent.contains("vault"), "{absent}");
    assert!(!key.exists(), "no other key is made over a store that was sealed with one");

    crate::vault::canary::private(&key, &"5e".repeat(32));
    let (error, back) = settings().try_start_in(dir, TestClock::default()).await.map(drop).unwrap_err();
    dir = back;
    let wrong = told(&error);
    assert!(matches!(error, StartError::Vault(_)) && wrong.contains("vault"), "{wrong}");
    assert_ne!(absent, wrong);
    let after = fs::read(dir.path().join("data/portcullis.redb")).unwrap();
    assert_eq!(before.len(), after.len());

    fs::write(&key, right).unwrap();
    let gateway = settings().try_start(dir, TestClock::default()).await.unwrap();
    gateway.wait_until_ready().await;
    gateway.until_upstreams_are_up().await;
    assert!(is_let_in(&client, &tokens.access).await);
    let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);
    let kid = |token: &str| portcullis_tests::oauth::client::header(token)["kid"].clone();
    assert_eq!(kid(&renewed.access), kid(&tokens.access));
}

/// Whoever opens a gateway to everybody reads so in its log, and whoever does not does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_for_everybody_says_so_loudly() {
    for (required, is_told) in [(false, true), (true, false)] {
        let dir = TempDir::new().unwrap();
        let config = format!(
            "data_dir = \"data\"\n[listen]\npublic = \"127.0.0.1:{}\"\nadmin = \"off\"\n[auth]\nrequired = {required}\n",
            free_port()
        );
        fs::write(dir.path().join("portcullis.toml"), config).unwrap();
        let log = dir.path().join("gateway.log");
        let process = Process::start(dir.path(), |command| {
            command.env_remove("PORTCULLIS_LOG").stderr(fs::File::create(&log).unwrap());
        })
        .await;
        process.stop().await;
        let log = fs::read_to_string(&log).unwrap();
        let warning = "auth.required is false: EVERYBODY who reaches this listener may call without a credential";
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(warning)).collect();
        assert_eq!(lines.len(), usize::from(is_told), "{log}");
        assert!(lines.iter().all(|line| line.contains("\"level\":\"WARN\"")), "{log}");
    }
}
