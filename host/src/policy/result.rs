//! A result as policies see it, and what their redactions make of it. Pure.
//!
//! One mechanism for results of tools, contents of resources, messages of prompts, values of completions and entries of
//! directories: each is a list of parts, of which some have a text. Only what holds the parts, and `structuredContent`,
//! is taken apart; every other member stays the text that arrived. If nothing is redacted, the very same bytes go on.
//! Redactions compose: each policy sees what the one before it left, with parts numbered anew.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::answer;
use super::asking::Told;
use super::bindings::BoundPolicy;
use super::contract::types;
use super::decision::{Failure, Hook, Inspection, Redaction, Span};
use super::edits;
use super::manifest::Payload;
use crate::mcp::json::{self, Members};

/// Most parts that a result may have to be inspected.
const MAX_PARTS: usize = 4096;

/// Where the parts of a result are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Of a tool: the blocks in `content`, besides `structuredContent`.
    Tool,
    /// The `contents` of a resource.
    Contents,
    /// The `messages` of a prompt, each with one block or several in its `content`.
    Messages,
    /// The `values` of a `completion`.
    Values,
    /// The `resources` of a directory.
    Entries,
    /// There are none: it passes whole or not at all.
    Whole,
}

/// A result, open for inspection.
#[derive(Debug)]
pub(super) struct Open {
    shape: Shape,
    members: Members,
    parts: Vec<Part>,
    /// What is around the parts: the messages of a prompt.
    frames: Vec<Frame>,
    changed: bool,
}

/// A message of a prompt.
#[derive(Debug)]
struct Frame {
    message: Members,
    /// Its `content` is a list of blocks.
    is_list: bool,
    /// There was nothing in it to begin with.
    was_empty: bool,
}

/// One part of a result.
#[derive(Debug)]
pub(super) struct Part {
    /// The part's JSON text.
    raw: Box<RawValue>,
    kind: String,
    mime: Option<String>,
    text: Option<Text>,
    /// Which message it is of.
    frame: usize,
}

#[derive(Debug)]
struct Text {
    value: String,
    place: Place,
}

/// Where in a part its text is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// `text`, as in text blocks.
    Block,
    /// `resource.text`, as in embedded text resources.
    Resource,
    /// The part is a text.
    Itself,
}

impl Open {
    /// Reads `result`. What cannot be read for certain cannot be inspected.
    pub(super) fn read(shape: Shape, result: &RawValue) -> Result<Self, Failure> {
        json::check(result.get().as_bytes()).map_err(|_| unreadable("it is not acceptable JSON"))?;
        let members = Members::parse(result.get()).map_err(|_| unreadable("it is not an object"))?;
        let mut open = Self { shape, members, parts: Vec::new(), frames: Vec::new(), changed: false };
        match shape {
            Shape::Tool => open.take(open.list("content")?, Part::read)?,
            Shape::Contents => open.take(open.list("contents")?, |raw| Part::of_kind(raw, "resource"))?,
            Shape::Entries => open.take(open.list("resources")?, |raw| Part::of_kind(raw, "resource_link"))?,
            Shape::Values => open.take(open.values()?, Part::value)?,
            Shape::Messages => open.take_messages()?,
            Shape::Whole => {}
        }
        Ok(open)
    }

