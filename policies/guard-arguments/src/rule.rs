//! What the operator writes about the arguments of a tool, and what becomes of it.

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::serde_json::{Number, Value};
use portcullis_guest_sdk::{Glob, Problem};

use crate::host::{HostPattern, host_of};
use crate::path::Directory;
use crate::place::Place;
use crate::schema;
use crate::shape::{Bound, Misfit, Pattern, Shape, Types, is_same};

/// Most conditions of one rule.
const MAX_CONDITIONS: usize = 100;
/// Most values, directories or hosts of one list.
const MAX_LIST: usize = 1_000;
/// Longest message, in bytes, as the contract has it.
const MAX_MESSAGE: usize = 2 * 1024;

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub(crate) struct Written {
    #[serde(default)]
    name: Option<String>,
    /// Patterns over `upstream/tool`; every tool if there are none.
    #[serde(default)]
    tools: Option<Vec<Glob>>,
    arguments: Vec<WrittenCondition>,
}

/// A condition as it is written. What is written must hold, all of it, where there is something.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct WrittenCondition {
    #[serde(default)]
    at: String,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    forbidden: bool,
    #[serde(default, rename = "type")]
    types: Option<Value>,
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    not_pattern: Option<String>,
    #[serde(default)]
    max_length: Option<u64>,
    #[serde(default)]
    min: Option<Number>,
    #[serde(default)]
    max: Option<Number>,
    #[serde(default)]
    one_of: Option<Vec<Value>>,
    #[serde(default)]
    not_one_of: Option<Vec<Value>>,
    #[serde(default)]
    path_within: Option<Vec<String>>,
    #[serde(default)]
    host_in: Option<Vec<String>>,
    #[serde(default)]
    schemes: Option<Vec<String>>,
    #[serde(default)]
    schema: Option<Value>,
    #[serde(default)]
    action: Action,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Action {
    #[default]
    Deny,
    Set,
    Remove,
    Clamp,
}

/// A rule that can be applied.
pub(crate) struct Rule {
    pub(crate) name: String,
    tools: Option<Vec<Glob>>,
    pub(crate) conditions: Vec<Condition>,
}

/// A condition that can be applied.
pub(crate) struct Condition {
    pub(crate) place: Place,
    required: bool,
    forbidden: bool,
    pub(crate) shape: Shape,
    not_pattern: Option<Pattern>,
    not_one_of: Vec<Value>,
    path_within: Option<Vec<Directory>>,
    host_in: Option<Vec<HostPattern>>,
    schemes: Vec<String>,
    schema: Option<Shape>,
    pub(crate) remedy: Remedy,
    pub(crate) message: Option<String>,
}

/// What is done about a value that does not fit.
pub(crate) enum Remedy {
    Deny,
    Set(Value),
    Remove,
    Clamp,
}

impl Rule {
    pub(crate) fn matches(&self, path: &str) -> bool {
        self.tools.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(path)))
    }
}

impl Condition {
    /// Holds what is at `pointer` against the condition.
    pub(crate) fn check(&self, value: Option<&Value>, pointer: &str) -> Result<(), Misfit> {
        let misfit = |check, what: &str| Err(Misfit::at(pointer, check, what.to_owned()));
        let Some(value) = value else {
            return if self.required { misfit("required", "is missing") } else { Ok(()) };
        };
        if self.forbidden {
            return misfit("forbidden", "is not allowed");
        }
        self.shape.check(value, pointer)?;
        if self.not_one_of.iter().any(|other| is_same(other, value)) {
            return misfit("not_one_of", "has a value that is not allowed");
        }
        let text = value.as_str().unwrap_or_default();
        if let Some(pattern) = &self.not_pattern
            && pattern.is_match(text) != Some(false)
        {
            return misfit("not_pattern", "holds something that is not allowed");
        }
        if let Some(directories) = &self.path_within
            && !directories.iter().any(|directory| directory.contains(text))
        {
            let named: Vec<&str> = directories.iter().map(Directory::as_str).take(5).collect();
            return misfit("path_within", &format!("must be a path within {}", named.join(" or ")));
        }
        if let Some(hosts) = &self.host_in {
            let is_allowed = |(scheme, host): (String, String)| {
                self.schemes.contains(&scheme) && hosts.iter().any(|pattern| pattern.fits(&host))
            };
            if !host_of(text).is_some_and(is_allowed) {
                let named: Vec<&str> = hosts.iter().map(HostPattern::as_str).take(5).collect();
                let schemes = self.schemes.join(" or ");
                return misfit("host_in", &format!("must be a plain {schemes} URL of {}", named.join(" or ")));
            }
        }
        match &self.schema {
            Some(schema) => schema.check(value, pointer),
            None => Ok(()),
        }
    }
}

