//! From text to [`raw::File`], with every mistake of syntax and shape rather than the first.
//!
//! serde stops at its first error. So what it complains of is noted and taken out of the document, until the rest
//! fits; the checks of [`super::resolve`] then go on with what is left.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::mistake::{Fault, Found, did_you_mean, nearest};
use super::places::{self, Lines};
use super::raw;

/// Mistakes of shape that are reported at once; each costs a pass over the document.
const MOST_MISTAKES: usize = 50;

/// A document that fits, perhaps after something was taken out.
pub(super) struct Shape {
    pub file: raw::File,
    /// Of each entry of `policies`, the lines of its `config`.
    pub lines: Vec<Lines>,
    pub found: Vec<Found>,
    /// Paths of the tables that something was taken out of, such as `upstreams.notes`; the whole file is the empty
    /// path. What is missing in one of them may be what was taken out.
    pub damaged: BTreeSet<String>,
}

/// Reads the document. Fails with what is found where nothing can be made of it.
pub(super) fn read(text: &str) -> Result<Shape, Vec<Found>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax_mistakes(text, &errors));
    }
    let mut table = document.into_inner();
    let lines = places::of_policies(&table, text);
    let (mut found, mut damaged) = (Vec::new(), BTreeSet::new());
    for _ in 0..MOST_MISTAKES {
        let attempt = Deserializer::from(Spanned::new(0..text.len(), table.clone()));
        let error = match raw::File::deserialize(attempt) {
            Ok(file) => return Ok(Shape { file, lines, found, damaged }),
            Err(error) => error,
        };
        let place = error.span().unwrap_or(0..text.len());
        let exactly = |span: Range<usize>| span == place;
        let around = |span: Range<usize>| span.start <= place.start && place.end <= span.end;
        let taken = take_out(&mut table, &exactly, "").or_else(|| take_out(&mut table, &around, ""));
        let key = taken.as_ref().map_or("the file", |taken| &taken.key);
        found.push(Found { place: place.clone(), fault: explain(key, error.message()) });
        match taken {
            Some(taken) => damaged.insert(taken.table),
            None => return Err(found),
        };
    }
    Err(found)
}

/// Reads of a document only what says where its gateway is asked. Fails where that has the wrong shape, or the text is not
/// TOML.
pub(super) fn places(text: &str) -> Result<raw::Places, Vec<Found>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax_mistakes(text, &errors));
    }
    raw::Places::deserialize(Deserializer::from(Spanned::new(0..text.len(), document.into_inner()))).map_err(|error| {
        let place = error.span().unwrap_or(0..text.len());
        vec![Found { place, fault: explain("what says where to ask", error.message()) }]
    })
}

/// One mistake for each line: after the first one of a line, a parser guesses.
fn syntax_mistakes(text: &str, errors: &[Error]) -> Vec<Found> {
    let mut lines = BTreeSet::new();
    let mut found = Vec::new();
    for error in errors {
        let place = error.span().unwrap_or(0..0);
        let start = place.start.min(text.len());
        let line_start = text.as_bytes()[..start].iter().rposition(|byte| *byte == b'\n');
        if lines.insert(line_start) {
            found.push(Found { place, fault: Fault::new(error.message()) });
        }
    }
    found
}

/// An entry that was removed.
struct Taken {
    /// Path of its table.
    table: String,
    key: String,
}

/// Removes the innermost entry whose key or value is the one looked for.
fn take_out(table: &mut DeTable<'_>, is_it: &impl Fn(Range<usize>) -> bool, path: &str) -> Option<Taken> {
    for (key, value) in table.iter_mut() {
        let inner = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        if let Some(found) = take_out_below(value.get_mut(), is_it, &inner) {
            return Some(found);
        }
    }
    let entry = table.iter().find(|(key, value)| is_it(key.span()) || is_it(value.span()));
    let key = entry.map(|(key, _)| key.get_ref().to_string())?;
    table.remove(key.as_str());
    Some(Taken { table: path.to_owned(), key })
}

fn take_out_below(value: &mut DeValue<'_>, is_it: &impl Fn(Range<usize>) -> bool, path: &str) -> Option<Taken> {
    match value {
        DeValue::Table(table) => take_out(table, is_it, path),
        DeValue::Array(items) => items
            .iter_mut()
            .enumerate()
            .find_map(|(index, item)| take_out_below(item.get_mut(), is_it, &format!("{path}.{index}"))),
        _ => None,
    }
}

