//! What comes back from an authorization server: checked, exchanged, sealed and stored.
//!
//! The checks of the person come first (`docs/threat-model.md` row U4), then those of the server (U2, U3); only then is the
//! code shown to anybody. From there on the work comes to its end though the browser may go, so that no token is lost on the
//! way.

use std::sync::Arc;
use std::time::Duration;

use super::{Connecting, Fault, principal_of, state};
use crate::connection::flow::{Callback, Check, Flow};
use crate::connection::{Credential, Place, Tokens};
use crate::connections::issuer::{Issued, NoWay, NotIssued, Source};
use crate::ids::UserId;
use crate::secret::{Digest, Plaintext, SecretBytes};
use crate::store::connections::{Secret, sealed_at};
use crate::store::flows::{self, Claim, Completion, verifier_at};
use crate::store::links;
use crate::vault::Opening;

/// Longest code and `iss` that are looked at, in bytes.
const MAX_CODE: usize = 8 * 1024;
const MAX_ISSUER: usize = 2 * 1024;
/// The error of a person who said no (RFC 6749 §4.1.2.1).
const DECLINED: &str = "access_denied";

/// An answer, as a browser brought it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub state: Plaintext,
    pub code: Option<Plaintext>,
    /// The error code. It is compared with one that we know, and goes no further.
    pub error: Option<String>,
    /// The parameter `iss` (RFC 9207).
    pub issuer: Option<String>,
    /// The address that it came to.
    pub redirect: String,
    /// Of the cookie of the browser.
    pub browser: Digest,
    /// Who is signed in there.
    pub user: Option<UserId>,
}

/// A connection that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    pub place: Place,
    /// The path to go on to.
    pub next: Option<String>,
}

/// That none was.
#[derive(Debug)]
pub struct NotConnected {
    pub why: Why,
    /// Where it was to be made; known to the right browser and person alone.
    pub place: Option<Place>,
    pub next: Option<String>,
}

/// Why no connection was made.
#[derive(Debug)]
pub enum Why {
    /// Nothing like that was begun, or it took too long.
    Unknown,
    Refused(Check),
    /// The person said no, or the server for them.
    Declined,
    /// The server gave no tokens, or what it said was no answer.
    Failed,
    /// The server could not be asked. It has to be begun anew.
    Unavailable {
        retry_after: Option<Duration>,
    },
    NoAccess,
    /// Another way was faster, or the connection was ended meanwhile.
    Conflict,
    Fault(Fault),
}

impl From<Fault> for Why {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Connecting {
    /// Takes an answer. Of any number of the same one, one is exchanged.
    ///
    /// # Errors
    /// [`NotConnected`].
    pub async fn answer(self: &Arc<Self>, answer: Answer) -> Result<Connected, NotConnected> {
        let next = state::next_of(&self.0.secret, &answer.state);
        let not = |why, place: Option<&Place>| NotConnected { why, place: place.cloned(), next: next.clone() };
        let flow = self.claim(&answer).await.map_err(|(why, place)| not(why, place.as_ref()))?;
        let place = flow.place.clone();
        let (this, browser) = (self.clone(), answer.browser);
        // Whoever closes the page now has come back all the same.
        let work = self.0.tasks.spawn(async move {
            let done = this.finish(&flow, &answer).await;
            if done.is_ok() {
                this.tell_made(&flow.place, browser).await;
            }
            done
        });
        match work.await {
            Ok(Ok(())) => Ok(Connected { place, next }),
            Ok(Err(why)) => Err(not(why, Some(&place))),
            Err(_) => Err(not(Fault::Cut.into(), Some(&place))),
        }
    }

    /// The flow of an answer that passes all checks, which is ours from here on.
    async fn claim(&self, answer: &Answer) -> Result<Flow, (Why, Option<Place>)> {
        let alone = |why: Why| (why, None);
        let state = answer.state.digest();
        let there = flows::get(&self.0.store, state).await.map_err(|error| alone(Fault::from(error).into()))?;
        let issuer = answer.issuer.as_ref().filter(|issuer| issuer.len() <= MAX_ISSUER);
        let mut callback = Callback {
            state,
            browser: answer.browser,
            user: answer.user.clone(),
            issuer: issuer.cloned(),
            redirect: answer.redirect.clone(),
        };
        // One that is too long is none of anybody's, and is not left out either.
        if answer.issuer.is_some() && issuer.is_none() {
            callback.issuer = Some(String::new());
        }
        if let Some(flow) = &there
            && callback.issuer.is_none()
            && flow.check(&callback).is_none()
            && self.says_issuer(flow).await.map_err(|why| (why, Some(flow.place.clone())))?
        {
            callback.issuer = Some(String::new());
        }
        let mut tries = 0;
        loop {
            let pinned = self.pinned();
            let claim = flows::claim(&self.0.store, callback.clone(), pinned.of, pinned.may_use()).await;
            match claim.map_err(|error| alone(Fault::from(error).into()))? {
                Claim::Claimed(flow) => return Ok(*flow),
                Claim::Unknown => return Err(alone(Why::Unknown)),
                Claim::Refused(check @ (Check::Browser | Check::User)) => return Err(alone(Why::Refused(check))),
                Claim::Refused(check) => return Err((Why::Refused(check), there.map(|flow| flow.place))),
                Claim::Outdated => Self::catch_up(tries).await.map_err(|fault| alone(fault.into()))?,
            }
            tries += 1;
        }
    }

