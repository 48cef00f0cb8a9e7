//! The steps of a consent, and what they withstand (`docs/threat-model.md` rows A8 to A15).

use std::time::Duration;

use super::testing::{OPERATOR, Scene, client, parameter, query};
use super::*;
use crate::authorization::authorize::{Answer, Arrival, authorize};
use crate::oauth::access::Terms;
use crate::oauth::client::Metadata;
use crate::policy::tests::{about_grants, no_answer};
use crate::secret::Plaintext;
use crate::store::approvals::{self, Verdict};
use crate::store::authorizations::code as codes;
use crate::store::changes::{self, Revision};
use crate::store::clients::{self, Authority};
use crate::store::follower::Subscriber as _;
use crate::store::users;

/// A request in a browser.
struct Tab {
    request: RequestId,
    secret: Plaintext,
    session: Option<Plaintext>,
}

async fn arrive(scene: &Scene, changed: &[(&str, &str)], session: Option<&Plaintext>) -> Answer {
    let parameters = query(changed);
    let arrival = Arrival { parameters: &parameters, session, remote_ip: None, user_agent: None };
    authorize(&scene.server, arrival).await.unwrap()
}

impl Tab {
    async fn open(scene: &Scene, changed: &[(&str, &str)], session: Option<&Plaintext>) -> Self {
        let Answer::Ask { request, secret } = arrive(scene, changed, session).await else { panic!("nobody is asked") };
        Self { request, secret, session: session.cloned() }
    }

    async fn person(&self, scene: &Scene) -> Option<Person> {
        scene.server.signed_in(self.session.as_ref()).await.unwrap()
    }

    fn visit<'a>(&'a self, person: Option<&'a Person>) -> Visit<'a> {
        let browser = self.secret.digest();
        Visit { request: &self.request, browser, person, remote_ip: None, user_agent: None }
    }

    async fn look(&self, scene: &Scene) -> Look {
        let person = self.person(scene).await;
        look(&scene.server, self.visit(person.as_ref())).await.unwrap()
    }

    async fn choose(&self, scene: &Scene, identity: Identity) -> Choice {
        let person = self.person(scene).await;
        choose(&scene.server, self.visit(person.as_ref()), identity).await.unwrap()
    }

    /// The second page, as the person who is signed in.
    async fn services(&self, scene: &Scene, identity: Identity) -> Box<ServicesStep> {
        assert_eq!(self.choose(scene, identity).await, Choice::Chosen);
        match self.look(scene).await {
            Look::Services(step) => step,
            other => panic!("{other:?}"),
        }
    }

    async fn finish(&self, scene: &Scene, shown: Digest, remember: bool) -> Finish {
        let person = self.person(scene).await;
        finish(&scene.server, self.visit(person.as_ref()), &shown.to_hex(), remember).await.unwrap()
    }

    /// All of it.
    async fn consent(&self, scene: &Scene, remember: bool) -> String {
        let step = self.services(scene, Identity::Person).await;
        match self.finish(scene, step.shown, remember).await {
            Finish::Done(address) => address,
            other => panic!("{other:?}"),
        }
    }
}

fn key() -> Identity {
    Identity::Key(Plaintext::new("pk_ci_0123456789abcdef0123456789abcdef"))
}

fn upstreams(step: &ServicesStep) -> Vec<&str> {
    step.services.iter().map(|service| service.upstream.as_str()).collect()
}

