//! Tokens that are exchanged for what the gateway vouches for.

use super::*;
use crate::connection::lending::ExchangeRefusal;
use crate::store::changes::{Change, News, Revision};
use crate::store::follower::Subscriber as _;

const MINUTE: Duration = Duration::from_secs(60);

fn wish(place: &Place) -> Wanted {
    Wanted { kind: Kind::Exchanged, ..wanted(place) }
}

impl Scene {
    async fn exchanged(&self, place: &Place) -> Result<String, Withheld> {
        self.keeper.lend(&wish(place)).await.map(|lent| bearer(&lent))
    }

    fn exchanges(&self) -> usize {
        self.issuer.vouched.lock().unwrap().len()
    }

    fn will_exchange(&self, answer: Result<Exchanged, NotExchanged>) {
        self.issuer.exchanges.lock().unwrap().push_back(answer);
    }
}

fn refused(refusal: ExchangeRefusal) -> Withheld {
    missing(Lack::ExchangeRefused(refusal))
}

#[tokio::test]
async fn a_persons_token_is_had_once_and_used_until_shortly_before_its_end() {
    let scene = Scene::new().await;
    let ada = user();
    let calls = futures_util::future::join_all((0..64).map(|_| scene.exchanged(&ada))).await;
    assert_eq!(calls, vec![Ok("for-1".to_owned()); 64]);
    assert_eq!(scene.exchanges(), 1);
    assert_eq!(scene.issuer.vouched.lock().unwrap()[0].as_str(), PERSON);
    let first = scene.keeper.lend(&wish(&user())).await.unwrap();
    assert!(!format!("{first:?}").contains("for-1"));
    scene.forward(HOUR - Duration::from_secs(31));
    assert_eq!(scene.exchanged(&user()).await, Ok("for-1".to_owned()));
    scene.forward(Duration::from_secs(1));
    let second = scene.keeper.lend(&wish(&user())).await.unwrap();
    assert_eq!(bearer(&second), "for-2");
    assert_eq!((&first.connection, first.given), (&second.connection, second.given), "sessions go on");
    assert!(first.revision < second.revision);
    assert_eq!(scene.get(&user()).await, None, "nothing is stored");
}

#[tokio::test]
async fn nobody_but_people_is_vouched_for() {
    let scene = Scene::new().await;
    let gateway = at("gateway", "notes");
    for place in [ci(), gateway, at("shared", "notes"), place("anonymous")] {
        assert_eq!(scene.exchanged(&place).await, Err(missing(Lack::NoIdentity)), "{place}");
    }
    // Somebody of whom the store knows nothing.
    assert_eq!(scene.exchanged(&place(&format!("user:{}", "0b".repeat(12)))).await, Err(not_connected()));
    scene.will_exchange(Err(NotExchanged::Nobody));
    assert_eq!(scene.exchanged(&user()).await, Err(missing(Lack::NoIdentity)));
    assert_eq!(scene.exchanges(), 1);
}

#[tokio::test]
async fn access_counts_each_time_and_what_was_had_goes_with_it() {
    let scene = Scene::new().await;
    assert_eq!(scene.exchanged(&user()).await, Ok("for-1".to_owned()));
    scene.set_access(&user(), Access::Withdrawn);
    assert_eq!(scene.exchanged(&user()).await, Err(not_connected()));
    scene.set_access(&user(), Access::Granted);
    assert_eq!(scene.exchanged(&user()).await, Ok("for-2".to_owned()));
    let gate = scene.issuer.hold();
    scene.forward(HOUR);
    let ada = user();
    let (lent, ()) = tokio::join!(scene.exchanged(&ada), async {
        scene.issuer.was_asked(3).await;
        scene.set_access(&user(), Access::Withdrawn);
        gate.add_permits(1);
    });
    assert_eq!(lent, Err(not_connected()), "access that is taken away meanwhile counts");
}

#[tokio::test]
async fn what_changes_about_a_person_ends_what_was_had_for_them() {
    let scene = Scene::new().await;
    scene.exchanged(&user()).await.unwrap();
    for change in [Change::User { id: PERSON.to_owned() }, Change::Upstreams] {
        let before = scene.exchanges();
        let news = News::Changes { revision: Revision::default(), changes: vec![change] };
        scene.keeper.take(&news).await.unwrap();
        scene.exchanged(&user()).await.unwrap();
        assert_eq!(scene.exchanges(), before + 1);
    }
}

