//! The form of a JSON value: types, sizes, choices, patterns, and the form of what it is made of.
//!
//! One form serves conditions and JSON Schemas. As in a JSON Schema, a limit speaks only of values that it can speak of: a
//! longest length says nothing about a number. Conditions and schemas add a type where that is not wanted.

use std::cmp::Ordering;
use std::fmt;

use portcullis_guest_sdk::json;
use portcullis_guest_sdk::serde_json::{Map, Number, Value};
use regex_lite::{Regex, RegexBuilder};

/// Longest text that patterns are tried on, in bytes. The time of a match grows with the text and the pattern only.
const MAX_MATCHED: usize = 64 * 1024;
/// Longest pattern, in bytes, and the largest that it may become, so that a repetition of repetitions stays small.
const MAX_PATTERN: usize = 1024;
const MAX_COMPILED: usize = 256 * 1024;
/// Longest list of choices that a refusal names, in bytes.
const MAX_NAMED: usize = 200;

/// Why a value does not have its form, and where.
#[derive(Debug, PartialEq)]
pub(crate) struct Misfit {
    /// RFC 6901 pointer into the arguments.
    pub(crate) at: String,
    /// The setting that does not hold, as part of a reason's code.
    pub(crate) check: &'static str,
    what: String,
}

impl Misfit {
    pub(crate) fn at(at: &str, check: &'static str, what: String) -> Self {
        Self { at: at.to_owned(), check, what }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at.as_str() {
            "" => write!(f, "The arguments {}.", self.what),
            at => write!(f, "The argument {at} {}.", self.what),
        }
    }
}

/// Which JSON types a value may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Types(u8);

impl Types {
    /// Name and bit. Every integer is a number too.
    const NAMES: [(&str, u8); 7] =
        [("null", 1), ("boolean", 2), ("integer", 4), ("number", 4 | 8), ("string", 16), ("array", 32), ("object", 64)];
    pub(crate) const ANY: Self = Self(127);
    pub(crate) const NUMBER: Self = Self(4 | 8);
    pub(crate) const STRING: Self = Self(16);
    pub(crate) const STRING_OR_ARRAY: Self = Self(16 | 32);

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, bits)| Self(*bits))
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const NONE: Self = Self(0);

    fn of(value: &Value) -> Self {
        Self(match value {
            Value::Null => 1,
            Value::Bool(_) => 2,
            Value::Number(number) if is_whole(number) => 4,
            Value::Number(_) => 8,
            Value::String(_) => 16,
            Value::Array(_) => 32,
            Value::Object(_) => 64,
        })
    }

    fn has(self, value: &Value) -> bool {
        self.and(Self::of(value)) != Self::NONE
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        let mut words = Vec::new();
        // A number is named before an integer, which is part of it.
        for (name, bits) in Self::NAMES.iter().rev() {
            if left & bits == *bits {
                left &= !bits;
                words.push(*name);
            }
        }
        words.reverse();
        f.write_str(&words.join(" or "))
    }
}

/// A pattern that is matched in linear time.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    regex: Regex,
    text: String,
}

impl Pattern {
    /// Found anywhere in a text, unless it says otherwise itself.
    pub(crate) fn anywhere(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_PATTERN {
            return Err(format!("a pattern has 1 to {MAX_PATTERN} bytes"));
        }
        Ok(Self { regex: compiled(text)?, text: text.to_owned() })
    }

    /// Fits a text only as a whole.
    pub(crate) fn whole(text: &str) -> Result<Self, String> {
        // Read alone first: a pattern that closes the group early is a mistake and not a way out.
        let alone = Self::anywhere(text)?;
        Ok(Self { regex: compiled(&format!("^(?:{text})$"))?, ..alone })
    }

    /// Whether it fits; `None` if the text is too long to be tried.
    pub(crate) fn is_match(&self, text: &str) -> Option<bool> {
        (text.len() <= MAX_MATCHED).then(|| self.regex.is_match(text))
    }
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).nest_limit(32).build();
    regex.map_err(|error| format!("the pattern cannot be read: {error}"))
}

/// The form that a value must have.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) types: Types,
    pub(crate) one_of: Option<Vec<Value>>,
    pub(crate) min: Option<Bound>,
    pub(crate) max: Option<Bound>,
    /// In characters.
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) items: Option<Box<Shape>>,
    pub(crate) properties: Vec<(String, Shape)>,
    pub(crate) required: Vec<String>,
    pub(crate) additional: Additional,
}

/// What members may be that `properties` does not name.
#[derive(Clone, Debug)]
pub(crate) enum Additional {
    Any,
    Forbidden,
    Shaped(Box<Shape>),
}

/// The least or the greatest number.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) number: Number,
    pub(crate) exclusive: bool,
}

