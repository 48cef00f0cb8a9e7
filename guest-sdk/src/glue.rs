//! What the expansion of [`crate::export!`] calls. Not for authors.

use std::cell::RefCell;
use std::thread::LocalKey;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

pub use crate::bindings::exports::portcullis::policy as exports;
pub use crate::bindings::exports::portcullis::policy::self_tests::Case;

use crate::{Context, Hook, Info, Module, Policy, Problem, json};

/// Where an instance of a module keeps its policy.
pub type Configured<P> = RefCell<Option<P>>;

/// What the module says of itself.
pub fn describe<P: Module>() -> Info {
    report_panics();
    P::manifest().into_info(P::HOOKS)
}

/// Makes the policy, and keeps it for the hooks.
pub fn configure<P: Policy>(
    policy: &'static LocalKey<Configured<P>>,
    config: &str,
) -> Result<Vec<String>, Vec<Problem>> {
    report_panics();
    let configured = from_json::<P>(config)?;
    let warnings = configured.warnings();
    policy.set(Some(configured));
    Ok(warnings)
}

/// Runs a hook. Without a configuration there is nothing to decide with: the call traps, and the host refuses.
pub fn with<P: Policy, T>(policy: &'static LocalKey<Configured<P>>, hook: impl FnOnce(&P) -> T) -> T {
    policy.with_borrow(|policy| hook(policy.as_ref().expect("the host configures a policy before it asks it")))
}

/// The policy with the configuration that `config` holds as JSON.
pub fn from_json<P: Policy>(config: &str) -> Result<P, Vec<Problem>> {
    let mut reader = serde_json::Deserializer::from_str(config);
    let mut track = serde_path_to_error::Track::new();
    let config = P::Config::deserialize(serde_path_to_error::Deserializer::new(&mut reader, &mut track))
        .and_then(|config| reader.end().map(|()| config))
        .map_err(|error| vec![Problem::at(pointer(&track.path()), text(&error))])?;
    P::configure(config)
}

/// The cases that a module brings along: those of its cases file that say what is expected of a hook.
///
/// # Panics
/// If the text is no cases file. The native tests of the same file tell the author first.
pub fn self_tests(cases: &str) -> Vec<Case> {
    #[derive(Deserialize)]
    struct Written<'a> {
        name: String,
        #[serde(borrow, default)]
        config: Option<&'a RawValue>,
        hook: Option<Hook>,
        #[serde(borrow, default)]
        input: Option<&'a RawValue>,
        #[serde(borrow, default)]
        expect: Option<&'a RawValue>,
    }

    let text = |value: Option<&RawValue>| value.map_or("{}", RawValue::get).to_owned();
    let written: Vec<Written<'_>> = serde_json::from_str(cases).expect("CASES is the text of a cases file");
    let case = |written: Written<'_>| {
        let (hook, expect) = (written.hook?, written.expect?.get().to_owned());
        Some(Case { name: written.name, config: text(written.config), hook, input: text(written.input), expect })
    };
    written.into_iter().filter_map(case).collect()
}

/// Reads the parameters of a hook from JSON, asks, and writes the answer.
pub fn ask<Q: DeserializeOwned + Default, A: Serialize>(
    hook: Hook,
    input: Value,
    decide: impl FnOnce(&Context, &Q) -> A,
) -> Result<Value, String> {
    let Value::Object(mut input) = input else { return Err("the input is not an object".to_owned()) };
    let context: Context = parameter(&mut input, "context")?;
    let question: Q = parameter(&mut input, hook.parameter())?;
    if let Some(other) = input.keys().next() {
        return Err(format!("{hook} is asked with `context` and `{}`, and not with `{other}`", hook.parameter()));
    }
    serde_json::to_value(decide(&context, &question)).map_err(|error| error.to_string())
}

/// Why a hook cannot be asked.
pub fn no_such_hook(hook: Hook) -> String {
    format!("the policy has no hook {hook}")
}

