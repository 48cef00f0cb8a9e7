//! `params` of a message, taken apart once: what the protocol itself has in them is kept apart from what is passed on.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    Deserialize as _, DeserializeSeed, Deserializer, Error as _, IntoDeserializer as _, MapAccess, Visitor,
};
use serde_json::value::RawValue;

use super::Rejection;
use crate::mcp::call::{Params, Retry};
use crate::mcp::json::{Members, Name};
use crate::mcp::message::RequestId;

/// A message's `params`. Reading never fails: what is wrong is told when the request is decoded, in the manner of its
/// revision.
#[derive(Debug, Default)]
pub struct Head<'a> {
    pub(super) envelope: Envelope<'a>,
    /// All members but for `_meta` and what belongs to a retry.
    members: Members,
    /// The members of `_meta` but for the envelope and the progress token.
    meta: Members,
    progress_token: Option<&'a RawValue>,
    responses: Option<&'a RawValue>,
    state: Option<&'a RawValue>,
    /// What cannot be read.
    fault: Option<&'static str>,
}

/// What a modern request says of itself in `_meta` (2026-07-28, basic § `_meta`), as it came.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) version: Option<&'a RawValue>,
    pub(super) client_info: Option<&'a RawValue>,
    pub(super) capabilities: Option<&'a RawValue>,
    pub(super) log_level: Option<&'a RawValue>,
}

pub(super) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(super) const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
pub(super) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(super) const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

impl<'a> Head<'a> {
    /// Reads `params`. Absent is the same as empty.
    pub fn read(params: Option<&'a RawValue>) -> Self {
        let mut head = Self::default();
        let Some(params) = params else { return head };
        let mut meta = None;
        let mut known =
            [("_meta", &mut meta), ("inputResponses", &mut head.responses), ("requestState", &mut head.state)];
        match sift(params, &mut known) {
            Ok(members) => head.members = members,
            Err(_) => head.fault = Some("`params` must be an object"),
        }
        let Some(meta) = meta else { return head };
        let mut known = [
            ("progressToken", &mut head.progress_token),
            (META_VERSION, &mut head.envelope.version),
            (META_CLIENT_INFO, &mut head.envelope.client_info),
            (META_CAPABILITIES, &mut head.envelope.capabilities),
            (META_LOG_LEVEL, &mut head.envelope.log_level),
        ];
        match sift(meta, &mut known) {
            Ok(members) => head.meta = members,
            Err(_) => head.fault = Some("`_meta` must be an object"),
        }
        head
    }

    /// Whether it names a protocol version in `_meta`, as every modern request does and no legacy one.
    pub fn has_envelope(&self) -> bool {
        self.envelope.version.is_some()
    }

    /// The parameters, once the envelope has been looked at.
    pub(super) fn into_params(self, retries: Retries) -> Result<Params, Rejection> {
        let Self { mut members, meta, progress_token, responses, state, fault, envelope: _ } = self;
        if let Some(fault) = fault {
            return Err(Rejection::bad_params(fault));
        }
        if progress_token.is_some_and(|token| RequestId::parse(token).is_none()) {
            return Err(Rejection::bad_params("`progressToken` must be a string or an integer"));
        }
        let mut retry = None;
        match retries {
            Retries::Read if responses.is_some() || state.is_some() => retry = Some(read_retry(responses, state)?),
            Retries::Members => {
                for (name, value) in [("inputResponses", responses), ("requestState", state)] {
                    if let Some(value) = value {
                        members.set(name, value.to_owned());
                    }
                }
            }
            Retries::Read | Retries::Unknown => {}
        }
        Ok(Params { members, meta, progress_token: progress_token.map(ToOwned::to_owned), retry })
    }
}

/// What `inputResponses` and `requestState` are in a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Retries {
    /// What they say: the request is repeated with more input.
    Read,
    /// Members like others: the method is not one that is repeated.
    Members,
    /// Without a meaning in this revision: left out, so that nobody takes them for what they are in another.
    Unknown,
}

fn read_retry(responses: Option<&RawValue>, state: Option<&RawValue>) -> Result<Retry, Rejection> {
    if responses.is_some_and(|responses| !responses.get().starts_with('{')) {
        return Err(Rejection::bad_params("`inputResponses` must be an object"));
    }
    let state = state.map(|state| serde_json::from_str(state.get())).transpose();
    let state = state.map_err(|_| Rejection::bad_params("`requestState` must be a string"))?;
    Ok(Retry { responses: responses.map(ToOwned::to_owned), state })
}

/// A JSON string's text, without copying it where it has no escapes; `None` if it is no string.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw.get()).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Reads an object into a type of ours; `None` for anything else. (An array in the place of an object is not taken for one,
/// as a derived reader would.)
pub(super) fn read_object<'a, T: serde::Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    let text = raw.get();
    if text.starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

