//! Skills (SEP-2640), which pass from upstreams to callers without sessions, with all their bytes.

use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::scripted::{Manner, Offer, Scripted};
use super::{refusal, result_text, scene};

const SKILLS: &str = "io.modelcontextprotocol/skills";
const PDF: &str = "skill://pdf-processing/SKILL.md";
const GIT: &str = "skill://tools/git-commit/SKILL.md";

/// `skills/list` to its end: the URIs of each page.
async fn pages(caller: &Caller) -> Vec<Vec<String>> {
    let (mut pages, mut params) = (Vec::new(), json!({}));
    loop {
        let result = caller.modern("skills/list", params).await.json()["result"].clone();
        assert_eq!(result["cacheScope"], "private");
        assert!(result["ttlMs"].is_u64());
        let skills = result["skills"].as_array().unwrap_or_else(|| panic!("no skills in {result}"));
        pages.push(skills.iter().map(|skill| skill["uri"].as_str().unwrap().to_owned()).collect());
        match result["nextCursor"].as_str() {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => return pages,
        }
    }
}

async fn get(caller: &Caller, uri: &str) -> Reply {
    caller.modern("skills/get", json!({ "uri": uri })).await
}

async fn read(caller: &Caller, uri: &str) -> Value {
    let result = caller.modern("resources/read", json!({ "uri": uri })).await.json();
    result["result"]["contents"][0]["text"].clone()
}

