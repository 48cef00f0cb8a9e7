//! Policies of the store, over a store in memory: they stand among those of the file, come into force whole, and hold on all
//! gateways.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::poll;
use serde_json::{Map, Value, json};

use super::*;
use crate::admin::Control;
use crate::admin::rollback::Cause;
use crate::admin::testing::{Replica, shared, until};
use crate::audit::{Actor, OperatorProof};
use crate::identity::key::ManagedBy;
use crate::ids::BindingName;

const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);

fn name(name: &str) -> BindingName {
    BindingName::parse(name).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("{value}") };
    object
}

/// The names in force, in the order in which they are asked.
fn names(control: &Control) -> Vec<String> {
    control.snapshot.load().policies.bindings().iter().map(|bound| bound.name().to_string()).collect()
}

/// Of the modules in force, in the order in which they are asked.
fn digests(control: &Control) -> Vec<String> {
    let policies = control.snapshot.load().policies.clone();
    policies.bindings().iter().map(|bound| bound.module().digest.to_string()).collect()
}

/// A module in a file, and a section that binds it as `guard`.
fn guarded(dir: &Path, module: &[u8]) -> (PathBuf, String) {
    let path = dir.join("guard.wasm");
    std::fs::write(&path, module).unwrap();
    let section = format!("[[policies]]\nname = \"guard\"\nmodule = {path:?}\n");
    (path, section)
}

fn builtin(name: &str) -> &'static [u8] {
    crate::builtin::module(name).unwrap()
}

/// An uploaded module, and a definition that binds it.
async fn uploaded(control: &Control) -> (String, Map<String, Value>) {
    let module = crate::builtin::module("template").unwrap().to_vec();
    let ModuleUpload { module, .. } = control.upload_module(module, OPERATOR).await.unwrap();
    let definition = object(json!({ "module": format!("sha256:{}", module.digest) }));
    (module.digest, definition)
}

async fn alone(policies: &[&str]) -> Replica {
    let (store, clock) = shared().await;
    Replica::new(store, &clock, Duration::from_secs(10), policies).await
}

#[tokio::test]
async fn a_module_is_taken_once_and_only_if_it_is_one() {
    let replica = alone(&[]).await;
    let control = &replica.control;
    let (digest, _) = uploaded(control).await;
    let again = control.upload_module(crate::builtin::module("template").unwrap().to_vec(), OPERATOR).await.unwrap();
    assert!(!again.is_new && again.module.digest == digest);
    assert!(again.module.manifest["config_schema"].is_object(), "{}", again.module.manifest);
    assert!(!again.module.manifest["hooks"].as_array().unwrap().is_empty());
    let refused = control.upload_module(b"rubbish".to_vec(), OPERATOR).await.unwrap_err();
    assert!(matches!(refused, PolicyError::Module(_)), "{refused}");
    let unsigned = control.upload_signed_module(b"rubbish".to_vec(), Some("no".to_owned()), OPERATOR).await;
    assert!(unsigned.unwrap_err().to_string().contains("signatures"));
    assert_eq!(control.modules(None, 10).await.unwrap().items.len(), 1);
    control.remove_module(&digest, OPERATOR).await.unwrap();
    assert!(matches!(control.module(&digest).await.unwrap_err(), PolicyError::NoSuchModule));
    replica.stop().await;
}

#[tokio::test]
async fn a_binding_stands_among_those_of_the_file_and_goes_again() {
    let replica = alone(&["of-the-file"]).await;
    let control = &replica.control;
    let (digest, mut definition) = uploaded(control).await;
    definition.insert("priority".to_owned(), json!(-1));
    let altered = control.create_binding(name("mine"), definition.clone(), OPERATOR).await.unwrap();
    assert_eq!((altered.generation, names(control)), (2, vec!["mine".to_owned(), "of-the-file".to_owned()]));
    let snapshot = control.snapshot.load_full();
    let managed: Vec<ManagedBy> = snapshot.policies.bindings().iter().map(|bound| bound.binding().managed_by).collect();
    assert_eq!(managed, [ManagedBy::Store, ManagedBy::File]);
    assert_eq!(control.generations().last().unwrap().cause, Cause::Binding);

    let last = object(json!({ "module": "builtin:template", "priority": 5000 }));
    let stale = control.change_binding(&name("mine"), Some(vec![7]), last.clone(), OPERATOR).await.unwrap_err();
    assert!(matches!(stale, PolicyError::Conflict { revision: 1 }), "{stale}");
    let altered = control.change_binding(&name("mine"), Some(vec![1]), last.clone(), OPERATOR).await.unwrap();
    assert_eq!(altered.binding.unwrap().revision, 2);
    assert_eq!(names(control), ["of-the-file", "mine"]);
    let same = control.change_binding(&name("mine"), None, last, OPERATOR).await.unwrap();
    assert_eq!((same.generation, same.binding.unwrap().revision), (3, 2), "nothing happens for nothing");

    let used = control.remove_module(&digest, OPERATOR).await.unwrap_err();
    assert_eq!(used.to_string(), "the module is used by generation 2, to which one can still go back");
    control.roll_back(None, OPERATOR).await.unwrap();
    assert_eq!(names(control), ["mine", "of-the-file"]);
    let used = control.remove_module(&digest, OPERATOR).await.unwrap_err();
    assert_eq!(used.to_string(), "the module is used by mine", "it is in force");
    assert_eq!(control.reload(OPERATOR).await.unwrap(), 5);
    assert_eq!(names(control), ["of-the-file", "mine"], "what is written counts again");
    control.remove_binding(&name("mine"), Some(vec![2]), OPERATOR).await.unwrap();
    assert_eq!(names(control), ["of-the-file"]);
    assert!(matches!(control.binding(&name("mine")).await.unwrap_err(), PolicyError::NotFound));
    replica.stop().await;
}

