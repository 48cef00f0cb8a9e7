//! Reloading while traffic flows: what is edited comes into force by itself and whole, what is wrong changes nothing and
//! says why, and no request fails or meets half of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::{binding, call, listed, refusal, shipped, structured};

/// Reloads under load, and the longest that they may take together.
const SWAPS: u64 = 100;
const STORM_BOUND: Duration = Duration::from_secs(60);

/// A core module that denies every call under this code, which has three letters.
pub(crate) fn denies(code: &str) -> Vec<u8> {
    assert_eq!(code.len(), 3);
    let zeroes = |count: usize| r"\00".repeat(count);
    // The verdict `deny`; code and message; neither rule nor detail nor JSON-RPC code nor data; an answer of the tool.
    let texts = r"\00\09\00\00\03\00\00\00\10\09\00\00\0b\00\00\00";
    let verdict = format!(r"\02{}{texts}{}\01", zeroes(7), zeroes(44));
    let data = format!(
        r#"(data (i32.const 1600) "{verdict}") (data (i32.const 2304) "{code}") (data (i32.const 2320) "not for you")"#
    );
    let rubbish = include_str!("../../fixtures/policies/rubbish.wat");
    let denies = rubbish.replace(r#"(data (i32.const 1600) "\ff\ff\ff\ff\ff\ff\ff\ff")"#, &data);
    assert_ne!(denies, rubbish, "the guest is not as it was");
    wat::parse_str(denies).unwrap()
}

/// An upstream `up` behind the module `guard.wasm`, which denies everything under the code `one`.
async fn guarded() -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci");
    let gateway = builder.section(&binding("guard", "guard.wasm", "")).file("guard.wasm", &denies("one")).start().await;
    (up, gateway)
}

/// Under which code a call is denied now.
pub(crate) async fn code(gateway: &Gateway) -> Value {
    refusal(&call(&gateway.caller("ci"), "up__echo", json!({})).await).1["code"].clone()
}

pub(super) async fn policies(gateway: &Gateway) -> Value {
    gateway.operator("GET", "/api/v1/policies", None).await.json()
}

pub(super) async fn generation(gateway: &Gateway) -> u64 {
    policies(gateway).await["generation"].as_u64().unwrap()
}

/// Waits until a later policy set than this one is in force.
pub(super) async fn until_after(gateway: &Gateway, generation: u64) {
    gateway.until("/api/v1/policies", |view| view["generation"].as_u64().is_some_and(|now| now > generation)).await;
}

pub(super) fn configuration(gateway: &Gateway) -> String {
    std::fs::read_to_string(&gateway.file).unwrap()
}

/// Replaces the configuration and waits until it is in force.
async fn reconfigure(gateway: &Gateway, text: &str) {
    let before = generation(gateway).await;
    gateway.replace("portcullis.toml", text.as_bytes());
    until_after(gateway, before).await;
}

/// The newest event of the audit trail, once it is this one; it is written after the swap.
pub(super) async fn until_event(gateway: &Gateway, name: &str) -> Value {
    let view = gateway.until("/api/v1/audit?limit=1", |view| view["entries"][0]["event"] == name).await;
    view["entries"][0].clone()
}

#[tokio::test]
async fn a_module_that_is_replaced_answers_from_then_on() {
    let (_up, gateway) = guarded().await;
    assert_eq!(code(&gateway).await, "one");
    gateway.replace("guard.wasm", &denies("two"));
    until_after(&gateway, 1).await;
    assert_eq!(code(&gateway).await, "two");
    let view = policies(&gateway).await;
    let digest = portcullis::secret::Digest::of(&denies("two")).to_hex();
    assert_eq!((&view["bindings"][0]["digest"], &view["last_reload"]["ok"]), (&json!(digest), &json!(true)));
    let event = until_event(&gateway, "policies.reloaded").await;
    assert_eq!((&event["actor"], &event["detail"]["policy_generation"]), (&json!("system"), &json!(2)));
}

#[tokio::test]
async fn a_module_that_is_written_over_in_place_answers_from_then_on() {
    let (_up, gateway) = guarded().await;
    std::fs::write(gateway.dir.path().join("guard.wasm"), denies("two")).unwrap();
    until_after(&gateway, 1).await;
    assert_eq!(code(&gateway).await, "two");
}

