//! Sign-in through external OpenID providers (OpenID Connect Core 1.0, authorization code flow with PKCE).
//!
//! A sign-in has two halves. [`Providers::begin`] sends the browser away with what only it brings back; [`Providers::finish`]
//! takes the provider's answer, checks it, and signs in whoever it vouches for. What lies between is in no table: it is
//! sealed into a cookie, for one provider and ten minutes, and its `state` is marked when it comes back, so that it counts
//! once. Who answers is told from others by the path, by the sealed cookie, and by `iss` where the provider announces it
//! (RFC 9207), so that no provider's answer is taken for another's. Each listener has a callback and cookies of its own, and
//! what was begun at one is nothing at the other.
//!
//! A person is known by the issuer and `sub`, never by an e-mail address: one that the provider has verified links an account
//! that was made for it, and does no more. No word of a provider's reaches a page, an address or a log.

mod discovery;
mod exchange;
mod fetching;
mod id_token;
mod pending;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use openidconnect::core::{CoreAuthPrompt, CoreResponseType};
use openidconnect::{
    AuthenticationFlow, CsrfToken, IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
};

use discovery::{Described, Metadata};
use exchange::Tokens;
pub use id_token::TokenFault;
use id_token::{About, Expected, Person};
use pending::Pending;

use super::AuthorizationServer;
use super::people::is_admitted;
use crate::config::auth::Provider;
use crate::env::{Env, Timestamp};
use crate::identity::browser::{BrowserSession, Method, Surface};
use crate::identity::user::{Role, User};
use crate::ids::{BrowserSessionId, UserId};
use crate::outbound::{FetchError, Fetcher};
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::browser_sessions::{self, Beginning, NewSession, Rotation};
use crate::store::marks::{self, Kind, Mark};
use crate::store::users::{self, Admission, Arrival, Arrived};
use crate::store::{Store, StoreError};

/// How long a person may take at the provider.
pub const LIFE: Duration = Duration::from_secs(10 * 60);
/// Longest place to go on at afterwards, in bytes: it travels in a cookie.
pub const MAX_NEXT: usize = 512;
/// Longest code that is presented to a provider, in bytes.
const MAX_CODE: usize = 4096;
/// How often somebody is signed in anew whose account changes meanwhile.
const TRIES: usize = 3;

/// The identity providers, as far as they are known.
pub struct Providers {
    described: Described,
}

/// What a sign-in needs of its surroundings.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    pub env: &'a Env,
    pub store: &'a Store,
    pub fetcher: &'a Fetcher,
    pub secret: &'a DeploymentSecret,
    /// Where the listener is at which somebody signs in, without a slash at its end.
    pub address: &'a str,
    /// Which pages they want to be let in to.
    pub surface: Surface,
}

/// What a person wants to sign in for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where to go on: a path of ours.
    pub next: String,
    /// The person has to show anew who they are.
    pub fresh: bool,
}

/// The browser's way to the provider.
#[derive(Debug)]
pub struct Begun {
    /// Where it goes. It holds nothing that is worth anything without the cookie.
    pub location: String,
    /// What it has to bring back, for [`LIFE`].
    pub cookie: Plaintext,
}

/// What came of [`Providers::begin`].
#[derive(Debug)]
pub enum Begin {
    Begun(Begun),
    /// The place to go on at is no path of ours, or too long.
    NotOurs,
}

/// What a browser brings from a provider.
#[derive(Clone, Debug)]
pub struct Answer {
    pub state: Option<String>,
    pub code: Option<Plaintext>,
    /// RFC 9207
    pub issuer: Option<String>,
    /// The provider's word for what went wrong. It is compared, and never repeated.
    pub error: Option<String>,
}

/// The browser that brings it.
#[derive(Clone, Debug)]
pub struct Browser {
    /// Of [`Begun::cookie`].
    pub pending: Option<Plaintext>,
    /// The cookie of whoever is signed in.
    pub session: Option<Digest>,
    /// What it says it is.
    pub agent: String,
    /// The cookie that it gets.
    pub cookie: Digest,
    pub idle: Duration,
    pub life: Duration,
}

