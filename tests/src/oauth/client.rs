//! An OAuth client as MCP wants one: it learns everything from a 401, registers itself, and uses PKCE.

#![expect(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::net::SocketAddr;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::connection::{Connection, send};
use super::{encoded, parameter};
use crate::caller::{Caller, Reply};

/// Where clients of tests are told to send the browser.
pub const CALLBACK: &str = "http://127.0.0.1:7777/callback";

/// What a client learned from the gateway's documents.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// Of the resource (RFC 9728).
    pub resource: Value,
    /// Of the authorization server (RFC 8414).
    pub server: Value,
    /// The scopes that the challenge named.
    pub scope: String,
}

impl Discovered {
    fn endpoint(&self, name: &str) -> &str {
        self.server[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.server))
    }
}

/// A parameter of a challenge (RFC 9110 § 11.2).
pub fn challenge(header: &str, name: &str) -> Option<String> {
    let (_, after) = header.split_once(&format!("{name}=\""))?;
    Some(after.split_once('"')?.0.to_owned())
}

/// Learns what a client needs from the answer to a request without credentials.
pub async fn discover(address: SocketAddr, endpoint: &str) -> Discovered {
    let answer = Caller::new(address, None).at(endpoint).modern("tools/list", json!({})).await;
    let header = answer.header("www-authenticate");
    let metadata = match answer.status.as_u16() {
        401 => challenge(header, "resource_metadata").unwrap_or_else(|| panic!("no metadata in {header}")),
        // Where nobody has to sign in, a client that wants to knows the place (RFC 9728 § 3).
        200 => format!("http://{address}/.well-known/oauth-protected-resource{endpoint}"),
        other => panic!("{other}: {}", answer.text()),
    };
    let resource = document(address, &metadata).await;
    let issuer = resource["authorization_servers"][0].as_str().unwrap().to_owned();
    let server = document(address, &format!("{issuer}/.well-known/oauth-authorization-server")).await;
    assert_eq!(server["issuer"], issuer, "clients refuse metadata of another issuer");
    Discovered { resource, server, scope: challenge(header, "scope").unwrap_or_default() }
}

/// A JSON document at an absolute address of the gateway.
pub async fn document(address: SocketAddr, url: &str) -> Value {
    let reply = send(address, "GET", &path_of(address, url), &[("accept", "application/json")], "").await;
    assert_eq!(reply.status, 200, "{url}: {}", reply.text());
    reply.json()
}

fn path_of(address: SocketAddr, url: &str) -> String {
    let path = url.strip_prefix(&format!("http://{address}"));
    path.unwrap_or_else(|| panic!("{url} is not at {address}")).to_owned()
}

/// Tokens as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub scope: String,
    pub expires_in: u64,
}

impl Tokens {
    /// # Panics
    /// If the answer holds none.
    pub fn of(reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        assert!(body["token_type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")), "{body}");
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let tokens = Self {
            access: text("access_token"),
            refresh: text("refresh_token"),
            scope: text("scope"),
            expires_in: body["expires_in"].as_u64().unwrap_or_default(),
        };
        assert!(!tokens.access.is_empty() && tokens.expires_in > 0, "{body}");
        tokens
    }
}

/// What an access token says of itself, unverified.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

