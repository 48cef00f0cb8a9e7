//! Scenarios of authorization: the suite's server wants tokens of the suite's authorization server, and the gateway is its
//! client. A browser without a screen goes where a person would.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use portcullis_tests::Gateway;
use portcullis_tests::gateway::SOON;
use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, Page};
use serde_json::{Value, json};

use crate::{KEY, Task, text_of};

/// The client id that the suite takes for the address of a document (`auth/basic-cimd`), which nobody can read.
const DOCUMENT: &str = "https://conformance-test.local/client-metadata.json";
/// Longer than what was found of a server counts, and than a token counts as fresh.
const LATER: Duration = Duration::from_secs(2 * 60);
/// Where people come back to, as far as it is the same for all.
const CALLBACK: &str = "/connect/callback/";

/// Whose connection calls are made with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The caller's own, beside the gateway's for lists.
    Own,
    /// One for all, lists included: where the suite counts what people are asked.
    Shared,
}

pub(crate) fn concerns(task: &Task) -> bool {
    task.scenario.starts_with("auth/")
}

pub(crate) async fn run(url: &str, task: &Task) -> anyhow::Result<()> {
    match task.scenario.as_str() {
        "auth/resource-mismatch" | "auth/metadata-issuer-mismatch" => {
            let gateway = start(url, task, Whose::Own).await?;
            refused_before_anybody_is_sent(&gateway).await
        }
        "auth/iss-supported-missing" | "auth/iss-wrong-issuer" | "auth/iss-unexpected" | "auth/iss-normalized" => {
            let gateway = start(url, task, Whose::Own).await?;
            refused_on_the_way_back(&gateway).await
        }
        "auth/scope-step-up" => step_up(&start(url, task, Whose::Shared).await?).await,
        "auth/scope-retry-limit" => never_enough(&start(url, task, Whose::Shared).await?).await,
        "auth/authorization-server-migration" => migrate(&start(url, task, Whose::Shared).await?).await,
        _ => call_with_ones_own(&start(url, task, Whose::Own).await?).await,
    }
}

/// A gateway with the client that the scenario hands out, if it does.
async fn start(url: &str, task: &Task, whose: Whose) -> anyhow::Result<Gateway> {
    let kind = if whose == Whose::Shared { "shared-oauth" } else { "per-user-oauth" };
    let mut builder = Gateway::builder().key(KEY);
    let client = match (&task.context["client_id"], task.scenario.as_str()) {
        (Value::String(id), _) => Some(id.as_str()),
        (_, "auth/basic-cimd") => Some(DOCUMENT),
        _ => None,
    };
    let mut auth = format!("kind = \"{kind}\"\n");
    if let Some(client) = client {
        auth.push_str(&format!("client_id = {}\n", json!(client)));
    }
    if let Some(secret) = task.context["client_secret"].as_str() {
        auth.push_str("client_secret = \"file:client.secret\"\n");
        builder = builder.file("client.secret", secret.as_bytes());
    }
    // The suite's authorization server is at another port of this machine.
    let section = format!(
        "[outbound]\nallow = [\"localhost\"]\n[upstreams.suite]\nurl = {}\nprefix = false\ncall_timeout = \"20s\"\n\
         [upstreams.suite.auth]\n{auth}",
        json!(url)
    );
    Ok(builder.section(&section).start().await)
}

/// Connects what lists are read with, and then, where that is not for all, what the caller lacks.
async fn call_with_ones_own(gateway: &Gateway) -> anyhow::Result<()> {
    connect(gateway, &operators_link(gateway, "").await?).await?;
    until_up(gateway).await;
    let lacking = lacking(&call(gateway).await)?;
    connect(gateway, lacking["url"].as_str().context("there is a link")?).await?;
    succeeds(gateway).await
}

