//! Which credential an upstream takes, the gateway's own for what it asks itself, and what those borrow anew who keep
//! something open.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, StatusCode};
use tokio::sync::broadcast;

use super::UpstreamError;
use crate::config::{self, UpstreamAuth};
#[cfg(test)]
use crate::connection::lending::Later;
use crate::connection::lending::{Kind, Lack, Lender, Lent, Rejected, Wanted, Withheld};
use crate::connection::{Holder, Place};
use crate::ids::{ConnectionId, Principal};
use crate::mcp::talk::Party;
use crate::oauth::upstream::challenge::{BearerError, Challenge};

/// The credential that requests for `principal` need; `None` where the upstream takes none but those of its configuration.
pub(super) fn wanted(settings: &config::Upstream, principal: &Principal) -> Option<Wanted> {
    let own = || Holder::Of(principal.clone());
    let (holder, kind) = match &settings.auth {
        UpstreamAuth::None => return None,
        UpstreamAuth::SharedOAuth(_) => (Holder::Shared, Kind::OAuth),
        UpstreamAuth::PerUserOAuth(_) => (own(), Kind::OAuth),
        UpstreamAuth::PerUserHeaders(names) => (own(), Kind::Headers(names.clone())),
        // The gateway is no person: an operator connects what it reads lists with.
        UpstreamAuth::TokenExchange(_) if *principal == Principal::Gateway => (own(), Kind::OAuth),
        UpstreamAuth::TokenExchange(_) => (own(), Kind::Exchanged),
        UpstreamAuth::PerUserEnvironment { names, .. } => (own(), Kind::Variables(names.clone())),
    };
    let place = Place { holder, upstream: settings.name.clone() };
    Some(Wanted { place, kind, origin: settings.origin(), scopes: None, max_age: None })
}

/// Whether each person has a list of their own: of what a program offers there is one list, and nobody connects what is
/// exchanged.
pub(super) fn is_personal(auth: &UpstreamAuth) -> bool {
    match auth {
        UpstreamAuth::None
        | UpstreamAuth::SharedOAuth(_)
        | UpstreamAuth::TokenExchange(_)
        | UpstreamAuth::PerUserEnvironment { .. } => false,
        UpstreamAuth::PerUserOAuth(_) | UpstreamAuth::PerUserHeaders(_) => true,
    }
}

/// What whoever reads lists and hears of changes is shown as: the gateway, or somebody with a list of their own.
pub(super) struct Own {
    lender: Arc<dyn Lender>,
    wanted: Option<Wanted>,
    principal: Principal,
}

impl Own {
    pub(super) fn new(settings: &config::Upstream, lender: Arc<dyn Lender>) -> Self {
        let principal = Principal::Gateway;
        Self { lender, wanted: wanted(settings, &principal), principal }
    }

    /// Somebody with this credential, or nobody.
    pub(super) fn of_another(&self, principal: Principal, wanted: Wanted) -> Self {
        Self { lender: self.lender.clone(), wanted: Some(wanted), principal }
    }

    /// Whether the upstream takes a credential of the gateway's own.
    pub(super) fn wants(&self) -> bool {
        self.wanted.is_some()
    }

    /// For an upstream that takes nothing.
    #[cfg(test)]
    pub(super) fn nothing() -> Self {
        Self { lender: Arc::new(Later::default()), wanted: None, principal: Principal::Gateway }
    }

    /// The reader, with their credential. Where none was ever connected for the gateway it asks as nobody: some upstreams
    /// tell everyone what they offer.
    ///
    /// # Errors
    /// [`UpstreamError::Withheld`], where there is one and it cannot be had now, or there has to be one.
    pub(super) async fn party(&self) -> Result<Party, UpstreamError> {
        let Some(wanted) = &self.wanted else { return Ok(self.showing(None)) };
        match self.lender.lend(wanted).await {
            Ok(lent) => Ok(self.showing(Some(lent))),
            Err(Withheld::Missing(Lack::NotConnected)) if self.principal == Principal::Gateway => {
                Ok(self.showing(None))
            }
            Err(withheld) => Err(UpstreamError::Withheld(withheld)),
        }
    }

    /// What a principal is lent now, where each has a credential of its own.
    ///
    /// # Errors
    /// [`Withheld`].
    pub(super) async fn lend_to(&self, principal: &Principal) -> Result<Arc<Lent>, Withheld> {
        let Some(wanted) = &self.wanted else { return Err(Withheld::Missing(Lack::NotConnected)) };
        let place = Place { holder: Holder::Of(principal.clone()), upstream: wanted.place.upstream.clone() };
        self.lender.lend(&Wanted { place, ..wanted.clone() }).await
    }

