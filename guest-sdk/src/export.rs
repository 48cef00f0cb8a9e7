//! From a policy to a module: the [`crate::export!`] macro and what it expands to.
//!
//! The contract's exports are chosen hook by hook: for each one that is named, the macro adds the function that
//! the host calls and the section that tells the component tools about it. A hook that is not named is not in the
//! module at all, so the host never enters the module for it.

/// Makes this crate a policy module with the named hooks, each of which is a trait that the policy has: `list_tools`,
/// `list_items`, `tool_call`, `tool_result`, `item_access`, `item_result`, `server_request`, `grant`, `refresh`, `client`,
/// `credential`. With `self_tests` the module also brings along the cases of [`crate::SelfTests`].
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
/// On other targets than WebAssembly the macro exports nothing, so that policies can be linked into tests; there it only
/// makes the policy a [`crate::Module`], which tests ask by the names of hooks.
#[macro_export]
macro_rules! export {
    ($policy:ident with $($hook:ident),+ $(,)?) => {
        impl $crate::Module for $policy {
            const HOOKS: &'static [$crate::Hook] = $crate::__hooks!([] $($hook)+);

            fn ask(
                &self,
                hook: $crate::Hook,
                input: $crate::serde_json::Value,
            ) -> ::std::result::Result<$crate::serde_json::Value, ::std::string::String> {
                $($crate::__hook!($hook __ask [$policy self hook input]);)+
                ::std::result::Result::Err($crate::glue::no_such_hook(hook))
            }
        }

        const _: () = {
            #[allow(dead_code, reason = "other targets than WebAssembly only check it")]
            struct Module;

            ::std::thread_local! {
                // Set by `configure`; one instance of the module is one configured policy.
                static POLICY: $crate::glue::Configured<$policy> = const { $crate::glue::Configured::new(None) };
            }

            impl $crate::glue::exports::manifest::Guest for Module {
                fn describe() -> $crate::Info {
                    $crate::glue::describe::<$policy>()
                }
            }

            impl $crate::glue::exports::configuration::Guest for Module {
                fn configure(config: ::std::string::String)
                    -> ::std::result::Result<::std::vec::Vec<::std::string::String>, ::std::vec::Vec<$crate::Problem>>
                {
                    $crate::glue::configure(&POLICY, &config)
                }
            }

            $($crate::__hook!($hook __implement [$policy]);)+

            #[cfg(target_arch = "wasm32")]
            const _: () = {
                $crate::__export_portcullis_policy_manifest_0_1_0_cabi!(
                    Module with_types_in $crate::glue::exports::manifest);
                $crate::__export_portcullis_policy_configuration_0_1_0_cabi!(
                    Module with_types_in $crate::glue::exports::configuration);
                $crate::__section!("component-type:portcullis-policy-core" CORE);
                $($crate::__hook!($hook __export []);)+
                $crate::__refresh_section!([] $($hook)+);
            };
        };
    };
}

/// The table of hooks: calls the macro `$then` with `$args` and what there is to know of one hook, which is its interface,
/// its trait, the function, what it is asked and answers, and the generated macro and section that export it.
#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (self_tests $then:ident [$($args:tt)*]) => { $crate::$then!([$($args)*] self_tests) };
    (list_tools $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*]
            list_tools ListTools::filter(::std::vec::Vec<$crate::Tool>) -> ($crate::list_tools::Outcome);
            __export_portcullis_policy_list_tools_0_1_0_cabi LIST_TOOLS "component-type:portcullis-policy-list-tools")
    };
    (list_items $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*]
            list_items ListItems::filter(::std::vec::Vec<$crate::Item>) -> (::std::vec::Vec<$crate::Visibility>);
            __export_portcullis_policy_list_items_0_1_0_cabi LIST_ITEMS "component-type:portcullis-policy-list-items")
    };
    (tool_call $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] tool_call ToolCall::before($crate::Call) -> ($crate::Verdict);
            __export_portcullis_policy_tool_call_0_1_0_cabi TOOL_CALL "component-type:portcullis-policy-tool-call")
    };
    (tool_result $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] tool_result ToolResult::after($crate::CallResult) -> ($crate::Inspection);
            __export_portcullis_policy_tool_result_0_1_0_cabi TOOL_RESULT "component-type:portcullis-policy-tool-result")
    };
    (item_access $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] item_access ItemAccess::before($crate::Access) -> ($crate::Verdict);
            __export_portcullis_policy_item_access_0_1_0_cabi ITEM_ACCESS "component-type:portcullis-policy-item-access")
    };
    (item_result $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] item_result ItemResult::after($crate::ItemOutput) -> ($crate::Inspection);
            __export_portcullis_policy_item_result_0_1_0_cabi ITEM_RESULT "component-type:portcullis-policy-item-result")
    };
    (server_request $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] server_request ServerRequest::before($crate::Question) -> ($crate::Verdict);
            __export_portcullis_policy_server_request_0_1_0_cabi SERVER_REQUEST
            "component-type:portcullis-policy-server-request")
    };
    (grant $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] grant Grant::authorize($crate::grant::Request) -> ($crate::grant::Decision);
            __export_portcullis_policy_grant_0_1_0_cabi GRANT "component-type:portcullis-policy-grant")
    };
    (refresh $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] refresh Refresh::renew($crate::refresh::Request) -> ($crate::refresh::Decision);
            __export_portcullis_policy_refresh_0_1_0_cabi REFRESH "component-type:portcullis-policy-refresh")
    };
    (client $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*] client Client::register($crate::client::Request) -> ($crate::client::Decision);
            __export_portcullis_policy_client_0_1_0_cabi CLIENT "component-type:portcullis-policy-client")
    };
    (credential $then:ident [$($args:tt)*]) => {
        $crate::$then!([$($args)*]
            credential Credential::release($crate::credential::Request) -> ($crate::credential::Decision);
            __export_portcullis_policy_credential_0_1_0_cabi CREDENTIAL "component-type:portcullis-policy-credential")
    };
    ($other:ident $then:ident [$($args:tt)*]) => {
        compile_error!(concat!(
            "`",
            stringify!($other),
            "` is no hook; there are list_tools, list_items, tool_call, tool_result, item_access, item_result, \
             server_request, grant, refresh, client and credential, and self_tests"
        ))
    };
}

