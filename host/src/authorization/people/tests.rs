//! People in a real store: who gets in, with which cookie, and for how long.

use super::testing::House;
use super::*;
use crate::identity::user::PasswordHash;
use crate::store::audit;
use crate::store::users::Edit;

const PASSWORD: &str = "correct horse battery";

async fn house() -> House {
    House::new("https://mcp.example.com", |_| {}).await
}

fn browser(replaces: Option<Digest>) -> Browser {
    Browser { replaces, agent: "Browser/1".to_owned(), surface: Surface::Public }
}

async fn sign_in(house: &House, login: &str, password: &str, replaces: Option<Digest>) -> SignedIn {
    let (login, password) = (login.to_owned(), Plaintext::new(password));
    let attempt = Attempt { login, password, address: None, browser: browser(replaces) };
    house.server.sign_in(attempt).await.unwrap()
}

async fn begun(house: &House, login: &str, replaces: Option<Digest>) -> Begun {
    match sign_in(house, login, PASSWORD, replaces).await {
        SignedIn::Begun(begun) => *begun,
        other => panic!("{other:?}"),
    }
}

async fn is_signed_in(house: &House, cookie: &Plaintext) -> bool {
    house.server.signed_in(Some(cookie)).await.unwrap().is_some()
}

#[tokio::test]
async fn only_an_open_account_with_its_own_password_is_signed_in() {
    let house = house().await;
    let ada = house.person("ada", PASSWORD).await;
    house.add("invited", Some(PASSWORD), true).await;
    house.add("without", None, false).await;
    let suspended = house.person("suspended", PASSWORD).await;
    house.edit(&suspended, Edit::Suspend).await;
    for (login, password) in [
        ("ada", "another password"),
        ("ada", ""),
        ("nobody", PASSWORD),
        ("not a login", PASSWORD),
        ("", PASSWORD),
        ("invited", PASSWORD),
        ("without", PASSWORD),
        ("suspended", PASSWORD),
    ] {
        let answer = sign_in(&house, login, password, None).await;
        assert!(matches!(answer, SignedIn::Refused), "{login}: {answer:?}");
    }
    let begun = begun(&house, " ADA ", None).await;
    assert_eq!((&begun.session.user, &begun.session.method), (&ada.id, &Method::Password));
    let (session, user) = house.server.signed_in(Some(&begun.cookie)).await.unwrap().unwrap();
    assert_eq!((session.id, user.id), (begun.session.id.clone(), ada.id.clone()));
    assert!(house.server.signed_in(None).await.unwrap().is_none());
    assert!(!is_signed_in(&house, &Plaintext::new("guessed")).await);
    house.edit(&ada, Edit::Suspend).await;
    assert!(!is_signed_in(&house, &begun.cookie).await);
}

#[tokio::test]
async fn h10_operators_sign_in_for_hours_and_others_not_at_all() {
    let house = house().await;
    let ada = house.person("ada", PASSWORD).await;
    let sign_in = async || {
        let browser = Browser { surface: Surface::Admin, ..browser(None) };
        let attempt = Attempt { login: "ada".to_owned(), password: Plaintext::new(PASSWORD), address: None, browser };
        house.server.sign_in(attempt).await.unwrap()
    };
    assert!(matches!(sign_in().await, SignedIn::NotAdmitted));
    assert!(house.server.holdings(&ada, None).await.unwrap().sessions.is_empty(), "nothing is begun");
    house.edit(&ada, Edit::Role(Role::Viewer)).await;
    let SignedIn::Begun(begun) = sign_in().await else { panic!("a viewer signs in") };
    assert_eq!(begun.session.surface, Surface::Admin);
    assert!(begun.session.idle <= ADMIN_IDLE && begun.session.ends <= begun.session.created.after(ADMIN_LIFE));
    let at = async |surface| house.server.signed_in_at(surface, Some(&begun.cookie)).await.unwrap().is_some();
    assert!(at(Surface::Admin).await && !at(Surface::Public).await);
    house.clock.advance(ADMIN_IDLE);
    assert!(!at(Surface::Admin).await);
}

