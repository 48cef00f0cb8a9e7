//! Tokens that a person need not ask for: an authorization server gives them for what the gateway vouches for (RFC 8693).
//!
//! They are in memory only, since they can be had again at any time, and in the place of a connection there is nothing: nobody
//! connects anything, and nothing is asked of anybody. Keys, guests and whoever is anonymous are nobody that could be vouched for;
//! a key that has an owner is not its owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::flights::Flights;
use super::judging::{Verdict, judge};
use super::kept::{Generation, Of, Opened};
use super::opening::bearer;
use super::refused::{MINUTE, is_fresh, is_same, union};
use super::{Keeper, MAX_REFUSALS, PATIENCE, store_fault};
use crate::config;
use crate::connection::lending::{ExchangeRefusal, Lack, Lent, Rejected, Wanted, Withheld};
use crate::connection::{Holder, Place};
use crate::connections::issuer::{Exchanged, NotExchanged, Person};
use crate::identity::user::User;
use crate::ids::{ConnectionId, Principal, UserId};
use crate::secret::{Digest, hex};
use crate::store::users;
use crate::tasks::Tasks;

/// Tokens that are kept at once.
const MAX_KEPT: u64 = 4_096;
/// How long one is kept at most, whatever its end.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// How long one counts whose server says nothing of its end.
const UNSAID: Duration = Duration::from_secs(5 * 60);
/// How long an authorization server has to answer, finding it included.
const ANSWER: Duration = Duration::from_secs(40);
/// How long whoever wants a token waits for it.
const WAIT: Duration = Duration::from_secs(25);
/// Exchanges that one wish waits for: what ends at once is not asked for in a circle.
const ATTEMPTS: usize = 3;

/// Tokens that were exchanged, and exchanges under way.
pub(super) struct Exchanging {
    kept: Cache<Place, Arc<Kept>>,
    /// What servers have refused within the last minute.
    refused: Cache<Place, ExchangeRefusal>,
    under_way: Flights<Place, Result<(), Withheld>>,
    /// Tells the tokens of a place apart, newest last.
    revisions: AtomicU64,
}

struct Kept {
    opened: Opened,
    /// How the upstream was configured then.
    settings: Option<config::Upstream>,
}

impl Exchanging {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            kept: Cache::builder().max_capacity(MAX_KEPT).time_to_live(LONGEST).build(),
            refused: Cache::builder().max_capacity(MAX_REFUSALS).time_to_live(MINUTE).build(),
            under_way: Flights::new(tasks),
            revisions: AtomicU64::new(1),
        }
    }

    fn forget(&self, place: &Place) {
        self.kept.invalidate(place);
        self.refused.invalidate(place);
    }

    /// Something has changed at all places like this. Whoever is at it has to notice by itself.
    pub(super) fn forget_all(&self, is_like: impl Fn(&Place) -> bool) {
        let kept = self.kept.iter().map(|(place, _)| place);
        for place in kept.chain(self.refused.iter().map(|(place, _)| place)) {
            if is_like(&place) {
                self.forget(&place);
            }
        }
    }
}

impl Keeper {
    /// The token of a person, exchanged if there is none that does.
    pub(super) async fn find_exchanged(&self, wanted: &Wanted) -> Result<Arc<Lent>, Withheld> {
        let place = &wanted.place;
        let user = person(place)?;
        let mut attempts = 0..ATTEMPTS;
        loop {
            self.0.store.caught_up(PATIENCE).await.map_err(|error| store_fault(&error))?;
            if let Err(withheld) = self.check_access(place) {
                self.0.exchanging.forget(place);
                return Err(withheld);
            }
            let kept =
                self.0.exchanging.kept.get(place).filter(|kept| self.is_configured_as(place, kept.settings.as_ref()));
            let otherwise = match kept.map(|kept| judge(&kept.opened, wanted, self.0.env.now())) {
                Some(Verdict::Lend(lent)) => return Ok(lent),
                Some(Verdict::Withhold(withheld)) => return Err(withheld),
                Some(Verdict::Mark(_, lack)) => return Err(Withheld::Missing(lack)),
                Some(Verdict::Renew { otherwise }) => otherwise,
                None => None,
            };
            if attempts.next().is_none() {
                return otherwise.ok_or(Withheld::Unavailable { retry_after: None });
            }
            if let Err(withheld) = self.exchange_once(place, user).await {
                // It may have been taken away meanwhile, and then there is nothing that works still.
                self.check_access(place)?;
                return otherwise.ok_or(withheld);
            }
        }
    }

