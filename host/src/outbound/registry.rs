//! Pulling policy modules from OCI registries (OCI distribution specification 1.1, "Pulling manifests" and "Pulling blobs").
//!
//! A reference names its manifest by digest, and the manifest names the module by digest: whatever a registry, its mirror or a
//! redirect answers, only the bytes that the operator meant are taken. Anonymous pulls only: where a registry wants a token
//! for those, it is fetched, and so is a blob that lives elsewhere, through the guarded [`Fetcher`].

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::Instant;

use super::guarded::{Fetch, FetchError, Fetcher, Limits};
use super::pool::{Outbound, OutboundError, read_all};
use super::trust::{Trusted, TrustedEntry};
use crate::secret::Digest;

/// Largest manifest, in bytes.
const MAX_MANIFEST: usize = 1 << 20;
/// Longest pull.
const PULL_TIMEOUT: Duration = Duration::from_secs(120);
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media types of a layer that is a module: as the CNCF's Wasm artifact has it, and as it was written before.
const MODULE_TYPES: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];

/// `oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    authority: String,
    repository: String,
    /// Of the manifest, lower-case hex.
    digest: String,
}

/// Why a text is no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("is not of the form oci://HOST/REPOSITORY@sha256:DIGEST")]
    Form,
    #[error("names a tag; tags move, so give the digest of the manifest: @sha256:…")]
    Tag,
}

impl Reference {
    /// Reads a reference, `oci://` included.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let rest = text.strip_prefix("oci://").ok_or(ReferenceError::Form)?;
        let (name, digest) = rest.split_once('@').ok_or(ReferenceError::Tag)?;
        let digest = digest.strip_prefix("sha256:").ok_or(ReferenceError::Form)?;
        let (authority, repository) = name.split_once('/').ok_or(ReferenceError::Form)?;
        let is_hex = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let in_name = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/');
        let is_name = !repository.is_empty()
            && repository.bytes().all(in_name)
            && repository.split('/').all(|part| !part.is_empty() && part.bytes().any(|byte| byte != b'.'));
        if repository.contains(':') {
            return Err(ReferenceError::Tag);
        }
        if !is_hex || !is_name || authority.contains('@') || authority.parse::<http::uri::Authority>().is_err() {
            return Err(ReferenceError::Form);
        }
        Ok(Self { authority: authority.to_owned(), repository: repository.to_owned(), digest: digest.to_owned() })
    }

    /// Digest of the manifest, lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Plain http only where nothing leaves the machine.
    fn url(&self, kind: &str, digest: &str) -> Result<Uri, PullError> {
        let host = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        let scheme = if matches!(host, "localhost" | "127.0.0.1" | "[::1]") { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{kind}/sha256:{digest}", self.authority, self.repository);
        text.parse().map_err(|_| PullError::Malformed { what: "the reference makes no URL" })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}@sha256:{}", self.authority, self.repository, self.digest)
    }
}

/// Why a module could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("the registry cannot be reached")]
    Unreachable(#[source] OutboundError),
    #[error("the registry sends elsewhere, and that cannot be fetched")]
    Elsewhere(#[source] FetchError),
    #[error("the registry answered {status} for the {what}")]
    Status { what: &'static str, status: StatusCode },
    #[error("the {what} has the SHA-256 {found}, and not {expected}")]
    Digest { what: &'static str, expected: String, found: String },
    #[error("{what}")]
    Malformed { what: &'static str },
}

/// The part of a manifest that matters.
#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// Pulls the module that `reference` means, of at most `limit` bytes.
///
/// # Errors
/// [`PullError`].
pub async fn pull(outbound: &Outbound, reference: &Reference, limit: usize) -> Result<Bytes, PullError> {
    let mut registry = Registry { outbound, deadline: Instant::now() + PULL_TIMEOUT, token: None };
    let url = reference.url("manifests", &reference.digest)?;
    let manifest = registry.get("manifest", &url, MAX_MANIFEST).await?;
    check("manifest", &manifest, &reference.digest)?;
    let manifest: Manifest = serde_json::from_slice(&manifest)
        .map_err(|_| PullError::Malformed { what: "the manifest is none of an OCI image" })?;
    let mut modules = manifest.layers.iter().filter(|layer| MODULE_TYPES.contains(&layer.media_type.as_str()));
    let (Some(layer), None) = (modules.next(), modules.next()) else {
        return Err(PullError::Malformed { what: "the manifest does not have exactly one layer of type application/wasm" });
    };
    if layer.size > limit as u64 {
        return Err(PullError::Malformed { what: "the module is larger than a module may be" });
    }
    let digest = layer.digest.strip_prefix("sha256:");
    let digest = digest.ok_or(PullError::Malformed { what: "the module's digest is no SHA-256" })?;
    let module = registry.get("module", &reference.url("blobs", digest)?, limit).await?;
    check("module", &module, digest)?;
    Ok(module)
}

fn check(what: &'static str, bytes: &[u8], expected: &str) -> Result<(), PullError> {
    let found = Digest::of(bytes).to_hex();
    if found == expected { Ok(()) } else { Err(PullError::Digest { what, expected: expected.to_owned(), found }) }
}

/// One conversation with a registry.
struct Registry<'a> {
    outbound: &'a Outbound,
    deadline: Instant,
    token: Option<HeaderValue>,
}

impl Registry<'_> {
    /// Gets what is at `url`, after fetching a token for that if one is wanted.
    async fn get(&mut self, what: &'static str, url: &Uri, limit: usize) -> Result<Bytes, PullError> {
        let mut answer = self.send(url).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.token.is_none() {
            let challenge = answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            let challenge = challenge.and_then(Challenge::parse);
            let challenge = challenge.ok_or(PullError::Status { what, status: StatusCode::UNAUTHORIZED })?;
            self.token = Some(challenge.fetch_token(url).await?);
            answer = self.send(url).await?;
        }
        if answer.status().is_redirection() {
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()?.parse().ok());
            let location = location.ok_or(PullError::Status { what, status: answer.status() })?;
            let fetched = fetch(Fetch::get(location), url, limit).await?;
            return Ok(fetched);
        }
        if answer.status() != StatusCode::OK {
            return Err(PullError::Status { what, status: answer.status() });
        }
        read_all(answer.into_body(), limit, self.deadline).await.map_err(PullError::Unreachable)
    }

    async fn send(&self, url: &Uri) -> Result<http::Response<hyper::body::Incoming>, PullError> {
        let mut request = Request::get(url).header(ACCEPT, format!("{MANIFEST_TYPE}, application/octet-stream"));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Bytes::new());
        let request = request.map_err(|_| PullError::Malformed { what: "the request cannot be made" })?;
        self.outbound.send(request, self.deadline).await.map_err(PullError::Unreachable)
    }
}

