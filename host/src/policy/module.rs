//! A module: bytes → checked → compiled → pre-instantiated → asked what it is.
//!
//! Loading blocks, for seconds with large modules, and belongs on a thread where that harms nobody. What loads
//! has the functions of the contract with exactly their types, fits the engine's pool, and has told its manifest.
//! Loading runs guest code once, in `describe`, under the same kind of limits as every call.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower};

use super::binary::{self, Kind, MAX_MODULE_BYTES};
use super::contract::{self, list_tools, manifest, types};
use super::decision::{Failure, Hook};
use super::engine::{Engine, MAX_MEMORIES, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use super::instance::{self, AfterParams, BeforeParams, Callable, Configured, FilterParams, Functions, HostState, Run};
use super::manifest::Manifest;
use crate::secret::Digest;

/// Longest run of `describe`, and of `configure` when a policy is loaded.
pub(super) const LOAD_LIMIT: Duration = Duration::from_secs(2);

const WASM_PAGE_BYTES: u64 = 64 << 10;

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("the module has {bytes} bytes, more than {MAX_MODULE_BYTES}")]
    TooLarge { bytes: usize },
    #[error("this is compiled code; the gateway compiles modules itself, give it the .wasm file")]
    Precompiled,
    #[error("this is no WebAssembly component or module")]
    NotWasm,
    #[error("this is no core module")]
    NotCoreModule,
    #[error("the module is malformed")]
    Malformed(#[source] wasmparser::BinaryReaderError),
    #[error("the module cannot be made a component")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    #[error("it imports {name}, which no policy may{}", advice.map(|advice| format!(" ({advice})")).unwrap_or_default())]
    UnknownImport { name: String, advice: Option<&'static str> },
    #[error("it passes strings in another encoding than UTF-8")]
    StringEncoding,
    #[error("it cannot be compiled: {0:#}")]
    Compile(wasmtime::Error),
    #[error("the compiler failed on it")]
    Panicked,
    #[error("it does not export {name}")]
    MissingExport { name: String },
    #[error("it exports no hook, so that it would never be asked")]
    NoHook,
    #[error("it exports {name}, a hook that this gateway does not have")]
    UnknownHook { name: String },
    #[error("its manifest names the hook {hook}, which it does not export")]
    HookNotExported { hook: Hook },
    #[error("its {name} is not as the contract says: {cause:#}")]
    WrongType { name: String, cause: wasmtime::Error },
    #[error("it needs {needed} {what}, and a policy may have {max}")]
    TooManyResources { what: &'static str, needed: u64, max: u64 },
    #[error("its description failed")]
    Describe(#[source] Failure),
    #[error("its manifest is wrong: {0}")]
    Manifest(String),
}

/// A module, ready to be configured and called.
#[derive(Debug)]
pub struct Module {
    info: ModuleInfo,
    engine: Engine,
    callable: Arc<Callable>,
}

/// What there is to know about a module.
#[derive(Clone, Debug)]
pub struct ModuleInfo {
    pub manifest: Manifest,
    /// SHA-256 of the module as it was given, lower-case hex.
    pub digest: Arc<str>,
    pub size_bytes: usize,
    /// The hooks whose interfaces it exports.
    pub exported: Vec<Hook>,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
}

impl Module {
    /// Loads a component or a core module.
    pub fn load(engine: &Engine, bytes: &[u8]) -> Result<Self, ModuleError> {
        let component = match binary::kind(bytes)? {
            Kind::Component => None,
            Kind::CoreModule => Some(binary::componentize(bytes)?),
        };
        let component_bytes = component.as_deref().unwrap_or(bytes);
        let imports = binary::check_component(component_bytes)?;
        let component = compile(engine, component_bytes)?;
        check_exports(engine, &component)?;
        check_resources(&component)?;
        let callable = Arc::new(callable(engine, &component)?);
        let manifest = describe(&callable)?;
        let exported: Vec<Hook> =
            Hook::ALL.into_iter().filter(|hook| callable.functions.hook(*hook).is_some()).collect();
        if let Some(hook) = manifest.hooks.iter().find(|hook| !exported.contains(hook)) {
            return Err(ModuleError::HookNotExported { hook: *hook });
        }
        if manifest.hooks.is_empty() {
            return Err(ModuleError::NoHook);
        }
        let digest = digest(bytes);
        let info = ModuleInfo { manifest, digest, size_bytes: bytes.len(), exported, imports };
        Ok(Self { info, engine: engine.clone(), callable })
    }

    pub fn info(&self) -> &ModuleInfo {
        &self.info
    }

    pub fn manifest(&self) -> &Manifest {
        &self.info.manifest
    }

    /// SHA-256 of the module as it was given, lower-case hex.
    pub fn digest(&self) -> &Arc<str> {
        &self.info.digest
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn callable(&self) -> &Arc<Callable> {
        &self.callable
    }

    /// Tries a configuration, as every call will.
    pub(super) fn configure(&self, config: &str, run: &Run) -> Result<Configured, Failure> {
        let (mut store, instance) = self.callable.instantiate(run)?;
        instance::call(&mut store, &instance, &self.callable.functions.configure, (config,), run)
    }
}

/// SHA-256 of a module, lower-case hex.
pub(super) fn digest(bytes: &[u8]) -> Arc<str> {
    Digest::of(bytes).to_hex().into()
}

impl Functions {
    pub(super) fn hook(&self, hook: Hook) -> Option<&ComponentExportIndex> {
        match hook {
            Hook::ListTools => self.filter.as_ref(),
            Hook::ToolCall => self.before.as_ref(),
            Hook::ToolResult => self.after.as_ref(),
        }
    }
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, ModuleError> {
    // The compiler reads bytes of strangers; a mistake in it must not end the gateway.
    let compile = || -> wasmtime::Result<Component> {
        let component = Component::from_binary(engine.wasm(), bytes)?;
        component.initialize_copy_on_write_image()?;
        Ok(component)
    };
    catch_unwind(AssertUnwindSafe(compile)).map_err(|_| ModuleError::Panicked)?.map_err(ModuleError::Compile)
}

/// A hook that we do not know would never be asked, so that its author would be protected by nothing.
fn check_exports(engine: &Engine, component: &Component) -> Result<(), ModuleError> {
    for (name, _) in component.component_type().exports(engine.wasm()) {
        if !name.starts_with(contract::NAMESPACE) {
            continue;
        }
        let known = match contract::plain_name(name) {
            Some("manifest" | "configuration" | "types") => true,
            Some(plain) => Hook::ALL.iter().any(|hook| hook.as_str() == plain),
            None => false,
        };
        if !known {
            return Err(ModuleError::UnknownHook { name: super::text::one_line(name, 256) });
        }
    }
    Ok(())
}

/// Refuses at load what would find no slot at call time.
fn check_resources(component: &Component) -> Result<(), ModuleError> {
    let needed = component.resources_required().ok_or(ModuleError::TooManyResources {
        what: "imported modules",
        needed: 1,
        max: 0,
    })?;
    let pages = needed.max_initial_memory_size.unwrap_or(0);
    for (what, needed, max) in [
        ("memories", needed.num_memories.into(), MAX_MEMORIES.into()),
        ("tables", needed.num_tables.into(), MAX_TABLES.into()),
        ("bytes of memory", pages.saturating_mul(WASM_PAGE_BYTES), MAX_MEMORY_BYTES as u64),
        ("table elements", needed.max_initial_table_size.unwrap_or(0), MAX_TABLE_ELEMENTS as u64),
    ] {
        if needed > max {
            return Err(ModuleError::TooManyResources { what, needed, max });
        }
    }
    Ok(())
}

fn callable(engine: &Engine, component: &Component) -> Result<Callable, ModuleError> {
    let wrong = |cause| ModuleError::WrongType { name: "imports".to_owned(), cause };
    let pre = engine.linker().instantiate_pre(component).map_err(wrong)?;
    let find = |interface: &str, function: &str| {
        let instance = component.get_export_index(None, contract::interface(interface).as_str())?;
        component.get_export_index(Some(&instance), function)
    };
    let required = |interface: &str, function: &str| {
        find(interface, function).ok_or_else(|| ModuleError::MissingExport {
            name: format!("{}#{function}", contract::interface(interface)),
        })
    };
    let functions = Functions {
        describe: required("manifest", "describe")?,
        configure: required("configuration", "configure")?,
        filter: find(Hook::ListTools.as_str(), "filter"),
        before: find(Hook::ToolCall.as_str(), "before"),
        after: find(Hook::ToolResult.as_str(), "after"),
    };
    if Hook::ALL.iter().all(|hook| functions.hook(*hook).is_none()) {
        return Err(ModuleError::NoHook);
    }
    Ok(Callable { pre, functions, clock: engine.clock() })
}

/// Checks the functions' types and asks for the manifest, in one instance.
fn describe(callable: &Callable) -> Result<Manifest, ModuleError> {
    let run = load_run("describe", MAX_MEMORY_BYTES);
    let (mut store, instance) = callable.instantiate(&run).map_err(ModuleError::Describe)?;
    check_types(&callable.functions, &mut store, &instance)?;
    let info: manifest::Info =
        instance::call(&mut store, &instance, &callable.functions.describe, (), &run).map_err(ModuleError::Describe)?;
    Manifest::check(info).map_err(ModuleError::Manifest)
}

/// What runs when a module is loaded or a binding is made.
pub(super) fn load_run(policy: &str, memory_bytes: usize) -> Run {
    Run { policy: policy.into(), decision: "load".into(), limit: LOAD_LIMIT, memory_bytes }
}

fn check_types(functions: &Functions, store: &mut Store<HostState>, instance: &Instance) -> Result<(), ModuleError> {
    let Functions { describe, configure, filter, before, after } = functions;
    check_type::<(), manifest::Info>(store, instance, "manifest", Some(describe))?;
    check_type::<(&str,), Configured>(store, instance, "configuration", Some(configure))?;
    check_type::<FilterParams<'_>, list_tools::Outcome>(store, instance, "list-tools", filter.as_ref())?;
    check_type::<BeforeParams<'_>, types::Verdict>(store, instance, "tool-call", before.as_ref())?;
    check_type::<AfterParams<'_>, types::Inspection>(store, instance, "tool-result", after.as_ref())
}

fn check_type<Params, Answer>(
    store: &mut Store<HostState>,
    instance: &Instance,
    interface: &str,
    function: Option<&ComponentExportIndex>,
) -> Result<(), ModuleError>
where
    Params: ComponentNamedList + Lower,
    Answer: Lift + 'static,
{
    let Some(function) = function else { return Ok(()) };
    match instance.get_typed_func::<Params, (Answer,)>(store, function) {
        Ok(_) => Ok(()),
        Err(cause) => Err(ModuleError::WrongType { name: contract::interface(interface), cause }),
    }
}
