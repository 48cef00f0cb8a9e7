//! The parts of the contract's JSON form that serde's derives cannot express: members that hold a JSON value, flags, and
//! what is left out. The derives themselves are generated with the types.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};
use wit_bindgen::rt::bitflags::Flags;

use crate::{Capability, ToolHints};

/// A member of type `json`: text in Rust, the value itself in JSON.
pub(crate) mod json {
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::value::RawValue;

    pub(crate) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        let value: &RawValue = serde_json::from_str(text).map_err(S::Error::custom)?;
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        Ok(String::from(Box::<RawValue>::deserialize(deserializer)?.get()))
    }
}

/// The same for members that may be absent. `null` is absence.
pub(crate) mod json_option {
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::value::RawValue;

    pub(crate) fn serialize<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
        match text {
            Some(text) => super::json::serialize(text, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        let value = Option::<Box<RawValue>>::deserialize(deserializer)?;
        Ok(value.map(|value| value.get().to_owned()))
    }
}

/// A JSON object without members, for what is left out.
pub(crate) fn empty_object() -> String {
    "{}".to_owned()
}

/// What is true unless something else is said.
pub(crate) fn yes() -> bool {
    true
}

/// Flags as a list of their names, in kebab-case.
macro_rules! flags_as_names {
    ($($flags:ident)+) => { $(
        impl Default for $flags {
            fn default() -> Self {
                Self::empty()
            }
        }

        impl serde::Serialize for $flags {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.iter_names().map(|(name, _)| kebab(name)))
            }
        }

        impl<'de> Deserialize<'de> for $flags {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let names = Vec::<String>::deserialize(deserializer)?;
                from_names(&names).map_err(D::Error::custom)
            }
        }
    )+ };
}

flags_as_names! { ToolHints Capability }

fn from_names<F: Flags>(names: &[String]) -> Result<F, String> {
    let mut flags = F::empty();
    for name in names {
        let known = F::FLAGS.iter().find(|flag| kebab(flag.name()) == *name);
        let Some(flag) = known else {
            let known: Vec<_> = F::FLAGS.iter().map(|flag| kebab(flag.name())).collect();
            return Err(format!("unknown flag {name:?}, expected one of {}", known.join(", ")));
        };
        flags.insert(F::from_bits_retain(flag.value().bits()));
    }
    Ok(flags)
}

fn kebab(constant: &str) -> String {
    constant.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use crate::{Call, Caller, Context, Denial, Edit, Inspection, Permit, Tool, ToolHints, Verdict, grant, refresh};

    #[test]
    fn what_is_left_out_of_a_question_has_a_harmless_value() {
        let context: Context = from_value(json!({"caller": {"subject": "ci", "kind": "service"}})).unwrap();
        assert_eq!((context.now_ms, &*context.caller.claims), (0, "{}"));
        assert_eq!(from_value::<Context>(json!({})).unwrap(), Context::default());
        assert_eq!(Caller::default().claims, "{}", "the claims are an object even where there is no caller");
        assert_eq!(from_value::<refresh::Request>(json!({})).unwrap().granted, grant::Terms::default());
        assert!(from_value::<Context>(json!({"calller": {}})).is_err(), "what is misspelt is not left out");
    }

    #[test]
    fn a_question_survives_the_way_through_json() {
        let written = json!({
            "tool": {"upstream": "notes", "name": "delete", "hints": ["destructive", "first-seen"], "input_schema": {"type": "object"}},
            "upstream": {"id": "notes", "trust": "", "labels": []},
            "arguments": {"id": [1, 2.5, "x"]},
            "arguments_bytes": 7,
            "meta": null,
        });
        let call: Call = from_value(written).unwrap();
        assert_eq!(call.tool.hints, ToolHints::DESTRUCTIVE | ToolHints::FIRST_SEEN);
        assert_eq!(call.arguments.as_deref(), Some(r#"{"id":[1,2.5,"x"]}"#));
        let value = to_value(&call).unwrap();
        assert_eq!(value["tool"]["hints"], json!(["destructive", "first-seen"]));
        assert_eq!(value["arguments"], json!({"id": [1, 2.5, "x"]}));
        assert_eq!(value["tool"]["title"], Value::Null);
        assert_eq!(from_value::<Call>(value).unwrap(), call);
    }

    #[test]
    fn answers_are_read_in_the_form_that_the_contract_lays_down() {
        let reason = json!({"code": "a.b", "message": "no"});
        let permit = Permit::new().edit(Edit::set("/a", &json!(1))).edit(Edit::remove("/b"));
        for (written, answer) in [
            (json!("abstain"), Verdict::Abstain),
            (json!({"allow": {}}), Verdict::allow()),
            (json!({"deny": {"reason": reason}}), Verdict::deny("a.b", "no")),
            (
                json!({"deny": {"reason": reason, "as_tool_error": false}}),
                Denial::new("a.b", "no").as_rpc_error().into(),
            ),
            (
                json!({"allow": {"rewrite": {"patch": [{"pointer": "/a", "op": {"set": 1}}, {"pointer": "/b", "op": "remove"}]}}}),
                permit.into(),
            ),
        ] {
            assert_eq!(from_value::<Verdict>(written.clone()).unwrap(), answer, "{written}");
            assert_eq!(from_value::<Verdict>(to_value(&answer).unwrap()).unwrap(), answer, "{written}");
        }
        assert_eq!(from_value::<Inspection>(json!("pass")).unwrap(), Inspection::Pass);
        for wrong in [
            json!("alow"),
            json!({"deny": {}}),
            json!({"deny": {"reason": {"code": "a.b", "message": "no", "why": 1}}}),
            json!({"allow": {}, "deny": {}}),
            json!(true),
        ] {
            assert!(from_value::<Verdict>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_flag_is_refused_and_the_known_ones_are_named() {
        let error = from_value::<Tool>(json!({"hints": ["readonly"]})).unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown flag \"readonly\", expected one of read-only, destructive, idempotent, open-world, first-seen, changed"
        );
    }
}
