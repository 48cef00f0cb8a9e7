//! Who may use which upstream, as configuration, keys and people are in one snapshot.
//!
//! Pure. This is what a caller reaches before policies are asked, and those can only narrow it: `authorization` makes
//! callers with [`of_user`], the keyring with what a key may, and [`may_use`] says the same of a principal who is not here
//! now. Access is never stored: it is asked for whenever a credential is released, and in each transaction that depends
//! on it.

use std::sync::Arc;

use super::Snapshot;
use crate::connection::{Access, Holder, Place};
use crate::env::Timestamp;
use crate::identity::Person;
use crate::identity::key::{AllowEntry, AllowList};
use crate::ids::{KeyName, Principal, UpstreamName, UserId};

mod reach;

pub use reach::{Extent, Line, Reach, of_tool, of_upstream, tools_of};

/// Whether the holder of a connection may use its upstream now. That a key expires is a matter of time, so `now` belongs to
/// what is asked.
///
/// What everybody shares, and what catalogs are read with, follows the upstream. Of a guest nothing is known but whether
/// guests are admitted: who is gone is for the store to tell.
pub fn may_use(snapshot: &Snapshot, place: &Place, now: Timestamp) -> Access {
    let upstream = &place.upstream;
    if !snapshot.upstreams.contains_key(upstream) {
        return Access::UpstreamGone;
    }
    let auth = &snapshot.auth;
    match &place.holder {
        Holder::Shared | Holder::Of(Principal::Gateway) => Access::Granted,
        Holder::Of(Principal::Key(name)) => of_key(snapshot, name, upstream, now),
        Holder::Of(Principal::User(id)) => match snapshot.people.get(id) {
            None => Access::HolderGone,
            Some(person) if person.is_active && auth.has_server() => {
                granted(lists_of(snapshot, person, now).any(|list| list.reaches(upstream)))
            }
            Some(_) => Access::Withdrawn,
        },
        Holder::Of(Principal::Guest(_)) => {
            granted(auth.guests && auth.has_server() && auth.allow.guests.reaches(upstream))
        }
        Holder::Of(Principal::Anonymous) => granted(auth.admits_anonymous() && auth.allow.guests.reaches(upstream)),
    }
}

fn granted(is_granted: bool) -> Access {
    if is_granted { Access::Granted } else { Access::Withdrawn }
}

fn of_key(snapshot: &Snapshot, name: &KeyName, upstream: &UpstreamName, now: Timestamp) -> Access {
    if !snapshot.keys.has(name) {
        return Access::HolderGone;
    }
    let holder = snapshot.keys.holder(&Principal::Key(name.clone()), now);
    granted(holder.is_some_and(|holder| holder.allow.reaches(upstream)))
}

/// What a person with an account may use, before policies are asked: what everybody with one may, what their groups may,
/// and what the keys may that they own. Somebody of whom the snapshot knows nothing yet has what everybody has.
pub fn of_user(snapshot: &Snapshot, id: &UserId, now: Timestamp) -> Arc<AllowList> {
    let everybody = &snapshot.auth.allow.users;
    let Some(person) = snapshot.people.get(id) else { return everybody.clone() };
    let besides = lists_of(snapshot, person, now).skip(1);
    let more: Vec<AllowEntry> = besides.flat_map(|list| list.0.iter().cloned()).collect();
    // Mostly there is nothing besides, and nothing to copy.
    if more.is_empty() {
        return everybody.clone();
    }
    Arc::new(AllowList(everybody.0.iter().cloned().chain(more).collect()))
}

/// What everybody may use, and then what this person may.
fn lists_of<'a>(
    snapshot: &'a Snapshot,
    person: &'a Person,
    now: Timestamp,
) -> impl Iterator<Item = &'a AllowList> + use<'a> {
    let allow = &snapshot.auth.allow;
    let groups = person.groups.iter().filter_map(|group| allow.groups.get(group));
    let owned = person.login.iter().flat_map(move |login| snapshot.keys.allowed_to_owner(login, now));
    std::iter::once(allow.users.as_ref()).chain(groups).chain(owned.map(Arc::as_ref))
}

#[cfg(test)]
mod tests;
