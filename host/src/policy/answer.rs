//! From what a guest answered to what the host believes: every part bounded and checked.
//!
//! A guest that breaks the contract gets no benefit of the doubt: a wrong answer is a failure, and a failure
//! refuses the request. Checks against the document that an answer speaks of (pointers, spans, indices) are in
//! [`super::edits`] and [`super::result`].

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::contract::tools::list_tools;
use super::contract::types;
use super::decision::{
    ApprovalWanted, Approver, Denial, Edit, Failure, Halt, Inspection, Note, Operation, Reason, Redaction, Remember,
    Rewrite, Span, StepUp, Terms, Throttle, Verdict, Visibility,
};
use super::text::{Breaks, without_controls};
use crate::mcp::json;

const MAX_CODE_BYTES: usize = 64;
const MAX_MESSAGE_BYTES: usize = 2 << 10;
const MAX_RULE_BYTES: usize = 256;
const MAX_NOTES: usize = 32;
const MAX_NOTE_KEY_BYTES: usize = 64;
const MAX_NOTE_VALUE_BYTES: usize = 1 << 10;
const MAX_SCOPES: usize = 64;
const MAX_SCOPE_BYTES: usize = 256;
const MAX_TITLE_BYTES: usize = 256;
const MAX_DESCRIPTION_BYTES: usize = 8 << 10;
const MAX_SUMMARY_BYTES: usize = 4 << 10;
const MAX_APPROVERS: usize = 32;
const MAX_APPROVER_BYTES: usize = 256;
/// How long a request for approval may be open, and an approval may hold, at most.
const MAX_APPROVAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Most edits, spans or dropped parts in one answer.
const MAX_CHANGES: usize = 4096;
/// A policy may not lock a caller out for longer.
const MAX_RETRY_AFTER_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) type Checked<T> = Result<T, Failure>;

/// The answer of `tool-call`.
pub(super) fn verdict(answer: types::Verdict) -> Checked<Verdict<Terms>> {
    Ok(match answer {
        types::Verdict::Abstain => Verdict::Abstain,
        types::Verdict::Allow(permit) => Verdict::Allow(terms(permit)?),
        types::Verdict::Deny(denial) => Verdict::Halt(deny(denial)?),
        types::Verdict::StepUp(step_up) => Verdict::Halt(self::step_up(step_up)?),
        types::Verdict::Approve(approval) => Verdict::Halt(approve(approval)?),
        types::Verdict::Throttle(throttle) => Verdict::Halt(self::throttle(throttle)?),
    })
}

/// The answer of `item-access`, where nothing can be rewritten.
pub(super) fn access_verdict(answer: types::Verdict) -> Checked<Verdict<Terms>> {
    let verdict = verdict(answer)?;
    match &verdict {
        Verdict::Allow(terms) if !matches!(terms.rewrite, Rewrite::Keep) => {
            Err(Failure::invalid("a rewrite, which is possible for arguments of tools only"))
        }
        _ => Ok(verdict),
    }
}

/// The answer of `server-request`: what it allows goes to the client as it is, or does not.
pub(super) fn ask_verdict(answer: types::Verdict) -> Checked<Verdict<Terms>> {
    let verdict = access_verdict(answer)?;
    match &verdict {
        Verdict::Allow(terms) if terms.inspect_result => Err(Failure::invalid("inspection of what a client answers")),
        Verdict::Allow(terms) if terms.timeout.is_some() => {
            Err(Failure::invalid("a timeout for what a client answers"))
        }
        _ => Ok(verdict),
    }
}

/// The answer of `tool-result` or `item-result`.
pub(super) fn inspection(answer: types::Inspection) -> Checked<Inspection> {
    Ok(match answer {
        types::Inspection::Abstain => Inspection::Abstain,
        types::Inspection::Pass => Inspection::Pass,
        types::Inspection::Redact(redaction) => Inspection::Redact(self::redaction(redaction)?),
        types::Inspection::Block(denial) => Inspection::Block(self::denial(denial)?),
    })
}

/// New texts for one tool of a list.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Override {
    pub(super) title: Option<Arc<str>>,
    pub(super) description: Option<Arc<str>>,
}

/// What a policy says of a list.
#[derive(Debug)]
pub(super) struct Listing {
    /// For each tool that was asked about.
    pub(super) visible: Vec<Visibility>,
    /// By the index of the tool, at most one for each.
    pub(super) overrides: Vec<(usize, Override)>,
}

