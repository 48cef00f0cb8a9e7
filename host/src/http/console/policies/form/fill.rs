//! From a configuration to the fields of its form. Pure.

use serde_json::{Map, Value};

use super::shape::{Kind, Member, Shape};
use super::{
    Choice, Control, EMPTY_ROWS, EMPTY_ROWS_WITHIN, Entry, Field, MAX_PIECES, MAX_ROWS, Mistakes, OPEN_ROWS, Piece,
    field, member, more as more_of,
};

/// Rows of a field for JSON, and for texts.
const JSON_ROWS: usize = 6;
const TEXT_ROWS: usize = 4;
const MAX_TEXT_ROWS: usize = 24;
/// Longest words of a schema that stand beside a field, in characters.
const MAX_WORDS: usize = 600;

/// A form in the making.
struct Filling<'m> {
    mistakes: &'m Mistakes,
    /// Whether something is to be filled in; otherwise it is read.
    is_for_input: bool,
    pieces: Vec<Piece>,
    /// Fields so far, for their ids.
    count: usize,
}

/// The whole configuration in one field.
pub(super) fn text(config: &Value, mistakes: &Mistakes) -> Vec<Piece> {
    let mut filling = Filling { mistakes, is_for_input: true, pieces: Vec::new(), count: 0 };
    let typed = mistakes.typed_at("", Entry::Json).map(ToOwned::to_owned);
    let value = typed.unwrap_or_else(|| format!("{config:#}"));
    let control = Control::Area { rows: rows_of(&value).max(12), value, is_code: true };
    filling.field((field("", "json"), "Configuration".to_owned(), String::new()), mistakes.within(""), control);
    filling.pieces
}

/// The fields of a configuration. `None` where that is no object, or there would be too many.
pub(super) fn fill(shape: &Shape<'_>, config: &Value, mistakes: &Mistakes, is_for_input: bool) -> Option<Vec<Piece>> {
    if mistakes.typed_at("", Entry::Json).is_some() {
        return None;
    }
    let mut filling = Filling { mistakes, is_for_input, pieces: Vec::new(), count: 0 };
    filling.shape(shape, "", config.as_object()?, 0);
    (filling.pieces.len() <= MAX_PIECES).then_some(filling.pieces)
}