/// The header of a signed token.
pub fn header(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, which: usize) -> Value {
    let text = token.split('.').nth(which).unwrap_or_else(|| panic!("{token} has too few parts"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

/// A code verifier and its challenge (RFC 7636).
#[derive(Clone, Debug)]
pub struct Proof {
    pub verifier: String,
    pub challenge: String,
}

impl Proof {
    pub fn new() -> Self {
        Self::of(random())
    }

    pub fn of(verifier: String) -> Self {
        let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
        Self { verifier, challenge }
    }
}

impl Default for Proof {
    fn default() -> Self {
        Self::new()
    }
}

/// 256 random bits for an address.
pub fn random() -> String {
    URL_SAFE_NO_PAD.encode(portcullis::Env::system().random::<32>())
}

/// A registered client.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: SocketAddr,
    pub found: Discovered,
    pub id: String,
    pub secret: Option<String>,
    pub redirect: String,
    /// What registration answered.
    pub registration: Value,
}

/// Begins with this, an authorization request that is under way.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Where the browser is sent.
    pub url: String,
    pub state: String,
    pub proof: Proof,
    pub resource: String,
}

impl Client {
    /// Registers a public client for this endpoint.
    pub async fn register(address: SocketAddr, endpoint: &str) -> Self {
        Self::register_as(address, endpoint, json!({ "client_name": "Tests", "redirect_uris": [CALLBACK] })).await
    }

    /// Registers with what the metadata says; without an authentication method it is a public client.
    pub async fn register_as(address: SocketAddr, endpoint: &str, mut metadata: Value) -> Self {
        let found = discover(address, endpoint).await;
        if metadata["token_endpoint_auth_method"].is_null() {
            metadata["token_endpoint_auth_method"] = json!("none");
        }
        let reply = post_json(address, found.endpoint("registration_endpoint"), &metadata).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let registration = reply.json();
        Self {
            address,
            found,
            id: registration["client_id"].as_str().unwrap().to_owned(),
            secret: registration["client_secret"].as_str().map(ToOwned::to_owned),
            redirect: metadata["redirect_uris"][0].as_str().unwrap_or_default().to_owned(),
            registration,
        }
    }

    /// A client that is known otherwise than by registration.
    pub async fn known(address: SocketAddr, endpoint: &str, id: &str, secret: Option<&str>, redirect: &str) -> Self {
        let found = discover(address, endpoint).await;
        let (secret, registration) = (secret.map(ToOwned::to_owned), Value::Null);
        Self { address, found, id: id.to_owned(), secret, redirect: redirect.to_owned(), registration }
    }

    /// The resource that it asks for.
    pub fn resource(&self) -> String {
        self.found.resource["resource"].as_str().unwrap().to_owned()
    }

    /// Begins an authorization request as clients do.
    pub fn begin(&self) -> Begun {
        self.begin_with(&[])
    }

    /// The same with other parameters: one of a name that is there takes its place, an empty value takes it away.
    pub fn begin_with(&self, others: &[(&str, &str)]) -> Begun {
        let (state, proof) = (random(), Proof::new());
        let mut parameters = vec![
            ("response_type", "code".to_owned()),
            ("client_id", self.id.clone()),
            ("redirect_uri", self.redirect.clone()),
            ("scope", self.found.scope.clone()),
            ("state", state.clone()),
            ("code_challenge", proof.challenge.clone()),
            ("code_challenge_method", "S256".to_owned()),
            ("resource", self.resource()),
        ];
        for (name, value) in others {
            parameters.retain(|(known, _)| known != name);
            if !value.is_empty() {
                parameters.push((name, (*value).to_owned()));
            }
        }
        let url = format!("{}?{}", self.found.endpoint("authorization_endpoint"), encoded(&parameters));
        let resource = parameter(&url, "resource").unwrap_or_default();
        Begun { state: parameter(&url, "state").unwrap_or_default(), url, proof, resource }
    }

    /// The code in the address that the browser was sent to, as a careful client reads it: state and issuer are checked.
    pub fn code(&self, begun: &Begun, url: &str) -> String {
        assert!(url.starts_with(&self.redirect), "the browser was sent to {url}, not to {}", self.redirect);
        assert_eq!(parameter(url, "state").as_deref(), Some(begun.state.as_str()), "{url}");
        assert_eq!(parameter(url, "iss").as_deref(), self.found.server["issuer"].as_str(), "{url}");
        parameter(url, "code").unwrap_or_else(|| panic!("no code in {url}"))
    }

    /// The fields with which it redeems a code.
    pub fn redemption(&self, begun: &Begun, code: &str) -> Vec<(&'static str, String)> {
        vec![
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.to_owned()),
            ("redirect_uri", self.redirect.clone()),
            ("code_verifier", begun.proof.verifier.clone()),
            ("resource", begun.resource.clone()),
        ]
    }

    pub async fn redeem(&self, begun: &Begun, code: &str) -> Reply {
        self.token(&self.redemption(begun, code)).await
    }

    /// The fields with which it refreshes.
    pub fn refreshing(&self, refresh: &str) -> Vec<(&'static str, String)> {
        vec![
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", refresh.to_owned()),
            ("resource", self.resource()),
        ]
    }

    pub async fn refresh(&self, refresh: &str) -> Reply {
        self.token(&self.refreshing(refresh)).await
    }

    /// Posts to the token endpoint as this client.
    pub async fn token(&self, fields: &[(&'static str, String)]) -> Reply {
        self.token_on(&mut Connection::open(self.address).await, fields).await
    }

    /// The same on a connection that is open.
    pub async fn token_on(&self, connection: &mut Connection, fields: &[(&'static str, String)]) -> Reply {
        let (headers, body) = self.authenticated(fields);
        let path = path_of(self.address, self.found.endpoint("token_endpoint"));
        connection.send("POST", &path, &borrowed(&headers), body).await
    }

    /// Posts to the endpoint of this name as this client.
    pub async fn post(&self, endpoint: &str, fields: &[(&'static str, String)]) -> Reply {
        let (headers, body) = self.authenticated(fields);
        let path = path_of(self.address, self.found.endpoint(endpoint));
        send(self.address, "POST", &path, &borrowed(&headers), body).await
    }

    pub async fn revoke(&self, token: &str) -> Reply {
        self.post("revocation_endpoint", &[("token", token.to_owned())]).await
    }

    pub async fn introspect(&self, token: &str) -> Reply {
        self.post("introspection_endpoint", &[("token", token.to_owned())]).await
    }

    /// Headers and body with its authentication: in the header if it has a secret, otherwise by its id alone.
    fn authenticated(&self, fields: &[(&'static str, String)]) -> (Vec<(&'static str, String)>, String) {
        let mut fields = fields.to_vec();
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
        match &self.secret {
            Some(secret) => headers.push(("authorization", basic(&self.id, secret))),
            None => fields.push(("client_id", self.id.clone())),
        }
        (headers, encoded(&fields))
    }

    /// A caller with an access token at the endpoint that this client is for.
    pub fn caller(&self, token: &str) -> Caller {
        let endpoint = path_of(self.address, &self.resource());
        Caller::new(self.address, Some(token.to_owned())).at(&endpoint)
    }
}

/// The credentials of a client in a header (RFC 6749 § 2.3.1).
pub fn basic(id: &str, secret: &str) -> String {
    let part = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", part(id), part(secret))))
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// Posts JSON to an absolute address of the gateway.
pub async fn post_json(address: SocketAddr, url: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    send(address, "POST", &path_of(address, url), &headers, body.to_string()).await
}
