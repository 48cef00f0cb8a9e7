//! How the gateway faces the network: TLS and certificates that are replaced, whose word about a caller's address counts,
//! what systemd is told and hands over, and a stop under load that loses no call. The real program, in its own process.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_tests::caller::send_unix;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, free_address, program};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const AUTHORITY: &str = include_str!("../../fixtures/tls/authority.pem");
const ONE: (&str, &str) = (include_str!("../../fixtures/tls/one.pem"), include_str!("../../fixtures/tls/one.key"));
const OTHER: (&str, &str) =
    (include_str!("../../fixtures/tls/other.pem"), include_str!("../../fixtures/tls/other.key"));

/// A program that runs until it is asked to stop, or this is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, dir: &Path) -> Self {
        command.current_dir(dir).env_remove("PORTCULLIS_CONFIG").stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success(), "{name}");
    }

    /// Waits until it has ended.
    async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, ended).await.expect("it ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn serve() -> Command {
    let mut command = Command::new(program("portcullis"));
    command.arg("serve");
    command
}

/// A directory with a configuration whose admin socket is `data/admin.sock`, and with a key called `ci`.
fn directory(text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let keys = "[keys.ci]\nsecret = \"file:ci.key\"\nallow = [{ upstream = \"*\", tools = [\"*\"] }]\n";
    let text = format!("data_dir = \"data\"\n{text}\n[store]\nurl = \"memory:\"\n{keys}");
    fs::write(dir.path().join("ci.key"), Gateway::secret("ci")).unwrap();
    fs::write(dir.path().join("portcullis.toml"), text).unwrap();
    dir
}

async fn status(dir: &Path) -> Option<Value> {
    let asked = send_unix(&dir.join("data/admin.sock"), "GET", "/api/v1/status", None).await;
    asked.ok().map(|reply| reply.json())
}

