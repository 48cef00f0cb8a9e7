//! From settings to policies in force: each binding goes through the same steps, in order, or every mistake is told
//! with the binding and the step that it was found at.
//!
//! | Step | What is done |
//! |---|---|
//! | read | the module's bytes are fetched; those in a registry were pulled before |
//! | digest | they are the ones that the operator means |
//! | signature | whoever has to vouch for them does |
//! | module | they are a policy: checked, compiled, described ([`super::module`]) |
//! | grants | the operator gives what the module wants of the host |
//! | schema | the configuration is as the module describes it |
//! | configure | the module accepts the configuration; it is frozen where it can be |
//! | self-tests | the module decides its own cases as it says |
//! | tests | the bound policy decides the operator's cases as they say |
//!
//! Then questions that were recorded are put to the new policies ([`super::replay`]), and the caller publishes the set by
//! one swap. A set is loaded whole or not at all. Loading blocks and belongs on a thread where that harms nobody. A module
//! whose bytes did not change is not compiled again, and one whose configuration did not change either is not frozen again.
//! What the file binds goes through no step where it stays what it is in force ([`OfFile`]).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use super::binary::MAX_MODULE_BYTES;
use super::bindings::{BoundPolicy, Notices, PolicySet};
use super::cases::MAX_CASES_BYTES;
use super::counters::Counters;
use super::decision::Hook;
use super::engine::Engine;
use super::load_error::{BindingError, LoadError, LoadErrors, Problem};
use super::module::{self, Module, ModuleError, ModuleInfo};
use super::of_file::OfFile;
use super::prepared::{Preparation, PrepareError, Ready};
use super::replay::{self, Changes, PastQuestion};
use super::schema::Schema;
use super::signature::{self, MAX_SIGNATURES_BYTES, SignatureFile};
use super::text::one_line;
use super::trial;
use crate::config::{Binding, Mode, ModuleSource, PolicySettings, Sets, Signatures, Upstream};
use crate::oci::{Artifact, Pulled, Reference};

/// Largest configuration of one binding, as JSON text.
const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Most problems or warnings of one `configure` that are kept.
const MAX_REMARKS: usize = 32;
const MAX_REMARK_BYTES: usize = 1 << 10;

/// What policies in force are made of.
pub struct Publication<'a> {
    pub settings: &'a PolicySettings,
    pub upstreams: &'a [Upstream],
    pub engine: &'a Engine,
    /// What policies count, whichever generation of them.
    pub counters: &'a Counters,
    /// The bytes of a module that comes with the binary.
    pub builtins: &'a dyn Fn(&str) -> Option<&'static [u8]>,
    /// What becomes of the bindings of the file.
    pub of_file: &'a OfFile,
    /// What the registries delivered, for every module that is in one.
    pub pulled: &'a Pulled,
    /// Modules of the store, by digest: every one that is named.
    pub uploaded: &'a Uploaded,
    /// Sets whose modules are used again where their bytes are the same.
    pub previous: &'a [&'a PolicySet],
    /// Recorded questions that are put to the new policies, newest first.
    pub recorded: &'a [PastQuestion],
    pub generation: u64,
}

/// Modules that operators uploaded, by the lower-case hex SHA-256 that they are named by.
pub type Uploaded = HashMap<String, UploadedModule>;

/// A module that operators uploaded.
#[derive(Clone, Debug)]
pub struct UploadedModule {
    pub module: Vec<u8>,
    /// What would stand in the file of signatures beside it.
    pub signatures: Option<String>,
}

/// Policies that can come into force.
#[derive(Debug)]
pub struct Published {
    pub policies: PolicySet,
    /// What they say of recorded questions. `None` where none was given.
    pub changes: Option<Changes>,
}

