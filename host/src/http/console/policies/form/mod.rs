//! Forms for the configurations of policies, from the JSON schemas that their modules bring along. Pure.
//!
//! [`shape`] says what of a schema a form can be made of, [`fill`] makes the form of a configuration, and [`read`] makes the
//! configuration of what was filled in: what one writes, the other reads back as it was. Texts, numbers, choices, lists of
//! texts, lists of objects, objects and maps of texts have fields of their own; whatever else there is, in the schema or in
//! the configuration, is a piece of JSON. Whether a configuration fits its schema is for the policies to say, not for this.
//!
//! Schemas come from strangers: members are counted, depth is bounded, and a form that would become too long is one text.

use std::collections::BTreeMap;

use serde_json::Value;

mod fill;
mod read;
mod shape;
#[cfg(test)]
mod tests;

use shape::{Kind, Member, Shape};

/// What the names of all fields begin with.
pub(super) const PREFIX: &str = "config";
/// Rows of one list.
const MAX_ROWS: usize = 200;
/// Rows to be filled in at the end of a list, and of a list within a list.
const EMPTY_ROWS: usize = 3;
/// Those of the former that stand open. Each may be a screen long.
const OPEN_ROWS: usize = 1;
const EMPTY_ROWS_WITHIN: usize = 1;
/// Pieces of one form; what would have more is one text.
const MAX_PIECES: usize = 6000;

/// The form of one schema.
pub(super) struct Form<'s> {
    /// `None` where the schema says nothing that fields can be made of.
    shape: Option<Shape<'s>>,
}

/// A piece of a form, in the order of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Begins a group of fields.
    Open {
        label: String,
        hint: String,
        mistake: Option<String>,
    },
    Close,
    /// Begins what stands closed until somebody wants it: nothing in it is filled in.
    Fold {
        label: String,
    },
    Unfold,
    Field(Field),
    /// What the page says unseen.
    Hidden {
        name: String,
        value: String,
    },
}

/// A field with its label.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) id: String,
    /// Of what it sends; of checkboxes, each has its own.
    pub(super) name: String,
    pub(super) label: String,
    pub(super) hint: String,
    pub(super) mistake: Option<String>,
    pub(super) control: Control,
}

impl Field {
    /// Whether anything is said of it besides its label.
    pub(super) const fn is_described(&self) -> bool {
        !self.hint.is_empty() || self.mistake.is_some()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control {
    Line {
        value: String,
        is_number: bool,
    },
    Area {
        value: String,
        rows: usize,
        is_code: bool,
    },
    Select(Vec<Choice>),
    /// Any of them.
    Checks(Vec<Choice>),
    Check {
        is_checked: bool,
    },
}

/// One of several.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// What is sent: of checkboxes, the field's name.
    pub(super) value: String,
    pub(super) label: String,
    pub(super) is_chosen: bool,
}

/// What is wrong with a configuration, by JSON pointer.
#[derive(Debug, Default)]
pub(super) struct Mistakes(BTreeMap<String, Mistake>);

#[derive(Debug)]
struct Mistake {
    message: String,
    /// What was typed where nothing could be made of it, and how it is to be shown again.
    typed: Option<(Entry, String)>,
}

/// Where something was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// In the field of the member's own kind.
    Own,
    /// In a field for JSON.
    Json,
    /// In the field for members that the schema does not name.
    More,
}

