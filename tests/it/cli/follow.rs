//! `audit list --follow` and `decision follow`: each row once, whatever becomes of the stream.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use portcullis_tests::Gateway;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{command, dir_with, run_in};

/// A command that goes on until it is stopped, and what it prints.
struct Following {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Following {
    fn start(gateway: &Gateway, arguments: &[&str]) -> Self {
        let mut command = command(&[arguments, &["--config", gateway.file.to_str().unwrap()]].concat());
        let command = command.current_dir(gateway.dir.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let printed = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(2 * SOON, self.lines.recv()).await;
        line.expect("a line comes").expect("it goes on")
    }

    /// The key that the next row is about.
    async fn key(&mut self) -> String {
        let line = self.line().await;
        let row: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        row["detail"]["key"].as_str().unwrap().to_owned()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

async fn make_key(gateway: &Gateway, name: &str) {
    assert_eq!(gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": name }))).await.status, 201);
}

#[tokio::test]
async fn a_trail_goes_on_where_it_was_when_the_gateway_comes_back() {
    let life = || Gateway::builder().on_disk();
    let gateway = life().start().await;
    for name in ["long-ago", "before"] {
        make_key(&gateway, name).await;
    }
    let asked = ["audit", "list", "--follow", "--event", "key.created", "--limit", "1", "--output", "json"];
    let mut following = Following::start(&gateway, &asked);
    assert_eq!(following.key().await, "before", "as many as are asked for");
    for name in ["first", "second"] {
        make_key(&gateway, name).await;
    }
    for name in ["first", "second"] {
        assert_eq!(following.key().await, name);
    }

    let clock = gateway.clock.clone();
    let gateway = life().try_start(gateway.stop().await, clock).await.unwrap();
    gateway.wait_until_ready().await;
    // Most likely before anybody follows again.
    for name in ["third", "fourth"] {
        make_key(&gateway, name).await;
    }
    for name in ["third", "fourth"] {
        assert_eq!(following.key().await, name, "none is left out, and none told twice");
    }
}

#[tokio::test]
async fn as_many_rows_come_first_as_are_asked_for_however_many_pages_that_takes() {
    let gateway = Gateway::builder().start().await;
    for number in 0..205 {
        make_key(&gateway, &format!("key-{number:03}")).await;
    }
    let asked = ["audit", "list", "--follow", "--event", "key.created", "--limit", "203", "--output", "json"];
    let mut following = Following::start(&gateway, &asked);
    for number in 2..205 {
        assert_eq!(following.key().await, format!("key-{number:03}"));
    }
}

#[tokio::test]
async fn decisions_are_told_as_they_are_made_and_as_they_are_asked_for() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").key("bob").start().await;
    gateway.until_upstreams_are_up().await;
    gateway.caller("alice").call("up__echo", json!({})).await;
    gateway.until("/api/v1/decisions", |view| view["decisions"].as_array().unwrap().len() == 1).await;
    let mut following = Following::start(&gateway, &["decision", "follow", "--principal", "key:alice"]);
    let first = following.line().await;
    assert!(first.contains("key:alice") && first.contains("up/echo"), "{first}");
    for caller in ["bob", "alice"] {
        gateway.caller(caller).call("up__echo", json!({})).await;
    }
    let second = following.line().await;
    assert!(second.contains("key:alice") && second.contains("up/echo") && second != first, "{second}");

    let (dir, config) = (gateway.dir.path(), gateway.file.to_str().unwrap());
    let refused = run_in(dir, &["decision", "follow", "--verdict", "maybe", "--config", config]).await.complaint();
    assert!(refused.contains("verdict"), "{refused}");
    let nowhere = dir_with(&[("portcullis.toml", "data_dir = \"data\"\n")]);
    let complaint = run_in(nowhere.path(), &["decision", "follow"]).await.complaint();
    assert!(complaint.contains("is it running?") && complaint.contains("admin.sock"), "{complaint}");
}