#[tokio::test]
async fn an_edited_configuration_of_a_policy_answers_from_then_on() {
    let up = Fixture::start().await;
    let section = binding(
        "tools",
        "builtin:allow-tools",
        r#"config = { rules = [{ tools = ["*/echo"], action = "deny", code = "first" }], otherwise = "allow" }"#,
    );
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").section(&section).start().await;
    let text = configuration(&gateway);
    assert_eq!(code(&gateway).await, "first");
    reconfigure(&gateway, &text.replace("first", "second")).await;
    assert_eq!(code(&gateway).await, "second");
    reconfigure(&gateway, &text.replace("*/echo", "*/counter")).await;
    assert_eq!(structured(&call(&gateway.caller("ci"), "up__echo", json!({ "a": 1 })).await), json!({ "a": 1 }));
    let hidden = text.replace(r#"action = "deny", code = "first""#, r#"action = "hide""#);
    reconfigure(&gateway, &hidden).await;
    assert!(!listed(&gateway.caller("ci")).await.contains(&"up__echo".to_owned()));
    reconfigure(&gateway, &text.replace(&section, "")).await;
    assert!(listed(&gateway.caller("ci")).await.contains(&"up__echo".to_owned()), "without the policy there is none");
    assert_eq!(policies(&gateway).await["bindings"], json!([]));
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_says_why_until_it_is_mended() {
    let (_up, gateway) = guarded().await;
    let text = configuration(&gateway);
    let imports_wasi = wat::parse_str(include_str!("../../fixtures/policies/imports-wasi.wat")).unwrap();
    let wrong: [(&str, Vec<u8>, &[&str]); 6] = [
        ("guard.wasm", b"not a module".to_vec(), &["guard", "no WebAssembly"]),
        ("guard.wasm", denies("two")[..200].to_vec(), &["guard", "malformed"]),
        ("guard.wasm", imports_wasi, &["guard", "wasi_unstable"]),
        ("portcullis.toml", format!("{text}\n[[[").into_bytes(), &["portcullis.toml"]),
        (
            "portcullis.toml",
            text.replace("[[policies]]", "[[policies]]\nmodul = 1").into_bytes(),
            &["portcullis.toml", "modul"],
        ),
        ("portcullis.toml", text.replace("guard.wasm", "nowhere.wasm").into_bytes(), &["nowhere.wasm"]),
    ];
    for (turn, (file, content, parts)) in wrong.into_iter().enumerate() {
        let (running, before) = (code(&gateway).await, generation(&gateway).await);
        gateway.replace(file, &content);
        let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
        let reason = view["last_reload"]["error"].as_str().unwrap().to_owned();
        assert!(parts.iter().all(|part| reason.contains(part)), "{parts:?} in {reason}");
        assert_eq!(view["generation"], before);
        assert_eq!(code(&gateway).await, running, "the running policies stay");
        assert_eq!(until_event(&gateway, "policies.reload_refused").await["detail"]["reason"], json!(reason));
        let asked = gateway.operator("POST", "/api/v1/policies/reload", None).await;
        assert_eq!((asked.status.as_u16(), &asked.json()["code"]), (422, &json!("reload_refused")), "{}", asked.text());
        assert_eq!(asked.json()["detail"], json!(reason));

        let mended = format!("n{turn:02}");
        gateway.replace("portcullis.toml", text.as_bytes());
        gateway.replace("guard.wasm", &denies(&mended));
        let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == true).await;
        assert_eq!(view["last_reload"]["error"], Value::Null);
        // The two files may have been seen one after the other.
        let answers = async {
            while code(&gateway).await != mended.as_str() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), answers)
            .await
            .unwrap_or_else(|_| panic!("{mended} does not come"));
    }
}

#[tokio::test]
async fn an_operator_can_ask_for_a_reload() {
    let (_up, gateway) = guarded().await;
    let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["generation"]), (200, &json!(2)), "{}", reply.text());
    assert_eq!(until_event(&gateway, "policies.reloaded").await["actor"], "operator:socket");
    let together = join_all((0..10).map(|_| gateway.operator("POST", "/api/v1/policies/reload", None))).await;
    assert!(together.iter().all(|reply| reply.status == 200));
    assert_eq!(generation(&gateway).await, 12, "one after the other");
    assert_eq!(code(&gateway).await, "one");
}

