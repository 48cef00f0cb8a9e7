//! A device that waits, and the wrong user codes of one address, as they are stored.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::record::{
    AccessRecord, DigestRecord, WindowRecord, client, grant, millis, principal, resources, scopes,
};
use crate::env::Timestamp;
use crate::oauth::Window;
use crate::oauth::device::{DeviceRequest, DeviceState};
use crate::secret::Digest;

/// How long a code that was redeemed is remembered after its time, so that one that comes back is recognised.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);
/// The same for a code for which there was nothing: its device hears that it has expired. Devices are bounded, those that
/// are remembered among them.
const LATE: Duration = Duration::from_secs(60);

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct DeviceRecord {
    device_code: DigestRecord,
    user_code: DigestRecord,
    client: String,
    resources: Vec<String>,
    scopes: Vec<String>,
    proof: Option<DigestRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    life: WindowRecord,
    interval_ms: u64,
    last_poll_ms: Option<u64>,
    state: DeviceStateRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum DeviceStateRecord {
    Pending {},
    Approved { principal: String, access: AccessRecord, at_ms: u64 },
    Refused {},
    Redeemed { grant: String },
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct MissesRecord {
    /// `None`: of everybody.
    from: Option<DigestRecord>,
    window: WindowRecord,
    count: u32,
}

impl DeviceRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        self.device_code.to_key()
    }

    pub(super) fn by_user_code(&self) -> Vec<u8> {
        self.user_code.to_key()
    }

    pub(super) fn forgotten(&self) -> Option<Timestamp> {
        let remembered = match self.state {
            DeviceStateRecord::Redeemed { .. } => REMEMBERED,
            _ => LATE,
        };
        Some(Timestamp::from_millis(self.life.until_ms).after(remembered))
    }
}

impl MissesRecord {
    pub(super) fn none(from: Option<Digest>, window: Window) -> Self {
        Self { from: from.map(DigestRecord), window: window.into(), count: 0 }
    }

    pub(super) fn key(&self) -> Vec<u8> {
        self.from.map_or_else(Vec::new, DigestRecord::to_key)
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.window.until_ms))
    }

    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        Window::from(self.window).is_open(now)
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn and_one(self) -> Self {
        Self { count: self.count.saturating_add(1), ..self }
    }
}

impl From<&DeviceRequest> for DeviceRecord {
    fn from(request: &DeviceRequest) -> Self {
        let DeviceRequest {
            device_code,
            user_code,
            client,
            resources,
            scopes,
            proof,
            from,
            life,
            interval,
            last_poll,
            state,
        } = request;
        Self {
            device_code: (*device_code).into(),
            user_code: (*user_code).into(),
            client: client.to_string(),
            resources: resources.to_vec(),
            scopes: scopes.to_vec(),
            proof: proof.map(DigestRecord),
            from: *from,
            life: (*life).into(),
            interval_ms: millis(*interval),
            last_poll_ms: last_poll.map(Timestamp::as_millis),
            state: match state {
                DeviceState::Pending => DeviceStateRecord::Pending {},
                DeviceState::Approved { principal, access, at } => DeviceStateRecord::Approved {
                    principal: principal.to_string(),
                    access: access.into(),
                    at_ms: at.as_millis(),
                },
                DeviceState::Refused => DeviceStateRecord::Refused {},
                DeviceState::Redeemed { grant } => DeviceStateRecord::Redeemed { grant: grant.to_string() },
            },
        }
    }
}

impl TryFrom<DeviceRecord> for DeviceRequest {
    type Error = StoreError;

    fn try_from(record: DeviceRecord) -> Result<Self, StoreError> {
        const TABLE: Table = Table::Devices;
        let DeviceRecord {
            device_code,
            user_code,
            client: of,
            resources: wanted,
            scopes: wanted_scopes,
            proof,
            from,
            life,
            interval_ms,
            last_poll_ms,
            state,
        } = record;
        Ok(Self {
            device_code: device_code.into(),
            user_code: user_code.into(),
            client: client(TABLE, &of)?,
            resources: resources(TABLE, wanted)?,
            scopes: scopes(TABLE, wanted_scopes)?,
            proof: proof.map(|DigestRecord(digest)| digest),
            from,
            life: life.into(),
            interval: Duration::from_millis(interval_ms),
            last_poll: last_poll_ms.map(Timestamp::from_millis),
            state: match state {
                DeviceStateRecord::Pending {} => DeviceState::Pending,
                DeviceStateRecord::Approved { principal: by, access, at_ms } => DeviceState::Approved {
                    principal: principal(TABLE, &by)?,
                    access: access.read(TABLE)?,
                    at: Timestamp::from_millis(at_ms),
                },
                DeviceStateRecord::Refused {} => DeviceState::Refused,
                DeviceStateRecord::Redeemed { grant: of } => DeviceState::Redeemed { grant: grant(TABLE, &of)? },
            },
        })
    }
}