/// What came of [`Providers::finish`].
#[derive(Debug)]
pub enum Finish {
    SignedIn(Box<SignedIn>),
    Refused(Refused),
}

/// Somebody is signed in.
#[derive(Debug)]
pub struct SignedIn {
    pub session: BrowserSession,
    /// Where to go on.
    pub next: String,
}

/// Why nobody is signed in, as far as it can be told. Each names its check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This browser began no sign-in with this provider, or that is too long ago.
    NoSignIn,
    /// The answer is one to another sign-in.
    State,
    /// The answer was there before.
    Replayed,
    /// The answer is, or may be, another issuer's (RFC 9207 §2.4).
    Issuer,
    /// The person, or the provider, said no.
    Denied,
    /// The answer holds neither a code nor a word that is known.
    Answer,
    /// The provider takes the code for none of its own, or for one that was used.
    Code,
    /// The provider's answer to the code holds no ID token that can be read.
    NoToken,
    Token(TokenFault),
    /// What the provider tells of the person is of somebody else.
    OtherSubject,
    /// Nobody has an account for this identity.
    Stranger,
    /// The account opens nothing.
    Suspended,
    /// The account changes all the time.
    Changing,
    /// There is no room for one more account.
    TooMany,
    /// The account opens nothing on this surface.
    NotAdmitted,
    /// An operator was asked to show again who they are, and somebody else came.
    OtherPerson,
}

impl Refused {
    /// For logs and tests.
    pub const fn check(&self) -> &'static str {
        match self {
            Self::NoSignIn => "no_sign_in",
            Self::State => "state",
            Self::Replayed => "replayed",
            Self::Issuer => "issuer",
            Self::Denied => "denied",
            Self::Answer => "answer",
            Self::Code => "code",
            Self::NoToken => "no_token",
            Self::Token(fault) => fault.as_str(),
            Self::OtherSubject => "other_subject",
            Self::Stranger => "stranger",
            Self::Suspended => "suspended",
            Self::Changing => "changing",
            Self::TooMany => "too_many",
            Self::NotAdmitted => "not_admitted",
            Self::OtherPerson => "other_person",
        }
    }
}

/// Why nothing could be said about a sign-in.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Provider(#[from] Arc<Unavailable>),
}

impl From<Unavailable> for Fault {
    fn from(error: Unavailable) -> Self {
        Self::Provider(Arc::new(error))
    }
}

/// Why a provider cannot be worked with now. No text repeats what it said.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("the provider cannot be reached: {0}")]
    Unreachable(#[source] FetchError),
    #[error("the provider answered with status {0}")]
    Status(StatusCode),
    #[error("the provider cannot be worked with: {0}")]
    Contradictory(Contradiction),
    #[error("the configured client cannot be used: {0}")]
    Configured(Misconfigured),
    /// `temporarily_unavailable` or `server_error`
    #[error("the provider says that it cannot answer now")]
    SaysSo,
}

words! {
    /// What is wrong with what a provider says of itself.
    Contradiction {
        Unreadable = "its description is none",
        OtherIssuer = "its description is that of another issuer",
        AuthorizationEndpoint = "its authorization endpoint is not an https address",
        NoTokenEndpoint = "it has no token endpoint",
        Keys = "its keys cannot be read",
        Answer = "what it answers cannot be read",
    }

    /// What an operator can correct.
    Misconfigured {
        Issuer = "`issuer` is not a URL",
        Callback = "`public_url`, or `listen.admin_url`, makes no address to come back to",
        Client = "the provider does not accept `client_id` and `client_secret`",
        Request = "the provider does not accept requests like ours from this client",
    }
}

impl Providers {
    pub fn new() -> Self {
        Self { described: Described::new() }
    }

