//! What is lent, to whom, and what is not.

use super::*;
use crate::store::changes::{Change, News, Revision};
use crate::store::follower::{Follower, Subscriber as _};
use crate::vault::tests::asking_each_time;

#[tokio::test]
async fn what_is_stored_is_lent_and_then_from_memory() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "hunter2", Some("r"), Some(HOUR)).await;
    let lent = scene.keeper.lend(&wanted(&ci())).await.unwrap();
    assert_eq!((bearer(&lent).as_str(), lent.revision, &lent.place), ("hunter2", 1, &ci()));
    assert!(!format!("{lent:?}").contains("hunter2"));
    let reads = scene.store.reads();
    for _ in 0..10 {
        let again = scene.keeper.lend(&wanted(&ci())).await.unwrap();
        assert!(Arc::ptr_eq(&lent, &again));
    }
    assert_eq!((scene.store.reads(), scene.issuer.refreshes()), (reads, 0));
}

#[tokio::test]
async fn what_is_not_there_is_not_lent_and_not_another_ones_either() {
    let scene = Scene::new().await;
    assert_eq!(scene.lend(&ci()).await, Err(not_connected()));
    for other in [at("key:ci2", "notes"), at("key:ci", "files"), at("shared", "notes"), at("gateway", "notes")] {
        scene.connect(&other, "other", None, None).await;
    }
    assert_eq!(scene.lend(&ci()).await, Err(not_connected()));
    scene.connect(&ci(), "own", None, None).await;
    assert_eq!(scene.lend(&ci()).await, Ok("own".to_owned()), "that there was none is not remembered");
}

#[tokio::test]
async fn who_may_not_use_an_upstream_is_lent_nothing_from_then_on_until_access_comes_back() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", None, None).await;
    for access in [Access::Withdrawn, Access::HolderGone, Access::UpstreamGone] {
        scene.set_access(&ci(), Access::Granted);
        assert_eq!(scene.lend(&ci()).await, Ok("own".to_owned()));
        scene.set_access(&ci(), access);
        assert_eq!(scene.lend(&ci()).await, Err(not_connected()), "{access:?}");
        let lent = Lent {
            place: ci(),
            connection: scene.next(&ci()).await.0,
            revision: 1,
            given: 1,
            scopes: Vec::new(),
            headers: Vec::new(),
            variables: Vec::new(),
        };
        let rejected = scene.keeper.rejected(&wanted(&ci()), &lent, &Rejected::Unauthorized).await;
        assert_eq!(rejected.map(|_| ()), Err(not_connected()), "{access:?}");
    }
    assert_eq!(scene.state(&ci()).await, State::Connected);
}

#[tokio::test]
async fn access_that_is_withdrawn_while_a_token_is_renewed_counts() {
    let scene = Scene::new().await;
    scene.ended(&ci()).await;
    let gate = scene.issuer.hold();
    let (lent, ()) = tokio::join!(scene.lend(&ci()), async {
        scene.issuer.was_asked(1).await;
        scene.set_access(&ci(), Access::Withdrawn);
        gate.add_permits(1);
    });
    assert_eq!(lent, Err(not_connected()));
    assert_eq!(scene.get(&ci()).await.unwrap().revision, 2, "what was renewed is stored nevertheless");
}

#[tokio::test]
async fn access_that_is_withdrawn_while_the_store_is_read_counts() {
    let (clock, env, store) = memory().await;
    let vault = testing::vault(&store, &env).await;
    let scene = Scene::over(clock, env, store, vault, Scripted::new());
    scene.connect(&ci(), "own", None, None).await;
    let asked = AtomicUsize::new(0);
    let once = move |_: &Place| {
        if asked.fetch_add(1, Ordering::SeqCst) == 0 { Access::Granted } else { Access::Withdrawn }
    };
    let parts = parts((&scene.env, &scene.store, &scene.vault), &scene.issuer, Tasks::new(), once);
    let lent = Keeper::new(parts).lend(&wanted(&ci())).await;
    assert_eq!(lent.map(|_| ()), Err(not_connected()));
}

#[tokio::test]
async fn headers_are_sent_as_far_as_they_are_declared() {
    let scene = Scene::new().await;
    scene.give(&ci(), &[("x-api-key", "k1"), ("x-team", "t1")]).await;
    for (declared, expected) in [
        (&["x-api-key", "x-team"][..], &["x-api-key: k1", "x-team: t1"][..]),
        (&["x-team"], &["x-team: t1"]),
        (&[], &[]),
    ] {
        let lent = scene.keeper.lend(&wanted_headers(&ci(), declared)).await.unwrap();
        assert_eq!(sent(&lent), words(expected));
        assert!(lent.headers.iter().all(|(_, value)| value.is_sensitive()));
    }
    assert_eq!(scene.lend(&ci()).await, Err(not_connected()), "they are no token");
}