    /// Whether an answer without `iss` is not the server's (RFC 9207 §2.4).
    async fn says_issuer(&self, flow: &Flow) -> Result<bool, Why> {
        match self.0.issuer.says_issuer(&source(flow)).await {
            Ok(says) => Ok(says),
            Err(NoWay::Unreachable { retry_after }) => Err(Why::Unavailable { retry_after }),
            Err(NoWay::Unfit { .. }) => Err(Why::Failed),
            Err(NoWay::Fault) => Err(Why::Unavailable { retry_after: None }),
        }
    }

    /// Makes the connection of a claimed flow, or ends it.
    async fn finish(&self, flow: &Flow, answer: &Answer) -> Result<(), Why> {
        let issued = match self.exchange(flow, answer).await {
            Ok(issued) => issued,
            Err(why) => {
                flows::fail(&self.0.store, flow.state).await.map_err(Fault::from)?;
                return Err(why);
            }
        };
        match self.store_tokens(flow, &issued).await {
            Ok(()) => Ok(()),
            Err(why) => {
                self.give_back(flow, &issued).await;
                Err(why)
            }
        }
    }

    async fn exchange(&self, flow: &Flow, answer: &Answer) -> Result<Issued, Why> {
        if let Some(error) = &answer.error {
            return Err(if error == DECLINED { Why::Declined } else { Why::Failed });
        }
        let code = answer.code.as_ref().filter(|code| (1..=MAX_CODE).contains(&code.expose().len()));
        let (Some(code), Some(sealed)) = (code, &flow.verifier) else { return Err(Why::Failed) };
        let opened = self.0.vault.open(&verifier_at(&flow.place, &flow.id), sealed).await.map_err(Fault::from)?;
        let verifier = match opened {
            Opening::Opened(bytes) => Plaintext::from_bytes(&bytes),
            Opening::Refused(_) => None,
        };
        let Some(verifier) = verifier else { return Err(Why::Failed) };
        let exchanged = self.0.issuer.exchange(&source(flow), code, &verifier, &flow.redirect).await;
        exchanged.map_err(|not| match not {
            NotIssued::Refused(reason) => {
                tracing::info!(place = %flow.place, %reason, "an authorization server refused a code");
                Why::Failed
            }
            NotIssued::Later { retry_after } => Why::Unavailable { retry_after },
        })
    }

    async fn store_tokens(&self, flow: &Flow, issued: &Issued) -> Result<(), Why> {
        let revision = flow.renews.map_or(1, |renews| renews + 1);
        let seal = async |secret, token: &Plaintext| {
            let at = sealed_at(&flow.place, &flow.connection, revision, secret);
            let bytes = SecretBytes::new(token.expose().as_bytes().to_vec());
            self.0.vault.seal(&at, bytes.expose()).await.map_err(Fault::from)
        };
        let refresh = match &issued.refresh {
            Some(refresh) => Some(seal(Secret::Refresh, refresh).await?),
            None => None,
        };
        let credential = Credential::OAuth(Tokens {
            issuer: flow.issuer.clone(),
            client: flow.client.clone(),
            access: seal(Secret::Access, &issued.access).await?,
            refresh,
            scopes: issued.scopes.clone().unwrap_or_else(|| flow.scopes.clone()),
            // Some servers write 0 where there is no end.
            expires: issued.expires_in.filter(|life| !life.is_zero()).map(|life| self.0.env.now().after(life)),
        });
        let actor = self.actor_of(&flow.place, flow.browser).await.map_err(Fault::from)?;
        let mut tries = 0;
        loop {
            let pinned = self.pinned();
            let (of, may_use) = (pinned.of, pinned.may_use());
            let completed = flows::complete(&self.0.store, flow.state, credential.clone(), of, may_use, actor).await;
            match completed.map_err(Fault::from)? {
                Completion::Connected(_) => return Ok(()),
                Completion::Gone => return Err(Why::Unknown),
                Completion::NoAccess => return Err(Why::NoAccess),
                Completion::Conflict => return Err(Why::Conflict),
                Completion::TooLarge => return Err(Why::Failed),
                Completion::Outdated => Self::catch_up(tries).await?,
            }
            tries += 1;
        }
    }

    /// Has tokens revoked that nobody has. It is tried once: they end by themselves.
    async fn give_back(&self, flow: &Flow, issued: &Issued) {
        let revoked = self.0.issuer.revoke(&source(flow), issued.refresh.as_ref(), &issued.access).await;
        if let Err(not) = revoked {
            tracing::warn!(place = %flow.place, ?not, "tokens that could not be stored were not revoked");
        }
    }

    /// A connection is made, and the link that led here has done its work. That it is not told so costs nothing: it opens in
    /// this browser alone.
    pub(super) async fn tell_made(&self, place: &Place, browser: Digest) {
        let principal = principal_of(&place.holder);
        if !place.is_somebodys()
            && let Some(upstream) = self.0.snapshot.load().upstreams.get(&place.upstream)
        {
            // Perhaps it tells more of what it offers now.
            upstream.refresh();
        }
        if let Err(error) = links::done(&self.0.store, browser, principal, &place.upstream).await {
            tracing::warn!(%error, %place, "a link was not marked as done");
        }
    }
}

fn source(flow: &Flow) -> Source {
    let Flow { place, issuer, client, .. } = flow;
    Source { upstream: place.upstream.clone(), issuer: issuer.clone(), client: client.clone() }
}
