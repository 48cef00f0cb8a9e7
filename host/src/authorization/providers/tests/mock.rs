//! A provider on loopback that says whatever a test has it say.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, crypto};
use serde_json::{Value, json};

use crate::oauth::signing::Algorithm;
use crate::oauth::signing_key::SigningSecret;
use crate::secret::Digest;

/// A key that a provider may sign with.
pub(crate) struct Key {
    pub(crate) public: Value,
    private: EncodingKey,
}

pub(crate) static RSA: LazyLock<Key> = LazyLock::new(|| Key::generate(Algorithm::Rs256));
pub(crate) static OTHER_RSA: LazyLock<Key> = LazyLock::new(|| Key::generate(Algorithm::Rs256));
pub(crate) static EC: LazyLock<Key> = LazyLock::new(|| Key::generate(Algorithm::Es256));
pub(crate) static ED: LazyLock<Key> = LazyLock::new(|| Key::generate(Algorithm::EdDsa));

impl Key {
    fn generate(algorithm: Algorithm) -> Self {
        let secret = SigningSecret::generate(algorithm).unwrap();
        let der = secret.pkcs8().expose();
        let private = match algorithm {
            Algorithm::Rs256 => {
                let body = STANDARD.encode(der);
                let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
                EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()
            }
            Algorithm::Es256 => EncodingKey::from_ec_der(der),
            Algorithm::EdDsa => EncodingKey::from_ed_der(der),
        };
        let mut public: Value = serde_json::from_str(&secret.public().unwrap().1.to_json()).unwrap();
        // So that one key is good for RS256 and PS256.
        public.as_object_mut().unwrap().remove("alg");
        Self { public, private }
    }

    /// A secret that both sides know.
    pub(crate) fn shared(secret: &[u8]) -> Self {
        let public = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret), "kid": "shared", "use": "sig" });
        Self { public, private: EncodingKey::from_secret(secret) }
    }

    pub(crate) fn id(&self) -> &str {
        self.public["kid"].as_str().unwrap()
    }
}

/// What is said in an ID token, and how it is signed.
pub(crate) struct Said {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    pub(crate) key: &'static Key,
    pub(crate) algorithm: jsonwebtoken::Algorithm,
}

impl Said {
    pub(crate) fn header(&mut self, name: &str, value: impl Into<Value>) {
        self.header[name] = value.into();
    }

    pub(crate) fn claim(&mut self, name: &str, value: impl Into<Value>) {
        self.claims[name] = value.into();
    }

    pub(crate) fn without(&mut self, name: &str) {
        self.claims.as_object_mut().unwrap().remove(name).unwrap();
    }

    /// Signs with this key, and says so.
    pub(crate) fn sign_with(&mut self, key: &'static Key, algorithm: jsonwebtoken::Algorithm) {
        (self.key, self.algorithm) = (key, algorithm);
        self.header("alg", format!("{algorithm:?}"));
        self.header("kid", key.id());
    }

    pub(crate) fn token(&self) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = crypto::sign(message.as_bytes(), &self.key.private, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// The provider.
pub(crate) struct Mock {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    pub(crate) description: Value,
    pub(crate) keys: Vec<Value>,
    /// To a good code.
    pub(crate) tokens: Value,
    /// In place of any answer of the token endpoint.
    pub(crate) refusal: Option<(u16, String)>,
    pub(crate) about: Value,
    /// Of the request that is under way.
    pub(crate) challenge: String,
    redeemed: Vec<String>,
    /// First line, header of authorization and body of each.
    pub(crate) requests: Vec<(String, String, String)>,
}

impl Mock {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = format!("http://127.0.0.1:{port}");
        let description = json!({
            "issuer": address,
            "authorization_endpoint": format!("{address}/authorize"),
            "token_endpoint": format!("{address}/token"),
            "userinfo_endpoint": format!("{address}/me"),
            "jwks_uri": format!("{address}/keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "authorization_response_iss_parameter_supported": true,
        });
        let keys = [&RSA, &EC, &ED].map(|key| key.public.clone()).to_vec();
        let state = Arc::new(Mutex::new(State {
            description,
            keys,
            tokens: Value::Null,
            refusal: None,
            about: json!({ "sub": "ada-1" }),
            challenge: String::new(),
            redeemed: Vec::new(),
            requests: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &shared);
            }
        });
        Self { port, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// How often this path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.with(|state| state.requests.iter().filter(|(line, ..)| line.split(' ').nth(1) == Some(path)).count())
    }
}

/// Reads one request and answers it.
fn answer(mut stream: TcpStream, state: &Mutex<State>) {
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
    let (status, text) = state.lock().unwrap().answer(&line, header(&head, "authorization"), &body);
    let answer = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    let _ = stream.write_all(answer.as_bytes());
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
}

impl State {
    fn answer(&mut self, line: &str, authorization: &str, body: &str) -> (u16, String) {
        self.requests.push((line.to_owned(), authorization.to_owned(), body.to_owned()));
        match line.split(' ').nth(1).unwrap() {
            "/.well-known/openid-configuration" => (200, self.description.to_string()),
            "/keys" => (200, json!({ "keys": self.keys }).to_string()),
            "/token" => self.token(body),
            "/me" if authorization == "Bearer at-1" => (200, self.about.to_string()),
            _ => (404, json!({}).to_string()),
        }
    }

    fn token(&mut self, body: &str) -> (u16, String) {
        if let Some(refusal) = &self.refusal {
            return refusal.clone();
        }
        let form: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let verifier = form.get("code_verifier").map_or("", String::as_str);
        let proves = URL_SAFE_NO_PAD.encode(Digest::of(verifier.as_bytes()).as_bytes()) == self.challenge;
        let code = form.get("code").cloned().unwrap_or_default();
        let is_good = proves && code.starts_with("code-") && !self.redeemed.contains(&code);
        if !is_good || form.get("grant_type").map(String::as_str) != Some("authorization_code") {
            return (400, json!({ "error": "invalid_grant", "error_description": "<b>hunter2</b>" }).to_string());
        }
        self.redeemed.push(code);
        (200, self.tokens.to_string())
    }
}
