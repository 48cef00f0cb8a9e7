//! Stores of every schema, row by row: what `tests/fixtures/store` holds, and how it is made and read.
//!
//! A fixture has one row a line: the table, the key and the value, with tabs between them and every byte that is not
//! plain text escaped as in a byte string of Rust. They are written once and never changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::approvals::{self, Approver, Memory, Subject, Use, Verdict, Wish};
use super::engine::{Bounds, Direction, MAX_RANGE, Row, Table};
use super::tests::StandingClock;
use super::{Location, Store, WriteTx, audit, decisions, keys, pins, recordings};
use crate::audit::{
    Actor, AuditEvent, DecisionRecord, DecisionStep, OperatorProof, RecordedMode, RecordedOutcome, RecordedVerdict,
};
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, ManagedBy, Standing, VirtualKey};
use crate::ids::{ApprovalId, BindingName, KeyName, Principal, UpstreamName};
use crate::secret::{DeploymentSecret, Digest};

/// When everything in a fixture happened.
pub(super) const AT_MS: u64 = 1_700_000_000_000;

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);

/// Every row of a store, as a fixture has it.
pub(super) async fn dump(store: &Store) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        for (key, value) in rows(store, *table).await {
            writeln!(text, "{}\t{}\t{}", table.name(), key.escape_ascii(), value.escape_ascii()).unwrap();
        }
    }
    text
}

/// Every row of a table.
pub(super) async fn rows(store: &Store, table: Table) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    loop {
        let bounds = all.last().map_or_else(Bounds::all, |(key, _)| Bounds::after(key.clone()));
        let some = store.read(move |tx| tx.range(table, &bounds, Direction::Forward, MAX_RANGE)).await.unwrap();
        let is_last = some.len() < MAX_RANGE;
        all.extend(some);
        if is_last {
            return all;
        }
    }
}

/// The rows of a fixture, table by table.
pub(super) fn parse(text: &str) -> BTreeMap<Table, Vec<Row>> {
    let mut tables: BTreeMap<Table, Vec<Row>> = BTreeMap::new();
    for line in text.lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        let [name, key, value] = parts[..] else { panic!("a line has three parts: {line}") };
        let table = Table::ALL.iter().find(|table| table.name() == name).unwrap_or_else(|| panic!("{name}"));
        tables.entry(*table).or_default().push((unescape(key), unescape(value)));
    }
    tables
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().unwrap() {
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            plain => plain,
        });
    }
    bytes
}

#[test]
fn what_is_escaped_is_read_as_it_was() {
    let every: Vec<u8> = (0..=u8::MAX).collect();
    assert_eq!(unescape(&every.escape_ascii().to_string()), every);
}

