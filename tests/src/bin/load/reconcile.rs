//! A change that takes many connections away: a gateway starts on a store in which as many keys as wanted have one each, and
//! its configuration knows none of those keys. Measured is how long it takes to write that down, and what calls take meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use portcullis::Env;
use portcullis::audit::Actor;
use portcullis::config::{self, VaultKey, VaultKeySource, VaultKeyState};
use portcullis::connection::{Access, Credential, Holder, Place};
use portcullis::ids::{ConnectionId, KekId, KeyName, Principal, UpstreamName};
use portcullis::outbound::Outbound;
use portcullis::secret::Plaintext;
use portcullis::store::connections::{NewCredential, Put, Secret, put, sealed_at};
use portcullis::store::{Location, Store, changes};
use portcullis::vault::Vault;
use serde_json::json;
use tokio::task::JoinSet;

use crate::Arguments;
use crate::caller::Caller;
use crate::programs::{Programs, Target};
use crate::report::{Report, Table, percentile};

/// Those who fill the store at once: their transactions share commits.
const WRITERS: u64 = 64;
/// Longest sweep.
const PATIENCE: Duration = Duration::from_secs(900);
/// Where the gateway finds its key: the store was sealed with it.
const VARIABLE: &str = "LOAD_KEK";

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let dir = programs.scratch("reconcile")?;
    let file = dir.join("connections.redb");
    let key = "07".repeat(32);
    fill(&file, &key, arguments.reconciled).await?;
    let upstream = programs.upstream().await?;
    let settings = format!(
        "[store]\nurl = \"redb:{}\"\n[upstreams.own]\nurl = \"http://{}/mcp\"\n\
         auth = {{ kind = \"per-user-headers\", headers = [\"X-Api-Key\"] }}\n\
         [[vault.keys]]\nkid = \"load\"\nsource = \"env\"\nvariable = \"{VARIABLE}\"\n",
        file.display(),
        upstream.address
    );
    let log = dir.join("log");
    let started = Instant::now();
    let gateway = programs.logging_gateway(upstream.address, &settings, (VARIABLE, &key), &log).await?;
    let target = Target::gateway("gateway", gateway);
    let mut caller = Caller::connect(&target, arguments.era, 0).await?;
    let call = caller.prepare("tools/call", json!({ "name": "up__blob", "arguments": { "size": 40 } }));
    let (mut during, mut after) = (Vec::new(), Vec::new());
    let told = loop {
        ask(&mut caller, &call, &mut during).await?;
        if let Some(told) = reconciled(&log)? {
            break told;
        }
        ensure!(started.elapsed() < PATIENCE, "nothing was reconciled");
    };
    let until = Instant::now() + arguments.round().max(Duration::from_secs(1));
    while Instant::now() < until {
        ask(&mut caller, &call, &mut after).await?;
    }
    ensure!(told.orphaned == arguments.reconciled, "{} connections were orphaned", told.orphaned);
    let title = format!("a change that takes {} connections away, one caller meanwhile", arguments.reconciled);
    let columns = ["seconds", "connections/s", "call p50 ms", "call p99 ms", "call max ms"];
    let mut table = Table::new(title, &columns);
    let seconds = told.took_ms as f64 / 1e3;
    let quantiles = |times: &mut Vec<u32>| [0.5, 0.99, 1.0].map(|share| Some(percentile(times, share) / 1e3));
    let figures = [Some(seconds), Some(told.orphaned as f64 / seconds)];
    table.add("while it is written down", figures.into_iter().chain(quantiles(&mut during)).collect());
    table.add("afterwards", [None, None].into_iter().chain(quantiles(&mut after)).collect());
    report.table(table);
    Ok(())
}

async fn ask(caller: &mut Caller, call: &crate::caller::Prepared, times: &mut Vec<u32>) -> anyhow::Result<()> {
    let asked = Instant::now();
    caller.ask(call, 40).await?;
    times.push(u32::try_from(asked.elapsed().as_micros())?);
    // Whoever calls without a pause is no measure of what others feel.
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(())
}

/// What the gateway says of a sweep that changed something.
struct Told {
    orphaned: u64,
    took_ms: u64,
}

fn reconciled(log: &std::path::Path) -> anyhow::Result<Option<Told>> {
    let text = std::fs::read_to_string(log)?;
    let Some(line) = text.lines().find(|line| line.contains("connections reconciled")) else { return Ok(None) };
    let line: serde_json::Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
    let of = |name: &str| line[name].as_u64().with_context(|| format!("no {name} in {line}"));
    Ok(Some(Told { orphaned: of("orphaned")?, took_ms: of("took_ms")? }))
}

/// Makes a store in which so many keys have a connection each.
async fn fill(file: &std::path::Path, key: &str, connections: u64) -> anyhow::Result<()> {
    let env = Env::system();
    let store = Store::open(Location::File(file.to_owned()), env.clone()).await?;
    let source = VaultKeySource::Environment { variable: VARIABLE.to_owned(), key: Plaintext::new(key) };
    let key = VaultKey { kid: KekId::parse("load")?, state: VaultKeyState::Active, source };
    let cache_ttl = Duration::from_secs(3_600);
    let settings = config::Vault { keys: vec![key], is_default: false, cache_ttl, allow_core_dumps: false };
    let vault = Vault::start(&settings, store.clone(), env.clone(), Outbound::new()).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (store, vault, env, next) = (store.clone(), vault.clone(), env.clone(), next.clone());
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= connections {
                    return anyhow::Ok(());
                }
                connect(&store, &vault, &env, number).await?;
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    store.close().await;
    Ok(())
}

async fn connect(store: &Store, vault: &Vault, env: &Env, number: u64) -> anyhow::Result<()> {
    let holder = Holder::Of(Principal::Key(KeyName::parse(&format!("gone-{number}"))?));
    let place = Place { holder, upstream: UpstreamName::parse("own")? };
    let id = ConnectionId::generate(env);
    let values = vault.seal(&sealed_at(&place, &id, 1, Secret::Headers), br#"{"x-api-key":"value"}"#).await?;
    let credential = Credential::Headers { names: vec!["x-api-key".to_owned()], values };
    loop {
        let new = NewCredential {
            place: place.clone(),
            id: id.clone(),
            replaces: None,
            origin: None,
            credential: credential.clone(),
        };
        let of = store.read(changes::revision).await?;
        match put(store, new, of, |_| Access::Granted, Actor::System).await? {
            Put::Stored(_) => return Ok(()),
            // Others write as well.
            Put::Outdated => {}
            other => anyhow::bail!("it is not stored: {other:?}"),
        }
    }
}
