//! Who may touch which account, and as what it has to be for that.

use super::super::if_match::is_other;
use super::super::{Access, Api, Operator, Problem};
use crate::admin::users::UserError;
use crate::identity::user::Role;
use crate::ids::UserId;

/// Whether somebody may make an account of this role, or touch one.
pub(in crate::http) fn may_touch(operator: &Operator, role: Role) -> bool {
    operator.needs(to_touch(role)).is_ok()
}

/// Who may make an account of a role, or change one.
pub(super) const fn to_touch(role: Role) -> Access {
    match role {
        Role::User => Access::Operator,
        Role::Viewer | Role::Operator | Role::Owner => Access::Owner,
    }
}

/// The revision of an account that somebody may touch only as it is now: who is no owner, while it has no role.
pub(super) async fn touched(api: &Api, operator: &Operator, id: &UserId) -> Result<Option<u64>, Problem> {
    if operator.needs(Access::Owner).is_ok() {
        return Ok(None);
    }
    let user = api.control.user(id).await?;
    operator.needs(to_touch(user.role))?;
    Ok(Some(user.revision))
}

/// The revision that an account has to be of: what If-Match says, or what [`touched`] says.
pub(super) struct Known {
    pub(super) revision: Option<u64>,
    is_said: bool,
}

impl Known {
    /// Why nothing changed, told to who said a revision in If-Match or did not.
    pub(super) fn refused(&self, error: UserError) -> Problem {
        match error {
            UserError::Conflict(revision) if self.is_said => is_other(error.to_string(), revision),
            error => error.into(),
        }
    }
}

pub(super) async fn touching(
    api: &Api,
    operator: &Operator,
    id: &UserId,
    seen: Option<Vec<u64>>,
) -> Result<Known, Problem> {
    let touched = touched(api, operator, id).await?;
    let Some(revisions) = seen else { return Ok(Known { revision: touched, is_said: false }) };
    let revision = match touched {
        Some(revision) => revision,
        None => api.control.user(id).await?.revision,
    };
    if revisions.contains(&revision) {
        Ok(Known { revision: Some(revision), is_said: true })
    } else {
        Err(is_other(UserError::Conflict(revision).to_string(), revision))
    }
}
