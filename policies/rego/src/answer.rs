//! What rules say, in the contract's words.
//!
//! Rules answer as authors of Rego write: a boolean, a text, an object, or a set of those. Whatever does not read as an
//! answer is a failure, and a failure refuses.

use std::collections::BTreeMap;
use std::time::Duration;

use policy_scripted::{Narrowing, Pattern, bounded, is_code, limits, present, redact};
use portcullis_guest_sdk::serde::de::DeserializeOwned;
use portcullis_guest_sdk::serde::{Deserialize, Deserializer};
use portcullis_guest_sdk::serde_json::{self, Map, Value};
use portcullis_guest_sdk::{
    Approval, ApprovalMemory, Approver, Denial, Edit, EditOp, Glob, Note, Part, Permit, Reason, Redaction, Rewrite,
    StepUp, Throttle, grant,
};

use crate::modules::Failure;

/// How long a request for approval stays open unless a rule says something else, in seconds.
const APPROVAL_TTL_S: u32 = 3600;
const REPLACEMENT: &str = "[redacted]";

/// What the rules of one package say, by their names.
pub(crate) struct Answers(pub(crate) Map<String, Value>);

/// What is allowed, and on which terms.
pub(crate) enum Allowed {
    /// No rule says anything of it.
    Unsaid,
    /// `false`, as after `default allow := false`.
    No,
    Yes(Value),
}

/// Why, as rules write it.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
struct Refusal {
    code: Option<String>,
    message: Option<String>,
    rule: Option<String>,
    detail: Option<Value>,
    rpc_code: Option<i32>,
    rpc_data: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
struct Demand {
    scopes: Vec<String>,
    acr_values: Vec<String>,
    max_age_s: Option<u32>,
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
struct Question {
    title: String,
    summary: String,
    by: Option<Approver>,
    approvers: Vec<String>,
    ttl_s: u32,
    remember: ApprovalMemory,
    code: Option<String>,
    message: Option<String>,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            title: "Approval is needed".to_owned(),
            summary: "The gateway's rules ask for approval.".to_owned(),
            by: None,
            approvers: Vec::new(),
            ttl_s: APPROVAL_TTL_S,
            remember: ApprovalMemory::Once,
            code: None,
            message: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct Brake {
    retry_after_ms: u64,
    #[serde(default)]
    bucket: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// The terms of an allowance of a call or a use.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
struct Terms {
    inspect_result: bool,
    timeout_ms: Option<u32>,
    notes: BTreeMap<String, String>,
}

/// The terms of a grant or a refresh.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
pub(crate) struct GrantTerms {
    scopes: Option<Vec<Glob>>,
    tools: Option<Vec<Glob>>,
    access_ttl_s: Option<u32>,
    refresh_ttl_s: Option<u32>,
    require_sender_constraint: bool,
    claims: Option<Map<String, Value>>,
    notes: BTreeMap<String, String>,
}

/// The terms of a credential's release.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
pub(crate) struct ReleaseTerms {
    scopes: Option<Vec<Glob>>,
    pub(crate) max_age_s: Option<u32>,
}

#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct Consent {
    headline: String,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    terms: GrantTerms,
}

/// A change of a document: the contract's `op`, or one of the short forms.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
struct Change {
    pointer: Option<String>,
    op: Option<EditOp>,
    #[serde(deserialize_with = "there")]
    set: Option<Value>,
    mask: Option<String>,
    remove: bool,
    #[serde(deserialize_with = "there")]
    replace: Option<Value>,
}

/// What is taken out of a result.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", default, deny_unknown_fields)]
struct Blackout {
    pattern: Option<String>,
    part: Option<u32>,
    start: Option<u32>,
    end: Option<u32>,
    replacement: Option<String>,
    drop_part: Option<u32>,
    pointer: Option<String>,
    op: Option<EditOp>,
    #[serde(deserialize_with = "there")]
    set: Option<Value>,
    mask: Option<String>,
    remove: bool,
}

/// A value that is there, `null` included.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Answers {
    /// The refusal, if a rule refuses: the first one in Rego's order, with the messages of all.
    pub(crate) fn denial(&mut self) -> Result<Option<Denial>, Failure> {
        let mut refusals = Vec::new();
        for said in self.each("deny") {
            refusals.push(match said {
                Value::Bool(_) => Refusal::default(),
                Value::String(message) => Refusal { message: Some(message), ..Refusal::default() },
                said => read("deny", said)?,
            });
        }
        let messages: Vec<String> = refusals.iter_mut().filter_map(|refusal| refusal.message.take()).collect();
        let Some(first) = refusals.into_iter().next() else { return Ok(None) };
        let message = (!messages.is_empty()).then(|| messages.join(" "));
        let mut reason = reason("deny", first.code, message, "rego.denied", "The gateway's rules do not allow this.")?;
        reason.rule = first.rule.or(reason.rule).map(|rule| bounded(rule, limits::NAME));
        reason.detail = first.detail.map(|detail| detail.to_string());
        let mut denial = Denial { reason, rpc_code: None, rpc_data: None, as_tool_error: true };
        if let Some(code) = first.rpc_code {
            denial = denial.rpc_code(code);
        }
        if let Some(data) = &first.rpc_data {
            denial = denial.rpc_data(data);
        }
        Ok(Some(denial))
    }

