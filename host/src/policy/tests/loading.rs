//! What comes into force and what does not, and why.

use std::io::Write as _;
use std::sync::Arc;

use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::guest::{Body, Guest, allow, deny};
use super::scene::{Bound, bind, bind_bytes, check, engine, load, settings, tool, try_load, upstream};
use crate::config::ModuleSource;
use crate::policy::engine::Size;
use crate::policy::{
    Engine, Hook, LoadErrors, MAX_LARGE_MEMORY_BYTES, MAX_MEMORY_BYTES, Module, ModuleError, PolicySet, componentize,
    contract,
};

fn good() -> Guest {
    Guest::new().answers(Hook::ToolCall, allow(&json!({})))
}

fn load_error(bytes: &[u8]) -> String {
    told(&Module::load(engine(), bytes).expect_err("it must not load"))
}

/// The error and its causes on one line.
fn told(error: &ModuleError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn core(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap()
}

/// A component made of a core module for a world of the test's own.
fn component(wit: &str, module: &str, encoding: StringEncoding) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_source("test.wit", wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = core(module);
    embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

#[test]
fn a_core_module_and_the_component_made_of_it_are_the_same_policy() {
    let module = good().core();
    let component = componentize(&module).unwrap();
    for bytes in [module, component.clone()] {
        let set = load(vec![bind_bytes("one", bytes)]);
        assert_eq!(check(&set, &tool("notes", "add"), Some("{}")), "allow {}");
    }
    assert!(matches!(componentize(&component), Err(ModuleError::NotCoreModule)));
}

#[test]
fn the_other_spelling_of_the_canonical_abi_is_understood() {
    // `cm32p2` is what wit-component documents for modules that are written by hand.
    let plain = good().wat();
    let mut other = plain.clone();
    for (from, to) in [
        ("portcullis:policy/manifest@0.1.0#", "cm32p2|portcullis:policy/manifest@0.1|"),
        ("portcullis:policy/configuration@0.1.0#", "cm32p2|portcullis:policy/configuration@0.1|"),
        ("portcullis:policy/tool-call@0.1.0#", "cm32p2|portcullis:policy/tool-call@0.1|"),
        ("(export \"memory\")", "(export \"cm32p2_memory\")"),
        ("(export \"cabi_realloc\")", "(export \"cm32p2_realloc\")"),
    ] {
        assert!(other.contains(from));
        other = other.replace(from, to);
    }
    let set = load(vec![bind_bytes("one", core(&other))]);
    assert_eq!(check(&set, &tool("notes", "add"), Some("{}")), "allow {}");
}

#[test]
fn a_module_tells_what_it_is() {
    let bytes = Guest::new()
        .answers(Hook::ToolCall, deny("x"))
        .answers(Hook::ToolResult, json!("pass"))
        .mutates(Hook::ToolResult)
        .sees_all()
        .field(r#"(import "portcullis:policy/log@0.1.0" "write" (func (param i32 i32 i32)))"#)
        .core();
    let module = Module::load(engine(), &bytes).unwrap();
    let info = module.info();
    assert_eq!((info.manifest.name.as_str(), info.manifest.version.as_str()), ("test", "1.0.0"));
    assert_eq!(info.exported, [Hook::ToolCall, Hook::ToolResult]);
    assert_eq!(info.manifest.mutates, [Hook::ToolResult]);
    assert_eq!(info.size_bytes, bytes.len());
    assert_eq!(*info.digest, crate::secret::Digest::of(&bytes).to_hex());
    assert!(info.imports.iter().any(|import| import == "portcullis:policy/log@0.1.0"), "{:?}", info.imports);
}

#[test]
fn what_is_no_policy_is_refused_by_name() {
    let export = |name: &str| format!("(func (export \"{name}\"))");
    let manifest = export("portcullis:policy/manifest@0.1.0#describe");
    let both = format!("{manifest} {}", export("portcullis:policy/configuration@0.1.0#configure"));
    let imports = |module: &str, name: &str| core(&format!("(module (import \"{module}\" \"{name}\" (func)))"));
    for (bytes, expected) in [
        (Vec::new(), "this is no WebAssembly component or module"),
        (b"(module)".to_vec(), "this is no WebAssembly component or module"),
        (b"\0asm\x01\0\0\0\xff".to_vec(), "the module is malformed"),
        (b"\0asm\x0d\0\x01\0\xff".to_vec(), "the module is malformed"),
        (core("(module)"), "it does not export portcullis:policy/manifest@0.1.0"),
        (core(&format!("(module {manifest})")), "it does not export portcullis:policy/configuration@0.1.0"),
        (
            core(&format!("(module {both} {})", export("portcullis:policy/session@0.1.0#opened"))),
            "it exports session, a hook that this gateway does not have",
        ),
        (
            core(&format!("(module {both} {})", export("portcullis:policy/dynamic@0.1.0#decide"))),
            "it exports dynamic beside manifest, configuration or hooks",
        ),
        (imports("env", "abort"), "it imports env.abort, which no policy may (AssemblyScript: --use abort="),
        (
            imports("wasi_snapshot_preview1", "fd_teleport"),
            "it imports wasi_snapshot_preview1.fd_teleport, which no policy may (wasi_snapshot_preview1 has no such",
        ),
        (
            imports("wasi_unstable", "fd_write"),
            "it imports wasi_unstable.fd_write, which no policy may (policies run without WASI",
        ),
        (
            imports("portcullis:policy/state@0.1.0", "get"),
            "it imports portcullis:policy/state@0.1.0.get, which no policy may",
        ),
        (
            imports("portcullis:policy/log@0.2.0", "write"),
            "it imports portcullis:policy/log@0.2.0.write, which no policy may",
        ),
        (Guest::new().core(), "it exports no hook"),
    ] {
        let error = load_error(&bytes);
        assert!(error.starts_with(expected), "{error}\nand not {expected}");
    }
    let mut huge = b"\0asm\x01\0\0\0".to_vec();
    huge.resize(crate::policy::MAX_MODULE_BYTES + 1, 0);
    assert!(load_error(&huge).starts_with("the module has 67108865 bytes"));
}

#[test]
fn compiled_code_is_never_run() {
    let component = componentize(&good().core()).unwrap();
    let compiled = engine().runtime(Size::Small).unwrap().wasm.precompile_component(&component).unwrap();
    assert!(matches!(Module::load(engine(), &compiled), Err(ModuleError::Precompiled)));
}

#[test]
fn components_are_held_to_the_same_imports() {
    let wit = "package test:a; world w { import wasi:cli/environment@0.2.6; } package wasi:cli@0.2.6 { interface environment { get: func(); } }";
    let module = r#"(module (import "wasi:cli/environment@0.2.6" "get" (func)))"#;
    let error = load_error(&component(wit, module, StringEncoding::UTF8));
    assert!(
        error.starts_with("it imports wasi:cli/environment@0.2.6, which no policy may (policies run without WASI"),
        "{error}"
    );
    let error = load_error(&component(
        "package test:a; world w { import plain: func(); }",
        r#"(module (import "$root" "plain" (func)))"#,
        StringEncoding::UTF8,
    ));
    assert!(error.starts_with("it imports plain, which no policy may"), "{error}");
}

#[test]
fn strings_are_utf_8() {
    let core = good().core();
    let mut resolve = Resolve::default();
    resolve.push_source("policy.wit", contract::WIT).unwrap();
    let world =
        "package test:a; world w { include portcullis:policy/core@0.1.0; export portcullis:policy/tool-call@0.1.0; }";
    let package = resolve.push_source("world.wit", world).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    for (encoding, loads) in
        [(StringEncoding::UTF8, true), (StringEncoding::UTF16, false), (StringEncoding::CompactUTF16, false)]
    {
        let mut module = core.clone();
        embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
        let component = ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap();
        for bytes in [component, module] {
            match Module::load(engine(), &bytes) {
                Ok(_) => assert!(loads, "{encoding:?}"),
                Err(error) => assert!(!loads && matches!(error, ModuleError::StringEncoding), "{encoding:?}: {error}"),
            }
        }
    }
}

#[test]
fn a_component_of_a_later_patch_version_of_the_contract_is_served() {
    let later = |text: &str| text.replace("@0.1.0", "@0.1.7");
    let wit = format!(
        "package test:a; world w {{ include portcullis:policy/core@0.1.7; export portcullis:policy/tool-call@0.1.7; }} {}",
        later(contract::WIT).replacen("package portcullis:policy@0.1.7;", "package portcullis:policy@0.1.7 {", 1)
    );
    let log = r#"(import "portcullis:policy/log@0.1.7" "write" (func (param i32 i32 i32)))"#;
    let component = component(&format!("{wit} }}"), &later(&good().field(log).wat()), StringEncoding::UTF8);
    let set = load(vec![bind_bytes("one", component)]);
    assert_eq!(check(&set, &tool("notes", "add"), Some("{}")), "allow {}");
}

#[test]
fn functions_must_have_exactly_the_types_of_the_contract() {
    let wit = |before: &str| {
        format!(
            "package portcullis:policy@0.1.0;
             interface manifest {{ describe: func() -> string; }}
             interface configuration {{ configure: func(config: string) -> bool; }}
             interface tool-call {{ before: func() -> {before}; }}
             world w {{ export manifest; export configuration; export tool-call; }}"
        )
    };
    let module = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
        (func (export "portcullis:policy/manifest@0.1.0#describe") (result i32) (i32.const 0))
        (func (export "portcullis:policy/configuration@0.1.0#configure") (param i32 i32) (result i32) (i32.const 0))
        (func (export "portcullis:policy/tool-call@0.1.0#before") (result i32) (i32.const 0)))"#;
    let error = load_error(&component(&wit("bool"), module, StringEncoding::UTF8));
    assert!(error.starts_with("its portcullis:policy/manifest@0.1.0 is not as the contract says"), "{error}");
    let log = "package portcullis:policy@0.1.0;
        interface log { write: func(message: string); }
        interface manifest { describe: func() -> bool; }
        interface configuration { configure: func() -> bool; }
        interface tool-call { before: func() -> bool; }
        world w { import log; export manifest; export configuration; export tool-call; }";
    let module = r#"(module
        (import "portcullis:policy/log@0.1.0" "write" (func (param i32 i32)))
        (memory (export "memory") 1)
        (func (export "portcullis:policy/manifest@0.1.0#describe") (result i32) (i32.const 0))
        (func (export "portcullis:policy/configuration@0.1.0#configure") (result i32) (i32.const 0))
        (func (export "portcullis:policy/tool-call@0.1.0#before") (result i32) (i32.const 0)))"#;
    let error = load_error(&component(log, module, StringEncoding::UTF8));
    assert!(error.starts_with("its imports is not as the contract says"), "{error}");
}

#[test]
fn a_module_that_needs_more_than_most_runs_in_the_large_engine() {
    let memory = |pages: usize| good().wat().replace("\"memory\") 2)", &format!("\"memory\") {pages})"));
    let tables = |count: usize| good().field(&"(table 1 funcref)".repeat(count)).core();
    let elements = |count: usize| good().field(&format!("(table {count} funcref)")).core();
    for (large, too_large, told_of) in [
        (core(&memory(1025)), core(&memory(4097)), "268500992 bytes of memory, and a policy may have 268435456"),
        (elements(30_000), elements(100_001), "100001 table elements, and a policy may have 100000"),
        (tables(9), tables(65), "65 tables, and a policy may have 64"),
    ] {
        let module = Module::load(engine(), &large).unwrap();
        assert!(module.is_large() && module.info().is_large);
        assert_eq!(module.max_memory_bytes(), MAX_LARGE_MEMORY_BYTES);
        assert_eq!(load_error(&too_large), format!("it needs {told_of}"));
        let set = load(vec![bind_bytes("one", large).with(|binding| binding.memory_bytes = 65 << 20)]);
        assert_eq!(check(&set, &tool("notes", "add"), Some("{}")), "allow {}");
        assert!(set.bindings()[0].prepared.is_slow());
    }
    let module = Module::load(engine(), &good().core()).unwrap();
    assert!(!module.is_large());
    assert_eq!(module.max_memory_bytes(), MAX_MEMORY_BYTES);
}

#[test]
fn policies_run_without_a_pool_too() {
    let engine = Engine::without_pool().unwrap();
    assert_eq!((engine.slots(), engine.slots_in_use()), (None, None));
    let large = good().field(&"(table 1 funcref)".repeat(9));
    let (wanted, modules) = settings(vec![bind("one", &good()), bind("large", &large)]);
    let set = PolicySet::load(&wanted, &[], &engine, &modules, None, 1).unwrap();
    for _ in 0..100 {
        assert_eq!(check(&set, &tool("notes", "add"), None), "allow none");
    }
}

#[test]
fn a_manifest_must_be_true() {
    let not_exported = good().manifest("hooks", json!(["tool-call", "tool-result"]));
    let error = load_error(&not_exported.core());
    assert_eq!(error, "its manifest names the hook tool-result, which it does not export");
    assert_eq!(
        load_error(&good().manifest("hooks", json!([])).core()),
        "it exports no hook, so that it would never be asked"
    );
    let counters = r#"(import "portcullis:policy/counters@0.1.0" "take" (func (param i32 i32 i32 i64 i64 i32)))"#;
    assert_eq!(
        load_error(&good().field(counters).core()),
        "it imports counters, which its manifest does not name; add \"counters\" to the manifest's capabilities"
    );
    let error = load_error(&good().manifest("name", json!("Not a name")).core());
    assert!(error.starts_with("its manifest is wrong: its name"), "{error}");
    for (wat, expected) in [
        ("unreachable", "it trapped"),
        ("(loop (br 0)) unreachable", "it ran longer than its 2000 ms"),
        ("(i32.const -4)", "its answer is invalid"),
    ] {
        let error = load_error(&good().describe(wat).core());
        assert!(error.starts_with("its description failed") && error.contains(expected), "{error}");
    }
    let quiet = good().answers(Hook::ToolResult, json!("pass")).manifest("hooks", json!(["tool-call"]));
    let set = load(vec![bind("one", &quiet)]);
    assert!(set.bindings()[0].warnings()[0].starts_with("it exports tool-result, but its manifest"));
    assert!(!set.bindings()[0].has_hook(Hook::ToolResult));
}

#[test]
fn everything_that_is_wrong_with_a_set_is_told_at_once() {
    let refuses = good().configure(Body::Answer(json!({ "err": [
        { "path": "/deny/0", "message": "not a\npattern" }, { "path": "", "message": "too short" },
    ] })));
    let traps = good().configure(Body::Wat("unreachable".to_owned()));
    let rewrites = |bound: Bound| bound.with(|binding| binding.allow_rewrite = true);
    let result = try_load(vec![
        bind("fine", &good()),
        bind("refuses", &refuses),
        bind("traps", &traps),
        rewrites(bind("rewrites", &good())),
        bind("pinned", &good()).with(|binding| binding.digest = Some("ab".repeat(32))),
        bind("big", &good()).with(|binding| binding.memory_bytes = MAX_MEMORY_BYTES + 1),
        bind("small", &good()).with(|binding| binding.memory_bytes = 65536),
        bind("nothing", &good()).with(|binding| binding.matches.tools = Vec::new()),
        bind("config", &good()).with(|binding| binding.config = json!([])),
        bind("builtin", &good()).with(|binding| binding.module = ModuleSource::Builtin("no-such".to_owned())),
        bind("file", &good()).with(|binding| binding.module = ModuleSource::File("/no/such.wasm".into())),
        bind_bytes("junk", b"junk".to_vec()),
    ]);
    let errors = result.expect_err("it must not load").to_string();
    let found = crate::secret::Digest::of(&good().core()).to_hex();
    let expected = [
        r"policy refuses: configure: it refuses its configuration: /deny/0: not a\npattern; too short".to_owned(),
        "policy traps: configure: it fails on its configuration: it trapped: wasm `unreachable` instruction executed"
            .to_owned(),
        "policy rewrites: settings: allow_rewrite is set, but the module never rewrites arguments".to_owned(),
        format!("policy pinned: digest: the module's SHA-256 is {found}, and not {}", "ab".repeat(32)),
        "policy big: settings: it may have 67108865 bytes of memory, more than the 67108864 that are possible"
            .to_owned(),
        "policy small: configure: it fails on its configuration: it wanted more than its 65536 bytes of memory"
            .to_owned(),
        "policy nothing: settings: it matches nothing: its list of upstreams".to_owned(),
        "policy config: schema: its configuration is no JSON object".to_owned(),
        "policy builtin: read: there is no builtin policy \"no-such\"".to_owned(),
        "policy file: read: the module /no/such.wasm cannot be read: No such file or directory (os error 2)".to_owned(),
        "policy junk: module: this is no WebAssembly component or module".to_owned(),
    ];
    for (found, expected) in errors.lines().zip(&expected) {
        assert!(found.starts_with(expected), "{found}\nand not {expected}");
    }
    assert_eq!(errors.lines().count(), expected.len());
}

#[test]
fn there_are_no_more_different_modules_than_the_operator_said() {
    let (mut wanted, modules) = settings(vec![
        bind("one", &good()),
        bind("same", &good()),
        bind("two", &good().answers(Hook::ToolResult, json!("pass"))),
    ]);
    wanted.max_components = 2;
    assert!(
        PolicySet::load(&wanted, &[], engine(), &modules, None, 1).is_ok(),
        "a module that is bound twice counts once"
    );
    wanted.max_components = 1;
    let LoadErrors(errors) = PolicySet::load(&wanted, &[], engine(), &modules, None, 1).unwrap_err();
    assert_eq!(errors[0].to_string(), "policies: there are 2 different modules, more than max_components = 1");
}

#[test]
fn a_module_is_read_from_its_file_each_time_a_set_is_loaded() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&good().core()).unwrap();
    let path = file.path().to_owned();
    let (wanted, modules) =
        settings(vec![bind("one", &good()).with(|binding| binding.module = ModuleSource::File(path.clone()))]);
    let first = PolicySet::load(&wanted, &[], engine(), &modules, None, 1).unwrap();
    assert_eq!(check(&first, &tool("notes", "add"), None), "allow none");
    std::fs::write(&path, Guest::new().answers(Hook::ToolCall, deny("now")).core()).unwrap();
    let second = PolicySet::load(&wanted, &[], engine(), &modules, Some(&first), 2).unwrap();
    assert_eq!(check(&second, &tool("notes", "add"), None), "one denied: now No.");
    assert_eq!(check(&first, &tool("notes", "add"), None), "allow none", "who began with the old set ends with it");
    std::fs::write(&path, b"half a mod").unwrap();
    assert!(PolicySet::load(&wanted, &[], engine(), &modules, Some(&second), 3).is_err());
    assert_eq!((first.generation(), second.generation()), (1, 2));
}

