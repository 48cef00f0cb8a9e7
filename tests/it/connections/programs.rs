//! Values that each principal gives for the environment of a program: a child for each.

use std::collections::BTreeMap;

use portcullis_tests::program;

use super::*;

async fn scene(auth: &str) -> Gateway {
    let command = [program("fixture-upstream").display().to_string(), "stdio".to_owned()];
    let section = format!(
        "[upstreams.child]\ncommand = {command:?}\nenvironment = {{ REGION = \"north\" }}\n[upstreams.child.auth]\n\
         kind = \"per-user-environment\"\nenvironment = [\"API_KEY\"]\n{auth}\n"
    );
    let gateway = Gateway::builder().section(&section).key("alice").key("bob").start().await;
    gateway.until_upstreams_are_up().await;
    gateway
}

async fn connect(gateway: &Gateway, key: &str, value: &str) -> Page {
    let lacking = missing(&gateway.caller(key).call("child__whoami", json!({})).await);
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &url(&lacking)).await;
    assert_eq!(page.status(), 200, "{page}");
    browser.submit(&page.form("/connect/child").with("header-API_KEY", value)).await
}

/// The environment of the child that answers a call.
async fn environment(gateway: &Gateway, key: &str) -> BTreeMap<String, String> {
    let result = result(&gateway.caller(key).call("child__whoami", json!({})).await);
    assert_ne!(result["isError"], true, "{result}");
    let seen: Vec<(String, String)> =
        serde_json::from_value(result["structuredContent"]["environment"].clone()).unwrap();
    seen.into_iter().collect()
}

#[tokio::test]
async fn two_people_with_two_values_have_two_children() {
    let gateway = scene("").await;
    let lacking = missing(&gateway.caller("alice").call("child__whoami", json!({})).await);
    assert_eq!(
        (&lacking["kind"], &lacking["state"], &lacking["environment"]),
        (&json!("environment"), &json!("not_connected"), &json!(["API_KEY"])),
        "{lacking}"
    );
    assert!(connect(&gateway, "alice", "of-alice").await.text().contains("Connected"));
    connect(&gateway, "bob", "of bob").await;
    let (alice, bob) = (environment(&gateway, "alice").await, environment(&gateway, "bob").await);
    assert_eq!((&*alice["API_KEY"], &*bob["API_KEY"]), ("of-alice", "of bob"));
    assert_eq!((&*alice["REGION"], &*bob["REGION"]), ("north", "north"));
    assert!(alice["HOME"] != bob["HOME"] && alice["TMPDIR"] != bob["TMPDIR"]);
    assert_eq!(environment(&gateway, "alice").await["HOME"], alice["HOME"], "a child stays");

    let listed = connections(&gateway, "holder=key:alice").await;
    assert_eq!((&listed[0]["kind"], &listed[0]["environment"]), (&json!("environment"), &json!(["API_KEY"])));
    let path = format!("/api/v1/connections/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204);
    assert_eq!(missing(&gateway.caller("alice").call("child__whoami", json!({})).await)["state"], "not_connected");
    let gone = tokio::time::timeout(portcullis_tests::gateway::SOON, async {
        while std::path::Path::new(&alice["HOME"]).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    gone.await.expect("the child that had the value ends, and its home with it");
    assert_eq!(environment(&gateway, "bob").await["HOME"], bob["HOME"], "what was Alice's end is not Bob's");
}

#[tokio::test]
async fn u11_a_value_that_no_header_could_carry_is_none_for_a_program_either() {
    let gateway = scene("").await;
    let page = connect(&gateway, "alice", "wr\u{f6}ng").await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(page.text().contains("API_KEY") && !page.text().contains("wr\u{f6}ng"), "{page}");
    assert_eq!(connections(&gateway, "holder=key:alice").await, Vec::<Value>::new());
}

#[tokio::test]
async fn one_who_comes_when_all_places_are_taken_takes_that_of_whoever_rests() {
    let gateway = scene("max_programs = 1").await;
    connect(&gateway, "alice", "of-alice").await;
    connect(&gateway, "bob", "of-bob").await;
    for key in ["alice", "bob", "alice"] {
        assert_eq!(environment(&gateway, key).await["API_KEY"], format!("of-{key}"));
    }
}
