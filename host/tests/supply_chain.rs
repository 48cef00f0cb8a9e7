//! What may be built into the gateway, and from where: `Cargo.lock` and what cargo makes of it against `deny.toml`, without the
//! network. Licences and doubles of a crate are left to cargo-deny, which reads the same file; so are other systems than this one.
//! The tools of the test suites are here as well: each is what its lock says.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the files fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(file: &str) -> Table {
    fs::read_to_string(root().join(file)).unwrap().parse().unwrap()
}

/// An array of tables in a table.
fn tables<'a>(table: &'a Table, name: &str) -> impl Iterator<Item = &'a Table> {
    table.get(name).and_then(Value::as_array).into_iter().flatten().map(|member| member.as_table().unwrap())
}

fn text<'a>(table: &'a Table, name: &str) -> Option<&'a str> {
    table.get(name).and_then(Value::as_str)
}

/// Every manifest of ours with its path: the workspace, its members, and the fuzz targets beside it.
fn manifests() -> Vec<(String, Table)> {
    let workspace = read("Cargo.toml");
    let members = workspace["workspace"]["members"].as_array().unwrap().iter().map(|member| member.as_str().unwrap());
    let others: Vec<String> = members.chain(["tests/fuzz"]).map(|member| format!("{member}/Cargo.toml")).collect();
    let mut all = vec![("Cargo.toml".to_owned(), workspace)];
    all.extend(others.into_iter().map(|file| (file.clone(), read(&file))));
    all
}

/// The dependencies that a manifest declares, whatever they are for.
fn dependencies(table: &Table) -> Vec<(&str, &Value)> {
    let mut found = Vec::new();
    for (name, value) in table.iter().filter_map(|(name, value)| Some((name, value.as_table()?))) {
        if name.ends_with("dependencies") {
            found.extend(value.iter().map(|(name, wanted)| (name.as_str(), wanted)));
        } else if ["target", "workspace"].contains(&name.as_str()) || name.starts_with("cfg(") {
            found.extend(dependencies(value));
        }
    }
    found
}

/// What `cargo tree` says of this system, line by line. What was built once is there, so that it needs no network.
fn tree(words: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["tree", "--locked", "--offline", "--workspace", "--prefix", "none"]).args(words);
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_crate_is_ours_or_of_the_one_registry_with_its_checksum() {
    let lock = read("Cargo.lock");
    let mut registries = BTreeSet::new();
    let mut own = BTreeSet::new();
    for package in tables(&lock, "package") {
        let name = text(package, "name").unwrap();
        let Some(source) = text(package, "source") else {
            own.insert(name.to_owned());
            continue;
        };
        assert!(source.starts_with("registry+"), "{name} comes from {source}");
        let is_digest = |sum: &str| sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(text(package, "checksum").is_some_and(is_digest), "{name} has no checksum");
        registries.insert(source);
    }
    assert_eq!(registries.len(), 1, "{registries:?}");
    let members = manifests().into_iter().filter(|(file, _)| file != "tests/fuzz/Cargo.toml");
    let names = members.filter_map(|(_, manifest)| Some(manifest.get("package")?["name"].as_str()?.to_owned()));
    assert_eq!(own, names.collect(), "what has no source is a member of the workspace");
}

/// Without a word about it, a dependency comes from cargo's own registry: nothing of ours says another one.
#[test]
fn no_manifest_names_another_source_or_any_version() {
    for (file, manifest) in manifests() {
        for (name, wanted) in dependencies(&manifest) {
            let table = wanted.as_table();
            for key in ["git", "registry", "registry-index"] {
                assert!(!table.is_some_and(|table| table.contains_key(key)), "{file}: {name} has {key}");
            }
            let path = table.and_then(|table| text(table, "path"));
            if let Some(path) = path {
                let place = root().join(&file).parent().unwrap().join(path).canonicalize().unwrap();
                assert!(place.starts_with(root().canonicalize().unwrap()), "{file}: {name} is outside");
            }
            let version = wanted.as_str().or_else(|| text(table?, "version"));
            assert!(!version.is_some_and(|version| version.contains('*')), "{file}: any {name} would do");
            let is_shared = table.is_some_and(|table| table.contains_key("workspace"));
            assert!(version.is_some() || path.is_some() || is_shared, "{file}: {name} has no version");
        }
        for key in ["patch", "replace"] {
            assert!(!manifest.contains_key(key), "{file} has [{key}]");
        }
    }
    let nothing_else: Table = "unknown-git = \"deny\"\nunknown-registry = \"deny\"".parse().unwrap();
    assert_eq!(read("deny.toml")["sources"].as_table(), Some(&nothing_else));
}

/// `Cargo.lock` may name a crate that nothing uses, since what a feature could ask for is locked too: cargo tells what is built.
#[test]
fn nothing_that_is_banned_is_built() {
    let built = tree(&["--edges", "normal,build,dev"]);
    let is_built = |name: &str| built.iter().any(|line| line.split(' ').next() == Some(name));
    assert!(is_built("aws-lc-rs") && is_built("portcullis"), "{built:?}");
    let deny = read("deny.toml");
    let bans = deny["bans"].as_table().unwrap();
    assert!(tables(bans, "deny").count() > 0);
    for ban in tables(bans, "deny") {
        let name = text(ban, "crate").unwrap();
        assert!(!is_built(name), "{name} is built: {}", text(ban, "reason").unwrap());
    }
    for ban in tables(bans, "features") {
        let name = text(ban, "crate").unwrap();
        let features = tree(&["--edges", "features", "--depth", "1", "--invert", name]);
        assert!(features.contains(&format!("{name} feature \"default\"")), "{features:?}");
        for feature in ban["deny"].as_array().unwrap() {
            let line = format!("{name} feature {feature}");
            assert!(!features.contains(&line), "{line}");
        }
    }
}

#[test]
fn the_tools_of_the_suites_are_what_their_locks_say() {
    let lock: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(root().join("tests/package-lock.json")).unwrap()).unwrap();
    let packages = lock["packages"].as_object().unwrap().iter().filter(|(place, _)| !place.is_empty());
    let mut count = 0;
    for (place, package) in packages {
        let digest = package["integrity"].as_str().unwrap_or_default();
        assert!(digest.starts_with("sha512-"), "{place} has no digest");
        count += 1;
    }
    assert!(count > 100, "{count}");
    let requirements = fs::read_to_string(root().join("tests/requirements.txt")).unwrap();
    for line in requirements.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.split_once("==").is_some_and(|(_, version)| !version.contains('*')), "{line} is not one version");
    }
}
