//! Reads what the parts of the gateway have counted.

use super::super::Api;
use super::names as n;
use crate::config::Mode;
use crate::telemetry::{Exposition, Process, cpu_seconds};
use crate::upstream::Health;

/// Everything, as it is now.
pub(super) fn collect(api: &Api) -> Exposition {
    let mut text = Exposition::default();
    process(&mut text, api);
    listeners(&mut text, api);
    requests(&mut text, api);
    policies(&mut text, api);
    upstreams(&mut text, api);
    credentials(&mut text, api);
    store(&mut text, api);
    trails(&mut text, api);
    text
}

fn process(text: &mut Exposition, api: &Api) {
    text.put(&n::BUILD, &[env!("CARGO_PKG_VERSION")], 1);
    text.put(&n::READY, &[], u8::from(api.control.is_ready()));
    text.put(&n::STARTED, &[], seconds(api.control.started.as_millis()));
    text.put(&n::CPU, &[], cpu_seconds());
    let Process { resident_bytes, open_files, most_files, threads } = Process::read();
    let known =
        [(&n::RESIDENT, resident_bytes), (&n::FILES, open_files), (&n::MOST_FILES, most_files), (&n::THREADS, threads)];
    for (metric, value) in known {
        if let Some(value) = value {
            text.put(metric, &[], value);
        }
    }
}

fn listeners(text: &mut Exposition, api: &Api) {
    for (listener, meter) in &api.watched.listeners {
        text.put(&n::OPEN, &[listener], meter.open());
        for ([fate], count) in meter.connections() {
            text.put(&n::CONNECTIONS, &[listener, fate], count);
        }
        for ([class], count) in meter.responses() {
            text.put(&n::RESPONSES, &[listener, class], count);
        }
    }
    for (listener, not_after) in api.control.certificates.expiries() {
        if let Some(at) = not_after {
            text.put(&n::CERTIFICATE_ENDS, &[listener], seconds(at.as_millis()));
        }
    }
}

fn requests(text: &mut Exposition, api: &Api) {
    let meters = &api.services.meters;
    for (labels, count) in meters.requests() {
        text.put(&n::REQUESTS, &labels, count);
    }
    for (labels, reading) in meters.took() {
        text.put_timing(&n::REQUEST_TIME, &labels, &reading);
    }
    for (labels, reading) in meters.stages_took() {
        text.put_timing(&n::STAGE_TIME, &labels, &reading);
    }
    for (labels, count) in meters.decisions() {
        text.put(&n::DECISIONS, &labels, count);
    }
    for (of, count) in meters.tools() {
        text.put(&n::TOOL_CALLS, &[&of.0, &of.1], count);
    }
    let occupancy = api.watched.mcp.occupancy();
    text.put(&n::SESSIONS, &[], occupancy.sessions);
    text.put(&n::STREAMS, &[], occupancy.streams);
    text.put(&n::PARKED, &[], occupancy.parked);
    text.put(&n::TOOLS, &[], api.control.snapshot.load().catalog.len());
}

fn policies(text: &mut Exposition, api: &Api) {
    let snapshot = api.control.snapshot.load();
    text.put(&n::GENERATION, &[], snapshot.policies.generation());
    for bound in snapshot.policies.bindings() {
        let binding = bound.name().as_str();
        let mode = match bound.binding().mode {
            Mode::Enforce => "enforce",
            Mode::Shadow => "shadow",
            Mode::Off => "off",
        };
        text.put(&n::DEGRADED, &[binding], u8::from(bound.health().is_degraded()));
        for ([hook, verdict], count) in bound.asked().verdicts() {
            text.put(&n::ANSWERS, &[binding, hook, verdict, mode], count);
        }
        for ([hook, failure], count) in bound.asked().failures() {
            text.put(&n::FAILURES, &[binding, hook, failure], count);
        }
        for ([hook], reading) in bound.asked().took() {
            text.put_timing(&n::POLICY_TIME, &[binding, hook], &reading);
        }
    }
}

fn upstreams(text: &mut Exposition, api: &Api) {
    for (name, upstream) in &*api.control.snapshot.load().upstreams {
        let (name, traffic) = (name.as_str(), upstream.traffic());
        text.put(&n::UPSTREAM_UP, &[name], u8::from(matches!(*upstream.health(), Health::Up { .. })));
        text.put(&n::UPSTREAM_WAITING, &[name], traffic.in_flight());
        for ([method, outcome], reading) in traffic.took() {
            text.put_timing(&n::UPSTREAM_TIME, &[name, method, outcome], &reading);
        }
        for ([failure], count) in traffic.failures() {
            text.put(&n::UPSTREAM_FAILURES, &[name, failure], count);
        }
    }
}

fn credentials(text: &mut Exposition, api: &Api) {
    let keeper = api.connections.keeper.counts();
    for (labels, count) in keeper.lookups() {
        text.put(&n::LOOKUPS, &labels, count);
    }
    for (labels, count) in keeper.renewals() {
        text.put(&n::RENEWALS, &labels, count);
    }
    let oauth = &api.watched.oauth.counts;
    for (labels, count) in oauth.tokens() {
        text.put(&n::TOKENS, &labels, count);
    }
    for (labels, count) in oauth.sign_ins() {
        text.put(&n::SIGN_INS, &labels, count);
    }
    for (labels, count) in api.control.vault.faults() {
        text.put(&n::VAULT_FAULTS, &labels, count);
    }
}

fn store(text: &mut Exposition, api: &Api) {
    let store = &api.control.store;
    let (writer, took) = store.writer();
    text.put(&n::STORE_REACHABLE, &[], u8::from(store.is_reachable()));
    if store.is_shared() {
        text.put(&n::STORE_STALENESS, &[], api.control.staleness().as_secs_f64());
    }
    text.put(&n::STORE_QUEUE, &[], writer.queued);
    text.put(&n::STORE_TRANSACTIONS, &[], writer.transactions);
    text.put(&n::STORE_COMMITS, &["done"], writer.commits);
    text.put(&n::STORE_COMMITS, &["failed"], writer.failed_commits);
    text.put_timing(&n::STORE_COMMIT_TIME, &[], &took);
    let upkeep = &api.upkeep;
    let offset = upkeep.clock.millis();
    let sign = if offset < 0 { -1.0 } else { 1.0 };
    text.put(&n::CLOCK, &[], sign * seconds(offset.unsigned_abs()));
    text.put(&n::SWEEPING, &[], u8::from(upkeep.sweeper.fence().is_some()));
    text.put(&n::SWEPT, &[], upkeep.sweeper.removed());
    if let Some(lag) = upkeep.sweeper.lag() {
        text.put(&n::SWEEPER_LAG, &[], lag.as_secs_f64());
    }
}

fn trails(text: &mut Exposition, api: &Api) {
    text.put(&n::DECISIONS_DROPPED, &[], api.services.decisions.dropped());
    text.put(&n::RECORDINGS_DROPPED, &[], api.services.recordings.dropped());
    let spans = api.services.tracer.traffic();
    text.put(&n::SPANS, &["sent"], spans.sent());
    text.put(&n::SPANS, &["dropped"], spans.dropped());
    text.put(&n::SPANS, &["failed"], spans.failed());
    if let Some(export) = &api.watched.export {
        text.put(&n::EXPORTED, &[], export.exported());
        text.put(&n::EXPORT_FAILURES, &[], export.failures());
        text.put(&n::EXPORT_LAG, &[], export.lag().as_secs_f64());
    }
}

/// Whole milliseconds as seconds.
fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}
