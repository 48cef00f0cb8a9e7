//! The link with children that are shell scripts.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::ids::UpstreamName;
use crate::mcp::call::Params;
use crate::mcp::client::Client;
use crate::mcp::json::{raw, to_raw};
use crate::mcp::talk::{Event, Notice};
use crate::secret::Plaintext;

/// More than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// `id` is the id of what was read last; `answer` has it, `say` writes any line.
const PROLOGUE: &str = r#"
say() { printf '%s\n' "$1"; }
answer() { say "{\"jsonrpc\":\"2.0\",\"id\":$id,$1}"; }
while IFS= read -r line; do
  printf '%s\n' "$line" >> "$LOG"
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
"#;
const EPILOGUE: &str = r#"
    *'"name":"end"'*) exit 3 ;;
    *'"name":"silent"'*) ;;
    *'"tools/call"'*) answer '"result":{"content":[]}' ;;
  esac
done
"#;

const CAPABILITIES: &str = r#"{"tools":{"listChanged":true},"resources":{"subscribe":true}}"#;

fn discovers() -> String {
    format!(
        r#"*'"server/discover"'*) answer '"result":{{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{CAPABILITIES},"ttlMs":0,"cacheScope":"private"}}' ;;
"#
    )
}

fn initializes() -> String {
    format!(
        r#"*'"initialize"'*) answer '"result":{{"protocolVersion":"2025-06-18","capabilities":{CAPABILITIES},"serverInfo":{{"name":"s","version":"1"}}}}' ;;
"#
    )
}

const KNOWS_NOT: &str = r#"*'"server/discover"'*) answer '"error":{"code":-32601,"message":"what?"}' ;;
"#;

struct Rig {
    dir: TempDir,
    link: StdioLink,
    signals: Signals,
    tasks: Tasks,
}

/// A link whose child does as these branches of `case` say.
fn rig(branches: &[&str]) -> Rig {
    rig_with(branches, SOON)
}

fn rig_with(branches: &[&str], start_timeout: Duration) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{PROLOGUE}{}{EPILOGUE}", branches.concat());
    let log = dir.path().join("log").to_str().unwrap().to_owned();
    let program = Program {
        name: UpstreamName::parse("child").unwrap(),
        command: vec!["sh".to_owned(), "-c".to_owned(), script],
        environment: BTreeMap::from([("LOG".to_owned(), Plaintext::new(log))]),
        working_dir: Some(dir.path().to_owned()),
        start_timeout,
        private_dir: dir.path().join("private"),
        limit: 1024 * 1024,
        bounds: Bounds { memory: Some(1 << 40), processes: None },
        era: None,
    };
    let (signals, tasks) = (Signals::default(), Tasks::new());
    let link = StdioLink::start(program, signals.clone(), &tasks);
    Rig { dir, link, signals, tasks }
}

impl Rig {
    async fn about(&self) -> Result<Arc<About>, UpstreamError> {
        self.link.about(&Deadline::after(SOON, SOON)).await
    }

    async fn call(&self, name: &str) -> Result<Outcome, UpstreamError> {
        self.call_as(Party::gateway(), name, SOON).await.0
    }

    /// The outcome, and what was heard meanwhile.
    async fn call_as(
        &self,
        party: Party,
        name: &str,
        timeout: Duration,
    ) -> (Result<Outcome, UpstreamError>, Vec<Event>) {
        let (events, mut heard) = mpsc::channel(8);
        let via = Via { party, events, cancelled: CancellationToken::new() };
        let mut params = Params { progress_token: Some(raw("\"theirs\"".to_owned())), ..Params::default() };
        params.members.set("name", to_raw(&name));
        let exchange = Exchange {
            id: RequestId::number(0),
            method: "tools/call",
            name: None,
            headers: Vec::new(),
            params,
            via,
            deadline: Deadline::after(timeout, SOON),
        };
        let outcome = self.link.exchange(exchange).await;
        (outcome, std::iter::from_fn(|| heard.try_recv().ok()).collect())
    }

    async fn watch(&self, uri: &str) -> Result<(Watch, mpsc::Receiver<Event>), UpstreamError> {
        let (events, heard) = mpsc::channel(8);
        let via = Via { party: Party::gateway(), events, cancelled: CancellationToken::new() };
        let subscription = Subscription { uri: uri.to_owned(), exposed: format!("exposed:{uri}") };
        Ok((self.link.watch(subscription, via, Deadline::after(SOON, SOON)).await?, heard))
    }

