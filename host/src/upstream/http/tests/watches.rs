//! Updates of resources, and changes of lists in the modern era.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::scene::{LONG, Pen, Reply, Scene, Seen, caller, next_notice};
use crate::connection::lending::{Kind, Lack, Lender, Lent, Rejected, Wanted, Withheld};
use crate::connection::{Holder, Origin, Place};
use crate::ids::{ConnectionId, UpstreamName};
use crate::mcp::talk::{Event, Notice, Party, Via};
use crate::upstream::credential::{Borrower, Changes};
use crate::upstream::deadline::Deadline;
use crate::upstream::{Subscription, UpstreamError, Watch};

async fn watch(scene: &Scene, uri: &str) -> Result<(Watch, mpsc::Receiver<Event>), UpstreamError> {
    let (events, heard) = mpsc::channel(8);
    let via = Via { party: caller("a"), events, cancelled: CancellationToken::new() };
    let subscription = Subscription { uri: uri.to_owned(), exposed: format!("exposed:{uri}") };
    let watch = scene.link.watch(subscription, via, None, Deadline::after(LONG, LONG)).await?;
    Ok((watch, heard))
}

async fn updated(heard: &mut mpsc::Receiver<Event>) -> Value {
    let Notice::ResourceUpdated(params) = next_notice(heard).await else { panic!() };
    serde_json::from_str(params.to_raw().get()).unwrap()
}

fn update(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
}

/// A legacy scene; streams of GET go to the test.
async fn legacy(is_lost: &'static AtomicBool) -> (Scene, mpsc::Receiver<(Seen, Pen)>) {
    let (pens, written) = mpsc::channel(8);
    let scene = Scene::legacy(move |seen| match seen.kind().as_str() {
        "GET" if is_lost.load(Ordering::Relaxed) && seen.header("mcp-session-id") == Some("s1") => Reply::status(404),
        "GET" => {
            let (reply, pen) = Reply::stream();
            pens.try_send((seen, pen)).unwrap();
            reply
        }
        "resources/subscribe" if seen.body["params"]["uri"] == "a:missing" => seen.error(200, -32002),
        _ => seen.result(&json!({})),
    })
    .await;
    (scene, written)
}

#[tokio::test]
async fn watches_of_one_resource_share_a_subscription() {
    static LOST: AtomicBool = AtomicBool::new(false);
    let (scene, mut written) = legacy(&LOST).await;
    let (first, mut heard_first) = watch(&scene, "a:1").await.unwrap();
    let (second, mut heard_second) = watch(&scene, "a:1").await.unwrap();
    let (_third, mut heard_third) = watch(&scene, "a:2").await.unwrap();
    let subscribed = |uri: &str| {
        let seen = scene.seen();
        seen.iter().filter(|seen| seen.is("resources/subscribe") && seen.body["params"]["uri"] == uri).count()
    };
    assert_eq!((subscribed("a:1"), subscribed("a:2"), scene.count("initialize")), (1, 1, 1));
    let (_, pen) = written.recv().await.unwrap();
    pen.message(&update("a:1"));
    assert_eq!(updated(&mut heard_first).await, json!({"uri": "exposed:a:1"}));
    assert_eq!(updated(&mut heard_second).await, json!({"uri": "exposed:a:1"}));
    drop(first);
    pen.message(&update("a:2"));
    assert_eq!(updated(&mut heard_third).await, json!({"uri": "exposed:a:2"}));
    assert!(heard_second.try_recv().is_err());
    assert_eq!(scene.count("resources/unsubscribe"), 0, "one still watches it");
    drop(second);
    assert_eq!(scene.wait_for("resources/unsubscribe", 1).await.body["params"], json!({"uri": "a:1"}));
    let refused = watch(&scene, "a:missing").await;
    assert!(matches!(refused, Err(UpstreamError::NoResource)));
    assert_eq!(scene.count("GET"), 1);
}

#[tokio::test]
async fn a_watch_outlives_a_lost_session() {
    static LOST: AtomicBool = AtomicBool::new(false);
    let (scene, mut written) = legacy(&LOST).await;
    let (_watch, mut heard) = watch(&scene, "a:1").await.unwrap();
    let (seen, pen) = written.recv().await.unwrap();
    assert_eq!(seen.header("mcp-session-id"), Some("s1"));
    LOST.store(true, Ordering::Relaxed);
    pen.text("retry: 500\n\n");
    drop(pen);
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1"}), "it may have changed meanwhile");
    let (seen, pen) = tokio::time::timeout(LONG, written.recv()).await.unwrap().unwrap();
    assert_eq!(seen.header("mcp-session-id"), Some("s2"));
    pen.message(&update("a:1"));
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1"}));
    assert_eq!(scene.count("resources/subscribe"), 2);
}

