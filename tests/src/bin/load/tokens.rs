//! The token endpoint, and what its tokens cost: refreshes per second of chains that go on side by side, for each algorithm that
//! signs and with the store in a file; and calls with an access token beside calls with a key, at one gateway, in turn.
//!
//! Who consents is the virtual key that the other calls are made with, so that the two differ in their credential alone. Each
//! chain comes from an address of its own: the gateway counts what one address asks of the token endpoint.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use portcullis_tests::oauth::{Browser, Client, Connection, Tokens};

use crate::Arguments;
use crate::calls::shape;
use crate::programs::{Place, Programs, Target, key};
use crate::report::{Report, Table};
use crate::turns::{Call, Measured, WARM_UP, in_turn};

/// What signs, and where the store is; the first is what others are compared with.
const SERVERS: [(&str, &str, Place); 4] = [
    ("RS256, store in memory", "RS256", Place::Memory),
    ("RS256, store in a file", "RS256", Place::File),
    ("ES256, store in memory", "ES256", Place::Memory),
    ("EdDSA, store in memory", "EdDSA", Place::Memory),
];

/// A family of refresh tokens, with the connection on which it goes on.
struct Chain {
    client: Client,
    connection: Connection,
    tokens: Tokens,
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
    let first = measured[0].by_round();
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

/// The same call with a key and with an access token.
async fn calls(target: &Target, chains: &[Chain], arguments: &Arguments) -> anyhow::Result<Table> {
    let keys: Vec<String> = (0..chains.len()).map(key).collect();
    let tokens: Vec<String> = chains.iter().map(|chain| chain.tokens.access.clone()).collect();
    let calls = [
        Call { name: "with a virtual key", upstream: "up", credentials: &keys },
        Call { name: "with an access token (RS256)", upstream: "up", credentials: &tokens },
    ];
    in_turn(target, &calls, "key", arguments).await
}
