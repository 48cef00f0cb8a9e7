//! From settings to policies in force: each step refuses what it is there for and says so, and what did not change is not
//! made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest::{Guest, deny};
use super::scene::{call, caller, context, engine, tool, upstream};
use crate::config::{self, Binding, Grant, ModuleSource, PolicySettings, Reuse, Signatures, TrustedKey};
use crate::identity::key::ManagedBy;
use crate::ids::BindingName;
use crate::oci::Pulled;
use crate::policy::contract;
use crate::policy::replay::PastQuestion;
use crate::policy::signature::{SignatureFile, SigningKey, file_beside};
use crate::policy::workbench::Workbench;
use crate::policy::{
    Counters, Hook, ImportCall, InstanceMode, LoadErrors, OfFile, PolicySet, Publication, Published, Uploaded,
};
use crate::secret::Digest;

/// A module in the dynamic lane that answers each hook in the same way. Its `configure` refuses a configuration whose text is
/// longer than `most` bytes.
fn dynamic(description: &Value, answer: &Value, most: usize) -> Vec<u8> {
    guest(description, &[answer.clone(), json!(null)], most, "", "", "(i32.const 1)")
}

/// The same with two answers: the first where WAT says so, else the second.
fn guest(
    description: &Value,
    answers: &[Value; 2],
    most: usize,
    imports: &str,
    fields: &str,
    condition: &str,
) -> Vec<u8> {
    let problem = json!([{ "path": "/rules/0", "message": "too long" }]);
    let [answer, other] = answers.each_ref().map(ToString::to_string);
    let texts = [description.to_string(), "[]".to_owned(), problem.to_string(), answer, other];
    let mut at = 1024;
    let mut data = String::new();
    let mut places = Vec::new();
    for text in &texts {
        let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        data.push_str(&format!("(data (i32.const {at}) \"{escaped}\")"));
        places.push((at, text.len()));
        at += text.len().next_multiple_of(8);
    }
    let [(described, described_len), (fine, fine_len), (wrong, wrong_len), yes, no] = places[..] else {
        unreachable!("there are five texts")
    };
    let returns = |case: u32, text: usize, len: usize| {
        format!(
            "(i32.store (i32.const 8) (i32.const {case})) (i32.store (i32.const 12) (i32.const {text})) (i32.store (i32.const 16) (i32.const {len}))"
        )
    };
    let wat = format!(
        r#"(module {imports}
            (memory (export "memory") 4) {data} {fields}
            (global $next (mut i32) (i32.const {at}))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.get $next)
                (global.set $next (i32.add (global.get $next) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8)))))
            (func (export "{namespace}dynamic@{version}#describe") (result i32)
                (i32.store (i32.const 8) (i32.const {described})) (i32.store (i32.const 12) (i32.const {described_len}))
                (i32.const 8))
            (func (export "{namespace}dynamic@{version}#configure") (param i32 i32) (result i32)
                (if (i32.gt_u (local.get 1) (i32.const {most})) (then {refuses}) (else {accepts})) (i32.const 8))
            (func (export "{namespace}dynamic@{version}#decide") (param i32 i32 i32 i32) (result i32)
                (if {condition} (then {answers}) (else {otherwise})) (i32.const 8)))"#,
        namespace = contract::NAMESPACE,
        version = contract::VERSION,
        refuses = returns(1, wrong, wrong_len),
        accepts = returns(0, fine, fine_len),
        answers = returns(0, yes.0, yes.1),
        otherwise = returns(0, no.0, no.1),
    );
    wat::parse_str(wat).unwrap()
}

fn description(more: &Value) -> Value {
    let mut description = json!({
        "name": "test", "version": "1.0.0", "title": "Test", "hooks": ["tool-call"], "config_schema": {}, "sample_config": {},
    });
    for (name, value) in more.as_object().unwrap() {
        description[name] = value.clone();
    }
    description
}

fn denial(code: &str) -> Value {
    json!({ "deny": { "reason": { "code": code, "message": "No." } } })
}

/// A directory with modules, and settings that bind them.
struct Scene {
    dir: TempDir,
    settings: PolicySettings,
    counters: Counters,
    kept: Vec<Arc<PolicySet>>,
}

