//! What is said of an account: which are meant, what one is to be, and what is to change.

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::super::openapi::words::{RoleWord, UserStatusWord};
use super::super::{Problem, given};
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Email, Login, Role, Status};
use crate::ids::UserId;

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UserQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// Exactly this one.
    pub(in crate::http) login: Option<String>,
    #[param(inline, value_type = Option<RoleWord>)]
    pub(in crate::http) role: Option<String>,
    #[param(inline, value_type = Option<UserStatusWord>)]
    pub(in crate::http) status: Option<String>,
    /// Part of the name, the login or the address.
    pub(in crate::http) q: Option<String>,
}

/// An account to be.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UserRequest {
    pub(in crate::http) login: Option<String>,
    pub(in crate::http) name: Option<String>,
    pub(in crate::http) email: Option<String>,
    #[schema(value_type = Option<RoleWord>)]
    pub(in crate::http) role: Option<String>,
    #[serde(default)]
    pub(in crate::http) groups: Vec<String>,
    /// Without it, the account waits for an identity provider to vouch for its person.
    pub(in crate::http) password: Option<String>,
    /// `active` where there is a password, or else `invited`.
    #[schema(value_type = Option<UserStatusWord>)]
    pub(in crate::http) status: Option<String>,
}

/// A merge patch (RFC 7396): what is left out stays, `null` takes away, a list is another list.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UserChange {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) login: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) email: Option<Option<String>>,
    /// Nobody is without one.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = RoleWord, required = false)]
    pub(in crate::http) role: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) groups: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) password: Option<Option<String>>,
    /// `active` or `suspended`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = UserStatusWord, required = false)]
    pub(in crate::http) status: Option<Option<String>>,
    /// Only the account of this revision, as If-Match says it too (409 here, 412 there).
    pub(in crate::http) revision: Option<u64>,
}

/// What a person cannot be without.
pub(super) fn kept<T>(member: &str, value: Option<Option<T>>) -> Result<Option<T>, Problem> {
    value.map(|value| value.ok_or_else(|| Problem::invalid(format!("`{member}` cannot be taken away")))).transpose()
}

pub(super) fn read_id(id: &str) -> Result<UserId, Problem> {
    UserId::parse(id).ok_or_else(|| Problem::not_found("user"))
}

/// A name as it was typed, which is shown like that or refused; nothing is no name.
pub(super) fn read_name(name: Option<String>) -> Result<DisplayName, Problem> {
    let name = name.unwrap_or_default();
    let shown = DisplayName::of(&name);
    if shown.as_str() == name.trim() {
        return Ok(shown);
    }
    let rule = format!("`name` has at most {} bytes on one line, all of which can be seen", DisplayName::MAX_LEN);
    let unseen = name.trim().chars().find(|character| DisplayName::of(&format!("a{character}a")).as_str().len() == 2);
    let which = unseen.map(|unseen| format!(": not U+{:04X}", u32::from(unseen))).unwrap_or_default();
    Err(Problem::invalid(rule + &which))
}

pub(super) fn read_login(login: &str) -> Result<Login, Problem> {
    let rule = format!("a login has 1 to {} printable ASCII characters and no spaces", Login::MAX_LEN);
    Login::parse(login).ok_or_else(|| Problem::invalid(rule))
}

pub(super) fn read_email(email: &str) -> Result<Email, Problem> {
    Email::parse(email).ok_or_else(|| Problem::invalid("`email` is no e-mail address"))
}

pub(in crate::http) fn read_role(role: &str) -> Result<Role, Problem> {
    Role::parse(role).ok_or_else(|| Problem::invalid("roles are `user`, `viewer`, `operator` and `owner`"))
}

pub(super) fn read_status(status: &str) -> Result<Status, Problem> {
    let rule = "the status is `invited`, `active`, `suspended` or `deleted`";
    Status::parse(status).ok_or_else(|| Problem::invalid(rule))
}

pub(super) fn read_groups(groups: Vec<String>) -> Result<TokenList, Problem> {
    TokenList::parse(groups)
        .map_err(|(position, error)| Problem::invalid(format!("entry {position} of `groups` {error}")))
}
