//! Prints `src/bindings.rs`: the contract of `wit/policy.wit` as Rust.
//!
//! ```sh
//! cargo run -p portcullis-guest-sdk --example bindings > guest-sdk/src/bindings.new
//! mv guest-sdk/src/bindings.new guest-sdk/src/bindings.rs
//! ```
//!
//! What wit-bindgen makes of the world with every hook is followed by one *section* for each hook: the bytes that
//! tell the component tools which interface a module exports. A module carries the sections of just the hooks
//! that it has, and the tools unite them, so a policy with any subset of hooks describes itself.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use wit_bindgen_core::Files;
use wit_component::StringEncoding;
use wit_parser::{PackageId, Resolve, WorldItem, WorldKey};

const CONTRACT: &str = include_str!("../wit/policy.wit");

/// Constant in the generated file, and the interfaces that its section exports.
const SECTIONS: [(&str, &[&str]); 4] = [
    ("CORE", &["manifest", "configuration"]),
    ("LIST_TOOLS", &["list-tools"]),
    ("TOOL_CALL", &["tool-call"]),
    ("TOOL_RESULT", &["tool-result"]),
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

fn contract() -> Result<(Resolve, PackageId)> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", CONTRACT)?;
    Ok((resolve, package))
}

fn bindings() -> Result<String> {
    let (mut resolve, package) = contract()?;
    let world = resolve.select_world(&[package], Some("tool-guard"))?;
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
    Ok(String::from_utf8(bytes.to_vec())?)
}

/// A world that imports what every policy may, and exports just these interfaces, as component metadata.
fn section(interfaces: &[&str]) -> Result<Vec<u8>> {
    let (mut resolve, package) = contract()?;
    let world = resolve.select_world(&[package], Some("tool-guard"))?;
    let wanted: Vec<_> = interfaces.iter().map(|name| resolve.packages[package].interfaces[*name]).collect();
    let world_record = &mut resolve.worlds[world];
    world_record.name = format!("exports-{}", interfaces[0]);
    world_record.exports.retain(|key, _| matches!(key, WorldKey::Interface(id) if wanted.contains(id)));
    anyhow::ensure!(
        world_record.exports.values().filter(|item| matches!(item, WorldItem::Interface { .. })).count()
            == interfaces.len(),
        "the world `tool-guard` does not export {interfaces:?}"
    );
    wit_component::metadata::encode(&resolve, world, StringEncoding::UTF8, None)
}
