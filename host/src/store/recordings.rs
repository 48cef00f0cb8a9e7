//! Recordings: what policies were asked, word for word, and what they answered, so that a decision can be explained and
//! made again. Only kept where the operator wants it (`policy.record`).
//!
//! What is recorded holds arguments and results, so that it is sealed with the deployment secret; beside it stands in
//! the clear what the decision trail has anyway. No request waits for it ([`super::trail`]), and it is kept as long as
//! decisions are. A question is one row, under its decision's id and its number; a long one is in pieces of its own,
//! which are written with the row. Of what one decision has too much of, digests are kept.

use std::ops::Bound;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::{Bounds, Direction, MAX_KEY_BYTES, Row, Table};
use super::kept::readable;
use super::table::{Cursor, Index, Page, Single, Typed, unreadable};
use super::trail::{self, Trail};
use super::verify::Found;
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::env::Timestamp;
use crate::ids::BindingName;
use crate::secret::{DeploymentSecret, Digest};

pub use super::trail::{Retention, Taken, Totals};

/// Most that is kept of one decision, in bytes.
pub const MAX_DECISION_BYTES: usize = 1 << 20;
/// Most questions of one decision that are kept at once.
pub const MAX_QUESTIONS: usize = 64;
/// Decisions that may wait to be written.
const QUEUE: usize = 1024;
/// Bytes that may wait to be written.
const QUEUE_BYTES: usize = 32 << 20;
/// Decisions in one transaction.
const BATCH: usize = 8;
/// Rows removed in one transaction.
const PRUNE_STEP: usize = 100;
/// Questions that one look for the latest ones looks at.
const MAX_SCAN: usize = 10_000;
/// Longest sealed text that stands in its row; a longer one is cut into pieces of this size.
const PIECE_BYTES: usize = 192 * 1024;
/// What a row costs besides its text, roughly.
const ROW_OVERHEAD_BYTES: u64 = 512;
/// What recordings are sealed for.
const PURPOSE: &str = "recording";

pub(super) const RECORDINGS: Typed<Record> = Typed {
    table: Table::Recordings,
    version: 1,
    older: &[],
    key: |record| key(&record.decision, record.number),
    indexes: &[Index { table: Table::RecordingsByPolicy, key: Record::by_policy }],
    expires: None,
};

const TOTALS: Single<Totals> = Single::new("recording_totals");

/// What one decision's policies were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The text of a [`crate::ids::DecisionId`].
    pub decision: String,
    pub at: Timestamp,
    /// The policy set that was asked.
    pub generation: u64,
    /// In the order in which they were asked.
    pub questions: Vec<Question>,
}

/// One question to one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub binding: BindingName,
    pub module_name: String,
    pub module_version: String,
    /// Lower-case hex SHA-256.
    pub module_digest: String,
    /// Such as `tool-call`.
    pub hook: String,
    /// The word of the decision trail.
    pub verdict: String,
    pub micros: u64,
    pub words: Words,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    Whole(Transcript),
    /// There was too much of it.
    Digests {
        input: String,
        answer: Option<String>,
    },
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// JSON: the hook's parameters.
    pub input: String,
    /// JSON: the policy's answer; `None` where it did not come to one.
    pub answer: Option<String>,
    /// What the policy asked the host meanwhile, in order.
    pub imports: Vec<Import>,
}

/// One call of a host interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Such as `counters.take`.
    pub import: String,
    pub asked: Value,
    pub answer: Value,
}

impl Transcript {
    fn bytes(&self) -> usize {
        let import =
            |import: &Import| import.import.len() + import.asked.to_string().len() + import.answer.to_string().len();
        self.input.len() + self.answer.as_ref().map_or(0, String::len) + self.imports.iter().map(import).sum::<usize>()
    }

    fn digests(&self) -> Words {
        let digest = |text: &str| Digest::of(text.as_bytes()).to_hex();
        Words::Digests { input: digest(&self.input), answer: self.answer.as_deref().map(digest) }
    }
}

