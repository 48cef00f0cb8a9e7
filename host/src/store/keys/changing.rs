//! What becomes of a key that stays the same one: what it may, whose it is, and its secrets.
//!
//! Connections and grants are of a key's name, so nothing here touches them, unless the key is disabled. Who may use what
//! follows from the keys that are published, as after a reload.

use std::time::Duration;

use super::record::{AllowRecord, EarlierRecord, KeyRecord};
use super::{KEYS, tell_standing};
use crate::audit::{Actor, AuditEvent, FieldChange};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::key::{AllowList, Earlier, Standing, VirtualKey};
use crate::identity::user::Login;
use crate::ids::KeyName;
use crate::secret::Digest;
use crate::store::changes::{Change, announce};
use crate::store::{Store, StoreError, WriteTx, audit};

/// Keys whose earlier secret is forgotten in one transaction.
const FORGOTTEN_AT_ONCE: usize = 100;

/// Of an allow-list, what the audit trail tells for each side of a change, in bytes: what is longer than its texts may be
/// would lose its end.
const TOLD_BYTES: usize = 3 * 1024;

/// What is to be otherwise with a key. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    pub allow: Option<AllowList>,
    pub scopes: Option<TokenList>,
    pub groups: Option<TokenList>,
    pub owner: Option<Option<Login>>,
    pub expires: Option<Option<Timestamp>>,
    pub standing: Option<Standing>,
}

/// What came of [`change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changing {
    /// It is like that now, and perhaps was before.
    Done(Box<VirtualKey>),
    NotFound,
    /// It has another revision, this one.
    Conflict(u64),
}

/// Another secret for a key.
#[derive(Clone, Debug)]
pub struct Rotation {
    pub digest: Digest,
    /// How long the one before it is good still. Nothing ends it at once.
    pub overlap: Duration,
}

/// What came of [`rotate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotating {
    Rotated {
        key: Box<VirtualKey>,
        /// An earlier secret was good still, and is not any more.
        has_ended_one: bool,
    },
    NotFound,
    /// It has another revision, this one.
    Conflict(u64),
}

/// What came of [`end_earlier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Ended,
    /// The key has one secret.
    None,
    NotFound,
    /// It has another revision, this one.
    Conflict(u64),
}

/// Changes a key, if it is at one of the revisions `seen`, or at any.
pub async fn change(
    store: &Store,
    name: &KeyName,
    seen: Option<Vec<u64>>,
    edit: Edit,
    actor: Actor,
) -> Result<Changing, StoreError> {
    let name = name.clone();
    store.write(move |tx| change_in(tx, &name, seen.as_deref(), &edit, actor)).await
}

fn change_in(
    tx: &mut WriteTx<'_>,
    name: &KeyName,
    seen: Option<&[u64]>,
    edit: &Edit,
    actor: Actor,
) -> Result<Changing, StoreError> {
    let Some(before) = KEYS.get(tx, name.as_str().as_bytes())? else { return Ok(Changing::NotFound) };
    if !is_seen(&before, seen) {
        return Ok(Changing::Conflict(before.revision));
    }
    let after = edited(&before, edit);
    let differences = differences(&before, &after);
    let is_other_standing = before.standing != after.standing;
    if differences.is_empty() && !is_other_standing {
        return Ok(Changing::Done(Box::new(before.try_into()?)));
    }
    KEYS.put(tx, &after)?;
    for (field, from, to) in differences {
        let change = FieldChange { field: field.to_owned(), from, to };
        audit::append(tx, actor, &AuditEvent::KeyChanged { name: name.clone(), change })?;
    }
    if is_other_standing {
        tell_standing(tx, name, after.standing, actor)?;
    }
    announce(tx, Change::Keys)?;
    Ok(Changing::Done(Box::new(after.try_into()?)))
}

pub(super) fn is_seen(record: &KeyRecord, seen: Option<&[u64]>) -> bool {
    seen.is_none_or(|seen| seen.contains(&record.revision))
}

fn edited(before: &KeyRecord, edit: &Edit) -> KeyRecord {
    let Edit { allow, scopes, groups, owner, expires, standing } = edit;
    let mut after = before.changed();
    if let Some(allow) = allow {
        after.allow = allow.0.iter().map(AllowRecord::from).collect();
    }
    if let Some(scopes) = scopes {
        after.scopes = scopes.to_vec();
    }
    if let Some(groups) = groups {
        after.groups = groups.to_vec();
    }
    if let Some(owner) = owner {
        after.owner = owner.as_ref().map(Login::to_string);
    }
    if let Some(expires) = expires {
        after.expires_ms = expires.map(Timestamp::as_millis);
    }
    if let Some(standing) = standing {
        after.standing = (*standing).into();
    }
    after
}