/// A modern scene; streams of changes go to the test.
async fn modern() -> (Scene, mpsc::Receiver<(Seen, Pen)>) {
    let (pens, written) = mpsc::channel(8);
    let scene = Scene::modern(move |seen| {
        let wanted = &seen.body["params"]["notifications"];
        if wanted["resourceSubscriptions"] == json!(["a:missing"]) {
            return seen.error(404, -32601);
        }
        let granted = if wanted["resourceSubscriptions"] == json!(["a:refused"]) { json!({}) } else { wanted.clone() };
        let (reply, pen) = Reply::stream();
        pen.message(&marked(&seen, "notifications/subscriptions/acknowledged", &json!({"notifications": granted})));
        pens.try_send((seen, pen)).unwrap();
        reply
    })
    .await;
    (scene, written)
}

fn marked(seen: &Seen, method: &str, params: &Value) -> Value {
    let mut params = params.clone();
    params["_meta"]["io.modelcontextprotocol/subscriptionId"] = seen.body["id"].clone();
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

#[tokio::test]
async fn a_modern_watch_is_a_stream_of_its_own() {
    let (scene, mut written) = modern().await;
    let (watching, mut heard) = watch(&scene, "a:1").await.unwrap();
    let (seen, pen) = written.recv().await.unwrap();
    assert_eq!(seen.header("mcp-method"), Some("subscriptions/listen"));
    let updated_method = "notifications/resources/updated";
    let mut another = marked(&seen, updated_method, &json!({"uri": "a:1", "no": 1}));
    another["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] = json!("another");
    pen.message(&another);
    pen.message(&update("a:1"));
    pen.message(&marked(&seen, updated_method, &json!({"uri": "a:2"})));
    pen.message(&marked(&seen, updated_method, &json!({"uri": "a:1", "yes": 1})));
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1", "yes": 1}));
    // A graceful end, and a break: both are made good.
    pen.message(&seen.result_text(&json!({"resultType": "complete"})));
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1"}));
    let (_, pen) = written.recv().await.unwrap();
    drop(pen);
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1"}));
    let (_, pen) = written.recv().await.unwrap();
    drop(watching);
    pen.is_closed().await;
}

#[tokio::test]
async fn what_is_not_granted_is_not_watched() {
    let (scene, mut written) = modern().await;
    let refused = watch(&scene, "a:refused").await;
    assert!(matches!(refused, Err(UpstreamError::Unsupported { .. })));
    let (_, pen) = written.recv().await.unwrap();
    pen.is_closed().await;
    assert!(matches!(watch(&scene, "a:missing").await, Err(UpstreamError::Unsupported { .. })));
}

#[tokio::test]
async fn the_gateway_hears_of_changed_lists() {
    let (scene, mut written) = modern().await;
    let stale = scene.signals.stale.clone();
    let told = || tokio::time::timeout(LONG, stale.notified());
    let hears = async {
        let (seen, pen) = written.recv().await.unwrap();
        assert_eq!(seen.body["params"]["notifications"], json!({"toolsListChanged": true}));
        pen.message(&marked(&seen, "notifications/tools/list_changed", &json!({})));
        told().await.expect("nobody is told");
        assert!(tokio::time::timeout(Duration::from_millis(50), stale.notified()).await.is_err());
        drop(pen);
        // What was missed meanwhile has to be read.
        told().await.expect("nobody is told");
        written.recv().await.unwrap();
    };
    tokio::select! {
        () = scene.link.listen() => panic!("it gave up"),
        () = hears => {}
    }
}

/// Lends tokens, each by its number, and has another one for what is refused if a test gives it one.
#[derive(Debug)]
struct Purse {
    token: Mutex<Result<u64, Withheld>>,
    /// In the place of one that is refused.
    spare: Mutex<Option<u64>>,
    changes: Changes,
}

impl Purse {
    fn with(token: u64) -> Arc<Self> {
        Arc::new(Self { token: Mutex::new(Ok(token)), spare: Mutex::default(), changes: Changes::new(8) })
    }

    /// That is what is lent from now on.
    fn has(&self, token: Result<u64, Withheld>) {
        *self.token.lock().unwrap() = token;
        _ = self.changes.send(Some(place().holder));
    }

    async fn watch(self: &Arc<Self>, scene: &Scene, uri: &str) -> (Watch, mpsc::Receiver<Event>) {
        let wanted = Wanted {
            place: place(),
            kind: Kind::OAuth,
            origin: Origin::parse("https://up.example").unwrap(),
            scopes: None,
            max_age: None,
        };
        let party = Party { lent: self.lend(&wanted).await.ok(), ..caller("a") };
        let (events, heard) = mpsc::channel(8);
        let via = Via { party, events, cancelled: CancellationToken::new() };
        let subscription = Subscription { uri: uri.to_owned(), exposed: format!("exposed:{uri}") };
        let borrower = Some(Borrower::new(self.clone(), wanted, &self.changes));
        let watch = scene.link.watch(subscription, via, borrower, Deadline::after(LONG, LONG)).await.unwrap();
        (watch, heard)
    }
}

impl Lender for Purse {
    fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        let token = self.token.lock().unwrap().clone();
        Box::pin(async move {
            let revision = token?;
            let shown = HeaderValue::try_from(format!("Bearer t{revision}")).unwrap();
            Ok(Arc::new(Lent {
                place: wanted.place.clone(),
                connection: ConnectionId::parse(&"0a".repeat(12)).unwrap(),
                revision,
                given: 1,
                scopes: Vec::new(),
                headers: vec![(header::AUTHORIZATION, shown)],
                variables: Vec::new(),
            }))
        })
    }

    fn rejected<'a>(
        &'a self,
        wanted: &'a Wanted,
        _: &'a Lent,
        _: &'a Rejected,
    ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        match self.spare.lock().unwrap().take() {
            Some(spare) => *self.token.lock().unwrap() = Ok(spare),
            None => return Box::pin(async { Err(not_connected()) }),
        }
        self.lend(wanted)
    }
}

