//! Upstreams: tried by the living gateway as they are declared, or looked for from here where none runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{Method, Request};
use rustix::fs::{Access, access};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::check::Check;
use super::{LIMIT, Subject};
use crate::cli::output::Refused;
use crate::config::{Upstream, UpstreamTransport};

const AREA: &str = "upstreams";
/// Trials at once. The gateway makes four, and somebody else may want one.
const TRIALS_AT_ONCE: usize = 2;
/// Longest wait for a trial: a little more than the gateway takes for one, so that it says itself what was wrong.
const TRIAL: Duration = Duration::from_secs(40);
/// The gateway's code for having as many trials as it makes.
const BUSY: &str = "too_many_trials";
/// Upstreams that are looked for at once where no gateway runs.
const AT_ONCE: usize = 4;
/// Upstreams that are tried at all.
const MAX_TRIED: usize = 200;
/// Where programs are looked for: what upstreams that are programs get as `PATH` besides ours.
const USUAL: &str = "/usr/local/bin:/usr/bin:/bin";

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    if subject.living.is_none() {
        let upstreams = subject.config.upstreams.iter().take(MAX_TRIED);
        return stream::iter(upstreams).map(|upstream| reach(subject, upstream)).buffered(AT_ONCE).collect().await;
    }
    // A page has room for as many as are tried.
    let page = format!("/api/v1/upstreams?limit={MAX_TRIED}");
    let upstreams = match subject.ask(Method::GET, &page).await {
        Ok(mut answer) => answer["upstreams"].take(),
        Err(error) => {
            let finding = format!("the gateway says nothing of them: {error:#}");
            return vec![Check::problem(AREA, finding, "look into its log")];
        }
    };
    let upstreams = upstreams.as_array().cloned().unwrap_or_default();
    if upstreams.is_empty() {
        return vec![Check::warning(AREA, "there are none: nothing can be called", "`portcullis upstream add`")];
    }
    stream::iter(upstreams.into_iter().take(MAX_TRIED))
        .map(async |upstream| try_one(subject, &upstream).await)
        .buffered(TRIALS_AT_ONCE)
        .collect()
        .await
}

async fn try_one(subject: &Subject, upstream: &Value) -> Check {
    let name = upstream["name"].as_str().unwrap_or_default();
    if upstream["enabled"] == false {
        return Check::warning(AREA, format!("{name} is disabled"), format!("`portcullis upstream enable {name}`"));
    }
    let path = format!("/api/v1/upstreams/{name}/try");
    match timeout(TRIAL, subject.ask_within(TRIAL, Method::POST, &path)).await {
        Ok(Ok(tried)) => judge(name, &tried),
        Ok(Err(error)) => untried(name, &error),
        Err(_) => Check::problem(AREA, format!("{name} has not answered within {} s", TRIAL.as_secs()), mend(name)),
    }
}

/// Why there was no trial.
fn untried(name: &str, error: &anyhow::Error) -> Check {
    match error.downcast_ref() {
        Some(Refused(problem)) if problem["code"] == BUSY => {
            let finding = format!("{name} was not tried: the gateway is busy with other trials");
            Check::warning(AREA, finding, "try again later")
        }
        _ => Check::problem(AREA, format!("{name} cannot be tried: {error:#}"), mend(name)),
    }
}

fn mend(name: &str) -> String {
    format!("`portcullis upstream try {name}` tells more; `portcullis upstream show {name}` has its settings")
}

fn judge(name: &str, tried: &Value) -> Check {
    match tried["outcome"].as_str() {
        Some("works") => Check::ok(AREA, format!("{name} works ({} tools)", tried["tools"])),
        Some("wants_credential") => {
            Check::ok(AREA, format!("{name} is there, and wants a credential of each caller's own"))
        }
        _ => {
            let (stage, reason) = (tried["stage"].as_str(), tried["reason"].as_str());
            let finding =
                format!("{name} fails at {}: {}", stage.unwrap_or("?"), reason.unwrap_or("it is not said why"));
            Check::problem(AREA, finding, mend(name))
        }
    }
}

/// Whether an upstream is there at all. That needs no credential: any answer counts.
async fn reach(subject: &Subject, upstream: &Upstream) -> Check {
    let name = &upstream.name;
    match &upstream.transport {
        UpstreamTransport::Stdio { command, working_dir, .. } => {
            let program = command.first().map(String::as_str).unwrap_or_default();
            match find_program(program, working_dir.as_deref()) {
                Some(_) => Check::ok(AREA, format!("{name}: {program} can be started")),
                None => Check::problem(
                    AREA,
                    format!("{name}: there is no program {program}"),
                    "install it where the gateway runs, or write its whole path in `command`",
                ),
            }
        }
        UpstreamTransport::StreamableHttp { url, .. } => {
            let outbound = match &upstream.tls {
                Some(tls) => subject.outbound.secured(tls),
                None => subject.outbound.clone(),
            };
            let Ok(request) = Request::get(url).body(Bytes::new()) else {
                return Check::problem(AREA, format!("{name}: its url cannot be asked"), "mend `url`");
            };
            let deadline = Instant::now() + LIMIT.saturating_sub(Duration::from_secs(1));
            let origin = crate::outbound::origin(url);
            match outbound.send(request, deadline).await {
                Ok(_) => Check::ok(AREA, format!("{name}: {origin} answers")),
                Err(error) => Check::problem(
                    AREA,
                    format!("{name}: {origin} cannot be reached: {}", super::address::in_words(&error)),
                    "mend `url`, the network or its certificate ([upstreams.NAME.tls])",
                ),
            }
        }
    }
}

/// Where a program is that can be started.
fn find_program(program: &str, working_dir: Option<&Path>) -> Option<PathBuf> {
    let can_start = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        let path = working_dir.unwrap_or(Path::new(".")).join(program);
        return Some(path).filter(can_start);
    }
    let path = crate::config::process_environment("PATH").unwrap_or_else(|| USUAL.to_owned());
    path.split(':').map(|dir| Path::new(dir).join(program)).find(can_start)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn a_trial_is_judged_by_its_outcome() {
        assert_eq!(judge("a", &json!({ "outcome": "works", "tools": 3 })).grade, Grade::Ok);
        assert_eq!(judge("a", &json!({ "outcome": "wants_credential" })).grade, Grade::Ok);
        let failed = judge("a", &json!({ "outcome": "failed", "stage": "reach", "reason": "nobody is there" }));
        assert_eq!((failed.grade, failed.finding.as_str()), (Grade::Problem, "a fails at reach: nobody is there"));
    }

    #[test]
    fn a_gateway_that_is_busy_is_no_problem() {
        let refused = |code: &str| anyhow::Error::new(Refused(json!({ "code": code, "detail": "it was refused" })));
        assert_eq!(untried("a", &refused("too_many_trials")).grade, Grade::Warning);
        assert_eq!(untried("a", &refused("unavailable")).grade, Grade::Problem);
        assert_eq!(untried("a", &anyhow::anyhow!("nobody answers")).grade, Grade::Problem);
    }

    #[test]
    fn a_program_is_found_as_it_would_be_started() {
        assert!(find_program("sh", None).is_some());
        assert!(find_program("/bin/sh", None).is_some());
        assert!(find_program("no-such-program-anywhere", None).is_none());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("text"), "x").unwrap();
        assert!(find_program("./text", Some(dir.path())).is_none(), "it cannot be executed");
    }
}
