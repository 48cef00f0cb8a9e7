//! Allocations of memory per call, counted in the gateway and the floor by an allocator that does so (`counted`).
//!
//! One caller, one call after the other. What runs beside the calls is counted too, so that the figures are not whole.

use serde_json::json;

use crate::Arguments;
use crate::caller::Caller;
use crate::programs::{Programs, Target, gateway_name};
use crate::report::{Report, Table};

const WARM_UP: usize = 500;
/// Name, size and how many calls are counted.
const PAYLOADS: [(&str, usize, usize); 3] =
    [("40 B", 40, 2_000), ("16 KiB", 16 * 1024, 1_000), ("1 MiB", 1024 * 1024, 200)];

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    if !programs.can_count() {
        report.say("allocations: skipped, the program `counted` was not built\n");
        return Ok(());
    }
    let upstream = programs.upstream().await?;
    let address = upstream.address;
    let mut targets = vec![Target::new("floor", programs.counted_floor(address).await?)];
    for policies in [0, 1, 4] {
        let gateway = programs.counted_gateway(address, policies).await?;
        targets.push(Target::gateway(gateway_name(policies), gateway));
    }
    for (name, size, calls) in PAYLOADS {
        let title = format!("allocations, results of {name}");
        let mut table = Table::new(title, &["allocations per call", "KiB allocated per call"]);
        for target in &targets {
            let mut caller = Caller::connect(target, arguments.era, 0).await?;
            let params = json!({ "name": format!("{}blob", target.prefix), "arguments": { "size": size } });
            let call = caller.prepare("tools/call", params);
            for _ in 0..WARM_UP.min(calls) {
                caller.ask(&call, size).await?;
            }
            let (count, bytes) = target.process.allocations().await?;
            for _ in 0..calls {
                caller.ask(&call, size).await?;
            }
            let (count_after, bytes_after) = target.process.allocations().await?;
            let each = |more: f64| Some(more / calls as f64);
            table.add(&target.name, vec![each(count_after - count), each((bytes_after - bytes) / 1024.0)]);
        }
        report.table(table);
    }
    Ok(())
}
