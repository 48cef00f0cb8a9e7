//! From the operator's modules to something that can be asked, with a problem for everything that is wrong with them.
//!
//! A hook is answered by one rule that we add: it gathers what the rules of the hook's package say, so that one evaluation
//! answers and what they share is evaluated once. A rule without a value has no entry there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use policy_scripted::{Situation, Subject};
use portcullis_guest_sdk::json::push_token;
use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::serde_json::{self, Map, Value};
use portcullis_guest_sdk::{
    Access, Call, CallResult, Context, Hook, Item, ItemOutput, Problem, Question, Tool, client, credential, grant, log,
    refresh,
};
use regorus::Engine;

use crate::input::{Mentioned, input};

/// Most modules.
const MAX_MODULES: usize = 64;
/// Longest name of a module, in bytes.
const MAX_NAME: usize = 128;
/// All modules together, in bytes.
const MAX_SOURCE: usize = 512 << 10;
/// The data as JSON, in bytes.
const MAX_DATA: usize = 1 << 20;
/// Most patterns that are compiled beforehand.
const MAX_PATTERNS: usize = 128;
/// What our own packages begin with.
const ANSWERS: &str = "portcullis_answers";

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub struct Config {
    /// Texts in Rego by the names of their files.
    modules: BTreeMap<String, String>,
    /// Further documents under `data`.
    #[serde(default)]
    data: Map<String, Value>,
}

/// Modules, ready to be asked.
pub(crate) struct Modules {
    engine: RefCell<Engine>,
    /// The hooks that there is a package for.
    hooks: Vec<Hook>,
    mentioned: Mentioned,
}

/// Why there is no answer: a place in a module, or something about an answer. Never a value that was looked at.
#[derive(Debug, PartialEq)]
pub(crate) struct Failure(pub(crate) String);

/// The rules of a hook's package that are an answer; any other rule is a helper.
pub(crate) fn rules_of(hook: Hook) -> &'static [&'static str] {
    match hook {
        Hook::ListTools => &["visible", "hide", "title", "description", "warnings"],
        Hook::ListItems => &["visible", "hide", "warnings"],
        Hook::ToolCall => &["allow", "deny", "step_up", "approve", "throttle", "rewrite", "warnings"],
        Hook::ItemAccess | Hook::ServerRequest => &["allow", "deny", "step_up", "approve", "throttle", "warnings"],
        Hook::ToolResult | Hook::ItemResult => &["allow", "deny", "redact", "warnings"],
        Hook::Grant => &["allow", "deny", "step_up", "approve", "consent", "warnings"],
        Hook::Refresh => &["allow", "deny", "step_up", "warnings"],
        Hook::Client => &["allow", "deny", "approve", "rewrite", "warnings"],
        Hook::Credential => &["allow", "deny", "step_up", "approve", "warnings"],
    }
}

/// The last part of a hook's package.
fn package_of(hook: Hook) -> String {
    hook.as_str().replace('-', "_")
}