    pub(crate) fn step_up(&mut self, satisfied: &[String]) -> Result<Option<StepUp>, Failure> {
        let mut demand: Option<Demand> = None;
        for said in self.each("step_up") {
            let further = match said {
                Value::Bool(_) => return Err(Failure::of("step_up", "it does not say what is needed")),
                Value::String(scope) => Demand { scopes: vec![scope], ..Demand::default() },
                said => read("step_up", said)?,
            };
            let demand = demand.get_or_insert_default();
            demand.scopes.extend(further.scopes);
            demand.acr_values.extend(further.acr_values);
            demand.max_age_s = demand.max_age_s.into_iter().chain(further.max_age_s).min();
            demand.code = demand.code.take().or(further.code);
            demand.message = demand.message.take().or(further.message);
        }
        let Some(Demand { scopes, acr_values, max_age_s, code, message }) = demand else { return Ok(None) };
        let reason = reason("step_up", code, message, "rego.step-up", "More authority is needed for this.")?;
        Ok((!satisfied.contains(&reason.code)).then_some(StepUp { scopes, acr_values, max_age_s, reason }))
    }

    pub(crate) fn approval(&mut self, satisfied: &[String]) -> Result<Option<Approval>, Failure> {
        for said in self.each("approve") {
            let Question { title, summary, by, approvers, ttl_s, remember, code, message } = match said {
                Value::Bool(_) => Question::default(),
                Value::String(title) => Question { title, ..Question::default() },
                said => read("approve", said)?,
            };
            let reason = reason("approve", code, message, "rego.approval", "Somebody has to agree to this first.")?;
            if satisfied.contains(&reason.code) {
                continue;
            }
            let by = by.unwrap_or(if approvers.is_empty() { Approver::Operator } else { Approver::Listed });
            let (title, summary) = (bounded(title, limits::TITLE), bounded(summary, limits::SUMMARY));
            return Ok(Some(Approval { title, summary, by, approvers, ttl_s, remember, reason }));
        }
        Ok(None)
    }

    pub(crate) fn throttle(&mut self) -> Result<Option<Throttle>, Failure> {
        let Some(said) = self.each("throttle").into_iter().next() else { return Ok(None) };
        let Brake { retry_after_ms, bucket, code, message } = read("throttle", said)?;
        let reason = reason("throttle", code, message, "rego.throttled", "This is too much at once; try again later.")?;
        let bucket = bounded(bucket.unwrap_or_else(|| reason.code.clone()), limits::NAME);
        Ok(Some(Throttle::new(reason, bucket, Duration::from_millis(retry_after_ms))))
    }

    pub(crate) fn allowed(&mut self) -> Allowed {
        match self.0.remove("allow") {
            None | Some(Value::Null) => Allowed::Unsaid,
            Some(Value::Bool(false)) => Allowed::No,
            Some(Value::Bool(true)) => Allowed::Yes(Value::Object(Map::new())),
            Some(terms) => Allowed::Yes(terms),
        }
    }

    /// A boolean, or whether a set has anything in it.
    pub(crate) fn is(&mut self, rule: &str) -> Option<bool> {
        match self.0.remove(rule)? {
            Value::Bool(is) => Some(is),
            Value::Null => None,
            Value::Array(items) => (!items.is_empty()).then_some(true),
            _ => Some(true),
        }
    }

    pub(crate) fn text(&mut self, rule: &str, bytes: usize) -> Result<Option<String>, Failure> {
        match self.0.remove(rule) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(bounded(text, bytes))),
            Some(_) => Err(Failure::of(rule, "it is no text")),
        }
    }

