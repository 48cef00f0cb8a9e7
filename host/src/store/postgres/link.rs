//! Connections: how they are made, and the writer's own one with what it says.
//!
//! Every wait has an end here too, since a server that is gone without a word enforces no timeout.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join3, join4};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::StoreError;
use super::super::engine::Effects;
use super::fetched::Fetched;
use super::statements::{self, Changes, SESSION};
use super::tls::{self, Tls};
use super::unavailable;
use crate::env::Timestamp;
use crate::secret::{Digest, Plaintext};

/// Until a connection stands, TLS and authentication included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer to a statement: the server gives up after two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest wait for the lock: the server gives up after five seconds, or six.
const LOCK_TIMEOUT: Duration = Duration::from_secs(8);
/// Silence on a connection after which the kernel asks whether somebody is there, and how long it waits for that.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Oldest version that has everything that is used here.
const OLDEST_VERSION: i32 = 140_000;

/// A PostgreSQL database with a schema for one deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Tried in this order, until one takes writes.
    pub hosts: Vec<Host>,
    pub user: String,
    pub password: Option<Plaintext>,
    pub name: String,
    /// Lower-case letters, digits and underscores, at most 63 of them, and no digit first.
    pub schema: String,
    pub tls: Tls,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Tcp {
        name: String,
        port: u16,
    },
    /// A socket in this directory.
    Unix {
        directory: PathBuf,
        port: u16,
    },
}

/// Without the user and the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (position, host) in self.hosts.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match host {
                Host::Tcp { name, port } if name.contains(':') => write!(f, "{comma}[{name}]:{port}")?,
                Host::Tcp { name, port } => write!(f, "{comma}{name}:{port}")?,
                Host::Unix { directory, port } => write!(f, "{comma}{}:{port}", directory.display())?,
            }
        }
        write!(f, "/{}", self.name)
    }
}

impl Database {
    /// The advisory lock that the deployment's writers take, one after the other.
    pub(super) fn lock(&self) -> i64 {
        let digest = Digest::of(format!("portcullis store {}", self.schema).as_bytes());
        let (first, _) = digest.as_bytes().split_at(size_of::<i64>());
        i64::from_be_bytes(first.try_into().expect("a digest has more bytes than a number"))
    }
}

/// Makes connections that are ready to use.
#[derive(Clone)]
pub(super) struct Connector {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    schema: Arc<str>,
    lock: i64,
    tasks: TaskTracker,
}

impl Connector {
    pub(super) fn new(database: &Database, tasks: TaskTracker) -> Result<Self, tls::TlsFault> {
        let mut config = tokio_postgres::Config::new();
        config.user(&database.user).dbname(&database.name).application_name("portcullis");
        if let Some(password) = &database.password {
            config.password(password.expose());
        }
        let mut is_local = true;
        for host in &database.hosts {
            match host {
                Host::Tcp { name, port } => {
                    is_local = false;
                    config.host(name).port(*port)
                }
                Host::Unix { directory, port } => config.host_path(directory).port(*port),
            };
        }
        // A host that is silent leaves time for the next one.
        let hosts = u32::try_from(database.hosts.len()).unwrap_or(u32::MAX);
        config.connect_timeout(CONNECT_TIMEOUT / hosts.saturating_add(1)).tcp_user_timeout(2 * KEEPALIVE);
        config.keepalives(true).keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(2);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let tls = if is_local { None } else { tls::connector(&database.tls)? };
        config.ssl_mode(match database.tls {
            _ if tls.is_none() => SslMode::Disable,
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require | Tls::VerifyCa(_) | Tls::VerifyFull(_) => SslMode::Require,
        });
        Ok(Self { config, tls, schema: database.schema.as_str().into(), lock: database.lock(), tasks })
    }