#[tokio::test]
async fn a_header_that_was_never_given_is_asked_for_and_shown_in_lists() {
    let scene = Scene::new().await;
    scene.give(&ci(), &[("x-api-key", "k1")]).await;
    let grown = wanted_headers(&ci(), &["x-api-key", "x-team", "x-user"]);
    let lack = missing(Lack::NeedsUpdate(words(&["x-team", "x-user"])));
    for _ in 0..2 {
        assert_eq!(scene.keeper.lend(&grown).await.map(|_| ()), Err(lack.clone()));
        let State::NeedsUpdate { missing, .. } = scene.state(&ci()).await else { panic!("it is marked") };
        assert_eq!(missing, words(&["x-team", "x-user"]));
    }
    // The operator has thought better of it.
    let lent = scene.keeper.lend(&wanted_headers(&ci(), &["x-api-key"])).await.unwrap();
    assert_eq!(sent(&lent), ["x-api-key: k1"]);
    scene.give(&ci(), &[("x-api-key", "k1"), ("x-team", "t"), ("x-user", "u")]).await;
    scene.keeper.0.kept.forget(&ci());
    assert_eq!(scene.keeper.lend(&grown).await.unwrap().headers.len(), 3);
    assert_eq!(scene.state(&ci()).await, State::Connected);
}

#[tokio::test]
async fn what_needs_its_person_is_not_lent_for_any_reason() {
    for reason in [
        Reason::RefreshRefused,
        Reason::RefreshLost,
        Reason::Expired,
        Reason::Unauthorized,
        Reason::InsufficientScope,
        Reason::IssuerChanged,
        Reason::ClientForgotten,
        Reason::Unreadable,
    ] {
        let scene = Scene::new().await;
        scene.connect(&ci(), "own", Some("r"), Some(HOUR)).await;
        let trouble = connections::Trouble::Reauth(reason);
        connections::mark(&scene.store, &ci(), 1, trouble, Actor::System).await.unwrap();
        assert_eq!(scene.lend(&ci()).await, Err(reauth(reason)));
        assert_eq!(scene.issuer.refreshes(), 0);
        scene.connect(&ci(), "again", Some("r"), Some(HOUR)).await;
        assert_eq!(scene.lend(&ci()).await, Ok("again".to_owned()));
    }
}

#[tokio::test]
async fn more_scopes_than_policies_let_out_are_not_lent() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", None, None).await;
    let narrow = Wanted { scopes: Some(words(&["read"])), ..wanted(&ci()) };
    assert_eq!(scene.keeper.lend(&narrow).await.map(|_| ()), Err(Withheld::TooWide));
    let wide = Wanted { scopes: Some(words(&["read", "write"])), ..wanted(&ci()) };
    assert_eq!(bearer(&scene.keeper.lend(&wide).await.unwrap()), "own");
}

#[tokio::test]
async fn what_is_too_old_for_a_policy_is_renewed_if_it_can_be() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(HOUR)).await;
    scene.connect(&user(), "own", None, Some(HOUR)).await;
    scene.forward(Duration::from_secs(601));
    let aged = |place: &Place| Wanted { max_age: Some(Duration::from_secs(600)), ..wanted(place) };
    assert_eq!(bearer(&scene.keeper.lend(&aged(&ci())).await.unwrap()), "new-1");
    assert_eq!(scene.keeper.lend(&aged(&user())).await.map(|_| ()), Err(missing(Lack::TooOld)));
    assert_eq!(scene.lend(&user()).await, Ok("own".to_owned()), "others take it");
    assert_eq!(scene.issuer.refreshes(), 1);
}

#[tokio::test]
async fn an_access_token_that_is_no_header_goes_nowhere() {
    for bad in ["", "a b", "a\r\nx: y", "a\0", "ä"] {
        let scene = Scene::new().await;
        scene.connect(&ci(), bad, None, None).await;
        assert_eq!(scene.lend(&ci()).await, Err(reauth(Reason::Unreadable)), "{bad:?}");
    }
    let scene = Scene::new().await;
    scene.give(&ci(), &[("x-api-key", "a\r\nx: y")]).await;
    let lent = scene.keeper.lend(&wanted_headers(&ci(), &["x-api-key"])).await;
    assert_eq!(lent.map(|_| ()), Err(reauth(Reason::Unreadable)));
}

