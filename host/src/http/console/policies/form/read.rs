//! From what was filled in to a configuration. Pure.

use serde_json::{Map, Number, Value};

use super::shape::{Kind, Member, Shape};
use super::{EMPTY_ROWS, Entry, MAX_ROWS, Mistakes, field, member, more};

/// Rows of all lists of one form together.
const MAX_ROWS_IN_ALL: usize = 4000;

/// Members of all objects of one form together.
const MAX_MEMBERS_IN_ALL: usize = 50_000;

/// A form that was sent.
struct Reading<'t> {
    take: &'t mut dyn FnMut(&str) -> String,
    /// Rows that may still be read.
    rows_left: usize,
    /// Members that may still be read; `None` once there were more.
    members_left: Option<usize>,
    mistakes: Mistakes,
}

/// Where a member stands: in the form, and in the configuration, in which rows that were left out do not count.
struct Place {
    form: String,
    config: String,
}

impl Place {
    fn member(&self, name: &str) -> Self {
        Self { form: member(&self.form, name), config: member(&self.config, name) }
    }
}

pub(super) fn read(shape: Option<&Shape<'_>>, take: &mut dyn FnMut(&str) -> String) -> (Value, Mistakes) {
    let mut reading = Reading {
        take,
        rows_left: MAX_ROWS_IN_ALL,
        members_left: Some(MAX_MEMBERS_IN_ALL),
        mistakes: Mistakes::default(),
    };
    let root = Place { form: String::new(), config: String::new() };
    let whole = reading.json(&root);
    let config = match (whole, shape) {
        (Some(whole), _) => whole,
        (None, Some(shape)) => Value::Object(reading.shape(shape, &root)),
        (None, None) => Value::Object(Map::new()),
    };
    (config, reading.mistakes)
}