impl Publication<'_> {
    /// Takes every binding through all steps, or says everything that is wrong with them.
    pub fn run(&self) -> Result<Published, LoadErrors> {
        let mut modules = Modules::of(self.previous, self.engine);
        let mut bindings = Vec::with_capacity(self.settings.bindings.len());
        let mut errors = Vec::new();
        for binding in &self.settings.bindings {
            let bound = match self.of_file.standing(binding) {
                Some(standing) => Ok(standing),
                None => self.bind(binding, &mut modules),
            };
            match bound {
                Ok(bound) => bindings.push(bound),
                Err(error) => errors.push(BindingError { binding: Some(binding.name.clone()), error }),
            }
        }
        let components = different_modules(&bindings);
        if components > self.settings.max_components {
            let error = LoadError::TooManyComponents { components, max: self.settings.max_components };
            errors.push(BindingError { binding: None, error });
        }
        if !errors.is_empty() {
            return Err(LoadErrors(errors));
        }
        let policies = PolicySet::of(self.settings, bindings, self.upstreams, self.generation);
        let changes = (!self.recorded.is_empty()).then(|| replay::against(&policies, self.recorded));
        Ok(Published { policies, changes })
    }

    fn bind(&self, binding: &Binding, modules: &mut Modules) -> Result<BoundPolicy, LoadError> {
        check_match(binding)?;
        let bytes = self.fetch(binding)?;
        let digest = check_digest(binding, &bytes)?;
        let signed_by = self.check_signature(binding, &digest)?;
        let (module, is_known) = modules.get(self.engine, &digest, &bytes).map_err(|error| unusable(binding, error))?;
        check_grants(binding, &module)?;
        check_limits(binding, &module)?;
        let mut warnings = check_rewrites(binding, &module)?;
        let ready = accept_config(self.settings, binding, &module)?;
        warnings.extend(told(&ready.warnings));
        warnings.extend(slow_configuration(binding, &ready));
        warnings.extend(unasked_hooks(binding, &module));
        warnings.extend(idle_grants(binding, &module));
        // What was in force has passed them.
        if !is_known {
            trial::self_tests(&module, self.settings, binding).map_err(LoadError::SelfTests)?;
        }
        if let Some(path) = &binding.tests {
            let cases = read(path, MAX_CASES_BYTES).map_err(|source| LoadError::unreadable("cases", path, source))?;
            let prepared = ready.prepared.anew();
            trial::fixtures(&module, self.settings, binding, &prepared, &cases).map_err(LoadError::Tests)?;
        }
        let notices = Notices { warnings, remarks: told(&ready.remarks), signed_by };
        let counters = self.counters.of(&binding.name);
        Ok(BoundPolicy::new(binding.clone(), module, ready.prepared, counters, notices))
    }

    /// Step *read*.
    fn fetch(&self, binding: &Binding) -> Result<Cow<'_, [u8]>, LoadError> {
        match &binding.module {
            ModuleSource::File(path) => match read(path, MAX_MODULE_BYTES) {
                Ok(bytes) => Ok(bytes.into()),
                Err(source) => Err(LoadError::unreadable("module", path, source)),
            },
            ModuleSource::Builtin(name) => {
                (self.builtins)(name).map(Into::into).ok_or_else(|| LoadError::NoSuchBuiltin { name: name.clone() })
            }
            ModuleSource::Oci(reference) => self.artifact(reference).map(|artifact| (&*artifact.module).into()),
            ModuleSource::Uploaded(digest) => self.upload(digest).map(|upload| (&*upload.module).into()),
        }
    }

    fn upload(&self, digest: &str) -> Result<&UploadedModule, LoadError> {
        self.uploaded.get(digest).ok_or_else(|| LoadError::NotUploaded { digest: digest.to_owned() })
    }

    fn artifact(&self, reference: &Reference) -> Result<&Artifact, LoadError> {
        let not_pulled =
            |reason: &str| LoadError::NotPulled { module: reference.to_string(), reason: reason.to_owned() };
        match self.pulled.get(reference) {
            Some(Ok(artifact)) => Ok(artifact),
            Some(Err(reason)) => Err(not_pulled(reason)),
            None => Err(not_pulled("nobody asked the registry")),
        }
    }

    /// Step *signature*: the names of the trusted keys that signed the module.
    ///
    /// What comes with the binary is covered by whatever covers the binary.
    fn check_signature(&self, binding: &Binding, digest: &str) -> Result<Vec<String>, LoadError> {
        let (wanted, keys) = (self.settings.signatures, &self.settings.trusted_keys);
        if wanted == Signatures::Off {
            return Ok(Vec::new());
        }
        let text: Cow<'_, [u8]> = match &binding.module {
            ModuleSource::Builtin(_) => return Ok(Vec::new()),
            _ if keys.is_empty() => return Err(signature::SignatureError::NoTrustedKey.into()),
            ModuleSource::File(path) => signatures_beside(path)?.into(),
            ModuleSource::Oci(reference) => match &self.artifact(reference)?.signatures {
                Some(signatures) => (&**signatures).into(),
                None => return Err(signature::SignatureError::UnsignedArtifact.into()),
            },
            ModuleSource::Uploaded(named) => match &self.upload(named)?.signatures {
                Some(signatures) => signatures.as_bytes().into(),
                None => return Err(signature::SignatureError::UnsignedUpload.into()),
            },
        };
        Ok(SignatureFile::parse(&text)?.check(digest, wanted, keys)?)
    }
}

