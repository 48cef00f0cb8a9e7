//! Whether the document is the table of routes, says all that handlers can answer, and is what stands in `docs/openapi`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::ROUTES;
use super::*;
use crate::admin::pins::PinView;
use crate::audit::{RecordedMode, RecordedOutcome, RecordedVerdict};
use crate::authorization::clients::operators::Origin;
use crate::config::Mode;
use crate::connection::Standing;
use crate::connection::flow::Stage;
use crate::identity::user::{Role, Status};
use crate::ids::UpstreamName;
use crate::pipeline::access::{Extent, Line};
use crate::store::revocations::PrincipalKind;
use crate::store::{approvals, grants};

fn described() -> Value {
    serde_json::from_str(text()).unwrap()
}

/// Operations by method and path.
fn by_row(document: &Value) -> BTreeMap<(String, String), &Value> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| ((method.to_uppercase(), path.clone()), operation))
    });
    operations.collect()
}

/// What a reference leads to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

#[test]
fn rows_and_operations_are_the_same() {
    let document = described();
    let said: BTreeSet<(String, String)> = by_row(&document).into_keys().collect();
    let rows = ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned()));
    assert_eq!(said, rows.collect());
    assert_eq!(operations().len(), ROUTES.len(), "one of each");
}

#[test]
fn an_operation_says_what_its_handler_can_answer() {
    let document = described();
    let mut ids = BTreeSet::new();
    for ((method, path), operation) in by_row(&document) {
        let what = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{what}: there is another of this id");
        let summary = operation["summary"].as_str().unwrap();
        assert!(summary.ends_with('.') && !summary.ends_with(".."), "{what}: {summary}");
        assert_eq!(operation["security"], serde_json::json!([{ "bearer": [] }]), "{what}");
        let tag = operation["tags"][0].as_str().unwrap();
        assert!(AREAS.iter().any(|(name, _)| *name == tag), "{what}: nothing is said of {tag}");

        let mut expected = vec![400, 401, 403, 429, 503];
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        for parameter in parameters {
            match parameter["in"].as_str().unwrap() {
                "path" => expected.push(404),
                "header" if parameter["name"] == "If-Match" => expected.push(412),
                _ => {}
            }
        }
        if !operation["requestBody"].is_null() {
            expected.extend([408, 413, 415, 422]);
        }
        let responses = operation["responses"].as_object().unwrap();
        for status in expected {
            let response = resolved(&document, &responses[&status.to_string()]);
            let content = &response["content"]["application/problem+json"]["schema"];
            assert!(content.is_object(), "{what}: {status}");
        }
        assert!(responses.keys().any(|status| status.starts_with('2')), "{what}");
    }
}

#[test]
fn the_document_in_the_repository_is_this_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi/admin.json");
    let is_same = fs::read_to_string(file).unwrap_or_default() == text();
    assert!(is_same, "renew it: cargo run -- openapi > docs/openapi/admin.json");
}

#[test]
fn a_name_of_a_schema_means_one_thing_and_every_reference_leads_somewhere() {
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    for (name, schema) in operations().into_iter().flat_map(|operation| operation.schemas) {
        let schema = serde_json::to_value(schema).unwrap();
        let before = known.entry(name.clone()).or_insert_with(|| schema.clone());
        assert_eq!(*before, schema, "{name} is said twice");
    }
    let document = described();
    for reference in references(&document) {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(members) => {
            let own = members.get("$ref").and_then(Value::as_str);
            own.into_iter().chain(members.values().flat_map(references)).collect()
        }
        Value::Array(values) => values.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// Statuses and codes of all problems that there are.
fn codes() -> BTreeSet<(u16, String)> {
    let document = described();
    let mut told: BTreeSet<(u16, String)> = BTreeSet::new();
    for operation in by_row(&document).into_values() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolved(&document, response);
            let codes = response.pointer("/content/application~1problem+json/schema/allOf/1/properties/code/enum");
            let codes = codes.and_then(Value::as_array).into_iter().flatten();
            told.extend(codes.map(|code| (status.parse().unwrap(), code.as_str().unwrap().to_owned())));
        }
    }
    // Whatever is no operation is answered so.
    told.insert((405, "method_not_allowed".to_owned()));
    told
}

