//! `/mcp` as a protected resource (RFC 6750, RFC 9728): who a request's credential lets in, as whom, and to what.
//!
//! A virtual key, an access token of ours, or nothing where nothing is required. What a token says is verified once and
//! remembered; whether that still counts is asked every time, in memory ([`Standing`]). A token acts for a user, for a guest
//! or for a virtual key, and each of them is looked at as it is now: a key that is disabled, expired or deleted opens
//! nothing, whether it comes itself or inside a token.
//!
//! A token is for what its `aud` names (RFC 8707 §2): one for `/mcp` opens that and each `/mcp/{upstream}` below it, which
//! are parts of it; one for `/mcp/{upstream}` opens that endpoint alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::COOKIE;
use moka::sync::Cache;

use super::Fault;
use super::doors::Door;
use super::proofs::{NotProven, Place, Proofs};
use super::standing::{self, Standing, Subject};
use crate::config::{Auth, AuthMode};
use crate::env::{Env, Timestamp};
use crate::identity::bearer::{self, Presented, Unfit};
use crate::identity::{Caller, Pass, TokenList};
use crate::ids::{Principal, UserId};
use crate::oauth::MAX_ACCESS_TOKEN_LIFE;
use crate::oauth::metadata::{Challenge, Server, resource};
use crate::oauth::token::{AccessToken, Invalid, Verifier};
use crate::pipeline::{Snapshot, access};
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::Store;

/// The scope without which a token opens nothing, where the settings have it.
pub const BASE_SCOPE: &str = "mcp";
/// Verified tokens that are remembered.
const MAX_VERIFIED: u64 = 50_000;
/// Browsers of which is remembered who is signed in there, and for how long: a request asks no store for it. Whoever signs in
/// has another cookie.
const MAX_BROWSERS: u64 = 10_000;
const BROWSER_LIFE: Duration = Duration::from_secs(10);
/// How long a stream goes on that began in a token's life. Clients do not open their streams anew with each token, and
/// whoever's grant is over by its time is gone after this at the latest: such a grant has no new tokens.
const STREAM_AFTER_TOKEN: Duration = Duration::from_secs(60 * 60);

/// What tokens are verified with now.
pub struct Trusted {
    pub verifier: Arc<Verifier>,
    /// Which life of the store tokens have to be from.
    pub epoch: u64,
}

/// Tells what tokens are verified with.
pub type Trust = Box<dyn Fn() -> Trusted + Send + Sync>;

/// Tells who is signed in in the browser that sends these headers; nobody, where no browser of ours does.
pub type Browsers = Box<dyn Fn(&HeaderMap) -> BoxFuture<'static, Result<Option<UserId>, Fault>> + Send + Sync>;

/// What is decided with.
pub struct Parts {
    pub env: Env,
    /// `public_url`: the resources are below it.
    pub issuer: String,
    /// Has the marks of proofs.
    pub store: Store,
    /// Makes the nonces of proofs.
    pub secret: DeploymentSecret,
    /// The snapshot of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub standing: Arc<Standing>,
    pub trust: Trust,
    pub browsers: Option<Browsers>,
    /// Whether only this machine reaches the listener that was bound at the start, whatever a file says since.
    pub is_local: bool,
}

/// Decides who comes in at `/mcp`.
pub struct ProtectedResource {
    env: Env,
    issuer: String,
    store: Store,
    secret: DeploymentSecret,
    snapshot: Arc<ArcSwap<Snapshot>>,
    standing: Arc<Standing>,
    trust: Trust,
    browsers: Option<Browsers>,
    is_local: bool,
    verified: Cache<[u8; 32], Arc<Verified>>,
    /// Who was signed in with these cookies a moment ago, by their digest.
    signed_in: Cache<[u8; 32], Option<UserId>>,
    /// Keys that are none.
    wrong_keys: Door,
}

/// The head of a request, as far as it says who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// The upstream whose endpoint is asked.
    pub upstream: Option<&'a str>,
    /// Whether this same request was let in before: its proof was used up then.
    pub is_again: bool,
}