    /// The reader with another credential than the one that was refused; the error as it was where there is none to be had.
    pub(super) async fn party_after(&self, refused: &Party, error: UpstreamError) -> Result<Party, UpstreamError> {
        let (Some(wanted), Some(lent), UpstreamError::Rejected { why, of }) = (&self.wanted, &refused.lent, &error)
        else {
            return Err(error);
        };
        if *of != (lent.connection.clone(), lent.revision) {
            return Ok(refused.clone());
        }
        let lent = self.lender.rejected(wanted, lent, why).await.map_err(UpstreamError::Withheld)?;
        Ok(self.showing(Some(lent)))
    }

    fn showing(&self, lent: Option<Arc<Lent>>) -> Party {
        Party { principal: self.principal.clone(), lent, ..Party::gateway() }
    }
}

/// How often it is looked whether something else is lent, where nobody tells: tokens that are exchanged end by themselves.
const LOOK: Duration = Duration::from_secs(15);

/// Whose connections have changed: those of one holder, or perhaps all.
pub(super) type Changes = broadcast::Sender<Option<Holder>>;

/// By which whoever keeps something open at an upstream is lent what it shows there next.
pub(super) struct Borrower {
    lender: Arc<dyn Lender>,
    wanted: Wanted,
    changes: broadcast::Receiver<Option<Holder>>,
}

impl Borrower {
    pub(super) fn new(lender: Arc<dyn Lender>, wanted: Wanted, changes: &Changes) -> Self {
        Self { lender, wanted, changes: changes.subscribe() }
    }

    /// What is lent now.
    ///
    /// # Errors
    /// [`UpstreamError::Withheld`].
    pub(super) async fn lend(&self) -> Result<Arc<Lent>, UpstreamError> {
        self.lender.lend(&self.wanted).await.map_err(UpstreamError::Withheld)
    }

    /// What is lent in the place of what the upstream refused: a connection at a revision.
    ///
    /// # Errors
    /// [`UpstreamError::Withheld`].
    pub(super) async fn in_place_of(
        &self,
        (connection, revision): &(ConnectionId, u64),
        why: &Rejected,
    ) -> Result<Arc<Lent>, UpstreamError> {
        let lent = self.lend().await?;
        if (&lent.connection, lent.revision) != (connection, *revision) {
            return Ok(lent);
        }
        self.lender.rejected(&self.wanted, &lent, why).await.map_err(UpstreamError::Withheld)
    }

    /// Waits until something else is lent than this. Where that cannot be known, it waits on.
    ///
    /// # Errors
    /// [`UpstreamError::Withheld`]: nothing is lent any more.
    pub(super) async fn other_than(&mut self, lent: &Lent) -> Result<Arc<Lent>, UpstreamError> {
        // How old it may be is asked when it is shown, and not as long as it stands.
        let standing = Wanted { max_age: None, ..self.wanted.clone() };
        loop {
            match self.lender.lend(&standing).await.map_err(UpstreamError::Withheld) {
                Ok(now) if is_same(&now, lent) => {}
                Err(error) if !is_for_good(&error) => {}
                other => return other,
            }
            self.change().await;
        }
    }

    /// Waits until the connection may have changed, or it is time to look.
    async fn change(&mut self) {
        let told = async {
            loop {
                match self.changes.recv().await {
                    Ok(Some(holder)) if holder != self.wanted.place.holder => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    // The upstream is no more, and what is kept open there ends with it.
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        _ = tokio::time::timeout(LOOK, told).await;
    }
}

impl Own {
    /// For somebody who keeps something open with a credential of theirs.
    pub(super) fn borrower(&self, wanted: Wanted, changes: &Changes) -> Borrower {
        Borrower::new(self.lender.clone(), wanted, changes)
    }
}

/// Whether it is the same credential at the same revision.
fn is_same(one: &Lent, other: &Lent) -> bool {
    (&one.connection, one.revision) == (&other.connection, other.revision)
}

/// Whether what was lent before is not lent any more, as far as can be known.
pub(super) fn is_for_good(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Withheld(Withheld::Missing(_) | Withheld::TooWide))
}

/// What an error status says, given what was shown: a credential of somebody's own may be renewed, one of the configuration
/// may not.
pub(super) fn refused(status: StatusCode, headers: &HeaderMap, lent: Option<&Lent>) -> UpstreamError {
    let error = UpstreamError::Status { status: status.as_u16() };
    let Some(lent) = lent else { return error };
    let of = (lent.connection.clone(), lent.revision);
    match status {
        StatusCode::UNAUTHORIZED => UpstreamError::Rejected { why: Rejected::Unauthorized, of },
        StatusCode::FORBIDDEN => match Challenge::of(headers) {
            Some(Challenge { error: Some(BearerError::InsufficientScope), scopes, .. }) => {
                let scopes = scopes.map_or_else(Vec::new, |scopes| scopes.to_vec());
                UpstreamError::Rejected { why: Rejected::InsufficientScope(scopes), of }
            }
            _ => error,
        },
        _ => error,
    }
}
