//! Renewing: once for all, across gateways, and without losing anything.

use super::*;
use crate::store::connections::{Commit, Leasing, commit_refresh, lease_refresh};
use crate::vault::tests::asking_each_time;

/// Longer than a lease of a refresh.
const LEASE_OVER: Duration = Duration::from_secs(120);

impl Scene {
    /// What is stored, opened.
    async fn stored_tokens(&self, place: &Place) -> (String, Option<String>) {
        let connection = self.get(place).await.unwrap();
        let tokens = connection.tokens().unwrap();
        let open = async |secret, sealed| {
            let opened = self.keeper.open_token(&connection, secret, sealed).await.unwrap();
            opened.expect("it opens").expose().to_owned()
        };
        let access = open(Secret::Access, &tokens.access).await;
        match &tokens.refresh {
            Some(refresh) => (access, Some(open(Secret::Refresh, refresh).await)),
            None => (access, None),
        }
    }

    fn shown(&self) -> Vec<String> {
        self.issuer.refreshed.lock().unwrap().clone()
    }
}

fn unavailable(lent: Result<String, Withheld>) -> Duration {
    match lent {
        Err(Withheld::Unavailable { retry_after: Some(after) }) => after,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn u7_of_64_that_want_an_ended_token_one_renews_it() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let gate = scene.issuer.hold();
    let all = futures_util::future::join_all((0..64).map(|_| scene.lend(&ci())));
    let (lent, ()) = tokio::join!(all, async {
        scene.issuer.was_asked(1).await;
        gate.add_permits(64);
    });
    assert_eq!(lent, vec![Ok("new-1".to_owned()); 64]);
    assert_eq!(scene.shown(), ["used"]);
    assert_eq!(scene.lend(&ci()).await, Ok("new-1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn u7_of_64_on_several_threads_one_renews_it() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let keeper = scene.keeper.clone();
        callers.spawn(async move { keeper.lend(&wanted(&ci())).await.map(|lent| bearer(&lent)) });
    }
    assert_eq!(callers.join_all().await, vec![Ok("new-1".to_owned()); 64]);
    assert_eq!(scene.issuer.refreshes(), 1);
}

#[tokio::test]
async fn what_is_renewed_is_stored_for_whom_it_is() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let asked = scene.now();
    assert_eq!(scene.lend(&ci()).await, Ok("new-1".to_owned()));
    assert_eq!(scene.stored_tokens(&ci()).await, ("new-1".to_owned(), Some("next-1".to_owned())));
    let stored = scene.get(&ci()).await.unwrap();
    let tokens = stored.tokens().unwrap();
    assert_eq!((stored.revision, tokens.expires), (2, Some(asked.after(HOUR))));
    assert_eq!((tokens.issuer.as_str(), tokens.client.as_str()), (ISSUER, "c1"));
    assert_eq!(tokens.scopes.to_vec(), words(&["read", "write"]), "what was not said has not changed");
    let source = Source { upstream: ci().upstream, issuer: ISSUER.to_owned(), client: "c1".to_owned() };
    assert_eq!(*scene.issuer.sources.lock().unwrap(), [source]);
    assert_eq!(scene.store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_may_keep_its_refresh_token_and_narrow_its_scopes() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let scopes = Some(TokenList::parse(words(&["read"])).unwrap());
    scene.issuer.will(Ok(Issued { scopes, expires_in: Some(Duration::ZERO), ..issued("second", None) }));
    assert_eq!(scene.lend(&ci()).await, Ok("second".to_owned()));
    assert_eq!(scene.stored_tokens(&ci()).await, ("second".to_owned(), Some("used".to_owned())));
    let stored = scene.get(&ci()).await.unwrap();
    assert_eq!(stored.tokens().unwrap().scopes.to_vec(), words(&["read"]));
    assert_eq!(stored.tokens().unwrap().expires, None, "nobody gives a token that has ended");
}

#[tokio::test]
async fn a_server_whose_tokens_end_at_once_is_not_asked_in_a_circle() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let brief = Issued { expires_in: Some(Duration::from_millis(1)), ..issued("brief", Some("r")) };
    let gate = scene.issuer.hold();
    scene.issuer.will(Ok(brief));
    let (lent, ()) = tokio::join!(scene.lend(&ci()), async {
        scene.issuer.was_asked(1).await;
        scene.forward(Duration::from_secs(1));
        gate.add_permits(100);
    });
    assert_eq!(lent, Err(Withheld::Unavailable { retry_after: None }));
    assert_eq!(scene.issuer.refreshes(), 1);
}

#[tokio::test]
async fn a_token_that_will_end_is_renewed_and_works_still_if_that_fails() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(HOUR)).await;
    scene.forward(HOUR - Duration::from_secs(31));
    assert_eq!(scene.lend(&ci()).await, Ok("own".to_owned()));
    assert_eq!(scene.issuer.refreshes(), 0);
    scene.forward(Duration::from_secs(1));
    scene.issuer.will(Err(later()));
    for _ in 0..3 {
        assert_eq!(scene.lend(&ci()).await, Ok("own".to_owned()));
    }
    assert_eq!(scene.issuer.refreshes(), 1, "and then there is a pause");
    scene.forward(Duration::from_secs(30));
    assert_eq!(scene.lend(&ci()).await, Ok("new-2".to_owned()));
}