impl Scene {
    /// One binding, `guard`, to `guard.wasm`.
    fn new(module: &[u8]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("guard.wasm");
        let binding = Binding::new(BindingName::parse("guard").unwrap(), ModuleSource::File(path));
        let settings = PolicySettings { bindings: vec![binding], ..PolicySettings::default() };
        let scene = Self { dir, settings, counters: Counters::default(), kept: Vec::new() };
        scene.write("guard.wasm", module);
        scene
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn guard(&mut self) -> &mut Binding {
        &mut self.settings.bindings[0]
    }

    fn try_publish(&mut self, recorded: &[PastQuestion]) -> Result<Published, LoadErrors> {
        self.try_publish_with(&self.settings, &OfFile::Read, recorded)
    }

    fn try_publish_with(
        &self,
        settings: &PolicySettings,
        of_file: &OfFile,
        recorded: &[PastQuestion],
    ) -> Result<Published, LoadErrors> {
        let generation = self.kept.len() as u64 + 1;
        let publication = Publication {
            settings,
            upstreams: &[upstream("notes")],
            engine: engine(),
            counters: &self.counters,
            builtins: &|_| None,
            of_file,
            pulled: &Pulled::new(),
            uploaded: &Uploaded::new(),
            previous: &self.kept.iter().map(Arc::as_ref).collect::<Vec<_>>(),
            recorded,
            generation,
        };
        publication.run()
    }

    fn publish(&mut self) -> Arc<PolicySet> {
        let published = self.try_publish(&[]).unwrap_or_else(|errors| panic!("{errors}"));
        let set = Arc::new(published.policies);
        self.kept.push(set.clone());
        set
    }

    fn refusal(&mut self) -> String {
        match self.try_publish(&[]) {
            Ok(_) => panic!("it should be refused"),
            Err(errors) => errors.to_string(),
        }
    }
}

/// Publishes, and compares what is complained of.
#[track_caller]
fn refused(scene: &mut Scene, step: &str, parts: &[&str]) {
    let told = scene.refusal();
    assert!(told.starts_with(&format!("policy guard: {step}: ")), "{told:?} is not about {step}");
    for part in parts {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
}

#[test]
fn each_step_refuses_what_it_is_there_for() {
    let good = dynamic(&description(&json!({})), &json!("abstain"), 1000);

    let mut scene = Scene::new(&good);
    scene.guard().module = ModuleSource::File("/nowhere/guard.wasm".into());
    refused(&mut scene, "read", &["/nowhere/guard.wasm"]);

    let mut scene = Scene::new(&good);
    scene.guard().digest = Some("00".repeat(32));
    let found = Digest::of(&good).to_hex();
    refused(&mut scene, "digest", &[&found, &"00".repeat(32)]);
    scene.guard().digest = Some(found);
    scene.publish();

    refused(&mut Scene::new(b"no module"), "module", &["no WebAssembly"]);

    let wants = description(&json!({ "capabilities": ["counters", "sets"], "determinism": "stateful" }));
    let mut scene = Scene::new(&dynamic(&wants, &json!("abstain"), 1000));
    scene.guard().grants = vec![Grant::Sets];
    refused(&mut scene, "grants", &["counters", "grants = [\"counters\"]"]);
    scene.guard().grants = vec![Grant::Sets, Grant::Counters, Grant::Clock];
    assert_eq!(scene.publish().bindings()[0].warnings(), ["it is granted clock, which it does not want"]);

    let schema =
        json!({ "config_schema": { "properties": { "rules": { "maxItems": 1 } }, "additionalProperties": false } });
    let mut scene = Scene::new(&dynamic(&description(&schema), &json!("abstain"), 1000));
    scene.guard().config = json!({ "rules": [1, 2], "extra": 1 });
    refused(&mut scene, "schema", &["/rules: ", "extra"]);
    scene.guard().config = json!({ "rules": [1] });
    scene.publish();

    let broken = json!({ "config_schema": { "type": "nothing" } });
    refused(&mut Scene::new(&dynamic(&description(&broken), &json!("abstain"), 1000)), "schema", &["nothing"]);

    let mut scene = Scene::new(&dynamic(&description(&json!({})), &json!("abstain"), 8));
    scene.guard().config = json!({ "long": "configuration" });
    refused(&mut scene, "configure", &["/rules/0: too long"]);
    scene.guard().config = json!({});
    scene.publish();
}

#[test]
fn what_the_file_binds_stays_what_it_is_where_nothing_is_read() {
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &denial("one"), 1000));
    scene.guard().config = json!({ "first": true });
    let set = scene.publish();
    let stored = |module: PathBuf| Binding {
        managed_by: ManagedBy::Store,
        ..Binding::new(BindingName::parse("stored").unwrap(), ModuleSource::File(module))
    };
    let module = scene.write("stored.wasm", &dynamic(&description(&json!({})), &denial("two"), 1000));
    let path = scene.write("guard.wasm", b"no module");
    // What was loaded otherwise since, or says otherwise, is not what is in force.
    scene.guard().config = json!({ "second": true });
    scene.settings.record = true;

