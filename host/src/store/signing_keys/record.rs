//! A signing key as it is stored.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::record::none;
use super::super::sealed::SealedField;
use super::private_at;
use crate::env::Timestamp;
use crate::oauth::signing::{Algorithm, SigningKey, Stage};
use crate::secret::Sealed;

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct KeyRecord {
    id: String,
    algorithm: String,
    public: String,
    created_ms: u64,
    stage: StageRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum StageRecord {
    Announced { private: Sealed, usable_from_ms: u64 },
    Active { private: Sealed, since_ms: u64 },
    Retired { until_ms: u64 },
}

impl KeyRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        self.id.as_bytes().to_vec()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what other tables say of their records may fail")]
pub(super) fn sealed(record: &KeyRecord) -> Result<Vec<SealedField>, StoreError> {
    Ok(match &record.stage {
        StageRecord::Announced { private, .. } | StageRecord::Active { private, .. } => {
            vec![(private_at(&record.id), private.clone())]
        }
        StageRecord::Retired { .. } => Vec::new(),
    })
}

impl From<&SigningKey> for KeyRecord {
    fn from(key: &SigningKey) -> Self {
        let SigningKey { id, algorithm, public, created, stage } = key;
        Self {
            id: id.clone(),
            algorithm: algorithm.as_str().to_owned(),
            public: public.clone(),
            created_ms: created.as_millis(),
            stage: match stage.clone() {
                Stage::Announced { private, usable_from } => {
                    StageRecord::Announced { private, usable_from_ms: usable_from.as_millis() }
                }
                Stage::Active { private, since } => StageRecord::Active { private, since_ms: since.as_millis() },
                Stage::Retired { until } => StageRecord::Retired { until_ms: until.as_millis() },
            },
        }
    }
}

impl TryFrom<KeyRecord> for SigningKey {
    type Error = StoreError;

    fn try_from(record: KeyRecord) -> Result<Self, StoreError> {
        let KeyRecord { id, algorithm, public, created_ms, stage } = record;
        let at = Timestamp::from_millis;
        Ok(Self {
            id,
            algorithm: Algorithm::parse(&algorithm).ok_or_else(|| none(Table::SigningKeys, "an algorithm"))?,
            public,
            created: at(created_ms),
            stage: match stage {
                StageRecord::Announced { private, usable_from_ms } => {
                    Stage::Announced { private, usable_from: at(usable_from_ms) }
                }
                StageRecord::Active { private, since_ms } => Stage::Active { private, since: at(since_ms) },
                StageRecord::Retired { until_ms } => Stage::Retired { until: at(until_ms) },
            },
        })
    }
}
