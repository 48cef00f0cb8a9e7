//! The command line: parse arguments, start logging, call the library.
//!
//! `anyhow` is used here and in `main` only: what arrives here is told to a person and nothing more.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Config};
use crate::env::Env;
use crate::gateway::{self, Listeners};
use crate::oci::Pulled;
use crate::outbound::{Depot, MaxSizes, Outbound};
use crate::policy::signature::MAX_SIGNATURES_BYTES;
use crate::policy::{Counters, Engine, MAX_MODULE_BYTES, Publication};

mod admin;
mod approval;
mod client;
mod connection;
mod example;
mod grant;
mod import;
mod key;
mod pin;
mod policy;
mod quickstart;
mod signing_key;
mod store;
mod upstream;
mod user;
mod vault;

/// One URL in front of many MCP servers, with sandboxed policies that decide who sees and calls what.
#[derive(Parser)]
#[command(name = "portcullis", version, propagate_version = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Try it: a gateway, two example servers, the default policies and a key, in a directory of its own.
    Quickstart(quickstart::Quickstart),
    /// Run the gateway.
    Serve(WithConfig),
    /// Validate a configuration and everything it names, without running it.
    Check(WithConfig),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Look after virtual keys of the running gateway: make, list, change, rotate, disable, delete them.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Add, list, show and remove OAuth clients of the running gateway.
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Look after people's accounts: make, list, suspend, delete them, give passwords.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Show or reload what the running gateway has, and look at policy modules.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Look after MCP servers behind the gateway: declare, change, try and remove them.
    #[command(subcommand)]
    Upstream(upstream::UpstreamCommand),
    /// Decide what policies want somebody to agree to.
    #[command(subcommand)]
    Approval(approval::ApprovalCommand),
    /// Compare the definitions of tools with those that were agreed to, and agree to others.
    #[command(subcommand)]
    Pin(pin::PinCommand),
    /// List and revoke what people have let OAuth clients do.
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    /// List, reauthorise and end connections: whose credentials are kept for which upstreams.
    #[command(subcommand)]
    Connection(connection::ConnectionCommand),
    /// Look after the keys that sign access tokens: list, rotate, revoke.
    #[command(subcommand)]
    SigningKey(signing_key::SigningKeyCommand),
    /// Look after the keys that encrypt secrets: rotate, verify, destroy.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Show the latest decisions: who called what, which policy said what.
    Decisions(admin::Decisions),
    /// Show the running gateway at a glance.
    Status(WithConfig),
    /// Write everything that the running gateway remembers to a file.
    Backup(store::Backup),
    /// Make a store from a backup, while no gateway uses it.
    Restore(store::Restore),
    /// Look into the store, compact it or move it.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// One of the example servers, for quickstart.
    #[command(hide = true)]
    ExampleUpstream(example::ExampleUpstream),
}

/// The variable that says in which form the log is written.
const LOG_FORMAT: &str = "PORTCULLIS_LOG_FORMAT";

#[derive(clap::Args)]
struct WithConfig {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG", default_value = "portcullis.toml")]
    config: PathBuf,
}

/// Runs the command that the arguments name. Exit code 1 for what went wrong, 2 for arguments that are not understood.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone there is nobody to tell.
            _ = writeln!(io::stderr(), "error: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes; mistakes of a configuration in full.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = match cause.downcast_ref::<crate::policy::LoadErrors>() {
            Some(errors) => errors.to_string(),
            None => cause.to_string(),
        };
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(if cause.contains('\n') { ":\n" } else { ": " });
        }
        text.push_str(&cause);
    }
    text
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Quickstart(quickstart) => quickstart.run(),
        Command::Serve(with) => serve(&with),
        Command::Check(with) => check(&with),
        Command::Schema => print(&format!("{:#}", config::schema())),
        Command::Key(command) => command.run(),
        Command::Client(command) => command.run(),
        Command::User(command) => command.run(),
        Command::Policy(command) => command.run(),
        Command::Upstream(command) => command.run(),
        Command::Connection(command) => command.run(),
        Command::Approval(command) => command.run(),
        Command::Pin(command) => command.run(),
        Command::Grant(command) => command.run(),
        Command::SigningKey(command) => command.run(),
        Command::Vault(command) => command.run(),
        Command::Decisions(command) => command.run(),
        Command::Status(with) => admin::status(&with),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Store(command) => command.run(),
        Command::ExampleUpstream(command) => command.run(),
    }
}

