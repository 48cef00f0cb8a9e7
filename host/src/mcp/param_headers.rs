//! `Mcp-Param-*`: arguments of a tool that are repeated in headers, so that what stands between client and server can
//! look at them (2026-07-28, transports/streamable-http § custom headers).
//!
//! A tool's input schema says which: a property with the keyword `x-mcp-header`. [`read`] finds and checks those,
//! [`values`] makes the headers of a call, and [`check`] compares what a caller sent with what its body says. All names
//! begin with `Mcp-Param-`, so that no schema can name another header.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::revision::v2026_07_28::{decode_header, encode_header};

/// Begins the name of every such header.
pub const PREFIX: &str = "mcp-param-";

/// The keyword of a schema.
const ANNOTATION: &str = "x-mcp-header";
/// Most annotations of one tool: servers refuse requests with many more headers.
const MAX_HEADERS: usize = 64;
/// Longest name of a header, without the prefix, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Largest integer that every reader of JSON reads exactly: 2^53 − 1.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;
/// How much of a value a message shows, in characters.
const SHOWN_CHARACTERS: usize = 80;

/// An argument that is repeated in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// `mcp-param-…`.
    pub name: HeaderName,
    /// The members that lead to it from `arguments`.
    pub path: Vec<String>,
    pub kind: ParamKind,
}

/// The `type` of an annotated property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    Integer,
    String,
    Boolean,
}

/// Why the annotations of a schema, and so its tool, are invalid for streamable HTTP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAnnotation {
    #[error("the input schema cannot be read")]
    Schema,
    #[error("{place}: `x-mcp-header` must be a token of 1 to {MAX_NAME_BYTES} characters")]
    Name { place: String },
    #[error("{place}: another `x-mcp-header` has the same name")]
    Repeated { place: String },
    #[error("{place}: `x-mcp-header` needs the type integer, string or boolean")]
    Type { place: String },
    #[error("{place}: `x-mcp-header` is not on a property that `properties` alone lead to")]
    Unreachable { place: String },
    #[error("more than {MAX_HEADERS} properties have `x-mcp-header`")]
    TooMany,
}

/// Finds the annotations of a tool's `inputSchema`, in the order of their header names.
///
/// # Errors
/// [`InvalidAnnotation`]: the first rule that one of them breaks.
pub fn read(schema: &RawValue) -> Result<Vec<ParamHeader>, InvalidAnnotation> {
    // Nearly all schemas have none. With an escape, the keyword may be spelt otherwise.
    if !schema.get().contains(ANNOTATION) && !schema.get().contains(r"\u") {
        return Ok(Vec::new());
    }
    let schema: Value = serde_json::from_str(schema.get()).map_err(|_| InvalidAnnotation::Schema)?;
    let mut found = Found::default();
    found.visit(&schema, &mut Vec::new(), true)?;
    found.headers.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    Ok(found.headers)
}

/// Keywords whose value is a schema, or an array of them.
const SCHEMAS: [&str; 16] = [
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "contentSchema",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
];

/// Keywords whose value is an object of schemas, `properties` aside.
const MAPS_OF_SCHEMAS: [&str; 5] = ["patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"];

#[derive(Default)]
struct Found {
    headers: Vec<ParamHeader>,
    names: HashSet<HeaderName>,
}

