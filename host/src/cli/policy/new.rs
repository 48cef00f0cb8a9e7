//! A policy to begin with, in the language of one's choice.
//!
//! The templates are the folders of `examples/policies`, which are built and tested there; only what differs outside of this
//! repository is written here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use super::super::print;

/// Where the SDK for Rust is, for those who have no copy of it.
const SDK_REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Write a policy to begin with into a new directory.
#[derive(clap::Args)]
pub(in crate::cli) struct New {
    /// The language that it is written in. CEL and Rego need no tools: their rules are configuration.
    #[arg(long, value_enum)]
    lang: Language,
    /// For Rust: a copy of the SDK, instead of the one in the repository.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// The directory.
    #[arg(default_value = "policy")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    C,
    Zig,
    #[value(name = "assemblyscript")]
    AssemblyScript,
    #[value(name = "javascript")]
    JavaScript,
    #[value(name = "typescript")]
    TypeScript,
    Python,
    Go,
    Wat,
    Cel,
    Rego,
}

/// A file of a template, by its path in the new directory.
type File = (&'static str, &'static str);

/// Files of a folder of `examples/policies`.
macro_rules! example {
    ($folder:literal: $($file:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("../../../../examples/policies/", $folder, "/", $file)))),*]
    };
}

/// The contract, for languages whose tools read it.
const WIT: File = ("wit/policy.wit", include_str!("../../../../guest-sdk/wit/policy.wit"));

impl Language {
    fn files(self) -> Vec<File> {
        let (files, wit): (&[File], bool) = match self {
            Self::Rust => (example!("rust": "src/lib.rs", "cases.json"), false),
            Self::C => (
                example!(
                    "c": "README.md", "build", "bindings", "policy.c", "json.c", "json.h", "contract.c", "contract.h",
                    "wit/guard-paths.wit", "cases.json"
                ),
                true,
            ),
            Self::Zig => (example!("zig": "README.md", "build", "policy.zig", "abi.zig", "cases.json"), false),
            Self::AssemblyScript => (
                example!(
                    "assemblyscript": "README.md", "build", "package.json", "policy.ts", "json.ts", "abi.ts",
                    "exports.mjs", "cases.json"
                ),
                false,
            ),
            Self::JavaScript => (
                example!(
                    "javascript": "README.md", "build", "package.json", "policy.js", "wit/guard-paths.wit", "cases.json"
                ),
                true,
            ),
            Self::TypeScript => (
                example!(
                    "typescript": "README.md", "build", "package.json", "tsconfig.json", "policy.ts",
                    "wit/guard-paths.wit", "cases.json"
                ),
                true,
            ),
            Self::Python => {
                (example!("python": "README.md", "build", "app.py", "wit/guard-paths.wit", "cases.json"), true)
            }
            Self::Go => (example!("go": "README.md", "build", "go.mod", "policy.go", "abi.go", "cases.json"), false),
            Self::Wat => (example!("wat": "README.md", "build", "package.json", "policy.wat", "cases.json"), false),
            Self::Cel => (
                &[
                    ("README.md", include_str!("templates/cel.md")),
                    ("config.json", include_str!("templates/cel-config.json")),
                    ("cases.json", include_str!("templates/cel-cases.json")),
                ],
                false,
            ),
            Self::Rego => (
                &[
                    ("README.md", include_str!("templates/rego.md")),
                    ("config.json", include_str!("templates/rego-config.json")),
                    ("cases.json", include_str!("templates/rego-cases.json")),
                ],
                false,
            ),
        };
        files.iter().copied().chain(wit.then_some(WIT)).collect()
    }
}

impl New {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let is_taken = fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.next().is_some());
        if is_taken {
            bail!("{} is there already and not empty", self.dir.display());
        }
        for (name, text) in self.lang.files() {
            self.write(name, text)?;
        }
        if self.lang == Language::Rust {
            self.write("README.md", include_str!("templates/rust.md"))?;
            self.write("Cargo.toml", &self.manifest()?)?;
        }
        print(&format!(
            "{}: a policy to begin with; its README.md says how to build, test and bind it",
            self.dir.display()
        ))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        let dir = path.parent().expect("it is in the directory");
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The Cargo.toml of a crate on its own.
    fn manifest(&self) -> anyhow::Result<String> {
        let sdk = match &self.sdk {
            None => format!("{{ git = \"{SDK_REPOSITORY}\" }}"),
            Some(sdk) => {
                let sdk = fs::canonicalize(sdk).with_context(|| format!("cannot find {}", sdk.display()))?;
                check_sdk(&sdk)?;
                format!("{{ path = {:?} }}", sdk.to_str().context("the SDK's path is not UTF-8")?)
            }
        };
        Ok(format!(
            r#"[package]
name = "guard-paths"
version = "0.1.0"
edition = "2024"
publish = false

# On its own, wherever it stands.
[workspace]

[lib]
crate-type = ["cdylib", "rlib"]

[dependencies]
portcullis-guest-sdk = {sdk}
serde = {{ version = "1", features = ["derive"] }}
serde_json = "1"

# Small and without unwinding: a policy that panics traps, and a trap denies.
[profile.release]
opt-level = "s"
lto = true
codegen-units = 1
panic = "abort"
strip = true
"#
        ))
    }
}

fn check_sdk(dir: &Path) -> anyhow::Result<()> {
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
    if !manifest.contains("name = \"portcullis-guest-sdk\"") {
        bail!("{} is not the SDK: there is no Cargo.toml of portcullis-guest-sdk in it", dir.display());
    }
    Ok(())
}
