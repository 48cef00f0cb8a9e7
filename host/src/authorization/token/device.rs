//! Devices without a browser (RFC 8628): a device begins, a person types its code elsewhere and decides, the device polls.
//!
//! What a person types is short, so that guessing is counted, and nothing that a device hands out leads to its code by a
//! click (`verification_uri_complete` is left out): who wants to have somebody else's consent has to make them type
//! (RFC 10027). The person is shown which client asks, from where and when. What policies narrow when the person decides
//! holds for the grant: also for how long it may be refreshed, and whether at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::consent::terms::facts;
use super::super::consent::{access_of, services_of};
use super::super::mint::{self, mint};
use super::super::rates::Network;
use super::super::{AuthorizationServer, Fault};
use super::first::first;
use super::unattended::{ours, scopes};
use super::{From, Issued, NoGrant, Refused};
use crate::audit::Actor;
use crate::config::Auth;
use crate::identity::user::User;
use crate::ids::{Principal, UpstreamName, UserTag};
use crate::oauth::Window;
use crate::oauth::access::Access;
use crate::oauth::client::{GrantType, KnownClient};
use crate::oauth::device::{DeviceRequest, DeviceState};
use crate::oauth::grant::Gone;
use crate::pipeline::renewal::Presenter;
use crate::pipeline::unattended;
use crate::policy::authority::{ConsentWanted, GrantDecision, GrantKind, GrantRequest, LifetimeCaps};
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::devices::{self, Begin, Decision, Guesses, LookUp, Verdict};

/// How long a device waits at most.
pub const LIFE: Duration = Duration::from_secs(10 * 60);
/// How long it waits between two questions.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Most devices that wait at once.
const MAX_WAITING: u64 = 10_000;
/// Letters of a code that a person types: no vowels, so that no word comes of them (RFC 8628 §6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// How many of them.
const LENGTH: usize = 8;
/// How often codes are drawn of which one is taken.
const DRAWS: usize = 4;
const USER_CODE: &str = "device user code";

/// A device that waits.
#[derive(Debug)]
pub struct Begun {
    pub device_code: Plaintext,
    /// As it is shown: two groups of four.
    pub user_code: Plaintext,
}

/// What came of [`begin`].
#[derive(Debug)]
pub enum Beginning {
    Begun(Begun),
    Refused(Refused),
    /// As many wait as may.
    TooMany,
}

/// What a device is answered (RFC 8628 §3.5).
#[derive(Debug)]
pub enum Poll {
    Issued(Issued),
    Pending,
    SlowDown,
    Denied,
    Expired,
    Invalid,
}

/// A device about which a person is to decide.
#[derive(Debug)]
pub struct Waiting {
    pub device: DeviceRequest,
    pub client: Arc<KnownClient>,
    /// The upstreams that it is about and that the person may use.
    pub services: Vec<UpstreamName>,
    /// What the client would get.
    pub wanted: ConsentWanted,
}

impl Waiting {
    /// A digest of everything that the person is asked to agree to.
    pub fn shown(&self) -> Digest {
        let ConsentWanted { terms, headline, warnings } = &self.wanted;
        let all = serde_json::json!([terms.scopes, terms.tools.to_texts(), headline, warnings]);
        Digest::of(all.to_string().as_bytes())
    }
}

/// What a person says about a device.
#[derive(Clone, Copy, Debug)]
pub enum Says<'a> {
    /// Yes to what was [shown](Waiting::shown), in hexadecimal.
    Yes {
        shown: &'a str,
    },
    No,
}

/// What came of a code that a person typed.
#[derive(Debug)]
pub enum Found {
    /// By the digest of its own code.
    Device(Digest),
    Unknown,
    TooManyGuesses,
}

/// What came of a person's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    Approved,
    Refused,
    /// Its time is over, or it was decided.
    Gone,
    /// Policies leave something else by now than the person was shown. Nothing was decided.
    Changed,
    /// The policies refuse.
    Policy,
}

