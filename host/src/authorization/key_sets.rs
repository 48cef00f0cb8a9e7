//! Keys of whoever signs assertions (RFC 7523 §3): clients with an address of their own, and issuers that operators trust.
//! They come through the guarded fetcher.
//!
//! Anybody can present an assertion that names a signer and a key that nobody has, so that what comes of one must not touch
//! those that are signed by a key that is known: a set that was fetched is believed for its time, whatever its address
//! answers meanwhile. For an assertion of another key the address is asked again, by one at a time and not often; where it
//! does not answer, nobody knows, which is no denial.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, HeaderValue};
use http::{StatusCode, Uri};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde::Deserialize;

use super::Fault;
use crate::config::auth::TrustedIssuer;
use crate::env::{Env, Timestamp};
use crate::oauth::Window;
use crate::oauth::assertion::ClientKeys;
use crate::outbound::{self, Fetch, FetchError, Fetcher, Limits, TrustedEntry};
use crate::secret::Plaintext;

/// Longest document about keys, in bytes, and how long it may take to come.
const DOCUMENT: Limits = Limits { connect: Duration::from_secs(3), total: Duration::from_secs(5), body: 64 * 1024 };
/// Most key sets of one kind that are kept.
const MAX_KEY_SETS: u64 = 1_000;
/// How long a key set is believed.
pub(super) const KEY_SET_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long an address is let alone after it answered, whatever an assertion names.
pub(super) const KEY_SET_REST: Duration = Duration::from_secs(30);
/// The same after it did not answer.
pub(super) const FAULT_REST: Duration = Duration::from_secs(5);

/// Key sets by where they come from. Clones share them.
#[derive(Clone)]
pub struct KeySets(Cache<String, Arc<Address>>);

/// What is known of one address.
#[derive(Default)]
struct Address {
    /// Held by the one who asks it.
    asking: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Clone, Default)]
struct Known {
    /// The newest set that came, and how long it is believed.
    set: Option<(Arc<ClientKeys>, Window)>,
    /// How long the address is let alone, and whether it had answered.
    rest: Option<(Window, bool)>,
}

impl Default for KeySets {
    fn default() -> Self {
        // The newest is kept always: an address that is not could not be let alone.
        let kept = Cache::builder().max_capacity(MAX_KEY_SETS).eviction_policy(EvictionPolicy::lru());
        Self(kept.build())
    }
}

impl std::fmt::Debug for KeySets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySets").field("kept", &self.0.entry_count()).finish()
    }
}

impl Known {
    /// The keys for an assertion, as far as nobody has to be asked for them. No keys: the address has none.
    fn keys(&self, assertion: &Plaintext, now: Timestamp) -> Option<Result<Option<Arc<ClientKeys>>, Fault>> {
        let set = self.set.as_ref().filter(|(_, life)| life.is_open(now)).map(|(keys, _)| keys.clone());
        if set.as_ref().is_some_and(|keys| keys.may_have_signed(assertion.expose())) {
            return Some(Ok(set));
        }
        let (_, has_answered) = self.rest.filter(|(rest, _)| rest.is_open(now))?;
        Some(if has_answered { Ok(set) } else { Err(Fault::Busy) })
    }
}

