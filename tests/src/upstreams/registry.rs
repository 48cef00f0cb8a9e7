//! A small OCI registry (distribution specification 1.1, pulling): manifests, blobs, tokens for anonymous pulls, and blobs
//! that live elsewhere. What it says can be wrong on purpose.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use hyper_util::service::TowerToHyperService;
use portcullis::secret::Digest;
use serde_json::{Value, json};

use super::serve::{self, Serving};

const TOKEN: &str = "a-token-for-pulling";

/// A running registry.
pub struct Registry {
    /// `host:port`.
    pub authority: String,
    shared: Arc<Shared>,
    _serving: Serving,
}

#[derive(Default)]
struct Shared {
    authority: String,
    state: Mutex<Told>,
}

/// What it has, how it behaves, and what it was asked.
#[derive(Default)]
struct Told {
    /// By path.
    content: HashMap<String, Vec<u8>>,
    moved: BTreeMap<String, String>,
    wants_token: bool,
    is_down: bool,
    asked: Vec<Asked>,
}

/// One request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// With the query.
    pub path: String,
    pub has_token: bool,
}

/// A module that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// `oci://HOST/REPOSITORY@sha256:DIGEST`.
    pub reference: String,
    pub manifest_path: String,
    /// Of the module.
    pub blob_path: String,
}

impl Registry {
    /// A registry on a loopback port of its own, as long as this lives.
    pub async fn start() -> Self {
        let listener = serve::listen(0).await.expect("loopback has a free port");
        let authority = listener.local_addr().expect("a bound listener has an address").to_string();
        let shared = Arc::new(Shared { authority: authority.clone(), state: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let serving = Serving::start(listener, TowerToHyperService::new(router));
        Self { authority, shared, _serving: serving }
    }

    /// Takes in a module as the CNCF's Wasm artifacts are, with a signature file if there is one.
    pub fn push(&self, repository: &str, module: &[u8], signatures: Option<&[u8]>) -> Pushed {
        let layer =
            |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": named(bytes), "size": bytes.len() });
        let mut layers = vec![layer("application/wasm", module)];
        if let Some(signatures) = signatures {
            layers.push(layer("application/vnd.portcullis.signatures.v1+json", signatures));
            self.put(&format!("/v2/{repository}/blobs/{}", named(signatures)), signatures);
        }
        let blob_path = format!("/v2/{repository}/blobs/{}", named(module));
        self.put(&blob_path, module);
        self.push_manifest(repository, &json!(layers), blob_path)
    }

    /// Takes in a manifest with these layers.
    pub fn push_layers(&self, repository: &str, layers: &Value) -> Pushed {
        self.push_manifest(repository, layers, String::new())
    }

    fn push_manifest(&self, repository: &str, layers: &Value, blob_path: String) -> Pushed {
        let config = json!({ "mediaType": "application/vnd.wasm.config.v0+json", "digest": named(b"{}"), "size": 2 });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers }).to_string();
        let digest = named(manifest.as_bytes());
        let manifest_path = format!("/v2/{repository}/manifests/{digest}");
        self.put(&manifest_path, manifest.as_bytes());
        Pushed { reference: format!("oci://{}/{repository}@{digest}", self.authority), manifest_path, blob_path }
    }

    /// Has these bytes at a path from now on, whatever belongs there.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.shared.lock().content.insert(path.to_owned(), bytes.to_vec());
    }

    /// Sends whoever asks for `path` to another address.
    pub fn redirect(&self, path: &str, to: &str) {
        self.shared.lock().moved.insert(path.to_owned(), to.to_owned());
    }

    /// From now on pulling needs a token, which anybody gets.
    pub fn want_tokens(&self) {
        self.shared.lock().wants_token = true;
    }

    /// From now on it answers 503.
    pub fn go_down(&self) {
        self.shared.lock().is_down = true;
    }

    /// What it was asked since this was asked last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.lock().asked)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn named(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes).to_hex())
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let has_token = bearer == Some(&format!("Bearer {TOKEN}"));
    let mut told = shared.lock();
    let with_query = request.uri().path_and_query().map_or(path.clone(), ToString::to_string);
    told.asked.push(Asked { path: with_query, has_token });
    let plain = |status| Response::builder().status(status);
    let response = match &path[..] {
        _ if told.is_down => plain(StatusCode::SERVICE_UNAVAILABLE).body(Body::empty()),
        "/token" => plain(StatusCode::OK).body(json!({ "token": TOKEN, "access_token": TOKEN }).to_string().into()),
        _ if told.wants_token && path.starts_with("/v2/") && !has_token => {
            let authority = &shared.authority;
            let challenge =
                format!(r#"Bearer realm="http://{authority}/token",service="{authority}",scope="repository:a:pull""#);
            plain(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, challenge).body(Body::empty())
        }
        _ if told.moved.contains_key(&path) => {
            plain(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, &told.moved[&path]).body(Body::empty())
        }
        _ => match told.content.get(&path) {
            Some(bytes) => {
                plain(StatusCode::OK).header(CONTENT_TYPE, "application/octet-stream").body(bytes.clone().into())
            }
            None => plain(StatusCode::NOT_FOUND).body(Body::empty()),
        },
    };
    response.expect("the response is well-formed")
}