#[test]
fn what_did_not_change_is_not_compiled_again() {
    let other = good().answers(Hook::ToolResult, json!("pass"));
    let (mut wanted, modules) = settings(vec![bind("one", &good()), bind("two", &other)]);
    let load = |wanted: &_, previous: Option<&PolicySet>| {
        PolicySet::load(wanted, &[upstream("notes")], engine(), &modules, previous, 1).unwrap()
    };
    let compiled = |set: &PolicySet, at: usize| set.bindings()[at].module().digest.clone();
    let first = load(&wanted, None);
    wanted.bindings[0].config = json!({ "new": true });
    wanted.bindings.swap(0, 1);
    let second = load(&wanted, Some(&first));
    // The digest's text belongs to the compiled module, so that one text is one module.
    assert!(Arc::ptr_eq(&compiled(&first, 0), &compiled(&second, 1)));
    assert!(Arc::ptr_eq(&compiled(&first, 1), &compiled(&second, 0)));
    let fresh = load(&wanted, None);
    assert!(!Arc::ptr_eq(&compiled(&first, 0), &compiled(&fresh, 1)));
    let elsewhere = Engine::start(1).unwrap();
    let third = PolicySet::load(&wanted, &[], &elsewhere, &modules, Some(&first), 1).unwrap();
    assert!(!Arc::ptr_eq(&compiled(&first, 0), &compiled(&third, 1)), "one engine's code is no other's");
}