impl Written {
    /// The rule, with everything that is wrong with it in `problems`.
    pub(crate) fn read(self, at: usize, problems: &mut Vec<Problem>) -> Rule {
        let base = format!("/rules/{at}");
        let is_name = |name: &String| (1..=64).contains(&name.len()) && !name.contains(char::is_control);
        if !self.name.as_ref().is_none_or(is_name) {
            problems.push(Problem::at(format!("{base}/name"), "a name has 1 to 64 bytes"));
        }
        if self.tools.as_ref().is_some_and(Vec::is_empty) {
            let message = "a rule without tools matches nothing; leave it out to match all";
            problems.push(Problem::at(format!("{base}/tools"), message));
        }
        if self.arguments.is_empty() || self.arguments.len() > MAX_CONDITIONS {
            let message = format!("a rule has 1 to {MAX_CONDITIONS} conditions");
            problems.push(Problem::at(format!("{base}/arguments"), message));
        }
        let conditions = self.arguments.into_iter().enumerate().map(|(index, written)| {
            let mut told = Told { at: format!("{base}/arguments/{index}"), problems: &mut *problems };
            written.read(&mut told)
        });
        Rule {
            conditions: conditions.collect(),
            name: self.name.unwrap_or_else(|| format!("rules/{at}")),
            tools: self.tools,
        }
    }
}

/// Problems of one condition.
struct Told<'a> {
    at: String,
    problems: &'a mut Vec<Problem>,
}

impl Told<'_> {
    fn tell(&mut self, member: &str, message: impl Into<String>) {
        self.problems.push(Problem::at(format!("{}{member}", self.at), message));
    }

    /// Reads every entry of a list, and tells which ones cannot be read.
    fn list<T>(&mut self, name: &str, words: &[String], wrong: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        if words.is_empty() || words.len() > MAX_LIST {
            self.tell(&format!("/{name}"), format!("there are 1 to {MAX_LIST} of them"));
        }
        let mut found = Vec::new();
        for (index, word) in words.iter().enumerate().take(MAX_LIST) {
            match read(word) {
                Some(one) => found.push(one),
                None => self.tell(&format!("/{name}/{index}"), wrong),
            }
        }
        found
    }
}

impl WrittenCondition {
    fn read(self, told: &mut Told<'_>) -> Condition {
        let place = Place::parse(&self.at).unwrap_or_else(|| {
            told.tell("/at", "it is a JSON pointer such as /path or /items/*/id, of at most 32 names");
            Place::parse("").expect("the empty pointer is one")
        });
        let message = self.message.clone();
        if message.as_ref().is_some_and(|message| message.is_empty() || message.len() > MAX_MESSAGE) {
            told.tell("/message", format!("a message has 1 to {MAX_MESSAGE} bytes"));
        }
        let condition = Condition {
            place,
            required: self.required,
            forbidden: self.forbidden,
            shape: self.shape(told),
            not_pattern: self
                .not_pattern
                .as_deref()
                .and_then(|text| Pattern::anywhere(text).map_err(|error| told.tell("/not_pattern", error)).ok()),
            not_one_of: self.not_one_of.clone().unwrap_or_default(),
            path_within: self.path_within.as_deref().map(|words| {
                let wrong = "it is a directory such as /srv/notes, without a way out of it";
                told.list("path_within", words, wrong, Directory::parse)
            }),
            host_in: self.host_in.as_deref().map(|words| {
                told.list("host_in", words, "it is a host such as example.com or *.example.com", HostPattern::parse)
            }),
            schemes: self.schemes.clone().unwrap_or_else(|| vec!["https".to_owned(), "http".to_owned()]),
            schema: self.schema.as_ref().map(|written| {
                let mut mistakes = Vec::new();
                let schema = schema::read(written, &mut mistakes);
                mistakes.into_iter().for_each(|mistake| told.tell(&format!("/schema{}", mistake.at), mistake.what));
                schema
            }),
            remedy: match (self.action, &self.value) {
                (Action::Set, Some(value)) => Remedy::Set(value.clone()),
                (Action::Remove, _) => Remedy::Remove,
                (Action::Clamp, _) => Remedy::Clamp,
                _ => Remedy::Deny,
            },
            message,
        };
        self.tell_contradictions(&condition, told);
        condition
    }

