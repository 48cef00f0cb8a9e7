//! The overview: what needs somebody, what came of requests, and how the upstreams fare. It says what the API says.

use http::StatusCode;
use portcullis_tests::oauth::{Browser, Page};
use portcullis_tests::upstreams::fixture::{self, Fixture};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::browser_of;

const CONFIRM: &str =
    "[[policies]]\nname = \"confirm\"\nmodule = \"builtin:confirm-destructive\"\nlimits = { time = \"1s\" }\n";

/// The page, once it is known what others were asked for.
async fn overview(browser: &mut Browser) -> Page {
    loop {
        let page = browser.get("/").await;
        assert_eq!(page.status(), 200, "{page}");
        if !page.text().contains("not known yet") {
            return page;
        }
    }
}

#[tokio::test]
async fn where_all_is_well_it_says_so_and_what_could_be_here() {
    let gateway = Gateway::builder().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let text = overview(&mut viewer).await.text();
    for said in ["All well", "There is none yet.", "failed: no requests", "Requests of callers are served."] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let health = gateway.operator("GET", "/api/v1/health", None).await.json();
    assert_eq!((&health["ready"], &health["expiring"]), (&json!(true), &json!([])));
    assert_eq!(health["approvals_waiting"], json!({ "count": 0, "more": false }));
}

#[tokio::test]
async fn requests_are_drawn_as_the_api_counts_them() {
    let (up, wild) = (Fixture::start().await, Fixture::start().await);
    wild.set_tools(["delete"].map(fixture::tool).into());
    let builder = Gateway::builder().http_upstream("up", &up.url).http_upstream("wild", &wild.url);
    let abstaining = format!("[policy]\nwhen_all_abstain = \"allow\"\n{CONFIRM}");
    let gateway = builder.key("alice").key_for("bob", "[]").section(&abstaining).start().await;
    gateway.until_upstreams_are_up().await;
    gateway.caller("alice").call("up__echo", json!({})).await;
    gateway.caller("bob").call("up__echo", json!({})).await;
    gateway.caller("alice").call("wild__delete", json!({ "id": 1 })).await;
    let counted =
        |view: &Value| ["allowed", "denied", "held"].iter().all(|word| view["total"][*word].as_u64() > Some(0));
    let traffic = gateway.until("/api/v1/traffic", counted).await;
    let total = &traffic["total"];
    let parts = ["allowed", "denied", "held", "throttled"].map(|word| total[word].as_u64().unwrap());
    assert_eq!(total["requests"].as_u64(), Some(parts.iter().sum()), "{traffic}");
    assert!(total["p95_ms"].as_u64() >= total["p50_ms"].as_u64() && total["p50_ms"].is_u64(), "{traffic}");

    let mut viewer = browser_of(&gateway, "viewer").await;
    for (query, spans) in
        [("/?span=hour", "/api/v1/traffic?minutes=60&span=2"), ("/?span=day", "/api/v1/traffic?minutes=1440&span=60")]
    {
        let page = viewer.get(query).await;
        let html = page.reply.text();
        let said =
            format!("allowed: {}, denied: {}, held for somebody: {}", total["allowed"], total["denied"], total["held"]);
        assert!(html.contains(&said), "{said}: {html}");
        assert!(html.contains("as a table") && html.contains("<svg") && !html.contains("<style"), "{html}");
        let rows = gateway.operator("GET", spans, None).await.json()["spans"].as_array().unwrap().len();
        let drawn = html.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap().matches("<tr>").count();
        assert_eq!(drawn, rows, "the first table is that of the verdicts");
    }
    let reply = gateway.operator("GET", "/api/v1/traffic?minutes=99999999&span=0", None).await;
    assert_eq!(
        (reply.status, &reply.json()["minutes"], &reply.json()["span"]),
        (StatusCode::OK, &json!(1440), &json!(1))
    );
    let refused = gateway.operator("GET", "/api/v1/traffic?minutes=-1", None).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_needs_somebody_stands_on_top_with_a_link() {
    let up = Fixture::start().await;
    up.set_tools(["delete"].map(fixture::tool).into());
    let nowhere = "http://127.0.0.1:9/mcp";
    let builder = Gateway::builder().http_upstream("up", &up.url).http_upstream("gone", nowhere).key("alice");
    let gateway = builder.section(CONFIRM).start().await;
    gateway
        .until("/api/v1/upstreams", |view| view["upstreams"].as_array().unwrap().iter().any(|row| row["state"] == "up"))
        .await;
    gateway.caller("alice").call("up__delete", json!({ "id": 1 })).await;
    let soon = json!({ "name": "soon", "expires": "2026-01-08T00:00:00Z" });
    let late = json!({ "name": "late", "expires": "2026-03-08T00:00:00Z" });
    for key in [soon, late] {
        assert_eq!(gateway.operator("POST", "/api/v1/keys", Some(key)).await.status, StatusCode::CREATED);
    }
    let broken = std::fs::read_to_string(&gateway.file).unwrap() + "\n[nonsense]\n";
    gateway.replace("portcullis.toml", broken.as_bytes());
    let health = gateway.until("/api/v1/health", |health| health["reload_refused"].is_string()).await;
    assert_eq!(health["expiring"][0]["name"], "soon");
    assert_eq!(health["expiring"].as_array().unwrap().len(), 1, "{health}");
    assert_eq!(health["approvals_waiting"]["count"], 1);

    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = overview(&mut viewer).await;
    let text = page.text();
    for said in [
        "The last reload was refused",
        "Upstreams: down: gone.",
        "1 approval waits for a decision.",
        "1 virtual key ends within 14 days, from 2026-01-08 00:00 UTC on.",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("All well"), "{text}");
    for link in ["/settings", "/upstreams/gone", "/approvals?state=pending", "/keys/soon", "#expiring"] {
        assert!(page.links().contains(&link), "{link}: {:?}", page.links());
    }
    let told = gateway.operator("GET", "/api/v1/status", None).await.json();
    assert_eq!(
        (&told["ready"], &told["not_ready"]),
        (&json!(true), &Value::Null),
        "an upstream that is down is a remark"
    );
    assert_eq!(
        Caller::new(gateway.admin, None).send("GET", "/api/v1/health", "").await.status,
        StatusCode::UNAUTHORIZED
    );
}
