//! A tools/call result as policies see it, and what their redactions make of it. Pure.
//!
//! Only `content`, its blocks and `structuredContent` are taken apart; every other member stays the text that
//! arrived. If nothing is redacted, the very same bytes go on. Redactions compose: each policy sees what the one
//! before it left, with parts numbered anew.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::decision::{Failure, Redaction, Span};
use super::edits;
use crate::mcp::json::{self, Members};

/// Most blocks that a result may have to be inspected.
const MAX_PARTS: usize = 4096;

/// A result, open for inspection.
#[derive(Debug)]
pub(super) struct ToolResult {
    members: Members,
    parts: Vec<Part>,
    changed: bool,
}

/// One block of `content`.
#[derive(Debug)]
pub(super) struct Part {
    /// The block's JSON text.
    raw: Box<RawValue>,
    kind: String,
    mime: Option<String>,
    text: Option<Text>,
}

#[derive(Debug)]
struct Text {
    value: String,
    place: Place,
}

/// Where in a block its text is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// `text`, as in text blocks.
    Block,
    /// `resource.text`, as in embedded text resources.
    Resource,
}

/// What the policy that redacts was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Everything,
    /// Neither texts nor structured content.
    Outline,
}

impl ToolResult {
    /// Reads `result`. What cannot be read for certain cannot be inspected.
    pub(super) fn read(result: &RawValue) -> Result<Self, Failure> {
        json::check(result.get().as_bytes()).map_err(|_| unreadable("it is not acceptable JSON"))?;
        let members = Members::parse(result.get()).map_err(|_| unreadable("it is not an object"))?;
        let blocks: Vec<Box<RawValue>> = match members.get("content") {
            None => Vec::new(),
            Some(content) => serde_json::from_str(content.get()).map_err(|_| unreadable("its content is no list"))?,
        };
        if blocks.len() > MAX_PARTS {
            return Err(unreadable("its content has too many blocks"));
        }
        let parts = blocks.into_iter().map(Part::read).collect::<Result<_, _>>()?;
        Ok(Self { members, parts, changed: false })
    }