/// The answer of `list-tools` about `asked` tools.
pub(super) fn listing(answer: list_tools::Outcome, asked: usize) -> Checked<Listing> {
    let list_tools::Outcome { visible, overrides } = answer;
    let visible = visibilities(visible, asked)?;
    let mut seen = vec![false; asked];
    let overrides = overrides.into_iter().map(|list_tools::Override { index, title, description }| {
        let index = index as usize;
        match seen.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(Failure::invalid(format!("two overrides of tool {index}"))),
            None => return Err(Failure::invalid(format!("override of tool {index} of {asked}"))),
        }
        let title = title.map(|title| text("title", title, MAX_TITLE_BYTES, Breaks::Dropped)).transpose()?;
        let description = description
            .map(|description| text("description", description, MAX_DESCRIPTION_BYTES, Breaks::Kept))
            .transpose()?;
        Ok((index, Override { title: title.map(Arc::from), description: description.map(Arc::from) }))
    });
    Ok(Listing { visible, overrides: overrides.collect::<Checked<_>>()? })
}

/// The answer of `list-items` about `asked` items, and a part of that of `list-tools`.
pub(super) fn visibilities(answer: Vec<types::Visibility>, asked: usize) -> Checked<Vec<Visibility>> {
    if answer.len() != asked {
        return Err(Failure::invalid(format!("{} visibilities for {asked} tools or items", answer.len())));
    }
    let visible = answer.into_iter().map(|visibility| match visibility {
        types::Visibility::Abstain => Visibility::Abstain,
        types::Visibility::Show => Visibility::Show,
        types::Visibility::Hide => Visibility::Hide,
    });
    Ok(visible.collect())
}

fn terms(permit: types::Permit) -> Checked<Terms> {
    let types::Permit { rewrite, inspect_result, timeout_ms, notes } = permit;
    let rewrite = match rewrite {
        types::Rewrite::Keep => Rewrite::Keep,
        types::Rewrite::Patch(edits) => Rewrite::Patch(self::edits(edits)?),
        types::Rewrite::Replace(document) => Rewrite::Replace(self::document("replacement", document)?),
    };
    if timeout_ms == Some(0) {
        return Err(Failure::invalid("a timeout of 0 ms"));
    }
    let timeout = timeout_ms.map(|millis| Duration::from_millis(millis.into()));
    Ok(Terms { rewrite, inspect_result, timeout, notes: self::notes(notes)? })
}

fn denial(denial: types::Denial) -> Checked<Denial> {
    let types::Denial { reason, rpc_code, rpc_data, as_tool_error } = denial;
    let rpc_data = rpc_data.map(|data| document("rpc-data", data)).transpose()?;
    Ok(Denial { reason: self::reason(reason)?, as_tool_error, rpc_code, rpc_data })
}

pub(super) fn deny(denial: types::Denial) -> Checked<Halt> {
    self::denial(denial).map(Halt::Deny)
}

pub(super) fn step_up(step_up: types::StepUp) -> Checked<Halt> {
    let types::StepUp { scopes, acr_values, max_age_s, reason } = step_up;
    Ok(Halt::StepUp(StepUp {
        scopes: tokens("scope", scopes)?,
        acr_values: tokens("acr value", acr_values)?,
        max_age: max_age_s.map(|seconds| Duration::from_secs(seconds.into())),
        reason: self::reason(reason)?,
    }))
}

pub(super) fn approve(approval: types::Approval) -> Checked<Halt> {
    let types::Approval { title, summary, by, approvers, ttl_s, remember, reason } = approval;
    at_most("approvers", approvers.len(), MAX_APPROVERS)?;
    let approver = |name: String| match text("approver's name", name, MAX_APPROVER_BYTES, Breaks::Dropped)? {
        name if name.is_empty() => Err(Failure::invalid("an approver without a name")),
        name => Ok(name),
    };
    let approvers = approvers.into_iter().map(approver).collect::<Checked<Vec<_>>>()?;
    let by = match by {
        types::Approver::Caller => Approver::Caller,
        types::Approver::Operator => Approver::Operator,
        types::Approver::Listed if approvers.is_empty() => {
            return Err(Failure::invalid("an approval by listed persons, and none is listed"));
        }
        types::Approver::Listed => Approver::Listed(approvers),
    };
    let seconds = |what: &str, seconds: u32| match seconds {
        0 => Err(Failure::invalid(format!("an approval {what} for 0 s"))),
        seconds => Ok(Duration::from_secs(seconds.into()).min(MAX_APPROVAL)),
    };
    Ok(Halt::Approve(Box::new(ApprovalWanted {
        title: text("title", title, MAX_TITLE_BYTES, Breaks::Dropped)?,
        summary: text("summary", summary, MAX_SUMMARY_BYTES, Breaks::Kept)?,
        by,
        ttl: seconds("asked for", ttl_s)?,
        remember: match remember {
            types::ApprovalMemory::Once => Remember::Once,
            types::ApprovalMemory::Seconds(holds) => Remember::For(seconds("remembered", holds)?),
        },
        reason: self::reason(reason)?,
        arguments: None,
    })))
}

