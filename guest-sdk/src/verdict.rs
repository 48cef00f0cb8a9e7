//! Answers of the hooks `tool_call`, `item_access` and `server_request`, and the reasons that all refusals carry.
//!
//! [`Verdict::allow`] and [`Verdict::deny`] serve nearly every policy. What needs more is built from [`Permit`],
//! [`Denial`], [`StepUp`], [`Approval`] or [`Throttle`] and turned into a verdict with `.into()`.

use std::time::Duration;

use serde_json::Value;

use crate::{
    Approval, ApprovalMemory, Approver, Denial, Edit, EditOp, Note, Permit, Reason, Rewrite, StepUp, Throttle, Verdict,
};

impl Verdict {
    /// No opinion: other policies decide, or the operator's default if there are none.
    pub fn abstain() -> Self {
        Self::Abstain
    }

    /// The call may go on as it is.
    pub fn allow() -> Self {
        Self::Allow(Permit::new())
    }

    /// The call is refused, and the model reads `message` as the tool's answer. [`Denial`] has the other form.
    pub fn deny(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Deny(Denial::new(code, message))
    }
}

impl Reason {
    /// `code` is `[a-z0-9._-]`, at most 64 bytes, and stays the same over releases; `message` is what a person or a
    /// model can act on.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), rule: None, detail: None }
    }

    /// Names the rule that matched.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// More for machines.
    #[must_use]
    pub fn detail(mut self, detail: &Value) -> Self {
        self.detail = Some(detail.to_string());
        self
    }
}

impl Denial {
    /// A refusal that the model reads as the tool's answer.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: Reason::new(code, message), rpc_code: None, rpc_data: None, as_tool_error: true }
    }

    /// Names the rule that matched.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.reason = self.reason.rule(rule);
        self
    }

    /// More for machines.
    #[must_use]
    pub fn detail(mut self, detail: &Value) -> Self {
        self.reason = self.reason.detail(detail);
        self
    }

    /// The caller gets a JSON-RPC error instead of a tool result that the model reads.
    #[must_use]
    pub fn as_rpc_error(mut self) -> Self {
        self.as_tool_error = false;
        self
    }

    /// A JSON-RPC error with this code.
    #[must_use]
    pub fn rpc_code(mut self, code: i32) -> Self {
        self.rpc_code = Some(code);
        self.as_rpc_error()
    }

    /// A JSON-RPC error with this `data`.
    #[must_use]
    pub fn rpc_data(mut self, data: &Value) -> Self {
        self.rpc_data = Some(data.to_string());
        self.as_rpc_error()
    }
}

impl Permit {
    /// Allowed as it is, with no further terms.
    pub fn new() -> Self {
        Self { rewrite: Rewrite::Keep, inspect_result: false, timeout_ms: None, notes: Vec::new() }
    }

    /// A fact for the decision log. Never put secrets or argument values there.
    #[must_use]
    pub fn note(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.notes.push(Note::new(key, value));
        self
    }

    /// The result must pass the `tool_result` hook.
    #[must_use]
    pub fn inspecting_result(mut self) -> Self {
        self.inspect_result = true;
        self
    }

    /// A shorter deadline for this call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = Some(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        self
    }

    /// Changes the arguments. Needs `allow_rewrite` in the operator's binding and `mutates` in the manifest.
    #[must_use]
    pub fn edit(mut self, edit: Edit) -> Self {
        match &mut self.rewrite {
            Rewrite::Patch(edits) => edits.push(edit),
            Rewrite::Keep | Rewrite::Replace(_) => self.rewrite = Rewrite::Patch(vec![edit]),
        }
        self
    }

    /// Puts whole new arguments in the place of the old ones, with the same conditions as [`Permit::edit`].
    #[must_use]
    pub fn replace(mut self, arguments: &Value) -> Self {
        self.rewrite = Rewrite::Replace(arguments.to_string());
        self
    }
}

impl Default for Permit {
    fn default() -> Self {
        Self::new()
    }
}

impl StepUp {
    /// More scopes are needed first.
    pub fn scopes(reason: Reason, scopes: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self { scopes: owned(scopes), acr_values: Vec::new(), max_age_s: None, reason }
    }

    /// The person must have authenticated in one of these ways first.
    pub fn acr(reason: Reason, values: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self { scopes: Vec::new(), acr_values: owned(values), max_age_s: None, reason }
    }

