//! 1 000 calls at once, each of which reports its progress over and over.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::Arguments;
use crate::caller::{Caller, Prepared, contains};
use crate::calls::micros;
use crate::programs::{Programs, Target, gateway_name, one_upstream};
use crate::report::{Report, Table, percentile};

const STREAMS: usize = 1_000;
const INTERVAL: Duration = Duration::from_millis(250);
/// Notifications of each stream.
const EVENTS: usize = 40;
/// In a notification: behind it is the time in microseconds.
const SENT_AT: &[u8] = br#""message":""#;

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let upstream = programs.upstream().await?;
    let address = upstream.address;
    let mut targets = vec![Target::new("direct", upstream), Target::new("floor", programs.floor(address).await?)];
    for policies in [0, 1] {
        let gateway = programs.gateway(&one_upstream(address), policies).await?;
        targets.push(Target::gateway(gateway_name(policies), gateway));
    }
    let title = format!("{STREAMS} streams at once, a notification each {INTERVAL:?} on each");
    let columns = ["events/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs per event", "× floor", "KiB per stream"];
    let mut table = Table::new(title, &columns);
    let mut floor = None;
    for (at, target) in targets.iter().enumerate() {
        let (mut delays, time, cpu, kib) = measure(target, arguments).await?;
        let per_event = micros(cpu) / delays.len() as f64;
        if at == 1 {
            floor = Some(per_event);
        }
        table.add(
            &target.name,
            vec![
                Some(delays.len() as f64 / time.as_secs_f64()),
                Some(percentile(&mut delays, 0.5) / 1e3),
                Some(percentile(&mut delays, 0.99) / 1e3),
                Some(percentile(&mut delays, 0.999) / 1e3),
                Some(per_event),
                floor.map(|floor| per_event / floor),
                Some(kib / STREAMS as f64),
            ],
        );
    }
    report.table(table);
    Ok(())
}

/// Microseconds that each event took from the upstream to the caller, the time all took, what they cost the target, and
/// how many KiB it had more in their middle than before them.
async fn measure(target: &Target, arguments: &Arguments) -> anyhow::Result<(Vec<u32>, Duration, Duration, f64)> {
    let mut callers = Vec::with_capacity(STREAMS);
    let before = target.process.resident_kib()?;
    for number in 0..STREAMS {
        callers.push(Caller::connect(target, arguments.era, number).await?);
    }
    let (cpu, started) = (target.process.cpu()?, Instant::now());
    let interval_ms = u64::try_from(INTERVAL.as_millis())?;
    let streams: Vec<JoinHandle<anyhow::Result<Vec<u32>>>> = callers
        .into_iter()
        .enumerate()
        .map(|(number, caller)| {
            let params = json!({
                "name": format!("{}progress", target.prefix),
                "arguments": { "events": EVENTS, "interval_ms": interval_ms },
                "_meta": { "progressToken": number },
            });
            let prepared = caller.prepare("tools/call", params);
            tokio::spawn(follow(caller, prepared))
        })
        .collect();
    tokio::time::sleep(INTERVAL * u32::try_from(EVENTS / 2)?).await;
    let during = target.process.resident_kib()?;
    let mut delays = Vec::with_capacity(STREAMS * EVENTS);
    for stream in streams {
        delays.extend(stream.await??);
    }
    Ok((delays, started.elapsed(), target.process.cpu()? - cpu, during - before))
}

async fn follow(mut caller: Caller, prepared: Prepared) -> anyhow::Result<Vec<u32>> {
    let mut body = caller.send(&prepared).await?.into_body();
    let (mut delays, mut pending, mut answered) = (Vec::with_capacity(EVENTS), Vec::new(), false);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        pending.extend_from_slice(&piece);
        while let Some(end) = pending.windows(2).position(|end| end == b"\n\n") {
            let event = Bytes::from(pending.drain(..end + 2).collect::<Vec<u8>>());
            match sent_at(&event) {
                Some(sent) => delays.push(u32::try_from(now_micros().saturating_sub(sent))?),
                None => answered |= contains(&event, b"\"result\""),
            }
        }
    }
    ensure!(answered, "a stream without an answer: {}", String::from_utf8_lossy(&pending));
    ensure!(delays.len() == EVENTS, "{} notifications of {EVENTS} arrived", delays.len());
    Ok(delays)
}

fn sent_at(event: &[u8]) -> Option<u64> {
    let at = event.windows(SENT_AT.len()).position(|window| window == SENT_AT)? + SENT_AT.len();
    let digits = event[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970");
    now.ok().and_then(|now| u64::try_from(now.as_micros()).ok()).unwrap_or_default()
}