impl Found {
    /// Looks at a schema and those in it. Values that are no schemas (`default`, `enum`, …) may have members of any
    /// name. The depth is that of a JSON document, which serde_json bounds.
    fn visit(&mut self, schema: &Value, path: &mut Vec<String>, reachable: bool) -> Result<(), InvalidAnnotation> {
        let Value::Object(schema) = schema else { return Ok(()) };
        if let Some(name) = schema.get(ANNOTATION) {
            self.annotation(name, schema.get("type"), path, reachable)?;
        }
        for (keyword, value) in schema {
            match (keyword.as_str(), value) {
                ("properties", Value::Object(properties)) => self.each(properties.iter(), path, reachable)?,
                (keyword, Value::Object(schemas)) if MAPS_OF_SCHEMAS.contains(&keyword) => {
                    self.each(schemas.iter(), path, false)?;
                }
                (keyword, Value::Array(schemas)) if SCHEMAS.contains(&keyword) => {
                    for schema in schemas {
                        self.within(keyword, schema, path, false)?;
                    }
                }
                (keyword, schema) if SCHEMAS.contains(&keyword) => self.within(keyword, schema, path, false)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn each<'a>(
        &mut self,
        mut schemas: impl Iterator<Item = (&'a String, &'a Value)>,
        path: &mut Vec<String>,
        reachable: bool,
    ) -> Result<(), InvalidAnnotation> {
        schemas.try_for_each(|(name, schema)| self.within(name, schema, path, reachable))
    }

    fn within(
        &mut self,
        step: &str,
        schema: &Value,
        path: &mut Vec<String>,
        reachable: bool,
    ) -> Result<(), InvalidAnnotation> {
        path.push(step.to_owned());
        let visited = self.visit(schema, path, reachable);
        path.pop();
        visited
    }

    fn annotation(
        &mut self,
        name: &Value,
        kind: Option<&Value>,
        path: &[String],
        reachable: bool,
    ) -> Result<(), InvalidAnnotation> {
        let place = || shown(&path.join(".")).into_owned();
        if !reachable || path.is_empty() {
            return Err(InvalidAnnotation::Unreachable { place: place() });
        }
        let name = name.as_str().filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()));
        // A token, as RFC 9110 §5.6.2 has it, is just what `HeaderName` takes.
        let name = name.and_then(|name| HeaderName::try_from(format!("{PREFIX}{name}")).ok());
        let name = name.ok_or_else(|| InvalidAnnotation::Name { place: place() })?;
        let kind = match kind.and_then(Value::as_str) {
            Some("integer") => ParamKind::Integer,
            Some("string") => ParamKind::String,
            Some("boolean") => ParamKind::Boolean,
            _ => return Err(InvalidAnnotation::Type { place: place() }),
        };
        // `HeaderName` is lower case throughout.
        if !self.names.insert(name.clone()) {
            return Err(InvalidAnnotation::Repeated { place: place() });
        }
        if self.headers.len() == MAX_HEADERS {
            return Err(InvalidAnnotation::TooMany);
        }
        self.headers.push(ParamHeader { name, path: path.to_vec(), kind });
        Ok(())
    }
}

/// The headers that repeat a call's arguments. Arguments that are absent or `null` have none, and neither have values
/// that no header can stand for: objects, arrays, and integers beyond ±(2^53 − 1).
pub fn values(headers: &[ParamHeader], arguments: Option<&RawValue>) -> Vec<(HeaderName, HeaderValue)> {
    let arguments = Arguments::pick(headers, arguments);
    let value = |(header, argument): (&ParamHeader, Argument<'_>)| {
        let text = match argument {
            Argument::Text(text) => text,
            Argument::Number(number) => number.text()?.into(),
            Argument::Absent | Argument::Other => return None,
        };
        Some((header.name.clone(), encode_header(&text)))
    };
    headers.iter().zip(arguments.0).filter_map(value).collect()
}

/// What a caller's headers and its body disagree about: `HeaderMismatch`, −32020.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header mismatch: {header}: {fault}")]
pub struct Mismatch {
    pub header: HeaderName,
    fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Missing,
    Unexpected,
    Repeated,
    Undecodable,
    TooLarge,
    Differs { header: String, body: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the body has a value for it, and the header is missing"),
            Self::Unexpected => f.write_str("the body has no value that the header could repeat"),
            Self::Repeated => f.write_str("it is there more than once"),
            Self::Undecodable => f.write_str("it has characters that a header cannot have, or is not good base64"),
            Self::TooLarge => f.write_str("the body has an integer beyond ±(2^53 − 1)"),
            Self::Differs { header, body } => write!(f, "it says {header:?} where the body says {body:?}"),
        }
    }
}

