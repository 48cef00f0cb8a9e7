//! Connections: what an upstream accepts instead of a person's password, and for whom it is kept.
//!
//! Pure. A connection belongs to one holder and one upstream, and there is at most one for each pair; `store::connections`
//! keeps them and [`flow`] is how one comes to be. Its secrets are [`Sealed`] for the connection's id and
//! the revision that they are stored at, so that none can be put in another's place.

use std::fmt;

use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ConnectionId, Owner, Principal, UpstreamName};
use crate::secret::Sealed;

pub mod extra;
pub mod flow;
pub mod header;
pub mod lending;
pub mod link;
pub mod values;
pub mod variable;

pub use flow::Flow;

/// Whose credential it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Holder {
    /// Everyone who may use the upstream; an operator made it.
    Shared,
    /// This principal's alone. [`Principal::Gateway`] holds what catalogs are read with.
    Of(Principal),
}

impl Holder {
    /// The holder that [`fmt::Display`] writes like this.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "shared" { Some(Self::Shared) } else { Principal::parse(text).map(Self::Of) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("shared"),
            Self::Of(principal) => principal.fmt(f),
        }
    }
}

/// Where a connection is found: there is one for each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    pub holder: Holder,
    pub upstream: UpstreamName,
}

impl Place {
    /// Whether it is of one person, key or guest, and not the gateway's or everybody's.
    pub fn is_somebodys(&self) -> bool {
        !matches!(self.holder, Holder::Shared | Holder::Of(Principal::Gateway))
    }

    /// Whose data key seals what is secret here.
    pub fn owner(&self) -> Owner {
        match &self.holder {
            Holder::Shared => Owner::Shared(self.upstream.clone().into()),
            Holder::Of(principal) => Owner::Principal(principal.clone()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.holder, self.upstream)
    }
}

/// Whether a holder may use an upstream, as configuration, keys and users have it now. Policies can only narrow that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Granted,
    /// It was taken away and may come back: the connection is kept, out of sight, for a while.
    Withdrawn,
    /// The key, user or guest does not exist any more.
    HolderGone,
    /// The upstream does not.
    UpstreamGone,
}

impl Access {
    pub fn is_granted(self) -> bool {
        self == Self::Granted
    }
}

/// A credential for one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub id: ConnectionId,
    pub place: Place,
    /// What the secrets are sealed for. It changes with them and with nothing else.
    pub revision: u64,
    /// The revision at which somebody gave the credential that is there, or what it was renewed from: perhaps of another
    /// account than the one before.
    pub given: u64,
    pub credential: Credential,
    pub state: State,
    /// Since when the sweep has known that its holder may not use the upstream.
    pub orphaned_since: Option<Timestamp>,
    pub created: Timestamp,
    /// When its secrets were stored.
    pub stored: Timestamp,
}

/// What is presented to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    OAuth(Tokens),
    /// Values for the headers that the operator names, or for environment variables, all in one text.
    Headers {
        names: Vec<String>,
        values: Sealed,
    },
}

impl Credential {
    /// The word for its kind in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OAuth(_) => "oauth",
            Self::Headers { names, .. } if names.iter().any(|name| variable::is_name(name)) => "environment",
            Self::Headers { .. } => "headers",
        }
    }
}

/// Tokens of an authorization server (RFC 6749 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The server that gave them: they are shown to no other.
    pub issuer: String,
    /// Our client id there.
    pub client: String,
    pub access: Sealed,
    pub refresh: Option<Sealed>,
    pub scopes: TokenList,
    /// When the access token ends, if the server said so.
    pub expires: Option<Timestamp>,
}

/// Whether a credential works, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Connected,
    /// Its person has to connect anew. What is stored stays until then.
    NeedsReauth {
        reason: Reason,
        since: Timestamp,
    },
    /// The operator asks for headers that were not given.
    NeedsUpdate {
        missing: Vec<String>,
        since: Timestamp,
    },
}

words! {
    /// Why a person has to connect anew.
    Reason {
        /// The authorization server refused the refresh token (`invalid_grant`).
        RefreshRefused = "refresh_refused",
        /// A refresh was begun and its answer lost, and the token that it used is refused.
        RefreshLost = "refresh_lost",
        /// The token has ended, and there is nothing to renew it with.
        Expired = "expired",
        /// The upstream refuses a fresh token.
        Unauthorized = "unauthorized",
        /// The upstream wants scopes that were not granted.
        InsufficientScope = "insufficient_scope",
        /// The upstream has moved to another authorization server.
        IssuerChanged = "issuer_changed",
        /// The authorization server does not know our client any more.
        ClientForgotten = "client_forgotten",
        /// What is stored cannot be opened.
        Unreadable = "unreadable",
    }

    /// Why a connection ended.
    End {
        /// Its holder wanted that.
        Disconnected = "disconnected",
        /// An operator wanted that.
        Revoked = "revoked",
        /// Access was withdrawn and did not come back.
        Orphaned = "orphaned",
        /// The key, user or guest is gone.
        HolderGone = "holder_gone",
        UpstreamGone = "upstream_gone",
    }

    /// What a list shows of a connection.
    Standing {
        Active = "active",
        NeedsReauth = "needs_reauth",
        NeedsUpdate = "needs_update",
        /// Its holder may not use the upstream now, whatever else there is to say.
        Orphaned = "orphaned",
    }
}

impl Connection {
    /// What a list shows, given what its holder may.
    pub fn standing(&self, access: Access) -> Standing {
        match (access, &self.state) {
            (Access::Withdrawn | Access::HolderGone | Access::UpstreamGone, _) => Standing::Orphaned,
            (Access::Granted, State::Connected) => Standing::Active,
            (Access::Granted, State::NeedsReauth { .. }) => Standing::NeedsReauth,
            (Access::Granted, State::NeedsUpdate { .. }) => Standing::NeedsUpdate,
        }
    }

    /// The tokens, if it has some.
    pub fn tokens(&self) -> Option<&Tokens> {
        match &self.credential {
            Credential::OAuth(tokens) => Some(tokens),
            Credential::Headers { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyName;

    #[test]
    fn a_holder_is_read_as_it_is_written() {
        for holder in [
            Holder::Shared,
            Holder::Of(Principal::Gateway),
            Holder::Of(Principal::Key(KeyName::parse("shared").unwrap())),
        ] {
            assert_eq!(Holder::parse(&holder.to_string()), Some(holder));
        }
        assert_eq!(Holder::parse("Shared"), None);
    }
}
