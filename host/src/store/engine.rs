//! The engine contract: an ordered keyspace with serialisable transactions, and everything about transactions that
//! is the same on every engine.
//!
//! A [`Table`] maps byte keys to byte values in key order. A transaction reads one snapshot; a write transaction
//! also sees its own effects and, where an engine commits several transactions at once, those of the transactions
//! before it. Effects are buffered here and reach the engine only if the closure returned `Ok`, stayed within the
//! limits and did not panic; otherwise the closure leaves nothing. A closure may be run again, so it is pure but for
//! its transaction: secrets and identifiers are made before, time is [`ReadTx::now`].
//!
//! What is deliberately not here: typed records (`table`), business rules (one file per aggregate), and how bytes
//! come to rest (`redb`, `postgres`). An engine provides a [`Snapshot`] and applies [`Effects`]; it knows no more. One that
//! has to ask elsewhere may run a closure over a snapshot that lacks what is asked for, note what that is, discard the run
//! with whatever it returned, and run it again.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::{Bound, Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::StoreError;
use super::stats::Meter;
use crate::env::Timestamp;

/// Largest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Largest value, in bytes. Larger things are kept in pieces under their digest.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;
/// Reads of one transaction; a `get` is one, and so is a `range`.
pub const MAX_READS: usize = 1_000;
/// Calls of `put` and `remove` in one transaction.
pub const MAX_EFFECTS: usize = 2_000;
/// Rows that one `range` may ask for.
pub const MAX_RANGE: usize = 1_000;

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident = $number:literal $name:literal,)*) => {
        /// The tables of the store. Numbers and names are part of the stored format: they are never reused.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Table {
            $($(#[$doc])* $table = $number,)*
        }

        impl Table {
            /// Every table.
            pub const ALL: &[Self] = &[$(Self::$table,)*];

            /// The table's name, as engines with named tables and error messages have it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$table => $name,)*
                }
            }

            /// The table's number, as engines with one big table have it.
            pub const fn number(self) -> u16 {
                self as u16
            }
        }
    };
}

