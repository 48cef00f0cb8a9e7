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
mod origin;
pub mod values;
pub mod variable;

pub use flow::Flow;
use lending::Kind;
pub use origin::Origin;

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
    /// Where its upstream was when it was made. What an earlier version stored has none until it is renewed: it counts as made
    /// for where the upstream is.
    pub origin: Option<Origin>,
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
        /// The upstream is at another origin than the one that it was made for. Told, and never stored.
        Moved = "moved",
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
        /// The upstream takes something else of its holder now, or nothing.
        Unused = "unused",
    }
}

/// What an upstream takes of a holder's own, as it is configured now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takes {
    pub kind: Kind,
    pub origin: Origin,
}

/// How a connection stands, given all that there is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    pub standing: Standing,
    /// Why it has to be connected anew.
    pub reason: Option<Reason>,
    /// Headers that are asked for and were not given.
    pub missing: Vec<String>,
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

    /// How it stands, given what its holder may and what its upstream takes of them now. That it moved, and which headers are
    /// missing, follows from the configuration, so that it ends when that is as it was.
    pub fn stands(&self, access: Access, takes: Option<&Takes>) -> Stands {
        let plain = |standing| Stands { standing, reason: None, missing: Vec::new() };
        if !access.is_granted() {
            return plain(Standing::Orphaned);
        }
        let missing = match (takes.map(|takes| &takes.kind), &self.credential) {
            (Some(Kind::OAuth), Credential::OAuth(_)) => Vec::new(),
            (Some(kind @ (Kind::Headers(wanted) | Kind::Variables(wanted))), Credential::Headers { names, .. })
                if kind.as_str() == self.credential.kind() =>
            {
                wanted.iter().filter(|name| !names.contains(name)).cloned().collect()
            }
            // Nothing of the other kind is ever sent.
            (Some(_), _) | (None, _) => return plain(Standing::Unused),
        };
        let needs_reauth = |reason| Stands { reason: Some(reason), ..plain(Standing::NeedsReauth) };
        match &self.state {
            State::NeedsReauth { reason, .. } => needs_reauth(*reason),
            State::Connected | State::NeedsUpdate { .. } if takes.is_some_and(|takes| self.is_moved(&takes.origin)) => {
                needs_reauth(Reason::Moved)
            }
            State::Connected | State::NeedsUpdate { .. } if missing.is_empty() => plain(Standing::Active),
            State::Connected | State::NeedsUpdate { .. } => Stands { missing, ..plain(Standing::NeedsUpdate) },
        }
    }

    /// Whether it was made for another origin than this one.
    pub fn is_moved(&self, origin: &Origin) -> bool {
        self.origin.as_ref().is_some_and(|made_for| made_for != origin)
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

    fn origin(host: &str) -> Origin {
        Origin::of_url(&format!("https://{host}/mcp").parse().unwrap())
    }

    fn connection(credential: Credential) -> Connection {
        Connection {
            id: ConnectionId::parse(&"0a".repeat(12)).unwrap(),
            place: Place { holder: Holder::Shared, upstream: UpstreamName::parse("notes").unwrap() },
            revision: 1,
            given: 1,
            origin: Some(origin("a.example")),
            credential,
            state: State::Connected,
            orphaned_since: None,
            created: Timestamp::default(),
            stored: Timestamp::default(),
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn of_headers(names: &[&str]) -> Connection {
        connection(Credential::Headers { names: words(names), values: Sealed::from_bytes(*b"v") })
    }

    fn told(connection: &Connection, access: Access, kind: Option<Kind>, host: &str) -> String {
        let takes = kind.map(|kind| Takes { kind, origin: origin(host) });
        let Stands { standing, reason, missing } = connection.stands(access, takes.as_ref());
        let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
        format!("{standing}{reason} {}", missing.join(" ")).trim_end().to_owned()
    }

    #[test]
    fn a_connection_stands_as_its_holder_and_its_upstream_are_now() {
        let headers = |names: &[&str]| Some(Kind::Headers(words(names)));
        let granted = |connection: &Connection, kind, host| told(connection, Access::Granted, kind, host);
        let given = of_headers(&["x-a", "x-b"]);
        assert_eq!(granted(&given, headers(&["x-a", "x-b"]), "a.example"), "active");
        assert_eq!(granted(&given, headers(&["x-a"]), "a.example"), "active");
        assert_eq!(granted(&given, headers(&["x-a", "x-c"]), "a.example"), "needs_update x-c");
        assert_eq!(granted(&given, Some(Kind::OAuth), "a.example"), "unused");
        assert_eq!(granted(&given, None, "a.example"), "unused");
        assert_eq!(granted(&given, headers(&["x-a"]), "b.example"), "needs_reauth moved");
        for access in [Access::Withdrawn, Access::HolderGone, Access::UpstreamGone] {
            assert_eq!(told(&given, access, headers(&["x-a"]), "b.example"), "orphaned");
        }
        let old = Connection { origin: None, ..given.clone() };
        assert_eq!(granted(&old, headers(&["x-a"]), "b.example"), "active", "nobody knows what it was made for");
        let since = Timestamp::default();
        let marked = Connection { state: State::NeedsUpdate { missing: words(&["x-c"]), since }, ..given.clone() };
        assert_eq!(granted(&marked, headers(&["x-a", "x-b"]), "a.example"), "active", "it is asked for no more");
        let refused = Connection { state: State::NeedsReauth { reason: Reason::Unauthorized, since }, ..given };
        assert_eq!(granted(&refused, headers(&["x-a"]), "b.example"), "needs_reauth unauthorized");
        assert_eq!(granted(&refused, None, "b.example"), "unused");
    }

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
