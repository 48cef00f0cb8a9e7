//! Several upstreams as one: names and URIs that never meet, one order, pages over all of them, and what becomes of the
//! list when one of them is down.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_tests::gateway::{Builder, SOON};
use portcullis_tests::upstreams::fixture::{Fixture, Settings};
use portcullis_tests::upstreams::hostile::{Behaviour, Hostile};
use portcullis_tests::{Caller, Gateway, program};
use serde_json::{Value, json};

use super::scripted::{Manner, Offer, Scripted};
use super::{LISTS, ask, listed, pages, refusal, result_of, result_text};

const PROMPTS: (&str, &str, &str) = LISTS[1];
const RESOURCES: (&str, &str, &str) = LISTS[2];
const TEMPLATES: (&str, &str, &str) = LISTS[3];

fn offer(tools: &[&str], prompts: &[&str], resources: &[&str], templates: &[&str]) -> Offer {
    let each = |names: &[&str], item: &dyn Fn(&str) -> Value| names.iter().map(|name| item(name).to_string()).collect();
    Offer {
        tools: each(tools, &|name| json!({ "name": name, "inputSchema": { "type": "object" } })),
        prompts: each(prompts, &|name| json!({ "name": name })),
        resources: each(resources, &|uri| json!({ "uri": uri, "name": "r" })),
        templates: each(templates, &|uri| json!({ "uriTemplate": uri, "name": "t" })),
        capabilities: vec![r#""completions":{}"#.to_owned()],
        ..Offer::default()
    }
}

/// Three upstreams, one of each manner that differs; what they list is in no order.
async fn three() -> [(&'static str, Scripted); 3] {
    let alpha = offer(&["b", "a"], &["q", "p"], &["x://2", "shared://doc", "x://1"], &["t://{id}"]);
    let mid = offer(&["a"], &["p"], &["m://only"], &["m://{a}/{b}"]);
    let zeta = offer(&["c", "a"], &["p"], &["shared://doc", "https://example.com/z"], &["t://{id}", "z://{+path}"]);
    [
        ("alpha", Scripted::with(Manner::Legacy, alpha).await),
        ("mid", Scripted::with(Manner::ModernEvents, mid).await),
        ("zeta", Scripted::with(Manner::Modern, zeta).await),
    ]
}

fn before(upstreams: &[(&str, Scripted)]) -> Builder {
    let builder = Gateway::builder().key("alice");
    upstreams.iter().fold(builder, |builder, (name, upstream)| builder.http_upstream(name, &upstream.url))
}

/// One caller of each era.
async fn of_each_era(gateway: &Gateway) -> [Caller; 2] {
    [gateway.caller("alice"), gateway.caller("alice").initialize("2025-11-25").await]
}

#[tokio::test]
async fn everything_is_listed_once_in_one_order() {
    let upstreams = three().await;
    let gateway = before(&upstreams).start().await;
    for caller in of_each_era(&gateway).await {
        assert_eq!(
            listed(&caller, LISTS[0]).await,
            ["alpha__a", "alpha__b", "mid__a", "zeta__a", "zeta__c"],
            "tools have their upstream's name"
        );
        assert_eq!(
            listed(&caller, PROMPTS).await,
            ["alpha__p", "alpha__q", "mid__p", "zeta__p"],
            "and so have prompts"
        );
        assert_eq!(
            listed(&caller, RESOURCES).await,
            ["https://example.com/z", "m://only", "shared://doc", "shared://zeta/doc", "x://1", "x://2"],
            "resources keep their URI unless another upstream has it"
        );
        assert_eq!(listed(&caller, TEMPLATES).await, ["m://{a}/{b}", "t://zeta/{id}", "t://{id}", "z://{+path}"]);
    }
}

#[tokio::test]
async fn lists_are_the_same_to_the_byte_in_another_life_whatever_order_the_upstreams_list_in() {
    let upstreams = three().await;
    let lists = async |gateway: &Gateway| {
        let mut texts = Vec::new();
        for caller in of_each_era(gateway).await {
            for (method, ..) in LISTS {
                texts.push(result_text(&ask(&caller, method, json!({})).await));
            }
        }
        texts
    };
    let first = lists(&before(&upstreams).start().await).await;
    for (_, upstream) in &upstreams {
        let mut offer = upstream.offered();
        for list in [&mut offer.tools, &mut offer.prompts, &mut offer.resources, &mut offer.templates] {
            list.reverse();
        }
        upstream.offer(offer);
    }
    let [one, two, three] = upstreams;
    let again = before(&[three, one, two]).start().await;
    assert_eq!(lists(&again).await, first);
    assert_eq!(lists(&again).await, first, "and the next time");
}

#[tokio::test]
async fn pages_go_on_over_all_upstreams() {
    let upstreams = three().await;
    let whole = before(&upstreams).start().await;
    for size in [1, 2, 3] {
        let gateway = before(&upstreams).section(&format!("[limits]\nlist_page = {size}")).start().await;
        for (caller, unpaged) in of_each_era(&gateway).await.iter().zip(of_each_era(&whole).await) {
            for list in LISTS {
                let pages = pages(caller, list).await;
                let (last, full) = pages.split_last().unwrap();
                assert!(full.iter().all(|page| page.len() == size) && (1..=size).contains(&last.len()), "{pages:?}");
                assert_eq!(pages.concat(), listed(&unpaged, list).await, "{list:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_cursor_is_good_for_its_list_only_and_says_nothing() {
    let upstreams = three().await;
    let gateway = before(&upstreams).section("[limits]\nlist_page = 1").start().await;
    for caller in of_each_era(&gateway).await {
        for (method, ..) in LISTS {
            let cursor = result_of(&caller, method, json!({})).await["nextCursor"].as_str().unwrap().to_owned();
            for (other, ..) in LISTS {
                let reply = ask(&caller, other, json!({ "cursor": cursor })).await;
                match other == method {
                    true => assert!(reply.json()["result"].is_object(), "{}", reply.text()),
                    false => assert_eq!(refusal(&reply), (200, -32602), "a cursor of {method} for {other}"),
                }
            }
            for at in [0, cursor.len() / 2, cursor.len() - 2] {
                let mut bent = cursor.clone();
                let other = if &bent[at..=at] == "A" { "B" } else { "A" };
                bent.replace_range(at..=at, other);
                let reply = ask(&caller, method, json!({ "cursor": bent })).await;
                assert_eq!(refusal(&reply), (200, -32602), "{method}, byte {at}");
            }
            let readable = URL_SAFE_NO_PAD.decode(&cursor).unwrap_or_default();
            let readable = String::from_utf8_lossy(&readable).into_owned();
            assert!(!readable.contains("__") && !readable.contains("://"), "{method}: {readable}");
        }
    }
}

#[tokio::test]
async fn long_and_odd_names_of_prompts_are_shortened_the_same_way_and_still_reach_their_prompt() {
    let long = |last: char| format!("{}{last}", "p".repeat(100));
    let names = [long('1'), long('2'), "größe/alle".to_owned(), "größe-alle".to_owned(), "fine".to_owned()];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let upstreams = [("up", Scripted::with(Manner::Modern, offer(&[], &names, &[], &[])).await)];
    let gateway = before(&upstreams).start().await;
    let exposed = listed(&gateway.caller("alice"), PROMPTS).await;
    assert_eq!(exposed.iter().collect::<HashSet<_>>().len(), names.len(), "{exposed:?}");
    let mut reached = HashSet::new();
    for name in &exposed {
        let is_plain = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
        assert!(name.len() <= 64 && name.starts_with("up__") && name.chars().all(is_plain), "{name}");
        result_of(&gateway.caller("alice"), "prompts/get", json!({ "name": name })).await;
        let asked: Value = serde_json::from_str(&upstreams[0].1.last("prompts/get").params).unwrap();
        reached.insert(asked["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(reached, names.iter().map(|name| (*name).to_owned()).collect());
    let again = before(&upstreams).start().await;
    assert_eq!(listed(&again.caller("alice"), PROMPTS).await, exposed);
}

/// Which upstream a request came to, and the member of its parameters that names what it is about.
fn reached(upstreams: &[(&'static str, Scripted)], method: &str, member: &str, before: [usize; 3]) -> (String, String) {
    let counts = counts(upstreams, method);
    let at = (0..3).find(|at| counts[*at] > before[*at]).unwrap_or_else(|| panic!("nobody was asked for {method}"));
    assert_eq!(counts.iter().sum::<usize>(), before.iter().sum::<usize>() + 1, "one upstream is asked once");
    let asked: Value = serde_json::from_str(&upstreams[at].1.last(method).params).unwrap();
    let named = asked.pointer(member).and_then(Value::as_str).unwrap_or_else(|| panic!("no {member} in {asked}"));
    (upstreams[at].0.to_owned(), named.to_owned())
}

fn counts(upstreams: &[(&'static str, Scripted)], method: &str) -> [usize; 3] {
    [0, 1, 2].map(|at| upstreams[at].1.asked(method).len())
}

#[tokio::test]
async fn a_uri_leads_to_its_upstream_under_its_own_name() {
    let upstreams = three().await;
    let gateway = before(&upstreams).start().await;
    for (_, upstream) in &upstreams {
        upstream.answer_to(
            "resources/read",
            r#""result":{"resultType":"complete","contents":[],"ttlMs":9,"cacheScope":"public"}"#,
        );
    }
    for caller in of_each_era(&gateway).await {
        for (uri, upstream, own) in [
            ("shared://doc", "alpha", "shared://doc"),
            ("shared://zeta/doc", "zeta", "shared://doc"),
            ("x://1", "alpha", "x://1"),
            ("m://only", "mid", "m://only"),
            ("https://example.com/z", "zeta", "https://example.com/z"),
            // By a template, marked or not.
            ("t://5", "alpha", "t://5"),
            ("t://zeta/5", "zeta", "t://5"),
            ("m://1/2", "mid", "m://1/2"),
            ("z://a/b/c", "zeta", "z://a/b/c"),
        ] {
            let before = counts(&upstreams, "resources/read");
            result_of(&caller, "resources/read", json!({ "uri": uri })).await;
            assert_eq!(reached(&upstreams, "resources/read", "/uri", before), (upstream.into(), own.into()), "{uri}");
        }
        for unknown in ["nobody://1", "x://3", "t://mid/5/6", "m:only", "", "shared://alpha/doc"] {
            let before = counts(&upstreams, "resources/read");
            let reply = ask(&caller, "resources/read", json!({ "uri": unknown })).await;
            let code = if caller.headers.contains_key("mcp-session-id") { -32002 } else { -32602 };
            assert_eq!(refusal(&reply), (200, code), "{unknown}");
            assert_eq!(reply.json()["error"]["data"], json!({ "uri": unknown }));
            assert_eq!(counts(&upstreams, "resources/read"), before, "{unknown}");
        }
    }
}

#[tokio::test]
async fn at_its_own_endpoint_an_upstream_is_as_if_it_were_alone() {
    let upstreams = three().await;
    let gateway = before(&upstreams).start().await;
    let zeta = gateway.caller("alice").at("/mcp/zeta");
    for caller in [zeta.copy(), zeta.initialize("2025-06-18").await] {
        assert_eq!(listed(&caller, LISTS[0]).await, ["a", "c"]);
        assert_eq!(listed(&caller, PROMPTS).await, ["p"]);
        assert_eq!(listed(&caller, RESOURCES).await, ["https://example.com/z", "shared://doc"]);
        assert_eq!(listed(&caller, TEMPLATES).await, ["t://{id}", "z://{+path}"]);
        let before = counts(&upstreams, "resources/read");
        ask(&caller, "resources/read", json!({ "uri": "t://5" })).await;
        assert_eq!(reached(&upstreams, "resources/read", "/uri", before), ("zeta".into(), "t://5".into()));
        for (method, name) in [("tools/call", "zeta__a"), ("tools/call", "b"), ("prompts/get", "alpha__p")] {
            assert_eq!(refusal(&ask(&caller, method, json!({ "name": name })).await), (200, -32602), "{name}");
        }
        // Others' resources are not there: whose it is, if it is anybody's, is for this upstream to say.
        let before = counts(&upstreams, "resources/read");
        ask(&caller, "resources/read", json!({ "uri": "x://1" })).await;
        assert_eq!(reached(&upstreams, "resources/read", "/uri", before), ("zeta".into(), "x://1".into()));
    }
}

#[tokio::test]
async fn a_completion_goes_where_its_reference_leads() {
    let upstreams = three().await;
    let gateway = before(&upstreams).start().await;
    for (name, upstream) in &upstreams {
        let completion = json!({ "values": [name], "total": 1 });
        upstream.answer_to(
            "completion/complete",
            &format!(r#""result":{{"resultType":"complete","completion":{completion}}}"#),
        );
    }
    for caller in of_each_era(&gateway).await {
        for (reference, upstream, member, own) in [
            (json!({ "type": "ref/prompt", "name": "alpha__q" }), "alpha", "/ref/name", "q"),
            (json!({ "type": "ref/prompt", "name": "zeta__p", "title": "kept" }), "zeta", "/ref/name", "p"),
            (json!({ "type": "ref/resource", "uri": "t://{id}" }), "alpha", "/ref/uri", "t://{id}"),
            (json!({ "type": "ref/resource", "uri": "t://zeta/{id}" }), "zeta", "/ref/uri", "t://{id}"),
            (json!({ "type": "ref/resource", "uri": "m://{a}/{b}" }), "mid", "/ref/uri", "m://{a}/{b}"),
        ] {
            let before = counts(&upstreams, "completion/complete");
            let params = json!({ "ref": reference, "argument": { "name": "id", "value": "1" }, "x": 1 });
            let result = result_of(&caller, "completion/complete", params).await;
            assert_eq!(result["completion"]["values"], json!([upstream]), "{reference}");
            let reached = reached(&upstreams, "completion/complete", member, before);
            assert_eq!(reached, (upstream.to_owned(), own.to_owned()), "{reference}");
        }
        for unknown in [
            json!({ "type": "ref/prompt", "name": "p" }),
            json!({ "type": "ref/prompt", "name": "none__p" }),
            json!({ "type": "ref/resource", "uri": "nobody://{id}" }),
            json!({ "type": "ref/none", "name": "alpha__p" }),
        ] {
            let before = counts(&upstreams, "completion/complete");
            let params = json!({ "ref": unknown, "argument": { "name": "a", "value": "" } });
            assert!(ask(&caller, "completion/complete", params).await.json()["error"].is_object(), "{unknown}");
            assert_eq!(counts(&upstreams, "completion/complete"), before);
        }
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_costs_its_own_items_only_and_comes_back_with_them() {
    let upstreams = three().await;
    let down = Hostile::start(Behaviour::Refuses).await;
    let port: u16 = down.url.split([':', '/']).nth(4).unwrap().parse().unwrap();
    let gateway = before(&upstreams).http_upstream("down", &down.url).start().await;
    let healthy = before(&upstreams).start().await;
    let both = async |gateway: &Gateway| {
        let mut seen = Vec::new();
        for caller in of_each_era(gateway).await {
            for list in LISTS {
                let names = listed(&caller, list).await;
                let missing =
                    result_of(&caller, list.0, json!({})).await["_meta"]["portcullis/missingUpstreams"].clone();
                seen.push((names, missing));
            }
        }
        seen
    };
    for ((names, missing), (expected, nothing)) in both(&gateway).await.iter().zip(both(&healthy).await) {
        assert_eq!((names, missing, nothing), (&expected, &json!(["down"]), Value::Null));
    }
    drop(down);
    let back = fixture_at(port).await;
    gateway.until("/api/v1/status", |status| status["tools"].as_u64() > Some(20)).await;
    let alice = gateway.caller("alice");
    for list in LISTS {
        let missing = &result_of(&alice, list.0, json!({})).await["_meta"]["portcullis/missingUpstreams"];
        assert_eq!(*missing, Value::Null);
    }
    assert!(listed(&alice, PROMPTS).await.contains(&"down__test_simple_prompt".to_owned()));
    assert!(listed(&alice, RESOURCES).await.contains(&"test://static-text".to_owned()));

    // Once it was up, what was known of it stays, and says that it is down when it is used.
    drop(back);
    gateway.operator("POST", "/api/v1/upstreams/down/refresh", None).await;
    gateway
        .until("/api/v1/upstreams", |view| {
            view["upstreams"].to_string().contains("\"down\",\"tools\"")
                || view["upstreams"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one["name"] == "down" && one["state"] == "down"))
        })
        .await;
    for (method, params) in [
        ("prompts/get", json!({ "name": "down__test_simple_prompt" })),
        ("resources/read", json!({ "uri": "test://static-text" })),
    ] {
        let error = ask(&alice, method, params).await.json()["error"].clone();
        assert_eq!((&error["code"], &error["data"]["reason"]), (&json!(-31502), &json!("unreachable")), "{error}");
    }
    assert!(listed(&alice, PROMPTS).await.contains(&"down__test_simple_prompt".to_owned()));
}

/// A fixture at a port that somebody else is about to leave.
async fn fixture_at(port: u16) -> Fixture {
    let free = async {
        loop {
            match Fixture::with(Settings { port, ..Settings::default() }).await {
                Ok(fixture) => return fixture,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(SOON, free).await.expect("the port becomes free")
}

#[tokio::test]
async fn a_list_that_fails_costs_no_other_list_and_what_was_known_of_it_stays() {
    let up = Scripted::with(Manner::Modern, offer(&["a"], &["p"], &["x://1"], &[])).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    assert_eq!(listed(&alice, PROMPTS).await, ["up__p"]);
    up.answer_to("prompts/list", r#""error":{"code":-32603,"message":"no prompts today"}"#);
    up.offer(offer(&["a", "b"], &["p"], &["x://1"], &[]));
    gateway.operator("POST", "/api/v1/upstreams/up/refresh", None).await;
    gateway.until("/api/v1/status", |status| status["tools"] == 2).await;
    assert_eq!(listed(&alice, PROMPTS).await, ["up__p"]);
    assert_eq!(listed(&alice, RESOURCES).await, ["x://1"]);
}

#[tokio::test]
async fn changes_of_every_list_are_seen_from_every_kind_of_upstream() {
    let child = program("fixture-upstream");
    let child = |era: &str| format!("command = [{:?}, \"stdio\", {era:?}]", child.to_str().unwrap());
    let (modern, legacy) = (Fixture::with(modern()).await.unwrap(), Fixture::with(legacy()).await.unwrap());
    let gateway = Gateway::builder()
        .http_upstream("modern-http", &modern.url)
        .http_upstream("legacy-http", &legacy.url)
        .section(&format!("[upstreams.modern-child]\n{}", child("--modern")))
        .section(&format!("[upstreams.legacy-child]\n{}", child("--legacy")))
        .key("alice")
        .start()
        .await;
    gateway.until_upstreams_are_up().await;
    modern.until(|stats| stats.listens > 0).await;
    legacy.until(|stats| stats.streams > 0).await;
    let alice = gateway.caller("alice");
    for upstream in ["modern-http", "legacy-http", "modern-child", "legacy-child"] {
        let endpoint = gateway.caller("alice").at(&format!("/mcp/{upstream}"));
        for (kind, list, item) in [
            ("tool", LISTS[0], "test_dynamic_tool"),
            ("prompt", PROMPTS, "test_dynamic_prompt"),
            ("resource", RESOURCES, "test://dynamic-resource"),
        ] {
            for is_there in [true, false] {
                let called = alice.call(&format!("{upstream}__test_trigger_{kind}_change"), json!({})).await;
                assert!(called.json()["result"].is_object(), "{upstream} {kind}: {}", called.text());
                let seen = async {
                    while listed(&endpoint, list).await.contains(&item.to_owned()) != is_there {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                let seen = tokio::time::timeout(SOON, seen).await;
                seen.unwrap_or_else(|_| panic!("{upstream} {kind} {is_there}"));
            }
        }
    }
}

fn modern() -> Settings {
    Settings { eras: portcullis_tests::upstreams::fixture::Eras::Modern, ..Settings::default() }
}

fn legacy() -> Settings {
    Settings { eras: portcullis_tests::upstreams::fixture::Eras::Legacy, ..Settings::default() }
}

#[tokio::test]
async fn every_list_is_read_again_in_time_and_when_an_operator_asks() {
    let timed = Scripted::with(Manner::Legacy, offer(&["a"], &["p"], &["x://1"], &["t://{a}"])).await;
    let asked = Scripted::with(Manner::Modern, offer(&["a"], &["p"], &["y://1"], &["u://{a}"])).await;
    let gateway = Gateway::builder()
        .section(&format!("[upstreams.timed]\nurl = \"{}\"\nsync_interval = \"100ms\"", timed.url))
        .http_upstream("asked", &asked.url)
        .key("alice")
        .start()
        .await;
    for (name, upstream, scheme) in [("timed", &timed, "x"), ("asked", &asked, "y")] {
        let resource = format!("{scheme}://2");
        upstream.offer(offer(&["a"], &["p", "later"], &[&resource], &["v://{a}", "w://{a}"]));
        if name == "asked" {
            assert_eq!(gateway.operator("POST", "/api/v1/upstreams/asked/refresh", None).await.status, 202);
        }
        let endpoint = gateway.caller("alice").at(&format!("/mcp/{name}"));
        let seen = async {
            while listed(&endpoint, PROMPTS).await != ["later", "p"]
                || listed(&endpoint, RESOURCES).await != [resource.as_str()]
                || listed(&endpoint, TEMPLATES).await != ["v://{a}", "w://{a}"]
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, seen).await.unwrap_or_else(|_| panic!("{name} is not read again"));
    }
}