tables! {
    /// Single values: the schema number, counters.
    Meta = 0 "meta",
    /// Virtual keys by name.
    Keys = 1 "keys",
    /// Digest of a virtual key's secret → name.
    KeysByDigest = 2 "keys_by_digest",
    /// Creation time and name of a virtual key → name.
    KeysByCreation = 3 "keys_by_creation",
    /// Audit trail by time and sequence number.
    Audit = 4 "audit",
    /// Decision trail by decision id, which begins with the time.
    Decisions = 5 "decisions",
    /// Approvals by id, which begins with the time.
    Approvals = 6 "approvals",
    /// What an approval is bound to, and its id → id.
    ApprovalsByBinding = 7 "approvals_by_binding",
    /// State and id of an approval → id.
    ApprovalsByState = 8 "approvals_by_state",
    /// Principal, state and id of an approval → id.
    ApprovalsByPrincipal = 9 "approvals_by_principal",
    /// When an approval is forgotten, and its id → id: in schema 1. Empty since.
    ApprovalsByExpiry = 10 "approvals_by_expiry",
    /// Pinned definitions of tools by upstream and tool.
    Pins = 11 "pins",
    /// Upstreams whose tools were pinned when they were first seen.
    PinnedUpstreams = 12 "pinned_upstreams",
    /// Recorded questions to policies by decision id and number.
    Recordings = 13 "recordings",
    /// Binding, decision id and number of a recorded question → the question.
    RecordingsByPolicy = 14 "recordings_by_policy",
    /// Pieces of recorded questions by decision id, number and piece.
    RecordingPieces = 15 "recording_pieces",
    /// What has changed that others keep copies of, by revision.
    Changes = 16 "changes",
    /// When a record expires, its table's number and its key → nothing.
    Expiry = 17 "expiry",
    /// Who does what only one of several gateways may do, by what it is.
    Leases = 18 "leases",

    /// OAuth clients by id.
    Clients = 30 "clients",
    /// Use, last time and id of a client → id.
    ClientsByUse = 31 "clients_by_use",
    /// Creation time and id of a client → id.
    ClientsByCreation = 32 "clients_by_creation",
    /// Authorization requests by id.
    AuthorizationRequests = 33 "authorization_requests",
    /// Authorization codes by digest.
    AuthorizationCodes = 34 "authorization_codes",
    /// Pushed authorization requests by the digest of their reference.
    PushedRequests = 35 "pushed_requests",
    /// Grants by id, which begins with the time.
    Grants = 36 "grants",
    /// Principal and id of a grant → id.
    GrantsByPrincipal = 37 "grants_by_principal",
    /// Client and id of a grant → id.
    GrantsByClient = 38 "grants_by_client",
    /// Refresh tokens by digest.
    RefreshTokens = 39 "refresh_tokens",
    /// Successors of refresh tokens, sealed, by their predecessor's digest.
    SealedSuccessors = 40 "sealed_successors",
    /// Grants and access tokens that were revoked a short while ago.
    Denied = 41 "denied",
    /// Until when all was revoked, by whose it was.
    Watermarks = 42 "watermarks",
    /// What was presented and may not be presented again, by kind and digest.
    Marks = 43 "marks",
    /// Device authorizations by the digest of their device code.
    Devices = 44 "devices",
    /// Digest of a user code → digest of the device code.
    DevicesByUserCode = 45 "devices_by_user_code",
    /// Wrong user codes by who entered them.
    UserCodeMisses = 46 "user_code_misses",
    /// Remembered consents by principal and digest of the terms.
    Consents = 47 "consents",
    /// Principal, time and digest of a consent → its key.
    ConsentsByPrincipal = 48 "consents_by_principal",
    /// Keys that sign tokens by id.
    SigningKeys = 49 "signing_keys",
    /// People by id, which begins with the time.
    Users = 60 "users",
    /// Login of a local account → user.
    UsersByLogin = 61 "users_by_login",
    /// Verified e-mail address and user → user.
    UsersByEmail = 62 "users_by_email",
    /// Role, status and user → user.
    UsersByRole = 63 "users_by_role",
    /// Issuer and subject of an identity provider.
    Identities = 64 "identities",
    /// User, issuer and subject → issuer and subject.
    IdentitiesByUser = 65 "identities_by_user",
    /// Signed-in browsers by id, which begins with the time.
    BrowserSessions = 66 "browser_sessions",
    /// Digest of a cookie → browser session.
    BrowserSessionsByDigest = 67 "browser_sessions_by_digest",
    /// User and browser session → browser session.
    BrowserSessionsByUser = 68 "browser_sessions_by_user",
    /// Operators' API tokens by id, which begins with the time.
    ApiTokens = 70 "api_tokens",
    /// Digest of an API token → its id.
    ApiTokensByDigest = 71 "api_tokens_by_digest",
    /// User and API token → API token.
    ApiTokensByUser = 72 "api_tokens_by_user",
    /// Connections by holder and upstream.
    Connections = 74 "connections",
    /// Id of a connection, which begins with the time → holder and upstream.
    ConnectionsById = 75 "connections_by_id",
    /// Upstream and id of a connection → holder and upstream.
    ConnectionsByUpstream = 76 "connections_by_upstream",
    /// When a connection's token ends, and its id → holder and upstream.
    ConnectionsByEnd = 77 "connections_by_end",
    /// Tokens of ended connections that their authorization server has yet to be told of, by connection.
    Revocations = 78 "revocations",
    /// When it is to be told next, and the connection → connection.
    RevocationsByDue = 79 "revocations_by_due",
    /// Connection flows by the digest of their state.
    Flows = 80 "connection_flows",
    /// Holder, upstream and id of a flow → digest of its state.
    FlowsByPlace = 81 "connection_flows_by_place",
    /// Connect links that were opened, by id.
    Links = 90 "connect_links",
    /// Browser, upstream and id of a link → id.
    LinksByBrowser = 91 "connect_links_by_browser",
    /// Principal and id of a link → id.
    LinksByPrincipal = 92 "connect_links_by_principal",
    /// Upstreams that operators declare in the store, by name.
    Upstreams = 84 "upstreams",
    /// Our registrations at upstreams' authorization servers, by upstream and digest of issuer, redirect URI and client id.
    UpstreamClients = 88 "upstream_clients",
    /// What each replica has counted, by counter and replica.
    Counters = 86 "counters",
    /// In which order replicas told of their counts → counter and replica.
    CountersByRevision = 87 "counters_by_revision",
    /// Data keys of the vault by owner.
    DataKeys = 20 "data_keys",
    /// Key-encryption key and owner of a data key → owner.
    DataKeysByKek = 21 "data_keys_by_kek",
    /// The deployment's own sealed secrets by owner and name.
    VaultSecrets = 22 "vault_secrets",
    /// Gateways that share this store, by id.
    Replicas = 100 "replicas",
    /// Guests by id, which begins with the time.
    Guests = 101 "guests",
    /// Policy modules that operators uploaded, by digest.
    PolicyModules = 110 "policy_modules",
    /// Pieces of them by digest and number.
    PolicyModulePieces = 111 "policy_module_pieces",
    /// Policy bindings that operators declare in the store, by name.
    PolicyBindings = 112 "policy_bindings",
}