    /// Sends a person to a provider.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn begin(&self, here: Here<'_>, provider: &Provider, wanted: Wanted) -> Result<Begin, Fault> {
        if !is_ours(&wanted.next) {
            return Ok(Begin::NotOurs);
        }
        let (issuer, metadata) = self.describe(here, provider).await?;
        let pending = Pending::new(here.env, issuer.as_str(), wanted);
        let Pending { state, nonce, verifier, fresh, .. } = &pending;
        let (state, nonce) = (CsrfToken::new(state.clone()), Nonce::new(nonce.clone()));
        let verifier = PkceCodeVerifier::new(verifier.clone());
        let client = exchange::client(&metadata, provider, callback(here, provider)?);
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let mut request = client
            .authorize_url(flow, move || state, move || nonce)
            .add_scopes(scopes(provider))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        if *fresh {
            request = request.add_prompt(CoreAuthPrompt::Login).set_max_age(Duration::ZERO);
        }
        let (location, _, _) = request.url();
        let cookie = pending.seal(here, provider);
        Ok(Begin::Begun(Begun { location: location.into(), cookie }))
    }

    /// Takes a provider's answer and signs in whoever it vouches for.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn finish(
        &self,
        here: Here<'_>,
        provider: &Provider,
        answer: Answer,
        browser: Browser,
    ) -> Result<Finish, Fault> {
        let finished = self.try_finish(here, provider, answer, browser).await;
        if let Ok(Err(refused)) = &finished {
            tracing::info!(provider = %provider.name, check = refused.check(), "a sign-in through a provider was refused");
        }
        Ok(match finished? {
            Ok(signed_in) => Finish::SignedIn(Box::new(signed_in)),
            Err(refused) => Finish::Refused(refused),
        })
    }

    async fn try_finish(
        &self,
        here: Here<'_>,
        provider: &Provider,
        answer: Answer,
        browser: Browser,
    ) -> Result<Result<SignedIn, Refused>, Fault> {
        let pending = match claim(here, provider, &answer, browser.pending.as_ref()).await? {
            Ok(pending) => pending,
            Err(refused) => return Ok(Err(refused)),
        };
        let (issuer, metadata) = self.describe(here, provider).await?;
        // The operator has put another provider under this name meanwhile.
        if !pending.is_with(issuer.as_str()) {
            return Ok(Err(Refused::NoSignIn));
        }
        let code = match check(&metadata, &answer)? {
            Ok(code) => code,
            Err(refused) => return Ok(Err(refused)),
        };
        let person = match self.identify(here, provider, &metadata, code, &pending).await? {
            Ok(person) => person,
            Err(refused) => return Ok(Err(refused)),
        };
        admit(here, provider, person, browser, pending).await
    }

    /// Asks for tokens, and whom they vouch for.
    async fn identify(
        &self,
        here: Here<'_>,
        provider: &Provider,
        metadata: &Metadata,
        code: &Plaintext,
        pending: &Pending,
    ) -> Result<Result<Person, Refused>, Fault> {
        let client = exchange::client(metadata, provider, callback(here, provider)?);
        let tokens = match exchange::redeem(here.fetcher, &client, code, &pending.verifier).await? {
            Ok(tokens) => tokens,
            Err(refused) => return Ok(Err(refused)),
        };
        let Tokens { id_token, access_token } = &tokens;
        let expected = Expected {
            issuer: metadata.issuer(),
            client: client.client_id(),
            nonce: &Nonce::new(pending.nonce.clone()),
            access_token,
            since: pending.fresh.then(|| Timestamp::from_millis(pending.began)),
        };
        let groups_claim = provider.groups_claim.as_deref();
        let verified = |keys| id_token::verified(id_token, keys, &expected, groups_claim, here.env.now());
        let person = match verified(metadata.jwks()) {
            // The provider may have another key since it was asked.
            Err(TokenFault::Key) => {
                verified(&*self.described.newer_keys(here.fetcher, metadata, here.env.now()).await?)
            }
            verified => verified,
        };
        let Person { identity, about, shown } = match person {
            Ok(person) => person,
            Err(fault) => return Ok(Err(Refused::Token(fault))),
        };
        // Most providers tell no more than the subject in a token that is fetched with a code (§5.4).
        let about = match exchange::more(here.fetcher, &client, &tokens, &identity, about, groups_claim).await? {
            Ok(about) => about,
            Err(refused) => return Ok(Err(refused)),
        };
        Ok(Ok(Person { identity, about, shown }))
    }

    async fn describe(&self, here: Here<'_>, provider: &Provider) -> Result<(IssuerUrl, Arc<Metadata>), Fault> {
        let issuer =
            IssuerUrl::new(provider.issuer.clone()).map_err(|_| Unavailable::Configured(Misconfigured::Issuer))?;
        let metadata = self.described.of(here.fetcher, &issuer, here.env.now()).await?;
        Ok((issuer, metadata))
    }
}

