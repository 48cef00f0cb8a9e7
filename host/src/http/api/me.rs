//! Who somebody is here, how that is known, and what they may.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::access::Who;
use super::api_tokens::TokenView;
use super::openapi::words::{ProofWord, RoleWord};
use super::openapi::{Described, get};
use super::{Answer, Api, Operator, ok};

/// Who asks.
#[derive(Serialize, ToSchema)]
#[schema(as = Me)]
struct MeView {
    /// What they may do now.
    #[schema(value_type = RoleWord)]
    role: &'static str,
    #[schema(value_type = ProofWord)]
    proof: &'static str,
    /// Nobody for the operator token and the socket.
    user: Option<PersonView>,
    token: Option<TokenView>,
    /// For changes by a page: nobody else reads this answer.
    csrf_token: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Person)]
struct PersonView {
    id: String,
    login: Option<String>,
    name: String,
    #[schema(value_type = RoleWord)]
    role: &'static str,
}

/// What the document of the API says of it.
pub(super) fn operations() -> Vec<Described> {
    vec![get("/api/v1/me", "showMe", "Who asks, how that is known, and what they may").shows::<MeView>()]
}

pub(super) async fn show(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    let who = &*operator.1;
    let user = who.user().map(|user| PersonView {
        id: user.id.as_str().to_owned(),
        login: user.login.as_ref().map(ToString::to_string),
        name: user.name.as_str().to_owned(),
        role: user.role.as_str(),
    });
    let (proof, csrf_token) = match who {
        Who::Socket => ("socket", None),
        Who::OperatorToken => ("operator_token", None),
        Who::Session { cookie, .. } => ("session", api.console.as_ref().map(|console| console.page_token(*cookie))),
        Who::ApiToken { .. } => ("api_token", None),
    };
    let token = who.token().map(TokenView::of);
    Ok(ok(&json!(MeView { role: who.role().as_str(), proof, user, token, csrf_token })))
}
