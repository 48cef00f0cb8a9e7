//! The contract's text and its Rust types are one, and what was released does not change.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Resolve, WorldItem};

use super::scene::engine;
use crate::policy::contract::hook::Hook;
use crate::policy::engine::Size;
use crate::policy::functions::{Callable, Lane};
use crate::policy::rehearsal::Rehearsal;
use crate::policy::{contract, module};
use crate::secret::Digest;

fn resolve_with(world: &str) -> (Resolve, wit_parser::WorldId) {
    let mut resolve = Resolve::default();
    resolve.push_source("policy.wit", contract::WIT).unwrap();
    let package = resolve.push_source("world.wit", &format!("package test:all; world all {{ {world} }}")).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    (resolve, world)
}

fn wat_type(ty: WasmType) -> &'static str {
    match ty {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
    }
}

/// A component that exports all functions of the world, each of which traps, with exactly the types of the text.
fn dummy(world: &str) -> Vec<u8> {
    let (resolve, world) = resolve_with(world);
    let mut functions = String::new();
    for (_, item) in &resolve.worlds[world].exports {
        let WorldItem::Interface { id, .. } = item else { panic!("the world exports interfaces alone") };
        let interface = resolve.id_of(*id).unwrap();
        for (name, function) in &resolve.interfaces[*id].functions {
            let signature = resolve.wasm_signature(AbiVariant::GuestExport, function);
            let types = |types: &[WasmType]| types.iter().map(|ty| wat_type(*ty)).collect::<Vec<_>>().join(" ");
            let (params, results) = (types(&signature.params), types(&signature.results));
            writeln!(
                functions,
                "(func (export \"{interface}#{name}\") (param {params}) (result {results}) unreachable)"
            )
            .unwrap();
        }
    }
    let wat = format!(
        "(module (memory (export \"memory\") 1)
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) unreachable) {functions})"
    );
    let mut module = wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

#[test]
fn all_types_are_those_of_the_text() {
    let every_hook: String =
        Hook::ALL.iter().map(|hook| format!("export {};", contract::interface(hook.as_str()))).collect();
    let core: String = ["manifest", "configuration", "self-tests"]
        .iter()
        .map(|name| format!("export {};", contract::interface(name)))
        .collect();
    let dynamic = format!("export {};", contract::interface("dynamic"));
    for (world, lane) in [(core + &every_hook, Lane::Typed), (dynamic, Lane::Dynamic)] {
        let component = dummy(&world);
        let runtime = engine().runtime(Size::Small).unwrap();
        let compiled = wasmtime::component::Component::from_binary(&runtime.wasm, &component).unwrap();
        let rehearsal = Rehearsal::new("all", &Arc::default(), Duration::from_secs(2), 1 << 20);
        let callable = Callable::of(runtime, &compiled, &rehearsal.run()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(callable.lane(), lane);
        assert!(Hook::ALL.into_iter().all(|hook| callable.exports(hook)));
        let error = module::Module::load(engine(), &component).unwrap_err();
        assert!(matches!(error, module::ModuleError::Describe(_)), "only its description fails: {error}");
    }
    let all = Hook::ALL.len() + 4;
    let (resolve, _) = resolve_with("");
    let exported = resolve.interfaces.iter().filter(|(_, interface)| !interface.functions.is_empty()).count();
    assert_eq!(exported, all + ["log", "clock", "random", "counters", "sets"].len(), "every interface is tried");
}

/// Of the contract's types and functions; documentation does not count.
fn digest_of_the_contract() -> String {
    let mut resolve = Resolve::default();
    let package = resolve.push_source("policy.wit", contract::WIT).unwrap();
    let encoded = wit_component::encode(&resolve, package).unwrap();
    let mut bytes = Vec::new();
    for payload in Parser::new(0).parse_all(&encoded) {
        let payload = payload.unwrap();
        if matches!(payload, Payload::CustomSection(_)) {
            continue;
        }
        if let Some((id, range)) = payload.as_section() {
            bytes.push(id);
            bytes.extend_from_slice(&encoded[range]);
        }
    }
    Digest::of(&bytes).to_hex()
}

/// Within 0.1 the contract only grows by new interfaces. If this fails because one was added, renew the digest with
/// `UPDATE=1 cargo nextest run --workspace -E 'test(the_contract_changes_by_intention_only)'`; if a record or function
/// that was released changed, take that back.
#[test]
fn the_contract_changes_by_intention_only() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/contract/policy.wit.sha256");
    let found = digest_of_the_contract();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, format!("{found}\n")).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap();
    assert_eq!(found, expected.trim(), "the contract is another than that of contract/policy.wit.sha256");
}
