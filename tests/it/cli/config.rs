//! `portcullis config`: what is stored written as a file, and a file made what is stored.

use std::fs;

use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};

use super::{Ran, run, run_in};
use crate::policy::reload::{code, denies};

const CANARY: &str = "canary-8f21d07c44ab";

async fn ask(gateway: &Gateway, arguments: &[&str]) -> Ran {
    let arguments = [&["config"], arguments, &["--config", gateway.file.to_str().unwrap()]].concat();
    run_in(gateway.dir.path(), &arguments).await
}

#[tokio::test]
async fn what_was_exported_changes_nothing_and_what_is_changed_is_applied() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("filed", &up.url).key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    let definition = json!({ "url": up.url, "labels": ["a"], "headers": { "x-canary": CANARY } });
    let new = json!({ "name": "notes", "definition": definition });
    assert_eq!(gateway.operator("POST", "/api/v1/upstreams", Some(new)).await.status, 201);
    let key = json!({ "name": "ci", "allow": [{ "upstream": "notes", "tools": ["*"] }], "scopes": ["read"] });
    assert_eq!(gateway.operator("POST", "/api/v1/keys", Some(key)).await.status, 201);

    let exported = ask(&gateway, &["export"]).await.printed();
    assert!(!exported.contains(CANARY) && !exported.contains("filed") && !exported.contains("alice"), "{exported}");
    assert!(exported.contains("env:PORTCULLIS_NOTES_HEADERS_X_CANARY"), "{exported}");
    let file = gateway.dir.path().join("stored.toml");
    fs::write(&file, &exported).unwrap();
    let file = file.to_str().unwrap();
    let nothing = ask(&gateway, &["apply", file, "--dry-run", "--prune"]).await.printed();
    assert_eq!(nothing, "nothing to change\n");

    let changed = exported.replace("labels = [\"a\"]", "labels = [\"a\", \"b\"]").replace("[\"read\"]", "[\"write\"]");
    fs::write(file, &changed).unwrap();
    let dry = ask(&gateway, &["apply", file, "--dry-run"]).await;
    assert_eq!(dry.code, Some(2), "{}{}", dry.stdout, dry.stderr);
    for line in [
        "~ upstream notes",
        "    ~ labels [\"a\"] → [\"a\",\"b\"]",
        "~ key ci",
        "    ~ scopes [\"read\"] → [\"write\"]",
    ] {
        assert!(dry.stdout.lines().any(|told| told == line), "{line:?} is not in\n{}", dry.stdout);
    }
    assert_eq!(ask(&gateway, &["apply", file]).await.printed(), "~ upstream notes\n~ key ci\n");
    assert_eq!(ask(&gateway, &["apply", file, "--dry-run"]).await.printed(), "nothing to change\n");
    let shown = gateway.operator("GET", "/api/v1/upstreams/notes", None).await.json();
    assert_eq!(shown["definition"]["headers"]["x-canary"], "sealed", "it is kept: {shown}");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.json()["scopes"], json!(["write"]));

    fs::write(file, "[upstreams]\n[keys]\n").unwrap();
    let pruned = ask(&gateway, &["apply", file, "--prune"]).await.printed();
    assert_eq!(pruned, "- upstream notes\n- key ci\n");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404);
    assert_eq!(gateway.operator("GET", "/api/v1/keys/alice", None).await.status, 200, "the file's own stay");
}