    /// What all children have read.
    fn read(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let whole = log.lines().take(log.matches('\n').count());
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The methods of the requests and notifications that they have read.
    fn methods(&self) -> Vec<String> {
        self.read().iter().filter_map(|message| message["method"].as_str().map(ToOwned::to_owned)).collect()
    }

    /// Waits until they have read such a message, and gives it.
    async fn until_read(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let reading = async {
            loop {
                if let Some(found) = self.read().into_iter().find(&wanted) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, reading).await.unwrap_or_else(|_| panic!("{:?}", self.read()))
    }

    /// Ends this child, and waits for the next one.
    async fn end_child(&self) {
        assert!(matches!(self.call("end").await, Err(UpstreamError::Died)));
        let next = async {
            while self.call("next").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, next).await.expect("the next child serves");
    }

    async fn stop(self) {
        assert!(self.tasks.stop(SOON).await);
    }
}

async fn next(heard: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(SOON, heard.recv()).await.expect("in time").expect("somebody speaks")
}

fn uri(event: Event) -> String {
    match event {
        Event::Notice(Notice::ResourceUpdated(params)) => {
            serde_json::from_str(params.get("uri").unwrap().get()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn client(capabilities: &str) -> Party {
    let client = Client::new(Some(raw(r#"{"name":"c","version":"1"}"#.to_owned())), raw(capabilities.to_owned()));
    Party { client: Arc::new(client), ..Party::gateway() }
}

#[tokio::test]
async fn a_child_without_sessions_is_told_who_asks_with_each_request() {
    let asks = r#"*'"name":"ask"'*) answer '"result":{"resultType":"input_required","requestState":"s"}' ;;
    *'"name":"tell"'*)
      say '{"jsonrpc":"2.0","id":77,"method":"ping"}'
      say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":$id,\"progress\":1}}"
      say '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}'
      answer '"result":{}' ;;
"#;
    let rig = rig(&[&discovers(), &initializes(), asks]);
    let about = rig.about().await.unwrap();
    assert_eq!((about.era, &*about.revision), (Era::Modern, "2026-07-28"));
    let (asked, _) = rig.call_as(client(r#"{"elicitation":{}}"#), "ask", SOON).await;
    let Ok(Outcome::NeedsInput(needs)) = asked else { panic!("{asked:?}") };
    assert_eq!(needs.state().as_deref(), Some("s"));
    let (_, heard) = rig.call_as(client("{}"), "tell", SOON).await;
    assert!(
        matches!(&heard[..], [Event::Notice(Notice::Progress(_)), Event::Notice(Notice::Log(_))]),
        "it is alone: {heard:?}"
    );
    let call = rig.until_read(|message| message["params"]["name"] == "ask").await;
    let meta = &call["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({ "elicitation": {} }));
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "c");
    assert_eq!(meta["progressToken"], call["id"]);
    rig.call("last").await.unwrap();
    assert!(rig.read().iter().all(|message| message["method"].is_string()), "it is not answered: {:?}", rig.read());
    assert!(!rig.methods().contains(&"initialize".to_owned()));
    rig.stop().await;
}

#[tokio::test]
async fn a_child_with_sessions_is_initialized_and_hears_of_no_capability() {
    let asks = r#"*'"name":"ask"'*)
      say '{"jsonrpc":"2.0","id":"p","method":"ping"}'
      say '{"jsonrpc":"2.0","id":"r","method":"roots/list"}'
      answer '"result":{"resultType":"input_required"}' ;;
"#;
    let rig = rig(&[KNOWS_NOT, &initializes(), asks]);
    let about = rig.about().await.unwrap();
    assert_eq!((about.era, &*about.revision), (Era::Legacy, "2025-06-18"));
    let (asked, _) = rig.call_as(client(r#"{"roots":{}}"#), "ask", SOON).await;
    assert!(matches!(asked, Ok(Outcome::Result(_))), "{asked:?}");
    let pong = rig.until_read(|message| message["id"] == "p").await;
    assert_eq!(pong, json!({ "jsonrpc": "2.0", "id": "p", "result": {} }));
    assert_eq!(rig.until_read(|message| message["id"] == "r").await["error"]["code"], -32601);
    let initialize = rig.until_read(|message| message["method"] == "initialize").await;
    assert_eq!(initialize["params"]["capabilities"], json!({}));
    let call = rig.until_read(|message| message["method"] == "tools/call").await;
    assert_eq!(call["params"], json!({ "name": "ask", "_meta": { "progressToken": call["id"] } }));

    let first = ["server/discover", "initialize", "notifications/initialized", "tools/call"];
    assert_eq!(rig.methods(), first);
    rig.end_child().await;
    let second = ["tools/call", "initialize", "notifications/initialized", "tools/call"];
    assert_eq!(rig.methods()[first.len()..], second, "it is known by now");
    rig.stop().await;
}

#[tokio::test]
async fn a_child_that_ends_at_an_unknown_request_is_spared_it_the_next_time() {
    let rig = rig(&["*'\"server/discover\"'*) exit 1 ;;\n", &initializes()]);
    assert_eq!(rig.about().await.unwrap().era, Era::Legacy, "who waits does not hear of the first attempt");
    rig.until_read(|message| message["method"] == "notifications/initialized").await;
    assert_eq!(rig.methods(), ["server/discover", "initialize", "notifications/initialized"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_child_that_says_nothing_to_an_unknown_request_is_asked_in_time() {
    let rig = rig_with(&[&initializes()], Duration::from_secs(4));
    assert_eq!(rig.about().await.unwrap().era, Era::Legacy);
    rig.stop().await;
}

#[tokio::test]
async fn a_child_that_is_slow_to_say_that_it_has_no_sessions_is_believed() {
    let slow = discovers().replace(") answer", ") sleep 3.5; answer");
    let rig = rig_with(&[&slow, KNOWS_NOT.replace("server/discover", "initialize").as_str()], Duration::from_secs(6));
    assert_eq!(rig.about().await.unwrap().era, Era::Modern);
    rig.stop().await;
}

#[tokio::test]
async fn a_child_that_speaks_nothing_known_says_why() {
    let refuses = r#"*'"server/discover"'*) answer '"error":{"code":-32022,"message":"no","data":{"supported":["2099-01-01"],"requested":"x"}}' ;;
"#;
    let mute = rig_with(&[], Duration::from_millis(200));
    let other = rig(&[refuses, &initializes()]);
    let old = rig(&[KNOWS_NOT, &initializes().replace("2025-06-18", "soon")]);
    let (mute_says, other_says, old_says) = tokio::join!(mute.about(), other.about(), old.about());
    let reason = |about: Result<Arc<About>, UpstreamError>| match about {
        Err(UpstreamError::Unreachable { reason }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(mute_says), "no answer to `initialize` within 0.2 s");
    assert_eq!(reason(other_says), "it speaks no revision that we speak");
    assert_eq!(reason(old_says), "`initialize` chose no revision that we speak");
    assert!(!other.methods().contains(&"initialize".to_owned()), "{:?}", other.methods());
    for rig in [mute, other, old] {
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_program_that_became_another_is_asked_anew() {
    let was = format!(
        "*'\"server/discover\"'*) test -e modern || {{ answer '\"error\":{{\"code\":1,\"message\":\"\"}}'; continue; }}\n{}",
        discovers().replacen("*'\"server/discover\"'*)", "", 1)
    );
    let old = format!(
        "*'\"initialize\"'*) test -e modern && {{ answer '\"error\":{{\"code\":1,\"message\":\"\"}}'; continue; }}\n{}",
        initializes().replacen("*'\"initialize\"'*)", "", 1)
    );
    let rig = rig(&[&was, &old]);
    assert_eq!(rig.about().await.unwrap().era, Era::Legacy);
    std::fs::write(rig.dir.path().join("modern"), "").unwrap();
    rig.end_child().await;
    assert_eq!(rig.about().await.unwrap().era, Era::Modern);
    std::fs::remove_file(rig.dir.path().join("modern")).unwrap();
    rig.end_child().await;
    assert_eq!(rig.about().await.unwrap().era, Era::Legacy);
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_garbage_is_known_at_once() {
    let garbage = r#"*'"name":"text"'*) answer '"result":"text"' ;;
    *'"name":"half"'*) answer '"result":{"half":' ;;
    *'"name":"both"'*) answer '"result":{},"error":{}' ;;
"#;
    let rig = rig(&[&discovers(), garbage]);
    for name in ["text", "half", "both"] {
        let began = Instant::now();
        let answer = rig.call(name).await;
        assert!(matches!(answer, Err(UpstreamError::Protocol { .. })), "{name}: {answer:?}");
        assert!(began.elapsed() < SOON / 2);
    }
    assert!(rig.call("fine").await.is_ok());
    rig.stop().await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_taken_back() {
    let rig = rig(&[&discovers()]);
    rig.call("first").await.unwrap();
    let (timed_out, _) = rig.call_as(Party::gateway(), "silent", Duration::from_secs(1)).await;
    assert!(matches!(timed_out, Err(UpstreamError::TimedOut { .. })), "{timed_out:?}");
    let dropped = tokio::time::timeout(Duration::from_secs(1), rig.call("silent")).await;
    assert!(dropped.is_err());
    rig.call("fine").await.unwrap();
    let calls: Vec<Value> = rig.read().into_iter().filter(|call| call["params"]["name"] == "silent").collect();
    assert_eq!(calls.len(), 2);
    for call in calls {
        rig.until_read(|message| message["params"] == json!({ "requestId": call["id"] })).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn subscriptions_with_sessions_outlive_their_child() {
    let subscribes = r#"*'"resources/subscribe"'*)
      case $line in *refused*) answer '"error":{"code":-32002,"message":"no"}' ;; *) answer '"result":{}' ;; esac ;;
    *'"name":"touch"'*)
      say '{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:1"}}'
      answer '"result":{}' ;;
"#;
    let rig = rig(&[KNOWS_NOT, &initializes(), subscribes]);
    let (watch, mut heard) = rig.watch("a:1").await.unwrap();
    let (other, mut other_heard) = rig.watch("a:1").await.unwrap();
    rig.call("touch").await.unwrap();
    assert_eq!(
        (uri(next(&mut heard).await), uri(next(&mut other_heard).await)),
        ("exposed:a:1".into(), "exposed:a:1".into())
    );
    assert!(matches!(rig.watch("refused:1").await, Err(UpstreamError::NoResource)));
    drop(other);
    rig.end_child().await;
    assert_eq!(uri(next(&mut heard).await), "exposed:a:1", "an update may have been missed");
    rig.call("touch").await.unwrap();
    assert_eq!(uri(next(&mut heard).await), "exposed:a:1");
    assert!(other_heard.recv().await.is_none());
    drop(watch);
    rig.until_read(|message| message["method"] == "resources/unsubscribe").await;
    let subscribed = rig.read().iter().filter(|message| message["params"]["uri"] == "a:1").count();
    assert_eq!(subscribed, 3, "one each for two children, and the end: {:?}", rig.read());
    rig.stop().await;
}

#[tokio::test]
async fn without_sessions_changes_are_listened_for() {
    let listens = r#"*'"subscriptions/listen"'*)
      tag="\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":$id}"
      filter=${line#*\"notifications\":}; filter=${filter%%\}*}
      say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{$tag,\"notifications\":$filter}}}" ;;
    *'"name":"touch"'*)
      say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{$tag,\"uri\":\"a:1\"}}"
      say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{}}"
      answer '"result":{}' ;;
"#;
    let rig = rig(&[&discovers(), listens]);
    let (watch, mut heard) = rig.watch("a:1").await.unwrap();
    rig.signals.stale.notified().await;
    rig.call("touch").await.unwrap();
    assert_eq!(uri(next(&mut heard).await), "exposed:a:1");
    tokio::time::timeout(SOON, rig.signals.stale.notified()).await.expect("the list changed");
    let lists = rig.until_read(|message| message["params"]["notifications"]["toolsListChanged"] == true).await;
    assert_eq!(lists["params"]["notifications"], json!({ "toolsListChanged": true }));
    let listened =
        rig.until_read(|message| message["params"]["notifications"]["resourceSubscriptions"].is_array()).await;
    drop(watch);
    rig.until_read(|message| message["params"] == json!({ "requestId": listened["id"] })).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_child_is_bounded_and_goes_before_us_when_memory_runs_out() {
    let tells = r#"*'"name":"bounds"'*)
      answer "\"result\":{\"files\":\"$(ulimit -n)\",\"core\":\"$(ulimit -c)\",\"memory\":\"$(ulimit -v)\",\"oom\":\"$(cat /proc/$$/oom_score_adj)\"}" ;;
"#;
    let rig = rig(&[&discovers(), tells]);
    let Ok(Outcome::Result(bounds)) = rig.call("bounds").await else { panic!("no result") };
    let bounds: BTreeMap<String, String> = serde_json::from_str(bounds.get()).unwrap();
    assert!(bounds["files"].parse::<u64>().unwrap() <= 4096, "{bounds:?}");
    assert_eq!((bounds["core"].as_str(), bounds["memory"].as_str()), ("0", "1073741824"));
    assert!(bounds["oom"].parse::<i32>().unwrap() >= 500, "{bounds:?}");
    rig.stop().await;
}
