//! From a policy to a module: the [`crate::export!`] macro and what it expands to.
//!
//! The contract's exports are chosen hook by hook: for each one that is named, the macro adds the function that
//! the host calls and the section that tells the component tools about it. A hook that is not named is not in the
//! module at all, so the host never enters the module for it.

/// Makes this crate a policy module with the named hooks: `list_tools`, `tool_call`, `tool_result`.
///
/// ```
/// # use portcullis_guest_sdk::{export, Call, Context, Manifest, NoConfig, Policy, Problem, ToolCall, Verdict};
/// struct Nothing;
///
/// impl Policy for Nothing {
///     type Config = NoConfig;
///     fn manifest() -> Manifest {
///         Manifest::new("nothing", "0.1.0", "Refuses every call")
///     }
///     fn configure(_: NoConfig) -> Result<Self, Vec<Problem>> {
///         Ok(Self)
///     }
/// }
///
/// impl ToolCall for Nothing {
///     fn before(&self, _: &Context, _: &Call) -> Verdict {
///         Verdict::deny("nothing.goes", "no tool may be called")
///     }
/// }
///
/// export!(Nothing with tool_call);
/// ```
///
/// On other targets than WebAssembly the macro checks the traits and exports nothing, so that policies can be
/// linked into tests.
#[macro_export]
macro_rules! export {
    ($policy:ident with $($hook:ident),+ $(,)?) => {
        const _: () = {
            #[allow(dead_code, reason = "other targets than WebAssembly only check it")]
            struct Module;

            ::std::thread_local! {
                // Set by `configure`; one instance of the module is one configured policy.
                static POLICY: $crate::glue::Configured<$policy> = const { $crate::glue::Configured::new(None) };
            }

            impl $crate::bindings::exports::portcullis::policy::manifest::Guest for Module {
                fn describe() -> $crate::glue::Info {
                    $crate::glue::describe::<$policy>(&[$($crate::__hook!($hook)),+])
                }
            }

            impl $crate::bindings::exports::portcullis::policy::configuration::Guest for Module {
                fn configure(config: ::std::string::String)
                    -> ::std::result::Result<::std::vec::Vec<::std::string::String>, ::std::vec::Vec<$crate::Problem>>
                {
                    $crate::glue::configure(&POLICY, &config)
                }
            }

            $($crate::__implement_hook!($hook, $policy);)+

            #[cfg(target_arch = "wasm32")]
            const _: () = {
                $crate::__export_portcullis_policy_manifest_0_1_0_cabi!(
                    Module with_types_in $crate::bindings::exports::portcullis::policy::manifest);
                $crate::__export_portcullis_policy_configuration_0_1_0_cabi!(
                    Module with_types_in $crate::bindings::exports::portcullis::policy::configuration);
                $crate::__section!("component-type:portcullis-policy-core", CORE);
                $($crate::__export_hook!($hook);)+
            };
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (list_tools) => {
        $crate::Hook::ListTools
    };
    (tool_call) => {
        $crate::Hook::ToolCall
    };
    (tool_result) => {
        $crate::Hook::ToolResult
    };
    ($other:ident) => {
        compile_error!(concat!(
            "`",
            stringify!($other),
            "` is no hook; there are list_tools, tool_call and tool_result"
        ))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __implement_hook {
    (list_tools, $policy:ident) => {
        impl $crate::bindings::exports::portcullis::policy::list_tools::Guest for Module {
            fn filter(ctx: $crate::Context, tools: ::std::vec::Vec<$crate::Tool>) -> $crate::glue::Outcome {
                $crate::glue::with(&POLICY, |policy| $crate::glue::filter(policy, &ctx, &tools))
            }
        }
    };
    (tool_call, $policy:ident) => {
        impl $crate::bindings::exports::portcullis::policy::tool_call::Guest for Module {
            fn before(ctx: $crate::Context, call: $crate::Call) -> $crate::Verdict {
                $crate::glue::with(&POLICY, |policy| <$policy as $crate::ToolCall>::before(policy, &ctx, &call))
            }
        }
    };
    (tool_result, $policy:ident) => {
        impl $crate::bindings::exports::portcullis::policy::tool_result::Guest for Module {
            fn after(ctx: $crate::Context, result: $crate::CallResult) -> $crate::Inspection {
                $crate::glue::with(&POLICY, |policy| <$policy as $crate::ToolResult>::after(policy, &ctx, &result))
            }
        }
    };
    ($other:ident, $policy:ident) => {};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (list_tools) => {
        $crate::__export_portcullis_policy_list_tools_0_1_0_cabi!(
            Module with_types_in $crate::bindings::exports::portcullis::policy::list_tools);
        $crate::__section!("component-type:portcullis-policy-list-tools", LIST_TOOLS);
    };
    (tool_call) => {
        $crate::__export_portcullis_policy_tool_call_0_1_0_cabi!(
            Module with_types_in $crate::bindings::exports::portcullis::policy::tool_call);
        $crate::__section!("component-type:portcullis-policy-tool-call", TOOL_CALL);
    };
    (tool_result) => {
        $crate::__export_portcullis_policy_tool_result_0_1_0_cabi!(
            Module with_types_in $crate::bindings::exports::portcullis::policy::tool_result);
        $crate::__section!("component-type:portcullis-policy-tool-result", TOOL_RESULT);
    };
    ($other:ident) => {};
}

/// The linker keeps sections of different names apart and the component tools unite what they say.
#[doc(hidden)]
#[macro_export]
macro_rules! __section {
    ($name:literal, $section:ident) => {
        const _: () = {
            #[unsafe(link_section = $name)]
            static SECTION: [u8; $crate::bindings::sections::$section.len()] = $crate::bindings::sections::$section;
        };
    };
}

/// What the macro's expansion calls. Not for authors.
#[doc(hidden)]
pub mod glue {
    use std::cell::RefCell;
    use std::thread::LocalKey;

    use serde::Deserialize;

    pub use crate::bindings::exports::portcullis::policy::list_tools::Outcome;
    pub use crate::bindings::exports::portcullis::policy::manifest::Info;

    use crate::bindings::exports::portcullis::policy::list_tools::Override;
    use crate::{Context, Hook, ListTools, Policy, Problem, Tool, json};

    pub type Configured<P> = RefCell<Option<P>>;

    pub fn describe<P: Policy>(hooks: &[Hook]) -> Info {
        report_panics();
        P::manifest().into_info(hooks)
    }

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

    pub fn filter<P: ListTools>(policy: &P, ctx: &Context, tools: &[Tool]) -> Outcome {
        let mut outcome = Outcome { visible: Vec::with_capacity(tools.len()), overrides: Vec::new() };
        for (index, tool) in (0..).zip(tools) {
            let listing = policy.list(ctx, tool);
            outcome.visible.push(listing.visibility);
            if listing.title.is_some() || listing.description.is_some() {
                let (title, description) = (listing.title, listing.description);
                outcome.overrides.push(Override { index, title, description });
            }
        }
        outcome
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
}

#[cfg(test)]
#[expect(clippy::allow_attributes, reason = "the macro is used inside its own crate")]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use crate::bindings::exports::portcullis::policy::list_tools::Override;
    use crate::{Context, Hook, ListTools, Listing, Manifest, Policy, Problem, Tool, Visibility, glue, testing};

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

    crate::export!(Hider with list_tools);

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
        let outcome = glue::filter(&hider, &testing::context(), &tools);
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
        assert_eq!(glue::describe::<Hider>(&[Hook::ListTools]).hooks, [Hook::ListTools]);
    }
}
