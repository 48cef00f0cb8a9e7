//! Lists of people's own, read from an upstream that shows each key other tools.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::http::{HeaderName, HeaderValue};
use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::lending::{Lender, Lent, Rejected};
use crate::connection::{Holder, Place, Reason};
use crate::env::Env;
use crate::ids::{ConnectionId, KeyName, UpstreamName};
use crate::outbound::Outbound;
use crate::tasks::Tasks;

/// What the upstream shows: tools by the value of `x-api-key`, the empty one for whoever shows none.
#[derive(Debug, Default)]
struct Shows {
    tools: BTreeMap<String, Vec<&'static str>>,
    is_down: bool,
    /// How often tools were listed.
    lists: usize,
}

/// What people have connected.
#[derive(Debug, Default)]
struct Purse(Mutex<BTreeMap<Place, Arc<Lent>>>);

impl Purse {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Arc<Lent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has a connection from now on, as of when it was given, with this value of the header.
    fn put(&self, who: &Principal, given: u64, key: &'static str) {
        let place = place(who);
        let connection = ConnectionId::parse(&"0a".repeat(12)).unwrap();
        let headers = vec![(HeaderName::from_static("x-api-key"), HeaderValue::from_static(key))];
        let lent = Lent { place: place.clone(), connection, revision: given, given, scopes: Vec::new(), headers };
        self.lock().insert(place, Arc::new(lent));
    }

    fn take(&self, who: &Principal) {
        self.lock().remove(&place(who));
    }
}

impl Lender for Purse {
    fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        let lent = self.lock().get(&wanted.place).cloned();
        Box::pin(ready(lent.ok_or(Withheld::Missing(Lack::NotConnected))))
    }

    fn rejected<'a>(
        &'a self,
        _: &'a Wanted,
        _: &'a Lent,
        _: &'a Rejected,
    ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        Box::pin(ready(Err(Withheld::Missing(Lack::NeedsReauth(Reason::Unauthorized)))))
    }
}

fn place(who: &Principal) -> Place {
    Place { holder: Holder::Of(who.clone()), upstream: mail() }
}

fn mail() -> UpstreamName {
    UpstreamName::parse("mail").unwrap()
}

fn key(name: &str) -> Principal {
    Principal::Key(KeyName::parse(name).unwrap())
}

struct Scene {
    upstream: Arc<Upstream>,
    shows: Arc<Mutex<Shows>>,
    purse: Arc<Purse>,
}

