//! Links: raced for, opened again, opened by somebody else, too late, and after access has gone.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_tests::Caller;

use super::tokens::scene;
use super::*;
use crate::oauth::{PASSWORD, Who, add_person, client_of, sign_in, sign_in_as};

const RACERS: usize = 16;

async fn lacking(caller: &Caller) -> String {
    url(&missing(&caller.call("mail__whoami", json!({})).await))
}

#[tokio::test]
async fn u4_of_many_browsers_that_race_for_a_link_one_has_it() {
    let (_mail, gateway) = scene().await;
    let link = lacking(&gateway.caller("alice")).await;
    let mut browsers: Vec<Browser> = (0..RACERS).map(|_| Browser::new(gateway.public)).collect();
    let mut forms = Vec::new();
    for browser in &mut browsers {
        let page = browser.get(link.split('#').next().unwrap()).await;
        forms.push(page.form("/connect/link").with("link", &link));
    }
    let racing = browsers.iter_mut().zip(&forms).map(|(browser, form)| browser.submit(form));
    let pages = join_all(racing).await;
    let statuses: Vec<u16> = pages.iter().map(Page::status).collect();
    let won = statuses.iter().filter(|status| **status == 200).count();
    let lost = statuses.iter().filter(|status| **status == 403).count();
    assert_eq!((won, lost), (1, RACERS - 1), "{statuses:?}");
}

#[tokio::test]
async fn u4_a_link_that_has_done_its_work_does_none_again() {
    let (mail, gateway) = scene().await;
    let link = lacking(&gateway.caller("alice")).await;
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &link).await;
    let form = page.form("/connect/mail");
    let provider = browser.submit(&form).await;
    let back = answer_of(&provider.url).await;
    assert_eq!(browser.get(&back).await.status(), 200);
    assert_eq!(mail.asked("/token"), 1);

    let again = open(&mut browser, &link).await;
    assert!(again.text().contains("Connected") && again.find("/connect/mail").is_none(), "{again}");
    let replayed = browser.submit(&form).await;
    assert!((400..500).contains(&replayed.status()) && replayed.url.contains("/connect/mail"), "{replayed}");
    assert_eq!(browser.get(&back).await.status(), 400, "an answer counts once");
    let mut other = Browser::new(gateway.public);
    assert_eq!(open(&mut other, &link).await.status(), 403);
    assert_eq!(other.get(&back).await.status(), 403, "the browser is looked at first");
    assert_eq!(mail.asked("/token"), 1);
    whoami(&gateway.caller("alice").call("mail__whoami", json!({})).await);
}

#[tokio::test]
async fn u4_a_link_of_a_person_is_nobody_elses_whoever_comes_first() {
    let (mail, gateway) = scene().await;
    let mut browsers = Vec::new();
    for login in ["ann", "ben"] {
        add_person(&gateway, login).await;
        let mut browser = Browser::new(gateway.public);
        let page = browser.get("/sign-in").await;
        sign_in(&mut browser, &page, login, PASSWORD).await;
        browsers.push(browser);
    }
    let client = client_of(&gateway).await;
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let ann = client.caller(&tokens.access);
    let link = lacking(&ann).await;
    assert!(link.contains("/connect/link/") && !link.contains('#'), "{link}");

    // Whoever is nobody is asked who they are, and then it is not theirs.
    let mut stranger = Browser::new(gateway.public);
    let page = stranger.get(&link).await;
    let page = sign_in(&mut stranger, &page, "ben", PASSWORD).await;
    assert_eq!(page.status(), 403, "{page}");

    let pages = join_all(browsers.iter_mut().rev().map(|browser| browser.get(&link))).await;
    let [of_ben, of_ann] = pages.as_slice() else { panic!("{pages:?}") };
    assert_eq!((of_ben.status(), of_ann.status()), (403, 200), "{of_ben} {of_ann}");
    let provider = browsers[0].submit(&of_ann.form("/connect/mail")).await;
    let back = answer_of(&provider.url).await;
    assert_eq!(browsers[1].get(&back).await.status(), 403, "an answer is its person's");
    assert_eq!(mail.asked("/token"), 0);
    assert_eq!(browsers[0].get(&back).await.status(), 200);
    whoami(&ann.call("mail__whoami", json!({})).await);
    // M12
    assert!(!mail.seen().join("\n").contains(&tokens.access), "the caller's own token went along");
}

#[tokio::test]
async fn u4_a_link_opens_for_a_quarter_of_an_hour() {
    let (mail, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let (in_time, late) = (lacking(&alice).await, lacking(&alice).await);
    let mut browser = Browser::new(gateway.public);
    gateway.clock.advance(Duration::from_secs(14 * 60));
    let page = open(&mut browser, &in_time).await;
    assert_eq!(page.status(), 200, "{page}");
    gateway.clock.advance(Duration::from_secs(2 * 60));
    assert_eq!(open(&mut browser, &late).await.status(), 400);
    let provider = browser.submit(&page.form("/connect/mail")).await;
    assert!(provider.url.starts_with(mail.origin()), "it was opened in time: {provider}");
    gateway.clock.advance(Duration::from_secs(16 * 60));
    let page = browser.get(&page.url).await;
    assert!(page.find("/connect/mail").is_none(), "{page}");
}

#[tokio::test]
async fn a_link_leads_nowhere_once_access_has_gone_and_on_when_it_is_back() {
    let (mail, gateway) = scene().await;
    let new = json!({ "name": "temp", "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let made = gateway.operator("POST", "/api/v1/keys", Some(new)).await.json();
    let temp = Caller::new(gateway.public, made["secret"].as_str().map(str::to_owned));
    let disable = async |disabled: bool| {
        let change = json!({ "disabled": disabled });
        assert_eq!(gateway.operator("PATCH", "/api/v1/keys/temp", Some(change)).await.status, 200);
    };
    let link = lacking(&temp).await;
    disable(true).await;
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &link).await;
    assert!(page.status() == 403 && page.find("/connect/mail").is_none(), "{page}");
    disable(false).await;
    let page = open(&mut browser, &link).await;
    assert_eq!(page.status(), 200, "{page}");

    // The same on the way, before the form and before the answer.
    disable(true).await;
    let form = page.form("/connect/mail");
    let refused = browser.submit(&form).await;
    assert_eq!(refused.status(), 403, "{refused}");
    disable(false).await;
    let page = open(&mut browser, &link).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let back = answer_of(&provider.url).await;
    disable(true).await;
    let refused = browser.get(&back).await;
    // Reconciling may have dropped the flow before.
    assert!([400, 403].contains(&refused.status()), "{refused}");
    assert_eq!(mail.asked("/token"), 0, "the code is shown to nobody");
    disable(false).await;
    assert_eq!(connections(&gateway, "holder=key:temp").await, Vec::<Value>::new());

    let page = open(&mut browser, &link).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    assert_eq!(agree(&mut browser, &provider).await.status(), 200);
    whoami(&temp.call("mail__whoami", json!({})).await);
}
