//! tools/call, by size of the result: calls per second, how long they take, and what they cost the target.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Arguments;
use crate::caller::{Caller, Prepared};
use crate::programs::{Programs, Target, gateway_name, one_upstream};
use crate::report::{Report, Table, median, percentile};

/// Policies of the gateways that are compared.
const POLICIES: [usize; 3] = [0, 1, 4];
/// Of the results' texts, and the tool that gives them.
const PAYLOADS: [(&str, usize, &str); 4] = [
    ("40 B", 40, "blob"),
    ("16 KiB", 16 * 1024, "blob"),
    ("1 MiB", 1024 * 1024, "blob"),
    ("40 B as events", 40, "blob_sse"),
];
/// Before anything is counted, for each target.
const WARM_UP: Duration = Duration::from_millis(500);

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let upstream = programs.upstream().await?;
    let address = upstream.address;
    let mut targets = vec![Target::new("direct", upstream), Target::new("floor", programs.floor(address).await?)];
    for policies in POLICIES {
        let gateway = programs.gateway(&one_upstream(address), policies).await?;
        targets.push(Target::gateway(gateway_name(policies), gateway));
    }
    for (name, size, tool) in PAYLOADS {
        let title = format!("tools/call, results of {name}, {}", shape(arguments));
        let ask = |target: &Target| {
            let params = json!({ "name": format!("{}{tool}", target.prefix), "arguments": { "size": size } });
            ("tools/call", params, size)
        };
        report.table(compare(&targets, arguments, title, ask).await?);
    }
    Ok(())
}

pub(crate) fn shape(arguments: &Arguments) -> String {
    let Arguments { connections, rounds, seconds, .. } = arguments;
    format!("{connections} connections, {rounds} rounds of {seconds} s for each target")
}

/// Figures of one target.
#[derive(Default)]
struct Measured {
    /// In microseconds.
    latencies: Vec<u32>,
    time: Duration,
    cpu: Duration,
    /// Processor time of a call in each round, in microseconds.
    cpu_by_round: Vec<f64>,
}

/// Sends the same request to all targets (the second is the floor) in turn. What `ask` gives: a method, its
/// parameters, and the least bytes of a proper answer.
pub(crate) async fn compare(
    targets: &[Target],
    arguments: &Arguments,
    title: String,
    ask: impl Fn(&Target) -> (&'static str, Value, usize),
) -> anyhow::Result<Table> {
    let mut measured: Vec<Measured> = targets.iter().map(|_| Measured::default()).collect();
    for round in 0..=arguments.rounds {
        for (target, measured) in targets.iter().zip(&mut measured) {
            let (method, params, least_bytes) = ask(target);
            let mut callers = Vec::with_capacity(arguments.connections);
            for number in 0..arguments.connections {
                callers.push(Caller::connect(target, arguments.era, number).await?);
            }
            let prepared: Vec<Prepared> = callers.iter().map(|caller| caller.prepare(method, params.clone())).collect();
            let (cpu, started) = (target.process.cpu()?, Instant::now());
            let until = started + if round == 0 { WARM_UP } else { arguments.round() };
            let workers: Vec<_> = callers
                .into_iter()
                .zip(prepared)
                .map(|(caller, prepared)| tokio::spawn(work(caller, prepared, least_bytes, until)))
                .collect();
            let mut latencies = Vec::new();
            for worker in workers {
                latencies.extend(worker.await??);
            }
            if round == 0 {
                continue;
            }
            let cpu = target.process.cpu()? - cpu;
            measured.time += started.elapsed();
            measured.cpu += cpu;
            measured.cpu_by_round.push(micros(cpu) / latencies.len() as f64);
            measured.latencies.append(&mut latencies);
        }
    }
    let columns = ["calls/s", "of direct", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs per call", "× floor", "MiB after"];
    let mut table = Table::new(title, &columns);
    let per_second = |measured: &Measured| measured.latencies.len() as f64 / measured.time.as_secs_f64();
    let (direct, floor) = (per_second(&measured[0]), measured[1].cpu_by_round.clone());
    for (at, (target, measured)) in targets.iter().zip(&mut measured).enumerate() {
        let calls = measured.latencies.len() as f64;
        let ratios = measured.cpu_by_round.iter().zip(&floor).map(|(own, floor)| own / floor).collect();
        table.add(
            &target.name,
            vec![
                Some(per_second(measured)),
                Some(per_second(measured) / direct),
                Some(percentile(&mut measured.latencies, 0.5) / 1e3),
                Some(percentile(&mut measured.latencies, 0.99) / 1e3),
                Some(percentile(&mut measured.latencies, 0.999) / 1e3),
                Some(micros(measured.cpu) / calls),
                // What the upstream itself costs is no measure of a proxy.
                if at == 0 { None } else { median(ratios) },
                Some(target.process.resident_kib()? / 1024.0),
            ],
        );
    }
    Ok(table)
}

/// Calls until the time is up. Microseconds of each call.
pub(crate) async fn work(
    mut caller: Caller,
    prepared: Prepared,
    least_bytes: usize,
    until: Instant,
) -> anyhow::Result<Vec<u32>> {
    let mut latencies = Vec::new();
    while Instant::now() < until || latencies.is_empty() {
        let started = Instant::now();
        caller.ask(&prepared, least_bytes).await?;
        latencies.push(u32::try_from(started.elapsed().as_micros())?);
    }
    Ok(latencies)
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
