//! What hooks are asked with: readers on the contract's records.
//!
//! Values that are JSON text in the contract are parsed when an author asks for them, and not before.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    Access, Call, CallResult, Caller, Context, Item, ItemOutput, Question, Tool, ToolHints, client, credential, grant,
};

impl Tool {
    /// `upstream/name`, the form in which rules name tools.
    pub fn path(&self) -> String {
        format!("{}/{}", self.upstream, self.name)
    }

    /// The upstream says that the tool changes nothing. A hint, not a proof.
    pub fn is_read_only(&self) -> bool {
        self.hints.contains(ToolHints::READ_ONLY)
    }

    /// The upstream says that the tool may destroy something.
    pub fn is_destructive(&self) -> bool {
        self.hints.contains(ToolHints::DESTRUCTIVE)
    }

    /// The definition differs from the one that was pinned.
    pub fn is_changed(&self) -> bool {
        self.hints.contains(ToolHints::CHANGED)
    }

    /// The definition has not been seen before.
    pub fn is_first_seen(&self) -> bool {
        self.hints.contains(ToolHints::FIRST_SEEN)
    }
}

impl Caller {
    /// A claim that the manifest asked for with [`crate::Need::claim`].
    pub fn claim(&self, name: &str) -> Option<Value> {
        match serde_json::from_str(&self.claims) {
            Ok(Value::Object(mut claims)) => claims.remove(name),
            _ => None,
        }
    }

    /// Whether the caller belongs to this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|name| name == group)
    }

    /// Whether the caller holds this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|name| name == scope)
    }
}

impl Context {
    /// A fact that the manifest asked for with [`crate::Need::ext`].
    pub fn ext(&self, name: &str) -> Option<Value> {
        let attr = self.ext.iter().find(|attr| attr.name == name)?;
        serde_json::from_str(&attr.value).ok()
    }

    /// Whether the approval or step-up with this reason code was already given for this call.
    pub fn is_satisfied(&self, code: &str) -> bool {
        self.satisfied.iter().any(|given| given == code)
    }
}

impl Call {
    /// The arguments as `T`; `None` if the call has none or the manifest did not ask for them with
    /// [`crate::Need::arguments`].
    pub fn parse_arguments<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        self.arguments.as_deref().map(serde_json::from_str).transpose()
    }
}

impl CallResult {
    /// The texts of all parts that have one.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| part.text.as_deref())
    }

    /// The structured content; `None` if there is none or the manifest did not ask for it with
    /// [`crate::Need::output`].
    pub fn parse_structured<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        self.structured.as_deref().map(serde_json::from_str).transpose()
    }
}

impl Item {
    /// `upstream/id`, the form in which rules name items.
    pub fn path(&self) -> String {
        format!("{}/{}", self.upstream, self.id)
    }
}

impl Access {
    /// `upstream/id`, the form in which rules name items.
    pub fn path(&self) -> String {
        format!("{}/{}", self.upstream.id, self.id)
    }

    /// The arguments as `T`; `None` if there are none or the manifest did not ask for them with
    /// [`crate::Need::arguments`].
    pub fn parse_arguments<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        self.arguments.as_deref().map(serde_json::from_str).transpose()
    }
}

impl ItemOutput {
    /// `upstream/id`, the form in which rules name items.
    pub fn path(&self) -> String {
        format!("{}/{}", self.upstream, self.id)
    }

    /// The texts of all parts that have one.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| part.text.as_deref())
    }
}

impl Question {
    /// The parameters as `T`; `None` if there are none or the manifest did not ask for them with
    /// [`crate::Need::arguments`].
    pub fn parse_params<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        self.params.as_deref().map(serde_json::from_str).transpose()
    }
}

impl grant::Client {
    /// The registered metadata (RFC 7591 §2) as `T`.
    pub fn parse_metadata<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.metadata)
    }
}

impl client::Request {
    /// The metadata that the client wants to register (RFC 7591 §2) as `T`.
    pub fn parse_metadata<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.metadata)
    }
}

impl credential::Request {
    /// `upstream/tool`, the form in which rules name tools, if the credential is wanted for one.
    pub fn tool_path(&self) -> Option<String> {
        self.tool.as_ref().map(|tool| format!("{}/{tool}", self.upstream.id))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn claims_are_read_by_name() {
        let mut ctx = testing::context();
        assert_eq!(ctx.caller.claim("department"), None);
        ctx.caller.claims = json!({"department": "books"}).to_string();
        assert_eq!(ctx.caller.claim("department"), Some(json!("books")));
        assert_eq!(ctx.caller.claim("salary"), None);
    }

    #[test]
    fn arguments_are_parsed_into_the_type_asked_for() {
        let call = testing::call(testing::tool("notes", "add"), &json!({"title": "x"}));
        assert_eq!(call.parse_arguments::<Value>().unwrap(), Some(json!({"title": "x"})));
        assert!(call.parse_arguments::<Vec<String>>().is_err());
    }

    #[test]
    fn items_are_named_like_tools() {
        let item = testing::item(crate::ItemKind::Content, "notes", "note://7");
        assert_eq!(item.path(), "notes/note://7");
        assert_eq!(testing::access("resources/read", &item).path(), item.path());
        let output = testing::item_output("resources/read", &item, &["a", "b"]);
        assert_eq!(output.path(), item.path());
        assert_eq!(output.texts().collect::<Vec<_>>(), ["a", "b"]);
    }
}
