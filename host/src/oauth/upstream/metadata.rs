//! What an authorization server says of itself (RFC 8414 §2), as far as it matters to a client like us.

use serde::Deserialize;

use super::address::{Address, Vouched};
use super::client::Methods;
use super::{Unfit, scopes};

/// An authorization server that can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub issuer: String,
    pub authorization_endpoint: Address,
    pub token_endpoint: Address,
    pub registration_endpoint: Option<Address>,
    pub revocation_endpoint: Option<Address>,
    /// Ways to authenticate at the token endpoint.
    pub methods: Methods,
    /// Whether it has refresh tokens for clients that register.
    pub refreshes: bool,
    /// Whether it says that it knows [`scopes::OFFLINE`].
    pub offers_offline: bool,
    /// Whether its answers carry `iss` (RFC 9207 §3).
    pub names_itself: bool,
    /// Whether a client may be known by the address of a document.
    pub takes_documents: bool,
}

#[derive(Deserialize)]
struct Written {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    registration_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    grant_types_supported: Option<Vec<String>>,
    scopes_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    authorization_response_iss_parameter_supported: Option<bool>,
    client_id_metadata_document_supported: Option<bool>,
}

impl Metadata {
    /// Reads the document about one of these issuers, which are ways to write the same.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn read(body: &[u8], issuers: &[String], vouched: &Vouched) -> Result<Self, Unfit> {
        let written: Written = serde_json::from_slice(body).map_err(|_| Unfit::Unreadable)?;
        // Byte for byte (RFC 8414 §3.3), and first: nothing else of it is this server's otherwise.
        if !issuers.contains(&written.issuer) {
            return Err(Unfit::OtherIssuer);
        }
        let needed =
            |endpoint: Option<&String>| vouched.read(endpoint.ok_or(Unfit::NoEndpoint)?).ok_or(Unfit::Insecure);
        // What we could do without is not worth refusing the rest for.
        let optional = |endpoint: Option<&String>| endpoint.and_then(|endpoint| vouched.read(endpoint));
        let lists = |list: Option<&Vec<String>>, word: &str| list.map(|list| list.iter().any(|listed| listed == word));
        let challenges = written.code_challenge_methods_supported.as_ref();
        let metadata = Self {
            authorization_endpoint: needed(written.authorization_endpoint.as_ref())?,
            token_endpoint: needed(written.token_endpoint.as_ref())?,
            registration_endpoint: optional(written.registration_endpoint.as_ref()),
            revocation_endpoint: optional(written.revocation_endpoint.as_ref()),
            methods: Methods::of(written.token_endpoint_auth_methods_supported.as_deref()),
            refreshes: lists(written.grant_types_supported.as_ref(), "refresh_token").unwrap_or(true),
            offers_offline: lists(written.scopes_supported.as_ref(), scopes::OFFLINE).unwrap_or(false),
            names_itself: written.authorization_response_iss_parameter_supported.unwrap_or(false),
            takes_documents: written.client_id_metadata_document_supported.unwrap_or(false),
            issuer: written.issuer,
        };
        // MCP authorization § authorization code protection: one that does not say so is refused.
        if lists(challenges, "S256") != Some(true) {
            return Err(Unfit::NoPkce);
        }
        Ok(metadata)
    }

    /// An authorization server of the time when servers could go without a document, on the upstream's own host
    /// (MCP 2025-03-26 § fallbacks for servers without metadata discovery). PKCE was required of all of them.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn assumed(upstream: &Address, vouched: &Vouched) -> Result<Self, Unfit> {
        let at = |path: &str| vouched.read(&format!("{}{path}", upstream.origin())).ok_or(Unfit::Insecure);
        Ok(Self {
            issuer: upstream.origin().to_owned(),
            authorization_endpoint: at("/authorize")?,
            token_endpoint: at("/token")?,
            registration_endpoint: Some(at("/register")?),
            revocation_endpoint: None,
            methods: Methods::of(None),
            refreshes: true,
            offers_offline: false,
            names_itself: false,
            takes_documents: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Method;
    use super::*;

    fn document() -> Value {
        json!({
            "issuer": "https://as.example/t",
            "authorization_endpoint": "https://as.example/t/authorize?tenant=1",
            "token_endpoint": "https://as.example/t/token",
            "registration_endpoint": "https://as.example/t/register",
            "revocation_endpoint": "https://as.example/t/revoke",
            "token_endpoint_auth_methods_supported": ["none", "private_key_jwt"],
            "grant_types_supported": ["authorization_code"],
            "scopes_supported": ["openid", "offline_access"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "authorization_response_iss_parameter_supported": true,
            "client_id_metadata_document_supported": true,
            "jwks_uri": 7,
        })
    }

    fn read(change: impl FnOnce(&mut Value)) -> Result<Metadata, Unfit> {
        let mut document = document();
        change(&mut document);
        Metadata::read(document.to_string().as_bytes(), &["https://as.example/t".to_owned()], &Vouched::default())
    }

    #[test]
    fn an_honest_server_is_read() {
        let metadata = read(|_| {}).unwrap();
        assert_eq!(metadata.authorization_endpoint.as_str(), "https://as.example/t/authorize?tenant=1");
        assert_eq!(metadata.revocation_endpoint.unwrap().as_str(), "https://as.example/t/revoke");
        assert_eq!(metadata.methods.best(), Some(Method::None));
        assert!(metadata.names_itself && metadata.takes_documents && metadata.offers_offline && !metadata.refreshes);
        let least = read(|document| {
            let members = ["authorization_endpoint", "token_endpoint", "issuer", "code_challenge_methods_supported"];
            document.as_object_mut().unwrap().retain(|name, _| members.contains(&name.as_str()));
        });
        let least = least.unwrap();
        assert!(!least.names_itself && !least.takes_documents && !least.offers_offline && least.refreshes);
        assert_eq!((least.registration_endpoint, least.methods.best()), (None, Some(Method::Basic)));
    }

    #[test]
    fn u2_a_server_that_does_not_fit_is_refused() {
        type Change = fn(&mut Value);
        let cases: [(Change, Unfit); 15] = [
            (|it| it["issuer"] = json!("https://as.example/t/"), Unfit::OtherIssuer),
            (|it| it["issuer"] = json!("https://AS.example/t"), Unfit::OtherIssuer),
            (|it| it["issuer"] = json!("https://as.example"), Unfit::OtherIssuer),
            (|it| it["issuer"] = json!(null), Unfit::Unreadable),
            (|it| it["token_endpoint"] = json!(null), Unfit::NoEndpoint),
            (|it| it["authorization_endpoint"] = json!(null), Unfit::NoEndpoint),
            (|it| it["authorization_endpoint"] = json!(7), Unfit::Unreadable),
            (|it| it["token_endpoint"] = json!("http://as.example/token"), Unfit::Insecure),
            (|it| it["token_endpoint"] = json!("http://127.0.0.1/token"), Unfit::Insecure),
            // U6
            (|it| it["authorization_endpoint"] = json!("javascript:alert(1)"), Unfit::Insecure),
            (|it| it["authorization_endpoint"] = json!("https://as.example/$(calc)`x`"), Unfit::Insecure),
            (|it| it["authorization_endpoint"] = json!("https://as.example/#x"), Unfit::Insecure),
            (|it| it["code_challenge_methods_supported"] = json!(null), Unfit::NoPkce),
            (|it| it["code_challenge_methods_supported"] = json!([]), Unfit::NoPkce),
            (|it| it["code_challenge_methods_supported"] = json!(["plain"]), Unfit::NoPkce),
        ];
        for (number, (change, unfit)) in cases.into_iter().enumerate() {
            assert_eq!(read(change), Err(unfit), "case {number}");
        }
        let optional = read(|it| it["revocation_endpoint"] = json!("http://as.example/revoke")).unwrap();
        assert_eq!(optional.revocation_endpoint, None);
        for body in ["", "[]", "null", "<html>", r#"{"issuer":"a","issuer":"a"}"#] {
            let read = Metadata::read(body.as_bytes(), &["a".to_owned()], &Vouched::default());
            assert_eq!(read, Err(Unfit::Unreadable), "{body}");
        }
    }

    #[test]
    fn a_server_without_a_document_has_the_usual_endpoints() {
        let upstream = Address::parse("http://localhost:3000/a/mcp").unwrap();
        let assumed = Metadata::assumed(&upstream, &Vouched::new([upstream.clone()])).unwrap();
        assert_eq!(assumed.issuer, "http://localhost:3000");
        assert_eq!(assumed.authorization_endpoint.as_str(), "http://localhost:3000/authorize");
        assert_eq!(assumed.token_endpoint.as_str(), "http://localhost:3000/token");
        assert_eq!(assumed.registration_endpoint.unwrap().as_str(), "http://localhost:3000/register");
        assert_eq!(Metadata::assumed(&upstream, &Vouched::default()), Err(Unfit::Insecure));
    }
}
