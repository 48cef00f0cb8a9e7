//! What is told of an account, and of the browsers in which its person is signed in.

use serde::Serialize;
use utoipa::ToSchema;

use super::super::openapi::words::{RoleWord, UserStatusWord};
use crate::identity::browser::BrowserSession;
use crate::identity::user::{Email, ExternalIdentity, Login, User};

/// Somebody's account.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(in crate::http) struct UserView {
    pub(in crate::http) id: String,
    pub(in crate::http) revision: u64,
    pub(in crate::http) login: Option<String>,
    pub(in crate::http) name: String,
    pub(in crate::http) email: Option<String>,
    #[schema(value_type = RoleWord)]
    pub(in crate::http) role: &'static str,
    pub(in crate::http) groups: Vec<String>,
    #[schema(value_type = UserStatusWord)]
    pub(in crate::http) status: &'static str,
    pub(in crate::http) has_password: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) last_sign_in: Option<String>,
    /// How identity providers know the person. Told of one account only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) identities: Option<Vec<IdentityView>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Identity)]
pub(in crate::http) struct IdentityView {
    pub(in crate::http) issuer: String,
    pub(in crate::http) subject: String,
}

impl UserView {
    /// What people call whose account it is: by the name, or by what is there instead.
    pub(in crate::http) fn called(&self) -> &str {
        let login = self.login.as_deref().or(self.email.as_deref()).unwrap_or(&self.id);
        if self.name.is_empty() { login } else { &self.name }
    }

    pub(super) fn of(user: &User) -> Self {
        let User { id, revision, login, name, email, role, groups, status, password, created, last_sign_in } = user;
        Self {
            id: id.to_string(),
            revision: *revision,
            login: login.as_ref().map(Login::to_string),
            name: name.to_string(),
            email: email.as_ref().map(Email::to_string),
            role: role.as_str(),
            groups: groups.to_vec(),
            status: status.as_str(),
            has_password: password.is_some(),
            created: created.to_string(),
            last_sign_in: last_sign_in.map(|at| at.to_string()),
            identities: None,
        }
    }

    pub(super) fn with(self, identities: &[ExternalIdentity]) -> Self {
        let view = |identity: &ExternalIdentity| IdentityView {
            issuer: identity.issuer().to_owned(),
            subject: identity.subject().to_owned(),
        };
        Self { identities: Some(identities.iter().map(view).collect()), ..self }
    }
}

/// A browser in which somebody is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = BrowserSession)]
pub(in crate::http) struct SessionView {
    pub(in crate::http) id: String,
    /// `public` or `admin`.
    pub(in crate::http) surface: &'static str,
    /// How the person has shown who they are.
    pub(in crate::http) method: &'static str,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) authenticated: String,
    #[schema(format = DateTime)]
    pub(in crate::http) last_seen: String,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: String,
    /// What the browser says it is.
    pub(in crate::http) agent: String,
}

impl SessionView {
    pub(super) fn of(session: &BrowserSession) -> Self {
        Self {
            id: session.id.as_str().to_owned(),
            surface: session.surface.as_str(),
            method: session.method.as_str(),
            created: session.created.to_string(),
            authenticated: session.authenticated.to_string(),
            last_seen: session.last_seen.to_string(),
            expires: session.expires().to_string(),
            agent: session.agent.clone(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = EndedSessions)]
pub(super) struct EndedView {
    /// How many.
    pub(super) ended: usize,
}
