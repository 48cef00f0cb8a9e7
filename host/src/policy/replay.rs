//! Recorded decisions, put to policies once more: what would they have said?
//!
//! What the host answered a policy then, it answers it now, so that the time of day, chance and counters make no difference;
//! a policy that asks the host for something else cannot be answered and is told as such. There is no deadline but a
//! generous one: this is about what is decided and not about how soon. Nothing here changes anything.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bindings::PolicySet;
use super::cases::{self, Difference};
use super::decision::{Failure, Hook};
use super::imports::{ImportCall, Imports, Transcript};
use super::judge::{Judged, judge};
use super::manifest::{Disclosure, Manifest, Payload};
use super::prepared::Prepared;
use super::rehearsal::Rehearsal;
use super::trial;
use crate::config::{Binding, Match, Mode, Sets};
use crate::glob::Glob;
use crate::ids::BindingName;

/// Longest run of one question, where nobody waits for the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The same before a publication, and the longest replay of all of them.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(2);
const PUBLISH_LIMIT: Duration = Duration::from_secs(10);
/// Most differences that are told one by one.
const MAX_TOLD: usize = 50;

/// One question to one policy, as it was recorded, and what came of it.
#[derive(Clone, Debug)]
pub struct PastQuestion {
    /// The decision that it was part of, where that is known.
    pub decision: Option<String>,
    pub binding: BindingName,
    pub hook: Hook,
    /// The hook's parameters.
    pub input: Value,
    /// As the policy gave it; `None` where it did not come to an answer.
    pub answer: Option<Value>,
    /// Whether the policy was asked then. One that was not is taken for one that abstained.
    pub was_asked: bool,
    /// What the host answered it meanwhile.
    pub imports: Vec<ImportCall>,
}

impl PastQuestion {
    /// What was answered and what is answered now; where both come to the same, what in them differs.
    pub fn in_words(&self, answer: &Result<Value, Failure>, differences: &[Difference]) -> (String, String) {
        let (before, after) = self.verdicts(answer);
        match differences.first() {
            Some(Difference { pointer, expected, found }) if before == after => {
                (format!("{before} with {expected} at {pointer}"), format!("{after} with {found}"))
            }
            _ if before == after => (before, format!("{after} with more to it")),
            _ => (before, after),
        }
    }

    /// The same for those who do not read recordings: where they differ and not in what, which may be a call's arguments.
    fn without_values(&self, answer: &Result<Value, Failure>, differences: &[Difference]) -> (String, String) {
        let (before, after) = self.verdicts(answer);
        match differences.first() {
            Some(Difference { pointer, .. }) if before == after => {
                (before, format!("{after} with something else at {pointer}"))
            }
            _ if before == after => (before, format!("{after} with more to it")),
            _ => (before, after),
        }
    }

    /// What was answered comes to, and what is answered now.
    fn verdicts(&self, answer: &Result<Value, Failure>) -> (String, String) {
        let told = |answer: &Value| {
            judge(self.hook, &self.input, answer).as_ref().map_or_else(Failure::to_string, Judged::to_string)
        };
        let before = match &self.answer {
            Some(_) if !self.was_asked => "not asked".to_owned(),
            Some(answer) => told(answer),
            None => "a failure".to_owned(),
        };
        let after = match answer {
            Ok(answer) => told(answer),
            Err(failure) => format!("a failure: {failure}"),
        };
        (before, after)
    }

    /// The tool that it was about, as `UPSTREAM/TOOL`, where it was about one.
    fn tool(&self) -> Option<String> {
        let tool = &self.input["request"]["tool"];
        Some(format!("{}/{}", tool["upstream"].as_str()?, tool["name"].as_str()?))
    }

    /// Who called, as far as policies were told.
    fn principal(&self) -> Option<String> {
        let caller = &self.input["context"]["caller"];
        let subject = caller["subject"].as_str()?;
        let principal = match caller["kind"].as_str()? {
            // These have no name besides what they are.
            "service" if subject == "gateway" => subject.to_owned(),
            "anonymous" if subject == "anonymous" => subject.to_owned(),
            "service" => format!("key:{subject}"),
            "user" => format!("user:{subject}"),
            "anonymous" => format!("guest:{subject}"),
            _ => return None,
        };
        Some(principal)
    }
}

/// What a policy says of a question that was recorded.
#[derive(Clone, Debug)]
pub enum Replayed {
    /// The same as then.
    Same { log: Vec<String> },
    /// Something else.
    Different { answer: Result<Value, Failure>, differences: Vec<Difference>, log: Vec<String> },
    /// It wanted to know something of the host that was not asked for then.
    Diverged { what: String },
}

