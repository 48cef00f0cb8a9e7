//! What people see and end of their own: what they granted to clients, their browsers, remembered consents.
//!
//! Every verb takes the person whose it has to be: what is somebody else's is not found.

use super::{AuthorizationServer, Fault};
use crate::audit::Actor;
use crate::config::Auth;
use crate::env::Timestamp;
use crate::identity::browser::BrowserSession;
use crate::identity::user::{DisplayName, User};
use crate::ids::{BrowserSessionId, ClientId, GrantId, Principal, UserTag};
use crate::oauth::access::Access;
use crate::secret::Digest;
use crate::store::browser_sessions::{self, Ending};
use crate::store::consents::{self, Forgetting, StoredConsent};
use crate::store::grants::{self, Revocation};
use crate::store::{Cursor, clients};

/// Grants that a look at the store gives at a time.
const STEP: usize = 50;
/// Looks at most, before the rest is left for the next page: most grants may be over.
const LOOKS: usize = 10;

/// What somebody has.
#[derive(Debug)]
pub struct Holdings {
    /// Those that count, newest first.
    pub grants: Vec<OwnGrant>,
    /// Where they go on.
    pub older: Option<Cursor>,
    /// Newest first.
    pub sessions: Vec<BrowserSession>,
    /// Newest first.
    pub consents: Vec<OwnConsent>,
}

/// What somebody gave to a client.
#[derive(Debug)]
pub struct OwnGrant {
    pub id: GrantId,
    pub client: ClientId,
    /// What the client calls itself.
    pub name: String,
    pub created: Timestamp,
    pub last_used: Timestamp,
    pub until: Timestamp,
    pub scopes: Vec<String>,
    pub resources: Vec<String>,
}

/// What somebody need not be asked again.
#[derive(Debug)]
pub struct OwnConsent {
    /// What it is found by.
    pub digest: Digest,
    pub client: ClientId,
    pub name: String,
    pub redirect_host: String,
    pub given: Timestamp,
    pub until: Timestamp,
    pub scopes: Vec<String>,
}

