//! What a rule does, ready to be done: everything is parsed, and texts and values are evaluated in the scope of a decision.

use std::time::Duration;

use cel::Context as Scope;
use policy_scripted::{Fact, Narrowing, Pattern, Subject, limits, present, redact};
use portcullis_guest_sdk::serde_json::{self, Value};
use portcullis_guest_sdk::{
    Approval, ApprovalMemory, Approver, Denial, Edit, Note, Part, Permit, Reason, Redaction, StepUp, Throttle, grant,
};

use crate::expression::{Expression, Failure, Template};
use crate::facts::Facts;
use crate::value::of_fact;

/// What a rule does.
#[derive(Debug)]
pub(crate) enum Action {
    Abstain,
    /// Also `show`, `pass` and `release`.
    Allow(Box<Allowance>),
    /// Also `hide` and `block`.
    Deny(Box<Refusal>),
    StepUp(Demand),
    Approve(Box<Question>),
    Throttle(Brake),
    Redact(Box<Blackout>),
    Consent(Box<Consent>),
}

/// Why.
#[derive(Debug)]
pub(crate) struct Why {
    pub(crate) code: String,
    pub(crate) message: Template,
    pub(crate) detail: Option<Expression>,
    /// The rule's name.
    pub(crate) rule: String,
}

impl Why {
    fn reason(&self, scope: &Scope<'_, '_>) -> Result<Reason, Failure> {
        let reason = Reason::new(&*self.code, self.message.text(scope, limits::MESSAGE)?).rule(&*self.rule);
        Ok(match &self.detail {
            Some(detail) => reason.detail(&detail.json(scope)?),
            None => reason,
        })
    }
}

/// The terms of an allowance; each hook takes those that it has.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    pub(crate) edits: Vec<Change>,
    pub(crate) replace: Option<Expression>,
    pub(crate) inspect_result: bool,
    pub(crate) timeout_ms: Option<u32>,
    pub(crate) notes: Vec<(String, Template)>,
    pub(crate) title: Option<Template>,
    pub(crate) description: Option<Template>,
    pub(crate) narrowing: Narrowing,
    pub(crate) claims: Option<Expression>,
    pub(crate) max_age_s: Option<u32>,
}

impl Allowance {
    pub(crate) fn permit(&self, scope: &Scope<'_, '_>, facts: &Facts<'_>) -> Result<Permit, Failure> {
        let mut permit =
            edits(&self.edits, facts.document("args"), scope)?.into_iter().fold(Permit::new(), Permit::edit);
        if let Some(replace) = &self.replace {
            permit = permit.replace(&replace.json(scope)?);
        }
        permit.inspect_result = self.inspect_result;
        permit.timeout_ms = self.timeout_ms;
        permit.notes = notes(&self.notes, scope)?;
        Ok(permit)
    }

    pub(crate) fn grant(&self, scope: &Scope<'_, '_>, mut terms: grant::Terms) -> Result<grant::Terms, Failure> {
        if let Some(claims) = &self.claims {
            match claims.json(scope)? {
                claims @ Value::Object(_) => terms.claims = Some(claims.to_string()),
                _ => return Err(Failure("claims are a map".to_owned())),
            }
        }
        terms.notes.extend(notes(&self.notes, scope)?);
        Ok(terms)
    }

    /// The edits of a client's metadata.
    pub(crate) fn metadata(&self, scope: &Scope<'_, '_>, metadata: &str) -> Result<Vec<Edit>, Failure> {
        if self.edits.is_empty() {
            return Ok(Vec::new());
        }
        let metadata = serde_json::from_str(metadata).ok();
        edits(&self.edits, metadata.as_ref(), scope)
    }

    pub(crate) fn texts(&self, scope: &Scope<'_, '_>) -> Result<(Option<String>, Option<String>), Failure> {
        let text =
            |template: &Option<Template>, bytes| template.as_ref().map(|text| text.text(scope, bytes)).transpose();
        Ok((text(&self.title, limits::TITLE)?, text(&self.description, limits::DESCRIPTION)?))
    }
}

/// The terms of a refusal.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) why: Why,
    pub(crate) rpc_code: Option<i32>,
    pub(crate) rpc_data: Option<Expression>,
}

impl Refusal {
    pub(crate) fn denial(&self, scope: &Scope<'_, '_>) -> Result<Denial, Failure> {
        let mut denial =
            Denial { reason: self.why.reason(scope)?, rpc_code: None, rpc_data: None, as_tool_error: true };
        if let Some(code) = self.rpc_code {
            denial = denial.rpc_code(code);
        }
        if let Some(data) = &self.rpc_data {
            denial = denial.rpc_data(&data.json(scope)?);
        }
        Ok(denial)
    }
}

/// More authority is wanted.
#[derive(Debug)]
pub(crate) struct Demand {
    pub(crate) why: Why,
    pub(crate) scopes: Vec<String>,
    pub(crate) acr_values: Vec<String>,
    pub(crate) max_age_s: Option<u32>,
}

