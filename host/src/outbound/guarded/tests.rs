//! What the guarded fetcher does and refuses, against servers on loopback and names that are made up.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::super::slots::PER_HOST;
use super::*;

// ---- actors

/// A server on loopback that gives every request the same answer, and then keeps its connection open.
struct Server {
    port: u16,
    /// All requests, with the name that TLS asked for before each.
    requests: Arc<Mutex<Vec<String>>>,
}

/// A host that gives documents over TLS, as tests elsewhere want them: `as.example`, with an answer that can be changed.
pub(crate) struct DocumentHost {
    server: Server,
    answer: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl DocumentHost {
    pub(crate) fn start() -> Self {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(BASE64_STANDARD.decode(KEY).unwrap()));
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate()], key).unwrap();
        let answer = Arc::new(Mutex::new(String::new()));
        let given = Arc::clone(&answer);
        let respond = Arc::new(move |wire: &mut dyn Wire| {
            let answer = given.lock().unwrap().clone();
            wire.write_all(answer.as_bytes()).unwrap_or_default();
        });
        Self { server: Server::start(Some(Arc::new(config)), respond), answer, asked: Arc::default() }
    }

    /// What is answered from now on, whatever the path. Nothing: the connection stays open and silent.
    pub(crate) fn answers(&self, status: &str, headers: &[&str], body: &str) {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        *self.answer.lock().unwrap() = format!("HTTP/1.1 {status}\r\n{lines}content-length: {length}\r\n\r\n{body}");
    }

    pub(crate) fn says_nothing(&self) {
        self.answer.lock().unwrap().clear();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://as.example:{}{path}", self.server.port)
    }

    /// How often it was asked.
    pub(crate) fn requests(&self) -> usize {
        self.server.requests().len()
    }

    /// A fetcher that trusts this host and its certificate, and to which other names lead into a private network, if
    /// anywhere.
    pub(crate) fn fetcher(&self) -> Fetcher {
        let asked = Arc::clone(&self.asked);
        let resolve: Resolve = Arc::new(move |name| {
            asked.lock().unwrap().push(name.to_owned());
            let answer = match name {
                "as.example" => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
                "private.example" => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
                _ => Err(io::Error::from(io::ErrorKind::NotFound)),
            };
            ready(answer).boxed()
        });
        Fetcher::build(self.server.trusted(), resolve, trusting_the_certificate())
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

type Respond = Arc<dyn Fn(&mut dyn Wire) + Send + Sync>;

impl Server {
    fn answering(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::start(None, Arc::new(move |wire| wire.write_all(answer.as_bytes()).unwrap_or_default()))
    }

    fn answering_ok(body: &str) -> Self {
        Self::answering(&ok(body))
    }

    fn with_tls(answer: String) -> Self {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(BASE64_STANDARD.decode(KEY).unwrap()));
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate()], key).unwrap();
        let respond = Arc::new(move |wire: &mut dyn Wire| wire.write_all(answer.as_bytes()).unwrap_or_default());
        Self::start(Some(Arc::new(config)), respond)
    }

    fn start(tls: Option<Arc<rustls::ServerConfig>>, respond: Respond) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, respond, seen) = (tls.clone(), Arc::clone(&respond), Arc::clone(&seen));
                std::thread::spawn(move || match tls {
                    None => serve(stream, "", &*respond, &seen),
                    Some(config) => serve_tls(stream, config, &*respond, &seen),
                });
            }
        });
        Self { port, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn url(&self, scheme: &str, host: &str) -> Uri {
        format!("{scheme}://{host}:{}/path?query=1", self.port).parse().unwrap()
    }

    fn trusted(&self) -> Trusted {
        trusted(&[&format!("127.0.0.1:{}", self.port)])
    }
}

fn serve_tls(
    mut stream: std::net::TcpStream,
    config: Arc<rustls::ServerConfig>,
    respond: &dyn Fn(&mut dyn Wire),
    seen: &Mutex<Vec<String>>,
) {
    let mut connection = rustls::ServerConnection::new(config).unwrap();
    while connection.is_handshaking() {
        if connection.complete_io(&mut stream).is_err() {
            return;
        }
    }
    let name = connection.server_name().unwrap_or("no name").to_owned();
    serve(rustls::StreamOwned::new(connection, stream), &name, respond, seen);
}