/// An upstream with these skills: pairs of URI and further members.
async fn skilled(settings: &str, skills: &[(&str, &str)]) -> Scripted {
    let capabilities = vec![format!(r#""extensions":{{"{SKILLS}":{settings}}}"#)];
    let upstream = Scripted::with(Manner::Modern, Offer { capabilities, ..Offer::default() }).await;
    let skills: Vec<String> = skills.iter().map(|(uri, more)| format!(r#"{{"uri":"{uri}"{more}}}"#)).collect();
    let result = format!(r#""result":{{"resultType":"complete","skills":[{}]}}"#, skills.join(","));
    upstream.answer_to("skills/list", &result);
    upstream
}

/// The upstream answers what is read with its own name.
fn reads_as(upstream: &Scripted, name: &str) {
    let contents = format!(r#"{{"uri":"x:y","text":"{name}"}}"#);
    upstream.answer_to("resources/read", &format!(r#""result":{{"resultType":"complete","contents":[{contents}]}}"#));
    upstream.answer_to("skills/get", &format!(r#""result":{{"resultType":"complete","skill":{{"of":"{name}"}}}}"#));
}

#[tokio::test]
async fn skills_are_listed_fetched_and_read() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    assert_eq!(pages(&alice).await, [[PDF, GIT]]);

    let capabilities = alice.modern("server/discover", json!({})).await.json()["result"]["capabilities"].clone();
    assert_eq!(capabilities["extensions"][SKILLS], json!({ "directoryRead": true }));
    assert!(capabilities["resources"].is_object());

    let listed = alice.modern("skills/list", json!({})).await.json()["result"]["skills"].clone();
    let fetched = get(&alice, PDF).await.json()["result"].clone();
    assert_eq!(fetched["skill"], listed[0]);
    assert_eq!(fetched["cacheScope"], "private");
    assert!(fetched["ttlMs"].is_u64() && fetched.get("nextCursor").is_none());
    for file in listed[0]["resources"].as_array().unwrap() {
        let text = read(&alice, file["uri"].as_str().unwrap()).await;
        assert_eq!(text.as_str().unwrap().len() as u64, file["size"].as_u64().unwrap(), "{file}");
    }

    for unknown in ["skill://nobody/SKILL.md", "skill://pdf-processing", "nonsense", ""] {
        let reply = get(&alice, unknown).await;
        assert_eq!(refusal(&reply), (200, -32602), "{unknown}");
    }
    assert_eq!(refusal(&alice.modern("skills/get", json!({})).await), (200, -32602));
}

#[tokio::test]
async fn directories_of_skills_are_read() {
    let up = Fixture::with(Settings { page_size: Some(1), ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    let directory = async |params: Value| alice.modern("resources/directory/read", params).await;
    let (mut children, mut params) = (Vec::new(), json!({ "uri": "skill://pdf-processing" }));
    loop {
        let result = directory(params).await.json()["result"].clone();
        assert_eq!(result["cacheScope"], "private");
        children.extend(result["resources"].as_array().unwrap().iter().map(|child| child["uri"].clone()));
        match result["nextCursor"].as_str() {
            Some(cursor) => params = json!({ "uri": "skill://pdf-processing", "cursor": cursor }),
            None => break,
        }
    }
    assert_eq!(children, [PDF, "skill://pdf-processing/references"]);
    for uri in ["skill://pdf-processing/references", "skill://tools"] {
        assert!(directory(json!({ "uri": uri })).await.json()["result"]["resources"][0].is_object(), "{uri}");
    }
    for uri in [PDF, "skill://nobody"] {
        assert_eq!(refusal(&directory(json!({ "uri": uri })).await), (200, -32602), "{uri}");
    }
}

#[tokio::test]
async fn an_entry_passes_with_all_its_bytes() {
    let entry = r#", "frontmatter" : {"name":"odd","description":"\u00e9","metadata":{"n":1.0}},"resources":"dynamic","_meta":{"x":[]} "#;
    let up = skilled("{}", &[("skill://odd/SKILL.md", entry)]).await;
    let result =
        format!(r#"{{"resultType":"complete","ttlMs":7,"cacheScope":"private","skill":{{"uri":"u"{entry}}}}}"#);
    up.answer_to("skills/get", &format!(r#""result":{result}"#));
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    let listed = result_text(&alice.modern("skills/list", json!({})).await);
    assert!(listed.contains(&format!(r#""skills":[{{"uri":"skill://odd/SKILL.md"{entry}}}]"#)), "{listed}");
    assert_eq!(result_text(&get(&alice, "skill://odd/SKILL.md").await), result);
    let asked = up.last("skills/get");
    assert!(asked.params.starts_with(r#"{"uri":"skill://odd/SKILL.md""#), "{}", asked.params);
    // A list need not have all skills, and a manifest need not have all files.
    assert_eq!(result_text(&get(&alice, "skill://unlisted/SKILL.md").await), result);
    reads_as(&up, "up");
    assert_eq!(read(&alice, "skill://odd/any/file.md").await, "up");
}

#[tokio::test]
async fn skills_of_several_upstreams_come_in_pages_of_one_order() {
    let b = skilled("{}", &[("skill://three/SKILL.md", ""), ("skill://one/SKILL.md", "")]).await;
    let a = skilled(r#"{"directoryRead":true}"#, &[("skill://two/SKILL.md", "")]).await;
    let none = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder()
        .http_upstream("a", &a.url)
        .http_upstream("b", &b.url)
        .http_upstream("legacy", &none.url)
        .key_for("alice", r#"[{ upstream = "a", tools = ["*"] }, { upstream = "b", tools = ["*"] }]"#)
        .key_for("reader", r#"[{ upstream = "a", tools = ["*"] }, { upstream = "b", tools = ["one"] }]"#)
        .key_for("nobody", r#"[{ upstream = "*", tools = ["x"] }]"#)
        .section("[limits]\nlist_page = 2")
        .start()
        .await;
    let alice = gateway.caller("alice");
    let uri = |name: &str| format!("skill://{name}/SKILL.md");
    assert_eq!(pages(&alice).await, [vec![uri("one"), uri("three")], vec![uri("two")]]);
    for cursor in ["x", ""] {
        assert_eq!(refusal(&alice.modern("skills/list", json!({ "cursor": cursor })).await), (200, -32602));
    }
    let cursor = alice.modern("skills/list", json!({})).await.json()["result"]["nextCursor"].clone();
    let elsewhere = alice.modern("resources/list", json!({ "cursor": cursor })).await;
    assert_eq!(refusal(&elsewhere), (200, -32602), "a cursor is good for its list");

    let settings = async |name: &str| {
        let discovered = gateway.caller(name).modern("server/discover", json!({})).await.json();
        discovered["result"]["capabilities"]["extensions"][SKILLS].clone()
    };
    assert_eq!(settings("alice").await, json!({}), "one of them does not read directories");
    assert_eq!(settings("reader").await, json!({ "directoryRead": true }));
    assert_eq!(settings("nobody").await, Value::Null);

    // An allow-list with single tools has no skills.
    let reader = gateway.caller("reader");
    assert_eq!(pages(&reader).await, [[uri("two")]]);
    assert_eq!(pages(&gateway.caller("nobody")).await, [[""; 0]]);
    for hidden in ["one", "three"] {
        assert_eq!(refusal(&get(&reader, &uri(hidden)).await), (200, -32602));
        assert_eq!(refusal(&reader.modern("resources/read", json!({ "uri": uri(hidden) })).await), (200, -32602));
    }
    assert!(b.asked("skills/get").is_empty() && b.asked("resources/read").is_empty());
}

#[tokio::test]
async fn a_caller_of_two_upstreams_with_a_skill_has_the_firsts() {
    let files = r#","resources":[{"uri":"skill://pdf/SKILL.md"},{"uri":"skill://pdf/a.md"}]"#;
    let same = [("skill://pdf/SKILL.md", files)];
    let (a, b) = (skilled("{}", &same).await, skilled("{}", &same).await);
    reads_as(&a, "a");
    reads_as(&b, "b");
    let gateway = Gateway::builder()
        .http_upstream("b", &b.url)
        .http_upstream("a", &a.url)
        .key("both")
        .key_for("second", r#"[{ upstream = "b", tools = ["*"] }]"#)
        .start()
        .await;
    let (both, second) = (gateway.caller("both"), gateway.caller("second"));
    for (caller, has) in [(&both, "a"), (&second, "b"), (&gateway.caller("both").at("/mcp/b"), "b")] {
        assert_eq!(pages(caller).await, [["skill://pdf/SKILL.md"]]);
        assert_eq!(get(caller, "skill://pdf/SKILL.md").await.json()["result"]["skill"]["of"], has);
        for file in ["SKILL.md", "a.md", "b/c.md"] {
            assert_eq!(read(caller, &format!("skill://pdf/{file}")).await, has, "{file}");
        }
    }
}

#[tokio::test]
async fn callers_with_sessions_have_no_skills() {
    let (_up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    for method in ["skills/list", "skills/get", "resources/directory/read"] {
        let reply = session.request(method, json!({ "uri": PDF })).await;
        assert_eq!(refusal(&reply), (200, -32601), "{method}");
    }
    let params =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    let capabilities =
        gateway.caller("alice").request("initialize", params).await.json()["result"]["capabilities"].clone();
    assert!(
        capabilities["resources"].is_object() && capabilities["extensions"].get(SKILLS).is_none(),
        "{capabilities}"
    );
    // Their files are resources like any other.
    let reply = session.request("resources/read", json!({ "uri": PDF })).await.json();
    assert!(reply["result"]["contents"][0]["text"].is_string(), "{reply}");
}

#[tokio::test]
async fn skills_of_an_upstream_with_sessions_reach_callers_without() {
    let up = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    assert_eq!(pages(&alice).await, [[PDF, GIT]]);
    let fetched = get(&alice, PDF).await.json()["result"].clone();
    assert_eq!((&fetched["skill"]["uri"], &fetched["cacheScope"]), (&json!(PDF), &json!("private")));
    assert!(fetched["ttlMs"].is_u64());
}

#[tokio::test]
async fn skills_that_cannot_be_used_cost_no_others() {
    let up =
        skilled("{}", &[("skill://good/SKILL.md", ""), ("", ""), ("skill://twice/SKILL.md", r#","uri":"x:y""#)]).await;
    let down = skilled("{}", &[]).await;
    down.answer_to("skills/list", r#""error":{"code":-32603,"message":"no"}"#);
    let gateway =
        Gateway::builder().http_upstream("up", &up.url).http_upstream("odd", &down.url).key("alice").start().await;
    assert_eq!(pages(&gateway.caller("alice")).await, [["skill://good/SKILL.md"]]);
}