impl Words {
    fn bytes(&self) -> usize {
        match self {
            Self::Whole(transcript) => transcript.bytes(),
            Self::Digests { .. } => 0,
        }
    }
}

impl Recording {
    /// The same as far as it may be kept.
    fn bounded(mut self) -> Self {
        self.questions.truncate(MAX_QUESTIONS);
        if self.bytes() > MAX_DECISION_BYTES {
            for question in &mut self.questions {
                if let Words::Whole(transcript) = &question.words {
                    question.words = transcript.digests();
                }
            }
        }
        self
    }

    fn bytes(&self) -> usize {
        self.questions.iter().map(|question| question.words.bytes()).sum()
    }
}

/// Seals and unseals recordings; the trail's keeper has one.
#[derive(Debug)]
pub struct Sealed(DeploymentSecret);

/// The keeper of the recordings, which somebody has to run.
pub type Keeper = trail::Keeper<Sealed>;

/// The way into the recordings. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder(trail::Queue<Recording>);

impl Recorder {
    /// Queues a recording if there is room. Never waits.
    pub fn try_record(&self, recording: Recording) -> Taken {
        let recording = recording.bounded();
        let bytes = recording.bytes();
        self.0.try_put(recording, bytes)
    }

    /// Recordings that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

/// A recorder, and the keeper that somebody has to run.
pub fn recorder(store: Store, retention: Retention, secret: DeploymentSecret) -> (Recorder, Keeper) {
    let (queue, keeper) = trail::begin(Sealed(secret), store, retention);
    (Recorder(queue), keeper)
}

/// A recording, ready to be written.
#[derive(Debug)]
pub struct Ready(Vec<(Record, Vec<String>)>);

impl Trail for Sealed {
    type Entry = Recording;
    type Ready = Ready;
    const NAME: &'static str = "recordings";
    const QUEUE: usize = QUEUE;
    const QUEUE_BYTES: usize = QUEUE_BYTES;
    const BATCH: usize = BATCH;
    const PRUNE_STEP: usize = PRUNE_STEP;

    fn ready(&self, recording: Recording) -> Ready {
        let Recording { decision, at, generation, questions } = recording;
        let numbered = (0..).zip(questions);
        Ready(numbered.map(|(number, question)| seal(&self.0, &decision, at, generation, number, question)).collect())
    }

    fn append(tx: &mut WriteTx<'_>, recordings: &[Ready]) -> Result<Totals, StoreError> {
        let mut totals = TOTALS.get(tx)?.unwrap_or_default();
        for (record, pieces) in recordings.iter().flat_map(|Ready(rows)| rows) {
            RECORDINGS.put(tx, record)?;
            for (at, piece) in (0..).zip(pieces) {
                tx.put(Table::RecordingPieces, &piece_key(&record.decision, record.number, at), piece.as_bytes())?;
            }
            totals.rows += 1;
            totals.bytes += record.bytes;
        }
        TOTALS.put(tx, &totals)?;
        Ok(totals)
    }

    fn prune_step(tx: &mut WriteTx<'_>, retention: Retention) -> Result<usize, StoreError> {
        // The form of `DecisionId`: 48 bits of milliseconds in hex.
        let too_old = format!("{:012x}", tx.now().before(retention.age).as_millis());
        let oldest = tx.range(Table::Recordings, &Bounds::all(), Direction::Forward, PRUNE_STEP)?;
        let mut totals = TOTALS.get(tx)?.unwrap_or_default();
        let mut removed = 0;
        for (key, _) in &oldest {
            if key.as_slice() >= too_old.as_bytes() && totals.bytes <= retention.bytes {
                break;
            }
            let Some(record) = RECORDINGS.remove(tx, key)? else { continue };
            for at in 0..record.pieces {
                tx.remove(Table::RecordingPieces, &piece_key(&record.decision, record.number, at))?;
            }
            removed += 1;
            totals.rows = totals.rows.saturating_sub(1);
            totals.bytes = totals.bytes.saturating_sub(record.bytes);
        }
        if removed == oldest.len() && oldest.len() < PRUNE_STEP {
            totals = Totals::default();
        }
        if removed > 0 {
            TOTALS.put(tx, &totals)?;
        }
        Ok(removed)
    }
}

/// The table for what is done to all alike: some records have pieces elsewhere.
pub(super) struct Kept;

impl super::kept::Kept for Kept {
    fn table(&self) -> Table {
        RECORDINGS.table()
    }

