//! Subscriptions without a process: what is written, and who hears what.

use serde_json::{Value, json};

use super::super::lines::Unwritten;
use super::*;
use crate::mcp::json::raw;
use crate::mcp::revision::Capabilities;

const CHANGES: &str =
    r#"{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true,"listChanged":true}}"#;

fn about(era: Era) -> Arc<About> {
    let capabilities = Capabilities::read(Some(&raw(CHANGES.to_owned())));
    Arc::new(About { revision: String::new(), era, capabilities, server_info: None, instructions: None })
}

/// The subscriptions of a child that lives, and what it reads.
struct Rig {
    subscriptions: Subscriptions,
    input: Input,
    unwritten: Unwritten,
    now: Instant,
}

fn rig(era: Era) -> Rig {
    let (input, unwritten) = Input::new();
    let mut subscriptions = Subscriptions::new(Ids::default(), Signals::default());
    subscriptions.life_began(about(era), Instant::now());
    let mut rig = Rig { subscriptions, input, unwritten, now: Instant::now() };
    rig.keep_up();
    rig
}

impl Rig {
    fn keep_up(&mut self) {
        self.subscriptions.keep_up(self.now, &self.input);
    }

    fn watch(&mut self, uri: &str, exposed: &str) -> Heard {
        let ((events, heard), ended) = (mpsc::channel(8), CancellationToken::new());
        let (confirmed, answer) = oneshot::channel();
        let watcher = Watcher::new(exposed.to_owned(), events, ended.clone(), confirmed);
        self.subscriptions.watch(uri.into(), watcher, self.now);
        self.keep_up();
        Heard { events: heard, answer, ended }
    }

    /// What the child was written: method, id, and what it is about.
    fn written(&mut self) -> Vec<(String, Value, Value)> {
        let lines = self.unwritten.drain();
        let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|message| {
                let params = &message["params"];
                let subject = ["uri", "notifications", "requestId"].iter().find_map(|name| params.get(name));
                let method = message["method"].as_str().unwrap().to_owned();
                (method, message["id"].clone(), subject.unwrap().clone())
            })
            .collect()
    }

    fn written_one(&mut self) -> (String, Value, Value) {
        let mut written = self.written();
        assert_eq!(written.len(), 1, "{written:?}");
        written.remove(0)
    }

    fn acknowledge(&mut self, id: &Value, uris: &[&str]) {
        let params = json!({ "_meta": { "io.modelcontextprotocol/subscriptionId": id }, "notifications": { "resourceSubscriptions": uris } });
        self.subscriptions.acknowledged(Some(&to_raw(&params)), &self.input);
    }

    fn updated(&self, params: &Value) {
        self.subscriptions.updated(Some(&to_raw(params)));
    }
}

struct Heard {
    events: mpsc::Receiver<Event>,
    answer: oneshot::Receiver<Result<(), UpstreamError>>,
    ended: CancellationToken,
}

impl Heard {
    /// The updates that came since.
    fn updates(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|event| match event {
                Event::Notice(Notice::ResourceUpdated(params)) => serde_json::from_str(params.to_raw().get()),
                other => panic!("{other:?}"),
            })
            .map(Result::unwrap)
            .collect()
    }
}

fn id(value: &Value) -> RequestId {
    RequestId::parse(&to_raw(value)).unwrap()
}

#[test]
fn watchers_of_a_resource_share_a_subscription_with_sessions() {
    let mut rig = rig(Era::Legacy);
    assert_eq!(rig.written(), [], "changed lists need no subscription");
    let mut first = rig.watch("file:///a", "file:///a");
    let (method, subscribed, uri) = rig.written_one();
    assert_eq!((&*method, &uri), ("resources/subscribe", &json!("file:///a")));
    let mut second = rig.watch("file:///a", "x-file:///a");
    assert_eq!(rig.written(), []);
    assert!(first.answer.try_recv().is_err(), "nobody has agreed yet");
    rig.subscriptions.take_result(&id(&subscribed), rig.now);
    assert!(first.answer.try_recv().unwrap().is_ok() && second.answer.try_recv().unwrap().is_ok());
    assert!(rig.watch("file:///a", "late").answer.try_recv().unwrap().is_ok());

    rig.updated(&json!({ "uri": "file:///a", "x": 1 }));
    rig.updated(&json!({ "uri": "file:///ab" }));
    rig.updated(&json!({ "uri": "file:///a/b" }));
    assert_eq!(first.updates(), [json!({ "uri": "file:///a", "x": 1 }), json!({ "uri": "file:///a/b" })]);
    assert_eq!(second.updates(), [json!({ "uri": "x-file:///a", "x": 1 }), json!({ "uri": "x-file:///a/b" })]);

    first.ended.cancel();
    rig.subscriptions.sweep(Some(&rig.input));
    assert_eq!(rig.written(), []);
    second.ended.cancel();
    // The third was dropped, but is not over.
    for watcher in rig.subscriptions.topics.values().flat_map(|subscription| &subscription.watchers) {
        watcher.ended.cancel();
    }
    rig.subscriptions.sweep(Some(&rig.input));
    let (method, _, uri) = rig.written_one();
    assert_eq!((&*method, uri), ("resources/unsubscribe", json!("file:///a")));
    assert!(rig.subscriptions.topics.is_empty() && rig.subscriptions.asked.is_empty());
}