#[tokio::test]
async fn a_person_chooses_looks_and_lets_the_client_in() {
    let scene = Scene::new().await;
    let session = scene.sign_in(&scene.person("ada").await).await;
    let tab = Tab::open(&scene, &[], Some(&session)).await;
    let Look::Identity(step) = tab.look(&scene).await else { panic!() };
    assert_eq!(step.person, Some(SignedIn { name: "ada".to_owned(), is_recent: true }));
    assert!(!step.guests && step.notice.is_none());
    let step = tab.services(&scene, Identity::Person).await;
    assert_eq!(upstreams(&step), ["notes", "tracker"]);
    assert!(step.services.iter().all(|service| service.connection == Connection::NoneNeeded));
    let Finish::Done(address) = tab.finish(&scene, step.shown, false).await else { panic!() };
    assert!(address.starts_with("https://app.example/cb?code=pcc_"), "{address}");
    assert_eq!(parameter(&address, "state").as_deref(), Some("s1"));
    assert_eq!(parameter(&address, "iss").as_deref(), Some(testing::ISSUER));
    assert!(matches!(tab.look(&scene).await, Look::Refused(Refused::NotFound)), "it is over");
    assert!(scene.trail().await.ends_with(&["consent.given"]));
    let code = Plaintext::new(parameter(&address, "code").unwrap());
    let granted = codes(&scene.server.store, code.digest()).await.unwrap().unwrap();
    assert!(matches!(&granted.principal, Principal::User(_)));
    let principal = granted.principal.to_string();
    assert_eq!(granted.access.identities.to_vec(), ["upstream:notes", "upstream:tracker", &principal]);
    assert_eq!(granted.access.limits, crate::oauth::AccessLimits::default());
}

#[tokio::test]
async fn a_key_opens_what_its_list_says_and_a_wrong_one_nothing() {
    let scene = Scene::new().await;
    let tab = Tab::open(&scene, &[("resource", "https://gate.example/mcp")], None).await;
    assert_eq!(tab.choose(&scene, Identity::Person).await, Choice::NotSignedIn);
    assert_eq!(tab.choose(&scene, Identity::Guest).await, Choice::NoGuests);
    for wrong in ["pk_gone_0123456789abcdef0123456789abcdef", "pk_never", "", "ci"] {
        let choice = tab.choose(&scene, Identity::Key(Plaintext::new(wrong))).await;
        assert_eq!(choice, Choice::WrongKey, "expired and unknown are told alike");
    }
    let step = tab.services(&scene, key()).await;
    assert_eq!((upstreams(&step), &*step.name, step.may_remember), (vec!["notes"], "the virtual key ci", false));
    // The key is taken away while its holder thinks.
    scene.server.snapshot.store(std::sync::Arc::new(Snapshot { keys: std::sync::Arc::default(), ..copy(&scene) }));
    let Finish::Changed(Look::Identity(step)) = tab.finish(&scene, step.shown, false).await else { panic!() };
    assert_eq!(step.notice, Some(Notice::IdentityGone));
}

fn copy(scene: &Scene) -> Snapshot {
    scene.server.snapshot.load().as_ref().clone()
}

#[tokio::test]
async fn t20_keys_are_not_tried_one_after_another() {
    let scene = Scene::new().await;
    let tab = Tab::open(&scene, &[], None).await;
    let mut tried = 0;
    while tab.choose(&scene, Identity::Key(Plaintext::new("pk_guess"))).await == Choice::WrongKey {
        tried += 1;
        assert!(tried < 20, "nobody tries so often");
    }
    assert!(matches!(tab.choose(&scene, key()).await, Choice::TooOften(_)), "the right one does not count either");
}

