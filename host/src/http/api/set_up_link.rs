//! The link with which the first owner makes their account.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::openapi::{Described, post};
use super::{Answer, Api, Operator, Problem, respond};
use crate::authorization::set_up::NoLink;

#[derive(Serialize, ToSchema)]
#[schema(as = SetUpLink)]
struct LinkView {
    /// A secret, told this once.
    link: String,
}

/// What the document of the API says of it.
pub(super) fn operations() -> Vec<Described> {
    vec![
        post("/api/v1/set-up-link", "createSetUpLink", "Makes a link with which the first owner makes their account")
            .gives::<LinkView>(StatusCode::CREATED)
            .conflicts(&["no_admin_listener", "has_owner", "no_passwords"]),
    ]
}

/// A new link, which is told this once; the one before opens nothing any more.
pub(super) async fn create(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    let conflict = |code, detail: &str| Err(Problem::new(StatusCode::CONFLICT, code, detail));
    let Some(console) = &api.console else {
        return conflict("no_admin_listener", "listen.admin is off: there is no page that such a link could open");
    };
    match console.set_up_link(operator.0).await? {
        Ok(link) => Ok(respond(StatusCode::CREATED, &json!(LinkView { link: link.expose().to_owned() }))),
        Err(NoLink::HasOwner) => {
            conflict("has_owner", "there is an owner already: `portcullis user` looks after people")
        }
        Err(NoLink::NoPasswords) => {
            conflict("no_passwords", "auth.sign_in.passwords is off: an account with a password would open nothing")
        }
    }
}
