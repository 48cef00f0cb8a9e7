//! What happens when an upstream would not have what was lent.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

impl Scene {
    async fn lent(&self, place: &Place) -> Arc<Lent> {
        self.keeper.lend(&wanted(place)).await.unwrap()
    }

    async fn unauthorized(&self, lent: &Lent) -> Result<String, Withheld> {
        let lent = self.keeper.rejected(&wanted(&lent.place), lent, &Rejected::Unauthorized).await;
        lent.map(|lent| bearer(&lent))
    }

    async fn too_narrow(&self, lent: &Lent, asked: &[&str]) -> Result<String, Withheld> {
        let why = Rejected::InsufficientScope(words(asked));
        self.keeper.rejected(&wanted(&lent.place), lent, &why).await.map(|lent| bearer(&lent))
    }

    async fn reason(&self, place: &Place) -> Option<Reason> {
        match self.state(place).await {
            State::NeedsReauth { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_whatever_its_end() {
    let scene = Scene::new().await;
    for life in [Some(10 * HOUR), None] {
        scene.connect(&ci(), "own", Some("r"), life).await;
        scene.forward(MINUTE);
        scene.keeper.0.kept.forget(&ci());
        let before = scene.issuer.refreshes();
        let lent = scene.lent(&ci()).await;
        assert_eq!(bearer(&lent), "own");
        assert_eq!(scene.unauthorized(&lent).await, Ok(format!("new-{}", before + 1)));
        assert_eq!(scene.lend(&ci()).await, Ok(format!("new-{}", before + 1)));
        assert_eq!(scene.issuer.refreshes(), before + 1);
    }
}

#[tokio::test]
async fn what_was_renewed_meanwhile_is_lent_without_asking_anybody() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(HOUR)).await;
    let lent = scene.lent(&ci()).await;
    // By somebody else, whom nobody follows here.
    scene.connect(&ci(), "newer", Some("r"), Some(HOUR)).await;
    assert_eq!(scene.unauthorized(&lent).await, Ok("newer".to_owned()));
    assert_eq!(scene.issuer.refreshes(), 0);
    // It was disconnected and made anew: the number is lower, and it is another one.
    let old = scene.lent(&ci()).await;
    scene.keeper.disconnect(&ci(), crate::connection::End::Revoked, Actor::System).await.unwrap();
    assert_eq!(scene.unauthorized(&old).await, Err(not_connected()));
    scene.connect(&ci(), "another", Some("r"), Some(HOUR)).await;
    assert_eq!(scene.unauthorized(&old).await, Ok("another".to_owned()));
    assert_eq!(scene.issuer.refreshes(), 0);
}

#[tokio::test]
async fn u9_a_fresh_token_that_is_refused_is_marked_and_not_renewed_again() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(10 * HOUR)).await;
    scene.forward(MINUTE);
    let first = scene.lent(&ci()).await;
    assert_eq!(scene.unauthorized(&first).await, Ok("new-1".to_owned()));
    let second = scene.lent(&ci()).await;
    scene.forward(MINUTE - Duration::from_millis(1));
    assert_eq!(scene.unauthorized(&second).await, Err(reauth(Reason::Unauthorized)));
    assert_eq!(scene.reason(&ci()).await, Some(Reason::Unauthorized));
    for lent in [&first, &second] {
        assert_eq!(scene.unauthorized(lent).await, Err(reauth(Reason::Unauthorized)));
    }
    assert_eq!(scene.lend(&ci()).await, Err(reauth(Reason::Unauthorized)));
    assert_eq!(scene.issuer.refreshes(), 1);
}

#[tokio::test]
async fn u9_a_storm_of_refusals_costs_one_refresh() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(10 * HOUR)).await;
    scene.forward(MINUTE);
    let lent = scene.lent(&ci()).await;
    let (all, one_by_one) = (0..64, 0..16);
    let came = futures_util::future::join_all(all.map(|_| scene.unauthorized(&lent))).await;
    assert_eq!(came, vec![Ok("new-1".to_owned()); 64]);
    for _ in one_by_one {
        assert_eq!(scene.unauthorized(&lent).await, Ok("new-1".to_owned()), "those that are late");
    }
    assert_eq!((scene.issuer.refreshes(), scene.state(&ci()).await), (1, State::Connected));
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_marked_when_it_is_refused() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", None, None).await;
    scene.forward(10 * HOUR);
    let lent = scene.lent(&ci()).await;
    assert_eq!(scene.unauthorized(&lent).await, Err(reauth(Reason::Unauthorized)));
    assert_eq!((scene.reason(&ci()).await, scene.issuer.refreshes()), (Some(Reason::Unauthorized), 0));
}