/// U12: a secret that was copied from elsewhere opens nowhere, and is told.
#[tokio::test]
async fn u12_secrets_that_were_swapped_between_users_rows_fields_and_revisions_do_not_open() {
    let scene = Scene::new().await;
    let (id, other) = (ConnectionId::generate(&scene.env), ConnectionId::generate(&scene.env));
    // Both owners have data keys.
    scene.connect(&at("key:eve", "files"), "x", None, None).await;
    for (what, from) in [
        ("another user's", (at("key:eve", "notes"), id.clone(), 1)),
        ("everyone's", (at("shared", "notes"), id.clone(), 1)),
        ("another row's", (ci(), other, 1)),
        ("another revision's", (ci(), id.clone(), 2)),
    ] {
        swap(&scene, &id, scene.tokens((&from.0, &from.1, from.2), "stolen", None, None).await, what).await;
    }
    // The refresh token in the place of the access token.
    let own = scene.tokens((&ci(), &id, 1), "a", Some("r"), None).await;
    let Credential::OAuth(tokens) = own else { panic!("they are tokens") };
    let refresh = tokens.refresh.clone().unwrap();
    swap(&scene, &id, Credential::OAuth(Tokens { access: refresh, ..tokens }), "another field's").await;
    let none = crate::secret::Sealed::from_bytes(*b"junk");
    swap(&scene, &id, Credential::Headers { names: words(&["x-api-key"]), values: none }, "nobody's").await;
}

async fn refusals(scene: &Scene) -> usize {
    let events = scene.events().await;
    events.iter().filter(|event| matches!(event, AuditEvent::VaultRecordRefused { .. })).count()
}

async fn swap(scene: &Scene, id: &ConnectionId, credential: Credential, what: &str) {
    let is_headers = matches!(credential, Credential::Headers { .. });
    scene.put(&ci(), id.clone(), 1, credential).await;
    let before = refusals(scene).await;
    let wanted = if is_headers { wanted_headers(&ci(), &["x-api-key"]) } else { wanted(&ci()) };
    let lent = scene.keeper.lend(&wanted).await;
    assert_eq!(lent.map(|_| ()), Err(reauth(Reason::Unreadable)), "{what}");
    let State::NeedsReauth { reason, .. } = scene.state(&ci()).await else { panic!("{what} is marked") };
    assert_eq!(reason, Reason::Unreadable);
    assert_eq!(refusals(scene).await, before + 1, "{what} is told");
    let ended = scene.keeper.disconnect(&ci(), crate::connection::End::Revoked, Actor::System).await.unwrap();
    assert!(matches!(ended, connections::Disconnection::Ended { .. }), "{what}");
}

#[tokio::test]
async fn a_vault_out_of_reach_is_a_fault_and_nobodys_loss() {
    let (clock, env, store) = memory().await;
    let (remote, vault) = asking_each_time(&store).await;
    let scene = Scene::over(clock, env, store, vault, Scripted::new());
    scene.connect(&ci(), "own", None, None).await;
    remote.set_down(true);
    assert_eq!(scene.lend(&ci()).await, Err(Withheld::Fault));
    assert_eq!(scene.state(&ci()).await, State::Connected);
    remote.set_down(false);
    let lent = tokio::time::timeout(LONG, async {
        loop {
            match scene.lend(&ci()).await {
                Err(Withheld::Fault) => tokio::time::sleep(Duration::from_millis(50)).await,
                lent => return lent,
            }
        }
    });
    assert_eq!(lent.await.unwrap(), Ok("own".to_owned()));
}

#[tokio::test]
async fn a_store_out_of_reach_is_a_fault() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", None, None).await;
    scene.store.close().await;
    assert_eq!(scene.lend(&ci()).await, Err(Withheld::Fault));
}

#[tokio::test]
async fn of_64_that_want_a_credential_at_once_one_reads_it() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", None, None).await;
    let reads = scene.store.reads();
    let lent = futures_util::future::join_all((0..64).map(|_| scene.lend(&ci()))).await;
    assert_eq!(lent, vec![Ok("own".to_owned()); 64]);
    // One for the connection, one for the data key at most.
    assert!(scene.store.reads() - reads <= 2, "{}", scene.store.reads() - reads);
}

