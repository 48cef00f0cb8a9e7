//! What a module's bytes are, before anything is compiled: its kind, its imports, its string encoding; and how a
//! core module becomes a component.
//!
//! A policy may import the contract's `log` and types, and nothing else. What it may not import is refused here by
//! name, with advice where a toolchain added it unasked. Nothing here runs guest code.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wasmparser::{CanonicalFunction, CanonicalOption, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve};

use super::contract;
use super::decision::Hook;
use super::module::ModuleError;

/// Largest module.
pub const MAX_MODULE_BYTES: usize = 64 << 20;

/// What the bytes begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Component,
    CoreModule,
}

/// Tells the kind, and refuses what is too large or no WebAssembly at all.
pub(super) fn kind(bytes: &[u8]) -> Result<Kind, ModuleError> {
    if bytes.len() > MAX_MODULE_BYTES {
        return Err(ModuleError::TooLarge { bytes: bytes.len() });
    }
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(ModuleError::Precompiled);
    }
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 0x01, 0x00, 0x00, 0x00]) => Ok(Kind::CoreModule),
        Some([0, b'a', b's', b'm', 0x0d, 0x00, 0x01, 0x00]) => Ok(Kind::Component),
        _ => Err(ModuleError::NotWasm),
    }
}

/// Makes a component of a core module that follows the contract's canonical ABI, be it with the WIT in a custom
/// section, as generators leave it, or without, as hand-written modules come.
pub fn componentize(core: &[u8]) -> Result<Vec<u8>, ModuleError> {
    if kind(core)? != Kind::CoreModule {
        return Err(ModuleError::NotCoreModule);
    }
    let surface = CoreSurface::read(core)?;
    let mut module = core.to_vec();
    if !surface.has_contract {
        let (resolve, package) = world(&surface.interfaces)?;
        let world = resolve.select_world(&[package], Some("module")).map_err(encode_error)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).map_err(encode_error)?;
    }
    // The encoder reads bytes of strangers; a mistake in it must not end the gateway.
    let encode = || ComponentEncoder::default().module(&module)?.validate(true).encode();
    catch_unwind(AssertUnwindSafe(encode)).map_err(|_| ModuleError::Panicked)?.map_err(encode_error)
}

/// Checks a component's imports and string encoding, and returns the names of its imports.
pub(super) fn check_component(bytes: &[u8]) -> Result<Vec<String>, ModuleError> {
    let mut imports = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let name = import.map_err(malformed)?.name.name;
                    check_import(name, contract::plain_name(name))?;
                    imports.push(name.to_owned());
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    check_encoding(&function.map_err(malformed)?)?;
                }
            }
            _ => {}
        }
    }
    Ok(imports)
}

/// Transcoding of other encodings is code that no policy needs and that has had holes.
fn check_encoding(function: &CanonicalFunction) -> Result<(), ModuleError> {
    let (CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. }) = function else {
        return Ok(());
    };
    let other = |option: &CanonicalOption| matches!(option, CanonicalOption::UTF16 | CanonicalOption::CompactUTF16);
    if options.iter().any(other) { Err(ModuleError::StringEncoding) } else { Ok(()) }
}

/// Whether a policy may import what `name` says; `plain` is its name within the contract, if it is part of it.
fn check_import(name: &str, plain: Option<&str>) -> Result<(), ModuleError> {
    match plain {
        Some("log" | "types") => Ok(()),
        _ => Err(ModuleError::UnknownImport { name: super::text::one_line(name, 256), advice: advice(name) }),
    }
}

/// What makes a toolchain leave an import out.
fn advice(import: &str) -> Option<&'static str> {
    if import.starts_with("wasi:")
        || import.starts_with("wasi_snapshot_preview1.")
        || import.starts_with("wasi_unstable.")
    {
        return Some(
            "policies run without WASI; Rust: build for wasm32-unknown-unknown; JavaScript: componentize-js with \
             disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event']; Python: componentize-py with \
             --stub-wasi; Go: wasm-tools component new with a stub adapter; C and Zig: no libc input or output",
        );
    }
    if import.starts_with("env.") {
        return Some("AssemblyScript: --use abort=; C: link every function that is called");
    }
    if import.starts_with("__wbindgen") || import.starts_with("wbg.") {
        return Some("a dependency expects JavaScript; switch its wasm-bindgen or js feature off");
    }
    None
}

/// What a core module shows of itself.
#[derive(Debug, Default)]
struct CoreSurface {
    /// Plain names of the contract's interfaces that it exports functions of.
    interfaces: Vec<String>,
    /// It carries the WIT that it was made for.
    has_contract: bool,
}

impl CoreSurface {
    fn read(core: &[u8]) -> Result<Self, ModuleError> {
        let mut surface = Self::default();
        for payload in Parser::new(0).parse_all(core) {
            match payload.map_err(malformed)? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.map_err(malformed)?;
                        let name = format!("{}.{}", import.module, import.name);
                        check_import(&name, core_interface(import.module))?;
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        surface.add_export(export.map_err(malformed)?.name);
                    }
                }
                Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                    surface.has_contract = true;
                }
                _ => {}
            }
        }
        Ok(surface)
    }

    fn add_export(&mut self, name: &str) {
        let Some(interface) = name.rsplit_once(['#', '|']).and_then(|(interface, _)| core_interface(interface)) else {
            return;
        };
        if !self.interfaces.iter().any(|known| known == interface) {
            self.interfaces.push(interface.to_owned());
        }
    }
}

/// The plain name of a contract interface as core modules write it: in full, or in the `cm32p2` form, which says
/// `0.1` for the version.
fn core_interface(name: &str) -> Option<&str> {
    if let Some(name) = name.strip_prefix("cm32p2|") {
        return name.strip_prefix(contract::NAMESPACE)?.strip_suffix("@0.1");
    }
    contract::plain_name(name.strip_prefix("cabi_post_").unwrap_or(name))
}

/// A world that exports exactly what the module does.
fn world(interfaces: &[String]) -> Result<(Resolve, PackageId), ModuleError> {
    let known = |name: &str| Hook::ALL.iter().any(|hook| hook.as_str() == name);
    let mut world = format!(
        "package portcullis:module; world module {{ include {}core@{};",
        contract::NAMESPACE,
        contract::VERSION
    );
    for required in ["manifest", "configuration"] {
        if !interfaces.iter().any(|name| name == required) {
            return Err(ModuleError::MissingExport { name: contract::interface(required) });
        }
    }
    for name in interfaces.iter().filter(|name| !matches!(name.as_str(), "manifest" | "configuration")) {
        if !known(name) {
            return Err(ModuleError::UnknownHook { name: super::text::one_line(name, 64) });
        }
        world.push_str(&format!(" export {};", contract::interface(name)));
    }
    world.push('}');
    let mut resolve = Resolve::default();
    resolve.push_source("policy.wit", contract::WIT).map_err(encode_error)?;
    let package = resolve.push_source("module.wit", &world).map_err(encode_error)?;
    Ok((resolve, package))
}

fn malformed(error: wasmparser::BinaryReaderError) -> ModuleError {
    ModuleError::Malformed(error)
}

fn encode_error(error: anyhow::Error) -> ModuleError {
    ModuleError::Encode(error.into())
}