    let of_file = OfFile::InForce(set.clone());
    let settings = of_file.settings(&scene.settings, |_| false).with([stored(module.clone())]);
    assert!(!settings.record && of_file.references(&settings).is_empty());
    let beside = scene.try_publish_with(&settings, &of_file, &[]).unwrap().policies;
    let [guard, other] = beside.bindings() else { panic!("{:?}", beside.bindings()) };
    assert!(
        Arc::ptr_eq(guard.loaded(), set.bindings()[0].loaded())
            && guard.prepared.is_same_as(&set.bindings()[0].prepared)
    );
    assert_eq!((&guard.binding().config, other.name().as_str()), (&json!({ "first": true }), "stored"));

    // One of the store does not stay for having been there.
    scene.write("stored.wasm", b"no module");
    let again = OfFile::InForce(Arc::new(beside));
    let settings = again.settings(&scene.settings, |_| false);
    assert_eq!(settings.bindings.len(), 1);
    let told = scene.try_publish_with(&settings.with([stored(module)]), &again, &[]).unwrap_err().to_string();
    assert!(told.contains("policy stored: module: ") && !told.contains("guard"), "{told}");
    refused(&mut scene, "module", &[&path.display().to_string(), "no WebAssembly"]);
}

#[test]
fn what_is_wrong_with_several_bindings_is_told_of_each() {
    let mut scene = Scene::new(b"no module");
    let other = Binding::new(BindingName::parse("other").unwrap(), ModuleSource::Builtin("none".to_owned()));
    scene.settings.bindings.push(other);
    let told = scene.refusal();
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains("policy guard: module: ") && told.contains("policy other: read: "), "{told}");
}

#[test]
fn a_mistake_in_a_configuration_is_told_with_its_line() {
    let schema = json!({ "config_schema": { "properties": { "rules": { "items": { "type": "string" } } } } });
    let scene = Scene::new(&dynamic(&description(&schema), &json!("abstain"), 8));
    let file = "[[policies]]\nname = 'guard'\nmodule = 'guard.wasm'\n[policies.config]\nrules = [\n  'a',\n  2,\n]\n";
    let path = scene.write("portcullis.toml", file.as_bytes());
    let load = |path: &Path| {
        let config = config::load(path, &|_| None, crate::env::Timestamp::from_millis(0)).unwrap();
        PolicySet::load(&config.policy, &[], engine(), &|_| None, None, 1).unwrap_err().to_string()
    };
    let told = load(&path);
    assert!(told.contains("/rules/1 (line 7): "), "{told}");
    // What `configure` complains of is told in the same way.
    scene.write("portcullis.toml", file.replace("  2,\n", "").as_bytes());
    let told = load(&path);
    assert!(told.contains("policy guard: configure: ") && told.contains("/rules/0 (line 6): too long"), "{told}");
}

#[test]
fn a_module_needs_the_signatures_that_the_operator_asks_for() {
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &json!("abstain"), 1000));
    let (key, stranger) = (SigningKey::of_seed(&[1; 32]), SigningKey::of_seed(&[2; 32]));
    scene.settings.signatures = Signatures::Any;
    refused(&mut scene, "signature", &["policy.trusted_keys"]);
    scene.settings.trusted_keys = vec![TrustedKey { name: "build".to_owned(), key: key.public().to_bytes() }];
    refused(&mut scene, "signature", &["not signed", "guard.wasm.sig"]);

    let beside = file_beside(&scene.path("guard.wasm"));
    let module = fs::read(scene.path("guard.wasm")).unwrap();
    let sign = |key: &SigningKey, module: &[u8]| {
        let mut signatures = SignatureFile::of(&Digest::of(module).to_hex());
        signatures.add(key);
        fs::write(&beside, signatures.to_json()).unwrap();
    };
    sign(&stranger, &module);
    refused(&mut scene, "signature", &["no trusted key", &stranger.public().id()]);
    sign(&key, b"another module");
    refused(&mut scene, "signature", &["of other bytes"]);
    fs::write(&beside, "{").unwrap();
    refused(&mut scene, "signature", &["cannot be read"]);
    sign(&key, &module);
    let set = scene.publish();
    assert_eq!(set.bindings()[0].signed_by(), ["build"]);

    // The module changes, and the signature does not.
    scene.write("guard.wasm", &dynamic(&description(&json!({})), &json!({ "allow": {} }), 1000));
    refused(&mut scene, "signature", &["of other bytes"]);
}