#[tokio::test]
async fn what_cannot_be_used_is_not_kept_and_changes_nothing() {
    let replica = alone(&["of-the-file"]).await;
    let control = &replica.control;
    let refused = async |of: &str, definition: Value| {
        control.create_binding(name(of), object(definition), OPERATOR).await.unwrap_err()
    };
    let plain = json!({ "module": "builtin:template" });
    assert!(matches!(refused("of-the-file", plain.clone()).await, PolicyError::NameTaken));
    for (definition, field) in [
        (json!({ "module": "/etc/passwd" }), "module"),
        (json!({ "module": "oci://registry.example/policies@sha256:00" }), "module"),
        (json!({ "module": "sha256:00" }), "module"),
        (json!({ "module": "builtin:template", "tests": "/etc/passwd" }), "tests"),
        (json!({ "module": "builtin:template", "mode": "loud" }), "mode"),
        (json!({ "module": "builtin:template", "config": { "a": null } }), "config.a"),
        (json!({ "module": "builtin:template", "name": "another" }), "name"),
    ] {
        let PolicyError::Mistakes(misfits) = refused("mine", definition.clone()).await else {
            panic!("{definition}");
        };
        assert_eq!(misfits[0].field.as_deref(), Some(field), "{definition}: {misfits:?}");
    }
    let gone = refused("mine", json!({ "module": format!("sha256:{}", "0".repeat(64)) })).await;
    assert!(
        matches!(&gone, PolicyError::Refused(errors) if errors.to_string().contains("no uploaded module")),
        "{gone}"
    );
    let greedy = json!({ "module": "builtin:template", "limits": { "memory": "256MiB" } });
    assert!(matches!(refused("mine", greedy).await, PolicyError::Refused(_)));
    for outcome in [
        control.change_binding(&name("of-the-file"), None, object(plain.clone()), OPERATOR).await,
        control.remove_binding(&name("of-the-file"), None, OPERATOR).await,
    ] {
        assert!(matches!(outcome.unwrap_err(), PolicyError::ManagedByFile));
    }
    let nobody = control.remove_binding(&name("mine"), None, OPERATOR).await.unwrap_err();
    assert!(matches!(nobody, PolicyError::NotFound));
    assert_eq!((names(control), control.generations().len()), (vec!["of-the-file".to_owned()], 1));
    assert!(control.bindings(None, 10).await.unwrap().items.is_empty());
    replica.stop().await;
}

#[tokio::test]
async fn a_rehearsal_saves_nothing() {
    let replica = alone(&[]).await;
    let control = &replica.control;
    let (_, definition) = uploaded(control).await;
    let changes = control.rehearse_binding(&name("mine"), Some(definition.clone()), OPERATOR).await.unwrap();
    assert_eq!(changes.different, [], "nothing was recorded");
    assert!(names(control).is_empty() && control.bindings(None, 10).await.unwrap().items.is_empty());
    let wrong = object(json!({ "module": "builtin:nothing" }));
    assert!(matches!(
        control.rehearse_binding(&name("mine"), Some(wrong), OPERATOR).await,
        Err(PolicyError::Mistakes(_))
    ));
    assert!(matches!(control.rehearse_binding(&name("mine"), None, OPERATOR).await, Err(PolicyError::NotFound)));
    control.create_binding(name("mine"), definition, OPERATOR).await.unwrap();
    control.rehearse_binding(&name("mine"), None, OPERATOR).await.unwrap();
    assert_eq!(names(control), ["mine"]);
    replica.stop().await;
}

