//! A client as it is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::record::{DigestRecord, client, millis, scopes};
use crate::env::Timestamp;
use crate::oauth::Client;
use crate::oauth::client::{Authentication, GrantType, KeySource, Lives, Metadata, Source};
use crate::oauth::grant::OnReuse;

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ClientRecord {
    pub(super) id: String,
    source: SourceRecord,
    metadata: MetadataRecord,
    authentication: AuthenticationRecord,
    on_reuse: OnReuseRecord,
    created_ms: u64,
    last_used_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum SourceRecord {
    Registered { token: DigestRecord, unused_ms: u64, inactive_ms: u64 },
    Operator {},
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetadataRecord {
    name: Option<String>,
    redirect_uris: Vec<String>,
    grant_types: Vec<GrantTypeRecord>,
    scopes: Vec<String>,
    contacts: Vec<String>,
    client_uri: Option<String>,
    logo_uri: Option<String>,
    tos_uri: Option<String>,
    policy_uri: Option<String>,
    software_id: Option<String>,
    software_version: Option<String>,
    #[serde(default)]
    requires_proof: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GrantTypeRecord {
    AuthorizationCode,
    RefreshToken,
    ClientCredentials,
    DeviceCode,
    TokenExchange,
    JwtBearer,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum AuthenticationRecord {
    Public {},
    SecretBasic { digest: DigestRecord },
    SecretPost { digest: DigestRecord },
    KeysAt { uri: String },
    Keys { jwks: String },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum OnReuseRecord {
    RevokeFamily,
    Reject,
}

/// First byte of the keys of an index.
#[derive(Clone, Copy)]
pub(super) enum Use {
    Unused = 0,
    Used = 1,
    OfOperator = 2,
}

impl ClientRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        self.id.as_bytes().to_vec()
    }

    pub(super) fn by_use(&self) -> Vec<u8> {
        let (kind, at_ms) = match (&self.source, self.last_used_ms) {
            (SourceRecord::Operator {}, _) => (Use::OfOperator, self.created_ms),
            (SourceRecord::Registered { .. }, None) => (Use::Unused, self.created_ms),
            (SourceRecord::Registered { .. }, Some(used_ms)) => (Use::Used, used_ms),
        };
        [&[kind as u8], &at_ms.to_be_bytes()[..], self.id.as_bytes()].concat()
    }

    pub(super) fn is_of_operator(&self) -> bool {
        matches!(self.source, SourceRecord::Operator {})
    }

    pub(super) fn by_creation(&self) -> Vec<u8> {
        [&self.created_ms.to_be_bytes()[..], self.id.as_bytes()].concat()
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        let SourceRecord::Registered { unused_ms, inactive_ms, .. } = self.source else { return None };
        let (from_ms, for_ms) = match self.last_used_ms {
            None => (self.created_ms, unused_ms),
            Some(used_ms) => (used_ms, inactive_ms),
        };
        Some(Timestamp::from_millis(from_ms.saturating_add(for_ms)))
    }
}

impl From<OnReuse> for OnReuseRecord {
    fn from(on_reuse: OnReuse) -> Self {
        match on_reuse {
            OnReuse::RevokeFamily => Self::RevokeFamily,
            OnReuse::Reject => Self::Reject,
        }
    }
}

impl From<OnReuseRecord> for OnReuse {
    fn from(record: OnReuseRecord) -> Self {
        match record {
            OnReuseRecord::RevokeFamily => Self::RevokeFamily,
            OnReuseRecord::Reject => Self::Reject,
        }
    }
}

impl From<&Client> for ClientRecord {
    fn from(client: &Client) -> Self {
        let Client { id, source, metadata, authentication, on_reuse, created, last_used } = client;
        Self {
            id: id.to_string(),
            source: match source {
                Source::Registered { token, lives: Lives { unused, inactive } } => SourceRecord::Registered {
                    token: (*token).into(),
                    unused_ms: millis(*unused),
                    inactive_ms: millis(*inactive),
                },
                Source::Operator => SourceRecord::Operator {},
            },
            metadata: metadata.into(),
            authentication: authentication.into(),
            on_reuse: (*on_reuse).into(),
            created_ms: created.as_millis(),
            last_used_ms: last_used.map(Timestamp::as_millis),
        }
    }
}

impl TryFrom<ClientRecord> for Client {
    type Error = StoreError;

    fn try_from(record: ClientRecord) -> Result<Self, StoreError> {
        let ClientRecord { id, source, metadata, authentication, on_reuse, created_ms, last_used_ms } = record;
        Ok(Self {
            id: client(Table::Clients, &id)?,
            source: match source {
                SourceRecord::Registered { token, unused_ms, inactive_ms } => Source::Registered {
                    token: token.into(),
                    lives: Lives {
                        unused: Duration::from_millis(unused_ms),
                        inactive: Duration::from_millis(inactive_ms),
                    },
                },
                SourceRecord::Operator {} => Source::Operator,
            },
            metadata: metadata.try_into()?,
            authentication: authentication.into(),
            on_reuse: on_reuse.into(),
            created: Timestamp::from_millis(created_ms),
            last_used: last_used_ms.map(Timestamp::from_millis),
        })
    }
}

impl From<&Metadata> for MetadataRecord {
    fn from(metadata: &Metadata) -> Self {
        let Metadata {
            name,
            redirect_uris,
            grant_types,
            scopes,
            contacts,
            client_uri,
            logo_uri,
            tos_uri,
            policy_uri,
            software_id,
            software_version,
            requires_proof,
        } = metadata.clone();
        Self {
            name,
            redirect_uris,
            grant_types: grant_types.into_iter().map(GrantTypeRecord::from).collect(),
            scopes: scopes.to_vec(),
            contacts,
            client_uri,
            logo_uri,
            tos_uri,
            policy_uri,
            software_id,
            software_version,
            requires_proof,
        }
    }
}

impl TryFrom<MetadataRecord> for Metadata {
    type Error = StoreError;

    fn try_from(record: MetadataRecord) -> Result<Self, StoreError> {
        let MetadataRecord {
            name,
            redirect_uris,
            grant_types,
            scopes: of,
            contacts,
            client_uri,
            logo_uri,
            tos_uri,
            policy_uri,
            software_id,
            software_version,
            requires_proof,
        } = record;
        Ok(Self {
            name,
            redirect_uris,
            grant_types: grant_types.into_iter().map(GrantType::from).collect(),
            scopes: scopes(Table::Clients, of)?,
            contacts,
            client_uri,
            logo_uri,
            tos_uri,
            policy_uri,
            software_id,
            software_version,
            requires_proof,
        })
    }
}

impl From<GrantType> for GrantTypeRecord {
    fn from(grant_type: GrantType) -> Self {
        match grant_type {
            GrantType::AuthorizationCode => Self::AuthorizationCode,
            GrantType::RefreshToken => Self::RefreshToken,
            GrantType::ClientCredentials => Self::ClientCredentials,
            GrantType::DeviceCode => Self::DeviceCode,
            GrantType::TokenExchange => Self::TokenExchange,
            GrantType::JwtBearer => Self::JwtBearer,
        }
    }
}

impl From<GrantTypeRecord> for GrantType {
    fn from(record: GrantTypeRecord) -> Self {
        match record {
            GrantTypeRecord::AuthorizationCode => Self::AuthorizationCode,
            GrantTypeRecord::RefreshToken => Self::RefreshToken,
            GrantTypeRecord::ClientCredentials => Self::ClientCredentials,
            GrantTypeRecord::DeviceCode => Self::DeviceCode,
            GrantTypeRecord::TokenExchange => Self::TokenExchange,
            GrantTypeRecord::JwtBearer => Self::JwtBearer,
        }
    }
}

impl From<&Authentication> for AuthenticationRecord {
    fn from(authentication: &Authentication) -> Self {
        match authentication {
            Authentication::Public => Self::Public {},
            Authentication::SecretBasic(digest) => Self::SecretBasic { digest: (*digest).into() },
            Authentication::SecretPost(digest) => Self::SecretPost { digest: (*digest).into() },
            Authentication::PrivateKey(KeySource::Address(uri)) => Self::KeysAt { uri: uri.clone() },
            Authentication::PrivateKey(KeySource::Inline(jwks)) => Self::Keys { jwks: jwks.clone() },
        }
    }
}

impl From<AuthenticationRecord> for Authentication {
    fn from(record: AuthenticationRecord) -> Self {
        match record {
            AuthenticationRecord::Public {} => Self::Public,
            AuthenticationRecord::SecretBasic { digest } => Self::SecretBasic(digest.into()),
            AuthenticationRecord::SecretPost { digest } => Self::SecretPost(digest.into()),
            AuthenticationRecord::KeysAt { uri } => Self::PrivateKey(KeySource::Address(uri)),
            AuthenticationRecord::Keys { jwks } => Self::PrivateKey(KeySource::Inline(jwks)),
        }
    }
}
