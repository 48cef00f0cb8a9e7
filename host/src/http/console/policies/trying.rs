//! `/policies/try`: what the policies would say of a recorded call, or of one that is typed. Nothing comes of it.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;
use serde_json::value::RawValue;

use super::HERE;
use crate::http::api::Problem;
use crate::http::api::policy_try::{NewCall, NewQuestion, TriedView, answer};
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Asked, Desk, Head, Sent};
use crate::http::oauth::pages::Site;

pub(super) const PATH: &str = "/policies/try";

#[derive(Template)]
#[template(path = "console/policies/try.html")]
struct TryPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    typed: Typed,
    policies: Vec<String>,
    upstreams: Vec<String>,
    tried: Option<TriedView>,
    mistake: Option<String>,
}

/// What was filled in.
#[derive(Default)]
struct Typed {
    is_call: bool,
    decision: String,
    principal: String,
    client: String,
    scopes: String,
    upstream: String,
    tool: String,
    arguments: String,
    policy: String,
    config: String,
}

pub(super) async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Response {
    let text = |name: &str| asked.get(name).unwrap_or_default().to_owned();
    let (decision, policy) = (text("decision"), text("policy"));
    let config = configuration_of(&desk, &policy);
    let call =
        Typed { principal: text("principal"), upstream: text("upstream"), tool: text("tool"), ..Typed::default() };
    let typed = Typed { is_call: decision.is_empty(), decision, policy, config, ..call };
    desk.page(page(&desk, &person, typed))
}

/// Asks, and shows what was said above the form that asked.
pub(super) async fn ask(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let typed = Typed {
        is_call: fields.take("about") == "call",
        decision: fields.take("decision"),
        principal: fields.take("principal"),
        client: fields.take("client"),
        scopes: fields.take("scopes"),
        upstream: fields.take("upstream"),
        tool: fields.take("tool"),
        arguments: fields.take("arguments"),
        policy: fields.take("policy"),
        config: fields.take("config"),
    };
    let answered = match typed.question() {
        Ok(question) => answer(&desk.api, question, person.actor()).await,
        Err(problem) => Err(problem),
    };
    let page = page(&desk, &person, typed);
    Ok(match answered {
        Ok(tried) => desk.page(TryPage { tried: Some(tried), ..page }),
        Err(problem) => {
            let mut response = desk.page(TryPage { mistake: Some(problem.detail), ..page });
            // A decision that has no recording is not a page that is not there.
            let is_missing = problem.status == StatusCode::NOT_FOUND;
            *response.status_mut() = if is_missing { StatusCode::UNPROCESSABLE_ENTITY } else { problem.status };
            response
        }
    })
}

fn page<'a>(desk: &'a Desk, person: &'a Person, typed: Typed) -> TryPage<'a> {
    let snapshot = desk.api.control.snapshot.load();
    TryPage {
        site: desk.site(),
        head: desk.head(person, HERE),
        typed,
        policies: snapshot.policies.bindings().iter().map(|bound| bound.name().to_string()).collect(),
        upstreams: snapshot.upstreams.keys().map(ToString::to_string).collect(),
        tried: None,
        mistake: None,
    }
}

/// The configuration that a policy has, to begin from.
fn configuration_of(desk: &Desk, policy: &str) -> String {
    let snapshot = desk.api.control.snapshot.load();
    let bound = snapshot.policies.bindings().iter().find(|bound| bound.name().as_str() == policy);
    bound.map(|bound| format!("{:#}", bound.binding().config)).unwrap_or_default()
}

impl Typed {
    fn question(&self) -> Result<NewQuestion, Problem> {
        let said = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let not_json = |what: &str, error: serde_json::Error| Problem::invalid(format!("{what}: {error}"));
        let policy = said(&self.policy);
        let config = said(&self.config);
        if config.is_some() && policy.is_none() {
            return Err(Problem::invalid(
                "there is a configuration: choose the policy that it is for, or leave it out",
            ));
        }
        let config = config.map(|text| serde_json::from_str::<Value>(&text)).transpose();
        let config = config.map_err(|error| not_json("the configuration is not JSON", error))?;
        if !self.is_call {
            return Ok(NewQuestion { decision: Some(self.decision.trim().to_owned()), call: None, policy, config });
        }
        let arguments = said(&self.arguments).map(|text| serde_json::from_str::<Box<RawValue>>(&text)).transpose();
        let arguments = arguments.map_err(|error| not_json("the arguments are not JSON", error))?;
        let scopes = said(&self.scopes).map(|scopes| scopes.split_whitespace().map(ToOwned::to_owned).collect());
        let call = NewCall {
            principal: self.principal.trim().to_owned(),
            client: said(&self.client),
            scopes,
            upstream: self.upstream.clone(),
            tool: self.tool.trim().to_owned(),
            arguments,
        };
        Ok(NewQuestion { decision: None, call: Some(call), policy, config })
    }
}
