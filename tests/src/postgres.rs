//! A PostgreSQL server of our own, on a free loopback port.
//!
//! Uses nothing but the standard library, since the unit tests of the host include this file as it is. One server for
//! each test process, whose tests have schemas of their own ([`Server::shared`]); or one of a test's own, to stop and
//! start ([`Server::start`]). It runs as an unprivileged user, in a temporary directory, and ends together with the
//! process that started it, however that ends: a shell of its own waits for the end of a pipe.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// The server's superuser.
pub const USER: &str = "portcullis";
/// Its password, which nothing may ever print.
pub const PASSWORD: &str = "canary-of-the-database";
/// The database that is there.
pub const DATABASE: &str = "postgres";

/// Where Debian keeps the programs, newest version first.
const VERSIONS: [u32; 5] = [18, 17, 16, 15, 14];
/// How often a port is tried that somebody else may take first.
const PORTS_TRIED: usize = 5;
/// How long the server may take to start or stop, in seconds.
const PATIENCE: &str = "60";

/// How careful a server is with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Not at all: it may forget everything if the machine stops.
    Off,
    On,
}

/// A running server, or one that was stopped.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    directory: PathBuf,
    port: u16,
    sync: Sync,
    /// Ends the server and removes its directory when its input ends.
    keeper: Mutex<Child>,
}

impl Server {
    /// The server of this process. It ends with the process.
    ///
    /// # Panics
    /// If there is no PostgreSQL on this machine, or it does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Sync::Off))
    }

    /// A server of the caller's own. It ends when it is dropped.
    ///
    /// # Panics
    /// If there is no PostgreSQL on this machine, or it does not start.
    pub fn start(sync: Sync) -> Self {
        let programs = programs();
        let directory = new_directory();
        let data = directory.join("data");
        let password = directory.join("password");
        fs::write(&password, PASSWORD).expect("the temporary directory can be written");
        own(&directory, &password);
        let mut initialise = unprivileged(&programs.join("initdb"), &directory);
        initialise.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password);
        initialise.args(["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        run(&mut initialise, "initdb");

        let mut keeper = Command::new("/bin/sh");
        // It is told what to do, and does it when the pipe from this process ends.
        keeper.args(["-c", "cat >/dev/null; \"$@\" >/dev/null 2>&1; rm -rf -- \"$0\""]).arg(&directory);
        let stop = stop_command(&programs, &directory, "immediate");
        keeper.arg(stop.get_program()).args(stop.get_args());
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").process_group(0);
        let keeper = Mutex::new(keeper.spawn().expect("a shell starts"));

        let mut server = Self { programs, directory, port: 0, sync, keeper };
        for attempt in 1.. {
            server.port = free_port();
            match server.try_start() {
                Ok(()) => break,
                Err(told) => assert!(attempt < PORTS_TRIED, "PostgreSQL does not start:\n{told}"),
            }
        }
        server
    }

    /// Stops it in the middle of everything, as a crash would.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn kill(&self) {
        run(&mut stop_command(&self.programs, &self.directory, "immediate"), "pg_ctl stop");
    }

    /// Starts it again after [`Self::kill`], on the same port.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&self) {
        if let Err(told) = self.try_start() {
            panic!("PostgreSQL does not start again:\n{told}");
        }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A name for a schema that no other test of this process has.
    pub fn new_schema(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// Where a gateway keeps its store in this server, without the password.
    pub fn url(&self, schema: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{DATABASE}?schema={schema}", self.port)
    }

    /// What the server answers to a statement, as its own client prints it.
    ///
    /// # Panics
    /// If the server refuses it.
    pub fn ask(&self, statement: &str) -> String {
        let mut client = Command::new(self.programs.join("psql"));
        client.args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--host=127.0.0.1"]);
        client.args(["--username", USER, "--dbname", DATABASE, "--command", statement]);
        client.arg(format!("--port={}", self.port)).env("PGPASSWORD", PASSWORD).stdin(Stdio::null());
        run(&mut client, "psql").trim().to_owned()
    }

    /// Everything that the server has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The directory of its data, for certificates and settings.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Gives a file to the user that the server runs as, and to nobody else.
    ///
    /// # Panics
    /// If that is not allowed.
    pub fn own(&self, path: &Path) {
        own(&self.directory, path);
    }

    fn try_start(&self) -> Result<(), String> {
        let durability = match self.sync {
            Sync::Off => "-c fsync=off -c full_page_writes=off",
            Sync::On => "-c fsync=on",
        };
        let settings = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 \
             -c shared_buffers=16MB -c logging_collector=off {durability}",
            self.port
        );
        let mut start = unprivileged(&self.programs.join("pg_ctl"), &self.directory);
        start.arg("start").arg("--pgdata").arg(self.data()).arg("--log").arg(self.directory.join("log"));
        start.args(["--wait", "--timeout", PATIENCE, "--options", &settings]);
        let done = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let done = done.expect("pg_ctl runs");
        if done.success() { Ok(()) } else { Err(self.log()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(keeper.stdin.take());
        // Its end is the server's; there is nobody to tell if it failed.
        _ = keeper.wait();
    }
}

fn programs() -> PathBuf {
    let installed = VERSIONS.iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let mut installed = installed.filter(|programs| programs.join("initdb").is_file());
    installed.next().expect("PostgreSQL is not installed: this test needs the Debian package postgresql")
}

fn new_directory() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("portcullis-postgres-{}-{count}", std::process::id()));
    // One of an earlier process of the same number, which was killed before its keeper ran.
    _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).expect("the temporary directory can be written");
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).expect("it is ours");
    if let Some((user, group)) = other_user() {
        std::os::unix::fs::chown(&directory, Some(user), Some(group)).expect("root may do that");
    }
    directory
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a listener has an address").port()
}

/// The user and group to run as where this process is root, which PostgreSQL refuses to be.
fn other_user() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    is_root.then(|| {
        let users = fs::read_to_string("/etc/passwd").expect("there are users");
        let found = ["postgres", "nobody"].iter().find_map(|name| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        found.expect("there is a user postgres or nobody, as PostgreSQL does not run as root")
    })
}

fn unprivileged(program: &Path, directory: &Path) -> Command {
    let mut command = match other_user() {
        None => Command::new(program),
        Some((user, group)) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups", "--"]);
            command.arg(program);
            command
        }
    };
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn stop_command(programs: &Path, directory: &Path, mode: &str) -> Command {
    let mut stop = unprivileged(&programs.join("pg_ctl"), directory);
    stop.arg("stop").arg("--pgdata").arg(directory.join("data")).args([
        "--wait",
        "--timeout",
        PATIENCE,
        "--mode",
        mode,
    ]);
    stop
}

fn own(directory: &Path, path: &Path) {
    let owner = fs::metadata(directory).expect("the directory is there");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it is ours");
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).expect("it is ours to give");
}

/// What a command prints.
fn run(command: &mut Command, name: &str) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{name} cannot be run: {error}"));
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name} failed ({}):\n{told}", done.status);
    // What it warns of is for who looks into a failed test.
    _ = std::io::stderr().write_all(&done.stderr);
    String::from_utf8_lossy(&done.stdout).into_owned()
}
