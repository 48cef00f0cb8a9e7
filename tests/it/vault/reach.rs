//! A key that goes out of reach and comes back while the gateway runs.

use std::fs;

use http::StatusCode;
use portcullis_tests::Gateway;
use portcullis_tests::caller::Reply;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::transit::{TOKEN, Transit};
use serde_json::{Value, json};

async fn rotate(gateway: &Gateway) -> Reply {
    gateway.operator("POST", "/api/v1/vault/rotate", Some(json!({ "to": "bao" }))).await
}

/// How many data keys and sealed fields cannot be looked at, and whether any cannot be opened.
async fn out_of_reach(gateway: &Gateway) -> (u64, u64) {
    let (mut data_keys, mut all, mut cursor) = (None, 0, Value::Null);
    loop {
        let step = gateway.operator("POST", "/api/v1/vault/verify", Some(json!({ "cursor": cursor }))).await;
        assert_eq!(step.status, StatusCode::OK, "{}", step.text());
        let step = step.json();
        assert_eq!(step["unreadable"], json!([]), "out of reach is not damaged");
        all += step["unreachable"].as_u64().unwrap();
        data_keys.get_or_insert(all);
        cursor = step["next_cursor"].clone();
        if cursor.is_null() {
            let data_keys = data_keys.unwrap_or_default();
            return (data_keys, all - data_keys);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_engine_is_gone_only_what_needs_it_is_refused() {
    let mut engine = Transit::start().await;
    let key = format!(
        "[vault]\ncache_ttl = \"10m\"\n[[vault.keys]]\nkid = \"bao\"\nsource = \"transit\"\nurl = \"{}\"\nkey = \"k\"\ntoken = \"file:token\"\n",
        engine.url()
    );
    let gateway = Gateway::builder().key("ci").file("token", TOKEN.as_bytes()).section(&key).start().await;
    assert_eq!(rotate(&gateway).await.status, StatusCode::OK);
    assert_eq!(out_of_reach(&gateway).await, (0, 0));

    engine.stop();
    let refused = rotate(&gateway).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text());
    assert_eq!((refused.header("retry-after"), &refused.json()["code"]), ("1", &json!("vault_unavailable")));
    assert!(refused.text().contains("\\\"bao\\\"") && !refused.text().contains(TOKEN), "{}", refused.text());
    assert_eq!(out_of_reach(&gateway).await, (1, 0), "what is sealed opens with the data key in memory");
    // The gateway is ready, and calls go on.
    assert_eq!(gateway.operator("GET", "/api/v1/status", None).await.json()["ready"], true);
    assert_eq!(gateway.caller("ci").tool_names().await, [] as [&str; 0]);

    // A configuration with the same keys comes into force, and here without anything in memory.
    let text = fs::read_to_string(&gateway.file).unwrap().replace("cache_ttl = \"10m\"", "cache_ttl = \"0s\"");
    gateway.replace("portcullis.toml", text.as_bytes());
    gateway.until("/api/v1/vault", |view| view["cached_data_keys"] == 0).await;
    // The deployment's secret and the key that signs.
    assert_eq!(out_of_reach(&gateway).await, (1, 2));
    let view = gateway.operator("GET", "/api/v1/vault", None).await.json();
    assert!(view["keys"][0]["fault"].is_string(), "{view}");

    engine.start_again().await;
    let back = async {
        while rotate(&gateway).await.status != StatusCode::OK || out_of_reach(&gateway).await != (0, 0) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, back).await.expect("all is well again without a restart");
}
