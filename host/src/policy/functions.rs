//! The functions of a component that the host calls, found and compared with the contract once.
//!
//! Comparing a function's type with the contract means walking all of its records; that is done when a component is
//! loaded and not at each call. [`Functions::call`] relies on it, and is why this file is kept small.
//!
//! Invariant: a [`Callable`] exists only if all functions that it knows have the types that the methods here call them
//! with.

use wasmtime::Store;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Lower, TypedFunc,
};

use super::contract;
use super::contract::hook::{self, Hook, HookType, Text};
use super::contract::manifest::{self, Case, Configured};
use super::contract::types::Context;
use super::decision::Failure;
use super::dynamic;
use super::engine::{Capacity, Runtime};
use super::instance::{self, HostState, Live, Run, Wants};
use super::module::ModuleError;
use super::ticker::Clock;
use crate::env::Env;

/// In which form a module speaks the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Records.
    Typed,
    /// JSON text.
    Dynamic,
}

impl Lane {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Typed => "typed",
            Self::Dynamic => "dynamic",
        }
    }
}

/// A component that is ready to be instantiated, and where its functions are.
pub(super) struct Callable {
    pre: InstancePre<HostState>,
    functions: Functions,
    wants: Wants,
    capacity: &'static Capacity,
    pub(super) clock: Clock,
    env: Env,
}

/// The exports that the host calls, by their places.
#[derive(Debug)]
enum Functions {
    Typed {
        describe: ComponentExportIndex,
        configure: ComponentExportIndex,
        self_tests: Option<ComponentExportIndex>,
        /// By hook. A hook that is `None` is not exported.
        hooks: [Option<ComponentExportIndex>; Hook::ALL.len()],
    },
    Dynamic {
        describe: ComponentExportIndex,
        configure: ComponentExportIndex,
        decide: ComponentExportIndex,
    },
}

impl Callable {
    /// Finds the functions of `component`, in an instance that is thrown away compares them with the contract, and
    /// returns that instance's verdict.
    pub(super) fn of(runtime: &Runtime, component: &Component, run: &Run<'_>) -> Result<Self, ModuleError> {
        let wrong = |cause| ModuleError::WrongType { name: "imports".to_owned(), cause };
        let pre = runtime.linker.instantiate_pre(component).map_err(wrong)?;
        let functions = Functions::find(component)?;
        let imports = |wanted: fn(&str) -> bool| {
            let component = component.component_type();
            component.imports(&runtime.wasm).any(|(name, _)| contract::plain_name(name).is_some_and(wanted))
        };
        let wants = Wants {
            log: imports(|name| name == "log"),
            facilities: imports(|name| super::imports::grant_for(name).is_some()),
        };
        let callable = Self {
            pre,
            functions,
            wants,
            capacity: runtime.capacity,
            clock: runtime.clock(),
            env: runtime.env.clone(),
        };
        let mut live = callable.start(run).map_err(ModuleError::NotStarted)?;
        callable.functions.check(&mut live.store, &live.instance)?;
        Ok(callable)
    }

    pub(super) fn lane(&self) -> Lane {
        match self.functions {
            Functions::Typed { .. } => Lane::Typed,
            Functions::Dynamic { .. } => Lane::Dynamic,
        }
    }

    /// The hooks whose interfaces it exports; in the dynamic lane, which has one function for all, every hook.
    pub(super) fn exports(&self, hook: Hook) -> bool {
        match &self.functions {
            Functions::Typed { hooks, .. } => hooks[hook as usize].is_some(),
            Functions::Dynamic { .. } => true,
        }
    }

    /// A new instance. While it is used, [`Self::clock`] must have been told so.
    pub(super) fn start(&self, run: &Run<'_>) -> Result<Live, Failure> {
        Live::start(&self.pre, self.wants, self.capacity, run)
    }

    /// What the module says of itself, and its cases where that is part of it.
    pub(super) fn describe(&self, live: &mut Live, run: &Run<'_>) -> Result<(manifest::Info, Vec<Case>), Failure> {
        match &self.functions {
            Functions::Typed { describe, .. } => Ok((Functions::call(live, describe, (), run)?, Vec::new())),
            Functions::Dynamic { describe, .. } => {
                dynamic::description(&Functions::call::<_, String>(live, describe, (), run)?)
            }
        }
    }

    /// The cases that the module brings along in an interface of their own.
    pub(super) fn self_tests(&self, live: &mut Live, run: &Run<'_>) -> Result<Vec<Case>, Failure> {
        match &self.functions {
            Functions::Typed { self_tests: Some(cases), .. } => Functions::call(live, cases, (), run),
            Functions::Typed { self_tests: None, .. } | Functions::Dynamic { .. } => Ok(Vec::new()),
        }
    }

    pub(super) fn configure(&self, live: &mut Live, config: &str, run: &Run<'_>) -> Result<Configured, Failure> {
        match &self.functions {
            Functions::Typed { configure, .. } => Functions::call(live, configure, (config,), run),
            Functions::Dynamic { configure, .. } => {
                dynamic::configured(Functions::call(live, configure, (config,), run)?)
            }
        }
    }