    fn indexes(&self) -> Vec<Table> {
        [RECORDINGS.indexes(), vec![Table::RecordingPieces]].concat()
    }

    fn forget(&self, tx: &mut WriteTx<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
        RECORDINGS.forget(tx, key, now)
    }

    fn check(&self, tx: &mut ReadTx<'_>, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        RECORDINGS.check(tx, row, found)?;
        let Some(record) = readable(RECORDINGS.decode(&row.1))? else { return Ok(()) };
        for at in 0..record.pieces {
            let key = piece_key(&record.decision, record.number, at);
            if tx.get(Table::RecordingPieces, &key)?.is_none() {
                found.missing(Table::RecordingPieces, &key);
            }
        }
        Ok(())
    }

    fn check_index(&self, tx: &mut ReadTx<'_>, index: Table, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        if index != Table::RecordingPieces {
            return RECORDINGS.check_index(tx, index, row, found);
        }
        let (key, _) = row;
        let owner = match key.split_last_chunk() {
            Some((owner, piece)) => tx.get(Table::Recordings, owner)?.map(|owner| (owner, u16::from_be_bytes(*piece))),
            None => None,
        };
        let has_it = match owner {
            Some((owner, piece)) => readable(RECORDINGS.decode(&owner))?.is_none_or(|owner| piece < owner.pieces),
            None => false,
        };
        if !has_it {
            found.stray(index, key);
        }
        Ok(())
    }

    fn expires_at(&self, tx: &mut ReadTx<'_>, key: &[u8], at: Timestamp) -> Result<bool, StoreError> {
        RECORDINGS.expires_at(tx, key, at)
    }
}

/// What one decision's policies were asked, or `None` if nothing of it is kept.
pub async fn get(store: &Store, secret: &DeploymentSecret, decision: &str) -> Result<Option<Recording>, StoreError> {
    if decision.len() > MAX_KEY_BYTES / 2 {
        return Ok(None);
    }
    let within = Bounds::within(&prefix(decision));
    let rows = store.read(move |tx| {
        let rows = tx.range(Table::Recordings, &within, Direction::Forward, MAX_QUESTIONS)?;
        let read = rows.iter().map(|(_, value)| {
            let record = RECORDINGS.decode(value)?;
            let text = text_of(tx, &record)?;
            Ok((record, text))
        });
        read.collect::<Result<Vec<_>, StoreError>>()
    });
    let rows = rows.await?;
    let Some((first, _)) = rows.first() else { return Ok(None) };
    let (at, generation) = (Timestamp::from_millis(first.at_ms), first.generation);
    let unsealed = rows.into_iter().map(|(record, text)| unseal(secret, record, &text));
    let questions = unsealed.collect::<Result<_, _>>()?;
    Ok(Some(Recording { decision: decision.to_owned(), at, generation, questions }))
}

/// Whether something of this decision is kept.
pub async fn is_there(store: &Store, decision: &str) -> Result<bool, StoreError> {
    if decision.len() > MAX_KEY_BYTES / 2 {
        return Ok(false);
    }
    let within = Bounds::within(&prefix(decision));
    store.read(move |tx| Ok(!tx.range(Table::Recordings, &within, Direction::Forward, 1)?.is_empty())).await
}

/// Which recorded questions are wanted; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub binding: Option<BindingName>,
    pub hook: Option<String>,
}

