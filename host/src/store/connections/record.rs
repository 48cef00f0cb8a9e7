//! Connections, and tokens that wait to be revoked, as they are stored.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::table::unreadable;
use crate::connection::{Connection, Credential, Holder, Origin, Place, Reason, State, Tokens};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ConnectionId, UpstreamName};
use crate::secret::Sealed;

/// Codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Record {
    pub(super) id: String,
    pub(super) holder: String,
    pub(super) upstream: String,
    pub(super) revision: u64,
    #[serde(default)]
    pub(super) given: u64,
    #[serde(default)]
    pub(super) origin: Option<String>,
    pub(super) credential: CredentialRecord,
    pub(super) state: StateRecord,
    pub(super) orphaned_since_ms: Option<u64>,
    pub(super) created_ms: u64,
    pub(super) stored_ms: u64,
    /// Who refreshes it now.
    pub(super) lease: Option<LeaseRecord>,
    /// Number of the last lease. It never goes back while the connection lives.
    pub(super) fence: u64,
    /// Refreshes that failed in a row.
    pub(super) failures: u32,
    /// No refresh is tried before.
    pub(super) not_before_ms: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum CredentialRecord {
    #[serde(rename = "oauth")]
    OAuth {
        issuer: String,
        client: String,
        access: Sealed,
        refresh: Option<Sealed>,
        scopes: Vec<String>,
        expires_ms: Option<u64>,
    },
    Headers {
        names: Vec<String>,
        values: Sealed,
    },
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum StateRecord {
    Connected {},
    NeedsReauth { reason: String, since_ms: u64 },
    NeedsUpdate { missing: Vec<String>, since_ms: u64 },
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct LeaseRecord {
    /// The replica, for people to read.
    pub(super) by: String,
    pub(super) until_ms: u64,
}

impl Record {
    pub(super) fn key(&self) -> Vec<u8> {
        [&of_holder(&self.holder), self.upstream.as_bytes()].concat()
    }

    pub(super) fn by_upstream(&self) -> Vec<u8> {
        [self.upstream.as_bytes(), &[0], self.id.as_bytes()].concat()
    }

    /// Those that a refresh can renew stand first, in the order in which that is due.
    pub(super) fn by_end(&self) -> Vec<u8> {
        let ends = match (&self.credential, &self.state) {
            (CredentialRecord::OAuth { refresh: Some(_), expires_ms, .. }, StateRecord::Connected {}) => *expires_ms,
            _ => None,
        };
        match ends.filter(|_| self.orphaned_since_ms.is_none()) {
            Some(ends) => {
                let due = ends.max(self.not_before_ms.unwrap_or(0));
                [&[0], &due.to_be_bytes()[..], self.id.as_bytes()].concat()
            }
            None => [&[1], self.id.as_bytes()].concat(),
        }
    }

    /// The same with another credential, at the next revision. Whoever refreshed the old one has lost its lease.
    pub(super) fn renewed(&self, credential: &Credential, now: Timestamp) -> Self {
        Self {
            revision: self.revision + 1,
            credential: CredentialRecord::from(credential),
            state: StateRecord::Connected {},
            stored_ms: now.as_millis(),
            lease: None,
            fence: self.fence + 1,
            failures: 0,
            not_before_ms: None,
            ..self.clone()
        }
    }

    pub(super) fn first(id: &ConnectionId, place: &Place, credential: &Credential, now: Timestamp) -> Self {
        Self {
            id: id.as_str().to_owned(),
            holder: place.holder.to_string(),
            upstream: place.upstream.as_str().to_owned(),
            revision: 1,
            given: 1,
            origin: None,
            credential: CredentialRecord::from(credential),
            state: StateRecord::Connected {},
            orphaned_since_ms: None,
            created_ms: now.as_millis(),
            stored_ms: now.as_millis(),
            lease: None,
            fence: 0,
            failures: 0,
            not_before_ms: None,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.state, StateRecord::Connected {})
    }

    pub(super) fn connection(&self) -> Result<Connection, StoreError> {
        self.clone().try_into()
    }

    pub(super) fn place(&self) -> Result<Place, StoreError> {
        place(&self.holder, &self.upstream)
    }
}

/// What the keys of a holder's connections begin with. No holder has the byte 0 in it.
pub(super) fn of_holder(holder: &str) -> Vec<u8> {
    [holder.as_bytes(), &[0]].concat()
}

/// The key of the connection at a place.
pub(super) fn at(place: &Place) -> Vec<u8> {
    [&of_holder(&place.holder.to_string()), place.upstream.as_str().as_bytes()].concat()
}

fn bad(what: &str) -> StoreError {
    unreadable(Table::Connections, format_args!("{what} is none"))
}

fn place(holder: &str, upstream: &str) -> Result<Place, StoreError> {
    Ok(Place {
        holder: Holder::parse(holder).ok_or_else(|| bad("a holder"))?,
        upstream: UpstreamName::parse(upstream).map_err(|_| bad("an upstream"))?,
    })
}

impl From<&Credential> for CredentialRecord {
    fn from(credential: &Credential) -> Self {
        match credential {
            Credential::OAuth(tokens) => {
                let Tokens { issuer, client, access, refresh, scopes, expires } = tokens;
                Self::OAuth {
                    issuer: issuer.clone(),
                    client: client.clone(),
                    access: access.clone(),
                    refresh: refresh.clone(),
                    scopes: scopes.to_vec(),
                    expires_ms: expires.map(Timestamp::as_millis),
                }
            }
            Credential::Headers { names, values } => Self::Headers { names: names.clone(), values: values.clone() },
        }
    }
}

impl TryFrom<CredentialRecord> for Credential {
    type Error = StoreError;

    fn try_from(record: CredentialRecord) -> Result<Self, StoreError> {
        Ok(match record {
            CredentialRecord::OAuth { issuer, client, access, refresh, scopes, expires_ms } => Self::OAuth(Tokens {
                issuer,
                client,
                access,
                refresh,
                scopes: TokenList::parse(scopes).map_err(|(_, error)| unreadable(Table::Connections, error))?,
                expires: expires_ms.map(Timestamp::from_millis),
            }),
            CredentialRecord::Headers { names, values } => Self::Headers { names, values },
        })
    }
}

impl From<&State> for StateRecord {
    fn from(state: &State) -> Self {
        match state {
            State::Connected => Self::Connected {},
            State::NeedsReauth { reason, since } => {
                Self::NeedsReauth { reason: reason.as_str().to_owned(), since_ms: since.as_millis() }
            }
            State::NeedsUpdate { missing, since } => {
                Self::NeedsUpdate { missing: missing.clone(), since_ms: since.as_millis() }
            }
        }
    }
}

impl TryFrom<Record> for Connection {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record {
            id,
            holder,
            upstream,
            revision,
            given,
            origin,
            credential,
            state,
            orphaned_since_ms,
            created_ms,
            stored_ms,
            lease: _,
            fence: _,
            failures: _,
            not_before_ms: _,
        } = record;
        Ok(Self {
            id: ConnectionId::parse(&id).ok_or_else(|| bad("an id"))?,
            place: place(&holder, &upstream)?,
            revision,
            given,
            origin: origin.map(|origin| Origin::parse(&origin).ok_or_else(|| bad("an origin"))).transpose()?,
            credential: credential.try_into()?,
            state: match state {
                StateRecord::Connected {} => State::Connected,
                StateRecord::NeedsReauth { reason, since_ms } => State::NeedsReauth {
                    reason: Reason::parse(&reason).ok_or_else(|| bad("a reason"))?,
                    since: Timestamp::from_millis(since_ms),
                },
                StateRecord::NeedsUpdate { missing, since_ms } => {
                    State::NeedsUpdate { missing, since: Timestamp::from_millis(since_ms) }
                }
            },
            orphaned_since: orphaned_since_ms.map(Timestamp::from_millis),
            created: Timestamp::from_millis(created_ms),
            stored: Timestamp::from_millis(stored_ms),
        })
    }
}

/// Tokens of an ended connection, codec version 1. They stay sealed for what they were.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct RevocationRecord {
    pub(super) connection: String,
    pub(super) holder: String,
    pub(super) upstream: String,
    pub(super) revision: u64,
    pub(super) issuer: String,
    pub(super) client: String,
    pub(super) access: Sealed,
    pub(super) refresh: Option<Sealed>,
    pub(super) attempts: u32,
    pub(super) due_ms: u64,
    pub(super) ended_ms: u64,
}

impl RevocationRecord {
    /// What is left to do after a connection with tokens.
    pub(super) fn of(record: &Record, now: Timestamp) -> Option<Self> {
        let CredentialRecord::OAuth { issuer, client, access, refresh, .. } = &record.credential else { return None };
        Some(Self {
            connection: record.id.clone(),
            holder: record.holder.clone(),
            upstream: record.upstream.clone(),
            revision: record.revision,
            issuer: issuer.clone(),
            client: client.clone(),
            access: access.clone(),
            refresh: refresh.clone(),
            attempts: 0,
            due_ms: now.as_millis(),
            ended_ms: now.as_millis(),
        })
    }

    pub(super) fn by_due(&self) -> Vec<u8> {
        [&self.due_ms.to_be_bytes(), self.connection.as_bytes()].concat()
    }

    pub(super) fn place(&self) -> Result<Place, StoreError> {
        place(&self.holder, &self.upstream)
    }
}