/// The list of hooks among what is named.
#[doc(hidden)]
#[macro_export]
macro_rules! __hooks {
    ([$($done:ident)*]) => { &[$($crate::__hook!($done __name [])),*] };
    ([$($done:ident)*] self_tests $($rest:ident)*) => { $crate::__hooks!([$($done)*] $($rest)*) };
    ([$($done:ident)*] $hook:ident $($rest:ident)*) => { $crate::__hooks!([$($done)* $hook] $($rest)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __name {
    ([] $interface:ident $name:ident :: $($rest:tt)*) => {
        $crate::Hook::$name
    };
}

/// Asks the hook in JSON form, if that is the one.
#[doc(hidden)]
#[macro_export]
macro_rules! __ask {
    ([$($args:tt)*] self_tests) => {};
    ([$policy:ident $self:ident $hook:ident $input:ident]
        $interface:ident $name:ident :: $function:ident($question:ty) -> ($answer:ty); $($export:tt)*) => {
        if $hook == $crate::Hook::$name {
            return $crate::glue::ask::<$question, _>($hook, $input, |ctx, question| {
                <$policy as $crate::$name>::$function($self, ctx, question)
            });
        }
    };
}

/// The function that the host calls.
#[doc(hidden)]
#[macro_export]
macro_rules! __implement {
    ([$policy:ident] self_tests) => {
        impl $crate::glue::exports::self_tests::Guest for Module {
            fn cases() -> ::std::vec::Vec<$crate::glue::Case> {
                $crate::glue::self_tests(<$policy as $crate::SelfTests>::CASES)
            }
        }
    };
    ([$policy:ident]
        $interface:ident $name:ident :: $function:ident($question:ty) -> ($answer:ty); $($export:tt)*) => {
        impl $crate::glue::exports::$interface::Guest for Module {
            fn $function(ctx: $crate::Context, question: $question) -> $answer {
                $crate::glue::with(&POLICY, |policy| <$policy as $crate::$name>::$function(policy, &ctx, &question))
            }
        }
    };
}

/// Exports that function, and says so in a section.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ([] self_tests) => {
        $crate::__export_portcullis_policy_self_tests_0_1_0_cabi!(
            Module with_types_in $crate::glue::exports::self_tests);
        $crate::__section!("component-type:portcullis-policy-self-tests" SELF_TESTS);
    };
    ([] refresh $name:ident :: $function:ident($question:ty) -> ($answer:ty);
        $export:ident $section:ident $section_name:literal) => {
        $crate::$export!(Module with_types_in $crate::glue::exports::refresh);
    };
    ([] $interface:ident $name:ident :: $function:ident($question:ty) -> ($answer:ty);
        $export:ident $section:ident $section_name:literal) => {
        $crate::$export!(Module with_types_in $crate::glue::exports::$interface);
        $crate::__section!($section_name $section);
    };
}

/// The section of `refresh` says whose terms it speaks of: the module's own, if that has `grant` too.
#[doc(hidden)]
#[macro_export]
macro_rules! __refresh_section {
    ([]) => {};
    ([refresh]) => { $crate::__section!("component-type:portcullis-policy-refresh" REFRESH); };
    ([grant]) => {};
    ([refresh grant]) => { $crate::__section!("component-type:portcullis-policy-refresh" REFRESH_AND_GRANT); };
    ([grant refresh]) => { $crate::__refresh_section!([refresh grant]); };
    ([$($found:ident)*] refresh $($rest:ident)*) => { $crate::__refresh_section!([$($found)* refresh] $($rest)*); };
    ([$($found:ident)*] grant $($rest:ident)*) => { $crate::__refresh_section!([$($found)* grant] $($rest)*); };
    ([$($found:ident)*] $other:ident $($rest:ident)*) => { $crate::__refresh_section!([$($found)*] $($rest)*); };
}

/// The linker keeps sections of different names apart and the component tools unite what they say.
#[doc(hidden)]
#[macro_export]
macro_rules! __section {
    ($name:literal $section:ident) => {
        const _: () = {
            #[unsafe(link_section = $name)]
            static SECTION: [u8; $crate::bindings::sections::$section.len()] = $crate::bindings::sections::$section;
        };
    };
}
