//! The variables of one decision, made when an expression asks for them and not before.
//!
//! CEL asks for the longest name first: `caller.scopes` as a whole, and `caller` only if there is no such thing. So a rule
//! that looks at one member costs one member, and JSON is parsed only if something in it is looked at.

use std::sync::OnceLock;

use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use policy_scripted::{Fact, Situation};
use portcullis_guest_sdk::serde_json::{self, Value};

use crate::value::{of_fact, of_json};

const NAMES: [&str; 12] =
    ["caller", "jwt", "context", "now", "request", "response", "tool", "item", "hints", "mcp", "args", "structured"];

/// The variables of one decision.
pub(crate) struct Facts<'a> {
    situation: &'a Situation<'a>,
    /// Documents, parsed when they are first looked at.
    parsed: [OnceLock<Option<Value>>; NAMES.len()],
    /// Variables that are looked at as a whole.
    whole: [OnceLock<Option<Box<dyn Val + 'a>>>; NAMES.len()],
}

impl<'a> Facts<'a> {
    pub(crate) fn of(situation: &'a Situation<'a>) -> Self {
        Self { situation, parsed: Default::default(), whole: Default::default() }
    }

    pub(crate) fn situation(&self) -> &'a Situation<'a> {
        self.situation
    }

    /// The variable of this name as a JSON document, if it is one.
    pub(crate) fn document(&self, name: &str) -> Option<&Value> {
        let at = position(name)?;
        let Fact::Json(text) = self.situation.variable(name) else { return None };
        self.parsed[at].get_or_init(|| serde_json::from_str(text).ok()).as_ref()
    }
}

impl VariableResolver for Facts<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let Some((variable, path)) = name.split_once('.') else {
            let whole = self.whole[position(name)?].get_or_init(|| of_fact(self.situation.variable(name)));
            return whole.as_deref().map(CowVal::Borrowed);
        };
        position(variable)?;
        match self.situation.variable(variable) {
            Fact::Json(_) => {
                let found = path.split('.').try_fold(self.document(variable)?, |value, name| value.get(name))?;
                Some(CowVal::Owned(of_json(found)))
            }
            fact => of_fact(fact.at(path)?).map(CowVal::Owned),
        }
    }
}

fn position(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use policy_scripted::{Subject, variables};
    use portcullis_guest_sdk::serde_json::{from_value, json};
    use portcullis_guest_sdk::{Call, Context, Hook};

    use super::*;
    use crate::value::to_json;

    #[test]
    fn every_variable_has_a_place() {
        for name in Hook::ALL.into_iter().flat_map(variables).map(|(name, _)| name) {
            assert!(position(name).is_some(), "{name}");
        }
    }

    #[test]
    fn names_lead_into_records_and_documents() {
        let context: Context = from_value(json!({"caller": {"subject": "ada", "claims": {"org": {"id": 7}}}})).unwrap();
        let call: Call =
            from_value(json!({"tool": {"name": "add"}, "arguments": {"a": {"b": [1]}, "c.d": 2}})).unwrap();
        let situation = Situation::new(&context, Subject::ToolCall(&call));
        let facts = Facts::of(&situation);
        let found = |name: &str| facts.resolve(name).and_then(|value| to_json(value.as_ref()));
        for (name, expected) in [
            ("caller.subject", Some(json!("ada"))),
            ("jwt.org.id", Some(json!(7))),
            ("args.a.b", Some(json!([1]))),
            ("args", Some(json!({"a": {"b": [1]}, "c.d": 2}))),
            ("request.arguments", Some(json!({"a": {"b": [1]}, "c.d": 2}))),
            ("request.arguments.a", None),
            ("args.c.d", None),
            ("caller.acr", None),
            ("structured", None),
            ("argz", None),
            ("argz.a", None),
        ] {
            assert_eq!(found(name), expected, "{name}");
        }
        assert_eq!(facts.document("args"), Some(&json!({"a": {"b": [1]}, "c.d": 2})));
        assert_eq!(facts.document("caller"), None);
    }
}