fn throttle(throttle: types::Throttle) -> Checked<Halt> {
    let types::Throttle { retry_after_ms, bucket, reason } = throttle;
    text("bucket", bucket, MAX_RULE_BYTES, Breaks::Dropped)?;
    let retry_after_ms = retry_after_ms.min(MAX_RETRY_AFTER_MS);
    Ok(Halt::Throttle(Throttle { retry_after_ms, reason: self::reason(reason)? }))
}

fn redaction(redaction: types::Redaction) -> Checked<Redaction> {
    let types::Redaction { spans, structured, drop_parts, notes } = redaction;
    at_most("spans", spans.len(), MAX_CHANGES)?;
    at_most("dropped parts", drop_parts.len(), MAX_CHANGES)?;
    let spans = spans.into_iter().map(|types::Span { part, start, end, replacement }| Span {
        part: part as usize,
        start: start as usize,
        end: end as usize,
        replacement,
    });
    Ok(Redaction {
        spans: spans.collect(),
        structured: edits(structured)?,
        drop_parts: drop_parts.into_iter().map(|part| part as usize).collect(),
        notes: self::notes(notes)?,
    })
}

pub(super) fn edits(edits: Vec<types::Edit>) -> Checked<Vec<Edit>> {
    at_most("edits", edits.len(), MAX_CHANGES)?;
    let edit = |types::Edit { pointer, op }| {
        let operation = match op {
            types::EditOp::Remove => Operation::Remove,
            types::EditOp::Set(value) => Operation::Set(document("value of an edit", value)?),
            types::EditOp::Mask(text) => Operation::Mask(text),
        };
        Ok(Edit { pointer, operation })
    };
    edits.into_iter().map(edit).collect()
}

fn reason(reason: types::Reason) -> Checked<Reason> {
    let types::Reason { code, message, rule, detail } = reason;
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if code.is_empty() || code.len() > MAX_CODE_BYTES || !code.bytes().all(allowed) {
        return Err(Failure::invalid("a reason's code is not 1 to 64 characters of a-z, 0-9, '.', '_' and '-'"));
    }
    Ok(Reason {
        code,
        message: text("message", message, MAX_MESSAGE_BYTES, Breaks::Kept)?,
        rule: rule.map(|rule| text("rule", rule, MAX_RULE_BYTES, Breaks::Dropped)).transpose()?,
        detail: detail.map(|detail| document("detail", detail)).transpose()?,
    })
}

pub(super) fn notes(notes: Vec<types::Note>) -> Checked<Vec<Note>> {
    at_most("notes", notes.len(), MAX_NOTES)?;
    let note = |types::Note { key, value }| {
        let key = text("note's key", key, MAX_NOTE_KEY_BYTES, Breaks::Dropped)?;
        let value = text("note's value", value, MAX_NOTE_VALUE_BYTES, Breaks::Kept)?;
        Ok(Note { key, value })
    };
    notes.into_iter().map(note).collect()
}

/// Texts that end up in a `WWW-Authenticate` header, so that only the characters of RFC 6749 §3.3 will do.
pub(super) fn tokens(what: &str, tokens: Vec<String>) -> Checked<Vec<String>> {
    at_most(what, tokens.len(), MAX_SCOPES)?;
    let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    for token in &tokens {
        if token.is_empty() || token.len() > MAX_SCOPE_BYTES || !token.bytes().all(allowed) {
            return Err(Failure::invalid(format!("a {what} has characters that a scope token may not have")));
        }
    }
    Ok(tokens)
}

pub(super) fn text(what: &str, text: String, max_bytes: usize, breaks: Breaks) -> Checked<String> {
    if text.len() > max_bytes {
        return Err(Failure::invalid(format!("a {what} of {} bytes, more than {max_bytes}", text.len())));
    }
    Ok(without_controls(text, breaks))
}

/// JSON text that is one document which every reader understands in the same way.
pub(super) fn document(what: &str, text: String) -> Checked<Box<RawValue>> {
    json::check(text.as_bytes()).map_err(|_| Failure::invalid(format!("a {what} that is not acceptable JSON")))?;
    RawValue::from_string(text).map_err(|_| Failure::invalid(format!("a {what} that is not JSON")))
}

pub(super) fn at_most(what: &str, count: usize, max: usize) -> Checked<()> {
    if count > max {
        return Err(Failure::invalid(format!("{count} {what}, more than {max}")));
    }
    Ok(())
}
