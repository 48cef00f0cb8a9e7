//! What policies would say, of a recorded call or of one that is typed. Nothing comes of it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::openapi::words::{ModeWord, VerdictWord};
use super::openapi::{Described, post};
use super::{Answer, Api, Json, Operator, Problem, ok};
use crate::admin::tryout::{Answered, Question, TryError, Typed};
use crate::audit::Actor;
use crate::identity::tokens::TokenList;
use crate::ids::{BindingName, ClientId, Principal, UpstreamName};
use crate::policy::Note;
use crate::policy::tryout::{Before, End, NotAside, Said, Variation};

/// What the policies in force are asked, or one of them: about a recorded decision or about a call, and not both.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyQuestion)]
pub(in crate::http) struct NewQuestion {
    /// A decision that was recorded. Reading it is audited.
    #[serde(default)]
    pub(in crate::http) decision: Option<String>,
    #[serde(default)]
    #[schema(inline)]
    pub(in crate::http) call: Option<NewCall>,
    /// This binding alone, whatever its mode is.
    #[serde(default)]
    pub(in crate::http) policy: Option<String>,
    /// What it is configured with instead of its own configuration.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(in crate::http) config: Option<Value>,
}

/// A call of a tool that nobody makes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TypedCall)]
pub(in crate::http) struct NewCall {
    /// Such as `key:ci`, `user:…`, `guest:…` or `anonymous`.
    pub(in crate::http) principal: String,
    #[serde(default)]
    pub(in crate::http) client: Option<String>,
    /// Instead of those that the principal has.
    #[serde(default)]
    pub(in crate::http) scopes: Option<Vec<String>>,
    pub(in crate::http) upstream: String,
    /// The upstream's own name for it.
    pub(in crate::http) tool: String,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(in crate::http) arguments: Option<Box<RawValue>>,
}

/// What the policies said, and what it would have come to.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyAnswers)]
pub(in crate::http) struct TriedView {
    pub(in crate::http) generation: u64,
    /// Of a call: whether the principal may use the tool at all. Policies are not asked about what it may not use.
    pub(in crate::http) admitted: bool,
    pub(in crate::http) steps: Vec<SaidView>,
    /// Policies that were asked then, and are asked no more.
    #[schema(value_type = Vec<String>)]
    pub(in crate::http) gone: Vec<BindingName>,
    /// Recorded questions that were too long to be kept whole.
    pub(in crate::http) not_kept: usize,
    /// Whether there was time for all recorded questions.
    pub(in crate::http) complete: bool,
    #[schema(inline)]
    pub(in crate::http) end: EndView,
}

/// What one policy said.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyAnswer)]
pub(in crate::http) struct SaidView {
    #[schema(value_type = String)]
    pub(in crate::http) policy: BindingName,
    pub(in crate::http) module_name: String,
    pub(in crate::http) version: String,
    pub(in crate::http) module_digest: String,
    #[schema(value_type = ModeWord)]
    pub(in crate::http) mode: &'static str,
    pub(in crate::http) hook: &'static str,
    #[schema(value_type = VerdictWord)]
    pub(in crate::http) verdict: &'static str,
    pub(in crate::http) code: Option<String>,
    pub(in crate::http) rule: Option<String>,
    #[schema(inline)]
    pub(in crate::http) notes: Vec<NoteView>,
    pub(in crate::http) micros: u64,
    /// Its answer as JSON text, or the beginning of it.
    pub(in crate::http) answer: Option<String>,
    /// How it failed.
    pub(in crate::http) failure: Option<String>,
    #[schema(inline)]
    pub(in crate::http) before: Option<BeforeView>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct NoteView {
    pub(in crate::http) key: String,
    pub(in crate::http) value: String,
}

/// What it said of a recorded question then.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct BeforeView {
    pub(in crate::http) verdict: String,
    pub(in crate::http) same: bool,
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct EndView {
    /// Whether it would go on to its upstream, or to whoever waits for it.
    pub(in crate::http) passes: bool,
    /// `passes`, or which check refuses.
    pub(in crate::http) check: &'static str,
    /// Who refuses.
    #[schema(value_type = Option<String>)]
    pub(in crate::http) by: Option<BindingName>,
    pub(in crate::http) message: Option<String>,
    /// The arguments as JSON text, where policies changed them.
    pub(in crate::http) arguments: Option<String>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        post(
            "/api/v1/policies/try",
            "tryPolicies",
            "What policies would say, of a recorded decision or of a call; nothing is charged, used or recorded",
        )
        .takes::<NewQuestion>()
        .shows::<TriedView>()
        .refuses(StatusCode::NOT_FOUND, &["not_found"])
        .refuses(StatusCode::UNPROCESSABLE_ENTITY, &["config_refused"])
        .refuses(StatusCode::SERVICE_UNAVAILABLE, &["busy", "interrupted"]),
    ]
}

