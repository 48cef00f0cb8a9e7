//! What rules see as `input`: the hook's JSON and shortcuts into it.
//!
//! Values are made for what the modules mention and for nothing else: most of an evaluation's time goes there.

use std::collections::BTreeMap;

use policy_scripted::{Fact, Situation, variables};
use regorus::Value;

/// What of `input` the modules name: a node stands for a member, the root for `input` itself.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Mentioned {
    /// All of it, since it is named without a member.
    whole: bool,
    members: BTreeMap<String, Self>,
}

impl Mentioned {
    /// Reads the texts, not the syntax tree: a member that only a comment names costs a little and breaks nothing, and what
    /// stands in any other way than before a dot and a name is wanted whole.
    pub(crate) fn of<'a>(sources: impl Iterator<Item = &'a str>) -> Self {
        let mut root = Self::default();
        for source in sources {
            for (at, _) in source.match_indices("input") {
                let rest = &source[at + "input".len()..];
                if !source[..at].ends_with(is_part) && !rest.starts_with(is_part) {
                    root.add(rest);
                }
            }
        }
        root
    }

    /// Adds the member that the text after a node names.
    fn add(&mut self, rest: &str) {
        let mut node = self;
        let mut rest = rest;
        while let Some((name, after)) = member(rest) {
            node = node.members.entry(name.to_owned()).or_default();
            rest = after;
        }
        node.whole = true;
    }
}

fn is_part(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The member that a text begins with, as `.name` or `["name"]`, and what follows.
fn member(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = match text.strip_prefix('.') {
        Some(text) => text.split_at(text.find(|character| !is_part(character)).unwrap_or(text.len())),
        None => text.strip_prefix("[\"")?.split_once("\"]")?,
    };
    (!name.is_empty()).then_some((name, rest))
}

/// The `input` of one decision.
pub(crate) fn input(situation: &Situation<'_>, mentioned: &Mentioned) -> Value {
    let names = variables(situation.subject.hook()).map(|(name, _)| name);
    of_members(names, mentioned, |name| situation.variable(name))
}

/// The members that are mentioned and there.
fn of_members<'a>(
    names: impl Iterator<Item = &'static str>,
    mentioned: &Mentioned,
    member: impl Fn(&'static str) -> Fact<'a>,
) -> Value {
    const ALL: &Mentioned = &Mentioned { whole: true, members: BTreeMap::new() };
    let wanted = names.filter_map(|name| match mentioned.whole {
        true => Some((name, ALL)),
        false => mentioned.members.get(name).map(|within| (name, within)),
    });
    let members = wanted.filter_map(|(name, within)| Some((Value::from(name), value(member(name), within)?)));
    Value::from(members.collect::<BTreeMap<_, _>>())
}

/// A fact as a value; none if it is absent.
fn value(fact: Fact<'_>, mentioned: &Mentioned) -> Option<Value> {
    Some(match fact {
        Fact::Absent => return None,
        Fact::Bool(is) => Value::from(is),
        Fact::Number(number) => Value::from(number),
        Fact::Text(text) => Value::from(text),
        Fact::Json(text) => Value::from_json_str(text).ok()?,
        Fact::List(facts) => {
            let whole = &Mentioned { whole: true, members: BTreeMap::new() };
            Value::from(facts.into_iter().filter_map(|fact| value(fact, whole)).collect::<Vec<_>>())
        }
        Fact::Record(record) => of_members(record.names().iter().copied(), mentioned, |name| record.member(name)),
    })
}

#[cfg(test)]
mod tests {
    use policy_scripted::Subject;
    use portcullis_guest_sdk::serde_json::{from_value, json, to_value};
    use portcullis_guest_sdk::{Call, Context};

    use super::*;

    /// The paths that are wanted whole.
    fn paths(mentioned: &Mentioned) -> Vec<String> {
        let mut paths: Vec<String> = if mentioned.whole { vec![String::new()] } else { Vec::new() };
        for (name, within) in &mentioned.members {
            paths.extend(self::paths(within).into_iter().map(|path| format!(".{name}{path}")));
        }
        paths
    }

    #[test]
    fn what_modules_mention_is_found_in_their_text() {
        for (source, expected) in [
            (
                "allow if input.caller.kind == \"agent\"\ndeny if input[\"tool\"].name",
                vec![".caller.kind", ".tool.name"],
            ),
            ("import input.request as req\nallow if req.x; my_input.y; inputs.z", vec![".request"]),
            ("some part in input.response.parts[_].text", vec![".response.parts"]),
            ("input.caller.scopes; x := input.caller", vec![".caller", ".caller.scopes"]),
            ("allow if true", vec![]),
            ("x := input", vec![""]),
            ("x := input[name]", vec![""]),
            ("allow if f(input)", vec![""]),
            ("allow if input.\ncaller", vec![""]),
            ("allow if data.f with input as {}", vec![""]),
            ("x := object.get(input, \"args\", {})", vec![""]),
        ] {
            assert_eq!(paths(&Mentioned::of([source].into_iter())), expected, "{source}");
        }
    }

    #[test]
    fn the_input_has_what_is_mentioned() {
        let context: Context =
            from_value(json!({"now_ms": 7000, "caller": {"subject": "ada", "scopes": ["a"]}})).unwrap();
        let call: Call =
            from_value(json!({"tool": {"name": "add", "hints": ["destructive"]}, "arguments": {"a": [1, 2.5, null]}}))
                .unwrap();
        let situation = Situation::new(&context, Subject::ToolCall(&call));
        let of = |source: &str| to_value(input(&situation, &Mentioned::of([source].into_iter()))).unwrap();
        assert_eq!(
            of("input.args input.hints.destructive input.now input.structured input.caller.scopes input.tool.title.x"),
            json!({"args": {"a": [1, 2.5, null]}, "hints": {"destructive": true}, "now": 7, "caller": {"scopes": ["a"]}, "tool": {}})
        );
        let all = of("input");
        let names: Vec<_> = all.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["args", "caller", "context", "hints", "jwt", "mcp", "now", "request", "tool"]);
        assert_eq!(all["request"]["arguments"], json!({"a": [1, 2.5, null]}));
        assert_eq!(all["request"]["tool"]["hints"], json!(["destructive"]));
        assert_eq!(all["context"]["caller"]["subject"], json!("ada"));
    }
}