#[tokio::test]
async fn nothing_is_changed_where_something_cannot_be() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("filed", &up.url).start().await;
    gateway.until_upstreams_are_up().await;
    let file = gateway.dir.path().join("wanted.toml");
    let apply = async |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        ask(&gateway, &[&["apply", file.to_str().unwrap()], more].concat()).await
    };
    let of_file = apply("[upstreams.filed]\nurl = \"http://127.0.0.1:9/mcp\"\n[keys.ci]\n", &["--show-secrets"]).await;
    assert!(of_file.complaint().contains("own configuration file"));
    let untaken = apply("[keys.ci]\nscopes = [\"a\"]\n", &[]).await.complaint();
    assert!(untaken.contains("--show-secrets"), "{untaken}");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404);
    let made = apply("[keys.ci]\nscopes = [\"a\"]\ndisabled = true\n", &["--show-secrets"]).await.printed();
    assert!(made.starts_with("+ key ci\n    pk_"), "{made}");
    let key = gateway.operator("GET", "/api/v1/keys/ci", None).await.json();
    assert_eq!((&key["disabled"], &key["scopes"]), (&json!(true), &json!(["a"])));
    let broken = apply("[upstreams.new]\nurl = \"http://127.0.0.1:9/mcp\"\n", &[]).await;
    assert_eq!(broken.code, Some(1), "it is tried first: {}", broken.stdout);
    for (text, part) in [
        ("[keys.one]\n[keys.two]\nallow = 7\n", "key two: allow must be an array, not a whole number"),
        ("[keys.one]\n[keys.Two]\n", "key Two: key name"),
        ("[keys.one]\n[keyz.two]\n", "unknown key `keyz` (did you mean `keys`?)"),
    ] {
        for more in ["--dry-run", "--show-secrets"] {
            let refused = apply(text, &[more]).await.complaint();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
    assert_eq!(gateway.operator("GET", "/api/v1/keys/one", None).await.status, 404);
    // More than the gateway keeps, which a file's own key may have.
    let tools = "\"x\",".repeat(257);
    let half =
        format!("[keys.one]\nscopes = [\"a\"]\n[keys.two]\nallow = [{{ upstream = \"a\", tools = [{tools}] }}]\n");
    let half = apply(&half, &["--show-secrets", "--output", "json"]).await;
    assert_eq!(half.code, Some(1), "{}", half.stdout);
    let told: Value = serde_json::from_str(&half.stdout).unwrap();
    assert_eq!((&told["changed"][0]["change"], &told["changed"][1]), (&json!("+ key one"), &Value::Null));
    assert!(told["changed"][0]["secret"].as_str().unwrap().starts_with("pk_"), "it is not lost: {told}");
    assert!(apply("[keys.ci\n", &[]).await.complaint().contains("line 1"));
}

/// A gateway with one policy in its store, which is called `guard` and denies with the code `one`, and its export.
async fn guarded(up: &Fixture) -> (Gateway, String) {
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").start().await;
    gateway.until_upstreams_are_up().await;
    let module = gateway.upload(&denies("one")).await.json();
    let digest = module["digest"].as_str().unwrap();
    let definition = json!({ "module": format!("sha256:{digest}"), "priority": 7, "limits": { "time": "1s" } });
    let new = json!({ "name": "guard", "definition": definition });
    assert_eq!(gateway.operator("POST", "/api/v1/policies/bindings", Some(new)).await.status, 201);
    let exported = ask(&gateway, &["export"]).await.printed();
    assert!(exported.contains("# rubbish 1.0.0 was uploaded, and is not in here"), "{exported}");
    let entry = format!("[[policies]]\nmodule = \"sha256:{digest}\"\nname = \"guard\"\npriority = 7\n");
    assert!(exported.contains(&entry), "{exported}");
    (gateway, exported)
}

#[tokio::test]
async fn policies_go_from_one_gateway_to_another() {
    let up = Fixture::start().await;
    let (first, exported) = guarded(&up).await;
    let own = first.dir.path().join("stored.toml");
    fs::write(&own, &exported).unwrap();
    let nothing = ask(&first, &["apply", own.to_str().unwrap(), "--dry-run", "--prune"]).await.printed();
    assert_eq!(nothing, "nothing to change\n");

    let second = Gateway::builder().http_upstream("up", &up.url).key("ci").start().await;
    second.until_upstreams_are_up().await;
    let file = second.dir.path().join("stored.toml");
    let apply = async |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        ask(&second, &[&["apply", file.to_str().unwrap()], more].concat()).await
    };
    let missing = apply(&exported, &[]).await.complaint();
    assert!(missing.contains("policy guard: its module sha256:") && missing.contains("is not uploaded"), "{missing}");

    // As the comment in the export says.
    fs::write(second.dir.path().join("guard.wasm"), denies("one")).unwrap();
    let with_path = exported.replace("module = \"sha256:", "module = \"guard.wasm\"\ndigest = \"sha256:");
    let dry = apply(&with_path, &["--dry-run"]).await;
    assert_eq!(dry.code, Some(2), "{}{}", dry.stdout, dry.stderr);
    let lines: Vec<&str> = dry.stdout.lines().collect();
    assert!(lines[0].starts_with("+ module sha256:") && lines[0].ends_with("guard.wasm)"), "{lines:?}");
    assert_eq!(lines[1..], ["+ policy guard"]);
    assert_eq!(second.operator("GET", "/api/v1/policies", None).await.json()["generation"], 1, "it is dry");
    let printed = apply(&with_path, &[]).await.printed();
    assert!(printed.contains("+ module sha256:") && printed.contains("+ policy guard"), "{printed}");
    assert_eq!(code(&second).await, "one");
    assert_eq!(ask(&second, &["export"]).await.printed(), exported, "the same is stored here now");
    for text in [&exported, &with_path] {
        assert_eq!(apply(text, &["--dry-run", "--prune"]).await.printed(), "nothing to change\n");
    }

    let changed = exported.replace("priority = 7", "mode = \"shadow\"");
    let dry = apply(&changed, &["--dry-run"]).await.stdout;
    assert_eq!(dry, "~ policy guard\n    + mode \"shadow\"\n    - priority 7\n");
    assert!(apply(&changed, &[]).await.printed().starts_with("~ policy guard\n"));
    let view = second.operator("GET", "/api/v1/policies/bindings/guard", None).await.json();
    assert_eq!((&view["definition"]["mode"], &view["definition"]["priority"]), (&json!("shadow"), &Value::Null));

    let left = apply("policies = []\n", &[]).await;
    assert!(left.stderr.contains("left alone: policy guard"), "{}", left.stderr);
    assert_eq!(apply("policies = []\n", &["--prune"]).await.printed(), "- policy guard\n");
    assert_eq!(second.operator("GET", "/api/v1/policies/bindings/guard", None).await.status, 404);
}

