//! Trails that are followed while others append to them.

use std::time::Duration;

use super::*;
use crate::audit::{Actor, AuditEvent};
use crate::env::Env;
use crate::store::{Location, audit};

async fn scene() -> (Store, Tasks, Arc<Tails>) {
    let store = Store::open(Location::Memory, Env::system()).await.unwrap();
    let tasks = Tasks::new();
    let tails = Arc::new(Tails::new(&store, &tasks));
    (store, tasks, tails)
}

async fn record(store: &Store, count: usize) {
    for _ in 0..count {
        audit::record(store, Actor::System, AuditEvent::BackupTaken).await.unwrap();
    }
}

/// So many numbers, and how many were missed meanwhile.
async fn heard(tail: &mut Tail<Found>, count: usize) -> (Vec<u64>, u64) {
    let (mut numbers, mut missed) = (Vec::new(), 0);
    while numbers.len() < count {
        let news = tokio::time::timeout(Duration::from_secs(30), tail.next()).await.unwrap().unwrap();
        numbers.extend(news.rows.iter().map(|(number, _)| *number));
        missed += news.missed;
    }
    (numbers, missed)
}

#[tokio::test]
async fn whoever_follows_hears_all_that_is_appended_once_and_in_order() {
    let (store, tasks, tails) = scene().await;
    record(&store, 5).await;
    let last = tails.audit.last().await.unwrap();
    let mut from_now = tails.audit.follow(None).await.unwrap();
    let mut from_before = tails.audit.follow(Some(last - 3)).await.unwrap();
    record(&store, 250).await;
    assert_eq!(heard(&mut from_now, 250).await, ((last + 1..=last + 250).collect(), 0));
    assert_eq!(heard(&mut from_before, 253).await, ((last - 2..=last + 250).collect(), 0));

    // Nobody follows for a while: nothing is read, and whoever comes again goes on where they were.
    let seen = from_now.seen();
    drop((from_now, from_before));
    tokio::time::timeout(Duration::from_secs(30), async {
        while tails.audit.is_read() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    record(&store, 3).await;
    let mut again = tails.audit.follow(Some(seen)).await.unwrap();
    record(&store, 1).await;
    assert_eq!(heard(&mut again, 4).await, ((seen + 1..=seen + 4).collect(), 0));
    assert!(tasks.stop(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_number_of_another_life_of_the_store_means_nothing() {
    let (store, _tasks, tails) = scene().await;
    record(&store, 2).await;
    let mut tail = tails.audit.follow(Some(1_000)).await.unwrap();
    let last = tails.audit.last().await.unwrap();
    record(&store, 1).await;
    assert_eq!(heard(&mut tail, 1).await, (vec![last + 1], 0));
}

#[tokio::test]
async fn whoever_joins_while_others_follow_hears_nothing_twice() {
    let (store, _tasks, tails) = scene().await;
    record(&store, 300).await;
    let last = tails.audit.last().await.unwrap();
    let mut first = tails.audit.follow(None).await.unwrap();
    record(&store, 1).await;
    // Whoever reads for all may not have come so far yet.
    let mut from_now = tails.audit.follow(None).await.unwrap();
    let mut from_before = tails.audit.follow(Some(last - 250)).await.unwrap();
    assert_eq!(heard(&mut first, 1).await, (vec![last + 1], 0));
    record(&store, 2).await;
    assert_eq!(heard(&mut from_before, 253).await, ((last - 249..=last + 3).collect(), 0));
    assert_eq!(heard(&mut from_now, 2).await, (vec![last + 2, last + 3], 0));
    assert_eq!(heard(&mut first, 2).await, (vec![last + 2, last + 3], 0));
}

#[tokio::test]
async fn places_are_bounded_for_each_and_for_all() {
    let (_store, _tasks, tails) = scene().await;
    let mut places: Vec<Place> = Vec::new();
    for whose in 0..MAX_TAILS / MAX_OF_ONE {
        for _ in 0..MAX_OF_ONE {
            places.push(tails.place(whose.to_string()).unwrap());
        }
        assert_eq!(tails.place(whose.to_string()).err(), Some(Full::OfOne));
    }
    assert_eq!(tails.place("another".to_owned()).err(), Some(Full::Here));
    places.remove(0);
    let own = tails.place("another".to_owned()).unwrap();
    assert_eq!(tails.place("another".to_owned()).err(), Some(Full::Here));
    drop((own, places));
    assert!(tails.places.lock().unwrap().is_empty());
}