/// One row.
pub type Row = (Vec<u8>, Vec<u8>);

/// From where to where a range goes, in key order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub lower: Bound<Vec<u8>>,
    pub upper: Bound<Vec<u8>>,
}

impl Bounds {
    /// The whole table.
    pub const fn all() -> Self {
        Self { lower: Bound::Unbounded, upper: Bound::Unbounded }
    }

    /// Keys after `key`, which itself is left out.
    pub fn after(key: impl Into<Vec<u8>>) -> Self {
        Self { lower: Bound::Excluded(key.into()), upper: Bound::Unbounded }
    }

    /// Keys before `key`, which itself is left out.
    pub fn before(key: impl Into<Vec<u8>>) -> Self {
        Self { lower: Bound::Unbounded, upper: Bound::Excluded(key.into()) }
    }

    /// Keys that begin with `prefix`.
    pub fn within(prefix: &[u8]) -> Self {
        // The next key after all of them: the last byte that can grow, grown, and nothing behind it.
        let upper = match prefix.iter().rposition(|byte| *byte != u8::MAX) {
            Some(at) => {
                let mut next = prefix[..=at].to_vec();
                next[at] += 1;
                Bound::Excluded(next)
            }
            None => Bound::Unbounded,
        };
        Self { lower: Bound::Included(prefix.to_vec()), upper }
    }

    /// Of these keys, those before `key`.
    #[must_use]
    pub fn before_too(&self, key: &[u8]) -> Self {
        let is_nearer = match &self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) | Bound::Excluded(upper) => key < upper.as_slice(),
        };
        let upper = if is_nearer { Bound::Excluded(key.to_vec()) } else { self.upper.clone() };
        Self { lower: self.lower.clone(), upper }
    }

    /// Both bounds, borrowed.
    pub fn as_slices(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (slice(&self.lower), slice(&self.upper))
    }

    /// Whether no key lies within; `BTreeMap::range` panics on some of these.
    fn is_empty(&self) -> bool {
        match self.as_slices() {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
            (Bound::Included(lower) | Bound::Excluded(lower), Bound::Included(upper) | Bound::Excluded(upper)) => {
                lower >= upper
            }
        }
    }
}

fn slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key.as_slice()),
        Bound::Excluded(key) => Bound::Excluded(key.as_slice()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// In which order a range comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

impl Direction {
    fn compare(self, left: &[u8], right: &[u8]) -> Ordering {
        match self {
            Self::Forward => left.cmp(right),
            Self::Backward => right.cmp(left),
        }
    }
}

/// Rows of a range as an engine yields them, one after the other and only as far as somebody asks.
pub(super) type Rows<'a> = Box<dyn Iterator<Item = Result<Row, StoreError>> + 'a>;

/// One consistent state of the keyspace, as an engine provides it.
pub(super) trait Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The first rows within `bounds`, in `direction`: `limit` of them are enough. `bounds` are never empty or reversed.
    fn range(&self, table: Table, bounds: &Bounds, direction: Direction, limit: usize) -> Result<Rows<'_>, StoreError>;

    /// Says that `key` will be asked for, which changes no answer.
    fn expect(&self, _table: Table, _key: &[u8]) {}
}

/// Changes that are not yet in the engine: a value, or `None` for a key that is to be removed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    bytes: usize,
}

static NO_EFFECTS: Effects = Effects { tables: BTreeMap::new(), bytes: 0 };

impl Effects {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// What was put in so far, in bytes of keys and values.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes table by table, each in key order.
    pub(super) fn tables(&self) -> impl Iterator<Item = (Table, &BTreeMap<Vec<u8>, Option<Vec<u8>>>)> {
        self.tables.iter().map(|(table, changes)| (*table, changes))
    }

    fn has(&self, table: Table) -> bool {
        self.tables.contains_key(&table)
    }

    fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.tables.get(&table)?.get(key)
    }

    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        self.tables.entry(table).or_default().insert(key.to_vec(), value.map(<[u8]>::to_vec));
    }

    fn absorb(&mut self, later: Self) {
        self.bytes += later.bytes;
        for (table, changes) in later.tables {
            self.tables.entry(table).or_default().extend(changes);
        }
    }

    /// Keys within `bounds` that are to be removed.
    fn removals(&self, table: Table, bounds: &Bounds) -> usize {
        let within = self.tables.get(&table).map(|changes| changes.range::<[u8], _>(bounds.as_slices()));
        within.into_iter().flatten().filter(|(_, value)| value.is_none()).count()
    }

    fn range<'a>(&'a self, table: Table, bounds: &'a Bounds, direction: Direction) -> Layer<'a> {
        let Some(changes) = self.tables.get(&table) else {
            return Box::new(std::iter::empty());
        };
        let within = changes.range::<[u8], _>(bounds.as_slices());
        let within = within.map(|(key, value)| Ok((key.clone(), value.clone())));
        match direction {
            Direction::Forward => Box::new(within),
            Direction::Backward => Box::new(within.rev()),
        }
    }
}

/// Rows and removals in the order of a range.
type Layer<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Option<Vec<u8>>), StoreError>> + 'a>;

/// Two layers as one: where both have a key, the upper one's word counts.
struct Stacked<'a> {
    upper: Peekable<Layer<'a>>,
    lower: Peekable<Layer<'a>>,
    direction: Direction,
}

impl<'a> Stacked<'a> {
    fn layer(upper: Layer<'a>, lower: Layer<'a>, direction: Direction) -> Layer<'a> {
        Box::new(Self { upper: upper.peekable(), lower: lower.peekable(), direction })
    }
}

impl Iterator for Stacked<'_> {
    type Item = Result<(Vec<u8>, Option<Vec<u8>>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let nearer = match (self.upper.peek(), self.lower.peek()) {
            (Some(Ok((upper, _))), Some(Ok((lower, _)))) => self.direction.compare(upper, lower),
            (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        match nearer {
            Ordering::Less => self.upper.next(),
            Ordering::Greater => self.lower.next(),
            Ordering::Equal => {
                self.lower.next();
                self.upper.next()
            }
        }
    }
}

/// A transaction that reads.
///
/// The first error of any call is kept: later calls repeat it, and the closure fails with it whatever it returns.
pub struct ReadTx<'a> {
    snapshot: &'a dyn Snapshot,
    /// Effects of the transactions before this one that will be committed together with it.
    earlier: &'a Effects,
    own: Effects,
    reads: usize,
    failure: Option<StoreError>,
    now: Timestamp,
}

impl<'a> ReadTx<'a> {
    fn new(snapshot: &'a dyn Snapshot, earlier: &'a Effects, now: Timestamp) -> Self {
        Self { snapshot, earlier, own: Effects::default(), reads: 0, failure: None, now }
    }

    /// The time of this transaction, as the engine's clock has it. It stands still while the closure runs.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The value of `key`.
    pub fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.count_read()?;
        self.check(key.len() <= MAX_KEY_BYTES, "key bytes")?;
        if let Some(change) = self.own.get(table, key).or_else(|| self.earlier.get(table, key)) {
            return Ok(change.clone());
        }
        let value = self.snapshot.get(table, key);
        self.keep_failure(value)
    }

    /// Says that these keys will be asked for one by one, where each question would otherwise be a round trip of its own. It
    /// changes no answer and is no read. Keys beyond [`MAX_READS`] are left out.
    pub fn prefetch(&self, table: Table, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        for key in keys.into_iter().take(MAX_READS) {
            let key = key.as_ref();
            let is_known = self.own.get(table, key).or_else(|| self.earlier.get(table, key)).is_some();
            if !is_known && key.len() <= MAX_KEY_BYTES {
                self.snapshot.expect(table, key);
            }
        }
    }

    /// At most `limit` rows within `bounds`, in `direction`; `limit` is at most [`MAX_RANGE`].
    pub fn range(
        &mut self,
        table: Table,
        bounds: &Bounds,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.count_read()?;
        self.check(limit <= MAX_RANGE, "rows in one range")?;
        if bounds.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.merged(table, bounds, direction, limit);
        self.keep_failure(rows)
    }

    fn merged(
        &self,
        table: Table,
        bounds: &Bounds,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        // Rows that an effect removes make room for others behind them.
        let removed = self.own.removals(table, bounds) + self.earlier.removals(table, bounds);
        let stored = self.snapshot.range(table, bounds, direction, limit + removed)?;
        let stored: Layer<'_> = Box::new(stored.map(|row| row.map(|(key, value)| (key, Some(value)))));
        let earlier = Stacked::layer(self.earlier.range(table, bounds, direction), stored, direction);
        let all = Stacked::layer(self.own.range(table, bounds, direction), earlier, direction);
        let present = all.filter_map(|row| row.map(|(key, value)| Some((key, value?))).transpose());
        present.take(limit).collect()
    }

    fn count_read(&mut self) -> Result<(), StoreError> {
        self.reads += 1;
        self.check(self.reads <= MAX_READS, "reads in one transaction")
    }

    fn check(&mut self, within: bool, limit: &'static str) -> Result<(), StoreError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let checked = if within { Ok(()) } else { Err(StoreError::OverLimit { limit }) };
        self.keep_failure(checked)
    }

    fn keep_failure<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|failure| self.failure = Some(failure.clone()))
    }
}

