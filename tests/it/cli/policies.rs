//! What an author of policies types: look at a module, ask it, try cases, measure, sign, build; and what an operator types
//! to go back, to understand a decision, and to see what another module would have said.

use std::fs;
use std::path::Path;

use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, repository};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{dir_with, run, run_in};
use crate::policy::reload::denies;

/// The example in WebAssembly text, which denies tools that may destroy something.
fn deny_destructive() -> Vec<u8> {
    wat::parse_bytes(&fs::read(repository().join("examples/policies/wat/policy.wat")).unwrap()).unwrap().into_owned()
}

/// A directory with it as `policy.wasm`, and these files.
fn bench(files: &[(&str, &str)]) -> TempDir {
    let dir = dir_with(files);
    fs::write(dir.path().join("policy.wasm"), deny_destructive()).unwrap();
    dir
}

const DESTROYS: &str = r#"{"request": {"tool": {"name": "delete_note", "hints": ["destructive"]}}}"#;

#[tokio::test]
async fn one_question_is_asked() {
    let dir = bench(&[("destroys.json", DESTROYS), ("empty.json", "{}"), ("text.json", "text"), ("list.json", "[]")]);
    let ask = async |more: &[&str]| run_in(dir.path(), &[&["policy", "run", "policy.wasm"], more].concat()).await;
    let ran = ask(&["--hook", "tool-call", "--input", "destroys.json"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let answer: Value = serde_json::from_str(&ran.stdout).expect("standard output is the answer and nothing else");
    assert_eq!(answer["deny"]["reason"]["code"], "destructive");
    assert!(ran.stderr.contains("gateway  deny destructive") && ran.stderr.contains("µs (frozen)"), "{}", ran.stderr);

    let printed = ask(&["--hook", "tool-call", "--input", "empty.json", "--json"]).await.printed();
    let all: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&all["gateway"]["verdict"], &all["instances"]), (&json!("allow"), &json!("frozen")), "{all}");

    for (more, parts) in [
        (
            &["--hook", "tool-result", "--input", "empty.json"][..],
            &["does not have the hook tool-result", "tool-call"][..],
        ),
        (&["--hook", "tool-call", "--input", "text.json"], &["text.json is not JSON"]),
        (&["--hook", "tool-call", "--input", "list.json"], &["input cannot be read"]),
        (&["--hook", "tool-call", "--input", "missing.json"], &["missing.json"]),
        (&["--hook", "tool-call", "--input", "empty.json", "--config", "destroys.json"], &["destroys.json", "request"]),
    ] {
        let complaint = ask(more).await.complaint();
        assert!(parts.iter().all(|part| complaint.contains(part)), "{parts:?} in {complaint}");
    }
    assert_eq!(ask(&["--hook", "tool-cal", "--input", "empty.json"]).await.code, Some(2), "no such hook");
}

