//! Where bytes of strangers enter, as functions over bytes: for the fuzz targets of `tests/fuzz`, and for a test that runs their
//! seeds and many small changes of them. Each returns, whatever the bytes; what it asserts is what holds for any.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer;
use super::contract::hook::Hook;
use super::contract::{manifest, types};
use super::decision::Inspection;
use super::edits;
use super::judge::judge;
use super::manifest::Manifest;
use super::result::{Open, Shape};
use crate::mcp::json;

/// A target: its name, which is also that of its folder of seeds, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 5] = [
    ("answers", answers),
    ("redaction", redaction),
    ("edits", edit),
    ("manifest", describe),
    ("core_module", core_module),
];

/// An answer of any hook: `{"hook": …, "asked": …, "answer": …}`.
pub fn answers(data: &[u8]) {
    #[derive(Deserialize)]
    struct Input {
        hook: Hook,
        asked: u8,
        answer: Value,
    }
    let Ok(Input { hook, asked, answer }) = serde_json::from_slice(data) else { return };
    let input = json!({ hook.parameter(): vec![(); asked.into()] });
    if let Ok(judged) = judge(hook, &input, &answer) {
        assert!(judged.code.is_none_or(|code| (1..=64).contains(&code.len())), "a code is bounded");
    }
}

/// A result and what a policy wants to take out of it: `{"result": …, "redaction": …}`.
pub fn redaction(data: &[u8]) {
    #[derive(Deserialize)]
    struct Input {
        result: Box<RawValue>,
        redaction: types::Redaction,
    }
    let Ok(Input { result, redaction }) = serde_json::from_slice(data) else { return };
    let Ok(Inspection::Redact(redaction)) = answer::inspection(types::Inspection::Redact(redaction)) else {
        return;
    };
    for shape in [Shape::Tool, Shape::Contents, Shape::Messages] {
        let Ok(mut open) = Open::read(shape, &result) else { continue };
        let Ok(change) = open.plan(&redaction, true) else { continue };
        open.apply(change);
        if let Some(left) = open.finish() {
            json::check(left.get().as_bytes()).expect("what is left is a document that everybody reads alike");
        }
    }
}

/// A document and edits of it: `{"document": …, "edits": […]}`.
pub fn edit(data: &[u8]) {
    #[derive(Deserialize)]
    struct Input {
        document: Box<RawValue>,
        edits: Vec<types::Edit>,
    }
    let Ok(Input { document, edits }) = serde_json::from_slice(data) else { return };
    let Ok(edits) = answer::edits(edits) else { return };
    if let Ok(Some(edited)) = edits::apply(&document, &edits) {
        json::check(edited.get().as_bytes()).expect("an edited document is a document");
    }
}

/// What a module says of itself.
pub fn describe(data: &[u8]) {
    let Ok(info) = serde_json::from_slice::<manifest::Info>(data) else { return };
    if let Ok(manifest) = Manifest::check(info) {
        assert!(manifest.mutates.iter().all(|hook| manifest.hooks.contains(hook)), "it mutates what it is asked for");
    }
}

/// A core module that is to become a component.
pub fn core_module(data: &[u8]) {
    if let Ok(component) = super::componentize(data) {
        // What was made is read again by the same checks as every component.
        _ = super::binary::check_component(&component);
    }
}
