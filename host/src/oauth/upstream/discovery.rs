//! Where an upstream and an authorization server describe themselves, and what the upstream's document says (RFC 9728,
//! RFC 8414 §3, OpenID Connect Discovery §4, MCP authorization § discovery).

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::address::{Address, Vouched};
use super::{Unfit, scopes};
use crate::identity::TokenList;

/// Authorization servers that an upstream may name, and those of them that are looked at for a new connection.
const MAX_SERVERS: usize = 32;
pub const MAX_TRIED: usize = 4;

const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";
const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";

/// Where the document about an upstream is, if nothing says otherwise: for its path, then for all of its host
/// (RFC 9728 §3.1).
pub fn resource_places(upstream: &Address) -> Vec<Address> {
    let origin = upstream.origin();
    let path = if upstream.path() == "/" { "" } else { upstream.path() };
    let query = upstream.query().map(|query| format!("?{query}")).unwrap_or_default();
    places(&[format!("{origin}{PROTECTED_RESOURCE}{path}{query}"), format!("{origin}{PROTECTED_RESOURCE}")])
}

/// Where the document about an authorization server is, in the order in which one looks.
pub fn server_places(issuer: &Address) -> Vec<Address> {
    let (origin, path) = (issuer.origin(), issuer.path().trim_end_matches('/'));
    places(&[
        format!("{origin}{AUTHORIZATION_SERVER}{path}"),
        format!("{origin}{OPENID}{path}"),
        format!("{origin}{path}{OPENID}"),
    ])
}

