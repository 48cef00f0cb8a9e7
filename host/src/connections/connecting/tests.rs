//! Ways to connections: those that end in one, and everything that comes in between (`docs/threat-model.md` rows U2 to U4).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use super::testing::{PROVIDER, Rig, SAID, digest, of_key, of_user, upstream};
use super::*;
use crate::audit::AuditEvent;
use crate::connection::flow::Check;
use crate::connection::{Connection, Reason, State, Tokens, values};
use crate::connections::issuer::{NoWay, NotIssued};
use crate::store::connections::{Secret, Trouble, sealed_at};
use crate::store::flows::{self, MAX_OPEN};
use crate::store::{audit, links};
use crate::vault::Opening;

async fn stored(rig: &Rig, place: &Place) -> Option<Connection> {
    connections::get(&rig.scene.server.store, place).await.unwrap()
}

/// What is sealed in a connection.
async fn opened(rig: &Rig, connection: &Connection, secret: Secret) -> String {
    let sealed = match (&connection.credential, secret) {
        (Credential::OAuth(Tokens { access, .. }), Secret::Access) => access,
        (Credential::OAuth(Tokens { refresh: Some(refresh), .. }), Secret::Refresh) => refresh,
        (Credential::Headers { values, .. }, Secret::Headers) => values,
        other => panic!("{other:?}"),
    };
    let at = sealed_at(&connection.place, &connection.id, connection.revision, secret);
    match rig.scene.server.vault.open(&at, sealed).await.unwrap() {
        Opening::Opened(bytes) => String::from_utf8(bytes.expose().to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn checks(rig: &Rig) -> Vec<String> {
    let rows = audit::list(&rig.scene.server.store, None, 200).await.unwrap().items;
    let checks = rows.into_iter().rev().filter_map(|row| match row.entry.event {
        AuditEvent::FlowRefused { check, .. } => Some(check),
        _ => None,
    });
    checks.collect()
}

async fn why(rig: &Rig, answer: Answer) -> Why {
    rig.connecting.answer(answer).await.unwrap_err().why
}

#[tokio::test]
async fn a_way_ends_in_a_connection_whose_tokens_open_there_alone() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    let answer = rig.begun(&place, "a", None, Some("/account")).await;
    let connected = rig.connecting.answer(answer).await.unwrap();
    assert_eq!(connected, Connected { place: place.clone(), next: Some("/account".to_owned()) });
    let there = stored(&rig, &place).await.unwrap();
    assert_eq!((there.revision, &there.state), (1, &State::Connected));
    assert_eq!(opened(&rig, &there, Secret::Access).await, "access of code1");
    assert_eq!(opened(&rig, &there, Secret::Refresh).await, "refresh of code1");
    let tokens = there.tokens().unwrap();
    assert_eq!((tokens.issuer.as_str(), &tokens.scopes[..]), (PROVIDER, &["base".to_owned()][..]));
    assert_eq!(tokens.expires, Some(rig.scene.server.env.now().after(Duration::from_secs(3_600))));
    let stand = rig.connecting.look(&place).await.unwrap().unwrap();
    assert_eq!(stand.standing, Some(Standing::Active));
}

#[tokio::test]
async fn u9_a_connection_is_renewed_in_its_place_with_the_scopes_that_it_had() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    let beginner = || Beginner { place: place.clone(), browser: digest("a"), user: None };
    let answer = rig.begun(&place, "a", None, None).await;
    rig.connecting.answer(answer.clone()).await.unwrap();
    let first = stored(&rig, &place).await.unwrap();
    let trouble = Trouble::Reauth(Reason::InsufficientScope);
    connections::mark(&rig.scene.server.store, &place, 1, trouble, Actor::System).await.unwrap();
    let stand = rig.connecting.look(&place).await.unwrap().unwrap();
    assert_eq!(stand.standing, Some(Standing::NeedsReauth));
    let begun = rig.connecting.begin(beginner(), &["write".to_owned()], None).await.unwrap();
    assert_eq!(rig.script().asked.last().unwrap(), &["base", "write"]);
    let state = crate::authorization::consent::testing::parameter(&begun.url, "state").unwrap();
    let again = Answer { state: Plaintext::new(state), code: Some(Plaintext::new("code2")), ..answer };
    rig.connecting.answer(again).await.unwrap();
    let second = stored(&rig, &place).await.unwrap();
    assert_eq!((&second.id, second.revision, &second.state), (&first.id, 2, &State::Connected));
    assert_eq!(opened(&rig, &second, Secret::Access).await, "access of code2");
    assert_eq!(&second.tokens().unwrap().scopes[..], ["base", "write"]);
}

#[tokio::test]
async fn u4_an_answer_counts_in_the_browser_and_for_the_person_that_began_it_alone() {
    let rig = Rig::new("").await;
    let (ada, ben) = (rig.scene.person("ada").await, rig.scene.person("ben").await);
    rig.catch_up().await;
    let place = of_user(&ada.id, "notes");
    let answer = rig.begun(&place, "a", Some(&ada.id), None).await;
    let elsewhere = Answer { browser: digest("b"), ..answer.clone() };
    let other = Answer { user: Some(ben.id.clone()), ..answer.clone() };
    let nobody = Answer { user: None, ..answer.clone() };
    for (answer, check) in [(elsewhere, Check::Browser), (other, Check::User), (nobody, Check::User)] {
        let not = rig.connecting.answer(answer).await.unwrap_err();
        assert!(matches!(not.why, Why::Refused(found) if found == check), "{:?}", not.why);
        assert_eq!(not.place, None, "a stranger learns nothing");
    }
    assert_eq!(rig.issuer.exchanges(), 0);
    // Nobody has ended it for them.
    rig.connecting.answer(answer).await.unwrap();
    assert_eq!(checks(&rig).await, ["browser", "user", "user"]);
}

#[tokio::test]
async fn u3_an_answer_at_the_address_of_another_context_is_no_answer() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    let answer = rig.begun(&place, "a", None, None).await;
    let redirect = answer.redirect.replace("notes", "tracker");
    assert!(matches!(why(&rig, Answer { redirect, ..answer.clone() }).await, Why::Refused(Check::Redirect)));
    assert!(matches!(why(&rig, answer).await, Why::Refused(Check::Replay)), "it is over");
    assert_eq!((rig.issuer.exchanges(), stored(&rig, &place).await), (0, None));
}