#[tokio::test]
async fn a14_a_browser_has_a_new_cookie_after_each_sign_in_and_the_old_one_is_dead() {
    let house = house().await;
    house.person("ada", PASSWORD).await;
    house.person("bob", PASSWORD).await;
    let first = begun(&house, "ada", None).await;
    let second = begun(&house, "ada", Some(first.cookie.digest())).await;
    assert!(first.cookie != second.cookie && first.session.id != second.session.id);
    assert!(!is_signed_in(&house, &first.cookie).await && is_signed_in(&house, &second.cookie).await);
    // Somebody else in the same browser.
    let third = begun(&house, "bob", Some(second.cookie.digest())).await;
    assert!(!is_signed_in(&house, &second.cookie).await && is_signed_in(&house, &third.cookie).await);
    // A cookie that somebody planted is not taken over.
    let planted = Plaintext::new("planted");
    let fourth = begun(&house, "ada", Some(planted.digest())).await;
    assert!(!is_signed_in(&house, &planted).await && is_signed_in(&house, &fourth.cookie).await);
    assert_eq!(house.server.sign_out(&fourth.session).await.unwrap(), Ending::Ended);
    assert!(!is_signed_in(&house, &fourth.cookie).await);
    assert_eq!(house.server.sign_out(&fourth.session).await.unwrap(), Ending::NotFound);
}

#[tokio::test]
async fn a_session_ends_when_it_rests_and_at_its_end() {
    let hour = Duration::from_secs(60 * 60);
    let house = House::new("https://mcp.example.com", |auth| {
        auth.sign_in.session_idle = hour * 2;
        auth.sign_in.session_life = hour * 5;
    });
    let house = house.await;
    house.person("ada", PASSWORD).await;
    let resting = begun(&house, "ada", None).await;
    house.clock.advance(hour * 2);
    assert!(!is_signed_in(&house, &resting.cookie).await);
    let used = begun(&house, "ada", None).await;
    for _ in 0..4 {
        house.clock.advance(hour);
        assert!(is_signed_in(&house, &used.cookie).await);
    }
    house.clock.advance(hour);
    assert!(!is_signed_in(&house, &used.cookie).await);
}

#[tokio::test]
async fn a_look_at_who_is_signed_in_does_not_keep_a_session_from_resting() {
    let hour = Duration::from_secs(60 * 60);
    let house = House::new("https://mcp.example.com", |auth| auth.sign_in.session_idle = hour * 2).await;
    let ada = house.person("ada", PASSWORD).await;
    let cookie = begun(&house, "ada", None).await.cookie;
    house.clock.advance(hour);
    assert_eq!(house.server.peek(Some(&cookie)).await.unwrap(), Some(ada.id));
    assert_eq!(house.server.peek(None).await.unwrap(), None);
    house.clock.advance(hour);
    assert_eq!(house.server.peek(Some(&cookie)).await.unwrap(), None);
    assert!(!is_signed_in(&house, &cookie).await);
}

#[tokio::test]
async fn t20_whoever_guesses_waits_and_whoever_knows_gets_in_then() {
    let house = house().await;
    house.person("ada", PASSWORD).await;
    for login in ["ada", "nobody"] {
        for _ in 0..5 {
            assert!(matches!(sign_in(&house, login, "another password", None).await, SignedIn::Refused));
        }
        // The right password is not looked at, or it would tell that it is right.
        let answer = sign_in(&house, login, PASSWORD, None).await;
        assert!(matches!(answer, SignedIn::Wait(wait) if wait == Duration::from_secs(1)), "{login}: {answer:?}");
    }
    house.clock.advance(Duration::from_secs(1));
    begun(&house, "ada", None).await;
    assert!(matches!(sign_in(&house, "ada", "another password", None).await, SignedIn::Refused), "all tries are back");
}

#[tokio::test]
async fn where_passwords_are_off_nobody_gets_in_with_one() {
    let house = House::new("https://mcp.example.com", |auth| auth.sign_in.passwords = false).await;
    house.person("ada", PASSWORD).await;
    assert!(matches!(sign_in(&house, "ada", PASSWORD, None).await, SignedIn::Off));
}