/// Reads one request, answers it, and waits until the other side has enough.
fn serve(mut wire: impl Wire, name: &str, respond: &dyn Fn(&mut dyn Wire), seen: &Mutex<Vec<String>>) {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest.lines().next().unwrap());
            if body.len() >= length.parse().unwrap() {
                break;
            }
        }
        match wire.read(&mut piece) {
            Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    seen.lock().unwrap().push(format!("{name}{}", String::from_utf8(request).unwrap()));
    respond(&mut wire);
    let _ = wire.flush();
    while matches!(wire.read(&mut piece), Ok(1..)) {}
}

/// A resolver with one list of answers for each question; it has none when they are used up.
struct Names {
    asked: Arc<Mutex<Vec<String>>>,
    resolve: Resolve,
}

fn names(answers: &[&[&str]]) -> Names {
    let addresses = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let answers = Mutex::new(answers.iter().map(addresses).collect::<Vec<_>>().into_iter());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let resolve: Resolve = Arc::new(move |name| {
        log.lock().unwrap().push(name.to_owned());
        let answer = answers.lock().unwrap().next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        ready(answer).boxed()
    });
    Names { asked, resolve }
}

impl Names {
    fn fetcher(&self, trusted: Trusted) -> Fetcher {
        Fetcher::build(trusted, Arc::clone(&self.resolve), trusting_the_certificate())
    }

    fn times_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn certificate() -> CertificateDer<'static> {
    BASE64_STANDARD.decode(CERTIFICATE).unwrap().into()
}

fn trusting_the_certificate() -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate()).unwrap();
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

fn trusted(entries: &[&str]) -> Trusted {
    entries.iter().map(|text| Trusted::parse(text).unwrap()).collect()
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn quick() -> Limits {
    Limits { connect: Duration::from_millis(500), total: Duration::from_millis(300), ..Limits::default() }
}

fn get(url: &str) -> Fetch {
    Fetch::get(url.parse().unwrap())
}

/// What a fetch of a server's plain answer, at a trusted address, comes to.
async fn answer_to(answer: &str, limits: Limits) -> Result<Fetched, FetchError> {
    let server = Server::answering(answer);
    let fetcher = names(&[]).fetcher(server.trusted());
    fetcher.fetch(Fetch::get(server.url("http", "127.0.0.1")).limits(limits)).await
}

/// A text with all its sources, as a log would have it.
fn chain(error: &FetchError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text += &format!(": {error} {error:?}");
        next = error.source();
    }
    text
}

// ---- the exchange

#[tokio::test]
async fn a_request_carries_the_callers_headers_and_nothing_of_its_surroundings() {
    let server = Server::answering_ok("hello");
    let fetcher = names(&[]).fetcher(server.trusted());
    let fetch = Fetch::form(server.url("http", "127.0.0.1"), "a=1&b=2")
        .header(http::header::ACCEPT, HeaderValue::from_static("application/json"))
        .header(HOST, HeaderValue::from_static("elsewhere.example"))
        .header(TRANSFER_ENCODING, HeaderValue::from_static("gzip"))
        .header(CONTENT_LENGTH, HeaderValue::from_static("1"));
    let fetched = fetcher.fetch(fetch).await.unwrap();
    assert_eq!((fetched.status, &*fetched.body), (StatusCode::OK, &b"hello"[..]));
    let requests = server.requests();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    lines[1..].sort_unstable();
    let host = format!("host: 127.0.0.1:{}", server.port);
    let expected = [
        "POST /path?query=1 HTTP/1.1",
        "accept-encoding: identity",
        "accept: application/json",
        "connection: close",
        "content-length: 7",
        "content-type: application/x-www-form-urlencoded",
        &host,
    ];
    assert_eq!((lines.as_slice(), body), (&expected[..], "a=1&b=2"));
}

