//! Pulling policy modules from OCI registries (OCI distribution specification 1.1, "Pulling manifests" and "Pulling blobs").
//!
//! A reference names its manifest by digest, and the manifest names the module by digest: whatever a registry, its mirror or a
//! redirect answers, only the bytes that the operator meant are taken. Anonymous pulls only: where a registry wants a token
//! for those, it is fetched, and so is a blob that lives elsewhere, through the guarded [`Fetcher`]. A token goes to the
//! registry alone.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::Instant;

use super::guarded::{Fetch, FetchError, Fetcher, Limits};
use super::pool::{Outbound, OutboundError, read_all};
use super::trust::{Trusted, TrustedEntry};
use crate::oci::{Artifact, Reference, is_sha256};
use crate::secret::Digest;

/// Largest manifest, in bytes, and largest answer of a token service.
pub(super) const MAX_MANIFEST: usize = 1 << 20;
/// Longest pull.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media types of a layer that is a module: as the CNCF's Wasm artifact has it, and as it was written before.
const MODULE_TYPES: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
/// Media type of a layer that is the module's signature file.
const SIGNATURES_TYPE: &str = "application/vnd.portcullis.signatures.v1+json";

/// How large the parts of an artifact may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct MaxSizes {
    pub module: usize,
    pub signatures: usize,
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
    #[error("the {what} has {size} bytes, and may have {max}")]
    TooLarge { what: &'static str, size: u64, max: usize },
    #[error("the manifest has more than one layer that is a {what}")]
    Several { what: &'static str },
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

/// The parts of an artifact, by a manifest that has the digest it should.
pub(super) struct Plan {
    pub(super) module: Part,
    pub(super) signatures: Option<Part>,
}

/// One layer that is wanted.
pub(super) struct Part {
    pub(super) what: &'static str,
    /// Lower-case hex SHA-256.
    digest: String,
    pub(super) max: usize,
}

impl Plan {
    pub(super) fn read(reference: &Reference, manifest: &[u8], max: MaxSizes) -> Result<Self, PullError> {
        check("manifest", manifest, reference.digest())?;
        let manifest: Manifest = serde_json::from_slice(manifest)
            .map_err(|_| PullError::Malformed { what: "the manifest is none of an OCI image" })?;
        let part = |what, types: &[&str], max| {
            let mut layers = manifest.layers.iter().filter(|layer| types.contains(&layer.media_type.as_str()));
            let first = layers.next().map(|layer| Part::of(what, layer, max)).transpose()?;
            if layers.next().is_some() { Err(PullError::Several { what }) } else { Ok(first) }
        };
        let module = part("module", &MODULE_TYPES, max.module)?;
        let module =
            module.ok_or(PullError::Malformed { what: "the manifest has no layer of type application/wasm" })?;
        Ok(Self { module, signatures: part("signature file", &[SIGNATURES_TYPE], max.signatures)? })
    }
}

impl Part {
    fn of(what: &'static str, layer: &Descriptor, max: usize) -> Result<Self, PullError> {
        let digest = layer.digest.strip_prefix("sha256:").filter(|digest| is_sha256(digest));
        let digest = digest.ok_or(PullError::Malformed { what: "a layer's digest is no SHA-256" })?.to_owned();
        if layer.size > max as u64 {
            return Err(PullError::TooLarge { what, size: layer.size, max });
        }
        Ok(Self { what, digest, max })
    }

    /// Whether these bytes are it.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), PullError> {
        check(self.what, bytes, &self.digest)
    }
}

/// An artifact as it was pulled, with the manifest that vouches for it.
pub(super) struct Delivery {
    pub(super) manifest: Bytes,
    pub(super) artifact: Artifact,
}

/// Pulls what `reference` means.
pub(super) async fn pull(outbound: &Outbound, reference: &Reference, max: MaxSizes) -> Result<Delivery, PullError> {
    let mut registry = Registry { outbound, deadline: Instant::now() + PULL_TIMEOUT, token: None };
    let manifest = registry.get("manifest", &url(reference, "manifests", reference.digest())?, MAX_MANIFEST).await?;
    let plan = Plan::read(reference, &manifest, max)?;
    let module = registry.part(reference, &plan.module).await?;
    let signatures = match &plan.signatures {
        Some(part) => Some(registry.part(reference, part).await?),
        None => None,
    };
    Ok(Delivery { manifest, artifact: Artifact { module, signatures } })
}

/// Plain http only where nothing leaves the machine.
fn url(reference: &Reference, kind: &str, digest: &str) -> Result<Uri, PullError> {
    let (authority, repository) = (reference.authority(), reference.repository());
    let malformed = || PullError::Malformed { what: "the reference makes no URL" };
    let parsed: http::uri::Authority = authority.parse().map_err(|_| malformed())?;
    let scheme = if matches!(parsed.host(), "localhost" | "127.0.0.1" | "[::1]") { "http" } else { "https" };
    format!("{scheme}://{authority}/v2/{repository}/{kind}/sha256:{digest}").parse().map_err(|_| malformed())
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
    async fn part(&mut self, reference: &Reference, part: &Part) -> Result<Bytes, PullError> {
        let bytes = self.get(part.what, &url(reference, "blobs", &part.digest)?, part.max).await?;
        part.check(&bytes)?;
        Ok(bytes)
    }

    /// Gets what is at `url`, after fetching a token for that if one is wanted.
    async fn get(&mut self, what: &'static str, url: &Uri, limit: usize) -> Result<Bytes, PullError> {
        let mut answer = self.send(url).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.token.is_none() {
            let challenge = answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            let challenge = challenge.and_then(Challenge::parse);
            let challenge = challenge.ok_or(PullError::Status { what, status: StatusCode::UNAUTHORIZED })?;
            self.token = Some(challenge.fetch_token(url, self.deadline).await?);
            answer = self.send(url).await?;
        }
        if answer.status().is_redirection() {
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()?.parse().ok());
            let location = location.ok_or(PullError::Status { what, status: answer.status() })?;
            return fetch(Fetch::get(location), url, limit, self.deadline).await;
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
async fn fetch(fetch: Fetch, registry: &Uri, limit: usize, deadline: Instant) -> Result<Bytes, PullError> {
    let limits = Limits { total: deadline.saturating_duration_since(Instant::now()), body: limit, ..Limits::default() };
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

    async fn fetch_token(&self, registry: &Uri, deadline: Instant) -> Result<HeaderValue, PullError> {
        /// Some services send both, with the same content.
        #[derive(Deserialize)]
        struct Tokens {
            token: Option<String>,
            access_token: Option<String>,
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
        let answer = fetch(Fetch::get(url), registry, MAX_MANIFEST, deadline).await?;
        let Ok(Tokens { token, access_token }) = serde_json::from_slice(&answer) else { return Err(malformed) };
        let Some(token) = token.or(access_token) else { return Err(malformed) };
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
    fn only_this_machine_is_spoken_to_without_tls() {
        for (authority, scheme) in [
            ("127.0.0.1:5000", "http"),
            ("localhost", "http"),
            ("[::1]", "http"),
            ("[::1]:5000", "http"),
            ("registry.example:5000", "https"),
            ("10.0.0.1", "https"),
            ("localhost.example", "https"),
        ] {
            let reference = Reference::parse(&format!("oci://{authority}/a/b@sha256:{DIGEST}")).unwrap();
            let expected = format!("{scheme}://{authority}/v2/a/b/blobs/sha256:{DIGEST}");
            assert_eq!(url(&reference, "blobs", DIGEST).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_challenge_says_where_tokens_are() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull""#;
        let challenge = Challenge::parse(header).unwrap();
        assert_eq!(challenge.realm, "https://auth.example/token");
        assert_eq!(challenge.scope.as_deref(), Some("repository:a:pull"));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), None);
    }

    #[test]
    fn a_manifest_names_one_module_and_at_most_one_signature_file() {
        let plan = |layers: serde_json::Value| {
            let manifest = serde_json::json!({ "schemaVersion": 2, "layers": layers }).to_string();
            let digest = Digest::of(manifest.as_bytes()).to_hex();
            let reference = Reference::parse(&format!("oci://localhost/a@sha256:{digest}")).unwrap();
            let plan = Plan::read(&reference, manifest.as_bytes(), MaxSizes { module: 10, signatures: 5 });
            plan.map(|plan| plan.signatures.is_some()).map_err(|error| error.to_string())
        };
        let layer = |kind: &str, size: u64| {
            let digest = format!("sha256:{DIGEST}");
            serde_json::json!({ "mediaType": kind, "digest": digest, "size": size })
        };
        let (wasm, signatures) = (layer("application/wasm", 10), layer(SIGNATURES_TYPE, 5));
        assert_eq!(plan(serde_json::json!([wasm])), Ok(false));
        assert_eq!(plan(serde_json::json!([layer("text/plain", 99), signatures, wasm])), Ok(true));
        let traversing = serde_json::json!({ "mediaType": "application/wasm", "digest": "sha256:../../x", "size": 1 });
        for (layers, expected) in [
            (serde_json::json!([]), "no layer of type application/wasm"),
            (serde_json::json!([signatures]), "no layer of type application/wasm"),
            (serde_json::json!([wasm, wasm]), "more than one layer that is a module"),
            (serde_json::json!([wasm, signatures, signatures]), "more than one layer that is a signature file"),
            (serde_json::json!([layer("application/wasm", 11)]), "the module has 11 bytes, and may have 10"),
            (serde_json::json!([wasm, layer(SIGNATURES_TYPE, 6)]), "the signature file has 6 bytes, and may have 5"),
            (serde_json::json!([traversing]), "a layer's digest is no SHA-256"),
            (serde_json::json!({}), "none of an OCI image"),
        ] {
            let error = plan(layers.clone()).unwrap_err();
            assert!(error.contains(expected), "{layers}: {error}");
        }
        let other = Reference::parse(&format!("oci://localhost/a@sha256:{DIGEST}")).unwrap();
        let error = Plan::read(&other, b"{}", MaxSizes { module: 1, signatures: 1 }).map(drop).unwrap_err();
        assert!(matches!(error, PullError::Digest { what: "manifest", .. }), "{error}");
    }
}