/// serde's words in ours. Its own quote the value, which may be a secret.
fn explain(key: &str, message: &str) -> Fault {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (name, known) = name_and_known(rest);
        let fault = Fault::new(format!("unknown key `{name}`"));
        return Fault { hint: did_you_mean(name, known.iter().copied()), ..fault };
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        let (name, known) = name_and_known(rest);
        let fault = Fault::new(format!("{key} must be one of {}, not {name}", known.join(", ")));
        return Fault { hint: nearest(name, known.iter().copied()), ..fault };
    }
    if message == "wanted string or table" {
        return Fault::new(format!("{key} must be a string"));
    }
    let mismatch = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = mismatch.and_then(|mismatch| mismatch.rsplit_once(", expected ")) else {
        return Fault::new(format!("{key} {message}"));
    };
    let kind = kind(found);
    let fault = Fault::new(format!("{key} must be {}, not {}", in_toml_words(expected), in_toml_words(kind)));
    match (expected, kind) {
        ("a sequence", "map") => fault.hint("a list of tables is written with double brackets, as in [[policies]]"),
        _ => fault,
    }
}

/// Splits "name`, expected one of `a`, `b`" into the name and the words that would be right.
fn name_and_known(rest: &str) -> (&str, Vec<&str>) {
    let mut pieces = rest.split('`');
    let name = pieces.next().unwrap_or_default();
    (name, pieces.skip(1).step_by(2).collect())
}

/// The kind in serde's description of a value: all before the value itself.
fn kind(found: &str) -> &str {
    let end = found.find([' ', '`', '"']).unwrap_or(found.len());
    &found[..end]
}

fn in_toml_words(serde_words: &str) -> &str {
    match serde_words {
        "string" => "a string",
        "integer" | "i64" => "a whole number",
        "floating" => "a fraction",
        "boolean" | "a boolean" => "true or false",
        "map" | "a map" => "a table",
        "sequence" | "a sequence" => "an array",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_says_is_said_without_the_value() {
        for (message, said) in [
            ("unknown field `uri`, expected one of `url`, `command`", "unknown key `uri`"),
            ("unknown variant `no`, expected `deny` or `allow`", "it must be one of deny, allow, not no"),
            ("invalid type: string \"sk-, expected x\", expected a map", "it must be a table, not a string"),
            ("invalid type: integer `5`, expected a string", "it must be a string, not a whole number"),
            ("invalid type: floating point `0.5`, expected i64", "it must be a whole number, not a fraction"),
            ("invalid type: map, expected a sequence", "it must be an array, not a table"),
            ("must be something else", "it must be something else"),
        ] {
            assert_eq!(explain("it", message).message, said);
        }
    }

    #[test]
    fn every_mistake_of_shape_is_found_and_the_rest_is_kept() {
        let text = r#"
            colour = "red"
            [upstream.notes]
            url = 1
            [upstreams.notes]
            url = 2
            transprot = "stdio"
            trust = "kept"
            [keys.ci]
            allow = [{ upstream = "kept", tools = [1] }, { upstrem = "x" }]
            [listen.public]
            x = 1
            [[policies]]
            name = "kept"
            config = { colour = 7 }
            [[policies]]
            priority = "high"
        "#;
        let Ok(shape) = read(text) else { panic!("something is left") };
        let lines: BTreeSet<usize> =
            shape.found.iter().map(|found| text[..found.place.start].matches('\n').count()).collect();
        assert_eq!(lines.into_iter().collect::<Vec<_>>(), [1, 2, 5, 6, 9, 10, 16]);
        let damaged: Vec<&str> = shape.damaged.iter().map(String::as_str).collect();
        assert_eq!(damaged, ["", "keys.ci.allow.0", "keys.ci.allow.1", "listen", "policies.1", "upstreams.notes"]);
        let upstream = shape.file.upstreams.values().next().unwrap();
        assert_eq!(upstream.trust.value().map(String::as_str), Some("kept"));
        assert_eq!(shape.file.policies.len(), 2);
        let allow = &shape.file.keys.values().next().unwrap().allow;
        assert_eq!(allow[0].value().upstream.value().map(String::as_str), Some("kept"));
    }

    #[test]
    fn the_examples_of_the_documentation_have_no_mistake_of_shape() {
        let documentation = include_str!("../../../docs/configuration.md");
        let blocks = documentation.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
        let mut examples = 0;
        for example in blocks {
            examples += 1;
            let found = read(example).map_or_else(|found| found, |shape| shape.found);
            let told: Vec<&str> = found.iter().map(|found| found.fault.message.as_str()).collect();
            assert!(told.is_empty(), "{told:?} in:\n{example}");
        }
        assert!(examples >= 4, "{examples}");
    }

    #[test]
    fn a_hopeless_document_ends() {
        let many: String = (0..200).map(|number| format!("key{number} = 1\n")).collect();
        assert_eq!(read(&many).err().map(|found| found.len()), Some(MOST_MISTAKES));
        let found = read("a = \nb = \n[c\n").err().unwrap();
        assert_eq!(found.len(), 3);
    }
}
