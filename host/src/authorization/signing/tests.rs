//! The keys of one and of several gateways: made once, rotated under load, taken out, followed.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex as Lock;

use serde_json::Value;
use tokio::task::JoinSet;

use super::*;
use crate::admin::testing::{Skewed, shared};
use crate::audit::OperatorProof;
use crate::identity::{TokenList, ToolScope};
use crate::ids::{ClientId, GrantId, Principal, TokenId};
use crate::oauth::ResourceList;
use crate::oauth::token::Invalid;
use crate::outbound::Outbound;
use crate::secret::Sealed;
use crate::store::changes::Revision;

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
const ISSUER: &str = "https://gateway.example";
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Gateways on one store, each with its own vault of the same key.
struct Place {
    store: Store,
    clock: Skewed,
    rules: Arc<Lock<Option<Rules>>>,
    dir: tempfile::TempDir,
}

impl Place {
    async fn new(algorithm: Algorithm) -> Self {
        let (store, clock) = shared().await;
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("vault.key");
        std::fs::write(&key, "07".repeat(32)).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let rules = Rules { algorithm, rotation: 10 * DAY, announce: DAY };
        Self { store, clock, rules: Arc::new(Lock::new(Some(rules))), dir }
    }

    async fn start(&self, number: u64) -> Result<SigningKeys, Fault> {
        let (store, env) = (self.store.as_replica(number), self.clock.env());
        let key = self.dir.path().join("vault.key");
        let text = format!("[[vault.keys]]\nkid = \"k1\"\nsource = \"file\"\npath = {key:?}\n");
        let config = crate::config::parse(&text, self.dir.path(), &|_| None, env.now()).unwrap();
        let vault = Vault::start(&config.vault, store.clone(), env.clone(), Outbound::new()).await.unwrap();
        let rules = self.rules.clone();
        SigningKeys::start(store, vault, env, ISSUER.to_owned(), move || *rules.lock().unwrap()).await
    }

    fn now(&self) -> Timestamp {
        self.clock.env().now()
    }

    fn token(&self) -> AccessToken {
        let (env, now) = (self.clock.env(), Timestamp::from_millis(self.now().as_millis() / 1_000 * 1_000));
        AccessToken {
            id: TokenId::generate(&env),
            principal: Principal::parse("key:ci").unwrap(),
            client: ClientId::parse("client").unwrap(),
            grant: GrantId::generate(&env),
            resources: ResourceList::parse(vec![format!("{ISSUER}/mcp")]).unwrap(),
            scopes: TokenList::default(),
            tools: ToolScope::default(),
            proof: None,
            actors: Vec::new(),
            claims: None,
            issued: now,
            expires: now.after(HOUR),
            epoch: self.store.epoch(),
        }
    }

    /// A key whose private part nobody can open.
    async fn announce_sealed_by_nobody(&self) -> String {
        let secret = SigningSecret::generate(Algorithm::EdDsa).unwrap();
        let (id, public) = secret.public().unwrap();
        let stage = Stage::Announced { private: Sealed::from_bytes(*b"by nobody"), usable_from: self.now() };
        let (algorithm, public, created) = (Algorithm::EdDsa, public.to_json(), self.now());
        let key = SigningKey { id: id.clone(), algorithm, public, created, stage };
        self.change(KeyChange::Announce(Box::new(key))).await;
        id
    }

    async fn change(&self, change: KeyChange) {
        let revision = signing_keys::load(&self.store).await.unwrap().revision;
        let came = signing_keys::transition(&self.store, revision, change, OPERATOR).await.unwrap();
        assert_eq!(came, Transition::Applied(revision + 1));
    }

    /// Each key as its state and whether it is of this id.
    async fn states(&self) -> Vec<(String, String)> {
        let keys = signing_keys::load(&self.store).await.unwrap().keys;
        keys.into_iter().map(|key| (key.state().to_string(), key.id)).collect()
    }

    async fn count(&self, state: &str) -> usize {
        self.states().await.iter().filter(|(found, _)| found == state).count()
    }
}

