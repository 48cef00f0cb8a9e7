//! A connection flow as it is stored.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::sealed::SealedField;
use super::super::table::unreadable;
use super::verifier_at;
use crate::connection::flow::{Flow, Stage};
use crate::connection::{Holder, Origin, Place};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ConnectionId, FlowId, UpstreamName, UserId};
use crate::secret::{Digest, Sealed};

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Record {
    id: String,
    pub(super) state: [u8; 32],
    holder: String,
    pub(super) upstream: String,
    connection: String,
    renews: Option<u64>,
    #[serde(default)]
    origin: Option<String>,
    issuer: String,
    client: String,
    redirect: String,
    verifier: Option<Sealed>,
    scopes: Vec<String>,
    pub(super) browser: [u8; 32],
    user: Option<String>,
    begun_ms: u64,
    pub(super) expires_ms: u64,
    stage: String,
}

impl Record {
    pub(super) fn by_place(&self) -> Vec<u8> {
        [&of_place(&self.holder, &self.upstream), self.id.as_bytes()].concat()
    }

    pub(super) fn is_pending(&self) -> bool {
        self.stage == Stage::Pending.as_str()
    }

    /// Whether something may still come of it.
    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        self.stage != Stage::Over.as_str() && now.as_millis() < self.expires_ms
    }

    pub(super) fn place(&self) -> Result<Place, StoreError> {
        Ok(Place {
            holder: Holder::parse(&self.holder).ok_or_else(|| bad("a holder"))?,
            upstream: UpstreamName::parse(&self.upstream).map_err(|_| bad("an upstream"))?,
        })
    }
}

pub(super) fn sealed(record: &Record) -> Result<Vec<SealedField>, StoreError> {
    let Some(verifier) = &record.verifier else { return Ok(Vec::new()) };
    let id = FlowId::parse(&record.id).ok_or_else(|| bad("an id"))?;
    Ok(vec![(verifier_at(&record.place()?, &id), verifier.clone())])
}

/// What the keys of a holder's flows begin with in the index. No holder has the byte 0 in it.
pub(super) fn of_holder(holder: &str) -> Vec<u8> {
    [holder.as_bytes(), &[0]].concat()
}

/// The same for the flows at one upstream.
pub(super) fn of_place(holder: &str, upstream: &str) -> Vec<u8> {
    [holder.as_bytes(), &[0], upstream.as_bytes(), &[0]].concat()
}

fn bad(what: &str) -> StoreError {
    unreadable(Table::Flows, format_args!("{what} is none"))
}

impl From<&Flow> for Record {
    fn from(flow: &Flow) -> Self {
        let Flow {
            id,
            state,
            place,
            connection,
            renews,
            origin,
            issuer,
            client,
            redirect,
            verifier,
            scopes,
            browser,
            user,
            begun,
            expires,
            stage,
        } = flow;
        Self {
            id: id.as_str().to_owned(),
            state: *state.as_bytes(),
            holder: place.holder.to_string(),
            upstream: place.upstream.as_str().to_owned(),
            connection: connection.as_str().to_owned(),
            renews: *renews,
            origin: origin.as_ref().map(Origin::to_string),
            issuer: issuer.clone(),
            client: client.clone(),
            redirect: redirect.clone(),
            verifier: verifier.clone(),
            scopes: scopes.to_vec(),
            browser: *browser.as_bytes(),
            user: user.as_ref().map(|user| user.as_str().to_owned()),
            begun_ms: begun.as_millis(),
            expires_ms: expires.as_millis(),
            stage: stage.as_str().to_owned(),
        }
    }
}

impl TryFrom<Record> for Flow {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let place = record.place()?;
        let Record {
            id,
            state,
            holder: _,
            upstream: _,
            connection,
            renews,
            origin,
            issuer,
            client,
            redirect,
            verifier,
            scopes,
            browser,
            user,
            begun_ms,
            expires_ms,
            stage,
        } = record;
        Ok(Self {
            id: FlowId::parse(&id).ok_or_else(|| bad("an id"))?,
            state: Digest::from_bytes(state),
            place,
            connection: ConnectionId::parse(&connection).ok_or_else(|| bad("a connection"))?,
            renews,
            origin: origin.map(|origin| Origin::parse(&origin).ok_or_else(|| bad("an origin"))).transpose()?,
            issuer,
            client,
            redirect,
            verifier,
            scopes: TokenList::parse(scopes).map_err(|(_, error)| unreadable(Table::Flows, error))?,
            browser: Digest::from_bytes(browser),
            user: user.map(|user| UserId::parse(&user).ok_or_else(|| bad("a user"))).transpose()?,
            begun: Timestamp::from_millis(begun_ms),
            expires: Timestamp::from_millis(expires_ms),
            stage: Stage::parse(&stage).ok_or_else(|| bad("a stage"))?,
        })
    }
}