#[tokio::test]
async fn every_kind_of_change_forgets_what_it_is_about_and_nothing_else() {
    let user = principal_of(&user()).to_string();
    let places = [ci(), at("key:ci", "files"), at(&user, "notes"), at(&user, "files"), at("shared", "notes")];
    let id = user.strip_prefix("user:").unwrap().to_owned();
    let connection = |holder: &str, upstream: &str| Change::Connection {
        principal: holder.to_owned(),
        upstream: upstream.to_owned(),
    };
    for (change, forgotten) in [
        (connection("key:ci", "notes"), &[0][..]),
        (connection("shared", "notes"), &[4]),
        (connection("key:ci", "nowhere"), &[]),
        (connection("nobody at all", "notes"), &[]),
        (Change::Keys, &[0, 1]),
        (Change::User { id }, &[2, 3]),
        (Change::User { id: "0b".repeat(12) }, &[]),
        (Change::DataKey { owner: "key:ci".to_owned() }, &[0, 1]),
        (Change::DataKey { owner: "shared:notes".to_owned() }, &[4]),
        (Change::Upstreams, &[0, 1, 2, 3, 4]),
        (Change::Vault, &[0, 1, 2, 3, 4]),
        (Change::ApiTokens, &[]),
        (Change::Grant { id: "g".to_owned() }, &[]),
    ] {
        let scene = kept(&places).await;
        let news = News::Changes { changes: vec![change.clone()], revision: Revision::default() };
        scene.keeper.take(&news).await.unwrap();
        for (number, place) in places.iter().enumerate() {
            let is_kept = scene.keeper.0.kept.get(place).is_some();
            assert_eq!(is_kept, !forgotten.contains(&number), "{place} after {change:?}");
        }
    }
    let scene = kept(&places).await;
    scene.keeper.take(&News::Everything { revision: Revision::default() }).await.unwrap();
    assert!(places.iter().all(|place| scene.keeper.0.kept.get(place).is_none()));
}

async fn kept(places: &[Place]) -> Scene {
    let scene = Scene::new().await;
    for place in places {
        scene.connect(place, "own", None, None).await;
        scene.lend(place).await.unwrap();
    }
    scene
}

#[tokio::test]
async fn what_is_changed_here_is_felt_by_the_next_call() {
    let scene = Scene::new().await;
    let (_, offset) = scene.env.adjustable();
    let follower = Follower::begin(scene.store.clone(), offset, Duration::from_secs(10)).await.unwrap();
    scene.tasks.spawn(follower.run(vec![scene.keeper.clone()], scene.tasks.stopping().clone()));
    for number in 0..20 {
        let token = format!("t{number}");
        scene.connect(&ci(), &token, None, None).await;
        assert_eq!(scene.lend(&ci()).await, Ok(token));
    }
    let why = crate::connection::End::Disconnected;
    connections::disconnect(&scene.store, &ci(), why, Actor::System).await.unwrap();
    assert_eq!(scene.lend(&ci()).await, Err(not_connected()));
    assert!(scene.tasks.stop(LONG).await);
}

#[tokio::test]
async fn what_another_gateway_changes_is_felt_soon() {
    let scene = Scene::new().await;
    let here = scene.replica(1);
    let (_, offset) = here.env.adjustable();
    let follower = Follower::begin(here.store.clone(), offset, Duration::from_secs(10)).await.unwrap();
    here.tasks.spawn(follower.run(vec![here.keeper.clone()], here.tasks.stopping().clone()));
    scene.connect(&ci(), "first", None, None).await;
    assert_eq!(here.lend(&ci()).await, Ok("first".to_owned()));
    scene.connect(&ci(), "second", None, None).await;
    let felt = async {
        while here.lend(&ci()).await != Ok("second".to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, felt).await.expect("it is felt");
    assert!(here.tasks.stop(LONG).await);
}

#[tokio::test]
async fn what_was_made_for_another_origin_is_neither_lent_nor_renewed_nor_marked() {
    let scene = Scene::new().await;
    let id = ConnectionId::generate(&scene.env);
    let credential = scene.tokens((&ci(), &id, 1), "old", Some("used"), Some(HOUR)).await;
    let new = NewCredential { place: ci(), id, replaces: None, origin: Some(origin()), credential };
    let of = scene.store.read(changes::revision).await.unwrap();
    let put = connections::put(&scene.store, new, of, |_: &Place| Access::Granted, Actor::System).await.unwrap();
    assert_eq!(put, Put::Stored(1));
    let elsewhere = Wanted { origin: Origin::of_program(), ..wanted(&ci()) };
    for _ in 0..2 {
        assert_eq!(scene.keeper.lend(&elsewhere).await.unwrap_err(), reauth(Reason::Moved));
        assert_eq!(scene.state(&ci()).await, State::Connected);
        // The second time it has ended.
        scene.forward(HOUR);
    }
    assert_eq!(scene.issuer.refreshes(), 0);
    assert_eq!(scene.lend(&ci()).await, Ok("new-1".to_owned()), "where it was made for, it works");
    assert_eq!(scene.get(&ci()).await.unwrap().origin, Some(origin()));
    assert_eq!(scene.keeper.lend(&elsewhere).await.unwrap_err(), reauth(Reason::Moved));
}