/// A store in memory with something of everything that the verbs of this version write.
pub(super) async fn filled() -> Store {
    let clock = StandingClock::at(AT_MS);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    fill_keys(&store).await;
    fill_approvals(&store).await;
    fill_trails(&store).await;
    let upstream = UpstreamName::parse("notes").unwrap();
    let definition = |tool: &str| {
        let text = format!(r#"{{"name":"{tool}"}}"#);
        pins::Definition { tool: tool.to_owned(), digest: Digest::of(text.as_bytes()).to_hex(), text }
    };
    pins::adopt(&store, &upstream, vec![definition("add"), definition("delete")]).await.unwrap();
    pins::accept(&store, &upstream, definition("read"), OPERATOR).await.unwrap();
    store
}

async fn fill_keys(store: &Store) {
    let glob = |pattern| Glob::parse(pattern).unwrap();
    for (name, expires) in [("ci", None), ("laptop", Some(AT_MS + 1_000_000)), ("old", None)] {
        let key = VirtualKey {
            name: KeyName::parse(name).unwrap(),
            digest: Digest::of(name.as_bytes()),
            earlier: None,
            allow: AllowList(vec![AllowEntry { upstream: glob("notes"), tools: vec![glob("read_*"), glob("add")] }]),
            scopes: TokenList::parse(vec!["read".to_owned()]).unwrap(),
            groups: TokenList::parse(vec!["ops".to_owned()]).unwrap(),
            owner: None,
            created: Timestamp::from_millis(AT_MS),
            expires: expires.map(Timestamp::from_millis),
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
            revision: 1,
        };
        keys::create(store, key, OPERATOR).await.unwrap();
    }
    keys::set_standing(store, &KeyName::parse("laptop").unwrap(), Standing::Disabled, OPERATOR).await.unwrap();
    keys::delete(store, &KeyName::parse("old").unwrap(), None, OPERATOR).await.unwrap();
}

async fn fill_approvals(store: &Store) {
    for (number, verdict) in (1..).zip([None, Some(Verdict::Approve), Some(Verdict::Deny), Some(Verdict::Approve)]) {
        let id = ApprovalId::parse(&format!("{AT_MS:012x}{number:012x}")).unwrap();
        let subject = Subject {
            principal: Principal::Key(KeyName::parse("ci").unwrap()),
            client: String::new(),
            operation: "tools/call".to_owned(),
            upstream: UpstreamName::parse("notes").unwrap(),
            item: "delete".to_owned(),
            definition: "ab".repeat(32),
            arguments: Digest::of(&[number]),
            policy: BindingName::parse("confirm").unwrap(),
            code: "destructive".to_owned(),
        };
        let bound_to = subject.digest();
        let wish = Wish {
            title: "Delete a note".to_owned(),
            summary: "Note 7 would be gone.".to_owned(),
            by: Approver::Operator,
            ttl: Duration::from_secs(3_600),
            memory: if number == 2 { Memory::For(Duration::from_secs(60)) } else { Memory::Once },
        };
        approvals::request(store, id.clone(), subject, wish, Some("sealed".to_owned())).await.unwrap();
        if let Some(verdict) = verdict {
            approvals::decide(store, &id, verdict, Some("seen".to_owned()), OPERATOR).await.unwrap();
        }
        if number == 4 {
            let one = Use { id, bound_to, round: 0 };
            assert_eq!(approvals::consume(store, vec![one]).await.unwrap(), approvals::Consumption::Consumed);
        }
    }
}

async fn fill_trails(store: &Store) {
    let version = "0.1.0".to_owned();
    audit::record(store, Actor::System, AuditEvent::GatewayStarted { version }).await.unwrap();
    audit::record(store, OPERATOR, AuditEvent::PoliciesReloaded { generation: 2 }).await.unwrap();
    audit::record(store, OPERATOR, AuditEvent::PoliciesRolledBack { generation: 3, to: 1 }).await.unwrap();
    let decision = |number: u8| format!("{AT_MS:012x}{number:020x}");
    let (recorder, keeper) = decisions::recorder(store.clone(), decisions::Retention::default());
    for number in 1..4 {
        let step = DecisionStep {
            binding: BindingName::parse("confirm").unwrap(),
            module_name: "confirm".to_owned(),
            module_version: "0.1.0".to_owned(),
            module_digest: "ab".repeat(32),
            mode: RecordedMode::Enforce,
            hook: "tool-call".to_owned(),
            verdict: RecordedVerdict::Deny,
            reason_code: Some("destructive".to_owned()),
            rule: Some("2".to_owned()),
            micros: 12,
            notes: vec![("why".to_owned(), "it deletes".to_owned())],
        };
        let record = DecisionRecord {
            id: decision(number),
            at: Timestamp::from_millis(AT_MS),
            principal: Principal::Key(KeyName::parse("ci").unwrap()),
            operation: "tools/call".to_owned(),
            upstream: Some(UpstreamName::parse("notes").unwrap()),
            tool: Some("delete".to_owned()),
            revision: "2026-07-28".to_owned(),
            verdict: RecordedVerdict::Deny,
            reason_code: Some("destructive".to_owned()),
            generation: 3,
            steps: vec![step],
            approvals: vec![ApprovalId::parse(&format!("{AT_MS:012x}{number:012x}")).unwrap()],
            outcome: RecordedOutcome::Refused,
            elapsed_ms: 4,
        };
        assert_eq!(recorder.try_record(record), decisions::Taken::Queued);
    }
    drop(recorder);
    keeper.run(CancellationToken::new()).await;

    let secret = DeploymentSecret::new(&[7; 32]);
    let (recorder, keeper) = recordings::recorder(store.clone(), recordings::Retention::default(), secret);
    for number in 1..3 {
        let (input, answer) = ("{}".to_owned(), Some("\"abstain\"".to_owned()));
        let words = recordings::Transcript { input, answer, imports: Vec::new() };
        let question = recordings::Question {
            binding: BindingName::parse("confirm").unwrap(),
            module_name: "confirm".to_owned(),
            module_version: "0.1.0".to_owned(),
            module_digest: "ab".repeat(32),
            hook: "tool-call".to_owned(),
            verdict: "deny".to_owned(),
            micros: 12,
            words: recordings::Words::Whole(words),
        };
        let recording = recordings::Recording {
            decision: decision(number),
            at: Timestamp::from_millis(AT_MS),
            generation: 3,
            questions: vec![question],
        };
        assert_eq!(recorder.try_record(recording), recordings::Taken::Queued);
    }
    drop(recorder);
    keeper.run(CancellationToken::new()).await;
    take_apart(store, format!("{}/\0\0", decision(2)).into_bytes()).await;
}

/// Keeps a recording in two pieces, as if it were a long one: fixtures are small.
async fn take_apart(store: &Store, key: Vec<u8>) {
    let take_apart = move |tx: &mut WriteTx<'_>| {
        let row = tx.get(Table::Recordings, &key)?.unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&row[1..]).unwrap();
        let sealed = record["sealed"].take();
        let (head, tail) = sealed.as_str().unwrap().split_at(40);
        for (at, piece) in [head, tail].into_iter().enumerate() {
            tx.put(Table::RecordingPieces, &[&key[..], &[0, u8::try_from(at).unwrap()]].concat(), piece.as_bytes())?;
        }
        (record["sealed"], record["pieces"]) = ("".into(), 2.into());
        let record = [&row[..1], &serde_json::to_vec(&record).unwrap()].concat();
        tx.put(Table::Recordings, &key, &record)
    };
    store.write(take_apart).await.unwrap();
}
