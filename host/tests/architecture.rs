//! What every file of the host obeys: dependencies point down, heavy crates have one home, modules say what they are.
//!
//! The check is textual: it reads `crate::…` paths and names of crates, comments and test modules aside.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// For each top-level module, the others that it may use. A new entry is a design decision: say why in the commit.
const ALLOWED: &[(&str, &[&str])] = &[
    // Composition.
    ("main", &["cli"]),
    // `store` for what is done to one that no gateway has open.
    (
        "cli",
        &[
            "builtin",
            // For what `doctor` says of the listeners' own.
            "certificate",
            "config",
            "env",
            "gateway",
            "identity",
            "ids",
            "mcp",
            "oci",
            "outbound",
            "policy",
            "secret",
            "store",
            "supervisor",
            "vault",
        ],
    ),
    (
        "gateway",
        &[
            "admin",
            "audit",
            "authorization",
            "certificate",
            "config",
            "connection",
            "connections",
            "env",
            "http",
            "ids",
            "outbound",
            "pipeline",
            "policy",
            "secret",
            "store",
            "supervisor",
            "tasks",
            "telemetry",
            "vault",
        ],
    ),
    // Surfaces.
    (
        "http",
        &[
            "admin",
            "audit",
            "authorization",
            "certificate",
            "config",
            "connection",
            "connections",
            "env",
            "glob",
            "identity",
            "ids",
            "mcp",
            "oauth",
            "outbound",
            "pipeline",
            "policy",
            "secret",
            "store",
            "tasks",
            "telemetry",
            "upstream",
            "vault",
        ],
    ),
    // Verbs.
    // Keeps the credentials that `pipeline` and `upstream` borrow through the trait in `connection`; `upstream` for trying
    // what a person gives for headers where it is meant for.
    (
        "connections",
        &[
            "audit",
            "config",
            "connection",
            "env",
            "identity",
            "ids",
            "oauth",
            "outbound",
            "pipeline",
            "secret",
            "store",
            "tasks",
            "telemetry",
            "upstream",
            "vault",
        ],
    ),
    (
        "pipeline",
        &[
            "audit",
            "config",
            "connection",
            "env",
            "glob",
            "identity",
            "ids",
            "mcp",
            "policy",
            "secret",
            "store",
            "telemetry",
            "upstream",
        ],
    ),
    (
        "admin",
        &[
            "audit",
            "builtin",
            // For what the listeners show, which a reload replaces.
            "certificate",
            "config",
            "connection",
            "env",
            "identity",
            "ids",
            "oci",
            "outbound",
            "pipeline",
            "policy",
            "secret",
            "store",
            // Is told of reloads.
            "supervisor",
            "tasks",
            "upstream",
            "vault",
        ],
    ),
    (
        "authorization",
        &[
            "audit", "config", "env", "identity", "ids", "oauth", "outbound", "patch", "pipeline", "policy", "secret",
            "store", "tasks", "vault",
        ],
    ),
    // Secrets that are replayed, sealed in the store by keys that may be elsewhere.
    ("vault", &["audit", "config", "env", "ids", "outbound", "secret", "store", "telemetry"]),
    // Adapters.
    ("policy", &["config", "env", "glob", "identity", "ids", "mcp", "oci", "secret", "telemetry", "upstream"]),
    (
        "upstream",
        &["config", "connection", "ids", "mcp", "oauth", "outbound", "policy", "secret", "tasks", "telemetry"],
    ),
    ("store", &["audit", "connection", "env", "glob", "identity", "ids", "oauth", "secret", "telemetry"]),
    ("outbound", &["oci", "secret"]),
    // Counts for everybody, and sends spans to the one collector that the operator names.
    ("telemetry", &["env", "outbound"]),
    // Nouns.
    (
        "config",
        &[
            "builtin",
            "certificate",
            "connection",
            "env",
            "glob",
            "identity",
            "ids",
            "oauth",
            "oci",
            "outbound",
            "patch",
            "secret",
        ],
    ),
    // A party shows an upstream what it was lent.
    ("mcp", &["connection", "ids", "telemetry", "upstream"]),
    ("connection", &["env", "identity", "ids", "secret"]),
    ("identity", &["env", "glob", "ids", "secret"]),
    ("oauth", &["audit", "env", "identity", "ids", "secret"]),
    ("audit", &["env", "ids"]),
    ("builtin", &[]),
    ("certificate", &["env", "secret"]),
    ("supervisor", &[]),
    ("oci", &[]),
    ("patch", &[]),
    ("words", &[]),
    ("tasks", &[]),
    ("ids", &["env", "secret"]),
    ("secret", &[]),
    ("glob", &[]),
    ("env", &[]),
];

/// Edges between single files that the table above would allow for whole modules, and that are meant for these alone.
const NARROW: &[(&str, &str, &[&str])] = &[
    // `mcp` and `policy` know the noun `Tool`, never a connection.
    ("mcp", "upstream", &["upstream::catalog"]),
    ("policy", "upstream", &["upstream::catalog"]),
    // An upstream takes a permit and knows nothing else of policies.
    ("upstream", "policy", &["policy::Permit"]),
];

