//! A proxy that spoils conversations: between the gateway and an upstream it passes bytes on, and now and then does what
//! networks and tired servers do ([`Fault`]).
//!
//! It decides anew for each exchange (one request and its response), also on a connection that is kept open. What
//! happens to the n-th exchange follows from the seed and n alone, so that a run with one caller can be repeated; with many,
//! the order in which their requests arrive decides who is hit. It speaks HTTP/1.1 without pipelining, and knows of it
//! only where messages begin and end.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dice::Dice;
use super::framing::{Framing, head_end, header};

/// Largest head of a message.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Largest request, which is held whole.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// Steps of a dribble, and the bytes of each.
const DRIBBLE_STEPS: u32 = 50;
const DRIBBLE_BYTES: usize = 3;
/// How far into a body something may happen.
const EARLY_BYTES: u64 = 512;
/// Nobody listens for this part of a pause: it hits all callers at once.
const REFUSING_SHARE: u32 = 32;
const BACKLOG: u32 = 1_024;
/// Before the next attempt to accept or to listen where one failed.
const BACKOFF: Duration = Duration::from_millis(20);

/// One way of spoiling an exchange. Waits take at most [`Faults::pause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Resets the connection, and for a while nobody listens.
    Refuse,
    /// Waits before it passes the request on.
    Delay,
    /// Closes the connection within the head of the response.
    CutHeader,
    /// Closes it within the body.
    CutBody,
    /// Resets it: before the upstream has heard of the request, or somewhere in the response.
    Reset,
    /// Pauses somewhere in the response, and goes on then.
    Stall,
    /// Says random bytes: instead of a response, or in place of its body.
    Garbage,
    /// Ends its own half of the connection somewhere in the response and leaves the other open for a while.
    HalfClose,
    /// Announces a chunk of a body, says less and closes the connection.
    TruncatedChunk,
    /// Says the start of the response a few bytes at a time.
    Dribble,
    /// Answers 502 by itself, with a page.
    BadGateway,
    /// Answers 503 by itself, with `Retry-After`.
    Unavailable,
    /// Answers 429 by itself, with `Retry-After`.
    TooManyRequests,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::Refuse,
        Self::Delay,
        Self::CutHeader,
        Self::CutBody,
        Self::Reset,
        Self::Stall,
        Self::Garbage,
        Self::HalfClose,
        Self::TruncatedChunk,
        Self::Dribble,
        Self::BadGateway,
        Self::Unavailable,
        Self::TooManyRequests,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Delay => "delay",
            Self::CutHeader => "cut-header",
            Self::CutBody => "cut-body",
            Self::Reset => "reset",
            Self::Stall => "stall",
            Self::Garbage => "garbage",
            Self::HalfClose => "half-close",
            Self::TruncatedChunk => "truncated-chunk",
            Self::Dribble => "dribble",
            Self::BadGateway => "502",
            Self::Unavailable => "503",
            Self::TooManyRequests => "429",
        }
    }
}

/// Which faults, and how often.
#[derive(Clone, Debug)]
pub struct Faults {
    pub seed: u64,
    /// Share of exchanges that are spoiled, from 0 to 1.
    pub rate: f64,
    /// One of these each time. Of none, nothing is spoiled.
    pub kinds: Vec<Fault>,
    /// Longest wait of a fault.
    pub pause: Duration,
}

impl Faults {
    /// Faults of all kinds.
    #[must_use]
    pub fn all(seed: u64, rate: f64) -> Self {
        Self { seed, rate, kinds: Fault::ALL.to_vec(), pause: Duration::from_millis(500) }
    }

    /// One kind, in every exchange.
    #[must_use]
    pub fn always(kind: Fault) -> Self {
        Self { seed: 0, rate: 1.0, kinds: vec![kind], pause: Duration::from_millis(100) }
    }

    /// What happens to the exchange of this number, and the dice for its details.
    fn plan(&self, exchange: u64) -> (Option<Fault>, Dice) {
        let mut dice = Dice::new(self.seed, exchange);
        let (spoiled, kind) = (dice.chance(self.rate), dice.pick(&self.kinds));
        (kind.copied().filter(|_| spoiled), dice)
    }
}

/// A running fault proxy; it ends, connections and all, when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    faults: Faults,
    calm: AtomicBool,
    exchanges: AtomicU64,
    counts: [AtomicU64; Fault::ALL.len()],
    /// Until when nobody listens.
    refusing: watch::Sender<Instant>,
}