#[tokio::test]
async fn a_get_has_no_body_and_json_says_what_it_is() {
    let server = Server::answering_ok("{}");
    let fetcher = names(&[]).fetcher(server.trusted());
    fetcher.fetch(Fetch::get(server.url("http", "127.0.0.1"))).await.unwrap();
    fetcher.fetch(Fetch::json(server.url("http", "127.0.0.1"), "{}")).await.unwrap();
    let requests = server.requests();
    assert!(requests[0].starts_with("GET /path?query=1 HTTP/1.1\r\n") && requests[0].ends_with("\r\n\r\n"));
    assert!(requests[1].contains("content-type: application/json\r\n") && requests[1].ends_with("\r\n\r\n{}"));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_nothing_more() {
    for status in [301, 302, 303, 307, 308] {
        let redirect = format!("HTTP/1.1 {status} x\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n");
        let server = Server::answering(&redirect);
        let fetcher = names(&[]).fetcher(server.trusted());
        let fetched = fetcher.fetch(Fetch::get(server.url("http", "127.0.0.1"))).await.unwrap();
        assert_eq!((fetched.status.as_u16(), server.requests().len()), (status, 1));
        assert_eq!(fetched.headers["location"], "/other");
    }
}

#[tokio::test]
async fn chunked_answers_and_those_that_end_with_the_connection_are_read() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    assert_eq!(answer_to(chunked, Limits::default()).await.unwrap().body, "abc");
    let identity = "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 1\r\n\r\na";
    assert_eq!(answer_to(identity, Limits::default()).await.unwrap().body, "a");
}

#[tokio::test]
async fn encoded_answers_are_refused() {
    for header in [
        "content-encoding: gzip",
        "Content-Encoding: br",
        "content-encoding: identity, gzip",
        "content-encoding: identity\r\ncontent-encoding: gzip",
        "content-encoding: ",
        "content-encoding: \u{e9}",
        "transfer-encoding: gzip, chunked",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{header}\r\ncontent-length: 3\r\n\r\nabc");
        let fetched = answer_to(&answer, Limits::default()).await;
        assert!(matches!(fetched, Err(FetchError::Encoded)), "{header}: {fetched:?}");
    }
}

#[tokio::test]
async fn bodies_end_at_their_limit() {
    let limits = Limits { body: 5, ..Limits::default() };
    assert_eq!(answer_to(&ok("12345"), limits).await.unwrap().body, "12345");
    let announced = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n2\r\nef\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(100_000));
    for answer in [announced, chunked, &endless] {
        let fetched = answer_to(answer, limits).await;
        assert!(matches!(fetched, Err(FetchError::TooLarge { limit: 5 })), "{fetched:?}");
    }
}

#[tokio::test]
async fn headers_end_at_theirs() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(4 * MAX_HEADERS.0));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS.1 + 1));
    for answer in [long, many] {
        let fetched = answer_to(&answer, Limits::default()).await;
        assert!(matches!(fetched, Err(FetchError::Broken(_))), "{fetched:?}");
    }
}