    /// Asks a hook that the module was seen to export.
    pub(super) fn ask<K: HookType, C: Text, S: Text>(
        &self,
        live: &mut Live,
        context: &Context<C>,
        request: &K::Request<S>,
        run: &Run<'_>,
    ) -> Result<K::Answer, Failure> {
        live.open(run, &self.env);
        let answer = match &self.functions {
            Functions::Typed { hooks, .. } => {
                let hook = hooks[K::HOOK as usize];
                let hook = hook.expect("a module is asked only for hooks that it was seen to export");
                Functions::call(live, &hook, (context, request), run)
            }
            Functions::Dynamic { decide, .. } => dynamic::question::<K, C, S>(context, request)
                .and_then(|input| Functions::call(live, decide, (K::HOOK.as_str(), &*input), run))
                .and_then(dynamic::answer::<K>),
        };
        live.close();
        answer
    }
}

impl std::fmt::Debug for Callable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callable").field("functions", &self.functions).finish_non_exhaustive()
    }
}

impl Functions {
    fn find(component: &Component) -> Result<Self, ModuleError> {
        let find = |interface: &str, function: &str| {
            let instance = component.get_export_index(None, contract::interface(interface).as_str())?;
            component.get_export_index(Some(&instance), function)
        };
        let required = |interface: &str, function: &str| {
            find(interface, function).ok_or_else(|| ModuleError::MissingExport {
                name: format!("{}#{function}", contract::interface(interface)),
            })
        };
        if find("dynamic", "describe").is_some() {
            return Ok(Self::Dynamic {
                describe: required("dynamic", "describe")?,
                configure: required("dynamic", "configure")?,
                decide: required("dynamic", "decide")?,
            });
        }
        let hooks = Hook::ALL.map(|hook| find(hook.as_str(), hook.function()));
        let typed = Self::Typed {
            describe: required("manifest", "describe")?,
            configure: required("configuration", "configure")?,
            self_tests: find("self-tests", "cases"),
            hooks,
        };
        if hooks.iter().all(Option::is_none) {
            return Err(ModuleError::NoHook);
        }
        Ok(typed)
    }

    /// Compares each function with the types that it is called with above.
    fn check(&self, store: &mut Store<HostState>, instance: &Instance) -> Result<(), ModuleError> {
        match self {
            Self::Dynamic { describe, configure, decide } => {
                check::<(), String>(store, instance, "dynamic", describe)?;
                check::<(&str,), dynamic::Outcome>(store, instance, "dynamic", configure)?;
                check::<(&str, &str), dynamic::Outcome>(store, instance, "dynamic", decide)
            }
            Self::Typed { describe, configure, self_tests, hooks } => {
                check::<(), manifest::Info>(store, instance, "manifest", describe)?;
                check::<(&str,), Configured>(store, instance, "configuration", configure)?;
                if let Some(cases) = self_tests {
                    check::<(), Vec<Case>>(store, instance, "self-tests", cases)?;
                }
                check_hook::<hook::Grant>(hooks, store, instance)?;
                check_hook::<hook::Refresh>(hooks, store, instance)?;
                check_hook::<hook::Client>(hooks, store, instance)?;
                check_hook::<hook::Credential>(hooks, store, instance)?;
                check_hook::<hook::ListTools>(hooks, store, instance)?;
                check_hook::<hook::ListItems>(hooks, store, instance)?;
                check_hook::<hook::ToolCall>(hooks, store, instance)?;
                check_hook::<hook::ToolResult>(hooks, store, instance)?;
                check_hook::<hook::ItemAccess>(hooks, store, instance)?;
                check_hook::<hook::ItemResult>(hooks, store, instance)?;
                check_hook::<hook::ServerRequest>(hooks, store, instance)
            }
        }
    }

    /// Calls a function whose type was compared with `Params` and `Answer` by [`Self::check`].
    fn call<Params, Answer>(
        live: &mut Live,
        function: &ComponentExportIndex,
        params: Params,
        run: &Run<'_>,
    ) -> Result<Answer, Failure>
    where
        Params: ComponentNamedList + Lower,
        Answer: Lift + 'static,
    {
        // The place of a function is good for instances of its own component only: elsewhere nothing is found.
        let found = live.instance.get_func(&mut live.store, function);
        let found = found.expect("an instance is of the component that its functions were found in");
        #[expect(unsafe_code, reason = "saves the comparison of all records with their Rust types at each call")]
        // SAFETY: `function` is private to `Callable`, whose only constructor compared it by `check` with the type that
        // it is called with; `Context<&str>` and `Context<String>` are the same type of the component model. Functions
        // found in a component by place have the type that they had there in any of its instances, since the contract
        // has no resources and modules import instances of one linker only.
        let typed = unsafe { TypedFunc::<Params, (Answer,)>::new_unchecked(found) };
        let answered = typed.call(&mut live.store, params);
        answered.map(|(answer,)| answer).map_err(|error| instance::failure(&error, run))
    }
}

fn check_hook<K: HookType>(
    hooks: &[Option<ComponentExportIndex>; Hook::ALL.len()],
    store: &mut Store<HostState>,
    instance: &Instance,
) -> Result<(), ModuleError> {
    let Some(function) = &hooks[K::HOOK as usize] else { return Ok(()) };
    check::<(&Context<&str>, &K::Request<&str>), K::Answer>(store, instance, K::HOOK.as_str(), function)
}

fn check<Params, Answer>(
    store: &mut Store<HostState>,
    instance: &Instance,
    interface: &str,
    function: &ComponentExportIndex,
) -> Result<(), ModuleError>
where
    Params: ComponentNamedList + Lower,
    Answer: Lift + 'static,
{
    match instance.get_typed_func::<Params, (Answer,)>(store, function) {
        Ok(_) => Ok(()),
        Err(cause) => Err(ModuleError::WrongType { name: contract::interface(interface), cause }),
    }
}