    fn settings(&self, place: &Place) -> Option<config::Upstream> {
        self.0.snapshot.load().upstreams.get(&place.upstream).map(|upstream| upstream.settings().clone())
    }

    fn is_configured_as(&self, place: &Place, settings: Option<&config::Upstream>) -> bool {
        self.0.snapshot.load().upstreams.get(&place.upstream).map(|upstream| upstream.settings()) == settings
    }

    /// Exchanges, once for all who want that. Whoever goes away meanwhile ends nothing.
    async fn exchange_once(&self, place: &Place, user: &UserId) -> Result<(), Withheld> {
        if let Some(refusal) = self.0.exchanging.refused.get(place) {
            return Err(Withheld::Missing(Lack::ExchangeRefused(refusal)));
        }
        let (keeper, here, user) = (self.clone(), place.clone(), user.clone());
        let work = || async move { keeper.exchange(&here, &user).await };
        let flight = self.0.exchanging.under_way.join(place.clone(), work);
        match tokio::time::timeout(WAIT, flight).await {
            Ok(exchanged) => exchanged.unwrap_or(Err(Withheld::Fault)),
            Err(_) => Err(Withheld::Unavailable { retry_after: None }),
        }
    }

    async fn exchange(&self, place: &Place, user: &UserId) -> Result<(), Withheld> {
        let as_of = self.0.kept.generation(place);
        let settings = self.settings(place);
        let person = self.person(user).await?;
        // Whoever is nobody there is told so, whatever the server does, and does not try it for all.
        self.0.issuer.can_vouch_for(&place.upstream, &person).map_err(|nobody| match nobody {
            NotExchanged::Nobody => Withheld::Missing(Lack::NoIdentity),
            NotExchanged::Refused(_) | NotExchanged::Later { .. } | NotExchanged::Fault => Withheld::Fault,
        })?;
        let server = server(place);
        let asked = self.0.env.now();
        if let Err(left) = self.0.breaker.admit(&server, asked) {
            return Err(Withheld::Unavailable { retry_after: Some(left) });
        }
        let answer = tokio::time::timeout(ANSWER, self.0.issuer.exchange_identity(&place.upstream, &person)).await;
        match answer.unwrap_or(Err(NotExchanged::Later { retry_after: None })) {
            Ok(exchanged) => {
                self.0.breaker.answered(&server);
                let opened = self.opened(place, exchanged, asked).ok_or(Withheld::Fault)?;
                self.keep_exchanged(place, Kept { opened, settings }, as_of);
                Ok(())
            }
            Err(NotExchanged::Refused(refusal)) => {
                self.0.breaker.answered(&server);
                tracing::warn!(%place, %refusal, "an authorization server gives nothing for what the gateway vouches for");
                self.refuse(place, refusal, as_of);
                Err(Withheld::Missing(Lack::ExchangeRefused(refusal)))
            }
            Err(NotExchanged::Nobody) => {
                self.0.breaker.not_asked(&server, asked);
                Err(Withheld::Missing(Lack::NoIdentity))
            }
            Err(NotExchanged::Later { retry_after }) => {
                self.0.breaker.failed(&server, self.0.env.now(), self.jitter());
                Err(Withheld::Unavailable { retry_after })
            }
            Err(NotExchanged::Fault) => {
                // What is ours says nothing of the server; whoever tried it for all lets others try.
                self.0.breaker.not_asked(&server, asked);
                Err(Withheld::Fault)
            }
        }
    }