/// A token that was verified, and with what: another set of keys may have one less.
struct Verified {
    token: AccessToken,
    verifier: Arc<Verifier>,
    epoch: u64,
}

/// Why nobody comes in. For the log: the wire says which of the few things is missing that a client can do something about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no credential is presented")]
    Nothing,
    #[error("the credential is none: {0}")]
    Unfit(#[from] Unfit),
    #[error("the key is unknown, disabled or expired")]
    Key,
    #[error("keys are not taken here")]
    KeyNotTaken,
    #[error("the token is none of ours, or too old: {0}")]
    Token(#[from] Invalid),
    #[error("the token counts no more: {0}")]
    Revoked(#[from] standing::Refused),
    #[error("the token is for another resource")]
    Audience,
    #[error("the token is bound to a key, and presented as if it were not")]
    Bound,
    #[error("the token is presented as if it were bound to a key")]
    NotBound,
    #[error("the key of the token is not proven: {0}")]
    NotProven(NotProven),
    #[error("tokens are not taken here")]
    TokenNotTaken,
    #[error("the key that the token acts for is unknown, disabled or expired")]
    KeyOfToken,
    #[error("the account that the token acts for is not active")]
    User,
    #[error("guests are not admitted")]
    Guest,
    #[error("nobody comes in as this principal")]
    Principal,
    #[error("somebody else is signed in in the browser that presents the token")]
    OtherPerson,
    /// It has these.
    #[error("the token lacks the scope that everything needs")]
    Scope(TokenList),
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub enum Unadmitted {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<standing::Refused> for Unadmitted {
    fn from(refused: standing::Refused) -> Self {
        Self::Refused(refused.into())
    }
}

/// What a connection's right to stay is told by: that of a key by its secret, since another one under the same name is
/// another key.
pub type Witness = Option<Digest>;

impl ProtectedResource {
    /// For the resources of these parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { env, issuer, store, secret, snapshot, standing, trust, browsers, is_local } = parts;
        let verified = Cache::builder().max_capacity(MAX_VERIFIED).time_to_live(MAX_ACCESS_TOKEN_LIFE).build();
        let signed_in = Cache::builder().max_capacity(MAX_BROWSERS).time_to_live(BROWSER_LIFE).build();
        Arc::new(Self {
            env,
            issuer,
            store,
            secret,
            snapshot,
            standing,
            trust,
            browsers,
            is_local,
            verified,
            signed_in,
            wrong_keys: Door::of_wrong_credentials(),
        })
    }

    /// What requests are decided on.
    pub fn snapshot(&self) -> &Arc<ArcSwap<Snapshot>> {
        &self.snapshot
    }

    fn settings(&self) -> Arc<Auth> {
        self.snapshot.load().auth.clone()
    }

    /// Whether there is an authorization server to send clients to.
    pub fn has_server(&self) -> bool {
        self.settings().has_server()
    }

    /// How callers may authenticate now.
    pub fn mode(&self) -> AuthMode {
        self.settings().mcp
    }

    /// The URL of the endpoint for all upstreams, as clients have to write it.
    pub fn resource(&self) -> String {
        resource(&self.issuer, None)
    }

    /// `public_url`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    fn server(&self) -> Server {
        let settings = self.settings();
        Server {
            issuer: self.issuer.clone(),
            scopes: settings.scope_names(),
            grant_types: Vec::new(),
            is_open: settings.clients.registration,
            takes_documents: settings.clients.metadata_documents,
            algorithm: settings.tokens.algorithm,
        }
    }

    /// The challenge that leads a client to the authorization server, from the endpoint of an upstream or of all; none where
    /// there is no such server.
    pub fn challenge(&self, upstream: Option<&str>, wrong: Option<Challenge<'_>>) -> Option<String> {
        self.has_server().then(|| self.server().challenge(upstream, wrong))
    }

    /// Every scope that a client needs which lacks some: those that it has, so that it does not lose them for the new ones,
    /// the one for everything, and these.
    pub fn needed_scopes(&self, held: &[String], lacking: &[String]) -> Vec<String> {
        let base = self.base_scope().map(str::to_owned);
        let mut needed: Vec<String> = Vec::new();
        for scope in held.iter().cloned().chain(base).chain(lacking.iter().cloned()) {
            if !needed.contains(&scope) {
                needed.push(scope);
            }
        }
        needed
    }

    fn base_scope(&self) -> Option<&'static str> {
        self.settings().scopes.iter().any(|scope| scope.name == BASE_SCOPE).then_some(BASE_SCOPE)
    }

    /// The caller that a request's head vouches for, at the endpoint of an upstream or of all.
    ///
    /// # Errors
    /// [`Unadmitted`]
    pub async fn admit(&self, knock: &Knock<'_>) -> Result<Caller, Unadmitted> {
        let snapshot = self.snapshot.load_full();
        let (settings, now) = (&snapshot.auth, self.env.now());
        let presented = bearer::presented(knock.headers, knock.query, settings.has_server()).map_err(Refusal::from)?;
        let is_bound = matches!(presented, Presented::BoundToken(_));
        match presented {
            Presented::Nothing => Ok(self.anonymous(settings).ok_or(Refusal::Nothing)?),
            Presented::Key(_) if settings.mcp == AuthMode::Oauth => Err(Refusal::KeyNotTaken.into()),
            Presented::Key(secret) => {
                let caller = snapshot.keys.caller(&secret, now);
                if caller.is_none()
                    && let Some((key, why)) = snapshot.keys.closed(&secret, now)
                {
                    tracing::info!(%key, ?why, "refused a key that was one");
                }
                Ok(caller.ok_or(Refusal::Key)?)
            }
            Presented::Token(sent) | Presented::BoundToken(sent) => {
                // Whoever has none of ours waits for nothing.
                let before = self.verified(&sent, now).map_err(Refusal::from)?;
                self.standing.is_current().await?;
                let (snapshot, now) = (self.snapshot.load_full(), self.env.now());
                let verified =
                    if self.is_trusted(&before) { before } else { self.verified(&sent, now).map_err(Refusal::from)? };
                let token = &verified.token;
                if !self.is_for(token, knock.upstream) {
                    return Err(Refusal::Audience.into());
                }
                let caller = self.holder(&snapshot, &token.principal, Arc::new(pass(token)), now).await?;
                match (token.proof, is_bound) {
                    (Some(key), true) => self.check_proof(knock, (&sent, key), now).await?,
                    (Some(_), false) => return Err(Refusal::Bound.into()),
                    (None, true) => return Err(Refusal::NotBound.into()),
                    (None, false) => {}
                }
                self.check_browser(knock.headers, &caller).await?;
                if self.base_scope().is_some_and(|base| !token.scopes.iter().any(|scope| scope == base)) {
                    return Err(Refusal::Scope(token.scopes.clone()).into());
                }
                Ok(caller)
            }
        }
    }

    /// Counts a key from this address that opened nothing (`docs/threat-model.md` row T20).
    ///
    /// # Errors
    /// How long to wait before the next one.
    pub fn count_wrong_key(&self, from: Option<IpAddr>) -> Result<(), Duration> {
        self.wrong_keys.count(from)
    }

    /// Whether a token that was verified would be now.
    fn is_trusted(&self, verified: &Verified) -> bool {
        let Trusted { verifier, epoch } = (self.trust)();
        Arc::ptr_eq(&verified.verifier, &verifier) && verified.epoch == epoch
    }

    /// Whether the request proves the key that its token is bound to (RFC 9449 §7.1).
    async fn check_proof(
        &self,
        knock: &Knock<'_>,
        bound: (&Plaintext, Digest),
        now: Timestamp,
    ) -> Result<(), Unadmitted> {
        if knock.is_again {
            return Ok(());
        }
        let place = Place { method: knock.method, issuer: &self.issuer, path: knock.path };
        let proven = self.proofs().of_holder(knock.headers, place, bound, now).await?;
        Ok(proven.map_err(Refusal::NotProven)?)
    }

    fn proofs(&self) -> Proofs<'_> {
        Proofs { store: &self.store, secret: &self.secret }
    }

    /// A nonce for the next proof.
    pub fn nonce(&self) -> String {
        self.proofs().nonce(self.env.now())
    }

    /// The challenge to prove a key; none where there is no authorization server.
    pub fn proof_challenge(&self, error: &str) -> Option<String> {
        self.has_server().then(|| self.server().proof_challenge(error))
    }

    /// What a token says, if it is one of ours that counts now. The signature is looked at once.
    fn verified(&self, token: &Plaintext, now: Timestamp) -> Result<Arc<Verified>, Invalid> {
        let Trusted { verifier, epoch } = (self.trust)();
        let digest = *token.digest().as_bytes();
        let is_same = |known: &Arc<Verified>| Arc::ptr_eq(&known.verifier, &verifier) && known.epoch == epoch;
        if let Some(known) = self.verified.get(&digest).filter(is_same) {
            if now < known.token.expires {
                return Ok(known);
            }
            self.verified.invalidate(&digest);
            return Err(Invalid::Expired);
        }
        let verified = verifier.verify(token.expose(), now, epoch)?;
        let verified = Arc::new(Verified { token: verified, verifier, epoch });
        self.verified.insert(digest, verified.clone());
        Ok(verified)
    }

    /// Whether a token is for this endpoint, or for all of which it is a part.
    fn is_for(&self, token: &AccessToken, upstream: Option<&str>) -> bool {
        let is_named = |upstream| token.resources.contains(&resource(&self.issuer, upstream));
        is_named(None) || upstream.is_some_and(|upstream| is_named(Some(upstream)))
    }

    /// The caller that a principal is to a client with this pass, as everything is now: what was revoked is taken in.
    async fn holder(
        &self,
        snapshot: &Snapshot,
        principal: &Principal,
        pass: Arc<Pass>,
        now: Timestamp,
    ) -> Result<Caller, Unadmitted> {
        if !snapshot.auth.has_server() {
            return Err(Refusal::TokenNotTaken.into());
        }
        self.standing.check_subject(&Subject::of(principal, &pass), now)?;
        let own = match principal {
            Principal::Key(_) => {
                let own = snapshot.keys.holder(principal, now).ok_or(Refusal::KeyOfToken)?;
                Caller { scopes: pass.scopes.in_common_with(&own.scopes), ..own }
            }
            Principal::User(id) => {
                let facts = self.standing.user(id).await?.filter(|facts| facts.is_active).ok_or(Refusal::User)?;
                let own = Caller::new(principal.clone(), access::of_user(snapshot, id, now));
                Caller { groups: facts.groups.clone(), scopes: pass.scopes.clone(), ..own }
            }
            Principal::Guest(_) if !snapshot.auth.guests => return Err(Refusal::Guest.into()),
            Principal::Guest(_) => {
                let own = Caller::new(principal.clone(), snapshot.auth.allow.guests.clone());
                Caller { scopes: pass.scopes.clone(), ..own }
            }
            Principal::Anonymous | Principal::Gateway => return Err(Refusal::Principal.into()),
        };
        Ok(Caller {
            client: Some(pass.client.as_str().into()),
            tools: pass.tools.clone(),
            claims: pass.claims.clone(),
            pass: Some(pass),
            ..own
        })
    }

    /// A token alone is enough; a token of one person in the browser of another is somebody's mistake, or worse.
    async fn check_browser(&self, headers: &HeaderMap, caller: &Caller) -> Result<(), Unadmitted> {
        let (Principal::User(user), Some(browsers)) = (&caller.principal, &self.browsers) else { return Ok(()) };
        if !headers.contains_key(COOKIE) {
            return Ok(());
        }
        let cookies = headers.get_all(COOKIE).iter().flat_map(|value| [value.as_bytes(), &b"\n"[..]]);
        let digest = *Digest::of(&cookies.collect::<Vec<_>>().concat()).as_bytes();
        let signed_in = match self.signed_in.get(&digest) {
            Some(signed_in) => signed_in,
            None => {
                let signed_in = browsers(headers).await?;
                self.signed_in.insert(digest, signed_in.clone());
                signed_in
            }
        };
        match signed_in {
            Some(signed_in) if signed_in != *user => Err(Refusal::OtherPerson.into()),
            _ => Ok(()),
        }
    }

    /// The caller that somebody is now who came in before, here or at another replica: as everything is now, but without
    /// looking at the age of a token.
    ///
    /// # Errors
    /// [`Unadmitted`]
    pub async fn again(&self, principal: &Principal, pass: Option<&Arc<Pass>>) -> Result<Caller, Unadmitted> {
        if pass.is_some() {
            self.standing.is_current().await?;
        }
        let (snapshot, now) = (self.snapshot.load_full(), self.env.now());
        match pass {
            Some(pass) => self.holder(&snapshot, principal, pass.clone(), now).await,
            None if *principal == Principal::Anonymous => Ok(self.anonymous(&snapshot.auth).ok_or(Refusal::Nothing)?),
            None if snapshot.auth.mcp == AuthMode::Oauth => Err(Refusal::KeyNotTaken.into()),
            None => Ok(snapshot.keys.holder(principal, now).ok_or(Refusal::Key)?),
        }
    }

    /// Whether something was revoked of which nobody here knows whose it is, and will not soon: of those who came in with a token,
    /// nobody can tell whether they may stay.
    pub fn is_behind(&self) -> bool {
        self.standing.is_behind()
    }

    /// What tells whether somebody who came in may stay, without asking anything: none where they may not. A token that has
    /// grown old since ends nothing at once ([`STREAM_AFTER_TOKEN`]); the end of its grant, its key or its user does.
    pub fn witness(&self, principal: &Principal, pass: Option<&Pass>) -> Option<Witness> {
        let snapshot = self.snapshot.load();
        let (settings, now) = (&snapshot.auth, self.env.now());
        let Some(pass) = pass else {
            return match principal {
                Principal::Anonymous => self.anonymous(settings).map(|_| None),
                _ if settings.mcp == AuthMode::Oauth => None,
                _ => snapshot.keys.witness(principal, now).map(Some),
            };
        };
        if !settings.has_server() || now >= pass.expires.after(STREAM_AFTER_TOKEN) {
            return None;
        }
        self.standing.check_subject(&Subject::of(principal, pass), now).ok()?;
        match principal {
            Principal::Key(_) => snapshot.keys.witness(principal, now).map(Some),
            // The end of an account is a watermark as well: where nothing is known, that counts.
            Principal::User(id) => {
                let known = self.standing.known_user(id);
                known.is_none_or(|facts| facts.is_some_and(|facts| facts.is_active)).then_some(None)
            }
            Principal::Guest(_) => settings.guests.then_some(None),
            Principal::Anonymous | Principal::Gateway => None,
        }
    }

    /// Whoever presents nothing, where nothing has to be presented.
    fn anonymous(&self, settings: &Auth) -> Option<Caller> {
        let is_meant = self.is_local || settings.anonymous_on_network;
        let is_admitted = settings.admits_anonymous() && is_meant;
        is_admitted.then(|| Caller::new(Principal::Anonymous, settings.allow.guests.clone()))
    }
}

fn pass(token: &AccessToken) -> Pass {
    let AccessToken { id, client, grant, scopes, tools, claims, issued, expires, epoch, .. } = token;
    Pass {
        token: id.clone(),
        grant: grant.clone(),
        client: client.clone(),
        scopes: scopes.clone(),
        tools: tools.clone(),
        claims: claims.clone(),
        issued: *issued,
        expires: *expires,
        epoch: *epoch,
    }
}

impl std::fmt::Debug for ProtectedResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProtectedResource").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
