//! Which credential an upstream takes, and the gateway's own for what it asks itself.

use std::sync::Arc;

use ::http::{HeaderMap, StatusCode};

use super::UpstreamError;
use crate::config::{self, UpstreamAuth};
#[cfg(test)]
use crate::connection::lending::Later;
use crate::connection::lending::{Kind, Lack, Lender, Lent, Rejected, Wanted, Withheld};
use crate::connection::{Holder, Place};
use crate::ids::Principal;
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