    /// Texts that are told to somebody.
    pub(crate) fn warnings(&mut self) -> Vec<String> {
        let text = |said: Value| match said {
            Value::String(text) => bounded(text, limits::MESSAGE),
            said => bounded(said.to_string(), limits::MESSAGE),
        };
        self.each("warnings").into_iter().map(text).collect()
    }

    /// What a call is allowed on, rewrite included.
    pub(crate) fn permit(&mut self, terms: Value, arguments: Option<&Value>) -> Result<Permit, Failure> {
        let Terms { inspect_result, timeout_ms, notes } = read("allow", terms)?;
        let rewrite = self.rewrite(arguments)?;
        Ok(Permit { rewrite, inspect_result, timeout_ms, notes: self::notes(notes) })
    }

    /// Edits; what is not there is neither masked nor removed.
    pub(crate) fn edits(&mut self, document: Option<&Value>) -> Result<Vec<Edit>, Failure> {
        match self.rewrite(document)? {
            Rewrite::Keep => Ok(Vec::new()),
            Rewrite::Patch(edits) => Ok(edits),
            Rewrite::Replace(_) => Err(Failure::of("rewrite", "this cannot be replaced as a whole")),
        }
    }

    fn rewrite(&mut self, document: Option<&Value>) -> Result<Rewrite, Failure> {
        let mut edits = Vec::new();
        for said in self.each("rewrite") {
            let Change { pointer, op, set, mask, remove, replace } = read("rewrite", said)?;
            if let Some(document) = replace {
                return Ok(Rewrite::Replace(document.to_string()));
            }
            let pointer = pointer.ok_or_else(|| Failure::of("rewrite", "an edit has no pointer"))?;
            edits.extend(edit("rewrite", pointer, Ops { op, set, mask, remove }, document)?);
        }
        Ok(if edits.is_empty() { Rewrite::Keep } else { Rewrite::Patch(edits) })
    }

    pub(crate) fn redaction(
        &mut self,
        parts: &[Part],
        structured: Option<&Value>,
    ) -> Result<Option<Redaction>, Failure> {
        let said = self.each("redact");
        if said.is_empty() {
            return Ok(None);
        }
        let mut redaction = Redaction::new();
        for said in said {
            let blackout = match said {
                Value::String(pattern) => Blackout { pattern: Some(pattern), ..Blackout::default() },
                said => read("redact", said)?,
            };
            blackout.add_to(&mut redaction, parts, structured)?;
        }
        Ok(Some(redaction))
    }

    pub(crate) fn consent(
        &mut self,
        terms: impl FnOnce(&Narrowing) -> grant::Terms,
    ) -> Result<Option<grant::Consent>, Failure> {
        let Some(said) = self.each("consent").into_iter().next() else { return Ok(None) };
        let Consent { headline, warnings, terms: wanted } = match said {
            Value::String(headline) => Consent { headline, warnings: Vec::new(), terms: GrantTerms::default() },
            said => read("consent", said)?,
        };
        let mut consent = grant::Consent::new(wanted.grant(terms), bounded(headline, limits::TITLE));
        for warning in warnings.into_iter().chain(self.warnings()) {
            consent = consent.warning(bounded(warning, limits::MESSAGE));
        }
        Ok(Some(consent))
    }

    /// What a rule says, one by one: the items of a set or an array, or the one thing it says; nothing if that is `false`.
    fn each(&mut self, rule: &str) -> Vec<Value> {
        match self.0.remove(rule) {
            None | Some(Value::Null | Value::Bool(false)) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(one) => vec![one],
        }
    }
}

impl GrantTerms {
    pub(crate) fn read(terms: Value) -> Result<Self, Failure> {
        read("allow", terms)
    }

    pub(crate) fn grant(self, narrowed: impl FnOnce(&Narrowing) -> grant::Terms) -> grant::Terms {
        let Self { scopes, tools, access_ttl_s, refresh_ttl_s, require_sender_constraint, claims, notes } = self;
        let narrowing = Narrowing { scopes, tools, access_ttl_s, refresh_ttl_s, require_sender_constraint };
        let mut terms = narrowed(&narrowing);
        if let Some(claims) = claims {
            terms.claims = Some(Value::Object(claims).to_string());
        }
        terms.notes.extend(self::notes(notes));
        terms
    }
}