/// Puts one question to a policy again.
pub(super) fn ask_again(
    prepared: &Prepared,
    memory_bytes: usize,
    question: &PastQuestion,
    patience: Duration,
) -> Replayed {
    let transcript = Transcript::of(question.imports.clone());
    let rehearsal = Rehearsal::new(question.binding.as_str(), &Arc::<Sets>::default(), patience, memory_bytes);
    let mut run = rehearsal.run();
    run.now = trial::now_of(&question.input);
    run.imports = Imports::Replayed(&transcript);
    let answer = prepared.ask_json(question.hook, &question.input.to_string(), &run);
    let log = transcript.said();
    match (answer, &question.answer) {
        (Err(Failure::Diverged { what }), _) => Replayed::Diverged { what },
        (Ok(answer), Some(before)) if answer == *before => Replayed::Same { log },
        (Err(_), None) => Replayed::Same { log },
        (Ok(answer), Some(before)) => {
            let differences = cases::differences(before, &answer);
            Replayed::Different { answer: Ok(answer), differences, log }
        }
        (answer, _) => Replayed::Different { answer, differences: Vec::new(), log },
    }
}

/// What new policies say of earlier decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Questions that were put to them.
    pub questions: usize,
    /// Questions that could not be put to them: what they ask the host for was not asked then.
    pub unanswered: usize,
    /// What they answer otherwise, newest first; not all of it, if there is much.
    pub different: Vec<Change>,
    /// Differences that are not among `different`.
    pub more: usize,
    /// Policies that had a say and are asked no more, and how often they had.
    pub dropped: BTreeMap<BindingName, usize>,
    /// There was not enough time for all questions.
    pub is_cut: bool,
}

/// One question that is answered otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub decision: Option<String>,
    pub binding: BindingName,
    pub hook: Hook,
    /// Who called, and which tool, where the question says it.
    pub principal: Option<String>,
    pub tool: Option<String>,
    /// In words: the verdict and its reason, or how it failed.
    pub before: String,
    pub after: String,
}

impl fmt::Display for Changes {
    /// On one line; alike changes together.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = self.different.len() + self.more;
        write!(f, "{changed} of {} answers to recorded questions differ", self.questions)?;
        let mut kinds: BTreeMap<(&BindingName, Hook, &str, &str), usize> = BTreeMap::new();
        for Change { binding, hook, before, after, .. } in &self.different {
            *kinds.entry((binding, *hook, before, after)).or_default() += 1;
        }
        for (position, ((binding, hook, before, after), count)) in kinds.into_iter().enumerate() {
            let separator = if position == 0 { ":" } else { ";" };
            write!(f, "{separator} {binding} at {hook}: {before} → {after} ({count})")?;
        }
        for (binding, count) in &self.dropped {
            write!(f, "; {binding} had a say in {count} and is asked no more")?;
        }
        if self.unanswered > 0 {
            write!(f, "; {} could not be asked again", self.unanswered)?;
        }
        if self.is_cut {
            f.write_str("; there was not enough time for all")?;
        }
        Ok(())
    }
}

impl Changes {
    fn add(&mut self, change: Change) {
        if self.different.len() < MAX_TOLD { self.different.push(change) } else { self.more += 1 }
    }
}

/// Recorded calls as questions to a policy that had no say in them, which is as if it had abstained: each call once, with
/// the most that any policy was shown of it.
///
/// Who called is not told by a recording as `match.principals` has it, nor are all hints: a binding that is narrowed by
/// them is asked nothing.
pub fn as_if_asked(binding: &Binding, recorded: &[PastQuestion]) -> Vec<PastQuestion> {
    let Match { hooks, upstreams, tools, hints, principals, groups, clients, items: _ } = &binding.matches;
    let is_told = hints.is_empty() && principals.iter().any(Glob::is_any);
    let is_of_hook = hooks.as_ref().is_none_or(|hooks| hooks.contains(&Hook::ToolCall.as_str()));
    if !is_told || !is_of_hook {
        return Vec::new();
    }
    let any = |patterns: &[Glob], text: &Value| {
        let text = text.as_str().unwrap_or_default();
        patterns.iter().any(|pattern| pattern.is_any() || pattern.matches(text))
    };
    let fits = |input: &Value| {
        let (tool, caller) = (&input["request"]["tool"], &input["context"]["caller"]);
        let own = caller["groups"].as_array().map_or(&[][..], Vec::as_slice);
        let fits_groups = groups.as_ref().is_none_or(|groups| own.iter().any(|group| any(groups, group)));
        any(upstreams, &tool["upstream"])
            && any(tools, &tool["name"])
            && any(clients, &caller["client_id"])
            && fits_groups
    };
    // One of this name may have been there before.
    let own = recorded.iter().filter(|question| question.binding == binding.name);
    let had_a_say: HashSet<&str> = own.filter_map(|question| question.decision.as_deref()).collect();
    let calls = recorded.iter().filter(|question| question.hook == Hook::ToolCall && fits(&question.input));
    let mut asked: Vec<PastQuestion> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for question in calls {
        let Some(decision) = question.decision.as_deref().filter(|decision| !had_a_say.contains(decision)) else {
            continue;
        };
        let shows_all = !question.input["request"]["arguments"].is_null();
        let put = PastQuestion {
            binding: binding.name.clone(),
            answer: Some(Value::from("abstain")),
            was_asked: false,
            imports: Vec::new(),
            ..question.clone()
        };
        match places.get(decision) {
            Some(place) if shows_all => asked[*place] = put,
            Some(_) => {}
            None => {
                places.insert(decision, asked.len());
                asked.push(put);
            }
        }
    }
    asked
}

