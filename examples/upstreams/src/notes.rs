//! A box of notes: list, read, search, add, delete.
//!
//! One of the notes that it starts with holds an e-mail address and something that looks like an API key (both
//! made up), so that a policy which redacts such things has something to find.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tool::{Answer, Arguments, Effect, Mistake, Tool, Toolbox, check_text, object};

const MAX_NOTES: usize = 1_000;
const MAX_TITLE_BYTES: usize = 200;
const MAX_TEXT_BYTES: usize = 16 * 1024;
const MAX_TAGS: usize = 10;
const MAX_TAG_BYTES: usize = 50;
const MAX_LISTED: usize = 100;
const DEFAULT_LISTED: usize = 20;
/// How much of a note a search shows around what it found.
const EXCERPT_CHARS: usize = 60;

pub(crate) struct Notes {
    /// In the order of their ids.
    notes: Vec<Note>,
    next_id: u64,
}

#[derive(Clone, Serialize)]
struct Note {
    id: String,
    title: String,
    text: String,
    tags: Vec<String>,
}

pub(crate) fn toolbox() -> Toolbox<Notes> {
    Toolbox {
        name: "example-notes",
        title: "Notes",
        instructions: "A small box of notes. Use list_notes or search_notes to find a note, then read_note with its \
                       id to see the whole text.",
        tools: tools(),
        state: Mutex::new(Notes::seeded()),
    }
}

fn tools() -> Vec<Tool<Notes>> {
    vec![
        Tool {
            name: "list_notes",
            title: "List notes",
            description: "Lists notes by id and title, oldest first. Texts are not included; read_note shows them.",
            effect: Effect::Reads,
            input: object(
                json!({
                    "tag": { "type": "string", "description": "Only notes that have this tag." },
                    "limit": limit_schema(),
                }),
                &[],
            ),
            output: Some(listing_schema(&object(
                json!({ "id": { "type": "string" }, "title": { "type": "string" }, "tags": tags_schema() }),
                &["id", "title", "tags"],
            ))),
            run: Notes::list,
        },
        Tool {
            name: "read_note",
            title: "Read a note",
            description: "Returns one note with its whole text.",
            effect: Effect::Reads,
            input: object(json!({ "id": id_schema() }), &["id"]),
            output: Some(note_schema()),
            run: Notes::read,
        },
        Tool {
            name: "search_notes",
            title: "Search notes",
            description: "Finds notes whose title or text contains the words of the query exactly as given, without \
                          regard to case, and shows the place where they were found.",
            effect: Effect::Reads,
            input: object(
                json!({
                    "query": { "type": "string", "minLength": 1, "description": "What to look for." },
                    "limit": limit_schema(),
                }),
                &["query"],
            ),
            output: Some(listing_schema(&object(
                json!({ "id": { "type": "string" }, "title": { "type": "string" }, "excerpt": { "type": "string" } }),
                &["id", "title", "excerpt"],
            ))),
            run: Notes::search,
        },
        Tool {
            name: "add_note",
            title: "Add a note",
            description: "Adds a note and returns it with the id it was given.",
            effect: Effect::Adds,
            input: object(
                json!({
                    "title": { "type": "string", "minLength": 1, "maxLength": MAX_TITLE_BYTES },
                    "text": { "type": "string", "minLength": 1, "maxLength": MAX_TEXT_BYTES },
                    "tags": tags_schema(),
                }),
                &["title", "text"],
            ),
            output: Some(note_schema()),
            run: Notes::add,
        },
        Tool {
            name: "delete_note",
            title: "Delete a note",
            description: "Deletes a note for good. There is no way to get it back.",
            effect: Effect::Destroys,
            input: object(json!({ "id": id_schema() }), &["id"]),
            output: None,
            run: Notes::delete,
        },
    ]
}

fn id_schema() -> Value {
    json!({ "type": "string", "description": "The note's id, such as note-1." })
}

fn limit_schema() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": DEFAULT_LISTED })
}

fn tags_schema() -> Value {
    json!({ "type": "array", "items": { "type": "string", "maxLength": MAX_TAG_BYTES }, "maxItems": MAX_TAGS })
}

fn note_schema() -> Value {
    object(
        json!({
            "id": { "type": "string" },
            "title": { "type": "string" },
            "text": { "type": "string" },
            "tags": tags_schema(),
        }),
        &["id", "title", "text", "tags"],
    )
}