/// Asks the policies without anything coming of it.
pub(super) async fn ask(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(question): Json<NewQuestion>,
) -> Answer {
    Ok(ok(&json!(answer(&api, question, operator.0).await?)))
}

/// What the policies say of a question.
pub(in crate::http) async fn answer(api: &Api, question: NewQuestion, actor: Actor) -> Result<TriedView, Problem> {
    let (question, variation) = question.read()?;
    Ok(view(api.control.try_policies(question, variation, actor).await?))
}

impl NewQuestion {
    fn read(self) -> Result<(Question, Option<Variation>), Problem> {
        let Self { decision, call, policy, config } = self;
        let question = match (decision, call) {
            (Some(decision), None) => Question::Recorded(decision),
            (None, Some(call)) => Question::Typed(call.read()?),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Problem::invalid("say decision or call, and not both"));
            }
        };
        if policy.is_none() && config.is_some() {
            return Err(Problem::invalid("config is for one policy: say which"));
        }
        let binding = policy.map(|name| BindingName::parse(&name)).transpose();
        let binding = binding.map_err(|error| Problem::invalid(error.to_string()))?;
        Ok((question, binding.map(|binding| Variation { binding, config })))
    }
}

impl NewCall {
    fn read(self) -> Result<Typed, Problem> {
        let Self { principal, client, scopes, upstream, tool, arguments } = self;
        let no_principal = || {
            Problem::invalid(
                "principal has to be like key:NAME, user:ID (the ID as `portcullis user list` shows it), guest:ID or anonymous",
            )
        };
        let principal = Principal::parse(&principal).ok_or_else(no_principal)?;
        let no_client = || Problem::invalid("client is no id of a client");
        let client = client.map(|id| ClientId::parse(&id).ok_or_else(no_client)).transpose()?;
        let scopes = scopes.map(TokenList::parse).transpose();
        let scopes = scopes.map_err(|(at, error)| Problem::invalid(format!("scopes[{at}]: {error}")))?;
        let upstream = UpstreamName::parse(&upstream).map_err(|error| Problem::invalid(error.to_string()))?;
        let none = || RawValue::from_string("{}".to_owned()).map_err(|error| Problem::invalid(error.to_string()));
        let arguments = arguments.map_or_else(none, Ok)?;
        if !arguments.get().starts_with('{') {
            return Err(Problem::invalid("arguments have to be a JSON object"));
        }
        Ok(Typed { principal, client, scopes, upstream, tool, arguments })
    }
}

impl From<TryError> for Problem {
    fn from(error: TryError) -> Self {
        let told = error.to_string();
        match error {
            TryError::NoRecording => Self::new(StatusCode::NOT_FOUND, "not_found", told),
            TryError::NotAside(NotAside::NoSuchPolicy) => Self::new(StatusCode::NOT_FOUND, "not_found", told),
            TryError::NotAside(NotAside::Config(error)) => {
                let detail = format!("{}: {error}", error.step());
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "config_refused", detail)
            }
            TryError::NoSuchCaller(_) | TryError::NoSuchTool { .. } => Self::invalid(told),
            TryError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", told),
            TryError::Interrupted => Self::new(StatusCode::SERVICE_UNAVAILABLE, "interrupted", told),
            TryError::Store(error) => error.into(),
        }
    }
}

fn view(answered: Answered) -> TriedView {
    let Answered { generation, tried, is_admitted, not_kept } = answered;
    let End { passes, check, by, message, arguments } = tried.end;
    TriedView {
        generation,
        admitted: is_admitted,
        steps: tried.steps.into_iter().map(said_view).collect(),
        gone: tried.gone,
        not_kept,
        complete: !tried.is_cut,
        end: EndView { passes, check, by, message, arguments },
    }
}

fn said_view(said: Said) -> SaidView {
    let Said { binding, module, mode, hook, verdict, code, rule, notes, micros, answer, failure, before } = said;
    SaidView {
        policy: binding,
        module_name: module.name.to_string(),
        version: module.version.to_string(),
        module_digest: module.digest.to_string(),
        mode: mode.as_str(),
        hook: hook.as_str(),
        verdict,
        code,
        rule,
        notes: notes.into_iter().map(|Note { key, value }| NoteView { key, value }).collect(),
        micros,
        answer,
        failure,
        before: before.map(|Before { verdict, is_same }| BeforeView { verdict, same: is_same }),
    }
}