impl Filling<'_> {
    fn shape(&mut self, shape: &Shape<'_>, pointer: &str, values: &Map<String, Value>, depth: usize) {
        for known in &shape.members {
            // Whoever has so much of it gets one text.
            if self.pieces.len() > MAX_PIECES {
                return;
            }
            self.member(known, &member(pointer, known.name), values.get(known.name), depth);
        }
        let is_named = |name: &String| shape.members.iter().any(|known| known.name == name);
        let more: Map<String, Value> = values
            .iter()
            .filter(|(name, _)| !is_named(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let typed = self.mistakes.typed_at(&more_of(pointer), Entry::More);
        if !shape.is_open && more.is_empty() && typed.is_none() {
            return;
        }
        let value = match typed {
            Some(typed) => typed.to_owned(),
            None if more.is_empty() => String::new(),
            None => format!("{:#}", Value::Object(more)),
        };
        let mistake = self.mistakes.at(&more_of(pointer));
        let hint = "What the module does not name, as a JSON object.".to_owned();
        let control = Control::Area { rows: JSON_ROWS, value, is_code: true };
        self.field((field(pointer, "more"), "Other members".to_owned(), hint), mistake, control);
    }

    fn member(&mut self, known: &Member<'_>, pointer: &str, value: Option<&Value>, depth: usize) {
        let is_json = self.mistakes.typed_at(pointer, Entry::Json).is_some()
            || value.is_some_and(|value| !self.fits(known, pointer, value));
        let label = label_of(known);
        if is_json || matches!(known.kind, Kind::Json) {
            return self.json(known, pointer, value, label);
        }
        let name = |part: &str| field(pointer, part);
        let mistake = self.mistakes.within(pointer);
        let text = || value.and_then(Value::as_str).unwrap_or_default().to_owned();
        match &known.kind {
            Kind::Text { is_long } => {
                let value = text();
                let control = if *is_long || value.contains('\n') {
                    Control::Area { rows: rows_of(&value), value, is_code: false }
                } else {
                    Control::Line { value, is_number: false }
                };
                self.field((name("text"), label, hint_of(known, "")), mistake, control);
            }
            Kind::Number => {
                let typed = self.mistakes.typed_at(pointer, Entry::Own).map(ToOwned::to_owned);
                let value = typed.or_else(|| value.map(ToString::to_string)).unwrap_or_default();
                let control = Control::Line { value, is_number: true };
                self.field((name("number"), label, hint_of(known, "")), mistake, control);
            }
            Kind::Flag => {
                let is = |flag: bool| value.and_then(Value::as_bool) == Some(flag);
                let control = selection(&[("true", "yes", is(true)), ("false", "no", is(false))]);
                self.field((name("flag"), label, hint_of(known, "")), mistake, control);
            }
            Kind::Choice(words) => {
                let chosen = text();
                let words: Vec<_> = words.iter().map(|word| (*word, *word, *word == chosen)).collect();
                self.field((name("choice"), label, hint_of(known, "")), mistake, selection(&words));
            }
            Kind::Choices(words) => {
                let chosen = texts(value);
                let choice = |(at, word): (usize, &&str)| Choice {
                    value: name(&format!("is{at}")),
                    label: (*word).to_owned(),
                    is_chosen: chosen.contains(word),
                };
                let control = Control::Checks(words.iter().enumerate().map(choice).collect());
                self.field((name("choices"), label, hint_of(known, "")), mistake, control);
                self.empty_list(known, pointer, value);
            }
            Kind::Lines => {
                let value_text = texts(value).join("\n");
                let control = Control::Area { rows: rows_of(&value_text), value: value_text, is_code: false };
                self.field((name("lines"), label, hint_of(known, "One on each line.")), mistake, control);
                self.empty_list(known, pointer, value);
            }
            Kind::Rows(shape) => self.rows(known, shape, pointer, value, depth),
            Kind::Group(shape) => {
                let none = Map::new();
                self.open(label, hint_of(known, ""), self.mistakes.at(pointer));
                self.shape(shape, pointer, value.and_then(Value::as_object).unwrap_or(&none), depth);
                self.pieces.push(Piece::Close);
            }
            Kind::Map => self.map(known, pointer, value),
            Kind::Json => {}
        }
    }

    fn json(&mut self, known: &Member<'_>, pointer: &str, value: Option<&Value>, label: String) {
        let typed = self.mistakes.typed_at(pointer, Entry::Json).map(ToOwned::to_owned);
        let value = typed.or_else(|| value.map(|value| format!("{value:#}"))).unwrap_or_default();
        let control = Control::Area { rows: rows_of(&value).max(JSON_ROWS), value, is_code: true };
        let mistake = self.mistakes.within(pointer);
        self.field((field(pointer, "json"), label, hint_of(known, "As JSON.")), mistake, control);
    }

    /// A list of objects: those that are there, and some to be filled in.
    fn rows(&mut self, known: &Member<'_>, shape: &Shape<'_>, pointer: &str, value: Option<&Value>, depth: usize) {
        let none = Map::new();
        let there: Vec<&Map<String, Value>> =
            value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object).collect();
        let (open, empty) = match (self.is_for_input, depth) {
            (false, _) => (0, 0),
            (true, 0) => (OPEN_ROWS, EMPTY_ROWS),
            (true, _) => (0, EMPTY_ROWS_WITHIN),
        };
        let (count, folded) = (there.len() + empty, there.len() + open);
        self.open(label_of(known), hint_of(known, ""), self.mistakes.at(pointer));
        self.hidden(field(pointer, "rows"), count);
        for at in 0..count {
            self.fold(known, at == folded);
            let (row, row_pointer) = (there.get(at).copied(), format!("{pointer}/{at}"));
            let label = match row {
                Some(_) => format!("{} {}", known.name, at + 1),
                None => format!("{} {}, new", known.name, at + 1),
            };
            self.open(label, String::new(), self.mistakes.at(&row_pointer));
            self.shape(shape, &row_pointer, row.unwrap_or(&none), depth + 1);
            if row.is_some() && self.is_for_input {
                let name = (field(&row_pointer, "gone"), "Take this one away".to_owned(), String::new());
                self.field(name, None, Control::Check { is_checked: false });
            }
            self.pieces.push(Piece::Close);
        }
        self.unfold(count > folded);
        self.empty_list(known, pointer, value);
        self.pieces.push(Piece::Close);
    }

    /// Texts by name, and some rows to be filled in.
    fn map(&mut self, known: &Member<'_>, pointer: &str, value: Option<&Value>) {
        let there: Vec<(&String, &Value)> = value.and_then(Value::as_object).into_iter().flatten().collect();
        let (open, empty) = if self.is_for_input { (OPEN_ROWS, EMPTY_ROWS) } else { (0, 0) };
        let (count, folded) = (there.len() + empty, there.len() + open);
        self.open(label_of(known), hint_of(known, ""), self.mistakes.within(pointer));
        self.hidden(field(pointer, "rows"), count);
        for at in 0..count {
            self.fold(known, at == folded);
            let (name, text) = there.get(at).map_or(("", ""), |(name, text)| (name, text.as_str().unwrap_or_default()));
            let named = (field(pointer, &format!("name{at}")), format!("Name {}", at + 1), String::new());
            self.field(named, None, Control::Line { value: name.to_owned(), is_number: false });
            let texted = (field(pointer, &format!("text{at}")), format!("Text {}", at + 1), String::new());
            let control = Control::Area { value: text.to_owned(), rows: rows_of(text), is_code: true };
            self.field(texted, None, control);
        }
        self.unfold(count > folded);
        self.pieces.push(Piece::Close);
    }

    /// Tells a list with nothing in it from none.
    fn empty_list(&mut self, known: &Member<'_>, pointer: &str, value: Option<&Value>) {
        let is_checked = value.and_then(Value::as_array).is_some_and(Vec::is_empty);
        if known.may_be_empty && (self.is_for_input || is_checked) {
            let label = format!("{}: a list with nothing in it", known.name);
            self.field((field(pointer, "none"), label, String::new()), None, Control::Check { is_checked });
        }
    }

    /// Whether what is there can be said in the member's own field.
    fn fits(&self, known: &Member<'_>, pointer: &str, value: &Value) -> bool {
        let list = || value.as_array().filter(|list| known.may_be_empty || !list.is_empty());
        let is_row = |at: usize, row: &Value| {
            let has_some = row.as_object().is_some_and(|row| !row.is_empty());
            has_some || (row.is_object() && self.mistakes.has_within(&format!("{pointer}/{at}")))
        };
        match &known.kind {
            Kind::Text { .. } => value.as_str().is_some_and(|text| !text.is_empty() && !text.contains('\r')),
            Kind::Number => value.is_number(),
            Kind::Flag => value.is_boolean(),
            Kind::Choice(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Kind::Choices(words) => list().is_some_and(|list| {
                let chosen = words.iter().filter(|word| list.iter().any(|item| *item == **word));
                chosen.eq(list.iter().filter_map(Value::as_str).collect::<Vec<_>>().iter())
                    && list.iter().all(Value::is_string)
            }),
            Kind::Lines => list().is_some_and(|list| list.iter().all(|item| item.as_str().is_some_and(is_line))),
            Kind::Rows(_) => list()
                .is_some_and(|list| list.len() <= MAX_ROWS && list.iter().enumerate().all(|(at, row)| is_row(at, row))),
            Kind::Group(_) => {
                value.as_object().is_some_and(|members| !members.is_empty() || self.mistakes.has_within(pointer))
            }
            Kind::Map => value.as_object().is_some_and(|members| {
                let is_text = |text: &Value| text.as_str().is_some_and(|text| !text.contains('\r'));
                (1..=MAX_ROWS).contains(&members.len())
                    && members.iter().all(|(name, text)| is_line(name) && is_text(text))
            }),
            Kind::Json => true,
        }
    }

    fn open(&mut self, label: String, hint: String, mistake: Option<String>) {
        self.pieces.push(Piece::Open { label, hint, mistake });
    }

    /// Begins the rows that stand closed, if it is time.
    fn fold(&mut self, known: &Member<'_>, is_time: bool) {
        if is_time {
            self.pieces.push(Piece::Fold { label: format!("Room for more {}", cut(known.name)) });
        }
    }

    fn unfold(&mut self, is_folded: bool) {
        if is_folded {
            self.pieces.push(Piece::Unfold);
        }
    }

    fn hidden(&mut self, name: String, count: usize) {
        self.pieces.push(Piece::Hidden { name, value: count.to_string() });
    }

    fn field(&mut self, (name, label, hint): (String, String, String), mistake: Option<String>, control: Control) {
        self.count += 1;
        let id = format!("member-{}", self.count);
        self.pieces.push(Piece::Field(Field { id, name, label, hint, mistake, control }));
    }
}

/// One line that stays as it is when it is typed among others.
fn is_line(text: &str) -> bool {
    !text.is_empty() && text == text.trim() && !text.contains(['\n', '\r'])
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A choice of one or none.
fn selection(words: &[(&str, &str, bool)]) -> Control {
    let none =
        Choice { value: String::new(), label: "not said".to_owned(), is_chosen: words.iter().all(|word| !word.2) };
    let choice = |(value, label, is_chosen): &(&str, &str, bool)| Choice {
        value: (*value).to_owned(),
        label: (*label).to_owned(),
        is_chosen: *is_chosen,
    };
    Control::Select(std::iter::once(none).chain(words.iter().map(choice)).collect())
}

fn label_of(known: &Member<'_>) -> String {
    let name = cut(known.title.unwrap_or(known.name));
    if known.is_required { format!("{name} (required)") } else { name }
}

/// What the schema says of a member, and what becomes of one that is not said.
fn hint_of(known: &Member<'_>, how: &str) -> String {
    let default = known.default.map(|default| format!("Not said, it is {}.", cut(&default.to_string())));
    let said = known.description.map(cut);
    let parts = [said, (!how.is_empty()).then(|| how.to_owned()), default];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn cut(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_WORDS).collect()
}

fn rows_of(text: &str) -> usize {
    (text.lines().count() + 1).clamp(TEXT_ROWS, MAX_TEXT_ROWS)
}
