//! The dynamic lane: the contract as JSON text. Pure.
//!
//! A policy that exports `dynamic` gets the same questions as any other, written in the contract's JSON form, and its
//! answers are read back into the same types, so that nothing behind here knows which lane a policy is in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::contract::hook::{self, HookType, Text};
use super::contract::manifest::{Case, Configured, Info, Problem};
use super::contract::types::Context;
use super::decision::{Failure, Hook};
use super::instance::Run;
use super::prepared::Prepared;
use super::text::one_line;
use crate::mcp::json;

/// What `configure` and `decide` return.
pub(super) type Outcome = Result<String, String>;

/// Longest piece of a guest's own words in a failure.
const MAX_WORDS: usize = 1024;

/// A hook's parameters as one JSON object.
pub(super) fn question<K: HookType, C: Text, S: Text>(
    context: &Context<C>,
    request: &K::Request<S>,
) -> Result<String, Failure> {
    let mut text = b"{\"context\":".to_vec();
    let mut write = || -> serde_json::Result<()> {
        serde_json::to_writer(&mut text, context)?;
        text.extend_from_slice(b",\"");
        text.extend_from_slice(K::HOOK.parameter().as_bytes());
        text.extend_from_slice(b"\":");
        serde_json::to_writer(&mut text, request)?;
        text.push(b'}');
        Ok(())
    };
    // What is shown as JSON was checked to be JSON when it came in.
    write()
        .map_err(|error| Failure::NotStarted { message: format!("its input cannot be written as JSON: {error}") })?;
    Ok(String::from_utf8(text).expect("JSON is written as UTF-8"))
}

/// Reads what `decide` returned.
pub(super) fn answer<K: HookType>(outcome: Outcome) -> Result<K::Answer, Failure> {
    let text = outcome.map_err(|message| Failure::Failed { message: one_line(&message, MAX_WORDS) })?;
    read(&text, "answer")
}

/// Reads what `configure` returned.
pub(super) fn configured(outcome: Outcome) -> Result<Configured, Failure> {
    Ok(match outcome {
        Ok(warnings) => Ok(read(&warnings, "list of warnings")?),
        Err(problems) => Err(read::<Vec<Problem>>(&problems, "list of problems")?),
    })
}

/// Reads what `describe` returned: `manifest.info`, and beside its members the cases of `self-tests` as `self_tests`.
pub(super) fn description(text: &str) -> Result<(Info, Vec<Case>), Failure> {
    #[derive(Deserialize)]
    struct Cases {
        #[serde(default)]
        self_tests: Vec<Case>,
    }
    let Cases { self_tests } = read(text, "description")?;
    let mut members: serde_json::Map<String, serde_json::Value> = read(text, "description")?;
    members.remove("self_tests");
    let info = serde_json::from_value(members.into()).map_err(|error| unreadable("description", &error))?;
    Ok((info, self_tests))
}

/// Asks a policy in whatever lane with an input in JSON form.
pub(super) fn ask(policy: &Prepared, hook: Hook, input: &str, run: &Run<'_>) -> Result<Value, Failure> {
    match hook {
        Hook::Grant => ask_hook::<hook::Grant>(policy, input, run),
        Hook::Refresh => ask_hook::<hook::Refresh>(policy, input, run),
        Hook::Client => ask_hook::<hook::Client>(policy, input, run),
        Hook::Credential => ask_hook::<hook::Credential>(policy, input, run),
        Hook::ListTools => ask_hook::<hook::ListTools>(policy, input, run),
        Hook::ListItems => ask_hook::<hook::ListItems>(policy, input, run),
        Hook::ToolCall => ask_hook::<hook::ToolCall>(policy, input, run),
        Hook::ToolResult => ask_hook::<hook::ToolResult>(policy, input, run),
        Hook::ItemAccess => ask_hook::<hook::ItemAccess>(policy, input, run),
        Hook::ItemResult => ask_hook::<hook::ItemResult>(policy, input, run),
        Hook::ServerRequest => ask_hook::<hook::ServerRequest>(policy, input, run),
    }
}

fn ask_hook<K: HookType>(policy: &Prepared, input: &str, run: &Run<'_>) -> Result<Value, Failure>
where
    K::Request<String>: DeserializeOwned + Default,
{
    let (context, request) = parameters::<K>(input)
        .map_err(|problem| Failure::NotStarted { message: format!("its input cannot be read: {problem}") })?;
    let answer = policy.ask_with::<K, String, String>(&context, &request, run)?;
    serde_json::to_value(answer).map_err(|error| unreadable("answer", &error))
}

/// Reads a hook's parameters. What is left out has a harmless value.
fn parameters<K: HookType>(input: &str) -> Result<(Context<String>, K::Request<String>), String>
where
    K::Request<String>: DeserializeOwned + Default,
{
    json::check(input.as_bytes()).map_err(|error| error.to_string())?;
    let members: BTreeMap<&str, &RawValue> = serde_json::from_str(input).map_err(|error| error.to_string())?;
    let (mut context, mut request) = (Context::default(), K::Request::default());
    for (name, value) in members {
        let told = |error: serde_json::Error| format!("{name}: {error}");
        match name {
            "context" => context = serde_json::from_str(value.get()).map_err(told)?,
            name if name == K::HOOK.parameter() => request = serde_json::from_str(value.get()).map_err(told)?,
            name => {
                let name = one_line(name, 64);
                return Err(format!("{} has no parameter {name:?}, but context and {}", K::HOOK, K::HOOK.parameter()));
            }
        }
    }
    Ok((context, request))
}

/// Strict JSON: a name that is there twice, or depths without end, are no answer.
fn read<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, Failure> {
    json::check(text.as_bytes()).map_err(|error| unreadable(what, &error))?;
    serde_json::from_str(text).map_err(|error| unreadable(what, &error))
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::invalid(format!("its {what} cannot be read: {}", one_line(&error.to_string(), 256)))
}