/// A module that somebody uploads: what there is to know of it, once whoever has to vouch for it does and it is a policy.
pub fn examine(engine: &Engine, settings: &PolicySettings, upload: &UploadedModule) -> Result<ModuleInfo, LoadError> {
    let (wanted, keys) = (settings.signatures, &settings.trusted_keys);
    let digest = module::digest(&upload.module);
    if wanted != Signatures::Off {
        if keys.is_empty() {
            return Err(signature::SignatureError::NoTrustedKey.into());
        }
        let text = upload.signatures.as_ref().ok_or(signature::SignatureError::UnsignedUpload)?;
        SignatureFile::parse(text.as_bytes())?.check(&digest, wanted, keys)?;
    } else if let Some(text) = &upload.signatures {
        SignatureFile::parse(text.as_bytes())?;
    }
    Ok(Module::load(engine, &upload.module)?.info().clone())
}

impl PolicySet {
    /// Loads every binding of `settings`, or says everything that is wrong with them: [`Publication::run`] for a set that
    /// stands alone.
    pub fn load(
        settings: &PolicySettings,
        upstreams: &[Upstream],
        engine: &Engine,
        builtins: &dyn Fn(&str) -> Option<&'static [u8]>,
        previous: Option<&Self>,
        generation: u64,
    ) -> Result<Self, LoadErrors> {
        let publication = Publication {
            settings,
            upstreams,
            engine,
            counters: &Counters::default(),
            builtins,
            of_file: &OfFile::Read,
            pulled: &Pulled::new(),
            uploaded: &Uploaded::new(),
            previous: previous.as_slice(),
            recorded: &[],
            generation,
        };
        publication.run().map(|published| published.policies)
    }
}

/// Compiled modules by the digest of their bytes.
struct Modules(HashMap<Arc<str>, Arc<Module>>);

impl Modules {
    fn of(previous: &[&PolicySet], engine: &Engine) -> Self {
        let modules = previous.iter().flat_map(|set| set.bindings()).map(BoundPolicy::loaded);
        let usable = modules.filter(|module| module.engine().is_same_as(engine));
        Self(usable.map(|module| (module.digest().clone(), module.clone())).collect())
    }

    /// The module of these bytes, and whether a set that is known has it.
    fn get(&mut self, engine: &Engine, digest: &Arc<str>, bytes: &[u8]) -> Result<(Arc<Module>, bool), ModuleError> {
        if let Some(module) = self.0.get(digest) {
            return Ok((module.clone(), true));
        }
        let module = Arc::new(Module::load(engine, bytes)?);
        self.0.insert(digest.clone(), module.clone());
        Ok((module, false))
    }
}