#[test]
fn a_module_that_fails_its_own_cases_does_not_come_into_force() {
    let case = |name: &str, expect: Value| json!({ "name": name, "config": {}, "hook": "tool-call", "input": {}, "expect": expect });
    let with = |cases: Value| dynamic(&description(&json!({ "self_tests": cases })), &denial("a.b"), 1000);
    let good = case("denies", json!({ "deny": { "reason": { "code": "a.b" } } }));
    Scene::new(&with(json!([good]))).publish();
    refused(
        &mut Scene::new(&with(json!([good, case("allows", json!({ "allow": {} }))]))),
        "self-tests",
        &["1 of 2 cases fail", "\"allows\"", "/allow: expected {}, found nothing"],
    );
    refused(
        &mut Scene::new(&with(json!([case("differs", json!({ "deny": { "reason": { "code": "x.y" } } }))]))),
        "self-tests",
        &["/deny/reason/code: expected \"x.y\", found \"a.b\""],
    );
    let other_hook = json!({ "name": "other", "config": {}, "hook": "tool-result", "input": {}, "expect": "pass" });
    refused(&mut Scene::new(&with(json!([other_hook]))), "self-tests", &["does not have the hook tool-result"]);
}

#[test]
fn an_answer_that_the_gateway_would_refuse_fails_a_case() {
    let cases = json!([{ "name": "odd", "config": {}, "hook": "tool-call", "input": {}, "expect": { "deny": {} } }]);
    let module = dynamic(&description(&json!({ "self_tests": cases })), &denial("NOT A CODE"), 1000);
    refused(&mut Scene::new(&module), "self-tests", &["the gateway refuses the answer"]);
}

#[test]
fn a_policy_that_fails_the_operators_cases_does_not_come_into_force() {
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &denial("a.b"), 40));
    let cases = |cases: Value, scene: &mut Scene| {
        let path = scene.write("cases.json", cases.to_string().as_bytes());
        scene.guard().tests = Some(path);
    };
    let denies = json!({ "name": "denies", "hook": "tool-call", "expect": { "deny": {} } });
    let too_long = json!({ "name": "long", "config": { "a": "x".repeat(40) }, "refused": ["/rules/0"] });
    cases(json!([denies, too_long]), &mut scene);
    scene.publish();
    cases(json!([denies, { "name": "allows", "hook": "tool-call", "expect": { "allow": {} } }]), &mut scene);
    refused(&mut scene, "tests", &["1 of 2 cases fail: \"allows\""]);
    cases(json!([{ "name": "short", "config": {}, "refused": ["/rules/0"] }]), &mut scene);
    refused(&mut scene, "tests", &["should be refused and is accepted"]);
    cases(json!([{ "name": "elsewhere", "config": { "a": "x".repeat(40) }, "refused": ["/rules/1"] }]), &mut scene);
    refused(&mut scene, "tests", &["refused for \"/rules/1\"; it is for \"/rules/0\""]);
    cases(json!({}), &mut scene);
    refused(&mut scene, "tests", &["not a JSON list"]);
    scene.guard().tests = Some("/nowhere/cases.json".into());
    refused(&mut scene, "tests", &["/nowhere/cases.json"]);
}

