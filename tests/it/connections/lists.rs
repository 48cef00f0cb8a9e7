//! What is listed where each person has an account of their own.

use std::time::Duration;

use portcullis_tests::Caller;
use portcullis_tests::caller::Stream;

use super::*;
use crate::policy::guest::answering;

/// `vault` shows `ann_only` to Ann alone. To strangers it shows the rest, or nothing.
async fn vault(is_closed: bool) -> Gated {
    let vault = Gated::by_header("x-api-key", &["right-of-ann", "right-of-ben"]).await;
    vault.show_only("ann_only", "right-of-ann");
    if is_closed {
        vault.close_lists();
    }
    vault
}

fn section(vault: &Gated, more: &str) -> String {
    format!(
        "[upstreams.vault]\nurl = \"{}\"\n{more}[upstreams.vault.auth]\nkind = \"per-user-headers\"\nheaders = [\"X-Api-Key\"]\n",
        vault.url
    )
}

/// Until it was found out what strangers see.
async fn until_tried(gateway: &Gateway) {
    gateway
        .until("/api/v1/upstreams", |view| {
            let is_tried = |upstream: &Value| {
                let is_refused = upstream["reason"].as_str().is_some_and(|reason| reason.contains("credential"));
                upstream["state"] == "up" || is_refused
            };
            view["upstreams"].as_array().is_some_and(|all| all.iter().all(is_tried))
        })
        .await;
}

async fn scene(is_closed: bool) -> (Gated, Gateway) {
    let vault = vault(is_closed).await;
    let gateway = Gateway::builder().section(&section(&vault, "")).key("ann").key("ben").start().await;
    until_tried(&gateway).await;
    (vault, gateway)
}

/// Gives a value by the link that a call of this tool is answered with.
async fn connect(gateway: &Gateway, key: &str, tool: &str, value: &str) {
    let lacking = missing(&gateway.caller(key).call(tool, json!({})).await);
    assert_eq!((&lacking["upstream"], &lacking["state"]), (&json!("vault"), &json!("not_connected")), "{lacking}");
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &url(&lacking)).await;
    let page = browser.submit(&page.form("/connect/vault").with("header-x-api-key", value)).await;
    assert!(page.text().contains("Connected"), "{page}");
}

async fn listen(caller: &Caller) -> Stream {
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let mut stream = caller.begin_modern("subscriptions/listen", filter).await;
    assert_eq!(stream.next().await["method"], "notifications/subscriptions/acknowledged");
    stream
}

async fn is_unknown(caller: &Caller, tool: &str) -> bool {
    let reply = caller.call(tool, json!({})).await.json();
    let nothing = caller.call("vault__nothing", json!({})).await.json();
    assert_eq!(nothing["error"]["code"], -32602, "{nothing}");
    reply["error"]["code"] == nothing["error"]["code"]
}

async fn has(caller: &Caller, tool: &str) -> bool {
    caller.tool_names().await.iter().any(|name| name == tool)
}

#[tokio::test]
async fn each_person_sees_and_calls_what_the_upstream_shows_to_them() {
    let (_vault, gateway) = scene(false).await;
    let (ann, ben) = (gateway.caller("ann"), gateway.caller("ben"));
    let common = ann.tool_names().await;
    assert!(common.contains(&"vault__whoami".to_owned()), "{common:?}");
    assert!(!common.iter().any(|name| name == "vault__connect" || name == "vault__ann_only"), "{common:?}");
    assert!(is_unknown(&ann, "vault__ann_only").await);

    connect(&gateway, "ann", "vault__whoami", "right-of-ann").await;
    connect(&gateway, "ben", "vault__whoami", "right-of-ben").await;
    assert!(has(&ann, "vault__ann_only").await && has(&ann, "vault__whoami").await);
    assert!(!has(&ben, "vault__ann_only").await && has(&ben, "vault__whoami").await);
    assert_ne!(result(&ann.call("vault__ann_only", json!({ "a": 1 })).await)["isError"], true);
    assert!(is_unknown(&ben, "vault__ann_only").await);
    assert!(has(&gateway.caller("ann").at("/mcp/vault"), "ann_only").await);
}

