//! `[policy]`, `[sets]` and `[[policies]]`, resolved: which policies apply, to what, and how.
//!
//! Hooks are names here, out of [`HOOKS`]: what they mean is known to [`crate::policy`] alone, which has a test that
//! both lists agree.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::places::Lines;
use super::raw::defaults;
use super::sets::Sets;
use super::value;
use crate::glob::Glob;
use crate::identity::key::ManagedBy;
use crate::ids::BindingName;
use crate::oci;

/// The hooks of the contract, in its order.
pub const HOOKS: [&str; 11] = [
    "grant",
    "refresh",
    "client",
    "credential",
    "list-tools",
    "list-items",
    "tool-call",
    "tool-result",
    "item-access",
    "item-result",
    "server-request",
];

/// Which policies apply, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySettings {
    /// What happens where policies are bound to a hook and all of them abstain.
    pub when_all_abstain: WhenAllAbstain,
    /// Policy components kept ready at once.
    pub max_components: usize,
    /// Whether decisions are recorded with their full inputs, sealed.
    pub record: bool,
    /// Recorded decisions that are decided again before new policies come into force.
    pub replay: usize,
    /// Whose signatures a module needs.
    pub signatures: Signatures,
    /// In the order of the file.
    pub trusted_keys: Vec<TrustedKey>,
    /// The lists that policies may look things up in.
    pub sets: Arc<Sets>,
    /// In the order in which they are asked: by `priority`, then as written. Those that are off are among them.
    pub bindings: Vec<Binding>,
}

impl PolicySettings {
    /// Whether there is a binding of this name.
    pub fn binds(&self, name: &BindingName) -> bool {
        self.bindings.iter().any(|binding| binding.name == *name)
    }

    /// The modules that have to be pulled.
    pub fn references(&self) -> impl Iterator<Item = oci::Reference> {
        self.bindings.iter().filter_map(|binding| binding.module.reference().cloned())
    }

    /// The digests of the modules that have to be in the store.
    pub fn uploaded(&self) -> impl Iterator<Item = &str> {
        self.bindings.iter().filter_map(|binding| binding.module.uploaded())
    }

    /// The same with more bindings, each in its place among the others.
    #[must_use]
    pub fn with(mut self, more: impl IntoIterator<Item = Binding>) -> Self {
        self.bindings.extend(more);
        // Stable: of one priority, those of the file come first.
        self.bindings.sort_by_key(|binding| binding.priority);
        self
    }
}

impl Default for PolicySettings {
    /// What holds where the file says nothing.
    fn default() -> Self {
        let count = |default: i64| usize::try_from(default).expect("default counts are counts");
        Self {
            when_all_abstain: WhenAllAbstain::Deny,
            max_components: count(defaults::MAX_COMPONENTS),
            record: false,
            replay: count(defaults::REPLAY),
            signatures: Signatures::Off,
            trusted_keys: Vec::new(),
            sets: Arc::default(),
            bindings: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllAbstain {
    Deny,
    Allow,
}

/// Whose signatures a module needs before it is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signatures {
    /// Nobody's.
    #[default]
    Off,
    /// That of one trusted key.
    Any,
    /// Those of all trusted keys.
    All,
}

/// A key whose signatures of modules count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    /// For messages; the key's own text where the operator gave it no name.
    pub name: String,
    /// Ed25519 public key (RFC 8032 §5.1.5).
    pub key: [u8; 32],
}

/// One use of one policy module.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    pub name: BindingName,
    pub module: ModuleSource,
    /// Lower-case hex SHA-256 that the module must have.
    pub digest: Option<String>,
    /// A JSON object, handed to `configure`.
    pub config: serde_json::Value,
    /// Where the members of `config` stand in the file.
    pub config_lines: Lines,
    /// What the policy is asked about.
    pub matches: Match,
    pub priority: i32,
    pub mode: Mode,
    /// Whether a failure of the policy counts as abstaining rather than as a denial.
    pub advisory: bool,
    /// Whether the policy may change arguments.
    pub allow_rewrite: bool,
    /// Host interfaces that the policy gets if it wants them.
    pub grants: Vec<Grant>,
    /// Longest run of one hook, in processor time.
    pub time: Duration,
    /// Memory of one instance, in bytes.
    pub memory_bytes: usize,
    pub reuse: Reuse,
    /// Cases that the policy must pass before it comes into force: a JSON list.
    pub tests: Option<PathBuf>,
    /// Where it is declared.
    pub managed_by: ManagedBy,
}

impl Binding {
    /// A binding to everything, with defaults for all that a file could say.
    pub fn new(name: BindingName, module: ModuleSource) -> Self {
        Self {
            name,
            module,
            digest: None,
            config: serde_json::Value::Object(serde_json::Map::new()),
            config_lines: Lines::default(),
            matches: Match::default(),
            priority: i32::try_from(defaults::PRIORITY).expect("the default priority is a priority"),
            mode: Mode::default(),
            advisory: false,
            allow_rewrite: false,
            grants: Vec::new(),
            time: value::duration(defaults::POLICY_TIME).expect("default durations are durations"),
            memory_bytes: value::size_of(defaults::POLICY_MEMORY).expect("default sizes are sizes"),
            reuse: Reuse::default(),
            tests: None,
            managed_by: ManagedBy::File,
        }
    }

