//! From what the operator wrote to rules that can be followed, with a problem for everything that cannot.
//!
//! A rule takes out of what is written the members that go with what it does; whatever is left over does not belong there.

use std::sync::Arc;

use cel::Env;
use policy_scripted::{Narrowing, Pattern, Shape, is_code, limits};
use portcullis_guest_sdk::{ApprovalMemory, Approver, Glob, Hook, Problem};

use crate::action::{Action, Allowance, Blackout, Brake, By, Change, Consent, Demand, Question, Refusal, Why};
use crate::config::{self, Remember, Then, Written};
use crate::expression::{Expression, MAX_LEN, Mistake, Reader, Template};

/// Most rules of one configuration.
const MAX_RULES: usize = 500;
/// Most entries of a list in a rule.
const MAX_ENTRIES: usize = 64;
/// Longest replacement of what is redacted, in bytes.
const MAX_REPLACEMENT: usize = 256;
/// How long a request for approval stays open unless the rule says something else, in seconds.
const APPROVAL_TTL_S: u32 = 3600;
const REPLACEMENT: &str = "[redacted]";

/// The members of a part of a result.
const PART: &Shape = &Shape::Record(&[
    ("index", &Shape::Scalar),
    ("kind", &Shape::Scalar),
    ("mime", &Shape::Scalar),
    ("bytes", &Shape::Scalar),
    ("text", &Shape::Scalar),
]);

/// A rule that can be followed.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) when: Option<Expression>,
    pub(crate) action: Action,
}

/// The rules, or everything that is wrong with them.
pub(crate) fn rules(written: Vec<Written>, env: &Arc<Env>) -> Result<Vec<Rule>, Vec<Problem>> {
    if written.len() > MAX_RULES {
        return Err(vec![Problem::at("/rules", format!("there are more than {MAX_RULES} rules"))]);
    }
    let mut problems = Vec::new();
    let mut rules = Vec::with_capacity(written.len());
    for (at, written) in written.into_iter().enumerate() {
        let reader = Reader { env: env.clone(), hooks: written.hook.0.clone(), local: None };
        rules.extend(Builder { path: format!("/rules/{at}"), at, reader, problems: &mut problems }.rule(written));
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

/// Whether an action goes with a hook.
fn goes_with(then: Then, hook: Hook) -> bool {
    use Hook::{
        Client, Credential, Grant, ItemAccess, ItemResult, ListItems, ListTools, Refresh, ServerRequest, ToolCall,
        ToolResult,
    };
    match then {
        Then::Abstain | Then::Allow | Then::Deny => true,
        Then::Show | Then::Hide => matches!(hook, ListTools | ListItems),
        Then::Pass | Then::Block | Then::Redact => matches!(hook, ToolResult | ItemResult),
        Then::Release => matches!(hook, Credential),
        Then::Throttle => matches!(hook, ToolCall | ItemAccess | ServerRequest),
        Then::StepUp => matches!(hook, ToolCall | ItemAccess | ServerRequest | Grant | Refresh | Credential),
        Then::Approve => matches!(hook, ToolCall | ItemAccess | ServerRequest | Grant | Client | Credential),
        Then::Consent => matches!(hook, Grant),
    }
}

/// The hooks whose allowance has a member.
fn allowance_of(member: &str) -> &'static [Hook] {
    match member {
        "notes" => &[Hook::ToolCall, Hook::ItemAccess, Hook::ServerRequest, Hook::Grant, Hook::Refresh],
        "edits" => &[Hook::ToolCall, Hook::Client],
        "replace" => &[Hook::ToolCall],
        "inspect_result" => &[Hook::ToolCall, Hook::ItemAccess],
        "timeout_ms" => &[Hook::ToolCall, Hook::ItemAccess, Hook::ServerRequest],
        "title" | "description" => &[Hook::ListTools],
        "scopes" => &[Hook::Grant, Hook::Refresh, Hook::Credential],
        "tools" | "access_ttl_s" | "refresh_ttl_s" | "require_sender_constraint" | "claims" => {
            &[Hook::Grant, Hook::Refresh]
        }
        "max_age_s" => &[Hook::Credential],
        _ => &[],
    }
}

struct Builder<'a> {
    /// The pointer to the rule.
    path: String,
    at: usize,
    reader: Reader,
    problems: &'a mut Vec<Problem>,
}

