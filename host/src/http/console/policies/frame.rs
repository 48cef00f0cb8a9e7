//! What a definition of a binding says besides its configuration, as a schema that a form is made of, and where in that form
//! belongs what is wrong with it. Pure.

use serde_json::{Value, json};

use super::form::Mistakes;
use crate::admin::policies::PolicyError;
use crate::config::definition::Misfit;
use crate::config::{Grant, Hint};
use crate::ids::BindingName;
use crate::policy::{BindingError, Hook, LoadError, LoadErrors};

/// The member that has the configuration.
pub(super) const CONFIG: &str = "config";
/// The member that names the module, which is chosen before there is a form.
pub(super) const MODULE: &str = "module";

/// The members that stand before the configuration: what is asked of it and how much that counts.
pub(super) const FIRST: [&str; 3] = ["mode", "priority", "match"];

/// What may stand around the configuration, in the words of the configuration file.
pub(super) fn schema() -> Value {
    let patterns =
        |what: &str| json!({ "type": "array", "minItems": 1, "items": { "type": "string" }, "description": what });
    let words = |what: &str, words: Vec<&str>| json!({ "type": "array", "minItems": 1, "items": { "enum": words }, "description": what });
    let flag = |what: &str| json!({ "type": "boolean", "default": false, "description": what });
    let hooks = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
    let hints = Hint::ALL.iter().map(|hint| hint.as_str()).collect();
    let grants: Vec<&str> = Grant::ALL.iter().map(|grant| grant.as_str()).collect();
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "mode": {
                "title": "Mode",
                "description": "enforce: its answers count. shadow: it is asked afterwards, and what it would have done is \
                                written down. off: it is not asked.",
                "enum": ["enforce", "shadow", "off"],
                "default": "enforce"
            },
            "priority": {
                "title": "Priority",
                "description": "Policies of a lower number are asked first.",
                "type": "integer"
            },
            "match": {
                "title": "What it is asked about",
                "description": "All that is said must hold; of a list, one must match. * stands for any run of characters.",
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "hooks": words("Without it, all that the module has.", hooks),
                    "upstreams": patterns("Names of upstreams."),
                    "tools": patterns("The upstreams' own names of tools. Concerns tools and nothing else."),
                    "items": patterns("URIs of resources, and names of prompts and tasks."),
                    "hints": words("Hints that a tool must all have.", hints),
                    "principals": patterns("Who asks, such as key:ci."),
                    "groups": patterns("Groups, of which the caller must have one."),
                    "clients": patterns("Ids of OAuth clients."),
                }
            },
            "advisory": flag("Whether it counts as abstaining where it fails, rather than as denying."),
            "allow_rewrite": flag("Whether it may change the arguments of a call."),
            "grants": {
                "title": "Grants",
                "description": "What of the gateway it gets if it wants it.",
                "type": "array",
                "items": { "enum": grants }
            },
            "limits": {
                "title": "Limits",
                "description": "Of one run.",
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "time": { "type": "string", "description": "Processor time, such as 5ms, at most 1s." },
                    "memory": { "type": "string", "description": "From 64KiB to 256MiB." },
                    "reuse": {
                        "description": "Whether and how its memory lives on between runs.",
                        "enum": ["auto", "frozen", "fresh", "warm"],
                        "default": "auto"
                    }
                }
            }
        }
    })
}

/// Where in the form belongs what is wrong, or the error itself where nothing in the form is.
pub(super) fn place(name: &BindingName, error: PolicyError) -> Result<Mistakes, PolicyError> {
    let mut mistakes = Mistakes::default();
    match error {
        PolicyError::Mistakes(misfits) => {
            for Misfit { field, message, hint } in misfits {
                let pointer = field.map(|field| format!("/{}", field.replace('.', "/"))).unwrap_or_default();
                let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                mistakes.add(&pointer, &format!("{message}{hint}"));
            }
        }
        PolicyError::Refused(LoadErrors(errors)) => errors.iter().for_each(|error| refused(name, error, &mut mistakes)),
        PolicyError::NameTaken
        | PolicyError::TooManyBindings
        | PolicyError::DefinitionTooLarge
        | PolicyError::NoSuchModule => mistakes.add("", &error.to_string()),
        PolicyError::ManagedByFile
        | PolicyError::NotFound
        | PolicyError::Conflict { .. }
        | PolicyError::Module(_)
        | PolicyError::NoRoom
        | PolicyError::ModuleTooLarge
        | PolicyError::ModuleInUse { .. }
        | PolicyError::Busy
        | PolicyError::Interrupted
        | PolicyError::Store(_) => return Err(error),
    }
    Ok(mistakes)
}

fn refused(name: &BindingName, error: &BindingError, mistakes: &mut Mistakes) {
    match &error.error {
        LoadError::DoesNotFit(problems) | LoadError::Refused(problems) if error.binding.as_ref() == Some(name) => {
            for problem in problems {
                mistakes.add(&format!("/{CONFIG}{}", problem.path), &problem.message);
            }
        }
        LoadError::NotGranted { .. } if error.binding.as_ref() == Some(name) => {
            mistakes.add("/grants", &error.error.to_string());
        }
        _ => mistakes.add("", &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Problem;

    #[test]
    fn what_is_wrong_is_told_where_it_is() {
        let name = BindingName::parse("limit").unwrap();
        let misfits = vec![Misfit::of("limits.time", "must be a time")];
        let placed = place(&name, PolicyError::Mistakes(misfits)).unwrap();
        assert_eq!(placed.all(), [("/limits/time".to_owned(), "must be a time".to_owned())]);
        let problem = Problem { path: "/rules/0".to_owned(), message: "no limit".to_owned(), line: None };
        let own = BindingError { binding: Some(name.clone()), error: LoadError::DoesNotFit(vec![problem]) };
        let other = BindingError { binding: BindingName::parse("other").ok(), error: LoadError::MatchesNothing };
        let placed = place(&name, PolicyError::Refused(LoadErrors(vec![own, other]))).unwrap().all();
        assert_eq!(placed[1], ("/config/rules/0".to_owned(), "no limit".to_owned()));
        assert!(placed[0].0.is_empty() && placed[0].1.contains("other"), "{placed:?}");
        assert!(place(&name, PolicyError::Busy).is_err());
    }
}
