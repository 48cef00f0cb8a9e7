//! What policies were asked, word for word: for operators only, and each reading is audited.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::openapi::{Described, get};
use super::{Answer, Api, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::audit::Actor;
use crate::ids::BindingName;
use crate::store::recordings::{self, Filter, Import, Question, Recording, Transcript, Words};

const LIST: &str = "recordings";

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordingQuery {
    /// The binding.
    policy: Option<String>,
    hook: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// What policies were asked about one decision.
#[derive(Serialize, ToSchema)]
#[schema(as = Recording)]
pub(in crate::http) struct RecordingView {
    pub(in crate::http) decision: String,
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    pub(in crate::http) policy_generation: u64,
    pub(in crate::http) questions: Vec<QuestionView>,
}

/// One question to one policy.
#[derive(Serialize, ToSchema)]
#[schema(as = Question)]
pub(in crate::http) struct QuestionView {
    pub(in crate::http) decision: String,
    #[schema(value_type = String)]
    pub(in crate::http) policy: BindingName,
    pub(in crate::http) module_name: String,
    pub(in crate::http) version: String,
    pub(in crate::http) module_digest: String,
    pub(in crate::http) hook: String,
    pub(in crate::http) verdict: String,
    pub(in crate::http) micros: u64,
    #[serde(flatten)]
    pub(in crate::http) words: WordsView,
}

/// Question and answer word for word, or what they were the digests of.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = QuestionWords)]
pub(in crate::http) enum WordsView {
    Whole {
        input: Value,
        answer: Value,
        #[schema(value_type = Vec<ImportView>)]
        imports: Vec<Import>,
    },
    Digests {
        input_digest: String,
        answer_digest: Option<String>,
    },
}

/// What the policy asked the gateway meanwhile.
#[derive(ToSchema)]
#[schema(as = QuestionImport)]
#[expect(dead_code, reason = "its shape is told here; `store::recordings` writes it")]
struct ImportView {
    import: String,
    asked: Value,
    answer: Value,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get(
            "/api/v1/recordings",
            "listRecordings",
            "Questions that are kept whole, newest first. Each reading is audited",
        )
        .filters::<RecordingQuery>()
        .pages::<QuestionView>("questions"),
        get("/api/v1/recordings/{id}", "showRecording", "All questions of one decision. Each reading is audited")
            .shows::<RecordingView>(),
    ]
}

impl QuestionView {
    /// What was said, each part with what it is called, for people.
    pub(in crate::http) fn told(&self) -> Vec<(&'static str, String)> {
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
        match &self.words {
            WordsView::Whole { input, answer, imports } => {
                let mut told = vec![("Asked", pretty(input)), ("Answered", pretty(answer))];
                if !imports.is_empty() {
                    told.push(("What it asked the gateway meanwhile", pretty(&json!(imports))));
                }
                told
            }
            WordsView::Digests { input_digest, answer_digest } => vec![
                ("Digest of what was asked", input_digest.clone()),
                ("Digest of the answer", answer_digest.clone().unwrap_or_default()),
            ],
        }
    }
}

/// Whether a decision was recorded.
pub(in crate::http) async fn is_there(api: &Api, decision: &str) -> Result<bool, Problem> {
    Ok(recordings::is_there(&api.control.store, decision).await?)
}

/// What a decision's policies were asked. That this actor reads it is written down.
pub(in crate::http) async fn recording(api: &Api, id: &str, actor: Actor) -> Result<RecordingView, Problem> {
    let recording = api.control.recording(id, actor).await?.ok_or_else(|| Problem::not_found("recording"))?;
    let Recording { decision, at, generation, questions } = recording;
    let questions = questions.iter().map(|question| view(&decision, question)).collect();
    Ok(RecordingView { at: at.to_string(), policy_generation: generation, questions, decision })
}

/// All questions of one decision.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    Ok(ok(&json!(recording(&api, &id, operator.0).await?)))
}

/// The questions of a policy, or of all, that are kept whole, newest first.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Query(query): Query<RecordingQuery>,
) -> Answer {
    let RecordingQuery { policy, hook, limit, cursor } = query;
    let paging = Paging { limit, cursor };
    let binding = policy.map(|name| BindingName::parse(&name)).transpose();
    let binding = binding.map_err(|error| Problem::invalid(error.to_string()))?;
    // What is found by policy and what is found by time are two lists.
    let list = format!("{LIST} {}", binding.as_ref().map_or("", BindingName::as_str));
    let (after, limit) = (paging.cursor(&api, &list)?, paging.limit());
    let page = api.control.recordings(Filter { binding, hook }, after, limit, operator.0).await?;
    let questions: Vec<QuestionView> = page.items.iter().map(|(decision, question)| view(decision, question)).collect();
    Ok(ok(&json!({ "questions": questions, "next_cursor": next_cursor(&api, &list, page.next.as_ref()) })))
}

fn view(decision: &str, question: &Question) -> QuestionView {
    let Question { binding, module_name, module_version, module_digest, hook, verdict, micros, words } = question;
    let json = |text: &String| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    QuestionView {
        decision: decision.to_owned(),
        policy: binding.clone(),
        module_name: module_name.clone(),
        version: module_version.clone(),
        module_digest: module_digest.clone(),
        hook: hook.clone(),
        verdict: verdict.clone(),
        micros: *micros,
        words: match words {
            Words::Whole(Transcript { input, answer, imports }) => WordsView::Whole {
                input: json(input),
                answer: answer.as_ref().map_or(Value::Null, json),
                imports: imports.clone(),
            },
            Words::Digests { input, answer } => {
                WordsView::Digests { input_digest: input.clone(), answer_digest: answer.clone() }
            }
        },
    }
}