fn different_modules(bindings: &[BoundPolicy]) -> usize {
    bindings.iter().map(|bound| bound.loaded().digest()).collect::<HashSet<_>>().len()
}

/// A module that was read and is none: told with the file that it was read from.
fn unusable(binding: &Binding, error: ModuleError) -> LoadError {
    match binding.module.file() {
        Some(path) => LoadError::UnusableFile { path: path.to_owned(), source: error },
        None => error.into(),
    }
}

/// A binding that can match nothing would protect nothing.
fn check_match(binding: &Binding) -> Result<(), LoadError> {
    let matches = &binding.matches;
    if matches.upstreams.is_empty() || matches.tools.is_empty() || matches.items.is_empty() {
        return Err(LoadError::MatchesNothing);
    }
    Ok(())
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

/// Reads one byte more than may be, so that what is too large is seen to be.
fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Step *digest*.
fn check_digest(binding: &Binding, bytes: &[u8]) -> Result<Arc<str>, LoadError> {
    let found = module::digest(bytes);
    let mut named = binding.digest.as_deref().into_iter().chain(binding.module.uploaded());
    match named.find(|named| **named != *found) {
        Some(expected) => Err(LoadError::DigestMismatch { expected: expected.to_owned(), found: found.to_string() }),
        None => Ok(found),
    }
}

/// The signatures beside a file.
fn signatures_beside(module: &Path) -> Result<Vec<u8>, LoadError> {
    let beside = signature::file_beside(module);
    match read(&beside, MAX_SIGNATURES_BYTES) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = beside.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(signature::SignatureError::Unsigned { file }.into())
        }
        Err(source) => Err(LoadError::unreadable("signatures", &beside, source)),
    }
}

/// Step *grants*: what a module wants of the host is given to it, or it is refused by name.
fn check_grants(binding: &Binding, module: &Module) -> Result<(), LoadError> {
    let missing = module.manifest().missing_grants(&binding.grants);
    if missing.is_empty() { Ok(()) } else { Err(LoadError::NotGranted { missing }) }
}

fn check_limits(binding: &Binding, module: &Module) -> Result<(), LoadError> {
    let max = module.max_memory_bytes();
    if binding.memory_bytes > max {
        return Err(LoadError::TooMuchMemory { asked: binding.memory_bytes, max });
    }
    Ok(())
}

/// The module's own wish to rewrite and the operator's leave to do so are two things.
fn check_rewrites(binding: &Binding, module: &Module) -> Result<Vec<String>, LoadError> {
    match (binding.allow_rewrite, module.manifest().mutates(Hook::ToolCall)) {
        (true, false) => Err(LoadError::NeverRewrites),
        (false, true) => Ok(vec![
            "it may want to rewrite arguments, which this binding does not allow (allow_rewrite): \
             a call that it wants to change will be refused"
                .to_owned(),
        ]),
        (true, true) | (false, false) => Ok(Vec::new()),
    }
}

/// Steps *schema* and *configure*: what comes of the configuration.
pub(super) fn accept_config(settings: &PolicySettings, binding: &Binding, module: &Module) -> Result<Ready, LoadError> {
    let config = config_text(&binding.config)?;
    check_schema(binding, module)?;
    configure(settings, binding, module, &config)
}

/// Step *schema*.
fn check_schema(binding: &Binding, module: &Module) -> Result<(), LoadError> {
    let schema = Schema::read(module.manifest().config_schema.get())
        .map_err(|error| LoadError::SchemaUnusable { problem: error.to_string() })?;
    let problem = |violation: super::schema::Violation| Problem {
        line: binding.line_of(&violation.pointer),
        path: violation.pointer,
        message: violation.message,
    };
    let problems: Vec<Problem> = schema.violations(&binding.config).into_iter().map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(LoadError::DoesNotFit(problems)) }
}

