//! What a module's bytes are, before anything is compiled: its kind, its imports, its string encoding, how large it is;
//! and how a core module becomes a component.
//!
//! A policy may import the contract's own interfaces, and nothing else. What it may not import is refused here by
//! name, with advice where a toolchain added it unasked. Core modules may besides expect `wasi_snapshot_preview1`,
//! which is then built into them as far as it does no harm ([`super::wasi`]). Nothing here runs guest code.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wasmparser::{CanonicalFunction, CanonicalOption, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve};

use super::contract;
use super::decision::Hook;
use super::engine::{Capacity, LARGE, SMALL, Size};
use super::module::ModuleError;
use super::wasi;

/// Largest module.
pub const MAX_MODULE_BYTES: usize = 64 << 20;
/// Largest module that is not large: compiling takes seconds from here on.
const MAX_SMALL_BYTES: usize = 8 << 20;

const WASM_PAGE_BYTES: u64 = 64 << 10;

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
        let (resolve, package) = world(&surface)?;
        let world = resolve.select_world(&[package], Some("module")).map_err(encode_error)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).map_err(encode_error)?;
    }
    // The encoder reads bytes of strangers; a mistake in it must not end the gateway.
    let encode = || {
        let mut encoder = ComponentEncoder::default().module(&module)?.validate(true);
        if surface.wants_wasi {
            encoder = encoder.adapter(wasi::MODULE, &wasi::adapter()?)?;
        }
        encoder.encode()
    };
    catch_unwind(AssertUnwindSafe(encode)).map_err(|_| ModuleError::Panicked)?.map_err(encode_error)
}

/// What a component has, as far as it can be seen without compiling it.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Names of its imports.
    pub(super) imports: Vec<String>,
    bytes: usize,
    core_instances: u64,
    memories: u64,
    tables: u64,
    /// Bytes that its largest memory begins with.
    memory_bytes: u64,
    /// Elements that its largest table begins with.
    table_elements: u64,
}

impl Contents {
    /// The smallest engine that it fits into.
    pub(super) fn size(&self) -> Result<Size, ModuleError> {
        if self.bytes <= MAX_SMALL_BYTES && self.excess(&SMALL).is_none() {
            return Ok(Size::Small);
        }
        match self.excess(&LARGE) {
            None => Ok(Size::Large),
            Some((what, needed, max)) => Err(ModuleError::TooManyResources { what, needed, max }),
        }
    }

    /// Of what it needs more than there is, how much, and how much there is.
    fn excess(&self, capacity: &Capacity) -> Option<(&'static str, u64, u64)> {
        let needs = [
            ("core instances", self.core_instances, capacity.core_instances.into()),
            ("memories", self.memories, capacity.memories.into()),
            ("tables", self.tables, capacity.tables.into()),
            ("bytes of memory", self.memory_bytes, capacity.memory_bytes as u64),
            ("table elements", self.table_elements, capacity.table_elements as u64),
        ];
        needs.into_iter().find(|(_, needed, max)| needed > max)
    }
}

/// Checks a component's imports and string encoding, and looks at what it has.
pub(super) fn check_component(bytes: &[u8]) -> Result<Contents, ModuleError> {
    let mut contents = Contents { bytes: bytes.len(), ..Contents::default() };
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let name = import.map_err(malformed)?.name.name;
                    check_import(name, contract::plain_name(name))?;
                    contents.imports.push(name.to_owned());
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    check_encoding(&function.map_err(malformed)?)?;
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let wasmparser::Instance::Instantiate { .. } = instance.map_err(malformed)? {
                        contents.core_instances += 1;
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let pages = memory.map_err(malformed)?.initial;
                    contents.memories += 1;
                    contents.memory_bytes = contents.memory_bytes.max(pages.saturating_mul(WASM_PAGE_BYTES));
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let elements = table.map_err(malformed)?.ty.initial;
                    contents.tables += 1;
                    contents.table_elements = contents.table_elements.max(elements);
                }
            }
            _ => {}
        }
    }
    Ok(contents)
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
        Some("log" | "clock" | "random" | "counters" | "sets") => Ok(()),
        // Records alone: these have no functions to import.
        Some("types" | "manifest" | "grant") => Ok(()),
        _ => Err(ModuleError::UnknownImport { name: super::text::one_line(name, 256), advice: advice(name) }),
    }
}

/// What makes a toolchain leave an import out.
fn advice(import: &str) -> Option<&'static str> {
    if import.starts_with("wasi:") || import.starts_with("wasi_unstable.") {
        return Some(
            "policies run without WASI; Rust: build for wasm32-unknown-unknown; JavaScript: componentize-js with \
             disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event']; Python: componentize-py with \
             --stub-wasi; Go, C and Zig: hand over the core module, which may expect wasi_snapshot_preview1",
        );
    }
    if import.starts_with("wasi_snapshot_preview1.") {
        return Some("wasi_snapshot_preview1 has no such function");
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
    exports: Vec<String>,
    /// Plain names of the contract's interfaces that it imports functions of.
    imports: Vec<String>,
    wants_wasi: bool,
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
                        surface.add_import(import.module, import.name)?;
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

    fn add_import(&mut self, module: &str, name: &str) -> Result<(), ModuleError> {
        if module == wasi::MODULE && wasi::FUNCTIONS.contains(&name) {
            self.wants_wasi = true;
            return Ok(());
        }
        let plain = core_interface(module);
        check_import(&format!("{module}.{name}"), plain)?;
        add_missing(&mut self.imports, plain);
        Ok(())
    }

    fn add_export(&mut self, name: &str) {
        let interface = name.rsplit_once(['#', '|']).and_then(|(interface, _)| core_interface(interface));
        add_missing(&mut self.exports, interface);
    }
}

fn add_missing(names: &mut Vec<String>, name: Option<&str>) {
    if let Some(name) = name.filter(|name| !names.iter().any(|known| known == name)) {
        names.push(name.to_owned());
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

/// A world that imports and exports exactly what the module does.
fn world(surface: &CoreSurface) -> Result<(Resolve, PackageId), ModuleError> {
    let exports = |wanted: &str| surface.exports.iter().any(|name| name == wanted);
    if exports("dynamic") {
        if surface.exports.len() > 1 {
            return Err(ModuleError::BothLanes);
        }
    } else {
        for required in ["manifest", "configuration"] {
            if !exports(required) {
                return Err(ModuleError::MissingExport { name: contract::interface(required) });
            }
        }
    }
    let mut world = "package portcullis:module; world module {".to_owned();
    for name in &surface.imports {
        world.push_str(&format!(" import {};", contract::interface(name)));
    }
    for name in &surface.exports {
        let known = matches!(name.as_str(), "manifest" | "configuration" | "self-tests" | "dynamic");
        if !known && Hook::parse(name).is_none() {
            return Err(ModuleError::UnknownHook { name: super::text::one_line(name, 64) });
        }
        world.push_str(&format!(" export {};", contract::interface(name)));
    }
    world.push_str(" }");
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
