//! A module: bytes → checked → compiled → pre-instantiated → asked what it is → prepared with a configuration.
//!
//! Loading blocks, for seconds with large modules, and belongs on a thread where that harms nobody. What loads
//! has the functions of the contract with exactly their types, imports no more than its manifest says, fits an engine's
//! pool, and has told its manifest. Loading and preparing run guest code, in `describe` and `configure`, under the same
//! kind of limits as every call.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::component::Component;

use super::binary::{self, Contents, Kind, MAX_MODULE_BYTES};
use super::contract;
use super::contract::manifest::Case;
use super::decision::{Failure, Hook};
use super::engine::{Capacity, Engine, EngineError, LARGE, Runtime, SMALL, Size};
use super::freeze::{self, Outcome, Reason};
use super::functions::{Callable, Lane};
use super::imports;
use super::instance::Run;
use super::manifest::Manifest;
use super::prepared::{Preparation, PrepareError, Prepared, Ready};
use super::rehearsal::Rehearsal;
use super::text::one_line;
use crate::config::{Reuse, Sets};
use crate::secret::Digest;

/// Longest run of `describe`, and of `configure` when a policy is loaded.
const LOAD_LIMIT: Duration = Duration::from_secs(2);
/// The same for large modules, whose run-time systems have to start first.
const LARGE_LOAD_LIMIT: Duration = Duration::from_secs(20);
/// Preparations of one module that are remembered.
const MAX_REMEMBERED: usize = 64;

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
    #[error("it imports {grant}, which its manifest does not name; add {grant:?} to the manifest's capabilities")]
    Undeclared { grant: &'static str },
    #[error("it passes strings in another encoding than UTF-8")]
    StringEncoding,
    #[error("it cannot be compiled: {0:#}")]
    Compile(wasmtime::Error),
    #[error("the compiler failed on it")]
    Panicked,
    #[error("there is no engine for it")]
    Engine(#[from] EngineError),
    #[error("it does not export {name}")]
    MissingExport { name: String },
    #[error("it exports dynamic beside manifest, configuration or hooks; a module exports one or the other")]
    BothLanes,
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
    #[error("it cannot be started")]
    NotStarted(#[source] Failure),
    #[error("its description failed")]
    Describe(#[source] Failure),
    #[error("its manifest is wrong: {0}")]
    Manifest(String),
}

/// A module, ready to be configured and called.
pub struct Module {
    info: ModuleInfo,
    engine: Engine,
    size: Size,
    /// What is compiled, and frozen for each configuration.
    component: Box<[u8]>,
    /// To try out.
    draft: Arc<Callable>,
    /// To decide where nothing is frozen; made when it is first needed.
    unfrozen: OnceLock<Arc<Callable>>,
    /// Cases that came with the description.
    described_cases: Vec<Case>,
    /// What was prepared last, for the next generation of policies with the same configuration.
    prepared: Mutex<Vec<(Key, Ready)>>,
}

/// What there is to know about a module.
#[derive(Clone, Debug)]
pub struct ModuleInfo {
    pub manifest: Manifest,
    /// SHA-256 of the module as it was given, lower-case hex.
    pub digest: Arc<str>,
    pub size_bytes: usize,
    pub lane: Lane,
    /// It runs in the engine for large modules.
    pub is_large: bool,
    /// The hooks whose interfaces it exports; in the dynamic lane, those that its manifest names.
    pub exported: Vec<Hook>,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
}

/// With what a module was prepared.
#[derive(PartialEq, Eq)]
struct Key {
    config: Arc<str>,
    memory_bytes: usize,
    reuse: Reuse,
}

impl Module {
    /// Loads a component or a core module.
    pub fn load(engine: &Engine, bytes: &[u8]) -> Result<Self, ModuleError> {
        let component = match binary::kind(bytes)? {
            Kind::Component => bytes.into(),
            Kind::CoreModule => binary::componentize(bytes)?.into_boxed_slice(),
        };
        let contents = binary::check_component(&component)?;
        let size = contents.size()?;
        engine.runtime(size)?;
        let runtime = engine.draft(size)?;
        let compiled = compile(engine, runtime, &component)?;
        check_exports(runtime, &compiled)?;
        check_resources(runtime.capacity, &compiled)?;
        let rehearsal = Rehearsal::new("describe", &Arc::default(), load_limit(size), runtime.capacity.memory_bytes);
        let draft = Arc::new(Callable::of(runtime, &compiled, &rehearsal.run())?);
        let (manifest, described_cases) = describe(&draft, &rehearsal.run())?;
        check_imports(&contents, &manifest)?;
        let exported = exported(&draft, &manifest)?;
        let info = ModuleInfo {
            manifest,
            digest: digest(bytes),
            size_bytes: bytes.len(),
            lane: draft.lane(),
            is_large: size == Size::Large,
            exported,
            imports: contents.imports,
        };
        let (engine, unfrozen, prepared) = (engine.clone(), OnceLock::new(), Mutex::default());
        Ok(Self { info, engine, size, component, draft, unfrozen, described_cases, prepared })
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

    pub fn lane(&self) -> Lane {
        self.info.lane
    }

    /// Whether it runs in the engine for large modules.
    pub fn is_large(&self) -> bool {
        self.info.is_large
    }

    /// Most memory that a binding may give it.
    pub fn max_memory_bytes(&self) -> usize {
        match self.size {
            Size::Small => SMALL.memory_bytes,
            Size::Large => LARGE.memory_bytes,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The cases that the module brings along.
    pub(super) fn self_tests(&self) -> Result<Vec<Case>, Failure> {
        let rehearsal = self.rehearsal("self-tests", &Arc::default(), self.max_memory_bytes());
        let run = rehearsal.run();
        let _running = self.draft.clock.begin();
        let mut live = self.draft.start(&run)?;
        let mut cases = self.described_cases.clone();
        cases.extend(self.draft.self_tests(&mut live, &run)?);
        Ok(cases)
    }

    /// Configures the module: freezes it where that is wanted and possible, and says what it has to say.
    pub(super) fn prepare(&self, preparation: &Preparation<'_>) -> Result<Ready, PrepareError> {
        let Preparation { config, memory_bytes, reuse, .. } = *preparation;
        if reuse == Reuse::Warm && !self.is_large() {
            return Err(PrepareError::WarmIsForLargeModules);
        }
        let key = Key { config: config.clone(), memory_bytes, reuse };
        if let Some(ready) = self.remembered(&key) {
            return Ok(ready);
        }
        let rehearsal = self.rehearsal(preparation.policy, preparation.sets, memory_bytes);
        let ready = match reuse {
            Reuse::Fresh => self.fresh(config, &rehearsal)?,
            Reuse::Auto | Reuse::Frozen | Reuse::Warm => match self.frozen(config, &rehearsal) {
                Ok(ready) => ready?,
                Err(Reason(reason)) => {
                    let mut ready = self.fresh(config, &rehearsal)?;
                    if reuse == Reuse::Frozen {
                        return Err(PrepareError::CannotFreeze { reason });
                    }
                    let instance = if reuse == Reuse::Warm { "instance" } else { "call" };
                    ready
                        .remarks
                        .push(format!("it cannot be frozen and is configured anew for each {instance}: {reason}"));
                    ready
                }
            },
        };
        let ready = if reuse == Reuse::Warm { ready.warm() } else { ready };
        self.remember(key, &ready);
        Ok(ready)
    }

    /// Configures the module for a few questions, while it is tried out: what answers them was compiled in a hurry, and
    /// nothing is frozen.
    pub(super) fn draft(&self, preparation: &Preparation<'_>) -> Result<Ready, PrepareError> {
        let rehearsal = self.rehearsal(preparation.policy, preparation.sets, preparation.memory_bytes);
        self.configured(&self.draft, preparation.config, &rehearsal)
    }

    /// Configured anew in each instance.
    fn fresh(&self, config: &Arc<str>, rehearsal: &Rehearsal) -> Result<Ready, PrepareError> {
        let callable = match self.unfrozen.get() {
            Some(callable) => callable,
            None => {
                let callable = self.callable(self.runtime(), &self.component, &rehearsal.run());
                let callable = callable.map_err(|error| {
                    PrepareError::Failed(match error {
                        ModuleError::NotStarted(failure) => failure,
                        error => Failure::NotStarted { message: one_line(&told(&error), 256) },
                    })
                })?;
                self.unfrozen.get_or_init(|| Arc::new(callable))
            }
        };
        self.configured(callable, config, rehearsal)
    }

    fn configured(
        &self,
        callable: &Arc<Callable>,
        config: &Arc<str>,
        rehearsal: &Rehearsal,
    ) -> Result<Ready, PrepareError> {
        let run = rehearsal.run();
        let _running = callable.clock.begin();
        let mut live = callable.start(&run).map_err(PrepareError::Failed)?;
        let begun = Instant::now();
        let configured = callable.configure(&mut live, config, &run).map_err(PrepareError::Failed)?;
        let configured_in = begun.elapsed();
        let warnings = configured.map_err(PrepareError::Refused)?;
        let prepared = Prepared::fresh(callable.clone(), config.clone(), self.is_large());
        Ok(Ready { prepared, warnings, remarks: Vec::new(), configured_in })
    }

    /// Configured once and for all, or the reason why it cannot be.
    fn frozen(&self, config: &Arc<str>, rehearsal: &Rehearsal) -> Result<Result<Ready, PrepareError>, Reason> {
        let draft = |component: &[u8], run: &Run<'_>| {
            self.callable(self.draft_runtime(), component, run).map_err(|error| told(&error))
        };
        let outcome = freeze::freeze(&self.component, config, &rehearsal.run(), draft)?;
        let (component, warnings, configured_in) = match outcome {
            Outcome::Refused(problems) => return Ok(Err(PrepareError::Refused(problems))),
            Outcome::Failed(failure) => return Ok(Err(PrepareError::Failed(failure))),
            Outcome::Frozen { component, warnings, configured_in } => (component, warnings, configured_in),
        };
        let callable = self.callable(self.runtime(), &component, &rehearsal.run());
        let callable = callable.map_err(|error| Reason(one_line(&told(&error), 256)))?;
        let prepared = Prepared::frozen(Arc::new(callable), self.is_large());
        let cases = self.self_tests().unwrap_or_default();
        let fresh = Prepared::fresh(self.draft.clone(), config.clone(), self.is_large());
        freeze::agree(&self.info.manifest.hooks, &cases, &fresh, &prepared, rehearsal)?;
        Ok(Ok(Ready { prepared: prepared.anew(), warnings, remarks: Vec::new(), configured_in }))
    }

    fn callable(&self, runtime: &Runtime, component: &[u8], run: &Run<'_>) -> Result<Callable, ModuleError> {
        Callable::of(runtime, &compile(&self.engine, runtime, component)?, run)
    }

    fn remembered(&self, key: &Key) -> Option<Ready> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, ready) = prepared.iter().find(|(known, _)| known == key)?;
        Some(Ready { prepared: ready.prepared.anew(), ..ready.clone() })
    }

    fn remember(&self, key: Key, ready: &Ready) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        // What no binding uses any more is dropped with its code.
        prepared.retain(|(_, ready)| ready.prepared.is_shared());
        prepared.truncate(MAX_REMEMBERED - 1);
        prepared.push((key, ready.clone()));
    }

    /// How many preparations it keeps for the next generation.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn runtime(&self) -> &Runtime {
        self.engine.runtime(self.size).expect("its engine was there when it was loaded")
    }

    fn draft_runtime(&self) -> &Runtime {
        self.engine.draft(self.size).expect("its engine was there when it was loaded")
    }

    fn rehearsal(&self, policy: &str, sets: &Arc<Sets>, memory_bytes: usize) -> Rehearsal {
        Rehearsal::new(policy, sets, load_limit(self.size), memory_bytes)
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("info", &self.info).field("size", &self.size).finish_non_exhaustive()
    }
}

/// SHA-256 of a module, lower-case hex.
pub fn digest(bytes: &[u8]) -> Arc<str> {
    Digest::of(bytes).to_hex().into()
}

fn load_limit(size: Size) -> Duration {
    match size {
        Size::Small => LOAD_LIMIT,
        Size::Large => LARGE_LOAD_LIMIT,
    }
}

/// An error and its cause on one line.
fn told(error: &ModuleError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn compile(engine: &Engine, runtime: &Runtime, bytes: &[u8]) -> Result<Component, ModuleError> {
    let kept = engine.cache().and_then(|cache| cache.get(runtime, bytes));
    let is_kept = kept.is_some();
    // The compiler reads bytes of strangers; a mistake in it must not end the gateway.
    let compile = || -> wasmtime::Result<Component> {
        let component = kept.map_or_else(|| Component::from_binary(&runtime.wasm, bytes), Ok)?;
        component.initialize_copy_on_write_image()?;
        Ok(component)
    };
    let compiled = catch_unwind(AssertUnwindSafe(compile));
    let compiled = compiled.map_err(|_| ModuleError::Panicked)?.map_err(ModuleError::Compile)?;
    if let Some(cache) = engine.cache().filter(|_| !is_kept) {
        cache.put(runtime, bytes, &compiled);
    }
    Ok(compiled)
}

/// A hook that we do not know would never be asked, so that its author would be protected by nothing.
fn check_exports(runtime: &Runtime, component: &Component) -> Result<(), ModuleError> {
    let (mut typed, mut dynamic) = (false, false);
    for (name, _) in component.component_type().exports(&runtime.wasm) {
        if !name.starts_with(contract::NAMESPACE) {
            continue;
        }
        match contract::plain_name(name) {
            Some("types" | "self-tests") => {}
            Some("dynamic") => dynamic = true,
            Some("manifest" | "configuration") => typed = true,
            Some(plain) if Hook::parse(plain).is_some() => typed = true,
            _ => return Err(ModuleError::UnknownHook { name: one_line(name, 256) }),
        }
    }
    if typed && dynamic { Err(ModuleError::BothLanes) } else { Ok(()) }
}

/// What a module imports is what its manifest says, so that who reads the manifest knows.
fn check_imports(contents: &Contents, manifest: &Manifest) -> Result<(), ModuleError> {
    let wanted = contents.imports.iter().filter_map(|name| imports::grant_for(contract::plain_name(name)?));
    let undeclared = wanted.filter(|grant| !manifest.capabilities.contains(grant)).min();
    undeclared.map_or(Ok(()), |grant| Err(ModuleError::Undeclared { grant: grant.as_str() }))
}

fn exported(callable: &Callable, manifest: &Manifest) -> Result<Vec<Hook>, ModuleError> {
    if manifest.hooks.is_empty() {
        return Err(ModuleError::NoHook);
    }
    if let Some(hook) = manifest.hooks.iter().find(|hook| !callable.exports(**hook)) {
        return Err(ModuleError::HookNotExported { hook: *hook });
    }
    Ok(match callable.lane() {
        Lane::Typed => Hook::ALL.into_iter().filter(|hook| callable.exports(*hook)).collect(),
        Lane::Dynamic => manifest.hooks.clone(),
    })
}

/// Refuses at load what would find no slot at call time.
fn check_resources(capacity: &Capacity, component: &Component) -> Result<(), ModuleError> {
    let needed = component.resources_required().ok_or(ModuleError::TooManyResources {
        what: "imported modules",
        needed: 1,
        max: 0,
    })?;
    let pages = needed.max_initial_memory_size.unwrap_or(0);
    for (what, needed, max) in [
        ("memories", needed.num_memories.into(), capacity.memories.into()),
        ("tables", needed.num_tables.into(), capacity.tables.into()),
        ("bytes of memory", pages.saturating_mul(WASM_PAGE_BYTES), capacity.memory_bytes as u64),
        ("table elements", needed.max_initial_table_size.unwrap_or(0), capacity.table_elements as u64),
    ] {
        if needed > max {
            return Err(ModuleError::TooManyResources { what, needed, max });
        }
    }
    Ok(())
}

fn describe(callable: &Callable, run: &Run<'_>) -> Result<(Manifest, Vec<Case>), ModuleError> {
    let _running = callable.clock.begin();
    let mut live = callable.start(run).map_err(ModuleError::Describe)?;
    let (info, cases) = callable.describe(&mut live, run).map_err(ModuleError::Describe)?;
    Ok((Manifest::check(info).map_err(ModuleError::Manifest)?, cases))
}