/// A page of the questions that are kept whole, newest first, each with the id of its decision. What was sealed with
/// another secret is left out. It looks at a bounded number of questions: it may be short, or empty, and still have a
/// next one. The pages of a binding and those of all are two lists.
pub async fn list(
    store: &Store,
    secret: &DeploymentSecret,
    filter: &Filter,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Page<(String, Question)>, StoreError> {
    let limit = limit.max(1);
    let (table, mut bounds) = match &filter.binding {
        Some(binding) => (Table::RecordingsByPolicy, Bounds::within(&of_policy(binding.as_str()))),
        None => (Table::Recordings, Bounds::all()),
    };
    if let Some(after) = after {
        bounds = bounds.before_too(after.as_bytes());
    }
    let mut items = Vec::new();
    let mut seen = 0;
    loop {
        let step = bounds.clone();
        let rows = store.read(move |tx| step_back(tx, table, &step)).await?;
        let is_last = rows.len() < STEP_BACK;
        for (key, record, text) in rows {
            if items.len() == limit || seen == MAX_SCAN {
                return Ok(Page { items, next: last_key(&bounds) });
            }
            seen += 1;
            bounds = bounds.before_too(&key);
            if filter.hook.as_ref().is_some_and(|hook| *hook != record.hook) {
                continue;
            }
            let decision = record.decision.clone();
            let question = unseal(secret, record, &text).ok();
            let whole = question.filter(|question| matches!(question.words, Words::Whole(_)));
            items.extend(whole.map(|question| (decision, question)));
        }
        if is_last {
            return Ok(Page { items, next: None });
        }
    }
}

/// Where a list goes on of which everything from here on was seen.
fn last_key(bounds: &Bounds) -> Option<Cursor> {
    match &bounds.upper {
        Bound::Excluded(key) => Cursor::from_bytes(key.clone()),
        Bound::Included(_) | Bound::Unbounded => None,
    }
}

/// The latest of them, at most so many; it looks at a bounded number of questions.
pub async fn latest(
    store: &Store,
    secret: &DeploymentSecret,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<(String, Question)>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    Ok(list(store, secret, filter, None, limit).await?.items)
}

/// Rows that are read at once for [`list`].
const STEP_BACK: usize = 32;

/// The last rows within `bounds`, from the last on: their keys, and what they lead to.
fn step_back(tx: &mut ReadTx<'_>, table: Table, bounds: &Bounds) -> Result<Vec<(Vec<u8>, Record, String)>, StoreError> {
    let rows = tx.range(table, bounds, Direction::Backward, STEP_BACK)?;
    let read = rows.into_iter().map(|(key, value)| {
        let record = match table {
            Table::Recordings => RECORDINGS.decode(&value)?,
            index => RECORDINGS.get(tx, &value)?.ok_or_else(|| unreadable(index, "it leads to no record"))?,
        };
        let text = text_of(tx, &record)?;
        Ok((key, record, text))
    });
    read.collect()
}

/// How large the trail is.
pub async fn totals(store: &Store) -> Result<Totals, StoreError> {
    store.read(|tx| Ok(TOTALS.get(tx)?.unwrap_or_default())).await
}

/// Removes what is older or more than `retention` has it, step by step, and tells how many rows.
pub async fn prune(store: &Store, retention: Retention) -> Result<usize, StoreError> {
    trail::prune::<Sealed>(store, retention).await
}

/// The sealed text of a row, put together.
fn text_of(tx: &mut ReadTx<'_>, record: &Record) -> Result<String, StoreError> {
    let mut text = record.sealed.clone();
    for at in 0..record.pieces {
        let piece = tx.get(Table::RecordingPieces, &piece_key(&record.decision, record.number, at))?;
        let piece = piece.and_then(|piece| String::from_utf8(piece).ok());
        text.push_str(&piece.ok_or_else(|| unreadable(Table::RecordingPieces, "a piece is missing"))?);
    }
    Ok(text)
}

fn prefix(decision: &str) -> Vec<u8> {
    [decision.as_bytes(), b"/"].concat()
}

fn key(decision: &str, number: u16) -> Vec<u8> {
    [prefix(decision).as_slice(), &number.to_be_bytes()].concat()
}

fn piece_key(decision: &str, number: u16, piece: u16) -> Vec<u8> {
    [key(decision, number).as_slice(), &piece.to_be_bytes()].concat()
}

/// What the keys of a binding's questions begin with. No name of a binding has the byte 0 in it.
fn of_policy(binding: &str) -> Vec<u8> {
    [binding.as_bytes(), &[0]].concat()
}

/// What a text is sealed to: it is no other question's.
fn bound_to(decision: &str, number: u16) -> Vec<u8> {
    key(decision, number)
}

fn seal(
    secret: &DeploymentSecret,
    decision: &str,
    at: Timestamp,
    generation: u64,
    number: u16,
    question: Question,
) -> (Record, Vec<String>) {
    let Question { binding, module_name, module_version, module_digest, hook, verdict, micros, words } = question;
    let (text, digests) = match words {
        Words::Whole(transcript) => {
            let payload = serde_json::to_vec(&transcript).expect("our own types serialise");
            (secret.seal(PURPOSE, &bound_to(decision, number), &payload), None)
        }
        Words::Digests { input, answer } => (String::new(), Some((input, answer))),
    };
    let bytes = text.len() as u64 + ROW_OVERHEAD_BYTES;
    let pieces: Vec<String> = if text.len() <= PIECE_BYTES {
        Vec::new()
    } else {
        // Sealed texts are base64, so that every place is one between characters.
        (0..text.len()).step_by(PIECE_BYTES).map(|at| text[at..text.len().min(at + PIECE_BYTES)].to_owned()).collect()
    };
    let record = Record {
        decision: decision.to_owned(),
        number,
        at_ms: at.as_millis(),
        generation,
        binding: String::from(binding),
        module_name,
        module_version,
        module_digest,
        hook,
        verdict,
        micros,
        sealed: if pieces.is_empty() { text } else { String::new() },
        pieces: u16::try_from(pieces.len()).expect("a decision has few pieces"),
        digests,
        bytes,
    };
    (record, pieces)
}

fn unseal(secret: &DeploymentSecret, record: Record, text: &str) -> Result<Question, StoreError> {
    let binding = bound_to(&record.decision, record.number);
    let words = match record.digests {
        Some((input, answer)) => Words::Digests { input, answer },
        None => {
            let payload = secret.unseal(PURPOSE, &binding, text);
            let payload =
                payload.ok_or_else(|| unreadable(Table::Recordings, "it was sealed with another deployment secret"))?;
            let transcript = serde_json::from_slice(&payload);
            Words::Whole(transcript.map_err(|error| unreadable(Table::Recordings, error))?)
        }
    };
    Ok(Question {
        binding: BindingName::parse(&record.binding).map_err(|error| unreadable(Table::Recordings, error))?,
        module_name: record.module_name,
        module_version: record.module_version,
        module_digest: record.module_digest,
        hook: record.hook,
        verdict: record.verdict,
        micros: record.micros,
        words,
    })
}

/// A question as it is stored, codec version 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    decision: String,
    number: u16,
    at_ms: u64,
    generation: u64,
    binding: String,
    module_name: String,
    module_version: String,
    module_digest: String,
    hook: String,
    verdict: String,
    micros: u64,
    /// The whole text, unless it is in pieces.
    sealed: String,
    pieces: u16,
    /// Of the question and of the answer, where they are all that is kept.
    digests: Option<(String, Option<String>)>,
    /// What it takes, roughly.
    bytes: u64,
}