#[tokio::test]
async fn u2_an_answer_of_another_issuer_is_no_answer_and_neither_is_one_that_hides_it() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    let long = "https://id.example/".repeat(200);
    for issuer in [Some("https://evil.example"), Some("https://id.example/"), Some(""), Some(&*long)] {
        let answer = rig.begun(&place, "a", None, None).await;
        let answer = Answer { issuer: issuer.map(str::to_owned), ..answer };
        assert!(matches!(why(&rig, answer).await, Why::Refused(Check::Issuer)), "{issuer:?}");
    }
    let answer = rig.begun(&place, "a", None, None).await;
    rig.script().says_issuer = Some(Ok(true));
    assert!(matches!(why(&rig, Answer { issuer: None, ..answer }).await, Why::Refused(Check::Issuer)));
    // Where it cannot be told, nothing is decided: the answer is good for another try.
    let answer = rig.begun(&place, "a", None, None).await;
    let silent = Answer { issuer: None, ..answer };
    rig.script().says_issuer = Some(Err(NoWay::Unreachable { retry_after: None }));
    assert!(matches!(why(&rig, silent.clone()).await, Why::Unavailable { .. }));
    assert_eq!(rig.issuer.exchanges(), 0);
    rig.script().says_issuer = Some(Ok(false));
    rig.connecting.answer(silent).await.unwrap();
}

