//! The trail, written by its keeper and read back.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::Location;
use super::super::table::MAX_SCAN;
use super::super::tests::{StandingClock, memory};
use super::super::trail::gather;
use super::record::MAX_TOOL_BYTES;
use super::*;
use crate::audit::{DecisionStep, RecordedMode, RecordedOutcome};
use crate::ids::{ApprovalId, BindingName, KeyName, UpstreamName};

fn step(verdict: RecordedVerdict) -> DecisionStep {
    DecisionStep {
        binding: BindingName::parse("allow-tools").unwrap(),
        module_name: "allow-tools".to_owned(),
        module_version: "0.1.0".to_owned(),
        module_digest: "ab".repeat(32),
        mode: RecordedMode::Enforce,
        hook: "tool-call".to_owned(),
        verdict,
        reason_code: Some("not-listed".to_owned()),
        rule: Some("rules/0".to_owned()),
        micros: 31,
        notes: vec![("checked".to_owned(), "2".to_owned())],
    }
}

/// Decision `number`, made `at_ms`.
fn decision(number: u64, at_ms: u64) -> DecisionRecord {
    let verdict = if number.is_multiple_of(2) { RecordedVerdict::Allow } else { RecordedVerdict::Deny };
    DecisionRecord {
        id: format!("{at_ms:012x}{number:020x}"),
        at: Timestamp::from_millis(at_ms),
        principal: if number.is_multiple_of(3) {
            Principal::Gateway
        } else {
            Principal::Key(KeyName::parse("ci").unwrap())
        },
        operation: "tools/call".to_owned(),
        upstream: Some(UpstreamName::parse("notes").unwrap()),
        tool: Some(format!("tool_{}", number % 5)),
        revision: "2026-07-28".to_owned(),
        verdict,
        reason_code: None,
        generation: 4,
        steps: vec![step(RecordedVerdict::Abstain), step(verdict)],
        approvals: vec![ApprovalId::parse(&"0a".repeat(12)).unwrap()],
        outcome: RecordedOutcome::Result,
        elapsed_ms: 12,
    }
}

/// Writes decisions through a recorder and its keeper.
async fn keep(store: &Store, retention: Retention, decisions: impl IntoIterator<Item = DecisionRecord>) {
    let (recorder, keeper) = recorder(store.clone(), retention);
    for decision in decisions {
        assert_eq!(recorder.try_record(decision), Taken::Queued);
    }
    drop(recorder);
    keeper.run(CancellationToken::new()).await;
}

async fn listed(store: &Store, filter: &Filter, limit: usize) -> Vec<DecisionRecord> {
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let page = list(store, filter.clone(), after, limit).await.unwrap();
        items.extend(page.items);
        let Some(next) = page.next else { return items };
        after = Some(next);
    }
}

#[tokio::test]
async fn decisions_come_back_newest_first_as_they_were_given() {
    let store = memory().await;
    let decisions: Vec<_> = (0..10).map(|number| decision(number, 1_000 + number / 3)).collect();
    keep(&store, Retention::default(), decisions.clone()).await;
    let newest_first: Vec<_> = decisions.iter().rev().cloned().collect();
    assert_eq!(listed(&store, &Filter::default(), 3).await, newest_first);
    assert_eq!(get(&store, &decisions[4].id).await.unwrap().as_ref(), Some(&decisions[4]));
    assert_eq!(get(&store, "unknown").await.unwrap(), None);
    assert_eq!(get(&store, &"x".repeat(100_000)).await.unwrap(), None);
    assert_eq!(totals(&store).await.unwrap().rows, 10);
}

#[tokio::test]
async fn a_filter_shows_what_fits_and_looks_at_a_bounded_number_of_rows() {
    let store = memory().await;
    let count = MAX_SCAN as u64 + 500;
    let rows: Arc<[Row]> = (0..count).map(|n| DECISIONS.row(&Record::from(decision(n, n)))).collect();
    for start in (0..rows.len()).step_by(BATCH) {
        let rows = Arc::clone(&rows);
        store.write(move |tx| append(tx, &rows[start..rows.len().min(start + BATCH)])).await.unwrap();
    }
    let rare = Filter {
        principal: Some(Principal::Gateway),
        tool: Some("tool_0".to_owned()),
        verdict: Some(RecordedVerdict::Deny),
        ..Filter::default()
    };
    let fitting: Vec<_> =
        (0..count).rev().filter(|n| n % 3 == 0 && n % 5 == 0 && n % 2 == 1).map(|n| decision(n, n)).collect();
    assert_eq!(listed(&store, &rare, 200).await, fitting);

    let nobody = Filter { tool: Some("no_such_tool".to_owned()), ..Filter::default() };
    let page = list(&store, nobody.clone(), None, 10).await.unwrap();
    assert_eq!(page.items, []);
    let next = page.next.expect("there are more rows than one page looks at");
    assert_eq!(next.as_bytes(), decision(500, 500).id.as_bytes());
    assert_eq!(list(&store, nobody, Some(next), 10).await.unwrap(), Page { items: vec![], next: None });
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let store = memory().await;
    let (recorder, keeper) = recorder(store.clone(), Retention::default());
    for number in 0..QUEUE as u64 {
        assert_eq!(recorder.try_record(decision(number, 1_000)), Taken::Queued);
    }
    for number in 0..3 {
        assert_eq!(recorder.try_record(decision(number, 2_000)), Taken::Dropped);
    }
    assert_eq!(recorder.dropped(), 3);
    let stopped = CancellationToken::new();
    stopped.cancel();
    keeper.run(stopped).await;
    assert_eq!(totals(&store).await.unwrap().rows, QUEUE as u64);
    assert_eq!(recorder.try_record(decision(0, 3_000)), Taken::Dropped);
}