#[tokio::test]
async fn an_ended_token_without_a_refresh_token_needs_its_person() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", None, Some(HOUR)).await;
    scene.forward(HOUR);
    for _ in 0..2 {
        assert_eq!(scene.lend(&ci()).await, Err(reauth(Reason::Expired)));
    }
    assert!(matches!(scene.state(&ci()).await, State::NeedsReauth { reason: Reason::Expired, .. }));
}

#[tokio::test]
async fn u8_what_is_refused_for_good_needs_its_person_and_is_kept() {
    for reason in [Reason::RefreshRefused, Reason::ClientForgotten, Reason::IssuerChanged] {
        let scene = Scene::new().await;
        scene.ended(&ci()).await;
        scene.issuer.will(Err(NotIssued::Refused(reason)));
        for _ in 0..3 {
            assert_eq!(scene.lend(&ci()).await, Err(reauth(reason)));
        }
        assert_eq!(scene.issuer.refreshes(), 1);
        let stored = scene.get(&ci()).await.expect("it is kept");
        assert!(matches!(stored.state, State::NeedsReauth { reason: told, .. } if told == reason));
        let failed = |event: &AuditEvent| matches!(event, AuditEvent::ConnectionFailed { .. });
        assert_eq!(scene.events().await.iter().filter(|event| failed(event)).count(), 1);
    }
}

#[tokio::test]
async fn u8_what_fails_for_now_keeps_the_connection_and_pauses() {
    for (asked, least, most) in [(None, 2, 3), (Some(60), 60, 75), (Some(9_000), 900, 1_125)] {
        let scene = Scene::new().await;
        scene.ended(&ci()).await;
        scene.issuer.will(Err(NotIssued::Later { retry_after: asked.map(Duration::from_secs) }));
        let after = unavailable(scene.lend(&ci()).await);
        let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(bounds.contains(&after), "{after:?} after {asked:?}");
        assert_eq!(scene.state(&ci()).await, State::Connected);
        assert!(unavailable(scene.lend(&ci()).await) <= after);
        assert_eq!(scene.issuer.refreshes(), 1, "nobody asks in between");
        scene.forward(after);
        assert_eq!(scene.lend(&ci()).await, Ok("new-2".to_owned()));
        assert_eq!(scene.shown(), ["used", "used"]);
    }
}