impl Builder<'_> {
    fn rule(&mut self, mut written: Written) -> Option<Rule> {
        let hooks = std::mem::take(&mut written.hook.0);
        if hooks.is_empty() {
            self.problem("hook", "a rule has at least one hook");
            return None;
        }
        let misfit = hooks.iter().find(|hook| !goes_with(written.then, **hook));
        if let Some(hook) = misfit {
            self.problem("then", format!("`{}` does not go with the hook {}", written.then.as_str(), hook.as_str()));
            return None;
        }
        let name = written.name.take().unwrap_or_else(|| format!("rules/{}", self.at));
        if name.is_empty() || name.len() > limits::NAME {
            self.problem("name", format!("a name has 1 to {} bytes", limits::NAME));
        }
        let when = written.when.take().map(|source| self.expression("if", &source));
        let action = self.action(&mut written, &hooks, &name);
        for member in written.left_over() {
            let why = format!("`{}` in {} has no `{member}`", written.then.as_str(), listed(&hooks));
            self.problem(member, why);
        }
        let when = when.map_or(Some(None), |when| when.map(Some))?;
        Some(Rule { name, hooks, when, action: action? })
    }

    fn action(&mut self, written: &mut Written, hooks: &[Hook], name: &str) -> Option<Action> {
        match written.then {
            Then::Abstain => Some(Action::Abstain),
            Then::Allow | Then::Show | Then::Pass | Then::Release => {
                self.allowance(written, hooks).map(|terms| Action::Allow(Box::new(terms)))
            }
            Then::Deny | Then::Hide | Then::Block => self.refusal(written, name),
            Then::StepUp => self.demand(written, name),
            Then::Approve => self.question(written, name),
            Then::Throttle => self.brake(written, name),
            Then::Redact => self.blackout(written),
            Then::Consent => self.consent(written, hooks),
        }
    }

    fn allowance(&mut self, written: &mut Written, hooks: &[Hook]) -> Option<Allowance> {
        let has = |member: &str| hooks.iter().all(|hook| allowance_of(member).contains(hook));
        let mut terms = Allowance::default();
        let before = self.problems.len();
        if has("edits") {
            terms.edits = self.changes(written.edits.take());
        }
        if has("replace") {
            terms.replace = written.replace.take().and_then(|source| self.expression("replace", &source));
            if terms.replace.is_some() && !terms.edits.is_empty() {
                self.problem("replace", "either `replace` or `edits`");
            }
        }
        if has("inspect_result") {
            terms.inspect_result = written.inspect_result.take().unwrap_or_default();
        }
        if has("timeout_ms") {
            terms.timeout_ms = written.timeout_ms.take();
        }
        if has("notes") {
            terms.notes = self.notes(written);
        }
        if has("title") {
            terms.title = written.title.take().and_then(|text| self.template("title", &text));
            terms.description = written.description.take().and_then(|text| self.template("description", &text));
        }
        if has("scopes") {
            terms.narrowing.scopes = written.scopes.take().map(|scopes| self.globs("scopes", scopes));
        }
        if has("tools") {
            let narrowing = Narrowing {
                scopes: terms.narrowing.scopes.take(),
                tools: written.tools.take().map(|tools| self.globs("tools", tools)),
                access_ttl_s: written.access_ttl_s.take(),
                refresh_ttl_s: written.refresh_ttl_s.take(),
                require_sender_constraint: written.require_sender_constraint.take().unwrap_or_default(),
            };
            terms.narrowing = narrowing;
            terms.claims = written.claims.take().and_then(|source| self.expression("claims", &source));
        }
        if has("max_age_s") {
            terms.max_age_s = written.max_age_s.take();
        }
        (self.problems.len() == before).then_some(terms)
    }

    fn refusal(&mut self, written: &mut Written, name: &str) -> Option<Action> {
        let why = self.why(written, name, || format!("The gateway's rule `{name}` does not allow this."));
        let rpc_data = written.rpc_data.take().map(|source| self.expression("rpc_data", &source));
        let rpc_data = rpc_data.map_or(Some(None), |data| data.map(Some))?;
        Some(Action::Deny(Box::new(Refusal { why: why?, rpc_code: written.rpc_code.take(), rpc_data })))
    }

    fn demand(&mut self, written: &mut Written, name: &str) -> Option<Action> {
        let why = self.why(written, name, || "More authority is needed for this.".to_owned());
        let scopes = self.entries("scopes", written.scopes.take());
        let acr_values = self.entries("acr_values", written.acr_values.take());
        let max_age_s = written.max_age_s.take();
        if scopes.is_empty() && acr_values.is_empty() && max_age_s.is_none() {
            self.problem("then", "a step-up says what is needed: `scopes`, `acr_values` or `max_age_s`");
        }
        Some(Action::StepUp(Demand { why: why?, scopes, acr_values, max_age_s }))
    }

    fn question(&mut self, written: &mut Written, name: &str) -> Option<Action> {
        let why = self.why(written, name, || "Somebody has to agree to this first.".to_owned());
        let title = written.title.take().unwrap_or_else(|| name.to_owned());
        let title = self.template("title", &title);
        let summary =
            written.summary.take().unwrap_or_else(|| format!("The gateway's rule `{name}` asks for approval."));
        let summary = self.template("summary", &summary);
        let approvers = self.entries("approvers", written.approvers.take());
        let by = written.by.take().unwrap_or(if approvers.is_empty() { Approver::Operator } else { Approver::Listed });
        if (by == Approver::Listed) == approvers.is_empty() {
            self.problem("approvers", "`approvers` go with `by: listed`, which needs at least one");
        }
        let remember = match written.remember.take() {
            None | Some(Remember::Once) => ApprovalMemory::Once,
            Some(Remember::Seconds(seconds)) => ApprovalMemory::Seconds(seconds),
        };
        let ttl_s = written.ttl_s.take().unwrap_or(APPROVAL_TTL_S);
        if ttl_s == 0 {
            self.problem("ttl_s", "nobody can agree within 0 seconds");
        }
        let (why, title, summary) = (why?, title?, summary?);
        Some(Action::Approve(Box::new(Question { why, title, summary, by, approvers, ttl_s, remember })))
    }

    fn brake(&mut self, written: &mut Written, name: &str) -> Option<Action> {
        let why = self.why(written, name, || "This is too much at once; try again later.".to_owned());
        let bucket = written.bucket.take().unwrap_or_else(|| name.to_owned());
        let bucket = self.template("bucket", &bucket);
        let Some(retry_after_ms) = written.retry_after_ms.take() else {
            self.problem("retry_after_ms", "a throttle says when to try again");
            return None;
        };
        Some(Action::Throttle(Brake { why: why?, bucket: bucket?, retry_after_ms }))
    }

    fn blackout(&mut self, written: &mut Written) -> Option<Action> {
        let before = self.problems.len();
        let mut patterns = Vec::new();
        for (index, pattern) in self.entries("patterns", written.patterns.take()).iter().enumerate() {
            match Pattern::new(pattern) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.problem(&format!("patterns/{index}"), error),
            }
        }
        let replacement = written.replacement.take().unwrap_or_else(|| REPLACEMENT.to_owned());
        if replacement.len() > MAX_REPLACEMENT {
            self.problem("replacement", format!("a replacement has at most {MAX_REPLACEMENT} bytes"));
        }
        self.reader.local = Some(("part", PART));
        let drop_parts = written.drop_parts.take().and_then(|source| self.expression("drop_parts", &source));
        self.reader.local = None;
        // Only the results of tools have structured content that a rule can see.
        let edits =
            if self.reader.hooks.contains(&Hook::ItemResult) { Vec::new() } else { self.changes(written.edits.take()) };
        let notes = self.notes(written);
        if self.problems.len() == before && patterns.is_empty() && drop_parts.is_none() && edits.is_empty() {
            self.problem("then", "a redaction says what is taken out: `patterns`, `drop_parts` or `edits`");
        }
        let blackout = Blackout { patterns, replacement, drop_parts, edits, notes };
        (self.problems.len() == before).then(|| Action::Redact(Box::new(blackout)))
    }

    fn consent(&mut self, written: &mut Written, hooks: &[Hook]) -> Option<Action> {
        let headline = written.headline.take().map(|text| self.template("headline", &text));
        let Some(headline) = headline else {
            self.problem("headline", "a consent has a headline: what the person is asked");
            return None;
        };
        let texts = self.entries("warnings", written.warnings.take());
        let warnings: Vec<Template> = (0..)
            .zip(&texts)
            .filter_map(|(index, text): (usize, _)| self.template(&format!("warnings/{index}"), text))
            .collect();
        let terms = self.allowance(written, hooks);
        Some(Action::Consent(Box::new(Consent { terms: terms?, headline: headline?, warnings })))
    }

    fn why(&mut self, written: &mut Written, name: &str, otherwise: impl FnOnce() -> String) -> Option<Why> {
        let code = written.code.take().unwrap_or_else(|| code_of(name, self.at));
        if !is_code(&code) {
            let most = limits::CODE;
            self.problem("code", format!("a code has 1 to {most} characters of a-z, 0-9, '.', '_' and '-'"));
        }
        let message = written.message.take().unwrap_or_else(otherwise);
        if message.is_empty() {
            self.problem("message", "a message that says nothing helps nobody");
        }
        let message = self.template("message", &message);
        let detail = written.detail.take().map(|source| self.expression("detail", &source));
        let detail = detail.map_or(Some(None), |detail| detail.map(Some))?;
        Some(Why { code, message: message?, detail, rule: name.to_owned() })
    }

    fn changes(&mut self, written: Option<Vec<config::Change>>) -> Vec<Change> {
        let written = written.unwrap_or_default();
        if written.len() > MAX_ENTRIES {
            self.problem("edits", format!("there are more than {MAX_ENTRIES}"));
            return Vec::new();
        }
        let mut changes = Vec::with_capacity(written.len());
        for (index, change) in written.into_iter().enumerate() {
            let path = format!("edits/{index}");
            if !is_pointer(&change.pointer) {
                self.problem(&format!("{path}/pointer"), "a pointer is made of `/` and names, such as `/items/0/id`");
            }
            let by = match (change.set, change.mask, change.remove) {
                (Some(source), None, None) => self.expression(&format!("{path}/set"), &source).map(By::Set),
                (None, Some(text), None) => self.template(&format!("{path}/mask"), &text).map(By::Mask),
                (None, None, Some(true)) => Some(By::Removal),
                _ => {
                    self.problem(&path, "an edit is exactly one of `set`, `mask` and `remove: true`");
                    None
                }
            };
            changes.extend(by.map(|by| Change { pointer: change.pointer, by }));
        }
        changes
    }

    fn notes(&mut self, written: &mut Written) -> Vec<(String, Template)> {
        let written = written.notes.take().unwrap_or_default();
        if written.len() > limits::NOTES {
            self.problem("notes", format!("there are more than {}", limits::NOTES));
        }
        let mut notes = Vec::with_capacity(written.len());
        for (key, text) in written {
            if key.is_empty() || key.len() > limits::NOTE_KEY {
                self.problem("notes", format!("a note's key has 1 to {} bytes", limits::NOTE_KEY));
            }
            let mut member = "notes".to_owned();
            portcullis_guest_sdk::json::push_token(&mut member, &key);
            notes.extend(self.template(&member, &text).map(|text| (key, text)));
        }
        notes
    }

    fn globs(&mut self, member: &str, patterns: Vec<String>) -> Vec<Glob> {
        let patterns = self.entries(member, Some(patterns));
        let globs: Vec<Glob> = patterns.iter().filter_map(|pattern| Glob::parse(pattern)).collect();
        if globs.len() < patterns.len() {
            self.problem(member, format!("a pattern has 1 to {} bytes", Glob::MAX_LEN));
        }
        globs
    }

    /// A list of words, none of them empty.
    fn entries(&mut self, member: &str, entries: Option<Vec<String>>) -> Vec<String> {
        let entries = entries.unwrap_or_default();
        if entries.len() > MAX_ENTRIES {
            self.problem(member, format!("there are more than {MAX_ENTRIES}"));
        }
        if entries.iter().any(|entry| entry.is_empty() || entry.len() > MAX_LEN) {
            self.problem(member, format!("every entry has 1 to {MAX_LEN} bytes"));
        }
        entries
    }

    fn expression(&mut self, member: &str, source: &str) -> Option<Expression> {
        let parsed = Expression::parse(source, &self.reader);
        self.kept(member, parsed)
    }

    fn template(&mut self, member: &str, source: &str) -> Option<Template> {
        let parsed = Template::parse(source, &self.reader);
        self.kept(member, parsed)
    }

    fn kept<T>(&mut self, member: &str, parsed: Result<T, Mistake>) -> Option<T> {
        parsed.map_err(|mistake| self.problem(member, mistake.to_string())).ok()
    }

    fn problem(&mut self, member: &str, message: impl Into<String>) {
        self.problems.push(Problem::at(format!("{}/{member}", self.path), message));
    }
}

/// `cel.` and the rule's name, where that makes a code.
fn code_of(name: &str, at: usize) -> String {
    let code = format!("cel.{name}");
    if is_code(&code) { code } else { format!("cel.rule-{at}") }
}

fn is_pointer(pointer: &str) -> bool {
    let escaped = |token: &str| token.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    pointer.starts_with('/') && pointer.len() <= MAX_LEN && pointer.split('/').all(escaped)
}

fn listed(hooks: &[Hook]) -> String {
    hooks.iter().map(|hook| hook.as_str()).collect::<Vec<_>>().join(", ")
}
