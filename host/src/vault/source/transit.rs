//! A key-encryption key in the transit engine of HashiCorp Vault or OpenBao: the key never leaves it.
//!
//! Three calls: `POST /v1/{mount}/encrypt/{key}`, `…/decrypt/{key}`, and `…/hmac/{key}` over a fixed text, whose answer is the
//! root of that version of the key (so that a root costs one call for each start and version, and no tag costs one).

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{KeySource, PATIENCE, Root, SourceError};
use crate::config;
use crate::outbound::{Outbound, OutboundError, read_all};
use crate::secret::{Plaintext, Sealed, SecretBytes};

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// What roots are made of.
const ROOT_INPUT: &[u8] = b"portcullis vault root 1";
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

/// A key of a transit engine.
pub(in crate::vault) struct Transit {
    outbound: Outbound,
    /// Scheme, authority and path of the server.
    url: String,
    mount: String,
    key: String,
    token: Mutex<HeaderValue>,
    /// Where the token was read, if in a file: tokens are renewed while the gateway runs.
    token_file: Option<PathBuf>,
    namespace: Option<HeaderValue>,
}

impl Transit {
    /// `None` if token or namespace cannot be sent in a header.
    pub(in crate::vault) fn new(
        outbound: Outbound,
        url: &Uri,
        (mount, key): (&str, &str),
        (token, token_file): (&Plaintext, Option<PathBuf>),
        namespace: Option<&str>,
    ) -> Option<Self> {
        let token = Mutex::new(header(token)?);
        let namespace = namespace.map(HeaderValue::from_str).transpose().ok()?;
        let url = url.to_string().trim_end_matches('/').to_owned();
        Some(Self { outbound, url, mount: mount.to_owned(), key: key.to_owned(), token, token_file, namespace })
    }

    /// `data` of the answer.
    async fn ask(&self, operation: &str, body: &Value) -> Result<Value, SourceError> {
        let deadline = Instant::now() + PATIENCE;
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut status, mut answer) = self.send(operation, body, &token, deadline).await?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Some(renewed) = self.renewed(&token).await
        {
            (status, answer) = self.send(operation, body, &renewed, deadline).await?;
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
        // What it says of an error is not passed on: it may hold what was sent.
        let error = format!("the transit engine answered {status} to {operation}");
        match status {
            StatusCode::OK => {}
            // A ciphertext that is none of this key's, a version that is not to be used any more, or a key that was changed
            // there.
            StatusCode::BAD_REQUEST => return Err(SourceError::Refused(error)),
            _ => return Err(SourceError::Unavailable(error)),
        }
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|_| malformed(operation))?;
        Ok(answer["data"].take())
    }

    async fn send(
        &self,
        operation: &str,
        body: &Value,
        token: &HeaderValue,
        deadline: Instant,
    ) -> Result<(StatusCode, Bytes), SourceError> {
        let unavailable = |error: OutboundError| SourceError::Unavailable(error.to_string());
        let url = format!("{}/v1/{}/{operation}/{}", self.url, self.mount, self.key);
        let mut request = Request::post(url).header(CONTENT_TYPE, "application/json").header(TOKEN, token);
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace);
        }
        let request = request.body(Bytes::from(body.to_string()));
        let request = request.map_err(|error| SourceError::Unavailable(error.to_string()))?;
        let answer = self.outbound.send(request, deadline).await.map_err(unavailable)?;
        let status = answer.status();
        let body = read_all(answer.into_body(), MAX_ANSWER, deadline).await.map_err(unavailable)?;
        Ok((status, body))
    }

    /// Another token than this one, if there is one in the file by now.
    async fn renewed(&self, token: &HeaderValue) -> Option<HeaderValue> {
        let file = self.token_file.clone()?;
        let read = tokio::task::spawn_blocking(move || config::read_secret(&file)).await;
        let found = header(&read.ok()??)?;
        (found != *token).then_some(found)
    }
}

fn header(token: &Plaintext) -> Option<HeaderValue> {
    let mut token = HeaderValue::from_str(token.expose()).ok()?;
    token.set_sensitive(true);
    Some(token)
}

fn malformed(operation: &str) -> SourceError {
    SourceError::Unavailable(format!("what answered {operation} is no transit engine"))
}

impl KeySource for Transit {
    fn kind(&self) -> &'static str {
        "transit"
    }

    fn wrap<'a>(&'a self, key: &'a SecretBytes) -> BoxFuture<'a, Result<Sealed, SourceError>> {
        Box::pin(async move {
            let data = self.ask("encrypt", &json!({ "plaintext": STANDARD.encode(key.expose()) })).await?;
            let ciphertext = data["ciphertext"].as_str().ok_or_else(|| malformed("encrypt"))?;
            Ok(Sealed::from_bytes(ciphertext.as_bytes()))
        })
    }

    fn unwrap<'a>(&'a self, wrapped: &'a Sealed) -> BoxFuture<'a, Result<SecretBytes, SourceError>> {
        Box::pin(async move {
            let ciphertext = std::str::from_utf8(wrapped.as_bytes());
            let ciphertext = ciphertext.map_err(|_| SourceError::NotOurs("it is no text".to_owned()))?;
            let mut data = self.ask("decrypt", &json!({ "ciphertext": ciphertext })).await?;
            let Value::String(plaintext) = data["plaintext"].take() else { return Err(malformed("decrypt")) };
            let plaintext = Zeroizing::new(plaintext);
            STANDARD.decode(plaintext.as_bytes()).map(SecretBytes::new).map_err(|_| malformed("decrypt"))
        })
    }

    fn root(&self, version: Option<u32>) -> BoxFuture<'_, Result<Root, SourceError>> {
        Box::pin(async move {
            // To the engine 0 is the newest, which no tag was made with.
            if version == Some(0) {
                return Err(SourceError::NotOurs("versions are counted from 1".to_owned()));
            }
            let mut body = json!({ "input": STANDARD.encode(ROOT_INPUT), "algorithm": "sha2-256" });
            if let Some(version) = version {
                body["key_version"] = version.into();
            }
            let mut data = self.ask("hmac", &body).await?;
            let Value::String(text) = data["hmac"].take() else { return Err(malformed("hmac")) };
            let text = Zeroizing::new(text);
            // vault:v3:BASE64
            let (of, secret) = text.rsplit_once(':').ok_or_else(|| malformed("hmac"))?;
            let found = of.rsplit_once(":v").and_then(|(_, version)| version.parse().ok());
            let found: u32 = found.ok_or_else(|| malformed("hmac"))?;
            if version.is_some_and(|version| version != found) {
                return Err(malformed("hmac"));
            }
            let secret = STANDARD.decode(secret).map_err(|_| malformed("hmac"))?;
            Ok(Root { version: found, secret: SecretBytes::new(secret) })
        })
    }
}