/// A question with no more in it than the policy asks for: what was recorded may have been shown to another.
fn as_shown<'a>(question: &'a PastQuestion, manifest: &Manifest) -> Cow<'a, PastQuestion> {
    if question.hook != Hook::ToolCall {
        return Cow::Borrowed(question);
    }
    let mut shown = question.clone();
    withhold(&mut shown.input, manifest.disclosure(Hook::ToolCall), manifest.claims(Hook::ToolCall));
    Cow::Owned(shown)
}

/// Takes out of a question about a call what is not disclosed.
fn withhold(input: &mut Value, disclosure: Disclosure, claims: &[String]) {
    let mut hide = |pointer: &str, instead: Value| {
        if let Some(place) = input.pointer_mut(pointer) {
            *place = instead;
        }
    };
    if disclosure.arguments != Payload::Full {
        hide("/request/arguments", Value::Null);
        hide("/request/meta", Value::Null);
    }
    if disclosure.arguments == Payload::None {
        hide("/request/arguments_bytes", Value::from(0));
    }
    if !disclosure.texts {
        for text in ["title", "description", "input_schema"] {
            hide(&format!("/request/tool/{text}"), Value::Null);
        }
    }
    let known = input.pointer_mut("/context/caller/claims").and_then(Value::as_object_mut);
    if let Some(known) = known {
        known.retain(|name, _| claims.iter().any(|wanted| wanted == "*" || wanted == name));
    }
}

