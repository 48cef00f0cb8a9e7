//! What authorization servers of upstreams know us as: registrations that we made there ourselves.
//!
//! One is of an upstream, an issuer and a redirect URI, which names this deployment, so that it is never used for another
//! (`docs/threat-model.md` rows U3 and U5). Of several who register at once the first one's stays. An upstream has few: one
//! that names ever new issuers loses its own.

use serde::{Deserialize, Serialize};

use super::engine::{Bounds, Direction, Table};
use super::sealed::{self, SealedField, SealedIn};
use super::table::{Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::env::Timestamp;
use crate::ids::{Owner, UpstreamName};
use crate::oauth::upstream::Method;
use crate::secret::{Digest, Sealed};

#[cfg(test)]
mod tests;

/// Most registrations of one upstream.
pub const MAX_REGISTRATIONS: usize = 16;
/// Longest issuer, redirect URI and client id, in bytes.
const MAX_TEXT_BYTES: usize = 2 * 1024;
/// Largest secret, in bytes as it is sealed.
const MAX_SEALED_BYTES: usize = 8 * 1024;

pub(super) const CLIENTS: Typed<Record> = Typed {
    table: Table::UpstreamClients,
    version: 1,
    older: &[],
    key: Record::key,
    indexes: &[],
    expires: Some(|record| record.expires_ms.map(Timestamp::from_millis)),
};

pub(super) const SEALED: SealedIn<Record> = SealedIn { table: &CLIENTS, fields };

/// A registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub upstream: UpstreamName,
    pub issuer: String,
    pub redirect: String,
    /// Our client id.
    pub client: String,
    /// How the client authenticates.
    pub method: Method,
    /// Sealed for [`Registration::secret_at`].
    pub secret: Option<Sealed>,
    pub created: Timestamp,
    /// When the secret ends, if it does.
    pub expires: Option<Timestamp>,
}

impl Registration {
    /// Where the secret is sealed. It is never replaced: a later registration has a time of its own.
    pub fn secret_at(&self) -> sealed::Place {
        let key = key(&self.upstream, [&self.issuer, &self.redirect, &self.client]);
        secret_at(key, self.created)
    }
}

fn secret_at(key: Vec<u8>, created: Timestamp) -> sealed::Place {
    let table = Table::UpstreamClients.name();
    sealed::Place { owner: Owner::Deployment, table, key, field: "secret", revision: created.as_millis() }
}

/// What came of [`put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Putting {
    Kept,
    /// Somebody else was faster. Theirs stays.
    Existing(Box<Registration>),
    TooLarge,
}

/// The registration of a context that counts still.
pub async fn of_redirect(
    store: &Store,
    upstream: &UpstreamName,
    issuer: &str,
    redirect: &str,
) -> Result<Option<Registration>, StoreError> {
    let (upstream, issuer, redirect) = (upstream.clone(), issuer.to_owned(), redirect.to_owned());
    let is_it = move |it: &Registration| it.issuer == issuer && it.redirect == redirect;
    store.read(move |tx| Ok(alive(tx, &upstream)?.into_iter().find(&is_it))).await
}

/// The registration that counts still of a client id that tokens were given to.
pub async fn of_client(
    store: &Store,
    upstream: &UpstreamName,
    issuer: &str,
    client: &str,
) -> Result<Option<Registration>, StoreError> {
    let (upstream, issuer, client) = (upstream.clone(), issuer.to_owned(), client.to_owned());
    let is_it = move |it: &Registration| it.issuer == issuer && it.client == client;
    store.read(move |tx| Ok(alive(tx, &upstream)?.into_iter().find(&is_it))).await
}

/// Keeps a registration, unless there is one of the same context.
pub async fn put(store: &Store, registration: Registration) -> Result<Putting, StoreError> {
    store.write(move |tx| put_in(tx, &registration)).await
}