impl Shape {
    /// The form of everything.
    pub(crate) fn any() -> Self {
        Self {
            types: Types::ANY,
            one_of: None,
            min: None,
            max: None,
            min_length: None,
            max_length: None,
            pattern: None,
            min_items: None,
            max_items: None,
            items: None,
            properties: Vec::new(),
            required: Vec::new(),
            additional: Additional::Any,
        }
    }

    /// Holds a value against the form. The depth of the work is that of the form.
    pub(crate) fn check(&self, value: &Value, at: &str) -> Result<(), Misfit> {
        let misfit = |check, what: String| Err(Misfit::at(at, check, what));
        if !self.types.has(value) {
            return misfit("type", format!("must be of type {}", self.types));
        }
        if let Some(choices) = &self.one_of
            && !choices.iter().any(|choice| is_same(choice, value))
        {
            return misfit("one_of", one_of(choices));
        }
        match value {
            Value::Number(number) => self.check_number(number, at),
            Value::String(text) => self.check_text(text, at),
            Value::Array(items) => self.check_items(items, at),
            Value::Object(members) => self.check_members(members, at),
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    fn check_number(&self, number: &Number, at: &str) -> Result<(), Misfit> {
        let (min, max) = (self.min.as_ref(), self.max.as_ref());
        if let Some(min) = min.filter(|min| !min.allows(number, Ordering::Greater)) {
            let more = if min.exclusive { "more than" } else { "at least" };
            return Err(Misfit::at(at, "min", format!("must be {more} {}", min.number)));
        }
        if let Some(max) = max.filter(|max| !max.allows(number, Ordering::Less)) {
            let less = if max.exclusive { "less than" } else { "at most" };
            return Err(Misfit::at(at, "max", format!("must be {less} {}", max.number)));
        }
        Ok(())
    }

    fn check_text(&self, text: &str, at: &str) -> Result<(), Misfit> {
        if self.min_length.is_some() || self.max_length.is_some() {
            let length = text.chars().count() as u64;
            if let Some(min) = self.min_length.filter(|min| length < *min) {
                return Err(Misfit::at(at, "min_length", format!("must have at least {min} characters")));
            }
            if let Some(max) = self.max_length.filter(|max| length > *max) {
                return Err(Misfit::at(at, "max_length", format!("must have at most {max} characters")));
            }
        }
        match self.pattern.as_ref().map(|pattern| (pattern, pattern.is_match(text))) {
            None | Some((_, Some(true))) => Ok(()),
            Some((_, None)) => Err(Misfit::at(at, "pattern", "is too long to be checked".to_owned())),
            Some((pattern, _)) => Err(Misfit::at(at, "pattern", format!("must match the pattern {}", pattern.text))),
        }
    }

    fn check_items(&self, items: &[Value], at: &str) -> Result<(), Misfit> {
        let length = items.len() as u64;
        if let Some(min) = self.min_items.filter(|min| length < *min) {
            return Err(Misfit::at(at, "min_items", format!("must have at least {min} items")));
        }
        if let Some(max) = self.max_items.filter(|max| length > *max) {
            return Err(Misfit::at(at, "max_items", format!("must have at most {max} items")));
        }
        let Some(shape) = &self.items else { return Ok(()) };
        items.iter().enumerate().try_for_each(|(index, item)| shape.check(item, &below(at, &index.to_string())))
    }

    fn check_members(&self, members: &Map<String, Value>, at: &str) -> Result<(), Misfit> {
        if let Some(name) = self.required.iter().find(|name| !members.contains_key(*name)) {
            return Err(Misfit::at(&below(at, name), "required", "is missing".to_owned()));
        }
        for (name, member) in members {
            let shape = match (self.properties.iter().find(|(known, _)| known == name), &self.additional) {
                (Some((_, shape)), _) => shape,
                (None, Additional::Shaped(shape)) => shape,
                (None, Additional::Any) => continue,
                (None, Additional::Forbidden) => {
                    return Err(Misfit::at(&below(at, name), "forbidden", "is not known".to_owned()));
                }
            };
            shape.check(member, &below(at, name))?;
        }
        Ok(())
    }

    /// The value within the limits of numbers and lengths.
    pub(crate) fn clamped(&self, value: &Value) -> Value {
        match value {
            Value::Number(number) => {
                let beyond = |bound: &&Bound, side| !bound.allows(number, side);
                let min = self.min.as_ref().filter(|min| beyond(min, Ordering::Greater));
                let bound = min.or_else(|| self.max.as_ref().filter(|max| beyond(max, Ordering::Less)));
                Value::Number(bound.map_or(number, |bound| &bound.number).clone())
            }
            Value::String(text) => match self.max_length.and_then(|max| usize::try_from(max).ok()) {
                Some(max) => Value::String(text.chars().take(max).collect()),
                None => value.clone(),
            },
            Value::Array(items) => match self.max_items.and_then(|max| usize::try_from(max).ok()) {
                Some(max) => Value::Array(items.iter().take(max).cloned().collect()),
                None => value.clone(),
            },
            other => other.clone(),
        }
    }
}

impl Bound {
    /// Whether the number is on this side of the bound, or on it where that is allowed.
    fn allows(&self, number: &Number, side: Ordering) -> bool {
        match compare(number, &self.number) {
            Some(Ordering::Equal) => !self.exclusive,
            found => found == Some(side),
        }
    }
}

/// Exact for integers of 64 bits; other numbers are compared as the doubles that they are nearest to.
fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn is_whole(number: &Number) -> bool {
    integer(number).is_some() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// Whether two values are the same, in the sense of JSON Schema: `1` and `1.0` are.
pub(crate) fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Some(Ordering::Equal),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| is_same(a, b)))
        }
        _ => a == b,
    }
}

