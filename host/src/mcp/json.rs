//! JSON as text that is looked at but not rewritten.
//!
//! [`Members`] is an object whose values stay raw text, in the order in which they came; [`check`] bounds what a
//! document may look like before anyone reads it. serde_json's own limit of 128 levels stands behind both.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting that a message may have.
pub const MAX_DEPTH: usize = 64;

/// An object's members: names decoded, values as they came, order kept. Names are unique.
#[derive(Debug, Default, Clone)]
pub struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// Reads an object. Fails on anything else and on a name that occurs twice.
    pub fn parse(object: &str) -> serde_json::Result<Self> {
        serde_json::from_str(object)
    }

    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Takes a member out, keeping the order of the others.
    pub fn remove(&mut self, name: &str) -> Option<Box<RawValue>> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(at).1)
    }

    /// Replaces a member where it stands, or adds it at the end.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Keeps the members whose names pass.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// The object again, as JSON text.
    pub fn to_raw(&self) -> Box<RawValue> {
        let mut out = ObjectWriter::default();
        for (name, value) in self.iter() {
            out.member(name, value.get());
        }
        out.finish()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    members.push((name, map.next_value()?));
                }
                match repeated(members.iter().map(|(name, _)| name.as_str())) {
                    Some(twice) => Err(A::Error::custom(format_args!("member {twice:?} occurs twice"))),
                    None => Ok(Members(members)),
                }
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Objects of more members than this are looked through with a set.
const FEW: usize = 16;

/// A name that occurs twice.
fn repeated<'a>(names: impl ExactSizeIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    if names.len() <= FEW {
        let mut rest = names;
        while let Some(name) = rest.next() {
            if rest.clone().any(|other| other == name) {
                return Some(name);
            }
        }
        return None;
    }
    let mut seen = HashSet::with_capacity(names.len());
    names.into_iter().find(|name| !seen.insert(*name))
}

/// Writes an object member by member, values given as JSON text.
#[derive(Debug)]
pub struct ObjectWriter(String);

impl Default for ObjectWriter {
    fn default() -> Self {
        Self("{".to_owned())
    }
}

impl ObjectWriter {
    /// Adds a member. `value` is JSON text.
    pub fn member(&mut self, name: &str, value: &str) -> &mut Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quote(name));
        self.0.push(':');
        self.0.push_str(value);
        self
    }

    /// The finished object.
    pub fn finish(mut self) -> Box<RawValue> {
        self.0.push('}');
        raw(self.0)
    }
}

/// A string as JSON text, with its quotes.
pub fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serialises")
}

/// Text that this crate composed of JSON, as a raw value.
pub fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("composed of JSON texts only")
}

/// A value of ours as JSON text.
pub fn to_raw(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("our own types serialise")
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
#[error("not acceptable JSON")]
pub struct Unacceptable(#[from] serde_json::Error);

/// Checks that `document` is one JSON value of at most [`MAX_DEPTH`] levels in which no object has two members
/// of the same name: two readers of it then see the same document.
pub fn check(document: &[u8]) -> Result<(), Unacceptable> {
    let mut deserializer = serde_json::Deserializer::from_slice(document);
    Level(MAX_DEPTH).deserialize(&mut deserializer)?;
    Ok(deserializer.end()?)
}

/// Whether a JSON text is nested at most `max_depth` levels deep. Costs next to nothing for a text with few brackets.
pub fn is_shallow(json: &str, max_depth: usize) -> bool {
    let bytes = json.as_bytes();
    if memchr::memchr2_iter(b'{', b'[', bytes).nth(max_depth).is_none() {
        return true;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > max_depth {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = string_end(bytes, at),
            _ => {}
        }
        at += 1;
    }
    true
}

/// Where the string that begins at `start` ends: the place of its closing quote.
pub(super) fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at;
        }
        at += 2;
    }
    bytes.len()
}

/// Reads a member's name without copying it where it has no escapes.
pub struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// How many levels may still open.
#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn down<E: serde::de::Error>(self) -> Result<Self, E> {
        let left =
            self.0.checked_sub(1).ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))?;
        Ok(Self(left))
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let level = self.down()?;
        while seq.next_element_seed(level)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let level = self.down()?;
        let mut names = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            map.next_value_seed(level)?;
            names.push(name);
        }
        match repeated(names.iter().map(|name| &**name)) {
            Some(twice) => Err(A::Error::custom(format_args!("member {twice:?} occurs twice"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_order_and_text() {
        let text = r#"{"b":1.0,"a":{"z":18446744073709551616},"\u0063":"\u00e9"}"#;
        let mut members = Members::parse(text).unwrap();
        assert_eq!(members.get("c").unwrap().get(), r#""\u00e9""#);
        members.set("a", raw("[]".into()));
        assert_eq!(members.to_raw().get(), r#"{"b":1.0,"a":[],"c":"\u00e9"}"#);
        assert_eq!(members.remove("b").unwrap().get(), "1.0");
        assert_eq!(members.to_raw().get(), r#"{"a":[],"c":"\u00e9"}"#);
        assert!(Members::parse(r#"{"a":1,"\u0061":2}"#).is_err());
        assert!(Members::parse("[]").is_err());
    }

    #[test]
    fn a_repeated_name_is_found_among_few_and_many() {
        for count in [1, FEW, FEW + 1, 40_000] {
            let members: Vec<String> = (0..count).map(|number| format!(r#""m{number}":{number}"#)).collect();
            assert!(Members::parse(&format!("{{{}}}", members.join(","))).is_ok());
            assert!(Members::parse(&format!(r#"{{{},"m0":0}}"#, members.join(","))).is_err(), "{count}");
        }
    }

    #[test]
    fn documents_are_bounded() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(check(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(check(nested(MAX_DEPTH + 1).as_bytes()).is_err());
        assert!(check(nested(100_000).as_bytes()).is_err());
        assert!(check(br#"{"a":{"x":1,"X":2}}"#).is_ok());
        assert!(check(br#"{"a":{"x":1,"x":2}}"#).is_err());
        assert!(check(br#"{"a":1} {}"#).is_err());
        assert!(check(b"\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |levels: usize| format!("{}{}", "[{\"a\":".repeat(levels / 2), "1}]".repeat(levels / 2));
        assert!(is_shallow(&nested(8), 8) && !is_shallow(&nested(10), 8));
        assert!(!is_shallow(&"[".repeat(100_000), 512));
        assert!(is_shallow(r#"{"a":"[[[[[[\"[[[[","b":["[["]}"#, 4));
        assert!(is_shallow(&"[],".repeat(1_000), 4), "many, but none within another");
    }
}