#[tokio::test]
async fn u8_a_refusal_is_told_and_not_asked_for_again_at_once_and_a_fault_is_nobodys() {
    let scene = Scene::new().await;
    scene.will_exchange(Err(NotExchanged::Refused(ExchangeRefusal::Denied)));
    for _ in 0..3 {
        assert_eq!(scene.exchanged(&user()).await, Err(refused(ExchangeRefusal::Denied)));
    }
    assert_eq!(scene.exchanges(), 1);
    let news = News::Changes { revision: Revision::default(), changes: vec![Change::User { id: PERSON.to_owned() }] };
    scene.keeper.take(&news).await.unwrap();
    assert_eq!(scene.exchanged(&user()).await, Ok("for-2".to_owned()), "who has changed is asked for anew");

    scene.forward(HOUR - Duration::from_secs(10));
    scene.will_exchange(Err(NotExchanged::Later { retry_after: None }));
    assert_eq!(scene.exchanged(&user()).await, Ok("for-2".to_owned()), "what works still is used");
    scene.forward(MINUTE);
    for _ in 0..4 {
        scene.will_exchange(Err(NotExchanged::Later { retry_after: None }));
        assert_eq!(scene.exchanged(&user()).await, Err(Withheld::Unavailable { retry_after: None }));
    }
    let before = scene.exchanges();
    let paused = scene.exchanged(&user()).await;
    assert!(matches!(paused, Err(Withheld::Unavailable { retry_after: Some(_) })), "{paused:?}");
    assert_eq!(scene.exchanges(), before, "a server that fails is left alone");
    scene.forward(MINUTE);
    assert!(scene.exchanged(&user()).await.is_ok());
}

#[tokio::test]
async fn u9_a_token_that_the_upstream_refuses_is_had_anew_once_a_minute_at_most() {
    let scene = Scene::new().await;
    let first = scene.keeper.lend(&wish(&user())).await.unwrap();
    let rejected = async |lent: &Lent, why| scene.keeper.rejected(&wish(&user()), lent, &why).await;
    let fresh = rejected(&first, Rejected::Unauthorized).await;
    assert_eq!(fresh.map(|_| ()), Err(refused(ExchangeRefusal::Unauthorized)));
    scene.forward(MINUTE);
    let second = rejected(&first, Rejected::Unauthorized).await.unwrap();
    assert_eq!(bearer(&second), "for-2");
    assert_eq!(
        bearer(&rejected(&first, Rejected::Unauthorized).await.unwrap()),
        "for-2",
        "it was somebody else's news"
    );
    let more = rejected(&second, Rejected::InsufficientScope(words(&["write"]))).await;
    assert_eq!(more.map(|_| ()), Err(missing(Lack::NeedsScopes(words(&["read", "write"])))));
}

#[tokio::test]
async fn policies_that_let_less_out_or_want_it_newer_are_heard() {
    let scene = Scene::new().await;
    let narrow = Wanted { scopes: Some(Vec::new()), ..wish(&user()) };
    assert_eq!(scene.keeper.lend(&narrow).await.map(|_| ()), Err(Withheld::TooWide));
    scene.forward(MINUTE);
    let aged = Wanted { max_age: Some(Duration::from_secs(10)), ..wish(&user()) };
    assert_eq!(bearer(&scene.keeper.lend(&aged).await.unwrap()), "for-2");
    scene.will_exchange(Ok(exchanged("endless", None)));
    scene.forward(MINUTE);
    assert_eq!(bearer(&scene.keeper.lend(&aged).await.unwrap()), "endless");
    scene.forward(5 * MINUTE);
    assert_eq!(scene.exchanged(&user()).await, Ok("for-4".to_owned()), "one without an end counts for a while");
}

#[tokio::test]
async fn u8_a_failing_server_is_tried_for_all_by_somebody_of_whom_there_is_something_to_say() {
    let scene = Scene::new().await;
    for _ in 0..5 {
        scene.will_exchange(Err(NotExchanged::Later { retry_after: None }));
        scene.exchanged(&user()).await.unwrap_err();
    }
    let asked = scene.exchanges();
    scene.issuer.knows_nobody.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(scene.exchanged(&user()).await, Err(missing(Lack::NoIdentity)), "whatever the server does");
        scene.forward(MINUTE);
    }
    assert_eq!(scene.exchanges(), asked);
    scene.issuer.knows_nobody.store(false, Ordering::SeqCst);
    scene.will_exchange(Err(NotExchanged::Fault));
    assert_eq!(scene.exchanged(&user()).await, Err(Withheld::Fault), "nothing was sent");
    assert!(scene.exchanged(&user()).await.is_ok(), "another one tries");
}
