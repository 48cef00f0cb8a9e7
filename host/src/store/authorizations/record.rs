//! Requests, codes and pushed requests as they are stored.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::record::{AccessRecord, DigestRecord, WindowRecord, client, none, principal, resources, scopes};
use super::codes::REMEMBERED;
use crate::env::Timestamp;
use crate::ids::{BrowserSessionId, ClientId, RequestId};
use crate::oauth::Window;
use crate::oauth::request::{AuthorizationRequest, Chosen, Code};
use crate::secret::Digest;

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct RequestRecord {
    id: String,
    client: String,
    redirect_uri: String,
    state: Option<String>,
    challenge: DigestRecord,
    proof: Option<DigestRecord>,
    resources: Vec<String>,
    scopes: Vec<String>,
    browser: DigestRecord,
    #[serde(default)]
    signed_in_since_ms: Option<u64>,
    #[serde(default)]
    chosen: Option<ChosenRecord>,
    created_ms: u64,
    until_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChosenRecord {
    principal: String,
    session: Option<String>,
    at_ms: u64,
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct CodeRecord {
    digest: DigestRecord,
    client: String,
    redirect_uri: String,
    challenge: DigestRecord,
    proof: Option<DigestRecord>,
    principal: String,
    access: AccessRecord,
    life: WindowRecord,
    state: CodeStateRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum CodeStateRecord {
    Fresh {},
    /// It was presented with a wrong verifier.
    Burned {},
    Redeemed {
        grant: String,
    },
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct PushedRecord {
    reference: DigestRecord,
    client: String,
    parameters: String,
    life: WindowRecord,
}

impl RequestRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        self.id.as_bytes().to_vec()
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.until_ms))
    }
}

impl From<&AuthorizationRequest> for RequestRecord {
    fn from(request: &AuthorizationRequest) -> Self {
        let AuthorizationRequest {
            id,
            client,
            redirect_uri,
            state,
            challenge,
            proof,
            resources,
            scopes,
            browser,
            signed_in_since,
            chosen,
            created,
            until,
        } = request;
        Self {
            id: id.to_string(),
            client: client.to_string(),
            redirect_uri: redirect_uri.clone(),
            state: state.clone(),
            challenge: (*challenge).into(),
            proof: proof.map(DigestRecord),
            resources: resources.to_vec(),
            scopes: scopes.to_vec(),
            browser: (*browser).into(),
            signed_in_since_ms: signed_in_since.map(Timestamp::as_millis),
            chosen: chosen.as_ref().map(ChosenRecord::from),
            created_ms: created.as_millis(),
            until_ms: until.as_millis(),
        }
    }
}

impl TryFrom<RequestRecord> for AuthorizationRequest {
    type Error = StoreError;

    fn try_from(record: RequestRecord) -> Result<Self, StoreError> {
        const TABLE: Table = Table::AuthorizationRequests;
        let RequestRecord {
            id,
            client: of,
            redirect_uri,
            state,
            challenge,
            proof,
            resources: wanted,
            scopes: wanted_scopes,
            browser,
            signed_in_since_ms,
            chosen,
            created_ms,
            until_ms,
        } = record;
        Ok(Self {
            id: RequestId::parse(&id).ok_or_else(|| none(TABLE, "an id"))?,
            client: client(TABLE, &of)?,
            redirect_uri,
            state,
            challenge: challenge.into(),
            proof: proof.map(|DigestRecord(digest)| digest),
            resources: resources(TABLE, wanted)?,
            scopes: scopes(TABLE, wanted_scopes)?,
            browser: browser.into(),
            signed_in_since: signed_in_since_ms.map(Timestamp::from_millis),
            chosen: chosen.map(ChosenRecord::read).transpose()?,
            created: Timestamp::from_millis(created_ms),
            until: Timestamp::from_millis(until_ms),
        })
    }
}

impl From<&Chosen> for ChosenRecord {
    fn from(Chosen { principal, session, at }: &Chosen) -> Self {
        Self {
            principal: principal.to_string(),
            session: session.as_ref().map(BrowserSessionId::to_string),
            at_ms: at.as_millis(),
        }
    }
}

impl ChosenRecord {
    fn read(self) -> Result<Chosen, StoreError> {
        const TABLE: Table = Table::AuthorizationRequests;
        let Self { principal: by, session, at_ms } = self;
        let session = session.map(|id| BrowserSessionId::parse(&id).ok_or_else(|| none(TABLE, "a browser session")));
        Ok(Chosen {
            principal: principal(TABLE, &by)?,
            session: session.transpose()?,
            at: Timestamp::from_millis(at_ms),
        })
    }
}

impl CodeRecord {
    pub(super) fn new(code: &Code, state: CodeStateRecord) -> Self {
        let Code { digest, client, redirect_uri, challenge, proof, principal, access, life } = code;
        Self {
            digest: (*digest).into(),
            client: client.to_string(),
            redirect_uri: redirect_uri.clone(),
            challenge: (*challenge).into(),
            proof: proof.map(DigestRecord),
            principal: principal.to_string(),
            access: access.into(),
            life: (*life).into(),
            state,
        }
    }

    pub(super) fn read(self) -> Result<(Code, CodeStateRecord), StoreError> {
        const TABLE: Table = Table::AuthorizationCodes;
        let Self { digest, client: of, redirect_uri, challenge, proof, principal: by, access, life, state } = self;
        let code = Code {
            digest: digest.into(),
            client: client(TABLE, &of)?,
            redirect_uri,
            challenge: challenge.into(),
            proof: proof.map(|DigestRecord(digest)| digest),
            principal: principal(TABLE, &by)?,
            access: access.read(TABLE)?,
            life: life.into(),
        };
        Ok((code, state))
    }

    pub(super) fn key(&self) -> Vec<u8> {
        self.digest.to_key()
    }

    pub(super) fn forgotten(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.life.until_ms).after(REMEMBERED))
    }
}

impl PushedRecord {
    pub(super) fn new(reference: Digest, client: &ClientId, parameters: &str, life: Window) -> Self {
        Self {
            reference: reference.into(),
            client: client.to_string(),
            parameters: parameters.to_owned(),
            life: life.into(),
        }
    }

    pub(super) fn read(self) -> Result<(ClientId, String, Window), StoreError> {
        let Self { reference: _, client: of, parameters, life } = self;
        Ok((client(Table::PushedRequests, &of)?, parameters, life.into()))
    }

    pub(super) fn key(&self) -> Vec<u8> {
        self.reference.to_key()
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.life.until_ms))
    }
}