impl ReleaseTerms {
    pub(crate) fn read(terms: Value) -> Result<Self, Failure> {
        read("allow", terms)
    }

    pub(crate) fn narrowing(&self) -> Narrowing {
        Narrowing { scopes: self.scopes.clone(), ..Narrowing::default() }
    }
}

impl Blackout {
    fn add_to(self, redaction: &mut Redaction, parts: &[Part], structured: Option<&Value>) -> Result<(), Failure> {
        let Self { pattern, part, start, end, replacement, drop_part, pointer, op, set, mask, remove } = self;
        let wrong = |why| Err(Failure::of("redact", why));
        let find = |index: u32| parts.iter().find(|part| part.index == index);
        let replacement = replacement.unwrap_or_else(|| REPLACEMENT.to_owned());
        match (pattern, part, drop_part, pointer) {
            (Some(pattern), None, None, None) => {
                let pattern = Pattern::new(&pattern).map_err(|_| Failure::of("redact", "a pattern is wrong"))?;
                redact(redaction, (parts, structured), &[pattern], &replacement)
                    .map_err(|why| Failure::of("redact", &why))
            }
            (None, Some(index), None, None) => match (find(index), start, end) {
                (Some(part), Some(start), Some(end)) => {
                    redaction.replace(part, start as usize..end as usize, replacement);
                    Ok(())
                }
                (Some(_), ..) => wrong("a span has `start` and `end`"),
                (None, ..) => wrong("there is no such part"),
            },
            (None, None, Some(index), None) => match find(index) {
                Some(part) => {
                    redaction.drop_part(part);
                    Ok(())
                }
                None => wrong("there is no such part"),
            },
            (None, None, None, Some(pointer)) => {
                let edit = edit("redact", pointer, Ops { op, set, mask, remove }, structured)?;
                edit.into_iter().for_each(|edit| redaction.edit(edit));
                Ok(())
            }
            _ => wrong("it says exactly one of `pattern`, `part`, `drop_part` and `pointer`"),
        }
    }
}

/// The ways to say what happens at a pointer.
struct Ops {
    op: Option<EditOp>,
    set: Option<Value>,
    mask: Option<String>,
    remove: bool,
}

fn edit(rule: &str, pointer: String, ops: Ops, document: Option<&Value>) -> Result<Option<Edit>, Failure> {
    let op = match ops {
        Ops { op: Some(op), set: None, mask: None, remove: false } => op,
        Ops { op: None, set: Some(value), mask: None, remove: false } => EditOp::Set(value.to_string()),
        Ops { op: None, set: None, mask: Some(text), remove: false } => EditOp::Mask(text),
        Ops { op: None, set: None, mask: None, remove: true } => EditOp::Remove,
        _ => return Err(Failure::of(rule, "an edit is exactly one of `set`, `mask`, `remove` and `op`")),
    };
    let there = matches!(op, EditOp::Set(_)) || present(document, &pointer);
    Ok(there.then_some(Edit { pointer, op }))
}

fn reason(
    rule: &str,
    code: Option<String>,
    message: Option<String>,
    default_code: &str,
    default_message: &str,
) -> Result<Reason, Failure> {
    let code = code.unwrap_or_else(|| default_code.to_owned());
    if !is_code(&code) {
        return Err(Failure::of(rule, "a code has 1 to 64 characters of a-z, 0-9, '.', '_' and '-'"));
    }
    let message = message.filter(|message| !message.is_empty()).unwrap_or_else(|| default_message.to_owned());
    Ok(Reason::new(code, bounded(message, limits::MESSAGE)).rule(rule))
}

fn notes(notes: BTreeMap<String, String>) -> Vec<Note> {
    let note = |(key, value)| Note::new(bounded(key, limits::NOTE_KEY), bounded(value, limits::NOTE_VALUE));
    notes.into_iter().take(limits::NOTES).map(note).collect()
}

fn read<T: DeserializeOwned>(rule: &str, said: Value) -> Result<T, Failure> {
    serde_json::from_value(said).map_err(|error| {
        let why = error.to_string();
        // These two name members; anything else may name values.
        let tells_no_value = why.starts_with("unknown field") || why.starts_with("missing field");
        Failure::of(rule, if tells_no_value { &why } else { "something in it has the wrong type" })
    })
}

impl Failure {
    fn of(rule: &str, why: &str) -> Self {
        Self(format!("the answer of `{rule}` cannot be read: {why}"))
    }
}
