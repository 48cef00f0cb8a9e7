//! 2025-11-25: elicitation by URL, streams that can be left and resumed, experimental tasks (2025-11-25, changelog). See
//! [`super::legacy`].

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Traits;
use super::v2026_07_28::InputRequest;
use crate::mcp::call::Verb;
use crate::mcp::error::URL_ELICITATION_REQUIRED;
use crate::mcp::talk::Question;

pub const VERSION: &str = "2025-11-25";

pub(super) const TRAITS: Traits = Traits {
    batches: false,
    version_header: true,
    primed_streams: true,
    completions: true,
    elicitation_form: true,
    elicitation_url: true,
    tasks: true,
    passes: |method| matches!(method, ELICITATION_COMPLETE | TASK_STATUS),
};

/// Tells a client that its user is done at the URL it was sent to (client/elicitation § completion).
pub const ELICITATION_COMPLETE: &str = "notifications/elicitation/complete";
/// Tells of a task's new state (utilities/tasks § status notification); `taskId` in it is the upstream's own.
pub const TASK_STATUS: &str = "notifications/tasks/status";

/// The methods of its tasks that we serve. `tasks/list` is left out, as § capabilities allows: no task is ever listed to
/// somebody else.
pub(super) fn task_verb(method: &str) -> Option<Verb> {
    [Verb::GetTask, Verb::TaskResult, Verb::CancelTask].into_iter().find(|verb| verb.method() == method)
}

/// What an upstream's error asks of the user before the request is sent again, if it is the one that does (schema
/// § `URLElicitationRequiredError`). Other
/// revisions do not know this error; for them it is a question like any other.
pub fn required_elicitations(error: &RawValue) -> Option<Vec<InputRequest>> {
    #[derive(Deserialize)]
    struct Required {
        code: i64,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        elicitations: Vec<Box<RawValue>>,
    }
    let required: Required = serde_json::from_str(error.get()).ok()?;
    let elicitations = required.data.elicitations;
    let all_objects = elicitations.iter().all(|elicitation| elicitation.get().starts_with('{'));
    if required.code != i64::from(URL_ELICITATION_REQUIRED) || elicitations.is_empty() || !all_objects {
        return None;
    }
    let ask = |(index, params): (usize, Box<RawValue>)| InputRequest {
        key: (index + 1).to_string(),
        question: Question::ElicitationUrl,
        params: Some(params),
    };
    Some(elicitations.into_iter().enumerate().map(ask).collect())
}