impl Default for Providers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Providers")
    }
}

impl<'a> Here<'a> {
    /// Of a server, for those who come to its listener at this address.
    pub fn of(server: &'a AuthorizationServer, address: &'a str, surface: Surface) -> Self {
        let AuthorizationServer { env, store, fetcher, secret, .. } = server;
        Self { env, store, fetcher, secret, address, surface }
    }
}

/// Whether this is a path of ours, and none that a browser reads as an address elsewhere.
pub fn is_ours(next: &str) -> bool {
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    next.len() <= MAX_NEXT && next.starts_with('/') && !next.starts_with("//") && is_plain
}

/// Where somebody goes on who is on their way to this provider with this cookie.
pub fn waits_for(here: Here<'_>, provider: &Provider, cookie: &Plaintext) -> Option<String> {
    Pending::open(here, provider, cookie).map(|pending| pending.next)
}

/// Where the provider sends people back to, which an operator registers there.
pub fn callback_address(address: &str, provider: &str) -> String {
    format!("{}/sign-in/{provider}/callback", address.trim_end_matches('/'))
}

/// What is asked for besides `openid`, each once.
fn scopes(provider: &Provider) -> impl Iterator<Item = Scope> {
    let usual = ["profile", "email"];
    let more = provider.scopes.iter().filter(move |scope| *scope != "openid" && !usual.contains(&scope.as_str()));
    usual.into_iter().map(str::to_owned).chain(more.cloned()).map(Scope::new)
}

fn callback(here: Here<'_>, provider: &Provider) -> Result<RedirectUrl, Unavailable> {
    RedirectUrl::new(callback_address(here.address, provider.name.as_str()))
        .map_err(|_| Unavailable::Configured(Misconfigured::Callback))
}

/// The sign-in that this is the answer to, once: it belongs to this browser and this provider, and lives.
async fn claim(
    here: Here<'_>,
    provider: &Provider,
    answer: &Answer,
    cookie: Option<&Plaintext>,
) -> Result<Result<Pending, Refused>, StoreError> {
    let now = here.env.now();
    let pending = cookie.and_then(|cookie| Pending::open(here, provider, cookie));
    let Some(pending) = pending.filter(|pending| now < pending.until()) else { return Ok(Err(Refused::NoSignIn)) };
    let state = Digest::of(pending.state.as_bytes());
    if answer.state.as_ref().is_none_or(|given| Digest::of(given.as_bytes()) != state) {
        return Ok(Err(Refused::State));
    }
    Ok(match marks::consume_once(here.store, Kind::State, state, pending.until()).await? {
        Mark::First => Ok(pending),
        Mark::Seen => Err(Refused::Replayed),
    })
}

/// The code of an answer that is this provider's (RFC 9207 §2.4, OpenID Connect Core §3.1.2.6).
fn check<'a>(metadata: &Metadata, answer: &'a Answer) -> Result<Result<&'a Plaintext, Refused>, Unavailable> {
    let is_its_own = match &answer.issuer {
        Some(issuer) => issuer == metadata.issuer().as_str(),
        None => !discovery::names_itself(metadata),
    };
    if !is_its_own {
        return Ok(Err(Refused::Issuer));
    }
    if let Some(error) = &answer.error {
        return match error.as_str() {
            "access_denied"
            | "login_required"
            | "interaction_required"
            | "consent_required"
            | "account_selection_required" => Ok(Err(Refused::Denied)),
            "server_error" | "temporarily_unavailable" => Err(Unavailable::SaysSo),
            "invalid_request" | "unauthorized_client" | "unsupported_response_type" | "invalid_scope" => {
                Err(Unavailable::Configured(Misconfigured::Request))
            }
            _ => Ok(Err(Refused::Answer)),
        };
    }
    let code = answer.code.as_ref().filter(|code| (1..=MAX_CODE).contains(&code.expose().len()));
    Ok(code.ok_or(Refused::Answer))
}