#[tokio::test]
async fn u8_a_server_that_fails_for_many_is_left_alone_and_tried_by_one() {
    let scene = Scene::new().await;
    let places: Vec<Place> = (0..12).map(|number| place(&format!("key:k{number}"))).collect();
    for place in &places {
        scene.connect(place, "old", Some("r"), Some(HOUR)).await;
    }
    scene.forward(HOUR);
    for _ in 0..5 {
        scene.issuer.will(Err(later()));
    }
    for place in &places[..10] {
        unavailable(scene.lend(place).await);
    }
    assert_eq!(scene.issuer.refreshes(), 5, "the others did not even ask");
    scene.forward(Duration::from_secs(10));
    let gate = scene.issuer.hold();
    let (first, ()) = tokio::join!(scene.lend(&places[10]), async {
        scene.issuer.was_asked(6).await;
        unavailable(scene.lend(&places[11]).await);
        gate.add_permits(100);
    });
    assert_eq!(first, Ok("new-6".to_owned()));
    scene.forward(Duration::from_secs(30));
    for place in &places {
        assert!(scene.lend(place).await.is_ok());
    }
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_no_failure_of_its_server() {
    let scene = Scene::new().await;
    for number in 0..8 {
        let place = place(&format!("key:k{number}"));
        scene.connect(&place, "old", Some("r"), Some(Duration::from_secs(1))).await;
        scene.forward(Duration::from_secs(1));
        scene.issuer.will(Err(NotIssued::Refused(Reason::RefreshRefused)));
        assert_eq!(scene.lend(&place).await, Err(reauth(Reason::RefreshRefused)));
    }
    scene.ended(&ci()).await;
    assert_eq!(scene.lend(&ci()).await, Ok("new-9".to_owned()));
}

#[tokio::test]
async fn whoever_goes_away_ends_no_refresh_and_whoever_stops_waits_for_it() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let gate = scene.issuer.hold();
    {
        let wish = wanted(&ci());
        let lending = scene.keeper.lend(&wish);
        tokio::select! {
            biased;
            _ = lending => panic!("it waits"),
            () = scene.issuer.was_asked(1) => {}
        }
    }
    let (stopped, ()) = tokio::join!(scene.tasks.stop(LONG), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.add_permits(1);
    });
    assert!(stopped);
    assert_eq!(scene.stored_tokens(&ci()).await, ("new-1".to_owned(), Some("next-1".to_owned())));
}

#[tokio::test]
async fn nothing_is_renewed_by_a_gateway_that_stops() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    assert!(scene.tasks.stop(LONG).await);
    assert_eq!(scene.lend(&ci()).await, Err(Withheld::Unavailable { retry_after: None }));
    assert_eq!(scene.issuer.refreshes(), 0);
}

/// A gateway dies when the server has answered and nothing is stored.
async fn crashed() -> Scene {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    _ = scene.issuer.hold();
    let doomed = scene.replica(7);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move { doomed.lend(&ci()).await });
    scene.issuer.was_asked(1).await;
    runtime.shutdown_background();
    *scene.issuer.gate.lock().unwrap() = None;
    scene.forward(LEASE_OVER);
    scene
}

#[tokio::test]
async fn u7_after_a_crash_the_old_token_is_tried_once_and_may_work() {
    let scene = crashed().await;
    assert_eq!(scene.lend(&ci()).await, Ok("new-2".to_owned()));
    assert_eq!(scene.shown(), ["used", "used"]);
    assert_eq!(scene.stored_tokens(&ci()).await.1, Some("next-2".to_owned()));
}

#[tokio::test]
async fn u7_after_a_crash_the_old_token_is_tried_once_and_may_be_lost() {
    let scene = crashed().await;
    scene.issuer.will(Err(NotIssued::Refused(Reason::RefreshRefused)));
    for _ in 0..3 {
        assert_eq!(scene.lend(&ci()).await, Err(reauth(Reason::RefreshLost)));
    }
    assert_eq!(scene.shown(), ["used", "used"]);
}

#[tokio::test]
async fn u7_of_two_gateways_one_renews() {
    let scene = Scene::new().await;
    let (here, there) = (scene.replica(1), scene.replica(2));
    scene.ended(&ci()).await;
    let gate = scene.issuer.hold();
    let callers = (0..32).map(|number| if number % 2 == 0 { here.lend(&ci()) } else { there.lend(&ci()) });
    let (lent, ()) = tokio::join!(futures_util::future::join_all(callers), async {
        scene.issuer.was_asked(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.add_permits(1);
    });
    assert_eq!(lent, vec![Ok("new-1".to_owned()); 32]);
    assert_eq!(scene.issuer.refreshes(), 1);
}

#[tokio::test]
async fn u7_who_has_lost_the_lease_stores_nothing() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let gate = scene.issuer.hold();
    let (lent, ()) = tokio::join!(scene.lend(&ci()), async {
        scene.issuer.was_asked(1).await;
        // It took so long that another gateway has taken over.
        scene.forward(LEASE_OVER);
        let leasing = lease_refresh(&scene.store, &ci(), 1, "other", LONG).await.unwrap();
        let Leasing::Leased(lease) = leasing else { panic!("{leasing:?}") };
        assert!(lease.after_loss);
        let id = lease.id.clone();
        let theirs = scene.tokens((&ci(), &id, 2), "theirs", Some("r2"), Some(HOUR)).await;
        assert_eq!(commit_refresh(&scene.store, &lease, theirs).await.unwrap(), Commit::Stored(2));
        gate.add_permits(1);
    });
    assert_eq!(lent, Ok("theirs".to_owned()));
    assert_eq!(scene.stored_tokens(&ci()).await, ("theirs".to_owned(), Some("r2".to_owned())));
}