impl Record {
    fn by_policy(&self) -> Vec<u8> {
        [of_policy(&self.binding).as_slice(), &key(&self.decision, self.number)].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::super::Location;
    use super::super::tests::{StandingClock, memory};
    use super::*;

    fn secret() -> DeploymentSecret {
        DeploymentSecret::new(&[7; 32])
    }

    fn question(binding: &str, input: &str) -> Question {
        let take = Import { import: "counters.take".to_owned(), asked: json!([1]), answer: json!({}) };
        Question {
            binding: BindingName::parse(binding).unwrap(),
            module_name: "m".to_owned(),
            module_version: "0.1.0".to_owned(),
            module_digest: "ab".repeat(32),
            hook: "tool-call".to_owned(),
            verdict: "deny".to_owned(),
            micros: 12,
            words: Words::Whole(Transcript {
                input: input.to_owned(),
                answer: Some("\"abstain\"".to_owned()),
                imports: vec![take],
            }),
        }
    }

    fn recording(number: u64, at_ms: u64, questions: Vec<Question>) -> Recording {
        let decision = format!("{at_ms:012x}{number:020x}");
        Recording { decision, at: Timestamp::from_millis(at_ms), generation: 3, questions }
    }

    async fn keep(store: &Store, retention: Retention, recordings: impl IntoIterator<Item = Recording>) {
        let (recorder, keeper) = recorder(store.clone(), retention, secret());
        for recording in recordings {
            assert_eq!(recorder.try_record(recording), Taken::Queued);
        }
        drop(recorder);
        keeper.run(CancellationToken::new()).await;
    }

    fn of(binding: &str) -> Filter {
        Filter { binding: Some(BindingName::parse(binding).unwrap()), hook: None }
    }

    fn input(question: &Question) -> &str {
        match &question.words {
            Words::Whole(transcript) => &transcript.input,
            Words::Digests { .. } => "digests",
        }
    }

    #[tokio::test]
    async fn a_recording_comes_back_whole_and_is_nobody_elses_to_read() {
        let store = memory().await;
        let long = "x".repeat(700_000);
        let one = recording(1, 1_000, vec![question("a", "{\"password\":\"hunter2\"}"), question("b", &long)]);
        keep(&store, Retention::default(), [one.clone(), recording(2, 1_000, vec![question("a", "2")])]).await;
        assert_eq!(get(&store, &secret(), &one.decision).await.unwrap().as_ref(), Some(&one));
        assert_eq!(get(&store, &secret(), "unknown").await.unwrap(), None);
        assert_eq!(get(&store, &secret(), &one.decision[..31]).await.unwrap(), None);

        for table in [Table::Recordings, Table::RecordingPieces, Table::RecordingsByPolicy] {
            let rows = store.read(move |tx| tx.range(table, &Bounds::all(), Direction::Forward, 100)).await.unwrap();
            assert!(!rows.is_empty());
            assert!(rows.iter().all(|(_, value)| memchr::memmem::find(value, b"hunter2").is_none()));
        }
        let other = DeploymentSecret::new(&[8; 32]);
        assert!(matches!(get(&store, &other, &one.decision).await, Err(StoreError::Unreadable { .. })));
        assert_eq!(latest(&store, &other, &of("a"), 9).await.unwrap(), []);
    }

    #[tokio::test]
    async fn of_too_much_digests_are_kept() {
        let store = memory().await;
        let large = "x".repeat(MAX_DECISION_BYTES / 2);
        let one = recording(1, 1_000, vec![question("a", &large), question("a", &large)]);
        let many = recording(2, 1_000, vec![question("a", "1"); 2 * MAX_QUESTIONS]);
        keep(&store, Retention::default(), [one.clone(), many.clone()]).await;
        let read = get(&store, &secret(), &one.decision).await.unwrap().unwrap();
        let digest = Digest::of(large.as_bytes()).to_hex();
        let answer = Some(Digest::of(b"\"abstain\"").to_hex());
        assert_eq!(read.questions[0].words, Words::Digests { input: digest, answer });
        assert_eq!(get(&store, &secret(), &many.decision).await.unwrap().unwrap().questions.len(), MAX_QUESTIONS);
        let latest = latest(&store, &secret(), &of("a"), 1_000).await.unwrap();
        assert_eq!(latest.len(), MAX_QUESTIONS, "what is not whole cannot be asked again");
    }

    #[tokio::test]
    async fn the_latest_questions_of_a_binding_are_found() {
        let store = memory().await;
        let recordings = (0..100).map(|at| {
            let result = Question { hook: "tool-result".to_owned(), ..question("a", "result") };
            recording(0, 1_000 + at, vec![question("a", &at.to_string()), question("ab", "other"), result])
        });
        keep(&store, Retention::default(), recordings).await;
        let calls = Filter { hook: Some("tool-call".to_owned()), ..of("a") };
        let read = latest(&store, &secret(), &calls, 70).await.unwrap();
        let expected: Vec<String> = (30..100).rev().map(|at: u64| at.to_string()).collect();
        assert_eq!(read.iter().map(|(_, question)| input(question)).collect::<Vec<_>>(), expected);
        assert_eq!(read[0].0, recording(0, 1_099, vec![]).decision);
        assert_eq!(latest(&store, &secret(), &of("b"), 70).await.unwrap(), []);
        assert_eq!(latest(&store, &secret(), &of("a"), 500).await.unwrap().len(), 200);
        let all = latest(&store, &secret(), &Filter::default(), 500).await.unwrap();
        assert_eq!(all.len(), 300);
        assert!(all.is_sorted_by(|(one, _), (other, _)| one >= other));
    }

    #[tokio::test]
    async fn pages_follow_each_other_without_gaps() {
        let store = memory().await;
        let recordings = (0..100).map(|at| recording(0, 1_000 + at, vec![question("a", &at.to_string())]));
        keep(&store, Retention::default(), recordings).await;
        for filter in [Filter::default(), of("a")] {
            let whole = latest(&store, &secret(), &filter, 500).await.unwrap();
            let mut after: Option<Cursor> = None;
            let mut paged = Vec::new();
            loop {
                let page = list(&store, &secret(), &filter, after.as_ref(), 7).await.unwrap();
                assert!(page.items.len() <= 7);
                paged.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!((paged.len(), paged), (100, whole));
        }
        assert_eq!(latest(&store, &secret(), &of("a"), 0).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_queue_holds_a_bounded_number_of_bytes() {
        let store = memory().await;
        let (recorder, _keeper) = recorder(store, Retention::default(), secret());
        let large = || recording(1, 1_000, vec![question("a", &"x".repeat(MAX_DECISION_BYTES - 100))]);
        let taken: Vec<Taken> = (0..40).map(|_| recorder.try_record(large())).collect();
        let queued = taken.iter().filter(|taken| **taken == Taken::Queued).count();
        assert_eq!((queued, recorder.dropped()), (32, 8));
        assert_eq!(recorder.try_record(recording(2, 1_000, vec![])), Taken::Queued);
    }

    #[tokio::test]
    async fn what_is_too_old_or_too_much_goes_with_all_its_pieces() {
        let clock = StandingClock::at(1_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        let retention = Retention::default();
        let long = "x".repeat(300_000);
        let recordings = |at_ms| (0..150).map(move |number| recording(number, at_ms, vec![question("a", "1")]));
        keep(&store, retention, recordings(1_000)).await;
        keep(&store, retention, [recording(200, 1_000, vec![question("a", &long)])]).await;
        clock.advance(retention.age + Duration::from_millis(1));
        keep(&store, retention, [recording(1, 1_001, vec![question("a", "new")])]).await;
        prune(&store, retention).await.unwrap();
        assert_eq!(totals(&store).await.unwrap().rows, 1);
        assert_eq!(latest(&store, &secret(), &of("a"), 500).await.unwrap().len(), 1);
        let pieces = |tx: &mut ReadTx<'_>| tx.range(Table::RecordingPieces, &Bounds::all(), Direction::Forward, 10);
        assert_eq!(store.read(pieces).await.unwrap(), []);

        let little = Retention { bytes: 20_000, ..retention };
        keep(&store, little, recordings(1_001)).await;
        let totals = totals(&store).await.unwrap();
        assert!(totals.bytes <= little.bytes && totals.rows > 5, "{totals:?}");
    }
}