#[tokio::test]
async fn u3_of_64_replays_of_one_answer_one_is_exchanged() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    let answer = rig.begun(&place, "a", None, None).await;
    let mut replays = JoinSet::new();
    for _ in 0..64 {
        let (connecting, answer) = (rig.connecting.clone(), answer.clone());
        replays.spawn(async move { connecting.answer(answer).await.map_err(|not| not.why) });
    }
    let outcomes = replays.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(Why::Refused(Check::Replay)))), "{outcomes:?}");
    assert_eq!(rig.issuer.exchanges(), 1);
    assert!(matches!(why(&rig, answer).await, Why::Refused(Check::Replay)));
}

#[tokio::test]
async fn a_providers_error_has_one_of_two_outcomes_and_its_words_go_nowhere() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    for (error, declined) in [("access_denied", true), ("server_error", false), (SAID, false), ("", false)] {
        let answer = rig.begun(&place, "a", None, None).await;
        let answer = Answer { error: Some(error.to_owned()), ..answer };
        let not = rig.connecting.answer(answer).await.unwrap_err();
        assert_eq!(matches!(not.why, Why::Declined), declined, "{error}");
        assert!(declined || matches!(not.why, Why::Failed), "{error}");
        assert!(!format!("{not:?}").contains(SAID));
    }
    let answer = rig.begun(&place, "a", None, None).await;
    assert!(matches!(why(&rig, Answer { code: None, ..answer }).await, Why::Failed));
    assert_eq!(rig.issuer.exchanges(), 0);
    for (not, fails) in [
        (NotIssued::Refused(Reason::RefreshRefused), true),
        (NotIssued::Later { retry_after: Some(Duration::from_secs(7)) }, false),
    ] {
        let answer = rig.begun(&place, "a", None, None).await;
        rig.script().not_issued = Some(not);
        let why = why(&rig, answer).await;
        assert_eq!(matches!(why, Why::Failed), fails);
        assert!(fails || matches!(why, Why::Unavailable { retry_after: Some(_) }), "{why:?}");
    }
    assert_eq!(stored(&rig, &place).await, None);
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_of_nothing() {
    let rig = Rig::new("").await;
    let answer = rig.begun(&of_key("ci", "notes"), "a", None, None).await;
    rig.scene.clock.advance(flows::MAX_LIFE);
    assert!(matches!(why(&rig, answer.clone()).await, Why::Unknown));
    let never = Answer { state: Plaintext::new("never"), ..answer };
    assert!(matches!(why(&rig, never).await, Why::Unknown));
}

#[tokio::test]
async fn access_that_is_taken_away_in_between_makes_no_connection_and_tokens_are_given_back() {
    let rig = Rig::new("").await;
    let (notes, tracker) = (of_key("ci", "notes"), of_key("ci", "tracker"));
    let answer = rig.begun(&notes, "a", None, None).await;
    rig.withdraw(&notes);
    assert!(matches!(why(&rig, answer).await, Why::Refused(Check::Access)));
    assert_eq!(rig.issuer.exchanges(), 0);
    let beginner = Beginner { place: notes.clone(), browser: digest("a"), user: None };
    assert!(matches!(rig.connecting.begin(beginner, &[], None).await, Err(NotBegun::NoAccess)));
    // While the code is exchanged.
    let answer = rig.begun(&tracker, "a", None, None).await;
    rig.issuer.gate.forget_permits(usize::MAX);
    let waiting = tokio::join!(rig.connecting.answer(answer), async {
        while rig.issuer.exchanges() == 0 {
            tokio::task::yield_now().await;
        }
        rig.withdraw(&tracker);
        rig.issuer.gate.add_permits(1);
    });
    assert!(matches!(waiting.0.unwrap_err().why, Why::NoAccess));
    assert_eq!(rig.script().revoked, ["access of code1"]);
    assert_eq!((stored(&rig, &notes).await, stored(&rig, &tracker).await), (None, None));
}

#[tokio::test]
async fn nothing_is_decided_on_a_snapshot_that_is_older_than_the_store() {
    let rig = Rig::new("").await;
    let ada = rig.scene.person("ada").await;
    let place = of_user(&ada.id, "notes");
    // The snapshot has not heard of her.
    let answer = rig.begun(&place, "a", Some(&ada.id), None).await;
    let (outcome, ()) = tokio::join!(rig.connecting.answer(answer), async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        rig.catch_up().await;
    });
    outcome.unwrap();
    assert_eq!(rig.issuer.exchanges(), 1);
}