#[tokio::test]
async fn who_sees_nothing_is_shown_how_to_connect_and_is_told_when_there_is_more() {
    let (_vault, gateway) = scene(true).await;
    let (ann, ben) = (gateway.caller("ann"), gateway.caller("ben"));
    for caller in [&ann, &ben] {
        assert_eq!(caller.tool_names().await, ["vault__connect"]);
    }
    assert_eq!(gateway.caller("ben").at("/mcp/vault").tool_names().await, ["connect"]);
    let (mut of_ann, mut of_ben) = (listen(&ann).await, listen(&ben).await);

    connect(&gateway, "ann", "vault__connect", "right-of-ann").await;
    assert_eq!(of_ann.next().await["method"], "notifications/tools/list_changed");
    assert!(has(&ann, "vault__ann_only").await && !has(&ann, "vault__connect").await);
    let again = result(&ann.call("vault__connect", json!({})).await);
    assert!(again["content"][0]["text"].as_str().unwrap().contains("is connected"), "{again}");
    assert_ne!(again["isError"], true, "{again}");
    assert_eq!(ben.tool_names().await, ["vault__connect"], "what is Ann's is not Ben's");

    let listed = connections(&gateway, "holder=key:ann").await;
    let path = format!("/api/v1/connections/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204);
    assert_eq!(of_ann.next().await["method"], "notifications/tools/list_changed");
    assert_eq!(ann.tool_names().await, ["vault__connect"]);
    assert!(is_unknown(&ann, "vault__ann_only").await);

    connect(&gateway, "ben", "vault__connect", "right-of-ben").await;
    assert_eq!(of_ben.next().await["method"], "notifications/tools/list_changed");
    assert!(!has(&ben, "vault__ann_only").await && has(&ben, "vault__whoami").await);
}

#[tokio::test]
async fn the_tool_for_connecting_answers_in_the_form_that_the_client_knows() {
    let (_vault, gateway) = scene(true).await;
    let able = json!({ "elicitation": { "url": {} } });
    let asked = result(&gateway.caller("ann").able(able.clone()).call("vault__connect", json!({})).await);
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    assert_eq!(asked["inputRequests"]["connect-vault"]["params"]["mode"], "url", "{asked}");
    let session = gateway.caller("ann").able(able).initialize("2025-11-25").await;
    let reply = session.request("tools/call", json!({ "name": "vault__connect", "arguments": {} })).await.json();
    assert_eq!(reply["error"]["code"], -32042, "{reply}");
}

#[tokio::test]
async fn a_policy_that_hides_everything_hides_the_tool_for_connecting_and_a_narrow_key_has_it() {
    let vault = vault(true).await;
    let hiding = answering(&[("list-tools", json!({ "visible": ["hide"] }))]);
    let policy = "[[policies]]\nname = \"guard\"\nmodule = \"policy.wasm\"\nlimits = { time = \"1s\" }\n";
    let builder = Gateway::builder().section(&section(&vault, "")).file("policy.wasm", &hiding);
    let gateway = builder.section(policy).key("ann").start().await;
    until_tried(&gateway).await;
    let ann = gateway.caller("ann");
    assert_eq!(ann.tool_names().await, Vec::<String>::new());
    assert!(is_unknown(&ann, "vault__connect").await);

    let builder = Gateway::builder().section(&section(&vault, "")).key("ann");
    let builder = builder.key_for("narrow", r#"[{ upstream = "vault", tools = ["whoami"] }]"#);
    let gateway = builder.key_for("elsewhere", r#"[{ upstream = "other-*", tools = ["*"] }]"#).start().await;
    until_tried(&gateway).await;
    let narrow = gateway.caller("narrow");
    assert_eq!(narrow.tool_names().await, ["vault__connect"]);
    assert_eq!(gateway.caller("elsewhere").tool_names().await, Vec::<String>::new());
    connect(&gateway, "narrow", "vault__connect", "right-of-ann").await;
    assert_eq!(narrow.tool_names().await, ["vault__whoami"], "the allow-list holds for lists of one's own");
}

#[tokio::test]
async fn a_list_is_read_once_for_many_who_wait_and_again_after_its_interval() {
    let vault = vault(true).await;
    let section = section(&vault, "sync_interval = \"1s\"\n");
    let gateway = Gateway::builder().section(&section).key("ann").start().await;
    until_tried(&gateway).await;
    connect(&gateway, "ann", "vault__connect", "right-of-ann").await;
    let before = vault.own_lists();
    let ann = gateway.caller("ann");
    let all = futures_util::future::join_all((0..16).map(|_| ann.tool_names())).await;
    assert!(all.iter().all(|names| names.contains(&"vault__ann_only".to_owned())), "{all:?}");
    assert!(vault.own_lists() <= before + 2, "{} after {before}", vault.own_lists());

    vault.show_only("ben_only", "right-of-ben");
    vault.show_only("ann_too", "right-of-ann");
    let seen = tokio::time::timeout(Duration::from_secs(30), async {
        while !has(&ann, "vault__ann_too").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    seen.await.expect("it is read again");
    assert!(!has(&ann, "vault__ben_only").await);
}
