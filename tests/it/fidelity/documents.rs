//! JSON as somebody might write it: unusual and valid, no name twice in one object, no number that a double cannot hold.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// Names of members, as JSON texts. No two of them mean the same name, though some readers of JSON think so: they differ
/// in case, in their normalisation, in what cannot be seen.
const NAMES: &[&str] = &[
    r#""a""#,
    r#""A""#,
    r#""id""#,
    r#""ID""#,
    r#""jsonrpc""#,
    r#""result""#,
    r#""resultType""#,
    r#""taskId""#,
    r#""_meta""#,
    r#""__proto__""#,
    r#""constructor""#,
    r#""\u00e9""#,
    r#""e\u0301""#,
    r#""E\u0301""#,
    "\"ａ\"",
    "\"\u{200b}a\"",
    "\"\u{feff}\"",
    r#""\ud83d\ude00""#,
    "\"👩‍👩‍👧\"",
    r#""""#,
    r#"" ""#,
    r#""\t""#,
    r#""\u0000""#,
    r#""a.b/c~d""#,
    r#""\/""#,
    r#""\\""#,
    r#""\"""#,
    r#""\u0062\u0063""#,
    r#""0""#,
    r#""-1""#,
    r#""ﬁ""#,
    r#""fi""#,
    "\"İ\"",
    "\"ı\"",
    "\"ß\"",
    "\"ss\"",
    r#""structuredContent""#,
    r#""$ref""#,
    r#""x-mcp-note""#,
];

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "-0.0",
    "1.0",
    "1",
    "1e0",
    "1E+0",
    "10e-1",
    "1e300",
    "-1.7976931348623157e308",
    "5e-324",
    "1e-400",
    "9007199254740993",
    "-9223372036854775809",
    "18446744073709551616",
    "123456789012345678901234567890123456789",
    "3.14159265358979323846264338327950288",
    "0.1000000000000000055511151231257827",
    "100000000000000000000000000000e-29",
];

const PIECES: &[&str] = &[
    "a",
    "Z",
    " ",
    "  ",
    "é",
    "e\u{301}",
    "😀",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\u{fffd}",
    "\u{fffe}",
    "\u{7f}",
    "\u{85}",
    "\u{202e}",
    "\u{e000}",
    "\u{10ffff}",
    r"\u0000",
    r"\u001f",
    r"\u0041",
    r"\u00E9",
    r"\u00e9",
    r"\ud83d\ude00",
    r"\uD83D\uDE00",
    r"\/",
    "/",
    r"\\",
    r#"\""#,
    r"\b",
    r"\f",
    r"\n",
    r"\r",
    r"\t",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "data: ",
    "event: x",
    "id: 1",
    "</script>",
    "\\u2028",
    "%00",
    "=?base64?YQ==?=",
];

/// Between two tokens. Line ends are left out: an event stream cannot tell one from another.
fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\t"), 1 => Just("   ")]
}

fn string() -> impl Strategy<Value = String> {
    prop::collection::vec(select(PIECES), 0..6).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// An object whose values are some of these.
fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (space(), space(), space(), space());
    let names = subsequence(NAMES, 0..6).prop_shuffle();
    (names, prop::collection::vec((value, member), 6), space()).prop_map(|(names, values, inside)| {
        let members =
            names.iter().zip(values).map(|(name, (value, (a, b, c, d)))| format!("{a}{name}{b}:{c}{value}{d}"));
        let members: Vec<String> = members.collect();
        if members.is_empty() { format!("{{{inside}}}") } else { format!("{{{}}}", members.join(",")) }
    })
}

/// Any value, as JSON text.
pub(super) fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(&["true", "false", "null", "[]", "{}", "[[[[]]]]"][..]).prop_map(str::to_owned),
        select(NUMBERS).prop_map(str::to_owned),
        string(),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        let items = prop::collection::vec((space(), inner.clone(), space()), 0..5);
        let array = items.prop_map(|items| {
            let items: Vec<String> = items.into_iter().map(|(a, item, b)| format!("{a}{item}{b}")).collect();
            format!("[{}]", items.join(","))
        });
        prop_oneof![array, object_of(inner)]
    })
}

/// Any object, as JSON text.
pub(super) fn object() -> impl Strategy<Value = String> {
    object_of(value())
}

/// A request's id, as JSON text.
pub(super) fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|id| id.to_string()),
        any::<u64>().prop_map(|id| id.to_string()),
        select(
            &["0", "-0", "-1", "18446744073709551615", "-9223372036854775808", "\"\"", "\"0\"", "\" \"", r#""\u0030""#]
                [..]
        )
        .prop_map(str::to_owned),
        string(),
    ]
}
