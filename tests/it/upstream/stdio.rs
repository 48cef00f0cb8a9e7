//! Upstreams that are child processes: what they see, how they are restarted, and that nothing of them is left.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis_tests::gateway::{Builder, SOON};
use portcullis_tests::upstreams::hostile_stdio::StdioBehaviour;
use portcullis_tests::{Caller, Gateway, Reply, program};
use serde_json::{Value, json};

const UPSTREAM_FAILED: i64 = -31502;
/// What may pass until a caller knows.
const BOUND: Duration = Duration::from_secs(15);

/// A command line in TOML, which begins with a program of this package.
fn command(name: &str, arguments: &[&str]) -> String {
    let mut words = vec![program(name).display().to_string()];
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    format!("{words:?}")
}

/// A gateway with the fixture as its child.
fn with_fixture(settings: &str) -> Builder {
    let command = command("fixture-upstream", &["stdio"]);
    Gateway::builder().section(&format!("[upstreams.child]\ncommand = {command}\n{settings}")).key("ci")
}

fn name(behaviour: StdioBehaviour) -> String {
    behaviour.name().replace('_', "-")
}

fn exposed(behaviour: StdioBehaviour) -> String {
    format!("{}__{}", name(behaviour), behaviour.name())
}

/// A section for a child that misbehaves; `arguments` follow its behaviour.
fn hostile(behaviour: StdioBehaviour, arguments: &[&str], mark: &str) -> String {
    let arguments: Vec<&str> = std::iter::once(behaviour.name()).chain(arguments.iter().copied()).collect();
    let patience = match behaviour {
        // They have much to say first.
        StdioBehaviour::HugeLine | StdioBehaviour::Chatters => "30s",
        _ => "3s",
    };
    format!(
        "[upstreams.{}]\ncommand = {}\ncall_timeout = \"{patience}\"\nstart_timeout = \"10s\"\nenvironment = {{ MARK = \"{mark}\" }}",
        name(behaviour),
        command("hostile-stdio", &arguments)
    )
}

/// A value that no other process has in its environment.
fn mark() -> String {
    static MARKS: AtomicUsize = AtomicUsize::new(0);
    format!("{}-{}", std::process::id(), MARKS.fetch_add(1, Ordering::Relaxed))
}

/// The running processes that have this mark, each with its command line.
fn marked(mark: &str) -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // What ended a moment ago has none of these files any more, and an empty one if nobody has waited for it.
    let read = |id: u32, file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    let variable = format!("MARK={mark}");
    ids.filter(|id| read(*id, "environ").split('\0').any(|entry| entry == variable))
        .map(|id| (id, read(id, "cmdline").replace('\0', " ")))
        .collect()
}

