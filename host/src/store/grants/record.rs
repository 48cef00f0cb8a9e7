//! A grant, a refresh token and a sealed successor as they are stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::clients::OnReuseRecord;
use super::super::engine::Table;
use super::super::record::{AccessRecord, DigestRecord, WindowRecord, client, grant, millis, none, principal};
use crate::audit::RevocationReason;
use crate::env::Timestamp;
use crate::oauth::grant::{Grant, KEPT_AFTER_END, RefreshToken, Used};
use crate::secret::Sealed;

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct GrantRecord {
    id: String,
    pub(super) principal: String,
    pub(super) client: String,
    access: AccessRecord,
    proof: Option<DigestRecord>,
    created_ms: u64,
    last_used_ms: u64,
    idle_until_ms: u64,
    until_ms: u64,
    epoch: u64,
    on_reuse: OnReuseRecord,
    revoked: Option<RevokedRecord>,
    /// Records from before it could be set have none.
    #[serde(default = "usually_kept")]
    kept_ms: u64,
}

fn usually_kept() -> u64 {
    millis(KEPT_AFTER_END)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedRecord {
    at_ms: u64,
    reason: String,
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct TokenRecord {
    digest: DigestRecord,
    grant: String,
    generation: u32,
    issued_ms: u64,
    used: Option<UsedRecord>,
    forgotten_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsedRecord {
    grace: WindowRecord,
    successor: DigestRecord,
    replays: u32,
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct SealedRecord {
    pub(super) predecessor: DigestRecord,
    pub(super) sealed: Sealed,
    pub(super) until_ms: u64,
}

/// What the keys of an index begin with for this owner. Neither principals nor ids of clients have the byte 0 in them.
pub(super) fn prefix(owner: &str) -> Vec<u8> {
    [owner.as_bytes(), &[0]].concat()
}

impl GrantRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        self.id.as_bytes().to_vec()
    }

    pub(super) fn by_principal(&self) -> Vec<u8> {
        [&prefix(&self.principal)[..], self.id.as_bytes()].concat()
    }

    pub(super) fn by_client(&self) -> Vec<u8> {
        [&prefix(&self.client)[..], self.id.as_bytes()].concat()
    }

    /// As [`Grant::forgotten`].
    pub(super) fn forgotten(&self) -> Option<Timestamp> {
        let end_ms = self.idle_until_ms.min(self.until_ms);
        let end_ms = self.revoked.as_ref().map_or(end_ms, |revoked| revoked.at_ms.min(end_ms));
        Some(Timestamp::from_millis(end_ms).after(Duration::from_millis(self.kept_ms)))
    }
}

impl TokenRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        self.digest.to_key()
    }

    pub(super) fn forgotten(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.forgotten_ms))
    }
}

impl SealedRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        self.predecessor.to_key()
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.until_ms))
    }
}

impl From<&Grant> for GrantRecord {
    fn from(grant: &Grant) -> Self {
        let Grant {
            id,
            principal,
            client,
            access,
            proof,
            created,
            last_used,
            idle_until,
            until,
            epoch,
            on_reuse,
            kept,
            revoked,
        } = grant;
        Self {
            id: id.to_string(),
            principal: principal.to_string(),
            client: client.to_string(),
            access: access.into(),
            proof: proof.map(DigestRecord),
            created_ms: created.as_millis(),
            last_used_ms: last_used.as_millis(),
            idle_until_ms: idle_until.as_millis(),
            until_ms: until.as_millis(),
            epoch: *epoch,
            on_reuse: (*on_reuse).into(),
            revoked: revoked
                .map(|(at, reason)| RevokedRecord { at_ms: at.as_millis(), reason: reason.as_str().to_owned() }),
            kept_ms: millis(*kept),
        }
    }
}

impl TryFrom<GrantRecord> for Grant {
    type Error = StoreError;

    fn try_from(record: GrantRecord) -> Result<Self, StoreError> {
        let GrantRecord {
            id,
            principal: of,
            client: to,
            access,
            proof,
            created_ms,
            last_used_ms,
            idle_until_ms,
            until_ms,
            epoch,
            on_reuse,
            revoked: ended,
            kept_ms,
        } = record;
        let revoked = |RevokedRecord { at_ms, reason }| {
            let reason = RevocationReason::parse(&reason).ok_or_else(|| none(Table::Grants, "a reason"))?;
            Ok::<_, StoreError>((Timestamp::from_millis(at_ms), reason))
        };
        Ok(Self {
            id: grant(Table::Grants, &id)?,
            principal: principal(Table::Grants, &of)?,
            client: client(Table::Grants, &to)?,
            access: access.read(Table::Grants)?,
            proof: proof.map(|DigestRecord(digest)| digest),
            created: Timestamp::from_millis(created_ms),
            last_used: Timestamp::from_millis(last_used_ms),
            idle_until: Timestamp::from_millis(idle_until_ms),
            until: Timestamp::from_millis(until_ms),
            epoch,
            on_reuse: on_reuse.into(),
            kept: Duration::from_millis(kept_ms),
            revoked: ended.map(revoked).transpose()?,
        })
    }
}

impl From<&RefreshToken> for TokenRecord {
    fn from(token: &RefreshToken) -> Self {
        let RefreshToken { digest, grant, generation, issued, used, forgotten } = token;
        Self {
            digest: (*digest).into(),
            grant: grant.to_string(),
            generation: *generation,
            issued_ms: issued.as_millis(),
            used: used.as_ref().map(|Used { grace, successor, replays }| UsedRecord {
                grace: (*grace).into(),
                successor: (*successor).into(),
                replays: *replays,
            }),
            forgotten_ms: forgotten.as_millis(),
        }
    }
}

impl TryFrom<TokenRecord> for RefreshToken {
    type Error = StoreError;

    fn try_from(record: TokenRecord) -> Result<Self, StoreError> {
        let TokenRecord { digest, grant: of, generation, issued_ms, used, forgotten_ms } = record;
        Ok(Self {
            digest: digest.into(),
            grant: grant(Table::RefreshTokens, &of)?,
            generation,
            issued: Timestamp::from_millis(issued_ms),
            used: used.map(|UsedRecord { grace, successor, replays }| Used {
                grace: grace.into(),
                successor: successor.into(),
                replays,
            }),
            forgotten: Timestamp::from_millis(forgotten_ms),
        })
    }
}
