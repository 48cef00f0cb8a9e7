//! Who may call what. Pure: who somebody is, is found out by [`super::door`].

use http::StatusCode;

use super::Problem;
use crate::audit::{Actor, OperatorProof};
use crate::http::console::AGAIN;
use crate::identity::api_token::{ApiToken, READ, covers};
use crate::identity::user::{Role, User};
use crate::ids::{ApiTokenTag, UserTag};
use crate::secret::Digest;

/// The least role that may call a route. Each may call what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Whoever may look.
    Viewer,
    Operator,
    /// Whoever may make and unmake operators, and what cannot be undone.
    Owner,
}

impl Access {
    pub const fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Operator => Role::Operator,
            Self::Owner => Role::Owner,
        }
    }
}

/// The areas that are about whoever asks, and about the API: no scope keeps them from anybody.
const OPEN: [&str; 2] = ["me", "openapi"];

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) access: Access,
    /// Whether it changes nothing.
    pub(super) is_read: bool,
    /// The first segment of the path behind `/api/v1/`.
    pub(super) area: &'static str,
    /// Whether a person in a browser has to have shown lately who they are.
    pub(super) wants_fresh: bool,
}

/// Who a request comes from.
#[derive(Clone, Debug)]
pub(in crate::http) enum Who {
    /// Whoever runs the gateway, at the admin socket.
    Socket,
    /// Whoever has the operator token.
    OperatorToken,
    /// A person who is signed in at the admin listener, in the browser with this cookie.
    Session {
        user: Box<User>,
        cookie: Digest,
        /// Whether they have shown lately who they are.
        is_fresh: bool,
    },
    ApiToken {
        token: Box<ApiToken>,
        user: Box<User>,
    },
}

/// What somebody lacks for what they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacks {
    Role(Role),
    /// A token that is for this area.
    Scope(&'static str),
    /// A token that does more than `read`.
    MoreThanRead,
    /// A sign-in that is not old.
    FreshSignIn,
}

impl Who {
    /// What they may do now.
    pub(in crate::http) fn role(&self) -> Role {
        match self {
            Self::Socket | Self::OperatorToken => Role::Owner,
            Self::Session { user, .. } => user.role,
            Self::ApiToken { token, user } => token.role(user),
        }
    }

    pub(super) fn user(&self) -> Option<&User> {
        match self {
            Self::Socket | Self::OperatorToken => None,
            Self::Session { user, .. } | Self::ApiToken { user, .. } => Some(user),
        }
    }

    pub(super) fn token(&self) -> Option<&ApiToken> {
        match self {
            Self::Socket | Self::OperatorToken | Self::Session { .. } => None,
            Self::ApiToken { token, .. } => Some(token),
        }
    }

    pub(in crate::http) fn actor(&self) -> Actor {
        Actor::Operator(match self {
            Self::Socket => OperatorProof::Socket,
            Self::OperatorToken => OperatorProof::Token,
            Self::Session { user, .. } => OperatorProof::Session(UserTag::from(&user.id)),
            Self::ApiToken { token, user } => {
                OperatorProof::ApiToken { token: ApiTokenTag::from(&token.id), user: UserTag::from(&user.id) }
            }
        })
    }

    /// Whether they may do what they want.
    pub(super) fn may(&self, wish: Wish) -> Result<(), Lacks> {
        let Wish { access, is_read, area, wants_fresh } = wish;
        if self.role() < access.role() {
            return Err(Lacks::Role(access.role()));
        }
        if wants_fresh && matches!(self, Self::Session { is_fresh: false, .. }) {
            return Err(Lacks::FreshSignIn);
        }
        match self.token() {
            Some(token) if !OPEN.contains(&area) && !covers(&token.scopes, is_read, area) => {
                Err(if covers(&token.scopes, true, area) { Lacks::MoreThanRead } else { Lacks::Scope(area) })
            }
            _ => Ok(()),
        }
    }
}

impl From<Lacks> for Problem {
    fn from(lacks: Lacks) -> Self {
        match lacks {
            Lacks::Role(role) => {
                let detail = format!("this takes the role `{role}`");
                Self::new(StatusCode::FORBIDDEN, "forbidden", detail).with("role", role.as_str())
            }
            Lacks::Scope(area) => {
                let detail = format!("the token has scopes, and `{area}` is none of them");
                Self::new(StatusCode::FORBIDDEN, "forbidden", detail).with("scope", area)
            }
            Lacks::MoreThanRead => {
                let detail = "the token has the scope `read`, with which nothing is changed";
                Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
            }
            Lacks::FreshSignIn => {
                let detail = format!("the sign-in is too old for this: show once more at `{AGAIN}` who you are");
                Self::new(StatusCode::FORBIDDEN, "step_up_required", detail).with("sign_in", AGAIN)
            }
        }
    }
}

/// Whether this is a scope: `read`, or one of these areas.
pub(super) fn is_scope(word: &str, mut areas: impl Iterator<Item = &'static str>) -> bool {
    word == READ || areas.any(|area| area == word && !OPEN.contains(&area))
}
