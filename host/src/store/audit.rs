//! The audit trail: appended to inside the transaction of the change, read newest first, pruned by age.
//!
//! A row's key is its time and a sequence number, both big-endian, so key order is time order and ties are told
//! apart. What can be in the trail is `crate::audit`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{Bounds, Direction, Table};
use super::table::{Cursor, Page, Single, Typed, shorten, unreadable};
use super::{Store, StoreError, WriteTx};
use crate::audit::{Actor, AuditEntry, AuditEvent, OperatorProof, Ruling};
use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, KeyName, Principal, UpstreamName};

/// How long a row is kept.
pub const RETENTION: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Rows removed in one transaction.
const PRUNE_STEP: usize = 500;
/// Longest free text in an event, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

const AUDIT: Typed<EntryRecord> = Typed {
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

/// A page of the trail, newest first.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<Recorded>, StoreError> {
    store.read(move |tx| AUDIT.newest_first(tx, after.as_ref(), limit, |_| true)?.try_map(Recorded::try_from)).await
}

/// Removes rows older than [`RETENTION`], step by step, and tells how many.
pub async fn prune(store: &Store) -> Result<usize, StoreError> {
    let mut removed = 0;
    loop {
        let step = store.write(prune_step).await?;
        removed += step;
        if step < PRUNE_STEP {
            return Ok(removed);
        }
    }
}

fn prune_step(tx: &mut WriteTx<'_>) -> Result<usize, StoreError> {
    let too_old = Bounds::before(row_key(tx.now().before(RETENTION).as_millis(), 0));
    let rows = tx.range(Table::Audit, &too_old, Direction::Forward, PRUNE_STEP)?;
    rows.iter().try_for_each(|(key, _)| tx.remove(Table::Audit, key))?;
    Ok(rows.len())
}

fn row_key(at_ms: u64, sequence: u64) -> [u8; 16] {
    ((u128::from(at_ms) << 64) | u128::from(sequence)).to_be_bytes()
}

/// A row as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryRecord {
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
    System,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum EventRecord {
    GatewayStarted { version: String },
    GatewayStopped {},
    KeyCreated { name: String },
    KeyEnabled { name: String },
    KeyDisabled { name: String },
    KeyDeleted { name: String },
    PoliciesReloaded { generation: u64 },
    PolicyReloadRefused { reason: String },
    PoliciesRolledBack { generation: u64, to: u64 },
    ApprovalGiven(RulingRecord),
    ApprovalRefused(RulingRecord),
    PinsAdopted { upstream: String, tools: u64 },
    PinAccepted { upstream: String, tool: String, digest: String },
    PinsAccepted { upstream: String, tools: u64 },
    RecordingRead { decision: String },
    RecordingsRead { policy: Option<String>, hook: Option<String>, questions: u64 },
    BackupTaken {},
    BackupRestored { taken_ms: u64, rows: u64, digest: String, epoch: u64 },
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
            Actor::System => Self::System,
        }
    }
}

impl From<ActorRecord> for Actor {
    fn from(record: ActorRecord) -> Self {
        match record {
            ActorRecord::OperatorSocket => Self::Operator(OperatorProof::Socket),
            ActorRecord::OperatorToken => Self::Operator(OperatorProof::Token),
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
            AuditEvent::BackupTaken => Self::BackupTaken {},
            AuditEvent::BackupRestored { taken, rows, digest, epoch } => {
                Self::BackupRestored { taken_ms: taken.as_millis(), rows: *rows, digest: text(digest), epoch: *epoch }
            }
        }
    }
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
    use super::super::Location;
    use super::super::tests::{StandingClock, memory};
    use super::*;

    fn every_event() -> Vec<AuditEvent> {
        let name = KeyName::parse("ci").unwrap();
        let upstream = UpstreamName::parse("notes").unwrap();
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
            AuditEvent::PoliciesReloaded { generation: 7 },
            AuditEvent::PolicyReloadRefused { reason: "it imports wasi".to_owned() },
            AuditEvent::PoliciesRolledBack { generation: 8, to: 6 },
            AuditEvent::ApprovalGiven(ruling.clone()),
            AuditEvent::ApprovalRefused(Box::new(Ruling { note: None, ..*ruling })),
            AuditEvent::PinsAdopted { upstream: upstream.clone(), tools: 3 },
            AuditEvent::PinAccepted { upstream: upstream.clone(), tool: "add".to_owned(), digest: "ab".to_owned() },
            AuditEvent::PinsAccepted { upstream, tools: 4 },
            AuditEvent::RecordingRead { decision: "0123".to_owned() },
            AuditEvent::RecordingsRead { policy: Some("confirm".to_owned()), hook: None, questions: 3 },
            AuditEvent::BackupTaken,
            AuditEvent::BackupRestored { taken: Timestamp::from_millis(7), rows: 3, digest: "ab".to_owned(), epoch: 2 },
        ]
    }

    #[tokio::test]
    async fn events_come_back_newest_first_as_they_were_given() {
        let store = memory().await;
        let actors = [Actor::System, Actor::Operator(OperatorProof::Socket), Actor::Operator(OperatorProof::Token)];
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

    #[tokio::test]
    async fn what_is_too_old_is_pruned_in_steps() {
        let clock = StandingClock::at(1_000);
        let store = super::super::Store::open(Location::Memory, clock.env()).await.unwrap();
        let fill =
            |tx: &mut WriteTx<'_>| (0..400).try_for_each(|_| append(tx, Actor::System, &AuditEvent::GatewayStopped));
        for _ in 0..3 {
            store.write(fill).await.unwrap();
        }
        clock.advance(RETENTION);
        record(&store, Actor::System, AuditEvent::GatewayStopped).await.unwrap();
        assert_eq!(prune(&store).await.unwrap(), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(prune(&store).await.unwrap(), 1_200);
        let left = list(&store, None, 10).await.unwrap();
        assert_eq!(left.items.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1_201]);
    }
}
