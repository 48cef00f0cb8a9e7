//! Rules over the arguments of calls: what must be there, what must not, and of which form it is.
//!
//! Every rule whose patterns fit the tool applies, and each of its conditions looks at one place in the arguments. What does
//! not hold refuses the call, or is put right where the condition says how. Conditions apply in order, each to what the ones
//! before it left; what is put right goes to the host as edits, which it applies in the same order.
//!
//! In reading order: what the operator writes in `rule`, where a condition looks in `place`, what it wants in `shape` (types,
//! sizes, patterns), `path` and `host`, and JSON Schemas in `schema`.

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::serde_json::{Map, Value, json};
use portcullis_guest_sdk::{
    Call, Context, Denial, Edit, Hook, Manifest, Need, Permit, Policy, Problem, SelfTests, ToolCall, Verdict, export,
    json as pointers,
};

mod host;
mod path;
mod place;
mod rule;
mod schema;
mod shape;

use rule::{Condition, Remedy, Rule};
use shape::Misfit;

/// Most rules in one configuration.
const MAX_RULES: usize = 200;
/// Most changes to the arguments of one call.
const MAX_EDITS: usize = 200;

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");
const CASES: &str = include_str!("../cases.json");

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub struct Config {
    rules: Vec<rule::Written>,
    /// What becomes of a call that a rule applies to and that conforms as it is.
    #[serde(default)]
    conforming: Conforming,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Conforming {
    #[default]
    Abstain,
    Allow,
}

/// The policy.
pub struct GuardArguments {
    rules: Vec<Rule>,
    conforming: Conforming,
}

/// The arguments as they are so far, and the edits that made them so.
struct Draft {
    arguments: Value,
    edits: Vec<Edit>,
}

impl Draft {
    fn edit(&mut self, edit: Edit) -> Result<(), Misfit> {
        let fits = self.edits.len() < MAX_EDITS && pointers::apply(&mut self.arguments, &edit).is_ok();
        if !fits {
            return Err(Misfit::at(&edit.pointer, "edit", "cannot be put right".to_owned()));
        }
        self.edits.push(edit);
        Ok(())
    }

    /// Holds the condition against every place that it is about, and puts right what it can.
    fn conform(&mut self, condition: &Condition) -> Result<(), Misfit> {
        // From the last to the first, so that what is removed from a list does not move what is still to be looked at.
        let places = condition.place.all_in(&self.arguments);
        let places = places.ok_or_else(|| Misfit::at("", "size", "have too many items to be checked".to_owned()))?;
        for pointer in places.into_iter().rev() {
            let value = self.arguments.pointer(&pointer);
            let Err(misfit) = condition.check(value, &pointer) else { continue };
            match (&condition.remedy, value) {
                (Remedy::Remove, Some(_)) => self.edit(Edit::remove(pointer))?,
                (Remedy::Set(value), _) => self.edit(Edit::set(pointer, value))?,
                (Remedy::Clamp, Some(value)) => {
                    let clamped = condition.shape.clamped(value);
                    condition.check(Some(&clamped), &pointer)?;
                    self.edit(Edit::set(pointer, &clamped))?;
                }
                _ => return Err(misfit),
            }
        }
        Ok(())
    }
}

impl Policy for GuardArguments {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new(
            "guard-arguments",
            env!("CARGO_PKG_VERSION"),
            "Checks the arguments of calls, and puts them right",
        )
        .license("Apache-2.0")
        .config(SCHEMA, SAMPLE)
        .needs(Need::of(Hook::ToolCall).arguments())
        .mutates(Hook::ToolCall)
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        if config.rules.is_empty() || config.rules.len() > MAX_RULES {
            return Err(vec![Problem::at("/rules", format!("there are 1 to {MAX_RULES} rules"))]);
        }
        let mut problems = Vec::new();
        let rules = config.rules.into_iter().enumerate().map(|(at, rule)| rule.read(at, &mut problems)).collect();
        if problems.is_empty() { Ok(Self { rules, conforming: config.conforming }) } else { Err(problems) }
    }
}

impl ToolCall for GuardArguments {
    fn before(&self, _: &Context, call: &Call) -> Verdict {
        let path = call.tool.path();
        let mut rules = self.rules.iter().filter(|rule| rule.matches(&path)).peekable();
        if rules.peek().is_none() {
            return Verdict::abstain();
        }
        let arguments = match call.parse_arguments::<Value>() {
            Ok(arguments) => arguments.unwrap_or_else(|| Value::Object(Map::new())),
            Err(_) => return Verdict::deny("guard-arguments.unreadable", "The arguments cannot be read."),
        };
        let mut draft = Draft { arguments, edits: Vec::new() };
        for rule in rules {
            for condition in &rule.conditions {
                if let Err(misfit) = draft.conform(condition) {
                    return refusal(rule, condition, &misfit).into();
                }
            }
        }
        self.allowed(call, draft)
    }
}

impl GuardArguments {
    fn allowed(&self, call: &Call, draft: Draft) -> Verdict {
        if draft.edits.is_empty() {
            return if self.conforming == Conforming::Allow { Verdict::allow() } else { Verdict::abstain() };
        }
        // Where there are no arguments, there is nothing that an edit could point into.
        let permit = if call.arguments.is_none() {
            Permit::new().replace(&draft.arguments)
        } else {
            draft.edits.into_iter().fold(Permit::new(), Permit::edit)
        };
        permit.into()
    }
}

/// Says what is wrong and where, and never what the value is.
fn refusal(rule: &Rule, condition: &Condition, misfit: &Misfit) -> Denial {
    let message = condition.message.clone().unwrap_or_else(|| misfit.to_string());
    Denial::new(format!("guard-arguments.{}", misfit.check), message)
        .rule(&*rule.name)
        .detail(&json!({ "at": misfit.at, "check": misfit.check }))
}

impl SelfTests for GuardArguments {
    const CASES: &'static str = CASES;
}

export!(GuardArguments with tool_call, self_tests);

#[cfg(test)]
mod tests;
