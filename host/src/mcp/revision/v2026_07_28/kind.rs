//! Tells results apart by `resultType`, mostly without reading them (2026-07-28, basic § result type).

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::message::present;

/// What a result is, by its member `resultType`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mcp::revision) enum Kind {
    /// It does not say, as those of legacy revisions.
    Untyped,
    Complete,
    InputRequired,
    Task,
    /// One of an extension that we do not know.
    Other,
    /// It has a member twice that may be there once.
    Ambiguous,
}

/// The members of a result that mean something to us, in their place.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Top<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) result_type: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) ttl_ms: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) cache_scope: Option<&'a RawValue>,
}

impl<'a> Top<'a> {
    /// `None` if one of them is there twice.
    pub(super) fn read(result: &'a RawValue) -> Option<Self> {
        serde_json::from_str(result.get()).ok()
    }

    pub(super) fn kind(&self) -> Kind {
        let Some(result_type) = self.result_type else { return Kind::Untyped };
        match serde_json::from_str::<String>(result_type.get()).as_deref() {
            Ok("complete") => Kind::Complete,
            Ok("input_required") => Kind::InputRequired,
            Ok("task") => Kind::Task,
            _ => Kind::Other,
        }
    }
}

const NAME: &str = r#""resultType""#;
const COMPLETE: &str = r#""resultType":"complete""#;

/// What a result is.
pub(in crate::mcp::revision) fn kind_of(result: &RawValue) -> Kind {
    let text = result.get();
    if !has_spelled_letters(text) {
        let mut found = memmem::find_iter(text.as_bytes(), NAME);
        let Some(first) = found.next() else { return Kind::Untyped };
        // Next to a brace of the object itself, it is a member of that; and once in the whole text, the only one.
        let is_first = first == 1 && text[first..].starts_with(COMPLETE);
        let is_last = text.strip_suffix('}').is_some_and(|text| text.len() == first + COMPLETE.len())
            && text[first..].starts_with(COMPLETE);
        if (is_first || is_last) && found.next().is_none() {
            return Kind::Complete;
        }
    }
    Top::read(result).map_or(Kind::Ambiguous, |top| top.kind())
}

/// Whether a name may be in `text` although a search does not find it: some writer spelled ASCII letters as `\u00…`.
/// Nobody does that but to hide them.
pub(in crate::mcp::revision) fn has_spelled_letters(text: &str) -> bool {
    let bytes = text.as_bytes();
    memmem::find_iter(bytes, r"\u00").any(|at| matches!(bytes.get(at + 4), Some(b'4'..=b'7')))
}

/// Whether a result begins a task in the manner of the extension: `taskId` and the state of the task are its members.
pub fn is_task(result: &RawValue) -> bool {
    kind_of(result) == Kind::Task
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    #[test]
    fn results_are_told_apart() {
        for (text, kind) in [
            ("{}", Kind::Untyped),
            (r#"{"content":[{"resultType":"task"}]}"#, Kind::Untyped),
            (r#"{"text":"\"resultType\":\"complete\""}"#, Kind::Untyped),
            (r#"{"text":"resultType"}"#, Kind::Untyped),
            (r#"{"resultType":"complete"}"#, Kind::Complete),
            (r#"{"resultType":"complete","a":1}"#, Kind::Complete),
            (r#"{"a":1,"resultType":"complete"}"#, Kind::Complete),
            (r#"{"a":1,"resultType" : "complete" , "b":2}"#, Kind::Complete),
            (r#"{ "resultType":"complete"}"#, Kind::Complete),
            (r#"{"resultType":"comp\u006cete"}"#, Kind::Complete),
            (r#"{"resultType":"task","taskId":"1"}"#, Kind::Task),
            (r#"{"a":{"resultType":"complete"},"resultType":"task"}"#, Kind::Task),
            (r#"{"a":{"b":1,"resultType":"complete"}}"#, Kind::Untyped),
            (r#"{"resultType":"input_required"}"#, Kind::InputRequired),
            (r#"{"result\u0054ype":"input_required"}"#, Kind::InputRequired),
            (r#"{"resultType":"complete","resultType":"task"}"#, Kind::Ambiguous),
            (r#"{"resultType":"complete","result\u0054ype":"task"}"#, Kind::Ambiguous),
            (r#"{"resultType":"complete","x":{},"resultType":"complete"}"#, Kind::Ambiguous),
            (r#"{"resultType":null}"#, Kind::Other),
            (r#"{"resultType":"completed"}"#, Kind::Other),
            (r#"{"resultType":"completed","resultType":"complete"}"#, Kind::Ambiguous),
        ] {
            assert_eq!(kind_of(&raw(text.into())), kind, "{text}");
        }
    }
}