/// The call needs more than the list.
async fn step_up(gateway: &Gateway) -> anyhow::Result<()> {
    connect(gateway, &operators_link(gateway, "").await?).await?;
    until_up(gateway).await;
    let lacking = lacking(&call(gateway).await)?;
    ensure!(lacking["state"] == "insufficient_scope", "{lacking}");
    let scopes = lacking["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let scopes = scopes.collect::<Vec<_>>().join(" ");
    let query = form_urlencoded::Serializer::for_suffix(String::from("?"), 1).append_pair("scope", &scopes).finish();
    connect(gateway, &operators_link(gateway, &query).await?).await?;
    succeeds(gateway).await
}

/// No scope is enough: it is said so, and nobody is asked again and again.
async fn never_enough(gateway: &Gateway) -> anyhow::Result<()> {
    connect(gateway, &operators_link(gateway, "").await?).await?;
    let view = gateway.until("/api/v1/upstreams", |view| view["upstreams"][0]["reason"].is_string()).await;
    ensure!(view["upstreams"][0]["state"] != "up", "{view}");
    let answered = call(gateway).await;
    ensure!(answered["result"]["content"].is_null() || answered["result"]["isError"] == true, "{answered}");
    Ok(())
}

/// The server moves to another authorization server as soon as a token was used.
async fn migrate(gateway: &Gateway) -> anyhow::Result<()> {
    connect(gateway, &operators_link(gateway, "").await?).await?;
    until_refused(gateway).await?;
    gateway.clock.advance(LATER);
    connect(gateway, &operators_link(gateway, "").await?).await?;
    until_up(gateway).await;
    succeeds(gateway).await
}

async fn refused_before_anybody_is_sent(gateway: &Gateway) -> anyhow::Result<()> {
    let (_, page) = arrive(gateway, &operators_link(gateway, "").await?).await?;
    ensure!(page.status() == 502, "{page}");
    Ok(())
}

async fn refused_on_the_way_back(gateway: &Gateway) -> anyhow::Result<()> {
    let (mut browser, page) = arrive(gateway, &operators_link(gateway, "").await?).await?;
    let page = go_there_and_back(&mut browser, &page).await?;
    ensure!(page.status() == 400, "{page}");
    Ok(())
}

/// The link that an operator is given.
async fn operators_link(gateway: &Gateway, query: &str) -> anyhow::Result<String> {
    let reply = gateway.operator("POST", &format!("/api/v1/upstreams/suite/connect{query}"), None).await;
    ensure!(reply.status == 200, "{}", reply.text());
    Ok(reply.json()["url"].as_str().context("there is a link")?.to_owned())
}

async fn connect(gateway: &Gateway, link: &str) -> anyhow::Result<()> {
    let (mut browser, page) = arrive(gateway, link).await?;
    let page = go_there_and_back(&mut browser, &page).await?;
    ensure!(page.status() == 200 && page.text().contains("Connected"), "{page}");
    Ok(())
}

/// Opens a link as a browser without scripts: the whole of it is pasted.
async fn arrive(gateway: &Gateway, link: &str) -> anyhow::Result<(Browser, Page)> {
    let mut browser = Browser::new(gateway.public);
    let page = browser.get(link.split('#').next().unwrap_or(link)).await;
    ensure!(page.status() == 200, "{page}");
    let page = browser.submit(&page.form("/connect/link").with("link", link)).await;
    Ok((browser, page))
}

/// Goes on to the authorization server, which agrees at once, and comes back.
async fn go_there_and_back(browser: &mut Browser, page: &Page) -> anyhow::Result<Page> {
    ensure!(page.status() == 200, "{page}");
    let away = browser.submit(&page.form("/connect/suite")).await;
    let address = away.url.strip_prefix("http://localhost:").with_context(|| away.to_string())?;
    let (port, path) = address.split_once('/').with_context(|| away.to_string())?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    let host = format!("localhost:{port}");
    let reply = send(server, "GET", &format!("/{path}"), &[("host", host.as_str())], "").await;
    let back = reply.header("location");
    ensure!(back.contains(CALLBACK), "{}: {} {}", away.url, reply.status, reply.text());
    Ok(browser.get(back).await)
}

async fn until_up(gateway: &Gateway) {
    gateway.until("/api/v1/upstreams", |view| view["upstreams"][0]["state"] == "up").await;
}

/// Until the token of the first server was refused, to whoever reads lists or to a caller.
async fn until_refused(gateway: &Gateway) -> anyhow::Result<()> {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let view = gateway.operator("GET", "/api/v1/connections?holder=shared", None).await.json();
        if view["connections"][0]["state"] == "needs_reauth" {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < until, "{view}");
        // Whatever it comes to.
        call(gateway).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The answer to a call of the suite's one tool.
async fn call(gateway: &Gateway) -> Value {
    gateway.caller(KEY).call("test-tool", json!({})).await.json()
}

async fn succeeds(gateway: &Gateway) -> anyhow::Result<()> {
    let answered = call(gateway).await;
    ensure!(text_of(&answered["result"])? == "test", "{answered}");
    Ok(())
}

/// What a call lacked.
fn lacking(answered: &Value) -> anyhow::Result<Value> {
    let lacking = &answered["result"]["_meta"]["portcullis/connections"][0];
    ensure!(lacking.is_object(), "nothing is lacking: {answered}");
    Ok(lacking.clone())
}