/// Lets a device of this client wait, for these scopes and resources. With the thumbprint of a key that was proven, only who
/// has that key gets anything for the code.
///
/// # Errors
/// Nothing was decided.
pub async fn begin(
    server: &AuthorizationServer,
    client: &KnownClient,
    scope: Option<&str>,
    resources: Vec<String>,
    (proof, from): (Option<Digest>, &From),
) -> Result<Beginning, Fault> {
    let snapshot = server.snapshot.load_full();
    if !snapshot.auth.grants.device || !client.allows(GrantType::DeviceCode) {
        return Ok(Beginning::Refused(Refused::GrantType));
    }
    let scopes = match scopes(&snapshot.auth, client, scope) {
        Ok(scopes) => scopes,
        Err(refused) => return Ok(Beginning::Refused(refused)),
    };
    let Some(resources) = ours(server, &snapshot, resources) else {
        return Ok(Beginning::Refused(Refused::Resources));
    };
    for _ in 0..DRAWS {
        let (device_code, letters) = (mint(&server.env, mint::DEVICE), draw(server));
        let request = DeviceRequest {
            device_code: device_code.digest(),
            user_code: keyed(&server.secret, &letters),
            client: client.id.clone(),
            resources: resources.clone(),
            scopes: scopes.clone(),
            proof,
            from: from.address,
            life: Window::starting(server.env.now(), LIFE),
            interval: INTERVAL,
            last_poll: None,
            state: DeviceState::Pending,
        };
        match devices::begin(&server.store, request, LIFE, MAX_WAITING).await? {
            Begin::Begun => {
                let (first, second) = letters.split_at(LENGTH / 2);
                let user_code = Plaintext::new(format!("{first}-{second}"));
                return Ok(Beginning::Begun(Begun { device_code, user_code }));
            }
            Begin::TooMany => return Ok(Beginning::TooMany),
            Begin::Taken => {}
        }
    }
    Err(Fault::Busy)
}

/// Letters for a person to type: 20^8 of them there are.
fn draw(server: &AuthorizationServer) -> String {
    // 128 bits leave no letter more likely than another that anybody could tell.
    let mut left = u128::from_be_bytes(server.env.random::<16>());
    let base = LETTERS.len() as u128;
    let mut letters = String::with_capacity(LENGTH);
    for _ in 0..LENGTH {
        let at = usize::try_from(left % base).expect("less than 20");
        letters.push(char::from(LETTERS[at]));
        left /= base;
    }
    letters
}

/// What is kept of a code that is too short to be kept by its digest alone.
fn keyed(secret: &DeploymentSecret, letters: &str) -> Digest {
    Digest::from_bytes(secret.derive(USER_CODE, letters.as_bytes()))
}

/// The letters that somebody meant: in any case, with or without what stands between them.
fn meant(typed: &str) -> Option<String> {
    let letters: String = typed.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
    let letters = letters.to_ascii_uppercase();
    (letters.len() == LENGTH && letters.bytes().all(|letter| LETTERS.contains(&letter))).then_some(letters)
}

/// The device that somebody means. What is none counts as a guess from there.
///
/// # Errors
/// Nothing was looked at.
pub async fn find(server: &AuthorizationServer, typed: &str, from: Option<IpAddr>) -> Result<Found, Fault> {
    // What no code looks like opens nothing, and is a slip rather than a guess.
    let Some(letters) = meant(typed) else { return Ok(Found::Unknown) };
    let user_code = keyed(&server.secret, &letters);
    let guesser = Digest::of(Network::of(from).as_bytes());
    Ok(match devices::look_up(&server.store, user_code, guesser, Guesses::default()).await? {
        LookUp::Found(device) => Found::Device(device.device_code),
        LookUp::Unknown => Found::Unknown,
        LookUp::TooMany => Found::TooManyGuesses,
    })
}

/// What a person decides about: the device, as long as it waits, and what policies leave of its wish. `None`: it waits no
/// more. An error inside: the policies refuse.
///
/// # Errors
/// It cannot be known, as where a policy does not answer.
pub async fn waiting(
    server: &AuthorizationServer,
    device: Digest,
    person: &User,
    from: &From,
) -> Result<Option<Result<Waiting, Refused>>, Fault> {
    let device = devices::get(&server.store, device).await?;
    let is_waiting =
        |device: &DeviceRequest| device.state == DeviceState::Pending && device.life.is_open(server.env.now());
    let Some(device) = device.filter(is_waiting) else { return Ok(None) };
    let Some(client) = server.client(&device.client).await? else { return Ok(None) };
    let snapshot = server.snapshot.load_full();
    let (settings, principal) = (&snapshot.auth, Principal::User(person.id.clone()));
    let Some(caller) = server.acting(&snapshot, &principal, &client.id, &device.scopes).await? else {
        return Ok(None);
    };
    let services = services_of(&snapshot, &server.issuer, &device.resources, &caller);
    let request = GrantRequest {
        kind: GrantKind::DeviceCode,
        client: facts(&client, None),
        scopes: device.scopes.to_vec(),
        already_granted: Vec::new(),
        resources: device.resources.to_vec(),
        upstreams: services.clone(),
        consent_on_file: false,
        access_ttl: settings.tokens.access_life,
        refresh_ttl: client.allows(GrantType::RefreshToken).then_some(settings.tokens.refresh_life),
        sender_constrained: device.proof.is_some() || client.requires_proof,
    };
    let caps = LifetimeCaps { access: settings.tokens.access_life, refresh: settings.tokens.refresh_life };
    let presenter = Presenter { caller: &caller, remote_ip: from.address, user_agent: from.user_agent.as_deref() };
    let wanted = match unattended::grant(&snapshot, &server.services, &presenter, &request, caps).await {
        Ok(GrantDecision::Consent(wanted)) => wanted,
        Ok(GrantDecision::Granted(terms)) => ConsentWanted { terms, headline: String::new(), warnings: Vec::new() },
        Err(refusal) if refusal.is_passing() => return Err(Fault::Undecided),
        Err(refusal) => return Ok(Some(Err(super::refresh::refused_by_policy(&refusal)))),
    };
    Ok(Some(Ok(Waiting { device, client, services, wanted })))
}