/// The same for a few questions aside: what answers them was compiled in a hurry, and nothing is frozen.
pub(super) fn draft_config(sets: &Arc<Sets>, binding: &Binding, module: &Module) -> Result<Ready, LoadError> {
    let config = config_text(&binding.config)?;
    check_schema(binding, module)?;
    module.draft(&preparation(sets, binding, &config)).map_err(|error| not_configured(binding, error))
}

fn preparation<'a>(sets: &'a Arc<Sets>, binding: &'a Binding, config: &'a Arc<str>) -> Preparation<'a> {
    let (memory_bytes, reuse) = (binding.memory_bytes, binding.reuse);
    Preparation { policy: binding.name.as_str(), config, memory_bytes, reuse, sets }
}

/// Step *configure*.
fn configure(
    settings: &PolicySettings,
    binding: &Binding,
    module: &Module,
    config: &Arc<str>,
) -> Result<Ready, LoadError> {
    module.prepare(&preparation(&settings.sets, binding, config)).map_err(|error| not_configured(binding, error))
}

fn not_configured(binding: &Binding, error: PrepareError) -> LoadError {
    match error {
        PrepareError::Refused(problems) => {
            let problem = |problem: &super::contract::manifest::Problem| Problem {
                line: binding.line_of(&problem.path),
                path: one_line(&problem.path, MAX_REMARK_BYTES),
                message: one_line(&problem.message, MAX_REMARK_BYTES),
            };
            LoadError::Refused(problems.iter().take(MAX_REMARKS).map(problem).collect())
        }
        PrepareError::Failed(failure) => LoadError::ConfigureFailed(failure),
        PrepareError::CannotFreeze { reason } => LoadError::CannotFreeze { reason },
        PrepareError::WarmIsForLargeModules => LoadError::WarmIsForLargeModules,
    }
}

fn told(remarks: &[String]) -> Vec<String> {
    remarks.iter().take(MAX_REMARKS).map(|remark| one_line(remark, MAX_REMARK_BYTES)).collect()
}

/// Of a policy that is configured anew for each call.
fn slow_configuration(binding: &Binding, ready: &Ready) -> Option<String> {
    use super::prepared::InstanceMode;
    let took = ready.configured_in;
    (ready.prepared.mode() == InstanceMode::Fresh && took >= binding.time).then(|| {
        format!(
            "configuring it took {} ms, and each call has {} ms for that and its hook",
            took.as_millis(),
            binding.time.as_millis()
        )
    })
}

/// What is granted and not wanted would come into use with the module's next version, unnoticed.
fn idle_grants(binding: &Binding, module: &Module) -> Vec<String> {
    let wanted = &module.manifest().capabilities;
    let idle = binding.grants.iter().filter(|grant| !wanted.contains(grant));
    idle.map(|grant| format!("it is granted {}, which it does not want", grant.as_str())).collect()
}

fn unasked_hooks(binding: &Binding, module: &Module) -> Vec<String> {
    let info = module.info();
    let unnamed = info.exported.iter().filter(|hook| !info.manifest.hooks.contains(hook));
    let mut warnings: Vec<String> = unnamed
        .map(|hook| format!("it exports {hook}, but its manifest does not name that hook: it is not asked there"))
        .collect();
    if let Some(hooks) = &binding.matches.hooks {
        let none = hooks.iter().filter(|name| !info.manifest.hooks.iter().any(|hook| hook.as_str() == **name));
        warnings.extend(none.map(|name| format!("match.hooks names {name}, which the module does not have")));
        if binding.mode != Mode::Off && !info.manifest.hooks.iter().any(|hook| hooks.contains(&hook.as_str())) {
            warnings.push("none of its hooks is among match.hooks, so that it is never asked".to_owned());
        }
    }
    warnings
}