#[tokio::test]
async fn upstreams_come_and_go_with_the_file() {
    let (up, other) = (Fixture::start().await, Fixture::start().await);
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").start().await;
    let text = configuration(&gateway);
    let section = format!("[upstreams.other]\nurl = \"{}\"\n", other.url);
    let caller = gateway.caller("ci");
    assert!(!listed(&caller).await.contains(&"other__echo".to_owned()));
    reconfigure(&gateway, &format!("{text}\n{section}")).await;
    let is_up = |view: &Value| view["upstreams"][0]["name"] == "other" && view["upstreams"][0]["state"] == "up";
    gateway.until("/api/v1/upstreams", is_up).await;
    assert!(listed(&caller).await.contains(&"other__echo".to_owned()));
    assert_eq!(structured(&call(&caller, "other__echo", json!({ "a": 1 })).await), json!({ "a": 1 }));
    let sessions = up.sessions();

    reconfigure(&gateway, &text).await;
    assert!(!listed(&caller).await.contains(&"other__echo".to_owned()));
    assert_eq!(call(&caller, "other__echo", json!({})).await.json()["error"]["code"], -32602);
    let ended = async {
        while other.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), ended).await.expect("its sessions are ended");
    assert_eq!(up.sessions(), sessions, "those of the one that stays are kept");
    assert_eq!(structured(&call(&caller, "up__echo", json!({ "a": 1 })).await), json!({ "a": 1 }));
}

#[tokio::test]
async fn keys_come_change_and_go_with_the_file() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").start().await;
    let text = configuration(&gateway);
    let status = async |key: &str| call(&gateway.caller(key), "up__echo", json!({})).await.status.as_u16();
    assert_eq!((status("ci").await, status("new").await), (200, 401));
    std::fs::write(gateway.dir.path().join("new.key"), Gateway::secret("new")).unwrap();
    let section = "[keys.new]\nsecret = \"file:new.key\"\nallow = [{ upstream = \"up\", tools = [\"echo\"] }]\n";
    reconfigure(&gateway, &format!("{text}\n{section}")).await;
    assert_eq!(listed(&gateway.caller("new")).await, ["up__echo"]);
    reconfigure(&gateway, &format!("{text}\n{}", section.replace("echo", "w*"))).await;
    assert_eq!(listed(&gateway.caller("new")).await, ["up__whoami"]);
    reconfigure(&gateway, &format!("{text}\n{section}disabled = true\n")).await;
    assert_eq!((status("ci").await, status("new").await), (200, 401));
    reconfigure(&gateway, &text[..text.find("[keys.ci]").unwrap()]).await;
    assert_eq!((status("ci").await, status("new").await), (401, 401));
}

#[tokio::test]
async fn a_call_in_flight_finishes_on_the_policies_it_began_with() {
    let up = Fixture::start().await;
    let section =
        binding("redact", "builtin:redact", "match = { tools = [\"slow\"] }\nconfig = { words = [\"waited\"] }");
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").section(&section).start().await;
    let with = configuration(&gateway);
    let without = with.replace("[\"slow\"]", "[\"echo\"]");
    let caller = gateway.caller("ci");
    let slow = async |ms: u64| {
        let answer = call(&caller, "up__slow", json!({ "ms": ms })).await.json();
        answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .replace(&ms.to_string(), "some")
    };
    let (redacted, plain) = ("[redacted:word] some ms", "waited some ms");
    for (next, during, after) in [(&without, redacted, plain), (&with, plain, redacted)] {
        let (answer, ()) = tokio::join!(slow(2000), async {
            up.until(|stats| stats.under_way == 1).await;
            reconfigure(&gateway, next).await;
            assert_eq!(up.stats().under_way, 1, "the policies were swapped while the call was in flight");
        });
        assert_eq!(answer, during);
        assert_eq!(slow(1).await, after);
    }
}