impl Reading<'_> {
    fn part(&mut self, place: &Place, part: &str) -> String {
        (self.take)(&field(&place.form, part)).replace("\r\n", "\n")
    }

    /// What a field for JSON has. Of what is none, a mistake and an empty object are left, so that its place stays known.
    fn json(&mut self, place: &Place) -> Option<Value> {
        let typed = self.part(place, "json");
        if typed.trim().is_empty() {
            return None;
        }
        let read = serde_json::from_str(&typed);
        Some(read.unwrap_or_else(|error| {
            self.mistakes.typed(&place.config, Entry::Json, typed, format!("this is not JSON: {error}"));
            Value::Object(Map::new())
        }))
    }

    fn shape(&mut self, shape: &Shape<'_>, place: &Place) -> Map<String, Value> {
        let mut members = Map::new();
        if !self.has_room_for(shape, place) {
            return members;
        }
        for known in &shape.members {
            let at = place.member(known.name);
            let value = match self.json(&at) {
                Some(value) => Some(value),
                None => self.member(known, &at),
            };
            if let Some(value) = value {
                members.insert(known.name.to_owned(), value);
            }
        }
        self.more(shape, place, &mut members);
        members
    }

    /// Whether the members of one more object can be read. Where they cannot, that is said once.
    fn has_room_for(&mut self, shape: &Shape<'_>, place: &Place) -> bool {
        let Some(left) = self.members_left else { return false };
        self.members_left = left.checked_sub(shape.members.len());
        if self.members_left.is_none() {
            let message = format!("there are more than {MAX_MEMBERS_IN_ALL} fields in all: write this as JSON");
            self.mistakes.add(&place.config, &message);
        }
        self.members_left.is_some()
    }

    /// Members that the schema does not name.
    fn more(&mut self, shape: &Shape<'_>, place: &Place, members: &mut Map<String, Value>) {
        let typed = self.part(place, "more");
        if typed.trim().is_empty() {
            return;
        }
        let at = more(&place.config);
        match serde_json::from_str::<Map<String, Value>>(&typed) {
            Err(error) => {
                self.mistakes.typed(&at, Entry::More, typed, format!("this is not a JSON object: {error}"));
            }
            Ok(more) => match more.keys().find(|name| shape.members.iter().any(|known| known.name == **name)) {
                Some(name) => {
                    let message = format!("{name} has a field of its own");
                    self.mistakes.typed(&at, Entry::More, typed, message);
                }
                None => members.extend(more),
            },
        }
    }

    fn member(&mut self, known: &Member<'_>, place: &Place) -> Option<Value> {
        match &known.kind {
            Kind::Text { .. } => some(self.part(place, "text")).map(Value::String),
            Kind::Number => {
                let typed = self.part(place, "number");
                if typed.trim().is_empty() {
                    return None;
                }
                let read = serde_json::from_str::<Number>(typed.trim());
                if read.is_err() {
                    self.mistakes.typed(&place.config, Entry::Own, typed, "this is not a number");
                }
                read.ok().map(Value::Number)
            }
            Kind::Flag => match self.part(place, "flag").as_str() {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                _ => None,
            },
            Kind::Choice(words) => {
                let word = self.part(place, "choice");
                words.contains(&word.as_str()).then_some(Value::String(word))
            }
            Kind::Choices(words) => {
                let mut chosen = Vec::new();
                for (at, word) in words.iter().enumerate() {
                    if !self.part(place, &format!("is{at}")).is_empty() {
                        chosen.push(Value::from(*word));
                    }
                }
                self.list(known, place, chosen)
            }
            Kind::Lines => {
                let typed = self.part(place, "lines");
                let lines = typed.lines().map(str::trim).filter(|line| !line.is_empty()).map(Value::from);
                self.list(known, place, lines.collect())
            }
            Kind::Rows(shape) => {
                let rows = self.rows(shape, place);
                self.list(known, place, rows)
            }
            Kind::Group(shape) => {
                let members = self.shape(shape, place);
                let is_there = !members.is_empty() || self.has_mistakes(place);
                is_there.then_some(Value::Object(members))
            }
            Kind::Map => self.map(place),
            Kind::Json => None,
        }
    }

    /// A list, which is not there if nothing is in it, unless that is meant.
    fn list(&mut self, known: &Member<'_>, place: &Place, items: Vec<Value>) -> Option<Value> {
        let is_meant = known.may_be_empty && !self.part(place, "none").is_empty();
        (is_meant || !items.is_empty()).then_some(Value::Array(items))
    }

    fn count(&mut self, place: &Place) -> usize {
        let count = self.part(place, "rows").parse().unwrap_or(0).min(MAX_ROWS + EMPTY_ROWS).min(self.rows_left);
        self.rows_left -= count;
        count
    }

    /// The objects of a list, but for those that are taken away or have nothing in them.
    fn rows(&mut self, shape: &Shape<'_>, place: &Place) -> Vec<Value> {
        let mut rows = Vec::new();
        for at in 0..self.count(place) {
            let row =
                Place { form: format!("{}/{at}", place.form), config: format!("{}/{}", place.config, rows.len()) };
            if !self.part(&row, "gone").is_empty() {
                continue;
            }
            let members = self.shape(shape, &row);
            if !members.is_empty() || self.has_mistakes(&row) {
                rows.push(Value::Object(members));
            }
        }
        rows
    }

    fn map(&mut self, place: &Place) -> Option<Value> {
        let mut members = Map::new();
        for at in 0..self.count(place) {
            let name = self.part(place, &format!("name{at}")).trim().to_owned();
            let text = self.part(place, &format!("text{at}"));
            if name.is_empty() && text.is_empty() {
                continue;
            }
            if name.is_empty() {
                self.mistakes.add(&place.config, "a text has no name");
            }
            // What was typed stays, so that it can be put right.
            let unused = (1..).map(|again| if again == 1 { name.clone() } else { format!("{name} ({again})") });
            let Some(unused) = unused.into_iter().find(|name| !members.contains_key(name)) else { continue };
            if unused != name {
                self.mistakes.add(&place.config, &format!("two texts have the name {name}"));
            }
            members.insert(unused, Value::String(text));
        }
        (!members.is_empty()).then_some(Value::Object(members))
    }

    fn has_mistakes(&self, place: &Place) -> bool {
        self.mistakes.has_within(&place.config)
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
