//! The audit trail: appended to inside the transaction of the change, read newest first, pruned by age.
//!
//! A row's key is its time and a sequence number, both big-endian, so key order is time order and ties are told
//! apart. What can be in the trail is `crate::audit`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::changes::{Change, Revision, announce, revision};
use super::engine::{Bounds, Direction, Row, Table};
use super::table::{Cursor, Page, Single, Typed, abridge, shorten, unreadable};
use super::{Store, StoreError, WriteTx};
use crate::audit::{
    Actor, AuditEntry, AuditEvent, FieldChange, OperatorProof, Party, Registered, RegisteredBy, RevocationReason,
    Ruling, SigningKeyState,
};
use crate::env::Timestamp;
use crate::ids::{
    ApiTokenId, ApiTokenTag, ApprovalId, BindingName, BrowserSessionId, ClientId, DeploymentId, GrantId, KekId,
    KeyName, Owner, Principal, UpstreamName, UserId, UserTag,
};

/// Longest free text in an event, in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// Longest definition of a policy binding in an event. An event has at most two, and has to fit a row.
const MAX_DEFINITION_BYTES: usize = 32 * 1024;

pub(super) const AUDIT: Typed<EntryRecord> = Typed {
    table: Table::Audit,
    version: 1,
    older: &[],
    key: |record| row_key(record.at_ms, record.sequence).to_vec(),
    indexes: &[],
    expires: None,
};

/// Number of the row that was appended last.
const LAST_SEQUENCE: Single<u64> = Single::new("audit_sequence");

/// A row of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Counts up by one with each row, over all of the trail's life.
    pub sequence: u64,
    pub entry: AuditEntry,
}

/// Adds a row to the transaction of the change that it tells of.
pub fn append(tx: &mut WriteTx<'_>, actor: Actor, event: &AuditEvent) -> Result<(), StoreError> {
    let sequence = LAST_SEQUENCE.get(tx)?.unwrap_or(0) + 1;
    LAST_SEQUENCE.put(tx, &sequence)?;
    let (actor, event) = (ActorRecord::from(actor), EventRecord::from(event));
    AUDIT.put(tx, &EntryRecord { at_ms: tx.now().as_millis(), sequence, actor, event })
}

/// Adds a row for something that changes nothing in the store.
pub async fn record(store: &Store, actor: Actor, event: AuditEvent) -> Result<(), StoreError> {
    store.write(move |tx| append(tx, actor, &event)).await
}

/// Adds a row for something that changes nothing in the store and that others have to know of all the same.
pub async fn record_and_announce(
    store: &Store,
    actor: Actor,
    event: AuditEvent,
    change: Change,
) -> Result<Revision, StoreError> {
    store
        .write(move |tx| {
            append(tx, actor, &event)?;
            announce(tx, change.clone())?;
            revision(tx)
        })
        .await
}

/// A page of the trail, newest first, each of whose rows can be read.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<Recorded>, StoreError> {
    let take = |row: EntryRecord| Recorded::try_from(row).map(Some);
    store.read(move |tx| AUDIT.newest_first_of(tx, after.as_ref(), limit, take)).await
}

/// A page of the rows that `keep` keeps, newest first. It looks at a bounded number of rows: it may be short, or empty, and
/// still have a next one.
pub async fn list_of(
    store: &Store,
    after: Option<Cursor>,
    limit: usize,
    keep: impl Fn(&Found) -> bool + Send + 'static,
) -> Result<Page<Found>, StoreError> {
    let take = move |(key, row): &Row| {
        let found = found(key, row)?;
        Ok(keep(&found).then_some(found))
    };
    store.read(move |tx| AUDIT.newest_rows_of(tx, after.as_ref(), limit, &take)).await
}

/// A row as it is found, which perhaps cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Recorded(Recorded),
    Unreadable { at: Timestamp, sequence: u64, problem: String },
}

impl Found {
    pub const fn sequence(&self) -> u64 {
        match self {
            Self::Recorded(Recorded { sequence, .. }) | Self::Unreadable { sequence, .. } => *sequence,
        }
    }

    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Recorded(recorded) => recorded.entry.at,
            Self::Unreadable { at, .. } => *at,
        }
    }
}

/// At most `limit` rows after one of this moment and number, oldest first.
pub async fn since(store: &Store, (at, sequence): (Timestamp, u64), limit: usize) -> Result<Vec<Found>, StoreError> {
    store
        .read(move |tx| {
            let after = Bounds::after(row_key(at.as_millis(), sequence));
            let rows = tx.range(Table::Audit, &after, Direction::Forward, limit)?;
            rows.iter().map(|(key, row)| found(key, row)).collect()
        })
        .await
}

/// The rows with the earliest and with the latest time.
pub(super) async fn ends(store: &Store) -> Result<Option<(Found, Found)>, StoreError> {
    store
        .read(|tx| {
            let mut end = |direction| {
                let rows = tx.range(Table::Audit, &Bounds::all(), direction, 1)?;
                rows.first().map(|(key, row)| found(key, row)).transpose()
            };
            Ok::<_, StoreError>(end(Direction::Forward)?.zip(end(Direction::Backward)?))
        })
        .await
}

/// What a row says, or else what its key says. A key that says nothing is a fault.
fn found(key: &[u8], row: &[u8]) -> Result<Found, StoreError> {
    match AUDIT.decode(row).and_then(Recorded::try_from) {
        Ok(recorded) => Ok(Found::Recorded(recorded)),
        Err(error) => {
            let (at_ms, sequence) = read_key(key).ok_or_else(|| none("a key"))?;
            Ok(Found::Unreadable { at: Timestamp::from_millis(at_ms), sequence, problem: error.to_string() })
        }
    }
}

/// The number of the row that was appended last; 0 if there was none.
pub async fn last_sequence(store: &Store) -> Result<u64, StoreError> {
    store.read(|tx| Ok(LAST_SEQUENCE.get(tx)?.unwrap_or(0))).await
}

/// Removes at most `limit` rows that are older than `retention` has it, and tells how many.
pub(super) fn prune_step(tx: &mut WriteTx<'_>, retention: Duration, limit: usize) -> Result<usize, StoreError> {
    let too_old = Bounds::before(row_key(tx.now().before(retention).as_millis(), 0));
    let rows = tx.range(Table::Audit, &too_old, Direction::Forward, limit)?;
    rows.iter().try_for_each(|(key, _)| tx.remove(Table::Audit, key))?;
    Ok(rows.len())
}

/// Makes the row with this number one that nobody can read.
#[cfg(test)]
pub(crate) async fn spoil(store: &Store, sequence: u64) {
    let spoil = move |tx: &mut WriteTx<'_>| {
        let rows = tx.range(Table::Audit, &Bounds::all(), Direction::Forward, super::engine::MAX_RANGE)?;
        let is_it = |key: &[u8]| read_key(key).is_some_and(|(_, number)| number == sequence);
        rows.iter().filter(|(key, _)| is_it(key)).try_for_each(|(key, _)| tx.put(Table::Audit, key, b"\x63{}"))
    };
    store.write(spoil).await.unwrap();
}