#[tokio::test]
async fn a_batch_is_full_or_has_waited_long_enough() {
    let (queue, mut waiting) = mpsc::channel(QUEUE);
    for number in 0..=BATCH as u64 {
        queue.try_send(decision(number, 1_000)).unwrap();
    }
    for expected in [BATCH, 1] {
        let mut batch = Vec::new();
        assert!(gather(&mut waiting, &mut batch, BATCH).await);
        assert_eq!(batch.len(), expected);
    }
    queue.try_send(decision(0, 2_000)).unwrap();
    drop(queue);
    let mut batch = Vec::new();
    assert!(!gather(&mut waiting, &mut batch, BATCH).await);
    assert_eq!(batch, [decision(0, 2_000)]);
}

#[tokio::test]
async fn what_is_queued_is_written_without_a_stop() {
    let store = memory().await;
    let (recorder, keeper) = recorder(store.clone(), Retention::default());
    let mut running = pin!(keeper.run(CancellationToken::new()));
    assert!(running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(recorder.try_record(decision(1, 1_000)), Taken::Queued);
    let written = async { while totals(&store).await.unwrap().rows == 0 {} };
    tokio::select! {
        () = running => panic!("nobody stopped it"),
        () = written => {}
    }
}

#[tokio::test]
async fn a_store_that_is_gone_loses_decisions_with_a_count_and_stops_nobody() {
    let store = memory().await;
    store.close().await;
    let (recorder, keeper) = recorder(store, Retention::default());
    assert_eq!(recorder.try_record(decision(1, 1_000)), Taken::Queued);
    let stopped = CancellationToken::new();
    stopped.cancel();
    keeper.run(stopped).await;
    assert_eq!(recorder.dropped(), 1);
}

#[tokio::test]
async fn what_callers_choose_is_shortened() {
    let store = memory().await;
    let long = DecisionRecord { tool: Some("x".repeat(4 << 20)), ..decision(1, 1_000) };
    keep(&store, Retention::default(), [long]).await;
    let kept = get(&store, &decision(1, 1_000).id).await.unwrap().unwrap();
    assert_eq!(kept.tool.unwrap().len(), MAX_TOOL_BYTES);
}

#[tokio::test]
async fn what_is_too_old_is_pruned_in_steps() {
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let retention = Retention::default();
    keep(&store, retention, (0..1_200).map(|number| decision(number, 1_000))).await;
    clock.advance(retention.age);
    keep(&store, retention, [decision(1, 1_001)]).await;
    assert_eq!(totals(&store).await.unwrap().rows, 1_201);
    clock.advance(Duration::from_millis(1));
    assert_eq!(prune(&store, retention).await.unwrap(), 1_200);
    assert_eq!(listed(&store, &Filter::default(), 10).await, [decision(1, 1_001)]);
    assert_eq!(totals(&store).await.unwrap().rows, 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(prune(&store, retention).await.unwrap(), 1);
    assert_eq!(totals(&store).await.unwrap(), Totals::default());
}

#[tokio::test]
async fn what_is_too_much_is_pruned_oldest_first() {
    let store = memory().await;
    let retention = Retention { bytes: 50_000, ..Retention::default() };
    keep(&store, retention, (0..2_000).map(|number| decision(number, 1_000 + number))).await;
    let totals = totals(&store).await.unwrap();
    assert!(totals.bytes <= retention.bytes && totals.rows > 10, "{totals:?}");
    let kept = listed(&store, &Filter::default(), 200).await;
    assert_eq!(kept.len() as u64, totals.rows);
    assert_eq!(kept.first(), Some(&decision(1_999, 2_999)));
}

#[tokio::test]
async fn what_policies_say_at_length_is_shortened() {
    let store = memory().await;
    let long = || "\u{1}".repeat(10_000);
    let notes: Vec<_> = (0..64).map(|_| (long(), long())).collect();
    let chatty = DecisionStep { notes, rule: Some(long()), ..step(RecordedVerdict::Deny) };
    let steps = vec![chatty; 1_000];
    keep(&store, Retention::default(), [DecisionRecord { steps, ..decision(1, 1_000) }, decision(2, 1_000)]).await;
    let kept = get(&store, &decision(1, 1_000).id).await.unwrap().expect("it is no larger than may be");
    assert_eq!(kept.steps.len(), 64);
    assert!(kept.steps[0].notes.len() > 10 && kept.steps[63].notes.is_empty());
    assert!(get(&store, &decision(2, 1_000).id).await.unwrap().is_some(), "and costs no other its place");
}

#[tokio::test]
async fn a_record_of_codec_version_1_is_read() {
    let store = memory().await;
    let body = r#"{"id":"00","at_ms":7,"principal":"key:ci","operation":"tools/call","upstream":"notes","tool":"add",
        "revision":"2026-07-28","verdict":"deny","reason":"no","generation":3,"steps":[{"binding":"p","module":"ab",
        "hook":"tool-call","verdict":"deny","reason":"no","micros":5}],"outcome":"refused","elapsed_ms":1}"#;
    let value = [&[1], body.as_bytes()].concat();
    store.write(move |tx| tx.put(Table::Decisions, b"00", &value)).await.unwrap();
    let read = get(&store, "00").await.unwrap().unwrap();
    assert_eq!((read.verdict, read.approvals.len(), read.steps.len()), (RecordedVerdict::Deny, 0, 1));
    let [step] = read.steps.as_slice() else { panic!("one step") };
    assert_eq!((step.module_name.as_str(), step.module_digest.as_str(), step.mode), ("", "ab", RecordedMode::Enforce));
}

/// Everything that was appended after this number, read in steps of so many.
async fn followed(store: &Store, mut after: u64, limit: usize) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    loop {
        let some = appended(store, after, limit).await.unwrap();
        assert!(some.rows.len() <= limit && some.reached >= after);
        if some.reached == after {
            return all;
        }
        after = some.reached;
        all.extend(some.rows.into_iter().map(|(number, decision)| (number, decision.id)));
    }
}

