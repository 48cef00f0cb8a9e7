//! A stand-in for the transit engine of HashiCorp Vault and OpenBao: its three calls, with ciphertexts that only look like
//! some. What the vault does with a real cipher behind them is tried beside its code.

use std::net::SocketAddr;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::serve::{self, Serving};

/// What it lets in.
pub const TOKEN: &str = "hvs.a-token-of-the-stand-in";

/// An engine on a loopback port of its own, which it keeps when it is stopped.
pub struct Transit {
    address: SocketAddr,
    serving: Option<Serving>,
}

impl Transit {
    pub async fn start() -> Self {
        let serving = serving(0).await;
        Self { address: serving.address, serving: Some(serving) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it, connections and all.
    pub fn stop(&mut self) {
        self.serving = None;
    }

    pub async fn start_again(&mut self) {
        self.serving = Some(serving(self.address.port()).await);
    }
}

async fn serving(port: u16) -> Serving {
    let listener = serve::listen(port).await.expect("the port is free");
    let router = Router::new().route("/v1/transit/{operation}/{key}", post(answer));
    Serving::start(listener, TowerToHyperService::new(router))
}

async fn answer(
    Path((operation, _key)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    if headers.get("x-vault-token").is_none_or(|token| token != TOKEN) {
        return Err(StatusCode::FORBIDDEN);
    }
    let text = |name: &str| body[name].as_str().ok_or(StatusCode::BAD_REQUEST);
    let data = match operation.as_str() {
        "encrypt" => json!({ "ciphertext": format!("vault:v1:{}", STANDARD.encode(text("plaintext")?)) }),
        "decrypt" => {
            let plaintext = text("ciphertext")?.strip_prefix("vault:v1:").and_then(|text| STANDARD.decode(text).ok());
            let plaintext = plaintext.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(StatusCode::BAD_REQUEST)?;
            json!({ "plaintext": plaintext })
        }
        "hmac" => json!({ "hmac": format!("vault:v1:{}", STANDARD.encode([7; 32])) }),
        _ => return Err(StatusCode::NOT_FOUND),
    };
    Ok(Json(json!({ "data": data })))
}
