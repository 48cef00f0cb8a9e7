//! Lists of people's own, read from an upstream that shows each key other tools.

use super::testing::{Scene, key, mail};
use super::*;
use crate::connection::Reason;

#[tokio::test]
async fn each_sees_what_was_read_with_their_own_connection() {
    let scene = Scene::with(&[("k-ann", &["send", "ann_only"]), ("k-eve", &["send"])]).await;
    let (ann, ben, eve) = (key("ann"), key("ben"), key("eve"));
    scene.purse.put(&ann, 1, "k-ann");
    scene.purse.put(&eve, 1, "k-eve");
    let look = scene.upstream.look(&ann).unwrap();
    assert!(look.is_due && !look.is_settled && matches!(look.shown, Shown::Common), "{look:?}");
    for who in [&ann, &ben, &eve] {
        assert!(scene.read(who).await);
        assert!(!scene.read(who).await, "until the interval is over");
    }
    assert_eq!(scene.sees(&ann), ["send", "ann_only"]);
    assert_eq!((scene.sees(&ben), scene.sees(&eve)), (vec!["common".to_owned()], vec!["send".to_owned()]));
    assert_eq!(scene.upstream.own_lack(&ben), Some(Lack::NotConnected));
    assert_eq!(scene.upstream.own_changed().await, Some(Whose::Of([ann.clone(), ben, eve].into())));
    assert!(scene.upstream.look(&Principal::Anonymous).is_none() && scene.upstream.look(&Principal::Gateway).is_none());
    let mut tools: Vec<String> = scene.upstream.own_tools().iter().map(|tool| tool.name.clone()).collect();
    tools.sort();
    assert_eq!(tools, ["ann_only", "send"]);
}

#[tokio::test]
async fn a_list_follows_its_connection() {
    let scene = Scene::with(&[("k-one", &["one"]), ("k-two", &["two"])]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-one");
    scene.read(&ann).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["one".to_owned()], 1));

    scene.upstream.forget_own_of(&ann);
    assert_eq!(scene.sees(&ann), ["common"], "nobody knows yet whether it is still theirs");
    scene.read(&ann).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["one".to_owned()], 1), "it was only renewed");

    scene.purse.put(&ann, 2, "k-two");
    scene.upstream.forget_own(|who| *who == ann);
    scene.read(&ann).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["two".to_owned()], 2), "it is another account");

    scene.purse.take(&ann);
    scene.upstream.forget_own_of(&ann);
    scene.read(&ann).await;
    assert_eq!(scene.sees(&ann), ["common"]);
}

#[tokio::test]
async fn what_is_read_while_the_connection_changes_is_nobodys() {
    let scene = Scene::with(&[("k-one", &["one"])]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-one");
    let beginning = scene.upstream.begin_own(&ann).unwrap();
    scene.upstream.forget_own_of(&ann);
    beginning.read_now(scene.cleared(&ann)).await;
    assert_eq!(scene.sees(&ann), ["common"]);
    assert!(scene.upstream.look(&ann).unwrap().is_due);

    scene.read(&ann).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["one".to_owned()], 1), "it was only renewed");
}

#[tokio::test]
async fn what_the_policies_deny_is_not_read_and_not_shown() {
    let scene = Scene::with(&[("k-one", &["one"])]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-one");
    scene.read(&ann).await;
    scene.upstream.signals.lists_changed(&ann);
    let beginning = scene.upstream.begin_own(&ann).unwrap();
    beginning.read_now(std::future::ready(Clearance::Denied)).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["unread".to_owned()], 1));
    let look = scene.upstream.look(&ann).unwrap();
    assert!(look.is_settled && !look.is_awaited && !look.is_due, "{look:?}");
}

#[tokio::test]
async fn a_fault_keeps_the_last_list_and_a_change_has_it_read_again() {
    let scene = Scene::with(&[("k-ann", &["old"])]).await;
    let (ann, ben) = (key("ann"), key("ben"));
    for who in [&ann, &ben] {
        scene.purse.put(who, 1, "k-ann");
    }
    scene.read(&ann).await;
    scene.shows().is_down = true;
    scene.upstream.signals.lists_changed(&ann);
    assert!(scene.read(&ann).await && scene.read(&ben).await);
    assert_eq!(scene.sees(&ann), ["old"]);
    assert_eq!(scene.sees(&ben), ["unread"], "there is a connection, and nothing was ever read");

    (scene.shows().is_down, scene.shows().tools) = (false, [("k-ann".to_owned(), vec!["new"])].into());
    scene.upstream.signals.lists_changed(&ann);
    assert!(scene.read(&ann).await);
    assert_eq!(scene.sees(&ann), ["new"]);
}

#[tokio::test]
async fn a_list_that_the_upstream_refuses_is_as_good_as_no_connection() {
    let scene = Scene::with(&[]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-ann");
    scene.read(&ann).await;
    assert_eq!(scene.sees(&ann), ["common"]);
    assert_eq!(scene.upstream.own_lack(&ann), Some(Lack::NeedsReauth(Reason::Unauthorized)));
}

#[tokio::test]
async fn one_reads_for_all_who_wait_and_who_breaks_off_holds_up_nobody() {
    let scene = Scene::with(&[("k-ann", &["one"])]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-ann");
    let beginning = scene.upstream.begin_own(&ann).unwrap();
    assert!((0..64).all(|_| scene.upstream.begin_own(&ann).is_none()));
    let began = Instant::now();
    let waiting = futures_util::future::join_all((0..64).map(|_| scene.upstream.own_settled(&ann, began)));
    let ((), _) = tokio::join!(beginning.read_now(scene.cleared(&ann)), waiting);
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["one".to_owned()], 1));

    let ben = key("ben");
    drop(scene.upstream.begin_own(&ben).unwrap());
    assert!(scene.upstream.look(&ben).unwrap().is_settled);
    scene.upstream.own_settled(&ben, began).await;
}

#[tokio::test]
async fn strangers_are_shown_how_to_connect_where_they_see_nothing_else() {
    let scene = Scene::with(&[]).await;
    let connect = |scene: &Scene| scene.upstream.shelf().connect.unwrap().is_listed;
    assert!(!connect(&scene), "nothing is known of it");
    scene.sync().await;
    assert!(connect(&scene));
    assert!(scene.upstream.shelf().offer.is_none(), "what upstreams offer is what is pinned, and it is none of that");
    scene.shows().is_down = true;
    scene.sync().await;
    assert!(connect(&scene), "that it is down says nothing of that");
    (scene.shows().is_down, scene.shows().tools) = (false, [(String::new(), vec!["send"])].into());
    scene.sync().await;
    assert!(!connect(&scene));
}

#[test]
fn lists_in_memory_are_bounded_in_number_and_in_bytes() {
    assert!(weight(&Offer::default()) >= MAX_BYTES / MAX_LISTS);
    let upstream = mail();
    let long = format!(r#"{{"name":"t","description":"{}"}}"#, "x".repeat(200_000));
    let tool = Arc::new(ToolDefinition::parse(&upstream, &crate::mcp::json::raw(long)).unwrap());
    let offer = Offer { tools: vec![tool], ..Offer::default() };
    assert!(weight(&offer) > 200_000);
}