#[tokio::test]
async fn decisions_are_told_in_the_order_in_which_they_were_appended() {
    let store = memory().await;
    // Requests that took long are appended after those that began later.
    let first: Vec<_> = (0..700).map(|number| decision(number, 9_000 - number)).collect();
    keep(&store, Retention::default(), first.clone()).await;
    keep(&store, Retention::default(), [decision(1, 1)]).await;
    assert_eq!(last_number(&store).await.unwrap(), 701);
    let appended_first = first.iter().map(|decision| decision.id.clone());
    let expected: Vec<(u64, String)> = (1..).zip(appended_first.chain([decision(1, 1).id])).collect();
    for limit in [1, 7, 500] {
        assert_eq!(followed(&store, 0, limit).await, expected, "in steps of {limit}");
    }
    assert_eq!(followed(&store, 650, 10).await, expected[650..]);
    // As after a restored backup.
    assert_eq!(appended(&store, 900, 10).await.unwrap(), super::super::trail::Appended { rows: vec![], reached: 701 });
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_is_passed_over() {
    let store = memory().await;
    for numbers in [0..3, 3..5, 5..6] {
        let rows: Arc<[Row]> = numbers.map(|n| DECISIONS.row(&Record::from(decision(n, n)))).collect();
        store.write(move |tx| append(tx, &rows)).await.unwrap();
    }
    store.write(|tx| tx.put(Table::DecisionBatches, &5_u64.to_be_bytes(), b"\x63{}")).await.unwrap();
    let told = followed(&store, 0, 10).await.into_iter().map(|(number, _)| number);
    assert_eq!(told.collect::<Vec<_>>(), [1, 2, 3, 6]);
}

#[tokio::test]
async fn a_batch_that_is_written_twice_counts_once() {
    let store = memory().await;
    let rows: Arc<[Row]> = (0..3).map(|n| DECISIONS.row(&Record::from(decision(n, n)))).collect();
    for _ in 0..2 {
        let rows = Arc::clone(&rows);
        store.write(move |tx| append(tx, &rows)).await.unwrap();
    }
    assert_eq!((last_number(&store).await.unwrap(), totals(&store).await.unwrap().rows), (3, 3));
    assert_eq!(followed(&store, 0, 10).await.len(), 3);
}

#[tokio::test]
async fn a_filter_by_time_looks_at_no_other_time() {
    let store = memory().await;
    keep(&store, Retention::default(), (0..50).map(|number| decision(number, 1_000 + number))).await;
    let at = |ms| Some(Timestamp::from_millis(ms));
    let within = Filter { since: at(1_010), until: at(1_020), ..Filter::default() };
    let expected: Vec<_> = (10..20).rev().map(|number| decision(number, 1_000 + number)).collect();
    assert_eq!(listed(&store, &within, 3).await, expected);
    assert!((0..50).all(|number| within.takes(&decision(number, 1_000 + number)) == (10..20).contains(&number)));
    let elsewhere = Filter { upstream: Some(UpstreamName::parse("files").unwrap()), ..Filter::default() };
    assert_eq!(listed(&store, &elsewhere, 10).await, []);
}
