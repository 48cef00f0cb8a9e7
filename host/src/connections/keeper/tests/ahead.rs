//! Renewing ahead of time.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

async fn look(scene: &Scene) -> usize {
    scene.keeper.look_ahead(&mut None).await.unwrap()
}

#[tokio::test]
async fn what_ends_soon_is_renewed_and_nothing_else() {
    let scene = Scene::new().await;
    for (holder, seconds) in [("key:soon", 119), ("key:over", 1), ("key:far", 302), ("key:gone", 60)] {
        scene.connect(&place(holder), "old", Some(holder), Some(seconds * SECOND)).await;
    }
    scene.connect(&place("key:without"), "old", None, Some(60 * SECOND)).await;
    scene.connect(&place("key:endless"), "old", Some("endless"), None).await;
    scene.set_access(&place("key:gone"), Access::Withdrawn);
    scene.forward(SECOND);
    assert_eq!(look(&scene).await, 2);
    let mut shown = scene.issuer.refreshed.lock().unwrap().clone();
    shown.sort();
    assert_eq!(shown, ["key:over", "key:soon"]);
    assert_eq!(look(&scene).await, 0);
    assert!(scene.lend(&place("key:over")).await.unwrap().starts_with("new-"));
    assert_eq!(scene.issuer.refreshes(), 2, "nobody waits for it any more");
}

#[tokio::test]
async fn what_was_issued_together_is_not_renewed_together() {
    let scene = Scene::new().await;
    for number in 0..120 {
        scene.connect(&place(&format!("key:k{number}")), "old", Some("r"), Some(210 * SECOND)).await;
    }
    let first = look(&scene).await;
    assert!((10..=110).contains(&first), "half of them, more or less: {first}");
    scene.forward(100 * SECOND);
    assert_eq!(look(&scene).await, 120 - first);
}

#[tokio::test]
async fn so_many_at_once_are_renewed_and_no_more() {
    let scene = Scene::new().await;
    for number in 0..50 {
        scene.connect(&place(&format!("key:k{number}")), "old", Some("r"), Some(SECOND)).await;
    }
    let gate = scene.issuer.hold();
    let (count, ()) = tokio::join!(look(&scene), async {
        scene.issuer.was_asked(8).await;
        gate.add_permits(100);
    });
    assert_eq!((count, scene.issuer.refreshes()), (50, 50));
    assert_eq!(scene.issuer.most_at_once.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn one_gateway_renews_ahead_and_another_takes_over() {
    let scene = Scene::new().await;
    let (here, there) = (scene.replica(1), scene.replica(2));
    let (mut lease, mut other) = (None, None);
    here.keeper.look_ahead(&mut lease).await.unwrap();
    scene.connect(&ci(), "old", Some("r"), Some(SECOND)).await;
    assert_eq!(there.keeper.look_ahead(&mut other).await.unwrap(), 0);
    assert!(lease.is_some() && other.is_none());
    here.keeper.give_up(lease).await;
    assert_eq!(there.keeper.look_ahead(&mut other).await.unwrap(), 1);
    assert!(other.is_some());
}

#[tokio::test]
async fn a_keeper_that_was_started_renews_and_revokes_by_itself_and_stops_at_once() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "old", Some("r"), Some(SECOND)).await;
    scene.connect(&user(), "own", Some("u"), None).await;
    scene.keeper.start();
    scene.issuer.was_asked(1).await;
    assert_eq!(scene.issuer.refreshed.lock().unwrap()[..], ["r".to_owned()]);
    scene.keeper.disconnect(&user(), crate::connection::End::Disconnected, Actor::System).await.unwrap();
    scene.issuer.was_asked(2).await;
    assert_eq!(*scene.issuer.revoked.lock().unwrap(), [(Some("u".to_owned()), "own".to_owned())]);
    assert!(scene.tasks.stop(Duration::from_secs(10)).await);
}