    pub(super) fn is_error(&self) -> bool {
        self.shape == Shape::Tool && self.members.get("isError").is_some_and(|value| value.get() == "true")
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The parts as a policy with this need sees them.
    pub(super) fn shown_parts(&self, output: Payload) -> Vec<types::Part<&str>> {
        let parts = match output {
            Payload::None => &[],
            Payload::SizeOnly | Payload::Full => self.parts.as_slice(),
        };
        let shown = (0..).zip(parts).map(|(index, part)| types::Part {
            index,
            kind: part.kind.as_str(),
            mime: part.mime(),
            bytes: part.bytes(),
            text: part.text().filter(|_| output == Payload::Full),
        });
        shown.collect()
    }

    pub(super) fn structured(&self) -> Option<&RawValue> {
        self.members.get("structuredContent").filter(|_| self.shape == Shape::Tool)
    }

    /// What a policy answers about it, checked: and what that changes.
    pub(super) fn judge(
        &self,
        answer: types::Inspection,
        policy: &BoundPolicy,
        hook: Hook,
    ) -> Result<((Inspection, Option<Change>), Told), Failure> {
        let inspection = answer::inspection(answer)?;
        let (change, told) = match &inspection {
            Inspection::Abstain => (None, Told::word("abstain")),
            Inspection::Pass => (None, Told::word("pass")),
            Inspection::Redact(_) if !policy.mutates(hook) => {
                return Err(Failure::invalid(format!(
                    "it redacts, and its manifest does not say that it mutates {hook}"
                )));
            }
            Inspection::Redact(redaction) => {
                let is_shown = policy.disclosure(hook).output == Payload::Full;
                (Some(self.plan(redaction, is_shown)?), Told::noting("redact", &redaction.notes))
            }
            Inspection::Block(denial) => (None, Told::reason("block", &denial.reason)),
        };
        Ok(((inspection, change), told))
    }

    /// What `redaction` comes to for this result, or why it does not fit. Who was not shown texts and structured content
    /// cannot redact them.
    pub(super) fn plan(&self, redaction: &Redaction, is_shown: bool) -> Result<Change, Failure> {
        let Redaction { spans, structured, drop_parts, notes: _ } = redaction;
        if !(is_shown || spans.is_empty() && structured.is_empty()) {
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
        self.changed |= !texts.is_empty() || structured.is_some();
        for (part, text) in texts {
            self.parts[part].set_text(text);
        }
        match structured {
            None => {}
            Some(None) => drop(self.members.remove("structuredContent")),
            Some(Some(document)) => self.members.set("structuredContent", document),
        }
        self.keep(&stays);
    }

    /// Removes the parts for which this says so.
    pub(super) fn keep(&mut self, stays: &[bool]) {
        self.changed |= stays.contains(&false);
        let mut stays = stays.iter();
        self.parts.retain(|_| stays.next().is_none_or(|stays| *stays));
    }

    /// The result again, or `None` if it is as it was.
    pub(super) fn finish(mut self) -> Option<Box<RawValue>> {
        if !self.changed {
            return None;
        }
        let list = |parts: &[Part]| {
            let parts: Vec<&str> = parts.iter().map(|part| part.raw.get()).collect();
            json::raw(format!("[{}]", parts.join(",")))
        };
        match self.shape {
            Shape::Tool if self.members.get("content").is_none() => {}
            Shape::Tool => self.members.set("content", list(&self.parts)),
            Shape::Contents => self.members.set("contents", list(&self.parts)),
            Shape::Entries => self.members.set("resources", list(&self.parts)),
            Shape::Values => {
                let completion = self.members.get("completion").map(|completion| Members::parse(completion.get()));
                let mut completion = completion.and_then(Result::ok).unwrap_or_default();
                completion.set("values", list(&self.parts));
                self.members.set("completion", completion.to_raw());
            }
            Shape::Messages => {
                let messages = self.messages();
                self.members.set("messages", json::raw(format!("[{}]", messages.join(","))));
            }
            Shape::Whole => {}
        }
        Some(self.members.to_raw())
    }

    /// The messages of a prompt, without those of which nothing is left.
    fn messages(&mut self) -> Vec<String> {
        let mut parts = std::mem::take(&mut self.parts).into_iter().peekable();
        let mut messages = Vec::with_capacity(self.frames.len());
        for (position, Frame { message, is_list, was_empty }) in self.frames.iter_mut().enumerate() {
            let mut blocks = Vec::new();
            while let Some(part) = parts.next_if(|part| part.frame == position) {
                blocks.push(part.raw);
            }
            let content = match blocks.as_slice() {
                [] if *was_empty => None,
                [] => continue,
                [block] if !*is_list => Some(block.clone()),
                blocks => {
                    let blocks: Vec<&str> = blocks.iter().map(|block| block.get()).collect();
                    Some(json::raw(format!("[{}]", blocks.join(","))))
                }
            };
            if let Some(content) = content {
                message.set("content", content);
            }
            messages.push(message.to_raw().get().to_owned());
        }
        messages
    }

    /// The elements of a member, none if it is not there.
    fn list(&self, member: &str) -> Result<Vec<Box<RawValue>>, Failure> {
        match self.members.get(member) {
            None => Ok(Vec::new()),
            Some(list) => serde_json::from_str(list.get()).map_err(|_| unreadable(&format!("its {member} is no list"))),
        }
    }

    fn values(&self) -> Result<Vec<Box<RawValue>>, Failure> {
        let Some(completion) = self.members.get("completion") else { return Ok(Vec::new()) };
        let completion = Members::parse(completion.get()).map_err(|_| unreadable("its completion is no object"))?;
        match completion.get("values") {
            None => Ok(Vec::new()),
            Some(values) => serde_json::from_str(values.get()).map_err(|_| unreadable("its values are no list")),
        }
    }

    fn take(
        &mut self,
        elements: Vec<Box<RawValue>>,
        read: impl Fn(Box<RawValue>) -> Result<Part, Failure>,
    ) -> Result<(), Failure> {
        if self.parts.len() + elements.len() > MAX_PARTS {
            return Err(unreadable("it has too many parts"));
        }
        let frame = self.frames.len().saturating_sub(1);
        for element in elements {
            self.parts.push(Part { frame, ..read(element)? });
        }
        Ok(())
    }

    fn take_messages(&mut self) -> Result<(), Failure> {
        let messages = self.list("messages")?;
        if messages.len() > MAX_PARTS {
            return Err(unreadable("it has too many messages"));
        }
        for message in messages {
            let message = Members::parse(message.get()).map_err(|_| unreadable("a message is not an object"))?;
            let content = message.get("content").ok_or_else(|| unreadable("a message has no content"))?;
            let is_list = content.get().starts_with('[');
            let blocks: Vec<Box<RawValue>> = match is_list {
                true => {
                    serde_json::from_str(content.get()).map_err(|_| unreadable("a message's content is no list"))?
                }
                false => vec![content.to_owned()],
            };
            self.frames.push(Frame { message, is_list, was_empty: blocks.is_empty() });
            self.take(blocks, Part::read)?;
        }
        Ok(())
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
        Ok(Self { raw, kind, mime, text, frame: 0 })
    }

    /// A part that says nothing of its kind itself.
    fn of_kind(raw: Box<RawValue>, kind: &str) -> Result<Self, Failure> {
        Ok(Self { kind: kind.to_owned(), ..Self::read(raw)? })
    }

    /// A part that is a text.
    fn value(raw: Box<RawValue>) -> Result<Self, Failure> {
        let value = serde_json::from_str(raw.get()).map_err(|_| unreadable("one of its values is no text"))?;
        let text = Some(Text { value, place: Place::Itself });
        Ok(Self { raw, kind: "text".to_owned(), mime: None, text, frame: 0 })
    }

    pub(super) fn mime(&self) -> Option<&str> {
        self.mime.as_deref()
    }

    /// The URI that it has, as an entry of a directory.
    pub(super) fn uri(&self) -> Option<String> {
        let members = Members::parse(self.raw.get()).ok()?;
        string(&members, "uri").ok()?
    }

    /// Size of the part's JSON text.
    fn bytes(&self) -> u32 {
        u32::try_from(self.raw.get().len()).unwrap_or(u32::MAX)
    }

    fn text(&self) -> Option<&str> {
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
        if matches!(place, Place::Itself) {
            self.raw = quoted;
            return;
        }
        let mut members = Members::parse(self.raw.get()).expect("it was parsed when the result was read");
        match place {
            Place::Block => members.set("text", quoted),
            Place::Resource => {
                let resource = members.get("resource").expect("its text was read from there");
                let mut resource = Members::parse(resource.get()).expect("it was parsed when the result was read");
                resource.set("text", quoted);
                members.set("resource", resource.to_raw());
            }
            Place::Itself => {}
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

    fn read(text: &str) -> Result<Open, Failure> {
        Open::read(Shape::Tool, &json::raw(text.to_owned()))
    }

    fn span(part: usize, start: usize, end: usize) -> Span {
        Span { part, start, end, replacement: "[\"x\"]".to_owned() }
    }

    fn redaction(spans: Vec<Span>, structured: Vec<Edit>, drop_parts: Vec<usize>) -> Redaction {
        Redaction { spans, structured, drop_parts, notes: Vec::new() }
    }

    fn redact(result: &mut Open, redaction: &Redaction) {
        let change = result.plan(redaction, true).unwrap();
        result.apply(change);
    }

    #[test]
    fn a_result_is_read_as_policies_see_it() {
        let result = read(RESULT).unwrap();
        assert!(result.is_error());
        let seen: Vec<_> = result.parts().iter().map(|part| (part.kind.as_str(), part.mime(), part.text())).collect();
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
        let cases: [(Redaction, bool, &str); 12] = [
            (redaction(vec![span(3, 0, 1)], vec![], vec![]), true, "part beyond the last"),
            (redaction(vec![], vec![], vec![3]), true, "dropped part beyond the last"),
            (redaction(vec![span(1, 0, 0)], vec![], vec![]), true, "part without text"),
            (redaction(vec![span(0, 4, 5)], vec![], vec![]), true, "start inside a code point"),
            (redaction(vec![span(0, 0, 4)], vec![], vec![]), true, "end inside a code point"),
            (redaction(vec![span(0, 0, 9)], vec![], vec![]), true, "end beyond the text"),
            (redaction(vec![span(0, 2, 1)], vec![], vec![]), true, "end before start"),
            (redaction(vec![span(0, 0, 3), span(0, 2, 3)], vec![], vec![]), true, "overlap"),
            (redaction(vec![span(0, 2, 3), span(0, 0, 1)], vec![], vec![]), true, "descending"),
            (redaction(vec![], vec![edit()], vec![]), true, "pointer to nothing"),
            (redaction(vec![span(0, 0, 1)], vec![], vec![]), false, "text that was not shown"),
            (redaction(vec![], vec![edit()], vec![]), false, "structured content that was not shown"),
        ];
        for (redaction, is_shown, case) in cases {
            let outcome = read(RESULT).unwrap().plan(&redaction, is_shown);
            assert!(matches!(outcome, Err(Failure::InvalidAnswer { .. })), "{case}: {outcome:?}");
        }
        let bare = read(r#"{"content":[]}"#).unwrap().plan(&redaction(vec![], vec![edit()], vec![]), true);
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
