//! Compiled code on disk: used when it is whole and ours, and otherwise made again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wasmtime::component::Component;

use super::guest::{Guest, deny};
use crate::env::Env;
use crate::policy::cache::CodeCache;
use crate::policy::engine::{Runtime, Size};
use crate::policy::{Engine, Hook, Module, componentize};
use crate::secret::DeploymentSecret;

fn secret(byte: u8) -> Arc<DeploymentSecret> {
    Arc::new(DeploymentSecret::new(&[byte; 32]))
}

fn open(directory: &Path) -> CodeCache {
    CodeCache::open(directory, secret(1)).unwrap()
}

fn guest(code: &str) -> Vec<u8> {
    Guest::new().answers(Hook::ToolCall, deny(code)).core()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn runtime(engine: &Engine) -> &Runtime {
    engine.runtime(Size::Small).unwrap()
}

/// A component and its compiled form in a cache of its own.
fn kept(engine: &Engine, cache: &CodeCache, code: &str) -> Vec<u8> {
    let component = componentize(&guest(code)).unwrap();
    let compiled = Component::from_binary(&runtime(engine).wasm, &component).unwrap();
    cache.put(runtime(engine), &component, &compiled);
    component
}

#[test]
fn what_was_compiled_once_is_not_compiled_again() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("policy-cache");
    let start = || Engine::start_with(1, Env::system(), Some(open(&directory))).unwrap();
    let first = Module::load(&start(), &guest("one")).unwrap();
    let found = files(&directory);
    assert_eq!(found.len(), 1);
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&found[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&found[0]).unwrap();
    fs::File::open(&found[0]).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    // Another engine, as another process would have it.
    let again = Module::load(&start(), &guest("one")).unwrap();
    assert_eq!(first.digest(), again.digest());
    assert!(files(&directory) == found && fs::read(&found[0]).unwrap() == before);
    let used = fs::metadata(&found[0]).unwrap().modified().unwrap();
    assert!(used > SystemTime::UNIX_EPOCH + Duration::from_secs(1), "the file says when it was last of use");
    let config = "{}".into();
    let preparation = crate::policy::prepared::Preparation {
        policy: "one",
        config: &config,
        memory_bytes: 4 << 20,
        reuse: crate::config::Reuse::Frozen,
        sets: &Arc::default(),
    };
    again.prepare(&preparation).unwrap();
    assert_eq!(files(&directory).len(), 3, "what it takes to freeze it is kept too");
}

#[test]
fn what_was_tampered_with_is_removed_and_never_run() {
    let engine = Engine::start(1).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let cache = open(directory.path());
    let component = kept(&engine, &cache, "one");
    let [file] = &files(directory.path())[..] else { panic!("one file") };
    let whole = fs::read(file).unwrap();
    assert!(cache.get(runtime(&engine), &component).is_some());
    type Spoil = fn(&mut Vec<u8>);
    let spoils: [(&str, Spoil); 7] = [
        ("a bit of the code", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("a bit in the middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }),
        ("a bit of the tag", |bytes| bytes[8] ^= 1),
        ("the tag's length", |bytes| bytes[0] = 0xff),
        ("its end", |bytes| bytes.truncate(bytes.len() - 1)),
        ("more at its end", |bytes| bytes.push(0)),
        ("all of it", Vec::clear),
    ];
    for (what, spoil) in spoils {
        let mut bytes = whole.clone();
        spoil(&mut bytes);
        fs::write(file, &bytes).unwrap();
        assert!(cache.get(runtime(&engine), &component).is_none(), "{what}");
        assert!(!file.exists(), "{what}");
    }
    fs::write(file, &whole).unwrap();
    let other = CodeCache::open(directory.path(), secret(2)).unwrap();
    assert!(other.get(runtime(&engine), &component).is_none(), "another deployment's tag is no tag");
    // The code of one component does not pass for another's.
    let another = kept(&engine, &cache, "two");
    let [of_another] = &files(directory.path())[..] else { panic!("one file") };
    fs::write(of_another, &whole).unwrap();
    assert!(cache.get(runtime(&engine), &another).is_none());
    // Nor does a link to it.
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    fs::write(elsewhere.path(), &whole).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), file).unwrap();
    assert!(cache.get(runtime(&engine), &component).is_none());
}

#[test]
fn a_directory_that_others_can_reach_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o755, 0o770, 0o701] {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = CodeCache::open(directory.path(), secret(1)).unwrap_err();
        assert!(error.to_string().contains("is not private"), "{error}");
    }
}

#[test]
fn what_was_of_no_use_for_longest_makes_room() {
    let engine = Engine::start(1).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("cache");
    let cache = open(&directory);
    let components: Vec<Vec<u8>> = ["one", "two", "three"].map(|code| kept(&engine, &cache, code)).into();
    let size = fs::metadata(&files(&directory)[0]).unwrap().len();
    for file in files(&directory) {
        fs::File::open(file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    assert!(cache.get(runtime(&engine), &components[1]).is_some());
    // A file that a process left behind when it ended.
    let draft = directory.join("abc.1.0.draft");
    fs::write(&draft, "half").unwrap();
    fs::File::open(&draft).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let bounded = cache.bounded(size * 5 / 2);
    let newest = kept(&engine, &bounded, "four");
    let there = |component: &Vec<u8>| bounded.get(runtime(&engine), component).is_some();
    assert!(there(&newest) && there(&components[1]));
    assert_eq!(files(&directory).len(), 2);
    assert!(!there(&components[0]) && !there(&components[2]) && !draft.exists());
}

#[test]
fn many_may_use_one_directory() {
    let engine = Engine::start(1).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("cache");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = open(&directory);
                for round in 0..5 {
                    let component = kept(&engine, &cache, &format!("round.{round}"));
                    assert!(cache.get(runtime(&engine), &component).is_some());
                }
            });
        }
    });
    assert_eq!(files(&directory).len(), 5);
    assert!(files(&directory).iter().all(|file| file.extension().is_some_and(|extension| extension == "code")));
}
