//! The command line: parse arguments, start logging, call the library.
//!
//! `anyhow` is used here and in `main` only: what arrives here is told to a person and nothing more.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Parser, Subcommand};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Config};
use crate::env::Env;
use crate::gateway::{self, Listeners};
use crate::oci::Pulled;
use crate::outbound::{Depot, MaxSizes, Outbound};
use crate::policy::signature::MAX_SIGNATURES_BYTES;
use crate::policy::{Counters, Engine, MAX_MODULE_BYTES, OfFile, Publication, Uploaded};
use crate::supervisor::Supervisor;

mod activation;
mod admin;
mod approval;
mod audit;
mod client;
mod configuration;
mod connection;
mod decision;
mod doctor;
mod example;
mod follow;
mod generated;
mod grant;
mod import;
mod key;
mod output;
mod pin;
mod policy;
mod quickstart;
mod signing_key;
mod status;
mod store;
mod token;
mod upstream;
mod user;
mod vault;

use activation::Inherited;
use output::Format;

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
    Serve(ConfigFile),
    /// Validate a configuration and everything it names, without running it.
    Check(ConfigFile),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Print the OpenAPI document of the admin API, which a running gateway serves at /api/v1/openapi.json.
    Openapi,
    /// Check, describe and export configurations, and apply the parts that are kept in the store.
    #[command(subcommand)]
    Config(configuration::ConfigCommand),
    /// Look for what usually goes wrong, and say how to mend it. Nothing is changed.
    Doctor(doctor::Doctor),
    /// Print the redirect addresses to register at identity providers and at upstreams' authorization servers.
    RedirectUris(WithConfig),
    /// Look after virtual keys of the running gateway: make, list, change, rotate, disable, delete them.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Add, list, show, change and remove OAuth clients of the running gateway.
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Look after people's accounts: make, list, change, suspend, delete them, give passwords.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Look after API tokens, with which programs act for people: make, list, revoke them.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print a link with which the first owner makes their account in a browser on this machine. The one before counts no more.
    SetupLink(WithConfig),
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
    /// Show decisions: who called what, which policy said what.
    #[command(subcommand)]
    Decision(decision::DecisionCommand),
    /// The same as `decision list`.
    #[command(hide = true)]
    Decisions(decision::List),
    /// Show what operators and the gateway did.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
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
    /// Print a script that completes this program's commands in a shell.
    Completions(generated::Completions),
    /// Write a man page for each command.
    Man(generated::Man),
}

/// The variable that says in which form the log is written.
const LOG_FORMAT: &str = "PORTCULLIS_LOG_FORMAT";

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG", default_value = "portcullis.toml")]
    config: PathBuf,
}

// Of what asks the running gateway. No doc comment: it would become what commands say of themselves.
#[derive(clap::Args)]
struct AdminSocket {
    #[command(flatten)]
    file: ConfigFile,
    /// The admin socket of the gateway to ask. Without it, the one that the configuration names.
    #[arg(long, value_name = "PATH", env = "PORTCULLIS_SOCKET", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    socket: Option<PathBuf>,
}

impl AdminSocket {
    /// Where to ask. Of the configuration only what says that is read, so that a mistake elsewhere in it, or what it refers to
    /// and is not there for this command, is in nobody's way.
    fn path(&self) -> anyhow::Result<PathBuf> {
        match self.socket() {
            Some(path) => Ok(path.to_owned()),
            None => config::admin_socket(&self.file.config).context("cannot tell where to ask (--socket PATH says it)"),
        }
    }