impl Demand {
    pub(crate) fn step_up(&self, scope: &Scope<'_, '_>) -> Result<StepUp, Failure> {
        let (scopes, acr_values, max_age_s) = (self.scopes.clone(), self.acr_values.clone(), self.max_age_s);
        Ok(StepUp { scopes, acr_values, max_age_s, reason: self.why.reason(scope)? })
    }
}

/// Somebody has to agree.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) why: Why,
    pub(crate) title: Template,
    pub(crate) summary: Template,
    pub(crate) by: Approver,
    pub(crate) approvers: Vec<String>,
    pub(crate) ttl_s: u32,
    pub(crate) remember: ApprovalMemory,
}

impl Question {
    pub(crate) fn approval(&self, scope: &Scope<'_, '_>) -> Result<Approval, Failure> {
        Ok(Approval {
            title: self.title.text(scope, limits::TITLE)?,
            summary: self.summary.text(scope, limits::SUMMARY)?,
            by: self.by,
            approvers: self.approvers.clone(),
            ttl_s: self.ttl_s,
            remember: self.remember,
            reason: self.why.reason(scope)?,
        })
    }
}

/// Not now.
#[derive(Debug)]
pub(crate) struct Brake {
    pub(crate) why: Why,
    pub(crate) bucket: Template,
    pub(crate) retry_after_ms: u64,
}

impl Brake {
    pub(crate) fn throttle(&self, scope: &Scope<'_, '_>) -> Result<Throttle, Failure> {
        let bucket = self.bucket.text(scope, limits::NAME)?;
        Ok(Throttle::new(self.why.reason(scope)?, bucket, Duration::from_millis(self.retry_after_ms)))
    }
}

/// What of a result is taken out.
#[derive(Debug)]
pub(crate) struct Blackout {
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) replacement: String,
    /// Looks at the variable `part`.
    pub(crate) drop_parts: Option<Expression>,
    pub(crate) edits: Vec<Change>,
    pub(crate) notes: Vec<(String, Template)>,
}

impl Blackout {
    pub(crate) fn redact<'v>(
        &self,
        redaction: &mut Redaction,
        scope: &Scope<'_, 'v>,
        facts: &'v Facts<'_>,
    ) -> Result<(), Failure> {
        let parts = parts(facts);
        let structured = facts.document("structured");
        redact(redaction, (parts, structured), &self.patterns, &self.replacement).map_err(Failure)?;
        if let Some(drop) = &self.drop_parts {
            for part in parts {
                let mut inner = scope.new_inner_scope();
                if let Some(value) = of_fact(Fact::Record(part)) {
                    inner.add_variable_as_val("part", value);
                }
                if drop.is_true(&inner)? {
                    redaction.drop_part(part);
                }
            }
        }
        edits(&self.edits, structured, scope)?.into_iter().for_each(|edit| redaction.edit(edit));
        redaction.notes.extend(notes(&self.notes, scope)?);
        Ok(())
    }
}

fn parts<'a>(facts: &Facts<'a>) -> &'a [Part] {
    match facts.situation().subject {
        Subject::ToolResult(result) => &result.parts,
        Subject::ItemResult(output) => &output.parts,
        _ => &[],
    }
}

/// The person is asked.
#[derive(Debug)]
pub(crate) struct Consent {
    pub(crate) terms: Allowance,
    pub(crate) headline: Template,
    pub(crate) warnings: Vec<Template>,
}

impl Consent {
    pub(crate) fn consent(&self, scope: &Scope<'_, '_>, terms: grant::Terms) -> Result<grant::Consent, Failure> {
        let mut consent =
            grant::Consent::new(self.terms.grant(scope, terms)?, self.headline.text(scope, limits::TITLE)?);
        for warning in &self.warnings {
            consent = consent.warning(warning.text(scope, limits::MESSAGE)?);
        }
        Ok(consent)
    }
}

/// A change of a document.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) pointer: String,
    pub(crate) by: By,
}

#[derive(Debug)]
pub(crate) enum By {
    Set(Expression),
    Mask(Template),
    Removal,
}

/// The changes that there is something to do for: what is not there needs no removing and no masking.
fn edits(changes: &[Change], document: Option<&Value>, scope: &Scope<'_, '_>) -> Result<Vec<Edit>, Failure> {
    let mut edits = Vec::with_capacity(changes.len());
    for Change { pointer, by } in changes {
        match by {
            By::Set(value) => edits.push(Edit::set(pointer, &value.json(scope)?)),
            By::Mask(text) if present(document, pointer) => {
                edits.push(Edit::mask(pointer, text.text(scope, limits::MESSAGE)?));
            }
            By::Removal if present(document, pointer) => edits.push(Edit::remove(pointer)),
            By::Mask(_) | By::Removal => {}
        }
    }
    Ok(edits)
}

fn notes(notes: &[(String, Template)], scope: &Scope<'_, '_>) -> Result<Vec<Note>, Failure> {
    notes.iter().map(|(key, value)| Ok(Note::new(key, value.text(scope, limits::NOTE_VALUE)?))).collect()
}