/// Checks that the headers a caller sent repeat its arguments. Headers that the tool knows nothing of are not looked at.
///
/// # Errors
/// [`Mismatch`]: the first header that does not.
pub fn check(
    headers: &[ParamHeader],
    arguments: Option<&RawValue>,
    received: &[(HeaderName, HeaderValue)],
) -> Result<(), Mismatch> {
    let arguments = Arguments::pick(headers, arguments);
    for (header, argument) in headers.iter().zip(arguments.0) {
        let mut of_this = received.iter().filter(|(name, _)| *name == header.name).map(|(_, value)| value);
        let value = of_this.next();
        let more = of_this.next().is_some();
        compare(&argument, value, more).map_err(|fault| Mismatch { header: header.name.clone(), fault })?;
    }
    Ok(())
}

fn compare(argument: &Argument<'_>, value: Option<&HeaderValue>, more: bool) -> Result<(), Fault> {
    let differs = |header: &str, body: &str| {
        Err(Fault::Differs { header: shown(header).into_owned(), body: shown(body).into_owned() })
    };
    if more {
        return Err(Fault::Repeated);
    }
    let value = value.map(|value| decode_header(value).ok_or(Fault::Undecodable)).transpose()?;
    match (argument, value) {
        (Argument::Absent | Argument::Other, None) => Ok(()),
        (Argument::Absent | Argument::Other, Some(_)) => Err(Fault::Unexpected),
        (Argument::Number(number), _) if number.text().is_none() => Err(Fault::TooLarge),
        (Argument::Text(_) | Argument::Number(_), None) => Err(Fault::Missing),
        (Argument::Text(text), Some(value)) if *text == value => Ok(()),
        (Argument::Text(text), Some(value)) => differs(&value, text),
        (Argument::Number(number), Some(value)) if Number::of_header(&value) == Some(*number) => Ok(()),
        (Argument::Number(number), Some(value)) => differs(&value, &number.0.to_string()),
    }
}

/// A text as it may stand in a message.
fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// What a call has at the place of an annotated property.
#[derive(Debug)]
enum Argument<'a> {
    /// Nothing, or `null`.
    Absent,
    /// A string, or the word for a boolean.
    Text(Cow<'a, str>),
    Number(Number),
    /// An object or array, which the schema does not allow there.
    Other,
}

impl<'a> Argument<'a> {
    fn read(value: &'a RawValue) -> Self {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        match value.get() {
            "null" => Self::Absent,
            word @ ("true" | "false") => Self::Text(word.into()),
            string if string.starts_with('"') => {
                serde_json::from_str(string).map_or(Self::Other, |Text(text)| Self::Text(text))
            }
            number => number.parse().map_or(Self::Other, |number| Self::Number(Number(number))),
        }
    }
}

/// A number as JavaScript has it: `42` and `42.0` are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Number(f64);

impl Number {
    /// Digits, a sign and a fraction, as a header may have them.
    fn of_header(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        (all_digits(whole) && all_digits(fraction)).then(|| text.parse().ok().map(Self)).flatten()
    }

    /// In decimal, without a fraction where there is none; `None` if it is too large to be exact.
    fn text(self) -> Option<String> {
        // Adding zero takes the sign off −0.
        (self.0.abs() <= MAX_SAFE_INTEGER).then(|| (self.0 + 0.0).to_string())
    }
}

/// The values at the places of annotated properties, in the order of the annotations.
struct Arguments<'a>(Vec<Argument<'a>>);

impl<'a> Arguments<'a> {
    fn pick(headers: &[ParamHeader], arguments: Option<&'a RawValue>) -> Self {
        let mut picked: Vec<Argument<'a>> = headers.iter().map(|_| Argument::Absent).collect();
        let wanted = headers.iter().map(|header| header.path.as_slice()).enumerate().collect();
        if let Some(arguments) = arguments.filter(|_| !headers.is_empty()) {
            pick(arguments, wanted, &mut picked);
        }
        Self(picked)
    }
}