#[tokio::test]
async fn a_guest_is_let_in_where_guests_are() {
    let scene = Scene::with("[auth]\nguests = true\n").await;
    let tab = Tab::open(&scene, &[], None).await;
    let step = tab.services(&scene, Identity::Guest).await;
    assert!(matches!(step.principal, Principal::Guest(_)) && !step.may_remember);
    let Finish::Done(_) = tab.finish(&scene, step.shown, true).await else { panic!() };
    // Ten an hour from one address, whatever becomes of them.
    let mut chosen = 1;
    loop {
        let tab = Tab::open(&scene, &[], None).await;
        match tab.choose(&scene, Identity::Guest).await {
            Choice::Chosen => chosen += 1,
            Choice::TooOften(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(chosen, 10);
}

#[tokio::test]
async fn a9_another_browser_does_nothing_and_takes_nothing() {
    let scene = Scene::new().await;
    let session = scene.sign_in(&scene.person("ada").await).await;
    let tab = Tab::open(&scene, &[], Some(&session)).await;
    let step = tab.services(&scene, Identity::Person).await;
    // Somebody who knows the address of the page, and is signed in as the very same person.
    let stolen =
        Tab { secret: Plaintext::new("guessed"), request: tab.request.clone(), session: Some(session.clone()) };
    let wrong = |look| matches!(look, Look::Refused(Refused::WrongBrowser));
    assert!(wrong(stolen.look(&scene).await));
    assert_eq!(stolen.choose(&scene, key()).await, Choice::Refused(Refused::WrongBrowser));
    let person = stolen.person(&scene).await;
    assert_eq!(back(&scene.server, stolen.visit(person.as_ref())).await.unwrap(), Err(Refused::WrongBrowser));
    assert_eq!(cancel(&scene.server, stolen.visit(person.as_ref())).await.unwrap(), Err(Refused::WrongBrowser));
    let Finish::Changed(look) = stolen.finish(&scene, step.shown, false).await else { panic!("a code for a stranger") };
    assert!(wrong(look));
    assert!(!scene.trail().await.iter().any(|name| name.starts_with("consent")), "nothing was done");
    let Finish::Done(_) = tab.finish(&scene, step.shown, false).await else { panic!("the request was kept") };
}

#[tokio::test]
async fn a15_somebody_else_who_signs_in_chooses_again() {
    let scene = Scene::new().await;
    let (ada, bob) = (scene.person("ada").await, scene.person("bob").await);
    let of_ada = scene.sign_in(&ada).await;
    let mut tab = Tab::open(&scene, &[], Some(&of_ada)).await;
    let step = tab.services(&scene, Identity::Person).await;
    // Bob signs in in the same browser, in another tab.
    tab.session = Some(scene.sign_in(&bob).await);
    let Finish::Changed(Look::Identity(page)) = tab.finish(&scene, step.shown, false).await else {
        panic!("a code for somebody who is not there any more")
    };
    assert_eq!(page.notice, Some(Notice::PersonChanged));
    assert_eq!(page.person.map(|person| person.name).as_deref(), Some("bob"));
    let Look::Identity(page) = tab.look(&scene).await else { panic!("the choice is gone") };
    assert_eq!(page.notice, None);
    // Nor does Ada's choice come back with her.
    tab.session = Some(of_ada);
    assert!(matches!(tab.look(&scene).await, Look::Identity(_)));
    // Whoever signs out, and a key that was chosen while somebody was signed in.
    tab.services(&scene, Identity::Person).await;
    tab.session = None;
    assert!(matches!(tab.look(&scene).await, Look::Identity(_)));
    tab.services(&scene, key()).await;
    tab.session = Some(scene.sign_in(&bob).await);
    let Look::Identity(page) = tab.look(&scene).await else { panic!() };
    assert_eq!(page.notice, Some(Notice::PersonChanged));
}

#[tokio::test]
async fn a15_two_tabs_have_two_requests_and_two_people() {
    let scene = Scene::new().await;
    let (ada, bob) = (scene.person("ada").await, scene.person("bob").await);
    let one = Tab::open(&scene, &[("state", "one")], Some(&scene.sign_in(&ada).await)).await;
    let other = Tab::open(&scene, &[("state", "other")], Some(&scene.sign_in(&bob).await)).await;
    let (first, second) = (one.consent(&scene, false).await, other.consent(&scene, false).await);
    for (address, state, user) in [(first, "one", ada), (second, "other", bob)] {
        assert_eq!(parameter(&address, "state").as_deref(), Some(state));
        let code = Plaintext::new(parameter(&address, "code").unwrap());
        let granted = codes(&scene.server.store, code.digest()).await.unwrap().unwrap();
        assert_eq!(granted.principal, Principal::User(user.id));
    }
}

#[tokio::test]
async fn a_choice_dies_with_what_it_rests_on() {
    let scene = Scene::new().await;
    let ada = scene.person("ada").await;
    let session = scene.sign_in(&ada).await;
    let tab = Tab::open(&scene, &[], Some(&session)).await;
    let step = tab.services(&scene, Identity::Person).await;
    let person = tab.person(&scene).await;
    // Suspended between the look at who is signed in and the approval.
    users::change(&scene.server.store, &ada.id, None, vec![users::Edit::Suspend], OPERATOR).await.unwrap();
    let finished = finish(&scene.server, tab.visit(person.as_ref()), &step.shown.to_hex(), false).await.unwrap();
    assert!(matches!(finished, Finish::Changed(Look::Identity(_))), "{finished:?}");
    // A client that is deleted meanwhile.
    let tab = Tab::open(&scene, &[], None).await;
    let step = tab.services(&scene, key()).await;
    let id = crate::ids::ClientId::parse("app").unwrap();
    clients::delete(&scene.server.store, &id, Authority::Operator, OPERATOR).await.unwrap();
    // As the follower does.
    let news = scene.server.store.read(|tx| changes::since(tx, Revision::default())).await.unwrap();
    scene.server.clients.take(&news).await.unwrap();
    assert!(matches!(tab.finish(&scene, step.shown, false).await, Finish::Changed(Look::Void)));
    assert!(!scene.trail().await.contains(&"consent.given"));
}

#[tokio::test]
async fn back_and_cancel_do_what_they_say() {
    let scene = Scene::new().await;
    let tab = Tab::open(&scene, &[], None).await;
    let step = tab.services(&scene, key()).await;
    back(&scene.server, tab.visit(None)).await.unwrap().unwrap();
    assert!(matches!(tab.finish(&scene, step.shown, false).await, Finish::Changed(Look::Identity(_))));
    let address = cancel(&scene.server, tab.visit(None)).await.unwrap().unwrap().unwrap();
    assert_eq!(parameter(&address, "error").as_deref(), Some("access_denied"));
    assert_eq!(parameter(&address, "iss").as_deref(), Some(testing::ISSUER));
    assert_eq!(cancel(&scene.server, tab.visit(None)).await.unwrap(), Err(Refused::NotFound));
    assert_eq!(scene.trail().await.last(), Some(&"consent.refused"));
    let late = Tab::open(&scene, &[], None).await;
    scene.clock.advance(Duration::from_secs(15 * 60));
    assert!(matches!(late.look(&scene).await, Look::Refused(Refused::Expired)));
}

#[tokio::test]
async fn a_cancel_that_cannot_be_told_is_none() {
    let scene = Scene::new().await;
    let store = &scene.server.store;
    let tab = Tab::open(&scene, &[], None).await;
    let request = authorizations::get(store, &tab.request, tab.secret.digest()).await.unwrap().unwrap();
    // The same of a client whose document cannot be fetched at the moment.
    let client = crate::ids::ClientId::parse("https://nowhere.example/client.json").unwrap();
    let request = AuthorizationRequest { id: RequestId::generate(&scene.server.env), client, ..request };
    let tab = Tab { request: request.id.clone(), ..tab };
    let begun = authorizations::begin(store, request, Duration::from_secs(60), 10).await.unwrap();
    assert_eq!(begun, authorizations::Begin::Begun);
    let cancelled = cancel(&scene.server, tab.visit(None)).await;
    assert!(matches!(cancelled, Err(Fault::Busy)), "{cancelled:?}");
    assert!(authorizations::get(store, &tab.request, tab.secret.digest()).await.unwrap().is_ok(), "it is kept");
    assert!(!scene.trail().await.contains(&"consent.refused"));
}

#[tokio::test]
async fn a8_a_consent_is_remembered_for_exactly_this_and_nobody_else() {
    let scene = Scene::new().await;
    for id in ["twin", "cli"] {
        scene.register(id, client(id).metadata).await;
    }
    let local = Metadata { redirect_uris: vec!["http://127.0.0.1/cb".to_owned()], ..client("local").metadata };
    scene.register("local", local).await;
    let (ada, bob) = (scene.person("ada").await, scene.person("bob").await);
    let session = scene.sign_in(&ada).await;
    let asks = async |changed: &[(&str, &str)], session: &Plaintext| {
        matches!(arrive(&scene, changed, Some(session)).await, Answer::Ask { .. })
    };
    assert!(asks(&[], &session).await, "never the first time");
    Tab::open(&scene, &[], Some(&session)).await.consent(&scene, false).await;
    assert!(asks(&[], &session).await, "who did not say so is asked again");
    Tab::open(&scene, &[], Some(&session)).await.consent(&scene, true).await;
    for silent in [&[][..], &[("prompt", "none")], &[("state", "s2"), ("scope", "mcp")]] {
        let Answer::Redirect(address) = arrive(&scene, silent, Some(&session)).await else { panic!("{silent:?}") };
        let code = Plaintext::new(parameter(&address, "code").expect("a code"));
        let granted = codes(&scene.server.store, code.digest()).await.unwrap().unwrap();
        assert_eq!(granted.principal, Principal::User(ada.id.clone()));
    }
    for other in [
        &[("client_id", "twin")][..],
        &[("resource", "https://gate.example/mcp/notes")],
        &[("redirect_uri", "http://127.0.0.1:5/cb")],
        &[("redirect_uri", "com.example.app:/cb")],
        &[("prompt", "consent")],
        &[("prompt", "login")],
        &[("prompt", "select_account")],
    ] {
        assert!(asks(other, &session).await, "{other:?}");
    }
    assert!(asks(&[], &scene.sign_in(&bob).await).await, "another person");
    // What cannot be remembered is not, whatever the form says.
    for (id, redirect) in
        [("cli", "http://127.0.0.1:5/cb"), ("cli", "com.example.app:/cb"), ("local", "http://127.0.0.1/cb")]
    {
        let changed = [("client_id", id), ("redirect_uri", redirect)];
        let tab = Tab::open(&scene, &changed, Some(&session)).await;
        let step = tab.services(&scene, Identity::Person).await;
        assert!(!step.may_remember, "{redirect}");
        assert!(matches!(tab.finish(&scene, step.shown, true).await, Finish::Done(_)));
        assert!(asks(&changed, &session).await, "{redirect}");
        let party = crate::audit::Party {
            principal: Principal::User(ada.id.clone()),
            client: crate::ids::ClientId::parse(id).unwrap(),
        };
        let listed = consents::list(&scene.server.store, &party.principal, None, 50).await.unwrap();
        assert!(listed.items.iter().all(|consent| consent.party.client != party.client), "{redirect}");
    }
    let forgotten = consents::list(&scene.server.store, &Principal::User(ada.id.clone()), None, 50).await.unwrap();
    let Some(consent) = forgotten.items.into_iter().next() else { panic!("one is remembered") };
    let Terms { redirect_host, .. } = &consent.terms;
    assert_eq!(redirect_host, "app.example");
}

#[tokio::test]
async fn a18_whoever_has_to_sign_in_again_does_so_first() {
    let scene = Scene::new().await;
    let ada = scene.person("ada").await;
    let session = scene.sign_in(&ada).await;
    scene.clock.advance(Duration::from_secs(100));
    for changed in [("prompt", "login"), ("max_age", "60")] {
        let mut tab = Tab::open(&scene, &[changed], Some(&session)).await;
        let Look::Identity(step) = tab.look(&scene).await else { panic!() };
        assert_eq!(step.person.map(|person| person.is_recent), Some(false), "{changed:?}");
        // The form is sent all the same.
        assert_eq!(tab.choose(&scene, Identity::Person).await, Choice::Chosen);
        let Look::Identity(step) = tab.look(&scene).await else { panic!("{changed:?}") };
        assert_eq!(step.notice, Some(Notice::SignInAgain));
        tab.session = Some(scene.sign_in(&ada).await);
        tab.consent(&scene, false).await;
    }
}

const NARROWING: &str = "
[auth.scopes]
mcp = 'Use the tools'
admin = 'Change the settings'
[[policies]]
name = 'consent'
module = 'builtin:consent-rules'
[policies.config]
grants = [
  { name = 'no', clients = ['bad'], action = 'deny', message = 'Not this one.' },
  { name = 'ask', clients = ['wait'], action = 'approve', message = 'Ask first.' },
  { name = 'part', clients = ['part'], action = 'allow', scopes = ['mcp'] },
  { name = 'less', clients = ['less'], action = 'consent', scopes = ['mcp'], tools = ['notes/*'], access_ttl = 60, refresh_ttl = 60, message = 'It may only <b>read</b>.' },
]
grants_otherwise = 'allow'
";

#[tokio::test]
async fn policies_deny_narrow_and_ask() {
    let scene = Scene::with(NARROWING).await;
    for id in ["bad", "wait", "less"] {
        scene.register(id, client(id).metadata).await;
    }
    let of = |id: &'static str| [("client_id", id), ("scope", "mcp admin")];
    let tab = Tab::open(&scene, &of("bad"), None).await;
    assert_eq!(tab.choose(&scene, key()).await, Choice::Chosen);
    let Look::Stopped(stop) = tab.look(&scene).await else { panic!() };
    assert!(
        matches!(&stop.why, Why::Denied { message: Some(message) } if message.contains("Not this one")),
        "{stop:?}"
    );
    let nothing = Digest::of(b"nothing");
    assert!(matches!(tab.finish(&scene, nothing, false).await, Finish::Changed(Look::Stopped(_))));

    let tab = Tab::open(&scene, &of("less"), None).await;
    let step = tab.services(&scene, key()).await;
    assert!(step.is_narrowed && step.headline.is_some(), "{step:?}");
    assert_eq!(step.asking.scopes.iter().map(|scope| &*scope.name).collect::<Vec<_>>(), ["mcp"]);
    let Finish::Changed(Look::Services(_)) = tab.finish(&scene, nothing, false).await else {
        panic!("nobody agrees to what they were not shown")
    };
    let Finish::Done(address) = tab.finish(&scene, step.shown, false).await else { panic!() };
    let code = Plaintext::new(parameter(&address, "code").unwrap());
    let access = codes(&scene.server.store, code.digest()).await.unwrap().unwrap().access;
    assert_eq!(access.scopes.to_vec(), ["mcp"]);
    assert_eq!(access.limits.tools.to_texts(), [["notes/*"]]);
    assert_eq!(access.limits.access_life, Some(Duration::from_secs(60)));
    assert_eq!(access.limits.refresh_life, Some(Duration::from_secs(60)));
}

#[tokio::test]
async fn what_policies_leave_is_remembered_as_they_leave_it() {
    let scene = Scene::with(NARROWING).await;
    scene.register("part", client("part").metadata).await;
    let session = scene.sign_in(&scene.person("ada").await).await;
    let both = [("client_id", "part"), ("scope", "mcp admin")];
    let tab = Tab::open(&scene, &both, Some(&session)).await;
    let step = tab.services(&scene, Identity::Person).await;
    assert!(step.is_narrowed && step.may_remember, "{step:?}");
    assert!(matches!(tab.finish(&scene, step.shown, true).await, Finish::Done(_)));
    let Answer::Redirect(address) = arrive(&scene, &both, Some(&session)).await else { panic!("she said once") };
    let code = Plaintext::new(parameter(&address, "code").expect("a code"));
    let granted = codes(&scene.server.store, code.digest()).await.unwrap().unwrap();
    assert_eq!(granted.access.scopes.to_vec(), ["mcp"]);
}

#[tokio::test]
async fn nobody_is_asked_to_approve_what_no_person_has_seen() {
    let scene = Scene::with(NARROWING).await;
    scene.register("wait", client("wait").metadata).await;
    let session = scene.sign_in(&scene.person("ada").await).await;
    let Answer::Redirect(address) = arrive(&scene, &[("client_id", "wait"), ("prompt", "none")], Some(&session)).await
    else {
        panic!("nobody may be asked")
    };
    assert_eq!(parameter(&address, "error").as_deref(), Some("consent_required"));
    let wanted = approvals::list(&scene.server.store, None, scene.server.env.now(), None, 10).await.unwrap();
    assert!(wanted.items.is_empty(), "{wanted:?}");
}

#[tokio::test]
async fn a_policy_that_fails_denies_nobody() {
    let scene = Scene::new().await;
    let session = scene.sign_in(&scene.person("ada").await).await;
    Tab::open(&scene, &[], Some(&session)).await.consent(&scene, true).await;
    let tab = Tab::open(&scene, &[("prompt", "consent")], Some(&session)).await;
    let step = tab.services(&scene, Identity::Person).await;
    let before = copy(&scene);
    scene.decide(about_grants(no_answer()));
    let person = tab.person(&scene).await;
    let visit = tab.visit(person.as_ref());
    assert!(matches!(look(&scene.server, visit).await, Err(Fault::Undecided)));
    assert!(matches!(finish(&scene.server, visit, &step.shown.to_hex(), false).await, Err(Fault::Undecided)));
    for changed in [&[][..], &[("prompt", "none")]] {
        let Answer::Redirect(address) = arrive(&scene, changed, Some(&session)).await else { panic!("{changed:?}") };
        assert_eq!(parameter(&address, "error").as_deref(), Some("temporarily_unavailable"), "{changed:?}");
    }
    // Once it answers, the request goes on from where it was.
    scene.server.snapshot.store(std::sync::Arc::new(before));
    assert!(matches!(tab.finish(&scene, step.shown, false).await, Finish::Done(_)));
}

#[tokio::test]
async fn what_an_operator_has_to_agree_to_waits_and_holds_for_a_week() {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    let scene = Scene::with(NARROWING).await;
    scene.register("wait", client("wait").metadata).await;
    let wait = [("client_id", "wait")];
    let tab = Tab::open(&scene, &wait, None).await;
    assert_eq!(tab.choose(&scene, key()).await, Choice::Chosen);
    let Look::Stopped(stop) = tab.look(&scene).await else { panic!() };
    let Why::Unapproved { standing: crate::pipeline::approvals::Standing::Pending { id, .. }, .. } = &stop.why else {
        panic!("{stop:?}")
    };
    let nothing = Digest::of(b"nothing");
    assert!(matches!(tab.finish(&scene, nothing, false).await, Finish::Changed(Look::Stopped(_))));
    approvals::decide(&scene.server.store, id, Verdict::Approve, None, OPERATOR).await.unwrap();
    let Look::Services(step) = tab.look(&scene).await else { panic!("it is approved") };
    assert!(matches!(tab.finish(&scene, step.shown, false).await, Finish::Done(_)));
    // The same client and scopes again, and others.
    let again = Tab::open(&scene, &wait, None).await;
    again.services(&scene, key()).await;
    let more = Tab::open(&scene, &[("client_id", "wait"), ("scope", "mcp admin")], None).await;
    assert_eq!(more.choose(&scene, key()).await, Choice::Chosen);
    assert!(matches!(more.look(&scene).await, Look::Stopped(_)), "it was for other scopes");
    scene.clock.advance(WEEK);
    assert_eq!(
        approvals::find(&scene.server.store, approvals::get(&scene.server.store, id).await.unwrap().unwrap().bound_to)
            .await
            .unwrap()
            .map(|approval| approval.standing(scene.server.env.now())),
        Some(approvals::Standing::Lapsed)
    );
}