/// Fetches what a registry points at. Its own origin is trusted, every other one is judged.
async fn fetch(fetch: Fetch, registry: &Uri, limit: usize) -> Result<Bytes, PullError> {
    let limits = Limits { total: PULL_TIMEOUT, body: limit, ..Limits::default() };
    let fetch = match TrustedEntry::origin(registry) {
        Some(entry) => fetch.trusting(entry),
        None => fetch,
    };
    let fetched = Fetcher::new(Trusted::none()).fetch(fetch.limits(limits)).await.map_err(PullError::Elsewhere)?;
    match fetched.status {
        StatusCode::OK => Ok(fetched.body),
        status => Err(PullError::Status { what: "what it points at", status }),
    }
}

/// `WWW-Authenticate: Bearer realm="…",service="…",scope="…"`.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let (_, after) = rest.split_once(&format!("{name}=\""))?;
            after.split_once('"').map(|(value, _)| value.to_owned())
        };
        Some(Self { realm: parameter("realm")?, service: parameter("service"), scope: parameter("scope") })
    }

    async fn fetch_token(&self, registry: &Uri) -> Result<HeaderValue, PullError> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(alias = "access_token")]
            token: String,
        }
        let malformed = PullError::Malformed { what: "the registry's token service cannot be used" };
        let encode = |text: &str| -> String {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
            text.bytes()
                .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
                .collect()
        };
        let mut url = self.realm.clone();
        for (name, value) in [("service", &self.service), ("scope", &self.scope)] {
            if let Some(value) = value {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(&format!("{name}={}", encode(value)));
            }
        }
        let Ok(url) = url.parse() else { return Err(malformed) };
        let answer = fetch(Fetch::get(url), registry, MAX_MANIFEST).await?;
        let Ok(Token { token }) = serde_json::from_slice(&answer) else { return Err(malformed) };
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| malformed)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_reference_names_a_manifest_by_its_digest() {
        let text = format!("oci://registry.example:5000/team/policies/no-deletes@sha256:{DIGEST}");
        let reference = Reference::parse(&text).unwrap();
        assert_eq!((reference.to_string(), reference.digest()), (text, DIGEST));
        assert_eq!(
            reference.url("blobs", DIGEST).unwrap(),
            format!("https://registry.example:5000/v2/team/policies/no-deletes/blobs/sha256:{DIGEST}")
        );
        let local = Reference::parse(&format!("oci://127.0.0.1:5000/a@sha256:{DIGEST}")).unwrap();
        assert!(local.url("manifests", DIGEST).unwrap().to_string().starts_with("http://127.0.0.1:5000/v2/a/"));
    }

    #[test]
    fn other_texts_are_no_references() {
        for (text, expected) in [
            ("oci://registry.example/a:latest".to_owned(), ReferenceError::Tag),
            (format!("oci://registry.example/a:1@sha256:{DIGEST}"), ReferenceError::Tag),
            (format!("https://registry.example/a@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example/../a@sha256:{DIGEST}"), ReferenceError::Form),
            (format!("oci://registry.example/A@sha256:{DIGEST}"), ReferenceError::Form),
            ("oci://registry.example/a@sha256:12".to_owned(), ReferenceError::Form),
            (format!("oci://user@registry.example/a@sha256:{DIGEST}"), ReferenceError::Form),
        ] {
            assert_eq!(Reference::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_challenge_says_where_tokens_are() {
        let header = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull""#;
        let challenge = Challenge::parse(header).unwrap();
        assert_eq!(challenge.realm, "https://auth.example/token");
        assert_eq!(challenge.scope.as_deref(), Some("repository:a:pull"));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), None);
    }
}
