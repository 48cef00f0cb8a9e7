//! Takes secrets and personal data out of what tools, resources, prompts and tasks answer, before it reaches the model.
//!
//! It looks at texts and at strings of structured content; images and other binary parts pass. What it found is counted by
//! kind in the decision log, never shown there.

use std::collections::BTreeMap;

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::serde_json::Value;
use portcullis_guest_sdk::{
    CallResult, Context, Edit, Hook, Inspection, ItemOutput, ItemResult, Manifest, Need, Part, Policy, Problem,
    Redaction, SelfTests, ToolResult, export,
    json::{Text, Then, walk},
};

mod scan;

use scan::{Kind, scan};

const MAX_WORDS: usize = 200;
const MAX_WORD: usize = 256;
const MAX_REPLACEMENT: usize = 256;

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");
const CASES: &str = include_str!("../cases.json");

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

    fn redact_texts(&self, parts: &[Part], redaction: &mut Redaction, counts: &mut Counts) {
        for part in parts {
            for (range, replacement) in self.findings(part.text.as_deref().unwrap_or_default(), counts) {
                redaction.replace(part, range, replacement);
            }
        }
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
            .needs(Need::of(Hook::ItemResult).output())
            .mutates(Hook::ToolResult)
            .mutates(Hook::ItemResult)
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
        let (mut redaction, mut counts) = (Redaction::new(), Counts::new());
        self.redact_texts(&result.parts, &mut redaction, &mut counts);
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
        noted(redaction, counts)
    }
}

impl ItemResult for Redact {
    fn after(&self, _: &Context, output: &ItemOutput) -> Inspection {
        let (mut redaction, mut counts) = (Redaction::new(), Counts::new());
        self.redact_texts(&output.parts, &mut redaction, &mut counts);
        noted(redaction, counts)
    }
}

fn noted(mut redaction: Redaction, counts: Counts) -> Inspection {
    for (kind, count) in counts {
        redaction.note(kind, count.to_string());
    }
    redaction.into()
}

impl SelfTests for Redact {
    const CASES: &'static str = CASES;
}

export!(Redact with tool_result, item_result, self_tests);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::json;
    use portcullis_guest_sdk::testing::{apply, cases, configure, context, manifest, result, structured, tool};

    use super::*;

    #[test]
    fn the_cases_hold() {
        cases::<Redact>(CASES);
    }

    fn left(config: &Value, of: &CallResult) -> (Vec<String>, Option<Value>) {
        let policy = configure::<Redact>(config).unwrap_or_else(|problems| panic!("{problems:?}"));
        match ToolResult::after(&policy, &context(), of) {
            Inspection::Redact(redaction) => apply(of, &redaction).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_of_texts_holds_no_finding() {
        let config = json!({ "kinds": ["email", "api-key"], "words": ["Falcon"] });
        let of = result(
            tool("notes", "read"),
            &["für ann@example.com: sk-0123456789abcdef0", "nichts", "falcon bo@example.org"],
        );
        let (texts, _) = left(&config, &of);
        assert_eq!(texts, ["für [redacted:email]: [redacted:api-key]", "nichts", "[redacted:word] [redacted:email]"]);
    }

    #[test]
    fn what_is_left_of_structured_content_holds_no_finding() {
        let content = json!({ "to": ["x", "ann@example.com"], "ann@example.com": { "a": 1 }, "n": 1 });
        let of = structured(tool("notes", "read"), &content);
        let (_, content) = left(&json!({ "kinds": ["email"], "replacement": "***" }), &of);
        assert_eq!(content.unwrap(), json!({ "to": ["x", "***"], "n": 1 }));
    }

    #[test]
    fn the_manifest_is_as_the_host_wants_it() {
        let info = manifest::<Redact>();
        assert_eq!(info.hooks, [Hook::ToolResult, Hook::ItemResult]);
        assert_eq!(info.mutates, info.hooks);
    }
}
