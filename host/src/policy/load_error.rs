//! Why policies cannot come into force: which binding, at which step, why, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::decision::Failure;
use super::module::ModuleError;
use super::signature::SignatureError;
use super::trial::TrialError;
use crate::config::Grant;
use crate::ids::BindingName;

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
            Some(binding) => write!(f, "policy {binding}: {}: {}", self.error.step(), self.error)?,
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
    #[error("the {what} {} cannot be read", path.display())]
    Unreadable {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no builtin policy {name:?}")]
    NoSuchBuiltin { name: String },
    #[error("there is no uploaded module sha256:{digest}")]
    NotUploaded { digest: String },
    #[error("{0}")]
    Definition(String),
    #[error("the store has a binding of this name as well: call one of them something else")]
    NameTaken,
    #[error("{module} cannot be pulled: {reason}")]
    NotPulled { module: String, reason: String },
    #[error("the module's SHA-256 is {found}, and not {expected}")]
    DigestMismatch { expected: String, found: String },
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("the module {} cannot be used", path.display())]
    UnusableFile {
        path: PathBuf,
        #[source]
        source: ModuleError,
    },
    #[error(
        "it wants {}, which the binding does not grant; if it should have that, write grants = [{}]",
        names(missing).join(" and "),
        names(missing).iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
    )]
    NotGranted { missing: Vec<Grant> },
    #[error("it may have {asked} bytes of memory, more than the {max} that are possible for it")]
    TooMuchMemory { asked: usize, max: usize },
    #[error("allow_rewrite is set, but the module never rewrites arguments")]
    NeverRewrites,
    #[error("it matches nothing: its list of upstreams, of tools or of items is empty")]
    MatchesNothing,
    #[error("its configuration is no JSON object")]
    ConfigNoObject,
    #[error("its configuration has {bytes} bytes, which is too much")]
    ConfigTooLarge { bytes: usize },
    #[error("the schema of its configuration cannot be used: {problem}")]
    SchemaUnusable { problem: String },
    #[error("its configuration is not as its schema says: {}", list(.0))]
    DoesNotFit(Vec<Problem>),
    #[error("it refuses its configuration: {}", list(.0))]
    Refused(Vec<Problem>),
    #[error("it fails on its configuration")]
    ConfigureFailed(#[source] Failure),
    #[error("it cannot be frozen: {reason}; reuse = \"auto\" configures it anew for each call")]
    CannotFreeze { reason: String },
    #[error("reuse = \"warm\" is for modules that are too large to start anew for each call")]
    WarmIsForLargeModules,
    #[error("{0}")]
    SelfTests(TrialError),
    #[error("{0}")]
    Tests(TrialError),
    #[error("there are {components} different modules, more than max_components = {max}")]
    TooManyComponents { components: usize, max: usize },
}

impl LoadError {
    pub(super) fn unreadable(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Unreadable { what, path: path.to_owned(), source }
    }

    /// At which step of publishing it was found.
    pub const fn step(&self) -> &'static str {
        match self {
            Self::MatchesNothing
            | Self::Definition(_)
            | Self::NameTaken
            | Self::TooMuchMemory { .. }
            | Self::NeverRewrites
            | Self::TooManyComponents { .. } => "settings",
            Self::Unreadable { what, .. } => match what.as_bytes() {
                b"cases" => "tests",
                b"signatures" => "signature",
                _ => "read",
            },
            Self::NoSuchBuiltin { .. } | Self::NotUploaded { .. } | Self::NotPulled { .. } => "read",
            Self::DigestMismatch { .. } => "digest",
            Self::Signature(_) => "signature",
            Self::Module(_) | Self::UnusableFile { .. } => "module",
            Self::NotGranted { .. } => "grants",
            Self::ConfigNoObject | Self::ConfigTooLarge { .. } | Self::SchemaUnusable { .. } | Self::DoesNotFit(_) => {
                "schema"
            }
            Self::Refused(_) | Self::ConfigureFailed(_) | Self::CannotFreeze { .. } | Self::WarmIsForLargeModules => {
                "configure"
            }
            Self::SelfTests(_) => "self-tests",
            Self::Tests(_) => "tests",
        }
    }
}

/// One reason why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// RFC 6901 pointer into the configuration.
    pub path: String,
    pub message: String,
    /// Line of the configuration file.
    pub line: Option<usize>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, message, line } = self;
        match (path.as_str(), line) {
            ("", None) => f.write_str(message),
            ("", Some(line)) => write!(f, "line {line}: {message}"),
            (path, None) => write!(f, "{path}: {message}"),
            (path, Some(line)) => write!(f, "{path} (line {line}): {message}"),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return "no reason given".to_owned();
    }
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn names(grants: &[Grant]) -> Vec<&'static str> {
    grants.iter().map(|grant| grant.as_str()).collect()
}