/// A field that is different: what it was and what it is, as the audit trail tells it.
type Difference = (&'static str, Option<String>, Option<String>);

fn differences(before: &KeyRecord, after: &KeyRecord) -> Vec<Difference> {
    let pairs = words(before).into_iter().zip(words(after));
    let told =
        pairs.filter(|((field, from), (_, to))| from != to || (*field == "allow" && before.allow != after.allow));
    told.map(|((field, from), (_, to))| (field, from, to)).collect()
}

/// The fields of a key as the audit trail tells them. No secret is one.
fn words(key: &KeyRecord) -> [(&'static str, Option<String>); 5] {
    [
        ("allow", Some(told(&key.allow.iter().flat_map(AllowRecord::words).collect::<Vec<_>>()))),
        ("scopes", Some(key.scopes.join(" "))),
        ("groups", Some(key.groups.join(" "))),
        ("owner", key.owner.clone()),
        ("expires", key.expires_ms.map(|expires| Timestamp::from_millis(expires).to_string())),
    ]
}

/// What a key has, each field with its value; of what it has none of, nothing.
fn filled(key: &KeyRecord) -> impl Iterator<Item = (String, Option<String>)> {
    let has_some = |(_, value): &(_, Option<String>)| value.as_ref().is_some_and(|value| !value.is_empty());
    words(key).into_iter().filter(has_some).map(|(field, value)| (field.to_owned(), value))
}

/// What a new key has, from nothing.
pub(super) fn created(key: &KeyRecord) -> Vec<FieldChange> {
    filled(key).map(|(field, to)| FieldChange { field, from: None, to }).collect()
}

/// What a key had that is no more.
pub(super) fn deleted(key: &KeyRecord) -> Vec<FieldChange> {
    filled(key).map(|(field, from)| FieldChange { field, from, to: None }).collect()
}

/// Words for the audit trail: of many, the first ones, and how many more there are.
fn told(words: &[String]) -> String {
    let mut length = 0;
    let fit = words.iter().take_while(|word| {
        length += word.len() + 1;
        length <= TOLD_BYTES
    });
    let told = fit.map(String::as_str).collect::<Vec<_>>();
    match words.len() - told.len() {
        0 => told.join(" "),
        more => format!("{} … and {more} more", told.join(" ")),
    }
}

/// Gives a key another secret, if it is at one of the revisions `seen`, or at any. There is at most one earlier secret: one
/// that was good still ends with this.
pub async fn rotate(
    store: &Store,
    name: &KeyName,
    seen: Option<Vec<u64>>,
    rotation: Rotation,
    actor: Actor,
) -> Result<Rotating, StoreError> {
    let name = name.clone();
    store.write(move |tx| rotate_in(tx, &name, seen.as_deref(), &rotation, actor)).await
}

fn rotate_in(
    tx: &mut WriteTx<'_>,
    name: &KeyName,
    seen: Option<&[u64]>,
    rotation: &Rotation,
    actor: Actor,
) -> Result<Rotating, StoreError> {
    let Some(before) = KEYS.get(tx, name.as_str().as_bytes())? else { return Ok(Rotating::NotFound) };
    if !is_seen(&before, seen) {
        return Ok(Rotating::Conflict(before.revision));
    }
    let Rotation { digest, overlap } = rotation;
    let now = tx.now();
    let earlier_until = (!overlap.is_zero()).then(|| now.after(*overlap));
    let has_ended_one = before.earlier.as_ref().is_some_and(|earlier| now.as_millis() < earlier.until_ms);
    let earlier = earlier_until.map(|until| Earlier { digest: Digest::from_bytes(before.digest), until });
    let earlier = earlier.as_ref().map(EarlierRecord::from);
    let after = KeyRecord { digest: *digest.as_bytes(), earlier, ..before.changed() };
    KEYS.put(tx, &after)?;
    let event = AuditEvent::KeyRotated { name: name.clone(), earlier_until, ended_earlier: has_ended_one };
    audit::append(tx, actor, &event)?;
    announce(tx, Change::Keys)?;
    Ok(Rotating::Rotated { key: Box::new(after.try_into()?), has_ended_one })
}

/// Ends the earlier secret of a key before its time, if it is at one of the revisions `seen`, or at any.
pub async fn end_earlier(
    store: &Store,
    name: &KeyName,
    seen: Option<Vec<u64>>,
    actor: Actor,
) -> Result<Ending, StoreError> {
    let name = name.clone();
    store
        .write(move |tx| {
            let Some(before) = KEYS.get(tx, name.as_str().as_bytes())? else { return Ok(Ending::NotFound) };
            if !is_seen(&before, seen.as_deref()) {
                return Ok(Ending::Conflict(before.revision));
            }
            let now = tx.now();
            if before.earlier.as_ref().is_none_or(|earlier| earlier.until_ms <= now.as_millis()) {
                return Ok(Ending::None);
            }
            KEYS.put(tx, &KeyRecord { earlier: None, ..before.changed() })?;
            audit::append(tx, actor, &AuditEvent::KeyEarlierEnded { name: name.clone() })?;
            announce(tx, Change::Keys)?;
            Ok(Ending::Ended)
        })
        .await
}

/// Forgets earlier secrets of these keys whose time is over, of some hundred at most. How many those were. Nothing depends on
/// it, since whoever is shown one looks at the time: no revision changes, and the audit trail tells
/// nothing that it did not tell when the secret was replaced.
pub async fn forget_earlier(store: &Store, names: Vec<KeyName>) -> Result<usize, StoreError> {
    store
        .write(move |tx| {
            let now = tx.now().as_millis();
            let mut forgotten = 0;
            for name in names.iter().take(FORGOTTEN_AT_ONCE) {
                let Some(key) = KEYS.get(tx, name.as_str().as_bytes())? else { continue };
                if key.earlier.as_ref().is_some_and(|earlier| earlier.until_ms <= now) {
                    KEYS.put(tx, &KeyRecord { earlier: None, ..key })?;
                    forgotten += 1;
                }
            }
            if forgotten > 0 {
                announce(tx, Change::Keys)?;
            }
            Ok(forgotten)
        })
        .await
}
