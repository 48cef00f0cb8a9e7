//! `portcullis doctor`: what usually goes wrong, looked for, and how to mend it. Nothing is changed.
//!
//! It reads the configuration, and asks the living gateway through its admin socket if there is one; without one it looks
//! at what it can reach itself. Each area is a file of its own and a list of [`Check`]s. All are looked at together, each
//! for at most [`LIMIT`]; trials of upstreams have a longer one of their own.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use http::Method;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::output::{Format, Refused, plain, tell};
use super::{AdminSocket, WithConfig, on_runtime, print};
use crate::config::{self, Config, Mistake};
use crate::env::Env;
use crate::outbound::{Outbound, OutboundError, ask_socket_patiently};

mod address;
mod check;
mod disk;
mod files;
mod listeners;
mod policies;
mod providers;
mod redirects;
mod replicas;
mod store;
mod tls;
mod upstreams;
mod vault;

use check::{Check, Grade};
use store::Closed;

/// Longest look at one thing.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    with: WithConfig,
}

/// What is looked at.
struct Subject {
    config: Config,
    /// What the living gateway says of itself.
    living: Option<Value>,
    outbound: Outbound,
    env: Env,
    /// The store, where no gateway lives: looked at once, since whoever does has it for themselves.
    store: OnceCell<Closed>,
}

type Look = for<'a> fn(&'a Subject) -> BoxFuture<'a, Vec<Check>>;

/// Each area, in the order in which it is told. Those that bound themselves look at many things.
const AREAS: &[(&str, Look)] = &[
    ("public URL", |subject| address::look(subject).boxed()),
    ("listeners", |subject| listeners::look(subject).boxed()),
    ("TLS", |subject| tls::look(subject).boxed()),
    ("files", |subject| files::look(subject).boxed()),
    ("disk", |subject| disk::look(subject).boxed()),
    ("store", |subject| store::look(subject).boxed()),
    ("vault", |subject| vault::look(subject).boxed()),
    ("providers", |subject| providers::look(subject).boxed()),
    ("policies", |subject| policies::look(subject).boxed()),
    ("replicas", |subject| replicas::look(subject).boxed()),
];

impl Doctor {
    /// Exit code 1 if there is a problem.
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let checks = on_runtime(async { Ok(look(&self.with).await) })?;
        match self.with.output {
            Format::Table => print(&plain(&check::in_words(&checks)))?,
            Format::Json => print(&format!("{:#}", check::view(&checks)))?,
        }
        let is_well = checks.iter().all(|check| check.grade != Grade::Problem);
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Prints only the addresses to register.
pub(super) fn redirect_uris(with: &WithConfig) -> anyhow::Result<()> {
    let subject = Subject::of(with, &mut Vec::new())?;
    let found = on_runtime(async {
        let living = subject.ask(Method::GET, "/api/v1/status").await.ok();
        Ok(redirects::find(&Subject { living, ..subject }).await)
    })?;
    tell(with, &redirects::view(&found), |_| redirects::in_words(&found))
}

async fn look(gateway: &AdminSocket) -> Vec<Check> {
    let mut checks = Vec::new();
    let Ok(mut subject) = Subject::of(gateway, &mut checks) else { return checks };
    checks.push(subject.meet().await);
    let areas = AREAS.iter().map(async |(area, look)| match tokio::time::timeout(LIMIT, look(&subject)).await {
        Ok(checks) => checks,
        Err(_) => {
            let finding = format!("no answer within {} seconds", LIMIT.as_secs());
            vec![Check::problem(area, finding, "look at what it depends on: the network, the disk, the machine's load")]
        }
    });
    // These have a limit for each thing that they look at.
    let (areas, upstreams, redirects) =
        tokio::join!(join_all(areas), upstreams::look(&subject), redirects::look(&subject));
    checks.extend(areas.into_iter().flatten());
    checks.extend(upstreams);
    checks.extend(redirects);
    checks
}

impl Subject {
    /// What the configuration describes. Its mistakes are told in `checks`.
    fn of(gateway: &AdminSocket, checks: &mut Vec<Check>) -> anyhow::Result<Self> {
        const AREA: &str = "configuration";
        let env = Env::system();
        match config::load(&gateway.config, &config::process_environment, env.now()) {
            Ok(mut config) => {
                checks.push(Check::ok(AREA, format!("{} has no mistakes", gateway.config.display())));
                if let Some(socket) = gateway.socket() {
                    config.listen.admin_socket = socket.to_owned();
                }
                Ok(Self { config, living: None, outbound: Outbound::new(), env, store: OnceCell::new() })
            }
            Err(mistakes) => {
                let told = |mistake: &Mistake| {
                    let line = mistake.line.map(|line| format!("line {line}: ")).unwrap_or_default();
                    let mend = mistake.hint.clone().unwrap_or_else(|| "see docs/configuration.md".to_owned());
                    let area = if tls::is_about(&mistake.message) { tls::AREA } else { AREA };
                    Check::problem(area, format!("{line}{}", mistake.message), mend)
                };
                checks.extend(mistakes.iter().map(told));
                Err(mistakes.into())
            }
        }
    }