/// A member that is taken out: its name and the place for its value.
type Slot<'s, 'de> = (&'static str, &'s mut Option<&'de RawValue>);

/// Reads an object in one pass: the values of known members go to their places, the others are returned. A name that
/// occurs twice is an error.
fn sift<'de>(object: &'de RawValue, known: &mut [Slot<'_, 'de>]) -> serde_json::Result<Members> {
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Sieve { known })
}

struct Sieve<'k, 's, 'de> {
    known: &'k mut [Slot<'s, 'de>],
}

impl<'de> Visitor<'de> for Sieve<'_, '_, 'de> {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Members, A::Error> {
        Members::deserialize(MapAccessDeserializer::new(Sifted { map, known: self.known }))
    }
}

/// The members of `map` that are not known.
struct Sifted<'k, 's, 'de, A> {
    map: A,
    known: &'k mut [Slot<'s, 'de>],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Sifted<'_, '_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.map.next_key_seed(Name)? {
            let Some((name, place)) = self.known.iter_mut().find(|(known, _)| *known == name) else {
                return seed.deserialize(name.into_deserializer()).map(Some);
            };
            if place.replace(self.map.next_value()?).is_some() {
                return Err(A::Error::custom(format_args!("member {name:?} occurs twice")));
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    fn read(params: &str, retries: Retries) -> Result<Params, &'static str> {
        let params = raw(params.to_owned());
        Head::read(Some(&params)).into_params(retries).map_err(|rejection| rejection.error.message.leak() as &str)
    }

    #[test]
    fn params_are_taken_apart_once() {
        let params = raw(format!(
            r#"{{"z":1.0,"requestState":"s\u0021","_meta":{{"x":[1],"progressToken":"p","{META_VERSION}":"v","{META_LOG_LEVEL}":"info","io.modelcontextprotocol/other":{{}}}},"inputResponses":{{"k":{{}}}},"name":"n"}}"#
        ));
        let head = Head::read(Some(&params));
        assert!(head.has_envelope() && head.envelope.client_info.is_none());
        assert_eq!(head.envelope.version.unwrap().get(), r#""v""#);
        assert_eq!(head.envelope.log_level.unwrap().get(), r#""info""#);
        let params = head.into_params(Retries::Read).unwrap();
        assert_eq!(params.members.to_raw().get(), r#"{"z":1.0,"name":"n"}"#);
        assert_eq!(params.meta.to_raw().get(), r#"{"x":[1],"io.modelcontextprotocol/other":{}}"#);
        assert_eq!(params.progress_token.unwrap().get(), r#""p""#);
        let retry = params.retry.unwrap();
        assert_eq!(retry.responses.unwrap().get(), r#"{"k":{}}"#);
        assert_eq!(retry.state.as_deref(), Some("s!"));
    }

    #[test]
    fn a_retry_means_something_only_where_it_is_known() {
        let params = r#"{"taskId":"t","inputResponses":{"a":{}},"requestState":"s"}"#;
        let members = |retries| read(params, retries).map(|params| (params.members.to_raw(), params.retry.is_some()));
        let (kept, is_retry) = members(Retries::Members).unwrap();
        assert_eq!((kept.get(), is_retry), (params, false));
        let (kept, is_retry) = members(Retries::Unknown).unwrap();
        assert_eq!((kept.get(), is_retry), (r#"{"taskId":"t"}"#, false));
        assert!(read("{}", Retries::Read).unwrap().retry.is_none());
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (params, fault) in [
            (r#"{"a":1,"a":2}"#, "`params` must be an object"),
            (r#"{"_meta":{},"\u005fmeta":{}}"#, "`params` must be an object"),
            (r#"{"_meta":[]}"#, "`_meta` must be an object"),
            (r#"{"_meta":null}"#, "`_meta` must be an object"),
            (r#"{"_meta":{"progressToken":1,"progressToken":2}}"#, "`_meta` must be an object"),
            (r#"{"_meta":{"progressToken":1.5}}"#, "`progressToken` must be a string or an integer"),
            (r#"{"_meta":{"progressToken":null}}"#, "`progressToken` must be a string or an integer"),
            (r#"{"inputResponses":[]}"#, "`inputResponses` must be an object"),
            (r#"{"requestState":{}}"#, "`requestState` must be a string"),
        ] {
            assert_eq!(read(params, Retries::Read).unwrap_err(), fault, "{params}");
        }
        assert!(Head::read(None).into_params(Retries::Read).unwrap().members.is_empty());
    }

    #[test]
    fn strings_are_borrowed_where_they_can_be() {
        let cases =
            [(r#""a""#, Some("a")), (r#""\u0061\n""#, Some("a\n")), ("1", None), ("null", None), (r#""""#, Some(""))];
        for (json, expected) in cases {
            assert_eq!(text(&raw(json.into())).as_deref(), expected, "{json}");
        }
    }
}
