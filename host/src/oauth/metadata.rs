//! What the gateway tells of itself to clients that have never heard of it: RFC 9728 for each resource, RFC 8414 for the
//! authorization server, and the challenge that leads there.
//!
//! Everything is built from the issuer, which is `public_url`: nothing comes from a request, so that no request can make a
//! client believe in another server (RFC 9728 §7.3).

use serde_json::{Map, Value, json};

use super::client::GrantType;
use super::dpop;
use super::signing::Algorithm;

/// Where the endpoints are, below the issuer.
pub const AUTHORIZE: &str = "/oauth2/authorize";
pub const TOKEN: &str = "/oauth2/token";
pub const REGISTER: &str = "/oauth2/register";
pub const REVOKE: &str = "/oauth2/revoke";
pub const INTROSPECT: &str = "/oauth2/introspect";
pub const PUSHED: &str = "/oauth2/par";
pub const DEVICE: &str = "/oauth2/device";
pub const KEYS: &str = "/.well-known/jwks.json";
/// Where documents are, before the path of what they are about (RFC 8615 §3).
pub const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";
pub const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
/// The same document under the name that OpenID Connect Discovery gives it.
pub const OPENID: &str = "/.well-known/openid-configuration";
/// The endpoint that tokens are for; one upstream alone is a path below.
pub const ENDPOINT: &str = "/mcp";

/// Algorithms for what clients sign (RFC 7523).
const CLIENT_ALGORITHMS: [&str; 4] = ["ES256", "EdDSA", "RS256", "PS256"];

/// The assertions that are taken with the grant type `jwt-bearer`, and the only ones.
const ID_JAG: &str = "urn:ietf:params:oauth:grant-profile:id-jag";

/// The authorization server, as far as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `public_url`, without a slash at its end.
    pub issuer: String,
    pub scopes: Vec<String>,
    /// Grant types that are on, besides `authorization_code` and `refresh_token`.
    pub grant_types: Vec<GrantType>,
    /// Whether clients may register themselves (RFC 7591).
    pub is_open: bool,
    /// Whether a client may be known by the address of a document (Client ID Metadata Documents).
    pub takes_documents: bool,
    /// What signs access tokens.
    pub algorithm: Algorithm,
}

/// The resource of an issuer's endpoint for all upstreams, or for this one (RFC 8707).
pub fn resource(issuer: &str, upstream: Option<&str>) -> String {
    match upstream {
        None => format!("{issuer}{ENDPOINT}"),
        Some(upstream) => format!("{issuer}{ENDPOINT}/{upstream}"),
    }
}

impl Server {
    /// The resource of the endpoint for all upstreams, or for this one (RFC 8707).
    pub fn resource(&self, upstream: Option<&str>) -> String {
        resource(&self.issuer, upstream)
    }

    /// The path of the issuer, empty where it is a host alone.
    fn issuer_path(&self) -> &str {
        let authority = self.issuer.find("://").map_or(0, |at| at + 3);
        self.issuer[authority..].find('/').map_or("", |at| &self.issuer[authority + at..])
    }

    fn origin(&self) -> &str {
        &self.issuer[..self.issuer.len() - self.issuer_path().len()]
    }

    /// Where the document about a resource is (RFC 9728 §3.1): the well-known part stands between host and path.
    pub fn resource_metadata_url(&self, upstream: Option<&str>) -> String {
        let below = upstream.map(|upstream| format!("/{upstream}")).unwrap_or_default();
        format!("{}{PROTECTED_RESOURCE}{}{ENDPOINT}{below}", self.origin(), self.issuer_path())
    }

    /// The document about a resource (RFC 9728 §2).
    pub fn protected_resource(&self, upstream: Option<&str>) -> Value {
        json!({
            "resource": self.resource(upstream),
            "resource_name": upstream.map_or_else(|| "Portcullis".to_owned(), |upstream| format!("Portcullis: {upstream}")),
            "authorization_servers": [self.issuer],
            "scopes_supported": self.scopes,
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": dpop::ALGORITHMS,
        })
    }

