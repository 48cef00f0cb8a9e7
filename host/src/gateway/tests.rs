//! The start and the end of a gateway, from within.

use std::path::Path;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};

use super::files::make_private_dir;
use super::*;
use crate::config;
use crate::env::{Clock, Timestamp};
use crate::ids::{ApprovalId, BindingName, KeyName, Principal, UpstreamName};
use crate::secret::Digest;
use crate::store::approvals::{self, Approver, Memory, Subject, Wish};

const APPROVALS: u64 = 3_000;

struct Past;

impl Clock for Past {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }
}

/// A store full of what has expired long ago.
async fn fill(path: &Path) {
    let env = Env { clock: Arc::new(Past), ..Env::system() };
    let store = Store::open(store::Location::File(path.to_owned()), env.clone()).await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..APPROVALS {
        let subject = Subject {
            principal: Principal::Key(KeyName::parse(&format!("k{}", number % 100)).unwrap()),
            client: String::new(),
            operation: "tools/call".to_owned(),
            upstream: UpstreamName::parse("notes").unwrap(),
            item: "delete".to_owned(),
            definition: String::new(),
            arguments: Digest::of(&number.to_be_bytes()),
            policy: BindingName::parse("confirm").unwrap(),
            code: "destructive".to_owned(),
        };
        let (title, summary) = (String::new(), String::new());
        let wish = Wish { title, summary, by: Approver::Operator, ttl: Duration::from_secs(60), memory: Memory::Once };
        let (store, id) = (store.clone(), ApprovalId::generate(&env));
        asking.spawn(async move { approvals::request(&store, id, subject, wish, None).await.unwrap() });
    }
    let asked = asking.join_all().await;
    assert!(asked.iter().all(|asked| matches!(asked, approvals::Request::Found(_))));
    store.close().await;
}

async fn swept(socket: &Path) -> u64 {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_else(|_| panic!("{answer}"));
    status["store"]["swept"].as_u64().unwrap()
}

/// The status line with which `/mcp` answers somebody who presents nothing.
async fn knock(address: SocketAddr) -> String {
    let body = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
    let head = format!("POST /mcp HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json");
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_reload_does_not_open_a_listener_for_others_to_strangers() {
    for (bound, is_opened) in [("0.0.0.0:0", false), ("127.0.0.1:0", true)] {
        let dir = tempfile::tempdir().unwrap();
        let public = TcpListener::bind(bound).await.unwrap();
        let port = public.local_addr().unwrap().port();
        let file = dir.path().join("portcullis.toml");
        let write = |host: &str, auth: &str| {
            let url = format!("public_url = \"http://127.0.0.1:{port}\"");
            let listen = format!("[listen]\npublic = \"{host}:{port}\"\nadmin = \"off\"");
            fs::write(&file, format!("data_dir = \"data\"\n{url}\n{listen}\n{auth}\n"))
        };
        write(bound.trim_end_matches(":0"), "").unwrap();
        let config = config::load(&file, &|_| None, Env::system().now()).unwrap();
        let mut gateway = Gateway::new(Duration::from_secs(1));
        let listeners = Listeners { public, admin: None, admin_socket: None, replica: None };
        gateway.start(listeners, config, Env::system(), &Supervisor::none()).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        assert!(knock(address).await.contains(" 401 "));
        // As by somebody who means to start it again.
        write("127.0.0.1", "[auth]\nrequired = false").unwrap();
        gateway.control.clone().unwrap().reload(Actor::System).await.unwrap();
        let answer = knock(address).await;
        assert_eq!(!answer.contains(" 401 "), is_opened, "{bound}: {answer}");
        assert!(gateway.stop().await, "all tasks end in time");
    }
}

#[tokio::test]
async fn a_stop_in_the_middle_of_sweeping_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    make_private_dir(&dir.path().join("data")).unwrap();
    let path = dir.path().join("data/portcullis.redb");
    fill(&path).await;

    let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = public.local_addr().unwrap();
    let text = format!("data_dir = \"data\"\n[listen]\npublic = \"{address}\"\nadmin = \"off\"\n");
    let config = config::parse(&text, dir.path(), &|_| None, Env::system().now()).unwrap();
    let socket = config.listen.admin_socket.clone();
    let mut gateway = Gateway::new(Duration::from_secs(1));
    let listeners = Listeners { public, admin: None, admin_socket: None, replica: None };
    gateway.start(listeners, config, Env::system(), &Supervisor::none()).await.unwrap();
    let groups = [gateway.edges.clone(), gateway.requests.clone(), gateway.background.clone(), gateway.trail.clone()];
    while swept(&socket).await == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    assert!(gateway.stop().await, "all tasks end in time");
    assert!(began.elapsed() < STOP_PATIENCE, "{:?}", began.elapsed());
    for group in groups {
        assert!(group.stop(Duration::ZERO).await, "nothing is left");
    }

    let store = Store::open(store::Location::File(path), Env::system()).await.unwrap();
    let verification = store.examine().await.unwrap();
    assert!(verification.is_sound(), "{verification:?}");
    let left = verification.tables.iter().find(|rows| rows.table == "approvals").unwrap().rows;
    assert!(left > 0 && left < APPROVALS, "it was in the middle: {left} are left");
    store.close().await;
}
