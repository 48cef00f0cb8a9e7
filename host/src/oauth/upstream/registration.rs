//! How an authorization server comes to know us: a registration (RFC 7591), or a document of our own that it reads (Client ID
//! Metadata Documents).
//!
//! Either is of one context: one redirect URI, so that no client of ours brings an answer to another's
//! (`docs/threat-model.md` row U3).

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Authentication, Client, MAX_ID, MAX_SECRET, Method, is_credential};
use super::{Metadata, Unfit};
use crate::env::Timestamp;
use crate::secret::Plaintext;

/// What people read of us at their authorization server.
const NAME: &str = "Portcullis";

/// What a server made of our registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub client: Client,
    /// When the secret ends, if it does.
    pub expires: Option<Timestamp>,
}

/// The registration to send (RFC 7591 §2).
///
/// # Errors
/// [`Unfit`], if the server takes no way to authenticate that we have.
pub fn request(metadata: &Metadata, redirect: &str, home: &str) -> Result<(Value, Method), Unfit> {
    let method = metadata.methods.best().ok_or(Unfit::NoMethod)?;
    let grant_types =
        if metadata.refreshes { &["authorization_code", "refresh_token"][..] } else { &["authorization_code"] };
    let mut request = common(redirect, home, method);
    request["grant_types"] = json!(grant_types);
    // MCP authorization § dynamic client registration, for servers of OpenID.
    request["application_type"] = json!("web");
    Ok((request, method))
}

/// The document about ourselves at this address.
pub fn document(address: &str, redirect: &str, home: &str) -> Value {
    let mut document = common(redirect, home, Method::None);
    document["client_id"] = json!(address);
    document["grant_types"] = json!(["authorization_code", "refresh_token"]);
    document
}

fn common(redirect: &str, home: &str, method: Method) -> Value {
    json!({
        "client_name": NAME,
        "client_uri": home,
        "redirect_uris": [redirect],
        "response_types": ["code"],
        "token_endpoint_auth_method": method.as_str(),
    })
}

#[derive(Deserialize)]
struct Written {
    client_id: String,
    client_secret: Option<String>,
    client_secret_expires_at: Option<u64>,
    token_endpoint_auth_method: Option<String>,
    redirect_uris: Option<Vec<String>>,
}

/// Reads what was registered, which may be something else than what was asked for (RFC 7591 §3.2.1).
///
/// # Errors
/// [`Unfit::Registered`], if it is of no use.
pub fn read(body: &[u8], asked: Method, redirect: &str) -> Result<Registered, Unfit> {
    let written: Written = serde_json::from_slice(body).map_err(|_| Unfit::Registered)?;
    let Written { client_id, client_secret, client_secret_expires_at, token_endpoint_auth_method, redirect_uris } =
        written;
    let secret = client_secret.filter(|secret| !secret.is_empty()).map(Plaintext::new);
    let is_ours = redirect_uris.is_none_or(|uris| uris.iter().any(|uri| uri == redirect));
    let is_fine = secret.as_ref().is_none_or(|secret| is_credential(secret.expose(), MAX_SECRET));
    if !is_ours || !is_fine || !is_credential(&client_id, MAX_ID) {
        return Err(Unfit::Registered);
    }
    let method = match token_endpoint_auth_method.as_deref() {
        Some(method) => Method::parse(method).ok_or(Unfit::Registered)?,
        None => asked,
    };
    let authentication = Authentication::with(method, secret).ok_or(Unfit::Registered)?;
    // Zero: never (§3.2.1).
    let expires = client_secret_expires_at.filter(|at| *at > 0 && authentication != Authentication::None);
    let expires = expires.map(|at| Timestamp::from_millis(at.saturating_mul(1_000)));
    Ok(Registered { client: Client { id: client_id, authentication }, expires })
}

#[cfg(test)]
mod tests {
    use super::super::address::{Address, Vouched};
    use super::super::client::Methods;
    use super::*;

