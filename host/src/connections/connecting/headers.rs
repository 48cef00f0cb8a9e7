//! Values that a person gives for the headers that an upstream takes, or for variables of a program: checked, tried, stored.
//!
//! What is not given stays as it is stored. Nothing is stored before the upstream has taken it.

use std::collections::BTreeMap;

use super::{Connecting, Failed, Fault, Pinned};
use crate::audit::Actor;
use crate::connection::lending::Kind;
use crate::connection::{Connection, Credential, Origin, Place, header, values};
use crate::ids::ConnectionId;
use crate::secret::{Digest, Plaintext};
use crate::store::connections::{self, NewCredential, Put, Secret, sealed_at};
use crate::vault::Opening;

/// Longest name that is looked at, in bytes.
const MAX_NAME: usize = header::MAX_NAME_BYTES;

/// Values are stored, at this revision of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored(pub u64);

/// Why they are not. Names are those that the operator declared.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    /// There is no such upstream, or it takes no headers of the holder's own.
    #[error("there is nothing to connect")]
    Nothing,
    #[error("the upstream may not be used")]
    NoAccess,
    /// Something was given that is not asked for, or twice.
    #[error("something else was given than what is asked for")]
    Undeclared,
    /// These are no values of headers, nor of variables.
    #[error("a value cannot stand in a header")]
    Invalid(Vec<String>),
    /// Nothing was given for these, and nothing is stored.
    #[error("values are missing")]
    Missing(Vec<String>),
    /// The upstream does not take them.
    #[error("the upstream does not take it")]
    Trial(Failed),
    /// The connection has changed meanwhile.
    #[error("the connection has changed meanwhile")]
    Conflict,
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What is there already.
struct There {
    id: ConnectionId,
    revision: Option<u64>,
    /// Where the upstream is that the values are for.
    origin: Origin,
    values: BTreeMap<String, Plaintext>,
}

impl Connecting {
    /// Stores values for headers, by their names, if the upstream takes them. An empty one is not given.
    ///
    /// # Errors
    /// [`NotStored`].
    pub async fn submit(
        &self,
        place: &Place,
        given: BTreeMap<String, Plaintext>,
        browser: Digest,
    ) -> Result<Stored, NotStored> {
        let pinned = self.pinned();
        let (Some(upstream), Some(Kind::Headers(declared) | Kind::Variables(declared))) =
            (pinned.upstream(&place.upstream), pinned.kind(place))
        else {
            return Err(NotStored::Nothing);
        };
        if !pinned.access(place).is_granted() {
            return Err(NotStored::NoAccess);
        }
        let given = checked(given, &declared)?;
        let there = self.there(place, upstream.origin()).await?;
        let merged = merged(&declared, given, &there.values)?;
        self.0.trial.try_headers(upstream, &merged).await.map_err(NotStored::Trial)?;
        let actor = self.actor_of(place, browser).await.map_err(Fault::from)?;
        let stored = self.store_values(place, &there, &merged, actor).await?;
        self.tell_made(place, browser).await;
        Ok(stored)
    }

    /// What is stored. What cannot be opened, and what was given for another origin, counts as not stored: the person gives all
    /// of it again.
    async fn there(&self, place: &Place, origin: Origin) -> Result<There, Fault> {
        let Some(connection) = connections::get(&self.0.store, place).await? else {
            let id = ConnectionId::generate(&self.0.env);
            return Ok(There { id, revision: None, origin, values: BTreeMap::new() });
        };
        let values = if connection.is_moved(&origin) { BTreeMap::new() } else { self.values_of(&connection).await? };
        Ok(There { id: connection.id, revision: Some(connection.revision), origin, values })
    }

    async fn values_of(&self, connection: &Connection) -> Result<BTreeMap<String, Plaintext>, Fault> {
        let Credential::Headers { values: sealed, .. } = &connection.credential else { return Ok(BTreeMap::new()) };
        let at = sealed_at(&connection.place, &connection.id, connection.revision, Secret::Headers);
        Ok(match self.0.vault.open(&at, sealed).await? {
            Opening::Opened(text) => values::read(&text).unwrap_or_default(),
            Opening::Refused(_) => BTreeMap::new(),
        })
    }

    async fn store_values(
        &self,
        place: &Place,
        there: &There,
        merged: &BTreeMap<String, Plaintext>,
        actor: Actor,
    ) -> Result<Stored, NotStored> {
        let revision = there.revision.map_or(1, |revision| revision + 1);
        let at = sealed_at(place, &there.id, revision, Secret::Headers);
        let sealed = self.0.vault.seal(&at, values::written(merged).expose()).await.map_err(Fault::from)?;
        let names: Vec<String> = merged.keys().cloned().collect();
        let mut tries = 0;
        loop {
            let pinned = self.pinned();
            // They were tried where the upstream was then.
            if !is_asked_for(&pinned, place, &names) || pinned.origin(place).as_ref() != Some(&there.origin) {
                return Err(NotStored::Conflict);
            }
            let new = NewCredential {
                place: place.clone(),
                id: there.id.clone(),
                replaces: there.revision,
                origin: Some(there.origin.clone()),
                credential: Credential::Headers { names: names.clone(), values: sealed.clone() },
            };
            let put = connections::put(&self.0.store, new, pinned.of, pinned.may_use(), actor).await;
            match put.map_err(Fault::from)? {
                Put::Stored(revision) => return Ok(Stored(revision)),
                Put::Conflict(_) => return Err(NotStored::Conflict),
                Put::NoAccess => return Err(NotStored::NoAccess),
                Put::TooLarge => return Err(NotStored::Invalid(names)),
                Put::Outdated => Self::catch_up(tries).await?,
            }
            tries += 1;
        }
    }
}

/// Whether the upstream asks for exactly these still.
fn is_asked_for(pinned: &Pinned, place: &Place, names: &[String]) -> bool {
    let Some(Kind::Headers(mut declared) | Kind::Variables(mut declared)) = pinned.kind(place) else { return false };
    declared.sort();
    declared == names
}

/// What was given, by canonical names. What is empty is left out.
fn checked(given: BTreeMap<String, Plaintext>, declared: &[String]) -> Result<BTreeMap<String, Plaintext>, NotStored> {
    let mut checked = BTreeMap::new();
    let mut invalid = Vec::new();
    for (name, value) in given {
        let name = Some(name.trim()).filter(|name| name.len() <= MAX_NAME);
        let name = name.and_then(|name| declared.iter().find(|declared| declared.eq_ignore_ascii_case(name)));
        let name = name.ok_or(NotStored::Undeclared)?.clone();
        let value = Plaintext::new(value.expose().trim_matches(' '));
        if value.expose().is_empty() {
            continue;
        }
        if header::value(&value).is_err() {
            invalid.push(name.clone());
        }
        if checked.insert(name, value).is_some() {
            return Err(NotStored::Undeclared);
        }
    }
    if invalid.is_empty() { Ok(checked) } else { Err(NotStored::Invalid(invalid)) }
}

/// A value for each name that is declared: what is given, or else what is stored.
fn merged(
    declared: &[String],
    mut given: BTreeMap<String, Plaintext>,
    stored: &BTreeMap<String, Plaintext>,
) -> Result<BTreeMap<String, Plaintext>, NotStored> {
    let mut missing = Vec::new();
    let mut merged = BTreeMap::new();
    for name in declared {
        match given.remove(name).or_else(|| stored.get(name).cloned()) {
            Some(value) => _ = merged.insert(name.clone(), value),
            None => missing.push(name.clone()),
        }
    }
    if missing.is_empty() { Ok(merged) } else { Err(NotStored::Missing(missing)) }
}
