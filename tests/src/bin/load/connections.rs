//! What a credential of one's own costs: calls of an upstream that takes none beside calls of the same server under another
//! name, to which each key has connected values for a header, at one gateway, in turn.

use anyhow::{Context as _, ensure};
use http_body_util::BodyExt as _;
use portcullis_tests::oauth::Browser;
use serde_json::{Value, json};

use crate::Arguments;
use crate::caller::Caller;
use crate::programs::{KEYS, Place, Programs, Target, key};
use crate::report::Report;
use crate::turns::{Call, in_turn};

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let upstream = programs.upstream().await?;
    let own = format!(
        "[upstreams.own]\nurl = \"http://{}/mcp\"\nauth = {{ kind = \"per-user-headers\", headers = [\"X-Api-Key\"] }}\n",
        upstream.address
    );
    let gateway = programs.gateway_with(upstream.address, Place::File, &own).await?;
    let target = Target::gateway("gateway", gateway);
    for number in 0..KEYS {
        connect(&target, arguments, number).await.with_context(|| format!("key {number} is not connected"))?;
    }
    let keys: Vec<String> = (0..arguments.connections).map(key).collect();
    let calls = [
        Call { name: "to an upstream that takes no credential", upstream: "up", credentials: &keys },
        Call { name: "with a credential of one's own", upstream: "own", credentials: &keys },
    ];
    report.table(in_turn(&target, &calls, "none", arguments).await?);
    Ok(())
}

/// Follows the link that a call of this key is answered with, as a browser without scripts.
async fn connect(target: &Target, arguments: &Arguments, number: usize) -> anyhow::Result<()> {
    let mut caller = Caller::connect(target, arguments.era, number).await?;
    let call = caller.prepare("tools/call", json!({ "name": "own__blob", "arguments": { "size": 1 } }));
    let answer = caller.send(&call).await?.into_body().collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&answer)?;
    let link = answer["result"]["_meta"]["portcullis/connections"][0]["url"].as_str();
    let link = link.with_context(|| format!("no link in {answer}"))?;
    let (page, _) = link.split_once('#').context("the link of a key has a fragment")?;
    let mut browser = Browser::new(target.process.address);
    let page = browser.get(page).await;
    let page = browser.submit(&page.form("/connect/link").with("link", link)).await;
    let page = browser.submit(&page.form("/connect/own").with("header-x-api-key", &format!("value-{number}"))).await;
    ensure!(page.text().contains("Connected"), "{page}");
    Ok(())
}
