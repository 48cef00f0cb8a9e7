//! The token endpoint, and what its tokens cost: refreshes per second of chains that go on side by side, for each algorithm that
//! signs and with the store in a file; and calls with an access token beside calls with a key, at one gateway, in turn.
//!
//! Who consents is the virtual key that the other calls are made with, so that the two differ in their credential alone. Each
//! chain comes from an address of its own: the gateway counts what one address asks of the token endpoint.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use portcullis_tests::oauth::{Browser, Client, Connection, Tokens};
use serde_json::json;

use crate::Arguments;
use crate::caller::Caller;
use crate::calls::{micros, shape, work};
use crate::programs::{Place, Programs, Target, key};
use crate::report::{Report, Table, median, percentile};

/// What signs, and where the store is; the first is what others are compared with.
const SERVERS: [(&str, &str, Place); 4] = [
    ("RS256, store in memory", "RS256", Place::Memory),
    ("RS256, store in a file", "RS256", Place::File),
    ("ES256, store in memory", "ES256", Place::Memory),
    ("EdDSA, store in memory", "EdDSA", Place::Memory),
];
/// Before anything is counted, for each target.
const WARM_UP: Duration = Duration::from_millis(500);
/// Of the results of calls.
const RESULT_BYTES: usize = 40;

/// A family of refresh tokens, with the connection on which it goes on.
struct Chain {
    client: Client,
    connection: Connection,
    tokens: Tokens,
}

/// Figures of one target.
#[derive(Default)]
struct Measured {
    /// In microseconds.
    latencies: Vec<u32>,
    time: Duration,
    cpu: Duration,
    rate_by_round: Vec<f64>,
    cpu_by_round: Vec<f64>,
}

impl Measured {
    fn add(&mut self, mut latencies: Vec<u32>, time: Duration, cpu: Duration) {
        let count = latencies.len() as f64;
        self.rate_by_round.push(count / time.as_secs_f64());
        self.cpu_by_round.push(micros(cpu) / count);
        self.latencies.append(&mut latencies);
        self.time += time;
        self.cpu += cpu;
    }

    /// The row of a table: per second, how long, processor time, and both as ratios to another target, round by round.
    fn row(&mut self, to: &(Vec<f64>, Vec<f64>)) -> Vec<Option<f64>> {
        let count = self.latencies.len() as f64;
        let ratio =
            |own: &[f64], other: &[f64]| median(own.iter().zip(other).map(|(own, other)| own / other).collect());
        vec![
            Some(count / self.time.as_secs_f64()),
            Some(percentile(&mut self.latencies, 0.5) / 1e3),
            Some(percentile(&mut self.latencies, 0.99) / 1e3),
            Some(micros(self.cpu) / count),
            ratio(&self.rate_by_round, &to.0),
            ratio(&self.cpu_by_round, &to.1),
        ]
    }
}

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let upstream = programs.upstream().await?;
    let mut servers = Vec::new();
    for (name, algorithm, place) in SERVERS {
        let gateway = programs.authorization_server(upstream.address, algorithm, place).await?;
        let target = Target::gateway(name, gateway);
        let chains = chains(&target, arguments.connections).await?;
        servers.push((target, chains));
    }
    report.table(refreshes(&mut servers, arguments).await?);
    let (target, chains) = servers.swap_remove(0);
    report.table(calls(&target, &chains, arguments).await?);
    Ok(())
}

/// So many chains, each of a sign-in of its own.
async fn chains(target: &Target, count: usize) -> anyhow::Result<Vec<Chain>> {
    let address = target.process.address;
    let client = Client::register(address, "/mcp").await;
    let mut chains = Vec::with_capacity(count);
    for number in 0..count {
        let (begun, mut browser) = (client.begin(), Browser::new(address));
        let page = browser.get(&begun.url).await;
        let is_it = |form: &portcullis_tests::oauth::Form| form.field("identity") == Some("key");
        let form = page.forms().into_iter().find(is_it).with_context(|| format!("no key can be chosen on {page}"))?;
        let page = browser.submit(&form.with("key", &key(number))).await;
        let page = browser.submit(&page.form("/finish")).await;
        let tokens = Tokens::of(&client.redeem(&begun, &client.code(&begun, &page.url)).await);
        let own = Ipv4Addr::new(127, 1, u8::try_from(number / 250)?, u8::try_from(number % 250 + 1)?);
        let connection = Connection::try_open_from(own, address).await?;
        chains.push(Chain { client: client.clone(), connection, tokens });
    }
    Ok(chains)
}