impl Scene {
    /// An upstream that shows nothing to strangers, and this to whoever has the key of that name.
    async fn with(tools: &[(&str, &[&'static str])]) -> Self {
        let shows = Arc::new(Mutex::new(Shows::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let (tasks, serving) = (Tasks::new(), shows.clone());
        tasks.clone().spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tasks.spawn(answer(socket, serving.clone()));
            }
        });
        let text = format!(
            "[upstreams.mail]\nurl = '{url}'\n[upstreams.mail.auth]\nkind = 'per-user-headers'\nheaders = ['x-api-key']\n"
        );
        let config = config::parse(&text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
        let purse = Arc::new(Purse::default());
        let settings = config.upstreams[0].clone();
        let (outbound, lender) = (Outbound::new(), purse.clone());
        let upstream = Upstream::start(settings, (&outbound, lender), &config.limits, Path::new("."), &Tasks::new());
        let scene = Self { upstream, shows, purse };
        for (key, tools) in tools {
            scene.shows().tools.insert((*key).to_owned(), tools.to_vec());
        }
        scene
    }

    fn shows(&self) -> MutexGuard<'_, Shows> {
        self.shows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads somebody's list, if it is due.
    async fn read(&self, who: &Principal) -> bool {
        let Some(beginning) = self.upstream.begin_own(who) else { return false };
        beginning.read_now(self.upstream.wanted(who).unwrap()).await;
        true
    }

    /// What somebody sees: their own tools, or the word for what else.
    fn sees(&self, who: &Principal) -> Vec<String> {
        match self.upstream.look(who).unwrap().shown {
            Shown::Common => vec!["common".to_owned()],
            Shown::Unread => vec!["unread".to_owned()],
            Shown::Own(list) => list.offer.tools.iter().map(|tool| tool.name.clone()).collect(),
        }
    }
}

/// Answers one request.
async fn answer(mut socket: TcpStream, shows: Arc<Mutex<Shows>>) {
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let read = socket.read(&mut piece).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        seen.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if body.len() >= length.parse().unwrap() {
            break (head.to_owned(), body.to_owned());
        }
    };
    let request: Value = serde_json::from_str(&body).unwrap_or_default();
    let key = head.lines().find_map(|line| line.strip_prefix("x-api-key: ")).unwrap_or_default();
    let result = {
        let mut shows = shows.lock().unwrap_or_else(PoisonError::into_inner);
        if shows.is_down {
            return;
        }
        let tools = shows.tools.get(key).cloned();
        shows.lists += usize::from(request["method"] == "tools/list");
        tools.map(|tools| {
            let server = json!({ "name": "mail", "version": "1" });
            let tools: Vec<Value> = tools.iter().map(|tool| json!({ "name": tool, "inputSchema": {} })).collect();
            match request["method"].as_str() {
                Some("tools/list") => json!({ "tools": tools, "resultType": "complete" }),
                _ => json!({ "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} }, "serverInfo": server, "resultType": "complete" }),
            }
        })
    };
    let (status, text) = match result {
        Some(result) => ("200 OK", json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }).to_string()),
        None => ("401 Unauthorized", String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", text.len());
    _ = socket.write_all(format!("{head}connection: close\r\n\r\n{text}").as_bytes()).await;
}

#[tokio::test]
async fn each_sees_what_was_read_with_their_own_connection() {
    let scene = Scene::with(&[("k-ann", &["send", "ann_only"]), ("k-eve", &["send"])]).await;
    let (ann, ben, eve) = (key("ann"), key("ben"), key("eve"));
    scene.purse.put(&ann, 1, "k-ann");
    scene.purse.put(&eve, 1, "k-eve");
    let look = scene.upstream.look(&ann).unwrap();
    assert!(look.is_due && !look.is_settled && matches!(look.shown, Shown::Common), "{look:?}");
    for who in [&ann, &ben, &eve] {
        assert!(scene.read(who).await);
        assert!(!scene.read(who).await, "until the interval is over");
    }
    assert_eq!(scene.sees(&ann), ["send", "ann_only"]);
    assert_eq!((scene.sees(&ben), scene.sees(&eve)), (vec!["common".to_owned()], vec!["send".to_owned()]));
    assert_eq!(scene.upstream.own_lack(&ben), Some(Lack::NotConnected));
    assert_eq!(scene.upstream.own_changed().await, Some(Whose::Of([ann.clone(), ben, eve].into())));
    assert!(scene.upstream.look(&Principal::Anonymous).is_none() && scene.upstream.look(&Principal::Gateway).is_none());
    let mut tools: Vec<String> = scene.upstream.own_tools().iter().map(|tool| tool.name.clone()).collect();
    tools.sort();
    assert_eq!(tools, ["ann_only", "send"]);
}

#[tokio::test]
async fn a_list_follows_its_connection() {
    let scene = Scene::with(&[("k-one", &["one"]), ("k-two", &["two"])]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-one");
    scene.read(&ann).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["one".to_owned()], 1));

    scene.upstream.forget_own_of(&ann);
    assert_eq!(scene.sees(&ann), ["common"], "nobody knows yet whether it is still theirs");
    scene.read(&ann).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["one".to_owned()], 1), "it was only renewed");

    scene.purse.put(&ann, 2, "k-two");
    scene.upstream.forget_own(|who| *who == ann);
    scene.read(&ann).await;
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["two".to_owned()], 2), "it is another account");

    scene.purse.take(&ann);
    scene.upstream.forget_own_of(&ann);
    scene.read(&ann).await;
    assert_eq!(scene.sees(&ann), ["common"]);
}