    /// A connection, and the task that carries it until the client is dropped.
    async fn connect(&self, lost: CancellationToken) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let lost = lost.drop_guard();
        let (client, task) = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                (client, self.tasks.spawn(carry(connection, lost)))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, self.tasks.spawn(carry(connection, lost)))
            }
        };
        client.batch_execute(SESSION).await?;
        Ok((client, task))
    }

    /// The writer's connection.
    pub(super) async fn link(&self, missing: Missing) -> Result<Link, Fault> {
        let (link, has_table) = within(CONNECT_TIMEOUT, self.new_link()).await?;
        match missing {
            _ if has_table => {}
            Missing::Make => within(LOCK_TIMEOUT + ANSWER_TIMEOUT, link.make_table(&self.schema)).await?,
            Missing::IsAFault => {
                return Err(Fault::Refused(unavailable(format!("the table {}.kv is gone", self.schema))));
            }
            Missing::IsNoStore => return Err(Fault::Refused(StoreError::Absent)),
        }
        // Prepared once the table is there.
        within(ANSWER_TIMEOUT, link.prepare(&self.schema)).await
    }

    /// A connection that is ready for its first statement, and whether the table is there.
    async fn new_link(&self) -> Result<(Unprepared, bool), Fault> {
        let lost = CancellationToken::new();
        let (client, task) = self.connect(lost.clone()).await?;
        let link = Unprepared {
            lock: client.prepare(statements::LOCK).await?,
            key: self.lock,
            client,
            lost,
            task: EndWith(task),
        };
        let seen = link.client.query_one(&statements::look(&self.schema), &[]).await?;
        let version: i32 = seen.try_get(0)?;
        if version < OLDEST_VERSION {
            let major = version / 10_000;
            let problem = format!("the server is PostgreSQL {major}, and the store needs 14 or newer");
            return Err(Fault::Refused(unavailable(problem)));
        }
        Ok((link, seen.try_get(1)?))
    }

    /// The statement of reads.
    pub(super) fn fetch(&self) -> String {
        statements::fetch(&self.schema)
    }
}

/// What to do where the table is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it: this is the first start.
    Make,
    /// Somebody only wants to look.
    IsNoStore,
    /// It was there before. A store that begins anew would have forgotten what was revoked.
    IsAFault,
}

/// A connection without the statements that need the table.
struct Unprepared {
    client: Client,
    lock: Statement,
    key: i64,
    lost: CancellationToken,
    task: EndWith,
}

impl Unprepared {
    async fn make_table(&self, schema: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(statements::BEGIN_WRITE).await?;
        self.client.query_one(&self.lock, &[&self.key]).await?;
        self.client.batch_execute(&statements::create(schema)).await?;
        self.client.batch_execute("COMMIT").await
    }

    async fn prepare(self, schema: &str) -> Result<Link, tokio_postgres::Error> {
        Ok(Link {
            fetch: self.client.prepare(&statements::fetch(schema)).await?,
            upsert: self.client.prepare(&statements::upsert(schema)).await?,
            delete: self.client.prepare(&statements::delete(schema)).await?,
            status: self.client.prepare(statements::STATUS).await?,
            lock: self.lock,
            key: self.key,
            client: self.client,
            lost: self.lost,
            _task: self.task,
        })
    }
}

/// For the pool of reads.
impl deadpool_postgres::Connect for Connector {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(self.connect(CancellationToken::new()))
    }
}

async fn carry<S, T>(connection: tokio_postgres::Connection<S, T>, lost: tokio_util::sync::DropGuard)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let _lost = lost;
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the store broke");
    }
}

/// Ends a connection at once, without waiting for answers that nobody wants any more.
struct EndWith(JoinHandle<()>);

impl Drop for EndWith {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What went wrong on a connection.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server refused a statement, and the transaction with it.
    Refused(StoreError),
    /// The connection broke, or nothing came.
    Lost(StoreError),
}

impl Fault {
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Refused(error) | Self::Lost(error) => error,
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        let told = error.as_db_error().map(|told| (told.code().clone(), told.parsed_severity()));
        match told {
            // Another replica had the lock all the time.
            Some((SqlState::LOCK_NOT_AVAILABLE, _)) => Self::Refused(StoreError::Busy),
            // After these the server ends the connection.
            None | Some((_, Some(Severity::Fatal | Severity::Panic) | None)) => {
                Self::Lost(StoreError::Unavailable { source: Arc::new(error) })
            }
            Some(_) => Self::Refused(StoreError::Unavailable { source: Arc::new(error) }),
        }
    }
}

/// The outcome, or a fault where it takes too long.
pub(super) async fn within<T, E: Into<Fault>>(
    patience: Duration,
    asking: impl Future<Output = Result<T, E>>,
) -> Result<T, Fault> {
    match timeout(patience, asking).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Fault::Lost(unavailable("the server did not answer in time"))),
    }
}

/// Waits for the answer to one statement.
pub(super) async fn answered<T, E: Into<Fault>>(asking: impl Future<Output = Result<T, E>>) -> Result<T, Fault> {
    within(ANSWER_TIMEOUT, asking).await
}

