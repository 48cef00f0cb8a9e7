//! Calls of several kinds at one gateway that take turns at being first, so that they differ in what is compared alone.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::Arguments;
use crate::caller::Caller;
use crate::calls::{micros, shape, work};
use crate::programs::Target;
use crate::report::{Table, median, percentile};

/// Before anything is counted, for each target.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);
/// Of the results of calls.
pub(crate) const RESULT_BYTES: usize = 40;

/// A kind of call.
pub(crate) struct Call<'a> {
    pub(crate) name: &'static str,
    /// Whose `blob` is called.
    pub(crate) upstream: &'static str,
    /// One for each connection.
    pub(crate) credentials: &'a [String],
}

/// Figures of one target.
#[derive(Default)]
pub(crate) struct Measured {
    /// In microseconds.
    latencies: Vec<u32>,
    time: Duration,
    cpu: Duration,
    rate_by_round: Vec<f64>,
    cpu_by_round: Vec<f64>,
}

impl Measured {
    pub(crate) fn add(&mut self, mut latencies: Vec<u32>, time: Duration, cpu: Duration) {
        let count = latencies.len() as f64;
        self.rate_by_round.push(count / time.as_secs_f64());
        self.cpu_by_round.push(micros(cpu) / count);
        self.latencies.append(&mut latencies);
        self.time += time;
        self.cpu += cpu;
    }

    /// Rates, and processor time of each, round by round: what others are compared with.
    pub(crate) fn by_round(&self) -> (Vec<f64>, Vec<f64>) {
        (self.rate_by_round.clone(), self.cpu_by_round.clone())
    }

    /// The row of a table: per second, how long, processor time, and both as ratios to another target, round by round.
    pub(crate) fn row(&mut self, to: &(Vec<f64>, Vec<f64>)) -> Vec<Option<f64>> {
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

/// Makes all of these calls, round after round. They are compared with the first, which the heads of columns call `first`.
pub(crate) async fn in_turn(
    target: &Target,
    calls: &[Call<'_>],
    first: &str,
    arguments: &Arguments,
) -> anyhow::Result<Table> {
    let mut measured: Vec<Measured> = calls.iter().map(|_| Measured::default()).collect();
    for round in 0..=arguments.rounds {
        for step in 0..calls.len() {
            let which = (round + step) % calls.len();
            let Call { upstream, credentials, .. } = calls[which];
            let mut workers = Vec::with_capacity(credentials.len());
            for credential in credentials {
                let caller = Caller::connect_as(target, arguments.era, credential).await?;
                let params = json!({ "name": format!("{upstream}__blob"), "arguments": { "size": RESULT_BYTES } });
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
    let (rate, cpu) = (format!("× {first}"), format!("CPU × {first}"));
    let mut table = Table::new(title, &["calls/s", "p50 ms", "p99 ms", "CPU µs per call", &rate, &cpu]);
    let compared = measured[0].by_round();
    for (call, measured) in calls.iter().zip(&mut measured) {
        table.add(call.name, measured.row(&compared));
    }
    Ok(table)
}