fn parameter<T: DeserializeOwned + Default>(
    input: &mut serde_json::Map<String, Value>,
    name: &str,
) -> Result<T, String> {
    let Some(value) = input.remove(name) else { return Ok(T::default()) };
    let mut track = serde_path_to_error::Track::new();
    let read = T::deserialize(serde_path_to_error::Deserializer::new(value, &mut track));
    read.map_err(|error| format!("/{name}{}: {error}", pointer(&track.path())))
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => json::push_token(&mut pointer, &index.to_string()),
            Segment::Map { key } | Segment::Enum { variant: key } => json::push_token(&mut pointer, key),
            Segment::Unknown => {}
        }
    }
    pointer
}

/// The error without the place in the text, which means nothing to an operator who wrote TOML.
fn text(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A panic ends in a trap that says nothing; the hook leaves its message in the gateway's log first.
#[cfg(target_arch = "wasm32")]
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| crate::log::error(panic.to_string())));
}

#[cfg(not(target_arch = "wasm32"))]
fn report_panics() {}

#[cfg(test)]
#[expect(clippy::allow_attributes, reason = "the macro is used inside its own crate")]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::exports::list_tools::Override;
    use crate::{
        Context, Grant, Hook, ListTools, Listing, Manifest, Module, Policy, Problem, Refresh, SelfTests, Tool,
        Visibility, glue, grant, refresh, testing,
    };

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        rules: Vec<Rule>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        hide: String,
    }

    #[derive(Debug)]
    struct Hider(Config);

    impl Policy for Hider {
        type Config = Config;

        fn manifest() -> Manifest {
            Manifest::new("hider", "1.0.0", "Hides tools").config("{}", r#"{"rules":[]}"#)
        }

        fn configure(config: Config) -> Result<Self, Vec<Problem>> {
            Ok(Self(config))
        }
    }

    impl ListTools for Hider {
        fn list(&self, _: &Context, tool: &Tool) -> Listing {
            let hidden = self.0.rules.iter().any(|rule| rule.hide == tool.name);
            if hidden { Listing::hide() } else { Listing::show().title(tool.name.to_uppercase()) }
        }
    }

    impl Refresh for Hider {}

    impl Grant for Hider {
        fn authorize(&self, _: &Context, request: &grant::Request) -> grant::Decision {
            grant::Terms::requested(request).into()
        }
    }

    const CASES: &str = r#"[
        {"name": "hidden", "config": {"rules": [{"hide": "delete"}]}, "hook": "list-tools",
         "input": {"tools": [{"name": "delete"}, {"name": "read"}]},
         "expect": {"visible": ["hide", "show"], "overrides": [{"index": 1, "title": "READ"}]}},
        {"name": "no opinion", "config": {"rules": []}, "hook": "refresh", "expect": "abstain"},
        {"name": "terms", "config": {"rules": []}, "hook": "grant", "input": {"request": {"scopes": ["read"]}},
         "expect": {"allow": {"scopes": ["read"], "claims": null}}},
        {"name": "misspelt", "config": {"rules": [{"show": "x"}]}, "refused": ["/rules/0/show"]}
    ]"#;

    impl SelfTests for Hider {
        const CASES: &'static str = CASES;
    }

    crate::export!(Hider with list_tools, refresh, grant, self_tests);

    #[test]
    fn a_mistake_in_the_configuration_is_told_with_its_place_and_not_its_line() {
        let problem = |config: &Value| match testing::configure::<Hider>(config) {
            Ok(_) => panic!("{config} is accepted"),
            Err(problems) => format!("{}: {}", problems[0].path, problems[0].message),
        };
        for (config, expected) in [
            (json!({"rules": [{"hide": "a", "sow": 1}]}), "/rules/0/sow: unknown field `sow`, expected `hide`"),
            (
                json!({"rules": [{"hide": "a"}, {"hide": 7}]}),
                "/rules/1/hide: invalid type: integer `7`, expected a string",
            ),
            (json!({"a/b": 1}), "/a~1b: unknown field `a/b`, expected `rules`"),
            (json!({}), ": missing field `rules`"),
            (json!([1, 2]), "/0: invalid type: integer `1`, expected a sequence"),
        ] {
            assert_eq!(problem(&config), expected);
        }
        assert!(glue::from_json::<Hider>(r#"{"rules":[]} and more"#).is_err());
    }

    #[test]
    fn each_tool_gets_its_answer_in_order_and_overrides_name_their_tool() {
        let hider: Hider = testing::configure(&json!({"rules": [{"hide": "delete"}]})).unwrap();
        let tools = [testing::tool("notes", "delete"), testing::tool("notes", "read")];
        let outcome = hider.filter(&testing::context(), &tools);
        assert_eq!(outcome.visible, [Visibility::Hide, Visibility::Show]);
        assert_eq!(outcome.overrides, [Override { index: 1, title: Some("READ".to_owned()), description: None }]);
    }

    #[test]
    fn a_hook_without_a_configured_policy_panics_instead_of_guessing() {
        thread_local! {
            static POLICY: glue::Configured<Hider> = const { glue::Configured::new(None) };
        }
        assert!(std::panic::catch_unwind(|| glue::with(&POLICY, |_| ())).is_err());
        assert_eq!(glue::configure(&POLICY, r#"{"rules":[]}"#), Ok(Vec::new()));
        assert_eq!(glue::with(&POLICY, |policy| policy.0.rules.len()), 0);
        assert!(glue::configure(&POLICY, "{}").is_err());
        assert_eq!(glue::describe::<Hider>().hooks, [Hook::ListTools, Hook::Refresh, Hook::Grant]);
    }

    #[test]
    fn a_cases_file_runs_natively_and_comes_along_in_the_module() {
        testing::cases::<Hider>(CASES);
        let carried = glue::self_tests(CASES);
        let names: Vec<_> = carried.iter().map(|case| (&*case.name, case.hook)).collect();
        assert_eq!(names, [("hidden", Hook::ListTools), ("no opinion", Hook::Refresh), ("terms", Hook::Grant)]);
        assert_eq!((&*carried[1].input, &*carried[1].expect), ("{}", "\"abstain\""));
    }

    #[test]
    fn a_case_that_does_not_hold_fails() {
        for wrong in [
            r#"[{"name": "x", "config": {"rules": []}, "hook": "refresh", "expect": {"allow": {}}}]"#,
            r#"[{"name": "x", "config": {"rules": []}, "hook": "tool-call", "expect": "abstain"}]"#,
            r#"[{"name": "x", "config": {"rules": []}, "refused": [""]}]"#,
            r#"[{"name": "x", "config": {}, "refused": ["/rules"]}]"#,
            r#"[{"name": "x", "config": {}, "hook": "refresh", "expect": "abstain"}]"#,
            r#"[{"name": "x", "config": {"rules": []}, "hook": "refresh"}]"#,
            r#"[{"name": "x", "config": {"rules": 1}, "hook": "refresh", "refused": ["/rules"]}]"#,
            "[]",
            "{}",
        ] {
            assert!(std::panic::catch_unwind(|| testing::cases::<Hider>(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn input_that_fits_no_parameter_is_refused_with_its_place() {
        let hider: Hider = testing::configure(&json!({"rules": []})).unwrap();
        let error = |hook, input: Value| hider.ask(hook, input).unwrap_err();
        assert_eq!(
            error(Hook::ListTools, json!({"tools": [{"nam": "x"}]})),
            "/tools/0/nam: unknown field `nam`, expected one of `upstream`, `name`, `exposed_as`, `hints`, `digest`, \
             `labels`, `title`, `description`, `input_schema`"
        );
        assert_eq!(
            error(Hook::Grant, json!({"response": {}})),
            "grant is asked with `context` and `request`, and not with `response`"
        );
        assert_eq!(refresh::Request::default().uses, 0);
    }
}