#[tokio::test]
async fn a_refused_token_whose_server_is_away_is_kept() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(10 * HOUR)).await;
    scene.forward(MINUTE);
    let lent = scene.lent(&ci()).await;
    scene.issuer.will(Err(later()));
    assert!(matches!(scene.unauthorized(&lent).await, Err(Withheld::Unavailable { retry_after: Some(_) })));
    assert_eq!(scene.state(&ci()).await, State::Connected);
    scene.forward(MINUTE);
    assert_eq!(scene.unauthorized(&lent).await, Ok("new-2".to_owned()));
}

#[tokio::test]
async fn header_values_are_marked_when_they_are_refused_twice_within_a_minute() {
    let scene = Scene::new().await;
    scene.give(&ci(), &[("x-api-key", "k1")]).await;
    let wish = wanted_headers(&ci(), &["x-api-key"]);
    let refuse = async |lent: &Lent| scene.keeper.rejected(&wish, lent, &Rejected::Unauthorized).await.map(|_| ());
    let lent = scene.keeper.lend(&wish).await.unwrap();
    assert_eq!(refuse(&lent).await, Err(reauth(Reason::Unauthorized)));
    assert_eq!(scene.reason(&ci()).await, None, "once may be a hiccup");
    assert_eq!(sent(&scene.keeper.lend(&wish).await.unwrap()), ["x-api-key: k1"]);
    // Others were typed: what was said is not said of them.
    scene.give(&ci(), &[("x-api-key", "k2")]).await;
    scene.keeper.0.kept.forget(&ci());
    let other = scene.keeper.lend(&wish).await.unwrap();
    assert_eq!(
        scene.keeper.rejected(&wish, &lent, &Rejected::Unauthorized).await.map(|lent| sent(&lent)).unwrap(),
        ["x-api-key: k2"]
    );
    assert_eq!(refuse(&other).await, Err(reauth(Reason::Unauthorized)));
    assert_eq!(scene.reason(&ci()).await, None);
    assert_eq!(refuse(&other).await, Err(reauth(Reason::Unauthorized)));
    assert_eq!(scene.reason(&ci()).await, Some(Reason::Unauthorized));
    assert_eq!(scene.keeper.lend(&wish).await.map(|_| ()), Err(reauth(Reason::Unauthorized)));
}

#[tokio::test]
async fn u9_a_missing_scope_asks_for_all_and_marks_nothing() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(HOUR)).await;
    let lent = scene.lent(&ci()).await;
    let needs = |scopes: &[&str]| Err(missing(Lack::NeedsScopes(words(scopes))));
    assert_eq!(scene.too_narrow(&lent, &["admin", "read"]).await, needs(&["read", "write", "admin"]));
    assert_eq!(scene.too_narrow(&lent, &[]).await, needs(&["read", "write"]));
    assert_eq!(scene.state(&ci()).await, State::Connected);
    assert_eq!(scene.lend(&ci()).await, Ok("own".to_owned()), "other calls go on");
    assert_eq!(scene.issuer.refreshes(), 0);
    // Its person has connected anew, with what was wanted or without.
    scene.connect(&ci(), "newer", Some("r"), Some(HOUR)).await;
    scene.keeper.0.kept.forget(&ci());
    assert_eq!(scene.too_narrow(&lent, &["write"]).await, Ok("newer".to_owned()));
    assert_eq!(scene.too_narrow(&lent, &["admin"]).await, needs(&["read", "write", "admin"]));
}

#[tokio::test]
async fn header_values_have_no_scopes_to_add() {
    let scene = Scene::new().await;
    scene.give(&ci(), &[("x-api-key", "k1")]).await;
    let wish = wanted_headers(&ci(), &["x-api-key"]);
    let lent = scene.keeper.lend(&wish).await.unwrap();
    let why = Rejected::InsufficientScope(words(&["admin"]));
    let came = scene.keeper.rejected(&wish, &lent, &why).await;
    assert_eq!(came.map(|_| ()), Err(reauth(Reason::InsufficientScope)));
    assert_eq!(scene.state(&ci()).await, State::Connected);
}
