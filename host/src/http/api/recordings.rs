//! What policies were asked, word for word: for operators only, and each reading is audited.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::ids::BindingName;
use crate::store::recordings::{Filter, Question, Recording, Transcript, Words};

const LIST: &str = "recordings";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordingQuery {
    /// The binding.
    policy: Option<String>,
    hook: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
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
    let questions: Vec<Value> = page.items.iter().map(|(decision, question)| view(decision, question)).collect();
    Ok(ok(&json!({ "questions": questions, "next_cursor": next_cursor(&api, &list, page.next.as_ref()) })))
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
