//! Between the contract's facts, JSON and CEL values.
//!
//! JSON's whole numbers are CEL's `int` wherever they fit, since a rule compares and adds them to literals; `uint` and
//! `double` take the others.

use std::collections::HashMap;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use policy_scripted::Fact;
use portcullis_guest_sdk::serde_json::{self, Map, Number, Value};

type Boxed<'a> = Box<dyn Val + 'a>;

/// A fact as a value; none if it is absent.
pub(crate) fn of_fact<'a>(fact: Fact<'a>) -> Option<Boxed<'a>> {
    Some(match fact {
        Fact::Absent => return None,
        Fact::Bool(is) => Box::new(CelBool::from(is)),
        Fact::Number(number) => of_u64(number),
        Fact::Text(text) => Box::new(CelString::from(text)),
        Fact::Json(text) => of_owned(serde_json::from_str(text).ok()?),
        Fact::List(facts) => {
            let values: Vec<Boxed<'a>> = facts.into_iter().filter_map(of_fact).collect();
            Box::new(CelList::from(values))
        }
        Fact::Record(record) => {
            let members = record.names().iter();
            let entries = members.filter_map(|name| Some((CelMapKey::from(*name), of_fact(record.member(name))?)));
            Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
        }
    })
}

/// A JSON value as a value that borrows its strings.
pub(crate) fn of_json(value: &Value) -> Boxed<'_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(is) => Box::new(CelBool::from(*is)),
        Value::Number(number) => of_number(number),
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(of_json).collect::<Vec<_>>())),
        Value::Object(members) => {
            let entries = members.iter().map(|(name, member)| (CelMapKey::from(name.as_str()), of_json(member)));
            Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
        }
    }
}

/// The same, of a value that is given up.
pub(crate) fn of_owned<'a>(value: Value) -> Boxed<'a> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(is) => Box::new(CelBool::from(is)),
        Value::Number(number) => of_number(&number),
        Value::String(text) => Box::new(CelString::from(text)),
        Value::Array(items) => Box::new(CelList::from(items.into_iter().map(of_owned).collect::<Vec<_>>())),
        Value::Object(members) => {
            let entries = members.into_iter().map(|(name, member)| (CelMapKey::from(name), of_owned(member)));
            Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
        }
    }
}

fn of_number<'a>(number: &Number) -> Boxed<'a> {
    match (number.as_i64(), number.as_u64()) {
        (Some(whole), _) => Box::new(CelInt::from(whole)),
        (None, Some(whole)) => Box::new(CelUInt::from(whole)),
        // Without `arbitrary_precision` a number that is neither is a double.
        (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
    }
}

fn of_u64<'a>(number: u64) -> Boxed<'a> {
    match i64::try_from(number) {
        Ok(whole) => Box::new(CelInt::from(whole)),
        Err(_) => Box::new(CelUInt::from(number)),
    }
}

/// A value as JSON; none if it, or something in it, has no form there.
pub(crate) fn to_json(value: &(dyn Val + '_)) -> Option<Value> {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return Some(Value::from(text.inner()));
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        return list.inner().iter().map(|item| to_json(item.as_ref())).collect();
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        let entry = |(key, member): (&CelMapKey<'_>, &Boxed<'_>)| Some((name(key), to_json(member.as_ref())?));
        return map.inner().iter().map(entry).collect::<Option<Map<_, _>>>().map(Value::Object);
    }
    if let Some(is) = value.downcast_ref::<CelBool>() {
        return Some(Value::from(*is.inner()));
    }
    if let Some(whole) = value.downcast_ref::<CelInt>() {
        return Some(Value::from(*whole.inner()));
    }
    if let Some(whole) = value.downcast_ref::<CelUInt>() {
        return Some(Value::from(*whole.inner()));
    }
    if let Some(double) = value.downcast_ref::<CelDouble>() {
        return Number::from_f64(*double.inner()).map(Value::Number);
    }
    value.downcast_ref::<CelNull>().map(|_| Value::Null)
}

fn name(key: &CelMapKey<'_>) -> String {
    match key {
        CelMapKey::Bool(is) => is.inner().to_string(),
        CelMapKey::Int(whole) => whole.inner().to_string(),
        CelMapKey::UInt(whole) => whole.inner().to_string(),
        CelMapKey::String(text) => text.inner().to_owned(),
    }
}

/// A value as text in a sentence: a string as it is, anything else as JSON.
pub(crate) fn to_text(value: &(dyn Val + '_)) -> Option<String> {
    match value.downcast_ref::<CelString<'_>>() {
        Some(text) => Some(text.inner().to_owned()),
        None => to_json(value).map(|value| value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::json;

    use super::*;

    #[test]
    fn json_survives_the_way_through_cel() {
        for value in [
            json!(null),
            json!({"a": [1, -2, 2.5, u64::MAX, "x", true, {}], "b/c": {"d": null}}),
            json!("text"),
            json!([[[]]]),
        ] {
            assert_eq!(to_json(of_json(&value).as_ref()), Some(value.clone()));
            assert_eq!(to_json(of_owned(value.clone()).as_ref()), Some(value));
        }
    }

    #[test]
    fn what_has_no_form_in_json_is_none() {
        assert_eq!(to_json(&CelDouble::from(f64::NAN)), None);
        let nested: Boxed<'_> = Box::new(CelDouble::from(f64::INFINITY));
        assert_eq!(to_json(&CelList::from(vec![nested])), None);
    }

    #[test]
    fn whole_numbers_are_int_where_they_fit() {
        assert!(of_json(&json!(7)).downcast_ref::<CelInt>().is_some());
        assert!(of_json(&json!(u64::MAX)).downcast_ref::<CelUInt>().is_some());
        assert!(of_fact(Fact::Number(7)).unwrap().downcast_ref::<CelInt>().is_some());
    }

    #[test]
    fn texts_are_not_quoted_in_sentences() {
        assert_eq!(to_text(&CelString::from("a b")).unwrap(), "a b");
        assert_eq!(to_text(of_json(&json!(["a", 1])).as_ref()).unwrap(), r#"["a",1]"#);
    }
}