    /// What is known of somebody, as it is stored now.
    async fn person(&self, user: &UserId) -> Result<Person, Withheld> {
        let found = users::get(&self.0.store, user).await.map_err(|error| store_fault(&error))?;
        let user = found.filter(User::is_active).ok_or(Withheld::Missing(Lack::NotConnected))?;
        let identities = users::identities(&self.0.store, &user.id).await.map_err(|error| store_fault(&error))?;
        Ok(Person { user, identities })
    }

    fn opened(&self, place: &Place, exchanged: Exchanged, asked: crate::env::Timestamp) -> Option<Opened> {
        let Exchanged { access, expires_in, scopes, issuer, subject } = exchanged;
        let life = expires_in.filter(|life| !life.is_zero()).unwrap_or(UNSAID).min(LONGEST);
        let lent = Lent {
            place: place.clone(),
            connection: id_of(place, (&issuer, &subject))?,
            revision: self.0.exchanging.revisions.fetch_add(1, Ordering::Relaxed),
            given: 0,
            scopes: scopes.to_vec(),
            headers: bearer(&access)?,
            variables: Vec::new(),
        };
        let of = Of::OAuth { issuer, scopes, expires: Some(asked.after(life)), is_renewable: true };
        // It is kept with the settings that it was exchanged for, of which the origin is one.
        Some(Opened { lent: Arc::new(lent), of, origin: None, stored: asked })
    }

    /// Keeps a token, unless its place was told of since it was begun.
    fn keep_exchanged(&self, place: &Place, kept: Kept, as_of: Generation) {
        self.0.exchanging.kept.insert(place.clone(), Arc::new(kept));
        // Whoever tells of the place counts first and takes out then, so that one of the two sees the other.
        if self.0.kept.generation(place) != as_of {
            self.0.exchanging.forget(place);
        }
    }

    fn refuse(&self, place: &Place, refusal: ExchangeRefusal, as_of: Generation) {
        self.0.exchanging.kept.invalidate(place);
        self.0.exchanging.refused.insert(place.clone(), refusal);
        if self.0.kept.generation(place) != as_of {
            self.0.exchanging.forget(place);
        }
    }

    /// What to send in the place of what an upstream refused. A token is exchanged anew once a minute at most.
    pub(super) async fn hear_exchanged_refused(
        &self,
        wanted: &Wanted,
        lent: &Lent,
        why: &Rejected,
    ) -> Result<Arc<Lent>, Withheld> {
        let place = &wanted.place;
        let kept = self.0.exchanging.kept.get(place).filter(|kept| is_same(&kept.opened.lent, lent));
        let Some(kept) = kept else { return self.find_exchanged(wanted).await };
        match (why, &kept.opened.of) {
            (Rejected::InsufficientScope(asked), Of::OAuth { scopes, .. }) => {
                Err(Withheld::Missing(Lack::NeedsScopes(union(scopes, asked))))
            }
            (Rejected::Unauthorized, _) if is_fresh(kept.opened.stored, self.0.env.now()) => {
                Err(Withheld::Missing(Lack::ExchangeRefused(ExchangeRefusal::Unauthorized)))
            }
            (Rejected::Unauthorized | Rejected::InsufficientScope(_), _) => {
                self.0.exchanging.kept.invalidate(place);
                self.find_exchanged(wanted).await
            }
        }
    }
}

/// Whom the gateway can vouch for.
fn person(place: &Place) -> Result<&UserId, Withheld> {
    match &place.holder {
        Holder::Of(Principal::User(user)) => Ok(user),
        Holder::Of(Principal::Key(_) | Principal::Guest(_) | Principal::Anonymous | Principal::Gateway)
        | Holder::Shared => Err(Withheld::Missing(Lack::NoIdentity)),
    }
}

/// What the breaker counts failures of.
fn server(place: &Place) -> String {
    format!("{} token-exchange", place.upstream)
}

/// The same for a place at any time and on every gateway, as long as the person is the same there: sessions with the upstream
/// outlive a token, and no account.
fn id_of(place: &Place, (issuer, subject): (&str, &str)) -> Option<ConnectionId> {
    let digest = Digest::of(format!("portcullis exchanged identity 2\0{place}\0{issuer}\0{subject}").as_bytes());
    ConnectionId::parse(&hex(&digest.as_bytes()[..12]))
}