#[tokio::test]
async fn a_snapshot_that_never_catches_up_is_a_fault_and_no_denial() {
    let rig = Rig::new("").await;
    let ada = rig.scene.person("ada").await;
    let answer = rig.begun(&of_user(&ada.id, "notes"), "a", Some(&ada.id), None).await;
    assert!(matches!(why(&rig, answer.clone()).await, Why::Fault(Fault::Outdated)));
    rig.catch_up().await;
    rig.connecting.answer(answer).await.unwrap();
}

#[tokio::test]
async fn what_has_begun_comes_to_its_end_though_the_browser_is_gone() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    let answer = rig.begun(&place, "a", None, None).await;
    rig.issuer.gate.forget_permits(usize::MAX);
    {
        let going = rig.connecting.answer(answer);
        tokio::pin!(going);
        let exchanging = async {
            while rig.issuer.exchanges() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            outcome = &mut going => panic!("{outcome:?}"),
            () = exchanging => {}
        }
    }
    rig.issuer.gate.add_permits(1);
    while stored(&rig, &place).await.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn so_many_ways_are_open_at_once_for_one_holder() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    for number in 0..MAX_OPEN {
        rig.begun(&place, &format!("browser {number}"), None, None).await;
    }
    let beginner =
        |browser: &str, place: &Place| Beginner { place: place.clone(), browser: digest(browser), user: None };
    let more = rig.connecting.begin(beginner("one more", &place), &[], None).await;
    assert!(matches!(more, Err(NotBegun::TooMany)), "{more:?}");
    // One of theirs begun anew, and somebody else's.
    rig.connecting.begin(beginner("browser 3", &place), &[], None).await.unwrap();
    rig.connecting.begin(beginner("one more", &of_key("cd", "notes")), &[], None).await.unwrap();
}

#[tokio::test]
async fn ways_lead_to_usable_addresses_of_upstreams_that_take_tokens() {
    let rig = Rig::new("").await;
    let beginner = |at: &str| Beginner { place: of_key("ci", at), browser: digest("a"), user: None };
    for at in ["files", "open", "nowhere"] {
        assert!(matches!(rig.connecting.begin(beginner(at), &[], None).await, Err(NotBegun::Nothing)), "{at}");
    }
    assert_eq!(rig.connecting.look(&of_key("ci", "open")).await.unwrap(), None);
    let ahead = rig.connecting.ahead(&of_key("ci", "notes")).await.unwrap();
    assert_eq!(ahead, Ahead { issuer: PROVIDER.to_owned(), origin: PROVIDER.to_owned() });
    let unfit = NoWay::Unfit { what: "it has no PKCE" };
    rig.script().no_way = Some(unfit.clone());
    assert!(
        matches!(rig.connecting.begin(beginner("notes"), &[], None).await, Err(NotBegun::NoWay(no)) if no == unfit)
    );
    let begun = flows::list(&rig.scene.server.store, None, None, 10).await.unwrap();
    assert_eq!(begun.items, [], "nothing is left of a look ahead, nor of what did not begin");
}

#[tokio::test]
async fn a_link_has_done_its_work_once_its_connection_is_made() {
    let rig = Rig::new("").await;
    let (env, store) = (&rig.scene.server.env, &rig.scene.server.store);
    let place = of_key("ci", "notes");
    let Holder::Of(principal) = place.holder.clone() else { panic!() };
    let link = crate::connection::link::Link::new(env, principal, place.upstream.clone());
    let link = link.on_behalf_of("operator:token".to_owned());
    links::open(store, &link, digest("a")).await.unwrap();
    let answer = rig.begun(&place, "a", None, None).await;
    rig.connecting.answer(answer).await.unwrap();
    let link = links::of_browser(store, digest("a"), &place.upstream, None).await.unwrap().unwrap();
    assert!(link.is_done);
    let trail = audit::list(store, None, 50).await.unwrap().items;
    let stored = trail.iter().find(|row| matches!(row.entry.event, AuditEvent::ConnectionStored { .. })).unwrap();
    assert_eq!(stored.entry.actor.to_string(), "operator:token", "who had the link made");
}

