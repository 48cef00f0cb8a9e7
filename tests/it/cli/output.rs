//! What the command line prints for scripts: every list as one JSON document, and errors as problem documents.

use std::fs;

use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{run, run_in};

/// Every command that lists something, by the man pages that the program writes of all its commands.
async fn list_commands() -> Vec<Vec<String>> {
    let dir = TempDir::new().unwrap();
    run(&["man", dir.path().to_str().unwrap()]).await.printed();
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let noun = |name: String| Some(name.strip_prefix("portcullis-")?.strip_suffix("-list.1")?.to_owned());
    names.filter_map(noun).map(|noun| vec![noun, "list".to_owned()]).collect()
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn every_list_is_one_json_document_with_all_its_rows() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    // More than one page.
    for number in 0..203 {
        let key = json!({ "name": format!("key-{number:03}") });
        assert_eq!(gateway.operator("POST", "/api/v1/keys", Some(key)).await.status, 201);
    }
    let commands = list_commands().await;
    for noun in ["key", "upstream", "decision", "audit", "signing-key", "connection"] {
        assert!(commands.iter().any(|command| command[0] == noun), "{noun} is not in {commands:?}");
    }
    for command in commands {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let listed = async |more: &[&str]| {
            let arguments = [&command[..], &["--output", "json", "--config", gateway.file.to_str().unwrap()], more];
            document(&run_in(gateway.dir.path(), &arguments.concat()).await.printed())
        };
        let whole = listed(&[]).await;
        let lists: Vec<(&String, &Vec<Value>)> =
            whole.as_object().unwrap().iter().filter_map(|(name, value)| Some((name, value.as_array()?))).collect();
        assert_eq!(lists.len(), 1, "{command:?}: one list and what is said of it: {whole}");
        let help = run(&[&command[..], &["--help"]].concat()).await.printed();
        if command[0] == "key" {
            assert_eq!(lists[0].1.len(), 204, "all pages");
        }
        if help.contains("--limit") {
            let short = listed(&["--limit", "1"]).await;
            assert!(short[lists[0].0].as_array().unwrap().len() <= 1, "{command:?}: {short}");
            if command[0] == "audit" {
                assert!(short["next_cursor"].is_string(), "it says where to go on: {short}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_shown_or_done_is_told_in_json_as_the_api_tells_it() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    gateway.until_upstreams_are_up().await;
    let config = gateway.file.to_str().unwrap();
    let ask = async |arguments: &[&str]| {
        let arguments = [arguments, &["--output", "json", "--config", config]].concat();
        run_in(gateway.dir.path(), &arguments).await.printed()
    };
    let made = document(&ask(&["key", "create", "ci", "--allow", "up/*"]).await);
    assert!(made["secret"].as_str().unwrap().starts_with("pk_"), "{made}");
    assert_eq!(document(&ask(&["key", "show", "ci"]).await)["name"], "ci");
    assert_eq!(document(&ask(&["upstream", "try", "up"]).await)["outcome"], "works");
    let status = document(&ask(&["status"]).await);
    assert_eq!((&status["status"]["ready"], status["keys"].as_array().unwrap().len()), (&json!(true), 1));
    assert_eq!(document(&ask(&["store", "verify"]).await)["discrepancies"], json!([]));
    assert_eq!(ask(&["key", "delete", "ci"]).await, "", "what has no content is nothing");
}

#[tokio::test]
async fn a_backup_tells_in_json_what_it_holds_and_never_into_itself() {
    let gateway = Gateway::builder().on_disk().start().await;
    let config = gateway.file.to_str().unwrap();
    let take = async |file: &str| {
        run_in(gateway.dir.path(), &["backup", file, "--force", "--output", "json", "--config", config]).await
    };
    let taken = take("store.dump").await;
    assert_eq!((taken.code, taken.stderr.as_str()), (Some(0), ""), "nothing but the document: {}", taken.stderr);
    let told = document(&taken.stdout);
    let length = fs::metadata(gateway.dir.path().join("store.dump")).unwrap().len();
    assert_eq!((&told["file"], &told["bytes"]), (&json!("store.dump"), &json!(length)));
    assert!(told["rows"].as_u64().unwrap() > 0 && told["digest"].as_str().unwrap().len() == 64, "{told}");
    assert!(told["taken"].as_str().unwrap().ends_with('Z'), "{told}");
    let refused = run_in(gateway.dir.path(), &["backup", "store.dump", "--output", "json", "--config", config]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(document(&refused.stderr)["detail"].as_str().unwrap().contains("is there already"));
}

#[tokio::test]
async fn work_without_a_terminal_shows_no_progress() {
    let home = Gateway::builder().on_disk().start().await.stop().await;
    let verified = run_in(home.path(), &["store", "verify"]).await;
    assert_eq!((verified.code, verified.stderr.as_str()), (Some(0), ""));
    let compacted = run_in(home.path(), &["store", "compact", "--output", "json"]).await;
    assert_eq!((compacted.code, compacted.stderr.as_str()), (Some(0), ""));
    let told = document(&compacted.stdout);
    assert!(told["bytes"].as_u64().unwrap() <= told["bytes_before"].as_u64().unwrap(), "{told}");
}

#[tokio::test]
async fn man_pages_go_where_nothing_was() {
    let dir = TempDir::new().unwrap();
    let there = dir.path().join("share/man/man1");
    run(&["man", there.to_str().unwrap()]).await.printed();
    let page = fs::read_to_string(there.join("portcullis-client-set.1")).unwrap();
    assert!(page.contains("new\\-secret"), "{page}");
}

#[tokio::test]
async fn an_error_is_a_problem_document_where_json_is_asked_for() {
    let gateway = Gateway::builder().start().await;
    let config = gateway.file.to_str().unwrap();
    let fails = async |arguments: &[&str]| run_in(gateway.dir.path(), arguments).await;

    let refused = fails(&["key", "show", "nobody", "--config", config, "--output", "json"]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let problem = document(&refused.stderr);
    assert_eq!((&problem["status"], &problem["code"]), (&json!(404), &json!("not_found")));

    let absent = TempDir::new().unwrap();
    fs::write(absent.path().join("portcullis.toml"), "data_dir = \"data\"\n").unwrap();
    let alone = run_in(absent.path(), &["key", "list", "--output=json"]).await;
    assert_eq!((alone.code, alone.stdout.as_str()), (Some(1), ""));
    assert!(document(&alone.stderr)["detail"].as_str().unwrap().contains("is it running?"), "{}", alone.stderr);

    let misread = fails(&["key", "lsit", "--output", "json"]).await;
    assert_eq!((misread.code, misread.stdout.as_str()), (Some(2), ""));
    assert_eq!(document(&misread.stderr)["code"], "usage");
}

#[tokio::test]
async fn completions_are_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).await.printed();
        assert!(script.contains("portcullis") && script.contains("redirect-uris"), "{shell}");
    }
    assert_eq!(run(&["completions", "none"]).await.code, Some(2));
}