#[test]
fn what_did_not_change_is_not_made_again() {
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &json!("abstain"), 1000));
    let first = scene.publish();
    let second = scene.publish();
    let loaded = |set: &PolicySet| set.bindings()[0].loaded().clone();
    assert!(Arc::ptr_eq(&loaded(&first), &loaded(&second)), "the module is compiled once");
    scene.guard().config = json!({ "a": 1 });
    let third = scene.publish();
    assert!(Arc::ptr_eq(&loaded(&first), &loaded(&third)), "another configuration is no other module");
    assert!(!third.is_same_as(&second) && second.is_same_as(&first));
    scene.write("guard.wasm", &dynamic(&description(&json!({})), &denial("a.b"), 1000));
    let fourth = scene.publish();
    assert!(!Arc::ptr_eq(&loaded(&third), &loaded(&fourth)));
    // What an earlier generation had is still there.
    scene.write("guard.wasm", &dynamic(&description(&json!({})), &json!("abstain"), 1000));
    assert!(Arc::ptr_eq(&loaded(&third), &loaded(&scene.publish())));
}

#[test]
fn an_earlier_set_comes_back_as_it_was_under_a_new_number() {
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &denial("one"), 1000));
    let first = scene.publish();
    scene.write("guard.wasm", &dynamic(&description(&json!({})), &denial("two"), 1000));
    let second = scene.publish();
    let third = first.again(&[upstream("notes"), upstream("other")], 3);
    assert_eq!((third.generation(), third.bindings().len()), (3, 1));
    assert!(third.is_same_as(&first) && !third.is_same_as(&second));
    assert_eq!(third.bindings()[0].health().failures(), 0);
}

#[tokio::test]
async fn a_set_that_comes_back_decides_as_it_did() {
    let guest = Guest::new().answers(Hook::ToolCall, deny("one"));
    let mut scene = Scene::new(&guest.core());
    let first = scene.publish();
    scene.write("guard.wasm", &Guest::new().answers(Hook::ToolCall, deny("two")).core());
    let second = scene.publish();
    let caller = caller();
    for (set, code) in [(&*first, "one"), (&second, "two"), (&first.again(&[upstream("notes")], 3), "one")] {
        let (refusal, _) = set.check(&context(&caller), call(&tool("notes", "add"), None)).await;
        assert!(super::scene::told(&refusal.unwrap_err()).contains(code), "{code}");
    }
}

#[test]
fn a_frozen_module_is_told_from_one_that_cannot_be() {
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &json!("abstain"), 1000));
    let set = scene.publish();
    assert_eq!(set.bindings()[0].instances(), InstanceMode::Frozen, "{:?}", set.bindings()[0].remarks());
    scene.guard().reuse = Reuse::Fresh;
    assert_eq!(scene.publish().bindings()[0].instances(), InstanceMode::Fresh);
    scene.guard().reuse = Reuse::Warm;
    refused(&mut scene, "configure", &["warm"]);
}

/// A question as it would have been recorded.
fn past(binding: &str, hook: Hook, answer: &Value) -> PastQuestion {
    PastQuestion {
        decision: Some("d1".to_owned()),
        binding: BindingName::parse(binding).unwrap(),
        hook,
        input: json!({ "request": { "tool": { "name": "add" } } }),
        answer: Some(answer.clone()),
        was_asked: true,
        imports: Vec::new(),
    }
}

#[test]
fn recorded_questions_are_put_to_new_policies_and_differences_told() {
    let mut answer = denial("a.b");
    answer["deny"]["as_tool_error"] = json!(true);
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &denial("a.b"), 1000));
    // What a policy answers is written down with all of its members.
    let bytes = fs::read(scene.path("guard.wasm")).unwrap();
    let bench = Workbench::load(engine(), &bytes).unwrap();
    let configured = bench.configure(&json!({}), Reuse::Auto).unwrap();
    let same = configured.ask(Hook::ToolCall, &json!({})).unwrap().answer;
    let recorded = [
        past("guard", Hook::ToolCall, &same),
        past("guard", Hook::ToolCall, &json!("abstain")),
        past("guard", Hook::ToolCall, &json!("abstain")),
        past("guard", Hook::ToolResult, &json!("pass")),
        past("gone", Hook::ToolCall, &json!("abstain")),
        PastQuestion { answer: None, ..past("guard", Hook::ToolCall, &json!(null)) },
    ];
    let changes = scene.try_publish(&recorded).unwrap().changes.unwrap();
    assert_eq!((changes.questions, changes.different.len(), changes.unanswered), (4, 3, 0), "{changes}");
    assert_eq!(changes.dropped.len(), 2);
    let told = changes.to_string();
    for part in [
        "3 of 4 answers",
        "guard at tool-call: abstain → deny a.b (2)",
        "a failure → deny a.b (1)",
        "gone had a say in 1",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
    assert!(scene.try_publish(&[]).unwrap().changes.is_none());
}

