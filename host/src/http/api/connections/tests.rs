//! Who connects again for whom, and what is told of a connection.

use serde_json::Value;

use super::links::{Unable, reauthorises};
use super::view::view;
use super::*;
use crate::connection::{Credential, Place, State as Condition};
use crate::env::Timestamp;
use crate::secret::Sealed;

fn connection(holder: &str) -> Connection {
    Connection {
        id: ConnectionId::parse(&"0a".repeat(12)).unwrap(),
        place: Place { holder: Holder::parse(holder).unwrap(), upstream: UpstreamName::parse("notes").unwrap() },
        revision: 1,
        given: 1,
        origin: None,
        credential: Credential::Headers { names: vec!["x-a".to_owned()], values: Sealed::from_bytes(*b"v") },
        state: Condition::Connected,
        orphaned_since: None,
        created: Timestamp::default(),
        stored: Timestamp::default(),
    }
}

#[test]
fn an_operator_connects_again_for_the_gateway_and_for_keys_and_for_nobody_else() {
    let of = |holder: &str, standing| reauthorises(&connection(holder), standing).map(|who| who.to_string());
    for standing in [Standing::Active, Standing::NeedsReauth, Standing::NeedsUpdate] {
        for (holder, expected) in [("shared", "gateway"), ("gateway", "gateway"), ("key:ci", "key:ci")] {
            assert_eq!(of(holder, standing).as_deref(), Ok(expected), "{standing}");
        }
    }
    let person = format!("user:{}", "0b".repeat(12));
    for standing in [Standing::Active, Standing::Orphaned, Standing::Unused] {
        assert_eq!(of(&person, standing), Err(Unable::NotForOperators), "{standing}");
    }
    assert_eq!(of("key:ci", Standing::Orphaned), Err(Unable::Orphaned));
    assert_eq!(of("shared", Standing::Unused), Err(Unable::Unused));
}

#[test]
fn what_is_shown_says_how_it_stands_and_what_can_be_done() {
    let since = Timestamp::from_millis(7);
    let marked = Condition::NeedsUpdate { missing: vec!["x-b".to_owned()], since };
    let marked = Connection { state: marked, ..connection("key:ci") };
    let missing = vec!["x-b".to_owned()];
    let shown = json!(view(&marked, &Stands { standing: Standing::NeedsUpdate, reason: None, missing }));
    assert_eq!((&shown["state"], &shown["missing"]), (&json!("needs_update"), &json!(["x-b"])));
    assert_eq!((&shown["can_reauthorise"], &shown["cannot_reauthorise"]), (&json!(true), &Value::Null));
    let active = Stands { standing: Standing::Active, reason: None, missing: Vec::new() };
    let shown = json!(view(&marked, &active));
    assert_eq!((&shown["missing"], &shown["failed_since"]), (&Value::Null, &Value::Null), "it is asked for no more");
    let orphaned = Stands { standing: Standing::Orphaned, ..active };
    let shown = json!(view(&connection("key:ci"), &orphaned));
    assert_eq!((&shown["can_reauthorise"], &shown["cannot_reauthorise"]), (&json!(false), &json!("orphaned")));
}