/// Reads the members that lead to the wanted places: each object on the way once. A path is as long as a schema is deep.
fn pick<'a>(object: &'a RawValue, wanted: Vec<(usize, &[String])>, picked: &mut [Argument<'a>]) {
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &'a RawValue>>(object.get()) else { return };
    let mut further: BTreeMap<&str, Vec<(usize, &[String])>> = BTreeMap::new();
    for (at, path) in wanted {
        match path {
            [name] => {
                if let Some(value) = members.get(name) {
                    picked[at] = Argument::read(value);
                }
            }
            [name, rest @ ..] => further.entry(name).or_default().push((at, rest)),
            [] => {}
        }
    }
    for (name, wanted) in further {
        if let Some(value) = members.get(name) {
            pick(value, wanted, picked);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mcp::json::{quote, raw};

    fn schema(properties: &str) -> Box<RawValue> {
        raw(format!(r#"{{"type":"object","properties":{properties}}}"#))
    }

    fn headers(properties: &str) -> Vec<ParamHeader> {
        read(&schema(properties)).unwrap()
    }

    fn one(kind: &str) -> Vec<ParamHeader> {
        headers(&format!(r#"{{"v":{{"type":"{kind}","x-mcp-header":"V"}}}}"#))
    }

    fn received(values: &[(&'static str, &str)]) -> Vec<(HeaderName, HeaderValue)> {
        values
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn annotations_are_found_where_properties_lead() {
        let found = headers(
            r#"{"region":{"type":"string","x-mcp-header":"Region"},
                "plain":{"type":"string","default":{"x-mcp-header":"no annotation"},"enum":[{"x-mcp-header":1}]},
                "x-mcp-header":{"type":"string"},
                "properties":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"a.B!"}}}}"#,
        );
        let found: Vec<_> =
            found.iter().map(|header| (header.name.as_str(), header.path.join("/"), header.kind)).collect();
        assert_eq!(
            found,
            [
                ("mcp-param-a.b!", "properties/n".to_owned(), ParamKind::Integer),
                ("mcp-param-region", "region".to_owned(), ParamKind::String),
            ]
        );
        assert_eq!(headers(r#"{"v":{"type":"boolean","x\u002dmcp-header":"V"}}"#).len(), 1, "however it is spelt");
        assert!(headers(r#"{"v":{"type":"boolean","title":"\u0078"}}"#).is_empty());
    }

    #[test]
    fn annotations_that_break_a_rule_are_refused() {
        let unreachable = |properties: &str| {
            let refused = read(&schema(properties)).unwrap_err();
            assert!(matches!(refused, InvalidAnnotation::Unreachable { .. }), "{properties}: {refused}");
        };
        let annotated = r#"{"type":"string","x-mcp-header":"V"}"#;
        for keyword in SCHEMAS {
            unreachable(&format!(r#"{{"v":{{"{keyword}":{annotated}}}}}"#));
            unreachable(&format!(r#"{{"v":{{"{keyword}":[true,{annotated}]}}}}"#));
            unreachable(&format!(r#"{{"v":{{"{keyword}":{{"properties":{{"w":{annotated}}}}}}}}}"#));
        }
        for keyword in MAPS_OF_SCHEMAS {
            unreachable(&format!(r#"{{"v":{{"{keyword}":{{"name":{annotated}}}}}}}"#));
        }
        let at_root = read(&raw(annotated.to_owned())).unwrap_err();
        assert!(matches!(at_root, InvalidAnnotation::Unreachable { .. }));

        let annotation = |name: &str| read(&schema(&format!(r#"{{"v":{{"type":"string","x-mcp-header":{name}}}}}"#)));
        for bad in [r#""""#, r#""a b""#, r#""a:b""#, r#""é""#, r#""a\t""#, r#""a\r\nb""#, "1", "null", "{}"] {
            assert!(matches!(annotation(bad), Err(InvalidAnnotation::Name { .. })), "{bad}");
        }
        assert!(matches!(annotation(&quote(&"x".repeat(129))), Err(InvalidAnnotation::Name { .. })));
        assert!(annotation(&quote(&"x".repeat(128))).is_ok());

        for bad in [r#""number""#, r#""object""#, r#""array""#, r#""null""#, r#"["string"]"#, "1"] {
            let refused = read(&schema(&format!(r#"{{"v":{{"type":{bad},"x-mcp-header":"V"}}}}"#))).unwrap_err();
            assert_eq!(refused, InvalidAnnotation::Type { place: "v".to_owned() }, "{bad}");
        }
        let refused = read(&schema(r#"{"v":{"x-mcp-header":"V"}}"#)).unwrap_err();
        assert_eq!(refused, InvalidAnnotation::Type { place: "v".to_owned() });

        for (one, other) in [("Region", "Region"), ("MyField", "myfield")] {
            let both = format!(
                r#"{{"a":{{"type":"string","x-mcp-header":"{one}"}},
                    "b":{{"properties":{{"c":{{"type":"string","x-mcp-header":"{other}"}}}}}}}}"#
            );
            assert_eq!(read(&schema(&both)).unwrap_err(), InvalidAnnotation::Repeated { place: "b.c".to_owned() });
        }
        let many = |count: usize| {
            let properties: Vec<String> =
                (0..count).map(|at| format!(r#""p{at}":{{"type":"string","x-mcp-header":"P{at}"}}"#)).collect();
            read(&schema(&format!("{{{}}}", properties.join(","))))
        };
        assert_eq!(many(MAX_HEADERS).unwrap().len(), MAX_HEADERS);
        assert_eq!(many(MAX_HEADERS + 1), Err(InvalidAnnotation::TooMany));
    }

    #[test]
    fn arguments_become_headers() {
        for (kind, argument, expected) in [
            ("string", r#""us-west1""#, Some("us-west1")),
            ("string", r#""""#, Some("")),
            ("string", r#""us west 1""#, Some("us west 1")),
            ("string", r#""Hello, 世界""#, Some("=?base64?SGVsbG8sIOS4lueVjA==?=")),
            ("string", r#"" padded ""#, Some("=?base64?IHBhZGRlZCA=?=")),
            ("string", r#""line1\nline2""#, Some("=?base64?bGluZTEKbGluZTI=?=")),
            ("string", r#""=?base64?literal?=""#, Some("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=")),
            ("integer", "42", Some("42")),
            ("integer", "-7", Some("-7")),
            ("integer", "-0", Some("0")),
            ("integer", "42.0", Some("42")),
            ("integer", "1e3", Some("1000")),
            ("integer", "9007199254740991", Some("9007199254740991")),
            ("integer", "-9007199254740991", Some("-9007199254740991")),
            ("integer", "9007199254740992", None),
            ("integer", "9007199254740993", None),
            ("integer", "1e400", None),
            ("integer", "1.5", Some("1.5")),
            ("boolean", "true", Some("true")),
            ("boolean", "false", Some("false")),
            ("boolean", "null", None),
            ("string", "{}", None),
            ("string", r#"["a"]"#, None),
            ("string", "true", Some("true")),
        ] {
            let values = values(&one(kind), Some(&raw(format!(r#"{{"w":1,"v":{argument}}}"#))));
            let values: Vec<&str> = values.iter().map(|(_, value)| value.to_str().unwrap()).collect();
            assert_eq!(values, Vec::from_iter(expected), "{argument}");
        }
        assert!(values(&one("string"), None).is_empty());
        assert!(values(&one("string"), Some(&raw("[]".to_owned()))).is_empty());
    }

    #[test]
    fn nested_arguments_are_taken_from_their_exact_place() {
        let nested = headers(
            r#"{"a":{"properties":{"b":{"type":"string","x-mcp-header":"B"},
                                   "c":{"properties":{"d":{"type":"integer","x-mcp-header":"D"}}}}}}"#,
        );
        let values = |arguments: &str| -> Vec<String> {
            let values = values(&nested, Some(&raw(arguments.to_owned())));
            values.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect()
        };
        assert_eq!(values(r#"{"a":{"b":"x","c":{"d":1}},"b":"y"}"#), ["mcp-param-b=x", "mcp-param-d=1"]);
        assert_eq!(values(r#"{"b":"y","c":{"d":1}}"#), [""; 0]);
        assert_eq!(values(r#"{"a":[{"b":"x"}]}"#), [""; 0]);
        assert_eq!(values(r#"{"a":{"c":null}}"#), [""; 0]);
    }

    #[test]
    fn headers_are_compared_with_the_body() {
        let fault = |kind: &str, argument: &str, headers: &[(&'static str, &str)]| {
            let arguments = raw(format!(r#"{{"v":{argument}}}"#));
            check(&one(kind), Some(&arguments), &received(headers)).err().map(|mismatch| mismatch.fault)
        };
        let v = |value| [("mcp-param-v", value)];
        for (kind, argument, header) in [
            ("string", r#""Hello""#, "Hello"),
            ("string", r#""Hello""#, "=?base64?SGVsbG8=?="),
            ("string", r#""SGVsbG8=""#, "SGVsbG8="),
            ("string", r#""=?base64?SGVsbG8=""#, "=?base64?SGVsbG8="),
            ("string", r#""""#, ""),
            ("integer", "42", "42.0"),
            ("integer", "42.0", "42"),
            ("integer", "-0", "0"),
            ("integer", r#""42""#, "42"),
            ("boolean", "true", "true"),
        ] {
            assert_eq!(fault(kind, argument, &v(header)), None, "{argument} {header}");
        }
        for (kind, argument, header) in [
            ("string", r#""Hello""#, "hello"),
            ("string", r#""Hello""#, ""),
            ("integer", "42", "43"),
            ("integer", "42", "+42"),
            ("integer", "42", "4.2e1"),
            ("integer", "42", "0x2a"),
            ("integer", r#""42""#, "42.0"),
            ("boolean", "true", "True"),
            ("boolean", "true", "1"),
        ] {
            let fault = fault(kind, argument, &v(header));
            assert!(matches!(fault, Some(Fault::Differs { .. })), "{argument} {header}: {fault:?}");
        }
        for bad in ["=?base64?SGVsbG8?=", "=?base64?SGVs!!!bG8=?=", "=?base64?/w==?="] {
            assert_eq!(fault("string", r#""Hello""#, &v(bad)), Some(Fault::Undecodable), "{bad}");
        }
        assert_eq!(fault("string", r#""Hello""#, &[]), Some(Fault::Missing));
        assert_eq!(fault("string", "null", &[]), None);
        assert_eq!(fault("string", "null", &v("null")), Some(Fault::Unexpected));
        assert_eq!(fault("string", "{}", &[]), None);
        assert_eq!(fault("integer", "9007199254740993", &v("9007199254740993")), Some(Fault::TooLarge));
        assert_eq!(fault("integer", "9007199254740993", &[]), Some(Fault::TooLarge));
        let twice = [("mcp-param-v", "Hello"), ("mcp-param-v", "Hello")];
        assert_eq!(fault("string", r#""Hello""#, &twice), Some(Fault::Repeated));
        let unknown = [("mcp-param-v", "Hello"), ("mcp-param-w", "?")];
        assert_eq!(fault("string", r#""Hello""#, &unknown), None);
        assert_eq!(check(&[], None, &received(&unknown)), Ok(()));
        assert!(check(&one("string"), None, &received(&v("x"))).is_err());

        let not_ascii = [(HeaderName::from_static("mcp-param-v"), HeaderValue::from_bytes(b"caf\xe9").unwrap())];
        let arguments = raw(r#"{"v":"café"}"#.to_owned());
        let mismatch = check(&one("string"), Some(&arguments), &not_ascii).unwrap_err();
        assert_eq!(mismatch.fault, Fault::Undecodable);
    }

    #[test]
    fn a_mismatch_says_what_differs_in_few_words() {
        let arguments = raw(format!(r#"{{"v":"{}"}}"#, "x".repeat(10_000)));
        let mismatch = check(&one("string"), Some(&arguments), &received(&[("mcp-param-v", "y")])).unwrap_err();
        let text = mismatch.to_string();
        assert!(text.starts_with(r#"header mismatch: mcp-param-v: it says "y" where the body says "xxx"#), "{text}");
        assert!(text.len() < 200, "{text}");
    }

    proptest! {
        #[test]
        fn what_we_send_passes_our_own_check(text in any::<String>(), number in any::<i64>(), flag: bool) {
            let all = headers(
                r#"{"s":{"type":"string","x-mcp-header":"S"},"n":{"type":"integer","x-mcp-header":"N"},
                    "b":{"type":"boolean","x-mcp-header":"B"}}"#,
            );
            let number = number >> 11;
            let arguments = raw(format!(r#"{{"s":{},"n":{number},"b":{flag}}}"#, quote(&text)));
            let sent = values(&all, Some(&arguments));
            prop_assert_eq!(sent.len(), 3);
            prop_assert_eq!(check(&all, Some(&arguments), &sent), Ok(()));
        }
    }
}
