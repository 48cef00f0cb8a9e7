//! Who can reach the listeners, and how many connections the process may have.

use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit};

use super::Subject;
use super::check::Check;

const AREA: &str = "listeners";
/// Files that a gateway has open besides connections.
const BESIDES: u64 = 256;

#[expect(clippy::unused_async, reason = "all areas are looked at alike")]
pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    let config = &subject.config;
    let mut checks: Vec<Check> = exposure(config.listen.admin, config.replica.listen);
    if !config.auth.required {
        let finding = "auth.required is false: everybody who reaches the public listener may call without a credential";
        checks.push(Check::warning(AREA, finding, "take it away unless that is what you want"));
    }
    let (limit, whose) = match &subject.living {
        Some(status) => (status["process"]["open_files"].as_u64(), "the gateway"),
        None => (getrlimit(Resource::Nofile).current, "a gateway that is started from here"),
    };
    checks.push(open_files(limit, whose, config.edge.max_connections as u64));
    checks
}

fn exposure(admin: Option<SocketAddr>, replica: Option<SocketAddr>) -> Vec<Check> {
    let mut checks = Vec::new();
    let is_open = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    checks.push(match admin {
        Some(address) if is_open(&address) => Check::warning(
            AREA,
            format!("operators' listener {address} can be reached from other machines"),
            "let a firewall keep others out, or listen on a loopback address",
        ),
        Some(address) => Check::ok(AREA, format!("operators' listener {address} is for this machine alone")),
        None => Check::ok(AREA, "operators have the admin socket alone"),
    });
    if let Some(address) = replica.filter(|address| address.ip().is_unspecified()) {
        checks.push(Check::warning(
            AREA,
            format!("replicas' listener {address} is on every network of this machine"),
            "name the address of the network that only replicas reach in `replica.listen`",
        ));
    }
    checks
}

/// Whether there are files enough for the connections that are allowed: each of callers may need one to an upstream.
fn open_files(limit: Option<u64>, whose: &str, max_connections: u64) -> Check {
    let wanted = max_connections.saturating_mul(2).saturating_add(BESIDES);
    match limit {
        Some(limit) if limit < wanted => Check::warning(
            AREA,
            format!("{whose} may open {limit} files; edge.max_connections = {max_connections} may want {wanted}"),
            format!("raise it (LimitNOFILE={wanted} in a systemd unit, ulimit -n), or lower edge.max_connections"),
        ),
        Some(limit) => Check::ok(AREA, format!("{whose} may open {limit} files")),
        None => Check::ok(AREA, format!("{whose} may open as many files as it likes")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Grade;
    use super::*;

    #[test]
    fn what_others_reach_is_told() {
        let grades = |admin: Option<&str>, replica: Option<&str>| -> Vec<Grade> {
            let read = |address: Option<&str>| address.map(|address| address.parse().unwrap());
            exposure(read(admin), read(replica)).iter().map(|check| check.grade).collect()
        };
        assert_eq!(grades(Some("127.0.0.1:7401"), Some("10.0.0.1:7402")), [Grade::Ok]);
        assert_eq!(grades(None, None), [Grade::Ok]);
        assert_eq!(grades(Some("10.0.0.1:7401"), Some("0.0.0.0:7402")), [Grade::Warning, Grade::Warning]);
    }

    #[test]
    fn files_have_to_do_for_the_connections() {
        assert_eq!(open_files(Some(1_024), "it", 10_000).grade, Grade::Warning);
        assert_eq!(open_files(Some(65_536), "it", 10_000).grade, Grade::Ok);
        assert_eq!(open_files(None, "it", 10_000).grade, Grade::Ok);
    }
}
