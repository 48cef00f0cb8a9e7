//! Parts that the records of several aggregates have, and the way back from them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::StoreError;
use super::engine::Table;
use super::table::unreadable;
use crate::env::Timestamp;
use crate::identity::{TokenList, ToolScope};
use crate::ids::{ClientId, GrantId, Principal};
use crate::oauth::{Access, AccessLimits, IdentitySet, ResourceList, Window};
use crate::secret::Digest;

/// A digest as unpadded base64url.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct DigestRecord(pub(super) Digest);

impl DigestRecord {
    pub(super) fn to_key(self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

impl From<Digest> for DigestRecord {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl From<DigestRecord> for Digest {
    fn from(record: DigestRecord) -> Self {
        record.0
    }
}

impl Serialize for DigestRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for DigestRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(serde::de::Error::custom)?;
        let bytes = bytes.try_into().map_err(|_| serde::de::Error::custom("a digest has 32 bytes"))?;
        Ok(Self(Digest::from_bytes(bytes)))
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessRecord {
    resources: Vec<String>,
    scopes: Vec<String>,
    identities: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsRecord>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsRecord {
    tools: Vec<Vec<String>>,
    access_life_ms: Option<u64>,
    #[serde(default)]
    refresh_life_ms: Option<u64>,
    claims: Option<String>,
    sender_constrained: bool,
}

impl From<&Access> for AccessRecord {
    fn from(access: &Access) -> Self {
        let Access { resources, scopes, identities, limits } = access;
        let AccessLimits { tools, access_life, claims, refresh_life, sender_constrained } = limits;
        let limits = (*limits != AccessLimits::default()).then(|| LimitsRecord {
            tools: tools.to_texts(),
            access_life_ms: access_life.map(millis),
            refresh_life_ms: refresh_life.map(millis),
            claims: claims.as_deref().map(str::to_owned),
            sender_constrained: *sender_constrained,
        });
        Self { resources: resources.to_vec(), scopes: scopes.to_vec(), identities: identities.to_vec(), limits }
    }
}

impl AccessRecord {
    pub(super) fn read(self, table: Table) -> Result<Access, StoreError> {
        let Self { resources, scopes, identities, limits } = self;
        Ok(Access {
            resources: self::resources(table, resources)?,
            scopes: self::scopes(table, scopes)?,
            identities: IdentitySet::parse(identities).ok_or_else(|| none(table, "a set of identities"))?,
            limits: limits.map(|limits| limits.read(table)).transpose()?.unwrap_or_default(),
        })
    }
}

impl LimitsRecord {
    fn read(self, table: Table) -> Result<AccessLimits, StoreError> {
        let Self { tools, access_life_ms, refresh_life_ms, claims, sender_constrained } = self;
        Ok(AccessLimits {
            tools: ToolScope::parse(&tools).ok_or_else(|| none(table, "a scope of tools"))?,
            access_life: access_life_ms.map(Duration::from_millis),
            refresh_life: refresh_life_ms.map(Duration::from_millis),
            claims: claims.map(Into::into),
            sender_constrained,
        })
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowRecord {
    from_ms: u64,
    pub(super) until_ms: u64,
}

impl From<Window> for WindowRecord {
    fn from(Window { from, until }: Window) -> Self {
        Self { from_ms: from.as_millis(), until_ms: until.as_millis() }
    }
}

impl From<WindowRecord> for Window {
    fn from(WindowRecord { from_ms, until_ms }: WindowRecord) -> Self {
        Self { from: Timestamp::from_millis(from_ms), until: Timestamp::from_millis(until_ms) }
    }
}

pub(super) fn none(table: Table, what: &str) -> StoreError {
    unreadable(table, format_args!("{what} is none"))
}

pub(super) fn client(table: Table, id: &str) -> Result<ClientId, StoreError> {
    ClientId::parse(id).ok_or_else(|| none(table, "a client's id"))
}

pub(super) fn grant(table: Table, id: &str) -> Result<GrantId, StoreError> {
    GrantId::parse(id).ok_or_else(|| none(table, "a grant's id"))
}

pub(super) fn principal(table: Table, text: &str) -> Result<Principal, StoreError> {
    Principal::parse(text).ok_or_else(|| none(table, "a principal"))
}

pub(super) fn scopes(table: Table, scopes: Vec<String>) -> Result<TokenList, StoreError> {
    TokenList::parse(scopes).map_err(|(_, error)| unreadable(table, error))
}

pub(super) fn resources(table: Table, resources: Vec<String>) -> Result<ResourceList, StoreError> {
    ResourceList::parse(resources).ok_or_else(|| none(table, "a list of resources"))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written_and_nothing_else_is() {
        let record = DigestRecord(Digest::of(b"x"));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text.len(), 45);
        assert!(serde_json::from_str::<DigestRecord>(&text).unwrap() == record);
        for bad in ["\"\"", "\"AAAA\"", "[1,2]", "\"not base64!\""] {
            assert!(serde_json::from_str::<DigestRecord>(bad).is_err(), "{bad}");
        }
    }
}
