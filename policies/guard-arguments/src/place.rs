//! Where a condition looks: an RFC 6901 pointer in which `*` stands for each item of a list and each member of an object.

use portcullis_guest_sdk::json;
use portcullis_guest_sdk::serde_json::Value;

/// Most places that one condition looks at in one call.
const MAX_PLACES: usize = 10_000;
const MAX_TOKENS: usize = 32;

/// A pattern for pointers.
#[derive(Clone, Debug)]
pub(crate) struct Place(Vec<String>);

impl Place {
    /// `None` if the text is no pointer or too long a one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        json::tokens(text).filter(|tokens| tokens.len() <= MAX_TOKENS).map(Self)
    }

    /// The pointers that it stands for in this document, in its order; `None` if they are too many.
    ///
    /// A place without `*` stands for one pointer, be there something or not; behind a `*` the place is in each item, be
    /// there something or not, and without items nowhere.
    pub(crate) fn all_in(&self, document: &Value) -> Option<Vec<String>> {
        let mut found = Vec::new();
        self.descend(&self.0, Some(document), &mut String::new(), &mut found);
        (found.len() <= MAX_PLACES).then_some(found)
    }

    fn descend(&self, tokens: &[String], value: Option<&Value>, pointer: &mut String, found: &mut Vec<String>) {
        if found.len() > MAX_PLACES {
            return;
        }
        let Some((token, rest)) = tokens.split_first() else {
            found.push(pointer.clone());
            return;
        };
        let length = pointer.len();
        let mut child = |token: &str, value: Option<&Value>| {
            json::push_token(pointer, token);
            self.descend(rest, value, pointer, found);
            pointer.truncate(length);
        };
        match (token.as_str(), value) {
            ("*", Some(Value::Array(items))) => {
                items.iter().enumerate().for_each(|(index, item)| child(&index.to_string(), Some(item)));
            }
            ("*", Some(Value::Object(members))) => {
                members.iter().for_each(|(name, member)| child(name, Some(member)));
            }
            ("*", _) => {}
            (_, None) if rest.iter().any(|token| token == "*") => {}
            (token, value) => child(token, value.and_then(|value| step(value, token))),
        }
    }
}

fn step<'a>(value: &'a Value, token: &str) -> Option<&'a Value> {
    value.pointer(&json::pointer([token]))
}

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::json;

    use super::*;

    #[test]
    fn a_star_stands_for_every_item_and_member() {
        let document = json!({"list": [{"id": 1}, {}, 3], "by/name": {"a": {"id": 2}, "b": null}, "empty": []});
        for (place, pointers) in [
            ("", vec![""]),
            ("/list/0/id", vec!["/list/0/id"]),
            ("/nothing/here", vec!["/nothing/here"]),
            ("/list/*", vec!["/list/0", "/list/1", "/list/2"]),
            ("/list/*/id", vec!["/list/0/id", "/list/1/id", "/list/2/id"]),
            ("/by~1name/*/id", vec!["/by~1name/a/id", "/by~1name/b/id"]),
            ("/empty/*", vec![]),
            ("/nothing/*/id", vec![]),
            ("/list/*/*", vec!["/list/0/id"]),
        ] {
            assert_eq!(Place::parse(place).unwrap().all_in(&document).unwrap(), pointers, "{place}");
        }
        assert!(Place::parse("list").is_none());
        assert!(Place::parse(&"/a".repeat(33)).is_none());
    }

    #[test]
    fn more_places_than_can_be_looked_at_are_told() {
        let document = json!({"list": vec![0; MAX_PLACES + 1]});
        assert!(Place::parse("/list/*").unwrap().all_in(&document).is_none());
        assert!(Place::parse("/list/10000").unwrap().all_in(&document).is_some());
    }
}