fn place() -> Place {
    Place { holder: Holder::Of(caller("a").principal), upstream: UpstreamName::parse("up").unwrap() }
}

fn not_connected() -> Withheld {
    Withheld::Missing(Lack::NotConnected)
}

async fn is_over(watch: &Watch) {
    let over = async {
        while !watch.is_over() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, over).await.expect("the watch goes on");
}

#[tokio::test]
async fn a_modern_watch_shows_what_is_lent_now_and_is_over_when_nothing_is() {
    let (scene, mut written) = modern().await;
    let purse = Purse::with(1);
    let (watch, mut heard) = purse.watch(&scene, "a:1").await;
    let (seen, first) = written.recv().await.unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer t1"));
    _ = purse.changes.send(None);
    purse.has(Ok(2));
    let (seen, second) = written.recv().await.unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer t2"), "what has changed, and not that something has");
    first.is_closed().await;
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1"}), "it may have changed meanwhile");
    purse.has(Err(Withheld::Fault));
    second.message(&marked(&seen, "notifications/resources/updated", &json!({"uri": "a:1", "n": 1})));
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1", "n": 1}), "a fault takes nothing away");
    purse.has(Err(not_connected()));
    second.is_closed().await;
    is_over(&watch).await;
}

#[tokio::test]
async fn a_modern_watch_whose_token_is_refused_is_opened_once_with_another() {
    static REFUSED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let (pens, mut written) = mpsc::channel(8);
    let scene = Scene::modern(move |seen| {
        let shown = seen.header("authorization").unwrap().to_owned();
        if REFUSED.lock().unwrap().contains(&shown) {
            return Reply::status(401);
        }
        let (reply, pen) = Reply::stream();
        let granted = json!({"notifications": seen.body["params"]["notifications"]});
        pen.message(&marked(&seen, "notifications/subscriptions/acknowledged", &granted));
        pens.try_send((seen, pen)).unwrap();
        reply
    })
    .await;
    let refuse = |token: &str| REFUSED.lock().unwrap().push(format!("Bearer {token}"));
    let purse = Purse::with(1);
    let (watch, _heard) = purse.watch(&scene, "a:1").await;
    let (_, first): (Seen, Pen) = written.recv().await.unwrap();
    refuse("t1");
    *purse.spare.lock().unwrap() = Some(2);
    drop(first);
    let (seen, second) = tokio::time::timeout(LONG, written.recv()).await.unwrap().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer t2"));
    assert!(!watch.is_over());
    // Neither this one nor the next.
    refuse("t2");
    refuse("t3");
    *purse.spare.lock().unwrap() = Some(3);
    drop(second);
    is_over(&watch).await;
    let shown = scene.seen().iter().filter(|seen| seen.header("authorization") == Some("Bearer t3")).count();
    assert_eq!(shown, 1, "once");
}

#[tokio::test]
async fn a_session_goes_on_with_what_is_renewed_for_its_watches() {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    let (pens, mut written) = mpsc::channel(8);
    let scene = Scene::legacy(move |seen| match seen.kind().as_str() {
        "GET" if REFUSED.load(Ordering::Relaxed) && seen.header("authorization") == Some("Bearer t2") => {
            Reply::status(401)
        }
        "GET" => {
            let (reply, pen) = Reply::stream();
            pens.try_send((seen, pen)).unwrap();
            reply
        }
        _ => seen.result(&json!({})),
    })
    .await;
    let purse = Purse::with(1);
    let (watch, mut heard) = purse.watch(&scene, "a:1").await;
    let (seen, first): (Seen, Pen) = written.recv().await.unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer t1"));
    purse.has(Ok(2));
    first.message(&update("a:1"));
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1"}));
    first.text("retry: 500\n\n");
    drop(first);
    let (seen, second) = tokio::time::timeout(LONG, written.recv()).await.unwrap().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer t2"));
    assert_eq!(scene.count("resources/subscribe"), 1, "the subscription stands");
    // The upstream has taken it back.
    REFUSED.store(true, Ordering::Relaxed);
    *purse.spare.lock().unwrap() = Some(3);
    second.text("retry: 500\n\n");
    drop(second);
    let (seen, third) = tokio::time::timeout(LONG, written.recv()).await.unwrap().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer t3"));
    third.message(&update("a:1"));
    assert_eq!(updated(&mut heard).await, json!({"uri": "exposed:a:1"}));
    purse.has(Err(not_connected()));
    is_over(&watch).await;
    scene.wait_for("resources/unsubscribe", 1).await;
}
