//! Takes secrets and personal data out of results before they reach the model.
//!
//! It looks at texts and at strings of structured content; images and other binary parts pass. What it found is counted by
//! kind in the decision log, never shown there.

use std::collections::BTreeMap;

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::serde_json::Value;
use portcullis_guest_sdk::{
    CallResult, Context, Edit, Hook, Inspection, Manifest, Need, Policy, Problem, Redaction, ToolResult, export,
    json::{Text, Then, walk},
};

mod scan;

use scan::{Kind, scan};

const MAX_WORDS: usize = 200;
const MAX_WORD: usize = 256;
const MAX_REPLACEMENT: usize = 256;

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub struct Config {
    #[serde(default = "default_kinds")]
    kinds: Vec<Kind>,
    /// Further words, found in any case.
    #[serde(default)]
    words: Vec<String>,
    /// What takes the place of a finding; `{kind}` stands for its kind.
    #[serde(default = "default_replacement")]
    replacement: String,
    /// Whether structured content is looked at too.
    #[serde(default = "yes")]
    structured: bool,
}

fn default_kinds() -> Vec<Kind> {
    vec![Kind::PrivateKey, Kind::Jwt, Kind::ApiKey]
}

fn default_replacement() -> String {
    "[redacted:{kind}]".to_owned()
}

fn yes() -> bool {
    true
}

/// The policy.
pub struct Redact {
    config: Config,
}

type Counts = BTreeMap<&'static str, usize>;

impl Redact {
    /// What is found in a text, each with what takes its place.
    fn findings(&self, text: &str, counts: &mut Counts) -> Vec<(std::ops::Range<usize>, String)> {
        let found = scan(text, &self.config.kinds, &self.config.words);
        found
            .into_iter()
            .map(|one| {
                *counts.entry(one.kind.as_str()).or_default() += 1;
                (one.range, self.config.replacement.replace("{kind}", one.kind.as_str()))
            })
            .collect()
    }

    fn masked(&self, text: &str, counts: &mut Counts) -> Option<String> {
        let findings = self.findings(text, counts);
        if findings.is_empty() {
            return None;
        }
        let mut masked = String::with_capacity(text.len());
        let mut from = 0;
        for (range, replacement) in findings {
            masked.push_str(&text[from..range.start]);
            masked.push_str(&replacement);
            from = range.end;
        }
        masked.push_str(&text[from..]);
        Some(masked)
    }

    /// Strings are masked; a member whose very name is a finding is taken away.
    fn redact_structured(&self, document: &Value, redaction: &mut Redaction, counts: &mut Counts) {
        walk(document, &mut |pointer, text| match text {
            Text::Name(name) if self.findings(name, counts).is_empty() => Then::GoOn,
            Text::Name(_) => {
                redaction.edit(Edit::remove(pointer));
                Then::Skip
            }
            Text::Value(value) => {
                if let Some(masked) = self.masked(value, counts) {
                    redaction.edit(Edit::mask(pointer, masked));
                }
                Then::GoOn
            }
        });
    }
}

impl Policy for Redact {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new("redact", env!("CARGO_PKG_VERSION"), "Takes secrets and personal data out of results")
            .license("Apache-2.0")
            .config(SCHEMA, SAMPLE)
            .needs(Need::of(Hook::ToolResult).output())
            .mutates(Hook::ToolResult)
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        if config.kinds.is_empty() && config.words.is_empty() {
            problems.push(Problem::at("/kinds", "there is nothing to look for"));
        }
        if let Some(at) = config.kinds.iter().position(|kind| *kind == Kind::Word) {
            problems.push(Problem::at(format!("/kinds/{at}"), "words are listed in `words`"));
        }
        if config.words.len() > MAX_WORDS {
            problems.push(Problem::at("/words", format!("there are more than {MAX_WORDS} words")));
        }
        for (at, word) in config.words.iter().enumerate().take(MAX_WORDS) {
            if word.is_empty() || word.len() > MAX_WORD {
                problems.push(Problem::at(format!("/words/{at}"), format!("a word has 1 to {MAX_WORD} bytes")));
            }
        }
        if config.replacement.len() > MAX_REPLACEMENT {
            problems.push(Problem::at("/replacement", format!("it has more than {MAX_REPLACEMENT} bytes")));
        }
        if problems.is_empty() { Ok(Self { config }) } else { Err(problems) }
    }
}