#[tokio::test]
async fn what_is_read_while_the_connection_changes_is_nobodys() {
    let scene = Scene::with(&[("k-one", &["one"])]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-one");
    let beginning = scene.upstream.begin_own(&ann).unwrap();
    scene.upstream.forget_own_of(&ann);
    beginning.read_now(scene.upstream.wanted(&ann).unwrap()).await;
    assert_eq!(scene.sees(&ann), ["common"]);
    assert!(scene.upstream.look(&ann).unwrap().is_due);
}

#[tokio::test]
async fn a_fault_keeps_the_last_list_and_a_change_has_it_read_again() {
    let scene = Scene::with(&[("k-ann", &["old"])]).await;
    let (ann, ben) = (key("ann"), key("ben"));
    for who in [&ann, &ben] {
        scene.purse.put(who, 1, "k-ann");
    }
    scene.read(&ann).await;
    scene.shows().is_down = true;
    scene.upstream.signals.lists_changed(&ann);
    assert!(scene.read(&ann).await && scene.read(&ben).await);
    assert_eq!(scene.sees(&ann), ["old"]);
    assert_eq!(scene.sees(&ben), ["unread"], "there is a connection, and nothing was ever read");

    (scene.shows().is_down, scene.shows().tools) = (false, [("k-ann".to_owned(), vec!["new"])].into());
    scene.upstream.signals.lists_changed(&ann);
    assert!(scene.read(&ann).await);
    assert_eq!(scene.sees(&ann), ["new"]);
}

#[tokio::test]
async fn a_list_that_the_upstream_refuses_is_as_good_as_no_connection() {
    let scene = Scene::with(&[]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-ann");
    scene.read(&ann).await;
    assert_eq!(scene.sees(&ann), ["common"]);
    assert_eq!(scene.upstream.own_lack(&ann), Some(Lack::NeedsReauth(Reason::Unauthorized)));
}

#[tokio::test]
async fn one_reads_for_all_who_wait_and_who_breaks_off_holds_up_nobody() {
    let scene = Scene::with(&[("k-ann", &["one"])]).await;
    let ann = key("ann");
    scene.purse.put(&ann, 1, "k-ann");
    let beginning = scene.upstream.begin_own(&ann).unwrap();
    assert!((0..64).all(|_| scene.upstream.begin_own(&ann).is_none()));
    let waiting = futures_util::future::join_all((0..64).map(|_| scene.upstream.own_settled(&ann)));
    let ((), _) = tokio::join!(beginning.read_now(scene.upstream.wanted(&ann).unwrap()), waiting);
    assert_eq!((scene.sees(&ann), scene.shows().lists), (vec!["one".to_owned()], 1));

    let ben = key("ben");
    drop(scene.upstream.begin_own(&ben).unwrap());
    assert!(scene.upstream.look(&ben).unwrap().is_settled);
    scene.upstream.own_settled(&ben).await;
}

#[tokio::test]
async fn strangers_are_shown_how_to_connect_where_they_see_nothing_else() {
    let scene = Scene::with(&[]).await;
    let connect = |scene: &Scene| scene.upstream.shelf().connect.unwrap().is_listed;
    assert!(!connect(&scene), "nothing is known of it");
    let refused = scene.upstream.see().await;
    scene.upstream.note_whether_closed(&refused);
    assert!(connect(&scene));
    assert!(scene.upstream.shelf().offer.is_none(), "what upstreams offer is what is pinned, and it is none of that");
    scene.shows().is_down = true;
    let unreachable = scene.upstream.see().await;
    scene.upstream.note_whether_closed(&unreachable);
    assert!(connect(&scene), "that it is down says nothing of that");
    (scene.shows().is_down, scene.shows().tools) = (false, [(String::new(), vec!["send"])].into());
    let seen = scene.upstream.see().await;
    scene.upstream.note_whether_closed(&seen);
    assert!(!connect(&scene));
}

#[test]
fn lists_in_memory_are_bounded_in_number_and_in_bytes() {
    assert!(weight(&Offer::default()) >= MAX_BYTES / MAX_LISTS);
    let upstream = mail();
    let long = format!(r#"{{"name":"t","description":"{}"}}"#, "x".repeat(200_000));
    let tool = Arc::new(ToolDefinition::parse(&upstream, &crate::mcp::json::raw(long)).unwrap());
    let offer = Offer { tools: vec![tool], ..Offer::default() };
    assert!(weight(&offer) > 200_000);
}
