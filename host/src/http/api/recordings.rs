//! What policies were asked, word for word: for operators only, and each reading is audited.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, MAX_PAGE, Operator, Path, Problem, Query, ok};
use crate::ids::BindingName;
use crate::store::recordings::{Filter, Question, Recording, Transcript, Words};

/// Questions that are shown, unless asked for fewer or more.
const DEFAULT_LIMIT: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordingQuery {
    /// The binding.
    policy: Option<String>,
    hook: Option<String>,
    limit: Option<usize>,
}

/// All questions of one decision.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    let recording = api.control.recording(&id, operator.0).await?.ok_or_else(|| Problem::not_found("recording"))?;
    let Recording { decision, at, generation, questions } = recording;
    let questions: Vec<Value> = questions.iter().map(|question| view(&decision, question)).collect();
    Ok(ok(&json!({
        "decision": decision,
        "at": at.to_string(),
        "policy_generation": generation,
        "questions": questions,
    })))
}

/// The latest questions of a policy that are kept whole, newest first.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Query(query): Query<RecordingQuery>,
) -> Answer {
    let RecordingQuery { policy, hook, limit } = query;
    let binding = policy.map(|name| BindingName::parse(&name)).transpose();
    let binding = binding.map_err(|error| Problem::invalid(error.to_string()))?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_PAGE);
    let latest = api.control.latest_recordings(Filter { binding, hook }, limit, operator.0).await?;
    let questions: Vec<Value> = latest.iter().map(|(decision, question)| view(decision, question)).collect();
    Ok(ok(&json!({ "questions": questions })))
}

fn view(decision: &str, question: &Question) -> Value {
    let Question { binding, module_name, module_version, module_digest, hook, verdict, micros, words } = question;
    let mut view = json!({
        "decision": decision,
        "policy": binding,
        "module_name": module_name,
        "version": module_version,
        "module_digest": module_digest,
        "hook": hook,
        "verdict": verdict,
        "micros": micros,
    });
    let json = |text: &String| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    match words {
        Words::Whole(Transcript { input, answer, imports }) => {
            view["input"] = json(input);
            view["answer"] = answer.as_ref().map_or(Value::Null, json);
            view["imports"] = json!(imports);
        }
        Words::Digests { input, answer } => {
            view["input_digest"] = json!(input);
            view["answer_digest"] = json!(answer);
        }
    }
    view
}