    /// Looks whether a gateway lives there.
    async fn meet(&mut self) -> Check {
        const AREA: &str = "gateway";
        match self.ask(Method::GET, "/api/v1/status").await {
            Ok(status) => {
                let check = introduced(&status);
                self.living = Some(status);
                check
            }
            Err(error) if is_absent(&error) => Check::warning(
                AREA,
                format!("none runs behind {}", self.config.listen.admin_socket.display()),
                "start it with `portcullis serve` and ask again: what only a living gateway knows was not looked at",
            ),
            Err(error) => Check::problem(
                AREA,
                format!("it does not answer at {}: {error:#}", self.config.listen.admin_socket.display()),
                "run this as the user that the gateway runs as, or as root; look into the gateway's log",
            ),
        }
    }

    /// Asks the living gateway.
    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        self.ask_within(LIMIT, method, path).await
    }

    /// Asks it for what may take longer.
    async fn ask_within(&self, limit: Duration, method: Method, path: &str) -> anyhow::Result<Value> {
        let socket = &self.config.listen.admin_socket;
        let (status, answer) = ask_socket_patiently(socket, method, path, None, limit).await?;
        let answer: Value = serde_json::from_slice(&answer).context("what it answered is not JSON")?;
        if !status.is_success() {
            bail!(Refused(answer));
        }
        Ok(answer)
    }

    /// The store, which no gateway has open.
    async fn store(&self) -> &Closed {
        self.store.get_or_init(|| Closed::look(self)).await
    }

    /// Where the gateway keeps what is its own.
    fn data_dir(&self) -> PathBuf {
        self.config.data_dir.clone()
    }
}

/// Whether nobody listens on the admin socket.
fn is_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OutboundError::NoSocket(error))
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

/// The gateway by what it says of itself.
fn introduced(status: &Value) -> Check {
    const AREA: &str = "gateway";
    let (own, version) = (env!("CARGO_PKG_VERSION"), status["version"].as_str().unwrap_or_default());
    if version != own {
        let finding = format!("it is version {version}, and this program is {own}");
        return Check::warning(AREA, finding, "restart the gateway, or use the program that it was started from");
    }
    if status["ready"] == true {
        return Check::ok(AREA, format!("version {version} is ready"));
    }
    let why = status["not_ready"].as_str().unwrap_or("it does not say why");
    Check::problem(AREA, format!("it is not ready: {why}"), "look at the other findings and into its log")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ConfigFile;
    use super::*;

    #[test]
    fn a_gateway_is_judged_by_what_it_says() {
        let own = env!("CARGO_PKG_VERSION");
        let grade = |version: &str, ready: bool| {
            introduced(&json!({ "version": version, "ready": ready, "not_ready": "the store is away" })).grade
        };
        assert_eq!(grade(own, true), Grade::Ok);
        assert_eq!(grade(own, false), Grade::Problem);
        assert_eq!(grade("0.0.0-other", true), Grade::Warning);
    }

    #[tokio::test]
    async fn every_mistake_of_the_file_is_a_problem_and_nothing_else_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("portcullis.toml");
        std::fs::write(&config, "public_url = \"x\"\n[edge]\nidle_timeout = \"soon\"\n").unwrap();
        let checks = look(&AdminSocket { file: ConfigFile { config }, socket: None }).await;
        let lines: Vec<&str> = checks.iter().map(|check| check.finding.split(':').next().unwrap_or_default()).collect();
        assert_eq!(lines, ["line 1", "line 3"], "{checks:?}");
        assert!(checks.iter().all(|check| check.grade == Grade::Problem && check.mend.is_some()));
    }
}