#[tokio::test]
async fn a_password_is_changed_by_whoever_knows_it_and_ends_all_other_browsers() {
    let house = house().await;
    let ada = house.person("ada", PASSWORD).await;
    let (here, there) = (begun(&house, "ada", None).await, begun(&house, "ada", None).await);
    let change = async |old: &str, new: &str| {
        let (_, user) = house.server.signed_in(Some(&here.cookie)).await.unwrap().unwrap();
        let passwords = (Plaintext::new(old), Plaintext::new(new));
        house.server.change_password(&user, passwords, None, browser(Some(here.cookie.digest()))).await.unwrap()
    };
    assert!(matches!(change("another password", "a new passphrase").await, Changed::WrongPassword));
    assert!(matches!(change(PASSWORD, "short").await, Changed::Weak(Weak::TooShort)));
    assert!(is_signed_in(&house, &there.cookie).await);
    let Changed::Changed(renewed) = change(PASSWORD, "a new passphrase").await else { panic!("it is changed") };
    assert!(is_signed_in(&house, &renewed.cookie).await);
    for cookie in [&here.cookie, &there.cookie] {
        assert!(!is_signed_in(&house, cookie).await);
    }
    assert!(matches!(sign_in(&house, "ada", PASSWORD, None).await, SignedIn::Refused));
    assert!(matches!(sign_in(&house, "ada", "a new passphrase", None).await, SignedIn::Begun(_)));
    let without = house.edit(&ada, Edit::Password(None)).await;
    let passwords = (Plaintext::new(""), Plaintext::new("a new passphrase"));
    let answer = house.server.change_password(&without, passwords, None, browser(None)).await.unwrap();
    assert!(matches!(answer, Changed::HasNone));
}

#[tokio::test]
async fn a_fault_is_no_wrong_password() {
    let house = house().await;
    house.person("ada", PASSWORD).await;
    browser_sessions::damage(&house.server.store, true).await;
    for _ in 0..7 {
        let attempt = Attempt {
            login: "ada".to_owned(),
            password: Plaintext::new(PASSWORD),
            address: None,
            browser: browser(None),
        };
        let answer = house.server.sign_in(attempt).await;
        assert!(matches!(answer, Err(Fault::Store(_))), "{answer:?}");
    }
    browser_sessions::damage(&house.server.store, false).await;
    begun(&house, "ada", None).await;
}

#[test]
fn a_password_that_was_changed_stays_changed_whatever_fails_afterwards() {
    assert!(matches!(changed(Err(Fault::Busy)), Changed::SignInAgain));
    assert!(matches!(changed(Ok(None)), Changed::SignInAgain));
}

#[tokio::test]
async fn a_password_that_was_kept_cheaply_is_kept_better_once_it_is_known() {
    let house = house().await;
    let ada = house.person("ada", PASSWORD).await;
    // `password` with 4 MiB and one pass.
    let cheap = "$argon2id$v=19$m=4096,t=1,p=1$c29tZXNhbHQ";
    let hash = {
        use argon2::{Argon2, Params};
        let mut out = [0; 32];
        let params = Params::new(4096, 1, 1, None).unwrap();
        Argon2::from(params).hash_password_into(PASSWORD.as_bytes(), b"somesalt", &mut out).unwrap();
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(out)
    };
    let cheap = PasswordHash::parse(&format!("{cheap}${hash}")).unwrap();
    let before = house.edit(&ada, Edit::Password(Some(cheap.clone()))).await;
    let first = begun(&house, "ada", None).await;
    let now = users::get(&house.server.store, &ada.id).await.unwrap().unwrap();
    assert!(!Passwords::is_outdated(now.password.as_ref().unwrap()));
    assert_eq!(now.revision, before.revision, "it is no change of the account");
    begun(&house, "ada", None).await;
    assert!(is_signed_in(&house, &first.cookie).await, "nobody is signed out by that");
    let trail = audit::list(&house.server.store, None, 50).await.unwrap().items;
    let changes = trail.iter().filter(|row| row.entry.event.name() == "user.changed").count();
    assert_eq!(changes, 1, "only the operator's own edit is told");
}