fn put_in(tx: &mut WriteTx<'_>, registration: &Registration) -> Result<Putting, StoreError> {
    let texts = [&registration.issuer, &registration.redirect, &registration.client];
    let sealed = registration.secret.as_ref().map_or(0, |sealed| sealed.as_bytes().len());
    if sealed > MAX_SEALED_BYTES || texts.iter().any(|text| text.len() > MAX_TEXT_BYTES) {
        return Ok(Putting::TooLarge);
    }
    let is_same = |it: &Registration| it.issuer == registration.issuer && it.redirect == registration.redirect;
    if let Some(existing) = alive(tx, &registration.upstream)?.into_iter().find(is_same) {
        return Ok(Putting::Existing(Box::new(existing)));
    }
    // Those whose time is over make room, like the oldest.
    let mut others = all(tx, &registration.upstream)?;
    others.sort_by_key(|other| other.created);
    let too_many = (others.len() + 1).saturating_sub(MAX_REGISTRATIONS);
    let over = others.iter().enumerate().filter(|(at, other)| *at < too_many || is_same(other));
    for (_, other) in over {
        CLIENTS.remove(tx, &Record::from(other).key())?;
    }
    CLIENTS.put(tx, &Record::from(registration))?;
    Ok(Putting::Kept)
}

/// Forgets what the server has forgotten. Whether it was there, and not registered again meanwhile.
pub async fn forget(store: &Store, registration: &Registration) -> Result<bool, StoreError> {
    let gone = registration.clone();
    store
        .write(move |tx| {
            let key = Record::from(&gone).key();
            let is_same = CLIENTS.get(tx, &key)?.is_some_and(|record| record.created_ms == gone.created.as_millis());
            if is_same {
                CLIENTS.remove(tx, &key)?;
            }
            Ok(is_same)
        })
        .await
}

/// All of an upstream that have not expired.
fn alive(tx: &mut ReadTx<'_>, upstream: &UpstreamName) -> Result<Vec<Registration>, StoreError> {
    let now = tx.now();
    let mut all = all(tx, upstream)?;
    all.retain(|registration| registration.expires.is_none_or(|expires| now < expires));
    Ok(all)
}

fn all(tx: &mut ReadTx<'_>, upstream: &UpstreamName) -> Result<Vec<Registration>, StoreError> {
    let within = Bounds::within(&of_upstream(upstream.as_str()));
    let rows = tx.range(Table::UpstreamClients, &within, Direction::Forward, MAX_REGISTRATIONS)?;
    rows.iter().map(|(_, value)| CLIENTS.decode(value)?.try_into()).collect()
}

/// No name has a zero byte in it.
fn of_upstream(upstream: &str) -> Vec<u8> {
    [upstream.as_bytes(), &[0]].concat()
}

fn key(upstream: &UpstreamName, of: [&String; 3]) -> Vec<u8> {
    key_of(upstream.as_str(), of)
}

fn key_of(upstream: &str, [issuer, redirect, client]: [&String; 3]) -> Vec<u8> {
    let of = [issuer.as_bytes(), &[0], redirect.as_bytes(), &[0], client.as_bytes()].concat();
    [&of_upstream(upstream)[..], Digest::of(&of).as_bytes()].concat()
}

#[expect(clippy::unnecessary_wraps, reason = "what other tables say of their records may fail")]
fn fields(record: &Record) -> Result<Vec<SealedField>, StoreError> {
    let at = || secret_at(record.key(), Timestamp::from_millis(record.created_ms));
    Ok(record.secret.iter().map(|secret| (at(), secret.clone())).collect())
}

/// A registration as it is stored, codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    upstream: String,
    issuer: String,
    redirect: String,
    client: String,
    method: String,
    secret: Option<Sealed>,
    created_ms: u64,
    expires_ms: Option<u64>,
}

impl Record {
    fn key(&self) -> Vec<u8> {
        key_of(&self.upstream, [&self.issuer, &self.redirect, &self.client])
    }
}

impl From<&Registration> for Record {
    fn from(registration: &Registration) -> Self {
        let Registration { upstream, issuer, redirect, client, method, secret, created, expires } = registration;
        Self {
            upstream: upstream.to_string(),
            issuer: issuer.clone(),
            redirect: redirect.clone(),
            client: client.clone(),
            method: method.as_str().to_owned(),
            secret: secret.clone(),
            created_ms: created.as_millis(),
            expires_ms: expires.map(Timestamp::as_millis),
        }
    }
}

impl TryFrom<Record> for Registration {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record { upstream, issuer, redirect, client, method, secret, created_ms, expires_ms } = record;
        let table = Table::UpstreamClients;
        Ok(Self {
            upstream: UpstreamName::parse(&upstream).map_err(|error| unreadable(table, error))?,
            issuer,
            redirect,
            client,
            method: Method::parse(&method).ok_or_else(|| unreadable(table, "a method is none"))?,
            secret,
            created: Timestamp::from_millis(created_ms),
            expires: expires_ms.map(Timestamp::from_millis),
        })
    }
}