fn given(values: &[(&str, &str)]) -> BTreeMap<String, Plaintext> {
    values.iter().map(|(name, value)| ((*name).to_owned(), Plaintext::new(*value))).collect()
}

async fn submit(rig: &Rig, values: &[(&str, &str)]) -> Result<Stored, NotStored> {
    rig.connecting.submit(&of_key("ci", "files"), given(values), digest("a")).await
}

#[tokio::test]
async fn u11_values_for_headers_are_checked_tried_and_stored_under_canonical_names() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "files");
    let missing = submit(&rig, &[("X-Api-Key", "k"), ("x-tenant", " ")]).await;
    assert!(matches!(missing, Err(NotStored::Missing(names)) if names == ["x-tenant"]));
    for values in [
        &[("x-api-key", "k"), ("x-tenant", "t"), ("host", "evil")][..],
        &[("x-api-key", "k"), ("X-Api-Key", "l"), ("x-tenant", "t")],
        &[("x_api_key", "k")],
    ] {
        assert!(matches!(submit(&rig, values).await, Err(NotStored::Undeclared)), "{values:?}");
    }
    let invalid = submit(&rig, &[("x-api-key", "k\r\nhost: evil"), ("x-tenant", "t")]).await;
    assert!(matches!(invalid, Err(NotStored::Invalid(names)) if names == ["x-api-key"]));
    assert!(rig.trial.with.lock().unwrap().is_empty(), "nothing of that was tried");
    assert_eq!(submit(&rig, &[(" X-Api-Key ", " k "), ("x-tenant", "t")]).await.unwrap(), Stored(1));
    let there = stored(&rig, &place).await.unwrap();
    let text = opened(&rig, &there, Secret::Headers).await;
    assert_eq!(text, r#"{"x-api-key":"k","x-tenant":"t"}"#);
    assert!(values::read(&crate::secret::SecretBytes::new(text.into_bytes())).is_some());
    let stand = rig.connecting.look(&place).await.unwrap().unwrap();
    assert_eq!((stand.standing, stand.stored), (Some(Standing::Active), given_names()));
}