    /// The line of the file that an RFC 6901 pointer into `config` leads to, or that of the nearest thing around it.
    /// `None` where the binding is from no file.
    pub fn line_of(&self, pointer: &str) -> Option<usize> {
        self.config_lines.of(pointer)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleSource {
    /// A component or core module, watched for changes.
    File(PathBuf),
    /// A default policy that comes with the binary, such as `allow-tools`.
    Builtin(String),
    /// A module in a registry, pulled once and never changing.
    Oci(oci::Reference),
    /// A module that operators uploaded, by its SHA-256 in lower-case hex.
    Uploaded(String),
}

impl ModuleSource {
    /// The file that it is, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Builtin(_) | Self::Oci(_) | Self::Uploaded(_) => None,
        }
    }

    /// What has to be pulled for it, if anything.
    pub fn reference(&self) -> Option<&oci::Reference> {
        match self {
            Self::Oci(reference) => Some(reference),
            Self::File(_) | Self::Builtin(_) | Self::Uploaded(_) => None,
        }
    }

    /// The digest of the module that has to be in the store, if any.
    pub fn uploaded(&self) -> Option<&str> {
        match self {
            Self::Uploaded(digest) => Some(digest),
            Self::File(_) | Self::Builtin(_) | Self::Oci(_) => None,
        }
    }
}

/// As a binding's `module` has it, but for paths, which are absolute.
impl fmt::Display for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::Oci(reference) => reference.fmt(f),
            Self::Uploaded(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

/// What a policy is asked about: all that is said here must hold, and of a list of patterns one must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Names out of [`HOOKS`]; without them, all hooks of the module.
    pub hooks: Option<Vec<&'static str>>,
    /// Where nothing concerns a single upstream, as when a client registers, they do not matter.
    pub upstreams: Vec<Glob>,
    /// Patterns over the upstreams' own tool names, for hooks that concern a tool.
    pub tools: Vec<Glob>,
    /// Patterns over the upstreams' own URIs and names, for hooks that concern a resource, a prompt or a task.
    pub items: Vec<Glob>,
    /// Hints that a tool must all have, for hooks that concern a tool.
    pub hints: Vec<Hint>,
    /// Patterns over principals, such as `key:ci`.
    pub principals: Vec<Glob>,
    /// Patterns over groups; without them, callers with and without groups.
    pub groups: Option<Vec<Glob>>,
    /// Patterns over OAuth client ids. A caller that uses a virtual key directly has the empty one.
    pub clients: Vec<Glob>,
}

impl Default for Match {
    /// Everything.
    fn default() -> Self {
        let any = || vec![Glob::any()];
        Self {
            hooks: None,
            upstreams: any(),
            tools: any(),
            items: any(),
            hints: Vec::new(),
            principals: any(),
            groups: None,
            clients: any(),
        }
    }
}

/// Whether the answers of a policy count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Enforce,
    /// It is asked afterwards, and its answers are only written down.
    Shadow,
    /// It is not asked.
    Off,
}

/// Whether and how the memory of a policy lives on between calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Frozen where the module can be, else fresh.
    #[default]
    Auto,
    /// Configured once; each call gets a copy of that state.
    Frozen,
    /// Each call begins with an empty memory and `configure`.
    Fresh,
    /// Instances are used again, a limited number of times. For large modules only.
    Warm,
}

/// Enums that have a word for each of their values.
macro_rules! words {
    ($($(#[$doc:meta])* $type:ident { $($variant:ident = $word:literal,)* })*) => {$(
        impl $type {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it in a configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    )*};
}

/// What a tool's annotations, or the gateway's own memory of it, say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    ReadOnly,
    Destructive,
    Idempotent,
    OpenWorld,
    /// The tool was not there when its upstream was first seen, and no operator has accepted it since.
    FirstSeen,
    /// Its definition is another one than was accepted.
    Changed,
}

/// A host interface that an operator can give to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    Clock,
    Random,
    Counters,
    Sets,
}

words! {
    Hint {
        ReadOnly = "read-only",
        Destructive = "destructive",
        Idempotent = "idempotent",
        OpenWorld = "open-world",
        FirstSeen = "first-seen",
        Changed = "changed",
    }
    Grant {
        Clock = "clock",
        Random = "random",
        Counters = "counters",
        Sets = "sets",
    }
    Mode {
        Enforce = "enforce",
        Shadow = "shadow",
        Off = "off",
    }
    Reuse {
        Auto = "auto",
        Frozen = "frozen",
        Fresh = "fresh",
        Warm = "warm",
    }
    Signatures {
        Off = "off",
        Any = "any",
        All = "all",
    }
    WhenAllAbstain {
        Deny = "deny",
        Allow = "allow",
    }
}