#[tokio::test]
async fn what_was_renewed_for_an_ended_connection_is_revoked() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let gate = scene.issuer.hold();
    let (lent, ()) = tokio::join!(scene.lend(&ci()), async {
        scene.issuer.was_asked(1).await;
        scene.keeper.disconnect(&ci(), crate::connection::End::Disconnected, Actor::System).await.unwrap();
        gate.add_permits(10);
    });
    assert_eq!(lent, Err(not_connected()));
    assert_eq!(scene.keeper.revoke_due(&mut None).await.unwrap(), 1);
    assert_eq!(*scene.issuer.revoked.lock().unwrap(), [(Some("next-1".to_owned()), "new-1".to_owned())]);
}

#[tokio::test]
async fn what_a_server_gave_is_not_lost_while_the_vault_is_out_of_reach() {
    let (clock, env, store) = memory().await;
    let (remote, vault) = asking_each_time(&store).await;
    let scene = Scene::over(clock, env, store, vault, Scripted::new());
    scene.ended(&ci()).await;
    let gate = scene.issuer.hold();
    let (lent, ()) = tokio::join!(scene.lend(&ci()), async {
        scene.issuer.was_asked(1).await;
        remote.set_down(true);
        gate.add_permits(1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(scene.get(&ci()).await.unwrap().revision, 1, "it cannot be stored yet");
        remote.set_down(false);
    });
    assert_eq!(lent, Ok("new-1".to_owned()));
    assert_eq!(scene.shown(), ["used"]);
}

#[tokio::test]
async fn a_refresh_token_that_was_swapped_is_shown_to_nobody() {
    let scene = Scene::new().await;
    let id = ConnectionId::generate(&scene.env);
    let own = scene.tokens((&ci(), &id, 1), "own", Some("r"), Some(HOUR)).await;
    let other = scene.tokens((&user(), &id, 1), "x", Some("stolen"), Some(HOUR)).await;
    let (Credential::OAuth(own), Credential::OAuth(other)) = (own, other) else { panic!("they are tokens") };
    scene.put(&ci(), id, 1, Credential::OAuth(Tokens { refresh: other.refresh, ..own })).await;
    assert_eq!(scene.lend(&ci()).await, Ok("own".to_owned()));
    scene.forward(HOUR);
    assert_eq!(scene.lend(&ci()).await, Err(reauth(Reason::Unreadable)));
    assert_eq!(scene.shown(), Vec::<String>::new());
}

#[tokio::test]
async fn tokens_that_are_too_large_to_be_stored_need_their_person() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    scene.issuer.will(Ok(issued(&"x".repeat(60_000), Some(&"y".repeat(60_000)))));
    assert_eq!(scene.lend(&ci()).await, Err(reauth(Reason::RefreshLost)));
}

#[tokio::test]
async fn each_connection_is_renewed_by_its_own_token() {
    let scene = Scene::new().await;
    let places: Vec<Place> = (0..20).map(|number| place(&format!("key:k{number}"))).collect();
    for (number, place) in places.iter().enumerate() {
        scene.connect(place, "old", Some(&format!("r{number}")), Some(HOUR)).await;
    }
    scene.forward(HOUR);
    let lent = futures_util::future::join_all(places.iter().map(|place| scene.lend(place))).await;
    assert!(lent.iter().all(Result::is_ok), "{lent:?}");
    let (shown, mut tokens) = (scene.shown(), lent.into_iter().map(Result::unwrap).collect::<Vec<_>>());
    for (number, place) in places.iter().enumerate() {
        let asked = shown.iter().position(|shown| *shown == format!("r{number}")).unwrap() + 1;
        assert_eq!(scene.lend(place).await, Ok(format!("new-{asked}")));
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 20);
}