#[tokio::test]
async fn a_file_that_takes_a_name_is_refused_and_what_runs_stays() {
    let replica = alone(&[]).await;
    let control = &replica.control;
    let (_, definition) = uploaded(control).await;
    control.create_binding(name("mine"), definition, OPERATOR).await.unwrap();
    replica.configure(&["mine"]);
    let refused = control.reload(OPERATOR).await.unwrap_err().explain();
    assert!(refused.contains("mine") && refused.contains("the store has"), "{refused}");
    let managed = control.snapshot.load().policies.bindings()[0].binding().managed_by;
    assert_eq!((names(control), managed), (vec!["mine".to_owned()], ManagedBy::Store));
    replica.stop().await;
}

#[tokio::test]
async fn what_is_bound_on_one_gateway_holds_on_the_others_and_after_a_start() {
    let (store, clock) = shared().await;
    let one = Replica::start(store.as_replica(1), &clock, &["of-the-file"]).await;
    let other = Replica::start(store.as_replica(2), &clock, &["of-the-file"]).await;
    let (_, definition) = uploaded(&one.control).await;
    one.control.create_binding(name("mine"), definition, OPERATOR).await.unwrap();
    until("the other has it", async || names(&other.control).len() == 2).await;
    assert_eq!(names(&other.control), names(&one.control));
    let started = Replica::new(store.as_replica(3), &clock, Duration::from_secs(10), &["of-the-file"]).await;
    assert_eq!(names(&started.control), names(&one.control));
    other.control.remove_binding(&name("mine"), None, OPERATOR).await.unwrap();
    until("it is gone there too", async || names(&one.control).len() == 1).await;
    for replica in [one, other, started] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn what_was_gone_back_from_can_be_declared_again() {
    let replica = alone(&["of-the-file"]).await;
    let control = &replica.control;
    let (_, definition) = uploaded(control).await;
    control.create_binding(name("mine"), definition.clone(), OPERATOR).await.unwrap();
    control.roll_back(None, OPERATOR).await.unwrap();
    assert_eq!(names(control), ["of-the-file"]);
    let again = control.change_binding(&name("mine"), None, definition, OPERATOR).await.unwrap();
    assert_eq!((again.generation, names(control).len()), (4, 2));
    replica.stop().await;
}

#[tokio::test]
async fn a_rollback_goes_back_from_what_was_not_followed_yet() {
    let (store, clock) = shared().await;
    let patience = Duration::from_secs(10);
    // Neither looks at what the other does before it is told to.
    let one = Replica::new(store.as_replica(1), &clock, patience, &["of-the-file"]).await;
    let other = Replica::new(store.as_replica(2), &clock, patience, &["of-the-file"]).await;
    let (_, definition) = uploaded(&one.control).await;
    one.control.create_binding(name("first"), definition.clone(), OPERATOR).await.unwrap();
    other.control.create_binding(name("second"), definition.clone(), OPERATOR).await.unwrap();
    one.control.roll_back(None, OPERATOR).await.unwrap();
    one.control.follow_bindings().await;
    assert_eq!(names(&one.control), ["of-the-file"]);
    other.control.create_binding(name("third"), definition, OPERATOR).await.unwrap();
    one.control.follow_bindings().await;
    assert_eq!(names(&one.control).len(), 4, "what was bound since counts");
    for replica in [one, other] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_change_of_the_store_reads_no_files() {
    let (dir, (store, clock)) = (tempfile::tempdir().unwrap(), shared().await);
    let (path, section) = guarded(dir.path(), builtin("template"));
    let patience = Duration::from_secs(10);
    let one = Replica::configured(store.as_replica(1), &clock, patience, (&[], &section)).await;
    let other = Replica::configured(store.as_replica(2), &clock, patience, (&[], &section)).await;
    let control = &one.control;
    let before = digests(control);

    // Another module that nobody has asked for yet, then none at all.
    std::fs::write(&path, builtin("allow-tools")).unwrap();
    let definition = object(json!({ "module": "builtin:template", "priority": 5000 }));
    control.create_binding(name("mine"), definition, OPERATOR).await.unwrap();
    assert_eq!((names(control), &digests(control)[0]), (vec!["guard".to_owned(), "mine".to_owned()], &before[0]));
    std::fs::write(&path, b"rubbish").unwrap();
    other.control.follow_bindings().await;
    assert_eq!((names(&other.control), other.control.bindings_not_followed()), (names(control), None));
    std::fs::remove_file(&path).unwrap();
    control.rehearse_binding(&name("mine"), None, OPERATOR).await.unwrap();
    control.remove_binding(&name("mine"), None, OPERATOR).await.unwrap();
    assert_eq!(digests(control), before);

    std::fs::write(&path, b"rubbish").unwrap();
    let refused = control.reload(OPERATOR).await.unwrap_err().explain();
    assert!(refused.contains("policy guard: module: ") && refused.contains("guard.wasm"), "{refused}");
    std::fs::write(&path, builtin("allow-tools")).unwrap();
    control.reload(OPERATOR).await.unwrap();
    assert_ne!(digests(control), before, "who asks for it has it");
    for replica in [one, other] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_change_of_the_store_leaves_what_the_file_was_rolled_back_to() {
    let (dir, (store, clock)) = (tempfile::tempdir().unwrap(), shared().await);
    let (path, section) = guarded(dir.path(), builtin("template"));
    let replica = Replica::configured(store, &clock, Duration::from_secs(10), (&[], &section)).await;
    let control = &replica.control;
    let first = digests(control);
    let definition = object(json!({ "module": "builtin:template", "priority": 5000 }));
    control.create_binding(name("mine"), definition.clone(), OPERATOR).await.unwrap();
    std::fs::write(&path, builtin("allow-tools")).unwrap();
    control.reload(OPERATOR).await.unwrap();
    let second = digests(control);
    assert_ne!(second[0], first[0]);

    // From before there was anything in the store: what it has comes back with any change, and the file's does not.
    control.roll_back(Some(1), OPERATOR).await.unwrap();
    assert_eq!((names(control), digests(control)), (vec!["guard".to_owned()], first.clone()));
    control.create_binding(name("another"), definition, OPERATOR).await.unwrap();
    assert_eq!(
        (names(control), &digests(control)[0]),
        (["guard", "another", "mine"].map(str::to_owned).to_vec(), &first[0])
    );
    control.remove_binding(&name("mine"), None, OPERATOR).await.unwrap();
    control.remove_binding(&name("another"), None, OPERATOR).await.unwrap();
    assert_eq!(digests(control), first);
    control.reload(OPERATOR).await.unwrap();
    assert_eq!(digests(control), second[..1], "the file counts again");
    replica.stop().await;
}

#[tokio::test]
async fn a_change_that_has_begun_goes_on_though_nobody_waits_for_it() {
    let replica = alone(&["of-the-file"]).await;
    let control = &replica.control;
    let definition = object(json!({ "module": "builtin:allow-tools" }));
    {
        let mut change = std::pin::pin!(control.create_binding(name("mine"), definition, OPERATOR));
        assert!(poll!(&mut change).is_pending());
    }
    assert!(control.changing.try_lock().is_err(), "nobody else changes anything meanwhile");
    control.reload(OPERATOR).await.unwrap();
    assert_eq!((names(control).len(), control.bindings(None, 10).await.unwrap().items.len()), (2, 1));
    assert_eq!(control.generations().iter().map(|one| one.number).collect::<Vec<_>>(), [1, 3], "one after the other");
    {
        let mut reload = std::pin::pin!(control.reload(OPERATOR));
        assert!(poll!(&mut reload).is_pending());
    }
    {
        let mut rollback = std::pin::pin!(control.roll_back(None, OPERATOR));
        assert!(poll!(&mut rollback).is_pending(), "who waits for a turn may give up");
    }
    control.remove_binding(&name("mine"), None, OPERATOR).await.unwrap();
    assert_eq!(control.snapshot.load().policies.generation(), 5);
    replica.stop().await;
}

/// Names move between the file and the store; whoever goes back to a set from before finds them where they were.
#[tokio::test]
async fn whose_a_name_is_now_counts_after_a_rollback() {
    let to_the_file = alone(&[]).await;
    let control = &to_the_file.control;
    let (_, definition) = uploaded(control).await;
    control.create_binding(name("guard"), definition.clone(), OPERATOR).await.unwrap();
    let was_stored = control.generations().last().unwrap().number;
    control.remove_binding(&name("guard"), None, OPERATOR).await.unwrap();
    to_the_file.configure(&["guard"]);
    control.reload(OPERATOR).await.unwrap();
    control.roll_back(Some(was_stored), OPERATOR).await.unwrap();
    control.create_binding(name("other"), definition.clone(), OPERATOR).await.unwrap();
    assert_eq!(names(control).len(), 2, "the file's is not lost: {:?}", names(control));
    let guard = control.binding(&name("guard")).await.unwrap_err();
    assert!(matches!(guard, PolicyError::ManagedByFile), "{guard}");
    to_the_file.stop().await;

    let to_the_store = alone(&["guard"]).await;
    let control = &to_the_store.control;
    let of_file = digests(control);
    to_the_store.configure(&[]);
    control.reload(OPERATOR).await.unwrap();
    let another = object(json!({ "module": "builtin:allow-tools" }));
    control.create_binding(name("guard"), another.clone(), OPERATOR).await.unwrap();
    let stored = digests(control);
    control.roll_back(Some(1), OPERATOR).await.unwrap();
    assert_eq!((&digests(control), of_file == stored), (&of_file, false));
    control.create_binding(name("other"), another, OPERATOR).await.unwrap();
    assert_eq!(digests(control), [&*stored, &*stored].concat(), "what the store has of this name is in force");
    to_the_store.stop().await;
}