    /// Types, sizes, choices and the pattern. What only speaks of strings or numbers also wants one.
    fn shape(&self, told: &mut Told<'_>) -> Shape {
        let mut shape = Shape::any();
        if let Some(written) = &self.types {
            let mut mistakes = Vec::new();
            shape.types =
                schema::read(&portcullis_guest_sdk::serde_json::json!({ "type": written }), &mut mistakes).types;
            mistakes.into_iter().for_each(|mistake| told.tell("/type", mistake.what));
        }
        let is_text = self.pattern.is_some()
            || self.not_pattern.is_some()
            || self.path_within.is_some()
            || self.host_in.is_some();
        for (applies, types) in [
            (is_text, Types::STRING),
            (self.min.is_some() || self.max.is_some(), Types::NUMBER),
            (self.max_length.is_some(), Types::STRING_OR_ARRAY),
        ] {
            if applies {
                shape.types = shape.types.and(types);
            }
        }
        if shape.types == Types::NONE {
            told.tell("", "no value has all of these: texts have patterns, paths and hosts, numbers have min and max");
        }
        if self.one_of.as_ref().is_some_and(|choices| choices.is_empty() || choices.len() > MAX_LIST) {
            told.tell("/one_of", format!("there are 1 to {MAX_LIST} of them"));
        }
        if self.not_one_of.as_ref().is_some_and(|values| values.is_empty() || values.len() > MAX_LIST) {
            told.tell("/not_one_of", format!("there are 1 to {MAX_LIST} of them"));
        }
        let bound = |number: &Option<Number>| number.clone().map(|number| Bound { number, exclusive: false });
        shape.pattern = self
            .pattern
            .as_deref()
            .and_then(|text| Pattern::whole(text).map_err(|error| told.tell("/pattern", error)).ok());
        Shape {
            one_of: self.one_of.clone(),
            min: bound(&self.min),
            max: bound(&self.max),
            max_length: self.max_length,
            max_items: self.max_length,
            ..shape
        }
    }

    fn tell_contradictions(&self, condition: &Condition, told: &mut Told<'_>) {
        let checks_value = self.types.is_some()
            || self.pattern.is_some()
            || self.not_pattern.is_some()
            || self.max_length.is_some()
            || self.min.is_some()
            || self.max.is_some()
            || self.one_of.is_some()
            || self.not_one_of.is_some()
            || self.path_within.is_some()
            || self.host_in.is_some()
            || self.schema.is_some();
        if !checks_value && !self.required && !self.forbidden {
            told.tell("", "a condition says what must hold, such as required, pattern or one_of");
        }
        if self.forbidden && (self.required || checks_value) {
            told.tell("/forbidden", "what is forbidden has no other conditions");
        }
        if self.schemes.is_some() && self.host_in.is_none() {
            told.tell("/schemes", "schemes belong to host_in");
        }
        if self.schemes.as_ref().is_some_and(|schemes| schemes.is_empty() || schemes.len() > MAX_LIST) {
            told.tell("/schemes", format!("there are 1 to {MAX_LIST} of them"));
        }
        if self.value.is_some() && self.action != Action::Set {
            told.tell("/value", "a value belongs to the action set");
        }
        match self.action {
            Action::Set => match &self.value {
                None => told.tell("/action", "the action set needs a value"),
                Some(value) if condition.check(Some(value), "").is_err() => {
                    told.tell("/value", "the value does not hold the condition itself");
                }
                Some(_) => {}
            },
            Action::Remove if self.required => told.tell("/action", "what is required cannot be removed"),
            Action::Remove | Action::Clamp if self.at.is_empty() => {
                told.tell("/action", "the arguments as a whole cannot be removed or clamped; say where with `at`");
            }
            Action::Clamp if self.min.is_none() && self.max.is_none() && self.max_length.is_none() => {
                told.tell("/action", "only min, max and max_length can be clamped to");
            }
            Action::Deny | Action::Remove | Action::Clamp => {}
        }
    }
}