/// Finds or makes the person's account, and signs the browser in.
async fn admit(
    here: Here<'_>,
    provider: &Provider,
    person: Person,
    browser: Browser,
    pending: Pending,
) -> Result<Result<SignedIn, Refused>, Fault> {
    // An operator's sign-in is as old as the provider says, and old if it does not say: it may have asked nobody.
    let shown = match here.surface {
        Surface::Public => None,
        Surface::Admin => Some(person.shown.unwrap_or(Timestamp::from_millis(0))),
    };
    let arrival = arrival(here, provider, person);
    for _ in 0..TRIES {
        let user = match users::sign_in(here.store, arrival.clone()).await? {
            Arrived::Known(user) | Arrived::Linked(user) | Arrived::Admitted(user) => user,
            Arrived::Suspended(_) => return Ok(Err(Refused::Suspended)),
            Arrived::Stranger => return Ok(Err(Refused::Stranger)),
            Arrived::TooMany => return Ok(Err(Refused::TooMany)),
        };
        if !is_admitted(&user, here.surface) {
            return Ok(Err(Refused::NotAdmitted));
        }
        let method = Method::Provider { issuer: provider.issuer.clone() };
        match renew(here, &user, &browser, &pending, &method).await? {
            Renewal::Renewed(session) => return Ok(Ok(SignedIn { session: *session, next: pending.next })),
            Renewal::OtherPerson => return Ok(Err(Refused::OtherPerson)),
            Renewal::None => {}
        }
        let new = NewSession {
            id: BrowserSessionId::generate(here.env),
            user: user.id.clone(),
            seen: user.revision,
            digest: browser.cookie,
            replaces: browser.session,
            surface: here.surface,
            method,
            shown,
            idle: browser.idle,
            life: browser.life,
            agent: browser.agent.clone(),
        };
        match browser_sessions::begin(here.store, new).await? {
            Beginning::Begun(session) => return Ok(Ok(SignedIn { session: *session, next: pending.next })),
            Beginning::NotActive => return Ok(Err(Refused::Suspended)),
            Beginning::Changed => {}
        }
    }
    Ok(Err(Refused::Changing))
}

/// What becomes of the session of a browser in which somebody was asked to show again who they are.
enum Renewal {
    /// It stays the same one, so that what waits for it goes on; its cookie is a new one.
    Renewed(Box<BrowserSession>),
    /// Nobody was asked, or nobody is signed in any more: a session begins.
    None,
    /// It is somebody else's. Operators' are not exchanged for one another in passing; at the public listener another one
    /// begins.
    OtherPerson,
}

async fn renew(
    here: Here<'_>,
    user: &User,
    browser: &Browser,
    pending: &Pending,
    method: &Method,
) -> Result<Renewal, StoreError> {
    let Some(old) = browser.session.filter(|_| pending.fresh) else { return Ok(Renewal::None) };
    let Some((_, signed_in)) = browser_sessions::find(here.store, old, here.surface).await? else {
        return Ok(Renewal::None);
    };
    if signed_in.id != user.id {
        return Ok(match here.surface {
            Surface::Public => Renewal::None,
            Surface::Admin => Renewal::OtherPerson,
        });
    }
    Ok(match browser_sessions::rotate(here.store, old, browser.cookie, Some(method.clone())).await? {
        Rotation::Rotated(session) => Renewal::Renewed(session),
        Rotation::Gone => Renewal::None,
    })
}

fn arrival(here: Here<'_>, provider: &Provider, person: Person) -> Arrival {
    let Person { identity, about: About { name, email, groups }, shown: _ } = person;
    // Nobody becomes an operator by coming, and an account that opens nothing is not made.
    let admits = provider.admits_everyone && here.surface == Surface::Public;
    let admission = admits.then(|| Admission { id: UserId::generate(here.env), role: Role::User });
    // Whoever is in no group may come without the claim: where there is one to be read, its absence is an empty list.
    let groups = provider.groups_claim.is_some().then(|| groups.unwrap_or_default());
    Arrival { identity, name, email, groups, admission }
}