#[tokio::test]
async fn a_slow_other_side_is_left_in_time() {
    let headers_only = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12";
    for answer in ["", "HTTP/1.1 200", "HTTP/1.1 100 Continue\r\n\r\n", headers_only] {
        let started = Instant::now();
        let fetched = answer_to(answer, quick()).await;
        assert!(matches!(fetched, Err(FetchError::TimedOut)), "{answer:?}: {fetched:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_left_in_time() {
    let server = Server::answering("");
    let limits = Limits { connect: Duration::from_millis(200), ..Limits::default() };
    let fetch = Fetch::get(server.url("https", "127.0.0.1")).limits(limits);
    let fetched = names(&[]).fetcher(server.trusted()).fetch(fetch).await;
    assert!(matches!(fetched, Err(FetchError::TimedOut)), "{fetched:?}");
}

#[tokio::test]
async fn a_resolver_that_never_answers_is_left_in_time() {
    let resolve: Resolve = Arc::new(|_| std::future::pending().boxed());
    let fetched = Fetcher::with_resolver(Trusted::none(), resolve);
    let fetched = fetched.fetch(get("https://as.example/").limits(quick())).await;
    assert!(matches!(fetched, Err(FetchError::TimedOut)), "{fetched:?}");
}

#[tokio::test]
async fn errors_repeat_nothing_of_the_other_side() {
    let marked = [
        "MARKER".to_owned(),
        "HTTP/1.1 MARKER\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nMARKER\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: MARKER\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-encoding: MARKER\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nMARKER\r\n".to_owned(),
        ok("MARKER"),
    ];
    for answer in marked {
        let error = answer_to(&answer, Limits { body: 1, ..quick() }).await.unwrap_err();
        assert!(!chain(&error).contains("MARKER"), "{}", chain(&error));
    }
    let fetched = Fetched { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::from("MARKER") };
    let fetch = Fetch::form("https://h/MARKER?MARKER".parse().unwrap(), "MARKER");
    assert_eq!(format!("{fetched:?}"), "Fetched { status: 200, bytes: 6, .. }");
    assert_eq!(format!("{fetch:?}"), "Fetch { method: POST, host: \"h\", .. }");
}

#[tokio::test]
async fn large_requests_are_refused() {
    let body = vec![b'a'; MAX_REQUEST + 1];
    let fetched = names(&[]).fetcher(Trusted::none()).fetch(Fetch::form("https://h/".parse().unwrap(), body)).await;
    assert!(matches!(fetched, Err(FetchError::RequestTooLarge)), "{fetched:?}");
}

#[tokio::test]
async fn one_host_gets_a_few_fetches_at_once() {
    /// Counts the lookups that are under way.
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let resolve: Resolve = Arc::new(move |_| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let running = Running(Arc::clone(&now));
        std::future::pending().inspect(move |_| drop(running)).boxed()
    });
    let fetcher = Fetcher::with_resolver(Trusted::none(), resolve);
    let all = (0..PER_HOST.1 + 1).map(|_| fetcher.fetch(get("https://slow.example/").limits(quick())));
    let all = futures_util::future::join_all(all).await;
    let busy = all.iter().filter(|fetched| matches!(fetched, Err(FetchError::Busy))).count();
    let late = all.iter().filter(|fetched| matches!(fetched, Err(FetchError::TimedOut))).count();
    assert_eq!((busy, late, most.load(Ordering::SeqCst)), (1, PER_HOST.1, PER_HOST.0));
}

// ---- where a URL may lead

/// What is expected of one spelling of a host, port or scheme.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The URL parser refuses it.
    NoUrl,
    Fault(UrlFault),
    Address(Special),
}