#[tokio::test]
async fn a_call_in_flight_finishes_although_its_upstream_is_taken_away() {
    let (up, other) = (Fixture::start().await, Fixture::start().await);
    let section = format!("[upstreams.other]\nurl = \"{}\"", other.url);
    let gateway = Gateway::builder().http_upstream("up", &up.url).section(&section).key("ci").start().await;
    let caller = gateway.caller("ci");
    let (answer, ()) = tokio::join!(call(&caller, "other__slow", json!({ "ms": 1500 })), async {
        other.until(|stats| stats.under_way == 1).await;
        reconfigure(&gateway, &configuration(&gateway).replace(&section, "")).await;
        assert_eq!(other.stats().under_way, 1);
    });
    assert_eq!(answer.json()["result"]["content"][0]["text"], "waited 1500 ms");
    assert_eq!(call(&caller, "other__echo", json!({})).await.json()["error"]["code"], -32602);
}

#[tokio::test]
async fn of_edits_in_quick_succession_the_last_one_holds() {
    let (_up, gateway) = guarded().await;
    let text = configuration(&gateway);
    // The second edit comes before, while and after the first one is read.
    for (turn, pause) in (0..3).map(|step| (step, Duration::from_millis(150 + 150 * step))) {
        let (first, second) = (format!("first-{turn}"), format!("second-{turn}"));
        // It takes a while to load.
        let slow = binding(&first, "builtin:redact", "");
        gateway.replace("portcullis.toml", format!("{text}\n{slow}").as_bytes());
        tokio::time::sleep(pause).await;
        gateway.replace("portcullis.toml", text.replace("\"guard\"", &format!("{second:?}")).as_bytes());
        let is_second =
            |view: &Value| view["bindings"][0]["name"] == second && view["bindings"].as_array().unwrap().len() == 1;
        gateway.until("/api/v1/policies", is_second).await;
    }
}

/// In which of two policy sets an answer could be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Set {
    /// `allow-tools` guards `one`, `read-only` guards `two`.
    Straight,
    /// The other way round.
    Crossed,
}

impl Set {
    /// The set in which `allow-tools` guards this upstream.
    fn where_tools_guard(upstream: &str) -> Self {
        if upstream == "one" { Self::Straight } else { Self::Crossed }
    }

    fn other(self) -> Self {
        match self {
            Self::Straight => Self::Crossed,
            Self::Crossed => Self::Straight,
        }
    }
}

/// The set that shows these tools: `allow-tools` hides the counter of its upstream, and `read-only` hides nothing.
fn set_of_list(names: &[String]) -> Option<Set> {
    let shows = |upstream: &str| names.contains(&format!("{upstream}__counter"));
    match (shows("one"), shows("two"), names.iter().filter(|name| name.ends_with("__echo")).count()) {
        (false, true, 2) => Some(Set::Straight),
        (true, false, 2) => Some(Set::Crossed),
        _ => None,
    }
}

/// The set that answers a call like this: `allow-tools` denies `echo` and hides `counter`, `read-only` allows the one and
/// denies the other.
fn set_of_call(upstream: &str, tool: &str, answer: &Value) -> Option<Set> {
    let of_tools = Set::where_tools_guard(upstream);
    let code = &answer["result"]["_meta"]["portcullis/refusal"]["code"];
    match tool {
        "echo" if code == "no-echo" => Some(of_tools),
        "echo" if answer["result"]["structuredContent"] == json!({ "a": 1 }) => Some(of_tools.other()),
        "counter" if answer["error"]["code"] == -32602 => Some(of_tools),
        "counter" if code == "read-only.changes" => Some(of_tools.other()),
        _ => None,
    }
}