async fn refreshes(servers: &mut [(Target, Vec<Chain>)], arguments: &Arguments) -> anyhow::Result<Table> {
    let mut measured: Vec<Measured> = servers.iter().map(|_| Measured::default()).collect();
    for round in 0..=arguments.rounds {
        for ((target, chains), measured) in servers.iter_mut().zip(&mut measured) {
            let (cpu, started) = (target.process.cpu()?, Instant::now());
            let until = started + if round == 0 { WARM_UP } else { arguments.round() };
            let workers: Vec<_> = chains.drain(..).map(|chain| tokio::spawn(go_on(chain, until))).collect();
            let mut latencies = Vec::new();
            for worker in workers {
                let (chain, own) = worker.await??;
                chains.push(chain);
                latencies.extend(own);
            }
            if round > 0 {
                measured.add(latencies, started.elapsed(), target.process.cpu()? - cpu);
            }
        }
    }
    let title = format!("refreshes at the token endpoint, chains side by side: {}", shape(arguments));
    let columns = ["refreshes/s", "p50 ms", "p99 ms", "CPU µs per refresh", "× first", "CPU × first"];
    let mut table = Table::new(title, &columns);
    let first = (measured[0].rate_by_round.clone(), measured[0].cpu_by_round.clone());
    for ((target, _), measured) in servers.iter().zip(&mut measured) {
        table.add(&target.name, measured.row(&first));
    }
    Ok(table)
}

/// Refreshes until the time is up, each time with what the last answer gave. Microseconds of each.
async fn go_on(mut chain: Chain, until: Instant) -> anyhow::Result<(Chain, Vec<u32>)> {
    let mut latencies = Vec::new();
    while Instant::now() < until || latencies.is_empty() {
        let fields = chain.client.refreshing(&chain.tokens.refresh);
        let started = Instant::now();
        let reply = chain.client.token_on(&mut chain.connection, &fields).await;
        latencies.push(u32::try_from(started.elapsed().as_micros())?);
        ensure!(reply.status.is_success(), "{}: {}", reply.status, reply.text());
        let tokens = Tokens::of(&reply);
        ensure!(tokens.refresh != chain.tokens.refresh, "the refresh token is the same as before");
        chain.tokens = tokens;
    }
    Ok((chain, latencies))
}

/// The same call with a key and with an access token, which take turns at being first.
async fn calls(target: &Target, chains: &[Chain], arguments: &Arguments) -> anyhow::Result<Table> {
    let (by_key, by_token) = (0, 1);
    let mut measured = [Measured::default(), Measured::default()];
    for round in 0..=arguments.rounds {
        let order = if round % 2 == 0 { [by_key, by_token] } else { [by_token, by_key] };
        for which in order {
            let mut workers = Vec::with_capacity(chains.len());
            for (number, chain) in chains.iter().enumerate() {
                let credential = if which == by_key { key(number) } else { chain.tokens.access.clone() };
                let caller = Caller::connect_as(target, arguments.era, &credential).await?;
                let params = json!({ "name": format!("{}blob", target.prefix), "arguments": { "size": RESULT_BYTES } });
                let prepared = caller.prepare("tools/call", params);
                workers.push((caller, prepared));
            }
            let (cpu, started) = (target.process.cpu()?, Instant::now());
            let until = started + if round == 0 { WARM_UP } else { arguments.round() };
            let workers =
                workers.into_iter().map(|(caller, call)| tokio::spawn(work(caller, call, RESULT_BYTES, until)));
            let workers: Vec<_> = workers.collect();
            let mut latencies = Vec::new();
            for worker in workers {
                latencies.extend(worker.await??);
            }
            if round > 0 {
                measured[which].add(latencies, started.elapsed(), target.process.cpu()? - cpu);
            }
        }
    }
    let title = format!("tools/call, results of {RESULT_BYTES} B, {}", shape(arguments));
    let columns = ["calls/s", "p50 ms", "p99 ms", "CPU µs per call", "× key", "CPU × key"];
    let mut table = Table::new(title, &columns);
    let first = (measured[by_key].rate_by_round.clone(), measured[by_key].cpu_by_round.clone());
    table.add("with a virtual key", measured[by_key].row(&first));
    table.add("with an access token (RS256)", measured[by_token].row(&first));
    Ok(table)
}