#[tokio::test]
async fn cases_are_tried_and_each_difference_is_told() {
    let cases = fs::read_to_string(repository().join("examples/policies/wat/cases.json")).unwrap();
    let wrong = r#"[
        {"name": "as it is", "hook": "tool-call", "expect": {"allow": {}}},
        {"name": "another code", "config": {}, "hook": "tool-call", "input": INPUT, "expect": {"deny": {"reason": {"code": "x"}}}},
        {"name": "not refused", "config": {}, "refused": ["/a"]}
    ]"#
    .replace("INPUT", DESTROYS);
    let dir = bench(&[("cases.json", &cases), ("wrong.json", &wrong), ("broken.json", r#"[{"name": "a"}]"#)]);
    let test = async |more: &[&str]| run_in(dir.path(), &[&["policy", "test", "policy.wasm"], more].concat()).await;
    assert_eq!(test(&["--cases", "cases.json"]).await.printed(), "5 passed, 0 failed\n");
    let told = test(&["--cases", "cases.json", "--cases", "cases.json", "--verbose"]).await.printed();
    assert!(told.contains("ok      a tool without any hint") && told.ends_with("10 passed, 0 failed\n"), "{told}");

    let failed = test(&["--cases", "wrong.json"]).await;
    assert_eq!(failed.code, Some(1));
    for part in [
        "FAILED  another code\n        /deny/reason/code: expected \"x\", found \"destructive\"\n",
        "FAILED  not refused\n        its config should be refused and is accepted\n",
        "1 passed, 2 failed\n",
    ] {
        assert!(failed.stdout.contains(part), "{part:?} is not in\n{}", failed.stdout);
    }
    assert!(failed.stderr.contains("2 of 3 cases failed"), "{}", failed.stderr);

    for (more, part) in [
        (&["--cases", "broken.json"][..], "case 1 (a): it says neither"),
        (&["--cases", "missing.json"], "missing.json"),
        (&[], "brings no cases along"),
    ] {
        let complaint = test(more).await.complaint();
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[tokio::test]
async fn a_budget_is_kept_or_broken() {
    let dir = bench(&[("in.json", DESTROYS), ("odd.json", r#"{"instruction": 1}"#)]);
    let bench = async |more: &[&str]| {
        let asked = ["policy", "bench", "policy.wasm", "--hook", "tool-call", "--input", "in.json", "--rounds", "20"];
        run_in(dir.path(), &[&asked, more].concat()).await
    };
    let found: Value = serde_json::from_str(&bench(&["--json"]).await.printed()).unwrap();
    let (instructions, bytes) = (found["instructions"].as_u64().unwrap(), found["bytes"].as_u64().unwrap());
    assert!(instructions > 0 && bytes == deny_destructive().len() as u64, "{found}");
    let again: Value = serde_json::from_str(&bench(&["--json"]).await.printed()).unwrap();
    assert_eq!(again["instructions"], found["instructions"], "the same each time");

    let budget = |instructions: u64, bytes: u64| {
        fs::write(dir.path().join("budget.json"), json!({ "instructions": instructions, "bytes": bytes }).to_string())
            .unwrap();
    };
    budget(instructions, bytes);
    assert!(bench(&["--budget", "budget.json"]).await.printed().contains("p99"));
    for (instructions, bytes, part) in
        [(instructions - 1, bytes, "instructions, and"), (instructions, bytes - 1, "bytes, and")]
    {
        budget(instructions, bytes);
        let ran = bench(&["--budget", "budget.json"]).await;
        assert!(ran.code == Some(1) && ran.stderr.contains(part), "{}", ran.stderr);
    }
    assert!(bench(&["--budget", "odd.json"]).await.complaint().contains("no budget"));
}

#[tokio::test]
async fn what_a_module_lacks_is_found() {
    let dir = bench(&[]);
    let ran = run_in(dir.path(), &["policy", "lint", "policy.wasm"]).await;
    assert!(ran.code == Some(1) && ran.stdout.contains("brings no cases along"), "{}{}", ran.stdout, ran.stderr);
}

#[tokio::test]
async fn a_template_is_written_once() {
    let dir = TempDir::new().unwrap();
    for (language, files) in [
        ("rust", &["Cargo.toml", "src/lib.rs", "cases.json", "README.md"][..]),
        ("c", &["build", "policy.c", "wit/policy.wit", "cases.json"]),
        ("zig", &["build", "policy.zig"]),
        ("assemblyscript", &["build", "policy.ts", "package.json"]),
        ("javascript", &["build", "policy.js", "wit/policy.wit", "wit/guard-paths.wit"]),
        ("typescript", &["build", "policy.ts", "tsconfig.json"]),
        ("python", &["build", "app.py", "wit/policy.wit"]),
        ("go", &["build", "policy.go", "go.mod"]),
        ("wat", &["build", "policy.wat", "cases.json"]),
        ("cel", &["config.json", "cases.json", "README.md"]),
        ("rego", &["config.json", "cases.json", "README.md"]),
    ] {
        let printed = run_in(dir.path(), &["policy", "new", "--lang", language, language]).await.printed();
        assert!(printed.contains(language), "{printed}");
        for file in files {
            let written = fs::read_to_string(dir.path().join(language).join(file));
            assert!(written.is_ok_and(|text| !text.is_empty()), "{language}/{file}");
        }
        let complaint = run_in(dir.path(), &["policy", "new", "--lang", language, language]).await.complaint();
        assert!(complaint.contains("not empty"), "{complaint}");
    }
    let here = fs::read_to_string(dir.path().join("c/wit/policy.wit")).unwrap();
    assert_eq!(here, fs::read_to_string(repository().join("guest-sdk/wit/policy.wit")).unwrap());
    let sdk = repository().join("guest-sdk");
    let arguments = ["policy", "new", "--lang", "rust", "own", "--sdk", sdk.to_str().unwrap()];
    run_in(dir.path(), &arguments).await.printed();
    assert!(fs::read_to_string(dir.path().join("own/Cargo.toml")).unwrap().contains("guest-sdk\" }"));
    let complaint = run_in(dir.path(), &["policy", "new", "--lang", "rust", "other", "--sdk", "."]).await.complaint();
    assert!(complaint.contains("is not the SDK"), "{complaint}");
}

#[tokio::test]
async fn the_cases_of_a_template_hold() {
    let dir = TempDir::new().unwrap();
    for language in ["cel", "rego"] {
        if portcullis::builtin::module(language).is_none() {
            continue;
        }
        run_in(dir.path(), &["policy", "new", "--lang", language, language]).await.printed();
        let policy = format!("builtin:{language}");
        let test = ["policy", "test", &policy, "--config", "config.json", "--cases", "cases.json"];
        let printed = run_in(&dir.path().join(language), &test).await.printed();
        assert_eq!(printed, "5 passed, 0 failed\n", "{language}");
    }
}

#[tokio::test]
async fn a_build_leaves_a_component_that_can_be_used() {
    let script = "#!/bin/sh\nset -eu\ncp -- policy.wasm \"$1\"\n";
    let dir = bench(&[("build", script)]);
    let printed = run_in(dir.path(), &["policy", "build", "--output", "out.wasm"]).await.printed();
    assert!(printed.contains("out.wasm: deny-destructive 0.1.0"), "{printed}");
    let built = fs::read(dir.path().join("out.wasm")).unwrap();
    assert_eq!(built[4..8], [0x0d, 0, 1, 0], "a component");

    let broken = dir_with(&[("build", "exit 3")]);
    let complaint = run_in(broken.path(), &["policy", "build"]).await.complaint();
    assert!(complaint.contains("the build script failed"), "{complaint}");
    let useless = dir_with(&[("build", "echo text >\"$1\"")]);
    let complaint = run_in(useless.path(), &["policy", "build"]).await.complaint();
    assert!(complaint.contains("no WebAssembly"), "{complaint}");
    let complaint = run_in(TempDir::new().unwrap().path(), &["policy", "build"]).await.complaint();
    assert!(complaint.contains("policy new"), "{complaint}");
}

/// Makes a key and returns what is printed of it: the public key.
async fn keygen(dir: &Path, file: &str) -> String {
    let printed = run_in(dir, &["policy", "keygen", file]).await.printed();
    printed.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_module_is_signed_and_checked() {
    let dir = bench(&[]);
    let (one, two) = (keygen(dir.path(), "one.pem").await, keygen(dir.path(), "two.pem").await);
    assert!(one.starts_with("ed25519:") && one != two, "{one}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.path().join("one.pem")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = run_in(dir.path(), &["policy", "keygen", "one.pem"]).await.complaint();
    assert!(again.contains("one.pem"), "an existing key is not overwritten: {again}");

    let verify = async |more: &[&str]| run_in(dir.path(), &[&["policy", "verify", "policy.wasm"], more].concat()).await;
    assert!(verify(&["--trusted", &one]).await.complaint().contains("policy.wasm.sig"));
    run_in(dir.path(), &["policy", "sign", "policy.wasm", "--key", "one.pem"]).await.printed();
    assert!(verify(&["--trusted", &one]).await.printed().contains("is signed by ed25519:"));
    verify(&["--trusted", &two, "--trusted", &one]).await.printed();
    assert!(verify(&["--trusted", &two]).await.complaint().contains("no trusted key signed it"));
    let both = ["--all", "--trusted", &one, "--trusted", &two];
    assert!(verify(&both).await.complaint().contains("lacks the signature"));
    run_in(dir.path(), &["policy", "sign", "policy.wasm", "--key", "two.pem"]).await.printed();
    verify(&both).await.printed();

    let mut changed = deny_destructive();
    changed.extend_from_slice(&[0, 2, 1, b'x']);
    fs::write(dir.path().join("policy.wasm"), changed).unwrap();
    assert!(verify(&["--trusted", &one]).await.complaint().contains("of other bytes"));
    // What was signed before is worth nothing for what it has become.
    run_in(dir.path(), &["policy", "sign", "policy.wasm", "--key", "one.pem"]).await.printed();
    assert!(verify(&both).await.complaint().contains("lacks the signature"));
    for (arguments, part) in [
        (&["verify", "policy.wasm", "--trusted", "ed25519:AAAA"][..], "no public key"),
        (&["sign", "policy.wasm", "--key", "policy.wasm"], "policy.wasm"),
        (&["sign", "missing.wasm", "--key", "one.pem"], "missing.wasm"),
    ] {
        let complaint = run_in(dir.path(), &[&["policy"], arguments].concat()).await.complaint();
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[tokio::test]
async fn a_builtin_policy_is_looked_at_by_its_name() {
    let shown: Value =
        serde_json::from_str(&run(&["policy", "inspect", "--json", "builtin:allow-tools"]).await.printed()).unwrap();
    assert_eq!((&shown["name"], &shown["instances"]["mode"]), (&json!("allow-tools"), &json!("frozen")), "{shown}");
    let complaint = run(&["policy", "inspect", "builtin:allow-tool"]).await.complaint();
    assert!(complaint.contains("allow-tools"), "{complaint}");
}

#[tokio::test]
async fn one_goes_back_from_the_command_line() {
    let up = Fixture::start().await;
    let section = "[[policies]]\nname = \"guard\"\nmodule = \"guard.wasm\"\n";
    let builder = Gateway::builder().http_upstream("up", &up.url).section(section).key("ci");
    let gateway = builder.file("guard.wasm", &deny_destructive()).start().await;
    let config = gateway.file.to_str().unwrap();
    let policy =
        async |more: &[&str]| run_in(gateway.dir.path(), &[&["policy"], more, &["--config", config]].concat()).await;
    assert!(policy(&["rollback"]).await.complaint().contains("no other policies"));
    gateway.replace("guard.wasm", &denies("one"));
    let view = gateway.until("/api/v1/policies", |view| view["bindings"][0]["module_name"] == "rubbish").await;
    let before = view["generation"].as_u64().unwrap();
    let printed = policy(&["rollback"]).await.printed();
    for part in ["rollback to 1", "deny-destructive", "rubbish", "running", "mend the configuration file"] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    let printed = policy(&["list"]).await.printed();
    let running = format!("generation {}", before + 1);
    assert!(printed.contains("deny-destructive") && printed.contains(&running), "{printed}");
    assert!(policy(&["rollback", "--to", "99"]).await.complaint().contains("generation 99 is not kept"));
    assert!(policy(&["generations"]).await.printed().contains("operator:socket"));
}

#[tokio::test]
async fn a_decision_is_explained_and_put_to_another_module() {
    let up = Fixture::start().await;
    let section = "[policy]\nrecord = true\n[[policies]]\nname = \"guard\"\nmodule = \"guard.wasm\"\nlimits = { time = \"1s\" }\n";
    let builder = Gateway::builder().http_upstream("up", &up.url).section(section).key("ci");
    let gateway = builder.file("guard.wasm", &denies("one")).start().await;
    gateway.caller("ci").call("up__echo", json!({ "a": 1 })).await;
    let view = gateway.until("/api/v1/decisions", |view| !view["decisions"].as_array().unwrap().is_empty()).await;
    let id = view["decisions"][0]["id"].as_str().unwrap().to_owned();
    let is_recorded = |view: &Value| !view["questions"].as_array().unwrap().is_empty();
    gateway.until("/api/v1/recordings?policy=guard", is_recorded).await;
    let (dir, config) = (gateway.dir.path(), gateway.file.to_str().unwrap());
    let explain = async |id: &str, more: &[&str]| {
        run_in(dir, &[&["policy", "explain", id, "--config", config], more].concat()).await
    };
    let printed = explain(&id, &[]).await.printed();
    for part in ["tools/call", "up/echo", "key:ci", "guard at tool-call: same", "one", "rubbish 1.0.0"] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    assert!(explain("none", &[]).await.complaint().contains("no such"));

    // The module is another one by now; the old one is still about.
    fs::write(dir.join("old.wasm"), denies("one")).unwrap();
    gateway.replace("guard.wasm", &denies("two"));
    gateway.until("/api/v1/policies", |view| view["generation"] == 2).await;
    let printed = explain(&id, &[]).await.printed();
    for part in [
        "(generation 2):\nguard at tool-call: diverged: deny then, deny two now\n",
        "its module was another one then: --module FILE asks that one, sha256:",
        "by these it would be refused: deny (policy guard says deny two)",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    let printed = explain(&id, &["--module", "old.wasm", "--module", "guard.wasm"]).await.printed();
    let (_, asked) = printed.split_once("\nold.wasm (sha256:").expect("what each module says");
    assert!(asked.contains("):\nguard at tool-call: same\n"), "{asked}");
    assert!(asked.ends_with("):\nit was not asked then\n"), "{asked}");

    let replay = async |more: &[&str]| {
        let asked = ["policy", "replay", "--binding", "guard", "--config", config];
        run_in(dir, &[&asked, more].concat()).await
    };
    let printed = replay(&["--against", "guard.wasm"]).await.printed();
    for part in [
        "configured as in generation 2, of the configuration file\n",
        &format!("{id} tool-call: deny one → deny two"),
        "/deny/reason/code was \"one\" and is \"two\"",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    assert!(printed.ends_with("0 same, 1 different, 0 could not be asked again\n"), "{printed}");
    let printed = replay(&["--against", "old.wasm", "--last", "5"]).await.printed();
    assert!(printed.ends_with("file\n1 same, 0 different, 0 could not be asked again\n"), "{printed}");
    fs::write(dir.join("odd.json"), "[]").unwrap();
    for (more, part) in [
        (&["--against", "missing.wasm"][..], "missing.wasm"),
        (&["--against", "guard.wasm", "--policy-config", "odd.json"], "no JSON object"),
    ] {
        let complaint = replay(more).await.complaint();
        assert!(complaint.contains(part), "{complaint}");
    }
    let other = ["policy", "replay", "--binding", "other", "--against", "guard.wasm", "--config", config];
    let complaint = run_in(dir, &other).await.complaint();
    assert!(complaint.contains("no policy \"other\"; it has guard"), "{complaint}");
}

#[tokio::test]
async fn what_is_in_force_counts_and_not_what_the_file_says() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci").section("[policy]\nrecord = true\n");
    let gateway = builder.start().await;
    gateway.until_upstreams_are_up().await;
    let definition = |code: &str| {
        let rules = json!([{ "tools": ["*/echo"], "action": "deny", "code": code }]);
        let config = json!({ "rules": rules, "otherwise": "allow" });
        json!({ "module": "builtin:allow-tools", "config": config, "limits": { "time": "1s" } })
    };
    let new = json!({ "name": "guard", "definition": definition("first") });
    assert_eq!(gateway.operator("POST", "/api/v1/policies/bindings", Some(new)).await.status, 201);
    gateway.caller("ci").call("up__echo", json!({})).await;
    let is_recorded = |view: &Value| !view["questions"].as_array().unwrap().is_empty();
    let view = gateway.until("/api/v1/recordings?policy=guard&hook=tool-call", is_recorded).await;
    let id = view["questions"][0]["decision"].as_str().unwrap().to_owned();
    let (dir, config) = (gateway.dir.path(), gateway.file.to_str().unwrap());
    let policy = async |more: &[&str]| run_in(dir, &[&["policy"], more, &["--config", config]].concat()).await;
    let replay = ["replay", "--binding", "guard", "--against", "builtin:allow-tools"];

    let printed = policy(&["explain", &id]).await.printed();
    assert!(printed.contains("guard at tool-call: same\n"), "{printed}");
    let printed = policy(&replay).await.printed();
    assert!(printed.starts_with("configured as in generation 2, of the store\n"), "{printed}");
    assert!(printed.contains(" 0 different, 0 could not be asked again"), "{printed}");

    fs::write(dir.join("guard.json"), definition("second").to_string()).unwrap();
    policy(&["bind", "guard", "--definition", "guard.json"]).await.printed();
    let printed = policy(&["explain", &id]).await.printed();
    assert!(printed.contains("guard at tool-call: diverged: deny then, deny second now\n"), "{printed}");
    let printed = policy(&replay).await.printed();
    assert!(
        printed.contains(&format!("{id} tool-call: deny first (rule rules/0) → deny second (rule rules/0)")),
        "{printed}"
    );

    // The store says `second` still, and `first` is in force.
    policy(&["rollback"]).await.printed();
    let in_force = gateway.operator("GET", "/api/v1/policies/in-force/guard", None).await.json();
    assert_eq!((&in_force["managed_by"], &in_force["generation"]), (&json!("store"), &json!(4)), "{in_force}");
    assert_eq!(in_force["config"]["rules"][0]["code"], "first");
    let printed = policy(&["explain", &id]).await.printed();
    assert!(printed.contains("guard at tool-call: same\n"), "{printed}");
    let printed = policy(&replay).await.printed();
    assert!(printed.contains("generation 4, of the store\n") && printed.contains(" 0 different,"), "{printed}");

    policy(&["unbind", "guard"]).await.printed();
    let printed = policy(&["explain", &id]).await.printed();
    assert!(printed.contains("guard: asked no more\n"), "{printed}");
    let complaint = policy(&replay).await.complaint();
    assert!(complaint.contains("no policy \"guard\", and no other"), "{complaint}");
}