/// Lists and calls until told to stop; how often either set answered, and what was neither.
async fn keep_asking(caller: &Caller, stop: &AtomicBool) -> (BTreeMap<Set, usize>, Vec<String>) {
    let (mut answered, mut wrong) = (BTreeMap::new(), Vec::new());
    let mut note = |set: Option<Set>, what: &dyn Fn() -> String| match set {
        Some(set) => *answered.entry(set).or_insert(0) += 1,
        None => wrong.push(what()),
    };
    while !stop.load(Ordering::Relaxed) {
        let names = listed(caller).await;
        note(set_of_list(&names), &|| format!("{names:?}"));
        for (upstream, tool) in [("one", "echo"), ("one", "counter"), ("two", "echo"), ("two", "counter")] {
            let reply: Reply = call(caller, &format!("{upstream}__{tool}"), json!({ "a": 1 })).await;
            note(set_of_call(upstream, tool, &reply.json()), &|| {
                format!("{upstream} {tool}: {} {}", reply.status, reply.text())
            });
        }
    }
    (answered, wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_under_load_fail_no_request_and_mix_no_answer() {
    let up = Fixture::start().await;
    let rules = r#"config = { rules = [{ tools = ["*/echo"], action = "deny", code = "no-echo" }, { tools = ["*/counter"], action = "hide" }], otherwise = "allow" }"#;
    let straight = binding("tools", "tools.wasm", &format!("match = {{ upstreams = [\"one\"] }}\n{rules}"))
        + &binding("reading", "reading.wasm", "match = { upstreams = [\"two\"] }");
    let crossed =
        straight.replace("[\"one\"]", "[\"-\"]").replace("[\"two\"]", "[\"one\"]").replace("[\"-\"]", "[\"two\"]");
    let builder = Gateway::builder().http_upstream("one", &up.url).http_upstream("two", &up.url).key("ci");
    let builder = builder.file("tools.wasm", shipped("allow-tools")).file("reading.wasm", shipped("read-only"));
    let gateway = builder.section(&straight).start().await;
    let sets = [configuration(&gateway), configuration(&gateway).replace(&straight, &crossed)];

    let mut callers: Vec<Caller> = (0..4).map(|_| gateway.caller("ci")).collect();
    for _ in 0..4 {
        callers.push(gateway.caller("ci").initialize("2025-11-25").await);
    }
    let stop = AtomicBool::new(false);
    let asking = join_all(callers.iter().map(|caller| keep_asking(caller, &stop)));
    let began = Instant::now();
    let swapping = async {
        for turn in 1..=SWAPS {
            gateway.replace("portcullis.toml", sets[usize::from(turn % 2 == 1)].as_bytes());
            let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        stop.store(true, Ordering::Relaxed);
        began.elapsed()
    };
    let (asked, took) = tokio::join!(asking, swapping);
    assert!(took < STORM_BOUND, "{SWAPS} swaps took {took:?}");

    let mut total = BTreeMap::new();
    for (answered, wrong) in asked {
        assert!(wrong.is_empty(), "{} answers are of neither set: {:?}", wrong.len(), &wrong[..wrong.len().min(3)]);
        answered.into_iter().for_each(|(set, count)| *total.entry(set).or_insert(0) += count);
    }
    assert!(
        [Set::Straight, Set::Crossed].iter().all(|set| total.get(set).is_some_and(|count| *count > 20)),
        "{total:?}"
    );

    let view = policies(&gateway).await;
    assert!(view["generation"].as_u64().unwrap() > SWAPS, "{view}");
    for row in view["bindings"].as_array().unwrap() {
        assert_eq!((&row["failures"], &row["degraded"]), (&json!(0), &json!(false)), "{row}");
    }
    each_generation_is_one_set(&gateway).await;
    // The swaps used nothing up: as many calls as one key may make at once are still answered.
    let calls = join_all((0..50).map(|_| call(&callers[0], "one__counter", json!({})))).await;
    assert!(calls.iter().all(|reply| set_of_call("one", "counter", &reply.json()).is_some()));
}

/// What the trail says of each generation fits one set, in the list and in the call.
async fn each_generation_is_one_set(gateway: &Gateway) {
    let mut sets: BTreeMap<u64, HashSet<Set>> = BTreeMap::new();
    let mut path = "/api/v1/decisions?limit=200".to_owned();
    for _ in 0..20 {
        let view = gateway.operator("GET", &path, None).await.json();
        for decision in view["decisions"].as_array().unwrap() {
            let Some(upstream) = decision["upstream"].as_str() else { continue };
            let steps = decision["steps"].as_array().unwrap();
            let of_tools = steps.iter().filter(|step| step["policy"] == "tools").count();
            assert!(of_tools == 0 || of_tools == steps.len(), "two sets in one decision: {decision}");
            let set = Set::where_tools_guard(upstream);
            let set = if of_tools > 0 { set } else { set.other() };
            sets.entry(decision["policy_generation"].as_u64().unwrap()).or_default().insert(set);
        }
        match view["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/decisions?limit=200&cursor={cursor}"),
            None => break,
        }
    }
    assert!(sets.len() > 1, "{sets:?}");
    assert!(sets.values().all(|sets| sets.len() == 1), "{sets:?}");
}
