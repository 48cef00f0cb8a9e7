//! tools/list of 1 000 tools over 20 upstreams. Directly and through the floor it is one upstream with as many tools.

use serde_json::json;

use crate::Arguments;
use crate::calls::{compare, shape};
use crate::programs::{Programs, Target, gateway_name};
use crate::report::Report;

const UPSTREAMS: usize = 20;
/// Of the whole list, as `bench-upstream` has it.
const LEAST_BYTES: usize = 300_000;

pub(crate) async fn run(programs: &Programs, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let upstream = programs.upstream().await?;
    let address = upstream.address;
    let parts: Vec<(String, String)> =
        (0..UPSTREAMS).map(|number| (format!("u{number:02}"), format!("http://{address}/u{number:02}/mcp"))).collect();
    let all = |name: &str, process| Target { path: "/all/mcp", ..Target::new(name, process) };
    let mut targets = vec![all("direct", upstream), all("floor", programs.floor(address).await?)];
    for policies in [0, 1] {
        let gateway = programs.gateway(&parts, policies).await?;
        targets.push(Target::new(gateway_name(policies), gateway));
    }
    let title = format!("tools/list, 1 000 tools over {UPSTREAMS} upstreams, {}", shape(arguments));
    let table = compare(&targets, arguments, title, |_| ("tools/list", json!({}), LEAST_BYTES)).await?;
    report.table(table);
    Ok(())
}