    /// The document about the authorization server (RFC 8414 §2).
    pub fn authorization_server(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        let has = |grant_type: GrantType| self.grant_types.contains(&grant_type);
        let grant_types = [GrantType::AuthorizationCode, GrantType::RefreshToken].into_iter();
        let grant_types: Vec<_> = grant_types.chain(self.grant_types.iter().copied()).map(GrantType::as_str).collect();
        let methods = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];
        let mut document = Map::new();
        let mut say = |member: &str, value: Value| document.insert(member.to_owned(), value);
        say("issuer", json!(self.issuer));
        say("authorization_endpoint", json!(at(AUTHORIZE)));
        say("token_endpoint", json!(at(TOKEN)));
        say("jwks_uri", json!(at(KEYS)));
        if self.is_open {
            say("registration_endpoint", json!(at(REGISTER)));
        }
        say("revocation_endpoint", json!(at(REVOKE)));
        say("introspection_endpoint", json!(at(INTROSPECT)));
        say("pushed_authorization_request_endpoint", json!(at(PUSHED)));
        if has(GrantType::DeviceCode) {
            say("device_authorization_endpoint", json!(at(DEVICE)));
        }
        say("scopes_supported", json!(self.scopes));
        say("response_types_supported", json!(["code"]));
        say("response_modes_supported", json!(["query"]));
        say("grant_types_supported", json!(grant_types));
        if has(GrantType::JwtBearer) {
            say("authorization_grant_profiles_supported", json!([ID_JAG]));
        }
        say("code_challenge_methods_supported", json!(["S256"]));
        for endpoint in ["token", "revocation", "introspection"] {
            // A public client may revoke its own tokens; nobody asks about tokens without saying who they are.
            let methods = if endpoint == "introspection" { &methods[1..] } else { &methods[..] };
            say(&format!("{endpoint}_endpoint_auth_methods_supported"), json!(methods));
            say(&format!("{endpoint}_endpoint_auth_signing_alg_values_supported"), json!(CLIENT_ALGORITHMS));
        }
        say("dpop_signing_alg_values_supported", json!(dpop::ALGORITHMS));
        say("authorization_response_iss_parameter_supported", json!(true));
        say("client_id_metadata_document_supported", json!(self.takes_documents));
        say("require_pushed_authorization_requests", json!(false));
        Value::Object(document)
    }

    /// The same as OpenID Connect Discovery has it, for clients that look there only: with the three members that it
    /// requires, although nobody gets an ID token here.
    pub fn openid_configuration(&self) -> Value {
        let mut document = self.authorization_server();
        document["subject_types_supported"] = json!(["public"]);
        document["id_token_signing_alg_values_supported"] = json!([self.algorithm.as_str()]);
        document
    }

    /// `WWW-Authenticate` of an answer 401 or 403 about a resource (RFC 6750 §3, RFC 9728 §5.1). Scopes are scope tokens, so
    /// that nothing in it has to be escaped.
    pub fn challenge(&self, upstream: Option<&str>, error: Option<Challenge<'_>>) -> String {
        let mut challenge = String::from("Bearer");
        let scopes = match error {
            None => self.scopes.as_slice(),
            Some(Challenge::InvalidToken) => {
                challenge.push_str(r#" error="invalid_token","#);
                &self.scopes
            }
            Some(Challenge::InsufficientScope(needed)) => {
                challenge.push_str(r#" error="insufficient_scope","#);
                needed
            }
        };
        if !scopes.is_empty() {
            challenge.push_str(&format!(r#" scope="{}","#, scopes.join(" ")));
        }
        challenge.push_str(&format!(r#" resource_metadata="{}""#, self.resource_metadata_url(upstream)));
        challenge
    }

    /// `WWW-Authenticate` of an answer 401 to somebody who proves a key, or has to (RFC 9449 §7.1).
    pub fn proof_challenge(&self, error: &str) -> String {
        format!(r#"DPoP error="{error}", algs="{}""#, dpop::ALGORITHMS.join(" "))
    }
}

/// What was wrong with the credential of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge<'a> {
    /// There was one, and it is not valid (401).
    InvalidToken,
    /// It is valid and not enough; with these it would be (403).
    InsufficientScope(&'a [String]),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(issuer: &str) -> Server {
        Server {
            issuer: issuer.to_owned(),
            scopes: vec!["mcp".to_owned(), "notes:write".to_owned()],
            grant_types: Vec::new(),
            is_open: true,
            takes_documents: true,
            algorithm: Algorithm::Rs256,
        }
    }

    #[test]
    fn the_well_known_part_stands_between_host_and_path() {
        let server = server("https://gateway.example/portcullis");
        assert_eq!(server.resource(None), "https://gateway.example/portcullis/mcp");
        assert_eq!(
            server.resource_metadata_url(Some("notes")),
            "https://gateway.example/.well-known/oauth-protected-resource/portcullis/mcp/notes"
        );
        assert_eq!(
            self::server("http://127.0.0.1:7400").resource_metadata_url(None),
            "http://127.0.0.1:7400/.well-known/oauth-protected-resource/mcp"
        );
        let document = server.protected_resource(Some("notes"));
        assert_eq!(document["resource"], "https://gateway.example/portcullis/mcp/notes");
        assert_eq!(document["authorization_servers"], json!(["https://gateway.example/portcullis"]));
    }

    #[test]
    fn the_document_tells_what_there_is_and_nothing_else() {
        let document = server("https://gateway.example").authorization_server();
        assert_eq!(document["issuer"], "https://gateway.example");
        assert_eq!(document["code_challenge_methods_supported"], json!(["S256"]));
        assert_eq!(document["grant_types_supported"], json!(["authorization_code", "refresh_token"]));
        assert_eq!(document["authorization_response_iss_parameter_supported"], true);
        assert!(document.get("device_authorization_endpoint").is_none());
        assert_eq!(document["dpop_signing_alg_values_supported"], json!(["ES256", "EdDSA", "PS256", "RS256"]));
        assert!(document.get("authorization_grant_profiles_supported").is_none());
        let vouched = Server { grant_types: vec![GrantType::JwtBearer], ..server("https://gateway.example") };
        let profiles = &vouched.authorization_server()["authorization_grant_profiles_supported"];
        assert_eq!(*profiles, json!(["urn:ietf:params:oauth:grant-profile:id-jag"]));
        let closed =
            Server { is_open: false, grant_types: vec![GrantType::DeviceCode], ..server("https://gateway.example") };
        let document = closed.authorization_server();
        assert!(document.get("registration_endpoint").is_none());
        assert_eq!(document["device_authorization_endpoint"], "https://gateway.example/oauth2/device");
        assert_eq!(closed.openid_configuration()["id_token_signing_alg_values_supported"], json!(["RS256"]));
    }

    #[test]
    fn a_challenge_leads_to_the_document_about_the_resource() {
        let server = server("https://gateway.example");
        let about = r#"resource_metadata="https://gateway.example/.well-known/oauth-protected-resource/mcp""#;
        assert_eq!(server.challenge(None, None), format!(r#"Bearer scope="mcp notes:write", {about}"#));
        assert_eq!(
            server.challenge(None, Some(Challenge::InvalidToken)),
            format!(r#"Bearer error="invalid_token", scope="mcp notes:write", {about}"#)
        );
        let needed = ["notes:write".to_owned()];
        assert_eq!(
            server.challenge(None, Some(Challenge::InsufficientScope(&needed))),
            format!(r#"Bearer error="insufficient_scope", scope="notes:write", {about}"#)
        );
        let without = Server { scopes: Vec::new(), ..server };
        assert_eq!(without.challenge(None, None), format!("Bearer {about}"));
    }
}