impl Address {
    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl KeySets {
    /// The keys of an address that may have signed this assertion, if there are any; fetched like this where it has to be.
    ///
    /// # Errors
    /// The address does not answer.
    pub(super) async fn find(
        &self,
        env: &Env,
        address: &str,
        assertion: &Plaintext,
        fetch: impl AsyncFnOnce() -> Answer<ClientKeys>,
    ) -> Result<Option<Arc<ClientKeys>>, Fault> {
        let place = self.0.get_with_by_ref(address, Arc::default);
        if let Some(known) = place.known().keys(assertion, env.now()) {
            return known;
        }
        let _asking = place.asking.lock().await;
        // Whoever asked meanwhile has asked for all.
        let now = env.now();
        if let Some(known) = place.known().keys(assertion, now) {
            return known;
        }
        let rest = Some((Window::starting(now, KEY_SET_REST), true));
        match fetch().await {
            Answer::Told(keys) => {
                let set = Some((Arc::new(keys), Window::starting(now, KEY_SET_LIFE)));
                place.note(|known| *known = Known { set, rest });
            }
            Answer::None => place.note(|known| known.rest = rest),
            Answer::Fault => place.note(|known| known.rest = Some((Window::starting(now, FAULT_REST), false))),
            Answer::NotAsked => return Err(Fault::Busy),
        }
        place.known().keys(assertion, now).unwrap_or(Err(Fault::Busy))
    }
}

/// What comes of asking an address.
pub(super) enum Answer<T> {
    Told(T),
    /// There is nothing.
    None,
    /// It may be otherwise in a moment.
    Fault,
    /// We have asked too much else.
    NotAsked,
}

impl<T> Answer<T> {
    fn and_then<U>(self, read: impl FnOnce(T) -> Option<U>) -> Answer<U> {
        match self {
            Self::Told(told) => read(told).map_or(Answer::None, Answer::Told),
            Self::None => Answer::None,
            Self::Fault => Answer::Fault,
            Self::NotAsked => Answer::NotAsked,
        }
    }
}

/// The keys at an address. Where an operator wrote it down, or what led to it, the origin of that is trusted.
pub(super) async fn key_set(fetcher: &Fetcher, address: &str, trusted: Option<TrustedEntry>) -> Answer<ClientKeys> {
    document(fetcher, address, trusted).await.and_then(|document| {
        let keys = ClientKeys::parse(&document);
        keys.inspect_err(|error| tracing::info!(address, %error, "a key set cannot be read")).ok()
    })
}

/// The keys of an issuer whom an operator trusts: at the address that is written down, or where its description says (OpenID
/// Connect Discovery §4).
pub(super) async fn issuer_keys(fetcher: &Fetcher, issuer: &TrustedIssuer) -> Answer<ClientKeys> {
    let written = issuer.jwks_uri.as_ref().unwrap_or(&issuer.issuer);
    let origin = written.parse().ok().and_then(|written| TrustedEntry::origin(&written));
    let address = match &issuer.jwks_uri {
        Some(address) => Answer::Told(address.clone()),
        None => {
            let address = format!("{}/.well-known/openid-configuration", issuer.issuer.trim_end_matches('/'));
            document(fetcher, &address, origin.clone()).await.and_then(|document| described(issuer, &document))
        }
    };
    match address {
        Answer::Told(address) => key_set(fetcher, &address, origin).await,
        other => other.and_then(|_| None),
    }
}

/// Where an issuer's keys are, if the description is its own.
fn described(issuer: &TrustedIssuer, document: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Description {
        issuer: String,
        jwks_uri: String,
    }
    let description = serde_json::from_slice::<Description>(document).ok();
    let own = description.filter(|description| description.issuer == issuer.issuer);
    if own.is_none() {
        tracing::warn!(issuer = issuer.issuer, "an issuer's description is none, or that of another");
    }
    Some(own?.jwks_uri)
}

async fn document(fetcher: &Fetcher, address: &str, trusted: Option<TrustedEntry>) -> Answer<Vec<u8>> {
    let Ok(url) = address.parse::<Uri>() else { return Answer::None };
    let accept = HeaderValue::from_static("application/jwk-set+json, application/json");
    let fetch = Fetch::get(url).header(ACCEPT, accept).limits(DOCUMENT);
    let fetch = match trusted {
        Some(origin) => fetch.trusting(origin),
        None => fetch,
    };
    let answer = match fetcher.fetch(fetch).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::info!(address, error = &error as &(dyn std::error::Error + 'static), "no keys from an address");
            return match error {
                FetchError::Busy => Answer::NotAsked,
                error if error.is_passing() => Answer::Fault,
                _ => Answer::None,
            };
        }
    };
    if answer.status != StatusCode::OK {
        tracing::info!(address, status = answer.status.as_u16(), "no keys from an address");
        return if outbound::is_passing(answer.status) { Answer::Fault } else { Answer::None };
    }
    Answer::Told(answer.body.to_vec())
}
