//! Who somebody is here, how that is known, and what they may.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde_json::{Value, json};

use super::access::Who;
use super::{Answer, Api, Operator, api_tokens, ok};

pub(super) async fn show(State(api): State<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answer {
    let who = &*operator.1;
    let user = who.user().map(|user| {
        json!({
            "id": user.id,
            "login": user.login.as_ref().map(ToString::to_string),
            "name": user.name.as_str(),
            "role": user.role.as_str(),
        })
    });
    let (proof, csrf) = match who {
        Who::Socket => ("socket", None),
        Who::OperatorToken => ("operator_token", None),
        Who::Session { cookie, .. } => ("session", api.console.as_ref().map(|console| console.page_token(*cookie))),
        Who::ApiToken { .. } => ("api_token", None),
    };
    Ok(ok(&json!({
        "role": who.role().as_str(),
        "proof": proof,
        "user": user,
        "token": who.token().map_or(Value::Null, api_tokens::view),
        // For changes by a page: nobody else reads this answer.
        "csrf_token": csrf,
    })))
}
