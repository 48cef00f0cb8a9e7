//! What policies say of authority narrows it, and never widens it.

use std::time::Duration;

use serde_json::{Value, json};

use super::guest::{Guest, deny, echo, reason};
use super::scene::{bind, caller, context, load, now, settings, told};
use crate::config::WhenAllAbstain;
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::ToolScope;
use crate::ids::UpstreamName;
use crate::mcp::json::raw;
use crate::policy::authority::{
    ClientFacts, ClientRequest, ClientSource, ConsentWanted, CredentialKind, CredentialPurpose, CredentialRequest,
    GrantDecision, GrantKind, GrantRequest, GrantTerms, LifetimeCaps, RefreshRequest,
};
use crate::policy::{Hook, PolicySet, Refusal};

const CAPS: LifetimeCaps = LifetimeCaps { access: Duration::from_secs(600), refresh: Duration::from_secs(86_400) };

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn notes() -> UpstreamName {
    UpstreamName::parse("notes").unwrap()
}

fn request() -> GrantRequest {
    GrantRequest {
        kind: GrantKind::AuthorizationCode,
        client: ClientFacts {
            id: "https://client.example/metadata".to_owned(),
            name: "Client".to_owned(),
            verified: true,
            first_party: false,
            redirect_host: "client.example".to_owned(),
            metadata: raw(r#"{"client_name":"Client"}"#.to_owned()),
        },
        scopes: texts(&["read", "write"]),
        already_granted: Vec::new(),
        resources: texts(&["https://gateway.example/mcp"]),
        upstreams: vec![notes()],
        consent_on_file: false,
        access_ttl: Duration::from_secs(3600),
        refresh_ttl: Some(Duration::from_secs(3600)),
        sender_constrained: false,
    }
}

/// Terms with some fields given.
fn terms(fields: &Value) -> Value {
    let mut terms = json!({ "scopes": ["read", "write"], "require-sender-constraint": false, "notes": [] });
    for (name, value) in fields.as_object().expect("an object") {
        terms[name] = value.clone();
    }
    terms
}

fn grants(fields: &Value) -> Guest {
    Guest::new().answers(Hook::Grant, json!({ "allow": terms(fields) }))
}

fn decide(set: &PolicySet) -> Result<GrantDecision, Refusal> {
    let caller = caller();
    now(set.check_grant(&context(&caller), &request(), CAPS)).0
}

fn granted(set: &PolicySet) -> GrantTerms {
    match decide(set) {
        Ok(GrantDecision::Granted(terms)) => terms,
        other => panic!("{other:?}"),
    }
}

fn one(guest: &Guest) -> PolicySet {
    load(vec![bind("one", guest)])
}

#[test]
fn where_nothing_is_bound_the_gateways_own_limits_hold() {
    let terms = granted(&load(Vec::new()));
    assert_eq!(terms.scopes, ["read", "write"]);
    assert_eq!((terms.access_ttl, terms.refresh_ttl), (CAPS.access, Some(Duration::from_secs(3600))));
    assert!(terms.tools.permits(&notes(), "anything") && terms.claims.is_empty());
}

#[test]
fn a_policy_narrows_what_was_requested() {
    let terms = granted(&one(&grants(&json!({
        "scopes": ["read", "admin"],
        "tools": ["notes/read_*", "notes/list"],
        "access-ttl-s": 60,
        "refresh-ttl-s": 0,
        "require-sender-constraint": true,
        "claims": r#"{"department":"lab","n":1.0}"#,
        "notes": [{ "key": "k", "value": "v" }],
    }))));
    assert_eq!(terms.scopes, ["read"], "what nobody requested is not granted");
    assert_eq!((terms.access_ttl, terms.refresh_ttl), (Duration::from_secs(60), None));
    assert!(terms.require_sender_constraint);
    assert_eq!(terms.claims_object().get(), r#"{"department":"lab","n":1.0}"#);
    assert_eq!(terms.notes.len(), 1);
    let permitted = ["read_one", "list", "delete"].map(|tool| terms.tools.permits(&notes(), tool));
    assert_eq!(permitted, [true, true, false]);
}

#[test]
fn lives_are_never_longer_than_requested_or_than_the_gateway_allows() {
    let terms = granted(&one(&grants(&json!({ "access-ttl-s": 100_000, "refresh-ttl-s": 100_000_000 }))));
    assert_eq!((terms.access_ttl, terms.refresh_ttl), (CAPS.access, Some(Duration::from_secs(3600))));
}

#[test]
fn several_policies_grant_what_all_of_them_grant() {
    let set = load(vec![
        bind(
            "one",
            &grants(
                &json!({ "scopes": ["read", "write"], "tools": ["notes/*"], "access-ttl-s": 300, "claims": r#"{"a":1,"b":1}"# }),
            ),
        ),
        bind("two", &Guest::new().answers(Hook::Grant, json!("abstain"))),
        bind(
            "three",
            &grants(
                &json!({ "scopes": ["read"], "tools": ["*/read_*"], "access-ttl-s": 100, "claims": r#"{"b":2,"c":2}"# }),
            ),
        ),
    ]);
    let terms = granted(&set);
    assert_eq!((terms.scopes.as_slice(), terms.access_ttl), (["read".to_owned()].as_slice(), Duration::from_secs(100)));
    let tracker = UpstreamName::parse("tracker").unwrap();
    let permitted = [(&notes(), "read_a"), (&notes(), "write_a"), (&tracker, "read_a")];
    assert_eq!(permitted.map(|(upstream, tool)| terms.tools.permits(upstream, tool)), [true, false, false]);
    assert_eq!(
        terms.claims_object().get(),
        r#"{"a":1,"b":1,"c":2}"#,
        "of two that set the same claim, the first counts"
    );
}

#[test]
fn consent_is_between_step_up_and_allowing() {
    let consent = |headline: &str, scopes: Value| {
        let terms = terms(&json!({ "scopes": scopes }));
        let consent = json!({ "terms": terms, "headline": headline, "warnings": ["Careful.", "Careful."] });
        Guest::new().answers(Hook::Grant, json!({ "consent": consent }))
    };
    let allows = grants(&json!({}));
    let step_up =
        json!({ "step-up": { "scopes": ["more"], "acr-values": ["gold"], "reason": reason("more", "More.") } });
    let steps_up = Guest::new().answers(Hook::Grant, step_up);
    let denies = Guest::new().answers(Hook::Grant, deny("no"));
    for order in [[&consent("One", json!(["read"])), &allows], [&allows, &consent("One", json!(["read"]))]] {
        let set = load(order.iter().zip(["one", "two"]).map(|(guest, name)| bind(name, guest)).collect());
        let Ok(GrantDecision::Consent(ConsentWanted { terms, headline, warnings })) = decide(&set) else { panic!() };
        assert_eq!((headline.as_str(), warnings.as_slice()), ("One", ["Careful.".to_owned()].as_slice()));
        assert_eq!(terms.scopes, ["read"]);
    }
    for (stronger, expected) in [(&steps_up, "step-up"), (&denies, "two denied: no No.")] {
        let set = load(vec![bind("one", &consent("One", json!(["read"]))), bind("two", stronger)]);
        assert_eq!(told(&decide(&set).unwrap_err()), expected);
    }
}

#[test]
fn what_all_abstain_from_is_for_the_operator() {
    let abstains = Guest::new()
        .answers(Hook::Grant, json!("abstain"))
        .answers(Hook::Refresh, json!("abstain"))
        .answers(Hook::Client, json!("abstain"))
        .answers(Hook::Credential, json!("abstain"));
    let (mut wanted, modules) = settings(vec![bind("one", &abstains)]);
    for (when, passes) in [(WhenAllAbstain::Deny, false), (WhenAllAbstain::Allow, true)] {
        wanted.when_all_abstain = when;
        let set = PolicySet::load(&wanted, &[], super::scene::engine(), &modules, None, 1).unwrap();
        assert_eq!(decide(&set).is_ok(), passes);
        assert_eq!(refresh(&set, &refreshing(&[])).is_ok(), passes);
        assert_eq!(register(&set, METADATA, &|_| Ok(())).is_ok(), passes);
        assert_eq!(release(&set).is_ok(), passes);
    }
}

#[test]
fn an_answer_about_authority_that_is_none_fails() {
    for fields in [
        json!({ "access-ttl-s": 0 }),
        json!({ "scopes": ["a b"] }),
        json!({ "scopes": [""] }),
        json!({ "tools": [""] }),
        json!({ "tools": ["read"] }),
        json!({ "claims": "[]" }),
        json!({ "claims": "{" }),
        json!({ "claims": r#"{"sub":"somebody"}"# }),
        json!({ "claims": r#"{"Scope":"admin"}"# }),
        json!({ "claims": r#"{"groups":["admin"]}"# }),
        json!({ "claims": r#"{"portcullis_x":1}"# }),
        json!({ "claims": r#"{"":1}"# }),
        json!({ "claims": format!(r#"{{"a":"{}"}}"#, "x".repeat(5000)) }),
        json!({ "notes": vec![json!({ "key": "k", "value": "v" }); 33] }),
    ] {
        assert_eq!(told(&decide(&one(&grants(&fields))).unwrap_err()), "one failed: invalid-answer", "{fields}");
    }
}

#[test]
fn a_policy_sees_who_asks_for_what() {
    for (path, seen) in [
        (vec!["request", "client", "id"], "https://client.example/metadata"),
        (vec!["request", "client", "redirect-host"], "client.example"),
        (vec!["request", "client", "metadata"], r#"{"client_name":"Client"}"#),
        (vec!["context", "caller", "subject"], "ci"),
    ] {
        let set = one(&echo(Hook::Grant, &path, false));
        assert_eq!(told(&decide(&set).unwrap_err()), format!("one denied: echo {seen}"), "{path:?}");
    }
}

fn refreshing(requested: &[&str]) -> RefreshRequest {
    RefreshRequest {
        granted: GrantTerms {
            scopes: texts(&["read", "write"]),
            tools: ToolScope(vec![vec![Glob::parse("notes/*").unwrap()]]),
            access_ttl: Duration::from_secs(300),
            refresh_ttl: Some(Duration::from_secs(1000)),
            require_sender_constraint: true,
            claims: [("a".to_owned(), raw("1".to_owned())), ("b".to_owned(), raw("1".to_owned()))].into(),
            notes: Vec::new(),
        },
        upstreams: vec![notes()],
        issued_at: Timestamp::from_millis(1_000_000),
        last_used: Timestamp::from_millis(2_000_000),
        uses: 3,
        requested: texts(requested),
        reuse_detected: false,
    }
}

fn refresh(set: &PolicySet, request: &RefreshRequest) -> Result<GrantTerms, Refusal> {
    let caller = caller();
    now(set.check_refresh(&context(&caller), request, CAPS)).0
}

#[test]
fn a_refresh_renews_what_was_granted_and_no_more() {
    let nothing = load(Vec::new());
    assert_eq!(refresh(&nothing, &refreshing(&[])).unwrap(), refreshing(&[]).granted);
    assert_eq!(refresh(&nothing, &refreshing(&["write", "admin"])).unwrap().scopes, ["write"]);
    let fields = json!({
        "scopes": ["read", "write", "admin"], "tools": ["*"], "access-ttl-s": 100_000, "refresh-ttl-s": 500,
        "claims": r#"{"b":2,"c":2}"#,
    });
    let renews = Guest::new().answers(Hook::Refresh, json!({ "allow": terms(&fields) }));
    let terms = refresh(&one(&renews), &refreshing(&[])).unwrap();
    assert_eq!(terms.scopes, ["read", "write"]);
    assert!(terms.require_sender_constraint);
    assert_eq!((terms.access_ttl, terms.refresh_ttl), (Duration::from_secs(300), Some(Duration::from_secs(500))));
    assert!(!terms.tools.permits(&UpstreamName::parse("tracker").unwrap(), "read"), "what was narrowed stays so");
    assert_eq!(terms.claims_object().get(), r#"{"a":1,"b":2,"c":2}"#);
    let denies = Guest::new().answers(Hook::Refresh, deny("no"));
    assert_eq!(told(&refresh(&one(&denies), &refreshing(&[])).unwrap_err()), "one denied: no No.");
}

const METADATA: &str = r#"{"client_name":"Client","redirect_uris":["https://a.example/cb","https://b.example/cb"],"scope":"read write","software_id":"s","grant_types":["authorization_code"]}"#;

fn register(
    set: &PolicySet,
    metadata: &str,
    accept: &(dyn Fn(&serde_json::value::RawValue) -> Result<(), String> + Sync),
) -> Result<String, String> {
    let caller = caller();
    let request = ClientRequest { source: ClientSource::Dynamic, metadata: raw(metadata.to_owned()) };
    match now(set.check_client(&context(&caller), &request, accept)).0 {
        Ok(metadata) => Ok(metadata.get().to_owned()),
        Err(refusal) => Err(told(&refusal)),
    }
}

fn edits(edits: &Value) -> Guest {
    Guest::new().answers(Hook::Client, json!({ "allow": edits })).mutates(Hook::Client)
}

fn edit(pointer: &str, op: &Value) -> Value {
    json!({ "pointer": pointer, "op": op })
}

#[test]
fn registration_edits_metadata_within_what_was_asked() {
    let accept = |_: &serde_json::value::RawValue| Ok(());
    assert_eq!(register(&load(Vec::new()), METADATA, &accept).unwrap(), METADATA);
    assert_eq!(register(&one(&edits(&json!([]))), METADATA, &accept).unwrap(), METADATA);
    let set = load(vec![
        bind(
            "one",
            &edits(&json!([edit("/redirect_uris/1", &json!("remove")), edit("/scope", &json!({ "set": "\"read\"" }))])),
        ),
        bind("two", &echo(Hook::Client, &["request", "metadata"], false)),
    ]);
    let narrowed = r#"{"client_name":"Client","redirect_uris":["https://a.example/cb"],"scope":"read","software_id":"s","grant_types":["authorization_code"]}"#;
    assert_eq!(register(&set, METADATA, &accept).unwrap_err(), format!("two denied: echo {narrowed}"));
    for (op, pointer) in [
        (json!({ "set": "\"https://evil.example/cb\"" }), "/redirect_uris/-"),
        (json!("remove"), "/redirect_uris"),
        (json!({ "set": "\"read write admin\"" }), "/scope"),
        (json!("remove"), "/scope"),
        (json!({ "set": "\"implicit\"" }), "/grant_types/-"),
        (json!({ "set": "\"x\"" }), "/client_id"),
        (json!({ "set": "\"https://evil.example/jwks\"" }), "/jwks_uri"),
        (json!({ "set": "[]" }), ""),
        (json!("remove"), ""),
        (json!("remove"), "/none"),
    ] {
        let set = one(&edits(&json!([edit(pointer, &op)])));
        assert_eq!(register(&set, METADATA, &accept).unwrap_err(), "one failed: invalid-answer", "{pointer} {op}");
    }
    let edited = edits(&json!([edit("/client_name", &json!({ "set": "\"Other\"" }))]));
    assert!(register(&one(&edited), METADATA, &accept).unwrap().contains("Other"));
    let refuses = |_: &serde_json::value::RawValue| Err("no such name".to_owned());
    assert_eq!(register(&one(&edited), METADATA, &refuses).unwrap_err(), "one failed: invalid-answer");
    let undeclared = edited.manifest("mutates", json!([]));
    assert_eq!(register(&one(&undeclared), METADATA, &accept).unwrap_err(), "one failed: invalid-answer");
}

fn release(set: &PolicySet) -> Result<(Vec<String>, Option<u64>), String> {
    let caller = caller();
    let request = CredentialRequest {
        upstream: notes(),
        kind: CredentialKind::PerUserOauth,
        account: Some("ada@example.com".to_owned()),
        purpose: CredentialPurpose::Call,
        tool: Some("add".to_owned()),
        scopes: texts(&["repo", "user"]),
    };
    match now(set.check_credential(&context(&caller), &request)).0 {
        Ok(terms) => Ok((terms.scopes, terms.max_age.map(|age| age.as_secs()))),
        Err(refusal) => Err(told(&refusal)),
    }
}

#[test]
fn a_credential_is_released_on_narrower_terms_or_not() {
    let releases = |scopes: Value, max_age: Value| {
        Guest::new().answers(Hook::Credential, json!({ "release": { "scopes": scopes, "max-age-s": max_age } }))
    };
    assert_eq!(release(&load(Vec::new())).unwrap(), (texts(&["repo", "user"]), None));
    let set = load(vec![
        bind("one", &releases(json!(["repo", "admin"]), json!(600))),
        bind("two", &releases(json!(["repo", "user"]), json!(60))),
        bind("three", &releases(json!(["repo"]), json!(null))),
    ]);
    assert_eq!(release(&set).unwrap(), (texts(&["repo"]), Some(60)));
    let denies = Guest::new().answers(Hook::Credential, deny("no"));
    assert_eq!(release(&one(&denies)).unwrap_err(), "one denied: no No.");
    for (path, optional, seen) in [
        (vec!["request", "kind"], false, "per-user-oauth"),
        (vec!["request", "purpose"], false, "call"),
        (vec!["request", "tool"], true, "add"),
        (vec!["request", "account"], true, "ada@example.com"),
        (vec!["request", "upstream", "id"], false, "notes"),
    ] {
        let set = one(&echo(Hook::Credential, &path, optional));
        assert_eq!(release(&set).unwrap_err(), format!("one denied: echo {seen}"), "{path:?}");
    }
}