#[tokio::test]
async fn every_spelling_of_a_forbidden_target_is_refused_before_anybody_is_asked() {
    use Outcome::{Address, Fault, NoUrl};
    use UrlFault::{Credentials, Host as BadHost, Malformed, Port, Scheme};
    let cases: &[(Outcome, &[&str])] = &[
        (Address(Special::Loopback), &["https://127.0.0.1/", "https://127.255.255.254:8443/", "HTTPS://127.0.0.1/"]),
        (
            Address(Special::Loopback),
            &["https://127.0.0.1?x", "https://127.0.0.1#x", "https://127.0.0.1/#@example.com"],
        ),
        (Address(Special::Loopback), &["https://[::1]/", "https://[0:0:0:0:0:0:0:1]/", "https://[0000::0001]/"]),
        (Address(Special::Loopback), &["https://[::0.0.0.1]/", "https://[0:0::0:1]:443/"]),
        (
            Address(Special::Unspecified),
            &["https://0.0.0.0/", "https://[::]/", "https://0.1.2.3/", "https://[::0.0.0.0]/"],
        ),
        (Address(Special::Private), &["https://10.0.0.1/", "https://172.31.255.255/", "https://192.168.1.1/"]),
        (Address(Special::LinkLocal), &["https://169.254.169.254/latest/meta-data/", "https://[fe80::1]/"]),
        (Address(Special::CarrierNat), &["https://100.100.100.200/"]),
        (Address(Special::CloudHost), &["https://168.63.129.16/"]),
        (Address(Special::UniqueLocal), &["https://[fd00:ec2::254]/", "https://[FD00::1]/"]),
        (Address(Special::SiteLocal), &["https://[fec0::1]/"]),
        (Address(Special::Multicast), &["https://224.0.0.1/", "https://[ff02::1]/"]),
        (Address(Special::Reserved), &["https://255.255.255.255/", "https://240.0.0.1/"]),
        (
            Address(Special::MappedV4),
            &["https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[::FFFF:169.254.169.254]/"],
        ),
        (Address(Special::MappedV4), &["https://[0:0:0:0:0:ffff:a9fe:a9fe]/", "https://[::ffff:8.8.8.8]/"]),
        (Address(Special::CompatibleV4), &["https://[::127.0.0.1]/", "https://[::7f00:1]/"]),
        (Address(Special::TranslatedV4), &["https://[::ffff:0:127.0.0.1]/"]),
        (
            Address(Special::Nat64),
            &["https://[64:ff9b::127.0.0.1]/", "https://[64:ff9b::a9fe:a9fe]/", "https://[64:ff9b:1::10.0.0.1]/"],
        ),
        (
            Address(Special::SixToFour),
            &["https://[2002:7f00:1::]/", "https://[2002:a9fe:a9fe::1]/", "https://192.88.99.1/"],
        ),
        (Address(Special::Teredo), &["https://[2001:0:7f00:1::]/", "https://[2001::f5ff:fffe]/"]),
        (Address(Special::Isatap), &["https://[2600::5efe:127.0.0.1]/", "https://[2600::200:5efe:a00:1]/"]),
        (Address(Special::Documentation), &["https://192.0.2.1/", "https://[2001:db8::1]/"]),
        (Address(Special::Benchmarking), &["https://198.18.0.1/"]),
        // Decimal, octal, hexadecimal and shortened IPv4, in all mixtures.
        (
            Fault(BadHost),
            &["https://2130706433/", "https://2852039166/", "https://0/", "https://1/", "https://4294967295/"],
        ),
        (Fault(BadHost), &["https://017700000001/", "https://0177.0.0.1/", "https://0177.0.0.01/", "https://00177.1/"]),
        (
            Fault(BadHost),
            &["https://0x7f000001/", "https://0X7F000001/", "https://0x7f.1/", "https://0x7f.0x0.0x0.0x1/"],
        ),
        (Fault(BadHost), &["https://0x7f.0.1/", "https://127.1/", "https://127.0.1/", "https://127.0.0.01/"]),
        (
            Fault(BadHost),
            &[
                "https://0xa9fea9fe/",
                "https://0251.0376.0251.0376/",
                "https://169.254.43518/",
                "https://0xa9.254.0251.0xfe/",
            ],
        ),
        (Fault(BadHost), &["https://127.0.0.1./", "https://127.1./", "https://localhost./", "https://127.0.0.256/"]),
        (
            Fault(BadHost),
            &["https://127.0.0.1.1/", "https://18446744071545487361/", "https://000000127.0.0.1/", "https://127..1/"],
        ),
        (Fault(BadHost), &["https://a,b/"]),
        (
            Fault(BadHost),
            &["https://*/", "https://$x/", "https://(a)/", "https://a;b/", "https://-/", "https://example.1/"],
        ),
        // A port that is none.
        (Fault(Malformed), &["https://example.com:/", "https://example.com:0/", "https://example.com:65536/"]),
        (Fault(Malformed), &["https://example.com:-1/", "https://example.com:44a/", "https://example.com:+443/"]),
        // Hosts that no URL has.
        (
            NoUrl,
            &[
                "https://example.com: 443/",
                "https://127.0.0.1\\@example.com/",
                "https://[::1",
                "https://exa mple.com/",
                "https:///x",
                "https://",
                "https://[::1]x]/",
            ],
        ),
        (
            NoUrl,
            &[
                "https://①②⑦.⓪.⓪.①/",
                "https://127。0。0。1/",
                "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
                "https://loc\u{ad}alhost/",
                "https://a\tb/",
            ],
        ),
        (NoUrl, &["https://%31%32%37.0.0.1/", "https://127%2e0%2e0%2e1/", "https://localhost%00.example.com/"]),
        (NoUrl, &["https://example.com\r\nx: y/", "https://\u{ff11}27.0.0.1/", "https://[::1]:80:80/"]),
        // Who is meant by a URL with two hosts is for nobody to guess.
        (Fault(Credentials), &["https://user@example.com/", "https://user:pass@example.com/", "https://@example.com/"]),
        (
            Fault(Credentials),
            &["https://example.com@127.0.0.1/", "https://127.0.0.1:80@example.com/", "https://:@example.com:443/"],
        ),
        // Other ports, other schemes.
        (
            Fault(Port),
            &[
                "https://example.com:80/",
                "https://example.com:22/",
                "https://example.com:6379/",
                "https://127.0.0.1:8080/",
            ],
        ),
        (Fault(Port), &["https://example.com:444/", "https://example.com:65535/", "https://[::1]:9443/"]),
        (Fault(Scheme), &["http://example.com/", "http://example.com:443/", "http://127.0.0.1/", "http://[::1]:8443/"]),
        (Fault(Malformed), &["ftp://example.com/", "gopher://127.0.0.1/", "wss://example.com/", "unix://example.com/"]),
        (Fault(Malformed), &["/path", "example.com", "example.com:443", "*", "//example.com/"]),
    ];
    let names = names(&[]);
    let fetcher = names.fetcher(Trusted::none());
    let (mut spellings, mut wrong) = (0, Vec::new());
    for (expected, urls) in cases {
        for url in *urls {
            spellings += 1;
            let outcome = match url.parse::<Uri>() {
                Err(_) => NoUrl,
                Ok(uri) => match fetcher.fetch(Fetch::get(uri).limits(quick())).await {
                    Err(FetchError::Url(fault)) => Fault(fault),
                    Err(FetchError::Address { kind, .. }) => Address(kind),
                    other => panic!("{url}: {other:?}"),
                },
            };
            if outcome != *expected {
                wrong.push(format!("{url:?}: {outcome:?} instead of {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(names.times_asked(), 0);
    assert!(spellings > 120, "{spellings}");
}

#[tokio::test]
async fn one_bad_answer_refuses_all() {
    for (answers, bad) in [
        (&["127.0.0.1"][..], "127.0.0.1"),
        (&["10.0.0.1", "8.8.8.8"], "10.0.0.1"),
        (&["8.8.8.8", "2606:4700::1111", "10.0.0.1"], "10.0.0.1"),
        (&["8.8.8.8", "::ffff:8.8.8.8"], "::ffff:8.8.8.8"),
        (&["8.8.8.8", "64:ff9b::8.8.8.8"], "64:ff9b::8.8.8.8"),
        (&["2606:4700::1111", "fe80::1"], "fe80::1"),
        // Trusted answers help no others.
        (&["172.16.0.1", "10.0.0.1"], "10.0.0.1"),
    ] {
        let names = names(&[answers]);
        let fetched = names.fetcher(trusted(&["172.16.0.0/12"])).fetch(get("https://as.example:8443/")).await;
        let Err(error @ FetchError::Address { address, .. }) = fetched else { panic!("{answers:?}: {fetched:?}") };
        assert_eq!(address, bad.parse::<IpAddr>().unwrap());
        let text = error.to_string();
        assert!(text.contains("as.example") && text.contains("`outbound.allow`") && !text.contains(bad), "{text}");
        assert_eq!(names.times_asked(), 1);
    }
}

#[tokio::test]
async fn a_name_is_resolved_once_and_connected_where_that_led() {
    let server = Server::answering_ok("first");
    // A second question would lead to an address that is refused, and a third to nothing.
    let names = names(&[&["127.0.0.1"], &["10.0.0.1"]]);
    let fetcher = names.fetcher(server.trusted());
    let fetched = fetcher.fetch(Fetch::get(server.url("http", "rebind.example"))).await.unwrap();
    assert_eq!((&*fetched.body, names.times_asked()), (&b"first"[..], 1));
    let again = fetcher.fetch(Fetch::get(server.url("http", "rebind.example"))).await;
    assert!(matches!(again, Err(FetchError::Address { kind: Special::Private, .. })), "{again:?}");
    assert_eq!((server.requests().len(), names.times_asked()), (1, 2));
}

#[tokio::test]
async fn a_name_without_an_answer_is_not_resolved() {
    let names = names(&[&[]]);
    let fetcher = names.fetcher(Trusted::none());
    for _ in ["no addresses", "an error"] {
        let fetched = fetcher.fetch(get("https://as.example/")).await;
        assert!(matches!(fetched, Err(FetchError::Unresolved { .. })), "{fetched:?}");
    }
}

#[tokio::test]
async fn the_systems_resolver_is_judged_like_any_other() {
    let fetched = Fetcher::new(Trusted::none()).fetch(get("https://localhost/")).await;
    assert!(matches!(fetched, Err(FetchError::Address { kind: Special::Loopback, .. })), "{fetched:?}");
}

// ---- trust

#[tokio::test]
async fn trusted_targets_may_be_private_plain_and_on_any_port() {
    let server = Server::answering_ok("inside");
    let port = server.port;
    let with_port = format!("as.internal:{port}");
    for entry in ["127.0.0.0/8", "127.0.0.1", "as.internal", &with_port] {
        let names = names(&[&["127.0.0.1"]]);
        let fetched = names.fetcher(trusted(&[entry])).fetch(Fetch::get(server.url("http", "AS.internal"))).await;
        assert_eq!(fetched.unwrap().body, "inside", "{entry}");
    }
    let entry = TrustedEntry::origin(&server.url("http", "as.internal")).unwrap();
    let names = names(&[&["127.0.0.1"], &["127.0.0.1"]]);
    let fetcher = names.fetcher(Trusted::none());
    let own = Fetch::get(server.url("http", "as.internal"));
    assert_eq!(fetcher.fetch(own.clone().trusting(entry)).await.unwrap().body, "inside");
    let fetched = fetcher.fetch(own).await;
    assert!(matches!(fetched, Err(FetchError::Url(UrlFault::Scheme))), "trust for one fetch: {fetched:?}");
    let fetched = fetcher.trusting(trusted(&["127.0.0.1"])).fetch(Fetch::get(server.url("http", "x.internal"))).await;
    assert_eq!(fetched.unwrap().body, "inside", "trust after a reload");
}

#[tokio::test]
async fn trust_reaches_no_further_than_its_entry() {
    let refused_scheme = FetchError::Url(UrlFault::Scheme).to_string();
    for (entry, url, answers) in [
        ("as.internal:9000", "http://as.internal:9001/", &["127.0.0.1"][..]),
        ("as.internal", "http://x.as.internal/", &["127.0.0.1"]),
        ("10.0.0.0/8", "http://as.example/", &["8.8.8.8"]),
        ("10.0.0.0/8", "http://as.example/", &["10.0.0.1", "8.8.8.8"]),
        ("10.0.0.1:80", "http://as.example:81/", &["10.0.0.1"]),
        ("10.0.0.1", "http://8.8.8.8/", &[]),
    ] {
        let error = names(&[answers]).fetcher(trusted(&[entry])).fetch(get(url)).await.unwrap_err();
        assert_eq!(error.to_string(), refused_scheme, "{entry} {url}");
    }
    let fetched = names(&[]).fetcher(trusted(&["as.internal"])).fetch(get("http://u:p@as.internal/")).await;
    assert!(matches!(fetched, Err(FetchError::Url(UrlFault::Credentials))), "{fetched:?}");
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let server = Server::answering_ok("second");
    let names = names(&[&["127.0.0.2", "127.0.0.1"]]);
    let fetched = names.fetcher(trusted(&["127.0.0.0/8"])).fetch(Fetch::get(server.url("http", "as.internal"))).await;
    assert_eq!(fetched.unwrap().body, "second");
}

#[test]
fn families_take_turns_and_few_addresses_are_tried() {
    let addresses = |text: &str| text.split(' ').map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    for (answers, tried) in [
        ("1.0.0.1", "1.0.0.1"),
        ("2600::1 2600::2 2600::3 1.0.0.1 1.0.0.2", "2600::1 1.0.0.1 2600::2 1.0.0.2"),
        ("1.0.0.1 2600::1 2600::2", "1.0.0.1 2600::1 2600::2"),
        ("2600::1 2600::2 2600::3 2600::4 2600::5", "2600::1 2600::2 2600::3 2600::4"),
    ] {
        assert_eq!(in_turns(addresses(answers)), addresses(tried));
    }
}

// ---- certificates

#[tokio::test]
async fn the_certificate_is_checked_against_the_name_and_the_name_is_sent() {
    let server = Server::with_tls(ok("over TLS"));
    let names = names(&[&["127.0.0.1"], &["127.0.0.1"], &["127.0.0.1"]]);
    let fetcher = names.fetcher(trusted(&["127.0.0.1"]));
    let fetched = fetcher.fetch(Fetch::get(server.url("https", "AS.example"))).await.unwrap();
    assert_eq!(fetched.body, "over TLS");
    assert!(server.requests()[0].starts_with("as.exampleGET /path"), "{:?}", server.requests());

    for host in ["other.example", "127.0.0.1"] {
        let fetched = fetcher.fetch(Fetch::get(server.url("https", host))).await;
        let Err(error @ FetchError::Tls(TlsFault::OtherName)) = fetched else { panic!("{fetched:?}") };
        assert!(!chain(&error).contains("as.example"), "{}", chain(&error));
    }

    let strict = Fetcher::build(trusted(&["127.0.0.1"]), Arc::clone(&names.resolve), without_roots());
    let fetched = strict.fetch(Fetch::get(server.url("https", "as.example"))).await;
    assert!(matches!(fetched, Err(FetchError::Tls(TlsFault::UnknownAuthority))), "{fetched:?}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_side_that_speaks_no_tls_or_does_not_listen_is_told_apart() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    std::thread::spawn(move || plain.accept().unwrap().0.write_all(b"HTTP/1.1 400 MARKER\r\n\r\n").unwrap());
    let fetcher = names(&[]).fetcher(trusted(&["127.0.0.1"]));
    let error = fetcher.fetch(get(&format!("https://127.0.0.1:{port}/"))).await.unwrap_err();
    assert!(matches!(error, FetchError::Tls(TlsFault::Handshake)), "{error:?}");
    assert!(!chain(&error).contains("MARKER"));

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = fetcher.fetch(get(&format!("https://127.0.0.1:{closed}/"))).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error:?}");
}

/// For `as.example`, valid until 2120, signed with its own key, which protects nothing.
const CERTIFICATE: &str = "\
    MIIBYDCCAQegAwIBAgIBATAKBggqhkjOPQQDAjAVMRMwEQYDVQQDDAphcy5leGFtcGxlMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAw\
    MTAxMDAwMDAwWjAVMRMwEQYDVQQDDAphcy5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEyg1E9Rr6FG501MAeW4fJ\
    qGAezbTzvx7Pq4zWS/IiB7OQJBQGyMJyfjzIFMP2fFRsjW+aUeMBNdOz18CRJkk7aqNGMEQwDAYDVR0TAQH/BAIwADAVBgNVHREE\
    DjAMggphcy5leGFtcGxlMB0GA1UdDgQWBBQt0J+abYVcml3MJoWoYzLQYpkymDAKBggqhkjOPQQDAgNHADBEAiBWIL8zL93e/D8s\
    Pm3VcYw7P7C+a6VlbN9/65hkGPaJpgIga2/zMNuOtHGzXkiVpQM1xv+mHuIDIaQ6Hhsixx95ql8=";

/// Its key in PKCS #8.
const KEY: &str = "\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2SqNULEQ/QMvuClddsL7zxvFCBSJsn0VRkhNHrTxjNShRANCAATK\
    DUT1GvoUbnTUwB5bh8moYB7NtPO/Hs+rjNZL8iIHs5AkFAbIwnJ+PMgUw/Z8VGyNb5pR4wE107PXwJEmSTtq";
