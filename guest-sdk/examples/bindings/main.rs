//! Prints `src/bindings.rs`: the contract of `wit/policy.wit` as Rust.
//!
//! ```sh
//! cargo run -p portcullis-guest-sdk --example bindings > guest-sdk/src/bindings.new
//! mv guest-sdk/src/bindings.new guest-sdk/src/bindings.rs
//! ```
//!
//! What wit-bindgen makes of the world with everything in it gets the contract's JSON form (`json_form`), and is followed
//! by one *section* for each hook: the bytes that tell the component tools which interface a module exports. A module
//! carries the sections of just the hooks that it has, and the tools unite them, so a policy with any subset of hooks
//! describes itself. An import that a module does not call is in none of its tables, whatever the sections allow.

mod json_form;

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use wit_bindgen_core::Files;
use wit_component::StringEncoding;
use wit_parser::{PackageId, Resolve, WorldId, WorldItem, WorldKey};

const CONTRACT: &str = include_str!("../../wit/policy.wit");

/// Constant in the generated file, and the interfaces that its section exports.
const SECTIONS: [(&str, &[&str]); 14] = [
    ("CORE", &["manifest", "configuration"]),
    // An interface that speaks of another one's types needs it in its section, as the module has it: `self-tests` of
    // `manifest`, which every module exports, and `refresh` of `grant`, which it may.
    ("SELF_TESTS", &["manifest", "self-tests"]),
    ("LIST_TOOLS", &["list-tools"]),
    ("LIST_ITEMS", &["list-items"]),
    ("TOOL_CALL", &["tool-call"]),
    ("TOOL_RESULT", &["tool-result"]),
    ("ITEM_ACCESS", &["item-access"]),
    ("ITEM_RESULT", &["item-result"]),
    ("SERVER_REQUEST", &["server-request"]),
    ("GRANT", &["grant"]),
    ("REFRESH", &["refresh"]),
    ("REFRESH_AND_GRANT", &["refresh", "grant"]),
    ("CLIENT", &["client"]),
    ("CREDENTIAL", &["credential"]),
];

#[expect(clippy::print_stdout, reason = "its one purpose")]
fn main() -> Result<()> {
    print!("{}", generate()?);
    Ok(())
}

/// The whole text of `src/bindings.rs`.
pub(crate) fn generate() -> Result<String> {
    let mut text = String::from(
        "// @generated from `wit/policy.wit`. Do not edit; to make it anew:\n\
         // cargo run -p portcullis-guest-sdk --example bindings > guest-sdk/src/bindings.new\n\
         // mv guest-sdk/src/bindings.new guest-sdk/src/bindings.rs\n",
    );
    text.push_str(&bindings()?);
    text.push_str("\n/// What a module says about its own exports, for the tools that make a component of it.\n");
    text.push_str("#[rustfmt::skip]\npub mod sections {\n");
    for (name, interfaces) in SECTIONS {
        let bytes = section(interfaces)?;
        writeln!(text, "    pub const {name}: [u8; {}] = *b\"\\", bytes.len())?;
        for line in bytes.chunks(60) {
            writeln!(text, "{}\\", line.escape_ascii().to_string().replace("\\'", "'"))?;
        }
        text.push_str("\";\n");
    }
    text.push_str("}\n");
    Ok(text)
}

/// The contract and its world with everything in it.
fn contract() -> Result<(Resolve, PackageId, WorldId)> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", CONTRACT)?;
    let world = resolve.select_world(&[package], Some("complete"))?;
    Ok((resolve, package, world))
}

fn bindings() -> Result<String> {
    let (mut resolve, package, world) = contract()?;
    let parts = json_form::Parts::of(&resolve, package);
    let mut files = Files::default();
    let options = wit_bindgen_rust::Opts {
        format: false,
        pub_export_macro: true,
        generate_unused_types: true,
        additional_derive_attributes: vec!["PartialEq".to_owned(), "Eq".to_owned()],
        ..Default::default()
    };
    let mut generator = options.build();
    wit_bindgen_core::WorldGenerator::generate(&mut generator, &mut resolve, world, &mut files)?;
    let (_, bytes) = files.iter().next().context("wit-bindgen made no file")?;
    Ok(json_form::added(std::str::from_utf8(bytes)?, &parts))
}

/// A world that exports just these interfaces, as component metadata.
fn section(interfaces: &[&str]) -> Result<Vec<u8>> {
    let (mut resolve, package, world) = contract()?;
    let id = |name: &str| resolve.packages[package].interfaces[name];
    let wanted: Vec<_> = interfaces.iter().map(|name| id(name)).collect();
    let (types, grant) = (id("types"), id("grant"));
    let needs_grant = interfaces.contains(&"refresh") && !interfaces.contains(&"grant");
    let record = &mut resolve.worlds[world];
    record.name = format!("exports-{}", interfaces.join("-"));
    record.imports.retain(|key, _| matches!(key, WorldKey::Interface(id) if *id == types));
    if needs_grant {
        let item = record.exports[&WorldKey::Interface(grant)].clone();
        record.imports.insert(WorldKey::Interface(grant), item);
    }
    record.exports.retain(|key, _| matches!(key, WorldKey::Interface(id) if wanted.contains(id)));
    anyhow::ensure!(
        record.exports.values().filter(|item| matches!(item, WorldItem::Interface { .. })).count() == interfaces.len(),
        "the world `complete` does not export {interfaces:?}"
    );
    wit_component::metadata::encode(&resolve, world, StringEncoding::UTF8, None)
}