#[tokio::test]
async fn a_policy_that_cannot_be_stored_stops_the_rest() {
    let up = Fixture::start().await;
    let own = "[[policies]]\nname = \"filed\"\nmodule = \"builtin:allow-tools\"\nconfig = { otherwise = \"allow\" }\n";
    let gateway = Gateway::builder().http_upstream("up", &up.url).section(own).start().await;
    assert!(!ask(&gateway, &["export"]).await.printed().contains("filed"), "what its own file has is not repeated");
    let file = gateway.dir.path().join("wanted.toml");
    let apply = async |entry: &str, more: &[&str]| {
        fs::write(&file, format!("[keys.ci]\n{entry}")).unwrap();
        ask(&gateway, &[&["apply", file.to_str().unwrap(), "--show-secrets"], more].concat()).await
    };
    for (entry, part) in [
        (own, "policy filed is in the gateway's own configuration file"),
        ("[[policies]]\nname = \"new\"\nmodule = \"new.wasm\"\n", "new.wasm"),
        ("[[policies]]\nname = \"new\"\nmodule = \"builtin:redact\"\ntests = \"a.json\"\n", "tests is a path"),
        (
            "[[policies]]\nname = \"new\"\nmodule = \"wanted.toml\"\ndigest = \"sha256:00\"\n",
            "not the one that is said",
        ),
        ("[[policies]]\nmodule = \"builtin:redact\"\n", "has no name"),
    ] {
        let complaint = apply(entry, &[]).await.complaint();
        assert!(complaint.contains(part), "{part:?} is not in\n{complaint}");
        assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404, "{part}");
    }
    // What only the policies themselves can tell is told when it is tried, which is before keys are made.
    let refused = "[[policies]]\nname = \"new\"\nmodule = \"builtin:allow-tools\"\nconfig = { rules = 7 }\n";
    let refused = apply(refused, &[]).await.complaint();
    assert!(refused.contains("+ policy new failed"), "{refused}");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404);
    let told = apply("[policy]\nrecord = true\n", &["--dry-run", "--output", "json"]).await;
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!((&told["changes"], &told["not_applied"]), (&json!(["+ key ci"]), &json!(["policy"])));
}

#[tokio::test]
async fn the_file_is_checked_and_described() {
    let gateway = Gateway::builder().start().await;
    let checked = run(&["config", "check", gateway.file.to_str().unwrap()]).await.printed();
    assert!(checked.contains("ok (0 upstreams"), "{checked}");
    assert_eq!(run(&["config", "schema"]).await.printed(), run(&["schema"]).await.printed());
    let reference = run(&["config", "reference"]).await.printed();
    assert!(reference.contains("\nedge.idle_timeout (default"), "{reference}");
}
