//! Counters of several replicas in a real store.

use super::super::Location;
use super::super::tests::StandingClock;
use super::super::users::tests::on_memory;
use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn counter(key: &str) -> Counter {
    Counter { binding: "limit".to_owned(), shadow: false, key: key.to_owned(), period_ms: 60_000 }
}

fn count(key: &str, taken: &[(u64, u64)]) -> Count {
    Count { counter: counter(key), taken: taken.to_vec() }
}

const ONE: Replica = Replica([1; 8]);
const TWO: Replica = Replica([2; 8]);

async fn each_reads_what_the_others_wrote_last(store: Store) {
    write(&store, ONE, vec![count("a", &[(900, 1)]), count("b", &[(950, 2)])], NOW).await.unwrap();
    let first = read(&store, TWO, Seen::default(), NOW).await.unwrap();
    let mut counts = first.counts.clone();
    counts.sort_by(|left, right| left.1.counter.cmp(&right.1.counter));
    assert_eq!(counts, [(ONE, count("a", &[(900, 1)])), (ONE, count("b", &[(950, 2)]))]);
    assert_eq!(read(&store, ONE, Seen::default(), NOW).await.unwrap().counts, [], "nobody reads their own");

    for _ in 0..2 {
        // As if the answer to the first had been lost.
        write(&store, ONE, vec![count("a", &[(900, 1), (990, 5)])], NOW).await.unwrap();
    }
    let second = read(&store, TWO, first.seen.clone(), NOW).await.unwrap();
    assert_eq!(second.counts, [(ONE, count("a", &[(900, 1), (990, 5)]))]);
    assert_eq!(read(&store, TWO, second.seen, NOW).await.unwrap().counts, []);
    let late = read(&store, Replica([3; 8]), Seen::default(), NOW).await.unwrap();
    assert_eq!(late.counts.len(), 2, "who comes late learns each once");
    assert_eq!(store.verify().await.unwrap(), []);
}

async fn no_two_counters_are_one(store: Store) {
    let all = [
        counter("a"),
        Counter { shadow: true, ..counter("a") },
        Counter { period_ms: 1_000, ..counter("a") },
        Counter { binding: "limita".to_owned(), ..counter("") },
        Counter { binding: "limi".to_owned(), ..counter("ta") },
    ];
    let counts = all.iter().cloned().map(|counter| Count { counter, taken: vec![(900, 1)] }).collect();
    write(&store, ONE, counts, NOW).await.unwrap();
    let news = read(&store, TWO, Seen::default(), NOW).await.unwrap();
    let mut read: Vec<_> = news.counts.into_iter().map(|(_, count)| count.counter).collect();
    read.sort();
    let mut all = all.to_vec();
    all.sort();
    assert_eq!(read, all);
}

async fn many_are_read_in_steps(store: Store) {
    for batch in 0..3_usize {
        let counts = (0..BATCH).map(|number| count(&(batch * BATCH + number).to_string(), &[(900, 1)])).collect();
        write(&store, ONE, counts, NOW).await.unwrap();
    }
    let (mut seen, mut read_so_far) = (Seen::default(), 0);
    loop {
        let news = read(&store, TWO, seen, NOW).await.unwrap();
        read_so_far += news.counts.len();
        seen = news.seen;
        if !news.has_more {
            break;
        }
    }
    assert_eq!(read_so_far, 3 * BATCH);
    assert_eq!(store.verify().await.unwrap(), []);
}

on_memory!(each_reads_what_the_others_wrote_last, no_two_counters_are_one, many_are_read_in_steps);

#[tokio::test]
async fn clocks_that_are_wrong_differ_from_the_stores() {
    let clock = StandingClock::at(1_000_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let (behind, ahead) = (Timestamp::from_millis(700_000), Timestamp::from_millis(1_300_000));
    write(&store, ONE, vec![count("a", &[(699_000, 1), (700_000, 2)])], behind).await.unwrap();
    let news = read(&store, TWO, Seen::default(), ahead).await.unwrap();
    assert_eq!(news.counts, [(ONE, count("a", &[(1_299_000, 1), (1_300_000, 2)]))]);
}

#[tokio::test]
async fn a_row_is_forgotten_when_all_of_it_is_over() {
    use crate::store::table::Kept as _;
    let clock = StandingClock::at(1_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    write(&store, ONE, vec![count("a", &[(900, 1)])], clock.env().now()).await.unwrap();
    let forget = || {
        store.write(|tx| {
            let rows = tx.range(Table::Counters, &Bounds::all(), Direction::Forward, 1)?;
            COUNTERS.forget(tx, &rows[0].0, tx.now())
        })
    };
    clock.advance(std::time::Duration::from_millis(60_000));
    assert!(!forget().await.unwrap());
    clock.advance(std::time::Duration::from_millis(EXPIRY_STEP_MS));
    assert!(forget().await.unwrap());
    assert_eq!(read(&store, TWO, Seen::default(), clock.env().now()).await.unwrap().counts, []);
    assert_eq!(store.verify().await.unwrap(), []);
}
