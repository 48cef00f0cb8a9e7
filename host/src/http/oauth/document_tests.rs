//! Whether `docs/openapi/public.json` is the table of routes, and the routes are what it says. What they answer is compared
//! with it over the network (`tests/suites/surface.mjs`).

use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use http::{Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt as _;

use super::pages::testing::assert_protected;
use super::*;
use crate::authorization::people::testing::House;

/// What the public listener has besides the table of routes.
const OTHERS: [(&str, &str); 6] = [
    ("GET|POST|DELETE", "/mcp"),
    ("GET|POST|DELETE", "/mcp/{upstream}"),
    ("GET", "/sse"),
    ("POST", "/messages"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
];

fn document() -> Value {
    serde_json::from_str(include_str!("../../../../docs/openapi/public.json")).unwrap()
}

/// Paths, each with its methods and what is said of them.
fn paths(document: &Value) -> impl Iterator<Item = (&str, BTreeSet<String>, Vec<&Value>)> {
    document["paths"].as_object().unwrap().iter().map(|(path, item)| {
        let operations = item.as_object().unwrap().iter().filter(|(member, _)| *member != "parameters");
        let (methods, operations) = operations.map(|(method, operation)| (method.to_uppercase(), operation)).unzip();
        (path.as_str(), methods, operations)
    })
}

fn methods(row: &str) -> BTreeSet<String> {
    row.split('|').map(ToOwned::to_owned).collect()
}

#[test]
fn each_route_stands_in_the_document_and_nothing_else_does() {
    let document = document();
    let documented: Vec<(&str, BTreeSet<String>)> =
        paths(&document).map(|(path, methods, _)| (path, methods)).collect();
    for (path, said) in &documented {
        let row = routes().find(|route| route.leads_to(path)).map(|route| route.methods);
        let row = row.or_else(|| OTHERS.iter().find(|(_, other)| other == path).map(|(methods, _)| *methods));
        let row = row.unwrap_or_else(|| panic!("nothing is at {path}"));
        assert_eq!(*said, methods(row), "{path}");
    }
    for route in routes() {
        let is_it = |path: &str| if route.path.contains("{*") { route.leads_to(path) } else { route.path == path };
        assert!(documented.iter().any(|(path, _)| is_it(path)), "{} is missing", route.path);
    }
    for (_, other) in OTHERS {
        assert!(documented.iter().any(|(path, _)| *path == other), "{other} is missing");
    }
}

#[test]
fn who_is_expected_stands_in_the_document() {
    let document = document();
    for (path, _, operations) in paths(&document) {
        let Some(route) = routes().find(|route| route.leads_to(path)) else { continue };
        for operation in operations {
            let security = operation["security"].as_array().into_iter().flatten();
            let schemes: BTreeSet<&str> =
                security.flat_map(|one| one.as_object().unwrap().keys().map(String::as_str)).collect();
            let schemes: Vec<&str> = schemes.into_iter().collect();
            let is_right = match route.access {
                Access::Anyone => schemes.is_empty(),
                Access::Client => ["client", "registration_token"].iter().any(|scheme| schemes == [*scheme]),
                Access::Browser => schemes == ["session"],
            };
            assert!(is_right, "{path}: {schemes:?}");
        }
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere_and_nothing_stands_there_unused() {
    let text = document();
    let mut pointers = BTreeSet::new();
    let mut left = vec![&text];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(members) => {
                pointers.extend(members.get("$ref").and_then(Value::as_str).map(ToOwned::to_owned));
                left.extend(members.values());
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    for pointer in &pointers {
        assert!(text.pointer(pointer.strip_prefix('#').unwrap()).is_some(), "{pointer}");
    }
    for (kind, components) in
        text["components"].as_object().unwrap().iter().filter(|(kind, _)| *kind != "securitySchemes")
    {
        for name in components.as_object().unwrap().keys() {
            assert!(pointers.contains(&format!("#/components/{kind}/{name}")), "{kind} {name} is not used");
        }
    }
}

#[tokio::test]
async fn another_method_is_refused_with_those_that_the_document_has() {
    let house = House::new("https://gateway.example", |_| {}).await;
    let router = router(Arc::new(OAuth::new(house.server.clone())));
    let document = document();
    for (path, mut said, _) in paths(&document).filter(|(path, ..)| access(path).is_some()) {
        let request = Request::builder().method("PATCH").uri(path.replace(['{', '}'], "")).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow = response.headers()["allow"].to_str().unwrap().split(',').map(|method| method.trim().to_owned());
        // Whatever has GET has HEAD.
        if said.contains("GET") {
            said.insert("HEAD".to_owned());
        }
        assert_eq!(allow.collect::<BTreeSet<_>>(), said, "{path}");
    }
}

#[tokio::test]
async fn there_is_nothing_at_a_path_that_is_no_text() {
    let house = House::new("https://gateway.example", |_| {}).await;
    let router = router(Arc::new(OAuth::new(house.server.clone())));
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };
    for path in ["/oauth2/consent/%ff", "/sign-in/a%C3b", "/sign-in/%e2%28%a1/callback"] {
        let response = ask(path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_protected(&response);
    }
    for path in ["/oauth2/register/%FF", "/assets/%80", "/.well-known/oauth-protected-resource/mcp/%c0%af"] {
        let response = ask(path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        let body = to_bytes(response.into_body(), 1 << 10).await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["error"], "not_found", "{path}");
    }
    // What is text is looked at.
    assert_eq!(ask("/oauth2/register/%E2%9C%93%2").await.status(), StatusCode::UNAUTHORIZED);
}