/// Puts recorded questions to policies that are not in force yet.
pub(super) fn against(policies: &PolicySet, recorded: &[PastQuestion]) -> Changes {
    let begun = Instant::now();
    let mut changes = Changes::default();
    let mut aside: HashMap<&BindingName, Prepared> = HashMap::new();
    for question in recorded {
        if begun.elapsed() > PUBLISH_LIMIT {
            changes.is_cut = true;
            break;
        }
        let bound = policies.bindings().iter().find(|bound| *bound.name() == question.binding);
        let Some(bound) = bound.filter(|bound| {
            bound.binding().mode != Mode::Off && bound.module().manifest.hooks.contains(&question.hook)
        }) else {
            *changes.dropped.entry(question.binding.clone()).or_default() += 1;
            continue;
        };
        changes.questions += 1;
        // How long it takes here says nothing of how long it will take.
        let prepared = aside.entry(bound.name()).or_insert_with(|| bound.prepared.aside());
        let put = as_shown(question, &bound.module().manifest);
        match ask_again(prepared, bound.binding().memory_bytes, &put, PUBLISH_PATIENCE) {
            Replayed::Same { .. } => {}
            Replayed::Diverged { .. } => changes.unanswered += 1,
            Replayed::Different { answer, differences, .. } => {
                let (before, after) = question.without_values(&answer, &differences);
                let PastQuestion { decision, binding, hook, .. } = question;
                changes.add(Change {
                    decision: decision.clone(),
                    binding: binding.clone(),
                    hook: *hook,
                    principal: question.principal(),
                    tool: question.tool(),
                    before,
                    after,
                });
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::ModuleSource;

    fn asked_of(decision: &str, by: &str, input: Value) -> PastQuestion {
        PastQuestion {
            decision: Some(decision.to_owned()),
            binding: BindingName::parse(by).unwrap(),
            hook: Hook::ToolCall,
            input,
            answer: Some(json!({ "allow": {} })),
            was_asked: true,
            imports: Vec::new(),
        }
    }

    fn binding(matches: Match) -> Binding {
        let name = BindingName::parse("new").unwrap();
        Binding { matches, ..Binding::new(name, ModuleSource::Builtin("template".to_owned())) }
    }

    #[test]
    fn values_stay_with_recordings() {
        let question = asked_of("d1", "a", Value::Null);
        let answer = Ok(question.answer.clone().unwrap());
        let (expected, found) = ("\"secret\"".to_owned(), "\"other\"".to_owned());
        let differences = [Difference { pointer: "/allow/rewrite".to_owned(), expected, found }];
        let (before, after) = question.without_values(&answer, &differences);
        assert!(!before.contains("secret") && !after.contains("other"), "{before} {after}");
        assert!(after.ends_with("with something else at /allow/rewrite"), "{after}");
    }

    #[test]
    fn a_question_tells_who_called_and_what() {
        let told = |kind: &str, subject: &str| {
            let caller = json!({ "kind": kind, "subject": subject });
            let tool = json!({ "upstream": "notes", "name": "add" });
            let question = asked_of("d1", "a", json!({ "context": { "caller": caller }, "request": { "tool": tool } }));
            assert_eq!(question.tool().as_deref(), Some("notes/add"));
            question.principal()
        };
        for (kind, subject, expected) in [
            ("service", "ci", Some("key:ci")),
            ("service", "gateway", Some("gateway")),
            ("user", "0a", Some("user:0a")),
            ("anonymous", "anonymous", Some("anonymous")),
            ("anonymous", "0b", Some("guest:0b")),
            ("agent", "x", None),
        ] {
            assert_eq!(told(kind, subject).as_deref(), expected, "{kind} {subject}");
        }
        let question = asked_of("d1", "a", json!({ "request": {} }));
        assert_eq!((question.tool(), question.principal()), (None, None));
    }

    #[test]
    fn a_policy_is_put_no_more_than_it_asks_for() {
        let whole = json!({ "context": { "caller": { "claims": { "email": "a@b", "team": "x" } } },
            "request": { "tool": { "name": "add", "title": "Add", "description": "d", "input_schema": {} },
                "arguments": { "text": "x" }, "arguments_bytes": 12, "meta": { "a": 1 } } });
        let of = |arguments, texts, claims: &[&str]| {
            let claims: Vec<String> = claims.iter().map(|claim| (*claim).to_owned()).collect();
            let mut input = whole.clone();
            withhold(&mut input, Disclosure { arguments, output: Payload::None, texts }, &claims);
            input
        };
        assert_eq!(of(Payload::Full, true, &["*"]), whole);
        let least = of(Payload::None, false, &[]);
        let tool = json!({ "name": "add", "title": null, "description": null, "input_schema": null });
        let request = json!({ "tool": tool, "arguments": null, "arguments_bytes": 0, "meta": null });
        assert_eq!(least, json!({ "context": { "caller": { "claims": {} } }, "request": request }));
        let some = of(Payload::SizeOnly, true, &["team"]);
        assert_eq!(some["request"]["arguments_bytes"], 12);
        assert_eq!(some["context"]["caller"]["claims"], json!({ "team": "x" }));
    }

    #[test]
    fn a_policy_that_had_no_say_is_asked_of_each_call_once() {
        let input = |tool: &str, arguments: Value| {
            json!({ "context": { "caller": { "client_id": "", "groups": ["ops"] } },
                "request": { "tool": { "name": tool, "upstream": "notes" }, "arguments": arguments } })
        };
        let recorded = [
            asked_of("d1", "a", input("add", Value::Null)),
            asked_of("d1", "b", input("add", json!({ "text": "x" }))),
            asked_of("d1", "c", input("add", Value::Null)),
            asked_of("d2", "a", input("read", Value::Null)),
            PastQuestion { hook: Hook::ListTools, ..asked_of("d3", "a", input("add", Value::Null)) },
            asked_of("d4", "new", input("add", Value::Null)),
            asked_of("d4", "a", input("add", Value::Null)),
        ];
        let told = |matches: Match| -> Vec<(String, bool)> {
            let asked = as_if_asked(&binding(matches), &recorded);
            assert!(asked.iter().all(|question| question.binding.as_str() == "new"));
            assert!(asked.iter().all(|question| question.answer == Some(json!("abstain")) && !question.was_asked));
            let permit = Ok(json!({ "allow": {} }));
            assert!(asked.iter().all(|question| question.verdicts(&permit).0 == "not asked"));
            let told = |question: PastQuestion| {
                (question.decision.unwrap(), !question.input["request"]["arguments"].is_null())
            };
            asked.into_iter().map(told).collect()
        };
        let glob = |pattern: &str| vec![Glob::parse(pattern).unwrap()];
        let one = |decision: &str, shows_all: bool| (decision.to_owned(), shows_all);
        assert_eq!(told(Match::default()), [one("d1", true), one("d2", false)]);
        assert_eq!(told(Match { tools: glob("r*"), ..Match::default() }), [one("d2", false)]);
        assert_eq!(told(Match { groups: Some(glob("ops")), ..Match::default() }).len(), 2);
        for nothing in [
            Match { upstreams: glob("mail"), ..Match::default() },
            Match { groups: Some(glob("dev")), ..Match::default() },
            Match { principals: glob("key:ci"), ..Match::default() },
            Match { hooks: Some(vec!["list-tools"]), ..Match::default() },
        ] {
            assert_eq!(told(nothing.clone()), [], "{nothing:?}");
        }
    }
}
