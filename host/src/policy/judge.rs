//! What the gateway makes of an answer in the contract's JSON form: the same checks as in a decision, and the verdict in
//! one word. For trying policies out; decisions themselves do not pass here.

use serde::de::{Deserialize as _, DeserializeOwned};
use serde_json::Value;

use super::answer;
use super::asking::Told;
use super::contract::hook::{self, Hook, HookType};
use super::decision::{Failure, Inspection, Note, Visibility};

/// What a question came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Such as `allow` or `deny`.
    pub verdict: &'static str,
    /// The reason's code.
    pub code: Option<String>,
    /// The rule that matched, as the policy's author names it.
    pub rule: Option<String>,
    /// Facts for the decision log.
    pub notes: Vec<Note>,
}

impl From<Told> for Judged {
    fn from(told: Told) -> Self {
        let Told { verdict, code, rule, notes } = told;
        Self { verdict, code, rule, notes }
    }
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.verdict)?;
        self.code.iter().try_for_each(|code| write!(f, " {code}"))?;
        self.rule.iter().try_for_each(|rule| write!(f, " (rule {rule})"))
    }
}

/// Checks an answer as a decision would, as far as that is possible without the documents that it speaks of.
pub(super) fn judge(hook: Hook, input: &Value, answer: &Value) -> Result<Judged, Failure> {
    let asked = || input[hook.parameter()].as_array().map_or(0, Vec::len);
    let told = match hook {
        Hook::ToolCall => verdict(&answer::verdict(read::<hook::ToolCall>(answer)?)?),
        Hook::ItemAccess => verdict(&answer::access_verdict(read::<hook::ItemAccess>(answer)?)?),
        Hook::ServerRequest => verdict(&answer::ask_verdict(read::<hook::ServerRequest>(answer)?)?),
        Hook::ToolResult => inspection(answer::inspection(read::<hook::ToolResult>(answer)?)?),
        Hook::ItemResult => inspection(answer::inspection(read::<hook::ItemResult>(answer)?)?),
        Hook::ListTools => visible(&answer::listing(read::<hook::ListTools>(answer)?, asked())?.visible),
        Hook::ListItems => visible(&answer::visibilities(read::<hook::ListItems>(answer)?, asked())?),
        Hook::Grant | Hook::Refresh | Hook::Client | Hook::Credential => super::authority::told(hook, answer)?,
    };
    Ok(told.into())
}

pub(super) fn read<K: HookType>(answer: &Value) -> Result<K::Answer, Failure>
where
    K::Answer: DeserializeOwned,
{
    K::Answer::deserialize(answer).map_err(|error| Failure::InvalidAnswer { what: error.to_string() })
}

fn verdict(verdict: &super::decision::Verdict<super::decision::Terms>) -> Told {
    Told::verdict(verdict, |terms| Told::noting("allow", &terms.notes))
}

fn inspection(inspection: Inspection) -> Told {
    match inspection {
        Inspection::Abstain => Told::word("abstain"),
        Inspection::Pass => Told::word("pass"),
        Inspection::Redact(redaction) => Told::noting("redact", &redaction.notes),
        Inspection::Block(denial) => Told::reason("block", &denial.reason),
    }
}

/// One word for one tool or item, and one for a list of them.
fn visible(visible: &[Visibility]) -> Told {
    match visible {
        [Visibility::Abstain] => Told::word("abstain"),
        [Visibility::Show] => Told::word("show"),
        [Visibility::Hide] => Told::word("hide"),
        _ => Told::word("filter"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(hook: Hook, input: &Value, answer: &Value) -> String {
        match judge(hook, input, answer) {
            Ok(judged) => judged.to_string(),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn an_answer_is_told_in_one_word_with_its_reason() {
        let reason = json!({ "code": "a.b", "message": "No.", "rule": "r1" });
        let tools = json!({ "tools": [{}, {}] });
        for (hook, input, answer, expected) in [
            (Hook::ToolCall, json!({}), json!("abstain"), "abstain"),
            (Hook::ToolCall, json!({}), json!({ "allow": {} }), "allow"),
            (Hook::ToolCall, json!({}), json!({ "deny": { "reason": reason } }), "deny a.b (rule r1)"),
            (Hook::ToolResult, json!({}), json!({ "block": { "reason": reason } }), "block a.b (rule r1)"),
            (Hook::ToolResult, json!({}), json!("pass"), "pass"),
            (Hook::ListTools, tools.clone(), json!({ "visible": ["show", "hide"] }), "filter"),
            (Hook::ListItems, json!({ "items": [{}] }), json!(["hide"]), "hide"),
        ] {
            assert_eq!(told(hook, &input, &answer), expected, "{answer}");
        }
    }

    #[test]
    fn what_a_decision_would_refuse_is_refused() {
        for (hook, input, answer, part) in [
            (Hook::ToolCall, json!({}), json!("maybe"), "maybe"),
            (Hook::ToolCall, json!({}), json!({ "deny": {} }), "reason"),
            (Hook::ToolCall, json!({}), json!({ "deny": { "reason": { "code": "A", "message": "" } } }), "code"),
            (Hook::ListTools, json!({ "tools": [{}] }), json!({ "visible": [] }), "0 visibilities for 1"),
            (Hook::ItemAccess, json!({}), json!({ "allow": { "rewrite": { "replace": {} } } }), "rewrite"),
        ] {
            let told = told(hook, &input, &answer);
            assert!(told.contains("invalid") && told.contains(part), "{answer}: {told}");
        }
    }
}
