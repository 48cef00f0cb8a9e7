//! What a tool is: the definition that clients list and the function that answers a call.
//!
//! A toolbox is a table of tools over one state. A call holds the state's lock for its whole, short length; no
//! function here waits for anything.

use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// One server's tools and what they work on.
pub(crate) struct Toolbox<S> {
    /// The server's name, as it tells it to clients.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What a model should know before it uses the tools.
    pub(crate) instructions: &'static str,
    pub(crate) tools: Vec<Tool<S>>,
    pub(crate) state: Mutex<S>,
}

pub(crate) struct Tool<S> {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) effect: Effect,
    /// JSON Schema 2020-12 of the arguments.
    pub(crate) input: Value,
    /// JSON Schema 2020-12 of the structured content; `None` where the answer is a sentence.
    pub(crate) output: Option<Value>,
    pub(crate) run: fn(&mut S, Arguments) -> Result<Answer, Mistake>,
}

/// What a call does to the state; becomes the tool's annotations.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    Reads,
    /// Adds something, once more for every call.
    Adds,
    /// Takes something away; a second call changes nothing more.
    Destroys,
}

/// What a tool answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Sentence(String),
    /// A JSON object that fits the tool's output schema.
    Structured(Value),
}

/// Why a tool could not do what was asked, in words that help the model to ask better.
#[derive(Debug)]
pub(crate) struct Mistake(pub(crate) String);

/// A call's arguments.
pub(crate) struct Arguments(pub(crate) Map<String, Value>);

impl Arguments {
    /// Reads the arguments into what the tool works with.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, Mistake> {
        T::deserialize(Value::Object(self.0)).map_err(|error| Mistake(format!("Bad arguments: {error}.")))
    }
}

impl<S> Toolbox<S> {
    /// The `tools` member of a tools/list result.
    pub(crate) fn list(&self) -> Vec<Value> {
        self.tools.iter().map(Tool::definition).collect()
    }

    /// The result of a tools/call, or `None` if there is no such tool.
    pub(crate) fn call(&self, name: &str, arguments: Map<String, Value>) -> Option<Value> {
        let tool = self.tools.iter().find(|tool| tool.name == name)?;
        // A call that panicked left the state whole: every tool checks first and then makes one change.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Some(match (tool.run)(&mut state, Arguments(arguments)) {
            Ok(Answer::Sentence(text)) => json!({ "content": [text_block(&text)] }),
            // The specification asks for the same as text, for clients that do not read structured content.
            Ok(Answer::Structured(value)) => {
                json!({ "content": [text_block(&value.to_string())], "structuredContent": value })
            }
            Err(Mistake(text)) => json!({ "content": [text_block(&text)], "isError": true }),
        })
    }
}

impl<S> Tool<S> {
    fn definition(&self) -> Value {
        let mut definition = json!({
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input,
            "annotations": self.effect.annotations(),
        });
        if let Some(output) = &self.output {
            definition["outputSchema"] = output.clone();
        }
        definition
    }
}

impl Effect {
    fn annotations(self) -> Value {
        let (reads, destroys, repeatable) = match self {
            Self::Reads => (true, false, true),
            Self::Adds => (false, false, false),
            Self::Destroys => (false, true, true),
        };
        json!({
            "readOnlyHint": reads,
            "destructiveHint": destroys,
            "idempotentHint": repeatable,
            "openWorldHint": false,
        })
    }
}

fn text_block(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

/// Checks that a text is there and not longer than `most` bytes.
pub(crate) fn check_text(field: &str, text: &str, most: usize) -> Result<(), Mistake> {
    if text.trim().is_empty() {
        return Err(Mistake(format!("`{field}` must not be empty.")));
    }
    if text.len() > most {
        return Err(Mistake(format!("`{field}` is {} bytes long; at most {most} are allowed.", text.len())));
    }
    Ok(())
}

/// The schema of an object with these properties and no others.
pub(crate) fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({ "type": "object", "required": required, "additionalProperties": false });
    schema["properties"] = properties;
    schema
}
