//! The policies in force: which module, with which configuration, is asked about which tools.
//!
//! A set is loaded whole or not at all, is immutable from then on, and is swapped whole; requests in flight keep
//! the set that they began with. Loading blocks. A module whose bytes did not change is not compiled again.
//!
//! Of the policies that are asked about a call, those that may rewrite its arguments come first and the others
//! see what became of them; within each group the order is the operator's.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::binary::MAX_MODULE_BYTES;
use super::decision::{Failure, Hook};
use super::engine::{Engine, MAX_MEMORY_BYTES};
use super::instance::Prepared;
use super::manifest::Disclosure;
use super::module::{self, Module, ModuleError, ModuleInfo};
use super::text::one_line;
use crate::config::{Binding, ModuleSource, PolicySettings, Upstream, WhenAllAbstain};
use crate::ids::{BindingName, UpstreamName};
use crate::upstream::catalog::Tool;

/// Largest configuration of one binding, as JSON text.
const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Most problems or warnings of one `configure` that are kept.
const MAX_REMARKS: usize = 32;
const MAX_REMARK_BYTES: usize = 1 << 10;
/// Failures in a row after which a binding counts as degraded.
const DEGRADED_AFTER: u32 = 5;

/// All bindings of one generation.
#[derive(Debug)]
pub struct PolicySet {
    generation: u64,
    pub(super) when_all_abstain: WhenAllAbstain,
    /// In the operator's order.
    bindings: Vec<BoundPolicy>,
    /// For each hook the bindings that are asked, whatever the upstream.
    all: ByHook,
    upstreams: HashMap<UpstreamName, KnownUpstream>,
}

/// For each hook, positions in `PolicySet::bindings` in the order in which they are asked.
type ByHook = [Vec<usize>; Hook::ALL.len()];

/// What the operator says of an upstream, and the bindings that can concern it.
#[derive(Debug)]
struct KnownUpstream {
    trust: String,
    labels: Vec<String>,
    bindings: ByHook,
}

impl PolicySet {
    /// Loads every binding of `settings`, or says everything that is wrong with them.
    ///
    /// `builtins` gives the bytes of a module that comes with the binary. Modules that `previous` has compiled
    /// from the same bytes are taken from there.
    pub fn load(
        settings: &PolicySettings,
        upstreams: &[Upstream],
        engine: &Engine,
        builtins: &dyn Fn(&str) -> Option<&'static [u8]>,
        previous: Option<&Self>,
        generation: u64,
    ) -> Result<Self, LoadErrors> {
        let mut modules = Modules::of(previous, engine);
        let mut bindings = Vec::with_capacity(settings.bindings.len());
        let mut errors = Vec::new();
        for binding in &settings.bindings {
            match BoundPolicy::load(binding, &mut modules, engine, builtins) {
                Ok(bound) => bindings.push(bound),
                Err(error) => errors.push(BindingError { binding: Some(binding.name.clone()), error }),
            }
        }
        let components = modules.in_use(&bindings);
        if components > settings.max_components {
            let error = LoadError::TooManyComponents { components, max: settings.max_components };
            errors.push(BindingError { binding: None, error });
        }
        if !errors.is_empty() {
            return Err(LoadErrors(errors));
        }
        let all = by_hook(&bindings, |_| true);
        let upstreams = upstreams.iter().map(|upstream| {
            let concerns = |bound: &BoundPolicy| bound.concerns(&upstream.name);
            let known = KnownUpstream {
                trust: upstream.trust.clone(),
                labels: upstream.labels.clone(),
                bindings: by_hook(&bindings, concerns),
            };
            (upstream.name.clone(), known)
        });
        let upstreams = upstreams.collect();
        Ok(Self { generation, when_all_abstain: settings.when_all_abstain, bindings, all, upstreams })
    }

    /// Counts up with each set that comes into force.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The bindings in the operator's order.
    pub fn bindings(&self) -> &[BoundPolicy] {
        &self.bindings
    }

    /// The bindings that are asked about `tool`, in order.
    pub(super) fn asked<'a>(&'a self, hook: Hook, tool: &'a Tool) -> impl Iterator<Item = &'a BoundPolicy> {
        let candidates = self.candidates(hook, &tool.upstream).iter();
        candidates.map(|position| &self.bindings[*position]).filter(|bound| bound.matches(tool))
    }

    /// The bindings that are asked about some tool of `hook`, in order.
    pub(super) fn asked_at_all(&self, hook: Hook) -> impl Iterator<Item = &BoundPolicy> {
        self.all[hook as usize].iter().map(|position| &self.bindings[*position])
    }

    /// The operator's trust label and labels of an upstream.
    pub(super) fn facts(&self, upstream: &UpstreamName) -> (&str, &[String]) {
        self.upstreams.get(upstream).map_or(("", &[]), |known| (&known.trust, &known.labels))
    }