    /// The person must have authenticated in one of these ways, too.
    #[must_use]
    pub fn acr_values(mut self, values: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.acr_values = owned(values);
        self
    }

    /// The person must have authenticated no longer ago than this, too.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age_s = Some(whole_seconds(age));
        self
    }
}

impl Approval {
    /// The caller's own person has to agree, to this one call, within five minutes.
    pub fn new(reason: Reason, title: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            summary: summary.into(),
            by: Approver::Caller,
            approvers: Vec::new(),
            ttl_s: 300,
            remember: ApprovalMemory::Once,
            reason,
        }
    }

    /// An operator has to agree instead.
    #[must_use]
    pub fn by_operator(mut self) -> Self {
        self.by = Approver::Operator;
        self
    }

    /// One of these people has to agree instead.
    #[must_use]
    pub fn by_one_of(mut self, approvers: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.by = Approver::Listed;
        self.approvers = owned(approvers);
        self
    }

    /// How long the request for approval stays open.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_s = whole_seconds(ttl);
        self
    }

    /// How long the approval holds once it is given: for the same caller, client, tool definition and arguments.
    #[must_use]
    pub fn remember_for(mut self, time: Duration) -> Self {
        self.remember = ApprovalMemory::Seconds(whole_seconds(time));
        self
    }
}

impl Throttle {
    /// Too much at once from this bucket.
    pub fn new(reason: Reason, bucket: impl Into<String>, retry_after: Duration) -> Self {
        let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        Self { retry_after_ms, bucket: bucket.into(), reason }
    }
}

impl Edit {
    /// Takes away what is at this RFC 6901 pointer.
    pub fn remove(pointer: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), op: EditOp::Remove }
    }

    /// Puts a value there; the parent must exist.
    pub fn set(pointer: impl Into<String>, value: &Value) -> Self {
        Self { pointer: pointer.into(), op: EditOp::Set(value.to_string()) }
    }

    /// Replaces the string there by this text.
    pub fn mask(pointer: impl Into<String>, text: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), op: EditOp::Mask(text.into()) }
    }
}

impl Note {
    /// A fact under a name.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

impl From<Permit> for Verdict {
    fn from(permit: Permit) -> Self {
        Self::Allow(permit)
    }
}

impl From<Denial> for Verdict {
    fn from(denial: Denial) -> Self {
        Self::Deny(denial)
    }
}

impl From<StepUp> for Verdict {
    fn from(step_up: StepUp) -> Self {
        Self::StepUp(step_up)
    }
}

impl From<Approval> for Verdict {
    fn from(approval: Approval) -> Self {
        Self::Approve(approval)
    }
}

impl From<Throttle> for Verdict {
    fn from(throttle: Throttle) -> Self {
        Self::Throttle(throttle)
    }
}

pub(crate) fn owned(words: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    words.into_iter().map(|word| word.as_ref().to_owned()).collect()
}

pub(crate) fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_denial_is_read_by_the_model_unless_it_is_made_an_rpc_error() {
        for (denial, as_tool_error) in [
            (Denial::new("a.b", "no"), true),
            (Denial::new("a.b", "no").as_rpc_error(), false),
            (Denial::new("a.b", "no").rpc_code(-32003), false),
            (Denial::new("a.b", "no").rpc_data(&json!({"left": 0})), false),
        ] {
            assert_eq!(denial.as_tool_error, as_tool_error, "{denial:?}");
        }
    }

    #[test]
    fn edits_of_a_permit_are_collected_in_order() {
        let permit = Permit::new().edit(Edit::set("/limit", &json!(10))).edit(Edit::remove("/force"));
        let Rewrite::Patch(edits) = permit.rewrite else { panic!("a patch") };
        assert_eq!(edits, [Edit::set("/limit", &json!(10)), Edit::remove("/force")]);
    }

    #[test]
    fn times_too_long_for_the_contract_are_the_longest_it_has() {
        assert_eq!(Permit::new().timeout(Duration::MAX).timeout_ms, Some(u32::MAX));
        assert_eq!(Permit::new().timeout(Duration::from_millis(1500)).timeout_ms, Some(1500));
        let approval = Approval::new(Reason::new("a.b", "ask"), "Delete", "Deletes it").remember_for(Duration::MAX);
        assert_eq!(approval.remember, ApprovalMemory::Seconds(u32::MAX));
    }
}