    pub(super) fn is_error(&self) -> bool {
        self.members.get("isError").is_some_and(|value| value.get() == "true")
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn structured(&self) -> Option<&RawValue> {
        self.members.get("structuredContent")
    }

    /// What `redaction` comes to for this result, or why it does not fit.
    pub(super) fn plan(&self, redaction: &Redaction, shown: Shown) -> Result<Change, Failure> {
        let Redaction { spans, structured, drop_parts, notes: _ } = redaction;
        if shown == Shown::Outline && !(spans.is_empty() && structured.is_empty()) {
            return Err(Failure::invalid("it redacts what it was not shown"));
        }
        let texts = self.plan_texts(spans)?;
        let mut stays = vec![true; self.parts.len()];
        for index in drop_parts {
            *stays.get_mut(*index).ok_or_else(|| no_such_part(*index, self.parts.len()))? = false;
        }
        let structured = match (structured.as_slice(), self.structured()) {
            ([], _) => None,
            (_, None) => return Err(Failure::invalid("it edits structured content, and there is none")),
            (edits, Some(document)) => Some(edits::apply(document, edits)?),
        };
        Ok(Change { texts, structured, stays })
    }

    /// Carries out what [`Self::plan`] found to fit.
    pub(super) fn apply(&mut self, change: Change) {
        let Change { texts, structured, stays } = change;
        self.changed |= !texts.is_empty() || structured.is_some() || stays.contains(&false);
        for (part, text) in texts {
            self.parts[part].set_text(text);
        }
        match structured {
            None => {}
            Some(None) => drop(self.members.remove("structuredContent")),
            Some(Some(document)) => self.members.set("structuredContent", document),
        }
        let mut stays = stays.into_iter();
        self.parts.retain(|_| stays.next().unwrap_or(true));
    }

    /// The result again, or `None` if it is as it was.
    pub(super) fn finish(mut self) -> Option<Box<RawValue>> {
        if !self.changed {
            return None;
        }
        if self.members.get("content").is_some() {
            let blocks: Vec<&str> = self.parts.iter().map(|part| part.raw.get()).collect();
            self.members.set("content", json::raw(format!("[{}]", blocks.join(","))));
        }
        Some(self.members.to_raw())
    }

    /// The new texts of the parts that `spans` speak of.
    fn plan_texts(&self, spans: &[Span]) -> Result<Vec<(usize, String)>, Failure> {
        let mut by_part: BTreeMap<usize, Vec<&Span>> = BTreeMap::new();
        for span in spans {
            by_part.entry(span.part).or_default().push(span);
        }
        let replaced = |(part, spans): (usize, Vec<&Span>)| {
            let text =
                self.parts.get(part).ok_or_else(|| no_such_part(part, self.parts.len()))?.replaced(part, &spans)?;
            Ok((part, text))
        };
        by_part.into_iter().map(replaced).collect()
    }
}

/// What a redaction that fits will do.
#[derive(Debug)]
pub(super) struct Change {
    /// New texts by part.
    texts: Vec<(usize, String)>,
    /// New structured content, if it changes; `Some(None)` removes it.
    structured: Option<Option<Box<RawValue>>>,
    /// For each part whether it stays.
    stays: Vec<bool>,
}

impl Part {
    fn read(raw: Box<RawValue>) -> Result<Self, Failure> {
        let members = Members::parse(raw.get()).map_err(|_| unreadable("a block of its content is not an object"))?;
        let resource = match members.get("resource").filter(|resource| resource.get().starts_with('{')) {
            None => None,
            Some(resource) => {
                Some(Members::parse(resource.get()).map_err(|_| unreadable("a resource is not an object"))?)
            }
        };
        let kind = string(&members, "type")?.unwrap_or_default();
        let mime = match &resource {
            Some(resource) => string(resource, "mimeType")?,
            None => string(&members, "mimeType")?,
        };
        // Text is shown wherever it stands, so that a block with a made-up type cannot carry any past a policy.
        let in_resource = || -> Result<Option<Text>, Failure> {
            let value = resource.as_ref().map_or(Ok(None), |resource| string(resource, "text"))?;
            Ok(value.map(|value| Text { value, place: Place::Resource }))
        };
        let text = match string(&members, "text")? {
            Some(_) if in_resource()?.is_some() => return Err(unreadable("a block has two texts")),
            Some(value) => Some(Text { value, place: Place::Block }),
            None => in_resource()?,
        };
        Ok(Self { raw, kind, mime, text })
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    pub(super) fn mime(&self) -> Option<&str> {
        self.mime.as_deref()
    }

    /// Size of the block's JSON text.
    pub(super) fn bytes(&self) -> u32 {
        u32::try_from(self.raw.get().len()).unwrap_or(u32::MAX)
    }

    pub(super) fn text(&self) -> Option<&str> {
        self.text.as_ref().map(|text| text.value.as_str())
    }

    /// The text with the replacements of `spans`, which must be in ascending order and must not overlap.
    fn replaced(&self, position: usize, spans: &[&Span]) -> Result<String, Failure> {
        let text =
            self.text().ok_or_else(|| Failure::invalid(format!("it redacts part {position}, which has no text")))?;
        let mut redacted = String::with_capacity(text.len());
        let mut done = 0;
        for Span { start, end, replacement, part: _ } in spans {
            if *start < done || end < start {
                return Err(Failure::invalid(format!("its spans of part {position} are out of order or overlap")));
            }
            if !text.is_char_boundary(*start) || !text.is_char_boundary(*end) {
                return Err(Failure::invalid(format!(
                    "its span {start}..{end} of part {position} ends beyond the text or inside a character"
                )));
            }
            redacted.push_str(&text[done..*start]);
            redacted.push_str(replacement);
            done = *end;
        }
        redacted.push_str(&text[done..]);
        Ok(redacted)
    }

    fn set_text(&mut self, new: String) {
        let Some(Text { value, place }) = &mut self.text else { return };
        let quoted = json::raw(json::quote(&new));
        *value = new;
        let mut members = Members::parse(self.raw.get()).expect("it was parsed when the result was read");
        match place {
            Place::Block => members.set("text", quoted),
            Place::Resource => {
                let resource = members.get("resource").expect("its text was read from there");
                let mut resource = Members::parse(resource.get()).expect("it was parsed when the result was read");
                resource.set("text", quoted);
                members.set("resource", resource.to_raw());
            }
        }
        self.raw = members.to_raw();
    }
}

/// A member that is a string if it is there at all.
fn string(members: &Members, name: &str) -> Result<Option<String>, Failure> {
    match members.get(name) {
        None => Ok(None),
        Some(value) if value.get() == "null" => Ok(None),
        Some(value) => {
            let text = serde_json::from_str(value.get());
            text.map(Some).map_err(|_| unreadable(&format!("the {name} of a block is not text")))
        }
    }
}

fn no_such_part(part: usize, parts: usize) -> Failure {
    Failure::invalid(format!("it speaks of part {part}, and there are {parts}"))
}

fn unreadable(what: &str) -> Failure {
    Failure::UnreadableResult { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::decision::{Edit, Operation};
    use super::*;

    const RESULT: &str = r#"{"_meta": {"x":1.0}, "content":[ {"type":"text","text":"caf\u00e9 42","annotations":{"a":1.10}}, {"type":"image","data":"AAAA","mimeType":"image/png"}, {"type":"resource","resource":{"uri":"file:///a","mimeType":"text/plain","text":"key=secret","more":[1,2]},"z":0} ], "structuredContent":{"n":18446744073709551616,"key":"secret"}, "isError":true, "future":[1, 2]}"#;

    fn read(text: &str) -> Result<ToolResult, Failure> {
        ToolResult::read(&json::raw(text.to_owned()))
    }

    fn span(part: usize, start: usize, end: usize) -> Span {
        Span { part, start, end, replacement: "[\"x\"]".to_owned() }
    }

    fn redaction(spans: Vec<Span>, structured: Vec<Edit>, drop_parts: Vec<usize>) -> Redaction {
        Redaction { spans, structured, drop_parts, notes: Vec::new() }
    }

    fn redact(result: &mut ToolResult, redaction: &Redaction) {
        let change = result.plan(redaction, Shown::Everything).unwrap();
        result.apply(change);
    }

    #[test]
    fn a_result_is_read_as_policies_see_it() {
        let result = read(RESULT).unwrap();
        assert!(result.is_error());
        let seen: Vec<_> = result.parts().iter().map(|part| (part.kind(), part.mime(), part.text())).collect();
        assert_eq!(
            seen,
            [
                ("text", None, Some("café 42")),
                ("image", Some("image/png"), None),
                ("resource", Some("text/plain"), Some("key=secret")),
            ]
        );
        assert_eq!(result.structured().unwrap().get(), r#"{"n":18446744073709551616,"key":"secret"}"#);
        assert!(result.finish().is_none(), "what nobody changed is not written anew");
    }

    #[test]
    fn redactions_change_what_they_name_and_nothing_else() {
        let mut result = read(RESULT).unwrap();
        let edit = Edit { pointer: "/key".into(), operation: Operation::Mask("*".into()) };
        redact(&mut result, &redaction(vec![span(2, 4, 10), span(0, 0, 0), span(0, 3, 5)], vec![edit], vec![1]));
        // The image is gone, so what was part 2 is part 1 for the next policy.
        redact(&mut result, &redaction(vec![span(1, 0, 4)], vec![], vec![]));
        assert_eq!(
            result.finish().unwrap().get(),
            r#"{"_meta":{"x":1.0},"content":[{"type":"text","text":"[\"x\"]caf[\"x\"] 42","annotations":{"a":1.10}},{"type":"resource","resource":{"uri":"file:///a","mimeType":"text/plain","text":"[\"x\"][\"x\"]","more":[1,2]},"z":0}],"structuredContent":{"n":18446744073709551616,"key":"*"},"isError":true,"future":[1, 2]}"#
        );
    }

    #[test]
    fn structured_content_can_be_removed_whole() {
        let mut result = read(r#"{"content":[],"structuredContent":{"a":1}}"#).unwrap();
        let edit = Edit { pointer: String::new(), operation: Operation::Remove };
        redact(&mut result, &redaction(vec![], vec![edit], vec![]));
        assert_eq!(result.finish().unwrap().get(), r#"{"content":[]}"#);
    }

    #[test]
    fn redactions_that_do_not_fit_fail() {
        let edit = || Edit { pointer: "/none".into(), operation: Operation::Remove };
        let cases: [(Redaction, Shown, &str); 12] = [
            (redaction(vec![span(3, 0, 1)], vec![], vec![]), Shown::Everything, "part beyond the last"),
            (redaction(vec![], vec![], vec![3]), Shown::Everything, "dropped part beyond the last"),
            (redaction(vec![span(1, 0, 0)], vec![], vec![]), Shown::Everything, "part without text"),
            (redaction(vec![span(0, 4, 5)], vec![], vec![]), Shown::Everything, "start inside a code point"),
            (redaction(vec![span(0, 0, 4)], vec![], vec![]), Shown::Everything, "end inside a code point"),
            (redaction(vec![span(0, 0, 9)], vec![], vec![]), Shown::Everything, "end beyond the text"),
            (redaction(vec![span(0, 2, 1)], vec![], vec![]), Shown::Everything, "end before start"),
            (redaction(vec![span(0, 0, 3), span(0, 2, 3)], vec![], vec![]), Shown::Everything, "overlap"),
            (redaction(vec![span(0, 2, 3), span(0, 0, 1)], vec![], vec![]), Shown::Everything, "descending"),
            (redaction(vec![], vec![edit()], vec![]), Shown::Everything, "pointer to nothing"),
            (redaction(vec![span(0, 0, 1)], vec![], vec![]), Shown::Outline, "text that was not shown"),
            (redaction(vec![], vec![edit()], vec![]), Shown::Outline, "structured content that was not shown"),
        ];
        for (redaction, shown, case) in cases {
            let outcome = read(RESULT).unwrap().plan(&redaction, shown);
            assert!(matches!(outcome, Err(Failure::InvalidAnswer { .. })), "{case}: {outcome:?}");
        }
        let bare = read(r#"{"content":[]}"#).unwrap().plan(&redaction(vec![], vec![edit()], vec![]), Shown::Everything);
        assert!(bare.is_err(), "edits of structured content that is not there");
    }

    #[test]
    fn what_cannot_be_read_for_certain_is_not_inspected() {
        let blocks = format!(r#"{{"content":[{}{{}}]}}"#, "{},".repeat(MAX_PARTS));
        for bad in [
            "[]",
            "7",
            r#"{"content":{}}"#,
            r#"{"content":[1]}"#,
            r#"{"content":[{"type":1}]}"#,
            r#"{"content":[{"type":"text","text":7}]}"#,
            r#"{"content":[{"type":"text","text":"\ud800"}]}"#,
            r#"{"content":[{"type":"text","text":"a","text":"b"}]}"#,
            r#"{"content":[{"type":"text","text":"a","resource":{"text":"b"}}]}"#,
            r#"{"content":[],"structuredContent":{"a":1,"a":2}}"#,
            &blocks,
        ] {
            assert!(matches!(read(bad), Err(Failure::UnreadableResult { .. })), "{bad}");
        }
        for good in ["{}", r#"{"content":[]}"#, r#"{"content":[{}]}"#, r#"{"content":[{"type":"new","resource":7}]}"#] {
            assert!(read(good).is_ok(), "{good}");
        }
    }
}