impl AuthorizationServer {
    /// What somebody has, with their grants from where a page before ended.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn holdings(&self, user: &User, mut after: Option<Cursor>) -> Result<Holdings, Fault> {
        let (settings, principal) = (self.settings(), Principal::User(user.id.clone()));
        let mut living = Vec::new();
        for _ in 0..LOOKS {
            let of = grants::Of::Principal(principal.clone());
            let page = grants::list(&self.store, of, after.take(), STEP).await?;
            living.extend(page.items.into_iter().filter(|listed| listed.end.is_none()).map(|listed| listed.grant));
            after = page.next;
            if after.is_none() || living.len() >= STEP {
                break;
            }
        }
        let mut names = Names { server: self, settings: &settings, known: Vec::new() };
        let mut own = Vec::with_capacity(living.len());
        for grant in living {
            own.push(OwnGrant {
                name: names.of(&grant.client).await?,
                id: grant.id,
                client: grant.client,
                created: grant.created,
                last_used: grant.last_used,
                until: grant.idle_until.min(grant.until),
                scopes: in_words(&settings, &grant.access),
                resources: grant.access.resources.to_vec(),
            });
        }
        let sessions = browser_sessions::list(&self.store, &user.id, None, browser_sessions::MAX_PER_USER).await?;
        let mut remembered = Vec::new();
        for consent in consents::list(&self.store, &principal, None, consents::MAX_OF_ONE).await?.items {
            remembered.push(OwnConsent {
                digest: digest_of(&consent),
                name: names.of(&consent.party.client).await?,
                scopes: in_words(&settings, &consent.terms.access),
                client: consent.party.client,
                redirect_host: consent.terms.redirect_host,
                given: consent.given,
                until: consent.until,
            });
        }
        Ok(Holdings { grants: own, older: after, sessions: sessions.items, consents: remembered })
    }

    /// Whether somebody made this grant, whether or not it counts.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn has_granted(&self, user: &User, id: &GrantId) -> Result<bool, Fault> {
        let principal = Principal::User(user.id.clone());
        Ok(grants::get(&self.store, id).await?.is_some_and(|listed| listed.grant.principal == principal))
    }

    /// Whether somebody is signed in with this session.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn has_session(&self, user: &User, id: &BrowserSessionId) -> Result<bool, Fault> {
        let theirs = browser_sessions::list(&self.store, &user.id, None, browser_sessions::MAX_PER_USER).await?.items;
        Ok(theirs.iter().any(|session| session.id == *id))
    }

    /// Whether somebody gave the consent with this digest in hex.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn has_consented(&self, user: &User, digest: &str) -> Result<bool, Fault> {
        Ok(self.own_consent(user, digest).await?.is_some())
    }

    async fn own_consent(&self, user: &User, digest: &str) -> Result<Option<StoredConsent>, Fault> {
        let principal = Principal::User(user.id.clone());
        let theirs = consents::list(&self.store, &principal, None, consents::MAX_OF_ONE).await?.items;
        Ok(theirs.into_iter().find(|consent| digest_of(consent).to_hex() == digest))
    }

    /// Revokes what somebody granted.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn revoke_own_grant(&self, user: &User, id: &GrantId) -> Result<Revocation, Fault> {
        let principal = Principal::User(user.id.clone());
        Ok(grants::revoke_own(&self.store, id, &principal, oneself(user)).await?)
    }

    /// Signs somebody out in one browser.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn end_own_session(&self, user: &User, id: &BrowserSessionId) -> Result<Ending, Fault> {
        Ok(browser_sessions::end(&self.store, id, Some(user.id.clone()), oneself(user)).await?)
    }

    /// Signs somebody out in all browsers but one.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn end_other_sessions(&self, user: &User, spared: &BrowserSessionId) -> Result<usize, Fault> {
        Ok(browser_sessions::end_all_of(&self.store, &user.id, Some(spared.clone()), oneself(user)).await?)
    }

    /// Forgets the consent with this digest in hex, so that the person is asked again.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn forget_own_consent(&self, user: &User, digest: &str) -> Result<Forgetting, Fault> {
        let Some(consent) = self.own_consent(user, digest).await? else { return Ok(Forgetting::NotFound) };
        Ok(consents::forget(&self.store, consent.party, consent.terms, oneself(user)).await?)
    }
}

/// What clients call themselves, each looked up once.
struct Names<'a> {
    server: &'a AuthorizationServer,
    settings: &'a Auth,
    known: Vec<(ClientId, String)>,
}

impl Names<'_> {
    async fn of(&mut self, client: &ClientId) -> Result<String, Fault> {
        if let Some((_, name)) = self.known.iter().find(|(known, _)| known == client) {
            return Ok(name.clone());
        }
        let configured = self.settings.clients.known.iter().find(|known| known.client.id == *client);
        let name = match configured {
            Some(known) => known.client.metadata.name.clone(),
            // One that is the address of its metadata is called by that: nothing is fetched for a list.
            None if client.is_address() => None,
            None => clients::get(&self.server.store, client).await?.and_then(|client| client.metadata.name),
        };
        let name = name.map(|name| DisplayName::of(&name)).filter(|name| !name.as_str().is_empty());
        let name = name.map_or_else(|| client.to_string(), |name| name.to_string());
        self.known.push((client.clone(), name.clone()));
        Ok(name)
    }
}

/// The scopes of an access as the operator words them.
fn in_words(settings: &Auth, access: &Access) -> Vec<String> {
    let words = |scope: &String| {
        let known = settings.scopes.iter().find(|known| known.name == *scope);
        known.map_or_else(|| scope.clone(), |known| known.words.clone())
    };
    access.scopes.iter().map(words).collect()
}

/// A digest by which a person names one of their consents.
fn digest_of(consent: &StoredConsent) -> Digest {
    consents::terms_of(&consent.party, &consent.terms)
}

fn oneself(user: &User) -> Actor {
    Actor::User(UserTag::from(&user.id))
}