/// Waits until the running processes with this mark are as wanted.
async fn until_marked(mark: &str, wanted: impl Fn(&BTreeMap<u32, String>) -> bool) -> BTreeMap<u32, String> {
    let waiting = async {
        loop {
            let found = marked(mark);
            if wanted(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("there are {:?}", marked(mark)))
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap().success());
}

async fn until_state(gateway: &Gateway, upstream: &str, state: &str) -> Value {
    let row = |view: &Value| {
        let mut rows = view["upstreams"].as_array().into_iter().flatten();
        rows.find(|row| row["name"] == upstream && row["state"] == state).cloned()
    };
    let view = gateway.until("/api/v1/upstreams", |view| row(view).is_some()).await;
    row(&view).expect("it was there")
}

fn text(reply: &Reply) -> String {
    let answer = reply.json();
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn failure(reply: &Reply) -> String {
    let error = &reply.json()["error"];
    assert_eq!(error["code"], UPSTREAM_FAILED, "{}", reply.text());
    error["data"]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_child_is_listed_and_called_like_any_upstream() {
    let gateway = with_fixture("").start().await;
    let caller = gateway.caller("ci");
    let names = caller.tool_names().await;
    assert!(
        names.contains(&"child__echo".to_owned()) && names.contains(&"child__test_image_content".to_owned()),
        "{names:?}"
    );
    let listed = caller.modern("tools/list", json!({})).await;
    assert!(listed.text().contains(r#""x-vendor":{"z":1.0,"a":[1e2,18446744073709551616]}"#), "{}", listed.text());
    let legacy = caller.initialize("2025-11-25").await;
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"child__echo","arguments":{"b":1.0,"a":18446744073709551616,"z":"\u00e9"}}}"#;
    let reply = legacy.post(body).await;
    assert!(
        reply.text().contains(r#""structuredContent":{"b":1.0,"a":18446744073709551616,"z":"\u00e9"}"#),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn a_message_that_was_written_on_several_lines_is_one_line_for_the_child() {
    let gateway = with_fixture("").start().await;
    let legacy = gateway.caller("ci").initialize("2025-11-25").await;
    let body = "{\"jsonrpc\":\"2.0\",\"id\":7,\r\n\"method\":\"tools/call\",\n\"params\":{\"name\":\"child__echo\",\n\"arguments\":{\r\n\"a\":\n[1,\r2]}}}";
    let reply = legacy.post(body).await;
    assert_eq!(reply.json()["result"]["structuredContent"], json!({ "a": [1, 2] }), "{}", reply.text());
}

#[tokio::test]
async fn calls_of_a_child_run_side_by_side() {
    let gateway = with_fixture("").start().await;
    let caller = gateway.caller("ci");
    let began = Instant::now();
    let calls = (0..40).map(async |number| match number % 2 {
        0 => caller.call("child__echo", json!({ "n": number })).await,
        _ => caller.call("child__slow", json!({ "ms": 1000 })).await,
    });
    for (number, reply) in join_all(calls).await.iter().enumerate() {
        let expected = if number % 2 == 0 { format!(r#"{{"n":{number}}}"#) } else { "waited 1000 ms".to_owned() };
        assert_eq!(text(reply), expected);
    }
    assert!(began.elapsed() < BOUND, "one after the other they take 20 s, and these took {:?}", began.elapsed());
}

#[tokio::test]
async fn progress_of_a_child_reaches_the_call_it_belongs_to_under_its_own_token() {
    let gateway = with_fixture("").start().await;
    let legacy = gateway.caller("ci").initialize("2025-11-25").await;
    let calls = ["first", "second"].map(|token| {
        let params =
            json!({ "name": "child__test_tool_with_progress", "arguments": {}, "_meta": { "progressToken": token } });
        legacy.request("tools/call", params)
    });
    for (token, reply) in ["first", "second"].iter().zip(join_all(calls).await) {
        let mut messages: Vec<Value> =
            reply.messages().iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        assert_eq!(messages.pop().unwrap()["result"]["content"][0]["text"], "Came to the end.");
        let seen: Vec<Value> = messages
            .iter()
            .map(|message| {
                json!([message["method"], message["params"]["progressToken"], message["params"]["progress"]])
            })
            .collect();
        let expected = [0, 50, 100].map(|progress| json!(["notifications/progress", token, progress]));
        assert_eq!(seen, expected);
    }
    let silent =
        legacy.request("tools/call", json!({ "name": "child__test_tool_with_progress", "arguments": {} })).await;
    assert_eq!(silent.messages().len(), 1, "who gives no token is told nothing: {}", silent.text());
}

/// Waits until the fixture's own count of its calls is as wanted.
async fn until_counted(caller: &Caller, what: &str, wanted: u64) {
    let counted = async {
        while caller.call("child__counter", json!({})).await.json()["result"]["structuredContent"][what] != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, counted).await.unwrap_or_else(|_| panic!("{what} does not become {wanted}"));
}

#[tokio::test]
async fn a_call_whose_time_is_up_is_cancelled_in_the_child() {
    let gateway = with_fixture("call_timeout = \"1s\"").start().await;
    gateway.until_upstreams_are_up().await;
    let caller = gateway.caller("ci");
    assert_eq!(failure(&caller.call("child__slow", json!({ "ms": 60_000 })).await), "timed_out");
    until_counted(&caller, "cancelled", 1).await;
}

#[tokio::test]
async fn a_call_that_is_taken_back_is_cancelled_in_the_child() {
    let gateway = with_fixture("").start().await;
    let caller = gateway.caller("ci");
    // In the stateless revision a closed connection takes the request back.
    tokio::select! {
        reply = caller.call("child__slow", json!({ "ms": 60_000 })) => panic!("{}", reply.text()),
        () = until_counted(&caller, "under_way", 1) => {}
    }
    until_counted(&caller, "cancelled", 1).await;

    // With sessions a notification does.
    let legacy = caller.initialize("2025-11-25").await;
    let params = json!({ "name": "child__slow", "arguments": { "ms": 60_000 } });
    let call = json!({ "jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": params });
    let taken_back =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "mine" } });
    let (_, accepted) = tokio::join!(legacy.post(call.to_string()), async {
        until_counted(&caller, "under_way", 1).await;
        legacy.post(taken_back.to_string()).await
    });
    assert_eq!(accepted.status, 202);
    until_counted(&caller, "cancelled", 2).await;
}

#[tokio::test]
async fn a_child_sees_its_own_environment_and_not_the_gateways() {
    let settings = "environment = { REGION = \"north\", API_KEY = \"file:key\", PATH = \"/usr/bin:/bin\" }";
    let other = format!("[upstreams.other]\ncommand = {}", command("fixture-upstream", &["stdio"]));
    let gateway = with_fixture(settings).section(&other).file("key", b"child-credential\n").start().await;
    let caller = gateway.caller("ci");
    let seen = async |tool: &str| -> BTreeMap<String, String> {
        let answer = caller.call(tool, json!({})).await.json();
        let pairs: Vec<(String, String)> =
            serde_json::from_value(answer["result"]["structuredContent"]["environment"].clone()).unwrap();
        pairs.into_iter().collect()
    };
    let child = seen("child__whoami").await;
    let known = ["PATH", "LANG", "TERM", "HOME", "TMPDIR", "REGION", "API_KEY"];
    assert!(child.keys().all(|variable| known.contains(&variable.as_str())), "{child:?}");
    assert_eq!(
        (child["REGION"].as_str(), child["API_KEY"].as_str(), child["PATH"].as_str()),
        ("north", "child-credential", "/usr/bin:/bin")
    );
    let other = seen("other__whoami").await;
    assert!(other.keys().all(|variable| known[..5].contains(&variable.as_str())), "{other:?}");
    assert!(other["PATH"].len() > 1, "{other:?}");
    for variable in ["HOME", "TMPDIR"] {
        assert_ne!(child[variable], other[variable]);
        for path in [&child[variable], &other[variable]] {
            assert!(Path::new(path).starts_with(gateway.dir.path()), "{variable}: {path}");
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_misbehaves_fails_its_own_calls_only() {
    let mark = mark();
    let builder = with_fixture("").section("[limits]\nupstream_message_size = \"1MiB\"");
    let gateway = StdioBehaviour::ALL
        .iter()
        .fold(builder, |builder, behaviour| builder.section(&hostile(*behaviour, &[], &mark)));
    let gateway = gateway.start().await;
    let caller = gateway.caller("ci");
    let listable: Vec<StdioBehaviour> =
        StdioBehaviour::ALL.iter().copied().filter(|behaviour| *behaviour != StdioBehaviour::ExitsAtOnce).collect();
    for behaviour in &listable {
        until_state(&gateway, &name(*behaviour), "up").await;
    }
    let calls = join_all(listable.iter().map(async |behaviour| {
        let began = Instant::now();
        (*behaviour, caller.call(&exposed(*behaviour), json!({})).await, began.elapsed())
    }));
    tokio::pin!(calls);
    let mut others = 0;
    let answers = loop {
        tokio::select! {
            answers = &mut calls => break answers,
            reply = caller.call("child__echo", json!({ "n": others })) => {
                assert_eq!(text(&reply), json!({ "n": others }).to_string());
                others += 1;
            }
        }
    };
    assert!(others > 0);
    for (behaviour, reply, took) in answers {
        match behaviour {
            StdioBehaviour::ExitsAtOnce => unreachable!("it has no tool"),
            StdioBehaviour::NeverAnswers => assert_eq!(failure(&reply), "timed_out"),
            // Of a line that is too long nobody can tell whose answer it is.
            StdioBehaviour::Dies | StdioBehaviour::HugeLine => assert_eq!(failure(&reply), "died"),
            StdioBehaviour::Garbage | StdioBehaviour::Chatters | StdioBehaviour::IgnoresSigterm => {
                assert_eq!(text(&reply), "This is what a proper server would have said.", "{behaviour:?}");
            }
            StdioBehaviour::LeavesChild => assert!(text(&reply).parse::<u32>().is_ok(), "{}", reply.text()),
        }
        assert!(took < SOON, "{behaviour:?} took {took:?}");
    }
    until_state(&gateway, "child", "up").await;
    let exits = until_state(&gateway, "exits-at-once", "down").await;
    assert!(exits["reason"].as_str().unwrap().contains("initialize"), "{exits}");

    let began = Instant::now();
    gateway.stop().await;
    assert!(began.elapsed() < BOUND, "stopping took {:?}", began.elapsed());
    until_marked(&mark, BTreeMap::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_were_never_good_are_named_and_stop_nobody() {
    let mark = mark();
    let silent =
        [StdioBehaviour::ExitsAtOnce, StdioBehaviour::NeverAnswers, StdioBehaviour::Dies, StdioBehaviour::HugeLine];
    let builder = with_fixture("").section("[limits]\nupstream_message_size = \"1MiB\"");
    let builder = builder.section("[upstreams.nowhere]\ncommand = [\"/nowhere/at-all\"]\ncall_timeout = \"1s\"");
    let sections = silent.iter().map(|behaviour| {
        hostile(*behaviour, &["--from-the-start"][..usize::from(*behaviour != StdioBehaviour::ExitsAtOnce)], &mark)
    });
    let gateway = sections.fold(builder, |builder, section| builder.section(&section)).start().await;
    let caller = gateway.caller("ci");
    let listed = caller.modern("tools/list", json!({})).await.json()["result"].clone();
    let missing = ["dies", "exits-at-once", "huge-line", "never-answers", "nowhere"];
    assert_eq!(listed["_meta"]["portcullis/missingUpstreams"], json!(missing));
    assert_eq!(text(&caller.call("child__echo", json!({})).await), "{}");
    for upstream in missing {
        let row = until_state(&gateway, upstream, "down").await;
        assert!(row["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{row}");
    }
    gateway.stop().await;
    until_marked(&mark, BTreeMap::is_empty).await;
}

#[tokio::test]
async fn a_child_that_dies_is_started_again() {
    let mark = mark();
    let gateway = Gateway::builder().section(&hostile(StdioBehaviour::Dies, &[], &mark)).key("ci").start().await;
    let caller = gateway.caller("ci");
    let mut lives = Vec::new();
    for _ in 0..2 {
        let alive = until_marked(&mark, |found| found.len() == 1 && !lives.contains(found)).await;
        until_state(&gateway, "dies", "up").await;
        let answered = async {
            loop {
                // Until the new one is ready, the answer is that there is none.
                match failure(&caller.call("dies__dies", json!({})).await).as_str() {
                    "died" => return,
                    reason => assert_eq!(reason, "unreachable"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, answered).await.expect("the new process takes a call");
        lives.push(alive);
    }
}

/// Ends when its tool is called, and at once where there is a file `broken`. Counts how often it is asked for its list.
const FRAGILE: &str = r#"test -e broken && exit 1
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}\n' "$id" ;;
    *'"initialize"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}\n' "$id" ;;
    *'"tools/list"'*) echo >> lists; printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"end","inputSchema":{"type":"object"}}]}}\n' "$id" ;;
    *'"tools/call"'*) exit 3 ;;
  esac
done
"#;

#[tokio::test]
async fn a_child_that_does_not_come_back_is_shown_to_be_down_until_it_does() {
    let section = "[upstreams.child]\ncommand = [\"sh\", \"fragile.sh\"]\nworking_dir = \".\"";
    let gateway = Gateway::builder().section(section).file("fragile.sh", FRAGILE.as_bytes()).key("ci").start().await;
    let caller = gateway.caller("ci");
    assert_eq!(until_state(&gateway, "child", "up").await["tools"], 1);
    // It is asked again once it runs; from then on nobody looks after it for minutes.
    let asked = async {
        while std::fs::read(gateway.dir.path().join("lists")).is_ok_and(|lists| lists.len() < 2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asked).await.expect("it is asked twice");
    std::fs::write(gateway.dir.path().join("broken"), "").unwrap();
    assert_eq!(failure(&caller.call("child__end", json!({})).await), "died");
    let down = until_state(&gateway, "child", "down").await;
    assert!(!down["reason"].as_str().unwrap().is_empty(), "{down}");
    assert_eq!(caller.tool_names().await, ["child__end"], "what was known stays listed");
    assert_eq!(failure(&caller.call("child__end", json!({})).await), "unreachable");
    std::fs::remove_file(gateway.dir.path().join("broken")).unwrap();
    until_state(&gateway, "child", "up").await;
}

#[tokio::test]
async fn a_child_that_never_starts_is_tried_less_and_less_often() {
    let script = "date +%s%3N >> starts; exit 1";
    let section = format!("[upstreams.child]\ncommand = [\"sh\", \"-c\", {script:?}]\nworking_dir = \".\"");
    let gateway = Gateway::builder().section(&section).start().await;
    let starts = async {
        loop {
            let text = std::fs::read_to_string(gateway.dir.path().join("starts")).unwrap_or_default();
            let starts: Vec<i64> = text.split_whitespace().map(|moment| moment.parse().unwrap()).collect();
            if starts.len() >= 4 {
                return starts;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let starts = tokio::time::timeout(SOON, starts).await.expect("it is tried four times");
    let pauses: Vec<i64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Twice as long each time; a busy machine adds to it.
    assert!(pauses[0] >= 400 && pauses[1] >= 900 && pauses[2] >= 1900, "{pauses:?}");
}

#[tokio::test]
async fn a_child_that_is_killed_is_noticed_although_its_own_child_keeps_its_output_open() {
    let mark = mark();
    let gateway = Gateway::builder().section(&hostile(StdioBehaviour::LeavesChild, &[], &mark)).key("ci").start().await;
    gateway.until_upstreams_are_up().await;
    let caller = gateway.caller("ci");
    let grandchild: u32 = text(&caller.call("leaves-child__leaves_child", json!({})).await).parse().unwrap();
    let processes = until_marked(&mark, |found| found.len() == 2).await;
    let child = *processes.keys().find(|id| **id != grandchild).unwrap();
    kill(child);
    let anew =
        until_marked(&mark, |found| found.len() == 1 && !found.keys().any(|id| processes.contains_key(id))).await;
    assert_eq!(anew.len(), 1, "the grandchild went with its group, and the child is there again");
    until_state(&gateway, "leaves-child", "up").await;
    let reply = caller.call("leaves-child__leaves_child", json!({})).await;
    assert!(text(&reply).parse::<u32>().is_ok(), "{}", reply.text());
}

#[tokio::test]
async fn a_child_whose_upstream_is_taken_out_of_the_file_ends_with_its_group() {
    let mark = mark();
    let gateway = with_fixture("").section(&hostile(StdioBehaviour::LeavesChild, &[], &mark)).start().await;
    gateway.until_upstreams_are_up().await;
    gateway.caller("ci").call("leaves-child__leaves_child", json!({})).await;
    until_marked(&mark, |found| found.len() == 2).await;
    let file = std::fs::read_to_string(&gateway.file).unwrap();
    gateway.replace("portcullis.toml", file.replace(&hostile(StdioBehaviour::LeavesChild, &[], &mark), "").as_bytes());
    until_marked(&mark, BTreeMap::is_empty).await;
    assert_eq!(text(&gateway.caller("ci").call("child__echo", json!({})).await), "{}");
}

#[tokio::test]
async fn a_process_that_left_the_group_of_its_child_delays_no_stop() {
    let script = format!("setsid sleep 20 & exec {} stdio", program("fixture-upstream").display());
    let gateway = Gateway::builder()
        .section(&format!("[upstreams.child]\ncommand = [\"sh\", \"-c\", {script:?}]"))
        .key("ci")
        .start()
        .await;
    assert_eq!(text(&gateway.caller("ci").call("child__echo", json!({})).await), "{}");
    let began = Instant::now();
    gateway.stop().await;
    assert!(began.elapsed() < Duration::from_secs(8), "stopping took {:?}", began.elapsed());
}
