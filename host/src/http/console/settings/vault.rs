//! `/settings/vault`: the keys that encrypt secrets. What takes long is done in steps there, and in several at once here: the
//! page says how far it is, and its button goes on.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::super::Person;
use super::super::desk::{Answer, Desk, Done, Head, Sent};
use super::HERE;
use crate::http::api::vault::{self, KekView, VaultView, VerifiedView};
use crate::http::oauth::pages::Site;

pub(super) const PATH: &str = "/settings/vault";
pub(super) const VERIFY: &str = "/settings/vault/verify";
pub(super) const ROTATE: &str = "/settings/vault/rotate";
pub(super) const REWRAP: &str = "/settings/vault/rewrap";

/// Steps that one form takes: each is at most half a second.
const STEPS: usize = 10;
/// Unreadable records that are shown one by one.
const MAX_SHOWN: usize = 100;

#[derive(Template)]
#[template(path = "console/vault.html")]
struct VaultPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    vault: &'a VaultView,
    /// Keys that new data keys could be wrapped by.
    others: Vec<&'a KekView>,
}

/// What was found by looking at some of it.
#[derive(Template)]
#[template(path = "console/vault_verified.html")]
struct VerifiedPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    found: VerifiedView,
    more_unreadable: usize,
}

pub(super) async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    let vault = vault::view(&desk.api).await?;
    let others = vault.keys.iter().filter(|key| key.state == Some("active") && !key.current).collect();
    Ok(desk.page(VaultPage { site: desk.site(), head: desk.head(&person, HERE), vault: &vault, others }))
}

pub(super) async fn rotate(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let to = Some(fields.take("to")).filter(|to| !to.is_empty());
    vault::rotated(&desk.api, to, person.actor()).await?;
    Ok(desk.done(&person, PATH, Done::VaultRotated))
}

pub(super) async fn rewrap(State(desk): State<Desk>, Extension(person): Extension<Person>, Sent(_): Sent) -> Answer {
    for _ in 0..STEPS {
        if vault::rewrapped(&desk.api, person.actor()).await?.done {
            break;
        }
    }
    Ok(desk.done(&person, PATH, Done::VaultRewrapped))
}

pub(super) async fn verify(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let cursor = Some(fields.take("cursor")).filter(|cursor| !cursor.is_empty());
    let mut found = vault::verified(&desk.api, cursor).await?;
    for _ in 1..STEPS {
        let Some(cursor) = found.next_cursor.take() else { break };
        let step = vault::verified(&desk.api, Some(cursor)).await?;
        found = VerifiedView {
            data_keys: found.data_keys + step.data_keys,
            sealed_fields: found.sealed_fields + step.sealed_fields,
            shredded_fields: found.shredded_fields + step.shredded_fields,
            unreachable: found.unreachable + step.unreachable,
            unreadable: found.unreadable.into_iter().chain(step.unreadable).collect(),
            next_cursor: step.next_cursor,
        };
    }
    let more_unreadable = found.unreadable.len().saturating_sub(MAX_SHOWN);
    found.unreadable.truncate(MAX_SHOWN);
    let head = desk.head(&person, HERE);
    Ok(desk.page(VerifiedPage { site: desk.site(), head, found, more_unreadable }))
}
