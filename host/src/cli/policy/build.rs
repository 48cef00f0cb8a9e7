//! From source to a module that the gateway loads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::super::print;
use crate::policy::{Engine, Module, ModuleError, componentize};

/// What Rust policies are built for.
const RUST_TARGET: &str = "wasm32-unknown-unknown";

/// Turn a core module into a component, as the gateway would when it loads it.
#[derive(clap::Args)]
pub(in crate::cli) struct Componentize {
    /// The core module.
    file: PathBuf,
    /// Where to write the component.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl Componentize {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let core = super::read_module(&self.file)?;
        let component = componentize(&core).with_context(|| format!("cannot use {}", self.file.display()))?;
        fs::write(&self.output, component).with_context(|| format!("cannot write {}", self.output.display()))
    }
}

/// Build the policy in a directory, with its language's own tools, into a component that the gateway loads.
///
/// A directory with a `build` script is built by that, as those of `policy new` are; one with a Cargo.toml by cargo.
#[derive(clap::Args)]
pub(in crate::cli) struct Build {
    /// The policy's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to write the component; without it, policy.wasm in the directory.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Build {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let dir = fs::canonicalize(&self.dir).with_context(|| format!("cannot find {}", self.dir.display()))?;
        let output = match &self.output {
            Some(output) => std::path::absolute(output).context("cannot tell where this is")?,
            None => dir.join("policy.wasm"),
        };
        let built = if dir.join("build").is_file() {
            run(Command::new("sh").arg("build").arg(&output).current_dir(&dir), "the build script")?;
            output.clone()
        } else if dir.join("Cargo.toml").is_file() {
            build_rust(&dir)?
        } else if dir.join("config.json").is_file() {
            return print(&format!(
                "there is nothing to build: {} is the configuration of a policy that comes with the gateway",
                dir.join("config.json").display()
            ));
        } else {
            bail!("{} has neither a build script nor a Cargo.toml; `policy new` makes both", dir.display());
        };
        let bytes = fs::read(&built).with_context(|| format!("the build left no {}", built.display()))?;
        let component = match componentize(&bytes) {
            Ok(component) => component,
            Err(ModuleError::NotCoreModule) => bytes,
            Err(error) => return Err(error).with_context(|| format!("{} is no policy", built.display())),
        };
        // Whatever is wrong with it is better known now.
        let module = Module::load(&Engine::start(1)?, &component).context("what was built cannot be used")?;
        fs::write(&output, &component).with_context(|| format!("cannot write {}", output.display()))?;
        let manifest = module.manifest();
        print(&format!("{}: {} {}, {} bytes", output.display(), manifest.name, manifest.version, component.len()))
    }
}

/// Builds a crate, with the standard library for its target from wherever there is one. The core module.
fn build_rust(dir: &Path) -> anyhow::Result<PathBuf> {
    let metadata =
        output_of(Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]).current_dir(dir))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo's metadata is not JSON")?;
    let module = module_name(&metadata, dir)?;
    let target = metadata["target_directory"].as_str().context("cargo does not say where it builds")?;
    let built = Path::new(target).join(RUST_TARGET).join("release").join(format!("{module}.wasm"));
    let mut cargo = Command::new("cargo");
    cargo.current_dir(dir);
    cargo.args(["build", "--release", "--target", RUST_TARGET]);
    // A small stack keeps an instance cheap.
    cargo.env("RUSTFLAGS", "-C link-arg=-zstack-size=65536");
    let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]).current_dir(dir))?;
    if !has_std(Path::new(&sysroot)) {
        use_debian(&mut cargo, &sysroot)?;
    }
    run(&mut cargo, "cargo")?;
    Ok(built)
}

/// What cargo calls the module of the crate in this directory.
fn module_name(metadata: &Value, dir: &Path) -> anyhow::Result<String> {
    let manifest = dir.join("Cargo.toml");
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.find(|package| package["manifest_path"].as_str().is_some_and(|path| *path == *manifest));
    let package = package.with_context(|| format!("{} is of a workspace and no crate", manifest.display()))?;
    let mut targets = package["targets"].as_array().into_iter().flatten();
    let is_module = |kinds: &Value| kinds.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"));
    let module = targets.find(|target| is_module(&target["kind"]));
    let module = module.with_context(|| {
        format!("{} makes no module: write crate-type = [\"cdylib\", \"rlib\"] under [lib]", manifest.display())
    })?;
    let name = module["name"].as_str().context("cargo does not name what it builds")?;
    Ok(name.replace('-', "_"))
}

/// Whether a toolchain has a standard library for the target.
fn has_std(sysroot: &Path) -> bool {
    let lib = sysroot.join("lib/rustlib").join(RUST_TARGET).join("lib");
    let entries = fs::read_dir(lib).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Debian has the sources of its own compiler's standard library, which is then built too.
fn use_debian(cargo: &mut Command, sysroot: &str) -> anyhow::Result<()> {
    let rustc = Path::new("/usr/bin/rustc");
    let debian = rustc.is_file().then(|| output_of(Command::new(rustc).args(["--print", "sysroot"]))).transpose()?;
    let sources = debian.map(|debian| Path::new(&debian).join("lib/rustlib/src/rust/library/Cargo.lock"));
    if !sources.is_some_and(|sources| sources.is_file()) {
        bail!(
            "there is no standard library for {RUST_TARGET}: rustup target add {RUST_TARGET}, or on Debian \
             apt-get install rustc-web rust-web-src"
        );
    }
    let version = output_of(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
    cargo
        .args(["-Zbuild-std=std,panic_abort"])
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", format!("{sysroot}/lib/rustlib/{host}/bin/rust-lld"));
    Ok(())
}

/// What a command prints, on one line.
fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}