fn row_key(at_ms: u64, sequence: u64) -> [u8; 16] {
    ((u128::from(at_ms) << 64) | u128::from(sequence)).to_be_bytes()
}

/// Time and number that a key is made of.
fn read_key(key: &[u8]) -> Option<(u64, u64)> {
    let (at_ms, sequence) = key.split_first_chunk()?;
    Some((u64::from_be_bytes(*at_ms), u64::from_be_bytes(sequence.try_into().ok()?)))
}

/// A row as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryRecord {
    at_ms: u64,
    sequence: u64,
    actor: ActorRecord,
    event: EventRecord,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActorRecord {
    OperatorSocket,
    OperatorToken,
    OperatorSession(UserTag),
    OperatorApiToken { token: ApiTokenTag, user: UserTag },
    OperatorSetUpLink,
    User(UserTag),
    System,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum EventRecord {
    GatewayStarted {
        version: String,
    },
    GatewayStopped {},
    KeyCreated {
        name: String,
    },
    KeyEnabled {
        name: String,
    },
    KeyDisabled {
        name: String,
    },
    KeyDeleted {
        name: String,
    },
    KeyChanged {
        name: String,
        field: String,
        from: Option<String>,
        to: Option<String>,
    },
    KeyRotated {
        name: String,
        earlier_until_ms: Option<u64>,
        ended_earlier: bool,
    },
    KeyEarlierEnded {
        name: String,
    },
    PoliciesReloaded {
        generation: u64,
    },
    PolicyReloadRefused {
        reason: String,
    },
    PoliciesRolledBack {
        generation: u64,
        to: u64,
    },
    ApprovalGiven(RulingRecord),
    ApprovalRefused(RulingRecord),
    PinsAdopted {
        upstream: String,
        tools: u64,
    },
    PinAccepted {
        upstream: String,
        tool: String,
        digest: String,
    },
    PinsAccepted {
        upstream: String,
        tools: u64,
    },
    RecordingRead {
        decision: String,
    },
    RecordingsRead {
        policy: Option<String>,
        hook: Option<String>,
        questions: u64,
    },
    BackupTaken {},
    BackupRestored {
        taken_ms: u64,
        rows: u64,
        digest: String,
        epoch: u64,
    },
    VaultInitialized {
        deployment: String,
        kek: String,
    },
    VaultKekRotated {
        from: Option<String>,
        to: String,
    },
    VaultRewrapped {
        to: String,
        keys: u64,
    },
    VaultShredded {
        owner: String,
    },
    VaultRecordRefused {
        owner: String,
        table: String,
        key: String,
        field: String,
        reason: String,
    },
    PinsForgotten {
        upstream: String,
        tools: u64,
    },
    PoliciesNotFollowed {
        reason: String,
    },
    UserCreated {
        user: String,
        role: String,
        status: String,
    },
    UserChanged {
        user: String,
        field: String,
        from: Option<String>,
        to: Option<String>,
    },
    UserDeleted {
        user: String,
        name: String,
    },
    IdentityLinked {
        user: String,
        issuer: String,
        subject: String,
    },
    IdentityUnlinked {
        user: String,
        issuer: String,
        subject: String,
    },
    SignedIn {
        user: String,
        session: String,
        method: String,
    },
    SessionRenewed {
        user: String,
        session: String,
    },
    SignedOut {
        user: String,
        sessions: u64,
    },
    EverybodySignedOut {},
    ApiTokenCreated {
        token: String,
        user: String,
        name: String,
        role: String,
    },
    ApiTokenRevoked {
        token: String,
        user: String,
    },
    SetUpLinkMade {},
    ConnectionStored {
        holder: String,
        upstream: String,
        kind: String,
    },
    ConnectionFailed {
        holder: String,
        upstream: String,
        reason: String,
    },
    ConnectionOrphaned {
        holder: String,
        upstream: String,
    },
    ConnectionReactivated {
        holder: String,
        upstream: String,
    },
    ConnectionEnded {
        holder: String,
        upstream: String,
        why: String,
    },
    TokensRevoked {
        holder: String,
        upstream: String,
    },
    TokensNotRevoked {
        holder: String,
        upstream: String,
        attempts: u64,
    },
    FlowRefused {
        holder: String,
        upstream: String,
        check: String,
    },
    UpstreamDeclared {
        upstream: String,
        revision: u64,
        #[serde(default)]
        unchecked: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    UpstreamChanged {
        upstream: String,
        revision: u64,
        enabled: bool,
        #[serde(default)]
        unchecked: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    UpstreamWithdrawn {
        upstream: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<ChangeRecord>,
    },
    PolicyModuleUploaded {
        digest: String,
        name: String,
        version: String,
        bytes: u64,
    },
    PolicyModuleSigned {
        digest: String,
    },
    PolicyModuleRemoved {
        digest: String,
        name: String,
        version: String,
    },
    PolicyBound {
        binding: String,
        revision: u64,
        definition: String,
    },
    PolicyBindingChanged {
        binding: String,
        revision: u64,
        before: String,
        after: String,
    },
    PolicyUnbound {
        binding: String,
        before: String,
    },
    ClientRegistered {
        client: String,
        by: String,
        evicted: u64,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        redirect_uris: Vec<String>,
        #[serde(default)]
        grant_types: Vec<String>,
    },
    ClientUpdated {
        client: String,
        #[serde(default)]
        changes: Vec<ChangeRecord>,
    },
    ClientDeleted {
        client: String,
    },
    ConsentGiven(PartyRecord),
    ConsentRefused {
        client: String,
    },
    ConsentForgotten(PartyRecord),
    CodeBurned(PartyRecord),
    GrantIssued {
        grant: String,
        party: PartyRecord,
    },
    GrantRevoked {
        grant: String,
        party: PartyRecord,
        reason: String,
    },
    GrantsRevoked {
        of: String,
        reason: String,
    },
    TokenRevoked {
        grant: String,
    },
    RefreshReplayed {
        grant: String,
    },
    RefreshReuseRefused {
        grant: String,
    },
    SigningKeyChanged {
        key: String,
        algorithm: String,
        state: String,
    },
}

/// What rows of codec version 1 have only since changes are told: those before have none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRecord {
    field: String,
    from: Option<String>,
    to: Option<String>,
}

impl From<&FieldChange> for ChangeRecord {
    fn from(change: &FieldChange) -> Self {
        let side = |side: &String| abridge(side, MAX_TEXT_BYTES);
        let FieldChange { field, from, to } = change;
        Self { field: shorten(field, MAX_TEXT_BYTES), from: from.as_ref().map(side), to: to.as_ref().map(side) }
    }
}

impl From<ChangeRecord> for FieldChange {
    fn from(record: ChangeRecord) -> Self {
        let ChangeRecord { field, from, to } = record;
        Self { field, from, to }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartyRecord {
    principal: String,
    client: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulingRecord {
    approval: String,
    principal: String,
    upstream: String,
    item: String,
    policy: String,
    code: String,
    note: Option<String>,
}

impl From<Actor> for ActorRecord {
    fn from(actor: Actor) -> Self {
        match actor {
            Actor::Operator(OperatorProof::Socket) => Self::OperatorSocket,
            Actor::Operator(OperatorProof::Token) => Self::OperatorToken,
            Actor::Operator(OperatorProof::Session(user)) => Self::OperatorSession(user),
            Actor::Operator(OperatorProof::ApiToken { token, user }) => Self::OperatorApiToken { token, user },
            Actor::Operator(OperatorProof::SetUpLink) => Self::OperatorSetUpLink,
            Actor::User(user) => Self::User(user),
            Actor::System => Self::System,
        }
    }
}

impl From<ActorRecord> for Actor {
    fn from(record: ActorRecord) -> Self {
        match record {
            ActorRecord::OperatorSocket => Self::Operator(OperatorProof::Socket),
            ActorRecord::OperatorToken => Self::Operator(OperatorProof::Token),
            ActorRecord::OperatorSession(user) => Self::Operator(OperatorProof::Session(user)),
            ActorRecord::OperatorApiToken { token, user } => Self::Operator(OperatorProof::ApiToken { token, user }),
            ActorRecord::OperatorSetUpLink => Self::Operator(OperatorProof::SetUpLink),
            ActorRecord::User(user) => Self::User(user),
            ActorRecord::System => Self::System,
        }
    }
}

impl From<&AuditEvent> for EventRecord {
    fn from(event: &AuditEvent) -> Self {
        let text = |text: &str| shorten(text, MAX_TEXT_BYTES);
        let name = |name: &KeyName| name.as_str().to_owned();
        match event {
            AuditEvent::GatewayStarted { version } => Self::GatewayStarted { version: text(version) },
            AuditEvent::GatewayStopped => Self::GatewayStopped {},
            AuditEvent::KeyCreated { name: key } => Self::KeyCreated { name: name(key) },
            AuditEvent::KeyEnabled { name: key } => Self::KeyEnabled { name: name(key) },
            AuditEvent::KeyDisabled { name: key } => Self::KeyDisabled { name: name(key) },
            AuditEvent::KeyDeleted { name: key } => Self::KeyDeleted { name: name(key) },
            AuditEvent::KeyChanged { name: key, change } => {
                let ChangeRecord { field, from, to } = change.into();
                Self::KeyChanged { name: name(key), field, from, to }
            }
            AuditEvent::KeyRotated { name: key, earlier_until, ended_earlier } => Self::KeyRotated {
                name: name(key),
                earlier_until_ms: earlier_until.map(Timestamp::as_millis),
                ended_earlier: *ended_earlier,
            },
            AuditEvent::KeyEarlierEnded { name: key } => Self::KeyEarlierEnded { name: name(key) },
            AuditEvent::PoliciesReloaded { generation } => Self::PoliciesReloaded { generation: *generation },
            AuditEvent::PolicyReloadRefused { reason } => Self::PolicyReloadRefused { reason: text(reason) },
            AuditEvent::PoliciesRolledBack { generation, to } => {
                Self::PoliciesRolledBack { generation: *generation, to: *to }
            }
            AuditEvent::ApprovalGiven(ruling) => Self::ApprovalGiven(RulingRecord::from(&**ruling)),
            AuditEvent::ApprovalRefused(ruling) => Self::ApprovalRefused(RulingRecord::from(&**ruling)),
            AuditEvent::PinsAdopted { upstream, tools } => {
                Self::PinsAdopted { upstream: upstream.as_str().to_owned(), tools: *tools }
            }
            AuditEvent::PinAccepted { upstream, tool, digest } => {
                Self::PinAccepted { upstream: upstream.as_str().to_owned(), tool: text(tool), digest: text(digest) }
            }
            AuditEvent::PinsAccepted { upstream, tools } => {
                Self::PinsAccepted { upstream: upstream.as_str().to_owned(), tools: *tools }
            }
            AuditEvent::RecordingRead { decision } => Self::RecordingRead { decision: text(decision) },
            AuditEvent::RecordingsRead { policy, hook, questions } => Self::RecordingsRead {
                policy: policy.as_deref().map(text),
                hook: hook.as_deref().map(text),
                questions: *questions,
            },
            AuditEvent::PinsForgotten { upstream, tools } => {
                Self::PinsForgotten { upstream: upstream.as_str().to_owned(), tools: *tools }
            }
            AuditEvent::PoliciesNotFollowed { reason } => Self::PoliciesNotFollowed { reason: text(reason) },
            AuditEvent::ClientRegistered { client, by, evicted, as_what } => {
                let Registered { name, redirect_uris, grant_types } = as_what;
                Self::ClientRegistered {
                    client: client.to_string(),
                    by: by.to_string(),
                    evicted: *evicted,
                    name: name.as_deref().map(text),
                    redirect_uris: redirect_uris.iter().map(|uri| text(uri)).collect(),
                    grant_types: grant_types.clone(),
                }
            }
            AuditEvent::ClientUpdated { client, changes } => {
                Self::ClientUpdated { client: client.to_string(), changes: records(changes) }
            }
            AuditEvent::ClientDeleted { client } => Self::ClientDeleted { client: client.to_string() },
            AuditEvent::ConsentGiven(party) => Self::ConsentGiven(party.into()),
            AuditEvent::ConsentRefused { client } => Self::ConsentRefused { client: client.to_string() },
            AuditEvent::ConsentForgotten(party) => Self::ConsentForgotten(party.into()),
            AuditEvent::CodeBurned(party) => Self::CodeBurned(party.into()),
            AuditEvent::GrantIssued { grant, party } => {
                Self::GrantIssued { grant: grant.to_string(), party: party.into() }
            }
            AuditEvent::GrantRevoked { grant, party, reason } => {
                Self::GrantRevoked { grant: grant.to_string(), party: party.into(), reason: reason.to_string() }
            }
            AuditEvent::GrantsRevoked { of, reason } => {
                Self::GrantsRevoked { of: text(of), reason: reason.to_string() }
            }
            AuditEvent::TokenRevoked { grant } => Self::TokenRevoked { grant: grant.to_string() },
            AuditEvent::RefreshReplayed { grant } => Self::RefreshReplayed { grant: grant.to_string() },
            AuditEvent::RefreshReuseRefused { grant } => Self::RefreshReuseRefused { grant: grant.to_string() },
            AuditEvent::SigningKeyChanged { key, algorithm, state } => {
                Self::SigningKeyChanged { key: text(key), algorithm: text(algorithm), state: state.to_string() }
            }
            AuditEvent::UserCreated { user, role, status } => {
                Self::UserCreated { user: user.to_string(), role: text(role), status: text(status) }
            }
            AuditEvent::UserChanged { user, change } => {
                let ChangeRecord { field, from, to } = change.into();
                Self::UserChanged { user: user.to_string(), field, from, to }
            }
            AuditEvent::UserDeleted { user, name } => Self::UserDeleted { user: user.to_string(), name: text(name) },
            AuditEvent::IdentityLinked { user, issuer, subject } => {
                Self::IdentityLinked { user: user.to_string(), issuer: text(issuer), subject: text(subject) }
            }
            AuditEvent::IdentityUnlinked { user, issuer, subject } => {
                Self::IdentityUnlinked { user: user.to_string(), issuer: text(issuer), subject: text(subject) }
            }
            AuditEvent::SignedIn { user, session, method } => {
                Self::SignedIn { user: user.to_string(), session: session.to_string(), method: text(method) }
            }
            AuditEvent::SessionRenewed { user, session } => {
                Self::SessionRenewed { user: user.to_string(), session: session.to_string() }
            }
            AuditEvent::SignedOut { user, sessions } => Self::SignedOut { user: user.to_string(), sessions: *sessions },
            AuditEvent::EverybodySignedOut => Self::EverybodySignedOut {},
            AuditEvent::SetUpLinkMade => Self::SetUpLinkMade {},
            AuditEvent::ApiTokenCreated { token, user, name, role } => Self::ApiTokenCreated {
                token: token.to_string(),
                user: user.to_string(),
                name: text(name),
                role: text(role),
            },
            AuditEvent::ApiTokenRevoked { token, user } => {
                Self::ApiTokenRevoked { token: token.to_string(), user: user.to_string() }
            }
            AuditEvent::ConnectionStored { holder, upstream, kind } => {
                Self::ConnectionStored { holder: text(holder), upstream: upstream.to_string(), kind: text(kind) }
            }
            AuditEvent::ConnectionFailed { holder, upstream, reason } => {
                Self::ConnectionFailed { holder: text(holder), upstream: upstream.to_string(), reason: text(reason) }
            }
            AuditEvent::ConnectionOrphaned { holder, upstream } => {
                Self::ConnectionOrphaned { holder: text(holder), upstream: upstream.to_string() }
            }
            AuditEvent::ConnectionReactivated { holder, upstream } => {
                Self::ConnectionReactivated { holder: text(holder), upstream: upstream.to_string() }
            }
            AuditEvent::ConnectionEnded { holder, upstream, why } => {
                Self::ConnectionEnded { holder: text(holder), upstream: upstream.to_string(), why: text(why) }
            }
            AuditEvent::TokensRevoked { holder, upstream } => {
                Self::TokensRevoked { holder: text(holder), upstream: upstream.to_string() }
            }
            AuditEvent::TokensNotRevoked { holder, upstream, attempts } => {
                Self::TokensNotRevoked { holder: text(holder), upstream: upstream.to_string(), attempts: *attempts }
            }
            AuditEvent::FlowRefused { holder, upstream, check } => {
                Self::FlowRefused { holder: text(holder), upstream: upstream.to_string(), check: text(check) }
            }
            AuditEvent::UpstreamDeclared { upstream, revision, unchecked, changes } => {
                let (upstream, changes) = (upstream.to_string(), records(changes));
                Self::UpstreamDeclared { upstream, revision: *revision, unchecked: *unchecked, changes }
            }
            AuditEvent::UpstreamChanged { upstream, revision, enabled, unchecked, changes } => {
                let (revision, enabled, unchecked) = (*revision, *enabled, *unchecked);
                let (upstream, changes) = (upstream.to_string(), records(changes));
                Self::UpstreamChanged { upstream, revision, enabled, unchecked, changes }
            }
            AuditEvent::UpstreamWithdrawn { upstream, changes } => {
                Self::UpstreamWithdrawn { upstream: upstream.to_string(), changes: records(changes) }
            }
            AuditEvent::PolicyModuleUploaded { digest, name, version, bytes } => Self::PolicyModuleUploaded {
                digest: digest.clone(),
                name: name.clone(),
                version: version.clone(),
                bytes: *bytes,
            },
            AuditEvent::PolicyModuleSigned { digest } => Self::PolicyModuleSigned { digest: digest.clone() },
            AuditEvent::PolicyModuleRemoved { digest, name, version } => {
                Self::PolicyModuleRemoved { digest: digest.clone(), name: name.clone(), version: version.clone() }
            }
            AuditEvent::PolicyBound { binding, revision, definition } => Self::PolicyBound {
                binding: binding.to_string(),
                revision: *revision,
                definition: abridge(definition, MAX_DEFINITION_BYTES),
            },
            AuditEvent::PolicyBindingChanged { binding, revision, before, after } => Self::PolicyBindingChanged {
                binding: binding.to_string(),
                revision: *revision,
                before: abridge(before, MAX_DEFINITION_BYTES),
                after: abridge(after, MAX_DEFINITION_BYTES),
            },
            AuditEvent::PolicyUnbound { binding, before } => {
                Self::PolicyUnbound { binding: binding.to_string(), before: abridge(before, MAX_DEFINITION_BYTES) }
            }
            AuditEvent::VaultInitialized { deployment, kek } => {
                Self::VaultInitialized { deployment: deployment.to_string(), kek: kek.to_string() }
            }
            AuditEvent::VaultKekRotated { from, to } => {
                Self::VaultKekRotated { from: from.as_ref().map(ToString::to_string), to: to.to_string() }
            }
            AuditEvent::VaultRewrapped { to, keys } => Self::VaultRewrapped { to: to.to_string(), keys: *keys },
            AuditEvent::VaultShredded { owner } => Self::VaultShredded { owner: owner.to_string() },
            AuditEvent::VaultRecordRefused { owner, table, key, field, reason } => Self::VaultRecordRefused {
                owner: owner.to_string(),
                table: text(table),
                key: text(key),
                field: text(field),
                reason: text(reason),
            },
            AuditEvent::BackupTaken => Self::BackupTaken {},
            AuditEvent::BackupRestored { taken, rows, digest, epoch } => {
                Self::BackupRestored { taken_ms: taken.as_millis(), rows: *rows, digest: text(digest), epoch: *epoch }
            }
        }
    }
}

fn records(changes: &[FieldChange]) -> Vec<ChangeRecord> {
    changes.iter().map(ChangeRecord::from).collect()
}

fn told(records: Vec<ChangeRecord>) -> Vec<FieldChange> {
    records.into_iter().map(FieldChange::from).collect()
}

impl From<&Party> for PartyRecord {
    fn from(party: &Party) -> Self {
        let Party { principal, client } = party;
        Self { principal: principal.to_string(), client: client.to_string() }
    }
}

impl TryFrom<PartyRecord> for Party {
    type Error = StoreError;

    fn try_from(record: PartyRecord) -> Result<Self, StoreError> {
        let PartyRecord { principal, client: of } = record;
        let principal = Principal::parse(&principal).ok_or_else(|| none("a principal"))?;
        Ok(Self { principal, client: client(&of)? })
    }
}

fn none(what: &str) -> StoreError {
    unreadable(Table::Audit, format_args!("{what} is none"))
}

fn client(id: &str) -> Result<ClientId, StoreError> {
    ClientId::parse(id).ok_or_else(|| none("a client's id"))
}

fn grant(id: &str) -> Result<GrantId, StoreError> {
    GrantId::parse(id).ok_or_else(|| none("a grant's id"))
}

fn reason(word: &str) -> Result<RevocationReason, StoreError> {
    RevocationReason::parse(word).ok_or_else(|| none("a reason"))
}

impl TryFrom<EventRecord> for AuditEvent {
    type Error = StoreError;

    fn try_from(record: EventRecord) -> Result<Self, StoreError> {
        let name = |name: &str| KeyName::parse(name).map_err(|error| unreadable(Table::Audit, error));
        Ok(match record {
            EventRecord::GatewayStarted { version } => Self::GatewayStarted { version },
            EventRecord::GatewayStopped {} => Self::GatewayStopped,
            EventRecord::KeyCreated { name: key } => Self::KeyCreated { name: name(&key)? },
            EventRecord::KeyEnabled { name: key } => Self::KeyEnabled { name: name(&key)? },
            EventRecord::KeyDisabled { name: key } => Self::KeyDisabled { name: name(&key)? },
            EventRecord::KeyDeleted { name: key } => Self::KeyDeleted { name: name(&key)? },
            EventRecord::KeyChanged { name: key, field, from, to } => {
                Self::KeyChanged { name: name(&key)?, change: FieldChange { field, from, to } }
            }
            EventRecord::KeyRotated { name: key, earlier_until_ms, ended_earlier } => Self::KeyRotated {
                name: name(&key)?,
                earlier_until: earlier_until_ms.map(Timestamp::from_millis),
                ended_earlier,
            },
            EventRecord::KeyEarlierEnded { name: key } => Self::KeyEarlierEnded { name: name(&key)? },
            EventRecord::PoliciesReloaded { generation } => Self::PoliciesReloaded { generation },
            EventRecord::PolicyReloadRefused { reason } => Self::PolicyReloadRefused { reason },
            EventRecord::PoliciesRolledBack { generation, to } => Self::PoliciesRolledBack { generation, to },
            EventRecord::ApprovalGiven(ruling) => Self::ApprovalGiven(Box::new(ruling.try_into()?)),
            EventRecord::ApprovalRefused(ruling) => Self::ApprovalRefused(Box::new(ruling.try_into()?)),
            EventRecord::PinsAdopted { upstream: of, tools } => Self::PinsAdopted { upstream: upstream(&of)?, tools },
            EventRecord::PinAccepted { upstream: of, tool, digest } => {
                Self::PinAccepted { upstream: upstream(&of)?, tool, digest }
            }
            EventRecord::PinsAccepted { upstream: of, tools } => Self::PinsAccepted { upstream: upstream(&of)?, tools },
            EventRecord::RecordingRead { decision } => Self::RecordingRead { decision },
            EventRecord::RecordingsRead { policy, hook, questions } => Self::RecordingsRead { policy, hook, questions },
            EventRecord::PinsForgotten { upstream: of, tools } => {
                Self::PinsForgotten { upstream: upstream(&of)?, tools }
            }
            EventRecord::PoliciesNotFollowed { reason } => Self::PoliciesNotFollowed { reason },
            EventRecord::ClientRegistered { client: of, by, evicted, name, redirect_uris, grant_types } => {
                Self::ClientRegistered {
                    client: client(&of)?,
                    by: RegisteredBy::parse(&by).ok_or_else(|| none("who registered a client"))?,
                    evicted,
                    as_what: Registered { name, redirect_uris, grant_types },
                }
            }
            EventRecord::ClientUpdated { client: of, changes } => {
                Self::ClientUpdated { client: client(&of)?, changes: told(changes) }
            }
            EventRecord::ClientDeleted { client: of } => Self::ClientDeleted { client: client(&of)? },
            EventRecord::ConsentGiven(party) => Self::ConsentGiven(party.try_into()?),
            EventRecord::ConsentRefused { client: of } => Self::ConsentRefused { client: client(&of)? },
            EventRecord::ConsentForgotten(party) => Self::ConsentForgotten(party.try_into()?),
            EventRecord::CodeBurned(party) => Self::CodeBurned(party.try_into()?),
            EventRecord::GrantIssued { grant: id, party } => {
                Self::GrantIssued { grant: grant(&id)?, party: party.try_into()? }
            }
            EventRecord::GrantRevoked { grant: id, party, reason: why } => {
                Self::GrantRevoked { grant: grant(&id)?, party: party.try_into()?, reason: reason(&why)? }
            }
            EventRecord::GrantsRevoked { of, reason: why } => Self::GrantsRevoked { of, reason: reason(&why)? },
            EventRecord::TokenRevoked { grant: id } => Self::TokenRevoked { grant: grant(&id)? },
            EventRecord::RefreshReplayed { grant: id } => Self::RefreshReplayed { grant: grant(&id)? },
            EventRecord::RefreshReuseRefused { grant: id } => Self::RefreshReuseRefused { grant: grant(&id)? },
            EventRecord::SigningKeyChanged { key, algorithm, state } => Self::SigningKeyChanged {
                key,
                algorithm,
                state: SigningKeyState::parse(&state).ok_or_else(|| none("a state of a signing key"))?,
            },
            EventRecord::UserCreated { user, role, status } => {
                Self::UserCreated { user: id(&user, UserId::parse)?, role, status }
            }
            EventRecord::UserChanged { user, field, from, to } => {
                Self::UserChanged { user: id(&user, UserId::parse)?, change: FieldChange { field, from, to } }
            }
            EventRecord::UserDeleted { user, name } => Self::UserDeleted { user: id(&user, UserId::parse)?, name },
            EventRecord::IdentityLinked { user, issuer, subject } => {
                Self::IdentityLinked { user: id(&user, UserId::parse)?, issuer, subject }
            }
            EventRecord::IdentityUnlinked { user, issuer, subject } => {
                Self::IdentityUnlinked { user: id(&user, UserId::parse)?, issuer, subject }
            }
            EventRecord::SignedIn { user, session, method } => Self::SignedIn {
                user: id(&user, UserId::parse)?,
                session: id(&session, BrowserSessionId::parse)?,
                method,
            },
            EventRecord::SessionRenewed { user, session } => Self::SessionRenewed {
                user: id(&user, UserId::parse)?,
                session: id(&session, BrowserSessionId::parse)?,
            },
            EventRecord::SignedOut { user, sessions } => Self::SignedOut { user: id(&user, UserId::parse)?, sessions },
            EventRecord::EverybodySignedOut {} => Self::EverybodySignedOut,
            EventRecord::SetUpLinkMade {} => Self::SetUpLinkMade,
            EventRecord::ApiTokenCreated { token, user, name, role } => Self::ApiTokenCreated {
                token: id(&token, ApiTokenId::parse)?,
                user: id(&user, UserId::parse)?,
                name,
                role,
            },
            EventRecord::ApiTokenRevoked { token, user } => {
                Self::ApiTokenRevoked { token: id(&token, ApiTokenId::parse)?, user: id(&user, UserId::parse)? }
            }
            EventRecord::ConnectionStored { holder, upstream: of, kind } => {
                Self::ConnectionStored { holder, upstream: upstream(&of)?, kind }
            }
            EventRecord::ConnectionFailed { holder, upstream: of, reason } => {
                Self::ConnectionFailed { holder, upstream: upstream(&of)?, reason }
            }
            EventRecord::ConnectionOrphaned { holder, upstream: of } => {
                Self::ConnectionOrphaned { holder, upstream: upstream(&of)? }
            }
            EventRecord::ConnectionReactivated { holder, upstream: of } => {
                Self::ConnectionReactivated { holder, upstream: upstream(&of)? }
            }
            EventRecord::ConnectionEnded { holder, upstream: of, why } => {
                Self::ConnectionEnded { holder, upstream: upstream(&of)?, why }
            }
            EventRecord::TokensRevoked { holder, upstream: of } => {
                Self::TokensRevoked { holder, upstream: upstream(&of)? }
            }
            EventRecord::TokensNotRevoked { holder, upstream: of, attempts } => {
                Self::TokensNotRevoked { holder, upstream: upstream(&of)?, attempts }
            }
            EventRecord::FlowRefused { holder, upstream: of, check } => {
                Self::FlowRefused { holder, upstream: upstream(&of)?, check }
            }
            EventRecord::UpstreamDeclared { upstream: of, revision, unchecked, changes } => {
                Self::UpstreamDeclared { upstream: upstream(&of)?, revision, unchecked, changes: told(changes) }
            }
            EventRecord::UpstreamChanged { upstream: of, revision, enabled, unchecked, changes } => {
                let changes = told(changes);
                Self::UpstreamChanged { upstream: upstream(&of)?, revision, enabled, unchecked, changes }
            }
            EventRecord::UpstreamWithdrawn { upstream: of, changes } => {
                Self::UpstreamWithdrawn { upstream: upstream(&of)?, changes: told(changes) }
            }
            EventRecord::PolicyModuleUploaded { digest, name, version, bytes } => {
                Self::PolicyModuleUploaded { digest, name, version, bytes }
            }
            EventRecord::PolicyModuleSigned { digest } => Self::PolicyModuleSigned { digest },
            EventRecord::PolicyModuleRemoved { digest, name, version } => {
                Self::PolicyModuleRemoved { digest, name, version }
            }
            EventRecord::PolicyBound { binding: of, revision, definition } => {
                Self::PolicyBound { binding: binding(&of)?, revision, definition }
            }
            EventRecord::PolicyBindingChanged { binding: of, revision, before, after } => {
                Self::PolicyBindingChanged { binding: binding(&of)?, revision, before, after }
            }
            EventRecord::PolicyUnbound { binding: of, before } => {
                Self::PolicyUnbound { binding: binding(&of)?, before }
            }
            EventRecord::VaultInitialized { deployment, kek } => {
                Self::VaultInitialized { deployment: id(&deployment, DeploymentId::parse)?, kek: kek_id(&kek)? }
            }
            EventRecord::VaultKekRotated { from, to } => {
                Self::VaultKekRotated { from: from.as_deref().map(kek_id).transpose()?, to: kek_id(&to)? }
            }
            EventRecord::VaultRewrapped { to, keys } => Self::VaultRewrapped { to: kek_id(&to)?, keys },
            EventRecord::VaultShredded { owner: of } => Self::VaultShredded { owner: owner(&of)? },
            EventRecord::VaultRecordRefused { owner: of, table, key, field, reason } => {
                Self::VaultRecordRefused { owner: owner(&of)?, table, key, field, reason }
            }
            EventRecord::BackupTaken {} => Self::BackupTaken,
            EventRecord::BackupRestored { taken_ms, rows, digest, epoch } => {
                Self::BackupRestored { taken: Timestamp::from_millis(taken_ms), rows, digest, epoch }
            }
        })
    }
}

impl From<&Ruling> for RulingRecord {
    fn from(ruling: &Ruling) -> Self {
        let text = |text: &str| shorten(text, MAX_TEXT_BYTES);
        let Ruling { approval, principal, upstream, item, policy, code, note } = ruling;
        Self {
            approval: approval.as_str().to_owned(),
            principal: principal.to_string(),
            upstream: upstream.as_str().to_owned(),
            item: text(item),
            policy: policy.as_str().to_owned(),
            code: text(code),
            note: note.as_deref().map(text),
        }
    }
}

impl TryFrom<RulingRecord> for Ruling {
    type Error = StoreError;

    fn try_from(record: RulingRecord) -> Result<Self, StoreError> {
        let RulingRecord { approval, principal, upstream: of, item, policy, code, note } = record;
        let bad = |what: &str| unreadable(Table::Audit, format_args!("{what} is none"));
        Ok(Self {
            approval: ApprovalId::parse(&approval).ok_or_else(|| bad("an approval's id"))?,
            principal: Principal::parse(&principal).ok_or_else(|| bad("a principal"))?,
            upstream: upstream(&of)?,
            item,
            policy: BindingName::parse(&policy).map_err(|error| unreadable(Table::Audit, error))?,
            code,
            note,
        })
    }
}

/// The id that a text is of.
fn id<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
    parse(text).ok_or_else(|| unreadable(Table::Audit, "an id is none"))
}

fn kek_id(name: &str) -> Result<KekId, StoreError> {
    KekId::parse(name).map_err(|error| unreadable(Table::Audit, error))
}

fn owner(text: &str) -> Result<Owner, StoreError> {
    Owner::parse(text).ok_or_else(|| unreadable(Table::Audit, "an owner is none"))
}

fn binding(name: &str) -> Result<BindingName, StoreError> {
    BindingName::parse(name).map_err(|error| unreadable(Table::Audit, error))
}

fn upstream(name: &str) -> Result<UpstreamName, StoreError> {
    UpstreamName::parse(name).map_err(|error| unreadable(Table::Audit, error))
}

impl TryFrom<EntryRecord> for Recorded {
    type Error = StoreError;

    fn try_from(record: EntryRecord) -> Result<Self, StoreError> {
        let EntryRecord { at_ms, sequence, actor, event } = record;
        let at = Timestamp::from_millis(at_ms);
        Ok(Self { sequence, entry: AuditEntry { at, actor: actor.into(), event: event.try_into()? } })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::memory;
    use super::*;

    fn every_event() -> Vec<AuditEvent> {
        let name = KeyName::parse("ci").unwrap();
        let upstream = UpstreamName::parse("notes").unwrap();
        let binding = BindingName::parse("confirm").unwrap();
        let (user, session) =
            (UserId::parse(&"0b".repeat(12)).unwrap(), BrowserSessionId::parse(&"0c".repeat(12)).unwrap());
        let token = ApiTokenId::parse(&"0d".repeat(12)).unwrap();
        let ruling = Box::new(Ruling {
            approval: ApprovalId::parse(&"0a".repeat(12)).unwrap(),
            principal: Principal::Key(name.clone()),
            upstream: upstream.clone(),
            item: "delete".to_owned(),
            policy: BindingName::parse("confirm").unwrap(),
            code: "destructive".to_owned(),
            note: Some("fine".to_owned()),
        });
        vec![
            AuditEvent::GatewayStarted { version: "0.1.0".to_owned() },
            AuditEvent::GatewayStopped,
            AuditEvent::KeyCreated { name: name.clone() },
            AuditEvent::KeyEnabled { name: name.clone() },
            AuditEvent::KeyDisabled { name: name.clone() },
            AuditEvent::KeyDeleted { name: name.clone() },
            AuditEvent::KeyChanged { name: name.clone(), change: change("owner", None, Some("ada")) },
            AuditEvent::KeyRotated {
                name: name.clone(),
                earlier_until: Some(Timestamp::from_millis(7)),
                ended_earlier: true,
            },
            AuditEvent::KeyRotated { name: name.clone(), earlier_until: None, ended_earlier: false },
            AuditEvent::KeyEarlierEnded { name: name.clone() },
            AuditEvent::PoliciesReloaded { generation: 7 },
            AuditEvent::PolicyReloadRefused { reason: "it imports wasi".to_owned() },
            AuditEvent::PoliciesRolledBack { generation: 8, to: 6 },
            AuditEvent::ApprovalGiven(ruling.clone()),
            AuditEvent::ApprovalRefused(Box::new(Ruling { note: None, ..*ruling })),
            AuditEvent::PinsAdopted { upstream: upstream.clone(), tools: 3 },
            AuditEvent::PinAccepted { upstream: upstream.clone(), tool: "add".to_owned(), digest: "ab".to_owned() },
            AuditEvent::PinsAccepted { upstream: upstream.clone(), tools: 4 },
            AuditEvent::RecordingRead { decision: "0123".to_owned() },
            AuditEvent::RecordingsRead { policy: Some("confirm".to_owned()), hook: None, questions: 3 },
            AuditEvent::VaultInitialized {
                deployment: DeploymentId::parse(&"0b".repeat(16)).unwrap(),
                kek: KekId::parse("file").unwrap(),
            },
            AuditEvent::VaultKekRotated { from: None, to: KekId::parse("file").unwrap() },
            AuditEvent::VaultRewrapped { to: KekId::parse("file").unwrap(), keys: 7 },
            AuditEvent::VaultShredded { owner: Owner::parse("key:ci").unwrap() },
            AuditEvent::VaultRecordRefused {
                owner: Owner::Deployment,
                table: "vault_secrets".to_owned(),
                key: "deployment-secret".to_owned(),
                field: "value".to_owned(),
                reason: "damaged".to_owned(),
            },
            AuditEvent::PinsForgotten { upstream: upstream.clone(), tools: 5 },
            AuditEvent::PoliciesNotFollowed { reason: "it is not kept".to_owned() },
            AuditEvent::UserCreated { user: user.clone(), role: "role".to_owned(), status: "status".to_owned() },
            AuditEvent::UserChanged { user: user.clone(), change: change("field", None, Some("to")) },
            AuditEvent::UserDeleted { user: user.clone(), name: "name".to_owned() },
            AuditEvent::IdentityLinked {
                user: user.clone(),
                issuer: "issuer".to_owned(),
                subject: "subject".to_owned(),
            },
            AuditEvent::IdentityUnlinked {
                user: user.clone(),
                issuer: "issuer".to_owned(),
                subject: "subject".to_owned(),
            },
            AuditEvent::SignedIn { user: user.clone(), session: session.clone(), method: "method".to_owned() },
            AuditEvent::SessionRenewed { user: user.clone(), session: session.clone() },
            AuditEvent::SignedOut { user: user.clone(), sessions: 7 },
            AuditEvent::EverybodySignedOut,
            AuditEvent::SetUpLinkMade,
            AuditEvent::ApiTokenCreated {
                token: token.clone(),
                user: user.clone(),
                name: "name".to_owned(),
                role: "role".to_owned(),
            },
            AuditEvent::ApiTokenRevoked { token: token.clone(), user: user.clone() },
            AuditEvent::ConnectionStored {
                holder: "holder".to_owned(),
                upstream: upstream.clone(),
                kind: "kind".to_owned(),
            },
            AuditEvent::ConnectionFailed {
                holder: "holder".to_owned(),
                upstream: upstream.clone(),
                reason: "reason".to_owned(),
            },
            AuditEvent::ConnectionOrphaned { holder: "holder".to_owned(), upstream: upstream.clone() },
            AuditEvent::ConnectionReactivated { holder: "holder".to_owned(), upstream: upstream.clone() },
            AuditEvent::ConnectionEnded {
                holder: "holder".to_owned(),
                upstream: upstream.clone(),
                why: "why".to_owned(),
            },
            AuditEvent::TokensRevoked { holder: "holder".to_owned(), upstream: upstream.clone() },
            AuditEvent::TokensNotRevoked { holder: "holder".to_owned(), upstream: upstream.clone(), attempts: 7 },
            AuditEvent::FlowRefused {
                holder: "holder".to_owned(),
                upstream: upstream.clone(),
                check: "check".to_owned(),
            },
            AuditEvent::UpstreamDeclared {
                upstream: upstream.clone(),
                revision: 7,
                unchecked: true,
                changes: vec![change("trust", None, Some("low"))],
            },
            AuditEvent::UpstreamChanged {
                upstream: upstream.clone(),
                revision: 7,
                enabled: true,
                unchecked: false,
                changes: vec![change("trust", Some("low"), Some("high")), change("trust", None, None)],
            },
            AuditEvent::UpstreamWithdrawn { upstream: upstream.clone(), changes: Vec::new() },
            AuditEvent::PolicyModuleUploaded {
                digest: "ab".to_owned(),
                name: "confirm".to_owned(),
                version: "1.0.0".to_owned(),
                bytes: 7,
            },
            AuditEvent::PolicyModuleSigned { digest: "ab".to_owned() },
            AuditEvent::PolicyModuleRemoved {
                digest: "ab".to_owned(),
                name: "confirm".to_owned(),
                version: "1.0.0".to_owned(),
            },
            AuditEvent::PolicyBound { binding: binding.clone(), revision: 1, definition: "{}".to_owned() },
            AuditEvent::PolicyBindingChanged {
                binding: binding.clone(),
                revision: 2,
                before: "{}".to_owned(),
                after: r#"{"mode":"shadow"}"#.to_owned(),
            },
            AuditEvent::PolicyUnbound { binding, before: "{}".to_owned() },
        ]
        .into_iter()
        .chain(oauth_events())
        .collect()
    }

    fn change(field: &str, from: Option<&str>, to: Option<&str>) -> FieldChange {
        FieldChange { field: field.to_owned(), from: from.map(str::to_owned), to: to.map(str::to_owned) }
    }

    #[test]
    fn rows_from_before_settings_were_told_stay_readable() {
        for (text, expected) in [
            (
                r#"{"upstream_declared":{"upstream":"notes","revision":7}}"#,
                r#"{"upstream_declared":{"upstream":"notes","revision":7,"unchecked":false}}"#,
            ),
            (
                r#"{"upstream_changed":{"upstream":"notes","revision":7,"enabled":true,"unchecked":true}}"#,
                r#"{"upstream_changed":{"upstream":"notes","revision":7,"enabled":true,"unchecked":true}}"#,
            ),
            (r#"{"upstream_withdrawn":{"upstream":"notes"}}"#, r#"{"upstream_withdrawn":{"upstream":"notes"}}"#),
        ] {
            let event = AuditEvent::try_from(serde_json::from_str::<EventRecord>(text).unwrap()).unwrap();
            assert_eq!(serde_json::to_string(&EventRecord::from(&event)).unwrap(), expected);
        }
    }

    fn oauth_events() -> Vec<AuditEvent> {
        let client = ClientId::parse("https://app.example/client.json").unwrap();
        let grant = GrantId::parse(&"0b".repeat(12)).unwrap();
        let party = Party { principal: Principal::Key(KeyName::parse("ci").unwrap()), client: client.clone() };
        let reason = RevocationReason::TokenReused;
        vec![
            AuditEvent::ClientRegistered {
                client: client.clone(),
                by: RegisteredBy::Client,
                evicted: 2,
                as_what: Registered {
                    name: Some("An app".to_owned()),
                    redirect_uris: vec!["https://app.example/callback".to_owned()],
                    grant_types: vec!["authorization_code".to_owned()],
                },
            },
            AuditEvent::ClientUpdated {
                client: client.clone(),
                changes: vec![change("client_name", None, Some("An app"))],
            },
            AuditEvent::ClientDeleted { client: client.clone() },
            AuditEvent::ConsentGiven(party.clone()),
            AuditEvent::ConsentRefused { client },
            AuditEvent::ConsentForgotten(party.clone()),
            AuditEvent::CodeBurned(party.clone()),
            AuditEvent::GrantIssued { grant: grant.clone(), party: party.clone() },
            AuditEvent::GrantRevoked { grant: grant.clone(), party, reason },
            AuditEvent::GrantsRevoked { of: "kind:guest".to_owned(), reason },
            AuditEvent::TokenRevoked { grant: grant.clone() },
            AuditEvent::RefreshReplayed { grant: grant.clone() },
            AuditEvent::RefreshReuseRefused { grant },
            AuditEvent::SigningKeyChanged {
                key: "k1".to_owned(),
                algorithm: "RS256".to_owned(),
                state: SigningKeyState::Retired,
            },
            AuditEvent::BackupTaken,
            AuditEvent::BackupRestored { taken: Timestamp::from_millis(7), rows: 3, digest: "ab".to_owned(), epoch: 2 },
        ]
    }

    #[tokio::test]
    async fn events_come_back_newest_first_as_they_were_given() {
        let store = memory().await;
        let user = UserTag::from(&UserId::parse("0123456789abcdef01234567").unwrap());
        let token = ApiTokenTag::from(&ApiTokenId::parse("76543210fedcba9876543210").unwrap());
        let operators = [
            OperatorProof::Socket,
            OperatorProof::Token,
            OperatorProof::Session(user),
            OperatorProof::ApiToken { token, user },
            OperatorProof::SetUpLink,
        ];
        let actors = [Actor::System, Actor::User(user)].into_iter().chain(operators.map(Actor::Operator));
        let actors: Vec<Actor> = actors.collect();
        let mut expected = Vec::new();
        for (event, (actor, sequence)) in every_event().into_iter().zip(actors.into_iter().cycle().zip(1..)) {
            record(&store, actor, event.clone()).await.unwrap();
            let entry = AuditEntry { at: Timestamp::from_millis(1_000), actor, event };
            expected.insert(0, Recorded { sequence, entry });
        }
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let page = list(&store, after, 3).await.unwrap();
            listed.extend(page.items);
            let Some(next) = page.next else { break };
            after = Cursor::from_bytes(next.as_bytes().to_vec());
        }
        assert_eq!(listed, expected);
    }

    #[test]
    fn lines_of_clients_from_before_are_read() {
        let read = |event: &str| {
            let row = format!(r#"{{"at_ms":1,"sequence":1,"actor":"system","event":{event}}}"#);
            let row = [&[AUDIT.version][..], row.as_bytes()].concat();
            Recorded::try_from(AUDIT.decode(&row).unwrap()).unwrap().entry.event
        };
        let client = ClientId::parse("app").unwrap();
        let (by, as_what) = (RegisteredBy::Operator, Registered::default());
        assert_eq!(
            read(r#"{"client_registered":{"client":"app","by":"operator","evicted":0}}"#),
            AuditEvent::ClientRegistered { client: client.clone(), by, evicted: 0, as_what }
        );
        let updated = AuditEvent::ClientUpdated { client, changes: Vec::new() };
        assert_eq!(read(r#"{"client_updated":{"client":"app"}}"#), updated);
    }

    #[tokio::test]
    async fn an_event_leaves_nothing_if_its_change_fails() {
        let store = memory().await;
        let failed = store
            .write(|tx| {
                append(tx, Actor::System, &AuditEvent::GatewayStopped)?;
                Err::<(), _>(StoreError::Busy)
            })
            .await;
        assert!(matches!(failed, Err(StoreError::Busy)));
        record(&store, Actor::System, AuditEvent::GatewayStopped).await.unwrap();
        let page = list(&store, None, 10).await.unwrap();
        assert_eq!(page.items.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1]);
    }

    #[tokio::test]
    async fn a_long_reason_is_shortened() {
        let store = memory().await;
        let reason = "x".repeat(1 << 20);
        record(&store, Actor::System, AuditEvent::PolicyReloadRefused { reason }).await.unwrap();
        let page = list(&store, None, 10).await.unwrap();
        let AuditEvent::PolicyReloadRefused { reason } = &page.items[0].entry.event else { panic!("another event") };
        assert_eq!(reason.len(), MAX_TEXT_BYTES);
    }
}
