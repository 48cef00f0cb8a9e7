//! Redaction by regular expressions, and the question whether a pointer leads anywhere.

use portcullis_guest_sdk::json::{Text, Then, walk};
use portcullis_guest_sdk::serde_json::Value;
use portcullis_guest_sdk::{Edit, Part, Redaction};
use regex_lite::{Regex, RegexBuilder};

use crate::reply::limits;

/// A regular expression whose time is linear in the text and whose memory is bounded.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Longest pattern, in bytes.
    pub const MAX_LEN: usize = 1024;
    /// Memory of a compiled pattern, in bytes.
    const MAX_SIZE: usize = 256 << 10;
    /// Groups within groups.
    const MAX_NESTING: u32 = 24;

    /// The pattern, or what is wrong with it.
    ///
    /// # Errors
    /// If it is too long or not a regular expression.
    pub fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > Self::MAX_LEN {
            return Err(format!("a pattern has at most {} bytes", Self::MAX_LEN));
        }
        let regex = RegexBuilder::new(pattern).size_limit(Self::MAX_SIZE).nest_limit(Self::MAX_NESTING).build();
        regex.map(Self).map_err(|error| format!("not a regular expression: {error}"))
    }

    /// Whether it is found anywhere in the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The text with `replacement`, as it stands, for every finding; `None` if there is none.
    fn replaced(&self, text: &str, replacement: &str) -> Option<String> {
        self.is_match(text).then(|| self.0.replace_all(text, regex_lite::NoExpand(replacement)).into_owned())
    }
}

/// Puts `replacement` in the place of everything that a pattern finds, in the texts of parts and in the strings of
/// structured content. Findings that are empty are none.
///
/// # Errors
/// If there is more to replace than one answer can say.
pub fn redact(
    redaction: &mut Redaction,
    (parts, structured): (&[Part], Option<&Value>),
    patterns: &[Pattern],
    replacement: &str,
) -> Result<(), String> {
    for part in parts {
        let text = part.text.as_deref().unwrap_or_default();
        for pattern in patterns {
            for found in pattern.0.find_iter(text).filter(|found| !found.is_empty()) {
                redaction.replace(part, found.range(), replacement);
                if redaction.spans.len() > limits::CHANGES {
                    return Err(format!("there are more than {} places to redact", limits::CHANGES));
                }
            }
        }
    }
    let mut edits = Vec::new();
    if let Some(structured) = structured {
        walk(structured, &mut |pointer, text| {
            if let Text::Value(text) = text
                && let Some(masked) = masked(text, patterns, replacement)
            {
                edits.push(Edit::mask(pointer, masked));
            }
            Then::GoOn
        });
    }
    if edits.len() > limits::CHANGES {
        return Err(format!("there are more than {} places to redact", limits::CHANGES));
    }
    edits.into_iter().for_each(|edit| redaction.edit(edit));
    Ok(())
}

fn masked(text: &str, patterns: &[Pattern], replacement: &str) -> Option<String> {
    let mut masked = None;
    for pattern in patterns {
        masked = pattern.replaced(masked.as_deref().unwrap_or(text), replacement).or(masked);
    }
    masked
}

/// Whether the pointer leads to something in the document. What is not there needs no removing and no masking.
pub fn present(document: Option<&Value>, pointer: &str) -> bool {
    document.is_some_and(|document| document.pointer(pointer).is_some())
}

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::json;

    use super::*;

    fn part(index: u32, text: &str) -> Part {
        Part { index, kind: "text".to_owned(), text: Some(text.to_owned()), ..Part::default() }
    }

    fn patterns(patterns: &[&str]) -> Vec<Pattern> {
        patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect()
    }

    #[test]
    fn findings_are_replaced_in_texts_and_in_structured_content() {
        let parts = [part(0, "key sk-1 and sk-22"), part(1, "nothing"), part(2, "größe sk-3")];
        let structured = json!({"a": {"b/c": "sk-9!"}, "d": ["plain", "mail a@b.c, sk-7"]});
        let mut redaction = Redaction::new();
        let patterns = patterns(&[r"sk-\d+", r"[a-z]+@[a-z.]+"]);
        redact(&mut redaction, (&parts, Some(&structured)), &patterns, "$0[x]").unwrap();
        let spans: Vec<_> = redaction.spans.iter().map(|span| (span.part, span.start, span.end)).collect();
        assert_eq!(spans, [(0, 4, 8), (0, 13, 18), (2, 8, 12)]);
        assert!(redaction.spans.iter().all(|span| span.replacement == "$0[x]"), "no groups in the replacement");
        assert_eq!(redaction.structured, [Edit::mask("/a/b~1c", "$0[x]!"), Edit::mask("/d/1", "mail $0[x], $0[x]")]);
    }

    #[test]
    fn nothing_is_found_where_a_pattern_matches_nothing_but_the_empty_text() {
        let mut redaction = Redaction::new();
        redact(&mut redaction, (&[part(0, "abc")], None), &patterns(&["x*"]), "-").unwrap();
        assert!(redaction.is_empty());
    }

    #[test]
    fn more_than_an_answer_can_say_is_refused() {
        let text = "a ".repeat(limits::CHANGES + 1);
        let mut redaction = Redaction::new();
        assert!(redact(&mut redaction, (&[part(0, &text)], None), &patterns(&["a"]), "-").is_err());
        let structured: Value = (0..=limits::CHANGES).map(|_| "a").collect();
        assert!(redact(&mut Redaction::new(), (&[], Some(&structured)), &patterns(&["a"]), "-").is_err());
    }

    #[test]
    fn patterns_that_are_wrong_or_too_large_are_refused() {
        for pattern in ["(", "[z-a]", "a{1000}{1000}", &"(".repeat(200), &"a".repeat(Pattern::MAX_LEN + 1)] {
            assert!(Pattern::new(pattern).is_err(), "{pattern:.20}");
        }
        assert!(Pattern::new(r"(?i)\bsecret\b").unwrap().is_match("a SECRET."));
    }

    #[test]
    fn a_pointer_is_present_if_it_leads_somewhere() {
        let document = json!({"a": [null]});
        assert!(present(Some(&document), "/a/0") && present(Some(&document), ""));
        assert!(!present(Some(&document), "/a/1") && !present(None, ""));
    }
}
