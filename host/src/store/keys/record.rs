//! A virtual key as it is stored.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::table::unreadable;
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::TokenList;
use crate::identity::key::{AllowEntry, AllowList, Earlier, ManagedBy, Standing, VirtualKey};
use crate::identity::user::Login;
use crate::ids::KeyName;
use crate::secret::Digest;

/// Codec version 3.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct KeyRecord {
    pub(super) name: String,
    pub(super) digest: [u8; 32],
    pub(super) earlier: Option<EarlierRecord>,
    pub(super) allow: Vec<AllowRecord>,
    pub(super) scopes: Vec<String>,
    pub(super) groups: Vec<String>,
    /// A login.
    pub(super) owner: Option<String>,
    pub(super) created_ms: u64,
    pub(super) expires_ms: Option<u64>,
    pub(super) standing: StandingRecord,
    pub(super) revision: u64,
}

/// Codec version 2: keys had no owner, one secret, and nobody counted their changes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRecord2 {
    name: String,
    digest: [u8; 32],
    allow: Vec<AllowRecord>,
    scopes: Vec<String>,
    groups: Vec<String>,
    created_ms: u64,
    expires_ms: Option<u64>,
    standing: StandingRecord,
}

/// Codec version 1: keys had neither scopes nor groups.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRecord1 {
    name: String,
    digest: [u8; 32],
    allow: Vec<AllowRecord>,
    created_ms: u64,
    expires_ms: Option<u64>,
    standing: StandingRecord,
}

impl From<KeyRecord1> for KeyRecord {
    fn from(record: KeyRecord1) -> Self {
        let KeyRecord1 { name, digest, allow, created_ms, expires_ms, standing } = record;
        let (scopes, groups) = (Vec::new(), Vec::new());
        Self::from(KeyRecord2 { name, digest, allow, scopes, groups, created_ms, expires_ms, standing })
    }
}

impl From<KeyRecord2> for KeyRecord {
    fn from(record: KeyRecord2) -> Self {
        let KeyRecord2 { name, digest, allow, scopes, groups, created_ms, expires_ms, standing } = record;
        let (earlier, owner, revision) = (None, None, 1);
        Self { name, digest, earlier, allow, scopes, groups, owner, created_ms, expires_ms, standing, revision }
    }
}

impl KeyRecord {
    /// The same at its next revision.
    pub(super) fn changed(&self) -> Self {
        Self { revision: self.revision + 1, ..self.clone() }
    }
}

/// A secret that is good for a while yet.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlierRecord {
    pub(super) digest: [u8; 32],
    pub(super) until_ms: u64,
}

#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowRecord {
    upstream: String,
    tools: Vec<String>,
}

impl AllowRecord {
    /// As the command line has it: `upstream/tool` for each pattern.
    pub(super) fn words(&self) -> Vec<String> {
        self.tools.iter().map(|tool| format!("{}/{tool}", self.upstream)).collect()
    }
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum StandingRecord {
    Enabled,
    Disabled,
}

impl From<&VirtualKey> for KeyRecord {
    fn from(key: &VirtualKey) -> Self {
        // Whatever is in the store is managed by it.
        let VirtualKey {
            name,
            digest,
            earlier,
            allow,
            scopes,
            groups,
            owner,
            created,
            expires,
            standing,
            managed_by: _,
            revision,
        } = key;
        Self {
            name: name.as_str().to_owned(),
            digest: *digest.as_bytes(),
            earlier: earlier.as_ref().map(EarlierRecord::from),
            allow: allow.0.iter().map(AllowRecord::from).collect(),
            scopes: scopes.to_vec(),
            groups: groups.to_vec(),
            owner: owner.as_ref().map(Login::to_string),
            created_ms: created.as_millis(),
            expires_ms: expires.map(Timestamp::as_millis),
            standing: (*standing).into(),
            revision: *revision,
        }
    }
}

impl From<&Earlier> for EarlierRecord {
    fn from(earlier: &Earlier) -> Self {
        let Earlier { digest, until } = earlier;
        Self { digest: *digest.as_bytes(), until_ms: until.as_millis() }
    }
}

impl From<Standing> for StandingRecord {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Enabled => Self::Enabled,
            Standing::Disabled => Self::Disabled,
        }
    }
}

impl From<&AllowEntry> for AllowRecord {
    fn from(entry: &AllowEntry) -> Self {
        let AllowEntry { upstream, tools } = entry;
        Self {
            upstream: upstream.as_str().to_owned(),
            tools: tools.iter().map(|tool| tool.as_str().to_owned()).collect(),
        }
    }
}

impl TryFrom<KeyRecord> for VirtualKey {
    type Error = StoreError;

    fn try_from(record: KeyRecord) -> Result<Self, StoreError> {
        let KeyRecord {
            name,
            digest,
            earlier,
            allow,
            scopes,
            groups,
            owner,
            created_ms,
            expires_ms,
            standing,
            revision,
        } = record;
        let login = |login: String| Login::parse(&login).ok_or_else(|| unreadable(Table::Keys, "a login is none"));
        let tokens = |list| TokenList::parse(list).map_err(|(_, error)| unreadable(Table::Keys, error));
        Ok(Self {
            name: KeyName::parse(&name).map_err(|error| unreadable(Table::Keys, error))?,
            digest: Digest::from_bytes(digest),
            earlier: earlier.map(Earlier::from),
            allow: AllowList(allow.into_iter().map(AllowEntry::try_from).collect::<Result<_, _>>()?),
            scopes: tokens(scopes)?,
            groups: tokens(groups)?,
            owner: owner.map(login).transpose()?,
            created: Timestamp::from_millis(created_ms),
            expires: expires_ms.map(Timestamp::from_millis),
            standing: match standing {
                StandingRecord::Enabled => Standing::Enabled,
                StandingRecord::Disabled => Standing::Disabled,
            },
            managed_by: ManagedBy::Store,
            revision,
        })
    }
}

impl From<EarlierRecord> for Earlier {
    fn from(record: EarlierRecord) -> Self {
        let EarlierRecord { digest, until_ms } = record;
        Self { digest: Digest::from_bytes(digest), until: Timestamp::from_millis(until_ms) }
    }
}

impl TryFrom<AllowRecord> for AllowEntry {
    type Error = StoreError;

    fn try_from(record: AllowRecord) -> Result<Self, StoreError> {
        let AllowRecord { upstream, tools } = record;
        let glob =
            |pattern: &String| Glob::parse(pattern).ok_or_else(|| unreadable(Table::Keys, "a pattern is invalid"));
        Ok(Self { upstream: glob(&upstream)?, tools: tools.iter().map(glob).collect::<Result<_, _>>()? })
    }
}