    fn candidates(&self, hook: Hook, upstream: &UpstreamName) -> &[usize] {
        let by_hook = self.upstreams.get(upstream).map_or(&self.all, |known| &known.bindings);
        &by_hook[hook as usize]
    }
}

fn by_hook(bindings: &[BoundPolicy], concerned: impl Fn(&BoundPolicy) -> bool) -> ByHook {
    Hook::ALL.map(|hook| {
        let of_hook = (0..bindings.len())
            .filter(|position| bindings[*position].is_asked_for(hook) && concerned(&bindings[*position]));
        let (mut first, then): (Vec<usize>, Vec<usize>) =
            of_hook.partition(|position| hook == Hook::ToolCall && bindings[*position].may_rewrite());
        first.extend(then);
        first
    })
}

/// One binding with its module, ready to be asked.
#[derive(Debug)]
pub struct BoundPolicy {
    binding: Binding,
    /// The binding's name, as calls carry it.
    pub(super) name: Arc<str>,
    module: Arc<Module>,
    pub(super) prepared: Prepared,
    warnings: Vec<String>,
    health: Health,
}

impl BoundPolicy {
    fn load(
        binding: &Binding,
        modules: &mut Modules,
        engine: &Engine,
        builtins: &dyn Fn(&str) -> Option<&'static [u8]>,
    ) -> Result<Self, LoadError> {
        if binding.upstreams.is_empty() || binding.tools.is_empty() {
            return Err(LoadError::MatchesNothing);
        }
        if binding.memory_bytes > MAX_MEMORY_BYTES {
            return Err(LoadError::TooMuchMemory { asked: binding.memory_bytes });
        }
        let config = config_text(&binding.config)?;
        let module = match &binding.module {
            ModuleSource::File(path) => modules.get(engine, &read(path)?, binding.digest.as_deref())?,
            ModuleSource::Builtin(name) => {
                let bytes = builtins(name).ok_or_else(|| LoadError::NoSuchBuiltin { name: name.clone() })?;
                modules.get(engine, bytes, binding.digest.as_deref())?
            }
        };
        let rewrites = module.manifest().mutates(Hook::ToolCall);
        if binding.allow_rewrite && !rewrites {
            return Err(LoadError::NeverRewrites);
        }
        let mut warnings = configure(&module, binding, &config)?;
        if rewrites && !binding.allow_rewrite {
            warnings.push(
                "it may want to rewrite arguments, which this binding does not allow (allow_rewrite): \
                 a call that it wants to change will be refused"
                    .to_owned(),
            );
        }
        let info = module.info();
        for hook in info.exported.iter().filter(|hook| !info.manifest.hooks.contains(hook)) {
            warnings
                .push(format!("it exports {hook}, but its manifest does not name that hook: it is not asked there"));
        }
        let prepared = Prepared { callable: module.callable().clone(), config };
        let name = binding.name.as_str().into();
        Ok(Self { binding: binding.clone(), name, module, prepared, warnings, health: Health::default() })
    }

    pub fn name(&self) -> &BindingName {
        &self.binding.name
    }

    /// What the operator wrote.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    pub fn module(&self) -> &ModuleInfo {
        self.module.info()
    }

    /// What `configure` and the gateway have to say about this binding.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Whether it is asked for this hook about some tool.
    pub fn is_asked_for(&self, hook: Hook) -> bool {
        self.module.manifest().hooks.contains(&hook)
    }

    /// Whether the module wants to rewrite arguments and the operator lets it.
    pub fn may_rewrite(&self) -> bool {
        self.binding.allow_rewrite && self.module.manifest().mutates(Hook::ToolCall)
    }

    fn concerns(&self, upstream: &UpstreamName) -> bool {
        self.binding.upstreams.iter().any(|pattern| pattern.matches(upstream.as_str()))
    }

    pub(super) fn disclosure(&self, hook: Hook) -> Disclosure {
        self.module.manifest().disclosure(hook)
    }

    /// Whether the module says that it changes what passes this hook.
    pub(super) fn mutates(&self, hook: Hook) -> bool {
        self.module.manifest().mutates(hook)
    }

    pub(super) fn matches(&self, tool: &Tool) -> bool {
        self.concerns(&tool.upstream) && self.binding.tools.iter().any(|pattern| pattern.matches(&tool.name))
    }
}

/// How a binding has fared since it was loaded.
#[derive(Debug, Default)]
pub struct Health {
    failures: AtomicU64,
    in_a_row: AtomicU32,
}

impl Health {
    /// Runs that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether its last runs all failed. It goes on being asked, and its failures go on refusing.
    pub fn is_degraded(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) >= DEGRADED_AFTER
    }

    pub(super) fn succeeded(&self) {
        // Almost always it is zero already, and then the cache line stays shared.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure; true when it is the one that makes the binding degraded.
    pub(super) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let before = self.in_a_row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
        before == Ok(DEGRADED_AFTER - 1)
    }
}