/// Writes down what a person has decided about a device that was found.
///
/// # Errors
/// Nothing was decided.
pub async fn decide(
    server: &AuthorizationServer,
    device: Digest,
    person: &User,
    says: Says<'_>,
    from: &From,
) -> Result<Decided, Fault> {
    let actor = Actor::User(UserTag::from(&person.id));
    let verdict = match says {
        Says::Yes { shown } => {
            // Asked again: what was shown may be minutes old.
            let waiting = match waiting(server, device, person, from).await? {
                None => return Ok(Decided::Gone),
                Some(Err(_)) => return Ok(Decided::Policy),
                Some(Ok(waiting)) => waiting,
            };
            if waiting.shown().to_hex() != shown {
                return Ok(Decided::Changed);
            }
            let principal = Principal::User(person.id.clone());
            let access = access(&server.settings(), &waiting, &principal);
            Verdict::Approve { principal, access }
        }
        Says::No => Verdict::Refuse,
    };
    Ok(match devices::decide(&server.store, device, verdict, actor).await? {
        Decision::Decided if matches!(says, Says::Yes { .. }) => Decided::Approved,
        Decision::Decided => Decided::Refused,
        Decision::Gone | Decision::NotActive | Decision::Widened => Decided::Gone,
    })
}

fn access(settings: &Auth, waiting: &Waiting, principal: &Principal) -> Access {
    let Waiting { device, client, services, wanted: ConsentWanted { terms, .. } } = waiting;
    access_of(settings, client, &device.resources, terms, principal, services)
}