impl FaultProxy {
    /// Starts one on a free loopback port in front of `upstream`.
    ///
    /// # Errors
    /// If no port can be had.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(upstream: SocketAddr, faults: Faults) -> io::Result<Self> {
        // Keeps the port while nobody listens at it.
        let holder = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = holder.local_addr()?;
        let listener = bind(address)?.listen(BACKLOG)?;
        let shared = Arc::new(Shared {
            upstream,
            faults,
            calm: AtomicBool::new(false),
            exchanges: AtomicU64::new(0),
            counts: Default::default(),
            refusing: watch::Sender::new(Instant::now()),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(holder, address, listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _accepting: accepting })
    }

    /// Where an upstream that is served at `/mcp` is reached through it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// From now on, nothing is spoiled any more (or, with `false`, again). What has begun goes on.
    pub fn calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::Relaxed);
    }

    /// How many exchanges there were, spoiled or not.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.shared.exchanges.load(Ordering::Relaxed)
    }

    /// How many exchanges were spoiled in each way that occurred.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Fault, u64> {
        let counts = self.shared.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Fault::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// A socket whose port several may have at a time; only one of them listens.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(_holder: TcpSocket, address: SocketAddr, listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    let mut refusing = shared.refusing.subscribe();
    let mut listening = Some(listener);
    loop {
        let Some(listener) = &listening else {
            let until = *refusing.borrow_and_update();
            sleep_until(until).await;
            match bind(address).and_then(|socket| socket.listen(BACKLOG)) {
                Ok(listener) => listening = Some(listener),
                Err(_) => sleep(BACKOFF).await,
            }
            continue;
        };
        tokio::select! {
            // The sender is in `shared`, which lives.
            _ = refusing.changed() => listening = None,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        // However it ends, both sides see it on their sockets.
                        _ = converse(&shared, stream).await;
                    });
                }
                Err(_) => sleep(BACKOFF).await,
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One end of a conversation and what came from it but is not used yet.
struct Side {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Side {
    fn new(stream: TcpStream) -> Self {
        // Pieces are to arrive as they are sent.
        _ = stream.set_nodelay(true);
        Self { stream, buffer: BytesMut::new() }
    }