#[test]
fn every_code_of_a_problem_is_explained_and_no_other() {
    let page = include_str!("../../../../../docs/api.md");
    let (_, section) = page.split_once("## Errors").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let mut explained: BTreeSet<(u16, String)> = BTreeSet::new();
    for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        let [code, statuses, meaning, remedy] = cells[..] else { panic!("{row}: it has other columns") };
        assert!(!meaning.is_empty() && !remedy.is_empty(), "{row}");
        for status in statuses.split(", ") {
            let is_new = explained.insert((status.parse().unwrap(), code.trim_end_matches('`').to_owned()));
            assert!(is_new, "{row}: it stands there twice");
        }
    }
    let codes = codes();
    let missing: Vec<_> = codes.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/api.md lacks {missing:?}");
    let strange: Vec<_> = explained.difference(&codes).collect();
    assert!(strange.is_empty(), "docs/api.md has what is not answered: {strange:?}");
}

#[test]
fn every_code_of_a_problem_is_in_the_document() {
    let told = codes();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/api");
    let mut found = 0;
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        for (status, code) in source.split("StatusCode::").skip(1).filter_map(problem_in) {
            let status = status_called(status).unwrap_or_else(|| panic!("{}: {status}", file.display()));
            assert!(told.contains(&(status, code.to_owned())), "{}: {status} {code}", file.display());
            found += 1;
        }
    }
    assert!(found > 40, "{found} codes: are they written in another way now?");
}

/// The name of a status and a code, where one stands behind the other.
fn problem_in(text: &str) -> Option<(&str, &str)> {
    let (status, rest) = text.split_once(',')?;
    let (code, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    (is_name(status) && is_name(code)).then_some((status, code))
}

/// The status of which `StatusCode` has this constant.
fn status_called(name: &str) -> Option<u16> {
    (400..600).find(|status| {
        let reason = StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
        reason.is_some_and(|reason| reason.to_uppercase().replace([' ', '-'], "_") == name)
    })
}

#[test]
fn words_are_those_that_are_read() {
    let all = |words: &[&str], is_read: &dyn Fn(&str) -> bool| {
        for word in words {
            assert!(is_read(word), "{word}");
        }
    };
    all(words::RoleWord::ALL, &|word| Role::parse(word).is_some());
    all(words::UserStatusWord::ALL, &|word| Status::parse(word).is_some());
    all(words::GrantStateWord::ALL, &|word| grants::State::parse(word).is_some());
    all(words::ClientOriginWord::ALL, &|word| Origin::parse(word).is_some());
    all(words::PrincipalKindWord::ALL, &|word| PrincipalKind::parse(word).is_some());
    all(words::ConnectionStateWord::ALL, &|word| Standing::parse(word).is_some());
    all(words::FlowStageWord::ALL, &|word| Stage::parse(word).is_some());
    all(words::ApprovalStateWord::ALL, &|word| approvals::Standing::parse(word).is_some());
    all(words::VerdictWord::ALL, &|word| RecordedVerdict::parse(word).is_some());
    all(words::ModeWord::ALL, &|word| RecordedMode::parse(word).is_some());
    assert_eq!(words::BindingModeWord::ALL, Mode::ALL.iter().map(|mode| mode.as_str()).collect::<Vec<_>>());
    all(words::OutcomeWord::ALL, &|word| RecordedOutcome::parse(word).is_some());
    assert_eq!(words::ExtentWord::ALL, [Extent::None, Extent::Some, Extent::All].map(Extent::as_str));
    let lines = [Line::Own(0), Line::OfAllKeys, Line::NoPattern, Line::NoLine];
    assert_eq!(words::ReachedByWord::ALL, lines.map(Line::as_str));
    let view = |pinned: bool, offered: Option<&str>| {
        let pin = crate::store::pins::Pin {
            tool: "a".to_owned(),
            digest: "1".to_owned(),
            first_pinned: crate::env::Timestamp::default(),
            accepted: crate::env::Timestamp::default(),
            by: crate::audit::Actor::System,
        };
        let view = PinView {
            upstream: UpstreamName::parse("notes").unwrap(),
            tool: "a".to_owned(),
            pinned: pinned.then_some(pin),
            offered: offered.map(str::to_owned),
        };
        view.standing()
    };
    let standings = [view(true, Some("1")), view(true, Some("2")), view(false, Some("1")), view(true, None)];
    assert_eq!(words::PinStateWord::ALL, standings);
}