fn one_of(choices: &[Value]) -> String {
    let named: Vec<String> = choices.iter().map(ToString::to_string).collect();
    match named.join(", ") {
        all if all.len() <= MAX_NAMED => format!("must be one of {all}"),
        _ => "is none of the allowed values".to_owned(),
    }
}

fn below(at: &str, token: &str) -> String {
    let mut pointer = at.to_owned();
    json::push_token(&mut pointer, token);
    pointer
}

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_compared_exactly_where_they_are_integers() {
        let bound = |number: Value, exclusive| Bound { number: serde_number(&number), exclusive };
        let at_most = |max: Bound, value: Value| Shape { max: Some(max), ..Shape::any() }.check(&value, "").is_ok();
        let edge = 9_007_199_254_740_993_u64; // where doubles begin to skip
        assert!(at_most(bound(json!(edge), false), json!(edge)));
        assert!(!at_most(bound(json!(edge), false), json!(edge + 1)));
        assert!(!at_most(bound(json!(edge), true), json!(edge)));
        assert!(at_most(bound(json!(1.5), false), json!(1)));
        assert!(!at_most(bound(json!(-1), false), json!(u64::MAX)));
        assert!(is_same(&json!({"a": [1, 2.0]}), &json!({"a": [1.0, 2]})));
        assert!(!is_same(&json!([1]), &json!(["1"])));
    }

    fn serde_number(value: &Value) -> Number {
        value.as_number().unwrap().clone()
    }

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        let integer = Shape { types: Types::named("integer").unwrap(), ..Shape::any() };
        for (value, fits) in [(json!(7), true), (json!(7.0), true), (json!(7.5), false), (json!("7"), false)] {
            assert_eq!(integer.check(&value, "").is_ok(), fits, "{value}");
        }
        assert_eq!(Types::NUMBER.to_string(), "number");
        assert_eq!(Types::named("integer").unwrap().or(Types::STRING).to_string(), "integer or string");
    }

    #[test]
    fn a_pattern_fits_a_text_as_a_whole_or_is_found_in_it() {
        let fits = |pattern: Result<Pattern, String>, text: &str| pattern.unwrap().is_match(text);
        assert_eq!(fits(Pattern::anywhere("b+"), "abbc"), Some(true));
        assert_eq!(fits(Pattern::whole("b+"), "abbc"), Some(false));
        assert_eq!(fits(Pattern::whole("a|ab"), "ab"), Some(true), "the longer choice is tried too");
        assert_eq!(fits(Pattern::whole("(?m)a"), "b\na\nb"), Some(false), "a text of lines is one text");
        assert_eq!(fits(Pattern::whole("a"), "a\n"), Some(false));
        assert_eq!(fits(Pattern::anywhere("a"), &"b".repeat(MAX_MATCHED + 1)), None);
        for wrong in ["", "(", "a)|(b", "a{1000}{1000}", &"a".repeat(MAX_PATTERN + 1)] {
            assert!(Pattern::whole(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_takes_long_elsewhere_is_decided_at_once() {
        let pattern = Pattern::whole("(a*)*b").unwrap();
        assert_eq!(pattern.is_match(&"a".repeat(20_000)), Some(false));
    }

    #[test]
    fn a_value_is_clamped_to_the_nearest_that_fits() {
        let limits = Shape {
            min: Some(Bound { number: 1.into(), exclusive: false }),
            max: Some(Bound { number: 100.into(), exclusive: false }),
            max_length: Some(2),
            max_items: Some(1),
            ..Shape::any()
        };
        for (value, clamped) in [
            (json!(0), json!(1)),
            (json!(50.5), json!(50.5)),
            (json!(1e300), json!(100)),
            (json!("größe"), json!("gr")),
            (json!([1, 2]), json!([1])),
            (json!(null), json!(null)),
        ] {
            assert_eq!(limits.clamped(&value), clamped, "{value}");
        }
    }
}
