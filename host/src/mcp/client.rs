//! What is known of the program at the caller's end: how it introduces itself and what can be asked of it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::json::raw;
use crate::mcp::talk::Question;

/// `clientInfo` and `capabilities`, as the client declared them in `initialize` or in a request's `_meta`.
#[derive(Debug)]
pub struct Client {
    /// JSON object `{"name", "version", …}`.
    info: Option<Box<RawValue>>,
    /// JSON object.
    capabilities: Box<RawValue>,
    declared: Declared,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Declared {
    sampling: Option<Anything>,
    roots: Option<Anything>,
    elicitation: Option<Elicitation>,
    extensions: std::collections::BTreeMap<String, Anything>,
}

type Anything = serde::de::IgnoredAny;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Elicitation {
    form: Option<Anything>,
    url: Option<Anything>,
}

impl Client {
    /// From the two JSON objects. Capabilities that are not understood count as not declared.
    pub fn new(info: Option<Box<RawValue>>, capabilities: Box<RawValue>) -> Self {
        let is_object = capabilities.get().starts_with('{');
        let declared =
            if is_object { serde_json::from_str(capabilities.get()).unwrap_or_default() } else { Declared::default() };
        Self { info, capabilities, declared }
    }

    /// The gateway itself, of whom nothing can be asked.
    pub fn gateway() -> Self {
        Self::new(None, raw("{}".to_owned()))
    }

    pub fn info(&self) -> Option<&RawValue> {
        self.info.as_deref()
    }

    pub fn capabilities(&self) -> &RawValue {
        &self.capabilities
    }

    /// Whether this may be asked of it. An `elicitation` without a mode means the form (2025-11-25, elicitation
    /// § capabilities).
    pub fn answers(&self, question: Question) -> bool {
        match question {
            Question::Sampling => self.declared.sampling.is_some(),
            Question::Roots => self.declared.roots.is_some(),
            Question::ElicitationForm => {
                self.declared.elicitation.as_ref().is_some_and(|modes| modes.form.is_some() || modes.url.is_none())
            }
            Question::ElicitationUrl => self.declared.elicitation.as_ref().is_some_and(|modes| modes.url.is_some()),
        }
    }

    /// Whether it can be asked anything at all.
    pub fn answers_anything(&self) -> bool {
        self.declared.sampling.is_some() || self.declared.roots.is_some() || self.declared.elicitation.is_some()
    }

    /// Whether it declares an extension, such as `io.modelcontextprotocol/tasks`.
    pub fn has_extension(&self, identifier: &str) -> bool {
        self.declared.extensions.contains_key(identifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_specification_has_them() {
        let client = |capabilities: &str| Client::new(None, raw(capabilities.to_owned()));
        let form = client(r#"{"elicitation":{}}"#);
        assert!(form.answers(Question::ElicitationForm) && !form.answers(Question::ElicitationUrl));
        let url = client(r#"{"elicitation":{"url":{}}}"#);
        assert!(!url.answers(Question::ElicitationForm) && url.answers(Question::ElicitationUrl));
        let both = client(r#"{"elicitation":{"url":{},"form":{}},"extensions":{"a/b":{}},"x":1}"#);
        assert!(both.answers(Question::ElicitationForm) && both.answers(Question::ElicitationUrl));
        assert!(both.has_extension("a/b") && !both.has_extension("a"));
        assert!(!client("{}").answers_anything() && client(r#"{"roots":{}}"#).answers(Question::Roots));
        assert!(!client(r#"[{}]"#).answers_anything(), "an array is no object");
        assert!(!client(r#"{"elicitation":true}"#).answers_anything(), "what is not understood is not declared");
    }
}