fn listing_schema(item: &Value) -> Value {
    object(
        json!({
            "notes": { "type": "array", "items": item },
            "total": { "type": "integer", "minimum": 0, "description": "How many there are, listed or not." },
        }),
        &["notes", "total"],
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    tag: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneNote {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchArguments {
    query: String,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddArguments {
    title: String,
    text: String,
    #[serde(default)]
    tags: Vec<String>,
}

impl Notes {
    fn list(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let ListArguments { tag, limit } = arguments.read()?;
        let limit = check_limit(limit)?;
        let has_tag = |note: &&Note| tag.as_ref().is_none_or(|tag| note.tags.contains(tag));
        let found: Vec<_> = self.notes.iter().filter(has_tag).collect();
        let notes: Vec<_> = found
            .iter()
            .take(limit)
            .map(|note| json!({ "id": note.id, "title": note.title, "tags": note.tags }))
            .collect();
        Ok(Answer::Structured(json!({ "notes": notes, "total": found.len() })))
    }

    fn read(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let OneNote { id } = arguments.read()?;
        let at = self.find(&id)?;
        Ok(Answer::Structured(json!(self.notes[at])))
    }

    fn search(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let SearchArguments { query, limit } = arguments.read()?;
        check_text("query", &query, MAX_TITLE_BYTES)?;
        let limit = check_limit(limit)?;
        let found: Vec<_> = self
            .notes
            .iter()
            .filter_map(|note| {
                let excerpt = excerpt(&note.text, &query).or_else(|| excerpt(&note.title, &query))?;
                Some(json!({ "id": note.id, "title": note.title, "excerpt": excerpt }))
            })
            .collect();
        let total = found.len();
        let notes: Vec<_> = found.into_iter().take(limit).collect();
        Ok(Answer::Structured(json!({ "notes": notes, "total": total })))
    }

    fn add(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let AddArguments { title, text, tags } = arguments.read()?;
        check_text("title", &title, MAX_TITLE_BYTES)?;
        check_text("text", &text, MAX_TEXT_BYTES)?;
        if tags.len() > MAX_TAGS {
            return Err(Mistake(format!("A note can have at most {MAX_TAGS} tags.")));
        }
        for tag in &tags {
            check_text("tags", tag, MAX_TAG_BYTES)?;
        }
        if self.notes.len() >= MAX_NOTES {
            return Err(Mistake(format!("The box is full: it holds {MAX_NOTES} notes. Delete one first.")));
        }
        let note = self.put(title, text, tags);
        Ok(Answer::Structured(json!(note)))
    }

    fn delete(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let OneNote { id } = arguments.read()?;
        let at = self.find(&id)?;
        let note = self.notes.remove(at);
        Ok(Answer::Sentence(format!("Deleted {} ({}).", note.id, note.title)))
    }

    fn find(&self, id: &str) -> Result<usize, Mistake> {
        self.notes
            .iter()
            .position(|note| note.id == id)
            .ok_or_else(|| Mistake(format!("There is no note {id:?}. list_notes shows the ids there are.")))
    }

    fn put(&mut self, title: String, text: String, tags: Vec<String>) -> Note {
        let note = Note { id: format!("note-{}", self.next_id), title, text, tags };
        self.next_id += 1;
        self.notes.push(note.clone());
        note
    }

    fn seeded() -> Self {
        let mut notes = Self { notes: Vec::new(), next_id: 1 };
        for (title, text, tags) in SEED {
            notes.put((*title).into(), (*text).into(), tags.iter().copied().map(Into::into).collect());
        }
        notes
    }
}

fn check_limit(limit: Option<usize>) -> Result<usize, Mistake> {
    match limit.unwrap_or(DEFAULT_LISTED) {
        limit @ 1..=MAX_LISTED => Ok(limit),
        _ => Err(Mistake(format!("`limit` must be from 1 to {MAX_LISTED}."))),
    }
}

/// The place in `text` where `query` occurs, with a little around it.
fn excerpt(text: &str, query: &str) -> Option<String> {
    let folded: String = text.chars().map(fold).collect();
    let wanted: String = query.chars().map(fold).collect();
    let at = folded[..folded.find(&wanted)?].chars().count();
    let start = at.saturating_sub(EXCERPT_CHARS);
    Some(text.chars().skip(start).take(at - start + wanted.chars().count() + EXCERPT_CHARS).collect())
}

/// Lower case where that is a single character, so that positions stay.
fn fold(character: char) -> char {
    let mut lower = character.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => character,
    }
}

const SEED: &[(&str, &str, &[&str])] = &[
    ("Welcome", "These notes live in memory: change them as you like, a restart brings them back.", &["help"]),
    (
        "Staging access",
        "Ask dana.whitfield@example.com before you deploy to staging.\n\
         API key for the staging environment: sk-test-7Yq2NfX4mB9cRw1ZtK8sLd0P\n\
         It is rotated on the first of each month.",
        &["work", "access"],
    ),
    (
        "Release checklist",
        "1. All tests green\n2. Changelog has a line for every visible change\n3. Tag, build, sign\n\
         4. Tell the support team before the announcement",
        &["work"],
    ),
    (
        "Sourdough",
        "500 g flour, 350 g water, 100 g starter, 10 g salt. Fold four times, let it rest overnight in the fridge, \
         bake at 240 °C for 40 minutes.",
        &["kitchen"],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn call(notes: &Toolbox<Notes>, tool: &str, arguments: Value) -> (bool, String) {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        let result = notes.call(tool, arguments).expect("the tool exists");
        let text = result["content"][0]["text"].as_str().unwrap().to_owned();
        if let Some(structured) = result.get("structuredContent") {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), *structured);
        }
        (result.get("isError").is_none(), text)
    }

    #[test]
    fn answers_say_what_was_asked_for() {
        let cases = [
            ("list_notes", json!({}), true, r#""total":4"#),
            ("list_notes", json!({ "tag": "work", "limit": 1 }), true, r#""total":2"#),
            ("list_notes", json!({ "tag": "nothing" }), true, r#"{"notes":[],"total":0}"#),
            ("list_notes", json!({ "limit": 0 }), false, "from 1 to 100"),
            ("read_note", json!({ "id": "note-4" }), true, "240 °C"),
            ("read_note", json!({ "id": "note-2" }), true, "sk-test-"),
            ("read_note", json!({ "id": "note-9" }), false, "There is no note \"note-9\""),
            ("read_note", json!({}), false, "missing field `id`"),
            ("read_note", json!({ "id": 4 }), false, "expected a string"),
            ("read_note", json!({ "id": "note-1", "page": 2 }), false, "unknown field `page`"),
            ("search_notes", json!({ "query": "240 °c" }), true, "note-4"),
            ("search_notes", json!({ "query": "CHECKLIST" }), true, "note-3"),
            ("search_notes", json!({ "query": " " }), false, "must not be empty"),
            ("search_notes", json!({ "query": "no such words" }), true, r#""total":0"#),
            ("delete_note", json!({ "id": "note-0" }), false, "There is no note"),
        ];
        let notes = toolbox();
        for (tool, arguments, fine, part) in cases {
            let (ok, text) = call(&notes, tool, arguments.clone());
            assert_eq!(ok, fine, "{tool} {arguments}: {text}");
            assert!(text.contains(part), "{tool} {arguments}: {text}");
        }
    }

    #[test]
    fn an_added_note_can_be_read_until_it_is_deleted() {
        let notes = toolbox();
        let (ok, added) = call(&notes, "add_note", json!({ "title": "Tea", "text": "Buy some.", "tags": ["kitchen"] }));
        assert!(ok && added.contains("note-5"), "{added}");
        assert_eq!(call(&notes, "read_note", json!({ "id": "note-5" })), (true, added));
        assert_eq!(call(&notes, "delete_note", json!({ "id": "note-5" })), (true, "Deleted note-5 (Tea).".into()));
        assert!(!call(&notes, "read_note", json!({ "id": "note-5" })).0);
        let (_, next) = call(&notes, "add_note", json!({ "title": "Tea", "text": "Buy more." }));
        assert!(next.contains("note-6"), "an id is used once: {next}");
    }

    #[test]
    fn the_box_and_its_notes_are_bounded() {
        let notes = toolbox();
        let refused = [
            json!({ "title": "", "text": "x" }),
            json!({ "title": "x".repeat(MAX_TITLE_BYTES + 1), "text": "x" }),
            json!({ "title": "x", "text": "x".repeat(MAX_TEXT_BYTES + 1) }),
            json!({ "title": "x", "text": "x", "tags": vec!["x"; MAX_TAGS + 1] }),
        ];
        for arguments in refused {
            assert!(!call(&notes, "add_note", arguments).0);
        }
        let whole = json!({ "title": "x", "text": "x".repeat(MAX_TEXT_BYTES) });
        for _ in SEED.len()..MAX_NOTES {
            assert!(call(&notes, "add_note", whole.clone()).0);
        }
        assert!(call(&notes, "add_note", whole).1.contains("full"));
    }
}
