//! Answers of the hooks `tool_result` and `item_result`: pass, block, or a redaction of texts and structured content.
//!
//! A [`Redaction`] may be filled in any order and with overlaps; turning it into an [`Inspection`] sorts and joins
//! its spans, so that an author cannot make one that the host refuses for its order.

use std::ops::Range;

use crate::{Denial, Edit, Inspection, Note, Part, Redaction, Span};

impl Inspection {
    /// No opinion.
    pub fn abstain() -> Self {
        Self::Abstain
    }

    /// The result may reach the caller as it is.
    pub fn pass() -> Self {
        Self::Pass
    }

    /// The result does not reach the caller; the model reads `message` instead.
    pub fn block(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Block(Denial::new(code, message))
    }
}

impl Redaction {
    /// A redaction that changes nothing yet.
    pub fn new() -> Self {
        Self { spans: Vec::new(), structured: Vec::new(), drop_parts: Vec::new(), notes: Vec::new() }
    }

    /// Puts `with` in the place of these bytes of the part's text. A range that cuts a character takes the whole
    /// character; what lies behind the text's end is left out.
    pub fn replace(&mut self, part: &Part, range: Range<usize>, with: impl Into<String>) {
        let text = part.text.as_deref().unwrap_or_default();
        let start = text.floor_char_boundary(range.start);
        let end = text.ceil_char_boundary(range.end);
        if start < end {
            self.spans.push(Span {
                part: part.index,
                start: offset(start),
                end: offset(end),
                replacement: with.into(),
            });
        }
    }

    /// Changes the structured content.
    pub fn edit(&mut self, edit: Edit) {
        self.structured.push(edit);
    }

    /// Removes a whole part, such as an image.
    pub fn drop_part(&mut self, part: &Part) {
        if !self.drop_parts.contains(&part.index) {
            self.drop_parts.push(part.index);
        }
    }

    /// A fact for the decision log. Never put what was redacted there.
    pub fn note(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.notes.push(Note::new(key, value));
    }

    /// Whether it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.structured.is_empty() && self.drop_parts.is_empty()
    }

    /// Spans in ascending order and without overlap; of spans that overlap, the first one's replacement stays.
    fn put_in_order(&mut self) {
        self.spans.sort_by_key(|span| (span.part, span.start));
        self.spans.dedup_by(|next, kept| {
            let overlap = next.part == kept.part && next.start < kept.end;
            if overlap {
                kept.end = kept.end.max(next.end);
            }
            overlap
        });
        self.drop_parts.sort_unstable();
    }
}

impl Default for Redaction {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Redaction> for Inspection {
    /// A redaction that changes nothing is a pass.
    fn from(mut redaction: Redaction) -> Self {
        if redaction.is_empty() {
            return Self::Pass;
        }
        redaction.put_in_order();
        Self::Redact(redaction)
    }
}

impl From<Denial> for Inspection {
    fn from(denial: Denial) -> Self {
        Self::Block(denial)
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a text inside a 32-bit memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn spans_come_out_sorted_joined_and_on_character_boundaries() {
        let result = testing::result(testing::tool("notes", "read"), &["grüße an alle", "two"]);
        let mut redaction = Redaction::new();
        redaction.replace(&result.parts[1], 0..3, "3");
        redaction.replace(&result.parts[0], 9..13, "late");
        redaction.replace(&result.parts[0], 3..4, "first"); // inside of `ü`
        redaction.replace(&result.parts[0], 2..6, "second");
        redaction.replace(&result.parts[0], 40..50, "behind the end");
        let Inspection::Redact(redaction) = Inspection::from(redaction) else { panic!("a redaction") };
        let spans: Vec<_> =
            redaction.spans.iter().map(|span| (span.part, span.start, span.end, &*span.replacement)).collect();
        assert_eq!(spans, [(0, 2, 6, "first"), (0, 9, 13, "late"), (1, 0, 3, "3")]);
    }

    #[test]
    fn a_redaction_of_nothing_is_a_pass() {
        let mut redaction = Redaction::new();
        redaction.note("seen", "0");
        assert_eq!(Inspection::from(redaction), Inspection::Pass);
    }
}