impl Mistakes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what somebody else found wrong. Of several at one place, all are told.
    pub(super) fn add(&mut self, pointer: &str, message: &str) {
        let mistake = Mistake { message: message.to_owned(), typed: None };
        match self.0.get_mut(pointer) {
            Some(known) => {
                known.message.push_str("; ");
                known.message.push_str(message);
            }
            None => _ = self.0.insert(pointer.to_owned(), mistake),
        }
    }

    fn typed(&mut self, pointer: &str, entry: Entry, typed: String, message: impl Into<String>) {
        self.0.insert(pointer.to_owned(), Mistake { message: message.into(), typed: Some((entry, typed)) });
    }

    /// What is wrong at this very place.
    fn at(&self, pointer: &str) -> Option<String> {
        self.0.get(pointer).map(|mistake| mistake.message.clone())
    }

    /// What is wrong here or within.
    fn within(&self, pointer: &str) -> Option<String> {
        let below = format!("{pointer}/");
        let found = self.0.iter().filter(|(at, _)| *at == pointer || at.starts_with(&below));
        let told: Vec<&str> = found.map(|(_, mistake)| mistake.message.as_str()).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn has_within(&self, pointer: &str) -> bool {
        self.within(pointer).is_some() || self.0.contains_key(&more(pointer))
    }

    fn typed_at(&self, pointer: &str, entry: Entry) -> Option<&str> {
        let (typed_in, typed) = self.0.get(pointer)?.typed.as_ref()?;
        (*typed_in == entry).then_some(typed)
    }

    /// All of them, each with its place.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(pointer, mistake)| (pointer.clone(), mistake.message.clone())).collect()
    }
}

impl<'s> Form<'s> {
    pub(super) fn of(schema: &'s Value) -> Self {
        Self { shape: Shape::of(schema) }
    }

    /// The form of an object with these members, and one more that has a schema of its own and stands behind those that are
    /// named first.
    pub(super) fn around(
        frame: &'s Value,
        before: &[&str],
        (name, title): (&'s str, &'s str),
        schema: &'s Value,
    ) -> Self {
        let within = Shape::of(schema).map_or(Kind::Json, Kind::Group);
        let (description, default) = (None, None);
        let (is_required, may_be_empty) = (false, false);
        let own = Member { name, title: Some(title), description, default, is_required, may_be_empty, kind: within };
        let mut shape = Shape::of(frame);
        if let Some(shape) = &mut shape {
            let place = |member: &Member<'_>| before.iter().position(|name| *name == member.name);
            shape.members.sort_by_key(|member| place(member).unwrap_or(before.len()));
            let at = shape.members.iter().take_while(|member| place(member).is_some()).count();
            shape.members.insert(at, own);
        }
        Self { shape }
    }

    /// The fields of a configuration, with what is wrong with them.
    pub(super) fn fill(&self, config: &Value, mistakes: &Mistakes) -> Vec<Piece> {
        self.filled(config, mistakes, true)
    }

    /// The same as one text.
    pub(super) fn text(config: &Value, mistakes: &Mistakes) -> Vec<Piece> {
        fill::text(config, mistakes)
    }

    /// What of it is filled in, to be read.
    pub(super) fn show(&self, config: &Value) -> Vec<Piece> {
        self.filled(config, &Mistakes::default(), false)
    }

    fn filled(&self, config: &Value, mistakes: &Mistakes, is_for_input: bool) -> Vec<Piece> {
        let pieces = self.shape.as_ref().and_then(|shape| fill::fill(shape, config, mistakes, is_for_input));
        pieces.unwrap_or_else(|| fill::text(config, mistakes))
    }

    /// The configuration that was filled in, and what could not be read of it. `take` gives what a field has, which is nothing
    /// where there is none.
    pub(super) fn read(&self, take: &mut dyn FnMut(&str) -> String) -> (Value, Mistakes) {
        read::read(self.shape.as_ref(), take)
    }
}

impl Field {
    /// What is filled in, for who only reads; empty where that is nothing.
    pub(super) fn shown(&self) -> String {
        let chosen = |choices: &[Choice]| {
            let chosen = choices.iter().filter(|choice| choice.is_chosen && !choice.value.is_empty());
            chosen.map(|choice| choice.label.as_str()).collect::<Vec<_>>().join(", ")
        };
        match &self.control {
            Control::Line { value, .. } | Control::Area { value, .. } => value.clone(),
            Control::Select(choices) | Control::Checks(choices) => chosen(choices),
            Control::Check { is_checked } => if *is_checked { "yes" } else { "" }.to_owned(),
        }
    }
}

/// A JSON pointer to a member (RFC 6901).
fn member(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Where the members of an object are told of that its schema does not name. No pointer looks like this.
fn more(pointer: &str) -> String {
    format!("{pointer}:more")
}

/// The name of a field: where it is, and what it has of it.
fn field(pointer: &str, part: &str) -> String {
    format!("{PREFIX}{pointer}:{part}")
}