/// Writes a text and a line end to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

fn serve(with: &WithConfig) -> anyhow::Result<()> {
    start_logging()?;
    let config = load(with)?;
    close_process(&config)?;
    on_runtime(async {
        let listeners = bind(&config).await?;
        gateway::serve(listeners, config, Env::system(), stop_signal()?).await?;
        Ok(())
    })
}

/// Forbids core dumps of this process, unless they are wanted.
fn close_process(config: &Config) -> anyhow::Result<()> {
    if config.vault.allow_core_dumps {
        tracing::warn!("vault.allow_core_dumps is on: core dumps and debuggers see secrets in the clear");
        return Ok(());
    }
    crate::vault::process::close().context("core dumps of this process cannot be forbidden")
}

/// Validates the configuration, and loads and tries every policy as the start would.
fn check(with: &WithConfig) -> anyhow::Result<()> {
    let config = load(with)?;
    let engine = Engine::start(config.policy.max_components)?;
    let publication = Publication {
        settings: &config.policy,
        upstreams: &config.upstreams,
        engine: &engine,
        counters: &Counters::default(),
        builtins: &crate::builtin::module,
        pulled: &pulled(&config)?,
        previous: &[],
        recorded: &[],
        generation: 1,
    };
    let policies = publication.run()?.policies;
    for binding in policies.bindings() {
        for warning in binding.warnings() {
            print(&format!("warning: policy {}: {warning}", binding.name()))?;
        }
        for remark in binding.remarks() {
            print(&format!("note: policy {}: {remark}", binding.name()))?;
        }
    }
    let (upstreams, keys) = (config.upstreams.len(), config.keys.len());
    let bindings = config.policy.bindings.len();
    print(&format!("{}: ok ({upstreams} upstreams, {keys} keys, {bindings} policies)", with.config.display()))
}

/// The modules that are in registries: what the gateway has kept of them, or else pulled for this once.
fn pulled(config: &Config) -> anyhow::Result<Pulled> {
    let references: Vec<_> = config.policy.references().collect();
    if references.is_empty() {
        return Ok(Pulled::new());
    }
    let max = MaxSizes { module: MAX_MODULE_BYTES, signatures: MAX_SIGNATURES_BYTES };
    on_runtime(async { Ok(Depot::read_only(Outbound::new(), &config.data_dir).fetch(references, max).await) })
}

fn load(with: &WithConfig) -> anyhow::Result<Config> {
    let now = Env::system().now();
    Ok(config::load(&with.config, &config::process_environment, now)?)
}

async fn bind(config: &Config) -> anyhow::Result<Listeners> {
    let listen = async |address: std::net::SocketAddr| {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    let public = listen(config.listen.public).await?;
    let admin = match config.listen.admin {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let replica = match config.replica.listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    Ok(Listeners { public, admin, replica })
}

/// Resolves on SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Lines for people on a terminal, JSON otherwise, or what `PORTCULLIS_LOG_FORMAT` says. `PORTCULLIS_LOG` filters, as in
/// `info,portcullis::policy=debug`.
fn start_logging() -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let is_json = match config::process_environment(LOG_FORMAT).as_deref() {
        Some("json") => true,
        Some("text") => false,
        None | Some("") => !io::stderr().is_terminal(),
        Some(other) => bail!("{LOG_FORMAT} is {other:?}; it may be \"json\" or \"text\""),
    };
    let started = match (is_json, io::stderr().is_terminal()) {
        (true, _) => builder.json().flatten_event(true).try_init(),
        (false, true) => builder.try_init(),
        (false, false) => builder.with_ansi(false).try_init(),
    };
    started.expect("logging is started once");
    Ok(())
}