/// Answers a device that polls, with tokens if it was approved.
///
/// # Errors
/// Nothing was decided, and the code is as good as it was.
pub async fn grant(
    server: &AuthorizationServer,
    client: &KnownClient,
    code: &Plaintext,
    proof: Option<Digest>,
) -> Result<Result<Poll, Refused>, Fault> {
    let snapshot = server.snapshot.load_full();
    let settings = &snapshot.auth.tokens;
    if !snapshot.auth.grants.device || !client.allows(GrantType::DeviceCode) {
        return Ok(Err(Refused::GrantType));
    }
    if client.requires_proof && proof.is_none() {
        return Ok(Err(Refused::ProofNeeded));
    }
    // What it gets is made before the code is used up: a key that does not sign must not cost the device its approval. What
    // is approved a moment later has nothing prepared, and waits for the next question.
    let approved = devices::get(&server.store, code.digest()).await?.filter(|device| device.client == client.id);
    let prepared = match approved.map(|device| device.state) {
        Some(DeviceState::Approved { principal, access, .. }) => {
            if server.acting(&snapshot, &principal, &client.id, &access.scopes).await?.is_none() {
                return Ok(Err(Refused::Grant(NoGrant::Principal)));
            }
            // The code is as good as it was: the device comes again with a proof.
            if access.limits.sender_constrained && proof.is_none() {
                return Ok(Err(Refused::ProofNeeded));
            }
            let audience = access.resources.clone();
            match first(server, client, settings, (&principal, &access), (audience, proof))? {
                Ok(prepared) => Some(prepared),
                Err(refused) => return Ok(Err(refused)),
            }
        }
        _ => None,
    };
    let (new, issued) = prepared.unzip();
    let polled = devices::poll(&server.store, code.digest(), client.id.clone(), proof, new).await?;
    Ok(Ok(match polled {
        devices::Poll::Granted(_) => Poll::Issued(issued.expect("no grant was made but the one that was prepared")),
        devices::Poll::Pending => Poll::Pending,
        devices::Poll::SlowDown(_) => Poll::SlowDown,
        devices::Poll::Refused => Poll::Denied,
        devices::Poll::Gone(Gone::Expired) => Poll::Expired,
        devices::Poll::Gone(_) | devices::Poll::Mismatch(_) | devices::Poll::Replayed { .. } => Poll::Invalid,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::testing::{Scene, operator, resources, tokens};
    use super::*;
    use crate::config::Auth;
    use crate::config::auth::ScopeWords;
    use crate::oauth::client::Authentication;
    use crate::policy::tests::{about_grants, no_answer};
    use crate::store::{grants, users};

    async fn scene() -> (Scene, KnownClient, User) {
        let scene = Scene::with(|auth| {
            auth.grants.device = true;
            let scope = |name: &str| ScopeWords { name: name.to_owned(), words: "Words".to_owned() };
            auth.scopes = vec![scope("mcp"), scope("notes:write")];
        })
        .await;
        let mut client = KnownClient::clone(&*scene.register("tv", Authentication::Public).await);
        client.metadata.grant_types = vec![GrantType::DeviceCode, GrantType::RefreshToken];
        let id = scene.person("ada@corp.example").await;
        let person = users::get(&scene.server.store, &id).await.unwrap().unwrap();
        (scene, client, person)
    }

    async fn begun(scene: &Scene, client: &KnownClient) -> Begun {
        match begin(&scene.server, client, None, Vec::new(), (None, &From::default())).await.unwrap() {
            Beginning::Begun(begun) => begun,
            other => panic!("{other:?}"),
        }
    }

    async fn found(scene: &Scene, typed: &str) -> Digest {
        match find(&scene.server, typed, Some([192, 0, 2, 1].into())).await.unwrap() {
            Found::Device(device) => device,
            other => panic!("{other:?}"),
        }
    }

    async fn polled(scene: &Scene, client: &KnownClient, code: &Plaintext) -> Poll {
        grant(&scene.server, client, code, None).await.unwrap().unwrap()
    }

    async fn says(scene: &Scene, device: Digest, person: &User, approves: bool) -> Decided {
        let seen = waiting(&scene.server, device, person, &From::default()).await.unwrap();
        let shown = seen.and_then(Result::ok).map_or_else(String::new, |waiting| waiting.shown().to_hex());
        let says = if approves { Says::Yes { shown: &shown } } else { Says::No };
        decide(&scene.server, device, person, says, &From::default()).await.unwrap()
    }

    #[tokio::test]
    async fn t16_a_device_gets_tokens_once_somebody_lets_it_in() {
        let (scene, client, person) = scene().await;
        let Begun { device_code, user_code } = begun(&scene, &client).await;
        assert!(device_code.expose().starts_with("pcd_"));
        let typed = user_code.expose();
        assert!(typed.len() == 9 && typed.as_bytes()[4] == b'-');
        assert!(matches!(polled(&scene, &client, &device_code).await, Poll::Pending));
        assert!(matches!(polled(&scene, &client, &device_code).await, Poll::SlowDown));

        // As people type it.
        for variant in [typed.to_lowercase(), typed.replace('-', ""), format!(" {} ", typed.replace('-', " "))] {
            found(&scene, &variant).await;
        }
        let device = found(&scene, typed).await;
        let waiting = waiting(&scene.server, device, &person, &From::default()).await.unwrap().unwrap().unwrap();
        assert_eq!((waiting.client.id.clone(), waiting.device.client), (client.id.clone(), client.id.clone()));
        assert_eq!(waiting.wanted.terms.scopes, ["mcp", "notes:write"]);
        assert_eq!(says(&scene, device, &person, true).await, Decided::Approved);
        assert_eq!(says(&scene, device, &person, true).await, Decided::Gone, "it was decided");

        scene.forward(Duration::from_secs(60));
        let Poll::Issued(issued) = polled(&scene, &client, &device_code).await else { panic!("nothing was issued") };
        assert!(issued.refresh_token.is_some() && issued.scopes == tokens(&["mcp", "notes:write"]));
        let epoch = scene.server.signing.epoch();
        let verifier = scene.server.signing.verifier();
        let token = verifier.verify(issued.access_token.expose(), scene.now(), epoch).unwrap();
        assert_eq!((token.principal, token.client), (Principal::User(person.id.clone()), client.id.clone()));
        assert_eq!(token.resources, resources(&["https://gateway.example/mcp"]));
        assert!(matches!(polled(&scene, &client, &device_code).await, Poll::Expired));
    }

    #[tokio::test]
    async fn a_device_gets_what_the_person_was_shown_and_no_more() {
        let (scene, client, person) = scene().await;
        let Begun { device_code, user_code } = begun(&scene, &client).await;
        let device = found(&scene, user_code.expose()).await;
        let less = json!([{ "name": "less", "action": "consent", "scopes": ["mcp"], "message": "It may only read." }]);
        scene.decide_by(json!({ "grants": less }));
        let seen = waiting(&scene.server, device, &person, &From::default()).await.unwrap().unwrap().unwrap();
        assert_eq!(seen.wanted.terms.scopes, ["mcp"]);
        // By now policies would leave more.
        scene.decide_by(json!({ "grants_otherwise": "consent" }));
        let shown = seen.shown().to_hex();
        let yes = Says::Yes { shown: &shown };
        let decided = decide(&scene.server, device, &person, yes, &From::default()).await.unwrap();
        assert_eq!(decided, Decided::Changed);
        assert!(matches!(polled(&scene, &client, &device_code).await, Poll::Pending));
        // Whoever looks again may agree to that.
        assert_eq!(says(&scene, device, &person, true).await, Decided::Approved);
    }

    #[tokio::test]
    async fn t16_a_device_that_is_refused_or_late_or_another_clients_gets_nothing() {
        let (scene, client, person) = scene().await;
        let (refused, late) = (begun(&scene, &client).await, begun(&scene, &client).await);
        let device = found(&scene, refused.user_code.expose()).await;
        assert_eq!(says(&scene, device, &person, false).await, Decided::Refused);
        assert!(matches!(polled(&scene, &client, &refused.device_code).await, Poll::Denied));
        let other = KnownClient { id: crate::ids::ClientId::parse("other").unwrap(), ..client.clone() };
        assert!(matches!(polled(&scene, &other, &late.device_code).await, Poll::Invalid));
        assert!(matches!(polled(&scene, &client, &Plaintext::new("pcd_x")).await, Poll::Invalid));
        let device = found(&scene, late.user_code.expose()).await;
        scene.forward(LIFE);
        assert_eq!(says(&scene, device, &person, true).await, Decided::Gone);
        assert!(matches!(polled(&scene, &client, &late.device_code).await, Poll::Expired));
        assert!(matches!(find(&scene.server, late.user_code.expose(), None).await.unwrap(), Found::Unknown));
    }

    #[tokio::test]
    async fn a_device_is_refreshed_for_as_long_as_policies_let_it() {
        let (scene, client, person) = scene().await;
        let issued = async |refresh: Duration| {
            let Begun { device_code, user_code } = begun(&scene, &client).await;
            let device = found(&scene, user_code.expose()).await;
            let waiting = waiting(&scene.server, device, &person, &From::default()).await.unwrap().unwrap().unwrap();
            let principal = Principal::User(person.id.clone());
            let mut access = access(&scene.server.settings(), &waiting, &principal);
            access.limits.refresh_life = Some(refresh);
            let verdict = Verdict::Approve { principal, access };
            let decided = devices::decide(&scene.server.store, device, verdict, operator()).await.unwrap();
            assert_eq!(decided, Decision::Decided);
            let Poll::Issued(issued) = polled(&scene, &client, &device_code).await else { panic!("nothing") };
            issued
        };
        let until = async |token: &Plaintext| {
            let (listed, _) = grants::by_token(&scene.server.store, token.digest()).await.unwrap().unwrap();
            listed.grant.until
        };
        let hour = Duration::from_secs(60 * 60);
        let once = issued(Duration::ZERO).await;
        assert!(once.refresh_token.is_none());
        let short = issued(hour).await.refresh_token.expect("it may be refreshed");
        assert_eq!(until(&short).await, scene.now().after(hour));
    }

    #[tokio::test]
    async fn t16_guesses_are_counted() {
        let (scene, client, _) = scene().await;
        let Begun { user_code, .. } = begun(&scene, &client).await;
        let from = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        // What no code looks like is no guess.
        for slip in ["", "BCDF", "AEIOUAEI", "BCDF-GHJK-L"] {
            assert!(matches!(find(&scene.server, slip, from(1)).await.unwrap(), Found::Unknown), "{slip}");
        }
        let wrong = if user_code.expose() == "BBBB-BBBB" { "CCCC-CCCC" } else { "BBBB-BBBB" };
        for _ in 0..5 {
            assert!(matches!(find(&scene.server, wrong, from(1)).await.unwrap(), Found::Unknown));
        }
        let after = find(&scene.server, user_code.expose(), from(1)).await.unwrap();
        assert!(matches!(after, Found::TooManyGuesses));
        assert!(matches!(find(&scene.server, user_code.expose(), from(2)).await.unwrap(), Found::Device(_)));
    }

    #[tokio::test]
    async fn a_device_gets_what_there_is_and_policies_leave() {
        let (scene, client, person) = scene().await;
        let refused = async |scope: Option<&str>, resources: &[&str]| {
            let resources = resources.iter().map(|resource| (*resource).to_owned()).collect();
            match begin(&scene.server, &client, scope, resources, (None, &From::default())).await.unwrap() {
                Beginning::Refused(refused) => refused,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(Some("admin"), &[]).await, Refused::Scopes);
        assert_eq!(refused(None, &["https://evil.example/mcp"]).await, Refused::Resources);
        let Begun { device_code, user_code } = begun(&scene, &client).await;
        let device = found(&scene, user_code.expose()).await;
        scene.decide_by(json!({ "grants_otherwise": "deny" }));
        let shown = waiting(&scene.server, device, &person, &From::default()).await.unwrap().unwrap();
        assert_eq!(shown.unwrap_err(), Refused::Grant(NoGrant::Policy));
        assert_eq!(says(&scene, device, &person, true).await, Decided::Policy);
        assert!(matches!(polled(&scene, &client, &device_code).await, Poll::Pending));
        // A policy that fails says neither yes nor no.
        scene.publish(|snapshot| snapshot.policies = Arc::new(about_grants(no_answer())));
        let shown = waiting(&scene.server, device, &person, &From::default()).await;
        assert!(matches!(shown, Err(Fault::Undecided)), "{shown:?}");
        let decided = decide(&scene.server, device, &person, Says::Yes { shown: "" }, &From::default()).await;
        assert!(matches!(decided, Err(Fault::Undecided)), "{decided:?}");
        assert!(matches!(polled(&scene, &client, &device_code).await, Poll::SlowDown), "it waits as before");
        // A person is asked anyway.
        scene.decide_by(json!({ "grants_otherwise": "consent" }));
        assert_eq!(says(&scene, device, &person, true).await, Decided::Approved);

        scene.publish(|snapshot| {
            let mut auth = Auth::clone(&snapshot.auth);
            auth.grants.device = false;
            snapshot.auth = Arc::new(auth);
        });
        let off = grant(&scene.server, &client, &device_code, None).await.unwrap();
        assert_eq!(off.unwrap_err(), Refused::GrantType);
        assert_eq!(refused(None, &[]).await, Refused::GrantType);
    }

    #[tokio::test]
    async fn t18_a_device_proves_its_key_where_it_has_to() {
        let (scene, mut client, person) = scene().await;
        client.requires_proof = true;
        let (mine, others) = (Plaintext::new("mine").digest(), Plaintext::new("others").digest());
        let bound = match begin(&scene.server, &client, None, Vec::new(), (Some(mine), &From::default())).await {
            Ok(Beginning::Begun(begun)) => begun,
            other => panic!("{other:?}"),
        };
        let free = begun(&scene, &client).await;
        let poll = async |begun: &Begun, proof| grant(&scene.server, &client, &begun.device_code, proof).await.unwrap();
        for begun in [&bound, &free] {
            assert_eq!(poll(begun, None).await.unwrap_err(), Refused::ProofNeeded);
        }
        assert!(matches!(poll(&bound, Some(others)).await, Ok(Poll::Invalid)), "it began with another key");
        for begun in [&bound, &free] {
            let device = found(&scene, begun.user_code.expose()).await;
            // The client is known with what was registered, and asks for no proof then.
            assert_eq!(says(&scene, device, &person, true).await, Decided::Approved);
        }
        for begun in [&bound, &free] {
            let Ok(Poll::Issued(issued)) = poll(begun, Some(mine)).await else { panic!("nothing was issued") };
            let epoch = scene.server.signing.epoch();
            let verifier = scene.server.signing.verifier();
            let token = verifier.verify(issued.access_token.expose(), scene.now(), epoch).unwrap();
            assert!(issued.is_bound && token.proof == Some(mine));
        }
    }
}
