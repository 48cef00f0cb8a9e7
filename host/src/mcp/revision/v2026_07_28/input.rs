//! What a server wants to know of a client before it goes on, as a result and the retry that answers it (2026-07-28,
//! patterns/mrtr).

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::call::{NeedsInput, Retry};
use crate::mcp::json::{self, Members, ObjectWriter, quote, raw, to_raw};
use crate::mcp::revision::head::read_object;
use crate::mcp::talk::Question;

/// Questions that one result may have.
const MAX_REQUESTS: usize = 64;

/// One entry of `inputRequests`.
#[derive(Clone, Debug)]
pub struct InputRequest {
    /// The server's name for it; the answer comes under the same name.
    pub key: String,
    pub question: Question,
    /// JSON object.
    pub params: Option<Box<RawValue>>,
}

/// Why an upstream's `inputRequests` cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("`inputRequests` must be an object of requests")]
    Malformed,
    #[error("`inputRequests` asks for something that no client can be asked for")]
    UnknownQuestion,
    #[error("more than {MAX_REQUESTS} input requests")]
    TooMany,
    /// Neither requests nor a state: the result leads nowhere (§ server requirements).
    #[error("neither `inputRequests` nor `requestState`")]
    Empty,
}

/// Reads what an upstream asks, in its order. Empty if it asks only to be called again with its state.
pub fn input_requests(needs: &NeedsInput) -> Result<Vec<InputRequest>, Unreadable> {
    #[derive(Deserialize)]
    struct Asked {
        method: String,
        params: Option<Box<RawValue>>,
    }
    let Some(requests) = needs.requests() else {
        return if needs.state().is_some() { Ok(Vec::new()) } else { Err(Unreadable::Empty) };
    };
    // Whoever reads them after us must see the same questions: what the policies allow depends on it.
    json::check(requests.get().as_bytes()).map_err(|_| Unreadable::Malformed)?;
    let requests = Members::parse(requests.get()).map_err(|_| Unreadable::Malformed)?;
    if requests.iter().nth(MAX_REQUESTS).is_some() {
        return Err(Unreadable::TooMany);
    }
    let read = |(key, request): (&str, &RawValue)| {
        let Asked { method, params } = read_object(request).ok_or(Unreadable::Malformed)?;
        if params.as_ref().is_some_and(|params| !params.get().starts_with('{')) {
            return Err(Unreadable::Malformed);
        }
        let question = Question::of(&method, params.as_deref()).ok_or(Unreadable::UnknownQuestion)?;
        Ok(InputRequest { key: key.to_owned(), question, params })
    };
    requests.iter().map(read).collect()
}

