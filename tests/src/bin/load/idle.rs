//! Memory of what rests: legacy sessions, connections, and streams that nothing is said on.
//!
//! Each figure is how much the resident memory of a fresh gateway grows, divided by how many were opened. The kernel's
//! own memory for sockets is not in it.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::Arguments;
use crate::caller::{Caller, Era};
use crate::programs::{Process, Programs, Target, one_upstream};
use crate::report::{Report, Table};

/// Calls that a gateway has answered before its memory is looked at, so that what it makes once is there.
const WARM_UP: usize = 2_000;
/// Until what was opened has come to rest.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let count = arguments.idle;
    let allowed = open_files()?;
    if allowed < count + 200 {
        report.say(&format!("memory: skipped, this process may open {allowed} files only (try `ulimit -n 20000`)\n"));
        return Ok(());
    }
    let upstream = programs.upstream().await?;
    let fresh = || async {
        let target = Target::gateway("gateway", programs.gateway(&one_upstream(upstream.address), 0).await?);
        warm_up(&target).await?;
        tokio::time::sleep(SETTLE).await;
        anyhow::Ok(target)
    };
    let mut table = Table::new(format!("resident memory of the gateway, {count} of each"), &["KiB each", "MiB before"]);
    let mut add = |name: &str, before: f64, after: f64| {
        table.add(name, vec![Some((after - before) / count as f64), Some(before / 1024.0)]);
    };

    let target = fresh().await?;
    let before = target.process.resident_kib()?;
    let sessions = open_sessions(&target, count).await?;
    let after = settled(&target.process).await?;
    add("legacy session", before, after);
    match open_get_streams(&target, &sessions).await? {
        Ok(_streams) => add("GET stream of a legacy session", after, settled(&target.process).await?),
        Err(why) => report.say(&format!("memory of GET streams: skipped, the gateway answers {why}\n")),
    }
    drop(target);

    let target = fresh().await?;
    let before = target.process.resident_kib()?;
    let connections = open_connections(&target, count).await?;
    add("connection after a call", before, settled(&target.process).await?);
    drop((connections, target));

    let target = fresh().await?;
    let before = target.process.resident_kib()?;
    match open_subscriptions(&target, count).await? {
        Ok(_streams) => add("subscriptions/listen stream", before, settled(&target.process).await?),
        Err(why) => report.say(&format!("memory of subscriptions: skipped, the gateway answers {why}\n")),
    }
    report.table(table);
    Ok(())
}

async fn settled(process: &Process) -> anyhow::Result<f64> {
    tokio::time::sleep(SETTLE).await;
    process.resident_kib()
}

async fn warm_up(target: &Target) -> anyhow::Result<()> {
    for number in 0..20 {
        let mut caller = Caller::connect(target, Era::Modern, number).await?;
        let call = caller.prepare("tools/call", json!({ "name": "up__blob", "arguments": { "size": 40 } }));
        for _ in 0..WARM_UP / 20 {
            caller.ask(&call, 40).await?;
        }
    }
    Ok(())
}

/// So many sessions over few connections; the ids.
async fn open_sessions(target: &Target, count: usize) -> anyhow::Result<Vec<HeaderValue>> {
    let mut sessions = Vec::with_capacity(count);
    let mut callers = Vec::new();
    for number in 0..crate::programs::KEYS {
        callers.push(Caller::connect_only(target, Era::Legacy, number).await?);
    }
    let keys = callers.len();
    for number in 0..count {
        sessions.push(callers[number % keys].open_session().await?);
    }
    Ok(sessions)
}

async fn open_connections(target: &Target, count: usize) -> anyhow::Result<Vec<Caller>> {
    let mut callers = Vec::with_capacity(count);
    for number in 0..count {
        let mut caller = Caller::connect(target, Era::Modern, number).await?;
        let call = caller.prepare("tools/call", json!({ "name": "up__blob", "arguments": { "size": 40 } }));
        caller.ask(&call, 40).await?;
        callers.push(caller);
    }
    Ok(callers)
}

/// Streams that are held open, or how the gateway refused the first.
type Streams = Result<Vec<(Caller, hyper::body::Incoming)>, String>;

async fn open_get_streams(target: &Target, sessions: &[HeaderValue]) -> anyhow::Result<Streams> {
    let mut streams = Vec::with_capacity(sessions.len());
    for (number, session) in sessions.iter().enumerate() {
        let mut caller = Caller::connect_only(target, Era::Legacy, number).await?;
        let response = caller.get_stream(session.clone()).await?;
        match opened(response, number).await? {
            Ok(body) => streams.push((caller, body)),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(streams))
}

async fn open_subscriptions(target: &Target, count: usize) -> anyhow::Result<Streams> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let mut caller = Caller::connect(target, Era::Modern, number).await?;
        let listen = caller.prepare("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
        let response = caller.send(&listen).await?;
        match opened(response, number).await? {
            Ok(mut body) => {
                // The acknowledgement; behind it the stream rests.
                _ = body.frame().await;
                streams.push((caller, body));
            }
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(streams))
}

/// The stream, or why it is none. After the first that was opened, a refusal is a fault.
async fn opened(
    response: http::Response<hyper::body::Incoming>,
    number: usize,
) -> anyhow::Result<Result<hyper::body::Incoming, String>> {
    let is_stream = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    if response.status() == StatusCode::OK && is_stream {
        return Ok(Ok(response.into_body()));
    }
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let said = format!("{status} {}", String::from_utf8_lossy(&body[..body.len().min(200)]));
    anyhow::ensure!(number == 0, "stream {number} was refused: {said}");
    Ok(Err(said.trim_end().to_owned()))
}

/// How many files this process may open; its children may as many.
fn open_files() -> anyhow::Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    Ok(line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX))
}