fn kids(keys: &SigningKeys) -> Vec<String> {
    let jwks: Value = serde_json::from_str(&keys.jwks()).unwrap();
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Takes in all that has changed, as one who follows the store does.
async fn follow(keys: &SigningKeys) {
    keys.take(&News::Everything { revision: Revision::default() }).await.unwrap();
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_the_next_one_uses_it() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let place = Place::new(algorithm).await;
        let keys = place.start(1).await.unwrap();
        let token = place.token();
        let signed = keys.sign(&token).unwrap();
        assert_eq!(keys.verifier().verify(&signed, place.now(), keys.epoch()), Ok(token));
        let jwks: Value = serde_json::from_str(&keys.jwks()).unwrap();
        assert_eq!((kids(&keys).len(), &jwks["keys"][0]["alg"]), (1, &algorithm.as_str().into()));
        let again = place.start(2).await.unwrap();
        assert_eq!(again.jwks(), keys.jwks());
        assert!(again.verifier().verify(&again.sign(&place.token()).unwrap(), place.now(), 1).is_ok());
        assert_eq!(place.states().await.len(), 1);
    }
}

#[tokio::test]
async fn gateways_that_start_at_once_have_one_key() {
    let place = Arc::new(Place::new(Algorithm::EdDsa).await);
    let mut starting = JoinSet::new();
    for number in 1..=8 {
        let place = place.clone();
        starting.spawn(async move { place.start(number).await.unwrap() });
    }
    let gateways = starting.join_all().await;
    assert_eq!((place.states().await.len(), place.count("active").await), (1, 1));
    for one in &gateways {
        let signed = one.sign(&place.token()).unwrap();
        for other in &gateways {
            follow(other).await;
            assert!(other.verifier().verify(&signed, place.now(), 1).is_ok());
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_opened_stops_the_start_and_is_not_replaced() {
    let place = Place::new(Algorithm::EdDsa).await;
    let id = place.announce_sealed_by_nobody().await;
    for _ in 0..2 {
        assert!(matches!(place.start(1).await, Err(Fault::Key)));
        assert_eq!(place.states().await, [("announced".to_owned(), id.clone())]);
    }
    place.change(KeyChange::Activate { id: id.clone(), predecessor_until: place.now() }).await;
    assert!(matches!(place.start(1).await, Err(Fault::Key)));
    assert_eq!(place.states().await, [("active".to_owned(), id.clone())]);
    // An operator says so.
    place.change(KeyChange::Revoke { id }).await;
    assert!(place.start(1).await.is_ok());
}

#[tokio::test]
async fn a_successor_that_cannot_be_opened_does_not_take_over() {
    let place = Place::new(Algorithm::EdDsa).await;
    let keys = place.start(1).await.unwrap();
    let first = kids(&keys);
    let id = place.announce_sealed_by_nobody().await;
    follow(&keys).await;
    for _ in 0..2 {
        assert!(matches!(keys.keep().await, Err(Fault::Key)));
    }
    assert_eq!((place.count("active").await, place.count("announced").await), (1, 1));
    let signed = keys.sign(&place.token()).unwrap();
    assert!(keys.verifier().verify(&signed, place.now(), 1).is_ok());
    assert_eq!(keys.revoke(&id, OPERATOR).await.unwrap(), Revocation::Revoked { signs: Some(first[0].clone()) });
    keys.keep().await.unwrap();
    assert_eq!(kids(&keys), first);
}

#[tokio::test]
async fn two_thousand_tokens_are_verified_by_one_who_looks_twice_a_day() {
    let place = Place::new(Algorithm::EdDsa).await;
    let (signs, verifies) = (place.start(1).await.unwrap(), place.start(2).await.unwrap());
    let mut used = std::collections::BTreeSet::new();
    let mut open: Vec<(String, Timestamp)> = Vec::new();
    for number in 0..2_000 {
        place.clock.advance(HOUR / 4);
        signs.keep().await.unwrap();
        if number % 48 == 0 {
            follow(&verifies).await;
        }
        let token = place.token();
        let signed = signs.sign(&token).unwrap();
        open.push((signed, token.expires));
        open.retain(|(_, expires)| place.now() < *expires);
        for (signed, _) in &open {
            let verified = verifies.verifier().verify(signed, place.now(), 1);
            assert!(verified.is_ok(), "{number}: {verified:?}");
        }
        let published = signs.0.published.load();
        let rules = place.rules.lock().unwrap().unwrap();
        used.insert(signing(&published.keys, &rules).unwrap().id.clone());
        assert!(published.keys.len() <= 3);
    }
    // Twenty-one days of ten each.
    assert_eq!(used.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_signed_and_verified_while_keys_change() {
    let place = Arc::new(Place::new(Algorithm::EdDsa).await);
    let keys = place.start(1).await.unwrap();
    let mut signing = JoinSet::new();
    for _ in 0..8 {
        let (place, keys) = (place.clone(), keys.clone());
        signing.spawn(async move {
            for number in 0..250 {
                let signed = keys.sign(&place.token()).unwrap();
                tokio::task::yield_now().await;
                keys.verifier().verify(&signed, place.now(), 1).unwrap_or_else(|error| panic!("{number}: {error}"));
            }
        });
    }
    for _ in 0..10 {
        assert!(matches!(keys.rotate(When::Now, OPERATOR).await.unwrap(), Rotation::Activated { .. }));
        keys.keep().await.unwrap();
    }
    signing.join_all().await;
    assert_eq!((place.count("active").await, place.count("retired").await), (1, 10));
    place.clock.advance(RETAINED);
    keys.keep().await.unwrap();
    assert_eq!(place.states().await.len(), 1);
}

#[tokio::test]
async fn an_operator_has_the_next_key_announced_and_it_takes_over() {
    let place = Place::new(Algorithm::EdDsa).await;
    let keys = place.start(1).await.unwrap();
    let first = keys.sign(&place.token()).unwrap();
    let Rotation::Announced { kid, usable_from, is_new } = keys.rotate(When::Announced, OPERATOR).await.unwrap() else {
        panic!("it is announced");
    };
    assert_eq!((usable_from, is_new), (place.now().after(DAY), true));
    assert!(kids(&keys).contains(&kid));
    let again = keys.rotate(When::Announced, OPERATOR).await.unwrap();
    assert_eq!(again, Rotation::Announced { kid: kid.clone(), usable_from, is_new: false });
    place.clock.advance(DAY - Duration::from_secs(1));
    keys.keep().await.unwrap();
    assert_ne!(keys.list().await.unwrap().1, Some(kid.clone()));
    place.clock.advance(Duration::from_secs(1));
    keys.keep().await.unwrap();
    assert_eq!(keys.list().await.unwrap().1, Some(kid.clone()));
    assert_eq!(place.count("retired").await, 1);
    assert_eq!(keys.verifier().verify(&first, place.now(), 1), Err(Invalid::Expired), "its key is still known");
}

#[tokio::test]
async fn a_key_that_leaked_counts_no_more_anywhere_and_another_one_signs() {
    let place = Place::new(Algorithm::EdDsa).await;
    let (keys, other) = (place.start(1).await.unwrap(), place.start(2).await.unwrap());
    let leaked = kids(&keys).remove(0);
    let signed = keys.sign(&place.token()).unwrap();
    let Revocation::Revoked { signs: Some(signs) } = keys.revoke(&leaked, OPERATOR).await.unwrap() else {
        panic!("another one signs");
    };
    assert_ne!(signs, leaked);
    assert_eq!((kids(&keys), place.states().await), (vec![signs.clone()], vec![("active".to_owned(), signs.clone())]));
    let revision = other.revision();
    let news = |changes| News::Changes { changes, revision: Revision::default() };
    other.take(&news(vec![Change::Keys])).await.unwrap();
    assert_eq!((other.revision(), kids(&other)), (revision, vec![leaked.clone()]), "that is somebody else's");
    other.take(&news(vec![Change::Keys, Change::SigningKeys])).await.unwrap();
    assert!(other.revision() > revision);
    for gateway in [&keys, &other] {
        assert_eq!(gateway.verifier().verify(&signed, place.now(), 1), Err(Invalid::UnknownKey));
        assert!(gateway.verifier().verify(&gateway.sign(&place.token()).unwrap(), place.now(), 1).is_ok());
    }
    assert_eq!(keys.revoke(&leaked, OPERATOR).await.unwrap(), Revocation::NotFound);
    assert_eq!(keys.revoke("none", OPERATOR).await.unwrap(), Revocation::NotFound);
}

#[tokio::test]
async fn another_algorithm_takes_over_without_a_gap() {
    let place = Place::new(Algorithm::Es256).await;
    let keys = place.start(1).await.unwrap();
    let first = kids(&keys).remove(0);
    let rules = place.rules.lock().unwrap().unwrap();
    *place.rules.lock().unwrap() = Some(Rules { algorithm: Algorithm::EdDsa, ..rules });
    let header = |signed: &str| {
        use base64::Engine as _;
        let header =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signed.split('.').next().unwrap()).unwrap();
        serde_json::from_slice::<Value>(&header).unwrap()["alg"].as_str().unwrap().to_owned()
    };
    let alg = || {
        let signed = keys.sign(&place.token()).unwrap();
        assert!(keys.verifier().verify(&signed, place.now(), 1).is_ok());
        header(&signed)
    };
    assert_eq!(alg(), "ES256");
    keys.keep().await.unwrap();
    assert_eq!((alg().as_str(), kids(&keys).len()), ("ES256", 2));
    place.clock.advance(DAY);
    keys.keep().await.unwrap();
    assert_eq!((alg().as_str(), kids(&keys).len()), ("EdDSA", 2));
    place.clock.advance(RETAINED);
    keys.keep().await.unwrap();
    assert_eq!((alg().as_str(), kids(&keys).len(), kids(&keys).contains(&first)), ("EdDSA", 1, false));
}

#[tokio::test]
async fn where_there_is_no_authorization_server_nothing_is_made_or_signed() {
    let place = Place::new(Algorithm::EdDsa).await;
    let rules = place.rules.lock().unwrap().take();
    let keys = place.start(1).await.unwrap();
    keys.keep().await.unwrap();
    assert_eq!((keys.sign(&place.token()), keys.jwks().as_ref()), (Err(Unsigned::NoKey), r#"{"keys":[]}"#));
    assert_eq!(keys.rotate(When::Now, OPERATOR).await.unwrap(), Rotation::Off);
    assert_eq!(place.states().await, []);
    // The configuration was loaded again.
    *place.rules.lock().unwrap() = rules;
    keys.keep().await.unwrap();
    assert!(keys.sign(&place.token()).is_ok());
}

#[tokio::test]
async fn one_gateway_at_a_time_keeps_to_the_schedule() {
    let place = Place::new(Algorithm::EdDsa).await;
    let keys = place.start(1).await.unwrap();
    let elsewhere = place.store.as_replica(9);
    let Taking::Taken(lease) = leases::take(&elsewhere, LEASE, LEASE_TIME).await.unwrap() else { panic!("it is free") };
    place.clock.advance(9 * DAY);
    let lease = match leases::take(&elsewhere, LEASE, LEASE_TIME).await.unwrap() {
        Taking::Taken(again) => again,
        Taking::Held { .. } => lease,
    };
    keys.keep().await.unwrap();
    assert_eq!(place.count("announced").await, 0, "somebody else is at it");
    _ = leases::release(&elsewhere, lease).await.unwrap();
    keys.keep().await.unwrap();
    assert_eq!(place.count("announced").await, 1);
}

#[tokio::test]
async fn the_schedule_is_kept_until_the_gateway_stops() {
    let place = Place::new(Algorithm::EdDsa).await;
    let keys = place.start(1).await.unwrap();
    let tasks = crate::tasks::Tasks::new();
    tasks.spawn(keys.clone().run(tasks.stopping().clone()));
    place.clock.advance(9 * DAY);
    crate::admin::testing::until("the successor is announced", async || place.count("announced").await == 1).await;
    assert!(tasks.stop(Duration::from_secs(10)).await);
}