impl ToolResult for Redact {
    fn after(&self, _: &Context, result: &CallResult) -> Inspection {
        let mut redaction = Redaction::new();
        let mut counts = Counts::new();
        for part in &result.parts {
            for (range, replacement) in self.findings(part.text.as_deref().unwrap_or_default(), &mut counts) {
                redaction.replace(part, range, replacement);
            }
        }
        if self.config.structured {
            match result.parse_structured::<Value>() {
                Ok(Some(document)) => self.redact_structured(&document, &mut redaction, &mut counts),
                Ok(None) => {}
                Err(_) => {
                    return Inspection::block(
                        "redact.unreadable",
                        "The result's structured content could not be searched.",
                    );
                }
            }
        }
        for (kind, count) in counts {
            redaction.note(kind, count.to_string());
        }
        redaction.into()
    }
}

export!(Redact with tool_result);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::json;
    use portcullis_guest_sdk::testing::{apply, configure, context, manifest, result, structured, tool};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads better where `json!` is written")]
    fn policy(config: Value) -> Redact {
        configure::<Redact>(&config).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    fn redaction(policy: &Redact, of: &CallResult) -> Redaction {
        match policy.after(&context(), of) {
            Inspection::Redact(redaction) => redaction,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_are_redacted_and_counted() {
        let policy = policy(json!({ "kinds": ["email", "api-key"], "words": ["Falcon"] }));
        let of = result(
            tool("notes", "read"),
            &["für ann@example.com: sk-0123456789abcdef0", "nichts", "falcon bo@example.org"],
        );
        let redaction = redaction(&policy, &of);
        let (texts, _) = apply(&of, &redaction).unwrap();
        assert_eq!(texts, ["für [redacted:email]: [redacted:api-key]", "nichts", "[redacted:word] [redacted:email]"]);
        let notes: Vec<_> = redaction.notes.iter().map(|note| format!("{}={}", note.key, note.value)).collect();
        assert_eq!(notes, ["api-key=1", "email=2", "word=1"]);
    }

    #[test]
    fn structured_content_is_redacted_in_values_and_names() {
        let policy = policy(json!({ "kinds": ["email"], "replacement": "***" }));
        let of = structured(
            tool("notes", "read"),
            &json!({ "to": ["x", "ann@example.com"], "ann@example.com": { "a": 1 }, "n": 1 }),
        );
        let (_, left) = apply(&of, &redaction(&policy, &of)).unwrap();
        assert_eq!(left.unwrap(), json!({ "to": ["x", "***"], "n": 1 }));
        let off = configure::<Redact>(&json!({ "kinds": ["email"], "structured": false })).unwrap();
        assert!(matches!(off.after(&context(), &of), Inspection::Pass));
    }

    #[test]
    fn what_holds_nothing_passes() {
        let of = result(tool("notes", "read"), &["nothing to see", ""]);
        assert!(matches!(policy(json!({})).after(&context(), &of), Inspection::Pass));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let paths = |config: Value| match configure::<Redact>(&config) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>(),
        };
        assert_eq!(paths(json!({ "kinds": [] })), ["/kinds"]);
        assert_eq!(paths(json!({ "kinds": ["word"] })), ["/kinds/0"]);
        assert_eq!(paths(json!({ "kinds": ["phone"] })), ["/kinds/0"]);
        assert_eq!(paths(json!({ "words": [""] })), ["/words/0"]);
    }

    #[test]
    fn the_sample_is_accepted() {
        let sample: Value =
            portcullis_guest_sdk::serde_json::from_str(&manifest::<Redact>(&[Hook::ToolResult]).sample_config).unwrap();
        assert!(configure::<Redact>(&sample).is_ok());
    }
}