#[test]
fn without_sessions_everything_is_listened_for_and_told_apart_by_its_id() {
    let mut rig = rig(Era::Modern);
    let (method, lists, filter) = rig.written_one();
    assert_eq!(method, "subscriptions/listen");
    assert_eq!(filter, json!({ "toolsListChanged": true, "resourcesListChanged": true }));
    rig.acknowledge(&lists, &[]);

    let mut watch = rig.watch("file:///a", "mine");
    let (_, listened, filter) = rig.written_one();
    assert_eq!(filter, json!({ "resourceSubscriptions": ["file:///a"] }));
    rig.acknowledge(&listened, &["file:///a"]);
    assert!(watch.answer.try_recv().unwrap().is_ok());
    let tag = "io.modelcontextprotocol/subscriptionId";
    rig.updated(&json!({ "uri": "file:///a", "_meta": { tag: listened } }));
    rig.updated(&json!({ "uri": "file:///a", "_meta": { tag: listened, "own": 1 } }));
    rig.updated(&json!({ "uri": "file:///a", "_meta": { tag: lists } }));
    rig.updated(&json!({ "uri": "file:///a" }));
    assert_eq!(watch.updates(), [json!({ "uri": "mine" }), json!({ "uri": "mine", "_meta": { "own": 1 } })]);

    let mut refused = rig.watch("file:///b", "b");
    let (_, other, _) = rig.written_one();
    rig.acknowledge(&other, &[]);
    assert!(matches!(refused.answer.try_recv().unwrap(), Err(UpstreamError::Unsupported { .. })));
    let cancelled = ("notifications/cancelled".to_owned(), Value::Null, other);
    assert_eq!(rig.written(), [cancelled]);

    watch.ended.cancel();
    rig.subscriptions.sweep(Some(&rig.input));
    let cancelled = ("notifications/cancelled".to_owned(), Value::Null, listened);
    assert_eq!(rig.written(), [cancelled]);
}

#[test]
fn what_the_child_ended_is_asked_for_again_and_what_was_missed_is_told() {
    let mut rig = rig(Era::Modern);
    rig.written();
    let mut watch = rig.watch("file:///a", "mine");
    let (_, mut listened, _) = rig.written_one();
    rig.acknowledge(&listened, &["file:///a"]);
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        rig.subscriptions.take_result(&id(&listened), rig.now);
        rig.now += Duration::from_secs(pause) - Duration::from_millis(1);
        rig.keep_up();
        assert_eq!(rig.written(), [], "{pause}");
        rig.now += Duration::from_millis(1);
        assert_eq!(rig.subscriptions.wake(), Some(rig.now));
        rig.keep_up();
        (_, listened, _) = rig.written_one();
        rig.acknowledge(&listened, &["file:///a"]);
        assert_eq!(watch.updates(), [json!({ "uri": "mine" })]);
    }
    let cancelled = raw(format!(r#"{{"requestId":{listened}}}"#));
    rig.subscriptions.cancelled(Some(&cancelled), rig.now);
    assert!(rig.subscriptions.wake().is_some(), "some servers end a subscription with this");
}

#[test]
fn the_next_child_is_asked_for_everything_that_was_agreed() {
    let mut rig = rig(Era::Legacy);
    let mut agreed = rig.watch("file:///a", "a");
    let (_, subscribed, _) = rig.written_one();
    rig.subscriptions.take_result(&id(&subscribed), rig.now);
    let mut open = rig.watch("file:///b", "b");
    rig.written();
    rig.subscriptions.life_ended();
    assert!(matches!(open.answer.try_recv().unwrap(), Err(UpstreamError::Died)));
    rig.updated(&json!({ "uri": "file:///a" }));
    assert_eq!(agreed.updates(), [] as [Value; 0]);

    rig.subscriptions.life_began(about(Era::Modern), rig.now);
    rig.keep_up();
    let written = rig.written();
    assert_eq!(written.len(), 2, "its lists, and the resource: {written:?}");
    let filter = json!({ "resourceSubscriptions": ["file:///a"] });
    let (_, listened, _) = written.iter().find(|(_, _, subject)| *subject == filter).unwrap();
    rig.acknowledge(listened, &["file:///a"]);
    assert_eq!(agreed.updates(), [json!({ "uri": "a" })]);
}

#[test]
fn subscriptions_are_bounded_and_wait_for_a_child_that_does_not_read() {
    let mut rig = rig(Era::Legacy);
    let watches: Vec<Heard> = (0..MAX_TOPICS).map(|number| rig.watch(&format!("a:{number}"), "a")).collect();
    let mut one_more = rig.watch("a:more", "a");
    assert!(matches!(one_more.answer.try_recv().unwrap(), Err(UpstreamError::Busy)));
    let first = rig.written();
    assert!(first.len() < MAX_TOPICS, "{}", first.len());
    let mut asked = first.len();
    while asked < MAX_TOPICS {
        rig.now = rig.subscriptions.wake().unwrap();
        rig.keep_up();
        let written = rig.written();
        assert!(!written.is_empty());
        asked += written.len();
    }
    assert_eq!(rig.subscriptions.wake(), None);
    drop(watches);
}