    /// Waits for more bytes. At the end, and when nobody took what came for too long, this is an error.
    async fn more(&mut self) -> io::Result<()> {
        if self.buffer.len() > MAX_REQUEST_BYTES || self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The head of the next message.
    async fn head(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(end) = head_end(&self.buffer) {
                return Ok(self.buffer.split_to(end).freeze());
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.more().await?;
        }
    }

    /// A whole request.
    async fn request(&mut self) -> io::Result<Vec<u8>> {
        let head = self.head().await?;
        let mut framing = Framing::of_request(&head);
        let mut request = head.to_vec();
        loop {
            let taken = framing.take(&self.buffer);
            request.extend_from_slice(&self.buffer.split_to(taken));
            if framing.is_done() {
                return Ok(request);
            }
            if request.len() > MAX_REQUEST_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.more().await?;
        }
    }

    /// Closes the connection so that the other end gets a reset.
    fn reset(self) {
        _ = self.stream.set_zero_linger();
    }
}

/// What is done at one place of a response.
struct Twist {
    /// Bytes of the response before it.
    at: u64,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    Nothing,
    Close,
    Reset,
    /// Open for so long.
    HalfClose(Duration),
    Pause(Duration),
    Garble,
    /// Over so long.
    Dribble(Duration),
}

/// Serves one connection to its end.
async fn converse(shared: &Shared, client: TcpStream) -> io::Result<()> {
    let mut client = Side::new(client);
    let mut upstream = None;
    loop {
        let request = client.request().await?;
        let exchange = shared.exchanges.fetch_add(1, Ordering::Relaxed);
        let (planned, mut dice) = shared.faults.plan(exchange);
        let fault = planned.filter(|_| !shared.calm.load(Ordering::Relaxed));
        if let Some(fault) = fault {
            shared.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
        }
        let pause = dice.wait(shared.faults.pause);
        match fault {
            Some(Fault::Refuse) => {
                shared.refusing.send_replace(Instant::now() + pause / REFUSING_SHARE);
                client.reset();
                return Ok(());
            }
            Some(Fault::Reset) if dice.chance(0.5) => {
                client.reset();
                return Ok(());
            }
            Some(Fault::Garbage) if dice.chance(0.5) => {
                let length = 1 + usize::try_from(dice.below(4_096)).unwrap_or_default();
                return client.stream.write_all(&dice.noise(length)).await;
            }
            Some(Fault::TruncatedChunk) => return client.stream.write_all(&truncated_chunk(&mut dice)).await,
            Some(Fault::BadGateway | Fault::Unavailable | Fault::TooManyRequests) => {
                client.stream.write_all(own_answer(fault).as_bytes()).await?;
                continue;
            }
            Some(Fault::Delay) => sleep(pause).await,
            _ => {}
        }
        let (head, mut upstream_side) = ask(shared.upstream, upstream.take(), &request).await?;
        let twist = twist(fault, pause, &head, &mut dice);
        match relay(client, &mut upstream_side, head, twist, &mut dice).await? {
            Some(side) => (client, upstream) = (side, Some(upstream_side)),
            None => return Ok(()),
        }
    }
}

/// What the fault does to a response with this head.
fn twist(fault: Option<Fault>, pause: Duration, head: &Bytes, dice: &mut Dice) -> Twist {
    let head_bytes = head.len() as u64;
    let body_bytes = match Framing::of_response(head) {
        Framing::Length(length) => length.min(EARLY_BYTES),
        // It has at least so many: `0` and two line ends, or the name of a field.
        Framing::Chunks(_) | Framing::UntilClose => 5,
    };
    let anywhere = 1 + dice.below(head_bytes + body_bytes - 1);
    let in_body = head_bytes + dice.below(body_bytes);
    match fault {
        Some(Fault::CutHeader) => Twist { at: 1 + dice.below(head_bytes - 1), how: How::Close },
        // Without a body there is the head to cut.
        Some(Fault::CutBody) => Twist { at: if body_bytes == 0 { anywhere } else { in_body }, how: How::Close },
        Some(Fault::Reset) => Twist { at: anywhere, how: How::Reset },
        Some(Fault::Stall) => Twist { at: anywhere, how: How::Pause(pause) },
        Some(Fault::HalfClose) => Twist { at: anywhere, how: How::HalfClose(pause) },
        Some(Fault::Dribble) => Twist { at: 0, how: How::Dribble(pause) },
        Some(Fault::Garbage) => Twist { at: head_bytes, how: How::Garble },
        _ => Twist { at: 0, how: How::Nothing },
    }
}

/// Sends the request, over the connection that is there already if there is one; the head of the response.
async fn ask(address: SocketAddr, known: Option<Side>, request: &[u8]) -> io::Result<(Bytes, Side)> {
    if let Some(mut side) = known {
        // The upstream may have closed it while it rested.
        if side.stream.write_all(request).await.is_ok()
            && let Ok(head) = side.head().await
        {
            return Ok((head, side));
        }
    }
    let mut side = Side::new(TcpStream::connect(address).await?);
    side.stream.write_all(request).await?;
    Ok((side.head().await?, side))
}

/// Passes a response on; the client, if the connection can go on.
async fn relay(
    mut client: Side,
    upstream: &mut Side,
    head: Bytes,
    twist: Twist,
    dice: &mut Dice,
) -> io::Result<Option<Side>> {
    let mut framing = Framing::of_response(&head);
    let closes = header(&head, "connection").is_some_and(|options| options.contains("close"));
    let (mut piece, mut said, mut twist) = (head, 0_u64, Some(twist));
    loop {
        let reached = twist.take_if(|twist| twist.at < said + piece.len() as u64);
        if let Some(Twist { at, how }) = reached {
            let before = piece.split_to(usize::try_from(at - said).unwrap_or_default());
            client.stream.write_all(&before).await?;
            said = at;
            match how {
                How::Nothing => {}
                How::Close => return Ok(None),
                How::Reset => {
                    client.reset();
                    return Ok(None);
                }
                How::HalfClose(pause) => {
                    client.stream.shutdown().await?;
                    // Whatever is still said there, or its end.
                    _ = timeout(pause, client.more()).await;
                    return Ok(None);
                }
                How::Pause(pause) => sleep(pause).await,
                How::Garble => {
                    piece = dice.noise(piece.len()).into();
                    twist = Some(Twist { at: said + piece.len() as u64, how });
                }
                How::Dribble(pause) => {
                    for _ in 0..DRIBBLE_STEPS {
                        let few = piece.split_to(piece.len().min(DRIBBLE_BYTES));
                        client.stream.write_all(&few).await?;
                        said += few.len() as u64;
                        sleep(pause / DRIBBLE_STEPS).await;
                    }
                }
            }
        }
        client.stream.write_all(&piece).await?;
        said += piece.len() as u64;
        if framing.is_done() {
            return Ok((!closes).then_some(client));
        }
        if upstream.buffer.is_empty() {
            tokio::select! {
                more = upstream.more() => if more.is_err() { return Ok(None) },
                // A client that hangs up hangs up on the upstream too.
                more = client.more() => more?,
            }
        }
        let taken = framing.take(&upstream.buffer);
        piece = upstream.buffer.split_to(taken).freeze();
    }
}

fn truncated_chunk(dice: &mut Dice) -> Vec<u8> {
    let said = usize::try_from(dice.below(100)).unwrap_or_default();
    let announced = said + 1 + usize::try_from(dice.below(1_000)).unwrap_or_default();
    let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"filler\":\"{}\"", "x".repeat(100));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    format!("{head}{announced:x}\r\n{}", &body[..said]).into_bytes()
}

/// A whole response that does not come from the upstream.
fn own_answer(fault: Option<Fault>) -> String {
    let (status, more, kind, body) = match fault {
        Some(Fault::BadGateway) => ("502 Bad Gateway", "", "text/html", "<h1>Bad Gateway</h1>"),
        Some(Fault::Unavailable) => ("503 Service Unavailable", "retry-after: 1\r\n", "text/plain", "try later"),
        _ => ("429 Too Many Requests", "retry-after: 1\r\n", "application/json", r#"{"error":"slow down"}"#),
    };
    format!("HTTP/1.1 {status}\r\n{more}content-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Caller;
    use crate::upstreams::fixture::{Fixture, Replies, Settings};
    use serde_json::json;

    const PATIENCE: Duration = Duration::from_secs(20);
    const LENGTH: usize = 1_000;

    async fn fixture() -> (Fixture, SocketAddr) {
        let fixture = Fixture::with(Settings { replies: Replies::Json, ..Settings::default() }).await.unwrap();
        let address = (Ipv4Addr::LOCALHOST, fixture.port).into();
        (fixture, address)
    }

    /// Calls `blob` on a connection of its own, reads to the end, and tells how that came.
    async fn call(address: SocketAddr) -> (Vec<u8>, io::Result<()>) {
        let caller = Caller::new(address, None);
        let arguments = json!({ "name": "blob", "arguments": { "size": LENGTH } });
        let (headers, body) = caller.modern_request("tools/call", arguments);
        let mut request = format!("POST /mcp HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in &headers {
            request.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        request.push_str(&format!("\r\n{body}"));
        let mut answer = Vec::new();
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await.map(drop)
        };
        let ended = timeout(PATIENCE, exchange).await.expect("every conversation ends");
        (answer, ended)
    }

    fn is_whole(answer: &[u8]) -> bool {
        String::from_utf8_lossy(answer).contains("\"result\"") && answer.ends_with(b"}") && answer.len() > LENGTH
    }

    #[tokio::test]
    async fn nothing_is_spoiled_where_nothing_is_to_be() {
        let (fixture, upstream) = fixture().await;
        let proxy = FaultProxy::start(upstream, Faults::all(1, 0.0)).unwrap();
        let (direct, through) = (Caller::new(upstream, None), Caller::new(proxy.address, None));
        for size in [0, 1, 100, 2_000_000] {
            let arguments = json!({ "size": size });
            let expected = direct.call("blob", arguments.clone()).await;
            assert_eq!(through.call("blob", arguments).await.body, expected.body);
        }
        let session = through.initialize("2025-11-25").await;
        assert_eq!(session.send("DELETE", "/mcp", "").await.status.as_u16(), 204);
        assert_eq!(fixture.sessions(), 0);
        assert_eq!((proxy.counts().len(), proxy.exchanges()), (0, 7));
    }

    #[tokio::test]
    async fn each_fault_is_what_its_name_says() {
        let (_fixture, upstream) = fixture().await;
        let whole = call(upstream).await.0.len();
        let own_answers = [Fault::BadGateway, Fault::Unavailable, Fault::TooManyRequests];
        for fault in Fault::ALL.into_iter().filter(|fault| !own_answers.contains(fault)) {
            // Several, since a fault has several forms.
            for seed in 0..6 {
                let proxy = FaultProxy::start(upstream, Faults { seed, ..Faults::always(fault) }).unwrap();
                let started = Instant::now();
                let (answer, ended) = call(proxy.address).await;
                let (text, waited) = (String::from_utf8_lossy(&answer).to_ascii_lowercase(), started.elapsed());
                let what = format!("{fault:?} {seed} {ended:?} {waited:?} {text:.200}");
                let half = Duration::from_millis(50);
                let fits = match fault {
                    Fault::Refuse => answer.is_empty() && ended.is_err(),
                    Fault::Delay | Fault::Stall | Fault::Dribble => is_whole(&answer) && waited >= half,
                    Fault::CutHeader => ended.is_ok() && head_end(&answer).is_none() && !answer.is_empty(),
                    Fault::CutBody => ended.is_ok() && head_end(&answer).is_some() && answer.len() < whole,
                    Fault::Reset => ended.is_err() && answer.len() < whole,
                    Fault::Garbage => ended.is_ok() && !is_whole(&answer) && !answer.is_empty(),
                    Fault::HalfClose => ended.is_ok() && answer.len() < whole,
                    Fault::TruncatedChunk => text.contains("chunked") && !text.ends_with("0\r\n\r\n"),
                    Fault::BadGateway | Fault::Unavailable | Fault::TooManyRequests => false,
                };
                assert!(fits, "{what}");
                assert_eq!(proxy.counts(), BTreeMap::from([(fault, 1)]));
            }
        }
    }

    #[tokio::test]
    async fn its_own_answers_are_whole_and_the_connection_goes_on() {
        let (fixture, upstream) = fixture().await;
        for (fault, status) in [(Fault::BadGateway, 502), (Fault::Unavailable, 503), (Fault::TooManyRequests, 429)] {
            let proxy = FaultProxy::start(upstream, Faults::always(fault)).unwrap();
            let reply = Caller::new(proxy.address, None).call("blob", json!({ "size": 1 })).await;
            assert_eq!(reply.status.as_u16(), status);
            assert!(!reply.body.is_empty());
        }
        assert_eq!(fixture.stats().calls, 0, "the upstream heard nothing");
    }

    #[tokio::test]
    async fn who_is_refused_finds_nobody_for_a_while() {
        let (_fixture, upstream) = fixture().await;
        let pause = Duration::from_secs(8);
        let proxy = FaultProxy::start(upstream, Faults { pause, ..Faults::always(Fault::Refuse) }).unwrap();
        call(proxy.address).await.1.unwrap_err();
        proxy.calm(true);
        let until = Instant::now() + PATIENCE;
        let mut refused = 0;
        while !is_whole(&call(proxy.address).await.0) {
            refused += usize::from(TcpStream::connect(proxy.address).await.is_err());
            assert!(Instant::now() < until, "it comes back");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(refused > 0, "nobody listened");
    }

    #[tokio::test]
    async fn a_seed_decides_what_happens() {
        let (_fixture, upstream) = fixture().await;
        let quick = |seed| Faults { pause: Duration::from_millis(2), ..Faults::all(seed, 0.5) };
        let mut runs = Vec::new();
        for seed in [7, 7, 8] {
            let proxy = FaultProxy::start(upstream, quick(seed)).unwrap();
            let mut outcomes = Vec::new();
            for exchange in 0..60 {
                let planned = quick(seed).plan(exchange).0;
                // While nobody listens, calls do not come so far; those that answer by themselves keep the connection.
                if matches!(
                    planned,
                    Some(Fault::Refuse | Fault::BadGateway | Fault::Unavailable | Fault::TooManyRequests)
                ) {
                    proxy.shared.exchanges.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let (answer, ended) = call(proxy.address).await;
                outcomes.push((planned, answer.len(), ended.is_ok()));
            }
            runs.push((outcomes, proxy.counts()));
        }
        // A reset may overtake what was said before it.
        for (outcomes, _) in &mut runs {
            outcomes
                .iter_mut()
                .filter(|(fault, ..)| *fault == Some(Fault::Reset))
                .for_each(|(_, length, _)| *length = 0);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }

    #[test]
    fn about_as_many_are_spoiled_as_asked_for_and_each_kind_has_its_turn() {
        let faults = Faults::all(3, 0.25);
        let planned: Vec<Fault> = (0..20_000).filter_map(|exchange| faults.plan(exchange).0).collect();
        assert!((4_500..5_500).contains(&planned.len()), "{}", planned.len());
        for fault in Fault::ALL {
            let share = planned.iter().filter(|planned| **planned == fault).count();
            assert!((250..550).contains(&share), "{fault:?}: {share}");
        }
        assert!(Faults { kinds: Vec::new(), ..Faults::all(3, 1.0) }.plan(0).0.is_none());
    }

    #[tokio::test]
    async fn it_ends_when_it_is_dropped() {
        let (_fixture, upstream) = fixture().await;
        let proxy = FaultProxy::start(upstream, Faults::all(1, 0.0)).unwrap();
        let address = proxy.address;
        let mut open = TcpStream::connect(address).await.unwrap();
        drop(proxy);
        let closed = timeout(PATIENCE, open.read(&mut [0])).await.expect("the connection ends");
        assert!(matches!(closed, Ok(0) | Err(_)));
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_ok() {
            assert!(Instant::now() < until, "nobody listens any more");
            sleep(Duration::from_millis(5)).await;
        }
    }
}