fn given_names() -> Vec<String> {
    ["x-api-key", "x-tenant"].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn values_that_the_upstream_does_not_take_are_not_stored_and_others_stay() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "files");
    *rig.trial.fails.lock().unwrap() = Some(Failed { status: Some(401) });
    let refused = submit(&rig, &[("x-api-key", "k"), ("x-tenant", "t")]).await;
    assert!(matches!(refused, Err(NotStored::Trial(Failed { status: Some(401) }))));
    assert_eq!(stored(&rig, &place).await, None);
    *rig.trial.fails.lock().unwrap() = None;
    submit(&rig, &[("x-api-key", "k"), ("x-tenant", "t")]).await.unwrap();
    // A part is enough: the rest is what is stored.
    assert_eq!(submit(&rig, &[("x-tenant", "u")]).await.unwrap(), Stored(2));
    let expected: BTreeMap<String, String> =
        [("x-api-key", "k"), ("x-tenant", "u")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(rig.trial.with.lock().unwrap().last(), Some(&expected));
    *rig.trial.fails.lock().unwrap() = Some(Failed { status: None });
    assert!(submit(&rig, &[("x-tenant", "wrong")]).await.is_err());
    let there = stored(&rig, &place).await.unwrap();
    assert_eq!(opened(&rig, &there, Secret::Headers).await, r#"{"x-api-key":"k","x-tenant":"u"}"#);
    rig.withdraw(&place);
    assert!(matches!(submit(&rig, &[("x-tenant", "v")]).await, Err(NotStored::NoAccess)));
}

#[tokio::test]
async fn lists_show_what_there_is_and_what_there_could_be() {
    let rig = Rig::new("").await;
    let holder = of_key("ci", "notes").holder;
    submit(&rig, &[("x-api-key", "k"), ("x-tenant", "t")]).await.unwrap();
    let answer = rig.begun(&of_key("ci", "notes"), "a", None, None).await;
    rig.connecting.answer(answer).await.unwrap();
    rig.withdraw(&of_key("ci", "notes"));
    let shown = async || {
        let stands = rig.connecting.look_at_all(&holder).await.unwrap();
        stands.into_iter().map(|stand| (stand.place.upstream, stand.standing)).collect::<Vec<_>>()
    };
    let expected = [
        (upstream("files"), Some(Standing::Active)),
        (upstream("notes"), Some(Standing::Orphaned)),
        (upstream("tracker"), None),
    ];
    assert_eq!(shown().await, expected);
    rig.withdraw(&of_key("ci", "tracker"));
    assert_eq!(shown().await, expected[..2]);
    let nobody = rig.connecting.look_at_all(&of_key("cd", "notes").holder).await.unwrap();
    assert!(nobody.iter().all(|stand| stand.since.is_none()));
    let ended = rig.connecting.disconnect(&of_key("ci", "notes"), Actor::System).await.unwrap();
    assert_eq!(ended, Disconnection::Ended { is_to_revoke: true });
    assert_eq!(shown().await, expected[..1]);
}

#[tokio::test]
async fn values_that_were_given_for_elsewhere_are_given_anew_and_not_taken_along() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "files");
    submit(&rig, &[("x-api-key", "k"), ("x-tenant", "t")]).await.unwrap();
    rig.lead("files", "https://elsewhere.example/mcp");
    let look = async || {
        let stand = rig.connecting.look(&place).await.unwrap().unwrap();
        (stand.standing.unwrap(), stand.stored)
    };
    assert_eq!(look().await, (Standing::NeedsReauth, Vec::new()), "no field says that it is filled");
    let part = submit(&rig, &[("x-tenant", "u")]).await;
    assert!(matches!(part, Err(NotStored::Missing(names)) if names == ["x-api-key"]));
    assert_eq!(rig.trial.with.lock().unwrap().len(), 1, "nothing was tried there");
    rig.lead("files", "https://files.example/another/path");
    assert_eq!(look().await, (Standing::Active, given_names()), "it is where it was");
    rig.lead("files", "https://elsewhere.example/mcp");
    assert_eq!(submit(&rig, &[("x-api-key", "l"), ("x-tenant", "u")]).await.unwrap(), Stored(2));
    assert_eq!(look().await, (Standing::Active, given_names()));
    rig.lead("files", "https://files.example/mcp");
    assert_eq!(look().await.0, Standing::NeedsReauth);
}

#[tokio::test]
async fn tokens_are_for_where_the_upstream_was_when_its_person_set_out() {
    let rig = Rig::new("").await;
    let place = of_key("ci", "notes");
    let answer = rig.begun(&place, "a", None, None).await;
    let before = rig.connecting.look(&place).await.unwrap().unwrap();
    assert_eq!(before.standing, None);
    rig.lead("notes", "https://elsewhere.example/mcp");
    rig.connecting.answer(answer).await.unwrap();
    let there = stored(&rig, &place).await.unwrap();
    assert_ne!(there.origin.unwrap().to_string(), "https://elsewhere.example:443");
    let standing = rig.connecting.look(&place).await.unwrap().unwrap().standing;
    assert_eq!(standing, Some(Standing::NeedsReauth));
    let again = rig.begun(&place, "a", None, None).await;
    assert_eq!(rig.script().asked.last().unwrap(), &[""; 0], "scopes of elsewhere are not asked for here");
    rig.connecting.answer(again).await.unwrap();
    let standing = rig.connecting.look(&place).await.unwrap().unwrap().standing;
    assert_eq!(standing, Some(Standing::Active));
}