/// A transaction that reads and writes.
pub struct WriteTx<'a> {
    view: ReadTx<'a>,
    effects: usize,
}

impl WriteTx<'_> {
    /// Gives `key` this value.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.check(value.len() <= MAX_VALUE_BYTES, "value bytes")?;
        self.change(table, key, Some(value))
    }

    /// Removes `key`, if it is there.
    pub fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.change(table, key, None)
    }

    /// Whether this transaction tells of a change that others keep copies of.
    pub(super) fn has_announced(&self) -> bool {
        self.own.has(Table::Changes)
    }

    fn change(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        self.effects += 1;
        let within = self.effects <= MAX_EFFECTS;
        self.check(within, "effects in one transaction")?;
        self.check(key.len() <= MAX_KEY_BYTES, "key bytes")?;
        self.own.set(table, key, value);
        Ok(())
    }
}

impl<'a> Deref for WriteTx<'a> {
    type Target = ReadTx<'a>;
    fn deref(&self) -> &ReadTx<'a> {
        &self.view
    }
}

impl<'a> DerefMut for WriteTx<'a> {
    fn deref_mut(&mut self) -> &mut ReadTx<'a> {
        &mut self.view
    }
}

/// Runs a closure that reads.
pub(super) fn read<T, E: From<StoreError>>(
    snapshot: &dyn Snapshot,
    now: Timestamp,
    closure: impl Fn(&mut ReadTx<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let mut tx = ReadTx::new(snapshot, &NO_EFFECTS, now);
    let returned = catch_unwind(AssertUnwindSafe(|| closure(&mut tx)));
    match tx.failure {
        Some(failure) => Err(failure.into()),
        None => returned.unwrap_or_else(|_| Err(StoreError::Panicked.into())),
    }
}

/// A closure that writes, queued together with the way back to whoever waits for it.
pub(super) trait Transition: Send {
    /// Runs the closure over `snapshot` and the effects of the transitions before it. Adds its own effects to
    /// those, or nothing if it failed. May be called again, with the last run's answer counting.
    fn run(&mut self, snapshot: &dyn Snapshot, effects: &mut Effects, now: Timestamp);

    /// Tells what the closure returned, or why that is not known to be true.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Queued<F, T, E> {
    closure: F,
    returned: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

/// Has an engine's writer run a closure, and waits for the answer. `send` puts it into the writer's queue; without an answer
/// the engine has ended.
pub(super) async fn write<T, E, F>(
    closure: F,
    meter: &Meter,
    send: impl FnOnce(Box<dyn Transition>) -> Result<(), StoreError>,
) -> Result<T, E>
where
    F: Fn(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    meter.queue();
    send(Box::new(Queued { closure, returned: None, reply })).inspect_err(|_| meter.unqueue())?;
    answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
}

impl<F, T, E> Transition for Queued<F, T, E>
where
    F: Fn(&mut WriteTx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn run(&mut self, snapshot: &dyn Snapshot, effects: &mut Effects, now: Timestamp) {
        let mut tx = WriteTx { view: ReadTx::new(snapshot, effects, now), effects: 0 };
        let returned = catch_unwind(AssertUnwindSafe(|| (self.closure)(&mut tx)));
        let ReadTx { own, failure, .. } = tx.view;
        let returned = match failure {
            Some(failure) => Err(failure.into()),
            None => returned.unwrap_or_else(|_| Err(StoreError::Panicked.into())),
        };
        if returned.is_ok() {
            effects.absorb(own);
        }
        self.returned = Some(returned);
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.returned) {
            (Ok(()), Some(returned)) => returned,
            (Ok(()), None) => Err(StoreError::Closed.into()),
            // A refusal is withheld too: it may rest on effects that were not committed.
            (Err(failure), _) => Err(failure.into()),
        };
        // Whoever asked may have gone away; what was committed stays.
        let _ = self.reply.send(answer);
    }
}
