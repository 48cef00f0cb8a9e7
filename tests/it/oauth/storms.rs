//! A gateway that is killed while tokens are refreshed, again and again: who was told something can go on with it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_tests::caller::send_unix;
use portcullis_tests::oauth::client::Begun;
use portcullis_tests::oauth::{Browser, Client, Connection, Tokens};
use portcullis_tests::proxies::dice::Dice;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Reply, program};
use tempfile::TempDir;

use super::{Who, choose};
use crate::vault::{Process, free_port};

/// How often the gateway is killed.
const LIVES: u64 = 12;
/// Clients, each with one grant, each refreshing with several requests at once.
const CLIENTS: usize = 4;
const AT_ONCE: usize = 4;
/// Longest life of a gateway once it is ready.
const LIFE: u64 = 400;

fn lay_out(dir: &Path, upstream: &str, public: SocketAddr) {
    let config = format!(
        "public_url = \"http://{public}\"\ndata_dir = \"data\"\n[listen]\npublic = \"{public}\"\nadmin = \"off\"\n\
         [auth]\nguests = true\n[auth.tokens]\nrefresh_replays = 10000\nrefresh_grace = \"60s\"\n[upstreams.up]\nurl = \"{upstream}\"\n"
    );
    std::fs::write(dir.join("portcullis.toml"), config).unwrap();
}

async fn start(dir: &Path) -> Process {
    Process::start(dir, |command: &mut Command| {
        command.stdout(Stdio::null());
    })
    .await
}

/// What a client holds: the refresh token that it would present, and those it may have been given unheard.
struct Holder {
    client: Client,
    refresh: String,
}

impl Holder {
    /// Refreshes with several requests at once until the gateway is gone. Whatever arrived is what counts from then on.
    async fn storm(mut self) -> Self {
        loop {
            let mut racers = tokio::task::JoinSet::new();
            for _ in 0..AT_ONCE {
                let (client, refresh) = (self.client.clone(), self.refresh.clone());
                racers.spawn(async move {
                    let mut connection = Connection::try_open(client.address).await.ok()?;
                    let mut fields = client.refreshing(&refresh);
                    fields.push(("client_id", client.id.clone()));
                    let body = portcullis_tests::oauth::encoded(&fields);
                    let headers = [("content-type", "application/x-www-form-urlencoded")];
                    connection.try_send("POST", "/oauth2/token", &headers, body).await.ok()
                });
            }
            let replies: Vec<Option<Reply>> = racers.join_all().await;
            let gone = replies.iter().any(Option::is_none);
            let arrived: Vec<Reply> = replies.into_iter().flatten().collect();
            for reply in &arrived {
                // A gateway that is going down may say so; it never says that the token is bad.
                assert!([200, 503].contains(&reply.status.as_u16()), "{}: {}", reply.status, reply.text());
            }
            let successors: std::collections::BTreeSet<String> =
                arrived.iter().filter(|reply| reply.status == 200).map(|reply| Tokens::of(reply).refresh).collect();
            assert!(successors.len() <= 1, "one chain: {successors:?}");
            if let Some(successor) = successors.into_iter().next() {
                self.refresh = successor;
            }
            if gone {
                return self;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_any_two_writes_of_a_rotation_loses_nobody() {
    let up = Fixture::start().await;
    let dir = TempDir::new().unwrap();
    let public = SocketAddr::from(([127, 0, 0, 1], free_port()));
    lay_out(dir.path(), &up.url, public);
    assert!(program("portcullis").is_file());
    let mut process = Some(start(dir.path()).await);
    let mut holders = Vec::new();
    for _ in 0..CLIENTS {
        let client = Client::register(public, "/mcp").await;
        let begun: Begun = client.begin();
        let mut browser = Browser::new(public);
        let page = browser.get(&begun.url).await;
        let page = choose(&mut browser, page, Who::Guest).await;
        let page = browser.submit(&page.form("/finish")).await;
        let tokens = Tokens::of(&client.redeem(&begun, &client.code(&begun, &page.url)).await);
        holders.push(Holder { client, refresh: tokens.refresh });
    }
    let mut dice = Dice::new(7, 0);
    let mut rotations = 0;
    for life in 0..LIVES {
        let before: Vec<String> = holders.iter().map(|holder| holder.refresh.clone()).collect();
        let mut storms = tokio::task::JoinSet::new();
        for holder in holders.drain(..) {
            storms.spawn(holder.storm());
        }
        tokio::time::sleep(Duration::from_millis(20 + dice.below(LIFE))).await;
        // SIGKILL: nothing is said to anybody.
        drop(process.take());
        holders = storms.join_all().await;
        rotations += holders.iter().filter(|holder| !before.contains(&holder.refresh)).count();
        process = Some(start(dir.path()).await);
        for holder in &mut holders {
            let reply = holder.client.refresh(&holder.refresh).await;
            assert_eq!(reply.status, 200, "life {life}: {}", reply.text());
            let tokens = Tokens::of(&reply);
            assert!(super::is_let_in(&holder.client, &tokens.access).await, "life {life}");
            holder.refresh = tokens.refresh;
        }
        let socket = dir.path().join("data/admin.sock");
        let grants = send_unix(&socket, "GET", "/api/v1/grants", None).await.unwrap().json();
        assert_eq!(grants["grants"].as_array().map(Vec::len), Some(CLIENTS), "life {life}: {grants}");
    }
    assert!(rotations > 0, "no life was long enough");
}
