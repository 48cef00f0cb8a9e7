//! An MCP server and an authorization server on loopback, which say whatever a test has them say.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::secret::Digest;

/// Both roles, at one address.
pub(super) struct Mock {
    pub(super) port: u16,
    state: Arc<Mutex<State>>,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) authorization: String,
    pub(super) session: String,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn form(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }
}

pub(super) struct State {
    /// What is answered at a path in place of what an honest server would: status, lines of the head, body.
    pub(super) said: BTreeMap<String, (u16, String, String)>,
    /// Whoever begins to speak MCP is let in, and asked for a token later.
    pub(super) lets_begin: bool,
    /// What it says to whoever lists without a token then, if that decides nothing: a status.
    pub(super) stumbles: Option<u16>,
    /// Paths at which nothing is ever answered.
    pub(super) silent: Vec<String>,
    /// The document about the resource, and the server's own.
    pub(super) resource: Value,
    pub(super) server: Value,
    /// Registered clients and their secrets.
    pub(super) clients: BTreeMap<String, String>,
    /// Of the way that a person was sent.
    pub(super) challenge: String,
    /// Tokens given so far.
    pub(super) given: usize,
    pub(super) requests: Vec<Asked>,
}

impl Mock {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let state = State {
            said: BTreeMap::new(),
            lets_begin: false,
            stumbles: None,
            silent: Vec::new(),
            resource: json!({
                "resource": at("/mcp"), "authorization_servers": [at("")], "scopes_supported": ["notes:read"],
            }),
            server: json!({
                "issuer": at(""),
                "authorization_endpoint": at("/authorize?tenant=1"),
                "token_endpoint": at("/token"),
                "registration_endpoint": at("/register"),
                "revocation_endpoint": at("/revoke"),
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": ["notes:read", "offline_access"],
                "authorization_response_iss_parameter_supported": true,
            }),
            clients: BTreeMap::new(),
            challenge: String::new(),
            given: 0,
            requests: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &shared, port));
            }
        });
        Self { port, state }
    }

    pub(super) fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Answers like this at a path from now on.
    pub(super) fn say(&self, path: &str, status: u16, body: &str) {
        self.say_with(path, status, "", body);
    }

    /// The same with lines in the head, each with its end.
    pub(super) fn say_with(&self, path: &str, status: u16, head: &str, body: &str) {
        self.with(|state| state.said.insert(path.to_owned(), (status, head.to_owned(), body.to_owned())));
    }

    /// Is honest again.
    pub(super) fn reset(&self) {
        self.with(|state| {
            state.said.clear();
            state.silent.clear();
        });
    }

    /// The requests for a path.
    pub(super) fn asked(&self, path: &str) -> Vec<Asked> {
        let is_for = |asked: &&Asked| asked.line.split(' ').nth(1) == Some(path);
        self.with(|state| state.requests.iter().filter(is_for).cloned().collect())
    }
}

/// Reads one request and answers it.
fn answer(mut stream: TcpStream, state: &Mutex<State>, port: u16) {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").parse().unwrap_or(0);
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
        match stream.read(&mut piece) {
            Ok(read @ 1..) => bytes.extend_from_slice(&piece[..read]),
            _ => return,
        }
    };
    let line = head.lines().next().unwrap().to_owned();
    let of = |name| header(&head, name).to_owned();
    let asked = Asked { line, authorization: of("authorization"), session: of("mcp-session-id"), body };
    let Some((status, lines, text)) = state.lock().unwrap().answer(&asked, port) else {
        // Until the other side gives up.
        while matches!(stream.read(&mut piece), Ok(1..)) {}
        return;
    };
    let answer = format!("HTTP/1.1 {status} Said\r\n{lines}content-length: {}\r\n\r\n{text}", text.len());
    let _ = stream.write_all(answer.as_bytes());
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
}

impl State {
    fn answer(&mut self, asked: &Asked, port: u16) -> Option<(u16, String, String)> {
        self.requests.push(asked.clone());
        let path = asked.line.split(' ').nth(1).unwrap().to_owned();
        if self.silent.contains(&path) {
            return None;
        }
        if let Some(said) = self.said.get(&path) {
            return Some(said.clone());
        }
        let (status, body) = match path.as_str() {
            "/mcp" if self.lets_begin && !asked.body.contains("tools/list") => {
                return Some((200, "mcp-session-id: s-1\r\n".to_owned(), "{}".to_owned()));
            }
            "/mcp" if self.stumbles.is_some() => (self.stumbles.unwrap_or_default(), json!({})),
            "/mcp" => {
                let place = format!("http://127.0.0.1:{port}/.well-known/oauth-protected-resource/mcp");
                let line = format!("www-authenticate: Bearer resource_metadata=\"{place}\", scope=\"notes:write\"\r\n");
                return Some((401, line, String::new()));
            }
            "/.well-known/oauth-protected-resource/mcp" => (200, self.resource.clone()),
            "/.well-known/oauth-authorization-server" => (200, self.server.clone()),
            "/register" => self.register(),
            "/token" => self.token(asked),
            "/revoke" if self.knows(asked) => (200, json!({})),
            "/revoke" => (401, json!({ "error": "invalid_client" })),
            _ => (404, json!({})),
        };
        Some((status, "content-type: application/json\r\n".to_owned(), body.to_string()))
    }

    fn register(&mut self) -> (u16, Value) {
        let number = self.clients.len() + 1;
        // Not of those that were forgotten.
        let (id, secret) = (format!("c{number}-{}", self.requests.len()), format!("hunter-{number}"));
        self.clients.insert(id.clone(), secret.clone());
        (201, json!({ "client_id": id, "client_secret": secret, "client_secret_expires_at": 0 }))
    }

    fn knows(&self, asked: &Asked) -> bool {
        let known = |(id, secret): (&String, &String)| {
            asked.authorization == format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
        };
        self.clients.iter().any(known)
    }

    fn token(&mut self, asked: &Asked) -> (u16, Value) {
        if !self.knows(asked) {
            return (401, json!({ "error": "invalid_client", "error_description": "<b>hunter2</b>" }));
        }
        let form = asked.form();
        let of = |name: &str| form.get(name).map_or("", String::as_str);
        let proof = URL_SAFE_NO_PAD.encode(Digest::of(of("code_verifier").as_bytes()).as_bytes());
        let is_good = match of("grant_type") {
            "authorization_code" => of("code") == "code" && proof == self.challenge,
            "refresh_token" => of("refresh_token") == format!("rt-{}", self.given),
            _ => false,
        };
        if !is_good {
            return (400, json!({ "error": "invalid_grant" }));
        }
        self.given += 1;
        let (access, refresh) = (format!("at-{}", self.given), format!("rt-{}", self.given));
        let tokens = json!({
            "access_token": access, "token_type": "bearer", "refresh_token": refresh, "expires_in": 3600, "scope": "notes:write",
        });
        (200, tokens)
    }
}