/// Crates that appear in one place only.
const HOMES: &[(&str, &[&str])] = &[
    ("axum", &["http"]),
    ("redb", &["store"]),
    ("tokio_postgres", &["store"]),
    ("tokio_postgres_rustls", &["store"]),
    ("deadpool_postgres", &["store"]),
    ("wasmtime", &["policy"]),
    ("wit_component", &["policy"]),
    ("wit_parser", &["policy"]),
    ("wasmparser", &["policy"]),
    ("hyper_rustls", &["outbound"]),
    // In `store` for connections to PostgreSQL, whose `sslmode` is not what HTTP asks of a certificate.
    // In `certificate` and `http` for what listeners show, and how.
    ("rustls", &["certificate", "http", "outbound", "store"]),
    ("tokio_rustls", &["http"]),
    ("x509_cert", &["certificate"]),
    ("listenfd", &["cli"]),
    ("rustls_native_certs", &["store"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    // In `policy` as the error type of wit-component, and no further.
    ("anyhow", &["cli", "policy"]),
    ("notify", &["admin"]),
    ("schemars", &["config"]),
    ("age", &["vault"]),
    ("argon2", &["authorization"]),
    ("askama", &["http"]),
    ("jsonwebtoken", &["oauth"]),
    ("openidconnect", &["authorization"]),
    ("cryptoki", &["vault"]),
    ("jsonschema", &["policy"]),
    ("toml", &["config"]),
    ("tracing_subscriber", &["cli"]),
    ("utoipa", &["http"]),
    ("portcullis_example_upstreams", &["cli"]),
];

struct Source {
    /// Top-level module.
    module: String,
    path: PathBuf,
    text: String,
    /// Without comments and without what is compiled for tests only.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&root).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        Source { module, code: code_of(&text), text, path: relative.to_owned() }
    };
    files.into_iter().map(read).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn code_of(text: &str) -> String {
    let before_tests = text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at]);
    before_tests.lines().map(|line| line.find("//").map_or(line, |at| &line[..at])).collect::<Vec<_>>().join("\n")
}

fn is_test_support(source: &Source) -> bool {
    let name = source.path.to_string_lossy();
    name.ends_with("tests.rs") || name.contains("/tests/") || name.contains("testing")
}

/// The paths after `crate::`, with grouped imports taken apart one level.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let is_path = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
        let end = rest.find(|character: char| !is_path(character)).unwrap_or(rest.len());
        let head = rest[..end].trim_end_matches(':');
        match rest[end..].strip_prefix('{') {
            Some(group) => {
                let members = group[..group.find('}').unwrap_or(group.len())].split(',').map(str::trim);
                for member in members.filter(|member| !member.is_empty()) {
                    let member = member.split([' ', '{']).next().unwrap().trim_end_matches(':');
                    let path = if head.is_empty() { member.to_owned() } else { format!("{head}::{member}") };
                    paths.insert(path.replace("::self", ""));
                }
            }
            None => {
                paths.insert(head.to_owned());
            }
        }
    }
    paths
}

fn top(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

#[test]
fn dependencies_point_down() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module != "lib" && !is_test_support(source)) {
        let may_use =
            allowed.get(source.module.as_str()).unwrap_or_else(|| panic!("{} is not in the table", source.module));
        for path in crate_paths(&source.code) {
            let used = top(&path);
            // Names that the crate root gives to everyone.
            if used == source.module || ["serve", "Config", "Env", "Listeners"].contains(&used) {
                continue;
            }
            if !may_use.contains(&used) {
                wrong.push(format!("{} uses crate::{path}", source.path.display()));
            }
            let narrow = NARROW.iter().find(|(from, to, _)| *from == source.module && *to == used);
            if let Some((_, _, only)) = narrow
                && !only.iter().any(|only| path == *only || path.starts_with(&format!("{only}::")))
            {
                wrong.push(format!("{} uses crate::{path}, and may use only {only:?}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that are not in the table:\n{}", wrong.join("\n"));
}

#[test]
fn no_allowed_arrow_is_unused() {
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for source in sources() {
        for path in crate_paths(&source.code) {
            used.insert((source.module.clone(), top(&path).to_owned()));
        }
    }
    let is_used = |from: &str, to: &str| from == "main" || used.contains(&(from.to_owned(), to.to_owned()));
    let unused: Vec<String> = ALLOWED
        .iter()
        .flat_map(|(from, tos)| tos.iter().map(move |to| (from, to)))
        .filter(|(from, to)| !is_used(from, to))
        .map(|(from, to)| format!("{from} → {to}"))
        .collect();
    assert!(unused.is_empty(), "take these out of the table: {}", unused.join(", "));
}

/// Whether a path begins with the name, and not with one that ends like it.
fn names_crate(code: &str, name: &str) -> bool {
    let is_part = |before: char| before.is_alphanumeric() || before == '_' || before == ':';
    code.match_indices(&format!("{name}::")).any(|(at, _)| !code[..at].ends_with(is_part))
}

#[test]
fn heavy_crates_have_one_home() {
    let mut wrong = Vec::new();
    for source in sources().into_iter().filter(|source| !is_test_support(source)) {
        for (name, homes) in HOMES {
            let uses = names_crate(&source.code, name) || source.code.contains(&format!("use {name};"));
            // A module of ours may be called like a crate.
            let own =
                source.code.contains(&format!("mod {name};")) || source.code.contains(&format!("use super::{name}"));
            if uses && !own && !homes.contains(&source.module.as_str()) {
                wrong.push(format!("{} uses {name}, whose home is {homes:?}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "modules without `//!`: {}", silent.join(", "));
}

#[test]
fn only_policy_makes_permits() {
    for source in sources().iter().filter(|source| source.module != "policy") {
        assert!(!source.code.contains("Permit {"), "{} makes a permit", source.path.display());
    }
}