/// The writer's connection. What is asked together is sent together.
pub(super) struct Link {
    client: Client,
    lock: Statement,
    fetch: Statement,
    upsert: Statement,
    delete: Statement,
    status: Statement,
    key: i64,
    lost: CancellationToken,
    _task: EndWith,
}

/// A transaction that has the lock.
pub(super) struct Begun {
    /// Its name on the server.
    pub(super) transaction: String,
    pub(super) now: Timestamp,
}

/// What became of a transaction whose end was not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    Aborted,
    InProgress,
    /// Too long ago, or on another server.
    Unknown,
}

/// Why a commit was not confirmed.
pub(super) enum NotCommitted {
    /// Nothing was written.
    Refused(StoreError),
    /// It may have happened.
    Unknown(StoreError),
}

impl Link {
    /// Takes the lock, and what the transaction is known to need.
    pub(super) async fn begin(&self, fetched: &mut Fetched) -> Result<Begun, Fault> {
        let request = fetched.take_wanted();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&self.key];
        let asking = join4(
            self.client.batch_execute(statements::BEGIN_WRITE),
            self.client.query_one(&self.lock, &parameters),
            self.client.batch_execute(statements::LOCKED),
            statements::run_fetch(&self.client, &self.fetch, &request),
        );
        let asking = async {
            let (begun, locked, bounded, rows) = asking.await;
            begun?;
            let locked = locked?;
            bounded?;
            let now = u64::try_from(locked.try_get::<_, i64>(2)?).unwrap_or_default();
            let begun = Begun { transaction: locked.try_get(1)?, now: Timestamp::from_millis(now) };
            Ok::<_, tokio_postgres::Error>((begun, rows?))
        };
        let (begun, rows) = within(LOCK_TIMEOUT + ANSWER_TIMEOUT, asking).await?;
        fetched.learn(request, rows);
        Ok(begun)
    }

    /// Brings what was missed.
    pub(super) async fn fetch(&self, fetched: &mut Fetched) -> Result<(), Fault> {
        let request = fetched.take_wanted();
        let rows = answered(statements::run_fetch(&self.client, &self.fetch, &request)).await?;
        fetched.learn(request, rows);
        Ok(())
    }

    /// Writes everything and commits.
    pub(super) async fn commit(&self, effects: &Effects) -> Result<(), NotCommitted> {
        let Changes { put, removed } = Changes::of(effects);
        let upsert = async {
            if put.0.is_empty() { Ok(0) } else { self.client.execute(&self.upsert, &[&put.0, &put.1, &put.2]).await }
        };
        let delete = async {
            if removed.0.is_empty() {
                Ok(0)
            } else {
                self.client.execute(&self.delete, &[&removed.0, &removed.1]).await
            }
        };
        // Where a statement failed, `COMMIT` is a rollback, and says nothing of it.
        let asking = async {
            let (upserted, deleted, committed) = join3(upsert, delete, self.client.batch_execute("COMMIT")).await;
            upserted?;
            deleted?;
            committed
        };
        answered(asking).await.map_err(|fault| match fault {
            Fault::Refused(error) => NotCommitted::Refused(error),
            Fault::Lost(error) => NotCommitted::Unknown(error),
        })
    }

    /// Gives the lock back, with nothing written.
    pub(super) async fn roll_back(&self) -> Result<(), Fault> {
        answered(self.client.batch_execute("ROLLBACK")).await
    }

    /// What became of a transaction, by its name.
    pub(super) async fn fate(&self, transaction: &str) -> Result<Fate, Fault> {
        let row = match answered(self.client.query_one(&self.status, &[&transaction])).await {
            Ok(row) => row,
            // It is from the future of this server: another one has taken its place.
            Err(Fault::Refused(_)) => return Ok(Fate::Unknown),
            Err(lost) => return Err(lost),
        };
        let status: Option<String> = row.try_get(0).map_err(Fault::from)?;
        Ok(match status.as_deref() {
            Some("committed") => Fate::Committed,
            Some("aborted") => Fate::Aborted,
            Some("in progress") => Fate::InProgress,
            _ => Fate::Unknown,
        })
    }

    /// Whether somebody answers.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        answered(self.client.batch_execute("")).await
    }

    /// A setting of this session.
    #[cfg(test)]
    pub(super) async fn setting(&self, name: &str) -> String {
        self.client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.client.is_closed() || self.lost.is_cancelled()
    }

    /// Comes back when the connection is gone.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}