    /// The one that was said. A variable that is empty says none.
    fn socket(&self) -> Option<&Path> {
        self.socket.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

impl std::ops::Deref for AdminSocket {
    type Target = ConfigFile;

    fn deref(&self) -> &ConfigFile {
        &self.file
    }
}

// The same, of what prints its answer.
#[derive(clap::Args)]
struct WithConfig {
    #[command(flatten)]
    gateway: AdminSocket,
    /// How the answer is printed: as a table, or as the API gave it.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl std::ops::Deref for WithConfig {
    type Target = AdminSocket;

    fn deref(&self) -> &AdminSocket {
        &self.gateway
    }
}

/// Usage that is not understood: what clap itself ends with.
const USAGE: u8 = 2;

/// Runs the command that the arguments name. Exit code 1 for what went wrong, 2 for arguments that are not understood; errors
/// are problem documents where JSON was asked for.
pub fn main() -> ExitCode {
    let said: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let format = Format::of_arguments(&said);
    let arguments = match Arguments::try_parse() {
        Err(error) if error.use_stderr() && format == Format::Json => {
            tell_problem(&output::problem_of("usage", error.render().to_string().trim_end()));
            return ExitCode::from(USAGE);
        }
        parsed => parsed.unwrap_or_else(|error| error.exit()),
    };
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            let explained = explain(&error);
            match format {
                Format::Json => tell_problem(&output::problem(&error, &explained)),
                // If standard error is gone there is nobody to tell.
                Format::Table => _ = writeln!(io::stderr(), "error: {explained}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn tell_problem(problem: &serde_json::Value) {
    // If standard error is gone there is nobody to tell.
    _ = writeln!(io::stderr(), "{problem:#}");
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

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        // What is found is told by the exit code.
        Command::Doctor(doctor) => return doctor.run(),
        Command::Config(command) => return command.run(),
        Command::Quickstart(quickstart) => quickstart.run(),
        Command::Serve(with) => serve(&with),
        Command::Check(with) => check(&with),
        Command::Schema => print(&format!("{:#}", config::schema())),
        Command::Openapi => print(gateway::openapi().trim_end()),
        Command::Key(command) => command.run(),
        Command::Client(command) => command.run(),
        Command::User(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::SetupLink(with) => token::set_up_link(&with),
        Command::Policy(command) => command.run(),
        Command::Upstream(command) => command.run(),
        Command::Connection(command) => command.run(),
        Command::Approval(command) => command.run(),
        Command::Pin(command) => command.run(),
        Command::Grant(command) => command.run(),
        Command::SigningKey(command) => command.run(),
        Command::Vault(command) => command.run(),
        Command::Decisions(command) => command.run(),
        Command::Decision(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Status(with) => status::run(&with),
        Command::RedirectUris(with) => doctor::redirect_uris(&with),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Store(command) => command.run(),
        Command::ExampleUpstream(command) => command.run(),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a text and a line end to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

fn serve(with: &ConfigFile) -> anyhow::Result<()> {
    // Before there are other threads, which could read the environment.
    let inherited = activation::inherited()?;
    start_logging()?;
    let config = load(with)?;
    close_process(&config)?;
    let supervisor = Supervisor::of_environment(&config::process_environment, std::process::id())?;
    on_runtime(async {
        let listeners = bind(&config, inherited).await?;
        let tell = Some(token::print_set_up_link);
        gateway::serve_under(supervisor, listeners, config, Env::system(), stop_signal()?, tell).await?;
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
fn check(with: &ConfigFile) -> anyhow::Result<()> {
    let config = load(with)?;
    let engine = Engine::start(config.policy.max_components)?;
    let publication = Publication {
        settings: &config.policy,
        upstreams: &config.upstreams,
        engine: &engine,
        counters: &Counters::default(),
        builtins: &crate::builtin::module,
        of_file: &OfFile::Read,
        pulled: &pulled(&config)?,
        // Those of the store are tried out when they are bound.
        uploaded: &Uploaded::new(),
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

fn load(with: &ConfigFile) -> anyhow::Result<Config> {
    let now = Env::system().now();
    Ok(config::load(&with.config, &config::process_environment, now)?)
}

/// The sockets that were handed over, and for the other listeners those that the configuration names.
async fn bind(config: &Config, inherited: Inherited) -> anyhow::Result<Listeners> {
    let listen = async |inherited: Option<std::net::TcpListener>, address: Option<std::net::SocketAddr>| match (
        inherited, address,
    ) {
        (Some(socket), _) => TcpListener::from_std(socket).map(Some).context("a socket that was handed over"),
        (None, None) => Ok(None),
        (None, Some(address)) => {
            let bound = TcpListener::bind(address).await;
            bound.map(Some).with_context(|| format!("cannot listen on {address}"))
        }
    };
    let Inherited { public, admin, admin_socket, replica } = inherited;
    let public = listen(public, Some(config.listen.public)).await?.context("there is no public listener")?;
    let admin = listen(admin, config.listen.admin).await?;
    let replica = listen(replica, config.replica.listen).await?;
    let admin_socket = admin_socket.map(UnixListener::from_std).transpose().context("the admin socket")?;
    Ok(Listeners { public, admin, admin_socket, replica })
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