/// The result that asks a client for this, to come back with `state`. What only the questions of legacy revisions have
/// is left out.
pub fn needs_input(requests: &[InputRequest], state: &str) -> NeedsInput {
    let mut asked = ObjectWriter::default();
    for InputRequest { key, question, params } in requests {
        let mut request = ObjectWriter::default();
        request.member("method", &quote(question.method()));
        if let Some(params) = params {
            request.member("params", modern_params(*question, params).as_deref().unwrap_or(params).get());
        }
        asked.member(key, request.finish().get());
    }
    let mut result = Members::default();
    result.set("resultType", raw(r#""input_required""#.to_owned()));
    if !requests.is_empty() {
        result.set("inputRequests", asked.finish());
    }
    result.set("requestState", to_raw(&state));
    NeedsInput(result)
}

/// `params` without the id that 2025-11-25 gives an elicitation by URL (changelog, minor changes 11), if it has one.
fn modern_params(question: Question, params: &RawValue) -> Option<Box<RawValue>> {
    if question != Question::ElicitationUrl {
        return None;
    }
    let mut members = Members::parse(params.get()).ok()?;
    members.remove("elicitationId")?;
    Some(members.to_raw())
}

/// What a retry answers, by key. Answers that are no objects are left out, so that they are asked for again.
pub fn input_responses(retry: &Retry) -> Members {
    let Some(responses) = &retry.responses else { return Members::default() };
    let mut responses = Members::parse(responses.get()).unwrap_or_default();
    let bad: Vec<String> = responses
        .iter()
        .filter(|(_, response)| !response.get().starts_with('{'))
        .map(|(key, _)| key.to_owned())
        .collect();
    responses.retain(|key| !bad.iter().any(|bad| bad == key));
    responses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(text: &str) -> NeedsInput {
        NeedsInput(Members::parse(text).unwrap())
    }

    #[test]
    fn questions_are_read_in_their_order() {
        let asked = needs(
            r#"{"resultType":"input_required","inputRequests":{"b":{"method":"roots/list"},"a":{"method":"elicitation/create","params":{"mode":"url","url":"https://x"}},"c":{"method":"sampling/createMessage","params":{"maxTokens":1}}}}"#,
        );
        let asked = input_requests(&asked).unwrap();
        let read: Vec<_> = asked
            .iter()
            .map(|asked| (asked.key.as_str(), asked.question, asked.params.as_deref().map(RawValue::get)))
            .collect();
        assert_eq!(
            read,
            [
                ("b", Question::Roots, None),
                ("a", Question::ElicitationUrl, Some(r#"{"mode":"url","url":"https://x"}"#)),
                ("c", Question::Sampling, Some(r#"{"maxTokens":1}"#)),
            ]
        );
        assert!(input_requests(&needs(r#"{"requestState":"s"}"#)).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let many: Vec<String> = (0..=MAX_REQUESTS).map(|key| format!(r#""{key}":{{"method":"roots/list"}}"#)).collect();
        for (text, error) in [
            ("{}".to_owned(), Unreadable::Empty),
            (r#"{"requestState":1}"#.to_owned(), Unreadable::Empty),
            (r#"{"inputRequests":[]}"#.to_owned(), Unreadable::Malformed),
            (r#"{"inputRequests":{"a":1}}"#.to_owned(), Unreadable::Malformed),
            (r#"{"inputRequests":{"a":["roots/list",{}]}}"#.to_owned(), Unreadable::Malformed),
            (r#"{"inputRequests":{"a":{"method":"roots/list","params":[]}}}"#.to_owned(), Unreadable::Malformed),
            (
                r#"{"inputRequests":{"a":{"method":"elicitation/create","params":{"mode":"form","mode":"url"}}}}"#
                    .to_owned(),
                Unreadable::Malformed,
            ),
            (r#"{"inputRequests":{"a":{"method":"tools/call"}}}"#.to_owned(), Unreadable::UnknownQuestion),
            (format!(r#"{{"inputRequests":{{{}}}}}"#, many.join(",")), Unreadable::TooMany),
        ] {
            assert_eq!(input_requests(&needs(&text)).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn questions_are_written_without_what_is_legacy() {
        let ask = |key: &str, question, params: Option<&str>| InputRequest {
            key: key.into(),
            question,
            params: params.map(|params| raw(params.into())),
        };
        let asks = [
            ask("1", Question::ElicitationUrl, Some(r#"{"mode":"url","elicitationId":"e","url":"https://x"}"#)),
            ask("2", Question::ElicitationForm, Some(r#"{"message":"m","elicitationId":"kept"}"#)),
            ask("3", Question::Roots, None),
        ];
        assert_eq!(
            needs_input(&asks, "st\"ate").0.to_raw().get(),
            r#"{"resultType":"input_required","inputRequests":{"1":{"method":"elicitation/create","params":{"mode":"url","url":"https://x"}},"2":{"method":"elicitation/create","params":{"message":"m","elicitationId":"kept"}},"3":{"method":"roots/list"}},"requestState":"st\"ate"}"#
        );
        assert_eq!(needs_input(&[], "s").0.to_raw().get(), r#"{"resultType":"input_required","requestState":"s"}"#);
    }

    #[test]
    fn answers_are_objects() {
        let retry = |responses: &str| Retry { responses: Some(raw(responses.into())), state: None };
        let read = input_responses(&retry(r#"{"a":{"action":"accept"},"b":1,"c":{}}"#));
        assert_eq!(read.to_raw().get(), r#"{"a":{"action":"accept"},"c":{}}"#);
        assert!(input_responses(&Retry::default()).is_empty());
    }
}