/// Waits until the gateway in a directory says this of itself.
async fn until(dir: &Path, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let view = status(dir).await;
        if let Some(view) = view.as_ref().filter(|view| holds(view)) {
            return view.clone();
        }
        assert!(tokio::time::Instant::now() < until, "it does not come to pass that {what}: {view:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_ready(dir: &Path) {
    until(dir, "the gateway is ready", |view| view["ready"] == true).await;
}

// ---- TLS

fn install(dir: &Path, (chain, key): (&str, &str)) {
    for (name, text) in [("chain.pem", chain), ("key.pem", key)] {
        fs::write(dir.join(format!("{name}.new")), text).unwrap();
        fs::rename(dir.join(format!("{name}.new")), dir.join(name)).unwrap();
    }
}

async fn connect(address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

/// Which certificate is shown to somebody who connects now.
async fn shown(address: SocketAddr) -> CertificateDer<'static> {
    let stream = connect(address).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn leaf((chain, _): (&str, &str)) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()
}

async fn until_shown(address: SocketAddr, pair: (&str, &str)) {
    let until = tokio::time::Instant::now() + SOON;
    while shown(address).await != leaf(pair) {
        assert!(tokio::time::Instant::now() < until, "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(mut stream: TlsStream<TcpStream>, host: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_while_the_gateway_serves() {
    let (public, admin) = (free_address().await.unwrap(), free_address().await.unwrap());
    let port = admin.port();
    let dir = directory(&format!(
        "public_url = \"https://{public}\"\n[listen]\npublic = \"{public}\"\nadmin = \"{admin}\"\n\
         admin_url = \"https://ops.example:{port}\"\n\
         public_tls = {{ certificate = \"chain.pem\", key = \"key.pem\" }}\n\
         admin_tls = {{ certificate = \"chain.pem\", key = \"key.pem\" }}"
    ));
    install(dir.path(), ONE);
    let mut gateway = Process::start(&mut serve(), dir.path());
    until_ready(dir.path()).await;
    let view = until(dir.path(), "the expiry is known", |view| view["tls"]["public"]["not_after"].is_string()).await;
    assert_eq!(view["tls"]["admin"]["not_after"], "2126-10-29T06:23:22.000Z");
    for address in [public, admin] {
        assert_eq!(shown(address).await, leaf(ONE));
    }
    let figures = send_unix(&dir.path().join("data/admin.sock"), "GET", "/metrics", None).await.unwrap();
    for listener in ["public", "admin"] {
        let line = format!("portcullis_certificate_expiry_timestamp_seconds{{listener=\"{listener}\"}} 4948928602\n");
        assert!(figures.text().contains(&line), "{}", figures.text());
    }
    let answer = get(connect(public).await.unwrap(), &public.to_string(), "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for (host, code) in [(format!("ops.example:{port}"), "401"), ("other.example".to_owned(), "403")] {
        let answer = get(connect(admin).await.unwrap(), &host, "/api/v1/status").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{host}: {answer}");
    }

    install(dir.path(), OTHER);
    for address in [public, admin] {
        until_shown(address, OTHER).await;
    }
    let policies = send_unix(&dir.path().join("data/admin.sock"), "GET", "/api/v1/policies", None).await.unwrap();
    assert_eq!(policies.json()["generation"], 1, "certificates alone reload nothing else");
    // A pair that does not fit changes nothing, until it does.
    fs::write(dir.path().join("key.pem"), ONE.1).unwrap();
    let reload = send_unix(&dir.path().join("data/admin.sock"), "POST", "/api/v1/policies/reload", None).await.unwrap();
    assert_eq!(reload.status, StatusCode::UNPROCESSABLE_ENTITY);
    let detail = reload.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("portcullis.toml:") && detail.contains("public_tls.key cannot be used"), "{detail}");
    assert!(!detail.contains("BEGIN"), "{detail}");
    assert_eq!(shown(public).await, leaf(OTHER));
    fs::write(dir.path().join("chain.pem"), ONE.0).unwrap();
    until_shown(public, ONE).await;
    let policies = send_unix(&dir.path().join("data/admin.sock"), "GET", "/api/v1/policies", None).await.unwrap();
    // What the refused reload had read is not in force, so that all of it is read again.
    assert_eq!(policies.json()["generation"], 2, "{}", policies.text());
    gateway.signal("-TERM");
    assert!(gateway.ended().await.success());
}

// ---- trusted proxies

#[tokio::test(flavor = "multi_thread")]
async fn h1_only_a_trusted_proxy_says_where_a_call_came_from() {
    let up = Fixture::start().await;
    let policy = "[[policies]]\nname = \"where\"\nmodule = \"builtin:cel\"\nmatch = { hooks = [\"tool-call\"] }\nlimits = { time = \"1s\" }\n\
                  [[policies.config.rules]]\nhook = \"tool-call\"\nthen = \"deny\"\n\
                  message = \"from {{context.remote_ip}}.\"\n";
    let spoofed = "1.2.3.4, 192.0.2.7";
    for (trusted, header, value, expected) in [
        ("[]", "x-forwarded-for", spoofed, "from 127.0.0.1."),
        ("[\"10.0.0.0/8\"]", "x-forwarded-for", spoofed, "from 127.0.0.1."),
        ("[\"127.0.0.0/8\"]", "x-forwarded-for", spoofed, "from 192.0.2.7."),
        ("[\"127.0.0.1\"]", "forwarded", "for=1.2.3.4, for=\"[2001:db8::7]:4711\"", "from 2001:db8::7."),
        ("[\"127.0.0.1\"]", "x_forwarded_for", spoofed, "from 127.0.0.1."),
        ("[\"127.0.0.1\"]", "x-real-ip", "1.2.3.4", "from 127.0.0.1."),
    ] {
        let gateway = Gateway::builder()
            .http_upstream("up", &up.url)
            .key("ci")
            .section(&format!("[edge]\ntrusted_proxies = {trusted}"))
            .section(policy)
            .start()
            .await;
        for connection in ["keep-alive", header] {
            let caller = gateway.caller("ci").with(header, value).with("connection", connection);
            let reply = caller.call("up__echo", json!({})).await;
            assert!(reply.text().contains(expected), "{trusted} {header} {connection}: {}", reply.text());
        }
    }
}

// ---- systemd

/// What a socket of ours is told. A fresh one for each process.
struct Heard(UnixDatagram);

impl Heard {
    async fn next(&self) -> String {
        let socket = self.0.try_clone().unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        spawn_blocking(move || {
            let mut buffer = [0; 1024];
            let len = socket.recv(&mut buffer).expect("something is told");
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        })
        .await
        .unwrap()
    }

    /// The next message that is not about the watchdog.
    async fn news(&self) -> String {
        loop {
            let told = self.next().await;
            if told != "WATCHDOG=1" {
                return told;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_readiness_reloads_and_the_end() {
    for is_abstract in [false, true] {
        let public = free_address().await.unwrap();
        let dir = directory(&format!("[listen]\npublic = \"{public}\"\nadmin = \"off\""));
        let path = dir.path().join("notify");
        let (name, socket) = if is_abstract {
            let name = format!("portcullis-serving-{}", std::process::id());
            let address = UnixAddress::from_abstract_name(&name).unwrap();
            (format!("@{name}"), UnixDatagram::bind_addr(&address).unwrap())
        } else {
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap())
        };
        let heard = Heard(socket);
        let mut command = serve();
        command.env("NOTIFY_SOCKET", &name).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
        let mut gateway = Process::start(&mut command, dir.path());
        let ready = heard.news().await;
        assert!(ready.starts_with("READY=1\nSTATUS=serving http://"), "{ready}");
        assert!(TcpStream::connect(public).await.is_ok(), "it serves when it says so");

        gateway.signal("-HUP");
        let reloading = heard.news().await;
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.lines().next());
        assert!(micros.is_some_and(|micros| micros.parse::<u64>().is_ok_and(|micros| micros > 0)), "{reloading}");
        assert!(heard.news().await.starts_with("READY=1"));
        // One that is refused ends as well.
        fs::write(dir.path().join("portcullis.toml"), "colour = \"red\"\n").unwrap();
        assert!(heard.news().await.starts_with("RELOADING=1"));
        assert!(heard.news().await.starts_with("READY=1"));

        for _ in 0..3 {
            while heard.next().await != "WATCHDOG=1" {}
        }
        gateway.signal("-TERM");
        while !heard.news().await.starts_with("STOPPING=1") {}
        assert!(gateway.ended().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notify_socket_that_cannot_be_used_stops_the_start() {
    let dir = directory("[listen]\nadmin = \"off\"");
    let mut gateway = Process::start(serve().env("NOTIFY_SOCKET", "run/notify"), dir.path());
    assert_eq!(gateway.ended().await.code(), Some(1));
}

/// The environment and the open files of the process that carries this mark.
fn child(mark: &str) -> Option<(String, Vec<String>)> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok().map(|entry| entry.path()));
    processes.into_iter().find_map(|process| {
        let environment = String::from_utf8_lossy(&fs::read(process.join("environ")).ok()?).into_owned();
        if !environment.split('\0').any(|variable| variable == format!("MARK={mark}")) {
            return None;
        }
        let files = fs::read_dir(process.join("fd")).ok()?;
        let files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        Some((environment, files.map(|file| file.display().to_string()).collect()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_systemd_take_the_place_of_the_listeners_and_reach_no_child() {
    let (public, admin) = (free_address().await.unwrap(), free_address().await.unwrap());
    let (unused, unused_admin) = (free_address().await.unwrap(), free_address().await.unwrap());
    let mark = format!("serving-{}", std::process::id());
    let dir = directory(&format!(
        "public_url = \"http://{public}\"\n[listen]\npublic = \"{unused}\"\nadmin = \"{unused_admin}\"\n\
         [upstreams.child]\ncommand = [{:?}, \"stdio\"]\nenvironment = {{ MARK = \"{mark}\" }}",
        program("fixture-upstream")
    ));
    let socket = dir.path().join("operators.sock");
    let mut command = Command::new("systemd-socket-activate");
    for address in [admin.to_string(), socket.to_str().unwrap().to_owned(), public.to_string()] {
        command.arg("--listen").arg(address);
    }
    command.arg("--fdname=admin:admin-socket:public").arg(program("portcullis")).arg("serve");
    let mut gateway = Process::start(&mut command, dir.path());
    // The first connection starts it.
    let ready = async {
        loop {
            if let Ok(reply) = send_unix(&socket, "GET", "/api/v1/status", None).await
                && reply.json()["ready"] == true
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, ready).await.expect("the gateway gets ready");
    let caller = Caller::new(public, Some(Gateway::secret("ci")));
    let reply = caller.call("child__echo", json!({ "text": "through" })).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert!(reply.text().contains("through"), "{}", reply.text());
    assert_eq!(Caller::new(admin, None).send("GET", "/api/v1/status", "").await.status, StatusCode::UNAUTHORIZED);
    for address in [unused, unused_admin] {
        assert!(TcpStream::connect(address).await.is_err(), "{address} was replaced");
    }
    assert!(!dir.path().join("data/admin.sock").exists());
    let (environment, files) = child(&mark).expect("the child runs");
    assert!(!environment.contains("LISTEN_"), "{environment:?}");
    let inode = |address: SocketAddr| listening_inode(address.port()).expect("somebody listens");
    for address in [public, admin] {
        let held = format!("socket:[{}]", inode(address));
        assert!(!files.contains(&held), "a child holds {held}: {files:?}");
    }
    gateway.signal("-TERM");
    assert!(gateway.ended().await.success());
    assert!(socket.exists(), "the socket is its unit's");
}

/// The inode of the socket that listens on this port of 127.0.0.1.
fn listening_inode(port: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("{:08X}:{port:04X}", u32::from_le_bytes(Ipv4Addr::LOCALHOST.octets()));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A")).then(|| fields[9].to_owned())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_socket_without_a_name_of_ours_is_the_public_one_and_a_wrong_name_stops_the_start() {
    for (name, is_right) in [("unknown", true), ("metrics", false)] {
        let public = free_address().await.unwrap();
        let dir = directory(&format!("public_url = \"http://{public}\"\n[listen]\nadmin = \"off\""));
        let mut command = Command::new("systemd-socket-activate");
        command.args(["--listen", &public.to_string(), &format!("--fdname={name}")]);
        command.arg(program("portcullis")).arg("serve");
        let mut gateway = Process::start(&mut command, dir.path());
        let asked = async {
            let stream = loop {
                match TcpStream::connect(public).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            let mut stream = stream;
            let request = format!("GET /healthz HTTP/1.1\r\nHost: {public}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // Where nobody takes the socket, the connection is reset.
            _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        let answer = tokio::time::timeout(SOON, asked).await.expect("the connection ends");
        if is_right {
            assert!(answer.starts_with("HTTP/1.1 200 "), "the connection that started it is served: {answer}");
            gateway.signal("-TERM");
            assert!(gateway.ended().await.success());
        } else {
            assert_eq!((answer.as_str(), gateway.ended().await.code()), ("", Some(1)));
        }
    }
}

// ---- stopping

const CALLERS: usize = 64;

/// One request of a caller, ready to be sent again and again.
fn call_of(caller: &Caller, tool: &str, arguments: &Value) -> (HeaderMap, Bytes) {
    let (headers, body) = caller.modern_request("tools/call", json!({ "name": tool, "arguments": arguments }));
    (headers, Bytes::from(body))
}

fn request((headers, body): &(HeaderMap, Bytes), uri: &str) -> Request<Full<Bytes>> {
    let mut request = Request::post(uri).body(Full::new(body.clone())).unwrap();
    *request.headers_mut() = headers.clone();
    request
}

/// Calls over connections that it keeps, until nobody listens any more. How many calls were answered; none may fail that went
/// over a connection that was not new.
async fn keep_calling(address: SocketAddr, call: (HeaderMap, Bytes)) -> usize {
    let mut answered = 0;
    while let Ok(stream) = TcpStream::connect(address).await {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        for is_kept in std::iter::once(false).chain(std::iter::repeat(true)) {
            if sender.ready().await.is_err() {
                break;
            }
            let response = match sender.send_request(request(&call, "/mcp")).await {
                Ok(response) => response,
                // Whoever connects while the listener closes was never accepted.
                Err(error) => {
                    assert!(!is_kept, "a call over a kept connection is lost after {answered}: {error}");
                    break;
                }
            };
            let (status, closes) =
                (response.status(), response.headers().get("connection").is_some_and(|v| v == "close"));
            let body = response.into_body().collect().await.expect("an answer arrives whole").to_bytes();
            assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
            answered += 1;
            if closes {
                break;
            }
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_call() {
    let up = Fixture::start().await;
    let public = free_address().await.unwrap();
    let dir = directory(&format!(
        "[listen]\npublic = \"{public}\"\nadmin = \"off\"\n[edge]\ndrain_delay = \"2s\"\n[upstreams.up]\nurl = \"{}\"",
        up.url
    ));
    let mut gateway = Process::start(&mut serve(), dir.path());
    until_ready(dir.path()).await;
    let caller = Caller::new(public, Some(Gateway::secret("ci")));
    let echo = call_of(&caller, "up__echo", &json!({ "text": "again" }));
    let mut calling = JoinSet::new();
    for _ in 0..CALLERS {
        calling.spawn(keep_calling(public, echo.clone()));
    }
    // Over HTTP/2, calls that are under way at the stop and end after it.
    let stream = TokioIo::new(TcpStream::connect(public).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut slow = JoinSet::new();
    let mut long = call_of(&caller, "up__slow", &json!({ "ms": 4_000 }));
    long.0.remove("host");
    for _ in 0..CALLERS / 4 {
        let (mut sender, request) = (sender.clone(), request(&long, &format!("http://{public}/mcp")));
        slow.spawn(async move {
            let response = sender.send_request(request).await.expect("the call is answered");
            let body = response.into_body().collect().await.expect("an answer arrives whole").to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        });
    }
    up.until(|stats| stats.under_way >= CALLERS / 4 && stats.calls > CALLERS * 4).await;

    gateway.signal("-TERM");
    let unready = async {
        loop {
            let reply = Caller::new(public, None).send("GET", "/readyz", "").await;
            if reply.status == StatusCode::SERVICE_UNAVAILABLE {
                return reply.text().to_owned();
            }
        }
    };
    let told = tokio::time::timeout(SOON, unready).await.expect("it is not ready any more");
    assert_eq!(told, "not ready\n");
    assert_eq!(Caller::new(public, None).send("GET", "/healthz", "").await.status, StatusCode::OK, "it still serves");
    while let Some(body) = slow.join_next().await {
        assert!(body.unwrap().contains("waited 4000 ms"));
    }
    driver.join_next().await.unwrap().unwrap().expect("GOAWAY ends the connection in order");
    let mut answered = CALLERS / 4;
    while let Some(calls) = calling.join_next().await {
        answered += calls.unwrap();
    }
    assert!(gateway.ended().await.success());
    let stats = up.stats();
    assert_eq!(
        (stats.calls, stats.cancelled, stats.under_way),
        (answered, 0, 0),
        "each call that was made is answered"
    );
    assert!(answered > CALLERS * 4);
}