    const REDIRECT: &str = "https://gateway.example/connect/callback/x";
    const HOME: &str = "https://gateway.example";

    fn metadata(methods: &[&str], refreshes: bool) -> Metadata {
        let upstream = Address::parse("https://mcp.example/mcp").unwrap();
        let listed: Vec<String> = methods.iter().map(|method| (*method).to_owned()).collect();
        let assumed = Metadata::assumed(&upstream, &Vouched::default()).unwrap();
        Metadata { methods: Methods::of(Some(&listed)), refreshes, ..assumed }
    }

    #[test]
    fn a_registration_asks_for_what_the_server_has() {
        let (request, method) = request(&metadata(&["none", "client_secret_post"], true), REDIRECT, HOME).unwrap();
        assert_eq!(method, Method::Post);
        assert_eq!(
            request,
            json!({
                "client_name": "Portcullis", "client_uri": HOME, "redirect_uris": [REDIRECT], "response_types": ["code"],
                "token_endpoint_auth_method": "client_secret_post", "application_type": "web",
                "grant_types": ["authorization_code", "refresh_token"],
            })
        );
        let (request, _) = super::request(&metadata(&["none"], false), REDIRECT, HOME).unwrap();
        assert_eq!(request["grant_types"], json!(["authorization_code"]));
        let none = super::request(&metadata(&["tls_client_auth"], true), REDIRECT, HOME);
        assert_eq!(none, Err(Unfit::NoMethod));
    }

    #[test]
    fn our_document_says_its_own_address() {
        let document = document("https://gateway.example/connect/client/x", REDIRECT, HOME);
        assert_eq!(document["client_id"], "https://gateway.example/connect/client/x");
        assert_eq!(document["redirect_uris"], json!([REDIRECT]));
        assert_eq!(document["token_endpoint_auth_method"], "none");
    }

    #[test]
    fn a_server_may_register_something_else_if_it_can_be_used() {
        let read = |body: Value| read(body.to_string().as_bytes(), Method::Basic, REDIRECT);
        let secret = || Plaintext::new("s");
        for (body, authentication, expires) in [
            (json!({ "client_id": "c", "client_secret": "s" }), Authentication::Basic(secret()), None),
            (
                json!({ "client_id": "c", "client_secret": "s", "token_endpoint_auth_method": "client_secret_post",
                    "client_secret_expires_at": 0, "redirect_uris": ["https://x", REDIRECT] }),
                Authentication::Post(secret()),
                None,
            ),
            (
                json!({ "client_id": "c", "client_secret": "s", "client_secret_expires_at": 1_800_000_000 }),
                Authentication::Basic(secret()),
                Some(Timestamp::from_millis(1_800_000_000_000)),
            ),
            (
                json!({ "client_id": "c", "client_secret": "", "token_endpoint_auth_method": "none", "client_secret_expires_at": 7 }),
                Authentication::None,
                None,
            ),
        ] {
            let client = Client { id: "c".to_owned(), authentication };
            assert_eq!(read(body.clone()), Ok(Registered { client, expires }), "{body}");
        }
        for body in [
            json!({}),
            json!({ "client_id": "" }),
            json!({ "client_id": "c" }),
            json!({ "client_id": "c\n", "client_secret": "s" }),
            json!({ "client_id": "c", "client_secret": "s\r\n" }),
            json!({ "client_id": "c", "client_secret": "x".repeat(MAX_SECRET + 1) }),
            json!({ "client_id": "x".repeat(MAX_ID + 1), "client_secret": "s" }),
            json!({ "client_id": "c", "client_secret": "s", "token_endpoint_auth_method": "private_key_jwt" }),
            json!({ "client_id": "c", "client_secret": "s", "redirect_uris": ["https://evil.example"] }),
        ] {
            assert_eq!(read(body.clone()), Err(Unfit::Registered), "{body}");
        }
    }
}