/// Compiled modules by the digest of their bytes.
struct Modules(HashMap<Arc<str>, Arc<Module>>);

impl Modules {
    fn of(previous: Option<&PolicySet>, engine: &Engine) -> Self {
        let modules = previous.into_iter().flat_map(|set| &set.bindings).map(|bound| &bound.module);
        let usable = modules.filter(|module| module.engine().is_same_as(engine));
        Self(usable.map(|module| (module.digest().clone(), module.clone())).collect())
    }

    fn get(&mut self, engine: &Engine, bytes: &[u8], expected: Option<&str>) -> Result<Arc<Module>, LoadError> {
        let found = module::digest(bytes);
        if let Some(expected) = expected.filter(|expected| *expected != &*found) {
            return Err(LoadError::DigestMismatch { expected: expected.to_owned(), found: found.to_string() });
        }
        if let Some(module) = self.0.get(&found) {
            return Ok(module.clone());
        }
        let module = Arc::new(Module::load(engine, bytes)?);
        self.0.insert(found, module.clone());
        Ok(module)
    }

    fn in_use(&self, bindings: &[BoundPolicy]) -> usize {
        let used = |module: &&Arc<Module>| bindings.iter().any(|bound| Arc::ptr_eq(&bound.module, module));
        self.0.values().filter(used).count()
    }
}

/// Tries the configuration and returns the warnings about it.
fn configure(module: &Module, binding: &Binding, config: &str) -> Result<Vec<String>, LoadError> {
    let run = module::load_run(binding.name.as_str(), binding.memory_bytes);
    let begun = Instant::now();
    let configured = module.configure(config, &run).map_err(LoadError::ConfigureFailed)?;
    let took = begun.elapsed();
    let warnings = configured.map_err(|problems| {
        let problems = problems.iter().take(MAX_REMARKS).map(|problem| Problem {
            path: one_line(&problem.path, MAX_REMARK_BYTES),
            message: one_line(&problem.message, MAX_REMARK_BYTES),
        });
        LoadError::Refused(problems.collect())
    })?;
    let mut warnings: Vec<String> =
        warnings.iter().take(MAX_REMARKS).map(|warning| one_line(warning, MAX_REMARK_BYTES)).collect();
    if took >= binding.time {
        warnings.push(format!(
            "configuring it took {} ms, and each call has {} ms for that and its hook",
            took.as_millis(),
            binding.time.as_millis()
        ));
    }
    Ok(warnings)
}

fn config_text(config: &serde_json::Value) -> Result<Arc<str>, LoadError> {
    if !config.is_object() {
        return Err(LoadError::ConfigNoObject);
    }
    let text = config.to_string();
    if text.len() > MAX_CONFIG_BYTES {
        return Err(LoadError::ConfigTooLarge { bytes: text.len() });
    }
    Ok(text.into())
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One byte more than may be, so that what is too large is seen to be.
    let limit = MAX_MODULE_BYTES as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    Ok(bytes)
}

/// Everything that is wrong with a set.
#[derive(Debug, thiserror::Error)]
pub struct LoadErrors(pub Vec<BindingError>);

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// What is wrong with one binding, or with all of them together.
#[derive(Debug, thiserror::Error)]
pub struct BindingError {
    pub binding: Option<BindingName>,
    pub error: LoadError,
}

impl fmt::Display for BindingError {
    /// The whole story on one line, since a set has many of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.binding {
            Some(binding) => write!(f, "policy {binding}: {}", self.error)?,
            None => write!(f, "policies: {}", self.error)?,
        }
        let mut source = std::error::Error::source(&self.error);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// Why a binding cannot come into force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the module {} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no builtin policy {name:?}")]
    NoSuchBuiltin { name: String },
    #[error("the module's SHA-256 is {found}, and not {expected}")]
    DigestMismatch { expected: String, found: String },
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("its configuration is no JSON object")]
    ConfigNoObject,
    #[error("its configuration has {bytes} bytes, more than {MAX_CONFIG_BYTES}")]
    ConfigTooLarge { bytes: usize },
    #[error("it refuses its configuration: {}", list(.0))]
    Refused(Vec<Problem>),
    #[error("it fails on its configuration")]
    ConfigureFailed(#[source] Failure),
    #[error("allow_rewrite is set, but the module never rewrites arguments")]
    NeverRewrites,
    #[error("it may have {asked} bytes of memory, more than {MAX_MEMORY_BYTES}")]
    TooMuchMemory { asked: usize },
    #[error("it matches nothing: its list of upstreams or of tools is empty")]
    MatchesNothing,
    #[error("there are {components} different modules, more than max_components = {max}")]
    TooManyComponents { components: usize, max: usize },
}

/// One reason why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// RFC 6901 pointer into the configuration.
    pub path: String,
    pub message: String,
}

fn list(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return "no reason given".to_owned();
    }
    let one = |problem: &Problem| match problem.path.as_str() {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    };
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}