/// The addresses, each once.
fn places(texts: &[String]) -> Vec<Address> {
    let mut places: Vec<Address> = Vec::with_capacity(texts.len());
    for place in texts.iter().filter_map(|text| Address::parse(text)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Whether a body may be a document at all: hosts answer with a page of their own at places where they have none.
pub fn is_document(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// What an upstream says of itself (RFC 9728 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedResource {
    /// What tokens are asked for (RFC 8707).
    pub resource: String,
    /// The issuers that may give them: at least one.
    pub servers: Vec<String>,
    pub scopes: Option<TokenList>,
}

#[derive(Deserialize)]
struct Written {
    resource: String,
    authorization_servers: Option<Vec<String>>,
    scopes_supported: Option<Vec<String>>,
}

impl ProtectedResource {
    /// Reads the document about an upstream.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn read(body: &[u8], upstream: &Address, vouched: &Vouched) -> Result<Self, Unfit> {
        let written: Written = serde_json::from_slice(body).map_err(|_| Unfit::ResourceUnreadable)?;
        let Written { resource, authorization_servers, scopes_supported } = written;
        let named = Address::parse(&resource).ok_or(Unfit::OtherResource)?;
        if !covers(&named, upstream) {
            return Err(Unfit::OtherResource);
        }
        let servers = authorization_servers.unwrap_or_default();
        let servers: Vec<_> =
            servers.into_iter().filter(|issuer| vouched.read_issuer(issuer).is_some()).take(MAX_SERVERS).collect();
        if servers.is_empty() {
            return Err(Unfit::NoServers);
        }
        let scopes = scopes_supported.map(|listed| scopes::keep(listed.iter().map(String::as_str)));
        Ok(Self { resource, servers, scopes })
    }
}

/// Whether a resource is the upstream, or what it is a part of: a path above it at the same origin (RFC 9728 §3.3 with the
/// latitude of RFC 8707 §2). Another one would have us ask for tokens for somebody else.
fn covers(resource: &Address, upstream: &Address) -> bool {
    let (above, below) = (resource.path().trim_end_matches('/'), upstream.path().trim_end_matches('/'));
    let is_part = below.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_same_query = resource.query().is_none() || resource.query() == upstream.query();
    resource.origin() == upstream.origin() && is_part && is_same_query
}

/// The issuers that an upstream may have that says nothing of itself, as the same address written in two ways: its own
/// origin (MCP 2025-03-26 § authorization base URL).
pub fn assumed_issuers(upstream: &Address) -> [String; 2] {
    [upstream.origin().to_owned(), format!("{}/", upstream.origin())]
}

/// What tokens are asked for of an upstream that says nothing of itself (MCP authorization § canonical server URI).
pub fn assumed_resource(upstream: &Address) -> String {
    let path = if upstream.path() == "/" { "" } else { upstream.path() };
    let query = upstream.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{path}{query}", upstream.origin())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn texts(places: &[Address]) -> Vec<&str> {
        places.iter().map(Address::as_str).collect()
    }

    #[test]
    fn documents_are_looked_for_in_the_order_of_the_specification() {
        assert_eq!(
            texts(&resource_places(&address("https://mcp.example/a/mcp?x=1"))),
            [
                "https://mcp.example/.well-known/oauth-protected-resource/a/mcp?x=1",
                "https://mcp.example/.well-known/oauth-protected-resource",
            ]
        );
        for at_root in ["https://mcp.example", "https://mcp.example/"] {
            let places = resource_places(&address(at_root));
            assert_eq!(texts(&places), ["https://mcp.example/.well-known/oauth-protected-resource"]);
        }
        for tenant in ["https://as.example/tenant", "https://as.example/tenant/"] {
            assert_eq!(
                texts(&server_places(&address(tenant))),
                [
                    "https://as.example/.well-known/oauth-authorization-server/tenant",
                    "https://as.example/.well-known/openid-configuration/tenant",
                    "https://as.example/tenant/.well-known/openid-configuration",
                ]
            );
        }
        assert_eq!(
            texts(&server_places(&address("https://as.example:8443"))),
            [
                "https://as.example:8443/.well-known/oauth-authorization-server",
                "https://as.example:8443/.well-known/openid-configuration",
            ]
        );
    }

    fn read(resource: &str, upstream: &str) -> Result<ProtectedResource, Unfit> {
        let body = json!({ "resource": resource, "authorization_servers": ["https://as.example"] }).to_string();
        ProtectedResource::read(body.as_bytes(), &address(upstream), &Vouched::default())
    }

    #[test]
    fn u2_a_document_is_about_the_upstream_or_what_it_is_a_part_of() {
        for (resource, upstream, fits) in [
            ("https://mcp.example/mcp", "https://mcp.example/mcp", true),
            ("https://mcp.example/mcp/", "https://mcp.example/mcp", true),
            ("https://MCP.example:443/mcp", "https://mcp.example/mcp", true),
            ("https://mcp.example", "https://mcp.example/mcp", true),
            ("https://mcp.example/", "https://mcp.example/a/mcp?x=1", true),
            ("https://mcp.example/a", "https://mcp.example/a/mcp", true),
            ("https://mcp.example/mcp?x=1", "https://mcp.example/mcp?x=1", true),
            ("https://mcp.example/mcp?x=1", "https://mcp.example/mcp", false),
            ("https://mcp.example/m", "https://mcp.example/mcp", false),
            ("https://mcp.example/mcp/more", "https://mcp.example/mcp", false),
            ("https://mcp.example/other", "https://mcp.example/mcp", false),
            ("https://mcp.example:8443/mcp", "https://mcp.example/mcp", false),
            ("http://mcp.example/mcp", "https://mcp.example/mcp", false),
            ("https://evil.example/mcp", "https://mcp.example/mcp", false),
            ("https://mcp.example.evil.example/mcp", "https://mcp.example/mcp", false),
            ("urn:mcp", "https://mcp.example/mcp", false),
            ("", "https://mcp.example/mcp", false),
        ] {
            let expected = if fits { Ok(resource.to_owned()) } else { Err(Unfit::OtherResource) };
            assert_eq!(read(resource, upstream).map(|found| found.resource), expected, "{resource} {upstream}");
        }
    }

    #[test]
    fn a_document_names_servers_that_can_be_used() {
        let upstream = address("https://mcp.example/mcp");
        let read = |document: serde_json::Value| {
            let mut document = document;
            document["resource"] = json!("https://mcp.example/mcp");
            ProtectedResource::read(document.to_string().as_bytes(), &upstream, &Vouched::default())
        };
        let all = json!([
            "http://as.example",
            "https://as.example?x",
            "https://a.example",
            "ftp://x",
            "https://b.example/t",
            "https://c.example",
            "https://d.example",
        ]);
        let found =
            read(json!({ "authorization_servers": all, "scopes_supported": ["a", "b c", "a"], "more": [1] })).unwrap();
        assert_eq!(
            found.servers,
            ["https://a.example", "https://b.example/t", "https://c.example", "https://d.example"]
        );
        assert_eq!(found.scopes.unwrap().join(" "), "a");
        let many: Vec<String> = (0..100).map(|number| format!("https://as{number}.example")).collect();
        assert_eq!(read(json!({ "authorization_servers": many })).unwrap().servers.len(), MAX_SERVERS);
        for (document, unfit) in [
            (json!({}), Unfit::NoServers),
            (json!({ "authorization_servers": [] }), Unfit::NoServers),
            (json!({ "authorization_servers": ["http://as.example"] }), Unfit::NoServers),
            (json!({ "authorization_servers": "https://as.example" }), Unfit::ResourceUnreadable),
            (json!({ "authorization_servers": [1] }), Unfit::ResourceUnreadable),
        ] {
            assert_eq!(read(document.clone()), Err(unfit), "{document}");
        }
        let twice = br#"{"resource":"https://mcp.example/mcp","resource":"https://mcp.example/mcp"}"#;
        let read = ProtectedResource::read(twice, &upstream, &Vouched::default());
        assert_eq!(read, Err(Unfit::ResourceUnreadable));
    }

    #[test]
    fn an_upstream_that_says_nothing_is_its_own_server() {
        let upstream = address("https://MCP.example:443/a/mcp?x");
        assert_eq!(assumed_issuers(&upstream), ["https://mcp.example", "https://mcp.example/"]);
        assert_eq!(assumed_resource(&upstream), "https://mcp.example/a/mcp?x");
        assert_eq!(assumed_resource(&address("https://mcp.example/")), "https://mcp.example");
    }

    proptest! {
        #[test]
        fn no_resource_at_another_origin_covers_an_upstream(host in "[a-z]{1,8}", path in "(/[a-z]{0,3}){0,3}") {
            let upstream = address("https://mcp.example/mcp");
            let resource = Address::parse(&format!("https://{host}.example{path}"));
            let covered = resource.is_some_and(|resource| covers(&resource, &upstream));
            prop_assert!(!covered || (host == "mcp" && ["", "/mcp"].contains(&path.trim_end_matches('/'))));
        }
    }
}