/// A module that allows where the operator's set `people` has `ann`, and else denies.
fn asks_sets() -> Vec<u8> {
    let wants = description(&json!({ "capabilities": ["sets"] }));
    let import = format!(
        r#"(import "{}" "contains" (func $contains (param i32 i32 i32 i32) (result i32)))"#,
        contract::interface("sets")
    );
    let condition = "(call $contains (i32.const 512) (i32.const 6) (i32.const 520) (i32.const 3))";
    let data = r#"(data (i32.const 512) "people") (data (i32.const 520) "ann")"#;
    guest(&wants, &[json!({ "allow": {} }), denial("unknown")], 1000, &import, data, condition)
}

#[test]
fn what_the_host_answered_then_it_answers_in_a_replay() {
    let mut scene = Scene::new(&asks_sets());
    scene.guard().grants = vec![Grant::Sets];
    let contains = |item: &str, answer: bool| ImportCall {
        import: "sets.contains".to_owned(),
        asked: json!({ "set": "people", "item": item }),
        answer: json!(answer),
    };
    let with =
        |calls: Vec<ImportCall>| PastQuestion { imports: calls, ..past("guard", Hook::ToolCall, &json!("abstain")) };
    // Nobody is in the set now; but ann was then.
    let changes = scene.try_publish(&[with(vec![contains("ann", true)])]).unwrap().changes.unwrap();
    assert_eq!(changes.different[0].after, "allow");
    let changes = scene.try_publish(&[with(vec![contains("ann", false)])]).unwrap().changes.unwrap();
    assert_eq!(changes.different[0].after, "deny unknown");
    for calls in [vec![], vec![contains("bob", true)]] {
        let changes = scene.try_publish(&[with(calls)]).unwrap().changes.unwrap();
        assert_eq!((changes.unanswered, changes.different.len()), (1, 0), "{changes}");
    }
}

#[test]
fn what_policies_count_outlives_their_generation() {
    let mut scene = Scene::new(&dynamic(&description(&json!({})), &json!("abstain"), 1000));
    let (first, second) = (scene.publish(), scene.publish());
    let tables = |set: &PolicySet| set.bindings()[0].counters.clone();
    assert!(tables(&first).are(&tables(&second)));
    let other = scene.counters.of(&BindingName::parse("other").unwrap());
    assert!(!tables(&first).are(&other));
}

#[test]
fn the_bench_shows_what_the_gateway_would_see() {
    let bench = Workbench::load(engine(), &asks_sets()).unwrap();
    assert_eq!(bench.info().manifest.capabilities, [Grant::Sets]);
    let configured = bench.configure(&bench.sample_config(), Reuse::Auto).unwrap();
    assert_eq!(
        (configured.mode(), configured.warnings().len()),
        (InstanceMode::Frozen, 0),
        "{:?}",
        configured.remarks()
    );
    let asked = configured.ask(Hook::ToolCall, &json!({ "request": { "tool": { "name": "add" } } })).unwrap();
    assert_eq!(asked.judged.unwrap().to_string(), "deny unknown");
    assert_eq!(asked.answer["deny"]["reason"]["message"], "No.");
    assert_eq!(asked.imports.len(), 1);
    let (failure, _) = configured.ask(Hook::ToolCall, &json!({ "request": { "tol": {} } })).unwrap_err();
    assert!(failure.to_string().contains("tol"), "{failure}");
    let timings = configured.time(Hook::ToolCall, &json!({}), 20).unwrap();
    assert!(timings.rounds == 20 && timings.median <= timings.p99);
}

#[test]
fn instructions_are_counted_and_are_the_same_each_time() {
    let engine = crate::policy::Engine::counting().unwrap();
    let bench = Workbench::load(&engine, &dynamic(&description(&json!({})), &json!("abstain"), 1000)).unwrap();
    let configured = bench.configure(&json!({}), Reuse::Fresh).unwrap();
    let count = || configured.instructions(Hook::ToolCall, &json!({})).unwrap();
    assert!((10..10_000).contains(&count()), "{}", count());
    assert_eq!(count(), count());
}