impl Modules {
    pub(crate) fn load(config: &Config) -> Result<Self, Vec<Problem>> {
        let mut problems = bounds(config);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut engine = Engine::new();
        engine.set_gather_prints(true);
        for (name, source) in &config.modules {
            if let Err(error) = engine.add_policy(name.clone(), source.clone()) {
                problems.push(problem(config, &error.to_string(), name));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let hooks = hooks(&engine, config)?;
        let data = regorus::Value::from_json_str(&Value::Object(config.data.clone()).to_string());
        data.and_then(|data| engine.add_data(data)).map_err(|error| vec![Problem::at("/data", error.to_string())])?;
        for hook in &hooks {
            let (package, rules) = (package_of(hook.0), &hook.1);
            let mut source = format!("package {ANSWERS}.{package}\n");
            for rule in rules {
                source.push_str(&format!("answer contains [\"{rule}\", data.portcullis.{package}.{rule}]\n"));
            }
            let added = engine.add_policy(format!("{ANSWERS}/{package}"), source);
            added.map_err(|error| vec![problem(config, &error.to_string(), "")])?;
        }
        let patterns = format!("package {ANSWERS}.patterns\nanswer := regex.match(input, \"\")\n");
        let added = engine.add_policy(format!("{ANSWERS}/patterns"), patterns);
        added.map_err(|error| vec![problem(config, &error.to_string(), "")])?;
        let mentioned = Mentioned::of(config.modules.values().map(String::as_str));
        let hooks = hooks.into_iter().map(|(hook, _)| hook).collect();
        let modules = Self { engine: RefCell::new(engine), hooks, mentioned };
        modules.prepare(config)?;
        Ok(modules)
    }

    pub(crate) fn answers(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    /// What the rules of the hook's package say, by their names.
    pub(crate) fn ask(&self, situation: &Situation<'_>) -> Result<Map<String, Value>, Failure> {
        let answer = self.evaluate(situation).map_err(|error| Failure(place(&error.to_string())))?;
        serde_json::to_value(&answer)
            .and_then(serde_json::from_value::<Vec<(String, Value)>>)
            .map(|said| said.into_iter().collect())
            .map_err(|_| Failure("their answer has no form in JSON".to_owned()))
    }

    fn evaluate(&self, situation: &Situation<'_>) -> Result<regorus::Value, impl std::fmt::Display + use<>> {
        let mut engine = self.engine.borrow_mut();
        engine.set_input(input(situation, &self.mentioned));
        let answer = engine.eval_rule(format!("data.{ANSWERS}.{}.answer", package_of(situation.subject.hook())));
        for line in engine.take_prints().unwrap_or_default() {
            log::debug(line);
        }
        answer
    }

    /// Compiles the patterns that stand in the modules, once for all decisions: the interpreter keeps what it compiles.
    fn keep_patterns(&self, config: &Config) {
        let mut engine = self.engine.borrow_mut();
        for pattern in config.modules.values().flat_map(|source| patterns(source)).take(MAX_PATTERNS) {
            engine.set_input(regorus::Value::from(pattern));
            // What is no pattern, or one that is wrong, shows when a rule uses it.
            drop(engine.eval_rule(format!("data.{ANSWERS}.patterns.answer")));
        }
    }

    /// Makes everything that is made at the first evaluation, so that it is frozen too, and finds what only shows there.
    fn prepare(&self, config: &Config) -> Result<(), Vec<Problem>> {
        let context = Context::default();
        let (tool, item, call, result) = (Tool::default(), Item::default(), Call::default(), CallResult::default());
        let (access, output, question) = (Access::default(), ItemOutput::default(), Question::default());
        let (granting, renewal) = (grant::Request::default(), refresh::Request::default());
        let (registration, release) = (client::Request::default(), credential::Request::default());
        let subject = |hook: Hook| match hook {
            Hook::ListTools => Subject::ListTools(&tool),
            Hook::ListItems => Subject::ListItems(&item),
            Hook::ToolCall => Subject::ToolCall(&call),
            Hook::ToolResult => Subject::ToolResult(&result),
            Hook::ItemAccess => Subject::ItemAccess(&access),
            Hook::ItemResult => Subject::ItemResult(&output),
            Hook::ServerRequest => Subject::ServerRequest(&question),
            Hook::Grant => Subject::Grant(&granting),
            Hook::Refresh => Subject::Refresh(&renewal),
            Hook::Client => Subject::Client(&registration),
            Hook::Credential => Subject::Credential(&release),
        };
        let mut problems = Vec::new();
        self.keep_patterns(config);
        for hook in &self.hooks {
            if let Err(error) = self.evaluate(&Situation::new(&context, subject(*hook))) {
                let error = error.to_string();
                // Anything else may be due to the empty input.
                if ["could not find function", "recursion", "unsafe", "undefined var"]
                    .iter()
                    .any(|sign| error.contains(sign))
                {
                    problems.push(problem(config, &error, ""));
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// The texts on lines with a function of `regex`: patterns are among them.
fn patterns(source: &str) -> impl Iterator<Item = String> {
    let lines = source.lines().filter(|line| line.contains("regex."));
    lines.flat_map(|line| {
        let raw = line.split('`').skip(1).step_by(2).map(str::to_owned);
        let quoted = line.split('"').skip(1).step_by(2);
        raw.chain(quoted.filter_map(|text| serde_json::from_str(&format!("\"{text}\"")).ok())).collect::<Vec<String>>()
    })
}

fn bounds(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.modules.is_empty() {
        problems.push(Problem::at("/modules", "there is no module"));
    }
    if config.modules.len() > MAX_MODULES {
        problems.push(Problem::at("/modules", format!("there are more than {MAX_MODULES} modules")));
    }
    if config.modules.keys().any(|name| name.is_empty() || name.len() > MAX_NAME) {
        problems.push(Problem::at("/modules", format!("a module's name has 1 to {MAX_NAME} bytes")));
    }
    if config.modules.values().map(String::len).sum::<usize>() > MAX_SOURCE {
        problems.push(Problem::at("/modules", format!("the modules have more than {MAX_SOURCE} bytes")));
    }
    if Value::Object(config.data.clone()).to_string().len() > MAX_DATA {
        problems.push(Problem::at("/data", format!("the data has more than {MAX_DATA} bytes")));
    }
    problems
}

/// The hooks with a package, and the rules there that are answers.
type Declared = Vec<(Hook, Vec<&'static str>)>;

fn hooks(engine: &Engine, config: &Config) -> Result<Declared, Vec<Problem>> {
    let packages = engine.get_packages().map_err(|error| vec![Problem::at("/modules", error.to_string())])?;
    let mut problems = Vec::new();
    let mut declared: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for (name, package) in config.modules.keys().zip(&packages) {
        let package = package.strip_prefix("data.").unwrap_or(package);
        if package.split('.').next() == Some(ANSWERS) {
            problems.push(Problem::at(at(name), format!("the package {ANSWERS} is the gateway's own")));
        }
        let Some(of_hook) = package.strip_prefix("portcullis.") else { continue };
        let Some(hook) = Hook::ALL.into_iter().find(|hook| package_of(*hook) == of_hook) else {
            let known = Hook::ALL.map(package_of).join(", ");
            problems.push(Problem::at(
                at(name),
                format!("portcullis.{of_hook} is the package of no hook; there are {known}"),
            ));
            continue;
        };
        let has = |rule: &&&str| engine.has_declared_rule_rooted_at(name, rule).unwrap_or(false);
        declared.entry(hook.as_str().to_owned()).or_default().extend(rules_of(hook).iter().filter(has));
    }
    for (hook, rules) in &declared {
        if rules.is_empty() {
            let hook = Hook::ALL.into_iter().find(|known| known.as_str() == hook).map_or(&[] as &[_], rules_of);
            problems.push(Problem::at("/modules", format!("a package answers with none of {}", hook.join(", "))));
        }
    }
    if declared.is_empty() && problems.is_empty() {
        problems.push(Problem::at("/modules", "no module has a package of a hook, such as portcullis.tool_call"));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let of = |hook: Hook| declared.get(hook.as_str()).map(|rules| (hook, rules.iter().copied().collect()));
    Ok(Hook::ALL.into_iter().filter_map(of).collect())
}

/// A mistake that the interpreter tells, with the module it is in, line and column.
fn problem(config: &Config, error: &str, module: &str) -> Problem {
    let message = error.rsplit("error: ").next().unwrap_or(error).trim();
    for (name, rest) in error.lines().filter_map(|line| line.strip_prefix("--> ")).filter_map(split_place) {
        if config.modules.contains_key(name) {
            return Problem::at(at(name), format!("{name}, line {}, column {}: {message}", rest.0, rest.1));
        }
    }
    let path = if module.is_empty() { "/modules".to_owned() } else { at(module) };
    Problem::at(path, message)
}

/// Where in the modules an error is, and nothing of what it says: that can be a value.
fn place(error: &str) -> String {
    let mut places = error.lines().filter_map(|line| line.strip_prefix("--> "));
    match places.next().and_then(split_place) {
        Some((name, (line, column))) => format!("{name}, line {line}, column {column}"),
        None => "they failed".to_owned(),
    }
}

/// `name:line:column`.
fn split_place(place: &str) -> Option<(&str, (u32, u32))> {
    let (rest, column) = place.trim().rsplit_once(':')?;
    let (name, line) = rest.rsplit_once(':')?;
    Some((name, (line.parse().ok()?, column.parse().ok()?)))
}

fn at(module: &str) -> String {
    let mut pointer = "/modules".to_owned();
    push_token(&mut pointer, module);
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_on_the_lines_that_use_them() {
        let source = "x := \"no\"\nallow if regex.match(`^a\\d`, input.a)\nb if regex.match(\"\\\\.x$\", input.b)\n";
        assert_eq!(patterns(source).collect::<Vec<_>>(), ["^a\\d", "\\.x$"]);
    }

    #[test]
    fn places_are_read_and_nothing_else() {
        let error = "\n--> a b.rego:3:14\n  |\n3 | x := to_number(input.a)\n  |              ^\nerror: could not parse \"secret\"";
        assert_eq!(place(error), "a b.rego, line 3, column 14");
        assert_eq!(place("something secret"), "they failed");
    }
}
